r"""Structural causal models of standardised factors z in R^n, learned from labels: three forms of mechanism, one contract.

Notation: noise u in R^n, adjacency `A[i, j]` != 0 iff i -> j, A_{.i} its column of node i's parents, o elementwise. A model abducts u from z, and predicts z from u
under an intervention do(z_I = c); `expected` gives each node from its own parents.

    mlp        z_i = f_i(A_{.i} o z) + u_i, f_i a small network, in causal order        `Eq. nscm-mlp`     (after Zheng et al. 2020)
    linear     z = (I - A^T)^{-1} u, then z_i = eta_i(A_{.i} o z) + u_i                 `Eq. nscm-linear`  (after CausalVAE, Yang et al. 2021)
    warped     z = g((I - A^T)^{-1} h(u)), g and h monotone, elementwise                `Eq. nscm-warped`  (after DEAR, Shen et al. 2022)

`linear` reads a linear reach of the noise in place of the parents' values. It is therefore no SCM in z: a parent that is held does not screen its child off from the
grandparents. Here do(z_i = c) sets the noise u_i that gives c, so that an intervention at the value a unit has changes nothing.
`independent` has no mechanism, z = u: what is left when the causal model is taken away (E5).

The graph is given (entries of A off the mask stay exactly 0) or learned from `acyclicity` and sparsity penalties on the strength of its edges,

    A_ij = (E (d f_j / d z_i)^2)^{1/2}                                                  `Eq. edge-strength` (after Zheng et al. 2020)

in sd of z_j per sd of z_i. The norm of a network's first layer, which stands for it there, has no scale: later layers undo what shrinks it, so that h falls to 0 on a full graph.
"""

import numpy as np
import torch
from torch import nn
from torch.nn.functional import silu, softplus

from gencausal import checks, graph
from gencausal.nn.mlp import StackedLinear

FORMS = ("mlp", "linear", "warped", "independent")


class SCM(nn.Module):
    """Mechanisms of n standardised factors; subclasses give `expected`, `abduct` and `predict`.

    mask: [n, n] of 0 and 1, the edges that may exist: a given graph, or ones off the diagonal where the graph is learned.
    """

    def __init__(self, mask: np.ndarray):
        super().__init__()
        mask = np.asarray(mask)
        if mask.ndim != 2 or mask.shape[0] != mask.shape[1] or np.trace(mask != 0):
            raise checks.InputError(f"mask must be a square matrix with an empty diagonal, not of shape {mask.shape}.")
        self.n = len(mask)
        self.register_buffer("mask", torch.as_tensor(mask != 0, dtype=torch.float32), persistent=False)

    def weights(self) -> torch.Tensor:
        """Strength of every edge, [n, n], for penalties and for thresholding."""
        return self.mask

    def strength(self, z: torch.Tensor) -> torch.Tensor:
        """Strength of every edge, [n, n], over the rows of `z [B, n]` (Eq. edge-strength); differentiable in the mechanisms."""
        with torch.enable_grad():
            z = z.detach().requires_grad_(True)
            expected = self.expected(z)
            columns = [torch.autograd.grad(expected[:, j].sum(), z, create_graph=True)[0].square().mean(0) for j in range(self.n)]
        return (torch.stack(columns, 1) + 1e-12).sqrt() * self.mask

    def adjacency(self, threshold: float = 0.3) -> np.ndarray:
        """Edges stronger than `threshold`, [n, n] of 0 and 1."""
        return (self.weights().detach().abs() > threshold).long().cpu().numpy()

    def _order(self) -> list[int]:
        """Causal order of the edges in use. A learned graph that is not yet acyclic has none: its weakest edge of a cycle is passed over."""
        strength = self.weights().detach().abs().cpu().numpy() * self.mask.cpu().numpy()
        edges = strength > 1e-6
        for i, j in sorted(np.argwhere(edges).tolist(), key=lambda edge: strength[tuple(edge)]):
            if graph.descendants(edges)[j, i]:
                edges[i, j] = False
        return graph.order(edges)

    def expected(self, z: torch.Tensor) -> torch.Tensor:
        """Each node from its own parents in `z [B, n]`, noise zero: [B, n]."""
        raise NotImplementedError

    def abduct(self, z: torch.Tensor) -> torch.Tensor:
        """Noise [B, n] that gives `z [B, n]`."""
        raise NotImplementedError

    def predict(self, u: torch.Tensor, do: dict[int, torch.Tensor | float] | None = None) -> torch.Tensor:
        """Factors [B, n] from noise `u [B, n]` under `do` (node number to standardised value or values [B])."""
        raise NotImplementedError

    def counterfactual(self, z: torch.Tensor, do: dict[int, torch.Tensor | float]) -> torch.Tensor:
        """Abduct, intervene, predict: the factors of the same units had z_I been c."""
        return self.predict(self.abduct(z), do)


