# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What can be trusted in a counterfactual image?
#
# **Question.** Four questions of a reading list to the images of notebook `03a`: does the causal layer of a diffusion autoencoder do what it says (#19), what would a probe read in a network that learned nothing (#18), can a user tell which
# images are made up (#27), and do eight bits change the answer (#20)? The true structural model and a reading from the pixels are the judges.

# %%
import pandas as pd

from gencausal import claims, figures, paths
from gencausal.counterfactual import Sampling
from gencausal.estimators.outcomes import resolve_device
from gencausal.experiments import autoencoders, pictures, probes, quantised_pictures, trust

# %% tags=["parameters"]
profile = "smoke"  # study profile: smoke, laptop, full or paper
worlds = ["pendulum"]  # of pendulum, flow and morphomnist
size = 32  # side of Pendulum and Flow images
digits = 60  # MorphoMNIST images rebuilt from digits, a fifth of them test
units = 4  # held-out images a world and seed, each under one value a target
tuning_units = 4  # training images on which constants are chosen
seeds = [0]  # streams of units, values and noise
scratch = True  # train anew even where weights are published
rounds = 16  # optimiser steps of the generator and of its rivals
guide_rounds = 16  # of guide and predictor
batch = 16  # images a step
width = 16  # channels of the first map
steps = 4  # guided steps, and as many of inversion
kappas = [0.05, 0.2]  # strengths that every rule chooses from
ways = ["causaldiffae", "causaldiffae_one_hop", "diffae", "label_ddpm"]  # diffusion models that are compared
flow_ways = ["causaldiffae", "causaldiffae_one_hop"]  # and on Flow, whose question is the hop
layer_units = 4  # held-out images a world on which the causal layer and the quantised networks are tested
null_draws = 19  # re-initialised networks behind every p
probe_images = 60  # training images that a readout is fitted on
dci_images = 60  # training images of the code's disentanglement, in five parts
quantised_bits = [8, 4]  # of weights and activations
calibration_images = 8  # noisy images that calibrate the quantiser
control_starts = 60  # noises of the exact-score control
device = "auto"  # auto, cpu, cuda or mps

# %%
place = resolve_device(device)
folder = paths.build(profile) / "checkpoints"
results = claims.open_results(notebook="03c_image_trust", profile=profile)
sizes = pictures.sizes(rounds, guide_rounds, batch, width)
options = {"pendulum": {"size": size}, "flow": {"size": size}, "morphomnist": {"n": digits, "folder": folder}}
benches = {(world, seed): pictures.bench(world, units, seed, **options[world]) for world in worlds for seed in seeds}
trainers = {world: pictures.Trainer(benches[world, seeds[0]], folder, place, not scratch) for world in worlds}
denoisers = {world: trainers[world].generator(sizes.generator) for world in worlds}
guides = {world: trainers[world].guide(sizes.guide, denoiser=denoisers[world]) for world in worlds}
judges = {world: trainers[world].predictor(sizes, seed=1) for world in worlds}
choice, tried = pictures.chosen(pictures.bench(worlds[0], tuning_units, 0, rows="train", **options[worlds[0]]), denoisers[worlds[0]], guides[worlds[0]], Sampling(steps=steps), {"adaptive": kappas}, folder=folder)
sampling = Sampling(steps=steps, kappa=choice["adaptive"])
figures.table(pd.DataFrame(tried))

# %% [markdown]
# ## Does the causal layer do what it says? `A2.C19a` to `A2.C19d`
#
# **Question.** CausalDiffAE (Komanduri, Zhao, Chen, Wu, arXiv 2404.17735) puts a causal layer $z_i = f_i(z_{\mathrm{pa}}) + u_i$ into the code of a diffusion autoencoder (`Eq. causaldiffae-loss`). Its own tables are not
# available to us; its claims can be tested where the true structural model is known.
#
# **Design.** One backbone and budget, the same units and targets as above. `causaldiffae`: the graph is given and parents enter by their value. `causaldiffae_one_hop`: parents enter by their noise, as in the
# released code, with the intervention made before the hop (`Eq. one-hop`). `diffae`: the same without an edge. `label_ddpm`: a diffusion model that is told the unit's labels and gets the intervened one replaced (`Eq. label-ddpm`);
# `label_ddpm_scm`, a control of ours, also moves the labels that follow, by the mechanisms of our guide. The parent's change under do(child) is compared with the oracle's own reading error (`Eq. parent-shift`), the child's change under
# do(parent) with the true slope (`Eq. do-slope`), null interventions and interventions there and back with the method's own reconstruction (`Eq. cycles`).
#
# **Rules.** *C19a* reproduced if `causaldiffae` has a lower error of the descendants than `label_ddpm` and `diffae`. *C19b* (MorphoMNIST) if do(intensity) moves the thickness by no more than the reading error and do(thickness) moves the
# intensity by the true slope within 15 %. *C19c* if composition and reversibility are within twice the reconstruction error. *C19d* if one hop is as good where the graph is one edge deep (Pendulum, MorphoMNIST) and worse on
# Flow, whose ball, height and flow are a chain. (The chain variant of Pendulum would not tell: there the angle is a direct parent of the shadow too, so one hop already sees everything.)

