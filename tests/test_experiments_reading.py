"""Experiments of the reading list on toys with closed forms: read-outs, trajectories, shrinkage, quantised answers, hidden covariates."""

import copy
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit

from gencausal.checks import InputError
from gencausal.data.stack import prepare_tables
from gencausal.data.table import CausalTable, split
from gencausal.diffusion import Denoiser, GaussianTeacher
from gencausal.estimators.outcomes import TeacherConfig, generator_draws, potential_draws
from gencausal.experiments import hidden, quantised, readout, shrinkage
from gencausal.nn.mlp import OutcomeNetwork
from gencausal.sampling import stratified_normal

NOISE = 0.7


def toy(seed: int = 0, n: int = 1000, unit: str = "a") -> CausalTable:
    """Confounded by x_0, effect 2 + x_1, noise sd `NOISE`, known propensity."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, (n, 4))
    e = expit(x[:, 0])
    t = (rng.random(n) < e).astype(np.int64)
    mu = np.stack([x[:, 0], x[:, 0] + 2 + x[:, 1]], 1)
    potential = mu + NOISE * rng.normal(size=(n, 2))
    return CausalTable("toy", unit, x, t, potential[np.arange(n), t], mu, potential, e, list("abcd"), *split(n))


def exact_teacher(data, bias: float = 0.0, noise: float = NOISE) -> GaussianTeacher:
    """The exact denoiser of `toy` on the model scale of a stack of one, its means moved by `bias`."""
    def mean(x):
        x = x * torch.as_tensor(data.x_scale[:, None]).float() + torch.as_tensor(data.x_center[:, None]).float()
        mu = torch.stack([x[..., 0], x[..., 0] + 2 + x[..., 1]], -1) + bias
        return (mu - float(data.y_center[0])) / float(data.y_scale[0])
    return GaussianTeacher(mean, (noise / float(data.y_scale[0])) ** 2)


def values(rows: list[dict]) -> pd.Series:
    """Mean value by (method, metric)."""
    return pd.DataFrame(rows).groupby(["method", "metric"])["value"].mean()


# ---------------------------------------------------------------- read-outs


@pytest.fixture(scope="module")
def exact():
    """The toy, its stack and exact teacher; potential outcomes reset to mu +- NOISE, whose mean square is the variance without sampling error."""
    table = toy()
    data = prepare_tables([table], 0)
    sign = np.where(np.arange(len(table.y))[:, None] % 2, 1, -1)
    return dataclasses.replace(table, potential=table.mu + NOISE * sign), data, exact_teacher(data)


def test_readouts(exact):
    """Eq. k-samples: the one-step mean is exact, K samples leave sd/sqrt(K) an arm; common noise cancels in the effect."""
    table, data, teacher = exact
    found = values(readout.readout(data, [table], teacher, seed=0, counts=(1, 25), steps=60))
    e = teacher.encode(data.x[:, :5]).flatten(1, 2)
    assert torch.equal(readout.one_step(teacher, torch.zeros(1, 10, 3), e), readout.one_step(teacher, torch.ones(1, 10, 3), e))
    assert found["one_step", "rmse_y0"] < 1e-3 and found["one_step", "pehe_normalised"] < 1e-3
    for count in (1, 25):
        for arm in ("rmse_y0", "rmse_y1"):
            assert found[f"sample_{count}", arm] == pytest.approx(NOISE / count**0.5, rel=0.15)
        assert found[f"sample_{count}", "pehe_normalised"] * table.mu.std() == pytest.approx(NOISE * (2 / count) ** 0.5, rel=0.15)
    assert found["sample_1_common", "pehe_normalised"] < 0.02 < found["sample_1_common", "rmse_y1"]
    assert found["median", "rmse_y0"] > found["sample_25", "rmse_y0"]


def test_trajectory_follows_total_variance(exact):
    """Eq. total-variance on a Gaussian outcome: rise = v^2/(v + sigma^2) at every level; a biased teacher starts at its bias and rises alike."""
    table, data, teacher = exact
    for bias in (0.0, 0.5):
        points = readout.trajectory(data, [table], exact_teacher(data, bias), seed=0, draws=100, steps=60)
        rise, curve = (np.array([p[name] for p in points]) for name in ("rise", "curve"))
        assert points[0]["mse"] == pytest.approx(bias**2, abs=1e-3) and abs(rise[0]) < 1e-9
        assert np.abs(rise - curve).max() < 0.05 * NOISE**2 and (np.diff(rise) > -1e-3).all()
        assert max(p["shift"] for p in points) < 4 * NOISE / 10
    found = values(readout.trajectory_rows(points, len(table.test)))
    assert found["trajectory", "mse_rise"] == pytest.approx(found["total_variance", "mse_rise"], rel=0.06)
    assert found["trajectory", "share_within_10"] == 1


def test_trajectory_sees_a_wrong_law(exact):
    """A teacher with twice the noise rises above the curve."""
    table, data, _ = exact
    found = values(readout.trajectory_rows(readout.trajectory(data, [table], exact_teacher(data, noise=2 * NOISE), seed=0, steps=60), 200))
    assert found["trajectory", "mse_rise"] > 2 * found["total_variance", "mse_rise"] and found["trajectory", "share_within_10"] == 0


def test_reweighted():
    """Both shifts of the training levels give finite rows of one budget; the shift changes the teacher."""
    table = toy(n=200)
    config = TeacherConfig(width=16, depth=2, embedding=16, decoder=16, rounds=20, batch=32, score_every=10)
    found = values(readout.reweighted(prepare_tables([table], 0), [table], config, [-1.2, 1.0], seed=0, draws=10, steps=5))
    assert set(found.index.get_level_values(0)) == {"log_sigma_mean=-1.2", "log_sigma_mean=1"}
    assert found["log_sigma_mean=1", "crps"] != found["log_sigma_mean=-1.2", "crps"] and np.isfinite(found).all()


# ---------------------------------------------------------------- shrinkage


def test_shrinkage_of_the_truth():
    """mu itself: slope one on mu, Var(mu_t)/Var(y) on y; the corrections, which the arm's direct path misleads, stretch a right effect by 1/k."""
    table = toy(n=8000)
    rows = shrinkage.shrinkage([table], table.mu[None], seed=0)
    found, tau = values(rows), 2.0
    factual = table.mu[np.arange(8000), table.t]
    assert found["one_step", "slope_mu"] == pytest.approx(1, abs=1e-9) and found["one_step", "slope_calibration"] == pytest.approx(1, abs=0.03)
    assert found["one_step", "slope_y"] == pytest.approx(factual.var() / table.y.var(), abs=0.02)
    assert found["one_step", "ate_error"] < 1e-9 and found["truth", "ate"] == pytest.approx(tau, abs=0.05)
    assert found["one_step_lcc", "ate"] == pytest.approx(found["truth", "ate"] / found["one_step", "slope_k"], rel=1e-9)
    assert found["one_step_lcc", "ate_error"] > 0.1 and found["one_step_tweedie", "ate_error"] > 0.1
    assert found["one_step", "ate_ht_error"] < 0.2 and found["outcome", "ate_ht_error"] < 0.2
    assert ("one_step", "ate_ht") not in values(shrinkage.shrinkage([dataclasses.replace(table, propensity=None)], table.mu[None], seed=0)).index
    with pytest.raises(InputError, match="shape"):
        shrinkage.shrinkage([table], table.mu, seed=0)


