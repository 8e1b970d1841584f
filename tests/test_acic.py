"""ACIC 2016: shapes, consistency, noise and the reference levels of spec/iwdd.md 5.3."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gencausal.checks import InputError
from gencausal.data import acic, registry

MIRROR = os.environ.get("GENCAUSAL_DATA")
needs_mirror = pytest.mark.skipif(not MIRROR, reason="GENCAUSAL_DATA is not set: ACIC settings 11-40 and the check files are not here")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GENCAUSAL_CACHE", str(tmp_path / "cache"))


def reference_levels(t, y, mu, train, test):
    """Normalised PEHE of zero effect, naive ATE and oracle ATE on the test rows (spec/iwdd.md 5.3)."""
    tau = (mu[:, 1] - mu[:, 0])[test]
    arm = t[train]
    naive = y[train][arm == 1].mean() - y[train][arm == 0].mean()
    return np.array([np.sqrt(np.mean((tau - guess) ** 2)) / mu.std() for guess in (0.0, naive, tau.mean())])


def levels_of(table):
    return reference_levels(table.t, table.y, table.mu, table.train, table.test)


@pytest.mark.parametrize("setting", [1, 3, 10])
def test_embedded_settings(setting):
    table = acic.load(setting)
    assert (table.name, table.unit) == ("acic2016", str(setting))
    assert table.x.shape == (4802, 82) and table.x.dtype == np.float64 and np.isfinite(table.x).all()
    assert len(table.covariates) == 82 == len(set(table.covariates))
    assert table.t.dtype == np.int64 and set(table.t) == {0, 1}
    assert table.mu.shape == table.potential.shape == (4802, 2)
    assert (len(table.train), len(table.test)) == (3844, 958)
    assert table.propensity is None


def test_letters_are_one_hot_in_full():
    table = acic.load(2)
    for letter, levels in (("x_2", 6), ("x_21", 16), ("x_24", 5)):
        block = table.x[:, [i for i, name in enumerate(table.covariates) if name.startswith(f"{letter}_")]]
        assert block.shape[1] == levels
        np.testing.assert_array_equal(block.sum(1), 1.0)
        assert set(np.unique(block)) == {0.0, 1.0}


def test_outcome_is_the_potential_outcome_of_the_own_arm():
    """spec/iwdd.md section 8, item 14."""
    table = acic.load(5)
    np.testing.assert_array_equal(table.y, np.where(table.t == 1, table.potential[:, 1], table.potential[:, 0]))
    assert not np.allclose(table.y, table.potential[:, 0])


@pytest.mark.parametrize("setting", range(1, 11))
def test_noise_is_standard_in_both_arms(setting):
    """spec/iwdd.md 3.2: sd 0.98-1.03 in every arm and setting."""
    table = acic.load(setting)
    noise = table.potential - table.mu
    assert ((noise.std(0) > 0.97) & (noise.std(0) < 1.04)).all()
    assert np.abs(noise.mean(0)).max() < 0.06
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.06


def test_reference_levels_of_the_embedded_settings():
    """Constant effects in settings 2 and 3 (oracle ATE is exact, naive 0.130 in setting 2); the means are deterministic."""
    levels = np.array([levels_of(acic.load(setting)) for setting in range(1, 11)])
    assert levels[1, 2] < 1e-12 and levels[2, 2] < 1e-12 and abs(levels[1, 1] - 0.130) < 5e-4
    np.testing.assert_allclose(levels.mean(0), [1.0091, 0.6643, 0.6154], atol=1e-4)


@needs_mirror
def test_reference_levels_of_forty_settings():
    """spec/iwdd.md 5.3, settings 1-40: zero 1.052, naive 0.737, oracle 0.704, there with simulation 1 of settings 3 and 4."""
    levels = {setting: levels_of(acic.load(setting)) for setting in range(1, 41)}
    for setting in (3, 4):
        table, rows = acic.load(setting), pd.read_csv(Path(MIRROR) / "acic2016" / f"p{setting:02d}_s1.csv.gz")
        y = np.where(rows["z"] == 1, rows["y1"], rows["y0"])
        levels[setting] = reference_levels(rows["z"].to_numpy(), y, rows[["mu0", "mu1"]].to_numpy(), table.train, table.test)
    np.testing.assert_allclose(np.mean(list(levels.values()), axis=0), [1.052, 0.737, 0.704], atol=6e-4)


@needs_mirror
def test_embedded_settings_are_simulation_one_but_for_three_and_four():
    """Identical z and mu in settings 1, 2, 5-10 (the mirror rounds to nine digits); settings 3 and 4 are simulation 100."""
    x = (Path(MIRROR) / "acic2016" / "x.csv.gz").read_bytes()
    assert hashlib.sha256(x).hexdigest().startswith("03beac8f")
    for setting in range(1, 11):
        table, rows = acic.load(setting), pd.read_csv(Path(MIRROR) / "acic2016" / f"p{setting:02d}_s1.csv.gz")
        same = bool((rows["z"] == table.t).all()) and np.allclose(rows[["mu0", "mu1"]], table.mu, rtol=0, atol=1e-6)
        assert same == (setting not in (3, 4)), setting


@needs_mirror
@pytest.mark.parametrize("setting", [11, 16, 40])
def test_mirror_settings_carry_the_propensity(setting):
    table = acic.load(setting)
    assert table.x.shape == (4802, 82) and table.propensity.shape == (4802,)
    assert 0 <= table.propensity.min() < table.propensity.max() <= 1
    noise = table.potential - table.mu
    assert ((noise.std(0) > 0.97) & (noise.std(0) < 1.04)).all()
    assert abs(table.propensity.mean() - table.t.mean()) < 4 * 0.5 / np.sqrt(4802)  # E[e] = P(t = 1)
    slope = np.cov(table.propensity, table.t)[0, 1] / table.propensity.var()  # E[t | e] = e, so that t regressed on e has slope 1
    assert abs(slope - 1) < 4 * 0.5 / np.sqrt(4802) / table.propensity.std()


@needs_mirror
def test_overlap_of_three_settings():
    """spec/iwdd.md section 8, item 11: chi2 of settings 33, 30 (0.201, 0.023), and 2.4's formula."""
    for setting, expected in ((33, 0.201), (30, 0.023)):
        table = acic.load(setting)
        p1, e = table.t.mean(), table.propensity
        assert abs(np.mean(p1**2 / e + (1 - p1) ** 2 / (1 - e)) - 1 - expected) < 6e-4


