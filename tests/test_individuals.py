"""Individual counterfactuals in the known world: metrics against closed forms, the oracle, the exact split of the error, and the run of all methods at a small size."""

from dataclasses import replace

import numpy as np
import pytest

from gencausal import checks, claims
from gencausal.cell_models import stack
from gencausal.data.cell_worlds import LinearWorld, cell_world, linear_world
from gencausal.experiments import individuals, leakage

TABLE = cell_world(0, 0, 400, 300, 12)
TINY = stack.Config(rounds=4, width=8, latent=4, embedding=8, draws=1, matches=0, warmup=1)


def scored(table, change=lambda truth: truth):
    truth = table.outcome_cf[table.test].astype(np.float64)
    return individuals.scores(table, change(truth), table.test)


def test_truth_has_no_error_and_keeps_every_individual():
    """Eq. individual-rmse, Eq. effect-correlation, Eq. mmd-counterfactual, Eq. individuality: of the true counterfactuals themselves 0, 1, 0, and 1 with 1."""
    found = scored(TABLE)
    for name in ("rmse_individual", "mmd2_counterfactual", "error_group", "error_within", "factual_rmse"):
        assert found[name] == pytest.approx(0, abs=1e-12)
    for name in ("effect_correlation", "variance_kept", "individual_correlation"):
        assert found[name] == pytest.approx(1, abs=1e-12)


def test_error_of_a_constant_shift_is_that_shift():
    """Eq. individual-rmse, Eq. error-split: Y' + d errs by d / sd, all of it in the group means; correlations stay 1."""
    truth, other = TABLE.outcome_cf[TABLE.test].astype(np.float64), np.arange(3) != TABLE.condition[TABLE.test][:, None]
    sd = np.sqrt(np.concatenate([((truth[other[:, k], k] - truth[other[:, k], k].mean(0)) ** 2).ravel() for k in range(3)]).mean())
    found = scored(TABLE, lambda y: y + 0.3)
    assert found["rmse_individual"] == pytest.approx(0.3 / sd) and found["error_group"] == pytest.approx(0.3 / sd) and found["error_within"] == pytest.approx(0, abs=1e-9)
    assert found["effect_correlation"] == pytest.approx(1) and found["mmd2_counterfactual"] > 0


def test_shrinking_to_the_group_keeps_the_square_of_the_factor():
    """Eq. individuality, Eq. error-split: deviations times f keep f^2 of the variance with correlation 1 and err by (1 - f) of the spread within groups."""
    rows, f = TABLE.test, 0.4

    def shrunk(y):
        made = y.copy()
        for t in range(3):
            for x in range(3):
                part = (TABLE.condition[rows] == t) & (TABLE.stratum[rows] == x)
                made[part] = y[part].mean(0) + f * (y[part] - y[part].mean(0))
        return made

    found = scored(TABLE, shrunk)
    assert found["variance_kept"] == pytest.approx(f**2) and found["individual_correlation"] == pytest.approx(1) and found["error_group"] == pytest.approx(0, abs=1e-9)
    assert found["rmse_individual"] == pytest.approx(found["error_within"])


@pytest.mark.parametrize("noise", [0.1, 1.0])
def test_squared_error_is_the_sum_of_its_parts(noise):
    """Eq. error-split: error_group^2 + error_within^2 = rmse_individual^2 for any prediction."""
    found = scored(TABLE, lambda y: 0.5 * y + noise * np.random.default_rng(0).standard_normal(y.shape) + 0.2)
    assert found["error_group"] ** 2 + found["error_within"] ** 2 == pytest.approx(found["rmse_individual"] ** 2)


def test_a_treatment_of_ones_own_does_not_count():
    """What is predicted for t' = t changes `factual_rmse` alone."""
    own = np.arange(3) == TABLE.condition[TABLE.test][:, None]
    found = scored(TABLE, lambda y: y + 5.0 * own[..., None])
    assert found["rmse_individual"] == pytest.approx(0, abs=1e-12) and found["effect_correlation"] == pytest.approx(1) and found["factual_rmse"] > 1


def test_references_say_what_they_claim():
    """`factual` has no effect and copies t' = t; `covariate_mean` keeps no individual; `shift` keeps the factual ones (Eq. individual-shift); `oracle` errs by the outcome noise alone, 0.05."""
    predicts = individuals.references(TABLE, 0, 0)
    rows = {row["method"] + " " + row["metric"]: row["value"] for row in individuals.score_rows(TABLE, predicts, 0)}
    assert rows["factual effect_correlation"] == 0 and rows["factual factual_rmse"] == 0 and rows["shift factual_rmse"] == pytest.approx(0, abs=1e-6)
    assert rows["covariate_mean variance_kept"] == pytest.approx(0, abs=1e-9) and rows["covariate_mean individual_correlation"] == 0
    assert rows["shift variance_kept"] == pytest.approx(rows["factual variance_kept"], rel=1e-5) and rows["shift error_within"] == pytest.approx(rows["factual error_within"], rel=1e-5)
    found = individuals.predicted(TABLE, predicts["oracle"], TABLE.test) - TABLE.outcome_cf[TABLE.test]
    assert np.sqrt((found**2).mean()) == pytest.approx(0.05, rel=0.05)


