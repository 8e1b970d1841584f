"""Laws of pairs, losses and the distillation game against closed forms."""

import copy

import pytest
import torch

from gencausal.diffusion import Denoiser, gaussian_denoiser
from gencausal.distillation import LAWS, dmd_loss, draw_pairs, generate, log_inverse_propensity, sid_loss
from gencausal.nn.mlp import OutcomeNetwork
from gencausal.schedules import sid_sigma
from gencausal.seeding import generator

ALPHAS = [0.0, 0.5, 1.0, 1.2]


def streams(stack=2, seed=0):
    return [generator(seed, "pairs", s) for s in range(stack)]


def arms(n=400, stack=2):
    return (torch.arange(n) % 4 == 0).long().repeat(stack, 1)


# --- laws -----------------------------------------------------------------------------------------------------------------


def test_shuffle_keeps_the_multisets_and_breaks_the_pairs():
    """Eq. laws: rows are those drawn, arms are those of the same rows in another order; x and z become uncorrelated."""
    z = arms()
    shuffled, observed = draw_pairs("shuffle", z, 4000, streams()), draw_pairs("obs", z, 4000, streams())
    assert torch.equal(shuffled.row, observed.row)
    assert torch.equal(shuffled.z.sort(1).values, observed.z.sort(1).values)
    own = z.gather(1, shuffled.row)
    assert torch.equal(observed.z, own) and not torch.equal(shuffled.z, own)
    for s in range(2):
        correlation = torch.corrcoef(torch.stack([own[s].float(), shuffled.z[s].float()]))[0, 1]
        assert abs(correlation) < 4 / 4000**0.5


def test_bernoulli_and_weights():
    z = arms()
    drawn = draw_pairs("bernoulli", z, 10_000, streams(), probability=0.3)
    assert drawn.z.float().mean().item() == pytest.approx(0.3, abs=0.02) and drawn.log_w is None
    log_weight = torch.randn(2, 400, generator=torch.Generator().manual_seed(0))
    weighted = draw_pairs("ipw", z, 50, streams(), log_weight=log_weight)
    assert torch.equal(weighted.log_w, log_weight.gather(1, weighted.row)) and torch.equal(weighted.z, z.gather(1, weighted.row))


def test_laws_are_named_and_complete():
    with pytest.raises(ValueError, match="law must be one of shuffle, obs, ipw, bernoulli"):
        draw_pairs("random", arms(), 5, streams())
    with pytest.raises(ValueError, match="log_weight"):
        draw_pairs("ipw", arms(), 5, streams())


@pytest.mark.parametrize("law", LAWS)
def test_a_networks_pairs_do_not_depend_on_the_stack(law):
    log_weight = torch.zeros(2, 400)
    both = draw_pairs(law, arms(), 64, streams(), log_weight=log_weight)
    alone = draw_pairs(law, arms(stack=1), 64, streams()[1:], log_weight=log_weight[:1])
    assert torch.equal(both.row[1], alone.row[0]) and torch.equal(both.z[1], alone.z[0])


def toy():
    """x in three values with p(x), p(z=1|x), and a per-pair gradient g(x, z): everything by enumeration."""
    p_x = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    e = torch.tensor([0.2, 0.5, 0.7], dtype=torch.float64)
    p_z_given_x = torch.stack([1 - e, e], 1)
    p_z = (p_x[:, None] * p_z_given_x).sum(0)
    return p_x, p_z_given_x, p_z


def test_ipw_identity_by_enumeration():
    """Eq. ipw-identity, specification 2.4: E_{p(x,z)}[w g] = E_{p(x)p(z)}[g] and E_{p(x)p(z)}[w] = 1 + chi2."""
    p_x, p_zx, p_z = toy()
    w = p_z / p_zx
    g = torch.tensor([[1.0, -2.0], [0.5, 3.0], [-1.0, 4.0]], dtype=torch.float64)
    joint, product = p_x[:, None] * p_zx, p_x[:, None] * p_z
    assert torch.allclose((joint * w * g).sum(), (product * g).sum())
    chi2 = (p_x * (p_z**2 / p_zx).sum(1)).sum() - 1
    assert torch.allclose((product * w).sum(), 1 + chi2) and chi2 > 0.05


