"""Experiments of the amortised study with a network of random weights and small cells: what each table holds, invariants that need no training, closed forms."""

import dataclasses
import os

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch

from gencausal import amortised, checks, seeding
from gencausal.data import ecoli70, regulatory, scm_cells, scm_graphs, scms
from gencausal.data.scm_equations import csuite
from gencausal.experiments import scm_calibration, scm_fixed_point, scm_laws, scm_methods, scm_published, scm_tables, scm_training
from gencausal.scm_metrics import row_rmse
from gencausal.scm_models.fip import FiPConfig

FIP = FiPConfig(rounds=3, width=8)
mirror = pytest.mark.skipif(not os.environ.get("GENCAUSAL_DATA"), reason="needs the data mirror that GENCAUSAL_DATA names")


@pytest.fixture(scope="module")
def network():
    made, rng = amortised.make(amortised.PRESETS["tiny"], 0), seeding.generator(0, "move")
    with torch.no_grad():
        for p in made.parameters():
            p += 0.2 * torch.randn(p.shape, generator=rng)
    return made.requires_grad_(False)


@pytest.fixture(scope="module")
def cell():
    return scm_cells.cell("rff_in", 5, 30, 6, rows=10)


@pytest.mark.parametrize("method", [m for m in scm_methods.METHODS if m != "dowhy_gcm"])
def test_every_method_answers_alike(method, network, cell):
    """Own noise gives the rows back (but not with two heads), a held node has its value, and the answers are those of the method applied to each SCM alone."""
    fitted = scm_methods.fit(method, cell, network, fip=FIP)
    back = fitted.generate(fitted.noise(cell.query), None)
    gap = (back - cell.query).abs().max()
    assert gap > 1e-2 if method in (*scm_methods.NOISE_ONLY, "condfip_two_heads") else gap < 1e-3
    fixed = ~cell.held.isnan()
    assert torch.equal(fitted.generate(cell.do_noise, cell.held)[fixed], cell.held[fixed]) and torch.equal(fitted.counterfactual(cell.do_factual, cell.held)[fixed], cell.held[fixed])
    found = scm_methods.errors(fitted, cell)
    assert all(values.shape == (6,) and np.isfinite(values).all() for values in found.values()) and fitted.seconds >= 0
    assert ("rmse_counterfactual" in found) == (method not in scm_methods.NOISE_ONLY)
    rows = scm_methods.rows("condfip.E2", cell, fitted, found, 3)
    assert len(rows) == 6 * len(found) + 1 and {row["metric"] for row in rows} == {*found, "seconds"}


def test_true_mechanisms_have_no_error(cell):
    """Were F known, every error would vanish and TV be that of the fitted noise alone: the tables measure the mechanisms."""
    truth = scm_methods.truth(cell)
    found = scm_methods.errors(truth, cell)
    assert all((values < 5e-3).all() for values in found.values())
    exact, zero = scm_laws.variation(truth, cell), scm_laws.variation(scm_methods.fit("zero_mechanism", cell), cell)
    assert exact["tv_node"].mean() < 0.2 < zero["tv_node"].mean() and (exact["tv_joint"] <= 1).all() and zero["tv_joint"].mean() > 0.6


def test_no_own_context_no_difference_between_batches(network, cell):
    """SCMs and rows pass in parts; the parts do not matter."""
    whole = scm_methods.fit("condfip", cell, network)
    first = scm_methods.fit("condfip", dataclasses.replace(cell, adjacency=cell.adjacency[:1]), network, context=cell.context[:1])
    torch.testing.assert_close(first.noise(cell.query[:1]), whole.noise(cell.query)[:1], atol=1e-5, rtol=1e-5)
    with pytest.raises(checks.InputError, match="needs a network"):
        scm_methods.fit("condfip", cell)


def test_paired_differences():
    """Eq. paired-models: a constant gap has an interval of no width, seeds are averaged first, an SCM that one method lacks is left out; Eq. break-even."""
    rows = [{"dataset": "d", "metric": "m", "unit": u, "seed": seed, "method": method, "value": u + (0.5 if method == "a" else 0) + seed} for u in range(8) for seed in (0, 1) for method in "ab"]
    rows.append({"dataset": "d", "metric": "m", "unit": 99, "seed": 0, "method": "a", "value": 1e6})
    made = scm_tables.paired(rows, "d", "m", "a", "b")
    assert made["difference"] == made["low"] == made["high"] == 0.5 and made["n"] == 8 and made["mean_b"] == 4
    with pytest.raises(checks.InputError, match="both"):
        scm_tables.paired(rows, "d", "m", "a", "c")
    assert scm_tables.break_even(3600, 4.0, 0.4) == pytest.approx(1000) and scm_tables.break_even(1, 1, 2) == np.inf


