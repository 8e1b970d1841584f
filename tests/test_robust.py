"""Plug-in, inverse weighting and the robust mean against their identities (spec vci, oracles 14 and 15)."""

import numpy as np
import pytest

from gencausal import checks
from gencausal.data.cell_worlds import PROPENSITY, make_world
from gencausal.robust import influence, ipw, plug_in, robust_mean, shares, stratum_means


@pytest.fixture
def cells():
    """40 cells in 2 strata with 3 treatments, 4 outcomes and arbitrary predictions; every group holds some."""
    rng = np.random.default_rng(0)
    treatment, stratum = np.arange(40) % 3, np.arange(40) // 20
    return rng.standard_normal((40, 4)), treatment, stratum, rng.standard_normal((40, 3, 4))


def test_constant_decoder_gives_the_treated_mean(cells):
    """Oracle 14 (Eq. aipw-stratum): predictions constant in the cell leave Psi_x(a) = treated mean of the stratum, whatever the constant."""
    outcome, treatment, stratum, _ = cells
    constant = np.broadcast_to(np.random.default_rng(1).standard_normal((3, 4)) * 9, (40, 3, 4))
    found = stratum_means(outcome, treatment, stratum, constant)
    for x in range(2):
        for a in range(3):
            rows = (stratum == x) & (treatment == a)
            assert found.value[x, a] == pytest.approx(outcome[rows].mean(0)) and found.count[x, a] == rows.sum()
    assert np.abs(plug_in(constant, treatment).value - outcome.mean(0)).max() > 1


def test_constant_bias_cancels(cells):
    """Oracle 14: a constant b added to every prediction leaves Psi_x unchanged and moves the plug-in by b; a bias that differs between cells does move Psi_x."""
    outcome, treatment, stratum, predicted = cells
    before, after = (stratum_means(outcome, treatment, stratum, predicted + b).value for b in (0.0, 7.0))
    assert after == pytest.approx(before, abs=1e-12)
    assert plug_in(predicted + 7, treatment).value - plug_in(predicted, treatment).value == pytest.approx(np.full((3, 4), 7.0))
    assert np.abs(stratum_means(outcome, treatment, stratum, predicted * np.linspace(0, 2, 40)[:, None, None]).value - before).max() > 0.01


def test_perfect_decoder_gives_the_plug_in(cells):
    """Oracle 14: where the prediction of the cell's own treatment is the outcome, nothing is corrected, at any propensity."""
    outcome, treatment, _, predicted = cells
    predicted[np.arange(40), treatment] = outcome
    for propensity in (None, np.random.default_rng(2).dirichlet(np.ones(3), 40)):
        assert robust_mean(outcome, treatment, predicted, propensity).value == pytest.approx(plug_in(predicted, treatment).value)


def test_missing_groups_are_missing(cells):
    """Oracle 14: n_xa = 0 is NaN with count 0 and leaves the other groups alone; e = 0 for some cell is missing for a population mean; the plug-in alone is defined."""
    outcome, treatment, stratum, predicted = cells
    treatment = np.where((stratum == 1) & (treatment == 2), 1, treatment)
    found = stratum_means(outcome, treatment, stratum, predicted, strata=3)
    assert found.count[1, 2] == 0 and np.isnan(found.value[1, 2]).all() and np.isnan(found.se[1, 2]).all() and not np.isnan(found.value[1, :2]).any() and not np.isnan(found.value[0]).any()
    assert np.isnan(found.value[2]).all() and (found.count[2] == 0).all()
    whole = robust_mean(outcome, treatment, predicted, shares(treatment, 3, stratum))
    assert np.isnan(whole.value[2]).all() and not np.isnan(whole.value[:2]).any() and np.isnan(ipw(outcome, treatment, shares(treatment, 3, stratum)).value[2]).all()
    assert not np.isnan(plug_in(predicted, treatment).value).any()


def test_stratum_shares_weigh_the_strata(cells):
    """Eq. aipw at the empirical propensities is the mean of Psi_x weighted by stratum size; shares are counts by hand."""
    outcome, treatment, stratum, predicted = cells
    stratum = (np.arange(40) > 12).astype(int)
    share = shares(treatment, 3, stratum)
    assert share[0] == pytest.approx(np.bincount(treatment[:13], minlength=3) / 13) and share[-1] == pytest.approx(np.bincount(treatment[13:], minlength=3) / 27)
    parts = stratum_means(outcome, treatment, stratum, predicted).value
    assert robust_mean(outcome, treatment, predicted, share).value == pytest.approx((13 * parts[0] + 27 * parts[1]) / 40)


