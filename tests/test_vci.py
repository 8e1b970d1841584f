"""Networks and objective of VCI on cells: closed forms and invariances of spec vci, 8 (oracles 1-10), and the fused likelihood against the plain one."""

import copy
import math

import pytest
import torch
from torch.distributions import NegativeBinomial, Normal, kl_divergence

from gencausal import seeding
from gencausal.vci import objective
from gencausal.vci.networks import CellNetworks

S, B, M, G, T, L, BLOCKS = 2, 6, 3, 5, 4, 3, (2, 3)


def rng(name="test"):
    return seeding.generator(0, name)


def networks(dtype=torch.float64, **options):
    made = CellNetworks(S, G, T, BLOCKS, rng("networks"), 8, L, 7, 2, **options).to(dtype)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.rand(parameter.shape, generator=rng("jitter"), dtype=dtype)  # biases, norms and slices all different
    return made


def batch(dtype=torch.float64, matched=True, **other):
    g = rng("batch")
    normal = lambda *shape: torch.randn(*shape, generator=g, dtype=dtype)  # noqa: E731
    one_hot = lambda k: torch.eye(k, dtype=dtype)[torch.randint(k, (S, B), generator=g)]  # noqa: E731
    fields = {"outcome": normal(S, B, G), "treatment": one_hot(T), "covariates": torch.cat([one_hot(b) for b in BLOCKS], -1), "treatment_cf": one_hot(T), "matched_mean": normal(S, B, G),
              "matched_square": normal(S, B).square() + 1, "matched": torch.full((S, B), matched), "eps": normal(S, M + 1, B, L)}
    return objective.Batch(**fields | other)


def weights(*values, dtype=torch.float64):
    return torch.tensor([values], dtype=dtype).T.expand(4, S)


def normals(*shape):
    return torch.randn(*shape, generator=rng("normals"), dtype=torch.float64)


def test_the_divergences_by_hand():
    """Eq. divergence, oracle 1: 0.818147 in the official form and 0.443147 in the exact one, which is torch's own; both zero at equal arguments, never negative, and equal where sigma_2 = 1 or mu_1 = mu_2."""
    at = [torch.tensor(v, dtype=torch.float64) for v in ([1.0, 0], [1.0, 1], [0.0, 0], [2.0, 1])]
    assert objective.divergence(*at).item() == pytest.approx(0.818147, abs=1e-6) and objective.divergence(*at, "exact").item() == pytest.approx(0.443147, abs=1e-6)
    mean_1, mean_2 = normals(2, 50, 3)
    scale_1, scale_2 = normals(2, 50, 3).exp()
    exact = objective.divergence(mean_1, scale_1, mean_2, scale_2, "exact")
    torch.testing.assert_close(exact, kl_divergence(Normal(mean_1, scale_1), Normal(mean_2, scale_2)).sum(-1))
    for form in objective.FORMS:
        assert objective.divergence(mean_1, scale_1, mean_1, scale_1, form).abs().max() < 1e-12 and (objective.divergence(mean_1, scale_1, mean_2, scale_2, form) >= 0).all()
    one = torch.ones_like(scale_2)
    for case in ((mean_1, scale_1, mean_2, one), (mean_1, scale_1, mean_1, scale_2)):
        torch.testing.assert_close(objective.divergence(*case), objective.divergence(*case, "exact"))
    assert not torch.allclose(objective.divergence(mean_1, scale_1, mean_2, scale_2), exact)


def test_reductions():
    """Oracle 2: twice the channels double L2 and twice the cells leave it; L0 and L1 are unchanged by genes or cells given twice."""
    at = [normals(4, 3), normals(4, 3).exp(), normals(4, 3) + 1, normals(4, 3).exp() + 1]
    once = objective.divergence(*at)
    torch.testing.assert_close(objective.divergence(*(torch.cat([v, v], -1) for v in at)), 2 * once)
    torch.testing.assert_close(objective.divergence(*(torch.cat([v, v]) for v in at)).mean(), once.mean())
    outcome_cf, mean, square = normals(S, B, G), normals(S, B, G) + 1, normals(S, B).square() + 3
    matched = torch.ones(S, B, dtype=bool)
    found = objective.match(outcome_cf, mean, square, matched)
    torch.testing.assert_close(objective.match(outcome_cf.repeat(1, 1, 2), mean.repeat(1, 1, 2), square, matched), found)
    torch.testing.assert_close(objective.match(outcome_cf.repeat(1, 2, 1), mean.repeat(1, 2, 1), square.repeat(1, 2), matched.repeat(1, 2)), found)
    hidden, weight, bias, outcome = normals(S, M, B, 8), normals(S, 8, 2 * G), normals(S, 1, 2 * G), normals(S, B, G)
    twice = lambda v: torch.cat([v[..., :G], v[..., :G], v[..., G:], v[..., G:]], -1)  # noqa: E731
    found = objective.gaussian_head(hidden, weight, bias, outcome)
    torch.testing.assert_close(objective.gaussian_head(hidden, twice(weight), twice(bias), outcome.repeat(1, 1, 2)), found)
    torch.testing.assert_close(objective.gaussian_head(hidden.repeat(1, 2, 2, 1), weight, bias, outcome.repeat(1, 2, 1)), found)


