r"""Which of these counterfactual images are made up? Scores that a user has without the truth, against the error that the pixel oracle sees (spec second_act, B2-E4: A2.C27d; control of B2-E3).

Notation: denoised images x0_i = E[x_0 | x_t] at the steps i = 1 ... N of guided sampling, true counterfactual factors z_bar, their readings z_read by the oracle.

    Hal_K(x) = mean over pixels of the variance of x0_i over the last K steps, K = min(10, N/2)                      `Eq. hal`       (reading list #27)
    reconstruction = mean |round trip of the factual image through DDIM inversion - image| on the scale 0 to 255     `Eq. round-trip`
    residual = ||z_bar_hat - z_hat(x_bar)||, the guide's own reading of what it made, beside what it aimed at         `Eq. residual`  (ours: a score that costs one reading)
    disagreement = ||z_hat(x0_N) - z_hat(x0_{N/2})||, the guide's reading half way and at the end
    three_features = robust Mahalanobis distance of the logs of Hal, residual and disagreement                        `Eq. three`     (inspired by reading list #28, whose three features need a language model)
    factor error = mean_i |z_read_i - z_bar_i| in sd, unreadable factors counted as image_metrics.MISSING

`Eq. spearman`: mean over units of r(score) r(error), r the ranks within a target, standardised to mean 0 and variance 1. Result rows hold block means of the product, averaged over the targets of a unit, so
that their mean is the correlation and an interval over blocks is one over units. Ranks are held fixed in it; `differences` resamples units and ranks anew.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from sklearn.covariance import MinCovDet

from gencausal import image_metrics, seeding, solvers
from gencausal.counterfactual import Sampling, abduct, guided, read
from gencausal.data.toys import gaussians_25
from gencausal.experiments.pictures import WORLDS, Bench, blocks
from gencausal.guidance import Guide, ImageDenoiser

EXPERIMENT, CONTROL = "A2.B2-E4", "A2.B2-E3"
SCORES = ("hal", "reconstruction", "residual", "three_features")
MISSED = 0.5  # sd of a factor beyond which an image is said to miss the truth
MARGIN = 0.05  # share of a factor's range that it may lie outside of
KEPT = 0.96


def last_steps(steps: int) -> int:
    """K of Eq. hal for a trajectory of `steps`: min(10, N/2), at least 2."""
    return max(2, min(10, steps // 2))


def reading_errors(bench: Bench, images: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    """|z_read - z_bar| of every factor, [N, n] in sd, by the oracle of `bench`; `MISSING` where a factor cannot be read."""
    found = bench.oracle(images)
    return np.where(np.isnan(found), image_metrics.MISSING, np.abs(found - truth.numpy()))


def outside(bench: Bench, images: torch.Tensor) -> np.ndarray:
    """Images of which a factor is unreadable or lies outside its range by more than `MARGIN` of it, [N]: made up whatever the truth."""
    found = WORLDS[bench.world].read(images.cpu()).numpy()
    low, high = (np.array([WORLDS[bench.world].RANGES[name][side] for name in bench.scenes.names]) for side in (0, 1))
    room = MARGIN * (high - low)
    return (np.isnan(found) | (found < low - room) | (found > high + room)).any(1)


def watched(bench: Bench, denoiser: ImageDenoiser, guide: Guide, sampling: Sampling, seed: int, batch: int = 50) -> pd.DataFrame:
    """Every unit of `bench` under every target, drawn by the guided method: columns target, unit, hal_<K> for several K, hal, reconstruction, residual, disagreement, three_features, error, missed, outside."""
    grid, lasts = sampling.grid(), sorted({k for k in (2, 5, 10, 20, sampling.steps // 2, last_steps(sampling.steps)) if 2 <= k <= sampling.steps})
    frames: dict[str, list[pd.DataFrame]] = {target: [] for target in bench.targets}
    for start in range(0, len(bench.images), batch):
        part = slice(start, start + batch)
        x = 2 * bench.images[part] - 1
        with torch.no_grad():
            noise = abduct(denoiser, x, grid)
            back = (solvers.ddim(denoiser, noise, grid).clamp(-1, 1) + 1) / 2
        for target, (node, values, truth, _) in bench.targets.items():
            found: dict[str, np.ndarray] = {}
            trace: list[torch.Tensor] = []
            with torch.no_grad():
                aim = guide.scm.counterfactual(read(guide, x, grid, denoiser), {node: values[part].to(x)})
            drawn = (guided(denoiser, guide, noise, aim, sampling, grid, rng=seeding.generator(seed, "draw", target, start, device=x.device), trace=trace) + 1) / 2
            readings = [read(guide, image, grid, denoiser) for image in (2 * drawn - 1, trace[-1], trace[len(trace) // 2])]
            for k in lasts:
                found[f"hal_{k}"] = image_metrics.hallucination(torch.stack(trace[-k:]).cpu().numpy())
            error = reading_errors(bench, drawn, truth[part])
            found |= {"reconstruction": image_metrics.composition(back.cpu(), bench.images[part].cpu()), "residual": (aim - readings[0]).norm(dim=1).cpu().numpy(),
                      "disagreement": (readings[1] - readings[2]).norm(dim=1).cpu().numpy(), "error": error.mean(1), "missed": (error > MISSED).any(1), "outside": outside(bench, drawn)}
            frames[target].append(pd.DataFrame({"target": target, "unit": np.arange(len(bench.images))[part]} | found))
    made = pd.concat([frame for group in frames.values() for frame in group], ignore_index=True)
    made["hal"] = made[f"hal_{last_steps(sampling.steps)}"]
    made["three_features"] = np.concatenate([three_features(group[["hal", "residual", "disagreement"]].to_numpy()) for _, group in made.groupby("target", sort=False)])
    return made


def three_features(features: np.ndarray) -> np.ndarray:
    """Robust Mahalanobis distance of the logs of `features [N, 3]`, [N] (Eq. three); the centre and the shape are those of the half of the units that lie closest together."""
    logs = np.log(np.maximum(features, 1e-12))
    return np.sqrt(np.maximum(MinCovDet(random_state=0).fit(logs).mahalanobis(logs), 0))


# ---------------------------------------------------------------- how good is a score?


def standardised_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks along the last axis with mean 0 and variance 1; ties share their mean rank. NaN where all are equal."""
    ranks = rankdata(values, axis=-1)
    ranks = ranks - ranks.mean(-1, keepdims=True)
    spread = np.sqrt((ranks**2).mean(-1, keepdims=True))
    return np.where(spread > 0, ranks / np.where(spread > 0, spread, 1), np.nan)


