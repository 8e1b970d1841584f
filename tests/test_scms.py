"""The sampler of SCMs against closed forms: expected edges, linear algebra, Gaussian process moments, quantiles of noise."""

import math

import numpy as np
import pytest
import torch

from gencausal import checks, seeding
from gencausal.data import scm_graphs, scms
from gencausal.data.scms import FAMILIES


def rng(*names):
    return seeding.generator(0, "test", *names)


def nan_but(values: dict[int, float], d: int) -> torch.Tensor:
    held = torch.full((1, 1, d), torch.nan)
    for node, value in values.items():
        held[..., node] = value
    return held


@pytest.mark.parametrize("kind", scm_graphs.KINDS)
@pytest.mark.parametrize("d", [2, 5, 10, 20])
def test_graphs_are_upper_triangular(kind, d):
    made = scm_graphs.sample(kind, 7, d, rng(kind))
    assert made.shape == (7, d, d) and made.dtype == torch.bool
    assert not made.tril().any(), "node 0 comes first"
    assert torch.equal(made, scm_graphs.sample(kind, 7, d, rng(kind)))


def test_expected_numbers_of_edges():
    """Eq. er: e d edges (e = 2 on average), Eq. sbm: 2 d edges, Eq. barabasi: m edges a new node once that many are there."""
    d, stack = 20, 3000
    assert scm_graphs.sample("sbm", stack, 60, rng("sbm")).sum((1, 2)).double().mean().item() == pytest.approx(120, abs=1.0)
    edges = {kind: scm_graphs.sample(kind, stack, d, rng(kind)).sum((1, 2)).double() for kind in scm_graphs.KINDS}
    assert edges["er"].mean().item() == pytest.approx(2 * d, abs=1.0)
    assert 1.9 * d < edges["sbm"].mean().item() <= 2 * d, "small blocks fill up: p is capped at 0.99"
    assert sorted(edges["sf_in"].unique().tolist()) == [19, 37, 54] == sorted(edges["sf_out"].unique().tolist())
    assert 1.2 * d < edges["ws"].mean().item() < 2.2 * d


def test_attachment_prefers_nodes_that_are_pointed_at():
    """Eq. barabasi: the third node points to the first of two, who already has one edge, with weight 2 of 3; SF-out is the transpose of SF-in."""
    one = torch.ones(20_000, dtype=torch.long)
    grown = scm_graphs.barabasi(one, 3, rng())
    assert grown[:, 1, 0].all() and grown[:, 2, 0].double().mean().item() == pytest.approx(2 / 3, abs=0.015)
    assert torch.equal(scm_graphs.sample("sf_in", 9, 8, rng("sf")).flip(1, 2).mT, scm_graphs.sample("sf_out", 9, 8, rng("sf")))
    into = scm_graphs.sample("sf_in", 500, 30, rng("sf"))
    assert into.sum(1).amax(1).double().mean() > 1.5 * into.sum(2).amax(1).double().mean(), "hubs are pointed at"


def test_small_worlds_keep_the_number_of_edges_of_the_torus():
    """Without surplus nodes (d = 16 = 4^2, D = 2) rewiring moves edges and loses none: 32; about 0.3 of them leave the torus."""
    made = scm_graphs._small_world(200, 16, 2, rng())
    assert (made.sum((1, 2)) == 32).all()
    assert not torch.equal(made[0], made[1])


def test_blocks_hold_their_members_together():
    """Eq. sbm: edges within a block are ten times as likely as between, so that the share of two-step paths that are closed exceeds that of er."""
    closed = {}
    for kind in ("sbm", "er"):
        made = scm_graphs.sample(kind, 400, 40, rng(kind)).float()
        closed[kind] = torch.einsum("sij,sjk,sik->", made, made, made) / torch.einsum("sij,sjk->", made, made)
    assert closed["sbm"] > 1.5 * closed["er"]


def test_longest_path_and_causal_order():
    chain = torch.zeros(1, 4, 4, dtype=torch.bool)
    for i, j in ((3, 2), (2, 0), (0, 1), (3, 1)):
        chain[0, i, j] = True
    assert scm_graphs.longest_path(chain).tolist() == [[2, 3, 1, 0]] and scms.causal_order(chain).tolist() == [[3, 2, 0, 1]]
    with pytest.raises(checks.InputError, match="cycle"):
        scm_graphs.longest_path(torch.ones(2, 2))


