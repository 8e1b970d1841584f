"""Seconds of one training step of VCI on images at the published size: python benchmarks/vci_image_step.py [threads] [steps] [bf16]. Writes CSV to standard output.

Shape of the public Morpho-MNIST run: 32 x 32, batch 32, 3 samples of z, D on every second minibatch, weights 10, 0.02, 0.01, clip 1. The public code takes 1.83 s a step (G 1.56, G + D 2.09) with two threads, 2.74 s of one.
A machine that others use is seen in `reference`: a step of a 64-channel convolution on [32, 64, 32, 32], 0.041 s with two threads and 0.080 s with one on the machine of these figures.
"""

import resource
import sys
import time
from dataclasses import replace
from statistics import median

import torch
from torch.nn.functional import conv2d

from gencausal import seeding, training
from gencausal.training import Player
from gencausal.vci import image_losses, images as vci

threads, steps, half = (int(v) for v in (*sys.argv[1:], *("2", "8", "0")[len(sys.argv) - 1:]))
torch.set_num_threads(threads)
rng = seeding.generator(0, "benchmark")
config = replace(vci.PUBLISHED, mc=3)
generator, discriminator = vci.Generator(config, rng), vci.Discriminator(config, rng)
y, codes = torch.rand(32, 1, 32, 32, generator=rng), vci.label_code(torch.rand(32, 2, generator=rng) * 4)


def loss_d() -> dict[str, torch.Tensor]:
    discriminator.iterate()
    with torch.autocast("cpu", torch.bfloat16, enabled=bool(half)):
        return {"loss": image_losses.discriminator_loss(generator, discriminator, y, codes, vci.draw_treatment(codes, codes, rng), generator.noise(len(y), rng))[None]}


def loss_g() -> dict[str, torch.Tensor]:
    with torch.autocast("cpu", torch.bfloat16, enabled=bool(half)):
        return {name: value[None] for name, value in image_losses.generator_terms(generator, discriminator, y, codes, vci.draw_treatment(codes, codes, rng), generator.noise(len(y), rng, config.mc + 1)).items()}


def convolution() -> None:
    y = conv2d(x, kernel, padding=1)
    torch.autograd.grad(y, (x, kernel), torch.ones_like(y))


x, kernel = torch.randn(32, 64, 32, 32, generator=rng).requires_grad_(), torch.randn(64, 64, 3, 3, generator=rng).requires_grad_()
players = {"d": Player(discriminator, loss_d, 1e-4, stacked=False), "g": Player(generator, loss_g, 1e-4, stacked=False)}
work = {name: lambda name=name: training._update(name, players[name], optimisers[name], 1.0, 0, 0) for name in players} | {"reference": convolution}
optimisers = {name: player.optimiser() for name, player in players.items()}
seconds, cpu = {name: [] for name in work}, {name: [] for name in work}
for step in range(steps + 2):
    for name, run in work.items():
        clock, process = time.perf_counter(), time.process_time()
        run()
        if step > 1:
            seconds[name].append(time.perf_counter() - clock)
            cpu[name].append(time.process_time() - process)
print("threads,bf16,g,d,step,step_best,step_cpu,reference,reference_cpu,peak_mib")
wall, best, used = ({name: rule(values) for name, values in table.items()} for rule, table in ((median, seconds), (min, seconds), (median, cpu)))
print(f"{threads},{half},{wall['g']:.3f},{wall['d']:.3f},{wall['g'] + wall['d'] / 2:.3f},{best['g'] + best['d'] / 2:.3f},{used['g'] + used['d'] / 2:.3f},{wall['reference']:.3f},{used['reference']:.3f},{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}")
