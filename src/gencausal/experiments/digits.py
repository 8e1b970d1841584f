r"""Counterfactual digits by variational causal inference and its ablations (`vci.E6`; spec vci 7), scored against true counterfactual images.

Notation: image y of a digit with labels t = (thickness, intensity); wanted labels t'; y'(t') the true counterfactual, the same digit rendered with t'. The treatment is both labels jointly: a label that is not set keeps
its value, nothing is propagated. Wanted values are those of random training images. Interventions: `do_thickness`, `do_intensity`, `do_both`, and `do_one`, one label drawn at random for each image (the training draw).

    image_mse          = 100 mean over the central 28 x 28 pixels of (made - y'(t'))^2, pixels in [0, 1]; image_mse_factual the same against y                `Eq. digit-mse`
    mae_thickness      = |read(made) - read(y'(t'))| in pixels, mae_intensity in bytes: readings beside readings, so that the bias of reading cancels           `Eq. digit-mae`
    composition        = 100 mean (predict(y, t, t) - y)^2;   reversibility = 100 mean (predict(predict(y, t, t'), t', t) - y)^2                                  `Eq. digit-cycles`

A blank image reads as 0. `copy_input` gives the image back: what a network does that ignores t'.
Constants are chosen on held-out training images by `factual`, which sees no counterfactual image: the error of the reconstruction, and how far what is read in an imagined image is from what was asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from gencausal import checks, seeding
from gencausal.checkpoints import remember, tensor_hash
from gencausal.data import morphomnist
from gencausal.data.scenes import Scenes
from gencausal.experiments.pictures import blocks
from gencausal.image_models.vci import ImageVCI, Recipe, fit

EXPERIMENT, DATASET = "vci.E6", "morphomnist"
METHODS = ("vci", "vci_no_supervision", "vci_no_divergence", "cvae", "autoencoder")
HELD = 200
"""Training images that no network sees, for `factual`."""
Predict = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""A method: images [N, 1, 32, 32], their labels [N, 2] and the wanted ones to images."""


@dataclass(frozen=True, eq=False)
class Digits:
    """Test images with their labels, and for every intervention the wanted labels [N, 2], the true images [N, 1, 32, 32] and what is read in them [N, 2]."""

    images: torch.Tensor
    factors: torch.Tensor
    wanted: dict[str, torch.Tensor]
    truth: dict[str, torch.Tensor]
    readings: dict[str, torch.Tensor]


