r"""E8, E9 and E18 on the 1-D design (specification 3.1, 5.1, 7): overlap, the panels of Figure 3, and more than two arms.

All tables of an experiment (values of k, data draws, replicates) are one stack: one teacher and one generator a method for all. A *cell* is a
test unit and an arm. It lies inside the supported region if p(z | x) >= 0.05 for its arm under the law of the training rows.

`Eq. cell-rmse`: sqrt(mean over cells (median of draws - mu_z(x))^2); the teacher's median is its flow from 0, exact in one dimension, the
generator's that of nine stratified draws.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gencausal.data import synthetic
from gencausal.data.stack import Outcomes, prepare_tables
from gencausal.data.table import CausalTable
from gencausal.diffusion import Denoiser
from gencausal.estimators.outcomes import DistillationConfig, TeacherConfig, distil, generator_draws, potential_draws, teacher_draws, train_teacher
from gencausal.sampling import stratified_normal

SUPPORT = 0.05
SMALL = TeacherConfig(width=64, depth=2, embedding=32, decoder=32, gate=1.0, gate_penalty=0.0, rounds=500, batch=128, lr=1e-2, weight_decay=0.01, score_every=250)  # one covariate or two: no gates; lr by held-out CRPS on data draw 7, used nowhere else
QUICK = DistillationConfig(trainable="all", rounds=200, batch=64, score_every=100)  # every weight trains, so that the law of the pairs can matter


def flow(module: Denoiser, eps: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
    """Medians of a teacher (eps = 0) by twenty steps: exact for a Gaussian law up to a share sd / sigma_max of its mean; its spread would come out 7 to 13 % too narrow."""
    return teacher_draws(module, eps, e, "adams_bashforth2", 20)


def law_flow(module: Denoiser, eps: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
    """Draws of a teacher whose spread is scored: fifty Heun steps, the sd of a Gaussian law within 1.2 %."""
    return teacher_draws(module, eps, e, "heun", 50)


def fit_methods(tables: list[CausalTable], teacher_config: TeacherConfig, variants: dict[str, DistillationConfig], seed: int, folder: Path | None = None,
                device: torch.device | str = "cpu") -> tuple[Outcomes, dict[str, tuple]]:
    """One stack for `tables`: -> (data, method -> (denoiser, draw)) of the teacher and of every variant distilled from it."""
    data = prepare_tables(tables, seed, device)
    teacher = train_teacher(data, teacher_config, seed, folder).modules["teacher"]
    return data, {"teacher": (teacher, flow)} | {m: (distil(teacher, data, c, seed, folder).modules["generator"], generator_draws(c.sigma_init)) for m, c in variants.items()}


def medians(data: Outcomes, models: dict[str, tuple], x: np.ndarray) -> dict[str, np.ndarray]:
    """Medians of every potential outcome by method, [S, N, K], at covariates x [S, N, d]."""
    normal = {m: torch.zeros(1, device=data.device) if m == "teacher" else stratified_normal(9, data.device) for m in models}
    return {m: np.median(potential_draws(data, module, draw, x, normal[m]), -1) for m, (module, draw) in models.items()}


def region_rows(experiment: str, method: str, table: CausalTable, unit: str, seed: int, mu_hat: np.ndarray, inside: np.ndarray) -> list[dict]:
    """Rows of medians mu_hat [n_test, K] of the test units: `rmse_all`, `rmse_inside`, `rmse_outside` and the same by arm for two arms; inside [n_test, K]."""
    square = (mu_hat - table.mu[table.test]) ** 2
    arms = square.shape[1]
    masks = {"rmse_all": np.ones_like(inside), "rmse_inside": inside, "rmse_outside": ~inside}
    if arms == 2:
        of = np.arange(2) == np.arange(2)[:, None]  # arm a alone
        masks |= {f"rmse_y{a}_{name}": mask & of[a] for a in range(2) for name, mask in (("inside", inside), ("outside", ~inside))}
    return [_row(experiment, table.name, unit, method, metric, seed, np.sqrt(square[mask].mean()), mask.sum()) for metric, mask in masks.items() if mask.any()]


def overlap_tables(ks: list[float], draws: list[int], replicates: int, n_train: int, n_test: int) -> list[CausalTable]:
    """The stack of E8 and E9: every k and data draw; the deterministic assignment `replicates` times, under names of their own, so that they train apart."""
    return [replace(synthetic.load(d, k, n_train, n_test), unit=f"{k:g}|{d}|{r}") for k in ks for d in draws for r in range(replicates if k == np.inf else 1)]


def overlap(ks: list[float], draws: list[int], replicates: int, teacher_config: TeacherConfig, variants: dict[str, DistillationConfig], seed: int = 0, n_train: int = 5000, n_test: int = 5000,
            folder: Path | None = None, device: torch.device | str = "cpu") -> list[dict]:
    """Rows of E8 for every k in `ks` (unit k, the data draw as seed) and, if `ks` holds inf, of E9 (unit draw, the replicate as seed).

    E9, dataset synthetic_1d_<panel>, panels of Figure 3: `in` (training units observed under the arm), `in_all` (all training units), `out` (test units):
    `rmse_y0`, `rmse_y1` against mu and `rmse_outcome_y0`, `rmse_outcome_y1` against the realised potential outcome, whose floor is the noise sd 0.1.
    """
    tables = overlap_tables(ks, draws, replicates, n_train, n_test)
    data, models = fit_methods(tables, teacher_config, variants, seed, folder, device)
    found, made = medians(data, models, np.stack([t.x for t in tables])), []
    for i, table in enumerate(tables):
        k, d, r = table.unit.split("|")
        inside = synthetic.arm_probabilities(table.x[table.test, 0], float(k)) >= SUPPORT
        for method, mu in found.items():
            if r == "0":
                made += region_rows("iwdd.E8", method, table, f"k={k}", int(d), mu[i, table.test], inside)
            if k == "inf":
                made += panel_rows(method, table, f"draw {d}", int(r), mu[i])
    return made


def panel_rows(method: str, table: CausalTable, unit: str, seed: int, mu_hat: np.ndarray) -> list[dict]:
    """Rows of E9 from medians mu_hat [n, 2] of every unit (see `overlap`)."""
    train = np.isin(np.arange(len(table.t)), table.train)
    made = []
    for panel in ("in", "in_all", "out"):
        for arm in range(2):
            rows = {"in": train & (table.t == arm), "in_all": train, "out": ~train}[panel]
            for metric, truth in ((f"rmse_y{arm}", table.mu), (f"rmse_outcome_y{arm}", table.potential)):
                made.append(_row("iwdd.E9", f"synthetic_1d_{panel}", unit, method, metric, seed, np.sqrt(((mu_hat - truth)[rows, arm] ** 2).mean()), rows.sum()))
    return made


def arms(counts: list[int], k: float, draws: list[int], teacher_config: TeacherConfig, variants: dict[str, DistillationConfig], seed: int = 0, n_train: int = 5000, n_test: int = 5000,
         folder: Path | None = None, device: torch.device | str = "cpu") -> list[dict]:
    """Rows of E18: the design with each number of arms in `counts`, one stack a count over the data `draws` (unit draw); variants with laws for any number of arms."""
    made = []
    for count in counts:
        tables = [replace(synthetic.load_arms(d, count, k, n_train, n_test), unit=f"draw {d}") for d in draws]
        data, models = fit_methods(tables, teacher_config, variants, seed, folder, device)
        for method, mu in medians(data, models, np.stack([t.x[t.test] for t in tables])).items():
            for table, own in zip(tables, mu):
                made += region_rows("iwdd.E18", method, table, table.unit, seed, own, synthetic.arm_probabilities(table.x[table.test, 0], k, count) >= SUPPORT)
    return made


def _row(experiment: str, dataset: str, unit: str, method: str, metric: str, seed: int, value: float, n: int) -> dict:
    return {"experiment": experiment, "dataset": dataset, "unit": unit, "method": method, "metric": metric, "seed": seed, "value": float(value), "n": int(n)}
