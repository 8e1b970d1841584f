"""The stacked network baselines against closed forms: losses, laws, spline, discrepancy, targeted regularisation, weights; and what training may read."""

import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from gencausal.baselines import networks
from gencausal.baselines.networks import DEFAULTS, GRID, LAWS, LITERATURE, NAMES, TWINS, fitting, laws, modules
from gencausal.checks import InputError
from gencausal.data import acic
from gencausal.data.stack import OUTCOME_SD, prepare_tables, table_rows
from gencausal.data.table import CausalTable
from gencausal.nn.mlp import OutcomeNetwork
from gencausal.sampling import stratified_normal
from gencausal.seeding import generator, numpy_generator

needs_mirror = pytest.mark.skipif(not os.environ.get("GENCAUSAL_DATA"), reason="set GENCAUSAL_DATA to the data mirror")
NOISE = 0.5


def simulate(unit: str = "a", arms: int = 2, n: int = 500) -> CausalTable:
    """Linear-Gaussian arms with confounding: mu_k = 2 x_1 + k (1 + x_2), y = mu + N(0, NOISE^2), P(t = 1 | x) = sigmoid(x_1) for two arms."""
    rng = numpy_generator(0, "test_networks", unit, arms)
    x = rng.normal(size=(n, 3))
    t = (rng.random(n) < 1 / (1 + np.exp(-x[:, 0]))).astype(np.int64) if arms == 2 else rng.integers(0, arms, n)
    mu = 2 * x[:, :1] + np.arange(arms) * (1 + x[:, 1:2])
    potential = mu + NOISE * rng.normal(size=mu.shape)
    rows = np.arange(n)
    return CausalTable("toy", unit, x, t, potential[rows, t], mu, potential, None, list("abc"), rows[: 4 * n // 5], rows[4 * n // 5 :])


def small(name: str, **overrides):
    """The default of `name` at a size for tests."""
    sizes = {"embedding": 16, "decoder": 16} if name in TWINS else {"head": 16}
    return replace(DEFAULTS[name], **({"width": 24, "rounds": 12, "batch": 64, "score_every": 6, "average": 0.9} | sizes | overrides))


def network(name: str, stack: int = 2, arms: int = 3, covariates: int = 4):
    """An untrained network with random biases and gates, so that nothing is 0 by its start."""
    module = fitting.build(name, stack, covariates, arms, generator(0, "module"), small(name))
    rng = generator(1, "jitter")
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=rng))
    return module


def batch(stack: int = 2, units: int = 40, arms: int = 3, covariates: int = 4):
    rng = generator(2, "batch")
    return (torch.randn(stack, units, covariates, generator=rng), torch.randint(arms, (stack, units), generator=rng),
            OUTCOME_SD * torch.randn(stack, units, generator=rng), torch.rand(stack, units, generator=rng) + 0.1)


# ---------------------------------------------------------------- every method


@pytest.mark.parametrize("name", NAMES)
def test_gradient_reaches_every_parameter(name):
    module = network(name)
    sum(module.terms(*batch()).values()).sum().backward()
    assert {n for n, p in module.named_parameters() if p.grad is None or not (p.grad.flatten(1).abs().sum(1) > 0).all()} == set()