def plain_match(outcome_cf, cells):
    """L1 of one network by its definition: `cells[i]` holds the matched cells [m_i, G] of cell i, of any number."""
    parts = [-Normal(outcome_cf[i], 1.0).log_prob(found).mean() for i, found in enumerate(cells) if len(found)]
    return torch.stack(parts).mean() if parts else outcome_cf.sum() * 0


def moments(cells):
    """Mean, mean square and presence of the matches, as `match` takes them."""
    mean = torch.stack([c.mean(0) if len(c) else torch.zeros(G, dtype=c.dtype) for c in cells])
    square = torch.stack([c.square().mean() if len(c) else torch.zeros((), dtype=c.dtype) for c in cells])
    return mean[None], square[None], torch.tensor([[len(c) > 0 for c in cells]])


@pytest.mark.parametrize("d", [0.0, 0.7])
def test_match_at_a_constant_offset(d):
    """Oracles 3 and 4: 0.918939 where y' is every matched cell, and half the squared offset more at a constant offset d."""
    y = normals(S, B, G)
    found = objective.match(y + d, y, y.square().mean(-1), torch.ones(S, B, dtype=bool))
    torch.testing.assert_close(found, torch.full((S,), 0.918938533 + 0.5 * d * d, dtype=torch.float64), rtol=0, atol=1e-8)


def test_match_is_the_plain_sum_over_matched_cells():
    """Eq. match, oracle 5: with 20, 1, 0, 7, 2 and 20 cells the two moments give the loss and gradient of the sum over all pairs, under a one-hot weight of the networks too; a cell with one match counts as much as one
    with twenty, matches given twice change nothing, a cell without match gets zero gradient and leaves the rest alone."""
    counts, g = (20, 1, 0, 7, 2, 20), rng("matches")
    cells = [[torch.randn(m, G, generator=g, dtype=torch.float64) + 2 for m in counts] for _ in range(S)]
    outcome_cf = normals(S, B, G).requires_grad_()
    together = [torch.cat(v) for v in zip(*(moments(c) for c in cells))]
    for weight in ([1.0, 1.0], [0.0, 1.0]):
        weight = torch.tensor(weight, dtype=torch.float64)
        found = weight * objective.match(outcome_cf, *together)
        plain = weight * torch.stack([plain_match(outcome_cf[s], cells[s]) for s in range(S)])
        torch.testing.assert_close(found, plain)
        gradients = [torch.autograd.grad(v.sum(), outcome_cf)[0] for v in (found, plain)]
        torch.testing.assert_close(*gradients)
        assert (gradients[0][:, 2] == 0).all() and gradients[0][1, 0].abs().sum() > 0
    value = lambda rows, lists: objective.match(outcome_cf[:1, rows], *moments(lists)).item()  # noqa: E731
    alone = [value([i], [cells[0][i]]) for i in (0, 1)]
    assert value([0, 1], cells[0][:2]) == pytest.approx(sum(alone) / 2) == pytest.approx(value([0, 1], [cells[0][0].repeat(2, 1), cells[0][1]])) == pytest.approx(value([0, 1, 2], cells[0][:3]))
    assert value([2], [cells[0][2]]) == 0


@pytest.mark.parametrize("kind", ["bernoulli", "negative_binomial", "normal"])
def test_outcome_laws(kind):
    """Eq. outcome-laws, oracle 6: ln 2 for any grey value at logit 0; else torch's own densities."""
    heads = normals(B, 2 * G)
    a, b = heads[:, :G], torch.nn.functional.softplus(heads[:, G:]) + 0.001
    if kind == "bernoulli":
        y = torch.rand(B, G, generator=rng(), dtype=torch.float64)
        assert torch.allclose(objective.log_likelihood(kind, heads * 0, y), torch.tensor(-math.log(2), dtype=torch.float64))
        expected = y * a.sigmoid().log() + (1 - y) * (1 - a.sigmoid()).log()
    elif kind == "normal":
        y = normals(B, G) * 2
        expected = Normal(a, b).log_prob(y)
    else:
        y, m = torch.poisson(torch.full((B, G), 3.0, dtype=torch.float64), generator=rng()), torch.nn.functional.softplus(a) + 0.001
        expected = NegativeBinomial(b, probs=m / (m + b)).log_prob(y)
    torch.testing.assert_close(objective.log_likelihood(kind, heads, y), expected)


