# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Distillation: does it do what it says?
#
# **Question.** IWDD distils a pretrained diffusion model into a one-step generator $y = G(\varepsilon; x, z)$ under a law of pairs $(x, z)$ in which treatment does not depend on
# covariates. The paper claims that inverse propensity weights can be built into the distillation (`iwdd.C1`), that randomised pairs make them unnecessary (`iwdd.C2`) and provably lower the
# variance of the gradient (`iwdd.C3`), and that the Fisher divergence distils better than Kullback-Leibler (`iwdd.C6`). This notebook takes the mechanism apart: first where the
# truth is known in closed form (`iwdd.E3`, `iwdd.E4`), then on ACIC 2016 (`iwdd.E1`, `iwdd.E2`, `iwdd.E5`, `iwdd.E14`), then how the result should be read and stored. How good the estimates are beside other
# methods is the question of `02b_treatment_effects`.
#
# The paper's theorem and tables are not available to us; `Eq. variance-identity` below is our reconstruction of what its reviews describe.

# %%
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from gencausal import claims, debias, figures, metrics, paths
from gencausal.data import acic, synthetic
from gencausal.data.registry import loaded
from gencausal.data.stack import prepare_tables
from gencausal.diffusion import gaussian_denoiser
from gencausal.distillation import dmd_loss, log_inverse_propensity, sid_loss
from gencausal.estimators import scores
from gencausal.estimators.outcomes import DistillationConfig, TeacherConfig, estimated_propensity, generator_draws, held_out_scores, potential_draws, resolve_device, teacher_draws
from gencausal.experiments import benchmark, designs, gradients, laws as shapes, mechanism, oracle, quantised, readout, shrinkage

# %% tags=["parameters"]
profile = "smoke"  # study profile: smoke, laptop, full or paper
seeds = [0]  # one stack of teachers and generators each
settings = [1, 2]  # settings of ACIC 2016, trained as one stack; 11 to 40 carry the true propensity (mirror)
teacher_rounds = 100  # optimiser steps of the teacher
width = 48  # trunk width of the teacher
weight_decay = 0.1  # of the teacher's weights
gate_penalty = 0.02  # L1 penalty on its feature gates
batch = 128  # rows or pairs a step
distillation_rounds = 40  # generator steps
teacher_score_every = 50  # rounds between held-out scores of the teacher
score_every = 20  # the same of the generators
alpha = 0.5  # coefficient of the SiD loss
laws = ["shuffle", "obs", "ipw"]  # of shuffle, obs, ipw, ipw_true, bernoulli: laws of distillation under the plain teacher
weighted_laws = ["shuffle"]  # the same under teachers trained with inverse propensity weights
teacher_steps = 6  # Heun steps of the teacher's sampler
teacher_draws_test = 42  # draws a test unit and arm of the teacher
draws = 42  # of a generator
train_draws = 1  # draws of the training rows, whose mean alone is used
oracle_seeds = [0]  # networks and streams of the exact teacher
oracle_draws = 2  # data draws an overlap, one stack
oracle_rounds = 12  # rounds of distillation
oracle_start_rounds = 20  # rounds of the start
oracle_n = 1000  # training units
oracle_methods = ["iwdd", "iwdd_obs"]  # of iwdd, iwdd_obs, iwdd_ipw, iwdd_bernoulli, dmd
gradient_seeds = [0]  # teachers, generators and samples of pairs
gradient_settings = [0]  # ACIC settings whose file holds the true propensity, as they are (mirror); 0 is none
gradient_redrawn = [0]  # one-term settings, arms drawn again from propensities in [0.05, 0.95] (mirror); 0 is none
gradient_ks = [0.5, 1.0]  # overlap of the one-dimensional design, arms drawn again likewise
gradient_stages = [5, 20]  # rounds of distillation behind theta
gradient_batches = 20  # batches of 64 pairs a sample
gradient_teacher_rounds = 40  # of its teachers
divergence_seeds = [0]  # of E14
divergence_draws = [0, 1]  # data draws of the bimodal outcome
divergence_rounds = 20  # teacher
divergence_distillation_rounds = 5  # generators
divergence_n = 300  # training units
divergence_units = 25  # test units scored
divergence_alphas = [0.5, 1.2]  # coefficients of the SiD loss
divergence_on_tables = [0.0]  # the same on the settings above, beside alpha and dmd; smoke [0.0]
readout_counts = [1, 5]  # samples in a mean
readout_steps = 50  # Heun steps: fewer widen the law and would look like drift
trajectory_draws = 2  # trajectories a unit and arm
level_means = [-1.2, 1.0]  # ln sigma of the training levels: ours, and shifted to high noise
level_seed = 0  # of the teachers trained at them
shrink_seeds = [0, 1]  # simulated trials a row
quantised_bits = [8, 4]  # of weights and activations
quantised_draws = 20  # draws a unit and arm
quantised_units = 30  # test rows of a table
quantised_steps = 6  # Heun steps of the teacher
calibration_seeds = [0]  # calibration sets a kind
device = "auto"  # auto, cpu, cuda or mps

# %%
teacher_config = TeacherConfig(rounds=teacher_rounds, width=width, batch=batch, score_every=teacher_score_every, weight_decay=weight_decay, gate_penalty=gate_penalty)
base = DistillationConfig(rounds=distillation_rounds, batch=batch, score_every=score_every, alpha=alpha)
plan = benchmark.Plan(teacher_config, {"iwdd": base}, members=1, draws=draws, teacher_draws=teacher_draws_test, train_draws=train_draws, steps=teacher_steps)
place = resolve_device(device)
checkpoints = paths.build(profile) / "checkpoints"
results = claims.open_results(notebook="02a_score_distillation", profile=profile)
print(f"{teacher_config}\n{base}\nsettings {settings}, seeds {seeds}, torch {torch.__version__.split('+')[0]}")

