r"""Does an 8-bit network change the counterfactual image? (`dc.E6`, reading-list item #20: A2.C20c.images; the tabular half is `experiments.quantised`)

Generator and guide are quantised after training (`quantize_images.quantise_layers`, Eq. quantise and Eq. search), weights and activations at the same bits; the small mechanisms of the SCM stay float. Both are shown
their activations on one set: noisy images where sampling takes them (NDTC of PTQ4DM),

    t ~ N(0.4 T, (0.4 T)^2), floored, in [0, T], T the steps of the sampler; x_t from the float model, run from noise down to t        `Eq. ndtc`

`Eq. acm-shift`: |ACM_b - ACM_float| of a target, ACM the mean error of all factors over units (Eq. acm), beside the bootstrap standard error of ACM_float over units
"""

from typing import NamedTuple

import numpy as np
import torch

from gencausal import quantize_images, seeding, solvers
from gencausal.counterfactual import Sampling
from gencausal.experiments import pictures
from gencausal.experiments.pictures import Bench
from gencausal.experiments.trust import reading_errors
from gencausal.guidance import Guide, ImageDenoiser

EXPERIMENT = "dc.E6"


class Shown(NamedTuple):
    """What calibrates an image network: noisy images [n, C, S, S] and their levels [n]."""

    x: torch.Tensor
    alpha: torch.Tensor
    sigma: torch.Tensor


@torch.no_grad()
def calibration(denoiser: ImageDenoiser, shape: tuple[int, ...], sampling: Sampling, rng: torch.Generator, n: int = 128) -> Shown:
    """`n` noisy images of `shape` [C, S, S] on the levels of `sampling` (Eq. ndtc), sampled without guidance."""
    grid = sampling.grid()
    steps = grid.steps
    normal, x = torch.randn(n, generator=rng, device=rng.device), torch.randn(n, *shape, generator=rng, device=rng.device)
    level = steps - (0.4 * steps + 0.4 * steps * normal).floor().clamp(0, steps).long()  # number in the grid, noise first
    found = x.clone()

    def rule(step: solvers.Step) -> torch.Tensor:
        found[level == step.i] = step.x[level == step.i]
        return step.by_data(step.x0)

    end = solvers.walk(rule, denoiser, x, grid)
    found[level == steps] = end[level == steps]
    return Shown(found, *(column.to(x)[level] for column in (grid.alpha, grid.sigma)))


def quantised_pair(denoiser: ImageDenoiser, guide: Guide, shown: Shown, bits: int) -> tuple[ImageDenoiser, Guide]:
    """Quantised copies of generator and guide; a guide that sees denoised images sees the quantised generator's."""
    small = quantize_images.quantise_layers(denoiser, lambda made: made(*shown), bits)
    return small, quantize_images.quantise_layers(guide, lambda made: made(*shown, small), bits)


def quantised(bench: Bench, denoiser: ImageDenoiser, guide: Guide, sampling: Sampling, bits: list[int], seed: int, n: int = 128, resamples: int = 1000) -> list[dict]:
    """Rows of the guided method with float networks and at every number of `bits`: methods guided_float, guided_8bit, ... with the scores of `pictures.score` and the bytes of both networks; `acm_shift` of
    guided_8bit, ... beside that of guided_se, the standard errors of the float method (Eq. acm-shift). n: calibration images."""
    shown = calibration(denoiser, tuple(bench.images.shape[1:]), sampling, seeding.generator(seed, "quantise-ndtc", device=bench.images.device), n)
    pairs = {"float": (denoiser, guide)} | {f"{b}bit": quantised_pair(denoiser, guide, shown, b) for b in bits}
    rows, whole = [], {}
    for name, pair in pairs.items():
        draw = pictures.guided(*pair, sampling, seed)
        images = {node: draw(bench.images, bench.z, {node: values.float()}) for node, values, _, _ in bench.targets.values()}
        rows += pictures.score(bench, lambda factual, z, do: images[next(iter(do))], f"guided_{name}", seed, EXPERIMENT)
        size = sum(quantize_images.layer_bytes(part, 32 if name == "float" else int(name.removesuffix("bit"))) for part in (denoiser, guide))
        for target, (node, _, truth, _) in bench.targets.items():
            error = reading_errors(bench, images[node], truth).mean(1)
            if name == "float":
                whole[target] = error
                values = {"guided_se": {"acm_shift": standard_error(error, seed, resamples)}, "guided_float": {"acm_all": error.mean(), "bytes": size}}
            else:
                values = {f"guided_{name}": {"acm_all": error.mean(), "acm_shift": abs(error.mean() - whole[target].mean()), "bytes": size}}
            rows += [{"experiment": EXPERIMENT, "dataset": bench.name, "unit": target, "method": method, "metric": metric, "seed": seed, "value": float(value), "n": len(error)}
                     for method, metrics in values.items() for metric, value in metrics.items()]
    return rows


def standard_error(values: np.ndarray, seed: int, resamples: int = 1000) -> float:
    """Bootstrap standard error of the mean of `values [N]`."""
    picks = seeding.numpy_generator(seed, "quantise-pictures-bootstrap").integers(0, len(values), (resamples, len(values)))
    return float(values[picks].mean(1).std(ddof=1))
