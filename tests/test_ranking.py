"""Comparisons over units: ranks, Friedman and Nemenyi from their closed forms, paired differences, blow-ups, win rows."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gencausal.checks import InputError
from gencausal.experiments import ranking

U = 12


def rows_of(table, metric="pehe_normalised", dataset="acic2016", seeds=(0,), higher=False, experiment="iwdd.E0", spread=0.0):
    """Rows of errors {method: [U values]}; seeds scatter by +-spread around them, so that their mean is the value."""
    made = []
    for method, values in table.items():
        for unit, value in enumerate(values):
            for i, seed in enumerate(seeds):
                shift = spread * (2 * i / (len(seeds) - 1) - 1) if len(seeds) > 1 else 0.0
                made.append({"experiment": experiment, "dataset": dataset, "unit": str(unit + 1), "method": method, "metric": metric, "seed": seed, "value": float(value) + shift, "higher_is_better": higher, "n": 10})
    return pd.DataFrame(made)


def ladder():
    """Three methods whose order is the same on every unit, plus an oracle."""
    base = np.linspace(0.2, 0.9, U)
    return {"c": base + 0.3, "a": base, "b": base + 0.1, "oracle_ate": base * 0}


def test_ranking_of_a_fixed_order():
    """Seeds are averaged, oracles left out, the best mean rank stands first, a trimmed mean forgets one blow-up in twelve and the mean does not."""
    table = ladder()
    table["b"] = table["b"].copy()
    table["b"][3] = 50.0
    made = ranking.ranking(rows_of(table, seeds=(0, 1, 2), spread=0.05), "pehe_normalised", "acic2016").set_index("method")
    assert list(made.index) == ["a", "b", "c"]
    assert made.loc["a", ["mean rank", "win rate", "units", "seeds"]].tolist() == [1.0, 1.0, U, 3]
    assert made.loc["b", "mean rank"] == pytest.approx((2 * 11 + 3) / 12)
    assert made.loc["b", "mean"] == pytest.approx(table["b"].mean()) and made.loc["b", "mean"] > 4
    assert made.loc["b", "trimmed mean"] == pytest.approx(np.sort(table["b"])[1:-1].mean()) and made.loc["b", "trimmed mean"] < 1


def test_a_metric_that_is_better_when_higher_turns_the_order():
    """Ranks and wins turn, shown means keep their sign."""
    made = ranking.ranking(rows_of(ladder(), metric="ess", higher=True), "ess", "acic2016", methods=["a", "b", "c"]).set_index("method")
    assert list(made.index) == ["c", "b", "a"] and made.loc["c", "win rate"] == 1
    assert made.loc["c", "mean"] == pytest.approx(ladder()["c"].mean())


def test_only_shared_units_enter():
    """A method run on two units only shortens the table, it does not shift anyone's rank."""
    rows = rows_of(ladder())
    rows = rows[(rows["method"] != "c") | rows["unit"].isin(["2", "5"])]
    made = ranking.ranking(rows, "pehe_normalised", "acic2016")
    assert set(made["units"]) == {2} and made.set_index("method").loc["a", "mean"] == pytest.approx(ladder()["a"][[1, 4]].mean())


def test_nemenyi_matches_published_quantiles():
    """Eq. nemenyi: q_{0.05} / sqrt 2 of Demsar (2006), Table 5, for 2, 5 and 10 methods; two methods give the normal quantile."""
    for k, q in ((2, 1.960), (5, 2.728), (10, 3.164)):
        assert ranking.nemenyi(k, 30) * np.sqrt(6 * 30 / (k * (k + 1))) == pytest.approx(q, abs=1e-3)
    assert ranking.nemenyi(2, 30) * np.sqrt(30) == pytest.approx(stats.norm.ppf(0.975), abs=1e-3)
    assert ranking.nemenyi(5, 120) == pytest.approx(ranking.nemenyi(5, 30) / 2)


def test_friedman_and_groups():
    """Eq. friedman on constant ranks 1, 2, 3: chi2 = U (k - 1); a pair within the critical difference is one bar, a far method none."""
    found = ranking.critical_difference(rows_of(ladder()), "pehe_normalised", "acic2016")
    assert found.statistic == pytest.approx(2 * U) and found.p == pytest.approx(stats.chi2.sf(2 * U, 2)) and found.units == U
    assert found.difference == pytest.approx(ranking.nemenyi(3, U)) and 0 < found.difference < 1
    assert found.groups == []  # neighbours are a whole rank apart
    table = ladder()
    table["b"] = np.where(np.arange(U) % 2, table["a"] - 0.01, table["a"] + 0.01)
    assert ranking.critical_difference(rows_of(table), "pehe_normalised", "acic2016").groups == [["a", "b"]]
    tied = {m: np.ones(U) for m in "abc"}
    same = ranking.critical_difference(rows_of(tied), "pehe_normalised", "acic2016")
    assert same.p == 1 and same.groups == [["a", "b", "c"]] and list(same.ranks) == [2.0] * 3