@pytest.mark.parametrize("direct", [0.0, 1.0])
@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_surrogate_closed_form(direct, tau):
    """Eq. surrogate, Eq. surrogate-toy: naive and LCC meet their population values; without a direct path LCC and Tweedie are right, with one both are off by more than 0.3."""
    found = values(shrinkage.surrogate(range(6), direct, tau, n=3000))
    exact = shrinkage.closed_form(direct, tau)
    for method, effect in exact.items():
        assert found[method, "ate"] == pytest.approx(effect, abs=0.1)
    for method in ("lcc", "tweedie"):
        assert abs(found[method, "ate_bias"]) < 0.12 if direct == 0 else found[method, "ate_bias"] > 0.3


# ---------------------------------------------------------------- quantised answers


@pytest.fixture(scope="module")
def small():
    """Two tables and an untrained network that spreads its draws."""
    tables = [toy(0, 300), toy(1, 300, "b")]
    data = prepare_tables(tables, 0)
    denoiser = Denoiser(OutcomeNetwork(2, 4, 2, torch.Generator().manual_seed(0), width=16, depth=2, embedding=16, decoder=16))
    denoiser.network.out.weight.data *= 10
    return tables, data, denoiser.requires_grad_(False)


def test_quantised_rows(small):
    """Shifts shrink with bits, sizes follow them, the float rows are the float model's, and the model is left as it was."""
    tables, data, denoiser = small
    before = copy.deepcopy(denoiser.state_dict())
    draw = generator_draws(2.5)
    rows = quantised.quantised(data, tables, {"iwdd": (denoiser, draw, "one_step")}, [16, 8, 3], seed=0, draws=20, units=40)
    found = values(rows)
    for metric in ("pehe_shift", "ate_shift", "w2"):
        assert found["iwdd_16bit", metric] < 0.1 * found["iwdd_3bit", metric]
    assert found["iwdd_3bit_w2", "relative_change"] == found["iwdd_3bit", "w2_change"]
    assert found["iwdd_16bit", "w2"] < found["iwdd_8bit", "w2"] < found["iwdd_3bit", "w2"]
    assert found["iwdd_3bit", "bytes"] < found["iwdd_8bit", "bytes"] < found["iwdd_16bit", "bytes"] < found["iwdd_float", "bytes"]
    assert found["iwdd_se", "ate_shift"] > 0 and found["iwdd_se", "pehe_shift"] > 0
    assert all(torch.equal(before[k], v) for k, v in denoiser.state_dict().items())
    part = [quantised._part(table, 40, 0) for table in tables]
    draws = potential_draws(data, denoiser, draw, np.stack([t.x[t.test] for t in part]), stratified_normal(20))
    tau = np.diff(np.median(draws[0], -1))[:, 0] - np.diff(part[0].mu[part[0].test])[:, 0]
    row = [r for r in rows if (r["unit"], r["method"], r["metric"]) == ("a", "iwdd_float", "pehe_normalised")][0]
    assert row["n"] == 40 and row["value"] == pytest.approx(np.sqrt((tau**2).mean()) / tables[0].mu.std(), rel=1e-5)


