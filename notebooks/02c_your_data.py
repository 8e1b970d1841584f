# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your data: effects, overlap and calibrated outcomes of one table
#
# **Question.** What does a table of your own say about the effect of a treatment on a continuous outcome: for whom is it large, where does the
# table hold no answer, and how far would single outcomes scatter?
#
# Set `data_path` to a CSV or Parquet file and name the columns `treatment`, `outcome` and, if not all others, `covariates`:
#
# ```
# gencausal run 02c_your_data --profile laptop --set data_path=trial.csv --set treatment=drug --set outcome=change
# ```
#
# Without a path the notebook takes setting 1 of ACIC 2016 as if it were such a file: real covariates of 4,802 births, simulated treatment and outcome.
# There the truth is known, and one marked cell reads it (`iwdd.own`). The estimator is `gencausal.estimators.IWDD`, a conditional diffusion model
# distilled to one step (`01_diffusion_pretraining`, `02a_score_distillation`). It calls for three assumptions:
#
# - *unconfoundedness*: every common cause of treatment and outcome is among the covariates. **No table can test this**;
# - *overlap*: each kind of unit is found in every arm. Checked below;
# - *consistency*: the treatment is one well-defined thing, and one unit's treatment does not change another's outcome.

# %%
import warnings
from pathlib import Path

warnings.filterwarnings("ignore", message="IProgress not found")  # of tqdm, which econml imports; it concerns a progress bar

import numpy as np
import pandas as pd
from econml.dml import CausalForestDML
from econml.metalearners import TLearner
from econml.score import RScorer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from gencausal import claims, figures, metrics, paths
from gencausal.data import acic, files, registry
from gencausal.estimators import IWDD, overlap
from gencausal.estimators.encoding import Encoder
from gencausal.seeding import numpy_generator

# %% tags=["parameters"]
profile = "smoke"  # study profile: smoke, laptop, full or paper
data_path = ""  # CSV, TSV or Parquet file; empty: ACIC 2016, setting 1
treatment = "z"  # column of the arms, text or numbers; the first in sorted order is the control
outcome = "y"  # column of the outcome, continuous
covariates = []  # columns to adjust for; empty: all others
seeds = [0]  # one estimator each
teacher_rounds = 150  # optimiser steps of the diffusion model
distillation_rounds = 80  # generator steps
width = 48  # trunk width
draws = 40  # draws a unit and arm
trees = 100  # trees of the causal forest beside it
device = "auto"  # auto, cpu, cuda or mps

# %% [markdown]
# ## The table
#
# Bad files stop here with one sentence: a missing or double column, missing values (nothing is imputed), one arm only, an outcome that is no
# number, constant or binary, fewer than 50 rows. A fifth of the rows, drawn at random, is kept apart for judging; fitting and
# choosing see the others only. (The other notebooks split ACIC 2016 by file order, as its users do; that order is not random, and a guarantee for
# exchangeable rows does not hold across it.)

# %%
if data_path:
    name = Path(data_path).name
    x, t, y = files.read_table(data_path, treatment, outcome, covariates)
else:
    name, table = "ACIC 2016, setting 1", acic.load(1)
    frame = pd.read_csv(registry.fetch("acic2016", "x.csv")).assign(**{treatment: table.t, outcome: table.y})
    x, t, y = files.choose(frame, treatment, outcome, covariates, name)
