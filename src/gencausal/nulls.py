r"""What a probe would find in a network that learned nothing: re-initialised networks and permutations (reading list #18).

A probe can read much from random features, so a score means something only against its null: the same search, done on B networks whose weights were drawn anew.

    p = (1 + #{b: T_b >= T}) / (B + 1)                                                                               `Eq. monte-carlo-p`

which is valid at any B, and never zero.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from gencausal import checks


def monte_carlo_p(observed: float, null) -> float:
    """p of `observed` against the null scores [B], large being surprising (Eq. monte-carlo-p)."""
    null = checks.vector(null, "null")
    return float((1 + (null >= observed).sum()) / (len(null) + 1))


def reinitialised(make: Callable[[int], nn.Module], score: Callable[[nn.Module], float | np.ndarray], seeds: list[int]) -> np.ndarray:
    """Scores of untrained networks `make(seed)`, [B], or [B, m] where `score` gives m of one network; `score` does the whole search, whatever choices it holds."""
    return np.array([score(make(seed)) for seed in seeds])


@torch.no_grad()
def shuffled_weights(module: nn.Module, rng: torch.Generator) -> nn.Module:
    """A copy whose parameters are permuted within each tensor: a null that keeps every tensor's distribution of weights."""
    made = copy.deepcopy(module)
    for parameter in made.parameters():
        flat = parameter.reshape(-1)
        parameter.copy_(flat[torch.randperm(len(flat), generator=rng, device=rng.device)].reshape(parameter.shape))
    return made


def permuted(score: Callable[[np.ndarray], float], labels: np.ndarray, rng: np.random.Generator, draws: int, strata: np.ndarray | None = None) -> np.ndarray:
    """Scores under permuted `labels`, [draws]; within `strata` where given, so that only what is exchangeable is exchanged."""
    labels, groups = np.asarray(labels), [np.arange(len(labels))] if strata is None else [np.flatnonzero(np.asarray(strata) == value) for value in np.unique(strata)]
    scores = []
    for _ in range(checks.whole(draws, "draws")):
        mixed = labels.copy()
        for group in groups:
            mixed[group] = labels[rng.permutation(group)]
        scores.append(score(mixed))
    return np.array(scores)
