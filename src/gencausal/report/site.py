"""A folder of pages from what one profile left under build/: read, render, put beside the old folder, swap."""

import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import pandas as pd

from gencausal import claims, notebook, paths, provenance
from gencausal.claims import guards
from gencausal.claims.rows import PACKED, packed
from gencausal.report import clean, index, layout, overview, pages, restored

MODULES = {  # notebook: what it leans on and what guards it (STYLE.md)
    "00_overview": (("claims", "data/registry"), ("claims", "registry")),
    "01_diffusion_pretraining": (("diffusion", "sampling", "training"), ("diffusion", "sampling", "training")),
    "01b_image_diffusion": (("nn/unet", "solvers", "image_models"), ("unet", "solvers", "image_models")),
    "02a_score_distillation": (("distillation", "estimators"), ("distillation", "estimators")),
    "02b_treatment_effects": (("estimators", "baselines", "experiments"), ("estimators", "baselines", "benchmark")),
    "02c_your_data": (("estimators", "data/files"), ("iwdd", "files")),
    "02d_stress_tests": (("experiments", "bounds", "released"), ("designs", "bounds", "released")),
    "03a_counterfactual_images": (("guidance", "counterfactual", "scm", "experiments/pictures", "experiments/sequences"), ("guidance", "counterfactual", "scm", "experiment_pictures", "sequences")),
    "03b_image_benchmark": (("experiments/components", "experiments/benchmark_images", "experiments/discovery"), ("components", "benchmark_images", "discovery")),
    "03c_image_trust": (("experiments/autoencoders", "experiments/probes", "experiments/trust", "nulls"), ("autoencoders", "probes", "trust", "nulls")),
    "04a_variational_causal_inference": (("vci", "experiments/individuals", "experiments/robust_cells", "robust"), ("individuals", "robust_cells", "robust", "vci")),
    "04b_unseen_cells": (("cell_models", "cell_metrics", "independence", "experiments/leakage"), ("cell_models", "cell_metrics", "independence", "leakage")),
    "04c_variational_digits": (("vci/images", "image_models/vci", "experiments/digits"), ("vci_images", "digits")),
    "05a_cond_fip": (("cond_fip", "amortised", "scm_models", "experiments/scm_tables"), ("cond_fip", "amortised", "scm_models", "experiments_scms")),
    "05b_fixed_point": (("cond_fip/inference", "experiments/scm_fixed_point", "experiments/scm_training"), ("cond_fip", "experiments_scms")),
    "05c_unseen_laws": (("scm_metrics", "experiments/scm_laws", "experiments/scm_tables", "data/scm_equations"), ("scm_metrics", "experiments_scms", "scm_equations")),
    "06_claims": (("claims", "report"), ("claims", "report")),
}


@dataclass
class Study:
    """All that the pages of one profile show: notebooks in reading order, their pages, run records, claims and rows."""

    profile: str
    notebooks: list[str]
    pages: dict[str, pages.Page]
    records: dict[str, dict]
    claims: list[dict]
    rows: pd.DataFrame
    tables: dict[str, bytes]
    outdated: dict[str, str] = field(default_factory=dict)  # notebook to the file that has changed since it was run

    def state(self, name: str) -> str:
        """`completed` only where an accepted notebook and a record that agrees are there; what was not run is never that."""
        page, record = self.pages.get(name), self.records.get(name, {})
        if record.get("status") == "failed":
            return "failed"
        if page is None:
            return "not run"
        return "completed" if page.accepted and record.get("status") == "completed" else "failed" if page.cells.get("failed") else "incomplete"


def _records(table: pd.DataFrame) -> list[dict]:
    return table.astype(object).where(table.notna(), None).to_dict("records")


def _claims(table: pd.DataFrame, found: dict[str, pages.Page]) -> list[dict]:
    """The judged ledger `table`, measured claims first; `note` says why, `measured` what the number is."""
    judged, rows = {row["claim"]: row for row in _records(table)}, []
    for claim in claims.ledger():
        shown = [page.claims[claim.key][1] for page in found.values() if claim.key in page.claims]
        rows.append(judged[claim.key] | {"note": claim.reason or next(iter(shown), ""), "measured": overview.measured(claim)})
    return sorted(rows, key=lambda row: row["verdict"] == "not run")


