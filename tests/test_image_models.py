"""Training of generator and guide, at a size that shows what must hold: they learn, start again where they stopped, and leave each other alone."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from gencausal import checks, graph, image_metrics, seeding
from gencausal.counterfactual import Sampling
from gencausal.data import pendulum
from gencausal.image_models import causaldiffae, cond_vae, predictor, store
from gencausal.image_models import guided as training_images
from gencausal.image_models.guided import GeneratorConfig, GuideConfig

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
    untrained = training_images.make_generator(SMALL, images.shape[1], images.shape[2], 0)
    held = training_images.held_out(len(images), 0)[1]
    assert trained.rounds == 60 and trained.scores[-1]["held_out"][0] < 0.7 * float(training_images.held_out_loss(untrained, images[held], 0))
    again = training_images.train_generator(images, SMALL, 0, tmp_path)
    assert again.seconds == trained.seconds and all(torch.equal(a, b) for a, b in zip(again.modules["generator"].parameters(), trained.modules["generator"].parameters()))
    other = training_images.train_generator(images, SMALL, 1)
    assert any(not torch.equal(a, b) for a, b in zip(other.modules["generator"].parameters(), trained.modules["generator"].parameters()))


def test_a_killed_training_of_images_continues_to_the_same_bits(data, tmp_path, monkeypatch):
    """Weights lie channels last, so moments must come back as their weights lie."""
    images, _ = data
    short = replace(SMALL, rounds=12, score_every=6)
    straight = training_images.train_generator(images, short, 0)
    fit, draw, calls = training_images.fit, training_images.Stream.draw, [0]

    def killing(stream):
        calls[0] += 1
        if calls[0] == 8:
            raise KeyboardInterrupt
        return draw(stream)

    monkeypatch.setattr(training_images, "fit", lambda *a, **k: fit(*a, **(k | {"checkpoint_seconds": 0})))
    monkeypatch.setattr(training_images.Stream, "draw", killing)
    with pytest.raises(KeyboardInterrupt):
        training_images.train_generator(images, short, 0, tmp_path)
    resumed = training_images.train_generator(images, short, 0, tmp_path)
    assert calls[0] == 8 + 5
    assert all(torch.equal(a, b) for a, b in zip(straight.modules["generator"].parameters(), resumed.modules["generator"].parameters()))


def test_the_guide_reads_factors_better_with_less_noise(data):
    images, z = data
    trained = training_images.train_guide(images, z, MASK, GuideConfig(rounds=300, batch=64, width=16, score_every=300), 0)
    clean, noisy = training_images.factor_errors(trained.modules["guide"], images, z, 0, [0, 900]).mean(1)
    assert clean < 0.5 < 0.8 < noisy < 1.5


def test_rows_without_labels_teach_nothing(data):
    """With half the labels, scrambling the factors of the other half changes no weight but through what names the checkpoint."""
    images, z = data
    config = GuideConfig(rounds=20, batch=32, width=16, score_every=20, label_share=0.5)
    labelled = training_images.prepare(images, z, 0, 0.5, "cpu")[2]
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


TINY_AE = causaldiffae.Config(generator=SMALL, latent=4, width=16)
TINY_VAE = cond_vae.Config(rounds=200, batch=32, width=16, latent=8, score_every=100)
CHAIN = np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0]])


def loosened(module):
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=seeding.generator(1, name)))
    return module


def test_causal_code_propagates_through_a_chain_and_the_released_one_does_not():
    """do(first) moves the last; as released a node reads its parents' noise, and what is set changes nothing else (spec, section 6)."""
    u = torch.randn(5, 3, 4, generator=seeding.generator(0, "u"))
    do = {0: torch.full((5,), 1.5)}
    moved = {}
    for released in (False, True):
        config = causaldiffae.Config(generator=SMALL, latent=4, width=16, as_released=released)
        code = loosened(causaldiffae.make(3, 16, CHAIN, config, 0)["code"])
        plain, changed = code.propagate(u), code.propagate(u, do)
        assert (changed[:, 0] == 1.5).all()
        moved[released] = (changed - plain).abs().amax((0, 2)) > 1e-4
    assert moved[False].tolist() == [True, True, True] and moved[True].tolist() == [True, False, False]


def test_causaldiffae_trains_continues_and_draws(data, tmp_path):
    """Eq. causaldiffae-loss: every term is recorded and falls into one training that repeats."""
    images, z = data
    trained = causaldiffae.train(images, z, MASK, TINY_AE, 0, tmp_path)
    both = trained.modules["both"]
    assert trained.history[-1]["both.labels"][0] > 0 and trained.history[0].keys() >= {"both.denoising", "both.noise", "both.labels"}
    again = causaldiffae.train(images, z, MASK, TINY_AE, 0, tmp_path)
    assert again.seconds == trained.seconds
    found = causaldiffae.counterfactual(both, images[:3], None, {0: torch.tensor([0.0, 1.0, -1.0])}, Sampling(steps=4))
    assert found.shape == images[:3].shape and 0 <= found.min() and found.max() <= 1
    noisy = [causaldiffae.counterfactual(both, images[:3], None, {0: 0.0}, Sampling(steps=4, abduction="noise"), seeding.generator(s, "n")) for s in (0, 0, 1)]
    assert torch.equal(noisy[0], noisy[1]) and not torch.equal(noisy[0], noisy[2])


