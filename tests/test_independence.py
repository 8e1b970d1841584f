"""Measures of Z against T within strata of X: estimators against plain loops and scikit-learn, p-values against their law (spec vci, oracles 19 and 21)."""

import numpy as np
import pytest
from scipy.stats import combine_pvalues
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.feature_selection import mutual_info_classif
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from gencausal import checks, independence
from gencausal.data.cell_worlds import LinearWorld, cell_world, linear_world
from gencausal.independence import composition, fisher, holm, measure, reconstruction_r2, reversibility, round_trip


@pytest.fixture(scope="module")
def world():
    """600 cells of E1's world with their true latent, treatment and stratum."""
    table = cell_world(0, 0, 500, 100)
    return table.latent.astype(float), table.condition, table.stratum


@pytest.fixture
def sample():
    """50 cells in three dimensions, three rows of labels."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((50, 3)), np.stack([rng.permutation(np.arange(50) % 3) for _ in range(3)])


def overall(rows, key="p"):
    return {row["measure"]: row[key] for row in rows if row["stratum"] == "all"}


def test_hsic_by_its_trace(sample):
    """Eq. hsic and Eq. nhsic against tr(K H L H) written out, for every row of labels."""
    z, labels = sample
    K, H = independence.gaussian_kernel(independence.distances(z)), np.eye(50) - 1 / 50
    median = np.median([np.linalg.norm(z[i] - z[j]) for i in range(50) for j in range(i)])
    assert K[3, 7] == pytest.approx(np.exp(-((z[3] - z[7]) ** 2).sum() / (2 * median**2)))
    for row, found in zip(labels, independence.hsic(K, labels)):
        L = (row[:, None] == row).astype(float)
        trace = [np.trace(a @ H @ b @ H) / 49**2 for a, b in ((K, L), (K, K), (L, L))]
        assert found == pytest.approx(trace[0]) and independence.hsic_scale(K, row) == pytest.approx(np.sqrt(trace[1] * trace[2]))


def test_mmd_by_its_means(sample):
    """Eq. mmd against means over pairs of different cells; on draws of one law it is 0 on average."""
    z, labels = sample
    K = independence.gaussian_kernel(independence.distances(z))
    for row, found in zip(labels, independence.mmd(K, labels, control=1)):
        for value, a in zip(found, (0, 2)):
            i, j = np.flatnonzero(row == a), np.flatnonzero(row == 1)
            own = [np.mean([K[p, q] for p in s for q in s if p != q]) for s in (i, j)]
            assert value == pytest.approx(sum(own) - 2 * K[np.ix_(i, j)].mean())
    many = independence.mmd(K, independence.permuted(labels[0], 4000, np.random.default_rng(1)))
    assert np.abs(many.mean(0)).max() < 5 * many.std() / np.sqrt(4000)


def test_mutual_information_of_one_dimension_is_that_of_scikit_learn():
    """Eq. knn-mi in one dimension against Ross's estimator in scikit-learn, and near the exact value of two distant intervals, ln 2."""
    rng = np.random.default_rng(2)
    label = np.arange(400) % 2
    for shift in (0.0, 1.0, 50.0):
        z = (rng.random(400) + shift * label)[:, None]
        found = independence.mutual_information(independence.distances(z), label[None], rng)[0]
        assert max(found, 0) == pytest.approx(mutual_info_classif(z, label, n_neighbors=3, random_state=0)[0], abs=0.01)
    assert found == pytest.approx(np.log(2), abs=0.01)


def test_joint_information_sees_what_no_column_shows():
    """T = 1 where both coordinates have one sign: 0 by columns, ln 2 jointly."""
    rng = np.random.default_rng(3)
    z = rng.uniform(-1, 1, (1500, 2))
    label = (z.prod(1) > 0).astype(int)
    assert mutual_info_classif(z, label, random_state=0).max() < 0.05
    assert independence.mutual_information(independence.distances(z), label[None], rng)[0] > 0.55


