r"""Single cells before and after a perturbation: Kang (interferon beta, by cell type, and again with donors), glioblastoma (panobinostat, by patient), Norman (activated genes, alone and in pairs), McFaline (silenced genes in
three lines); as AnnData, as a `CellTable`, and as folds that each hold one unseen group out (spec vci, 3.2 and experiment E3).

Notation: cells i = 1 ... n, genes g, counts c_ig, cell sums s_i = sum_g c_ig; "training" rows are those outside the held-out group.

    y_ig = log1p(c_ig / s_i * median of s over the training rows)        `Eq. lognorm`: the target sum is the only number that cells share, and held-out cells have no part in it
    genes = the `count` most variable among the training rows            `Eq. hvg`: scanpy's dispersion by bins of mean (rules seurat and cell_ranger), or the variance of y

Genes are chosen anew in every fold, in equal number, so folds stack; only the score may look at all cells. The publishers of the last four filtered the genes beforehand, on all cells; all of those are used.
Norman and McFaline share names of targets with opposite sign (activation, silencing): they stay two data sets.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp

from gencausal import checks
from gencausal.data import registry
from gencausal.data.cell_table import CellTable

RULES = ("seurat", "cell_ranger", "variance")
SMALLEST_GROUP = 31  # cells of a group that is scored (spec 4.1: more than 30)


@dataclass(frozen=True)
class Source:
    """Where a data set lies and which of its cell columns are which. covariates: {our name: the file's}; keep: (column, value) of the cells taken; genes: how many `load` takes, None for all."""

    dataset: str
    file: str
    measure: str
    condition: str
    control: str
    covariates: dict[str, str]
    note: str
    keep: tuple[str, str] | None = None
    genes: int | None = None


SOURCES = {
    "kang": Source("kang_pbmc_scgen", "valid_pbmc.h5ad", "log1p", "condition", "control", {"cell_type": "cell_type"}, "log1p of normalised counts; genes were filtered after normalising, so sums of expm1 are 700 to 1,000", genes=1000),
    "kang_donors": Source("kang_pbmc_muscat", "kang_muscat_counts.npz", "counts", "group_id", "ctrl", {"cell_type": "cluster_id", "donor": "donor"}, "counts; at most 100 cells a type and sample"),
    "glioblastoma": Source("glioblastoma_panobinostat_lemur", "glioblastoma_counts.npz", "counts", "condition", "ctrl", {"patient": "patient_id"}, "counts; 500 cells a patient and condition, cell types unknown"),
    "norman": Source("norman_mcfaline_perturbench", "devel.h5ad", "log1p", "perturbation", "control", {"cell_line": "cell_type"}, "log1p of normalised counts; CRISPR activation of one gene or of two (A+B), one line", keep=("dataset", "norman19")),
    "mcfaline": Source("norman_mcfaline_perturbench", "devel.h5ad", "log1p", "perturbation", "control", {"cell_line": "cell_type"}, "log1p of normalised counts; CRISPR interference, three lines", keep=("dataset", "mcfaline23")),
}
NAMES = tuple(SOURCES)


def available(name: str) -> bool:
    """Whether the file of `name` can be had here, fetched from its public address if it has one and nothing nearer holds it."""
    source = SOURCES[checks.choice(name, "name", NAMES)]
    try:
        registry.fetch(source.dataset, source.file)
    except registry.DataError:
        return False
    return True


def anndata_of(name: str):
    """The cells of `name` (one of NAMES) as AnnData: X [n, all genes] float32, sparse, counts or log1p as shipped; obs: condition and the covariates, text.

    uns: `measure` (counts | log1p), `control` (the control's condition), `covariates` (columns of obs), `note`. Raises `registry.DataError` where the file cannot be had.
    """
    from anndata import AnnData, read_h5ad  # here and not above: a second of import that only cells need

    source = SOURCES[checks.choice(name, "name", NAMES)]
    path = registry.fetch(source.dataset, source.file)
    if source.file.endswith(".h5ad"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one of the files is of 2021: an old but readable form
            read = read_h5ad(path)
        matrix, obs, genes, var = sp.csr_matrix(read.X), read.obs, read.var_names, {}
    else:
        with np.load(path, allow_pickle=False) as file:
            matrix = sp.csr_matrix((file["X_data"], file["X_indices"].astype(np.int32), file["X_indptr"].astype(np.int32)), shape=tuple(file["X_shape"]))
            obs = pd.DataFrame({key.removeprefix("obs_"): file[key] for key in file.files if key.startswith("obs_")}).rename(index=str)
            genes, var = file["genes"], {"symbol": file["gene_symbol"]} if "gene_symbol" in file.files else {}
    rows = np.arange(len(obs)) if source.keep is None else np.flatnonzero(obs[source.keep[0]].astype(str) == source.keep[1])
    columns = {"condition": source.condition} | source.covariates
    obs = pd.DataFrame({ours: obs[theirs].astype(str).to_numpy()[rows] for ours, theirs in columns.items()}, index=obs.index[rows].astype(str))
    uns = {"measure": source.measure, "control": source.control, "covariates": list(source.covariates), "note": source.note}
    return AnnData(X=matrix[rows].astype(np.float32), obs=obs, var=pd.DataFrame(var, index=pd.Index(np.asarray(genes).astype(str))), uns=uns)


def load(name: str, genes: int | None = None, held: Sequence[tuple[str, str]] = (), unit: str = "all", rule: str = "seurat") -> CellTable:
    """The cells of `name` (one of NAMES) as a table.

    held: (stratum, condition) groups, by name, that lie in test alone. genes: how many (default: 1,000 for kang, all that the file holds for the others), by `rule` (one of RULES) from the training rows.
    """
    return as_table(anndata_of(name), name, SOURCES[name].genes if genes is None else genes, held, unit, rule)


def folds(name: str, genes: int | None = None, rule: str = "seurat") -> list[CellTable]:
    """One table per held-out group, of equal shapes; `unit` names the group. The controls of the held-out stratum stay in training.

    kang: the treated cells of a cell type (7). kang_donors: of a type and donor with more than 30 treated cells (9). glioblastoma: of a patient (5).
    norman: five pairs of genes each time, all singles and the ten other pairs in training (3): first the pairs whose members were both also activated alone (`both_single`), then those where fewer were, by number and name.
    """
    cells = anndata_of(checks.choice(name, "name", [n for n in NAMES if n != "mcfaline"]))
    genes = SOURCES[name].genes if genes is None else genes
    return [as_table(cells, name, genes, held, unit, rule) for unit, held in held_out(name, cells).items()]


def held_out(name: str, cells) -> dict[str, list[tuple[str, str]]]:
    """{unit: [(stratum, condition), ...]} of the folds of `name`; `cells` as `anndata_of` gives them."""
    strata = _strata(cells)
    if name == "norman":
        groups = _pair_folds(sorted(set(cells.obs["condition"])))
        return {unit: [(strata.iloc[0], pair) for pair in pairs] for unit, pairs in groups.items()}
    counts = pd.crosstab(strata, cells.obs["condition"].to_numpy())
    return {stratum: [(stratum, condition)] for condition in counts.columns if condition != cells.uns["control"] for stratum in counts.index if counts.loc[stratum, condition] >= SMALLEST_GROUP}


def _pair_folds(conditions: Sequence[str]) -> dict[str, list[str]]:
    """Thirds of the pairs A+B among `conditions`: both members also single, then by falling number of such members and name."""
    singles = {c for c in conditions if "+" not in c}
    known = {c: sum(member in singles for member in c.split("+")) for c in conditions if "+" in c}
    both, rest = [c for c in known if known[c] == 2], sorted((c for c in known if known[c] < 2), key=lambda c: (-known[c], c))
    half = (len(rest) + 1) // 2
    return {"both_single": both, "fewer_single_1": rest[:half], "fewer_single_2": rest[half:]}


def split_validation(table: CellTable, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Training rows as (fit rows, held rows), both sorted: `share` of them, drawn by `rng`, are held back to validate factual prediction."""
    checks.fraction(share, "share")
    held = np.zeros(len(table.train), bool)
    held[rng.permutation(len(table.train))[:round(share * len(table.train))]] = True
    return table.train[~held], table.train[held]


def lognormalise(counts: sp.csr_matrix, rows: np.ndarray | None = None) -> sp.csr_matrix:
    """log1p of the counts [n, G] scaled to the median sum of `rows` (all if None), float32 (Eq. lognorm); a cell without counts stays zero."""
    sums = np.asarray(counts.sum(1), dtype=np.float64).ravel()
    target = np.median(sums if rows is None else sums[rows])
    return sp.csr_matrix(sp.diags(target / np.where(sums > 0, sums, 1)) @ counts).log1p().astype(np.float32)


def choose_genes(outcome: sp.csr_matrix, count: int, rule: str = "seurat") -> np.ndarray:
    """Column numbers, rising, of the `count` most variable genes of log-normalised `outcome` [n, G] (Eq. hvg); pass training rows only."""
    checks.choice(rule, "rule", RULES)
    checks.whole(count, "genes", low=1, high=outcome.shape[1])
    if count == outcome.shape[1]:
        return np.arange(count)
    if rule == "variance":
        mean = np.asarray(outcome.mean(0)).ravel()
        return np.sort(np.argsort(mean**2 - np.asarray(outcome.power(2).mean(0)).ravel(), kind="stable")[:count])
    import scanpy  # here and not above: seconds of import
    from anndata import AnnData

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        score = scanpy.pp.highly_variable_genes(AnnData(outcome.copy(), uns={"log1p": {"base": None}}), flavor=rule, n_top_genes=count, inplace=False)["dispersions_norm"].to_numpy()
    return np.sort(np.argsort(-np.nan_to_num(score, nan=-np.inf), kind="stable")[:count])  # ties at the last place go by order, so that the number is always `count`


def _strata(cells) -> pd.Series:
    """The stratum of every cell: its covariates, joined by a space."""
    return cells.obs[list(cells.uns["covariates"])].agg(" ".join, axis=1)


def as_table(cells, name: str, genes: int | None = None, held: Sequence[tuple[str, str]] = (), unit: str = "all", rule: str = "seurat") -> CellTable:
    """AnnData made up as `anndata_of` says, as a table; the arguments are those of `load`. A condition A+B gets the sum of the columns of A and B; every dose is 1."""
    control, columns = cells.uns["control"], list(cells.uns["covariates"])
    conditions = (control, *sorted(set(cells.obs["condition"]) - {control}))
    condition = pd.Index(conditions).get_indexer(cells.obs["condition"])
    treatment_names = (control, *sorted({part for c in conditions[1:] for part in c.split("+")}))
    condition_treatment = np.array([[part in c.split("+") for part in treatment_names] for c in conditions], dtype=np.float32)
    blocks = [pd.get_dummies(cells.obs[column], dtype=np.float32) for column in columns]
    covariates = np.concatenate([block.to_numpy() for block in blocks], axis=1)
    strata, first, stratum = np.unique(_strata(cells).to_numpy(str), return_index=True, return_inverse=True)

    test = np.zeros(len(condition), bool)
    for group in held:
        test |= (stratum == list(strata).index(checks.choice(group[0], "stratum of held", list(strata)))) & (condition == conditions.index(checks.choice(group[1], "condition of held", list(conditions))))
    train = np.flatnonzero(~test)
    outcome = lognormalise(cells.X, train) if cells.uns["measure"] == "counts" else cells.X
    kept = choose_genes(outcome[train], outcome.shape[1] if genes is None else genes, rule)
    return CellTable(name=name, unit=unit, outcome=outcome[:, kept].toarray(), genes=tuple(cells.var_names[kept]), treatment=condition_treatment[condition], treatment_names=treatment_names, condition=condition.astype(np.int64),
                     conditions=conditions, condition_treatment=condition_treatment, control=0, covariates=covariates, blocks=tuple(block.shape[1] for block in blocks), stratum=stratum.astype(np.int64),
                     strata=tuple(str(s) for s in strata), stratum_covariates=covariates[first], train=train, test=np.flatnonzero(test))
