"""Overlap, encoded covariates and conformal calibration: closed forms, limits, invariances, and a coverage theorem by simulation."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import expit

from gencausal.checks import InputError
from gencausal.estimators import calibration, overlap
from gencausal.estimators.encoding import MOST_LEVELS, Encoder
from gencausal.seeding import numpy_generator

# --- overlap --------------------------------------------------------------------------------------------------------------


def test_randomised_arms_overlap_fully():
    """Constant propensities are equal weights: every arm weighs as all of its units (`Eq. ess`)."""
    t = np.repeat([0, 1, 2], [10, 20, 70])
    found = overlap.diagnose(t, np.tile([0.1, 0.2, 0.7], (100, 1)), labels=["a", "b", "c"])
    assert np.allclose(found.ess, [10, 20, 70]) and found.below == 0 and (found.below_arm == 0).all()
    assert list(found.frame()["arm"]) == ["a", "b", "c"] and np.allclose(found.frame()["share of units"], 1)


def test_effective_sample_size_and_shares_by_hand():
    """Weights 1/0.5, 1/0.25, 1/0.25 in arm 1: (2 + 4 + 4)^2 / (4 + 16 + 16) = 100/36. One unit of five lies below 0.05."""
    e = np.array([0.5, 0.25, 0.25, 0.04, 0.6])
    found = overlap.diagnose([1, 1, 1, 0, 0], np.stack([1 - e, e], 1))
    assert found.ess[1] == pytest.approx(100 / 36)
    w = 1 / (1 - e[3:])
    assert found.ess[0] == pytest.approx(w.sum() ** 2 / (w**2).sum())
    assert found.below == 0.2 and found.below_arm.tolist() == [0, 0.2] and found.smallest.tolist() == pytest.approx([0.4, 0.04])
    assert "20 % of the units" in found.sentence()


def test_histograms_count_every_unit_once():
    rng = np.random.default_rng(0)
    e = rng.dirichlet([1, 2, 3], 500)
    t = np.array([rng.choice(3, p=p) for p in e])
    found = overlap.diagnose(t, e)
    assert found.counts.shape == (3, 3, overlap.BINS) and (found.counts.sum(-1) == np.bincount(t)).all()
    assert found.counts[1, 2].tolist() == np.histogram(e[t == 2, 1], found.edges)[0].tolist()


def test_a_logistic_propensity_is_found_and_linear_maps_change_nothing():
    """e(x) = expit(x_0): found within 0.05 on average, and the same for shifted and scaled covariates."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2000, 3))
    truth = expit(x[:, 0])
    t = (rng.random(2000) < truth).astype(int)
    for model in overlap.MODELS:
        e = overlap.crossfitted(x, t, seed=0, model=model)
        assert np.allclose(e.sum(1), 1) and np.abs(e[:, 1] - truth).mean() < (0.05 if model == "logistic" else 0.12)
        assert np.allclose(overlap.crossfitted(5 + 3 * x, t, seed=0, model=model), e, atol=1e-3 if model == "logistic" else 0.05)
    assert np.allclose(overlap.Propensity.fit(x, t).predict(x)[:, 1], truth, atol=0.1)


def test_three_arms_sum_to_one_and_order_right():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(900, 2))
    t = np.argmax(1.5 * x[:, :1] * np.array([-1, 0, 1]) + rng.gumbel(size=(900, 3)), 1)
    e = overlap.Propensity.fit(x, t).predict(np.array([[-2.0, 0], [2.0, 0]]))
    assert np.allclose(e.sum(1), 1) and e[0].argmax() == 0 and e[1].argmax() == 2


def test_no_unit_sees_its_own_arm():
    """Arms that depend on nothing: cross-fitted propensities are not correlated with the arm, those of the fit are."""
    rng = np.random.default_rng(3)
    x, t = rng.normal(size=(200, 40)), rng.integers(2, size=200)
    crossed, own = overlap.crossfitted(x, t)[:, 1], overlap.Propensity.fit(x, t).predict(x)[:, 1]
    assert np.corrcoef(crossed, t)[0, 1] < 0.15 < 0.3 < np.corrcoef(own, t)[0, 1]


@pytest.mark.parametrize("model", overlap.MODELS)
def test_randomised_arms_are_not_called_apart(model):
    """A small randomised trial of three arms: next to no unit is said to lack an arm."""
    rng = np.random.default_rng(4)
    t = rng.integers(3, size=240)
    assert overlap.diagnose(t, overlap.crossfitted(rng.normal(size=(240, 5)), t, model=model)).below < 0.02


