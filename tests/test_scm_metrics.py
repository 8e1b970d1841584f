"""Metrics of inferred SCMs against closed forms."""

import numpy as np
import pytest
from scipy.stats import norm

from gencausal import checks, scm_metrics


def test_rows_first_then_their_mean():
    """Eq. row-rmse: the row with errors (3, 4) at d = 2 gives 12.5^(1/2); the mean over rows is not the root of the pooled mean (oracle 10)."""
    truth = np.zeros((2, 2))
    estimate = np.array([[3.0, 4.0], [0.0, 0.0]])
    assert scm_metrics.row_rmse(truth[:1], estimate[:1]) == pytest.approx(12.5**0.5)
    assert scm_metrics.row_rmse(truth, estimate) == pytest.approx(12.5**0.5 / 2) != pytest.approx(np.sqrt(np.square(estimate).mean()))
    assert scm_metrics.row_rmse(np.zeros((3, 5, 2)), np.ones((3, 5, 2))).tolist() == [1, 1, 1]
    with pytest.raises(checks.InputError, match="shape"):
        scm_metrics.row_rmse(truth, estimate[0])


@pytest.mark.parametrize("gap", [0.0, 1.0, 3.0])
def test_total_variation_of_two_gaussians(gap):
    """Eq. tv: 2 Phi(gap / 2) - 1 for unit Gaussians, .3829 at 1, whichever is drawn from (oracle 11)."""
    x = np.random.default_rng(0).standard_normal(200_000)
    for mean, other in ((0, gap), (gap, 0)):
        found = scm_metrics.total_variation(norm.logpdf(x + mean, mean), norm.logpdf(x + mean, other))
        assert found == pytest.approx(2 * norm.cdf(gap / 2) - 1, abs=0.003) and 0 <= found <= 1


def test_mmd_floor_and_power():
    """Eq. mmd: a nearly diagonal kernel gives 2/n where biased (.005 at 400 rows) and 0 on average where not; a shift is seen, equality is not (oracle 12)."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((2, 400, 11))
    assert scm_metrics.mmd(x, y, gamma=20.0, biased=True) == pytest.approx(2 / 400, rel=1e-3)
    assert scm_metrics.mmd(x, y) == pytest.approx(0, abs=2e-3)
    assert np.mean([scm_metrics.mmd(*rng.standard_normal((2, 50, 3))) for _ in range(60)]) == pytest.approx(0, abs=3e-3)
    assert scm_metrics.mmd_test(x, y + 0.5, rng, 99)[1] == 0.01 and scm_metrics.mmd_test(x, y, rng, 99)[1] > 0.05


def test_histogram_and_energy():
    """Marginal variation has its floor near .05 at 4,000 rows and finds 2 Phi(1/2) - 1 for a unit shift; the energy distance (Eq. energy) is 0 for one law and grows with the shift."""
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((2, 4000, 2))
    floor = scm_metrics.histogram_variation(x, y)
    assert (floor < 0.07).all() and (floor > 0.02).all()
    assert scm_metrics.histogram_variation(x, y + [1, 0])[0] == pytest.approx(0.383, abs=0.05)
    x, y = x[:500], y[:500]
    assert abs(scm_metrics.energy_distance(x, y)) < 0.02 < scm_metrics.energy_distance(x, y + 0.5) < scm_metrics.energy_distance(x, y + 1)
