"""The stacked outcome models: conventions, invariances, and a known effect recovered."""

import copy

import numpy as np
import pytest
import torch

from gencausal.checks import InputError
from gencausal.data.stack import CLIP, prepare_tables, table_rows
from gencausal.data.table import CausalTable, split
from gencausal.diffusion import GaussianTeacher
from gencausal.estimators import outcomes
from gencausal.estimators.outcomes import DistillationConfig, TeacherConfig, distil, generator_draws, only, potential_draws, predict, train_teacher
from gencausal.sampling import stratified_normal

TEACHER = TeacherConfig(width=16, depth=2, embedding=16, decoder=16, rounds=30, batch=64, score_every=10)
STUDENT = DistillationConfig(rounds=12, batch=32, score_every=4)


def table(seed: int, n: int = 300, unit: str = "a") -> CausalTable:
    """Linear effect 1 + x_1 under confounding by x_0, noise sd 0.3."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    t = (rng.random(n) < 1 / (1 + np.exp(-x[:, 0]))).astype(np.int64)
    mu = np.stack([x[:, 0], x[:, 0] + 1 + x[:, 1]], 1)
    potential = mu + 0.3 * rng.normal(size=(n, 2))
    return CausalTable("toy", unit, x, t, potential[np.arange(n), t], mu, potential, None, list("abcd"), *split(n))


@pytest.fixture(scope="module")
def stack(device):
    """Two tables, their teachers and shuffled generators, hardly trained."""
    tables = [table(0), table(1, unit="b")]
    data = prepare_tables(tables, seed=0, device=device)
    teacher = train_teacher(data, TEACHER, seed=0).modules["teacher"]
    before = copy.deepcopy(teacher.state_dict())
    student = distil(teacher, data, STUDENT, seed=0).modules["generator"]
    return tables, data, teacher, student, before


def test_training_tensors_see_factual_training_rows_only():
    """Specification 8.12: another test row, counterfactual or truth leaves every training tensor as it is; a fit row does not."""
    toy = table(0)
    base = prepare_tables([toy], seed=0)
    other = copy.deepcopy(toy)
    other.y[toy.test] += 5
    other.x[toy.test] *= 3
    other.potential[:] = 0
    other.mu[:] = 0
    assert prepare_tables([other], seed=0).signature() == base.signature()
    fit, held = toy.validation(0)
    for rows, moves_scale in ((fit[:1], True), (held[:1], False)):
        other = copy.deepcopy(toy)
        other.y[rows] += 5
        changed = prepare_tables([other], seed=0)
        assert changed.signature() != base.signature()
        assert (changed.y_scale != base.y_scale).item() is moves_scale
    assert not set(base.fit[0].tolist()) & set(base.held[0].tolist())


def test_scaled_fit_rows_have_the_model_scale():
    """Outcome sd 0.5 = sigma_data, mean 0; covariates mean 0, sd 1, on the fit rows."""
    data = prepare_tables([table(0)], seed=0)
    y = table_rows(data.y, data.fit)
    assert y.mean().item() == pytest.approx(0, abs=1e-6) and y.std(correction=0).item() == pytest.approx(0.5, rel=1e-5)
    x = table_rows(data.x, data.fit)
    assert torch.allclose(x.mean(1), torch.zeros(1, 4), atol=1e-5) and torch.allclose(x.std(1, correction=0), torch.ones(1, 4), atol=1e-4)


def test_constant_columns_and_outliers_are_harmless():
    toy = table(0)
    toy.x[:, 3] = 7.0
    toy.x[0, 2] = 1e6
    data = prepare_tables([toy], seed=0)
    assert torch.isfinite(data.x).all() and data.x.abs().max() <= CLIP and (data.x[:, :, 3] == 0).all()


def test_the_teacher_is_untouched_by_the_distillation(stack):
    """Specification 8.7: bit-identical after stage 2, while the generator has moved."""
    _, _, teacher, student, before = stack
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert not torch.equal(student.network.out.weight, teacher.network.out.weight)


@pytest.mark.parametrize("trainable, moved", [("decoder", False), ("all", True)])
def test_what_trains(stack, trainable, moved):
    """`decoder` keeps gates, trunk and heads of the teacher; `all` moves them."""
    _, data, teacher, _, _ = stack
    student = distil(teacher, data, DistillationConfig(rounds=3, batch=16, score_every=1, trainable=trainable), seed=1).modules["generator"]
    assert torch.equal(student.network.trunk[0].weight, teacher.network.trunk[0].weight) is not moved
    assert not torch.equal(student.network.hidden.weight, teacher.network.hidden.weight)


@pytest.mark.parametrize("change", [dict(law="obs"), dict(law="ipw"), dict(law="bernoulli"), dict(divergence="dmd"), dict(alpha=1.0)])
def test_every_variant_runs_and_differs(stack, change):
    _, data, teacher, student, _ = stack
    config = {"rounds": 12, "batch": 32, "score_every": 4} | change
    other = distil(teacher, data, DistillationConfig(**config), seed=0).modules["generator"]
    assert all(torch.isfinite(p).all() for p in other.parameters())
    assert not torch.equal(other.network.out.weight, student.network.out.weight)


@pytest.mark.parametrize("law", ["shuffle", "obs", "ipw", "bernoulli"])
def test_the_law_reaches_every_loss(stack, law, monkeypatch):
    """The arms of the law, and for ipw its weights, are those under which student, teacher and fake are evaluated; the fake is unweighted."""
    _, data, teacher, _, _ = stack
    pairs, weights, embedded = [], [], []
    draw, sid, embed = outcomes.draw_pairs, outcomes.sid_loss, outcomes.Denoiser.embed
    monkeypatch.setattr(outcomes, "draw_pairs", lambda *a, **k: pairs.append(draw(*a, **k)) or pairs[-1])
    monkeypatch.setattr(outcomes, "sid_loss", lambda y, p, f, alpha, log_w: weights.append(log_w) or sid(y, p, f, alpha, log_w))
    monkeypatch.setattr(outcomes.Denoiser, "embed", lambda self, x, z: embedded.append((x.detach(), z)) or embed(self, x, z))
    distil(teacher, data, DistillationConfig(law=law, rounds=2, batch=64, score_every=5, trainable="all", fake_updates=1), seed=0)
    assert len(pairs) == 4 and len(weights) == 2 and len(embedded) >= 8  # a generator and a fake step a round, two embeddings each
    z = table_rows(data.z, data.fit)
    for i, made in enumerate(pairs):
        assert all(torch.equal(seen[1], made.z) and torch.equal(seen[0], table_rows(table_rows(data.x, data.fit), made.row)) for seen in embedded[2 * i:2 * i + 2])
        assert torch.equal(made.z, z.gather(1, made.row)) is (law in ("obs", "ipw"))
        if i % 2 == 0:
            assert weights[i // 2] is made.log_w
    if law == "ipw":
        own = outcomes.log_inverse_propensity(z, table_rows(outcomes.estimated_propensity(data), data.fit))
        assert all(torch.allclose(made.log_w, own.gather(1, made.row)) and made.log_w.std() > 0.05 for made in pairs)


def test_laws_share_rows_and_noise(stack):
    """Common random numbers: with every arm equal, all laws of unit weight give the same generator."""
    tables, _, _, _, _ = stack
    data = prepare_tables(tables, seed=0)
    data.z[:] = 1
    teacher = train_teacher(data, TEACHER, seed=0).modules["teacher"]
    same = [distil(teacher, data, DistillationConfig(law=law, rounds=3, batch=16, score_every=5), seed=0).modules["generator"] for law in ("shuffle", "obs")]
    assert torch.equal(same[0].network.hidden.weight, same[1].network.hidden.weight)


def test_unknown_choices_are_refused(stack):
    _, data, teacher, _, _ = stack
    for change, name in ((dict(divergence="kl"), "divergence"), (dict(trainable="head"), "trainable"), (dict(law="random"), "law")):
        with pytest.raises(ValueError, match=name):
            distil(teacher, data, DistillationConfig(rounds=1, **change), seed=0)


def test_a_stack_trains_like_its_members(stack):
    """Each table alone gives the draws it gives in company, up to rounding."""
    tables, data, teacher, student, _ = stack
    for s, toy in enumerate(tables):
        alone = prepare_tables([toy], seed=0, device=data.device)
        own_teacher = train_teacher(alone, TEACHER, seed=0).modules["teacher"]
        own = distil(own_teacher, alone, STUDENT, seed=0).modules["generator"]
        found = predict(alone, [toy], own, generator_draws(2.5), 20)
        together = predict(data, tables, student, generator_draws(2.5), 20)
        assert np.allclose(found.draws[0], together.draws[s], atol=2e-3)
    assert np.abs(together.draws[0] - together.draws[1]).max() > 0.1


def test_only_takes_one_slice(stack):
    tables, data, _, student, _ = stack
    one, network = only(data, student, 1)
    x, eps = tables[1].x[:7], stratified_normal(9, data.device)
    assert np.allclose(potential_draws(one, network, generator_draws(2.5), x, eps)[0], potential_draws(data, student, generator_draws(2.5), x, eps)[1], atol=1e-5)
    assert one.units == ("toy/b",)


def test_another_unit_of_the_outcome_is_other_data():
    """Y and 2 Y have the same scaled values; their signatures differ, so that no cached prediction is taken for the other's."""
    toy, double = table(0), table(0)
    double.y[:] *= 2
    assert torch.allclose(prepare_tables([toy], 0).y, prepare_tables([double], 0).y) and prepare_tables([toy], 0).signature() != prepare_tables([double], 0).signature()


