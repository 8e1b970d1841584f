"""Generative rivals: the diffusion's closed forms, weights that must count, stacks that must not mix, and rows that must not be read."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gencausal import training
from gencausal.baselines import generative
from gencausal.baselines.generative import cevae, ddpm, diffpo, ganite
from gencausal.baselines.generative.shared import draw_units, paired_normal
from gencausal.checks import InputError
from gencausal.data.stack import prepare_tables
from gencausal.data.table import CausalTable, split
from gencausal.seeding import generator, numpy_generator, stacked

TINY = {
    "diffpo": dict(rounds=12, width=16, depth=1, decoder=8, steps=10, batch=32, score_every=4, score_draws=4, draws_train=4),
    "ganite": dict(rounds=12, width=16, depth=1, batch=32, score_every=4, score_draws=4, draws_train=4),
    "cevae": dict(rounds=12, width=16, depth=1, latent=3, batch=32, score_every=4, score_draws=4, draws_train=4),
}
TINY["diffpo_bug"] = TINY["diffpo"]
METHODS = pytest.mark.parametrize("name", sorted(TINY))


def make(unit="1", n=120, arms=2, noise=0.3):
    """y = 1 + 2 x_0 + z (1 + x_1) + noise; treatment follows x_0; the third covariate has two values."""
    rng = numpy_generator(7, "made", unit)
    x = np.column_stack([rng.normal(size=(n, 2)), rng.integers(0, 2, n)])
    t = (rng.uniform(size=n) < 1 / (1 + np.exp(-x[:, 0]))).astype(np.int64) if arms == 2 else rng.integers(0, arms, n)
    mu = np.stack([1 + 2 * x[:, 0] + k * (1 + x[:, 1]) for k in range(arms)], 1)
    potential = mu + noise * rng.normal(size=mu.shape)
    train, test = split(n)
    return CausalTable("made", unit, x, t, potential[np.arange(n), t], mu, potential, None, ["a", "b", "c"], train, test)


def tiny(name, **changes):
    return generative.configuration(name, **TINY[name] | changes)


# ---------------------------------------------------------------- the diffusion


def test_forward_process_composes():
    """Eq. ddpm-schedule, Eq. ddpm-forward: the chain y_t = sqrt(1 - beta) y_{t-1} + sqrt(beta) eps, iterated, has the signal and noise of the schedule, and variance 1 stays 1."""
    betas = ddpm.quadratic_betas()
    schedule = ddpm.Schedule(betas)
    assert len(schedule) == 100 and betas[0].item() == pytest.approx(1e-4) and betas[-1].item() == pytest.approx(0.5)
    assert betas.sqrt().diff().std() < 1e-12  # quadratic: the roots are equally spaced
    signal, variance = 1.0, 0.0
    for t, beta in enumerate(betas.tolist()):
        signal, variance = (1 - beta) ** 0.5 * signal, (1 - beta) * variance + beta
        assert schedule.signal[t].item() == pytest.approx(signal, rel=1e-5) and schedule.noise[t].item() ** 2 == pytest.approx(variance, rel=1e-5)
    assert torch.allclose(schedule.signal**2 + schedule.noise**2, torch.ones(100)) and schedule.signal[-1] < 1e-3
    y, eps = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 0.5])
    assert torch.allclose(ddpm.noised(y, torch.tensor([0, 99]), eps, schedule), schedule.signal[[0, 99]] * y + schedule.noise[[0, 99]] * eps)


@pytest.mark.parametrize("t", [1, 40, 99])
def test_posterior_step_is_bayes(t):
    """Eq. ddpm-posterior with the true eps: prior N(signal y_0, noise^2) at t - 1 times the likelihood of y_t, by adding precisions."""
    betas = ddpm.quadratic_betas()
    schedule, beta = ddpm.Schedule(betas), betas[t].item()
    alpha_bar = (1 - betas).cumprod(0)
    y0, y_t, before = 0.7, -1.3, alpha_bar[t - 1].item()
    precision = 1 / (1 - before) + (1 - beta) / beta
    mean = (before**0.5 * y0 / (1 - before) + (1 - beta) ** 0.5 * y_t / beta) / precision
    eps = (y_t - alpha_bar[t].item() ** 0.5 * y0) / (1 - alpha_bar[t].item()) ** 0.5
    assert (schedule.shrink[t] * (y_t - schedule.remove[t] * eps)).item() == pytest.approx(mean, rel=1e-4)
    assert schedule.spread[t].item() ** 2 == pytest.approx(1 / precision, rel=1e-4)


def exact_noise(m, v, schedule):
    """Eq. ddpm-gaussian."""
    return lambda y, i: schedule.noise[i] * (y - schedule.signal[i] * m) / (schedule.signal[i] ** 2 * v + schedule.noise[i] ** 2)


@pytest.mark.parametrize("m, v", [(0.8, 0.25), (-0.5, 1.0)])
def test_ancestral_draws_of_a_gaussian(m, v):
    """With the exact noise of N(m, v) the chain is linear: its draws have mean m, the variance of the recursion by hand, and nearly v at T = 100."""
    schedule, rng = ddpm.Schedule(ddpm.quadratic_betas()), generator(0, "chain")
    draws = ddpm.ancestral(exact_noise(m, v, schedule), lambda: torch.randn(40_000, generator=rng), schedule)
    variance = 1.0
    for i in range(99, -1, -1):
        slope = schedule.shrink[i] * (1 - schedule.remove[i] * schedule.noise[i] / (schedule.signal[i] ** 2 * v + schedule.noise[i] ** 2))
        variance = slope.item() ** 2 * variance + (schedule.spread[i].item() ** 2 if i else 0)
    assert draws.mean().item() == pytest.approx(m, abs=4 * (v / 40_000) ** 0.5)
    assert draws.var().item() == pytest.approx(variance, rel=0.03)
    assert 0.85 < variance / v < 1.01  # the posterior variance beta~ is the small one of the two that Ho et al. discuss


def test_paired_draws_of_a_linear_model_average_to_the_mean():
    """Eq. paired: of a Gaussian, each pair of chains has the exact mean, so ten draws give the point estimate without Monte Carlo error."""
    schedule, streams = ddpm.Schedule(ddpm.quadratic_betas()), [generator(1, "paired")]
    draws = ddpm.ancestral(exact_noise(0.8, 0.25, schedule), lambda: paired_normal(streams, 50, 10), schedule)
    assert torch.allclose(draws.mean(-1), torch.full((1, 50), 0.8), atol=1e-5) and draws.std() > 0.3
    odd = paired_normal(streams, 4, 3)
    assert odd.shape == (1, 4, 3) and torch.equal(odd[..., 0], -odd[..., 2])


# ---------------------------------------------------------------- weights


def test_one_hot_weights_select_one_unit_except_under_the_defect():
    """Defect P2: a one-hot weight must give that unit's loss; the broadcast table gives everybody's mean whatever the weights."""
    residual = torch.randn(2, 6, 3, generator=generator(0, "residual"))
    for chosen in range(6):
        weight = 6.0 * torch.eye(6)[chosen].expand(2, 6)
        assert torch.allclose(diffpo.weighted(residual, weight), residual[:, chosen].square().mean(1))
        assert torch.allclose(diffpo.weighted_broadcast(residual, weight), residual.square().mean((1, 2)))
    spread = residual.square().mean(2).std(1).min()
    assert spread > 0.1  # so the two really differ
    uniform = torch.ones(2, 6)
    assert torch.allclose(diffpo.weighted(residual, uniform), diffpo.weighted_broadcast(residual, uniform))


def test_orthogonal_weights_and_their_clamps():
    """Eq. diffpo-loss, the weights: 1/pi of the arm received; propensities of 0.05 and below, and all weights above 3, give 3: pi is floored at one third."""
    pi = torch.tensor([0.5, 0.5, 0.8, 0.8, 0.01, 0.3])
    z = torch.tensor([1, 0, 1, 0, 1, 1])
    assert torch.allclose(diffpo.orthogonal_weights(pi, z), torch.tensor([2.0, 2.0, 1.25, 3.0, 3.0, 3.0]))
    grid = torch.linspace(0.001, 0.999, 99)
    assert diffpo.orthogonal_weights(grid, torch.ones(99, dtype=torch.long)).min() >= 1  # the lower clamp at 0.5 never acts


def test_propensities_are_cross_fitted_per_data_set():
    """Each row's pi comes from folds without it (turning its arm leaves it unchanged), and a data set's from itself alone."""
    data = prepare_tables([make("1"), make("2")], 0)
    pi = diffpo.propensity(data)
    assert pi.shape == data.z.shape and ((0 < pi) & (pi < 1)).all() and torch.equal(diffpo.propensity(prepare_tables([make("2")], 0))[0], pi[1])
    treated = data.x[0, :, 0] > data.x[0, :, 0].median()
    assert pi[0][treated].mean() > pi[0][~treated].mean() + 0.1
    assert not torch.equal(pi[0], pi[1])


# ---------------------------------------------------------------- ganite and cevae


def test_ganite_completes_only_what_is_missing():
    """Eq. ganite-cf: the observed outcome stays, the other is the generator's."""
    y, z, made = torch.tensor([[1.0, 2.0]]), torch.tensor([[0, 1]]), torch.tensor([[[9.0, 8.0], [7.0, 6.0]]])
    assert ganite.completed(y, z, made).tolist() == [[[1.0, 8.0], [7.0, 2.0]]]


