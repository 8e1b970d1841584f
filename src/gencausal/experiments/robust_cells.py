r"""Is the robust mean worth its name? Plug-in, inverse weighting and the robust mean in the world of E1, where E[Y_a] is known exactly (spec vci, E5: C6).

Each of R replications draws n cells of a world and estimates E[Y_a] for every treatment and outcome (Eq. plug-in, Eq. ipw, Eq. aipw of `robust`) from the predictions m of one decoder:

    good       m(a) = E[Y_a | Z], the world without its noise
    biased     m(a) / 2 + 0.3 (1 + Z_1): wrong for every cell, by an amount that differs between cells
    ood        good, but in the stratum X = 2 it never learned treatment 2 and predicts the control there
    restating  Y itself under the cell's own treatment, `biased` under the others: what an encoder makes that tells its decoder the treatment
    none       0: the robust mean is then Eq. ipw

and one propensity: `true`, `estimated` (stratum frequencies of the draw) or `wrong` (frequencies over all cells, which ignore X). Of `restating` no propensity saves the estimate, since its residuals vanish for T = a (`robust`).

    bias     = sqrt(mean_{a,g} (mean_r psi_hat - psi)^2), of which rmse / sqrt(R) is the floor       `Eq. bias-rms`
    rmse     = sqrt(mean_{a,g,r} (psi_hat - psi)^2)                                                   `Eq. rmse-rms`
    coverage = share of (a, g, r) whose 95 % interval (Eq. influence) holds psi

Caution on real cells: scored against the treated mean of the very cells that correct it, the robust mean has R2 near 1 whatever the model, as its correction restates that mean. `halves` scores it on other cells, beside the treated mean
of the correcting cells: only what exceeds that is the model's merit.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gencausal import checks, robust, seeding
from gencausal.data.cell_worlds import CONDITIONS, PROPENSITY, World, make_world

EXPERIMENT, DATASET = "vci.E5", "vci_synthetic"
CHUNK = 2_000_000  # predicted values held at a time


class Draws(NamedTuple):
    """R draws of n cells: outcome [R, n, G], treatment and stratum [R, n], latent [R, n, 5]."""

    outcome: np.ndarray
    treatment: np.ndarray
    stratum: np.ndarray
    latent: np.ndarray


Decoder = Callable[[World, Draws], np.ndarray]


def good(world: World, draws: Draws) -> np.ndarray:
    """E[Y_a | Z] of every cell, [R, n, K, G]."""
    flat = draws.latent.reshape(-1, draws.latent.shape[-1])
    silence = np.zeros((1, draws.outcome.shape[-1]))
    return np.stack([world.respond(flat, np.full(len(flat), a), silence) for a in range(CONDITIONS)], 1).reshape(*draws.treatment.shape, CONDITIONS, -1)


def _biased(truth: np.ndarray, draws: Draws) -> np.ndarray:
    return 0.5 * truth + 0.3 * (1 + draws.latent[..., :1, None])


def biased(world: World, draws: Draws) -> np.ndarray:
    """Half the truth and a bias that follows Z_1."""
    return _biased(good(world, draws), draws)


def out_of_distribution(world: World, draws: Draws) -> np.ndarray:
    """The truth, save that cells of X = 2 are predicted under treatment 2 as under the control."""
    made = good(world, draws)
    made[..., 2, :] = np.where((draws.stratum == 2)[..., None], made[..., 0, :], made[..., 2, :])
    return made


def restating(world: World, draws: Draws) -> np.ndarray:
    """The outcome itself under a cell's own treatment, `biased` under the others."""
    own = draws.treatment[..., None, None] == np.arange(CONDITIONS)[:, None]
    return np.where(own, draws.outcome[..., None, :], biased(world, draws))


def nothing(world: World, draws: Draws) -> np.ndarray:
    """0 everywhere."""
    return np.zeros((*draws.treatment.shape, CONDITIONS, draws.outcome.shape[-1]))


