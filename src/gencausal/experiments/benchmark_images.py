"""The benchmark of counterfactual images on MorphoMNIST (Melistas et al. 2024; spec diffusion_counterfactuals 3.5, 4, 5.4), for any `pictures.Draw`; part of `dc.E4`.

    composition      mean |x - f^m(x)| on the scale 0 to 255 after m = 1 and 10 null interventions, each image the next input
    reversibility    the same distance between a unit and itself after factual -> counterfactual -> factual (not in the benchmark's evaluation; Monteiro et al. 2023)
    effectiveness    mean absolute error of a factor of the counterfactual image, thickness in pixels and intensity in grey levels: by the pixel oracle against its reading of the true
                     counterfactual image, and by our predictor against the true counterfactual factors
    minimality       `Eq. cld` in the latent of an unconditional VAE of ours
    Frechet          `Eq. frechet` on the `predictor.FEATURES` numbers of the last hidden layer of our predictor, against the training images

Three rows bound every score: `truth` draws the true counterfactual image, `floor` is what oracle, predictor and Frechet distance make of real test images, `left` leaves the image as it is.
A Frechet distance of few images is biased upwards: compare it with that of `truth` and of `floor` at the same number of images alone.

The feature extractors and predictors of the published rows (`published`) differ from ours, as do their images (60,000 for training, theirs; ours are made from MNIST by us): the rows stand
beside ours for scale, no verdict rests on them.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from gencausal import image_metrics
from gencausal.data.scenes import Scenes
from gencausal.experiments import pictures
from gencausal.experiments.pictures import Bench, Draw, blocks
from gencausal.image_models import cond_vae

BINS = 9
CYCLES = (1, 10)
EXPERIMENT = "dc.E4"

_SOURCE = "benchmark's slides, before the final paper"
PUBLISHED = {  # model: composition after 1 and 10 cycles, thickness error under do(thickness, intensity, digit), intensity error under the same, Frechet, CLD
    "VAE": (2.600, 7.698, (0.109, 0.333, 0.139), (3.15, 5.33, 4.64), 10.124, 0.268),
    "HVAE": (0.438, 1.550, (0.086, 0.224, 0.117), (1.99, 3.52, 2.10), 5.362, 0.272),
    "GAN": (3.807, 11.697, (0.228, 0.680, 0.393), (9.43, 15.14, 12.39), 35.568, 0.286),
}
"""MorphoMNIST rows of the benchmark (spec 5.4); the final paper may differ by a digit."""


def published() -> pd.DataFrame:
    """`PUBLISHED` as rows of model, metric (named as ours), under (the intervention), value, status and source."""
    rows = []
    for model, (once, ten, thickness, intensity, frechet, cld) in PUBLISHED.items():
        rows += [(model, "composition", "none, once", once), (model, "composition_10", "none, 10 times", ten), (model, "frechet", "any", frechet), (model, "cld", "any", cld)]
        rows += [(model, f"mae_{name}_predictor", target, value) for name, values in (("thickness", thickness), ("intensity", intensity)) for target, value in zip(("thickness", "intensity", "digit"), values)]
    return pd.DataFrame(rows, columns=["model", "metric", "under", "value"]).assign(status="verified", source=_SOURCE)


def bin_of(scenes: Scenes, node: int, values: np.ndarray) -> np.ndarray:
    """Number, 0 to BINS - 1, of the bin of every value: bins of equal width over the range of the training rows; what lies outside counts to the last one."""
    known = scenes.factors[scenes.train, node].numpy()
    return np.digitize(values, np.linspace(known.min(), known.max(), BINS + 1)[1:-1])


def other_bin(scenes: Scenes, node: int, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Do-values [N] as the benchmark draws them: values that test images have, each from another bin than the unit's own (equal-width bins are our reading)."""
    pool, own = np.unique(scenes.factors[scenes.test, node].numpy()), bin_of(scenes, node, scenes.factors[rows, node].numpy())
    bins = bin_of(scenes, node, pool)
    return np.array([rng.choice(pool[bins != mine]) for mine in own])


def bench(units: int, seed: int, rows: str = "test", **options) -> Bench:
    """MorphoMNIST units under do-values of another bin; options go to `morphomnist.load`."""
    return pictures.bench("morphomnist", units, seed, rows=rows, choose=other_bin, **options)


# ---------------------------------------------------------------- instruments


@dataclass(frozen=True, eq=False)
class Instruments:
    """What measures and guides nothing: our predictor with its features of the training images [M, FEATURES], and the unconditional VAE with its posterior of them, ([M, k], [M, k])."""

    predictor: torch.nn.Module
    features: np.ndarray
    vae: torch.nn.Module | None = None
    posterior: tuple[torch.Tensor, torch.Tensor] | None = None


def features(predictor: torch.nn.Module, images: torch.Tensor, batch: int = 512) -> np.ndarray:
    """Last hidden layer of our predictor, [N, FEATURES] float64, of `images [N, C, S, S]`."""
    device = next(predictor.parameters()).device
    with torch.no_grad():
        return torch.cat([predictor.features(part.to(device)).cpu() for part in images.split(batch)]).double().numpy()


def instruments(bench: Bench, predictor: torch.nn.Module, vae: torch.nn.Module | None = None) -> Instruments:
    """The instruments of a bench."""
    images = bench.training[0]
    return Instruments(predictor, features(predictor, images), vae, None if vae is None else cond_vae.posteriors(vae, images))


# ---------------------------------------------------------------- methods whose answer is known


