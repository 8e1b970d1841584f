# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Treatment effects: IWDD beside everything a reader expects
#
# **Question.** The paper claims state-of-the-art out-of-sample effects with the highest win rates (`iwdd.C4`), accurate and fast (`iwdd.C5`), and distributions rather than points (`iwdd.C7`). Beside its teacher, its
# rivals and the methods that reviewers missed, on ACIC 2016 and IHDP: what holds?
#
# The paper's Tables 1 and 2 are not available to us, so nothing here is compared with a number of theirs. Every table carries the rows that say nothing and must be beaten: `zero`, the
# difference of arm means, and the true average effect for everyone.

# %%
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from gencausal import baselines, claims, figures, metrics, paths
from gencausal.data import acic, ihdp
from gencausal.data.registry import loaded
from gencausal.estimators import scores
from gencausal.estimators.outcomes import DistillationConfig, TeacherConfig, generator_draws, only, potential_draws, resolve_device, teacher_draws
from gencausal.experiments import benchmark, ranking, tuning
from gencausal.sampling import evaluations, stratified_normal

# %% tags=["parameters"]
profile = "smoke"  # study profile: smoke, laptop, full or paper
seeds = [0]  # one ensemble of teachers and generators each
settings = [1, 2]  # settings of ACIC 2016
replications = []  # replications of IHDP; its files have no licence to ship, so they need the mirror or the web
teacher_rounds = 60  # optimiser steps of the teacher
width = 48  # trunk width of the teacher
batch = 128  # rows or pairs a step
distillation_rounds = 30  # generator steps
teacher_score_every = 30  # rounds between held-out scores of the teacher
score_every = 15  # the same of the generators
ihdp_rounds = 800  # the same for IHDP, whose tables are small
ihdp_batch = 128  # rows or pairs a step
ihdp_distillation_rounds = 400  # generator steps
members = 2  # networks of an ensemble
draws = 42  # draws a unit and arm of the one-step generator
teacher_steps = 8  # Heun steps of the teacher's sampler
teacher_draws_test = 42  # draws a unit and arm of the teacher
train_draws = 1  # draws of the training rows, whose mean alone is used
learners = ["zero", "naive_ate", "oracle_ate", "ridge_t", "hgb_t"]  # baselines on every table, deterministic or nearly so
learner_seed = 0  # their one seed
slow = []  # baselines with that seed on the first costly_settings settings and costly_replications replications
costly = ["mlp_gated", "ganite", "diffpo", "diffpo_bug"]  # baselines on the same tables with every seed
costly_settings = 2  # of the settings above
costly_replications = 10  # of the replications above
baseline_draws = 40  # draws a unit and arm of neural baselines that give a law
baseline_rounds = 60  # optimiser steps of neural baselines, as the teacher's; those on IHDP take ihdp_rounds
tuned = []  # baselines whose three configurations are compared (E17); the others take their default
tuning_tables = 2  # tables of each benchmark in that comparison
timed_draws = 20  # draws a unit and arm when one draw is timed
device = "auto"  # auto, cpu, cuda or mps

# %%
place = resolve_device(device)
checkpoints = paths.build(profile) / "checkpoints"
results = claims.open_results(notebook="02b_treatment_effects", profile=profile)
tables = {"acic2016": loaded(acic.load, settings), "ihdp": loaded(ihdp.load, replications)}
teachers = {
    "acic2016": TeacherConfig(rounds=teacher_rounds, width=width, batch=batch, score_every=teacher_score_every),
    "ihdp": TeacherConfig(rounds=ihdp_rounds, width=width, batch=ihdp_batch, score_every=ihdp_rounds),
}
students = {
    "acic2016": DistillationConfig(rounds=distillation_rounds, batch=batch, score_every=score_every),
    "ihdp": DistillationConfig(rounds=ihdp_distillation_rounds, batch=ihdp_batch, score_every=score_every),
}
few = {"acic2016": tables["acic2016"][:costly_settings], "ihdp": tables["ihdp"][:costly_replications]}
budgets = {"acic2016": {"rounds": baseline_rounds, "batch": batch}, "ihdp": {"rounds": ihdp_rounds, "batch": ihdp_batch}}
print(f"{len(tables['acic2016'])} settings of ACIC 2016, {len(tables['ihdp'])} replications of IHDP, seeds {seeds}, ensembles of {members}\n{students['acic2016']}")

