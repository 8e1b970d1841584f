"""RealCause LaLonde-PSID: the facts of spec/iwdd.md 3.5."""

import os

import numpy as np
import pytest

from gencausal import metrics
from gencausal.checks import InputError
from gencausal.data import lalonde
from gencausal.estimators import scores

needs_mirror = pytest.mark.skipif(not os.environ.get("GENCAUSAL_DATA"), reason="GENCAUSAL_DATA is not set: RealCause LaLonde would have to be downloaded")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GENCAUSAL_CACHE", str(tmp_path / "cache"))


@needs_mirror
def test_facts_of_ten_samples():
    """Spec 3.5: treated 5.6-7.5 %, zeros in y0 16-18 % and in y1 25-27 %, mean effect -12,900 to -13,900; the same men in every sample."""
    tables = [lalonde.realcause(i) for i in range(10)]
    share = [t.t.mean() for t in tables]
    zeros = np.array([(t.potential == 0).mean(0) for t in tables])
    effect = [(t.potential[:, 1] - t.potential[:, 0]).mean() for t in tables]
    assert (round(min(share), 3), round(max(share), 3)) == (0.056, 0.075)
    assert (zeros[:, 0] > 0.155).all() and (zeros[:, 0] < 0.185).all() and (zeros[:, 1] > 0.25).all() and (zeros[:, 1] < 0.275).all()
    assert -13_900 < min(effect) and max(effect) < -12_900
    for i, table in enumerate(tables):
        assert table.x.shape == (2675, 8) and (table.name, table.unit) == ("lalonde_psid", str(i)) and (len(table.train), len(table.test)) == (2140, 535)
        np.testing.assert_array_equal(table.x, tables[0].x)
        np.testing.assert_array_equal(table.y, table.potential[np.arange(2675), table.t])
    assert not np.array_equal(tables[0].potential, tables[1].potential) and not np.array_equal(tables[0].t, tables[1].t)


@needs_mirror
def test_no_score_reads_a_mean_that_is_not_known():
    """mu is NaN: a score against it is refused; the realised outcomes of both arms can be scored."""
    table = lalonde.realcause(0)
    assert np.isnan(table.mu).all() and table.propensity is None
    with pytest.raises(InputError, match="mu holds 1070 NaN"):
        scores.mean_rows("zero", table, 0, np.zeros((2675, 2)))
    zero = [metrics.crps(np.zeros((535, 5)), table.potential[table.test, k], fair=False) for k in (0, 1)]
    assert zero == pytest.approx(np.abs(table.potential[table.test]).mean(0))


@pytest.mark.parametrize("bad", [-1, 10, "0", 0.0, True])
def test_unknown_sample_is_refused(bad):
    with pytest.raises(InputError, match="sample must be a whole number from 0 to 9"):
        lalonde.realcause(bad)
