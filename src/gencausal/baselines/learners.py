"""Tree, forest and BART baselines of the effect, for two arms (spec iwdd, section 5.4; E15 for the causal forests).

Notation: covariates x, treatment t in {0, 1}, outcome y; mu_k(x) = E[Y(k) | x], tau = mu_1 - mu_0, propensity e(x) = P(t = 1 | x), m(x) = E[y | x].

    hgb_s              S-learner: one regression mu(x, t); tau(x) = mu(x, 1) - mu(x, 0)                          (Kuenzel et al. 2019)
    hgb_x              X-learner: D = y - mu_0(x) on the treated, mu_1(x) - y on the controls, each regressed on x as tau_1 and tau_0;
                       tau = e tau_0 + (1 - e) tau_1                                                              (Kuenzel et al. 2019)
    hgb_dr             DR-learner: mu_1 - mu_0 + (t - e) / (e (1 - e)) (y - mu_t) regressed on x, nuisances from other folds (Kennedy 2023)
    causal_forest      honest forest of y - m(x) on t - e(x), m and e boosted trees from other folds             (double machine learning)
    causal_forest_grf  the same forest as in R's grf: m and e are out-of-bag regression forests                   (Athey, Tibshirani, Wager 2019)
    bcf                Bayesian causal forest y = f(x, e(x)) + tau(x) t + N(0, sigma^2)                           (Hahn, Murray, Carvalho 2020)
    quantile_forest    T-learner, a quantile regression forest an arm                                             (Meinshausen 2006)

The first three use histogram gradient boosting everywhere. Estimators: econml, stochtree, quantile-forest, scikit-learn.

    Eq. effect-level: mu_z(x) = m(x) + (z - e(x)) tau(x), z in {0, 1}

gives the methods that know only tau their potential outcomes: mu_1 - mu_0 = tau, and the average over t given x is m(x). There m and e are
cross-fitted boosted trees (for causal_forest_grf its own two forests): a training row is predicted by the folds that have not seen it, any other row by the mean of all folds.

    Eq. bcf-predictive: Y(k) | x ~ (1/S) sum_s N(f_s(x) + k tau_s(x), sigma_s^2) over the S kept draws of the chain; the released draws are its quantiles.

Only x of all rows and t, y of `table.train` are read; every method is deterministic given `seed` and runs on one thread.
GRID holds three configurations a method, the first the default; `experiments.tuning` chooses among them by `held_out_loss`. Every e(x) of boosted trees has one fixed,
shallow form.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri
from sklearn.base import clone, is_classifier
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

from gencausal import checks, metrics, seeding
from gencausal.baselines.prediction import Prediction
from gencausal.data.table import CausalTable

DRAWS = 100
FOLDS = 5
SMALLEST_ARM = 50  # training rows an arm: ten in each fold
SMALLEST_PROPENSITY = 0.05  # floor of e and 1 - e where the DR-learner divides by them
NOISE = 20  # stratified normal draws a kept draw of the chain, in Eq. bcf-predictive

_DEEP = {"max_iter": 150, "learning_rate": 0.08, "max_leaf_nodes": 15, "min_samples_leaf": 10}  # the trees of `hgb_t`
_SLOW = {"max_iter": 300, "learning_rate": 0.05, "max_leaf_nodes": 7, "min_samples_leaf": 20}
_STUMPS = {"max_iter": 300, "learning_rate": 0.1, "max_leaf_nodes": 4, "min_samples_leaf": 20}
_PROPENSITY = {"max_iter": 100, "learning_rate": 0.05, "max_leaf_nodes": 4, "min_samples_leaf": 20}  # every e(x): shallow, an overfitted e is what breaks a doubly robust score
_CHAIN = {"warm": 10, "burn_in": 100, "kept": 150}
GRID: dict[str, list[dict]] = {
    "hgb_s": [_DEEP, _SLOW, _STUMPS],
    "hgb_x": [_DEEP, _SLOW, _STUMPS],
    "hgb_dr": [_DEEP, _SLOW, _STUMPS],
    "causal_forest": [{"trees": 500, "leaf": 5, **_DEEP}, {"trees": 500, "leaf": 5, **_SLOW}, {"trees": 500, "leaf": 20, **_SLOW}],
    "causal_forest_grf": [{"trees": 500, "leaf": 5, "features": 1.0}, {"trees": 500, "leaf": 5, "features": 0.4}, {"trees": 500, "leaf": 20, "features": 1.0}],
    "bcf": [{"outcome_trees": 250, "effect_trees": 100, "effect_alpha": 0.25, **_CHAIN}, {"outcome_trees": 250, "effect_trees": 100, "effect_alpha": 0.95, **_CHAIN},
            {"outcome_trees": 100, "effect_trees": 50, "effect_alpha": 0.95, **_CHAIN}],
    "quantile_forest": [{"trees": 200, "leaf": 5, "features": 1.0}, {"trees": 200, "leaf": 5, "features": 0.4}, {"trees": 200, "leaf": 1, "features": 0.4}],
}
NAMES = tuple(GRID)


class _Rows(NamedTuple):
    """What a method may read: x [n, d] of all rows, row numbers `train` and `test`, and t, y of the training rows only."""

    x: np.ndarray
    train: np.ndarray
    test: np.ndarray
    t: np.ndarray
    y: np.ndarray
    state: int


def fit_predict(name: str, table: CausalTable, seed: int = 0, **overrides) -> Prediction:
    """Fit the baseline `name` (one of NAMES) on `table.train` and predict mu [n, 2] for every row; `bcf` and `quantile_forest` also give draws [n_test, 2, 100].

    overrides: options of the method in place of those of GRID[name][0] (same keys). Errors: an unknown name or option, more or fewer than
    two arms, covariates or training outcomes that are not finite, fewer than SMALLEST_ARM training rows in an arm.
    """
    checks.choice(name, "name", NAMES)
    checks.whole(seed, "seed", low=0)
    for key in overrides:
        checks.choice(key, f"an option of {name}", tuple(GRID[name][0]))
    if table.mu.shape[1] != 2:
        raise checks.InputError(f"{name} compares two arms but the table has {table.mu.shape[1]}; keep the rows of two arms, coded 0 and 1.")
    x = checks.matrix(table.x, "table.x")
    y = checks.vector(table.y[table.train], "table.y[train]", len(table.train))
    t = checks.treatment(table.t[table.train], "table.t[train]", len(table.train), arms=2)
    for k, rows in enumerate(np.bincount(t, minlength=2)):
        if rows < SMALLEST_ARM:
            raise checks.InputError(f"Arm {k} has {rows} training rows but {name} needs {SMALLEST_ARM}; train on more rows.")
    state = seeding.derive(seed, "learners", name) % 2**31
    with threadpool_limits(1):
        return Prediction(name, *METHODS[name](_Rows(x, table.train, table.test, t, y, state), {**GRID[name][0], **overrides}))


def held_out_loss(name: str, table: CausalTable, seed: int = 0, **overrides) -> float:
    """Factual loss on the held rows of `table.validation(seed)` after a fit on its fit rows; no row of `table.test` and no truth is read.

    CRPS of the draws over sd(y) of the fit rows for a method with draws, else the mean squared error of mu_t(x) over var(y) of the fit rows.
    """
    fit, held = table.validation(seed)
    prediction = fit_predict(name, replace(table, train=fit, test=held), seed, **overrides)
    y, t, spread = table.y[held], table.t[held], table.y[fit].std()
    if prediction.draws is not None:
        return float(metrics.crps(prediction.draws[np.arange(len(held)), t], y, fair=False) / spread)
    return float(np.mean((prediction.mu[held, t] - y) ** 2) / spread**2)


def _regressor(state: int, options: dict) -> HistGradientBoostingRegressor:
    return HistGradientBoostingRegressor(**{key: options[key] for key in _DEEP}, early_stopping=False, random_state=state)


def _classifier(state: int) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(**_PROPENSITY, early_stopping=False, random_state=state)


def cross_fitted(model, target: np.ndarray, rows: _Rows) -> np.ndarray:
    """Predictions of `target` [n_train] for all rows, [n] (P(target = 1) of a classifier): a training row by the fold that left it out, any other row by the mean of the folds."""
    inside = rows.x[rows.train]
    made, own = [], np.empty(len(rows.train))
    for others, fold in StratifiedKFold(FOLDS, shuffle=True, random_state=rows.state).split(inside, rows.t):
        fitted = clone(model).fit(inside[others], target[others])
        made.append(fitted.predict_proba(rows.x)[:, 1] if is_classifier(model) else fitted.predict(rows.x))
        own[fold] = made[-1][rows.train[fold]]
    mean = np.mean(made, axis=0)
    mean[rows.train] = own
    return mean


def level(m: np.ndarray, e: np.ndarray, tau: np.ndarray) -> np.ndarray:
    """mu [n, 2] of Eq. effect-level from m, e in [0, 1], tau, each [n]."""
    return np.stack([m - e * tau, m + (1 - e) * tau], axis=1)


def _boosted_level(tau: np.ndarray, rows: _Rows, options: dict) -> np.ndarray:
    """Eq. effect-level with cross-fitted boosted trees for m and e."""
    return level(cross_fitted(_regressor(rows.state, options), rows.y, rows), cross_fitted(_classifier(rows.state), rows.t, rows), tau)


def _s_learner(rows: _Rows, options: dict) -> tuple[np.ndarray]:
    from econml.metalearners import SLearner

    learner = SLearner(overall_model=_regressor(rows.state, options)).fit(rows.y, rows.t, X=rows.x[rows.train])
    control = learner.overall_model.predict(np.column_stack([rows.x, np.ones(len(rows.x)), np.zeros(len(rows.x))]))  # columns x, 1 - t, t
    return (np.stack([control, control + learner.effect(rows.x)], axis=1),)


def _x_learner(rows: _Rows, options: dict) -> tuple[np.ndarray]:
    from econml.metalearners import XLearner

    learner = XLearner(models=_regressor(rows.state, options), propensity_model=_classifier(rows.state)).fit(rows.y, rows.t, X=rows.x[rows.train])
    return (_boosted_level(learner.effect(rows.x), rows, options),)


def _dr_learner(rows: _Rows, options: dict) -> tuple[np.ndarray]:
    from econml.dr import DRLearner

    learner = DRLearner(model_propensity=_classifier(rows.state), model_regression=_regressor(rows.state, options), model_final=_regressor(rows.state, options),
                        min_propensity=SMALLEST_PROPENSITY, cv=FOLDS, random_state=rows.state).fit(rows.y, rows.t, X=rows.x[rows.train])
    return (_boosted_level(learner.effect(rows.x), rows, options),)


def _causal_forest(rows: _Rows, options: dict) -> tuple[np.ndarray]:
    from econml.dml import CausalForestDML

    forest = CausalForestDML(model_y=_regressor(rows.state, options), model_t=_classifier(rows.state), discrete_treatment=True, cv=FOLDS,
                             n_estimators=options["trees"], min_samples_leaf=options["leaf"], inference=False, n_jobs=1, random_state=rows.state)
    forest.fit(rows.y, rows.t, X=rows.x[rows.train], inference=None)
    return (_boosted_level(forest.effect(rows.x), rows, options),)


def _causal_forest_grf(rows: _Rows, options: dict) -> tuple[np.ndarray]:
    from econml.grf import CausalForest, RegressionForest

    inside = rows.x[rows.train]
    shape = {"n_estimators": options["trees"], "min_samples_leaf": options["leaf"], "max_features": options["features"], "inference": False, "n_jobs": 1, "random_state": rows.state}

    def everywhere(forest) -> np.ndarray:
        """Predictions of all rows, [n]; of a training row by the trees that have not seen it."""
        predicted = forest.predict(rows.x)[:, 0]
        predicted[rows.train] = forest.oob_predict(inside)[:, 0]
        return predicted

    m, e = (everywhere(RegressionForest(**shape).fit(inside, target)) for target in (rows.y, rows.t.astype(float)))
    forest = CausalForest(criterion="het", **shape).fit(inside, rows.t - e[rows.train], rows.y - m[rows.train])
    return (level(m, e, everywhere(forest)),)


def _bcf(rows: _Rows, options: dict) -> tuple[np.ndarray, np.ndarray]:
    from stochtree import BCFModel

    e = cross_fitted(_classifier(rows.state), rows.t, rows)
    model = BCFModel()
    model.sample(X_train=rows.x[rows.train], Z_train=rows.t.astype(float), y_train=rows.y, propensity_train=e[rows.train],
                 num_gfr=options["warm"], num_burnin=options["burn_in"], num_mcmc=options["kept"], general_params={"random_seed": rows.state, "num_threads": 1},
                 prognostic_forest_params={"num_trees": options["outcome_trees"]},
                 treatment_effect_forest_params={"num_trees": options["effect_trees"], "alpha": options["effect_alpha"]})
    parts = model.predict(X=rows.x, Z=np.ones(len(rows.x)), propensity=e, terms=["prognostic_function", "cate"])
    kept = [parts["prognostic_function"] + k * parts["cate"] for k in range(2)]  # [n, S] each
    noise = np.sqrt(model.extract_parameter("sigma2"))[:, None] * ndtri((np.arange(NOISE) + 0.5) / NOISE)  # [S, NOISE]
    outcomes = [(means[rows.test, :, None] + noise).reshape(len(rows.test), -1) for means in kept]
    quantiles = [np.quantile(values, (np.arange(DRAWS) + 0.5) / DRAWS, axis=1).T for values in outcomes]
    return np.stack([means.mean(axis=1) for means in kept], axis=1), np.stack(quantiles, axis=1)


def _quantile_forest(rows: _Rows, options: dict) -> tuple[np.ndarray, np.ndarray]:
    from quantile_forest import RandomForestQuantileRegressor

    def arm(k: int) -> tuple[np.ndarray, np.ndarray]:
        forest = RandomForestQuantileRegressor(n_estimators=options["trees"], min_samples_leaf=options["leaf"], max_features=options["features"], max_samples_leaf=None,
                                               n_jobs=1, random_state=rows.state).fit(rows.x[rows.train[rows.t == k]], rows.y[rows.t == k])
        return forest.predict(rows.x, quantiles="mean"), forest.predict(rows.x[rows.test], quantiles=list((np.arange(DRAWS) + 0.5) / DRAWS))

    mu, draws = zip(arm(0), arm(1))
    return np.stack(mu, axis=1), np.stack(draws, axis=1)


METHODS = {"hgb_s": _s_learner, "hgb_x": _x_learner, "hgb_dr": _dr_learner, "causal_forest": _causal_forest, "causal_forest_grf": _causal_forest_grf,
           "bcf": _bcf, "quantile_forest": _quantile_forest}
