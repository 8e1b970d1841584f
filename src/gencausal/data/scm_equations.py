r"""SCMs given by equations: CSuite's seven (Geffner et al. 2022; as the released FiP code generates them), and linear networks such as ecoli70.

s(x) = log(1 + e^x). All are additive-noise models once the noise is N = X - F(parents) with mean zero: at nodes of the form s(1 + p) + s(.5 + Z) - 3 that noise is s(.5 + Z) - E s(.5 + Z), not Z     `Eq. csuite-noise`

    lingauss           X1 = X0 / 2 + 3^(1/2)/2 Z1                     linexp the same with Z = Exp(1) - 1
    nonlingauss        X1 = 6^(1/2) exp(-X0^2) + a Z1, a^2 = 1 - 6 (5^(-1/2) - 1/3), which gives X1 variance 1
    nonlin_simpson     0 -> 1, 0 -> 2, 1 -> 2, 2 -> 3                 symprod_simpson   0 -> 1, 1 -> 2, 0 -> 2, 0 -> 3
    large_backdoor     nine edges, X8 from X6 and X7                  weak_arrow        fifteen edges, X8 from all

`components` replaces every Z by a mixture of normals (mean, sd) of equal weights, as in the paper's tests with Gaussian-mixture noise.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import softplus

from gencausal import checks
from gencausal.data.scms import Linear, Noise, Range, SCMs, causal_order

CSUITE = ("lingauss", "linexp", "nonlingauss", "nonlin_simpson", "symprod_simpson", "large_backdoor", "weak_arrow")
MIXTURES = (((-2, 1), (2, 1)), ((-2, 2), (2, 2)), ((-2, 1), (2, 2)), ((-5, 1), (5, 1)), ((-5, 2), (5, 2)), ((-5, 1), (5, 2)))
_ROOT = math.sqrt


@dataclass(frozen=True)
class Equation:
    """One node. parents; F: their columns to its value, without noise; z: law of Z (normal, laplace, exponential, t3); noise: Z to the additive noise, before its mean is taken off."""

    parents: tuple[int, ...]
    F: Callable[..., torch.Tensor] | float
    z: str = "normal"
    noise: Callable[[torch.Tensor], torch.Tensor] = lambda z: z

    def mean_noise(self, components: tuple[Range, ...]) -> float:
        """E noise(Z), by quadrature for a normal Z or a mixture; 0 for the symmetric laws, whose noise is odd in Z."""
        if self.z != "normal" and not components:
            return 0.0
        points, weights = np.polynomial.hermite_e.hermegauss(80)
        values = [float((self.noise(torch.as_tensor(m + s * points)).numpy() * weights).sum() / weights.sum()) for m, s in (components or ((0.0, 1.0),))]
        return sum(values) / len(values)


@dataclass(frozen=True, eq=False)
class Equations:
    """Mechanisms of one SCM, S = 1; `shift` is the mean taken off each node's noise, which F gets back."""

    rows: tuple[Equation, ...]
    shift: tuple[float, ...]

    def node(self, x: torch.Tensor, node: torch.Tensor) -> torch.Tensor:
        j = int(node)
        equation = self.rows[j]
        value = equation.F(*(x[..., p] for p in equation.parents)) if callable(equation.F) else torch.full_like(x[..., 0], equation.F)
        return value + self.shift[j]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.node(x, torch.tensor([j])) for j in range(len(self.rows))], -1)


@dataclass(frozen=True, eq=False)
class EquationNoise:
    """Noise of `Equations`, mean zero (Eq. csuite-noise)."""

    rows: tuple[Equation, ...]
    shift: tuple[float, ...]
    components: tuple[Range, ...] = ()

    def sample(self, n: int, rng: torch.Generator) -> torch.Tensor:
        """[1, n, d]."""
        return torch.cat([equation.noise(self._z(equation.z, n, rng)) - mean for equation, mean in zip(self.rows, self.shift)], -1)

    def _z(self, law: str, n: int, rng: torch.Generator) -> torch.Tensor:
        one = torch.ones(1, 1, device=rng.device)
        normal = lambda: torch.randn(1, n, 1, generator=rng, device=rng.device)  # noqa: E731
        if self.components:
            return Noise("gmm", one, self.components).sample(n, rng)
        if law == "laplace":
            return Noise("laplace", one).sample(n, rng)
        if law == "exponential":
            return torch.empty(1, n, 1, device=rng.device).exponential_(generator=rng) - 1
        return normal() if law == "normal" else normal() / torch.sqrt((normal() ** 2 + normal() ** 2 + normal() ** 2) / 3)


def csuite(name: str, components: tuple[Range, ...] = (), original: bool = False) -> SCMs:
    """One SCM of CSUITE, S = 1. original: constants of the CSuite simulator where the FiP code has others."""
    checks.choice(name, "name", CSUITE)
    rows = _EQUATIONS[name](original)
    shift = tuple(row.mean_noise(components) for row in rows)
    adjacency = torch.zeros(1, len(rows), len(rows), dtype=torch.bool)
    for j, row in enumerate(rows):
        adjacency[0, list(row.parents), j] = True
    return SCMs(f"csuite_{name}", adjacency, causal_order(adjacency), Equations(rows, shift), EquationNoise(rows, shift, components))


