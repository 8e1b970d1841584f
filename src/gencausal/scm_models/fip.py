r"""FiP trained on the context rows of each data set, many data sets as one stack (spec cond_fip, section 4.4).

The paper's baseline: one layer of width 128, 8 heads of 32, squared error of x - T(x), AdamW with learning rate 1e-4 and betas (.95, .98), at most 1,000 passes over all rows, the weights of the least held-out error
among passes. A tenth of the context is held out to choose them. The rate is an argument: 1e-4 is the paper's.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from gencausal import checks, seeding
from gencausal.checkpoints import code_hash, config_hash, tensor_hash
from gencausal.cond_fip import inference, per_dataset
from gencausal.cond_fip.per_dataset import StackedFiP
from gencausal.training import Player, Trained, fit


@dataclass(frozen=True)
class FiPConfig:
    """rounds: passes over the context. lr, width: of the network. held: share of the context that chooses the weights. folder: where fits are kept and found again, None for nowhere. device: where it is trained; rows and answers are on the CPU."""

    rounds: int = 1000
    lr: float = 1e-3
    width: int = 128
    held: float = 0.1
    folder: Path | None = None
    device: torch.device | str = "cpu"


class FiP:
    """Mechanisms of S data sets. After `fit`: network, trained (`training.Trained`), seconds (an SCM)."""

    def __init__(self, config: FiPConfig = FiPConfig(), seed: int = 0):
        self.config, self.seed = config, seed

    def fit(self, context: torch.Tensor, adjacency: torch.Tensor) -> "FiP":
        """context [S, n, d], standardised, n >= 10; adjacency [S, d, d] of bool."""
        if context.shape[1] < 10:
            raise checks.InputError(f"context has {context.shape[1]} rows but FiP needs 10 to train and to hold some out; pass more rows.")
        config = self.config
        context, adjacency = context.to(config.device), adjacency.to(config.device)
        rng = seeding.generator(self.seed, "fip", device=context.device)
        held = max(1, round(config.held * context.shape[1]))
        train, rest = context[:, held:], context[:, :held]
        network = StackedFiP(adjacency, rng, config.width)
        player = Player(network, lambda: {"mse": (network(train) - train).square().mean((1, 2))}, config.lr, (0.95, 0.98), average=0.98)

        @torch.no_grad()
        def score(modules):
            return {"held": (modules["fip"](rest) - rest).square().mean((1, 2))}

        identity = {"rounds": config.rounds, "lr": config.lr, "width": config.width, "held": config.held, "seed": self.seed, "data": tensor_hash(context, adjacency), "code": code_hash(per_dataset)}
        checkpoint = None if config.folder is None else config.folder / f"fip-{config_hash(identity)}.safetensors"
        self.trained: Trained = fit({"fip": player}, config.rounds, [], config=identity, seed=self.seed, warmup=20, score=score, score_every=25, patience=20, log_every=config.rounds, checkpoint=checkpoint, checkpoint_seconds=60.0, label="fip")
        self.network, self.steps = self.trained.modules["fip"].requires_grad_(False), inference.steps_needed(adjacency)
        self.seconds = self.trained.seconds / len(context)
        return self

    def expected(self, z: torch.Tensor) -> torch.Tensor:
        """F at the rows `z [S, m, d]`."""
        return self.network(z.to(self.config.device)).cpu()

    def noise(self, x: torch.Tensor) -> torch.Tensor:
        """Noise of the rows `x [S, m, d]`."""
        return inference.abduct(self.expected, x)

    def generate(self, noise_u: torch.Tensor, held: torch.Tensor | None = None) -> torch.Tensor:
        """Rows [S, m, d] from noise, under do() where `held` is not NaN."""
        return inference.fixed_point(self.network, noise_u.to(self.config.device), self.steps, None if held is None else held.to(self.config.device)).cpu()

    def counterfactual(self, factual: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
        """The rows [S, m, d] had the nodes been held."""
        return inference.counterfactual(self.network, factual.to(self.config.device), held.to(self.config.device), self.steps).cpu()
