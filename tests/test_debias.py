"""Corrections of shrunk predictions: Gaussian closed forms, identities and the slope test (specification of the second act, 8.13)."""

import numpy as np
import pytest
from scipy.stats import gaussian_kde

from gencausal.checks import InputError
from gencausal.debias import Correction, Line, calibrate, horvitz_thompson, line, slope_test


def gaussian(n: int = 20_000, seed: int = 0, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """y = y_hat + noise, y_hat ~ N(1, 2^2): a calibrated prediction."""
    rng = np.random.default_rng(seed)
    y_hat = 1 + 2 * rng.standard_normal(n)
    return y_hat + noise * rng.standard_normal(n), y_hat


def test_slope_of_a_calibrated_prediction():
    """Eq. shrinkage: slope one of y on y_hat, Var(y_hat)/Var(y) = 4/5 the other way round."""
    y, y_hat = gaussian()
    assert line(y_hat, y).slope == pytest.approx(1, abs=0.02)
    assert line(y, y_hat).slope == pytest.approx(0.8, abs=0.02)


def test_lcc_equals_tweedie_for_gaussian_predictions():
    """Eq. lcc, Eq. tweedie: both are 1 + (y_hat - 1) 5/4 in the population; the kernel's own width (1 + n^(-2/5)) is the only difference in the middle."""
    correction = calibrate(*gaussian())
    at = np.array([-2.0, 0.0, 1.0, 3.0])
    exact = 1 + 1.25 * (at - 1)
    assert np.allclose(correction.lcc(at), exact, atol=0.08)
    assert np.allclose(correction.tweedie(at), exact, atol=0.25)
    assert np.abs(correction.lcc(at) - at).max() > 0.5


def test_tweedie_differs_under_skew():
    """A skewed prediction has a curved score: the two corrections part, and Tweedie's E[y_hat - s^2 score | y] stays y."""
    rng = np.random.default_rng(1)
    y_hat = rng.gamma(2.0, 1.0, 20_000)
    y = y_hat + 0.5 * rng.standard_normal(len(y_hat))
    correction = calibrate(y, y_hat)
    assert abs(correction.lcc(np.array([6.0])) - correction.tweedie(np.array([6.0]))).item() > 0.15


def test_identities():
    """No residual: Tweedie is the identity. k = 1, m = 0: LCC is. Shapes are kept, and the parts of a long vector do not matter."""
    points = np.random.default_rng(0).standard_normal(200)
    same = Correction(Line(1.0, 0.0), 0.0, points)
    grid = np.linspace(-3, 3, 12).reshape(3, 2, 2)
    assert np.array_equal(same.tweedie(grid), grid) and np.array_equal(same.lcc(grid), grid)
    noisy = same._replace(residual_sd=0.7)
    assert np.array_equal(noisy.tweedie(grid, chunk=1), noisy.tweedie(grid))
    assert np.allclose(same._replace(residual_sd=1.4).tweedie(grid) - grid, 4 * (noisy.tweedie(grid) - grid))


def test_score_is_that_of_the_kernel_density():
    """The central difference against scipy's Gaussian KDE in the body, and finite far outside it."""
    points = np.random.default_rng(3).standard_normal(300)
    correction = Correction(Line(1.0, 0.0), 1.0, points)
    kernel, at = gaussian_kde(points), np.array([-1.3, 0.1, 2.0])
    score = (np.log(kernel(at + 1e-4)) - np.log(kernel(at - 1e-4))) / 2e-4
    assert np.allclose(at - correction.tweedie(at), score, rtol=1e-4)
    assert np.isfinite(correction.tweedie(np.array([-1e4, 1e4]))).all()


def test_horvitz_thompson():
    """By hand, and unbiased over all assignments of two units."""
    assert horvitz_thompson(np.array([2.0, 3.0]), np.array([1, 0]), np.array([0.5, 0.25])) == pytest.approx((2 / 0.5 - 3 / 0.75) / 2)
    potential, e = np.array([[1.0, 4.0], [2.0, 2.5]]), np.array([0.3, 0.6])
    mean = sum(np.prod(np.where([a, b], e, 1 - e)) * horvitz_thompson(potential[[0, 1], [a, b]], np.array([a, b]), e) for a in (0, 1) for b in (0, 1))
    assert mean == pytest.approx((potential[:, 1] - potential[:, 0]).mean())


def test_slope_test():
    """p uniform under the null (mean 1/2), near zero for half the slope, exact fits at both ends."""
    rng = np.random.default_rng(0)
    truth = np.linspace(-2, 2, 50)
    p = [slope_test(truth + 0.1 * rng.standard_normal(50), truth).p for _ in range(200)]
    assert abs(np.mean(p) - 0.5) < 0.07 and abs(np.mean(np.array(p) < 0.1) - 0.1) < 0.07
    shrunk = slope_test(0.5 * truth + 0.1 * rng.standard_normal(50), truth)
    assert shrunk.p < 1e-10 and shrunk.slope == pytest.approx(0.5, abs=0.05)
    assert slope_test(truth, truth).p == 1 and slope_test(0.5 * truth, truth).p == 0


@pytest.mark.parametrize("call, word", [(lambda: calibrate(np.arange(3.0), np.ones(3)), "slope"), (lambda: calibrate(np.arange(3.0), -np.arange(3.0)), "slope"),
                                        (lambda: line(np.ones(4), np.arange(4.0)), "constant"), (lambda: slope_test(np.arange(2.0), np.arange(2.0)), "three"),
                                        (lambda: line(np.arange(3.0), np.arange(4.0)), "entries")])
def test_wrong_input(call, word):
    with pytest.raises(InputError, match=word):
        call()