def test_cevae_terms_match_torch_distributions():
    """KL and Gaussian likelihood of Eq. cevae against torch's own."""
    mean, log_sd = torch.randn(2, 5, 3, generator=generator(0, "kl")).unbind(0)
    normal = torch.distributions.Normal
    kl = torch.distributions.kl_divergence(normal(mean, log_sd.exp()), normal(0.0, 1.0)).sum(-1)
    assert torch.allclose(cevae.divergence(mean, log_sd), kl, atol=1e-5) and cevae.divergence(torch.zeros(1, 3), torch.zeros(1, 3)) == 0
    nll = -normal(mean, log_sd.exp()).log_prob(torch.ones(5, 3)) - 0.5 * np.log(2 * np.pi)
    assert torch.allclose(cevae.gaussian_nll(torch.ones(5, 3), mean, log_sd), nll, rtol=1e-4, atol=1e-4)


def test_cevae_draws_share_latent_and_noise_over_arms():
    """With one outcome head for both arms the two potential outcomes of a draw are equal; with two they are not."""
    data = prepare_tables([make()], 0)
    module = cevae.Cevae(1, 3, 2, torch.zeros(1, 1, 3, dtype=torch.bool), generator(0, "init"), tiny("cevae"))
    with torch.no_grad():
        draws = lambda: module.draw(data.x[:, :8], 6, data.generators(0, "draw"))  # noqa: E731
        assert draws().shape == (1, 8, 2, 6) and not torch.allclose(draws()[:, :, 0], draws()[:, :, 1])
        module.p_y.out.weight[..., 1] = module.p_y.out.weight[..., 0]
        assert torch.allclose(draws()[:, :, 0], draws()[:, :, 1])


