# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A diffusion model of images, before anything is guided
#
# **Question.** Counterfactual images (notebooks `03a` to `03c`) start from a diffusion model that knows no factor. Does it draw what it was trained on, and does an image survive the way to noise and back, without which no counterfactual
# of it can be judged (`dc.E0`)?
#
# A small U-Net on patches of 48 numbers predicts the image, its squared error weighted by
#
# $$w(\alpha, \sigma) = \min(\max(\alpha^2 / \sigma^2,\, 1),\, 100)\qquad\text{(`Eq. truncated-snr`)}$$
#
# The noise, or $v$, would be the more usual target. A first map of 32 channels cannot carry the noise of 48 numbers to the output; a clean patch it can. The three are compared below. Trained weights are averaged and the
# round of the lowest held-out loss is kept. Nothing here sees a test image but the scores.

# %%
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from gencausal import claims, figures, image_metrics, paths, solvers
from gencausal.counterfactual import Sampling, abduct
from gencausal.estimators.outcomes import resolve_device
from gencausal.experiments import benchmark_images, pictures
from gencausal.image_models import guided
from gencausal.seeding import generator, numpy_generator

# %% tags=["parameters"]
profile = "smoke"  # study profile: smoke, laptop, full or paper
worlds = ["pendulum"]  # of pendulum, flow and morphomnist
size = 32  # side of Pendulum and Flow images
digits = 60  # MorphoMNIST images rebuilt from digits, a fifth of them test
units = 4  # held-out images a world and seed
seeds = [0]  # streams of units and noise
scratch = True  # train anew even where weights are published
rounds = 16  # optimiser steps of the generator
guide_rounds = 16  # of the predictor whose features measure realism
batch = 16  # images a step
width = 16  # channels of the first map
step_counts = [4, 8]  # of inversion, and as many back
samples = 8  # images drawn from noise
sampler_steps = 8  # of the sampler
targets = ["x0", "v"]  # what the network predicts, of x0, v and eps
target_rounds = 8  # optimiser steps of each
device = "auto"  # auto, cpu, cuda or mps

# %%
place = resolve_device(device)
folder = paths.build(profile) / "checkpoints"
results = claims.open_results(notebook="01b_image_diffusion", profile=profile)
sizes = pictures.sizes(rounds, guide_rounds, batch, width)
options = {"pendulum": {"size": size}, "flow": {"size": size}, "morphomnist": {"n": digits, "folder": folder}}
benches = {(world, seed): pictures.bench(world, units, seed, **options[world]) for world in worlds for seed in seeds}
trainers = {world: pictures.Trainer(benches[world, seeds[0]], folder, place, not scratch) for world in worlds}
print(sizes.generator)

# %% [markdown]
# ## Training
#
# Published weights carry their log; `scratch = True` trains them again.

# %%
trained = {world: guided.train_generator(trainers[world].bench.training[0], sizes.generator, 0, folder, place, not scratch, trainers[world].bench.data) for world in worlds}
denoisers = {world: made.modules["generator"].requires_grad_(False) for world, made in trained.items()}
figures.table(pd.DataFrame([{"world": world, "weights": sum(p.numel() for p in denoisers[world].parameters()), "rounds": made.rounds, "kept round": int(made.best_round[0]), "held-out loss": float(made.best_score[0])} for world, made in trained.items()]))

# %%
fig, axes = figures.new(height=2.6)
for i, (world, made) in enumerate(trained.items()):
    axes.plot([score["round"] for score in made.scores], [score["held_out"][0] for score in made.scores], marker="os^"[i], color=figures.PALETTE[i], label=world)
axes.set_xlabel("optimiser steps")
axes.set_ylabel("held-out loss")
axes.set_ylim(0)
axes.legend(frameon=False)
figures.show(fig, alt="Held-out denoising loss over training: " + "; ".join(f"{world} from {made.scores[0]['held_out'][0]:.2g} to {made.scores[-1]['held_out'][0]:.2g}" for world, made in trained.items()) + ".", caption="Held-out loss of the averaged weights.")

# %% [markdown]
# ## Does it draw what it saw?
#
# Images drawn from noise by DDIM, beside real ones, and the Frechet distance (`Eq. frechet`) to the training images on the features of *our* predictor, which is no FID. As many real test images, drawn at random (`floor`), show what the distance makes of a perfect sampler.

