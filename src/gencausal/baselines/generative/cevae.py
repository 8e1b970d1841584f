r"""CEVAE (Louizos, Shalit, Mooij, Sontag, Zemel, Welling, NeurIPS 2017) in short: a latent confounder l behind covariates, treatment and outcome.

Model: l ~ N(0, I); p(x | l), p(z | l), p(y | z, l) with one head an arm. Inference: q(l | x, z, y) with one head an arm, and q(z | x), q(y | x, z) for units whose
treatment and outcome are not known. Maximised (Eq. 8 and 9 there):

    E_q[ log p(x | l) + log p(z | l) + log p(y | z, l) ] - KL(q(l | x, z, y) || N(0, I)) + log q(z | x) + log q(y | x, z)         `Eq. cevae`

Draws under do(z): z' ~ q(z | x), y' ~ q(y | x, z'), l ~ q(l | x, z', y'), y ~ p(y | z, l) for both arms with the same noise; their mean is the point estimate.
Two-valued covariates are Bernoulli, the others Gaussian. Departures from the paper: standard deviations of outcome and covariates are learned (one an arm,
one a column) where the paper fixes them, SiLU layers, averaged weights, the stopping round chosen by the held-out factual CRPS. Two arms.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, silu

from gencausal.baselines.generative.shared import Fitted, StackedMLP, held_out_crps, paired_normal, rows_of, unit_variance
from gencausal.data.stack import Outcomes, table_rows
from gencausal.nn.mlp import StackedLinear
from gencausal.seeding import derive, generator, stacked
from gencausal.training import Player, fit


@dataclass(frozen=True)
class CevaeConfig:
    """Everything that decides a CEVAE."""

    latent: int = 20  # dimension of l
    width: int = 128
    depth: int = 2  # hidden layers of every network
    rounds: int = 1500
    batch: int = 256
    lr: float = 1e-3
    weight_decay: float = 0.0
    average: float = 0.995
    score_every: int = 100
    score_draws: int = 20
    draws_train: int = 50  # draws of the training rows, whose mean alone is used

    point = staticmethod(np.mean)


class Cevae(nn.Module):
    """Model and inference networks of `Eq. cevae`; `binary [S, 1, d]` says which covariates are Bernoulli."""

    def __init__(self, stack: int, covariates: int, arms: int, binary: torch.Tensor, rng: torch.Generator, config: CevaeConfig):
        super().__init__()
        mlp = lambda n_in, n_out, depth=config.depth: StackedMLP(stack, n_in, n_out, rng, config.width, depth, 0.5)  # noqa: E731
        free = lambda n: nn.Parameter(torch.zeros(stack, 1, n, device=rng.device))  # noqa: E731
        self.arms, self.latent = arms, config.latent
        self.q_z, self.q_y, self.q_y_log_sd = mlp(covariates, 1), mlp(covariates, arms), free(arms)
        self.q_trunk, self.q_heads = mlp(covariates + 1, config.width, config.depth - 1), StackedLinear(stack, config.width, 2 * config.latent * arms, rng, 0.5)
        self.p_x, self.p_x_log_sd, self.p_z = mlp(config.latent, covariates), free(covariates), mlp(config.latent, 1)
        self.p_y, self.p_y_log_sd = mlp(config.latent, arms), free(arms)
        self.register_buffer("binary", binary, persistent=False)

    def infer(self, x: torch.Tensor, z: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log sd of q(l | x, z, y): `x [S, N, d]`, `z, y [S, N]` -> two [S, N, latent]."""
        heads = self.q_heads(silu(self.q_trunk(torch.cat([x, y[:, :, None]], -1)))).unflatten(-1, (self.arms, 2 * self.latent))
        chosen = heads.gather(2, z[:, :, None, None].expand(-1, -1, 1, 2 * self.latent)).squeeze(2)
        mean, log_sd = chosen.chunk(2, -1)
        return mean, log_sd.clamp(-6, 3)

    def terms(self, x: torch.Tensor, z: torch.Tensor, y: torch.Tensor, eps: torch.Tensor) -> dict[str, torch.Tensor]:
        """The negative terms of Eq. cevae, each [S], with one latent a unit from `eps [S, B, latent]`."""
        mean, log_sd = self.infer(x, z, y)
        latent = mean + log_sd.exp() * eps
        entropy = lambda logit: binary_cross_entropy_with_logits(logit.squeeze(2), z.float(), reduction="none").mean(1)  # noqa: E731
        arm = z[:, :, None]
        of_arm = lambda means, log_sds: gaussian_nll(y, means.gather(2, arm).squeeze(2), log_sds.expand_as(means).gather(2, arm).squeeze(2)).mean(1)  # noqa: E731
        made = self.p_x(latent)
        columns = torch.where(self.binary, binary_cross_entropy_with_logits(made, (x > 0).float(), reduction="none"), gaussian_nll(x, made, self.p_x_log_sd))
        return {"kl": divergence(mean, log_sd).mean(1), "x": columns.sum(2).mean(1), "z": entropy(self.p_z(latent)), "y": of_arm(self.p_y(latent), self.p_y_log_sd),
                "q_z": entropy(self.q_z(x)), "q_y": of_arm(self.q_y(x), self.q_y_log_sd)}

    def draw(self, x: torch.Tensor, n: int, streams: list[torch.Generator]) -> torch.Tensor:
        """Draws under do(0) and do(1) for `x [S, U, d]`, [S, U, K, n]; both arms see the same latent and noise."""
        U = x.shape[1]
        normal = paired_normal(streams, U, 3 + self.latent, n).movedim(2, 3)  # [S, U, n, 3 + latent]
        z = (normal[..., 0] < torch.special.ndtri(self.q_z(x).double().sigmoid()).float()).long().flatten(1, 2)
        means, log_sds = (v.repeat_interleave(n, 1).gather(2, z[:, :, None]).squeeze(2) for v in (self.q_y(x), self.q_y_log_sd.expand(-1, U, -1)))
        mean, log_sd = self.infer(x.repeat_interleave(n, 1), z, means + log_sds.exp() * normal[..., 1].flatten(1, 2))
        latent = mean + log_sd.exp() * normal[..., 3:].flatten(1, 2)
        y = self.p_y(latent) + self.p_y_log_sd.exp() * normal[..., 2].flatten(1, 2)[:, :, None]
        return y.unflatten(1, (U, n)).transpose(2, 3)


