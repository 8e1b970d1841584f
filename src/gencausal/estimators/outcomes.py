r"""Outcome models of many data sets at once: scale the tables, train the teachers, distil the generators, draw.

One stacked network holds one slice a data set. Outcomes are scaled to the sd
sigma_data = 0.5 (`data.stack`). Held rows choose the stopping round by the factual CRPS; test rows enter nothing.

`Eq. teacher`: min over phi of the EDM loss (Eq. 8, Karras et al. 2022) on factual (x, z, y) + gate_penalty sum |g|.

An ensemble is a list of networks of one stack, trained from different seeds on the same rows; draw j is member j mod M's, so a
draw costs one member's evaluations and the pooled law is the members' mixture.
"""

import copy
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from gencausal import checks, diffusion, distillation, metrics, sampling, schedules, seeding, training
from gencausal.checkpoints import code_hash, config_hash, remember, tensor_hash
from gencausal.data import stack
from gencausal.data.stack import Outcomes, check_splits, table_rows
from gencausal.data.table import CausalTable
from gencausal.diffusion import Denoiser, GaussianTeacher, edm_loss, noise_levels
from gencausal.distillation import dmd_loss, draw_pairs, generate, log_inverse_propensity, sid_loss
from gencausal.nn import mlp
from gencausal.nn.mlp import OutcomeNetwork
from gencausal.sampling import SAMPLERS, stratified_normal
from gencausal.schedules import SIGMA_MAX, karras_sigmas, sid_sigma
from gencausal.seeding import derive, generator as make_generator, stacked
from gencausal.training import Player, Trained, fit


def _code() -> str:
    """Hash of all code that a trained stack depends on."""
    return code_hash(stack, schedules, mlp, diffusion, distillation, sampling, training, seeding, metrics, sys.modules[__name__])


@dataclass(frozen=True)
class TeacherConfig:
    """Everything that decides a teacher."""

    width: int = 128  # trunk width
    depth: int = 3  # trunk layers
    embedding: int = 128  # width of one arm's embedding
    decoder: int = 64  # width of the light decoder
    gate: float = 0.5  # initial feature gate
    gate_penalty: float = 0.02  # L1 penalty on the gates; of 0.005, 0.01, 0.02 the best held-out CRPS on ACIC settings 1-10, seed 0
    rounds: int = 1500  # optimiser steps
    batch: int = 256  # units a step
    levels: int = 4  # noise levels a unit and step, the first at sigma_max
    lr: float = 3e-3  # peak learning rate
    weight_decay: float = 0.1  # AdamW, not on the gates
    log_sigma_mean: float = -1.2  # training noise levels, ln sigma ~ N(mean, sd^2)
    log_sigma_sd: float = 1.2
    average: float = 0.995  # decay of the averaged weights
    score_every: int = 250  # rounds between held-out scores
    patience: int = 8  # scores without gain before stopping


@dataclass(frozen=True)
class DistillationConfig:
    """Everything that decides a generator, given its teacher."""

    law: str = "shuffle"  # law of the pairs (x, z)
    divergence: str = "sid"  # sid (Fisher) or dmd (KL)
    alpha: float = 0.5  # coefficient of the SiD loss
    trainable: str = "decoder"  # decoder: the embeddings of generator and fake stay the teacher's; all: every weight trains
    sigma_init: float = 2.5  # noise level the generator starts from
    t_max: float = 0.8  # largest time of the distillation levels
    rounds: int = 600
    batch: int = 256  # pairs a step
    draws: int = 4  # draws a pair
    generator_lr: float = 5e-4
    fake_lr: float = 2e-3
    fake_updates: int = 2  # steps of the fake score for one of the generator
    beta1: float = 0.0  # Adam's first decay, both players
    weight_decay: float = 1e-6
    average: float = 0.99
    score_every: int = 100
    patience: int = 1000
    probability: float = 0.5  # of arm 1, law bernoulli
    clip: float = 0.05  # propensities of law ipw are clipped to [clip, 1 - clip]


