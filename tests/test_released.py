"""The as-released mode of IWDD: its defects are there, exactly (specification 2.2, 2.7, 6 and 7, E19)."""

import ast
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from gencausal import released
from gencausal.checks import InputError
from gencausal.data import synthetic
from gencausal.data.table import CausalTable
from gencausal.diffusion import Denoiser, edm_loss, weighted_mean
from gencausal.estimators import outcomes
from gencausal.experiments import released as experiment
from gencausal.nn.mlp import OutcomeNetwork
from gencausal.released import ReleasedConfig, ReleasedDenoiser, ReleasedNetwork
from gencausal.seeding import generator

D = 6
TINY = ReleasedConfig(teacher_epochs=2, distillation_epochs=2, batch=16, sampler_steps=6, draws=20, draws_in=10)


def denoiser(seed=0) -> ReleasedDenoiser:
    """A network past its start, with weights large enough that its output follows its inputs (at the start a layer of zeros hides them)."""
    made = ReleasedDenoiser(ReleasedNetwork(D, generator(seed, "network")), D, generator(seed, "input"))
    torch.nn.init.normal_(made.network.head[2].weight, std=0.2, generator=generator(seed, "head"))
    made.requires_grad_(False)
    for parameter in made.network.parameters():
        parameter.mul_(2.5)
    return made


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "draw"))


