"""VCI on AnnData: what it promises at the door, on disk and to scanpy, and whether it finds effects whose truth is known."""

from dataclasses import replace
from functools import cache

import anndata
import matplotlib
import numpy as np
import pandas as pd
import pytest
import scanpy
import scipy.sparse as sp

from gencausal import robust
from gencausal.checks import InputError
from gencausal.data.cell_worlds import cell_world
from gencausal.estimators import VCI, annotated
from gencausal.estimators.vci import CONFIG

matplotlib.use("Agg")
TINY = replace(CONFIG, rounds=6, width=8, latent=4, embedding=8, warmup=2)
SMALL = replace(CONFIG, rounds=300, batch=48, lr=1e-2, width=64, latent=32, embedding=64)
KEYS = {"treatment_key": "treatment", "covariate_keys": ["type"]}


@cache
def world(genes=20, train=500, test=200):
    """(training cells, test cells, true outcomes of the test cells under each treatment) of the world of E1, shifted to be positive as log1p values are."""
    table = cell_world(0, 0, train, test, genes)
    low = table.outcome_cf.min()
    obs = pd.DataFrame({"treatment": pd.Categorical([("control", "A", "B")[k] for k in table.condition]), "type": [f"type {x}" for x in table.stratum], "batch": "one"}, index=[f"cell {i}" for i in range(table.n)])
    cells = anndata.AnnData(table.outcome - low, obs=obs, var=pd.DataFrame({"symbol": [f"s{g}" for g in range(genes)]}, index=[f"gene {g}" for g in range(genes)]))
    return cells[:train].copy(), cells[train:].copy(), table.outcome_cf[train:] - low


@cache
def fitted(crossfit=True):
    return VCI(SMALL, seed=1, device="cpu", crossfit=crossfit).fit(world()[0], **KEYS)


@cache
def tiny():
    return VCI(TINY, device="cpu").fit(world()[0], **KEYS)


def additive(rng, n=800):
    """Cells whose treatments A to D shift expression and add up in pairs; A+B is not among them. Also the true shifts."""
    labels = rng.choice(["ctrl", "A", "B+ctrl", "C", "D", "A+C", "C+B", "A+D", "D+B"], n)
    types, base = rng.integers(0, 2, n), rng.uniform(2, 3, (2, 15))
    shift = {part: sign * np.isin(np.arange(15), np.arange(start, start + 5)) for part, sign, start in (("A", 1.0, 0), ("B", -1.0, 5), ("C", 1.0, 10), ("D", 1.0, 7), ("ctrl", 0.0, 0))}
    values = base[types] + np.array([sum(shift[part] for part in label.split("+")) for label in labels]) + 0.1 * rng.standard_normal((n, 15))
    return anndata.AnnData(values.astype(np.float32), obs=pd.DataFrame({"target": labels, "type": np.array(["x", "y"])[types]}, index=[f"c{i}" for i in range(n)])), shift


# --- what it finds ---------------------------------------------------------------------------------------------------------------------------


def test_effects_on_new_cells_beat_no_effect():
    """Of cells outside `fit`, the effect A against control predicted cell by cell is nearer to the true one than none at all (squared error below 0.7 of the effect's square); the mean predicted expression follows the true mean effect, of the weak treatment B too."""
    _, test, truth = world()
    controls = np.flatnonzero(test.obs["treatment"] == "control")
    effect = fitted().predict(test[controls], "A").X - fitted().predict(test[controls], "control").X
    true = truth[controls] - truth[controls, :1]
    assert np.square(effect - true[:, 1]).mean() < 0.7 * np.square(true[:, 1]).mean()
    for k, name in ((1, "A"), (2, "B")):
        assert np.corrcoef((fitted().predict(test[controls], name).X - test.X[controls]).mean(0), true[:, k].mean(0))[0, 1] > 0.85


def test_an_unseen_pair_adds_up():
    """In an additive world A+B, of which no cell was seen, is predicted near the sum of the shifts of A and B (relative error below 0.6, where one part forgotten is 0.71 and no effect 1), whatever the order of its parts; labels "B+ctrl" and "C+B" are B and B+C."""
    cells, shift = additive(np.random.default_rng(0))
    model = VCI(replace(SMALL, batch=64), device="cpu", crossfit=False).fit(cells, "target", ["type"], control="ctrl")
    assert model.treatments_ == ("ctrl", "A", "B", "C", "D") and model.conditions_ == ("ctrl", "A", "A+C", "A+D", "B", "B+C", "B+D", "C", "D")
    controls = cells[cells.obs["target"] == "ctrl"]
    found, other = (model.predict(controls, name).X for name in ("A+B", "B+A"))
    error = (found.mean(0) - controls.X.mean(0)) - (shift["A"] + shift["B"])
    assert np.array_equal(found, other) and np.linalg.norm(error) < 0.6 * np.linalg.norm(shift["A"] + shift["B"])


