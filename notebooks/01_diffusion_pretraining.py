# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Pretraining: a conditional diffusion model of observed outcomes
#
# **Question.** Importance-weighted diffusion distillation (IWDD) starts from a diffusion model of the outcome given covariates and
# treatment. How good a model of $p(y \mid x, z)$ can be had from a few thousand observed rows, and how far is its sampler from exact?
# The one-step generators of `02a_score_distillation` learn from nothing else. Judged here are claims of the reading list about diffusion itself: that its three views agree
# (`A2.C9`), and what few-step samplers gain (`A2.C6a` to `A2.C29d`); the cost of this stage is recorded for `iwdd.E13`.
#
# The paper's own numbers for this stage are not available to us. The truth of the benchmark is: in ACIC 2016 the outcome is
# close to $\mathcal N(\mu_z(x), 1)$, so the best possible score of any forecast is known.

# %%
import numpy as np
import pandas as pd
import torch

from gencausal import claims, figures, metrics, paths, sampling, schedules
from gencausal.data import acic
from gencausal.data.stack import prepare_tables
from gencausal.diffusion import gaussian_denoiser
from gencausal.experiments import ablation
from gencausal.experiments import solvers as experiment
from gencausal.estimators.outcomes import TeacherConfig, only, potential_draws, predict, resolve_device, teacher_draws, train_teacher

# %% tags=["parameters"]
profile = "smoke"  # study profile: smoke, laptop, full or paper
seeds = [0]  # one stack of teachers each
settings = [1, 2]  # settings of ACIC 2016, trained as one stack
teacher_rounds = 120  # optimiser steps
width = 48  # trunk width
weight_decay = 0.1  # of the weights, not of the gates
gate_penalty = 0.02  # L1 penalty on the feature gates
batch = 128  # rows a step
score_every = 30  # rounds between held-out scores
draws = 25  # draws a test unit and arm
sampler_steps = 50  # Heun steps of the teacher's sampler
train_draws = 3  # draws of the training rows, whose median alone is used
ablated = ["as used", "no gates"]  # rows of the ablation table, of experiments.ablation.VARIANTS
members = [2]  # sizes of ensembles in it
view_seeds = 4  # batches of starts of the identities
view_starts = 60  # starts a batch of flow and SDE
view_steps = [20, 40, 80]  # steps of which the order is the slope
solver_seeds = 3  # batches of starts on the exact score
solver_starts = 20  # starts a batch
solver_nfe = [5, 10]  # network evaluations
plane_rounds = 20  # training steps of the denoisers of the plane
plane_seeds = 2  # of them
flow_rows = 5  # test rows of each setting, both arms, on the trained outcome models
flow_draws = 5  # noises a row and arm
flow_nfe = [5, 10]  # network evaluations on the outcome models
flow_reference = 64  # Heun steps of the reference flow
device = "auto"  # auto, cpu, cuda or mps

# %%
config = TeacherConfig(rounds=teacher_rounds, width=width, batch=batch, score_every=score_every, weight_decay=weight_decay, gate_penalty=gate_penalty)
results = claims.open_results(notebook="01_diffusion_pretraining", profile=profile)
place = resolve_device(device)
checkpoints = paths.build(profile) / "checkpoints"
print(f"{config}\nsettings {settings}, seeds {seeds}, torch {torch.__version__.split('+')[0]}")