def test_extrapolation_counts_the_asked_arms():
    e = np.array([[0.01, 0.49, 0.5], [0.3, 0.3, 0.4], [0.5, 0.48, 0.02], [0.04, 0.93, 0.03]])
    assert [overlap.extrapolated(e, arms) for arms in ((0, 1), (1, 2), (0, 2), (1,))] == [0.5, 0.5, 0.75, 0]


@pytest.mark.parametrize("t, e, message", [
    ([0, 1], [[0.5, 0.6], [0.5, 0.5]], "rows sum to 1"),
    ([0, 2], [[0.5, 0.5], [0.5, 0.5]], "only the arms 0 to 1"),
    ([0, 0], [[0.5, 0.5], [0.5, 0.5]], "no unit in arm 1"),
    ([0, 1], [[np.nan, 1], [0.5, 0.5]], "nan in row 0"),
])
def test_bad_propensities(t, e, message):
    with pytest.raises(InputError, match=message):
        overlap.diagnose(t, e)


def test_bad_crossfits():
    with pytest.raises(InputError, match="model must be one of"):
        overlap.crossfitted(np.zeros((9, 1)), np.arange(9) % 2, model="forest")
    with pytest.raises(InputError, match="arm of 1 unit"):
        overlap.crossfitted(np.zeros((9, 1)), np.r_[1, np.zeros(8)])


# --- calibration ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, alpha", [(9, 0.1), (25, 0.1), (60, 0.2), (60, 0.05)])
def test_the_coverage_theorem(n, alpha):
    """`Eq. cqr-offset`, exchangeable rows, a wrong and unequal interval: coverage lies in [1 - alpha, 1 - alpha + 1/(n + 1)], within four
    standard errors of 20,000 repetitions; the uncalibrated interval covers another share by far."""
    rng, repeats = np.random.default_rng(n), 20_000
    x = rng.uniform(0.5, 2, (repeats, n + 1))
    y = x * rng.standard_t(4, (repeats, n + 1))
    lower, upper = -0.5 * x, 0.2 + 0.9 * x
    offsets = np.array([calibration.calibrate(lo, up, yy, alpha) for lo, up, yy in zip(lower[:, :-1], upper[:, :-1], y[:, :-1])])
    low, high = calibration.widen(lower[:, -1], upper[:, -1], offsets)
    covered = ((low <= y[:, -1]) & (y[:, -1] <= high)).mean()
    exact = np.ceil((n + 1) * (1 - alpha) - 1e-9) / (n + 1)
    assert 1 - alpha - 1e-9 <= exact <= 1 - alpha + 1 / (n + 1) and abs(covered - exact) < 4 * np.sqrt(exact * (1 - exact) / repeats)
    assert ((lower <= y) & (y <= upper)).mean() < 0.75


def test_offsets_by_hand():
    """Scores 0.1, ..., 0.9 of nine rows above the interval [0, 0]: rank ceil(10 * 0.9) = 9, the largest; at alpha 0.5 the fifth."""
    y = np.arange(1, 10) / 10
    assert calibration.calibrate(0 * y, 0 * y, y, 0.1) == pytest.approx(0.9) and calibration.calibrate(0 * y, 0 * y, y, 0.5) == pytest.approx(0.5)
    assert calibration.fewest(0.1) == 9 and calibration.fewest(0.05) == 19 and calibration.fewest(0.5) == 1
    with pytest.raises(InputError, match="8 held rows but an interval of level 0.9 needs 9"):
        calibration.calibrate(0 * y[:8], 0 * y[:8], y[:8], 0.1)


def test_a_wide_interval_shrinks_and_ends_never_cross():
    y = np.zeros(50)
    assert calibration.calibrate(y - 3, y + 3, y, 0.1) == pytest.approx(-3)
    low, high = calibration.widen(np.array([0.0]), np.array([1.0]), -2)
    assert low == high == 0.5


