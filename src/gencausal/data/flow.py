r"""Flow: a ball raises the water of a tank, which leaves by a hole (the data set of CausalVAE; spec diffusion_counterfactuals, 3.3).

Factors: `ball` r (its radius is r / 30), water `height` h, `hole` k (its height is d = k / 3) and `flow` x, the distance at which the jet meets y = 0.5.

    h = (r / 30)^3 + u_h / 10                                                                                        `Eq. flow-height`
    x = sqrt(1.96 h (d - 0.5)) + u_x                                                                                 `Eq. flow-length`

The public set has u_h in {10..39} and u_x = 0 on the grid r in {5..34}, k in {6..14}: 8,100 images, every fifth one test. So ball -> height -> flow <- hole is a chain with
noise on its middle, and do(ball) must travel two edges. The variant `noisy` adds u_x ~ N(0, 0.15^2) to the flow.

Drawing: window [0, 20] x [0, 20]; water from x = 3 to 8 and y = 0 to 5 + h; walls x = 3 and x = 8, the latter open from d to d + 0.4; ball at (5.5, r / 30 + 0.5); the jet
y = d - (d - 0.5) ((X - 8) / x)^2, which is Torricelli's parabola where u_x = 0; ground y = 0.2. Strokes are 2.67 / 74.4 of the width.
"""

from functools import lru_cache

import networkx as nx
import numpy as np
import torch

from gencausal import checks, seeding
from gencausal.data.drawing import BLACK, FIREBRICK, SKYBLUE, Canvas, darkness, paint
from gencausal.data.scenes import Scenes, every_fifth

NAMES = ("ball", "height", "hole", "flow")
GRAPH = nx.DiGraph([("ball", "height"), ("height", "flow"), ("hole", "flow")])
VARIANTS = ("public", "noisy")
CENTRE, SCALE = (20.0, 3.2, 10.0, 4.2), (15.0, 2.2, 4.0, 2.5)
"""Centre and scale of the factors that bring each to about [-1, 1]."""
RANGES = {"ball": (5.0, 34.0), "height": (1.01, 5.35), "hole": (6.0, 14.0), "flow": (1.75, 6.6)}
"""Ranges in which factors occur; do-values are drawn inside."""
NOISE = 0.15
WINDOW = (0.0, 20.0, 0.0, 20.0)
STROKE = 2.67 / 74.4
END = 0.5


def graph(variant: str = "noisy") -> nx.DiGraph:
    """The true graph, the same for both variants."""
    checks.choice(variant, "variant", VARIANTS)
    return GRAPH


def mechanism(name: str, factors: torch.Tensor, variant: str = "noisy") -> torch.Tensor:
    """Noise-free value [N] of the child `name` given the others in `factors [N, 4]` (Eq. flow-height, Eq. flow-length)."""
    if name == "height":
        return (factors[:, 0] / 30) ** 3
    return (1.96 * factors[:, 1] * (factors[:, 2] / 3 - END)).clamp(min=0).sqrt()


def abduct(factors: torch.Tensor, variant: str = "noisy") -> torch.Tensor:
    """Noise [N, 4] that gives `factors`: roots themselves, children less their mechanism (height: u_h / 10)."""
    noise = factors.clone()
    for name in ("height", "flow"):
        noise[:, NAMES.index(name)] -= mechanism(name, factors, variant)
    return noise


def predict(noise: torch.Tensor, do: dict[str, torch.Tensor | float] | None = None, variant: str = "noisy") -> torch.Tensor:
    """Factors [N, 4] from `noise [N, 4]` under `do` (name to value or values [N]), in causal order."""
    factors = noise.clone()
    for name in nx.topological_sort(GRAPH):
        k = NAMES.index(name)
        if do and name in do:
            factors[:, k] = torch.as_tensor(do[name], dtype=factors.dtype)
        elif GRAPH.in_degree(name):
            factors[:, k] = mechanism(name, factors, variant) + noise[:, k]
    return factors


def counterfactual(factors: torch.Tensor, do: dict[str, torch.Tensor | float], variant: str = "noisy") -> torch.Tensor:
    """The true counterfactual factors: abduct, intervene, predict."""
    return predict(abduct(factors, variant), do, variant)


