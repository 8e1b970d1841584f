"""VCI, its ablations, conditional VAE and autoencoder on cells: any number of tables, weights and seeds, trained as one stack (spec vci, 2.3 and E1 to E3).

One network is a table, a row of weights and a seed. Networks that share table and seed see the same cells, the same drawn treatments, matches and noise, so that a
difference between two of them is due to their weights. Data and weights stay on the device; a step has no loop over cells and one generator a (table, seed).

Where the public code goes through the cells in epochs, a batch here is drawn with replacement; AdamW stands for Adam with coupled decay (4e-7 in either), and the rate follows
`training.learning_rate`, not steps of 0.1. All other choices are those of the public code unless `Config` says otherwise.
"""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from gencausal import checks, seeding
from gencausal.cell_models import simple
from gencausal.checkpoints import config_hash, tensor_hash
from gencausal.data.cell_table import CellTable
from gencausal.training import Player, fit
from gencausal.vci import objective
from gencausal.vci.networks import CellNetworks

WEIGHTS = {  # w0, w1, w2, and the weight of the divergence to N(0, 1) as a share of one element (1 / G)
    "vci": (1.0, 1.7, 0.1, 0.0),
    "vci_reweighted": (0.03, 1.7, 0.0003, 0.0),
    "vci_no_divergence": (1.0, 1.7, 0.0, 0.0),
    "vci_no_supervision": (1.0, 0.0, 0.1, 0.0),
    "autoencoder": (1.0, 0.0, 0.0, 0.0),
    "cvae": (1.0, 0.0, 0.0, 1.0),
}
"""The published weights (Marson script, spec vci, 2.4), one row a method; `vci_reweighted` is ours, for few cells and few steps. The conditional VAE's divergence is counted once a cell, as in the evidence bound, where L0 is a mean over G."""
EVERY_MATCH = 0


@dataclass(frozen=True)
class Config:
    """What the networks of a stack share.

    rounds: optimiser steps; batch: cells a step; draws: Monte-Carlo samples M of the reconstruction (30 as published for genes); matches: matched cells a sample, with
    replacement (20 as published), or `EVERY_MATCH` for the mean over all of them, the same loss in expectation; lr, weight_decay; average: decay of the averaged weights; clip: largest
    gradient norm (inf: none, as published for genes); warmup: rounds; width, latent, embedding, relu_heads, norm, likelihood, sees_treatment, sees_covariates: of `CellNetworks`; divergence: official or exact; refresh: rounds between
    copies of the encoder into a frozen evaluating one, 0 for the live encoder (as published for genes); control_cf: whether t' may be the control; borrow: whether a
    group without cells borrows its match from like strata (`simple.borrowed`, Eq. borrow; not as published); joint: factual and drawn treatments
    pass the decoder's norm together (`objective.terms`); informed_start: begin at the genes' training means and spreads.
    """

    rounds: int = 2000
    batch: int = 64
    draws: int = 5
    matches: int = 20
    lr: float = 3e-4
    weight_decay: float = 4e-7
    average: float = 0.99
    clip: float = float("inf")
    warmup: int = 50
    width: int = 128
    latent: int = 128
    embedding: int = 256
    relu_heads: bool = True
    norm: str = "batch"
    likelihood: str = "normal"
    sees_treatment: bool = True
    sees_covariates: bool = True
    divergence: str = "official"
    refresh: int = 0
    control_cf: bool = False
    borrow: bool = False
    joint: bool = False
    informed_start: bool = True


@dataclass(frozen=True)
class Member:
    """One network: the index of its table, w0, w1, w2 and prior weight (in 1 / G), and its seed."""

    table: int
    weights: tuple[float, float, float, float]
    seed: int