def test_wrong_graphs_stay_acyclic_and_are_wrong_by_so_much():
    graphs = scm_cells.cell("rff_in", 8, 10, 5, rows=1, interventions=1).adjacency
    for kind, change in (("flip", 4), ("add", 2), ("delete", 2)):
        made = scm_tables.corrupted(graphs, kind, 2, seeding.generator(0, kind))
        assert ((made != graphs).sum((1, 2)) == change).all()
        assert (made.sum((1, 2)) - graphs.sum((1, 2)) == {"flip": 0, "add": 2, "delete": -2}[kind]).all()
        assert all(nx.is_directed_acyclic_graph(nx.from_numpy_array(g.numpy(), create_using=nx.DiGraph)) for g in made)
    full = torch.ones(4, 4, dtype=torch.bool)
    strength = torch.arange(16.0).view(4, 4)
    kept = scm_tables.break_cycles(full, strength)
    assert kept.sum() == 6 and kept[3, 2] and not kept[2, 3], "the strongest edges stay"


def test_regulatory_graphs():
    edges = pd.DataFrame({"regulator": list("aabbcda"), "target": list("bcacdea")})
    made = scm_tables.regulatory_graphs(edges, 4, 6, seeding.generator(0, "r"))
    assert made.shape == (6, 4, 4) and not made.tril().any() and (made.sum((1, 2)) >= 3).all()
    drawn = scms.draw(scms.FAMILIES["lin_in"], 6, 4, seeding.generator(0, "s"), made)
    assert torch.equal(drawn.adjacency.sum((1, 2)), made.sum((1, 2)))
    made = scm_tables.regulatory_cell("rff_in", edges, 4, 20, 3)
    assert made.name == "rff_in_regulatory_d4_n20" and made.adjacency.shape == (3, 4, 4) and (made.adjacency.sum((1, 2)) >= 3).all()


def test_cells_of_one_model_are_pooled():
    """Seven data sets of one model each become seven units of one data set."""
    rows = [{"dataset": name, "unit": "0", "value": v} for name, v in (("csuite_a", 1.0), ("csuite_b", 2.0))]
    assert scm_tables.pooled(rows, "csuite") == [{"dataset": "csuite", "unit": "csuite_a", "value": 1.0}, {"dataset": "csuite", "unit": "csuite_b", "value": 2.0}] and rows[0]["unit"] == "0"


def test_termination_of_the_fixed_point(network, cell):
    """E5, Eq. termination, Eq. propagation: nothing changes after L + 1 steps from any start, no slope leaks out of the graph, and both counter-examples go on changing."""
    rows = pd.DataFrame(scm_fixed_point.termination(network, cell, 20))
    assert (rows[["change_after", "start_gap"]] == 0).all(axis=None) and (rows["steps"] <= rows["longest_path"] + 1).all() and (rows[rows["start"] == "far"]["steps"] == rows[rows["start"] == "far"]["longest_path"] + 1).all()
    assert (scm_fixed_point.leak(network, cell, 2) == 0).all() and (scm_fixed_point.slopes(network, cell, 2).abs().amax((0, 2, 3)) > 0).all()
    made = pd.DataFrame(scm_fixed_point.exact_rows(network, cell, "condfip", 3))
    assert len(made) == 3 * len(cell) and (made["value"] == 0).all() and set(made["metric"]) == {"jacobian_outside", "change_after", "start_gap"}
    changes = scm_fixed_point.counter_examples(network, cell, 8)
    assert changes["graph"][-1] == 0 and changes["diagonal"][5] > 0 and changes["no mask"][5] > 0
    depth = scm_fixed_point.error_by_depth(network, cell)
    assert depth[0][0] == pytest.approx(depth[0][1], rel=1e-4) and len(depth) > 2 and len(depth[0][0]) == len(cell), "every model has roots, and nothing is inherited there"
    assert [len(own) for own, _ in depth.values()] == [int((scm_graphs.longest_path(cell.adjacency) == k).any(1).sum()) for k in depth]
    exact = scm_fixed_point.error_by_depth(network, dataclasses.replace(cell, query_noise=cell.query))
    values = network.mechanism(cell.query, network.condition(cell.context, cell.adjacency)).abs().mean(1)
    assert exact[0][0] == pytest.approx([row[~graph.any(0)].mean().item() for row, graph in zip(values, cell.adjacency)], rel=1e-4), "with the data for noise the error is T itself"
    assert (scm_fixed_point.propagation(network, cell, 2) >= 1 - 1e-4).all()
    empty = dataclasses.replace(cell, adjacency=torch.zeros_like(cell.adjacency))
    assert scm_fixed_point.propagation(network, empty, 2) == pytest.approx(1), "without edges the data are the noise and a constant"


