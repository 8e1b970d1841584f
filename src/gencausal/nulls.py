r"""What a probe would find in a network that learned nothing: re-initialised networks (reading list #18).

A probe can read much from random features, so a score means something only against its null: the same search, done on B networks whose weights were drawn anew.

    p = (1 + #{b: T_b >= T}) / (B + 1)                                                                               `Eq. monte-carlo-p`

which is valid at any B, and never zero.
"""

from collections.abc import Callable

import numpy as np
from torch import nn

from gencausal import checks


def monte_carlo_p(observed: float, null) -> float:
    """p of `observed` against the null scores [B], large being surprising (Eq. monte-carlo-p)."""
    null = checks.vector(null, "null")
    return float((1 + (null >= observed).sum()) / (len(null) + 1))


def reinitialised(make: Callable[[int], nn.Module], score: Callable[[nn.Module], float | np.ndarray], seeds: list[int]) -> np.ndarray:
    """Scores of untrained networks `make(seed)`, [B], or [B, m] where `score` gives m of one network; `score` does the whole search, whatever choices it holds."""
    return np.array([score(make(seed)) for seed in seeds])