def resolve_device(name: str) -> torch.device:
    """The torch device of `auto` (CUDA, then MPS, then CPU) or of an explicit name; a device that is not there is refused."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    if not isinstance(name, str):
        raise checks.InputError(f"device must be text such as 'auto', 'cpu' or 'cuda:0', not {name!r}.")
    checks.choice(name.split(":")[0], "device", ("auto", "cpu", "cuda", "mps"))
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[name.split(":")[0]]
    if not available:
        raise checks.InputError(f"device {name!r} is not available on this machine; use device='auto' or 'cpu'.")
    return torch.device(name)


def member_seeds(seed: int, members: int) -> list[int]:
    """Seeds of the members of an ensemble; the first is `seed` itself."""
    return [seed, *(derive(seed, "member", m) for m in range(1, members))]


def train_teacher(data: Outcomes, config: TeacherConfig, seed: int, folder: Path | None = None, log_weight: torch.Tensor | None = None) -> Trained:
    """Teachers of every slice (Eq. teacher), their weights averaged and chosen by held-out factual CRPS; checkpoints in `folder`.

    log_weight: log importance weights of the rows, [S, n], for a teacher of the weighted law; each batch normalises its own.
    """
    denoiser = Denoiser(OutcomeNetwork(len(data.units), data.x.shape[2], data.arms, make_generator(derive(seed, "init"), device=data.device), config.width,
                                       config.depth, config.embedding, config.decoder, config.gate)).to(data.device)
    streams = data.generators(seed, "teacher")
    x, z, y = (table_rows(v, data.fit) for v in (data.x, data.z, data.y))

    def loss() -> dict[str, torch.Tensor]:
        row = torch.stack([torch.randint(x.shape[1], (config.batch,), generator=g, device=g.device) for g in streams])
        normal, eps = stacked(torch.randn, streams, 2, config.batch, config.levels).unbind(1)
        e = denoiser.embed(table_rows(x, row), table_rows(z, row))
        sigma = noise_levels(normal, config.log_sigma_mean, config.log_sigma_sd)
        log_w = None if log_weight is None else table_rows(table_rows(log_weight, data.fit), row)
        return {"edm": edm_loss(denoiser, table_rows(y, row)[:, :, None], e, sigma, eps, log_w), "gates": config.gate_penalty * denoiser.network.gates.penalty()}

    player = Player(denoiser, loss, config.lr, weight_decay=config.weight_decay, undecayed=("gates.gate",), average=config.average)
    identity = {"kind": "teacher", "code": _code(), "data": data.signature(), "seed": seed, "weights": log_weight is not None and tensor_hash(log_weight)} | asdict(config)
    return fit({"teacher": player}, config.rounds, streams, config=identity, seed=seed, score=lambda m: held_out_scores(data, m["teacher"], teacher_draws),
               score_every=config.score_every, patience=config.patience, checkpoint=_file(folder, "teacher", identity), label="teacher")


def check_law(law: str, arms: int) -> None:
    """Raise InputError for an unknown law of pairs, or one that is defined for two arms only."""
    checks.choice(law, "law", distillation.LAWS)
    if arms > 2 and law in ("ipw", "bernoulli"):
        raise checks.InputError(f"law {law!r} handles two arms, not {arms}; use law='shuffle', which takes any number and needs no propensity.")


def distil(teacher: Denoiser | GaussianTeacher, data: Outcomes, config: DistillationConfig, seed: int, folder: Path | None = None, start: Denoiser | None = None,
           propensity: torch.Tensor | None = None, pool: tuple[torch.Tensor, torch.Tensor] | None = None) -> Trained:
    """One-step generators of every slice, distilled from `teacher` under `config.law`.

    The losses see no outcome; the averaged generator is chosen by the CRPS at held-out factual outcomes. The teacher's parameters
    are left as they are. start: the denoiser whose copies generator and fake score begin from, by default the teacher; needed, with
    trainable='all', where the teacher is an oracle. propensity: e(x) of the training rows for law ipw, [S, n], by default estimated.
    pool: standardised covariates [S, N, d] and arms [S, N] to draw pairs from, by default the fit rows. All laws and losses share rows, noise and levels at one seed.
    """
    checks.choice(config.divergence, "divergence", ("sid", "dmd"))
    checks.choice(config.trainable, "trainable", ("all", "decoder"))
    check_law(config.law, data.arms)
    if (start is not None or not isinstance(teacher, Denoiser)) and config.trainable != "all":
        raise checks.InputError("start needs trainable='all': with trainable='decoder' the networks keep the teacher's embedding.")
    if start is None and not isinstance(teacher, Denoiser):
        raise checks.InputError("start is missing: an exact teacher has no weights to begin from; pass a Denoiser.")
    streams, arm_streams = data.generators(seed, "distil"), data.generators(seed, "distil-arms")
    student, fake = (copy.deepcopy(start or teacher).requires_grad_(True) for _ in range(2))
    if config.trainable == "decoder":
        for module in (student, fake):
            for part in (module.network.gates, module.network.trunk, module.network.heads):
                part.requires_grad_(False)
    if pool is not None and config.law == "ipw":
        raise checks.InputError("pool has no propensities; law 'ipw' draws from the fit rows only.")
    x, z = pool or (table_rows(data.x, data.fit), table_rows(data.z, data.fit))
    log_weight = None
    if config.law == "ipw":
        log_weight = log_inverse_propensity(z, table_rows(estimated_propensity(data) if propensity is None else propensity, data.fit), config.clip)
    with torch.no_grad():
        embedded = teacher.encode(x)

    def teacher_embedding(pairs) -> torch.Tensor:
        return embedded[torch.arange(len(x), device=x.device)[:, None], pairs.row, pairs.z]

    def embedding(module: Denoiser, pairs) -> torch.Tensor:
        return teacher_embedding(pairs) if config.trainable == "decoder" else module.embed(table_rows(x, pairs.row), pairs.z)

    def pairs_and_noise():
        pairs = draw_pairs(config.law, z, config.batch, streams, arm_generators=arm_streams, log_weight=log_weight, probability=config.probability)
        return pairs, stacked(torch.randn, streams, 2, config.batch, config.draws).unbind(1)

    def generator_loss() -> dict[str, torch.Tensor]:
        pairs, (eps, eps_score) = pairs_and_noise()
        sigma = sid_sigma(config.t_max * stacked(torch.rand, streams, config.batch, 1))
        y = generate(student, eps, embedding(student, pairs), config.sigma_init)
        with torch.no_grad():
            e_fake = embedding(fake, pairs)
        noisy = y + sigma * eps_score
        if config.divergence == "sid":
            return {"sid": sid_loss(y, teacher(noisy, sigma, teacher_embedding(pairs)), fake(noisy, sigma, e_fake), config.alpha, pairs.log_w)}
        with torch.no_grad():
            d_teacher, d_fake = teacher(noisy, sigma, teacher_embedding(pairs)), fake(noisy, sigma, e_fake)
        return {"dmd": dmd_loss(y, d_teacher, d_fake, pairs.log_w)}

    def fake_loss() -> dict[str, torch.Tensor]:
        pairs, (eps, eps_score) = pairs_and_noise()
        normal = stacked(torch.randn, streams, config.batch, config.draws)
        with torch.no_grad():
            y = generate(student, eps, embedding(student, pairs), config.sigma_init)
        return {"edm": edm_loss(fake, y, embedding(fake, pairs), noise_levels(normal, -1.2, 1.2), eps_score)}

    shared = dict(betas=(config.beta1, 0.999), weight_decay=config.weight_decay, average=config.average)
    players = {"generator": Player(student, generator_loss, config.generator_lr, **shared), "fake": Player(fake, fake_loss, config.fake_lr, updates=config.fake_updates, **shared)}
    identity = {"kind": "generator", "code": _code(), "data": data.signature(), "teacher": tensor_hash(*teacher.state_dict().values(), embedded), "start": start and tensor_hash(*start.parameters()), "weights": log_weight is not None and tensor_hash(log_weight), "pool": pool and tensor_hash(*pool), "seed": seed} | asdict(config)
    return fit(players, config.rounds, streams + arm_streams, config=identity, seed=seed, score=lambda m: held_out_scores(data, m["generator"], generator_draws(config.sigma_init)),
               score_every=config.score_every, patience=config.patience, checkpoint=_file(folder, f"generator-{config.divergence}-{config.law}", identity), label=f"distillation ({config.divergence}, {config.law})")


def _file(folder: Path | None, label: str, identity: dict) -> Path | None:
    return None if folder is None else folder / f"{label}-{config_hash(identity)}.safetensors"


def estimated_propensity(data: Outcomes) -> torch.Tensor:
    """e(x) of every training row, [S, n], by logistic regression cross-fitted in five folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    x, z = data.x.cpu().numpy(), data.z.cpu().numpy()
    e = [cross_val_predict(LogisticRegression(max_iter=2000), a, b, cv=folds, method="predict_proba")[:, 1] for a, b in zip(x, z)]
    return torch.as_tensor(np.stack(e), dtype=torch.float32, device=data.device)