# %%
networks = {world: autoencoders.trained(trainers[world], sizes, tuple(flow_ways if world == "flow" else ways)) for world in worlds}
small = {(world, seed): pictures.bench(world, layer_units, seed, **options[world]) for world, seed in benches}
for (world, seed), b in small.items():
    results.record(autoencoders.compare(b, autoencoders.draws(networks[world], Sampling(steps=steps), seed, guides[world].scm), seed))
layers = results.rows[(results.rows["experiment"] == autoencoders.EXPERIMENT)]
figures.table(layers[layers["metric"].isin(["acm_intervened", "acm_descendant", "acm_nondescendant", "parent_shift", "composition", "reversibility"])].groupby(["dataset", "method", "metric"], sort=False)["value"].mean().unstack("metric").reset_index())

# %% [markdown]
# The slope of every edge whose true mechanism is monotone, beside the true one; the shadow's length, which rises and falls with both of its parents, has none.

# %%
slopes = layers[layers["metric"] == "do_slope"].assign(edge=lambda f: f["unit"].str.split("/").str[0])
figures.table(slopes.groupby(["dataset", "edge", "method"], sort=False)["value"].mean().unstack("method").reset_index())

# %%
results.claim("A2.C19a")

# %%
results.claim("A2.C19b")

# %%
results.claim("A2.C19c")

# %%
results.claim("A2.C19d")


# %% [markdown]
# ## What would a probe read in a network that learned nothing? `A2.C18a`, `A2.C18b`
#
# **Question.** A probe can read much from random features (The Dead Salmons of AI Interpretability, arXiv 2512.18792, seen in a summary). What do our numbers mean beside networks whose weights were drawn anew?
#
# **Design.** Factors are read from the last hidden layer of the guide and of the judge and from CausalDiffAE's code by ridge regression on training images, penalty by leaving one row out (`Eq. readout`), scored by $R^2$ on the
# held-out units. The same search runs on re-initialised networks and gives $p = (1 + \#\{T_b \ge T\})/(B + 1)$ (`Eq. monte-carlo-p`). Chance is the same readout with permuted labels. Disentanglement and completeness of the code
# (`Eq. dci`, importances of gradient boosting) have the same null. **Rules.** *C18a* reproduced if at least 95 % of the re-initialised networks beat chance; *C18b* if every factor has $p \le 0.05$.

# %%
for (world, seed), b in benches.items():
    found = probes.networks(b, sizes, guides[world], judges[world], networks[world]["causaldiffae"])
    results.record(probes.probe_rows(b, found, seed, null_draws, probe_images))
    for method in [name for name in ("causaldiffae", "diffae") if name in networks[world]]:
        results.record(probes.dci_rows(b, method, found["causaldiffae"]._replace(trained=networks[world][method]), seed, null_draws if method == "causaldiffae" else 0, n=dci_images))
read_ = results.rows[results.rows["experiment"] == probes.EXPERIMENT]
figures.table(read_[read_["metric"].isin(["probe_r2", "p_value"])].groupby(["dataset", "method", "unit", "metric"], sort=False)["value"].mean().unstack("metric").reset_index())

# %% [markdown]
# Disentanglement and completeness of the code. One number of a third party's run of the released code on MorphoMNIST is known (second-hand, 210,400 steps, a code of 512 numbers): D about 0.99, C about 0.53. Completeness depends on the size of the
# code, ours has 16 numbers a factor.

# %%
dci = results.rows[results.rows["metric"].isin(["disentanglement", "completeness"]) | results.rows["method"].str.endswith("_dci")]
figures.table(dci.groupby(["dataset", "method", "metric"], sort=False)["value"].agg(["mean", "min", "max"]).reset_index())

# %%
results.claim("A2.C18a")

# %%
results.claim("A2.C18b")

# %%
results.claim("A2.C19.disentanglement")


