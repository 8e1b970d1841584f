r"""Post-training quantisation, simulated: a copy of a network whose weights and activations take few levels (reading-list item #20, PTQ4DM).

Notation: x a tensor, s > 0 step, z whole zero point, b bits, the whole numbers [p_min, p_max] of the grid.

`Eq. quantise`:  x_sim = s (clamp(round(x / s) - z, p_min, p_max) + z)                                        (arXiv 2211.15736)
`Eq. search`:    (s, z) minimises mean |x_sim - x|^2.4 over 100 ranges

Grids: symmetric, z = 0 and p = +-(2^{b-1} - 1), for weights, one step an output channel; one-sided, from 0, for activations that never
change sign; two-sided with z = round(low / s) for the rest, one (s, z) a tensor, p in [0, 2^b - 1]. The 100 ranges are 100 fractions of the largest
value, or 5 fractions of the low end times 20 of the high end. Products, sums, biases, gates, SiLU and the preconditioning stay float.

Calibration: activations are recorded on a set of (y_sigma, sigma, x, z). On the grid sigma_T > ... > sigma_1 of a sampler, t = T is noise:
`ndtc`      t ~ N(0.4 T, (0.4 T)^2), floored, in [1, T]; y_sigma from the float model, run from noise down to t
`uniform`   the same with t uniform on {1, ..., T};  `single`  the same with t = 0.4 T
`noise`     pure noise at t = T;   `clean`  training outcomes at t = 1;   `forward`  training outcomes plus sigma_t eps, t uniform
`one_step`  sigma_init eps at sigma_init: the one input that a one-step generator ever sees

Everything is stacked: every tensor has a leading axis S and every network of the stack its own grids.
"""

import copy
from typing import NamedTuple

import torch
from torch import nn

from gencausal import checks
from gencausal.diffusion import Denoiser
from gencausal.nn.mlp import StackedLinear

POWER, CANDIDATES = 2.4, 100
MEASURED = 2**14  # values of an activation and network that the search reads, in whole rows; its smallest and largest are always among them
SETS = ("ndtc", "uniform", "single", "noise", "clean", "forward", "one_step")


