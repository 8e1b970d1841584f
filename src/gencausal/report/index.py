"""The index of a report, and the page that puts a rerun beside the published report."""

import base64
import hashlib
from collections import Counter

from gencausal import claims as ledger
from gencausal.claims.rows import PACKED
from gencausal.report import drawing, layout, overview, summary


def html(study, cards: list[dict], published: list[dict]) -> str:
    """The index page of a `site.Study`. cards: what is said of each notebook; published: the claims of the published report, empty where there is none."""
    headlines = []
    for experiment, metric, heading in overview.HEADLINES:
        rows = overview.whiskers(overview.headline(study.rows, experiment, metric))
        if rows:
            headlines.append({"anchor": _anchor(experiment, metric), "heading": heading, "experiment": experiment, "metric": metric, "rows": rows})
    claims = [_with_links(claim, study) for claim in study.claims]
    experiments = {claim.key: claim.experiment for claim in ledger.ledger()}
    script = (layout.TEMPLATES / "filter.js").read_text(encoding="utf-8")
    places = Counter(row["place"] for row in overview.beside_published(study.claims, published))
    return layout.render(
        "overview.html.j2",
        profile=study.profile,
        meaning=layout.PROFILES[study.profile],
        notebooks=cards,
        outdated=study.outdated,
        unfinished=[f"{card['name']}: {card['state']}" for card in cards if card["state"] != "completed"],
        verdicts=overview.counts(study.claims),
        summaries=summary.summaries(study.claims),
        questions=summary.questions(claims, experiments, {name: page.contents for name, page in study.pages.items()}),
        looks=list(layout.VERDICTS.values()),
        claims=claims,
        against=overview.against_published(claims),
        claims_csv="claims.csv" in study.tables,
        headlines=headlines,
        places=places,
        graph=drawing.graph(cards),
        facts=_facts(study, cards),
        script=layout.Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def rerun_html(study, published: list[dict], records: dict[str, dict]) -> str:
    """Each claim with the published value, the published run's and this run's, and what differs between the two. records: of the published run."""
    return layout.render(
        "rerun.html.j2",
        profile=study.profile,
        meaning=layout.PROFILES[study.profile],
        published_profile=next((claim["profile"] for claim in published if claim.get("profile")), "full"),
        rerun=overview.beside_published(study.claims, published),
        differences=overview.differences(study.records, records),
    )


def _facts(study, cards: list[dict]) -> list[tuple[str, str]]:
    together = list(study.records.values())
    commits = sorted({str(record.get("commit"))[:12] + (" with uncommitted changes" if record.get("dirty") else "") for record in together})
    seconds = [record["wall_seconds"] for record in together if record.get("wall_seconds") is not None]
    facts = [
        ("Profile", study.profile),
        ("Commit", ", ".join(commits) or "–"),
        ("Notebooks run", f"{sum(card['state'] == 'completed' for card in cards)} of {len(cards)}"),
        ("Wall time, all notebooks", layout.duration(sum(seconds)) if seconds else "–"),
    ]
    memory = [record["peak_memory_mib"] for record in together if record.get("peak_memory_mib") is not None]
    facts += [("Peak memory, largest notebook", f"{max(memory):.0f} MiB")] if memory else []
    return facts + [(term, ", ".join(sorted({str(record[key]) for record in together if record.get(key)}))) for term, key in (("Device", "device"), ("torch", "torch"), ("Python", "python"), ("Platform", "platform")) if any(record.get(key) for record in together)]


def _with_links(claim: dict, study) -> dict:
    """The claim with links to the cell that shows it and to its rows, each only where the target is there."""
    source = claim["notebook"]
    homes = [source, *study.notebooks] if source in study.pages else study.notebooks
    home = next((name for name in homes if name in study.pages and claim["claim"] in study.pages[name].claims), None)
    cell = f"{home}.html#cell-id={study.pages[home].claims[claim['claim']][0]}" if home else ""
    return claim | {"cell_href": cell, "csv_href": f"results/{source}{PACKED}" if f"{source}{PACKED}" in study.tables else "", "name": layout.SYSTEMS.get(claim["system"], claim["system"]),
                    "rank": list(layout.VERDICTS).index(claim["verdict"]) if claim["verdict"] in layout.VERDICTS else len(layout.VERDICTS), "ratio": overview.ratio(claim)}


def _anchor(experiment: str, metric: str) -> str:
    return f"rows-{experiment}-{metric}".replace(".", "-")
