"""Result rows of an estimate: what `iwdd.E0` records for every method, computed from potential-outcome means and draws.

Effects are judged on the truth mu, distributions on the realised factual outcomes of the test rows. Errors of effects are
normalised by the sd of the pooled mu over all rows (specification 3.6 and 5.3).
"""

import numpy as np
import pandas as pd

from gencausal import metrics
from gencausal.data.table import CausalTable


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


def draw_rows(method: str, table: CausalTable, seed: int, draws: np.ndarray, experiment: str = "iwdd.E0") -> list[dict]:
    """Rows of the predictive law from stratified `draws [n_test, K, M]` of the test rows: CRPS and 90 % coverage of the factual outcome, mean sd
    of the draws, and the PEHE of the draws' mean beside that of their median."""
    test = table.test
    effect, truth = (m[:, 1] - m[:, 0] for m in (draws.mean(-1), table.mu[test]))
    factual = draws[np.arange(len(test)), table.t[test]]
    values = {
        "crps": (metrics.crps(factual, table.y[test], fair=False), len(test)),
        "coverage_90": (metrics.coverage(factual, table.y[test], 0.9, stratified=True), len(test)),
        "draw_sd": (float(draws.std(-1, ddof=1).mean()), len(test)),
        "pehe_normalised_mean": (metrics.pehe_normalised(effect, truth, table.mu), len(test)),
    }
    return _rows(method, table, seed, experiment, values)


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