def test_large_offsets_cost_no_digits(stack):
    """Covariates and outcomes far from zero are scaled in float64: the same scaled data, and effects that do not round away."""
    tables, data, _, student, _ = stack
    far = copy.deepcopy(tables)
    for toy in far:
        toy.x[:] += 1e7
        toy.y[:] += 1e8
    moved = prepare_tables(far, seed=0)
    assert torch.allclose(moved.x, data.x, atol=1e-4) and torch.allclose(moved.y, data.y, atol=1e-4)
    eps = stratified_normal(9, data.device)
    effect = [np.subtract(*potential_draws(d, student, generator_draws(2.5), t[0].x[:20], eps)[0].transpose(1, 0, 2)) for d, t in ((data, tables), (moved, far))]
    assert np.allclose(*effect, atol=1e-3) and np.abs(effect[0]).max() > 0.1


def test_tables_of_another_split_do_not_stack():
    other = table(1, unit="b")
    swapped = CausalTable(**{**vars(other), "train": other.test, "test": other.train})
    with pytest.raises(InputError, match="split otherwise"):
        prepare_tables([table(0), swapped], seed=0)


def test_chunks_and_batches_do_not_matter(stack):
    tables, data, _, student, _ = stack
    x, eps = tables[0].x[:40], stratified_normal(9, data.device)
    whole = potential_draws(data, student, generator_draws(2.5), x, eps)
    assert np.allclose(potential_draws(data, student, generator_draws(2.5), x, eps, chunk=100), whole, atol=1e-5)
    assert np.allclose(potential_draws(data, student, generator_draws(2.5), x[5:6], eps), whole[:, 5:6], atol=1e-5)


