r"""Can the causal graph be learned along with its mechanisms (DC5)? Part of `dc.E5`.

The learned graph is what Eq. edge-strength leaves above `THRESHOLD` sd per sd, its weakest edges taken from cycles. Beside it stands what no training can mend: `rank_graphs` scores every acyclic graph by
the criterion that the mechanisms are trained with,

    sum_j E (z_j - E[z_j | pa_j])^2 + lambda_1 |A|                                       `Eq. graph-least-squares` (third and last term of Eq. joint-loss)
    1/2 sum_j log E (z_j - E[z_j | pa_j])^2 + lambda_1 |A|                               `Eq. graph-likelihood`    (normal noise of unknown variance)

with E[z_j | pa_j] by kernel regression on rows that are not scored. Where another graph scores below the true one, a learner that minimises the criterion is right to leave the truth. Labels are standardised,
so the order of their variances tells nothing. Without noise on the children every label is a function of others and the ranking decides nothing: use a noisy variant.
"""

from itertools import combinations, product

import numpy as np
import pandas as pd
import torch
from torch import nn

from gencausal import checks, graph, scm, seeding
from gencausal.experiments.pictures import Trainer
from gencausal.guidance import Guide
from gencausal.image_models.guided import GuideConfig

THRESHOLD = 0.3


def acyclic(strength: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """Edges stronger than `threshold`, [n, n] of 0 and 1; of every cycle the weakest edge is left out."""
    edges = np.asarray(strength) > threshold
    for i, j in sorted(np.argwhere(edges).tolist(), key=lambda edge: strength[tuple(edge)]):
        if graph.descendants(edges)[j, i]:
            edges[i, j] = False
    return edges.astype(int)


def pruned(guide: Guide, z: torch.Tensor, threshold: float = THRESHOLD) -> tuple[Guide, np.ndarray, float]:
    """The guide whose mechanisms read the strong edges alone, those edges [n, n], and h(A) of the strengths before the cut (Eq. acyclicity); `z [N, n]`: factors of training images."""
    z = z.to(next(guide.parameters()).device)
    strength = guide.scm.strength(z).detach()
    found = acyclic(strength.cpu().numpy(), threshold)
    cut = scm.make("mlp", found, seeding.generator(0, "scm")).to(z.device)
    with torch.no_grad():
        for own, learned in zip(cut.parameters(), guide.scm.parameters(), strict=True):
            own.copy_(learned)
    return Guide(guide.projector, cut.requires_grad_(False), guide.sees), found, float(graph.acyclicity(strength))


def graphs(trainer: Trainer, config: GuideConfig, seeds: list[int], denoiser: nn.Module | None = None) -> tuple[list[dict], dict[int, np.ndarray]]:
    """Rows of `shd` to the true graph and `acyclicity` h(A), one a training seed, unit "graph", and the graphs found."""
    bench, rows, found = trainer.bench, [], {}
    for seed in seeds:
        _, found[seed], h = pruned(trainer.guide(config, seed, denoiser=denoiser), bench.training[1])
        for metric, value in (("shd", graph.shd(found[seed], bench.mask)), ("acyclicity", h)):
            rows.append({"experiment": "dc.E5", "dataset": bench.name, "unit": "graph", "method": "learned", "metric": metric, "seed": seed, "value": float(value), "n": int(bench.mask.size - len(bench.mask))})
    return rows, found


# ---------------------------------------------------------------- what the criterion can decide


def all_graphs(n: int) -> list[np.ndarray]:
    """Every acyclic graph on n <= 4 nodes, [n, n] of 0 and 1 (25 of three nodes, 543 of four)."""
    if not 2 <= n <= 4:
        raise checks.InputError(f"n is {n}; every acyclic graph is listed for 2, 3 or 4 nodes.")
    found, pairs = [], list(combinations(range(n), 2))
    for kinds in product((0, 1, 2), repeat=len(pairs)):
        made = np.zeros((n, n), dtype=int)
        for (i, j), kind in zip(pairs, kinds):
            made[i, j], made[j, i] = kind == 1, kind == 2
        if not np.trace(graph.descendants(made)):
            found.append(made)
    return found


def residuals(z: np.ndarray, rows: int, seed: int, ridge: float = 0.01) -> dict[tuple[int, tuple[int, ...]], float]:
    """Mean squared error of E[z_j | pa] on held-out rows for every node j and set of parents pa, by kernel ridge regression on `rows` others; z: [N, n], standardised."""
    order = seeding.numpy_generator(seed, "graphs").permutation(len(z))
    fit, held = z[order[:rows]], z[order[rows:2 * rows]]
    found = {}
    for size in range(z.shape[1]):
        for parents in combinations(range(z.shape[1]), size):
            a, b = fit[:, parents], held[:, parents]
            kernel = lambda u, v: np.exp(-((u[:, None] - v[None]) ** 2).sum(2) / (1 + size))  # noqa: E731, B023
            weights = np.linalg.solve(kernel(a, a) + ridge * np.eye(len(a)), fit - fit.mean(0)) if size else np.zeros_like(fit)
            error = (held - fit.mean(0) - (kernel(b, a) @ weights if size else 0)) ** 2
            found |= {(j, parents): float(error[:, j].mean()) for j in range(z.shape[1]) if j not in parents}
    return found


def rank_graphs(z: np.ndarray, truth: np.ndarray, seed: int = 0, rows: int = 800, sparsity: float = 0.01) -> pd.DataFrame:
    """For both criteria: how many acyclic graphs there are, how many score below the true one (`better`), and the distance `shd` of the best from it. z: factors of training images."""
    z, truth, table = np.asarray(z, dtype=np.float64), np.asarray(truth), []
    rows = min(rows, len(z) // 2)
    known, every = residuals(z, rows, seed), all_graphs(z.shape[1])
    for criterion, of in (("least squares", lambda v: v), ("likelihood", lambda v: 0.5 * np.log(v))):
        score = lambda made: sum(of(known[j, tuple(np.flatnonzero(made[:, j]))]) for j in range(len(made))) + sparsity * made.sum()  # noqa: E731, B023
        scores = np.array([score(made) for made in every])
        table.append({"criterion": criterion, "graphs": len(every), "better": int((scores < score(truth) - 1e-12).sum()), "gap": float(score(truth) - scores.min()), "shd of the best": graph.shd(every[int(scores.argmin())], truth)})
    return pd.DataFrame(table)
