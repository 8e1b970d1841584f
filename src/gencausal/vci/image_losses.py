r"""Losses of variational causal inference on images, on the networks of `images` and in their notation.

h_l(y, t): the maps after the first full-resolution blocks of the encoder; g_l(z, t): those of the decoder's last ones, in reversed order; sg: no gradient.

    L0 = BCE(logits, y) + 1/2 sum_l MSE(g_l(z, t), sg h_l(y, t))                 mean over `mc` samples of z, batch and pixels            `Eq. vci-image-l0`
    L1 = softplus(-D(y', t')) + 1/2 sum_l MSE(h_l(y', t'), sg g_l(z, t'))        one further z, "discriminate"                           `Eq. vci-image-l1`
    L1 = max(MSE(c(y'), t') - 0.05, 0) + 0.05 + the same feature term            "classify": c a frozen regression of t on y              `Eq. vci-image-classify`
    L2 = sum over levels, mean over batch and positions, sum over channels of KL(q(z | y, t) || q(z | y', t'))                            `Eq. vci-image-l2`
    J  = w0 L0 + w1 L1 + w2 L2 (+ prior KL(q(z | y, t) || N(0, I)), a term that the method lacks and the conditional VAE has)            `Eq. vci-image`
    L_D = 1/2 (softplus(-D(y, t)) + softplus(D(y', t'))), y' without gradient                                                             `Eq. vci-image-d`

`Eq. vci-divergence` at log variances v: -1/2 sum [1 + v1 - v2 - (m1 - m2)^2 - exp(v1 - v2)] as the public code has it ("official"), with (m1 - m2)^2 exp(-v2) for two Gaussians ("exact").
L0 and L1 are means of elements, L2 is a sum over channels: the published weights mean something only so. Both encodings in L2 use the frozen copy of the encoder ("frozen", refreshed once an epoch) with the live
embeddings, or the live encoder ("live").
"""

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss, softplus

from gencausal import checks
from gencausal.vci.images import FORMS, Classifier, Discriminator, Gaussians, Generator


def image_divergence(mean_1: torch.Tensor, log_var_1: torch.Tensor, mean_2: torch.Tensor, log_var_2: torch.Tensor, form: str = "official") -> torch.Tensor:
    """`Eq. vci-divergence` of Gaussians [B, c, r, r]: summed over channels, mean over batch and positions; a scalar. >= 0, 0 at equal arguments."""
    gap = (mean_1 - mean_2).square()
    gap = gap if checks.choice(form, "form", FORMS) == "official" else gap * (-log_var_2).exp()
    return -0.5 * (1 + log_var_1 - log_var_2 - gap - (log_var_1 - log_var_2).exp()).sum(1).mean()


def divergence(one: Gaussians, other: Gaussians, form: str) -> torch.Tensor:
    """`image_divergence` summed over levels."""
    return sum(image_divergence(m1, 2 * s1.log(), m2, 2 * s2.log(), form) for (m1, s1), (m2, s2) in zip(one, other))


def feature_gap(maps: list[torch.Tensor], targets: list[torch.Tensor]) -> torch.Tensor:
    """1/2 sum over maps of the mean squared difference, `targets` without gradient and in reversed order."""
    return 0.5 * sum(mse_loss(a.float(), b.detach().float()) for a, b in zip(maps, targets[::-1]))


def hinge(found: torch.Tensor, codes: torch.Tensor, low: float = 0.05) -> torch.Tensor:
    """Eq. vci-image-classify: mean squared error of `found [B, n k]` against `codes [B, n, k]`, no gradient below `low`."""
    return (mse_loss(found.float(), codes.flatten(1)) - low).clamp(min=0) + low


def generator_terms(generator: Generator, judge: Discriminator | Classifier | None, y: torch.Tensor, codes: torch.Tensor, codes_cf: torch.Tensor, noise: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weighted terms of Eq. vci-image, scalars, of images `y [B, 1, S, S]` in [0, 1], codes [B, n, k] and `noise` for mc + 1 samples of every level; a term of weight 0 is not computed and left out. judge: D or c, as `supervision` says.

    Samples of z are decoded as one batch of (mc + 1) B, the two encodings of L2 as one of 2 B.
    """
    config, n = generator.config, len(y)
    w0, w1, w2 = config.weights
    t, t_cf, seen = generator.treatment(codes.flatten(1)), generator.treatment(codes_cf.flatten(1)), generator.outcome(y)
    found, maps = generator.encoder(seen, t)
    imagined = w1 > 0 or w2 > 0
    samples = config.mc + imagined
    z = [torch.cat([mean] * samples) + torch.cat([scale] * samples) * eps[:samples * n] for (mean, scale), eps in zip(found, noise)]
    logits, drawn = generator.decoder(z, torch.cat([t.repeat(config.mc, 1), t_cf]) if imagined else t.repeat(config.mc, 1))
    made = config.mc * n
    terms = {"reconstruction": w0 * binary_cross_entropy_with_logits(logits[:made].float(), y.repeat(config.mc, 1, 1, 1))}
    if config.features:
        targets = [torch.cat([part.detach()] * config.mc + [own[made:].detach()] * imagined) for part, own in zip(maps, drawn[::-1])]  # T' rows are their own target: slicing would cost the order in memory
        terms["features"] = w0 * feature_gap(drawn, targets) * (samples / config.mc)
    if imagined:
        y_cf = logits[made:].sigmoid()
        seen_cf = generator.outcome(y_cf)
        again = seen_cf if not config.detach_encode else generator.outcome(generator.decoder([part[made:].detach() for part in z], t_cf)[0].sigmoid())
    if w1 > 0:
        terms["supervision"] = w1 * (softplus(-judge(y_cf, codes_cf).float()).mean() if config.supervision == "discriminate" else hinge(judge(y_cf), codes_cf))
        if config.features and config.defuse > 1:
            terms["features_cf"] = w1 * feature_gap(generator.encoder.maps(seen_cf, t_cf, config.defuse - 1), [part[made:] for part in drawn])
    if w2 > 0:
        if generator.frozen is not None:
            both = [(mean.split(n), scale.split(n)) for mean, scale in generator.frozen(torch.cat([seen, again]), torch.cat([t, t_cf]))[0]]
            one, other = ([(mean[k], scale[k]) for mean, scale in both] for k in (0, 1))
        else:
            one, other = found, generator.encoder(again, t_cf)[0]
        terms["divergence"] = w2 * divergence([(m.float(), s.float()) for m, s in one], [(m.float(), s.float()) for m, s in other], config.divergence)
    if config.prior > 0:
        terms["prior"] = config.prior * sum((0.5 * (mean.square() + scale.square() - 1) - scale.log()).sum((1, 2, 3)).mean() for mean, scale in found) / y[0].numel()
    return terms


def discriminator_loss(generator: Generator, discriminator: Discriminator, y: torch.Tensor, codes: torch.Tensor, codes_cf: torch.Tensor, noise: list[torch.Tensor]) -> torch.Tensor:
    """Eq. vci-image-d, a scalar; `noise` for one sample of every level. The two batches pass D as one."""
    with torch.no_grad():
        found = generator.encode(y, codes)
        y_cf = generator.decode([mean + scale * eps for (mean, scale), eps in zip(found, noise)], codes_cf)
    real, fake = discriminator(torch.cat([y, y_cf.to(y)]), torch.cat([codes, codes_cf])).float().split(len(y))
    return 0.5 * (softplus(-real).mean() + softplus(fake).mean())
