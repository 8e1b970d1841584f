r"""Additive-noise SCMs drawn at random, S at once, with everything that real data hide (spec cond_fip, section 3).

    x_j = F_j(x_PA(j)) + n_j,  n_j independent                                                                        `Eq. anm`
    LIN   F_j(x) = b_j + sum_{i in PA(j)} w_ij x_i                                                                     `Eq. lin`
    RFF   F_j(x) = b_j + c_j (2/M)^(1/2) sum_m alpha_m cos(omega_m' x_PA / l_j + phi_m), M = 100                       `Eq. rff`

alpha, omega standard normal, phi uniform on [0, 2 pi): as M grows, a draw from the Gaussian process with kernel c^2 exp(-|x - x'|^2 / 2 l^2) (Rahimi, Recht 2007; AVICI, Lorch et al. 2022).
The ranges of weights, b, l, c and noise scale are those of AVICI (IN) and of Cond-FiP's test sets (OUT; arXiv 2410.06128, appendix B.1); a Laplace noise of scale s has sd s 2^(1/2).

Data are standardised node by node as the paper does: x by mean and sd (one degree of freedom taken off), noise divided by the same sd and not centred, so that F_std = x_std - n_std.

Shapes: S SCMs, n rows, d nodes. `adjacency[s, i, j]` says i -> j. `held [S, n or 1, d]` is an intervention: the value a node is held at, NaN where it is left alone.
"""

import math
from dataclasses import dataclass, replace

import torch

from gencausal import checks
from gencausal.data import scm_graphs

Range = tuple[float, float]


@dataclass(frozen=True)
class Family:
    """A law of SCMs. graphs: kinds of `scm_graphs`, in turn. mechanism: lin or rff. noise: gaussian, laplace, cauchy or gmm (then `components`).

    weight: magnitude of LIN weights, the sign is random. bias, length (l), scale (c), noise_scale: ranges of uniform draws, one a node.
    features: M. shared: one omega, alpha, phi for all nodes of an SCM, as the released generator has it. components: (mean, sd) of an equal-weight mixture.
    """

    name: str
    graphs: tuple[str, ...]
    mechanism: str
    noise: str
    weight: Range = (1.0, 3.0)
    bias: Range = (-3.0, 3.0)
    length: Range = (7.0, 10.0)
    scale: Range = (10.0, 20.0)
    noise_scale: Range = (0.2, 2.0)
    features: int = 100
    shared: bool = False
    components: tuple[Range, ...] = ()

    def shifted(self, alpha: float, what: str) -> "Family":
        """The same law with its `mechanism` (weights and c) or its `noise` alpha times as large (appendix D)."""
        times = lambda bounds: (alpha * bounds[0], alpha * bounds[1])  # noqa: E731
        checks.choice(what, "what", ("mechanism", "noise"))
        return replace(self, noise_scale=times(self.noise_scale)) if what == "noise" else replace(self, weight=times(self.weight), scale=times(self.scale))


_IN, _OUT = dict(graphs=("er", "sf_in", "sf_out"), noise="gaussian"), dict(graphs=("ws", "sbm"), noise="laplace", weight=(0.5, 4.0), length=(5.0, 12.0), scale=(8.0, 22.0))
FAMILIES = {family.name: family for family in (Family("lin_in", mechanism="lin", **_IN), Family("rff_in", mechanism="rff", **_IN), Family("lin_out", mechanism="lin", **_OUT), Family("rff_out", mechanism="rff", **_OUT))}