@pytest.mark.parametrize("g, sign", [([[2.0, 1.0], [1.0, 1.0], [1.0, 2.0]], 0), ([[0.1, 4.0], [1.0, 1.0], [4.0, 0.1]], 1), ([[4.0, 0.1], [1.0, 1.0], [0.1, 4.0]], -1)])
def test_variance_difference_by_enumeration(g, sign):
    """Eq. variance-identity, specification 2.4: Var_ipw - Var_random = E_{p(x)p(z)}[(w - 1) g^2]; its sign reverses where g is large at w < 1."""
    p_x, p_zx, p_z = toy()
    w, g = p_z / p_zx, torch.tensor(g, dtype=torch.float64)
    joint, product = p_x[:, None] * p_zx, p_x[:, None] * p_z
    mean = (product * g).sum()
    difference = ((joint * (w * g) ** 2).sum() - mean**2) - ((product * g**2).sum() - mean**2)
    assert torch.allclose(difference, (product * (w - 1) * g**2).sum())
    assert sign == 0 or torch.sign(difference).item() == sign


def test_log_inverse_propensity():
    """p(z) / p(z|x), with the propensity clipped."""
    z, e = torch.tensor([[1, 0, 1, 0]]), torch.tensor([[0.8, 0.4, 0.001, 0.999]])
    w = log_inverse_propensity(z, e, clip=0.05).exp()
    assert w[0].tolist() == pytest.approx([0.5 / 0.8, 0.5 / 0.6, 0.5 / 0.05, 0.5 / 0.05])


# --- losses ---------------------------------------------------------------------------------------------------------------


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_two_forms_of_the_sid_loss_agree(alpha):
    """Eq. sid = Eq. sid-split, with one draw a pair (the per-sample normaliser of the source)."""
    y, d_phi, d_psi = (randn(2, 5, 1, seed=s) for s in range(3))
    gap = (y - d_phi).abs().clamp(min=1e-5)
    direct = ((d_phi - d_psi) * ((d_phi - y) - alpha * (d_phi - d_psi)) / gap).mean((1, 2))
    assert torch.allclose(sid_loss(y, d_phi, d_psi, alpha), direct)


@pytest.mark.parametrize("loss", [lambda *a, **k: sid_loss(*a, 0.5, **k), dmd_loss])
def test_one_hot_weight_gives_one_pairs_loss(loss):
    y, d_phi, d_psi = (randn(2, 5, 3, seed=s) for s in range(3))
    log_w = torch.full((2, 5), -torch.inf, dtype=torch.float64)
    log_w[:, 3] = 0
    assert torch.allclose(loss(y, d_phi, d_psi, log_w=log_w), loss(y[:, 3:4], d_phi[:, 3:4], d_psi[:, 3:4]))
    assert not torch.allclose(loss(y, d_phi, d_psi, log_w=log_w), loss(y, d_phi, d_psi))
    with pytest.raises(ValueError, match="log_w"):
        loss(y, d_phi, d_psi, log_w=log_w[:, :, None])


@pytest.mark.parametrize("alpha", ALPHAS)
def test_gradient_of_the_sid_loss_in_the_gaussian_case(alpha):
    """Eq. sid-gradient, specification 8.4: teacher N(mu, v), fake exact for N(m, v): before the normaliser
    dL/dy = -sigma^4 (mu - m) / (sigma^2 + v)^2 for every alpha, so that descent moves m towards mu."""
    mu, m, v, sigma = (torch.tensor(a, dtype=torch.float64) for a in (1.2, 0.3, 0.2, 0.9))
    y = randn(1, 4, 1).requires_grad_(True)
    noisy = y + sigma * randn(1, 4, 1, seed=1)
    d_phi, d_psi = gaussian_denoiser(noisy, sigma, mu, v), gaussian_denoiser(noisy, sigma, m, v)
    gradient = torch.autograd.grad(sid_loss(y, d_phi, d_psi, alpha).sum(), y)[0]
    gap = (y - d_phi).abs().clamp(min=1e-5)
    expected = -(sigma**4) * (mu - m) / (sigma**2 + v) ** 2
    assert torch.allclose(4 * gradient * gap, expected.expand_as(gradient))


def test_gradient_of_the_dmd_loss_is_the_score_gap():
    """Eq. dmd: dL/dy = (D_psi - D_phi) / (B M) in each pair."""
    y, d_phi, d_psi = randn(1, 4, 2).requires_grad_(True), randn(1, 4, 2, seed=1), randn(1, 4, 2, seed=2)
    gradient = torch.autograd.grad(dmd_loss(y, d_phi, d_psi).sum(), y)[0]
    assert torch.allclose(8 * gradient, d_psi - d_phi)


