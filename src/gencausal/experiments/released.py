r"""Experiment E19: the released IWDD code, re-run in its as-released mode on the file of its public log, and the audit of its defects.

The law of the generator is one for all units and both arms, because its network reads neither x nor z: `max_change`, the largest change of its
output at the same noise when every x and z changes, is exactly 0. Each unit and arm then takes its own n draws from that law, as in the released
code, and the effect is a difference of two medians of one law:

`Eq. released-pehe`:  PEHE^2 = tau^2 + delta^2 up to noise, delta^2 = (pi / 2) (2 / n) sd(draws)^2, tau^2 the mean squared effect

which is the PEHE of `zero effect` but for the Monte Carlo part delta^2. Scale: outcomes standardised by both potential outcomes of all rows (D10).
The draws of a unit are picked, with replacement, from one pool of draws of the law: what changes is the cost, not the law of the medians. The
teacher's sampler maps one scalar start to one outcome and reads no condition either, so it is tabulated once and interpolated.
"""

import math
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from gencausal import checks, diffusion, distillation, released, sampling, schedules
from gencausal.checkpoints import code_hash, remember, tensor_hash
from gencausal.data.table import CausalTable
from gencausal.released import ReleasedConfig, ReleasedDenoiser, ReleasedNetwork
from gencausal.seeding import generator as stream, numpy_generator
from gencausal.training import TrainingDiverged

EXPERIMENT = "iwdd.E19"
POOL = 5_000  # draws of the generator's law
REACH, STARTS = 4.0, 401  # the teacher's flow is tabulated at STARTS starts from -REACH to REACH sd; 6 starts of 100,000 lie outside and take the end
BAR = 1e-3  # the largest gap to the PEHE of zero effect that specification 7 allows