@dataclass(frozen=True)
class Noise:
    """Independent noise of every node. kind as in `Family`; scale [S, d]; components of a mixture, which is multiplied by `scale`."""

    kind: str
    scale: torch.Tensor
    components: tuple[Range, ...] = ()

    def sample(self, n: int, rng: torch.Generator) -> torch.Tensor:
        """[S, n, d]."""
        shape = (self.scale.shape[0], n, self.scale.shape[1])
        options = dict(generator=rng, device=rng.device)
        if self.kind == "gaussian":
            made = torch.randn(shape, **options)
        elif self.kind == "gmm":
            mean, sd = torch.tensor(self.components, device=rng.device).T
            which = torch.randint(len(self.components), shape, **options)
            made = mean[which] + sd[which] * torch.randn(shape, **options)
        else:
            uniform = torch.rand(shape, dtype=torch.float64, **options).clamp(1e-15, 1 - 1e-15) - 0.5
            made = (-uniform.sign() * torch.log1p(-2 * uniform.abs()) if self.kind == "laplace" else torch.tan(math.pi * uniform)).float()
        return made.to(self.scale.dtype) * self.scale[:, None]

    def log_prob(self, noise: torch.Tensor) -> torch.Tensor:
        """Log density of `noise [S, n, d]`, node by node, [S, n, d]."""
        scale = self.scale[:, None]
        e = noise / scale
        if self.kind == "gaussian":
            value = -0.5 * e.square() - 0.5 * math.log(2 * math.pi)
        elif self.kind == "laplace":
            value = -e.abs() - math.log(2)
        elif self.kind == "cauchy":
            value = -torch.log(math.pi * (1 + e.square()))
        else:
            value = torch.stack([-0.5 * ((e - m) / s).square() - math.log(s) - 0.5 * math.log(2 * math.pi) for m, s in self.components]).logsumexp(0) - math.log(len(self.components))
        return value - scale.log()


@dataclass(frozen=True)
class Linear:
    """`Eq. lin`. weight [S, d, d], parent by child, 0 off the graph; bias [S, d]."""

    weight: torch.Tensor
    bias: torch.Tensor

    def node(self, x: torch.Tensor, node: torch.Tensor) -> torch.Tensor:
        """F of one node of each SCM, `x [S, n, d], node [S] -> [S, n]`."""
        at = torch.arange(len(node), device=x.device)
        return (x @ self.weight[at, :, node][:, :, None])[..., 0] + self.bias[at, node][:, None]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.bias[:, None]


@dataclass(frozen=True)
class Fourier:
    """`Eq. rff`. omega [S, d, M, d], node by feature by parent, divided by l and 0 off the graph; phase, alpha [S, d, M], alpha multiplied by c (2/M)^(1/2); bias [S, d]."""

    omega: torch.Tensor
    phase: torch.Tensor
    alpha: torch.Tensor
    bias: torch.Tensor

    def node(self, x: torch.Tensor, node: torch.Tensor) -> torch.Tensor:
        """F of one node of each SCM, `x [S, n, d], node [S] -> [S, n]`."""
        at = torch.arange(len(node), device=x.device)
        wave = torch.baddbmm(self.phase[at, node][:, None], x, self.omega[at, node].mT).cos()
        return (wave @ self.alpha[at, node][:, :, None])[..., 0] + self.bias[at, node][:, None]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        everyone = torch.ones(len(x), dtype=torch.long, device=x.device)
        return torch.stack([self.node(x, j * everyone) for j in range(x.shape[2])], -1)


