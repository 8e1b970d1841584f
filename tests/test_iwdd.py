"""The public IWDD: a known effect recovered, the habits of scikit-learn, econml and dowhy, files, labels, warnings and calibrated intervals."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from gencausal import metrics
from gencausal.checkpoints import load_state, save_state
from gencausal.checks import InputError
from gencausal.data import synthetic
from gencausal.data.table import CausalTable, split
from gencausal.estimators import IWDD, ExtrapolationWarning, calibration, outcomes
from gencausal.sampling import stratified_normal

pytestmark = pytest.mark.filterwarnings("ignore::gencausal.estimators.ExtrapolationWarning")  # tiny tables; one test asks for it
TINY = dict(teacher_rounds=5, distillation_rounds=2, width=8, n_draws=20)


def table(seed: int, n: int = 300) -> CausalTable:
    """Linear effect 1 + x_1 under confounding by x_0, noise sd 0.3."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    t = (rng.random(n) < 1 / (1 + np.exp(-x[:, 0]))).astype(np.int64)
    mu = np.stack([x[:, 0], x[:, 0] + 1 + x[:, 1]], 1)
    potential = mu + 0.3 * rng.normal(size=(n, 2))
    return CausalTable("toy", "a", x, t, potential[np.arange(n), t], mu, potential, None, list("abcd"), *split(n))


@pytest.fixture(scope="module")
def fitted(device):
    toy = table(5, n=800)
    return toy, IWDD(teacher_rounds=300, distillation_rounds=100, width=32, device=str(device)).fit(toy.y[toy.train], toy.t[toy.train], X=toy.x[toy.train])


def mixed(n: int = 160) -> tuple[pd.DataFrame, pd.Series, pd.Series]:
    """A frame with numbers, text and truth values, two named arms, an outcome."""
    rng = np.random.default_rng(0)
    x = pd.DataFrame({"age": rng.normal(40, 9, n), "site": rng.choice(["north", "south", "west"], n), "ill": rng.random(n) < 0.4})
    t = pd.Series(np.where(rng.random(n) < 0.5, "drug", "care"))
    return x, t, pd.Series(0.1 * x["age"] + 2.0 * (t == "drug") + rng.normal(size=n))


@pytest.fixture(scope="module")
def named():
    x, t, y = mixed()
    return x, t, y, IWDD(**TINY).fit(y, t, X=x)


# --- what it estimates ----------------------------------------------------------------------------------------------------


def test_a_known_effect_is_recovered(fitted):
    """Effect 1 + x_1 under confounding: far nearer the truth than a constant, and the average beats the naive difference."""
    toy, model = fitted
    truth = (toy.mu[:, 1] - toy.mu[:, 0])[toy.test]
    error = np.sqrt(np.mean((model.effect(toy.x[toy.test]) - truth) ** 2))
    assert error < 0.4 < 0.9 < truth.std()
    naive = toy.y[toy.train][toy.t[toy.train] == 1].mean() - toy.y[toy.train][toy.t[toy.train] == 0].mean()
    assert abs(model.ate(toy.x[toy.test]) - truth.mean()) < 0.2 < abs(naive - truth.mean())


def test_outcome_intervals_cover_and_nest(fitted):
    toy, model = fitted
    x, t, y = toy.x[toy.test], toy.t[toy.test], toy.y[toy.test]
    for calibrated, least in ((False, 0.75), (True, 0.82)):
        low, high = model.outcome_interval(x, t, alpha=0.1, calibrated=calibrated)
        assert least < np.mean((low <= y) & (y <= high)) < 0.99
        inner = model.outcome_interval(x, t, alpha=0.5, calibrated=calibrated)
        assert (low <= inner[0]).all() and (inner[1] <= high).all()
    effect_low, effect_high = model.effect_interval(x, alpha=0.1)
    assert (effect_low < model.effect(x)).mean() > 0.95 and (model.effect(x) < effect_high).mean() > 0.95