def test_what_quantisation_changed_by_hand():
    """Eq. change, Eq. cancel: the same error in both arms cancels in the effect and correlates fully; opposite errors add up and correlate with -1."""
    table = toy(0, 300)
    exact = table.mu[table.test][..., None] + np.array([-0.1, 0.0, 0.1])
    error = np.random.default_rng(0).normal(1, 0.2, len(table.test))[:, None]
    same, opposite = (quantised._shifts(table, exact + (error * np.array(signs))[..., None], exact) for signs in ([1, 1], [-1, 1]))
    ate = np.diff(table.mu[table.test]).mean()
    assert same["ate_change"] == pytest.approx(0, abs=1e-9) and same["arm_error_correlation"] == pytest.approx(1) and same["w2"] == pytest.approx(error.mean())
    assert opposite["ate_change"] == pytest.approx(2 * error.mean() / ate) and opposite["arm_error_correlation"] == pytest.approx(-1) and opposite["w2_change"] > 0.5


def test_standard_errors():
    """The bootstrap error of the ATE is sd / sqrt(n)."""
    table = toy(n=2000)
    draws = (table.mu + np.random.default_rng(0).normal(size=table.mu.shape))[table.test][:, :, None]
    assert quantised._standard_errors(table, draws, 0, 2000)["ate_shift"] == pytest.approx((2 / len(table.test)) ** 0.5, rel=0.1)


def test_calibrations(small):
    """Clean outcomes and pure noise are other calibration sets: they give other answers; one row a set, seed, bits and table."""
    tables, data, denoiser = small
    rows = quantised.calibrations(data, tables, denoiser, generator_draws(2.5), [4], [0, 1], draws=10, steps=6, units=20, kinds=("ndtc", "clean", "noise"))
    assert len(rows) == 3 * 2 * 2 and len({r["value"] for r in rows}) == 12


# ---------------------------------------------------------------- hidden covariates


def test_sharpness_and_mixture():
    """Eq. mixture: A2.C21e and A2.C21g at small size: contained in every seed, growing for unbounded laws, level for Beta(2, 2), equal to Manski under Q >= e P."""
    rows = pd.DataFrame(hidden.sharpness([50, 1000], [0, 1, 2]))
    assert (rows[rows["metric"] == "contains_manski"]["value"] == 1).all() and (rows["metric"] == "contains_manski").sum() == 3 * 3 * 2 * 5
    growth = rows[rows["metric"] == "width_growth"].groupby("method")["value"].mean()
    assert growth["t3"] > growth["normal"] > 1.2 and abs(growth["beta22"] - 1) < 0.2
    gap = values(hidden.mixture(60, [0, 1]))
    assert gap["largest", "manski_gap"] < gap["tolerance", "manski_gap"] and gap["largest", "manski_gap"] >= gap["chi2", "manski_gap"]


