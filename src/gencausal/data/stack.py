"""Many tables as one scaled stack on the device: what every stacked network of the study trains on.

Outcomes are standardised by the mean and sd of the factual outcomes of the fit rows and scaled to the sd `OUTCOME_SD`;
covariates are standardised by the fit rows and clipped at +-`CLIP`. Held rows choose stopping rounds; test rows enter nothing.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from gencausal import checks
from gencausal.checkpoints import config_hash, tensor_hash
from gencausal.data.table import CausalTable
from gencausal.seeding import generator as make_generator

CLIP = 6.0
OUTCOME_SD = 0.5  # sd of a scaled outcome; diffusion.SIGMA_DATA is the same number


@dataclass(frozen=True, eq=False)
class Outcomes:
    """S data sets, scaled and on the device. Rows are those of the training part only.

    x [S, n, d] standardised; z [S, n] arms; y [S, n] on the model scale; fit [S, n_fit], held [S, n_held] row numbers;
    x_center, x_scale [S, d]; y_center, y_scale [S] with outcome = y_center + y_scale y, float64, so that a large offset costs no
    digits; units: names of the slices; arms: K.
    """

    x: torch.Tensor
    z: torch.Tensor
    y: torch.Tensor
    fit: torch.Tensor
    held: torch.Tensor
    x_center: np.ndarray
    x_scale: np.ndarray
    y_center: np.ndarray
    y_scale: np.ndarray
    units: tuple[str, ...]
    arms: int

    @property
    def device(self) -> torch.device:
        return self.x.device

    def standardise(self, x: np.ndarray) -> torch.Tensor:
        """Covariates [S, N, d] or [N, d] of any rows on the networks' scale, [S, N, d], on the device."""
        scaled = np.clip((x - self.x_center[:, None]) / self.x_scale[:, None], -CLIP, CLIP)
        return torch.as_tensor(scaled, dtype=torch.float32).to(self.device)

    def generators(self, seed: int, use: str) -> list[torch.Generator]:
        """One random stream a data set for `use`, the same whatever else is in the stack."""
        return [make_generator(seed, use, unit, device=self.device) for unit in self.units]

    def signature(self) -> str:
        """Hash of the data, its scales, the names of its units and the kind of device, for configurations."""
        scales = (torch.as_tensor(a) for a in (self.x_center, self.x_scale, self.y_center, self.y_scale))
        return config_hash({"tensors": tensor_hash(self.x, self.z, self.y, self.fit, self.held, *scales), "units": self.units, "device": self.device.type})


def prepare(x: np.ndarray, t: np.ndarray, y: np.ndarray, fit: np.ndarray, held: np.ndarray, units: list[str], device: torch.device | str = "cpu") -> Outcomes:
    """Scale S data sets by their fit rows: x [S, n, d], t [S, n], y [S, n], fit [S, n_fit], held [S, n_held]."""
    rows = np.take_along_axis(x, fit[:, :, None], 1)
    center, scale = rows.mean(1), rows.std(1)
    scale[np.ptp(rows, 1) == 0] = 1.0
    factual = np.take_along_axis(y, fit, 1)
    y_center, y_scale = factual.mean(1), factual.std(1) / OUTCOME_SD
    if (np.ptp(factual, 1) == 0).any():
        raise checks.InputError("Y is constant on the rows used for fitting; an outcome without variation has no effect to estimate.")
    tensor = lambda a, dtype: torch.as_tensor(a, dtype=dtype, device=device)  # noqa: E731
    empty = tensor(np.zeros((len(x), 0, x.shape[2])), torch.float32)
    data = Outcomes(empty, tensor(t, torch.long), tensor((y - y_center[:, None]) / y_scale[:, None], torch.float32), tensor(fit, torch.long), tensor(held, torch.long),
                    center, scale, y_center, y_scale, tuple(units), int(t.max()) + 1)
    return replace(data, x=data.standardise(x))


def prepare_tables(tables: list[CausalTable], seed: int, device: torch.device | str = "cpu") -> Outcomes:
    """The training rows of `tables` (all of one size and split), a tenth of them held out with `seed`."""
    check_splits(tables)
    splits = [table.validation(seed) for table in tables]
    rows = tables[0].train
    position = np.full(rows.max() + 1, -1)
    position[rows] = np.arange(len(rows))
    return prepare(np.stack([t.x[rows] for t in tables]), np.stack([t.t[rows] for t in tables]), np.stack([t.y[rows] for t in tables]),
                   np.stack([position[s[0]] for s in splits]), np.stack([position[s[1]] for s in splits]), [f"{t.name}/{t.unit}" for t in tables], device)


def check_splits(tables: list[CausalTable]) -> None:
    """Raise InputError unless all tables have the same train and test rows."""
    for table in tables[1:]:
        if not (np.array_equal(table.train, tables[0].train) and np.array_equal(table.test, tables[0].test)):
            raise checks.InputError(f"tables {tables[0].name}/{tables[0].unit} and {table.name}/{table.unit} are split otherwise; stack tables of one split.")


def table_rows(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`values [S, n, ...]` at `index [S, B]` -> [S, B, ...]."""
    return values[torch.arange(len(values), device=values.device)[:, None], index]
