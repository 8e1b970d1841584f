r"""condfip.E5: the conditional fixed point needs no contraction. Steps until nothing changes, bit for bit, the counter-examples, and what does grow: the error along paths.

    Jacobian of T inside the graph (Eq. triangular)  =>  z^{L+1} = z^{L+2} for any start and any weights                `Eq. termination`
    Lipschitz constant of the map from noise to data, by its largest singular value at rows of data: (I - J)^{-1}        `Eq. propagation`
"""

import numpy as np
import pandas as pd
import torch

from gencausal import seeding
from gencausal.cond_fip import CondFiP, fixed_point, steps_needed
from gencausal.data import scm_graphs
from gencausal.data.scm_cells import Cell


def _beside(cell: Cell, network: CondFiP) -> Cell:
    """The cell on the network's device."""
    return cell.to(next(network.parameters()).device)


@torch.no_grad()
def termination(network: CondFiP, cell: Cell, rows: int = 100) -> list[dict]:
    """E5 (b, c): per SCM and start (noise, zero, far) the steps after which nothing changes, the longest path, the change in the step after L + 1 and the gap to where the iteration from the noise ends; both exactly 0."""
    made, cell = [], _beside(cell, network)
    for s in range(len(cell)):
        graph, noise_u = cell.adjacency[s : s + 1], cell.query_noise[s : s + 1, :rows]
        condition = network.condition(cell.context[s : s + 1], graph)
        mechanism = lambda z, c=condition: network.mechanism(z, c)  # noqa: E731
        steps, ends = steps_needed(graph), []
        far = 1e3 * torch.randn(noise_u.shape, generator=seeding.generator(s, "far")).to(noise_u)
        for name, start in (("noise", noise_u), ("zero", torch.zeros_like(noise_u)), ("far", far)):
            path = [fixed_point(mechanism, noise_u, 0, start=start)]
            for _ in range(steps + 1):
                path.append(mechanism(path[-1]) + noise_u)
            same = [torch.equal(a, path[-1]) for a in path]
            ends.append(path[-1])
            made.append({"unit": s, "start": name, "longest_path": steps - 1, "steps": same.index(True), "change_after": (path[-1] - path[-2]).abs().max().item(), "start_gap": (path[-1] - ends[0]).abs().max().item()})
    return made


def slopes(network: CondFiP, cell: Cell, rows: int) -> torch.Tensor:
    """Jacobians of T at the first `rows` query rows of every SCM, [rows, S, child, parent]."""
    cell = _beside(cell, network)
    condition = network.condition(cell.context, cell.adjacency)
    at = lambda z: network.mechanism(z[:, None], condition)[:, 0].sum(0)  # noqa: E731
    return torch.stack([torch.autograd.functional.jacobian(at, cell.query[:, i]).permute(1, 0, 2) for i in range(rows)]).cpu()


def leak(network: CondFiP, cell: Cell, rows: int = 8) -> np.ndarray:
    """E5 (a): of every SCM the largest absolute entry of the Jacobian of T outside the graph, [S], over `rows` rows; exactly 0."""
    return slopes(network, cell, rows).masked_fill(cell.adjacency.mT, 0).abs().amax((0, 2, 3)).numpy()


@torch.no_grad()
def counter_examples(network: CondFiP, cell: Cell, steps: int = 30) -> dict[str, np.ndarray]:
    """E5 (d): change in each of `steps` steps (largest entry over SCMs), with the graph, with a diagonal added, with a full mask."""
    found, cell = {}, _beside(cell, network)
    full = torch.ones_like(cell.adjacency)
    for name, graph in (("graph", cell.adjacency), ("diagonal", cell.adjacency | torch.eye(cell.d, dtype=torch.bool, device=cell.adjacency.device)), ("no mask", full)):
        condition = network.condition(cell.context, graph)
        z, changes = cell.query_noise, []
        for _ in range(steps):
            after = network.mechanism(z, condition) + cell.query_noise
            changes.append((after - z).abs().max().item())
            z = after
        found[name] = np.array(changes)
    return found


@torch.no_grad()
def error_by_depth(network: CondFiP, cell: Cell) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """E5 (e): by the depth of a node, mean absolute error of T at true parents, and of the generated value, whose parents are generated too; one number an SCM that has nodes so deep."""
    cell = _beside(cell, network)
    condition = network.condition(cell.context, cell.adjacency)
    mechanism = lambda z: network.mechanism(z, condition)  # noqa: E731
    local = (mechanism(cell.query) - (cell.query - cell.query_noise)).abs().mean(1)
    made = (fixed_point(mechanism, cell.query_noise, steps_needed(cell.adjacency)) - cell.query).abs().mean(1)
    depth = scm_graphs.longest_path(cell.adjacency)
    by_model = lambda values, k: values.where(depth == k, torch.nan).nanmean(1)[(depth == k).any(1)].cpu().numpy()  # noqa: E731
    return {k: (by_model(local, k), by_model(made, k)) for k in range(int(depth.max()) + 1)}


def propagation(network: CondFiP, cell: Cell, rows: int = 5) -> np.ndarray:
    """`Eq. propagation` of every SCM, [S], mean over `rows` rows."""
    return torch.linalg.matrix_norm(torch.linalg.inv(torch.eye(cell.d) - slopes(network, cell, rows)), 2).mean(0).numpy()


def exact_rows(network: CondFiP, cell: Cell, method: str, seed: int) -> list[dict]:
    """E5 (a-c) as result rows, one an SCM and metric, the worst over starts and rows: jacobian_outside, change_after, start_gap."""
    ends = pd.DataFrame(termination(network, cell)).groupby("unit")[["change_after", "start_gap"]].max()
    found = {"jacobian_outside": leak(network, cell)} | {name: ends[name].to_numpy() for name in ends}
    return [{"experiment": "condfip.E5", "dataset": cell.name, "unit": str(s), "method": method, "metric": metric, "seed": seed, "value": float(value), "n": cell.query.shape[1]} for metric, values in found.items() for s, value in enumerate(values)]
