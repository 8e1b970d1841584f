r"""Solvers of the probability-flow equation `dy/dsigma = (y - D(y; sigma)) / sigma` (Eq. 1, Karras et al. 2022, alpha = 1).

A sampler takes `denoise(y, sigma) -> D`, a start `y` at the first level and a decreasing grid of levels that ends at 0. In one
dimension the flow is increasing in its start, so it is the quantile map from N(0, sigma_max^2) to the outcome's law (up to mean times
sd over sigma_max): the median outcome is the flow of 0. Network evaluations (nfe) with N levels: Euler and Adams-Bashforth N, Heun 2N - 1.
"""

from collections.abc import Callable

import torch

Denoise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _slope(denoise: Denoise, y: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    return (y - denoise(y, sigma)) / sigma


def euler(denoise: Denoise, y: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """First-order solver; on this flow it is DDIM (Sec. 3, Karras et al. 2022). `y [...]`, `sigmas [N + 1]` ending at 0."""
    for sigma, lower in zip(sigmas[:-1], sigmas[1:]):
        y = y + (lower - sigma) * _slope(denoise, y, sigma)
    return y


def heun(denoise: Denoise, y: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """Second-order solver of Alg. 1, Karras et al. 2022; the last step, to level 0, is Euler."""
    for sigma, lower in zip(sigmas[:-1], sigmas[1:]):
        slope = _slope(denoise, y, sigma)
        ahead = y + (lower - sigma) * slope
        y = ahead if lower == 0 else y + (lower - sigma) * 0.5 * (slope + _slope(denoise, ahead, lower))
    return y


def adams_bashforth2(denoise: Denoise, y: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """Second-order multistep solver on a variable grid: the previous slope extrapolates the present one; first and last steps are Euler.

    `Eq. ab2`: y' = y + h [(1 + r/2) f - (r/2) f_previous], r = h / h_previous.
    """
    previous = width = None
    for sigma, lower in zip(sigmas[:-1], sigmas[1:]):
        slope, h = _slope(denoise, y, sigma), lower - sigma
        step = slope if previous is None or lower == 0 else slope + 0.5 * (h / width) * (slope - previous)
        y, previous, width = y + h * step, slope, h
    return y


SAMPLERS = {"heun": heun, "euler": euler, "adams_bashforth2": adams_bashforth2}


def evaluations(sampler: str, steps: int) -> int:
    """Network evaluations of one draw with `steps` levels above 0."""
    return 2 * steps - 1 if sampler == "heun" else steps


def stratified_normal(n: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """The n standard normal quantiles at (j + 1/2) / n, [n]: a deterministic stand-in for n draws whose averages are quadratures."""
    return torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n).float().to(device)
