r"""The denoising diffusion of DiffPO (Ho, Jain, Abbeel 2020; Tashiro et al. 2021 for the quadratic schedule), for a scalar outcome of unit variance.

    beta_t = (sqrt(beta_1) + (t-1)/(T-1) (sqrt(beta_T) - sqrt(beta_1)))^2,  alpha_t = 1 - beta_t,  alpha_bar_t = prod_{s<=t} alpha_s   `Eq. ddpm-schedule`
    y_t = sqrt(alpha_bar_t) y_0 + sqrt(1 - alpha_bar_t) eps                                                                        `Eq. ddpm-forward`
    y_{t-1} = (y_t - beta_t / sqrt(1 - alpha_bar_t) eps_hat) / sqrt(alpha_t) + sqrt(beta~_t) eps'                                   `Eq. ddpm-posterior`
    beta~_t = beta_t (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t),  alpha_bar_0 = 1

The last line is the posterior of y_{t-1} given y_t and y_0 with y_0 replaced by its estimate (y_t - sqrt(1 - alpha_bar_t) eps_hat) / sqrt(alpha_bar_t).
For y_0 ~ N(m, v) the exact noise is eps_hat = sqrt(1 - alpha_bar_t) (y_t - sqrt(alpha_bar_t) m) / (alpha_bar_t v + 1 - alpha_bar_t)   `Eq. ddpm-gaussian`.
Levels are counted from 0 here: index i is t = i + 1.
"""

from collections.abc import Callable

import torch


def quadratic_betas(steps: int = 100, first: float = 1e-4, last: float = 0.5) -> torch.Tensor:
    """beta_1 to beta_T, [T] float64 (Eq. ddpm-schedule)."""
    return torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64).square()


class Schedule:
    """Coefficients of every level, each [T] float32 on `device`: signal sqrt(alpha_bar), noise sqrt(1 - alpha_bar), and `c_noise` = ln(noise / signal) / 4,
    what the network is told of the level; `shrink`, `remove`, `spread` make Eq. ddpm-posterior shrink (y - remove eps_hat) + spread eps'."""

    def __init__(self, betas: torch.Tensor, device: torch.device | str = "cpu"):
        alpha_bar = (1 - betas).cumprod(0)
        before = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
        noise = (1 - alpha_bar).sqrt()
        values = {"signal": alpha_bar.sqrt(), "noise": noise, "c_noise": (noise / alpha_bar.sqrt()).log() / 4, "shrink": (1 - betas).rsqrt(),
                  "remove": betas / noise, "spread": (betas * (1 - before) / (1 - alpha_bar)).sqrt()}
        self.signal, self.noise, self.c_noise, self.shrink, self.remove, self.spread = (v.float().to(device) for v in values.values())

    def __len__(self) -> int:
        return len(self.signal)


def noised(y: torch.Tensor, level: torch.Tensor, eps: torch.Tensor, schedule: Schedule) -> torch.Tensor:
    """y_t for outcomes `y`, whole `level` in {0..T-1} and normals `eps`, shapes that broadcast (Eq. ddpm-forward)."""
    return schedule.signal[level] * y + schedule.noise[level] * eps


def ancestral(predict: Callable[[torch.Tensor, int], torch.Tensor], noise: Callable[[], torch.Tensor], schedule: Schedule) -> torch.Tensor:
    """Draws of y_0: from y_T = noise() down all levels by Eq. ddpm-posterior; the last step adds no noise.

    predict(y, level) -> eps_hat, of y's shape; noise() gives fresh standard normals of the shape of the draws, or one that broadcasts to it after the first.
    """
    y = noise()
    for level in range(len(schedule) - 1, -1, -1):
        y = schedule.shrink[level] * (y - schedule.remove[level] * predict(y, level))
        if level:
            y = y + schedule.spread[level] * noise()
    return y