def test_cond_vae_trains_and_follows_its_factors(data):
    images, z = data
    trained = cond_vae.train(images, z, MASK, TINY_VAE, 0)
    both = trained.modules["both"]
    assert trained.scores[-1]["held_out"][0] < trained.scores[0]["held_out"][0]
    same, moved = (cond_vae.counterfactual(both, images[:4], z[:4], do) for do in ({}, {0: 2.0}))
    assert same.shape == images[:4].shape and (moved - same).abs().mean() > 1e-3


def test_the_unconditional_vae_learns_and_tells_images_apart(data):
    """Eq. cond-vae without factors: its latent puts an image nearer to a slight change of itself than to another image."""
    images, _ = data
    trained = cond_vae.train_unconditional(images, TINY_VAE, 0)
    vae = trained.modules["vae"]
    assert trained.scores[-1]["held_out"][0] < trained.scores[0]["held_out"][0] and not hasattr(vae, "from_factors") and set(trained.history[-1]) >= {"vae.pixels", "vae.latent"}
    mean, sd = cond_vae.posteriors(vae, images[:6], batch=4)
    assert mean.shape == sd.shape == (6, 8) and (sd > 0).all()
    torch.testing.assert_close(mean[5:], cond_vae.posteriors(vae, images[5:6])[0], atol=1e-5, rtol=1e-4)
    near, far = (image_metrics.gaussian_kl(*cond_vae.posteriors(vae, other), mean, sd).diagonal().mean() for other in (0.98 * images[:6], images[:6].roll(1, 0)))
    assert 0 < near < far


@pytest.mark.parametrize("make", [lambda: causaldiffae.make(3, 16, MASK, TINY_AE, 0), lambda: cond_vae.make(3, 16, MASK, TINY_VAE, 0)])
def test_rivals_start_from_their_seed(make):
    assert all(torch.equal(a, b) for a, b in zip(make().parameters(), make().parameters()))


def test_the_predictor_learns_and_its_features_are_its_last_layer(data):
    images, z = data
    trained = predictor.train(images, z, predictor.Config(rounds=300, batch=64, width=16, score_every=300), 0)
    made = trained.modules["predictor"]
    with torch.no_grad():
        assert (made(images) - z).square().mean() < 0.5
        features = made.features(images[:5])
        torch.testing.assert_close(made.encoder.out(features), made(images[:5]))
    assert features.shape == (5, predictor.FEATURES) == (5, 256)


def test_a_published_training_is_not_done_again(data, tmp_path, monkeypatch):
    """Weights and log come from the file whose hash is that of data, configuration and seed; anything else trains."""
    images, z = data
    monkeypatch.setattr(store, "folder", lambda: tmp_path)
    first = predictor.train(images, z, predictor.Config(rounds=20, batch=32, width=16, score_every=10), 0)
    config = predictor.Config(rounds=20, batch=32, width=16, score_every=10)
    identity = training_images.identity_of("predictor", images, z, 0, **asdict(config))
    path = store.write("predictor", identity, first, "a test")
    assert path.parent == tmp_path and path.stat().st_size < 4e6
    again = predictor.train(images, z, config, 0)
    assert again.history == [] and again.scores == first.scores and all(torch.equal(a, b) for a, b in zip(first.modules["predictor"].parameters(), again.modules["predictor"].parameters()))
    assert predictor.train(images, z, config, 1).history and predictor.train(images, z, config, 0, published=False).history
    card, = store.cards()
    assert card["about"] == "a test" and card["recipe"]["rounds"] == 20 and len(card["sha256"]) == 64 and path.name in store.readme() and "a test" in store.readme()


def test_finished_trainings_are_published_in_half_precision(data, tmp_path, monkeypatch):
    """A training with a folder leaves its weights there; `publish` rounds them, lists them, and the next training of that identity takes them."""
    images, z = data
    monkeypatch.setattr(store, "folder", lambda: tmp_path / "published")
    config = predictor.Config(rounds=5, batch=32, width=16, score_every=5)
    first = predictor.train(images, z, config, 0, tmp_path / "local")
    file, = (tmp_path / "local" / "weights").glob("predictor-*.safetensors")
    store.publish([file])
    again = predictor.train(images, z, config, 0, tmp_path / "elsewhere")
    assert again.scores == first.scores and not (tmp_path / "elsewhere").exists()
    for a, b in zip(first.modules["predictor"].parameters(), again.modules["predictor"].parameters()):
        assert torch.equal(a.half().float(), b)
    assert (tmp_path / "published" / file.name).stat().st_size < 0.6 * file.stat().st_size and file.name in (tmp_path / "published" / "README.md").read_text(encoding="utf-8")


def test_named_data_are_known_by_their_name(data):
    """Images drawn on another machine differ in their last bits; their name finds the weights all the same."""
    images, z = data
    named = [training_images.identity_of("generator", x, z, 0, "pendulum 16", rounds=1) for x in (images, images + 1e-7)]
    hashed = [training_images.identity_of("generator", x, z, 0, rounds=1) for x in (images, images + 1e-7)]
    assert named[0] == named[1] and hashed[0] != hashed[1] and named[0] != training_images.identity_of("generator", images, z, 0, "flow 16", rounds=1)
