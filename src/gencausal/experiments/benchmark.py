"""The benchmark of notebook 02b: IWDD, its teacher and its relatives beside every baseline, on many tables at once (`iwdd.E0`).

Everything expensive is kept in `folder` under the hash of code, data and configuration, so that a second call, or a killed run,
finds it again. Stacks hold all tables of one call; ensembles of `members` networks share their rows and differ in seed.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from gencausal import baselines
from gencausal.checkpoints import code_hash, remember, tensor_hash
from gencausal.data.stack import Outcomes, prepare_tables
from gencausal.data.table import CausalTable
from gencausal.diffusion import Denoiser
from gencausal.estimators import scores
from gencausal.estimators.outcomes import DistillationConfig, Prediction, TeacherConfig, distil, generator_draws, member_seeds, predict, teacher_draws, train_teacher


@dataclass(frozen=True)
class Plan:
    """What is trained on one group of tables, and how it is read."""

    teacher: TeacherConfig = TeacherConfig()
    students: dict[str, DistillationConfig] = field(default_factory=lambda: {"iwdd": DistillationConfig()})
    members: int = 3  # networks of an ensemble
    draws: int = 100  # draws a unit and arm of a one-step generator, over all members
    teacher_draws: int = 60  # of the teacher, over all members
    train_draws: int = 9  # draws of the training rows, whose mean alone is used
    sampler: str = "heun"  # of the teacher
    steps: int = 50  # of the teacher's sampler


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained group: the scaled stack, the members of the teacher and of each student, their predictions, and by method the seconds and
    steps of training and the held-out scores of the first member (`training.Trained.scores`)."""

    data: Outcomes
    teachers: list[Denoiser]
    students: dict[str, list[Denoiser]]
    predictions: dict[str, Prediction]
    seconds: dict[str, float]
    steps: dict[str, int]
    scores: dict[str, list[dict]]


def fit_group(tables: list[CausalTable], seed: int, plan: Plan, folder: Path | None = None, device: torch.device | str = "cpu", log_weight: torch.Tensor | None = None,
              propensity: torch.Tensor | None = None) -> Fitted:
    """Train teacher and students of `plan` on `tables` and predict every row; log_weight weights the teacher, propensity the students of law ipw."""
    data = prepare_tables(tables, seed, device)
    trained = [train_teacher(data, plan.teacher, s, folder, log_weight) for s in member_seeds(seed, plan.members)]
    teachers = [t.modules["teacher"] for t in trained]
    seconds, steps = {"teacher": sum(t.seconds for t in trained)}, {"teacher": sum(t.rounds for t in trained)}
    held_out = {"teacher": trained[0].scores}
    flow = lambda module, eps, e: teacher_draws(module, eps, e, plan.sampler, plan.steps)  # noqa: E731
    predictions = {"teacher": predict(data, tables, teachers, flow, plan.teacher_draws, plan.train_draws, folder, f"{plan.sampler}, {plan.steps} steps")}
    students = {}
    for method, config in plan.students.items():
        made = [distil(t, data, config, s, folder, propensity=propensity) for t, s in zip(teachers, member_seeds(seed, plan.members))]
        students[method] = [m.modules["generator"] for m in made]
        held_out[method] = made[0].scores
        seconds[method], steps[method] = sum(m.seconds for m in made), sum(m.rounds for m in made)
        predictions[method] = predict(data, tables, students[method], generator_draws(config.sigma_init), plan.draws, plan.train_draws, folder, f"one step from {config.sigma_init}")
    return Fitted(data, teachers, students, predictions, seconds, steps, held_out)


def groups(tables: list[CausalTable], size: int = 10) -> list[list[CausalTable]]:
    """`tables` in stacks of at most `size`: small enough for the cache, and what one killed run loses."""
    return [tables[i:i + size] for i in range(0, len(tables), size)]


