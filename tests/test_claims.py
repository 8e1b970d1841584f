"""The ledger and its verdicts: every rule against a case worked out by hand, and the doors that keep bad rows out."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from gencausal import claims, paths
from gencausal.checks import InputError
from gencausal.claims import bundle, definitions, overall, verdicts

HEAD = "papers: {s: {title: T, source: arXiv 1}}\nclaims:\n"


def make(rules: list[dict], published=None, status="not available") -> claims.Claim:
    """A claim with `rules`, through the reader of the ledger."""
    row = {"key": "s.C1", "system": "s", "statement": "Better.", "source": "Table 1", "published": published, "published_status": status,
           "notebook": "02a_score_distillation", "experiment": "s.E0", "rules": rules}
    return definitions.parse(HEAD + "  - " + json.dumps(row))[0]


DIFFERENCE = {"kind": "difference", "dataset": "d", "metric": "crps", "method": "a", "against": "b"}
RATIO = {"kind": "ratio", "dataset": "d", "metric": "crps", "method": "a", "against": "b", "at_most": 1.05}
VALUE = {"kind": "value", "dataset": "d", "metric": "crps", "method": "a", "tolerance": 0.1}


def rows(values: dict[str, list[list[float]]], metric="crps", dataset="d", experiment="s.E0") -> pd.DataFrame:
    """Rows from `{method: [[value of each seed] of each unit]}`."""
    return claims.tidy([{"experiment": experiment, "dataset": dataset, "unit": u, "method": m, "metric": metric, "seed": s, "value": v, "n": 5}
                        for m, units in values.items() for u, seeds in enumerate(units, 1) for s, v in enumerate(seeds)], "smoke")


def test_difference_by_hand():
    """Unit means of b - a: 0.3, 0.1, 0.2; mean 0.2, mean of b 0.5, so a gain of 40 %."""
    table = rows({"a": [[0.1, 0.3], [0.3, 0.3], [0.4, 0.4]], "b": [[0.5, 0.5], [0.3, 0.5], [0.6, 0.6]], "c": [[0.0, 0.0], [9, 9], [9, 9]]})
    made = claims.verdict(make([DIFFERENCE]), table)
    assert made.verdict == "reproduced in direction" and made.ours == pytest.approx(0.2) and (made.n_units, made.n_seeds) == (3, 2)
    assert made.ci_low == pytest.approx(0.1) and made.ci_high == pytest.approx(0.3), "with three units the 95 % interval reaches the extremes"
    assert made.extras["relative_gain"] == pytest.approx(0.4) and made.extras["win_rate"] == 1 and made.extras["median_difference"] == pytest.approx(0.2)
    assert made.extras["mean_rank"] == pytest.approx((2 + 1 + 1) / 3) and made.extras["wilcoxon_p"] == pytest.approx(0.25)


def test_difference_goes_by_the_direction_of_the_metric():
    table = rows({"a": [[0.9, 0.9], [0.8, 0.8]], "b": [[0.5, 0.5], [0.5, 0.5]]}, metric="r2_de")
    assert claims.verdict(make([DIFFERENCE | {"metric": "r2_de"}]), table).verdict == "reproduced in direction"
    assert claims.verdict(make([DIFFERENCE | {"metric": "r2_de", "method": "b", "against": "a"}]), table).verdict == "refuted"


@pytest.mark.parametrize(("a", "word"), [
    ([[0.4] * 2] * 4, "reproduced in direction"),
    ([[0.49] * 2] * 4, "partial"),
    ([[0.4] * 2, [0.6] * 2, [0.45] * 2, [0.55] * 2], "not shown"),
    ([[0.6] * 2] * 4, "refuted"),
    ([[0.4] * 2], "not shown"),
    ([[0.4]] * 4, "not shown"),
    ([[0.6]] * 4, "not shown"),
])
def test_verdicts_of_a_difference(a, word):
    """In order: better, better by less than 5 %, interval over zero, worse, one unit, one seed, one seed and worse."""
    made = claims.verdict(make([DIFFERENCE]), rows({"a": a, "b": [[0.5] * 2] * 4}))
    assert made.verdict == word and made.note
    if len(a) == 1:
        assert np.isnan(made.ci_low) and "single unit" in made.note
    if len(a[0]) == 1:
        assert "one seed" in made.note


@pytest.mark.parametrize(("a", "rule", "word"), [
    ([[1.0] * 2, [2.0] * 2], RATIO, "reproduced in direction"),
    ([[1.0] * 2, [2.2] * 2], RATIO, "not shown"),
    ([[1.2] * 2, [2.4] * 2], RATIO, "refuted"),
    ([[1.0] * 2, [2.0] * 2], RATIO | {"at_most": None, "at_least": 2}, "refuted"),
    ([[3.0] * 2, [6.0] * 2], RATIO | {"at_most": None, "at_least": 2}, "reproduced in direction"),
    ([[1.0], [2.0]], RATIO, "not shown"),
    ([[1.0] * 2], RATIO, "not shown"),
])
def test_verdicts_of_a_ratio(a, rule, word):
    """Against b = 1, 2: inside the bound, interval across it, outside, ..., one seed, one unit."""
    assert claims.verdict(make([rule]), rows({"a": a, "b": [[1.0] * 2, [2.0] * 2]})).verdict == word


def test_a_ratio_is_reproduced_only_beside_a_published_value():
    """A bound of ours matches no number of a paper, so without a published value the best word is `reproduced in direction`."""
    table = rows({"a": [[1.0] * 2, [2.0] * 2], "b": [[1.0] * 2, [2.0] * 2]})
    assert claims.verdict(make([RATIO], published=1.0, status="verified"), table).verdict == "reproduced"
    assert claims.verdict(make([RATIO]), table).verdict == "reproduced in direction"


@pytest.mark.parametrize(("a", "bounds", "word"), [
    ([[0.9] * 2, [1.0] * 2], {"at_least": 0.9}, "reproduced in direction"),
    ([[0.8] * 2, [1.0] * 2], {"at_least": 0.9}, "not shown"),
    ([[0.8] * 2, [0.7] * 2], {"at_least": 0.9}, "refuted"),
    ([[0.9] * 2, [1.0] * 2], {"at_least": 0.8, "at_most": 0.95}, "not shown"),
    ([[0.9] * 2], {"at_least": 0.9}, "not shown"),
    ([[0.9], [1.0]], {"at_least": 0.9}, "not shown"),
    ([], {"at_least": 0.9}, "not run"),
])
def test_verdicts_of_a_bound(a, bounds, word):
    """Inside, across, outside, across an upper bound, one unit, one seed, no rows."""
    table = rows({"a": a, "b": [[1.0] * 2, [1.0] * 2]})
    assert claims.verdict(make([{"kind": "bound", "dataset": "d", "metric": "crps", "method": "a"} | bounds]), table).verdict == word


def test_designs_drawn_with_the_seed_are_judged_over_seeds():
    """Means over units of b - a by seed: 0.1, 0.3, 0.2. Over units the same rows have another interval."""
    table = rows({"a": [[0.2, 0.0, 0.1], [0.2, 0.2, 0.1]], "b": [[0.3, 0.3, 0.3], [0.3, 0.5, 0.3]]})
    over = claims.verdict(make([DIFFERENCE | {"over": "seed"}]), table)
    assert (over.n_units, over.n_seeds, over.ours) == (3, 3, pytest.approx(0.2)) and (over.ci_low, over.ci_high) == pytest.approx((0.1, 0.3)) and over.verdict == "reproduced in direction"
    assert claims.verdict(make([DIFFERENCE]), table).ci_low == pytest.approx(0.2)
    assert claims.verdict(make([DIFFERENCE | {"over": "seed"}]), rows({"a": [[0.2]], "b": [[0.3]]})).verdict == "not shown"
    ratio = claims.verdict(make([RATIO | {"over": "seed", "at_most": 0.7}]), table)
    assert (ratio.n_units, ratio.n_seeds, ratio.ours) == (3, 3, pytest.approx(0.4)) and ratio.ci_high < 0.7 and ratio.verdict == "reproduced in direction"


def test_one_data_set_is_judged_over_its_seeds():
    """A published number of one data set has no units to resample; its training seeds are."""
    table = rows({"a": [[0.9, 1.1, 1.0]]})
    over = claims.verdict(make([VALUE | {"over": "seed"}], published=1.0, status="verified"), table)
    assert over.verdict == "reproduced" and (over.n_units, over.n_seeds) == (3, 3) and (over.ci_low, over.ci_high) == pytest.approx((0.9, 1.1), abs=0.05)
    assert claims.verdict(make([VALUE], published=1.0, status="verified"), table).verdict == "not shown", "one unit"
    bound = {"kind": "bound", "dataset": "d", "metric": "crps", "method": "a", "over": "seed"}
    assert claims.verdict(make([bound | {"at_most": 1.2}]), table).verdict == "reproduced in direction"
    assert claims.verdict(make([bound | {"at_most": 0.5}]), table).verdict == "refuted"
    assert claims.verdict(make([bound | {"at_most": 1.2}]), rows({"a": [[1.0]]})).verdict == "not shown"
    with pytest.raises(InputError, match="use unit or seed"):
        make([bound | {"at_most": 1, "over": "row"}])


def test_a_rule_of_bounds_needs_one():
    with pytest.raises(InputError, match="'bound' needs at_most or at_least"):
        make([{"kind": "bound", "dataset": "d", "metric": "crps", "method": "a"}])


def test_ratio_is_a_ratio_of_means():
    made = claims.verdict(make([RATIO]), rows({"a": [[1.0] * 2, [3.0] * 2], "b": [[1.0] * 2, [2.0] * 2]}))
    assert made.ours == pytest.approx(4 / 3) and (made.ci_low, made.ci_high) == pytest.approx((1.0, 1.5)), "the mean of ratios would be 1.25"
    zero = claims.verdict(make([RATIO]), rows({"a": [[1.0] * 2] * 2, "b": [[0.0] * 2] * 2}))
    assert zero.verdict == "not shown" and np.isnan(zero.ours)


def test_a_ratio_of_two_data_sets_pairs_nothing():
    """Means 3 and 2 of units that have nothing to do with one another: 1.5, an interval wider than that of the pairs, whatever the order of the units; without one side `not run`."""
    other = rows({"a": [[1.0] * 2, [3.0] * 2, [2.0] * 2]}, dataset="e")
    table = pd.concat([rows({"a": [[2.0] * 2, [4.0] * 2, [3.0] * 2]}), other], ignore_index=True)
    rule = RATIO | {"against": "a", "against_dataset": "e", "at_most": 4.5}
    made = claims.verdict(make([rule]), table)
    assert made.ours == pytest.approx(1.5) and made.verdict == "reproduced in direction" and (made.n_units, made.n_seeds) == (3, 2)
    assert made.ci_low < 1 and made.ci_high > 2, "the smallest against the largest mean is among the resampled"
    assert claims.verdict(make([rule | {"at_most": 1.4}]), table).verdict == "not shown"
    assert claims.verdict(make([rule | {"at_most": 0.5}]), table).verdict == "refuted"
    assert claims.verdict(make([rule | {"against_dataset": "f"}]), table).verdict == "not run" and claims.verdict(make([rule]), other).verdict == "not run"
    one = pd.concat([rows({"a": [[2.0]]}), other], ignore_index=True)
    assert claims.verdict(make([rule]), one).verdict == "not shown"


@pytest.mark.parametrize(("a", "word"), [
    ([[0.95] * 2, [1.0] * 2], "reproduced"), ([[1.5] * 2, [0.75] * 2], "not shown"), ([[1.4] * 2, [1.5] * 2], "refuted"), ([[1.0], [1.0]], "not shown"), ([[1.0] * 2], "not shown"),
])
def test_verdicts_of_a_value(a, word):
    assert claims.verdict(make([VALUE], published=1.0, status="verified"), rows({"a": a})).verdict == word


def test_no_rows_is_not_run():
    empty = rows({"a": [[1.0]]}).iloc[:0]
    for rule in (DIFFERENCE, RATIO):
        assert claims.verdict(make([rule]), empty).verdict == "not run"
        assert claims.verdict(make([rule]), rows({"a": [[1.0] * 2] * 2})).verdict == "not run", "the other method is missing"
        assert claims.verdict(make([rule]), rows({"a": [[1.0] * 2] * 2, "b": [[1.0] * 2] * 2}, experiment="s.E1")).verdict == "not run"
    assert claims.verdict(make([VALUE], 1.0, "verified"), empty).verdict == "not run"
    made = claims.verdict(make([{"kind": "not_run", "reason": "planned"}]), rows({"a": [[1.0] * 2] * 2}))
    assert made.verdict == "not run" and made.note == "planned"


def test_unpaired_units_are_left_out_and_named():
    made = claims.verdict(make([DIFFERENCE]), rows({"a": [[0.4] * 2] * 3, "b": [[0.5] * 2] * 5}))
    assert made.n_units == 3 and "2 of 5 units" in made.note


def test_several_rules_are_judged_together():
    """Only what holds throughout is green."""
    words = ("reproduced", "reproduced in direction", "partial", "not shown", "refuted", "not run")
    assert verdicts.combine(["reproduced", "reproduced"]) == "reproduced"
    assert verdicts.combine(["reproduced", "reproduced in direction"]) == "reproduced in direction"
    assert verdicts.combine(["reproduced", "not shown"]) == "partial"
    assert verdicts.combine(["not shown", "not shown"]) == "not shown"
    for word in words:
        assert verdicts.combine(["refuted", word]) in ("refuted", "not run")
        assert verdicts.combine([word, "not run"]) == "not run"
    made = claims.verdict(make([DIFFERENCE, RATIO]), rows({"a": [[0.4] * 2] * 3, "b": [[0.5] * 2] * 3}))
    assert made.verdict == "reproduced in direction" and [p.verdict for p in made.parts] == ["reproduced in direction"] * 2 and made.ours == pytest.approx(0.1)


def test_bootstrap_covers_and_repeats():
    """95 % intervals of the mean of 30 Gaussian units hold the true mean about 95 times in 100; the same data give the same interval."""
    rng = np.random.default_rng(1)
    samples = rng.normal(size=(200, 30, 1))
    intervals = [verdicts.bootstrap(sample) for sample in samples]
    covered = np.mean([low <= 0 <= high for low, high in intervals])
    assert 0.88 <= covered <= 0.98 and intervals[0] == verdicts.bootstrap(samples[0])
    assert verdicts.bootstrap(np.full((5, 1), 2.0)) == (2.0, 2.0)


GOOD = {"experiment": "s.E0", "dataset": "d", "unit": 1, "method": "a", "metric": "crps", "seed": 0, "value": 0.5, "n": 10}


@pytest.mark.parametrize(("change", "words"), [
    ({"value": float("nan")}, "NaN"), ({"value": float("inf")}, "value is inf"), ({"metric": "crsp"}, "metric 'crsp' is unknown"), ({"extra": 1}, "unknown column 'extra'"),
    ({"n": 0}, "n is below 1"), ({"seed": 0.5}, "whole numbers"), ({"value": "good"}, "must be a number"), ({"higher_is_better": True}, "contradicts"), ({"method": None}, "'method' is missing"),
])
def test_bad_rows_are_refused(change, words):
    with pytest.raises(InputError, match=words):
        claims.tidy([GOOD, GOOD | {"unit": 2} | change], "smoke")
    assert len(claims.tidy([GOOD, GOOD | {"unit": 2}], "smoke")) == 2


def test_missing_columns_and_duplicates_are_refused():
    with pytest.raises(InputError, match="column 'n' is missing"):
        claims.tidy([{k: v for k, v in GOOD.items() if k != "n"}], "smoke")
    with pytest.raises(InputError, match="recorded twice"):
        claims.tidy([GOOD, GOOD | {"value": 0.6}], "smoke")
    results = claims.open_results("02b_treatment_effects", "smoke")
    results.record([GOOD])
    with pytest.raises(InputError, match="recorded twice"):
        results.record([GOOD | {"unit": "1"}])


def test_rows_are_written_whole_and_read_back(tmp_path, monkeypatch):
    monkeypatch.setenv("GENCAUSAL_BUILD", str(tmp_path))
    monkeypatch.delenv("GENCAUSAL_RESULTS", raising=False)
    monkeypatch.delenv("GENCAUSAL_RUN_ID", raising=False)
    results = claims.open_results("02b_treatment_effects", "smoke")
    results.record([GOOD | {"unit": unit, "value": 1 / 3} for unit in (10, 2, 1)])
    assert not list(tmp_path.rglob("*.csv")), "in memory until save"
    results.save()
    path = tmp_path / "smoke" / "results" / "02b_treatment_effects.csv"
    assert path.read_text().splitlines()[0] == "experiment,dataset,unit,method,metric,seed,value,higher_is_better,n,profile,run_id"
    back = claims.read("smoke")
    assert list(back["unit"]) == ["1", "2", "10"] and (back["value"] == 1 / 3).all() and set(back["run_id"]) == {"interactive"} and not back["higher_is_better"].any()
    pd.testing.assert_frame_equal(back, results.rows)
    claims.record([GOOD], notebook="01_diffusion_pretraining", profile="smoke")
    with pytest.raises(InputError, match="Two notebooks"):
        claims.read("smoke")
    assert claims.read("laptop").empty and list(claims.read("laptop").columns) == claims.COLUMNS


def test_staged_rows_carry_the_run_id(tmp_path, monkeypatch):
    monkeypatch.setenv("GENCAUSAL_BUILD", str(tmp_path / "build"))
    monkeypatch.setenv("GENCAUSAL_RESULTS", str(tmp_path / "staged"))
    monkeypatch.setenv("GENCAUSAL_RUN_ID", "abc")
    path = claims.record([GOOD], notebook="x", profile="smoke")
    assert path == tmp_path / "staged" / "x.csv" and path.read_text().strip().endswith("smoke,abc") and claims.read("smoke").empty


def test_claim_is_displayed_as_a_bundle(monkeypatch):
    shown = []
    monkeypatch.setattr("gencausal.claims.rows.display", lambda data, raw: shown.append(data))
    results = claims.open_results("02b_treatment_effects", "smoke")
    results.record([GOOD | {"experiment": "iwdd.E0", "dataset": "acic2016", "metric": "pehe_normalised", "method": m, "unit": u, "seed": s, "value": v}
                    for m, v in (("iwdd", 0.1612345678), ("hgb_t", 0.17), ("teacher", 0.3)) for u in range(3) for s in range(2)])
    results.claim("iwdd.E0.teacher")
    (data,) = shown
    own = data[claims.MIME]
    assert own["claim"] == "iwdd.E0.teacher" and own["verdict"] == "reproduced in direction" and own["ours"] == 0.1388 and json.loads(json.dumps(own)) == own
    assert "▲ reproduced in direction" in data["text/html"] and "iwdd.E0.teacher" in data["text/plain"]
    with pytest.raises(InputError, match="did you mean 'iwdd.C4'"):
        results.claim("iwdd.C44")
    with pytest.raises(InputError, match="belongs to notebook"):
        claims.open_results("01_diffusion_pretraining", "smoke").claim("iwdd.C4")


def test_displayed_text_is_escaped():
    claim = make([{"kind": "not_run", "reason": "<script>"}])
    assert "<script>" not in bundle.make(claim, claims.verdict(claim, rows({"a": [[1.0]]})), "smoke")["text/html"]


@pytest.mark.parametrize(("row", "words"), [
    ({"publishd": 1}, "unknown field 'publishd'"), ({"published_status": "sure"}, "published_status is 'sure'"), ({"system": "t"}, "no entry under papers"),
    ({"published": "0.3"}, "give a number"), ({"published": 0.3}, "beside 'not available'"), ({"rules": []}, "no rule"), ({"rules": [{"kind": "vote"}]}, "'vote' is unknown"),
    ({"rules": [DIFFERENCE | {"gian": 1}]}, "wrong fields"), ({"rules": [{k: v for k, v in RATIO.items() if k != "at_most"}]}, "at_most or at_least"), ({"rules": [VALUE]}, "published number"),
])
def test_a_wrong_ledger_row_is_refused(row, words):
    good = {"key": "s.C1", "system": "s", "statement": "x", "source": "y", "published": None, "published_status": "not available", "notebook": "n", "experiment": "s.E0", "rules": [DIFFERENCE]}
    assert definitions.parse(HEAD + "  - " + json.dumps(good))
    with pytest.raises(InputError, match=words):
        definitions.parse(HEAD + "  - " + json.dumps(good | row))
    with pytest.raises(InputError, match="twice"):
        definitions.parse(HEAD + "  - " + json.dumps(good) + "\n  - " + json.dumps(good))


def test_ledger_lists_what_the_specification_lists():
    found = {claim.key: claim for claim in claims.ledger()}
    assert {f"iwdd.C{i}" for i in range(1, 8)} <= set(found)
    figure = {key: claim.published for key, claim in found.items() if key.startswith("iwdd.fig3.") and claim.published is not None}
    assert len(figure) == 12 and figure["iwdd.fig3.iwdd.out.y1"] == 2.76 and figure["iwdd.fig3.dmd.in.y0"] == 1.09
    assert all(found[key].published_status == "second-hand" for key in figure)
    assert found["iwdd.released.iwdd.out.pehe"].published == 1.43135 and found["iwdd.diffpo.acic2018.out"].published == 36.86
    assert {f"iwdd.C{i}" for i in range(1, 8)} <= {key for key, claim in found.items() if claim.runs}
    assert {"A2.C9", "A2.C29b", "A2.C6b", "A2.C21a", "A2.C31a", "A2.C20c", "A2.C3d"} <= set(found), "the reading list's sections of notebooks 01 and 02"
    assert not [key for key, claim in found.items() if not claim.runs and claim.reason.startswith("planned")]


def test_every_metric_of_a_rule_is_known():
    for claim in claims.ledger():
        for rule in claim.rules:
            assert not hasattr(rule, "metric") or rule.metric in claims.METRICS


def test_ledger_and_notebooks_agree():
    """Skips for a notebook that is not there; every other disagreement fails."""
    missing = [c.notebook for c in claims.ledger() if c.runs and not (paths.root() / "notebooks" / f"{c.notebook}.py").is_file()]
    if missing:
        pytest.skip(f"notebook {missing[0]} is not written yet")
    assert claims.check() == []


def test_check_finds_disagreement_both_ways(monkeypatch):
    rules = {"iwdd.C4": [DIFFERENCE], "iwdd.C5": [RATIO], "iwdd.C1": [{"kind": "not_run", "reason": "no data"}]}
    monkeypatch.setattr(overall, "ledger", lambda: [replace(make(found), key=key) for key, found in rules.items()])
    own = "02a_score_distillation"
    key = (own, "iwdd.C4"), (own, "iwdd.C5")
    good = {k: "cell" for k in key}
    for cells, words in [(good, None), ({key[0]: "c"}, "iwdd.C5 has no cell"), (good | {(own, "iwdd.C99"): "c"}, "claims.yaml lacks"),
                         (good | {(own, "iwdd.C1"): "c"}, "marks as not run"), (good | {("01_x", "iwdd.C4"): "c"}, "gives to 02")]:
        monkeypatch.setattr(overall, "_cells", lambda cells=cells: cells)
        problems = claims.check()
        assert (problems == []) if words is None else len(problems) == 1 and words in problems[0]


def test_evaluate_writes_the_columns_of_the_design(tmp_path, monkeypatch):
    monkeypatch.setenv("GENCAUSAL_BUILD", str(tmp_path))
    monkeypatch.delenv("GENCAUSAL_RESULTS", raising=False)
    made = claims.evaluate("smoke")
    assert list(made.columns) == "claim system statement source published published_status ours ci_low ci_high n_units n_seeds verdict profile notebook cell".split()
    assert set(made["verdict"]) == {"not run"}, "without rows nothing was run"
    back = claims.read_claims("smoke")
    assert list(back["claim"]) == [c.key for c in claims.ledger()] and back["published"].isna().sum() == sum(c.published is None for c in claims.ledger())
    assert set(claims.parts("smoke")["verdict"]) == {"not run"}


@pytest.mark.parametrize(("ours", "here", "published", "status", "words"), [
    (0.10, "not shown", "reproduced in direction", 0, "inside the published interval [0.08, 0.12]"),
    (0.20, "not shown", "reproduced in direction", 0, "outside the published interval"),
    (-0.2, "refuted", "reproduced in direction", 1, "is refuted by this run"),
    (-0.2, "refuted", "not shown", 0, "outside the published interval"),
    (0.20, "refuted", "reproduced", 0, "was reproduced and is refuted by this run"),
])
def test_compare_prints_differences_and_fails_on_refutation(tmp_path, monkeypatch, ours, here, published, status, words):
    root = tmp_path / "root"
    base = {column: "" for column in overall.CLAIM_COLUMNS} | {"claim": "iwdd.C4", "ci_low": 0.08, "ci_high": 0.12, "published": np.nan}
    for folder, row in ((tmp_path / "build" / "laptop", base | {"ours": ours, "verdict": here, "profile": "laptop"}), (root / "reports", base | {"ours": 0.1, "verdict": published, "profile": "full"})):
        (folder / "results").mkdir(parents=True)
        pd.DataFrame([row]).to_csv(folder / "results" / "claims.csv", index=False)
    monkeypatch.setenv("GENCAUSAL_BUILD", str(tmp_path / "build"))
    monkeypatch.setattr(paths, "root", lambda: root)
    text, code = claims.compare("laptop")
    assert code == status and words in text and f"Verdicts (laptop): 1 {here}" in text
    pd.DataFrame([base | {"ours": 0.1, "verdict": published, "profile": "laptop"}]).to_csv(root / "reports" / "results" / "claims.csv", index=False)
    assert claims.compare("laptop")[1] == (here == "refuted" and published in claims.GREEN), "at the published profile every refutation fails"
    (root / "reports" / "results" / "claims.csv").unlink()
    assert claims.compare("laptop")[1] == 0 and "no published ledger" in claims.compare("laptop")[0]
    assert claims.compare("full")[1] == 1
