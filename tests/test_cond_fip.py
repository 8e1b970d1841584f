"""Cond-FiP's networks against the plain formula and the structure that the paper's argument needs, for random weights: nothing here is trained."""

import dataclasses

import pytest
import torch
from torch.nn.functional import leaky_relu, linear, relu, silu

from gencausal import checks, seeding
from gencausal.cond_fip import CondFiP, SignAveraged, Sizes, fixed_point, inference, levels, losses, row_loss, steps_needed, sweep
from gencausal.cond_fip.signs import walsh
from gencausal.data import scm_graphs
from gencausal.nn.attention import dag_attention

SMALL = Sizes(12, 2, 6, 6, 16, 16, 2, 1, 2)
VARIANTS = {"default": {}, "film": {"conditioning": "film"}, "concatenate": {"conditioning": "concatenate"}, "none": {"conditioning": "none"}, "mean": {"pool": "mean"}, "softmax": {"attention": "softmax"}, "own_start": {"own_start": True}, "recall": {"recall": 1}}


def make(seed=0, **changes):
    """A small network whose every parameter is moved away from its start."""
    model = CondFiP(dataclasses.replace(SMALL, **changes), seeding.generator(seed, "model"))
    rng = seeding.generator(seed, "move")
    with torch.no_grad():
        for p in model.parameters():
            p += 0.2 * torch.randn(p.shape, generator=rng)
    return model.requires_grad_(False)


def data(B=3, n=9, m=7, d=5):
    rng = seeding.generator(1, "data")
    upper = scm_graphs.sample("er", B, d, rng)
    order = torch.rand(B, d, generator=rng).argsort(1)
    adjacency = torch.stack([a[o][:, o] for a, o in zip(upper, order)])
    return torch.randn(B, n, d, generator=rng), torch.randn(B, m, d, generator=rng), adjacency


def test_parameters_at_the_papers_size():
    """5,539,841 in the encoder (heads of 32), 8.17 million in the decoder (heads of 64 throughout) (oracle 16)."""
    model = CondFiP(Sizes(256, 8, 32, 64, 512, 1024, 4, 2, 4), seeding.generator(0, "paper"))
    assert sum(p.numel() for p in model.encoder.parameters()) == 5_539_841
    assert sum(p.numel() for p in model.decoder.parameters()) == 8_173_057


def plain_decoder(decoder, z, embedding, adjacency):
    """`Eq. pool`, `Eq. codes`, `Eq. adaptive` written out, keys and values from z_emb at every row."""
    h = decoder.project(embedding)
    for layer in decoder.layers:
        h = layer(h, adjacency.mT)
    mu = decoder.after(decoder.before(h).amax(1))
    C, P, c = (norm(into(mu))[:, None] for into, norm in (decoder.codes[name] for name in ("codebook", "position", "condition")))
    z_emb, n = z[..., None] * C + P, P.expand(*z.shape, -1)
    for block in decoder.blocks:
        s1, g1, a1, s2, g2, a2 = block.modulate(silu(c)).chunk(6, -1)
        u = [norm(x) * (1 + g1) + s1 for norm, x in zip(block.norms, (n, z_emb, z_emb))]
        q, k, v = (linear(x, read.weight, read.bias).unflatten(-1, (block.heads, -1)).transpose(2, 3) for x, read in zip(u, block.read))
        n = n + a1 * block.write(dag_attention(q / q.shape[-1] ** 0.5, k, v, adjacency.mT[:, None, None]).transpose(2, 3).flatten(-2))
        u = block.feed.norm(n) * (1 + g2) + s2
        n = n + a2 * block.feed.second(relu(block.feed.first(u)))
    return decoder.out(decoder.norm(n))[..., 0]


