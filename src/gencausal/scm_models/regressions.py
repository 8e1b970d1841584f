r"""Node-by-node regressions on the parents, and what follows from mechanisms: noise, samples, interventions, counterfactuals.

    OLS             F_j(x) = b + w'x_PA, least squares (rank deficient systems by the smallest norm)                            `Eq. node-ols`
    kernel ridge    F_j(x) = m + k(x_PA)'(K + lambda I)^{-1}(y - m), k(x, x') = exp(-|x - x'|^2 / 2 l^2), m the mean of y      `Eq. node-krr`
                    l in {.5, 1, 2, 4, 8, 16} (parents)^(1/2), lambda in 10^{-4..1}, by the leave-one-out error r_i / (1 - H_ii)  `Eq. loo`
"""

from typing import Self

import numpy as np
from scipy.linalg import eigh
from threadpoolctl import threadpool_limits

from gencausal import checks, graph

WIDTHS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
PENALTIES = np.logspace(-4, 1, 11)


class NodeModels:
    """Mechanisms of one SCM. adjacency [d, d]; order: causal. Subclasses fit one node at a time and give `node`."""

    def fit(self, context: np.ndarray, adjacency: np.ndarray) -> Self:
        """context: standardised rows [n, d], n >= 2; adjacency [d, d], acyclic."""
        self.adjacency = np.asarray(adjacency) != 0
        x = checks.matrix(context, "context", len(self.adjacency))
        self.order = graph.order(self.adjacency)
        with threadpool_limits(1):
            self.nodes = [self._fit_node(x[:, np.flatnonzero(self.adjacency[:, j])], x[:, j]) for j in range(len(self.adjacency))]
        return self

    def _fit_node(self, parents: np.ndarray, y: np.ndarray):
        """What `_predict` needs for a node with values `y [n]` and `parents [n, p]`, p >= 0."""
        raise NotImplementedError

    def _predict(self, fitted, parents: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def node(self, z: np.ndarray, j: int) -> np.ndarray:
        """F_j at `z [m, d]`, [m]."""
        return self._predict(self.nodes[j], z[:, np.flatnonzero(self.adjacency[:, j])])

    def expected(self, z: np.ndarray) -> np.ndarray:
        """F at `z [m, d]`, [m, d]."""
        with threadpool_limits(1):
            return np.stack([self.node(z, j) for j in range(z.shape[1])], 1)

    def noise(self, x: np.ndarray) -> np.ndarray:
        """Noise of the rows `x [m, d]`, [m, d]."""
        return x - self.expected(x)

    def generate(self, noise_u: np.ndarray, held: np.ndarray | None = None) -> np.ndarray:
        """Rows [m, d] from noise [m, d], under do() where `held [m or 1, d]` is not NaN."""
        x = np.zeros(noise_u.shape)
        with threadpool_limits(1):
            for j in self.order:
                x[:, j] = self.node(x, j) + noise_u[:, j]
                if held is not None:
                    x[:, j] = np.where(np.isnan(held[:, j]), x[:, j], held[:, j])
        return x

    def counterfactual(self, factual: np.ndarray, held: np.ndarray) -> np.ndarray:
        """Abduct, intervene, predict: the rows `factual [m, d]` had the nodes been held."""
        return self.generate(self.noise(factual), held)


class ZeroMechanism(NodeModels):
    """F = 0."""

    def _fit_node(self, parents, y):
        return None

    def _predict(self, fitted, parents):
        return np.zeros(len(parents))


class OLS(NodeModels):
    """`Eq. node-ols`."""

    def _fit_node(self, parents, y):
        return np.linalg.lstsq(np.column_stack([np.ones(len(y)), parents]), y, rcond=None)[0]

    def _predict(self, fitted, parents):
        return fitted[0] + parents @ fitted[1:]


class KernelRidge(NodeModels):
    """`Eq. node-krr`, with its width and penalty chosen by `Eq. loo`; a root has the mean of its rows."""

    def _fit_node(self, parents, y):
        mean, p = y.mean(), parents.shape[1]
        if p == 0:
            return mean, None, None, 1.0
        distance = _squares(parents, parents)
        best = (np.inf, None, None)
        for width in np.array(WIDTHS) * np.sqrt(p):
            values, vectors = eigh(np.exp(-distance / (2 * width**2)), driver="evd")
            projected = vectors.T @ (y - mean)
            shrink = 1 / (values.clip(0)[:, None] + PENALTIES)
            weights = vectors @ (shrink * projected[:, None])  # (K + lambda)^{-1} y, whose entries over the inverse's diagonal are the leave-one-out errors
            error = np.square(weights / ((vectors**2) @ shrink)).mean(0)
            k = int(error.argmin())
            if error[k] < best[0]:
                best = (error[k], weights[:, k], width)
        return mean, parents, best[1], best[2]

    def _predict(self, fitted, parents):
        mean, seen, weights, width = fitted
        if seen is None:
            return np.full(len(parents), mean)
        return mean + np.exp(-_squares(parents, seen) / (2 * width**2)) @ weights


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances [n, m] between the rows of a and b."""
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0)
