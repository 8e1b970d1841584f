"""The counterfactual-image benchmark with methods whose answers are known: the truth, the image left as it is, a shift by a known number of grey levels."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gencausal import image_metrics
from gencausal.experiments import benchmark_images, pictures
from gencausal.image_models import cond_vae, predictor

SMALL = predictor.Config(rounds=30, batch=16, width=16, score_every=30)
LATENT = cond_vae.Config(rounds=30, batch=16, width=16, latent=4, score_every=30)


@pytest.fixture(scope="module")
def bench():
    return benchmark_images.bench(6, 0, n=60)


@pytest.fixture(scope="module")
def made(bench):
    images, z = bench.training
    judge = predictor.train(images, z, SMALL, 0).modules["predictor"].requires_grad_(False)
    vae = cond_vae.train_unconditional(images, LATENT, 0).modules["vae"].requires_grad_(False)
    return benchmark_images.instruments(bench, judge, vae)


def mean(rows, metric, method=None, target=""):
    return np.mean([row["value"] for row in rows if row["metric"] == metric and row["unit"].startswith(target) and method in (None, row["method"])])


def test_do_values_come_from_another_bin_of_the_test_values(bench):
    scenes = bench.scenes
    for name, (node, values, truth, images) in bench.targets.items():
        raw = (values * bench.scale[node] + bench.center[node]).numpy()
        own = scenes.factors[bench.rows, node].numpy()
        assert (benchmark_images.bin_of(scenes, node, raw) != benchmark_images.bin_of(scenes, node, own)).all()
        assert np.abs(raw[:, None] - scenes.factors[scenes.test, node].numpy()).min(1).max() < 1e-9
    low, high = (float(f(scenes.factors[scenes.train, 0])) for f in (torch.min, torch.max))
    edges = np.linspace(low, high, 10)
    assert benchmark_images.bin_of(scenes, 0, (edges[1:] + edges[:-1]) / 2).tolist() == list(range(9)) and benchmark_images.bin_of(scenes, 0, np.array([low - 1, high + 1])).tolist() == [0, 8]


def test_units_keep_the_factors_they_were_made_with_and_the_oracle_its_own_scale(bench):
    """Factors given to a method are those of training; what the oracle scores against is its own reading."""
    np.testing.assert_allclose((bench.z * bench.scale + bench.center).numpy(), bench.scenes.factors[bench.rows].numpy())
    assert np.abs(bench.oracle(bench.images) - bench.reading.numpy()).max() == 0 < (bench.reading - bench.z)[:, 0].abs().mean()
    for name, (node, values, truth, images) in bench.targets.items():
        torch.testing.assert_close(bench.factors_under(name)[:, node], values)
        np.testing.assert_array_equal(bench.oracle(images), truth.numpy())


def test_the_truth_is_perfect_and_leaving_the_image_is_not(bench, made):
    keep = {}
    best = benchmark_images.score(bench, benchmark_images.truth(bench), made, "truth", 0, keep=keep)
    still = benchmark_images.score(bench, benchmark_images.left, made, "left", 0)
    for metric in ("composition", "composition_10", "reversibility"):
        assert mean(best, metric) == mean(still, metric) == 0
    assert mean(best, "mae_thickness") == mean(best, "mae_intensity") == 0
    asked = (bench.targets["intensity"][1] - bench.z[:, 1]).abs().mean() * float(bench.scale[1])
    assert mean(still, "mae_intensity", target="intensity") == pytest.approx(float(asked), abs=2) and mean(still, "mae_thickness", target="thickness") > 0.3
    assert set(keep) == {"thickness", "intensity"} and torch.equal(keep["intensity"], bench.targets["intensity"][3])


def test_a_step_of_ten_grey_levels_adds_up_over_cycles(bench, made):
    """composition after m cycles of a method that adds 10 / 255: 10 m, where nothing saturates."""
    dim = replace(bench, images=0.3 * bench.images)
    found = benchmark_images.composition(dim, lambda images, z, do: images + 10 / 255, (1, 3, 10))
    for metric, value in (("composition", 10), ("composition_3", 30), ("composition_10", 100)):
        np.testing.assert_allclose(found[metric], value, rtol=1e-4)


def test_reversing_sends_the_counterfactual_with_its_own_factors(bench):
    """The way back starts from the drawn image, its true counterfactual factors and the unit's own value."""
    calls = []

    def draw(images, z, do):
        calls.append((images, z, do))
        return images

    drawn = bench.images + 0.5
    far = benchmark_images.reversibility(bench, draw, drawn, "thickness")
    np.testing.assert_allclose(far, 127.5, rtol=1e-5)
    (images, z, do), = calls
    assert images is drawn and torch.equal(z, bench.factors_under("thickness")) and torch.equal(do[0], bench.z[:, 0].float()) and list(do) == [0]


