import networkx as nx
import numpy as np
import pytest
import torch

from gencausal import checks, graph

CHAIN = np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0]])


def test_adjacency_reads_rows_to_columns():
    matrix = graph.adjacency(nx.DiGraph([("b", "a"), ("b", "c")]), ["a", "b", "c"])
    assert matrix.tolist() == [[0, 0, 0], [1, 0, 1], [0, 0, 0]] and matrix.dtype == np.int64


def test_weights_of_edges_are_not_read():
    made = nx.DiGraph()
    made.add_edge("a", "b", weight=0.0)
    assert graph.adjacency(made).tolist() == [[0, 1], [0, 0]]


@pytest.mark.parametrize("made, names, word", [
    (nx.Graph([("a", "b")]), None, "DiGraph"), (nx.DiGraph([("a", "b"), ("b", "a")]), None, "a -> b -> a"), (nx.DiGraph([("a", "a")]), None, "cycle"),
    (nx.DiGraph([("a", "b")]), ["a", "b", "c"], "'c'"), (nx.DiGraph([("a", "b")]), ["a"], "'b'")])
def test_an_unfit_graph_is_refused_by_name(made, names, word):
    with pytest.raises(checks.InputError, match=word):
        graph.adjacency(made, names)


def test_order_puts_parents_first():
    rng = np.random.default_rng(0)
    for _ in range(20):
        matrix, shuffle = np.triu(rng.integers(0, 2, (6, 6)), 1), rng.permutation(6)
        matrix = matrix[np.ix_(shuffle, shuffle)]
        place = np.argsort(graph.order(matrix))
        assert all(place[i] < place[j] for i, j in np.argwhere(matrix))
    with pytest.raises(checks.InputError, match="cycle"):
        graph.order(np.array([[0, 1], [1, 0]]))


def test_descendants_of_a_chain_reach_its_end():
    assert graph.descendants(CHAIN).tolist() == [[False, True, True], [False, False, True], [False, False, False]]


def test_acyclicity_is_zero_for_acyclic_weights_alone():
    """Eq. acyclicity: 0 for a triangular matrix, 1/2 for the two-cycle of unit weights, larger for heavier cycles; its gradient pushes the cycle down."""
    weights = torch.triu(torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 1)
    assert float(graph.acyclicity(weights)) == pytest.approx(0, abs=1e-9)
    two = torch.tensor([[0.0, 1], [1, 0]], requires_grad=True)
    assert graph.acyclicity(two).item() == pytest.approx(0.5)
    assert graph.acyclicity(2 * two).item() > 1
    assert (torch.autograd.grad(graph.acyclicity(two), two)[0][[0, 1], [1, 0]] > 0).all()


def test_shd_counts_a_turned_edge_once():
    assert graph.shd(CHAIN, CHAIN) == 0
    assert graph.shd(CHAIN.T, CHAIN) == 2
    assert graph.shd(np.zeros((3, 3)), CHAIN) == 2
    turned_and_more = np.array([[0, 0, 1], [1, 0, 1], [0, 0, 0]])  # 1 -> 0 for 0 -> 1, and 0 -> 2 besides
    assert graph.shd(turned_and_more, CHAIN) == graph.shd(CHAIN, turned_and_more) == 2
