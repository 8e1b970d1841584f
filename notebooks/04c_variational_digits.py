# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Counterfactual digits without a counterfactual sample
#
# **Question.** Variational causal inference (VCI, arXiv 2410.12730, ICLR 2025) trains an autoencoder for $p(Y' \mid Y, X, T, T')$ with two terms beside the reconstruction: a supervision of what nobody saw, and a divergence that keeps the
# latent of an individual the same in both worlds. Do both help on digits (`vci.C3`), where the true counterfactual image can be rendered? With the published weights too (`vci.C3.weights`)? And is anything gained over giving the image
# back as it is (`vci.C3.copy`)?
#
# One pair of numbers of the paper's Morpho-MNIST table is known, second-hand: image MSE $0.42 \cdot 10^{-2}$ against $2.76 \cdot 10^{-2}$ of the best baseline, intervention and baseline not available (`vci.C3.published`). Networks and
# budget here are a small part of the paper's, so **only directions can be compared**.

# %%
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from gencausal import claims, figures, paths
from gencausal.data import morphomnist
from gencausal.estimators.outcomes import resolve_device
from gencausal.experiments import digits
from gencausal.image_models.vci import Recipe
from gencausal.vci import image_losses, images as vci

# %% tags=["parameters"]
profile = "smoke"  # study profile: smoke, laptop, full or paper
n = 40  # MorphoMNIST images rebuilt from digits, a fifth of them test
units = 3  # test images, each under every intervention
seeds = [0]  # of networks and training
network = "small"  # small or published
minibatches = 4  # steps of the generator
batch = 16  # images a step
lr = 0.002  # learning rate
published_weights = [10.0, 0.02, 0.01]  # w0, w1, w2 of the paper's run
w0 = 10.0  # weight of the reconstruction, as published
w1s = [0.2, 0.2]  # weights of the supervision, each with the w2 at the same place
w2s = [0.02, 0.0]  # weights of the divergence; on held-out factual images one pair above 0 is chosen for the method and one at 0 for supervision alone, where there is more than one
choice_minibatches = 4  # steps of each choice
priors = [0.3]  # weights of the prior of the conditional VAE, chosen in the same way
classifier_minibatches = 8  # steps of the classifier
bf16 = False  # half-precision networks
device = "auto"  # auto, cpu, cuda or mps

