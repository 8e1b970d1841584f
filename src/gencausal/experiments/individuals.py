r"""Does VCI predict the counterfactual of an individual, and what do its two terms do to it? (spec vci, 4.3, E1: C1, and E2: C4.) In the world of `data.cell_worlds` every counterfactual is known.

Notation: test cell i of stratum x seen as Y_i under t, its truth Y'_i and prediction Y^_i under each t' != t; sums run over cells, t' and outcomes.

    rmse_individual       sqrt(mean (Y^ - Y')^2) / sd(Y'),   sd about the mean of each outcome under each t'                     `Eq. individual-rmse`
    effect_correlation    correlation over cells of Y^ - Y and Y' - Y, mean over (t, t') and outcomes, 0 where one does not vary   `Eq. effect-correlation`
    mmd2_counterfactual   MMD^2 between the predicted and the true Y' of a group (x, t'), Gaussian kernel at the median distance of the true ones, mean over groups; both means include i = j, so that truth has 0   `Eq. mmd-counterfactual`

The error splits exactly. With m a mean over the cells of a group (x, t, t') and d a deviation from it,

    mean (Y^ - Y')^2 = mean (m^ - m')^2 + mean (d^ - d')^2,   error_group^2 + error_within^2 = rmse_individual^2                  `Eq. error-split`
    variance_kept         sum d^^2 / sum d'^2: how much of what tells individuals apart a prediction still has; 0 for a profile of the group
    individual_correlation  sum d^ d' / sqrt(sum d^^2 sum d'^2)                                                                   `Eq. individuality`

A prediction with the least squared error has variance_kept = individual_correlation^2: above it the individual is copied too freely, below it it is erased.

How much is erased depends on how far training has come. For one element with decoder scale s, the reconstruction pulls with curvature w0 / s^2 to the individual and the match with w1 to the group's mean, so that a prediction
torn between both keeps

    (w0 / s^2) / (w0 / s^2 + w1)  of a deviation,                                                                                  `Eq. erasure`

nothing of it early, while s is the spread of the outcomes, and nearly all of it late, when s is small (ours; it takes t and t' to be decoded alike). That share is `kept_share`.

Predictors that learn no network: `covariate_mean` (of `cell_models.simple`); `factual` Y^ = Y, no effect; `shift` Y^ = Y + m(x, t') - m(x, t), everybody moved alike  `Eq. individual-shift`; `oracle`, the true latent without the
outcome noise, below which none can be expected to come but one that copies the noise. Learning rates are chosen, for every method and world alike, on training cells held back and their factual outcomes: nothing else can be seen.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from gencausal import checks, metrics, seeding
from gencausal.cell_models import simple, stack
from gencausal.data.cell_table import CellTable
from gencausal.data.cell_worlds import make_world
from gencausal.data.cells import split_validation
from gencausal.experiments import leakage
from gencausal.independence import bandwidth, distances

E1, E2 = "vci.E1", "vci.E2"
METHODS = stack.WEIGHTS | {"vci_reweighted": (0.03, 1.7, 0.0003, 0.0), "vci_light": (1.0, 1.7, 0.03, 0.0)}
"""w0, w1, w2 and the prior's weight; `vci_reweighted` are weights that were chosen for the group means of real cells, `vci_light` has a divergence chosen on world 100, which is not scored."""
SWEEP = (0.0, 0.01, 0.1, 1.0, 10.0)
REFERENCES = ("covariate_mean", "shift", "factual", "oracle")
FORMS = {"_exact": {"divergence": "exact"}, "_frozen": {"frozen": True}, "_exact_frozen": {"divergence": "exact", "frozen": True}}
METRICS = {"rmse_individual": False, "effect_correlation": True, "mmd2_counterfactual": False, "error_group": False, "error_within": False, "variance_kept": True, "individual_correlation": True, "factual_rmse": False}  # name: higher is better
HELD = 0.1  # of the training cells, on which the rate is chosen
GROUP_MAX = 400  # cells of a group in the MMD

Predict = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


# ---------------------------------------------------------------- scores


def sweep_name(w2: float) -> str:
    """The method of weights (1, 1.7, w2)."""
    return {0.0: "vci_no_divergence", 0.1: "vci"}.get(w2, f"vci_w2_{w2:g}")


def predicted(table: CellTable, predict: Predict, rows: np.ndarray) -> np.ndarray:
    """Predictions [n, K, G] of the cells `rows` under every treatment."""
    arrays = table.outcome[rows], table.treatment[rows], table.covariates[rows]
    return np.stack([np.asarray(predict(*arrays, np.repeat(table.condition_treatment[[k]], len(rows), 0)), np.float64) for k in range(len(table.conditions))], 1)


