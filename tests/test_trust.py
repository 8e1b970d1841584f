"""Scores of trust with frames whose answers are known, trajectories with closed forms, and one tiny run of the whole."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

from gencausal import claims, image_metrics, solvers
from gencausal.counterfactual import Sampling, abduct, guided, read
from gencausal.experiments import pictures, trust
from gencausal.image_models import guided as models

SIZE = 16


@pytest.fixture(scope="module")
def bench():
    return pictures.bench("pendulum", 20, 0, size=SIZE)


def frame(units=20, targets=("angle", "light"), noise=0.1):
    """Errors, a score that is nearly the error, one that is noise."""
    rng, parts = np.random.default_rng(0), []
    for target in targets:
        error = rng.gamma(2, 0.2, units)
        hal = np.exp(np.log(error) + noise * rng.standard_normal(units))
        parts.append(pd.DataFrame({"target": target, "unit": range(units), "hal_2": hal, "hal": hal, "reconstruction": rng.random(units), "residual": error, "disagreement": rng.random(units), "three_features": rng.random(units),
                                   "error": error, "missed": error > 0.5, "outside": error > 0.8}))
    return pd.concat(parts, ignore_index=True)


def test_the_mean_of_the_parts_is_spearmans_correlation():
    """Eq. spearman: ties share their rank; any increasing map of score or error leaves it; blocks of ten average to it."""
    made = frame()
    made["reconstruction"] = made["reconstruction"].round(1)  # ties
    parts = trust.agreement(made, "reconstruction")
    by_hand = [spearmanr(g["reconstruction"], g["error"]).statistic for _, g in made.groupby("target", sort=False)]
    assert parts.shape == (20,) and parts.mean() == pytest.approx(np.mean(by_hand))
    np.testing.assert_allclose(trust.agreement(made.assign(reconstruction=np.exp(made["reconstruction"])), "reconstruction"), parts)
    assert trust.agreement(made, "residual").mean() == pytest.approx(1) and trust.agreement(made.assign(residual=-made["residual"]), "residual").mean() == pytest.approx(-1)
    rows = pictures.blocks("d", "all", "m", 0, "e", {"spearman": parts})
    assert np.mean([row["value"] for row in rows]) == pytest.approx(parts.mean()) and len(rows) == 2
    assert np.isnan(trust.agreement(made.assign(hal=1.0), "hal")).all(), "a constant score says nothing"


def test_intervals_of_the_difference():
    """A score that is nearly the error beats noise with an interval above zero; against itself the difference is zero throughout; the interval of a score holds its value."""
    made = trust.differences(frame(40)).set_index("score")
    assert made.loc["hal", "gap low"] > 0 and made.loc["hal", "low"] < made.loc["hal", "spearman"] < made.loc["hal", "high"] <= 1
    assert (made.loc["reconstruction", ["minus reconstruction", "gap low", "gap high"]] == 0).all()
    assert made.loc["disagreement", "gap low"] < 0 < made.loc["disagreement", "gap high"]
    reverse = trust.differences(frame(40), against="hal").set_index("score")
    assert reverse.loc["reconstruction", "gap high"] < 0


def test_few_units_have_no_interval_and_raise_no_warning():
    """Of two units most resamples hold one alone, which has no rank; what is not defined is NaN, silently, and with a second target the other's resamples remain."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trust.differences(frame(2))["low"].isna().all()
    np.testing.assert_array_equal(trust._mean_where_defined(np.array([[1.0, np.nan, np.nan], [3.0, 2.0, np.nan]])), [2.0, 2.0, np.nan])


def test_filters_drop_the_highest_scores():
    score = np.arange(50.0)
    assert np.flatnonzero(~trust.kept(score)).tolist() == [48, 49] and trust.kept(score[:10]).sum() == 9
    assert (~trust.kept(-score, 0.5)).nonzero()[0].tolist() == list(range(25))