def table(n=60, effect=1.0) -> CausalTable:
    made = synthetic.load(0, k=1.0, n_train=4 * n // 5, n_test=n - 4 * n // 5)
    x = np.random.default_rng(0).standard_normal((n, D - 1))
    mu = np.stack([x[:, 0], x[:, 0] + effect], 1)
    potential = mu + 0.1 * x[:, 1:3]
    return dataclasses.replace(made, x=x, mu=mu, potential=potential, y=potential[np.arange(n), made.t], covariates=[f"x{i}" for i in range(D - 1)])


# --- the network ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d, published", [(26, 588_593), (83, 901_637), (178, 1_654_417)])
def test_parameter_count(d, published):
    """Eq. released-network, Eq. released-size; specification 8.17. Unused layers count: without them the sum falls short."""
    network = ReleasedNetwork(d, generator(0, "n"))
    count = sum(p.numel() for p in network.parameters())
    unused = sum(p.numel() for name, p in network.named_parameters() if "unused" in name)
    assert count == released.parameter_count(d) == published and unused == 4 * (2 * d + 2) + 192 + 16_512
    assert sum(p.numel() for p in ReleasedDenoiser(network, d, generator(0, "i")).parameters()) == count + 2 * d


def test_unused_layers_get_no_gradient():
    network = ReleasedNetwork(D, generator(0, "n"))
    network(draw(4, D), torch.ones(4), draw(4, D)).sum().backward()
    assert {name for name, p in network.named_parameters() if p.grad is None} == {name for name, _ in network.named_parameters() if "unused" in name}


def test_noise_index_is_an_integer_cast():
    """Eq. released-index (D3): -1, 0, 1 and nothing else between 0.002 and 80; the switches lie at e^-4 and e^4; row -1 is the last."""
    sigma = torch.tensor([0.002, 0.0183, 0.0184, 0.5, 2.5, 5.0, 54.5, 54.7, 80.0])
    assert released.noise_index(sigma).tolist() == [-1, -1, 0, 0, 0, 0, 0, 1, 1]
    assert set(released.noise_index(torch.logspace(math.log10(0.002), math.log10(80), 10_000)).tolist()) == {-1, 0, 1}
    rows = released.noise_table()
    assert rows.shape == (100, 128) and torch.equal(rows[0], torch.cat([torch.zeros(64), torch.ones(64)])) and rows[-1, 0].item() == pytest.approx(math.sin(99))
    assert rows[1, 63].item() == pytest.approx(math.sin(10_000), abs=1e-3)


def test_levels_of_one_index_are_not_told_apart():
    """D3: at the same input F is the same at every level from 0.02 to 54, and another at 60; the clean network tells 0.02 from 54."""
    network, u = denoiser().network, draw(5, D)
    at = lambda sigma: network(u, torch.full((5,), sigma), u)  # noqa: E731
    assert torch.equal(at(0.02), at(54.0)) and not torch.equal(at(54.0), at(60.0)) and not torch.equal(at(0.02), at(0.01))


# --- what reads the condition, and what does not ---------------------------------------------------------------------------


def clean():
    return Denoiser(OutcomeNetwork(1, D - 1, 2, generator(0, "clean"), width=16, depth=2, embedding=8, decoder=8)).requires_grad_(False)


def test_generator_and_denoiser_do_not_move_with_x_or_z():
    """Eq. released-generator: E19: same eps, other (x, z): bit-identical. The outputs do move with eps and y, and the clean ones with x and z."""
    made, x, z, eps = denoiser(), draw(8, D - 1), torch.tensor([0.0, 1.0]).repeat(4), draw(8, D, seed=1)
    generate = lambda c: released.generate(made.network, eps, 2.5, c)  # noqa: E731
    denoise = lambda c: made(eps[:, 0], torch.full((8,), 0.5), c)  # noqa: E731
    assert experiment.largest_change(generate, x, z) == experiment.largest_change(denoise, x, z) == 0.0
    assert generate(x).std() > 1e-2 and denoise(x).std() > 1e-2
    network, level = clean(), torch.tensor(0.5)
    ours = lambda c: network(eps[None, :, :1], level, network.embed(c[None, :, :-1], c[None, :, -1].long()))[0, :, 0]  # noqa: E731
    assert experiment.largest_change(ours, x, z) > 1e-3


def test_training_loss_moves_with_the_condition_and_its_order():
    """D2, D4: the loss reads what the sampler does not; [z, x] and [x, z] are other inputs."""
    made, x, z = denoiser(), draw(8, D - 1), torch.tensor([0.0, 1.0]).repeat(4)
    losses = lambda c: made.losses(draw(8, seed=2), torch.full((8,), 0.5), draw(8, seed=3), c)  # noqa: E731
    zx, xz = released.teacher_condition(x, z), released.distillation_condition(x, z)
    assert torch.equal(zx[:, 1:], x) and torch.equal(zx[:, 0], z) and torch.equal(xz, zx.roll(-1, 1))
    assert not torch.allclose(losses(zx), losses(xz)) and not torch.allclose(losses(xz), losses(released.distillation_condition(x, 1 - z)))


def test_loss_without_a_condition_is_that_of_the_denoiser():
    """Eq. 8, Karras et al. 2022: at c = 0 the loss is lambda(sigma) (D - y)^2 of the very denoiser that the sampler uses."""
    made, y, eps, sigma = denoiser(), draw(8, seed=2), draw(8, seed=3), draw(8, seed=4).exp()
    c = torch.zeros(8, D)
    expected = (sigma**2 + 0.25) / (0.5 * sigma) ** 2 * (made(y + sigma * eps, sigma, c) - y) ** 2
    torch.testing.assert_close(made.losses(y, sigma, eps, c), expected, rtol=1e-3, atol=1e-4)


# --- losses ---------------------------------------------------------------------------------------------------------------


def test_generator_loss_is_the_sum_of_the_rows():
    """Eq. sid by hand, summed over the batch: a batch of two is the sum of two batches of one."""
    y, phi, psi = draw(5), draw(5, seed=1), draw(5, seed=2)
    by_hand = sum((p - q) * ((p - v) - 0.5 * (p - q)) / max(abs(v - p), 1e-5) for v, p, q in zip(y.tolist(), phi.tolist(), psi.tolist()))
    assert released.generator_loss(y, phi, psi, 0.5).item() == pytest.approx(by_hand, rel=1e-5)


def test_weights_factor_out_of_the_released_teacher_loss():
    """D16, specification 8.3: a one-hot weight gives the mean of all losses over B, not one row's loss over B; ours gives one row's."""
    losses, w = draw(6).square(), torch.zeros(6)
    w[2] = 1.0
    assert released.weighted_loss(w, losses).item() == pytest.approx((w.mean() * losses.mean()).item())
    assert released.weighted_loss(w, losses).item() != pytest.approx((losses[2] / 6).item(), rel=0.05)
    assert weighted_mean(losses[None], w.log()[None]).item() == pytest.approx(losses[2].item())
    with pytest.raises(ValueError, match="log_w must have the shape"):
        edm_loss(clean(), draw(1, 6, 1), draw(1, 6, 8), draw(1, 6, 2).exp(), draw(1, 6, 2), w.log()[None, :, None, None])


# --- training -------------------------------------------------------------------------------------------------------------


def test_distillation_has_its_defects(monkeypatch):
    """D5: z = 1 for about 1 %; D6: the fake score sees the observed pair, not the generated one; D7: its input layer is fresh and stays; the teacher stays too."""
    made, x, z = denoiser(), draw(400, D - 1), torch.ones(400)
    before, fakes, seen = {k: v.clone() for k, v in made.state_dict().items()}, [], {"generator": [], "fake": []}
    generate, losses = released.generate, ReleasedDenoiser.losses
    monkeypatch.setattr(released, "generate", lambda network, eps, sigma, c: seen["generator"].append((c, sigma)) or generate(network, eps, sigma, c))
    monkeypatch.setattr(ReleasedDenoiser, "losses", lambda self, y, sigma, eps, c: fakes.append((self, self.input.weight.clone())) or seen["fake"].append(c) or losses(self, y, sigma, eps, c))
    network = ReleasedNetwork(D, generator(0, "n"))
    network.load_state_dict(made.network.state_dict())
    config = ReleasedConfig(distillation_epochs=3, batch=200)
    experiment._distil(made, network, x, z, config, generator(0, "distil"))
    assert 0 < torch.cat([c[:, -1] for c, _ in seen["generator"]]).mean() < 0.03 and {s for _, s in seen["generator"]} == {2.5}
    for (c, _), own in zip(seen["generator"], seen["fake"], strict=True):
        assert (own[:, -1] == 1).all() and torch.equal(c[:, :-1].sort(0).values, own[:, :-1].sort(0).values) and not torch.equal(c[:, :-1], own[:, :-1])
    fake = fakes[0][0]
    assert not torch.equal(fake.input.weight, made.input.weight) and torch.equal(fake.input.weight, fakes[0][1])
    assert all(torch.equal(v, before[k]) for k, v in made.state_dict().items())
    moved = [not torch.equal(fake.network.state_dict()[k], made.network.state_dict()[k]) for k in ("head.0.weight", "blocks.0.gate.weight")]
    assert all(moved) and not torch.equal(network.head[0].weight, made.network.head[0].weight)


def test_first_step_has_a_gradient():
    """D7 against specification 8.5: with its own input layer the fake score is not the teacher, so the first gradient of the generator is not 0."""
    teacher, c = denoiser(), torch.zeros(8, D)
    fake = ReleasedDenoiser(teacher.network, D, generator(1, "fresh"))
    y = draw(8).requires_grad_(True)
    sigma = torch.full((8,), 0.5)
    gradients = [torch.autograd.grad(released.generator_loss(y, teacher(y, sigma, c), other(y, sigma, c), 0.5), y)[0] for other in (teacher, fake)]
    assert gradients[0].abs().max() < 1e-6 and gradients[1].abs().max() > 1e-3


def test_scale_reads_every_row_and_both_outcomes():
    """D10: pooled mean 0 and sd 1; a counterfactual of a test row moves the scaled training outcomes."""
    made = table()
    x, y, mu = experiment.released_scale(made)
    pooled = (made.potential - made.potential.mean()) / made.potential.std()
    np.testing.assert_allclose([x.std(0).mean(), pooled[np.arange(60), made.t][3]], [1.0, y[3]])
    np.testing.assert_allclose(mu[:, 1] - mu[:, 0], 1.0 / made.potential.std())
    made.potential[made.test[0], 1 - made.t[made.test[0]]] += 50
    assert abs(experiment.released_scale(made)[1][made.train] - y[made.train]).min() > 1e-3


def test_rows_of_a_tiny_run(tmp_path, monkeypatch):
    """max_change is exactly 0; a young generator has hardly any spread, so its PEHE is that of zero effect; what was trained is remembered."""
    made = table()
    rows = {(r["method"], r["metric"]): r["value"] for r in experiment.as_released(made, 0, TINY, tmp_path)}
    assert all(np.isfinite(v) for v in rows.values())
    assert rows["as_released", "max_change"] == rows["as_released_teacher", "max_change"] == 0.0
    assert rows["zero", "pehe"] == pytest.approx(1.0 / made.potential.std()) and rows["as_released", "pehe_gap"] < experiment.BAR
    assert rows["as_released_teacher", "pehe_gap"] > experiment.BAR and rows["as_released", "steps"] == 2 * 3
    assert 0 <= rows["as_released_teacher", "coverage_mu_y0"] <= 1 and rows["as_released_teacher", "width_95_y1"] > 1
    monkeypatch.setattr(experiment, "_train_teacher", None)
    assert {(r["method"], r["metric"]): r["value"] for r in experiment.as_released(made, 0, TINY, tmp_path)} == rows
    with pytest.raises(TypeError):
        experiment.as_released(made, 1, TINY, tmp_path)


@pytest.mark.parametrize("sd", [0.3, 1.0])
def test_pehe_is_that_of_zero_effect_plus_monte_carlo(sd, monkeypatch):
    """Eq. released-pehe with Gaussian draws: PEHE^2 = tau^2 + (pi / 2) (2 / n) sd^2 to a few per cent of the second term."""
    pool = sd * np.random.default_rng(1).standard_normal(experiment.POOL)
    monkeypatch.setattr(experiment, "generator_pool", lambda *a, **k: pool)
    made = table(n=6000)
    monkeypatch.setattr(experiment, "train", lambda *a, **k: (denoiser(), denoiser().network))
    rows = {(r["method"], r["metric"]): r["value"] for r in experiment.as_released(made, 0, dataclasses.replace(TINY, draws=100, draws_in=100))}
    extra = rows["as_released", "pehe_in"] ** 2 - rows["zero", "pehe_in"] ** 2
    assert extra == pytest.approx(math.pi / 100 * sd**2, rel=0.15 if sd == 1 else 0.35)


def test_tabulated_flow_is_the_sampler():
    """Interpolating the teacher's flow at new starts gives what the sampler gives there."""
    teacher, starts, new = denoiser(), torch.linspace(-experiment.REACH, experiment.REACH, experiment.STARTS), draw(200)
    direct, table = (experiment.teacher_flow(teacher, 12, at).numpy() for at in (new, starts))
    assert np.abs(np.interp(new.numpy(), starts.numpy(), table) - direct).mean() < 0.01 * direct.std()
    assert np.abs(np.interp(new.numpy(), starts.numpy(), table[::-1]) - direct).mean() > 0.3 * direct.std()


def test_divergence_is_named():
    made = table()
    made.y[made.train[0]] = np.inf
    with pytest.raises(RuntimeError, match="The loss of the teacher, epoch 0, is (inf|nan)"):
        experiment.train(made, 0, TINY)


def test_unknown_means_are_refused():
    made = table()
    made.mu[0] = np.nan
    with pytest.raises(InputError, match="table must have two arms and known means mu"):
        experiment.as_released(made, 0, TINY)


# --- the audit ------------------------------------------------------------------------------------------------------------


def test_every_defect_has_a_guard_that_exists():
    found = experiment.audit()
    assert list(found["defect"]) == [f"D{i}" for i in range(1, 17)] and found.map(len).to_numpy().min() > 1
    for guard in found["guarded by"]:
        file, name = guard.split("::")
        tree = ast.parse((Path(__file__).parent / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, guard


def test_clean_generator_has_one_starting_level(monkeypatch):
    """D8: one field sets it, and the draws at test start from that very value."""
    assert [f.name for f in dataclasses.fields(outcomes.DistillationConfig) if "init" in f.name] == ["sigma_init"]
    assert [f.name for f in dataclasses.fields(ReleasedConfig) if "init" in f.name] == ["sigma_init", "sigma_init_test"]
    used = []
    monkeypatch.setattr(outcomes, "generate", lambda denoiser, eps, e, sigma_init: used.append(sigma_init))
    outcomes.generator_draws(outcomes.DistillationConfig(sigma_init=1.7).sigma_init)(None, None, None)
    assert used == [1.7]