def test_predictions_are_remembered(stack, tmp_path, monkeypatch):
    tables, data, _, student, _ = stack
    first = predict(data, tables, student, generator_draws(2.5), 9, 5, tmp_path, "one step")
    monkeypatch.setattr(outcomes, "potential_draws", lambda *a, **k: pytest.fail("computed again"))
    again = predict(data, tables, student, generator_draws(2.5), 9, 5, tmp_path, "one step")
    assert np.array_equal(first.mu, again.mu) and np.array_equal(first.draws, again.draws)
    test = tables[0].test
    assert np.allclose(first.mu[0, test], first.draws[0].mean(-1), rtol=1e-5) and np.allclose(first.median[0, test], np.median(first.draws[0], -1), rtol=1e-5)
    own = potential_draws(data, student, generator_draws(2.5), tables[0].x[tables[0].train[data.held[0].cpu().numpy()]], stratified_normal(9, data.device))
    assert np.allclose(first.held[0], own[0][np.arange(data.held.shape[1]), data.z[0][data.held[0]].cpu().numpy()], rtol=1e-4, atol=1e-4)


def test_an_ensemble_deals_its_draws_to_its_members(stack):
    """Draw j is member j mod M's; one member thrice is that member, and fewer draws than members use the first of them."""
    tables, data, teacher, student, _ = stack
    x, eps = tables[0].x[:7], stratified_normal(9, data.device)
    draw = generator_draws(2.5)
    one, other = (potential_draws(data, m, draw, x, eps) for m in (student, teacher))
    pooled = potential_draws(data, [student, teacher], draw, x, eps)
    assert np.allclose(pooled[..., ::2], one[..., ::2], atol=1e-5) and np.allclose(pooled[..., 1::2], other[..., 1::2], atol=1e-5)
    assert not np.allclose(one, other, atol=1e-3)
    assert np.allclose(potential_draws(data, [student] * 3, draw, x, eps), one, atol=1e-5)
    assert np.allclose(potential_draws(data, [student, teacher], draw, x, eps[:1]), one[..., :1], atol=1e-5)
    random = torch.randn(len(tables), 7, 2, 4)
    assert np.allclose(potential_draws(data, [teacher, student], draw, x, random)[..., 1::2], potential_draws(data, student, draw, x, random)[..., 1::2], atol=1e-5)