# %% [markdown]
# ## One field, three views: A2.C9
#
# The reading list's monograph on diffusion models (#9) says that the variational, the score and the flow view share one velocity field. It
# gives no numbers, so the question is executable: do the identities hold to rounding, do flow and reverse SDE share their one-time laws, do
# the solvers have their orders? Two laws with exact denoisers: a Gaussian, and 25 Gaussians on a grid with overlapping modes (sd 0.3 before scaling);
# double precision, variance-preserving levels with linear $\beta$ from $10^{-4}$ to $0.02$ in 1,000 times.
#
# With $x_t = \alpha x_0 + \sigma\varepsilon$, $\kappa = \sigma/\alpha$, $\lambda = -\ln\kappa$ (`Eq. views`, `Eq. ddim`, `Eq. edm-vp`),
#
# $$\text{score} = -\varepsilon/\sigma = (\alpha \hat x_0 - x_t)/\sigma^2, \quad v = \alpha\varepsilon - \sigma \hat x_0, \quad D(x_t/\alpha;\, \kappa) = \hat x_0(x_t; \alpha, \sigma),$$
#
# $$x' = \tfrac{\sigma'}{\sigma}\, x + \sigma' h\, \hat x_0 = \alpha' \hat x_0 + \sigma' \hat\varepsilon, \qquad h = 1/\kappa' - 1/\kappa .$$
#
# *Reproduced if* conversions to 1e-6; DDIM in both forms equal to 1e-6; PF-ODE against SDE energy distance inside the null of two SDE runs; order
# slopes −1 ± 0.2 (DDIM), −2 ± 0.4 (AB2, 2M, Heun). *Refuted if* any identity is off. The null is by exchange (`Eq. exchange`): each seed has
# two batches of the flow and two of the SDE; if the laws agree, the three ways to pair the four batches are exchangeable, and the p-value is at least
# 0.05 unless they differ. Two p-values a law and level, from the even and the odd seeds.

# %%
found = experiment.views(list(range(view_seeds)), view_starts, tuple(view_steps))
figures.table(found.identities.groupby("identity", sort=False)["error"].max().map(lambda e: "below 1e-12" if e < 1e-12 else f"{e:.0e}").reset_index(name="largest deviation"))

# %%
orders = found.slopes.groupby(["law", "sampler"], sort=False)[["order", "theory"]].mean().reset_index()
figures.table(orders, digits=2)

# %%
wide = found.errors[found.errors["law"] == "wide mixture"].groupby(["sampler", "steps"], sort=False)["error"].mean().unstack("sampler")
fig, axes = figures.new(height=2.6)
for i, name in enumerate(wide.columns):
    axes.loglog(wide.index, wide[name], marker="os^D"[i], color=figures.PALETTE[i], label=name)
axes.set_xlabel("steps")
axes.set_ylabel("distance to the flow")
axes.set_xticks(wide.index, wide.index)
axes.minorticks_off()
axes.legend(frameon=False)
slope = orders[orders["law"] == "wide mixture"].set_index("sampler")["order"]
figures.show(fig, alt="Distance to the exact flow against the number of steps on the wide mixture, both axes logarithmic; measured orders " + ", ".join(f"{name} {slope[name]:.2g}" for name in wide.columns) + ".", caption="Four solvers on the wide mixture, log-SNR grid. Heun takes two evaluations a step.")

# %%
figures.table(found.laws.groupby(["law", "level"], sort=False)[["distance_ratio", "p_value"]].mean().reset_index(), digits=2)

# %%
results.record(experiment.views_rows(found))

# %%
results.claim("A2.C9")

# %%
print(f"Largest deviation of an identity {'below 1e-12' if found.identities['error'].max() < 1e-12 else format(found.identities['error'].max(), '.0e')}; measured over theoretical order between {(found.slopes['order'] / found.slopes['theory']).min():.2g} and {(found.slopes['order'] / found.slopes['theory']).max():.2g};\n"
      f"flow and SDE: smallest p-value {found.laws['p_value'].min():.2g} of {len(found.laws)}, energy distance across processes over that within {found.laws['distance_ratio'].mean():.2g}.")

# %% [markdown]
# ## The data
#
# ACIC 2016: 4,802 real births, 82 columns after one-hot coding, simulated binary treatment and outcome. Rows are split as the released
# code splits them; a tenth of the training rows is held out to choose when to stop. Covariates and outcomes are scaled by the remaining
# training rows, factual outcomes only: within a run no test row and no counterfactual enters a scaler, a fit or a stopping round.
#
# The design was developed on settings 1 to 10: gates and noise levels with effect errors in view, width and penalties by held-out CRPS (the
# ablation below). Settings 11 to 40 were not looked at before the published run of `02b_benchmark`; they are the cleaner test of it.

