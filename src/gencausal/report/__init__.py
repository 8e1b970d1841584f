"""HTML reports: one page for each executed notebook, an index of all claims, published only from a finished full run.

    index = report.build("smoke")      # build/smoke/reports/index.html
    index = report.publish("full")     # reports/index.html, the committed one
    report.restore()                   # in a fresh clone: build/full/ from reports/, so that one new notebook can be run and published

Pages are whole files without a script or an address to load; formulas are MathML, figures carry their description, and
data can put nothing into a page but text. Level 7: reads results, the ledger and run records, never a model.
"""

import re
import subprocess
import sys
from pathlib import Path

from gencausal import claims, notebook, paths, provenance
from gencausal.claims import guards
from gencausal.report import layout, restored, site
from gencausal.report.restored import restore

__all__ = ["build", "check", "publish", "restore", "stale"]

PAGE_LIMIT, FOLDER_LIMIT = 2 * 1024**2, 15 * 1024**2  # bytes
PUBLISHED = "full"


def build(profile: str) -> Path:
    """Write `build/<profile>/reports/` from that profile's executed notebooks, rows and records; returns the path of index.html.

    Notebooks that were not run are shown as that. Where a published report exists, the index puts this run beside it.
    """
    study = site.read(profile)
    for name, page in study.pages.items():
        if page.undescribed:
            print(f"report: {name} has {len(page.undescribed)} figure(s) without alt text, in cell {', '.join(page.undescribed)}", file=sys.stderr)
    target = paths.build(profile) / "reports"
    return site.write(site.files(study, target, site.published_claims()), target)


def publish(profile: str, without: tuple[str, ...] = ()) -> Path:
    """Write the committed `reports/`, and the verdict table in README.md, from a finished `full` run of a clean commit; returns the path of index.html.

    ValueError, in one sentence and with nothing written: another profile, uncommitted changes outside reports/, docs/ and README.md, a notebook that
    did not finish or was made by other sources, a figure without alt text, a page or a folder that is too large.
    without: notebooks that have never been published and whose run is still to come; the index says "not run" of them and of their claims.
    """
    if profile != PUBLISHED:
        raise ValueError(f"Only profile {PUBLISHED} is published; profile {profile!r} stays in build/{profile}/reports/.")
    changed = _git("status", "--porcelain", "--", ".", ":(exclude)reports", ":(exclude)README.md", ":(exclude)docs")
    if changed:
        raise ValueError(f"The working tree has {len(changed)} uncommitted change(s), the first in {changed[0][3:]}: commit them, then publish.")
    study = site.read(profile)
    for name in without:
        if study.state(notebook.source_path(name).stem) != "not run" or name in restored.read_published()["notebooks"]:
            raise ValueError(f"Notebook {name} is {study.state(name)} or was published before, so it cannot be left out: publish with it.")
    for name in study.notebooks:
        if name in without:
            continue
        if study.state(name) != "completed":
            raise ValueError(f"Notebook {name} is {study.state(name)} in profile {profile}: run `gencausal run {name} --profile {profile}` to its end, then publish.")
        if study.pages[name].undescribed:
            raise ValueError(f"Notebook {name} has a figure without alt text in cell {study.pages[name].undescribed[0]}: give display(figure, metadata=...) an alt, rerun, then publish.")
        if stale := study.outdated.get(name):
            raise ValueError(f"Notebook {name} was made by another state of {stale}: rerun it with `gencausal run {name} --profile {profile}`, then publish.")
    target = paths.root() / "reports"
    files = site.files(study, target, [])
    large = [name for name, content in files.items() if name.endswith(".html") and len(content) > PAGE_LIMIT]
    if large or sum(map(len, files.values())) > FOLDER_LIMIT:
        what = f"Page {large[0]} is larger than {PAGE_LIMIT >> 20} MB" if large else f"The reports are larger than {FOLDER_LIMIT >> 20} MB"
        raise ValueError(f"{what}: draw fewer or smaller figures, rerun, then publish.")
    index = site.write(files, target)
    readme = paths.root() / "README.md"
    if readme.is_file() and guards.in_readme(readme.read_text(encoding="utf-8")):
        guards.write_readme(layout.SYSTEMS)
    return index


def check() -> list[str]:
    """What keeps ledger, notebooks, equations, published rows, index and README from telling the same, a sentence each."""
    return [*claims.check(), *guards.equations(), *guards.published(layout.SYSTEMS)]


def stale() -> dict[str, str]:
    """Published notebooks that have changed since, with the first file that did: their pages in `reports/` and the index say so on their face from now on.

    A page that is up to date again loses the mark. Nothing else of a page changes.
    """
    published, names = restored.read_published()["notebooks"], notebook.names()
    changed = {name: what for name, record in published.items() if (what := provenance.stale(record) if name in names else f"notebooks/{name}.py")}
    for name in [*published, "index"] if published else []:
        file = paths.root() / "reports" / f"{name}.html"
        if file.is_file():
            html = file.read_text(encoding="utf-8")
            if (made := marked(html, name, changed)) != html:
                paths.write_whole(file, made)
    return changed


def marked(html: str, name: str, changed: dict[str, str]) -> str:
    """The published page (or "index") with the mark of a page that `changed` names, without it otherwise."""
    html = re.sub(r'<p class="unfinished outdated">.*?</p>\n', "", html, count=1, flags=re.DOTALL)
    parts = layout.environment().get_template("parts.html.j2").module
    mark = parts.outdated_index(list(changed)) if name == "index" and changed else parts.outdated_page(name, changed[name]) if name in changed else ""
    return html.replace("</h1>\n", f"</h1>\n{mark}", 1)


def _git(*arguments: str) -> list[str]:
    done = subprocess.run(["git", *arguments], cwd=paths.root(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"git {arguments[0]} failed, and publishing needs a commit: {done.stderr.strip()[:200]}")
    return [line for line in done.stdout.splitlines() if line.strip()]