def test_member_seeds_differ():
    assert outcomes.member_seeds(3, 1) == [3] and len(set(outcomes.member_seeds(3, 5) + outcomes.member_seeds(4, 5))) == 10


@pytest.mark.parametrize("law", ["shuffle", "obs"])
def test_an_exact_teacher_is_reached(law, device):
    """E3 of the specification in small: teacher N(mu_z(x), v) in closed form, generator and fake score fresh networks. The generator's means come
    within 0.15 sd of the outcome of mu, its spread within 30 % of sqrt(v), though its losses see no outcome."""
    toy = table(7, n=600)
    data = prepare_tables([toy], seed=0, device=device)
    scaled = lambda a: torch.as_tensor(a, dtype=torch.float32, device=device)  # noqa: E731

    def mean(x):
        own = x * scaled(data.x_scale)[:, None] + scaled(data.x_center)[:, None]
        mu = torch.stack([own[..., 0], own[..., 0] + 1 + own[..., 1]], -1)
        return (mu - data.y_center[0]) / data.y_scale[0]

    variance = (0.3 / data.y_scale.item()) ** 2
    fresh = train_teacher(data, TeacherConfig(width=32, depth=2, embedding=32, decoder=32, rounds=1, batch=8, gate_penalty=0.0, gate=1.0), seed=0).modules["teacher"]
    config = DistillationConfig(law=law, trainable="all", rounds=500, batch=128, generator_lr=2e-3, fake_lr=4e-3, score_every=100)
    student = distil(GaussianTeacher(mean, variance).to(device), data, config, seed=0, start=fresh).modules["generator"]
    found = predict(data, [toy], student, generator_draws(config.sigma_init), 25)
    inside = np.abs(toy.x[toy.test]).max(1) < 2
    error = (found.mu[0] - toy.mu)[toy.test][inside]
    assert np.sqrt((error**2).mean()) < 0.15 * toy.y.std()
    assert found.draws[0][inside].std(-1).mean() == pytest.approx(0.3, rel=0.3)
    for change, start, message in ((dict(), fresh, "start needs trainable='all'"), (dict(trainable="all"), None, "start is missing")):
        with pytest.raises(InputError, match=message):
            distil(GaussianTeacher(mean, variance).to(device), data, DistillationConfig(**change), seed=0, start=start)