# %% [markdown]
# ## The data
#
# ACIC 2016 (Dorie et al. 2019): 4,802 real births, 82 columns after one-hot coding, treatment and outcome simulated; settings 1 to 10 come with an installed package, 11 to 40 from the mirror. IHDP (Hill 2011): 747
# children, 25 covariates, 139 treated, simulated outcomes. Noise is close to $\mathcal N(0, 1)$ in both. Training and test rows are split by the rule of the released code; a tenth of the training rows is
# held out. Normalised PEHE is $\sqrt{\overline{(\hat\tau - \tau)^2}}$ over the standard deviation of the pooled $\mu_0, \mu_1$ of all rows.
#
# The design of the teacher was developed on ACIC settings 1 to 10 and IHDP replications 1 to 10; settings 11 to 40 and replications 11 to 30 were scored once, in this run.

# %%
sizes = [{"data": name, "tables": len(group), "training rows": len(group[0].train), "test rows": len(group[0].test), "columns": group[0].x.shape[1], "treated share, lowest": min(t.t[t.train].mean() for t in group),
          "highest": max(t.t[t.train].mean() for t in group), "sd of the effect over sd of mu, median": float(np.median([(t.mu[:, 1] - t.mu[:, 0]).std() / t.mu.std() for t in group]))} for name, group in tables.items() if group]
figures.table(pd.DataFrame(sizes))

# %%
fig, axes = figures.new(height=2.4)
for i, (name, group) in enumerate((name, group) for name, group in tables.items() if group):
    effects = [(t.mu[:, 1] - t.mu[:, 0]) / t.mu.std() for t in group]
    axes.hist(np.concatenate(effects), bins=60, range=(-2, 3), density=True, histtype="step", linewidth=1.6, color=figures.PALETTE[i], label=name)
axes.set_xlabel("true effect over the sd of mu")
axes.set_ylabel("density")
axes.legend(frameon=False)
figures.show(fig, alt="Histogram of true effects over the sd of mu, all tables pooled.", caption="What is to be estimated: true effects of all units, all tables pooled.")

# %% [markdown]
# ## The methods
#
# A teacher is the conditional diffusion model of `01_diffusion_pretraining`; the generator is distilled from it on shuffled pairs (`Eq. sid-split`, `Eq. laws`, `02a_score_distillation`). Here both are ensembles: networks trained
# from different seeds on the same rows, draw $j$ from member $j \bmod M$, so that a draw of the generator still costs one pass of one network. Point estimates are means of draws at fixed normal quantiles.
#
# Baselines (specification 5.4): T-, S-, X- and DR-learner with gradient boosting, causal forests, Bayesian causal forest, quantile forest; TARNet, CFR, DragonNet; DiffPO, GANITE, CEVAE; and the teacher's twins, the
# same gated network under another loss (`mlp_gated`, `mlp_gated_ipw`, `gaussian_mlp`, `quantile_mlp`, `flow`). All see the same training rows; `oracle_ate` alone reads the truth.
#
# ## The budget: `iwdd.E17`
#
# **Question** (a public review). Hyper-parameters are undocumented. **Design.** Every method with a choice gets three configurations a benchmark and takes the one with the lowest held-out factual loss at
# seed 0 (CRPS for a law, squared error for a mean), no more; the teacher too. Losses compare within a method alone, and are shown over the first configuration's.

# %%
choice = {name: {} for name in tables}
for name, group in tables.items():
    for method in tuned if group else []:
        losses = tuning.baseline_losses(method, group[:tuning_tables], checkpoints, budget=budgets[name])
        choice[name][method] = tuning.chosen(losses)
        results.record(tuning.rows(method, name, group[:tuning_tables], losses))
    if group:
        losses = tuning.teacher_losses(group[:10], teachers[name], checkpoints)
        choice[name]["teacher"] = tuning.chosen(losses)
        teachers[name] = replace(teachers[name], **tuning.TEACHER_GRID[choice[name]["teacher"]])
        results.record(tuning.rows("teacher", name, group[:10], losses))
figures.table(tuning.table(results.rows, choice))
print(f"ACIC: {teachers['acic2016']}\nIHDP: {teachers['ihdp']}")

# %% [markdown]
# ## Training and prediction
#
# Stacks of ten tables; everything is kept under the hash of code, data and configuration, so that a killed run continues.

