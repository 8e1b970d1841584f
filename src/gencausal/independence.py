r"""Does a latent z still know the treatment T, given the covariates X? Five families of measures, each with a permutation p (spec vci, 4.4 and E4).

Z depends on X and so does T: Z and T must be independent **within strata of X**, never over all cells. Labels are permuted within a stratum, B = P + 1 rows of labels [B, n] of which the first is the true one; every statistic is
computed for all rows at once from matrix products with their one-hot code O [B, K, n]. With O the labels, H = I - 11'/n, K the Gaussian kernel of z at the median distance, L the delta kernel of T:

    HSIC_b = tr(K H L H) / (n - 1)^2 = sum_k o_k' HKH o_k / (n - 1)^2                                              `Eq. hsic`     (Gretton et al. 2005)
    nHSIC  = HSIC(z, T) / sqrt(HSIC(z, z) HSIC(T, T))                                                               `Eq. nhsic`
    MMD^2_u = mean_{i != j in a} K + mean_{i != j in c} K - 2 mean_{i in a, j in c} K,   c the control              `Eq. mmd`      (Gretton et al. 2012)
    I(z; T) = psi(n) - <psi(n_T)> + psi(k) - <psi(m)>,  m_i = rank among all of the k-th neighbour of i's own label  `Eq. knn-mi`   (Ross 2014; z jointly, Euclidean; nats)
    probe: linear discriminant of held-out cells (5 folds), balanced accuracy (1/K by chance, at equal priors)       `Eq. probe`
           in whitened z, with centroids M [K, L], G = M M' and shares D: scores W M z - diag(W G) / 2, W = (I - G D)^-1, which is the discriminant of the within-label covariance I - M' D M
    AUC    of score_a - score_c between the held-out cells of a and c (classifier two-sample test, 0.5 by chance)     `Eq. c2st`     (Lopez-Paz and Oquab 2017)
    p = (1 + #{b: S_b >= S}) / (P + 1) in a stratum (Eq. monte-carlo-p); over strata Fisher's for one p, Holm's for each

The one-hidden-layer probe has 128 units cos(w z + b), w ~ N(0, 1 / median^2), which are drawn and not trained, so that a permutation costs a matrix product; a latent that passes all may still hold what no measure here
sees. The nearest-neighbour estimate falls short in many dimensions, H(T) being its ceiling: read it as a lower bound. **A collapsed z is independent of everything**: read all this beside `reconstruction_r2` and the probe of X.

Round trip, composition and reversibility take the model as callables of arrays.
"""

from collections.abc import Callable

import numpy as np
from scipy.special import digamma
from scipy.stats import chi2, rankdata

from gencausal import checks, nulls

FOLDS, HIDDEN, NEIGHBOURS, SMALLEST = 5, 128, 3, 10
PROBES = ("linear", "hidden")


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's adjusted p of m tests, [m]: the i-th smallest times m - i + 1, made to rise and held at 1; rejecting at or below a keeps the chance of any false rejection at a, whatever the dependence."""
    p = checks.vector(p, "p")
    order = np.argsort(p)
    adjusted = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted[np.argsort(order)]


def fisher(p: np.ndarray) -> float:
    """One p of independent tests p [m]: the upper tail of chi^2 with 2 m degrees of freedom at -2 sum ln p (Fisher)."""
    p = checks.vector(p, "p")
    return float(chi2.sf(-2 * np.log(p).sum(), 2 * len(p)))


def permutation_p(values: np.ndarray) -> float:
    """Monte-Carlo p of values[0] among all `values [B]`, large being surprising; differences within rounding count as ties."""
    return nulls.monte_carlo_p(values[0] - 1e-9 * np.abs(values).max(), values[1:])


def permuted(labels: np.ndarray, permutations: int, rng: np.random.Generator) -> np.ndarray:
    """`labels [n]` and below it `permutations` random orders of them, [1 + permutations, n]."""
    return np.concatenate([labels[None], rng.permuted(np.repeat(labels[None], permutations, 0), axis=1)])


# ---------------------------------------------------------------- statistics of z [n, L] and labels [B, n] in 0 ... K - 1


def distances(z: np.ndarray) -> np.ndarray:
    """Euclidean distances [n, n]; exactly 0 where z is constant."""
    z = _varying(z)
    square = (z**2).sum(1)
    found = np.sqrt(np.maximum(square[:, None] + square - 2 * (z @ z.T), 0))
    np.fill_diagonal(found, 0)
    return found


def bandwidth(distance: np.ndarray) -> float:
    """Median distance between two cells; their mean where more than half are 0, and 1 where all are."""
    pairs = distance[np.triu_indices(len(distance), 1)]
    return float(np.median(pairs) or pairs.mean() or 1.0)


