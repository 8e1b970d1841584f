"""E4: per-pair gradients and the variance identity, by enumeration and by Monte Carlo."""

import copy

import numpy as np
import pytest
import torch

from gencausal.checks import InputError
from gencausal.data import synthetic
from gencausal.diffusion import Denoiser
from gencausal.distillation import generate, sid_loss
from gencausal.estimators.outcomes import DistillationConfig, TeacherConfig
from gencausal.experiments import gradients
from gencausal.nn.mlp import OutcomeNetwork

CONFIG = DistillationConfig()


def players():
    """Teacher, and a fake score and a student moved off it; only the student's decoder trains. One network each."""
    teacher = Denoiser(OutcomeNetwork(1, 2, 2, torch.Generator().manual_seed(0), width=8, depth=1, embedding=6, decoder=5)).requires_grad_(False)
    made = [teacher]
    for seed in (1, 2):
        module, rng = copy.deepcopy(teacher), torch.Generator().manual_seed(seed)
        for p in module.parameters():
            p.data += 0.2 * torch.randn(p.shape, generator=rng)
        made.append(module)
    for name, p in made[2].named_parameters():
        p.requires_grad_(not name.startswith(("network.gates", "network.trunk", "network.heads")))
    return made


@pytest.mark.parametrize("case, sign", [("equal", 1), ("large", 1), ("reversed", -1)])
def test_identity_by_enumeration(case, sign):
    """Eq. variance-identity, exact on x in three values; the difference is chi2 where |g| is constant, and its sign reverses where |g| is large at w < 1."""
    for seed in range(20):
        found = gradients.enumerated(*gradients.toy(case, seed))
        assert found["left"] == pytest.approx(found["right"], abs=1e-12)
        assert np.sign(found["right"]) == sign and found["chi2"] > 0
        if case == "equal":
            assert found["right"] == pytest.approx(found["chi2"])
    rows = gradients.toy_rows([0, 1], laws=2)
    ipw = [r["value"] for r in rows if r["dataset"] == f"toy_{case}" and (r["method"], r["metric"]) == ("ipw", "gradient_trace_relative")]
    assert len(ipw) == 4 and all(np.sign(v - 1) == sign for v in ipw)


def test_enumeration_agrees_with_pairs_drawn():
    """The two traces are the variances of w g under p(x, z) and of g under p(x) p(z)."""
    p_x, e, g = gradients.toy("large", 3)
    rng, n = np.random.default_rng(0), 400_000
    x = rng.choice(3, n, p=p_x)
    p1 = p_x @ e
    drawn = {}
    for name, law in (("ipw", e[x]), ("rand", np.full(n, p1))):
        z = (rng.random(n) < law).astype(int)
        w = np.where(z == 1, p1 / e[x], (1 - p1) / (1 - e[x])) if name == "ipw" else np.ones(n)
        drawn[name] = (w[:, None] * g[x, z]).var(0).sum()
    found = gradients.enumerated(p_x, e, g)
    assert drawn == pytest.approx({name: found[name] for name in drawn}, rel=0.02)


def test_chi2():
    """Eq. chi2: 0 where e is constant; by hand for two values; refused at 0 and 1."""
    assert gradients.chi2(np.full(9, 0.3)) == pytest.approx(0, abs=1e-12)
    assert gradients.chi2(np.array([0.2, 0.8])) == pytest.approx(0.25 * 0.5 * (1 / 0.2 + 1 / 0.8) * 2 - 1)
    with pytest.raises(InputError, match="^e must lie"):
        gradients.chi2(np.array([0.0, 0.5]))