def test_the_encoder_is_the_plain_formula():
    """`Eq. dataset-encoder` written out with torch's own attention: rows node by node, then parents row by row, then the head."""
    x, _, adjacency = data()
    encoder = make().encoder
    h = x[..., None] * encoder.embed.weight[:, 0] + encoder.embed.bias
    for layer in encoder.layers:
        q, k, v = (linear(norm(h), read.weight, read.bias).unflatten(-1, (layer.heads, -1)) for norm, read in zip(layer.norms, layer.read))  # [B, n, d, h, k]
        if layer.axis == "rows":
            scores = torch.einsum("brdhk,bsdhk->bdhrs", q, k) / q.shape[-1] ** 0.5
            out = torch.einsum("bdhrs,bsdhk->brdhk", scores.softmax(-1), v)
        else:
            scores = (torch.einsum("brihk,brjhk->brhij", q, k) / q.shape[-1] ** 0.5).exp() * adjacency.mT[:, None, None]
            out = torch.einsum("brhij,brjhk->brihk", scores / scores.sum(-1, keepdim=True).clamp(min=1), v)
        h = h + layer.write(out.flatten(-2))
        h = h + layer.feed.second(relu(layer.feed.first(layer.feed.norm(h))))
    embedding = encoder.norm(h)
    torch.testing.assert_close(encoder(x, adjacency), embedding, atol=1e-5, rtol=1e-5)
    first, second, last = encoder.head
    torch.testing.assert_close(encoder.mechanism(embedding), last(leaky_relu(second(leaky_relu(first(embedding)))))[..., 0], atol=1e-5, rtol=1e-5)


def test_recall_is_attention_to_the_rows_of_the_same_node():
    """Eq. recall written out: each query looks at the context rows of its own node, by softmax, then a feed-forward net."""
    recall = make(recall=1).decoder.recall[0]
    rng = seeding.generator(2, "recall")
    n, rows = torch.randn(2, 4, 3, 12, generator=rng), torch.randn(2, 6, 3, 12, generator=rng)
    q, k, v = (linear(x, read.weight, read.bias).unflatten(-1, (recall.heads, -1)) for x, read in zip((recall.norm(n), rows, rows), recall.read))
    weight = (torch.einsum("bmdhk,brdhk->bdhmr", q, k) / q.shape[-1] ** 0.5).softmax(-1)
    plain = n + recall.write(torch.einsum("bdhmr,brdhk->bmdhk", weight, v).flatten(-2))
    plain = plain + recall.feed.second(relu(recall.feed.first(recall.feed.norm(plain))))
    torch.testing.assert_close(recall(n, *recall.condition(rows)), plain, atol=1e-5, rtol=1e-5)


def test_the_decoder_is_the_plain_formula():
    """Eq. rank-two changes nothing: T(z) equals the decoder written out to 1e-5, for values of z near and far."""
    model = make()
    context, query, adjacency = data()
    embedding = model.encode(context, adjacency)
    for z in (query, 30 * query, torch.zeros_like(query)):
        made, exact = model.mechanism(z, model.decoder.condition(embedding, adjacency)), plain_decoder(model.decoder, z, embedding, adjacency)
        assert (made - exact).abs().max() < 1e-5 * exact.abs().max().clamp(min=1)


@pytest.mark.parametrize("name", VARIANTS)
def test_outputs_read_parents_only(name):
    """Eq. triangular: the Jacobian of T lies inside the graph, with a zero diagonal, and fills it, for any weights and every variant (oracle 3). A transposed mask would fail."""
    model = make(**VARIANTS[name])
    context, query, adjacency = data()
    condition = model.condition(context, adjacency)
    jacobian = torch.autograd.functional.jacobian(lambda z: model.mechanism(z, condition), query[:, :1])  # [B, 1, d, B, 1, d]
    for b in range(3):
        slope = jacobian[b, 0, :, b, 0]  # [child, parent]
        assert (slope[~adjacency[b].T] == 0).all() and (slope[adjacency[b].T] != 0).all()
        assert not jacobian[b, 0, :, (b + 1) % 3].any()


def test_one_edge_points_one_way():
    """With the single edge 0 -> 1, z_0 moves output 1 and z_1 moves none (oracle 2)."""
    model = make()
    context, query, _ = data(B=1, d=2)
    adjacency = torch.tensor([[[0, 1], [0, 0]]], dtype=torch.bool)
    condition = model.condition(context, adjacency)
    move = lambda j: (model.mechanism(query + torch.eye(2)[j], condition) - model.mechanism(query, condition)).abs().amax((0, 1))  # noqa: E731
    assert move(0)[1] > 0 and move(0)[0] == 0 and (move(1) == 0).all()


