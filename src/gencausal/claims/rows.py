"""Result rows: one row per experiment, data set, unit, method, metric and seed, written by `record` alone.

While the runner executes a notebook it sets `GENCAUSAL_RESULTS` (a folder that becomes `results/` once the run is accepted, so that a
failing run leaves no rows) and `GENCAUSAL_RUN_ID`. Anywhere else, as in JupyterLab, rows go straight to `build/<profile>/results/`
with the run id `interactive`.
"""

import gzip
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import display

from gencausal import paths
from gencausal.checks import InputError
from gencausal.claims.definitions import find
from gencausal.claims.verdicts import verdict
from gencausal.claims import bundle

COLUMNS = ["experiment", "dataset", "unit", "method", "metric", "seed", "value", "higher_is_better", "n", "profile", "run_id"]
PACKED = ".csv.gz"  # how rows end in reports; plain CSV while a profile is run
KEY = ["experiment", "dataset", "unit", "method", "metric", "seed"]
TEXT = ["experiment", "dataset", "unit", "method", "metric", "profile", "run_id"]

# Which way is better. Coverage is better near its nominal level, which neither word says: False, so that no rule calls more of it a gain.
METRICS = {
    "pehe_normalised": False, "pehe_normalised_in": False, "pehe_normalised_median": False, "ate_error": False, "rmse_y0": False, "rmse_y1": False,
    "crps": False, "w1": False, "w2": False, "energy_score": False, "pit_ks": False, "nll": False, "draw_sd": False,
    "coverage_50": False, "coverage_80": False, "coverage_90": False, "coverage_95": False, "width_90": False, "coverage_90_calibrated": False, "width_90_calibrated": False, "width_95": False, "ess": True,
    "acm_intervened": False, "acm_descendant": False, "acm_nondescendant": False, "r2_de": True, "r2_all": True, "image_mse": False,
    "rmse_noise": False, "rmse_noise_roots": False, "jacobian_outside": False, "change_after": False, "start_gap": False, "tv_joint": False, "tv_node": False, "tv_marginal": False, "mmd": False, "mmd_biased": False, "rmse_generation": False, "rmse_intervention": False, "rmse_counterfactual": False,
    "rmse_normalised": False, "slope_overlap": True, "excess_error_poor_overlap": False, "gamma": False, "pehe_increase": False, "held_out_loss": False, "crps_held_out": False,
    "pehe": False, "pehe_in": False, "pehe_gap": False, "pehe_gap_in": False, "rmse_y0_in": False, "rmse_y1_in": False, "max_change": False,
    "coverage_mu_y0": False, "coverage_mu_y1": False, "width_95_y0": False, "width_95_y1": False,
    "endpoint_mse": False, "hallucination_rate": False, "identity_error": False, "log_ratio": False, "relative_gain": True, "variance_explained": True, "order": True, "p_value": True,
    "contains_manski": True, "share_within_10": True, "arm_error_correlation": True, "inside": True, "inside_effect": True, "inside_itb": True, "inside_itb_effect": True,
    "inside_itb_visible": True, "inside_itb_effect_visible": True, "inside_manski": True, "inside_manski_effect": True, "inside_manski_visible": True, "inside_manski_effect_visible": True,
    "width_bound": False, "width_effect": False, "upper_bound": False, "width_growth": False, "manski_gap": False, "bytes": False, "pehe_shift": False, "ate_shift": False,
    "ate_change": False, "w2_change": False, "relative_change": False, "mse_rise": False, "slope_y": False, "slope_mu": False, "slope_calibration": False, "slope_k": False,
    "ate": False, "ate_bias": False, "ate_ht": False, "ate_ht_error": False,
    "rmse_relative": False, "rmse_relative_central": False, "rmse_all": False, "rmse_inside": False, "rmse_outside": False, "rmse_y0_inside": False, "rmse_y0_outside": False,
    "rmse_y1_inside": False, "rmse_y1_outside": False, "rmse_outcome_y0": False, "rmse_outcome_y1": False, "mode_mass": True, "crps_cf": False, "coverage_90_cf": False,
    **{prefix + name: False for prefix in ("", "bounded_") for name in ("gradient_trace", "gradient_trace_se", "gradient_trace_relative", "gradient_bias", "identity_left", "identity_right", "identity_z")},
    "chi2": False, "tail_share": False,
    "win_percent": True, "win_percent_in": True,
    "acm_all": False, "acm_guide_intervened": False, "acm_guide_descendant": False, "acm_guide_nondescendant": False, "factor_error": False, "unreadable": False, "psnr": True, "psnr_masked": True,
    "composition": False, "reversibility": False, "cld": False, "frechet": False, "disentanglement": True, "completeness": True, "hallucination": False, "auroc": True, "shd": False, "acyclicity": False, "slope_acm": False,
    "spearman": True, "share_removed": True, "parent_shift": False, "do_slope": True, "acm_shift": False, "probe_r2": True, "above_chance": True,
    "mae_thickness": False, "mae_intensity": False, "mae_thickness_predictor": False, "mae_intensity_predictor": False, "composition_10": False, "image_mse_factual": False,
    "rmse_individual": False, "effect_correlation": True, "mmd2_counterfactual": False, "error_group": False, "error_within": False, "variance_kept": True, "individual_correlation": True, "factual_rmse": False,
    **{f"leak_{name}{suffix}": suffix in ("_p", "_holm", "_network_p") for name in ("probe_linear", "probe_hidden", "auc_linear", "auc_hidden", "hsic", "nhsic", "mmd", "mutual_information") for suffix in ("", "_p", "_holm", "_network_p", "_network_p_below")},
    **{f"probe_x_{name}{suffix}": suffix in ("", "_network_p_below") for name in ("linear", "hidden") for suffix in ("", "_p", "_holm", "_network_p", "_network_p_below")},
    "reconstruction_r2": True, "round_trip": False, "bias_mean": False, "rmse_mean": False, "computable": True, "r2_robust_same": True, "r2_robust": True, "r2_plug_in": True, "r2_treated_mean": True,
    "r2_all_classic": True, "r2_de_classic": True, "gap_closed": True,
    "seconds": False, "seconds_training": False, "nfe": False, "steps": False, "parameters": False, "peak_memory_mib": False,
}


