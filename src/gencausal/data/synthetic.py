"""The 1-D design of spec/iwdd.md 3.1 (Figures 2 and 3 of arXiv 2505.11444), with a dial for overlap.

    x ~ N(0, 1),    e(x) = sigmoid(-k (x + 1)),    Y(z) = sin(2x) + z exp(x) + eps_z,    eps_z ~ N(0, 0.01)

k = inf is the paper's design, z = 1{x < -1}: no overlap at all, so that Y(1) for x > -1 and Y(0) for x < -1 are not
identified. There P(z = 1) = Phi(-1) = 0.159. The effect is exp(x), whose root mean square is e.
"""

import math

import numpy as np
from scipy.special import expit

from gencausal import checks, seeding
from gencausal.data.table import CausalTable

NOISE_SD = 0.1


def load(seed: int, k: float = math.inf, n_train: int = 5000, n_test: int = 5000) -> CausalTable:
    """Draw the design: x [n_train + n_test, 1]; the first rows train (z by e(x)), the others test (z ~ Bernoulli(0.5)).

    k: steepness of the propensity, in (0, inf]. propensity is e(x), the law of the training rows, at every row.
    The same seed gives the same x and noise at every k.
    """
    seed, n_train, n_test = checks.whole(seed, "seed", 0), checks.whole(n_train, "n_train"), checks.whole(n_test, "n_test")
    k = math.inf if k == math.inf else checks.positive(k, "k")
    n = n_train + n_test
    x = seeding.numpy_generator(seed, "synthetic_1d", "x").standard_normal(n)
    e = (x < -1).astype(np.float64) if k == math.inf else expit(-k * (x + 1))
    law = np.where(np.arange(n) < n_train, e, 0.5)
    t = (seeding.numpy_generator(seed, "synthetic_1d", "t").random(n) < law).astype(np.int64)
    mu = np.stack([np.sin(2 * x), np.sin(2 * x) + np.exp(x)], axis=1)
    potential = mu + NOISE_SD * seeding.numpy_generator(seed, "synthetic_1d", "noise").standard_normal((n, 2))
    return CausalTable(
        name="synthetic_1d",
        unit=f"k={k:g}",
        x=x[:, None],
        t=t,
        y=potential[np.arange(n), t],
        mu=mu,
        potential=potential,
        propensity=e,
        covariates=["x"],
        train=np.arange(n_train),
        test=np.arange(n_train, n),
    )