def test_calibration_table():
    """E1: levels beside means; a cell that was not run has no row; names say what a cell is."""
    cells = scm_calibration.cells(("lin_in_d10_n400",), 3)
    assert cells[0].name == "lin_in_d10_n400" and scm_calibration.protocol_table(cells)["edges_a_node"][0] > 1
    made = scm_calibration.compare(scm_calibration.rows(cells, ("ols", "zero_mechanism")))
    assert len(made) == 4 and made[made["method"] == "ols"]["inside"].all() and (made["mean"] > 0).all()
    draws = pd.DataFrame([row for draw in (0, 1) for row in scm_calibration.rows(scm_calibration.cells(("lin_in_d10_n400",), 2, draw), ("zero_mechanism",), draw)])
    assert set(draws[draws["metric"] == "rmse_noise"]["unit"]) == {"0.0", "0.1", "1.0", "1.1"}, "two draws have four models"


def test_regressions_fitted_to_the_rows_in_question():
    """`ols_own`: in each batch of as many rows as the context has, the noise of a node has mean zero and no product with a parent (the normal equations); the context plays no part."""
    cell = scm_cells.cell("lin_in", 4, 50, 3, query=100, rows=5)
    noise = scm_methods.fit("ols_own", cell).noise(cell.query)
    for batch, rows in zip(noise.split(50, 1), cell.query.split(50, 1)):
        assert batch.mean(1).abs().max() < 1e-5
        products = (rows.mT @ batch / 50)[cell.adjacency]
        assert len(products) and products.abs().max() < 1e-5
    other = dataclasses.replace(cell, context=cell.context.flip(1) + 1)
    assert torch.equal(scm_methods.fit("ols_own", other).noise(cell.query), noise) and not torch.equal(scm_methods.fit("ols", other).noise(cell.query), scm_methods.fit("ols", cell).noise(cell.query))


def test_reflections_of_validation_models(network):
    """One reflection is the network: its errors are those of the training's log; four are another network's."""
    found = scm_training.reflections({0: network, 1: network}, (1, 4), 2)
    cells = amortised.validation_cells(amortised.PRESETS["cpu"], count=2)
    for row in found[found["reflections"] == 1].itertuples():
        errors = amortised.noise_errors(network, cells[row[2]])
        np.testing.assert_allclose([row.decoder, row.encoder], [errors["decoder"].mean(), errors["encoder"].mean()], rtol=1e-4)
    assert len(found) == 4 and (found["trainings"] == 2).all() and found["decoder"].nunique() == 4


