r"""DoWhy's graphical causal models (dowhy.gcm) on the interface of this package: mechanisms assigned node by node by its own search among linear, polynomial and boosted-tree regressions, additive noise from the residuals.

dowhy is an optional dependency; without it `DoWhyGCM` raises InputError. Its search draws splits from numpy's global generator, so that two fits of one data set differ in the last digits.
"""

import importlib.util
import logging
import warnings

import networkx as nx
import numpy as np
import pandas as pd

from gencausal import checks
from gencausal.scm_models.regressions import NodeModels


class DoWhyGCM(NodeModels):
    """`gcm.auto.assign_causal_mechanisms`, then `gcm.fit`; F_j is the prediction of node j's fitted regression, a root's the mean of its rows."""

    def fit(self, context: np.ndarray, adjacency: np.ndarray) -> "DoWhyGCM":
        """As in `NodeModels`. Raises InputError where dowhy is not installed."""
        if importlib.util.find_spec("dowhy") is None:
            raise checks.InputError("dowhy is not installed; pip install dowhy==0.14, or leave out the method dowhy_gcm.")
        from dowhy import gcm

        self.adjacency = np.asarray(adjacency) != 0
        x = checks.matrix(context, "context", len(self.adjacency))
        graph = nx.from_numpy_array(self.adjacency, create_using=nx.DiGraph)
        self.order = list(nx.lexicographical_topological_sort(graph))
        self.model = gcm.InvertibleStructuralCausalModel(graph)
        logging.getLogger("dowhy").setLevel(logging.ERROR)
        gcm.config.disable_progress_bars()
        rows = pd.DataFrame(x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gcm.auto.assign_causal_mechanisms(self.model, rows)
            gcm.fit(self.model, rows)
        self.nodes = [x[:, j].mean() if not self.adjacency[:, j].any() else self.model.causal_mechanism(j).prediction_model for j in range(x.shape[1])]
        return self

    def _predict(self, fitted, parents: np.ndarray) -> np.ndarray:
        return np.full(len(parents), fitted) if isinstance(fitted, float) else np.asarray(fitted.predict(parents)).reshape(len(parents))
