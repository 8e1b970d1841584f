r"""Does an 8-bit network change the causal answer? (reading-list item #20; B1-E6: A2.C20a, A2.C20c, A2.C20d)

Teacher and one-step generator are quantised after training (`gencausal.quantize`), weights and activations at the same bits, and answer the
same questions at the same stratified noise. With tau_hat from medians of draws and errors r_i = tau_hat_i - tau_i of the test rows:

`Eq. shift`:   |PEHE_b - PEHE_float| beside the bootstrap standard error of PEHE_float over test rows; the same for the ATE, whose error is mean r
`Eq. change`:  ate_change = |ATE_b - ATE_float| / |ATE_float|;   w2_change = |W2_b - W2_float| / W2_float, W2 between all draws of an arm and the
               realised potential outcomes of the test rows, averaged over arms (in one dimension sliced W2 is W2)
`Eq. cancel`:  corr over test rows of the errors mu_b - mu_float of the two arms: above 0, the difference of arms loses part of them
"""

from dataclasses import replace

import numpy as np

from gencausal import metrics, quantize
from gencausal.data.stack import Outcomes, table_rows
from gencausal.data.table import CausalTable
from gencausal.diffusion import Denoiser
from gencausal.estimators.outcomes import potential_draws
from gencausal.sampling import stratified_normal
from gencausal.schedules import karras_sigmas
from gencausal.seeding import numpy_generator

EXPERIMENT = "A2.B1-E6"
CHUNK = 2**15  # draws at once: the extra passes of the quantiser stay in cache


def _part(table: CausalTable, units: int, seed: int) -> CausalTable:
    """`table` with at most `units` of its test rows, drawn with `seed`."""
    return replace(table, test=np.sort(numpy_generator(seed, "quantised", table.name, table.unit).permutation(table.test)[:units]))


def calibration(kind: str, data: Outcomes, denoiser: Denoiser, seed: int, steps: int = 18, sigma_init: float = 2.5, n: int = 1024) -> quantize.Calibration:
    """A calibration set of kind `kind` from the fit rows of `data`, one stream a slice."""
    x, z, y = (table_rows(v, data.fit) for v in (data.x, data.z, data.y))
    return quantize.calibration_set(kind, denoiser, x, z, y, karras_sigmas(steps, device=data.device), data.generators(seed, f"quantise-{kind}"), sigma_init, n)


def quantised(data: Outcomes, tables: list[CausalTable], models: dict, bits: list[int], seed: int, draws: int = 50, steps: int = 18, sigma_init: float = 2.5,
              units: int = 200, resamples: int = 1000) -> list[dict]:
    """Rows of every model, float and quantised, on the test rows of every table.

    models: name -> (denoiser stack, draw function, calibration kind), such as {"iwdd": (generator, generator_draws(2.5), "one_step")}. bits: of weights and
    activations. units: test rows of a table at most, drawn with seed. Methods are name_float, name_8bit, ...; `name_se` holds the bootstrap standard errors of the float model beside the shifts;
    relative_change repeats ate_change and w2_change as methods name_8bit_ate, name_8bit_w2, so that a rule can compare them.
    """
    tables = [_part(table, units, seed) for table in tables]
    covariates = np.stack([t.x[t.test] for t in tables])
    eps = stratified_normal(draws, data.device)
    rows = []
    for name, (denoiser, draw, kind) in models.items():
        shown = calibration(kind, data, denoiser, seed, steps, sigma_init)
        whole = potential_draws(data, denoiser, draw, covariates, eps, CHUNK)
        for b in (None, *bits):
            sample = whole if b is None else potential_draws(data, quantize.quantise(denoiser, shown, b), draw, covariates, eps, CHUNK)
            size = quantize.size_in_bytes(denoiser, 32 if b is None else b)
            for table, mine, exact in zip(tables, sample, whole):
                rows += _rows(table, f"{name}_float" if b is None else f"{name}_{b}bit", seed, _measures(table, mine) | {"bytes": size})
                if b is not None:
                    shifts = _shifts(table, mine, exact)
                    rows += _rows(table, f"{name}_{b}bit", seed, shifts)
                    rows += [row for what in ("ate", "w2") for row in _rows(table, f"{name}_{b}bit_{what}", seed, {"relative_change": shifts[f"{what}_change"]})]
        for table, exact in zip(tables, whole):
            rows += _rows(table, f"{name}_se", seed, _standard_errors(table, exact, seed, resamples))
    return rows