def test_paired_difference_and_criterion():
    """Better needs both an interval above zero and a gain above 5 %; turned around it is worse; Wilcoxon's exact p of U equal signs is 2 / 2^U."""
    table = ladder()
    table["near"] = table["a"] * 1.02
    rows = rows_of(table, seeds=(0, 1))
    wide = ranking.paired(rows, "pehe_normalised", "acic2016", "a", "c")
    assert wide.better and wide.difference == pytest.approx(0.3) and wide.low == pytest.approx(0.3) and wide.gain == pytest.approx(0.3 / table["c"].mean())
    assert wide.better_on == 1 and (wide.units, wide.seeds) == (U, 2)
    assert not ranking.paired(rows, "pehe_normalised", "acic2016", "c", "a").better
    near = ranking.paired(rows, "pehe_normalised", "acic2016", "a", "near")
    assert near.low > 0 and not near.better and near.p == pytest.approx(2 / 2**U)
    itself = ranking.paired(rows, "pehe_normalised", "acic2016", "a", "a")
    assert itself.p == 1 and itself.difference == 0 and not itself.better
    one = ranking.paired(rows[rows["unit"] == "1"], "pehe_normalised", "acic2016", "a", "c")
    assert np.isnan(one.low) and not one.better and one.units == 1


def test_blow_ups_are_counted_against_no_effect():
    """One unit beyond `zero` is one blow-up, named, and the trimmed share of the mean says how much of it that unit makes."""
    table = {"zero": np.ones(U), "steady": np.full(U, 0.5), "wild": np.full(U, 0.5)}
    table["wild"][7] = 20.0
    found = ranking.blow_ups(rows_of(table), "pehe_normalised", "acic2016", ["steady", "wild"]).set_index("method")
    assert found.loc["steady", ["blow-ups", "worst ratio", "share of the mean trimmed"]].tolist() == [0, 0.5, 0]
    assert found.loc["wild", ["blow-ups", "worst ratio", "worst unit"]].tolist() == [1, 20.0, "8"]
    assert found.loc["wild", "share of the mean trimmed"] == pytest.approx(1 - 0.5 / ((11 * 0.5 + 20) / 12))


def test_win_rows_sum_to_a_hundred_and_repeat_a_deterministic_method():
    """Each unit and seed hands out 100 percent; a method with one seed meets every seed of the others; ties are split."""
    table = {"a": [1.0, 2.0, 3.0], "b": [2.0, 1.0, 3.0]}
    rows = pd.concat([rows_of({"a": table["a"]}, seeds=(0, 1)), rows_of({"b": table["b"]}, seeds=(0,))])
    made = pd.DataFrame(ranking.win_rows(rows, "pehe_normalised", "acic2016", ["a", "b"], "win_percent", "iwdd.E10"))
    assert set(made[made["method"] == "equal_share"]["value"]) == {50.0}
    made = made[made["method"] != "equal_share"]
    assert set(made.groupby(["unit", "seed"])["value"].sum()) == {100.0} and len(made) == 12 and set(made["experiment"]) == {"iwdd.E10"}
    assert made[made["method"] == "a"].groupby("unit")["value"].mean().tolist() == [100.0, 0.0, 50.0]


def test_present_keeps_the_order_asked_for():
    assert ranking.present(rows_of(ladder()), ["c", "slow", "a"], "pehe_normalised", "acic2016") == ["c", "a"]
    assert ranking.present(rows_of(ladder()), ["a"], "pehe_normalised", "ihdp") == []


def test_order_of_rows_does_not_matter():
    rows = rows_of(ladder(), seeds=(0, 1), spread=0.02)
    shuffled = rows.sample(frac=1, random_state=0)
    a, b = (ranking.ranking(r, "pehe_normalised", "acic2016").set_index("method").sort_index() for r in (rows, shuffled))
    pd.testing.assert_frame_equal(a, b)


def test_wrong_rows_get_a_sentence():
    rows = rows_of(ladder())
    for call, words in (
        (lambda: ranking.ranking(rows, "crps", "acic2016"), "rows hold no crps"),
        (lambda: ranking.ranking(rows, "pehe_normalised", "acic2016", methods=["a", "missing"]), "'missing'"),
        (lambda: ranking.critical_difference(rows, "pehe_normalised", "acic2016", methods=["a", "b"]), "three methods"),
        (lambda: ranking.critical_difference(rows, "pehe_normalised", "acic2016", level=95), "level"),
        (lambda: ranking.errors(rows[[(m, u) != ("a", u) or u == "1" for m, u in zip(rows["method"], rows["unit"])]].query("method != 'b' or unit == '2'"), "pehe_normalised", "acic2016"), "no unit"),
    ):
        with pytest.raises(InputError, match=words):
            call()


def test_friedman_against_all_permutations():
    """Three methods on three units: the statistic's distribution over all 6^3 rankings has mean k - 1 = 2, as a chi2 with 2 degrees of freedom."""
    orders = list(itertools.permutations([1.0, 2.0, 3.0]))
    values = [ranking.critical_difference(rows_of(dict(zip("abc", np.array(trial).T))), "pehe_normalised", "acic2016").statistic for trial in itertools.product(orders, repeat=2)]
    assert np.mean(values) == pytest.approx(2.0)
