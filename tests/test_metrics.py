"""Every metric against a case computed by hand or in closed form (spec iwdd, sections 4 and 8, items 3, 15)."""

import numpy as np
import pytest
import torch

from gencausal import metrics
from gencausal.checks import InputError
from gencausal.seeding import numpy_generator

N, M = 4000, 49


@pytest.fixture(scope="module")
def oracle():
    """Exact draws [N, M] of N(mean, sd^2), one realised outcome a unit, and the truth."""
    rng = numpy_generator(0, "test_metrics")
    mean, sd = rng.normal(size=N), rng.uniform(0.5, 2, size=N)
    draws = mean[:, None] + sd[:, None] * rng.normal(size=(N, M))
    return draws, mean + sd * rng.normal(size=N), mean, sd


# ---------------------------------------------------------------- effects


def test_pehe_by_hand():
    tau, tau_hat = [1.0, 2.0, 4.0], [1.0, 5.0, 0.0]
    assert metrics.pehe(tau_hat, tau) == pytest.approx(np.sqrt(25 / 3))
    assert metrics.pehe(tau, tau) == 0
    assert metrics.pehe([0.0, 0.0, 0.0], tau) == pytest.approx(np.sqrt(21 / 3))  # zero effect: RMS of tau
    assert metrics.ate_error(tau_hat, tau) == pytest.approx(1 / 3)
    assert metrics.ate_error(tau, tau_hat) == pytest.approx(1 / 3)


def test_pehe_does_not_depend_on_the_direction_of_the_difference():
    rng = numpy_generator(1, "test_metrics")
    mu, mu_hat = rng.normal(size=(50, 2)), rng.normal(size=(50, 2))
    forward = metrics.pehe(mu_hat[:, 1] - mu_hat[:, 0], mu[:, 1] - mu[:, 0])
    assert metrics.pehe(mu_hat[:, 0] - mu_hat[:, 1], mu[:, 0] - mu[:, 1]) == forward
    assert metrics.pehe(mu_hat[:, 0] - mu_hat[:, 1], mu[:, 1] - mu[:, 0]) != pytest.approx(forward, rel=0.01)


def test_normalised_pehe_divides_by_the_population_sd_of_pooled_mu_of_all_rows():
    mu = np.array([[0.0, 2.0], [0.0, 2.0], [1.0, 7.0]])  # pooled mean 2, population variance (4+0+4+0+1+25)/6
    scale = np.sqrt(34 / 6)
    assert metrics.pehe_normalised([0.0], [6.0], mu) == pytest.approx(6 / scale)
    assert metrics.pehe_normalised([0.0], [60.0], 10 * mu) == pytest.approx(6 / scale)  # free of units
    with pytest.raises(ValueError, match="mu is constant"):
        metrics.pehe_normalised([0.0], [6.0], np.ones((3, 2)))


def test_rmse_per_arm_by_hand():
    mu_hat, mu = np.array([[1.0, 0.0], [3.0, 0.0]]), np.array([[0.0, 0.0], [0.0, 4.0]])
    np.testing.assert_allclose(metrics.rmse_per_arm(mu_hat, mu), [np.sqrt(5), np.sqrt(8)])


# ---------------------------------------------------------------- predictive distributions


def test_intervals_by_hand():
    draws = np.arange(1.0, 20)[None, ::-1]  # 1..19: rank p (m + 1) is 1 and 19 at 90 %, 5 and 15 at 50 %
    np.testing.assert_allclose(metrics.interval(draws, 0.9), [[1], [19]])
    np.testing.assert_allclose(metrics.interval(draws, 0.5), [[5], [15]])
    twice = np.repeat(draws, 3, axis=0)
    assert metrics.coverage(twice, [4.9, 5.0, 15.0], 0.5) == pytest.approx(2 / 3)
    assert metrics.interval_width(np.concatenate([draws, 10 * draws, 20 * draws]), 0.5) == 100  # the median, not the mean
    with pytest.raises(ValueError, match="at least 39 draws"):
        metrics.interval(draws, 0.95)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
def test_coverage_is_nominal_for_oracle_draws(oracle, level):
    draws, y, mean, _ = oracle
    error = 4 * np.sqrt(level * (1 - level) / N)
    assert metrics.coverage(draws, y, level) == pytest.approx(level, abs=error)
    assert metrics.coverage(mean[:, None] + 0.7 * (draws - mean[:, None]), y, level) < level - error  # too narrow


