"""Images with known factors: what every image set of the study returns, and its split."""

from dataclasses import dataclass, field

import networkx as nx
import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class Scenes:
    """Images with the truth beside them.

    name: data set, as in the result rows. images: [N, C, H, W] float32 in [0, 1]. factors: [N, n] float64 in the units of the generator; names: of its columns.
    noise: exogenous noise of each factor, [N, n] (roots: the factor itself). graph: networkx DiGraph over names.
    train, test: row numbers, disjoint. block: row numbers inside a region of the factors that `train_outside` leaves out, so that a test row there has no
    neighbour among the training rows. base: what an image was made from besides its factors, [N, C, S, S], where they do not fix it.
    """

    name: str
    images: torch.Tensor
    factors: torch.Tensor
    noise: torch.Tensor
    names: tuple[str, ...]
    graph: nx.DiGraph
    train: np.ndarray = field(repr=False)
    test: np.ndarray = field(repr=False)
    block: np.ndarray = field(repr=False)
    base: torch.Tensor | None = field(default=None, repr=False)

    @property
    def train_outside(self) -> np.ndarray:
        """Training rows outside the block."""
        return np.setdiff1d(self.train, self.block)


def every_fourth(n: int) -> tuple[np.ndarray, np.ndarray]:
    """(train, test) of the public Pendulum generator: in generation order the fifth image and then every fourth is test."""
    test = np.arange(4, n, 4)
    return np.setdiff1d(np.arange(n), test), test


def every_fifth(n: int) -> tuple[np.ndarray, np.ndarray]:
    """(train, test) of the public Flow generator: every fifth image is test."""
    test = np.arange(4, n, 5)
    return np.setdiff1d(np.arange(n), test), test