def test_cevae_finds_the_two_valued_covariate():
    fitted = generative.fit("cevae", prepare_tables([make()], 0), 0, tiny("cevae", rounds=1, score_every=1))
    assert fitted.draw.__self__.binary.flatten().tolist() == [False, False, True]


# ---------------------------------------------------------------- every method


@METHODS
def test_predictions_have_their_contract(name):
    """Finite means of every row, sorted finite draws of the test rows, K arms, in the order of the tables."""
    tables = [make("1"), make("2")]
    for table, found in zip(tables, generative.fit_predict(name, tables, 0, tiny(name), draws=7)):
        assert found.method == name and found.mu.shape == table.mu.shape and found.draws.shape == (len(table.test), 2, 7)
        assert np.isfinite(found.mu).all() and np.isfinite(found.draws).all() and (np.diff(found.draws, axis=2) >= 0).all()
        point = np.median if name.startswith("diffpo") else np.mean
        assert np.allclose(found.mu[table.test], point(found.draws, -1), atol=1e-5)


@METHODS
def test_slices_never_mix(name):
    """A table is predicted alike alone and in company; another seed differs."""
    tables = [make("1"), make("2"), make("3")]
    together = generative.fit_predict(name, tables, 0, tiny(name), draws=6)
    alone = generative.fit_predict(name, tables[1:2], 0, tiny(name), draws=6)[0]
    assert np.allclose(together[1].mu, alone.mu, atol=1e-4) and np.allclose(together[1].draws, alone.draws, atol=1e-4)
    assert not np.allclose(generative.fit_predict(name, tables[1:2], 1, tiny(name), draws=6)[0].mu, alone.mu, atol=1e-2)


