r"""Preconditioned diffusion of a scalar outcome, `y_sigma = y + sigma eps`, eps ~ N(0, 1).

Notation: `y` clean outcome on the model scale (standard deviation `sigma_data` = 0.5), `sigma` noise level,
`D(y_sigma; sigma, c)` = E[y | y_sigma, c] the denoiser (a posterior mean, not a score; score = (D - y_sigma) / sigma^2),
c = (x, z) covariates and arm. Tensors are [S, B, M]: S stacked networks, B units, M noise levels or draws a unit.

`Eq. 7, Karras et al. 2022` (arXiv 2206.00364):  D = c_skip y_sigma + c_out F(c_in y_sigma, c_noise, c)
`Eq. 8, Karras et al. 2022`:  loss = E || F - (y - c_skip y_sigma) / c_out ||^2 = lambda(sigma) ||D - y||^2, lambda = (sigma^2 + s^2) / (sigma s)^2
`Eq. gaussian-denoiser`:  y ~ N(mu, v)  =>  D = (sigma^2 mu + v y_sigma) / (sigma^2 + v)
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from gencausal.schedules import SIGMA_MAX, log_normal

SIGMA_DATA = 0.5


class Preconditioning(NamedTuple):
    """The four coefficients of Eq. 7, Karras et al. 2022, each of sigma's shape."""

    c_skip: torch.Tensor
    c_out: torch.Tensor
    c_in: torch.Tensor
    c_noise: torch.Tensor


def precondition(sigma: torch.Tensor, sigma_data: float = SIGMA_DATA) -> Preconditioning:
    """Coefficients at `sigma` > 0: input and target of F have variance one at every level when Var(y) = sigma_data^2."""
    total = sigma**2 + sigma_data**2
    return Preconditioning(sigma_data**2 / total, sigma * sigma_data / total.sqrt(), total.rsqrt(), sigma.log() / 4)


class Denoiser(nn.Module):
    """D(y_sigma; sigma, e) over a network with `encode`, `embed` and `decode` (Eq. 7, Karras et al. 2022)."""

    def __init__(self, network: nn.Module, sigma_data: float = SIGMA_DATA):
        super().__init__()
        self.network, self.sigma_data = network, sigma_data

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Embeddings of x under every arm: `x [S, B, d] -> [S, B, K, h]`."""
        return self.network.encode(x)

    def embed(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Embedding of the condition c = (x, z): `x [S, B, d], z [S, B] -> [S, B, h]`. Every loss and every sampler goes through here."""
        return self.network.embed(x, z)

    def forward(self, y: torch.Tensor, sigma: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        """Denoised outcome, [S, B, M], of `y [S, B, M]` at `sigma` (broadcasts to y) under the embedded condition `e [S, B, h]`."""
        sigma = sigma.reshape((1,) * (3 - sigma.dim()) + sigma.shape)
        c = precondition(sigma, self.sigma_data)
        return c.c_skip * y + c.c_out * self.network.decode(c.c_in * y, c.c_noise, e)


def edm_loss(denoiser: Denoiser, y: torch.Tensor, e: torch.Tensor, sigma: torch.Tensor, eps: torch.Tensor,
             log_w: torch.Tensor | None = None) -> torch.Tensor:
    """EDM loss of each stacked network, [S] (Eq. 8, Karras et al. 2022).

    y: clean outcomes, [S, B, 1] or [S, B, M]. e: embedded conditions, [S, B, h]. sigma, eps: noise level and noise, [S, B, M].
    log_w: log importance weights, [S, B]; self-normalised to mean one. Equal shapes are enforced, so that weights and errors
    never broadcast against each other.
    """
    if sigma.shape != eps.shape or eps.dim() != 3:
        raise ValueError(f"sigma and eps must both be [S, B, M], not {tuple(sigma.shape)} and {tuple(eps.shape)}.")
    y = y.expand_as(eps)
    c = precondition(sigma, denoiser.sigma_data)
    noisy = y + sigma * eps
    target = (y - c.c_skip * noisy) / c.c_out
    error = (denoiser.network.decode(c.c_in * noisy, c.c_noise, e) - target).square().mean(2)
    return weighted_mean(error, log_w)


def weighted_mean(error: torch.Tensor, log_w: torch.Tensor | None) -> torch.Tensor:
    """Mean over units, [S], of `error [S, B]`; with `log_w [S, B]`, weighted by self-normalised exp(log_w)."""
    if log_w is None:
        return error.mean(1)
    if log_w.shape != error.shape:
        raise ValueError(f"log_w must have the shape of the errors {tuple(error.shape)}, not {tuple(log_w.shape)}.")
    return (log_w.softmax(1) * error).sum(1)


def noise_levels(normal: torch.Tensor, mean: float, sd: float, with_prior_level: bool = True) -> torch.Tensor:
    """Training levels from standard normals [S, B, M]: log-normal, and the first of the M at sigma_max if `with_prior_level`.

    At sigma_max the input carries no outcome, so the loss there is plain least squares for E[y | x, z]; the log-normal alone
    almost never visits it.
    """
    if with_prior_level and normal.shape[2] < 2:
        raise ValueError("levels (or draws) must be at least 2: the first is the prior level sigma_max, and one alone would train nothing else.")
    sigma = log_normal(normal, mean, sd)
    if with_prior_level:
        sigma[:, :, 0] = SIGMA_MAX
    return sigma


def gaussian_denoiser(y: torch.Tensor, sigma: torch.Tensor, mu: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """Exact D for y ~ N(mu, variance); all arguments broadcast (Eq. gaussian-denoiser)."""
    return (sigma**2 * mu + variance * y) / (sigma**2 + variance)


class GaussianTeacher(nn.Module):
    """The exact denoiser of y | x, z ~ N(mu_z(x), variance), to stand in for a trained teacher (Eq. gaussian-denoiser).

    mean: maps covariates x [S, B, d] to the means of every arm, [S, B, K]; variance: > 0; both on the model scale. The embedding of (x, z) is mu_z(x).
    """

    def __init__(self, mean: Callable[[torch.Tensor], torch.Tensor], variance: float):
        super().__init__()
        self.mean = mean
        self.register_buffer("variance", torch.tensor(float(variance)))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """`x [S, B, d] -> [S, B, K, 1]`."""
        return self.mean(x)[..., None]

    def forward(self, y: torch.Tensor, sigma: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        """Denoised outcome, [S, B, M], of `y [S, B, M]` at `sigma` (broadcasts to y) under `e [S, B, 1]`."""
        return gaussian_denoiser(y, sigma, e, self.variance)


def mixture_denoiser(y: torch.Tensor, sigma: torch.Tensor, weights: torch.Tensor, means: torch.Tensor, variances: torch.Tensor) -> torch.Tensor:
    """Exact D for a Gaussian mixture: y, sigma broadcast to one shape [...]; weights, means, variances [J] (Bayes' rule over components)."""
    y, sigma = y[..., None], sigma[..., None]
    total = sigma**2 + variances
    responsibility = (weights.log() - 0.5 * total.log() - 0.5 * (y - means) ** 2 / total).softmax(-1)
    return (responsibility * gaussian_denoiser(y, sigma, means, variances)).sum(-1)
