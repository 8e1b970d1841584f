"""What each part of the guided method adds (`dc.E5`), how many steps it needs (`dc.E3`), and how it fares away from the easy setting (`dc.E4`); spec diffusion_counterfactuals, section 7.

A part is taken away or exchanged as a variant of `GuideConfig` (`variants`), trained on the same images and seed, and scored under the same sampling constants, which were chosen for the whole method.

joint        generator and guide by Eq. joint-loss in one loop; the guide reads the denoised image, so its loss reaches the generator
separate     the same guide at the same rounds, batch and rate, over the generator trained alone

With a projector of (x_t, t) the two share no weight: joint training is then separate training on the same batches, and DC5's "simultaneously" has no content that a test could refute.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from gencausal import checks
from gencausal.counterfactual import Sampling
from gencausal.experiments import benchmark_images, discovery, pictures
from gencausal.experiments.benchmark_images import Instruments
from gencausal.experiments.pictures import Bench, Sizes, Trainer
from gencausal.guidance import Guide, ImageDenoiser
from gencausal.image_models.guided import GeneratorConfig, GuideConfig

EXPERIMENT = "dc.E5"


@dataclass(frozen=True)
class Variant:
    """A guide's configuration, and whether it is trained in one loop with a generator of its own. asks: what the variant decides."""

    guide: GuideConfig
    asks: str
    joint: bool = False


def variants(guide: GuideConfig, generator: GeneratorConfig, shares: tuple[float, ...] = (0.3, 0.1)) -> dict[str, Variant]:
    """The component ablations by name; `full` is the method itself. shares: of training images whose factors are known."""
    denoised, other = replace(guide, sees="denoised"), "noisy" if guide.sees == "denoised" else "denoised"
    matched = replace(denoised, rounds=generator.rounds, batch=generator.batch, lr=generator.lr, weight_decay=generator.weight_decay, average=generator.average, score_every=generator.score_every)
    return {
        "full": Variant(guide, "the whole method: MLP mechanisms over the given graph, projector of the denoised image, all labels"),
        "independent": Variant(replace(guide, form="independent"), "no structural causal model: nothing follows from an intervention"),
        "linear": Variant(replace(guide, form="linear"), "linear reach of the noise, then a mask (CausalVAE's form, Eq. nscm-linear)"),
        "warped": Variant(replace(guide, form="warped"), "linear in warped coordinates (DEAR's form, Eq. nscm-warped)"),
        "learned": Variant(replace(guide, form="mlp", learned=True), "the graph is learned, not given (Eq. edge-strength)"),
        other: Variant(replace(guide, sees=other), "the projector reads " + ("(x_t, t), so J stays clear of the generator" if other == "noisy" else "the denoised image, so J passes through the generator")),
        "separate": Variant(matched, "the same, at the rounds, batch and rate of joint training"),
        "joint": Variant(denoised, "generator and guide trained in one loop (DC5)", joint=True),
    } | {f"labels_{share:g}": Variant(replace(guide, label_share=share), f"factors of {share:.0%} of the training images are known") for share in shares}


def train(trainer: Trainer, sizes: Sizes, variant: Variant, denoiser: ImageDenoiser, seed: int = 0) -> tuple[ImageDenoiser, Guide]:
    """Generator and guide of a variant; a learned graph is cut to its strong edges, without cycles (`discovery.pruned`)."""
    if variant.joint:
        denoiser, guide = trainer.joint(replace(sizes, guide=variant.guide), seed)
    else:
        guide = trainer.guide(variant.guide, seed, denoiser=denoiser)
    return denoiser, discovery.pruned(guide, trainer.bench.training[1])[0] if variant.guide.learned else guide


def run(bench: Bench, trainer: Trainer, sizes: Sizes, sampling: Sampling, seed: int, parts: dict[str, Variant], made: Instruments | None = None, training_seed: int = 0) -> list[dict]:
    """Rows of every variant: the scores of `pictures.score`, the error of its mechanisms on true factors (method "<name>_mechanisms"), and with `made` the Frechet distance of its images."""
    denoiser, rows, kept = trainer.generator(sizes.generator, training_seed), [], []
    for name, variant in parts.items():
        generator, guide = train(trainer, sizes, variant, denoiser, training_seed)
        drawn: dict[str, torch.Tensor] = {}
        draw = pictures.guided(generator, guide, sampling, seed, kept=None if variant.joint else kept)
        rows += pictures.score(bench, draw, name, seed, EXPERIMENT, keep=drawn)
        rows += pictures.mechanism_errors(bench, guide.scm, f"{name}_mechanisms", seed, EXPERIMENT)
        if made is not None:
            rows += benchmark_images.realism(bench, drawn, made, name, seed, EXPERIMENT)
    return rows