def test_calibrated_draws_cover_and_move_with_the_outcome():
    """Draws half as wide as the law: after calibration 90 % of new outcomes are covered; a shift and scale of outcomes shifts and scales the interval."""
    rng = numpy_generator(0, "calibration")
    nodes = stats.norm.ppf((np.arange(100) + 0.5) / 100)
    mean = rng.normal(size=4000)
    draws, y = mean[:, None] + 0.5 * nodes, mean + rng.normal(size=4000)
    held, test = slice(0, 2000), slice(2000, None)
    low, high = calibration.calibrated_coverage(draws[held], y[held], draws[test], 0.1)
    assert ((low <= y[test]) & (y[test] <= high)).mean() == pytest.approx(0.9, abs=0.03)
    assert np.allclose(calibration.calibrated_coverage(3 + 2 * draws[held], 3 + 2 * y[held], 3 + 2 * draws[test], 0.1), (3 + 2 * low, 3 + 2 * high))
    raw = np.quantile(draws[test], [0.05, 0.95], axis=1)
    assert ((raw[0] <= y[test]) & (y[test] <= raw[1])).mean() < 0.65


# --- encoding -------------------------------------------------------------------------------------------------------------


def mixed() -> pd.DataFrame:
    return pd.DataFrame({"age": [30, 40, 50, 60], "site": ["b", "a", "b", "c"], "ill": [True, False, True, False], "grade": pd.Categorical([1, 2, 1, 2])})


def test_every_level_gets_a_column():
    """`Eq. encode`: numbers as they are; the indicators of one column sum to 1."""
    encoder = Encoder.fit(mixed())
    assert encoder.features == ["age", "site=a", "site=b", "site=c", "ill=False", "ill=True", "grade=1", "grade=2"]
    z = encoder.transform(mixed())
    assert z[:, 0].tolist() == [30, 40, 50, 60] and z[:, 1:4].tolist() == [[0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert (z[:, 4:6].sum(1) == 1).all() and (z[:, 6:].sum(1) == 1).all() and z.dtype == np.float64
    assert np.array_equal(Encoder.restore(encoder.state()).transform(mixed()), z) and np.array_equal(encoder.transform(z), z)


def test_levels_do_not_depend_on_the_rows_asked():
    encoder = Encoder.fit(mixed())
    assert np.array_equal(encoder.transform(mixed().tail(1)), encoder.transform(mixed())[-1:])
    assert np.array_equal(encoder.transform(mixed().astype({"grade": int, "ill": object})), encoder.transform(mixed()))


def test_numbers_stay_what_they_are():
    x = np.random.default_rng(0).normal(size=(5, 3))
    frame = pd.DataFrame(x, columns=list("abc"))
    assert np.array_equal(Encoder.fit(x).transform(frame), x) and np.array_equal(Encoder.fit(frame).transform(x), x)
    assert np.array_equal(Encoder.fit(frame.astype(object)).transform(frame), x) and Encoder.fit(x).features == ["0", "1", "2"]


@pytest.mark.parametrize("change, message", [
    (lambda t: t.assign(site="d"), "level 'd' in column 'site', which was not seen in fitting .a, b, c."),
    (lambda t: t.assign(age=np.nan), "missing values in 1 column: 'age' .4 of 4 rows, 100 %"),
    (lambda t: t.assign(age=np.inf), "inf in row 0, column 'age'"),
    (lambda t: t.assign(age=list("wxyz")), "column 'age', held numbers when it was fitted"),
    (lambda t: t.drop(columns="ill"), "lacks the column 'ill'"),
    (lambda t: t.assign(more=1, other=2), "has the columns 'more', 'other', not among those that were fitted; drop them"),
    (lambda t: t[["site", "age", "ill", "grade"]], "another order.*age, site, ill, grade"),
    (lambda t: t.to_numpy(), "X must be a DataFrame with the columns age, site, ill, grade"),
])
def test_another_table_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        Encoder.fit(mixed()).transform(change(mixed()))


@pytest.mark.parametrize("change, message", [
    (lambda t: t.assign(day=pd.Timestamp("2024-02-01")), "column 'day', holds dates or times"),
    (lambda t: t.assign(wait=pd.Timedelta("1h")), "column 'wait', holds dates or times"),
    (lambda t: t.assign(z=1j), "column 'z', holds complex"),
    (lambda t: t.assign(site=[None, "a", "b", "a"]), "'site' .1 of 4 rows, 25 %"),
    (lambda t: pd.concat([t, t[["age"]]], axis=1), "two columns named 'age'"),
    (lambda t: pd.DataFrame({"id": [f"p{i}" for i in range(MOST_LEVELS + 1)]}), "51 levels in column 'id'"),
    (lambda t: t[[]], "rows and columns"),
    (lambda t: [["a", "b"]], "numbers only"),
])
def test_tables_that_cannot_be_encoded(change, message):
    with pytest.raises(InputError, match=message):
        Encoder.fit(change(mixed()))
