"""What the generative rivals share: a stacked perceptron, paired noise, and draws of every unit, arm and copy at once.

Shapes: S data sets in one stacked network, B or U units, K = 2 arms, M draws a unit, d covariates. Outcomes have unit variance on the networks' scale.

`Eq. paired`: draws come in pairs that see the noise eps and -eps, the same for both arms. Each draw has the model's law; where the model is linear in its
noise, the mean (and median) of a pair is free of it, so a few draws already give a point estimate. Sorted, M draws are the empirical quantiles at (j + 1/2)/M.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import silu

from gencausal import metrics
from gencausal.data.stack import OUTCOME_SD, Outcomes, table_rows
from gencausal.nn.mlp import StackedLinear
from gencausal.seeding import derive, stacked
from gencausal.training import Trained

CHUNK = 256  # draws of one data set and arm at once, so that the work stays in cache; part of the result, since each chunk has its own stream

Draw = Callable[[torch.Tensor, int, list[torch.Generator]], torch.Tensor]


@dataclass(frozen=True)
class Fitted:
    """A trained rival. draw: (x [S, U, d] standardised, M, one stream a data set) -> draws of both potential outcomes [S, U, K, M] with unit-variance
    outcomes; trained: what `fit` returned, stage by stage."""

    draw: Draw
    trained: tuple[Trained, ...]


class StackedMLP(nn.Module):
    """`x [S, N, n_in] -> [S, N, n_out]`: `depth` SiLU layers of `width` and a linear one."""

    def __init__(self, stack: int, n_in: int, n_out: int, rng: torch.Generator, width: int, depth: int, gain: float = 1.0):
        super().__init__()
        self.hidden = nn.ModuleList(StackedLinear(stack, n_in if i == 0 else width, width, rng, 1.4) for i in range(depth))
        self.out = StackedLinear(stack, width if depth else n_in, n_out, rng, gain)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.hidden:
            x = silu(layer(x))
        return self.out(x)


def unit_variance(data: Outcomes) -> torch.Tensor:
    """Training outcomes of the stack with unit variance on the fit rows, [S, n]."""
    return data.y / OUTCOME_SD


def rows_of(data: Outcomes, batch: int, streams: list[torch.Generator]) -> torch.Tensor:
    """`batch` row numbers of the fit part of every data set, with replacement, as numbers of training rows, [S, B]."""
    picks = torch.stack([torch.randint(data.fit.shape[1], (batch,), generator=g, device=g.device) for g in streams])
    return data.fit.gather(1, picks)


def paired_normal(streams: list[torch.Generator], *shape: int) -> torch.Tensor:
    """Standard normals [S, *shape] whose last axis holds pairs eps, -eps (Eq. paired; of an odd number one is alone)."""
    half = stacked(torch.randn, streams, *shape[:-1], (shape[-1] + 1) // 2)
    return torch.cat([half, -half], -1)[..., : shape[-1]]


@torch.no_grad()
def draw_units(data: Outcomes, fitted: Fitted, x: torch.Tensor, n: int, seed: int, use: str) -> torch.Tensor:
    """`n` sorted draws of both potential outcomes of units `x [S, N, d]` (standardised), unit-variance scale, [S, N, K, n], on the CPU.

    A unit's draws depend on `seed`, `use`, its data set, its place and `n`, not on the rest of the stack nor on later units.
    """
    size = max(1, CHUNK // n)
    parts = [fitted.draw(x[:, start:start + size], n, data.generators(derive(seed, start), use)).sort(-1).values.cpu() for start in range(0, x.shape[1], size)]
    return torch.cat(parts, 1)


def held_out_crps(data: Outcomes, draw: Draw, n: int, seed: int) -> torch.Tensor:
    """CRPS [S] of `n` draws at the held-out factual outcomes, on the outcome's own scale. Reads no truth and no test row."""
    drawn = draw_units(data, Fitted(draw, ()), table_rows(data.x, data.held), n, seed, "held-out draws")
    arm = table_rows(data.z, data.held).cpu()[:, :, None, None].expand(-1, -1, 1, n)
    factual = drawn.gather(2, arm).squeeze(2).numpy()
    y = table_rows(unit_variance(data), data.held).cpu().numpy()
    return torch.as_tensor(data.y_scale * OUTCOME_SD * np.array([metrics.crps(a, b, fair=n > 1) for a, b in zip(factual, y)]))
