"""Image networks and losses of VCI: published sizes, a plain second writing of network and loss, closed forms, gradient flow, training."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gencausal import checks, seeding, training
from gencausal.image_models.vci import ImageVCI, Recipe, fit, schedule, shifted
from gencausal.vci import image_losses, images as vci

TINY = vci.Config(size=8, patch=2, code=1, embedding=8, treatment=4, resolutions=(4, 2), widths=(8, 12), depths=(3, 2), latents=(0, 3), defuse=2, mc=2)
DEEP = vci.Config(size=8, code=4, embedding=6, treatment=4, resolutions=(8, 4, 1), widths=(4, 8, 10), depths=(4, 2, 2), latents=(2, 3, 5), mc=2)


def made(config, rows=3, seed=0):
    """Generator, discriminator, images, codes, codes of T' and noise for mc + 1 samples."""
    rng = seeding.generator(seed, "test")
    codes = torch.randn(rows, config.labels, config.code, generator=rng)
    parts = vci.Generator(config, rng), vci.Discriminator(config, rng), torch.rand(rows, 1, config.size, config.size, generator=rng), codes, vci.draw_treatment(codes, codes, rng)
    with torch.no_grad():
        for bias in parts[0].decoder.biases:
            bias.copy_(torch.randn(bias.shape, generator=rng))
    return *parts, parts[0].noise(rows, rng, config.mc + 1)


# ---------------------------------------------------------------- sizes


def test_published_sizes():
    """1,997,566 and 477,002 parameters and 30,976 latent values; the digit variant has 8 (32 - 10) = 176 fewer each (oracles 8 and 22)."""
    rng = seeding.generator(0, "sizes")
    assert vci.parameters(vci.Generator(vci.PUBLISHED, rng)) == 1_997_566 and vci.parameters(vci.Discriminator(vci.PUBLISHED, rng)) == 477_002
    assert vci.parameters(vci.Generator(vci.PUBLISHED_DIGIT, rng)) == 1_997_566 - 176 and vci.parameters(vci.Discriminator(vci.PUBLISHED_DIGIT, rng)) == 477_002 - 176
    assert vci.PUBLISHED.latent_values == 30_976 and vci.SMALL.latent_values == 128 and vci.parameters(vci.Generator(vci.SMALL, rng)) <= 200_000
    assert [tuple(mean.shape[1:]) for mean, _ in vci.Generator(vci.PUBLISHED, rng).encode(torch.rand(1, 1, 32, 32), torch.zeros(1, 32))] == [(16, 32, 32), (32, 16, 16), (64, 8, 8), (128, 4, 4), (256, 1, 1)]


def test_wrong_sizes_are_refused():
    for change, words in [({"resolutions": (16, 8)}, "resolutions, widths"), ({"size": 28}, "size / patch"), ({"depths": (3, 4, 4, 4, 4)}, "depths must start"), ({"latents": (0,) * 5}, "latents are all 0"), ({"weights": (1, -1, 0)}, "negative"), ({"divergence": "kl"}, "divergence")]:
        with pytest.raises(checks.InputError, match=words):
            replace(vci.PUBLISHED, **change)


# ---------------------------------------------------------------- a plain second writing


