r"""CausalDiffAE's own claims on images with a true SCM (spec second_act, B2-E6, reading list #19: A2.C19a to A2.C19d).

Five ways at one backbone and budget: `causaldiffae` (graph given, z_i = f_i(z_pa) + u_i); `causaldiffae_one_hop`, parents enter by their noise (Eq. one-hop); `diffae`, the same without an edge;
`label_ddpm`, told the labels, no mechanism; `label_ddpm_scm`, the same with the labels moved by a learned SCM, a control of ours. Images are read by the pixel oracle.

    parent shift = |reading of a parent after do(child) - its reading before|, mean over parents, in sd; `floor` is the oracle's own error on real images, less its mean         `Eq. parent-shift`
    do slope     = sum over units of (change of the child) (change of the parent) / sum of (change of the parent)^2, under do(parent)                                            `Eq. do-slope`
    composition  = mean |image under do(factor = its own value) - image|;  reversibility = the same there and back                                                               `Eq. cycles`

Result rows of the slope hold block means of the numerator over the whole denominator, so that their mean is the slope and the ratio to `truth`, the true SCM's rows, is that of the slopes. Edges whose true
mechanism is not monotone over the units have no slope. Rows of cycles come with those of "<method>_reconstruction", the method without an intervention.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from gencausal import checks, image_metrics, seeding
from gencausal.counterfactual import Sampling
from gencausal.experiments import pictures
from gencausal.experiments.pictures import WORLDS, Bench, Do, Draw, Sizes, Trainer, blocks
from gencausal.image_models import causaldiffae, label_ddpm
from gencausal.scm import SCM

EXPERIMENT = "A2.B2-E6"


WAYS = ("causaldiffae", "causaldiffae_one_hop", "diffae", "label_ddpm")


def trained(trainer: Trainer, sizes: Sizes, ways: tuple[str, ...] = WAYS, seed: int = 0) -> dict[str, torch.nn.Module]:
    """The networks of `ways`, those of the five that differ in training, by method name: `label_ddpm_scm` shares the label-conditional generator."""
    bare = replace(trainer, bench=replace(trainer.bench, mask=np.zeros_like(trainer.bench.mask)))
    options = {"folder": trainer.folder, "device": trainer.device, "published": trainer.published, "data": trainer.bench.data}
    makers = {"causaldiffae": lambda: trainer.causaldiffae(sizes, seed), "causaldiffae_one_hop": lambda: trainer.causaldiffae(sizes, seed, as_released=True), "diffae": lambda: bare.causaldiffae(sizes, seed),
              "label_ddpm": lambda: label_ddpm.train(*trainer.bench.training, sizes.generator, seed, **options).modules["generator"].requires_grad_(False)}
    return {checks.choice(name, "ways", WAYS): makers[name]() for name in ways}


def draws(networks: dict[str, torch.nn.Module], sampling: Sampling, seed: int = 0, scm: SCM | None = None) -> dict[str, Draw]:
    """The methods of `trained` as `pictures.Draw`s, and with `scm`, the learned mechanisms of a guide, `label_ddpm_scm`."""
    def rng(images: torch.Tensor) -> torch.Generator:
        return seeding.generator(seed, "draw", device=images.device)

    def code(name: str) -> Draw:
        both = networks[name]
        return keeping(lambda images, z: causaldiffae.invert(both, images, sampling, rng(images)),
                       lambda images, z, do, noise: causaldiffae.counterfactual(both, images, None, do, sampling, early=name == "causaldiffae_one_hop", noise=noise))

    def labels(mechanisms: SCM | None) -> Draw:
        denoiser = networks["label_ddpm"]
        return keeping(lambda images, z: label_ddpm.invert(denoiser, images, z, sampling, rng(images)),
                       lambda images, z, do, noise: label_ddpm.counterfactual(denoiser, images, z, do, sampling, mechanisms, noise=noise))

    made = {name: labels(None) if name == "label_ddpm" else code(name) for name in networks}
    return made | ({"label_ddpm_scm": labels(scm)} if scm and "label_ddpm" in networks else {})


def keeping(invert: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], draw: Callable[[torch.Tensor, torch.Tensor, Do, torch.Tensor], torch.Tensor]) -> Draw:
    """A method that finds the noise of the images once while it is asked about the same images and factors."""
    kept: list[torch.Tensor] = []

    def found(images: torch.Tensor, z: torch.Tensor, do: Do) -> torch.Tensor:
        if not (kept and kept[0] is images and kept[1] is z):
            kept[:] = [images, z, invert(images, z)]
        return draw(images, z, do, kept[2])

    return found


def compare(bench: Bench, methods: dict[str, Draw], seed: int, cycled: tuple[str, ...] = ("causaldiffae",)) -> list[dict]:
    """Rows of every method: effectiveness (`pictures.score`) and do-consistency, and cycles of those in `cycled`, which take three times as long; and of `floor` and `truth`."""
    rows = reference(bench, seed)
    for name, draw in methods.items():
        drawn = {node: draw(bench.images, bench.z, {node: values.float()}) for node, values, _, _ in bench.targets.values()}
        rows += pictures.score(bench, lambda images, z, do: drawn[next(iter(do))], name, seed, EXPERIMENT)
        rows += do_consistency(bench, drawn, name, seed) + (cycles(bench, draw, drawn, name, seed) if name in cycled else [])
    return rows


def _shift(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    """|after - before| averaged over factors, [N]; `MISSING` for one that cannot be read."""
    gap = np.abs(after - before)
    return np.where(np.isnan(gap), image_metrics.MISSING, gap).mean(1)


def _labels(bench: Bench) -> np.ndarray:
    """The units' factors as the SCM drew them, [N, n]; for MorphoMNIST `bench.z` is the oracle's reading instead."""
    return bench.standardised(bench.scenes.factors[bench.rows]).numpy()


def _under(bench: Bench, target: str) -> torch.Tensor:
    """True counterfactual factors of a target as the SCM has them, [N, n]; for MorphoMNIST the bench keeps the oracle's reading of their image."""
    world, (node, values, _, _) = WORLDS[bench.world], bench.targets[target]
    return bench.standardised(world.counterfactual(bench.scenes.factors[bench.rows], {target: values * bench.scale[node] + bench.center[node]}, bench.variant))


