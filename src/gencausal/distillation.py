r"""Importance-weighted diffusion distillation: a one-step generator of potential outcomes from a conditional diffusion model.

Source: Song, Chen, Zhou (arXiv 2505.11444v1), as far as its abstract, reviews and released code tell; score identity
distillation is Zhou et al. 2024 (arXiv 2404.04057). The full description is in the study's notebook 02.

Three networks of one form: `teacher` phi (frozen), `fake` psi (follows the generator's own law), `generator` theta. With
c = (x, z) drawn from a law of pairs, eps ~ N(0, 1), y_sigma = y + sigma eps':

`Eq. generator`:  y = G(eps; c) = D_theta(sigma_init eps; sigma_init, c)
`Eq. sid`:        L_theta = E w (D_phi - D_psi) [(D_phi - y) - alpha (D_phi - D_psi)] / sg(|y - D_phi|)
`Eq. sid-split`:        = E w [(1 - alpha) (D_phi - D_psi)^2 + (D_phi - D_psi) (D_psi - y)] / sg(|y - D_phi|)
`Eq. dmd`:        L_theta = E w 1/2 (y - sg(y - (D_psi - D_phi)))^2       (Yin et al. 2024, arXiv 2311.18828: the KL divergence)
`Eq. laws`:       obs: (x, z) as observed; ipw: observed with w = p(z) / p(z | x); shuffle: z permuted over x; bernoulli: z ~ Bernoulli(p)

The denoisers' parameters are constants in both losses; in sid the gradient reaches y through them, in dmd they enter the
target only. For a Gaussian teacher and fake the gradient is that of `Eq. sid-gradient`, in y: -sigma^4 (mu - m) / (sigma^2 + v)^2 before the normaliser. Both use the levels of Eq. sid-sigma, so that the divergence alone differs. All tensors are
[S, B, M]: S stacked networks, B pairs, M draws a pair; the level sigma is one a pair, [S, B, 1].
"""

from typing import NamedTuple

import torch

from gencausal.diffusion import Denoiser, weighted_mean
from gencausal.seeding import stacked

LAWS = ("shuffle", "obs", "ipw", "bernoulli")
SMALLEST_GAP = 1e-5


class Pairs(NamedTuple):
    """Conditions of one batch: rows of x, arms z, and log importance weights (None where every weight is one)."""

    row: torch.Tensor  # [S, B]
    z: torch.Tensor  # [S, B]
    log_w: torch.Tensor | None  # [S, B]


def draw_pairs(law: str, z: torch.Tensor, batch: int, generators: list[torch.Generator], *, arm_generators: list[torch.Generator] | None = None, log_weight: torch.Tensor | None = None,
               probability: float = 0.5) -> Pairs:
    """A batch of (x, z) pairs under one of `LAWS` (Eq. laws).

    z: observed arms of the rows, [S, n]. generators: one a network, for the rows; arm_generators: for the arms of shuffle and
    bernoulli (default: the same), so that all laws can see the same rows. log_weight: log p(z_i) / p(z_i | x_i), [S, n], for `ipw`. probability: of arm 1, for
    `bernoulli`. `shuffle` permutes the arms of the drawn rows among themselves: rows and arms keep their multisets.
    """
    if law not in LAWS:
        raise ValueError(f"law must be one of {', '.join(LAWS)}, not {law!r}.")
    row = torch.stack([torch.randint(z.shape[1], (batch,), generator=g, device=g.device) for g in generators])
    arm = z.gather(1, row)
    if law == "shuffle":
        return Pairs(row, arm.gather(1, stacked(torch.randperm, arm_generators or generators, batch)), None)
    if law == "bernoulli":
        return Pairs(row, (stacked(torch.rand, arm_generators or generators, batch) < probability).long(), None)
    if law == "ipw":
        if log_weight is None:
            raise ValueError("law 'ipw' needs log_weight, the log of p(z) / p(z | x) for every row.")
        return Pairs(row, arm, log_weight.gather(1, row))
    return Pairs(row, arm, None)


def log_inverse_propensity(z: torch.Tensor, propensity: torch.Tensor, clip: float = 0.05) -> torch.Tensor:
    """log p(z_i) / p(z_i | x_i), [S, n], for arms z in {0, 1} and propensities e(x) = p(z = 1 | x) clipped to [clip, 1 - clip]."""
    e = propensity.clamp(clip, 1 - clip)
    p1 = z.float().mean(1, keepdim=True)
    treated = z == 1
    return torch.where(treated, p1, 1 - p1).log() - torch.where(treated, e, 1 - e).log()


def generate(generator: Denoiser, eps: torch.Tensor, e: torch.Tensor, sigma_init: float) -> torch.Tensor:
    """One-step draws, [S, B, M], from noise `eps [S, B, M]` under embedded conditions `e [S, B, h]` (Eq. generator)."""
    return generator(sigma_init * eps, torch.as_tensor(sigma_init, device=eps.device), e)


def sid_loss(y: torch.Tensor, d_teacher: torch.Tensor, d_fake: torch.Tensor, alpha: float, log_w: torch.Tensor | None = None) -> torch.Tensor:
    """Fisher-divergence loss of the generator, [S] (Eq. sid-split).

    y: generated outcomes, [S, B, M]; d_teacher, d_fake: both denoisers at (y_sigma, sigma, c), same shape, with gradient to y.
    The normaliser is the mean of |y - D_phi| over the M draws of a pair, which share one level; with M = 1 it is the
    per-sample normaliser of the source, whose heavy tail over a scalar outcome several draws tame.
    """
    gap = (y - d_teacher).detach().abs().mean(2, keepdim=True).clamp(min=SMALLEST_GAP)
    difference = d_teacher - d_fake
    per_draw = ((1 - alpha) * difference.square() + difference * (d_fake - y)) / gap
    return weighted_mean(per_draw.mean(2), log_w)


def dmd_loss(y: torch.Tensor, d_teacher: torch.Tensor, d_fake: torch.Tensor, log_w: torch.Tensor | None = None) -> torch.Tensor:
    """KL-divergence loss of the generator, [S] (Eq. dmd); its gradient in y is D_psi - D_phi."""
    target = (y - (d_fake - d_teacher)).detach()
    return weighted_mean(0.5 * (y - target).square().mean(2), log_w)
