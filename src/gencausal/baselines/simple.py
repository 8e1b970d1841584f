"""Reference estimators that a generative method must beat or explain (spec iwdd, section 5.3): five, none of them tuned.

    zero        no effect: every arm gets the mean of the training outcomes
    naive_ate   constant effect: each arm gets the mean of its training outcomes
    oracle_ate  constant effect, the true one: each arm gets the mean of mu over the test rows. The only one that reads the truth
    ridge_t     T-learner, one ridge regression an arm; penalty by leave-one-out cross-validation
    hgb_t       T-learner, one histogram gradient boosting an arm

T-learner: mu_hat_k(x) is a regression of y on x among the training rows of arm k. Apart from `oracle_ate`, only x, and t and y of
the training rows (`table.train`, its validation part included), are read; covariates are standardised on the training rows.
"""

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from gencausal import checks
from gencausal.baselines.prediction import Prediction
from gencausal.data.table import CausalTable

NAMES = ("zero", "naive_ate", "oracle_ate", "ridge_t", "hgb_t")
RIDGE_PENALTIES = np.logspace(-2, 4, 13)
SMALLEST_ARM = {"ridge_t": 2, "hgb_t": 20}  # training rows an arm; hgb_t: two leaves of ten, below that it is a constant


def fit_predict(name: str, table: CausalTable, seed: int = 0) -> Prediction:
    """Fit the baseline `name` (one of NAMES) on `table.train` and predict mu [n, K] for every row of `table`.

    seed: a whole number for `hgb_t`, whose trees see no randomness below 200,000 training rows an arm: in this study it
    changes nothing. Errors: an unknown name, covariates or training outcomes that are not finite, too small an arm.
    """
    checks.choice(name, "name", NAMES)
    checks.whole(seed, "seed", low=0)
    x = checks.matrix(table.x, "table.x")
    n, arms = table.mu.shape
    if name == "oracle_ate":
        return Prediction(name, np.tile(table.mu[table.test].mean(axis=0), (n, 1)))
    y = checks.vector(table.y[table.train], "table.y[train]", len(table.train))
    rows = [table.train[table.t[table.train] == k] for k in range(arms)]
    for k, arm in enumerate(rows):
        needed = SMALLEST_ARM.get(name, 1)
        if len(arm) < needed:
            raise checks.InputError(f"Arm {k} has {len(arm)} training rows but {name} needs {needed}; merge arms or train on more rows.")
    if name == "zero":
        return Prediction(name, np.full((n, arms), y.mean()))
    if name == "naive_ate":
        return Prediction(name, np.tile([table.y[arm].mean() for arm in rows], (n, 1)))
    x = StandardScaler().fit(x[table.train]).transform(x)
    with threadpool_limits(1):  # tables this small gain nothing from threads, and on a busy machine they lose a lot
        return Prediction(name, np.stack([_model(name, seed, x[arm], table.y[arm]).predict(x) for arm in rows], axis=1))


def _model(name: str, seed: int, x: np.ndarray, y: np.ndarray):
    """The regression of one arm, fitted to x [n_arm, d], y [n_arm]."""
    if name == "ridge_t":
        return RidgeCV(alphas=RIDGE_PENALTIES).fit(x, y)
    return HistGradientBoostingRegressor(
        max_iter=150, learning_rate=0.08, max_leaf_nodes=15, min_samples_leaf=10, early_stopping=False, random_state=seed
    ).fit(x, y)
