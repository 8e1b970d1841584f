"""The image experiments with methods whose answers are known: the truth itself, the image left as it is, a blank."""

import numpy as np
import pytest
import torch

from gencausal import graph, seeding
from gencausal.counterfactual import Sampling
from gencausal.data import flow, pendulum
from gencausal.experiments import pictures, sequences
from gencausal.image_models import guided as models

SIZE = 32
worlds = pytest.mark.parametrize("world", ["pendulum", "flow"])


@pytest.fixture(scope="module")
def made():
    return {world: pictures.bench(world, 20, 0, size=SIZE) for world in ("pendulum", "flow")}


def truth_of(bench):
    """The method that knows the answer."""
    def draw(images, z, do):
        (node, _), = do.items()
        return next(drawn for k, _, _, drawn in bench.targets.values() if k == node)
    return draw


def mean(rows, metric, target=None):
    return np.mean([row["value"] for row in rows if row["metric"] == metric and (target is None or row["unit"].startswith(target))])


@worlds
def test_units_are_held_out_and_interventions_show(made, world):
    bench = made[world]
    assert not set(bench.rows) & set(bench.scenes.train) and len(set(bench.rows)) == 20
    assert bench.training[1].mean(0).abs().max() < 1e-5 and (bench.training[1].std(0) - 1).abs().max() < 1e-4
    for name, (node, values, truth, images) in bench.targets.items():
        raw = truth * bench.scale + bench.center
        assert pictures.visible(world, raw).all() and pictures.WORLDS[world].NAMES[node] == name
        torch.testing.assert_close(truth[:, node], values)
        below = graph.descendants(bench.mask)[node]
        untouched = [k for k in range(4) if k != node and not below[k]]
        torch.testing.assert_close(truth[:, untouched], bench.z[:, untouched])
        torch.testing.assert_close(images, pictures.WORLDS[world].render(raw, SIZE))
    held = pictures.bench(world, 10, 0, size=SIZE, rows="block")
    assert set(held.rows) <= set(held.scenes.block) and not set(held.rows) & set(bench.rows)


@worlds
def test_the_truth_scores_at_the_floor_and_leaving_the_image_does_not(made, world):
    bench = made[world]
    best = pictures.score(bench, truth_of(bench), "truth", 0)
    left = pictures.score(bench, lambda images, z, do: images, "left", 0)
    assert max(mean(best, f"acm_{split}") for split in ("intervened", "descendant", "nondescendant")) < 0.03 and mean(best, "psnr_masked") > 60
    assert mean(left, "acm_intervened") > 0.5 and mean(left, "acm_nondescendant") < 0.03
    blank = pictures.score(bench, lambda images, z, do: torch.ones_like(images), "blank", 0)
    assert mean(blank, "psnr_masked") < 12 and mean(blank, "unreadable") > 0.2 and mean(blank, "acm_intervened") > 0.5


def test_rows_stand_for_blocks(made):
    rows = pictures.score(made["pendulum"], truth_of(made["pendulum"]), "truth", 3)
    assert {row["unit"] for row in rows} == {f"{target}/{block}" for target in pendulum.NAMES for block in range(2)}
    assert all(row["n"] == 10 and row["seed"] == 3 and row["dataset"] == "pendulum" for row in rows)
    assert not [row for row in rows if row["metric"] == "acm_descendant" and row["unit"].startswith(("length", "position"))], "what no unit has is no row"
    found = pictures.blocks("d", "t", "m", 0, "e", {"acm_all": np.array([1.0] * 10 + [3.0, np.nan])})
    assert [(row["value"], row["n"]) for row in found] == [(1.0, 10), (3.0, 1)]


def test_wrong_factors_are_charged_to_their_split(made):
    """A method that moves the lamp along with the pendulum fails the non-descendants, and them alone."""
    bench = made["pendulum"]

    def draw(images, z, do):
        (node, _), = do.items()
        truth = next(truth for k, _, truth, _ in bench.targets.values() if k == node).clone()
        if node == 0:
            truth[:, 1] += torch.where(truth[:, 1] > 0, -1.0, 1.0)
        return pendulum.render(truth * bench.scale + bench.center, SIZE)

    rows = pictures.score(bench, draw, "mover", 0)
    assert mean(rows, "acm_nondescendant", "angle") == pytest.approx(1, abs=0.05) and mean(rows, "acm_intervened", "angle") < 0.03 and mean(rows, "acm_nondescendant", "light") < 0.03


