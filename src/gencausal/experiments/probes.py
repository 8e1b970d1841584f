r"""What a probe reads in networks that learned nothing, and how disentangled a code is (spec second_act, B2-E7: A2.C18a, A2.C18b; DCI of B2-E6).

Every number that a probe gives stands beside those of B re-initialised networks put through the same search, and has the p of Eq. monte-carlo-p (`nulls`).

    readout: factors from standardised features h in R^k by ridge regression, z = a + W h, its penalty l the one with the least error when each of the N fit rows is left out       `Eq. readout`
             error(l) = mean_i ((z_i - z_hat_i) / (1 - H_ii))^2, H_ii = 1/N + sum_j U_ij^2 s_j^2 / (s_j^2 + l), h = U s V^T centred
    score:   R^2 on held-out units, one a factor. Chance: the same with the labels of the fit rows permuted
    DCI:     importances R[code, factor] of gradient boosting of each factor on the code, then Eq. dci (`image_metrics.dci`)

Features: of guide and judge the last hidden layer of their encoders, of CausalDiffAE its causal code z. Fit rows are training images, scored rows the bench's held-out units.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from sklearn.ensemble import GradientBoostingRegressor
from torch import nn
from torch.nn.functional import silu

from gencausal import image_metrics, nulls, seeding
from gencausal.experiments.pictures import Bench, Sizes
from gencausal.image_models import causaldiffae, predictor
from gencausal.image_models.guided import make_guide

EXPERIMENT, CODES = "A2.B2-E7", "A2.B2-E6"
PENALTIES = 10.0 ** np.arange(-2, 6)
Represent = Callable[[nn.Module, torch.Tensor], torch.Tensor]


class Network(NamedTuple):
    """A trained network, how to draw it anew from a seed, and what is probed in it: `represent(network, images [N, C, S, S] in [0, 1]) -> [N, k]`."""

    trained: nn.Module
    make: Callable[[int], nn.Module]
    represent: Represent


@torch.no_grad()
def hidden(encoder: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Last hidden layer of an `Encoder` on clean images, [N, 256]."""
    kept: list[torch.Tensor] = []
    handle = encoder.hidden.register_forward_hook(lambda module, inputs, output: kept.append(silu(output)))
    try:
        for part in images.split(256):
            encoder(2 * part - 1)
    finally:
        handle.remove()
    return torch.cat(kept)


@torch.no_grad()
def code(both: nn.ModuleDict, images: torch.Tensor) -> torch.Tensor:
    """The causal code z of CausalDiffAE at the posterior mean, [N, n k], factor after factor."""
    return torch.cat([both["code"].propagate(both["code"].posterior(2 * part - 1)[0]).flatten(1) for part in images.split(256)])


def networks(bench: Bench, sizes: Sizes, guide: nn.Module, judge: nn.Module, both: nn.ModuleDict) -> dict[str, Network]:
    """`guide`, `judge` and `causaldiffae` as `Network`s that are drawn anew at the sizes they were trained at."""
    channels, size = bench.images.shape[1:3]
    config = causaldiffae.Config(generator=sizes.generator, gamma=sizes.gamma)
    place = next(judge.parameters()).device
    return {"guide": Network(guide, lambda seed: make_guide(sizes.guide, channels, size, bench.mask, seed, place), lambda made, images: hidden(made.projector, images)),
            "judge": Network(judge, lambda seed: predictor.make(channels, size, len(bench.mask), sizes.judge, seed, place), lambda made, images: hidden(made.encoder, images)),
            "causaldiffae": Network(both, lambda seed: causaldiffae.make(channels, size, bench.mask, config, seed, place), code)}


def leave_one_out(U: np.ndarray, s: np.ndarray, z: np.ndarray, penalty: float) -> np.ndarray:
    """Mean squared error of each column of `z [N, m]`, centred, when its rows are left out one at a time, [m]; features U s V^T, centred, the centre kept."""
    shrink = s**2 / (s**2 + penalty)
    leverage = 1 / len(U) + (U**2) @ shrink
    return (((z - U @ (shrink[:, None] * (U.T @ z))) / np.maximum(1 - leverage, 1e-6)[:, None]) ** 2).mean(0)


def readout(h: np.ndarray, z: np.ndarray, h_new: np.ndarray, z_new: np.ndarray) -> np.ndarray:
    """R^2 on `h_new [M, k], z_new [M, m]` of the ridge readout fitted on `h [N, k], z [N, m]`, one a column, each with its own penalty (Eq. readout). At most 1; 0 is the error of the new rows' mean."""
    centre, spread = h.mean(0), h.std(0) + 1e-9
    h, h_new, offset = (h - centre) / spread, (h_new - centre) / spread, z.mean(0)
    U, s, Vt = np.linalg.svd(h, full_matrices=False)
    best = PENALTIES[np.stack([leave_one_out(U, s, z - offset, penalty) for penalty in PENALTIES]).argmin(0)]  # [m]
    weights = Vt.T @ (U.T @ (z - offset) * s[:, None] / (s[:, None] ** 2 + best))
    error = z_new - offset - h_new @ weights
    return 1 - (error**2).sum(0) / ((z_new - z_new.mean(0)) ** 2).sum(0)


