"""Sequences of interventions with methods whose answers are known."""

import numpy as np
import pytest
import torch

from gencausal.data import flow, pendulum
from gencausal.experiments import pictures, sequences

SIZE = 32
worlds = pytest.mark.parametrize("world", ["pendulum", "flow"])


@pytest.fixture(scope="module")
def made():
    return {world: pictures.bench(world, 20, 0, size=SIZE) for world in ("pendulum", "flow")}


def mean(rows, metric, target=None):
    return np.mean([row["value"] for row in rows if row["metric"] == metric and (target is None or row["unit"].startswith(target))])


@worlds
def test_null_sequences_ask_for_what_is_there(made, world):
    bench = made[world]
    rows, drawn = sequences.run(bench, lambda images, z, do: images, "left", 0, steps=5, null=True)
    assert len(drawn) == 5 and mean(rows, "acm_all") < 0.03 and mean(rows, "composition") < 0.1
    moved, _ = sequences.run(bench, lambda images, z, do: images, "left", 0, steps=5)
    assert mean(moved, "acm_all", "1/") < mean(moved, "acm_all", "4/") and mean(moved, "acm_all") > 0.3


@worlds
def test_sequences_accumulate_their_interventions(made, world):
    """A method that follows the true SCM from its own reading of each image stays at the floor through five steps."""
    bench, module = made[world], pictures.WORLDS[world]

    def draw(images, z, do):
        factors = module.read(images)
        (node, value), = do.items()
        return module.render(module.counterfactual(factors, {module.NAMES[node]: value.double() * bench.scale[node] + bench.center[node]}), SIZE)

    rows, _ = sequences.run(bench, draw, "oracle", 0, steps=3)
    assert mean(rows, "acm_all") < 0.15


def test_growth_is_the_slope_over_the_steps_and_the_first_and_last_error():
    """Errors 1 + k and 2 + 3 k at steps k = 1, 2, 3 of two blocks."""
    rows = [{"experiment": "dc.E2", "dataset": "d", "unit": f"{k}/{block}", "method": "m", "metric": metric, "seed": 0, "value": float(a + b * k), "n": 10}
            for block, (a, b) in enumerate(((1, 1), (2, 3))) for k in (3, 1, 2) for metric in ("acm_all", "psnr_masked")]
    found = {(row["method"], row["metric"], row["unit"]): row["value"] for row in sequences.growth(rows)}
    expected = {("m", "slope_acm"): (1, 3), ("m_first", "acm_all"): (2, 5), ("m_last", "acm_all"): (4, 11)}
    assert found == {(*key, f"all/{block}"): pytest.approx(value) for key, values in expected.items() for block, value in enumerate(values)}


def test_true_images_of_a_sequence_show_the_factors_that_were_asked_for(made):
    bench = made["pendulum"]
    images, (asked, truths) = sequences.truths(bench, 3, 4), sequences.interventions(bench, 3)
    assert images.shape == (3, 4, *bench.images.shape[1:])
    for step, (do, truth) in enumerate(zip(asked, truths)):
        read = torch.as_tensor(pictures.first(bench, 4).oracle(images[step]))
        torch.testing.assert_close(read, bench.standardised(truth[:4]), atol=0.05, rtol=0)
        for node, value in do.items():
            torch.testing.assert_close(bench.standardised(truth)[:, node].float(), value)
