"""Group scores of predicted cells (spec vci, 4.1 and oracle 16)."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import ttest_ind

from gencausal import cell_metrics as metrics
from gencausal.checks import InputError
from gencausal.data.cell_table import CellTable


def table(sizes: dict[tuple[int, int], int], genes: int = 80, strata: int = 2, conditions: int = 2, held: tuple = ()) -> CellTable:
    """Made-up normal cells: `sizes` gives the number of every (stratum, condition), the first `5 * condition` genes move by 2 in every condition."""
    rng = np.random.default_rng(0)
    stratum, condition = (np.concatenate([np.full(n, group[i]) for group, n in sizes.items()]) for i in (0, 1))
    level = rng.normal(size=(strata, genes)) * 2
    y = level[stratum] + rng.normal(size=(len(stratum), genes)) + 2 * (np.arange(genes) < 5 * condition[:, None])
    t, x = np.eye(conditions, dtype=np.float32), np.eye(strata, dtype=np.float32)
    test = np.array([(a, b) in held for a, b in zip(stratum, condition)], bool)
    return CellTable("demo", "all", y.astype(np.float32), tuple(f"g{j}" for j in range(genes)), t[condition], tuple(f"t{k}" for k in range(conditions)), condition, tuple(f"c{k}" for k in range(conditions)), t, 0,
                     x[stratum], (strata,), stratum, tuple(f"s{k}" for k in range(strata)), x, np.flatnonzero(~test), np.flatnonzero(test))


def test_r2_by_hand():
    """Oracle 16, Eq. r2: the truth against itself 1, its mean over genes 0; 1 - 2/8 for errors of (1, 1) around a spread of 8; swapping the arguments changes it; a constant truth has none."""
    truth = np.array([0.0, 2.0, 4.0])
    assert metrics.r2(truth, truth) == 1 and metrics.r2(truth, np.full(3, 2.0)) == 0
    assert metrics.r2(truth, truth + [1, 0, -1]) == 0.75 and metrics.r2(truth + [1, 0, -1], truth) == 0.0
    assert metrics.r2(truth, -truth) < 0 and np.isnan(metrics.r2(np.ones(3), truth))
    with pytest.raises(InputError, match="same genes"):
        metrics.r2(truth, truth[:2])


def test_de_genes_are_those_of_welch():
    """Eq. de: the order is that of scipy's |t| with unequal variances and sizes; a fall counts as much as a rise; a gene without variance comes last."""
    rng = np.random.default_rng(0)
    treated, controls = rng.normal(size=(12, 30)) * 3, rng.normal(size=(50, 30))
    treated[:, 3] -= 20
    controls *= np.linspace(0.1, 20, 30)
    wanted = np.argsort(-np.abs(ttest_ind(treated, controls, equal_var=False).statistic))
    np.testing.assert_array_equal(metrics.de_genes(treated, controls), wanted)
    np.testing.assert_array_equal(metrics.de_genes(treated, controls, 7), wanted[:7])
    assert metrics.de_genes(treated, controls)[0] == 3 and len(metrics.de_genes(treated, controls)) == 30
    assert not np.array_equal(wanted, np.argsort(-np.abs(ttest_ind(treated, controls).statistic)))
    treated[:, 5] = controls[:, 5] = 1.0
    assert metrics.de_genes(treated, controls)[-1] == 5
    with pytest.raises(InputError, match="two cells"):
        metrics.de_genes(treated[:1], controls)


def test_groups_of_30_are_skipped_and_of_31_kept():
    """Oracle 16; the control is no group; where rows are held out, only these count; a stratum without controls is not scored."""
    cells = table({(0, 0): 40, (0, 1): 30, (1, 0): 40, (1, 1): 31})
    assert metrics.groups(cells) == [(1, 1)] and metrics.groups(cells, more_than=29) == [(0, 1), (1, 1)]
    cells = table({(0, 0): 40, (0, 1): 50, (1, 0): 40, (1, 1): 50}, held=((0, 1),))
    assert metrics.groups(cells) == [(0, 1)] and metrics.groups(cells, np.arange(cells.n)) == [(0, 1), (1, 1)]
    assert metrics.groups(table({(0, 0): 40, (0, 1): 50, (1, 1): 50})) == [(0, 1)]


def test_group_names():
    """The stratum, the condition, or both, whatever tells groups apart."""
    assert metrics.group_name(table({(0, 0): 2, (1, 1): 2}), 1, 1) == "s1"
    assert metrics.group_name(table({(0, 0): 2, (0, 2): 2}, strata=1, conditions=3), 0, 2) == "c2"
    assert metrics.group_name(table({(0, 0): 2, (1, 2): 2}, conditions=3), 1, 2) == "s1 c2"


def test_inputs_of_the_two_settings():
    """matched: the controls of the stratum, as they are; classic: all controls, under the labels of the group; both ask for the group's treatment; `inputs` narrows both."""
    cells, seen = table({(0, 0): 40, (0, 1): 50, (1, 0): 35, (1, 1): 50}, held=((1, 1),)), []

    def spy(outcome, treatment, covariates, treatment_cf):
        seen.append((outcome, treatment, covariates, treatment_cf))
        return outcome

    metrics.group_scores(cells, spy, "spy")
    assert [len(call[0]) for call in seen] == [35, 75]
    np.testing.assert_array_equal(seen[0][0], cells.outcome[cells.rows(1, 0)])
    for outcome, treatment, covariates, treatment_cf in seen:
        assert covariates.tolist() == [[0, 1]] * len(outcome) and treatment_cf.tolist() == [[0, 1]] * len(outcome) and treatment.tolist() == [[1, 0]] * len(outcome)
    seen.clear()
    metrics.group_scores(cells, spy, "spy", inputs=np.concatenate([cells.rows(0, 0)[:3], cells.rows(1, 0)[:4], cells.rows(1, 1)]))
    assert [len(call[0]) for call in seen] == [4, 7]
    with pytest.raises(InputError, match="No control cell"):
        metrics.predicted_mean(cells, spy, 1, 1, inputs=cells.rows(0, 0))
    with pytest.raises(InputError, match="setting"):
        metrics.predicted_mean(cells, spy, 1, 1, "native")


