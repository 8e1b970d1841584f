r"""What if covariates are hidden? (reading-list item #21; B3-E2 to B3-E4: A2.C21a, A2.C21e, A2.C21f, A2.C21g)

The bounds of `gencausal.bounds` need the law of Y given the arm and the visible covariates x_v. We take the weighted sample of a regression forest an arm
(Meinshausen 2006), fitted on training rows and read at test rows: weights of the training outcomes by shared leaves, summing to one. The propensity e(x_v) is a
classification forest's, clipped at `CLIP`. Both are ours; #21 amortises its dual with networks. A weighted sample has a smallest and a largest outcome, which is
where finite bounds for unbounded outcomes come from, here as there.

`Eq. 21-dgp` (#21's public code): X ~ U(-2, 2)^5, U ~ N(0, 1), w_j ~ N(0, 0.6^2) fixed;  L = X'w + 0.8 U + 0.5 sin X_0 - 0.25 X_0^2,  e = 0.05 + 0.9 sigmoid(L)
    Y = mu + tau A + 0.7 U + t_3,   mu = 0.5 + 0.8 tanh X_0 + 0.25 X_1^2 - 0.15 sin X_2,   tau = 0.7 + 0.2 sin X_0 + 0.1 X_0 + 0.8 (e - 1/2)
    truth: E[Y | do(a), x] = mu + a E_U[tau], by Gauss-Hermite quadrature (e depends on the hidden U)
"""

from typing import NamedTuple

import numpy as np
from scipy.special import expit
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from gencausal import bounds, checks
from gencausal.data.table import CausalTable
from gencausal.seeding import derive, numpy_generator

CLIP = 0.02
TREES, LEAF = 100, 10
LAWS = {"normal": lambda rng, n: rng.standard_normal(n), "t3": lambda rng, n: rng.standard_t(3, n), "beta22": lambda rng, n: rng.beta(2, 2, n)}


# ---------------------------------------------------------------- samples of one law (C21e, C21g)


def sharpness(sizes: list[int], seeds: list[int], e: float = 0.5, laws: tuple[str, ...] = tuple(LAWS), divergences: tuple[str, ...] = tuple(bounds.DIVERGENCES)) -> list[dict]:
    """Rows of the exact bounds on samples of known laws beside Manski's with the sample's own range.

    unit "n=..."; methods manski and each divergence; metrics width_bound, upper_bound, and for a divergence contains_manski (1 if its interval does). For each seed, law and
    divergence a row of unit=divergence, method=law: width_growth, the width at the largest over that at the smallest size (method "constant": 1).
    """
    rows = []
    for law in laws:
        for seed in seeds:
            sample = LAWS[checks.choice(law, "laws", tuple(LAWS))](numpy_generator(seed, "sharpness", law), max(sizes))
            widths = {}
            for n in sizes:
                low, high = bounds.manski_sample(sample[:n], e)
                rows += _rows("A2.B3-E3", law, f"n={n}", "manski", seed, n, {"width_bound": high - low, "upper_bound": high})
                for name in divergences:
                    below, above = bounds.itb(sample[:n], e, name)
                    tolerance = 1e-9 * np.ptp(sample[:n])
                    widths[name, n] = (above - below).item()
                    contains = ((below <= low + tolerance) & (above >= high - tolerance)).item()
                    rows += _rows("A2.B3-E3", law, f"n={n}", name, seed, n, {"width_bound": above - below, "upper_bound": above, "contains_manski": contains})
            for name in divergences:
                rows += _rows("A2.B3-E3", "growth", name, law, seed, max(sizes), {"width_growth": widths[name, max(sizes)] / widths[name, min(sizes)]})
                if law == laws[0]:
                    rows += _rows("A2.B3-E3", "growth", name, "constant", seed, max(sizes), {"width_growth": 1.0})
    return rows


def mixture(n: int, seeds: list[int], propensities: tuple[float, ...] = (0.1, 0.5, 0.9)) -> list[dict]:
    """Rows of A2.C21g: largest gap between Manski's interval and the exact bound under Q >= e P, relative to the range of the sample; unit law, methods each divergence,
    the `largest` of them, and the `tolerance` 1e-6 that the claim asks for."""
    rows = []
    for law, draw in LAWS.items():
        for seed in seeds:
            sample = draw(numpy_generator(seed, "mixture", law), n)
            e = np.array(propensities)
            exact = np.array(bounds.manski_sample(sample, e))
            gaps = {name: np.abs(np.array(bounds.itb(sample, e, name, floor=True)) - exact).max() / np.ptp(sample) for name in bounds.DIVERGENCES}
            for method, gap in {**gaps, "largest": max(gaps.values()), "tolerance": 1e-6}.items():
                rows += _rows("A2.B3-E3", "mixture", law, method, seed, n, {"manski_gap": gap})
    return rows


# ---------------------------------------------------------------- conditional bounds (C21a, C21f)


