"""E5 at small size: who is unbiased where, whose interval covers, and the score that flatters (spec vci, 2.7, oracles 14 and 15)."""

import numpy as np
import pandas as pd
import pytest

from gencausal import checks, robust, seeding
from gencausal.data.cell_worlds import PROPENSITY, World, make_world
from gencausal.experiments import robust_cells


@pytest.fixture(scope="module")
def table():
    """Rows of one world at n = 500 with 100 replications of 4 outcomes, by (decoder, method, metric)."""
    frame = pd.DataFrame(robust_cells.rows([1], sizes=(500,), replications=100, genes=4))
    assert set(frame["experiment"]) == {"vci.E5"} and set(frame["dataset"]) == {"vci_synthetic"} and (frame["seed"] == 1).all() and (frame["n"] == 100).all()
    assert not frame.duplicated(["unit", "method", "metric"]).any()
    return frame.assign(decoder=frame["unit"].str.split(",").str[0]).set_index(["decoder", "method", "metric"])["value"]


def test_bias_by_decoder_and_propensity(table):
    """Oracle 15 (Eq. bias-rms): unbiased where decoder or propensity is right, to within twice the floor rmse / sqrt(R); biased where both are wrong, and the plug-in wherever the decoder is."""
    for decoder, method in [("good", "plug_in"), ("good", "robust_wrong"), ("biased", "robust_true"), ("biased", "robust_estimated"), ("ood", "robust_true"), ("ood", "robust_estimated"), ("none", "ipw_true")]:
        assert table[decoder, method, "bias_mean"] < 2 * table[decoder, method, "rmse_mean"] / 10, (decoder, method)
    for decoder, method in [("biased", "plug_in"), ("ood", "plug_in"), ("biased", "robust_wrong"), ("none", "ipw_wrong")]:
        assert table[decoder, method, "bias_mean"] > 5 * table[decoder, method, "rmse_mean"] / 10, (decoder, method)


def test_rmse_and_coverage(table):
    """C6: (Eq. rmse-rms, Eq. plug-in) under the biased decoder the robust mean errs less than half as much as the plug-in, under the good one no more than 10 % more; its interval covers near 95 % at the true propensity, the plug-in's does not under bias."""
    for kind in ("true", "estimated"):
        assert table["biased", f"robust_{kind}", "rmse_mean"] < 0.5 * table["biased", "plug_in", "rmse_mean"] and table["good", f"robust_{kind}", "rmse_mean"] < 1.1 * table["good", "plug_in", "rmse_mean"]
    for decoder in ("good", "biased", "ood"):
        assert 0.92 < table[decoder, "robust_true", "coverage_95"] <= 0.98, decoder
    assert table["biased", "plug_in", "coverage_95"] < 0.5 and table["biased", "robust_wrong", "coverage_95"] < 0.8


def test_a_restating_decoder_is_beyond_repair(table):
    """Residuals that vanish correct nothing: plug-in and robust mean are one number at any propensity, and keep their bias."""
    found = {method: table["restating", method, "bias_mean"] for method in ("plug_in", "robust_true", "robust_estimated", "robust_wrong")}
    assert list(found.values()) == pytest.approx([found["plug_in"]] * 4) and found["plug_in"] > 0.1


def test_rows_do_not_depend_on_the_chunk(monkeypatch):
    """Estimates in pieces agree in count and law with those at once; a supplied decoder stands in the rows."""
    monkeypatch.setattr(robust_cells, "CHUNK", 1)
    found = pd.DataFrame(robust_cells.rows([1], (100,), 20, 2, {"mine": robust_cells.good}))
    assert set(found["unit"]) == {"mine, n = 100"} and (found["n"] == 20).all() and found.query("metric == 'bias_mean'")["value"].max() < 0.1


def test_a_treatment_nobody_got_is_counted_not_estimated():
    """Oracle 14: replications that lack a treatment are missing: computable 0 and no other row; the plug-in remains."""
    world = make_world(0, 2)
    draws = robust_cells.draw(world, 5, 60, np.random.default_rng(0))
    draws = draws._replace(treatment=np.where(draws.treatment == 2, 0, draws.treatment))
    found = robust_cells.estimates(world, draws, {"good": robust_cells.good})
    truth = world.means().mean(0)
    missing, there = (robust_cells._rows("unit", method, 0, found["good", method], truth) for method in ("robust_true", "plug_in"))
    assert [(row["metric"], row["value"]) for row in missing] == [("computable", 0.0)] and {row["metric"] for row in there} == {"computable", "bias_mean", "rmse_mean", "coverage_95"}


def test_the_score_that_flatters():
    """Defect 14: predictions constant in the cell get R2 = 1 on the cells that correct them, whatever they are; on other cells that is the treated mean's score, no more. An untrained network scores far above its plug-in by this alone."""
    world, rng = make_world(2, 30), np.random.default_rng(1)
    draws = robust_cells.draw(world, 1, 900, rng)
    order, wrong = rng.permutation(900), np.broadcast_to(rng.standard_normal((3, 30)), (900, 3, 30))
    arguments = draws.outcome[0], draws.treatment[0], draws.stratum[0]
    found = robust_cells.halves(*arguments, wrong, order[:450], order[450:])
    assert found["robust_same"] == pytest.approx(1) and found["robust"] == pytest.approx(found["treated_mean"]) and found["plug_in"] < 0 and found["groups"] == 9
    table = pd.DataFrame(robust_cells.trap_rows([0], 1500, 30)).set_index(["method", "metric"])["value"]
    assert table["untrained", "r2_robust_same"] > 0.8 > 0 > table["untrained", "r2_plug_in"] and table["untrained", "r2_robust"] < table["untrained", "r2_treated_mean"] < table["good", "r2_robust"]
    with pytest.raises(checks.InputError, match="score"):
        robust_cells.halves(*arguments, wrong, order[:450], order[400:])
    with pytest.raises(checks.InputError, match="smallest"):
        robust_cells.halves(*arguments, wrong, order[:20], order[450:])


def test_draws_are_those_of_the_world():
    """A replication holds cells of the world: outcomes follow from latent and treatment up to the noise, propensities are as named, and `good` is the noiseless outcome at the own treatment."""
    world: World = make_world(3, 5)
    draws = robust_cells.draw(world, 4, 200, seeding.numpy_generator(0, "draws"))
    made = robust_cells.good(world, draws)
    own = np.take_along_axis(made, draws.treatment[..., None, None], 2)[..., 0, :]
    assert np.std(draws.outcome - own) == pytest.approx(0.05, rel=0.05)
    kinds = robust_cells.propensities(draws)
    assert (kinds["true"] == PROPENSITY[draws.stratum]).all() and (kinds["wrong"] == kinds["wrong"][:, :1]).all()
    assert kinds["estimated"] == pytest.approx(robust.shares(draws.treatment, 3, draws.stratum)) and np.abs(kinds["estimated"] - kinds["true"]).max() < 0.25
