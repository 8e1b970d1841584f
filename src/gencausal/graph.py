r"""Causal graphs as matrices: `adjacency[i, j] = 1` means i -> j, here and everywhere.

`Eq. acyclicity` (Yu et al. 2019, after NOTEARS, Zheng et al. 2018):  h(A) = tr[(I + A o A / n)^n] - n, zero exactly for the weights of an acyclic graph.
"""

import networkx as nx
import numpy as np
import torch

from gencausal import checks


def adjacency(graph: nx.DiGraph, names: list[str] | tuple[str, ...] | None = None) -> np.ndarray:
    """Matrix [n, n] of 0 and 1, int64, of an acyclic directed graph, in the order of `names` (default: the graph's own).

    Raises InputError where the graph is undirected or cyclic (the cycle is named), or its nodes are not `names`.
    """
    if not isinstance(graph, nx.DiGraph):
        raise checks.InputError(f"graph must be a networkx DiGraph, not {type(graph).__name__}; build one with networkx.DiGraph([(cause, effect), ...]).")
    names = list(graph.nodes) if names is None else list(names)
    if missing := [name for name in names if name not in graph]:
        raise checks.InputError(f"graph has no node {missing[0]!r}; its nodes must be the factors {', '.join(map(str, names))}.")
    if unknown := [node for node in graph if node not in names]:
        raise checks.InputError(f"graph has a node {unknown[0]!r} that is no factor; the factors are {', '.join(map(str, names))}.")
    try:
        cycle = nx.find_cycle(graph)
    except nx.NetworkXNoCycle:
        return nx.to_numpy_array(graph, nodelist=names, weight=None, dtype=np.int64)
    raise checks.InputError("graph has a cycle, " + " -> ".join(str(edge[0]) for edge in cycle) + f" -> {cycle[-1][1]}; remove one of its edges.")


def order(matrix: np.ndarray) -> list[int]:
    """Node numbers in a causal order, parents first; of several the one that is lowest at each place. Raises InputError for a cycle."""
    try:
        return list(nx.lexicographical_topological_sort(nx.from_numpy_array(np.asarray(matrix) != 0, create_using=nx.DiGraph)))
    except nx.NetworkXUnfeasible:
        raise checks.InputError("graph has a cycle; remove one of its edges.") from None


def descendants(matrix: np.ndarray) -> np.ndarray:
    """[n, n] of bool: entry (i, j) says that j is a proper descendant of i."""
    reach = np.asarray(matrix) != 0
    for _ in range(len(reach)):
        reach = reach | (reach.astype(int) @ reach.astype(int) > 0)
    return reach


def acyclicity(weights: torch.Tensor) -> torch.Tensor:
    """h(A) >= 0 of real weights [n, n] (Eq. acyclicity), a scalar."""
    n = len(weights)
    eye = torch.eye(n, dtype=weights.dtype, device=weights.device)
    return torch.linalg.matrix_power(eye + weights * weights / n, n).trace() - n


def shd(estimate: np.ndarray, truth: np.ndarray) -> int:
    """Structural Hamming distance: edges to add, to remove or to turn until `estimate` is `truth`; a turned edge counts once."""
    wrong = (np.asarray(estimate) != 0) != (np.asarray(truth) != 0)
    return int((wrong | wrong.T)[np.triu_indices(len(wrong), 1)].sum() + np.trace(wrong))