@pytest.mark.parametrize("name", FAMILIES)
def test_data_follow_their_equations(name):
    """Eq. anm: X - F(X) is the noise; every node comes after its parents; the same generator gives the same bits; the noise given back is the noise used."""
    drawn = scms.draw(FAMILIES[name], 12, 8, rng(name))
    x, noise_u = drawn.sample(50, rng("rows"))
    assert (drawn.abduct(x) - noise_u).abs().max() < 1e-4 * x.abs().max()
    assert torch.equal(scms.draw(FAMILIES[name], 12, 8, rng(name)).sample(50, rng("rows"))[0], x)
    place = drawn.order.argsort(1)
    i, j = drawn.adjacency.nonzero()[:, 1:].T
    s = drawn.adjacency.nonzero()[:, 0]
    assert (place[s, i] < place[s, j]).all()
    assert len({tuple(row) for row in drawn.order.tolist()}) > 6, "node names are permuted"


def test_mechanisms_read_parents_only():
    """With a single edge i -> j a change of x_i moves F_j alone; the transposed adjacency would say the reverse."""
    graph = torch.zeros(1, 3, 3, dtype=torch.bool)
    graph[0, 0, 1] = True
    for name in ("lin_in", "rff_in"):
        drawn = scms.draw(FAMILIES[name], 1, 3, rng(), graph)
        i, j = drawn.adjacency[0].nonzero()[0].tolist()
        x = torch.randn(1, 5, 3, generator=rng("x"))
        moved = x.clone()
        moved[..., i] += 1.0
        change = (drawn.mechanisms(moved) - drawn.mechanisms(x)).abs().amax((0, 1))
        assert change[j] > 1e-3 and change[[k for k in range(3) if k != j]].max() == 0


def test_linear_systems_have_a_closed_form():
    """x = (b + n)(I - W)^{-1} row by row; under do() by deleting incoming edges (oracle 8)."""
    drawn = scms.draw(FAMILIES["lin_in"], 6, 7, rng())
    x, noise_u = drawn.sample(20, rng("rows"))
    weight, bias = drawn.mechanisms.weight.double(), drawn.mechanisms.bias.double()
    exact = (bias[:, None] + noise_u.double()) @ torch.linalg.inv(torch.eye(7) - weight)
    assert torch.allclose(x.double(), exact, rtol=1e-4, atol=1e-4)
    node, value = 3, 1.5
    cut, forced = weight.clone(), (bias[:, None] + noise_u.double()).clone()
    cut[:, :, node], forced[:, :, node] = 0, value
    held = nan_but({node: value}, 7)
    assert torch.allclose(drawn.generate(noise_u, held).double(), forced @ torch.linalg.inv(torch.eye(7) - cut), rtol=1e-4, atol=1e-4)


def test_interventions_and_counterfactuals():
    """The held node has its value exactly, what does not descend from it is untouched, and holding a node at its factual value changes nothing."""
    drawn = scms.draw(FAMILIES["rff_in"], 5, 6, rng())
    x, noise_u = drawn.sample(30, rng("rows"))
    node = 2
    after = drawn.generate(noise_u, nan_but({node: 0.7}, 6))
    reach = drawn.adjacency.float()
    for _ in range(6):
        reach = ((reach + reach @ reach) > 0).float()
    assert (after[..., node] == 0.7).all()
    others = torch.arange(6) != node
    for s in range(5):
        still = others & (reach[s, node] == 0)
        assert torch.equal(after[s][:, still], x[s][:, still])
        moved = reach[s, node] > 0
        assert not moved.any() or (after[s][:, moved] - x[s][:, moved]).abs().max() > 1e-3
    same = torch.full_like(x, torch.nan)
    same[..., node] = x[..., node]
    assert torch.allclose(drawn.counterfactual(x, same), x, atol=1e-3)


def test_random_features_have_the_moments_of_their_process():
    """Eq. rff: over draws mean b, variance c^2 at every x, covariance c^2 exp(-|x - x'|^2 / 2 l^2), exactly for any M."""
    family = scms.Family("fixed", ("er",), "rff", "gaussian", bias=(1.0, 1.0), length=(8.0, 8.0), scale=(5.0, 5.0), features=7)
    graph = torch.zeros(1, 3, 3, dtype=torch.bool)
    graph[0, :2, 2] = True
    drawn = scms.draw(family, 20_000, 3, rng(), graph.expand(20_000, -1, -1))
    child = drawn.order[:, 2]
    points = torch.zeros(20_000, 2, 3)
    at = torch.arange(20_000)
    points[at, 1, drawn.order[:, 0]], points[at, 1, drawn.order[:, 1]] = 6.0, 3.0
    values = drawn.mechanisms.node(points, child).double()
    assert values.mean(0).tolist() == pytest.approx([1, 1], abs=0.12)
    covariance = torch.cov(values.T)
    assert covariance[0, 0].item() == pytest.approx(25, rel=0.05) and covariance[1, 1].item() == pytest.approx(25, rel=0.05)
    assert covariance[0, 1].item() == pytest.approx(25 * math.exp(-45 / 128), rel=0.05)


