"""ACIC 2016 competition data: real covariates of 4,802 births, simulated treatment and outcomes (Dorie et al. 2019).

Settings 1-10 come from the causallib 0.10.0 wheel, always, so that numbers agree on every machine; its settings 3 and 4 are
simulation 100, the others simulation 1. Settings 11-40 (simulation 1) have no public address: they come from a local
mirror (`GENCAUSAL_DATA`) or the cache. Noise is Gaussian with sd 0.98-1.03 in every arm: Y(k) ~ N(mu_k(x), about 1).
"""

import numpy as np
import pandas as pd

from gencausal import checks
from gencausal.data import registry
from gencausal.data.table import CausalTable, split

EMBEDDED = 10
SETTINGS = 40
OTHER_SIMULATION = (3, 4)  # embedded settings that are not simulation 1
LETTERS = ("x_2", "x_21", "x_24")  # 6, 16 and 5 levels


def load(setting: int) -> CausalTable:
    """Setting 1-40: x [4802, 82] (55 numbers, then every level of x_2, x_21, x_24 as 0/1), binary t, split 3844/958.

    propensity is the true e(x) for settings 11-40 and None for 1-10, whose files do not carry it (see `propensity`).
    Raises `InputError` for a setting outside 1-40 and `registry.DataError` where a file is absent or not the expected one.
    """
    setting = checks.whole(setting, "setting", 1, SETTINGS)
    x = pd.get_dummies(pd.read_csv(registry.fetch("acic2016", "x.csv")), columns=list(LETTERS), dtype=float)
    if setting <= EMBEDDED:
        truth = pd.read_csv(registry.fetch("acic2016", f"zymu_{setting}.csv"))
    else:
        truth = pd.read_csv(registry.fetch("acic2016_11_40", f"p{setting:02d}_s1.csv.gz"))
    t = truth["z"].to_numpy(np.int64)
    potential = truth[["y0", "y1"]].to_numpy(np.float64)
    train, test = split(len(x))
    return CausalTable(
        name="acic2016",
        unit=str(setting),
        x=x.to_numpy(np.float64),
        t=t,
        y=potential[np.arange(len(t)), t],
        mu=truth[["mu0", "mu1"]].to_numpy(np.float64),
        potential=potential,
        propensity=truth["e"].to_numpy(np.float64) if "e" in truth else None,
        covariates=list(x.columns),
        train=train,
        test=test,
    )


def settings() -> pd.DataFrame:
    """The table of settings 1-40, indexed by `setting`: the design's six knobs (model.trt, root.trt, overlap.trt, model.rsp, alignment,
    te.hetero) beside what was measured on simulation 1 (treated share, sd_y, ate, sd_cate, satt, naive, e_min, e_max, share of e below .05 and
    above .95, noise_sd). Settings 3 and 4 of `load` are simulation 100: their knobs hold, the measured columns do not.

    Raises `registry.DataError` where the file is absent: it has no public address.
    """
    return pd.read_csv(registry.fetch("acic2016_truth", "settings.csv"), index_col="setting")


def propensity(setting: int) -> np.ndarray:
    """The true e(x) = P(t = 1 | x) of the units of `load(setting)`, [4802] in [0, 1]; of settings 1-10 it is read from a file of its own, after
    its treatment has been found to be that of the table.

    Raises `InputError` for a setting outside 1-40 and for 3 and 4, whose simulation has none published, and `registry.DataError` where a file is
    absent or speaks of another treatment.
    """
    table = load(setting)
    if table.propensity is not None:
        return table.propensity
    if setting in OTHER_SIMULATION:
        raise checks.InputError(f"setting {setting} is simulation 100 here, whose true propensity is not published; leave settings 3 and 4 out or estimate it.")
    truth = pd.read_csv(registry.fetch("acic2016_truth", f"p{setting:02d}_s1.csv.gz"))
    if not np.array_equal(truth["z"].to_numpy(), table.t):
        raise registry.DataError(f"acic2016_truth/p{setting:02d}_s1.csv.gz holds another treatment than setting {setting}; restore the registered file.")
    return truth["e"].to_numpy(np.float64)