def test_rows_of_a_known_frame(bench):
    made = pd.DataFrame(trust.rows(bench, frame(targets=tuple(bench.targets)), 3))
    value = lambda method, metric: made[(made["method"] == method) & (made["metric"] == metric)]["value"].mean()  # noqa: E731
    assert value("residual", "spearman") == pytest.approx(1) and value("residual", "auroc") == 1 and value("residual_outside", "auroc") == 1
    assert value("kept_residual", "factor_error") == value("kept_truth", "factor_error") < value("kept_reconstruction", "factor_error") and value("kept_truth", "factor_error") < value("kept_all", "factor_error")
    assert value("kept_residual", "share_removed") > value("kept_reconstruction", "share_removed")
    assert set(made["experiment"]) == {"A2.B2-E4"} and set(made[made["metric"] == "spearman"]["unit"]) == {"all/0", "all/1"} and len(claims.tidy(made, "smoke")) == len(made)
    calm = frame(targets=tuple(bench.targets)).assign(missed=False)
    rows = trust.rows(bench, calm, 0)
    assert not [r for r in rows if r["metric"] == "share_removed" or (r["metric"] == "auroc" and r["method"] == "hal")], "what is undefined is no row"


def test_rule_of_the_claim(bench):
    rows = [row for seed in (0, 1) for row in trust.rows(bench, frame(targets=tuple(bench.targets)), seed)]
    found = claims.verdict(claims.find("A2.C27d"), claims.tidy(rows, "smoke"))
    assert found.parts[0].verdict == "reproduced in direction" and found.parts[0].ours > 0.5


def test_hal_of_a_straight_trajectory():
    """Eq. hal: predictions i v over the last K steps have variance (K^2 - 1) / 12 times the mean square of v; earlier steps do not count."""
    counter, v = [], torch.tensor([[1.0, 2.0]], dtype=torch.float64)

    def denoise(x, alpha, sigma):
        counter.append(1)
        return (1000.0 if len(counter) <= 10 else len(counter)) * v

    _, hal = trust.toy_trajectory(denoise, torch.zeros(1, 2, dtype=torch.float64), solvers.grid(solvers.vp_levels(), 20))
    assert trust.last_steps(20) == 10 and hal == pytest.approx((100 - 1) / 12 * 2.5)
    assert [trust.last_steps(n) for n in (3, 6, 1000)] == [2, 3, 10]
    flat, none = trust.toy_trajectory(lambda x, alpha, sigma: 0 * x + 1, torch.zeros(1, 2, dtype=torch.float64), solvers.grid(solvers.vp_levels(), 20))
    assert none == 0


def test_exact_scores_leave_hal_nothing_to_find():
    """Every level: no point beyond six sds, and Hal far below a mode's variance. Few steps: many such points from the solver alone."""
    rows = pd.DataFrame(trust.exact_control([0], starts=200, steps=(10, 999)))
    value = rows.pivot(index="unit", columns="metric", values="value")
    assert value.loc["999 steps", "hallucination_rate"] == 0 and value.loc["999 steps", "hallucination"] < 1e-5 and np.isnan(value.loc["999 steps", "auroc"])
    assert value.loc["10 steps", "hallucination_rate"] > 0.7 and value.loc["10 steps", "hallucination"] > value.loc["999 steps", "hallucination"]


def test_images_outside_the_support(bench):
    assert not trust.outside(bench, bench.images).any()
    assert trust.outside(bench, torch.ones_like(bench.images)).all(), "nothing can be read from a blank"
    x = bench.images.clone()
    ball = (x[:, 0] - x[:, 2] > 0.1) & (torch.arange(SIZE)[:, None] > 5)
    assert trust.outside(bench, torch.where(ball[:, None], torch.ones_like(x), x)).all(), "a ball that is missing, all else in its range"
    factors = bench.scenes.factors[bench.rows].clone()
    factors[:5, 0] = 60
    assert trust.outside(bench, bench.render(factors)).tolist() == [True] * 5 + [False] * 15
    errors = trust.reading_errors(bench, torch.ones_like(bench.images), bench.z)
    assert (errors == image_metrics.MISSING).mean() > 0.5


