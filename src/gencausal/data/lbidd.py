"""ACIC 2018 (LBIDD), the one data set 00ea30e8: 1,000 births, 177 covariates (Shimoni et al. 2018), as the public preprocessing wrote it.

Two facts rule it out for comparing estimators (specification 3.4): every unit has the same effect, -1.431291 on the written scale, and the
rows of the covariates are not those of the outcomes, so that no covariate tells anything of an outcome or of the treatment. It serves the
as-released mode of IWDD alone (experiment E19), whose public run log is of this file.
"""

import numpy as np
import pandas as pd

from gencausal.data import registry
from gencausal.data.table import CausalTable, split

UNIT = "00ea30e8"
FILE = "00ea30e866f141d9880d5824a361a76a.csv"
COVARIATES = 177


def load() -> CausalTable:
    """x [1000, 177] standardised over all rows, binary t, outcomes standardised by mean and sd of both potential outcomes of all rows; split 800/200.

    The data publish no conditional means: mu is the pair of potential outcomes, as in the released code. propensity is None.
    Raises `registry.DataError` where a file is absent, not the expected one, or the mask contradicts the treatment.
    """
    rows, mask = (pd.read_csv(registry.fetch(dataset, FILE)).to_numpy(np.float64) for dataset in ("acic2018", "acic2018_mask"))
    t = rows[:, 0].astype(np.int64)
    if not np.array_equal(mask[:, 1:3], np.stack([t == 0, t == 1], axis=1)):
        raise registry.DataError(f"acic2018_mask/{FILE} observes another outcome than that of the treatment; restore the registered files.")
    potential = rows[:, 1:3].copy()
    train, test = split(len(rows))
    return CausalTable(
        name="acic2018",
        unit=UNIT,
        x=rows[:, 5:].copy(),
        t=t,
        y=potential[np.arange(len(t)), t],
        mu=rows[:, 3:5].copy(),
        potential=potential,
        propensity=None,
        covariates=[f"x{i}" for i in range(1, COVARIATES + 1)],
        train=train,
        test=test,
    )


def outcomes() -> pd.DataFrame:
    """Columns z, y, y0, y1 of the competition's own files, on their own scale, in the row order of `load`; the effect is -0.798503 for every unit."""
    factual, both = (pd.read_csv(registry.fetch("acic2018_outcomes", name), index_col="sample_id") for name in (FILE, FILE.replace(".csv", "_cf.csv")))
    return factual.join(both).reset_index(drop=True)
