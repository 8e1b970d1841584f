"""Quantised image networks: levels, straight-through gradients, a calibration set with a closed form, and rows beside the float networks."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from gencausal import claims, quantize, quantize_images, seeding
from gencausal.checks import InputError
from gencausal.counterfactual import Sampling
from gencausal.experiments import pictures, quantised_pictures
from gencausal.image_models import guided as models

SIZE = 16


def loosened(module: nn.Module) -> nn.Module:
    """Weights away from zero: an untrained U-Net begins as its skips."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=seeding.generator(1, name)))
    return module.requires_grad_(False)


@pytest.fixture(scope="module")
def pair():
    mask = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]])
    return loosened(models.make_generator(models.GeneratorConfig(prediction="v", width=16, blocks=1), 3, SIZE, 0)), loosened(models.make_guide(models.GuideConfig(width=16), 3, SIZE, mask, 0))


@pytest.fixture(scope="module")
def shown(pair):
    return quantised_pictures.calibration(pair[0], (3, SIZE, SIZE), Sampling(steps=4, start=0.75, spacing="uniform"), seeding.generator(0, "shown"), n=12)


def test_sixteen_bits_change_nothing_and_two_do(pair, shown):
    denoiser, guide = pair
    before = [p.clone() for p in denoiser.parameters()]
    error = {}
    for bits in (16, 8, 2):
        small, read = quantised_pictures.quantised_pair(denoiser, guide, shown, bits)
        error[bits] = float((small(*shown) - denoiser(*shown)).abs().mean()), float((read(*shown) - guide(*shown)).abs().mean())
    assert error[16][0] < 1e-3 < 0.02 < error[2][0] and error[16][1] < 1e-3 < 0.02 < error[2][1]
    assert error[16][0] < error[8][0] < error[2][0]
    assert all(torch.equal(a, b) for a, b in zip(before, denoiser.parameters())), "the float network stays"


def test_weights_and_inputs_take_few_levels(pair, shown):
    """At most 2^b - 1 values of a weight a channel, 2^b of an input a layer (Eq. quantise)."""
    small, _ = quantised_pictures.quantised_pair(*pair, shown, 3)
    layer = small.network.down[0]["blocks"][0].conv1
    assert max(len(row.unique()) for row in layer.weight.flatten(1)) <= 7
    seen = []
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    small(*shown)
    assert len(seen[0].unique()) <= 8 < seen[0].numel()


def test_the_gradient_passes_straight_through(pair, shown):
    """Rounding has no gradient: without the straight-through rule guidance by a quantised guide would be zero. At 16 bits it is the float one."""
    x, target = shown.x[:3], torch.zeros(3, 4)
    float_gradient, _ = pair[1].gradient(x, 0.8, 0.6, target)
    fine, _ = quantised_pictures.quantised_pair(*pair, shown, 16)[1].gradient(x, 0.8, 0.6, target)
    coarse, _ = quantised_pictures.quantised_pair(*pair, shown, 4)[1].gradient(x, 0.8, 0.6, target)
    torch.testing.assert_close(fine, float_gradient, rtol=0.02, atol=1e-4 * float(float_gradient.abs().max()) + 1e-5)
    assert coarse.abs().max() > 0 and torch.nn.functional.cosine_similarity(coarse.flatten(), float_gradient.flatten(), 0) > 0.3


def test_a_linear_layer_by_hand():
    """Weights (1, -0.2) at 2 bits on a symmetric grid of -1, 0, 1; bits 32 leave weights or inputs alone."""
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, -0.2]])
    x = torch.tensor([[0.3, 0.9], [-0.4, 0.1]])
    made = quantize_images.quantise_layers(layer, lambda net: net(x), 2, 32)
    step = float(made.weight.abs().max())
    assert torch.equal(made.weight, torch.tensor([[step, 0.0]])) and 0.6 < step <= 1 and torch.equal(made(x), x[:, :1] * step)
    kept = quantize_images.quantise_layers(layer, lambda net: net(x), 32, 16)
    assert torch.equal(kept.weight, layer.weight)
    torch.testing.assert_close(kept(x), layer(x), atol=1e-3, rtol=0)
    with pytest.raises(InputError, match="never ran"):
        quantize_images.quantise_layers(layer, lambda net: None, 8)


