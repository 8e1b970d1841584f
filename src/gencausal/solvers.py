r"""Few-step solvers of the probability flow for any signal and noise scale, `x_t = alpha_t x_0 + sigma_t eps`.

A solver takes `denoise(x, alpha, sigma) -> x0 [..., d]`, the posterior mean of x_0 (alpha and sigma are numbers, or broadcast to x), a start `x [..., d]` at the first level, and a `Grid` of
levels i = 0 ... N from noise to data. kappa = sigma/alpha, lambda = -ln kappa, h_i = 1/kappa_{i+1} - 1/kappa_i, and a prime marks level i + 1.
Variance preserving (VP) means alpha^2 + sigma^2 = 1; the outcome models are in EDM form, alpha = 1 and lambda = -ln sigma
(`Eq. edm-vp`: dividing y = x/alpha by sqrt(1 + kappa^2) leads from one to the other, and D(y; kappa) = x0(x; alpha, sigma)).

`Eq. views` (spec second_act 2.2, #9): score = -eps/sigma = (alpha x0 - x)/sigma^2,  v = alpha eps - sigma x0
`Eq. ddim`: data form x' = (sigma'/sigma) x + sigma' h x0,  noise form x' = alpha' x0 + sigma' eps; the same map
`Eq. dualfast` (#29): eps~ = eps + c_i (eps - cached eps); c = 1/2 with the previous eps is AB2, c = 0 is DDIM
`Eq. 2m`: r = (lambda - lambda_previous)/(lambda' - lambda), D = x0 + (x0 - x0_previous)/(2 r), x' = (sigma'/sigma) x + sigma' h D; first and last step D = x0
`Eq. 2m-eps`: the same D of eps, x' = (alpha'/alpha) x - (alpha' sigma/alpha - sigma') D
`Eq. evodiff` (#6): see `evodiff`.  `Eq. time-shift` (#17): see `time_shift`.
Network evaluations with N steps: Heun 2N - 1, all others N.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from gencausal import checks

Denoise = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Views(NamedTuple):
    """One field, four ways to write it (Eq. views); each of x's shape."""

    x0: torch.Tensor
    eps: torch.Tensor
    score: torch.Tensor
    v: torch.Tensor


def views(x: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor, **known: torch.Tensor) -> Views:
    """All of `Views` at x_t = x from exactly one of x0, eps, score or v (Eq. views); alpha, sigma > 0 broadcast to x, VP or not."""
    if len(known) != 1 or next(iter(known)) not in Views._fields:
        raise checks.InputError(f"views takes exactly one of {', '.join(Views._fields)} by name; got {', '.join(known) or 'none'}.")
    (name, value), = known.items()
    x0 = {"x0": lambda: value, "eps": lambda: (x - sigma * value) / alpha, "score": lambda: (x + sigma**2 * value) / alpha,
          "v": lambda: (alpha * x - sigma * value) / (alpha**2 + sigma**2)}[name]()
    eps = (x - alpha * x0) / sigma
    return Views(x0, eps, -eps / sigma, alpha * eps - sigma * x0)


