r"""E3: distillation from a teacher that is exactly right (specification 7; `Eq. gaussian-denoiser`).

Teacher D = (sigma^2 mu_z(x) + v y_sigma) / (sigma^2 + v) of Y(z) | x ~ N(mu_z(x), v): what is left of the student's error comes from the
distillation alone. An exact teacher has no weights to begin from, so generator and fake score begin from a denoiser trained on the factual
rows, which is the start that a real teacher gives; its own error is reported beside the student's. With overlap every law of pairs should
end at mu. Without overlap (k = inf) the oracle still answers everywhere, and only a law that asks everywhere can hear it.

`Eq. relative-rmse`: sqrt(mean_{i,z} (median_j G(eps_j; x_i, z) - mu_z(x_i))^2) / sd, sd of the pooled mu over all rows of a table. exp(x) grows
without bound, so the few units far out carry the mean square; the central rmse is over the units with |x| < 2, 95 % of them.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gencausal import metrics
from gencausal.data import synthetic
from gencausal.data.stack import Outcomes, prepare_tables
from gencausal.data.table import CausalTable
from gencausal.diffusion import GaussianTeacher
from gencausal.estimators.outcomes import DistillationConfig, TeacherConfig, distil, generator_draws, potential_draws, train_teacher
from gencausal.experiments.designs import law_flow
from gencausal.sampling import stratified_normal


def oracle(data: Outcomes) -> GaussianTeacher:
    """The exact teacher of a stack of `synthetic.load` tables, each slice on its own outcome scale."""
    scale, centre = (torch.as_tensor(a, dtype=torch.float32, device=data.device) for a in (data.x_scale, data.x_center))
    y_scale, y_centre = (torch.as_tensor(a, dtype=torch.float32, device=data.device).view(-1, 1, 1) for a in (data.y_scale, data.y_center))

    def mean(x: torch.Tensor) -> torch.Tensor:
        own = x * scale[:, None] + centre[:, None]
        return (torch.cat([(2 * own).sin(), (2 * own).sin() + own.exp()], -1) - y_centre) / y_scale

    teacher = GaussianTeacher(mean, 1.0)
    teacher.variance = (synthetic.NOISE_SD / y_scale) ** 2
    return teacher


def run(ks: list[float], draws_of_data: int, start_config: TeacherConfig, variants: dict[str, DistillationConfig], seed: int, n_train: int = 5000, n_test: int = 1000, draws: int = 50,
        folder: Path | None = None, device: torch.device | str = "cpu") -> list[dict]:
    """Rows of the start, the oracle (its own sampler) and every variant: one stack of `ks` times `draws_of_data` tables.

    dataset: "synthetic_1d k=<k>"; unit: the data draw; `seed` names the networks and streams.

    Test units, both arms: `rmse_relative` and `rmse_relative_central` (Eq. relative-rmse), `rmse_y0`, `rmse_y1`, `rmse_inside` and `rmse_outside` the support (p(z | x) at least or below
    0.05), and `w2`, the mean over (x, z) of the exact W2 of `draws` stratified draws to N(mu_z, v).
    """
    tables = [replace(t, unit=f"{t.unit}, draw {d}") for d in range(draws_of_data) for k in ks for t in [synthetic.load(d, k, n_train, n_test)]]
    data = prepare_tables(tables, seed, device)
    start = train_teacher(data, start_config, seed, folder).modules["teacher"]
    exact = oracle(data)
    found = {"start": (start, law_flow), "oracle": (exact, law_flow)}
    for method, config in variants.items():
        found[method] = (distil(exact, data, replace(config, trainable="all"), seed, folder, start=start).modules["generator"], generator_draws(config.sigma_init))
    made = []
    covariates = np.stack([t.x[t.test] for t in tables])
    for method, (module, draw) in found.items():
        made += [row for table, y in zip(tables, potential_draws(data, module, draw, covariates, stratified_normal(draws, data.device))) for row in _rows(method, table, y, seed)]
    return made


def _rows(method: str, table: CausalTable, y: np.ndarray, seed: int) -> list[dict]:
    """Rows of draws y [n_test, K, M] of one table."""
    k, draw = table.unit.removeprefix("k=").split(", draw ")
    mu = table.mu[table.test]
    error = np.median(y, -1) - mu
    inside = synthetic.arm_probabilities(table.x[table.test, 0], float(k)) >= 0.05
    values = {"rmse_relative": (np.sqrt((error**2).mean()) / table.mu.std(), error.size), "rmse_y0": (np.sqrt((error[:, 0] ** 2).mean()), len(error)), "rmse_y1": (np.sqrt((error[:, 1] ** 2).mean()), len(error)),
              "w2": (metrics.wasserstein2(y.reshape(-1, y.shape[-1]), mu.ravel(), np.full(mu.size, synthetic.NOISE_SD)), mu.size)}
    central = np.abs(table.x[table.test, 0]) < 2
    values["rmse_relative_central"] = (np.sqrt((error[central] ** 2).mean()) / table.mu.std(), 2 * int(central.sum()))
    values |= {f"rmse_{name}": (np.sqrt((error[cells] ** 2).mean()), int(cells.sum())) for name, cells in (("inside", inside), ("outside", ~inside)) if cells.any()}
    return [{"experiment": "iwdd.E3", "dataset": f"synthetic_1d k={k}", "unit": f"draw {draw}", "method": method, "metric": metric, "seed": seed, "value": float(value), "n": n} for metric, (value, n) in values.items()]
