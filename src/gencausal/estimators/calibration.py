r"""Outcome intervals with a finite-sample guarantee: split-conformal on the quantile scale.

Conformalised quantile regression (Romano, Patterson, Candes, NeurIPS 2019). A model gives each unit an interval [l, u]; held rows, which did
not train it, give the scores

    s_i = max(l_i - y_i, y_i - u_i)                                             `Eq. cqr-score`
    d   = the ceil((n + 1)(1 - alpha))-th smallest of s_1, ..., s_n               `Eq. cqr-offset`

and [l - d, u + d] covers a new outcome that is exchangeable with the held ones with probability in [1 - alpha, 1 - alpha + 1/(n + 1)] (the
upper bound if scores have no ties), whatever the model. d < 0 narrows an interval that is too wide. The guarantee is an average over units and
over held samples; it is not one for each x, and not one for an arm other than those of the held rows.
"""

import numpy as np

from gencausal import checks, metrics
from gencausal.checks import InputError


def fewest(alpha: float) -> int:
    """Held rows that a level needs: the smallest n with ceil((n + 1)(1 - alpha)) <= n, 9 at alpha = 0.1."""
    return int(np.ceil(1 / checks.fraction(alpha, "alpha") - 1e-9)) - 1


def calibrate(lower, upper, y, alpha: float) -> float:
    """Offset d of `Eq. cqr-offset` from intervals `lower`, `upper` [n] of held rows and their outcomes `y` [n]; add it to both ends outwards.

    Errors: fewer than `fewest(alpha)` rows, where no finite offset has the guarantee.
    """
    lower = checks.vector(lower, "lower")
    upper, y = checks.vector(upper, "upper", len(lower)), checks.vector(y, "y", len(lower))
    if len(y) < (needed := fewest(alpha)):
        raise InputError(f"y has {len(y)} held rows but an interval of level {1 - alpha:g} needs {needed}; hold more rows out or raise alpha.")
    rank = int(np.ceil((len(y) + 1) * (1 - alpha) - 1e-9))
    return float(np.partition(np.maximum(lower - y, y - upper), rank - 1)[rank - 1])


def widen(lower: np.ndarray, upper: np.ndarray, offset) -> tuple[np.ndarray, np.ndarray]:
    """[lower - offset, upper + offset]; ends that would cross meet in the middle. offset: a number, or one a row."""
    low, high, middle = lower - offset, upper + offset, (lower + upper) / 2
    return np.minimum(low, middle), np.maximum(high, middle)


def calibrated_coverage(draws_held, y_held, draws_test, alpha: float = 0.1, stratified: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated central intervals (lower [n_test], upper [n_test]) of level 1 - alpha.

    draws_held [n_held, M], y_held [n_held]: draws of the factual arm and outcomes of held rows. draws_test [n_test, M]: draws of the units asked.
    stratified: the draws are quantiles at (j + 1/2)/M (`metrics.interval`); False for random ones. The guarantee holds for both.
    """
    offset = calibrate(*metrics.interval(draws_held, 1 - alpha, stratified), y_held, alpha)
    return widen(*metrics.interval(draws_test, 1 - alpha, stratified), offset)
