r"""Corrections for predicted outcomes that are shrunk towards their mean (reading-list item #3, arXiv 2508.01341).

Notation: y outcome, y_hat its prediction, a arm, e(x) = P(a = 1 | x); calibration rows hold both y and y_hat.

A calibrated prediction y_hat = E[Y | features] keeps the slope one of y on y_hat, and therefore not of y_hat on y:

`Eq. shrinkage`:  slope of y_hat on y = Var(y_hat) / Var(y) < 1
`Eq. lcc`:        fit y_hat = m + k y on calibration rows, return (y_hat - m) / k                          (linear calibration correction)
`Eq. tweedie`:    return y_hat - s^2 d/dy_hat ln p(y_hat), s = sd of calibration residuals y - y_hat, p a Gaussian kernel density of the
                  calibration predictions, the derivative by a central difference of width sd(y_hat) / 1000
`Eq. surrogate`:  both undo the shrinkage of an average effect if y_hat is independent of a given y. Where the arm moves y_hat beyond y, as
                  when it is an input of the predictor, E[y_hat | a] may already be right, and both then overshoot by about 1 / k.
`Eq. ht`:         ATE = mean of  a v / e - (1 - a) v / (1 - e),  v the (corrected) predictions        (Horvitz-Thompson, e clipped at 1e-6)
`Eq. slope-test`: over trials, estimate = b0 + b1 truth;  F = ((RSS_0 - RSS) / 2) / (RSS / (n - 2)), RSS_0 at b0 = 0, b1 = 1
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

from gencausal import checks


class Line(NamedTuple):
    """Least-squares line `intercept + slope x`."""

    slope: float
    intercept: float


class Correction(NamedTuple):
    """What calibration rows say of a predictor: the line of y_hat on y, the residual sd, and the calibration predictions, [n]."""

    line: Line
    residual_sd: float
    predictions: np.ndarray

    def lcc(self, y_hat: np.ndarray) -> np.ndarray:
        """Predictions of any shape, corrected by Eq. lcc."""
        return (np.asarray(y_hat, dtype=np.float64) - self.line.intercept) / self.line.slope

    def tweedie(self, y_hat: np.ndarray, chunk: int = 2**22) -> np.ndarray:
        """Predictions of any shape, corrected by Eq. tweedie. Beyond the calibration predictions the density is extrapolated by its nearest kernel."""
        y_hat = np.asarray(y_hat, dtype=np.float64)
        sd = self.predictions.std(ddof=1)
        delta, bandwidth = sd / 1000, sd * len(self.predictions) ** -0.2  # Scott's rule in one dimension
        flat = y_hat.ravel()
        size = max(1, chunk // len(self.predictions))
        score = [(_log_density(v + delta, self.predictions, bandwidth) - _log_density(v - delta, self.predictions, bandwidth)) / (2 * delta)
                 for v in (flat[i:i + size] for i in range(0, len(flat), size))]
        return y_hat - self.residual_sd**2 * np.concatenate(score).reshape(y_hat.shape)


def line(x: np.ndarray, y: np.ndarray) -> Line:
    """Least squares of y on x, both [n], n >= 2 and x not constant."""
    x = checks.vector(x, "x")
    y = checks.vector(y, "y", len(x))
    if np.ptp(x) == 0:
        raise checks.InputError("x is constant, so a line through it has no slope; give at least two different values.")
    slope = float(np.mean((x - x.mean()) * (y - y.mean())) / x.var())
    return Line(slope, float(y.mean() - slope * x.mean()))


def calibrate(y: np.ndarray, y_hat: np.ndarray) -> Correction:
    """Measure the shrinkage on calibration rows that the predictor was not fitted to: outcomes y and predictions y_hat, both [n].

    Raises InputError for constant predictions and for a slope of y_hat on y of zero or below, which no correction can divide by.
    """
    y = checks.vector(y, "y")
    y_hat = checks.vector(y_hat, "y_hat", len(y))
    fitted = line(y, y_hat)
    if np.ptp(y_hat) == 0 or fitted.slope <= 0:
        raise checks.InputError(f"y_hat has slope {fitted.slope:g} on y, so there is nothing to rescale; use a predictor that rises with y.")
    return Correction(fitted, float((y - y_hat).std(ddof=1)), y_hat)


def horvitz_thompson(values: np.ndarray, t: np.ndarray, e: np.ndarray, clip: float = 1e-6) -> float:
    """Average effect of arm 1 from values [n], arms t [n] in {0, 1} and true propensities e [n] (Eq. ht)."""
    e = np.clip(e, clip, 1 - clip)
    return float(np.mean(np.where(t == 1, values / e, -values / (1 - e))))


class SlopeTest(NamedTuple):
    """Line of estimates on truths, and the joint F test of slope one and intercept zero."""

    slope: float
    intercept: float
    f: float
    p: float
    n: int


def slope_test(estimate: np.ndarray, truth: np.ndarray) -> SlopeTest:
    """Eq. slope-test over trials: estimate, truth [n], n >= 3. An exact fit gives p = 1 if it is the identity, else 0."""
    fitted = line(truth, estimate)
    estimate, truth = np.asarray(estimate, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    n = len(truth)
    if n < 3:
        raise checks.InputError(f"estimate must hold at least three trials for a slope test; got {n}.")
    rss = float(((estimate - fitted.intercept - fitted.slope * truth) ** 2).sum())
    rss_0 = float(((estimate - truth) ** 2).sum())
    if rss <= 1e-24 * max(rss_0, float((truth**2).sum())):
        return SlopeTest(fitted.slope, fitted.intercept, 0.0 if np.allclose(estimate, truth) else np.inf, float(np.allclose(estimate, truth)), n)
    f = (rss_0 - rss) / 2 / (rss / (n - 2))
    return SlopeTest(fitted.slope, fitted.intercept, f, float(stats.f.sf(f, 2, n - 2)), n)


def _log_density(v: np.ndarray, points: np.ndarray, bandwidth: float) -> np.ndarray:
    """ln of the Gaussian kernel density at v [m] (up to a constant), by the log of a sum of exponentials: finite everywhere."""
    exponent = -0.5 * ((v[:, None] - points) / bandwidth) ** 2
    top = exponent.max(1)
    return top + np.log(np.exp(exponent - top[:, None]).sum(1))
