"""CSuite's equations, Sachs and ecoli70: counts of edges, moments in closed form, files as registered."""

import math
import os

import networkx as nx
import numpy as np
import pytest
import torch

from gencausal import checks, seeding
from gencausal.data import ecoli70, registry, sachs
from gencausal.data.scm_cells import from_scms
from gencausal.data.scm_equations import CSUITE, MIXTURES, csuite
from gencausal.graph import adjacency

mirror = pytest.mark.skipif(not os.environ.get("GENCAUSAL_DATA"), reason="needs the data mirror that GENCAUSAL_DATA names")


def rng(*names):
    return seeding.generator(0, "equations", *names)


def test_edges():
    """1, 1, 1, 4, 4, 9, 15 edges (oracle 14)."""
    assert [int(csuite(name).adjacency.sum()) for name in CSUITE] == [1, 1, 1, 4, 4, 9, 15]


@pytest.mark.parametrize("name", CSUITE)
@pytest.mark.parametrize("components", [(), MIXTURES[2]])
def test_noise_has_mean_zero_and_data_follow_it(name, components):
    """Eq. csuite-noise: N = X - F(parents), mean 0 at every node, with and without a mixture; the cell made of it is standardised."""
    drawn = csuite(name, components)
    x, noise_u = drawn.sample(200_000, rng(name))
    assert ((noise_u.double().mean(1) / noise_u.double().std(1)).abs() < 0.015).all()
    torch.testing.assert_close(drawn.abduct(x), noise_u, atol=1e-4, rtol=1e-4)
    made = from_scms(f"csuite_{name}", drawn, 50, rows=2)
    assert len(made) == 1 and torch.allclose(made.mechanism(made.query), made.query - made.query_noise, atol=1e-3)


def test_moments_in_closed_form():
    """Unit variance of X1 in lingauss and nonlingauss, correlation 1/2 in lingauss; E s(.5 + Z) = 1.0817 with sd .6185, E s(1.8 Z) = 1.0084 with sd .9746, by quadrature."""
    for name in ("lingauss", "linexp", "nonlingauss"):
        x = csuite(name).sample(400_000, rng(name))[0][0].double()
        assert x.std(0).tolist() == pytest.approx([1, 1], abs=0.01)
        if name != "nonlingauss":
            assert torch.corrcoef(x.T)[0, 1].item() == pytest.approx(0.5, abs=0.01)
    backdoor = csuite("large_backdoor")
    assert backdoor.noise.shift[2] == pytest.approx(1.0817, abs=1e-4) and backdoor.noise.shift[0] == pytest.approx(1.0084, abs=1e-4)
    sd = backdoor.noise.sample(400_000, rng("sd"))[0].double().std(0)
    assert sd[2].item() == pytest.approx(0.6185, abs=0.005) and sd[0].item() == pytest.approx(0.9746, abs=0.005) and sd[8].item() == pytest.approx(0.6 * math.sqrt(2), abs=0.01)
    x = backdoor.generate(torch.zeros(1, 1, 9))[0, 0]
    root, s = 1.0084 - 1, lambda v: math.log1p(math.exp(v))  # noqa: E731
    assert x[0].item() == pytest.approx(root, abs=1e-3) and x[2].item() == pytest.approx(s(1 + root) - 3 + 1.0817, abs=1e-3) and x[1].item() == pytest.approx(1.5 * (s(1 + root) + s(0.5) - 3), abs=1e-3)


def test_the_simulator_has_other_constants():
    """original=True changes what the released FiP code changed, and nothing in lingauss."""
    noise_u = torch.zeros(1, 1, 4)
    assert csuite("nonlin_simpson").generate(noise_u)[0, 0, 1] - csuite("nonlin_simpson", original=True).generate(noise_u)[0, 0, 1] == pytest.approx(1.5)
    assert csuite("symprod_simpson").noise.sample(100_000, rng("a"))[0, :, 3].std().item() == pytest.approx(math.sqrt(0.3), rel=0.02)
    assert torch.equal(csuite("lingauss").sample(5, rng("b"))[0], csuite("lingauss", original=True).sample(5, rng("b"))[0])
    with pytest.raises(checks.InputError, match="name"):
        csuite("chain")


@mirror
def test_sachs():
    """853 rows of 11 proteins, the first of 7,466; ln(x + 10) is finite; 17 and 20 edges, both acyclic, longest paths 5 and 8, and they disagree on plc - pip3 (oracle 15)."""
    rows = sachs.load()
    assert rows.shape == (853, 11) and tuple(rows.columns) == sachs.PROTEINS and sachs.load_all().shape == (7466, 12) and sachs.load_all()["condition"].value_counts()["ly"] == 848
    np.testing.assert_allclose(sachs.load(log=True), np.log(rows + 10))
    consensus, dag20 = (sachs.graph(name) for name in sachs.GRAPHS)
    assert (consensus.number_of_edges(), dag20.number_of_edges()) == (17, 20)
    assert (nx.dag_longest_path_length(consensus), nx.dag_longest_path_length(dag20)) == (5, 8)
    assert consensus.has_edge("plc", "pip3") and dag20.has_edge("pip3", "plc") and adjacency(consensus, sachs.PROTEINS).sum() == 17
    assert set(consensus.edges) - set(dag20.edges) == {("plc", "pip3")} and ("pka", "raf") in consensus.edges


@mirror
def test_ecoli70():
    """46 nodes, 70 arcs, longest path 8, three roots, at most four parents; rows follow the linear equations and their covariance is the closed form (oracle 15)."""
    drawn, graph = ecoli70.load()
    assert drawn.adjacency.shape == (1, 46, 46) and int(drawn.adjacency.sum()) == graph.number_of_edges() == 70
    assert nx.dag_longest_path_length(graph) == 8 and max(d for _, d in graph.in_degree) == 4 and sum(d == 0 for _, d in graph.in_degree) == 3
    assert np.array_equal(adjacency(graph), drawn.adjacency[0].long().numpy())
    x = drawn.sample(200_000, rng("ecoli"))[0][0].double()
    reach = torch.linalg.inv(torch.eye(46, dtype=torch.float64) - drawn.mechanisms.weight[0].double())
    exact = reach.T @ torch.diag(drawn.noise.scale[0].double() ** 2) @ reach
    assert (torch.cov(x.T) - exact).abs().max() < 0.03 * exact.diag().max()
    assert 0.06 <= drawn.noise.scale.square().min() + 1e-4 and drawn.noise.scale.square().max() <= 2.888


def test_files_are_registered():
    assert {name: len(registry.entries()[name].files) for name in ("sachs", "ecoli70", "regulatory_graphs")} == {"sachs": 3, "ecoli70": 1, "regulatory_graphs": 2}