# %% [markdown]
# ## The data
#
# ACIC 2016, as in `01_diffusion_pretraining`. The distillation needs no outcome: only covariates, arms and the teacher. What changes between the laws is which pairs
# $(x, z)$ it sees (`Eq. laws`): as observed (*obs*), observed with weights $w = p(z)/p(z \mid x)$ (*ipw*: logistic regression, cross-fitted; *ipw_true*: the true propensity; both clipped at 0.05),
# treatments permuted over covariates (*shuffle*, the method proper), or $z \sim$ Bernoulli(½).

# %%
tables = loaded(acic.load, settings) or loaded(acic.load, range(1, 11))
settings = [int(table.unit) for table in tables]
data = prepare_tables(tables, seeds[0], place)
rng = np.random.default_rng(0)
driver = [int(np.argmax(np.abs(np.corrcoef(t.x[t.train].T, t.t[t.train])[-1, :-1]))) for t in tables]
x = tables[0].x[tables[0].train, driver[0]]
z = tables[0].t[tables[0].train]
pairs = pd.DataFrame({"observed": z, "shuffled": rng.permutation(z)})
shares = pairs.groupby(pd.qcut(x, 5, labels=False, duplicates="drop")).mean()
fig, axes = figures.new(height=2.4)
for i, law in enumerate(shares.columns):
    axes.plot(np.arange(1, len(shares) + 1), shares[law], marker="os"[i], color=figures.PALETTE[i], label=law)
axes.set_xticks(np.arange(1, len(shares) + 1))
axes.set_ylim(0)
axes.set_xlabel(f"quantile group of {tables[0].covariates[driver[0]]}")
axes.set_ylabel("treated share")
axes.legend(frameon=False)
empty = int((shares["observed"] == 0).sum())
figures.show(fig, alt=f"Share of treated units by quantile group of {tables[0].covariates[driver[0]]}, the covariate most correlated with treatment: from {shares['observed'].max():.2g} down to {shares['observed'].min():.2g} as observed, about {shares['shuffled'].mean():.2g} everywhere once shuffled.", caption=f"What shuffling does, ACIC setting {settings[0]}: treatment no longer depends on the covariate. In {empty} of {len(shares)} groups nobody was treated; there shuffling asks the teacher about pairs that it never saw, and cannot correct it.")

# %%
weights = log_inverse_propensity(data.z, estimated_propensity(data))
figures.table(pd.DataFrame([{"setting": s, "treated share": data.z[i].double().mean().item(), "effective sample size of the weights, share of rows": metrics.effective_sample_size(weights[i].cpu().numpy()) / weights.shape[1]} for i, s in enumerate(settings)]))

# %% [markdown]
# ## The model
#
# Teacher $D_\phi$ (frozen), fake score $D_\psi$ (follows the generator's own law) and generator start from the same weights. With
# $y = D_\theta(\sigma_0\varepsilon; \sigma_0, x, z)$ (`Eq. generator`, $\sigma_0 = 2.5$) and $y_\sigma = y + \sigma\varepsilon'$, the generator descends (`Eq. sid-split`)
#
# $$L_\theta = \mathbb E\; w\, \frac{(1-\alpha)\,(D_\phi - D_\psi)^2 + (D_\phi - D_\psi)(D_\psi - y)}{\mathrm{sg}\left[\max(\lvert y - D_\phi\rvert, 10^{-5})\right]}$$
#
# with gradient through both denoisers, and the fake score descends the loss of `Eq. 8, Karras et al. 2022` on the generator's outcomes under the
# same pair $(x, z)$. `dmd` replaces the Fisher divergence by the Kullback-Leibler divergence (`Eq. dmd`).
#
# Choices of ours: generator and fake score keep the teacher's embedding of $(x, z)$ and train the decoder alone; the generator is chosen, setting by setting, by the CRPS of
# its draws at held-out factual outcomes; a point estimate is the mean of the draws, because $\mu_z$ is a mean (the released code takes medians; `pehe_normalised_median` stands beside it).
#
# ### A case with a known answer
#
# Teacher $\mathcal N(\mu, v)$, fake score exact for a generator $\mathcal N(m, v)$: before the normaliser, $\partial L/\partial y = -\sigma^4(\mu - m)/(\sigma^2+v)^2$ for *every*
# $\alpha$ (`Eq. sid-gradient`), and for `dmd` it is $D_\psi - D_\phi = -\sigma^2(\mu - m)/(\sigma^2 + v)$: both push $m$ towards $\mu$.

# %%
mu, m, v, sigma = (torch.tensor(a, dtype=torch.float64) for a in (1.2, 0.3, 0.2, 0.9))
y = torch.linspace(-1, 1, 5, dtype=torch.float64).reshape(1, 5, 1).requires_grad_(True)
noisy = y + 0.4
d_phi, d_psi = gaussian_denoiser(noisy, sigma, mu, v), gaussian_denoiser(noisy, sigma, m, v)
gap = (y - d_phi).abs().detach().clamp(min=1e-5)
known = [{"loss": f"sid, alpha {alpha}", "gradient": (5 * gap * torch.autograd.grad(sid_loss(y, d_phi, d_psi, alpha).sum(), y, retain_graph=True)[0]).mean().item(),
          "closed form": (-(sigma**4) * (mu - m) / (sigma**2 + v) ** 2).item()} for alpha in (0.0, 0.5, 1.0, 1.2)]
known.append({"loss": "dmd", "gradient": (5 * torch.autograd.grad(dmd_loss(y, d_phi, d_psi).sum(), y)[0]).mean().item(), "closed form": (-(sigma**2) * (mu - m) / (sigma**2 + v)).item()})
figures.table(pd.DataFrame(known), digits=4)

