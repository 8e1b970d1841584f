"""What holds for every generator of images with known factors, and what is exact for one (spec diffusion_counterfactuals, 3.2, 3.3 and 8)."""

import networkx as nx
import numpy as np
import pytest
import torch

from gencausal import checks
from gencausal.data import flow, pendulum

WORLDS = [(pendulum, "public"), (pendulum, "noisy"), (pendulum, "chain"), (flow, "public"), (flow, "noisy")]
each = pytest.mark.parametrize("world, variant", WORLDS, ids=[f"{w.__name__.split('.')[-1]}-{v}" for w, v in WORLDS])


@pytest.fixture(scope="module")
def scenes():
    made = {}

    def get(world, variant):
        if (world, variant) not in made:
            made[world, variant] = world.load(variant, size=32)
        return made[world, variant]

    return get


@each
def test_abduction_returns_the_noise_and_no_intervention_the_factors(scenes, world, variant):
    found = scenes(world, variant)
    torch.testing.assert_close(world.abduct(found.factors, variant), found.noise, atol=1e-9, rtol=0)
    torch.testing.assert_close(world.counterfactual(found.factors, {}, variant), found.factors, atol=1e-9, rtol=0)
    for k, name in enumerate(world.NAMES):
        torch.testing.assert_close(world.counterfactual(found.factors, {name: found.factors[:, k]}, variant), found.factors, atol=1e-9, rtol=0)


@each
def test_an_intervention_moves_descendants_alone(scenes, world, variant):
    found = scenes(world, variant)
    for k, name in enumerate(world.NAMES):
        middle = sum(world.RANGES[name]) / 2
        moved = (world.counterfactual(found.factors, {name: middle}, variant) - found.factors).abs().amax(0) > 1e-6
        expected = {name} | nx.descendants(found.graph, name)
        assert {world.NAMES[i] for i in torch.nonzero(moved)[:, 0]} == expected


@each
def test_split_is_disjoint_and_whole(scenes, world, variant):
    found = scenes(world, variant)
    assert sorted([*found.train, *found.test]) == list(range(len(found.images)))
    assert not set(found.train_outside) & set(found.block) and len(found.block) > 50
    assert found.images.shape[1:] == (3, 32, 32) and found.images.dtype == torch.float32 and 0 <= float(found.images.min()) and float(found.images.max()) == 1


@each
def test_the_oracle_reads_what_was_drawn(world, variant):
    """Mean error at 64 pixels below 0.02 sd of each factor, the floor that every score of images stands on."""
    found = world.load(variant, size=64)
    rows = torch.as_tensor(found.test[::7])
    if world is pendulum:
        rows = rows[pendulum.on_canvas(found.factors[rows])]
    error = (world.read(found.images[rows]) - found.factors[rows]).abs() / found.factors.std(0)
    assert error.mean(0).max() < 0.01 and error.max() < 0.05


@pytest.mark.parametrize("world", [pendulum, flow])
def test_the_oracle_reads_factors_that_no_training_image_shows(world):
    """Children set apart from their parents are drawn and read as set: the drawing knows no mechanism."""
    rng = np.random.default_rng(0)
    low, high = np.array(list(world.RANGES.values())).T
    factors = torch.as_tensor(low + (high - low) * rng.uniform(0.15, 0.85, (60, 4)))
    if world is pendulum:
        factors = factors[pendulum.on_canvas(factors)]
    error = (world.read(world.render(factors, 64)) - factors).abs() / torch.as_tensor(high - low)
    assert len(factors) > 30 and error.max() < 0.02


@pytest.mark.parametrize("world", [pendulum, flow])
def test_a_blank_image_has_no_factors(world):
    found = world.read(torch.ones(2, 3, 64, 64))
    assert found.isnan().any(1).all()


