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
