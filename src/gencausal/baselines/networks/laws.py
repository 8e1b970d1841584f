r"""Laws of a scalar outcome given raw network outputs: the mean alone, a Gaussian, quantiles, a spline flow.

A law says how many raw outputs it needs (`size`), scores them at an outcome (`loss`), and turns them into a mean and into stratified draws,
the quantiles at p_j = (j + 1/2) / M. Outcomes are on the model scale, sd c = OUTCOME_SD; raw outputs 0 are N(0, c^2) or its quantiles,
and the first is the location. Losses are in units of c, so that one gate penalty means alike for all.

    `Eq. squared`    ((y - m) / c)^2
    `Eq. gaussian`   (y - m)^2 / (2 s^2) + ln(s / c)                    m = raw_0, ln(s / c) = 5 tanh(raw_1 / 5)
    `Eq. pinball`    (2 / (L c)) sum_l max(p_l (y - q_l), (p_l - 1)(y - q_l))       q_1 < ... < q_L by positive increments
    `Eq. flow`       u^2 / 2 - ln du/dv + ln(s / c)                     u = RQ(v), v = (y - m) / s

The mean of Eq. pinball over L levels tends to the CRPS as L grows. RQ is the monotone rational-quadratic spline (Gregory and Delbourgo 1982; Durkan et al. 2019)
on [-BOUND, BOUND], the identity outside, with slopes 1 at both ends. With s_k = h_k / w_k and xi in [0, 1] the position in bin k,

    RQ = y_k + h_k (s_k xi^2 + d_k xi (1 - xi)) / (s_k + (d_{k+1} + d_k - 2 s_k) xi (1 - xi))          `Eq. rational-quadratic`
"""

import math

import torch
from torch.nn.functional import pad, softmax, softplus

from gencausal.data.stack import OUTCOME_SD
from gencausal.sampling import stratified_normal

BOUND = 4.0  # the spline bends within +-BOUND standard deviations
SMALLEST = 1e-3  # smallest share of a bin and smallest slope of the spline
NODES = 100  # stratified draws whose average is the mean of a law
ONE = math.log(math.e - 1)  # softplus(ONE) = 1