test, train = np.split(numpy_generator(0, "own", "split").permutation(len(x)), [len(x) // 5])
x_train, x_test = (x.iloc[rows].reset_index(drop=True) for rows in (train, test))
(t_train, y_train), (t_test, y_test) = ((t.to_numpy()[rows], y.to_numpy()[rows]) for rows in (train, test))
encoder = Encoder.fit(x)
levels = [c for c, known in zip(encoder.names, encoder.levels) if known is not None]
print(f"{name}: {len(x)} rows ({len(train)} to fit, {len(test)} to judge), {x.shape[1]} covariates, {len(levels)} of them with levels{' (' + ', '.join(levels[:5]) + ')' if levels else ''}, {len(encoder.features)} features once encoded, no value missing.")

# %%
arms = np.unique(t.to_numpy())
figures.table(pd.DataFrame([{"arm": str(arm), "role": "control" if i == 0 else "treatment", "units": int((t == arm).sum()), "share": (t == arm).mean(), "mean outcome": y[t == arm].mean(), "sd": y[t == arm].std()} for i, arm in enumerate(arms)]))

# %%
fig, axes = figures.new(height=2.4)
bins = np.histogram_bin_edges(y, 40)
for i, arm in enumerate(arms):
    axes.hist(y[t == arm], bins, density=True, histtype="step", linewidth=1.6, linestyle=["-", "--", ":", "-."][i % 4], color=figures.PALETTE[i % 8], label=f"{treatment} = {arm}")
axes.set_xlabel(outcome)
axes.set_ylabel("density")
axes.legend(frameon=False)
figures.show(fig, alt="Histogram of the outcome in each arm; means " + ", ".join(f"{y[t == arm].mean():.3g} in arm {arm}" for arm in arms) + ".", caption="Outcomes by arm. Their difference is no effect: the arms differ in covariates too.")

# %% [markdown]
# ## Overlap
#
# The propensity $e_k(x) = P(T = k \mid x)$, cross-fitted in five folds. The effective sample size (`Eq. ess`)
# $(\sum_i w_i)^2 / \sum_i w_i^2$ of the weights $w_i = 1/e_{t_i}(x_i)$ of an arm says for how many equally weighted units it stands. Where $e_k(x)$ is
# below 0.05 there is next to no unit of arm $k$ to learn from, and an effect there is the model's extrapolation. The logistic model sees linear
# separation alone, and the estimator's warnings rest on it; boosting may see more, and its own estimation error adds to its tails. A sample size of a
# few units says that a few weights carry everything: overlap fails there, or that model of the propensity does.

# %%
index, index_test = np.searchsorted(arms, t_train), np.searchsorted(arms, t_test)
features = encoder.transform(x_train)
found = {model: overlap.diagnose(index, overlap.crossfitted(features, index, 0, model), arms.tolist()) for model in overlap.MODELS}
figures.table(pd.concat([d.frame().assign(model=model) for model, d in found.items()], ignore_index=True).pipe(lambda f: f[["model", *f.columns[:-1]]]))

# %%
shown = found["logistic"]
fig, panels = figures.new(height=2.3 * (len(arms) - 1), rows=len(arms) - 1, squeeze=False)
for k, axes in enumerate(panels[:, 0], start=1):
    for j, arm in enumerate(arms):
        axes.stairs(shown.counts[k, j], shown.edges, color=figures.PALETTE[j % 8], linewidth=1.6, linestyle=["-", "--", ":", "-."][j % 4], label=f"{treatment} = {arm}")
    axes.axvline(shown.bound, color="0.4", linestyle=":", linewidth=1.2)
    axes.axvline(1 - shown.bound, color="0.4", linestyle=":", linewidth=1.2)
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"propensity of {treatment} = {arms[k]}")
    axes.set_ylabel("units")
panels[0, 0].legend(frameon=False)
figures.show(fig, alt=f"Histograms of the cross-fitted propensity in each arm. {shown.sentence()}", caption="Overlap of the arms. Dotted: 0.05 and 0.95; outside of them one arm is nearly absent.")
print("\n".join(f"{model}: {d.sentence()}" for model, d in found.items()))

# %% [markdown]
# ## Fit
#
# Text and category columns become indicators of all their levels (`Eq. encode`). A tenth of the fitted rows chooses the stopping round and calibrates.

# %%
make = IWDD(teacher_rounds=teacher_rounds, distillation_rounds=distillation_rounds, width=width, n_draws=draws, device=device, checkpoint_folder=str(paths.build(profile) / "checkpoints"))
models = {seed: IWDD(**make.get_params() | {"random_state": seed}).fit(y_train, t_train, X=x_train) for seed in seeds}

# %%
curve = pd.DataFrame([{"stage": stage, "seed": seed, "step": entry["round"], "crps": np.mean(entry["crps"])} for seed, model in models.items()
                      for stage, trainings in (("diffusion model", model.teacher_trainings_), ("one-step generator", model.distillation_trainings_)) for training in trainings for entry in training.scores])
fig, axes = figures.new(height=2.4)
for i, (stage, rows) in enumerate(curve.groupby("stage", sort=False)):
    mean = rows.groupby("step")["crps"].mean()
    axes.plot(mean.index, mean, marker="os"[i], markersize=5, color=figures.PALETTE[i], label=stage)
axes.set_ylim(0)
axes.set_xlabel("training step of its stage")
axes.set_ylabel("held-out CRPS")
axes.legend(frameon=False)
last = curve.groupby("stage", sort=False)["crps"].last()
figures.show(fig, alt="Held-out CRPS against the training step of both stages; at the end " + ", ".join(f"{stage} {value:.3g}" for stage, value in last.items()) + ".", caption="Held-out CRPS of factual outcomes, mean over seeds; lower is better. The generator should end near the diffusion model it was distilled from.")

# %% [markdown]
# ## Effects
#
# $\hat\tau_k(x) = \hat{\mathbb E}[Y(k) \mid x] - \hat{\mathbb E}[Y(0) \mid x]$ (`Eq. effect`) of every row, seeds averaged. The interval of the average effect is a bootstrap
# over units of effects that are estimated once a seed: it tells how the average would move with other units, **not** how it would move had the
# model seen another table, and is too narrow as a confidence interval; the range over seeds shows part of what it leaves out.

# %%
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    by_seed = np.stack([model.const_marginal_effect(x) for model in models.values()])  # [seeds, n, K - 1]
extrapolated = next((str(w.message) for w in said if issubclass(w.category, overlap.ExtrapolationWarning)), "No unit lies where an arm is nearly absent.")
effects = by_seed.mean(0)
average = {str(arm): metrics.bootstrap_mean(effects[:, k], np.random.default_rng(0)) for k, arm in enumerate(arms[1:])}
figures.table(pd.DataFrame([{"arm": arm, "average effect": a.mean, "low": a.low, "high": a.high, "lowest seed": by_seed[:, :, k].mean(1).min(), "highest seed": by_seed[:, :, k].mean(1).max(),
                             "sd over units": effects[:, k].std(), "share above zero": (effects[:, k] > 0).mean(), "difference of arm means": y[t == arms[k + 1]].mean() - y[t == arms[0]].mean()} for k, (arm, a) in enumerate(average.items())]))
print(extrapolated)

# %%
fig, axes = figures.new(height=2.4)
for k, arm in enumerate(arms[1:]):
    axes.hist(effects[:, k], 40, histtype="step", linewidth=1.6, color=figures.PALETTE[(k + 1) % 8], label=f"{treatment} = {arm}")
    axes.axvline(effects[:, k].mean(), color=figures.PALETTE[(k + 1) % 8], linestyle="--", linewidth=1.2)
axes.axvline(0, color="0.4", linestyle=":", linewidth=1.2)
axes.set_xlabel(f"effect on {outcome} against {treatment} = {arms[0]}")
axes.set_ylabel("units")
axes.legend(frameon=False)
figures.show(fig, alt="Histogram of the estimated effects of all rows: " + "; ".join(f"arm {arm} from {effects[:, k].min():.3g} to {effects[:, k].max():.3g}, mean {effects[:, k].mean():.3g}" for k, arm in enumerate(arms[1:])) + ".", caption="Estimated effects of all rows; dashed: their mean, dotted: zero. An estimate's own error widens such a histogram, and shrinkage narrows it.")

# %% [markdown]
# The rows with the smallest and largest effect of the first treatment, with the features that go along with the effect most. Extremes of an
# estimate are extremes of its error too: read them as candidates.

# %%
z = encoder.transform(x)
varies = np.flatnonzero(z.std(0) > 0)
strength = np.abs([np.corrcoef(z[:, j], effects[:, 0])[0, 1] for j in varies])
leading = [encoder.features[j] for j in varies[np.argsort(-np.nan_to_num(strength), kind="stable")[:4]]]
order = np.argsort(effects[:, 0], kind="stable")
extremes = np.r_[order[:5], order[-5:]]
propensity = models[seeds[0]].propensity_.predict(z)
figures.table(pd.DataFrame({"row": extremes, treatment: t.to_numpy()[extremes].astype(str), outcome: y.to_numpy()[extremes], "effect": effects[extremes, 0], f"propensity of {arms[1]}": propensity[extremes, 1],
                            **{feature: z[extremes, encoder.features.index(feature)] for feature in leading}}))

# %% [markdown]
# ## Outcomes
#
# Central 90 % intervals of $Y(t)$, as drawn and after calibration on held-out rows: split-conformal on the quantile scale (`Eq. cqr-offset`; Romano, Patterson
# and Candès 2019) widens or narrows them by one offset an arm and then covers a new outcome of the factual arm with probability at least 0.9 on average
# over units. Judged on the rows kept apart. Single outcomes scatter far more than effects.

# %%
coverage = []
for seed, model in models.items():
    for calibrated in (False, True):
        low, high = model.outcome_interval(x_test, t_test, alpha=0.1, calibrated=calibrated)
        inside = (low <= y_test) & (y_test <= high)
        coverage.append({"intervals": "calibrated" if calibrated else "as drawn", "seed": seed, "coverage": inside.mean(), "median width": np.median(high - low)} | {f"coverage in arm {arm}": inside[t_test == arm].mean() for arm in arms if (t_test == arm).any()})
coverage = pd.DataFrame(coverage)
figures.table(coverage.drop(columns="seed").groupby("intervals", sort=False).mean().reset_index())

# %% [markdown]
# ## Beside other learners
#
# econml's T-learner with gradient boosting and its causal forest on the same rows. Without truth, effects can be compared in agreement and by
# the R-score (Nie and Wager 2021; Schuler et al. 2018): the share of the residual outcome's variance that $\hat\tau(x)$ times the residual treatment explains on the rows
# kept apart, above that of a constant effect. It is noisy where effects vary little, and below zero it says: worse than one constant.

# %%
boosting = HistGradientBoostingRegressor(max_iter=100, learning_rate=0.08, max_leaf_nodes=15, min_samples_leaf=10, early_stopping=False, random_state=0)
classifier = HistGradientBoostingClassifier(max_iter=60, learning_rate=0.08, max_leaf_nodes=15, min_samples_leaf=10, early_stopping=False, random_state=0)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    others = {"T-learner, boosting": TLearner(models=boosting).fit(y_train, index, X=features),
              "causal forest": CausalForestDML(model_y=boosting, model_t=classifier, discrete_treatment=True, cv=2, n_estimators=trees, random_state=0, n_jobs=1).fit(y_train, index, X=features)}
    scorer = RScorer(model_y=boosting, model_t=classifier, discrete_treatment=True, cv=3, random_state=0).fit(y_test, index_test, X=encoder.transform(x_test))
    estimates = {"IWDD": effects} | {method: np.asarray(learner.const_marginal_effect(z)).reshape(len(z), -1) for method, learner in others.items()}
    r_score = {"IWDD": np.mean([scorer.score(model) for model in models.values()])} | {method: scorer.score(learner) for method, learner in others.items()}
figures.table(pd.DataFrame([{"method": method, "average effect": e[:, 0].mean(), "sd over units": e[:, 0].std(), "correlation with IWDD": np.corrcoef(e[:, 0], effects[:, 0])[0, 1], "R-score": r_score[method]} for method, e in estimates.items()]))

# %% [markdown]
# ## Placebo
#
# The treatment is permuted over the rows and everything is fitted again: an estimator that still finds an effect invents it. (Not finding one says
# nothing of hidden confounding. dowhy's refuters run on `gencausal.estimators.metalearners.IWDD`; the example is in `tests/test_iwdd.py`.)

# %%
permuted = numpy_generator(0, "own", "placebo").permutation(t_train)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", overlap.ExtrapolationWarning)
    placebo = IWDD(**make.get_params() | {"random_state": seeds[0]}).fit(y_train, permuted, X=x_train).const_marginal_effect(x)
noise = np.array([y_train.std() * np.sqrt(1 / (permuted == arms[0]).sum() + 1 / (permuted == arm).sum()) for arm in arms[1:]])
figures.table(pd.DataFrame([{"arm": str(arm), "average effect, permuted": placebo[:, k].mean(), "standard error of arm means": noise[k], "average effect, as observed": effects[:, k].mean(), "sd over units, permuted": placebo[:, k].std(), "as observed": effects[:, k].std()} for k, arm in enumerate(arms[1:])]))

# %% [markdown]
# ## The truth, where it is known: `iwdd.own`
#
# **The only cell that reads it, and only for the simulated table**: the true $\mu_1 - \mu_0$ of the rows kept apart. Your own table has no such cell, and records nothing.

# %%
results = claims.open_results(notebook="02c_your_data", profile=profile)
if not data_path:
    truth, base = (table.mu[:, 1] - table.mu[:, 0])[test], {"experiment": "iwdd.own", "dataset": table.name, "unit": table.unit, "n": len(test)}
    scored = {("iwdd", seed): by_seed[s, test, 0] for s, seed in enumerate(seeds)} | {("hgb_t_econml", 0): estimates["T-learner, boosting"][test, 0], ("causal_forest", 0): estimates["causal forest"][test, 0]}
    for (method, seed), tau in scored.items():
        results.record([base | {"method": method, "seed": seed, "metric": metric, "value": value} for metric, value in (("pehe_normalised", metrics.pehe_normalised(tau, truth, table.mu)), ("ate_error", metrics.ate_error(tau, truth)))])
    results.record([base | {"method": "iwdd" if row.intervals == "as drawn" else "iwdd_calibrated", "seed": row.seed, "metric": "coverage_90", "value": row.coverage} for row in coverage.itertuples()])
    results.record([base | {"method": "iwdd_placebo", "seed": seeds[0], "metric": "ate_error", "value": abs(placebo[test, 0].mean())}])
    figures.table(results.rows.groupby(["method", "metric"], sort=False)["value"].mean().unstack("metric").reset_index())

# %%
results.save()
print(f"{name}, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}: " + "; ".join(f"average effect of {treatment} = {arm} {a.mean:.3g} [{a.low:.3g}, {a.high:.3g}]" for arm, a in average.items())
      + f"; calibrated 90 % intervals cover {coverage.loc[coverage['intervals'] == 'calibrated', 'coverage'].mean():.3g} of the outcomes kept apart; a permuted treatment gives {placebo[:, 0].mean():.2g}. {shown.sentence()}")

# %% [markdown]
# ## What to be careful about
#
# - **Unconfoundedness cannot be tested.** A common cause that was not measured shifts every number here, and neither the placebo nor the R-score notices.
#   Adjust for what came before the treatment, never for what the treatment changes.
# - **Where overlap fails, effects are extrapolated.** Restrict the question to units that could have had either arm, or gather others.
# - **Calibration is for outcomes of the factual arm.** It is an average guarantee over units; it is none for effects, and none for the arm that a unit did not
#   have unless overlap and unconfoundedness carry it there.
# - **`effect_interval` is no confidence interval.** It is a range for one unit's difference of outcomes, with independent noise in the arms, which no data can check.
# - Small tables: with fewer than some hundred rows an arm, a linear model is likely the better estimator. Compare the R-score and the agreement above.
