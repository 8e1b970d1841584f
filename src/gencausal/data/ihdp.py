"""IHDP: 747 infants, 25 covariates, simulated outcomes with known means (Hill 2011; replications as distributed with CEVAE).

The files have no header. Columns: treatment, factual outcome, counterfactual outcome, mu_0, mu_1, x1..x25. Columns 2 and 3
are factual and counterfactual, not Y(0) and Y(1). x1-x6 are continuous and standardised, the rest binary (x14 in {1, 2}).
"""

import numpy as np
import pandas as pd

from gencausal import checks
from gencausal.data import registry
from gencausal.data.table import CausalTable, split

REPLICATIONS = 30
COVARIATES = [f"x{i}" for i in range(1, 26)]


def load(replication: int) -> CausalTable:
    """Replication 1-30: x [747, 25], binary t (139 treated), split 597/150; the propensity is not published.

    Raises `InputError` for a replication outside 1-30 and `registry.DataError` where the file is absent or not the expected one.
    """
    replication = checks.whole(replication, "replication", 1, REPLICATIONS)
    names = ["t", "factual", "counterfactual", "mu_0", "mu_1", *COVARIATES]
    rows = pd.read_csv(registry.fetch("ihdp", f"ihdp_npci_{replication}.csv"), header=None, names=names)
    t = rows["t"].to_numpy(np.int64)
    factual, counterfactual = rows["factual"].to_numpy(np.float64), rows["counterfactual"].to_numpy(np.float64)
    train, test = split(len(rows))
    return CausalTable(
        name="ihdp",
        unit=str(replication),
        x=rows[COVARIATES].to_numpy(np.float64),
        t=t,
        y=factual,
        mu=rows[["mu_0", "mu_1"]].to_numpy(np.float64),
        potential=np.stack([np.where(t == 0, factual, counterfactual), np.where(t == 1, factual, counterfactual)], axis=1),
        propensity=None,
        covariates=COVARIATES.copy(),
        train=train,
        test=test,
    )
