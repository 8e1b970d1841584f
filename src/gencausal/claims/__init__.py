"""From rows to verdicts: the ledger of published claims, the only writer of result rows, and the rules between them.

    results = claims.open_results(notebook="02a_score_distillation", profile=profile)
    results.record(rows)        # one row per experiment, data set, unit, method, metric and seed
    results.claim("iwdd.C4")    # judged by the rule of claims.yaml, displayed with its interval
    results.save()

A verdict is one of `VERDICTS`. No rows give `not run`; a single unit or a single seed is never green.
"""

from gencausal.claims.bundle import MIME, SHAPES, interval, number
from gencausal.claims.overall import check, compare, counts, evaluate, parts, read_claims
from gencausal.claims.definitions import Bound, Claim, Difference, NotRun, Ratio, Value, find, ledger
from gencausal.claims.rows import COLUMNS, METRICS, Results, open_results, read, read_published, record, tidy
from gencausal.claims.verdicts import GREEN, VERDICTS, Verdict, verdict

__all__ = ["MIME", "SHAPES", "interval", "number", "check", "compare", "counts", "evaluate", "parts", "read_claims", "Bound", "Claim", "Difference", "NotRun", "Ratio", "Value",
           "find", "ledger", "COLUMNS", "METRICS", "Results", "open_results", "read", "read_published", "record", "tidy", "GREEN", "VERDICTS", "Verdict", "verdict"]
