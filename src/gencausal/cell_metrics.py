r"""Scores of predicted cells, group by group (spec vci, 4.1), pure functions of arrays; `table` is a `CellTable`, or anything with its fields.

A group is (stratum x, condition k != control); its truth is ybar_g, the mean outcome of its cells, its prediction yhat_g the mean of what a method makes of other cells.

    R2 = 1 - sum_g (ybar_g - yhat_g)^2 / sum_g (ybar_g - mean_g ybar)^2                 `Eq. r2`: the truth comes first, R2 is not symmetric; higher is better, it may be negative
    DE genes = the 50 of largest |t|, Welch's t of the group against the controls of its stratum    `Eq. de`: they define the score and see every cell; nothing may learn from them
    ceiling = mean over random halvings of R2(mean of one half, mean of the other)      `Eq. ceiling`: what sampling noise leaves of a perfect method
    gap closed = (R2_model - R2_shift) / (R2_ceiling - R2_shift)                        `Eq. gap` (ours)

Settings: `matched` predicts from the controls of the group's own stratum (main); `classic` from the controls of all strata under the group's covariate labels (the published evaluation). Means over genes weigh all alike.
"""

from collections.abc import Callable

import numpy as np

from gencausal import checks

SETTINGS = ("matched", "classic")
MORE_THAN = 30  # cells of a group that is scored
DE_GENES = 50
HALVINGS = 50


def r2(truth_mean: np.ndarray, predicted_mean: np.ndarray) -> float:
    """R2 of a predicted mean profile [G] against the true one [G] (Eq. r2); NaN where the true profile is constant."""
    truth, predicted = (np.asarray(v, dtype=np.float64) for v in (truth_mean, predicted_mean))
    if truth.ndim != 1 or truth.shape != predicted.shape:
        raise checks.InputError(f"truth_mean and predicted_mean must be profiles of the same genes, not of shapes {truth.shape} and {predicted.shape}.")
    spread = ((truth - truth.mean()) ** 2).sum()
    return float(1 - ((truth - predicted) ** 2).sum() / spread) if spread > 0 else float("nan")


def de_genes(treated: np.ndarray, controls: np.ndarray, count: int = DE_GENES) -> np.ndarray:
    """Column numbers of the `count` genes (all, if there are fewer) with the largest |t| of Welch between `treated` [n, G] and `controls` [m, G], largest first (Eq. de); a gene without variance in both counts as t = 0."""
    a, b = (np.asarray(v, dtype=np.float64) for v in (treated, controls))
    if min(len(a), len(b)) < 2:
        raise checks.InputError(f"Welch's t needs two cells or more on either side, not {len(a)} treated and {len(b)} controls.")
    error = np.sqrt(a.var(0, ddof=1) / len(a) + b.var(0, ddof=1) / len(b))
    t = np.divide(a.mean(0) - b.mean(0), error, out=np.zeros_like(error), where=error > 0)
    return np.argsort(-np.abs(t), kind="stable")[:count]


def groups(table, within: np.ndarray | None = None, more_than: int = MORE_THAN) -> list[tuple[int, int]]:
    """(stratum, condition) groups with more than `more_than` cells among `within` (default: the test rows, or all rows where there are none); the control is none, and a stratum without two controls cannot be scored."""
    within = _within(table, within)
    return [(x, k) for x in range(len(table.strata)) for k in range(len(table.conditions)) if k != table.control and len(table.rows(x, k, within)) > more_than and len(table.rows(x, table.control)) > 1]


def group_name(table, stratum: int, condition: int) -> str:
    """The stratum where there is one treated condition, the condition where there is one stratum, else both."""
    if len(table.conditions) == 2:
        return table.strata[stratum]
    return table.conditions[condition] if len(table.strata) == 1 else f"{table.strata[stratum]} {table.conditions[condition]}"


def predicted_mean(table, predict: Callable, stratum: int, condition: int, setting: str = "matched", inputs: np.ndarray | None = None) -> np.ndarray:
    """Mean profile [G] that `predict` makes of the controls for a group. inputs: rows the controls may come from (all rows if None)."""
    checks.choice(setting, "setting", SETTINGS)
    rows = np.arange(len(table.outcome)) if inputs is None else inputs
    rows = rows[table.condition[rows] == table.control] if setting == "classic" else table.rows(stratum, table.control, rows)
    if len(rows) == 0:
        raise checks.InputError(f"No control cell to predict {group_name(table, stratum, condition)} from among the inputs; pass rows that hold controls.")
    covariates = np.broadcast_to(table.stratum_covariates[stratum], (len(rows), table.stratum_covariates.shape[1]))
    treatment_cf = np.broadcast_to(table.condition_treatment[condition], (len(rows), table.condition_treatment.shape[1]))
    return np.asarray(predict(table.outcome[rows], table.treatment[rows], covariates, treatment_cf), dtype=np.float64).mean(0)