def true_changes(bench: Bench) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
    """(change of the parent, change of the child) under do(parent) by the true SCM, [N] each in sd, of every edge (parent, child) whose mechanism is monotone over the units."""
    labels, found = _labels(bench), {}
    for target, (node, values, _, _) in bench.targets.items():
        after = _under(bench, target).numpy()
        moved = values.numpy() - labels[:, node]
        for child in np.flatnonzero(bench.mask[node]):
            change = after[:, child] - labels[:, child]
            if (change * moved >= 0).all() or (change * moved <= 0).all():
                found[node, int(child)] = moved, change
    return found


def _slopes(bench: Bench, changes: dict[tuple[int, int], np.ndarray], method: str, seed: int) -> list[dict]:
    """Rows of Eq. do-slope; changes: of the child of every edge, [N]."""
    names = bench.scenes.names
    return [row for (node, child), (moved, _) in true_changes(bench).items()
            for row in blocks(bench.name, f"{names[node]}-{names[child]}", method, seed, EXPERIMENT, {"do_slope": changes[node, child] * moved / (moved**2).mean()})]


def reference(bench: Bench, seed: int) -> list[dict]:
    """Rows of `floor`, the oracle's error of the parents on the real images, and of `truth`, the true SCM's slopes."""
    off, rows = bench.oracle(bench.images) - _labels(bench), []
    for target, (node, _, _, _) in bench.targets.items():
        if len(parents := np.flatnonzero(bench.mask[:, node])):
            rows += blocks(bench.name, target, "floor", seed, EXPERIMENT, {"parent_shift": _shift(off[:, parents], np.nanmean(off[:, parents], 0))})
    return rows + _slopes(bench, {edge: change for edge, (_, change) in true_changes(bench).items()}, "truth", seed)


def do_consistency(bench: Bench, drawn: dict[int, torch.Tensor], method: str, seed: int) -> list[dict]:
    """Rows of Eq. parent-shift and Eq. do-slope. drawn: images under an intervention on each factor, by its number. A child that cannot be read counts as unmoved."""
    before, rows, changes = bench.oracle(bench.images), [], {}
    for target, (node, _, _, _) in bench.targets.items():
        after = bench.oracle(drawn[node])
        if len(parents := np.flatnonzero(bench.mask[:, node])):
            rows += blocks(bench.name, target, method, seed, EXPERIMENT, {"parent_shift": _shift(after[:, parents], before[:, parents])})
        changes |= {(node, int(child)): np.nan_to_num(after[:, child] - before[:, child]) for child in np.flatnonzero(bench.mask[node])}
    return rows + _slopes(bench, changes, method, seed)


def cycles(bench: Bench, draw: Draw, drawn: dict[int, torch.Tensor], method: str, seed: int) -> list[dict]:
    """Rows of Eq. cycles and of the reconstruction beside them, under the same units. On the way back the units' factors are the true counterfactual ones, for the methods that are told."""
    plain, rows = image_metrics.composition(draw(bench.images, bench.z, {}).cpu(), bench.images), []
    for target, (node, _, _, _) in bench.targets.items():
        own: Do = {node: bench.z[:, node].float()}
        null, back = draw(bench.images, bench.z, own), draw(drawn[node], _under(bench, target), own)
        rows += blocks(bench.name, target, method, seed, EXPERIMENT, {name: image_metrics.composition(images.cpu(), bench.images) for name, images in (("composition", null), ("reversibility", back))})
        rows += blocks(bench.name, target, f"{method}_reconstruction", seed, EXPERIMENT, {"composition": plain, "reversibility": plain})
    return rows
