r"""E12: sample size, noise covariates, and how the arm enters the network (specification 7).

Two networks of one trunk, decoder and budget. `embedding` (ours): the trunk sees x alone and every arm has a head of its own. `concat`: z joins the
covariates as K one-hot columns, so that one head must tell the arms apart through a trunk fed by d covariates; only its teacher is compared.

`Eq. subsample`: n training rows of an ACIC setting, drawn without replacement, plus d' columns of independent N(0, 1); the test rows stay.
"""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import silu

from gencausal import checks, metrics, seeding
from gencausal.checkpoints import config_hash
from gencausal.data.stack import Outcomes, prepare_tables, table_rows
from gencausal.data.table import CausalTable
from gencausal.diffusion import Denoiser, edm_loss, noise_levels
from gencausal.estimators.outcomes import TeacherConfig, held_out_scores, potential_draws, teacher_draws
from gencausal.experiments.designs import flow
from gencausal.nn.mlp import OutcomeNetwork, StackedLinear
from gencausal.training import Player, fit


class ConcatNetwork(OutcomeNetwork):
    """The outcome network with the arm as K one-hot columns beside the gated covariates, and one head for all arms."""

    def __init__(self, stack: int, covariates: int, arms: int, rng: torch.Generator, width: int = 200, depth: int = 3, embedding: int = 128, decoder: int = 64, gate: float = 0.5):
        super().__init__(stack, covariates, arms, rng, width, depth, embedding, decoder, gate)
        self.trunk[0] = StackedLinear(stack, covariates + arms, width, rng, 1.4)
        self.heads = StackedLinear(stack, width, embedding, rng, 1.4)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Embeddings of every arm: `x [S, B, d] -> [S, B, K, h]`."""
        S, B, _ = x.shape
        own = self.gates(x)[:, :, None].expand(-1, -1, self.arms, -1)
        h = torch.cat([own, torch.eye(self.arms, device=x.device).expand(S, B, -1, -1)], -1).flatten(1, 2)
        for layer in self.trunk:
            h = silu(layer(h))
        return silu(self.heads(h)).unflatten(1, (B, self.arms))


NETWORKS = {"embedding": OutcomeNetwork, "concat": ConcatNetwork}


def train(network: str, data: Outcomes, config: TeacherConfig, seed: int) -> Denoiser:
    """A teacher on one of `NETWORKS` (Eq. teacher): loss, streams, averaging and choice by held-out CRPS as in `outcomes.train_teacher`."""
    checks.choice(network, "network", tuple(NETWORKS))
    rng = seeding.generator(seeding.derive(seed, "init"), device=data.device)
    denoiser = Denoiser(NETWORKS[network](len(data.units), data.x.shape[2], data.arms, rng, config.width, config.depth, config.embedding, config.decoder, config.gate)).to(data.device)
    streams = data.generators(seed, "teacher")
    x, z, y = (table_rows(v, data.fit) for v in (data.x, data.z, data.y))

    def loss() -> dict[str, torch.Tensor]:
        row = torch.stack([torch.randint(x.shape[1], (config.batch,), generator=g, device=g.device) for g in streams])
        normal, eps = seeding.stacked(torch.randn, streams, 2, config.batch, config.levels).unbind(1)
        e = denoiser.embed(table_rows(x, row), table_rows(z, row))
        return {"edm": edm_loss(denoiser, table_rows(y, row)[:, :, None], e, noise_levels(normal, config.log_sigma_mean, config.log_sigma_sd), eps),
                "gates": config.gate_penalty * denoiser.network.gates.penalty()}

    player = Player(denoiser, loss, config.lr, weight_decay=config.weight_decay, undecayed=("gates.gate",), average=config.average)
    identity = config_hash({"network": network, "data": data.signature()} | asdict(config))
    return fit({"teacher": player}, config.rounds, streams, config={"identity": identity}, seed=seed, score=lambda m: held_out_scores(data, m["teacher"], teacher_draws), score_every=config.score_every,
               patience=config.patience, label=f"teacher ({network})").modules["teacher"]


def subsample(table: CausalTable, n: int, noise: int, seed: int) -> CausalTable:
    """`table` with n of its training rows, in order, its test rows, and `noise` columns of N(0, 1) (Eq. subsample); the rows of a smaller n are among those of a larger."""
    checks.whole(n, "n", 20, len(table.train))
    checks.whole(noise, "noise", 0)
    rng = lambda use: seeding.numpy_generator(seed, "subsample", table.name, table.unit, use)  # noqa: E731
    rows = np.concatenate([np.sort(rng("rows").permutation(table.train)[:n]), table.test])
    x = np.concatenate([table.x, rng("noise").standard_normal((noise, len(table.x))).T], 1)[rows]
    part = lambda a: None if a is None else a[rows]  # noqa: E731
    return replace(table, x=x, t=table.t[rows], y=table.y[rows], mu=table.mu[rows], potential=table.potential[rows], propensity=part(table.propensity),
                   covariates=[*table.covariates, *(f"noise_{i + 1}" for i in range(noise))], train=np.arange(n), test=np.arange(n, len(rows)))


def run(tables: list[CausalTable], sizes: list[tuple[int, int]], config: TeacherConfig, seeds: list[int], networks: tuple[str, ...] = ("embedding", "concat")) -> list[dict]:
    """Rows of E12: out-of-sample `pehe_normalised` of the teacher's medians for each (n, noise covariates) of `sizes`, one stack over tables and seeds.

    dataset: "<name> n=<n> noise=<d'>"; unit: the table's; method: the network. A seed draws rows and noise columns and names the random stream; the scale of PEHE is the sd of mu over all rows of the table.
    """
    made = []
    for n, noise in sizes:
        parts = [(table, seed, replace(subsample(table, n, noise, seed), unit=f"{table.unit}|{seed}")) for seed in seeds for table in tables]
        data = prepare_tables([p for _, _, p in parts], 0)
        for network in networks:
            module = train(network, data, config, seeds[0])
            mu = potential_draws(data, module, flow, np.stack([p.x[p.test] for _, _, p in parts]), torch.zeros(1))[..., 0]
            for (table, seed, p), own in zip(parts, mu):
                error = metrics.pehe_normalised(own[:, 1] - own[:, 0], p.mu[p.test, 1] - p.mu[p.test, 0], table.mu)
                made.append({"experiment": "iwdd.E12", "dataset": f"{table.name} n={n} noise={noise}", "unit": table.unit, "method": network, "metric": "pehe_normalised", "seed": seed, "value": error, "n": len(p.test)})
    return made
