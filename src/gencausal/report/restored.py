"""Published pages taken up again: a notebook that was not run here keeps the page that reports/ has of it.

A fresh clone holds `reports/` and no `build/`. `restore` puts rows and run records of the published notebooks back under `build/full/`; the text,
code, outputs and figures of such a notebook are then read from `reports/NAME.html` itself, never copied. Nothing else of that page is taken over:
frame, links, run facts and every claim card are made anew, the cards judged from the rows. A page counts only while it is as it was published
(its digest in provenance.json) and the notebook, its modules and, for a notebook that shows the ledger, the ledger and all rows are what they were.
"""

import gzip
import hashlib
import json
import re
import subprocess
from html import unescape
from pathlib import Path

import pandas as pd

from gencausal import claims, notebook, paths, provenance
from gencausal.claims.rows import PACKED
from gencausal.report import figures, pages

PROFILE = "full"  # the published one
_PAGE = re.compile(r'<main id="content">\n<h1>(?P<title>.*?)</h1>\n.*?<p class="face">.*?</p>\n(?P<body>.*)\n<nav class="turn" aria-label="Pages">', re.DOTALL)
_CONTENTS = re.compile(r'<summary id="contents">On this page</summary>\n<ol>\n(.*?)<li class="level2"><a href="#(?:equations|provenance)">', re.DOTALL)
_HEADING = re.compile(r'<li class="level(\d)"><a href="#([^"]*)">(.*?)</a></li>\n', re.DOTALL)
# Cards, cells and folded code bear classes and ids that nothing from a notebook's data may have (clean.html).
_CARD = re.compile(r'<article class="claim".*?<code>(.*?)</code>.*?</article>', re.DOTALL)
_CELL = re.compile(r'<div class="cell (?:code|text)" id="cell-id=([^"]*)">')


def restore() -> list[str]:
    """Put rows and records of the published notebooks under `build/full/`; returns a line of what was done for each.

    What was run there stays, and so does what failed there; a notebook that changed since it was published is left out. ValueError, in one sentence
    and with nothing written: there are no published reports, a page is not the one that was published, or a page has no record.
    """
    published = read_published()
    if not published["notebooks"]:
        raise ValueError("There are no published reports to restore: reports/provenance.json is missing; check it out, or run `make reports PROFILE=full`.")
    without = sorted(path.stem for path in _reports().glob("[0-9][0-9]*_*.html") if path.stem not in published["notebooks"])
    if without:
        raise ValueError(f"reports/provenance.json has no record of {without[0]}, whose page is there: check reports/ out anew.")
    folder, told, files, kept = paths.build(PROFILE), [], {}, _rows(_reports() / "results")
    for name, record in published["notebooks"].items():
        own = [path for ending in (".ipynb", ".failed.ipynb", ".running.ipynb") if (path := folder / "notebooks" / f"{name}{ending}").is_file()]
        if own:
            told.append(f"{name}: kept as it was run here ({own[0].name})")
        elif name not in notebook.names():
            told.append(f"{name}: left out, the study has no such notebook any more")
        elif changed := provenance.stale(record):
            told.append(f"{name}: left out, {changed} changed since; run `gencausal run {name} --profile {PROFILE}`")
        else:
            _read(name, published)
            rows = kept.get(f"{name}.csv")
            if rows is not None:
                files[folder / "results" / f"{name}.csv"] = rows
            files[folder / "provenance" / f"{name}.json"] = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
            told.append(f"{name}: restored{'' if rows is not None else ', without rows of its own'}")
    for path, content in files.items():
        paths.write_whole(path, content)
    return told


