"""The reports without a browser: what stands on the pages, what cannot get onto them, when publishing refuses."""

import base64
import gzip
import hashlib
import io
import json
import re
import shutil
import subprocess

import made_study
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from gencausal import claims, paths, provenance, report
from gencausal.report import clean, drawing, figures, layout, maths, overview, pages, restored, site

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)"><a href="javascript:alert(3)">x</a><style>*{display:none}</style>'


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty study that is the root; its build/ lies within."""
    monkeypatch.delenv("GENCAUSAL_BUILD", raising=False)
    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    return made_study.make_root(tmp_path)


def made_once(folder, profile):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GENCAUSAL_BUILD", raising=False)
        patch.setattr(paths, "root", lambda: folder)
        made_study.make_root(folder)
        if profile == "full":
            (folder / "notebooks" / "04_variational_causal_inference.py").unlink()
            for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "-qm", "Start"]):
                subprocess.run(["git", *command], cwd=folder, check=True)
        made_study.run(profile)
        report.build(profile)
    return folder


@pytest.fixture(scope="module")
def smoke_study(tmp_path_factory):
    return made_once(tmp_path_factory.mktemp("smoke"), "smoke")


@pytest.fixture(scope="module")
def full_study(tmp_path_factory):
    return made_once(tmp_path_factory.mktemp("full"), "full")


@pytest.fixture
def shown(smoke_study, monkeypatch):
    """The folder of a smoke report that all tests share: read, never changed."""
    monkeypatch.delenv("GENCAUSAL_BUILD", raising=False)
    monkeypatch.setattr(paths, "root", lambda: smoke_study)
    return paths.build("smoke") / "reports"


@pytest.fixture
def built(smoke_study, root):
    """The folder of a smoke report of one's own."""
    shutil.copytree(smoke_study, root, dirs_exist_ok=True)
    return paths.build("smoke") / "reports"


def soup(path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def page(*cells):
    notebook = made_study.new_notebook(cells=list(cells))
    return pages.ReportExporter().page(notebook, "00_overview")


# --- formulas

def test_formulas_become_mathml_in_one_call_and_in_order(monkeypatch):
    calls = []
    real = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: calls.append(a) or real(*a, **k))
    one, two, three = maths.mathml([("x_t", False), (r"\begin{align} a &= b \\ c &= d \end{align}", True), ("a < b", False)])
    assert len(calls) == 1
    assert "<msub><mi>x</mi><mi>t</mi></msub>" in one and 'display="inline"' in one
    assert two.count("<mtr>") == 2 and 'display="block"' in two
    assert "&lt;" in three and "annotation" not in one + two + three
    assert maths.mathml([]) == []


def test_a_formula_that_cannot_be_read_is_an_error_that_names_it(root):
    with pytest.raises(ValueError, match=r"nosuchcommand"):
        maths.mathml([("x", False), (r"\nosuchcommand x", False)])
    with pytest.raises(ValueError, match=r"notebook 00_overview: .*nosuchcommand"):
        page(made_study.text("a", r"see $\nosuchcommand x$"))


def test_no_tex_is_left_on_a_page(shown):
    main = soup(shown / "01_diffusion_pretraining.html").main
    assert len(main.find_all("math")) == 6
    for block in main(["pre", "code"]):
        block.decompose()
    assert not re.search(r"\$|\\\(|\\begin|\\frac", main.get_text())


# --- what data cannot do

def test_hostile_data_stays_text(root):
    row = pd.DataFrame({"name": [HOSTILE], "value": [1.0]})
    bundle = {claims.MIME: {"claim": f"iwdd.C4{HOSTILE}", "verdict": HOSTILE, "ours": HOSTILE, "note": HOSTILE, "published": HOSTILE}, "text/plain": "x"}
    cells = [
        made_study.text("title", f"# Title {HOSTILE}\n\nText {HOSTILE} and [link](javascript:alert(4)) and ![out](http://example.org/x.png)"),
        made_study.code("a", "1", [made_study.printed(HOSTILE), made_study.printed(HOSTILE, "stderr"), made_study.html(row.to_html(escape=False)), made_study.html(HOSTILE)]),
        made_study.code("b", "1", [made_study.figure(alt=HOSTILE, caption=HOSTILE), made_study.new_output("display_data", bundle), made_study.new_output("display_data", {"text/markdown": HOSTILE})]),
        made_study.code("c", HOSTILE, [made_study.new_output("error", ename="E", evalue=HOSTILE, traceback=[HOSTILE])], status="failed"),
        made_study.code("d", "1", [made_study.new_output("display_data", {"application/javascript": "alert(5)", "text/plain": HOSTILE}), made_study.new_output("display_data", {"text/html": '<table class="claim badge"><tr><td id="content" onclick="x()" style="background:url(http://e.org)">1</td></tr></table>'})]),
    ]
    made_study.write_notebook("00_overview", "smoke", cells)
    html = (report.build("smoke").parent / "00_overview.html").read_text(encoding="utf-8")
    made = BeautifulSoup(html, "html.parser")
    assert not made(["script", "iframe", "object", "form"]) and len(made("style")) == 1
    for element in made(True):
        assert not [name for name in element.attrs if name.startswith("on")], element
        assert not re.match(r"\s*(javascript|data:text)", element.get("href", "") or element.get("src", "") or "", re.I), element
        assert element.name != "img" or element["src"].startswith("data:image/"), element
    assert len(made("img")) == 1 and made.img["alt"] == HOSTILE and made.figcaption.get_text() == HOSTILE
    assert HOSTILE in made.find("pre", class_="printed").get_text()
    assert html.count("alert(1)") >= 8, "data must be shown as text, not swallowed"
    assert "url(http" not in html and len(made(id="content")) == 1
    table = made.find_all("table")[-1]
    assert not table.get("class"), "data must not borrow the look of a verdict"