class Visible(NamedTuple):
    """Conditional laws of each arm at U points: outcomes phi[a] [n_a], forest weights weights[a] [U, n_a], propensities e [U, 2] of the arms."""

    phi: tuple[np.ndarray, np.ndarray]
    weights: tuple[np.ndarray, np.ndarray]
    e: np.ndarray


def visible_laws(x: np.ndarray, t: np.ndarray, y: np.ndarray, points: np.ndarray, seed: int, leaf: int = LEAF, trees: int = TREES) -> Visible:
    """P(Y | a, x_v) and e_a(x_v) at `points` [U, d], from training rows x [n, d], t [n] in {0, 1}, y [n]."""
    options = {"n_estimators": trees, "min_samples_leaf": leaf, "random_state": derive(seed, "visible") % 2**32}
    phi, weights = [], []
    for arm in (0, 1):
        rows = t == arm
        if rows.sum() < 2 * leaf:
            raise checks.InputError(f"Arm {arm} has {int(rows.sum())} training rows but a forest of leaf {leaf} needs {2 * leaf}; lower leaf.")
        forest = RandomForestRegressor(**options).fit(x[rows], y[rows])
        phi.append(y[rows])
        weights.append(_shared_leaves(forest.apply(points), forest.apply(x[rows])))
    treated = RandomForestClassifier(**options).fit(x, t).predict_proba(points)[:, 1]
    e = np.clip(treated, CLIP, 1 - CLIP)
    return Visible(tuple(phi), tuple(weights), np.stack([1 - e, e], 1))