# %% [markdown]
# ## Which of these images are made up? `A2.C27d`
#
# **Question.** A user has no truth. Does the sampling itself tell which counterfactual images are wrong? Mode interpolation (arXiv 2406.09358) finds hallucinations of unconditional samples by the variance of the denoised images over the last steps.
#
# **Design.** The guided method, every unit under every target, the oracle's error of each image in sd beside scores that need no truth: `hal`, the variance over the last $K = \min(10, N/2)$ steps (`Eq. hal`);
# `reconstruction`, the round trip of the factual image (`Eq. round-trip`); `residual`, how far the guide's reading of its own image is from what it aimed at (`Eq. residual`, ours); `three_features`, a robust distance of three of them
# (`Eq. three`, inspired by reading list #28). Agreement is the rank correlation within targets (`Eq. spearman`). **Rule.** Reproduced if `hal` correlates with the error more than `reconstruction` does, interval of the difference above
# zero; not shown or refuted otherwise.

# %%
watched = {(world, seed): trust.watched(b, denoisers[world], guides[world], sampling, seed) for (world, seed), b in benches.items()}
for (world, seed), frame in watched.items():
    results.record(trust.rows(benches[world, seed], frame, seed))
figures.table(pd.concat([trust.differences(frame, seed=seed).assign(dataset=benches[world, seed].name) for (world, seed), frame in watched.items() if seed == seeds[0]]).set_index("dataset").reset_index())

# %% [markdown]
# Can the score find the images that miss the truth by more than half an sd in some factor, or that leave the support of the factors altogether? And what is gained by dropping the 4 % with the highest score? `kept_truth` is the best that any score could do.

# %%
trusted = results.rows[results.rows["experiment"] == trust.EXPERIMENT]
figures.table(trusted[trusted["metric"].isin(["auroc", "hallucination_rate"])].groupby(["dataset", "metric", "method"], sort=False)["value"].agg(["mean", "min", "max"]).reset_index())

# %%
figures.table(trusted[trusted["metric"].isin(["factor_error", "share_removed"])].groupby(["dataset", "method", "metric"], sort=False)["value"].mean().unstack("metric").reset_index())

# %%
shown_ = watched[worlds[0], seeds[0]]
fig, axes = figures.new(height=3)
for i, (target, group) in enumerate(shown_.groupby("target", sort=False)):
    axes.scatter(group["hal"], group["error"], s=10, marker="os^D"[i % 4], color=figures.PALETTE[i], label=target)
axes.set_xscale("log")
axes.set_xlabel("Hal, variance of the denoised image over the last steps")
axes.set_ylabel("error of the factors, sd")
axes.legend(frameon=False)
figures.show(fig, alt=f"Error of the factors against Hal for {len(shown_)} counterfactual images of {worlds[0]}; rank correlation within targets {trust.agreement(shown_, 'hal').mean():.2g}, of the reconstruction error {trust.agreement(shown_, 'reconstruction').mean():.2g}.", caption="One point an image. A score that can be trusted rises with the error.")

# %% [markdown]
# Negative control: an exact score (`Eq. grid-denoiser`, 25 Gaussians). With every level no point lies between the modes and Hal has nothing to find; with few steps the solver alone puts points there.

# %%
results.record(trust.exact_control(seeds, control_starts))
figures.table(results.rows[results.rows["experiment"] == trust.CONTROL].groupby(["unit", "metric"], sort=False)["value"].mean().unstack("metric").reset_index())

# %%
results.claim("A2.C27d")


# %% [markdown]
# ## Eight bits: `A2.C20c.images`
#
# **Question.** Post-training quantisation of diffusion models (PTQ4DM, arXiv 2211.15736) is judged by image quality. Does it change the counterfactual? **Design.** Generator and guide with weights and activations at 8 and 4 bits (`Eq. quantise`, `Eq. search`), calibrated on
# noisy images where sampling takes them (`Eq. ndtc`); the gradient passes the rounding as if it were not there, since guidance needs one. **Rule.** Reproduced if 8 bits shift the error of all factors by less than one bootstrap standard error over units and 4 bits by more (`Eq. acm-shift`).

# %%
for (world, seed), b in small.items():
    if world == worlds[0]:
        results.record(quantised_pictures.quantised(b, denoisers[world], guides[world], sampling, quantised_bits, seed, calibration_images))
bits_ = results.rows[(results.rows["experiment"] == quantised_pictures.EXPERIMENT) & results.rows["method"].str.startswith("guided_")]
figures.table(bits_[bits_["metric"] != "seconds"].groupby(["dataset", "method", "metric"], sort=False)["value"].mean().unstack("metric").reset_index())

# %%
results.claim("A2.C20c.images")

# %%
results.save()
