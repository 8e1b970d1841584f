"""A verdict from rows: paired over units, seeds averaged first, 95 % percentile bootstrap over units.

Notation: U units, a_u and b_u the seed means of `method` and `against` on unit u. The interval resamples units with replacement
(10,000 times, a fixed stream), so it speaks of other units of the same benchmark; the seeds enter through the unit means.

    difference  (1/U) sum_u (b_u - a_u), units or (`over: seed`) seeds, where lower is better, the opposite sign otherwise: positive is the claimed side
    ratio       sum_u a_u / sum_u b_u; of two data sets (`against_dataset`) the ratio of the means, each side's units resampled on its own
    value       (1/U) sum_u a_u, beside the published number
    bound       (1/U) sum_u a_u, inside bounds of ours

A single unit gives no interval, and a single seed leaves the spread over seeds unknown: neither is ever green.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

from gencausal.claims.definitions import Bound, Claim, Difference, NotRun, Ratio, Rule, Value

VERDICTS = ("reproduced", "reproduced in direction", "partial", "not shown", "refuted", "not run")
GREEN = VERDICTS[:2]
RESAMPLES = 10_000
STREAM = 20250516


@dataclass(frozen=True)
class Verdict:
    """ours: the number of the rule, [ci_low, ci_high] its 95 % interval (NaN without one); n_units, n_seeds: what it rests on;
    verdict: one of `VERDICTS`; note: one sentence why; extras: Wilcoxon p, win rate, mean rank ... of a difference; parts: the
    verdict of each rule, where the claim has several (the numbers are then those of the first)."""

    verdict: str
    ours: float = np.nan
    ci_low: float = np.nan
    ci_high: float = np.nan
    n_units: int = 0
    n_seeds: int = 0
    note: str = ""
    extras: dict = field(default_factory=dict)
    parts: tuple["Verdict", ...] = ()


def verdict(claim: Claim, rows: pd.DataFrame) -> Verdict:
    """The verdict of `claim` from `rows` (columns of claims.COLUMNS)."""
    if not claim.runs:
        return Verdict("not run", note=claim.reason)
    parts = tuple(judge(rule, rows, claim.published) for rule in claim.rules)
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    note = "; ".join(f"({i}) {p.verdict}: {p.note}" for i, p in enumerate(parts, 1))
    return Verdict(combine([p.verdict for p in parts]), first.ours, first.ci_low, first.ci_high, min(p.n_units for p in parts), min(p.n_seeds for p in parts), note, first.extras, parts)


def combine(words: list[str]) -> str:
    """One word for several rules: what was not run is not green, a refutation stands, and only what holds throughout is green."""
    for word in ("not run", "refuted"):
        if word in words:
            return word
    if all(word in GREEN for word in words):
        return max(words, key=VERDICTS.index)
    return "not shown" if all(word == "not shown" for word in words) else "partial"


def judge(rule: Rule, rows: pd.DataFrame, published: float | None = None) -> Verdict:
    """The verdict of one rule from `rows`."""
    if isinstance(rule, NotRun):
        return Verdict("not run", note=rule.reason)
    cases = rows[(rows["experiment"] == rule.experiment) & (rows["dataset"] == rule.dataset) & (rows["metric"] == rule.metric)]
    if isinstance(rule, (Value, Bound)):
        ours = _unit_means(cases, rule.method, rule.over)
        seeds = len(ours) if rule.over == "seed" else _seeds(cases, rule.method, ours.index)
        return _value(rule, ours, seeds, published) if isinstance(rule, Value) else _bound(rule, ours, seeds)
    over = getattr(rule, "over", "unit")
    if getattr(rule, "against_dataset", ""):
        return _between(rule, cases, rows[(rows["experiment"] == rule.experiment) & (rows["dataset"] == rule.against_dataset) & (rows["metric"] == rule.metric)])
    both = pd.concat({"a": _unit_means(cases, rule.method, over), "b": _unit_means(cases, rule.against, over)}, axis=1)
    alone = both[both.isna().any(axis=1)]
    both = both.dropna()
    if both.empty:
        return Verdict("not run", note=f"no rows of {rule.method} beside {rule.against} for {rule.metric} on {rule.dataset} ({rule.experiment})")
    seeds = len(both) if over == "seed" else _seeds(cases, rule.method, both.index)
    made = (_difference if isinstance(rule, Difference) else _ratio)(rule, both, seeds, cases, published)
    if len(alone):
        made = Verdict(**{**vars(made), "note": f"{made.note}; left out as unpaired: {len(alone)} of {len(alone) + len(both)} {over}s"})
    return made


def bootstrap(values: np.ndarray, statistic=lambda v: v.mean(axis=-2)) -> tuple[float, float]:
    """95 % percentile interval of `statistic` over resampled rows of `values` [U, k]; statistic maps [..., U, k] to [..., k] or [...]."""
    values = np.asarray(values, dtype=float)
    picks = np.random.default_rng(STREAM).integers(0, len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(np.ravel(statistic(values[picks])), [0.025, 0.975])
    return float(low), float(high)


def _difference(rule: Difference, both: pd.DataFrame, seeds: int, cases: pd.DataFrame, published: float | None) -> Verdict:
    better = -1.0 if _lower(cases) else 1.0
    gap = better * (both["a"] - both["b"]).to_numpy()
    gain = gap.mean() / abs(both["b"].mean()) if both["b"].mean() else np.nan
    ranks = cases.groupby([rule.over, "method"])["value"].mean().unstack("method").loc[both.index].rank(axis=1, ascending=_lower(cases))
    extras = {
        "mean_method": both["a"].mean(), "mean_against": both["b"].mean(), "relative_gain": gain, "median_difference": float(np.median(gap)),
        "trimmed_mean_difference": float(stats.trim_mean(gap, 0.1)), "win_rate": float(np.mean(gap > 0)),
        "mean_rank": ranks[rule.method].mean(), "n_methods": int(ranks.shape[1]),
        "wilcoxon_p": float(stats.wilcoxon(gap).pvalue) if len(gap) > 1 and gap.any() else np.nan,
    }
    numbers = dict(ours=float(gap.mean()), n_units=len(gap), n_seeds=seeds, extras=extras)
    if len(gap) < 2:
        return Verdict("not shown", note="a single unit gives no interval", **numbers)
    low, high = bootstrap(gap[:, None])
    numbers |= dict(ci_low=low, ci_high=high)
    versus = f"{rule.method} against {rule.against}: {100 * gain:.3g} % better" if gain >= 0 else f"{rule.method} against {rule.against}: {-100 * gain:.3g} % worse"
    if seeds < 2:
        return Verdict("not shown", note=f"{versus}; one seed leaves the spread over seeds unknown", **numbers)
    if high < 0:
        return Verdict("refuted", note=f"{versus}, interval on the other side of zero", **numbers)
    if low <= 0:
        return Verdict("not shown", note=f"{versus}, interval covers zero", **numbers)
    if not gain >= rule.gain:
        return Verdict("partial", note=f"{versus}, below the {100 * rule.gain:g} % we ask for", **numbers)
    return Verdict("reproduced in direction", note=f"{versus}, interval above zero", **numbers)


def _ratio(rule: Ratio, both: pd.DataFrame, seeds: int, cases: pd.DataFrame, published: float | None) -> Verdict:
    values = both[["a", "b"]].to_numpy()
    if values[:, 1].min() <= 0:
        return Verdict("not shown", n_units=len(values), n_seeds=seeds, note=f"{rule.against} is not above zero everywhere, so a ratio has no meaning")
    numbers = dict(ours=float(values[:, 0].sum() / values[:, 1].sum()), n_units=len(values), n_seeds=seeds)
    what = f"{rule.metric} of {rule.method} over {rule.against}: {numbers['ours']:.3g}, bound {_bounds(rule)}"
    # A bound of ours matches no number of the paper.
    return _inside(rule, lambda: bootstrap(values, lambda v: v[..., 0].sum(axis=-1) / v[..., 1].sum(axis=-1)), numbers, what, "reproduced in direction" if published is None else "reproduced")


def _between(rule: Ratio, cases: pd.DataFrame, others: pd.DataFrame) -> Verdict:
    """A ratio of means on two data sets, whose units have nothing to do with one another."""
    a, b = _unit_means(cases, rule.method, rule.over), _unit_means(others, rule.against, rule.over)
    if a.empty or b.empty:
        name, place = (rule.method, rule.dataset) if a.empty else (rule.against, rule.against_dataset)
        return Verdict("not run", note=f"no rows of {name} for {rule.metric} on {place} ({rule.experiment})")
    numbers = dict(n_units=min(len(a), len(b)), n_seeds=min(_seeds(cases, rule.method, a.index), _seeds(others, rule.against, b.index)) if rule.over == "unit" else min(len(a), len(b)))
    if b.min() <= 0:
        return Verdict("not shown", note=f"{rule.against} is not above zero everywhere, so a ratio has no meaning", **numbers)
    numbers["ours"] = float(a.mean() / b.mean())
    what = f"{rule.metric} of {rule.method} on {rule.dataset} over {rule.against} on {rule.against_dataset}: {numbers['ours']:.3g}, bound {_bounds(rule)}"

    def interval() -> tuple[float, float]:
        rng = np.random.default_rng(STREAM)
        above, below = (values.to_numpy()[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(1) for values in (a, b))
        low, high = np.quantile(above / below, [0.025, 0.975])
        return float(low), float(high)

    return _inside(rule, interval, numbers, what, "reproduced in direction")


def _bound(rule: Bound, ours: pd.Series, seeds: int) -> Verdict:
    if ours.empty:
        return Verdict("not run", note=f"no rows of {rule.method} for {rule.metric} on {rule.dataset} ({rule.experiment})")
    numbers = dict(ours=float(ours.mean()), n_units=len(ours), n_seeds=seeds)
    what = f"{rule.metric} of {rule.method}: {numbers['ours']:.3g}, bound {_bounds(rule)}"
    return _inside(rule, lambda: bootstrap(ours.to_numpy()[:, None]), numbers, what, "reproduced in direction")


def _bounds(rule: Ratio | Bound) -> str:
    return " and ".join(f"{word} {bound:g}" for word, bound in (("at least", rule.at_least), ("at most", rule.at_most)) if bound is not None)


def _inside(rule: Ratio | Bound, interval: Callable[[], tuple[float, float]], numbers: dict, what: str, word: str) -> Verdict:
    """`word` if the whole `interval` is within the rule's bounds."""
    if numbers["n_units"] < 2:
        return Verdict("not shown", note=f"{what}; a single unit gives no interval", **numbers)
    low, high = interval()
    numbers |= dict(ci_low=low, ci_high=high)
    if numbers["n_seeds"] < 2:
        return Verdict("not shown", note=f"{what}; one seed leaves the spread over seeds unknown", **numbers)
    least, most = (-np.inf if rule.at_least is None else rule.at_least), (np.inf if rule.at_most is None else rule.at_most)
    if least <= low and high <= most:
        return Verdict(word, note=f"{what}, whole interval inside", **numbers)
    if high < least or low > most:
        return Verdict("refuted", note=f"{what}, whole interval outside", **numbers)
    return Verdict("not shown", note=f"{what}, interval crosses it", **numbers)


