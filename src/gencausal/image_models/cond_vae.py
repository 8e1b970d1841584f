r"""A conditional variational autoencoder of images given their factors, with the counterfactual factors of a learned SCM (DeepSCM-like; Pawlowski et al. 2020).

Notation: image x, factors z, latent w in R^k, q(w | x, z) = N(m, s^2), decoder mean g(w, z), one pixel variance v for all.

    L = 1/2 log v + ||x - g(w, z)||^2 / (2 v d) + beta KL(q(w | x, z) || N(0, I)) / d                                `Eq. cond-vae`

with v at its optimum, the batch's mean squared error. Counterfactual: w = m(x, z), image g(w, z_bar), z_bar by abduction, action and prediction in the SCM.

Without factors it is an unconditional VAE (`train_unconditional`): no method's counterfactuals come from it, its latent measures how far one image is from another (`divergence`).
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import softplus

from gencausal import scm, seeding
from gencausal.image_models.guided import ImagePlayer, identity_of, prepare, trained
from gencausal.nn.unet import Decoder, Encoder
from gencausal.training import Trained


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
    """Encoder and decoder; `forward` gives reconstruction [B, C, S, S] in [-1, 1] and the divergence [B]. factors: how many condition it, 0 for none."""

    def __init__(self, channels: int, size: int, factors: int, config: Config, rng: torch.Generator):
        super().__init__()
        self.encoder = Encoder(channels, size, 2 * config.latent, rng, config.width, config.patch)
        if factors:
            self.from_factors = nn.Linear(factors, 2 * config.latent)
            with torch.no_grad():
                self.from_factors.weight.copy_(torch.randn(self.from_factors.weight.shape, generator=rng) / factors**0.5)
                self.from_factors.bias.zero_()
        self.decoder = Decoder(channels, size, config.latent + factors, rng, config.width, config.patch)

    def posterior(self, x: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        read = self.encoder(x) + self.from_factors(z) if z.shape[1] else self.encoder(x)
        mean, spread = read.chunk(2, 1)
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
    both = make(images.shape[1], images.shape[2], mask, config, seed, device)

    def mechanisms(z: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mechanisms": (z - both["scm"].expected(z)).square().mean()[None]}

    return _train("cond_vae", "both", both, lambda made: made["vae"], mechanisms, images, z, config, seed, folder, device, published, data, mask=np.asarray(mask).tolist())


def train_unconditional(images: torch.Tensor, config: Config, seed: int, folder: Path | None = None, device: torch.device | str = "cpu", published: bool = True, data: str = "") -> Trained:
    """Eq. cond-vae without factors on `images [N, C, S, S]`; the result's module is `vae`."""
    vae = ConditionalVAE(images.shape[1], images.shape[2], 0, config, seeding.generator(seed, "vae")).to(device)
    return _train("vae", "vae", vae, lambda made: made, lambda z: {}, images, torch.zeros(len(images), 0), config, seed, folder, device, published, data)


def _train(kind: str, name: str, module: nn.Module, vae_of: Callable[[nn.Module], ConditionalVAE], more: Callable[[torch.Tensor], dict[str, torch.Tensor]], images: torch.Tensor, z: torch.Tensor,
           config: Config, seed: int, folder: Path | None, device: torch.device | str, published: bool, data: str, **recipe) -> Trained:
    """`module`, in which `vae_of` finds the VAE, by Eq. cond-vae and the terms `more(z)` of the factors."""
    images, z, _, fit_rows, held = prepare(images, z, seed, 1.0, device)
    rng, d = seeding.generator(seed, "vae-batches", device=device), images[0].numel()

    def terms(made: nn.Module, row: torch.Tensor, eps: torch.Tensor) -> dict[str, torch.Tensor]:
        x = 2 * images[row] - 1
        back, divergence = vae_of(made)(x, z[row], eps)
        return {"pixels": 0.5 * (back - x).square().mean().log()[None], "latent": config.beta * divergence.mean()[None] / d}

    def loss() -> dict[str, torch.Tensor]:
        row = fit_rows[torch.randint(len(fit_rows), (config.batch,), generator=rng, device=rng.device)]
        return terms(module, row, torch.randn(config.batch, config.latent, generator=rng, device=rng.device)) | more(z[row])

    def score(modules: dict[str, nn.Module]) -> dict[str, torch.Tensor]:
        row = held[:256]
        with torch.no_grad():
            found = terms(modules[name], row, torch.randn(len(row), config.latent, generator=seeding.generator(seed, "held-noise", device=device), device=device))
        return {"held_out": found["pixels"] + found["latent"]}

    player = ImagePlayer(module, loss, config.lr, weight_decay=config.weight_decay, average=config.average)
    identity = identity_of(kind, images, z, seed, data, **recipe, **asdict(config))
    return trained(kind, identity, {name: player}, config.rounds, [rng], seed, folder, published, score=score, score_every=config.score_every)


@torch.no_grad()
def posteriors(vae: ConditionalVAE, images: torch.Tensor, batch: int = 512) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation [N, k] of the latents of `images [N, C, S, S]` in [0, 1], of an unconditional VAE."""
    device = next(vae.parameters()).device
    found = [vae.posterior(2 * part.to(device) - 1, part.new_zeros(len(part), 0, device=device)) for part in images.split(batch)]
    return tuple(torch.cat(column).cpu() for column in zip(*found))


def counterfactual(both: nn.ModuleDict, images: torch.Tensor, z: torch.Tensor, do: dict[int, torch.Tensor | float]) -> torch.Tensor:
    """Images [B, C, S, S] in [0, 1] of the same units, factors `z [B, n]`, under `do` (factor to standardised value or values [B])."""
    with torch.no_grad():
        w, _ = both["vae"].posterior(2 * images - 1, z)
        return (both["vae"].decode(w, both["scm"].counterfactual(z, do)).clamp(-1, 1) + 1) / 2
