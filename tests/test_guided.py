"""`GuidedCounterfactuals` as a reader meets it: arrays, folders and tables in, images out, one clear sentence for what is wrong."""

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from gencausal import checks
from gencausal.data import pendulum
from gencausal.estimators import GuidedCounterfactuals

rng = np.random.default_rng(0)
NOISE = torch.zeros(80, 4, dtype=torch.float64)
NOISE[:, 0], NOISE[:, 1] = torch.as_tensor(rng.uniform(-40, 43, 80)), torch.as_tensor(rng.uniform(60, 147, 80))
FACTORS = pendulum.predict(NOISE)
IMAGES = pendulum.render(FACTORS, 16).permute(0, 2, 3, 1).numpy()
TABLE = pd.DataFrame(FACTORS.numpy(), columns=pendulum.NAMES)
QUICK = {"graph": pendulum.GRAPH, "rounds": 20, "guide_rounds": 20, "width": 16, "steps": 3, "device": "cpu"}


@pytest.fixture(scope="module")
def model():
    return GuidedCounterfactuals(**QUICK).fit(IMAGES, TABLE)


def test_factors_and_counterfactuals_have_the_readers_shape_and_units(model):
    found = model.factors(IMAGES[:5])
    assert list(found.columns) == list(pendulum.NAMES) and found.shape == (5, 4)
    assert (found["light"].mean() - TABLE["light"].mean()) < 60 < found["light"].mean()
    images = model.counterfactual(IMAGES[:5], {"angle": 10.0})
    assert images.shape == (5, 16, 16, 3) and images.dtype == np.float32 and 0 <= images.min() and images.max() <= 1


def test_one_value_an_image_and_known_factors(model):
    together = model.counterfactual(IMAGES[:3], {"angle": [0.0, 10.0, 20.0]}, factors=TABLE[:3])
    alone = model.counterfactual(IMAGES[1:2], {"angle": 10.0}, factors=TABLE[1:2])
    np.testing.assert_allclose(together[1:2], alone, atol=1e-4)
    assert np.abs(model.counterfactual(IMAGES[:3], {"angle": 10.0}) - model.counterfactual(IMAGES[:3], {"angle": 10.0}, factors=TABLE[:3])).max() > 1e-4


def test_counterfactual_factors_keep_non_descendants(model):
    found = model.counterfactual_factors(TABLE[:6], {"angle": 5.0})
    np.testing.assert_allclose(found["angle"], 5.0, atol=1e-4)
    np.testing.assert_allclose(found["light"], TABLE["light"][:6], rtol=1e-5)
    np.testing.assert_allclose(model.counterfactual_factors(TABLE[:6], {"length": 5.0})[["angle", "light", "position"]], TABLE[["angle", "light", "position"]][:6], rtol=1e-4)


def test_save_and_read_give_the_same_images(model, tmp_path):
    file = model.save(tmp_path / "pendulum.safetensors")
    again = GuidedCounterfactuals.from_checkpoint(file, device="cpu")
    assert np.array_equal(again.counterfactual(IMAGES[:3], {"light": 100.0}), model.counterfactual(IMAGES[:3], {"light": 100.0}))
    pd.testing.assert_frame_equal(again.factors(IMAGES[:3]), model.factors(IMAGES[:3]))
    assert again.names_ == model.names_ and set(again.graph.edges) == set(pendulum.GRAPH.edges) and again.get_params()["width"] == 16


def test_a_folder_of_files_is_the_array(model, tmp_path):
    bytes_ = np.round(IMAGES * 255).astype(np.uint8)
    for i, image in enumerate(bytes_):
        Image.fromarray(image).save(tmp_path / f"image_{i:03d}.png")
    order = rng.permutation(80)
    table = TABLE.iloc[order].set_axis([f"image_{i:03d}" for i in order])
    from_folder = GuidedCounterfactuals(**QUICK).fit(tmp_path, table)
    from_array = GuidedCounterfactuals(**QUICK).fit(bytes_[order], TABLE.iloc[order])
    assert np.array_equal(from_folder.counterfactual(bytes_[:2], {"angle": 1.0}), from_array.counterfactual(bytes_[:2], {"angle": 1.0}))
    with pytest.raises(checks.InputError, match="nowhere"):
        GuidedCounterfactuals(**QUICK).fit(tmp_path, table.set_axis([*table.index[1:], "nowhere"]))


def test_gray_images_of_an_odd_size_are_padded_and_cropped():
    gray = IMAGES.mean(3)[:60, :13, :11]
    fitted = GuidedCounterfactuals(**QUICK | {"rounds": 3, "guide_rounds": 3}).fit(gray, TABLE[:60])
    assert fitted.shape_ == (1, 13, 11, 16) and fitted.counterfactual(gray[:2], {"angle": 0.0}).shape == (2, 13, 11)


@pytest.mark.parametrize("images, table, options, word", [
    (IMAGES, TABLE, {"graph": None}, "graph is missing"), (IMAGES, TABLE, {"graph": nx.Graph([("angle", "light")])}, "DiGraph"),
    (IMAGES, TABLE, {"graph": nx.DiGraph([("angle", "light"), ("light", "angle")])}, "cycle"), (IMAGES, TABLE.drop(columns="light"), {}, "'light'"),
    (IMAGES[:60], TABLE, {}, "60 images but factors has 80"), (IMAGES[:20], TABLE[:20], {}, "at least 50"), (IMAGES * 255, TABLE, {}, r"\[0, 1\]"), (IMAGES - 0.5, TABLE, {}, r"\[0, 1\]"),
    (IMAGES[..., :2], TABLE, {}, "channels"), (IMAGES[0, 0], TABLE, {}, "shape"), (IMAGES, TABLE.assign(light=1.0), {}, "constant column, 'light'"), (IMAGES, TABLE.assign(light=np.nan), {}, "row 0"),
    (IMAGES, TABLE, {"sees": "blurred"}, "sees"), ("no/such/folder", TABLE, {}, "no folder"), (np.full(IMAGES.shape, "dark"), TABLE, {}, "numbers")])
def test_what_cannot_be_fitted_is_said_in_one_sentence(images, table, options, word):
    with pytest.raises(checks.InputError, match=word):
        GuidedCounterfactuals(**QUICK | options).fit(images, table)


@pytest.mark.parametrize("ask, word", [
    (lambda m: m.counterfactual(IMAGES[:2], {"height": 1.0}), "'height'"), (lambda m: m.counterfactual(IMAGES[:2], {"angle": 400.0}), "outside the trained range"),
    (lambda m: m.counterfactual(IMAGES[:2], {}), "at least one factor"), (lambda m: m.counterfactual(IMAGES[:2, :8, :8], {"angle": 0.0}), "resize"),
    (lambda m: m.counterfactual(IMAGES[:2], {"angle": [0.0, 1.0, 2.0]}), "3 entries"), (lambda m: m.counterfactual(IMAGES[:2], {"angle": 0.0}, factors=TABLE[:3]), "3 rows"),
    (lambda m: GuidedCounterfactuals(**QUICK).factors(IMAGES), "not fitted"), (lambda m: GuidedCounterfactuals.from_checkpoint("unheard_of"), "unheard_of")])
def test_what_cannot_be_asked_is_said_in_one_sentence(model, ask, word):
    with pytest.raises(checks.InputError, match=word):
        ask(model)
