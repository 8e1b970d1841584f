"""Few-step solvers: exact cases, limits and invariances (spec second_act, section 8, numbers 1 to 6)."""

from functools import partial

import pytest
import torch

from gencausal import sampling, schedules, solvers
from gencausal.checks import InputError
from gencausal.diffusion import gaussian_denoiser
from gencausal.solvers import Grid, grid, vp_levels

LEVELS = vp_levels()
X = torch.randn((30, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ALL = {"ddim": solvers.ddim, "ddim_noise": solvers.ddim_noise, "dualfast": solvers.dualfast, "ab2": solvers.ab2, "two_m": solvers.two_m, "two_m_eps": solvers.two_m_eps,
       "heun": solvers.heun, "evodiff": solvers.evodiff, "evodiff_paper": partial(solvers.evodiff, maps="paper", rescale=False)}


def gaussian(x, alpha, sigma, mu=0.3, v=0.25):
    """Exact denoiser of N(mu, v)."""
    return (sigma**2 * mu + alpha * v * x) / (alpha**2 * v + sigma**2)


def linear_noise(slope, x):
    """A field whose flow is known: eps = a + slope kappa on every path, so that x/alpha grows by the integral of it; returns denoiser and solution."""
    denoise = lambda x, alpha, sigma: (x - sigma * (0.7 + slope * sigma / alpha)) / alpha  # noqa: E731
    return denoise, lambda g: g.alpha[-1] * (x / g.alpha[0] + 0.7 * (g.kappa[-1] - g.kappa[0]) + slope * (g.kappa[-1] ** 2 - g.kappa[0] ** 2) / 2)


def equal_kappa(steps):
    kappa = torch.linspace(5.0, 0.5, steps + 1, dtype=torch.float64)
    return Grid((1 + kappa**2).rsqrt(), kappa * (1 + kappa**2).rsqrt(), kappa)


@pytest.mark.parametrize("vp", [True, False])
@pytest.mark.parametrize("name", solvers.Views._fields)
def test_every_view_gives_all_others(name, vp):
    """Eq. views: any one of score, v, x0 and eps gives the other three."""
    at = torch.randint(1000, (30, 1), generator=torch.Generator().manual_seed(1))
    alpha, sigma = (LEVELS.alpha[at], LEVELS.sigma[at]) if vp else (torch.ones(30, 1, dtype=torch.float64), LEVELS.kappa[at])
    known = solvers.views(X, alpha, sigma, x0=gaussian(X, alpha, sigma))
    back = solvers.views(X, alpha, sigma, **{name: getattr(known, name)})
    assert all(torch.allclose(a, b, rtol=1e-8, atol=1e-8) for a, b in zip(known, back))
    assert torch.allclose(known.score, (alpha * known.x0 - X) / sigma**2) and torch.allclose(alpha * known.x0 + sigma * known.eps, X)
    assert not torch.allclose(known.v, known.eps)


def test_views_want_exactly_one():
    with pytest.raises(InputError, match="exactly one"):
        solvers.views(X, 1.0, 1.0, x0=X, eps=X)


def test_edm_form_and_vp_form_are_one_denoiser():
    """Eq. edm-vp: the change of variables leads from one form to the other."""
    edm = lambda y, sigma: gaussian_denoiser(y, torch.as_tensor(sigma), torch.tensor(0.3), torch.tensor(0.25))  # noqa: E731
    assert torch.allclose(solvers.from_edm(edm)(X, 0.6, 0.8), gaussian(X, 0.6, 0.8), atol=1e-7)


def test_ddim_data_form_noise_form_and_unrolled_sum_agree():
    """Eq. ddim: x_N = sigma_N [x_0/sigma_0 + sum_i h_i x0_i]."""
    g, seen = grid(LEVELS, 12), []
    end = solvers.ddim(lambda x, a, s: seen.append(gaussian(x, a, s)) or seen[-1], X, g)
    h = (1 / g.kappa).diff()
    assert torch.allclose(end, g.sigma[-1] * (X / g.sigma[0] + sum(a * b for a, b in zip(h, seen))), atol=1e-12)
    assert torch.allclose(end, solvers.ddim_noise(gaussian, X, g), atol=1e-12)


def test_ddim_in_edm_form_is_euler():
    sigmas = schedules.karras_sigmas(9, dtype=torch.float64)
    edm = lambda y, sigma: gaussian_denoiser(y, torch.as_tensor(sigma), torch.tensor(0.3), torch.tensor(0.25))  # noqa: E731
    for ours, theirs in ((solvers.ddim, sampling.euler), (solvers.heun, sampling.heun)):
        assert torch.allclose(ours(solvers.from_edm(edm), 80 * X, solvers.edm_grid(sigmas)), theirs(edm, 80 * X, sigmas), atol=1e-9)


def test_dualfast_with_half_is_ab2_and_with_zero_ddim():
    """Eq. dualfast: the two ends of the mixed noise."""
    g = grid(LEVELS, 8)
    assert torch.allclose(solvers.dualfast(gaussian, X, g, weight=0.5), solvers.ab2(gaussian, X, g), atol=1e-12)
    assert torch.allclose(solvers.dualfast(gaussian, X, g, weight=0.0), solvers.ddim(gaussian, X, g), atol=1e-12)
    assert torch.allclose(solvers.dualfast(gaussian, X, g, weight=0.0, second_order=True), solvers.two_m(gaussian, X, g), atol=1e-12)
    ramp = solvers.dualfast(gaussian, X, g)
    assert (ramp - solvers.ab2(gaussian, X, g)).abs().max() > 1e-4 < (ramp - solvers.dualfast(gaussian, X, g, cached="first")).abs().max()


def test_second_order_rules_are_exact_for_noise_linear_in_kappa():
    """AB2 on equal kappa steps once it has a past, Heun but for its last (first-order) step; DDIM is not."""
    denoise, solution = linear_noise(0.4, X)
    g = equal_kappa(10)
    missed = 0.4 * 0.5 * (g.kappa[1] - g.kappa[0]) ** 2 * g.alpha[-1]  # what one Euler step of slope 0.4 misses
    assert torch.allclose(solvers.ab2(denoise, X, g) - solution(g), -missed.expand_as(X), atol=1e-12)
    assert torch.allclose(solvers.heun(denoise, X, g) - solution(g), -missed.expand_as(X), atol=1e-12)
    assert torch.allclose(solvers.ddim(denoise, X, g) - solution(g), -10 * missed.expand_as(X), atol=1e-12)
    assert torch.allclose(solvers.dualfast(denoise, X, g) - solution(g), -5 * missed.expand_as(X), atol=1e-12)  # sum_i (1 - 2 c_i), c_i = i/18


@pytest.mark.parametrize("name", ["ddim", "two_m"])
@pytest.mark.parametrize("spacing", solvers.SPACINGS)
def test_a_constant_prediction_is_reproduced(name, spacing):
    """x0 = c everywhere: the flow keeps (x - alpha c)/sigma."""
    g = grid(LEVELS, 7, spacing)
    wanted = g.alpha[-1] * 0.8 + g.sigma[-1] * (X - g.alpha[0] * 0.8) / g.sigma[0]
    assert torch.allclose(ALL[name](lambda x, a, s: torch.full_like(x, 0.8), X, g), wanted, atol=1e-12)


@pytest.mark.parametrize("form, rescale, exact", [("edm", False, True), ("edm", True, True), ("vp", True, False), ("vp", False, False), ("uniform", False, False)])
def test_evodiff_and_a_constant_prediction(form, rescale, exact):
    """Eq. evodiff: the difference x0 - r x0_previous vanishes only where sigma'/sigma is constant, in EDM form on a log-SNR grid; in VP form it does not (expected to fail there)."""
    kappa = torch.linspace(4, -4, 9, dtype=torch.float64).exp()
    g = solvers.edm_grid(torch.cat([kappa, kappa.new_zeros(1)])) if form == "edm" else grid(LEVELS, 7, "uniform" if form == "uniform" else "log_snr")
    end = solvers.evodiff(lambda x, a, s: torch.full_like(x, 0.8), X, g, rescale=rescale)
    worst = (end - g.alpha[-1] * 0.8 - g.sigma[-1] * (X - g.alpha[0] * 0.8) / g.sigma[0]).abs().max().item()
    assert worst < 1e-12 if exact else worst > 1e-5


@pytest.mark.parametrize("name", ALL)
def test_one_step_to_zero_noise_is_the_posterior_mean(name):
    g = solvers.edm_grid(torch.tensor([80.0, 0.0], dtype=torch.float64))
    assert torch.allclose(ALL[name](gaussian, 80 * X, g), gaussian(80 * X, 1.0, 80.0), atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_evaluations_and_ends(name):
    """N evaluations (Heun 2N - 1), also on a grid that ends at sigma = 0, with a finite end near the law."""
    calls = []
    counted = lambda x, a, s: calls.append(1) or gaussian(x, a, s)  # noqa: E731
    end = ALL[name](counted, 80 * X, solvers.edm_grid(schedules.karras_sigmas(12, dtype=torch.float64)))
    assert len(calls) == (23 if name == "heun" else 12) and torch.isfinite(end).all()
    assert (end - (0.3 + 0.5 * X)).abs().max() < 0.5  # the flow of N(0.3, 0.5^2) is the quantile map


@pytest.mark.parametrize("name, order", [("ddim", 1), ("ab2", 2), ("two_m", 2), ("two_m_eps", 2), ("heun", 2)])
def test_orders(name, order):
    """Eq. 2m: DDIM falls with the first power of the step, second-order rules with the second."""
    spread = lambda i: (0.25 * LEVELS.alpha[i] ** 2 + LEVELS.sigma[i] ** 2).sqrt()  # noqa: E731
    exact = 0.3 * LEVELS.alpha[-1] + (X - 0.3 * LEVELS.alpha[0]) * spread(-1) / spread(0)
    errors = [(ALL[name](gaussian, X, grid(LEVELS, n, "log_snr")) - exact).abs().mean().log2().item() for n in (80, 160)]
    assert errors[0] - errors[1] == pytest.approx(order, abs=0.15 * order)


@pytest.mark.parametrize("name", ALL)
def test_a_draw_does_not_depend_on_its_batch(name):
    g = grid(LEVELS, 6, "log_snr")
    assert torch.allclose(ALL[name](gaussian, X, g)[3:4], ALL[name](gaussian, X[3:4], g), atol=1e-13)


def test_evodiff_maps_and_constants_differ():
    g = grid(LEVELS, 8, "log_snr")
    ends = [solvers.evodiff(partial(gaussian, v=0.01), X, g, maps=maps, rescale=False) for maps in ("code", "paper", (0.25, 0.5), (0.5, 1.0))]
    assert all((a - b).abs().max() > 1e-4 for i, a in enumerate(ends) for b in ends[:i])
    with pytest.raises(InputError, match="maps"):
        solvers.evodiff(gaussian, X, g, maps="other")


def test_evodiff_half_and_one_is_nearly_ddim_on_a_prediction_linear_in_log_snr():
    """With eta = 1/2, B is a second difference, which a linearly moving x0 does not have; (1/4, 1/2) keeps the first difference as 2M does."""
    g = grid(LEVELS, 10, "log_snr")
    moving = lambda x, a, s: torch.zeros_like(x) + 0.05 * torch.log(torch.as_tensor(a / s)) + 1  # noqa: E731
    ddim, two_m = solvers.ddim(moving, X, g), solvers.two_m(moving, X, g)
    half, quarter = (solvers.evodiff(moving, X, g, maps=maps, rescale=False) for maps in ((0.5, 1.0), (0.25, 0.5)))
    assert (half - ddim).abs().max() < 0.5 * (two_m - ddim).abs().max() and (quarter - two_m).abs().max() < 0.5 * (two_m - ddim).abs().max()


def test_grids():
    for spacing in solvers.SPACINGS:
        g = grid(LEVELS, 10, spacing)
        assert torch.allclose(g.alpha**2 + g.sigma**2, torch.ones(11, dtype=torch.float64)) and (g.log_snr.diff() > 0).all() and (g.time.diff() < 0).all()
        assert g.kappa[0].item() == pytest.approx(LEVELS.kappa[0].item()) and g.kappa[-1].item() == pytest.approx(LEVELS.kappa[-1].item())
    assert torch.allclose(grid(LEVELS, 10, "log_snr").log_snr.diff().diff(), torch.zeros(9, dtype=torch.float64), atol=1e-8)
    early = grid(LEVELS, 10, "early").time
    assert (early.diff().abs().diff() > 0).all()  # dense at noise
    assert torch.equal(grid(LEVELS, 999).alpha, LEVELS.alpha)
    with pytest.raises(InputError, match="steps"):
        grid(LEVELS, 1000)
    with pytest.raises(InputError, match="spacing"):
        grid(LEVELS, 10, "cosine")


def test_time_shift():
    """Eq. time-shift: no window is the base sampler; chosen times stay within window and schedule at both ends; the corrected target differs; a scalar has no variance."""
    g = grid(LEVELS, 10)
    shift = partial(solvers.time_shift, solvers.ddim, levels=LEVELS)
    assert torch.equal(shift(gaussian, X, g, window=0), solvers.ddim(gaussian, X, g))
    asked = []

    def watched(x, alpha, sigma):
        asked.append(torch.as_tensor(sigma / alpha).log().neg().expand(len(x), 1))
        return gaussian(x, alpha, sigma)

    plain = shift(watched, X, g, window=400)
    for i, used in enumerate(asked):
        low, high = (LEVELS.log_snr[(LEVELS.time - g.time[i]).abs() <= (200 if i else 0)][j] for j in (0, -1))
        assert (used >= low - 1e-9).all() and (used <= high + 1e-9).all()
    assert torch.stack(asked[1:]).std() > 0
    for other in ({"target": "corrected"}, {"target": "another"}, {"cutoff": 500}):
        assert (shift(gaussian, X, g, window=400, **other) - plain).abs().max() > 1e-4
    assert torch.equal(shift(gaussian, X, g, window=400, cutoff=1000), solvers.ddim(gaussian, X, g))
    with pytest.raises(InputError, match="at least two"):
        shift(gaussian, X[:, :1], g, window=10)


def test_ancestral_sampling_draws_the_gaussian():
    x = torch.randn((8_000, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    end = solvers.ancestral(gaussian, x, grid(LEVELS, 800, "log_snr"), torch.Generator().manual_seed(1))
    assert end.mean().item() == pytest.approx(0.3, abs=0.015) and end.std().item() == pytest.approx(0.5, abs=0.012)
    assert (end - solvers.ddim(gaussian, x, grid(LEVELS, 150, "log_snr"))).std() > 0.4  # a new draw, not the flow's