def test_symmetries():
    """Order of context rows does not matter; renaming nodes renames the answers; a batch of one is that of many; a node without edges changes nothing for the others (oracle 4)."""
    model = make()
    context, query, adjacency = data()
    base = model.mechanism(query, model.condition(context, adjacency))
    shuffled = context[:, torch.randperm(9, generator=seeding.generator(0, "p"))]
    torch.testing.assert_close(model.mechanism(query, model.condition(shuffled, adjacency)), base, atol=1e-5, rtol=1e-5)
    names = torch.tensor([3, 0, 4, 1, 2])
    renamed = model.mechanism(query[..., names], model.condition(context[..., names], adjacency[:, names][:, :, names]))
    torch.testing.assert_close(renamed, base[..., names], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.encoder_mechanism(context[..., names], adjacency[:, names][:, :, names]), model.encoder_mechanism(context, adjacency)[..., names], atol=1e-5, rtol=1e-5)
    alone = model.mechanism(query[1:2], model.condition(context[1:2], adjacency[1:2]))
    torch.testing.assert_close(alone, base[1:2], atol=1e-5, rtol=1e-5)
    pad = lambda x: torch.cat([x, torch.full_like(x[..., :1], 7.0)], -1)  # noqa: E731
    wide = torch.zeros(3, 6, 6, dtype=torch.bool)
    wide[:, :5, :5] = adjacency
    torch.testing.assert_close(model.mechanism(pad(query), model.condition(pad(context), wide))[..., :5], base, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_fixed_point_is_reached_after_the_longest_path(name):
    """Eq. fixed-point: step L + 1 and step L + 2 agree bit for bit, from noise, zero or 1e3 times normal, with and without do(); step L does not suffice (oracle 5)."""
    model = make(**VARIANTS[name])
    context, noise_u, adjacency = data()
    condition, steps = model.condition(context, adjacency), steps_needed(adjacency)
    mechanism = lambda z: model.mechanism(z, condition)  # noqa: E731
    held = torch.full((3, 1, 5), torch.nan)
    held[..., 2] = 0.4
    for hold in (None, held):
        made = fixed_point(mechanism, noise_u, steps, hold)
        for start in (noise_u, torch.zeros_like(noise_u), 1e3 * noise_u):
            assert torch.equal(fixed_point(mechanism, noise_u, steps, hold, start), made) and torch.equal(fixed_point(mechanism, noise_u, steps + 1, hold, start), made)
        assert not torch.equal(fixed_point(mechanism, noise_u, steps - 2, None, 1e3 * noise_u), made)
    assert (fixed_point(mechanism, noise_u, steps, held)[..., 2] == 0.4).all()
    empty = torch.zeros(3, 5, 5, dtype=torch.bool)
    assert steps_needed(empty) == 1
    with pytest.raises(checks.InputError, match="cycle"):
        steps_needed(torch.ones(1, 2, 2))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_sweep_over_levels_is_the_fixed_point(name):
    """Eq. levels: each node once, parents first, for several graphs together and one alone, with and without do(); T at some nodes is T there."""
    model = make(**VARIANTS[name])
    context, noise_u, adjacency = data()
    held = torch.full((3, 1, 5), torch.nan)
    held[..., 1] = -0.8
    condition = model.condition(context, adjacency)
    torch.testing.assert_close(model.mechanism(noise_u, condition, [3, 0]), model.mechanism(noise_u, condition)[..., [3, 0]], atol=1e-5, rtol=1e-5)
    for hold in (None, held):
        exact = fixed_point(lambda z: model.mechanism(z, condition), noise_u, steps_needed(adjacency), hold)
        torch.testing.assert_close(sweep(lambda z, nodes: model.mechanism(z, condition, nodes), noise_u, levels(adjacency), hold), exact, atol=1e-5, rtol=1e-5)
        for b in range(3):
            alone, part = model.condition(context[b : b + 1], adjacency[b : b + 1]), None if hold is None else hold[b : b + 1]
            torch.testing.assert_close(sweep(lambda z, nodes: model.mechanism(z, alone, nodes), noise_u[b : b + 1], levels(adjacency[b : b + 1]), part), exact[b : b + 1], atol=1e-5, rtol=1e-5)
    assert sorted(sum(levels(adjacency[:1]), [])) == list(range(5))


def test_a_mask_with_a_diagonal_has_no_such_fixed_point():
    """The counter-example: were a node its own parent, or the mask full, steps would go on changing."""
    model = make()
    context, noise_u, adjacency = data()
    for wrong in (adjacency | torch.eye(5, dtype=torch.bool), torch.ones_like(adjacency)):
        condition = model.condition(context, wrong)
        mechanism = lambda z: model.mechanism(z, condition)  # noqa: B023, E731
        assert not torch.equal(fixed_point(mechanism, noise_u, 5), fixed_point(mechanism, noise_u, 6))


def test_abduct_intervene_predict():
    """Eq. abduct: n = x - T(x), then data gives the rows back for any weights; do() at the factual value returns the factual; what does not descend from the held node keeps its value; noise from elsewhere does not (oracles 6 and 7)."""
    model = make()
    context, factual, adjacency = data()
    condition, steps = model.condition(context, adjacency), steps_needed(adjacency)
    mechanism = lambda z: model.mechanism(z, condition)  # noqa: E731
    torch.testing.assert_close(fixed_point(mechanism, inference.abduct(mechanism, factual), steps), factual, atol=1e-5, rtol=1e-5)
    held = torch.full_like(factual, torch.nan)
    held[..., 1] = factual[..., 1]
    torch.testing.assert_close(inference.counterfactual(mechanism, factual, held, steps), factual, atol=1e-5, rtol=1e-5)
    held[..., 1] = 2.5
    after = inference.counterfactual(mechanism, factual, held, steps)
    reach = torch.linalg.matrix_power(torch.eye(5) + adjacency.float(), 5)[:, 1] > 0
    for b in range(3):
        torch.testing.assert_close(after[b][:, ~reach[b]], factual[b][:, ~reach[b]], atol=1e-5, rtol=1e-5)
    other = inference.counterfactual(mechanism, factual, held, steps, factual - model.encoder_mechanism(factual, adjacency))
    assert (other - after).abs().max() > 1e-2


@pytest.mark.parametrize("stage, parts", [("joint", {"encoder", "decoder"}), ("apart", {"encoder", "decoder"}), ("encoder", {"encoder"}), ("decoder", {"decoder"})])
def test_losses_and_where_their_gradients_go(stage, parts):
    """Eq. loss-row, Eq. loss-data-set: by hand; in stage two the encoder receives no gradient (oracle 17); recomputing activations changes neither loss nor gradient."""
    context, query, adjacency = data()
    grads = []
    for recompute in (False, True):
        model = CondFiP(SMALL, seeding.generator(0, "model"), recompute=recompute)
        made = losses(model, context, context * 0, query, query * 0, adjacency, stage)
        assert set(made) == parts and all(value.shape == (1,) for value in made.values())
        if "decoder" in made:
            error = model.mechanism(query, model.condition(context, adjacency))
            assert made["decoder"].item() == pytest.approx(error.square().mean((1, 2)).sqrt().mean().item(), rel=1e-5)
        gradient = torch.autograd.grad(made["decoder" if "decoder" in made else "encoder"].sum(), list(model.parameters()), allow_unused=True)
        inside = len(list(model.encoder.parameters()))
        if stage in ("apart", "decoder"):
            assert all(g is None for g in gradient[:inside])
        elif stage == "joint":
            assert gradient[0] is not None
        grads.append([g for g in gradient if g is not None])
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b)
    error = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])
    assert row_loss(error, "row").item() == pytest.approx(12.5**0.5 / 2, rel=1e-3) and row_loss(error, "data_set").item() == pytest.approx(2.5) and row_loss(error, "mse").item() == 6.25