def linear_gaussian(name: str, weight: np.ndarray, intercept: np.ndarray, variance: np.ndarray) -> SCMs:
    """A linear-Gaussian network as `SCMs` with S = 1: weight [d, d] parent by child, intercept and noise variance [d]."""
    weight = torch.as_tensor(np.asarray(weight), dtype=torch.float32)[None]
    adjacency = weight != 0
    noise = Noise("gaussian", torch.as_tensor(np.sqrt(variance), dtype=torch.float32)[None])
    return SCMs(name, adjacency, causal_order(adjacency), Linear(weight, torch.as_tensor(np.asarray(intercept), dtype=torch.float32)[None]), noise)


def _scaled(factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda z: factor * z


def _soft(z: torch.Tensor) -> torch.Tensor:
    return softplus(0.5 + z)


def _up(p: torch.Tensor) -> torch.Tensor:
    """The part of l+ that is no noise: s(1 + p) - 3."""
    return softplus(1 + p) - 3


def _down(p: torch.Tensor) -> torch.Tensor:
    return softplus(1.5 - p) - 3


def _pair(law: str) -> Callable[[bool], tuple[Equation, ...]]:
    return lambda original: (Equation((), 0.0, law), Equation((0,), lambda a: a / 2, law, _scaled(_ROOT(3) / 2)))


def _nonlingauss(original: bool) -> tuple[Equation, ...]:
    return Equation((), 0.0), Equation((0,), lambda a: _ROOT(6) * torch.exp(-(a**2)), noise=_scaled(_ROOT(1 - 6 * (1 / _ROOT(5) - 1 / 3))))


def _nonlin_simpson(original: bool) -> tuple[Equation, ...]:
    offset, sd = (-1.5, 0.15) if original else (0.0, _ROOT(3 / 20))
    return (Equation((), 0.0), Equation((0,), lambda a: softplus(1 - a) + offset, noise=_scaled(sd)), Equation((0, 1), lambda a, b: torch.tanh(2 * b) + 1.5 * a - 1, noise=torch.tanh),
            Equation((2,), lambda c: 5 * torch.tanh((c - 4) / 5) + 3, "laplace", _scaled(0.1)))


def _symprod_simpson(original: bool) -> tuple[Equation, ...]:
    first, times, offset, last = (0.1, 1, 0, 0.3) if original else (_ROOT(1 / 10), 5, 3, _ROOT(3 / 10))
    return (Equation((), 0.0), Equation((0,), lambda a: 2 * torch.tanh(2 * a), "t3", _scaled(first)), Equation((0, 1), lambda a, b: a * b / 2, "laplace", _scaled(0.5)),
            Equation((0,), lambda a: times * torch.tanh(1.5 * a) + offset, noise=_scaled(last)))


def _root() -> Equation:
    return Equation((), -1.0, noise=lambda z: softplus(1.8 * z))


def _large_backdoor(original: bool) -> tuple[Equation, ...]:
    first, last = (0.25, 0.3) if original else (0.5, _ROOT(0.3))
    start = float(softplus(torch.tensor(0.5)))
    return (_root(), Equation((0,), lambda a: 1.5 * (_up(a) + start), noise=_scaled(first)), *(Equation((p,), _up, noise=_soft) for p in range(5)),
            Equation((5,), lambda e: 1.5 * softplus(e + 1) - 1, noise=_scaled(last)), Equation((6, 7), lambda f, g: -softplus((-1.3 * f + g) / 3 + 1) + 2, "laplace", _scaled(0.6)))


def _weak_arrow(original: bool) -> tuple[Equation, ...]:
    first, last = (0.75, 0.3) if original else (_ROOT(0.75), _ROOT(0.3))
    start = float(softplus(torch.tensor(0.5)))
    return (_root(), Equation((0,), lambda a: 0.75 * (_up(a) + start), noise=_scaled(first)), Equation((0,), _down, noise=_soft), Equation((1,), _down, noise=_soft), *(Equation((p,), _up, noise=_soft) for p in (2, 3, 4)),
            Equation((5,), lambda e: 1.5 * softplus(e + 1) - 1, noise=_scaled(last)),
            Equation(tuple(range(8)), lambda *p: softplus(0.1 * sum(p[:6]) + 0.5 * p[6] + 0.7 * p[7] + 1) - 2, "laplace", _scaled(0.5)))


_EQUATIONS = {"lingauss": _pair("normal"), "linexp": _pair("exponential"), "nonlingauss": _nonlingauss, "nonlin_simpson": _nonlin_simpson, "symprod_simpson": _symprod_simpson,
              "large_backdoor": _large_backdoor, "weak_arrow": _weak_arrow}
