"""Seconds of one training step of VCI's gene networks and peak memory: python benchmarks/vci_gene_step.py [threads] [steps] [--plain]. Writes CSV to standard output.

The shape is that of the public default: 2,013 genes, 70 treatments, covariates [2, 2, 2], batch 64, 30 draws, 20 matches, weights 1, 1.7, 0.1; values are synthetic, as time does not depend on them. The public code takes
0.187 s a step on two threads. Median after two warm-up steps, drawing, loss, gradient, AdamW and averaged weights included, through `cell_models.stack` and `training`.

--plain: beside it, in one run and in turns, the reference formula: log density over the heads of all draws at once, matches gathered cell by cell, torch.optim.AdamW; also the relative difference of the two losses.

Memory that a step frees is asked for anew in the next, and the system's zeroing of its pages can cost half of the time: the program starts itself again with glibc told to keep it (MALLOC_MMAP_THRESHOLD_ and
MALLOC_TRIM_THRESHOLD_, unless they are set already).
"""

import copy
import os
import resource
import statistics
import sys
import time

KEEP = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_TOP_PAD_": str(2**28)}
plain = "--plain" in sys.argv
numbers = [int(argument) for argument in sys.argv[1:] if not argument.startswith("-")]
threads, steps = (*numbers, *(2, 30)[len(numbers):])
if __name__ == "__main__" and (missing := {name: value for name, value in KEEP.items() if name not in os.environ}):
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | missing)
os.environ["OMP_NUM_THREADS"] = str(threads)

import numpy as np  # noqa: E402
import torch  # noqa: E402

from gencausal import seeding, training  # noqa: E402
from gencausal.cell_models import stack  # noqa: E402
from gencausal.data.cell_table import CellTable  # noqa: E402
from gencausal.vci import objective  # noqa: E402

GENES, TREATMENTS, BLOCKS, CELLS, MATCHES = 2013, 70, (2, 2, 2), 6000, 20
CONFIG = stack.Config(rounds=10**6, batch=64, draws=30, matches=MATCHES)


def table() -> CellTable:
    """Random cells of the public shape."""
    rng = seeding.numpy_generator(0, "vci gene step")
    levels = rng.integers(2, size=(CELLS, len(BLOCKS)))
    condition, stratum = rng.integers(TREATMENTS, size=CELLS), levels @ (4, 2, 1)
    one_hot = np.eye(TREATMENTS, dtype=np.float32)
    codes = np.array([[x >> 2 & 1, x >> 1 & 1, x & 1] for x in range(8)])
    covariates = np.eye(2, dtype=np.float32)[codes].reshape(8, 6)
    names = tuple(map(str, range(TREATMENTS)))
    outcome = rng.gamma(0.5, 1.0, (CELLS, GENES)).astype(np.float32)
    return CellTable("made", "all", outcome, tuple(map(str, range(GENES))), one_hot[condition], names, condition, names, one_hot, 0, covariates[stratum], BLOCKS, stratum, tuple(map(str, range(8))), covariates,
                     np.arange(CELLS), np.arange(0))


def plain_terms(networks, batch: objective.Batch, matched: list[torch.Tensor], weights: torch.Tensor) -> torch.Tensor:
    """The loss by its definition, everything in memory: heads [S, M, B, 2 G], and matched cells [m, G] of every cell."""
    mean, scale = networks.encode(batch.outcome, batch.treatment, batch.covariates)
    latents = mean[:, None] + scale[:, None] * batch.eps
    M, B = latents.shape[1] - 1, latents.shape[2]
    heads = networks.decode(latents[:, :M].flatten(1, 2), batch.treatment[:, None].expand(-1, M, -1, -1).flatten(1, 2)).unflatten(1, (M, B))
    loss = weights[0] * -objective.log_likelihood("normal", heads, batch.outcome[:, None]).mean((1, 2, 3))
    outcome_cf = networks.decode(latents[:, M], batch.treatment_cf)[..., :GENES]
    parts = [-torch.distributions.Normal(outcome_cf[0, i], 1.0, validate_args=False).log_prob(cells).mean() for i, cells in enumerate(matched) if len(cells)]
    again = networks.encode(outcome_cf, batch.treatment_cf, batch.covariates)
    return (loss + weights[1] * torch.stack(parts).mean() + weights[2] * objective.divergence(mean, scale, *again).mean(-1)).sum()


