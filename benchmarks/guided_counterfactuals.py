"""Seconds of guided counterfactual images, inversion included, at 64 x 64: python benchmarks/guided_counterfactuals.py [threads] [images] [steps]. Writes CSV to standard output.

The network is that of the study, untrained, as time does not depend on the weights. Public CausalDiffAE takes 35 s an image at 28 x 28 and 215 s at 96 x 96.
"""

import resource
import sys
import time

import torch

from gencausal.counterfactual import Sampling
from gencausal.experiments import pictures
from gencausal.image_models import guided

threads, images, steps = (int(v) for v in (*sys.argv[1:], *("2", "200", "50")[len(sys.argv) - 1:]))
torch.set_num_threads(threads)
bench, sizes = pictures.bench("pendulum", images, 0), pictures.sizes(1, 1, 64, 32)
denoiser = guided.make_generator(sizes.generator, *bench.images.shape[1:3], 0).requires_grad_(False)
guide = guided.make_guide(sizes.guide, *bench.images.shape[1:3], bench.mask, 0).requires_grad_(False)
node, values, _, _ = next(iter(bench.targets.values()))
clock = time.perf_counter()
pictures.guided(denoiser, guide, Sampling(steps=steps))(bench.images, bench.z, {node: values.float()})
seconds = time.perf_counter() - clock
print("images,steps,threads,seconds,seconds_an_image,peak_mib")
print(f"{len(bench.images)},{steps},{threads},{seconds:.1f},{seconds / len(bench.images):.3f},{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}")
