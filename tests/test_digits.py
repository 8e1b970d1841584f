"""Counterfactual digits: the interventions, the metrics at cases with known answers, the ablations as weights, what a choice may see."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gencausal.data import morphomnist
from gencausal.data.scenes import Scenes, every_fifth
from gencausal.experiments import digits
from gencausal.image_models.vci import Recipe
from gencausal.vci.images import SMALL


@pytest.fixture(scope="module")
def scenes():
    """25 drawn digits, bars with a bend, rendered by the true generator; no file is needed."""
    rng = np.random.default_rng(0)
    base = np.zeros((25, 28, 28), dtype=np.uint8)
    for digit in base:
        column = rng.integers(9, 16)
        digit[6:22, column:column + 3] = 255
        digit[19:22, column:column + rng.integers(4, 9)] = 255
    factors = morphomnist.predict(torch.as_tensor(np.stack([2 + rng.random(25), 0.3 * rng.standard_normal(25)], 1)))
    framed = morphomnist._framed(base)
    train, test = every_fifth(25)
    return Scenes("morphomnist", morphomnist.render(factors, base=framed), factors, factors, morphomnist.NAMES, morphomnist.GRAPH, train, test, np.array([], dtype=int), framed)


@pytest.fixture(scope="module")
def bench(scenes):
    return digits.bench(scenes, 3)


def mean(rows, method, metric, intervention=None):
    return np.mean([row["value"] for row in rows if row["method"] == method and row["metric"] == metric and (intervention is None or row["unit"].startswith(intervention + "/"))])


def test_interventions_set_what_they_name(scenes):
    """do_thickness keeps the intensity and the other way round (nothing is propagated), do_both sets both, do_one one of them to the same value; wanted values come from the pool."""
    t, pool = scenes.factors, scenes.factors[scenes.train]
    asked = digits.wanted(t, pool, np.random.default_rng(1))
    assert torch.equal(asked["do_thickness"][:, 1], t[:, 1]) and torch.equal(asked["do_intensity"][:, 0], t[:, 0])
    assert torch.equal(asked["do_thickness"][:, 0], asked["do_both"][:, 0]) and torch.equal(asked["do_intensity"][:, 1], asked["do_both"][:, 1])
    assert ((asked["do_one"] == asked["do_thickness"]).all(1) | (asked["do_one"] == asked["do_intensity"]).all(1)).all() and 0 < (asked["do_one"][:, 0] == t[:, 0]).sum() < len(t)
    assert all(set(asked["do_both"][:, k].tolist()) <= set(pool[:, k].tolist()) for k in range(2))


def test_truth_is_the_same_digit_with_the_wanted_labels(scenes, bench):
    """The truth of every intervention is the digit rendered with the wanted labels, and unpropagated: do_thickness leaves the brightness as it was read."""
    order = [int((scenes.images[scenes.test] == image).all((1, 2, 3)).nonzero()[0]) for image in bench.images]
    base = scenes.base[scenes.test][order]
    for name, asked in bench.wanted.items():
        assert (bench.truth[name] - morphomnist.render(asked, base=base)).abs().max() < 1 / 255, name
    assert torch.allclose(bench.readings["do_thickness"][:, 1], bench.factors[:, 1], atol=3) and torch.allclose(bench.readings["do_intensity"][:, 1], bench.wanted["do_intensity"][:, 1], atol=3)


def test_the_truth_scores_zero_and_a_copy_does_not(bench):
    """Eq. digit-mse, Eq. digit-mae, Eq. digit-cycles: a method that knows the truth has errors 0 in image and reading and a positive distance to the factual image; copying has distance 0 to the factual image, composition and
    reversibility 0, and the error of the intervention itself. Rows are blocks, the same for every seed."""
    by_label = {tuple(label.tolist()): image for name in bench.wanted for label, image in zip(bench.wanted[name], bench.truth[name])} | {tuple(label.tolist()): image for label, image in zip(bench.factors, bench.images)}
    rows = digits.score(bench, lambda y, t, asked: torch.stack([by_label[tuple(label.tolist())] for label in asked]), "oracle", 0) + digits.copied(bench, [0, 1])
    assert all(mean(rows, "oracle", metric) == 0 for metric in ("image_mse", "mae_thickness", "mae_intensity", "composition", "reversibility")) and mean(rows, "oracle", "image_mse_factual") > 0
    assert all(mean(rows, "copy_input", metric) == 0 for metric in ("image_mse_factual", "composition", "reversibility"))
    copy = digits.mse(bench.images, bench.truth["do_both"])
    assert mean(rows, "copy_input", "image_mse", "do_both") == pytest.approx(copy.mean()) and mean(rows, "copy_input", "mae_thickness", "do_thickness") > 0.1
    assert {row["seed"] for row in rows if row["method"] == "copy_input"} == {0, 1} and all(row["experiment"] == digits.EXPERIMENT for row in rows)


def test_mse_at_a_constant_offset():
    """Eq. digit-mse: an offset of 0.1 is 100 x 0.01 = 1; the two pixels of margin do not count."""
    y = torch.zeros(2, 1, 32, 32)
    edge = y.clone()
    edge[..., :2, :] = 1
    assert digits.mse(y + 0.1, y) == pytest.approx([1.0, 1.0]) and digits.mse(edge, y).tolist() == [0, 0]


def test_a_blank_image_misses_by_the_whole_label(bench):
    """A blank image reads as 0, so that its error is the label, never left out."""
    rows = digits.score(bench, lambda y, t, asked: torch.zeros_like(y), "blank", 0)
    assert mean(rows, "blank", "mae_thickness", "do_both") == pytest.approx(bench.readings["do_both"][:, 0].mean().item())


def test_ablations_are_weights_of_one_recipe():
    """Every method has the network, budget and optimiser of the full objective; only weights differ."""
    base = Recipe(replace(SMALL, weights=(10.0, 1.0, 0.1)))
    made = digits.recipes(base, prior=0.5)
    assert set(made) == set(digits.METHODS) and made["vci"] is base
    assert made["vci_no_supervision"].network.weights == (10.0, 0.0, 0.1) and made["vci_no_divergence"].network.weights == (10.0, 1.0, 0.0) and made["autoencoder"].network.weights == (10.0, 0.0, 0.0)
    assert made["cvae"].network.prior == 0.5 and made["cvae"].network.weights[1:] == (0.0, 0.0)
    same = [replace(recipe, network=replace(recipe.network, weights=(1.0, 0.0, 0.0), prior=0.0, features=True)) for recipe in made.values()]
    assert all(recipe == same[0] for recipe in same)


def test_choices_see_no_test_image(scenes):
    """Rows to train on and held-out rows are disjoint training rows; `factual` is 0 for nobody, ranks a method that does as asked above a copy, and gives a copy 2 (one a label) and no reconstruction error."""
    rows, held = digits.split(scenes)
    assert not set(rows) & set(held) and set(rows) | set(held) == set(scenes.train) and not set(scenes.test) & (set(rows) | set(held))
    copy = digits.factual(scenes, lambda y, t, asked: y, units=4)
    assert copy["total"] == pytest.approx(2) and copy["reconstruction"] == 0

    def render(y, t, asked):
        order = [int((scenes.images - image).square().sum((1, 2, 3)).argmin()) for image in y]
        return morphomnist.render(asked, base=scenes.base[order])

    assert digits.factual(scenes, render, units=4)["total"] < 1


def test_a_network_is_trained_and_scored(scenes, bench):
    """Two steps on the training rows, then every metric of every intervention is a finite row."""
    model = digits.trained(scenes, Recipe(replace(SMALL, weights=(10.0, 1.0, 0.1)), minibatches=2, batch=8), 0)
    rows = digits.score(bench, model.counterfactual, "vci", 0)
    assert {row["metric"] for row in rows} == {"image_mse", "image_mse_factual", "mae_thickness", "mae_intensity", "composition", "reversibility"} and all(np.isfinite(row["value"]) for row in rows)
    assert {row["unit"].split("/")[0] for row in rows} == {"none", "do_thickness", "do_intensity", "do_both", "do_one"}