def test_linear_world_is_solved_exactly():
    """Eq. linear-world, oracle 21: abduction and prediction by the true parameters have individual RMSE 0 and effect correlation 1."""
    table, world = linear_world(0), LinearWorld()
    found = individuals.scores(table, individuals.predicted(table, lambda y, t, x, t_cf: world.counterfactual(y, t[:, 1:], t_cf[:, 1:]), table.test), table.test)
    assert found["rmse_individual"] == pytest.approx(0, abs=1e-6) and found["effect_correlation"] == pytest.approx(1) and found["variance_kept"] == pytest.approx(1, abs=1e-5)


def test_a_table_without_truth_is_refused():
    with pytest.raises(checks.InputError, match="counterfactual"):
        individuals.scores(replace(TABLE, outcome_cf=None), np.zeros((300, 3, 12)), TABLE.test)


def test_all_methods_run_and_choose_their_rate_on_held_cells():
    """One network a method; the rate with the least factual error on cells that are neither trained on nor tested; rows for E1 and E2, every metric known."""
    fitting, held = individuals.fit_table(TABLE, 0)
    assert not set(held) & set(fitting.train) and not set(held) & set(TABLE.test) and len(held) == 40
    found = individuals.trained(TABLE, individuals.METHODS, TINY, [1e-4, 1e-2], 0)
    assert set(found) == set(individuals.METHODS) and all(one.rate == min(one.tried, key=one.tried.get) and len(one.tried) == 2 for one in found.values())
    assert individuals.factual_error(TABLE, found["vci"].predict, held) == pytest.approx(found["vci"].tried[found["vci"].rate])
    more = individuals.ablations(TABLE, TINY, 1e-3, 0, (0.0, 0.1, 1.0))
    assert set(more) == {"vci_w2_1"} | {name + form for name in ("vci", "vci_no_supervision") for form in individuals.FORMS}
    rows = individuals.score_rows(TABLE, {name: one.predict for name, one in (found | more).items()}, 0)
    assert len(rows) == (len(individuals.METHODS) + 7) * len(individuals.METRICS) and {row["metric"] for row in rows} == set(individuals.METRICS) and np.isfinite([row["value"] for row in rows]).all()
    leaks = individuals.leak_rows(TABLE, {"vci": found["vci"]}, 0, 5, 200)
    assert {row["metric"] for row in leaks} <= set(leakage.METRICS) and {row["experiment"] for row in leaks} == {individuals.E2}


def test_ablation_without_divergence_does_not_depend_on_its_form():
    """With w2 = 0 the exact divergence and the frozen encoder change nothing, which is why E2 does not train them."""
    weights = {"a": individuals.METHODS["vci_no_divergence"]}
    predictions = [individuals.predicted(TABLE, individuals.trained(TABLE, weights, replace(TINY, **change), [1e-3], 0)["a"].predict, TABLE.test) for change in ({}, {"divergence": "exact"}, {"refresh": 2})]
    assert (predictions[0] == predictions[1]).all() and (predictions[0] == predictions[2]).all()


def test_match_erases_more_where_the_decoder_is_wide():
    """Eq. erasure: the minimum of w0 (p - y)^2 / s^2 + w1 (p - m)^2 over p, found on a grid; all is kept at s -> 0 or w1 = 0, and 1 / (1 + w1) at s = 1 with w0 = 1."""
    p = np.linspace(0, 1, 100001)
    for scale, w0, w1 in ((0.3, 1.0, 1.7), (1.0, 0.03, 1.7), (2.0, 1.0, 0.5)):
        assert individuals.kept_share(scale, w0, w1) == pytest.approx(p[np.argmin(w0 * (p - 1) ** 2 / scale**2 + w1 * p**2)], abs=2e-5)
    assert individuals.kept_share(1e-6) == pytest.approx(1) and individuals.kept_share(3.0, w1=0.0) == 1 and individuals.kept_share(1.0) == pytest.approx(1 / 2.7)


def test_every_metric_is_registered():
    """What the rows of E1, E2, E4 and E5 are called, with the side that is better."""
    assert all(claims.METRICS[name] == better for name, better in (individuals.METRICS | leakage.METRICS).items())


def test_one_world_has_no_interval():
    assert individuals.spread([0.3]).mean == 0.3 and np.isnan(individuals.spread([0.3]).low) and "no interval" in individuals.told([0.3])
    found = individuals.spread([0.1, 0.2, 0.3])
    assert found.low < 0.2 < found.high and found.mean == pytest.approx(0.2)
