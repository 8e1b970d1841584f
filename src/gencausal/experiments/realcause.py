"""RealCause LaLonde-PSID: laws of zero-inflated, skewed earnings against realised potential outcomes (`iwdd.E7`).

The conditional law behind the samples is not published, so nothing here reads a mean: draws are scored at the realised factual and counterfactual outcomes of
test rows. `arm_marginal` is the empirical law of each arm's training outcomes for everyone.
"""

from pathlib import Path

import numpy as np

from gencausal import metrics
from gencausal.data.table import CausalTable
from gencausal.experiments.benchmark import Plan, baseline, fit_group

DRAWS = 60


def run(tables: list[CausalTable], seed: int, plan: Plan, beside: list[str], folder: Path | None = None, device="cpu") -> list[dict]:
    """Rows `crps`, `coverage_90` (factual) and the same with `_cf` (the arm the unit did not get), CRPS in units of the sd of the training outcomes."""
    fitted = fit_group(tables, seed, plan, folder, device)
    found = {method: list(prediction.draws) for method, prediction in fitted.predictions.items()}
    found |= {method: [p.draws for p in baseline(method, tables, seed, folder)] for method in beside}
    found["arm_marginal"] = [_marginal(table) for table in tables]
    return [row for method, draws in found.items() for table, one in zip(tables, draws) for row in score(method, table, seed, one)]


def _marginal(table: CausalTable) -> np.ndarray:
    """Quantiles of each arm's training outcomes, the same for every test row, [n_test, 2, DRAWS]."""
    y, t = table.y[table.train], table.t[table.train]
    laws = np.stack([np.quantile(y[t == k], (np.arange(DRAWS) + 0.5) / DRAWS) for k in (0, 1)])
    return np.broadcast_to(laws, (len(table.test), *laws.shape))


def score(method: str, table: CausalTable, seed: int, draws: np.ndarray) -> list[dict]:
    """Rows of stratified `draws [n_test, 2, M]` of the test rows of one table."""
    test, spread = table.test, table.y[table.train].std()
    rows = []
    for suffix, arm in (("", table.t[test]), ("_cf", 1 - table.t[test])):
        y = table.potential[test, arm]
        own = np.sort(draws[np.arange(len(test)), arm].astype(float), -1)
        for metric, value in (("crps", metrics.crps(own, y, fair=False) / spread), ("coverage_90", metrics.coverage(own, y, 0.9, stratified=True))):
            rows.append({"experiment": "iwdd.E7", "dataset": table.name, "unit": table.unit, "method": method, "metric": metric + suffix, "seed": seed, "value": float(value), "n": len(test)})
    return rows
