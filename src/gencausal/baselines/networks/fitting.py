"""Train the network baselines on many tables at once, score them on held-out factual outcomes, predict."""

import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from threadpoolctl import threadpool_limits

from gencausal import checks, metrics, sampling, seeding, training
from gencausal.baselines.networks import config as config_module, laws, modules
from gencausal.baselines.networks.config import LAWS, TWINS, NetworkConfig, check
from gencausal.baselines.networks.laws import Gaussian, Mean, Quantiles, Spline
from gencausal.baselines.networks.modules import Cfr, Dragonnet, SLearner, Tarnet, Twin, at_arm, weighted
from gencausal.baselines.prediction import Prediction
from gencausal.checkpoints import code_hash, config_hash, remember, tensor_hash
from gencausal.data import stack
from gencausal.data.stack import OUTCOME_SD, Outcomes, prepare_tables, table_rows
from gencausal.data.table import CausalTable
from gencausal.nn import mlp
from gencausal.seeding import derive, generator as make_generator
from gencausal.training import Player, Trained, fit

FOLDS = 5  # of the cross-fitted propensities


def build(name: str, stack_size: int, covariates: int, arms: int, rng: torch.Generator, config: NetworkConfig) -> torch.nn.Module:
    """The untrained network of the method `name`."""
    if name in TWINS:
        law = {"gaussian_mlp": Gaussian, "quantile_mlp": lambda: Quantiles(config.levels), "flow": lambda: Spline(config.bins)}.get(name, Mean)()
        return Twin(stack_size, covariates, arms, rng, law, config)
    return {"mlp_s": SLearner, "tarnet": Tarnet, "cfr": Cfr, "dragonnet": Dragonnet}[name](stack_size, covariates, arms, rng, config)


def parameter_count(name: str, covariates: int, arms: int = 2, config: NetworkConfig | None = None) -> int:
    """Parameters of one network of the method `name`."""
    return sum(p.numel() for p in build(name, 1, covariates, arms, make_generator(0), check(name, config)).parameters())


def weights(name: str, data: Outcomes, config: NetworkConfig) -> torch.Tensor:
    """Weights of the factual losses of the training rows, [S, n]: 1 / (K p(z)) for tarnet and cfr, p(z) / p(z | x) for mlp_gated_ipw, else 1.

    p(z) are shares among the fit rows; p(z | x) is cross-fitted (`propensities`) and clipped to [clip, 1 - clip].
    """
    if name not in ("tarnet", "cfr", "mlp_gated_ipw"):
        return torch.ones_like(data.y)
    share = torch.nn.functional.one_hot(table_rows(data.z, data.fit), data.arms).to(data.y).mean(1).gather(1, data.z)
    return share / at_arm(propensities(data), data.z).clamp(config.clip, 1 - config.clip) if name == "mlp_gated_ipw" else 1 / (data.arms * share)


def propensities(data: Outcomes) -> torch.Tensor:
    """p(z = k | x) of every training row, [S, n, K], by multinomial logistic regression cross-fitted in five folds."""
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    with threadpool_limits(1):
        p = [cross_val_predict(LogisticRegression(max_iter=2000), x, z, cv=folds, method="predict_proba") for x, z in zip(data.x.cpu().numpy(), data.z.cpu().numpy())]
    return torch.as_tensor(np.stack(p), dtype=torch.float32, device=data.device)


def prepared(name: str, tables: list[CausalTable], seed: int, device: torch.device | str) -> Outcomes:
    """The scaled stack of `tables`; refuses an empty list, covariates or training outcomes that are not finite, and an arm without rows to fit."""
    if not tables:
        raise checks.InputError("tables is empty; pass at least one CausalTable.")
    checks.whole(seed, "seed", low=0)
    for table in tables:
        checks.matrix(table.x, f"x of table {table.name}/{table.unit}", tables[0].x.shape[1])
        checks.vector(table.y[table.train], f"y[train] of table {table.name}/{table.unit}")
    data = prepare_tables(tables, seed, device)
    needed = FOLDS if name == "mlp_gated_ipw" else 1
    arms = tables[0].mu.shape[1]
    rows = data.z if name == "mlp_gated_ipw" else table_rows(data.z, data.fit)
    for unit, count in zip(data.units, torch.nn.functional.one_hot(rows, max(arms, data.arms)).sum(1)):
        if count.min() < needed:
            raise checks.InputError(f"Arm {int(count.argmin())} of table {unit} has {int(count.min())} rows to fit but {name} needs {needed}; merge arms or train on more rows.")
    return data


