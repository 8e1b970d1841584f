"""A reader's own table: a CSV, TSV or Parquet file as covariates, treatment and outcome.

A file that cannot be used is refused before any work with one sentence (`checks.InputError`) that names the file, the column and the fix.
Nothing is imputed, dropped or guessed, save for the separator of a text file (the commonest of comma, semicolon and tab in its header).
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from gencausal.checks import InputError
from gencausal.data import columns
from gencausal.data.columns import FEWEST_ROWS

SUFFIXES = (".csv", ".tsv", ".txt", ".parquet")


def read_table(data_path: str | Path, treatment: str, outcome: str, covariates: Sequence[str] = ()) -> tuple[pd.DataFrame, pd.Series, pd.Series]:
    """(X, T, Y) of a file: covariates [n, d] as they are (see estimators.encoding), arms [n], outcome [n] float64.

    treatment, outcome: column names. covariates: column names, empty for all others. n >= 50.
    """
    path = Path(data_path)
    table = _read(path)
    return choose(table, treatment, outcome, covariates, path.name)


def choose(table: pd.DataFrame, treatment: str, outcome: str, covariates: Sequence[str] = (), name: str = "The table") -> tuple[pd.DataFrame, pd.Series, pd.Series]:
    """What `read_table` does once the file is read. name: what messages call the table."""
    table = table.set_axis([str(c) for c in table.columns], axis=1)
    if len(twice := table.columns[table.columns.duplicated()]):
        raise InputError(f"{name} has two columns named {twice[0]!r}; rename or drop one.")
    if isinstance(covariates, str):
        raise InputError(f"covariates must be a list of column names, not the text {covariates!r}; write [{covariates!r}].")
    if treatment == outcome:
        raise InputError(f"treatment and outcome are both {treatment!r}; name two columns.")
    covariates = list(covariates) or [c for c in table.columns if c not in (treatment, outcome)]
    for role, column in (("treatment", treatment), ("outcome", outcome), *(("covariates", c) for c in covariates)):
        if column not in table.columns:
            raise InputError(f"{name} has no column {column!r} ({role}); its columns are {', '.join(table.columns[:10])}{', ...' if len(table.columns) > 10 else ''}.")
    if not covariates:
        raise InputError(f"{name} has no column beside {treatment!r} and {outcome!r}; effects are adjusted for covariates, so add at least one.")
    if len(twice := [c for c in covariates if covariates.count(c) > 1]):
        raise InputError(f"covariates names {twice[0]!r} twice; name it once.")
    if also := [c for c in covariates if c in (treatment, outcome)]:
        raise InputError(f"covariates holds {also[0]!r}, which is the {'treatment' if also[0] == treatment else 'outcome'}; leave it out.")
    table = table[[*covariates, treatment, outcome]]
    if len(table) < FEWEST_ROWS:
        raise InputError(f"{name} has {len(table)} rows; IWDD needs at least {FEWEST_ROWS} to train and to hold some out.")
    columns.without_holes(table, name)
    y = columns.outcome(table[outcome], f"{name}, outcome {outcome!r},", len(table))
    columns.arms(table[treatment], f"{name}, treatment {treatment!r},", len(table))
    for column in covariates:
        number = columns.kind(table[column], f"{name}, column {column!r},") == "number"
        values = table[column].to_numpy()
        if number and np.isinf(values.astype(np.float64)).any():
            raise InputError(f"{name} holds infinite values in column {column!r}; replace or drop those rows first.")
        for role, same in (("treatment", treatment), ("outcome", outcome)):
            if np.array_equal(values, table[same].to_numpy()):
                raise InputError(f"{name}, column {column!r} is a copy of the {role} {same!r}; leave it out of covariates.")
    return table[covariates].reset_index(drop=True), table[treatment].reset_index(drop=True), pd.Series(y, name=outcome)


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise InputError(f"There is no file {path.name!r} at the data_path given; check the path (it is read from the working directory if it is relative).")
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path.name} is no {', '.join(SUFFIXES)} file; save the table as one of them.")
    if path.stat().st_size == 0:
        raise InputError(f"{path.name} is empty; export the table again.")
    return _parquet(path) if path.suffix.lower() == ".parquet" else _text(path)


def _parquet(path: Path) -> pd.DataFrame:
    try:
        import pyarrow.parquet
    except ImportError:
        raise InputError(f"{path.name} is a Parquet file, which needs pyarrow; install it (pip install pyarrow) or save the table as CSV.") from None
    try:
        names = pyarrow.parquet.read_schema(path).names
        if twice := [c for c in names if names.count(c) > 1]:
            raise InputError(f"{path.name} has two columns named {twice[0]!r}; rename or drop one.")
        return pd.read_parquet(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path.name} is not a whole Parquet file ({type(error).__name__}); export the table again.") from None


def _text(path: Path) -> pd.DataFrame:
    """The rows of a delimited file, each with as many fields as the header."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            separator = max(",;\t", key=first.count)
            file.seek(0)
            header, before = None, 0
            for number, row in enumerate(csv.reader(file, delimiter=separator, strict=True), start=1):
                if not row:
                    continue
                header = header or row
                if len(row) != len(header):
                    raise InputError(f"{path.name} has {len(row)} fields in row {number} but {len(header)} in its header; it may be cut off there, so export the table again.")
                before += 1
    except UnicodeDecodeError:
        raise InputError(f"{path.name} is not UTF-8 text; save it as CSV with encoding UTF-8.") from None
    except csv.Error as error:
        raise InputError(f"{path.name} ends inside a quoted field or is otherwise broken ({error}); export the table again.") from None
    if header is None or before < 2:
        raise InputError(f"{path.name} holds no rows; export the table again.")
    if twice := [c for c in header if header.count(c) > 1]:
        raise InputError(f"{path.name} has two columns named {twice[0]!r}; rename or drop one.")
    return pd.read_csv(path, sep=separator, encoding="utf-8-sig", skip_blank_lines=True, low_memory=False)
