r"""condfip.E6 and E11: interventional laws in total variation, with exact densities on both sides, and samples of real data in MMD.

Both laws are additive-noise models on one graph, so that, the held nodes left out,

    p_do(x) = prod_i p_i(x_i - F_i(x)),   q_do(x) = prod_i q_i(x_i - T_i(x))                                             `Eq. anm-density`

with q_i fitted to the residuals of the context: Gaussian (mean, sd) or Laplace (median, mean absolute deviation), the same choice for every method. TV (Eq. tv) is taken over the joint law, which saturates with d, and node by
node given the parents (`tv_node`); of marginals by histograms (`tv_marginal`), whose floor for two samples of 4,000 rows is about .05.
"""

import math

import numpy as np
import pandas as pd
import torch

from gencausal import checks, scm_metrics, seeding
from gencausal.cond_fip import CondFiP
from gencausal.data import ecoli70, registry, sachs, scm_cells, scms
from gencausal.data.scm_cells import Cell
from gencausal.data.scms import Noise, Scale
from gencausal.experiments import scm_methods
from gencausal.experiments.scm_methods import Fitted
from gencausal.graph import adjacency as matrix
from gencausal.scm_models.fip import FiPConfig


def fitted_noise(residuals: torch.Tensor, law: str) -> tuple[torch.Tensor, Noise]:
    """Centre [S, 1, d] and law of the noise fitted to `residuals [S, n, d]`: gaussian or laplace."""
    centre = residuals.mean(1, keepdim=True) if law == "gaussian" else residuals.median(1, keepdim=True).values
    rest = residuals - centre
    spread = rest.square().mean(1).sqrt() if law == "gaussian" else rest.abs().mean(1)
    return centre, Noise(law, spread.clamp(min=1e-4))


def variation(fitted: Fitted, cell: Cell, seed: int = 0) -> dict[str, np.ndarray]:
    """tv_joint, tv_node, tv_marginal of every SCM, [S], over the interventional rows of `cell` (Eq. anm-density). tv_marginal compares fresh draws of the method with the cell's rows, intervention by intervention."""
    law = cell.scms.noise.kind
    centre, noise = fitted_noise(fitted.noise(cell.context), law)
    free = cell.held.isnan()
    log_p = cell.scms.noise.log_prob(cell.do_noise * cell.scale.sd) + cell.scale.sd.log()
    log_q = noise.log_prob(cell.do_data - fitted.expected(cell.do_data) - centre)
    log_p, log_q = (torch.where(free, value, 0.0).double().numpy() for value in (log_p, log_q))
    joint = scm_metrics.total_variation(log_p.sum(-1), log_q.sum(-1))
    each = np.maximum(-np.expm1(np.minimum(log_q - log_p, 0)), 0)
    fresh = fitted.generate(noise.sample(cell.do_noise.shape[1], seeding.generator(seed, "fresh", cell.name)) + centre, cell.held)
    marginal = []
    for s in range(len(cell)):
        names = free[s].long().numpy() @ (1 << np.arange(cell.d))
        parts = [scm_metrics.histogram_variation(fresh[s, rows].numpy(), cell.do_data[s, rows].numpy())[free[s, rows][0].numpy()].mean() for rows in (names == name for name in np.unique(names)) if not free[s, rows].all()]
        marginal.append(np.mean(parts))
    return {"tv_joint": joint, "tv_node": (each.sum((1, 2)) / free.sum((1, 2)).numpy()), "tv_marginal": np.array(marginal)}


def variation_rows(cells: list[Cell], methods: tuple[str, ...], network: CondFiP, seed: int = 0, fip: FiPConfig = FiPConfig()) -> list[dict]:
    """E6 over cells and methods."""
    made = []
    for cell in cells:
        for method in methods:
            fitted = scm_methods.fit(method, cell, network, fip=fip)
            made += scm_methods.rows("condfip.E6", cell, fitted, variation(fitted, cell), seed if method in scm_methods.AMORTISED else 0)
    return made


def gaussian_gap(gap: float) -> float:
    """TV of two unit Normals whose means differ by `gap`: 2 Phi(gap / 2) - 1."""
    return math.erf(abs(gap) / (2 * math.sqrt(2)))


# ---------------------------------------------------------------- E11: real data