class Cells:
    """The training cells of several tables on a device, drawn for each stream (a table and a seed).

    Tables must agree in the number of cells, genes, treatments, conditions and strata; their rows, genes and training sets may differ.
    """

    def __init__(self, tables: list[CellTable], streams: list[tuple[int, int]], config: Config, device: torch.device):
        shapes = {(t.outcome.shape, t.condition_treatment.shape, t.stratum_covariates.shape) for t in tables}
        if len(shapes) != 1:
            raise checks.InputError(f"tables differ in shape ({sorted(map(str, shapes))[:2]}); a stack needs equal numbers of cells, genes, conditions and strata.")
        put = lambda arrays, kind: torch.as_tensor(np.stack(arrays)).to(device, kind)  # noqa: E731
        self.config, self.device, self.tables = config, device, tables
        self.generators = [seeding.generator(seed, "cells", tables[table].name, device=device) for table, seed in streams]
        self.offset = torch.tensor([table for table, _ in streams], device=device)[:, None] * tables[0].n
        self.outcome = put([t.outcome for t in tables], torch.float32).flatten(0, 1)
        self.compared = self.outcome.log1p() if config.likelihood == "negative_binomial" else self.outcome
        self.square = self.compared.square().mean(1)
        self.treatment = put([t.condition_treatment[t.condition] for t in tables], torch.float32).flatten(0, 1)
        self.covariates = put([t.covariates for t in tables], torch.float32).flatten(0, 1)
        self.condition_treatment = put([t.condition_treatment for t in tables], torch.float32)[0]
        self.stratum_covariates = put([t.stratum_covariates for t in tables], torch.float32)[0]
        K = len(tables[0].conditions)
        self.stratum = put([t.stratum for t in tables], torch.long).flatten()
        chosen = [tables[table] for table, _ in streams]
        self.train_size = torch.tensor([len(t.train) for t in chosen], device=device)[:, None]
        self.train = torch.zeros(len(chosen), int(self.train_size.max()), dtype=torch.long, device=device)
        self.drawn_size = torch.tensor([int((t.condition[t.train] != t.control).sum() if not config.control_cf else len(t.train)) for t in chosen], device=device)[:, None]
        if not self.drawn_size.all():
            raise checks.InputError("a table has no treated training cell; t' is drawn from these.")
        self.drawn = torch.zeros(len(chosen), int(self.drawn_size.max()), dtype=torch.long, device=device)
        self.start = torch.zeros(len(chosen), len(tables[0].strata) * K, dtype=torch.long, device=device)
        self.count = torch.zeros_like(self.start)
        self.order = torch.zeros_like(self.train)
        for row, t in enumerate(chosen):
            group = t.stratum[t.train] * K + t.condition[t.train]
            order = np.argsort(group, kind="stable")
            count = np.bincount(group, minlength=self.start.shape[1])
            self.train[row, :len(t.train)] = torch.as_tensor(t.train)
            self.order[row, :len(t.train)] = torch.as_tensor(t.train[order])
            self.count[row], self.start[row] = torch.as_tensor(count), torch.as_tensor(np.cumsum(count) - count)
            drawn = t.condition[t.train]
            drawn = drawn if config.control_cf else drawn[drawn != t.control]
            self.drawn[row, :len(drawn)] = torch.as_tensor(drawn)
        groups = range(self.start.shape[1])
        self.means = torch.stack([torch.stack([self.compared[self._group(row, g)].mean(0) for g in groups]) for row in range(len(chosen))])  # NaN for a group without cells
        self.squares = torch.stack([torch.stack([self.square[self._group(row, g)].mean() for g in groups]) for row in range(len(chosen))])
        self.known = self.count > 0
        if config.borrow:
            for row, t in enumerate(chosen):
                means = simple.borrowed(self.means[row].unflatten(0, (-1, K)).double().cpu().numpy(), t.control)
                means = torch.as_tensor(means).to(self.means).flatten(0, 1)
                new = ~means[:, 0].isnan() & ~self.known[row]
                self.means[row] = torch.where(new[:, None], means, self.means[row])
                self.squares[row] = torch.where(new, (self.means[row] * self.means[row]).mean(-1), self.squares[row])
                self.known[row] |= new
        self.means, self.squares = torch.nan_to_num(self.means), torch.nan_to_num(self.squares)

    def _group(self, row: int, group: int) -> torch.Tensor:
        start = int(self.start[row, group])
        return self.order[row, start:start + int(self.count[row, group])] + self.offset[row]

    def draw(self, latent: int) -> objective.Batch:
        """One batch a stream: cells uniformly, t' as the condition of a uniformly drawn (treated) training cell, matches uniformly within the covariates under t'."""
        c, R = self.config, len(self.generators)
        uniform = seeding.stacked(torch.rand, self.generators, 2 + max(c.matches, 1), c.batch)
        eps = seeding.stacked(torch.randn, self.generators, c.draws + 1, c.batch, latent)
        pick = lambda rows, size, u: rows.gather(1, (u * size).long().clamp(max=size - 1))  # noqa: E731
        cells = pick(self.train, self.train_size, uniform[:, 0]) + self.offset
        condition_cf = pick(self.drawn, self.drawn_size, uniform[:, 1])
        group = self.stratum[cells] * len(self.condition_treatment) + condition_cf
        count = self.count.gather(1, group)
        row = torch.arange(R, device=self.device)[:, None]
        mean, square = self.means[row, group], self.squares[row, group]
        if c.matches != EVERY_MATCH:
            place = self.start.gather(1, group)[..., None] + (uniform[:, 2:].transpose(1, 2) * count[..., None]).long().clamp(max=(count - 1).clamp(min=0)[..., None])
            used = torch.arange(c.matches, device=self.device) < count[..., None].clamp(max=c.matches)
            share = used / used.sum(-1, keepdim=True).clamp(min=1)
            index = self.order.gather(1, place.flatten(1).clamp(max=self.order.shape[1] - 1)).view_as(place) + self.offset[..., None]
            drawn = torch.nn.functional.embedding_bag(index.flatten(0, 1), self.compared, per_sample_weights=share.flatten(0, 1).to(self.compared.dtype), mode="sum").view(R, c.batch, -1)
            mean = torch.where(count[..., None] > 0, drawn, mean)
            square = torch.where(count > 0, (self.square[index] * share).sum(-1), square)
        return objective.Batch(self.outcome[cells], self.treatment[cells], self.covariates[cells], self.condition_treatment[condition_cf], mean, square, self.known[row, group], eps)


