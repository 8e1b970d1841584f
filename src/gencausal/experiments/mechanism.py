r"""Where the weighting acts: teachers and laws crossed (`iwdd.E1`), errors against overlap (`iwdd.E2`), the rows distilled on (`iwdd.E5`), losses (`iwdd.E14`).

e(x) = P(z = 1 | x). Weighted teachers descend the EDM loss with w = p(z)/p(z | x) (`Eq. laws`, e clipped to [0.05, 0.95], each batch normalised). All of
this is judged at one network a stack (no ensembles), so that only the named choice differs.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from gencausal.data.stack import prepare_tables, table_rows
from gencausal.data.table import CausalTable
from gencausal.distillation import log_inverse_propensity
from gencausal.estimators import scores
from gencausal.estimators.outcomes import DistillationConfig, distil, estimated_propensity, generator_draws, predict
from gencausal.experiments.benchmark import Fitted, Plan, fit_group, prediction_rows
from gencausal.seeding import generator as make_generator, numpy_generator, stacked

OVERLAP_EDGES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5)


def true_propensity(tables: list[CausalTable]) -> torch.Tensor | None:
    """e(x) of the training rows, [S, n], or None unless every table has it."""
    if any(t.propensity is None for t in tables):
        return None
    return torch.as_tensor(np.stack([t.propensity[t.train] for t in tables]), dtype=torch.float32)


def crossed(tables: list[CausalTable], seed: int, plan: Plan, laws: list[str], weighted_laws: list[str], folder: Path | None = None, device="cpu") -> tuple[list[dict], dict[str, Fitted]]:
    """`iwdd.E1`: teachers (plain; weighted by the estimated and, where it is known, the true propensity) times laws of distillation.

    laws, weighted_laws: of shuffle, obs, ipw, ipw_true, bernoulli, for the plain and for the weighted teachers. Methods are named `teacher`, `iwdd_<law>` and with
    `_on_ipw`, `_on_ipw_true` after them under a weighted teacher; `iwdd` is shuffle. Returns the rows and the fitted groups by teacher.
    """
    true = true_propensity(tables)
    data = prepare_tables(tables, seed, device)
    found = {"": None, "_on_ipw": estimated_propensity(data)} | ({} if true is None else {"_on_ipw_true": true.to(data.device)})
    rows, groups = [], {}
    for suffix, e in found.items():
        made = {}
        for law in weighted_laws if suffix else laws:
            if law == "ipw_true" and true is None:
                continue
            made[law] = replace(plan.students["iwdd"], law=law.removesuffix("_true"))
        weight = None if e is None else log_inverse_propensity(data.z, e)
        fitted = fit_group(tables, seed, replace(plan, members=1, students={_name(law, suffix): c for law, c in made.items() if law != "ipw_true"}), folder, device, weight)
        if "ipw_true" in made:
            exact = fit_group(tables, seed, replace(plan, members=1, students={_name("ipw_true", suffix): made["ipw_true"]}), folder, device, weight, true.to(data.device))
            fitted.students.update(exact.students)
            fitted.scores.update({k: v for k, v in exact.scores.items() if k != "teacher"})
            fitted.predictions.update({k: v for k, v in exact.predictions.items() if k != "teacher"})
        if suffix:
            fitted.predictions["teacher" + suffix] = fitted.predictions.pop("teacher")
        rows += prediction_rows(fitted, tables, seed, "iwdd.E1")
        groups[suffix] = fitted
    return rows, groups


def _name(law: str, suffix: str) -> str:
    return ("iwdd" if law == "shuffle" else f"iwdd_{law}") + suffix


def overlap_errors(tables: list[CausalTable], seed: int, mu: dict[str, np.ndarray], propensity: list[np.ndarray]) -> list[dict]:
    """`iwdd.E2`: errors of `mu[method] [S, n, K]` on test rows, binned by overlap min(e, 1 - e), factual and counterfactual arms apart.

    Rows: `rmse_normalised` a bin and arm (unit `setting`, dataset `acic2016_overlap<edge>_<arm>`; bins with fewer than 10 rows are left out) and
    `slope_overlap`, the slope of |error of method| - |error of teacher| over min(e, 1 - e), both arms (method against `teacher`). Errors are over the sd of mu.
    """
    rows = []
    for i, (table, e) in enumerate(zip(tables, propensity)):
        test = table.test
        overlap = np.minimum(e, 1 - e)[test]
        own = table.t[test]
        error = {m: np.abs(values[i][test] - table.mu[test]) / table.mu.std() for m, values in mu.items()}
        common = {"experiment": "iwdd.E2", "unit": table.unit, "seed": seed}
        for name, arm in (("factual", own), ("counterfactual", 1 - own)):
            for low, high in zip(OVERLAP_EDGES[:-1], OVERLAP_EDGES[1:]):
                inside = (overlap >= low) & (overlap < high if high < 0.5 else overlap <= high)
                if inside.sum() >= 10:
                    rows += [{**common, "dataset": f"{table.name}_overlap{low:g}_{name}", "method": m, "metric": "rmse_normalised",
                              "value": float(np.sqrt((a[inside, arm[inside]] ** 2).mean())), "n": int(inside.sum())} for m, a in error.items()]
        for m in mu:
            if m != "teacher":
                gap = (error[m] - error["teacher"]).ravel()
                slope = np.polyfit(np.repeat(overlap, 2), gap, 1)[0]
                rows.append({**common, "dataset": table.name, "method": m, "metric": "slope_overlap", "value": float(slope), "n": len(gap)})
                rows.append({**common, "dataset": table.name, "method": m, "metric": "excess_error_poor_overlap", "value": float(gap[np.repeat(overlap, 2) < 0.05].mean()) if (overlap < 0.05).any() else 0.0,
                             "n": max(1, int(2 * (overlap < 0.05).sum()))})
    return rows


def pools(tables: list[CausalTable], seed: int, fitted: Fitted, config: DistillationConfig, draws: int, folder: Path | None = None, jitter: float = 0.1) -> list[dict]:
    """`iwdd.E5`: the shuffled generator distilled on the covariates of train and test rows (`iwdd_transductive`) and on jittered train rows (`iwdd_jittered`).

    Arms are drawn from the observed arms of the fit rows; no outcome is used. jitter: sd of the Gaussian noise on standardised covariates, eight copies a row.
    """
    data, teacher = fitted.data, fitted.teachers[0]
    rng = numpy_generator(seed, "pools")
    x, z = table_rows(data.x, data.fit), table_rows(data.z, data.fit)
    everyone = torch.cat([x, data.standardise(np.stack([t.x[t.test] for t in tables]))], 1)
    noise = stacked(torch.randn, [make_generator(seed, "jitter", unit, device=data.device) for unit in data.units], 8, *x.shape[1:])
    jittered = (x[:, None] + jitter * noise).flatten(1, 2)
    rows = []
    for method, pool in (("iwdd_transductive", everyone), ("iwdd_jittered", jittered)):
        pick = torch.as_tensor(rng.integers(0, z.shape[1], (len(tables), pool.shape[1])), device=data.device)
        trained = distil(teacher, data, config, seed, folder, pool=(pool, z.gather(1, pick)))
        found = predict(data, tables, trained.modules["generator"], generator_draws(config.sigma_init), draws, 9, folder, method)
        rows += [row for i, table in enumerate(tables) for row in scores.mean_rows(method, table, seed, found.mu[i], "iwdd.E5") + scores.draw_rows(method, table, seed, found.draws[i], "iwdd.E5")]
    return rows


def logistic_propensity(table: CausalTable) -> np.ndarray:
    """e(x) of all rows, [n], by logistic regression on the training rows; where the truth is not at hand."""
    scale = StandardScaler().fit(table.x[table.train])
    return LogisticRegression(max_iter=2000).fit(scale.transform(table.x[table.train]), table.t[table.train]).predict_proba(scale.transform(table.x))[:, 1]