# %%
tables = [acic.load(setting) for setting in settings]
data = prepare_tables(tables, seeds[0], place)
print(f"{len(tables)} settings; rows to fit {data.fit.shape[1]}, held out {data.held.shape[1]}, test {len(tables[0].test)}; {data.x.shape[2]} columns in [{data.x.min():.0f}, {data.x.max():.0f}]")

# %%
fig, axes = figures.new(height=2.6)
for arm, name in enumerate(("control", "treated")):
    rows = tables[0].train[tables[0].t[tables[0].train] == arm]
    axes.hist(tables[0].y[rows], bins=40, density=True, alpha=0.6, color=figures.PALETTE[arm], label=f"{name} ({len(rows)} rows)")
axes.set_xlabel(f"factual outcome, ACIC setting {settings[0]}")
axes.set_ylabel("density")
axes.legend(frameon=False)
figures.show(fig, alt=f"Histograms of the factual training outcomes of ACIC setting {settings[0]} by arm; the two histograms overlap.", caption="What the model is trained on: one outcome a row, never both.")

# %% [markdown]
# ## The model
#
# The outcome is diffused, $y_\sigma = y + \sigma\varepsilon$, and a network learns to undo it. With $s = 0.5$ the standard deviation of the
# scaled outcome (`Eq. 7, Karras et al. 2022`),
#
# $$D(y_\sigma; \sigma, x, z) = \frac{s^2}{\sigma^2 + s^2}\, y_\sigma + \frac{\sigma s}{\sqrt{\sigma^2 + s^2}}\; F\!\left(\frac{y_\sigma}{\sqrt{\sigma^2 + s^2}}, \tfrac14 \ln\sigma, x, z\right),$$
#
# trained by the loss $\mathbb E\,\lVert F - (y - c_{\mathrm{skip}}\, y_\sigma) / c_{\mathrm{out}} \rVert^2$ (`Eq. 8, Karras et al. 2022`). The covariates pass through learned
# non-negative gates with an L1 penalty, so that the network can drop most of the 82 columns, then through a trunk with one head an arm;
# outcome and noise level enter a light decoder (`Eq. gaussian-skip` in `nn.mlp`). Each step sees several noise levels a row, the first
# at $\sigma = 80$, where the loss is plain least squares for $\mathbb E[y \mid x, z]$.
#
# ### A case with a known answer
#
# For $y \sim \mathcal N(\mu, v)$ the denoiser is exact (`Eq. gaussian-denoiser`), $D = (\sigma^2\mu + v\,y_\sigma)/(\sigma^2 + v)$, and so is the flow
# from noise to data. A solver of order $p$ must have its error fall $2^p$-fold when the steps double.

# %%
mu, variance = torch.tensor(0.7, dtype=torch.float64), torch.tensor(0.04, dtype=torch.float64)
start = schedules.SIGMA_MAX * torch.tensor([-1.5, 0.3, 2.0], dtype=torch.float64)
known = []
for steps in (32, 64, 128, 256):
    grid = schedules.karras_sigmas(steps, dtype=torch.float64)[:-1]
    exact = mu + (start - mu) * ((variance + grid[-1] ** 2) / (variance + schedules.SIGMA_MAX**2)).sqrt()
    for name, sampler in sampling.SAMPLERS.items():
        error = (sampler(lambda y, sigma: gaussian_denoiser(y, sigma, mu, variance), start, grid) - exact).abs().max().item()
        known.append({"sampler": name, "steps": steps, "error": error})
known = pd.DataFrame(known).pivot(index="steps", columns="sampler", values="error")
orders = np.log2(known.iloc[-2] / known.iloc[-1]).rename("measured order").reset_index()
figures.table(orders, digits=2)

# %%
fig, axes = figures.new(height=2.6)
for i, name in enumerate(known.columns):
    axes.loglog(known.index, known[name], marker="os^"[i], color=figures.PALETTE[i], label=name.replace("_", "-"))
