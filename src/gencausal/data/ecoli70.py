"""ECOLI70: a linear-Gaussian network of 46 genes of E. coli, 70 arcs (Schaefer, Strimmer 2005; bnlearn repository). A fitted network without a table of measurements: data are drawn from it, and its truth is exact."""

import json

import networkx as nx
import numpy as np

from gencausal.data import registry
from gencausal.data.scm_equations import linear_gaussian
from gencausal.data.scms import SCMs


def load() -> tuple[SCMs, nx.DiGraph]:
    """The network as `SCMs` with S = 1, d = 46, and its graph with the genes' names, in the same order. Raises `registry.DataError` where the file is absent."""
    network = json.loads(registry.fetch("ecoli70", "ecoli70_gaussian_bn.json").read_text())
    names, laws = network["nodes_topological"], network["cpds"]
    weight, index = np.zeros((len(names), len(names))), {name: i for i, name in enumerate(names)}
    made = nx.DiGraph()
    made.add_nodes_from(names)
    for child, law in laws.items():
        for parent, value in law["coefficients"].items():
            weight[index[parent], index[child]] = value
            made.add_edge(parent, child)
    return linear_gaussian("ecoli70", weight, np.array([laws[n]["intercept"] for n in names]), np.array([laws[n]["variance"] for n in names])), made
