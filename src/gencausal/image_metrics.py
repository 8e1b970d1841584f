r"""Scores of counterfactual images, pure functions of arrays (spec diffusion_counterfactuals, section 4).

Factors are in units of the training standard deviation; images are [N, C, H, W] in [0, 1].

`Eq. acm` (our definition; the paper's is not available to us): (1/N) sum_k |P_i(image_k) - z_bar_ik|, averaged over the factors i of a split: intervened, descendants, non-descendants;
P the pixel oracle or a predictor trained on real images, z_bar the true counterfactual factors.
`Eq. dci` (Eastwood and Williams 2018): of an importance matrix R >= 0, codes by factors: D_i = 1 - H_K(R_i. / sum R_i.), D = sum_i share_i D_i, H_K the entropy in base K factors, share_i the part
of all importance in row i; completeness C the same of the columns.
`Eq. cld` (counterfactual latent divergence, Melistas et al. 2024): log(w_1 exp P(S_cf <= div) + w_2 exp P(S_f >= div)), w = (0.8, 0.2); div = KL(counterfactual || factual) in the latent of an
unconditional VAE, S_cf and S_f the same of real images with the counterfactual's value and with the factual's, in place of the counterfactual (our reading).
`Eq. gaussian-kl`: KL(N(m, s^2) || N(m', s'^2)) = sum over coordinates of ln(s'/s) + (s^2 + (m - m')^2) / (2 s'^2) - 1/2.
`Eq. hal` (reading list #27): Hal(x) = mean over pixels of the variance of the denoised image over the last K steps.
`Eq. frechet`: ||m - m'||^2 + tr(S + S' - 2 (S S')^{1/2}) of feature means and covariances.
"""

import numpy as np

from gencausal import checks

MISSING = 2.0
"""Error, in sd, of a factor that cannot be read from an image (its shape is missing)."""


def _images(name: str, value) -> np.ndarray:
    array = np.asarray(value, dtype=np.float64)
    if array.ndim != 4:
        raise checks.InputError(f"{name} must be images [N, C, H, W], not of shape {array.shape}.")
    return array