def test_interval_width_is_that_of_the_truth(oracle):
    draws, _, _, sd = oracle
    assert metrics.interval_width(draws, 0.8) == pytest.approx(2 * 1.2816 * np.median(sd), rel=0.03)


@pytest.mark.parametrize("fair", [True, False])
def test_crps_equals_the_double_loop(fair):
    rng = numpy_generator(2, "test_metrics")
    draws, y = rng.normal(size=(5, 7)), rng.normal(size=5)
    draws[0, :3] = draws[0, 3]  # ties
    slow = []
    for row, value in zip(draws, y):
        pairs = [abs(a - b) for i, a in enumerate(row) for j, b in enumerate(row) if i != j or not fair]
        slow.append(np.mean([abs(a - value) for a in row]) - 0.5 * np.mean(pairs))
    np.testing.assert_allclose(metrics.crps(draws, y, fair=fair, each=True), slow, rtol=1e-12)
    assert metrics.crps(draws, y, fair=fair) == pytest.approx(np.mean(slow))
    assert metrics.energy_score(draws[:, :, None], y[:, None], fair=fair) == pytest.approx(np.mean(slow))


def test_crps_of_calibrated_gaussian_draws_is_sd_over_root_pi(oracle):
    draws, y, mean, sd = oracle
    ideal = sd.mean() / np.sqrt(np.pi)
    assert metrics.crps(draws, y) == pytest.approx(ideal, rel=0.03)
    assert metrics.crps_gaussian(mean, sd, y) == pytest.approx(ideal, rel=0.03)
    assert metrics.crps_expected(draws, mean, sd) == pytest.approx(ideal, rel=0.002)  # no noise of y left
    unfair = metrics.crps_expected(draws, mean, sd, fair=False)
    assert unfair == pytest.approx(ideal * (1 + 1 / M), rel=0.002) and unfair > 1.01 * ideal
    for other in (draws + 0.3, mean[:, None] + 0.6 * (draws - mean[:, None]), mean[:, None] + 1.6 * (draws - mean[:, None])):
        assert metrics.crps_expected(other, mean, sd) > 1.02 * ideal  # proper: the truth is best


def test_crps_does_not_lose_digits_far_from_zero(oracle):
    draws, y, _, _ = oracle
    assert metrics.crps(draws + 1e6, y + 1e6) == pytest.approx(metrics.crps(draws, y), rel=1e-8)


def test_closed_form_crps_equals_its_integral():
    """CRPS = int (F(u) - 1{u >= y})^2 du, and crps_expected = int of crps over the law of y."""
    grid = np.linspace(-15, 15, 60001)
    cdf = np.array([0.5 * (1 + torch.erf(torch.tensor((u - 0.5) / (1.5 * np.sqrt(2)))).item()) for u in grid[::20]])
    integral = np.trapezoid((cdf - (grid[::20] >= 1.2)) ** 2, grid[::20])
    assert metrics.crps_gaussian([0.5], [1.5], [1.2]) == pytest.approx(integral, abs=2e-3)
    draws = np.array([[-1.0, 0.3, 2.0]])
    weight = np.exp(-0.5 * ((grid - 0.5) / 1.5) ** 2) / (1.5 * np.sqrt(2 * np.pi))
    scores = metrics.crps(np.repeat(draws, len(grid), axis=0), grid, each=True)
    assert metrics.crps_expected(draws, [0.5], [1.5]) == pytest.approx(np.trapezoid(scores * weight, grid), abs=1e-6)


def test_energy_score_by_hand():
    draws, y = np.array([[[0.0, 0.0], [3.0, 4.0]]]), np.array([[0.0, 0.0]])
    assert metrics.energy_score(draws, y, fair=False) == pytest.approx(2.5 - 0.5 * 2.5)
    assert metrics.energy_score(draws, y) == pytest.approx(2.5 - 0.5 * 5)


def test_wasserstein_of_one_draw_by_hand():
    """A point mass at the mean: W1 = E|Z| = sqrt(2 / pi) sd, W2 = sd; away from it W2^2 = bias^2 + sd^2."""
    assert metrics.wasserstein1([[3.0]], [3.0], [2.0]) == pytest.approx(2 * np.sqrt(2 / np.pi))
    assert metrics.wasserstein2([[3.0]], [3.0], [2.0]) == pytest.approx(2)
    assert metrics.wasserstein2([[6.0]], [3.0], [4.0]) == pytest.approx(5)