def test_private_characters_of_the_data_fetch_no_formula(root):
    made = page(made_study.text("a", "one $x_1$ and \ue0000\ue001"))
    assert made.body.count("<math") == 1 and "\ue000" not in made.body


def test_scripts_and_styles_go_with_their_content():
    assert clean.html("a<script>alert(1)</script>b<style>td {color: red}</style>c<svg><title>x</title></svg>") == "abc"


def test_harmless_html_survives():
    kept = '<table class="dataframe"><tbody><tr><td style="text-align: right;">1</td></tr></tbody></table><a href="https://example.org/a?b=1">web</a>'
    made = BeautifulSoup(clean.html(kept), "html.parser")
    assert made.td and "text-align: right" in made.td["style"] and made.a["href"] == "https://example.org/a?b=1" and made.table["class"] == ["dataframe"]


def test_paths_of_this_and_other_machines_are_replaced(root, monkeypatch):
    monkeypatch.setenv("GENCAUSAL_DATA", "/mnt/big/data")
    given = f"{root}/src/x.py /{'home'}/ann/p.py C:\\Users\\ann\\p.py /Users/ann/p /mnt/big/data/acic.csv /{'tmp'}/ipykernel_12/345.py /opt/py/lib/site-packages/torch/nn.py"
    made = clean.text(given)
    assert "ann" not in made and str(root) not in made and "/mnt" not in made and "/opt" not in made and "345" not in made
    assert "./src/x.py" in made and "data/acic.csv" in made and "site-packages/torch/nn.py" in made
    assert clean.text("a root node, homework /homeless/x") == "a root node, homework /homeless/x"


def test_no_page_holds_an_absolute_path(shown):
    for file in shown.rglob("*"):
        if file.is_file():
            content = re.sub(r"base64,[A-Za-z0-9+/=]+", "", (gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()).decode())
            assert not re.search(r"(?<![\w.~])/(home|Users|root|tmp|work|opt|usr|var|mnt)/", content), file.name
            assert str(paths.root()) not in content


# --- figures

def test_quantised_figures_keep_size_and_look():
    content = base64.b64decode(made_study.figure().data["image/png"])
    small = figures.quantise(content)
    before, after = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=float) for data in (content, small))
    assert len(small) < 0.6 * len(content) and before.shape == after.shape
    assert np.abs(before - after).mean() < 1.5
    assert np.abs(before - before.mean()).mean() > 10, "a blank figure would pass for any other"


def test_transparent_figures_get_a_white_ground():
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 4), dtype=np.uint8) * np.array([1, 1, 1, 0], dtype=np.uint8)).save(file, "PNG")
    assert np.asarray(Image.open(io.BytesIO(figures.quantise(file.getvalue()))).convert("RGB")).min() == 255


def test_alt_text_comes_from_the_metadata_and_its_lack_is_told(root, capsys):
    made_study.write_notebook("00_overview", "smoke", [made_study.code("a", "1", [made_study.figure("A line that falls")]), made_study.code("bare", "1", [made_study.figure(None)])])
    folder = report.build("smoke").parent
    first, second = soup(folder / "00_overview.html")("img")
    assert first["alt"] == "A line that falls" and second["alt"] == figures.UNDESCRIBED and first["width"] == "700"
    assert "00_overview" in capsys.readouterr().err
    assert site.read("smoke").pages["00_overview"].undescribed == ["bare"]


# --- pages

def test_every_cell_has_its_anchor_and_every_heading_a_unique_one(shown):
    made = soup(shown / "01_diffusion_pretraining.html")
    ids = [element["id"] for element in made(id=True)]
    assert len(ids) == len(set(ids))
    assert {"cell-id=title", "cell-id=train", "cell-id=plot", "the-model", "what-holds", "what-does-not"} <= set(ids)
    assert [len(made("h1")), made.h1.get_text()] == [1, "Diffusion pretraining: does the denoiser reach its closed form?"]
    assert [link["href"] for link in made.find("details", class_="contents")("a")] == ["#the-model", "#weights-by-noise-level", "#what-holds", "#what-does-not", "#provenance"]