def _set(z: torch.Tensor, do: dict[int, torch.Tensor | float] | None) -> torch.Tensor:
    """`z [B, n]` with the columns in `do` replaced."""
    columns = list(z.unbind(1))
    for node, value in (do or {}).items():
        columns[node] = torch.as_tensor(value, dtype=z.dtype, device=z.device).expand(len(z))
    return torch.stack(columns, 1)


class NodeNetworks(nn.Module):
    """n small networks side by side, node i reading A_{.i} o z: `z [B, n] -> [B, n]`. The first layer's columns carry the strength of each edge."""

    def __init__(self, mask: torch.Tensor, rng: torch.Generator, width: int = 64):
        super().__init__()
        n = len(mask)
        self.layers = nn.ModuleList([StackedLinear(n, n, width, rng, 1.4), StackedLinear(n, width, width, rng, 1.4), StackedLinear(n, width, 1, rng, 0.1)])
        self.register_buffer("mask", mask.T[:, :, None].clone(), persistent=False)  # [node, parent, 1]

    def weights(self) -> torch.Tensor:
        """Norm of what each node's first layer takes from each other node, [parent, node]."""
        first = self.layers[0].weight * self.mask
        return (first.square().mean(2) + 1e-12).sqrt().T * self.mask[:, :, 0].T

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        first = self.layers[0]
        h = torch.baddbmm(first.bias, z.expand(len(self.mask), *z.shape), first.weight * self.mask)
        h = silu(h)
        h = h + silu(self.layers[1](h))
        return self.layers[2](h)[:, :, 0].T


class MLPSCM(SCM):
    """`Eq. nscm-mlp`: additive noise, one network a node, evaluated in causal order."""

    def __init__(self, mask: np.ndarray, rng: torch.Generator, width: int = 64):
        super().__init__(mask)
        self.networks = NodeNetworks(self.mask, rng, width)

    def weights(self) -> torch.Tensor:
        return self.networks.weights()

    def expected(self, z: torch.Tensor) -> torch.Tensor:
        return self.networks(z) * self.mask.any(0)

    def abduct(self, z: torch.Tensor) -> torch.Tensor:
        return z - self.expected(z)

    def predict(self, u: torch.Tensor, do: dict[int, torch.Tensor | float] | None = None) -> torch.Tensor:
        z = _set(u, do)
        for node in self._order():
            if node not in (do or {}) and bool(self.mask[:, node].any()):
                z = _set(z, {node: self.expected(z)[:, node] + u[:, node]})
        return z


class LinearSCM(SCM):
    """`Eq. nscm-linear`. With L = (I - A^T)^{-1} the map u -> z is z = eta(A o L u) + u; `abduct` solves it node by node in causal order."""

    def __init__(self, mask: np.ndarray, rng: torch.Generator, width: int = 64):
        super().__init__(mask)
        self.edge = nn.Parameter(self.mask * 0.1 * torch.randn(self.n, self.n, generator=rng))
        self.networks = NodeNetworks(self.mask, rng, width)

    def weights(self) -> torch.Tensor:
        return self.edge * self.mask

    def _reach(self, u: torch.Tensor) -> torch.Tensor:
        """(I - A^T)^{-1} u for rows of `u [B, n]`."""
        eye = torch.eye(self.n, dtype=u.dtype, device=u.device)
        return torch.linalg.solve(eye - self.weights().T, u.T).T

    def _mechanism(self, reach: torch.Tensor) -> torch.Tensor:
        return self.networks(reach) * self.mask.any(0)

    def expected(self, z: torch.Tensor) -> torch.Tensor:
        u = self.abduct(z)
        return self._mechanism(self._reach(u))

    def abduct(self, z: torch.Tensor) -> torch.Tensor:
        u = z
        for node in self._order():
            if bool(self.mask[:, node].any()):
                u = _set(u, {node: z[:, node] - self._mechanism(self._reach(u))[:, node]})
        return u

    def predict(self, u: torch.Tensor, do: dict[int, torch.Tensor | float] | None = None) -> torch.Tensor:
        """Under `do` the noise of an intervened node is what gives its value, so that its children see it through the linear reach."""
        do = do or {}
        z = u
        for node in self._order():
            mechanism = self._mechanism(self._reach(u))[:, node] if bool(self.mask[:, node].any()) else torch.zeros_like(u[:, node])
            if node in do:
                value = torch.as_tensor(do[node], dtype=u.dtype, device=u.device).expand(len(u))
                u = _set(u, {node: value - mechanism})
            z = _set(z, {node: mechanism + u[:, node]})
        return z