def split(scenes: Scenes, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(rows to train on, held-out training rows), no test row in either."""
    order = seeding.numpy_generator(seed, "digits", "held").permutation(scenes.train)
    held = min(HELD, len(order) // 5)
    return np.sort(order[held:]), np.sort(order[:held])


def wanted(factors: torch.Tensor, pool: torch.Tensor, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """The labels asked for, by intervention, [N, 2]: values of random rows of `pool [M, 2]`; `do_one` sets the label that a coin says, to the same value."""
    n = len(factors)
    both = torch.stack([pool[rng.integers(len(pool), size=n), k] for k in range(2)], 1)
    coin = torch.as_tensor(rng.integers(2, size=n))
    set_ = {"do_thickness": torch.tensor([True, False]).expand(n, 2), "do_intensity": torch.tensor([False, True]).expand(n, 2), "do_both": torch.ones(n, 2, dtype=torch.bool), "do_one": torch.arange(2) == coin[:, None]}
    return {name: torch.where(which, both, factors) for name, which in set_.items()}


def bench(scenes: Scenes, units: int, seed: int = 0, folder: Path | None = None) -> Digits:
    """`units` test images of `scenes` (MorphoMNIST) under every intervention, with the truth, kept in `folder`; about 0.3 s an image."""
    checks.whole(units, "units", 1, len(scenes.test))
    rng = seeding.numpy_generator(seed, "digits", "bench")
    rows = rng.permutation(scenes.test)[:units]
    factors, base = scenes.factors[rows], scenes.base[rows]
    asked = wanted(factors, scenes.factors[scenes.train], rng)
    made = remember(folder, "digits", {"base": tensor_hash(base, *asked.values()), "recipe": 1}, lambda: _truth(base, factors, asked))
    return Digits(scenes.images[rows], factors, asked, *({name: made[f"{kind}.{name}"].float() / 255 if kind == "truth" else made[f"{kind}.{name}"] for name in asked} for kind in ("truth", "readings")))


def _truth(base: torch.Tensor, factors: torch.Tensor, asked: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """True images, in bytes, and readings; `do_one` takes those of the intervention that it is."""
    images = {name: morphomnist.render(asked[name], base=base) for name in asked if name != "do_one"}
    readings = {name: read(image) for name, image in images.items()}
    thick = (asked["do_one"][:, 1] == factors[:, 1])
    for found in (images, readings):
        found["do_one"] = torch.where(thick.view(-1, *[1] * (found["do_thickness"].dim() - 1)), found["do_thickness"], found["do_intensity"])
    return {f"truth.{name}": (image * 255).round().byte() for name, image in images.items()} | {f"readings.{name}": value for name, value in readings.items()}


def read(images: torch.Tensor) -> torch.Tensor:
    """`morphomnist.read` with 0 for what cannot be read, [N, 2]."""
    return morphomnist.read(images).nan_to_num(0.0)


def mse(images: torch.Tensor, reference: torch.Tensor) -> np.ndarray:
    """Eq. digit-mse, one value an image, [N]."""
    inner = slice(morphomnist.MARGIN, -morphomnist.MARGIN)
    return 100 * (images - reference)[..., inner, inner].square().mean((1, 2, 3)).numpy()


def recipes(base: Recipe, prior: float = 1.0) -> dict[str, Recipe]:
    """The method of `base` and its ablations at one network and budget: a weight is set to 0, or replaced by that of the prior."""
    w0, w1, w2 = base.network.weights

    def changed(**values) -> Recipe:
        return replace(base, network=replace(base.network, **values))

    return {"vci": base, "vci_no_supervision": changed(weights=(w0, 0.0, w2)), "vci_no_divergence": changed(weights=(w0, w1, 0.0)), "cvae": changed(weights=(1.0, 0.0, 0.0), prior=prior, features=False),
            "autoencoder": changed(weights=(w0, 0.0, 0.0))}


def trained(scenes: Scenes, recipe: Recipe, seed: int, folder: Path | None = None, device: torch.device | str = "cpu", label: str = "vci") -> ImageVCI:
    """`recipe` on the training rows of `scenes` that are not held out."""
    rows, _ = split(scenes)
    return fit(scenes.images[rows], scenes.factors[rows], recipe, seed, folder, device, label)


def score(digits: Digits, predict: Predict, method: str, seed: int, keep: dict[str, torch.Tensor] | None = None) -> list[dict]:
    """Rows of every intervention and block of images. keep: gets the images of every intervention."""
    y, t = digits.images, digits.factors
    rows = blocks(DATASET, "none", method, seed, EXPERIMENT, {"composition": mse(predict(y, t, t), y)})
    for name, asked in digits.wanted.items():
        made = predict(y, t, asked)
        if keep is not None:
            keep[name] = made
        values = {"image_mse": mse(made, digits.truth[name]), "image_mse_factual": mse(made, y), "reversibility": mse(predict(made, asked, t), y)}
        if name != "do_one":
            error = (read(made) - digits.readings[name]).abs().numpy()
            values |= {"mae_thickness": error[:, 0], "mae_intensity": error[:, 1]}
        rows += blocks(DATASET, name, method, seed, EXPERIMENT, values)
    return rows


def copied(digits: Digits, seeds: list[int]) -> list[dict]:
    """Rows of `copy_input`, the same for every seed."""
    rows = score(digits, lambda y, t, asked: y, "copy_input", seeds[0])
    return [row | {"seed": seed} for seed in seeds for row in rows]


def factual(scenes: Scenes, predict: Predict, seed: int = 0, units: int = 60) -> dict[str, float]:
    """What can be known without a counterfactual image, on held-out training images: `reconstruction` (Eq. digit-mse against the image), and the mean distance of what is read in an imagined image (both labels drawn
    anew, Eq. digit-mae) from what was asked for, `thickness` (less the mean bias of reading) and `intensity`, and `reversibility` (Eq. digit-cycles); `total` adds them, errors of images over that of the mean image and errors of readings
    over those of copying the input."""
    _, held = split(scenes)
    rng = seeding.numpy_generator(seed, "digits", "factual")
    rows = rng.permutation(held)[:units]
    y, t = scenes.images[rows], scenes.factors[rows]
    asked = wanted(t, scenes.factors[scenes.train], rng)["do_both"]
    seen = read(y)
    bias = (seen - t).mean(0)
    made = predict(y, t, asked)
    off, copy = ((reading - bias - asked).abs().mean(0) for reading in (read(made), seen))
    blank = 100 * float((y - y.mean(0)).square()[..., 2:-2, 2:-2].mean())
    found = {"reconstruction": float(mse(predict(y, t, t), y).mean()), "reversibility": float(mse(predict(made, asked, t), y).mean()), "thickness": float(off[0]), "intensity": float(off[1])}
    return found | {"total": (found["reconstruction"] + found["reversibility"]) / blank + float((off / copy).sum())}
