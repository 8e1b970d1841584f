"""HTML reports: one page for each executed notebook, an index of all claims, published only from a finished full run.

    index = report.build("smoke")      # build/smoke/reports/index.html
    index = report.publish("full")     # reports/index.html, the committed one
    report.restore()                   # in a fresh clone: build/full/ from reports/, so that one new notebook can be run and published

Pages are whole files without a script or an address to load; formulas are MathML, figures carry their description, and
data can put nothing into a page but text. Level 7: reads results, the ledger and run records, never a model.
"""

import subprocess
import sys
from pathlib import Path

from gencausal import paths, provenance
from gencausal.report import site
from gencausal.report.restored import restore

__all__ = ["build", "publish", "restore"]

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


def publish(profile: str) -> Path:
    """Write the committed `reports/` from a finished `full` run of a clean commit; returns the path of index.html.

    ValueError, in one sentence and with nothing written: another profile, uncommitted changes outside reports/, a notebook that
    did not finish or was made by other sources, a figure without alt text, a page or a folder that is too large.
    """
    if profile != PUBLISHED:
        raise ValueError(f"Only profile {PUBLISHED} is published; profile {profile!r} stays in build/{profile}/reports/.")
    changed = _git("status", "--porcelain", "--", ".", ":(exclude)reports")
    if changed:
        raise ValueError(f"The working tree has {len(changed)} uncommitted change(s), the first in {changed[0][3:]}: commit them, then publish.")
    study = site.read(profile)
    for name in study.notebooks:
        if study.state(name) != "completed":
            raise ValueError(f"Notebook {name} is {study.state(name)} in profile {profile}: run `gencausal run {name} --profile {profile}` to its end, then publish.")
        if study.pages[name].undescribed:
            raise ValueError(f"Notebook {name} has a figure without alt text in cell {study.pages[name].undescribed[0]}: give display(figure, metadata=...) an alt, rerun, then publish.")
        stale = provenance.stale(study.records[name]) or study.outdated.get(name)
        if stale:
            raise ValueError(f"Notebook {name} was made by another state of {stale}: rerun it with `gencausal run {name} --profile {profile}`, then publish.")
    target = paths.root() / "reports"
    files = site.files(study, target, [])
    large = [name for name, content in files.items() if name.endswith(".html") and len(content) > PAGE_LIMIT]
    if large or sum(map(len, files.values())) > FOLDER_LIMIT:
        what = f"Page {large[0]} is larger than {PAGE_LIMIT >> 20} MB" if large else f"The reports are larger than {FOLDER_LIMIT >> 20} MB"
        raise ValueError(f"{what}: draw fewer or smaller figures, rerun, then publish.")
    return site.write(files, target)


def _git(*arguments: str) -> list[str]:
    done = subprocess.run(["git", *arguments], cwd=paths.root(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"git {arguments[0]} failed, and publishing needs a commit: {done.stderr.strip()[:200]}")
    return [line for line in done.stdout.splitlines() if line.strip()]