# %%
plans = {name: benchmark.Plan(teachers[name], {"iwdd": students[name]}, members, draws, teacher_draws_test, train_draws, steps=teacher_steps) for name in tables}
stacks = {}
for name, group in tables.items():
    for seed in seeds:
        for part in benchmark.groups(group):
            fitted = benchmark.fit_group(part, seed, plans[name], checkpoints, place)
            stacks[name, seed, part[0].unit] = (part, fitted)
            results.record(benchmark.prediction_rows(fitted, part, seed))
            results.record(benchmark.cost_rows(fitted, name, seed, f"training of {part[0].unit}-{part[-1].unit}"))

# %%
for name, group in tables.items():
    for method in learners:
        for part in benchmark.groups(group):
            results.record(benchmark.baseline_rows(method, part, learner_seed, checkpoints, draws=baseline_draws, overrides=tuning.overrides(method, choice[name], budgets[name])))
    for method in [*slow, *costly]:
        for seed in seeds if method in costly else [learner_seed]:
            for part in benchmark.groups(few[name]):
                results.record(benchmark.baseline_rows(method, part, seed, checkpoints, draws=baseline_draws, overrides=tuning.overrides(method, choice[name], budgets[name])))
print(f"{len(results.rows)} rows, {results.rows['method'].nunique()} methods; {', '.join([*learners, *slow])} have one seed.")

# %% [markdown]
# ## Who has the lowest error? `iwdd.E0`
#
# **Design.** ACIC 2016 and IHDP, in and out of sample. **Verdict rule.** Reproduced if IWDD has the lowest mean out-of-sample PEHE and the highest win rate, better than gradient boosting and than its own
# teacher; not reproduced if not better than gradient boosting or than its teacher; partial if it beats only generative peers. "Better": the 95 % interval of the paired difference over units excludes 0 and the gain exceeds 5 %.

# %%
shown = [name for name, group in tables.items() if group]
headline = {name: scores.summary(results.rows[(results.rows["dataset"] == name) & (results.rows["experiment"] == "iwdd.E0")], "pehe_normalised") for name in shown}
for name in shown:
    print(f"{name}: normalised PEHE out of sample, mean with 95 % bootstrap interval over units (seeds averaged first)")
    figures.table(headline[name])

# %% [markdown]
# Methods that ran on all units and those that ran on the first ones only are not comparable by these means; the pairs below are, unit by unit. Mean rank is among the methods that ran everywhere.

# %%
fig, panels = figures.new(height=0.7 * len(shown) + 0.2 * sum(len(headline[name]) for name in shown), rows=len(shown), height_ratios=[len(headline[name]) for name in shown]) if len(shown) > 1 else (lambda made: (made[0], [made[1]]))(figures.new(height=0.9 + 0.26 * len(headline[shown[0]])))
for axes, name in zip(panels, shown):
    for place_, row in enumerate(headline[name].itertuples()):
        colour = figures.PALETTE[0] if row.method in ("iwdd", "teacher") else "0.45"
        axes.plot([row.low, row.high], [place_, place_], color=colour, linewidth=2)
        axes.plot(row.mean, place_, "o", color=colour, markersize=4)
    axes.set_yticks(range(len(headline[name])), [f"{row.method} ({row.units})" for row in headline[name].itertuples()], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0)
    axes.set_xlabel(f"normalised PEHE on {name} (lower is better)")
figures.show(fig, alt="Mean out-of-sample normalised PEHE of every method with its 95 % interval over units, best on top; the numbers are those of the tables above.", caption="Errors of effects, out of sample: mean over units (their number in brackets), 95 % bootstrap interval. Teacher and generator in blue.")

# %%
versus = [(name, method) for name in shown for method in headline[name]["method"] if method != "iwdd"]
gaps = pd.DataFrame([{"dataset": name} | ranking.paired(results.rows, "pehe_normalised", name, "iwdd", method)._asdict() for name, method in versus if len(tables[name]) > 1])
figures.table(gaps.drop(columns="method").rename(columns={"better_on": "iwdd better on", "p": "Wilcoxon p", "gain": "relative gain"}))

# %% [markdown]
# The same question on settings that the design never saw (11 to 40) and on those it was developed on:

# %%
halves = results.rows[(results.rows["dataset"] == "acic2016") & (results.rows["metric"] == "pehe_normalised") & results.rows["method"].isin(["iwdd", "teacher", "hgb_t", "ridge_t", "zero", "causal_forest"])]
halves = halves.assign(settings=np.where(halves["unit"].astype(int) <= 10, "1-10 (developed on)", "11-40 (new)"))
figures.table(halves.groupby(["settings", "method"])["value"].mean().unstack("settings").reset_index())

