"""The preconditioned denoiser against closed forms (Karras et al. 2022; Eq. gaussian-denoiser)."""

import pytest
import torch

from gencausal.diffusion import SIGMA_DATA, Denoiser, GaussianTeacher, edm_loss, gaussian_denoiser, mixture_denoiser, noise_levels, precondition
from gencausal.nn.mlp import OutcomeNetwork
from gencausal.schedules import SIGMA_MAX

LEVELS = torch.tensor([0.002, 0.05, 0.5, 2.5, 80.0], dtype=torch.float64)


def small_denoiser(stack=2):
    return Denoiser(OutcomeNetwork(stack, 3, 2, torch.Generator().manual_seed(0), width=16, depth=2, embedding=8, decoder=8))


def batch(stack=2, units=6, draws=3):
    rng = torch.Generator().manual_seed(1)
    randn = lambda *shape: torch.randn(*shape, generator=rng)  # noqa: E731
    return randn(stack, units, 3), torch.randint(2, (stack, units), generator=rng), randn(stack, units, 1), randn(stack, units, draws).exp(), randn(stack, units, draws)


def test_network_input_and_target_have_unit_variance():
    """Eq. 7, Karras et al. 2022: with Var(y) = s^2, Var(c_in y_sigma) = 1 and Var((y - c_skip y_sigma) / c_out) = 1 at every level."""
    c = precondition(LEVELS)
    var = SIGMA_DATA**2
    assert torch.allclose(c.c_in**2 * (var + LEVELS**2), torch.ones_like(LEVELS))
    target = (1 - c.c_skip) ** 2 * var + c.c_skip**2 * LEVELS**2
    assert torch.allclose(target / c.c_out**2, torch.ones_like(LEVELS))


def test_loss_equals_weighted_denoising_error():
    """Eq. 8, Karras et al. 2022: ||F - target||^2 = lambda(sigma) ||D - y||^2, network by network."""
    denoiser = small_denoiser()
    x, z, y, sigma, eps = batch()
    e = denoiser.embed(x, z)
    weight = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
    by_denoiser = (weight * (denoiser(y + sigma * eps, sigma, e) - y).square()).mean((1, 2))
    assert torch.allclose(edm_loss(denoiser, y, e, sigma, eps), by_denoiser, rtol=1e-4)


def test_denoiser_is_identity_without_noise():
    denoiser = small_denoiser()
    x, z, y, _, _ = batch()
    out = denoiser(y, torch.tensor(1e-5), denoiser.embed(x, z))
    assert torch.allclose(out, y, atol=1e-4)
    assert not torch.allclose(denoiser(y, torch.tensor(1.0), denoiser.embed(x, z)), y, atol=1e-2)


def test_one_hot_weight_gives_one_units_loss():
    """Weights [S, B] never broadcast against errors [S, B] (guards defect D16: the mean factorises there)."""
    denoiser = small_denoiser()
    x, z, y, sigma, eps = batch()
    e = denoiser.embed(x, z)
    log_w = torch.full((2, 6), -torch.inf)
    log_w[0, 4] = log_w[1, 2] = 0.0
    weighted = edm_loss(denoiser, y, e, sigma, eps, log_w)
    for s, unit in ((0, 4), (1, 2)):
        alone = edm_loss(denoiser, y[:, unit:unit + 1], e[:, unit:unit + 1], sigma[:, unit:unit + 1], eps[:, unit:unit + 1])
        assert weighted[s].item() == pytest.approx(alone[s].item(), rel=1e-5)
    assert weighted[0].item() != pytest.approx(edm_loss(denoiser, y, e, sigma, eps)[0].item(), rel=1e-3)
    with pytest.raises(ValueError, match="log_w"):
        edm_loss(denoiser, y, e, sigma, eps, log_w[:, :, None])
    with pytest.raises(ValueError, match="sigma and eps"):
        edm_loss(denoiser, y, e, sigma[:, :, :1], eps)


def test_loss_sees_the_condition():
    """Changing z alone and x alone moves the training loss (invariant 8)."""
    denoiser = small_denoiser()
    x, z, y, sigma, eps = batch()
    base = edm_loss(denoiser, y, denoiser.embed(x, z), sigma, eps)
    for other in (denoiser.embed(x, 1 - z), denoiser.embed(x + 0.5, z)):
        assert ((edm_loss(denoiser, y, other, sigma, eps) - base).abs() > 1e-6).all()


def numerical_posterior_mean(noisy, sigma, density):
    grid = torch.linspace(-12, 12, 48_001, dtype=torch.float64)
    weight = density(grid) * torch.exp(-0.5 * ((noisy - grid) / sigma) ** 2)
    return (weight * grid).sum() / weight.sum()


