"""Fake quantisation: identity at 16 bits, grids, the search, calibration sets, and a float model that stays as it was (specification of the second act, 8.7)."""

import copy

import pytest
import torch

from gencausal import quantize
from gencausal.checks import InputError
from gencausal.diffusion import Denoiser, GaussianTeacher
from gencausal.nn.mlp import OutcomeNetwork, StackedLinear
from gencausal.quantize import Calibration, Grid, calibration_set, quantise, search, size_in_bytes
from gencausal.schedules import karras_sigmas


def network(stack: int = 2) -> Denoiser:
    rng = torch.Generator().manual_seed(0)
    denoiser = Denoiser(OutcomeNetwork(stack, 3, 2, rng, width=16, depth=2, embedding=8, decoder=8))
    for module in denoiser.modules():
        if isinstance(module, StackedLinear):  # slices begin alike: set them apart
            module.weight.data += 0.2 * torch.randn(module.weight.shape, generator=rng)
    return denoiser


def shown(stack: int = 2, n: int = 64) -> Calibration:
    rng = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=rng)  # noqa: E731
    return Calibration(draw(stack, n, 1), draw(stack, n, 1).exp(), draw(stack, n, 3), torch.randint(2, (stack, n), generator=rng))


def answers(denoiser: Denoiser, c: Calibration) -> torch.Tensor:
    with torch.no_grad():
        return denoiser(c.y, c.sigma, denoiser.embed(c.x, c.z))


def test_quantise_equation():
    """Eq. quantise by hand; a value on the grid stays; monotone; clamped at both ends."""
    grid = Grid(torch.tensor([[0.5]]), torch.tensor([[-2.0]]), 0, 7)
    x = torch.tensor([[-5.0, -1.0, -0.3, 0.24, 0.26, 2.5, 9.0]])
    assert torch.equal(grid(x), torch.tensor([[-1.0, -1.0, -0.5, 0.0, 0.5, 2.5, 2.5]]))
    assert torch.equal(grid(grid(x)), grid(x)) and (grid(x).diff() >= 0).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("sign", [None, 1, -1])
def test_search_beats_the_full_range(symmetric, sign):
    """Eq. search: the search minimises the 2.4-norm among its candidates, so it never loses to the plain min-max grid, and wins with an outlier."""
    x = torch.randn(3, 400, generator=torch.Generator().manual_seed(2))
    x = x if sign is None else sign * x.abs()
    x[:, 0] = 12 * (sign or 1)
    found = search(x, 4, symmetric)
    low, high = (x.amin(1, keepdim=True).clamp(max=0), x.amax(1, keepdim=True).clamp(min=0))
    step = torch.maximum(-low, high) / 7 if symmetric else (high - low) / 15
    plain = Grid(step, torch.zeros_like(step) if symmetric else torch.round(low / step), *((-7, 7) if symmetric else (0, 15)))
    loss = lambda grid: (grid(x) - x).abs().pow(2.4).mean(1)  # noqa: E731
    assert (loss(found) < loss(plain)).all()
    assert (found.z == 0).all() if symmetric or sign == 1 else (found.z < 0).all()


def test_groups_do_not_mix():
    """A group alone gets the grid that it gets beside others; scaling a group scales its step; zeros stay zeros."""
    x = torch.randn(3, 200, generator=torch.Generator().manual_seed(0))
    together, alone = search(x, 6), search(x[1:2], 6)
    assert torch.equal(together.s[1:2], alone.s) and torch.equal(together.z[1:2], alone.z)
    assert torch.allclose(search(8 * x, 6).s, 8 * together.s)
    assert torch.equal(search(torch.zeros(1, 5), 8)(torch.zeros(1, 5)), torch.zeros(1, 5))


def test_bits():
    """16 bits change almost nothing, error grows as bits fall, 32 bits nothing at all; weights alone do less harm than both."""
    denoiser, c = network(), shown()
    exact = answers(denoiser, c)
    error = {b: (answers(quantise(denoiser, c, b), c) - exact).square().mean().sqrt().item() for b in (16, 8, 6, 4)}
    assert error[16] < 2e-3 * exact.std().item() and error[16] < error[8] < error[6] < error[4]
    assert torch.allclose(answers(quantise(denoiser, c, 32), c), exact, atol=1e-6)
    assert (answers(quantise(denoiser, c, 4, 32), c) - exact).square().mean().sqrt() < error[4]


