"""What every baseline returns."""

from dataclasses import dataclass

import numpy as np

from gencausal import checks


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a baseline says of a table, in its row order, on the scale of its y.

    method: name of the baseline. mu: potential-outcome means of all rows, [n, K] float64, finite. draws: of the potential outcomes of
    the test rows, [n_test, K, M], sorted stratified draws (quantiles at (j + 1/2)/M) where the baseline gives a law, else None.
    """

    method: str
    mu: np.ndarray
    draws: np.ndarray | None = None

    def effects(self, arm: int = 1, control: int = 0) -> np.ndarray:
        """mu[:, arm] - mu[:, control], [n]."""
        last = self.mu.shape[1] - 1
        return self.mu[:, checks.whole(arm, "arm", 0, last)] - self.mu[:, checks.whole(control, "control", 0, last)]