def released_scale(table: CausalTable) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x [n, p], y [n], mu [n, 2]) as the released code scales them (D10): x by all rows, outcomes by both potential outcomes of all rows."""
    spread = table.x.std(0)
    center, scale = table.potential.mean(), table.potential.std()
    return (table.x - table.x.mean(0)) / np.where(np.ptp(table.x, axis=0) == 0, 1.0, spread), (table.y - center) / scale, (table.mu - center) / scale


def train(table: CausalTable, seed: int, config: ReleasedConfig, folder: Path | None = None) -> tuple[ReleasedDenoiser, ReleasedNetwork]:
    """(teacher, generator) of an as-released run on all training rows of `table`; kept in `folder` by the hash of code, data and configuration.

    Raises TrainingDiverged, naming the step, where a loss is not finite.
    """
    scaled_x, scaled_y, _ = released_scale(table)
    x, y, z = (torch.as_tensor(v[table.train], dtype=torch.float32) for v in (scaled_x, scaled_y, table.t))
    d, name = x.shape[1] + 1, f"{table.name}/{table.unit}"
    teacher = ReleasedDenoiser(ReleasedNetwork(d, stream(seed, "released", name, "init")), d, stream(seed, "released", name, "input"))
    network = ReleasedNetwork(d, stream(seed, "released", name, "init"))

    def compute() -> dict[str, torch.Tensor]:
        _train_teacher(teacher, x, z, y, config, stream(seed, "released", name, "teacher"))
        network.load_state_dict(teacher.network.state_dict())
        _distil(teacher, network, x, z, config, stream(seed, "released", name, "distil"))
        return {f"teacher.{k}": v for k, v in teacher.state_dict().items()} | {f"generator.{k}": v for k, v in network.state_dict().items()}

    identity = {"kind": "as released", "code": code_hash(released, diffusion, distillation, schedules, sys.modules[__name__]), "data": tensor_hash(x, y, z), "seed": seed, "unit": name} | asdict(config)
    kept = remember(folder, "released", identity, compute)
    for prefix, module in (("teacher.", teacher), ("generator.", network)):
        module.load_state_dict({k.removeprefix(prefix): v for k, v in kept.items() if k.startswith(prefix)})
    return teacher.requires_grad_(False), network.requires_grad_(False)


def _train_teacher(teacher: ReleasedDenoiser, x: torch.Tensor, z: torch.Tensor, y: torch.Tensor, config: ReleasedConfig, rng: torch.Generator) -> None:
    """The released stage 1: Adam on shuffled batches, learning rate a tenth after each milestone."""
    optimiser = torch.optim.Adam(teacher.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
    for epoch in range(config.teacher_epochs):
        passed = sum(epoch >= share * config.teacher_epochs for share in config.milestones)
        for group in optimiser.param_groups:
            group["lr"] = config.lr * 0.1**passed
        for rows in torch.randperm(len(y), generator=rng).split(config.batch):
            normal, eps = torch.randn(2, len(rows), generator=rng)
            sigma = schedules.log_normal(normal, config.log_sigma_mean, config.log_sigma_sd)
            _step(optimiser, teacher.losses(y[rows], sigma, eps, released.teacher_condition(x[rows], z[rows])).mean(), f"teacher, epoch {epoch}")


def _distil(teacher: ReleasedDenoiser, network: ReleasedNetwork, x: torch.Tensor, z: torch.Tensor, config: ReleasedConfig, rng: torch.Generator) -> None:
    """The released stage 2: generator and fake score in turn. The fake score's input layer is fresh and in no optimiser (D7), and it is trained under
    the observed pair while y came from another one (D5, D6)."""
    teacher.requires_grad_(False)
    fake = ReleasedDenoiser(ReleasedNetwork(teacher.input.out_features, rng), teacher.input.out_features, rng)
    fake.network.load_state_dict(teacher.network.state_dict())
    options = {"lr": config.lr, "betas": (config.beta1, 0.999), "weight_decay": config.weight_decay, "fused": True}
    generator_steps, fake_steps = torch.optim.Adam(network.parameters(), **options), torch.optim.Adam(fake.network.parameters(), **options)
    for epoch in range(config.distillation_epochs):
        for rows in torch.randperm(len(z), generator=rng).split(config.batch):
            treated = (torch.rand(len(rows), generator=rng) < config.probability).float()
            c = released.distillation_condition(x[rows[torch.randperm(len(rows), generator=rng)]], treated)
            y = released.generate(network, torch.randn(len(rows), x.shape[1] + 1, generator=rng), config.sigma_init, c)
            sigma = schedules.sid_sigma(config.t_max * torch.rand(len(rows), generator=rng))
            noisy = y + sigma * torch.randn(len(rows), generator=rng)
            _step(generator_steps, released.generator_loss(y, teacher(noisy, sigma, c), fake(noisy, sigma, c), config.alpha), f"generator, epoch {epoch}")
            normal, eps = torch.randn(2, len(rows), generator=rng)
            sigma = schedules.log_normal(normal, config.log_sigma_mean, config.log_sigma_sd)
            _step(fake_steps, fake.losses(y.detach(), sigma, eps, released.distillation_condition(x[rows], z[rows])).mean(), f"fake score, epoch {epoch}")


def _step(optimiser: torch.optim.Optimizer, loss: torch.Tensor, where: str) -> None:
    """One step on the parameters of `optimiser` alone."""
    if not torch.isfinite(loss):
        raise TrainingDiverged(f"The loss of the {where}, is {loss.item()}; lower config.lr.")
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True)):
        parameter.grad = gradient
    optimiser.step()


def generator_pool(network: ReleasedNetwork, sigma_init: float, d: int, rng: torch.Generator, size: int = POOL) -> np.ndarray:
    """`size` draws of the generator's one law, [size]."""
    return np.concatenate([released.generate(network, torch.randn(rows, d, generator=rng), sigma_init, torch.zeros(rows, d)).double().numpy()
                           for rows in (min(2000, size - start) for start in range(0, size, 2000))])


def teacher_flow(teacher: ReleasedDenoiser, steps: int, starts: torch.Tensor) -> torch.Tensor:
    """Outcomes, of `starts`' shape [B], of the Heun sampler from sigma_max `starts`, on the released grid of `steps` levels."""
    c = torch.zeros(len(starts), teacher.input.out_features)
    return sampling.heun(lambda y, sigma: teacher(y, sigma.expand_as(y), c), schedules.SIGMA_MAX * starts, schedules.karras_sigmas(steps))


def largest_change(function, x: torch.Tensor, z: torch.Tensor) -> float:
    """Largest |difference| of `function(c) -> [B]` between c = (x, z) and c with rows of x permuted and scaled by 3, arms exchanged; 0 means that it reads neither."""
    moved = 3 * x.roll(1, 0) + 1
    return (function(released.distillation_condition(x, z)) - function(released.distillation_condition(moved, 1 - z))).abs().max().item()


