r"""`GuidedCounterfactuals`: what would this image show, had a factor been another? Diffusion guided by a learned causal model (`guidance`, `counterfactual`).

Fit on images with a table of their factors and their causal graph, or read a published checkpoint; then `factors(images)` reads the factors, and
`counterfactual(images, {"angle": 10.0})` draws the images of the same units under an intervention, with everything that follows from it and nothing else. The factors that
follow come from abduction, action and prediction in the learned SCM; they are counterfactuals as far as the graph is right and no common cause is left out.
"""

from dataclasses import asdict, replace
from pathlib import Path

import networkx as nx
import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator

from gencausal import checks, graph as graphs, paths, seeding
from gencausal.checkpoints import load_state, save_state
from gencausal.checks import InputError
from gencausal.counterfactual import Sampling, abduct, counterfactual, read
from gencausal.estimators.outcomes import resolve_device
from gencausal.estimators.pictures import as_images, as_table, back, pad
from gencausal.guidance import Guide, ImageDenoiser
from gencausal.image_models.guided import GeneratorConfig, GuideConfig, make_generator, make_guide, train_generator, train_guide

FORMAT = "gencausal.GuidedCounterfactuals/1"
PUBLISHED = ("pendulum", "flow")  # of data/checkpoints
FEWEST = 50  # images below which nothing is fitted