def results_folder(profile: str) -> Path:
    """Where rows of `profile` are written now: the runner's staging folder inside a run, else `build/<profile>/results`."""
    staged = os.environ.get("GENCAUSAL_RESULTS")
    return Path(staged) if staged else paths.build(profile) / "results"


def tidy(rows: list[dict] | pd.DataFrame, profile: str) -> pd.DataFrame:
    """`rows` as a checked table with exactly `COLUMNS`, sorted; InputError for anything that must not enter the results.

    rows: columns experiment, dataset, unit, method, metric, seed, value, n, and optionally higher_is_better, which otherwise
    follows from the metric. Each (experiment, dataset, unit, method, metric, seed) may stand once; value is finite.
    """
    table = pd.DataFrame(rows)
    if table.empty:
        return pd.DataFrame(columns=COLUMNS)
    if unknown := [c for c in table.columns if c not in COLUMNS]:
        raise InputError(f"rows: unknown column '{unknown[0]}'; use only {', '.join(COLUMNS)}.")
    if missing := [c for c in [*KEY, "value", "n"] if c not in table.columns]:
        raise InputError(f"rows: column '{missing[0]}' is missing; every row needs {', '.join([*KEY, 'value', 'n'])}.")
    if holes := [c for c in [*KEY, "value", "n"] if table[c].isna().any()]:
        row = table[table[holes[0]].isna()].iloc[0]
        raise InputError(f"rows: '{holes[0]}' is missing or NaN for {_name(row)}; a NaN is a failure to explain, not a result.")
    for column in ("experiment", "dataset", "unit", "method", "metric"):
        table[column] = table[column].astype(str)
    if strange := [m for m in table["metric"].unique() if m not in METRICS]:
        raise InputError(f"rows: metric '{strange[0]}' is unknown; use one of {', '.join(METRICS)} or add it to claims.METRICS.")
    try:
        table["value"] = table["value"].astype(float)
        for column in ("seed", "n"):
            if not (table[column].astype(float) == table[column].astype(float).round()).all():
                raise ValueError
            table[column] = table[column].astype(int)
    except (TypeError, ValueError):
        raise InputError("rows: value must be a number, seed and n whole numbers; convert them first.") from None
    if not np.isfinite(table["value"]).all():
        row = table[~np.isfinite(table["value"])].iloc[0]
        raise InputError(f"rows: value is {row['value']} for {_name(row)}; a run that diverged is a failure, not a result.")
    if (table["n"] < 1).any():
        raise InputError(f"rows: n is below 1 for {_name(table[table['n'] < 1].iloc[0])}; n counts the cases behind the value.")
    if table.duplicated(KEY).any():
        raise InputError(f"rows: {_name(table[table.duplicated(KEY)].iloc[0])} is recorded twice; record each once.")
    better = table["metric"].map(METRICS)
    if "higher_is_better" in table and (table["higher_is_better"].notna() & (table["higher_is_better"] != better)).any():
        row = table[table["higher_is_better"] != better].iloc[0]
        raise InputError(f"rows: higher_is_better of '{row['metric']}' contradicts claims.METRICS; leave the column out.")
    table["higher_is_better"] = better
    table["profile"] = profile
    table["run_id"] = os.environ.get("GENCAUSAL_RUN_ID", "interactive")
    return table[COLUMNS].sort_values(KEY, key=_natural, kind="stable", ignore_index=True)


