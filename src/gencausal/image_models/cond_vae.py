r"""A conditional variational autoencoder of images given their factors, with the counterfactual factors of a learned SCM (DeepSCM-like; Pawlowski et al. 2020).

Notation: image x, factors z, latent w in R^k, q(w | x, z) = N(m, s^2), decoder mean g(w, z), one pixel variance v for all.

    L = 1/2 log v + ||x - g(w, z)||^2 / (2 v d) + beta KL(q(w | x, z) || N(0, I)) / d                                `Eq. cond-vae`

with v at its optimum, the batch's mean squared error. Counterfactual: w = m(x, z), image g(w, z_bar), z_bar by abduction, action and prediction in the SCM.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import softplus

from gencausal import scm, seeding
from gencausal.image_models.guided import identity_of, prepare, trained
from gencausal.nn.unet import Decoder, Encoder
from gencausal.training import Player, Trained


@dataclass(frozen=True)
class Config:
    rounds: int = 8000  # optimiser steps
    batch: int = 64  # images a step
    width: int = 48  # channels of the first map
    patch: int = 4  # side of a patch
    latent: int = 32  # k
    beta: float = 1.0
    form: str = "mlp"  # of the SCM's mechanisms
    lr: float = 1e-3
    weight_decay: float = 0.01
    average: float = 0.999
    score_every: int = 500


class ConditionalVAE(nn.Module):
    """Encoder and decoder; `forward` gives reconstruction [B, C, S, S] in [-1, 1] and the divergence [B]."""

    def __init__(self, channels: int, size: int, factors: int, config: Config, rng: torch.Generator):
        super().__init__()
        self.encoder = Encoder(channels, size, 2 * config.latent, rng, config.width, config.patch)
        self.from_factors = nn.Linear(factors, 2 * config.latent)
        with torch.no_grad():
            self.from_factors.weight.copy_(torch.randn(self.from_factors.weight.shape, generator=rng) / factors**0.5)
            self.from_factors.bias.zero_()
        self.decoder = Decoder(channels, size, config.latent + factors, rng, config.width, config.patch)

    def posterior(self, x: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, spread = (self.encoder(x) + self.from_factors(z)).chunk(2, 1)
        return mean, softplus(spread) + 1e-3

    def decode(self, w: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return self.decoder(torch.cat([w, z], 1))

    def forward(self, x: torch.Tensor, z: torch.Tensor, eps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, spread = self.posterior(x, z)
        divergence = (0.5 * (mean.square() + spread.square() - 1) - spread.log()).sum(1)
        return self.decode(mean + spread * eps, z), divergence


def make(channels: int, size: int, mask: np.ndarray, config: Config, seed: int, device: torch.device | str = "cpu") -> nn.ModuleDict:
    """Untrained parts: `vae` and `scm`."""
    vae = ConditionalVAE(channels, size, len(mask), config, seeding.generator(seed, "vae"))
    return nn.ModuleDict({"vae": vae, "scm": scm.make(config.form, mask, seeding.generator(seed, "scm"))}).to(device)


def train(images: torch.Tensor, z: torch.Tensor, mask: np.ndarray, config: Config, seed: int, folder: Path | None = None, device: torch.device | str = "cpu", published: bool = True, data: str = "") -> Trained:
    """Eq. cond-vae and the SCM's regression on `images [N, C, S, S]` and factors `z [N, n]`; the result's module is `both`."""
    images, z, _, fit_rows, held = prepare(images, z, seed, 1.0, device)
    both, rng = make(images.shape[1], images.shape[2], mask, config, seed, device), seeding.generator(seed, "vae-batches", device=device)
    d = images[0].numel()

    def terms(made: nn.ModuleDict, row: torch.Tensor, eps: torch.Tensor) -> dict[str, torch.Tensor]:
        x = 2 * images[row] - 1
        back, divergence = made["vae"](x, z[row], eps)
        return {"pixels": 0.5 * (back - x).square().mean().log()[None], "latent": config.beta * divergence.mean()[None] / d, "mechanisms": (z[row] - made["scm"].expected(z[row])).square().mean()[None]}

    def loss() -> dict[str, torch.Tensor]:
        row = fit_rows[torch.randint(len(fit_rows), (config.batch,), generator=rng, device=rng.device)]
        return terms(both, row, torch.randn(config.batch, config.latent, generator=rng, device=rng.device))

    def score(modules: dict[str, nn.Module]) -> dict[str, torch.Tensor]:
        row = held[:256]
        with torch.no_grad():
            found = terms(modules["both"], row, torch.randn(len(row), config.latent, generator=seeding.generator(seed, "held-noise", device=device), device=device))
        return {"held_out": found["pixels"] + found["latent"]}

    player = Player(both, loss, config.lr, weight_decay=config.weight_decay, average=config.average, stacked=False)
    identity = identity_of("cond_vae", images, z, seed, data, mask=np.asarray(mask).tolist(), **asdict(config))
    return trained("cond_vae", identity, {"both": player}, config.rounds, [rng], seed, folder, published, score=score, score_every=config.score_every)


def counterfactual(both: nn.ModuleDict, images: torch.Tensor, z: torch.Tensor, do: dict[int, torch.Tensor | float]) -> torch.Tensor:
    """Images [B, C, S, S] in [0, 1] of the same units, factors `z [B, n]`, under `do` (factor to standardised value or values [B])."""
    with torch.no_grad():
        w, _ = both["vae"].posterior(2 * images - 1, z)
        return (both["vae"].decode(w, both["scm"].counterfactual(z, do)).clamp(-1, 1) + 1) / 2
