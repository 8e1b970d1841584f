"""What the index page shows, computed from result rows, the ledger and run records: no number is typed here."""

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

from gencausal import claims as ledger
from gencausal import metrics
from gencausal.report import layout

# experiment, metric, heading: lower is better in both
HEADLINES = (("iwdd.E0", "pehe_normalised", "Treatment effects: normalised PEHE, out of sample"),
             ("dc.E1", "acm_descendant", "Counterfactual images: error of what follows from an intervention, sd"))
METHODS = {
    "guided": "guided by the causal model, strength adjusts itself",
    "diffscm": "guided by the intervened factor alone",
    "no_guidance": "not guided: the reconstruction",
    "guided_reversed_graph": "guided, every edge turned",
    "guided_wrong_graph": "guided, edges among the wrong factors",
    "causaldiffae": "diffusion autoencoder with a causal layer",
    "causaldiffae_released": "the same with the released code's defects",
    "cond_vae": "conditional variational autoencoder",
    "iwdd": "one-step generator, shuffled law",
    "iwdd_obs": "one-step generator, observed law",
    "iwdd_ipw": "one-step generator, inverse propensity weights",
    "iwdd_bernoulli": "one-step generator, Bernoulli treatment",
    "teacher": "its teacher, the full diffusion sampler",
    "teacher_ipw": "teacher with inverse propensity weights",
    "iwdd_all_weights": "one-step generator, every weight trained",
    "dmd": "one-step generator, KL divergence, shuffled law",
    "as_released": "as the authors' code does it",
    "zero": "no effect for anyone",
    "naive_ate": "difference of the arm means",
    "oracle_ate": "the true average effect for everyone",
    "ridge_t": "ridge regression in each arm",
    "hgb_t": "gradient boosting in each arm",
    "hgb_s": "S-learner, gradient boosting",
    "hgb_x": "X-learner, gradient boosting",
    "hgb_dr": "DR-learner, gradient boosting",
    "bcf": "Bayesian causal forest",
    "causal_forest": "causal forest, double machine learning",
    "causal_forest_grf": "causal forest, generalised random forest",
    "quantile_forest": "quantile forest in each arm",
    "tarnet": "TARNet",
    "cfr": "TARNet with balanced representations",
    "dragonnet": "DragonNet",
    "mlp_s": "one network of covariates and arm",
    "mlp_gated": "the teacher's network, squared error",
    "mlp_gated_ipw": "the same, inverse propensity weights",
    "gaussian_mlp": "the teacher's network, Gaussian likelihood",
    "quantile_mlp": "the teacher's network, quantiles",
    "flow": "the teacher's network, normalising flow",
    "diffpo": "DiffPO",
    "diffpo_bug": "DiffPO, weights that cancel as released",
    "ganite": "GANITE",
    "cevae": "CEVAE",
}
REFERENCES = ("zero", "naive_ate", "oracle_ate")


def missing(value) -> bool:
    """Whether a table cell holds nothing."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or value == ""


def measured(claim: ledger.Claim) -> str:
    """In words, what the number beside the claim is: that of its first rule. Empty for a claim that is not run."""
    rule = claim.rules[0]
    if isinstance(rule, ledger.NotRun):
        return ""
    what = {
        ledger.Difference: lambda: f"{rule.against} minus {rule.method}" if not ledger.METRICS[rule.metric] else f"{rule.method} minus {rule.against}",
        ledger.Ratio: lambda: f"{rule.method} over {rule.against}",
        ledger.Value: lambda: rule.method,
        ledger.Bound: lambda: rule.method,
    }[type(rule)]()
    return f"{rule.metric} on {rule.dataset}, {what}"


def counts(claims: Iterable[dict]) -> list[dict]:
    """Per system: how many claims have each verdict, systems and verdicts in the study's order. Unknown verdicts count as not run."""
    found: dict[str, dict[str, int]] = {}
    for claim in claims:
        row = found.setdefault(str(claim["system"]), dict.fromkeys(layout.VERDICTS, 0))
        row[claim["verdict"] if claim["verdict"] in layout.VERDICTS else "not run"] += 1
    order = [system for system in layout.SYSTEMS if system in found] + sorted(set(found) - set(layout.SYSTEMS))
    return [{"system": system, "name": layout.SYSTEMS.get(system, system), "counts": found[system], "total": sum(found[system].values())} for system in order]


def headline(rows: pd.DataFrame, experiment: str, metric: str) -> list[dict]:
    """Per data set and method: mean over units of the seed average, its 95 % bootstrap interval over units, units and seeds; best first.

    `rows` are tidy result rows. One unit alone has no interval, which the page then says.
    """
    chosen = rows[(rows["experiment"] == experiment) & (rows["metric"] == metric)]
    table = []
    for (dataset, method), group in chosen.groupby(["dataset", "method"]):
        units = group.groupby("unit")["value"].mean().to_numpy()
        low = high = math.nan
        if len(units) > 1:
            _, low, high, _ = metrics.bootstrap_mean(units, np.random.default_rng(0))  # the stream of the notebook's own table
        found = {"dataset": dataset, "method": method, "label": METHODS.get(method, ""), "reference": method in REFERENCES}
        table.append(found | {"mean": float(units.mean()), "low": low, "high": high, "units": len(units), "seeds": group["seed"].nunique()})
    return sorted(table, key=lambda row: (row["dataset"], row["mean"]))


