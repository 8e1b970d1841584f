r"""Pendulum: a lamp throws the shadow of a pendulum (the data set of CausalVAE; spec diffusion_counterfactuals, 3.2).

Factors: `angle` i and `light` j, in the generator's units with theta = i pi / 200 and phi = j pi / 200, and the shadow's `length` l and `position` m, in data units.

    m = 10 + 4.75 sin theta - (11 - 4.75 cos theta) / tan phi + u_m                                                  `Eq. pendulum-position`
    l = max(3, 9.5 |sin theta + cos theta / tan phi|) + u_l                                                          `Eq. pendulum-length`

The public set has u = 0 on a grid of i in {-40..43}, j in {60..147} without 100: 7,308 images, of which 1,826 are test; every counterfactual is then an
interventional truth. Variants: `noisy` adds u ~ N(0, 0.3^2) to both, so that abduction matters; `chain` also lets the angle move the lamp,
j = 103.5 - 0.6 (i - 1.5) + u_j with u_j ~ N(0, 14^2), kept inside the range, so that do(angle) travels two edges.

Drawing: window x in [0, 20], y in [-1, 21]; rod from (10, 10.5) to the ball at (10 + 8 sin theta, 10.5 - 8 cos theta), radius 1.5; lamp at
(10 + 10 / tan phi, 20.5), radius 3, its top cut by the canvas; shadow along y = -0.5 from m - l/2 to m + l/2. Strokes are 4 / 74.4 of the width.
"""

import math
from functools import lru_cache

import networkx as nx
import numpy as np
import torch

from gencausal import checks, seeding
from gencausal.data.drawing import BLACK, FIREBRICK, ORANGE, Canvas, darkness, paint, redness
from gencausal.data.scenes import Scenes, every_fourth

NAMES = ("angle", "light", "length", "position")
GRAPH = nx.DiGraph([("angle", "length"), ("angle", "position"), ("light", "length"), ("light", "position")])
CHAIN = nx.DiGraph([("angle", "light"), *GRAPH.edges])
VARIANTS = ("public", "noisy", "chain")
CENTRE, SCALE = (2.0, 104.0, 7.5, 11.0), (42.0, 44.0, 4.5, 8.0)
"""Centre and scale of the factors that bring each to about [-1, 1] (CausalDiffAE)."""
RANGES = {"angle": (-40.0, 43.0), "light": (60.0, 147.0), "length": (3.0, 12.6), "position": (2.0, 19.7)}
"""Ranges in which factors occur; do-values are drawn inside."""
NOISE, LAMP_SLOPE, LAMP_NOISE = 0.3, -0.6, 14.0
WINDOW = (0.0, 20.0, -1.0, 21.0)
STROKE = 4 / 74.4
GROUND = -0.5


def graph(variant: str = "noisy") -> nx.DiGraph:
    """The true graph of a variant."""
    checks.choice(variant, "variant", VARIANTS)
    return CHAIN if variant == "chain" else GRAPH


def mechanism(name: str, factors: torch.Tensor, variant: str = "noisy") -> torch.Tensor:
    """Noise-free value [N] of the child `name` given the others in `factors [N, 4]` (Eq. pendulum-length, Eq. pendulum-position)."""
    if name == "light":
        return 103.5 + LAMP_SLOPE * (factors[:, 0] - 1.5)
    theta, phi = (factors[:, k] * (math.pi / 200) for k in (0, 1))
    slant = torch.cos(phi) / torch.sin(phi)
    if name == "length":
        return (9.5 * (torch.sin(theta) + torch.cos(theta) * slant).abs()).clamp(min=3)
    return 10 + 4.75 * torch.sin(theta) - (11 - 4.75 * torch.cos(theta)) * slant


def abduct(factors: torch.Tensor, variant: str = "noisy") -> torch.Tensor:
    """Noise [N, 4] that gives `factors`: roots themselves, children less their mechanism."""
    noise = factors.clone()
    for k, name in enumerate(NAMES):
        if graph(variant).in_degree(name):
            noise[:, k] -= mechanism(name, factors, variant)
    return noise


def predict(noise: torch.Tensor, do: dict[str, torch.Tensor | float] | None = None, variant: str = "noisy") -> torch.Tensor:
    """Factors [N, 4] from `noise [N, 4]` under `do` (name to value or values [N]), in causal order."""
    factors = noise.clone()
    for name in nx.topological_sort(graph(variant)):
        k = NAMES.index(name)
        if do and name in do:
            factors[:, k] = torch.as_tensor(do[name], dtype=factors.dtype)
        elif graph(variant).in_degree(name):
            factors[:, k] = mechanism(name, factors, variant) + noise[:, k]
    return factors


def counterfactual(factors: torch.Tensor, do: dict[str, torch.Tensor | float], variant: str = "noisy") -> torch.Tensor:
    """The true counterfactual factors: abduct, intervene, predict."""
    return predict(abduct(factors, variant), do, variant)


def render(factors: torch.Tensor, size: int = 64) -> torch.Tensor:
    """Images [N, 3, size, size] in [0, 1] of `factors [N, 4]`."""
    canvas = Canvas(size, WINDOW)
    angle, light, length, position = factors.float().unbind(1)
    theta, phi = angle * (math.pi / 200), light * (math.pi / 200)
    pivot_x, pivot_y = torch.full_like(angle, 10.0), torch.full_like(angle, 10.5)
    ball_x, ball_y = 10 + 8 * torch.sin(theta), 10.5 - 8 * torch.cos(theta)
    stroke = STROKE * size
    shadow = canvas.box(position - length / 2, position + length / 2, *_band(size), like=angle)
    return paint([(canvas.segment(pivot_x, pivot_y, ball_x, ball_y, stroke), BLACK), (canvas.ellipse(ball_x, ball_y, 1.5), FIREBRICK),
                  (canvas.ellipse(10 + 10 * torch.cos(phi) / torch.sin(phi), torch.full_like(angle, 20.5), 3.0), ORANGE), (shadow, BLACK)])


