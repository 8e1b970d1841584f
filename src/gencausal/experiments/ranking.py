r"""Methods compared over the units of a benchmark, from result rows alone (experiments iwdd.E0, E10, E15, E16).

Notation: U units, k methods, e_uj the error of method j on unit u, seeds averaged first; r_uj its rank on unit u, 1 = best, ties share their average; R_j the mean rank.

    trimmed mean   mean of e_.j without the floor(U/10) lowest and as many highest
    win rate       share of units with the lowest error, ties split
    Friedman       chi2 = 12 U / (k (k+1)) (sum_j R_j^2 - k (k+1)^2 / 4), corrected for ties, k - 1 degrees of freedom        `Eq. friedman`
    Nemenyi        two mean ranks differ at level a if by more than CD = q_{1-a}(k) / sqrt(2) sqrt(k (k+1) / (6 U))           `Eq. nemenyi`

with q the quantile of the studentised range of k normals (Demsar, JMLR 7, 2006). Ranks need every method on every unit, so only units that all share are used.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from gencausal import checks, metrics

ORACLES = ("oracle_ate",)  # read the truth: never ranked


def errors(rows: pd.DataFrame, metric: str, dataset: str, methods: list[str] | None = None, experiment: str = "iwdd.E0") -> pd.DataFrame:
    """`metric` on `dataset`, seeds averaged: one row a unit that every method has, one column a method, lower is better (a metric that is better when
    higher changes its sign). methods: in this order; by default all in the rows but oracles. InputError where a method has no rows or no unit is shared."""
    cases = rows[(rows["experiment"] == experiment) & (rows["dataset"] == dataset) & (rows["metric"] == metric)]
    if cases.empty:
        raise checks.InputError(f"rows hold no {metric} on {dataset} ({experiment}); record them first.")
    units = cases.groupby(["unit", "method"], sort=False)["value"].mean().unstack("method")
    chosen = [m for m in units.columns if m not in ORACLES] if methods is None else list(methods)
    if missing := [m for m in chosen if m not in units.columns]:
        raise checks.InputError(f"method {missing[0]!r} has no {metric} on {dataset} ({experiment}); use some of {', '.join(units.columns)}.")
    shared = units[chosen].dropna()
    if shared.empty:
        raise checks.InputError(f"no unit of {dataset} has {metric} of every method; leave out the method that was run elsewhere.")
    return -shared if bool(cases["higher_is_better"].iloc[0]) else shared


def _counts(rows: pd.DataFrame, metric: str, dataset: str, experiment: str) -> pd.Series:
    """Seeds of each method."""
    cases = rows[(rows["experiment"] == experiment) & (rows["dataset"] == dataset) & (rows["metric"] == metric)]
    return cases.groupby("method")["seed"].nunique()


def ranking(rows: pd.DataFrame, metric: str, dataset: str, methods: list[str] | None = None, experiment: str = "iwdd.E0") -> pd.DataFrame:
    """One row a method, best mean rank first: mean, median, 10 % trimmed mean, mean rank, win rate over the shared units, and counts of units and seeds."""
    table = errors(rows, metric, dataset, methods, experiment)
    higher = bool(rows[rows["metric"] == metric]["higher_is_better"].iloc[0])
    values, seeds = table.to_numpy(), _counts(rows, metric, dataset, experiment)
    shown = -values if higher else values
    made = pd.DataFrame({"method": table.columns, "mean": shown.mean(0), "median": np.median(shown, axis=0), "trimmed mean": [metrics.trimmed_mean(v) for v in shown.T],
                         "mean rank": metrics.mean_rank(values), "win rate": metrics.win_rate(values), "units": len(table), "seeds": seeds[table.columns].to_numpy()})
    return made.sort_values("mean rank", ignore_index=True, kind="stable")


class CriticalDifference(NamedTuple):
    """ranks: mean rank of each method, best first. difference: CD of Eq. nemenyi. statistic, p: of Friedman's test. units: U.
    groups: the largest sets of neighbours in rank whose ends are within CD, the bars of the diagram; a method far from all others is in none."""

    ranks: pd.Series
    difference: float
    statistic: float
    p: float
    units: int
    groups: list[list[str]]


def critical_difference(rows: pd.DataFrame, metric: str, dataset: str, methods: list[str] | None = None, experiment: str = "iwdd.E0", level: float = 0.95) -> CriticalDifference:
    """Friedman's test of equal ranks and Nemenyi's critical difference (Eq. friedman, Eq. nemenyi); needs three methods and two units."""
    checks.fraction(level, "level")
    table = errors(rows, metric, dataset, methods, experiment)
    U, k = table.shape
    if k < 3 or U < 2:
        raise checks.InputError(f"a critical difference needs three methods and two units, not {k} and {U}; use paired for two methods.")
    ranks = pd.Series(metrics.mean_rank(table.to_numpy()), table.columns).sort_values(kind="stable")
    equal = (table.nunique(axis=1) == 1).all()  # all methods tied on every unit: Friedman's statistic is 0/0
    statistic, p = (0.0, 1.0) if equal else stats.friedmanchisquare(*table.to_numpy().T)
    difference = nemenyi(k, U, level)
    groups, end = [], 0
    for start in range(k):
        last = int(np.flatnonzero(ranks.to_numpy() <= ranks.iloc[start] + difference)[-1])
        if last > start and last + 1 > end:
            groups.append(list(ranks.index[start:last + 1]))
            end = last + 1
    return CriticalDifference(ranks, difference, float(statistic), float(p), U, groups)


def nemenyi(methods: int, units: int, level: float = 0.95) -> float:
    """CD of Eq. nemenyi for k methods on U units."""
    return float(stats.studentized_range.ppf(level, methods, np.inf) / np.sqrt(2) * np.sqrt(methods * (methods + 1) / (6 * units)))


class Paired(NamedTuple):
    """`method` against `against`: mean over units of their difference, above 0 where `method` is better, its 95 % bootstrap interval (NaN with one unit), the
    two-sided Wilcoxon p, the gain relative to the mean of `against`, the share of units on which `method` is better, counts, and the criterion
    of specification 7: the interval excludes 0 on that side and the gain exceeds 5 %."""

    method: str
    against: str
    difference: float
    low: float
    high: float
    p: float
    gain: float
    better_on: float
    units: int
    seeds: int
    better: bool


def paired(rows: pd.DataFrame, metric: str, dataset: str, method: str, against: str, experiment: str = "iwdd.E0", margin: float = 0.05) -> Paired:
    """The paired comparison of two methods over the units that both have."""
    table = errors(rows, metric, dataset, list(dict.fromkeys([method, against])), experiment)
    gap = (table[against] - table[method]).to_numpy()
    interval = metrics.bootstrap_mean(gap, np.random.default_rng(0)) if len(gap) > 1 else metrics.Interval(float(gap[0]), np.nan, np.nan, 1)
    p = 1.0 if not gap.any() else float(stats.wilcoxon(gap).pvalue)
    level = abs(table[against].mean())
    gain = interval.mean / level if level else np.nan
    seeds = _counts(rows, metric, dataset, experiment)
    return Paired(method, against, interval.mean, interval.low, interval.high, p, float(gain), float((gap > 0).mean()), len(gap), int(seeds[[method, against]].min()), bool(interval.low > 0 and gain > margin))


def blow_ups(rows: pd.DataFrame, metric: str, dataset: str, methods: list[str], reference: str = "zero", experiment: str = "iwdd.E0") -> pd.DataFrame:
    """Does a handful of units make the mean? One row a method: units whose error exceeds that of `reference` (by default of predicting no effect), the largest
    ratio to it and where, mean and trimmed mean, and the share of the mean that the trimming removes, 1 - trimmed / mean."""
    table = errors(rows, metric, dataset, [*[m for m in methods if m != reference], reference], experiment)
    made = []
    for method in methods:
        ratio, values = table[method] / table[reference], table[method].to_numpy()
        trimmed = metrics.trimmed_mean(values)
        made.append({"method": method, "units": len(table), "blow-ups": int((ratio > 1).sum()), "worst ratio": float(ratio.max()), "worst unit": ratio.idxmax(), "mean": float(values.mean()),
                     "trimmed mean": trimmed, "share of the mean trimmed": float(1 - trimmed / values.mean())})
    return pd.DataFrame(made)


def present(rows: pd.DataFrame, methods: list[str], metric: str, dataset: str, experiment: str = "iwdd.E0") -> list[str]:
    """Those of `methods`, in their order, that have rows of `metric` on `dataset`: a profile may leave slow methods out."""
    found = set(rows[(rows["experiment"] == experiment) & (rows["dataset"] == dataset) & (rows["metric"] == metric)]["method"])
    return [m for m in methods if m in found]


def win_rows(rows: pd.DataFrame, metric: str, dataset: str, methods: list[str], name: str, to: str, experiment: str = "iwdd.E0") -> list[dict]:
    """Result rows `name` of experiment `to`: for each method, unit and seed 100 where the method has the lowest `metric` among `methods`, else 0, ties split;
    and for the method `equal_share` 100 / k, what each would have if all k were alike.

    Seeds are paired by number; a method recorded for one seed alone (deterministic) stands in every seed. Their mean is the percentage of data sets won.
    """
    cases = rows[(rows["experiment"] == experiment) & (rows["dataset"] == dataset) & (rows["metric"] == metric) & rows["method"].isin(methods)]
    shared = errors(rows, metric, dataset, methods, experiment).index
    sign = -1.0 if bool(cases["higher_is_better"].iloc[0]) else 1.0
    wide = cases[cases["unit"].isin(shared)].pivot_table(index=["unit", "seed"], columns="method", values="value", sort=False)[methods]
    single = [m for m in methods if cases[cases["method"] == m]["seed"].nunique() == 1]
    wide[single] = wide[single].groupby(level="unit", sort=False).transform("mean")
    wide = sign * wide.dropna()
    best = wide.eq(wide.min(axis=1), axis=0)
    share = (best.div(best.sum(axis=1), axis=0) * 100).assign(equal_share=100 / len(methods))
    return [{"experiment": to, "dataset": dataset, "unit": unit, "method": method, "metric": name, "seed": int(seed), "value": float(value), "n": len(methods)}
            for (unit, seed), row in share.iterrows() for method, value in row.items()]
