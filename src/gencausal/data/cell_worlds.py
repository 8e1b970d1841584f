r"""Cells made up with known counterfactuals (spec vci, E1), and the linear world of oracle 21.

Notation: stratum X, exogenous noise Z (`latent`), treatment T with K = 3 levels (0 the control), outcome Y of G dimensions, outcome noise e.

    X ~ uniform on {0, 1, 2},   Z | X ~ N(m_X, I_5),   T | X ~ softmax(l_X),  l_xt = ln 5 * (1 - ((t - x) mod 3) / 2)   `Eq. world-propensity`
    Y_a = A tanh(B [Z, W_a (1 + 0.5 Z_1)]) + 0.05 e,   e ~ N(0, I_G),   Y = Y_T                                        `Eq. world-outcome`

Z and e are shared by all worlds of a cell, so a counterfactual at its own treatment is the outcome itself. T is confounded with Z through X alone, at odds up to 5 : 1. A [G, 20], B [20, 8], W [K, 3]
hold draws of N(0, 1 / fan-in), fan-in 20, 8 and K, m [3, 5] of N(0, 1); the seed `world` draws these, `seed` the cells. Each unit of the hidden layer is the tanh of a Gaussian, whence the exact means

    E[Y_a | X = x] = A (E tanh(mu_j + s_j xi))_j,  xi ~ N(0, 1),  mu = B [m_x, W_a (1 + 0.5 m_x1)],  s_j = |B_j,:5 + 0.5 (B_j,5: W_a) u_1|   `Eq. world-mean`

Linear world, with a + c t != 0 at both treatments and no noise beside Z:   Y_t = a Z + b t + c Z t,  Z = (Y - b t) / (a + c t)           `Eq. linear-world`
"""

import math
from dataclasses import dataclass

import numpy as np

from gencausal import checks, seeding
from gencausal.data.cell_table import CellTable

STRATA, CONDITIONS, LATENT, HIDDEN, CODE = 3, 3, 5, 20, 3
ODDS, NOISE, HETEROGENEITY = 5.0, 0.05, 0.5
PROPENSITY = ODDS ** (1 - ((np.arange(CONDITIONS) - np.arange(STRATA)[:, None]) % CONDITIONS) / 2)
PROPENSITY /= PROPENSITY.sum(1, keepdims=True)