def whiskers(table: list[dict], width: int = 160) -> list[dict]:
    """Adds `bar`: (low, mean, high) in pixels of one axis from 0 to the largest bound within the row's data set."""
    top: dict[str, float] = {}
    for row in table:
        top[row["dataset"]] = max(top.get(row["dataset"], 0.0), row["mean"], 0 if math.isnan(row["high"]) else row["high"])
    for row in table:
        scale = (width - 8) / (top[row["dataset"]] or 1.0)
        row["bar"] = [round(4 + scale * (row["mean"] if math.isnan(bound) else bound), 1) for bound in (row["low"], row["mean"], row["high"])]
    return table


def beside_published(ours: list[dict], published: list[dict]) -> list[dict]:
    """Each claim of the study's published report beside this run's: `place` is inside, outside, not run here or no published interval."""
    here = {claim["claim"]: claim for claim in ours}
    table = []
    for claim in published:
        rerun = here.get(claim["claim"], {})
        value, low, high = rerun.get("ours"), claim["ci_low"], claim["ci_high"]
        if missing(value) or rerun.get("verdict") == "not run":
            place = "not run here"
        elif missing(low) or missing(high):
            place = "no published interval"
        else:
            place = "inside the published interval" if float(low) <= float(value) <= float(high) else "outside the published interval"
        now = rerun.get("verdict", "not run")
        row = {"claim": claim["claim"], "statement": claim["statement"], "published": None if missing(claim["published"]) else claim["published"], "published_status": claim["published_status"], "place": place, "verdict": now, "published_verdict": claim["verdict"]}
        row |= {f"published_{name}": claim[name] for name in ("ours", "ci_low", "ci_high", "n_units", "n_seeds")}
        table.append(row | {name: rerun.get(name) for name in ("ours", "ci_low", "ci_high", "n_units", "n_seeds")})
    return table


def ratio(claim: dict) -> float | None:
    """Ours over published, None where either is missing or the published value is zero."""
    return None if missing(claim["published"]) or missing(claim["ours"]) or not claim["published"] else float(claim["ours"]) / float(claim["published"])


def against_published(claims: list[dict], width: int = 220) -> list[dict]:
    """Claims with a published number and one of ours, with `bar`: (low, ours, high, published) in pixels of one axis, each over its published value.

    The axis goes from 0 to twice the published value, or as far as an interval reaches; an interval that is missing has no length.
    """
    made = []
    for claim in claims:
        if ratio(claim) is None:
            continue
        low, high = (claim["ours"] if missing(claim[bound]) else claim[bound] for bound in ("ci_low", "ci_high"))
        made.append(claim | {"over": [float(value) / float(claim["published"]) for value in (low, claim["ours"], high)]})
    top = max([2.0, *(max(claim["over"]) for claim in made)])
    for claim in made:
        claim["bar"] = [round(4 + (width - 8) * max(value, 0) / top, 1) for value in (*sorted((claim["over"][0], claim["over"][2]))[:1], claim["over"][1], *sorted((claim["over"][0], claim["over"][2]))[1:], 1.0)]
    return made


_MACHINE = (("Profile", "profile"), ("Platform", "platform"), ("CPU", "cpu_capability"), ("Device", "device"), ("Threads", "threads"), ("Python", "python"), ("torch", "torch"), ("Commit", "commit"), ("Lock, sha256", "lock_sha256"))


def differences(here: dict[str, dict], there: dict[str, dict]) -> list[dict]:
    """What differs between two runs by their records (by notebook): `what`, `published`, `here`, over the notebooks that both have; packages one by one, parameters by notebook."""
    both, made = sorted(set(here) & set(there)), []

    def told(what: str, pairs: set[tuple[str, str]]) -> None:
        changed = {pair for pair in pairs if pair[0] != pair[1]}
        published, ours = (", ".join(sorted({pair[side] for pair in changed})) for side in (0, 1))
        if changed:
            made.append({"what": what, "published": published, "here": ours})

    def short(value) -> str:
        return "–" if value is None else str(value)[:12] if isinstance(value, str) and len(value) >= 40 else str(value)

    for what, key in _MACHINE:
        told(what, {(short(there[name].get(key)), short(here[name].get(key))) for name in both})
    packages = {name for notebook in both for run in (here, there) for name in run[notebook].get("versions") or {}}
    for package in sorted(packages, key=str.lower):
        told(f"Package {package}", {tuple(short((run[name].get("versions") or {}).get(package)) for run in (there, here)) for name in both})
    for name in both:
        ours, theirs = here[name].get("parameters") or {}, there[name].get("parameters") or {}
        for key in [*theirs, *(key for key in ours if key not in theirs)]:
            if key != "profile":
                told(f"{name}, {key}", {(short(theirs.get(key)), short(ours.get(key)))})
    return made
