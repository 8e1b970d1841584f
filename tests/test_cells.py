"""Single-cell data: as shipped, log-normalised, with genes chosen on training cells, in folds with one unseen group each (spec vci, 3.2, defect 12, E3)."""

import os

import anndata
import numpy as np
import pytest
import requests
import scanpy
import scipy.sparse as sp

from gencausal.checks import InputError
from gencausal.data import cells, registry

needs_mirror = pytest.mark.skipif(not os.environ.get("GENCAUSAL_DATA"), reason="GENCAUSAL_DATA is not set: the cells would have to be downloaded")
PAIRS = ("BPGM+SAMD1 CBL+CNN1 CEBPE+RUNX1T1 CNN1+MAPK1 FOXL2+HOXB9 KLF1+MAP2K6 KLF1+TGFBR2 MAP2K3+MAP2K6 MAP2K3+SLC38A2 MAPK1+TGFBR2 PTPN12+PTPN9 SAMD1+PTPN12 SET+KLF1 SGK1+TBX3 ZBTB10+PTPN12").split()


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GENCAUSAL_CACHE", str(tmp_path / "cache"))


def made_up(counts, condition, covariates: dict, measure: str = "counts"):
    """AnnData as `anndata_of` makes it, of made-up cells with the control `ctrl`."""
    obs = {"condition": condition} | covariates
    n, g = counts.shape
    return anndata.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs={k: np.asarray(v, str) for k, v in obs.items()} | {"index": [f"c{i}" for i in range(n)]},
                           var={"index": [f"g{j}" for j in range(g)]}, uns={"measure": measure, "control": "ctrl", "covariates": list(covariates), "note": "made up"})


def world(genes: int = 60):
    """Two lines, the control and three conditions (a, b, a+b), 12 cells of each group, Poisson counts with rates that differ by gene."""
    rng = np.random.default_rng(0)
    line, condition = (v.ravel() for v in np.meshgrid(np.repeat(["l1", "l2"], 12), ["ctrl", "a", "b", "a+b"]))
    rate = rng.gamma(0.5, 4, genes) * (1 + (condition != "ctrl")[:, None] * rng.random(genes))
    return made_up(rng.poisson(rate), condition, {"line": line})


def test_lognormalise_by_hand_and_as_scanpy_does():
    """Eq. lognorm: cells with sums 2, 4 and 12 are scaled to the median of the rows named (4; 3 of the first two); an empty cell stays zero; over all rows it is scanpy's normalize_total then log1p."""
    counts = sp.csr_matrix(np.array([[2, 0], [1, 3], [6, 6], [0, 0]], dtype=np.float32))
    with np.errstate(all="raise"):
        np.testing.assert_allclose(cells.lognormalise(counts, np.array([0, 1, 2])).toarray(), np.log1p([[4, 0], [1, 3], [2, 2], [0, 0]]), rtol=1e-6)
    np.testing.assert_allclose(cells.lognormalise(counts, np.array([0, 1])).toarray(), np.log1p([[3, 0], [0.75, 2.25], [1.5, 1.5], [0, 0]]), rtol=1e-6)
    other = world()
    mine = cells.lognormalise(other.X)
    scanpy.pp.normalize_total(other)
    scanpy.pp.log1p(other)
    np.testing.assert_allclose(mine.toarray(), other.X.toarray(), rtol=1e-5)
    assert mine.dtype == np.float32


@pytest.mark.parametrize("rule", cells.RULES)
def test_the_most_variable_genes_are_chosen(rule):
    """Eq. hvg: the set is scanpy's own for its two rules and numpy's for the variance, in the order of the columns, always as many as asked for."""
    y = cells.lognormalise(world(200).X)
    found = cells.choose_genes(y, 40, rule)
    assert len(found) == 40 and (np.diff(found) > 0).all()
    if rule == "variance":
        wanted = np.sort(np.argsort(-y.toarray().astype(float).var(0))[:40])
    else:
        other = anndata.AnnData(y.copy(), uns={"log1p": {"base": None}})
        scanpy.pp.highly_variable_genes(other, flavor=rule, n_top_genes=40)
        wanted = np.flatnonzero(other.var["highly_variable"])
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(cells.choose_genes(y, 200, rule), np.arange(200))


def test_ties_do_not_change_the_number_of_genes():
    """Twin genes on either side of the last place, and constant genes: still as many genes as asked for."""
    y = cells.lognormalise(world(30).X).toarray()
    y = sp.csr_matrix(np.concatenate([y, y, np.zeros((len(y), 5))], axis=1).astype(np.float32))
    for rule in cells.RULES:
        for count in (7, 8, 63):
            assert len(set(cells.choose_genes(y, count, rule))) == count
    with pytest.raises(InputError, match="genes must be a whole number from 1 to 65"):
        cells.choose_genes(y, 66)
    with pytest.raises(InputError, match="rule must be one of"):
        cells.choose_genes(y, 5, "seurat_v3")


