r"""Is the latent of a trained model independent of the treatment given the covariates? (spec vci, E4: C5; nulls of reading list #18)

Held-out cells (y, t, x) are encoded by every variant; z, as posterior mean and as one sample of it, goes through the measures of `independence`, within strata. Beside the variants stand

    collapsed    z constant: independent and useless, so a variant that ties with it in reconstruction and probe of X has shown nothing
    appended     z of the first variant and the code of t scaled to z's own spread: leaks by construction, and every measure must see it
    outcome      20 principal components of y, fitted on the training rows: what can be read before any model
    true_latent  the simulator's z, where it is known: what an ideal encoder leaves, sampling error included
    <variant>_untrained  mean over B re-initialised networks put through the same search; p of the trained value among them (Eq. monte-carlo-p), large (`..._network_p`) or small (`..._network_p_below`) being surprising

All variants are measured on the same cells with the same folds, random units and permutations, so that their differences are paired. A row's p is Fisher's over strata, `..._holm` the smallest of Holm's.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from sklearn.decomposition import PCA

from gencausal import checks, independence, nulls, seeding
from gencausal.data.cell_table import CellTable

EXPERIMENT = "vci.E4"
COMPONENTS = 20
LEAKS = ("probe_linear", "probe_hidden", "auc_linear", "auc_hidden", "hsic", "nhsic", "mmd", "mutual_information")
INFORMS = ("probe_x_linear", "probe_x_hidden")
SUFFIXES = ("", "_p", "_holm", "_network_p", "_network_p_below")
METRICS = {f"leak_{name}{suffix}": suffix in ("_p", "_holm", "_network_p") for name in LEAKS for suffix in SUFFIXES} | {f"{name}{suffix}": suffix in ("", "_network_p_below") for name in INFORMS for suffix in SUFFIXES}
METRICS |= {"reconstruction_r2": True, "round_trip": False, "composition": False, "reversibility": False}  # name: higher is better

Encode = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray | None]]


class Variant(NamedTuple):
    """A trained model as functions of arrays, outcome [n, G], treatment [n, T], covariates [n, C], all in evaluation mode.

    encode -> (mean, sd) of q(z | y, t, x), [n, L] each, sd None where z is deterministic. predict(outcome, treatment, covariates, treatment_cf) -> [n, G], None to leave out what it is needed for.
    make: an untrained `encode` from a seed, for the null; None to leave it out.
    """

    encode: Encode
    predict: independence.Predict | None = None
    make: Callable[[int], Encode] | None = None


def held_out(table: CellTable, n_max: int | None, rng: np.random.Generator) -> np.ndarray:
    """Test rows of `table`, at most `n_max` of them drawn by `rng`, in rising order."""
    return table.test if n_max is None or len(table.test) <= n_max else np.sort(rng.permutation(table.test)[: checks.whole(n_max, "n_max")])


def latents(variant: Variant, arrays: tuple, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Posterior mean ("") and one sample ("_sample", where there is a spread) of the latent, [n, L] each."""
    mean, sd = variant.encode(*arrays)
    mean = np.asarray(mean, np.float64)
    return {"": mean} if sd is None else {"": mean, "_sample": mean + np.asarray(sd, np.float64) * rng.standard_normal(mean.shape)}


