"""Seconds and memory of Cond-FiP at the paper's sizes, the pieces of work C1, C3, C10 of the public implementation: python benchmarks/cond_fip.py [piece ...] [--threads 2] [--full-precision]. CSV on standard output.

    C1   encoder training step, 4 data sets, n = 400, d = 20 (there: 19.9 s, 9.1 GiB)     C2   8 data sets, n = 100, d = 10 (2.7 s)
    C3   decoder training step, 200 context and 200 query rows, d = 20 (8.9 s, 5.5 GiB)   C4   8 data sets, 50 + 50 rows, d = 10 (2.3 s)
    C10s the same, each node once, level by level
    C5   a new data set d = 10: the context of 400 rows embedded (0.48 s)                 C10  whole generation of 400 rows, d = 20, the context embedded once (25 s)
    N10  `estimators.CondFiP.infer` on a new table, d = 10, 400 rows, their noise included, over its four reflections
    N10p the same in one pass
    F10  FiP fitted to one data set of as many nodes and rows: what N10 saves
    check   the largest difference between half and full precision, and between the decoder and the plain formula in full precision

Each piece runs in a process of its own, so that its peak memory is its own. Normal data, a random triangular graph with edge probability min(1, 4 / (d - 1)), as there.
"""

import argparse
import resource
import subprocess
import sys
import time

import networkx as nx
import pandas as pd
import torch

from gencausal import amortised, estimators, seeding
from gencausal.cond_fip import REFLECTIONS, CondFiP, fixed_point, levels, losses, steps_needed, sweep
from gencausal.data import scm_cells
from gencausal.scm_models.fip import FiP, FiPConfig
from gencausal.training import Player

PIECES = ("C1", "C2", "C3", "C4", "C5", "C10", "C10s", "N10", "N10p", "F10", "check")
SIZES = amortised.PRESETS["paper"].sizes


def data(B: int, n: int, d: int):
    rng = seeding.generator(0, "benchmark")
    adjacency = torch.rand(B, d, d, generator=rng).lt(min(1, 4 / (d - 1))).triu(1)
    return torch.randn(B, n, d, generator=rng), torch.randn(B, n, d, generator=rng), adjacency


def training_step(B: int, n: int, d: int, stage: str, half: bool):
    """A step as the public one: forward, loss, backward, Adam."""
    model = CondFiP(SIZES, seeding.generator(0, "net"), half, recompute=stage == "encoder" and B * n * d > 16_000)
    (model.decoder if stage == "encoder" else model.encoder).requires_grad_(False)
    x, target, adjacency = data(B, n, d)
    optimiser = Player(model, lambda: {}, 1e-4, stacked=False).optimiser()
    context, query = (x, x[:, :0]) if stage == "encoder" else (x[:, : n // 2], x[:, n // 2 :])

    def step():
        optimiser.zero_grad()
        losses(model, context, target[:, : context.shape[1]], query, target[:, context.shape[1] :], adjacency, stage)[stage].sum().backward()
        optimiser.step()

    return step


@torch.no_grad()
def generation(d: int, half: bool, once: bool = False):
    model = CondFiP(SIZES, seeding.generator(0, "net"), half).requires_grad_(False)
    x, noise_u, adjacency = data(1, 400, d)

    @torch.no_grad()
    def run():
        condition = model.condition(x, adjacency)
        if once:
            return sweep(lambda z, nodes: model.mechanism(z, condition, nodes), noise_u, levels(adjacency))
        return fixed_point(lambda z: model.mechanism(z, condition), noise_u, steps_needed(adjacency))

    return run


def embedding(half: bool):
    model = CondFiP(SIZES, seeding.generator(0, "net"), half).requires_grad_(False)
    x, _, adjacency = data(1, 400, 10)
    return torch.no_grad()(lambda: model.condition(x, adjacency))


def new_table(signs: int):
    cell = scm_cells.cell("rff_in", 10, 400, 1)
    names = [f"x{j}" for j in range(10)]
    table, graph = pd.DataFrame(cell.context[0].double().numpy(), columns=names), nx.relabel_nodes(nx.from_numpy_array(cell.adjacency[0].int().numpy(), create_using=nx.DiGraph), dict(enumerate(names)))
    model = estimators.CondFiP.from_checkpoint()
    return lambda: model.infer(table, graph, signs).residuals


def fitted():
    cell = scm_cells.cell("rff_in", 10, 400, 1)
    return lambda: FiP(FiPConfig(), 0).fit(cell.context, cell.adjacency)


def check():
    """Prints differences, relative to the largest output; `plain` is the decoder written out, as in tests/test_cond_fip.py."""
    sys.path.insert(0, "tests")
    from test_cond_fip import plain_decoder

    model = CondFiP(SIZES, seeding.generator(0, "net")).requires_grad_(False)
    x, z, adjacency = data(1, 60, 10)
    embedded = model.encode(x, adjacency)
    full = model.mechanism(z, model.decoder.condition(embedded, adjacency))
    plain = plain_decoder(model.decoder, z, embedded, adjacency)
    model.half = True
    half = model.mechanism(z, model.condition(x, adjacency))
    size = full.abs().max()
    print(f"plain formula {(full - plain).abs().max() / size:.2e}, half precision {(half - full).abs().max() / size:.2e}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("pieces", nargs="*", default=[])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--full-precision", action="store_true")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.here:
        print("piece,threads,precision,seconds,fastest,peak_mib", flush=True)
        for piece in arguments.pieces or PIECES:
            subprocess.run([sys.executable, __file__, piece, "--here", "--threads", str(arguments.threads), "--repeats", str(arguments.repeats), *["--full-precision"] * arguments.full_precision], check=True)
        return
    torch.set_num_threads(arguments.threads)
    (piece,) = arguments.pieces
    half = not arguments.full_precision and piece not in ("N10", "N10p", "F10")
    if piece == "check":
        return check()
    run = {"C1": lambda: training_step(4, 400, 20, "encoder", half), "C2": lambda: training_step(8, 100, 10, "encoder", half), "C3": lambda: training_step(4, 400, 20, "decoder", half),
           "C4": lambda: training_step(8, 100, 10, "decoder", half), "C5": lambda: embedding(half), "C10": lambda: generation(20, half), "C10s": lambda: generation(20, half, True), "N10": lambda: new_table(REFLECTIONS), "N10p": lambda: new_table(1), "F10": fitted}[piece]()
    run()
    times = []
    for _ in range(arguments.repeats):
        clock = time.perf_counter()
        run()
        times.append(time.perf_counter() - clock)
    print(f"{piece},{arguments.threads},{'bf16' if half else 'fp32'},{sorted(times)[len(times) // 2]:.3f},{min(times):.3f},{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}", flush=True)


if __name__ == "__main__":
    main()