class Mean:
    """The conditional mean alone (Eq. squared)."""

    size = 1

    def loss(self, raw: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Loss of raw outputs [..., size] at outcomes y [...], the same shape as y."""
        return ((y - raw[..., 0]) / OUTCOME_SD).square()

    def mean(self, raw: torch.Tensor) -> torch.Tensor:
        """Mean of the law, [...]."""
        return raw[..., 0]


class Gaussian(Mean):
    """Heteroscedastic Gaussian (Eq. gaussian)."""

    size = 2

    def loss(self, raw: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        log_s = _log_sd(raw[..., 1])
        return 0.5 * ((y - raw[..., 0]) / OUTCOME_SD).square() * (-2 * log_s).exp() + log_s

    def draws(self, raw: torch.Tensor, n: int) -> torch.Tensor:
        """Stratified draws of the law, ascending, [..., n]."""
        return raw[..., :1] + OUTCOME_SD * _log_sd(raw[..., 1:]).exp() * stratified_normal(n, raw.device).to(raw.dtype)


class Quantiles:
    """Quantiles at the levels (j + 1/2) / L (Eq. pinball); between and beyond the levels they are linear in the normal quantile of the level."""

    def __init__(self, levels: int):
        self.size = levels
        self.levels = (torch.arange(levels, dtype=torch.float64) + 0.5) / levels
        self.normal = torch.special.ndtri(self.levels)

    def quantiles(self, raw: torch.Tensor) -> torch.Tensor:
        """[..., L], ascending: the middle one is raw_0, the others follow by positive increments, those of N(raw_0, c^2) where the rest of raw is 0."""
        steps = (OUTCOME_SD * self.normal.diff()).to(raw) * softplus(raw[..., 1:] + ONE)
        heights = pad(steps.cumsum(-1), (1, 0))
        return raw[..., :1] + (heights - heights[..., self.size // 2, None])

    def loss(self, raw: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        gap, p = (y[..., None] - self.quantiles(raw)) / OUTCOME_SD, self.levels.to(raw)
        return 2 * torch.maximum(p * gap, (p - 1) * gap).mean(-1)

    def draws(self, raw: torch.Tensor, n: int) -> torch.Tensor:
        at = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)
        left = (torch.searchsorted(self.normal, at) - 1).clamp(0, self.size - 2)
        share = ((at - self.normal[left]) / (self.normal[left + 1] - self.normal[left])).to(raw)
        q, left = self.quantiles(raw), left.to(raw.device)
        return q[..., left] + share * (q[..., left + 1] - q[..., left])

    def mean(self, raw: torch.Tensor) -> torch.Tensor:
        return self.draws(raw, NODES).mean(-1)


class Spline:
    """A normalising flow from the outcome to a standard normal: an affine map, then a rational-quadratic spline (Eq. flow)."""

    def __init__(self, bins: int):
        self.bins, self.size = bins, 1 + 3 * bins

    def knots(self, raw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Knots v and u [..., bins + 1] and slopes there; raw outputs 0 are the identity."""
        share = lambda part: SMALLEST + (1 - SMALLEST * self.bins) * softmax(part, -1)  # noqa: E731
        v, u = (pad(2 * BOUND * share(part).cumsum(-1), (1, 0)) - BOUND for part in raw[..., 2:2 + 2 * self.bins].split(self.bins, -1))
        return v, u, pad(SMALLEST + (1 - SMALLEST) * softplus(raw[..., 2 + 2 * self.bins:] + ONE), (1, 1), value=1.0)

    def loss(self, raw: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        log_s = _log_sd(raw[..., 1])
        v = (y - raw[..., 0]) / OUTCOME_SD * (-log_s).exp()
        u, log_slope = rational_quadratic(v[..., None], *self.knots(raw))
        return 0.5 * u[..., 0].square() - log_slope[..., 0] + log_s

    def draws(self, raw: torch.Tensor, n: int) -> torch.Tensor:
        u = stratified_normal(n, raw.device).to(raw.dtype).expand(*raw.shape[:-1], n)
        return raw[..., :1] + OUTCOME_SD * _log_sd(raw[..., 1:2]).exp() * inverse_rational_quadratic(u, *self.knots(raw))

    def mean(self, raw: torch.Tensor) -> torch.Tensor:
        return self.draws(raw, NODES).mean(-1)


def _log_sd(raw: torch.Tensor) -> torch.Tensor:
    """ln(s / c), bounded to +-5 without a kink."""
    return 5 * torch.tanh(raw / 5)


def _bin(value: torch.Tensor, axis: torch.Tensor, v: torch.Tensor, u: torch.Tensor, slope: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Left ends, width, height and both slopes of the bin of `axis` (v or u) that holds `value`, each of the shape of value."""
    whole = (*value.shape[:-1], -1)
    k = torch.searchsorted(axis.detach()[..., 1:-1].expand(whole).contiguous(), value.detach().contiguous(), right=True)
    at = lambda a, i: a.expand(whole).gather(-1, i)  # noqa: E731
    left, low = at(v, k), at(u, k)
    return left, low, at(v, k + 1) - left, at(u, k + 1) - low, at(slope, k), at(slope, k + 1)


def rational_quadratic(value: torch.Tensor, v: torch.Tensor, u: torch.Tensor, slope: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The spline through the knots (v, u) with the given slopes, each [..., bins + 1], at `value [..., M]`, and the log of its slope there
    (Eq. rational-quadratic); the identity outside the knots, whose end points must lie on the diagonal."""
    inside = (value > v[..., :1]) & (value < v[..., -1:])
    held = torch.where(inside, value, 0.5 * (v[..., :1] + v[..., -1:]))
    left, low, width, height, d0, d1 = _bin(held, v, v, u, slope)
    s, xi = height / width, (held - left) / width
    mixed = xi * (1 - xi)
    below = s + (d1 + d0 - 2 * s) * mixed
    out = low + height * (s * xi * xi + d0 * mixed) / below
    log_slope = 2 * s.log() + (d1 * xi * xi + 2 * s * mixed + d0 * (1 - xi).square()).log() - 2 * below.log()
    return torch.where(inside, out, value), torch.where(inside, log_slope, 0.0)


def inverse_rational_quadratic(value: torch.Tensor, v: torch.Tensor, u: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """The inverse of `rational_quadratic` at `value [..., M]`: the root in [0, 1] of a xi^2 + b xi + c, in the form that loses no digits."""
    inside = (value > u[..., :1]) & (value < u[..., -1:])
    held = torch.where(inside, value, 0.5 * (u[..., :1] + u[..., -1:]))
    left, low, width, height, d0, d1 = _bin(held, u, v, u, slope)
    s, rise = height / width, held - low
    bend = rise * (d1 + d0 - 2 * s)
    a, b, c = height * (s - d0) + bend, height * d0 - bend, -s * rise
    xi = 2 * c / (-b - (b * b - 4 * a * c).clamp(min=0).sqrt())
    return torch.where(inside, left + width * xi, value)
