"""The synthetic worlds of E1 against their closed forms (spec vci, oracles 20 and 21)."""

from dataclasses import replace

import numpy as np
import pytest

from gencausal import checks, seeding
from gencausal.data import cell_worlds
from gencausal.data.cell_worlds import LinearWorld, cell_world, linear_world, make_world, propensity


@pytest.fixture(scope="module")
def table():
    return cell_world(world=1, seed=2, train=5000, test=2000)


def test_the_table_is_a_cell_table_of_the_stated_sizes(table):
    """7,000 cells of 100 outcomes, 3 strata and 3 treatments, one-hot in both codes; the split is disjoint and complete."""
    assert table.outcome.shape == (7000, 100) and table.outcome.dtype == np.float32 and table.outcome_cf.shape == (7000, 3, 100) and table.latent.shape == (7000, 5)
    assert len(table.train) == 5000 and sorted([*table.train, *table.test]) == list(range(7000)) and table.control == 0
    assert (table.treatment.argmax(1) == table.condition).all() and (table.treatment == table.condition_treatment[table.condition]).all()
    assert (table.covariates.argmax(1) == table.stratum).all() and (table.covariates == table.stratum_covariates[table.stratum]).all() and sum(table.blocks) == table.covariates.shape[1]


def test_own_treatment_gives_the_outcome_itself(table):
    """Oracle 20: with e shared, T' = T gives Y' = Y bit for bit, and other treatments give something else."""
    own = table.outcome_cf[np.arange(table.n), table.condition]
    assert (own == table.outcome).all()
    other = table.outcome_cf[np.arange(table.n), (table.condition + 1) % 3]
    assert np.abs(other - table.outcome).mean() > 0.05


def test_the_oracle_predictor_makes_no_error():
    """Oracle 20: true Z and noise through Eq. world-outcome give the true counterfactuals, RMSE 0; with the noise left out the RMSE is its sd, 0.05."""
    table, world = cell_world(3, 4, 200, 100), make_world(3)
    stratum, treatment, latent, noise = world.draw(300, seeding.numpy_generator(4, "cell-world-draw", 3))
    assert (stratum == table.stratum).all() and (treatment == table.condition).all()
    for a in range(3):
        assert (world.respond(latent, np.full(300, a), noise).astype(np.float32) == table.outcome_cf[:, a]).all()
    without = world.respond(latent, np.zeros(300, int), 0 * noise)
    assert np.sqrt(((without - table.outcome_cf[:, 0]) ** 2).mean()) == pytest.approx(0.05, rel=0.02)


def test_world_and_seed_draw_different_things():
    """`world` moves the parameters and `seed` the cells only; the same pair gives the same table."""
    first, again, other_cells, other_world = cell_world(0, 0, 50, 50), cell_world(0, 0, 50, 50), cell_world(0, 1, 50, 50), cell_world(1, 0, 50, 50)
    assert (first.outcome == again.outcome).all() and (first.outcome != other_cells.outcome).any() and (first.outcome != other_world.outcome).any()
    assert (make_world(0).A == make_world(0).A).all() and (make_world(0).A != make_world(1).A).any()


def test_treatment_follows_its_propensity(table):
    """Eq. world-propensity: odds within a stratum reach 5 : 1 and no more, and the cells keep to it."""
    assert cell_worlds.PROPENSITY.sum(1) == pytest.approx(1) and cell_worlds.PROPENSITY.max(1) / cell_worlds.PROPENSITY.min(1) == pytest.approx(5)
    for x in range(3):
        rows = table.stratum == x
        share = np.bincount(table.condition[rows], minlength=3) / rows.sum()
        assert np.abs(share - cell_worlds.PROPENSITY[x]).max() < 4 * np.sqrt(0.25 / rows.sum())
    assert (propensity(table) == cell_worlds.PROPENSITY[table.stratum]).all()


def test_the_latent_is_confounded_through_the_stratum_alone(table):
    """Z | X ~ N(m_X, I): mean and covariance within each stratum; Z and T are uncorrelated within X, though not over all cells."""
    world = make_world(1)
    within = table.latent - world.m[table.stratum]
    assert np.abs(np.cov(within.T) - np.eye(5)).max() < 0.06 and np.abs(within.mean(0)).max() < 0.06
    gaps = [max(abs(values[table.condition == t].mean(0) - values.mean(0)).max() for t in range(3)) for values in (within, table.latent)]
    assert gaps[0] < 0.1 < 0.2 < gaps[1]


def test_exact_means():
    """Eq. world-mean against 200,000 draws: within five standard errors everywhere."""
    world = make_world(5, genes=10)
    rng = np.random.default_rng(0)
    latent, noise = rng.standard_normal((200_000, 5)), rng.standard_normal((200_000, 10))
    for x in range(3):
        for a in range(3):
            drawn = world.respond(world.m[x] + latent, np.full(len(latent), a), noise)
            error = np.abs(drawn.mean(0) - world.means()[x, a]) / (drawn.std(0) / np.sqrt(len(drawn)))
            assert error.max() < 5


def test_the_effect_differs_from_cell_to_cell(table):
    """Effects vary with Z within a stratum by a good part of their size, so that a mean effect cannot be the answer."""
    effect = table.outcome_cf[:, 1] - table.outcome_cf[:, 0]
    spread = np.concatenate([effect[table.stratum == x] - effect[table.stratum == x].mean(0) for x in range(3)])
    assert spread.std() > 0.5 * np.abs(effect.mean(0)).mean()


@pytest.mark.parametrize("parameters", [LinearWorld(), LinearWorld(-1.5, 0.3, 4.0)])
def test_linear_world(parameters):
    """Oracle 21 (Eq. linear-world): abduction is exact, individual RMSE 0, effect correlation 1, composition and reversibility 0."""
    table = linear_world(3, 300, 200, parameters)
    y, t = table.outcome[:, 0].astype(float), table.condition
    assert parameters.abduct(y, t) == pytest.approx(table.latent[:, 0], abs=1e-5)
    predicted = parameters.counterfactual(y, t, 1 - t)
    truth = table.outcome_cf[np.arange(table.n), 1 - t, 0]
    assert predicted == pytest.approx(truth, abs=1e-5) and np.corrcoef(predicted - y, truth - y)[0, 1] == pytest.approx(1)
    assert parameters.counterfactual(y, t, t) == pytest.approx(y, abs=1e-12) and parameters.counterfactual(predicted, 1 - t, t) == pytest.approx(y, abs=1e-10)
    assert (table.outcome_cf[np.arange(table.n), t] == table.outcome).all()
    wrong = replace(parameters, b=parameters.b + 1).counterfactual(y, t, 1 - t)
    assert np.abs(wrong - truth).mean() > 0.5


def test_bad_input():
    """One sentence that names the argument."""
    with pytest.raises(checks.InputError, match="parameters"):
        linear_world(parameters=LinearWorld(1.0, 0.0, -1.0))
    with pytest.raises(checks.InputError, match="world"):
        cell_world(world=-1)
    with pytest.raises(checks.InputError, match="train"):
        cell_world(train=0)