class GuidedCounterfactuals(BaseEstimator):
    """Counterfactual images from a diffusion model guided by a causal projector and a learned SCM.

    graph: networkx DiGraph over the factors, acyclic. learned_graph: learn its edges instead (its nodes still name the factors). rounds, guide_rounds: optimiser steps of the generator and of the
    guide. width: channels of the generator's first map. form: of the mechanisms, one of scm.FORMS. sees: the guide reads the generator's "denoised" image, or the "noisy" one, which is faster and less exact. steps, kappa: of the sampler, see `counterfactual.Sampling`.
    random_state: seed of everything. device: auto, cpu, cuda or mps. checkpoint_folder: where a killed fit continues from.

    After `fit`: names_ the factors; center_, scale_ of the training factors; low_, high_ their range; generator_, guide_ the networks; size_ side of the images inside.
    """

    def __init__(self, graph: nx.DiGraph | None = None, learned_graph: bool = False, rounds: int = GeneratorConfig.rounds, guide_rounds: int = GuideConfig.rounds, width: int = GeneratorConfig.width,
                 form: str = GuideConfig.form, sees: str = "denoised", steps: int = Sampling.steps, kappa: float = Sampling.kappa, random_state: int = 0, device: str = "auto", checkpoint_folder: str | None = None):
        self.graph, self.learned_graph, self.rounds, self.guide_rounds, self.width, self.form, self.sees = graph, learned_graph, rounds, guide_rounds, width, form, sees
        self.steps, self.kappa, self.random_state, self.device, self.checkpoint_folder = steps, kappa, random_state, device, checkpoint_folder

    # --- fitting -------------------------------------------------------------------------------------------------------------------------

    def fit(self, images, factors) -> "GuidedCounterfactuals":
        """Train on `images` (array [N, H, W], [N, H, W, C] or [N, C, H, W], bytes or numbers in [0, 1]; or a folder of image files, whose names are the index of `factors`) with
        `factors`, a DataFrame of one row an image and one column a node of the graph (or an array [N, n] in the graph's order)."""
        if self.graph is None:
            raise InputError("graph is missing; pass GuidedCounterfactuals(graph=networkx.DiGraph([(cause, effect), ...])) over the factors.")
        graphs.adjacency(self.graph)
        table = as_table(factors, list(self.graph.nodes))
        if isinstance(factors, pd.DataFrame):
            table = table[[name for name in factors.columns if name in table]]
        names = list(table.columns)
        mask = graphs.adjacency(self.graph, names)
        x, self.layout_ = as_images(images, table.index)
        if len(x) != len(table):
            raise InputError(f"images has {len(x)} images but factors has {len(table)} rows; pass one row for each image, in the same order.")
        if len(x) < FEWEST:
            raise InputError(f"images holds {len(x)} images; at least {FEWEST} are needed.")
        values = checks.matrix(table, "factors")
        if (constant := values.std(0) == 0).any():
            raise InputError(f"factors has a constant column, {names[int(constant.argmax())]!r}; drop it from table and graph.")
        self.names_, self.mask_ = tuple(names), mask
        self.center_, self.scale_, self.low_, self.high_ = values.mean(0), values.std(0), values.min(0), values.max(0)
        x, self.shape_ = pad(x)
        place, folder = resolve_device(self.device), None if self.checkpoint_folder is None else Path(self.checkpoint_folder)
        z = torch.as_tensor((values - self.center_) / self.scale_, dtype=torch.float32)
        self._generator = GeneratorConfig(rounds=self.rounds, width=self.width, score_every=max(1, min(500, self.rounds)))
        self._guide = GuideConfig(rounds=self.guide_rounds, form=self.form, sees=checks.choice(self.sees, "sees", ("noisy", "denoised")), learned=self.learned_graph, score_every=max(1, min(500, self.guide_rounds)))
        self.generator_ = train_generator(x, self._generator, self.random_state, folder, place).modules["generator"].requires_grad_(False)
        self.guide_ = train_guide(x, z, mask, self._guide, self.random_state, folder, place, self.generator_ if self.sees == "denoised" else None).modules["guide"].requires_grad_(False)
        return self

    # --- asking --------------------------------------------------------------------------------------------------------------------------

    def factors(self, images) -> pd.DataFrame:
        """Factors that the guide reads in `images`, [N, n], in the units of the training table."""
        x, _ = self._ready(images)
        z = torch.cat([read(self.guide_, part, self._sampling().grid(), self.generator_) for part in (2 * x - 1).split(256)])
        return pd.DataFrame(z.double().cpu().numpy() * self.scale_ + self.center_, columns=list(self.names_))

    def counterfactual(self, images, do: dict, factors=None, random_state: int | None = None) -> np.ndarray:
        """`images` of the same units under `do` (factor to a value or to one value an image, in the units of the training table), in the layout of `images`, numbers in [0, 1].

        factors: those of the images where they are known (a DataFrame as in `fit`); by default they are read. random_state: of the sampler's fresh noise, by default the estimator's. Values outside the trained range are refused.
        """
        x, layout = self._ready(images)
        values = {self.names_.index(name): value for name, value in self._checked(do, len(x)).items()}
        z = None if factors is None else self._standardised(factors, len(x)).to(x.device)
        sampling, made = self._sampling(), []
        for start in range(0, len(x), 256):
            part = slice(start, start + 256)
            steer = {node: torch.as_tensor((value[part] - self.center_[node]) / self.scale_[node], dtype=torch.float32, device=x.device) for node, value in values.items()}
            noise = abduct(self.generator_, 2 * x[part] - 1, sampling.grid())
            rng = seeding.generator(self.random_state if random_state is None else random_state, "draw", device=x.device)
            made.append(counterfactual(self.generator_, self.guide_, 2 * x[part] - 1, steer, sampling, None if z is None else z[part], rng, noise)[0])
        return back((torch.cat(made) + 1) / 2, self.shape_, layout)

    def counterfactual_factors(self, factors, do: dict) -> pd.DataFrame:
        """Factors of the same units under `do` by the learned SCM alone, [N, n], in the units of the training table."""
        self._fitted()
        z = self._standardised(factors, None)
        steer = {self.names_.index(name): torch.as_tensor((value - self.center_[self.names_.index(name)]) / self.scale_[self.names_.index(name)], dtype=torch.float32)
                 for name, value in self._checked(do, len(z)).items()}
        with torch.no_grad():
            found = self.guide_.scm.counterfactual(z.to(self.guide_.scm.mask.device), steer)
        return pd.DataFrame(found.double().cpu().numpy() * self.scale_ + self.center_, columns=list(self.names_))

    # --- keeping -------------------------------------------------------------------------------------------------------------------------

    def save(self, path) -> Path:
        """Write weights, graph, scales and configuration to the .safetensors file `path`, nothing pickled and no image of the training set; returns the file."""
        self._fitted()
        tensors = {f"generator.{name}": value for name, value in self.generator_.state_dict().items()} | {f"guide.{name}": value for name, value in self.guide_.state_dict().items()}
        meta = {"config": FORMAT, "names": list(self.names_), "mask": self.mask_.tolist(), "shape": list(self.shape_), "layout": self.layout_, "generator": asdict(self._generator), "guide": asdict(self._guide),
                "steps": self.steps, "kappa": self.kappa, "random_state": self.random_state} | {key: getattr(self, f"{key}_").tolist() for key in ("center", "scale", "low", "high")}
        save_state(file := _file(path), tensors, meta)
        return file

    @classmethod
    def from_checkpoint(cls, path="pendulum", device: str = "auto") -> "GuidedCounterfactuals":
        """The estimator that `save` wrote to `path`, or a published one by its name (a file of data/checkpoints): the same images, bit for bit on the same kind of device."""
        file, place = _file(path), resolve_device(device)
        found = load_state(file, FORMAT)
        if found is None:
            raise InputError(f"There is no file {file.name}; pass what save returned, or one of the published names: {', '.join(PUBLISHED)}.")
        tensors, meta = found
        model = cls(nx.from_numpy_array(np.array(meta["mask"]), create_using=nx.DiGraph), meta["guide"]["learned"], meta["generator"]["rounds"], meta["guide"]["rounds"], meta["generator"]["width"],
                    meta["guide"]["form"], meta["guide"]["sees"], meta["steps"], meta["kappa"], meta["random_state"], device)
        model.graph = nx.relabel_nodes(model.graph, dict(enumerate(meta["names"])))
        model.names_, model.mask_, model.shape_, model.layout_ = tuple(meta["names"]), np.array(meta["mask"]), tuple(meta["shape"]), meta["layout"]
        for key in ("center", "scale", "low", "high"):
            setattr(model, f"{key}_", np.array(meta[key]))
        model._generator, model._guide = GeneratorConfig(**meta["generator"] | {"multipliers": tuple(meta["generator"]["multipliers"])}), GuideConfig(**meta["guide"])
        channels, _, _, side = model.shape_
        model.generator_, model.guide_ = make_generator(model._generator, channels, side, 0, place), make_guide(model._guide, channels, side, model.mask_, 0, place)
        for part, network in (("generator", model.generator_), ("guide", model.guide_)):
            network.load_state_dict({name.removeprefix(f"{part}."): value for name, value in tensors.items() if name.startswith(f"{part}.")})
            network.requires_grad_(False).eval()
        return model

    @classmethod
    def from_networks(cls, generator: ImageDenoiser, guide: Guide, configs: tuple[GeneratorConfig, GuideConfig], graph: nx.DiGraph, scales: pd.DataFrame, shape: tuple[int, int, int], **options) -> "GuidedCounterfactuals":
        """An estimator around networks that were trained elsewhere, for images of `shape` (C, S, S).

        scales: one row a factor, in the guide's order, indexed by name, with the columns center, scale, low and high of the training factors. options: as in the constructor.
        """
        model = cls(graph, configs[1].learned, configs[0].rounds, configs[1].rounds, configs[0].width, configs[1].form, configs[1].sees, **options)
        model.names_, model.mask_ = tuple(scales.index), graphs.adjacency(graph, list(scales.index))
        model.center_, model.scale_, model.low_, model.high_ = (scales[name].to_numpy(float) for name in ("center", "scale", "low", "high"))
        model.shape_, model.layout_ = (*shape, shape[1]), "first"
        model._generator, model._guide, model.generator_, model.guide_ = *configs, generator.requires_grad_(False).eval(), guide.requires_grad_(False).eval()
        return model

    # --- checks --------------------------------------------------------------------------------------------------------------------------

    def _fitted(self) -> None:
        if not hasattr(self, "generator_"):
            raise InputError("This GuidedCounterfactuals is not fitted yet; call fit(images, factors), or GuidedCounterfactuals.from_checkpoint().")

    def _sampling(self) -> Sampling:
        return replace(Sampling(), steps=self.steps, kappa=self.kappa)

    def _ready(self, images) -> tuple[torch.Tensor, str]:
        """Padded images [N, C, S, S] on the device, and their layout."""
        self._fitted()
        x, layout = as_images(images, None)
        if (x.shape[1], *x.shape[2:]) != (channels_and_sides := (self.shape_[0], self.shape_[1], self.shape_[2])):
            raise InputError(f"images are {x.shape[1]} x {x.shape[2]} x {x.shape[3]} (channels, height, width) but the model was trained on {' x '.join(map(str, channels_and_sides))}; resize them.")
        return pad(x)[0].to(next(self.generator_.parameters()).device), layout

    def _standardised(self, factors, rows: int | None) -> torch.Tensor:
        table = as_table(factors, list(self.names_))
        if rows is not None and len(table) != rows:
            raise InputError(f"factors has {len(table)} rows but there are {rows} images; pass one row for each image.")
        return torch.as_tensor((checks.matrix(table, "factors") - self.center_) / self.scale_, dtype=torch.float32)

    def _checked(self, do: dict, rows: int) -> dict[str, np.ndarray]:
        """`do` with values [rows], each inside the trained range of its factor."""
        if not isinstance(do, dict) or not do:
            raise InputError('do must name at least one factor and its value, such as {"' + str(self.names_[0]) + '": ' + f"{self.center_[0]:.3g}" + "}.")
        found = {}
        for name, value in do.items():
            if name not in self.names_:
                raise InputError(f"do names {name!r}, which is no factor; the factors are {', '.join(map(str, self.names_))}.")
            values = np.broadcast_to(checks.vector(np.atleast_1d(value), f"do[{name!r}]"), (rows,)) if np.size(value) == 1 else checks.vector(value, f"do[{name!r}]", rows)
            k = self.names_.index(name)
            if ((values < self.low_[k]) | (values > self.high_[k])).any():
                raise InputError(f"do[{name!r}] holds {values[(values < self.low_[k]) | (values > self.high_[k])][0]:.6g}, outside the trained range {self.low_[k]:.6g} to {self.high_[k]:.6g}; the model has seen no such image.")
            found[name] = values
        return found


def _file(path) -> Path:
    """A .safetensors path as it is; a bare name is a published checkpoint."""
    path = Path(path)
    return path if path.suffix == ".safetensors" else paths.root() / "data" / "checkpoints" / f"{path}.safetensors"