def scores(table: CellTable, found: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    """The metrics of predictions `found` [n, K, G] for the cells `rows` of a table whose counterfactuals are known; a treatment of one's own does not count. InputError if the table knows no counterfactual."""
    if table.outcome_cf is None:
        raise checks.InputError("table knows no counterfactual (outcome_cf is None); pass one of data.cell_worlds.")
    truth, seen, x = table.outcome_cf[rows].astype(np.float64), table.condition[rows], table.stratum[rows]
    n, K, G = truth.shape
    other = np.arange(K) != seen[:, None]
    deviation = truth - np.stack([truth[other[:, k], k].mean(0) for k in range(K)])
    scale = np.sqrt((deviation[other] ** 2).mean())
    square, inside, cross, kept, whole, correlation, weight = 0.0, 0.0, 0.0, 0.0, 0.0, [], []
    for t in range(K):
        for k in range(K):
            if k == t or not (seen == t).any():
                continue
            here = seen == t
            guess, actual, factual = found[here, k], truth[here, k], truth[here, t]
            correlation.append(_correlation(guess - factual, actual - factual).mean())
            weight.append(here.sum())
            for stratum in np.unique(x[here]):
                part = x[here] == stratum
                d, e = guess[part] - guess[part].mean(0), actual[part] - actual[part].mean(0)
                square += part.sum() * ((guess[part].mean(0) - actual[part].mean(0)) ** 2).sum()
                inside += ((d - e) ** 2).sum()
                cross, kept, whole = cross + (d * e).sum(), kept + (d**2).sum(), whole + (e**2).sum()
    count = other.sum() * G
    return {"rmse_individual": np.sqrt(((found - truth)[other] ** 2).mean()) / scale, "effect_correlation": float(np.average(correlation, weights=weight)),
            "mmd2_counterfactual": _mmd(found, truth, x, other), "error_group": np.sqrt(square / count) / scale, "error_within": np.sqrt(inside / count) / scale,
            "variance_kept": kept / whole, "individual_correlation": cross / np.sqrt(kept * whole) if kept > 1e-12 * whole else 0.0,
            "factual_rmse": np.sqrt(((found - truth)[~other] ** 2).mean()) / scale}


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each column of [n, G], 0 where one does not vary."""
    a, b = a - a.mean(0), b - b.mean(0)
    size = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return np.divide((a * b).sum(0), size, out=np.zeros(a.shape[1]), where=size > 1e-12)


def _mmd(found: np.ndarray, truth: np.ndarray, x: np.ndarray, other: np.ndarray) -> float:
    """Eq. mmd-counterfactual over the groups (x, t'), weighted by their cells; of at most `GROUP_MAX` cells each."""
    values, weights = [], []
    for stratum in np.unique(x):
        for k in range(truth.shape[1]):
            rows = np.flatnonzero((x == stratum) & other[:, k])[:GROUP_MAX]
            if len(rows) > 1:
                actual, both = truth[rows, k], np.concatenate([found[rows, k], truth[rows, k]])
                kernel = np.exp(-0.5 * (distances(both) / bandwidth(distances(actual))) ** 2)
                m = len(rows)
                values.append(kernel[:m, :m].mean() + kernel[m:, m:].mean() - 2 * kernel[:m, m:].mean())
                weights.append(m)
    return float(np.average(values, weights=weights))


def kept_share(scale: np.ndarray | float, w0: float = 1.0, w1: float = 1.7) -> np.ndarray | float:
    """Share of an individual's deviation that survives the match at decoder scale `scale` > 0 (Eq. erasure); its square is the variance kept."""
    pull = w0 / np.square(scale)
    return pull / (pull + w1)


# ---------------------------------------------------------------- methods


@dataclass(frozen=True)
class Trained:
    """One trained network of one world: as functions of arrays, with the rate that was chosen, its factual score by rate, and the history of its stack."""

    networks: torch.nn.Module
    rate: float
    tried: dict[float, float]
    history: list[dict]

    @torch.no_grad()
    def _run(self, function: str, *arrays: np.ndarray):
        device = self.networks.encoder_head.weight.device
        return getattr(self.networks, function)(*(torch.as_tensor(np.asarray(a), dtype=torch.float32, device=device)[None] for a in arrays))

    def predict(self, outcome: np.ndarray, treatment: np.ndarray, covariates: np.ndarray, treatment_cf: np.ndarray) -> np.ndarray:
        """Counterfactual outcomes [n, G]: encoder mean, decoder mean."""
        return self._run("predict", outcome, treatment, covariates, treatment_cf)[0].cpu().numpy()

    def encode(self, outcome: np.ndarray, treatment: np.ndarray, covariates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and sd [n, L] of the latent."""
        mean, scale = self._run("encode", outcome, treatment, covariates)
        return mean[0].cpu().numpy(), scale[0].cpu().numpy()


def fit_table(table: CellTable, seed: int) -> tuple[CellTable, np.ndarray]:
    """The table without the training cells held back to choose the rate, and these rows."""
    kept, held = split_validation(table, HELD, seeding.numpy_generator(seed, "individuals-held"))
    return replace(table, train=kept), held


def factual_error(table: CellTable, predict: Predict, rows: np.ndarray) -> float:
    """Root mean square of predict(y, t, x -> t) - y over `rows`: what a rate is chosen by."""
    arrays = table.outcome[rows], table.treatment[rows], table.covariates[rows]
    return float(np.sqrt(((predict(*arrays, arrays[1]) - arrays[0]) ** 2).mean()))


def trained(table: CellTable, weights: dict[str, tuple], config: stack.Config, rates: list[float], seed: int, folder: Path | None = None, device: torch.device | str = "cpu", label: str = "vci-individuals") -> dict[str, Trained]:
    """Every method of `weights` (as in `METHODS`), trained as one stack at each of the `rates`; of each method the rate with the least `factual_error` on the cells held back. `seed` of networks, batches and held cells."""
    fitting, held = fit_table(table, seed)
    found: dict[str, Trained] = {}
    tried: dict[str, dict[float, float]] = {name: {} for name in weights}
    for rate in rates:
        done = stack.train([fitting], [stack.Member(0, tuple(w), seed) for w in weights.values()], replace(config, lr=rate), folder, device, label)
        for member, name in enumerate(weights):
            candidate = Trained(done.alone(member), rate, tried[name], done.history)
            tried[name][rate] = factual_error(table, candidate.predict, held)
            if tried[name][rate] == min(tried[name].values()):
                found[name] = candidate
    return found


def references(table: CellTable, seed: int, world: int | None = None) -> dict[str, Predict]:
    """`covariate_mean`, `shift` and `factual` from the same training cells as the networks; `oracle` where `world` names the world of the table."""
    fitting, _ = fit_table(table, seed)
    mean = simple.fit("covariate_mean", fitting)
    made = {"covariate_mean": mean, "shift": lambda y, t, x, t_cf: y + mean(y, t, x, t_cf) - mean(y, t, x, t), "factual": lambda y, t, x, t_cf: y}
    if world is not None:
        true, latent = make_world(world, len(table.genes)), table.latent[table.test].astype(np.float64)
        made["oracle"] = lambda y, t, x, t_cf: true.respond(latent, t_cf.argmax(1), np.zeros((1, len(table.genes))))  # of the test cells, in their order
    return made


def score_rows(table: CellTable, predicts: dict[str, Predict], seed: int, experiment: str = E1) -> list[dict]:
    """Result rows of `scores` on the test cells of `table`, one method each of `predicts`."""
    made = []
    for name, predict in predicts.items():
        found = scores(table, predicted(table, predict, table.test), table.test)
        made += [{"experiment": experiment, "dataset": table.name, "unit": table.unit, "method": name, "metric": metric, "seed": seed, "value": float(value), "n": len(table.test)} for metric, value in found.items()]
    return made


def ablations(table: CellTable, config: stack.Config, rate: float, seed: int, sweep: tuple[float, ...] = SWEEP, folder: Path | None = None, device: torch.device | str = "cpu") -> dict[str, Trained]:
    """What E2 needs beside the methods of E1, at one rate: weights of the sweep, and w1 = 1.7 or 0 with the exact divergence, the frozen evaluating encoder (renewed once an epoch), and both. Without divergence neither changes anything."""
    made = trained(table, {sweep_name(w2): (1.0, 1.7, w2, 0.0) for w2 in sweep if w2 not in (0.0, 0.1)}, config, [rate], seed, folder, device) if set(sweep) - {0.0, 0.1} else {}
    epoch = max(len(table.train) // config.batch, 1)
    for suffix, form in FORMS.items():
        changed = replace(config, divergence=form.get("divergence", "official"), refresh=epoch if form.get("frozen") else 0)
        made |= trained(table, {name + suffix: METHODS[name] for name in ("vci", "vci_no_supervision")}, changed, [rate], seed, folder, device)
    return made


def leak_rows(table: CellTable, networks: dict[str, Trained], seed: int, permutations: int = 200, n_max: int = 1000) -> list[dict]:
    """Rows of `leakage.rows` for every network, as rows of E2: what its latent knows of T and X, and how well it reconstructs."""
    variants = {name: leakage.Variant(one.encode, one.predict) for name, one in networks.items()}
    return [row | {"experiment": E2} for row in leakage.rows(table, variants, seed, permutations, n_max, networks=0)]


def curves(network: Trained) -> dict[str, np.ndarray]:
    """Loss history of the stack a network was trained in, by term: arrays of rounds and values."""
    keys = sorted({key for entry in network.history for key in entry})
    return {key: np.array([entry.get(key, np.nan) for entry in network.history], dtype=object) for key in keys}


def spread(values: np.ndarray) -> metrics.Interval:
    """Mean over worlds of `values [n]` with its 95 % bootstrap interval; ends NaN where there is one world."""
    values = np.asarray(values, np.float64)
    return metrics.bootstrap_mean(values, np.random.default_rng(0)) if len(values) > 1 else metrics.Interval(float(values.mean()), float("nan"), float("nan"), 1)


def told(values: np.ndarray) -> str:
    """`spread` in words."""
    found = spread(values)
    return f"{found.mean:.2g} [{found.low:.2g}, {found.high:.2g}]" if len(values) > 1 else f"{found.mean:.2g} (one world, no interval)"
