"""The ledger: `claims.yaml` read into typed rows. One row is one published claim with the rules that judge it."""

import difflib
from dataclasses import dataclass, fields

import yaml

from gencausal import paths
from gencausal.checks import InputError

STATUSES = ("verified", "second-hand", "not available")


@dataclass(frozen=True)
class Difference:
    """`method` against `against` on one metric, paired over units, or over seeds where each seed is a draw of its own (another design); holds if the interval is on the better side and the gain >= `gain`."""

    experiment: str
    dataset: str
    metric: str
    method: str
    against: str
    gain: float = 0.05
    over: str = "unit"


@dataclass(frozen=True)
class Ratio:
    """Mean of `method` over mean of `against`; holds if the whole interval is within `at_least` and `at_most`; paired over units, or over seeds where each seed is a draw of its own.

    against_dataset: where `against` has its rows, if not on `dataset`; units are then not paired, and each side is resampled on its own.
    """

    experiment: str
    dataset: str
    metric: str
    method: str
    against: str
    at_most: float | None = None
    at_least: float | None = None
    over: str = "unit"
    against_dataset: str = ""


@dataclass(frozen=True)
class Value:
    """Mean of `method` beside the published value; holds within `tolerance` (absolute). over: what the interval resamples, `unit`, or `seed`
    where the published number is itself one data set's."""

    experiment: str
    dataset: str
    metric: str
    method: str
    tolerance: float
    over: str = "unit"


@dataclass(frozen=True)
class Bound:
    """Mean of `method` against bounds of ours; holds if the whole interval (over units, or over seeds) is within `at_least` and `at_most`."""

    experiment: str
    dataset: str
    metric: str
    method: str
    at_most: float | None = None
    at_least: float | None = None
    over: str = "unit"


@dataclass(frozen=True)
class NotRun:
    """Not measured, and why."""

    experiment: str
    reason: str


RULES = {"difference": Difference, "ratio": Ratio, "value": Value, "bound": Bound, "not_run": NotRun}
Rule = Difference | Ratio | Value | Bound | NotRun


@dataclass(frozen=True)
class Claim:
    """One ledger row. `published` is None where no number is available; `rules` are judged together, the first gives the number shown."""

    key: str
    system: str
    statement: str
    source: str
    published: float | None
    published_status: str
    notebook: str
    experiment: str
    rules: tuple[Rule, ...]
    paper: str = ""

    @property
    def runs(self) -> bool:
        """Whether rows can judge it (False: `not run`, whatever the rows)."""
        return not any(isinstance(rule, NotRun) for rule in self.rules)

    @property
    def reason(self) -> str:
        """Why it is not run; empty for a claim that is."""
        return "; ".join(rule.reason for rule in self.rules if isinstance(rule, NotRun))


def ledger() -> list[Claim]:
    """Every claim of `claims.yaml`, in its order; InputError naming the row if one cannot be used."""
    return parse((paths.root() / "claims.yaml").read_text(encoding="utf-8"))


def parse(text: str) -> list[Claim]:
    """The claims of ledger `text` (YAML with `papers` and `claims`)."""
    document = yaml.safe_load(text)
    papers, found = document["papers"], []
    for row in document["claims"]:
        key = row.get("key", "?")
        if unknown := set(row) - {f.name for f in fields(Claim)}:
            raise InputError(f"claims.yaml, {key}: unknown field '{sorted(unknown)[0]}'; remove it or correct its name.")
        if row.get("published_status") not in STATUSES:
            raise InputError(f"claims.yaml, {key}: published_status is {row.get('published_status')!r}; use one of {', '.join(STATUSES)}.")
        if row.get("system") not in papers:
            raise InputError(f"claims.yaml, {key}: system {row.get('system')!r} has no entry under papers; add one.")
        published = row.get("published")
        if not (published is None or type(published) in (int, float)):
            raise InputError(f"claims.yaml, {key}: published is {published!r}; give a number or null.")
        if published is not None and row["published_status"] == "not available":
            raise InputError(f"claims.yaml, {key}: a published value stands beside 'not available'; correct one of the two.")
        rules = tuple(_rule(dict(rule), row, key) for rule in row.get("rules") or [])
        if not rules:
            raise InputError(f"claims.yaml, {key}: no rule; add one of {', '.join(RULES)}.")
        if published is None and any(isinstance(rule, Value) for rule in rules):
            raise InputError(f"claims.yaml, {key}: a 'value' rule needs a published number; give one or use another rule.")
        paper = papers[row["system"]]
        found.append(Claim(**{**row, "rules": rules, "paper": f"{paper['title']}, {paper['source']}"}))
    keys = [claim.key for claim in found]
    if twice := {key for key in keys if keys.count(key) > 1}:
        raise InputError(f"claims.yaml: {sorted(twice)[0]} stands there twice; give each claim its own key.")
    return found


def find(key: str) -> Claim:
    """The claim `key`; InputError with the nearest key if the ledger lacks it."""
    rows = {claim.key: claim for claim in ledger()}
    if key not in rows:
        near = difflib.get_close_matches(key, rows, n=1)
        raise InputError(f"claims.yaml has no claim '{key}'{f' (did you mean {near[0]!r}?)' if near else ''}; add it there or correct the key.")
    return rows[key]


def _rule(rule: dict, row: dict, key: str) -> Rule:
    kind = rule.pop("kind", None)
    if kind not in RULES:
        raise InputError(f"claims.yaml, {key}: rule kind {kind!r} is unknown; use one of {', '.join(RULES)}.")
    rule.setdefault("experiment", row.get("experiment"))
    try:
        made = RULES[kind](**rule)
    except TypeError as error:
        raise InputError(f"claims.yaml, {key}: rule '{kind}' has wrong fields ({str(error).split('__init__() ')[-1]}); correct them.") from None
    if getattr(made, "over", "unit") not in ("unit", "seed"):
        raise InputError(f"claims.yaml, {key}: over is {made.over!r}; use unit or seed.")
    if isinstance(made, (Ratio, Bound)) and made.at_most is None and made.at_least is None:
        raise InputError(f"claims.yaml, {key}: rule '{kind}' needs at_most or at_least; add one.")
    return made
