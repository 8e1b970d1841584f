r"""Errors of inferred SCMs, and distances between laws (spec cond_fip, section 4). Arrays of standardised values; lower is better throughout.

    RMSE(Y, Y_hat) = mean over rows of (|y - y_hat|^2 / d)^(1/2)                                                       `Eq. row-rmse`
        rmse_noise: noise of the query rows. rmse_generation: query rows from their true noise. rmse_intervention: rows under do() from their true noise.
        rmse_counterfactual: the same from inferred noise. Not the root of the pooled mean.
    MMD^2(P, Q) = E k(x, x') + E k(y, y') - 2 E k(x, y), k(x, y) = exp(-gamma |x - y|^2)                                 `Eq. mmd`
        biased (diagonal kept, about 2/n of floor for a nearly diagonal kernel) or unbiased
    TV(p, q) = E_{x ~ p} (1 - q(x) / p(x))_+                                                                              `Eq. tv`
        of laws whose densities are known. For SCMs with additive noise p(x) = prod_i p_i(x_i - F_i(x)), under do() without the held nodes.
    energy distance = 2 E|x - y| - E|x - x'| - E|y - y'|                                                                  `Eq. energy`
"""

import numpy as np

from gencausal import checks


def row_rmse(truth: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """`Eq. row-rmse` of each SCM: `truth, estimate [..., rows, d] -> [...]`."""
    truth, estimate = np.asarray(truth, np.float64), np.asarray(estimate, np.float64)
    if truth.shape != estimate.shape:
        raise checks.InputError(f"estimate has shape {estimate.shape} but the truth {truth.shape}; pass one value for each.")
    return np.sqrt(np.square(truth - estimate).mean(-1)).mean(-1)


def mmd(x: np.ndarray, y: np.ndarray, gamma: float | None = None, biased: bool = False) -> float:
    """MMD^2 of the rows `x [n, d]` and `y [m, d]` (Eq. mmd); gamma None: 1 / (median squared distance between different rows of the two together)."""
    x, y = checks.matrix(x, "x"), checks.matrix(y, "y", np.shape(x)[1])
    return float(_mmd(_kernel(np.concatenate([x, y]), gamma), np.arange(len(x)), np.arange(len(x), len(x) + len(y)), biased))


def mmd_test(x: np.ndarray, y: np.ndarray, rng: np.random.Generator, permutations: int = 199) -> tuple[float, float]:
    """Unbiased MMD^2 at the median width and its permutation p-value, (1 + #{as large}) / (permutations + 1)."""
    x, y = checks.matrix(x, "x"), checks.matrix(y, "y", np.shape(x)[1])
    kernel, n = _kernel(np.concatenate([x, y]), None), len(x)
    observed = _mmd(kernel, np.arange(n), np.arange(n, len(kernel)), False)
    null = []
    for _ in range(permutations):
        order = rng.permutation(len(kernel))
        null.append(_mmd(kernel, order[:n], order[n:], False))
    return float(observed), float((1 + (np.array(null) >= observed).sum()) / (permutations + 1))


def _kernel(rows: np.ndarray, gamma: float | None) -> np.ndarray:
    distance = np.maximum((rows**2).sum(1)[:, None] + (rows**2).sum(1) - 2 * rows @ rows.T, 0)
    if gamma is None:
        gamma = 1 / np.median(distance[np.triu_indices(len(rows), 1)])
    return np.exp(-gamma * distance)


def _mmd(kernel: np.ndarray, first: np.ndarray, second: np.ndarray, biased: bool) -> float:
    parts = []
    for rows in (first, second):
        block = kernel[np.ix_(rows, rows)]
        n = len(rows)
        parts.append(block.mean() if biased else (block.sum() - np.trace(block)) / (n * (n - 1)))
    return parts[0] + parts[1] - 2 * kernel[np.ix_(first, second)].mean()


def total_variation(log_p: np.ndarray, log_q: np.ndarray, axis: int = -1) -> np.ndarray:
    """`Eq. tv` by Monte Carlo over `axis`, from the log densities of draws from p; in [0, 1]."""
    return np.maximum(-np.expm1(np.minimum(np.asarray(log_q, np.float64) - np.asarray(log_p, np.float64), 0)), 0).mean(axis)


def histogram_variation(x: np.ndarray, y: np.ndarray, bins: int = 32) -> np.ndarray:
    """Total variation between the marginals of the rows `x [n, d]` and `y [m, d]` in `bins` equal bins over the range of both, [d]. Two samples of one law of 4,000 rows each give about .05."""
    x, y = checks.matrix(x, "x"), checks.matrix(y, "y", np.shape(x)[1])
    found = []
    for a, b in zip(x.T, y.T):
        edges = np.linspace(min(a.min(), b.min()), max(a.max(), b.max()) + 1e-12, bins + 1)
        found.append(0.5 * np.abs(np.histogram(a, edges)[0] / len(a) - np.histogram(b, edges)[0] / len(b)).sum())
    return np.array(found)


def energy_distance(x: np.ndarray, y: np.ndarray) -> float:
    """`Eq. energy` of the rows `x [n, d]`, `y [m, d]`, unbiased."""
    x, y = checks.matrix(x, "x"), checks.matrix(y, "y", np.shape(x)[1])
    length = lambda a, b: np.sqrt(np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0))  # noqa: E731
    within = lambda a: length(a, a)[~np.eye(len(a), dtype=bool)].mean()  # noqa: E731
    return float(2 * length(x, y).mean() - within(x) - within(y))
