"""Variants of the guided method, steps and harder settings, at sizes that show what must hold."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from gencausal import graph, scm, seeding
from gencausal.counterfactual import Sampling
from gencausal.data import pendulum
from gencausal.experiments import benchmark_images, components, pictures
from gencausal.image_models import predictor
from gencausal.image_models.guided import GeneratorConfig, GuideConfig

GENERATOR = GeneratorConfig(rounds=2, batch=8, width=16, blocks=1, score_every=2)
GUIDE = GuideConfig(rounds=2, batch=12, width=16, score_every=2)
SIZES = pictures.Sizes(GENERATOR, GUIDE)


@pytest.fixture(scope="module")
def bench():
    return pictures.bench("pendulum", 6, 0, size=16)


def made_scm(mask):
    model = scm.make("mlp", mask, seeding.generator(0, "scm"))
    with torch.no_grad():
        model.networks.layers[2].weight.normal_(generator=seeding.generator(1, "w"))
    return model


def test_a_variant_differs_in_what_it_is_named_for():
    parts = components.variants(GUIDE, GENERATOR, (0.3,))
    changed = {name: {key: value for key, value in asdict(part.guide).items() if value != asdict(GUIDE)[key]} for name, part in parts.items()}
    assert changed == {"full": {}, "independent": {"form": "independent"}, "linear": {"form": "linear"}, "warped": {"form": "warped"}, "learned": {"learned": True}, "denoised": {"sees": "denoised"},
                       "separate": {"sees": "denoised", "batch": 8}, "joint": {"sees": "denoised"}, "labels_0.3": {"label_share": 0.3}}
    assert [name for name, part in parts.items() if part.joint] == ["joint"] and len({part.asks for part in parts.values()}) == len(parts)
    other = components.variants(GUIDE, replace(GENERATOR, rounds=7, lr=0.1, average=0.5))["separate"].guide
    assert (other.rounds, other.batch, other.lr, other.average) == (7, 8, 0.1, 0.5)


def test_one_hop_is_the_scm_on_a_graph_of_depth_one_and_breaks_a_chain():
    z, do = torch.randn(9, 4, generator=seeding.generator(0, "z")), {0: torch.linspace(-1, 1, 9)}
    flat = made_scm(graph.adjacency(pendulum.GRAPH, pendulum.NAMES))
    torch.testing.assert_close(components.OneHop(flat).counterfactual(z, do), flat.counterfactual(z, do))
    chain = made_scm(graph.adjacency(pendulum.CHAIN, pendulum.NAMES))
    short, full = components.OneHop(chain).counterfactual(z, do), chain.counterfactual(z, do)
    torch.testing.assert_close(short[:, :2], full[:, :2])  # the lamp hangs on the angle alone
    assert (short - full).abs()[:, 2:].mean(0).min() > 0.01 and torch.equal(short[:, 0], do[0])
    torch.testing.assert_close(components.OneHop(chain).counterfactual(z, {0: z[:, 0]}), z)


def test_every_variant_is_trained_and_scored(bench):
    made = benchmark_images.instruments(bench, predictor.make(3, 16, 4, predictor.Config(width=16), 0))
    made = replace(made, features=made.features[:60])
    parts = components.variants(GUIDE, GENERATOR, (0.3,))
    rows = components.run(bench, pictures.Trainer(bench), SIZES, Sampling(steps=2), 3, parts, made)
    assert {row["method"] for row in rows} == set(parts) | {f"{name}_mechanisms" for name in parts} and {row["experiment"] for row in rows} == {"dc.E5"} and {row["seed"] for row in rows} == {3}
    assert {row["metric"] for row in rows if row["method"] == "joint"} == {"acm_intervened", "acm_descendant", "acm_nondescendant", "psnr_masked", "unreadable", "frechet"}
    value = {(row["method"], row["unit"]): row["value"] for row in rows if row["metric"] == "acm_descendant"}
    still = {target: (truth - bench.z)[:, 2:].abs().mean() for target, (_, _, truth, _) in bench.targets.items()}
    assert value["independent_mechanisms", "angle/0"] == pytest.approx(float(still["angle"]), rel=1e-4), "without mechanisms what follows stays where it was"
    assert value["full_mechanisms", "angle/0"] != value["independent_mechanisms", "angle/0"]
    frechet = {(row["method"], row["unit"]) for row in rows if row["metric"] == "frechet"}
    assert frechet == {(name, target) for name in parts for target in pendulum.NAMES}


def test_steps_keep_the_constant_and_scale_it(bench):
    asked = []

    def draw(sampling):
        asked.append(sampling)
        return benchmark_images.left

    rows = components.steps(bench, draw, {"adaptive": Sampling(steps=50, kappa=0.2)}, [20, 50], 0)
    assert [(s.steps, s.kappa) for s in asked] == [(20, 0.2), (20, pytest.approx(0.5)), (50, 0.2)]
    assert {row["method"] for row in rows} == {"adaptive_20_steps", "adaptive_20_steps_scaled", "adaptive_50_steps"} and {row["experiment"] for row in rows} == {"dc.E3"}


def test_harder_settings_are_what_they_say():
    """A block's networks never see its region; the public set has no noise on its children; the chain's lamp follows its angle."""
    benches = components.settings("pendulum", 6, 0, size=16)
    assert [b.name for b in benches.values()] == ["pendulum_block", "pendulum_public", "pendulum_chain"]
    block = benches["block"]
    assert set(block.rows) <= set(block.scenes.block) and len(block.training[0]) == len(block.scenes.train_outside) < len(block.scenes.train) and block.data != replace(block, part="test").data
    for b in benches.values():
        torch.testing.assert_close(b.training[1][:3] * b.scale + b.center, b.scenes.factors[b.scenes.train_outside if b is block else b.scenes.train][:3], atol=1e-4, rtol=1e-4)
    assert benches["public"].scenes.noise[:, 2:].abs().max() == 0 < block.scenes.noise[:, 2:].abs().min()
    _, _, truth, _ = benches["chain"].targets["angle"]
    assert (truth - benches["chain"].z)[:, 1].abs().min() > 1e-3 and (block.targets["angle"][2] - block.z)[:, 1].abs().max() == 0

    rows = components.harder({name: benches[name] for name in ("block", "chain")}, pictures.Trainer, SIZES, Sampling(steps=2), 0, near=(pictures.Trainer(block).generator(GENERATOR), pictures.Trainer(block).guide(GUIDE)))
    methods = {name: {row["method"] for row in rows if row["dataset"] == f"pendulum_{name}"} for name in ("block", "chain")}
    assert methods["block"] == {"guided", "no_guidance", "guided_near", "guided_mechanisms"} and methods["chain"] == {"guided", "no_guidance", "guided_one_hop", "guided_mechanisms"}
    near, own = ([row["value"] for row in rows if row["method"] == method and row["dataset"] == "pendulum_block"] for method in ("guided_near", "guided"))
    assert near == pytest.approx(own), "the same networks give the same rows"