# %% [markdown]
# ## A teacher that is exactly right: `iwdd.E3`
#
# **Question** (a public review). Theory assumes trial data, practice uses a second model. How much error does the distillation add by itself, and can the law of
# the pairs matter when the teacher is right?
#
# **Design.** On $Y(z) \mid x \sim \mathcal N(\mu_z(x), v)$, $\mu_z = \sin 2x + z e^x$, $v = 0.01$, the teacher is the closed form (`Eq. gaussian-denoiser`)
#
# $$D(y_\sigma; \sigma, x, z) = \frac{\sigma^2 \mu_z(x) + v\, y_\sigma}{\sigma^2 + v} .$$
#
# Every mode distils from it, all weights trained. It has no weights to begin from, so generator and fake score begin from a denoiser trained shortly on the factual rows
# (`start`, shown beside). $k = 1$: overlap. $k = \infty$: none, yet this teacher answers everywhere, and only a law that asks everywhere can hear it.
#
# **Verdict rule.** Supported if the student's RMSE to $\mu$ and $W_2$ are near 0 (RMSE < 0.05 sd) in all modes; refuted by residual error with an oracle teacher. `rmse_relative` is over all
# test units and `rmse_relative_central` over those with $\lvert x\rvert < 2$, 95 % of them (`Eq. relative-rmse`): $e^x$ is unbounded, and the few units beyond carry the mean square. The second reading is ours.

# %%
exactly = DistillationConfig(trainable="all", rounds=oracle_rounds, batch=64, generator_lr=5e-3, fake_lr=1e-2, fake_updates=1, beta1=0.5, score_every=oracle_rounds)
modes_ = {"iwdd": exactly, "iwdd_obs": replace(exactly, law="obs"), "iwdd_ipw": replace(exactly, law="ipw"), "iwdd_bernoulli": replace(exactly, law="bernoulli"), "dmd": replace(exactly, divergence="dmd")}
for seed in oracle_seeds:
    results.record(oracle.run([1.0, np.inf], oracle_draws, replace(designs.SMALL, rounds=oracle_start_rounds, score_every=oracle_start_rounds, lr=3e-3), {m: modes_[m] for m in oracle_methods}, seed, n_train=oracle_n, n_test=500, draws=25, folder=checkpoints, device=place))
reached = results.rows[results.rows["experiment"] == "iwdd.E3"].groupby(["dataset", "method", "metric"], sort=False)["value"].mean().unstack("metric")
figures.table(reached[["rmse_relative", "rmse_relative_central", "rmse_inside", "rmse_outside", "w2"]].reset_index())

# %%
results.claim("iwdd.oracle")

# %%
results.claim("iwdd.oracle.reach")

# %%
central = reached["rmse_relative_central"].unstack("dataset").loc[oracle_methods]
missed = ", ".join(f"{m} {v:.2g}" for m, v in central["synthetic_1d k=1"].items() if v >= 0.05) or "none"
print(f"With overlap, central RMSE in sd, modes at or above 0.05: {missed}. Without overlap: " + ", ".join(f"{m} {v:.2g}" for m, v in central["synthetic_1d k=inf"].items())
      + f". Over all units with overlap: {reached.loc['synthetic_1d k=1', 'rmse_relative'][oracle_methods].min():.2g} to {reached.loc['synthetic_1d k=1', 'rmse_relative'][oracle_methods].max():.2g}.")

# %% [markdown]
# ## Is the gradient less noisy? `iwdd.E4`
#
# **Question** (the paper's variance theorem, `iwdd.C3`; its statement is not available to us). Does replacing propensity weights by randomised pairs lower the
# variance of the generator's gradient, and is that a theorem?
#
# **Design.** $g$ is the gradient of the SiD loss of one pair in the decoder's weights, $w = p(z)/p(z \mid x)$ with the *true* propensity, $B = 64$ pairs a batch. Both
# estimators have one mean (`Eq. ipw-identity`), and (`Eq. variance-identity`, our reconstruction)
#
# $$\mathrm{Tr\,Cov}_{\mathrm{IPW}} - \mathrm{Tr\,Cov}_{\mathrm{RAND}} = \frac1B\, \mathbb E_{p(x)p(z)}\bigl[(w-1)\lVert g\rVert^2\bigr], \qquad \mathbb E_{p(x)p(z)}[w] - 1 = \chi^2 .$$
#
# If $\lVert g\rVert^2$ does not go with $w$ the right side is $\chi^2\, \mathbb E\lVert g\rVert^2 / B \ge 0$; where gradients are large at *common* pairs ($w < 1$) it is negative. Left and right
# come from independent samples of pairs, at $\theta$ after a few, a middle and a large number of rounds (at round 0 fake score and teacher agree and $g = 0$).
# Compared are `ipw`, `ipw_clipped` ($e$ within $[0.1, 0.9]$), `ipw_self_normalised`, `shuffle`, `bernoulli` ($z \sim p(z)$, which is RAND); `obs` and
# `bernoulli_half` estimate another gradient and are shown for scale.
#
# The squared norm has a heavy tail: the loss divides by $\lvert y - D_\phi\rvert$, and units far out add theirs. The standard error of a mean of such numbers says little, so
# the identity, true for any vector of a pair, is also tested with norms bounded at their 98 % quantile in a pilot sample (`Eq. bounded`). We added the bound
# after seeing raw scores on the 1-D design further below zero than a standard normal allows; both are shown.
#
# **Verdict rule.** Supported if trace(shuffle) < trace(IPW) everywhere and the difference equals $(1/B)\,\mathbb E[(w-1)\lVert g\rVert^2]$ within Monte Carlo error; refuted by
# a reversed sign in any setting, or no gain against clipped / self-normalised IPW.
#
# Exact first, by enumeration over $x$ in three values: $\lVert g\rVert$ equal everywhere, large at rare pairs, large at common pairs.

# %%
results.record(gradients.toy_rows(gradient_seeds))
exact = results.rows[(results.rows["experiment"] == "iwdd.E4") & results.rows["dataset"].str.startswith("toy_")]
figures.table(exact[exact["method"].isin(["ipw", "identity"])].groupby(["dataset", "metric"], sort=False)["value"].agg(["min", "max"]).unstack("metric").swaplevel(axis=1).sort_index(axis=1).pipe(lambda f: f.set_axis([f"{a}, {b}" for a, b in f.columns], axis=1)).reset_index())

# %% [markdown]
# Then with networks:

# %%
small = replace(designs.SMALL, decoder=16, rounds=gradient_teacher_rounds, score_every=gradient_teacher_rounds)
designs_ = {"synthetic_1d": ([gradients.redrawn(synthetic.load(0, k, 2000, 50), 0.05, 0) for k in gradient_ks], small)}
if any(gradient_settings + gradient_redrawn):
    designs_["acic2016"] = (loaded(acic.load, [s for s in gradient_settings if s]) + [gradients.redrawn(table, 0.05, 0) for table in loaded(acic.load, [s for s in gradient_redrawn if s])], replace(small, gate=0.5, gate_penalty=0.02, lr=3e-3))
for tables_, teacher_ in designs_.values():
    for seed in gradient_seeds:
        results.record(gradients.run(tables_, teacher_, DistillationConfig(batch=128), {f"{rounds} rounds": rounds for rounds in gradient_stages}, seed, batches=gradient_batches, folder=checkpoints, device=place))
measured = results.rows[(results.rows["experiment"] == "iwdd.E4") & results.rows["dataset"].isin(list(designs_))]
identity = measured[measured["method"].isin(["identity", "design"])].groupby(["dataset", "unit", "metric"], sort=False)["value"].mean().unstack("metric")
figures.table(identity[["chi2", "tail_share", "identity_left", "identity_right", "identity_z", "bounded_identity_left", "bounded_identity_right", "bounded_identity_z"]].reset_index())

# %% [markdown]
# Means over seeds; left and right in units of the trace of `bernoulli`; `tail_share` is the part of $\mathbb E\lVert g\rVert^2$ that the largest thousandth of pairs holds. Now the traces,
# raw and with bounded norms, relative to `bernoulli`:

# %%
traces = measured[measured["metric"].isin(["gradient_trace_relative", "bounded_gradient_trace_relative"])].groupby(["dataset", "unit", "metric", "method"], sort=False)["value"].mean().unstack("method")[list(gradients.ESTIMATORS)]
figures.table(traces.xs("bounded_gradient_trace_relative", level="metric").reset_index())

# %%
bounded = traces.xs("bounded_gradient_trace_relative", level="metric")
fig, axes = figures.new(height=3.0)
place_of = measured[measured["metric"] == "chi2"].groupby(["dataset", "unit"], sort=False)["value"].mean().loc[bounded.index]
for i, method in enumerate(("ipw", "ipw_clipped", "ipw_self_normalised", "shuffle")):
    axes.plot(place_of, bounded[method], "os^D"[i], markersize=4, linestyle="none", color=figures.PALETTE[i], label=method)
axes.plot(np.sort(place_of), 1 + np.sort(place_of), color="0.4", linewidth=1, linestyle="--")
axes.axhline(1, color="0.4", linewidth=1, linestyle=":")
axes.set_xscale("log")
axes.set_xlabel("chi2 of the design")
axes.set_ylabel("trace over that of bernoulli")
axes.legend(frameon=False, fontsize=8)
figures.show(fig, alt=f"Trace of the batch gradient's covariance, norms bounded, over that of independent pairs, against chi2: ipw {bounded['ipw'].min():.2g} to {bounded['ipw'].max():.2g}, shuffle {bounded['shuffle'].min():.2g} to {bounded['shuffle'].max():.2g}.", caption="One point a setting and stage, mean over seeds. Dashed: 1 + chi2, what ipw would have if the size of the gradient did not go with the weight. Dotted: independent pairs.")

# %%
scores_ = measured[measured["metric"].isin(["identity_z", "bounded_identity_z"])]
spread = scores_.groupby("metric")["value"].agg(["count", "mean", "std", lambda v: (v.abs() > 2).mean()]).set_axis(["tests", "mean z", "sd of z", "share beyond 2"], axis=1).reset_index()
figures.table(spread)

# %%
results.claim("iwdd.C3")

# %%
results.claim("iwdd.C3.theorem")

# %%
lower = (bounded["shuffle"] < bounded["ipw"]).mean()
against = {m: (bounded["shuffle"] < bounded[m]).mean() for m in ("ipw_clipped", "ipw_self_normalised")}
worst = scores_[scores_["metric"] == "bounded_identity_z"]["value"].abs().max()
reversed_ = exact[(exact["dataset"] == "toy_reversed") & (exact["metric"] == "identity_left")]["value"]
print(f"Norms bounded: trace of shuffle below ipw in {lower:.0%} of settings and stages, below clipped ipw in {against['ipw_clipped']:.0%}, below self-normalised in {against['ipw_self_normalised']:.0%}; largest |z| of the identity {worst:.2g}. "
      f"Constructed laws with large gradients at common pairs: difference {reversed_.min():.2g} to {reversed_.max():.2g} of the trace, so the sign is no theorem.")

# %% [markdown]
# ## Where to put the weights: `iwdd.E1`
#
# **Question** (a public review). Propensities are easy to estimate; a diffusion model and a fake score are harder. Why would one weight *those*?
#
# **Design.** Teachers without weights, with weights from the estimated and (where known) the true propensity, times distillation under none and under each law. One network a
# stack, no ensembles; everything else equal. Normalised PEHE out of sample, and RMSE of each arm.
#
# **Verdict rule.** Supported if shuffle is better than obs and none, not worse than IPW (true e); not supported if shuffle = obs = teacher within the interval, which `Eq. variance-identity` predicts for a generator
# that can match its teacher everywhere.

# %%
stacks, crossed_rows = {}, []
for seed in seeds:
    made, found = mechanism.crossed(tables, seed, plan, laws, weighted_laws, checkpoints, place)
    crossed_rows += made
    stacks[seed] = found
results.record(crossed_rows)
crossed = pd.DataFrame(crossed_rows)
figures.table(scores.summary(crossed, "pehe_normalised"))

# %%
units = crossed[crossed["metric"] == "pehe_normalised"].groupby(["unit", "method"], sort=False)["value"].mean().unstack("method")
arms_ = crossed[crossed["metric"].isin(["rmse_y0", "rmse_y1", "crps", "coverage_90", "draw_sd"])].groupby(["method", "metric"], sort=False)["value"].mean().unstack("metric")
pairs = {method: metrics.paired_difference(units[method], units["iwdd"], np.random.default_rng(0)) for method in units.columns if method != "iwdd"} if len(units) > 1 else {}
figures.table(arms_.join(pd.DataFrame({m: {"PEHE minus iwdd": d.mean, "low": d.low, "high": d.high} for m, d in pairs.items()}).T).reset_index())