def test_calibration_moves_both_ends_by_the_offset_of_the_held_rows(fitted):
    """`Eq. cqr-offset` from the held rows: calibrating by hand from the table gives the same interval; no row enters another."""
    toy, model = fitted
    held = model.data_.held[0].numpy()
    x, t, y = (a[toy.train][held] for a in (toy.x, toy.t, toy.y))
    offset = calibration.calibrate(*model.outcome_interval(x, t, calibrated=False), y, 0.1)
    raw, found = (model.outcome_interval(toy.x[toy.test], 1, calibrated=c) for c in (False, True))
    assert np.allclose(raw[0] - found[0], offset) and np.allclose(found[1] - raw[1], offset) and abs(offset) > 1e-6
    low, high = model.outcome_interval(x, t)
    assert ((low <= y + 1e-9) & (y <= high + 1e-9)).mean() >= 0.9


def test_an_arm_with_enough_held_rows_has_its_own_offset(named):
    *_, model = named
    few = model._offsets(0.1)
    assert few[0] == few[1]
    many = clone(model)
    many.__dict__.update(vars(model))
    many._held_arm = np.repeat([0, 1], 60)
    spread = np.linspace(-1, 1, 20)
    many._held_error = np.where(many._held_arm, 3.0, 0.0)[:, None] + spread
    assert many._offsets(0.1) == pytest.approx([-0.9, 3 - 0.9], abs=0.1)


def test_outcome_interval_is_exact_for_exact_draws(monkeypatch):
    """Draws at the quantiles of N(0, 1): the 90 % interval holds 0.900 of the law; the rule for random draws would hold 0.909."""
    model = IWDD()
    nodes = stratified_normal(100).numpy()
    monkeypatch.setattr(model, "_check", lambda X: X)
    monkeypatch.setattr(model, "_stratified", lambda x: np.broadcast_to(nodes, (len(x), 2, 100)))
    model.classes_ = np.arange(2)
    low, high = (torch.special.ndtr(torch.as_tensor(side)) for side in model.outcome_interval(np.zeros((3, 1)), 1, alpha=0.1, calibrated=False))
    assert (high - low).numpy() == pytest.approx(0.9, abs=2e-3)


def test_effects_are_antisymmetric_and_average(fitted):
    """Eq. effect: turning the arms turns the sign; the ATE is the mean of the rows."""
    toy, model = fitted
    x = toy.x[toy.test]
    assert np.allclose(model.effect(x, T0=1, T1=0), -model.effect(x)) and np.allclose(model.effect(x, T0=1, T1=1), 0)
    assert model.ate(x) == pytest.approx(model.effect(x).mean()) and np.allclose(model.const_marginal_effect(x)[:, 0], model.effect(x))
    assert np.allclose(model.effect(x[3:4]), model.effect(x)[3], atol=1e-4)


def test_samples_are_seeded_and_centred(fitted):
    toy, model = fitted
    x = toy.x[toy.test][:50]
    draws = model.sample(x, 1, 400, seed=1)
    assert draws.shape == (50, 400) and np.array_equal(draws, model.sample(x, 1, 400, seed=1))
    assert not np.array_equal(draws, model.sample(x, 1, 400, seed=2))
    mixed = model.sample(x, toy.t[toy.test][:50], 400, seed=1)
    assert np.array_equal(mixed[toy.t[toy.test][:50] == 1], draws[toy.t[toy.test][:50] == 1])
    difference = draws.mean(1) - model.sample(x, 0, 400, seed=1).mean(1)
    assert np.abs(difference - model.effect(x)).mean() < 0.15


def test_the_score_is_minus_the_crps_and_higher_for_a_better_model(fitted):
    toy, model = fitted
    x, t, y = toy.x[toy.test], toy.t[toy.test], toy.y[toy.test]
    draws = model._stratified(model._check(x))[np.arange(len(x)), t]
    assert model.score(y, t, X=x) == pytest.approx(-metrics.crps(draws, y, fair=False))
    assert model.score(y, t, X=x) > model.score(y, 1 - t, X=x) + 0.1


def test_three_arms():
    """Arm 2 adds 3, arm 1 adds 0."""
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(600, 2)), rng.integers(3, size=600)
    y = x[:, 0] + 3.0 * (t == 2) + 0.3 * rng.normal(size=600)
    model = IWDD(teacher_rounds=150, distillation_rounds=50, width=24).fit(y, t, X=x)
    assert model.ate(x, T0=0, T1=2) == pytest.approx(3, abs=0.4) and model.ate(x, T0=0, T1=1) == pytest.approx(0, abs=0.4)
    assert model.const_marginal_effect(x).shape == (600, 2) and np.allclose(model.const_marginal_effect(x)[:, 1], model.effect(x, 0, 2))
    for law in ("ipw", "bernoulli"):
        with pytest.raises(InputError, match=f"{law}.*two arms, not 3.*shuffle"):
            IWDD(law=law).fit(y, t, X=x)


