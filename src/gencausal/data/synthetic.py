r"""Designs with a known law: the 1-D design of spec/iwdd.md 3.1 (Figures 2 and 3 of arXiv 2505.11444) with a dial for overlap, the same
design with several arms, and three outcomes that are not Gaussian with constant variance.

`Eq. design`:   x ~ N(0, 1),    p(t = j | x) prop. to exp(-k (x + 1) j),    Y(j) = sin(2x) + j / (K - 1) exp(x) + eps_j,    eps_j ~ N(0, 0.01)

With K = 2 arms e(x) = sigmoid(-k (x + 1)) and Y(z) = sin(2x) + z exp(x) + eps_z. k = inf is the paper's design, z = 1{x < -1}: no overlap
at all, so that Y(1) for x > -1 and Y(0) for x < -1 are not identified. There P(z = 1) = Phi(-1) = 0.159. The effect is exp(x), whose root
mean square is e.

`Eq. laws-of-outcomes` (x = (a, b) ~ N(0, I_2), e(x) = sigmoid(-a), m_z = sin(2a) + z (1 + a / 2), u standard normal):

    bimodal          Y(z) = m_z + (1 + z / 2) s + 0.25 u,     s = 1 with probability pi(x) = sigmoid(b), else -1
    skewed           Y(z) = m_z + (0.4 + 0.4 z) (exp(0.8 u) - exp(0.32)),   a log-normal of mean zero
    heteroscedastic  Y(z) = m_z + (0.1 + (0.6 + 0.6 z) sigmoid(2b)) u
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.special import expit, ndtr, ndtri, softmax

from gencausal import checks, seeding
from gencausal.data.table import CausalTable

NOISE_SD = 0.1
LAWS = ("bimodal", "skewed", "heteroscedastic")
MODE_SD, SHAPE = 0.25, 0.8  # sd of one mode; sd of the logarithm of the skewed noise


def arm_probabilities(x: np.ndarray, k: float, arms: int = 2) -> np.ndarray:
    """p(t = j | x) of the training rows, [n, K], at x [n] (Eq. design); k = inf puts all mass on the last arm for x < -1, else on arm 0."""
    if k == math.inf:
        return np.eye(arms)[np.where(x < -1, arms - 1, 0)]
    return softmax(-k * (x[:, None] + 1) * np.arange(arms), axis=1)


def load_arms(seed: int, arms: int = 3, k: float = 1.0, n_train: int = 5000, n_test: int = 5000) -> CausalTable:
    """Draw the design with K = `arms` arms (Eq. design): x [n_train + n_test, 1]; the first rows train (t by p(t | x)), the others test (t uniform).

    k: steepness of the assignment, in (0, inf]. propensity is e(x) of the training rows at every row, with two arms; None with more
    (`arm_probabilities` gives it). The same seed gives the same x and noise at every k.
    """
    seed, n_train, n_test = checks.whole(seed, "seed", 0), checks.whole(n_train, "n_train"), checks.whole(n_test, "n_test")
    arms, k = checks.whole(arms, "arms", 2), math.inf if k == math.inf else checks.positive(k, "k")
    n = n_train + n_test
    x = seeding.numpy_generator(seed, "synthetic_1d", "x").standard_normal(n)
    p = arm_probabilities(x, k, arms)
    law = np.where(np.arange(n)[:, None] < n_train, p, 1 / arms)
    above = law[:, ::-1].cumsum(1)[:, ::-1][:, 1:]  # p(t >= j), j = 1, ..., K - 1
    t = (seeding.numpy_generator(seed, "synthetic_1d", "t").random(n)[:, None] < above).sum(1)
    mu = np.sin(2 * x)[:, None] + np.arange(arms) / (arms - 1) * np.exp(x)[:, None]
    potential = mu + NOISE_SD * seeding.numpy_generator(seed, "synthetic_1d", "noise").standard_normal((n, arms))
    return _table("synthetic_1d" if arms == 2 else f"synthetic_{arms}_arms", f"k={k:g}", x[:, None], t, mu, potential, p[:, 1] if arms == 2 else None, n_train)


def load(seed: int, k: float = math.inf, n_train: int = 5000, n_test: int = 5000) -> CausalTable:
    """The two-arm design of the paper, by default its deterministic assignment: `load_arms` with arms = 2."""
    return load_arms(seed, 2, k, n_train, n_test)


class Law(NamedTuple):
    """A table and the exact quantiles of its potential outcomes: `quantiles [n, K, m]` at levels (j + 1/2) / m of every row."""

    table: CausalTable
    quantiles: np.ndarray


def load_law(kind: str, seed: int, n_train: int = 2000, n_test: int = 1000, levels: int = 100) -> Law:
    """Draw an outcome of one of `LAWS` (Eq. laws-of-outcomes): x [n, 2], two arms, e(x) = sigmoid(-a) for every row, train rows first.

    The quantiles are exact (closed form; for the mixture the root of its distribution function, to 1e-9 in level). mu is the mean of the law.
    """
    checks.choice(kind, "kind", LAWS)
    seed, n_train, n_test, levels = checks.whole(seed, "seed", 0), checks.whole(n_train, "n_train"), checks.whole(n_test, "n_test"), checks.whole(levels, "levels")
    n, draw = n_train + n_test, lambda use: seeding.numpy_generator(seed, "synthetic_law", kind, use)
    x = draw("x").standard_normal((n, 2))
    e = expit(-x[:, 0])
    t = (draw("t").random(n) < e).astype(np.int64)
    p = (np.arange(levels) + 0.5) / levels
    u = draw("noise").random((n, 2))
    return Law(_table(f"synthetic_{kind}", f"draw {seed}", x, t, law_mean(kind, x), quantile(kind, x, u[..., None])[..., 0], e, n_train), quantile(kind, x, np.broadcast_to(p, (n, 2, levels))))


def _center(x: np.ndarray) -> np.ndarray:
    """m_z(x), [n, 2]."""
    z = np.arange(2)
    return np.sin(2 * x[:, :1]) + z * (1 + x[:, :1] / 2)


def modes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bimodal law at x [n, 2]: centres of its two modes, [n, 2 arms, 2], and their masses, [n, 2 arms, 2]; the lower mode first."""
    shift = (1 + np.arange(2) / 2)[:, None] * np.array([-1.0, 1.0])
    upper = np.broadcast_to(expit(x[:, 1])[:, None], (len(x), 2))
    return _center(x)[:, :, None] + shift, np.stack([1 - upper, upper], -1)