def table_cell(name: str, values: np.ndarray, adjacency: np.ndarray, context: int, split: int) -> Cell:
    """A cell of a real table [N, d], whose noise and interventions nobody knows (NaN): context rows and as many query rows at random by `split`, standardised together."""
    order = seeding.numpy_generator(split, "split", name).permutation(len(values))[: 2 * context]
    x = torch.as_tensor(values[order], dtype=torch.float32)[None]
    scale, graph, unknown = Scale.of(x), torch.as_tensor(adjacency != 0)[None], torch.full((1, context, values.shape[1]), torch.nan)
    z = scale.into(x)
    drawn = scms.SCMs(name, graph, scms.causal_order(graph), None, None)
    return Cell(f"{name}_n{context}", drawn, scale, graph, z[:, :context], unknown, z[:, context:], unknown, unknown, unknown, unknown, unknown)


def available(name: str) -> bool:
    """Whether `sachs`, `ecoli70` or `regulatory_graphs` can be had here."""
    try:
        for file in registry.entries()[checks.choice(name, "name", ("sachs", "ecoli70", "regulatory_graphs"))].files:
            registry.fetch(name, file)
    except registry.DataError:
        return False
    return True


def ecoli_cells(context: int = 400, draws: int = 5) -> list[Cell]:
    """E11: as many independent tables of ecoli70, with their truth (d = 46)."""
    return [scm_cells.from_scms(f"ecoli70_n{context}", ecoli70.load()[0], context, draw, interventions=10) for draw in range(draws)]


def gene_rows(cells: list[Cell], methods: tuple[str, ...], network: CondFiP | None, seed: int = 0) -> list[dict]:
    """E11 on `ecoli_cells`, whose truth is known: errors and total variation (Eq. anm-density), one table a unit."""
    made = []
    for split, cell in enumerate(cells):
        for method in methods:
            fitted = scm_methods.fit(method, cell, network)
            found = scm_methods.errors(fitted, cell, interventions=False) | variation(fitted, cell)
            made += [row | {"unit": f"split {split}"} for row in scm_methods.rows("condfip.E11", cell, fitted, found, seed if method in scm_methods.AMORTISED else 0, "ecoli70") if row["metric"] != "seconds"]
    return made


def sachs_cells(context: int = 400, splits: int = 5) -> dict[str, list[Cell]]:
    """Sachs, two graphs, raw and ln(x + 10): `sachs_consensus_raw` and so on, one cell a split."""
    found = {}
    for graph in sachs.GRAPHS:
        mask = matrix(sachs.graph(graph), sachs.PROTEINS)
        for log in (False, True):
            name = f"sachs_{graph}_{'log' if log else 'raw'}"
            found[name] = [table_cell(name, sachs.load(log).to_numpy(), mask, context, split) for split in range(splits)]
    return found


def mmd_rows(name: str, cells: list[Cell], methods: tuple[str, ...], network: CondFiP | None, seed: int = 0, fip: FiPConfig = FiPConfig(), permutations: int = 199) -> list[dict]:
    """E11: MMD^2 to the query rows of fresh rows (Gaussian noise fitted node by node), unbiased at the median width, its permutation p, and biased at gamma = 1 as the paper's values seem to be; `context` is the floor of two halves."""
    made = []
    for split, cell in enumerate(cells):
        samples = {"context": cell.context}
        for method in methods:
            fitted = scm_methods.fit(method, cell, network, fip=fip)
            centre, noise = fitted_noise(fitted.noise(cell.context), "gaussian")
            samples[method] = fitted.generate(noise.sample(cell.query.shape[1], seeding.generator(split, "fresh", name)) + centre, None)
        for method, rows in samples.items():
            rows, query = rows[0].double().numpy(), cell.query[0].double().numpy()
            value, p = scm_metrics.mmd_test(rows, query, seeding.numpy_generator(split, "mmd", name, method), permutations)
            found = {"mmd": value, "p_value": p, "mmd_biased": scm_metrics.mmd(rows, query, 1.0, biased=True)}
            made += [{"experiment": "condfip.E11", "dataset": name, "unit": f"split {split}", "method": method, "metric": metric, "seed": seed if method in scm_methods.AMORTISED else 0, "value": v, "n": len(query)} for metric, v in found.items()]
    return made


def summary(rows: list[dict] | pd.DataFrame) -> pd.DataFrame:
    """Means over units: one row a data set and method, one column a metric."""
    return pd.DataFrame(rows).groupby(["dataset", "method", "metric"], sort=False)["value"].mean().unstack("metric").reset_index()
