"""Result rows of an estimate against hand-computed values."""

import numpy as np
import pandas as pd
import pytest

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
    draws = np.full((2, 2, 20), 100.0)
    for i, row in enumerate(table.test):
        draws[i, table.t[row]] = table.y[row]
    found = values(draw_rows("m", table, 0, draws))
    assert found["crps"] == 0 and found["coverage_90"] == 1 and found["draw_sd"] == 0
    assert values(draw_rows("m", table, 0, np.repeat(table.mu[table.test][:, :, None], 20, 2)))["pehe_normalised_mean"] == 0
    swapped = values(draw_rows("m", table, 0, draws[:, ::-1]))
    assert swapped["crps"] > 90 and swapped["coverage_90"] == 0


def test_summary_averages_seeds_first():
    rows = pd.DataFrame([{"metric": "pehe_normalised", "dataset": "toy", "unit": str(u), "method": m, "seed": s, "value": v}
                         for m, table in {"a": [[1, 3], [2, 4]], "b": [[5, 5], [1, 1]]}.items() for u, per_seed in enumerate(table) for s, v in enumerate(per_seed)])
    made = summary(rows, "pehe_normalised").set_index("method")
    assert made["mean"].to_dict() == {"a": 2.5, "b": 3.0} and list(made.index) == ["a", "b"]
    assert made.loc["a", ["low", "high"]].tolist() == [2, 3] and made.loc["a", ["units", "seeds"]].tolist() == [2, 2]
    assert made["mean rank"].to_dict() == {"a": 1.5, "b": 1.5}
    one = summary(rows[rows["unit"] == "0"], "pehe_normalised")
    assert one["low"].isna().all() and (one["units"] == 1).all()
