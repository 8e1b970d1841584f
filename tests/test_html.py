"""The pages in a real Chromium: no request, no error, no accessibility finding, nothing that scrolls the page sideways.

The gate is held against nbconvert's default page too, which must fail it: a gate that passes everything guards nothing.
"""

import functools
import re
import shutil
from pathlib import Path

import made_study
import pytest
from nbconvert import HTMLExporter

from gencausal import paths, report

CHROMIUM = shutil.which("chromium")
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync".split()
SCHEMES = ("light", "dark")
PAGES = ("index", "rerun", "00_overview", "01_diffusion_pretraining", "02a_score_distillation", "06_claims")
PAGE_LIMIT = 2 * 1024**2
UNDESCRIBED = re.compile(r"no description|without a description|^(image|figure|png)?$", re.I)
READ = """() => {
  const text = document.querySelector('main')?.cloneNode(true) ?? document.body.cloneNode(true);
  text.querySelectorAll('pre, code, math').forEach(element => element.remove());
  return {
    text: text.textContent, wide: document.documentElement.scrollWidth > window.innerWidth,
    broken: [...document.images].filter(image => !image.naturalWidth).length, alts: [...document.images].map(image => image.alt),
    scripts: document.scripts.length - document.querySelectorAll('h2#claims ~ .filter').length, unfocusable: [...document.querySelectorAll('*')].filter(element => element.scrollWidth > element.clientWidth + 1 &&
      ['auto', 'scroll'].includes(getComputedStyle(element).overflowX) && element.tabIndex < 0).length };
}"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: the pages are not looked at in a browser (Debian: apt-get install chromium)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A built smoke report."""
    root = tmp_path_factory.mktemp("html")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GENCAUSAL_BUILD", raising=False)
        patch.setattr(paths, "root", lambda: root)
        made_study.make_root(root)
        made_study.run("smoke")
        paths.write_whole(root / "reports" / "results" / "claims.csv", (paths.build("smoke") / "results" / "claims.csv").read_bytes())  # so that there is a rerun page
        return report.build("smoke").parent


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@functools.cache
def axe():
    """The accessibility rules, from the file that axe-playwright-python carries."""
    import axe_playwright_python

    return (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


def findings(browser, file: Path, scheme: str, width: int = 1280) -> list[str]:
    """What the gate finds wrong with a page, folded code opened: an empty list is a pass."""
    found = [] if file.stat().st_size <= PAGE_LIMIT else [f"{file.stat().st_size} bytes"]
    context = browser.new_context(offline=True, color_scheme=scheme, viewport={"width": width, "height": 800})
    page = context.new_page()
    page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else found.append(f"request {request.url}"))
    page.on("console", lambda message: found.append(f"console {message.text}") if message.type == "error" else None)
    page.on("pageerror", lambda error: found.append(f"script error {error}"))
    page.goto(file.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    seen = page.evaluate(READ)
    found += [f"{seen[name]} {name}" for name in ("broken", "scripts", "unfocusable") if seen[name]]
    found += ["page scrolls sideways"] if seen["wide"] else []
    found += [f"alt text {alt!r}" for alt in seen["alts"] if UNDESCRIBED.search(alt.strip())]
    found += [f"TeX {left!r}" for left in re.findall(r".{0,20}(?:\$|\\\(|\\begin).{0,20}", seen["text"])]
    page.evaluate(axe())
    violations = page.evaluate("axe.run().then(result => result.violations)")
    found += [f"axe {one['impact']} {one['id']}: {one['nodes'][0]['html'][:120]}" for one in violations if one["impact"] in ("serious", "critical")]
    context.close()
    return found


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", PAGES)
def test_pages_pass_the_gate(browser, folder, name, scheme):
    assert findings(browser, folder / f"{name}.html", scheme) == []


@pytest.mark.parametrize("name", PAGES)
def test_pages_fit_a_phone(browser, folder, name):
    assert findings(browser, folder / f"{name}.html", "light", width=360) == []


@pytest.mark.parametrize("file", sorted((Path(__file__).resolve().parents[1] / "reports").glob("*.html")), ids=lambda file: file.stem)
def test_published_pages_fit_a_phone(browser, file):
    assert findings(browser, file, "dark", width=360) == []


def test_the_default_page_of_nbconvert_fails_the_same_gate(browser, folder, tmp_path):
    html, _ = HTMLExporter().from_filename(str(folder.parent / "notebooks" / "01_diffusion_pretraining.ipynb"))
    file = tmp_path / "lab.html"
    file.write_text(html, encoding="utf-8")
    kinds = {found.split()[0] for found in findings(browser, file, "light")}
    assert {"request", "console", "TeX", "axe"} <= kinds


@pytest.mark.parametrize(("fault", "kind"), [
    ('<img src="https://example.org/x.png" alt="a picture of something">', "request"),
    ('<div style="width: 2000px">wide</div>', "page scrolls"),
    ("<p>the loss is $x^2$</p>", "TeX"),
    ('<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" alt="figure">', "alt text"),
    ('<p style="color: #ccc">faint words on the page</p>', "axe serious"),
])
def test_the_gate_sees_each_fault(browser, folder, tmp_path, fault, kind):
    html = (folder / "00_overview.html").read_text(encoding="utf-8").replace("</main>", f"{fault}</main>", 1)
    file = tmp_path / "spoiled.html"
    file.write_text(html, encoding="utf-8")
    assert any(found.startswith(kind) for found in findings(browser, file, "light"))


def test_a_page_forbids_requests_by_itself(browser, folder, tmp_path):
    html = (folder / "00_overview.html").read_text(encoding="utf-8").replace("</main>", '<img src="https://example.org/x.png" alt="a picture of something"></main>', 1)
    file = tmp_path / "policy.html"
    file.write_text(html, encoding="utf-8")
    found = findings(browser, file, "light")
    assert any("Content Security Policy" in one for one in found)


def test_the_colour_scheme_of_the_reader_changes_the_page(browser, folder):
    grounds = []
    for scheme in SCHEMES:
        page = browser.new_context(color_scheme=scheme).new_page()
        page.goto((folder / "01_diffusion_pretraining.html").as_uri())
        grounds.append(page.evaluate("['body', 'figure img'].map(name => getComputedStyle(document.querySelector(name)).backgroundColor)"))
        page.context.close()
    light, dark = ([[int(part) for part in re.findall(r"\d+", colour)[:3]] for colour in both] for both in grounds)
    assert min(light[0]) > 240 and max(dark[0]) < 40
    assert min(dark[1]) > 230, "figures are drawn on white and keep a light card"


def test_the_keyboard_reaches_the_content_first(browser, folder):
    page = browser.new_context().new_page()
    page.goto((folder / "01_diffusion_pretraining.html").as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#content"
    page.context.close()


def test_claims_are_filtered_and_sorted(browser, folder):
    """By words, system and verdict, with a count that is read out; the folded table opens where it holds what is left; sorting keeps every row."""
    page = browser.new_context(offline=True).new_page()
    page.goto((folder / "index.html").as_uri())
    shown = lambda: page.evaluate("[...document.querySelectorAll('table.filtered tbody tr')].filter(row => !row.hidden).map(row => row.dataset.claim)")  # noqa: E731
    everything = shown()
    assert len(everything) == 4
    page.get_by_label("Verdict", exact=True).select_option("refuted")
    assert shown() == ["iwdd.C8"] and "1 of 4 claims" in page.get_by_role("status").text_content()
    page.get_by_label("Verdict", exact=True).select_option("")
    page.get_by_label("System", exact=True).select_option("Variational causal inference")
    assert shown() == ["vci.C1"] and page.evaluate("document.querySelector('table.filtered tr[data-claim=\"vci.C1\"]').closest('details').open")
    page.get_by_label("System", exact=True).select_option("")
    page.get_by_label("Words", exact=True).fill("gradient boosting")
    assert shown() == ["iwdd.C4"]
    page.get_by_label("Words", exact=True).fill("")
    page.get_by_label("Order", exact=True).select_option("rank")
    assert shown()[:3] == ["iwdd.C5", "iwdd.C4", "iwdd.C8"] and sorted(shown()) == sorted(everything)
    page.get_by_label("Order", exact=True).select_option("place")
    assert shown() == everything
    page.context.close()


def test_the_index_is_whole_without_its_script(browser, folder):
    context = browser.new_context(offline=True, java_script_enabled=False)
    page = context.new_page()
    page.goto((folder / "index.html").as_uri())
    assert page.locator("table.filtered tbody tr").count() == 4 and page.locator(".filter").count() == 0
    context.close()
