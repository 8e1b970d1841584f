"""Result rows of an estimate: what `iwdd.E0` records for every method, computed from potential-outcome means and draws.

Effects are judged on the truth mu, distributions on the realised factual outcomes of the test rows. Errors of effects are
normalised by the sd of the pooled mu over all rows (specification 3.6 and 5.3).
"""

import numpy as np
import pandas as pd

from gencausal import metrics
from gencausal.data.table import CausalTable
from gencausal.estimators.calibration import calibrated_coverage

LEVELS = (50, 80, 90, 95)


def mean_rows(method: str, table: CausalTable, seed: int, mu: np.ndarray, experiment: str = "iwdd.E0") -> list[dict]:
    """Rows of the point estimates `mu [n, K]` of every row of `table`: PEHE in and out of sample, ATE error and RMSE an arm out of sample."""
    test, train = table.test, table.train
    truth, estimate = table.mu[:, 1] - table.mu[:, 0], mu[:, 1] - mu[:, 0]
    arm = metrics.rmse_per_arm(mu[test], table.mu[test])
    values = {
        "pehe_normalised": (metrics.pehe_normalised(estimate[test], truth[test], table.mu), len(test)),
        "pehe_normalised_in": (metrics.pehe_normalised(estimate[train], truth[train], table.mu), len(train)),
        "ate_error": (metrics.ate_error(estimate[test], truth[test]), len(test)),
        "rmse_y0": (arm[0], len(test)),
        "rmse_y1": (arm[1], len(test)),
    }
    return _rows(method, table, seed, experiment, values)


def draw_rows(method: str, table: CausalTable, seed: int, draws: np.ndarray, experiment: str = "iwdd.E0", *, median: np.ndarray | None = None,
              held: tuple[np.ndarray, np.ndarray] | None = None, noise_sd: float | None = 1.0) -> list[dict]:
    """Rows of the predictive law from stratified `draws [n_test, K, M]` of the test rows.

    Of the factual outcome: CRPS, KS distance of the PIT, coverage and width of central intervals. Of both potential outcomes, where the true law
    is N(mu, noise_sd^2): W1 and W2. Also the mean sd of the draws and the PEHE of their medians (`median [n, K]` where it is at hand).
    held: draws [n_held, M] and outcomes of held-out rows, which calibrate the 90 % interval (Eq. cqr).
    """
    test, y = table.test, table.y[table.test]
    mid = np.median(draws, -1) if median is None else median[test]
    truth = table.mu[test]
    factual = np.sort(draws[np.arange(len(test)), table.t[test]].astype(float), -1)
    values = {"crps": metrics.crps(factual, y, fair=False), "pit_ks": metrics.pit_ks(factual, y), "draw_sd": float(draws.std(-1, ddof=1).mean()),
              "pehe_normalised_median": metrics.pehe_normalised(mid[:, 1] - mid[:, 0], truth[:, 1] - truth[:, 0], table.mu)}
    for level in LEVELS:
        low, high = metrics.interval(factual, level / 100, stratified=True)
        values[f"coverage_{level}"] = float(np.mean((low <= y) & (y <= high)))
        if level == 90:
            values["width_90"] = float(np.median(high - low))
    if held is not None:
        low, high = calibrated_coverage(*held, factual, 0.1)
        values |= {"coverage_90_calibrated": float(np.mean((low <= y) & (y <= high))), "width_90_calibrated": float(np.median(high - low))}
    if noise_sd is not None:
        flat, centre = np.sort(draws.reshape(-1, draws.shape[-1]).astype(float), -1), truth.ravel()
        values |= {"w1": float(metrics.wasserstein1(flat, centre, np.full(len(centre), noise_sd))), "w2": float(metrics.wasserstein2(flat, centre, np.full(len(centre), noise_sd)))}
    return _rows(method, table, seed, experiment, {name: (value, len(test)) for name, value in values.items()})


def summary(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean of `metric` a method with its 95 % bootstrap interval over units (seeds averaged first), counts, and the mean rank; lowest first."""
    cases = rows[rows["metric"] == metric]
    units = cases.groupby(["dataset", "unit", "method"])["value"].mean().unstack("method")
    complete = units.dropna(axis=1)
    ranks = dict(zip(complete.columns, metrics.mean_rank(complete.to_numpy())))
    made = []
    for method, values in units.items():
        interval = metrics.bootstrap_mean(values.dropna().to_numpy(), np.random.default_rng(0)) if values.notna().sum() > 1 else None
        made.append({"method": method, "mean": values.mean(), "low": getattr(interval, "low", np.nan), "high": getattr(interval, "high", np.nan), "median": values.median(),
                     "mean rank": ranks.get(method, np.nan), "units": int(values.notna().sum()), "seeds": cases[cases["method"] == method]["seed"].nunique()})
    return pd.DataFrame(made).sort_values("mean", ignore_index=True)


def _rows(method: str, table: CausalTable, seed: int, experiment: str, values: dict) -> list[dict]:
    return [{"experiment": experiment, "dataset": table.name, "unit": table.unit, "method": method, "metric": metric, "seed": seed, "value": float(value), "n": n}
            for metric, (value, n) in values.items()]