def read_published() -> dict:
    """What `reports/provenance.json` says: `notebooks` (records by name, in the order a run writes them), `pages` (digests), `ledger`; empty ones where it is missing."""
    file = _reports() / "provenance.json"
    if not file.is_file():
        return {"notebooks": {}, "pages": None, "ledger": None}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        records = {name: _ordered(record) for name, record in found["notebooks"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError("reports/provenance.json cannot be read: check it out anew.") from None
    return {"notebooks": records, "pages": found.get("pages"), "ledger": found.get("ledger")}


def page(name: str, record: dict, published: dict, cards: dict[str, dict]) -> pages.Page | None:
    """The published page of notebook `name`, its claims as in `cards` (`pages.cards`); None where `record`, the one under build/, is not the published run.

    published: `read_published()`. ValueError where the page is not as it was published, or shows a claim that the ledger lacks.
    """
    if record.get("status") != "completed" or record != published["notebooks"].get(name):
        return None
    made, ledger = _read(name, published), {claim.key: claim for claim in claims.ledger()}
    for key, (cell, _) in made.claims.items():
        if key not in ledger:
            raise ValueError(f"The published page of {name} shows claim {key}, which claims.yaml lacks: run `gencausal run {name} --profile {PROFILE}`.")
        made.claims[key] = (cell, str(cards[key].get("note") or ""))
    made.body = _CARD.sub(lambda card: pages.card(cards[unescape(card[1])], ledger[unescape(card[1])]), made.body)
    return made


def outdated(name: str, published: dict, judged: pd.DataFrame) -> str:
    """What a published page of `name` no longer shows rightly, empty for nothing: only a notebook that reads the ledger shows rows of others.

    judged: the ledger judged now (`claims.evaluate`).
    """
    if not re.search(r"\bclaims\.(ledger|read|evaluate|parts)\(", notebook.source_path(name).read_text(encoding="utf-8")):
        return ""
    if published["ledger"] not in (None, ledger_sha256()):
        return "claims.yaml"
    here, there = (_rows(folder) for folder in (paths.build(PROFILE) / "results", _reports() / "results"))
    for file in sorted(set(here) | set(there)):
        if here.get(file) != there.get(file):
            return f"results/{file}"
    verdicts = _reports() / "results" / "claims.csv"
    return "" if verdicts.is_file() and verdicts.read_text(encoding="utf-8") == judged.to_csv(index=False, lineterminator="\n") else "claims.yaml"


def ledger_sha256() -> str:
    """Hex digest of the ledger."""
    return provenance.sha256(paths.root() / "claims.yaml")


def digest(html: str) -> str:
    """Hex digest of what a page takes from its notebook, claim cards (judged anew) cut out; ValueError for something else than a page of ours."""
    made = _parse(html)
    shown = [made.title, made.contents, _CARD.sub(lambda card: f"claim {card[1]}", made.body)]
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()


def _rows(folder: Path) -> dict[str, bytes]:
    """`NAME.csv` to its content, of rows that stand there plain or packed."""
    plain = {path.name: path.read_bytes() for path in folder.glob("*.csv") if path.name != "claims.csv"}
    return plain | {path.name.removesuffix(".gz"): gzip.decompress(path.read_bytes()) for path in folder.glob(f"*{PACKED}")}


def _reports() -> Path:
    return paths.root() / "reports"


def _read(name: str, published: dict) -> pages.Page:
    file = _reports() / f"{name}.html"
    if not file.is_file():
        raise ValueError(f"reports/{name}.html is missing: check it out, or run `gencausal run {name} --profile {PROFILE}`.")
    html = file.read_text(encoding="utf-8")
    try:
        made = _parse(html)
        same = digest(html) == published["pages"].get(name) if published["pages"] is not None else _as_committed(name)
        if '<p class="unfinished">' in made.body or f'alt="{figures.UNDESCRIBED}"' in made.body:
            raise ValueError("holds an unfinished cell or a figure without alt text")
    except ValueError as error:
        raise ValueError(f"reports/{name}.html {error}: check it out anew, or run `gencausal run {name} --profile {PROFILE}`.") from None
    if not same:
        raise ValueError(f"reports/{name}.html is not as it was published: check it out anew, or run `gencausal run {name} --profile {PROFILE}`.")
    made.name = name
    return made


def _parse(html: str) -> pages.Page:
    """The parts of a page that came from its notebook, as they stand there; ValueError, as the rest of a sentence, for something else than a page of ours."""
    found, contents = _PAGE.search(html), _CONTENTS.search(html)
    if found is None:
        raise ValueError("is no page of a notebook")
    body = found["body"]
    headings = _HEADING.findall(contents[1]) if contents else []
    if contents and "".join(f'<li class="level{level}"><a href="#{anchor}">{heading}</a></li>\n' for level, anchor, heading in headings) != contents[1]:
        raise ValueError("has contents that cannot be read")
    cells, shown = [(cell.start(), unescape(cell[1])) for cell in _CELL.finditer(body)], {}
    for card in _CARD.finditer(body):
        place = [cell for start, cell in cells if start < card.start()]
        if not place:
            raise ValueError("shows a claim outside a cell")
        shown.setdefault(unescape(card[1]), (place[-1], ""))
    if len(_CARD.findall(body)) != body.count('<article class="claim"'):
        raise ValueError("has a claim that cannot be read")
    code = body.count('<details class="input">')
    return pages.Page("", found["title"], body.replace("<a data-to=", "<a href="), [(anchor, int(level), heading) for level, anchor, heading in headings], shown, [], {"completed": code} if code else {})


def _ordered(record: dict) -> dict:
    """A record with its keys in the order in which a run writes them, which JSON with sorted keys has lost."""
    made = dict(record)
    try:
        order = list(notebook.parameters(notebook.read(record["notebook"]), record["notebook"]))
    except ValueError:
        order = []
    parameters = record.get("parameters") or {}
    made["parameters"] = {key: parameters[key] for key in sorted(parameters, key=lambda key: (order.index(key) if key in order else len(order), key))}
    made["modules"] = dict(sorted((record.get("modules") or {}).items(), key=lambda item: Path(item[0])))
    made["versions"] = dict(sorted((record.get("versions") or {}).items(), key=lambda item: item[0].lower()))
    return made


def _as_committed(name: str) -> bool:
    """Whether the page is the committed one: for reports from before digests were published."""
    done = subprocess.run(["git", "status", "--porcelain", "--", f"reports/{name}.html"], cwd=paths.root(), capture_output=True, text=True, check=False)
    return done.returncode == 0 and not done.stdout.strip()