def as_released(table: CausalTable, seed: int, config: ReleasedConfig = ReleasedConfig(), folder: Path | None = None) -> list[dict]:
    """Result rows of one as-released run on `table` (two arms): `as_released` (generator), `as_released_teacher` and `zero`, experiment iwdd.E19.

    pehe, rmse_y0, rmse_y1 of the test rows and, with _in, of the training rows, on the released scale; pehe_gap: |pehe - that of zero effect|;
    max_change: see `largest_change`; draw_sd: sd of the law's draws; steps: optimiser steps; of the teacher also the coverage of mu (D13) and the
    median width of its 95 % intervals an arm. Point estimates are medians of `draws` draws (test) or `draws_in` (training rows); the teacher's test
    effects are medians of unpaired differences, as released.
    """
    if table.mu.shape[1] != 2 or not np.isfinite(table.mu).all():
        raise checks.InputError("table must have two arms and known means mu; E19 is defined for acic2018, acic2016 and ihdp.")
    x, _, mu = released_scale(table)
    teacher, network = train(table, seed, config, folder)
    d, test, inside = x.shape[1] + 1, table.test, table.train
    rng, torch_rng = numpy_generator(seed, "released", table.unit, "draws"), stream(seed, "released", table.unit, "pool")
    starts = torch.linspace(-REACH, REACH, STARTS)
    outcome = teacher_flow(teacher, config.sampler_steps, starts).double().numpy()
    pools = {side: generator_pool(network, sigma, d, torch_rng) for side, sigma in (("out", config.sigma_init_test), ("in", config.sigma_init))}
    sides = {"out": (test, config.draws), "in": (inside, config.draws_in)}

    rows = []
    for side, (units, n) in sides.items():
        truth, suffix = mu[units], "" if side == "out" else "_in"
        effect = truth[:, 1] - truth[:, 0]
        zero = float(np.sqrt(np.mean(effect**2)))
        draws = {"as_released": pools[side][rng.integers(len(pools[side]), size=(len(units), 2, n))],
                 "as_released_teacher": np.interp(rng.standard_normal((len(units), 2, n)), starts.numpy(), outcome)}
        rows.append(_row(table, seed, "zero", f"pehe{suffix}", zero, len(units)))
        for method, drawn in draws.items():
            medians = np.median(drawn, -1)
            estimate = np.median(drawn[:, 1] - drawn[:, 0], -1) if (method, side) == ("as_released_teacher", "out") else medians[:, 1] - medians[:, 0]
            pehe = float(np.sqrt(np.mean((estimate - effect) ** 2)))
            values = {"pehe": pehe, "pehe_gap": abs(pehe - zero)} | {f"rmse_y{k}": np.sqrt(np.mean((medians[:, k] - truth[:, k]) ** 2)) for k in (0, 1)}
            if (method, side) == ("as_released_teacher", "out"):
                low, high = np.quantile(drawn, [0.025, 0.975], axis=-1)
                for k in (0, 1):
                    values |= {f"coverage_mu_y{k}": np.mean((low[:, k] <= truth[:, k]) & (truth[:, k] <= high[:, k])), f"width_95_y{k}": np.median(high[:, k] - low[:, k])}
            rows += [_row(table, seed, method, metric + suffix, value, len(units)) for metric, value in values.items()]

    few = torch.as_tensor(x[test], dtype=torch.float32), torch.as_tensor(table.t[test], dtype=torch.float32)
    eps = torch.randn(len(test), d, generator=torch_rng)
    changes = {"as_released": largest_change(lambda c: released.generate(network, eps, config.sigma_init_test, c), *few),
               "as_released_teacher": largest_change(lambda c: teacher(eps[:, 0], torch.full_like(eps[:, 0], 0.5), c), *few)}
    batches = math.ceil(len(inside) / config.batch)
    spread = {"as_released": pools["out"].std(), "as_released_teacher": np.interp(rng.standard_normal(POOL), starts.numpy(), outcome).std()}
    for method, epochs in (("as_released", config.distillation_epochs), ("as_released_teacher", config.teacher_epochs)):
        rows += [_row(table, seed, method, metric, value, n) for metric, value, n in
                 (("max_change", changes[method], len(test)), ("draw_sd", spread[method], POOL), ("steps", epochs * batches, 1))]
    return rows