def read(profile: str) -> Study:
    """What `build/<profile>/` holds. ValueError for an unknown profile, FileNotFoundError before the first run."""
    if profile not in layout.PROFILES:
        raise ValueError(f"There is no profile {profile!r}; the profiles are {', '.join(layout.PROFILES)}.")
    folder = paths.build(profile)
    if not folder.is_dir():
        raise FileNotFoundError(f"Profile {profile} has not been run yet, so there is nothing to report: run `make reports PROFILE={profile}` first.")
    exporter, found, records = pages.ReportExporter(), {}, {}
    exporter.judged = pages.cards(profile)
    executed = {}
    for ending in (".failed.ipynb", ".ipynb"):  # an accepted notebook wins over one that failed
        paths_found = (folder / "notebooks").glob(f"[0-9][0-9]*_*{ending}")
        executed |= {path.name.removesuffix(ending): path for path in paths_found if "." not in path.name.removesuffix(ending)}
    sources = notebook.names()
    names = sorted(set(sources) | set(executed))
    published = restored.read_published() if profile == restored.PROFILE else {}
    again = []
    for name in names:
        record = folder / "provenance" / f"{name}.json"
        if record.is_file():
            records[name] = clean.every_text(json.loads(record.read_text(encoding="utf-8")))
        if name in executed:
            found[name] = exporter.page(nbformat.read(executed[name], as_version=4), name)
        elif published and name in records and (page := restored.page(name, records[name], published, exporter.judged)):
            found[name] = page
            again.append(name)
    judged = claims.evaluate(profile)
    outdated = {name: changed for name in found if name in sources and name in records and (changed := provenance.stale(records[name]))}
    outdated |= {name: changed for name in again if name not in outdated and (changed := restored.outdated(name, published, judged))}
    tables = {path.name: path.read_bytes() for path in sorted((folder / "results").glob("*.csv"))}
    tables = {name if name == "claims.csv" else f"{name}.gz": content if name == "claims.csv" else packed(content) for name, content in tables.items()}
    return Study(profile, names, found, records, _claims(judged, found), claims.read(profile), tables, outdated)


def relative(target: Path, folder: Path) -> str:
    """`target` as seen from a page in `folder`; empty where it is not there or either lies outside the study."""
    root = paths.root().resolve()
    target, folder = target.resolve(), folder.resolve()
    if not target.exists() or root not in folder.parents or root not in target.parents:
        return ""
    return Path(os.path.relpath(target, folder)).as_posix()


def _behind(name: str, folder: Path) -> list[tuple[str, list[tuple[str, str]]]]:
    modules, tests = MODULES.get(name, ((), ()))
    root, groups = paths.root(), []
    sources = [("notebook", [root / "notebooks" / f"{name}.py"])]
    for label, places in (
        ("module", [(root / f"src/gencausal/{module}.py", root / f"src/gencausal/{module}/__init__.py") for module in modules]),
        ("test", [(root / f"tests/test_{test}.py",) for test in tests]),
    ):
        sources.append((label, [next((place for place in choice if place.exists()), choice[0]) for choice in places]))
    for label, files in sources:
        there = [(file.relative_to(root).as_posix(), relative(file, folder)) for file in files if file.exists()]
        if there:
            groups.append((label, there))
    return groups


def _mend_links(html: str, name: str, study: Study, folder: Path) -> str:
    """Links of the notebook's text: to other notebooks become links to pages, to files of the study stay right from `folder`, others lose their link and keep its address, for the day it leads somewhere."""

    def mended(match: re.Match) -> str:
        address, _, anchor = match[1].partition("#")
        if not address or re.match(r"[a-z]+:", address):
            return match[0]
        page = re.fullmatch(r"(?:\./|\.\./notebooks/)?([0-9]{2}[a-z]?_\w+)\.(?:ipynb|py|html)", address)
        if page:
            target = f"{page[1]}.html" if page[1] in study.pages else ""
        else:
            target = relative(paths.root() / "notebooks" / address, folder)
        return f'<a href="{target}{"#" + anchor if anchor else ""}"' if target else f'<a data-to="{match[1]}"'

    return re.sub(r'<a href="([^"]*)"', mended, html)


def _facts(record: dict) -> tuple[list, list]:
    """What a record says, as terms and values, and as folded listings."""
    commit = record.get("commit")
    terms = {
        "Commit": f"{str(commit)[:12]}{' with uncommitted changes' if record.get('dirty') else ''}" if commit else None,
        "Profile": record.get("profile"),
        "Seeds": ", ".join(map(str, record.get("seeds") or [])),
        "Device": record.get("device"),
        "Threads": record.get("threads"),
        "CPU": record.get("cpu_capability"),
        "Platform": record.get("platform"),
        "Python": record.get("python"),
        "torch": record.get("torch"),
        "Started": record.get("started"),
        "Wall time": layout.duration(record.get("wall_seconds")) if record.get("wall_seconds") is not None else None,
        "CPU time": layout.duration(record.get("cpu_seconds")) if record.get("cpu_seconds") is not None else None,
        "Peak memory": f"{record['peak_memory_mib']:.0f} MiB" if record.get("peak_memory_mib") is not None else None,
        "Run": record.get("run_id"),
    }
    listings = [
        ("Parameters", record.get("parameters")),
        ("Data, sha256", record.get("data")),
        ("Modules, sha256 of the code without comments", record.get("modules")),
        ("Package versions", record.get("versions")),
    ]
    hashes = {"notebook": record.get("source_sha256"), "lock": record.get("lock_sha256")}
    listings.append(("Notebook and lock, sha256", {name: value for name, value in hashes.items() if value}))
    shown = [(summary, [(key, value if isinstance(value, str) else json.dumps(value)) for key, value in pairs.items()]) for summary, pairs in listings if pairs]
    return [(term, value) for term, value in terms.items() if value not in (None, "")], shown


