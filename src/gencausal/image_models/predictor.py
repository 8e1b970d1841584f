"""A predictor of factors from clean images that no method is guided by: the second judge beside the pixel oracle, the only one where there is no oracle, and the features of our Frechet distance.

Its error on real test images is the floor of every score that it gives.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import silu

from gencausal import seeding
from gencausal.image_models.guided import ImagePlayer, identity_of, prepare, trained
from gencausal.nn.unet import Encoder
from gencausal.training import Trained


FEATURES = 256
"""How many numbers the last hidden layer has: the dimension of our Frechet distance."""


@dataclass(frozen=True)
class Config:
    rounds: int = 2000  # optimiser steps
    batch: int = 128  # images a step
    width: int = 32  # channels of the first map
    patch: int = 4  # side of a patch
    lr: float = 1e-3
    weight_decay: float = 0.01
    average: float = 0.999
    score_every: int = 500


class Predictor(nn.Module):
    """`x [B, C, S, S]` in [0, 1] to factors [B, n]; `features` to the last hidden layer, [B, 256]."""

    def __init__(self, channels: int, size: int, factors: int, config: Config, rng: torch.Generator):
        super().__init__()
        self.encoder = Encoder(channels, size, factors, rng, config.width, config.patch, hidden=FEATURES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(2 * x - 1)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        kept = []
        handle = self.encoder.hidden.register_forward_hook(lambda module, inputs, output: kept.append(output))
        try:
            self(x)
        finally:
            handle.remove()
        return silu(kept[0])


def make(channels: int, size: int, factors: int, config: Config, seed: int, device: torch.device | str = "cpu") -> Predictor:
    """An untrained predictor."""
    return Predictor(channels, size, factors, config, seeding.generator(seed, "predictor")).to(device)


def train(images: torch.Tensor, z: torch.Tensor, config: Config, seed: int, folder: Path | None = None, device: torch.device | str = "cpu", published: bool = True, data: str = "") -> Trained:
    """Least squares of `z [N, n]` on clean `images [N, C, S, S]`; the result's module is `predictor`."""
    images, z, _, fit_rows, held = prepare(images, z, seed, 1.0, device)
    predictor, rng = make(images.shape[1], images.shape[2], z.shape[1], config, seed, device), seeding.generator(seed, "predictor-batches", device=device)

    def loss() -> dict[str, torch.Tensor]:
        row = fit_rows[torch.randint(len(fit_rows), (config.batch,), generator=rng, device=rng.device)]
        return {"factors": (predictor(images[row]) - z[row]).square().mean()[None]}

    def score(modules: dict[str, nn.Module]) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            return {"held_out": (modules["predictor"](images[held]) - z[held]).square().mean()[None]}

    player = ImagePlayer(predictor, loss, config.lr, weight_decay=config.weight_decay, average=config.average)
    identity = identity_of("predictor", images, z, seed, data, **asdict(config))
    return trained("predictor", identity, {"predictor": player}, config.rounds, [rng], seed, folder, published, score=score, score_every=config.score_every)