def test_same_headings_get_different_anchors(root):
    made = page(made_study.text("a", "# T\n\n## Result\n\n## Result\n\n## $x$"), made_study.code("b", "1", [made_study.html("<h2>Result</h2>")]))
    assert [anchor for anchor, _, _ in made.contents] == ["result", "result-2", "section"]
    assert "<math" in made.contents[2][2]


def test_code_is_folded_and_parameters_are_named(shown):
    made = soup(shown / "02a_score_distillation.html")
    summaries = [summary.get_text() for summary in made.main("summary")]
    assert summaries == ["Parameters: the defaults (profile smoke), 3 lines", "Parameters of this run, 2 lines", "Code, 2 lines"]
    assert not any(details.has_attr("open") for details in made.main("details"))


def test_tables_scroll_by_keyboard_and_have_no_empty_headers(shown):
    made = soup(shown / "01_diffusion_pretraining.html")
    for table in made("table"):
        assert table.parent["class"] == ["scroll"] and table.parent["tabindex"] == "0" and table.parent["aria-label"]
        assert all(header.get_text(strip=True) and header["scope"] for header in table("th"))
    cells = made.find("table", class_="dataframe").tbody.find_all("td")
    assert [cell.get("class") for cell in cells[:4]] == [None, ["number"], ["number"], ["number"]]


def test_pages_name_the_profile_and_the_run(shown):
    for file in shown.glob("*.html"):
        made = soup(file)
        assert "smoke" in made.find("p", class_="face").get_text() and "read no number here" in made.main.get_text()
        assert "smoke" in made.title.get_text()
    footer = soup(shown / "01_diffusion_pretraining.html").footer.get_text(" ")
    for told in ("0123456789ab", "0, 1, 2", "1 min 12 s", "812 MiB", "AVX512", "ab" * 32, "numpy", "gencausal run 01_diffusion_pretraining --profile smoke"):
        assert told in footer, told


def test_equations_of_a_section_lead_to_their_code_and_tests(root):
    (root / "src/gencausal/diffusion.py").write_text('"""`Eq. one`"""\n', encoding="utf-8")
    (root / "tests/test_diffusion.py").write_text('"""Eq. one"""\n', encoding="utf-8")
    made_study.write_notebook("00_overview", "smoke", [made_study.text("a", "# T\n\nBy `Eq. two`.\n\n## First $x$\n\nSee `Eq. one` and (`Eq. one, again`).\n\n## Second\n\nNothing.")])
    made = soup(report.build("smoke").parent / "00_overview.html")
    sections = made.find(id="equations").find_next_siblings("details")[:2]
    assert [section.a["href"] for section in sections] == ["#content", "#first"] and "Eq. two: –; tests –" in sections[0].get_text()
    assert [link["href"] for link in sections[1].ul("a")] == ["../../../src/gencausal/diffusion.py", "../../../tests/test_diffusion.py"] and "<math" in str(sections[1].summary)


def test_links_of_a_page_are_relative_to_its_folder(shown):
    made = soup(shown / "01_diffusion_pretraining.html")
    links = {link.get_text(): link.get("href") for link in made.main("a")}
    assert links["src/gencausal/diffusion.py"] == links["its module"] == "../../../src/gencausal/diffusion.py"
    assert links["tests/test_diffusion.py"] == "../../../tests/test_diffusion.py"
    assert links["the diffusion notebook"] == "01_diffusion_pretraining.html" and links["a file that is gone"] is None
    assert links["the paper"] == "https://arxiv.org/abs/2206.00364"


def test_links_that_leave_the_study_are_not_written(shown, smoke_study, tmp_path_factory, monkeypatch):
    shutil.copytree(smoke_study / "build", elsewhere := tmp_path_factory.mktemp("elsewhere") / "build")
    monkeypatch.setenv("GENCAUSAL_BUILD", str(elsewhere))
    made = soup(report.build("smoke").parent / "01_diffusion_pretraining.html")
    assert not [link["href"] for link in made("a", href=True) if link["href"].startswith("../")]
    assert "src/gencausal/diffusion.py" in made.main.get_text()


def test_every_internal_link_and_anchor_resolves(shown):
    for file in shown.glob("*.html"):
        for link in soup(file)("a", href=True):
            address, _, anchor = link["href"].partition("#")
            if re.match(r"[a-z]+:", address):
                continue
            target = (file.parent / address).resolve() if address else file
            assert target.is_file(), (file.name, link["href"])
            assert not anchor or soup(target).find(id=anchor), (file.name, link["href"])


# --- the index

