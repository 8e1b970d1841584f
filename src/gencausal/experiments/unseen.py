r"""Cells under a treatment never seen in their group (spec vci, E3: C2 in kind; E2 on cells: C4; E4: C5).

Every fold hides one group (covariates x, treatment t) from training; a method predicts its mean profile from the controls of its own stratum (`cell_metrics`). Beside the networks stand baselines
without any (`cell_models.simple`), the split-half ceiling, and the gap closed between the mean shift and the ceiling (Eq. gap).

Arms, all with the networks, optimiser and rounds of `cell_models.stack`:

    vci                 the published weights w = (1, 1.7, 0.1)
    vci_reweighted      weights chosen by `choose`
    vci_borrowed        those weights, and matches borrowed from like strata where a group has none (Eq. borrow)
    vci_no_divergence, vci_no_supervision, autoencoder, cvae, adversarial

`choose` decides weights and strengths on training groups alone: in each fold one more group is hidden and scored, never the fold's own.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gencausal import cell_metrics, checks, seeding
from gencausal.cell_models import adversarial, simple, stack
from gencausal.data import cells
from gencausal.data.cell_table import CellTable
from gencausal.data.cell_worlds import cell_world
from gencausal.experiments.leakage import Variant

EXPERIMENT = "vci.E3"
ARMS = tuple(name for name in stack.WEIGHTS if name != "vci_reweighted") + ("vci_reweighted", "vci_borrowed", "adversarial")
CANDIDATES = {
    "vci_reweighted": {"w0.3": (0.3, 1.7, 0.003, 0.0), "w0.1": (0.1, 1.7, 0.001, 0.0), "w0.03": (0.03, 1.7, 0.0003, 0.0)},
    "cvae": {"b0.1": (1.0, 0.0, 0.0, 0.1), "b1": (1.0, 0.0, 0.0, 1.0), "b10": (1.0, 0.0, 0.0, 10.0)},
    "adversarial": {"l0.03": 0.03, "l0.3": 0.3, "l3": 3.0},
}
"""Three settings of every arm that has a choice: weights w0, w1, w2, prior; or the adversary's strength."""
DEFAULT = {name: next(iter(settings)) for name, settings in CANDIDATES.items()}


def setting(arm: str, chosen: dict[str, str]):
    """Weights (or strength) of `arm` under `chosen` (arm: name among its CANDIDATES); the borrowed arm has those of `vci_reweighted`."""
    checks.choice(arm, "arm", ARMS)
    source = "vci_reweighted" if arm == "vci_borrowed" else arm
    return CANDIDATES[source][chosen.get(source, DEFAULT[source])] if source in CANDIDATES else stack.WEIGHTS[arm]


def train(arm: str, tables: list[CellTable], seed: int, config: stack.Config, value, folder: Path | None, device: torch.device | str = "cpu") -> stack.Fitted:
    """One network of `arm` for each table, as one stack, under weights or strength `value`."""
    if arm == "adversarial":
        return adversarial.train(tables, [stack.Member(i, stack.WEIGHTS["autoencoder"], seed) for i in range(len(tables))], config, value, folder, device)
    used = replace(config, borrow=True) if arm == "vci_borrowed" else config
    return stack.train(tables, [stack.Member(i, value, seed) for i in range(len(tables))], used, folder, device)


def network_rows(tables: list[CellTable], arms: list[str], seeds: list[int], config: stack.Config, chosen: dict[str, str], folder: Path | None, device: torch.device | str = "cpu", settings: tuple[str, ...] = cell_metrics.SETTINGS, experiment: str = EXPERIMENT) -> list[dict]:
    """Result rows of every arm on every fold and seed."""
    made = []
    for arm in arms:
        for seed in seeds:
            fitted = train(arm, tables, seed, config, setting(arm, chosen), folder, device)
            for i, table in enumerate(tables):
                made += cell_metrics.group_scores(table, predictor(fitted, i), arm, experiment, seed, settings)
    return made


def predictor(fitted: stack.Fitted, member: int):
    """`predict(outcome, treatment, covariates, treatment_cf)` of one member."""
    return lambda *arrays: fitted.predict(member, *arrays)


def reference_rows(tables: list[CellTable], seeds: list[int], baselines: tuple[str, ...] = ("control_mean", "mean_shift", "weighted_shift", "covariate_mean", "ridge")) -> list[dict]:
    """Result rows of the baselines without a network and of the split-half ceiling; what has no randomness stands once, under the first seed, ridge and ceiling under each."""
    made = []
    for table in tables:
        for seed in seeds:
            made += cell_metrics.ceiling_scores(table, seeding.numpy_generator(seed, "halves", table.unit), EXPERIMENT, seed)
            for name in baselines:
                if seed == seeds[0] or name == "ridge":
                    made += cell_metrics.group_scores(table, simple.fit(name, table, seed), name, EXPERIMENT, seed, ("matched",))
    return made