axes.set_xlabel("steps")
axes.set_ylabel("largest error")
axes.set_xticks(known.index, known.index)
axes.minorticks_off()
axes.legend(frameon=False)
figures.show(fig, alt="Error of three solvers on a Gaussian with known flow against the number of steps, both axes logarithmic: Euler falls with slope one, Heun and Adams-Bashforth with slope two.", caption="Solvers against the exact flow of a Gaussian: the second-order lines fall fourfold when the steps double.")

# %% [markdown]
# ## Training
#
# All settings of a seed train as one stacked network. The averaged weights of each setting are kept from the round with the lowest CRPS
# on its held-out factual outcomes.

# %%
trained = {}
for seed in seeds:
    data = prepare_tables(tables, seed, place)
    trained[seed] = (data, train_teacher(data, config, seed, checkpoints))
first = trained[seeds[0]][1]
curve = pd.DataFrame([{"seed": seed, "round": entry["round"], "setting": str(s), "crps": crps} for seed, (_, fit) in trained.items() for entry in fit.scores for s, crps in zip(settings, entry["crps"])])
print(f"seed {seeds[0]}: held-out CRPS {first.best_score.mean():.3g} (mean over settings), best rounds {first.best_round.tolist()}")

# %%
fig, axes = figures.new(height=2.6)
for setting, group in curve.groupby("setting"):
    mean = group.groupby("round")["crps"].mean()
    axes.plot(mean.index, mean, color="0.6", linewidth=1, marker=".")
mean = curve.groupby("round")["crps"].mean()
axes.plot(mean.index, mean, color=figures.PALETTE[0], linewidth=2.5, marker="o", label="mean over settings")
axes.plot([], [], color="0.6", linewidth=1, label="one setting")
axes.set_xlabel("optimiser step")
axes.set_ylabel("held-out CRPS")
axes.legend(frameon=False)
figures.show(fig, alt=f"Held-out CRPS of the teacher against the optimiser step, one thin line a setting and their mean, which goes from {mean.iloc[0]:.3g} to {mean.iloc[-1]:.3g}.", caption="Held-out factual CRPS while training, mean over seeds; lower is better. Each setting keeps its best step.")

# %% [markdown]
# ## Which covariates does it use?

# %%
gates = first.modules["teacher"].network.gates.gate.abs().squeeze(1).cpu().numpy()
figures.table(pd.DataFrame([{"setting": s, "gates above 0.02": int((g > 0.02).sum()), "strongest": ", ".join(tables[0].covariates[j] for j in np.argsort(-g)[:5])} for s, g in zip(settings, gates)]))

# %% [markdown]
# ## What makes the teacher worth distilling?
#
# One choice changed at a time, same data, steps and seeds. The criterion is the CRPS of held-out factual outcomes (training rows that were not fitted), paired over settings with
# the teacher as used; the normalised PEHE on test rows stands beside it and decided nothing. *Ensemble of m* pools the draws of m networks trained from
# different seeds, so that a draw still costs one network. `02b_benchmark` uses ensembles; this notebook looks at single networks.

# %%
tried = pd.DataFrame([row for seed in seeds for row in ablation.ablation(tables, seed, config, {name: ablation.VARIANTS[name] for name in ablated}, members, checkpoints, device=place)])
results.record(tried)
by_unit = tried.groupby(["metric", "unit", "method"], sort=False)["value"].mean().unstack("method")
gaps = {name: metrics.paired_difference(by_unit.loc["crps_held_out"][name], by_unit.loc["crps_held_out"]["as used"], np.random.default_rng(0)) for name in by_unit.columns if name != "as used"} if len(settings) > 1 else {}
figures.table(pd.DataFrame([{"variant": name, "held-out CRPS": by_unit.loc["crps_held_out"][name].mean(), "minus as used": gaps[name].mean if name in gaps else np.nan, "low": gaps[name].low if name in gaps else np.nan,
                             "high": gaps[name].high if name in gaps else np.nan, "normalised PEHE (test)": by_unit.loc["pehe_normalised"][name].mean()} for name in by_unit.columns]))