# %%
place = resolve_device(device)
folder = paths.build(profile) / "checkpoints"
results = claims.open_results(notebook="04c_variational_digits", profile=profile)
sizes = {"small": vci.SMALL, "published": replace(vci.PUBLISHED, supervision="classify")}[network]
recipe = Recipe(sizes, minibatches=minibatches, batch=batch, lr=lr, warmup=min(50, minibatches // 4), classifier_minibatches=classifier_minibatches, bf16=bf16)
scenes = morphomnist.load(seed=7, n=n, folder=folder)
rows, held = digits.split(scenes)
print(f"{len(rows)} images to train on, {len(held)} held out, {len(scenes.test)} test, of which {units} are scored; seeds {seeds}; torch {torch.__version__}")

# %% [markdown]
# ## The model
#
# The encoder gives $q(z \mid y, t)$, one Gaussian a resolution, the decoder the logits of the image from $(z, t)$. The counterfactual is the decoder's mean for the same individual, $y' = \sigma(\mathrm{dec}(z, t'))$, $z \sim q(z \mid y, t)$, and
# training minimises (`Eq. vci-image`)
#
# $$ J = w_0\, L_0(y \mid z, t) + w_1\, L_1(y' \mid t') + w_2\, \mathrm{KL}\big[q(z \mid y, t) \,\|\, q(z \mid y', t')\big], $$
#
# $L_0$ the Bernoulli likelihood (`Eq. vci-image-l0`), $L_1$ what a discriminator says of $(y', t')$ (`Eq. vci-image-l1`, trained by `Eq. vci-image-d` on every second minibatch), $L_2$ the divergence under a frozen copy of the encoder
# (`Eq. vci-image-l2`, in the public code's form, which lacks a variance: `Eq. vci-divergence`). There is no KL to a prior. $t'$ is $t$ with one label replaced by that of a random training image.
#
# The published network has 30,976 latent values for 1,024 pixels, so it can copy the image and ignore $t'$; ours has 128; a position of its first map is a square of 4 x 4 pixels. In the few hundred steps that
# there is time for here, its loss tells real from drawn images and the label seems to play no part (an inference from the loss, not tested). Our arm therefore takes the public code's third form of $L_1$, a frozen network that reads $t'$ from $y'$ (`Eq. vci-image-classify`), which its final runs
# do not use; the discriminator at the published weights is an arm of its own.

# %%
parts = {"published": vci.PUBLISHED, "here": recipe.network}
made = {name: (vci.Generator(config, torch.Generator().manual_seed(0)), vci.Discriminator(config, torch.Generator().manual_seed(0))) for name, config in parts.items()}
figures.table(pd.DataFrame([{"network": name, "generator": vci.parameters(made[name][0]), "discriminator": vci.parameters(made[name][1]), "latent values": config.latent_values, "resolutions": str(config.resolutions), "samples of z": config.mc} for name, config in parts.items()]))

# %% [markdown]
# ## Known answers
#
# The parameter counts of the published network are those of the public code: 1,997,566 and 477,002, with 30,976 latents. The divergence of two Gaussians worked by hand: 0.8181 in the public form, 0.4431 exactly. The truth scored against
# itself has error 0 and the factual image has not.

# %%
one, zero, log_var = (torch.tensor(v).view(1, 2, 1, 1) for v in ([1.0, 0.0], [0.0, 0.0], [2 * np.log(2.0).item(), 0.0]))
bench = digits.bench(scenes, units, 0, folder)
copied = {name: float(digits.mse(bench.images, truth).mean()) for name, truth in bench.truth.items()}
figures.table(pd.DataFrame([{"case": "parameters", "ours": f"{vci.parameters(made['published'][0]):,} and {vci.parameters(made['published'][1]):,}", "known": "1,997,566 and 477,002"},
                            {"case": "divergence, public form and exact", "ours": ", ".join(f"{image_losses.image_divergence(one, zero, zero, log_var, form).item():.4f}" for form in vci.FORMS), "known": "0.8181, 0.4431"},
                            {"case": "image MSE of the truth, x 100", "ours": f"{digits.mse(bench.truth['do_both'], bench.truth['do_both']).max():.3g}", "known": "0"},
                            {"case": "image MSE of the factual image, x 100", "ours": ", ".join(f"{name} {value:.2f}" for name, value in copied.items()), "known": "above 0"}]))

# %% [markdown]
# ## Weights, chosen on factual images
#
# Choices see held-out training images only and no counterfactual image: how well the image comes back, how well it does after an intervention there and back, and how far the thickness and intensity read in an imagined image are from what
# was asked (`total`: 2 for copying the input, about 0 for the truth). What has the lowest total is taken. The forms of the network and the grid
# below were found in about fifteen trials on another draw of factors (seed 0), where test scores were seen; the digits, factors and split here (seed 7) took no part in them.

# %%
pairs = [(w0, w1, w2) for w1, w2 in zip(w1s, w2s, strict=True)]
groups = {"vci": [{"weights": pair} for pair in pairs if pair[2] > 0], "supervision_alone": [{"weights": pair} for pair in pairs if pair[2] == 0], "cvae": [{"weights": (1.0, 0.0, 0.0), "prior": prior, "features": False} for prior in priors]}
tried, chosen = [], {}
for kind, group in groups.items():
    totals = []
    for choice in group if len(group) > 1 else []:
        model = digits.trained(scenes, replace(recipe, minibatches=choice_minibatches, network=replace(recipe.network, **choice)), 0, folder, place, label="choice")
        found = digits.factual(scenes, model.counterfactual)
        tried.append({"for": kind, "w0, w1, w2": str(choice["weights"]), "prior": choice.get("prior", 0.0)} | found)
        totals.append(found["total"])
    chosen[kind] = group[int(np.argmin(totals))] if totals else group[0]
print(chosen)
figures.table(pd.DataFrame(tried or [{"for": kind, "w0, w1, w2": str(choice["weights"]), "prior": choice.get("prior", 0.0), "chosen": "beforehand; the full profile shows what was tried"} for kind, choice in chosen.items()]))

# %% [markdown]
# ## Ablations: `vci.C3`
#
# **Design.** One network, one budget, one set of test images and interventions for every method: `vci`, without supervision ($w_1 = 0$), without divergence ($w_2 = 0$), without both (`autoencoder`), and a conditional VAE, which has a prior
# instead; the first three at the published weights, with the discriminator, too. Interventions `do_thickness`, `do_intensity`, `do_both` and `do_one`, the draw that training uses; both labels are the treatment jointly, so that nothing is propagated. The truth is
# the same digit rendered with $t'$. Image MSE on the central $28 \times 28$ pixels (`Eq. digit-mse`), thickness and intensity read from the images and set against what is read in the true one (`Eq. digit-mae`), composition and
# reversibility (`Eq. digit-cycles`). `copy_input` gives the factual image back. An ablation changes one weight and leaves the others; a weaker supervision may do without the divergence, so `supervision_alone` has $w_2 = 0$ and a $w_1$ of its own, chosen in the
# same way. `copy_input` and `supervision_alone` are rows beside the claim.
#
# **Rule.** Reproduced in kind if the full objective has a lower image MSE and lower errors of both readings than each ablation, by 5 % or more and with intervals clear of 0.

# %%
recipes = digits.recipes(replace(recipe, network=replace(recipe.network, **chosen["vci"])), chosen["cvae"]["prior"])
recipes["supervision_alone"] = replace(recipe, network=replace(recipe.network, **chosen["supervision_alone"]))
at_published = digits.recipes(replace(recipe, network=replace(recipe.network, weights=tuple(published_weights), supervision="discriminate")))
recipes |= {f"{name}_published": at_published[name] for name in ("vci", "vci_no_supervision", "vci_no_divergence")}
drawn, curves = {}, {}
results.record(digits.copied(bench, seeds))
for seed in seeds:
    for name, method in recipes.items():
        model = digits.trained(scenes, method, seed, folder, place, label=f"{name} {seed}")
        results.record(digits.score(bench, model.counterfactual, name, seed, drawn.setdefault(name, {}) if seed == seeds[0] else None))
        curves[name, seed] = model.history

# %%
e6 = results.rows[results.rows["experiment"] == digits.EXPERIMENT].assign(intervention=lambda f: f["unit"].str.split("/").str[0])
scored = ["image_mse", "image_mse_factual", "mae_thickness", "mae_intensity", "reversibility"]
figures.table(e6[e6["metric"].isin([*scored, "composition"])].groupby(["method", "metric"], sort=False)["value"].mean().unstack("metric").reset_index())

# %% [markdown]
# By intervention. A low `image_mse_factual` beside a high `image_mse` is a method that gives the image back.

# %%
figures.table(e6[e6["metric"].isin(scored)].groupby(["intervention", "method", "metric"], sort=False)["value"].mean().unstack("metric").reset_index())

# %%
shown = ["vci", "vci_no_supervision", "vci_no_divergence", "cvae"]
count = min(units, 6)
pictures_ = torch.cat([torch.cat([*images[:count, 0]], 1) for images in (bench.images, bench.truth["do_thickness"], *(drawn[name]["do_thickness"] for name in shown))])
fig, axes = figures.new(height=3.2)
axes.imshow(pictures_.clamp(0, 1).numpy(), cmap="gray", vmin=0, vmax=1)
axes.set_yticks([32 * k + 16 for k in range(2 + len(shown))], ["factual", "truth", *shown])
axes.set_xticks([])
figures.show(fig, alt=f"{count} test digits, the same with another thickness as the generator renders it, and as {len(shown)} methods draw it.", caption="do(thickness): factual, true and drawn images.")

# %% [markdown]
# Is the training over? Terms of the loss at the end and half way, first seed.

# %%
figures.table(pd.DataFrame([{"method": name, "step": 2 * line["round"]} | {term.split(".")[1]: value[0] for term, value in line.items() if term != "round"} for (name, seed), history in curves.items() if seed == seeds[0] and name in recipes
                            for line in (history[len(history) // 2], history[-1])]))

# %%
results.claim("vci.C3")

# %% [markdown]
# With a discriminator and at the published weights, $w_1 = 0.02$ and $w_2 = 0.01$:

# %%
results.claim("vci.C3.weights")

# %% [markdown]
# Against giving the image back:

# %%
results.claim("vci.C3.copy")

# %% [markdown]
# ## What this can say
#
# The networks are small, the digits are 5,000 of 70,000 and the training is minutes where the paper's is days, so an ablation that helps here may not there and the other way round. Thickness and intensity are read by the generator's own
# rule, without a learned predictor; the truth keeps the label that was not set, as a joint treatment has it. Deviations of the training: AdamW and a cosine for Adam and a constant rate, standardised labels for sines of raw ones, averaged
# weights, one sample of $z$ for three, shifts by a pixel.

# %%
results.save()