# %%
for name in shown:
    figures.table(ranking.ranking(results.rows, "pehe_normalised", name, ranking.present(results.rows, list(headline[name]["method"]), "pehe_normalised", name)))

# %%
results.claim("iwdd.C4")

# %%
results.claim("iwdd.E0.teacher")

# %% [markdown]
# ## What do diffusion and distillation add? `iwdd.E6`
#
# **Question** (a public review). What do they add over inverse propensity weights with a plain network? **Design.** Twins of the teacher: the same gates, trunk, heads, optimiser, steps and number of networks to choose from,
# squared error (plain and weighted), Gaussian likelihood, quantiles, normalising flow. The twins are single networks; so that ensembles do not decide, the first members of teacher and generator stand beside them. **Verdict rule.** Supported if the student is better on PEHE or CRPS than every non-diffusion twin; refuted if a plain network matches it.

# %%
alone = [row for (name, seed, unit), (part, fitted) in stacks.items() if unit in [table.unit for table in few[name]] for row in benchmark.single_rows(fitted, part, seed, plans[name], checkpoints)]
results.record(alone)
twins = ["mlp_gated", "mlp_gated_ipw", "gaussian_mlp", "quantile_mlp", "flow", "teacher_single", "iwdd_single"]
compared = pd.DataFrame([{"dataset": name, "metric": metric} | ranking.paired(results.rows, metric, name, "iwdd_single", twin)._asdict()
                         for name in shown if len(tables[name]) > 1 for metric in ("pehe_normalised", "crps") for twin in ranking.present(results.rows, twins, metric, name) if twin != "iwdd_single"])
figures.table(compared.drop(columns="method").rename(columns={"better_on": "iwdd_single better on", "p": "Wilcoxon p", "gain": "relative gain"}))

# %%
results.claim("iwdd.E6")

# %% [markdown]
# ## Is the causal forest an outlier? `iwdd.E15`
#
# **Question** (a public review). The causal forest stands only in the paper's second table, "much worse than the other baselines". **Design.** econml's `CausalForestDML` and its generalised random forest beside the rest, tuned like the rest.
# **Verdict rule.** The paper's row was an artefact if it is competitive with the boosting T-learner; not if it is truly much worse.

# %%
forests = pd.DataFrame([{"dataset": name} | ranking.paired(results.rows, "pehe_normalised", name, forest, "hgb_t")._asdict() for name in shown if len(tables[name]) > 1 for forest in ranking.present(results.rows, ["causal_forest", "causal_forest_grf"], "pehe_normalised", name)])
figures.table(forests.rename(columns={"better_on": "better on", "p": "Wilcoxon p", "gain": "relative gain"}) if len(forests) else pd.DataFrame([{"causal forests": "not run at this profile"}]))

# %%
results.claim("iwdd.causal_forest")

# %% [markdown]
# ## Distributions: `iwdd.E7`
#
# **Question** (a public review). The aim is distributions, yet only point metrics of effects are reported. **Design.** CRPS and PIT of factual test outcomes; W1 and W2 of both potential outcomes to their true law $\mathcal N(\mu_z, 1)$;
# coverage of $y$ at four levels and the width at 90 %. `calibrated`: the 90 % interval widened or narrowed by one number from the held-out rows (`Eq. cqr-offset`, Romano et al. 2019). Non-Gaussian laws are in `02d_stress_tests`.
# **Verdict rule.** Supported if CRPS or W2 is better than that of the Gaussian network and the quantile forest and 95 % intervals cover 0.92 to 0.97; refuted by under-coverage or lost modes.

# %%
law = results.rows[(results.rows["experiment"] == "iwdd.E0") & results.rows["metric"].isin(["crps", "w1", "w2", "pit_ks", "coverage_50", "coverage_80", "coverage_90", "coverage_95", "width_90", "coverage_90_calibrated", "width_90_calibrated", "draw_sd"])]
for name in shown:
    figures.table(law[law["dataset"] == name].groupby(["method", "metric"], sort=False)["value"].mean().unstack("metric").sort_values("crps").reset_index())

# %%
fig, axes = figures.new(height=2.8)
levels_ = [50, 80, 90, 95]
for i, method in enumerate(ranking.present(law, ["iwdd", "teacher", "gaussian_mlp", "quantile_forest", "bcf", "flow"], "coverage_90", "acic2016")):
    covered = [law[(law["dataset"] == "acic2016") & (law["method"] == method) & (law["metric"] == f"coverage_{level}")]["value"].mean() for level in levels_]
    axes.plot(levels_, 100 * np.array(covered) - levels_, marker="os^Dvx"[i], color=figures.PALETTE[i], label=method)
