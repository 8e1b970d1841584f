"""The 1-D design against its closed forms (spec/iwdd.md 3.1)."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from gencausal.checks import InputError
from gencausal.data import synthetic


def test_closed_forms_of_the_deterministic_design():
    """P(z = 1) = Phi(-1) = 0.159; RMS of the effect exp(x) under N(0, 1) is e; noise sd 0.1."""
    table = synthetic.load(0, n_train=200_000, n_test=200_000)
    assert table.x.shape == (400_000, 1)
    np.testing.assert_array_equal(table.t[table.train], table.x[table.train, 0] < -1)
    assert abs(table.t[table.train].mean() - norm.cdf(-1)) < 4 * math.sqrt(0.159 * 0.841 / 200_000)
    assert abs(table.t[table.test].mean() - 0.5) < 4 * 0.5 / math.sqrt(200_000)
    tau = table.mu[:, 1] - table.mu[:, 0]
    np.testing.assert_allclose(tau, np.exp(table.x[:, 0]), rtol=1e-9)
    # E exp(2x) = e^2 and sd exp(2x) = sqrt(e^8 - e^4) = 54.1: four standard errors of the mean square
    assert abs(np.mean(tau**2) - math.e**2) < 4 * math.sqrt(math.e**8 - math.e**4) / math.sqrt(400_000)
    np.testing.assert_allclose(table.mu[:, 0], np.sin(2 * table.x[:, 0]))
    noise = table.potential - table.mu
    np.testing.assert_allclose(noise.std(0), 0.1, rtol=0.01)
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.01
    assert abs(table.x.mean()) < 0.01 and abs(table.x.std() - 1) < 0.01


@pytest.mark.parametrize("k", [0.5, 2.0, 8.0])
def test_finite_overlap(k):
    """Training z follows e(x) = sigmoid(-k (x + 1)): its mean is the integral of e, e(-1) = 1/2; test z ignores x."""
    table = synthetic.load(1, k=k, n_train=50_000, n_test=50_000)
    e = table.propensity
    np.testing.assert_allclose(np.log(e) - np.log1p(-e), -k * (table.x[:, 0] + 1), rtol=1e-6, atol=1e-6)
    expected = quad(lambda x: norm.pdf(x) / (1 + math.exp(k * (x + 1))), -10, 10)[0]
    assert abs(table.t[table.train].mean() - expected) < 4 * 0.5 / math.sqrt(50_000)
    residual = (table.t - e)[table.train]
    assert abs(np.mean(residual * table.x[table.train, 0])) < 0.01  # E[(z - e(x)) x] = 0
    assert abs(np.corrcoef(table.t[table.test], table.x[table.test, 0])[0, 1]) < 0.02
    assert np.corrcoef(table.t[table.train], table.x[table.train, 0])[0, 1] < -0.1


def test_seed_and_k():
    """The same seed gives the same bits, another seed other ones; k moves the treatment alone and tends to k = inf."""
    first, again, other = synthetic.load(3), synthetic.load(3), synthetic.load(4)
    assert (len(first.train), len(first.test), first.unit) == (5000, 5000, "k=inf")
    np.testing.assert_array_equal(first.y, again.y)
    assert np.abs(first.x - other.x).max() > 1 and np.abs((first.potential - first.mu) - (other.potential - other.mu)).max() > 0.1
    soft, steep = synthetic.load(3, k=1), synthetic.load(3, k=1e6)
    np.testing.assert_array_equal(soft.potential, first.potential)
    assert not np.array_equal(soft.t, first.t)
    np.testing.assert_array_equal(steep.t, first.t)
    np.testing.assert_array_equal(first.y, np.where(first.t == 1, first.potential[:, 1], first.potential[:, 0]))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [({"k": 0}, "k"), ({"k": -1.0}, "k"), ({"k": "inf"}, "k"), ({"k": math.nan}, "k"), ({"n_train": 0}, "n_train"), ({"n_test": 2.5}, "n_test")],
)
def test_bad_arguments(arguments, name):
    with pytest.raises(InputError, match=f"^{name} must be"):
        synthetic.load(0, **arguments)
    with pytest.raises(InputError, match="^seed must be"):
        synthetic.load(-1)


# --- several arms ---------------------------------------------------------------------------------------------------------


def test_several_arms_hold_the_two_arm_design():
    """Eq. design: with K = 2 the binary design; with K = 3 arm j has the share E p(j | x), the outer arms keep the binary means, the middle lies half way."""
    two, three = synthetic.load(5, k=1.0), synthetic.load_arms(5, 3, k=1.0)
    np.testing.assert_array_equal(synthetic.load_arms(5, 2, k=1.0).y, two.y)
    np.testing.assert_array_equal(three.x, two.x)
    np.testing.assert_allclose(three.mu[:, [0, 2]], two.mu)
    np.testing.assert_allclose(three.mu[:, 1], two.mu.mean(1))
    p = synthetic.arm_probabilities(three.x[:, 0], 1.0, 3)
    np.testing.assert_allclose(p.sum(1), 1)
    np.testing.assert_allclose(np.log(p[:, 2] / p[:, 0]), -2 * (three.x[:, 0] + 1), atol=1e-9)
    train, test = three.t[three.train], three.t[three.test]
    np.testing.assert_allclose(np.bincount(train, minlength=3) / 5000, p[three.train].mean(0), atol=4 * 0.5 / math.sqrt(5000))
    np.testing.assert_allclose(np.bincount(test, minlength=3) / 5000, 1 / 3, atol=4 * 0.5 / math.sqrt(5000))
    residual = ((train[:, None] == np.arange(3)) - p[three.train]) * three.x[three.train]  # E[(1{t = j} - p_j(x)) x] = 0
    assert np.abs(residual.mean(0)).max() < 4 / math.sqrt(5000)
    assert three.propensity is None and synthetic.load_arms(0, 3, math.inf, 100, 10).t[:100].max() == 2


# --- outcomes with a known law --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", synthetic.LAWS)
def test_quantiles_are_those_of_the_drawn_outcomes(kind):
    """Eq. laws-of-outcomes: the PIT of the realised outcomes under the exact quantile function is uniform, and mu is the mean of the quantiles."""
    table, quantiles = synthetic.load_law(kind, 0, n_train=1000, n_test=500, levels=200)
    assert quantiles.shape == (1500, 2, 200) and (np.diff(quantiles) > 0).all()
    np.testing.assert_allclose(quantiles.mean(-1), table.mu, atol=0.03)
    if kind == "bimodal":  # the distribution function at its own quantiles
        centre, mass = synthetic.modes(table.x)
        level = (mass[:, :, None] * norm.cdf((quantiles[..., None] - centre[:, :, None]) / synthetic.MODE_SD)).sum(-1)
        np.testing.assert_allclose(level, np.broadcast_to((np.arange(200) + 0.5) / 200, level.shape), atol=1e-9)
    rank = (quantiles < table.potential[..., None]).mean(-1)
    for arm in range(2):
        distance = np.abs(np.sort(rank[:, arm]) - (np.arange(1500) + 0.5) / 1500).max()
        assert distance < 1.95 / math.sqrt(1500)  # Kolmogorov-Smirnov at the 0.1 % level
    assert abs(np.corrcoef(rank.T)[0, 1]) < 4 / math.sqrt(1500)
    np.testing.assert_allclose(table.propensity, 1 / (1 + np.exp(table.x[:, 0])))
    assert np.corrcoef(table.t, table.x[:, 0])[0, 1] < -0.2


def test_laws_are_what_their_names_say():
    """Two modes of the stated masses; a skew; a spread that grows with x_2."""
    x = np.array([[0.3, 0.0], [0.3, 2.0]])
    centre, mass = synthetic.modes(x)
    np.testing.assert_allclose(centre[0], [[np.sin(0.6) - 1, np.sin(0.6) + 1], [np.sin(0.6) + 1.15 - 1.5, np.sin(0.6) + 1.15 + 1.5]])
    np.testing.assert_allclose(mass[:, 0, 1], [0.5, 1 / (1 + math.exp(-2))])
    q = {kind: synthetic.quantile(kind, x, np.broadcast_to([0.05, 0.5, 0.95], (2, 2, 3))) for kind in synthetic.LAWS}
    np.testing.assert_allclose(q["bimodal"][0, :, 1], centre[0].mean(-1), atol=1e-9)  # equal masses: the median lies half way, where no outcome does
    upper, lower = np.diff(q["skewed"], axis=-1)[..., 1], np.diff(q["skewed"], axis=-1)[..., 0]
    assert (upper > 2 * lower).all()
    width = q["heteroscedastic"][..., 2] - q["heteroscedastic"][..., 0]
    np.testing.assert_allclose(width[0], 2 * norm.ppf(0.95) * np.array([0.4, 0.7]))
    assert (width[1] > 1.4 * width[0]).all()
    with pytest.raises(InputError, match="^kind must be one of 'bimodal'"):
        synthetic.load_law("normal", 0)