def test_probe_is_the_linear_discriminant():
    """Eq. probe against scikit-learn's discriminant with equal priors, fold by fold, where the ridge is small; balanced accuracy against scikit-learn's."""
    rng = np.random.default_rng(4)
    label = np.sort(np.arange(900) % 7 // 3)
    z = rng.standard_normal((900, 2)) @ [[1.0, 0.9], [0.0, 0.4]] + np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 0.6]])[label]
    folds = rng.permutation(900) % 5
    scores = independence.probe_scores(z, np.stack([label, rng.permutation(label)]), folds)
    theirs = np.empty(900, int)
    for fold in range(5):
        theirs[folds == fold] = LinearDiscriminantAnalysis(priors=np.full(3, 1 / 3)).fit(z[folds != fold], label[folds != fold]).predict(z[folds == fold])
    assert (scores[0].argmax(0) == theirs).mean() > 0.99
    found = independence.balanced_accuracy(scores, np.stack([label, label]))
    assert found[0] == pytest.approx(balanced_accuracy_score(label, scores[0].argmax(0))) and found[0] > 0.6 > 0.42 > found[1]


def test_probe_is_scored_on_cells_it_did_not_see():
    """Forty columns of noise fit 60 cells well, and tell nothing of others: balanced accuracy stays at chance."""
    rng = np.random.default_rng(13)
    label = np.arange(60) % 2
    labels = independence.permuted(label, 200, rng)
    assert independence.balanced_accuracy(independence.probe_scores(rng.standard_normal((60, 40)), labels, np.arange(60) // 2 % 5), labels).mean() == pytest.approx(0.5, abs=0.03)


def test_auc_of_scikit_learn(sample):
    """Eq. c2st against scikit-learn for each label against the control, ties counted half."""
    _, labels = sample
    scores = np.random.default_rng(5).integers(0, 5, (3, 3, 50)).astype(float)
    for found, row, score in zip(independence.auc(scores, labels, control=2), labels, scores):
        for value, a in zip(found, (0, 1)):
            rows = (row == a) | (row == 2)
            assert value == pytest.approx(roc_auc_score(row[rows] == a, (score[a] - score[2])[rows]))


def test_hidden_probe_sees_a_ring():
    """Treatment that shows in the radius alone: at chance for the linear probe, plain to the hidden layer."""
    rng = np.random.default_rng(6)
    label = np.arange(400) % 2
    z = rng.standard_normal((400, 2)) * (1 + 1.5 * label[:, None])
    found = overall(measure(z, label, 0 * label, rng, 60), "value")
    assert found["probe_linear"] < 0.58 and found["probe_hidden"] > 0.7 and found["auc_hidden"] > 0.75


def test_holm_and_fisher():
    """Holm by hand: times m, m - 1, ..., rising and held at 1; Fisher against SciPy."""
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06]) and holm([0.9, 0.8]) == pytest.approx([1.0, 1.0]) and holm([0.2]) == pytest.approx([0.2])
    assert fisher([0.02, 0.3, 0.7]) == pytest.approx(combine_pvalues([0.02, 0.3, 0.7], method="fisher").pvalue) and fisher([0.2]) == pytest.approx(0.2)


def test_p_is_uniform_when_treatment_is_shuffled_within_strata(world):
    """Oracle 19: with T shuffled within X no measure rejects more often than its level, over 100 draws, strata combined by Fisher and by Holm; those without ties reject about as often."""
    rng = np.random.default_rng(7)
    z, T, X = (v[:200] for v in world)
    drawn, adjusted = [], []
    for _ in range(100):
        shuffled = T.copy()
        for x in range(3):
            shuffled[X == x] = rng.permutation(T[X == x])
        rows = measure(z, shuffled, X, rng, 19)
        drawn.append(overall(rows)), adjusted.append(overall(rows, "p_holm"))
    for name in [name for name in drawn[0] if "_x_" not in name]:
        p, family = (np.array([draw[name] for draw in draws]) for draws in (drawn, adjusted))
        for level in (0.1, 0.25, 0.5):
            spread = 3.5 * np.sqrt(level * (1 - level) / 100)
            assert (p <= level).mean() < level + spread, name
            assert (family <= level).mean() < level + spread, name
        if name not in ("probe_linear", "probe_hidden"):
            assert (p <= 0.5).mean() > 0.5 - 3.5 * np.sqrt(0.25 / 100), name


def test_confounding_is_not_leakage(world):
    """Oracle 19: the true latent of E1 depends on T over all cells, through X, and every measure says so where X is ignored; within strata none does."""
    z, T, X = world
    within, marginal = (overall(measure(z, T, strata, np.random.default_rng(8), 99)) for strata in (X, 0 * X))
    assert min(p for name, p in within.items() if "_x_" not in name) > 0.02 and max(marginal.values()) <= 0.01 + 1e-9
    assert within["probe_x_linear"] <= 0.01 + 1e-9


