"""Bounds under hidden confounding: the dual against the primal, Manski, limits and invariances (specification of the second act, 8.9)."""

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar

from gencausal import bounds
from gencausal.bounds import DIVERGENCES, itb, manski, manski_sample
from gencausal.checks import InputError

PHI = np.random.default_rng(0).standard_normal(30)
E = np.array([0.05, 0.5, 0.95])


@pytest.mark.parametrize("name, closed", [("kl", lambda e: -np.log(e)), ("hellinger", lambda e: 1 - np.sqrt(e)), ("chi2", lambda e: (1 - e) / (2 * e)), ("tv", lambda e: 1 - e),
                                          ("js", lambda e: 0.5 * (e * np.log(e) - (1 + e) * np.log(1 + e)) + np.log(2))])
def test_budget(name, closed):
    """Eq. budget in closed form, and zero where everybody is treated."""
    assert np.allclose(DIVERGENCES[name].budget(E), closed(E), rtol=1e-12)
    assert abs(DIVERGENCES[name].budget(np.array(1.0))) < 1e-15


@pytest.mark.parametrize("name", DIVERGENCES)
def test_conjugate_and_weights(name):
    """g*(t) = sup_s (t s - g(s)) numerically; +inf above f(0); and W is its derivative (Eq. itb-weights)."""
    f = DIVERGENCES[name]
    for t in (-3.0, -0.7, -0.2, 0.8 * f.at_zero - 0.05):
        best = minimize_scalar(lambda log_s: -(t * np.exp(log_s) - f.g(np.exp(log_s))), bounds=(-30, 12), method="bounded", options={"xatol": 1e-10})
        assert f.conjugate(t) == pytest.approx(-best.fun, abs=1e-5)
        if name != "tv":
            assert f.weight(np.array(f.at_zero - t)) == pytest.approx((f.conjugate(t + 1e-6) - f.conjugate(t - 1e-6)) / 2e-6, rel=1e-4)
    assert np.isposinf(f.conjugate(f.at_zero + 0.01))


@pytest.mark.filterwarnings("ignore:Values in x were outside bounds")
@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("e", [0.1, 0.5, 0.9])
def test_dual_is_primal(name, e):
    """Eq. itb-dual = Eq. itb-primal, solved independently over r = sqrt(w)."""
    f, budget = DIVERGENCES[name], float(DIVERGENCES[name].budget(np.array(e)))
    primal = minimize(lambda r: -(r * r * PHI).mean(), 1 + 0.1 * PHI, jac=lambda r: -2 * r * PHI / len(PHI), bounds=[(1e-6, None)] * len(PHI), method="SLSQP", options={"maxiter": 500, "ftol": 1e-12},
                      constraints=[{"type": "eq", "fun": lambda r: (r * r).mean() - 1}, {"type": "ineq", "fun": lambda r: budget - f.g(r * r).mean()}])
    assert itb(PHI, e, name)[1][0] == pytest.approx(-primal.fun, abs=2e-6)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_no_dual_point_is_lower(name):
    """Weak duality on a grid of (lambda, u): every feasible value is at least the bound, and some come within 1 %."""
    f, bound = DIVERGENCES[name], itb(PHI, 0.4, name)[1][0]
    scale, share = np.exp(np.linspace(-4, 3, 140))[:, None, None], np.linspace(-3, 6, 361)[:, None]
    with np.errstate(all="ignore"):
        value = scale[..., 0] * f.budget(np.array(0.4)) + share.T + scale[..., 0] * f.conjugate((PHI - share) / scale).mean(-1)
    assert bound - 1e-9 <= np.nanmin(value) <= bound + 0.01 * np.ptp(PHI)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_contains_manski_and_mixture_recovers_it(name):
    """Never tighter than Eq. manski with the sample's range, inside that range; with w >= e equal to it (A2.C21g)."""
    low, high = itb(PHI, E, name)
    exact = manski_sample(PHI, E)
    assert (low <= exact[0] + 1e-12).all() and (high >= exact[1] - 1e-12).all()
    assert (high[:2] > exact[1][:2] + 1e-3).all()
    assert (high <= PHI.max() + 1e-12).all() and (low >= PHI.min() - 1e-12).all()
    assert np.allclose(itb(PHI, E, name, floor=True), exact, atol=1e-9)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_limits_and_invariances(name):
    """Width 0 at e = 1 and monotone in e; scale, shift and reflection; copies of the sample change nothing; a constant outcome has no width."""
    assert np.allclose(itb(PHI, 1.0, name), PHI.mean(), atol=1e-12)
    assert np.allclose(itb(PHI, 1 - 1e-12, name), PHI.mean(), atol=1e-4)
    low, high = itb(PHI, np.linspace(0.01, 0.99, 25), name)
    assert (np.diff(high - low) < 1e-9).all()
    assert np.allclose(itb(1e3 * PHI - 7, E, name), 1e3 * np.array(itb(PHI, E, name)) - 7, rtol=1e-8)
    assert np.allclose(itb(-PHI, E, name), -np.array(itb(PHI, E, name))[::-1], atol=1e-10)
    assert np.allclose(itb(np.tile(PHI, 3), E, name), itb(PHI, E, name), atol=1e-9)
    assert np.allclose(itb(np.full(5, 2.0), E, name), 2.0)


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("floor", [False, True])
def test_weights_and_batches(name, floor):
    """Integer weights are copies, weight zero is absence, and one unit alone is that unit in company."""
    weights = np.random.default_rng(1).integers(0, 4, (2, len(PHI))).astype(float)
    together = np.array(itb(PHI, np.array([0.3, 0.6]), name, weights, floor))
    for u, e in enumerate((0.3, 0.6)):
        repeated = np.repeat(PHI, weights[u].astype(int))
        assert np.allclose(together[:, u], np.array(itb(repeated, e, name, floor=floor))[:, 0], atol=1e-8)


def test_large_sample_values():
    """Reference level of the specification (one N(0,1) sample, e = 1/2, n = 10^4): chi2 is nearest to Manski, TV and Hellinger farthest."""
    phi = np.random.default_rng(2).standard_normal(10_000)
    high = {name: itb(phi, 0.5, name)[1][0] for name in DIVERGENCES} | {"manski": manski_sample(phi, 0.5)[1][0]}
    assert high["manski"] < high["chi2"] < high["kl"] < high["js"] < high["hellinger"]
    assert high["chi2"] - high["manski"] < 0.06 and high["tv"] == pytest.approx(0.5 * phi.max() + 0.5 * np.sort(phi)[5000:].mean(), abs=1e-9)


def test_manski_effect_and_intersection():
    low, high = manski(np.array([0.2]), np.array([0.25]), 0.0, 1.0)
    assert (low[0], high[0]) == (0.05, pytest.approx(0.8))
    assert bounds.effect((np.array([1.0]), np.array([2.0])), (np.array([4.0]), np.array([7.0]))) == (2.0, 6.0)
    assert bounds.intersect(np.array([[0.0], [1.0]]), np.array([[5.0], [4.0]])) == (1.0, 4.0)


@pytest.mark.parametrize("arguments, word", [((PHI, 0.5, "renyi"), "divergence"), ((PHI, 0.0, "kl"), "clip"), ((PHI, 1.2, "kl"), "clip"), ((np.array([1.0, np.nan]), 0.5, "kl"), "finite"),
                                             ((PHI, E, "kl", np.ones((2, 30))), "fit"), ((PHI, 0.5, "kl", np.zeros((1, 30))), "weights")])
def test_wrong_input(arguments, word):
    with pytest.raises(InputError, match=word):
        itb(*arguments)
