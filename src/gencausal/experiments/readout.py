r"""How should a diffusion regressor be read out? (reading-list item #31; B1-E7: A2.C31a, A2.C31b, A2.C31c; our reading of ADDP for a scalar outcome)

The first denoising step from pure noise, x_hat = D(0; sigma_max, x, a), is already E[Y | x, a]; a full sample is Y ~ p(y | x, a). With v = Var(Y | x, a):

`Eq. k-samples`:       E (mean of K samples - mu)^2 = bias^2 + v / K: the one-step mean is the K -> infinity limit
`Eq. total-variance`:  E (x_hat(sigma) - mu)^2 = v - E Var(Y | y_sigma, x, a) for a perfect model: 0 at pure noise, v at the end
                       Gaussian Y:  v^2 / (v + sigma^2)
A trained model starts at its bias^2; what the curve fixes is the rise above it. A rise beyond the curve is drift, or a coarse sampler: 18 Heun steps alone widen
a Gaussian with a third of the standard deviation sigma_data by a sixth, so the steps here are 50 and more.
"""

import dataclasses

import numpy as np
import torch

from gencausal import metrics
from gencausal.data.stack import Outcomes
from gencausal.data.table import CausalTable
from gencausal.diffusion import Denoiser, GaussianTeacher
from gencausal.estimators.outcomes import TeacherConfig, potential_draws, teacher_draws, train_teacher
from gencausal.sampling import heun, stratified_normal
from gencausal.schedules import SIGMA_MAX, karras_sigmas
from gencausal.seeding import stacked

EXPERIMENT = "A2.B1-E7"
COUNTS = (1, 2, 5, 10, 20, 50, 100, 200)


