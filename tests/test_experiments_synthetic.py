"""E3, E7, E8, E9, E12, E14 and E18 on designs with a known law: rows against closed forms, and short runs of each."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gencausal import metrics
from gencausal.checks import InputError
from gencausal.data import synthetic
from gencausal.data.stack import prepare_tables
from gencausal.diffusion import Denoiser
from gencausal.estimators.outcomes import DistillationConfig, TeacherConfig, potential_draws
from gencausal.experiments import designs, laws, oracle, sizes
from gencausal.sampling import stratified_normal

TINY = TeacherConfig(width=8, depth=1, embedding=8, decoder=4, gate=1.0, gate_penalty=0.0, rounds=3, batch=16, score_every=3)
SHORT = DistillationConfig(trainable="all", rounds=2, batch=8, draws=2, score_every=2)


def pick(rows, **want):
    return [r["value"] for r in rows if all(r[k] == v for k, v in want.items())]


# --- E3 -------------------------------------------------------------------------------------------------------------------


def test_the_oracle_is_exact_in_every_slice():
    """Eq. gaussian-denoiser with each slice's own scale: the sampler returns N(mu_z(x), 0.01) on the outcome's scale."""
    tables = [replace(synthetic.load(d, k, 400, 100), unit=f"k={k:g}") for d, k in ((0, 1.0), (3, np.inf))]
    data = prepare_tables(tables, 0)
    draws = potential_draws(data, oracle.oracle(data), designs.law_flow, np.stack([t.x[t.test] for t in tables]), stratified_normal(21))
    mu = np.stack([t.mu[t.test] for t in tables])
    assert np.abs(np.median(draws, -1) - mu).max() < 0.05
    np.testing.assert_allclose(draws.std(-1) / stratified_normal(21).numpy().std(), 0.1, rtol=0.02)
    medians = potential_draws(data, oracle.oracle(data), designs.flow, np.stack([t.x[t.test] for t in tables]), torch.zeros(1))
    distance = np.abs(mu - data.y_center[:, None, None])  # the flow of 0 ends at mean (1 - sd / sigma_max): sd 0.08 and sigma_max 80 on the model scale
    assert (np.abs(medians[..., 0] - mu) < 0.002 * distance + 0.002).all()
    assert not np.isclose(*data.y_scale, rtol=1e-3)  # else one scale would do for both


def test_rows_of_e3():
    """The oracle errs next to nothing, one untrained step much."""
    rows = oracle.run([1.0], 2, TINY, {"iwdd": SHORT}, 0, n_train=200, n_test=60, draws=5)
    assert {r["method"] for r in rows} == {"start", "oracle", "iwdd"} and {(r["dataset"], r["unit"], r["seed"]) for r in rows} == {("synthetic_1d k=1", f"draw {d}", 0) for d in (0, 1)}
    assert max(pick(rows, method="oracle", metric="rmse_relative")) < 0.01 < min(pick(rows, method="iwdd", metric="rmse_relative"))
    assert max(pick(rows, method="oracle", metric="w2")) < 0.06


def test_the_relative_error_by_hand():
    """Eq. relative-rmse: draws around mu + 0.3 in both arms err by 0.3 over the spread of mu, whatever the spread of the draws; beyond |x| = 2 they count in one row alone."""
    table = synthetic.load(0, 1.0, 300, 200)
    table = replace(table, unit="k=1, draw 0")
    y = table.mu[table.test][..., None] + 0.3 + np.array([-1.0, 0.0, 1.0])
    assert pick(oracle._rows("m", table, y, 0), metric="rmse_relative") == pytest.approx([0.3 / table.mu.std()])
    y[np.abs(table.x[table.test, 0]) >= 2] += 5
    rows = oracle._rows("m", table, y, 0)
    assert pick(rows, metric="rmse_relative_central") == pytest.approx([0.3 / table.mu.std()]) and pick(rows, metric="rmse_relative")[0] > 0.3 / table.mu.std() + 0.01


# --- E8, E9, E18 ----------------------------------------------------------------------------------------------------------


def test_region_and_panel_rows_by_hand():
    """Eq. cell-rmse: an error of 1 inside and 3 outside the support of the deterministic design; panels use their own rows and truth."""
    table = synthetic.load(0, n_train=300, n_test=200)
    inside = synthetic.arm_probabilities(table.x[table.test, 0], np.inf) >= designs.SUPPORT
    assert (inside.sum(1) == 1).all()  # one arm is supported, the other not
    rows = designs.region_rows("iwdd.E8", "m", table, "k=inf", 0, table.mu[table.test] + np.where(inside, 1.0, -3.0), inside)
    assert pick(rows, metric="rmse_inside") == pytest.approx([1]) and pick(rows, metric="rmse_outside") == pytest.approx([3]) and pick(rows, metric="rmse_all") == pytest.approx([5**0.5])
    assert pick(rows, metric="rmse_y1_outside") == pytest.approx([3]) and sum(r["n"] for r in rows if r["metric"] in ("rmse_y0_inside", "rmse_y1_inside")) == 200
    mu = table.mu.copy()
    mu[table.test, 1] += 2
    mu[table.train, 0] += np.where(table.t[table.train] == 0, 0.0, 4.0)
    rows = designs.panel_rows("m", table, "draw 0", 0, mu)
    assert pick(rows, dataset="synthetic_1d_out", metric="rmse_y1") == pytest.approx([2]) and pick(rows, dataset="synthetic_1d_in", metric="rmse_y0") == [0]
    assert pick(rows, dataset="synthetic_1d_in_all", metric="rmse_y0")[0] > 1
    assert pick(rows, dataset="synthetic_1d_in", metric="rmse_outcome_y0") == pytest.approx([0.1], rel=0.15)  # the floor of a point prediction


def test_rows_of_e8_e9_and_e18():
    rows = designs.overlap([1.0, np.inf], [0, 1], 2, TINY, {"iwdd": SHORT}, 0, 120, 40)
    assert {(r["unit"], r["seed"]) for r in rows if r["experiment"] == "iwdd.E8"} == {("k=1", 0), ("k=1", 1), ("k=inf", 0), ("k=inf", 1)}
    assert {(r["unit"], r["seed"]) for r in rows if r["experiment"] == "iwdd.E9"} == {(f"draw {d}", s) for d in (0, 1) for s in (0, 1)}
    a, b = (pick(rows, experiment="iwdd.E9", dataset="synthetic_1d_out", unit="draw 0", method="teacher", metric="rmse_y0", seed=s) for s in (0, 1))
    assert a != b  # replicates train apart
    rows = designs.arms([2, 3], 1.0, [0, 1], TINY, {"iwdd": SHORT, "iwdd_obs": replace(SHORT, law="obs")}, 0, 120, 40)
    assert {r["dataset"] for r in rows} == {"synthetic_1d", "synthetic_3_arms"} and len(pick(rows, metric="rmse_all")) == 2 * 2 * 3
    with pytest.raises(InputError, match="handles two arms, not 3"):  # weights need a propensity for every arm; shuffling does not
        designs.arms([3], 1.0, [0], TINY, {"iwdd_ipw": replace(SHORT, law="ipw")}, 0, 120, 40)


# --- E7, E14 --------------------------------------------------------------------------------------------------------------


def test_mode_mass_by_hand():
    """Eq. mode-mass: 1 for draws of the right masses, the larger mass for one mode alone, 0 between the modes."""
    x = np.array([[0.0, 0.0], [1.0, np.log(3.0)]])  # upper masses 0.5 and 0.75
    centre, _ = synthetic.modes(x)
    both = np.concatenate([np.repeat(centre[..., :1], 25, -1), np.repeat(centre[..., 1:], 75, -1)], -1)
    assert laws.mode_mass(both[1:], x[1:]) == pytest.approx(1) and laws.mode_mass(both, x) == pytest.approx((0.75 + 1) / 2)
    assert laws.mode_mass(np.repeat(centre[..., 1:], 4, -1), x) == pytest.approx((0.5 + 0.75) / 2)
    assert laws.mode_mass(np.repeat(centre.mean(-1, keepdims=True), 4, -1), x) == 0
    table, quantiles = synthetic.load_law("bimodal", 0, 20, 400)
    assert laws.mode_mass(quantiles[table.test], table.x[table.test]) > 0.985


def test_law_rows_of_the_truth_and_of_a_shift():
    """The truth has W1 = W2 = 0 and nominal coverage; a shift by 0.3 moves both distances and the means by 0.3."""
    table, quantiles = synthetic.load_law("skewed", 1, 20, 2000)
    exact = quantiles[table.test]
    truth, shifted = (laws.law_rows("m", table, 0, q, exact) for q in (exact, exact + 0.3))
    assert pick(truth, metric="w2") == [0] and pick(truth, metric="pit_ks")[0] < 0.04
    for metric, level in laws.LEVELS.items():
        assert pick(truth, metric=metric)[0] == pytest.approx(level, abs=4 * (level * (1 - level) / 2000) ** 0.5)
    for metric in ("w1", "w2", "rmse_y0", "rmse_y1"):
        assert pick(shifted, metric=metric)[0] == pytest.approx(0.3, abs=0.02)
    assert pick(shifted, metric="crps") > pick(truth, metric="crps")


def test_rows_of_e7_and_e14():
    made, draws = laws.kinds_run(["bimodal", "skewed"], [0], TINY, laws.family(SHORT, (0.5,)), 0, 80, 30, 40)
    assert set(draws) == {"teacher", "sid_0.5", "dmd"} and draws["dmd"].shape == (2, 30, 2, 40)
    rows = laws.distribution_rows(made, draws, 0)
    assert {r["method"] for r in rows if r["metric"] == "mode_mass"} == {"teacher", "sid_0.5", "dmd", "truth"} and len({r["dataset"] for r in rows}) == 2
    tables = [replace(synthetic.load(0, 1.0, 80, 40), unit="a")]
    data, models = designs.fit_methods(tables, TINY, {}, 0)
    rows = laws.divergences(data, tables, models["teacher"][0], SHORT, 0, alphas=(0.0, 1.2), draws=40)
    assert {r["method"] for r in rows} == {"sid_0", "sid_1.2", "dmd"} and {r["experiment"] for r in rows} == {"iwdd.E14"} and pick(rows, method="dmd", metric="pehe_normalised")


# --- E12 ------------------------------------------------------------------------------------------------------------------


def test_the_concatenating_network_knows_the_arm_from_its_input_alone():
    """Arms differ through the one-hot columns of the trunk: without their weights all arms agree. With the unit's own arm, encode and embed agree."""
    network = sizes.ConcatNetwork(2, 5, 3, torch.Generator().manual_seed(0), width=8, depth=2, embedding=6, decoder=4)
    x, z = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(1)), torch.arange(14).view(2, 7) % 3
    e = network.encode(x)
    assert e.shape == (2, 7, 3, 6) and (e[:, :, 0] - e[:, :, 1]).abs().max() > 0.01 and network.heads.weight.shape[-1] == 6
    torch.testing.assert_close(network.embed(x, z), e.gather(2, z[..., None, None].expand(-1, -1, 1, 6)).squeeze(2))
    torch.testing.assert_close(network.encode(x[:, :1])[:, 0], e[:, 0])
    assert (network.encode(x + 1) - e).abs().amax((2, 3)).min() > 0.001  # every unit's embedding moves with x
    with torch.no_grad():
        network.trunk[0].weight[:, 5:] = 0
    e = network.encode(x)
    torch.testing.assert_close(e[:, :, 0], e[:, :, 2])
    assert Denoiser(network)(torch.zeros(2, 7, 4), torch.tensor(1.0), e[:, :, 0]).shape == (2, 7, 4)