def group_scores(table, predict: Callable, method: str, experiment: str = "", seed: int = 0, settings: tuple[str, ...] = SETTINGS, within: np.ndarray | None = None, inputs: np.ndarray | None = None, count: int = DE_GENES) -> list[dict]:
    """Result rows of `predict` for every group of `groups(table, within)`: metrics r2_all, r2_de (matched), r2_all_classic, r2_de_classic; n is the number of true cells.

    predict(outcome [n, G], treatment [n, T], covariates [n, C], treatment_cf [n, T]) -> [n, G]. inputs: rows the controls may come from (all if None).
    """
    rows: list[dict] = []
    for stratum, condition in groups(table, within):
        cells = table.rows(stratum, condition, _within(table, within))
        truth, de = _truth(table, stratum, condition, cells, count)
        for setting in settings:
            mean = predicted_mean(table, predict, stratum, condition, setting, inputs)
            values = {"r2_all": r2(truth, mean), "r2_de": r2(truth[de], mean[de])}
            rows += _rows(table, experiment, group_name(table, stratum, condition), method, seed, len(cells), {name + "_classic" * (setting == "classic"): value for name, value in values.items()})
    return rows


def ceiling_scores(table, rng: np.random.Generator, experiment: str = "", seed: int = 0, within: np.ndarray | None = None, count: int = DE_GENES, halvings: int = HALVINGS) -> list[dict]:
    """Result rows of the method `ceiling`, metrics r2_all and r2_de, for every group of `groups(table, within)` (Eq. ceiling)."""
    rows: list[dict] = []
    for stratum, condition in groups(table, within):
        cells = table.rows(stratum, condition, _within(table, within))
        _, de = _truth(table, stratum, condition, cells, count)
        values = ceiling(table.outcome[cells], rng, de, halvings)
        rows += _rows(table, experiment, group_name(table, stratum, condition), "ceiling", seed, len(cells), {"r2_all": values[0], "r2_de": values[1]})
    return rows


def ceiling(cells: np.ndarray, rng: np.random.Generator, de: np.ndarray, halvings: int = HALVINGS) -> tuple[float, float]:
    """R2 between the means of two random halves of `cells` [n, G], over all genes and over the genes `de`, mean of `halvings` draws (Eq. ceiling)."""
    checks.whole(halvings, "halvings")
    if len(cells) < 2:
        raise checks.InputError(f"cells must be two or more to be halved, not {len(cells)}.")
    half, found = len(cells) // 2, []
    for _ in range(halvings):
        order = rng.permutation(len(cells))
        first, second = (cells[part].mean(0, dtype=np.float64) for part in (order[:half], order[half:]))
        found.append((r2(first, second), r2(first[de], second[de])))
    return tuple(float(v) for v in np.mean(found, axis=0))


def gap_closed(model, shift, ceiling) -> np.ndarray:
    """Share of the way from the shift baseline to the ceiling that `model` goes (Eq. gap), elementwise; NaN where the ceiling is not above the shift, where noise leaves nothing to close."""
    model, shift, ceiling = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (model, shift, ceiling)))
    return np.divide(model - shift, ceiling - shift, out=np.full(model.shape, np.nan), where=ceiling > shift)


def _within(table, within: np.ndarray | None) -> np.ndarray:
    if within is not None:
        return within
    return table.test if len(table.test) else np.arange(len(table.outcome))


def _truth(table, stratum: int, condition: int, cells: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean profile of `cells` and the DE genes of the group."""
    return table.outcome[cells].mean(0, dtype=np.float64), de_genes(table.outcome[table.rows(stratum, condition)], table.outcome[table.rows(stratum, table.control)], count)


def _rows(table, experiment: str, unit: str, method: str, seed: int, n: int, values: dict[str, float]) -> list[dict]:
    """One result row a finite value."""
    return [{"experiment": experiment, "dataset": table.name, "unit": unit, "method": method, "metric": metric, "seed": seed, "value": value, "n": n} for metric, value in values.items() if np.isfinite(value)]