def main() -> None:
    torch.set_num_threads(threads)
    device, data, members = torch.device("cpu"), table(), [stack.Member(0, stack.WEIGHTS["vci"], 0)]
    cells, networks = stack.Cells([data], [(0, 0)], CONFIG, device), stack.make([data], members, CONFIG, device)
    weights = torch.tensor([*stack.WEIGHTS["vci"]])[:, None]
    batches = []

    def loss() -> dict[str, torch.Tensor]:
        batches[:] = [cells.draw(CONFIG.latent)]
        return objective.terms(networks, batches[0], weights)

    player = training.Player(networks, loss, CONFIG.lr, betas=(0.9, 0.999), weight_decay=CONFIG.weight_decay, average=CONFIG.average, clip=CONFIG.clip)
    optimiser, averaged = player.optimiser(), copy.deepcopy(networks).requires_grad_(False)

    def ours(step: int) -> float:
        terms = training._update("vci", player, optimiser, 1.0, step, 0)
        training._average(averaged, networks, CONFIG.average)
        return sum(float(v) for v in terms.values())

    reference = copy.deepcopy(networks)
    other = torch.optim.AdamW([p for p in reference.parameters() if p.requires_grad], CONFIG.lr, weight_decay=CONFIG.weight_decay)
    rng = seeding.numpy_generator(0, "plain matches")

    def public(step: int) -> float:
        batch = cells.draw(CONFIG.latent)
        outcome = torch.as_tensor(data.outcome)
        groups = [data.rows(x, k) for x, k in zip((batch.covariates[0] @ torch.tensor([0.0, 4, 0, 2, 0, 1])).long().tolist(), batch.treatment_cf[0].argmax(-1).tolist())]
        matched = [outcome[rng.choice(rows, min(MATCHES, len(rows)))] if len(rows) else outcome[:0] for rows in groups]
        value = plain_terms(reference, batch, matched, weights)
        other.zero_grad()
        value.backward()
        other.step()
        return float(value.detach())

    check = objective.terms(networks, batch := stack.Cells([data], [(0, 1)], stack.Config(draws=30, matches=stack.EVERY_MATCH), device).draw(CONFIG.latent), weights) if plain else None
    if plain:
        groups = [data.rows(x, k) for x, k in zip((batch.covariates[0] @ torch.tensor([0.0, 4, 0, 2, 0, 1])).long().tolist(), batch.treatment_cf[0].argmax(-1).tolist())]
        value = float(plain_terms(networks, batch, [torch.as_tensor(data.outcome[rows]) for rows in groups], weights).detach())
        difference = abs(sum(float(v.detach()) for v in check.values()) - value) / abs(value)
    seconds = {name: [] for name in ("gencausal", *(("plain",) if plain else ()))}
    peak = {}
    for step in range(2 + steps):
        for name in seconds:
            clock, cpu = time.perf_counter(), time.process_time()
            (ours if name == "gencausal" else public)(step)
            if step > 1:
                seconds[name].append((time.perf_counter() - clock, time.process_time() - cpu))
            if step == 0:
                peak[name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("code,threads,steps,median_seconds,min_seconds,median_cpu_seconds,peak_mib" + (",ratio_to_plain,relative_difference_of_losses" if plain else ""))
    for name, values in seconds.items():
        wall, cpu = zip(*values)
        rest = f",{statistics.median(wall) / statistics.median(v for v, _ in seconds['plain']):.3f},{difference:.1e}" if plain else ""
        print(f"{name},{threads},{steps},{statistics.median(wall):.4f},{min(wall):.4f},{statistics.median(cpu):.4f},{peak[name]:.0f}{rest}")


if __name__ == "__main__":
    main()