def test_half_precision_is_close():
    """bf16 products give the same mechanisms to the digits they have: the network decides, not its rounding."""
    model = make()
    context, query, adjacency = data()
    exact, head = model.mechanism(query, model.condition(context, adjacency)), model.encoder_mechanism(context, adjacency)
    model.half = True
    assert (model.mechanism(query, model.condition(context, adjacency)) - exact).abs().max() < 0.1 * exact.abs().max()
    assert (model.encoder_mechanism(context, adjacency) - head).abs().max() < 0.1 * head.abs().max()
    far = torch.tensor([2.0, 2.001]).view(1, 2, 1).expand(3, 2, 5)
    assert (model.mechanism(far, model.condition(context, adjacency)).diff(dim=1).abs().amax(1) > 0).any(), "digits of z below those of bf16 are seen"


def test_every_parameter_learns():
    context, query, adjacency = data()
    for changes in VARIANTS.values():
        model = CondFiP(dataclasses.replace(SMALL, **changes), seeding.generator(0, "model"))
        sum(losses(model, context, context, query, query, adjacency).values()).sum().backward()
        still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
        assert all("read.1.bias" in name or (changes.get("conditioning") == "none" and "codes.condition" in name) for name in still), still


def test_unknown_variants_are_refused():
    with pytest.raises(checks.InputError, match="sizes.pool"):
        CondFiP(dataclasses.replace(SMALL, pool="sum"), seeding.generator(0, "m"))


