"""The whole ledger judged at one profile, checked against the notebooks, and compared with what was published."""

import numpy as np
import pandas as pd

from gencausal import notebook, paths
from gencausal.claims.bundle import number
from gencausal.claims.definitions import ledger
from gencausal.claims.rows import read, results_folder
from gencausal.claims.verdicts import GREEN, VERDICTS, judge, verdict

CLAIM_COLUMNS = ["claim", "system", "statement", "source", "published", "published_status", "ours", "ci_low", "ci_high",
                 "n_units", "n_seeds", "verdict", "profile", "notebook", "cell"]


def evaluate(profile: str) -> pd.DataFrame:
    """Every claim judged from the accepted rows of `profile`, one row each; also written to `results/claims.csv`.

    `cell` is the id of the cell in `notebook` that displays the claim, empty where none does.
    """
    rows, cells = read(profile), _cells()
    table = []
    for claim in ledger():
        made = verdict(claim, rows)
        table.append({
            "claim": claim.key, "system": claim.system, "statement": claim.statement, "source": claim.source, "published": claim.published,
            "published_status": claim.published_status, "ours": made.ours, "ci_low": made.ci_low, "ci_high": made.ci_high, "n_units": made.n_units,
            "n_seeds": made.n_seeds, "verdict": made.verdict, "profile": profile, "notebook": claim.notebook, "cell": cells.get((claim.notebook, claim.key), ""),
        })
    made = pd.DataFrame(table, columns=CLAIM_COLUMNS)
    paths.write_whole(results_folder(profile) / "claims.csv", made.to_csv(index=False, lineterminator="\n"))
    return made


def parts(profile: str) -> pd.DataFrame:
    """Every rule of every claim that is run, judged from the accepted rows of `profile`: columns claim, kind (difference, ratio, value, bound),
    metric, label, ours, ci_low, ci_high, n_units, n_seeds, verdict, note. A claim with two rules has two lines."""
    rows, table = read(profile), []
    for claim in ledger():
        if not claim.runs:
            continue
        for rule in claim.rules:
            made = judge(rule, rows, claim.published)
            against = f" against {rule.against}" if hasattr(rule, "against") else ""
            table.append({"claim": claim.key, "kind": type(rule).__name__.lower(), "metric": rule.metric, "label": f"{claim.key}\n{rule.method}{against}\n{rule.metric}",
                          "ours": made.ours, "ci_low": made.ci_low, "ci_high": made.ci_high, "n_units": made.n_units, "n_seeds": made.n_seeds,
                          "verdict": made.verdict, "note": made.note})
    return pd.DataFrame(table, columns=["claim", "kind", "metric", "label", "ours", "ci_low", "ci_high", "n_units", "n_seeds", "verdict", "note"])


def read_claims(profile: str | None) -> pd.DataFrame | None:
    """The judged ledger of `profile`, or the published one for None; None if it was not written yet."""
    path = (paths.root() / "reports" if profile is None else paths.build(profile)) / "results" / "claims.csv"
    return pd.read_csv(path, float_precision="round_trip", keep_default_na=False, na_values={c: [""] for c in ("published", "ours", "ci_low", "ci_high")}) if path.is_file() else None


def check() -> list[str]:
    """What disagrees between ledger and notebooks, a sentence each: a claim that no cell displays, a cell with no claim."""
    cells, problems = _cells(), []
    rows = {claim.key: claim for claim in ledger()}
    for claim in rows.values():
        if claim.runs and (claim.notebook, claim.key) not in cells:
            problems.append(f"Claim {claim.key} has no cell results.claim(\"{claim.key}\") in notebook {claim.notebook}.")
    for name, key in cells:
        if key not in rows:
            problems.append(f"Notebook {name} displays claim {key}, which claims.yaml lacks.")
        elif rows[key].notebook != name:
            problems.append(f"Notebook {name} displays claim {key}, which claims.yaml gives to {rows[key].notebook}.")
        elif not rows[key].runs:
            problems.append(f"Notebook {name} displays claim {key}, which claims.yaml marks as not run.")
    return problems


def compare(profile: str) -> tuple[str, int]:
    """What `make reports` prints after a run, and its exit status.

    Counts the verdicts of this run and, for each claim with a number in both ledgers, says whether this run's number lies in the published
    95 % interval. Fewer units and seeds give other numbers, so a difference is only printed; the status is 1 if this run has no ledger, or
    refutes what was published: a claim reproduced in direction (its interval lies on the other side) at any profile, a number met within its tolerance
    (`reproduced`) at the published profile alone, since a shorter training need not reach the number.
    """
    index = paths.build(profile) / "reports" / "index.html"
    ours, published = read_claims(profile), read_claims(None)
    if ours is None:
        return f"Profile {profile} has no ledger yet; run: make reports PROFILE={profile}", 1
    lines = [f"Report: {index}" if index.is_file() else f"No report yet; run: gencausal report --profile {profile}", f"Verdicts ({profile}): {counts(ours)}"]
    if published is None:
        return "\n".join([*lines, "There is no published ledger to compare with (reports/results/claims.csv)."]), 0
    profiles = ", ".join(sorted(set(published["profile"])))
    lines.append(f"Published ({profiles}): {counts(published)}")
    beside, status = published.set_index("claim"), 0
    for row in ours.itertuples():
        if row.claim not in beside.index or not np.isfinite(row.ours):
            continue
        theirs = beside.loc[row.claim]
        if not np.isfinite(theirs["ci_low"]):
            where = "without a published interval"
        else:
            inside = theirs["ci_low"] <= row.ours <= theirs["ci_high"]
            where = f"{'inside' if inside else 'outside'} the published interval [{number(theirs['ci_low'])}, {number(theirs['ci_high'])}]"
        lines.append(f"  {row.claim}: your rerun {number(row.ours)}, {where}; {row.verdict} here, {theirs['verdict']} published")
        if theirs["verdict"] in GREEN and row.verdict == "refuted":
            lines.append(f"  {row.claim} was {theirs['verdict']} and is refuted by this run.")
            if theirs["verdict"] == "reproduced in direction" or theirs["profile"] == profile:
                status = 1
    return "\n".join(lines), status


def counts(table: pd.DataFrame) -> str:
    """`3 reproduced, 1 not shown ...`, in the order of `VERDICTS`, what does not occur left out."""
    return ", ".join(f"{(table['verdict'] == word).sum()} {word}" for word in VERDICTS if (table["verdict"] == word).any())


def _cells() -> dict[tuple[str, str], str]:
    return {(name, key): cell for name in notebook.names() for key, cell in notebook.claim_cells(name).items()}
