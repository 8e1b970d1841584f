"""Methods that a generative estimator must beat or explain (spec iwdd, sections 5.3 and 5.4).

    simple      zero and constant effects, T-learners that need no choice
    learners    S-, X-, DR-learner, causal forests, Bayesian causal forest, quantile forest
    networks    neural outcome regressions and the teacher's twins, stacked
    generative  DiffPO with and without its weight defect, GANITE, CEVAE, stacked

`fit_predict_all` and `held_out_losses` call any of them by name on several tables.
"""

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np

from gencausal import checks
from gencausal.baselines import generative, learners, networks, simple
from gencausal.baselines.prediction import Prediction
from gencausal.baselines.simple import NAMES, fit_predict
from gencausal.data.table import CausalTable

MODULES = {name: module for module in (simple, learners, networks, generative) for name in module.NAMES}
GRID = {name: list(module.GRID[name]) for name, module in MODULES.items() if module is not simple and name in module.GRID}
"""Three configurations a method that has a choice, as overrides of its default."""


def fit_predict_all(name: str, tables: list[CausalTable], seed: int, folder: Path | None = None, draws: int = 100, **overrides) -> list[Prediction]:
    """The method `name` on every table; stacked methods train all tables at once, with checkpoints in `folder`, and give `draws` draws."""
    module = _module(name)
    if module in (networks, generative):
        return module.fit_predict(name, tables, seed, _config(module, name, overrides), folder=folder, draws=draws)
    return [module.fit_predict(name, table, seed, **overrides) for table in tables]


def held_out_losses(name: str, tables: list[CausalTable], seed: int, **overrides) -> np.ndarray:
    """Factual loss of `name` on the held rows of every table, [S], in a unit of its own; what chooses among GRID[name]."""
    module = _module(name)
    if module is simple:
        raise checks.InputError(f"name is {name!r}, which has nothing to choose; use one of {', '.join(GRID)}.")
    if module is learners:
        return np.array([module.held_out_loss(name, table, seed, **overrides) for table in tables])
    scale = np.array([table.y[table.train].std() for table in tables]) if module is generative else 1.0
    return module.held_out_loss(name, tables, seed, _config(module, name, overrides)) / scale


def _module(name: str) -> ModuleType:
    checks.choice(name, "name", tuple(MODULES))
    return MODULES[name]


def _config(module: ModuleType, name: str, overrides: dict):
    return replace(networks.DEFAULTS[name] if module is networks else generative.configuration(name), **overrides)


__all__ = ["GRID", "MODULES", "NAMES", "Prediction", "fit_predict", "fit_predict_all", "generative", "held_out_losses", "learners", "networks", "simple"]