axes.axhline(0, color="0.3", linestyle=":", linewidth=1.2)
axes.set_xticks(levels_)
axes.set_xlabel("nominal level of the interval, %")
axes.set_ylabel("coverage less nominal, points")
axes.legend(frameon=False, fontsize=8)
figures.show(fig, alt="Coverage of factual test outcomes less the nominal level, ACIC 2016; iwdd: " + ", ".join(f"{level} % covers {100 * law[(law['dataset'] == 'acic2016') & (law['method'] == 'iwdd') & (law['metric'] == f'coverage_{level}')]['value'].mean():.1f} %" for level in levels_) + ".", caption="Are the intervals honest? Mean over settings and seeds; zero is nominal.")

# %%
results.claim("iwdd.C7")

# %%
results.claim("iwdd.coverage")

# %% [markdown]
# ## The cost of a draw: `iwdd.E13`
#
# **Question** (a public review). What do the stages cost? **Design.** Network passes a draw, training steps, parameters and seconds; drawing timed on the test units of the first setting, both arms, with all members.
# **Verdict rule.** Reproduced if one-step sampling is about 100 times cheaper (99 passes against 1) at PEHE within 5 % of the teacher; refuted if quality is lost.

# %%
part, fitted = stacks["acic2016", seeds[0], tables["acic2016"][0].unit]
one = {method: [only(fitted.data, member, 0)[1] for member in networks] for method, networks in (("teacher", fitted.teachers), ("iwdd", fitted.students["iwdd"]))}
first = only(fitted.data, fitted.teachers[0], 0)[0]
covariates, noise = part[0].x[part[0].test], stratified_normal(timed_draws, place)
samplers = {"teacher": (lambda module, eps, e: teacher_draws(module, eps, e, steps=teacher_steps), 1), "iwdd": (generator_draws(students["acic2016"].sigma_init), 5)}
for method, (sampler, repeats) in samplers.items():
    took = []
    for _ in range(repeats):
        clock = time.perf_counter()
        potential_draws(first, one[method], sampler, covariates, noise)
        took.append(time.perf_counter() - clock)
    results.record([{"experiment": "iwdd.E13", "dataset": "acic2016", "unit": "sampling", "method": method, "metric": "seconds", "seed": seeds[0], "value": float(np.median(took)), "n": len(covariates) * 2 * timed_draws}])
    passes = evaluations("heun", teacher_steps) if method == "teacher" else 1
    results.record([{"experiment": "iwdd.E13", "dataset": "acic2016", "unit": table.unit, "method": method, "metric": "nfe", "seed": seed, "value": passes, "n": len(table.test)} for table in tables["acic2016"] for seed in seeds])
cost = results.rows[(results.rows["experiment"] == "iwdd.E13") & (results.rows["dataset"] == "acic2016")].groupby(["method", "metric"], sort=False)["value"].mean().unstack("metric").reset_index()
names = {"nfe": "passes a draw", "seconds": f"seconds for {len(covariates) * 2 * timed_draws} draws", "steps": f"training steps of {members} members", "parameters": "parameters a member", "seconds_training": "training seconds a setting"}
timed = [] if profile == "smoke" else ["seconds", "seconds_training"]  # wall time differs from run to run, and smoke runs are compared byte by byte
figures.table(cost[["method", "nfe", "steps", "parameters", *timed]].rename(columns=names))

# %%
results.claim("iwdd.C5")

