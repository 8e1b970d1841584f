"""Generative rivals of IWDD (spec iwdd, sections 5.4 and 6; experiments E10 and E16), short versions of our own, trained as stacked networks.

    diffpo          conditional diffusion of the outcome with inverse-propensity weights (Ma et al. 2024)
    diffpo_bug      the same with weights that cancel, as in the public code (defect P2)
    diffpo_untuned  diffpo trained as in the public code: 500 epochs' worth of ACIC steps at a constant 1e-3, one level a unit, last weights, no held-out score
    ganite          two adversarial games (Yoon et al. 2018)
    cevae           variational autoencoder with a latent confounder (Louizos et al. 2017)

Two arms only. Scales, validation part and rows are those of `data.stack`: test rows give covariates to predict at, nothing else. CausalEGM and NOFLITE are not
built; a conditional flow stands for the latter among the plain networks.

Tuning: `GRID` holds three configurations a method (changes of its defaults; the first are the defaults themselves), among which `experiments.tuning` chooses by
`held_out_loss`; no truth is read for it.
"""

import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from gencausal import checks, metrics, seeding, training
from gencausal.baselines.generative import cevae, ddpm, diffpo, ganite, shared
from gencausal.baselines.generative.cevae import CevaeConfig
from gencausal.baselines.generative.diffpo import DiffPOConfig
from gencausal.baselines.generative.ganite import GaniteConfig
from gencausal.baselines.generative.shared import Fitted, draw_units, held_out_crps
from gencausal.baselines.prediction import Prediction
from gencausal.checkpoints import code_hash, config_hash, remember
from gencausal.data import stack
from gencausal.data.stack import OUTCOME_SD, Outcomes, prepare_tables
from gencausal.data.table import CausalTable
from gencausal.nn import mlp

NAMES = ("diffpo", "diffpo_bug", "diffpo_untuned", "ganite", "cevae")
UNTUNED = {"lr": 1e-3, "rounds": 7000, "levels": 1, "floor": 1.0, "average": 0.0, "score_every": 0}
GRID = {
    "diffpo": ({}, {"lr": 1e-3}, {"weight_decay": 0.1}),
    "ganite": ({}, {"alpha": 0.1, "beta": 0.1}, {"weight_decay": 0.1}),
    "cevae": ({}, {"latent": 5}, {"lr": 3e-3, "weight_decay": 0.1}),
}
GRID["diffpo_bug"] = GRID["diffpo"]  # the defect is tuned like the method; diffpo_untuned has no grid
_MODULES = {"ganite": ganite, "cevae": cevae}  # the others are diffpo
Config = DiffPOConfig | GaniteConfig | CevaeConfig


def configuration(name: str, **changes) -> Config:
    """The default configuration of method `name`, the first point of its grid, with `changes`."""
    checks.choice(name, "name", NAMES)
    kind = {"ganite": GaniteConfig, "cevae": CevaeConfig}.get(name, DiffPOConfig)
    given = {"diffpo_bug": {"weights": "broadcast"}, "diffpo_untuned": UNTUNED}.get(name, {})
    return kind(**given | changes)


def fit(name: str, data: Outcomes, seed: int, config: Config | None = None, folder: Path | None = None) -> Fitted:
    """Train method `name` on every data set of the stack; checkpoints in `folder`, from which a killed run continues to the same bits."""
    config = configuration(name) if config is None else config
    if type(config) is not type(configuration(name)):
        raise checks.InputError(f"config of {name} must be a {type(configuration(name)).__name__}, not {type(config).__name__}; use generative.configuration({name!r}, ...).")
    identity = _identity(name, data, seed, config)
    return _MODULES.get(name, diffpo).train(data, config, seed, None if folder is None else Path(folder) / f"{name}-{config_hash(identity)}.safetensors", identity)


def fit_predict(name: str, tables: list[CausalTable], seed: int, config: Config | None = None, device: torch.device | str = "cpu", folder: Path | None = None, draws: int = 100) -> list[Prediction]:
    """Fit method `name` on the training rows of `tables` (one size, one split) as one stack and predict every row.

    config: by default `configuration(name)`. folder: of checkpoints and finished predictions, or None. draws: M of the test rows.
    Gives for each table mu [n, K] (median of draws for diffpo, mean for the others) and sorted draws [n_test, K, M].
    Errors: an unknown name or a configuration of another method, more than two arms, tables split otherwise, values that are not finite.
    """
    checks.choice(name, "name", NAMES)
    checks.whole(draws, "draws", 2)
    data = _prepare(name, tables, seed, device)
    config = configuration(name) if config is None else config

    def compute() -> dict[str, torch.Tensor]:
        fitted, (train, test) = fit(name, data, seed, config, folder), (tables[0].train, tables[0].test)
        mu, kept = np.empty((len(tables), len(tables[0].t), data.arms)), None
        scale, center = (v[:, None, None] for v in (data.y_scale * OUTCOME_SD, data.y_center))
        for rows, count, use in ((train, config.draws_train, "train draws"), (test, draws, "test draws")):
            kept = draw_units(data, fitted, data.standardise(np.stack([t.x[rows] for t in tables])), count, seed, use).double()
            mu[:, rows] = config.point(kept.numpy(), axis=-1) * scale + center
        return {"mu": torch.as_tensor(mu), "draws": kept * torch.as_tensor(scale[..., None]) + torch.as_tensor(center[..., None])}

    known = [float(t.x[t.test].sum()) for t in tables]
    found = remember(None if folder is None else Path(folder), f"prediction-{name}", _identity(name, data, seed, config) | {"draws": draws, "x": known}, compute)
    return [Prediction(name, mu, sample) for mu, sample in zip(found["mu"].numpy(), found["draws"].numpy())]


def held_out_loss(name: str, tables: list[CausalTable], seed: int, config: Config, device: torch.device | str = "cpu", folder: Path | None = None, draws: int = 50) -> np.ndarray:
    """CRPS of `draws` draws at the held-out factual outcomes of every table, [S], on the outcome's own scale: what chooses among `GRID`."""
    data = _prepare(name, tables, seed, device)
    return held_out_crps(data, fit(name, data, seed, config, folder).draw, draws, seed).numpy()


def _prepare(name: str, tables: list[CausalTable], seed: int, device: torch.device | str) -> Outcomes:
    """The stack of `tables`, checked before any work."""
    checks.choice(name, "name", NAMES)
    checks.whole(seed, "seed", low=0)
    if not tables:
        raise checks.InputError("tables is empty; pass at least one CausalTable.")
    for table in tables:
        where = f"of {table.name}/{table.unit}"
        checks.matrix(table.x, f"x {where}", tables[0].x.shape[1])
        checks.vector(table.y[table.train], f"y[train] {where}")
        if table.mu.shape[1] != 2:
            raise checks.InputError(f"{name} handles two arms, not {table.mu.shape[1]} ({where[3:]}); compare one arm with the control at a time.")
        checks.treatment(table.t[table.train], f"t[train] {where}")
    return prepare_tables(tables, seed, device)


def _identity(name: str, data: Outcomes, seed: int, config: Config) -> dict:
    """Everything that decides a trained stack: code, data, seed and configuration."""
    code = code_hash(stack, mlp, training, seeding, metrics, shared, ddpm, diffpo, ganite, cevae, sys.modules[__name__])
    return {"kind": name, "code": code, "data": data.signature(), "seed": seed} | asdict(config)