def gap_rows(rows: list[dict], base: str = "mean_shift", metric: str = "r2_de") -> list[dict]:
    """`gap_closed` of every method, unit and seed, between the mean over seeds of `base` and of the ceiling (Eq. gap); NaN gaps are left out."""
    mean = {}
    for row in rows:
        if row["metric"] == metric and row["method"] in (base, "ceiling"):
            mean.setdefault((row["dataset"], row["unit"], row["method"]), []).append(row["value"])
    made = []
    for row in rows:
        key = (row["dataset"], row["unit"])
        if row["metric"] == metric and row["method"] not in (base, "ceiling") and (*key, base) in mean:
            value = float(cell_metrics.gap_closed(row["value"], np.mean(mean[*key, base]), np.mean(mean[*key, "ceiling"])))
            if np.isfinite(value):
                made.append(row | {"metric": "gap_closed", "value": value})
    return made


def inner(tables: list[CellTable]) -> list[CellTable]:
    """Each fold with one more group hidden, a treated one of another stratum, which takes the place of its test group: for choosing, without the fold's own group."""
    made = []
    for i, table in enumerate(tables):
        known = [(x, k) for x, k in cell_metrics.groups(table, table.train) if len({s for s in range(len(table.strata)) if len(table.rows(s, k, table.train))}) > 2]
        if not known:
            raise checks.InputError(f"Fold {table.unit} has no second group to hide; choose on a data set with three strata or more.")
        x, k = known[(3 * i) % len(known)]
        hidden = table.rows(x, k, table.train)
        made.append(replace(table, unit=f"{table.unit}, choosing on {cell_metrics.group_name(table, x, k)}", train=np.setdiff1d(table.train, hidden), test=hidden))
    return made


def choose(tables: list[CellTable], arms: list[str], seed: int, config: stack.Config, folder: Path | None, device: torch.device | str = "cpu") -> tuple[dict[str, str], list[dict]]:
    """For every arm with a choice the setting of the highest mean r2_de on the groups that `inner` hides, and the rows that say so (methods "<arm> <setting>")."""
    hidden, chosen, made = inner(tables), {}, []
    for arm in arms:
        scores = {}
        for name, value in CANDIDATES.get(arm, {}).items():
            fitted = train(arm, hidden, seed, config, value, folder, device)
            rows = [row | {"unit": table.unit} for i, table in enumerate(hidden) for row in cell_metrics.group_scores(table, predictor(fitted, i), f"{arm} {name}", f"{EXPERIMENT}.choice", seed, ("matched",))]
            made += rows
            scores[name] = np.mean([row["value"] for row in rows if row["metric"] == "r2_de"])
        if scores:
            chosen[arm] = max(scores, key=scores.get)
    return chosen, made


def choose_rounds(tables: list[CellTable], arm: str, options: tuple[int, ...], seed: int, config: stack.Config, chosen: dict[str, str], folder: Path | None, device: torch.device | str = "cpu") -> tuple[int, list[dict]]:
    """How many of `options` rounds give `arm` the highest mean r2_de on the groups that `inner` hides, and the rows that say so (methods "<arm> <rounds> rounds")."""
    hidden, scores, made = inner(tables), {}, []
    for rounds in options:
        fitted = train(arm, hidden, seed, replace(config, rounds=rounds), setting(arm, chosen), folder, device)
        rows = [row | {"unit": table.unit} for i, table in enumerate(hidden) for row in cell_metrics.group_scores(table, predictor(fitted, i), f"{arm} {rounds} rounds", f"{EXPERIMENT}.choice", seed, ("matched",))]
        made += rows
        scores[rounds] = np.mean([row["value"] for row in rows if row["metric"] == "r2_de"])
    return max(scores, key=scores.get), made


def variants(table: CellTable, arms: dict[str, tuple], seed: int, config: stack.Config, folder: Path | None, device: torch.device | str = "cpu", nulls: tuple[str, ...] = ()) -> dict[str, Variant]:
    """Trained models of one table, one for each of `arms` (name: w0, w1, w2, prior), as `leakage` measures them; those in `nulls` come with their untrained twins."""
    members = [stack.Member(0, tuple(weights), seed) for weights in arms.values()]
    fitted = stack.train([table], members, config, folder, device)

    def untrained(network: int):
        one = stack.Fitted(stack.make([table], [stack.Member(0, stack.WEIGHTS["vci"], network)], config, torch.device(device)).train(), [], [table], [], 0.0)
        return lambda *arrays: one.encode(0, *arrays)

    return {name: Variant(lambda *arrays, i=i: fitted.encode(i, *arrays), predictor(fitted, i), untrained if name in nulls else None) for i, name in enumerate(arms)}


MADE = "vci_synthetic"


def folds(name: str, made: tuple[int, int, int] = (600, 1, 60)) -> list[CellTable]:
    """One table for each hidden group of data set `name` (`cells.folds`), or of the known world of `cell_worlds` for the name `MADE`: its treated groups in turn; made: its training cells, test cells and outcomes."""
    if name != MADE:
        return cells.folds(name)
    table = cell_world(0, 0, *made)
    return [table.hold_out([(x, k)], f"{table.strata[x]} {table.conditions[k]}") for x in range(len(table.strata)) for k in range(1, len(table.conditions))]


def random_split(name: str, seed: int, made: tuple[int, int, int] = (600, 1, 60), share: float = 0.3) -> CellTable:
    """The cells of `name` with a random `share` of every kind in test: what independence is measured on."""
    table = cell_world(0, seed, *made) if name == MADE else cells.load(name)
    return table.hold_out([], f"split {seed}", seeding.numpy_generator(seed, "split", name), share)