def law_mean(kind: str, x: np.ndarray) -> np.ndarray:
    """E[Y(z) | x], [n, 2]."""
    if kind != "bimodal":
        return _center(x)
    centre, mass = modes(x)
    return (centre * mass).sum(-1)


def quantile(kind: str, x: np.ndarray, level: np.ndarray) -> np.ndarray:
    """The quantile function of Y(z) | x of one of `LAWS` at `level [n, 2, m]` in (0, 1): [n, 2, m]."""
    z = np.arange(2)
    if kind == "skewed":
        return _center(x)[:, :, None] + (0.4 + 0.4 * z)[:, None] * (np.exp(SHAPE * ndtri(level)) - math.exp(SHAPE**2 / 2))
    if kind == "heteroscedastic":
        return _center(x)[:, :, None] + (0.1 + (0.6 + 0.6 * z) * expit(2 * x[:, 1:]))[:, :, None] * ndtri(level)
    centre, mass = (a[:, :, None] for a in modes(x))
    low, high = (np.broadcast_to(end, level.shape) for end in (centre.min(-1) - 10 * MODE_SD, centre.max(-1) + 10 * MODE_SD))
    y = (low + high) / 2
    for _ in range(25):  # Newton's step where it stays inside the bracket, else its middle
        scores = (y[..., None] - centre) / MODE_SD
        excess, density = (mass * ndtr(scores)).sum(-1) - level, (mass * np.exp(-0.5 * scores**2)).sum(-1) / (MODE_SD * math.sqrt(2 * math.pi))
        low, high = np.where(excess < 0, y, low), np.where(excess < 0, high, y)
        step = y - excess / np.maximum(density, 1e-300)
        y = np.where(np.abs(excess) < 1e-15, y, np.where((step > low) & (step < high), step, (low + high) / 2))
        if np.abs(excess).max() < 1e-13:
            break
    return y


def _table(name: str, unit: str, x: np.ndarray, t: np.ndarray, mu: np.ndarray, potential: np.ndarray, propensity: np.ndarray | None, n_train: int) -> CausalTable:
    """The table of a drawn design; its first `n_train` rows train."""
    covariates = ["x"] if x.shape[1] == 1 else [f"x_{i + 1}" for i in range(x.shape[1])]
    return CausalTable(name=name, unit=unit, x=x, t=t.astype(np.int64), y=potential[np.arange(len(t)), t], mu=mu, potential=potential, propensity=propensity,
                       covariates=covariates, train=np.arange(n_train), test=np.arange(n_train, len(t)))