def _card(study: Study, name: str) -> dict:
    record, page = study.records.get(name, {}), study.pages.get(name)
    return {
        "name": name,
        "state": study.state(name),
        "href": f"{name}.html" if page else "",
        "cells": page.cells if page else record.get("cells", {}),
        "seeds": ", ".join(map(str, record.get("seeds") or [])) or "–",
        "time": layout.duration(record.get("wall_seconds")),
        "memory": f"{record['peak_memory_mib']:.0f} MiB" if record.get("peak_memory_mib") is not None else "–",
        "csv": f"results/{name}{PACKED}" if f"{name}{PACKED}" in study.tables else "",
    }


def _equations(page: pages.Page, where: dict[str, dict[str, list[Path]]], folder: Path) -> list[dict]:
    """For each section of a page that cites equation keys: its anchor, its heading and, for each key, the modules and the tests that name it."""
    made, headings = [], {anchor: heading for anchor, _, heading in page.contents}
    for section in re.split(r'(?=<h[23] id=")', page.body):
        anchor = re.match(r'<h[23] id="([^"]*)">', section)
        cited = guards.keys(" ".join(re.findall(r"<code>(Eq\. [^<]*)</code>", section)))
        rows = [{"key": key} | {kind: [(file.name.removesuffix(".py"), relative(file, folder)) for file in where[kind].get(key, [])] for kind in where} for key in sorted(cited)]
        if rows:
            made.append({"anchor": anchor[1] if anchor else "content", "heading": headings.get(anchor[1], anchor[1]) if anchor else "Introduction", "rows": rows})
    return made


def _page_html(study: Study, name: str, folder: Path, where: dict[str, dict[str, list[Path]]]) -> str:
    page = study.pages[name]
    shown = [other for other in study.notebooks if other in study.pages]
    place = shown.index(name)
    facts, listings = _facts(study.records.get(name, {}))
    return layout.render(
        "page.html.j2",
        name=name,
        profile=study.profile,
        meaning=layout.PROFILES[study.profile],
        state=study.state(name),
        outdated=study.outdated.get(name, ""),
        title=page.title,
        plain_title=layout.Markup(page.title).striptags(),
        contents=page.contents,
        body=_mend_links(page.body, name, study, folder),
        cells=page.cells,
        csv=f"results/{name}{PACKED}" if f"{name}{PACKED}" in study.tables else "",
        links=_behind(name, folder),
        notebooks=[_card(study, other) for other in study.notebooks],
        previous=_card(study, shown[place - 1]) if place else None,
        next=_card(study, shown[place + 1]) if place + 1 < len(shown) else None,
        equations=_equations(page, where, folder),
        facts=facts,
        listings=listings,
    )


def published_claims() -> list[dict]:
    """The claims table of the committed report, empty before the first one."""
    table = claims.read_claims(None)
    return [] if table is None else _records(table)


def files(study: Study, target: Path, published: list[dict]) -> dict[str, bytes]:
    """Name to content of every file of the reports, with links that are right from `target`."""
    where = guards.places()
    files: dict[str, str | bytes] = {f"{name}.html": _page_html(study, name, target, where) for name in study.pages}
    cards = [_card(study, name) for name in study.notebooks]
    files["index.html"] = index.html(study, cards, published)
    if published:
        files["rerun.html"] = index.rerun_html(study, published, restored.read_published()["notebooks"])
    files |= {f"results/{name}": content for name, content in study.tables.items()}
    commits = {record.get("commit") for record in study.records.values()}
    summary = {"commit": commits.pop() if len(commits) == 1 else None, "profile": study.profile, "notebooks": study.records}
    if study.profile == restored.PROFILE:
        summary |= {"ledger": restored.ledger_sha256(), "pages": {name: restored.digest(files[f"{name}.html"]) for name in study.pages if study.state(name) == "completed"}}
    files["provenance.json"] = json.dumps(summary, indent=1, sort_keys=True) + "\n"
    return {name: content.encode() if isinstance(content, str) else content for name, content in files.items()}


def write(files: dict[str, bytes], target: Path) -> Path:
    """The whole folder `target`, or the old one untouched; returns its index.html."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        for name, content in files.items():
            paths.write_whole(fresh / name, content)
        fresh.chmod(0o755)
        _swap(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target / "index.html"


def _swap(fresh: Path, target: Path) -> None:
    """`fresh` takes the place of `target`; where that fails the old folder comes back."""
    if not target.exists():
        fresh.rename(target)
        return
    old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-old-"))
    target.rename(old / "kept")
    try:
        fresh.rename(target)
    except OSError:
        (old / "kept").rename(target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
