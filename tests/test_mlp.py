"""Stacked networks: slices never mix, the condition enters, batches and stacks do not matter."""

import pytest
import torch

from gencausal.nn.mlp import FeatureGates, FourierEmbedding, OutcomeNetwork, StackedLinear

S, B, M, D, K = 3, 5, 4, 7, 3


@pytest.fixture
def network():
    net = OutcomeNetwork(S, D, K, torch.Generator().manual_seed(0), width=16, depth=2, embedding=8, decoder=8)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():  # make the slices differ and every part matter
            p.add_(0.3 * torch.randn(p.shape, generator=rng))
    return net


def inputs(seed=2):
    rng = torch.Generator().manual_seed(seed)
    return (torch.randn(S, B, D, generator=rng), torch.randint(K, (S, B), generator=rng), torch.randn(S, B, M, generator=rng), torch.randn(S, B, M, generator=rng))


def test_stacked_linear_is_one_affine_map_a_slice():
    layer = StackedLinear(S, D, 2, torch.Generator().manual_seed(0))
    x = inputs()[0]
    for s in range(S):
        assert torch.allclose(layer(x)[s], x[s] @ layer.weight[s] + layer.bias[s], atol=1e-6)


def test_gates_are_non_negative_and_penalised():
    gates = FeatureGates(2, 3, 0.5, torch.Generator())
    with torch.no_grad():
        gates.gate[1] = torch.tensor([-1.0, 0.0, 2.0])
    assert torch.equal(gates(torch.ones(2, 1, 3))[1, 0], torch.tensor([1.0, 0.0, 2.0]))
    assert gates.penalty().tolist() == [1.5, 3.0]


def test_fourier_embedding_separates_levels():
    """Nearby noise levels differ and the released integer cast (defect D3) would not: c_noise of 0.02 and 50 share one table row there."""
    c = torch.tensor([0.02, 0.5, 50.0]).log() / 4
    e = FourierEmbedding()(c)
    assert e.shape == (3, FourierEmbedding().width)
    assert (torch.pdist(e) > 0.5).all()


def test_slices_do_not_mix(network):
    """The gradient of one slice's output reaches that slice's parameters alone."""
    x, z, u, c = inputs()
    out = network.decode(u, c, network.embed(x, z))
    gradients = torch.autograd.grad(out[1].sum(), list(network.parameters()))
    for gradient in gradients:
        assert gradient[1].abs().sum() > 0 and gradient[0].abs().sum() == 0 and gradient[2].abs().sum() == 0


def test_batch_of_one_equals_row_of_many(network):
    x, z, u, c = inputs()
    whole = network.decode(u, c, network.embed(x, z))
    for b in range(B):
        row = slice(b, b + 1)
        alone = network.decode(u[:, row, 1:2], c[:, row, 1:2], network.embed(x[:, row], z[:, row]))
        assert torch.allclose(alone, whole[:, row, 1:2], atol=1e-6)


def test_condition_enters(network):
    """Changing x alone, or z alone, changes the output (the released network fails both: defect D1)."""
    x, z, u, c = inputs()
    out = network.decode(u, c, network.embed(x, z))
    assert ((network.decode(u, c, network.embed(x + 0.1, z)) - out).abs() > 1e-6).all()
    assert ((network.decode(u, c, network.embed(x, (z + 1) % K)) - out).abs() > 1e-6).all()


@pytest.mark.parametrize("shape", [(), (1, 1, 1), (S, B, 1), (S, B, M)])
def test_noise_level_broadcasts(network, shape):
    """One level for all, one a unit, one a draw: each equals the full tensor of levels."""
    x, z, u, c = inputs()
    level = c.mean().reshape(()) if shape == () else c[: shape[0], : shape[1], : shape[2]]
    e = network.embed(x, z)
    level3 = level.reshape((1,) * (3 - level.dim()) + level.shape)
    assert torch.allclose(network.decode(u, level3, e), network.decode(u, level3.expand(S, B, M).contiguous(), e), atol=1e-6)


def test_embed_picks_the_arm_of_encode(network):
    x, z, _, _ = inputs()
    every = network.encode(x)
    assert every.shape == (S, B, K, 8)
    assert torch.equal(network.embed(x, z)[1, 2], every[1, 2, z[1, 2]])