def test_marginal_effects_and_their_intervals():
    """Eq. cell-effect: the estimate is near the difference of the stratified means, trained or not, its intervals hold most true effects of the population, and `plug_in` is the model's word."""
    _, test, truth = world()
    found = fitted().marginal_effect(test, "A")
    assert list(found.columns) == ["estimate", "se", "low", "high", "plug_in", "n"] and list(found.index) == list(test.var_names)
    t, x = (test.obs[c].to_numpy() for c in ("treatment", "type"))
    stratified = sum((x == s).mean() * (test.X[(x == s) & (t == "A")].mean(0) - test.X[(x == s) & (t == "control")].mean(0)) for s in np.unique(x))
    for model in (fitted(), tiny()):
        estimate = model.marginal_effect(test, "A")
        assert (np.abs(estimate["estimate"] - stratified) < estimate["se"]).all()
    effect = (truth[:, 1] - truth[:, 0]).mean(0)
    assert ((found["low"] < effect) & (effect < found["high"])).mean() > 0.7 and np.corrcoef(found["plug_in"], effect)[0, 1] > 0.8
    wide = fitted().marginal_effect(test, "A", alpha=0.01)
    assert (wide["low"] < found["low"]).all() and (found["se"] > 0).all() and (found["n"] == (t == "A").sum()).all()


def test_no_cell_is_corrected_by_a_network_that_saw_it(monkeypatch):
    """Cross-fitting: for cells of half 0 only the network of half 1 is asked, with controls of half 1, and the other way round; the halves follow the values, not the order or the names."""
    train, model, asked = world()[0], tiny(), []
    half = annotated.halves(train.X)
    assert 0.4 < half.mean() < 0.6 and np.array_equal(annotated.halves(train.X[::-1].copy()), half[::-1])
    kept = {row.tobytes(): h for row, h in zip(train.X, half)}
    mean = VCI._mean
    monkeypatch.setattr(VCI, "_mean", lambda self, table, outcome, *rest: (asked.append((table, {kept[row.tobytes()] for row in outcome})), mean(self, table, outcome, *rest))[1])
    monkeypatch.setattr(robust, "influence", lambda outcome, arm, predicted, propensity: np.zeros(predicted.shape))
    model.marginal_effect(train, "A")
    assert {table for table, _ in asked} == {1, 2} and all(halves == {table - 1} for table, halves in asked)


def test_networks_of_the_halves_were_trained_on_them():
    """A cell of half 0 that changes leaves the network of half 1 as it was, bit for bit, and moves the others."""
    train = world()[0]
    half = annotated.halves(train.X)
    other = train.copy()
    for row in np.flatnonzero((half == 0) & (train.obs["treatment"] == "A"))[:5]:
        moved = next(m for v in np.linspace(0.5, 2, 20) if annotated.halves((m := train.X[row] + np.float32(v))[None])[0] == 0)
        other.X[row] = moved
    a, b = tiny()._fit.networks, VCI(TINY, device="cpu").fit(other, **KEYS)._fit.networks
    same = [all(np.array_equal(p[s], q[s]) for p, q in zip(a.parameters(), b.parameters())) for s in range(3)]
    assert same == [False, False, True]


# --- AnnData and scanpy ----------------------------------------------------------------------------------------------------------------------


def test_provenance_and_what_is_kept():
    """A counterfactual knows its factual and counterfactual treatment, method and model; obs and var are kept, the input is untouched, `predict` gives the same values."""
    test, model = world()[1], tiny()
    before = test.copy()
    made = model.counterfactual(test[:30], "A+B")
    assert (made.obs["factual_treatment"].astype(str) == test.obs["treatment"][:30].astype(str).to_numpy()).all() and set(made.obs["counterfactual_treatment"]) == {"A+B"}
    assert set(made.obs["method"]) == {"VCI"} and set(made.obs["model_id"]) == {model.model_id_} and made.obs_names[0] == f"{test.obs_names[0]} do(A+B)"
    assert list(made.var["symbol"]) == list(test.var["symbol"]) and list(made.obs["type"]) == list(test.obs["type"][:30]) and np.array_equal(made.layers["factual"], test.X[:30])
    assert np.array_equal(model.predict(test[:30], "A+B").X, made.X) and np.array_equal(test.X, before.X) and test.obs.equals(before.obs)