def test_effectiveness_has_the_unit_of_its_factor(bench, made):
    """An image 20 grey levels too dark is 20 grey levels off in intensity, and as thick as it was."""
    _, _, _, images = bench.targets["intensity"]
    darker = images * (1 - 20 / 255 / images.amax((1, 2, 3), keepdim=True))
    found = benchmark_images.effectiveness(bench, darker, "intensity", made.predictor)
    assert np.abs(found["mae_intensity"] - 20).max() < 5 and found["mae_thickness"].mean() < 0.1
    blank = benchmark_images.effectiveness(bench, torch.zeros_like(images), "intensity", made.predictor)
    np.testing.assert_allclose(blank["mae_intensity"], image_metrics.MISSING * float(bench.scale[1]))

    class Exact(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return bench.factors_under("thickness").float() + torch.tensor([0.0, 0.5])

    exact = benchmark_images.effectiveness(bench, images, "thickness", Exact())
    assert exact["mae_thickness_predictor"].max() < 1e-5
    np.testing.assert_allclose(exact["mae_intensity_predictor"], 0.5 * float(bench.scale[1]), rtol=1e-4)


def test_minimality_prefers_the_unit_to_a_stranger(bench, made):
    """Eq. cld: an unchanged image is at distance 0, so it is farther than no image of its own value and nearer than all of the other's; another digit is far."""
    same = benchmark_images.minimality(bench, bench.images, "intensity", made)
    known = np.isfinite(same)
    np.testing.assert_allclose(same[known], np.log(0.8 + 0.2 * np.e), rtol=1e-6)
    noise = benchmark_images.minimality(bench, torch.rand(bench.images.shape, generator=torch.Generator().manual_seed(0)), "intensity", made)
    assert known.sum() >= 3 and np.isfinite(noise).tolist() == known.tolist() and noise[known].mean() > same[known].mean()


def test_frechet_is_zero_for_the_training_images_and_named_by_its_features(bench, made):
    """Eq. frechet on the last hidden layer of our predictor."""
    assert made.features.shape == (len(bench.training[0]), predictor.FEATURES) and made.features.dtype == np.float64
    same, = benchmark_images.realism(bench, {"all": bench.training[0]}, made, "real", 0)
    other, = benchmark_images.realism(bench, {"all": 1 - bench.training[0]}, made, "inverted", 0)
    assert abs(same["value"]) < 1e-6 * made.features.var(0).sum() < other["value"] and same["metric"] == "frechet" and same["n"] == len(bench.training[0])


def test_floors_are_those_of_real_test_images(bench, made):
    rows = benchmark_images.floors(bench, made, 0)
    assert {row["method"] for row in rows} == {"floor"} and {row["metric"] for row in rows} == {"mae_thickness", "mae_intensity", "mae_thickness_predictor", "mae_intensity_predictor", "frechet"}
    assert 0.02 < mean(rows, "mae_thickness") < 0.5 and mean(rows, "mae_intensity") < 2


def test_published_rows_say_what_they_are():
    table = benchmark_images.published()
    assert len(table) == 30 and set(table["model"]) == {"VAE", "HVAE", "GAN"} and (table["status"] == "verified").all()
    cell = table[(table["model"] == "HVAE") & (table["metric"] == "mae_intensity_predictor") & (table["under"] == "intensity")]
    assert cell["value"].item() == 3.52
    best = table[table["metric"].isin(["composition", "composition_10", "frechet"])].groupby("metric")["value"].idxmin()
    assert (table.loc[best, "model"] == "HVAE").all()


def test_every_world_has_a_frechet_distance():
    bench = pictures.bench("pendulum", 6, 0, size=32)
    judge = predictor.make(3, 32, 4, SMALL, 0)
    made = benchmark_images.Instruments(judge, benchmark_images.features(judge, bench.training[0][:50]))
    rows = benchmark_images.realism(bench, {name: images for name, (_, _, _, images) in bench.targets.items()}, made, "truth", 3)
    assert [row["unit"] for row in rows] == list(bench.targets) and all(row["n"] == 6 and row["seed"] == 3 and row["value"] > 0 for row in rows)
