"""Result rows of an estimate against hand-computed values."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtri

from gencausal.data.table import CausalTable
from gencausal.estimators.scores import draw_rows, mean_rows, summary


@pytest.fixture
def table() -> CausalTable:
    """Four train and two test rows; effects 1 and 3 on the test rows."""
    mu = np.array([[0.0, 1], [0, 1], [0, 1], [0, 1], [0, 1], [1, 4]])
    t = np.array([0, 1, 0, 1, 0, 1])
    potential = mu + 0.5
    return CausalTable("toy", "7", np.zeros((6, 1)), t, potential[np.arange(6), t], mu, potential, None, ["a"], np.arange(4), np.arange(4, 6))


def values(rows):
    return {row["metric"]: row["value"] for row in rows}


def test_mean_rows(table):
    """Estimate 0 everywhere: PEHE = sqrt((1 + 9) / 2), over the sd of all pooled means; arm errors by hand."""
    rows = mean_rows("zero", table, 3, np.zeros((6, 2)))
    found = values(rows)
    assert found["pehe_normalised"] == pytest.approx(np.sqrt(5) / table.mu.std())
    assert found["pehe_normalised_in"] == pytest.approx(1 / table.mu.std())
    assert found["ate_error"] == pytest.approx(2)
    assert found["rmse_y0"] == pytest.approx(np.sqrt(0.5)) and found["rmse_y1"] == pytest.approx(np.sqrt(17 / 2))
    assert {(r["dataset"], r["unit"], r["method"], r["seed"], r["experiment"]) for r in rows} == {("toy", "7", "zero", 3, "iwdd.E0")}
    assert {r["metric"]: r["n"] for r in rows}["pehe_normalised_in"] == 4 and {r["metric"]: r["n"] for r in rows}["pehe_normalised"] == 2


def test_mean_rows_of_the_truth_are_zero(table):
    assert all(value == 0 for value in values(mean_rows("oracle", table, 0, table.mu)).values())


def test_draw_rows_use_the_factual_arm(table):
    """Draws of the factual arm all equal to y: CRPS 0, coverage 1; of the other arm: far off. Spread is that of both arms."""
    draws = np.full((2, 2, 40), 100.0)
    for i, row in enumerate(table.test):
        draws[i, table.t[row]] = table.y[row]
    found = values(draw_rows("m", table, 0, draws))
    assert found["crps"] == 0 and found["coverage_90"] == 1 and found["draw_sd"] == 0
    assert values(draw_rows("m", table, 0, np.repeat(table.mu[table.test][:, :, None], 40, 2)))["pehe_normalised_median"] == 0
    swapped = values(draw_rows("m", table, 0, draws[:, ::-1]))
    assert swapped["crps"] > 90 and swapped["coverage_90"] == 0


def test_draw_rows_of_the_true_law():
    """Stratified quantiles of N(mu, 1) as draws, outcomes from it: coverage at every level, PIT, W1 and W2 at the floor of 400 quantiles."""
    rng = np.random.default_rng(0)
    n, m = 4000, 400
    mu = rng.normal(size=(n, 2))
    t, potential = rng.integers(0, 2, n), mu + rng.normal(size=(n, 2))
    table = CausalTable("toy", "1", np.zeros((n, 1)), t, potential[np.arange(n), t], mu, potential, None, ["a"], np.arange(1), np.arange(1, n))
    quantiles = ndtri((np.arange(m) + 0.5) / m)
    draws = mu[1:, :, None] + quantiles
    found = values(draw_rows("m", table, 0, draws, held=(2 * quantiles + mu[1:, 0, None], potential[1:, 0])))
    assert [found[f"coverage_{level}"] for level in (50, 80, 90, 95)] == pytest.approx([0.5, 0.8, 0.9, 0.95], abs=0.025)
    assert found["width_90"] == pytest.approx(2 * 1.645, rel=0.01) and found["pit_ks"] < 0.03 and found["w1"] < 0.01 and found["w2"] < 0.05
    assert found["width_90_calibrated"] == pytest.approx(found["width_90"] - 2 * 1.645, abs=0.15), "held draws twice too wide take their excess off"
    assert "w1" not in values(draw_rows("m", table, 0, draws, noise_sd=None))
    wide = values(draw_rows("m", table, 0, mu[1:, :, None] + 2 * quantiles))
    assert wide["w2"] == pytest.approx(1, abs=0.05) and wide["coverage_90"] > 0.99


def test_summary_averages_seeds_first():
    rows = pd.DataFrame([{"metric": "pehe_normalised", "dataset": "toy", "unit": str(u), "method": m, "seed": s, "value": v}
                         for m, table in {"a": [[1, 3], [2, 4]], "b": [[5, 5], [1, 1]]}.items() for u, per_seed in enumerate(table) for s, v in enumerate(per_seed)])
    made = summary(rows, "pehe_normalised").set_index("method")
    assert made["mean"].to_dict() == {"a": 2.5, "b": 3.0} and list(made.index) == ["a", "b"]
    assert made.loc["a", ["low", "high"]].tolist() == [2, 3] and made.loc["a", ["units", "seeds"]].tolist() == [2, 2]
    assert made["mean rank"].to_dict() == {"a": 1.5, "b": 1.5}
    one = summary(rows[rows["unit"] == "0"], "pehe_normalised")
    assert one["low"].isna().all() and (one["units"] == 1).all()