def truth(bench: Bench) -> Draw:
    """The method that draws the true image of the targets' interventions, of the way back, and of none."""
    own = bench.z.float()

    def draw(images: torch.Tensor, z: torch.Tensor, do: pictures.Do) -> torch.Tensor:
        for node, values in do.items():
            if not torch.equal(values, own[:, node]):
                return next(drawn for k, asked, _, drawn in bench.targets.values() if k == node and torch.equal(values, asked.float()))
        return bench.images
    return draw


def left(images: torch.Tensor, z: torch.Tensor, do: pictures.Do) -> torch.Tensor:
    """The method that changes nothing."""
    return images


# ---------------------------------------------------------------- scores


def composition(bench: Bench, draw: Draw, cycles: tuple[int, ...] = CYCLES) -> dict[str, np.ndarray]:
    """`composition` (once) and `composition_<m>`, [N] each: images after null interventions, one after the other."""
    found, now = {}, bench.images
    for m in range(1, max(cycles) + 1):
        now = draw(now, bench.z, {}).cpu()
        if m in cycles:
            found["composition" if m == 1 else f"composition_{m}"] = image_metrics.composition(now, bench.images)
    return found


def effectiveness(bench: Bench, drawn: torch.Tensor, target: str, predictor: torch.nn.Module) -> dict[str, np.ndarray]:
    """`mae_<factor>` by the oracle and `mae_<factor>_predictor` by our predictor, [N] each, in the factor's own unit; a factor that the oracle cannot read counts as `MISSING` sd."""
    _, _, reading, _ = bench.targets[target]
    by_oracle = np.abs(bench.oracle(drawn) - reading.numpy())
    return _errors(bench, np.where(np.isnan(by_oracle), image_metrics.MISSING, by_oracle), drawn, bench.factors_under(target), predictor)


def _errors(bench: Bench, by_oracle: np.ndarray, images: torch.Tensor, factors: torch.Tensor, predictor: torch.nn.Module) -> dict[str, np.ndarray]:
    with torch.no_grad():
        seen = predictor(images.to(next(predictor.parameters()).device)).cpu()
    by_predictor = (seen - factors).abs().numpy()
    found = {}
    for k, name in enumerate(bench.scenes.names):
        scale = float(bench.scale[k])
        found |= {f"mae_{name}": scale * by_oracle[:, k], f"mae_{name}_predictor": scale * by_predictor[:, k]}
    return found


def reversibility(bench: Bench, draw: Draw, drawn: torch.Tensor, target: str) -> np.ndarray:
    """Distance [N] on the scale 0 to 255 of every unit from itself after its counterfactual `drawn` is set back to the factual value."""
    node = bench.targets[target][0]
    back = draw(drawn, bench.factors_under(target), {node: bench.z[:, node].float()})
    return image_metrics.composition(back.cpu(), bench.images)


def minimality(bench: Bench, drawn: torch.Tensor, target: str, made: Instruments) -> np.ndarray:
    """CLD [N] of the counterfactuals `drawn`; real images with a value are training images in its bin (Eq. cld)."""
    node, values, _, _ = bench.targets[target]
    own, new = cond_vae.posteriors(made.vae, bench.images), cond_vae.posteriors(made.vae, drawn.cpu())
    distance = np.diagonal(image_metrics.gaussian_kl(*new, *own))
    real = image_metrics.gaussian_kl(*made.posterior, *own).T  # [N, M]: from a training image to the factual one

    def among(value: np.ndarray) -> np.ndarray:
        rows = bench.scenes.train_outside if bench.part == "block" else bench.scenes.train
        same = bin_of(bench.scenes, node, value)[:, None] == bin_of(bench.scenes, node, bench.scenes.factors[rows, node].numpy())[None]
        return np.where(same, real, np.nan)

    raw = (values * bench.scale[node] + bench.center[node]).numpy()
    return image_metrics.cld(distance, among(raw), among(bench.scenes.factors[bench.rows, node].numpy()))


def realism(bench: Bench, drawn: dict[str, torch.Tensor], made: Instruments, method: str, seed: int, experiment: str = EXPERIMENT) -> list[dict]:
    """Rows of the Frechet distance of every target's images to the training images, one a target; any world."""
    return [{"experiment": experiment, "dataset": bench.name, "unit": target, "method": method, "metric": "frechet", "seed": seed, "value": image_metrics.frechet(features(made.predictor, images.cpu()), made.features), "n": len(images)}
            for target, images in drawn.items()]


def floors(bench: Bench, made: Instruments, seed: int, experiment: str = EXPERIMENT) -> list[dict]:
    """Rows of method `floor`: errors of oracle and predictor against the factors that real test images were made with, and the Frechet distance of those images."""
    values = _errors(bench, np.abs(bench.oracle(bench.images) - bench.z.numpy()), bench.images, bench.z, made.predictor)
    return blocks(bench.name, "real", "floor", seed, experiment, values) + realism(bench, {"real": bench.images}, made, "floor", seed, experiment)


def score(bench: Bench, draw: Draw, made: Instruments, method: str, seed: int, cycles: tuple[int, ...] = CYCLES, experiment: str = EXPERIMENT, keep: dict[str, torch.Tensor] | None = None) -> list[dict]:
    """Rows of the whole benchmark for one method. keep: gets the images of every target."""
    drawn = {} if keep is None else keep
    rows = blocks(bench.name, "null", method, seed, experiment, composition(bench, draw, cycles))
    for target, (node, values, _, _) in bench.targets.items():
        drawn[target] = draw(bench.images, bench.z, {node: values.float()}).cpu()
        found = effectiveness(bench, drawn[target], target, made.predictor) | {"reversibility": reversibility(bench, draw, drawn[target], target)}
        if made.vae is not None:
            found["cld"] = minimality(bench, drawn[target], target, made)
        rows += blocks(bench.name, target, method, seed, experiment, found)
    return rows + realism(bench, drawn, made, method, seed, experiment)
