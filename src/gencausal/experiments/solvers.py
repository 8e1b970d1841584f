r"""Which sampler, which grid? Few-step solvers on an exact score, on a trained plane and on trained outcome models (spec second_act, section 2: B1-E1, E2, E4).

Every solver starts from the same noise and is scored against the flow itself:

    endpoint MSE = mean over starts of |x_N - x_ref|^2, summed over coordinates,   x_ref = the flow in very many steps
    hallucination rate = share of endpoints more than six sds of a mode from every mode (`Eq. hallucination`)

Methods are compared at equal network evaluations (nfe). Frames hold one row a seed, sampler, grid and nfe; a seed is one batch of starts.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.functional import silu

from gencausal import checks, seeding, solvers
from gencausal.data.stack import Outcomes
from gencausal.data.toys import GaussianGrid, gaussians_25
from gencausal.diffusion import Denoiser, precondition
from gencausal.nn.mlp import FourierEmbedding, StackedLinear
from gencausal.schedules import SIGMA_MAX, SIGMA_MIN, karras_sigmas
from gencausal.solvers import Grid
from gencausal.training import Player, fit


class Sampler(NamedTuple):
    """A solver, the order it is built to have, and its evaluations a step (Heun's last step takes one)."""

    solve: Callable
    order: int
    evaluations: int = 1


SUITE = {
    "ddim": Sampler(solvers.ddim, 1),
    "dualfast": Sampler(solvers.dualfast, 1),
    "dualfast_half": Sampler(partial(solvers.dualfast, weight=0.5), 2),
    "dualfast_first": Sampler(partial(solvers.dualfast, cached="first"), 1),
    "ab2": Sampler(solvers.ab2, 2),
    "2m": Sampler(solvers.two_m, 2),
    "2m_eps": Sampler(solvers.two_m_eps, 2),
    "dualfast_2m": Sampler(partial(solvers.dualfast, second_order=True), 2),
    "heun": Sampler(solvers.heun, 2, 2),
    "evodiff_code": Sampler(solvers.evodiff, 2),
    "evodiff_code_plain_end": Sampler(partial(solvers.evodiff, rescale=False), 2),
    "evodiff_paper": Sampler(partial(solvers.evodiff, maps="paper", rescale=False), 2),
    "evodiff_quarter_half": Sampler(partial(solvers.evodiff, maps=(0.25, 0.5), rescale=False), 2),
    "evodiff_half_one": Sampler(partial(solvers.evodiff, maps=(0.5, 1.0), rescale=False), 2),
}
TIME_SHIFT = {"time_shift": (30, 300, "plain"), "time_shift_corrected": (30, 300, "corrected"), "time_shift_another": (30, 300, "another"),
              "time_shift_no_cutoff": (30, 0, "plain"), "time_shift_no_cutoff_corrected": (30, 0, "corrected")}  # window, cutoff (released DPM-Solver settings), target


def _runs(denoise: solvers.Denoise, start: torch.Tensor, grids: dict[str, Callable[[int], Grid]], suite: dict[str, Sampler], nfe: tuple[int, ...]) -> Iterator[tuple[dict, torch.Tensor]]:
    """The endpoint of every sampler on every grid at every number of evaluations, with its labels; none beyond `nfe`."""
    for spacing, make in grids.items():
        for budget in nfe:
            for name, sampler in suite.items():
                steps = (budget + sampler.evaluations - 1) // sampler.evaluations
                yield {"sampler": name, "grid": spacing, "nfe": budget}, sampler.solve(denoise, start, make(steps))


def _frame(label: dict, seeds: list[int], **values: torch.Tensor) -> pd.DataFrame:
    return pd.DataFrame({"seed": seeds, **label, **{name: value.numpy() for name, value in values.items()}})


def _starts(seeds: list[int], shape: tuple[int, ...], *names: str) -> torch.Tensor:
    """Standard normals [seeds, *shape], float64, one stream a seed."""
    return torch.stack([torch.randn(shape, generator=seeding.generator(s, *names), dtype=torch.float64) for s in seeds])


# ---------------------------------------------------------------- B1-E2: exact score


def exact_score_table(seeds: list[int], starts: int = 300, steps: tuple[int, ...] = (5, 10, 20, 50), denoise: solvers.Denoise | None = None,
                      spacings: tuple[str, ...] = solvers.SPACINGS, samplers: tuple[str, ...] = tuple(SUITE), shifts: tuple[str, ...] = tuple(TIME_SHIFT)) -> pd.DataFrame:
    """Columns seed, sampler, grid, nfe, endpoint_mse, hallucination_rate on the 25 Gaussians; `starts` noises a seed; Time-Shift on the uniform grid only.

    denoise: another denoiser `(x [S, starts, 2], alpha, sigma)` to run in place of the exact one; the reference stays the exact flow in 999 DDIM steps.
    """
    toy, levels = gaussians_25(), solvers.vp_levels()
    start = _starts(seeds, (checks.whole(starts, "starts"), 2), "solver starts")
    reference = solvers.ddim(toy.denoise, start, levels)
    score = lambda label, y: _frame(label, seeds, endpoint_mse=(y - reference).square().sum(-1).mean(-1), hallucination_rate=(toy.distance(y) > 6).double().mean(-1))  # noqa: E731
    denoise = denoise or toy.denoise
    grids = {spacing: partial(solvers.grid, levels, spacing=spacing) for spacing in spacings}
    shifted = {name: Sampler(partial(_shift, levels=levels, window=w, cutoff=c, target=target), 1) for name, (w, c, target) in TIME_SHIFT.items() if name in shifts}
    found = [score(*run) for run in _runs(denoise, start, grids, {name: SUITE[name] for name in samplers}, steps)]
    found += [score(*run) for run in _runs(denoise, start, {"uniform": grids["uniform"]} if shifted else {}, shifted, steps)]
    reached = score({"sampler": "flow", "grid": "every level", "nfe": levels.steps}, reference)
    return pd.concat([*found, reached], ignore_index=True)


def _shift(denoise: solvers.Denoise, x: torch.Tensor, grid: Grid, **options) -> torch.Tensor:
    return solvers.time_shift(solvers.ddim, denoise, x, grid, **options)


def variance_explained(table: pd.DataFrame, most: int = 20) -> pd.DataFrame:
    """Share of the variance of the log endpoint MSE over samplers and grids that the grid and the order explain, a seed and nfe <= `most`.

    `Eq. anova`: additive two-way fit by least squares, 1 - RSS/TSS; columns seed, nfe, grid (alone), order (alone), grid_and_order, sampler_and_grid.
    """
    used = table[table["sampler"].isin(SUITE) & (table["nfe"] <= most)].assign(order=lambda t: t["sampler"].map(lambda name: SUITE[name].order).astype(str))
    rows = []
    for (seed, nfe), cell in used.groupby(["seed", "nfe"]):
        y = np.log(cell["endpoint_mse"].to_numpy())
        y = y - y.mean()

        def share(*factors: str) -> float:
            design = np.column_stack([np.ones(len(y)), *[pd.get_dummies(cell[f], drop_first=True, dtype=float) for f in factors]])
            return float(1 - (y - design @ np.linalg.lstsq(design, y, rcond=None)[0]).var() / y.var())

        rows.append({"seed": seed, "nfe": nfe, "grid": share("grid"), "order": share("order"), "grid_and_order": share("grid", "order"), "sampler_and_grid": share("sampler", "grid")})
    return pd.DataFrame(rows)


# ---------------------------------------------------------------- a trained plane


class Plane(nn.Module):
    """Stacked denoiser of the plane in EDM form (Eq. 7, Karras et al. 2022, sigma_data = 1), Fourier features and three hidden layers: `y [S, n, 2], sigma -> D`."""

    def __init__(self, stack: int, width: int, rng: torch.Generator):
        super().__init__()
        self.embedding = FourierEmbedding()
        sizes = [3 * self.embedding.width, width, width, width, 2]
        self.layers = nn.ModuleList(StackedLinear(stack, a, b, rng) for a, b in zip(sizes, sizes[1:]))

    def forward(self, y: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        y = y.float()
        c = precondition(torch.as_tensor(sigma, dtype=torch.float32).expand(*y.shape[:2], 1), 1.0)
        h = torch.cat([self.embedding(c.c_in * y).flatten(-2), self.embedding(c.c_noise).flatten(-2)], -1)
        for layer in self.layers[:-1]:
            h = silu(layer(h))
        return c.c_skip * y + c.c_out * self.layers[-1](h)


def train_plane(seeds: list[int], rounds: int, width: int = 128, batch: int = 256, lr: float = 3e-3) -> Plane:
    """One denoiser a seed of the 25 Gaussians, as a stack, by Eq. 8, Karras et al. 2022, on fresh draws; ln sigma ~ N(-1.2, 1.6^2)."""
    toy, streams = gaussians_25(), [seeding.generator(s, "plane") for s in seeds]
    axis = torch.tensor(toy.axis, dtype=torch.float32)

    def loss() -> dict[str, torch.Tensor]:
        mode = torch.stack([torch.randint(len(axis), (batch, 2), generator=g) for g in streams])
        noise = seeding.stacked(torch.randn, streams, 3, batch, 2)
        sigma = (-1.2 + 1.6 * noise[:, 2, :, :1]).exp()
        y = axis[mode] + toy.sd * noise[:, 0]
        weight = (sigma**2 + 1) / sigma**2
        return {"edm": (weight * (plane(y + sigma * noise[:, 1], sigma) - y).square()).mean((1, 2))}

    plane = Plane(len(seeds), width, seeding.generator(seeds[0], "plane", "init"))
    identity = {"kind": "plane", "seeds": seeds, "rounds": rounds, "width": width, "batch": batch, "lr": lr}
    return fit({"plane": Player(plane, loss, lr, average=0.995)}, rounds, streams, config=identity, seed=seeds[0], label="plane").modules["plane"]


def trained_plane_table(seeds: list[int], rounds: int, starts: int = 1000, steps: tuple[int, ...] = (5, 10)) -> pd.DataFrame:
    """`exact_score_table` of the trained denoisers of the plane, distances still to the exact flow; spec second_act, B1-E3 in small."""
    plane = train_plane(seeds, rounds)
    with torch.no_grad():
        return exact_score_table(seeds, starts, steps, lambda x, alpha, sigma: plane(x / alpha, sigma / alpha).double(), ("uniform", "log_snr"), PLANE_SUITE, ())


PLANE_SUITE = ("ddim", "dualfast", "ab2", "2m", "dualfast_2m", "evodiff_code", "evodiff_code_plain_end", "evodiff_paper", "evodiff_quarter_half")


# ---------------------------------------------------------------- B1-E1: one field, three views

LAWS = {"Gaussian": GaussianGrid((0.4,), 0.5), "wide mixture": gaussians_25(0.3)}
ORDERED = {"ddim": 1, "ab2": 2, "2m": 2, "heun": 2}


def identities(seeds: list[int], starts: int = 200) -> pd.DataFrame:
    """Columns seed, identity, error: the largest deviation of each identity of `Eq. views`, `Eq. ddim` and `Eq. edm-vp` over laws, random levels and points."""
    levels, errors = solvers.vp_levels(), {}
    coarse = solvers.grid(levels, 50, "log_snr")
    x = _starts(seeds, (starts, 2), "identities")
    at = torch.stack([torch.randint(levels.steps + 1, (starts, 1), generator=seeding.generator(s, "identities", "levels")) for s in seeds])
    alpha, sigma = levels.alpha[at], levels.sigma[at]
    for law in LAWS.values():
        x0 = law.denoise(x, alpha, sigma)
        known = solvers.views(x, alpha, sigma, x0=x0)
        edm = solvers.from_edm(lambda y, kappa, law=law: law.denoise(y, torch.ones_like(kappa), kappa))(x, alpha, sigma)
        pairs = {f"{name} to x0": (solvers.views(x, alpha, sigma, **{name: getattr(known, name)}).x0, x0) for name in known._fields[1:]}
        pairs |= {"score, closed form": (known.score * sigma**2, law.score(x, alpha, sigma) * sigma**2), "EDM and VP": (edm, x0),
                  "DDIM, two forms": (solvers.ddim(law.denoise, x, coarse), solvers.ddim_noise(law.denoise, x, coarse))}
        for name, (a, b) in pairs.items():
            errors[name] = torch.maximum(errors.get(name, torch.zeros(len(seeds))), (a - b).abs().amax((1, 2)))
    return pd.concat([_frame({"identity": name}, seeds, error=value) for name, value in errors.items()], ignore_index=True)


def orders(seeds: list[int], starts: int = 20, steps: tuple[int, ...] = (20, 40, 80, 160, 320)) -> pd.DataFrame:
    """Columns seed, law, sampler, steps, error: mean distance to the flow at the last level of the log-SNR grid (mixture: 2M with eight times the most steps)."""
    levels, found = solvers.vp_levels(), []
    start = _starts(seeds, (starts, 2), "orders")
    for name, law in LAWS.items():
        if len(law.axis) == 1:
            spread = (levels.alpha[[0, -1]] ** 2 * law.sd**2 + levels.sigma[[0, -1]] ** 2).sqrt()
            exact = levels.alpha[-1] * law.axis[0] + (start - levels.alpha[0] * law.axis[0]) * spread[1] / spread[0]
        else:
            exact = solvers.two_m(law.denoise, start, solvers.grid(levels, 8 * max(steps), "log_snr"))
        found += [_frame({"law": name, "sampler": sampler, "steps": n}, seeds, error=(SUITE[sampler].solve(law.denoise, start, solvers.grid(levels, n, "log_snr")) - exact).norm(dim=-1).mean(-1))
                  for sampler in ORDERED for n in steps]
    return pd.concat(found, ignore_index=True)


def slopes(errors: pd.DataFrame) -> pd.DataFrame:
    """Columns seed, law, sampler, order (minus the slope of log error on log steps), theory, from the frame of `orders`."""
    fit = lambda g: -np.polyfit(np.log(g["steps"]), np.log(g["error"]), 1)[0]  # noqa: E731
    return pd.DataFrame([{"seed": seed, "law": law, "sampler": sampler, "order": fit(g), "theory": ORDERED[sampler]} for (seed, law, sampler), g in errors.groupby(["seed", "law", "sampler"], sort=False)])


SPLITS = ((0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 1, 2))  # of four batches into two pairs; the first is the true one: flow, flow | SDE, SDE


def marginals(seeds: list[int], starts: int = 250, steps: int = 150) -> pd.DataFrame:
    """Columns seed, law, level, split, within: energy distances of batches of the flow and of the reverse SDE (Eq. ancestral) at one time.

    Each seed draws two batches a process, all independent; `within` is the sum over the
    pairs of a split of the four of 2 E|a - b| - E|a - a'| - E|b - b'| (V-statistic). If the processes have
    one law, the three splits are exchangeable; if not, the pairs of the true split 0 lie closest. Levels: half way in lambda, and the last.
    """
    levels, rows = solvers.vp_levels(), []
    half = checks.whole(steps, "steps", 2) // 2
    coarse = solvers.grid(levels, 2 * half, "log_snr")
    parts = (Grid(*(c[:half + 1] for c in coarse)), Grid(*(c[half:] for c in coarse)))
    for name, law in LAWS.items():
        x = _starts(seeds, (4, starts, 2), "marginals", name)
        flow, sde = x[:, :2], x[:, 2:]
        rng = seeding.generator(seeds[0], "marginals", name, "noise")
        for level, part in zip(("half way", "end"), parts):
            flow, sde = solvers.two_m(law.denoise, flow, part), solvers.ancestral(law.denoise, sde, part, rng)
            batch = torch.cat([flow, sde], 1).unbind(1)
            apart = {(i, j): torch.cdist(batch[i], batch[j]).mean((-2, -1)) for i in range(4) for j in range(i, 4)}
            energy = lambda i, j, apart=apart: 2 * apart[i, j] - apart[i, i] - apart[j, j]  # noqa: E731
            rows += [_frame({"law": name, "level": level, "split": k}, seeds, within=energy(a, b) + energy(c, d)) for k, (a, b, c, d) in enumerate(SPLITS)]
    return pd.concat(rows, ignore_index=True)


def same_law(distances: pd.DataFrame, resamples: int = 999, parts: int = 2) -> pd.DataFrame:
    """Columns seed, law, level, distance_ratio, p_value from the frame of `marginals`: a Monte-Carlo p of "one law", over the seeds of each of `parts` parts.

    `Eq. exchange`: p = (1 + #{b: T_b <= T_0}) / (B + 1), T the sum of `within` over seeds, T_0 of the true split, T_b of a split drawn for each seed.
    distance_ratio: mean `within` of the other splits (flow to SDE) over that of the true one (SDE to SDE, flow to flow); one if the laws agree.
    """
    rows = []
    for (law, level), cell in distances.groupby(["law", "level"], sort=False):
        wide = cell.pivot(index="seed", columns="split", values="within")
        for part in range(parts):
            w = wide.iloc[part::parts].to_numpy()
            picks = seeding.numpy_generator(part, "same_law", law, level).integers(0, len(SPLITS), (resamples, len(w)))
            null = w[np.arange(len(w)), picks].sum(1)
            rows.append({"seed": part, "law": law, "level": level, "distance_ratio": w[:, 1:].mean() / w[:, 0].mean(), "p_value": (1 + (null <= w[:, 0].sum() + 1e-12).sum()) / (resamples + 1)})
    return pd.DataFrame(rows)


class ThreeViews(NamedTuple):
    """The frames of `identities`, `orders`, `slopes` and `same_law`."""

    identities: pd.DataFrame
    errors: pd.DataFrame
    slopes: pd.DataFrame
    laws: pd.DataFrame


def views(seeds: list[int], starts: int = 250, steps: tuple[int, ...] = (20, 40, 80, 160, 320)) -> ThreeViews:
    """Everything that `A2.C9` is judged by."""
    errors = orders(seeds, steps=steps)
    return ThreeViews(identities(seeds), errors, slopes(errors), same_law(marginals(seeds, starts)))


# ---------------------------------------------------------------- B1-E4: trained outcome models


def outcome_flow(data: Outcomes, teacher: Denoiser, x: np.ndarray) -> tuple[Callable, torch.Tensor]:
    """`denoise(y [S, B, M], sigma) -> D` of a stack under every arm of covariates `x [S, N, d]` or [N, d] (B = N K), and the squared outcome scales [S]."""
    with torch.no_grad():
        e = teacher.encode(data.standardise(x)).flatten(1, 2)
    return partial(_denoise, teacher, e), torch.as_tensor(data.y_scale, dtype=torch.float32, device=data.device) ** 2


def _denoise(teacher: Denoiser, e: torch.Tensor, y: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    return teacher(y, torch.as_tensor(sigma, dtype=y.dtype, device=y.device), e)


def edm_levels(steps: int, spacing: str) -> torch.Tensor:
    """`steps` noise levels and 0, [steps + 1]: "karras" (Eq. 5, Karras et al. 2022), "log_snr" equal in ln sigma, "uniform" equal in the VP time of linear beta."""
    checks.choice(spacing, "spacing", ("karras", "log_snr", "uniform"))
    if spacing == "karras" or steps == 1:
        return karras_sigmas(steps)
    if spacing == "log_snr":
        sigmas = torch.linspace(np.log(SIGMA_MAX), np.log(SIGMA_MIN), steps, dtype=torch.float64).exp()
    else:
        levels = solvers.vp_levels()
        kept = levels.kappa <= SIGMA_MAX
        sigmas = solvers.grid(Grid(*(column[kept] for column in levels)), steps - 1).kappa
        sigmas[0] = SIGMA_MAX
    return torch.cat([sigmas, sigmas.new_zeros(1)]).float()


@torch.no_grad()
def teacher_solver_table(flows: dict[int, tuple[Callable, torch.Tensor]], units: list[str], pairs: int, draws: int = 11, nfe: tuple[int, ...] = (5, 6, 8, 10, 20),
                         spacings: tuple[str, ...] = ("karras", "log_snr", "uniform"), samplers: tuple[str, ...] = tuple(SUITE), reference_steps: int = 256) -> pd.DataFrame:
    """Columns seed, unit, sampler, grid, nfe, endpoint_mse (in the outcome's units squared), draw_sd, of scalar outcomes.

    flows: by seed, a denoiser of [S, B, M] and the squared outcome scales [S], as `outcome_flow` gives; units: names of the S slices; pairs: B.
    The reference is Heun with `reference_steps` levels of the Karras grid from the same noise, `draws` a pair.
    """
    found = []
    for seed, (denoise, squared) in flows.items():
        eps = torch.randn((len(units), pairs, draws), generator=seeding.generator(seed, "teacher solver starts"))
        start = (SIGMA_MAX * eps).to(squared.device)[..., None]
        field = solvers.from_edm(lambda y, sigma, denoise=denoise: denoise(y[..., 0], sigma)[..., None])
        grids = {spacing: lambda steps, spacing=spacing: solvers.edm_grid(edm_levels(steps, spacing)) for spacing in spacings}
        exact = solvers.heun(field, start, solvers.edm_grid(karras_sigmas(reference_steps)))
        runs = [({"sampler": "heun", "grid": f"karras, {reference_steps} steps", "nfe": 2 * reference_steps - 1}, exact), *_runs(field, start, grids, {name: SUITE[name] for name in samplers}, nfe)]
        for label, y in runs:
            error, sd = (y - exact).square().mean((1, 2, 3)) * squared, y[..., 0].std(-1).mean(1) * squared.sqrt()
            found.append(pd.DataFrame({"seed": seed, "unit": units, **label, "endpoint_mse": error.double().cpu().numpy(), "draw_sd": sd.double().cpu().numpy()}))
    return pd.concat(found, ignore_index=True)


# ---------------------------------------------------------------- rows of the ledger

CLAIMED = {  # claim: samplers, grids, largest nfe whose cells judge it
    "C6a": (("2m", "2m_eps"), ("uniform", "log_snr"), 10),
    "C29c": (("dualfast", "dualfast_half", "ab2"), ("uniform",), 20),
    "C17d": (("ddim", "time_shift", "time_shift_another", "time_shift_no_cutoff"), ("uniform",), 50),
}


def _rows(experiment: str, dataset: str, frame: pd.DataFrame, metric: str, n: int, value: str = "") -> list[dict]:
    """Result rows from a frame with columns seed, unit, method and `value` (default: the metric's name)."""
    return [{"experiment": experiment, "dataset": dataset, "unit": str(r.unit), "method": r.method, "metric": metric, "seed": int(r.seed), "value": float(getattr(r, value or metric)), "n": n} for r in frame.itertuples()]


def _cells(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(unit=[f"{g}, {n} evaluations" for g, n in zip(table["grid"], table["nfe"])], method=table["sampler"])


def _against(table: pd.DataFrame, sampler: str, base: str, grids: tuple[str, ...], most: int) -> pd.DataFrame:
    """Columns seed, unit, ratio: endpoint MSE of `sampler` over that of `base`, cell by cell."""
    used = _cells(table[table["grid"].isin(grids) & (table["nfe"] <= most)]).pivot(index=["seed", "unit"], columns="sampler", values="endpoint_mse")
    return (used[sampler] / used[base]).rename("ratio").reset_index()


def exact_rows(table: pd.DataFrame, trained: pd.DataFrame, starts: int) -> list[dict]:
    """Rows of `A2.B1-E2/<claim>` from `exact_score_table` and, for C29b and the plane's part of C6b and C6c, `trained_plane_table`; a unit is a grid and its nfe.

    relative_gain = 1 - MSE(DualFast)/MSE(DDIM) (C29b); log_ratio = |ln MSE(DualFast-2M)/MSE(2M)| (C29d); variance_explained: `Eq. anova`.
    """
    rows = []
    for claim, (samplers, grids, most) in CLAIMED.items():
        cells = _cells(table[table["sampler"].isin(samplers) & table["grid"].isin(grids) & (table["nfe"] <= most)])
        rows += [row for metric in ("endpoint_mse", "hallucination_rate") for row in _rows(f"A2.B1-E2/{claim}", "gaussians_25", cells, metric, starts)]
    for method, source in (("exact_score", table), ("trained", trained)):
        gain = _against(source, "dualfast", "ddim", ("uniform", "log_snr"), 10).assign(method=method, relative_gain=lambda t: 1 - t["ratio"])
        rows += _rows("A2.B1-E2/C29b", "gaussians_25", gain, "relative_gain", starts)
    apart = _against(table, "dualfast_2m", "2m", ("uniform", "log_snr"), 50).assign(method="dualfast_2m", log_ratio=lambda t: t["ratio"].map(np.log).abs())
    rows += _rows("A2.B1-E2/C29d", "gaussians_25", apart, "log_ratio", starts)
    shares = variance_explained(table).assign(unit=lambda t: t["nfe"].map("{} evaluations".format))
    for method in ("grid", "order", "grid_and_order", "sampler_and_grid"):
        rows += _rows("A2.B1-E2/grid", "gaussians_25", shares.assign(method=method), "variance_explained", len(SUITE), value=method)
    return rows + _rows("A2.B1-E4", "gaussians_25", _cells(trained[trained["grid"] != "every level"]), "endpoint_mse", starts)


def views_rows(found: ThreeViews) -> list[dict]:
    """Rows of `A2.B1-E1`: the largest error of each identity, the order of each solver on each law, the p-value of one law for flow and SDE."""
    orders_ = found.slopes.assign(unit=found.slopes["law"], method=found.slopes["sampler"])
    laws = found.laws.assign(unit=found.laws["law"] + ", " + found.laws["level"], method="flow and SDE")
    known = found.identities.assign(unit=found.identities["identity"], method="identities")
    return _rows("A2.B1-E1", "gaussians", known, "identity_error", 1, "error") + _rows("A2.B1-E1", "gaussians", orders_, "order", 1) + _rows("A2.B1-E1", "gaussians", laws, "p_value", 1)


def teacher_rows(table: pd.DataFrame, dataset: str, n: int, spacing: str = "log_snr", most: int = 10) -> list[dict]:
    """Rows of `A2.B1-E4` from `teacher_solver_table`: endpoint MSE on the grid `spacing`, mean over nfe <= `most`, a unit and seed."""
    used = table[(table["grid"] == spacing) & (table["nfe"] <= most)].groupby(["seed", "unit", "sampler"])["endpoint_mse"].mean().reset_index()
    return _rows("A2.B1-E4", dataset, used.assign(method=used["sampler"]), "endpoint_mse", n)


def over_seeds(table: pd.DataFrame, metric: str, by: tuple[str, ...] = ("grid", "sampler")) -> pd.DataFrame:
    """Mean over seeds and units of `metric`, one row a `by`, one column an nfe."""
    return table.groupby([*by, "nfe"], sort=False)[metric].mean().unstack("nfe").reset_index()
