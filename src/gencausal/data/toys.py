r"""Twenty-five Gaussians on a grid, whose score, denoiser and posterior mean are known in closed form.

Modes `2 (i, j)`, i, j in {-2, ..., 2}, of equal weight and sd 0.05, everything divided by sqrt(0.05^2 + 8), so that each coordinate has variance one:
the modes stand 0.7070 apart with sd 0.01767 (spec second_act, section 1.3). The law is a product over coordinates, and so is the law of

    x_t = alpha x_0 + sigma eps,    x_t | mode m ~ N(alpha m, w),    w = alpha^2 s^2 + sigma^2

`Eq. grid-denoiser` (a coordinate): E[x_0 | x_t] = m + alpha s^2 (x_t - alpha m) / w with m = sum_j r_j m_j, r = softmax_j(-(x_t - alpha m_j)^2 / 2w)
`Eq. grid-score`: score = (alpha E[x_0 | x_t] - x_t) / sigma^2
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from gencausal import checks, seeding

SIDE = (-2.0, -1.0, 0.0, 1.0, 2.0)


@lru_cache
def _column(axis: tuple[float, ...], dims: int) -> torch.Tensor:
    """`axis` as a leading axis, [5, 1, ...], beside a tensor of `dims` axes."""
    return torch.tensor(axis, dtype=torch.float64).reshape(-1, *[1] * dims)


@dataclass(frozen=True)
class GaussianGrid:
    """Equal mixture of isotropic Gaussians N(m, sd^2 I) at the points m of a square grid with coordinates `axis`; float64 in, float64 out, on the CPU."""

    axis: tuple[float, ...]
    sd: float

    @property
    def modes(self) -> torch.Tensor:
        """The modes, [25, 2]."""
        return torch.cartesian_prod(*2 * [torch.tensor(self.axis, dtype=torch.float64)])

    def sample(self, n: int, seed: int) -> torch.Tensor:
        """n draws with their modes chosen at random, [n, 2], float64."""
        rng = seeding.numpy_generator(checks.whole(seed, "seed", 0), "gaussians_25")
        points = rng.choice(np.array(self.axis), (checks.whole(n, "n"), 2)) + self.sd * rng.standard_normal((n, 2))
        return torch.as_tensor(points)

    def _posterior(self, x: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Unnormalised log weights of the modes of a coordinate, [5, ...], and the variance w of x_t about its mode."""
        w = alpha**2 * self.sd**2 + sigma**2
        axis, pull = _column(self.axis, x.dim()), alpha / w
        return (axis * (pull * x)).sub_(axis**2 * (0.5 * alpha * pull)), w

    def denoise(self, x: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """E[x_0 | x_t = x], [..., 2], of `x [..., 2]` (Eq. grid-denoiser); alpha >= 0 and sigma > 0, numbers or tensors that broadcast to x."""
        logits, w = self._posterior(x, alpha, sigma)
        r = logits.sub_(logits.amax(0)).exp_()
        mode = (_column(self.axis, x.dim()) * r).sum(0) / r.sum(0)
        return mode + (alpha * self.sd**2 / w) * (x - alpha * mode)

    def score(self, x: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Gradient of the log density of x_t at `x [..., 2]` (Eq. grid-score)."""
        return (alpha * self.denoise(x, alpha, sigma) - x) / sigma**2

    def log_density(self, x: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Log density of x_t at `x [..., 2]`, [...]; alpha = 1, sigma = 0 gives that of the data."""
        logits, w = self._posterior(x, alpha, sigma)
        w = torch.as_tensor(w, dtype=x.dtype)
        return (logits.logsumexp(0) - math.log(len(self.axis)) - 0.5 * x**2 / w - 0.5 * (2 * math.pi * w).log()).sum(-1)

    def distance(self, x: torch.Tensor) -> torch.Tensor:
        """Distance of each point of `x [..., 2]` to its nearest mode, in sds of a mode, [...]; more than six is a sample that the data cannot hold."""
        return (x - _column(self.axis, x.dim())).abs().amin(0).norm(dim=-1) / self.sd


def gaussians_25(sd: float = 0.05) -> GaussianGrid:
    """The grid of the study at the sd `sd` of a mode before scaling, in (0, inf): 0.05 is the usual one, 0.3 a wide one whose modes overlap."""
    scale = math.sqrt(checks.positive(sd, "sd") ** 2 + 8)
    return GaussianGrid(tuple(2 * i / scale for i in SIDE), sd / scale)