# %% [markdown]
# The last three columns are paired over settings, seeds averaged first: above zero `iwdd` (shuffle) has the lower error. All but coverage (nominal 0.9) and the sd of the draws (true 1) are better when lower.

# %%
fig, panels = figures.new(height=4.6, rows=2, sharex=True)
curve = pd.DataFrame([{"method": method, "round": entry["round"], "held-out CRPS": np.mean(entry["crps"]), "sd of draws": np.mean(entry["draw_sd"])}
                      for found in stacks.values() for method in found[""].students for entry in found[""].scores[method]]).groupby(["method", "round"], sort=False).mean().reset_index()
level = {name: np.mean([held_out_scores(found[""].data, found[""].teachers[0], lambda module, eps, e: teacher_draws(module, eps, e, steps=teacher_steps))[key].mean().item() for found in stacks.values()]) for name, key in (("held-out CRPS", "crps"), ("sd of draws", "draw_sd"))}
for axes, quantity in zip(panels, level):
    for i, (method, group) in enumerate(curve.groupby("method", sort=False)):
        axes.plot(group["round"], group[quantity], marker="os^Dvx"[i], markersize=4, color=figures.PALETTE[i], label=method)
    axes.axhline(level[quantity], color="0.3", linestyle="--", linewidth=1.2, label=f"teacher, {teacher_steps} steps")
    axes.set_ylabel(quantity)
panels[1].axhline(1.0, color="0.3", linestyle=":", linewidth=1.2)
panels[1].set_xlabel("generator step")
panels[0].legend(frameon=False, fontsize=8)
last = curve.groupby("method", sort=False).last()
figures.show(fig, alt="Held-out CRPS and sd of the draws against the generator step. At the last step: " + "; ".join(f"{row.Index} CRPS {row[2]:.3g}, sd {row[3]:.3g}" for row in last.itertuples()) + f"; teacher CRPS {level['held-out CRPS']:.3g}, sd {level['sd of draws']:.3g}.", caption="Stability of the distillation: mean over settings and seeds. Two things can go wrong without the loss showing it, draws that collapse and draws that spread. Dashed: the teacher; dotted: the true noise, about 1.")

# %%
results.claim("iwdd.C1")

# %%
results.claim("iwdd.C2")

# %% [markdown]
# ## Where the teacher never trained: `iwdd.E2`
#
# **Question** (a public review). Randomised pairs ask the teacher about combinations that it never saw. Does the distillation repair it there?
#
# **Design.** Test units binned by overlap $\min(e, 1-e)$, factual and counterfactual arm apart; then $\lvert\text{error of student}\rvert - \lvert\text{error of teacher}\rvert$ regressed on overlap, setting by setting.
# The propensity is the true one where every setting has it, otherwise a cross-fitted logistic regression on the training rows.
#
# **Verdict rule.** Reproduced if the difference is negative where overlap is poor and shrinks with overlap (slope > 0); not reproduced if the slope is 0 or negative.

# %%
true_e = mechanism.true_propensity(tables) is not None
propensity = [table.propensity if true_e else mechanism.logistic_propensity(table) for table in tables]
overlap_rows = [row for seed in seeds for row in mechanism.overlap_errors(tables, seed, {m: stacks[seed][""].predictions[m].mu for m in ("teacher", *stacks[seed][""].students)}, propensity)]
results.record(overlap_rows)
binned = pd.DataFrame(overlap_rows)
cells = binned[(binned["metric"] == "rmse_normalised") & binned["method"].isin(["teacher", "iwdd"])].groupby(["dataset", "method"])["value"].mean().unstack("method").reset_index()
cells[["overlap from", "arm"]] = cells["dataset"].str.extract(r"overlap([0-9.]+)_(\w+)")
print("Propensities: " + ("true" if true_e else "estimated"))
figures.table(cells.sort_values(["arm", "overlap from"])[["arm", "overlap from", "teacher", "iwdd"]])

# %%
slopes = binned[binned["metric"] == "slope_overlap"].groupby(["unit", "method"], sort=False)["value"].mean().unstack("method")
spread = {m: metrics.bootstrap_mean(slopes[m].to_numpy(), np.random.default_rng(0)) for m in slopes.columns} if len(slopes) > 1 else {}
figures.table(pd.DataFrame([{"method": m, "slope of excess error on overlap": d.mean, "low": d.low, "high": d.high, "units": d.n} for m, d in spread.items()]))

# %%
results.claim("iwdd.E2")

# %% [markdown]
# ## Which rows to distil on: `iwdd.E5`
#
# **Question** (a public review). Which sample is used for the distillation? **Design.** Covariates of the training rows (as everywhere), of training and test rows together (*transductive*; no outcome is used), and
# training rows with Gaussian noise of 0.1 sd. **Verdict rule.** The ranking of E1 is unchanged; otherwise it depends on the choice.

# %%
pooled = [row for seed in seeds for row in mechanism.pools(tables, seed, stacks[seed][""], base, draws, checkpoints)]
pooled += [{**row, "experiment": "iwdd.E5"} for row in crossed_rows if row["method"] in ("iwdd", "teacher", "iwdd_obs") and row["metric"] in ("pehe_normalised", "crps")]
results.record(pooled)
figures.table(scores.summary(pd.DataFrame(pooled), "pehe_normalised"))

# %%
results.claim("iwdd.E5")

