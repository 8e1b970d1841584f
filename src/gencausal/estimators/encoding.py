r"""Covariates of any table as numbers, by a stated rule.

`Eq. encode`: a number column c enters as it is; a text, category or bool column with the levels l_1 < ... < l_L seen while fitting enters as
the L indicators 1{c = l_j}, all of them, so that no level is the reference and a penalty on features treats them alike. Levels are compared
by their text (1 and "1" are one level, 1.0 is another).

Nothing is imputed: a missing value, a date, a column that is not the fitted one or a level never seen is refused with its column, because an
effect at a level without data would be a guess that looks like a result.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from gencausal import checks
from gencausal.checks import InputError
from gencausal.data import columns

MOST_LEVELS = 50


@dataclass(frozen=True)
class Encoder:
    """How a table becomes numbers. names: its columns, or None where it came as an array; levels: for each column its levels, None for a number."""

    names: tuple[str, ...] | None
    levels: tuple[tuple[str, ...] | None, ...]

    @classmethod
    def fit(cls, X, name: str = "X") -> "Encoder":
        """The rule for table `X`: a DataFrame with number, text, category or bool columns, or an array of numbers [n, d]."""
        if not hasattr(X, "columns"):
            return cls(None, (None,) * checks.matrix(X, name).shape[1])
        table = _checked(X, name)
        levels = []
        for column in table:
            if columns.kind(table[column], f"{name}, column {column!r},") == "number":
                levels.append(None)
                continue
            seen = sorted(set(_text(table[column]).tolist()))
            if len(seen) > MOST_LEVELS:
                raise InputError(f"{name} has {len(seen)} levels in column {column!r}, more than {MOST_LEVELS}; merge rare levels or leave the column out.")
            levels.append(tuple(seen))
        return cls(tuple(table.columns), tuple(levels))

    @property
    def features(self) -> list[str]:
        """Names of the encoded columns, [p]: the column's own, or `column=level`."""
        names = self.names or [str(i) for i in range(len(self.levels))]
        return [feature for name, levels in zip(names, self.levels) for feature in ([name] if levels is None else [f"{name}={level}" for level in levels])]

    def transform(self, X, name: str = "X") -> np.ndarray:
        """Table `X` as float64 [n, p]. InputError if its columns are not the fitted ones, in their order, or a value cannot be encoded.

        An array is taken as the p features themselves, since scorers such as econml's pass numbers only.
        """
        if self.names is None or not hasattr(X, "columns"):
            if any(levels is not None for levels in self.levels) and np.shape(X)[1:] != (len(self.features),):
                raise InputError(f"{name} must be a DataFrame with the columns {', '.join(self.names)}, because some of them are encoded levels (or the {len(self.features)} encoded features).")
            return checks.matrix(X, name, len(self.features))
        self._same_columns([str(c) for c in X.columns], name)
        table = _checked(X, name)
        return np.concatenate([self._column(table[column], column, levels, name) for column, levels in zip(self.names, self.levels)], axis=1)

    def _same_columns(self, found: list[str], name: str) -> None:
        if missing := [c for c in self.names if c not in found]:
            raise InputError(f"{name} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}; pass the columns that were fitted.")
        if extra := [c for c in found if c not in self.names]:
            raise InputError(f"{name} has the column{'s' if len(extra) > 1 else ''} {', '.join(map(repr, extra))}, not among those that were fitted; drop {'them' if len(extra) > 1 else 'it'}.")
        if found != list(self.names):
            raise InputError(f"{name} has its columns in another order than the table that was fitted; pass {', '.join(self.names)}.")

    def _column(self, column: pd.Series, label: str, levels: tuple[str, ...] | None, name: str) -> np.ndarray:
        if levels is None:
            try:
                values = column.to_numpy(np.float64)
            except (TypeError, ValueError):
                raise InputError(f"{name}, column {label!r}, held numbers when it was fitted and now holds {column.dtype} values; convert it.") from None
            if len(bad := np.flatnonzero(np.isinf(values))):
                raise InputError(f"{name} holds {values[bad[0]]} in row {bad[0]}, column {label!r}; replace or drop such rows first.")
            return values[:, None]
        text = _text(column)
        if unseen := sorted(set(text.tolist()) - set(levels)):
            raise InputError(f"{name} has the level {unseen[0]!r} in column {label!r}, which was not seen in fitting ({', '.join(levels[:5])}{', ...' if len(levels) > 5 else ''}); "
                             "drop such rows or fit again with them.")
        return (text[:, None] == np.array(levels)[None]).astype(np.float64)

    def state(self) -> dict:
        """JSON-able description; `Encoder.restore` reads it."""
        return {"names": self.names and list(self.names), "levels": [levels and list(levels) for levels in self.levels]}

    @classmethod
    def restore(cls, state: dict) -> "Encoder":
        return cls(state["names"] and tuple(state["names"]), tuple(levels and tuple(levels) for levels in state["levels"]))


def _checked(X: pd.DataFrame, name: str) -> pd.DataFrame:
    """`X` under text column names, without holes, with rows and columns, no name twice."""
    table = X.set_axis([str(c) for c in X.columns], axis=1).infer_objects()
    if 0 in table.shape:
        raise InputError(f"{name} must be a table with rows and columns, not of shape {table.shape}; pass at least one covariate.")
    if len(twice := table.columns[table.columns.duplicated()]):
        raise InputError(f"{name} has two columns named {twice[0]!r}; rename or drop one.")
    columns.without_holes(table, name)
    return table


def _text(column: pd.Series) -> np.ndarray:
    return column.astype(str).to_numpy(dtype=str)
