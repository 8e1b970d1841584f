"""Guards: equation keys, printed verdicts, marks of stale pages; each is broken once to see that it tells."""

import json
import re
import shutil

import made_study
import pandas as pd
import pytest

from gencausal import claims, notebook, paths, provenance, report
from gencausal.claims import guards
from gencausal.report import layout, restored


@pytest.mark.parametrize(("text", "found"), [
    ("(`Eq. some-name`, $x$) and Eq. 7, Someone et al. 2000; Eq. 2n:", {"some-name", "7, Someone et al. 2000", "2n"}),
    ("# the loss of `Eq. 8, Someone\n# et al. 2000` and (`Eq.\n# others`)", {"8, Someone et al. 2000", "others"}),
    ("Eq. Laws, an Eqs. x and Freq. low", set()),
])
def test_keys_of_a_text(text, found):
    assert guards.keys(text) == found


def test_every_equation_of_a_notebook_has_its_code_and_its_test():
    assert guards.equations() == []


def test_a_key_without_code_or_test_is_told(tmp_path, monkeypatch):
    made_study.make_root(tmp_path)
    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    (tmp_path / "notebooks" / "00_overview.py").write_text("# (`Eq. one`, `Eq. two`, `Eq. three`)\n", encoding="utf-8")
    (tmp_path / "src/gencausal/diffusion.py").write_text('"""`Eq. one` and Eq. two."""\n', encoding="utf-8")
    (tmp_path / "tests/test_diffusion.py").write_text('"""Eq. one"""\n', encoding="utf-8")
    assert guards.equations() == ["Notebook 00_overview cites Eq. three, which no file of src and of tests names.", "Notebook 00_overview cites Eq. two, which no file of tests names."]


def test_published_verdicts_are_those_of_the_published_rows_everywhere():
    """The committed claims table, index and README against verdicts judged anew; before the first report there is nothing to hold."""
    assert guards.published(layout.SYSTEMS) == []


def test_published_pages_are_up_to_date_or_say_so():
    """`make stale` marks what an edit has left behind."""
    names = notebook.names()
    for name, record in restored.read_published()["notebooks"].items():
        changed = provenance.stale(record) if name in names else f"notebooks/{name}.py"
        html = (paths.root() / "reports" / f"{name}.html").read_text(encoding="utf-8")
        assert ('class="unfinished outdated"' in html) == bool(changed), f"{name}: {changed or 'up to date'}; run make stale"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guards")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GENCAUSAL_BUILD", raising=False)
        patch.setattr(paths, "root", lambda: made_study.make_root(folder))
        patch.setattr(paths, "root", lambda root=paths.root(): root)
        (folder / "notebooks" / "04_variational_causal_inference.py").unlink()
        made_study.run("full")
        patch.setattr(report, "_git", lambda *arguments: [])
        report.publish("full")
    return folder


@pytest.fixture
def published(made, tmp_path, monkeypatch):
    """A small published study of one's own."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.delenv("GENCAUSAL_BUILD", raising=False)
    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    return tmp_path


def test_publishing_writes_the_verdicts_into_readme(published):
    block = guards.in_readme((published / "README.md").read_text(encoding="utf-8"))
    assert "| Importance-weighted diffusion distillation | 1 | 1 | – | – | 1 | – |" in block.splitlines() and "| Variational causal inference | – | – | – | – | – | 1 |" in block
    assert "- `iwdd.C8`: The naive effect is better than no effect. Ours: " in block and ", published 0.9." in block and "what our runs refute (1)" in block
    drawn = (published / "docs" / "verdicts.svg").read_text(encoding="utf-8")
    assert drawn.count("<rect") == 1 + 4 + 6 and "Importance-weighted diffusion distillation, 3 claims" in drawn
    assert (published / "README.md").read_text(encoding="utf-8").endswith("\n\nThe end.\n") and guards.published(layout.SYSTEMS) == []


def test_a_deleted_row_fails_the_guard(published):
    """Without the teacher's rows iwdd.C5 is `not run`, whatever the table, the index and README print."""
    table = published / "reports" / "results" / "02a_score_distillation.csv.gz"
    rows = pd.read_csv(table)
    rows[rows["method"] != "teacher"].to_csv(table, index=False)
    assert {key: made.verdict for key, (_, made) in guards.judged().items()} == {"iwdd.C4": "reproduced in direction", "iwdd.C5": "not run", "iwdd.C8": "refuted", "vci.C1": "not run"}
    assert guards.published(layout.SYSTEMS) == [
        "Claim iwdd.C5 is not run by the published rows and reproduced in reports/results/claims.csv: publish again.",
        "The verdicts of Importance-weighted diffusion distillation on reports/index.html are not those of the published rows: publish again.",
        "The verdicts in README.md are not those of the published rows: run `gencausal readme`.",
        "The picture docs/verdicts.svg is not that of the published rows: run `gencausal readme`."]


