"""Checks at the door: wrong input gets one clear sentence that names the argument and the fix, before work starts.

Each function returns the value in the form the caller computes with, or raises `InputError`.
"""

import numbers
from collections.abc import Sequence

import numpy as np


class InputError(ValueError):
    """An argument or a file that cannot be used; the message is one sentence with the fix."""


def _array(values, name: str) -> np.ndarray:
    """`values` as float64, whatever holds them (list, array, DataFrame, tensor)."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} must hold numbers only; encode text or category columns first (for example pandas.get_dummies).") from None


def matrix(values, name: str = "X", columns: int | None = None) -> np.ndarray:
    """Finite float64 matrix [n, d] with at least one row and one column; `columns` demands that many.

    The first NaN or infinite cell is named by row (counted from 0) and column (its label where `values` is a DataFrame).
    """
    array = _array(values, name)
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(f"{name} must be a table with rows and columns, not of shape {array.shape}; one column needs {name}.reshape(-1, 1).")
    if columns is not None and array.shape[1] != columns:
        raise InputError(f"{name} has {array.shape[1]} columns but {columns} are expected; pass the same columns, in the same order, as before.")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        row, column = (int(i) for i in bad[0])
        labels = getattr(values, "columns", None)
        label = column if labels is None else repr(labels[column])
        raise InputError(f"{name} holds {array[row, column]} in row {row}, column {label}; impute or drop such rows first.")
    return array


def vector(values, name: str = "Y", length: int | None = None) -> np.ndarray:
    """Finite float64 vector [n]; a single column [n, 1] is flattened; `length` demands that many entries (the rows of X)."""
    array = _array(values, name)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.size == 0:
        raise InputError(f"{name} must be one column of numbers, not of shape {array.shape}; pass one value for each row.")
    if length is not None and len(array) != length:
        raise InputError(f"{name} has {len(array)} entries but the covariates have {length} rows; pass one value for each row.")
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise InputError(f"{name} holds {array[bad[0]]} in row {int(bad[0])}; impute or drop such rows first.")
    return array


def treatment(values, name: str = "T", length: int | None = None, arms: int | None = None) -> np.ndarray:
    """Treatment arms [n] as int64 in {0, ..., K-1}, K >= 2, each arm seen at least once.

    `arms` gives K where it is known (prediction, where an arm may be absent); otherwise K is the largest arm plus one.
    """
    array = vector(values, name, length)
    bad = np.flatnonzero((array != np.round(array)) | (array < 0))
    if len(bad):
        raise InputError(f"{name} holds {array[bad[0]]:g} in row {int(bad[0])}; code the arms as whole numbers 0, 1, 2, ... with 0 the control.")
    array = array.astype(np.int64)
    if arms is not None:
        bad = np.flatnonzero(array >= arms)
        if len(bad):
            raise InputError(f"{name} holds arm {array[bad[0]]} in row {int(bad[0])} but only the arms 0 to {arms - 1} are known; remove or recode it.")
        return array
    seen = np.unique(array)
    if len(seen) < 2:
        raise InputError(f"{name} has one arm only (all {seen[0]}); an effect needs at least two arms, 0 and 1.")
    if seen[-1] != len(seen) - 1:
        missing = int(np.flatnonzero(np.isin(np.arange(len(seen)), seen, invert=True))[0])
        raise InputError(f"{name} has arms {_some(seen)} but none in arm {missing}; code the arms as 0, 1, ... without a gap.")
    return array


def whole(value, name: str, low: int = 1, high: int | None = None) -> int:
    """A whole number in [low, high] (no upper bound where `high` is None); booleans and floats are refused."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < low or (high is not None and value > high):
        bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise InputError(f"{name} must be a whole number {bounds}, not {value!r}.")
    return int(value)


def fraction(value, name: str) -> float:
    """A number strictly between 0 and 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < value < 1:
        raise InputError(f"{name} must be a number between 0 and 1 (both excluded), not {value!r}.")
    return float(value)


def positive(value, name: str) -> float:
    """A finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < value < float("inf"):
        raise InputError(f"{name} must be a finite number above 0, not {value!r}.")
    return float(value)


def non_negative(value, name: str) -> float:
    """A finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value < float("inf"):
        raise InputError(f"{name} must be a finite number of at least 0, not {value!r}.")
    return float(value)


def choice(value, name: str, options: Sequence):
    """One of `options`; the message lists them."""
    if value not in options:
        raise InputError(f"{name} must be one of {', '.join(map(repr, options))}, not {value!r}.")
    return value


def _some(values: np.ndarray, shown: int = 5) -> str:
    """The first few of `values` for a message."""
    return ", ".join(str(v) for v in values[:shown]) + (", ..." if len(values) > shown else "")