@needs_mirror
@pytest.mark.parametrize("setting", [1, 2, 5, 10, 11])
def test_propensity_belongs_to_the_table(setting):
    """E[t | e] = e: t regressed on e has slope 1, in every half of e the treated share is the mean of e; a shuffled e fails."""
    table, e = acic.load(setting), acic.propensity(setting)
    assert e.shape == (4802,) and 0 <= e.min() < e.max() <= 1
    slope = lambda e: np.cov(e, table.t)[0, 1] / e.var()  # noqa: E731
    assert abs(slope(e) - 1) < 4 * 0.5 / np.sqrt(4802) / e.std() < 1
    assert abs(slope(np.random.default_rng(0).permutation(e))) < 4 * 0.5 / np.sqrt(4802) / e.std()
    for half in (e < np.median(e), e >= np.median(e)):
        assert abs(table.t[half].mean() - e[half].mean()) < 4 * 0.5 / np.sqrt(2401)


@needs_mirror
def test_table_of_settings():
    """Six knobs; te.hetero is none in settings 2 and 3 alone; 9 of 1-40 overlap fully (spec/iwdd.md 5.3); measured columns are those of the tables."""
    table = acic.settings()
    assert list(table.index) == list(range(1, 41))
    assert list(table.index[table["te.hetero"] == "none"]) == [2, 3] and (table["overlap.trt"] == "full").sum() == 9
    for setting in (1, 12):
        made = acic.load(setting)
        found = [made.t.mean(), (made.mu[:, 1] - made.mu[:, 0]).mean(), *np.quantile(acic.propensity(setting), [0, 1])]
        np.testing.assert_allclose(table.loc[setting, ["treated", "ate", "e_min", "e_max"]].astype(float), found, rtol=1e-6)


@pytest.mark.parametrize("setting", [3, 4])
def test_propensity_of_the_other_simulation_is_refused(setting):
    with pytest.raises(InputError, match=f"setting {setting} is simulation 100 here.*leave settings 3 and 4 out"):
        acic.propensity(setting)


def test_truth_without_a_mirror_says_what_to_do(monkeypatch):
    monkeypatch.delenv("GENCAUSAL_DATA", raising=False)
    for call, file in ((lambda: acic.propensity(1), "p01_s1"), (acic.settings, "settings")):
        with pytest.raises(registry.DataError, match=f"acic2016_truth/{file}.* has no public address.*set GENCAUSAL_DATA"):
            call()


@needs_mirror
def test_propensity_of_another_treatment_is_refused(monkeypatch):
    fetch = registry.fetch
    monkeypatch.setattr(registry, "fetch", lambda dataset, file: fetch(dataset, file.replace("p01", "p02")))
    with pytest.raises(registry.DataError, match="holds another treatment than setting 1"):
        acic.propensity(1)


def test_settings_without_a_mirror_say_what_to_do(monkeypatch):
    monkeypatch.delenv("GENCAUSAL_DATA", raising=False)
    with pytest.raises(registry.DataError, match=r"p11_s1\.csv\.gz has no public address.*set GENCAUSAL_DATA to a mirror folder that holds acic2016/p11"):
        acic.load(11)


@pytest.mark.parametrize("bad", [0, 41, "1", 1.0, True, None])
def test_unknown_setting_is_refused(bad):
    with pytest.raises(InputError, match="setting must be a whole number from 1 to 40"):
        acic.load(bad)


def test_embedded_settings_need_no_network_and_no_mirror(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was touched")

    monkeypatch.delenv("GENCAUSAL_DATA", raising=False)
    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("pooch.HTTPDownloader", refuse)
    assert acic.load(4).x.shape == (4802, 82)
    assert not registry.cache_folder().exists()


def test_the_package_is_read_but_not_imported():
    """Importing causallib takes seconds and is not needed for its files."""
    code = "import sys; from gencausal.data import acic; acic.load(1); sys.exit('causallib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_mirror_never_changes_the_embedded_settings(monkeypatch, tmp_path):
    before = acic.load(3)
    (tmp_path / "acic2016").mkdir()
    for file in ("x.csv", "x.csv.gz", "zymu_3.csv", "p03_s1.csv.gz"):
        (tmp_path / "acic2016" / file).write_text("wrong")
    monkeypatch.setenv("GENCAUSAL_DATA", str(tmp_path))
    np.testing.assert_array_equal(acic.load(3).mu, before.mu)