def test_scanpy_reads_predictions_beside_real_cells():
    """An example of use: predicted and real treated cells in one AnnData, rank_genes_groups, a matrix plot and a dot plot; scanpy's ranking of the predicted effect agrees with `de_table`."""
    test, model = world()[1], fitted()
    controls = test[test.obs["treatment"] == "control"]
    made = model.counterfactual(controls, "A")
    both = anndata.concat({"control": controls, "predicted A": made, "real A": test[test.obs["treatment"] == "A"]}, label="origin")
    both.obs["origin"] = both.obs["origin"].astype("category")
    both.uns["log1p"] = {"base": None}
    scanpy.tl.rank_genes_groups(both, "origin", groups=["predicted A", "real A"], reference="control", method="t-test")
    ranks = scanpy.get.rank_genes_groups_df(both, "predicted A").set_index("names")
    ours = model.de_table(test, "A")
    assert list(ours.columns) == ["group", "names", "scores", "logfoldchanges"] and ours["scores"].is_monotonic_decreasing and set(ours["names"]) == set(test.var_names)
    assert np.corrcoef(ours.set_index("names")["logfoldchanges"], ranks["logfoldchanges"].reindex(ours["names"]))[0, 1] > 0.9
    top = list(ours["names"][:3]) + list(ours["names"][-3:])
    for plot in (scanpy.pl.matrixplot, scanpy.pl.dotplot):
        assert plot(both, top, groupby="origin", show=False)
    matplotlib.pyplot.close("all")


def test_de_table_by_group():
    """One block of rows a group, each sorted; under the control nothing is differential, not even by the error of reconstruction."""
    found = tiny().de_table(world()[1], "A", groupby="type")
    assert list(found["group"].unique()) == ["type 0", "type 1", "type 2"] and len(found) == 60
    assert (tiny().de_table(world()[1], "control")["logfoldchanges"] == 0).all()


# --- the same result -------------------------------------------------------------------------------------------------------------------------


