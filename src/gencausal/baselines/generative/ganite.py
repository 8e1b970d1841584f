r"""GANITE (Yoon, Jordon, van der Schaar, ICLR 2018) in short: two adversarial games, one that completes the table and one that learns to do without the outcome.

Counterfactual block, generator G and discriminator D_G, y_bar the completed pair (factual where seen, G elsewhere):

    max over D_G, min over G   V = E[ z log D_G(x, y_bar) + (1 - z) log(1 - D_G(x, y_bar)) ],   G also minimises (G_z(x, z, y, u) - y)^2 / alpha     `Eq. ganite-cf`

Individual-effect block, generator I(x, u) and discriminator D_I against the completed pairs of the frozen G:

    min over D_I  -E log D_I(x, y_bar) - E log(1 - D_I(x, I)),   min over I  mean_k (I_k - y_bar_k)^2 - beta E log D_I(x, I)                         `Eq. ganite-ite`

u is standard normal. Draws of the potential outcomes are I(x, u); their mean is the point estimate. Departures from the paper: continuous outcomes without a
link, SiLU layers, averaged weights, and the stopping round of the second block chosen by the held-out factual CRPS. Two arms.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from gencausal.baselines.generative.shared import Fitted, StackedMLP, held_out_crps, paired_normal, rows_of, unit_variance
from gencausal.data.stack import Outcomes, table_rows
from gencausal.seeding import derive, generator, stacked
from gencausal.training import Player, fit


@dataclass(frozen=True)
class GaniteConfig:
    """Everything that decides a GANITE."""

    alpha: float = 1.0  # adversarial part of the counterfactual generator's loss
    beta: float = 1.0  # adversarial part of the effect generator's loss
    width: int = 128
    depth: int = 2  # hidden layers of every network
    noise: int = 2  # dimension of u
    rounds: int = 800  # generator steps of each block
    batch: int = 256
    lr: float = 1e-3
    weight_decay: float = 0.0
    discriminator_updates: int = 2  # steps of a discriminator for one of its generator
    average: float = 0.995
    score_every: int = 100
    score_draws: int = 20
    draws_train: int = 50  # draws of the training rows, whose mean alone is used

    point = staticmethod(np.mean)


def completed(y: torch.Tensor, z: torch.Tensor, generated: torch.Tensor) -> torch.Tensor:
    """Potential outcomes [S, B, K] with the factual `y [S, B]` in arm `z [S, B]` and `generated [S, B, K]` elsewhere."""
    return generated.scatter(2, z[:, :, None], y[:, :, None])


def _cross_entropy(logit: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Mean over units of a stack, [S, B] and [S, B] -> [S]."""
    return binary_cross_entropy_with_logits(logit, label, reduction="none").mean(1)


def train(data: Outcomes, config: GaniteConfig, seed: int, checkpoint: Path | None, identity: dict) -> Fitted:
    """GANITE of every data set of the stack: Eq. ganite-cf, then Eq. ganite-ite on the table that it completed."""
    S, d, K = len(data.units), data.x.shape[2], data.arms
    rng, y = generator(derive(seed, "init"), "ganite", device=data.device), unit_variance(data)
    network = lambda n_in, n_out: StackedMLP(S, n_in, n_out, rng, config.width, config.depth)  # noqa: E731
    complete, complete_judge, effect, effect_judge = network(d + 2 + config.noise, K), network(d + K, 1), network(d + config.noise, K), network(d + K, 1)
    streams, effect_streams = data.generators(seed, "ganite"), data.generators(seed, "ganite-effect")

    def batch(which: list[torch.Generator]):
        row = rows_of(data, config.batch, which)
        x, z, outcome = (table_rows(v, row) for v in (data.x, data.z, y))
        return x, z, outcome, stacked(torch.randn, which, 2, config.batch, config.noise).unbind(1)

    def generate(x, z, outcome, u, module=complete) -> torch.Tensor:
        return module(torch.cat([x, z[:, :, None].float(), outcome[:, :, None], u], -1))

    def judge(module, x, pair) -> torch.Tensor:
        return module(torch.cat([x, pair], -1)).squeeze(2)

    def complete_loss() -> dict[str, torch.Tensor]:
        x, z, outcome, (u, _) = batch(streams)
        pair = generate(x, z, outcome, u)
        fooled = -_cross_entropy(judge(complete_judge, x, completed(outcome, z, pair)), z.float())
        return {"factual": (pair.gather(2, z[:, :, None]).squeeze(2) - outcome).square().mean(1), "adversarial": config.alpha * fooled}

    def complete_judge_loss() -> dict[str, torch.Tensor]:
        x, z, outcome, (u, _) = batch(streams)
        with torch.no_grad():
            pair = completed(outcome, z, generate(x, z, outcome, u))
        return {"cross_entropy": _cross_entropy(judge(complete_judge, x, pair), z.float())}

    shared = dict(betas=(0.5, 0.999), weight_decay=config.weight_decay, average=config.average)
    part = lambda name: None if checkpoint is None else checkpoint.with_name(f"{name}-{checkpoint.name}")  # noqa: E731
    players = {"judge": Player(complete_judge, complete_judge_loss, config.lr, updates=config.discriminator_updates, **shared), "generator": Player(complete, complete_loss, config.lr, **shared)}
    first = fit(players, config.rounds, streams, config=identity | {"block": 1}, seed=seed, checkpoint=part("complete"), label="ganite, counterfactuals")
    frozen = first.modules["generator"]

    def table(which: list[torch.Generator]):
        x, z, outcome, (u, u_effect) = batch(which)
        with torch.no_grad():
            pair = completed(outcome, z, generate(x, z, outcome, u, frozen))
        return x, pair, torch.cat([x, u_effect], -1)

    def effect_loss() -> dict[str, torch.Tensor]:
        x, pair, inputs = table(effect_streams)
        made = effect(inputs)
        return {"outcomes": (made - pair).square().mean((1, 2)), "adversarial": config.beta * softplus(-judge(effect_judge, x, made)).mean(1)}

    def effect_judge_loss() -> dict[str, torch.Tensor]:
        x, pair, inputs = table(effect_streams)
        with torch.no_grad():
            made = effect(inputs)
        return {"cross_entropy": softplus(-judge(effect_judge, x, pair)).mean(1) + softplus(judge(effect_judge, x, made)).mean(1)}

    def sampler(module: StackedMLP):
        def draw(x: torch.Tensor, n: int, which: list[torch.Generator]) -> torch.Tensor:
            u = paired_normal(which, x.shape[1], config.noise, n).transpose(2, 3)
            return module(torch.cat([x[:, :, None].expand(-1, -1, n, -1), u], -1).flatten(1, 2)).unflatten(1, (-1, n)).transpose(2, 3)
        return draw

    players = {"judge": Player(effect_judge, effect_judge_loss, config.lr, updates=config.discriminator_updates, **shared), "generator": Player(effect, effect_loss, config.lr, **shared)}
    second = fit(players, config.rounds, effect_streams, config=identity | {"block": 2}, seed=seed, score=lambda m: {"crps": held_out_crps(data, sampler(m["generator"]), config.score_draws, seed)},
                 score_every=config.score_every, checkpoint=part("effect"), label="ganite, effects")
    return Fitted(sampler(second.modules["generator"]), (first, second))
