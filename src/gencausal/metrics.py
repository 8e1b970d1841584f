"""Metrics: pure functions of arrays, against the known truth of a simulated data set or against realised outcomes.

Notation: n units, m draws a unit, K arms; `tau` = mu_1 - mu_0 the true effects, `mu` the true potential-outcome means,
`draws` [n, m] samples of p(y | x, z), one row a unit. Truth in closed form is N(mean, sd^2) a unit (spec iwdd, sections 3.2 and 4).
"Better" is lower, unless a docstring says otherwise.

Arrays, lists, data frames and torch tensors of any device go in. Every argument must have exactly the shape its docstring
gives: nothing is broadcast, so `[n, 1]` beside `[n]` is an error and not an `[n, n]` table. NaN and infinity are errors too.
Errors are `InputError`s (ValueErrors) that name the argument. Functions with `each` give the mean over units, or with `each=True` the
value of each unit, [n].
"""

from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.special import ndtr, ndtri

from gencausal import checks
from gencausal.checks import InputError


def _array(name: str, value, shape: str, **sizes: int) -> np.ndarray:
    """`value` as float64, of the rank that `shape` writes (such as "n m"), non-empty, finite; `sizes` fixes named axes."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be an array of numbers of shape [{', '.join(shape.split())}]; got {type(value).__name__}.") from None
    axes = shape.split()
    want = f"[{', '.join(f'{axis}={sizes[axis]}' if axis in sizes else axis for axis in axes)}]"
    if array.ndim != len(axes) or any(size != sizes.get(axis, size) for axis, size in zip(axes, array.shape)):
        raise InputError(f"{name} must have shape {want}; got {list(array.shape)}. Nothing is broadcast: reshape it first.")
    if array.size == 0:
        raise InputError(f"{name} is empty, shape {list(array.shape)}; give at least one value.")
    if not np.isfinite(array).all():
        raise InputError(f"{name} holds {int((~np.isfinite(array)).sum())} NaN or infinite values; remove their cause first.")
    return array


def _positive(name: str, array: np.ndarray) -> np.ndarray:
    if (array <= 0).any():
        raise InputError(f"{name} must be above zero; its smallest value is {array.min():g}.")
    return array


def _reduce(values: np.ndarray, each: bool) -> np.ndarray | float:
    return values if each else float(values.mean())


# ---------------------------------------------------------------- effects


def rmse(estimate, truth) -> float:
    """Root mean squared error between two vectors [n]."""
    estimate = _array("estimate", estimate, "n")
    truth = _array("truth", truth, "n", n=len(estimate))
    return float(np.sqrt(np.mean((estimate - truth) ** 2)))


def pehe(tau_hat, tau) -> float:
    """Root PEHE, sqrt(mean_i (tau_hat_i - tau_i)^2), of effects [n] (Hill 2011). Both as y1 - y0 or both as y0 - y1 give the same."""
    tau_hat = _array("tau_hat", tau_hat, "n")
    return rmse(tau_hat, _array("tau", tau, "n", n=len(tau_hat)))


def pehe_normalised(tau_hat, tau, mu) -> float:
    """PEHE divided by the population sd of pooled `mu`, the scale of spec iwdd, sections 3.6 and 5.3.

    tau_hat, tau: effects of the rows to score, [n]
    mu: potential-outcome means of **all** rows of the data set, train and test, every arm, [n_all, K]
    """
    error = pehe(tau_hat, tau)
    scale = float(_array("mu", mu, "n_all K").std())
    if scale == 0:
        raise InputError("mu is constant, so PEHE has no scale; use pehe instead.")
    return error / scale


def ate_error(tau_hat, tau) -> float:
    """|mean tau_hat - mean tau| of effects [n]."""
    tau_hat = _array("tau_hat", tau_hat, "n")
    return float(abs(tau_hat.mean() - _array("tau", tau, "n", n=len(tau_hat)).mean()))


def rmse_per_arm(mu_hat, mu) -> np.ndarray:
    """RMSE of the potential-outcome means of each arm over all rows given, [n, K] and [n, K] -> [K]."""
    mu_hat = _array("mu_hat", mu_hat, "n K")
    mu = _array("mu", mu, "n K", n=mu_hat.shape[0], K=mu_hat.shape[1])
    return np.sqrt(np.mean((mu_hat - mu) ** 2, axis=0))


# ---------------------------------------------------------------- predictive distributions


def interval(draws, level: float = 0.9, stratified: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Central interval of the draws [n, m] of each unit: two vectors [n].

    The quantile p lies at rank p (m + 1) (linear between ranks), which makes a new exchangeable draw fall inside with
    probability `level`; the usual p (m - 1) + 1 covers too little, 88 % instead of 90 % at m = 100. The price is a smallest
    number of draws, 2 / (1 - level) - 1: 19 for 90 %, 39 for 95 %; with fewer it is an error.

    stratified: the draws are the law's quantiles at (j + 1/2) / m instead; the quantile p then lies at rank p m + 1/2 and the
    interval holds `level` of the law itself.
    """
    draws = _array("draws", draws, "n m")
    checks.fraction(level, "level")
    needed = int(np.ceil(2 / (1 - level) - 1 - 1e-9))
    if draws.shape[1] < needed:
        raise InputError(f"draws must hold at least {needed} draws a unit for an interval of level {level:g}; got {draws.shape[1]}.")
    tail = (1 - level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], axis=1, method="hazen" if stratified else "weibull")
    return low, high


