r"""Overlap: where the arms of a study meet, and where an effect would be extrapolated.

Propensity e_k(x) = P(T = k | x), [n, K]. An effect of arm k against j at x needs both arms there: e_k(x), e_j(x) > 0. Where one is below
`BOUND` = 0.05 (1 in 20), the table holds next to nothing of that arm at x and a model's answer is its own extrapolation.

    w_i = 1 / e_{t_i}(x_i)                                inverse-propensity weights of the units of an arm
    ESS_k = (sum_i w_i)^2 / sum_i w_i^2 over t_i = k      effective sample size of arm k, `Eq. ess` (Kish 1965)

ESS_k is the number of equally weighted units that would tell as much about the whole population's Y(k); ESS_k / n_k near 1 is good overlap.
Propensities are cross-fitted, so that no unit's own arm enters its own. A logistic model sees linear separation alone; the boosted one more.
Both are penalised or stopped early, as an overconfident model would report a lack of overlap that is its own.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

from gencausal import checks, metrics
from gencausal.checks import InputError
from gencausal.seeding import derive

BOUND = 0.05
BINS = 20
MODELS = ("logistic", "boosted")


class ExtrapolationWarning(UserWarning):
    """Effects were asked for units at which one of the arms asked has next to no data."""


@dataclass(frozen=True, eq=False)
class Propensity:
    """A multinomial logistic model: softmax(weight (x - center) / scale + bias). weight [K, d], bias [K], center and scale [d]."""

    weight: np.ndarray
    bias: np.ndarray
    center: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, x: np.ndarray, t: np.ndarray) -> "Propensity":
        """Ridge-penalised (C = 1) on standardised covariates x [n, d]; t [n] in 0..K-1, every arm present."""
        center, scale = x.mean(0), x.std(0)
        scale = np.where(scale > 1e-12 * np.maximum(1, np.abs(center)), scale, 1.0)
        with threadpool_limits(1):
            model = LogisticRegression(max_iter=5000).fit((x - center) / scale, t)
        weight, bias = model.coef_, model.intercept_
        if len(weight) == 1:  # two arms: one logit, against arm 0
            weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
        return cls(weight, bias, center, scale)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """e(x), [n, K], rows sum to 1."""
        logit = ((x - self.center) / self.scale) @ self.weight.T + self.bias
        e = np.exp(logit - logit.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)


def crossfitted(x: np.ndarray, t: np.ndarray, seed: int = 0, model: str = "logistic", folds: int = 5) -> np.ndarray:
    """Propensities [n, K] of covariates x [n, d] and arms t [n] in 0..K-1, each row's from a model (one of MODELS) of the other folds."""
    checks.choice(model, "model", MODELS)
    x, t = checks.matrix(x, "x"), checks.treatment(t, "t", len(x))
    if (smallest := int(np.bincount(t).min())) < 2:
        raise InputError(f"t has an arm of {smallest} unit; cross-fitting needs two in each arm, so merge arms or drop it.")
    split = StratifiedKFold(min(checks.whole(folds, "folds", 2), smallest), shuffle=True, random_state=derive(seed, "overlap") % 2**32)
    e = np.empty((len(x), t.max() + 1))
    for fit, rest in split.split(x, t):
        if model == "logistic":
            e[rest] = Propensity.fit(x[fit], t[fit]).predict(x[rest])
        else:
            with threadpool_limits(1):
                boosted = HistGradientBoostingClassifier(max_iter=100, learning_rate=0.1, max_leaf_nodes=15, min_samples_leaf=10, early_stopping=True, n_iter_no_change=5, random_state=0)
                e[rest] = boosted.fit(x[fit], t[fit]).predict_proba(x[rest])
    return e


@dataclass(frozen=True, eq=False)
class Overlap:
    """How the arms meet.

    labels: the K arms. rows [K]: units an arm. ess [K]: effective sample sizes of `Eq. ess`. smallest [K]: the smallest e_k over all units.
    below_arm [K]: share of all units with e_k < bound. below: share of units with min_k e_k < bound, lower is better.
    edges [BINS + 1], counts [K, K, BINS]: counts[k, j] is the histogram of e_k among the units of arm j.
    """

    labels: tuple
    rows: np.ndarray
    ess: np.ndarray
    smallest: np.ndarray
    below_arm: np.ndarray
    below: float
    edges: np.ndarray
    counts: np.ndarray
    bound: float = BOUND

    def frame(self) -> pd.DataFrame:
        """One row an arm: arm, units, effective sample size, its share of the units, smallest propensity, share of units below the bound."""
        return pd.DataFrame({"arm": [str(label) for label in self.labels], "units": self.rows, "effective sample size": self.ess, "share of units": self.ess / self.rows,
                             "smallest propensity": self.smallest, f"units below {self.bound:g}": self.below_arm})

    def sentence(self) -> str:
        """The finding in words."""
        worst = int(np.argmin(self.ess / self.rows))
        return (f"{100 * self.below:.3g} % of the units have a propensity below {self.bound:g} for some arm; arm {self.labels[worst]} weighs as "
                f"{self.ess[worst]:.3g} of its {self.rows[worst]} units.")


def diagnose(t, propensity, labels=None, bound: float = BOUND) -> Overlap:
    """The `Overlap` of arms t [n] in 0..K-1 under propensities [n, K] (rows sum to 1). labels: names of the arms, by default 0..K-1."""
    e = checks.matrix(propensity, "propensity")
    t = checks.treatment(t, "t", len(e), e.shape[1])
    checks.fraction(bound, "bound")
    if (e < 0).any() or np.abs(e.sum(1) - 1).max() > 1e-6:
        raise InputError("propensity must hold probabilities whose rows sum to 1; pass one column for each arm.")
    arms = range(e.shape[1])
    if len(empty := [k for k in arms if not (t == k).any()]):
        raise InputError(f"t has no unit in arm {empty[0]}; drop its column of propensity.")
    own = np.log(np.maximum(e[np.arange(len(t)), t], np.finfo(float).tiny))
    edges = np.linspace(0, 1, BINS + 1)
    return Overlap(tuple(arms if labels is None else labels), np.bincount(t, minlength=len(arms)), np.array([metrics.effective_sample_size(-own[t == k]) for k in arms]),
                   e.min(0), (e < bound).mean(0), float((e.min(1) < bound).mean()), edges,
                   np.array([[np.histogram(e[t == j, k], edges)[0] for j in arms] for k in arms]), bound)


def extrapolated(propensity: np.ndarray, arms) -> float:
    """Share of units whose propensity [n, K] for one of `arms` (indices) is below BOUND."""
    return float((propensity[:, list(arms)].min(1) < BOUND).mean())