def test_pair_gradients_are_the_parts_of_the_batch_gradient():
    """Their mean is the gradient of the batch loss, each is what its pair alone gives, and chunks change nothing."""
    teacher, fake, student = players()
    rng = torch.Generator().manual_seed(3)
    e, eps, eps_score, sigma = torch.rand(7, 6, generator=rng), torch.randn(7, 4, generator=rng), torch.randn(7, 4, generator=rng), 0.1 + torch.rand(7, generator=rng)
    found = gradients.pair_gradients(student, fake, teacher, e, eps, eps_score, sigma, CONFIG)

    def batch_gradient(rows):
        y = generate(student, eps[None, rows], e[None, rows], CONFIG.sigma_init)
        noisy, s = y + sigma[None, rows, None] * eps_score[None, rows], sigma[None, rows, None]
        loss = sid_loss(y, teacher(noisy, s, e[None, rows]), fake(noisy, s, e[None, rows]), CONFIG.alpha)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss.sum(), [p for p in student.parameters() if p.requires_grad])])

    torch.testing.assert_close(found.mean(0), batch_gradient(slice(None)), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[2], batch_gradient(slice(2, 3)), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradients.pair_gradients(student, fake, teacher, e, eps, eps_score, sigma, CONFIG, chunk=3), found, rtol=1e-4, atol=1e-6)
    assert (found[0] - found[1]).norm() > 0.01 * found[0].norm()
    torch.testing.assert_close(gradients.pair_gradients(student, teacher, teacher, e, eps, eps_score, sigma, CONFIG), torch.zeros_like(found))  # psi = phi: specification 8.5


def test_identity_holds_on_a_network():
    """Eq. bounded, Eq. variance-identity within Monte-Carlo error; IPW has the gradient of randomised pairs, observed pairs have another; constant e leaves nothing to gain."""
    teacher, fake, student = players()
    rng = torch.Generator().manual_seed(4)
    embedded = 2 * torch.randn(40, 2, 6, generator=rng)
    e = 0.1 + 0.8 * torch.rand(40, generator=rng, dtype=torch.float64)
    found = gradients.variance_identity(student, fake, teacher, embedded, e, CONFIG, seed=0, batch=32, batches=300)
    assert abs(found["identity", "identity_z"]) < 4 and abs(found["identity", "bounded_identity_z"]) < 4
    assert found["bernoulli", "bounded_gradient_trace"] < found["bernoulli", "gradient_trace"] and 0 < found["design", "tail_share"] < 0.5
    assert found["identity", "identity_left"] > 0.1 and found["identity", "identity_left"] == pytest.approx(found["identity", "identity_right"], rel=0.35)
    assert found["shuffle", "gradient_trace_relative"] == pytest.approx(1, abs=0.25)
    assert found["ipw", "gradient_bias"] < 0.2 and found["bernoulli", "gradient_bias"] == 0
    flat = gradients.variance_identity(student, fake, teacher, embedded, torch.full_like(e, 0.4), CONFIG, seed=0, batch=32, batches=100)
    assert flat["design", "chi2"] == pytest.approx(0, abs=1e-9) and flat["identity", "identity_right"] == pytest.approx(0, abs=1e-6)
    assert flat["ipw", "gradient_trace"] == pytest.approx(flat["obs", "gradient_trace"])


def test_redrawn_and_run():
    """Arms follow the clipped propensity and outcomes the arms; a run gives one row an estimator, metric, table and stage."""
    table = synthetic.load(0, k=2.0, n_train=300, n_test=20)
    again = gradients.redrawn(table, 0.1, 0)
    assert again.propensity.min() == 0.1 and again.propensity.max() <= 0.9 and (again.t != table.t).any()
    np.testing.assert_array_equal(again.y, again.potential[np.arange(320), again.t])
    small = TeacherConfig(width=8, depth=1, embedding=8, decoder=4, rounds=3, batch=16, score_every=3)
    rows = gradients.run([again], small, DistillationConfig(batch=16, draws=2), {"start": 2, "end": 4}, seed=0, batch=8, batches=6)
    assert {r["unit"] for r in rows} == {"k=2 redrawn, start", "k=2 redrawn, end"}
    assert {r["method"] for r in rows} == {*gradients.ESTIMATORS, "identity", "design"} and all(np.isfinite(r["value"]) for r in rows)
    for tables, stages, message in (([synthetic.load_arms(0, 3, 1.0, 50, 5)], {"end": 1}, "no propensity"), ([again], {"start": 0}, "at 0 rounds")):
        with pytest.raises(InputError, match=message):
            gradients.run(tables, small, DistillationConfig(), stages, 0)
