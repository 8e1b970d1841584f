"""What every method on cells reads: one table of outcomes, treatments and covariates, and the rows it may train on.

Shapes: n cells, G genes (or other outcomes), T treatment columns, C one-hot covariate columns.
"""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class CellTable:
    """Cells with their treatment and covariates, as arrays; checked where it is made.

    name, unit: of the data set and of the case (held-out group, replication) for result rows.
    outcome: [n, G] float32, log-normalised expression, counts, or any outcome; genes: their names, length G.
    treatment: [n, T] float32, one-hot times dose, summed over the parts of a combination; the control has a column of its own.
    treatment_names: length T. condition: [n] int64 index into `conditions`, the distinct (treatment, dose) rows; conditions: their names; condition_treatment: [K, T].
    control: index of the control in `conditions`.
    covariates: [n, C] float32, one-hot blocks side by side; blocks: their widths, summing to C.
    stratum: [n] int64 index into `strata`, the distinct covariate combinations; strata: their names; stratum_covariates: [X, C].
    train, test: row numbers, disjoint; a held-out group is in test alone.
    outcome_cf: [n, K, G] true outcomes under every condition where a simulator knows them, else None. latent: [n, L] true noise where known, else None.
    """

    name: str
    unit: str
    outcome: np.ndarray
    genes: tuple[str, ...]
    treatment: np.ndarray
    treatment_names: tuple[str, ...]
    condition: np.ndarray
    conditions: tuple[str, ...]
    condition_treatment: np.ndarray
    control: int
    covariates: np.ndarray
    blocks: tuple[int, ...]
    stratum: np.ndarray
    strata: tuple[str, ...]
    stratum_covariates: np.ndarray
    train: np.ndarray
    test: np.ndarray
    outcome_cf: np.ndarray | None = None
    latent: np.ndarray | None = None

    @property
    def n(self) -> int:
        return len(self.outcome)

    def rows(self, stratum: int, condition: int, within: np.ndarray | None = None) -> np.ndarray:
        """Row numbers of one (stratum, condition) group, among `within` (all rows if None)."""
        rows = np.arange(self.n) if within is None else within
        return rows[(self.stratum[rows] == stratum) & (self.condition[rows] == condition)]

    def hold_out(self, groups: list[tuple[int, int]], unit: str, rng: np.random.Generator | None = None, test_share: float = 0.0) -> "CellTable":
        """The same cells with the (stratum, condition) `groups` wholly in test, and `test_share` of the other rows, drawn by `rng`, too."""
        held = np.zeros(self.n, bool)
        for stratum, condition in groups:
            held |= (self.stratum == stratum) & (self.condition == condition)
        if test_share:
            others = np.flatnonzero(~held)
            held[rng.permutation(others)[:round(test_share * len(others))]] = True
        return replace(self, unit=unit, train=np.flatnonzero(~held), test=np.flatnonzero(held))
