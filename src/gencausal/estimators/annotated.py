"""Cells as AnnData, read and checked for an estimator: values, labels, doses, treatments and strata (see `vci`).

Notation: n cells, G genes, T treatment parts, K distinct treatments, C one-hot covariate columns.
"""

from hashlib import blake2b

import numpy as np
import pandas as pd
import scipy.sparse as sp

from gencausal.checks import InputError

ALL = "all cells"


def columns(adata, names: list, argument: str) -> None:
    if not hasattr(adata, "obs") or not hasattr(adata, "var_names"):
        raise InputError(f"adata must be an AnnData, not {type(adata).__name__}; make one by anndata.AnnData(values, obs=table).")
    if missing := [name for name in names if name not in adata.obs]:
        raise InputError(f"{argument}: adata.obs has no column {missing[0]!r}; its columns are {some(list(adata.obs.columns))}.")


def values(adata, layer: str | None, expects: str) -> np.ndarray:
    """Expression [n, G], float32, finite and not negative, whole numbers if and only if counts are expected."""
    where = "X" if layer is None else f"layers[{layer!r}]"
    if layer is not None and layer not in adata.layers:
        raise InputError(f"layer: adata.layers has no {layer!r}; it has {some(list(adata.layers)) or 'none'}.")
    values = adata.X if layer is None else adata.layers[layer]
    if values is None or 0 in adata.shape:
        raise InputError(f"adata.{where} is empty (shape {adata.shape}); pass cells and genes.")
    names = pd.Index(adata.var_names)
    if names.has_duplicates:
        raise InputError(f"adata has the gene {names[names.duplicated()][0]!r} twice; call adata.var_names_make_unique() or drop one.")
    values = np.asarray(values.toarray() if sp.issparse(values) else values, dtype=np.float32)
    if not np.isfinite(values).all():
        cell, gene = np.argwhere(~np.isfinite(values))[0]
        raise InputError(f"adata.{where} holds {values[cell, gene]} in cell {adata.obs_names[cell]!r}, gene {names[gene]!r}; drop or impute such values first.")
    if (values < 0).any():
        raise InputError(f"adata.{where} holds negative values, as scaled data do; pass {'raw counts' if expects == 'counts' else 'log-normalised values, before scanpy.pp.scale'}.")
    whole = bool((values == np.round(values)).all())
    if whole and expects == "log1p" and values.any():
        raise InputError(f"adata.{where} holds whole numbers only, raw counts by the look of it; pass expects='counts', or normalise first (scanpy.pp.normalize_total, scanpy.pp.log1p).")
    if not whole and expects == "counts":
        raise InputError(f"adata.{where} holds fractions, which are no counts; pass the layer of raw counts, or expects='log1p'.")
    return values


def normalised(values: np.ndarray, target: float | None) -> np.ndarray:
    """Values as they are, or log1p of counts scaled to the sum `target` (Eq. lognorm)."""
    sums = values.sum(1, keepdims=True)
    return values if target is None else np.log1p(values * (target / np.where(sums > 0, sums, 1))).astype(np.float32)


def halves(values: np.ndarray) -> np.ndarray:
    """0 or 1 for each cell, by the hash of its values: the same cell falls into the same half wherever it is met."""
    return np.array([blake2b(row.tobytes(), digest_size=1).digest()[0] & 1 for row in np.ascontiguousarray(values)])


def text(adata, key: str) -> np.ndarray:
    column = adata.obs[key]
    if column.isna().any():
        raise InputError(f"obs[{key!r}] is missing for {int(column.isna().sum())} cells; fill it or drop these cells.")
    if pd.api.types.is_float_dtype(column):
        raise InputError(f"obs[{key!r}] holds real numbers; pass categories (bin them by pandas.cut).")
    return column.astype(str).to_numpy(object)


def doses(column: pd.Series, key: str, is_control: np.ndarray) -> np.ndarray:
    """Doses [n]; a control's is 1."""
    doses = np.where(is_control, 1.0, pd.to_numeric(column, errors="coerce").to_numpy(float))
    if not (np.isfinite(doses) & (doses > 0)).all():
        raise InputError(f"obs[{key!r}] holds {column[~(np.isfinite(doses) & (doses > 0))].iloc[0]!r} for a treated cell; doses must be finite numbers above 0.")
    return doses


def parts(label: str, control: str) -> list[str]:
    """Sorted parts of a label, the control alone if nothing else is named."""
    return sorted({part.strip() for part in label.split("+")} - {control, ""}) or [control]


def conditions(parts: list[list[str]], doses: np.ndarray, treatments: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
    """Index of each cell's (parts, dose) among the distinct ones, the control first; their names; and their rows [K, T]."""
    keys = [(tuple(found), float(dose)) for found, dose in zip(parts, doses)]
    control = ((treatments[0],), 1.0)
    distinct = [control, *sorted(set(keys) - {control})]
    rows = np.array([[dose * (name in found) for name in treatments] for found, dose in distinct], np.float32)
    index = {key: k for k, key in enumerate(distinct)}
    return np.array([index[key] for key in keys]), tuple("+".join(found) + ("" if dose == 1 else f"@{dose:g}") for found, dose in distinct), rows


def strata(covariates: dict[str, np.ndarray], levels: dict[str, list[str]], n: int) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
    """Stratum of each cell, names of the strata, and one-hot covariates [n, C]."""
    one_hot = np.concatenate([*(values[:, None] == np.array(levels[key], object) for key, values in covariates.items()), np.zeros((n, 0), bool)], 1).astype(np.float32)
    names = [" ".join(row) for row in zip(*covariates.values())] if covariates else [ALL] * n
    strata, stratum = np.unique(np.array(names), return_inverse=True)
    return stratum.astype(np.int64), tuple(map(str, strata)), one_hot


def some(values, shown: int = 8) -> str:
    return ", ".join(map(repr, list(values)[:shown])) + (", ..." if len(values) > shown else "")
