"""Random streams as arguments: one generator for each use, derived from a seed and a name.

Nothing here or elsewhere in the package seeds globally. Streams with different names are independent, so that
drawing one more evaluation sample never moves the training.
"""

import hashlib
import json

import numpy as np
import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed that depends on every argument: SHA-256 of `(seed, *names)`."""
    digest = hashlib.sha256(json.dumps([int(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator on `device` for the stream `names` of `seed`."""
    return torch.Generator(device=device).manual_seed(derive(seed, *names))


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """A numpy generator for the stream `names` of `seed`."""
    return np.random.default_rng(derive(seed, *names))


def stacked(draw, generators: list[torch.Generator], *arguments) -> torch.Tensor:
    """One draw a generator, stacked: `draw(*arguments, generator=g, device=g.device)` for each, [len(generators), ...].

    With one generator for each network of a stack, a network sees the same numbers alone or in company.
    """
    return torch.stack([draw(*arguments, generator=g, device=g.device) for g in generators])
