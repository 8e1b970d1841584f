r"""Mean outcome of a population under a treatment: plug-in, inverse weighting, and the robust estimate that corrects the first by the second (spec vci, 2.7 and E5).

Notation: cells k = 1 ... n, outcome Y_k, treatment T_k, predictions m_k(a) of the outcome under each treatment a, propensity e(a | X_k). Target psi(a) = E[Y_a].

    plug-in   (1/n) sum_k m_k(a)                                                                       `Eq. plug-in`
    weighted  (1/n) sum_k 1(T_k = a) Y_k / e(a | X_k)                                                   `Eq. ipw`      (Horvitz and Thompson 1952)
    robust    (1/n) sum_k phi_k(a),  phi_k(a) = m_k(a) + 1(T_k = a) / e(a | X_k) (Y_k - m_k(a))         `Eq. aipw`     (Robins, Rotnitzky and Zhao 1994)
    as coded  Psi_x(a) = mean_{k in x} m_k(a) + mean_{k in x: T_k = a} (Y_k - m_k(a))                   `Eq. aipw-stratum`
              which is Eq. aipw within the stratum x with the empirical propensity n_{x,a} / n_x        (yulun-rayn/variational-causal-inference@25c641d)
    interval  psi +- z se,  se^2 = mean_k (phi_k - psi)^2 / (n - 1)                                     `Eq. influence`

The estimate is unbiased for any fixed m at the true propensity, and for any propensity at m = E[Y_a | Z]. **m_k(a) must not know T_k**: the prediction of VCI reads (Y_k, T_k), and where it restates Y_k for T_k = a but errs
for the others, the residuals are zero and nothing is corrected. Nothing can be said of a treatment that no cell got, or that some cell could not get (e = 0): such an estimate is NaN, with count 0.

Shapes: leading axes R (replications) are free; outcome [..., n, G], treatment [..., n] int in 0 ... K - 1, predicted [..., n, K, G], propensity [..., n, K]; estimates [..., K, G].
"""

from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from gencausal import checks


class Estimate(NamedTuple):
    """value, se: [..., K, G], NaN where nothing can be said; count: cells that got the treatment, [..., K]."""

    value: np.ndarray
    se: np.ndarray
    count: np.ndarray

    def interval(self, alpha: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the Wald interval at level 1 - alpha, [..., K, G] each (Eq. influence)."""
        reach = norm.ppf(1 - checks.fraction(alpha, "alpha") / 2) * self.se
        return self.value - reach, self.value + reach


def shares(treatment: np.ndarray, arms: int, stratum: np.ndarray | None = None) -> np.ndarray:
    """Share of each treatment among the cells of a cell's stratum (all cells if None), [..., n, K]: the empirical propensity n_{x,a} / n_x."""
    seen = _seen(treatment, arms)
    if stratum is None:
        return np.broadcast_to(seen.mean(-2, keepdims=True), seen.shape)
    member = _seen(stratum, int(stratum.max()) + 1).astype(np.float64)
    size = member.sum(-2)[..., None]
    return member @ (np.swapaxes(member, -1, -2) @ seen / np.maximum(size, 1))


def plug_in(predicted: np.ndarray, treatment: np.ndarray) -> Estimate:
    """Mean prediction (Eq. plug-in); its standard error is that of the mean of m_k alone and knows nothing of a bias. Defined for treatments that no cell got, too; `count` is 0 there."""
    return _estimate(np.asarray(predicted, np.float64), _seen(treatment, np.shape(predicted)[-2]).sum(-2), True)


def ipw(outcome: np.ndarray, treatment: np.ndarray, propensity: np.ndarray) -> Estimate:
    """Inversely weighted mean (Eq. ipw) at `propensity`."""
    outcome = np.asarray(outcome, np.float64)
    return robust_mean(outcome, treatment, np.zeros((*outcome.shape[:-1], np.shape(propensity)[-1], 1)), propensity)


def influence(outcome: np.ndarray, treatment: np.ndarray, predicted: np.ndarray, propensity: np.ndarray | None = None) -> np.ndarray:
    """phi_k(a) of Eq. aipw, [..., n, K, G]: its mean is the estimate, and less that mean it is the influence function. `propensity` None: the shares of these cells. Where e = 0 no cell is weighted."""
    outcome, predicted = np.asarray(outcome, np.float64), np.asarray(predicted, np.float64)
    seen = _seen(treatment, predicted.shape[-2])
    if predicted.shape[-3] != outcome.shape[-2] or predicted.shape[-1] not in (1, outcome.shape[-1]):
        raise checks.InputError(f"predicted has shape {predicted.shape} but outcome {outcome.shape}; pass [n, K, G] beside [n, G].")
    propensity = shares(treatment, predicted.shape[-2]) if propensity is None else np.asarray(propensity, np.float64)
    if propensity.shape[-2:] != seen.shape[-2:] or (propensity < 0).any() or (propensity > 1).any():
        raise checks.InputError(f"propensity must hold probabilities of shape [n, K] = {seen.shape[-2:]}, not {propensity.shape[-2:]}; pass P(T = a | X) of every cell.")
    weight = np.divide(seen, propensity, out=np.zeros(np.broadcast_shapes(seen.shape, propensity.shape)), where=seen & (propensity > 0))
    residual = outcome[..., None, :] - predicted
    residual *= weight[..., None]
    residual += predicted
    return residual


def robust_mean(outcome: np.ndarray, treatment: np.ndarray, predicted: np.ndarray, propensity: np.ndarray | None = None) -> Estimate:
    """Robust mean under each treatment with its standard error (Eq. aipw, Eq. influence). `propensity` None takes the shares of these cells, which on the cells of one stratum is the official Psi_x (Eq. aipw-stratum)."""
    phi = influence(outcome, treatment, predicted, propensity)
    count = _seen(treatment, phi.shape[-2]).sum(-2)
    return _estimate(phi, count, (count > 0) & (propensity is None or (np.asarray(propensity) > 0).all(-2)))


def stratum_means(outcome: np.ndarray, treatment: np.ndarray, stratum: np.ndarray, predicted: np.ndarray, strata: int | None = None) -> Estimate:
    """Psi_x(a) of every stratum, as coded (Eq. aipw-stratum): value and se [X, K, G], count [X, K]. A group without cells, or a stratum without any, is NaN with count 0."""
    stratum, strata = np.asarray(stratum), int(np.max(stratum)) + 1 if strata is None else strata
    empty = np.full((np.shape(predicted)[-2], np.shape(outcome)[-1]), np.nan)
    parts = [robust_mean(outcome[rows], treatment[rows], predicted[rows]) if (rows := stratum == x).any() else Estimate(empty, empty, np.zeros(len(empty), int)) for x in range(strata)]
    return Estimate(*(np.stack(values) for values in zip(*parts)))


def _seen(labels: np.ndarray, k: int) -> np.ndarray:
    """One-hot `labels [..., n]`, [..., n, k] of bool."""
    return np.asarray(labels)[..., None] == np.arange(k)


def _estimate(phi: np.ndarray, count: np.ndarray, defined) -> Estimate:
    """Mean and standard error of phi [..., n, K, G] over cells, NaN where not `defined [..., K]`; the error needs two cells."""
    defined = np.broadcast_to(defined, count.shape)[..., None]
    n, value = phi.shape[-3], phi.mean(-3)
    spread = np.sqrt(phi.var(-3, ddof=1) / n) if n > 1 else np.full(value.shape, np.nan)
    return Estimate(np.where(defined, value, np.nan), np.where(defined, spread, np.nan), count)