def test_the_index_counts_verdicts_and_links_claims_to_their_cells(shown):
    made = soup(shown / "index.html")
    counted = [item.get_text(" ", strip=True) for item in made.find("dl", class_="tally")("div")]
    assert counted[0].startswith("Importance-weighted diffusion distillation, 3 claims") and counted[1].endswith("1 claim – 1 not run")
    row = made.find(id="claim-iwdd.C5")
    assert "0.941 [0.941, 0.941]" in row.get_text() and "10 units" in row.get_text() and "3 seeds" in row.get_text() and "second-hand" in row.get_text()
    assert [link["href"] for link in row("a")] == ["02a_score_distillation.html#cell-id=claims", "results/02a_score_distillation.csv.gz"]
    assert "planned: experiment E1" in made.find(id="claim-vci.C1").get_text() and "<b>beat</b>" in made.find(id="claim-vci.C1").get_text()


def test_badges_differ_in_text_shape_and_colour():
    looks = list(layout.VERDICTS.values())
    for part in range(3):
        assert len({look[part] for look in looks}) == len(looks) == 6
    assert layout.badge("splendid").style == "verdict-unrun", "an unknown verdict must stay neutral"


def test_what_was_not_run_is_never_green(shown):
    rows = {row.th.get_text(): row for row in soup(shown / "index.html").find_all("table")[-1].tbody("tr")}
    assert "not run" in rows["04_variational_causal_inference"].get_text() and "verdict-unrun" in str(rows["04_variational_causal_inference"])
    assert "verdict-reproduced" in str(rows["02a_score_distillation"])
    assert "04_variational_causal_inference: not run" in soup(shown / "index.html").find("p", class_="face").get_text()


@pytest.mark.parametrize("state", ["failed", "pending", "running"])
def test_a_cell_that_did_not_complete_is_told_and_not_green(built, state):
    cells = made_study.notebooks("smoke")["06_claims"]
    made_study.write_notebook("06_claims", "smoke", [*cells, made_study.code("late", "more()", status=state)])
    index = soup(report.build("smoke"))
    row = next(row for row in index.find_all("table")[-1].tbody("tr") if row.th.get_text() == "06_claims")
    assert f"1 {state}" in row.get_text() and "verdict-reproduced" not in str(row)
    assert "did not run to its end" in soup(paths.build("smoke") / "reports" / "06_claims.html").main.get_text()


def test_a_failed_notebook_has_a_page_that_says_so(built):
    folder = paths.build("smoke") / "notebooks"
    (folder / "06_claims.ipynb").rename(folder / "06_claims.failed.ipynb")
    (folder / "02a_score_distillation.ipynb").rename(folder / "02a_score_distillation.running.ipynb")
    paths.write_whole(paths.build("smoke") / "provenance" / "06_claims.json", json.dumps(made_study.record("06_claims", "smoke", status="failed")))
    study = site.read("smoke")
    assert study.notebooks == list(made_study.SOURCES)
    assert study.state("06_claims") == "failed" and study.state("02a_score_distillation") == "not run"
    assert "failed" in soup(report.build("smoke").parent / "06_claims.html").find("p", class_="face").get_text()


def test_verdicts_come_from_the_rows_and_not_from_an_old_table(built):
    table = paths.build("smoke") / "results" / "02a_score_distillation.csv"
    rows = pd.read_csv(table)
    rows[rows["method"] != "teacher"].to_csv(table, index=False)
    made = soup(report.build("smoke"))
    assert "not run" in made.find(id="claim-iwdd.C5").get_text() and "reproduced in direction" in made.find(id="claim-iwdd.C4").get_text()
    shown = soup(built / "02a_score_distillation.html")
    assert "not run" in shown.find(id="claim-iwdd.C5").get_text() and "no rows of iwdd beside teacher" in shown.find(id="claim-iwdd.C5").get_text()  # its cell said otherwise
    copied = pd.read_csv(built / "results" / "claims.csv").set_index("claim")
    assert copied.loc["iwdd.C5", "verdict"] == "not run"


def test_headline_rows_against_a_hand_computed_case():
    rows = pd.DataFrame([{"experiment": "e", "dataset": "d", "unit": unit, "method": "m", "metric": "p", "seed": seed, "value": value} for unit, seed, value in [(1, 0, 1.0), (1, 1, 3.0), (2, 0, 4.0), (2, 1, 4.0)]])
    (row,) = overview.headline(rows, "e", "p")
    assert (row["mean"], row["units"], row["seeds"]) == (3.0, 2, 2) and (row["low"], row["high"]) == (2.0, 4.0)
    (alone,) = overview.headline(rows[rows["unit"] == 1], "e", "p")
    assert np.isnan(alone["low"]) and layout.with_interval(alone["mean"], alone["low"], alone["high"]) == "2 [no interval]"
    assert overview.headline(rows, "e", "other") == []