def test_the_floor_of_sigma():
    """Eq. encoder, oracle 7: with ReLU heads sigma >= ln 2 + 0.001 = 0.694147, which is attained, and mu >= 0; without, neither holds. Eq. decoder: its scale stays above 0.001."""
    b = batch()
    mean, scale = networks().encode(b.outcome * 10, b.treatment, b.covariates)
    assert mean.min() == 0 and scale.min().item() == pytest.approx(0.694147, abs=1e-6)
    mean, scale = networks(relu_heads=False).encode(b.outcome * 10, b.treatment, b.covariates)
    assert mean.min() < 0 and 0.001 < scale.min() < 0.69


@pytest.mark.parametrize("genes, treatments, blocks, count", [(2013, 70, (2, 2, 2), 1175626), (2000, 189, (3, 2), 1197328)])
def test_parameter_counts(genes, treatments, blocks, count):
    """Oracle 8: the numbers of the public networks; the running moments of BatchNorm, which are buffers there, are parameters without gradient here."""
    made = CellNetworks(1, genes, treatments, blocks, rng())
    assert sum(p.numel() for p in made.parameters() if p.requires_grad) == count


def test_the_decoder_ignores_covariates():
    """Oracle 9: at a fixed latent nothing of the covariates moves the outcome, not a bit; another treatment does. The encoder reads both, unless told not to."""
    made, b, z = networks(), batch(), normals(S, B, L)
    before = made.decode(z, b.treatment)
    with torch.no_grad():
        for embed in made.embed_covariates:
            embed.weight.add_(1.0)
    assert torch.equal(made.decode(z, b.treatment), before) and not torch.allclose(made.decode(z, b.treatment.roll(1, -1)), before)
    torch.testing.assert_close(made.mean(made.hidden(z, b.treatment)), before[..., :G])
    covariates, treatment = torch.cat([block.roll(1, -1) for block in b.covariates.split(BLOCKS, -1)], -1), b.treatment.roll(1, -1)
    for options, moves in (({}, (True, True)), ({"sees_treatment": False}, (False, True)), ({"sees_covariates": False}, (True, False))):
        made = networks(**options).eval()
        base = made.encode(b.outcome, b.treatment, b.covariates)[1]
        assert (not torch.equal(made.encode(b.outcome, treatment, b.covariates)[1], base), not torch.equal(made.encode(b.outcome, b.treatment, covariates)[1], base)) == moves


def gradient(loss, module, *parts):
    """Whether `loss` reaches any parameter of the named parts."""
    chosen = [p for name, p in module.named_parameters() if name.split(".")[0] in parts and p.requires_grad]
    return any(g is not None and g.abs().sum() > 0 for g in torch.autograd.grad(loss.sum(), chosen, allow_unused=True, retain_graph=True))


def test_gradient_flow_of_the_divergence():
    """Oracle 10: L2 under a frozen evaluating encoder reaches the decoder and, through the latent, the live encoder, and leaves the frozen one alone; with `detach_encode` it reaches the decoder only.
    Under the live encoder it reaches both."""
    live, b = networks(), batch()
    frozen = copy.deepcopy(live).requires_grad_(False)
    kept = {name: p.clone() for name, p in frozen.named_parameters() if not name.endswith((".mean", ".var"))}
    only = weights(0.0, 0.0, 1.0, 0.0)
    for evaluator, detach, expected in ((frozen, False, (True, True)), (frozen, True, (True, False)), (None, False, (True, True))):
        loss = objective.terms(live, b, only, evaluator=evaluator, detach_encode=detach)["divergence"]
        assert (gradient(loss, live, "decoder", "decoder_head"), gradient(loss, live, "embed", "encoder", "encoder_head")) == expected, (evaluator is None, detach)
    assert all(torch.equal(kept[name], p) for name, p in frozen.named_parameters() if name in kept)


def test_the_same_treatment_gives_the_reconstruction():
    """Oracle 12: predict at t' = t is the decoder's mean at the mean latent; `generate` at zero noise is `predict`."""
    made, b = networks().eval(), batch()
    expected = made.decode(made.encode(b.outcome, b.treatment, b.covariates)[0], b.treatment)[..., :G]
    torch.testing.assert_close(made.predict(b.outcome, b.treatment, b.covariates, b.treatment), expected)
    torch.testing.assert_close(made.generate(b.outcome, b.treatment, b.covariates, b.treatment, torch.zeros(S, B, L, dtype=torch.float64)), expected)