def test_three_features_find_what_lies_apart():
    """Eq. three: twelve of sixty units off the line on which the three logs lie, inside the range of each; a shape that they had drawn to themselves would hide them. The units of the features do not matter."""
    rng = np.random.default_rng(0)
    features = np.exp(rng.standard_normal((60, 1)) + 0.05 * rng.standard_normal((60, 3)))
    features[:12] *= np.exp([0.7, -0.7, 0])
    distance = trust.three_features(features)
    assert distance[:12].min() > 3 * distance[12:].max()
    np.testing.assert_allclose(trust.three_features(features * [1e-3, 5, 80]), distance, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:Determinant has increased")
def test_watched_end_to_end(bench):
    """Without fresh noise, which is drawn batch by batch. Every unit once a target; the same in any batches; the reconstruction is that of the gates (Eq. round-trip); with guidance off the images are the round trip."""
    images, z = bench.training
    denoiser = models.train_generator(images[:100], models.GeneratorConfig(prediction="v", rounds=3, batch=8, width=16, blocks=1, score_every=3), 0).modules["generator"].requires_grad_(False)
    guide = models.make_guide(models.GuideConfig(width=16), 3, SIZE, bench.mask, 0).requires_grad_(False)
    sampling = Sampling(steps=4, start=0.75, spacing="uniform", eta=0.0)
    found = trust.watched(bench, denoiser, guide, sampling, 0)
    assert len(found) == 4 * 20 and not found.isna().any().any() and {"hal_2", "hal"} <= set(found) and (found["hal"] == found["hal_2"]).all()
    again = trust.watched(bench, denoiser, guide, sampling, 0, batch=7)
    for column in ("hal", "reconstruction", "residual", "disagreement", "error"):
        np.testing.assert_allclose(again[column], found[column], rtol=1e-2, atol=1e-4)
    gate = [row["value"] for row in pictures.gates(bench, denoiser, guide, sampling, 0) if row["method"] == "round_trip" and row["metric"] == "composition"]
    assert found[found["target"] == "angle"]["reconstruction"].mean() == pytest.approx(np.mean(gate), rel=1e-3)
    off = trust.watched(bench, denoiser, guide, Sampling(steps=4, start=0.75, spacing="uniform", eta=0.0, kappa=0.0), 0)
    trips = off.groupby("target")["hal"].apply(lambda g: g.to_numpy())
    np.testing.assert_allclose(trips["angle"], trips["light"], rtol=1e-4)
    assert not np.allclose(found["hal"], off["hal"], rtol=1e-3, atol=0)
    strong = trust.watched(bench, denoiser, guide, Sampling(steps=4, start=0.75, spacing="uniform", eta=0.0, kappa=3.0), 0).query("target == 'angle'")  # Eq. hal and Eq. residual by hand
    x, grid, trace = 2 * bench.images - 1, sampling.grid(), []
    aim = guide.scm.counterfactual(read(guide, x, grid), {0: bench.targets["angle"][1].float()})
    drawn = guided(denoiser, guide, abduct(denoiser, x, grid), aim, Sampling(steps=4, start=0.75, spacing="uniform", eta=0.0, kappa=3.0), grid, trace=trace)
    hal, first, residual, late = trace[-2:], trace[:2], (aim - read(guide, drawn, grid)).norm(dim=1), (aim - read(guide, trace[-1], grid)).norm(dim=1)
    np.testing.assert_allclose(strong["hal_2"], image_metrics.hallucination(torch.stack(hal).numpy()), rtol=1e-3)
    np.testing.assert_allclose(strong["residual"], residual, rtol=1e-4)
    assert not np.allclose(image_metrics.hallucination(torch.stack(first).numpy()), strong["hal_2"], rtol=1e-2) and not torch.allclose(late, residual, rtol=2e-4)