# ---------------------------------------------------------------- E3: how many steps


def steps(bench: Bench, draw: Callable[[Sampling], pictures.Draw], rules: dict[str, Sampling], counts: list[int], seed: int, experiment: str = "dc.E3") -> list[dict]:
    """Rows of every rule at every number of DDIM steps, method "<rule>_<n>_steps".

    A normalised step does not scale with its length, so the guidance of a whole walk grows with the number of steps: beside the constant kappa stands kappa times (the rule's own steps / n),
    method "<rule>_<n>_steps_scaled", except where the two are the same.
    """
    rows = []
    for rule, sampling in rules.items():
        for n in counts:
            kappas = {f"{rule}_{n}_steps": sampling.kappa} | ({} if n == sampling.steps else {f"{rule}_{n}_steps_scaled": sampling.kappa * sampling.steps / n})
            for method, kappa in kappas.items():
                rows += pictures.score(bench, draw(replace(sampling, steps=n, kappa=kappa)), method, seed, experiment)
    return rows


# ---------------------------------------------------------------- E4: harder settings


def settings(world: str, units: int, seed: int, names: tuple[str, ...] = ("block", "public", "chain"), **options) -> dict[str, Bench]:
    """The benches in `names` beside the standard one: `block`, whose region no training image comes from; `public`, without noise on the children, where a counterfactual is an interventional truth; and for
    Pendulum `chain`, in which the angle also moves the lamp, so that do(angle) reaches the shadow by two paths, one of two edges."""
    for name in names:
        checks.choice(name, "names", ("block", "public", "chain"))
    known = [name for name in names if name != "chain" or world == "pendulum"]
    return {name: pictures.bench(world, units, seed, rows="block", **options) if name == "block" else pictures.bench(world, units, seed, name, **options) for name in known}


class OneHop(nn.Module):
    """An SCM whose counterfactuals stop after one edge: every child sees the intervened values, none sees what followed for its other parents. The defect of reading the parents' noise
    (spec, section 6), without its training; on a graph of depth one it is the SCM itself."""

    def __init__(self, scm: nn.Module):
        super().__init__()
        self.scm, self.n = scm, scm.n

    def predict(self, u: torch.Tensor, do: pictures.Do | None = None) -> torch.Tensor:
        return self.scm.predict(u, do)

    def counterfactual(self, z: torch.Tensor, do: pictures.Do) -> torch.Tensor:
        seen = z.clone()
        for node, value in do.items():
            seen[:, node] = torch.as_tensor(value, dtype=z.dtype, device=z.device)
        after = z + self.scm.expected(seen) - self.scm.expected(z)
        after[:, list(do)] = seen[:, list(do)]
        return after


def one_hop(guide: Guide) -> Guide:
    """The guide with counterfactual factors that stop after one edge."""
    return Guide(guide.projector, OneHop(guide.scm), guide.sees)


def harder(benches: dict[str, Bench], trainer_of: Callable[[Bench], Trainer], sizes: Sizes, sampling: Sampling, seed: int, near: tuple[ImageDenoiser, Guide] | None = None, experiment: str = "dc.E4") -> list[dict]:
    """Rows of `guided` and `no_guidance` on every bench of `settings`, each with networks trained on its own training images.

    near: generator and guide that were also trained on the block's region, scored on it as `guided_near`: the same units with and without neighbours among the training images.
    On `chain` also `guided_one_hop`.
    """
    rows = []
    for name, bench in benches.items():
        trainer = trainer_of(bench)
        denoiser = trainer.generator(sizes.generator)
        guide = trainer.guide(sizes.guide, denoiser=denoiser)
        kept: list[torch.Tensor] = []
        draws = {"guided": pictures.guided(denoiser, guide, sampling, seed, kept=kept), "no_guidance": pictures.guided(denoiser, guide, replace(sampling, kappa=0.0, eta=0.0), seed, kept=kept)}
        if name == "chain":
            draws["guided_one_hop"] = pictures.guided(denoiser, one_hop(guide), sampling, seed, kept=kept)
        if name == "block" and near is not None:
            draws["guided_near"] = pictures.guided(*near, sampling, seed)
        for method, draw in draws.items():
            rows += pictures.score(bench, draw, method, seed, experiment)
        rows += pictures.mechanism_errors(bench, guide.scm, "guided_mechanisms", seed, experiment)
    return rows