def test_walsh_vectors_are_a_balanced_group():
    """The product of two sign vectors is one of them; a column, and two columns whose codes differ, have every sign equally often."""
    signs = walsh(8, torch.arange(10))
    assert signs.shape == (8, 10) and (signs[0] == 1).all() and (signs.abs() == 1).all()
    vectors = {tuple(row) for row in signs.tolist()}
    assert len(vectors) == 8 and {tuple((a * b).tolist()) for a in signs for b in signs} == vectors
    gram = signs.T @ signs / 8
    codes = torch.arange(10) % 7
    assert torch.equal(gram, (codes[:, None] == codes).float()) and (signs.sum(0) == 0).all()
    assert torch.equal(walsh(1, torch.arange(3)), torch.ones(1, 3))
    for wrong in (0, 6, -8):
        with pytest.raises(checks.InputError, match="signs"):
            walsh(wrong, torch.arange(3))


def test_the_average_changes_sign_with_its_columns():
    """Eq. signs: T(s z, s D) = s T(z, D) for each s of the group, which one pass violates; by hand it is the mean of reflected answers; one reflection is the network itself; and some nodes alone are the same numbers."""
    model, (context, query, adjacency) = make(), data()
    averaged, signs = SignAveraged(model, 8), walsh(8, torch.arange(5))
    T = averaged.mechanism(query, averaged.condition(context, adjacency))
    E = averaged.encoder_mechanism(context, adjacency)
    for s in signs[1:]:
        torch.testing.assert_close(averaged.mechanism(s * query, averaged.condition(s * context, adjacency)), s * T, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(averaged.encoder_mechanism(s * context, adjacency), s * E, atol=1e-5, rtol=1e-5)
    by_hand = sum(s * model.mechanism(s * query, model.condition(s * context, adjacency)) for s in signs) / 8
    torch.testing.assert_close(T, by_hand, atol=1e-5, rtol=1e-5)
    assert (T - model.mechanism(query, model.condition(context, adjacency))).abs().max() > 1e-2
    once = SignAveraged(model, 1)
    torch.testing.assert_close(once.mechanism(query, once.condition(context, adjacency)), model.mechanism(query, model.condition(context, adjacency)))
    torch.testing.assert_close(averaged.mechanism(query, averaged.condition(context, adjacency), [3, 1]), T[..., [3, 1]], atol=1e-5, rtol=1e-5)


def test_the_average_does_not_mind_the_order_of_columns():
    """With ranks that move along, columns in another order have the same answers in that order; without, not."""
    model, (context, query, adjacency), order = make(), data(), [3, 0, 4, 1, 2]

    def answer(places, ranks):
        averaged = SignAveraged(model, 4, ranks)
        return averaged.mechanism(query[..., places], averaged.condition(context[..., places], adjacency[:, places][:, :, places]))

    straight = answer(list(range(5)), None)[..., order]
    torch.testing.assert_close(answer(order, order), straight, atol=1e-5, rtol=1e-5)
    assert (answer(order, None) - straight).abs().max() > 1e-3


def test_the_average_errs_no_more_over_the_group():
    """Convexity: over the group of reflections, the averaged network's squared error to any truth that reflects is at most that of one pass."""
    model, (context, query, adjacency) = make(), data()
    averaged, signs = SignAveraged(model, 8), walsh(8, torch.arange(5))
    truth = torch.randn(query.shape, generator=seeding.generator(2, "truth"))  # of the rows as they are; reflected with them
    error = lambda network: sum((network.mechanism(s * query, network.condition(s * context, adjacency)) - s * truth).square().mean() for s in signs)  # noqa: E731
    assert error(averaged) < error(model)


def test_the_average_reads_parents_only():
    """Eq. triangular survives: with the sweep over levels it is the fixed point, and a row is the fixed point of its own noise."""
    averaged, (context, query, adjacency) = SignAveraged(make(), 4), data()
    condition = averaged.condition(context, adjacency)
    mechanism = lambda z: averaged.mechanism(z, condition)  # noqa: E731
    noise = inference.abduct(mechanism, query)
    made = fixed_point(mechanism, noise, steps_needed(adjacency))
    torch.testing.assert_close(made, query, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sweep(lambda z, nodes: averaged.mechanism(z, condition, nodes), noise, levels(adjacency)), made, atol=1e-5, rtol=1e-5)
