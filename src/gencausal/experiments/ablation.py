"""What makes a teacher worth distilling: one choice changed at a time, judged by held-out factual CRPS (notebook 01).

The criterion is the CRPS of the held rows' factual outcomes under the averaged weights of the kept step; PEHE on test rows is reported beside it and decides nothing.
Ensembles pool the draws of networks trained from different seeds on the same rows.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gencausal import metrics
from gencausal.data.stack import prepare_tables, table_rows
from gencausal.data.table import CausalTable
from gencausal.estimators.outcomes import TeacherConfig, member_seeds, potential_draws, teacher_draws, train_teacher
from gencausal.sampling import stratified_normal

VARIANTS = {
    "as used": {},
    "no gates": {"gate": 1.0, "gate_penalty": 0.0},
    "gate penalty 0.005": {"gate_penalty": 0.005},
    "gate penalty 0.08": {"gate_penalty": 0.08},
    "width 64": {"width": 64},
    "width 200": {"width": 200},
    "two noise levels a row": {"levels": 2},
    "weight decay 1": {"weight_decay": 1.0},
    "last step kept": {"score_every": 10**9},
}


def ablation(tables: list[CausalTable], seed: int, config: TeacherConfig, variants: dict[str, dict], members: list[int], folder: Path | None = None,
             draws: int = 21, sampler: str = "adams_bashforth2", steps: int = 25, device: torch.device | str = "cpu") -> list[dict]:
    """Rows `crps_held_out` and `pehe_normalised` of every variant (overrides of `config`) and of ensembles of `members` networks, experiment `iwdd.ablation`."""
    data = prepare_tables(tables, seed, device)
    flow = lambda module, eps, e: teacher_draws(module, eps, e, sampler, steps)  # noqa: E731
    trained = {}

    def teacher(overrides: dict, s: int):
        changed = replace(config, **overrides)
        changed = replace(changed, score_every=min(changed.score_every, changed.rounds))
        if changed not in trained or s not in trained[changed]:
            trained.setdefault(changed, {})[s] = train_teacher(data, changed, s, folder).modules["teacher"]
        return trained[changed][s]

    made = {name: [teacher(overrides, seed)] for name, overrides in variants.items()}
    made |= {f"ensemble of {m}": [teacher({}, s) for s in member_seeds(seed, m)] for m in members}
    return [row for name, networks in made.items() for row in _rows(name, networks, data, tables, seed, flow, draws)]


def _rows(name: str, networks: list, data, tables: list[CausalTable], seed: int, flow, draws: int) -> list[dict]:
    train, test, eps = tables[0].train, tables[0].test, stratified_normal(draws, data.device)
    held = data.held.cpu().numpy()
    at_held = potential_draws(data, networks, flow, np.stack([t.x[train[h]] for t, h in zip(tables, held)]), eps)
    at_test = potential_draws(data, networks, flow, np.stack([t.x[test] for t in tables]), eps).mean(-1)
    arms, rows = table_rows(data.z, data.held).cpu().numpy(), []
    for i, table in enumerate(tables):
        factual = at_held[i][np.arange(held.shape[1]), arms[i]]
        effect, truth = (m[:, 1] - m[:, 0] for m in (at_test[i], table.mu[test]))
        values = {"crps_held_out": (metrics.crps(factual, table.y[train[held[i]]], fair=False), held.shape[1]), "pehe_normalised": (metrics.pehe_normalised(effect, truth, table.mu), len(test))}
        rows += [{"experiment": "iwdd.ablation", "dataset": table.name, "unit": table.unit, "method": name, "metric": metric, "seed": seed, "value": float(value), "n": n} for metric, (value, n) in values.items()]
    return rows
