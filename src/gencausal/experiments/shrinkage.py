r"""Is the estimated outcome shrunk? (reading-list item #3; A2.C3a in direction, A2.C3d)

The prediction is y_hat = mu_hat_t(x), the one-step mean (or any estimate of E[Y | x, t]) at the factual arm. It is shrunk towards its mean when regressed on the noisy
outcome y (Eq. shrinkage of `gencausal.debias`) but need not be when regressed on mu, and only the second matters for effects: t is an INPUT of the
predictor, so y_hat is not independent of t given y (Eq. surrogate). #3's corrections are calibrated on held training rows and applied to the
predictions of both arms on test rows.

`surrogate` is #3's own situation in closed form, with a dial `direct` for the arm's path into the features beyond y:

`Eq. surrogate-toy`:  C, N, M ~ N(0, 1), A ~ Bernoulli(1/2),  Y = tau A + C + N,  X = Y + direct A + s M,  y_hat = least squares of Y on X
    Var Y = 2 + tau^2/4,   cov(A, Y) = tau/4,   beta = cov(X, Y)/Var X,   k = cov(y_hat, Y)/Var Y = beta (1 + direct cov(A, Y)/Var Y)
    naive = beta (tau + direct),   LCC = naive / k
"""

import numpy as np

from gencausal import checks, debias, metrics
from gencausal.data.table import CausalTable
from gencausal.seeding import numpy_generator

EXPERIMENT = "A2.B4-E2"


def shrinkage(tables: list[CausalTable], mu: np.ndarray, seed: int, method: str = "one_step") -> list[dict]:
    """Rows of estimates `mu [S, n, K]` (every row of every table, held rows not fitted): slopes on test rows, and errors before and after correction.

    seed: of the split whose held rows the networks did not fit (`table.validation`). Methods are `method`, `method`_lcc and `method`_tweedie. Metrics: slope_y, slope_mu (of y_hat on y
    and on mu_t(x)), slope_calibration (of y on y_hat), k; ate, ate_error, pehe_normalised; ate_ht, ate_ht_error from Eq. ht where the true propensity is published,
    with the row `outcome` for the noisy outcomes themselves and `truth` for the true average effect.
    """
    if np.shape(mu) != (len(tables), *tables[0].mu.shape):
        raise checks.InputError(f"mu has shape {np.shape(mu)}; give every row of every table, {(len(tables), *tables[0].mu.shape)}.")
    rows = []
    for table, estimate in zip(tables, mu):
        held, test = table.validation(seed)[1], table.test
        at = lambda values, index: values[index, table.t[index]]  # noqa: E731
        correction = debias.calibrate(table.y[held], at(estimate, held))
        truth = table.mu[test][:, 1] - table.mu[test][:, 0]
        predicted = at(estimate, test)
        rows += _rows(table, method, seed, {"slope_y": debias.line(table.y[test], predicted).slope, "slope_mu": debias.line(at(table.mu, test), predicted).slope,
                                            "slope_calibration": debias.line(predicted, table.y[test]).slope, "slope_k": correction.line.slope})
        values = {"ate": float(truth.mean())}
        for name, corrected in ((method, estimate[test]), (f"{method}_lcc", correction.lcc(estimate[test])), (f"{method}_tweedie", correction.tweedie(estimate[test]))):
            effect = corrected[:, 1] - corrected[:, 0]
            found = {"ate": float(effect.mean()), "ate_error": metrics.ate_error(effect, truth), "pehe_normalised": metrics.pehe_normalised(effect, truth, table.mu)}
            rows += _rows(table, name, seed, found | _weighted(table, corrected[np.arange(len(test)), table.t[test]], truth))
        rows += _rows(table, "truth", seed, values) + _rows(table, "outcome", seed, _weighted(table, table.y[test], truth))
    return rows


def surrogate(seeds: list[int], direct: float, tau: float = 1.0, noise: float = 1.0, n: int = 4000) -> list[dict]:
    """Rows of Eq. surrogate-toy by simulation: methods sample (true outcomes), naive, lcc, tweedie; metrics ate and ate_bias (signed, against tau); unit "direct=...".

    n rows each to fit the line, to calibrate and to estimate; arms are randomised, so every estimate is a difference of arm means.
    """
    rows = []
    for seed in seeds:
        rng = numpy_generator(seed, "surrogate", float(direct), float(tau))
        a = (rng.random((3, n)) < 0.5).astype(np.int64)
        y = tau * a + rng.standard_normal((3, n)) + rng.standard_normal((3, n))
        x = y + direct * a + noise * rng.standard_normal((3, n))
        fitted = debias.line(x[0], y[0])
        y_hat = fitted.intercept + fitted.slope * x
        correction = debias.calibrate(y[1], y_hat[1])
        for method, values in (("sample", y[2]), ("naive", y_hat[2]), ("lcc", correction.lcc(y_hat[2])), ("tweedie", correction.tweedie(y_hat[2]))):
            ate = float(values[a[2] == 1].mean() - values[a[2] == 0].mean())
            rows += [{"experiment": EXPERIMENT, "dataset": "surrogate", "unit": f"direct={direct:g}", "method": method, "metric": metric, "seed": seed, "value": value, "n": n}
                     for metric, value in (("ate", ate), ("ate_bias", ate - tau), ("ate_error", abs(ate - tau)))]
    return rows


def closed_form(direct: float, tau: float = 1.0, noise: float = 1.0) -> dict[str, float]:
    """Population naive and LCC effects of Eq. surrogate-toy, and the truth."""
    variance, shared = 2 + tau**2 / 4, tau / 4
    beta = (variance + direct * shared) / (variance + 2 * direct * shared + direct**2 / 4 + noise**2)
    return {"sample": tau, "naive": beta * (tau + direct), "lcc": (tau + direct) / (1 + direct * shared / variance)}


def _weighted(table: CausalTable, values: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Horvitz-Thompson effect of `values [n_test]` at the factual arms and its error, where the true propensity is known."""
    if table.propensity is None:
        return {}
    ate = debias.horvitz_thompson(values, table.t[table.test], table.propensity[table.test])
    return {"ate_ht": ate, "ate_ht_error": abs(ate - float(truth.mean()))}


def _rows(table: CausalTable, method: str, seed: int, values: dict[str, float]) -> list[dict]:
    return [{"experiment": EXPERIMENT, "dataset": table.name, "unit": table.unit, "method": method, "metric": metric, "seed": seed, "value": float(value), "n": len(table.test)}
            for metric, value in values.items()]