def test_subsamples_are_nested_and_keep_the_test_rows():
    """Eq. subsample: a smaller draw lies in a larger one."""
    table = synthetic.load(0, 1.0, 200, 30)
    small, large = sizes.subsample(table, 50, 2, 0), sizes.subsample(table, 100, 2, 0)
    np.testing.assert_array_equal(small.x[small.test, 0], table.x[table.test, 0])
    assert np.isin(small.x[small.train, 0], large.x[large.train, 0]).all() and small.x.shape == (80, 3) and len(set(small.y[small.train])) == 50
    wide = sizes.subsample(table, 50, 5, 0)
    np.testing.assert_array_equal(wide.x[:, :3], small.x)  # more noise columns leave the first as they are
    assert abs(np.corrcoef(wide.x[:, 1], wide.y)[0, 1]) < 4 / 80**0.5
    with pytest.raises(InputError, match="^n must be a whole number"):
        sizes.subsample(table, 500, 0, 0)


def test_rows_of_e12():
    table = synthetic.load(0, 1.0, 120, 30)
    rows = sizes.run([table], [(60, 0), (60, 3)], TINY, [0, 1])
    assert {(r["dataset"], r["method"], r["seed"]) for r in rows} == {(f"synthetic_1d n=60 noise={d}", m, s) for d in (0, 3) for m in sizes.NETWORKS for s in (0, 1)}
    mu = metrics.pehe_normalised(np.zeros(30), table.mu[table.test, 1] - table.mu[table.test, 0], table.mu)
    assert all(0 < r["value"] < 3 * mu for r in rows)
