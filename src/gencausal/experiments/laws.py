r"""E7 and E14: outcomes that are not Gaussian, and the divergence that distils them (specification 7; `Eq. laws-of-outcomes`).

Test units under both arms, M draws of each cell (x, z) against the exact quantiles of its law; CRPS, PIT and coverage at realised outcomes of the
test rows. Stratified draws are quantiles at (j + 1/2) / M, so their W1 and W2 to the same quantiles of the truth have no sampling floor.

`Eq. mode-mass`: sum over the two modes c of min(p_c, share of draws within 3 sd of mode c), averaged over cells: 1 - 0.0027 for the truth, at most
max_c p_c for a generator that found one mode, lower where draws lie between the modes.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gencausal import metrics
from gencausal.data import synthetic
from gencausal.data.stack import Outcomes
from gencausal.data.table import CausalTable
from gencausal.diffusion import Denoiser
from gencausal.estimators import scores
from gencausal.estimators.outcomes import DistillationConfig, TeacherConfig, distil, generator_draws, potential_draws, predict
from gencausal.experiments.designs import fit_methods, law_flow
from gencausal.sampling import stratified_normal

ALPHAS = (0.0, 0.5, 1.0, 1.2)
LEVELS = {"coverage_50": 0.5, "coverage_80": 0.8, "coverage_90": 0.9, "coverage_95": 0.95}


def law_rows(method: str, table: CausalTable, seed: int, draws: np.ndarray, truth_quantiles: np.ndarray, experiment: str = "iwdd.E7") -> list[dict]:
    """Rows of stratified draws [n_test, K, M] of the test units of `table` against the law's quantiles [n_test, K, m].

    `w1`, `w2`: mean over cells of the distance to the truth; `rmse_y0`, `rmse_y1`: of the draws' mean; `crps`, `pit_ks`, coverage at four levels and
    `width_90` at the realised outcomes of the arm that each unit received; M >= 39.
    """
    test, m = table.test, draws.shape[-1]
    cells, truth = draws.reshape(-1, m), truth_quantiles.reshape(-1, truth_quantiles.shape[-1])
    factual, y = draws[np.arange(len(test)), table.t[test]], table.y[test]
    low, high = metrics.interval(factual, 0.9, stratified=True)
    values = {"w1": (metrics.wasserstein1_samples(cells, truth), len(cells)), "w2": (metrics.wasserstein2_samples(cells, truth), len(cells)), "crps": (metrics.crps(factual, y, fair=False), len(y)),
              "pit_ks": (metrics.pit_ks(factual, y), len(y)), "width_90": (float(np.median(high - low)), len(y))}
    values |= {name: (metrics.coverage(factual, y, level, stratified=True), len(y)) for name, level in LEVELS.items()}
    values |= {f"rmse_y{a}": (error, len(y)) for a, error in enumerate(metrics.rmse_per_arm(draws.mean(-1), table.mu[test]))}
    return [_row(experiment, table, method, metric, seed, value, n) for metric, (value, n) in values.items()]


def mode_mass(draws: np.ndarray, x: np.ndarray) -> float:
    """Eq. mode-mass of draws [n, 2, M] of the bimodal law at x [n, 2]; in [0, 1], higher is better."""
    centre, mass = synthetic.modes(x)
    near = (np.abs(draws[:, :, None] - centre[..., None]) < 3 * synthetic.MODE_SD).mean(-1)
    return float(np.minimum(near, mass).sum(-1).mean())


def kinds_run(kinds: list[str], draws_of_data: list[int], teacher_config: TeacherConfig, variants: dict[str, DistillationConfig], seed: int = 0, n_train: int = 2000, n_test: int = 500, draws: int = 100,
              folder: Path | None = None, device: torch.device | str = "cpu") -> tuple[list[synthetic.Law], dict[str, np.ndarray]]:
    """All laws and data draws as one stack: -> the tables with their quantiles, and by method the stratified draws of the test units, [S, n_test, 2, draws]."""
    made = [synthetic.load_law(kind, d, n_train, n_test, draws) for d in draws_of_data for kind in kinds]
    tables = [law.table for law in made]
    data, models = fit_methods(tables, teacher_config, variants, seed, folder, device)
    models["teacher"] = (models["teacher"][0], law_flow)
    x = np.stack([t.x[t.test] for t in tables])
    return made, {m: potential_draws(data, module, draw, x, stratified_normal(draws, data.device)) for m, (module, draw) in models.items()}


def distribution_rows(made: list[synthetic.Law], draws: dict[str, np.ndarray], seed: int, experiment: str = "iwdd.E7") -> list[dict]:
    """Rows of `law_rows` for each method of `draws` ([S, n_test, K, M] each) and of the truth itself, and `mode_mass` of the bimodal tables."""
    truth = np.stack([law.quantiles[law.table.test] for law in made])
    rows = []
    for method, sample in (draws | {"truth": truth}).items():
        for law, own, exact in zip(made, sample, truth):
            rows += law_rows(method, law.table, seed, own, exact, experiment)
            if law.table.name == "synthetic_bimodal":
                rows.append(_row(experiment, law.table, method, "mode_mass", seed, mode_mass(own, law.table.x[law.table.test]), own.shape[0] * own.shape[1]))
    return rows


def family(base: DistillationConfig, alphas: tuple[float, ...] = ALPHAS) -> dict[str, DistillationConfig]:
    """One configuration a divergence, all else equal: sid_<alpha> and dmd."""
    return {f"sid_{a:g}": replace(base, divergence="sid", alpha=a) for a in alphas} | {"dmd": replace(base, divergence="dmd")}


def divergences(data: Outcomes, tables: list[CausalTable], teacher: Denoiser, base_config: DistillationConfig, seed: int, folder: Path | None = None, alphas: tuple[float, ...] = ALPHAS, draws: int = 100) -> list[dict]:
    """Rows of E14 on any stack: `scores.mean_rows` and `scores.draw_rows` of the generators of `family(base_config, alphas)`, distilled from `teacher` at one budget."""
    made = []
    for method, config in family(base_config, alphas).items():
        module = distil(teacher, data, config, seed, folder).modules["generator"]
        found = predict(data, tables, module, generator_draws(config.sigma_init), draws, folder=folder, label=f"one step from {config.sigma_init}")
        for table, mu, median, sample in zip(tables, found.mu, found.median, found.draws):
            made += scores.mean_rows(method, table, seed, mu, "iwdd.E14") + scores.draw_rows(method, table, seed, sample, "iwdd.E14", median=median)
    return made


def _row(experiment: str, table: CausalTable, method: str, metric: str, seed: int, value: float, n: int) -> dict:
    return {"experiment": experiment, "dataset": table.name, "unit": table.unit, "method": method, "metric": metric, "seed": seed, "value": float(value), "n": n}
