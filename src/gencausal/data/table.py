"""One table of an observational study together with what a real study hides: the potential outcomes and their means.

Notation: covariates x, treatment t in {0, ..., K-1}, factual outcome y = Y(t), potential outcomes Y(k) with conditional
means mu_k(x) = E[Y(k) | x], propensity e(x) = P(t = 1 | x).
"""

from dataclasses import dataclass, field

import numpy as np

from gencausal import seeding


def split(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Train and test row numbers of a file with `n` rows, in file order (spec/iwdd.md 3.6, the rule of the released code).

    The first floor(0.8 n) rows train, the rest test; where that count or floor(0.2 n) leaves 1 modulo 8, three more rows train.
    """
    start = 4 * n // 5
    if start % 8 == 1 or n // 5 % 8 == 1:
        start += 3
    return np.arange(start), np.arange(start, n)


@dataclass(frozen=True, eq=False)
class CausalTable:
    """A data set of `n` units with its truth beside it.

    name: data set, as in the result rows. unit: ACIC setting, IHDP replication, ... as text.
    x: covariates, [n, d] float64, on their own scale. t: treatment arm, [n] int64. y: factual outcome, [n] float64.
    mu: conditional mean of each potential outcome, [n, K]. potential: the potential outcomes, noise included, [n, K].
    propensity: the true e(x), [n] in [0, 1], or None where it is not published.
    covariates: names of the d columns of x. train, test: row numbers, disjoint, together all rows.
    """

    name: str
    unit: str
    x: np.ndarray
    t: np.ndarray
    y: np.ndarray
    mu: np.ndarray
    potential: np.ndarray
    propensity: np.ndarray | None
    covariates: list[str]
    train: np.ndarray = field(repr=False)
    test: np.ndarray = field(repr=False)

    def validation(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """(fit, validation) row numbers: a tenth of the train rows (rounded down), drawn with `seed`, is held out; both sorted."""
        order = seeding.numpy_generator(seed, "validation").permutation(self.train)
        held = len(order) // 10
        return np.sort(order[held:]), np.sort(order[:held])