def teacher_draws(denoiser: Denoiser, eps: torch.Tensor, e: torch.Tensor, sampler: str = "heun", steps: int = 18) -> torch.Tensor:
    """Multi-step draws, [S, B, M], from noise `eps` under embedded conditions `e [S, B, h]`: the flow from N(0, sigma_max^2)."""
    sigmas = karras_sigmas(steps, device=eps.device)
    return SAMPLERS[sampler](lambda y, sigma: denoiser(y, sigma, e), SIGMA_MAX * eps, sigmas)


def generator_draws(sigma_init: float):
    """One-step draws with the signature of `teacher_draws`."""
    return lambda denoiser, eps, e: generate(denoiser, eps, e, sigma_init)


@torch.no_grad()
def held_out_scores(data: Outcomes, denoiser: Denoiser, draw, draws: int = 20) -> dict[str, torch.Tensor]:
    """Held-out factual `crps` of `draws` stratified draws and their mean `draw_sd`, each [S], on the outcome's own scale."""
    e = denoiser.embed(table_rows(data.x, data.held), table_rows(data.z, data.held))
    y = draw(denoiser, stratified_normal(draws, data.device).expand(*e.shape[:2], -1), e)
    factual = table_rows(data.y, data.held)
    crps = torch.as_tensor([metrics.crps(d, f, fair=False) for d, f in zip(y.cpu().numpy(), factual.cpu().numpy())])
    scale = torch.as_tensor(data.y_scale)
    return {"crps": scale * crps, "draw_sd": scale * y.std(-1).mean(1).cpu()}