def test_table_of_made_up_cells():
    """The control comes first and has a column of its own; a pair is the sum of its parts' columns; blocks, strata and groups agree with the cells; the held-out group alone is in test."""
    adata = world()
    table = cells.as_table(adata, "demo", held=[("l2", "a+b")], unit="u")
    assert table.conditions == ("ctrl", "a", "a+b", "b") and table.treatment_names == ("ctrl", "a", "b") and table.control == 0
    assert table.condition_treatment.tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1]]
    np.testing.assert_array_equal(table.treatment, table.condition_treatment[table.condition])
    np.testing.assert_array_equal(table.covariates, table.stratum_covariates[table.stratum])
    assert table.blocks == (2,) and table.strata == ("l1", "l2") and table.genes == tuple(adata.var_names)
    assert [table.conditions[k] for k in table.condition] == adata.obs["condition"].tolist() and [table.strata[x] for x in table.stratum] == adata.obs["line"].tolist()
    assert sorted([*table.train, *table.test]) == list(range(table.n))
    np.testing.assert_array_equal(table.test, table.rows(1, 2))
    assert table.outcome.dtype == table.treatment.dtype == table.covariates.dtype == np.float32 and table.stratum.dtype == table.condition.dtype == np.int64
    two = cells.as_table(made_up(np.ones((4, 3)), ["ctrl", "a"] * 2, {"type": ["t1", "t1", "t2", "t2"], "donor": ["9", "9", "7", "7"]}), "demo")
    assert two.blocks == (2, 2) and two.strata == ("t1 9", "t2 7") and two.stratum_covariates.tolist() == [[1, 0, 0, 1], [0, 1, 1, 0]]
    for held, word in ((("l3", "a"), "stratum of held"), (("l1", "c"), "condition of held")):
        with pytest.raises(InputError, match=word):
            cells.as_table(adata, "demo", held=[held])


def altered(adata, rows, rng):
    """The cells `rows` with other counts, of another size."""
    other = adata.copy()
    matrix = other.X.toarray()
    matrix[rows] = rng.permutation(matrix[rows].T).T * rng.integers(1, 50, (len(rows), 1)) + rng.integers(0, 9, (len(rows), matrix.shape[1]))
    other.X = sp.csr_matrix(matrix)
    return other


@pytest.mark.parametrize("rule", cells.RULES)
def test_held_out_cells_have_no_part_in_genes_or_scale(rule):
    """Defect 12: whatever the held-out cells hold, genes and training outcomes stay bit-equal; the same change to a training group alters both."""
    adata, held, rng = world(150), [("l2", "a")], np.random.default_rng(1)
    table = cells.as_table(adata, "demo", 30, held, rule=rule)
    same = cells.as_table(altered(adata, table.test, rng), "demo", 30, held, rule=rule)
    assert same.genes == table.genes
    np.testing.assert_array_equal(same.outcome[same.train], table.outcome[table.train])
    assert not np.array_equal(same.outcome[same.test], table.outcome[table.test])
    seen = cells.as_table(altered(adata, table.rows(0, 1), rng), "demo", 30, held, rule=rule)
    assert seen.genes != table.genes and not np.array_equal(seen.outcome[table.rows(1, 0)], table.outcome[table.rows(1, 0)])


def test_pairs_are_held_out_by_what_is_known_of_them():
    """Spec 3.2: the five pairs of two singles first, then those with one, then those with none, in two fives; singles are never held out."""
    singles = "KLF1 MAP2K3 MAP2K6 MAPK1 SLC38A2 TBX3 TGFBR2".split()
    found = cells._pair_folds([*singles, "control", *PAIRS])
    assert found["both_single"] == ["KLF1+MAP2K6", "KLF1+TGFBR2", "MAP2K3+MAP2K6", "MAP2K3+SLC38A2", "MAPK1+TGFBR2"]
    assert found["fewer_single_1"] == ["CNN1+MAPK1", "SET+KLF1", "SGK1+TBX3", "BPGM+SAMD1", "CBL+CNN1"]
    assert sorted(sum(found.values(), [])) == sorted(PAIRS)


def test_validation_rows_come_from_training_rows():
    """A tenth, disjoint from the rest, drawn by the generator; no test row in either."""
    table = cells.as_table(world(), "demo", held=[("l1", "b")])
    fit, held = cells.split_validation(table, 0.1, np.random.default_rng(3))
    assert len(held) == round(0.1 * len(table.train)) and sorted([*fit, *held]) == table.train.tolist()
    np.testing.assert_array_equal(held, cells.split_validation(table, 0.1, np.random.default_rng(3))[1])
    assert not np.array_equal(held, cells.split_validation(table, 0.1, np.random.default_rng(4))[1])
    with pytest.raises(InputError, match="share"):
        cells.split_validation(table, 1.5, np.random.default_rng(3))


