"""Words before the claims: what each system's study comes to, and where a review's question is answered (`summaries.yaml`).

A text holds no result. `{key}` becomes our number of that claim with its interval, `{key:verdict}` its verdict, `{key:published}` the paper's number,
each a link to the claim; a key that the ledger lacks is an error, and a claim without rows says that it was not run.
"""

import re

import yaml
from markupsafe import Markup, escape

from gencausal import paths
from gencausal.checks import InputError
from gencausal.report import layout

FORM = {"scope": "Scope", "easy": "What was easy", "difficult": "What was difficult", "deviations": "Deviations", "open": "What the paper leaves open"}
_BLANK = re.compile(r"\{([\w.]+)(?::(\w+))?\}")


def read() -> dict:
    """`summaries.yaml`: `systems` (texts of `FORM` by system) and `questions`; both empty where there is none. InputError for another form."""
    path = paths.root() / "summaries.yaml"
    found = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    made = {"systems": found.get("systems") or {}, "questions": found.get("questions") or []}
    for system, texts in made["systems"].items():
        if list(texts) != list(FORM):
            raise InputError(f"summaries.yaml, {system}: the entries are {', '.join(texts)}; write {', '.join(FORM)}, in that order.")
    return made


def fill(text: str, claims: dict[str, dict]) -> Markup:
    """`text` as HTML with its blanks filled from judged claims (by key)."""
    made, at = Markup(), 0
    for blank in _BLANK.finditer(text):
        key, what = blank[1], blank[2] or "ours"
        if key not in claims or what not in ("ours", "verdict", "published"):
            raise InputError(f"summaries.yaml: {blank[0]} is no claim of the ledger with ours, verdict or published; correct it.")
        claim = claims[key]
        words = {"verdict": claim["verdict"], "published": layout.plain(claim["published"]) if claim["published"] is not None else claim["published_status"],
                 "ours": layout.with_interval(claim["ours"], claim["ci_low"], claim["ci_high"]) if claim["ours"] is not None else "not run"}[what]
        made += escape(text[at : blank.start()]) + Markup('<a href="#claim-{}">{}</a>').format(key, words)
        at = blank.end()
    return made + escape(text[at:])


def summaries(claims: list[dict]) -> dict[str, list[tuple[str, Markup]]]:
    """Per system that has claims: (heading, text) in the order of `FORM`."""
    by_key, systems = {claim["claim"]: claim for claim in claims}, {claim["system"] for claim in claims}
    return {system: [(FORM[part], fill(" ".join(text.split()), by_key)) for part, text in texts.items()] for system, texts in read()["systems"].items() if system in systems}


def questions(claims: list[dict], experiments: dict[str, str], contents: dict[str, list[tuple[str, int, str]]]) -> list[dict]:
    """Each question with the sections that answer it (address, heading) and the claims of its experiment; questions of systems without claims are left out.

    experiments: claim to experiment; contents: page to (anchor, level, heading as HTML), a section answers where its heading names the experiment.
    """
    systems, made = {claim["system"] for claim in claims}, []
    for question in read()["questions"]:
        name = question["experiment"]
        if name.partition(".")[0] not in systems:
            continue
        code = f"<code>{name}</code>"
        sections = [(f"{page}.html#{anchor}", Markup(heading).striptags().partition(name)[0].rstrip(": ")) for page, found in contents.items() for anchor, _, heading in found if code in heading]
        made.append(question | {"sections": sections, "claims": [claim for claim in claims if experiments.get(claim["claim"]) == name]})
    return made
