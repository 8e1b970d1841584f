"""condfip.E1: the protocol table, and the baselines beside the levels that the specification measured and the paper printed, before anything amortised is believed.

LEVELS: (cell, method, metric) to the level, its tolerance and its source: spec for the numpy re-simulation of section 5.10, paper for FiP's cells in tables T1-T3 and T10-T12.
"""

import numpy as np
import pandas as pd

from gencausal.data.scm_cells import Cell, cell, protocol
from gencausal.experiments import scm_methods

LEVELS = {
    ("lin_in_d10_n400", "ols", "rmse_noise"): (0.031, 0.01, "spec"), ("lin_in_d10_n400", "ols", "rmse_generation"): (0.053, 0.02, "spec"), ("lin_in_d10_n400", "ols", "rmse_intervention"): (0.049, 0.02, "spec"),
    ("lin_in_d20_n100", "ols", "rmse_noise"): (0.062, 0.01, "spec"), ("lin_in_d20_n100", "ols", "rmse_generation"): (0.111, 0.02, "spec"), ("lin_in_d20_n100", "ols", "rmse_intervention"): (0.104, 0.02, "spec"),
    ("rff_in_d10_n400", "kernel_ridge", "rmse_noise"): (0.09, 0.03, "paper, FiP"), ("rff_in_d10_n400", "kernel_ridge", "rmse_generation"): (0.13, 0.07, "paper, FiP"), ("rff_in_d10_n400", "kernel_ridge", "rmse_intervention"): (0.15, 0.07, "paper, FiP"),
    ("rff_in_d20_n100", "kernel_ridge", "rmse_noise"): (0.192, 0.03, "spec"), ("rff_in_d20_n100", "kernel_ridge", "rmse_generation"): (0.276, 0.07, "spec"), ("rff_in_d20_n100", "kernel_ridge", "rmse_intervention"): (0.272, 0.07, "spec"),
    ("rff_out_d10_n400", "kernel_ridge", "rmse_noise"): (0.08, 0.03, "paper, FiP"), ("rff_out_d10_n400", "kernel_ridge", "rmse_generation"): (0.11, 0.07, "paper, FiP"), ("rff_out_d10_n400", "kernel_ridge", "rmse_intervention"): (0.09, 0.07, "paper, FiP"),
} | {(name, "zero_mechanism", "rmse_noise"): (0.70, 0.05, "spec") for name in ("lin_in_d10_n400", "lin_in_d20_n100")}


def cells(names: tuple[str, ...], stack: int, seed: int = 0) -> list[Cell]:
    """Cells by name, such as lin_in_d10_n400."""
    made = []
    for name in names:
        family, d, n = name.rsplit("_", 2)
        made.append(cell(family, int(d[1:]), int(n[1:]), stack, seed))
    return made


def protocol_table(made: list[Cell]) -> pd.DataFrame:
    return pd.DataFrame([protocol(one) for one in made])


def rows(made: list[Cell], methods: tuple[str, ...] = ("zero_mechanism", "ols", "kernel_ridge"), draw: int = 0) -> list[dict]:
    """Errors of the baselines; `draw`, the seed of the cells, is the seed of the rows, and its models are units of their own: `1.4` is the fifth model of draw 1."""
    return [row | {"seed": draw, "unit": f"{draw}.{row['unit']}"} for row in scm_methods.table("condfip.E1", made, methods)]


def compare(found: pd.DataFrame | list[dict]) -> pd.DataFrame:
    """Mean and s.e. over the SCMs of each cell beside its level: columns cell, method, metric, mean, se, level, tolerance, source, inside."""
    found = pd.DataFrame(found)
    made = []
    for (name, method, metric), (level, tolerance, source) in LEVELS.items():
        values = found[(found["dataset"] == name) & (found["method"] == method) & (found["metric"] == metric)]["value"].to_numpy()
        if len(values):
            made.append({"cell": name, "method": method, "metric": metric, "mean": values.mean(), "se": values.std(ddof=1) / np.sqrt(len(values)), "level": level, "tolerance": tolerance, "source": source,
                         "inside": abs(values.mean() - level) <= tolerance})
    return pd.DataFrame(made)