def rows(table: CellTable, variants: dict[str, Variant], seed: int, permutations: int = 200, n_max: int | None = 1000, networks: int = 19, each_stratum: bool = False) -> list[dict]:
    """Result rows of all `variants` and controls on the test rows of `table`: dataset its name, unit its unit (", <stratum>" after it where `each_stratum`), methods "<variant>", "<variant>_sample", controls; metrics in `METRICS`; `seed` labels the run and draws.

    networks: B of the re-initialised null, for variants with `make`; 0 leaves it out. Measures of one latent take about a second at n_max = 1000.
    """
    if not variants:
        raise checks.InputError("variants is empty; pass at least one Variant to measure.")
    held = held_out(table, n_max, seeding.numpy_generator(seed, "leakage-cells"))
    arrays = table.outcome[held], table.treatment[held], table.covariates[held]
    other = _other_condition(table, held, seeding.numpy_generator(seed, "leakage-treatment"))
    made: list[dict] = []

    def row(method: str, metric: str, value: float, n: int, unit: str = table.unit) -> dict:
        return {"experiment": EXPERIMENT, "dataset": table.name, "unit": unit, "method": method, "metric": metric, "seed": seed, "value": float(value), "n": int(n)}

    def measured(method: str, z: np.ndarray) -> dict[str, float]:
        found = _measure(z, table, held, seed, permutations)
        for one in found:
            if one["arm"] is None and (one["stratum"] == "all" or each_stratum):
                unit = table.unit if one["stratum"] == "all" else f"{table.unit}, {table.strata[one['stratum']]}"
                made.extend(row(method, _metric(one["measure"]) + suffix, one[key], one["n"], unit) for suffix, key in (("", "value"), ("_p", "p"), ("_holm", "p_holm")))
        return {_metric(name): value for name, value in _overall(found).items()}

    first = None
    for name, variant in variants.items():
        for suffix, z in latents(variant, arrays, seeding.numpy_generator(seed, "leakage-sample")).items():
            first = z if first is None else first
            observed = measured(name + suffix, z)
            if variant.make is not None and networks and not suffix:
                null = untrained(table, held, variant.make, seed, networks)
                for column, (metric, value) in zip(null.T, observed.items()):
                    made += [row(name, f"{metric}_network_p", nulls.monte_carlo_p(value, column), networks), row(name, f"{metric}_network_p_below", nulls.monte_carlo_p(-value, -column), networks), row(f"{name}_untrained", metric, column.mean(), networks)]
        if variant.predict is not None:
            made += [row(name, metric, value, len(held)) for metric, value in _predictions(variant, arrays, table.condition_treatment[other]).items() if np.isfinite(value)]
    spread = np.sqrt(first.var(0).sum()) or 1.0
    pca = PCA(min(COMPONENTS, table.outcome.shape[1], len(table.train)), random_state=0).fit(table.outcome[table.train])
    controls = {"collapsed": np.zeros((len(held), 1)), "appended": np.concatenate([first, spread * np.eye(len(table.conditions))[table.condition[held]]], 1), "outcome": pca.transform(arrays[0])}
    if table.latent is not None:
        controls["true_latent"] = table.latent[held]
    for name, z in controls.items():
        measured(name, z)
    reconstructed = {"collapsed": np.broadcast_to(table.outcome[table.train].mean(0), arrays[0].shape), "outcome": pca.inverse_transform(controls["outcome"])}
    return made + [row(name, "reconstruction_r2", independence.reconstruction_r2(arrays[0], values), len(held)) for name, values in reconstructed.items()]


def untrained(table: CellTable, held: np.ndarray, make: Callable[[int], Encode], seed: int, networks: int) -> np.ndarray:
    """Every measure over all strata of the posterior mean of re-initialised encoders, [networks, m], in the order of `independence.measure`; the same cells, folds and random units as the trained one."""
    arrays = table.outcome[held], table.treatment[held], table.covariates[held]

    def score(encode: Encode) -> np.ndarray:
        return np.array(list(_overall(_measure(encode(*arrays)[0], table, held, seed, 1)).values()))

    return nulls.reinitialised(make, score, [seeding.derive(seed, "leakage-network", b) % 2**31 for b in range(networks)])


def _measure(z: np.ndarray, table: CellTable, held: np.ndarray, seed: int, permutations: int) -> list[dict]:
    return independence.measure(z, table.condition[held], table.stratum[held], seeding.numpy_generator(seed, "leakage-measure"), permutations, control=table.control)


def _overall(found: list[dict]) -> dict[str, float]:
    """Value over all strata by measure."""
    return {one["measure"]: one["value"] for one in found if one["stratum"] == "all"}


def _metric(measure: str) -> str:
    return f"leak_{measure}" if measure in LEAKS else measure


def _other_condition(table: CellTable, held: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A condition other than a cell's own, uniform among those with training cells (all where only one has), [n]."""
    seen = np.unique(table.condition[table.train])
    seen = seen if len(seen) > 1 else np.arange(len(table.conditions))
    pick = rng.integers(len(seen) - 1, size=len(held)) if len(seen) > 1 else np.zeros(len(held), int)
    at = np.searchsorted(seen, table.condition[held])
    known = seen[np.minimum(at, len(seen) - 1)] == table.condition[held]
    return seen[np.where(known & (pick >= at), pick + 1, pick) % len(seen)]


def _predictions(variant: Variant, arrays: tuple, treatment_cf: np.ndarray) -> dict[str, float]:
    """Reconstruction, composition, reversibility and round trip of a variant under `treatment_cf [n, T]`."""

    def encode(*inputs) -> np.ndarray:
        return np.asarray(variant.encode(*inputs)[0], np.float64)

    def predict(*inputs) -> np.ndarray:
        return np.asarray(variant.predict(*inputs))

    outcome, treatment, covariates = arrays
    return {"reconstruction_r2": independence.reconstruction_r2(outcome, predict(*arrays, treatment)), "composition": independence.composition(predict, *arrays),
            "reversibility": independence.reversibility(predict, *arrays, treatment_cf), "round_trip": independence.round_trip(encode, predict, *arrays, treatment_cf)}
