"""The 25 Gaussians against enumeration over their modes, automatic differentiation and quadrature."""

import math

import pytest
import torch

from gencausal.checks import InputError
from gencausal.data.toys import GaussianGrid, gaussians_25

TOY = gaussians_25()
X = torch.randn((40, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_grid_is_that_of_the_specification():
    assert TOY.modes.shape == (25, 2) and len(TOY.modes.unique(dim=0)) == 25
    assert TOY.axis[1] - TOY.axis[0] == pytest.approx(0.7070, abs=1e-4) and TOY.sd == pytest.approx(0.01767, abs=1e-5)
    assert torch.tensor(TOY.axis).square().mean().item() + TOY.sd**2 == pytest.approx(1, abs=1e-6)  # variance one a coordinate


@pytest.mark.parametrize("alpha, sigma", [(0.9, 0.3), (0.1, 0.99), (1.0, 0.02)])
def test_posterior_mean_is_bayes_rule_over_the_25_modes(alpha, sigma):
    """Eq. grid-denoiser: against the sum over all modes."""
    w = alpha**2 * TOY.sd**2 + sigma**2
    r = (-(X[:, None] - alpha * TOY.modes).square().sum(-1) / (2 * w)).softmax(-1)
    inside = TOY.modes + alpha * TOY.sd**2 / w * (X[:, None] - alpha * TOY.modes)
    assert torch.allclose(TOY.denoise(X, alpha, sigma), (r[..., None] * inside).sum(1), atol=1e-12)


def test_score_is_the_gradient_of_the_log_density():
    x = X.clone().requires_grad_(True)
    gradient, = torch.autograd.grad(TOY.log_density(x, 0.8, 0.6).sum(), x)
    assert torch.allclose(TOY.score(X, 0.8, 0.6), gradient, atol=1e-10)


def test_density_integrates_to_one():
    line = torch.linspace(-5, 5, 401, dtype=torch.float64)
    points = torch.cartesian_prod(line, line)  # wide enough for the tails
    assert (TOY.log_density(points, 0.7, 0.5).exp().sum() * (line[1] - line[0]) ** 2).item() == pytest.approx(1, abs=1e-6)


def test_levels_of_each_sample_broadcast():
    """One level a sample gives what one level at a time gives."""
    alpha, sigma = torch.linspace(0.2, 0.9, 40, dtype=torch.float64)[:, None], torch.linspace(0.9, 0.2, 40, dtype=torch.float64)[:, None]
    single = torch.stack([TOY.denoise(X[i:i + 1], alpha[i].item(), sigma[i].item())[0] for i in range(40)])
    assert torch.allclose(TOY.denoise(X, alpha, sigma), single, atol=1e-13)


def test_one_mode_is_a_gaussian():
    """The denoiser of N(m, s^2): (sigma^2 m + alpha s^2 x) / (alpha^2 s^2 + sigma^2)."""
    law = GaussianGrid((0.4,), 0.5)
    assert torch.allclose(law.denoise(X, 0.6, 0.8), (0.64 * 0.4 + 0.6 * 0.25 * X) / (0.36 * 0.25 + 0.64), atol=1e-14)


def test_samples_have_the_laws_moments_and_no_hallucination():
    x = TOY.sample(20_000, 3)
    assert x.mean(0).abs().max() < 4 / math.sqrt(20_000) and torch.allclose(x.var(0), torch.ones(2, dtype=torch.float64), atol=0.04)
    assert (TOY.distance(x) < 6).all() and (TOY.distance(x) > 1).double().mean().item() == pytest.approx(math.exp(-0.5), abs=0.02)  # Rayleigh tail
    assert torch.equal(TOY.sample(5, 3), TOY.sample(5, 3)) and not torch.equal(TOY.sample(5, 3), TOY.sample(5, 4))


def test_distance_counts_sds_to_the_nearest_mode():
    between = TOY.modes[0] + torch.tensor([0.5, 0.0], dtype=torch.float64) * (TOY.axis[1] - TOY.axis[0])
    assert TOY.distance(TOY.modes).max() == 0 and TOY.distance(between[None]).item() == pytest.approx(20, abs=0.1)


def test_a_mode_without_width_is_refused():
    with pytest.raises(InputError, match="sd"):
        gaussians_25(0.0)
