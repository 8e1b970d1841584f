r"""FiP trained on the context rows of each data set, many data sets as one stack (spec cond_fip, section 4.4).

The paper's baseline: one layer of width 128, 8 heads of 32, squared error of x - T(x), AdamW with learning rate 1e-4 and betas (.95, .98), at most 1,000 passes over all rows, the weights of the least held-out error
among passes. A tenth of the context is held out to choose them. The rate is an argument: 1e-4 is the paper's.
"""

import time
from dataclasses import dataclass

import torch

from gencausal import checks, seeding
from gencausal.cond_fip import inference
from gencausal.cond_fip.per_dataset import StackedFiP
from gencausal.training import Player, Trained, fit


@dataclass(frozen=True)
class FiPConfig:
    """rounds: passes over the context. lr, width: of the network. held: share of the context that chooses the weights."""

    rounds: int = 1000
    lr: float = 1e-3
    width: int = 128
    held: float = 0.1


class FiP:
    """Mechanisms of S data sets. After `fit`: network, trained (`training.Trained`), seconds (an SCM)."""

    def __init__(self, config: FiPConfig = FiPConfig(), seed: int = 0):
        self.config, self.seed = config, seed

    def fit(self, context: torch.Tensor, adjacency: torch.Tensor) -> "FiP":
        """context [S, n, d], standardised, n >= 10; adjacency [S, d, d] of bool."""
        if context.shape[1] < 10:
            raise checks.InputError(f"context has {context.shape[1]} rows but FiP needs 10 to train and to hold some out; pass more rows.")
        config, started = self.config, time.perf_counter()
        rng = seeding.generator(self.seed, "fip", device=context.device)
        held = max(1, round(config.held * context.shape[1]))
        train, rest = context[:, held:], context[:, :held]
        network = StackedFiP(adjacency, rng, config.width)
        player = Player(network, lambda: {"mse": (network(train) - train).square().mean((1, 2))}, config.lr, (0.95, 0.98), average=0.98)

        @torch.no_grad()
        def score(modules):
            return {"held": (modules["fip"](rest) - rest).square().mean((1, 2))}

        self.trained: Trained = fit({"fip": player}, config.rounds, [], config={}, seed=self.seed, warmup=20, score=score, score_every=25, patience=20, log_every=config.rounds, label="fip")
        self.network, self.steps = self.trained.modules["fip"].requires_grad_(False), inference.steps_needed(adjacency)
        self.seconds = (time.perf_counter() - started) / len(context)
        return self

    def noise(self, x: torch.Tensor) -> torch.Tensor:
        """Noise of the rows `x [S, m, d]`."""
        return inference.abduct(self.network, x)

    def generate(self, noise_u: torch.Tensor, held: torch.Tensor | None = None) -> torch.Tensor:
        """Rows [S, m, d] from noise, under do() where `held` is not NaN."""
        return inference.fixed_point(self.network, noise_u, self.steps, held)

    def counterfactual(self, factual: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
        return inference.counterfactual(self.network, factual, held, self.steps)