def _shared_leaves(points: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Forest weights [U, n] from leaf numbers of points [U, trees] and rows [n, trees]: mean over trees of 1{same leaf} / size of the leaf."""
    weights = np.zeros((len(points), len(rows)))
    for here, there in zip(points.T, rows.T):
        size = np.bincount(there, minlength=here.max() + 1)
        weights += (here[:, None] == there) / size[here][:, None]
    return weights / points.shape[1]


def interval(laws: Visible, method: str) -> tuple[np.ndarray, np.ndarray]:
    """(low, high), each [U, 2], of E[Y | do(a), x_v] for both arms; method: manski (with the range of the local sample) or a divergence."""
    arms = [bounds.manski_sample(phi, laws.e[:, a], w) if method == "manski" else bounds.itb(phi, laws.e[:, a], method, w) for a, (phi, w) in enumerate(zip(laws.phi, laws.weights))]
    return tuple(np.stack(side, 1) for side in zip(*arms))


def effects(interval: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Bounds [U] on the effect from the (low, high) [U, 2] of the arms."""
    low, high = interval
    return bounds.effect((low[:, 0], high[:, 0]), (low[:, 1], high[:, 1]))


def hidden_covariates(tables: list[CausalTable], estimates: dict[str, np.ndarray], visible: int, seed: int, units: int = 150, leaf: int = LEAF, trees: int = TREES,
                      divergences: tuple[str, ...] = tuple(bounds.DIVERGENCES)) -> list[dict]:
    """Rows of A2.C21f: are point estimates that used all covariates inside the bounds that see the first `visible` columns only?

    estimates: method -> mu [S, n, 2] of every row of every table. At most `units` test rows of a table are bounded. Methods: those of estimates and `truth` (mu itself), with shares
    of row x arm pairs inside Manski's interval and inside the intersection of the divergences' (inside_manski, inside_itb), and of effects inside theirs
    (.._effect). `_visible` marks the same shares for the estimate averaged given x_v (a forest of mu_hat on x_v over training rows), which is what the bounds speak of; the plain ones
    take the estimate of the unit itself, as #21's released code takes its truth. Widths: methods manski and each divergence, metrics width_bound, width_effect.
    `pooled` is the mean share over the methods of `estimates`, `nominal` the 95 % that the claim asks for.
    """
    sizes = {name: np.shape(mu) for name, mu in estimates.items() if np.shape(mu) != (len(tables), len(tables[0].y), 2)}
    if sizes:
        name, shape = next(iter(sizes.items()))
        raise checks.InputError(f"estimates['{name}'] has shape {shape}; give mu of every row of every table, {(len(tables), len(tables[0].y), 2)}.")
    rows = []
    for i, table in enumerate(tables):
        checks.whole(visible, "visible", 1, table.x.shape[1] - 1)
        x, train = table.x[:, :visible], table.train
        test = np.sort(numpy_generator(seed, "hidden", table.name, table.unit).permutation(table.test)[:units])
        laws = visible_laws(x[train], table.t[train], table.y[train], x[test], seed, leaf, trees)
        found = {name: interval(laws, name) for name in ("manski", *divergences)}
        itb = bounds.intersect(*(np.stack(side) for side in zip(*(found[name] for name in divergences))))
        of_effects = {name: effects(found[name]) for name in found}
        itb_effects = bounds.intersect(*(np.stack(side) for side in zip(*(of_effects[name] for name in divergences))))
        record = lambda method, values: _rows("A2.B3-E4", table.name, table.unit, method, seed, len(test), values)  # noqa: E731, B023
        for name in found:
            rows += record(name, {"width_bound": (found[name][1] - found[name][0]).mean(), "width_effect": (of_effects[name][1] - of_effects[name][0]).mean()})
        for method, mu in {**{name: mu[i] for name, mu in estimates.items()}, "truth": table.mu}.items():
            forest = RandomForestRegressor(n_estimators=trees, min_samples_leaf=leaf, random_state=derive(seed, "visible") % 2**32)
            averaged = forest.fit(x[train], mu[train]).predict(x[test])
            for suffix, value in (("", mu[test]), ("_visible", averaged)):
                tau = value[:, 1] - value[:, 0]
                rows += record(method, {f"inside_manski{suffix}": _inside(found["manski"], value), f"inside_itb{suffix}": _inside(itb, value),
                                        f"inside_manski_effect{suffix}": _inside(of_effects["manski"], tau), f"inside_itb_effect{suffix}": _inside(itb_effects, tau)})
        mine = [r for r in rows if (r["unit"], r["dataset"]) == (table.unit, table.name) and r["method"] in estimates]
        rows += record("pooled", {metric: np.mean([r["value"] for r in mine if r["metric"] == metric]) for metric in sorted({r["metric"] for r in mine})})
        rows += record("nominal", {f"inside_{bound}{of}{suffix}": 0.95 for bound in ("manski", "itb") for of in ("", "_effect") for suffix in ("", "_visible")})
    return rows


def own_design(n: int, seed: int, points: int = 200) -> dict[str, np.ndarray]:
    """A sample of Eq. 21-dgp: x [n, 5], t [n], y [n]; and new points [points, 5] with their truth E[Y | do(a), x] [points, 2] and e(x) [points]."""
    rng = numpy_generator(seed, "21-dgp")
    w = 0.6 * numpy_generator(0, "21-dgp-w").standard_normal(5)
    x, u = rng.uniform(-2, 2, (n + points, 5)), rng.standard_normal(n)
    mu = 0.5 + 0.8 * np.tanh(x[:, 0]) + 0.25 * x[:, 1] ** 2 - 0.15 * np.sin(x[:, 2])
    base = x @ w + 0.5 * np.sin(x[:, 0]) - 0.25 * x[:, 0] ** 2
    fixed = 0.7 + 0.2 * np.sin(x[:, 0]) + 0.1 * x[:, 0]
    e = 0.05 + 0.9 * expit(base[:n] + 0.8 * u)
    t = (rng.random(n) < e).astype(np.int64)
    y = mu[:n] + (fixed[:n] + 0.8 * (e - 0.5)) * t + 0.7 * u + rng.standard_t(3, n)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    mean_e = (0.05 + 0.9 * expit(base[n:, None] + 0.8 * nodes)) @ (weights / weights.sum())
    truth = np.stack([mu[n:], mu[n:] + fixed[n:] + 0.8 * (mean_e - 0.5)], 1)
    return {"x": x[:n], "t": t, "y": y, "points": x[n:], "truth": truth, "e": mean_e}


def coverage_own(sizes: list[int], seeds: list[int], leaf: int = LEAF, points: int = 200, trees: int = TREES, divergences: tuple[str, ...] = tuple(bounds.DIVERGENCES)) -> list[dict]:
    """Rows of A2.C21a on Eq. 21-dgp: share of new points whose truth lies inside (`inside`, arm 1 as in #21, and `inside_effect`), widths; methods manski, each divergence, nominal."""
    rows = []
    for n in sizes:
        for seed in seeds:
            made = own_design(n, seed, points)
            laws = visible_laws(made["x"], made["t"], made["y"], made["points"], seed, leaf, trees)
            for name in ("manski", *divergences):
                low, high = interval(laws, name)
                effect, truth = effects((low, high)), made["truth"]
                rows += _rows("A2.B3-E2", "itb_design", f"n={n}", name, seed, points, {
                    "inside": _inside((low[:, 1], high[:, 1]), truth[:, 1]), "inside_effect": _inside(effect, truth[:, 1] - truth[:, 0]),
                    "width_bound": (high - low)[:, 1].mean(), "width_effect": (effect[1] - effect[0]).mean()})
            rows += _rows("A2.B3-E2", "itb_design", f"n={n}", "nominal", seed, points, {"inside": 0.95, "inside_effect": 0.95})
    return rows


def _inside(interval: tuple[np.ndarray, np.ndarray], value: np.ndarray) -> float:
    """Share of values inside (low, high), all of one shape."""
    return float(((interval[0] <= value) & (value <= interval[1])).mean())


def _rows(experiment: str, dataset: str, unit: str, method: str, seed: int, n: int, values: dict) -> list[dict]:
    return [{"experiment": experiment, "dataset": dataset, "unit": unit, "method": method, "metric": metric, "seed": seed, "value": float(np.squeeze(value)), "n": n}
            for metric, value in values.items()]
