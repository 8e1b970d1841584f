"""Experiments of guided counterfactual images (`dc.E0`, `dc.E1`): the same units under the same interventions, drawn by every method and read by the pixel oracle.

A world is a module of `data` with NAMES, RANGES, load, graph, counterfactual, render and read. Factors here are in units of the training standard deviation unless said
otherwise. Result rows stand for blocks of `BLOCK` images of one target, `unit` = "<factor>/<block>", so that intervals run over them.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from gencausal import graph, image_metrics, seeding, solvers
from gencausal.checkpoints import remember, tensor_hash
from gencausal.counterfactual import Sampling, abduct, counterfactual, read
from gencausal.data import flow, morphomnist, pendulum
from gencausal.data.scenes import Scenes
from gencausal.estimators import GuidedCounterfactuals
from gencausal.guidance import Guide, ImageDenoiser
from gencausal.image_models import causaldiffae, cond_vae, guided as models, predictor
from gencausal.image_models.guided import GeneratorConfig, GuideConfig

WORLDS = {"pendulum": pendulum, "flow": flow, "morphomnist": morphomnist}
SIZES = {"pendulum": 64, "flow": 64, "morphomnist": 32}
BLOCK = 10
Do = dict[int, torch.Tensor | float]
Draw = Callable[[torch.Tensor, torch.Tensor, Do], torch.Tensor]
"""A method: images [N, C, S, S] in [0, 1], their factors [N, n] and an intervention to images."""


@dataclass(frozen=True, eq=False)
class Bench:
    """Held-out units of one world under one intervention a target.

    images: [N, C, S, S]. z: true factors [N, n], in the generator's terms. targets: name of the factor set -> (its number, values [N], true counterfactual factors [N, n] as the oracle scores them, their
    images). part: the rows that the units come from; training images of a bench of "block" leave that region out.
    """

    world: str
    variant: str
    scenes: Scenes
    center: torch.Tensor
    scale: torch.Tensor
    mask: np.ndarray
    rows: np.ndarray
    images: torch.Tensor
    z: torch.Tensor
    targets: dict[str, tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]]
    part: str = "test"
    source: str = ""

    @property
    def name(self) -> str:
        """Data set, as in the result rows."""
        return f"{self.scenes.name}_block" if self.part == "block" else self.scenes.name

    def render(self, factors: torch.Tensor) -> torch.Tensor:
        """True images of these units with `factors [N, n]`, in the generator's units."""
        base = {} if self.scenes.base is None else {"base": self.scenes.base[self.rows]}
        return WORLDS[self.world].render(factors, self.images.shape[-1], **base)

    def standardised(self, factors: torch.Tensor) -> torch.Tensor:
        return (factors - self.center) / self.scale

    def oracle(self, images: torch.Tensor) -> np.ndarray:
        """Factors read from the pixels, [N, n]; NaN where a shape is missing."""
        return self.standardised(WORLDS[self.world].read(images.cpu())).numpy()

    @property
    def data(self) -> str:
        """Name of the training images for `image_models`: what draws them, and a number to raise when the drawing changes."""
        return " ".join(filter(None, [self.name, str(self.images.shape[-1]), str(len(self.scenes.images)), "1", self.source]))

    @property
    def reading(self) -> torch.Tensor:
        """What the oracle should read from the images, [N, n]: the factors, or where it measures with a bias (MorphoMNIST) its reading."""
        return torch.as_tensor(self.oracle(self.images)) if self.world == "morphomnist" else self.z

    def factors_under(self, target: str) -> torch.Tensor:
        """True counterfactual factors [N, n] of a target in the generator's terms, which are those of do-values, guides and predictors."""
        node, values, truth, _ = self.targets[target]
        if self.world != "morphomnist":
            return truth
        raw = values * self.scale[node] + self.center[node]
        return self.standardised(WORLDS[self.world].counterfactual(self.scenes.factors[self.rows], {target: raw}, self.variant))

    @property
    def background(self) -> float:
        """Value of the pixels where nothing is drawn."""
        return 0.0 if self.world == "morphomnist" else 1.0

    @property
    def training(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Training images and their factors."""
        rows = self.scenes.train_outside if self.part == "block" else self.scenes.train
        return self.scenes.images[rows], self.standardised(self.scenes.factors[rows]).float()


def visible(world: str, factors: torch.Tensor) -> torch.Tensor:
    """Units whose factors all show in their image, [N]."""
    return pendulum.on_canvas(factors) if world == "pendulum" else torch.ones(len(factors), dtype=torch.bool)


def first(bench: Bench, n: int) -> Bench:
    """The first `n` units of a bench."""
    return replace(bench, rows=bench.rows[:n], images=bench.images[:n], z=bench.z[:n], targets={name: (node, *(part[:n] for part in parts)) for name, (node, *parts) in bench.targets.items()})


Choose = Callable[[Scenes, int, np.ndarray, np.random.Generator], np.ndarray]
"""How do-values are drawn: scenes, number of the factor, rows of the units and a generator to values [N]."""


def uniform(scenes: Scenes, node: int, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Values uniform in the factor's range."""
    return rng.uniform(*WORLDS[scenes.name.split("_")[0]].RANGES[scenes.names[node]], len(rows))


def bench(world: str, units: int, seed: int, variant: str = "noisy", size: int | None = None, rows: str = "test", choose: Choose = uniform, **options) -> Bench:
    """`units` of the `rows` ("test", "block" for the held-out region, or "train", where constants are chosen), each under one value a target, drawn by `choose`; options go to the world's load.

    Units and values whose factors do not all show, before or after, are drawn again. Center and scale are those of the training rows. Where the oracle measures with a bias (MorphoMNIST) the truth of a
    target is its reading of the true image.
    """
    module, size = WORLDS[world], size or SIZES[world]
    scenes = module.load(variant, size, **options)
    center, scale = scenes.factors[scenes.train].mean(0), scenes.factors[scenes.train].std(0)
    rng = seeding.numpy_generator(seed, "bench", world, variant, rows)
    pool = rng.permutation({"test": np.setdiff1d(scenes.test, scenes.block), "block": np.intersect1d(scenes.test, scenes.block), "train": scenes.train}[rows])
    chosen = pool[visible(world, scenes.factors[pool]).numpy()][:units]
    factors, targets = scenes.factors[chosen], {}
    made = Bench(world, variant, scenes, center, scale, graph.adjacency(module.graph(variant), module.NAMES), chosen, scenes.images[chosen], (factors - center) / scale, targets, rows, options.get("source", ""))
    for k, name in enumerate(module.NAMES):
        values = torch.as_tensor(choose(scenes, k, chosen, rng))
        truth = module.counterfactual(factors, {name: values}, variant)
        for _ in range(100):
            again = ~visible(world, truth)
            if not again.any():
                break
            values = torch.where(again, torch.as_tensor(choose(scenes, k, chosen, rng)), values)
            truth = module.counterfactual(factors, {name: values}, variant)
        images = made.render(truth)
        targets[name] = (k, (values - center[k]) / scale[k], torch.as_tensor(made.oracle(images)) if world == "morphomnist" else (truth - center) / scale, images)
    return made


# ---------------------------------------------------------------- methods


def guided(denoiser: ImageDenoiser, guide: Guide, sampling: Sampling, seed: int = 0, known: bool = False, typical: list[float] | None = None,
           kept: list[torch.Tensor] | None = None) -> Draw:
    """The method under `sampling`. known: factors of the units are given, else read from the images. The image's noise is found once for the same images.

    kept: a list that draws of one denoiser and one grid share, of the images last seen and their noise.
    """
    kept = [] if kept is None else kept

    def draw(images: torch.Tensor, z: torch.Tensor, do: Do) -> torch.Tensor:
        x, rng = 2 * images - 1, seeding.generator(seed, "draw", device=images.device)
        if sampling.abduction == "ddim" and not (kept and kept[0] is images):
            kept[:] = [images, abduct(denoiser, x, sampling.grid())]
        do = {node: torch.as_tensor(value, dtype=x.dtype, device=x.device) for node, value in do.items()}
        found, _ = counterfactual(denoiser, guide, x, do, sampling, z.to(x) if known else None, rng, kept[1] if kept else None, typical)
        return (found + 1) / 2

    return draw


def causaldiffae_draw(both, sampling: Sampling, seed: int = 0) -> Draw:
    """CausalDiffAE: DDIM under the code of the image, changed by the intervention; the image's noise as `sampling.abduction` says."""
    return lambda images, z, do: causaldiffae.counterfactual(both, images, None, do, sampling, seeding.generator(seed, "draw", device=images.device))


def vae_draw(both) -> Draw:
    """The conditional VAE with the units' true factors, which it needs."""
    return lambda images, z, do: cond_vae.counterfactual(both, images, z.float(), do)


def wrong_graphs(mask: np.ndarray) -> dict[str, np.ndarray]:
    """Two graphs that are not the true one: every edge turned, and the true edges among the nodes moved on by one."""
    order = np.roll(np.arange(len(mask)), 1)
    return {"reversed": mask.T.copy(), "wrong": mask[np.ix_(order, order)]}


@dataclass(frozen=True)
class Sizes:
    """What is trained on a world: the guided method and its rivals at one backbone and budget."""

    generator: GeneratorConfig = GeneratorConfig()
    guide: GuideConfig = GuideConfig()
    vae: cond_vae.Config = cond_vae.Config()
    judge: predictor.Config = predictor.Config()
    gamma: float = 1.0  # of CausalDiffAE
    latent: cond_vae.Config | None = None  # of the unconditional VAE whose latent measures minimality; None: that of vae


def sizes(rounds: int, guide_rounds: int, batch: int, width: int, patch: int = 4) -> Sizes:
    """One backbone and budget for every method and world, with a projector that reads the denoised image; eight held-out scores a training."""
    shared = {"batch": batch, "width": width, "patch": patch}
    long, short = ({"rounds": n, "score_every": max(n // 8, 1)} for n in (rounds, guide_rounds))
    return Sizes(GeneratorConfig(**shared, **long), GuideConfig(**shared, **short, sees="denoised"), cond_vae.Config(**shared, **long), predictor.Config(**shared, **short))


@dataclass(frozen=True)
class Trainer:
    """Everything that a training on `bench` needs besides its configuration; published weights are taken where they fit."""

    bench: Bench
    folder: Path | None = None
    device: torch.device | str = "cpu"
    published: bool = True

    def _options(self) -> dict:
        return {"folder": self.folder, "device": self.device, "published": self.published, "data": self.bench.data}

    def generator(self, config: GeneratorConfig, seed: int = 0) -> ImageDenoiser:
        return models.train_generator(self.bench.training[0], config, seed, **self._options()).modules["generator"].requires_grad_(False)

    def guide(self, config: GuideConfig, seed: int = 0, mask: np.ndarray | None = None, denoiser: ImageDenoiser | None = None) -> Guide:
        """The guide over `mask`, by default the true graph. denoiser: the generator, which a projector of denoised images reads through; others leave it aside."""
        mask = self.bench.mask if mask is None else mask
        return models.train_guide(*self.bench.training, mask, config, seed, denoiser=denoiser if config.sees == "denoised" else None, **self._options()).modules["guide"].requires_grad_(False)

    def joint(self, sizes: Sizes, seed: int = 0) -> tuple[ImageDenoiser, Guide]:
        both = models.train_jointly(*self.bench.training, self.bench.mask, sizes.generator, sizes.guide, seed, **self._options()).modules["both"].requires_grad_(False)
        return both["generator"], both["guide"]

    def causaldiffae(self, sizes: Sizes, seed: int = 0, as_released: bool = False):
        config = causaldiffae.Config(generator=sizes.generator, gamma=sizes.gamma, as_released=as_released)
        return causaldiffae.train(*self.bench.training, self.bench.mask, config, seed, **self._options()).modules["both"].requires_grad_(False)

    def vae(self, sizes: Sizes, seed: int = 0):
        return cond_vae.train(*self.bench.training, self.bench.mask, sizes.vae, seed, **self._options()).modules["both"].requires_grad_(False)

    def latent(self, sizes: Sizes, seed: int = 0):
        """The unconditional VAE."""
        return cond_vae.train_unconditional(self.bench.training[0], sizes.latent or sizes.vae, seed, **self._options()).modules["vae"].requires_grad_(False)

    def predictor(self, sizes: Sizes, seed: int = 0):
        return predictor.train(*self.bench.training, sizes.judge, seed, **self._options()).modules["predictor"].requires_grad_(False)


def score(bench: Bench, draw: Draw, method: str, seed: int, experiment: str = "dc.E1", steer: Callable[[torch.Tensor], torch.Tensor] | None = None,
          keep: dict[str, torch.Tensor] | None = None) -> list[dict]:
    """Rows of every target and block: ACM by the oracle in three splits, by `steer` (the guide that steered, as `acm_guide_*`) where given, masked PSNR and share unreadable. keep: gets the images of every target."""
    below, rows = graph.descendants(bench.mask), []
    for target, (node, values, truth, images) in bench.targets.items():
        drawn = draw(bench.images, bench.z, {node: values.float()})
        if keep is not None:
            keep[target] = drawn
        intervened = np.zeros(truth.shape, dtype=bool)
        intervened[:, node] = True
        found = bench.oracle(drawn)
        values_of = {f"acm_{split}": v for split, v in image_metrics.acm(found, truth.numpy(), intervened, below).items()}
        values_of |= {"psnr_masked": image_metrics.psnr(drawn.cpu(), images, masked=True, background=bench.background), "unreadable": image_metrics.unreadable(found)}
        if steer is not None:
            values_of |= {f"acm_guide_{split}": v for split, v in image_metrics.acm(steer(drawn).cpu().numpy(), bench.factors_under(target).numpy(), intervened, below).items()}
        rows += blocks(bench.name, target, method, seed, experiment, values_of)
    return rows


def blocks(dataset: str, target: str, method: str, seed: int, experiment: str, values: dict[str, np.ndarray]) -> list[dict]:
    """Means over blocks of `BLOCK` images, one row a metric and block; a metric that no image of a block has is left out."""
    rows = []
    for metric, value in values.items():
        for start in range(0, len(value), BLOCK):
            part = value[start:start + BLOCK]
            part = part[~np.isnan(part)]
            if len(part):
                rows.append({"experiment": experiment, "dataset": dataset, "unit": f"{target}/{start // BLOCK}", "method": method, "metric": metric, "seed": seed, "value": float(part.mean()), "n": len(part)})
    return rows


def total(rows: list[dict]) -> float:
    """Sum of the mean ACM of the three splits: what constants are chosen by, on training units."""
    return float(sum(np.mean([row["value"] for row in rows if row["metric"] == f"acm_{split}"]) for split in ("intervened", "descendant", "nondescendant")))


def tuned(bench: Bench, make: Callable[[float], Draw], values: list[float], seed: int = 0) -> tuple[float, list[float]]:
    """(the value whose method has the smallest `total` on the units of `bench`, all totals); every method gets the same number of values. `bench` holds training units."""
    if not set(bench.rows) <= set(bench.scenes.train):
        raise ValueError("constants are chosen on training units: pass a bench of rows='train'.")
    totals = [total(score(bench, make(value), "tuning", seed)) for value in values]
    return values[int(np.argmin(totals))], totals


def chosen(bench: Bench, denoiser: ImageDenoiser, guide: Guide, base: Sampling, rules: dict[str, list[float]], seed: int = 0, folder: Path | None = None) -> tuple[dict[str, float], list[dict]]:
    """(constant of every strength in `rules` by `tuned`, a line for each value tried); kept in `folder`. bench: training units."""
    weights = tensor_hash(*denoiser.parameters(), *guide.parameters(), bench.images, *(part for _, *parts in bench.targets.values() for part in parts))
    choice, lines = {}, []
    for rule, values in rules.items():

        def search(rule=rule, values=values) -> dict[str, torch.Tensor]:
            kept: list[torch.Tensor] = []
            _, totals = tuned(bench, lambda value: guided(denoiser, guide, replace(base, strength=rule, kappa=value), seed, kept=kept), values, seed)
            return {"totals": torch.tensor(totals)}

        found = remember(folder, "strength", {"weights": weights, "rule": rule, "values": values, "seed": seed} | asdict(base), search)["totals"].tolist()
        choice[rule] = values[int(np.argmin(found))]
        lines += [{"data": bench.name, "rule": rule, "constant": value, "total error": total, "chosen": value == choice[rule]} for value, total in zip(values, found)]
    return choice, lines


def estimator(trainer: Trainer, sizes: Sizes, steps: int, kappa: float) -> GuidedCounterfactuals:
    """The public estimator around the networks of a world: what `GuidedCounterfactuals.from_checkpoint(world)` reads once it is saved."""
    bench = trainer.bench
    factors = bench.scenes.factors[bench.scenes.train]
    scales = pd.DataFrame({"center": bench.center, "scale": bench.scale, "low": factors.min(0).values, "high": factors.max(0).values}, index=list(bench.scenes.names))
    generator = trainer.generator(sizes.generator)
    return GuidedCounterfactuals.from_networks(generator, trainer.guide(sizes.guide, denoiser=generator), (sizes.generator, sizes.guide), bench.scenes.graph, scales, tuple(bench.images.shape[1:]), steps=steps, kappa=kappa,
                                               device=str(trainer.device))


# ---------------------------------------------------------------- E0: gates


def gates(bench: Bench, denoiser: ImageDenoiser, guide: Guide, sampling: Sampling, seed: int) -> list[dict]:
    """Rows of `dc.E0`: what must hold before guidance is judged.

    floor: the oracle on the real test images and on the re-rendered truth. round trip: DDIM inversion and back without guidance. mechanisms: the learned SCM on true factors, no image in
    between. projector: the guide's reading of clean images.
    """
    x, grid = 2 * bench.images - 1, sampling.grid()
    with torch.no_grad():
        back = (solvers.ddim(denoiser, abduct(denoiser, x, grid), grid).clamp(-1, 1) + 1) / 2
    z, reading = bench.z.numpy(), bench.reading.numpy()
    floor, returned = np.abs(bench.oracle(bench.images) - reading).mean(1), np.abs(bench.oracle(back) - reading)
    rows = blocks(bench.name, "all", "oracle", seed, "dc.E0", {"factor_error": floor})
    rows += blocks(bench.name, "all", "round_trip", seed, "dc.E0", {"psnr_masked": image_metrics.psnr(back, bench.images, masked=True, background=bench.background), "psnr": image_metrics.psnr(back, bench.images),
                                                                   "factor_error": np.where(np.isnan(returned), image_metrics.MISSING, returned).mean(1), "composition": image_metrics.composition(back, bench.images)})
    rows += blocks(bench.name, "all", "projector", seed, "dc.E0", {"factor_error": np.abs(read(guide, x, grid, denoiser).numpy() - z).mean(1)})
    for target, (_, _, truth, images) in bench.targets.items():
        rows += blocks(bench.name, target, "oracle", seed, "dc.E0", {"factor_error": np.abs(bench.oracle(images) - truth.numpy()).mean(1)})
    return rows + mechanism_errors(bench, guide.scm, "mechanisms", seed, "dc.E0")


def mechanism_errors(bench: Bench, scm: torch.nn.Module, method: str, seed: int, experiment: str) -> list[dict]:
    """Rows of the ACM of a learned SCM on true factors, no image in between."""
    rows = []
    for target, (node, values, _, _) in bench.targets.items():
        with torch.no_grad():
            found = scm.counterfactual(bench.z.float(), {node: values.float()}).numpy()
        intervened = np.zeros(found.shape, dtype=bool)
        intervened[:, node] = True
        errors = image_metrics.acm(found, bench.factors_under(target).numpy(), intervened, graph.descendants(bench.mask))
        rows += blocks(bench.name, target, method, seed, experiment, {f"acm_{split}": np.where(v < 1e-6, 0.0, v) for split, v in errors.items()})  # float32 of what did not change is 0
    return rows