def test_bytes_by_hand():
    net = nn.Sequential(nn.Linear(10, 4), nn.LayerNorm(4))  # 40 weights, 4 steps, 12 others
    assert quantize_images.layer_bytes(net) == 4 * 52 and quantize_images.layer_bytes(net, 8) == 40 + 4 * (12 + 4) and quantize_images.layer_bytes(net, 4) == 20 + 4 * 16


def test_calibration_follows_the_sampler_down():
    """Eq. ndtc with a denoiser that says zero: DDIM then only shrinks the noise, x_i = sigma_i / sigma_0 x_0, so each image tells its level; t is 0.4 T on average over the clipped law."""
    sampling = Sampling(steps=10, start=0.75, spacing="uniform")
    shown = quantised_pictures.calibration(lambda x, alpha, sigma: 0 * x, (1, 4, 4), sampling, seeding.generator(0, "zero"), n=2000)
    start = quantised_pictures.calibration(lambda x, alpha, sigma: x, (1, 4, 4), sampling, seeding.generator(0, "zero"), n=2000)
    grid = sampling.grid()
    scale = shown.x.flatten(1).norm(dim=1) / 4
    expected = (shown.sigma / float(grid.sigma[0]))
    assert (scale / expected - 1).abs().mean() < 0.2 and float((scale / expected).mean()) == pytest.approx(1, abs=0.02)
    assert torch.equal(shown.sigma, start.sigma) and torch.allclose(shown.alpha**2 + shown.sigma**2, torch.ones(2000), atol=1e-5)
    index = (shown.sigma[:, None] - grid.sigma.float()).abs().argmin(1)
    t = 10 - index.double()
    z = torch.randn(200_000, generator=seeding.generator(1, "law"))
    assert float(t.mean()) == pytest.approx(float((4 + 4 * z).floor().clamp(0, 10).mean()), abs=0.25) and set(t.tolist()) == set(range(11))


def test_standard_error_is_that_of_a_mean():
    values = np.random.default_rng(0).standard_normal(400)
    assert quantised_pictures.standard_error(values, 0, 4000) == pytest.approx(values.std() / 20, rel=0.05)


def test_rows_and_rule(pair):
    """Rows of every number of bits; the shift (Eq. acm-shift) is near zero at 16 bits and largest at 2; the rule of the claim reads them."""
    bench = pictures.bench("pendulum", 6, 0, size=SIZE)
    rows = pd.DataFrame(quantised_pictures.quantised(bench, *pair, Sampling(steps=2, start=0.75, spacing="uniform"), [16, 4], 0, n=8, resamples=200))
    assert len(claims.tidy(rows, "smoke")) == len(rows) and set(rows["experiment"]) == {"dc.E6"}
    assert {"guided_float", "guided_16bit", "guided_4bit", "guided_se"} == set(rows["method"])
    whole = rows[rows["metric"] == "acm_all"].pivot(index="unit", columns="method", values="value")
    shift = rows[rows["metric"] == "acm_shift"].pivot(index="unit", columns="method", values="value")
    np.testing.assert_allclose(shift["guided_4bit"], (whole["guided_4bit"] - whole["guided_float"]).abs())
    assert (shift["guided_se"] > 0).all() and shift["guided_16bit"].mean() < 0.05 and set(shift.index) == set(bench.targets)
    size = rows[rows["metric"] == "bytes"].groupby("method")["value"].first()
    assert size["guided_4bit"] < size["guided_16bit"] < size["guided_float"]
    assert {"acm_intervened", "psnr_masked"} <= set(rows["metric"])
    made = pd.concat([rows.assign(method=rows["method"].replace({"guided_16bit": "guided_8bit"}), seed=seed) for seed in (0, 1)])
    assert claims.verdict(claims.find("A2.C20c.images"), claims.tidy(made, "smoke")).parts[0].verdict != "not run"
