r"""Counterfactual images: abduct the image's noise, intervene on its factors, sample under guidance towards what follows.

Notation as in `guidance`: levels (alpha_i, sigma_i) from noise to data, kappa = sigma / alpha, z_bar the counterfactual factors, standardised.

Abduction of the image: DDIM backwards from x_0 up to the level t_0 (`Eq. ddim` of `solvers` on the reversed grid; Diff-SCM), or one draw of q(x_t0 | x_0) (CausalDiffAE), which loses the image.
Abduction of the factors: u = z - expectation from parents, z given or read by the guide from x_0; action and prediction are those of `scm`.

The plain step replaces a share f of the noise by a fresh draw xi ~ N(0, I) (Song, Meng and Ermon 2021), f = 0 for eta = 0, DDIM, and all that an ancestral step (DDPM) replaces for eta = 1:

    x' = alpha' x_0 + sigma' ((1 - f^2)^(1/2) eps + f xi),  f = eta (1 - kappa'^2 / kappa^2)^(1/2)                    `Eq. ddim-eta`

Each guided step is the plain one plus `guidance.displacement`, whose Sigma_t is what the step's own form makes of a shifted prediction:

    eta < 1  eps -> eps - lambda sigma grad log p:  Sigma_t = sigma (alpha' kappa - sigma' (1 - f^2)^(1/2))          `Eq. guided-ddim`
    eta = 1  mean -> mean + lambda Sigma_t grad log p:  Sigma_t = sigma'^2 (1 - kappa'^2 / kappa^2)                  `Eq. guided-ddpm`

Why draw noise anew at all, when the image's own was abducted? A deterministic walk keeps what guidance has broken: a step that leaves the images the generator knows is never forgotten. Fresh noise forgets it; what
must stay stays because guidance asks for all factors. What no factor describes is kept less well.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from gencausal import checks, seeding, solvers
from gencausal.guidance import STRENGTHS, Guide, displacement, typical_spread
from gencausal.solvers import Grid, Step


@dataclass(frozen=True)
class Sampling:
    """How a counterfactual is drawn. Choices that the paper leaves open, with the specification's defaults."""

    steps: int = 50  # guided steps, and as many of inversion
    start: float = 0.8  # t_0 as a share of the schedule, by scores on training images (Diff-SCM has 0.75)
    spacing: str = "log_snr"  # of the levels, one of solvers.SPACINGS
    strength: str = "adaptive"  # one of guidance.STRENGTHS
    kappa: float = 0.05  # the global constant of the guidance, by scores on training images
    s_z: float = 1.0  # spread of z about z_hat
    tau: float = 0.3  # residual below which guidance dies, 0 for never
    which: str = "all"  # "all" factors steer, or only the "intervened" ones (Diff-SCM)
    eta: float = 0.5  # share of an ancestral step's fresh noise, 0 for DDIM, 1 for DDPM; by scores on training images
    abduction: str = "ddim"  # of the image: "ddim" inversion or a "noise" draw

    def __post_init__(self):
        checks.choice(self.strength, "strength", STRENGTHS)
        checks.choice(self.which, "which", ("all", "intervened"))
        checks.choice(self.abduction, "abduction", ("ddim", "noise"))
        checks.choice(self.spacing, "spacing", solvers.SPACINGS)
        checks.whole(self.steps, "steps", 1)
        if not 0 <= self.eta <= 1:
            raise checks.InputError(f"eta must be between 0 (DDIM) and 1 (DDPM), not {self.eta!r}.")
        if not 0 < self.start <= 1:
            raise checks.InputError(f"start must be a share of the schedule, above 0 and at most 1, not {self.start!r}.")

    def grid(self, levels: Grid | None = None) -> Grid:
        """Levels from t_0 down to the first noise level of the schedule, [steps + 1]."""
        levels = levels or solvers.vp_levels()
        top = len(levels.alpha) - 1 - round(self.start * (len(levels.alpha) - 1))
        return solvers.grid(Grid(*(column[top:] for column in levels)), self.steps, self.spacing)


def abduct(denoise: solvers.Denoise, x: torch.Tensor, grid: Grid, rng: torch.Generator | None = None) -> torch.Tensor:
    """The image's noise at the first level of `grid`: DDIM run backwards, or with `rng` a draw of q(x_t0 | x_0). x: [B, C, H, W] in [-1, 1]."""
    if rng is None:
        return solvers.ddim(denoise, x, Grid(*(column.flip(0) for column in grid)))
    return float(grid.alpha[0]) * x + float(grid.sigma[0]) * torch.randn(x.shape, generator=rng, dtype=x.dtype, device=x.device)


def fresh_share(step: Step, eta: float) -> float:
    """f of Eq. ddim-eta."""
    return eta * (1 - (step.ratio * step.grid.alpha[step.i] / step.grid.alpha[step.i + 1]) ** 2) ** 0.5


def step_variance(step: Step, eta: float) -> float:
    """Sigma_t of Eq. guided-ddim or Eq. guided-ddpm."""
    g, i, f = step.grid, step.i, fresh_share(step, eta)
    if eta == 1:
        return (g.sigma[i + 1] * f) ** 2
    return g.sigma[i] * (g.alpha[i + 1] * g.sigma[i] / g.alpha[i] - g.sigma[i + 1] * (1 - f**2) ** 0.5)


