"""Training of generator and guide, at a size that shows what must hold: they learn, start again where they stopped, and leave each other alone."""

import numpy as np
import pytest
import torch

from gencausal import checks, graph
from gencausal.data import pendulum
from gencausal.estimators import images as training_images
from gencausal.estimators.images import GeneratorConfig, GuideConfig

MASK = graph.adjacency(pendulum.GRAPH, pendulum.NAMES)
SMALL = GeneratorConfig(rounds=60, batch=16, width=16, blocks=1, score_every=30)
GUIDE = GuideConfig(rounds=60, batch=32, width=16, score_every=30)


@pytest.fixture(scope="module")
def data():
    noise = torch.zeros(200, 4, dtype=torch.float64)
    rng = np.random.default_rng(0)
    noise[:, 0], noise[:, 1] = torch.as_tensor(rng.uniform(-40, 43, 200)), torch.as_tensor(rng.uniform(60, 147, 200))
    factors = pendulum.predict(noise)
    return pendulum.render(factors, 16), ((factors - factors.mean(0)) / factors.std(0)).float()


def test_the_generator_learns_and_remembers(data, tmp_path):
    images, _ = data
    trained = training_images.train_generator(images, SMALL, 0, tmp_path)
    first, last = trained.history[0]["generator.denoising"][0], trained.history[-1]["generator.denoising"][0]
    assert trained.rounds == 60 and trained.scores[-1]["held_out"][0] < 1.05 and last < first * 1.5
    again = training_images.train_generator(images, SMALL, 0, tmp_path)
    assert again.seconds == trained.seconds and all(torch.equal(a, b) for a, b in zip(again.modules["generator"].parameters(), trained.modules["generator"].parameters()))
    other = training_images.train_generator(images, SMALL, 1)
    assert any(not torch.equal(a, b) for a, b in zip(other.modules["generator"].parameters(), trained.modules["generator"].parameters()))


def test_the_guide_reads_factors_better_with_less_noise(data):
    images, z = data
    trained = training_images.train_guide(images, z, MASK, GuideConfig(rounds=300, batch=64, width=16, score_every=300), 0)
    clean, noisy = training_images.factor_errors(trained.modules["guide"], images, z, 0, [0, 900]).mean(1)
    assert clean < 0.5 < 0.8 < noisy < 1.5


def test_rows_without_labels_teach_nothing(data):
    """With half the labels, scrambling the factors of the other half changes no weight but through what names the checkpoint."""
    images, z = data
    config = GuideConfig(rounds=20, batch=32, width=16, score_every=20, label_share=0.5)
    labelled = training_images._prepare(images, z, 0, 0.5, "cpu")[2]
    scrambled = torch.where(labelled[:, None] > 0, z, z.flip(0) + 3)
    first, second = (training_images.train_guide(images, v, MASK, config, 0).history[-1] for v in (z, scrambled))
    assert labelled.mean() == pytest.approx(0.5) and first["guide.factors"] == second["guide.factors"]
    assert training_images.train_guide(images, z.flip(0), MASK, config, 0).history[-1]["guide.factors"] != first["guide.factors"]


def test_a_projector_of_denoised_images_needs_a_generator(data):
    images, z = data
    with pytest.raises(checks.InputError, match="denoiser"):
        training_images.train_guide(images, z, MASK, GuideConfig(sees="denoised"), 0)
    denoiser = training_images.train_generator(images, SMALL, 0).modules["generator"]
    before = [p.clone() for p in denoiser.parameters()]
    trained = training_images.train_guide(images, z, MASK, GuideConfig(rounds=5, batch=16, width=16, sees="denoised", score_every=5), 0, denoiser=denoiser)
    assert trained.rounds == 5 and all(torch.equal(a, b) for a, b in zip(before, denoiser.parameters()))


def test_joint_training_moves_both(data):
    images, z = data
    both = training_images.train_jointly(images, z, MASK, SMALL, GUIDE, 0).modules["both"]
    fresh = (training_images.make_generator(SMALL, 3, 16, 0), training_images.make_guide(GUIDE, 3, 16, MASK, 0))
    for part, start in zip((both["generator"], both["guide"]), fresh):
        assert all(not torch.equal(a, b) for a, b in zip(part.parameters(), start.parameters()))


def test_joint_and_separate_training_share_no_gradient_unless_the_projector_sees_the_generator(data):
    """DC5: with (x_t, t) as input the guide's loss has no gradient in the generator."""
    images, z = data
    for sees, reached in (("noisy", False), ("denoised", True)):
        denoiser = training_images.make_generator(SMALL, 3, 16, 0)
        with torch.no_grad():
            denoiser.network.out.weight.normal_()
        guide = training_images.make_guide(GuideConfig(width=16, sees=sees), 3, 16, MASK, 0)
        loss = (guide(2 * images[:4] - 1, 0.8, 0.6, denoiser) - z[:4]).square().mean()
        gradients = torch.autograd.grad(loss, list(denoiser.parameters()), allow_unused=True)
        assert any(g is not None and g.abs().max() > 0 for g in gradients) == reached


def test_counts_must_match(data):
    images, z = data
    with pytest.raises(checks.InputError, match="200 rows"):
        training_images.train_guide(images, z[:10], MASK, GUIDE, 0)