@pytest.mark.parametrize("divergence, alpha", [("sid", 0.5), ("sid", 1.0), ("dmd", None)])
def test_the_exact_game_ends_at_the_teacher(divergence, alpha):
    """Eq. generator: generator N(m, s^2) with learnable m, s, its fake score exact at every step, teacher N(mu, v) in closed form: m -> mu, s -> sqrt(v)."""
    mu, v = torch.tensor(0.6, dtype=torch.float64), torch.tensor(0.09, dtype=torch.float64)
    m, s = torch.tensor(-0.4, dtype=torch.float64, requires_grad=True), torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    rng = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam([m, s], lr=0.02)
    for step in range(400):
        optimiser.param_groups[0]["lr"] = 0.02 * (1 - step / 400)
        eps, noise, t = (torch.randn(1, 64, 16, generator=rng, dtype=torch.float64) for _ in range(3))
        sigma = sid_sigma(0.8 * torch.special.ndtr(t[:, :, :1]))
        y = m + s * eps
        noisy = y + sigma * noise
        d_phi, d_psi = gaussian_denoiser(noisy, sigma, mu, v), gaussian_denoiser(noisy, sigma, m.detach(), s.detach() ** 2)
        loss = sid_loss(y, d_phi, d_psi, alpha) if divergence == "sid" else dmd_loss(y, d_phi, d_psi)
        optimiser.zero_grad()
        loss.sum().backward()
        optimiser.step()
    assert m.item() == pytest.approx(0.6, abs=0.02) and abs(s.item()) == pytest.approx(0.3, abs=0.03)


# --- networks -------------------------------------------------------------------------------------------------------------


def trio():
    teacher = Denoiser(OutcomeNetwork(2, 3, 2, torch.Generator().manual_seed(0), width=16, depth=2, embedding=8, decoder=8))
    rng = torch.Generator().manual_seed(1)
    return teacher, copy.deepcopy(teacher), copy.deepcopy(teacher), torch.randn(2, 6, 3, generator=rng), torch.randint(2, (2, 6), generator=rng)


def test_first_step_has_no_gradient():
    """Specification 8.5: fake and teacher equal under equal conditions, so loss and gradient of the generator are exactly 0 (fails under defect D7)."""
    teacher, fake, student, x, z = trio()
    eps, sigma = torch.randn(2, 6, 4), torch.rand(2, 6, 1) + 0.1
    y = generate(student, eps, student.embed(x, z), 2.5)
    loss = sid_loss(y, teacher(y + sigma, sigma, teacher.embed(x, z)), fake(y + sigma, sigma, fake.embed(x, z)), 0.5)
    gradients = torch.autograd.grad(loss.sum(), list(student.parameters()), allow_unused=True)
    assert loss.abs().max() == 0 and all(g is None or g.abs().max() == 0 for g in gradients)
    with torch.no_grad():
        fake.network.out.bias.add_(0.1)
    y = generate(student, eps, student.embed(x, z), 2.5)
    loss = sid_loss(y, teacher(y + sigma, sigma, teacher.embed(x, z)), fake(y + sigma, sigma, fake.embed(x, z)), 0.5)
    assert any(g.abs().max() > 0 for g in torch.autograd.grad(loss.sum(), list(student.parameters())))


def test_gradient_flows_through_both_denoisers():
    """Detaching either denoiser changes the generator's gradient."""
    teacher, fake, _, x, z = trio()
    with torch.no_grad():
        fake.network.out.bias.add_(0.1)
        fake.network.out.weight.add_(0.2)
    e, sigma = teacher.embed(x, z), torch.rand(2, 6, 1, generator=torch.Generator().manual_seed(2)) + 0.1
    y = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(3)).requires_grad_(True)
    d_phi, d_psi = teacher(y, sigma, e), fake(y, sigma, e)
    full = torch.autograd.grad(sid_loss(y, d_phi, d_psi, 0.5).sum(), y, retain_graph=True)[0]
    for pair in ((d_phi.detach(), d_psi), (d_phi, d_psi.detach())):
        assert not torch.allclose(torch.autograd.grad(sid_loss(y, *pair, 0.5).sum(), y, retain_graph=True)[0], full, atol=1e-4)


def test_generator_moves_with_x_and_with_z():
    """Invariant 8; the released generator's output is the same for every (x, z)."""
    _, _, student, x, z = trio()
    eps = torch.randn(2, 6, 4)
    y = generate(student, eps, student.embed(x, z), 2.5)
    for e in (student.embed(x, 1 - z), student.embed(x + 0.3, z)):
        assert ((generate(student, eps, e, 2.5) - y).abs() > 1e-7).all()