def _row(table: CausalTable, seed: int, method: str, metric: str, value: float, n: int) -> dict:
    return {"experiment": EXPERIMENT, "dataset": table.name, "unit": table.unit, "method": method, "metric": metric, "seed": seed, "value": float(value), "n": n}


_AUDIT = {  # what the description says; what the released code does; what we do; the test of ours that would fail if we did as they do
    "D1": ("the network is conditional on (x, z)", "it receives the condition and never reads it: one law for all", "embeddings of x, one head an arm",
           "test_distillation.py::test_generator_moves_with_x_and_with_z"),
    "D2": ("one denoiser D(y; sigma, c)", "the condition is added in the training loss, and left out in the sampler and both scores", "one function embeds c for losses and samplers",
           "test_diffusion.py::test_loss_sees_the_condition"),
    "D3": ("noise level embedded as ln(sigma) / 4", "cast to a whole number: three rows occur, one of them for sigma from 0.018 to 54.6", "continuous Fourier features",
           "test_mlp.py::test_fourier_embedding_separates_levels"),
    "D4": ("one condition c = (x, z)", "[z, x] in the teacher's loss, [x, z] elsewhere", "x and z are separate arguments", "test_mlp.py::test_embed_picks_the_arm_of_encode"),
    "D5": ("treatments drawn as if randomised", "z = 1 with probability 0.01; the shuffled z is computed and not used", "z permuted over x", "test_distillation.py::test_shuffle_keeps_the_multisets_and_breaks_the_pairs"),
    "D6": ("fake score learns the generator's law", "trained under the observed pair while y came from another", "the pair that y was generated under", "test_estimators.py::test_the_law_reaches_every_loss"),
    "D7": ("fake score starts as the teacher", "its input layer is drawn anew and in no optimiser", "a full copy, all its trained parts optimised", "test_distillation.py::test_first_step_has_no_gradient"),
    "D8": ("one starting level of the generator", "2.5 in training, 5 at the final test", "one value", "test_released.py::test_clean_generator_has_one_starting_level"),
    "D9": ("factual outcomes train the teacher", "IHDP: factual and counterfactual read as Y(0) and Y(1), so treated units train on Y(0); first row lost", "columns by meaning, 747 rows",
           "test_ihdp.py::test_factual_and_counterfactual_become_potential_outcomes"),
    "D10": ("test rows unseen", "scalers fitted on all rows and both potential outcomes", "fit rows and factual outcomes", "test_estimators.py::test_training_tensors_see_factual_training_rows_only"),
    "D11": ("validation rows", "the first tenth of the training rows, trained on as well", "a tenth held out of training", "test_table.py::test_validation_rows_come_from_train_alone_and_follow_the_seed"),
    "D12": ("Wasserstein distance of laws", "sorted medians against sorted means", "draws of a unit against its law", "test_metrics.py::test_wasserstein_to_a_gaussian_equals_that_to_its_fine_quantiles"),
    "D13": ("coverage of intervals", "of the mean mu by an interval for y", "of the outcome y", "test_metrics.py::test_coverage_is_nominal_for_oracle_draws"),
    "D14": ("KL loss on noised outcomes", "noise is a product of two normals", "one normal", "test_distillation.py::test_the_exact_game_ends_at_the_teacher"),
    "D15": ("code that runs", "stops at the first validation; imports a missing file; reads another folder than it writes", "every notebook is run by a test",
            "test_notebooks.py::test_notebooks_run_again_with_the_same_outputs"),
    "D16": ("optional weights in the teacher", "[B, 1, 1, 1] times [B, 1]: mean weight times mean loss, so no effect", "weights and losses of one shape, enforced", "test_diffusion.py::test_one_hot_weight_gives_one_units_loss"),
}


def audit() -> pd.DataFrame:
    """Specification 6 as a table: one row a defect D1-D16 of the released code."""
    return pd.DataFrame([(defect, *texts) for defect, texts in _AUDIT.items()], columns=["defect", "described", "released code", "ours", "guarded by"])