def _wide(frame: pd.DataFrame, column: str) -> np.ndarray:
    """`column` as [targets, units]."""
    return frame.pivot(index="target", columns="unit", values=column).to_numpy()


def agreement(frame: pd.DataFrame, score: str) -> np.ndarray:
    """Each unit's part in the rank correlation of `score` with the error, [units], mean over targets; their mean is Spearman's correlation (Eq. spearman)."""
    return (standardised_ranks(_wide(frame, score)) * standardised_ranks(_wide(frame, "error"))).mean(0)


def differences(frame: pd.DataFrame, against: str = "reconstruction", resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Spearman's correlation of every score with the error, within targets, and how much it exceeds that of `against`, with 95 % intervals over resampled units, ranked anew."""
    error = _wide(frame, "error")
    picks = seeding.numpy_generator(seed, "trust-bootstrap").integers(0, error.shape[1], (resamples, error.shape[1]))
    names = [name for name in frame.columns if name in SCORES or name.startswith("hal_") or name == "disagreement"]
    drawn = {name: _mean_where_defined(np.stack([(standardised_ranks(row[picks]) * standardised_ranks(e[picks])).mean(1) for row, e in zip(_wide(frame, name), error)])) for name in names}
    rows = []
    for name in names:
        low, high = np.quantile(drawn[name], [0.025, 0.975])
        gap = np.quantile(drawn[name] - drawn[against], [0.025, 0.975])
        rows.append({"score": name, "spearman": float(agreement(frame, name).mean()), "low": low, "high": high, f"minus {against}": float(agreement(frame, name).mean() - agreement(frame, against).mean()), "gap low": gap[0], "gap high": gap[1]})
    return pd.DataFrame(rows)


def _mean_where_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is not NaN; NaN where nothing is left."""
    defined = ~np.isnan(values)
    return np.where(defined.any(0), np.where(defined, values, 0.0).sum(0) / np.maximum(defined.sum(0), 1), np.nan)


def kept(score: np.ndarray, share: float = KEPT) -> np.ndarray:
    """Which of the images stay when those of the highest `score [N]` go, [N] of bool: `share` of them, at least one dropped."""
    drop = max(1, round((1 - share) * len(score)))
    stays = np.ones(len(score), dtype=bool)
    stays[np.argsort(score, kind="stable")[len(score) - drop:]] = False
    return stays


def rows(bench: Bench, frame: pd.DataFrame, seed: int) -> list[dict]:
    """Result rows of `watched`: `spearman` of every score in blocks of units; `auroc` of every score for images that miss the truth and that leave the support (method "<score>_outside"); shares of both; `factor_error`
    of what is kept ("kept_<score>", "kept_all", and the best possible, "kept_truth"), and the share of missed images among those dropped."""
    made: list[dict] = []
    for name in [*SCORES, "disagreement", *(c for c in frame.columns if c.startswith("hal_"))]:
        made += blocks(bench.name, "all", name, seed, EXPERIMENT, {"spearman": agreement(frame, name)})

    def row(target: str, method: str, metric: str, value: float, n: int) -> list[dict]:
        return [] if np.isnan(value) else [{"experiment": EXPERIMENT, "dataset": bench.name, "unit": target, "method": method, "metric": metric, "seed": seed, "value": float(value), "n": n}]

    for target, group in frame.groupby("target", sort=False):
        n, missed, error = len(group), group["missed"].to_numpy(), group["error"].to_numpy()
        made += row(target, "missed", "hallucination_rate", missed.mean(), n) + row(target, "outside", "hallucination_rate", group["outside"].mean(), n)
        made += row(target, "kept_all", "factor_error", error.mean(), n)
        for name in SCORES:
            score = group[name].to_numpy()
            made += row(target, name, "auroc", image_metrics.auroc(score, missed), n) + row(target, f"{name}_outside", "auroc", image_metrics.auroc(score, group["outside"].to_numpy()), n)
        for name, score in ({name: group[name].to_numpy() for name in SCORES} | {"truth": error}).items():
            stays = kept(score)
            made += row(target, f"kept_{name}", "factor_error", error[stays].mean(), int(stays.sum()))
            made += row(target, f"kept_{name}", "share_removed", missed[~stays].sum() / missed.sum() if missed.any() else np.nan, n)
    return made


# ---------------------------------------------------------------- negative control


def exact_control(seeds: list[int], starts: int = 500, steps: tuple[int, ...] = (10, 20, 50, 999)) -> list[dict]:
    """Hal where the score is exact, on 25 Gaussians (Eq. grid-denoiser): the share of endpoints more than six sds from every mode, mean Hal of the others, AUROC of Hal where there are both.

    With every level there is no hallucination, and Hal has nothing to find; with few steps there are, and none comes from a learned score.
    """
    toy, levels, made = gaussians_25(), solvers.vp_levels(), []
    for seed in seeds:
        start = torch.randn(starts, 2, generator=seeding.generator(seed, "trust-control"), dtype=torch.float64)
        for n in steps:
            end, hal = toy_trajectory(toy.denoise, start, solvers.grid(levels, n))
            far = (toy.distance(end) > 6).numpy()
            values = {"hallucination_rate": far.mean(), "hallucination": hal[~far].mean() if (~far).any() else np.nan, "auroc": image_metrics.auroc(hal, far)}
            made += [{"experiment": CONTROL, "dataset": "gaussians_25", "unit": f"{n} steps", "method": "exact_score", "metric": metric, "seed": seed, "value": float(value), "n": starts} for metric, value in values.items() if not np.isnan(value)]
    return made


def toy_trajectory(denoise: Callable, start: torch.Tensor, grid: solvers.Grid) -> tuple[torch.Tensor, np.ndarray]:
    """Endpoints [n, d] of DDIM from `start [n, d]` and Hal of each, [n], the coordinates in place of pixels."""
    trace: list[torch.Tensor] = []

    def rule(step: solvers.Step) -> torch.Tensor:
        trace.append(step.x0)
        return step.by_data(step.x0)

    end = solvers.walk(rule, denoise, start, grid)
    return end, image_metrics.hallucination(torch.stack(trace[-last_steps(grid.steps):])[..., None, None].numpy())