@METHODS
def test_truth_and_test_outcomes_are_not_read(name):
    """Other test outcomes, test arms, means and potential outcomes leave every bit alike; another training outcome does not."""
    table = make()
    y, t, train_y = table.y.copy(), table.t.copy(), table.y.copy()
    y[table.test], t[table.test], train_y[table.train[:40]] = 1e6, 1 - t[table.test], train_y[table.train[:40]] + 3
    changed = replace(table, y=y, t=t, mu=table.mu + 100, potential=table.potential - 50)
    predict = lambda one: generative.fit_predict(name, [one], 0, tiny(name), draws=5)[0]  # noqa: E731
    first, second = predict(table), predict(changed)
    assert np.array_equal(first.mu, second.mu) and np.array_equal(first.draws, second.draws)
    assert not np.allclose(predict(replace(table, y=train_y)).mu, first.mu, atol=1e-2)
    config = tiny(name, rounds=2)
    assert np.array_equal(generative.held_out_loss(name, [table], 0, config, draws=4), generative.held_out_loss(name, [changed], 0, config, draws=4))


@METHODS
def test_outcomes_of_another_scale(name):
    """y -> 40 + 25 y gives mu -> 40 + 25 mu and the same for the draws: the scaler is the only place where a scale lives."""
    table = make()
    moved = replace(table, y=40 + 25 * table.y)
    a, b = (generative.fit_predict(name, [one], 0, tiny(name), draws=5)[0] for one in (table, moved))
    assert np.allclose(40 + 25 * a.mu, b.mu, rtol=1e-3) and np.allclose(40 + 25 * a.draws, b.draws, rtol=1e-3, atol=1e-2)


@METHODS
def test_a_unit_is_drawn_alike_whatever_follows(name):
    """Draws of the first units do not depend on the units after them."""
    data = prepare_tables([make()], 0)
    fitted = generative.fit(name, data, 0, tiny(name, rounds=2))
    some, all_ = (draw_units(data, fitted, data.x[:, :n], 100, 0, "test") for n in (4, 9))
    assert torch.allclose(some, all_[:, :4], atol=1e-5) and not torch.allclose(all_[:, 0], all_[:, 1])


class Killed(BaseException):
    """Stands for kill -9."""


@METHODS
def test_a_killed_run_ends_in_the_same_bits(name, tmp_path, monkeypatch):
    """Killed in the middle of training and started again, the predictions are those of a run that never stopped; a third call reads the finished file."""
    tables, config = [make("1"), make("2")], tiny(name)
    straight = generative.fit_predict(name, tables, 0, config, draws=5)
    update, count, clock = training._update, [0], [0.0]

    def killing(*arguments):
        count[0] += 1
        if count[0] == 20:  # ganite: 6 rounds of 3; the others have 12 updates and are killed at 8
            raise Killed
        return update(*arguments)

    def ticking():
        clock[0] += 30  # every look at the clock is half a minute later, so that each round is saved
        return clock[0]

    count[0] = 0 if name == "ganite" else 12
    with monkeypatch.context() as patch:
        patch.setattr(training, "_update", killing)
        patch.setattr(training.time, "monotonic", ticking)
        with pytest.raises(Killed):
            generative.fit_predict(name, tables, 0, config, folder=tmp_path, draws=5)
    assert list(tmp_path.glob("*.safetensors"))
    resumed = generative.fit_predict(name, tables, 0, config, folder=tmp_path, draws=5)
    for a, b in zip(straight, resumed):
        assert np.array_equal(a.mu, b.mu) and np.array_equal(a.draws, b.draws)
    monkeypatch.setattr(training, "_update", None)
    again = generative.fit_predict(name, tables, 0, config, folder=tmp_path, draws=5)
    assert np.array_equal(again[0].draws, resumed[0].draws)