def _jet(canvas: Canvas, hole: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Coverage of the jet, [N, size, size]: hole in thirds of a unit, flow in units."""
    d = hole / 3
    return canvas.parabola(8.0, d, flow.clamp(min=0.05) ** 2 / (d - END).clamp(min=0.05), END, STROKE * canvas.size)


def render(factors: torch.Tensor, size: int = 64) -> torch.Tensor:
    """Images [N, 3, size, size] in [0, 1] of `factors [N, 4]`."""
    canvas = Canvas(size, WINDOW)
    ball, height, hole, flow = factors.float().unbind(1)
    d, half = hole / 3, STROKE * size / 2 / canvas.scale[0]
    walls = canvas.box(3 - half, 3 + half, 0, 19, ball) + canvas.box(8 - half, 8 + half, 0, d, ball) + canvas.box(8 - half, 8 + half, d + 0.4, 19, ball)
    return paint([(canvas.box(3, 8, 0, 5 + height, ball), SKYBLUE), (walls.clamp(max=1), BLACK), (canvas.ellipse(torch.full_like(ball, 5.5), ball / 30 + 0.5, ball / 30), FIREBRICK),
                  (_jet(canvas, hole, flow), BLACK), (canvas.box(WINDOW[0], WINDOW[1], *_ground(canvas), ball), BLACK)])


def _ground(canvas: Canvas) -> tuple[float, float]:
    """Lower and upper edge of the ground's stroke."""
    half = STROKE * canvas.size / 2 / canvas.scale[1]
    return 0.2 - half, 0.2 + half


@lru_cache
def _ball_table(size: int) -> tuple[np.ndarray, np.ndarray]:
    """(red area in pixels, r), ascending: the ball of each r drawn and measured, as the ground costs it a known share."""
    r = torch.linspace(1, 45, 881)
    others = torch.tensor([3.2, 10.0, 4.2]).expand(len(r), 3)
    area = torch.cat([_red_area(render(part, size).double()) for part in torch.cat([r[:, None], others], 1).split(128)])
    return np.maximum.accumulate(area.numpy()), r.double().numpy()


def _red_area(images: torch.Tensor) -> torch.Tensor:
    """Share of the ball among ball and water, summed over the tank above the ground and below every surface, [N], in pixels."""
    canvas = Canvas(images.shape[-1], WINDOW)
    x, y = canvas.grid(images.device)
    ball, water = ((colour[0] - colour[2]) / 255 for colour in (FIREBRICK, SKYBLUE))
    share = (images[:, 0] - images[:, 2] - water) / (ball - water)
    return (share * ((x > 3.5) & (x < 7.5) & (y > _ground(canvas)[1] + 0.5 / canvas.scale[1]) & (y < 4))).sum((1, 2))


def read(images: torch.Tensor, steps: int = 12) -> torch.Tensor:
    """Factors [N, 4] float64 read from the pixels of `images [N, 3, S, S]` in [0, 1], no learning: the oracle.

    ball from the red area; height from the columns of water left and right of the ball; hole and flow by fitting the drawn jet to the dark pixels right of the
    tank, `steps` Gauss-Newton steps. A missing ball, water or jet gives NaN.
    """
    canvas = Canvas(images.shape[-1], WINDOW)
    images = images.double()
    x, y = (g.double().to(images.device) for g in canvas.grid())
    area = _red_area(images).cpu().numpy()
    radius = torch.as_tensor(np.where((area < 0.05) | (area > 0.5 * canvas.scale[0] * canvas.scale[1] * 14), np.nan, np.interp(area, *_ball_table(canvas.size))), device=images.device)
    column = (((x > 3.6) & (x < 4.2)) | ((x > 6.8) & (x < 7.4))).double()[0, 0]
    floor = 3 + 0.5 / canvas.scale[1]  # rows above the ground and below every surface count in full
    water = ((1 - images[:, 0]) / (1 - SKYBLUE[0] / 255)).clamp(0, 1)
    above = (torch.where(water < 0.1, torch.zeros_like(water), water) * (y > floor)).sum(1)
    rows = (y > floor).double().sum() / canvas.scale[1]
    depth = (above * column).sum(1) / column.sum() / canvas.scale[1]
    height = torch.where(depth < 0.5, torch.full_like(depth, torch.nan), depth + (WINDOW[3] - rows) - 5)
    hole, flow = _fit_jet(canvas, darkness(images), x, y, steps)
    return torch.stack([radius, height, hole, flow], 1)


def _fit_jet(canvas: Canvas, black: torch.Tensor, x: torch.Tensor, y: torch.Tensor, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(hole, flow) whose jet has the least squared distance to `black [N, S, S]` right of the tank and above the ground."""
    edge = STROKE * canvas.size / 2 / canvas.scale[0]
    region = ((x > 8 + edge + 0.5 / canvas.scale[0]) & (y > max(END, 0.2 + edge) + 0.5 / canvas.scale[1])).double()
    target = black * region
    stroke = torch.where(target < 0.3, torch.zeros_like(target), target)
    mass = stroke.sum(1)  # of columns
    seen = stroke.sum((1, 2)) > 2
    # a first guess from column centroids: y = d - s (x - 8)^2, weighted least squares
    mean_y = (stroke * y).sum(1) / mass.clamp(min=1e-9)
    w, v = mass.clamp(max=1), (x[:, 0] - 8) ** 2
    total = w.sum(1).clamp(min=1e-9)
    v_bar, y_bar = (w * v).sum(1) / total, (w * mean_y).sum(1) / total
    slope = (w * (v - v_bar[:, None]) * (mean_y - y_bar[:, None])).sum(1) / (w * (v - v_bar[:, None]) ** 2).sum(1).clamp(min=1e-9)
    d = (y_bar - slope * v_bar).clamp(1.0, 6.0)
    state = torch.stack([3 * d, ((d - END).clamp(min=0.1) / (-slope).clamp(min=1e-2)).sqrt().clamp(0.8, 9)], 1)
    step = state.new_tensor([0.02, 0.01])
    for _ in range(steps):
        here = _jet(canvas, *state.unbind(1)) * region
        lean = [(_jet(canvas, *(state + step * torch.eye(2, dtype=state.dtype, device=state.device)[i]).unbind(1)) * region - here) / step[i] for i in range(2)]
        jacobian = torch.stack([g.flatten(1) for g in lean], 2)
        normal = jacobian.mT @ jacobian + 1e-6 * torch.eye(2, dtype=state.dtype, device=state.device)
        move = torch.linalg.solve(normal, jacobian.mT @ (target - here).flatten(1)[:, :, None])[:, :, 0]
        state = torch.stack([(state[:, 0] + move[:, 0].clamp(-1, 1)).clamp(2, 20), (state[:, 1] + move[:, 1].clamp(-0.5, 0.5)).clamp(0.5, 11)], 1)
    return tuple(torch.where(seen, value, torch.full_like(value, torch.nan)) for value in state.unbind(1))


def load(variant: str = "noisy", size: int = 64, seed: int = 0) -> Scenes:
    """The 8,100 images of a variant, drawn anew; the block is ball in [15, 22], hole in [9, 11]."""
    checks.choice(variant, "variant", VARIANTS)
    grid = np.stack(np.meshgrid(np.arange(5, 35), np.arange(10, 40), np.arange(6, 15), indexing="ij"), -1).reshape(-1, 3)
    rng = seeding.numpy_generator(checks.whole(seed, "seed", 0), "flow", variant)
    noise = torch.zeros(len(grid), 4, dtype=torch.float64)
    noise[:, 0], noise[:, 1], noise[:, 2] = torch.as_tensor(grid[:, 0]), torch.as_tensor(grid[:, 1] / 10), torch.as_tensor(grid[:, 2])
    if variant == "noisy":
        noise[:, 3] = torch.as_tensor(NOISE * rng.standard_normal(len(grid)))
    factors = predict(noise, variant=variant)
    train, test = every_fifth(len(factors))
    inside = (factors[:, 0] >= 15) & (factors[:, 0] <= 22) & (factors[:, 2] >= 9) & (factors[:, 2] <= 11)
    return Scenes("flow" if variant == "noisy" else f"flow_{variant}", torch.cat([render(part, size) for part in factors.split(512)]), factors, noise, NAMES, graph(variant),
                  train, test, np.flatnonzero(inside.numpy()))