def coverage(draws, y, level: float = 0.9, stratified: bool = False) -> float:
    """Share of realised outcomes `y` [n] inside the central interval of their draws [n, m]; near `level` is better."""
    low, high = interval(draws, level, stratified)
    y = _array("y", y, "n", n=len(low))
    return float(np.mean((low <= y) & (y <= high)))


def interval_width(draws, level: float = 0.9) -> float:
    """Median over units of the width of the central interval of draws [n, m]; narrower is better at equal coverage."""
    low, high = interval(draws, level)
    return float(np.median(high - low))


def _half_spread(draws: np.ndarray, fair: bool) -> np.ndarray:
    """0.5 E|Y_j - Y_k| of each row of draws [n, m], by sorting: sum_{j<k} (y_(k) - y_(j)) = sum_i (2 i - m - 1) y_(i)."""
    m = draws.shape[1]
    if fair and m < 2:
        raise InputError("draws must hold at least two draws a unit for the fair score; got 1 (fair=False scores a single draw).")
    draws = np.sort(draws, axis=1)
    pairs = (draws - draws.mean(axis=1, keepdims=True)) @ (2.0 * np.arange(1, m + 1) - m - 1)
    return pairs / (m * (m - 1) if fair else m * m)


def crps(draws, y, fair: bool = True, each: bool = False):
    """CRPS of draws [n, m] at realised outcomes y [n]: mean_j |Y_j - y| - 0.5 mean_{j,k} |Y_j - Y_k|.

    fair: True averages the second term over j != k, which makes the score unbiased for the CRPS of the law behind the draws
    (Ferro 2014) and lets methods with different m stand in one table; False includes j = k, the CRPS of the empirical law,
    larger by E|Y_j - Y_k| / (2 m) in expectation. O(m log m) a unit. For a calibrated N(mu, sd^2) its mean is sd / sqrt(pi).
    """
    draws = _array("draws", draws, "n m")
    y = _array("y", y, "n", n=len(draws))
    return _reduce(np.abs(draws - y[:, None]).mean(axis=1) - _half_spread(draws, fair), each)


def _mean_absolute_gaussian(z: np.ndarray) -> np.ndarray:
    """E|z - Z| for Z ~ N(0, 1)."""
    return z * (2 * ndtr(z) - 1) + 2 * _density(z)


def _density(z: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)