def test_forks_shifts_and_csuite(network):
    rows = pd.DataFrame(scm_tables.fork_rows("rff_in", 3, 20, 2, ("condfip", "ols"), network))
    assert {"rff_in_d3_n20", "rff_in_d3_n20_scaled_on_context", "rff_in_shared_d3_n20"} & set(rows["dataset"]) and {"condfip_encoder_all", "condfip_factual_rows"} <= set(rows["method"])
    at = rows[rows["metric"] == "rmse_intervention"].groupby("method")["value"].mean()
    assert at["condfip_factual_few"] != at["condfip_factual_rows"] != at["condfip_fresh_rows"]
    same = pd.DataFrame(scm_tables.fork_rows("rff_in", 3, 100, 2, (), network)).query("metric == 'rmse_intervention'").groupby("method")["value"].mean()
    assert same["condfip_factual_few"] == same["condfip_factual_rows"], "with a context as long as the intervention, few are all"
    once, more = scm_tables.shifted_cells(("rff_out",), "noise", (1, 5), 3, 20, 2)
    assert (once.name, more.name) == ("rff_out_noise_1_d3_n20", "rff_out_noise_5_d3_n20") and torch.equal(once.adjacency, more.adjacency)
    torch.testing.assert_close(more.do_noise * more.scale.sd, 5 * once.do_noise * once.scale.sd)
    torch.testing.assert_close(once.query, scm_cells.cell("rff_out", 3, 20, 2).query, msg="the family itself")
    cells = scm_tables.csuite_cells(30)
    assert len(cells) == 19 and cells[0].name == "csuite_lingauss_n30" and cells[-1].name == "csuite_weak_arrow_gmm6_n30" and cells[-1].d == 9
    fitted = scm_methods.fit("ols", cells[0])
    assert scm_methods.errors(fitted, cells[0])["rmse_noise"][0] < 0.4
    wrong = scm_tables.wrong_graph_rows([scm_cells.cell("lin_in", 4, 30, 2, rows=2)], ("ols", "condfip"), network, ("delete",), (1,))
    assert {row["dataset"] for row in wrong} == {"lin_in_d4_n30_delete1"}


def test_variation_of_two_gaussians():
    """Eq. anm-density on a root alone: TV of the fitted law against N(0, 1) is that of its mean."""
    assert scm_laws.gaussian_gap(1.0) == pytest.approx(0.3829, abs=1e-4)
    drawn = scms.SCMs("root", torch.zeros(1, 2, 2, dtype=torch.bool), torch.arange(2)[None], scms.Linear(torch.zeros(1, 2, 2), torch.zeros(1, 2)), scms.Noise("gaussian", torch.ones(1, 2)))
    made = scm_cells.from_scms("root", drawn, 2000, interventions=1, rows=20_000)
    shifted = scm_methods.Fitted("shifted", lambda z: torch.ones_like(z), lambda x: 0 * x + (x - x.mean(1, keepdim=True)), lambda u, held: torch.where(held.isnan(), u + 1, held), None, 0.0)
    found = scm_laws.variation(shifted, made)
    assert found["tv_node"][0] == pytest.approx(scm_laws.gaussian_gap(1.0), abs=0.03) and found["tv_joint"][0] == pytest.approx(found["tv_node"][0]) and found["tv_marginal"][0] == pytest.approx(0.38, abs=0.06)
    centre, noise = scm_laws.fitted_noise(scms.Noise("laplace", torch.tensor([[0.7]])).sample(20_000, seeding.generator(0, "l")) + 2, "laplace")
    assert centre.item() == pytest.approx(2, abs=0.03) and noise.scale.item() == pytest.approx(0.7, abs=0.02)


def test_real_tables_need_no_truth(network):
    """E11 on a made table: the floor of two halves is small, a method that ignores the graph is far from it."""
    x = csuite("large_backdoor").sample(300, seeding.generator(0, "x"))[0][0].numpy()
    graph = csuite("large_backdoor").adjacency[0].numpy()
    cells = [scm_laws.table_cell("made", x, graph, 120, split) for split in range(2)]
    rows = scm_laws.mmd_rows("made", cells, ("ols", "zero_mechanism", "condfip"), network, permutations=19)
    means = scm_laws.summary(rows).set_index("method")["mmd"]
    assert means["context"] < 0.01 and means["zero_mechanism"] > 1.5 * means["ols"] > 1.5 * means["context"]
    assert not torch.equal(cells[0].context, cells[1].context)


@mirror
def test_sachs_and_ecoli_cells():
    cells = scm_laws.sachs_cells(100, 1)
    assert set(cells) == {"sachs_consensus_raw", "sachs_consensus_log", "sachs_dag20_raw", "sachs_dag20_log"} and cells["sachs_dag20_raw"][0].adjacency.sum() == 20
    assert all(scm_laws.available(name) for name in ("sachs", "ecoli70", "regulatory_graphs"))
    first, second = scm_laws.ecoli_cells(50, 2)
    assert first.name == "ecoli70_n50" and first.d == 46 and not torch.equal(first.query, second.query)
    assert {name: len(regulatory.edges(name)) for name in regulatory.FILES} == {"ecoli": 3758, "yeast": 12_873}
    made = scm_cells.from_scms("ecoli70_n100", ecoli70.load()[0], 100, interventions=3, rows=5)
    found = scm_methods.errors(scm_methods.fit("ols", made), made)
    rows = pd.DataFrame(scm_laws.gene_rows([first], ("ols", "zero_mechanism"), None))
    assert set(rows["unit"]) == {"split 0"} and set(rows["dataset"]) == {"ecoli70"} and {"rmse_noise", "rmse_generation", "tv_node", "tv_joint", "tv_marginal"} == set(rows["metric"])
    node = rows[rows["metric"] == "tv_node"].set_index("method")["value"]
    assert node["ols"] < node["zero_mechanism"], "least squares has the right form"
    assert found["rmse_noise"][0] < 0.2 and row_rmse(made.query_noise.numpy(), made.query.numpy())[0] > 0.3


