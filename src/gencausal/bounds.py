r"""Bounds on a mean outcome when confounders are hidden: Manski's, and the information-theoretic bounds of reading-list item #21.

Notation: P = law of the outcome Y given arm a (and x), Q = law of Y under do(a) (given x), e = propensity e_a(x), phi_i the n outcomes
of a sample of P with probabilities p_i (1/n unless given), theta = E_Q[Y]. g(s) = s f(1/s), so that D_f(P || Q) = E_P[g(dQ/dP)].

`Eq. manski`:      e E_P[Y] + (1 - e) low  <=  theta  <=  e E_P[Y] + (1 - e) high             (Manski 1990; low, high: range of Y)
`Eq. budget`:      D_f(P || Q) <= B_f(e) = e f(1/e) + (1 - e) f(0)                            (Thm. 1, #21, arXiv 2601.17160)
`Eq. itb-dual`:    theta <= inf over lambda > 0, u of  lambda B_f(e) + u + lambda E_P[g*((Y - u)/lambda)],   g* = +inf above f(0)
`Eq. itb-primal`:  the same number as  max of E_P[w Y]  over  w >= 0, E_P[w] = 1, E_P[g(w)] <= B_f(e)
`Eq. itb-weights`: its solution is w_i = W((v - phi_i)/lambda), v = u + lambda f(0) > max phi, W(r) = g*'(f(0) - r)

    f            W(r)              f            W(r)
    KL           1/r               Hellinger    1/(2r)^2
    chi2         1/sqrt(2r)        JS           1/(e^{2r} - 1)          TV: mass 1 - e moves from the lowest outcomes to the highest

On {E_P[w] = 1} lambda is a function of v, closed for the first three, and the divergence spent, E_P[g(w)], falls as v rises: the dual is
one bisection over v - max phi for all samples at once. On a sample dQ/dP lives on the sample, so the bound never passes max phi; for an
unbounded Y it grows with n, as its population value is infinite. Every Q that is possible is a mixture e P + (1 - e) R, so Eq. itb-primal with
w >= e (`floor`) gives Eq. manski back (`Eq. mixture`), and without it the bound is never tighter than Manski's.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gencausal import checks


class Divergence(NamedTuple):
    """f with f(1) = 0 (#21's normalisation), its value at 0, and g*. power: W(r) = (r / unit)^-power, None for JS; unit: W(unit) = 1."""

    f: Callable[[np.ndarray], np.ndarray]
    at_zero: float
    conjugate: Callable[[np.ndarray], np.ndarray]
    power: float | None
    unit: float

    def budget(self, e: np.ndarray) -> np.ndarray:
        """B_f(e) of propensities in (0, 1], any shape (Eq. budget)."""
        return e * self.f(1 / e) + (1 - e) * self.at_zero

    def g(self, s: np.ndarray) -> np.ndarray:
        """g(s) = s f(1/s), s >= 0 (0 by its limit where that is finite)."""
        s = np.maximum(s, 1e-300)
        return s * self.f(1 / s)

    def weight(self, r: np.ndarray) -> np.ndarray:
        """W(r) = g*'(f(0) - r), r > 0 (Eq. itb-weights)."""
        with np.errstate(over="ignore"):
            return 1 / np.expm1(2 * r) if self.power is None else (r / self.unit) ** -self.power


def _outside(t: np.ndarray, inside: np.ndarray, value: np.ndarray) -> np.ndarray:
    return np.where(inside, value, np.inf)


def _quiet(function):
    def call(t):
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            return function(np.asarray(t, dtype=np.float64))
    return call


_HALF_LN2 = 0.5 * math.log(2)
DIVERGENCES = {
    "kl": Divergence(lambda t: t * np.log(t), 0.0, _quiet(lambda t: _outside(t, t < 0, -1 - np.log(-t))), 1.0, 1.0),
    "hellinger": Divergence(lambda t: 0.5 * (np.sqrt(t) - 1) ** 2, 0.5, _quiet(lambda t: _outside(t, t < 0.5, t / (1 - 2 * t))), 2.0, 0.5),
    "chi2": Divergence(lambda t: 0.5 * (t - 1) ** 2, 0.5, _quiet(lambda t: _outside(t, t <= 0.5, 1 - np.sqrt(1 - 2 * t))), 0.5, 0.5),
    "tv": Divergence(lambda t: 0.5 * np.abs(t - 1), 0.5, _quiet(lambda t: _outside(t, t <= 0.5, np.maximum(t, -0.5))), None, 0.0),
    "js": Divergence(lambda t: 0.5 * (t * np.log(t) - (t + 1) * np.log((t + 1) / 2)), _HALF_LN2,
                     _quiet(lambda t: _outside(t, t < _HALF_LN2, -0.5 * np.log(2 - np.exp(2 * t)))), None, _HALF_LN2),
}
LOWEST, HIGHEST, HALVINGS = -75.0, 20.0, 56  # ln of (v - max phi) over the range of phi, and bisections of it


def manski(mean: np.ndarray, e: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds on E[Y | do(a), x] from mean = E[Y | a, x], propensity e of the arm and a known range of Y; all broadcast (Eq. manski)."""
    return e * mean + (1 - e) * low, e * mean + (1 - e) * high


def manski_sample(phi: np.ndarray, e: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Eq. manski with the range that the sample itself shows: phi [n] or [U, n], e [U], weights [U, n] -> two vectors [U]."""
    phi, e, p = _sample(phi, e, weights)
    return manski((p * phi).sum(1), e, phi.min(1), phi.max(1))


def itb(phi: np.ndarray, e: np.ndarray, divergence: str, weights: np.ndarray | None = None, floor: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Exact information-theoretic bounds (low [U], high [U]) on E[Y | do(a), x] (Eq. itb-dual).

    phi: outcomes of the arm, [n] (one sample for all units) or [U, n], on any scale. e: propensity of the arm in (0, 1], a number or [U].
    divergence: one of DIVERGENCES. weights: probabilities of the outcomes, [U, n], normalised here; an outcome of weight 0 is not in the sample.
    floor: demand dQ/dP >= e too (Eq. mixture). InputError for an unknown divergence, a propensity outside (0, 1], or shapes that do not fit.
    """
    checks.choice(divergence, "divergence", tuple(DIVERGENCES))
    phi, e, p = _sample(phi, e, weights)
    return -_upper(-phi, e, divergence, p, floor), _upper(phi, e, divergence, p, floor)


def intersect(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The tightest of several valid bounds: low, high [bounds, ...] -> max of low, min of high."""
    return low.max(0), high.min(0)


def effect(control: tuple[np.ndarray, np.ndarray], treated: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Bounds on E[Y | do(1), x] - E[Y | do(0), x] from the (low, high) of each arm."""
    return treated[0] - control[1], treated[1] - control[0]


def _sample(phi, e, weights) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """phi, e, p as [U, n], [U], [U, n]; outcomes of weight zero are moved to a present one, so that no extreme sees them."""
    phi, e = np.atleast_2d(np.asarray(phi, dtype=np.float64)), np.atleast_1d(np.asarray(e, dtype=np.float64))
    units = max(len(phi), len(e), 1 if weights is None else len(weights))
    if phi.ndim != 2 or e.ndim != 1 or {len(phi), len(e)} - {1, units} or (weights is not None and np.shape(weights) != (units, phi.shape[1])):
        raise checks.InputError(f"phi {phi.shape}, e {e.shape} and weights {np.shape(weights)} do not fit; give phi [n] or [U, n], e [U] and weights [U, n].")
    if not np.isfinite(phi).all() or not ((e > 0) & (e <= 1)).all():
        raise checks.InputError("phi must be finite and e in (0, 1]; drop missing outcomes and clip propensities away from 0.")
    if weights is None:
        return phi, e, np.full((1, phi.shape[1]), 1 / phi.shape[1])
    p = np.asarray(weights, dtype=np.float64)
    if not (p >= 0).all() or not (p.sum(1) > 0).all():
        raise checks.InputError("weights must be at least 0 with one above 0 in every row; remove units without a sample.")
    present = np.take_along_axis(np.broadcast_to(phi, p.shape), p.argmax(1)[:, None], 1)
    return np.where(p > 0, phi, present), e, p / p.sum(1, keepdims=True)


def _upper(phi: np.ndarray, e: np.ndarray, name: str, p: np.ndarray, floor: bool) -> np.ndarray:
    """Upper bound, [U]."""
    top = phi.max(1, keepdims=True)
    scale = np.maximum(top - phi.min(1, keepdims=True), 1e-300)
    gap = (top - phi) / scale  # in [0, 1]
    low = e[:, None] if floor else np.zeros((1, 1))
    drop = _tv_drop(gap, e, p, low) if name == "tv" else _smooth_drop(gap, e, DIVERGENCES[name], p, low)
    return top[:, 0] - scale[:, 0] * np.where(e < 1, drop, (p * gap).sum(1))


def _tv_drop(gap: np.ndarray, e: np.ndarray, p: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """max phi minus the bound, in units of the range: mass 1 - e leaves the lowest outcomes, (1 - floor) p of each at most."""
    units = np.broadcast_shapes(gap.shape, p.shape, (len(e), 1))
    gap, p = np.broadcast_to(gap, units), np.broadcast_to(p, units)
    order = np.argsort(-gap, axis=1, kind="stable")
    gap, p = np.take_along_axis(gap, order, 1), np.take_along_axis(p, order, 1)
    removable = (1 - floor) * p
    before = np.cumsum(removable, 1) - removable
    removed = np.clip((1 - e)[:, None] - before, 0, removable)
    return ((p - removed) * gap).sum(1)


def _smooth_drop(gap: np.ndarray, e: np.ndarray, f: Divergence, p: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """max phi minus the dual value, in units of the range, by bisection over ln(v - max phi) (Eq. itb-dual, itb-weights)."""
    budget = f.budget(e)
    low, high = np.full(len(e), LOWEST), np.full(len(e), HIGHEST)
    units = max(len(gap), len(e), len(p))
    low, high = np.broadcast_to(low, units).copy(), np.broadcast_to(high, units).copy()
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        w = _solve(gap + np.exp(middle)[:, None], f, p, floor)[1]
        spent = (p * f.g(w)).sum(1)
        low, high = np.where(spent > budget, middle, low), np.where(spent > budget, high, middle)
    shift = np.exp(high)
    d = gap + shift[:, None]
    kappa, w = _solve(d, f, p, floor)
    t = f.at_zero - kappa[:, None] * d
    dual = (budget - f.at_zero + (p * (t * w - f.g(w))).sum(1)) / kappa + shift  # g*(t) = t w - g(w) at w = W
    return -dual


def _solve(d: np.ndarray, f: Divergence, p: np.ndarray, floor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(1/lambda [U], w [U, n]) with w = max(W(d/lambda), floor) of mean one, for distances d = v - phi > 0."""
    if not floor.any():
        if f.power is not None:
            nearest = d.min(1, keepdims=True)
            kappa = f.unit * (p * (d / nearest) ** -f.power).sum(1) ** (1 / f.power) / nearest[:, 0]
        else:
            kappa = _js_kappa(d, p)
        return kappa, f.weight(kappa[:, None] * d)
    low, high = (np.broadcast_to(np.log(f.unit / side), max(len(d), len(p), len(floor))) for side in (d.max(1), d.min(1)))
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        many = (p * np.maximum(f.weight(np.exp(middle)[:, None] * d), floor)).sum(1) > 1
        low, high = np.where(many, middle, low), np.where(many, high, middle)
    kappa = np.exp(0.5 * (low + high))
    return kappa, np.maximum(f.weight(kappa[:, None] * d), floor)


def _js_kappa(d: np.ndarray, p: np.ndarray) -> np.ndarray:
    """1/lambda for JS: Newton on ln E[1/(e^x - 1)] = 0 in ln kappa, x = 2 kappa d; concave, so monotone from the KL value, which is too large."""
    log_kappa = np.log(0.5 * (p / d).sum(1))
    for _ in range(50):
        x = np.minimum(2 * np.exp(log_kappa)[:, None] * d, 700.0)
        w = 1 / np.expm1(x)
        mean = (p * w).sum(1)
        step = np.log(mean) / ((p * x * w * (1 + w)).sum(1) / mean)
        log_kappa = log_kappa + step
        if np.abs(step).max() < 1e-14:
            break
    return np.exp(log_kappa)