def calibrations(data: Outcomes, tables: list[CausalTable], teacher: Denoiser, draw, bits: list[int], seeds: list[int], draws: int = 50, steps: int = 18,
                 units: int = 200, kinds: tuple[str, ...] = quantize.SETS[:-1]) -> list[dict]:
    """How the calibration set moves the teacher's law: mean W2 between quantised and float draws of the test rows; method "kind, b bit", one seed a calibration set."""
    tables = [_part(table, units, seeds[0]) for table in tables]
    covariates = np.stack([t.x[t.test] for t in tables])
    eps = stratified_normal(draws, data.device)
    whole = potential_draws(data, teacher, draw, covariates, eps, CHUNK)
    rows = []
    for kind in kinds:
        for seed in seeds:
            shown = calibration(kind, data, teacher, seed, steps)
            for b in bits:
                sample = potential_draws(data, quantize.quantise(teacher, shown, b), draw, covariates, eps, CHUNK)
                for table, mine, exact in zip(tables, sample, whole):
                    rows += _rows(table, f"{kind}_{b}bit", seed, {"w2": _law_shift(mine, exact)})
    return rows


def _effects(table: CausalTable, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(tau_hat from medians of draws [n, K, M], tau) of the test rows."""
    median, mu = np.median(draws, -1), table.mu[table.test]
    return median[:, 1] - median[:, 0], mu[:, 1] - mu[:, 0]


def _law_error(table: CausalTable, draws: np.ndarray) -> float:
    """W2 between all draws of an arm and the potential outcomes of the test rows, averaged over arms."""
    realised = table.potential[table.test]
    return float(np.mean([metrics.wasserstein2_samples(draws[:, k].reshape(1, -1), realised[:, k][None]) for k in range(draws.shape[1])]))


def _law_shift(draws: np.ndarray, other: np.ndarray) -> float:
    """Mean over units and arms of W2 between two sets of draws [n, K, M]: both sorted, matched rank by rank."""
    return float(np.sqrt(((np.sort(draws, -1) - np.sort(other, -1)) ** 2).mean(-1)).mean())


def _measures(table: CausalTable, draws: np.ndarray) -> dict[str, float]:
    tau_hat, tau = _effects(table, draws)
    factual = draws[np.arange(len(table.test)), table.t[table.test]]
    return {"pehe_normalised": metrics.pehe_normalised(tau_hat, tau, table.mu), "ate_error": metrics.ate_error(tau_hat, tau),
            "crps": metrics.crps(factual, table.y[table.test], fair=False)}


def _shifts(table: CausalTable, draws: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    """What quantisation changed (Eq. shift, change, cancel)."""
    (tau_hat, tau), (tau_exact, _) = _effects(table, draws), _effects(table, exact)
    arms = np.median(draws, -1) - np.median(exact, -1)
    law, law_exact = _law_error(table, draws), _law_error(table, exact)
    moved = {"pehe_shift": abs(metrics.pehe_normalised(tau_hat, tau, table.mu) - metrics.pehe_normalised(tau_exact, tau, table.mu)),
             "ate_shift": abs(tau_hat.mean() - tau_exact.mean()), "w2": _law_shift(draws, exact),
             "ate_change": abs(tau_hat.mean() - tau_exact.mean()) / abs(tau_exact.mean()), "w2_change": abs(law - law_exact) / law_exact}
    if arms[:, :2].std(0).min() > 0:
        moved["arm_error_correlation"] = float(np.corrcoef(arms[:, 0], arms[:, 1])[0, 1])
    return moved


def _standard_errors(table: CausalTable, draws: np.ndarray, seed: int, resamples: int) -> dict[str, float]:
    """Bootstrap standard errors over test rows of the normalised PEHE and of the ATE error."""
    tau_hat, tau = _effects(table, draws)
    error = tau_hat - tau
    picked = error[numpy_generator(seed, "quantise-bootstrap", table.unit).integers(len(error), size=(resamples, len(error)))]
    return {"pehe_shift": float(np.sqrt((picked**2).mean(1)).std(ddof=1) / table.mu.std()), "ate_shift": float(picked.mean(1).std(ddof=1))}


def _rows(table: CausalTable, method: str, seed: int, values: dict[str, float]) -> list[dict]:
    return [{"experiment": EXPERIMENT, "dataset": table.name, "unit": table.unit, "method": method, "metric": metric, "seed": seed, "value": float(value), "n": len(table.test)}
            for metric, value in values.items()]
