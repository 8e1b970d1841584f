"""Solvers of the probability flow on data whose flow is known in closed form."""

import math

import pytest
import torch

from gencausal.diffusion import gaussian_denoiser, mixture_denoiser
from gencausal.sampling import SAMPLERS, evaluations, stratified_normal
from gencausal.schedules import SIGMA_MAX, karras_sigmas

MU, VARIANCE = torch.tensor(0.7, dtype=torch.float64), torch.tensor(0.04, dtype=torch.float64)


def gaussian(y, sigma):
    return gaussian_denoiser(y, sigma, MU, VARIANCE)


def flow_of_gaussian(start, sigma):
    """The probability flow of N(mu, v) from sigma_max to `sigma`: (y - mu) keeps its ratio to sqrt(v + sigma^2)."""
    return MU + (start - MU) * ((VARIANCE + sigma**2) / (VARIANCE + SIGMA_MAX**2)).sqrt()


@pytest.mark.parametrize("name, order", [("euler", 1), ("heun", 2), ("adams_bashforth2", 2)])
def test_order_of_convergence(name, order):
    """The error at the last level above 0 falls 2^p-fold when the steps double, for a solver of order p (measured slope within 0.15 of p)."""
    start = SIGMA_MAX * torch.tensor([-1.5, 0.3, 2.0], dtype=torch.float64)
    errors = []
    for steps in (64, 128, 256, 512):
        grid = karras_sigmas(steps, dtype=torch.float64)[:-1]
        errors.append((SAMPLERS[name](gaussian, start, grid) - flow_of_gaussian(start, grid[-1])).abs().max().item())
    slopes = [math.log2(a / b) for a, b in zip(errors, errors[1:])]
    assert slopes[-1] == pytest.approx(order, abs=0.15), slopes


@pytest.mark.parametrize("name", SAMPLERS)
def test_evaluations_are_counted(name):
    calls = []

    def counted(y, sigma):
        calls.append(1)
        return gaussian(y, sigma)

    SAMPLERS[name](counted, torch.zeros(2, dtype=torch.float64), karras_sigmas(50, dtype=torch.float64))
    assert len(calls) == evaluations(name, 50) == (99 if name == "heun" else 50)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_draw_the_gaussian(name):
    """Mean and sd of many draws within Monte Carlo error of N(mu, v)."""
    eps = torch.randn(40_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = SAMPLERS[name](gaussian, SIGMA_MAX * eps, karras_sigmas(200, dtype=torch.float64))
    sd = VARIANCE.sqrt().item()
    assert y.mean().item() == pytest.approx(MU.item(), abs=4 * sd / 200)
    assert y.std().item() == pytest.approx(sd, rel=0.02)


@pytest.mark.parametrize("name", SAMPLERS)
def test_flow_is_the_quantile_map(name):
    """In one dimension the flow is increasing and carries quantiles to quantiles, here of a two-mode mixture."""
    weights, means, variances = (torch.tensor(v, dtype=torch.float64) for v in ([0.5, 0.5], [-1.0, 1.0], [0.01, 0.01]))
    eps = stratified_normal(101).double()
    y = SAMPLERS[name](lambda y, s: mixture_denoiser(y, torch.as_tensor(s), weights, means, variances), SIGMA_MAX * eps, karras_sigmas(400, dtype=torch.float64))
    assert (y.diff() > 0).all()
    share_below = 0.5 * torch.special.ndtr((y[25] + 1) / 0.1) + 0.5 * torch.special.ndtr((y[25] - 1) / 0.1)
    assert share_below.item() == pytest.approx(25.5 / 101, abs=0.02)


def test_a_draw_does_not_depend_on_its_batch():
    start = SIGMA_MAX * torch.randn(7, generator=torch.Generator().manual_seed(0))
    grid = karras_sigmas(10)
    together = SAMPLERS["heun"](lambda y, s: gaussian(y.double(), s).float(), start, grid)
    assert torch.equal(SAMPLERS["heun"](lambda y, s: gaussian(y.double(), s).float(), start[3:4], grid), together[3:4])


def test_stratified_normals_are_quadrature_nodes():
    nodes = stratified_normal(1000)
    assert abs(nodes.mean().item()) < 1e-6 and nodes.std().item() == pytest.approx(1, abs=0.01)
    assert (nodes.diff() > 0).all() and stratified_normal(1).item() == 0