def test_wasserstein_to_a_gaussian_equals_that_to_its_fine_quantiles():
    rng = numpy_generator(3, "test_metrics")
    draws, mean, sd = rng.standard_t(3, size=(6, 11)), rng.normal(size=6), rng.uniform(0.5, 2, size=6)
    levels = (np.arange(200_000) + 0.5) / 200_000
    normal = torch.special.ndtri(torch.tensor(levels)).numpy()
    quantiles = mean[:, None] + sd[:, None] * normal
    for exact, sampled in ((metrics.wasserstein1, metrics.wasserstein1_samples), (metrics.wasserstein2, metrics.wasserstein2_samples)):
        np.testing.assert_allclose(exact(draws, mean, sd, each=True), sampled(draws, quantiles, each=True), rtol=2e-4)


def test_wasserstein_of_shifted_and_scaled_draws(oracle):
    draws, _, mean, sd = oracle
    assert metrics.wasserstein1(draws + 10, mean, sd) == pytest.approx(10, rel=0.01)
    many = numpy_generator(4, "test_metrics").normal(size=(3, 100_000))
    zero, one = np.zeros(3), np.ones(3)
    assert metrics.wasserstein2(2 + 3 * many, zero, one) == pytest.approx(metrics.gaussian_w2(zero + 2, 3 * one, zero, one), rel=0.01)
    assert metrics.wasserstein2(many, zero, one) < 0.02
    assert metrics.wasserstein1(many, zero, one) < 0.01


def test_gaussian_w2_by_hand():
    assert metrics.gaussian_w2([1.0], [2.0], [4.0], [6.0]) == pytest.approx(5)
    np.testing.assert_allclose(metrics.gaussian_w2([1.0, 0.0], [2.0, 1.0], [4.0, 0.0], [6.0, 3.0], each=True), [5, 2])


def test_wasserstein_between_samples_by_hand():
    assert metrics.wasserstein1_samples([[0.0, 3.0]], [[5.0, 1.0]]) == pytest.approx(1.5)  # sorted: 0-1, 3-5
    assert metrics.wasserstein2_samples([[0.0, 3.0]], [[5.0, 1.0]]) == pytest.approx(np.sqrt(2.5))
    # quantiles of [0, 6] and [0, 0, 6] differ on levels 1/2 to 2/3 alone
    assert metrics.wasserstein1_samples([[0.0, 6.0]], [[6.0, 0.0, 0.0]]) == pytest.approx(1)
    assert metrics.wasserstein2_samples([[0.0, 6.0]], [[6.0, 0.0, 0.0]]) == pytest.approx(np.sqrt(6))
    assert metrics.wasserstein1_samples([[1.0, 2.0]], [[2.0, 1.0, 1.0, 2.0]]) == 0


def test_pit_by_hand():
    draws = np.array([[0.0, 1.0, 2.0]])
    assert metrics.pit(draws, [1.5])[0] == pytest.approx(2.5 / 4)
    assert metrics.pit(draws, [1.0])[0] == pytest.approx(2 / 4)  # a tie counts half
    assert metrics.pit(draws, [-9.0])[0] == pytest.approx(0.5 / 4)
    assert metrics.ks_uniform([0.1, 0.4, 0.5]) == pytest.approx(0.5)  # all three below 0.5
    assert metrics.ks_uniform([0.9]) == pytest.approx(0.9)
    with pytest.raises(ValueError, match=r"values must lie in \[0, 1\]"):
        metrics.ks_uniform([0.5, 1.5])


def test_pit_of_the_oracle_is_uniform(oracle):
    draws, y, mean, _ = oracle
    threshold = 1.95 / np.sqrt(N)  # exceeded once in a thousand
    assert metrics.pit_ks(draws, y, rng=numpy_generator(5, "pit")) < threshold
    assert metrics.pit_ks(draws, y) < threshold + 0.5 / (M + 1)
    assert metrics.pit_ks(mean[:, None] + 0.7 * (draws - mean[:, None]), y) > 2 * threshold
    assert metrics.pit_ks(draws + 0.3, y) > 2 * threshold
    rounded = metrics.pit_ks(np.round(draws), np.round(y), rng=numpy_generator(6, "pit"))
    assert rounded < threshold  # ties broken at random keep it exact


# ---------------------------------------------------------------- weights and gradients