def test_variants_train_and_are_scored(network):
    """E4, E14: every name changes one thing; rows carry its name; E16 reads the log."""
    base = dataclasses.replace(amortised.PRESETS["tiny"], steps=2)
    for name in (*scm_training.CONDITIONING, *scm_training.MIXES):
        assert (scm_training.recipe(name, base) == base) == (name == "default")
    cell = scm_cells.cell("rff_in", 4, 20, 2, rows=2)
    rows = pd.DataFrame(scm_training.variant_rows("condfip.E4", ("softmax_mask", "rff_only"), base, [cell]))
    assert set(rows["method"]) == {"condfip_softmax_mask", "condfip_softmax_mask_encoder", "condfip_rff_only", "condfip_rff_only_encoder"} and "rmse_noise_roots" in set(rows["metric"])
    curve = scm_training.scale_curve({"scores": [{"round": 10, "noise": [1.0], "decoder_lin_in": [0.5], "encoder_rff_in": [0.4]}], "recipe": {"recipe": {"batch": 16}}})
    assert curve.to_dict("records") == [{"scms": 160, "head": "decoder", "family": "lin_in", "rmse_noise": 0.5}, {"scms": 160, "head": "encoder", "family": "rff_in", "rmse_noise": 0.4}]


def test_amortised_methods_carry_every_training_and_the_others_one(network, cell):
    """Rows of two networks: both for the amortised methods, one for those fitted to the data; the spread over trainings is that of the two means."""
    seen = scm_methods.over_seeds({0: network, 7: network}, ("condfip", "ols"), lambda some, model, seed: [{"dataset": "d", "unit": u, "method": m, "metric": "rmse_noise", "seed": seed, "value": u + seed} for m in some for u in range(3)])
    assert [(row["method"], row["seed"]) for row in seen if row["unit"] == 0] == [("condfip", 0), ("ols", 0), ("condfip", 7)]
    made = scm_tables.spread_of_seeds(pd.DataFrame(seen), "d", "condfip", "rmse_noise")
    assert made["over trainings"] == pytest.approx(7 / 2**0.5) and made["over models"] == pytest.approx(1) and (made["trainings"], made["models"], made["mean"]) == (2, 3, 4.5)
    assert scm_tables.spread(pd.DataFrame(seen), "d", "ols", "rmse_noise").mean == 1


def test_the_papers_cells_stand_beside_ours():
    """Table 10 at d = 10, 100 rows: Cond-FiP .07 and .14, for both heads; counterfactuals for the two heads alone; ours are means over models of the means over trainings."""
    table = scm_published.table().set_index(["dataset", "method", "metric"])["published"]
    assert table.index.is_unique and (table.between(0, 0.6)).all()
    assert [table[f"{family}_d10_n100", head, "rmse_noise"] for family in ("lin_in", "rff_in") for head in ("condfip", "condfip_encoder")] == [0.07, 0.07, 0.14, 0.14]
    assert table["rff_in_d10_n400", "condfip_two_heads", "rmse_counterfactual"] == 0.21 and ("rff_in_d10_n400", "condfip", "rmse_counterfactual") not in table.index
    rows = pd.DataFrame([{"dataset": "rff_in_d10_n100", "unit": u, "method": "fip", "metric": "rmse_noise", "seed": s, "value": v} for u, s, v in (("0", 0, 0.1), ("0", 1, 0.3), ("1", 0, 0.4))])
    (made,) = scm_published.beside(rows, "rmse_noise").to_dict("records")
    assert made["ours"] == pytest.approx(0.3) and made["n"] == 2 and made["published"] == 0.18