def test_the_headline_table_is_sorted_and_shows_its_references(shown):
    table = soup(shown / "index.html").find(id="rows-iwdd-E0-pehe_normalised").find_next("table")
    rows = table.tbody("tr")
    assert [row.th.code.get_text() for row in rows] == ["iwdd", "teacher", "hgb_t", "ridge_t", "oracle_ate", "naive_ate", "zero"]
    assert [row.get("class") for row in rows] == [None] * 4 + [["reference"]] * 3
    assert re.fullmatch(r"0\.160 \[0\.15\d, 0\.16\d\]", rows[0].find("td", class_="value").get_text())


def test_numbers_as_they_are_printed():
    assert [layout.number(value) for value in (0.16049, -0.04, 12, 1234.5678, 2.5e-5, None, float("nan"), "", "about 3")] == ["0.160", "−0.0400", "12", "1235", "2.5e−5", "–", "–", "–", "about 3"]
    assert [layout.number(value) for value in (9.6e-15, 2e-12)] == ["0", "2e−12"]
    assert [layout.count(value, "seed") for value in (1, 3, None)] == ["1 seed", "3 seeds", "– seeds"]
    assert [layout.duration(value) for value in (3.21, 59, 192, 7500, None)] == ["3.2 s", "59 s", "3 min 12 s", "2 h 05 min", "–"]


def test_the_graph_puts_readers_to_the_right_of_what_they_read():
    assert drawing.columns(["00_overview", "01_diffusion_pretraining", "02a_score_distillation", "05_cond_fip", "06_claims"]) == [
        ["00_overview", "01_diffusion_pretraining", "05_cond_fip"], ["02a_score_distillation"], ["06_claims"]]
    assert drawing.columns(["06_claims"]) == [["06_claims"]] and drawing.columns([]) == []
    drawn = BeautifulSoup(drawing.graph([{"name": "01_diffusion_pretraining", "state": "completed", "href": "01.html"}, {"name": "02a_score_distillation", "state": "not run", "href": ""}]), "html.parser")
    assert [link["href"] for link in drawn("a")] == ["01.html"] and len(drawn("rect")) == 2 and "not run" in drawn.svg["aria-label"]


@pytest.mark.parametrize("elsewhere", [[0.2, 0.3], [0.01, 0.1]])
def test_a_rerun_is_put_beside_the_published_report(built, root, elsewhere):
    published = pd.read_csv(paths.build("smoke") / "results" / "claims.csv")
    published["profile"] = "full"
    published.loc[published["claim"] == "iwdd.C4", ["ci_low", "ci_high"]] = elsewhere
    published.loc[published["claim"] == "iwdd.C8", ["ci_low", "ci_high"]] = np.nan
    paths.write_whole(root / "reports" / "results" / "claims.csv", published.to_csv(index=False))
    index = soup(report.build("smoke"))
    assert "1 no published interval" in index.find(id="rerun").parent.get_text() and index.find(id="rerun")["href"] == "rerun.html"
    page = soup(built / "rerun.html")
    made = page.main.table
    places = {row.th.code.get_text(): row.td.get_text() for row in made.tbody("tr")}
    assert places == {"iwdd.C4": "outside the published interval", "iwdd.C5": "inside the published interval", "iwdd.C8": "no published interval", "vci.C1": "not run here"}


def test_a_first_report_has_nothing_to_compare_with(shown):
    assert not soup(shown / "index.html").find(id="rerun") and not (shown / "rerun.html").exists()


# --- writing

def test_the_folder_holds_rows_and_records(shown):
    assert gzip.decompress((shown / "results" / "02a_score_distillation.csv.gz").read_bytes()) == (paths.build("smoke") / "results" / "02a_score_distillation.csv").read_bytes()
    record = json.loads((shown / "provenance.json").read_text(encoding="utf-8"))
    assert record["profile"] == "smoke" and record["commit"].startswith("0123") and set(record["notebooks"]) == set(made_study.SOURCES) - {"04_variational_causal_inference"}


def test_the_same_run_gives_the_same_bytes(built):
    digest = lambda: {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in built.rglob("*") if file.is_file()}  # noqa: E731
    before = digest()
    report.build("smoke")
    assert digest() == before and len(before) == 8


@pytest.mark.parametrize("where", ["write_whole", "rename"])
def test_a_failure_leaves_the_old_reports(built, monkeypatch, where):
    before = (built / "index.html").read_bytes()
    made_study.write_notebook("00_overview", "smoke", [made_study.text("a", "# Another")])

    def fail(*_, **__):
        raise OSError("No space left on device")

    if where == "write_whole":
        calls = []
        real = paths.write_whole
        monkeypatch.setattr(paths, "write_whole", lambda path, content: fail() if calls.append(path) or len(calls) > 3 else real(path, content))
    else:
        real = type(built).rename
        monkeypatch.setattr(type(built), "rename", lambda self, target: fail() if self.name.startswith(".reports-") and "old" not in self.name and target == built else real(self, target))
    with pytest.raises(OSError, match="No space"):
        report.build("smoke")
    monkeypatch.undo()
    assert (built / "index.html").read_bytes() == before and b"Another" not in (built / "00_overview.html").read_bytes()
    assert [item.name for item in built.parent.iterdir() if item.name.startswith(".")] == []