def _band(size: int) -> tuple[float, float]:
    """Lower and upper edge of the shadow's stroke; the canvas cuts the lower one."""
    half = STROKE * size / 2 / Canvas(size, WINDOW).scale[1]
    return GROUND - half, GROUND + half


def on_canvas(factors: torch.Tensor) -> torch.Tensor:
    """Whether the whole shadow is on the canvas, [N]: only then do its length and position show in the image."""
    length, position = factors[:, 2], factors[:, 3]
    return (position - length / 2 >= WINDOW[0]) & (position + length / 2 <= WINDOW[1])


@lru_cache
def _lamp_table(size: int) -> tuple[np.ndarray, np.ndarray]:
    """(centroid of what shows of the lamp, its light) over the range of light and a margin, the first ascending: the canvas cuts the lamp."""
    light = torch.linspace(150, 50, 2001)
    slant = torch.cos(light * (math.pi / 200)) / torch.sin(light * (math.pi / 200))
    canvas = Canvas(size, WINDOW)
    cover = torch.cat([canvas.ellipse(10 + 10 * part, torch.full_like(part, 20.5), 3.0) for part in slant.split(250)])
    x, _ = canvas.grid()
    return ((cover * x).sum((1, 2)) / cover.sum((1, 2))).double().numpy(), light.double().numpy()


def read(images: torch.Tensor) -> torch.Tensor:
    """Factors [N, 4] float64 read from the pixels of `images [N, 3, S, S]` in [0, 1], no learning: the oracle.

    angle from the centroid of the ball about the pivot; light from the centroid of what shows of the lamp; length and position from the dark run of the rows
    of the shadow. A missing ball, lamp or shadow gives NaN. Length and position are right where `on_canvas` holds.
    """
    size = images.shape[-1]
    canvas = Canvas(size, WINDOW)
    images = images.double()
    x, y = (g.double().to(images.device) for g in canvas.grid())
    upper, lower = (y > 15).double(), (y < _band(size)[1] + 0.5 / canvas.scale[1]).double()
    ball, lamp, shadow = redness(images) * (1 - upper), redness(images) * upper, darkness(images) * lower
    ball_x, ball_y = (_ratio((ball * g).sum((1, 2)), ball.sum((1, 2)), 1.0 / canvas.scale[0]) for g in (x, y))
    angle = torch.atan2(ball_x - 10, 10.5 - ball_y) * (200 / math.pi)
    lamp_x = _ratio((lamp * x).sum((1, 2)), lamp.sum((1, 2)), 1.0 / canvas.scale[0])
    table, light = _lamp_table(size)
    light = torch.as_tensor(np.interp(lamp_x.cpu().numpy(), table, light), device=images.device)  # NaN stays NaN
    run = shadow.sum(1) / _height(size)
    run = torch.where(run < 0.1, torch.zeros_like(run), run).clamp(max=1)
    length = run.sum(1) / canvas.scale[0]
    position = _ratio((run * x[:, 0]).sum(1), run.sum(1), 1.0)
    return torch.stack([angle, light, length, position], 1)


def _height(size: int) -> float:
    """Pixels of the shadow's stroke that the canvas shows."""
    low, high = _band(size)
    return (high - max(low, WINDOW[2])) * Canvas(size, WINDOW).scale[1]


def _ratio(top: torch.Tensor, bottom: torch.Tensor, least: float) -> torch.Tensor:
    """top / bottom, NaN where `bottom` holds less than `least` pixels."""
    return torch.where(bottom < least, torch.full_like(top, torch.nan), top / bottom.clamp(min=1e-9))


def load(variant: str = "noisy", size: int = 64, seed: int = 0) -> Scenes:
    """The 7,308 images of a variant, drawn anew; the block is the square angle in [0, 20], light in [110, 130]."""
    checks.choice(variant, "variant", VARIANTS)
    i, j = np.arange(-40, 44), np.array([j for j in range(60, 148) if j != 100])
    roots = torch.as_tensor(np.stack(np.meshgrid(i, j, indexing="ij"), -1).reshape(-1, 2), dtype=torch.float64)
    rng = seeding.numpy_generator(checks.whole(seed, "seed", 0), "pendulum", variant)
    noise = torch.zeros(len(roots), 4, dtype=torch.float64)
    noise[:, :2] = roots
    if variant != "public":
        noise[:, 2:] = torch.as_tensor(NOISE * rng.standard_normal((len(roots), 2)))
    if variant == "chain":
        expected = mechanism("light", roots, variant)
        light = np.clip(expected.numpy() + LAMP_NOISE * rng.standard_normal(len(roots)), *RANGES["light"])
        noise[:, 1] = torch.as_tensor(light) - expected
    factors = predict(noise, variant=variant)
    train, test = every_fourth(len(factors))
    inside = (factors[:, 0] >= 0) & (factors[:, 0] <= 20) & (factors[:, 1] >= 110) & (factors[:, 1] <= 130)
    return Scenes("pendulum" if variant == "noisy" else f"pendulum_{variant}", torch.cat([render(part, size) for part in factors.split(512)]), factors, noise, NAMES, graph(variant),
                  train, test, np.flatnonzero(inside.numpy()))
