"""The tuning budget (`iwdd.E17`): every method, ours included, chooses among three configurations a benchmark by held-out factual loss at seed 0.

The loss is read on the held rows of the training part, never on test rows, never against the truth: CRPS for a method that gives a law, squared error
otherwise, so losses compare within a method alone.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from gencausal import baselines
from gencausal.checkpoints import code_hash, remember
from gencausal.data.stack import OUTCOME_SD, prepare_tables
from gencausal.data.table import CausalTable
from gencausal.estimators.outcomes import TeacherConfig, train_teacher
from gencausal.experiments.benchmark import signature

TEACHER_GRID = [{"weight_decay": 0.1, "gate_penalty": 0.02}, {"weight_decay": 1.0, "gate_penalty": 0.05}, {"weight_decay": 3.0, "gate_penalty": 0.05}]
"""Of the teacher, from which generators are distilled."""
TUNED_AS = {"diffpo_bug": "diffpo"}
"""A variant that isolates one defect keeps the configuration of its original."""


def teacher_losses(tables: list[CausalTable], config: TeacherConfig, folder: Path | None = None, grid: list[dict] = TEACHER_GRID, seed: int = 0) -> np.ndarray:
    """Held-out CRPS over the sd of the outcome of every configuration and table, [len(grid), S]."""
    data = prepare_tables(tables, seed)
    return np.stack([train_teacher(data, replace(config, **overrides), seed, folder).best_score.numpy() for overrides in grid]) * OUTCOME_SD / data.y_scale


def with_budget(name: str, overrides: dict, budget: dict) -> dict:
    """`overrides` with the `budget` of a neural baseline (`rounds`, `batch`); other methods have none."""
    return overrides | (budget if baselines.MODULES[name] in (baselines.networks, baselines.generative) else {})


def baseline_losses(name: str, tables: list[CausalTable], folder: Path | None = None, seed: int = 0, *, budget: dict) -> np.ndarray:
    """Held-out factual loss of every configuration of `baselines.GRID[name]` and table, [3, S], neural ones at `budget`; kept in `folder`."""
    grid = [with_budget(name, overrides, budget) for overrides in baselines.GRID[name]]
    identity = {"tuning": name, "grid": grid, "seed": seed, "code": code_hash(baselines.MODULES[name]), "tables": [signature(t) for t in tables]}
    made = remember(folder, f"tuning-{name}", identity,
                    lambda: {"losses": torch.as_tensor(np.stack([baselines.held_out_losses(name, tables, seed, **overrides) for overrides in grid]))})
    return made["losses"].numpy()


def chosen(losses: np.ndarray) -> int:
    """Number of the configuration with the smallest mean over tables of loss / mean loss of the table's three."""
    return int((losses / losses.mean(0)).mean(1).argmin())


def rows(name: str, dataset: str, tables: list[CausalTable], losses: np.ndarray, seed: int = 0) -> list[dict]:
    """Rows of `held_out_loss`, method `<name>[i]` for configuration i."""
    return [{"experiment": "iwdd.E17", "dataset": dataset, "unit": table.unit, "method": f"{name}[{i}]", "metric": "held_out_loss", "seed": seed, "value": float(value), "n": len(table.train) // 10}
            for i, values in enumerate(losses) for table, value in zip(tables, values)]


def overrides(name: str, choice: dict[str, int], budget: dict) -> dict:
    """The configuration of the baseline `name` (of its original, `TUNED_AS`) that `choice` names, else its default, at `budget`."""
    grid = baselines.GRID.get(TUNED_AS.get(name, name))
    return with_budget(name, grid[choice.get(TUNED_AS.get(name, name), 0)] if grid else {}, budget)


def table(rows: pd.DataFrame, choice: dict[str, dict[str, int]]) -> pd.DataFrame:
    """What was tried and chosen: a line a data set and method, each configuration with its mean loss over that of the first."""
    cases = rows[rows["experiment"] == "iwdd.E17"]
    made = []
    for dataset, methods in choice.items():
        for name, index in methods.items():
            losses = cases[(cases["dataset"] == dataset) & cases["method"].str.startswith(f"{name}[")].groupby("method")["value"].mean()
            grid = TEACHER_GRID if name == "teacher" else baselines.GRID[name]
            tried = [", ".join(f"{k} {v:g}" if isinstance(v, (int, float)) else f"{k} {v}" for k, v in one.items() if any(one.get(k) != other.get(k) for other in grid)) or "default" for one in grid]
            made.append({"data": dataset, "method": name, "chosen": tried[index]} | {f"loss {i + 1}": losses[f"{name}[{i}]"] / losses[f"{name}[0]"] for i in range(len(grid))} | {"tried": "; ".join(tried)})
    return pd.DataFrame(made)