@dataclass(frozen=True)
class World:
    """Parameters of one world: A [G, 20], B [20, 8], W [K, 3], m [3, 5], float64."""

    A: np.ndarray
    B: np.ndarray
    W: np.ndarray
    m: np.ndarray

    def respond(self, latent: np.ndarray, treatment: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Outcomes [n, G] of cells with `latent [n, 5]` and `noise [n, G]` (unit variance) under `treatment [n]` (Eq. world-outcome): the oracle predictor where both are the true ones."""
        code = self.W[treatment] * (1 + HETEROGENEITY * latent[:, :1])
        return np.tanh(np.concatenate([latent, code], 1) @ self.B.T) @ self.A.T + NOISE * noise

    def means(self) -> np.ndarray:
        """E[Y_a | X = x], [3, K, G], by Gauss-Hermite quadrature in one dimension (Eq. world-mean)."""
        at, weight = np.polynomial.hermite_e.hermegauss(100)
        slope = self.B[:, LATENT:] @ self.W.T
        mu = (self.m @ self.B[:, :LATENT].T)[:, None] + (1 + HETEROGENEITY * self.m[:, :1, None]) * slope.T
        loading = np.repeat(self.B[None, :, :LATENT], CONDITIONS, 0)
        loading[..., 0] += HETEROGENEITY * slope.T
        hidden = np.tanh(mu[..., None] + np.linalg.norm(loading, axis=-1)[..., None] * at) @ (weight / weight.sum())
        return hidden @ self.A.T

    def draw(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """n cells of the world: stratum [n], treatment [n], latent [n, 5] and noise [n, G]."""
        stratum = rng.integers(STRATA, size=n)
        treatment = (rng.random((n, 1)) > PROPENSITY.cumsum(1)[stratum, :-1]).sum(1)
        return stratum, treatment, self.m[stratum] + rng.standard_normal((n, LATENT)), rng.standard_normal((n, len(self.A)))


def make_world(world: int = 0, genes: int = 100) -> World:
    """The world number `world`, with `genes` outcomes."""
    rng = seeding.numpy_generator(checks.whole(world, "world", 0), "cell-world", checks.whole(genes, "genes"))
    shapes = {"A": (genes, HIDDEN), "B": (HIDDEN, LATENT + CODE), "W": (CONDITIONS, CODE)}
    fan_in = {"A": HIDDEN, "B": LATENT + CODE, "W": CONDITIONS}
    drawn = {name: rng.standard_normal(shape) / math.sqrt(fan_in[name]) for name, shape in shapes.items()}
    return World(**drawn, m=rng.standard_normal((STRATA, LATENT)))


def cell_world(world: int = 0, seed: int = 0, train: int = 5000, test: int = 2000, genes: int = 100) -> CellTable:
    """`train` + `test` cells of world `world`, drawn by `seed`, with the true outcomes under every treatment and the true latent."""
    made = make_world(world, genes)
    n = checks.whole(train, "train") + checks.whole(test, "test")
    stratum, treatment, latent, noise = made.draw(n, seeding.numpy_generator(checks.whole(seed, "seed", 0), "cell-world-draw", world))
    outcome_cf = np.stack([made.respond(latent, np.full(n, a), noise) for a in range(CONDITIONS)], 1)
    return _table("vci_synthetic", f"world {world}", outcome_cf, stratum, treatment, latent, train, STRATA)


def propensity(table: CellTable) -> np.ndarray:
    """True P(T | X) of each cell of a `cell_world` table, [n, K] (Eq. world-propensity)."""
    return PROPENSITY[table.stratum]


@dataclass(frozen=True)
class LinearWorld:
    """Scalar a, b, c of Eq. linear-world, with treatments 0 and 1."""

    a: float = 1.0
    b: float = 2.0
    c: float = 0.5

    def respond(self, latent: np.ndarray, treatment: np.ndarray) -> np.ndarray:
        """Outcomes a Z + b t + c Z t of `latent` and `treatment`, which broadcast."""
        return self.a * latent + self.b * treatment + self.c * latent * treatment

    def abduct(self, outcome: np.ndarray, treatment: np.ndarray) -> np.ndarray:
        """The latent (Y - b t) / (a + c t) behind `outcome` under `treatment`."""
        return (outcome - self.b * treatment) / (self.a + self.c * treatment)

    def counterfactual(self, outcome: np.ndarray, treatment: np.ndarray, treatment_cf: np.ndarray) -> np.ndarray:
        """The exact outcome under `treatment_cf` of a cell seen as `outcome` under `treatment`."""
        return self.respond(self.abduct(outcome, treatment), treatment_cf)


def linear_world(seed: int = 0, train: int = 1000, test: int = 500, parameters: LinearWorld | None = None) -> CellTable:
    """Cells with one scalar outcome (Eq. linear-world): X in {0, 1} uniform, Z ~ N(2 X - 1, 1), P(T = 1 | X) = 1/4 or 3/4; the outcomes under both treatments are exact."""
    parameters = parameters or LinearWorld()
    if parameters.a == 0 or parameters.a + parameters.c == 0:
        raise checks.InputError("parameters must have a and a + c other than 0, or the outcome does not determine the latent; change a or c.")
    n = checks.whole(train, "train") + checks.whole(test, "test")
    rng = seeding.numpy_generator(checks.whole(seed, "seed", 0), "linear-cells")
    stratum = rng.integers(2, size=n)
    treatment = (rng.random(n) < 0.25 + 0.5 * stratum).astype(int)
    latent = 2.0 * stratum - 1 + rng.standard_normal(n)
    outcome_cf = parameters.respond(latent[:, None], np.arange(2.0))[..., None]
    return _table("vci_linear", "all", outcome_cf, stratum, treatment, latent[:, None], train, 2)


def _table(name: str, unit: str, outcome_cf: np.ndarray, stratum: np.ndarray, treatment: np.ndarray, latent: np.ndarray, train: int, strata: int) -> CellTable:
    """The cells as a table whose first `train` rows are for training."""
    n, conditions, genes = outcome_cf.shape
    one_hot, covariates = np.eye(conditions, dtype=np.float32), np.eye(strata, dtype=np.float32)
    names = tuple("control" if t == 0 else f"treatment {t}" for t in range(conditions))
    outcome_cf = outcome_cf.astype(np.float32)
    return CellTable(
        name=name, unit=unit, outcome=outcome_cf[np.arange(n), treatment], genes=tuple(f"gene {g}" for g in range(genes)),
        treatment=one_hot[treatment], treatment_names=names, condition=treatment.astype(np.int64), conditions=names, condition_treatment=one_hot, control=0,
        covariates=covariates[stratum], blocks=(strata,), stratum=stratum.astype(np.int64), strata=tuple(f"X = {x}" for x in range(strata)), stratum_covariates=covariates,
        train=np.arange(train), test=np.arange(train, n), outcome_cf=outcome_cf, latent=latent.astype(np.float32),
    )