def test_by_hand():
    """Eq. aipw, Eq. ipw and Eq. influence on two cells: phi = m + 1(T = a) / e (Y - m)."""
    outcome, treatment = np.array([[3.0], [5.0]]), np.array([0, 1])
    predicted, propensity = np.array([[[1.0], [2.0]], [[4.0], [4.0]]]), np.array([[0.5, 0.5], [0.2, 0.8]])
    assert influence(outcome, treatment, predicted, propensity)[..., 0] == pytest.approx(np.array([[5.0, 2.0], [4.0, 5.25]]))
    found = robust_mean(outcome, treatment, predicted, propensity)
    assert found.value[:, 0] == pytest.approx([4.5, 3.625]) and found.se[:, 0] == pytest.approx([0.5, 3.25 / 2]) and list(found.count) == [1, 1]
    assert ipw(outcome, treatment, propensity).value[:, 0] == pytest.approx([3.0, 3.125])
    low, high = found.interval(0.05)
    assert (high - found.value)[0, 0] == pytest.approx(1.959964 * 0.5) and (low + high)[0, 0] == pytest.approx(9.0)


def test_replications_at_once(cells):
    """A leading axis of replications gives what each replication gives alone."""
    outcome, treatment, stratum, predicted = cells
    order = np.stack([np.random.default_rng(s).permutation(40) for s in range(3)])
    T, S = treatment[order], stratum[order]
    Y = np.broadcast_to(outcome, (3, 40, 4))
    m = np.broadcast_to(predicted, (3, 40, 3, 4))
    together = robust_mean(Y, T, m, shares(T, 3, S))
    for r in range(3):
        alone = robust_mean(outcome, T[r], predicted, shares(T[r], 3, S[r]))
        assert together.value[r] == pytest.approx(alone.value) and together.se[r] == pytest.approx(alone.se) and (together.count[r] == alone.count).all()


def test_double_robustness():
    """Oracle 15 in E1's world: right propensity with a biased decoder, and wrong propensity with the true one, are unbiased within 4.5 standard errors; both wrong is not, nor is either estimator alone."""
    world, n = make_world(0, genes=6), 200_000
    stratum, treatment, latent, noise = world.draw(n, np.random.default_rng(3))
    outcome = world.respond(latent, treatment, noise)
    true = np.stack([world.respond(latent, np.full(n, a), 0 * noise) for a in range(3)], 1)
    biased = 0.5 * true + 0.3 * (1 + latent[:, :1, None])
    right, wrong = PROPENSITY[stratum], np.full((n, 3), 1 / 3)
    truth = world.means().mean(0)

    def off(estimate):
        return np.abs((estimate.value - truth) / estimate.se).max()

    assert off(robust_mean(outcome, treatment, biased, right)) < 4.5 and off(robust_mean(outcome, treatment, true, wrong)) < 4.5 and off(robust_mean(outcome, treatment, biased, shares(treatment, 3, stratum))) < 4.5
    assert off(ipw(outcome, treatment, right)) < 4.5 and off(plug_in(true, treatment)) < 4.5
    assert min(off(robust_mean(outcome, treatment, biased, wrong)), off(ipw(outcome, treatment, wrong)), off(plug_in(biased, treatment))) > 20


def test_a_decoder_that_knows_the_treatment_is_not_corrected():
    """Predictions that restate the outcome under the own treatment and err by 1 elsewhere keep most of their bias even at the true propensity: (1 - P(T = a)) of it."""
    world, n = make_world(0, genes=2), 100_000
    stratum, treatment, latent, noise = world.draw(n, np.random.default_rng(4))
    outcome = world.respond(latent, treatment, noise)
    leaky = np.stack([world.respond(latent, np.full(n, a), noise) + (treatment != a)[:, None] for a in range(3)], 1)
    gap = robust_mean(outcome, treatment, leaky, PROPENSITY[stratum]).value - world.means().mean(0)
    assert gap == pytest.approx(np.repeat(1 - PROPENSITY.mean(0)[:, None], 2, 1), abs=0.02)


def test_bad_input(cells):
    """Shapes and probabilities are refused by name."""
    outcome, treatment, _, predicted = cells
    with pytest.raises(checks.InputError, match="predicted"):
        robust_mean(outcome[:5], treatment, predicted)
    for wrong in (np.full((40, 3), 1.5), np.full((40, 2), 0.5)):
        with pytest.raises(checks.InputError, match="propensity"):
            robust_mean(outcome, treatment, predicted, wrong)