@pytest.mark.parametrize("name, changes", [
    ("diffpo", dict(rounds=200, width=32, depth=2, decoder=16, steps=30, batch=64, lr=1e-2, average=0.95, score_every=100)),
    ("ganite", dict(rounds=120, width=32, depth=1, batch=64, lr=1e-2, average=0.95, score_every=60)),
    ("cevae", dict(rounds=300, width=32, depth=2, latent=3, batch=64, lr=1e-2, average=0.95, score_every=100)),
])
def test_each_method_learns_means_and_arms(name, changes):
    """Eq. ganite-ite and the other losses reach the truth: on a confounded linear table with 500 rows: the error of the means is a fraction of their spread, the mean effect is nearer to the truth than the
    difference of arm means, and effects vary with x_1 as they should (CEVAE needs longer for that)."""
    table = make(n=500)
    found = generative.fit_predict(name, [table], 0, tiny(name, **changes), draws=40)[0]
    error = np.sqrt(np.mean((found.mu[table.test] - table.mu[table.test]) ** 2))
    assert error < {"diffpo": 0.25, "ganite": 0.5, "cevae": 0.5}[name] * table.mu.std()
    effect, truth = (m[table.test, 1] - m[table.test, 0] for m in (found.mu, table.mu))
    arms = [table.y[table.train][table.t[table.train] == k].mean() for k in (0, 1)]
    confounded = abs(arms[1] - arms[0] - truth.mean())
    assert confounded > 1 and abs(effect.mean() - truth.mean()) < 0.5 * confounded  # it adjusts
    assert name == "cevae" or np.corrcoef(effect, truth)[0, 1] > 0.5
    if name == "diffpo":  # the law, not only its centre: true noise 0.3
        assert 0.2 < found.draws.std(-1).mean() < 0.6


def test_weights_change_diffpo_and_not_its_defect():
    """The defect trains as if there were no weights (up to rounding); the orthogonal weights give other predictions."""
    table = make(n=200)
    mu = {w: generative.fit_predict("diffpo", [table], 0, tiny("diffpo", weights=w, rounds=40), draws=5)[0].mu for w in diffpo.WEIGHTS}
    assert np.allclose(mu["broadcast"], mu["none"], atol=1e-3)
    assert np.abs(mu["orthogonal"] - mu["none"]).max() > 0.02
    assert generative.configuration("diffpo_bug").weights == "broadcast"


def test_grids_are_three_configurations_the_first_chosen():
    for name in TINY:
        assert len(generative.GRID[name]) == 3 and generative.configuration(name) == generative.configuration(name, **generative.GRID[name][0])
        assert len({str(generative.configuration(name, **point)) for point in generative.GRID[name]}) == 3


def test_the_untuned_variant_keeps_its_last_weights():
    """No held-out score, no averaging, a constant rate: the weights drawn from are those of the last step."""
    config = generative.configuration("diffpo_untuned", **TINY["diffpo"] | {"score_every": 0})
    assert (config.weights, config.levels, config.floor, config.average) == ("orthogonal", 1, 1.0, 0.0) and generative.configuration("diffpo_untuned").score_every == 0
    fitted = generative.fit("diffpo_untuned", prepare_tables([make()], 0), 0, config)
    assert fitted.trained[0].scores == [] and fitted.trained[0].rounds == config.rounds


def test_errors_name_the_argument():
    table, three = make(), make("3", arms=3)
    holes = replace(table, y=np.where(np.arange(len(table.y)) == 3, np.nan, table.y))
    for call, words in (
        (lambda: generative.fit_predict("nope", [table], 0), "name must be one of"),
        (lambda: generative.fit_predict("diffpo", [], 0), "tables is empty"),
        (lambda: generative.fit_predict("diffpo", [three], 0), "two arms, not 3"),
        (lambda: generative.fit_predict("cevae", [table, make("2", n=80)], 0), "split otherwise"),
        (lambda: generative.fit_predict("ganite", [holes], 0), "holds nan"),
        (lambda: generative.fit_predict("diffpo", [table], 0, draws=1), "draws"),
        (lambda: generative.fit_predict("diffpo", [table], 0, tiny("cevae")), "must be a DiffPOConfig"),
        (lambda: generative.fit_predict("diffpo", [table], 0, tiny("diffpo", weights="some")), "config.weights"),
        (lambda: generative.fit_predict("diffpo", [replace(table, t=np.zeros_like(table.t))], 0), "one arm only"),
    ):
        with pytest.raises(InputError, match=words):
            call()
    assert stacked(torch.randn, [generator(0, "a")], 2).shape == (1, 2)
