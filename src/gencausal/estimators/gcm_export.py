"""Inferred mechanisms as a model of dowhy.gcm: additive-noise models whose prediction is the network's F_j, noise and roots from the rows given. All that DoWhy does with a fitted model then works (attribution, anomaly, what-if)."""

import importlib.util

import networkx as nx
import numpy as np
import pandas as pd

from gencausal import checks


def export(inferred, data: pd.DataFrame):
    """`dowhy.gcm.InvertibleStructuralCausalModel` of `inferred` (estimators.cond_fip.InferredSCM), fitted: noise is the empirical law of the residuals of `data`. Raises InputError where dowhy is not installed."""
    if importlib.util.find_spec("dowhy") is None:
        raise checks.InputError("dowhy is not installed; pip install dowhy==0.14 to export.")
    from dowhy import gcm
    from dowhy.gcm.ml import PredictionModel

    class Mechanism(PredictionModel):
        """F of one node; parents arrive in DoWhy's order, sorted by name."""

        def __init__(self, node: str, parents: list[str]):
            self.node, self.parents = node, parents

        def fit(self, X, Y) -> None:
            """Nothing to fit: the network has inferred it."""

        def predict(self, X: np.ndarray) -> np.ndarray:
            return inferred.mechanism(self.node, pd.DataFrame(np.asarray(X, float), columns=self.parents)).to_numpy()[:, None]

        def clone(self) -> "Mechanism":
            return Mechanism(self.node, self.parents)

    graph = nx.relabel_nodes(nx.from_numpy_array(inferred.adjacency, create_using=nx.DiGraph), dict(enumerate(inferred.names)))
    model = gcm.InvertibleStructuralCausalModel(graph)
    for node in graph:
        parents = sorted(graph.predecessors(node))
        model.set_causal_mechanism(node, gcm.AdditiveNoiseModel(Mechanism(node, parents), gcm.EmpiricalDistribution()) if parents else gcm.EmpiricalDistribution())
    gcm.config.disable_progress_bars()
    gcm.fit(model, data)
    return model