def test_treatment_appended_is_seen(world):
    """Oracle 19: with T's code beside z every measure rejects in every stratum, and probes and AUC are at 1."""
    z, T, X = world
    rows = measure(np.concatenate([z, np.eye(3)[T]], 1), T, X, np.random.default_rng(9), 99)
    assert all(row["p"] <= 0.01 + 1e-9 for row in rows if row["arm"] is None)
    value = overall(rows, "value")
    assert value["probe_linear"] > 0.99 and value["auc_linear"] > 0.99 and value["mutual_information"] > 0.6


def test_a_collapsed_latent_is_independent_and_uninformative(world):
    """A constant z is at chance in all, p 1, and so is its probe of X: independence alone proves nothing."""
    rows = measure(np.full((600, 4), 3.7), *world[1:], np.random.default_rng(10), 39)
    assert all(row["p"] == pytest.approx(1.0) for row in rows)
    value = overall(rows, "value")
    assert value["probe_linear"] == value["probe_x_hidden"] == pytest.approx(1 / 3) and value["auc_hidden"] == 0.5 and value["nhsic"] == value["mutual_information"] == 0


def test_rows(world):
    """Every measure has a row a stratum, one for all and one an arm; subsampling keeps to n_max; small groups are left out and the same generator gives the same rows."""
    z, T, X = world
    rows = measure(z, T, X, np.random.default_rng(11), 9, n_max=300)
    assert overall(rows, "n")["hsic"] <= 300 and {row["stratum"] for row in rows} == {0, 1, 2, "all"} and {row["arm"] for row in rows if row["measure"] == "mmd"} == {None, 1, 2}
    again = measure(z, T, X, np.random.default_rng(11), 9, n_max=300)
    assert [row["value"] for row in rows] == [row["value"] for row in again]
    few = np.where((X == 0) & (np.cumsum((X == 0) & (T == 2)) > 5) & (T == 2), 1, T)
    rows = measure(z, few, X, np.random.default_rng(12), 9)
    assert sum(row["n"] for row in rows if row["measure"] == "hsic" and row["stratum"] == 0) == (X == 0).sum() - 5
    assert {row["arm"] for row in rows if row["measure"] == "mmd" and row["stratum"] == 0} == {None}


def test_linear_world_keeps_its_latent():
    """Oracle 21: with the exact predictor composition, reversibility and round trip are 0 and reconstruction 1; a predictor that ignores t' cannot be told by composition, but one off by its sd is."""
    table, exact = linear_world(0, 200, 100), LinearWorld()
    encode = lambda y, t, x: exact.abduct(y[:, 0].astype(float), t[:, 1])[:, None]  # noqa: E731
    predict = lambda y, t, x, cf: exact.counterfactual(y[:, 0].astype(float), t[:, 1], cf[:, 1])[:, None]  # noqa: E731
    y, t, x = table.outcome, table.treatment, table.covariates
    flipped = t[:, ::-1]
    assert composition(predict, y, t, x) == pytest.approx(0, abs=1e-6) and reversibility(predict, y, t, x, flipped) == pytest.approx(0, abs=1e-6)
    assert round_trip(encode, predict, y, t, x, flipped) == pytest.approx(0, abs=1e-6)
    assert reconstruction_r2(y, predict(y, t, x, t)) == pytest.approx(1) and reconstruction_r2(y, 0 * y + y.mean(0)) == pytest.approx(0, abs=1e-6)
    copy, shifted = (lambda y, t, x, cf, by=by: y + by * y.std() for by in (0.0, 1.0))
    assert composition(copy, y, t, x) == reversibility(copy, y, t, x, flipped) == 0 and round_trip(encode, copy, y, t, x, flipped) > 0.5
    assert composition(shifted, y, t, x) == pytest.approx(1, rel=1e-4) and np.isnan(round_trip(lambda y, t, x: 0 * y, copy, y, t, x, flipped))


def test_bad_input(world):
    """Groups too small, lengths that differ and NaN are refused by name."""
    z, T, X = world
    with pytest.raises(checks.InputError, match="treatment"):
        measure(z[:12], T[:12], X[:12], np.random.default_rng(0))
    with pytest.raises(checks.InputError, match="strata"):
        measure(z, T, X[:5], np.random.default_rng(0))
    with pytest.raises(checks.InputError, match="z"):
        measure(np.where(z == z[0, 0], np.nan, z), T, X, np.random.default_rng(0))