def test_the_synthetic_design_is_learnt_where_it_overlaps():
    """1-D design at k = 0.5: inside |x| < 1 the effect exp(x) is identified and found within 0.5 on average."""
    toy = synthetic.load(seed=0, k=0.5, n_train=1000, n_test=400)
    model = IWDD(teacher_rounds=250, distillation_rounds=60, width=32).fit(toy.y[toy.train], toy.t[toy.train], X=toy.x[toy.train])
    x = toy.x[toy.test]
    inside = np.abs(x[:, 0]) < 1
    error = np.abs(model.effect(x[inside]) - np.exp(x[inside, 0])).mean()
    assert error < 0.5 < np.exp(x[inside, 0]).mean()


def test_an_ensemble_pools_the_draws_of_its_members():
    """Two members, 20 draws: even draws are the first member's, which is the estimator of one; the others another network's. Files keep both."""
    toy = table(2, n=120)
    one, two = (IWDD(**TINY, members=m).fit(toy.y, toy.t, X=toy.x) for m in (1, 2))
    alone, pooled = one._stratified(toy.x), two._stratified(toy.x)
    assert np.allclose(pooled[..., ::2], alone[..., ::2], atol=1e-5) and not np.allclose(pooled[..., 1::2], alone[..., 1::2], atol=1e-2)
    assert len(two.generators_) == len(two.teacher_trainings_) == 2 and np.allclose(two.effect(toy.x), (pooled[:, 1] - pooled[:, 0]).mean(-1))


# --- labels, columns, overlap ---------------------------------------------------------------------------------------------


def test_labels_and_levels_are_names_only(named):
    """Named arms give the bits of the same arms as 0 and 1; a frame of indicators made by hand gives those of the encoded levels."""
    x, t, y, model = named
    assert model.classes_.tolist() == ["care", "drug"] and model.feature_names_in_ == ["age", "site", "ill"] and model.n_features_in_ == 3
    numbers = IWDD(**TINY).fit(y, (t == "drug").astype(int), X=x)
    assert np.array_equal(numbers.effect(x), model.effect(x, T0="care", T1="drug")) and np.array_equal(model.effect(x, "drug", "care"), -numbers.effect(x))
    by_hand = np.column_stack([x["age"], *((x["site"] == s) for s in ("north", "south", "west")), ~x["ill"], x["ill"]]).astype(float)
    assert np.array_equal(IWDD(**TINY).fit(y, t, X=by_hand).effect(by_hand), model.effect(x))
    rows = model.sample(x, t, 3)
    assert np.array_equal(rows[t == "drug"], model.sample(x, "drug", 3)[t == "drug"])


def test_labels_sort_and_default_to_the_first_two():
    """Arms 7, 3, 5 become 3 < 5 < 7: effects run from 3 to 5 unless asked otherwise."""
    toy = table(1, n=120)
    label = np.array([7, 3, 5])[np.arange(120) % 3]
    model = IWDD(**TINY).fit(toy.y, label, X=toy.x)
    assert model.classes_.tolist() == [3, 5, 7] and np.array_equal(model.effect(toy.x), model.effect(toy.x, 3, 5))
    assert np.array_equal(model.const_marginal_effect(toy.x)[:, 1], model.effect(toy.x, T1=7))
    with pytest.raises(InputError, match="T1 is 0, which is not an arm.*the arms are 3, 5, 7"):
        model.effect(toy.x, T1=0)
    with pytest.raises(InputError, match="T is 4"):
        model.sample(toy.x, np.full(120, 4))


def test_another_table_is_named(named):
    x, t, y, model = named
    with pytest.raises(InputError, match="level 'east' in column 'site'"):
        model.effect(x.assign(site="east"))
    with pytest.raises(InputError, match="another order.*age, site, ill"):
        model.effect(x[["site", "age", "ill"]])
    with pytest.raises(InputError, match="has the column 'more'"):
        model.effect(x.assign(more=1))
    with pytest.raises(InputError, match="T has 3 entries but X has 160 rows"):
        model.outcome_interval(x, t[:3])