def test_gates_and_guided_draws_run_end_to_end(made):
    bench = made["pendulum"]
    images, z = bench.training
    denoiser = models.train_generator(images[:300], models.GeneratorConfig(rounds=10, batch=16, width=16, blocks=1, score_every=10), 0).modules["generator"].requires_grad_(False)
    guide = models.train_guide(images[:300], z[:300], bench.mask, models.GuideConfig(rounds=10, batch=16, width=16, score_every=10), 0).modules["guide"].requires_grad_(False)
    sampling = Sampling(steps=3)
    rows = pictures.gates(bench, denoiser, guide, sampling, 0)
    assert {row["method"] for row in rows} == {"oracle", "round_trip", "projector", "mechanisms"} and mean([r for r in rows if r["method"] == "oracle"], "factor_error") < 0.03
    draw = pictures.guided(denoiser, guide, sampling)
    found = pictures.score(bench, draw, "guided", 0, steer=lambda x: guide(2 * x - 1, 0.99995, 0.01))
    assert {"acm_guide_intervened", "acm_intervened"} <= {row["metric"] for row in found}
    first, second = (draw(bench.images, bench.z, {0: torch.zeros(20)}) for _ in range(2))
    assert torch.equal(first, second)
    other = draw(bench.images[:5], bench.z[:5], {0: torch.zeros(5)})
    torch.testing.assert_close(other, first[:5], atol=1e-4, rtol=0)
    assert not torch.equal(pictures.guided(denoiser, guide, sampling, known=True)(bench.images, bench.z, {0: torch.zeros(20)}), first)


def test_constants_are_chosen_on_training_units_by_the_truth_they_reach():
    bench = pictures.bench("pendulum", 10, 0, size=SIZE, rows="train")

    def make(value):
        def draw(images, z, do):
            (node, _), = do.items()
            drawn = next(drawn for k, _, _, drawn in bench.targets.values() if k == node)
            return drawn if value == 2.0 else images
        return draw

    chosen, totals = pictures.tuned(bench, make, [1.0, 2.0, 3.0])
    assert chosen == 2.0 and totals[1] < 0.1 < totals[0] == totals[2]
    with pytest.raises(ValueError, match="training"):
        pictures.tuned(pictures.bench("pendulum", 5, 0, size=SIZE), make, [1.0])


def test_every_method_trains_and_draws(made):
    bench = made["pendulum"]
    tiny = models.GeneratorConfig(rounds=3, batch=8, width=16, blocks=1, score_every=3)
    guide = models.GuideConfig(rounds=3, batch=8, width=16, score_every=3)
    sizes = pictures.Sizes(tiny, guide, pictures.cond_vae.Config(rounds=3, batch=8, width=16, score_every=3), pictures.predictor.Config(rounds=3, batch=8, width=16, score_every=3))
    trainer, sampling = pictures.Trainer(bench), Sampling(steps=2)
    denoiser = trainer.generator(tiny)
    draws = {"guided": pictures.guided(denoiser, trainer.guide(guide), sampling), "joint": pictures.guided(*trainer.joint(sizes), sampling), "causaldiffae": pictures.causaldiffae_draw(trainer.causaldiffae(sizes), sampling),
             "released": pictures.causaldiffae_draw(trainer.causaldiffae(sizes, as_released=True), Sampling(steps=2, abduction="noise")), "cond_vae": pictures.vae_draw(trainer.vae(sizes))}
    drawn = {name: draw(bench.images, bench.z, {0: torch.zeros(20)}) for name, draw in draws.items()}
    assert all(images.shape == bench.images.shape and 0 <= images.min() and images.max() <= 1 for images in drawn.values())
    assert trainer.predictor(sizes)(bench.images).shape == (20, 4)


def test_wrong_graphs_are_acyclic_and_wrong():
    mask = graph.adjacency(pendulum.GRAPH, pendulum.NAMES)
    for name, other in pictures.wrong_graphs(mask).items():
        assert graph.order(other) and graph.shd(other, mask) >= 2, name
    assert pictures.wrong_graphs(mask)["reversed"][2, 0] == 1


