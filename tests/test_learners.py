"""Tree, forest and BART baselines: published formulas by hand, what they read, invariances, laws of the draws (spec iwdd, section 5.4)."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor

from gencausal import metrics
from gencausal.baselines import learners
from gencausal.checks import InputError
from gencausal.data.table import CausalTable
from gencausal.seeding import numpy_generator

BOOSTED = ("hgb_s", "hgb_x", "hgb_dr")
LAWS = ("bcf", "quantile_forest")
SMALL = {name: {"max_iter": 40} for name in BOOSTED} | {
    "causal_forest": {"trees": 40, "max_iter": 40},
    "causal_forest_grf": {"trees": 60},
    "bcf": {"warm": 5, "burn_in": 15, "kept": 30, "outcome_trees": 30, "effect_trees": 15},
    "quantile_forest": {"trees": 30},
}


def simulate(n: int = 600) -> CausalTable:
    """mu_0 = 2 x_0, effect 1 + 2 [x_1 > 0], e(x) = 1 / (1 + exp(-x_0)), noise sd 1/4; three of five covariates are idle."""
    rng = numpy_generator(0, "test_learners")
    x = rng.normal(size=(n, 5))
    e = 1 / (1 + np.exp(-x[:, 0]))
    t = (rng.random(n) < e).astype(np.int64)
    mu = 2 * x[:, :1] + np.outer(1 + 2 * (x[:, 1] > 0), [0, 1])
    potential = mu + rng.normal(0, 0.25, size=mu.shape)
    rows = np.arange(n)
    return CausalTable("toy", "0", x, t, potential[rows, t], mu, potential, e, list("abcde"), rows[: 4 * n // 5], rows[4 * n // 5 :])


@pytest.fixture(scope="module")
def table() -> CausalTable:
    return simulate()


class Fitted(dict):
    """Predictions of `simulate()` by method, each made when first asked for."""

    def __missing__(self, name):
        self[name] = learners.fit_predict(name, simulate(), **SMALL[name])
        return self[name]


@pytest.fixture(scope="module")
def fitted() -> dict:
    return Fitted()


@pytest.mark.parametrize("name", learners.NAMES)
def test_a_simple_effect_is_recovered(name, table, fitted):
    prediction, tau = fitted[name], table.mu[:, 1] - table.mu[:, 0]
    assert prediction.method == name and prediction.mu.shape == (600, 2) and prediction.mu.dtype == np.float64 and np.isfinite(prediction.mu).all()
    error = metrics.pehe(prediction.effects()[table.test], tau[table.test])
    assert error < 0.7 * tau.std(), "worse than most of the way to the true average effect"
    assert abs(prediction.effects().mean() - tau.mean()) < 0.3
    assert metrics.rmse_per_arm(prediction.mu[table.test], table.mu[table.test]).max() < 0.5 * table.mu.std()


@pytest.mark.parametrize("name", learners.NAMES)
def test_only_training_factual_rows_are_read(name, table, fitted):
    y, t, potential = table.y.copy(), table.t.copy(), table.potential.copy()
    y[table.test], t[table.test], potential[:] = np.nan, 1 - t[table.test], np.nan
    state = np.random.get_state()
    again = learners.fit_predict(name, replace(table, y=y, t=t, potential=potential, mu=np.full_like(table.mu, np.nan), propensity=None), **SMALL[name])
    np.testing.assert_array_equal(again.mu, fitted[name].mu)
    assert (again.draws is None) == (fitted[name].draws is None) == (name not in LAWS)
    if name in LAWS:
        np.testing.assert_array_equal(again.draws, fitted[name].draws)
    after = np.random.get_state()
    assert after[2] == state[2] and (after[1] == state[1]).all(), "the global stream of numpy was drawn from"


@pytest.mark.parametrize("name", learners.NAMES)
def test_the_scale_of_the_outcome_goes_through(name, table, fitted):
    """y -> 4 y multiplies every prediction by 4: powers of two leave no rounding. A shift moves both arms and no effect."""
    scaled = learners.fit_predict(name, replace(table, y=4 * table.y), **SMALL[name])
    np.testing.assert_allclose(scaled.mu, 4 * fitted[name].mu, rtol=1e-9, atol=1e-9)
    if name in LAWS:
        np.testing.assert_allclose(scaled.draws, 4 * fitted[name].draws, rtol=1e-9, atol=1e-9)
    if name == "quantile_forest":
        shifted = learners.fit_predict(name, replace(table, y=table.y + 8), **SMALL[name])
        np.testing.assert_allclose(shifted.mu, fitted[name].mu + 8, atol=1e-9)


def trees(x: np.ndarray, y: np.ndarray) -> HistGradientBoostingRegressor:
    return HistGradientBoostingRegressor(**{**{key: learners.GRID["hgb_s"][0][key] for key in ("learning_rate", "max_leaf_nodes", "min_samples_leaf")}, "max_iter": 40},
                                         early_stopping=False).fit(x, y)


def test_s_learner_by_hand(table, fitted):
    x, t, y, n = table.x, table.t[table.train], table.y[table.train], len(table.x)
    one = trees(np.column_stack([x[table.train], 1 - t, t]), y)
    mu = np.stack([one.predict(np.column_stack([x, np.full(n, 1 - k), np.full(n, k)])) for k in range(2)], axis=1)
    np.testing.assert_allclose(fitted["hgb_s"].mu, mu, atol=1e-12)


def test_x_learner_by_hand(table, fitted):
    x, t, y = table.x[table.train], table.t[table.train], table.y[table.train]
    low, high = (trees(x[t == k], y[t == k]) for k in range(2))
    on_treated = trees(x[t == 1], y[t == 1] - low.predict(x[t == 1]))
    on_controls = trees(x[t == 0], high.predict(x[t == 0]) - y[t == 0])
    e = learners._classifier(0).fit(x, t).predict_proba(table.x)[:, 1]
    tau = e * on_controls.predict(table.x) + (1 - e) * on_treated.predict(table.x)
    np.testing.assert_allclose(fitted["hgb_x"].effects(), tau, atol=1e-9)


def test_effect_of_the_wrapped_forest_is_kept(table, fitted, monkeypatch):
    from econml.dml import CausalForestDML

    seen = {}
    effect = CausalForestDML.effect
    monkeypatch.setattr(CausalForestDML, "effect", lambda self, x: seen.setdefault("tau", effect(self, x)))
    learners.fit_predict("causal_forest", table, **SMALL["causal_forest"])
    np.testing.assert_allclose(fitted["causal_forest"].effects(), seen["tau"], atol=1e-12)


def test_level_averages_to_the_outcome_regression():
    rng = numpy_generator(1, "level")
    mu, e = rng.normal(size=(50, 2)), rng.random(50)
    m, tau = (1 - e) * mu[:, 0] + e * mu[:, 1], mu[:, 1] - mu[:, 0]
    np.testing.assert_allclose(learners.level(m, e, tau), mu, atol=1e-12)


def test_a_training_row_does_not_predict_itself(table):
    model = HistGradientBoostingRegressor(max_iter=5, min_samples_leaf=5)
    rows = learners._Rows(table.x, table.train, table.test, table.t[table.train], table.y[table.train], 3)
    before = learners.cross_fitted(model, rows.y, rows)
    changed = rows.y.copy()
    changed[7] = 1e4
    after = learners.cross_fitted(model, changed, rows)
    assert after[table.train[7]] == before[table.train[7]]
    assert (after[table.train] == before[table.train]).mean() < 0.5 and (after[table.test] != before[table.test]).all()


@pytest.mark.parametrize("name", LAWS)
def test_draws_are_sorted_quantiles_of_a_law_with_these_means(name, table, fitted):
    draws, mu = fitted[name].draws, fitted[name].mu[table.test]
    assert draws.shape == (120, 2, 100) and np.isfinite(draws).all() and (np.diff(draws, axis=2) >= 0).all()
    np.testing.assert_allclose(draws.mean(axis=2), mu, atol=0.3 if name == "quantile_forest" else 0.02)
    factual = draws[np.arange(120), table.t[table.test]]
    assert metrics.coverage(factual, table.y[table.test], 0.9, stratified=True) > 0.75
    assert draws.std(axis=2).min() > 0.1, "the noise of the outcome (sd 1/4) belongs to the law"


def test_forests_use_the_seed_and_repeat_it(table, fitted):
    for name in ("causal_forest_grf", "bcf", "quantile_forest"):
        np.testing.assert_array_equal(learners.fit_predict(name, table, seed=0, **SMALL[name]).mu, fitted[name].mu)
        assert (learners.fit_predict(name, table, seed=1, **SMALL[name]).mu != fitted[name].mu).any()


def test_grid_has_three_distinct_configurations_with_the_same_options():
    assert set(learners.GRID) == set(learners.METHODS) == set(learners.NAMES)
    for grid in learners.GRID.values():
        assert len(grid) == 3 and len({str(sorted(options.items())) for options in grid}) == 3 and len({tuple(options) for options in grid}) == 1


@pytest.mark.parametrize("name", ["hgb_s", "quantile_forest"])
def test_held_out_loss_reads_neither_test_outcomes_nor_truth(name, table):
    loss = learners.held_out_loss(name, table, **SMALL[name])
    y = table.y.copy()
    y[table.test] = np.nan
    blind = replace(table, y=y, mu=np.full_like(table.mu, np.nan), potential=np.full_like(table.mu, np.nan))
    assert learners.held_out_loss(name, blind, **SMALL[name]) == loss
    assert learners.held_out_loss(name, replace(table, y=4 * table.y), **SMALL[name]) == pytest.approx(loss, rel=1e-9)
    assert 0 < loss < 0.3, "an intercept alone scores about 1 (squares) or 0.56 (CRPS of a Gaussian)"


def test_held_out_loss_is_the_factual_error_of_the_held_rows(table):
    fit, held = table.validation(4)
    mu = learners.fit_predict("hgb_s", replace(table, train=fit, test=held), seed=4, max_iter=40).mu
    expected = np.mean((mu[held, table.t[held]] - table.y[held]) ** 2) / np.var(table.y[fit])
    assert learners.held_out_loss("hgb_s", table, seed=4, max_iter=40) == pytest.approx(expected)


def test_wrong_input_gets_one_clear_sentence(table):
    with pytest.raises(InputError, match="name must be one of 'hgb_s'"):
        learners.fit_predict("hgb_t", table)
    with pytest.raises(InputError, match="an option of hgb_s must be one of 'max_iter'"):
        learners.fit_predict("hgb_s", table, trees=3)
    with pytest.raises(InputError, match="compares two arms but the table has 3"):
        learners.fit_predict("bcf", replace(table, mu=np.zeros((600, 3))))
    with pytest.raises(InputError, match="seed must be a whole number"):
        learners.fit_predict("bcf", table, seed=0.5)
    with pytest.raises(InputError, match="Arm 1 has 0 training rows but hgb_x needs 50"):
        learners.fit_predict("hgb_x", replace(table, t=np.zeros(600, dtype=np.int64)))
    y = table.y.copy()
    y[table.train[3]] = np.nan
    with pytest.raises(InputError, match=r"table.y\[train\] holds nan in row 3"):
        learners.fit_predict("hgb_s", replace(table, y=y))