# %% [markdown]
# ## Fisher against Kullback-Leibler: `iwdd.E14`
#
# **Question** (a public review; `iwdd.C6`). The authors prefer the Fisher divergence. The released KL ablation multiplies two normals as noise (defect D14); is KL worse with that mended, and at which $\alpha$?
#
# **Design.** $\alpha \in \{0, \tfrac12, 1, 1.2\}$ of `Eq. sid` against `Eq. dmd` from one teacher at one budget, levels and noise shared. Outcome: two modes at $m_z(x) \pm (1 + z/2)$ of sd 0.25 and masses that depend on $x$ (`Eq. laws-of-outcomes`).
# The share of true mode mass found is $\sum_c \min(p_c, q_c)$, $q_c$ the share of draws within 3 sd of mode $c$ (`Eq. mode-mass`). The teacher's configuration was chosen by held-out CRPS on a data draw that is not used here;
# its own row says how much there was to distil.
#
# **Verdict rule.** Supported if SiD is better at its best $\alpha$ and at 0.5; refuted if DMD is equal or better.

# %%
family = shapes.family(replace(designs.QUICK, rounds=divergence_distillation_rounds, score_every=max(divergence_distillation_rounds // 2, 1)), tuple(divergence_alphas))
for seed in divergence_seeds:
    made, sampled = shapes.kinds_run(["bimodal"], divergence_draws, replace(designs.SMALL, rounds=divergence_rounds, levels=8, score_every=max(divergence_rounds // 4, 1)), family, seed, divergence_n, divergence_units, folder=checkpoints, device=place)
    results.record(shapes.distribution_rows(made, sampled, seed, "iwdd.E14"))
modal = results.rows[(results.rows["experiment"] == "iwdd.E14") & (results.rows["dataset"] == "synthetic_bimodal")]
table_ = modal.groupby(["method", "metric"], sort=False)["value"].mean().unstack("metric").loc[["truth", "teacher", *family]]
figures.table(table_[["mode_mass", "w1", "w2", "crps", "pit_ks", "coverage_90", "width_90"]].reset_index())

# %%
unit, cell = made[0], int(np.argmin(np.abs(made[0].table.x[made[0].table.test]).sum(1)))
fig, axes = figures.new(height=2.6)
share = (np.arange(sampled["teacher"].shape[-1]) + 0.5) / sampled["teacher"].shape[-1]
for i, (name, values) in enumerate({"truth": unit.quantiles[unit.table.test][cell, 1], **{m: np.sort(sampled[m][0, cell, 1]) for m in ("teacher", "sid_0.5", "dmd")}}.items()):
    axes.plot(values, share, color="0.3" if name == "truth" else figures.PALETTE[i - 1], linestyle="--" if name == "truth" else "-", label=name)
axes.set_xlabel("outcome")
axes.set_ylabel("distribution function")
axes.legend(frameon=False, fontsize=8)
figures.show(fig, alt=f"Distribution function of Y(1) at one test unit: truth, teacher, sid 0.5 and dmd. Share of mode mass found, mean over units: teacher {table_.loc['teacher', 'mode_mass']:.2g}, sid_0.5 {table_.loc['sid_0.5', 'mode_mass']:.2g}, dmd {table_.loc['dmd', 'mode_mass']:.2g}.", caption="A step between the modes is flat in the truth; a line that rises there puts draws where no outcome lies.")

# %% [markdown]
# The same on ACIC 2016, from the teachers of E1 at their budget:

# %%
on_tables = [row for seed in seeds for row in shapes.divergences(stacks[seed][""].data, tables, stacks[seed][""].teachers[0], base, seed, checkpoints, tuple(divergence_on_tables))]
results.record(on_tables)
compared_ = pd.DataFrame(on_tables)
figures.table(compared_.groupby(["method", "metric"], sort=False)["value"].mean().unstack("metric").reset_index())

# %%
results.claim("iwdd.C6")

# %%
best = table_.loc[list(family)[:-1], "w2"].idxmin()
print(f"W2 to the truth: {best} (best alpha) {table_.loc[best, 'w2']:.3g}, sid_0.5 {table_.loc['sid_0.5', 'w2']:.3g}, dmd {table_.loc['dmd', 'w2']:.3g}, teacher {table_.loc['teacher', 'w2']:.3g}; share of mode mass found: {best} {table_.loc[best, 'mode_mass']:.3g}, dmd {table_.loc['dmd', 'mode_mass']:.3g}, teacher {table_.loc['teacher', 'mode_mass']:.3g}.")

# %%
single = {seed: (found[""].data, found[""].teachers[0]) for seed, found in stacks.items()}

# %% [markdown]
# ## How should a diffusion regressor be read out? `A2.C31a`, `A2.C31b`, `A2.C31c`
#
# Reading-list item #31 (ADDP, *Aligning generative denoising with discriminative objectives*, ICLR 2025) finds that early denoising steps matter most and that quality drops late. No public code; what follows is our reading
# for a scalar outcome, where nothing needs to drift: at pure noise $\hat x_0 = D(0; \sigma_\max, x, a)$ is already $\mathbb E[Y \mid x, a]$, and a perfect model's prediction must move away from it,
#
# $$\mathbb E\,(\hat x_0(\sigma) - \mu_a(x))^2 = \mathrm{Var}(Y \mid x, a) - \mathbb E\,\mathrm{Var}(Y \mid y_\sigma, x, a)\ \overset{\text{Gauss}}{=}\ \frac{v^2}{v + \sigma^2}\qquad\text{(`Eq. total-variance`)}$$
#
# while the mean of $K$ samples has error bias² + $v/K$ (`Eq. k-samples`). Samples are independent between the arms; `sample_1_common` gives both arms the same noise.
#
# Verdict rules of the specification. C31a "√PEHE of the one-step mean ≤ that of a single full sample, equal to the K → ∞ mean": *reproduced if* "both within intervals"; *refuted* "one-step mean worse than the K = 200 mean". C31b
# "RMSE of x̂0(t) to μ_a(x) rises along the trajectory exactly by the posterior variance": *reproduced if* "measured curve within 10 % of the law-of-total-variance curve"; *refuted* "excess beyond it (then there is true drift)". C31c
# "reweighting t toward high noise improves PEHE at a fixed training budget and worsens CRPS": *reproduced if* "both signs"; *refuted* "either sign reversed".

# %%
read, path = [], []
for seed, (data, teacher) in single.items():
    read += readout.readout(data, tables, teacher, seed, tuple(readout_counts), readout_steps)
    path += readout.trajectory(data, tables, teacher, seed, trajectory_draws, readout_steps)
results.record(read)
results.record(readout.trajectory_rows(path, len(tables[0].test)))
read = pd.DataFrame(read).groupby(["method", "metric"], sort=False)["value"].mean().unstack("metric")
figures.table(read.reset_index())

# %%
curve_ = pd.DataFrame(path).groupby(pd.DataFrame(path).groupby(["unit", "seed"]).cumcount())[["sigma", "mse", "rise", "curve", "shift"]].mean()
fig, axes = figures.new(height=2.6)
axes.plot(curve_["sigma"], curve_["mse"], color=figures.PALETTE[0], label="error of the prediction")
axes.plot(curve_["sigma"], curve_["mse"].iloc[0] + curve_["curve"], "--", color=figures.PALETTE[1], label="its first value plus the law of total variance")
axes.set_xscale("log")
axes.invert_xaxis()
axes.set_xlabel("noise level (denoising runs to the right)")
axes.set_ylabel("mean squared error")
axes.legend(frameon=False, fontsize=8)
figures.show(fig, alt=f"Mean squared error of the prediction to the true mean along the sampler: {curve_['mse'].iloc[0]:.3g} at pure noise, {curve_['mse'].iloc[-1]:.3g} at the end; the law of total variance predicts {curve_['mse'].iloc[0] + curve_['curve'].iloc[-1]:.3g} there.", caption="Later predictions are worse estimates of the mean, because they become samples. Mean over settings and seeds.")

# %%
shifted = pd.DataFrame(readout.reweighted(prepare_tables(tables, level_seed, place), tables, teacher_config, level_means, level_seed, checkpoints, draws, teacher_steps))
results.record(shifted)
figures.table(shifted.groupby(["method", "metric"], sort=False)["value"].mean().unstack("metric").reset_index())

# %%
results.claim("A2.C31a")

# %%
results.claim("A2.C31b")

# %%
results.claim("A2.C31c")

# %%
most = max(readout_counts)
print(f"Normalised PEHE: one-step mean {read.loc['one_step', 'pehe_normalised']:.3g}, one sample {read.loc['sample_1', 'pehe_normalised']:.3g}, mean of {most} {read.loc[f'sample_{most}', 'pehe_normalised']:.3g}. "
      f"Error along the trajectory rises by {curve_['rise'].iloc[-1]:.3g} where the law of total variance says {curve_['curve'].iloc[-1]:.3g}.")

# %% [markdown]
# ## Is the estimated outcome shrunk? `A2.C3a`, `A2.C3d`
#
# Reading-list item #3 (*One map, many trials*, arXiv 2508.01341) warns that outcomes predicted by a model shrink towards their mean and attenuate effects, and corrects them by a line fitted on
# calibration rows (`Eq. lcc`) or by Tweedie's formula (`Eq. tweedie`):
#
# $$\tilde y = (\hat y - m)/k,\qquad \tilde y = \hat y - \hat\sigma^2\,\partial_{\hat y}\ln \hat p(\hat y)\qquad (\hat y \approx m + k y)$$
#
# Both assume $\hat Y \perp A \mid Y$ (`Eq. surrogate`). A diffusion regressor has the arm among its inputs, so the condition fails by design. Question: is the one-step mean shrunk, and does the correction help?
#
# Design. Slope of $\hat y = \hat\mu_t(x)$ on $y$ and on $\mu_t(x)$; calibration on held rows, evaluation on test rows; average effect and PEHE before and after. First the paper's situation in closed form
# (`Eq. surrogate-toy`), without and with a direct path from the arm to the features.
#
# Verdict rules of the specification. C3a "slopes .535 / 1.007 / .995 / .806 / .983": *reproduced if* "each within ± .03 (naive with dropout on)", and here, on other data, only its direction: "naive attenuated, corrected within 5 %"; *refuted*
# "not attenuated". C3d *reproduced if* "abs bias > .3 for both (predicted overshoot to 1.7 at truth .965)"; *refuted* "unbiased". The paper's simulation itself belongs to another notebook.

# %%
toy = pd.DataFrame([row for direct in (0.0, 1.0) for row in shrinkage.surrogate(shrink_seeds, direct)])
results.record(toy)
known = pd.DataFrame([{"direct path": direct, "method": method, "closed form": value, "measured": toy[(toy["unit"] == f"direct={direct:g}") & (toy["method"] == method) & (toy["metric"] == "ate")]["value"].mean()}
                      for direct in (0.0, 1.0) for method, value in shrinkage.closed_form(direct).items()])
figures.table(known)

# %% [markdown]
# Now the one-step mean of the teacher, every setting and seed:

# %%
shrunk = []
for seed, (data, teacher) in single.items():
    mu = potential_draws(data, teacher, readout.one_step, np.stack([t.x for t in tables]), torch.zeros(1, device=place))[..., 0]
    shrunk += shrinkage.shrinkage(tables, mu, seed)
shrunk = pd.DataFrame(shrunk)
results.record(shrunk)
by = shrunk.groupby(["method", "metric"], sort=False)["value"].mean().unstack("metric")
figures.table(by.loc[["one_step"], ["slope_y", "slope_mu", "slope_calibration", "slope_k"]].reset_index())

# %%
effects_ = shrunk[shrunk["metric"] == "ate"].groupby(["unit", "method"], sort=False)["value"].mean().unstack("method")
corrected = ["one_step", "one_step_lcc", "one_step_tweedie"]
table_ = by.loc[corrected, ["ate", "ate_error", "pehe_normalised"]].reset_index()
if len(effects_) > 2:
    table_["slope on the true effect"] = [debias.slope_test(effects_[m], effects_["truth"]).slope for m in corrected]
    table_["p of slope 1, intercept 0"] = [debias.slope_test(effects_[m], effects_["truth"]).p for m in corrected]
figures.table(table_)

# %%
results.claim("A2.C3a")

# %%
results.claim("A2.C3d")

# %%
print(f"Slope of the one-step mean on y {by.loc['one_step', 'slope_y']:.3g}, on mu {by.loc['one_step', 'slope_mu']:.3g}. Error of the average effect: {by.loc['one_step', 'ate_error']:.3g} as it is, "
      f"{by.loc['one_step_lcc', 'ate_error']:.3g} after LCC, {by.loc['one_step_tweedie', 'ate_error']:.3g} after Tweedie. A slope below one on noisy outcomes is calibration, not bias of effects.")

# %% [markdown]
# ## The 8-bit row of the cost table: `A2.C20c`, `A2.C20d`
#
# Reading-list item #20 (*Post-training quantization on diffusion models*, arXiv 2211.15736) stores a diffusion model in 8 bits, activations calibrated on samples along the denoising path at
# normally distributed times, "while maintaining or even improving" quality (its own Table 5 has FID worse in 5 of 6 rows). Question: does the causal answer survive?
#
# $$x_\mathrm{sim} = s\,\big(\mathrm{clamp}(\mathrm{round}(x/s) - z,\ p_\min, p_\max) + z\big),\quad (s, z) = \arg\min \overline{\lvert x_\mathrm{sim} - x\rvert^{2.4}}\text{ over 100 ranges}\qquad\text{(`Eq. quantise`, `Eq. search`)}$$
#
# Design. Weights symmetric, one step an output channel; inputs of every layer, the noise embedding and the noisy outcome one $(s, z)$ a tensor; SiLU and sums stay float. The teacher is calibrated on
# `ndtc`, $t \sim \mathcal N(0.4\,T, (0.4\,T)^2)$; the generator on its only input, $\sigma_0\varepsilon$. 16 bits are the negative control. This is a simulation of the arithmetic: bytes are counted, time is not measured.
#
# Verdict rules of the specification. C20c "8 bit leaves √PEHE and ATE of IWDD within one bootstrap SE, 4 bit does not": *reproduced if* "both parts hold"; *refuted* "8 bit shifts by > 1 SE, or 4 bit does not". C20d "the effect is more
# robust than sample quality, because errors common to both arms cancel": *reproduced if* "relative change of ATE < relative change of sliced W2 at 6 and 4 bits; error covariance of the arms > 0"; *refuted* "reversed".

# %%
measured = []
for seed, (data, teacher) in single.items():
    models = {"iwdd": (stacks[seed][""].students["iwdd"][0], generator_draws(base.sigma_init), "one_step"),
              "teacher": (teacher, lambda module, eps, e: teacher_draws(module, eps, e, steps=quantised_steps), "ndtc")}
    measured += quantised.quantised(data, tables, models, quantised_bits, seed, quantised_draws, sigma_init=base.sigma_init, units=quantised_units)
measured = pd.DataFrame(measured)
results.record(measured)
cost_ = measured.groupby(["method", "metric"], sort=False)["value"].mean().unstack("metric")
figures.table(cost_[["bytes", "pehe_normalised", "ate_error", "crps", "w2", "pehe_shift", "ate_shift"]].dropna(how="all").dropna(how="all").reset_index())

# %% [markdown]
# Rows `_se` hold the bootstrap standard error of the float model beside the shifts. `w2` is the distance of a unit's quantised draws from its float draws. Which side gives way first, the effect or the law (`Eq. change`, `Eq. cancel`)?

# %%
figures.table(cost_[["ate_change", "w2_change", "arm_error_correlation"]].dropna().reset_index())

# %% [markdown]
# The calibration set, teacher only (mean W2 to the float draws; the paper's order is images ≪ forward-noised ≈ noise < uniform t ≤ ndtc at 8 bits):

# %%
data, teacher = single[seeds[0]]
kinds = pd.DataFrame(quantised.calibrations(data, tables, teacher, lambda module, eps, e: teacher_draws(module, eps, e, steps=quantised_steps), [8, 4], calibration_seeds, quantised_draws, units=quantised_units))
results.record(kinds)
figures.table(kinds.groupby("method", sort=False)["value"].agg(["mean", "min", "max"]).reset_index())

# %%
results.claim("A2.C20c")

# %%
results.claim("A2.C20d")

# %%
units_of_se = {b: cost_.loc[f"iwdd_{b}bit", "pehe_shift"] / cost_.loc["iwdd_se", "pehe_shift"] for b in quantised_bits}
print("Shift of the generator's PEHE in standard errors: " + ", ".join(f"{b} bit {v:.2g}" for b, v in units_of_se.items()) + f". Bytes: {cost_.loc['iwdd_float', 'bytes']:.0f} float, {cost_.loc['iwdd_8bit', 'bytes']:.0f} at 8 bits. "
      + "; ".join(f"{b} bit: ATE moves {cost_.loc[f'iwdd_{b}bit', 'ate_change']:.2g}, W2 {cost_.loc[f'iwdd_{b}bit', 'w2_change']:.2g} (relative)" for b in quantised_bits if b <= 6))

# %%
results.save()
best = units.mean().sort_values()
print(f"Profile {profile}, {len(settings)} settings, {len(seeds)} seeds. Lowest mean normalised PEHE of E1: {best.index[0]} {best.iloc[0]:.3g}; highest: {best.index[-1]} {best.iloc[-1]:.3g}.\n"
      + "\n".join(f"{m} against iwdd: {d.mean:+.2g} [{d.low:+.2g}, {d.high:+.2g}]" for m, d in pairs.items()))

# %% [markdown]
# ## What holds, what does not
#
# - The verdicts above are computed from the rows. A generator that matches its teacher at every $(x, z)$ is optimal under every law of full support, so laws can differ through
#   limited capacity and optimisation alone. Differences between laws that are small beside the teacher's own error are what `Eq. variance-identity` leads one to expect.
# - The variance identity holds, and with it its condition: randomised pairs have the smaller gradient variance where the squared gradient is not concentrated on pairs of small weight. The
#   constructed case shows the sign reversed, so "provably" needs that condition.
# - Distillation cannot repair a teacher that is wrong where an arm was rarely seen: the generator's only source there is the teacher.