def test_weights_take_few_levels():
    """Every output channel has at most 2^b - 1 levels, from_noise included, and encode, embed and the call agree."""
    denoiser, c = network(), shown()
    copied = quantise(denoiser, c, 4)
    layers = [m for m in copied.modules() if isinstance(m, StackedLinear)]
    assert len(layers) == 9
    for layer in layers:
        for column in layer.weight.transpose(1, 2).flatten(0, 1):
            assert len(column.unique()) <= 15
    with torch.no_grad():
        assert torch.allclose(copied.encode(c.x).gather(2, c.z[:, :, None, None].expand(-1, -1, 1, 8)).squeeze(2), copied.embed(c.x, c.z))


def test_float_model_is_untouched():
    denoiser, c = network(), shown()
    before, exact = copy.deepcopy(denoiser.state_dict()), answers(denoiser, c)
    quantise(denoiser, c, 4)
    assert all(torch.equal(before[k], v) for k, v in denoiser.state_dict().items())
    assert torch.equal(answers(denoiser, c), exact) and all(not m._forward_pre_hooks for m in denoiser.modules())


def test_slices_do_not_mix():
    """A slice quantised alone answers as in the stack."""
    denoiser, c = network(), shown()
    alone = copy.deepcopy(denoiser)
    for parameter in alone.parameters():
        parameter.data = parameter.data[1:]
    part = Calibration(*(v[1:] for v in c))
    assert torch.allclose(answers(quantise(alone, part, 6), part), answers(quantise(denoiser, c, 6), c)[1:], atol=1e-5)


@pytest.mark.parametrize("kind", quantize.SETS)
def test_calibration_sets(kind):
    """Levels and laws of every set on the exact Gaussian model y ~ N(x_0, 0.3^2): y_sigma - x_0 has variance 0.3^2 + sigma^2 where the model ran to sigma."""
    teacher, sigmas = GaussianTeacher(lambda x: x[..., :1].expand(*x.shape[:2], 2), 0.09), karras_sigmas(40)
    teacher.embed = lambda x, z: x[..., :1]
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, 500, 2, generator=rng)
    y = x[..., 0] + 0.3 * torch.randn(1, 500, generator=rng)
    c = calibration_set(kind, teacher, x, torch.zeros(1, 500, dtype=torch.long), y, sigmas, [torch.Generator().manual_seed(3)], n=4000)
    sigma, t = c.sigma[0, :, 0], 40 - torch.searchsorted(-sigmas, -c.sigma[0, :, 0]).double()
    assert c.y.shape == c.sigma.shape == (1, 4000, 1) and torch.isfinite(c.y).all()
    if kind != "one_step":
        assert torch.isin(sigma, sigmas[:-1]).all() and t.min() >= 1 and t.max() <= 40
    expected = {"noise": 40, "clean": 1, "single": 16, "uniform": 20.5, "forward": 20.5}.get(kind)
    if expected:
        assert t.mean() == pytest.approx(expected, abs=0.6)
    if kind == "ndtc":
        assert 15 < t.mean() < 20 and (t == 1).double().mean() > 0.1
    if kind == "one_step":
        assert (sigma == 2.5).all() and c.y.std() == pytest.approx(2.5, rel=0.05)
    elif kind not in ("noise", "clean"):
        score = (c.y[0, :, 0] - c.x[0, :, 0]) / (0.09 + sigma**2).sqrt()
        assert score.std() == pytest.approx(1, abs=0.08)


def test_size_in_bytes():
    """By hand for one network: 4-byte float, and an eighth of the weights' bytes at 4 bits plus a step a channel."""
    denoiser = network(stack=3)
    layers = [m for m in denoiser.modules() if isinstance(m, StackedLinear)]
    weights, channels = sum(m.weight[0].numel() for m in layers), sum(m.weight.shape[2] for m in layers)
    rest = channels + 3  # biases and gates
    assert size_in_bytes(denoiser) == 4 * (weights + rest)
    assert size_in_bytes(denoiser, 4) == -(-weights // 2) + 4 * (rest + channels)
    assert size_in_bytes(denoiser, 8) - size_in_bytes(denoiser, 4) == pytest.approx(weights / 2, abs=1)


def test_wrong_input():
    with pytest.raises(InputError, match="bits"):
        search(torch.ones(1, 3), 1)
    with pytest.raises(InputError, match="kind"):
        calibration_set("random", None, torch.zeros(1, 1, 1), None, None, karras_sigmas(3), [])
