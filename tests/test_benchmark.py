"""The drivers of notebooks 01, 02a, 02b and 02d on small tables: what is compared, what is kept, what may be read."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from gencausal import baselines
from gencausal.data.stack import prepare_tables
from gencausal.data.table import CausalTable, split
from gencausal.estimators.outcomes import DistillationConfig, TeacherConfig
from gencausal.experiments import ablation, benchmark, confounding, mechanism, realcause, tuning
from gencausal.experiments.benchmark import Plan, fit_group, prediction_rows

TEACHER = TeacherConfig(rounds=6, batch=32, score_every=3, width=16, embedding=8, decoder=8)
PLAN = Plan(TEACHER, {"iwdd": DistillationConfig(rounds=4, batch=32, score_every=2)}, members=2, draws=40, teacher_draws=40, train_draws=3, sampler="adams_bashforth2", steps=6)


def table(unit: str, n: int = 300) -> CausalTable:
    """Four covariates; treatment follows the first, strongly, and the second, weakly; effect 1 + x_0."""
    rng = np.random.default_rng(int(unit))
    x = rng.normal(size=(n, 4))
    e = 1 / (1 + np.exp(-1.5 * x[:, 0] - 0.3 * x[:, 1]))
    t = (rng.random(n) < e).astype(int)
    mu = np.stack([x[:, 0] + x[:, 2], 2 * x[:, 0] + x[:, 2] + 1], 1)
    potential = mu + rng.normal(size=(n, 2))
    return CausalTable("toy", unit, x, t, potential[np.arange(n), t], mu, potential, e, list("abcd"), *split(n))


@pytest.fixture(scope="module")
def tables():
    return [table("1"), table("2")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def fitted(tables, folder):
    return fit_group(tables, 0, PLAN, folder)


def test_an_ensemble_has_members_that_differ(fitted, tables):
    assert len(fitted.teachers) == len(fitted.students["iwdd"]) == 2 and set(fitted.predictions) == {"teacher", "iwdd"}
    first, second = (torch.cat([p.flatten() for p in m.parameters()]) for m in fitted.teachers)
    assert not torch.equal(first, second)
    assert fitted.steps == {"teacher": 12, "iwdd": 8}


def test_a_second_call_trains_nothing(fitted, tables, folder, monkeypatch):
    monkeypatch.setattr("gencausal.training._update", lambda *a, **k: pytest.fail("trained again"))
    again = fit_group(tables, 0, PLAN, folder)
    assert np.array_equal(again.predictions["iwdd"].mu, fitted.predictions["iwdd"].mu)


def test_what_is_hidden_does_not_move_a_prediction(fitted, tables):
    """Test outcomes and arms, counterfactuals and means of any row enter no training."""
    changed = []
    for t in tables:
        y, arm, potential = t.y.copy(), t.t.copy(), t.potential.copy()
        y[t.test] += 100
        arm[t.test] = 1 - arm[t.test]
        potential[np.arange(len(y)), 1 - t.t] -= 50
        changed.append(replace(t, y=y, t=arm, potential=potential, mu=t.mu * 3, propensity=None))
    again = fit_group(changed, 0, PLAN)
    assert np.array_equal(again.predictions["iwdd"].draws, fitted.predictions["iwdd"].draws)


def test_rows_of_a_group(fitted, tables):
    rows = pd.DataFrame(prediction_rows(fitted, tables, 0))
    assert set(rows["method"]) == {"teacher", "iwdd"} and set(rows["unit"]) == {"1", "2"} and not rows.duplicated(["unit", "method", "metric"]).any()
    assert {"pehe_normalised", "pehe_normalised_median", "crps", "coverage_90_calibrated", "w2"} <= set(rows["metric"])
    alone = pd.DataFrame(benchmark.single_rows(fitted, tables, 0, PLAN))
    assert set(alone["method"]) == {"teacher_single", "iwdd_single"}
    merged = rows[rows["metric"] == "pehe_normalised"]["value"].to_numpy(), alone[alone["metric"] == "pehe_normalised"]["value"].to_numpy()
    assert not np.allclose(*merged, rtol=1e-4), "a single network is not the ensemble"


def test_cost_rows_count_steps_and_parameters(fitted):
    rows = pd.DataFrame(benchmark.cost_rows(fitted, "toy", 0)).set_index(["method", "metric"])["value"]
    assert rows["teacher", "steps"] == 12 and rows["iwdd", "parameters"] == rows["teacher", "parameters"]
    own = sum(p.numel() for p in fit_group([table("1")], 0, replace(PLAN, members=1)).teachers[0].parameters())
    assert rows["teacher", "parameters"] == own, "of one table's network, whatever the stack"


def test_groups_keep_order():
    assert benchmark.groups(list(range(7)), 3) == [[0, 1, 2], [3, 4, 5], [6]] and benchmark.groups([]) == []


@pytest.mark.parametrize("name", ["naive_ate", "hgb_s", "mlp_gated"])
def test_a_baseline_is_remembered(name, tables, tmp_path, monkeypatch):
    options = {"rounds": 4, "batch": 32, "score_every": 2, "width": 16} if name == "mlp_gated" else {}
    first = benchmark.baseline(name, tables, 0, tmp_path, **options)
    monkeypatch.setattr(baselines, "fit_predict_all", lambda *a, **k: pytest.fail("fitted again"))
    again = benchmark.baseline(name, tables, 0, tmp_path, **options)
    assert all(np.array_equal(a.mu, b.mu) for a, b in zip(first, again)) and first[0].mu.shape == (300, 2)
    with pytest.raises(pytest.fail.Exception, match="fitted again"):
        benchmark.baseline(name, [replace(tables[0], y=tables[0].y + 1), tables[1]], 0, tmp_path, **options)


def test_tuning_reads_held_rows_only_and_picks_the_smallest(tables, tmp_path):
    losses = tuning.baseline_losses("hgb_s", tables, tmp_path, budget={"rounds": 5})
    assert losses.shape == (3, 2) and np.isfinite(losses).all()
    blind = [replace(t, mu=t.mu + 7, potential=t.potential - 9, y=np.where(np.isin(np.arange(300), t.test), 99.0, t.y)) for t in tables]
    assert np.array_equal(tuning.baseline_losses("hgb_s", blind, budget={"rounds": 5}), losses)
    assert tuning.chosen(np.array([[2.0, 20], [1, 10], [3, 30]])) == 1
    assert tuning.chosen(np.array([[1.0, 1000], [2, 900], [2, 900]])) == 0, "a table of large losses has one vote, like the others"
    assert tuning.overrides("hgb_s", {"hgb_s": 2}, {"rounds": 50}) == baselines.GRID["hgb_s"][2] and tuning.overrides("zero", {}, {"rounds": 50}) == {}
    assert tuning.overrides("tarnet", {}, {"rounds": 50})["rounds"] == 50
    assert tuning.overrides("diffpo_bug", {"diffpo": 2}, {"rounds": 50}) == tuning.overrides("diffpo", {"diffpo": 2}, {"rounds": 50}) != tuning.overrides("diffpo", {}, {"rounds": 50}), "the bug alone differs"
    rows = pd.DataFrame(tuning.rows("hgb_s", "toy", tables, losses)).assign(higher_is_better=False)
    shown = tuning.table(rows, {"toy": {"hgb_s": 1}})
    assert shown.loc[0, "loss 1"] == 1 and shown.loc[0, "loss 2"] == pytest.approx(losses[1].mean() / losses[0].mean())


def test_ablation_changes_one_thing(tables, tmp_path):
    rows = pd.DataFrame(ablation.ablation(tables, 0, TEACHER, {name: ablation.VARIANTS[name] for name in ("as used", "no gates", "last step kept")}, [2], tmp_path, draws=5, steps=4))
    assert set(rows["method"]) == {"as used", "no gates", "last step kept", "ensemble of 2"} and set(rows["metric"]) == {"crps_held_out", "pehe_normalised"}
    held = rows[rows["metric"] == "crps_held_out"].pivot(index="unit", columns="method", values="value")
    assert (held["as used"] != held["no gates"]).all() and (held["as used"] != held["ensemble of 2"]).all()


def test_crossed_teachers_and_laws(tables, folder):
    """Three teachers, since the truth is known; weighting moves the teacher, the true propensity moves the weighted generator."""
    rows, groups = mechanism.crossed(tables, 0, PLAN, ["shuffle", "obs", "ipw", "ipw_true"], ["shuffle"], folder)
    methods = {row["method"] for row in rows}
    assert methods == {"teacher", "iwdd", "iwdd_obs", "iwdd_ipw", "iwdd_ipw_true", "teacher_on_ipw", "iwdd_on_ipw", "teacher_on_ipw_true", "iwdd_on_ipw_true"}
    mu = {m: p.mu for g in groups.values() for m, p in g.predictions.items()}
    for a, b in (("teacher", "teacher_on_ipw"), ("teacher_on_ipw", "teacher_on_ipw_true"), ("iwdd_ipw", "iwdd_ipw_true"), ("iwdd", "iwdd_obs")):
        assert not np.array_equal(mu[a], mu[b]), (a, b)
    unknown, _ = mechanism.crossed([replace(t, propensity=None) for t in tables], 0, PLAN, ["shuffle", "ipw_true"], ["shuffle"], folder)
    assert {row["method"] for row in unknown} == {"teacher", "iwdd", "teacher_on_ipw", "iwdd_on_ipw"}


def test_errors_by_overlap(tables):
    """A student whose excess error is 1 - overlap has slope -1; one that errs like its teacher has slope 0 and equal cells."""
    own = np.stack([t.mu for t in tables])
    overlap = np.stack([np.minimum(t.propensity, 1 - t.propensity) for t in tables])[:, :, None]
    scale = np.array([t.mu.std() for t in tables])[:, None, None]
    teacher = own + scale
    rows = pd.DataFrame(mechanism.overlap_errors(tables, 0, {"teacher": teacher, "same": teacher, "worse": teacher + scale * (1 - overlap)}, [t.propensity for t in tables]))
    slopes = rows[rows["metric"] == "slope_overlap"].groupby("method")["value"].mean()
    assert slopes["same"] == pytest.approx(0, abs=1e-9) and slopes["worse"] == pytest.approx(-1, abs=1e-6)
    cells = rows[rows["metric"] == "rmse_normalised"]
    assert cells[cells["method"] == "teacher"]["value"].to_numpy() == pytest.approx(1)
    counted = cells[cells["method"] == "teacher"].groupby("unit")["n"].sum()
    assert (counted <= 2 * len(tables[0].test)).all() and (counted >= len(tables[0].test)).all(), "bins of fewer than ten rows are left out"


def test_pools_distil_on_other_rows(tables, fitted, folder):
    rows = pd.DataFrame(mechanism.pools(tables, 0, fitted, PLAN.students["iwdd"], 40, folder))
    shown = rows[rows["metric"] == "pehe_normalised"].pivot(index="unit", columns="method", values="value")
    assert list(shown.columns) == ["iwdd_jittered", "iwdd_transductive"] and (shown["iwdd_jittered"] != shown["iwdd_transductive"]).all()


def test_propensity_of_a_law_without_one_is_refused(tables, fitted):
    from gencausal.checks import InputError
    from gencausal.estimators.outcomes import distil

    data = prepare_tables(tables, 0)
    with pytest.raises(InputError, match="pool has no propensities"):
        distil(fitted.teachers[0], data, replace(PLAN.students["iwdd"], law="ipw"), 0, pool=(data.x, data.z))


def test_the_logistic_propensity_finds_the_driver(tables):
    e = mechanism.logistic_propensity(tables[0])
    assert np.corrcoef(e, tables[0].propensity)[0, 1] > 0.95


def test_hiding_removes_the_driver_of_treatment(tables):
    """Eq. gamma: one where nothing is hidden, large where the driver is."""
    t = tables[0]
    assert confounding.ranked(t)[0] == 0
    hidden = confounding.hide(t, 1)
    assert hidden.covariates == ["b", "c", "d"] and np.array_equal(hidden.x, t.x[:, 1:]) and hidden.name == "toy_hidden1" and np.array_equal(hidden.mu, t.mu)
    weakest = replace(t, x=np.delete(t.x, confounding.ranked(t)[-1], 1))
    assert 1 <= confounding.gamma(t, weakest) < 1.3 < confounding.gamma(t, hidden)
    assert confounding.gamma(t, t) == 1
    rows = [{"method": "m", "unit": "1", "seed": 0, "metric": "pehe_normalised", "value": 0.5}, {"method": "m", "unit": "1", "seed": 0, "metric": "crps", "value": 3.0}]
    assert [(r["metric"], r["value"]) for r in confounding.losses(rows, {("m", "1", 0): 0.3})] == [("pehe_increase", pytest.approx(0.2))]


def test_realised_outcomes_are_scored_in_both_arms(tables):
    """Draws that are the realised potential outcomes: CRPS 0 in both arms; shifted ones lose by their shift over the sd."""
    t = tables[0]
    draws = np.repeat(t.potential[t.test][:, :, None], 40, 2)
    exact = {r["metric"]: r["value"] for r in realcause.score("m", t, 0, draws)}
    assert exact["crps"] == pytest.approx(0) and exact["crps_cf"] == pytest.approx(0) and exact["coverage_90"] == 1
    draws[:, 1] += 3
    moved = {r["metric"]: r["value"] for r in realcause.score("m", t, 0, draws)}
    treated = t.t[t.test].mean()
    assert moved["crps"] == pytest.approx(3 * treated / t.y[t.train].std()) and moved["crps_cf"] == pytest.approx(3 * (1 - treated) / t.y[t.train].std())
    rows = pd.DataFrame(realcause.run([t], 0, replace(PLAN, members=1), [], None))
    assert set(rows["method"]) == {"teacher", "iwdd", "arm_marginal"}