@pytest.mark.parametrize("name", NAMES)
def test_slices_never_mix(name):
    """The loss of slice 0 has no gradient in slice 1, and a stack of two gives the loss terms of two stacks of one."""
    module, data = network(name), batch()
    terms = module.terms(*data)
    assert all(value.shape == (2,) for value in terms.values())
    sum(value[0] for value in terms.values()).backward()
    for n, p in module.named_parameters():
        assert (p.grad[1] == 0).all() and (p.grad[0] != 0).any(), n
    for s in range(2):
        one = network(name, stack=1)
        one.load_state_dict({n: p[s : s + 1] for n, p in module.state_dict().items()})
        alone = one.terms(*(v[s : s + 1] for v in data))
        assert all(torch.allclose(alone[t][0], terms[t][s], atol=1e-6) for t in terms)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_agree_with_the_training_loss(name):
    """The raw outputs of every arm, taken at the factual arm, give the factual loss of `terms`; a batch of one equals a row of many."""
    module, (x, z, y, w) = network(name), batch()
    raw = module.outputs(x)
    assert raw.shape == (2, 40, 3, module.law.size)
    own = module.law.loss(modules.at_arm(raw, z), y)
    assert torch.allclose(modules.weighted(own, w), module.terms(x, z, y, w)["fit"], atol=1e-6)
    assert torch.allclose(module.outputs(x[:, 7:8]), raw[:, 7:8], atol=1e-6)
    assert (raw[:, :, 0] - raw[:, :, 2]).abs().mean() > 1e-3