def _value(rule: Value, ours: pd.Series, seeds: int, published: float) -> Verdict:
    if ours.empty:
        return Verdict("not run", note=f"no rows of {rule.method} for {rule.metric} on {rule.dataset} ({rule.experiment})")
    numbers = dict(ours=float(ours.mean()), n_units=len(ours), n_seeds=seeds)
    what = f"{numbers['ours']:.3g} beside {published:g}, tolerance {rule.tolerance:g}"
    if len(ours) < 2:
        return Verdict("not shown", note=f"{what}; a single unit gives no interval", **numbers)
    low, high = bootstrap(ours.to_numpy()[:, None])
    numbers |= dict(ci_low=low, ci_high=high)
    if seeds < 2:
        return Verdict("not shown", note=f"{what}; one seed leaves the spread over seeds unknown", **numbers)
    if abs(numbers["ours"] - published) <= rule.tolerance:
        return Verdict("reproduced", note=what, **numbers)
    if high < published - rule.tolerance or low > published + rule.tolerance:
        return Verdict("refuted", note=f"{what}, whole interval outside", **numbers)
    return Verdict("not shown", note=f"{what}, interval reaches it", **numbers)


def _unit_means(cases: pd.DataFrame, method: str, over: str = "unit") -> pd.Series:
    """Mean over seeds for each unit of `method`, or over units for each seed."""
    return cases[cases["method"] == method].groupby(over)["value"].mean()


def _seeds(cases: pd.DataFrame, method: str, units: pd.Index) -> int:
    """Seeds that every one of `units` has for `method` (the smallest count)."""
    counts = cases[(cases["method"] == method) & cases["unit"].isin(units)].groupby("unit")["seed"].nunique()
    return int(counts.min()) if len(counts) else 0


def _lower(cases: pd.DataFrame) -> bool:
    return not bool(cases["higher_is_better"].iloc[0])