@pytest.mark.parametrize("world", [pendulum, flow])
def test_a_little_grain_moves_the_reading_little(world):
    """Sampled images carry noise; 2 % of it moves no factor by a twentieth of its range."""
    found = world.load("noisy", size=64)
    rows = torch.arange(0, len(found.images), 331)
    if world is pendulum:
        rows = rows[pendulum.on_canvas(found.factors[rows])]
    grain = 0.02 * torch.randn(found.images[rows].shape, generator=torch.Generator().manual_seed(0))
    error = (world.read((found.images[rows] + grain).clamp(0, 1)) - found.factors[rows]).abs()
    assert (error.amax(0) < 0.05 * torch.tensor([high - low for low, high in world.RANGES.values()])).all()


def test_pendulum_by_its_table():
    """Eq. pendulum-position, Eq. pendulum-length: values of the public generator at six points (spec, section 8)."""
    known = {(0, 60): (5.4591, 6.9022), (-40, 60): (2.0080, 3), (43, 147): (19.6060, 3), (20, 120): (13.5741, 3), (-20, 80): (6.4259, 3), (0, 101): (10.0982, 3)}
    noise = torch.zeros(len(known), 4, dtype=torch.float64)
    noise[:, :2] = torch.tensor(list(known), dtype=torch.float64)
    factors = pendulum.predict(noise)
    np.testing.assert_allclose(factors[:, [3, 2]], list(known.values()), atol=6e-5)


def test_pendulum_has_the_public_counts_and_ranges(scenes):
    found = scenes(pendulum, "public")
    assert (len(found.images), len(found.train), len(found.test)) == (7308, 5482, 1826)
    length, position = found.factors[:, 2], found.factors[:, 3]
    assert [round(float(v), 3) for v in (length.min(), length.max(), length.mean(), position.min(), position.max(), position.mean())] == [3, 12.577, 4.971, 2.008, 19.606, 10.543]
    assert float((length == 3).double().mean()) == pytest.approx(0.396, abs=5e-4)
    assert float((~pendulum.on_canvas(found.factors)).double().mean()) == pytest.approx(0.016, abs=1e-3)


def test_pendulum_mirrors():
    """(theta, phi) -> (-theta, pi - phi) maps m to 20 - m and keeps l."""
    noise = torch.tensor([[20.0, 120, 0, 0], [-20, 80, 0, 0], [31, 77, 0, 0], [-31, 123, 0, 0]], dtype=torch.float64)
    factors = pendulum.predict(noise)
    torch.testing.assert_close(factors[::2, 3], 20 - factors[1::2, 3])
    torch.testing.assert_close(factors[::2, 2], factors[1::2, 2])


def test_pendulum_children_have_the_stated_noise(scenes):
    noise = scenes(pendulum, "noisy").noise[:, 2:]
    assert torch.allclose(noise.std(0), torch.tensor([0.3, 0.3], dtype=torch.float64), atol=0.01) and abs(float(torch.corrcoef(noise.T)[0, 1])) < 0.05


def test_chain_reaches_the_shadow_through_the_lamp(scenes):
    """do(angle) moves the lamp and through it the shadow: the shadow differs from the one with the lamp held."""
    found = scenes(pendulum, "chain").factors[::97]
    free = pendulum.counterfactual(found, {"angle": 30.0}, "chain")
    held = pendulum.counterfactual(found, {"angle": 30.0, "light": found[:, 1]}, "chain")
    assert ((free - held)[:, 3].abs() > 0.1).double().mean() > 0.8 and (held[:, 1] == found[:, 1]).all()


def test_flow_has_the_public_counts_and_ranges(scenes):
    """Eq. flow-height, Eq. flow-length: ranges of the noise-free children are those of the public images."""
    found = scenes(flow, "public")
    assert (len(found.images), len(found.train), len(found.test)) == (8100, 6480, 1620)
    height, length = found.factors[:, 1], found.factors[:, 3]
    assert [round(float(v), 3) for v in (height.min(), height.max(), length.min(), length.max())] == [1.005, 5.356, 1.719, 6.613]
    np.testing.assert_allclose(10 * flow.abduct(found.factors, "public")[:, 1], np.round(10 * found.noise[:, 1].numpy()), atol=1e-9)


def test_an_unknown_variant_is_refused():
    for world in (pendulum, flow):
        with pytest.raises(checks.InputError, match="variant"):
            world.load("windy")