def test_scores_are_those_of_the_formula():
    """A method that gives the truth scores 1 everywhere; the controls themselves score what Eq. r2 gives of the two means, on all genes and on the DE genes, which hold the five that move; rows have one key each."""
    cells = table({(0, 0): 60, (0, 1): 50, (1, 0): 60, (1, 1): 50})
    perfect = metrics.group_scores(cells, lambda y, t, x, t_cf: np.broadcast_to(cells.outcome[cells.rows(int(x[0, 1]), 1)].mean(0), y.shape), "perfect", experiment="E", seed=3)
    assert [row["value"] for row in perfect] == pytest.approx([1.0] * 8, abs=1e-9) and {row["metric"] for row in perfect} == {"r2_all", "r2_de", "r2_all_classic", "r2_de_classic"}
    assert len({tuple(row[k] for k in ("experiment", "dataset", "unit", "method", "metric", "seed")) for row in perfect}) == 8 and {(row["dataset"], row["n"], row["seed"]) for row in perfect} == {("demo", 50, 3)}
    rows = {(row["unit"], row["metric"]): row["value"] for row in metrics.group_scores(cells, lambda y, t, x, t_cf: y, "copy", count=5)}
    for x in (0, 1):
        truth, control = (cells.outcome[cells.rows(x, k)].mean(0) for k in (1, 0))
        assert rows[f"s{x}", "r2_all"] == pytest.approx(metrics.r2(truth, control), rel=1e-5) and rows[f"s{x}", "r2_de"] == pytest.approx(metrics.r2(truth[:5], control[:5]), rel=1e-5)
        assert rows[f"s{x}", "r2_all_classic"] == pytest.approx(metrics.r2(truth, cells.outcome[cells.condition == 0].mean(0)), rel=1e-5)


def test_ceiling():
    """Eq. ceiling: 1 for identical cells; for normal cells of variance 1 around a profile of variance v, about 1 - 4 / (n v), the halves being independent means of n/2 cells; more cells, higher ceiling; the generator alone decides."""
    rng = np.random.default_rng(0)
    profile = rng.normal(size=400) * 0.8
    assert metrics.ceiling(np.tile(profile, (9, 1)), rng, np.arange(5)) == (1.0, 1.0)
    cells = profile + rng.normal(size=(60, 400))
    found = metrics.ceiling(cells, np.random.default_rng(1), np.arange(100))
    assert found[0] == pytest.approx(1 - 4 / (60 * (profile.var() + 2 / 60)), abs=0.02)
    assert metrics.ceiling(cells[:20], rng, np.arange(100))[0] < found[0] and found == metrics.ceiling(cells, np.random.default_rng(1), np.arange(100))
    demo = table({(0, 0): 60, (0, 1): 50, (1, 0): 60, (1, 1): 20})
    rows = metrics.ceiling_scores(demo, np.random.default_rng(1), "E", 2, halvings=20)
    assert [(row["unit"], row["method"], row["metric"], row["n"]) for row in rows] == [("s0", "ceiling", "r2_all", 50), ("s0", "ceiling", "r2_de", 50)]
    assert rows[0]["value"] == metrics.ceiling(demo.outcome[demo.rows(0, 1)], np.random.default_rng(1), np.arange(3), 20)[0]
    with pytest.raises(InputError, match="two or more"):
        metrics.ceiling(cells[:1], rng, np.arange(3))


def test_gap_closed():
    """Eq. gap: 0 at the shift, 1 at the ceiling, half way 1/2, below the shift negative; none where noise leaves no gap (McFaline)."""
    np.testing.assert_allclose(metrics.gap_closed([0.7, 0.9, 0.8, 0.6], 0.7, 0.9), [0, 1, 0.5, -0.5])
    assert np.isnan(metrics.gap_closed(0.8, 0.763, 0.702)) and np.isnan(metrics.gap_closed(0.8, 0.7, 0.7))


def test_the_score_defines_de_genes_from_every_cell_but_the_truth_from_the_rows_named():
    """Spec defect 12: DE genes follow from all cells of group and stratum; the truth is the mean over `within`."""
    cells = table({(0, 0): 60, (0, 1): 100, (1, 0): 10, (1, 1): 10})
    part = cells.rows(0, 1)[:40]
    rows = {row["metric"]: row for row in metrics.group_scores(cells, lambda y, t, x, t_cf: y, "copy", within=part, settings=("matched",))}
    truth, control = cells.outcome[part].mean(0), cells.outcome[cells.rows(0, 0)].mean(0)
    de = metrics.de_genes(cells.outcome[cells.rows(0, 1)], cells.outcome[cells.rows(0, 0)])
    assert rows["r2_all"]["n"] == 40 and rows["r2_de"]["value"] == pytest.approx(metrics.r2(truth[de], control[de]), rel=1e-5) and set(rows) == {"r2_all", "r2_de"}
    other = dataclasses.replace(cells, outcome=cells.outcome.copy())
    other.outcome[cells.rows(0, 1)[40:], 60:] += 50  # cells outside `within` change which genes count, not the truth
    again = {row["metric"]: row["value"] for row in metrics.group_scores(other, lambda y, t, x, t_cf: y, "copy", within=part, settings=("matched",))}
    assert again["r2_all"] == rows["r2_all"]["value"] and again["r2_de"] != rows["r2_de"]["value"]
