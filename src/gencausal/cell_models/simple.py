r"""Reference predictors of cells that a network must beat (spec vci, 5.1 and experiments E1, E3): one profile for each (covariates x, treatment t'), the cell itself is not read.

Notation: m(x, k) mean outcome of the training cells of stratum x and condition k, 0 the control; d(x, k) = m(x, k) - m(x, 0), where both have training cells.

    control_mean      m(x, 0)                                                           no effect
    covariate_mean    m(x, t'), else the mean of all training cells under t', else m(x, 0)
    mean_shift        m(x, 0) + mean over the strata x' != x of d(x', t')               `Eq. shift`; undefined where no other stratum knows t'
    weighted_shift    what strata with like controls became under t', weighted, with part of the difference of the controls added (ours, Eq. borrow); both numbers by leaving out each training stratum in turn
    ridge             a linear map of [x, t'], main effects only; its penalty by the squared error on held-out factual rows, then fitted to all training rows    `Eq. ridge`
    additive          m(x, 0) + sum over the parts j of t' of dose_j / dose * d(x, j)   `Eq. additive`; j alone at its nearest dose, in x itself or else the mean of the strata that know it, else 0: a part never seen alone cannot be predicted
"""

from collections.abc import Callable

import numpy as np

from gencausal import checks, seeding
from gencausal.data.cell_table import CellTable
from gencausal.data.cells import split_validation

NAMES = ("control_mean", "covariate_mean", "mean_shift", "weighted_shift", "ridge", "additive")
TEMPERATURES = (0.2, 0.5, 1.0, 2.0, 5.0, np.inf)
KEPT = (0.0, 0.25, 0.5, 0.75, 1.0)
LARGEST = 50  # genes of a training group by which `like` is chosen: those that move most in it
PENALTIES = np.logspace(-3, 4, 15)
SHARE = 0.1  # of the training rows, held back to choose the penalty

Predict = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def fit(name: str, table: CellTable, seed: int = 0) -> Predict:
    """Fit the baseline `name` (one of NAMES) to `table.train`; the result predicts [n, G] from outcome [n, G], treatment [n, T] (neither read), covariates [n, C] and treatment_cf [n, T].

    seed: of the rows held back by `ridge`; the others see no randomness. Errors: a stratum or a treatment to be predicted that `table` does not list, a stratum without training controls, a shift that no other stratum knows.
    """
    checks.choice(name, "name", NAMES)
    if name == "ridge":
        return _ridge(table, seed)
    means = _means(table)
    if np.isnan(means[:, table.control]).any():
        missing = table.strata[int(np.flatnonzero(np.isnan(means[:, table.control]).any(1))[0])]
        raise checks.InputError(f"Stratum {missing!r} has no control among the training cells; keep its controls in train or leave it out.")
    profiles = {"control_mean": _control_mean, "covariate_mean": _covariate_mean, "mean_shift": _mean_shift, "weighted_shift": _weighted_shift, "additive": _additive}[name](table, means)

    def predict(outcome: np.ndarray, treatment: np.ndarray, covariates: np.ndarray, treatment_cf: np.ndarray) -> np.ndarray:
        x, k = _listed(covariates, table.stratum_covariates, "covariates"), _listed(treatment_cf, table.condition_treatment, "treatment_cf")
        if (undefined := np.isnan(profiles[x, k]).any(1)).any():
            first = int(undefined.argmax())
            raise checks.InputError(f"{name} is undefined for {table.conditions[k[first]]!r} in stratum {table.strata[x[first]]!r}, which no other stratum was trained on; use additive or ridge.")
        return profiles[x, k]

    return predict


def _listed(values: np.ndarray, known: np.ndarray, name: str) -> np.ndarray:
    """Which row of `known` [K, d] each row of `values` [n, d] is, [n]."""
    values = np.asarray(values)
    if values.ndim != 2 or values.shape[1] != known.shape[1]:
        raise checks.InputError(f"{name} must be [n, {known.shape[1]}], as in the table, not of shape {values.shape}.")
    equal = np.isclose(values[:, None], known[None]).all(-1)
    if not equal.any(1).all():
        raise checks.InputError(f"{name} holds {values[np.flatnonzero(~equal.any(1))[0]]}, a combination that the table does not list; predict for its strata and conditions only.")
    return equal.argmax(1)


def _means(table: CellTable) -> np.ndarray:
    """m(x, k), [X, K, G], NaN without training cells."""
    means = np.full((len(table.strata), len(table.conditions), table.outcome.shape[1]), np.nan)
    for x in range(len(table.strata)):
        for k in range(len(table.conditions)):
            rows = table.rows(x, k, table.train)
            if len(rows):
                means[x, k] = table.outcome[rows].mean(0, dtype=np.float64)
    return means


def _control_mean(table: CellTable, means: np.ndarray) -> np.ndarray:
    return np.repeat(means[:, [table.control]], means.shape[1], axis=1)


def _covariate_mean(table: CellTable, means: np.ndarray) -> np.ndarray:
    made = np.where(np.isnan(means), _control_mean(table, means), means)
    for k in range(means.shape[1]):
        rows = table.train[table.condition[table.train] == k]
        if len(rows):
            made[np.isnan(means[:, k]).any(1), k] = table.outcome[rows].mean(0, dtype=np.float64)
    return made


def _shifts(table: CellTable, means: np.ndarray) -> np.ndarray:
    """d(x, k), [X, K, G], NaN where unknown."""
    return means - means[:, [table.control]]


def _mean_shift(table: CellTable, means: np.ndarray) -> np.ndarray:
    made, shifts = _control_mean(table, means), _shifts(table, means)
    for x in range(len(means)):
        for k in range(means.shape[1]):
            if k != table.control:
                made[x, k] += _mean_known(shifts[[other for other in range(len(means)) if other != x], k])
    return made


