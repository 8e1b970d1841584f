"""What `data/checkpoints` publishes: every file is listed with its checksum, loads, and is a good model of images that it has not seen."""

import re

import numpy as np
import pytest
import torch

from gencausal import amortised, graph, image_metrics
from gencausal.data import scm_cells
from gencausal.estimators import GuidedCounterfactuals
from gencausal.estimators.guided import PUBLISHED as WORLDS
from gencausal.experiments import pictures
from gencausal.image_models import store

FILES = sorted(store.folder().glob("*.safetensors"))


def test_the_cards_are_those_of_the_files():
    text = (store.folder() / "README.md").read_text()
    assert text == store.readme() and set(re.findall(r"^## (\S+)$", text, re.M)) == {card["file"] for card in store.cards()}
    assert {file.name for file in FILES} == {card["file"] for card in store.cards()} and {card["file"] for card in store.cards() if card["kind"] == "estimator"} == {f"{world}.safetensors" for world in WORLDS}
    assert max(file.stat().st_size for file in FILES) <= 10 * 2**20


def test_the_amortised_networks_and_their_card():
    """Every file loads, the card is theirs, its errors on the validation models are those of its log, and on models from streams that no training saw they are below a third of those without a mechanism."""
    files = sorted(amortised.published().parent.glob("*.safetensors"))
    assert amortised.published() in files and sum(file.stat().st_size for file in files) <= 25 * 2**20
    assert amortised.published().with_name("README.md").read_text() == amortised.readme(amortised.published().parent)
    for file in files:
        model, meta = amortised.load(file)
        assert set(meta["measured"]) and meta["recipe"]["code"] == amortised.identity(amortised.PRESETS["cpu"], 0)["code"], "the weights are those of this code"
        logged = next(entry for entry in meta["scores"] if entry["round"] == meta["best_round"][0])
        for family, cell in amortised.validation_cells(amortised.PRESETS["cpu"]).items():
            for head, errors in amortised.noise_errors(model, cell).items():
                assert errors.mean().item() == pytest.approx(logged[f"{head}_{family}"][0], rel=0.01), "half precision moves the errors by less than a hundredth"
            cell = scm_cells.cell(family, 10, 100, 6, interventions=1, rows=1)
            errors = amortised.noise_errors(model, cell)
            floor = cell.query.sub(cell.query_noise).square().mean(2).sqrt().mean()
            assert errors["decoder"].mean() < floor / 3 and errors["encoder"].mean() < floor / 3


@pytest.mark.parametrize("world", WORLDS)
def test_a_published_estimator_draws_counterfactuals_of_test_images(world):
    """Held-out images: factors are read within a fifth of an sd, and an intervention on a cause moves it most of the way while the rest is kept, by the pixel oracle."""
    model, bench = GuidedCounterfactuals.from_checkpoint(world, device="cpu").set_params(steps=25), pictures.bench(world, 6, 5)
    z = bench.standardised(torch.as_tensor(model.factors(bench.images.numpy()).to_numpy()))
    assert (z - bench.z).abs().mean() < 0.2
    target = list(bench.targets)[0]
    node, values, truth, _ = bench.targets[target]
    raw = (values * bench.scale[node] + bench.center[node]).numpy().clip(model.low_[node], model.high_[node])
    found = bench.oracle(torch.as_tensor(model.counterfactual(bench.images.numpy(), {target: raw})))
    intervened = np.zeros(truth.shape, dtype=bool)
    intervened[:, node] = True
    error = image_metrics.acm(found, truth.numpy(), intervened, graph.descendants(bench.mask))
    left = image_metrics.acm(bench.z.numpy(), truth.numpy(), intervened, graph.descendants(bench.mask))
    assert np.nanmean(error["intervened"]) < 0.3 * np.nanmean(left["intervened"]) and np.nanmean(error["nondescendant"]) < 0.3
