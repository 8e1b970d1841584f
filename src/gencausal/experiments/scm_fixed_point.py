r"""condfip.E5: the conditional fixed point needs no contraction. Steps until nothing changes, bit for bit, the counter-examples, and what does grow: the error along paths.

    Jacobian of T inside the graph (Eq. triangular)  =>  z^{L+1} = z^{L+2} for any start and any weights                `Eq. termination`
    Lipschitz constant of the map from noise to data, by its largest singular value at rows of data: (I - J)^{-1}        `Eq. propagation`
"""

import numpy as np
import torch

from gencausal import seeding
from gencausal.cond_fip import CondFiP, fixed_point, steps_needed
from gencausal.data import scm_graphs
from gencausal.data.scm_cells import Cell


@torch.no_grad()
def termination(network: CondFiP, cell: Cell, rows: int = 100) -> list[dict]:
    """E5 (b, c): per SCM the steps after which nothing changes (from three starts), the longest path, and the change in the step after L + 1, which is exactly 0."""
    made = []
    for s in range(len(cell)):
        graph, noise_u = cell.adjacency[s : s + 1], cell.query_noise[s : s + 1, :rows]
        condition = network.condition(cell.context[s : s + 1], graph)
        mechanism = lambda z, c=condition: network.mechanism(z, c)  # noqa: E731
        steps, ends = steps_needed(graph), []
        far = 1e3 * torch.randn(noise_u.shape, generator=seeding.generator(s, "far"))
        for name, start in (("noise", noise_u), ("zero", torch.zeros_like(noise_u)), ("far", far)):
            path = [fixed_point(mechanism, noise_u, 0, start=start)]
            for _ in range(steps + 1):
                path.append(mechanism(path[-1]) + noise_u)
            same = [torch.equal(a, path[-1]) for a in path]
            ends.append(path[-1])
            made.append({"unit": s, "start": name, "longest_path": steps - 1, "steps": same.index(True), "change_after": (path[-1] - path[-2]).abs().max().item()})
        assert all(torch.equal(ends[0], end) for end in ends), "the limit depends on the start"
    return made


def leak(network: CondFiP, cell: Cell, rows: int = 8) -> float:
    """E5 (a): the largest absolute entry of the Jacobian of T outside the graph, over `rows` rows of every SCM; exactly 0."""
    condition = network.condition(cell.context, cell.adjacency)
    worst = 0.0
    for i in range(rows):
        slope = torch.autograd.functional.jacobian(lambda z: network.mechanism(z[:, None], condition)[:, 0].sum(0), cell.query[:, i]).permute(1, 0, 2)  # [S, child, parent]
        worst = max(worst, slope.masked_fill(cell.adjacency.mT, 0).abs().max().item())
    return worst


@torch.no_grad()
def counter_examples(network: CondFiP, cell: Cell, steps: int = 30) -> dict[str, np.ndarray]:
    """E5 (d): change in each of `steps` steps (largest entry over SCMs), with the graph, with a diagonal added, with a full mask."""
    found = {}
    full = torch.ones_like(cell.adjacency)
    for name, graph in (("graph", cell.adjacency), ("diagonal", cell.adjacency | torch.eye(cell.d, dtype=torch.bool)), ("no mask", full)):
        condition = network.condition(cell.context, graph)
        z, changes = cell.query_noise, []
        for _ in range(steps):
            after = network.mechanism(z, condition) + cell.query_noise
            changes.append((after - z).abs().max().item())
            z = after
        found[name] = np.array(changes)
    return found


@torch.no_grad()
def error_by_depth(network: CondFiP, cell: Cell) -> dict[int, tuple[float, float]]:
    """E5 (e): by the depth of a node, mean absolute error of T at true parents, and of the generated value, whose parents are generated too."""
    condition = network.condition(cell.context, cell.adjacency)
    mechanism = lambda z: network.mechanism(z, condition)  # noqa: E731
    local = (mechanism(cell.query) - (cell.query - cell.query_noise)).abs().mean(1)
    made = (fixed_point(mechanism, cell.query_noise, steps_needed(cell.adjacency)) - cell.query).abs().mean(1)
    depth = scm_graphs.longest_path(cell.adjacency)
    return {k: (local[depth == k].mean().item(), made[depth == k].mean().item()) for k in range(int(depth.max()) + 1)}


def propagation(network: CondFiP, cell: Cell, rows: int = 5) -> np.ndarray:
    """`Eq. propagation` of every SCM, [S], mean over `rows` rows."""
    condition, found = network.condition(cell.context, cell.adjacency), []
    for i in range(rows):
        slope = torch.autograd.functional.jacobian(lambda z: network.mechanism(z[:, None], condition)[:, 0].sum(0), cell.query[:, i]).permute(1, 0, 2)
        found.append(torch.linalg.matrix_norm(torch.linalg.inv(torch.eye(cell.d) - slope), 2))
    return torch.stack(found).mean(0).numpy()