@dataclass(frozen=True)
class Fitted:
    """A trained stack. `networks` in evaluation mode; `members` and `tables` as given to `train`; `history` of the loss terms; `seconds` of training."""

    networks: nn.Module
    members: list[Member]
    tables: list[CellTable]
    history: list[dict]
    seconds: float

    @torch.no_grad()
    def _run(self, function: str, member: int, *arrays: np.ndarray, size: int = 4096):
        one = self.alone(member)
        device = next(one.parameters()).device
        parts = [torch.tensor(np.asarray(a, np.float32), device=device)[None] for a in arrays]
        found = [getattr(one, function)(*chunk) for chunk in zip(*(p.split(size, 1) for p in parts), strict=True)]
        if function == "encode":
            return tuple(torch.cat(halves, 1)[0].cpu().numpy() for halves in zip(*found))
        return torch.cat(found, 1)[0].cpu().numpy()

    def alone(self, member: int) -> nn.Module:
        """The network of one member as a stack of one."""
        return _with_parameters(copy.deepcopy(self.networks), lambda name, p: p[member:member + 1].clone()).requires_grad_(False)

    def predict(self, member: int, outcome: np.ndarray, treatment: np.ndarray, covariates: np.ndarray, treatment_cf: np.ndarray) -> np.ndarray:
        """Counterfactual outcomes [n, G] of a member: encoder mean, decoder mean."""
        return self._run("predict", member, outcome, treatment, covariates, treatment_cf)

    def encode(self, member: int, outcome: np.ndarray, treatment: np.ndarray, covariates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation [n, L] of the latent."""
        return self._run("encode", member, outcome, treatment, covariates)


def make(tables: list[CellTable], members: list[Member], config: Config, device: torch.device) -> CellNetworks:
    """The untrained stack of `members`; members of equal table and seed start from the same weights."""
    table = tables[0]
    streams = sorted({(m.table, m.seed) for m in members})
    build = lambda seed: CellNetworks(  # noqa: E731
        1, table.outcome.shape[1], table.condition_treatment.shape[1], table.blocks, seeding.generator(seed, "cell networks", device=device), config.width, config.latent, config.embedding,
        relu_heads=config.relu_heads, norm=config.norm, sees_treatment=config.sees_treatment, sees_covariates=config.sees_covariates, likelihood=config.likelihood)
    single = {stream: build(stream[1]) for stream in streams}
    if config.informed_start and config.likelihood == "normal":
        for (index, _), networks in single.items():
            informed(networks, tables[index])
    return _with_parameters(build(0), lambda name, p: torch.cat([single[m.table, m.seed].get_parameter(name).detach() for m in members]))


@torch.no_grad()
def informed(networks: CellNetworks, table: CellTable) -> None:
    """Start the decoder at the mean and standard deviation of every gene over the training cells, and the encoder's first layer centred on the mean, with outputs of variance one: the same networks, nearer to where they go."""
    outcome = torch.as_tensor(table.outcome[table.train]).to(networks.embed.weight)
    var, mean = torch.var_mean(outcome, 0, correction=0)
    networks.decoder_head.bias[0, 0] = torch.cat([mean, torch.log(torch.expm1(var.sqrt().clamp(min=0.05)))])
    networks.embed.weight *= (networks.genes / var.sum()).sqrt()
    networks.embed.bias -= mean @ networks.embed.weight[0]


def _with_parameters(module: nn.Module, new: Callable[[str, nn.Parameter], torch.Tensor]) -> nn.Module:
    """`module` with every parameter p replaced by `new(name, p)`, gradients asked for as before."""
    for name, parameter in list(module.named_parameters()):
        place, _, last = name.rpartition(".")
        setattr(module.get_submodule(place), last, nn.Parameter(new(name, parameter), requires_grad=parameter.requires_grad))
    return module


class Evaluator(nn.Module):
    """A frozen copy of the networks, running statistics included, that is renewed every `refresh` calls; a player without updates, so that checkpoints hold it."""

    def __init__(self, networks: CellNetworks, refresh: int):
        super().__init__()
        self.networks, self.refresh = copy.deepcopy(networks).requires_grad_(False), refresh
        self.age = nn.Parameter(torch.zeros(1))

    @torch.no_grad()
    def renewed(self, live: CellNetworks) -> CellNetworks:
        """The copy, renewed from `live` where it is due."""
        if int(self.age) % self.refresh == 0:
            for kept, now in zip(self.networks.parameters(), live.parameters()):
                kept.copy_(now)
        self.age += 1
        return self.networks


def identity(tables: list[CellTable], members: list[Member]) -> dict:
    """What names tables and members in a checkpoint's configuration."""
    return {"members": [[m.table, list(m.weights), m.seed] for m in members],
            "tables": [[t.name, t.unit, tensor_hash(*(torch.as_tensor(a) for a in (t.outcome, t.train, t.condition, t.stratum)))] for t in tables]}


def train(tables: list[CellTable], members: list[Member], config: Config, checkpoint: Path | None = None, device: torch.device | str = "cpu", label: str = "vci") -> Fitted:
    """Train every member at once; a killed training continues from `checkpoint` (a folder). InputError if the tables do not fit together."""
    device = torch.device(device)
    streams = sorted({(m.table, m.seed) for m in members})
    cells = Cells(tables, streams, config, device)
    networks = make(tables, members, config, device)
    stream = torch.tensor([streams.index((m.table, m.seed)) for m in members], device=device)
    G = tables[0].outcome.shape[1]
    weights = torch.tensor([[*m.weights[:3], m.weights[3] / G] for m in members], device=device).T.contiguous()
    evaluator = Evaluator(networks, config.refresh) if config.refresh else None

    def loss() -> dict[str, torch.Tensor]:
        batch = cells.draw(config.latent)
        if len(streams) < len(members):
            batch = objective.Batch(*(getattr(batch, name)[stream] for name in objective.Batch.__dataclass_fields__))
        return objective.terms(networks, batch, weights, config.divergence, evaluator and evaluator.renewed(networks), joint=config.joint)

    about = {"method": "vci", "recipe": 1, "config": asdict(config), **identity(tables, members)}
    path = None if checkpoint is None else checkpoint / f"{label}-{config_hash(about)}.safetensors"
    players = {"vci": Player(networks, loss, config.lr, betas=(0.9, 0.999), weight_decay=config.weight_decay, average=config.average, clip=config.clip)}
    if evaluator:
        players["evaluator"] = Player(evaluator, loss, 0.0, updates=0)
    done = fit(players, config.rounds, cells.generators,
               config=about, warmup=config.warmup, checkpoint=path, label=label, log_every=max(config.rounds // 40, 1))
    return Fitted(done.modules["vci"], members, tables, done.history, done.seconds)