def test_files_that_left_the_study_leave_the_reports(built):
    (built / "07_old.html").write_text("old", encoding="utf-8")
    report.build("smoke")
    assert not (built / "07_old.html").exists()


def test_nothing_to_report_and_unknown_profiles_are_one_sentence(root):
    with pytest.raises(FileNotFoundError, match="make reports PROFILE=laptop"):
        report.build("laptop")
    with pytest.raises(ValueError, match="There is no profile 'larptop'; the profiles are smoke, laptop, full, paper"):
        report.build("larptop")


# --- publishing

@pytest.fixture
def full(full_study, root):
    """A finished full run in a clean commit; returns the root."""
    shutil.rmtree(root)
    shutil.copytree(full_study, root)
    return root


def test_a_finished_full_run_is_published_with_links_from_its_new_place(full):
    index = report.publish("full")
    assert index == full / "reports" / "index.html"
    made = soup(full / "reports" / "01_diffusion_pretraining.html")
    assert "../src/gencausal/diffusion.py" in [link.get("href") for link in made("a")]
    assert "full" in made.find("p", class_="face").get_text() and "read no number here" not in made.get_text()
    assert (full / "reports" / "results" / "claims.csv").is_file() and (full / "reports" / "provenance.json").is_file()
    assert report.publish("full") == index, "reports/ itself may differ from the commit"


def change(full, what):
    if what == "dirty":
        (full / "src/gencausal/diffusion.py").write_text("changed", encoding="utf-8")
    elif what == "unfinished":
        (paths.build("full") / "notebooks" / "06_claims.ipynb").unlink()
    elif what == "pending":
        made_study.write_notebook("06_claims", "full", [made_study.code("a", "1", status="pending")])
    elif what == "undescribed":
        made_study.write_notebook("00_overview", "full", [made_study.code("bare", "1", [made_study.figure(None)])])
    elif what == "stale":
        record = made_study.record("01_diffusion_pretraining", "full", source_sha256="0" * 64)
        paths.write_whole(paths.build("full") / "provenance" / "01_diffusion_pretraining.json", json.dumps(record))
    elif what == "large":
        made_study.write_notebook("00_overview", "full", [made_study.code("a", "1", [made_study.printed("x" * 2_200_000)])])


@pytest.mark.parametrize(("what", "told"), [
    ("dirty", "1 uncommitted change.*src/gencausal/diffusion.py.*commit"),
    ("unfinished", "06_claims is not run"),
    ("pending", "06_claims is incomplete"),
    ("undescribed", "00_overview has a figure without alt text in cell bare"),
    ("stale", "01_diffusion_pretraining was made by another state of notebooks/01_diffusion_pretraining.py"),
    ("large", "00_overview.html is larger than 2 MB"),
])
def test_publishing_refuses_with_one_sentence_and_writes_nothing(full, what, told):
    change(full, what)
    with pytest.raises(ValueError, match=told) as raised:
        report.publish("full")
    assert "\n" not in str(raised.value) and not (full / "reports").exists()


def test_only_the_full_profile_is_published(full):
    with pytest.raises(ValueError, match="Only profile full"):
        report.publish("laptop")


# --- published pages taken up again