def test_without_mirror_and_network_the_registry_says_why(monkeypatch):
    """A set without an address names the mirror, one with an address the failed download; `available` is False for both."""
    def refuse(*_, **__):
        raise requests.ConnectionError("no network here")

    monkeypatch.delenv("GENCAUSAL_DATA", raising=False)
    monkeypatch.setattr(requests, "get", refuse)
    monkeypatch.setattr(requests.Session, "request", refuse)
    assert [cells.available(name) for name in cells.NAMES] == [False] * 5
    with pytest.raises(registry.DataError, match="no public address and was not found; set GENCAUSAL_DATA"):
        cells.folds("kang_donors")
    with pytest.raises(registry.DataError, match="could not be downloaded"):
        cells.load("norman")
    for call in (cells.available, cells.load, cells.anndata_of, cells.folds):
        with pytest.raises(InputError, match="name must be one of"):
            call("sciplex")
    with pytest.raises(InputError, match="name must be one of"):
        cells.folds("mcfaline")


@needs_mirror
def test_cells_are_those_of_the_specification():
    """Spec 3.2: cells, genes and cells a group of every set; counts are whole numbers, log1p values are bounded."""
    shapes = {name: cells.anndata_of(name) for name in cells.NAMES}
    assert {name: a.shape for name, a in shapes.items()} == {"kang": (1975, 6998), "kang_donors": (1556, 1267), "glioblastoma": (5000, 300), "norman": (3375, 500), "mcfaline": (2586, 500)}
    for name, a in shapes.items():
        assert cells.available(name) and a.obs.columns.tolist() == ["condition", *a.uns["covariates"]] and a.X.dtype == np.float32 and a.var_names.is_unique
        assert (a.X.data >= 0).all() and ((a.X.data == np.round(a.X.data)).all() if a.uns["measure"] == "counts" else a.X.data.max() < 7)
    kang = shapes["kang"].obs.groupby(["cell_type", "condition"], observed=True).size()
    assert {t: (kang[t, "stimulated"], kang[t, "control"]) for t in kang.index.levels[0]} == {"CD4T": (356, 278), "CD14+Mono": (83, 238), "B": (112, 110), "CD8T": (53, 69), "NK": (87, 54), "FCGR3A+Mono": (289, 132), "Dendritic": (59, 55)}
    donors = shapes["kang_donors"].obs.groupby(["cell_type", "condition", "donor"], observed=True).size()
    assert donors["CD8 T cells", "stim", "107"] == 15 and donors["B cells", "ctrl", "107"] == 44
    assert (shapes["glioblastoma"].obs.groupby(["patient", "condition"], observed=True).size() == 500).all() and len(shapes["norman"].obs["condition"].unique()) == 34
    assert not set(shapes["norman"].obs["cell_line"]) & set(shapes["mcfaline"].obs["cell_line"])


@needs_mirror
@pytest.mark.parametrize("name, number, size", [("kang", 7, 1000), ("kang_donors", 9, 1267), ("glioblastoma", 5, 300), ("norman", 3, 500)])
def test_folds(name, number, size):
    """E3: one fold a group, of equal shapes; the held-out cells are in test alone and are all of their group, controls never; the fold's genes and outcomes follow from its training cells."""
    folds = cells.folds(name)
    assert len(folds) == number == len({fold.unit for fold in folds}) and {fold.outcome.shape[1] for fold in folds} == {size} == {len(fold.genes) for fold in folds}
    assert len({(fold.treatment.shape, fold.covariates.shape, fold.strata, fold.conditions) for fold in folds}) == 1
    for fold in folds:
        assert len(fold.test) > 30 and not set(fold.test) & set(fold.train) and len(fold.test) + len(fold.train) == fold.n
        held = set(zip(fold.stratum[fold.test], fold.condition[fold.test]))
        assert all(k != fold.control for _, k in held) and not held & set(zip(fold.stratum[fold.train], fold.condition[fold.train]))
        assert len(held) == (5 if name == "norman" else 1) and (name == "norman" or fold.unit == fold.strata[fold.stratum[fold.test[0]]])
    if name == "norman":
        assert {fold.conditions[k] for fold in folds for k in fold.condition[fold.test]} == set(PAIRS)
    if name == "kang":
        assert len({fold.genes for fold in folds}) > 1 and folds[0].genes == cells.load("kang", held=[("B", "stimulated")]).genes