# %% [markdown]
# ## DiffPO and its weights: `iwdd.E10`
#
# **Question** (a public review). DiffPO is reported to win on a notable share of data sets and yet to have a huge mean error. Is the mean made by a few
# settings? Two reviews also dispute what its clipping of the weights does.
#
# **Design.** DiffPO is rebuilt from its description: a diffusion of the scalar outcome given $(x, z)$ with 100 levels and a quadratic schedule (`Eq. ddpm-schedule`),
#
# $$y_t = \sqrt{\bar\alpha_t}\, y_0 + \sqrt{1-\bar\alpha_t}\,\varepsilon, \qquad L = \mathbb E\, \frac{w_i}{\bar w}\, \lVert \varepsilon - F(y_t, t, x_i, z_i)\rVert^2, \qquad w_i = \mathrm{clamp}\Bigl(\frac{1}{\hat\pi(z_i\mid x_i)},\, \tfrac12,\, 3\Bigr)$$
#
# (`Eq. ddpm-forward`, `Eq. diffpo-loss`), $\hat\pi$ cross-fitted and clamped to $[0.05, 0.95]$. `diffpo` has weights and residuals of equal shape; in `diffpo_bug` weights $[B,1,1]$
# meet residuals $[B,\cdot]$ as in the public code, so that the mean factorises and the weights cancel. The clamp at 3 floors $\hat\pi$ at one third, and the one at ½ never acts, as
# $1/\hat\pi \ge 1$. Outcomes are asked for under $\mathrm{do}(z)$, medians of draws are scored against $\mu_z$. `diffpo_untuned`, where it ran, trains as long as the public code at a
# constant rate, without a held-out score. The configuration is that of E17 where the budget covers it, the same with and without the bug.
#
# **Verdict rule.** Reproduced if a few settings with blow-ups explain the mean; refuted if DiffPO is without blow-ups when tuned. We call it a blow-up
# where the error exceeds that of predicting no effect, and give the share of the mean that the 10 % trimmed mean leaves out.

# %%
everyone = ["zero", "naive_ate", "hgb_t", "causal_forest", "bcf", "tarnet", "cfr", "dragonnet", "gaussian_mlp", "flow", "ganite", "cevae", "diffpo", "diffpo_bug", "diffpo_untuned", "teacher", "iwdd"]
ranked = {dataset: ranking.ranking(results.rows, "pehe_normalised", dataset, ranking.present(results.rows, everyone, "pehe_normalised", dataset)) for dataset in ("acic2016", "ihdp") if ranking.present(results.rows, everyone, "pehe_normalised", dataset)}
for dataset, frame in ranked.items():
    print(f"Normalised PEHE out of sample on {dataset}, the best mean rank first:")
    figures.table(frame)

# %% [markdown]
# What the weights do, and whether a few settings make the mean:

# %%
family = {dataset: ranking.present(results.rows, ["diffpo", "diffpo_bug", "diffpo_untuned", "hgb_t", "teacher"], "pehe_normalised", dataset) for dataset in ranked}
blown = {dataset: ranking.blow_ups(results.rows, "pehe_normalised", dataset, methods) for dataset, methods in family.items()}
figures.table(pd.concat([frame.assign(dataset=dataset) for dataset, frame in blown.items()])[["dataset", *blown["acic2016"].columns]])

# %%
weighted = [ranking.paired(results.rows, metric, dataset, "diffpo", "diffpo_bug") for dataset in ranked for metric in ("pehe_normalised", "crps")]
labels = [{"dataset": dataset, "metric": metric} for dataset in ranked for metric in ("pehe_normalised", "crps")]
figures.table(pd.DataFrame([label | pair._asdict() for label, pair in zip(labels, weighted)]).drop(columns=["method", "against"]).rename(columns={"better_on": "better on", "p": "Wilcoxon p", "gain": "relative gain"}))

# %% [markdown]
# Rows are `diffpo` against `diffpo_bug`: above zero the weights help. Below, setting by setting, and the mean ranks with bars over methods that
# Nemenyi's critical difference (95 %, `Eq. nemenyi`) cannot tell apart:

# %%
errors = ranking.errors(results.rows, "pehe_normalised", "acic2016", ranking.present(results.rows, ["diffpo", "diffpo_bug", "diffpo_untuned", "hgb_t", "zero"], "pehe_normalised", "acic2016")).sort_values("diffpo")
critical = ranking.critical_difference(results.rows, "pehe_normalised", "acic2016", list(ranked["acic2016"]["method"])) if len(errors) > 1 else None
order = list(ranked["acic2016"]["method"])
fig, (top, bottom) = figures.new(height=3.0 + 0.24 * len(order), rows=2, height_ratios=[2.4, 0.6 + 0.24 * len(order)])
for i, method in enumerate(errors.columns):
    top.plot(np.arange(1, len(errors) + 1), errors[method], marker="os^D_"[i], linestyle="none", markersize=4, color="0.45" if method == "zero" else figures.PALETTE[i], label=method)
