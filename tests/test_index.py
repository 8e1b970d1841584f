"""The index beyond its counts: summaries without typed results, questions and their answers, forest, filter, and what a rerun differs in."""

import base64
import hashlib
import re

import made_study
import pytest
from bs4 import BeautifulSoup

from gencausal import claims, notebook, paths, report
from gencausal.checks import InputError
from gencausal.report import overview, summary

CLAIM = {"claim": "iwdd.C5", "system": "iwdd", "ours": 0.94, "ci_low": 0.9, "ci_high": 1.0, "published": 1.0, "published_status": "second-hand", "verdict": "reproduced"}
TEXTS = {"scope": "All of <it>.", "easy": "It is {iwdd.C5} times, {iwdd.C5:verdict} ({iwdd.C5:published}).", "difficult": "{iwdd.C4:published}", "deviations": "None.", "open": "{vci.C1}"}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.delenv("GENCAUSAL_BUILD", raising=False)
    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    made_study.make_root(tmp_path)
    made_study.run("smoke")
    lines = "\n".join(f'    {part}: "{text}"' for part, text in TEXTS.items())
    (tmp_path / "summaries.yaml").write_text(f'systems:\n  iwdd:\n{lines}\n  condfip:\n{lines}\nquestions:\n  - {{experiment: iwdd.E0, asked: R1, question: "Why?"}}\n  - {{experiment: condfip.E1, asked: R1, question: "Who?"}}\n', encoding="utf-8")
    cells = made_study.notebooks("smoke")["02a_score_distillation"]
    made_study.write_notebook("02a_score_distillation", "smoke", [*cells, made_study.text("why", "## Is it so: `iwdd.E0`\n\nYes.")])
    return tmp_path


def index(profile="smoke"):
    return BeautifulSoup(report.build(profile).read_text(encoding="utf-8"), "html.parser")


def test_summaries_take_their_numbers_from_the_claims(root):
    made = index().find("details", class_="summary")
    assert [term.get_text() for term in made("dt")] == list(summary.FORM.values())
    texts = [text.get_text() for text in made("dd")]
    assert texts[0] == "All of <it>." and texts[1] == "It is 0.941 [0.941, 0.941] times, reproduced (1)." and texts[2] == "not available" and texts[4] == "not run"
    assert made.find("a")["href"] == "#claim-iwdd.C5" and "Conditional" not in index().find("dl", class_="tally").get_text()


@pytest.mark.parametrize("text", ["{iwdd.C77}", "{iwdd.C5:colour}"])
def test_a_blank_that_nothing_fills_is_an_error(text):
    with pytest.raises(InputError, match="is no claim of the ledger"):
        summary.fill(text, {"iwdd.C5": CLAIM})


def test_another_form_of_summary_is_an_error(root):
    (root / "summaries.yaml").write_text("systems: {iwdd: {scope: a}}\n", encoding="utf-8")
    with pytest.raises(InputError, match="summaries.yaml, iwdd: the entries are scope; write scope, easy"):
        summary.read()


def test_the_studys_own_summaries_fill_and_type_no_result():
    """Every blank is a claim of the ledger; what is left holds no number but names, levels and labels."""
    ledger = {claim.key: CLAIM | {"claim": claim.key} for claim in claims.ledger()}
    made = summary.read()
    assert made["systems"] and made["questions"]
    for system, texts in made["systems"].items():
        for text in texts.values():
            assert summary.fill(text, ledger)
            left = re.sub(r"\{[^}]*\}|ACIC 201[68]|Figure 3|Y\(0\)|90 %", "", text)
            assert not re.search(r"\d", left), (system, re.search(r".{0,30}\d.{0,30}", left)[0])
    experiments = {claim.experiment.partition(".")[0] for claim in claims.ledger()}
    headings = "\n".join(line for name in notebook.names() for line in notebook.source_path(name).read_text(encoding="utf-8").splitlines() if line.startswith("# ##"))
    for question in made["questions"]:
        assert question["experiment"].partition(".")[0] in experiments and f"`{question['experiment']}`" in headings, question


def test_questions_lead_to_their_section_and_claims(root):
    made = index()
    (item,) = made.find("ol", class_="questions")("li")
    links = [(link["href"], link.get_text()) for link in item("a")]
    assert links[0] == ("02a_score_distillation.html#is-it-so-iwdd-e0", "Is it so") and links[1:] == [(f"#claim-{key}", key) for key in ("iwdd.C4", "iwdd.C5", "iwdd.C8")]
    assert "Why?" in item.get_text() and "reproduced in direction" in item.get_text() and "Who?" not in made.get_text()


def test_the_forest_is_ours_over_the_published_value():
    """Published 2, ours 1 [0.5, 5]: 0.5, 0.25 and 2.5 on an axis that ends at the largest, the mark at one."""
    rows = overview.against_published([CLAIM | {"published": 2.0, "ours": 1.0, "ci_low": 0.5, "ci_high": 5.0}, CLAIM | {"published": None}, CLAIM | {"ours": None}, CLAIM | {"published": 0.0}], width=108)
    assert len(rows) == 1 and rows[0]["bar"] == [14, 24, 104, 44] and overview.ratio(rows[0]) == 0.5
    (alone,) = overview.against_published([CLAIM | {"ci_low": None, "ci_high": None, "ours": 0.5}], width=108)
    assert alone["bar"] == [29, 29, 29, 54], "without an interval there is a point on an axis from 0 to 2"
    (below,) = overview.against_published([CLAIM | {"published": -1.0, "ours": -1.0, "ci_low": -1.5, "ci_high": -0.5}], width=108)
    assert below["bar"] == [29, 54, 79, 54], "a negative published value turns the ends"


def test_the_script_is_the_one_that_the_page_allows(root):
    made = index()
    script = made.script.string
    policy = made.find("meta", attrs={"http-equiv": True})["content"]
    assert f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy and "default-src 'none'" in policy
    page = BeautifulSoup((paths.build("smoke") / "reports" / "02a_score_distillation.html").read_text(encoding="utf-8"), "html.parser")
    assert not page.script and "script-src" not in page.find("meta", attrs={"http-equiv": True})["content"]
    row = made.find(id="claim-iwdd.C5")
    assert (row["data-claim"], row["data-verdict"], row["data-rank"], row["data-system"]) == ("iwdd.C5", "reproduced", "0", "Importance-weighted diffusion distillation") and 0.9 < float(row["data-ratio"]) < 1
    assert made.find(id="claim-iwdd.C4")["data-ratio"] == ""


def test_what_differs_between_two_runs_is_listed():
    there = {"a": {"profile": "full", "python": "3.11.7", "torch": "2.13.0", "versions": {"numpy": "2.4.0", "scipy": "1"}, "parameters": {"profile": "full", "steps": 10, "seeds": [0, 1]}, "lock_sha256": "ab" * 32}, "only": {"profile": "x"}}
    here = {"a": {"profile": "laptop", "python": "3.11.7", "torch": "2.13.0", "versions": {"numpy": "2.3.0", "scipy": "1"}, "parameters": {"profile": "laptop", "steps": 5, "seeds": [0, 1], "more": 1}, "lock_sha256": "cd" * 32}}
    assert [(row["what"], row["published"], row["here"]) for row in overview.differences(here, there)] == [
        ("Profile", "full", "laptop"), ("Lock, sha256", "abababababab", "cdcdcdcdcdcd"), ("Package numpy", "2.4.0", "2.3.0"), ("a, steps", "10", "5"), ("a, more", "–", "1")]
    assert overview.differences(here, here) == [] and overview.differences(here, {}) == []