# %% [markdown]
# ## The experiment: how good a forecast is it?
#
# Test rows, factual outcomes. *Ideal* is the score of the true law $\mathcal N(\mu_z(x), 1)$, which no method can beat in expectation; *arm
# marginal* forecasts the empirical law of each arm's training outcomes for everyone. *RMSE of mu* is the error of the mean of the draws as an estimate of
# $\mu_z(x)$ under the factual arm. Lower is better, but for coverage (nominal 0.9) and the sd of the draws (true 1).

# %%
rows = []
for seed, (data, fit) in trained.items():
    found = predict(data, tables, fit.modules["teacher"], lambda m, eps, e: teacher_draws(m, eps, e, steps=sampler_steps), draws, train_draws, checkpoints, f"heun, {sampler_steps} steps")
    for table, mu, sample in zip(tables, found.mu, found.draws):
        test = table.test
        factual = sample[np.arange(len(test)), table.t[test]]
        truth = table.mu[test, table.t[test]]
        marginal = np.stack([np.quantile(table.y[table.train][table.t[table.train] == k], (np.arange(draws) + 0.5) / draws) for k in table.t[test]])
        rows.append({
            "setting": table.unit, "seed": seed, "CRPS": metrics.crps(factual, table.y[test], fair=False), "ideal": metrics.crps_gaussian(truth, np.ones(len(test)), table.y[test]),
            "arm marginal": metrics.crps(marginal, table.y[test], fair=False), "RMSE of mu": metrics.rmse(factual.mean(-1), truth), "coverage of 90 %": metrics.coverage(factual, table.y[test], stratified=True), "sd of draws": sample.std(-1, ddof=1).mean(),
            "normalised PEHE": metrics.pehe_normalised((mu[test, 1] - mu[test, 0]), table.mu[test, 1] - table.mu[test, 0], table.mu),
        })
quality = pd.DataFrame(rows)
figures.table(quality.drop(columns="seed").groupby("setting", sort=False).mean().reset_index())

# %% [markdown]
# ## Which sampler, which grid? A2.C29b, C29c, C29d, C6a, C6b, C6c, C17d
#
# Three papers of the reading list sell few-step samplers: EVODiff (#6) sets the coefficients of a second-order step by projections, DualFast (#29)
# mixes in a cached noise prediction, the Time-Shift sampler (#17) asks the network at the time whose noise variance matches the sample's. None needs training. What is
# the gain once the step grid is chosen, and what is left beside a plain second-order method? Judged on exact scores first, where no network can be
# blamed: 25 Gaussians, mode sd 0.0177 at spacing 0.707, 20 batches of starts.
#
# Steps go from noise to data, a prime marks the next level, $h = 1/\kappa' - 1/\kappa$, $r = (\lambda - \lambda_{\text{prev}})/(\lambda' - \lambda)$ (`Eq. 2m`, `Eq. dualfast`, `Eq. time-shift`):
#
# $$\text{2M: } x' = \tfrac{\sigma'}{\sigma}x + \sigma' h\Bigl[\hat x_0 + \tfrac{1}{2r}(\hat x_0 - \hat x_{0,\text{prev}})\Bigr], \qquad \text{DualFast: } \tilde\varepsilon = \hat\varepsilon + c_i(\hat\varepsilon - \hat\varepsilon_{\text{cached}}), \qquad \text{Time-Shift: } t_s = \arg\min_{\lvert\tau - t\rvert \le w/2} \bigl(v - (1 - \alpha_\tau^2)\bigr)^2 .$$
#
# EVODiff is `Eq. evodiff` in `solvers`, in the released form (`code`), the reported form (`paper`) and with constant coefficients $(\eta, \zeta)$. The schedule $c_i$ of
# DualFast is not available to us: ours is a ramp from 0 to ½, beside constant ½ and a cache of the first step. #6 and #29 publish image FIDs that we cannot measure here;
# directions alone are judged. Two metrics, because they rank grids in opposite ways: **endpoint MSE** against the flow from the same noise, and
# **hallucination rate**, the share of samples more than six mode sds from every mode.
#
# Verdict rules (second act 2.6). **C6a** data form beats ε form at NFE ≤ 10: 2M(data) < 2M(ε) on endpoint MSE and hallucination at N = 5 and 10; refuted if reversed at both.
# **C29b** with exact scores DualFast's gain persists at the same size: relative gain over DDIM at N ≤ 10 within 25 % of the trained model's; refuted if the gain is absent with exact score.
# **C29c** AB2 ≈ DualFast(previous, c = ½): equal to rounding for constant ½, ramped c within 15 % at N ≤ 20. **C29d** on 2M the gain vanishes: the difference covers 0 at every N (we ask for an error
# ratio within 10 % of one). **C6b** EVODiff beats 2M at NFE 5–10 on three models (plane, tabular, image): the image model belongs to `03_counterfactual_images`. **C6c** adaptive better than the constant (¼, ½) baseline.
# **C17d** in two dimensions the variance estimate has no information and Time-Shift harms: worse than DDIM. **Grid thesis** (ours): grid and order explain ≥ 80 % of the log-error variance at NFE ≤ 20 (`Eq. anova`).