def _gaussian(mean, sd, n: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    mean = _array("mean", mean, "n", **({} if n is None else {"n": n}))
    return mean, _positive("sd", _array("sd", sd, "n", n=len(mean)))


def crps_gaussian(mean, sd, y, each: bool = False):
    """CRPS of the forecast N(mean, sd^2) at y, all [n], in closed form (Gneiting et al. 2005)."""
    mean, sd = _gaussian(mean, sd)
    y = _array("y", y, "n", n=len(mean))
    return _reduce(sd * (_mean_absolute_gaussian((y - mean) / sd) - 1 / np.sqrt(np.pi)), each)


def crps_expected(draws, mean, sd, fair: bool = True, each: bool = False):
    """CRPS of draws [n, m] averaged exactly over outcomes y ~ N(mean, sd^2), [n] each: `crps` without the noise of one y."""
    draws = _array("draws", draws, "n m")
    mean, sd = _gaussian(mean, sd, len(draws))
    distance = sd[:, None] * _mean_absolute_gaussian((draws - mean[:, None]) / sd[:, None])
    return _reduce(distance.mean(axis=1) - _half_spread(draws, fair), each)


def energy_score(draws, y, fair: bool = True, each: bool = False):
    """Energy score of draws [n, m, d] at y [n, d]: `crps` with the Euclidean norm, equal to it at d = 1. O(m^2) a unit."""
    draws = _array("draws", draws, "n m d")
    n, m, d = draws.shape
    y = _array("y", y, "n d", n=n, d=d)
    if fair and m < 2:
        raise InputError("draws must hold at least two draws a unit for the fair score; got 1 (fair=False scores a single draw).")
    distance = np.linalg.norm(draws - y[:, None], axis=2).mean(axis=1)
    pairs = np.array([np.linalg.norm(unit[:, None] - unit[None], axis=2).sum() for unit in draws])
    return _reduce(distance - 0.5 * pairs / (m * (m - 1) if fair else m * m), each)


def _cells(draws, mean, sd) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sorted standardised draws [n, m], the m + 1 normal quantiles of level i / m, and sd [n]."""
    draws = _array("draws", draws, "n m")
    mean, sd = _gaussian(mean, sd, len(draws))
    scores = (np.sort(draws, axis=1) - mean[:, None]) / sd[:, None]
    return scores, ndtri(np.arange(draws.shape[1] + 1) / draws.shape[1]), sd


def wasserstein1(draws, mean, sd, each: bool = False):
    """W1 between the draws [n, m] of each unit and N(mean, sd^2), [n] each, then the mean over units.

    Exact: the i-th smallest draw against the quantiles of level (i-1)/m to i/m, integrated in closed form. Perfect draws do not
    score zero but a floor of order 1/sqrt(m) (sd 1: 0.128 at m = 100), so compare methods at equal m, beside draws of the truth.
    """
    scores, edges, sd = _cells(draws, mean, sd)
    low, high = edges[:-1], edges[1:]
    split = np.clip(scores, low, high)
    cells = scores * (2 * ndtr(split) - ndtr(low) - ndtr(high)) + 2 * _density(split) - _density(low) - _density(high)
    return _reduce(sd * cells.sum(axis=1), each)


def wasserstein2(draws, mean, sd, each: bool = False):
    """W2 (the root) between the draws [n, m] of each unit and N(mean, sd^2), exact like `wasserstein1`; the mean of the roots."""
    scores, edges, sd = _cells(draws, mean, sd)
    squared = (scores**2).mean(axis=1) - 2 * scores @ (_density(edges[:-1]) - _density(edges[1:])) + 1
    return _reduce(sd * np.sqrt(np.maximum(squared, 0)), each)


def _gaps(draws, other) -> tuple[np.ndarray, np.ndarray]:
    """Differences of the two quantile functions on their common cells, [n, cells], and the cells' widths, which sum to 1."""
    draws = _array("draws", draws, "n m")
    other = _array("other", other, "n k", n=len(draws))
    m, k = draws.shape[1], other.shape[1]
    edges = np.union1d(np.arange(m + 1) * k, np.arange(k + 1) * m)  # levels times m k, in whole numbers
    start = edges[:-1]
    return np.sort(draws, axis=1)[:, start // k] - np.sort(other, axis=1)[:, start // m], np.diff(edges) / (m * k)


def wasserstein1_samples(draws, other, each: bool = False):
    """W1 between two samples of each unit, [n, m] and [n, k]; m and k may differ. Exact for the empirical laws."""
    gaps, widths = _gaps(draws, other)
    return _reduce(np.abs(gaps) @ widths, each)


def wasserstein2_samples(draws, other, each: bool = False):
    """W2 (the root) between two samples of each unit, [n, m] and [n, k]; m and k may differ. Exact for the empirical laws."""
    gaps, widths = _gaps(draws, other)
    return _reduce(np.sqrt(gaps**2 @ widths), each)


def gaussian_w2(mean, sd, other_mean, other_sd, each: bool = False):
    """W2 between N(mean, sd^2) and N(other_mean, other_sd^2), all [n]: sqrt((m1 - m2)^2 + (s1 - s2)^2)."""
    mean, sd = _gaussian(mean, sd)
    other_mean = _array("other_mean", other_mean, "n", n=len(mean))
    other_sd = _positive("other_sd", _array("other_sd", other_sd, "n", n=len(mean)))
    return _reduce(np.hypot(mean - other_mean, sd - other_sd), each)


def pit(draws, y, rng: np.random.Generator | None = None) -> np.ndarray:
    """Probability integral transform F_hat(y) of y [n] under draws [n, m], in (0, 1): uniform if the draws are calibrated.

    (rank + u) / (m + 1), rank = the number of draws below y. With `rng`, u ~ U(0, 1) and ties are broken at random: exactly
    uniform for calibrated draws at any m. Without, u = 1/2 and ties count half: deterministic, on a grid of step 1 / (m + 1).
    """
    draws = _array("draws", draws, "n m")
    y = _array("y", y, "n", n=len(draws))[:, None]
    below, ties = (draws < y).sum(axis=1), (draws == y).sum(axis=1)
    u = 0.5 if rng is None else rng.uniform(size=len(draws))
    return (below + u * (ties + 1)) / (draws.shape[1] + 1)


def ks_uniform(values) -> float:
    """Kolmogorov-Smirnov distance between values [n] in [0, 1] and the uniform law: sup |F_n(u) - u|."""
    values = np.sort(_array("values", values, "n"))
    if values[0] < 0 or values[-1] > 1:
        raise InputError(f"values must lie in [0, 1], as pit gives them; they run from {values[0]:g} to {values[-1]:g}.")
    n = len(values)
    return float(max(np.max(np.arange(1, n + 1) / n - values), np.max(values - np.arange(n) / n)))


def pit_ks(draws, y, rng: np.random.Generator | None = None) -> float:
    """KS distance of the PIT of y [n] under draws [n, m] to the uniform law.

    Calibrated draws give about 0.87 / sqrt(n); without `rng` the grid alone gives 0.5 / (m + 1), so pass one where m is small.
    """
    return ks_uniform(pit(draws, y, rng))


# ---------------------------------------------------------------- weights and gradients


def effective_sample_size(log_w) -> float:
    """(sum w)^2 / sum w^2 from log weights [B], in [1, B]; higher is better. -inf is a weight of zero; the scale does not matter."""
    if hasattr(log_w, "detach"):
        log_w = log_w.detach().cpu().numpy()
    log_w = np.asarray(log_w, dtype=np.float64)
    kept = log_w if log_w.ndim != 1 else log_w[log_w != -np.inf]
    if log_w.ndim == 1 and log_w.size and not kept.size:
        raise InputError("log_w is -inf everywhere, so no weight is left; look at the propensities.")
    w = np.exp(kept - _array("log_w", kept, "B").max())
    return float(w.sum() ** 2 / (w**2).sum())


def gradient_variance(gradients) -> float:
    """Trace of the covariance of a batch gradient, from repeated gradients at fixed parameters [repeats, p] (divisor repeats - 1)."""
    gradients = _array("gradients", gradients, "repeats p")
    if len(gradients) < 2:
        raise InputError("gradients must hold at least two repeats for a variance; got 1.")
    return float(gradients.var(axis=0, ddof=1).sum())


# ---------------------------------------------------------------- tables of errors, one row a data set


def win_rate(errors) -> np.ndarray:
    """Share of data sets on which each method has the lowest error, [data sets, methods] -> [methods]; ties are split. Higher is better.

    A win rate alone can crown a method whose average is terrible: give it with mean, median, `trimmed_mean` and `mean_rank`.
    """
    errors = _array("errors", errors, "data_sets methods")
    best = errors == errors.min(axis=1, keepdims=True)
    return (best / best.sum(axis=1, keepdims=True)).mean(axis=0)


def mean_rank(errors) -> np.ndarray:
    """Mean rank of each method, 1 = lowest error, ties share their average rank; [data sets, methods] -> [methods]."""
    return stats.rankdata(_array("errors", errors, "data_sets methods"), axis=1).mean(axis=0)


def trimmed_mean(values, share: float = 0.1) -> float:
    """Mean of values [n] without the floor(share n) lowest and as many highest."""
    values = np.sort(_array("values", values, "n"))
    if not 0 <= share < 0.5:
        raise InputError(f"share must lie in [0, 0.5), the part cut at each end; got {share}.")
    cut = int(share * len(values) + 1e-9)
    return float(values[cut : len(values) - cut].mean())


class Interval(NamedTuple):
    """A mean over `n` units with its bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int


def bootstrap_mean(values, rng: np.random.Generator, level: float = 0.95, resamples: int = 10_000) -> Interval:
    """Mean of values [n], one a unit, with the percentile interval of its bootstrap over units. Needs two units or more."""
    values = _array("values", values, "n")
    n = len(values)
    if n < 2:
        raise InputError("values must hold at least two units for a bootstrap interval; got 1.")
    checks.fraction(level, "level")
    checks.whole(resamples, "resamples", low=100)
    block = max(1, 1_000_000 // n)  # resamples drawn at once: bounds the memory
    means = [values[rng.integers(n, size=(min(block, resamples - i), n))].mean(axis=1) for i in range(0, resamples, block)]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high), n)


def paired_difference(a, b, rng: np.random.Generator, level: float = 0.95, resamples: int = 10_000) -> Interval:
    """Mean of a - b over units, [n] and [n] in the same order, with its bootstrap interval: below zero says a has the lower error."""
    a = _array("a", a, "n")
    return bootstrap_mean(a - _array("b", b, "n", n=len(a)), rng, level, resamples)