def everything(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def published(full):
    """A published study whose build/ is gone, as in a fresh clone; returns the root."""
    report.publish("full")
    for command in (["add", "-A"], ["-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "-qm", "Publish"]):
        subprocess.run(["git", *command], cwd=full, check=True)
    shutil.rmtree(full / "build")
    return full


def edit(file, old, new):
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def test_restored_reports_are_the_same_bytes(full):
    """Every file, rendered from notebooks and then from what was published, in reports/ and in build/ (other links)."""
    cells = made_study.notebooks("full")["01_diffusion_pretraining"]
    made_study.write_notebook("01_diffusion_pretraining", "full", [*cells, made_study.text("late", "## A heading with $x$ & more\n\n[not there yet](05_cond_fip.ipynb)")])
    before = everything(report.publish("full").parent)
    built = everything(report.build("full").parent)
    assert set(built) - set(before) == {"rerun.html"} and len(before) == 8
    shutil.rmtree(full / "build")
    assert report.restore() == [f"{name}: restored{'' if name.startswith('02a') else ', without rows of its own'}" for name in made_study.SOURCES if not name.startswith("04")]
    study = site.read("full")
    assert {study.state(name) for name in study.notebooks} == {"completed"} and study.pages["02a_score_distillation"].claims["iwdd.C5"][0] == "claims"
    assert everything(report.build("full").parent) == built
    assert everything(report.publish("full").parent) == before and everything(report.publish("full").parent) == before


def test_restored_claims_are_judged_anew(published):
    """A changed rule changes the card, the index and the table; the page around the card stays."""
    report.restore()
    edit(published / "claims.yaml", "at_most: 1.05", "at_most: 0.9")
    folder = report.build("full").parent
    card = soup(folder / "02a_score_distillation.html").find(id="claim-iwdd.C5")
    assert "refuted" in card.get_text() and "refuted" in soup(folder / "index.html").find(id="claim-iwdd.C5").get_text()
    assert "reproduced" in soup(published / "reports" / "02a_score_distillation.html").find(id="claim-iwdd.C5").get_text()


def test_a_new_notebook_joins_the_restored_ones_and_gets_its_links(published):
    """Links to a page that was not there come to life; what was run here wins over the published page."""
    made_study.write_notebook("04_variational_causal_inference", "full", [made_study.text("title", "# New"), made_study.code("a", "1")])
    (published / "notebooks" / "04_variational_causal_inference.py").write_text(made_study.PARAMETERS, encoding="utf-8")
    paths.write_whole(paths.build("full") / "provenance" / "04_variational_causal_inference.json", json.dumps(made_study.record("04_variational_causal_inference", "full")))
    made_study.write_notebook("00_overview", "full", [made_study.text("title", "# My own"), made_study.code("a", "1")])
    paths.write_whole(paths.build("full") / "provenance" / "00_overview.json", json.dumps(made_study.record("00_overview", "full")))
    assert report.restore()[0] == "00_overview: kept as it was run here (00_overview.ipynb)"
    subprocess.run(["git", "add", "-A"], cwd=published, check=True)
    subprocess.run(["git", "-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "-qm", "Add"], cwd=published, check=True)
    folder = report.publish("full").parent
    assert soup(folder / "00_overview.html").h1.get_text() == "My own" and soup(folder / "04_variational_causal_inference.html").h1.get_text() == "New"
    assert soup(folder / "02a_score_distillation.html").find("a", rel="next")["href"] == "04_variational_causal_inference.html"


def test_a_notebook_still_to_be_run_can_be_left_out_once(published):
    """By name, and only before its first page: the index then shows it as not run; a published or a run one cannot be left out."""
    (published / "notebooks" / "07_later.py").write_bytes((published / "notebooks" / "00_overview.py").read_bytes())
    for command in (["add", "-A"], ["-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "-qm", "Add"]):
        subprocess.run(["git", *command], cwd=published, check=True)
    report.restore()
    with pytest.raises(ValueError, match="Notebook 07_later is not run"):
        report.publish("full")
    with pytest.raises(ValueError, match="00_overview is completed or was published before"):
        report.publish("full", ("00_overview", "07_later"))
    index = BeautifulSoup(report.publish("full", ("07_later",)).read_text(encoding="utf-8"), "html.parser")
    (row,) = [row for row in index("tr") if "07_later" in row.get_text()]
    assert "not run" in row.get_text() and not (published / "reports" / "07_later.html").exists()


def test_lost_links_of_a_published_page_come_to_life(full):
    made_study.write_notebook("00_overview", "full", [made_study.text("title", "# T\n\n[later](04_variational_causal_inference.ipynb)"), made_study.code("a", "1")])
    link = soup(report.publish("full").parent / "00_overview.html").main.find("a", string="later")
    assert link.get("href") is None
    shutil.rmtree(full / "build")
    report.restore()
    made_study.write_notebook("04_variational_causal_inference", "full", [made_study.text("title", "# New"), made_study.code("a", "1")])
    assert soup(report.build("full").parent / "00_overview.html").main.find("a", string="later")["href"] == "04_variational_causal_inference.html"


def test_what_changed_since_it_was_published_is_left_out(published):
    edit(published / "notebooks" / "02a_score_distillation.py", "1\n", "2\n")
    assert "02a_score_distillation: left out, notebooks/02a_score_distillation.py changed since; run `gencausal run 02a_score_distillation --profile full`" in report.restore()
    assert site.read("full").state("02a_score_distillation") == "not run" and not (paths.build("full") / "results" / "02a_score_distillation.csv").exists()


@pytest.mark.parametrize("what", ["source", "rows", "rules", "ledger"])
def test_publishing_refuses_a_restored_page_that_is_stale(published, what):
    """Its notebook changed after it was restored, or it shows the ledger (or other notebooks' rows) and those have changed."""
    edit(published / "notebooks" / "06_claims.py", "1\n", "from gencausal import claims\nclaims.evaluate('full')\n")
    record = made_study.record("06_claims", "full", modules={path.as_posix(): provenance.code_sha256(path) for path in provenance.modules("06_claims")})
    book = json.loads((published / "reports" / "provenance.json").read_text(encoding="utf-8"))
    book["notebooks"]["06_claims"] = record
    paths.write_whole(published / "reports" / "provenance.json", json.dumps(book))
    report.restore()
    name, told = "06_claims", "claims.yaml"
    if what == "source":
        name, told = "00_overview", "notebooks/00_overview.py"
        edit(published / "notebooks" / "00_overview.py", "1\n", "2\n")
    elif what == "rows":
        claims.record(made_study.rows("full", units=9), notebook="01_diffusion_pretraining", profile="full")
        (paths.build("full") / "results" / "02a_score_distillation.csv").unlink()
        told = "results/01_diffusion_pretraining.csv"
    elif what == "rules":
        edit(published / "claims.yaml", "at_most: 1.05", "at_most: 0.9")
        paths.write_whole(published / "reports" / "provenance.json", json.dumps({key: value for key, value in book.items() if key != "ledger"}))
    else:
        edit(published / "claims.yaml", "planned: experiment E1", "planned: experiment E2")
    subprocess.run(["git", "add", "-A"], cwd=published, check=True)
    subprocess.run(["git", "-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "-qm", "Change"], cwd=published, check=True)
    before = everything(published / "reports")
    with pytest.raises(ValueError, match=f"{name} was made by another state of {told}: rerun it") as raised:
        report.publish("full")
    assert "\n" not in str(raised.value) and everything(published / "reports") == before


@pytest.mark.parametrize(("file", "old", "new", "told"), [
    ("01_diffusion_pretraining.html", "The closed form is reached to three digits.", "It is reached to ten digits.", "01_diffusion_pretraining.html is not as it was published"),
    ("01_diffusion_pretraining.html", "<h1>Diffusion", "<h1>Confusion", "01_diffusion_pretraining.html is not as it was published"),
    ("02a_score_distillation.html", "<code>iwdd.C4</code>", "<code>iwdd.C8</code>", "02a_score_distillation.html is not as it was published"),
    ("02a_score_distillation.html", '<p class="face">', '<p class="fact">', "02a_score_distillation.html is no page of a notebook"),
    ("provenance.json", '"01_diffusion_pretraining": {', '"01_other": {', "no record of 01_diffusion_pretraining"),
    ("provenance.json", '"notebooks"', "notebooks", "provenance.json cannot be read"),
    ("provenance.json", None, None, "There are no published reports to restore"),
    ("01_diffusion_pretraining.html", None, None, "01_diffusion_pretraining.html is missing"),
])
def test_restoring_refuses_in_one_sentence_and_writes_nothing(published, file, old, new, told):
    if old is None:
        (published / "reports" / file).unlink()
    else:
        edit(published / "reports" / file, old, new)
    with pytest.raises(ValueError, match=told) as raised:
        report.restore()
    assert "\n" not in str(raised.value) and not (published / "build").exists()


def test_a_page_that_is_changed_after_restoring_is_refused(published):
    report.restore()
    edit(published / "reports" / "01_diffusion_pretraining.html", "reached to three digits", "reached to ten digits")
    with pytest.raises(ValueError, match="01_diffusion_pretraining.html is not as it was published: check it out anew, or run"):
        report.build("full")


def test_reports_without_digests_are_held_against_the_commit(published):
    """Reports of before digests were published: the page must be the committed one."""
    book = json.loads((published / "reports" / "provenance.json").read_text(encoding="utf-8"))
    paths.write_whole(published / "reports" / "provenance.json", json.dumps({key: value for key, value in book.items() if key not in ("pages", "ledger")}))
    assert len(report.restore()) == 4
    edit(published / "reports" / "01_diffusion_pretraining.html", "reached to three digits", "reached to ten digits")
    with pytest.raises(ValueError, match="is not as it was published"):
        report.restore()


def test_a_restored_page_needs_its_claims_in_the_ledger(published):
    report.restore()
    edit(published / "claims.yaml", "key: iwdd.C8", "key: iwdd.C9")
    with pytest.raises(ValueError, match="02a_score_distillation shows claim iwdd.C8, which claims.yaml lacks: run"):
        site.read("full")


def test_records_come_back_in_the_order_of_a_run(monkeypatch, root):
    """JSON with sorted keys loses the order of parameters (the notebook's) and of packages (without case), which the page prints."""
    (root / "notebooks" / "00_overview.py").write_text(made_study.HEADER.replace("# %%\n", '# %% tags=["parameters"]\n') + 'profile = "smoke"\nsteps = 1\nalpha = 0.5\n', encoding="utf-8")
    record = made_study.record("00_overview", "full", parameters={"profile": "full", "steps": 2, "alpha": 0.1}, versions={"econml": "1", "Pillow": "2", "torch": "3"})
    paths.write_whole(root / "reports" / "provenance.json", json.dumps({"notebooks": {"00_overview": record}}, sort_keys=True))
    made = restored.read_published()["notebooks"]["00_overview"]
    assert made == record and list(made["parameters"]) == ["profile", "steps", "alpha"] and list(made["versions"]) == ["econml", "Pillow", "torch"]