# %%
exact = experiment.exact_score_table(list(range(solver_seeds)), solver_starts, tuple(solver_nfe))
figures.table(experiment.over_seeds(exact[exact["grid"] != "every level"], "endpoint_mse"))

# %% [markdown]
# Hallucination rate of the same endpoints (Time-Shift ran on the uniform grid only; the flow itself in 999 steps leaves nobody beyond six sds):

# %%
figures.table(experiment.over_seeds(exact, "hallucination_rate"))

# %%
fig, panels = figures.new(height=4.4, rows=2, sharex=True)
means = exact.groupby(["grid", "sampler", "nfe"])[["endpoint_mse", "hallucination_rate"]].mean()
for axes, metric, name in zip(panels, ("endpoint_mse", "hallucination_rate"), ("endpoint MSE", "hallucination rate")):
    for i, (sampler, grid) in enumerate((s, g) for s in ("ddim", "2m") for g in ("uniform", "log_snr")):
        line = means.loc[(grid, sampler), metric]
        axes.plot(line.index, line, marker="os^D"[i], linestyle="--" if grid == "uniform" else "-", color=figures.PALETTE[i // 2], label=f"{sampler}, {grid.replace('_', '-')}")
    axes.set_ylabel(name)
    axes.set_xscale("log")
panels[0].set_yscale("log")
panels[1].set_xticks(solver_nfe, solver_nfe)
panels[1].minorticks_off()
panels[1].set_xlabel("network evaluations")
panels[0].legend(frameon=False, fontsize=8)
few = solver_nfe[0]
figures.show(fig, alt=f"Endpoint MSE and hallucination rate against network evaluations for DDIM and 2M on two grids. At {few} evaluations DDIM on the uniform grid has MSE {means['endpoint_mse']['uniform', 'ddim', few]:.2g} and rate {means['hallucination_rate']['uniform', 'ddim', few]:.2g}, on the log-SNR grid {means['endpoint_mse']['log_snr', 'ddim', few]:.2g} and {means['hallucination_rate']['log_snr', 'ddim', few]:.2g}.", caption="Exact score, 25 Gaussians: the log-SNR grid (solid) removes hallucinations at once, although DDIM's distance to the flow grows. A second order helps on either grid.")

# %%
shares = experiment.variance_explained(exact)
figures.table(shares.groupby("nfe")[["grid", "order", "grid_and_order", "sampler_and_grid"]].mean().reset_index(), digits=2)

# %% [markdown]
# ### A trained plane
#
# A 128-wide network learns the same 25 Gaussians; distances are still to the flow of the *exact* score, so that the network's own error counts too.

# %%
plane = experiment.trained_plane_table(list(range(plane_seeds)), plane_rounds, max(solver_starts, 20))
figures.table(experiment.over_seeds(plane[plane["grid"] != "every level"], "endpoint_mse"))

# %% [markdown]
# ### The pretrained outcome models
#
# Every setting's teacher, test rows, both arms, fresh noise; the reference is Heun's method with many steps. Endpoint MSE in squared units of the outcome, whose noise
# has variance one, mean over settings and seeds; beside it the sd of the draws, 1 if exact. Grids: $\rho = 7$ (Eq. 5, Karras et al. 2022; the study's own), equal steps in $\ln\sigma$, and equal steps in the
# time of the linear-$\beta$ schedule. A scalar has no variance over pixels, so Time-Shift has no meaning here.

# %%
rows_x = np.stack([table.x[table.test[:flow_rows]] for table in tables])
flows = {seed: experiment.outcome_flow(data, fit.modules["teacher"], rows_x) for seed, (data, fit) in trained.items()}
outcome = experiment.teacher_solver_table(flows, [table.unit for table in tables], flow_rows * data.arms, flow_draws, nfe=tuple(flow_nfe), reference_steps=flow_reference)
figures.table(experiment.over_seeds(outcome[~outcome["grid"].str.contains("steps")], "endpoint_mse"))

# %%
figures.table(experiment.over_seeds(outcome[outcome["sampler"].isin(["ddim", "ab2", "2m", "evodiff_code", "heun"])], "draw_sd"))

# %% [markdown]
# What the study itself uses, at equal passes: the mean distance between a cheap solver's outcome and that of many Heun steps from the same noise
# (first setting, 50 test rows, both arms), and the sd of its draws.

# %%
data, fit = trained[seeds[0]]
one, teacher = only(data, fit.modules["teacher"], 0)
covariates = tables[0].x[tables[0].test[:50]]
noise = sampling.stratified_normal(21, place)
flow = lambda sampler, steps: potential_draws(one, teacher, lambda m, eps, e: teacher_draws(m, eps, e, sampler, steps), covariates, noise)
reference = flow("heun", flow_reference)
cost = pd.DataFrame([
    {"sampler": name, "steps": steps, "passes": sampling.evaluations(name, steps), "distance": np.abs(made - reference).mean(), "sd of draws": made.std(-1, ddof=1).mean()}
    for name in sampling.SAMPLERS for steps in (6, 12, 25, 50) for made in [flow(name, steps)]
])
figures.table(cost, digits=2)

# %%
results.record(experiment.exact_rows(exact, plane, solver_starts))
results.record(experiment.teacher_rows(outcome, "acic2016", flow_rows * data.arms * flow_draws))

# %%
results.claim("A2.C6a")

# %%
results.claim("A2.C29b")

# %%
results.claim("A2.C29c")

# %%
results.claim("A2.C29d")

# %%
results.claim("A2.C6b")

# %%
results.claim("A2.C6c")

# %%
results.claim("A2.C17d")

# %%
results.claim("A2.grid")

# %% [markdown]
# Paired differences behind the verdicts: mean over cells (N = 5 and 10) of the log error ratio, 95 % bootstrap interval over the batches of starts; below zero the first has the lower error.

# %%
pairs = [("2m", "2m_eps", "uniform"), ("2m", "2m_eps", "log_snr"), ("dualfast", "ab2", "uniform"), ("dualfast_2m", "2m", "uniform"), ("dualfast_2m", "2m", "log_snr"), ("evodiff_code", "2m", "uniform"), ("evodiff_code", "2m", "log_snr"),
         ("evodiff_code_plain_end", "evodiff_quarter_half", "uniform"), ("evodiff_code_plain_end", "evodiff_quarter_half", "log_snr"), ("time_shift", "ddim", "uniform"), ("time_shift", "time_shift_another", "uniform")]
logs = exact[exact["nfe"] <= 10].assign(log=lambda t: np.log(t["endpoint_mse"])).groupby(["grid", "sampler", "seed"])["log"].mean()
gaps = {(a, b, g): metrics.paired_difference(logs[g, a], logs[g, b], np.random.default_rng(0)) for a, b, g in pairs}
figures.table(pd.DataFrame([{"first": a, "second": b, "grid": g, "log ratio": d.mean, "low": d.low, "high": d.high} for (a, b, g), d in gaps.items()]), digits=2)

# %%
small = outcome[(outcome["grid"] == "log_snr") & (outcome["nfe"] <= 10)].groupby("sampler")["endpoint_mse"].mean()
print(f"Exact score, {few} evaluations, DDIM: uniform to log-SNR grid changes endpoint MSE from {means['endpoint_mse']['uniform', 'ddim', few]:.2g} to {means['endpoint_mse']['log_snr', 'ddim', few]:.2g} and hallucinations from {100 * means['hallucination_rate']['uniform', 'ddim', few]:.0f} % to {100 * means['hallucination_rate']['log_snr', 'ddim', few]:.0f} %.\n"
      f"Grid and order together explain {100 * shares['grid_and_order'].mean():.0f} % of the log-error variance, sampler and grid {100 * shares['sampler_and_grid'].mean():.0f} %.\n"
      f"Outcome models, log-SNR grid, 5 to 10 evaluations: endpoint MSE of 2M {small['2m']:.2g}, AB2 {small['ab2']:.2g}, EVODiff (released) {small['evodiff_code']:.2g}, DDIM {small['ddim']:.2g}.\n"
      f"Time-Shift against DDIM: log error ratio {gaps['time_shift', 'ddim', 'uniform'].mean:.2g}; of which reading another sample's variance leaves all but {gaps['time_shift', 'time_shift_another', 'uniform'].mean:.2g} (below zero if the own variance helps; 5 and 10 evaluations).")

# %%
heun, multistep = (cost[cost["sampler"] == name].set_index("steps") for name in ("heun", "adams_bashforth2"))
print(f"First setting: 50 Heun steps ({heun['passes'][50]} passes) are {heun['distance'][50]:.2g} from {flow_reference} steps, 12 steps ({heun['passes'][12]} passes) {heun['distance'][12]:.2g};\n"
      f"Adams-Bashforth with {multistep['passes'][25]} passes is {multistep['distance'][25]:.2g} away.")

# %% [markdown]
# ## Rows
#
# The cost of this stage, for `iwdd.E13`: optimiser steps and parameters of one setting's network, and the training time of the stack
# divided by its settings (in the CSV; it differs from run to run).

# %%
for seed, (data, fit) in trained.items():
    parameters = sum(p.numel() for p in fit.modules["teacher"].parameters()) / len(settings)
    for metric, value in (("steps", fit.rounds), ("parameters", parameters), ("seconds_training", fit.seconds / len(settings))):
        results.record([{"experiment": "iwdd.E13", "dataset": "acic2016", "unit": "training", "method": "teacher", "metric": metric, "seed": seed, "value": value, "n": len(settings)}])
results.save()
figures.table(results.rows[(results.rows["experiment"] == "iwdd.E13") & (results.rows["metric"] != "seconds_training")][["method", "metric", "seed", "value"]])

# %%
units = quality.groupby("setting")[["CRPS", "ideal", "arm marginal", "RMSE of mu", "coverage of 90 %", "sd of draws", "normalised PEHE"]].mean()
spread = units.apply(lambda column: pd.Series(metrics.bootstrap_mean(column.to_numpy(), np.random.default_rng(0))._asdict()) if len(column) > 1 else pd.Series({"mean": column.mean()}))
print(f"Profile {profile}: mean over {len(settings)} settings (seeds averaged first: {len(seeds)}), 95 % bootstrap interval over settings")
figures.table(spread.T.rename_axis("quantity").reset_index().drop(columns="n", errors="ignore"))

# %% [markdown]
# ## What holds, what does not
#
# - The denoiser and the three solvers meet their closed forms: the measured orders above are those of theory.
# - The table above says how close the learned law comes to the ideal score. Two errors contribute and CRPS does not separate them: that of
#   the mean, which has its own row, and that of the spread. Nominal coverage alone shows neither, because draws that are too wide
#   hide an error of the mean.
# - Choosing the step by held-out factual CRPS looks at observed outcomes only. It is blind where one arm was hardly seen, and nothing in
#   the data can check the model there.
# - Few Heun steps widen the draws, as the solver table shows, so laws are judged at 50 steps. At a like number of passes the multistep
#   solver is closer to the flow than Heun's in the middle of the range.
# - Of the few-step samplers, the verdicts above are computed from rows: where a named method gains, ask first what a second order and the grid alone gain.