class Grid(NamedTuple):
    """Steps s [G, 1] and zero points z [G, 1] of G groups, and the range of whole numbers."""

    s: torch.Tensor
    z: torch.Tensor
    p_min: int
    p_max: int

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x_sim of `x [G, n]` (Eq. quantise)."""
        return (x / self.s).round_().clamp_(self.p_min + self.z, self.p_max + self.z).mul_(self.s)


def search(x: torch.Tensor, bits: int, symmetric: bool = False) -> Grid:
    """The best grid of each of G groups of values `x [G, n]` (Eq. search); symmetric: for weights. A group of zeros gets the step one."""
    bits = checks.whole(bits, "bits", 2, 16)
    low, high = x.amin(1, keepdim=True).clamp(max=0), x.amax(1, keepdim=True).clamp(min=0)
    one_sided = bool((low == 0).all() or (high == 0).all())
    fractions = torch.arange(1, CANDIDATES + 1, dtype=x.dtype) / CANDIDATES
    if symmetric:
        p_min, p_max = 1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1
        reach = torch.maximum(-low, high)
        ranges = [(-f * reach, f * reach) for f in fractions.tolist()]
    else:
        p_min, p_max = 0, 2**bits - 1
        ranges = [(f * low, f * high) for f in fractions.tolist()] if one_sided else [(i / 5 * low, j / 20 * high) for i in range(1, 6) for j in range(1, 21)]
    best = torch.full_like(low, float("inf"))
    s, z = torch.ones_like(low), torch.zeros_like(low)
    for start, end in ranges:
        step = (end - start) / (p_max - p_min)
        step = torch.where(step > 0, step, torch.ones_like(step))
        zero = torch.zeros_like(step) if symmetric else torch.round(start / step)
        error = (Grid(step, zero, p_min, p_max)(x) - x).abs().pow(POWER).mean(1, keepdim=True)
        better = error < best
        best, s, z = torch.where(better, error, best), torch.where(better, step, s), torch.where(better, zero, z)
    return Grid(s, z, p_min, p_max)


class QuantisedNetwork(nn.Module):
    """A copy of an `OutcomeNetwork` with quantised weights that records its activations once, then quantises them too.

    The inputs of every layer, the noise embedding and the scaled outcome u are activations. Bits 32 leaves weights or activations float.
    """

    def __init__(self, network: nn.Module, weight_bits: int, activation_bits: int):
        super().__init__()
        self.inner = copy.deepcopy(network).requires_grad_(False)
        self.weight_bits, self.activation_bits = weight_bits, activation_bits
        self.seen: dict[str, list[torch.Tensor]] | None = {}
        self.grids: dict[str, Grid] = {}
        for name, module in self.inner.named_modules():
            if isinstance(module, StackedLinear):
                if weight_bits < 32:
                    stack, n_in, n_out = module.weight.shape
                    rows = module.weight.transpose(1, 2).reshape(stack * n_out, n_in)
                    module.weight.data = search(rows, weight_bits, symmetric=True)(rows).reshape(stack, n_out, n_in).transpose(1, 2).contiguous()
                if name != "noise_coefficients":  # its input is the noise embedding
                    module.register_forward_pre_hook(lambda _, inputs, name=name: (self._activation(name, inputs[0]),))
        self.inner.noise.register_forward_hook(lambda _, inputs, output: self._activation("noise", output))

    def _activation(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Record or quantise activation `name`, [S, ...]."""
        if self.seen is not None:
            rows = x.detach().flatten(1, -2)
            some = rows[:, ::-(-rows[0].numel() // MEASURED)].flatten(1)
            self.seen.setdefault(name, []).append(torch.cat([some, rows.amin((1, 2))[:, None], rows.amax((1, 2))[:, None]], 1))
            return x
        return x if self.activation_bits == 32 else self.grids[name](x.flatten(1)).view_as(x)

    def freeze(self) -> "QuantisedNetwork":
        """End the recording: choose every activation's grid from what was seen."""
        if self.activation_bits < 32:
            self.grids = {name: search(torch.cat(values, 1), self.activation_bits) for name, values in self.seen.items()}
        self.seen = None
        return self

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner.encode(x)

    def embed(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return self.inner.embed(x, z)

    def decode(self, u: torch.Tensor, c_noise: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        return self.inner.decode(self._activation("u", u), c_noise, e)


class Calibration(NamedTuple):
    """Inputs that show a denoiser its activations: noisy outcomes and levels [S, n, 1], covariates [S, n, d], arms [S, n]."""

    y: torch.Tensor
    sigma: torch.Tensor
    x: torch.Tensor
    z: torch.Tensor


@torch.no_grad()
def quantise(denoiser: Denoiser, calibration: Calibration, weight_bits: int, activation_bits: int | None = None) -> Denoiser:
    """A quantised copy of `denoiser` (an OutcomeNetwork inside), activations calibrated on `calibration`; `denoiser` stays as it is.

    activation_bits: default weight_bits. The copy has the sampler's contract (`encode`, `embed`, call) and no gradient.
    """
    network = QuantisedNetwork(denoiser.network, weight_bits, weight_bits if activation_bits is None else activation_bits)
    copied = Denoiser(network, denoiser.sigma_data)
    copied(calibration.y, calibration.sigma, copied.embed(calibration.x, calibration.z))
    network.freeze()
    return copied


@torch.no_grad()
def calibration_set(kind: str, denoiser: Denoiser, x: torch.Tensor, z: torch.Tensor, y: torch.Tensor, sigmas: torch.Tensor, generators: list[torch.Generator],
                    sigma_init: float = 2.5, n: int = 1024) -> Calibration:
    """n inputs of kind `kind` (one of SETS) for each network, from training rows x [S, N, d], z [S, N], y [S, N] and the sampling grid `sigmas [T + 1]`.

    generators: one a network. The rows are drawn with replacement; outcomes are used by `clean` and `forward` alone; `denoiser` by the sampled kinds.
    """
    checks.choice(kind, "kind", SETS)
    steps = len(sigmas) - 1
    row = torch.stack([torch.randint(x.shape[1], (n,), generator=g, device=g.device) for g in generators])
    index = torch.arange(len(x), device=x.device)[:, None]
    x, z, y = x[index, row], z[index, row], y[index, row]
    eps, normal, uniform = (torch.stack([draw(n, generator=g, device=g.device) for g in generators]) for draw in (torch.randn, torch.randn, torch.rand))
    t = {"ndtc": (0.4 * steps + 0.4 * steps * normal).floor(), "single": torch.full_like(normal, round(0.4 * steps)), "noise": torch.full_like(normal, steps),
         "clean": torch.ones_like(normal)}.get(kind, (uniform * steps).floor() + 1).clamp(1, steps).long()
    sigma = sigmas[steps - t] if kind != "one_step" else torch.full_like(eps, sigma_init)
    if kind in ("clean", "forward"):
        noisy = y + (sigma * eps if kind == "forward" else 0)
    elif kind in ("noise", "one_step"):
        noisy = sigma * eps
    else:
        noisy = _run_to(denoiser, (sigmas[0] * eps)[:, :, None], denoiser.embed(x, z), sigmas, t)[:, :, 0]
    return Calibration(noisy[:, :, None], sigma[:, :, None], x, z)


def _run_to(denoiser: Denoiser, y: torch.Tensor, e: torch.Tensor, sigmas: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The Euler sampler's state at its own level t [S, n] of each row, from noise y [S, n, 1] at level T = len(sigmas) - 1."""
    steps = len(sigmas) - 1
    for i in range(steps - 1):
        moving = (steps - i > t)[:, :, None]
        slope = (y - denoiser(y, sigmas[i], e)) / sigmas[i]
        y = torch.where(moving, y + (sigmas[i + 1] - sigmas[i]) * slope, y)
    return y


def size_in_bytes(denoiser: Denoiser, weight_bits: int = 32) -> int:
    """Storage of ONE network of the stack: layer weights at `weight_bits`, one 4-byte step an output channel, all else at 4 bytes."""
    stack = next(denoiser.parameters()).shape[0]
    layers = [m for m in denoiser.modules() if isinstance(m, StackedLinear)]
    weights = sum(m.weight.numel() for m in layers) // stack
    others = sum(p.numel() for p in denoiser.parameters()) // stack - weights
    if weight_bits >= 32:
        return 4 * (weights + others)
    return -(-weights * weight_bits // 8) + 4 * (others + sum(m.weight.shape[2] for m in layers))