def plain_conv(layer, x):
    """Convolution with zero padding, the spectral norm taken from the whole matrix of the kept vector."""
    weight = layer.weight
    if layer.u is not None:
        matrix = weight.flatten(1)
        v = F.normalize(matrix.T @ layer.u, dim=0)
        weight = weight / torch.dot(layer.u, matrix @ v)
    return F.conv2d(x, weight, layer.bias, padding=weight.shape[-1] // 2)


def plain_block(block, x, features=None):
    h = x if features is None else torch.cat([x, features.expand(-1, -1, *x.shape[2:])], 1)
    for layer in (block.first, block.second):
        h = h if layer is None else F.gelu(plain_conv(layer, h))
    h = plain_conv(block.last, h)
    return (F.gelu(h) if block.activate else h) + (x if block.skip is None else plain_conv(block.skip, x))


def plain_trunk(config, blocks, plan, x, t, seen):
    """The blocks one after the other; every output before pooling is kept. seen: blocks that take the treatment and the constant covariate 0."""
    features, outputs = torch.cat([t, torch.zeros(len(t), 1)], 1)[..., None, None], []
    for i, (block, (*_, rate)) in enumerate(zip(blocks, plan)):
        outputs.append(x := F.avg_pool2d(plain_block(block, x, features if i < seen else None), rate))
    return outputs


def plain_encode(generator, encoder, y, codes):
    config = generator.config
    outputs = plain_trunk(config, encoder.blocks, encoder.plan, plain_embed(generator, y), generator.treatment(codes.flatten(1)), config.defuse)
    ends = np.cumsum(config.depths) - 1
    heads = {level: plain_block(head, outputs[ends[int(level)]]) for level, head in encoder.heads.items()}
    return [(h[:, :h.shape[1] // 2], F.softplus(h[:, h.shape[1] // 2:]) + 0.001) for h in heads.values()], outputs[:config.defuse - 1]


def plain_embed(module, y):
    return plain_conv(module.outcome.map, F.pixel_unshuffle(y, module.config.patch))


def plain_decode(generator, z, codes):
    """Levels from the coarsest: the map of a level starts with its bias, (latent, treatment) are features of all its blocks up to the one that enlarges; the last `defuse` pairs see the treatment alone."""
    config, decoder, t = generator.config, generator.decoder, generator.treatment(codes.flatten(1))[..., None, None]
    latents, x, outputs = list(z), torch.zeros(len(t), config.widths[-1], config.resolutions[-1], config.resolutions[-1]), []
    for level in range(len(config.widths))[::-1]:
        x = x + decoder.biases[len(config.widths) - 1 - level]
        h = latents.pop() if config.latents[level] else None
        for (merge, embed), (at, late, rate) in zip(decoder.pairs, decoder.steps):
            if at == level and not late:
                features = t if h is None else torch.cat([t.expand(-1, -1, *h.shape[2:]), h], 1)
                x = plain_block(embed, plain_block(merge, x, features).repeat_interleave(rate, 2).repeat_interleave(rate, 3))
    for (merge, embed), (_, late, _) in zip(decoder.pairs, decoder.steps):
        if late:
            outputs.append(x := plain_block(embed, plain_block(merge, x, t)))
    return F.pixel_shuffle(x, config.patch), outputs[:-1]


def plain_logit(discriminator, y, codes):
    blocks = discriminator.blocks
    return plain_trunk(discriminator.config, blocks, discriminator.plan, plain_embed(discriminator, y), discriminator.treatment(codes.flatten(1)), len(blocks))[-1].mean((1, 2, 3))


def plain_divergence(one, other, form):
    total = 0
    for (m1, s1), (m2, s2) in zip(one, other):
        v1, v2 = (s1**2).log(), (s2**2).log()
        gap = (m1 - m2) ** 2 / (1 if form == "official" else v2.exp())
        total = total - 0.5 * (1 + v1 - v2 - gap - (v1 - v2).exp()).sum(1).mean()
    return total


def plain_loss(generator, discriminator, y, codes, codes_cf, noise):
    """J of Eq. vci-image, one sample of z and one pass of a network at a time."""
    config, rows = generator.config, len(y)
    w0, w1, w2 = config.weights
    found, maps = plain_encode(generator, generator.encoder, y, codes)
    draws = [[mean + scale * eps[k * rows:(k + 1) * rows] for (mean, scale), eps in zip(found, noise)] for k in range(config.mc + 1)]
    likelihood, gap = [], []
    for z in draws[:-1]:
        logits, drawn = plain_decode(generator, z, codes)
        p = logits.sigmoid()
        likelihood.append(-(y * p.log() + (1 - y) * (1 - p).log()).mean())
        gap.append(0.5 * sum(((a - b.detach()) ** 2).mean() for a, b in zip(drawn, maps[::-1])))
    logits, drawn = plain_decode(generator, draws[-1], codes_cf)
    y_cf = logits.sigmoid()
    _, seen = plain_encode(generator, generator.encoder, y_cf, codes_cf)
    judge = generator.encoder if generator.frozen is None else generator.frozen
    return {"reconstruction": w0 * sum(likelihood) / config.mc, "features": w0 * sum(gap) / config.mc, "supervision": w1 * torch.log1p(torch.exp(-plain_logit(discriminator, y_cf, codes_cf))).mean(),
            "features_cf": w1 * 0.5 * sum(((a - b.detach()) ** 2).mean() for a, b in zip(seen, drawn[::-1])),
            "divergence": w2 * plain_divergence(plain_encode(generator, judge, y, codes)[0], plain_encode(generator, judge, y_cf, codes_cf)[0], config.divergence)}


@pytest.mark.parametrize("config", [TINY, DEEP, replace(DEEP, divergence="exact", evaluate="live")], ids=["tiny", "deep", "deep-live-exact"])
def test_loss_and_gradient_are_those_of_the_plain_formula(config):
    """Eq. vci-image, Eq. vci-image-l0, Eq. vci-image-l1, Eq. vci-image-l2 and Eq. split-features: batching the samples, splitting the features, 1x1 maps as matrix products and the order in memory change no term and no gradient (1e-5)."""
    config = replace(config, weights=(1.0, 0.7, 0.3))
    generator, discriminator, *batch = made(config)
    if generator.frozen is not None:
        with torch.no_grad():  # the frozen copy must be told from the live one
            next(generator.frozen.parameters()).mul_(1.5)
    ours, plain = image_losses.generator_terms(generator, discriminator, *batch), plain_loss(generator, discriminator, *batch)
    assert list(ours) == list(plain)
    for name in ours:
        assert torch.allclose(ours[name], plain[name], rtol=1e-5, atol=1e-7), name
    trained = [p for p in generator.parameters() if p.requires_grad]
    for a, b, p in zip(*(torch.autograd.grad(sum(terms.values()), trained, allow_unused=True) for terms in (ours, plain)), trained):
        assert (a is None) == (b is None) and (a is None or torch.allclose(a, b, rtol=1e-4, atol=1e-6)), p.shape


@pytest.mark.parametrize("config", [TINY, DEEP], ids=["tiny", "deep"])
def test_discriminator_loss_is_that_of_the_plain_formula(config):
    """Eq. vci-image-d on the fake of one drawn z, and no gradient to the generator."""
    generator, discriminator, y, codes, codes_cf, noise = made(config)
    eps = [part[:len(y)] for part in noise]
    found = image_losses.discriminator_loss(generator, discriminator, y, codes, codes_cf, eps)
    fake = plain_decode(generator, [mean + scale * e for (mean, scale), e in zip(plain_encode(generator, generator.encoder, y, codes)[0], eps)], codes_cf)[0].sigmoid()
    real, made_up = plain_logit(discriminator, y, codes), plain_logit(discriminator, fake, codes_cf)
    assert torch.allclose(found, 0.5 * (F.softplus(-real).mean() + F.softplus(made_up).mean()), rtol=1e-5)
    assert all(g is None for g in torch.autograd.grad(found, [p for p in generator.parameters() if p.requires_grad], allow_unused=True))


def test_published_network_has_the_loss_of_the_plain_formula():
    """The same at the published size, batch 2."""
    generator, discriminator, *batch = made(replace(vci.PUBLISHED, mc=1), rows=2)
    ours, plain = image_losses.generator_terms(generator, discriminator, *batch), plain_loss(generator, discriminator, *batch)
    assert all(torch.allclose(ours[name], plain[name], rtol=1e-5, atol=1e-8) for name in plain)


# ---------------------------------------------------------------- closed forms


def image(values, rows=1, side=1):
    """[rows, channels, side, side] of one value a channel."""
    return torch.tensor(values)[None, :, None, None].expand(rows, -1, side, side)


def test_divergence_at_a_case_worked_by_hand():
    """Eq. vci-divergence: official 0.818147 and exact 0.443147 at means (1, 0) and (0, 0), sds (1, 1) and (2, 1); equal where the second sd is 1; 0 at equal arguments (oracle 1)."""
    one, log_sd = image([1.0, 0.0]), image([2.0, 1.0]).log()
    zero = torch.zeros_like(one)
    assert image_losses.image_divergence(one, zero, zero, 2 * log_sd).item() == pytest.approx(0.818147, abs=1e-6)
    assert image_losses.image_divergence(one, zero, zero, 2 * log_sd, "exact").item() == pytest.approx(0.443147, abs=1e-6)
    assert image_losses.image_divergence(one, log_sd, zero, zero).item() == pytest.approx(image_losses.image_divergence(one, log_sd, zero, zero, "exact").item())
    assert image_losses.image_divergence(one, log_sd, one, log_sd).item() == pytest.approx(0) and image_losses.image_divergence(one, zero, zero, zero, "exact").item() > 0


def test_divergence_sums_channels_and_averages_the_rest():
    """Doubling the channels doubles it, tiling batch or positions does not change it (oracle 2)."""
    rng = seeding.generator(0, "kl")
    parts = [torch.randn(3, 4, 2, 2, generator=rng) for _ in range(4)]
    for form in vci.FORMS:
        value = image_losses.image_divergence(*parts, form)
        assert torch.allclose(image_losses.image_divergence(*(p.repeat(1, 2, 1, 1) for p in parts), form), 2 * value)
        assert torch.allclose(image_losses.image_divergence(*(p.repeat(2, 1, 3, 1) for p in parts), form), value)


def test_loss_of_a_blank_network_is_log_two():
    """Likelihood at logit 0 is ln 2 whatever the image, and so are the generator's and D's loss at D = 0 (oracle 6); L0 and L1 do not grow with the batch."""
    generator, discriminator, y, codes, codes_cf, noise = made(replace(TINY, weights=(1.0, 1.0, 1.0), features=False))
    with torch.no_grad():
        for block in (generator.decoder.pairs[-1][1], discriminator.blocks[-1]):
            for layer in (block.last, block.skip):
                layer.weight.zero_()
                layer.bias.zero_()
    terms = image_losses.generator_terms(generator, discriminator, y, codes, codes_cf, noise)
    loss = image_losses.discriminator_loss(generator, discriminator, y, codes, codes_cf, [part[:3] for part in noise])
    assert [terms["reconstruction"].item(), terms["supervision"].item(), loss.item()] == pytest.approx([np.log(2)] * 3, abs=1e-6)


def test_terms_of_weight_zero_are_not_computed():
    """w1 = 0 needs no discriminator; w1 = w2 = 0 leaves reconstruction alone; the prior of the conditional VAE is 0 at N(0, 1) posteriors and adds its own term."""
    generator, _, *batch = made(replace(TINY, weights=(1.0, 0.0, 1.0)))
    assert set(image_losses.generator_terms(generator, None, *batch)) == {"reconstruction", "features", "divergence"}
    generator, _, *batch = made(replace(TINY, weights=(1.0, 0.0, 0.0), prior=1.0))
    assert set(image_losses.generator_terms(generator, None, *batch)) == {"reconstruction", "features", "prior"}
    head = generator.encoder.heads["1"]
    with torch.no_grad():
        for layer in (head.last, head.skip):
            layer.weight.zero_()
            layer.bias.zero_()
            head.last.bias[3:] = np.log(np.expm1(1 - vci.FLOOR))
    assert image_losses.generator_terms(generator, None, *batch)["prior"].item() == pytest.approx(0, abs=1e-6)


# ---------------------------------------------------------------- gradient flow


def reached(terms, generator):
    """Parts of the generator that the terms give a gradient."""
    named = [(name, p) for name, p in generator.named_parameters() if p.requires_grad]
    grads = torch.autograd.grad(sum(terms.values()), [p for _, p in named], allow_unused=True)
    return {name.split(".")[0] for (name, _), g in zip(named, grads) if g is not None and g.abs().max() > 0}


def test_gradient_of_the_divergence():
    """L2 alone trains the decoder, the embeddings and through z the live encoder; with `detach_encode` the live encoder is not reached, the decoder is (oracle 10)."""
    generator, _, *batch = made(replace(TINY, weights=(0.0, 0.0, 1.0), features=False))
    assert reached({"divergence": image_losses.generator_terms(generator, None, *batch)["divergence"]}, generator) == {"outcome", "treatment", "encoder", "decoder"}
    generator, _, *batch = made(replace(TINY, weights=(0.0, 0.0, 1.0), features=False, detach_encode=True))
    assert reached({"divergence": image_losses.generator_terms(generator, None, *batch)["divergence"]}, generator) == {"outcome", "treatment", "decoder"}
    generator, _, *batch = made(replace(TINY, weights=(0.0, 0.0, 1.0), features=False, detach_encode=True, evaluate="live"))
    assert "encoder" in reached({"divergence": image_losses.generator_terms(generator, None, *batch)["divergence"]}, generator)


def test_frozen_encoder_moves_only_when_refreshed():
    """An optimiser step leaves the evaluating encoder as it was; `refresh` makes it the live one; no state lies outside the parameters, which is what a checkpoint keeps (oracle 10)."""
    generator, discriminator, *batch = made(TINY)
    before = [p.clone() for p in generator.frozen.parameters()]
    player = training.Player(generator, lambda: {"loss": sum(image_losses.generator_terms(generator, discriminator, *batch).values())[None]}, 1e-2, stacked=False)
    training._update("generator", player, player.optimiser(), 1.0, 0, 0)
    assert all(torch.equal(a, b) for a, b in zip(before, generator.frozen.parameters()))
    assert not all(torch.equal(a, b) for a, b in zip(before, generator.encoder.parameters()))
    generator.refresh()
    assert all(torch.equal(a, b) for a, b in zip(generator.encoder.parameters(), generator.frozen.parameters()))
    assert not list(generator.buffers()) and not list(discriminator.buffers())


def test_gradients_lie_in_memory_as_the_weights_do():
    """The fused AdamW of torch pairs memory, not indices: a step with it equals one with the plain AdamW."""
    steps = []
    for fused in (True, False):
        generator, discriminator, *batch = made(DEEP)
        trained = [p for p in generator.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(trained, lr=1e-3, fused=fused)
        for p, g in zip(trained, torch.autograd.grad(sum(image_losses.generator_terms(generator, discriminator, *batch).values()), trained, allow_unused=True)):
            p.grad = g
        optimiser.step()
        steps.append(trained)
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*steps))


def test_spectral_norm():
    """After power iterations every normalised weight has largest singular value 1; skips and the last block are left as they are."""
    discriminator = made(DEEP)[1]
    with torch.no_grad():
        for p in discriminator.parameters():
            if p.requires_grad:
                p.mul_(3.0)
    for _ in range(200):
        discriminator.iterate()
    for block in discriminator.blocks[:-1]:
        for layer in (block.first, block.second, block.last):
            assert torch.linalg.matrix_norm(layer.kernel().flatten(1), 2).item() == pytest.approx(1, abs=1e-3)
    assert all(layer.u is None for layer in (discriminator.blocks[-1].last, discriminator.blocks[0].skip))


# ---------------------------------------------------------------- treatments


def test_label_code():
    """Eq. label-code: 16 numbers for 70,000 images, 32 inputs for two labels; 0 is eight ones and eight zeros (oracle 23); frequencies run from 1 to 10,000^(-7/8)."""
    assert vci.code_size(70_000) == 16 and vci.label_code(torch.zeros(3, 2)).flatten(1).shape == (3, 32)
    assert vci.label_code(torch.zeros(())).tolist() == [1.0] * 8 + [0.0] * 8
    code = vci.label_code(torch.tensor(2.0))
    assert code[0].item() == pytest.approx(np.cos(2.0)) and code[15].item() == pytest.approx(np.sin(2 * 10_000 ** (-7 / 8)))


def test_drawn_treatment_changes_one_label():
    """T' keeps all labels but one, which comes from the pool with its frequencies; both labels are drawn alike (oracle 11)."""
    rng = seeding.generator(0, "draw")
    pool = torch.stack([torch.arange(4.0), 10 + torch.arange(4.0)], 1)[:, :, None]
    codes = torch.full((4000, 2, 1), -1.0)
    drawn = vci.draw_treatment(codes, pool, rng)[..., 0]
    assert ((drawn != -1).sum(1) == 1).all() and (drawn != -1).float().mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.03)
    assert set(drawn[:, 0].tolist()) == {-1.0, 0.0, 1.0, 2.0, 3.0} and (drawn[:, 1] == 12).float().mean().item() == pytest.approx(0.125, abs=0.02)


def test_batch_of_one_and_of_many():
    """Every image is drawn alike alone and in company; t' = t gives the reconstruction of the mean latent, another t' gives another image (oracles 9 and 12)."""
    generator, _, y, codes, codes_cf, _ = made(DEEP, rows=4)
    many = generator.counterfactual(y, codes, codes_cf)
    assert torch.allclose(torch.cat([generator.counterfactual(y[i:i + 1], codes[i:i + 1], codes_cf[i:i + 1]) for i in range(4)]), many, atol=1e-6)
    back = generator.decode([mean for mean, _ in generator.encode(y, codes)], codes)
    assert torch.equal(generator.counterfactual(y, codes, codes), back) and (many - back).abs().max() > 1e-4
    assert many.shape == y.shape and many.min() >= 0 and many.max() <= 1


def test_schedule():
    """1 to epoch 100, a line, 0 at epoch 200 (oracle 13)."""
    assert [schedule(e) for e in (0, 100, 150, 200, 300)] == [1, 1, 0.5, 0, 0]


# ---------------------------------------------------------------- training


def squares(n=64, seed=0):
    """Images [n, 1, 8, 8] of a bar whose width and brightness are the labels [n, 2]."""
    rng = np.random.default_rng(seed)
    width, light = rng.integers(1, 5, n), rng.uniform(0.3, 1.0, n)
    images = np.zeros((n, 1, 8, 8), dtype=np.float32)
    for i in range(n):
        images[i, 0, 1:7, 2:2 + width[i]] = light[i]
    return torch.as_tensor(images), torch.as_tensor(np.stack([width, light], 1))


@pytest.fixture(scope="module")
def bars():
    y, t = squares()
    return y, t, fit(y, t, Recipe(replace(TINY, mc=1), minibatches=120, batch=16, lr=1e-2, average=0.9, shift=0, warmup=5), seed=0)


def test_training_lowers_the_loss(bars):
    """The reconstruction improves on the untrained network by far, twice the same training gives the same bits, and every second minibatch trains D."""
    y, t, model = bars
    first, last = model.history[0], model.history[-1]
    assert last["generator.reconstruction"][0] < 0.7 * first["generator.reconstruction"][0] and "discriminator.loss" in last
    assert (model.reconstruct(y, t) - y).square().mean() < 0.5 * (y - y.mean(0)).square().mean()
    assert int(model.generator.minibatches) > 0
    recipe = Recipe(replace(TINY, mc=1), minibatches=4, batch=16)
    again = [fit(y, t, recipe, seed=0).reconstruct(y, t) for _ in range(2)]
    assert torch.equal(*again) and not torch.equal(again[0], fit(y, t, recipe, seed=1).reconstruct(y, t))


def test_saved_model_is_the_same(bars, tmp_path):
    """`save` and `load` give the same images; a finished training is read back from its checkpoint; another recipe is another file."""
    y, t, model = bars
    model.save(tmp_path / "m.safetensors")
    assert torch.equal(ImageVCI.load(tmp_path / "m.safetensors").counterfactual(y, t, t.flip(0)), model.counterfactual(y, t, t.flip(0)))
    recipe = Recipe(TINY, minibatches=2, batch=8)
    found = [fit(y, t, recipe, 0, tmp_path).reconstruct(y, t) for _ in range(2)]
    fit(y, t, replace(recipe, lr=1e-4), 0, tmp_path)
    assert torch.equal(*found) and len(list(tmp_path.glob("vci_image-*"))) == 2
    with pytest.raises(checks.InputError, match="no model"):
        ImageVCI.load(tmp_path / "absent.safetensors")


def test_wrong_input_is_named(bars):
    y, t, model = bars
    with pytest.raises(checks.InputError, match="images must be"):
        fit(y[:, :, :4], t, model.recipe, 0)
    with pytest.raises(checks.InputError, match="factors must be"):
        fit(y, t[:, :1], model.recipe, 0)
    with pytest.raises(checks.InputError, match="even"):
        fit(y, t, replace(model.recipe, minibatches=3), 0)
    with pytest.raises(checks.InputError, match="factors must be"):
        model.counterfactual(y, t[:, :1], t)


def test_shift_moves_every_image_by_whole_pixels():
    """The pixels stay, in another place; 0 moves nothing."""
    y, _ = squares(8)
    moved = shifted(y, 1, seeding.generator(0, "shift"))
    assert moved.shape == y.shape and torch.equal(moved.flatten(1).sort(1).values, y.flatten(1).sort(1).values) and not torch.equal(moved, y) and shifted(y, 0, None) is y


def test_classifier_supervises():
    """Eq. vci-image-classify: a mean squared error with no gradient below 0.05; T' rows reach decoder and encoder through it, the classifier is left as it is, and no discriminator is trained; networks that differ in weights share one."""
    codes = torch.zeros(2, 2, 1)
    assert image_losses.hinge(codes.flatten(1), codes).item() == pytest.approx(0.05) and image_losses.hinge(codes.flatten(1) + 0.3, codes).item() == pytest.approx(0.09)
    found = torch.full((2, 2), 0.1, requires_grad=True)
    assert torch.autograd.grad(image_losses.hinge(found, codes), found)[0].abs().max() == 0
    config = replace(TINY, supervision="classify", weights=(0.0, 1.0, 0.0), features=False)
    generator, _, *batch = made(config)
    judge = vci.Classifier(config, seeding.generator(0, "judge")).requires_grad_(False)
    assert reached({"supervision": image_losses.generator_terms(generator, judge, *batch)["supervision"]}, generator) == {"outcome", "treatment", "encoder", "decoder"}


def test_training_with_a_classifier(tmp_path):
    y, t = squares()
    recipe = Recipe(replace(TINY, supervision="classify", mc=1, weights=(10.0, 1.0, 0.01)), minibatches=4, batch=16, classifier_minibatches=4)
    model = fit(y, t, recipe, 0, tmp_path)
    fit(y, t, replace(recipe, network=replace(recipe.network, weights=(10.0, 1.0, 0.0))), 0, tmp_path)
    assert "generator.supervision" in model.history[-1] and not any(term.startswith("discriminator") for term in model.history[-1])
    assert len(list(tmp_path.glob("vci_image-classifier-*"))) == 1 and len(list(tmp_path.iterdir())) == 3