def gaussian_kernel(distance: np.ndarray) -> np.ndarray:
    """exp(-d^2 / (2 h^2)) at the median bandwidth h, [n, n]."""
    return np.exp(-0.5 * (distance / bandwidth(distance)) ** 2)


def hsic(kernel: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """HSIC_b of every row of `labels`, [B] (Eq. hsic)."""
    code = _one_hot(labels)
    centred = kernel - kernel.mean(0) - kernel.mean(1, keepdims=True) + kernel.mean()
    return ((code.reshape(-1, len(kernel)) @ centred).reshape(code.shape) * code).sum((1, 2)) / (len(kernel) - 1) ** 2


def hsic_scale(kernel: np.ndarray, labels: np.ndarray) -> float:
    """sqrt(HSIC(z, z) HSIC(T, T)) for one row of labels [n], the divisor of Eq. nhsic; 0 where either is constant."""
    n, counts = len(kernel), np.bincount(labels).astype(float)
    centred = kernel - kernel.mean(0) - kernel.mean(1, keepdims=True) + kernel.mean()
    code = np.diag(counts) - np.outer(counts, counts) / n
    return float(np.linalg.norm(centred) * np.linalg.norm(code)) / (n - 1) ** 2


def mmd(kernel: np.ndarray, labels: np.ndarray, control: int = 0) -> np.ndarray:
    """MMD^2_u of each label but `control` against it, [B, K - 1] (Eq. mmd); negative values are part of an unbiased estimate of 0."""
    code = _one_hot(labels)
    counts = code[0].sum(1)
    seen = (code.reshape(-1, len(kernel)) @ (kernel - np.diag(np.diag(kernel)))).reshape(code.shape)
    own = (seen * code).sum(2) / (counts * (counts - 1))
    cross = (seen * code[:, control, None]).sum(2) / (counts * counts[control])
    return np.delete(own + own[:, control, None] - 2 * cross, control, 1)


def mutual_information(distance: np.ndarray, labels: np.ndarray, rng: np.random.Generator, k: int = NEIGHBOURS) -> np.ndarray:
    """Nearest-neighbour mutual information of z and each row of `labels` in nats, [B] (Eq. knn-mi); may fall below 0; 0 where z is constant. Ties are broken by `rng`."""
    n = len(distance)
    if not distance.any():
        return np.zeros(len(labels))
    away = distance.copy()
    np.fill_diagonal(away, np.inf)
    mix = rng.permutation(n)
    order = mix[np.argsort(away[:, mix], axis=1, kind="stable")[:, :-1]]
    counts = np.bincount(labels[0])
    held = np.minimum(k, counts - 1)
    found, small = np.empty(len(labels)), labels.astype(np.int16)
    for row, own in enumerate(small):
        place = (np.cumsum(own[order] == own[:, None], axis=1, dtype=np.int16) == held[own][:, None]).argmax(1) + 1
        found[row] = digamma(held[own]).mean() - digamma(place).mean()
    return found + digamma(n) - digamma(counts[labels[0]]).mean()


def probe_scores(features: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Discriminant scores of every cell, fitted on the other folds, [B, K, n]; `features [n, F]`, `folds [n]` from 0. The pooled covariance has F / n of its own scale added; a label absent from the other folds scores -inf."""
    code = _one_hot(labels)
    arms = code.shape[1]
    scores = np.zeros(code.shape)
    for fold in range(folds.max() + 1):
        fit, held = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        centre = features[fit].mean(0)
        spread = features[fit].std(0)
        scaled = (features - centre) / np.where(spread > 0, spread, 1)
        s, V = np.linalg.eigh(scaled[fit].T @ scaled[fit] / len(fit))
        white = scaled @ (V / np.sqrt(np.maximum(s, 0) + features.shape[1] / len(fit)))
        counts = code[:, :, fit].sum(2)
        M = (code[:, :, fit].reshape(-1, len(fit)) @ white[fit]).reshape(*counts.shape, -1) / np.maximum(counts, 1)[..., None]
        G = M @ np.swapaxes(M, 1, 2)
        within = np.eye(arms) - G * (counts / len(fit))[:, None, :]
        product = (M.reshape(-1, M.shape[-1]) @ white[held].T).reshape(*counts.shape, -1)
        solved = np.linalg.solve(within, np.concatenate([product, G], 2))
        length = np.diagonal(solved[..., len(held):], axis1=1, axis2=2)
        scores[:, :, held] = np.where(counts[..., None] > 0, solved[..., : len(held)] - 0.5 * length[..., None], -np.inf)
    return scores


def balanced_accuracy(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean over labels of the share of their cells whose score is the highest, [B] (Eq. probe)."""
    counts = np.bincount(labels[0])
    return ((scores.argmax(1) == labels) / (len(counts) * counts)[labels]).sum(1)


def auc(scores: np.ndarray, labels: np.ndarray, control: int = 0) -> np.ndarray:
    """Area under the curve of score_a - score_control between cells of a and of the control, [B, K - 1] (Eq. c2st); ties count half."""
    order, counts = np.argsort(labels, axis=1, kind="stable"), np.bincount(labels[0])
    ends = counts.cumsum()
    with np.errstate(invalid="ignore"):
        margin = np.nan_to_num(scores - scores[:, control, None], nan=0.0)
    found = []
    for a in np.delete(np.arange(len(counts)), control):
        rows = np.concatenate([order[:, ends[i] - counts[i]: ends[i]] for i in (a, control)], 1)
        ranks = rankdata(np.take_along_axis(margin[:, a], rows, 1), axis=1)[:, : counts[a]].sum(1)
        found.append((ranks - counts[a] * (counts[a] + 1) / 2) / (counts[a] * counts[control]))
    return np.stack(found, 1)


def features(z: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Inputs of the two probes: `linear`, z scaled column by column, and `hidden`, 128 random cosines of it at its median distance."""
    z = _varying(z)
    spread = z.std(0)
    z = z / np.where(spread > 0, spread, 1)
    wave = z @ rng.standard_normal((z.shape[1], HIDDEN)) / bandwidth(distances(z)) + rng.uniform(0, 2 * np.pi, HIDDEN)
    return {"linear": z, "hidden": np.cos(wave) if z.any() else np.zeros((len(z), 1))}


def measure(z: np.ndarray, treatment: np.ndarray, strata: np.ndarray, rng: np.random.Generator, permutations: int = 200, n_max: int | None = None, control: int = 0) -> list[dict]:
    """All measures of what `z [n, L]` knows of `treatment [n]` within `strata [n]`, and of the strata themselves.

    Rows with measure (`probe_linear`, `probe_hidden`, `auc_linear`, `auc_hidden`, `hsic`, `nhsic`, `mmd`, `mutual_information`, `probe_x_linear`, `probe_x_hidden`), stratum ("all" for the mean over strata weighted by
    cells), arm (None, or a treatment against `control` where a stratum has more than two), value, chance (mean of the permuted), p, p_holm (over strata; in "all" the smallest of them, while p there is Fisher's), n.
    All grow with dependence; p_holm is NaN where arm is given. n_max: at most so many cells, drawn by `rng`. Within a stratum treatments with fewer than 10 cells are left out, and strata with fewer than two treatments left; InputError if none is left.
    """
    z = checks.matrix(z, "z")
    treatment, strata = (np.asarray(v, np.int64) for v in (checks.vector(treatment, "treatment", len(z)), checks.vector(strata, "strata", len(z))))
    checks.whole(permutations, "permutations")
    if n_max is not None and len(z) > n_max:
        kept = rng.permutation(len(z))[: checks.whole(n_max, "n_max")]
        z, treatment, strata = z[kept], treatment[kept], strata[kept]
    rows = []
    for x in np.unique(strata):
        inside = strata == x
        values, counts = np.unique(treatment[inside], return_counts=True)
        arms = values[counts >= SMALLEST]
        if len(arms) > 1:
            inside &= np.isin(treatment, arms)
            found = _statistics(z[inside], np.searchsorted(arms, treatment[inside]), arms, control, permutations, rng)
            rows += [{"measure": name, "stratum": int(x), "arm": arm, "value": float(v[0]), "chance": float(v[1:].mean()), "p": permutation_p(v), "p_holm": np.nan, "n": int(inside.sum())} for name, arm, v in found]
    if not rows:
        raise checks.InputError(f"treatment has no stratum with two treatments of at least {SMALLEST} cells; pass more cells or coarser strata.")
    for name in dict.fromkeys(row["measure"] for row in rows):
        parts = [row for row in rows if row["measure"] == name and row["arm"] is None]
        n, p = np.array([part["n"] for part in parts]), np.array([part["p"] for part in parts])
        for part, adjusted in zip(parts, holm(p)):
            part["p_holm"] = float(adjusted)
        rows.append({"measure": name, "stratum": "all", "arm": None, "p": fisher(p), "p_holm": float(holm(p).min()), "n": int(n.sum())} | {key: float(np.average([part[key] for part in parts], weights=n)) for key in ("value", "chance")})
    return rows + _covariate_probes(z, strata, permutations, rng)


def _statistics(z: np.ndarray, label: np.ndarray, arms: np.ndarray, control: int, permutations: int, rng: np.random.Generator) -> list[tuple]:
    """(measure, arm, values [B]) of the cells of one stratum; label [n] indexes `arms`."""
    labels, distance = permuted(label, permutations, rng), distances(z)
    kernel, reference = gaussian_kernel(distance), int(np.argmax(arms == control))
    value = hsic(kernel, labels)
    found = [("hsic", None, value), ("nhsic", None, value / (hsic_scale(kernel, label) or 1.0)), ("mutual_information", None, mutual_information(distance, labels, rng))]
    pairs = {"mmd": mmd(kernel, labels, reference)}
    folds = rng.permutation(len(z)) % FOLDS
    for name, inputs in features(z, rng).items():
        scores = probe_scores(inputs, labels, folds)
        found.append((f"probe_{name}", None, balanced_accuracy(scores, labels)))
        pairs[f"auc_{name}"] = auc(scores, labels, reference)
    others = np.delete(arms, reference)
    for name, values in pairs.items():
        found += [(name, None, values.mean(1))] + [(name, int(arm), column) for arm, column in zip(others, values.T) if len(others) > 1]
    return found


def _covariate_probes(z: np.ndarray, strata: np.ndarray, permutations: int, rng: np.random.Generator) -> list[dict]:
    """Balanced accuracy of the probes of X from z over all cells; none where there is one stratum only."""
    values, label, counts = np.unique(strata, return_inverse=True, return_counts=True)
    if len(values) < 2 or counts.min() < 2:
        return []
    labels, folds = permuted(label, permutations, rng), rng.permutation(len(z)) % FOLDS
    found = {name: balanced_accuracy(probe_scores(inputs, labels, folds), labels) for name, inputs in features(z, rng).items()}
    return [{"measure": f"probe_x_{name}", "stratum": "all", "arm": None, "value": float(v[0]), "chance": float(v[1:].mean()), "p": permutation_p(v), "p_holm": permutation_p(v), "n": len(z)} for name, v in found.items()]


def _one_hot(labels: np.ndarray) -> np.ndarray:
    """`labels [B, n]` as [B, K, n], float64."""
    return (labels[:, None] == np.arange(labels.max() + 1)[:, None]).astype(np.float64)


def _varying(z: np.ndarray) -> np.ndarray:
    """z about its mean, columns that vary by no more than rounding of float32 set to 0."""
    centred = z - z.mean(0)
    return np.where(np.abs(centred).max(0) > 1e-6 * np.abs(z).max(0), centred, 0.0)


# ---------------------------------------------------------------- what the model does with its latent

Encode = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
Predict = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def reconstruction_r2(outcome: np.ndarray, reconstructed: np.ndarray) -> float:
    """1 - squared error / squared deviation from the column means, over all entries of [n, G]; at most 1, and 0 for the mean: a collapsed latent shows here."""
    return float(1 - ((outcome - reconstructed) ** 2).sum() / ((outcome - outcome.mean(0)) ** 2).sum())


def composition(predict: Predict, outcome: np.ndarray, treatment: np.ndarray, covariates: np.ndarray) -> float:
    """Root mean square of predict(y, t, x -> t) - y in sd of y (sd about the column means): 0 where nothing is changed by changing nothing. `treatment [n, T]`, `covariates [n, C]` as in `CellTable`."""
    return _relative(predict(outcome, treatment, covariates, treatment) - outcome, outcome)


def reversibility(predict: Predict, outcome: np.ndarray, treatment: np.ndarray, covariates: np.ndarray, treatment_cf: np.ndarray) -> float:
    """As `composition`, for y -> y'(t') -> back under t against y."""
    there = predict(outcome, treatment, covariates, treatment_cf)
    return _relative(predict(there, treatment_cf, covariates, treatment) - outcome, outcome)


def round_trip(encode: Encode, predict: Predict, outcome: np.ndarray, treatment: np.ndarray, covariates: np.ndarray, treatment_cf: np.ndarray) -> float:
    """mean |z(y, t, x) - z(y', t', x)| / mean |z(y, t, x)|, y' the prediction under t'; 0 where a counterfactual keeps its latent, NaN where z is 0 everywhere."""
    z = encode(outcome, treatment, covariates)
    there = encode(predict(outcome, treatment, covariates, treatment_cf), treatment_cf, covariates)
    size = np.linalg.norm(z, axis=1).mean()
    return float(np.linalg.norm(z - there, axis=1).mean() / size) if size else float("nan")


def _relative(error: np.ndarray, outcome: np.ndarray) -> float:
    return float(np.sqrt((error**2).mean() / ((outcome - outcome.mean(0)) ** 2).mean()))