@pytest.mark.parametrize("name", TWINS)
def test_one_hot_weights_touch_one_sample(name):
    """With the weight on sample 5 the loss is that sample's alone, and no other outcome or covariate has a gradient (Eq. weighted)."""
    module, (x, z, y, _) = network(name), batch()
    w = torch.zeros_like(y)
    w[:, 5] = 3.0
    x.requires_grad_(True), y.requires_grad_(True)
    fit = module.terms(x, z, y, w)["fit"]
    fit.sum().backward()
    touched = torch.arange(40) == 5
    assert (y.grad[:, ~touched] == 0).all() and (x.grad[:, ~touched] == 0).all() and (y.grad[:, touched] != 0).all() and (x.grad[:, touched] != 0).any()
    assert torch.allclose(fit, module.terms(x[:, 5:6], z[:, 5:6], y[:, 5:6], torch.ones(2, 1))["fit"], atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_stack_trains_like_its_members(name):
    """Each table alone gives the prediction it gives in company, up to rounding; the tables differ."""
    tables, config = [simulate("a"), simulate("b")], small(name, rounds=8, score_every=4)
    together = networks.fit_predict(name, tables, 0, config, draws=7)
    for table, found in zip(tables, together):
        alone = networks.fit_predict(name, [table], 0, config, draws=7)[0]
        assert np.allclose(alone.mu, found.mu, atol=2e-3)
        assert found.mu.shape == (500, 2) and (found.draws is None) == (name not in LAWS)
        if name in LAWS:
            assert found.draws.shape == (100, 2, 7) and (np.diff(found.draws) >= 0).all() and np.allclose(alone.draws, found.draws, atol=2e-3)
    assert np.abs(together[0].mu - together[1].mu).max() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_test_rows_and_truth_enter_nothing(name):
    """Other outcomes and arms of the test rows, other mu, potential outcomes and propensity: the same bits. One other training outcome: others."""
    table, config = simulate(), small(name)
    y, t = table.y.copy(), table.t.copy()
    y[table.test], t[table.test] = np.nan, 0
    hidden = replace(table, y=y, t=t, mu=np.full_like(table.mu, np.nan), potential=table.potential + 9, propensity=np.zeros(500))
    other = replace(table, y=np.where(np.arange(500) == table.train[3], table.y + 1, table.y))
    seen, blind, moved = (networks.fit_predict(name, [one], 0, config, draws=5)[0] for one in (table, hidden, other))
    assert np.array_equal(seen.mu, blind.mu) and not np.array_equal(seen.mu, moved.mu)
    if name in LAWS:
        assert np.array_equal(seen.draws, blind.draws)


class Killed(BaseException):
    """Stands for kill -9."""


@pytest.mark.parametrize("name", ["mlp_gated_ipw", "flow", "dragonnet"])
def test_a_killed_training_continues_to_the_same_bits(tmp_path, monkeypatch, name):
    tables, config = [simulate("a"), simulate("b")], small(name)
    straight = networks.fit_predict(name, tables, 0, config, draws=5)
    fit, kind, calls = fitting.fit, {"flow": modules.Twin, "mlp_gated_ipw": modules.Twin, "dragonnet": modules.Dragonnet}[name], [0]
    terms = kind.terms

    def killing(*arguments):
        calls[0] += 1
        if calls[0] == 8:
            raise Killed
        return terms(*arguments)

    monkeypatch.setattr(fitting, "fit", lambda *a, **k: fit(*a, **(k | {"checkpoint_seconds": 0})))
    monkeypatch.setattr(kind, "terms", killing)
    with pytest.raises(Killed):
        networks.fit_predict(name, tables, 0, config, folder=tmp_path, draws=5)
    resumed = networks.fit_predict(name, tables, 0, config, folder=tmp_path, draws=5)
    assert calls[0] == 8 + 5  # seven rounds done, the eighth killed, five left
    kept = networks.fit_predict(name, tables, 0, config, folder=tmp_path, draws=5)
    assert calls[0] == 8 + 5 and len(list(tmp_path.iterdir())) == 2
    for a, b, c in zip(straight, resumed, kept):
        assert np.array_equal(a.mu, b.mu) and np.array_equal(a.mu, c.mu) and (name != "flow" or np.array_equal(a.draws, b.draws) and np.array_equal(a.draws, c.draws))
    networks.fit_predict(name, tables, 0, replace(config, lr=1e-4), folder=tmp_path, draws=5)
    assert calls[0] == 8 + 5 + 12  # another configuration is trained, not read


@pytest.mark.parametrize("name", NAMES)
def test_linear_gaussian_recovery(name):
    """On confounded linear-Gaussian arms the effect 1 + x_2 is met far below its sd of 1, and laws get the noise: sd and 90 % coverage near theirs."""
    table = simulate(n=2000)
    config = small(name, rounds=160, batch=128, score_every=40, average=0.95, lr=1e-2, **({} if name in TWINS else {"weight_decay": 1e-3}), **({"balance": 0.01} if name == "cfr" else {}))  # a strong balance is a bias
    found = networks.fit_predict(name, [table], 0, config)[0]
    error = found.effects() - (table.mu[:, 1] - table.mu[:, 0])
    assert np.sqrt(np.mean(error**2)) < 0.3
    if name in LAWS:
        assert np.allclose(found.mu[table.test], found.draws.mean(-1), atol=1e-6)
        inside = (np.quantile(found.draws, 0.05, axis=-1) < table.potential[table.test]) & (table.potential[table.test] < np.quantile(found.draws, 0.95, axis=-1))
        assert 0.8 < inside.mean() < 0.97 and 0.35 < found.draws.std(-1).mean() < 0.7


def test_twins_are_the_teacher_but_for_its_noise():
    """The same gates, trunk and heads, bit for bit, at the same generator; parameter counts within 3 % of the teacher's at every size used."""
    for covariates in (25, 82):
        teacher = OutcomeNetwork(1, covariates, 2, generator(0), width=128, embedding=128)
        count = sum(p.numel() for p in teacher.parameters())
        for name in TWINS:
            twin = fitting.build(name, 1, covariates, 2, generator(0), DEFAULTS[name])
            shared = {n: p for n, p in teacher.state_dict().items() if n.split(".")[0] in ("gates", "trunk", "heads")}
            assert len(shared) == 9 and all(torch.equal(p, twin.state_dict()[n]) for n, p in shared.items())
            x = torch.randn(1, 6, covariates, generator=generator(1))
            assert torch.equal(twin.encode(x), teacher.encode(x))
            assert abs(networks.parameter_count(name, covariates) / count - 1) < 0.03
    assert networks.parameter_count("tarnet", 25) == 26 * 200 + 2 * 201 * 200 + 2 * (201 * 100 + 101 * 100 + 101)


# ---------------------------------------------------------------- laws


def test_gaussian_loss_is_least_at_mean_and_sd():
    """Eq. gaussian over a sample has gradient 0 and value 1/2 + ln(s / c) at the sample's mean and sd."""
    y = 0.3 + 0.2 * torch.randn(1, 1000, generator=generator(0), dtype=torch.float64)
    s = y.std(correction=0)
    raw = torch.stack([y.mean(), 5 * torch.atanh((s / OUTCOME_SD).log() / 5)]).requires_grad_(True)
    loss = laws.Gaussian().loss(raw.expand(1, 1000, 2), y).mean()
    assert torch.isclose(loss, 0.5 + (s / OUTCOME_SD).log()) and torch.autograd.grad(loss, raw)[0].abs().max() < 1e-12
    assert torch.allclose(laws.Gaussian().draws(raw, 9), y.mean() + s * stratified_normal(9).double())
    assert laws.Gaussian().mean(raw) == raw[0]


def test_quantiles_are_monotone_and_start_normal():
    law = laws.Quantiles(25)
    raw = 4 * torch.randn(50, 25, generator=generator(0), dtype=torch.float64)
    assert (law.quantiles(raw).diff() > 0).all() and (law.quantiles(50 * raw).diff() >= 0).all() and torch.equal(law.quantiles(raw)[:, 12], raw[:, 0])
    start = torch.zeros(25, dtype=torch.float64)
    start[0] = 0.7
    normal = lambda p: 0.7 + OUTCOME_SD * torch.special.ndtri(p)  # noqa: E731
    assert torch.allclose(law.quantiles(start), normal(law.levels))
    assert torch.allclose(law.draws(start, 100), normal((torch.arange(100, dtype=torch.float64) + 0.5) / 100))  # tails beyond the outer levels included
    assert torch.isclose(law.mean(start), start[0])
    assert torch.allclose(law.draws(raw, 25), law.quantiles(raw))  # at the levels themselves


def test_pinball_is_least_at_the_quantiles_and_tends_to_the_crps():
    """Eq. pinball: gradient 0 where each q_l has the share p_l below it; for N(0, c^2) at y = 0 the mean over many levels is the CRPS, c (sqrt 2 - 1) / sqrt pi."""
    law = laws.Quantiles(5)
    y = torch.linspace(-1, 1, 1001, dtype=torch.float64)[None]
    gap = (2 * law.levels - 1).diff()  # quantiles of the uniform law on [-1, 1]
    ratio = gap / (OUTCOME_SD * law.normal.diff())
    raw = torch.cat([torch.zeros(1, dtype=torch.float64), torch.log(torch.expm1(ratio)) - laws.ONE]).requires_grad_(True)
    assert torch.allclose(law.quantiles(raw), 2 * law.levels - 1)
    slope = torch.autograd.grad(law.loss(raw.expand(1, 1001, 5), y).mean(), raw)[0]
    assert slope.abs().max() < 2e-3
    moved = torch.autograd.grad(law.loss((raw + 0.3).expand(1, 1001, 5), y).mean(), raw)[0]
    assert moved.abs().max() > 0.05
    many = laws.Quantiles(2001)
    assert math.isclose(many.loss(torch.zeros(2001, dtype=torch.float64), torch.zeros((), dtype=torch.float64)).item(), (math.sqrt(2) - 1) / math.sqrt(math.pi), rel_tol=1e-3)


def random_spline(rows: int = 6, bins: int = 5):
    law = laws.Spline(bins)
    return law, 1.5 * torch.randn(rows, law.size, generator=generator(0), dtype=torch.float64)


def test_flow_density_integrates_to_one():
    law, raw = random_spline()
    y = torch.linspace(-40, 40, 200001, dtype=torch.float64)
    density = (-law.loss(raw[:, None], y.expand(6, -1))).exp() / (OUTCOME_SD * math.sqrt(2 * math.pi))
    assert torch.allclose(torch.trapezoid(density, y), torch.ones(6, dtype=torch.float64), atol=2e-4)
    mean = torch.trapezoid(density * y, y)
    assert torch.allclose(law.draws(raw, 20000).mean(-1), mean, atol=2e-3) and mean.std() > 0.1


def test_spline_and_inverse_are_identity():
    """inverse(spline(v)) = v and spline(inverse(u)) = u inside and outside the bound; the slope is that of automatic differentiation; ascending."""
    law, raw = random_spline()
    knots = law.knots(raw)
    v = torch.linspace(-6, 6, 301, dtype=torch.float64).expand(6, -1).clone().requires_grad_(True)
    u, log_slope = laws.rational_quadratic(v, *knots)
    assert torch.allclose(laws.inverse_rational_quadratic(u, *knots), v, atol=1e-9)
    assert torch.allclose(laws.rational_quadratic(laws.inverse_rational_quadratic(v, *knots), *knots)[0], v, atol=1e-9)
    assert torch.allclose(torch.autograd.grad(u.sum(), v)[0], log_slope.exp(), rtol=1e-9)
    assert (u.diff() > 0).all() and (u - v).abs().max() > 0.5 and torch.equal(u[:, 0], v[:, 0]) and (law.draws(raw, 99).diff() > 0).all()


def test_spline_against_closed_forms():
    """One bin from 0 to 1 with slopes 1/c and c is the Moebius map xi / (xi + c (1 - xi)), slope c / (xi + c (1 - xi))^2 (Eq. rational-quadratic);
    raw outputs 0 are the standardised Gaussian: -ln density = loss + ln(c sqrt(2 pi)) (Eq. flow)."""
    c, xi = 3.0, torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    u, log_slope = laws.rational_quadratic(xi, ends, ends, torch.tensor([1 / c, c], dtype=torch.float64))
    assert torch.allclose(u, xi / (xi + c * (1 - xi))) and torch.allclose(log_slope.exp(), c / (xi + c * (1 - xi)) ** 2)
    y = torch.linspace(-3, 3, 41, dtype=torch.float64)
    law = laws.Spline(8)
    start = torch.zeros(law.size, dtype=torch.float64)
    start[:2] = torch.tensor([0.3, 0.4])
    normal = torch.distributions.Normal(0.3, OUTCOME_SD * math.exp(5 * math.tanh(0.08)))
    assert torch.allclose(-law.loss(start.expand(41, -1), y) - math.log(OUTCOME_SD * math.sqrt(2 * math.pi)), normal.log_prob(y), atol=1e-6)


# ---------------------------------------------------------------- penalties and weights


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_discrepancy(kernel):
    """0 for equal samples whatever their counts; point masses at distance r in closed form; a missing arm counts 0; K = 3 averages the pairs."""
    a = torch.randn(1, 20, 4, generator=generator(0), dtype=torch.float64)
    same = torch.cat([a, a, a], 1)
    z = torch.arange(60)[None].ge(20).long()
    assert modules.discrepancy(same, z, 2, kernel).abs().max() < 1e-12
    points = torch.zeros(1, 60, 4, dtype=torch.float64)
    points[:, 20:, 0] = 3.0
    share, r2 = 1 / 3, 9.0
    expected = {"linear": r2, "rbf": 2 - 2 * math.exp(-r2 / (2 * 2 * share * (1 - share) * r2))}[kernel]
    assert math.isclose(modules.discrepancy(points, z, 2, kernel).item(), expected, rel_tol=1e-9)
    assert modules.discrepancy(points, torch.ones_like(z), 2, kernel).item() == 0
    assert math.isclose(modules.discrepancy(points, z, 3, kernel).item(), expected / 3, rel_tol=1e-9)
    moved = torch.cat([a, a + 0.5], 1).requires_grad_(True)
    value = modules.discrepancy(moved, torch.arange(40)[None].ge(20).long(), 2, kernel)
    assert value > 0.01 and torch.autograd.grad(value.sum(), moved)[0].abs().max() > 0


def test_cfr_penalty_ignores_the_scale_of_the_representation():
    module, (x, z, y, w) = network("cfr"), batch()
    phi = module.represent(x)
    q = module.respond(phi)[..., 0]
    assert torch.allclose(module.penalties(phi, q, z, y)["balance"], module.penalties(0.01 * phi, q, z, y)["balance"], atol=1e-6)
    assert (module.terms(x, z, y, w)["balance"] > 1e-4).all()


def test_targeted_regularisation():
    """0 at Q = y, eps = 0; for two arms the published y - Q - eps (z / g - (1 - z) / (1 - g)); the best eps is the regression of y - Q on that."""
    rng = generator(0)
    z = torch.randint(2, (1, 200), generator=rng)
    q, y = torch.randn(1, 200, 2, generator=rng, dtype=torch.float64), torch.randn(1, 200, generator=rng, dtype=torch.float64)
    g1 = 0.1 + 0.8 * torch.rand(1, 200, generator=rng, dtype=torch.float64)
    g = torch.stack([1 - g1, g1], -1)
    exact = modules.at_arm(q, z)
    epsilon = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    loss = modules.targeted(exact, q, g, z, epsilon).sum()
    assert loss == 0 and torch.autograd.grad(loss, epsilon)[0] == 0
    h = z / g1 - (1 - z) / (1 - g1)
    assert torch.allclose(modules.targeted(y, q, g, z, torch.full((1, 1), 0.3, dtype=torch.float64)), (y - exact - 0.3 * h).square())
    best = ((h * (y - exact)).sum() / h.square().sum()).reshape(1, 1).requires_grad_(True)
    loss = modules.targeted(y, q, g, z, best).sum()
    assert torch.autograd.grad(loss, best)[0].abs() < 1e-9 and loss < modules.targeted(y, q, g, z, epsilon).sum()


def test_balanced_weights_give_every_arm_one_share():
    data = prepare_tables([simulate(arms=3)], 0)
    for name in ("tarnet", "cfr"):
        z, w = table_rows(data.z, data.fit), table_rows(networks.weights(name, data, DEFAULTS[name]), data.fit)
        assert torch.allclose(torch.stack([w[z == k].sum() for k in range(3)]), torch.full((3,), w.numel() / 3))
    assert (networks.weights("dragonnet", data, DEFAULTS["dragonnet"]) == 1).all() and (networks.weights("flow", data, DEFAULTS["flow"]) == 1).all()


def test_inverse_propensity_weights():
    """p(z) / p(z | x) near the truth on a logistic design, of mean near 1, clipped, cross-fitted, and defined for three arms."""
    table = simulate(n=4000)
    data = prepare_tables([table], 0)
    p = networks.propensities(data)
    truth = 1 / (1 + np.exp(-table.x[table.train, 0]))
    assert np.abs(p[0, :, 1].numpy() - truth).mean() < 0.02 and torch.allclose(p.sum(2), torch.ones(1, 3200))
    config = replace(DEFAULTS["mlp_gated_ipw"], clip=0.2)
    w = networks.weights("mlp_gated_ipw", data, config)
    share = table_rows(data.z, data.fit).float().mean()
    factual = torch.where(data.z == 1, p[..., 1], p[..., 0])
    expected = torch.where(data.z == 1, share, 1 - share) / factual.clamp(0.2, 0.8)
    assert torch.allclose(w, expected) and (factual.min() < 0.2 < factual.clamp(0.2, 0.8).min() + 1e-6) and abs(w.mean() - 1) < 0.1
    assert networks.propensities(prepare_tables([simulate(arms=3)], 0)).shape == (1, 400, 3)


def test_propensities_are_cross_fitted():
    """Covariates of pure noise, nearly as many as rows of a fold: a fit to its own rows would tell the arms apart, a cross-fitted one does not."""
    rng = numpy_generator(0, "noise")
    table = replace(simulate(n=125), x=rng.normal(size=(125, 60)), t=rng.integers(0, 2, 125))
    data = prepare_tables([table], 0)
    p = networks.propensities(data)[0, :, 1]
    assert p[data.z[0] == 1].mean() - p[data.z[0] == 0].mean() < 0.2


def test_ipw_twin_trains_with_its_weights():
    config, table = small("mlp_gated"), simulate()
    plain = networks.fit_predict("mlp_gated", [table], 0, config)[0]
    assert not np.array_equal(plain.mu, networks.fit_predict("mlp_gated_ipw", [table], 0, config)[0].mu)


@pytest.mark.parametrize("name", ["mlp_gated", "mlp_gated_ipw", "tarnet", "gaussian_mlp"])
def test_held_out_loss_is_on_the_outcomes_scale(name):
    """The best held-out loss is that of the returned network, recomputed from its predictions; outcomes a thousand times larger give losses of that scale."""
    table, config = simulate(), small(name)
    data = prepare_tables([table], 0)
    loss = networks.held_out_loss(name, [table], 0, config)
    assert loss.shape == (1,)
    if name not in LAWS:
        held = table.validation(0)[1]
        mu = networks.fit_predict(name, [table], 0, config)[0].mu[held, table.t[held]]
        w = table_rows(networks.weights(name, data, config), data.held).numpy()[0]
        assert np.isclose(loss[0], np.average((table.y[held] - mu) ** 2, weights=w), rtol=1e-5)
    larger = networks.held_out_loss(name, [replace(table, y=1000 * table.y)], 0, config)
    assert np.isclose(larger[0], loss[0] * (1000 if name in LAWS else 1000**2), rtol=1e-3)


# ---------------------------------------------------------------- configuration


def test_every_method_has_a_grid_of_three():
    assert set(GRID) == set(DEFAULTS) == set(NAMES) and set(NAMES) == set(TWINS) | set(LITERATURE) and set(LAWS) < set(TWINS)
    for name, grid in GRID.items():
        assert len(grid) == len({str(sorted(o.items())) for o in grid}) == 3
        assert replace(DEFAULTS[name], **grid[0]) == DEFAULTS[name]


@pytest.mark.parametrize("name, overrides, message", [
    ("tarnet", {"balance": 2.0}, "read by cfr only"),
    ("mlp_gated", {"bins": 4}, "read by flow only"),
    ("cfr", {"kernel": "cosine"}, "kernel must be one of"),
    ("flow", {"bins": 1}, "bins must be a whole number"),
    ("mlp_gated_ipw", {"clip": 0.0}, "clip must be a number between"),
    ("mlp_s", {"lr": -1.0}, "lr must be a finite number"),
    ("mlp_s", {"rounds": 0}, "rounds must be a whole number"),
])
def test_wrong_configurations_are_refused(name, overrides, message):
    with pytest.raises(InputError, match=message):
        networks.fit_predict(name, [simulate()], 0, replace(DEFAULTS[name], **overrides))


def test_wrong_input_is_refused():
    table = simulate()
    with pytest.raises(InputError, match="name must be one of"):
        networks.fit_predict("mlp", [table], 0)
    with pytest.raises(InputError, match="must be a TwinConfig"):
        networks.fit_predict("flow", [table], 0, DEFAULTS["tarnet"])
    with pytest.raises(InputError, match="tables is empty"):
        networks.fit_predict("flow", [], 0)
    with pytest.raises(InputError, match="holds nan in row 3"):
        networks.fit_predict("flow", [replace(table, y=np.where(np.arange(500) == 3, np.nan, table.y))], 0)
    with pytest.raises(InputError, match="Arm 1 of table toy/a has 0 rows"):
        networks.fit_predict("flow", [replace(table, t=np.where(np.arange(500) < 400, 0, 1))], 0)


@needs_mirror
def test_a_twin_beats_the_mean_on_a_setting():
    """ACIC setting 1 at a small size: the held-out error is well below the variance of the outcome."""
    table = acic.load(1)
    loss = networks.held_out_loss("mlp_gated", [table], 0, small("mlp_gated", rounds=200, score_every=50, batch=256))
    assert loss[0] < 0.3 * table.y[table.train].var()