DECODERS: dict[str, Decoder] = {"good": good, "biased": biased, "ood": out_of_distribution, "restating": restating, "none": nothing}


def draw(world: World, replications: int, n: int, rng: np.random.Generator) -> Draws:
    """`replications` draws of n cells of `world`."""
    stratum, treatment, latent, noise = world.draw(replications * n, rng)
    outcome = world.respond(latent, treatment, noise)
    return Draws(*(values.reshape(replications, n, *values.shape[1:]) for values in (outcome, treatment, stratum, latent)))


def propensities(draws: Draws) -> dict[str, np.ndarray]:
    """P(T = a | X) of every cell, [R, n, K]: `true`, `estimated` and `wrong`."""
    return {"true": PROPENSITY[draws.stratum], "estimated": robust.shares(draws.treatment, CONDITIONS, draws.stratum), "wrong": robust.shares(draws.treatment, CONDITIONS)}


def estimates(world: World, draws: Draws, decoders: dict[str, Decoder]) -> dict[tuple[str, str], robust.Estimate]:
    """Estimates [R, K, G] by (decoder, method): plug_in and robust_<propensity> of each decoder; those of `none` are ipw_<propensity>."""
    made, weights = {}, propensities(draws)
    for name, decoder in decoders.items():
        predicted = decoder(world, draws)
        if name != "none":
            made[name, "plug_in"] = robust.plug_in(predicted, draws.treatment)
        for kind, weight in weights.items():
            made[name, f"{'ipw' if name == 'none' else 'robust'}_{kind}"] = robust.robust_mean(draws.outcome, draws.treatment, predicted, weight)
    return made