class Monotone(nn.Module):
    """Increasing maps of the line, one a column: v -> a v + sum_k b_k tanh(c_k v + d_k) with a, b, c > 0. `forward [B, n]`, `inverse [B, n]` by bisection."""

    def __init__(self, n: int, rng: torch.Generator, pieces: int = 8):
        super().__init__()
        self.slope = nn.Parameter(torch.full((n,), 0.54))  # softplus(0.54) = 1
        self.height = nn.Parameter(torch.full((n, pieces), -4.0))
        self.steep = nn.Parameter(torch.zeros(n, pieces))
        self.shift = nn.Parameter(torch.randn(n, pieces, generator=rng))

    def forward(self, v: torch.Tensor) -> torch.Tensor:
        bumps = softplus(self.height) * torch.tanh(softplus(self.steep) * v[..., None] + self.shift)
        return softplus(self.slope) * v + bumps.sum(-1)

    def inverse(self, w: torch.Tensor, steps: int = 60) -> torch.Tensor:
        """v with `forward(v) = w`; one Newton step at the end carries the gradient."""
        with torch.no_grad():
            reach = (w.abs().max() + softplus(self.height).sum(1).max()) / softplus(self.slope).min() + 1
            low, high = torch.full_like(w, -float(reach)), torch.full_like(w, float(reach))
            for _ in range(steps):
                middle = (low + high) / 2
                above = self(middle) > w
                low, high = torch.where(above, low, middle), torch.where(above, middle, high)
            v = (low + high) / 2
            bumps = torch.tanh(softplus(self.steep) * v[..., None] + self.shift)
            slope = softplus(self.slope) + (softplus(self.height) * softplus(self.steep) * (1 - bumps**2)).sum(-1)
        return v + (w - self(v)) / slope


class WarpedSCM(SCM):
    """`Eq. nscm-warped`: linear in warped coordinates."""

    def __init__(self, mask: np.ndarray, rng: torch.Generator, width: int = 64):
        super().__init__(mask)
        self.edge = nn.Parameter(self.mask * 0.1 * torch.randn(self.n, self.n, generator=rng))
        self.out, self.into = Monotone(self.n, rng), Monotone(self.n, rng)

    def weights(self) -> torch.Tensor:
        return self.edge * self.mask

    def strength(self, z: torch.Tensor) -> torch.Tensor:
        """The entries of A, which are linear in warped coordinates and have their scale."""
        return self.weights()

    def _residual(self, v: torch.Tensor) -> torch.Tensor:
        """(I - A^T) v for rows of `v [B, n]`."""
        return v - v @ self.weights()

    def expected(self, z: torch.Tensor) -> torch.Tensor:
        v = self.out.inverse(z)
        return self.out(v @ self.weights() + self.into(torch.zeros_like(v)))

    def abduct(self, z: torch.Tensor) -> torch.Tensor:
        return self.into.inverse(self._residual(self.out.inverse(z)))

    def predict(self, u: torch.Tensor, do: dict[int, torch.Tensor | float] | None = None) -> torch.Tensor:
        noise, v = self.into(u), torch.zeros_like(u)
        for node in self._order():
            v = _set(v, {node: (v @ self.weights())[:, node] + noise[:, node]})
            if node in (do or {}):
                fixed = self.out.inverse(_set(torch.zeros_like(u), {node: do[node]}))
                v = _set(v, {node: fixed[:, node]})
        return _set(self.out(v), do)


class IndependentSCM(SCM):
    """No mechanism: factors are their own noise, and nothing follows from an intervention."""

    def __init__(self, mask: np.ndarray, rng: torch.Generator | None = None, width: int = 0):
        super().__init__(np.zeros_like(np.asarray(mask)))

    def strength(self, z: torch.Tensor) -> torch.Tensor:
        return self.weights()

    def expected(self, z: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(z)

    def abduct(self, z: torch.Tensor) -> torch.Tensor:
        return z

    def predict(self, u: torch.Tensor, do: dict[int, torch.Tensor | float] | None = None) -> torch.Tensor:
        return _set(u, do)


def make(form: str, mask: np.ndarray, rng: torch.Generator, width: int = 64) -> SCM:
    """An SCM of `form` (see the module) over the edges in `mask`."""
    checks.choice(form, "form", FORMS)
    return {"mlp": MLPSCM, "linear": LinearSCM, "warped": WarpedSCM, "independent": IndependentSCM}[form](mask, rng, width)