def one_step(denoiser: Denoiser, eps: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
    """The one-step mean D(0; sigma_max, e), of eps's shape: a draw function that ignores its noise."""
    return denoiser(torch.zeros_like(eps), torch.as_tensor(SIGMA_MAX, device=eps.device), e)


def _noise(data: Outcomes, seed: int, use: str, units: int, draws: int) -> torch.Tensor:
    """Standard normals [S, units, K, draws], independent over units, arms and draws, one stream a slice."""
    return stacked(torch.randn, data.generators(seed, use), units, data.arms, draws)


def readout(data: Outcomes, tables: list[CausalTable], teacher: Denoiser | GaussianTeacher, seed: int, counts: tuple[int, ...] = COUNTS, steps: int = 50) -> list[dict]:
    """Rows of every read-out of the teacher on the test rows: one_step, sample_K (mean of the first K of the same independent samples), median (of all of them),
    sample_1_common (one sample, one noise for both arms). Metrics: pehe_normalised, ate_error, rmse_y0, rmse_y1."""
    covariates = np.stack([t.x[t.test] for t in tables])
    draw = lambda module, eps, e: teacher_draws(module, eps, e, steps=steps)  # noqa: E731
    sample = potential_draws(data, teacher, draw, covariates, _noise(data, seed, "readout", covariates.shape[1], max(counts)))
    common = _noise(data, seed, "readout-common", covariates.shape[1], 1)[:, :, :1].expand(-1, -1, data.arms, -1)
    mu = {"one_step": potential_draws(data, teacher, one_step, covariates, torch.zeros(1, device=data.device))[..., 0]}
    mu |= {f"sample_{k}": sample[..., :k].mean(-1) for k in counts}
    mu |= {"median": np.median(sample, -1), "sample_1_common": potential_draws(data, teacher, draw, covariates, common)[..., 0]}
    return [row for method, estimates in mu.items() for table, estimate in zip(tables, estimates) for row in _rows(table, method, seed, _point_errors(table, estimate))]


def trajectory(data: Outcomes, tables: list[CausalTable], teacher: Denoiser | GaussianTeacher, seed: int, draws: int = 20, steps: int = 50) -> list[dict]:
    """The error of x_hat along the sampler beside the law of total variance (Eq. total-variance), on the outcome's own scale.

    One dict a table and level: unit, sigma (on the outcome's scale), `mse` of x_hat(sigma) to mu over test rows, arms and draws, `rise` above its first value, `curve` with
    v the mean square of potential - mu an arm, and `shift`, the rms over rows and arms of the mean of x_hat(sigma) minus the one-step mean (0 for a model whose
    prediction is a martingale; the Monte-Carlo noise of `draws` included).
    """
    covariates = np.stack([t.x[t.test] for t in tables])
    sigmas = karras_sigmas(steps, device=data.device)
    path = _predictions(data, teacher, covariates, _noise(data, seed, "trajectory", covariates.shape[1], draws), sigmas)
    first = potential_draws(data, teacher, one_step, covariates, torch.zeros(1, device=data.device))
    made = []
    for table, x_hat, start, scale in zip(tables, path, first, data.y_scale):
        mu, realised = table.mu[table.test], table.potential[table.test]
        v = ((realised - mu) ** 2).mean(0)
        error = ((x_hat - mu[:, :, None, None]) ** 2).mean((0, 1, 3))
        shift = np.sqrt(((x_hat.mean(-1) - start) ** 2).mean((0, 1)))
        for i, sigma in enumerate(sigmas[:-1].tolist()):
            made.append({"dataset": table.name, "unit": table.unit, "seed": seed, "sigma": float(sigma * scale), "mse": float(error[i]), "rise": float(error[i] - error[0]),
                         "curve": float((v**2 / (v + (sigma * scale) ** 2)).mean()), "shift": float(shift[i])})
    return made


@torch.no_grad()
def _predictions(data: Outcomes, teacher: Denoiser | GaussianTeacher, covariates: np.ndarray, eps: torch.Tensor, sigmas: torch.Tensor, units: int = 64) -> np.ndarray:
    """x_hat at every level of one Heun trajectory a draw, [S, N, K, levels, M], on the outcome's own scale; `units` rows at a time."""
    x, parts = data.standardise(covariates), []
    for start in range(0, x.shape[1], units):
        e = teacher.encode(x[:, start:start + units]).flatten(1, 2)
        y, found = SIGMA_MAX * eps[:, start:start + units].flatten(1, 2), []
        for level in range(len(sigmas) - 1):
            found.append(teacher(y, sigmas[level], e))
            y = heun(lambda y, sigma: teacher(y, sigma, e), y, sigmas[level:level + 2])  # noqa: B023
        parts.append(torch.stack(found, 2).unflatten(1, (-1, data.arms)))
    scale, center = (a.reshape(-1, 1, 1, 1, 1) for a in (data.y_scale, data.y_center))
    return torch.cat(parts, 1).cpu().numpy() * scale + center


def trajectory_rows(points: list[dict], n: int) -> list[dict]:
    """Result rows of `trajectory`: mse_rise, the mean over levels whose curve passes a twentieth of its end, as measured and as the law says; and the share of levels
    within 10 % of the law. n: test rows of a table."""
    rows = []
    for key in sorted({(p["dataset"], p["unit"], p["seed"]) for p in points}):
        dataset, unit, seed = key
        mine = [p for p in points if (p["dataset"], p["unit"], p["seed"]) == key]
        kept = [p for p in mine if p["curve"] > mine[-1]["curve"] / 20]
        rise, curve = (np.array([p[name] for p in kept]) for name in ("rise", "curve"))
        values = [("trajectory", "mse_rise", rise.mean()), ("total_variance", "mse_rise", curve.mean()), ("trajectory", "share_within_10", (np.abs(rise / curve - 1) <= 0.1).mean())]
        rows += [{"experiment": EXPERIMENT, "dataset": dataset, "unit": unit, "method": method, "metric": metric, "seed": seed, "value": float(value), "n": n}
                 for method, metric, value in values]
    return rows


def reweighted(data: Outcomes, tables: list[CausalTable], config: TeacherConfig, means: list[float], seed: int, folder=None, draws: int = 50, steps: int = 50) -> list[dict]:
    """Teachers trained at one budget with ln sigma ~ N(mean, sd^2) for each of `means` (A2.C31c): errors of the one-step mean, CRPS of full samples at factual test outcomes.

    One level of every row stays at sigma_max in all of them, as `TeacherConfig` has it; `means` moves the others. Methods are "log_sigma_mean=...".
    """
    covariates = np.stack([t.x[t.test] for t in tables])
    rows = []
    for mean in means:
        teacher = train_teacher(data, dataclasses.replace(config, log_sigma_mean=mean), seed, folder).modules["teacher"]
        mu = potential_draws(data, teacher, one_step, covariates, torch.zeros(1, device=data.device))[..., 0]
        sample = potential_draws(data, teacher, lambda module, eps, e: teacher_draws(module, eps, e, steps=steps), covariates, stratified_normal(draws, data.device))
        for table, estimate, law in zip(tables, mu, sample):
            crps = metrics.crps(law[np.arange(len(table.test)), table.t[table.test]], table.y[table.test], fair=False)
            rows += _rows(table, f"log_sigma_mean={mean:g}", seed, _point_errors(table, estimate) | {"crps": crps})
    return rows


def _point_errors(table: CausalTable, mu: np.ndarray) -> dict[str, float]:
    """Errors of means `mu [n_test, K]` of the test rows."""
    truth = table.mu[table.test]
    arm = metrics.rmse_per_arm(mu, truth)
    tau_hat, tau = mu[:, 1] - mu[:, 0], truth[:, 1] - truth[:, 0]
    return {"pehe_normalised": metrics.pehe_normalised(tau_hat, tau, table.mu), "ate_error": metrics.ate_error(tau_hat, tau), "rmse_y0": arm[0], "rmse_y1": arm[1]}


def _rows(table: CausalTable, method: str, seed: int, values: dict[str, float]) -> list[dict]:
    return [{"experiment": EXPERIMENT, "dataset": table.name, "unit": table.unit, "method": method, "metric": metric, "seed": seed, "value": float(value), "n": len(table.test)}
            for metric, value in values.items()]