# %%
for world in worlds:
    b, grid = benches[world, seeds[0]], solvers.grid(solvers.vp_levels(), sampler_steps)
    noise = torch.randn((samples, *b.images.shape[1:]), generator=generator(seeds[0], "samples", device=place), device=place)
    with torch.no_grad():
        made = ((solvers.ddim(denoisers[world], noise, grid).clamp(-1, 1) + 1) / 2).cpu()
    tools = benchmark_images.instruments(b, trainers[world].predictor(sizes, seed=1))
    results.record(benchmark_images.realism(b, {"samples": made}, tools, "samples", seeds[0], "dc.E0"))
    results.record(benchmark_images.realism(b, {"samples": b.scenes.images[numpy_generator(seeds[0], "floor", world).permutation(np.setdiff1d(b.scenes.test, b.scenes.block))[:samples]]}, tools, "floor", seeds[0], "dc.E0"))
    shown = min(6, samples, units)
    figures.pictures({"real": b.images[:shown], "drawn": made[:shown]}, alt=f"{shown} real test images of {world} above {shown} images drawn from noise by the generator.", caption=f"{world}: real (top) and drawn.")
figures.table(results.rows[results.rows["metric"] == "frechet"].groupby(["dataset", "method"], sort=False)["value"].mean().unstack("method").reset_index())

# %% [markdown]
# ## There and back: `dc.E0`
#
# Each held-out image is taken to the noise level of 0.8 of the schedule by DDIM run backwards and returned by DDIM, no guidance. More steps, less error of the solver; what is left is the model's.

# %%
back = []
for (world, seed), b in benches.items():
    for n in step_counts:
        grid = Sampling(steps=n).grid()
        x = (2 * b.images - 1).to(place)
        with torch.no_grad():
            returned = ((solvers.ddim(denoisers[world], abduct(denoisers[world], x, grid), grid).clamp(-1, 1) + 1) / 2).cpu()
        values = {"psnr_masked": image_metrics.psnr(returned, b.images, masked=True, background=b.background), "composition": image_metrics.composition(returned, b.images)}
        back += pictures.blocks(b.name, "all", f"round_trip_{n}_steps", seed, "dc.E0", values)
results.record(back)
figures.table(pd.DataFrame(back).groupby(["dataset", "method", "metric"], sort=False)["value"].mean().unstack("metric").reset_index())

# %%
rates = pd.DataFrame(back).query("metric == 'psnr_masked'").assign(steps=lambda f: f["method"].str.extract(r"_(\d+)_")[0].astype(int)).groupby(["dataset", "steps"], sort=False)["value"].mean()
fig, axes = figures.new(height=2.6)
for i, world in enumerate(worlds):
    axes.plot(rates[benches[world, seeds[0]].name], marker="os^"[i], color=figures.PALETTE[i], label=world)
axes.axhline(30, color="0.4", linestyle="--", linewidth=1)
axes.set_xlabel("steps there, and as many back")
axes.set_ylabel("masked PSNR, dB")
axes.legend(frameon=False)
figures.show(fig, alt="Masked PSNR of the round trip against the number of steps: " + "; ".join(f"{world} {n}: {v:.3g} dB" for (world, n), v in rates.items()) + "; dashed the gate of 30 dB.", caption="What inversion keeps. Dashed: the gate.")

# %% [markdown]
# ## What should the network predict?
#
# The same network, images, noise and number of steps, three targets: the image with the weight above, $v = \alpha\varepsilon - \sigma x_0$, and the noise. Scores as before: the round trip, and the Frechet distance of images drawn from noise.

# %%
compared, world = [], worlds[0]
b, tools = benches[world, seeds[0]], benchmark_images.instruments(benches[world, seeds[0]], trainers[world].predictor(sizes, seed=1))
for target in targets:
    denoiser = trainers[world].generator(replace(sizes.generator, prediction=target, rounds=target_rounds, score_every=max(target_rounds // 8, 1)))
    grid, x = Sampling(steps=step_counts[-1]).grid(), (2 * b.images - 1).to(place)
    noise = torch.randn((samples, *b.images.shape[1:]), generator=generator(seeds[0], "samples", device=place), device=place)
    with torch.no_grad():
        returned, made = ((solvers.ddim(denoiser, start, levels).clamp(-1, 1) + 1) / 2 for start, levels in ((abduct(denoiser, x, grid), grid), (noise, solvers.grid(solvers.vp_levels(), sampler_steps))))
    compared += pictures.blocks(b.name, "all", f"target_{target}", seeds[0], "dc.E0", {"psnr_masked": image_metrics.psnr(returned.cpu(), b.images, masked=True, background=b.background)})
    compared += benchmark_images.realism(b, {"samples": made.cpu()}, tools, f"target_{target}", seeds[0], "dc.E0")
results.record(compared)
figures.table(pd.DataFrame(compared).groupby(["method", "metric"], sort=False)["value"].mean().unstack("metric").reset_index())

# %%
results.save()