def psnr(images, reference, masked: bool = False, background: float = 1.0) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of every image, [N]; higher is better. masked: over pixels that are not `background` in the image or in the reference, so that a blank image scores badly."""
    a, b = _images("images", images), _images("reference", reference)
    square = ((a - b) ** 2).mean(1)
    weight = np.ones_like(square)
    if masked:
        weight = ((np.abs(a - background).max(1) > 0.05) | (np.abs(b - background).max(1) > 0.05)).astype(float)
    error = (square * weight).sum((1, 2)) / np.maximum(weight.sum((1, 2)), 1)
    return 10 * np.log10(1 / np.maximum(error, 1e-10))


def splits(intervened, below) -> dict[str, np.ndarray]:
    """Masks [N, n] of the three splits. intervened: [N, n] of bool, the factors set in each unit. below: [n, n] of bool, `graph.descendants`."""
    intervened = np.asarray(intervened, dtype=bool)
    descendant = (intervened.astype(int) @ np.asarray(below, dtype=int) > 0) & ~intervened
    return {"intervened": intervened, "descendant": descendant, "nondescendant": ~intervened & ~descendant}


def acm(read, truth, intervened, below) -> dict[str, np.ndarray]:
    """Mean absolute error of the factors of each split in every unit, [N] each, NaN where a unit has no such factor (Eq. acm). An unreadable factor counts as `MISSING`."""
    read, truth = np.asarray(read, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    error = np.where(np.isnan(read), MISSING, np.abs(read - truth))
    found = {}
    for name, mask in splits(intervened, below).items():
        count = mask.sum(1)
        found[name] = np.where(count > 0, (error * mask).sum(1) / np.maximum(count, 1), np.nan)
    return found


def unreadable(read) -> np.ndarray:
    """Share of the factors of every unit that cannot be read, [N]; lower is better."""
    return np.isnan(np.asarray(read, dtype=np.float64)).mean(1)


def composition(images, reference) -> np.ndarray:
    """Mean absolute difference on the scale 0 to 255, [N]: after null interventions it should be 0 (Monteiro et al. 2023)."""
    return 255 * np.abs(_images("images", images) - _images("reference", reference)).mean((1, 2, 3))


def frechet(features, reference) -> float:
    """Frechet distance between the normal laws of two sets of features, [N, k] and [M, k] (Eq. frechet); name the features with the number."""
    a, b = (np.asarray(v, dtype=np.float64) for v in (features, reference))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise checks.InputError(f"features must be two tables [N, k] of the same k with two rows or more, not {a.shape} and {b.shape}.")
    covariance_a, covariance_b = np.cov(a, rowvar=False).reshape(a.shape[1], -1), np.cov(b, rowvar=False).reshape(a.shape[1], -1)
    values, vectors = np.linalg.eigh(covariance_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariance_b @ root), 0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(covariance_a) + np.trace(covariance_b) - 2 * cross)


def dci(importance) -> tuple[float, float]:
    """(disentanglement, completeness), both in [0, 1], higher is better, of `importance [codes, factors]` (Eq. dci)."""
    R = np.asarray(importance, dtype=np.float64)
    if R.ndim != 2 or min(R.shape) < 2 or (R < 0).any() or R.sum() <= 0:
        raise checks.InputError(f"importance must be a table [codes, factors] of two or more each, not negative and not all zero, not of shape {R.shape}.")

    def spread(rows: np.ndarray) -> float:
        total = rows.sum(1)
        p = rows / np.maximum(total, 1e-300)[:, None]
        entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(1) / np.log(rows.shape[1])
        return float((total / total.sum() * (1 - entropy)).sum())

    return spread(R), spread(R.T)


def gaussian_kl(mean, sd, mean_to, sd_to) -> np.ndarray:
    """KL(N(mean_i, sd_i^2) || N(mean_to_j, sd_to_j^2)) of diagonal normal laws, [N, M] (Eq. gaussian-kl): [N, k] each for the first, [M, k] for the second."""
    m, s, n, t = (np.asarray(v, dtype=np.float64) for v in (mean, sd, mean_to, sd_to))
    if m.shape != s.shape or n.shape != t.shape or m.ndim != 2 or n.ndim != 2 or m.shape[1] != n.shape[1]:
        raise checks.InputError(f"mean and sd must be tables [N, k] of the same k, not {m.shape}, {s.shape}, {n.shape} and {t.shape}.")
    # (m - n)^2 / t^2 as products of matrices: no [N, M, k]
    weight = 1 / t**2
    quadratic = (m**2 + s**2) @ weight.T - 2 * m @ (n * weight).T + (n**2 * weight).sum(1)
    return np.maximum(0.5 * quadratic + np.log(t).sum(1) - np.log(s).sum(1)[:, None] - m.shape[1] / 2, 0)


def cld(divergence, to_counterfactual, to_factual, weights: tuple[float, float] = (0.8, 0.2)) -> np.ndarray:
    """Minimality of every counterfactual, [N]; lower is better (Eq. cld).

    divergence: [N], from the factual image to its counterfactual. to_counterfactual, to_factual: [N, M], from the factual image to real images with the counterfactual's value, and with its own; NaN for
    an image that is not one of them. Without any such image there is no number: NaN.
    """
    div, near, far = np.asarray(divergence, dtype=np.float64)[:, None], np.asarray(to_counterfactual, dtype=np.float64), np.asarray(to_factual, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        nearer, farther = (near <= div).sum(1) / (~np.isnan(near)).sum(1), (far >= div).sum(1) / (~np.isnan(far)).sum(1)
    return np.log(weights[0] * np.exp(nearer) + weights[1] * np.exp(farther))


def hallucination(trace) -> np.ndarray:
    """Hal(x) of every image, [N], from its denoised images over the last K steps, [K, N, C, H, W]; lower is better (Eq. hal)."""
    return np.asarray(trace, dtype=np.float64).var(0).mean((1, 2, 3))


def auroc(score, positive) -> float:
    """Probability that a positive has a larger score than a negative, ties half; 0.5 says nothing. NaN without both."""
    score, positive = np.asarray(score, dtype=np.float64), np.asarray(positive, dtype=bool)
    a, b = score[positive], score[~positive]
    if not len(a) or not len(b):
        return float("nan")
    return float(((a[:, None] > b[None]) + 0.5 * (a[:, None] == b[None])).mean())
