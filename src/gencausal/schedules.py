r"""Noise levels of the variance-exploding diffusion `y_sigma = y + sigma eps`.

Notation: `sigma` noise standard deviation, range [0.002, 80] on outcomes whose standard deviation is 0.5.

`Eq. 5, Karras et al. 2022` (arXiv 2206.00364): sampling grid, rho = 7.
`Sec. 5, Karras et al. 2022`: training levels, ln sigma ~ N(mean, sd^2).
`Eq. sid-sigma, specification 2.3` (Zhou et al. 2024, arXiv 2404.04057): distillation levels on the same power curve.
"""

import torch

SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 80.0, 7.0


def power_curve(u: torch.Tensor, start: float, end: float, rho: float = RHO) -> torch.Tensor:
    """`(start^(1/rho) + u (end^(1/rho) - start^(1/rho)))^rho` for u in [0, 1], any shape."""
    return (start ** (1 / rho) + u * (end ** (1 / rho) - start ** (1 / rho))) ** rho


def karras_sigmas(steps: int, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = RHO,
                  device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Sampling grid, [steps + 1]: `steps` decreasing levels from sigma_max to sigma_min, then 0 (Eq. 5, Karras et al. 2022)."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}.")
    u = torch.linspace(0, 1, steps, dtype=torch.float64) if steps > 1 else torch.zeros(1, dtype=torch.float64)
    grid = power_curve(u, sigma_max, sigma_min, rho)
    return torch.cat([grid, grid.new_zeros(1)]).to(dtype).to(device)


def sid_sigma(t: torch.Tensor, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = RHO) -> torch.Tensor:
    """Distillation level at time t in [0, 1], increasing from sigma_min to sigma_max (Eq. sid-sigma)."""
    return power_curve(t, sigma_min, sigma_max, rho)


def log_normal(standard_normal: torch.Tensor, mean: float, sd: float, sigma_max: float = SIGMA_MAX) -> torch.Tensor:
    """Training levels `exp(mean + sd n)` from standard normal `n`, any shape, capped at sigma_max (Sec. 5, Karras et al. 2022)."""
    return (mean + sd * standard_normal).exp().clamp(max=sigma_max)