def record(rows: list[dict] | pd.DataFrame, notebook: str, profile: str) -> Path:
    """Check `rows` and write them whole to `results/<notebook>.csv` of `profile`; the only writer of result rows."""
    return paths.write_whole(results_folder(profile) / f"{notebook}.csv", tidy(rows, profile).to_csv(index=False, lineterminator="\n"))


def read(profile: str) -> pd.DataFrame:
    """All accepted rows of `profile`; an empty table if there are none."""
    return _read(paths.build(profile) / "results")


def read_published() -> pd.DataFrame:
    """All rows of the committed `reports/results/`."""
    return _read(paths.root() / "reports" / "results")


def packed(content: bytes) -> bytes:
    """Rows as reports carry them, `NAME.csv.gz`: a seventh of the bytes, the same for the same rows."""
    return gzip.compress(content, mtime=0)


def _read(folder: Path) -> pd.DataFrame:
    tables = [pd.read_csv(p, dtype={c: str for c in TEXT}) for p in sorted([*folder.glob("*.csv"), *folder.glob(f"*{PACKED}")]) if p.name != "claims.csv"]
    for table in tables:
        if list(table.columns) != COLUMNS:
            raise InputError(f"A table in {folder.name}/ lacks the columns {', '.join(COLUMNS)}; delete it and run its notebook again.")
    tables = [t for t in tables if len(t)]
    together = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)
    if together.duplicated(KEY).any():
        raise InputError(f"Two notebooks recorded {_name(together[together.duplicated(KEY)].iloc[0])}; let one of them record it.")
    return together


class Results:
    """The rows of one notebook run: collected in memory, judged by `claim`, written by `save`."""

    def __init__(self, notebook: str, profile: str):
        self.notebook, self.profile = notebook, profile
        self.rows = tidy([], profile)

    def record(self, rows: list[dict] | pd.DataFrame) -> None:
        """Add rows (see `tidy`); what was added before counts for duplicates."""
        new = tidy(rows, self.profile)
        if new.empty:
            return
        together = new if self.rows.empty else pd.concat([self.rows, new], ignore_index=True)
        if len(together):
            self.rows = tidy(together.drop(columns=["profile", "run_id"]), self.profile)

    def claim(self, key: str) -> None:
        """Judge claim `key` of the ledger from the rows recorded so far, and display the verdict."""
        claim = find(key)
        if claim.notebook != self.notebook:
            raise InputError(f"Claim '{key}' belongs to notebook {claim.notebook}, not {self.notebook}; correct claims.yaml or the key.")
        display(bundle.make(claim, verdict(claim, self.rows), self.profile), raw=True)

    def save(self) -> None:
        """Write the rows; call once, at the end of the notebook."""
        record(self.rows.drop(columns=["profile", "run_id"]), notebook=self.notebook, profile=self.profile)


def open_results(notebook: str, profile: str) -> Results:
    """Fresh, empty results of `notebook` (its name, such as "02a_score_distillation") at `profile`."""
    return Results(notebook, profile)


def _name(row: pd.Series) -> str:
    return ", ".join(f"{c} {row[c]}" for c in KEY if c in row)


def _natural(column: pd.Series) -> pd.Series:
    """Sort key that puts unit 2 before unit 10."""
    if column.name != "unit":
        return column
    return column.map(lambda text: tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", text)))