@pytest.mark.parametrize("sigma", [0.1, 0.7, 3.0])
def test_gaussian_denoiser_is_the_posterior_mean(sigma):
    """Eq. gaussian-denoiser against numerical integration of Bayes' rule."""
    mu, variance, noisy = 0.8, 0.09, -0.4
    expected = numerical_posterior_mean(noisy, sigma, lambda y: torch.exp(-0.5 * (y - mu) ** 2 / variance))
    found = gaussian_denoiser(*(torch.tensor(v, dtype=torch.float64) for v in (noisy, sigma, mu, variance)))
    assert found.item() == pytest.approx(expected.item(), abs=1e-8)


@pytest.mark.parametrize("noisy", [-1.0, 0.2, 2.5])
def test_mixture_denoiser_is_the_posterior_mean(noisy):
    weights, means, variances = (torch.tensor(v, dtype=torch.float64) for v in ([0.3, 0.7], [-1.0, 1.5], [0.04, 0.25]))

    def density(y):
        return (weights / variances.sqrt() * torch.exp(-0.5 * (y[:, None] - means) ** 2 / variances)).sum(-1)

    sigma = torch.tensor(0.6, dtype=torch.float64)
    found = mixture_denoiser(torch.tensor(noisy, dtype=torch.float64), sigma, weights, means, variances)
    assert found.item() == pytest.approx(numerical_posterior_mean(noisy, 0.6, density).item(), abs=1e-8)


def test_mixture_of_one_is_the_gaussian():
    y, sigma = torch.linspace(-2, 2, 5, dtype=torch.float64), torch.tensor(0.9, dtype=torch.float64)
    one = mixture_denoiser(y, sigma, *(torch.tensor([v], dtype=torch.float64) for v in (1.0, 0.4, 0.2)))
    assert torch.allclose(one, gaussian_denoiser(y, sigma, torch.tensor(0.4), torch.tensor(0.2)).double())


def test_first_level_is_the_prior():
    sigma = noise_levels(torch.zeros(1, 2, 3), -1.2, 1.2)
    assert (sigma[:, :, 0] == SIGMA_MAX).all() and torch.allclose(sigma[:, :, 1:], torch.tensor(-1.2).exp())
    assert (noise_levels(torch.zeros(1, 2, 3), -1.2, 1.2, with_prior_level=False) < 1).all()
    with pytest.raises(ValueError, match="at least 2"):
        noise_levels(torch.zeros(1, 2, 1), -1.2, 1.2)


def test_gaussian_skip_holds_the_exact_denoiser():
    """Eq. gaussian-skip: with the MLP part off, F = a m + b u equals the exact Gaussian F at one level for the right a, b."""
    sigma, mu, variance = torch.tensor(0.7), 0.3, 0.04
    c = precondition(sigma)
    y = torch.linspace(-1, 1, 9).reshape(1, 1, 9)
    exact = (gaussian_denoiser(y, sigma, torch.tensor(mu), torch.tensor(variance)) - c.c_skip * y) / c.c_out
    a, b = sigma**2 / (sigma**2 + variance) / c.c_out, (variance / (sigma**2 + variance) - c.c_skip) / (c.c_out * c.c_in)
    denoiser = small_denoiser(1)
    net = denoiser.network
    with torch.no_grad():
        for layer in (net.out, net.noise_coefficients, net.to_mean):
            layer.weight.zero_(), layer.bias.zero_()
        net.noise_coefficients.bias[0, 0] = torch.stack([a, b])
        net.to_mean.bias.fill_(mu)
    e = denoiser.embed(torch.zeros(1, 1, 3), torch.zeros(1, 1, dtype=torch.long))
    assert torch.allclose(net.decode(c.c_in * y, c.c_noise.reshape(1, 1, 1), e), exact, atol=1e-5)
    assert torch.allclose(denoiser(y, sigma, e), gaussian_denoiser(y, sigma, torch.tensor(mu), torch.tensor(variance)), atol=1e-5)


def test_gaussian_teacher_is_the_exact_denoiser_of_each_arm():
    teacher = GaussianTeacher(lambda x: torch.stack([x[..., 0], x[..., 0] + 1], -1), 0.04)
    x, y, sigma = torch.randn(2, 5, 3), torch.randn(2, 5, 4), torch.tensor(0.3)
    e = teacher.encode(x)
    assert e.shape == (2, 5, 2, 1)
    assert torch.allclose(teacher(y, sigma, e[:, :, 1]), gaussian_denoiser(y, sigma, x[..., :1] + 1, torch.tensor(0.04)))
