r"""Unmeasured confounding (`iwdd.E11`): hide the covariates that predict treatment best, and measure what every method loses.

Covariates are ranked by |standardised coefficient| of a logistic regression of z on x among the training rows. How strong the hidden confounding is: Gamma,
the 90 % quantile over rows of exp |logit e_full(x) - logit e_visible(x)|, both by logistic regression (`Eq. gamma`), the odds-ratio scale of Rosenbaum's sensitivity analysis.
"""

from dataclasses import replace

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from gencausal.data.table import CausalTable


def ranked(table: CausalTable) -> np.ndarray:
    """Column numbers of x, the best predictor of treatment first; training rows only."""
    x = StandardScaler().fit_transform(table.x[table.train])
    return np.argsort(-np.abs(LogisticRegression(C=0.1, max_iter=2000).fit(x, table.t[table.train]).coef_[0]), kind="stable")


def hide(table: CausalTable, count: int) -> CausalTable:
    """`table` without its `count` columns that predict treatment best; its name gains `_hidden<count>`. The number of columns left is that of x less count."""
    keep = np.sort(ranked(table)[count:])
    return replace(table, name=f"{table.name}_hidden{count}", x=table.x[:, keep], covariates=[table.covariates[i] for i in keep])


def gamma(table: CausalTable, hidden: CausalTable) -> float:
    """Eq. gamma: how far the odds of treatment of training rows move when the hidden columns are unknown, at least 1."""
    logits = []
    for part in (table, hidden):
        x = StandardScaler().fit_transform(part.x[part.train])
        logits.append(LogisticRegression(C=0.1, max_iter=2000).fit(x, part.t[part.train]).decision_function(x))
    return float(np.exp(np.quantile(np.abs(logits[0] - logits[1]), 0.9)))


def gamma_rows(tables: list[CausalTable], counts: list[int]) -> list[dict]:
    """Rows of `gamma` for every table and count (method `confounding`)."""
    return [{"experiment": "iwdd.E11", "dataset": h.name, "unit": t.unit, "method": "confounding", "metric": "gamma", "seed": 0, "value": gamma(t, h), "n": len(t.train)}
            for t in tables for h in (hide(t, count) for count in counts)]


def losses(rows: list[dict], full: dict[tuple[str, str, int], float]) -> list[dict]:
    """Rows of `pehe_increase`: normalised PEHE with hidden columns less that with all, `full[method, unit, seed]`."""
    return [{**row, "metric": "pehe_increase", "value": row["value"] - full[row["method"], row["unit"], row["seed"]]}
            for row in rows if row["metric"] == "pehe_normalised" and (row["method"], row["unit"], row["seed"]) in full]