def prediction_rows(fitted: Fitted, tables: list[CausalTable], seed: int, experiment: str = "iwdd.E0", methods: list[str] | None = None, **options) -> list[dict]:
    """Rows of every method of `fitted` on every table: point estimates (means of draws), their medians, laws, calibrated intervals."""
    rows = []
    for method in methods or fitted.predictions:
        found = fitted.predictions[method]
        held = fitted.data.held.cpu().numpy()
        for i, table in enumerate(tables):
            rows += scores.mean_rows(method, table, seed, found.mu[i], experiment)
            rows += scores.draw_rows(method, table, seed, found.draws[i], experiment, median=found.median[i], held=(found.held[i], table.y[table.train[held[i]]]), **options)
    return rows


def single_rows(fitted: Fitted, tables: list[CausalTable], seed: int, plan: Plan, folder: Path | None = None) -> list[dict]:
    """Rows of the first members alone, methods `teacher_single` and `iwdd_single`, for comparison with single networks."""
    flow = lambda module, eps, e: teacher_draws(module, eps, e, plan.sampler, plan.steps)  # noqa: E731
    one_step = generator_draws(plan.students["iwdd"].sigma_init)
    made = {"teacher_single": predict(fitted.data, tables, fitted.teachers[0], flow, plan.teacher_draws, plan.train_draws, folder, f"{plan.sampler}, {plan.steps} steps"),
            "iwdd_single": predict(fitted.data, tables, fitted.students["iwdd"][0], one_step, plan.draws, plan.train_draws, folder, "one step")}
    return prediction_rows(replace(fitted, predictions=made), tables, seed)


def baseline(name: str, tables: list[CausalTable], seed: int, folder: Path | None = None, draws: int = 100, **overrides) -> list[baselines.Prediction]:
    """Predictions of the baseline `name` for every table, kept in `folder`; stacked methods train all tables at once."""
    identity = {"baseline": name, "seed": seed, "draws": draws, "code": code_hash(baselines.MODULES[name]), "tables": [signature(t) for t in tables]} | overrides

    def compute() -> dict[str, torch.Tensor]:
        found = baselines.fit_predict_all(name, tables, seed, folder=folder, draws=draws, **overrides)
        made = {"mu": torch.as_tensor(np.stack([p.mu for p in found]))}
        return made | ({} if found[0].draws is None else {"draws": torch.as_tensor(np.stack([p.draws for p in found])).float()})

    made = remember(folder, f"baseline-{name}", identity, compute)
    return [baselines.Prediction(name, mu.numpy(), None if "draws" not in made else made["draws"][i].numpy()) for i, mu in enumerate(made["mu"])]


def signature(table: CausalTable) -> str:
    """Hash of everything a method may read of `table`, its truth included."""
    known = (table.x, table.t, table.y, table.mu, table.train, table.test)
    return tensor_hash(*(torch.as_tensor(np.ascontiguousarray(a)) for a in known))


def baseline_rows(name: str, tables: list[CausalTable], seed: int, folder: Path | None = None, experiment: str = "iwdd.E0", draws: int = 100, overrides: dict | None = None, **options) -> list[dict]:
    """Rows of `baseline(name, ...)`; options go to `scores.draw_rows`."""
    rows = []
    for table, found in zip(tables, baseline(name, tables, seed, folder, draws, **overrides or {})):
        rows += scores.mean_rows(name, table, seed, found.mu, experiment)
        if found.draws is not None:
            rows += scores.draw_rows(name, table, seed, found.draws, experiment, **options)
    return rows


def cost_rows(fitted: Fitted, dataset: str, seed: int, unit: str = "training") -> list[dict]:
    """Rows of `iwdd.E13`: optimiser steps of all members, parameters of one member and seconds a table."""
    tables = len(fitted.data.units)
    rows = []
    for method, members in {"teacher": fitted.teachers, **fitted.students}.items():
        parameters = sum(p.numel() for p in members[0].parameters()) // tables
        for metric, value in (("steps", fitted.steps[method]), ("parameters", parameters), ("seconds_training", fitted.seconds[method] / tables)):
            rows.append({"experiment": "iwdd.E13", "dataset": dataset, "unit": unit, "method": method, "metric": metric, "seed": seed, "value": value, "n": tables})
    return rows