def test_effective_sample_size():
    assert metrics.effective_sample_size(np.full(7, -3.0)) == pytest.approx(7)
    assert metrics.effective_sample_size([-np.inf, 0.0, -np.inf]) == 1  # one-hot
    assert metrics.effective_sample_size(np.log([1.0, 2.0, 3.0])) == pytest.approx(36 / 14)
    assert metrics.effective_sample_size(np.log([1.0, 2.0, 3.0]) + 5000) == pytest.approx(36 / 14)  # no overflow
    with pytest.raises(ValueError, match="log_w is -inf everywhere"):
        metrics.effective_sample_size([-np.inf, -np.inf])
    for bad in ([0.0, np.nan], [0.0, np.inf], [], np.zeros((3, 1))):
        with pytest.raises(ValueError, match="log_w"):
            metrics.effective_sample_size(bad)


def test_gradient_variance_is_the_trace_of_the_covariance():
    gradients = numpy_generator(7, "test_metrics").normal(size=(9, 4))
    assert metrics.gradient_variance(gradients) == pytest.approx(np.trace(np.cov(gradients.T)))
    with pytest.raises(ValueError, match="gradients"):
        metrics.gradient_variance(gradients[:1])


# ---------------------------------------------------------------- tables of errors


def test_win_rate_and_rank_by_hand():
    errors = [[1.0, 2.0, 3.0], [1.0, 1.0, 5.0], [9.0, 2.0, 3.0], [4.0, 3.0, 2.0]]
    np.testing.assert_allclose(metrics.win_rate(errors), [1.5 / 4, 1.5 / 4, 1 / 4])
    np.testing.assert_allclose(metrics.mean_rank(errors), [(1 + 1.5 + 3 + 3) / 4, (2 + 1.5 + 1 + 2) / 4, (3 + 3 + 2 + 1) / 4])
    assert metrics.win_rate(errors).sum() == pytest.approx(1)


def test_trimmed_mean_by_hand():
    values = [*range(1, 5), 100.0, -50.0, *range(5, 9)]
    assert metrics.trimmed_mean(values) == pytest.approx(4.5)
    assert metrics.trimmed_mean(values, 0) == pytest.approx(np.mean(values))
    assert metrics.trimmed_mean([1.0, 2.0, 6.0]) == 3  # floor(0.3) = nothing cut
    with pytest.raises(ValueError, match="share"):
        metrics.trimmed_mean(values, 0.5)


def test_paired_difference():
    rng = numpy_generator(8, "test_metrics")
    base = rng.normal(0, 10, size=40)
    a, b = base + rng.normal(0, 1, size=40) - 1, base
    result = metrics.paired_difference(a, b, numpy_generator(0, "bootstrap"))
    half = 1.96 * (a - b).std() / np.sqrt(40)
    assert result.mean == pytest.approx((a - b).mean()) and result.n == 40
    assert result.low == pytest.approx(result.mean - half, abs=0.15 * half)  # pairing removes the spread of 10
    assert result.high == pytest.approx(result.mean + half, abs=0.15 * half)
    assert result == metrics.paired_difference(a, b, numpy_generator(0, "bootstrap"))
    assert result.low != metrics.paired_difference(a, b, numpy_generator(1, "bootstrap")).low
    with pytest.raises(ValueError, match="two units"):
        metrics.paired_difference([1.0], [2.0], numpy_generator(0))


def test_bootstrap_interval_covers_the_mean():
    rng = numpy_generator(9, "test_metrics")
    inside = [low <= 0 <= high for _, low, high, _ in (metrics.bootstrap_mean(rng.normal(size=60), rng, 0.9, 400) for _ in range(400))]
    assert np.mean(inside) == pytest.approx(0.9, abs=0.05)


# ---------------------------------------------------------------- what goes in

v, d, s = np.ones(4), np.ones((4, 60)), np.full(4, 2.0)
CASES = {  # function: arguments that work
    metrics.rmse: (v, v),
    metrics.pehe: (v, v),
    metrics.pehe_normalised: (v, v, np.eye(4)),
    metrics.ate_error: (v, v),
    metrics.rmse_per_arm: (np.ones((4, 2)), np.ones((4, 2))),
    metrics.coverage: (d, v),
    metrics.crps: (d, v),
    metrics.crps_gaussian: (v, s, v),
    metrics.crps_expected: (d, v, s),
    metrics.energy_score: (np.ones((4, 5, 3)), np.ones((4, 3))),
    metrics.wasserstein1: (d, v, s),
    metrics.wasserstein2: (d, v, s),
    metrics.wasserstein1_samples: (d, d),
    metrics.wasserstein2_samples: (d, d),
    metrics.gaussian_w2: (v, s, v, s),
    metrics.pit: (d, v),
    metrics.effective_sample_size: (v,),
    metrics.gradient_variance: (d,),
    metrics.win_rate: (d,),
    metrics.mean_rank: (d,),
    metrics.trimmed_mean: (v,),
}