def gaussian_nll(y: torch.Tensor, mean: torch.Tensor, log_sd: torch.Tensor) -> torch.Tensor:
    """-log N(y; mean, exp(log_sd)^2) without the constant ln(2 pi) / 2, shapes that broadcast; the sd is kept above e^-4."""
    log_sd = log_sd.clamp(min=-4)
    return log_sd + 0.5 * ((y - mean) * (-log_sd).exp()).square()


def divergence(mean: torch.Tensor, log_sd: torch.Tensor) -> torch.Tensor:
    """KL(N(mean, exp(log_sd)^2) || N(0, I)) summed over the last axis, [..., latent] -> [...]."""
    return 0.5 * (mean.square() + (2 * log_sd).exp() - 2 * log_sd - 1).sum(-1)


def train(data: Outcomes, config: CevaeConfig, seed: int, checkpoint: Path | None, identity: dict) -> Fitted:
    """CEVAE of every data set of the stack by Eq. cevae."""
    x_fit, y = table_rows(data.x, data.fit), unit_variance(data)
    low, high = x_fit.amin(1, keepdim=True), x_fit.amax(1, keepdim=True)
    binary = ((x_fit == low) | (x_fit == high)).all(1, keepdim=True) & (low < high)
    module = Cevae(len(data.units), data.x.shape[2], data.arms, binary, generator(derive(seed, "init"), "cevae", device=data.device), config)
    streams = data.generators(seed, "cevae")

    def loss() -> dict[str, torch.Tensor]:
        row = rows_of(data, config.batch, streams)
        return module.terms(*(table_rows(v, row) for v in (data.x, data.z, y)), stacked(torch.randn, streams, config.batch, config.latent))

    player = Player(module, loss, config.lr, betas=(0.9, 0.999), weight_decay=config.weight_decay, undecayed=("log_sd",), average=config.average, clip=10.0)
    trained = fit({"cevae": player}, config.rounds, streams, config=identity, seed=seed, score=lambda m: {"crps": held_out_crps(data, m["cevae"].draw, config.score_draws, seed)},
                  score_every=config.score_every, checkpoint=checkpoint, label="cevae")
    return Fitted(trained.modules["cevae"].draw, (trained,))