top.set_xticks(np.arange(1, len(errors) + 1), errors.index, fontsize=6 if len(errors) > 12 else 9)
top.set_xlabel("ACIC 2016 setting, ordered by diffpo")
top.set_ylabel("normalised PEHE")
top.set_ylim(0)
top.legend(frameon=False, fontsize=7, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
bottom.plot(ranked["acic2016"]["mean rank"], range(len(order)), "o", color=figures.PALETTE[0], markersize=4)
for i, group in enumerate(critical.groups if critical else []):
    bottom.plot([ranked["acic2016"]["mean rank"].max() + 0.5 + 0.3 * i] * 2, [order.index(group[0]), order.index(group[-1])], color="0.3", linewidth=2)
bottom.set_yticks(range(len(order)), order, fontsize=8)
bottom.invert_yaxis()
bottom.set_xlabel("mean rank (1 is best)")
figures.show(fig, alt=f"Normalised PEHE by ACIC setting: diffpo from {errors['diffpo'].min():.3g} to {errors['diffpo'].max():.3g}, zero effect from {errors['zero'].min():.3g} to {errors['zero'].max():.3g}. Mean ranks: " + ", ".join(f"{row.method} {row[5]:.2g}" for row in ranked["acic2016"].itertuples()) + ".",
             caption="Above: errors by setting. Below: mean ranks over settings; a vertical bar joins methods within the critical difference" + (f" of {critical.difference:.2g} ranks (Friedman p {critical.p:.1g}, {critical.units} settings)." if critical else "."))

# %% [markdown]
# The share of data sets won, the number that DiffPO's own comparison reports (second-hand: 26.73 % in sample, 25.82 % out of sample on ACIC 2016), among the
# baselines here without IWDD and its teacher. The fields differ (its own is one of neural learners), and so do the numbers of settings; ties are split, and
# `equal_share` is what each method would win if all were alike.

# %%
rivals = [m for m in ranking.present(results.rows, everyone, "pehe_normalised", "acic2016") if m not in ("diffpo_bug", "diffpo_untuned", "teacher", "iwdd")]
for metric, name in (("pehe_normalised", "win_percent"), ("pehe_normalised_in", "win_percent_in")):
    results.record(ranking.win_rows(results.rows, metric, "acic2016", rivals, name, "iwdd.E10"))
wins = results.rows[results.rows["experiment"] == "iwdd.E10"].groupby(["method", "metric"], sort=False)["value"].mean().unstack("metric")
figures.table(wins.sort_values("win_percent", ascending=False).reset_index().rename(columns={"win_percent": "% won, out of sample", "win_percent_in": "% won, in sample"}))

# %%
results.claim("iwdd.diffpo.mean_error")

# %%
results.claim("iwdd.diffpo.acic2016.out")

# %%
results.claim("iwdd.diffpo.acic2016.in")

# %% [markdown]
# Its numbers on ACIC 2018 and on its synthetic design are not tested: the public ACIC 2018 files have one constant effect each and lose the alignment of covariates
# and outcomes in the public preprocessing (defect P1), and the synthetic design is not given in what we could read.

# %%
own = {dataset: frame.set_index("method").loc["diffpo"] for dataset, frame in blown.items()}
spans = [f"[{-pair.high:+.2g}, {-pair.low:+.2g}]" if pair.units > 1 else "(one unit, no interval)" for pair in weighted]
print("\n".join(f"{dataset}: diffpo exceeds zero effect on {row['blow-ups']} of {row['units']} units (worst ratio {row['worst ratio']:.2g}); mean {row['mean']:.3g}, trimmed {row['trimmed mean']:.3g}, so trimming removes {100 * row['share of the mean trimmed']:.0f} % of the mean."
                for dataset, row in own.items()) + "\n" + "\n".join(f"{label['dataset']}, {label['metric']}: the weights change the error by {-pair.difference:+.2g} {span}." for label, pair, span in zip(labels, weighted, spans)))

# %% [markdown]
# ## Rivals that the paper left out: `iwdd.E16`
#
# **Question** (three public reviews). GANITE, CEVAE, CausalEGM, NOFLITE and DragonNet are missing from the paper's tables. Does IWDD stand above them?
#
# **Design.** Own short versions, the same training rows, scalers and held-out tenth as IWDD, the budget of E17.
#
# - `ganite`: a generator completes the table against a discriminator that guesses which outcome was seen (`Eq. ganite-cf`), a second one learns the completed pair from $x$ alone (`Eq. ganite-ite`).
# - `cevae`: a latent confounder $l$ behind $x$, $z$ and $y$, fitted by the bound below (`Eq. cevae`).
# - `dragonnet` and `flow` (a conditional normalising flow, which takes NOFLITE's place) are those of the plain networks.
#
# $$\mathbb E_q[\log p(x\mid l) + \log p(z\mid l) + \log p(y\mid z,l)] - \mathrm{KL}(q(l\mid x,z,y)\,\Vert\,\mathcal N(0,I)) + \log q(z\mid x) + \log q(y\mid x,z)$$
#
# CausalEGM and NOFLITE themselves are **not built**: nothing below speaks of them.
#
# **Verdict rule.** Supported if IWDD is above them, refuted if below: the 95 % interval of the paired difference over units excludes 0 and the relative gain exceeds 5 %.

# %%
asked = ["ganite", "cevae", "dragonnet", "flow"]
compared = [(dataset, metric, rival) for dataset in ranked for metric in ("pehe_normalised", "crps") for rival in ranking.present(results.rows, asked, metric, dataset)]
pairs = [ranking.paired(results.rows, metric, dataset, "iwdd", rival) for dataset, metric, rival in compared]
against = pd.DataFrame([{"dataset": dataset, "metric": metric} | pair._asdict() for (dataset, metric, _), pair in zip(compared, pairs)])
figures.table(against.drop(columns="method").rename(columns={"better_on": "iwdd better on", "p": "Wilcoxon p", "gain": "relative gain"}))

# %%
spans = [f"[{pair.low:.3g}, {pair.high:.3g}]" if pair.units > 1 else "(one unit, no interval)" for pair in pairs]
effects = against.assign(span=spans)[against["metric"] == "pehe_normalised"].reset_index(drop=True)
fig, axes = figures.new(height=1.0 + 0.3 * len(effects))
axes.axvline(0, color="0.4", linewidth=1, linestyle="--")
for place_, row in enumerate(effects.itertuples()):
    colour = figures.PALETTE[0 if row.dataset == "acic2016" else 1]
    axes.plot([row.low, row.high], [place_, place_], color=colour, linewidth=2)
    axes.plot(row.difference, place_, "o", color=colour)
axes.set_yticks(range(len(effects)), [f"{row.against}, {row.dataset}" for row in effects.itertuples()])
axes.invert_yaxis()
axes.set_xlabel("normalised PEHE, rival minus iwdd")
figures.show(fig, alt="Paired difference of normalised PEHE, rival minus iwdd: " + "; ".join(f"{row.against} on {row.dataset} {row.difference:.3g} {row.span}" for row in effects.itertuples()) + ".",
             caption="Right of the dashed line iwdd has the lower error; 95 % bootstrap intervals over units, seeds averaged first.")

# %%
results.claim("iwdd.E16")

# %%
above = effects[effects["better"]]
print(f"iwdd is better than {len(above)} of {len(effects)} rivals and data sets by the criterion above"
      + (f" ({', '.join(f'{row.against} on {row.dataset}' for row in above.itertuples())})" if len(above) else "") + "; not better: "
      + (", ".join(f"{row.against} on {row.dataset} (gain {100 * row.gain:.0f} %{', one unit' if row.units == 1 else ''})" for row in effects[~effects["better"]].itertuples()) or "none") + ".")

# %%
results.save()
own = {name: headline[name].set_index("method").loc["iwdd"] for name in shown}
ahead = {name: ", ".join(f"{row.against} by {-row.difference:.2g} on {row.units}" for row in gaps[(gaps["dataset"] == name) & (gaps["difference"] < 0)].itertuples()) if len(tables[name]) > 1 else "not compared" for name in shown}
print("\n".join(f"{name}: iwdd {own[name]['mean']:.3g} [{own[name]['low']:.3g}, {own[name]['high']:.3g}] on {own[name]['units']:.0f} units, {own[name]['seeds']:.0f} seeds; rows with a lower mean on the units that both have: {ahead[name] or 'none'}." for name in shown))

# %% [markdown]
# ## What holds, what does not
#
# - The verdicts above are computed from the rows. The generator learns effects from its teacher alone, so where it is the best row, the teacher or one of its twins stands close by: what wins is the gated outcome network, its
#   regularisation and the ensemble, more than the one-step distillation, which buys speed.
# - Ensembles are a choice of ours. E6 sets single networks against single networks.
# - Coverage of outcomes is checked on factual test rows. For the arm that a unit did not get, W1 and W2 to the known law are the check that real data never offer.
# - ACIC 2016 and IHDP have Gaussian noise and no hidden confounder; `02d_stress_tests` takes both away.