SPOILED = {
    "column": lambda array: array[..., None],
    "longer": lambda array: array[None],
    "scalar": lambda array: np.float64(1),
    "one": lambda array: array[:1],
    "empty": lambda array: array[:0],
    "nan": lambda array: np.where(np.arange(array.size).reshape(array.shape) == 1, np.nan, array),
}
FREE = [(metrics.pehe_normalised, 2), *((f, 0) for f, arguments in CASES.items() if len(arguments) == 1)]  # of any length
SPOILINGS = [
    pytest.param(function, i, how, id=f"{function.__name__}-{i}-{how}")
    for function, arguments in CASES.items()
    for i in range(len(arguments))
    for how in SPOILED
    if not (how == "one" and (function, i) in FREE)
]


@pytest.mark.parametrize(("function", "i", "how"), SPOILINGS)
def test_shapes_never_broadcast(function, i, how):
    """One argument with another rank or length, no entry or a NaN: an error of ours, never a number nor numpy's own error."""
    arguments = list(CASES[function])
    function(*arguments)
    arguments[i] = SPOILED[how](arguments[i])
    with pytest.raises(InputError, match=r"must have shape|is empty|NaN or infinite"):
        function(*arguments)


def test_text_and_scale_are_refused_by_name():
    with pytest.raises(ValueError, match="tau_hat must be an array of numbers"):
        metrics.pehe(["low", "high"], [1.0, 2.0])
    with pytest.raises(ValueError, match="sd must be above zero"):
        metrics.crps_gaussian([0.0], [0.0], [0.0])
    with pytest.raises(ValueError, match="level"):
        metrics.coverage(d, v, level=90)
    with pytest.raises(ValueError, match="two draws"):
        metrics.crps(d[:, :1], v)
    assert metrics.crps(d[:, :1], v + 2, fair=False) == 2


def test_tensors_give_the_same_numbers(oracle):
    draws, y, mean, sd = (value[:20] for value in oracle)
    tensors = [torch.tensor(value, requires_grad=True) for value in (draws, y, mean, sd)]
    assert metrics.crps(tensors[0], tensors[1]) == metrics.crps(draws, y)
    assert metrics.wasserstein1(tensors[0], tensors[2], tensors[3]) == metrics.wasserstein1(draws, mean, sd)
    assert isinstance(metrics.pehe(tensors[1], tensors[2]), float)
    if torch.cuda.is_available():
        assert metrics.crps(tensors[0].cuda(), tensors[1].cuda()) == metrics.crps(draws, y)


def test_one_unit_equals_its_row_of_many(oracle):
    draws, y, mean, sd = (value[:5] for value in oracle)
    for function, arguments in (
        (metrics.crps, (draws, y)),
        (metrics.crps_gaussian, (mean, sd, y)),
        (metrics.crps_expected, (draws, mean, sd)),
        (metrics.wasserstein1, (draws, mean, sd)),
        (metrics.wasserstein2, (draws, mean, sd)),
        (metrics.wasserstein2_samples, (draws, draws[:, :4])),
    ):
        many = function(*arguments, each=True)
        assert many.shape == (5,)
        np.testing.assert_allclose(many, [function(*(a[i : i + 1] for a in arguments)) for i in range(5)], rtol=1e-12)


@pytest.mark.parametrize("m", [50, 100])
def test_interval_of_stratified_draws_holds_its_level_of_the_law(m):
    """Draws at the quantiles (j + 1/2) / m of N(0, 1): the 90 % interval holds 0.900 of the law; the rule for random draws would hold more."""
    from scipy.stats import norm

    nodes = norm.ppf((np.arange(m) + 0.5) / m)[None]
    held = [float(norm.cdf(high[0]) - norm.cdf(low[0])) for low, high in (metrics.interval(nodes, 0.9, stratified=True), metrics.interval(nodes, 0.9))]
    assert held[0] == pytest.approx(0.9, abs=1e-3) and held[1] > 0.905