def train(name: str, data: Outcomes, seed: int, config: NetworkConfig | None = None, folder: Path | None = None) -> Trained:
    """Networks of every slice of `data`, averaged and chosen by the held-out factual loss (`held_out`); checkpoints in `folder`.

    All methods see the same rows in the same order at one seed, and the twins start from the teacher's gates, trunk and heads.
    """
    config = check(name, config)
    module = build(name, len(data.units), data.x.shape[2], data.arms, make_generator(derive(seed, "init"), device=data.device), config)
    streams, w = data.generators(seed, "networks"), weights(name, data, config)
    rows = [table_rows(v, data.fit) for v in (data.x, data.z, data.y, w)]

    def loss() -> dict[str, torch.Tensor]:
        row = torch.stack([torch.randint(rows[0].shape[1], (config.batch,), generator=g, device=g.device) for g in streams])
        return module.terms(*(table_rows(v, row) for v in rows))

    player = Player(module, loss, config.lr, weight_decay=config.weight_decay, undecayed=("gates.gate", "epsilon"), average=config.average)
    identity = {"kind": name, "code": _code(), "data": data.signature(), "weights": tensor_hash(w), "seed": seed} | asdict(config)
    checkpoint = None if folder is None else folder / f"{name}-{config_hash(identity)}.safetensors"
    return fit({name: player}, config.rounds, streams, config=identity, seed=seed, score=lambda m: held_out(data, m[name], w), score_every=config.score_every,
               patience=config.patience, checkpoint=checkpoint, label=name)


@torch.no_grad()
def held_out(data: Outcomes, module: torch.nn.Module, w: torch.Tensor, draws: int = 20) -> dict[str, torch.Tensor]:
    """Held-out factual loss, [S], on the outcome's own scale: the weighted `mse` of a method that gives means, the `crps` of stratified draws, as for the teacher, of one that gives a law."""
    z, y = table_rows(data.z, data.held), table_rows(data.y, data.held)
    raw, scale = at_arm(module.outputs(table_rows(data.x, data.held)), z), torch.as_tensor(data.y_scale)
    if type(module.law) is Mean:
        return {"mse": (scale * OUTCOME_SD) ** 2 * weighted(module.law.loss(raw, y), table_rows(w, data.held)).double().cpu()}
    d = module.law.draws(raw.cpu().double(), draws).numpy()
    return {"crps": scale * torch.as_tensor([metrics.crps(a, b, fair=False) for a, b in zip(d, y.cpu().numpy())])}


def held_out_loss(name: str, tables: list[CausalTable], seed: int, config: NetworkConfig | None = None, device: torch.device | str = "cpu", folder: Path | None = None) -> np.ndarray:
    """Best held-out factual loss of every table, [S]: what chooses among `GRID[name]`. Reads x, t and y of training rows alone."""
    return train(name, prepared(name, tables, seed, device), seed, config, folder).best_score.numpy()


def fit_predict(name: str, tables: list[CausalTable], seed: int, config: NetworkConfig | None = None, device: torch.device | str = "cpu", folder: Path | None = None, draws: int = 100) -> list[Prediction]:
    """Train the method `name` (one of NAMES) on all `tables`, of one size and split, as one stack, and predict each.

    mu: the mean of the law of every row and arm. draws: `draws` stratified draws of the test rows for `LAWS`, else None.
    config: by default DEFAULTS[name]. folder: keeps checkpoints and predictions, so that a killed run continues to the same bits.
    """
    config = check(name, config)
    checks.whole(draws, "draws")
    data = prepared(name, tables, seed, device)
    module = train(name, data, seed, config, folder).modules[name]
    covariates, test = np.stack([t.x for t in tables]), tables[0].test
    known = tensor_hash(*module.state_dict().values(), *(torch.as_tensor(a) for a in (covariates, test)))
    found = remember(folder, f"{name}-prediction", {"code": _code(), "data": data.signature(), "known": known, "config": asdict(config), "draws": draws},
                     lambda: _predict(name, data, module, covariates, test, draws))
    laws_of = found["draws"].numpy() if name in LAWS else [None] * len(tables)
    return [Prediction(name, mu, d) for mu, d in zip(found["mu"].numpy(), laws_of)]


@torch.no_grad()
def _predict(name: str, data: Outcomes, module: torch.nn.Module, covariates: np.ndarray, test: np.ndarray, draws: int, chunk: int = 2**11) -> dict[str, torch.Tensor]:
    """`mu [S, n, K]` and, for a law, `draws [S, n_test, K, M]`, on the outcome's own scale, float64; about `chunk` units of all slices at a time."""
    x, size = data.standardise(covariates), max(1, chunk // len(covariates))
    raw = [module.outputs(part).cpu().double() for part in x.split(size, 1)]
    scale, center = (torch.as_tensor(a).reshape(-1, 1, 1) for a in (data.y_scale, data.y_center))
    found = {"mu": torch.cat([module.law.mean(part) for part in raw], 1) * scale + center}
    if name in LAWS:
        tested = torch.cat(raw, 1)[:, test].split(size, 1)
        found["draws"] = torch.cat([module.law.draws(part, draws) for part in tested], 1).sort(-1).values * scale[..., None] + center[..., None]
    return found


def _code() -> str:
    """Hash of all code that a trained network or its prediction depends on."""
    return code_hash(stack, mlp, training, seeding, metrics, sampling, config_module, laws, modules, sys.modules[__name__])