@torch.no_grad()
def potential_draws(data: Outcomes, denoisers: Denoiser | list[Denoiser], draw, x: np.ndarray, eps: torch.Tensor, chunk: int = 2**18) -> np.ndarray:
    """Draws of every potential outcome on the outcome's own scale, [S, N, K, M].

    denoisers: one stack, or the members of an ensemble. x: covariates of any units on their own scale, [N, d] or [S, N, d]; eps: standard
    normals, [M] (the same for every unit and arm) or [S, N, K, M]. Units go through in parts of about `chunk` draws, so that the work
    stays in cache and memory is bounded.
    """
    members = denoisers if isinstance(denoisers, list) else [denoisers]
    x = data.standardise(x)
    made = x.new_empty(*x.shape[:2], data.arms, eps.shape[-1])
    size = max(1, chunk // (len(x) * data.arms * -(-eps.shape[-1] // len(members))))
    for first, denoiser in enumerate(members[: eps.shape[-1]]):
        part = eps[..., first :: len(members)]
        for start in range(0, x.shape[1], size):
            rows = slice(start, start + size)
            e = denoiser.encode(x[:, rows]).flatten(1, 2)
            noise = part.expand(*e.shape[:2], -1) if part.dim() == 1 else part[:, rows].flatten(1, 2)
            made[:, rows, :, first :: len(members)] = draw(denoiser, noise, e).unflatten(1, (-1, data.arms))
    scale, center = (a.reshape(-1, 1, 1, 1) for a in (data.y_scale, data.y_center))
    return made.cpu().numpy() * scale + center


class Prediction(NamedTuple):
    """What a stack says of its tables: means of the draws `mu [S, n, K]` and their medians `median [S, n, K]` of every row, `draws [S, n_test, K, M]`
    of the test rows and `held [S, n_held, M]` of the held rows under their own arm, both float32."""

    mu: np.ndarray
    median: np.ndarray
    draws: np.ndarray
    held: np.ndarray


def predict(data: Outcomes, tables: list[CausalTable], denoisers: Denoiser | list[Denoiser], draw, n: int, n_train: int | None = None, folder: Path | None = None, label: str = "prediction") -> Prediction:
    """Stratified draws of every potential outcome of `tables`: `n` a test or held row, `n_train` (default n) another train row.

    `label` names the sampler; the result is kept in `folder` under it and the hash of weights, data, covariates and counts.
    """
    check_splits(tables)
    train, test = tables[0].train, tables[0].test
    covariates, n_train = np.stack([t.x for t in tables]), n_train or n

    def compute() -> dict[str, torch.Tensor]:
        held_x = np.stack([x[train[rows]] for x, rows in zip(covariates, data.held.cpu().numpy())])
        made = {name: potential_draws(data, denoisers, draw, x, stratified_normal(count, data.device))
                for name, x, count in (("train", covariates[:, train], n_train), ("test", covariates[:, test], n), ("held", held_x, n))}
        mu, median = (np.empty((*covariates.shape[:2], data.arms)) for _ in range(2))
        for values, read in ((mu, np.mean), (median, np.median)):
            values[:, train], values[:, test] = read(made["train"], -1), read(made["test"], -1)
        arm = table_rows(data.z, data.held).cpu().numpy()[:, :, None, None]
        held = np.take_along_axis(made["held"], arm, 2).squeeze(2)
        return {"mu": torch.as_tensor(mu), "median": torch.as_tensor(median), "draws": torch.as_tensor(made["test"]).float(), "held": torch.as_tensor(held).float()}

    members = denoisers if isinstance(denoisers, list) else [denoisers]
    known = tensor_hash(*(p for module in members for p in module.state_dict().values()), *(torch.as_tensor(a) for a in (covariates, train, test)))
    found = remember(folder, "prediction", {"code": _code(), "data": data.signature(), "known": known, "label": label, "n": n, "n_train": n_train}, compute)
    return Prediction(*(found[name].numpy() for name in Prediction._fields))


def only(data: Outcomes, module: Denoiser, index: int) -> tuple[Outcomes, Denoiser]:
    """Slice `index` of a stack as a stack of one."""
    part = slice(index, index + 1)
    network = copy.deepcopy(module)
    for parameter in network.parameters():
        parameter.data = parameter.data[part].clone()
    tensors = ("x", "z", "y", "fit", "held", "x_center", "x_scale", "y_center", "y_scale")
    return replace(data, units=data.units[part], **{name: getattr(data, name)[part] for name in tensors}), network