def test_extrapolation_is_said(device):
    """Arms apart in x_0: the diagnosis and the warning count the units below 0.05; where both arms are common, nothing is said."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2))
    t = (rng.random(400) < 1 / (1 + np.exp(-4 * x[:, 0]))).astype(int)
    model = IWDD(**TINY).fit(x[:, 1] + t + rng.normal(size=400), t, X=x)
    assert 0.1 < model.overlap_.below < 0.8 and (model.overlap_.ess < 0.8 * model.overlap_.rows).any()
    asked = np.array([[3.0, 0]] * 3 + [[0.0, 0]])
    for call in (model.effect, model.const_marginal_effect, model.ate, lambda a: model.effect_interval(a, alpha=0.2)):
        with pytest.warns(ExtrapolationWarning, match="75 % of the units asked have a propensity below 0.05 for one of the arms 0, 1"):
            call(asked)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.effect(asked[3:])
        model.effect(asked, 1, 1)


# --- scikit-learn's habits, seeds, files ----------------------------------------------------------------------------------


def test_scikit_learn_habits(named):
    model = IWDD(law="obs", width=32, random_state=4)
    assert clone(model).get_params() == model.get_params() and model.set_params(width=16).width == 16
    assert set(model.get_params()) == set(IWDD.__init__.__code__.co_varnames[1:IWDD.__init__.__code__.co_argcount])
    with pytest.raises(Exception, match="not fitted"):
        check_is_fitted(model)
    check_is_fitted(named[-1])
    assert not hasattr(clone(named[-1]), "classes_")


def test_same_seed_same_bits_and_frames_equal_arrays():
    toy = table(6, n=120)
    make = lambda seed: IWDD(teacher_rounds=20, distillation_rounds=8, width=16, random_state=seed)  # noqa: E731
    a = make(0).fit(toy.y, toy.t, X=toy.x).effect(toy.x)
    frame = pd.DataFrame(toy.x, columns=toy.covariates)
    b = make(0).fit(pd.Series(toy.y), pd.Series(toy.t), X=frame).effect(frame)
    assert np.array_equal(a, b)
    assert not np.array_equal(a, make(1).fit(toy.y, toy.t, X=toy.x).effect(toy.x))


@pytest.mark.parametrize("place", ["folder", "other.safetensors"])
def test_a_saved_estimator_predicts_the_same_bits(named, tmp_path, place):
    x, t, y, model = named
    file = model.save(tmp_path / place)
    assert file.name == ("iwdd.safetensors" if place == "folder" else place)
    again = IWDD.load(tmp_path / place)
    assert np.array_equal(again.effect(x, "care", "drug"), model.effect(x)) and np.array_equal(again.sample(x, t, 4), model.sample(x, t, 4))
    assert np.array_equal(again.outcome_interval(x, t, 0.2), model.outcome_interval(x, t, 0.2)) and again.score(y, t, X=x) == model.score(y, t, X=x)
    assert again.overlap_.frame().equals(model.overlap_.frame()) and again.overlap_.sentence() == model.overlap_.sentence()
    assert again.get_params() == model.get_params() and again.feature_names_in_ == model.feature_names_in_
    assert np.array_equal(IWDD.load(again.save(tmp_path / "twice")).effect(x), model.effect(x))
    ensemble = IWDD(**TINY, members=2).fit(y, t, X=x)
    assert np.array_equal(IWDD.load(ensemble.save(tmp_path / "two")).effect(x), ensemble.effect(x)) and not np.array_equal(ensemble.effect(x), model.effect(x))


def test_a_saved_file_holds_no_row_of_the_table(named, tmp_path):
    x, t, y, model = named
    tensors, meta = load_state(model.save(tmp_path), "gencausal.IWDD/1")
    rows = [v.numpy() for v in tensors.values() if v.is_floating_point()]
    assert not any(np.isin(np.round(column, 9), np.round(a, 9)).any() for column in (x["age"], y) for a in rows)
    assert max(v.shape[0] for v in tensors.values() if v.dim()) < len(x) and "checkpoint_folder" in meta["parameters"]


def test_broken_and_foreign_files_are_one_sentence(named, tmp_path):
    *_, model = named
    file = model.save(tmp_path)
    whole = file.read_bytes()
    for content in (whole[:-100], whole[:50], b"", b"not a file of weights at all"):
        file.write_bytes(content)
        with pytest.raises(InputError, match="iwdd.safetensors is not a whole file of IWDD.save"):
            IWDD.load(tmp_path)
    save_state(file, {"a": torch.zeros(2)}, {"config": "another"})
    with pytest.raises(InputError, match="not a whole file"):
        IWDD.load(file)
    save_state(file, {"a": torch.zeros(2)}, {"config": "gencausal.IWDD/1"})
    with pytest.raises(InputError, match="not a whole file"):
        IWDD.load(file)
    with pytest.raises(InputError, match="no file iwdd.safetensors"):
        IWDD.load(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="not fitted"):
        IWDD().save(tmp_path)
    json.dumps(IWDD(random_state=np.int64(3)).get_params(), default=int)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("stage", ["teacher", "generator"])
def test_a_killed_fit_continues_to_the_same_bits(tmp_path, monkeypatch, stage):
    """kill -9 in the teacher's or the generator's training, fit again: the effects equal those of an uninterrupted fit."""
    toy = table(3)
    make = lambda folder: IWDD(teacher_rounds=30, distillation_rounds=12, width=16, checkpoint_folder=folder)  # noqa: E731
    straight = make(None).fit(toy.y, toy.t, X=toy.x).effect(toy.x)
    calls, loss, checkpoint_all = [0], outcomes.edm_loss if stage == "teacher" else outcomes.sid_loss, outcomes.fit
    monkeypatch.setattr(outcomes, "fit", lambda *a, **k: checkpoint_all(*a, **(k | {"checkpoint_seconds": 0})))

    def killing(*arguments):
        calls[0] += 1
        if calls[0] == 8:
            raise Killed
        return loss(*arguments)

    monkeypatch.setattr(outcomes, loss.__name__, killing)
    with pytest.raises(Killed):
        make(str(tmp_path)).fit(toy.y, toy.t, X=toy.x)
    kept = sorted(p.name.split("-")[0] for p in tmp_path.iterdir())
    assert kept == (["teacher"] if stage == "teacher" else ["generator", "teacher"])
    monkeypatch.setattr(outcomes, loss.__name__, loss)
    assert np.array_equal(make(str(tmp_path)).fit(toy.y, toy.t, X=toy.x).effect(toy.x), straight)


# --- one sentence for what cannot be used -----------------------------------------------------------------------------------


@pytest.mark.parametrize("change, message", [
    (dict(Y=np.r_[np.nan, np.arange(59.0)]), "Y holds nan in row 0"),
    (dict(Y=np.ones(60)), "Y is constant"),
    (dict(Y=np.arange(60) % 2), "values 0 and 1 only; IWDD models a continuous outcome"),
    (dict(Y=["low", "high"] * 30), "Y holds 'low', which is no number"),
    (dict(Y=np.arange(59.0)), "Y has 59 entries"),
    (dict(T=np.zeros(60)), "T has one arm only"),
    (dict(T=np.linspace(0, 1, 60)), "T takes 60 values, as a continuous treatment does"),
    (dict(T=np.r_[np.ones(3), np.zeros(57)]), r"an arm \(1\) of 3 units"),
    (dict(T=np.r_[np.nan, np.arange(59) % 2]), "T has 1 missing"),
    (dict(X=np.full((60, 2), np.inf)), "X holds inf in row 0, column 0"),
    (dict(X=np.arange(60.0)), "X must be a table"),
    (dict(X=[["a", "b"]] * 60), "X must hold numbers only"),
    (dict(X=None), "X is missing"),
    (dict(W=np.zeros((60, 1))), "W has 'W', which X lacks"),
    (dict(X=pd.DataFrame({"a": range(60)}), W=pd.DataFrame({"b": range(60)})), "W has 'b', which X lacks"),
])
def test_bad_input_is_one_sentence(change, message):
    rng = np.random.default_rng(0)
    arguments = {"Y": rng.normal(size=60), "T": np.arange(60) % 2, "X": rng.normal(size=(60, 2)), "W": None} | change
    with pytest.raises(InputError, match=message):
        IWDD().fit(arguments["Y"], arguments["T"], X=arguments["X"], W=arguments["W"])


@pytest.mark.parametrize("parameter, value", [("law", "random"), ("divergence", "kl"), ("teacher_rounds", 0), ("members", 0), ("n_draws", 1.5), ("n_draws", 1), ("validation_share", 1.0), ("device", "tpu"),
                                              ("device", None), ("random_state", None), ("alpha", float("nan")), ("gate_penalty", -1.0), ("gate_penalty", "a")])
def test_bad_parameters_are_named(parameter, value):
    toy = table(0, n=80)
    with pytest.raises(InputError, match=parameter):
        IWDD(**{parameter: value}).fit(toy.y, toy.t, X=toy.x)


def test_too_few_rows_unfitted_and_wrong_columns(fitted):
    toy, model = fitted
    with pytest.raises(InputError, match="at least 50"):
        IWDD().fit(toy.y[:40], toy.t[:40], X=toy.x[:40])
    with pytest.raises(InputError, match="not fitted"):
        IWDD().effect(toy.x)
    with pytest.raises(InputError, match="X has 3 columns but 4"):
        model.effect(toy.x[:, :3])
    small = IWDD(**TINY).fit(toy.y[:60], toy.t[:60], X=toy.x[:60])
    with pytest.raises(InputError, match="6 held-out rows cannot calibrate a level of 0.9, which needs 9"):
        small.outcome_interval(toy.x, 0)
    assert len(small.outcome_interval(toy.x, 0, calibrated=False)[0]) == len(small.outcome_interval(toy.x, 0, alpha=0.3)[0]) == len(toy.x)


# --- beside econml and inside dowhy ---------------------------------------------------------------------------------------


def test_econml_scores_it_beside_its_own_learners(fitted):
    """R-score (Nie and Wager): IWDD is taken as it is; it beats a constant effect, and the scorer chooses among all."""
    pytest.importorskip("econml", reason="econml is not installed")
    from econml.metalearners import TLearner
    from econml.score import RScorer
    from sklearn.linear_model import LinearRegression, LogisticRegression

    toy, model = fitted
    x, t, y = toy.x[toy.test], toy.t[toy.test], toy.y[toy.test]
    scorer = RScorer(model_y=LinearRegression(), model_t=LogisticRegression(), discrete_treatment=True, cv=3, random_state=0).fit(y, t, X=x)
    learner = TLearner(models=LinearRegression()).fit(toy.y[toy.train], toy.t[toy.train], X=toy.x[toy.train])
    tiny = IWDD(**TINY).fit(toy.y[toy.train], toy.t[toy.train], X=toy.x[toy.train])
    best, score, scores = scorer.best_model([tiny, model, learner], return_scores=True)
    assert best in (model, learner) and scores[1] > 0.2 > scores[0] and score == max(scores)
    assert np.corrcoef(learner.effect(x), model.effect(x))[0, 1] > 0.9


def test_dowhy_estimates_and_refutes_it():
    """dowhy's econml wrapper takes an IWDD. Refuters refit it: a permuted treatment moves the effect to about zero, a random common cause and a
    subset of the rows leave it."""
    pytest.importorskip("dowhy", reason="dowhy is not installed")
    from dowhy import CausalModel
    from dowhy.causal_estimators.econml import Econml
    from dowhy.causal_refuters import refute_data_subset, refute_placebo_treatment, refute_random_common_cause
    from gencausal.estimators import metalearners

    rng = np.random.default_rng(0)
    data = pd.DataFrame({"a": rng.normal(size=250), "b": rng.normal(size=250)})
    data["t"] = (rng.random(250) < 1 / (1 + np.exp(-data["a"]))).astype(int)
    data["y"] = data["a"] + 2 * data["t"] + 0.3 * rng.normal(size=250)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimand = CausalModel(data, "t", "y", common_causes=["a", "b"]).identify_effect(proceed_when_unidentifiable=True)
        estimand.set_identifier_method("backdoor")
        method = Econml(estimand, metalearners.IWDD(teacher_rounds=100, distillation_rounds=40, width=24, n_draws=20))
        estimate = method.fit(data).estimate_effect(data, control_value=0, treatment_value=1)
        assert estimate.value == pytest.approx(method.estimator.ate(data[method.estimator.feature_names_in_]), abs=1e-5) and estimate.value == pytest.approx(2, abs=0.5)
        placebo = refute_placebo_treatment(data, estimand, estimate, "t", placebo_type="permute", num_simulations=2, random_state=0)
        assert abs(placebo.new_effect) < 0.5 < 1.5 < abs(estimate.value)
        for refute in (refute_random_common_cause, refute_data_subset):
            assert refute(data, estimand, estimate, num_simulations=2, random_state=0).new_effect == pytest.approx(estimate.value, abs=0.5)