def guided(denoise: solvers.Denoise, guide: Guide, x: torch.Tensor, target: torch.Tensor, sampling: Sampling, grid: Grid | None = None, which: torch.Tensor | None = None,
           rng: torch.Generator | None = None, typical: list[float] | None = None, trace: list[torch.Tensor] | None = None) -> torch.Tensor:
    """Images sampled from noise `x` at the first level of the grid, guided towards the factors `target [B, n]`; [B, C, H, W] in [-1, 1].

    which: weights of the factors in the residual, [B, n]. rng: of fresh noise, by default one of seed 0; all images share the draw, so that each is treated alike alone or in company. typical: of variant "moment", one a step (`typical_spreads`).
    trace: a list that gets the denoised image E[x_0 | x_t] of every step. A guide that sees the denoised image takes its gradient through the step's own pass of the generator.
    """
    grid, last, rng = grid or sampling.grid(), [], rng or seeding.generator(0, "fresh", device=x.device)

    def recorded(x: torch.Tensor, alpha: float, sigma: float) -> torch.Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            last[:] = [leaf, denoise(leaf, alpha, sigma)]
        return last[1].detach()

    def rule(step: Step) -> torch.Tensor:
        alpha, sigma = step.grid.alpha[step.i], step.grid.sigma[step.i]
        if trace is not None:
            trace.append(step.x0)
        gradient, residual = guide.gradient(last[0] if last else step.x, alpha, sigma, target, which, (lambda *_: last[1]) if last else denoise)
        variance, plain = step_variance(step, sampling.eta), step.by_data(step.x0)
        if sampling.eta:
            f = fresh_share(step, sampling.eta)
            fresh = torch.randn(x.shape[1:], generator=rng, dtype=x.dtype, device=x.device)
            plain = plain + step.grid.sigma[step.i + 1] * (((1 - f**2) ** 0.5 - 1) * step.eps + f * fresh)
        return plain + displacement(sampling.strength, gradient, residual, alpha, sigma, variance, sampling.kappa, sampling.s_z, sampling.tau, typical[step.i] if typical else None)

    with torch.no_grad():
        return solvers.walk(rule, recorded if guide.sees == "denoised" else denoise, x, grid).clamp(-1, 1)


def typical_spreads(denoise: solvers.Denoise, guide: Guide, images: torch.Tensor, sampling: Sampling, rng: torch.Generator) -> list[float]:
    """`guidance.typical_spread` at every level of the grid but the last, over noisy versions of `images [B, C, H, W]`: training images."""
    grid = sampling.grid()
    found = []
    for alpha, sigma in zip(grid.alpha[:-1].tolist(), grid.sigma[:-1].tolist()):
        noisy = alpha * images + sigma * torch.randn(images.shape, generator=rng, device=images.device)
        found.append(typical_spread(guide, noisy, alpha, sigma, sampling.s_z, denoise))
    return found


def read(guide: Guide, x: torch.Tensor, grid: Grid, denoise: solvers.Denoise | None = None) -> torch.Tensor:
    """Factors [B, n] that the guide sees in clean images, at the last level of the grid."""
    with torch.no_grad():
        return guide(x, float(grid.alpha[-1]), float(grid.sigma[-1]), denoise)


def steering(do: dict[int, torch.Tensor | float], like: torch.Tensor, sampling: Sampling) -> torch.Tensor | None:
    """Weights of the factors in the residual, [B, n]: all (None), or the intervened ones."""
    if sampling.which == "all":
        return None
    weights = torch.zeros_like(like)
    weights[:, list(do)] = 1
    return weights


def counterfactual(denoise: solvers.Denoise, guide: Guide, x: torch.Tensor, do: dict[int, torch.Tensor | float], sampling: Sampling, z: torch.Tensor | None = None,
                   rng: torch.Generator | None = None, noise: torch.Tensor | None = None, typical: list[float] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [B, C, H, W] in [-1, 1] and factors z_bar [B, n] of the same units under `do` (node to standardised value or values [B]).

    z: the units' factors where they are known, else read from the images. noise: what `abduct` gave before, to save its time.
    """
    grid = sampling.grid()
    z = read(guide, x, grid, denoise) if z is None else z
    with torch.no_grad():
        target = guide.scm.counterfactual(z, do) if sampling.which == "all" else _replaced(z, do)
        if noise is None:
            noise = abduct(denoise, x, grid, rng if sampling.abduction == "noise" else None)
    return guided(denoise, guide, noise, target, sampling, grid, steering(do, z, sampling), rng, typical), target


def _replaced(z: torch.Tensor, do: dict[int, torch.Tensor | float]) -> torch.Tensor:
    z = z.clone()
    for node, value in do.items():
        z[:, node] = torch.as_tensor(value, dtype=z.dtype, device=z.device)
    return z


def sequence(step: Callable[[torch.Tensor, dict[int, torch.Tensor | float]], torch.Tensor], x: torch.Tensor, interventions: list[dict[int, torch.Tensor | float]],
             protocol: str = "image") -> list[torch.Tensor]:
    """Images after each of several interventions, a list of [B, C, H, W]; `step(images, do)` draws one counterfactual.

    protocol: "image" feeds each image to the next step, so errors add up; "state" starts every step from the first image with all interventions so far, the last of each factor.
    """
    checks.choice(protocol, "protocol", ("image", "state"))
    images, now, so_far = [], x, {}
    for do in interventions:
        so_far = so_far | do
        now = step(now, do) if protocol == "image" else step(x, so_far)
        images.append(now)
    return images