def _additive(table: CellTable, means: np.ndarray) -> np.ndarray:
    made, shifts, doses = _control_mean(table, means), _shifts(table, means), table.condition_treatment
    for k in range(len(doses)):
        for part in np.flatnonzero(doses[k]) if k != table.control else ():
            alone = [c for c in range(len(doses)) if c != table.control and np.flatnonzero(doses[c]).tolist() == [part] and not np.isnan(shifts[:, c]).all()]
            if alone:
                nearest = min(alone, key=lambda c: abs(doses[c, part] - doses[k, part]))
                everywhere = _mean_known(shifts[:, nearest])
                made[:, k] += np.where(np.isnan(shifts[:, nearest]), everywhere, shifts[:, nearest]) * (doses[k, part] / doses[nearest, part])
    return made


def _weighted_shift(table: CellTable, means: np.ndarray) -> np.ndarray:
    used = like(means, table.control)
    return np.stack([np.stack([means[x, k] if k == table.control else borrow(means, table.control, x, k, *used) for k in range(means.shape[1])]) for x in range(len(means))])


def borrow(means: np.ndarray, control: int, x: int, k: int, temperature: float, kept: float) -> np.ndarray:
    r"""The mean outcome [G] of stratum x under condition k, told by the other strata whose controls are like its own (ours; Eq. borrow): with c_s the mean control of stratum s and q_s = ||c_x - c_s||^2,

        m_xk = sum_s w_s m_sk + kept (c_x - sum_s w_s c_s),   w_s proportional to exp(- q_s / (temperature min_s q_s)),   s != x observed under control and k.

    means: [X, K, G], NaN where a group has no training cell; NaN where no other stratum knows k. temperature infinite, kept 1: the mean shift (Eq. shift); infinite and 0: the mean of the treated.
    """
    others = [s for s in range(len(means)) if s != x and not np.isnan(means[s, [control, k], 0]).any()]
    if not others or np.isnan(means[x, control, 0]):
        return np.full(means.shape[2], np.nan)
    q = ((means[others, control] - means[x, control]) ** 2).sum(1)
    weight = np.exp(-(q - q.min()) / (temperature * max(q.min(), 1e-12)))
    weight /= weight.sum()
    return weight @ means[others, k] + kept * (means[x, control] - weight @ means[others, control])


def like(means: np.ndarray, control: int) -> tuple[float, float]:
    """(temperature, kept) of TEMPERATURES x KEPT with which `borrow` tells the known groups best, each left out in turn: the smallest mean of 1 - R2 over the `LARGEST` genes that move most in the group; a plain mean shift where no group can be told."""
    known = [(x, k) for x in range(means.shape[0]) for k in range(means.shape[1]) if k != control and not np.isnan(means[x, [control, k], 0]).any()]
    best, found = np.inf, (np.inf, 1.0)
    for temperature in TEMPERATURES:
        for kept in KEPT:
            errors = []
            for x, k in known:
                told, truth = borrow(means, control, x, k, temperature, kept), means[x, k]
                moved = np.argsort(-np.abs(truth - means[x, control]), kind="stable")[:LARGEST]
                errors.append(((told - truth)[moved] ** 2).sum() / max(((truth[moved] - truth[moved].mean()) ** 2).sum(), 1e-12))
            errors = [e for e in errors if np.isfinite(e)]
            if errors and np.mean(errors) < best:
                best, found = np.mean(errors), (temperature, kept)
    return found


def borrowed(means: np.ndarray, control: int) -> np.ndarray:
    """`means` [X, K, G] with every group without cells (NaN) told by like strata (`borrow` as `like` chooses); what nobody knows stays NaN."""
    used, made = like(means, control), means.copy()
    for x, k in zip(*np.nonzero(np.isnan(means[..., 0]))):
        made[x, k] = borrow(means, control, x, k, *used)
    return made


def _mean_known(profiles: np.ndarray) -> np.ndarray:
    """Mean of the rows of [m, G] that are known, NaN where none is."""
    known = profiles[~np.isnan(profiles).any(1)]
    return known.mean(0) if len(known) else np.full(profiles.shape[1], np.nan)


def _ridge(table: CellTable, seed: int) -> Predict:
    """Eq. ridge: coefficients B of (F'F + penalty) B = F'Y on centred features F = [x, t] and outcomes; the control has no column, so that effects are measured from it and those of parts add up."""
    effects = table.condition_treatment[table.control] == 0
    features = np.concatenate([table.covariates, table.treatment[:, effects]], axis=1).astype(np.float64)
    fit_rows, held = split_validation(table, SHARE, seeding.numpy_generator(seed, "cells-ridge"))

    def solve(rows: np.ndarray, penalties: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        f, y = features[rows], table.outcome[rows].astype(np.float64)
        centre, level = f.mean(0), y.mean(0)
        values, vectors = np.linalg.eigh((f - centre).T @ (f - centre))
        cross = vectors.T @ ((f - centre).T @ (y - level))
        maps = [vectors @ (cross / (np.maximum(values, 0) + penalty)[:, None]) for penalty in penalties]
        return [(b, level - centre @ b) for b in maps]

    errors = [((features[held] @ b + c - table.outcome[held]) ** 2).mean() for b, c in solve(fit_rows, PENALTIES)]
    ((weights, constant),) = solve(table.train, PENALTIES[[int(np.argmin(errors))]])

    def predict(outcome: np.ndarray, treatment: np.ndarray, covariates: np.ndarray, treatment_cf: np.ndarray) -> np.ndarray:
        return np.concatenate([covariates, np.asarray(treatment_cf)[:, effects]], axis=1) @ weights + constant

    return predict
