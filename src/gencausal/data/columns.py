"""What a column of a reader's table may hold: a continuous outcome, labels of arms, numbers or levels.

Every refusal is one sentence that names the column and the fix (`checks.InputError`). A column's *kind* is `number`, or `levels` for text,
category and bool columns, whose values are compared by their text; dates, durations and complex numbers are neither.
"""

import numpy as np
import pandas as pd

from gencausal import checks
from gencausal.checks import InputError

MOST_ARMS = 20
FEWEST_ROWS = 50  # rows of a table
FEWEST_IN_ARM = 10  # rows an arm
_LEVELS = {"string", "categorical", "boolean", "mixed-integer"}  # kinds of pandas.api.types.infer_dtype that are compared by their text


def kind(column: pd.Series, name: str) -> str:
    """`number` or `levels`; InputError for anything else. `name` is what a message calls the column."""
    column = column.infer_objects()
    found = "categorical" if isinstance(column.dtype, pd.CategoricalDtype) else pd.api.types.infer_dtype(column, skipna=True)
    if found in ("floating", "integer", "mixed-integer-float", "decimal", "empty") or (found == "integer-na"):
        return "number"
    if found in _LEVELS:
        return "levels"
    if found.startswith(("date", "time", "period", "interval")):
        raise InputError(f"{name} holds dates or times; turn it into a number (days since a fixed day, for example) or leave it out.")
    raise InputError(f"{name} holds {found} values; turn it into numbers, text or a category, or leave it out.")


def without_holes(table: pd.DataFrame, name: str) -> None:
    """InputError that names every column of `table` with missing values, with their count and share, the fullest of holes first."""
    missing = table.isna().sum()
    missing = missing[missing > 0].sort_values(ascending=False, kind="stable")
    if len(missing):
        shown = ", ".join(f"{column!r} ({count} of {len(table)} rows, {100 * count / len(table):.3g} %)" for column, count in missing.head(5).items())
        raise InputError(f"{name} has missing values in {len(missing)} column{'s' if len(missing) > 1 else ''}: {shown}{', ...' if len(missing) > 5 else ''}; "
                         "impute them, drop those rows (pandas: dropna) or leave the column out.")


def outcome(values, name: str = "Y", length: int | None = None) -> np.ndarray:
    """A continuous outcome, [n] float64, finite, with more than two values. InputError for text, dates, holes, a constant or a binary column."""
    series = pd.Series(np.asarray(values).ravel(), dtype=object).dropna()
    if len(series) and ((of := pd.api.types.infer_dtype(series)) in ("string", "bytes") or of.startswith(("date", "time", "period"))):
        raise InputError(f"{name} holds {series.iloc[0]!r}, which is no number; IWDD models a continuous outcome, so convert the column or choose another.")
    y = checks.vector(values, name, length)
    if np.ptp(y) == 0:
        raise InputError(f"{name} is constant; an outcome without variation has no effect to estimate.")
    if len(two := np.unique(y)) == 2:
        raise InputError(f"{name} takes the values {two[0]:g} and {two[1]:g} only; IWDD models a continuous outcome, so use a classifier-based learner for a binary one.")
    return y


def arms(values, name: str = "T", length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Labels of arms as (index [n] int64, labels [K]): labels sorted, numbers or text, 2 <= K <= MOST_ARMS, `FEWEST_IN_ARM` rows each.

    Whole numbers stored as floats become ints. InputError for holes, a mixture of text and numbers, one arm, too many (a continuous treatment),
    too small an arm.
    """
    array = np.asarray(values, dtype=object if isinstance(values, (list, tuple)) else None)  # a list of text and numbers would become text
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.size == 0:
        raise InputError(f"{name} must be one column of arm labels, not of shape {array.shape}; pass one label for each row.")
    if length is not None and len(array) != length:
        raise InputError(f"{name} has {len(array)} entries but the covariates have {length} rows; pass one label for each row.")
    if holes := int(pd.isna(array).sum()):
        raise InputError(f"{name} has {holes} missing values; drop those rows first.")
    array = labels(array, name)
    seen, index, counts = np.unique(array, return_inverse=True, return_counts=True)
    if len(seen) < 2:
        raise InputError(f"{name} has one arm only (all {seen[0]}); an effect needs at least two arms.")
    if len(seen) > MOST_ARMS:
        raise InputError(f"{name} takes {len(seen)} values, as a continuous treatment does; IWDD compares at most {MOST_ARMS} arms, so group its values first.")
    if counts.min() < FEWEST_IN_ARM:
        raise InputError(f"{name} has an arm ({seen[counts.argmin()]}) of {counts.min()} units; each arm needs {FEWEST_IN_ARM}, so merge arms or drop it.")
    return index.astype(np.int64), seen


def labels(array: np.ndarray, name: str = "T") -> np.ndarray:
    """`array [n]` with one type for all labels: bool, int64, float64 or text."""
    if array.dtype == object:
        types = {str if isinstance(v, str) else type(v) for v in array}
        if str in types and len(types) > 1:
            raise InputError(f"{name} mixes text and other labels; write all of them as text or as numbers.")
        array = np.array(array.tolist())
    if array.dtype.kind not in "biufU":
        raise InputError(f"{name} holds labels of type {array.dtype}; use text or numbers.")
    if array.dtype.kind == "f":
        return array.astype(np.int64) if (array == np.round(array)).all() else array.astype(np.float64)
    return array.astype(np.int64) if array.dtype.kind in "iu" else array