@pytest.mark.parametrize(("file", "old", "new", "told"), [
    ("docs/verdicts.svg", ", 3 claims", ", 4 claims", "docs/verdicts.svg is not that"),
    ("README.md", "| 1 | 1 | – |", "| 2 | 0 | – |", "README.md are not those"),
    ("reports/index.html", "</span> 1 refuted", "</span> 0 refuted", "Importance-weighted diffusion distillation on reports/index.html are not"),
    ("reports/index.html", "<dt>Variational causal inference, ", "<dt>Something else, ", "Something else on reports/index.html are not"),
    ("reports/results/claims.csv", ",refuted,", ",reproduced,", "Claim iwdd.C8 is refuted by the published rows and reproduced"),
    ("claims.yaml", "key: iwdd.C8", "key: iwdd.C9", "Claim iwdd.C8 stands in reports/results/claims.csv and no more in claims.yaml"),
])
def test_a_verdict_that_is_typed_is_seen(published, file, old, new, told):
    text = (published / file).read_text(encoding="utf-8")
    assert old in text
    (published / file).write_text(text.replace(old, new, 1), encoding="utf-8")
    assert any(told in problem for problem in guards.published(layout.SYSTEMS))


def test_a_claim_that_is_new_in_the_ledger_waits_for_its_report(published):
    text = (published / "claims.yaml").read_text(encoding="utf-8")
    (published / "claims.yaml").write_text(text + text[text.index("  - {key: iwdd.C8") :].replace("iwdd.C8", "iwdd.C9").replace("vci.C1", "vci.C2"), encoding="utf-8")
    assert len(claims.ledger()) == 6 and guards.published(layout.SYSTEMS) == []


def test_readme_without_a_place_is_one_sentence(published):
    (published / "README.md").write_text("# A study\n", encoding="utf-8")
    with pytest.raises(ValueError, match="README.md has no place for the verdicts"):
        guards.write_readme(layout.SYSTEMS)
    assert guards.published(layout.SYSTEMS) != []


# --- marks of stale pages

def test_stale_pages_are_marked_and_lose_the_mark(published):
    reports = {file.name: file.read_text(encoding="utf-8") for file in (published / "reports").glob("*.html")}
    assert report.stale() == {} and reports == {file.name: file.read_text(encoding="utf-8") for file in (published / "reports").glob("*.html")}
    source = published / "notebooks" / "01_diffusion_pretraining.py"
    source.write_text(source.read_text(encoding="utf-8") + "\n# more\n", encoding="utf-8")
    (published / "config" / "full.yaml").write_text((published / "config" / "full.yaml").read_text(encoding="utf-8").replace("06_claims: {seeds: [0, 1, 2]}", "06_claims: {seeds: [0]}"), encoding="utf-8")
    changed = {"01_diffusion_pretraining": "notebooks/01_diffusion_pretraining.py", "06_claims": "the parameters of profile full"}
    assert report.stale() == changed and report.stale() == changed
    for file in (published / "reports").glob("*.html"):
        html = file.read_text(encoding="utf-8")
        assert html.count('class="unfinished outdated"') == (file.stem in changed or file.stem == "index"), file.name
        assert re.sub(r'<p class="unfinished outdated">.*</p>\n', "", html) == reports[file.name]
    assert "another state of the parameters of profile full" in (published / "reports" / "06_claims.html").read_text(encoding="utf-8")
    assert restored.digest((published / "reports" / "06_claims.html").read_text(encoding="utf-8")) == json.loads((published / "reports" / "provenance.json").read_text(encoding="utf-8"))["pages"]["06_claims"]
    source.write_text(source.read_text(encoding="utf-8").replace("\n# more\n", ""), encoding="utf-8")
    (published / "config" / "full.yaml").write_text((published / "config" / "full.yaml").read_text(encoding="utf-8").replace("06_claims: {seeds: [0]}", "06_claims: {seeds: [0, 1, 2]}"), encoding="utf-8")
    assert report.stale() == {} and reports == {file.name: file.read_text(encoding="utf-8") for file in (published / "reports").glob("*.html")}


def test_a_report_marks_what_changed_since_its_run(published):
    source = published / "notebooks" / "01_diffusion_pretraining.py"
    source.write_text(source.read_text(encoding="utf-8") + "\n# more\n", encoding="utf-8")
    folder = report.build("full").parent
    assert "another state of notebooks/01_diffusion_pretraining.py" in (folder / "01_diffusion_pretraining.html").read_text(encoding="utf-8")
    assert "Made by another state of the study: 01_diffusion_pretraining." in (folder / "index.html").read_text(encoding="utf-8")
    assert 'class="unfinished outdated"' not in (folder / "06_claims.html").read_text(encoding="utf-8")
