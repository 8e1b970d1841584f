import numpy as np
import pytest

from gencausal import checks, image_metrics

RNG = np.random.default_rng(0)
DRAWN = np.ones((4, 3, 16, 16))
DRAWN[:, :, 3:6, 4:12] = 0.0


def test_psnr_by_hand():
    np.testing.assert_allclose(image_metrics.psnr(DRAWN - 0.1 * (DRAWN > 0.5), DRAWN, masked=False), 10 * np.log10(1 / (0.01 * (1 - 24 / 256))))
    np.testing.assert_allclose(image_metrics.psnr(np.where(DRAWN < 0.5, 0.1, 1.0), DRAWN, masked=True), 20)


def test_a_blank_image_scores_badly_where_the_mask_is():
    """Plain PSNR flatters white; the masked one does not (spec, section 8)."""
    blank = np.ones_like(DRAWN)
    assert (image_metrics.psnr(blank, DRAWN) > 10).all() and (image_metrics.psnr(blank, DRAWN, masked=True) == 0).all()
    assert (image_metrics.psnr(DRAWN, blank, masked=True) == 0).all(), "what is drawn where nothing should be counts too"
    assert (image_metrics.psnr(1 - blank, 1 - DRAWN, masked=True, background=0.0) == 0).all()


def test_splits_partition_the_factors():
    below = np.array([[0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 1, 0]], bool)
    intervened = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 1]], bool)
    found = image_metrics.splits(intervened, below)
    assert (sum(mask.astype(int) for mask in found.values()) == 1).all()
    assert found["descendant"].tolist() == [[False, True, True, False], [False] * 4, [False, False, True, False]]


def test_acm_by_hand():
    """Eq. acm: errors averaged within a split; an unreadable factor counts 2 sd; no factor in a split is no number."""
    below = np.array([[0, 1, 0], [0, 0, 0], [0, 0, 0]], bool)
    read, truth = np.array([[1.0, 2.0, np.nan], [0.0, 0.0, 3.0]]), np.zeros((2, 3))
    found = image_metrics.acm(read, truth, np.array([[1, 0, 0], [0, 0, 1]], bool), below)
    assert found["intervened"].tolist() == [1, 3] and found["descendant"][0] == 2 and np.isnan(found["descendant"][1]) and found["nondescendant"].tolist() == [2, 0]
    assert image_metrics.unreadable(read).tolist() == [pytest.approx(1 / 3), 0]
    assert all(np.nansum(v) == 0 for v in image_metrics.acm(truth, truth, np.eye(3, dtype=bool)[:2], below).values())


def test_composition_is_on_the_scale_of_bytes():
    assert image_metrics.composition(DRAWN, DRAWN).tolist() == [0] * 4
    np.testing.assert_allclose(image_metrics.composition(np.zeros_like(DRAWN), np.ones_like(DRAWN)), 255)


def test_frechet_closed_forms():
    """Eq. frechet: 0 for a set and itself; a shift adds its square; scaling by c adds (c - 1)^2 times the trace; any rotation of both changes nothing."""
    a = RNG.normal(size=(500, 5)) @ RNG.normal(size=(5, 5))
    assert image_metrics.frechet(a, a) == pytest.approx(0, abs=1e-8)
    assert image_metrics.frechet(a + [1, 0, 0, 2, 0], a) == pytest.approx(5)
    centred = a - a.mean(0)
    assert image_metrics.frechet(3 * centred, centred) == pytest.approx(4 * np.trace(np.cov(a, rowvar=False)))
    white = np.linalg.solve(np.linalg.cholesky(np.cov(centred, rowvar=False)), centred.T).T  # covariance I exactly
    first, second = np.array([1.0, 2, 3, 0, 5]), np.array([2.0, 2, 1, 4, 0])
    assert image_metrics.frechet(white * first, white * second + 1) == pytest.approx(((first - second) ** 2).sum() + 5), "normal laws with commuting covariances"
    b, turn = RNG.normal(size=(400, 5)), np.linalg.qr(RNG.normal(size=(5, 5)))[0]
    assert image_metrics.frechet(a @ turn, b @ turn) == pytest.approx(image_metrics.frechet(a, b)) == pytest.approx(image_metrics.frechet(b, a))