def test_ranges_of_parameters():
    """Weights U+-(1, 3) in, U+-(.5, 4) out, bias U(-3, 3), noise scale U(.2, 2), c U(10, 20); a shift multiplies what it names."""
    for name, low, high in (("lin_in", 1, 3), ("lin_out", 0.5, 4)):
        drawn = scms.draw(FAMILIES[name], 300, 10, rng())
        weight = drawn.mechanisms.weight[drawn.adjacency]
        assert weight.abs().min() == pytest.approx(low, abs=0.03) and weight.abs().max() == pytest.approx(high, abs=0.03) and abs(weight.sign().mean()) < 0.05
        assert (drawn.mechanisms.weight[~drawn.adjacency] == 0).all()
        assert drawn.mechanisms.bias.abs().max() == pytest.approx(3, abs=0.03)
        assert drawn.noise.scale.min() == pytest.approx(0.2, abs=0.03) and drawn.noise.scale.max() == pytest.approx(2, abs=0.03)
    shifted = FAMILIES["rff_in"].shifted(5, "noise")
    assert shifted.noise_scale == (1.0, 10.0) and shifted.scale == (10.0, 20.0) and FAMILIES["rff_in"].shifted(2, "mechanism").scale == (20.0, 40.0)
    both = scms.draw(scms.replace(FAMILIES["rff_in"], shared=True), 3, 6, rng())
    assert torch.equal(both.mechanisms.phase[:, 0], both.mechanisms.phase[:, 5]) and not torch.equal(both.mechanisms.alpha[:, 0], both.mechanisms.alpha[:, 5])


@pytest.mark.parametrize("kind, sd", [("gaussian", 1.0), ("laplace", 2**0.5), ("gmm", (4 + 2.5) ** 0.5)])
def test_noise_has_its_moments_and_its_density(kind, sd):
    """sd of Gaussian noise s, of Laplace s 2^(1/2), of a mixture {N(-2, 1), N(2, 2)} (4 + 5/2)^(1/2) s; densities integrate to 1 and have that variance."""
    noise = scms.Noise(kind, torch.tensor([[1.0, 0.5]]), ((-2.0, 1.0), (2.0, 2.0)))
    made = noise.sample(200_000, rng(kind)).double()
    assert made[0].std(0).tolist() == pytest.approx([sd, sd / 2], rel=0.02) and made.mean().abs() < 0.02
    grid = torch.linspace(-40, 40, 80_001)[None, :, None].expand(1, -1, 2)
    density = noise.log_prob(grid).exp().double()
    assert (density.sum(1) * 1e-3).flatten().tolist() == pytest.approx([1, 1], abs=1e-3)
    assert (density * grid.double().square()).sum(1).mul(1e-3).sqrt().flatten().tolist() == pytest.approx([sd, sd / 2], rel=1e-2)


def test_cauchy_noise_has_its_quartiles():
    made = scms.Noise("cauchy", torch.tensor([[2.0]])).sample(100_000, rng()).flatten()
    assert np.quantile(made.numpy(), [0.25, 0.75]) == pytest.approx([-2, 2], abs=0.06)


def test_standardisation_divides_noise_and_does_not_centre_it():
    """z = (x - mean) / sd with n - 1; mechanism in those units is z - n / sd, a constant at a root (oracle 8)."""
    drawn = scms.draw(FAMILIES["rff_in"], 4, 5, rng())
    x, noise_u = drawn.sample(64, rng("rows"))
    scale = scms.Scale.of(x)
    z = scale.into(x)
    assert z.mean(1).abs().max() < 1e-5 and torch.allclose(z.std(1), torch.ones(4, 5), atol=1e-5) and torch.allclose(scale.back(z), x, atol=1e-4)
    mechanism = z - noise_u / scale.sd
    roots = ~drawn.adjacency.any(1)
    assert mechanism.std(1)[roots].max() < 1e-4 < mechanism.std(1)[~roots].min()
    assert scms.Scale.of(torch.zeros(1, 5, 2)).sd.tolist() == [[[1.0, 1.0]]]


def test_wrong_requests_are_refused():
    with pytest.raises(checks.InputError, match="family.noise"):
        scms.draw(scms.replace(FAMILIES["lin_in"], noise="student"), 2, 3, rng())
    with pytest.raises(checks.InputError, match="kind"):
        scm_graphs.sample("star", 2, 3, rng())
    with pytest.raises(checks.InputError, match="d must"):
        scms.draw(FAMILIES["lin_in"], 2, 1, rng())
