r"""What follows from an inferred mechanism T: noise, data, interventions, counterfactuals.

    noise      n = x - T(x)                                                                                               `Eq. abduct`
    data       z^0 = n, z^{l+1} = T(z^l) + n, held coordinates overwritten in each step                                   `Eq. fixed-point`

T(z)_j reads the parents of j alone (Eq. triangular), so after l steps every node of depth < l has its final value, whatever z^0 and whatever the weights: step L + 1 (L edges on the longest path) is exact
and step L + 2 returns the same bits. No contraction is needed, and there is nothing to converge.

So only the nodes of depth l are news in step l + 1. `sweep` evaluates each node once, level by level (Eq. levels): the same data, up to rounding, at the cost of one step instead of L + 1.
"""

from collections.abc import Callable

import torch

from gencausal.data.scm_graphs import longest_path

Mechanism = Callable[[torch.Tensor], torch.Tensor]


def steps_needed(adjacency: torch.Tensor) -> int:
    """L + 1 for the deepest of the graphs `[B, d, d]`. Raises InputError for a cycle."""
    return int(longest_path(adjacency).max()) + 1


def fixed_point(mechanism: Mechanism, noise_u: torch.Tensor, steps: int, held: torch.Tensor | None = None, start: torch.Tensor | None = None) -> torch.Tensor:
    """Data [B, m, d] from noise [B, m, d] by `steps` of `Eq. fixed-point`; `held [B, m or 1, d]` as in `data.scms`; start: z^0, the noise where None."""
    hold = (lambda z: z) if held is None else (lambda z: torch.where(held.isnan(), z, held))
    z = hold(noise_u if start is None else start)
    for _ in range(steps):
        z = hold(mechanism(z) + noise_u)
    return z


def levels(adjacency: torch.Tensor) -> list[list[int]]:
    """Nodes by depth, [nodes of depth 0, nodes of depth 1, ...]; of several graphs `[B, d, d]` a level holds the nodes that have this depth in any."""
    depth = longest_path(adjacency)
    return [(depth == k).any(0).nonzero().flatten().tolist() for k in range(int(depth.max()) + 1)]


def sweep(mechanism: Callable[[torch.Tensor, list[int]], torch.Tensor], noise_u: torch.Tensor, levels: list[list[int]], held: torch.Tensor | None = None) -> torch.Tensor:
    """`Eq. levels`: data [B, m, d] as by `fixed_point`; mechanism gives T at some nodes alone, `(z, nodes) -> [B, m, len(nodes)]`."""
    z = noise_u.clone()
    for nodes in levels:
        value = mechanism(z, nodes) + noise_u[..., nodes]
        z[..., nodes] = value if held is None else torch.where(held[..., nodes].isnan(), value, held[..., nodes])
    return z


def abduct(mechanism: Mechanism, x: torch.Tensor) -> torch.Tensor:
    """Noise [B, m, d] of the rows `x` (Eq. abduct)."""
    return x - mechanism(x)


def counterfactual(mechanism: Mechanism, factual: torch.Tensor, held: torch.Tensor, steps: int, noise_u: torch.Tensor | None = None) -> torch.Tensor:
    """The rows `factual [B, m, d]` had the nodes been held. noise_u: from elsewhere (the paper takes the encoder's), else abducted with the mechanism itself, so that without an intervention the factual comes back."""
    return fixed_point(mechanism, abduct(mechanism, factual) if noise_u is None else noise_u, steps, held, factual)