def test_dci_of_known_tables():
    """Eq. dci: one code a factor is 1 and 1; all alike is 0 and 0; two codes for each factor are disentangled but not complete; a code without importance has no say."""
    assert image_metrics.dci(np.eye(3)) == pytest.approx((1, 1))
    assert image_metrics.dci(np.ones((4, 3))) == pytest.approx((0, 0), abs=1e-12)
    D, C = image_metrics.dci(np.repeat(np.eye(3), 2, 0))
    assert D == pytest.approx(1) and C == pytest.approx(1 - np.log(2) / np.log(6))
    assert image_metrics.dci(np.vstack([np.eye(3), np.zeros(3)]))[0] == pytest.approx(1)


def test_cld_by_hand():
    """Eq. cld: least where the counterfactual is nearer than every real image with its value and farther than every one with the factual's."""
    near, far = np.full((1, 4), 2.0), np.full((1, 4), 0.5)
    assert image_metrics.cld([1.0], near, far) == pytest.approx(0)
    assert image_metrics.cld([1.0], far, near) == pytest.approx(1)
    assert image_metrics.cld([1.0], np.array([[0.5, 2, 2, 2]]), far) == pytest.approx(np.log(0.8 * np.exp(0.25) + 0.2))


def test_cld_counts_only_images_with_the_value():
    """Eq. cld: NaN marks another value; without any image of a value there is no number."""
    near, far = np.array([[2.0, np.nan, 0.5, np.nan]]), np.array([[np.nan, 0.5, np.nan, np.nan]])
    assert image_metrics.cld([1.0], near, far) == pytest.approx(np.log(0.8 * np.exp(0.5) + 0.2))
    assert np.isnan(image_metrics.cld([1.0], np.full((1, 3), np.nan), far)).all()


def test_divergence_of_normal_laws():
    """Eq. gaussian-kl: 0 for a law and itself, a shift by one sd costs 1/2 a coordinate, a doubled sd what the formula says, and it is not symmetric."""
    mean, sd = RNG.normal(size=(3, 4)), 0.1 + RNG.random((3, 4))
    found = image_metrics.gaussian_kl(mean, sd, mean, sd)
    np.testing.assert_allclose(np.diagonal(found), 0, atol=1e-9)
    assert found.shape == (3, 3) and (found[~np.eye(3, dtype=bool)] > 0).all() and abs(found[0, 1] - found[1, 0]) > 1e-3
    shifted = mean.copy()
    shifted[:, 0] += sd[:, 0]
    np.testing.assert_allclose(np.diagonal(image_metrics.gaussian_kl(shifted, sd, mean, sd)), 0.5)
    np.testing.assert_allclose(np.diagonal(image_metrics.gaussian_kl(mean, sd, mean, 2 * sd)), 4 * (np.log(2) + 1 / 8 - 1 / 2))
    with pytest.raises(checks.InputError, match="same k"):
        image_metrics.gaussian_kl(mean, sd, mean[:, :2], sd[:, :2])


def test_hallucination_is_the_variance_over_steps():
    trace = np.zeros((4, 2, 1, 3, 3))
    trace[:, 1] += np.array([1.0, -1, 1, -1])[:, None, None, None]
    assert image_metrics.hallucination(trace).tolist() == [0, 1]


def test_auroc_by_hand():
    assert image_metrics.auroc([1, 2, 3, 4], [0, 0, 1, 1]) == 1 and image_metrics.auroc([1, 1, 1, 1], [0, 1, 0, 1]) == 0.5
    assert image_metrics.auroc([1, 3, 2, 4], [0, 0, 1, 1]) == 0.75 and np.isnan(image_metrics.auroc([1, 2], [1, 1]))


@pytest.mark.parametrize("call", [lambda: image_metrics.psnr(np.ones((3, 4)), DRAWN), lambda: image_metrics.frechet(np.ones((4, 2)), np.ones((4, 3))), lambda: image_metrics.dci(-np.eye(3))])
def test_wrong_shapes_are_refused(call):
    with pytest.raises(checks.InputError):
        call()