@dataclass(frozen=True, eq=False)
class SCMs:
    """S SCMs of one kind of mechanism. adjacency [S, d, d] of bool; order [S, d], a causal order of the nodes; mechanisms: `Linear`, `Fourier` or another object with `node` and call; noise."""

    name: str
    adjacency: torch.Tensor
    order: torch.Tensor
    mechanisms: Linear | Fourier | object
    noise: Noise | object

    def __len__(self) -> int:
        return len(self.adjacency)

    @property
    def d(self) -> int:
        return self.adjacency.shape[1]

    def generate(self, noise_u: torch.Tensor, held: torch.Tensor | None = None) -> torch.Tensor:
        """Data [S, n, d] from noise [S, n, d] (Eq. anm), node by node in causal order; under do() where `held [S, n or 1, d]` is not NaN."""
        x = torch.zeros_like(noise_u)
        at = torch.arange(len(self), device=x.device)
        for node in self.order.T:
            value = self.mechanisms.node(x, node) + noise_u[at, :, node]
            if held is not None:
                fixed = held.expand_as(x)[at, :, node]
                value = torch.where(fixed.isnan(), value, fixed)
            x[at, :, node] = value
        return x

    def abduct(self, x: torch.Tensor) -> torch.Tensor:
        """Noise [S, n, d] that gives `x [S, n, d]`."""
        return x - self.mechanisms(x)

    def sample(self, n: int, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """n rows of each SCM and their noise, [S, n, d] both."""
        noise_u = self.noise.sample(n, rng)
        return self.generate(noise_u), noise_u

    def counterfactual(self, factual: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
        """Abduct, intervene, predict: the same rows [S, n, d] had the nodes been held."""
        return self.generate(self.abduct(factual), held)


def draw(family: Family, stack: int, d: int, rng: torch.Generator, graphs: torch.Tensor | None = None) -> SCMs:
    """`stack` SCMs of d nodes of `family`, node names permuted at random; on the generator's device.

    graphs: [S, d, d] of bool, upper triangular, to draw mechanisms on given graphs.
    """
    checks.choice(family.mechanism, "family.mechanism", ("lin", "rff"))
    checks.choice(family.noise, "family.noise", ("gaussian", "laplace", "cauchy", "gmm"))
    checks.whole(stack, "stack", 1)
    upper = scm_graphs.mixed(family.graphs, stack, d, rng) if graphs is None else graphs.to(rng.device)
    options = dict(generator=rng, device=rng.device)
    uniform = lambda bounds, *shape: bounds[0] + (bounds[1] - bounds[0]) * torch.rand(shape, **options)  # noqa: E731
    order = torch.rand(stack, d, **options).argsort(1)
    place = order.argsort(1)
    adjacency = upper.gather(1, place[:, :, None].expand(-1, -1, d)).gather(2, place[:, None, :].expand(-1, d, -1))
    bias, scale = uniform(family.bias, stack, d), uniform(family.noise_scale, stack, d)
    if family.mechanism == "lin":
        sign = torch.randint(2, (stack, d, d), **options) * 2.0 - 1
        mechanisms = Linear(sign * uniform(family.weight, stack, d, d) * adjacency, bias)
    else:
        nodes, M = (1 if family.shared else d), family.features
        omega = torch.randn(stack, nodes, M, d, **options) / uniform(family.length, stack, d)[:, :, None, None] * adjacency.mT[:, :, None]
        phase, alpha = uniform((0, 2 * math.pi), stack, nodes, M), torch.randn(stack, nodes, M, **options)
        c = uniform(family.scale, stack, d)[:, :, None] * math.sqrt(2 / M)
        mechanisms = Fourier(omega, phase.expand(-1, d, -1), alpha * c, bias)
    return SCMs(family.name, adjacency, order, mechanisms, Noise(family.noise, scale, family.components))


def causal_order(adjacency: torch.Tensor) -> torch.Tensor:
    """A causal order of every graph `adjacency [S, d, d]`, parents first, [S, d]."""
    return scm_graphs.longest_path(adjacency).argsort(dim=-1, stable=True)


@dataclass(frozen=True)
class Scale:
    """Mean and sd of every node, [S, 1, d] both: z = (x - mean) / sd."""

    mean: torch.Tensor
    sd: torch.Tensor

    @classmethod
    def of(cls, x: torch.Tensor) -> "Scale":
        """From the rows `x [S, n, d]`, with n - 1 in the variance; a node that never varies keeps sd 1."""
        sd = x.std(1, keepdim=True)
        return cls(x.mean(1, keepdim=True), torch.where(sd > 0, sd, torch.ones_like(sd)))

    def into(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.sd

    def back(self, z: torch.Tensor) -> torch.Tensor:
        return z * self.sd + self.mean