def test_the_first_units_are_those_of_the_bench(made):
    few = pictures.first(made["flow"], 3)
    assert len(few.images) == len(few.z) == len(few.rows) == 3 and torch.equal(few.images, made["flow"].images[:3])
    for name, (node, *parts) in few.targets.items():
        assert node == made["flow"].targets[name][0] and all(torch.equal(a, b[:3]) for a, b in zip(parts, made["flow"].targets[name][1:]))


def test_sizes_give_one_backbone_and_budget():
    found = pictures.sizes(80, 40, 16, 8)
    for config in (found.generator, found.guide, found.vae, found.judge):
        assert (config.patch, config.batch, config.width) == (4, 16, 8)
    assert (found.generator.rounds, found.vae.rounds, found.guide.rounds, found.judge.rounds) == (80, 80, 40, 40) and found.generator.score_every == 10


def test_chosen_constants_are_kept_and_found_again(tmp_path, monkeypatch):
    """The smallest total wins, each strength by itself; a second call draws nothing."""
    bench = pictures.bench("pendulum", 3, 0, size=16, rows="train")
    denoiser = models.make_generator(models.GeneratorConfig(width=8, patch=2), 3, 16, 0)
    guide = models.make_guide(models.GuideConfig(width=8, patch=2), 3, 16, bench.mask, 0)
    asked = []
    monkeypatch.setattr(pictures, "guided", lambda denoiser, guide, sampling, seed, kept: sampling)
    monkeypatch.setattr(pictures, "tuned", lambda bench, make, values, seed: asked.append([make(v).strength for v in values]) or (None, [abs(v - (0.2 if make(v).strength == "adaptive" else 3)) for v in values]))
    rules = {"adaptive": [0.1, 0.2, 0.4], "fixed": [1, 3]}
    choice, lines = pictures.chosen(bench, denoiser, guide, Sampling(steps=2), rules, folder=tmp_path)
    assert choice == {"adaptive": 0.2, "fixed": 3} and [line["constant"] for line in lines if line["chosen"]] == [0.2, 3] and len(lines) == 5
    assert pictures.chosen(bench, denoiser, guide, Sampling(steps=2), rules, folder=tmp_path) == (choice, lines) and asked == [["adaptive"] * 3, ["fixed"] * 2]


def test_the_estimator_of_a_world_draws_what_the_experiment_draws(made, tmp_path):
    """Same networks, same images: in the generator's units, before and after a file."""
    bench = pictures.first(made["pendulum"], 4)
    trainer, sizes = pictures.Trainer(bench, published=False), pictures.sizes(4, 4, 8, 8, SIZE // 16)
    model = pictures.estimator(trainer, sizes, steps=3, kappa=0.1)
    node, values, _, _ = bench.targets["light"]
    draw = pictures.guided(model.generator_, model.guide_, Sampling(steps=3, kappa=0.1))
    raw = (values * bench.scale[node] + bench.center[node]).numpy()
    found = model.counterfactual(bench.images, {"light": raw})
    np.testing.assert_allclose(found, draw(bench.images, bench.z, {node: values.float()}).numpy(), atol=1e-5)
    again = type(model).from_checkpoint(model.save(tmp_path / "world.safetensors"), device="cpu")
    np.testing.assert_array_equal(again.counterfactual(bench.images, {"light": raw}), found)


def test_morphomnist_truth_is_the_reading_of_the_true_image():
    bench = pictures.bench("morphomnist", 4, 0, n=40)
    rows = pictures.score(bench, truth_of(bench), "truth", 0)
    assert mean(rows, "acm_intervened") == 0 and {row["unit"].split("/")[0] for row in rows} == {"thickness", "intensity"}
    left = pictures.score(bench, lambda images, z, do: images, "left", 0)
    assert mean(left, "acm_intervened") > 0.3 and mean(left, "acm_nondescendant") < 0.05
    moved, _ = sequences.run(bench, lambda images, z, do: images, "left", 0, steps=2, null=True)
    assert mean(moved, "acm_all") < 0.05