def test_same_seed_same_bits_and_one_cell_as_many():
    """A fit is decided by cells, configuration and seed; the prediction of one cell is that of many; dense and sparse values are one; members are averaged."""
    train, test, _ = world()
    again = train.copy()
    again.X = sp.csr_matrix(again.X)
    again.obs["treatment"] = again.obs["treatment"].astype(str)
    other = VCI(TINY, device="cpu").fit(again, **KEYS)
    assert other.model_id_ == tiny().model_id_ and np.array_equal(other.predict(test, "A").X, tiny().predict(test, "A").X)
    assert VCI(TINY, device="cpu", seed=1).fit(train, **KEYS).model_id_ != other.model_id_
    many = fitted().predict(test, "B").X
    for i in (0, 7):
        np.testing.assert_allclose(fitted().predict(test[i], "B").X[0], many[i], rtol=1e-4, atol=1e-5)
    labels = test.obs["treatment"].astype(str).to_numpy()
    assert np.allclose(fitted().predict(test, labels).X[labels == "B"], many[labels == "B"], atol=1e-5)
    pair = VCI(TINY, device="cpu", members=2, crossfit=False).fit(train, **KEYS)
    alone = VCI(TINY, device="cpu", crossfit=False).fit(train, **KEYS)
    first = pair._fit.predict(0, *(arguments := (*pair._read(test)[:3], pair._asked("A", test.n_obs)[0])))
    np.testing.assert_allclose(first, alone._fit.predict(0, *arguments), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(pair.predict(test, "A").X, (first + pair._fit.predict(1, *arguments)) / 2, rtol=1e-5)


def test_save_and_load(tmp_path):
    """The same bits after a round trip, to a file or a folder; other files are refused in one sentence."""
    test, model = world()[1], tiny()
    for path in (tmp_path / "m.safetensors", tmp_path):
        loaded = VCI.load(model.save(path), device="cpu")
        assert loaded.model_id_ == model.model_id_ and np.array_equal(loaded.predict(test, "A+B").X, model.predict(test, "A+B").X)
        pd.testing.assert_frame_equal(loaded.marginal_effect(test, "B"), model.marginal_effect(test, "B"))
    with pytest.raises(InputError, match="There is no file"):
        VCI.load(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match="not a whole file of VCI.save"):
        VCI.load(tmp_path / "bad.safetensors")
    with pytest.raises(InputError, match="not fitted"):
        VCI(TINY).save(tmp_path / "x")


def test_doses():
    """Doses scale a part's column; {"A": 0.5} asks for one, in any unit of `fit`; conditions of other doses are apart."""
    train = world()[0].copy()
    train.obs["dose"] = np.where(train.obs["treatment"] == "A", np.tile([0.5, 1.0], 250), 1.0)
    model = VCI(TINY, device="cpu", crossfit=False).fit(train, **KEYS, dose_key="dose")
    assert model.conditions_ == ("control", "A@0.5", "A", "B")
    half, whole, label = (model.predict(train, asked).X for asked in ({"A": 0.5}, {"A": 1}, "A"))
    assert np.array_equal(whole, label) and not np.array_equal(half, whole)
    assert set(model.counterfactual(train, {"A": 0.5, "B": 1}).obs["counterfactual_treatment"]) == {"A@0.5+B@1"}


def test_counts_are_normalised_to_the_depth_of_the_fitted_cells():
    """expects="counts" is expects="log1p" on scanpy's own normalisation, and the depth is remembered: half the counts of new cells give the same prediction. No covariates: one stratum."""
    rng = np.random.default_rng(0)
    train = world()[0].copy()
    train.layers["counts"] = rng.poisson(5 + 10 * train.X).astype(np.float32)
    model = VCI(TINY, device="cpu", crossfit=False).fit(train, "treatment", layer="counts", expects="counts")
    log = train.copy()
    log.X = log.layers["counts"].copy()
    scanpy.pp.normalize_total(log)
    scanpy.pp.log1p(log)
    other = VCI(TINY, device="cpu", crossfit=False).fit(log, "treatment")
    np.testing.assert_allclose(model._read(train)[0], log.X, rtol=1e-5)
    np.testing.assert_allclose(model.predict(train[:9], "A").X, other.predict(log[:9], "A").X, rtol=0.02)
    deep = train[:9].copy()
    deep.layers["counts"] = deep.layers["counts"] * 2
    np.testing.assert_allclose(model.predict(deep, "A").X, model.predict(train[:9], "A").X, rtol=1e-4, atol=1e-5)
    assert model.strata_ == ("all cells",)


# --- at the door -----------------------------------------------------------------------------------------------------------------------------


def edited(name, value, rows=slice(None)):
    cells = world()[0].copy()
    if name == "X":
        cells.X[rows] = value
    else:
        cells.obs[name] = cells.obs[name].astype(object)
        cells.obs.iloc[rows, cells.obs.columns.get_loc(name)] = value
    return cells


def doubled():
    cells = world()[0].copy()
    cells.var_names = ["gene"] * cells.n_vars
    return cells


FIT = {
    "no AnnData": (lambda: world()[0].X, {}, "must be an AnnData"),
    "missing key": (world, {"treatment_key": "drug"}, "treatment_key: adata.obs has no column 'drug'"),
    "missing covariate": (world, {"covariate_keys": ["donor"]}, "covariate_keys: adata.obs has no column 'donor'"),
    "missing dose": (world, {"dose_key": "mg"}, "dose_key: adata.obs has no column 'mg'"),
    "missing layer": (world, {"layer": "log"}, "layer: adata.layers has no 'log'"),
    "no control": (world, {"control": "vehicle"}, "control is 'vehicle', but no cell has it"),
    "no treated": (lambda: edited("treatment", "control"), {}, "needs treated cells too"),
    "counts": (lambda: edited("X", 2.0), {}, "whole numbers only, raw counts by the look of it"),
    "no counts": (world, {"expects": "counts"}, "holds fractions, which are no counts"),
    "negative": (lambda: edited("X", -1.5, 3), {}, "negative values"),
    "NaN": (lambda: edited("X", np.nan, 3), {}, "holds nan in cell 'cell 3', gene 'gene 0'"),
    "label missing": (lambda: edited("treatment", None, [4]), {}, r"obs\['treatment'\] is missing for 1 cells"),
    "stratum without control": (lambda: edited("type", "rare", np.flatnonzero(world()[0].obs["treatment"] == "A")[:3]), {}, "no cell of stratum 'rare' is a control"),
    "twice": (doubled, {}, "has the gene 'gene' twice"),
    "no cells": (lambda: world()[0][:0], {}, "is empty"),
    "few cells": (lambda: world()[0][:9], {}, "has 9 cells; VCI needs at least 20"),
    "expects": (world, {"expects": "tpm"}, "expects must be one of"),
}


@pytest.mark.parametrize("case", FIT)
def test_fit_refuses_in_one_sentence(case, monkeypatch):
    """Wrong input gets one sentence that names argument and fix, before training."""
    make, options, message = FIT[case]
    monkeypatch.setattr("gencausal.estimators.vci.stack.train", lambda *_: pytest.fail("work started"))
    cells = make()
    with pytest.raises(InputError, match=message) as error:
        VCI(TINY, device="cpu").fit(cells[0] if isinstance(cells, tuple) else cells, **KEYS | options)
    assert "\n" not in str(error.value)


PREDICT = {
    "unknown part": (lambda c: c, "A+Z", "names 'Z', which no fitted cell was given"),
    "dose": (lambda c: c, {"A": 0.0}, "the dose of 'A' must be a finite number above 0"),
    "empty": (lambda c: c, {}, "treatment names nothing"),
    "length": (lambda c: c, ["A", "B"], "treatment has 2 labels"),
    "genes missing": (lambda c: c[:, :5], "A", "adata lacks 15 of the 20 genes"),
    "genes moved": (lambda c: c[:, ::-1], "A", "in another order"),
    "unseen level": (lambda c: edited("type", "new", [0]), "A", r"obs\['type'\] holds 'new', which no fitted cell had"),
    "unseen treatment": (lambda c: edited("treatment", "Z", [0]), "A", r"obs\['treatment'\] names 'Z'"),
    "no column": (lambda c: anndata.AnnData(c.X, var=c.var), "A", "adata.obs has no column 'treatment'"),
    "counts": (lambda c: edited("X", 1.0), "A", "raw counts by the look of it"),
}


@pytest.mark.parametrize("case", PREDICT)
def test_predict_refuses_in_one_sentence(case):
    change, treatment, message = PREDICT[case]
    for method in ("predict", "counterfactual", "marginal_effect", "de_table"):
        if case == "length" and method in ("marginal_effect", "de_table"):
            continue
        with pytest.raises(InputError, match=message):
            getattr(tiny(), method)(change(world()[0]), treatment)


def test_other_refusals():
    """Options, an estimator without fit, an effect that nothing can correct, cross-fitting that was not asked for, groups without controls."""
    for options, message in (({"config": {"rounds": 3}}, "config must be"), ({"weights": "best"}, "weights must be one of"), ({"weights": (1.0, 2.0)}, "three numbers"), ({"weights": (1.0, -2.0, 0.0)}, "weights must be"),
                             ({"members": 0}, "members must be"), ({"seed": -1}, "seed must be"), ({"config": replace(TINY, likelihood="bernoulli")}, "config.likelihood")):
        with pytest.raises(InputError, match=message):
            VCI(**options)
    test = world()[1]
    with pytest.raises(InputError, match="not fitted"):
        VCI().predict(test, "A")
    with pytest.raises(InputError, match="under 'A\\+B', so that nothing corrects the model"):
        tiny().marginal_effect(test, "A+B")
    with pytest.raises(InputError, match="crossfit=False"):
        VCI(TINY, device="cpu", crossfit=False).fit(world()[0], **KEYS).marginal_effect(test, "A")
    with pytest.raises(InputError, match="has 0 control cells"):
        tiny().de_table(test[test.obs["treatment"] == "B"], "A")


def test_weights_by_name():
    """The published weights borrow nothing; the default ones borrow; numbers leave the configuration alone."""
    assert VCI().weights == (0.03, 1.7, 0.0003) and VCI().config.borrow is True
    assert VCI(weights="published").weights == VCI(weights="vci").weights == (1.0, 1.7, 0.1) and VCI(weights="published").config.borrow == 0
    assert VCI(weights=(1, 2, 0)).weights == (1.0, 2.0, 0.0) and VCI(replace(CONFIG, borrow=2.0), weights=(1, 2, 0)).config.borrow == 2.0