def test_own_design():
    """Eq. 21-dgp: the quadrature equals an average over U; overlap holds; arms are confounded by U."""
    made = hidden.own_design(4000, seed=1, points=5)
    w, u = 0.6 * hidden.numpy_generator(0, "21-dgp-w").standard_normal(5), np.random.default_rng(0).standard_normal((200_000, 1))
    x = made["points"]
    e = 0.05 + 0.9 * expit(x @ w + 0.8 * u + 0.5 * np.sin(x[:, 0]) - 0.25 * x[:, 0] ** 2)
    tau = 0.7 + 0.2 * np.sin(x[:, 0]) + 0.1 * x[:, 0] + 0.8 * (e - 0.5)
    assert np.allclose(made["e"], e.mean(0), atol=2e-3) and np.allclose(made["truth"][:, 1] - made["truth"][:, 0], tau.mean(0), atol=2e-3)
    assert 0.05 < made["t"].mean() < 0.95 and made["y"].shape == (4000,)


def test_coverage_own():
    """Rows of A2.C21a; the exact bounds cover wherever Manski's local one does."""
    found = values(hidden.coverage_own([200], [0], points=20, trees=10, divergences=("chi2", "tv")))
    assert found["chi2", "inside"] >= found["manski", "inside"] and found["chi2", "width_bound"] > found["manski", "width_bound"]
    assert found["nominal", "inside"] == 0.95


def test_visible_laws():
    """Forest weights are probabilities; where covariates decide nothing the propensity is the treated share; too small an arm is refused."""
    table = toy(n=400)
    laws = hidden.visible_laws(table.x[:, 3:], table.t, table.y, table.x[:7, 3:], seed=0, leaf=20, trees=20)
    for arm in (0, 1):
        assert laws.weights[arm].shape == (7, (table.t == arm).sum()) and np.allclose(laws.weights[arm].sum(1), 1) and (laws.weights[arm] >= 0).all()
    assert np.allclose(laws.e.sum(1), 1) and laws.e[:, 1].mean() == pytest.approx(table.t.mean(), abs=0.1)
    one_leaf = hidden.visible_laws(table.x, table.t, table.y, table.x[:3], seed=0, leaf=80, trees=3)
    assert (one_leaf.weights[0] > 0).sum() >= 3 * 40
    with pytest.raises(InputError, match="leaf"):
        hidden.visible_laws(table.x, table.t, table.y, table.x[:3], seed=0, leaf=300)


def test_hidden_covariates():
    """Far estimates are outside, the local mean is inside, Manski is inside every exact bound, and outcomes of test rows change nothing."""
    table = toy(n=400)
    options = {"visible": 1, "seed": 0, "units": 30, "trees": 10, "divergences": ("chi2", "kl")}
    middle = np.stack([table.x[:, 0], table.x[:, 0] + 2], 1)[None]  # E[mu | x_0]
    estimates = {"far": table.mu[None] + 100, "middle": middle}
    rows = hidden.hidden_covariates([table], estimates, **options)
    found = values(rows)
    for metric in ("inside_manski", "inside_itb", "inside_manski_effect_visible"):
        assert found["middle", metric] > 0.9
    assert found["far", "inside_itb"] == found["far", "inside_itb_visible"] == 0 and found["far", "inside_itb_effect"] == found["truth", "inside_itb_effect"]
    assert found["pooled", "inside_itb"] == pytest.approx((found["far", "inside_itb"] + found["middle", "inside_itb"]) / 2)
    for method in ("middle", "truth"):
        for suffix in ("", "_effect", "_visible", "_effect_visible"):
            assert found[method, f"inside_itb{suffix}"] >= found[method, f"inside_manski{suffix}"]
    assert found["manski", "width_bound"] < found["chi2", "width_bound"] < found["kl", "width_bound"] and found["kl", "width_effect"] > found["kl", "width_bound"]
    other = copy.deepcopy(table)
    other.y[table.test] += 50
    assert hidden.hidden_covariates([other], estimates, **options) == rows
    with pytest.raises(InputError, match="far"):
        hidden.hidden_covariates([table], {"far": table.mu}, **options)
