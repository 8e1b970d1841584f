"""RealCause LaLonde-PSID: earnings of 2,675 men with and without job training, drawn from a generative model (Neal et al. 2020).

Covariates are those of the NSW sample of Dehejia and Wahba with PSID-1 controls; treatment and both potential earnings are samples of a
model fitted to them, so both are known for every man. 5.6-7.5 % are treated; Y(0) is zero for 16-18 % and Y(1) for 25-27 %, the rest is
skewed: a test of distributions, not of means alone. Effects (mean about -13,000) are those of the model, not of the programme.
"""

import numpy as np
import pandas as pd

from gencausal import checks
from gencausal.data import registry
from gencausal.data.table import CausalTable, split

SAMPLES = 10
COVARIATES = ["age", "education", "black", "hispanic", "married", "nodegree", "re74", "re75"]


def realcause(sample: int) -> CausalTable:
    """Sample 0-9: x [2675, 8] (the same men in every sample), binary t, y and potential in dollars, split 2140/535.

    The truth published is one draw of the pair (Y(0), Y(1)) a man, in `potential`; the means and the law it was drawn from are not, so mu is
    NaN throughout. Draws can be scored against both potential outcomes (CRPS, coverage), effects against one realised difference a man, whose
    noise no estimator can foresee; a score that reads mu is refused by `metrics`, never a number of the wrong kind.
    Raises `InputError` for a sample outside 0-9 and `registry.DataError` where the file is absent or not the expected one.
    """
    sample = checks.whole(sample, "sample", 0, SAMPLES - 1)
    rows = pd.read_csv(registry.fetch("lalonde_realcause", f"lalonde_psid_sample{sample}.csv"))
    potential = rows[["y0", "y1"]].to_numpy(np.float64)
    train, test = split(len(rows))
    return CausalTable(
        name="lalonde_psid",
        unit=str(sample),
        x=rows[COVARIATES].to_numpy(np.float64),
        t=rows["t"].to_numpy(np.int64),
        y=rows["y"].to_numpy(np.float64),
        mu=np.full_like(potential, np.nan),
        potential=potential,
        propensity=None,
        covariates=COVARIATES.copy(),
        train=train,
        test=test,
    )