@pytest.mark.parametrize("rows", [1, 2 * B, 192])
def test_the_fused_likelihood_is_the_plain_one(rows, monkeypatch):
    """Eq. reconstruction: draw by draw, two draws and the one left, or all at once, value and every gradient of `gaussian_head` are those of `log_likelihood` over all heads at once, to 1e-10 in float64, under unequal weights of the networks; no gradient is made without need."""
    monkeypatch.setattr(objective, "ROWS", rows)
    hidden, weight, bias, outcome = normals(S, M, B, 8).requires_grad_(), (0.3 * normals(S, 8, 2 * G)).requires_grad_(), normals(S, 1, 2 * G).requires_grad_(), normals(S, B, G) + 0.5
    heads = torch.baddbmm(bias, hidden.flatten(1, 2), weight).unflatten(1, (M, B))
    plain = -objective.log_likelihood("normal", heads, outcome[:, None]).mean((1, 2, 3))
    fused = objective.gaussian_head(hidden, weight, bias, outcome)
    scale = torch.tensor([1.0, -2.5], dtype=torch.float64)
    torch.testing.assert_close(fused, plain, rtol=0, atol=1e-10)
    for a, b in zip(torch.autograd.grad((scale * fused).sum(), (hidden, weight, bias)), torch.autograd.grad((scale * plain).sum(), (hidden, weight, bias)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(objective.gaussian_head(hidden, weight, bias, outcome), plain, rtol=0, atol=1e-10)


def test_terms_by_hand():
    """Eq. vci: each term is its weight times the loss of the pieces called one by one, networks of weight zero included; terms of weight zero everywhere are not computed; a batch without matches has L1 = 0 and finite gradients."""
    made, b = networks(norm="layer"), batch()
    w = torch.tensor([[1.0, 0.5], [1.7, 0.0], [0.1, 2.0], [0.3, 0.0]], dtype=torch.float64)
    found = objective.terms(made, b, w)
    mean, scale = made.encode(b.outcome, b.treatment, b.covariates)
    z = mean[:, None] + scale[:, None] * b.eps
    heads = torch.stack([made.decode(z[:, m], b.treatment) for m in range(M)], 1)
    outcome_cf = made.decode(z[:, M], b.treatment_cf)[..., :G]
    expected = {
        "reconstruction": w[0] * -objective.log_likelihood("normal", heads, b.outcome[:, None]).mean((1, 2, 3)),
        "supervision": w[1] * objective.match(outcome_cf, b.matched_mean, b.matched_square, b.matched),
        "divergence": w[2] * objective.divergence(mean, scale, *made.encode(outcome_cf, b.treatment_cf, b.covariates)).mean(-1),
        "prior": w[3] * kl_divergence(Normal(mean, scale), Normal(torch.zeros_like(mean), 1.0)).sum(-1).mean(-1),
    }
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name])
    assert objective.terms(made, b, weights(1.0, 0.0, 0.0, 0.0)).keys() == {"reconstruction"}
    none = objective.terms(made, batch(matched=False), weights(0.0, 1.0, 0.0, 0.0))["supervision"]
    gradients = torch.autograd.grad(none.sum(), [p for p in made.parameters() if p.requires_grad], allow_unused=True)
    assert (none == 0).all() and all(g is None or (g == 0).all() for g in gradients)


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_joint_decoding_matters_to_batch_norm_alone(norm):
    """`joint` puts factual and drawn treatments through the decoder's norm together: without statistics over cells it changes nothing."""
    b = batch()
    apart, together = (objective.terms(networks(norm=norm), b, weights(1.0, 1.7, 0.1, 0.0), joint=joint) for joint in (False, True))
    assert all(torch.allclose(apart[name], together[name], rtol=1e-10) for name in apart) == (norm != "batch")


def test_batch_norm_is_torchs_and_its_memory_is_kept():
    """A normalised layer is torch.nn.BatchNorm1d's in training and, after it, in evaluation; networks of the stack do not mix."""
    from gencausal.vci.networks import Norm

    ours, x = Norm(S, 4, "batch", torch.device("cpu")).double(), normals(S, 10, 4) * 3 + 1
    theirs = [torch.nn.BatchNorm1d(4).double() for _ in range(S)]
    torch.testing.assert_close(ours(x), torch.stack([norm(v) for norm, v in zip(theirs, x)]))
    ours.eval(), [norm.eval() for norm in theirs]
    torch.testing.assert_close(ours(x + 1), torch.stack([norm(v + 1) for norm, v in zip(theirs, x)]))