def rows(worlds: list[int], sizes: tuple[int, ...] = (250, 1000, 4000), replications: int = 200, genes: int = 10, decoders: dict[str, Decoder] | None = None) -> list[dict]:
    """Result rows of every world (its number is the seed): unit "<decoder>, n = <n>", methods of `estimates`, metrics bias_mean, rmse_mean and coverage_95, n = replications that could be estimated, and `computable`, their share.

    genes: outcomes of the world. decoders: `DECODERS` by default; any callable (world, draws) -> [R, n, K, G] may stand beside them, such as one that asks a trained model.
    """
    decoders = DECODERS if decoders is None else decoders
    replications, made = checks.whole(replications, "replications", 2), []
    for number in worlds:
        world = make_world(number, genes)
        truth = world.means().mean(0)
        for n in sizes:
            rng = seeding.numpy_generator(number, "robust-cells", n)
            step = max(1, CHUNK // (n * CONDITIONS * genes))
            parts: dict = {}
            for start in range(0, replications, step):
                for key, estimate in estimates(world, draw(world, min(step, replications - start), n, rng), decoders).items():
                    parts.setdefault(key, []).append(estimate)
            for (name, method), found in parts.items():
                made += _rows(f"{name}, n = {n}", method, number, robust.Estimate(*map(np.concatenate, zip(*found))), truth)
    return made


def _rows(unit: str, method: str, seed: int, estimate: robust.Estimate, truth: np.ndarray) -> list[dict]:
    """Rows of the replications `estimate` [R, K, G] against `truth` [K, G]; a replication with a missing treatment counts in `computable` alone."""
    base = {"experiment": EXPERIMENT, "dataset": DATASET, "unit": unit, "method": method, "seed": seed}
    kept = np.isfinite(estimate.value).all((1, 2))
    made = [base | {"metric": "computable", "value": float(kept.mean()), "n": len(kept)}]
    if not kept.any():
        return made
    error = estimate.value[kept] - truth
    low, high = (end[kept] for end in estimate.interval(0.05))
    values = {"bias_mean": np.sqrt((error.mean(0) ** 2).mean()), "rmse_mean": np.sqrt((error**2).mean()), "coverage_95": ((low <= truth) & (truth <= high)).mean()}
    return made + [base | {"metric": metric, "value": float(value), "n": int(kept.sum())} for metric, value in values.items()]


# ---------------------------------------------------------------- the trap: a score against the mean that the estimate contains


def r2(truth: np.ndarray, found: np.ndarray) -> float:
    """1 - squared error of the mean profile `found [G]` / squared deviation of `truth [G]` from its mean over outcomes (spec vci, 4.1)."""
    return float(1 - ((truth - found) ** 2).sum() / ((truth - truth.mean()) ** 2).sum())


def halves(outcome: np.ndarray, treatment: np.ndarray, stratum: np.ndarray, predicted: np.ndarray, correct: np.ndarray, score: np.ndarray, smallest: int = 10) -> dict[str, float]:
    """Mean R2 over the groups (x, a) with at least `smallest` cells among both `correct` and `score` (row numbers, disjoint, neither seen in fitting the model).

    robust_same: Psi_x(a) of the cells `correct` against their own treated mean; robust: against that of `score`; plug_in: the mean prediction of `correct`, against `score`; treated_mean: that of `correct` against `score`, which needs no model; groups: how many.
    """
    if len(np.intersect1d(correct, score)):
        raise checks.InputError("correct and score share cells; pass disjoint rows, or the robust mean is scored against what it contains.")
    found = robust.stratum_means(outcome[correct], treatment[correct], stratum[correct], predicted[correct], int(stratum.max()) + 1)
    made: dict[str, list] = {"robust_same": [], "robust": [], "plug_in": [], "treated_mean": []}
    for x, a in np.argwhere(found.count >= smallest):
        here, there = (rows[(stratum[rows] == x) & (treatment[rows] == a)] for rows in (correct, score))
        if len(there) < smallest:
            continue
        mean, held = (outcome[rows].astype(np.float64).mean(0) for rows in (here, there))
        plug = predicted[correct[stratum[correct] == x], a].mean(0)
        for name, value in {"robust_same": r2(mean, found.value[x, a]), "robust": r2(held, found.value[x, a]), "plug_in": r2(held, plug), "treated_mean": r2(held, mean)}.items():
            made[name].append(value)
    if not made["robust"]:
        raise checks.InputError(f"stratum and treatment leave no group with {smallest} cells in both halves; pass more cells or a smaller `smallest`.")
    return {name: float(np.mean(values)) for name, values in made.items()} | {"groups": len(made["robust"])}


def untrained(draws: Draws, rng: np.random.Generator, hidden: int = 64) -> np.ndarray:
    """Predictions of a network with random weights that reads (y, a), [R, n, K, G]: a model that learned nothing."""
    genes = draws.outcome.shape[-1]
    enter, code, leave = rng.standard_normal((genes, hidden)) / np.sqrt(genes), rng.standard_normal((CONDITIONS, hidden)), rng.standard_normal((hidden, genes)) / np.sqrt(hidden)
    return np.tanh((draws.outcome @ enter)[..., None, :] + code) @ leave


def trap_rows(worlds: list[int], n: int = 2000, genes: int = 100) -> list[dict]:
    """Result rows of `halves` for an untrained network and for `good` on two halves of n cells of each world: method untrained or good, metrics r2_robust_same, r2_robust, r2_plug_in, r2_treated_mean; n = groups."""
    made = []
    for number in worlds:
        world, rng = make_world(number, genes), seeding.numpy_generator(number, "robust-trap")
        draws = draw(world, 1, n, rng)
        order = rng.permutation(n)
        for method, predicted in {"untrained": untrained(draws, rng), "good": good(world, draws)}.items():
            found = halves(draws.outcome[0], draws.treatment[0], draws.stratum[0], predicted[0], order[: n // 2], order[n // 2:])
            groups = found.pop("groups")
            made += [{"experiment": EXPERIMENT, "dataset": DATASET, "unit": f"halves of {n}", "method": method, "metric": f"r2_{name}", "seed": number, "value": value, "n": groups} for name, value in found.items()]
    return made