def from_edm(denoise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Denoise:
    """The denoiser of this module from one in EDM form, `denoise(y, sigma) -> D` (Eq. edm-vp)."""
    return lambda x, alpha, sigma: denoise(x / alpha, sigma / alpha)


# ---------------------------------------------------------------- levels


class Grid(NamedTuple):
    """Levels from noise to data, [N + 1] each: signal and noise scale, and the time on which a network or a window may depend."""

    alpha: torch.Tensor
    sigma: torch.Tensor
    time: torch.Tensor

    @property
    def kappa(self) -> torch.Tensor:
        return self.sigma / self.alpha

    @property
    def log_snr(self) -> torch.Tensor:
        """lambda = ln(alpha/sigma); infinite at a last level sigma = 0."""
        return -self.kappa.log()

    @property
    def steps(self) -> int:
        """N, steps from the first level to the last."""
        return len(self.alpha) - 1


def vp_levels(times: int = 1000, first: float = 1e-4, last: float = 0.02) -> Grid:
    """Every level of the VP schedule with linear beta, time index times - 1 down to 0: alpha_t^2 = prod_{s <= t} (1 - beta_s), float64."""
    beta = torch.linspace(checks.fraction(first, "first"), checks.fraction(last, "last"), checks.whole(times, "times", 2), dtype=torch.float64)
    square = torch.cumprod(1 - beta, 0).flip(0)
    return Grid(square.sqrt(), (1 - square).sqrt(), torch.arange(times - 1, -1, -1, dtype=torch.float64))


def _at(levels: Grid, log_snr: torch.Tensor) -> Grid:
    """VP levels at `log_snr`, their times interpolated linearly between those of `levels`."""
    known = levels.log_snr
    right = torch.searchsorted(known, log_snr.clamp(known[0], known[-1])).clamp(1, len(known) - 1)
    share = (log_snr - known[right - 1]) / (known[right] - known[right - 1])
    time = levels.time[right - 1] + share * (levels.time[right] - levels.time[right - 1])
    return Grid(torch.sigmoid(2 * log_snr).sqrt(), torch.sigmoid(-2 * log_snr).sqrt(), time)


def grid(levels: Grid, steps: int, spacing: str = "uniform") -> Grid:
    """`steps` steps between the ends of the VP schedule `levels`.

    spacing: "uniform" takes time indices equally spaced and rounded; "early" spaces them quadratically, dense at noise (the index falls as 1 - u^2;
    lambda is interpolated between indices); "log_snr" spaces lambda equally.
    """
    checks.choice(spacing, "spacing", SPACINGS)
    top, lam = len(levels.alpha) - 1, levels.log_snr
    u = torch.linspace(0, 1, checks.whole(steps, "steps", high=top if spacing == "uniform" else None) + 1, dtype=torch.float64)
    if spacing == "uniform":
        return Grid(*(column[(u * top).round().long()] for column in levels))
    if spacing == "log_snr":
        return _at(levels, lam[0] + u * (lam[-1] - lam[0]))
    place = u**2 * top
    low = place.floor().clamp(max=top - 1).long()
    return _at(levels, lam[low] + (place - low) * (lam[low + 1] - lam[low]))


SPACINGS = ("uniform", "early", "log_snr")


def edm_grid(sigmas: torch.Tensor) -> Grid:
    """Levels of the EDM form, alpha = 1, from decreasing `sigmas [N + 1]`, which may end at 0; the time is sigma."""
    return Grid(torch.ones_like(sigmas), sigmas, sigmas)


# ---------------------------------------------------------------- one evaluation a step


class Step(NamedTuple):
    """What a rule may use at step i: the sample, its predictions, those of the step before and of the first step (None at i = 0); the grid's columns are lists."""

    i: int
    grid: Grid
    x: torch.Tensor
    x0: torch.Tensor
    eps: torch.Tensor
    before: "Step | None"
    first: "Step | None"

    @property
    def ratio(self) -> float:
        """sigma'/sigma."""
        return self.grid.sigma[self.i + 1] / self.grid.sigma[self.i]

    @property
    def gain(self) -> float:
        """sigma' h = alpha' - alpha sigma'/sigma, finite at sigma' = 0."""
        return self.grid.alpha[self.i + 1] - self.grid.alpha[self.i] * self.ratio

    @property
    def inner(self) -> bool:
        """Neither the first step nor the last."""
        return 0 < self.i < len(self.grid.alpha) - 2

    @property
    def half_over_r(self) -> float:
        """1/(2 r) of Eq. 2m."""
        past, here, ahead = (math.log(self.grid.sigma[j] / self.grid.alpha[j]) for j in range(self.i - 1, self.i + 2))
        return 0.5 * (ahead - here) / (here - past)

    def by_data(self, x0: torch.Tensor) -> torch.Tensor:
        """Data form of Eq. ddim with the prediction `x0`."""
        return self.ratio * self.x + self.gain * x0

    def by_noise(self, eps: torch.Tensor) -> torch.Tensor:
        """Noise form of Eq. ddim with the prediction `eps` alone: x' = (alpha'/alpha) x + (sigma' - alpha' sigma/alpha) eps."""
        g, i = self.grid, self.i
        stretch = g.alpha[i + 1] / g.alpha[i]
        return stretch * self.x + (g.sigma[i + 1] - stretch * g.sigma[i]) * eps


def _numbers(grid: Grid) -> Grid:
    """The grid with lists of numbers for tensors: one small operation less for each use."""
    return Grid(*(column.tolist() for column in grid))


def walk(rule: Callable[[Step], torch.Tensor], denoise: Denoise, x: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Evaluate the denoiser once at every level but the last and move by `rule`: x_N, of x's shape."""
    before = first = None
    grid = _numbers(grid)
    for i in range(grid.steps):
        alpha, sigma = grid.alpha[i], grid.sigma[i]
        x0 = denoise(x, alpha, sigma)
        step = Step(i, grid, x, x0, (x - alpha * x0) / sigma, before, first)
        x = rule(step)
        before = step._replace(before=None, first=None)
        first = first or before
    return x


def ddim(denoise: Denoise, x: torch.Tensor, grid: Grid) -> torch.Tensor:
    """First order, data form (Eq. ddim)."""
    return walk(lambda s: s.by_data(s.x0), denoise, x, grid)


def ddim_noise(denoise: Denoise, x: torch.Tensor, grid: Grid) -> torch.Tensor:
    """First order, noise form (Eq. ddim): `ddim` written a second time."""
    return walk(lambda s: s.grid.alpha[s.i + 1] * s.x0 + s.grid.sigma[s.i + 1] * s.eps, denoise, x, grid)


def dualfast(denoise: Denoise, x: torch.Tensor, grid: Grid, weight: str | float = "ramp", cached: str = "previous", second_order: bool = False) -> torch.Tensor:
    """DDIM, or 2M if `second_order`, with the mixed noise of Eq. dualfast in its first-order term.

    weight: c_i, constant or "ramp", linear from 0 at the first step to 1/2 at the last (the paper's own is not available to us).
    cached: the eps mixed in, of the "previous" step or of the "first" (tau = T).
    """
    checks.choice(cached, "cached", ("previous", "first"))

    def rule(s: Step) -> torch.Tensor:
        old = s.before if cached == "previous" else s.first
        c = 0.5 * s.i / max(grid.steps - 1, 1) if weight == "ramp" else weight
        eps = s.eps if old is None else s.eps + c * (s.eps - old.eps)
        if not (second_order and s.inner):
            return s.by_noise(eps)
        x0 = (s.x - s.grid.sigma[s.i] * eps) / s.grid.alpha[s.i]
        return s.by_data(x0 + s.half_over_r * (s.x0 - s.before.x0))

    return walk(rule, denoise, x, grid)


def ab2(denoise: Denoise, x: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Adams-Bashforth 2 of PNDM: eps~ = 3/2 eps - 1/2 eps_previous on any grid, first step plain."""
    return walk(lambda s: s.by_noise(s.eps if s.before is None else 1.5 * s.eps - 0.5 * s.before.eps), denoise, x, grid)


def two_m(denoise: Denoise, x: torch.Tensor, grid: Grid, last_first_order: bool = True) -> torch.Tensor:
    """DPM-Solver++2M (Eq. 2m); `last_first_order=False` extrapolates in the last step too, which needs sigma > 0 there."""
    return walk(lambda s: s.by_data(s.x0 + s.half_over_r * (s.x0 - s.before.x0) if s.inner or (s.i and not last_first_order) else s.x0), denoise, x, grid)


def two_m_eps(denoise: Denoise, x: torch.Tensor, grid: Grid) -> torch.Tensor:
    """DPM-Solver-2M in eps (Eq. 2m-eps), first and last step first order."""
    return walk(lambda s: s.by_noise(s.eps + s.half_over_r * (s.eps - s.before.eps) if s.inner else s.eps), denoise, x, grid)


# ---------------------------------------------------------------- other evaluation patterns


def heun(denoise: Denoise, x: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Trapezoidal corrector of d(x/alpha)/d kappa = eps, two evaluations a step; the last step is DDIM (one evaluation)."""
    def rule(s: Step) -> torch.Tensor:
        ahead = s.by_noise(s.eps)
        if s.i == grid.steps - 1:
            return ahead
        alpha, sigma = s.grid.alpha[s.i + 1], s.grid.sigma[s.i + 1]
        return s.by_noise(0.5 * (s.eps + (ahead - alpha * denoise(ahead, alpha, sigma)) / sigma))

    return walk(rule, denoise, x, grid)


def ancestral(denoise: Denoise, x: torch.Tensor, grid: Grid, rng: torch.Generator) -> torch.Tensor:
    """The reverse SDE: each step draws from q(x' | x, x_0 = x0), exact in the limit of many steps. Ends at the last level, sigma' > 0 or not.

    `Eq. ancestral`: with k = kappa'^2 / kappa^2, mean alpha' (k x/alpha + (1 - k) x0), variance sigma'^2 (1 - k).
    """
    def rule(s: Step) -> torch.Tensor:
        k = (s.ratio * s.grid.alpha[s.i] / s.grid.alpha[s.i + 1]) ** 2
        noise = torch.randn(x.shape, generator=rng, dtype=x.dtype, device=x.device)
        return s.grid.alpha[s.i + 1] * (k / s.grid.alpha[s.i] * s.x + (1 - k) * s.x0) + s.grid.sigma[s.i + 1] * math.sqrt(1 - k) * noise

    return walk(rule, denoise, x, grid)


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).sum(-1, keepdim=True)


def _project(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """<a, b>/<b, b> over the last axis, clipped to [-2, 2], 0 where b = 0."""
    square = _dot(b, b)
    return torch.where(square > 0, _dot(a, b) / square.clamp(min=torch.finfo(a.dtype).tiny), 0).clamp(-2, 2)


def evodiff(denoise: Denoise, x: torch.Tensor, grid: Grid, maps: str | tuple[float, float] = "code", rescale: bool = True) -> torch.Tensor:
    r"""EVODiff (arXiv 2509.26096), one evaluation a step: the probe's prediction serves the next step. Inner products over the last axis of x.

    `Eq. evodiff` (spec second_act 2.2, #6), x_E the DDIM step, g = sigma' h, rho the previous over the present step in lambda, w = (1 - t~^2)/2,
    b = sqrt((sigma'/sigma)/(sigma/sigma_previous)), r_1 = (1 - w) b + w <x0, x0_previous>/|x0_previous|^2, D_1 = x0 - r_1 x0_previous:
        r = clip(rho sigmoid(|r_1|/4), rho/4, 3 rho/2),   x_P = x_E + g D_1 / 2r,   D_2 from the prediction at x_P as D_1,
        B = -(eta/rho) D_1 + (1 - eta) rho D_2,   x' = x_E + g B / 2 zeta,
        eta* = <B+ + B-, B+ - B->/(2 |B+ - B-|^2), B- = D_1/rho, B+ = rho D_2,   zeta* = <x_P - x_E - g B/2r, D_1>/(g |D_1|^2)
    maps: "code" (released) eta = sigmoid|eta*|/2, zeta = sigmoid(|zeta*| - 1/2), beyond 20 steps sigmoid(-c (|zeta*| - 1/2)); "paper" (as reported)
        eta = sigmoid|eta*|, zeta = sigmoid(1/2 - |zeta*|), multiplied where the code divides; or constants (eta, zeta).
    rescale: the released last step, x_E shrunk by 1 - sqrt(sigma' sigma) plus a half step of a difference; False is a DDIM step.
    """
    if not isinstance(maps, tuple):
        checks.choice(maps, "maps", ("code", "paper"))
    lam, n, grid = grid.log_snr.tolist(), grid.steps, _numbers(grid)
    step = Step(0, grid, x, denoise(x, grid.alpha[0], grid.sigma[0]), x, None, None)
    x, old = step.by_data(step.x0), step.x0
    new = denoise(x, grid.alpha[1], grid.sigma[1]) if n > 1 else None
    for i in range(1, n - 1):
        step = Step(i, grid, x, new, x, None, None)
        g, ahead = step.gain, step.by_data(new)
        rho = (lam[i] - lam[i - 1]) / (lam[i + 1] - lam[i])
        w = 0.5 * (1 - ((grid.time[i + 1] + grid.time[-1]) / (grid.time[0] + grid.time[-1])) ** 2)
        b = math.sqrt(step.ratio * grid.sigma[i - 1] / grid.sigma[i])
        r_1 = (1 - w) * b + w * _project(new, old)
        d_1 = new - r_1 * old
        r = (rho * torch.sigmoid(r_1.abs() / 4)).clamp(rho / 4, 1.5 * rho)
        probe = ahead + 0.5 * g * d_1 / r
        seen = denoise(probe, grid.alpha[i + 1], grid.sigma[i + 1])
        d_2 = seen - ((1 - w) * b + w * _project(seen, new)) * new
        minus, plus = d_1 / rho, rho * d_2
        eta_star = 0.5 * _project(plus + minus, plus - minus)
        mix = lambda eta: (1 - eta) * plus - eta * minus  # noqa: E731
        zeta_star = lambda back: (_project(probe - ahead - 0.5 * g * back / r, d_1) / g).abs() - 0.5  # noqa: E731
        if isinstance(maps, tuple):
            eta, zeta = maps
            x = ahead + 0.5 * g * mix(eta) / zeta
        elif maps == "paper":
            back = mix(torch.sigmoid(eta_star.abs()))
            x = ahead + 0.5 * g * back * torch.sigmoid(-zeta_star(back))
        else:
            back = mix(0.5 * torch.sigmoid(eta_star.abs()))
            sign = 1.0 if n <= 20 else -torch.sigmoid(g / grid.sigma[i + 1] * _project(new, new - old) * (2 - step.ratio**2))
            x = ahead + 0.5 * g * back / torch.sigmoid(sign * zeta_star(back))
        old, new = new, seen
    if n == 1:
        return x
    step = Step(n - 1, grid, x, new, x, None, None)
    if not rescale:
        return step.by_data(new)
    ratio = step.ratio
    q = 1 - 0.5 * math.sqrt(ratio if ratio < 0.5 else ratio - 0.5)
    return (1 - math.sqrt(grid.sigma[n] * grid.sigma[n - 1])) * step.by_data(new) + 0.5 * step.gain * (new - q * old)


def time_shift(solver: Callable, denoise: Denoise, x: torch.Tensor, grid: Grid, levels: Grid, window: float, cutoff: float = 0, target: str = "plain") -> torch.Tensor:
    """`solver` with a re-timed network (Time-Shift sampler, arXiv 2305.15583), x [..., n, d] in VP form on `levels` (every time of its schedule).

    `Eq. time-shift`: t_s = argmin over t in [t_i - window/2, t_i + window/2] of (v - (1 - alpha_t^2))^2, v the variance over the last axis of x; eps is
    read at t_s while t_i > cutoff, after the first step, and moved with the grid's own alpha and sigma. The window is clamped to the schedule's ends.
    target: "plain" as above; "corrected" 1 - alpha_t^2 + alpha_t^2 v_0, v_0 the variance of the last prediction of x_0; "another" is a null, plain with the
    v of the next of the n samples: the same shifts, which know nothing of the sample they are applied to.
    """
    checks.choice(target, "target", ("plain", "corrected", "another"))
    if checks.non_negative(window, "window") < 1:
        return solver(denoise, x, grid)
    if x.shape[-1] < 2:
        raise checks.InputError("x must have at least two entries in its last axis, over which time_shift takes a variance; got 1.")
    last = []  # the last prediction of x_0, once there is one

    def shifted(x: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        time = _at(levels, torch.tensor(math.log(alpha / sigma), dtype=levels.alpha.dtype)).time
        if last and time > cutoff:
            near = (levels.time - time).abs() <= window / 2
            wanted = levels.sigma[near] ** 2 + (levels.alpha[near] ** 2 * last[0].var(-1, keepdim=True) if target == "corrected" else 0)
            v = x.var(-1, keepdim=True)
            chosen = ((v.roll(1, -2) if target == "another" else v) - wanted).square().argmin(-1, keepdim=True)
            a, s = (column[near][chosen] for column in (levels.alpha, levels.sigma))
            last[:] = [(x - sigma * (x - a * denoise(x, a, s)) / s) / alpha]
        else:
            last[:] = [denoise(x, alpha, sigma)]
        return last[0]

    return solver(shifted, x, grid)
