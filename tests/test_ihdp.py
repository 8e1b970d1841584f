"""IHDP: columns read by their meaning, and the reference levels of spec/iwdd.md 5.3."""

import hashlib
import os

import numpy as np
import pytest

from gencausal.checks import InputError
from gencausal.data import ihdp, registry

needs_mirror = pytest.mark.skipif(not os.environ.get("GENCAUSAL_DATA"), reason="GENCAUSAL_DATA is not set: IHDP would have to be downloaded")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GENCAUSAL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def made_up(monkeypatch, tmp_path):
    """A mirror with one made-up replication of four rows, registered under the real name."""
    rows = [[1, 10.0, 20.0, 21.0, 11.0], [0, 30.0, 40.0, 31.0, 41.0], [1, 50.0, 60.0, 61.0, 51.0], [0, 70.0, 80.0, 71.0, 81.0]]
    text = "".join(",".join(map(str, row + list(range(25)))) + "\n" for row in rows)
    (tmp_path / "mirror" / "ihdp").mkdir(parents=True)
    path = tmp_path / "mirror" / "ihdp" / "ihdp_npci_1.csv"
    path.write_text(text)
    entry = registry.Entry("ihdp", "t", "o", "l", "c", {path.name: (path.stat().st_size, hashlib.sha256(text.encode()).hexdigest())}, mirror="ihdp")
    monkeypatch.setattr(registry, "entries", lambda: {"ihdp": entry})
    monkeypatch.setenv("GENCAUSAL_DATA", str(tmp_path / "mirror"))


def test_factual_and_counterfactual_become_potential_outcomes(made_up):
    """Columns 2 and 3 are factual / counterfactual: Y(1) is column 2 where treated and column 3 where control."""
    table = ihdp.load(1)
    np.testing.assert_array_equal(table.t, [1, 0, 1, 0])
    np.testing.assert_array_equal(table.y, [10, 30, 50, 70])
    np.testing.assert_array_equal(table.potential, [[20, 10], [30, 40], [60, 50], [70, 80]])
    np.testing.assert_array_equal(table.mu, [[21, 11], [31, 41], [61, 51], [71, 81]])
    np.testing.assert_array_equal(table.x[0], np.arange(25))
    assert table.covariates[0] == "x1" and table.covariates[-1] == "x25"


@needs_mirror
def test_replication_one():
    """spec/iwdd.md 3.3: the first row, the sizes, the arms."""
    table = ihdp.load(1)
    assert table.x.shape == (747, 25) and table.t.sum() == 139 and (len(table.train), len(table.test)) == (597, 150)
    assert (table.t[0], table.unit, table.propensity) == (1, "1", None)
    np.testing.assert_allclose([table.y[0], *table.potential[0], *table.mu[0]], [5.600, 4.319, 5.600, 3.268, 6.854], atol=5e-4)
    assert set(table.x[:, 13]) == {1.0, 2.0}


@needs_mirror
def test_all_replications():
    """spec/iwdd.md 5.3: zero, naive and oracle levels over 1-10 and 1-30; noise sd about 1 (3.3); 139 treated in each."""
    levels = []
    for replication in range(1, 31):
        table = ihdp.load(replication)
        assert table.t.sum() == 139
        np.testing.assert_array_equal(table.y, np.where(table.t == 1, table.potential[:, 1], table.potential[:, 0]))
        noise = table.potential - table.mu
        assert 0.9 < noise.std(0).min() and noise.std(0).max() < 1.1
        tau = (table.mu[:, 1] - table.mu[:, 0])[table.test]
        arm, y = table.t[table.train], table.y[table.train]
        guesses = (0.0, y[arm == 1].mean() - y[arm == 0].mean(), tau.mean())
        levels.append([np.sqrt(np.mean((tau - guess) ** 2)) / table.mu.std() for guess in guesses])
    np.testing.assert_allclose(np.mean(levels[:10], axis=0), [1.765, 0.644, 0.627], atol=6e-4)
    np.testing.assert_allclose(np.mean(levels, axis=0), [1.658, 0.822, 0.795], atol=6e-4)


@pytest.mark.parametrize("bad", [0, 31, "1", 2.0])
def test_unknown_replication_is_refused(bad):
    with pytest.raises(InputError, match="replication must be a whole number from 1 to 30"):
        ihdp.load(bad)