def probe_rows(bench: Bench, found: dict[str, Network], seed: int, draws: int, n: int = 600, permutations: int = 19) -> list[dict]:
    """Rows of every network: `probe_r2` of each factor (unit) and its `p_value` against `draws` re-initialised ones, the mean R^2 of those as "<name>_random", and for each of them (units of "<name>_random")
    `above_chance`: 1 where its mean R^2 beats its own under permuted labels at 5 %."""
    rng = seeding.numpy_generator(seed, "probes")
    images, labels = bench.training
    chosen = torch.as_tensor(rng.permutation(len(images))[:n])
    fit, z, z_new = images[chosen], labels[chosen].numpy().astype(np.float64), bench.z.numpy().astype(np.float64)
    mixed = np.concatenate([z[rng.permutation(len(z))] for _ in range(permutations)], 1)
    names, rows = bench.scenes.names, []

    def row(unit: str, method: str, metric: str, value: float, size: int) -> dict:
        return {"experiment": EXPERIMENT, "dataset": bench.name, "unit": unit, "method": method, "metric": metric, "seed": seed, "value": float(value), "n": size}

    def search(network: Network, drawn: nn.Module, targets: np.ndarray) -> np.ndarray:
        """R^2 of each column of `targets`, whose units are the factors, once or more."""
        h, h_new = (network.represent(drawn, part).double().cpu().numpy() for part in (fit, bench.images))
        return readout(h, targets, h_new, np.tile(z_new, targets.shape[1] // z_new.shape[1]))

    for name, network in found.items():
        asked = np.concatenate([z, mixed], 1)
        observed = search(network, network.trained, asked)  # all columns here too: the same arithmetic, so that equal networks tie
        random = nulls.reinitialised(network.make, lambda drawn: search(network, drawn, asked), [seeding.derive(seed, "null", name, b) for b in range(draws)])
        null, chance = random[:, :len(names)], random[:, len(names):].reshape(draws, permutations, -1).mean(2)
        for k, factor in enumerate(names):
            rows += [row(factor, name, "probe_r2", observed[k], len(z_new)), row(factor, f"{name}_random", "probe_r2", null[:, k].mean(), draws), row(factor, name, "p_value", nulls.monte_carlo_p(observed[k], null[:, k]), draws)]
        rows += [row(f"network {b}", f"{name}_random", "above_chance", nulls.monte_carlo_p(null[b].mean(), chance[b]) <= 1 / (permutations + 1) + 1e-12, permutations) for b in range(draws)]
    return rows


# ---------------------------------------------------------------- disentanglement and completeness


def importances(h: np.ndarray, z: np.ndarray, seed: int, trees: int = 30) -> np.ndarray:
    """Importance [k, m] of each coordinate of the code `h [N, k]` for each factor of `z [N, m]`: gradient boosting with `trees` trees of depth 3."""
    fitted = [GradientBoostingRegressor(n_estimators=trees, random_state=seeding.derive(seed, "boosting", j) % 2**32).fit(h, z[:, j]) for j in range(z.shape[1])]
    return np.stack([model.feature_importances_ for model in fitted], 1)


def dci_rows(bench: Bench, method: str, network: Network, seed: int, draws: int, folds: int = 5, n: int = 1000, trees: int = 30) -> list[dict]:
    """Rows of the code of `network`: `disentanglement` and `completeness` in each of `folds` parts of `n` training images (units), and `p_value` of each against `draws` re-initialised networks on the first part
    (units "disentanglement" and "completeness" of method "<method>_dci"); draws 0 leaves the null out."""
    images, labels = bench.training
    parts = np.array_split(seeding.numpy_generator(seed, "dci").permutation(len(images))[:n], folds)
    z = labels.numpy().astype(np.float64)

    def measures(drawn: nn.Module, part: np.ndarray) -> np.ndarray:
        return np.array(image_metrics.dci(importances(network.represent(drawn, images[part]).double().cpu().numpy(), z[part], seed, trees)))

    found = [measures(network.trained, part) for part in parts]
    null = nulls.reinitialised(network.make, lambda drawn: measures(drawn, parts[0]), [seeding.derive(seed, "null", method, b) for b in range(draws)])
    rows = []
    for k, metric in enumerate(("disentanglement", "completeness")):
        values = [(f"part {i}", method, metric, value[k], len(part)) for i, (value, part) in enumerate(zip(found, parts))]
        values += [] if draws == 0 else [("all", f"{method}_random", metric, null[:, k].mean(), draws), (metric, f"{method}_dci", "p_value", nulls.monte_carlo_p(found[0][k], null[:, k]), draws)]
        rows += [{"experiment": CODES, "dataset": bench.name, "unit": unit, "method": name, "metric": what, "seed": seed, "value": float(value), "n": size} for unit, name, what, value, size in values]
    return rows
