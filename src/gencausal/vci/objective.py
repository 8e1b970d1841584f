r"""The objective of VCI on cells (spec vci, 2.2 and 2.3), in the notation of `networks`.

With y' = E p(y' | z, t') the model's own counterfactual under a drawn treatment t', maximise

    J = w0 E_q log p(y | z, t)  +  w1 log p(y' | x, t')  -  w2 D[ q(z | y, x, t) || q(z | y', x, t') ]               `Eq. vci`

    L0 = - mean over draws, cells and genes of log p(y | z, t)                                                       `Eq. reconstruction`
    L1 = - mean_i mean_j mean_g log N(y'_ig; y_ijg, 1),  j over m cells of the same covariates observed under t'      `Eq. match`
    L2 = mean over cells of the sum over latents of D                                                                `Eq. divergence`

L0 and L1 are means over elements, L2 is a sum over latents: the published weights mean something only on these scales. There is no divergence to a prior.
The divergence exists in the form of the public code, which lacks 1 / var_2 on the squared difference of the means, and in the exact form of two Gaussians.

A conditional VAE is w1 = w2 = 0 with a divergence to N(0, 1) added (`prior`), an autoencoder w1 = w2 = 0 alone.
"""

import math
from dataclasses import dataclass

import torch
from torch.nn.functional import softplus

from gencausal.vci.networks import FLOOR, CellNetworks

FORMS = ("official", "exact")
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
ROWS = 192  # of the fused likelihood at a time: enough for the matrix products, few enough for the cache


def divergence(mean_1: torch.Tensor, scale_1: torch.Tensor, mean_2: torch.Tensor, scale_2: torch.Tensor, form: str = "official") -> torch.Tensor:
    r"""D between two diagonal Gaussians, summed over the last axis (Eq. divergence): with r = 2 ln(sigma_1 / sigma_2) and delta = mu_1 - mu_2,

    official  -1/2 sum [1 + r - delta^2 - e^r],   exact  -1/2 sum [1 + r - delta^2 / sigma_2^2 - e^r],

    equal where sigma_2 = 1 or delta = 0, both zero at equal arguments and never negative (spec vci, 2.3 and defect 1).
    """
    ratio = 2 * (scale_1.log() - scale_2.log())
    squared = (mean_1 - mean_2).square()
    if form == "exact":
        squared = squared / scale_2.square()
    return -0.5 * (1 + ratio - squared - ratio.exp()).sum(-1)


def match(outcome_cf: torch.Tensor, mean: torch.Tensor, square: torch.Tensor, matched: torch.Tensor) -> torch.Tensor:
    r"""L1, one value a network (Eq. match).

    outcome_cf: y' [S, B, G]; mean: of the matched cells of each cell, [S, B, G]; square: mean over them and over genes of y^2, [S, B]; matched: whether a cell has any, [S, B].
    Since mean_j (y' - y_j)^2 = (y' - mean)^2 + mean_j y_j^2 - mean^2, two moments say all that the m cells say. Cells without a match count in neither sum nor mean; a batch without any gives 0.
    """
    error = outcome_cf - mean
    squared = (error * error).mean(-1) + square - (mean * mean).mean(-1)
    count = matched.sum(-1)
    total = torch.where(matched, 0.5 * squared + HALF_LOG_2PI, 0.0).sum(-1)
    return torch.where(count > 0, total / count.clamp(min=1), 0.0)


class _GaussianHead(torch.autograd.Function):
    """`gaussian_head` with its gradient written out, a few draws at a time, so that the [M, B, 2 G] outputs of the head never stand in memory at once."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, outcome):
        S, M, B, width = hidden.shape
        G = outcome.shape[-1]
        needs = any(ctx.needs_input_grad)
        grad_hidden = torch.empty_like(hidden) if needs else None
        grad_weight, grad_bias = (torch.zeros_like(weight), torch.zeros_like(bias)) if needs else (None, None)
        total = hidden.new_zeros(S)
        step = 1 / (M * B * G)
        chunk = max(1, ROWS // B)
        for a in range(0, M, chunk):
            h = hidden[:, a:a + chunk].flatten(1, 2)
            out = torch.baddbmm(bias, h, weight)
            loc, raw = out.unflatten(1, (-1, B)).split(G, -1)
            scale = softplus(raw).add_(FLOOR)
            precision = scale.reciprocal()
            error = (outcome[:, None] - loc).mul_(precision)  # standardised
            squared = error * error
            total += torch.add(scale.log(), squared, alpha=0.5).sum((1, 2, 3))
            if needs:
                torch.mul(squared.neg_().add_(1).mul_(precision), raw.sigmoid_(), out=raw)
                torch.mul(error, precision, out=loc).neg_()
                grad_hidden[:, a:a + chunk] = torch.bmm(out, weight.mT).unflatten(1, (-1, B))
                grad_weight.baddbmm_(h.mT, out)
                grad_bias += out.sum(1, keepdim=True)
        if needs:
            ctx.save_for_backward(grad_hidden.mul_(step), grad_weight.mul_(step), grad_bias.mul_(step))
        return total * step + HALF_LOG_2PI

    @staticmethod
    def backward(ctx, grad):
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        return grad.view(-1, 1, 1, 1) * grad_hidden, grad.view(-1, 1, 1) * grad_weight, grad.view(-1, 1, 1) * grad_bias, None


def gaussian_head(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, outcome: torch.Tensor) -> torch.Tensor:
    """L0, one value a network (Eq. reconstruction, Eq. decoder), from the decoder's last hidden layer: `hidden [S, M, B, width]`, head `weight [S, width, 2 G], bias [S, 1, 2 G]`, `outcome [S, B, G]`.

    Equal to minus the mean log density of Normal(loc, softplus(raw) + 0.001); no gradient to the outcome.
    """
    return _GaussianHead.apply(hidden, weight, bias, outcome)


def log_likelihood(kind: str, heads: torch.Tensor, outcome: torch.Tensor) -> torch.Tensor:
    r"""log p(y | z, t) of every element [..., G] from the decoder's two `heads [..., 2 G]` = (a, b) (Eq. outcome-laws; spec vci, 2.3):

    normal             N(a, (softplus(b) + 0.001)^2)
    bernoulli          y a - softplus(a), outcomes in [0, 1]; b is not used
    negative_binomial  mean m = softplus(a) + 0.001, inverse dispersion r = softplus(b) + 0.001, outcomes counts (Var y = m + m^2 / r)
    """
    a, b = heads.chunk(2, -1)
    if kind == "bernoulli":
        return outcome * a - softplus(a)
    b = softplus(b) + FLOOR
    if kind == "normal":
        return -0.5 * ((outcome - a) / b).square() - b.log() - HALF_LOG_2PI
    m = softplus(a) + FLOOR
    total = (m + b).log()
    return torch.lgamma(outcome + b) - torch.lgamma(b) - torch.lgamma(outcome + 1) + b * (b.log() - total) + outcome * (m.log() - total)


@dataclass(frozen=True)
class Batch:
    """Cells with a drawn treatment and their matches; shapes as in `networks` and `match`.

    outcome [S, B, G], treatment [S, B, T], covariates [S, B, C]; treatment_cf [S, B, T] drawn; matched_mean [S, B, G], matched_square [S, B], matched [S, B] bool;
    eps [S, M + 1, B, L]: standard normal noise of the M draws of the reconstruction and of the one of the counterfactual. For counts the moments of the matches are those of log(1 + y).
    """

    outcome: torch.Tensor
    treatment: torch.Tensor
    covariates: torch.Tensor
    treatment_cf: torch.Tensor
    matched_mean: torch.Tensor
    matched_square: torch.Tensor
    matched: torch.Tensor
    eps: torch.Tensor


def terms(networks: CellNetworks, batch: Batch, weights: torch.Tensor, form: str = "official", evaluator: CellNetworks | None = None, detach_encode: bool = False, joint: bool = False) -> dict[str, torch.Tensor]:
    """The weighted terms of one step, each [S] (Eq. vci); their sum is minimised.

    weights: [4, S], w0, w1, w2 and the weight of the divergence to N(0, 1); evaluator: a frozen copy whose encoder evaluates both arguments of L2 (as published for images), the
    live encoder if None (as for cells); detach_encode: L2 sees a latent drawn without gradient to the encoder, so that it trains the decoder alone. joint: factual and drawn
    treatments pass the decoder together, so that BatchNorm sees both (as published, apart: where all drawn treatments are equal it then subtracts what they do). A term whose weight is zero in every network is not computed;
    where it is zero in some, their norms forget its passes, so that a network ends alike alone or in company.
    """
    w0, w1, w2, prior = weights
    mean, scale = networks.encode(batch.outcome, batch.treatment, batch.covariates)
    latents = torch.addcmul(mean[:, None], scale[:, None], batch.eps)  # [S, M + 1, B, L]
    S, M, B = latents.shape[0], latents.shape[1] - 1, latents.shape[2]
    treatments = batch.treatment[:, None].expand(-1, M, -1, -1)
    if joint:
        both = networks.hidden(latents.flatten(1, 2), torch.cat([treatments, batch.treatment_cf[:, None]], 1).flatten(1, 2)).unflatten(1, (M + 1, B))
        hidden, hidden_cf = both[:, :M], both[:, M]
    else:
        hidden, hidden_cf = networks.hidden(latents[:, :-1].flatten(1, 2), treatments.flatten(1, 2)).unflatten(1, (M, B)), None
    head = networks.decoder_head
    if networks.likelihood == "normal":
        loss = gaussian_head(hidden, head.weight, head.bias, batch.outcome)
    else:
        loss = -log_likelihood(networks.likelihood, head(hidden.flatten(1, 2)).unflatten(1, (M, B)), batch.outcome[:, None]).mean((1, 2, 3))
    found = {"reconstruction": w0 * loss}
    if w1.any() or w2.any():
        with networks.remembering((w1 != 0) | (w2 != 0)):
            outcome_cf = networks.mean(networks.hidden(latents[:, -1], batch.treatment_cf) if hidden_cf is None else hidden_cf)
        if w1.any():
            compared = outcome_cf.log1p() if networks.likelihood == "negative_binomial" else outcome_cf
            found["supervision"] = w1 * match(compared, batch.matched_mean, batch.matched_square, batch.matched)
        if w2.any():
            with networks.remembering(w2 != 0):
                if detach_encode:
                    outcome_cf = networks.mean(networks.hidden(latents[:, -1].detach(), batch.treatment_cf))
                first = (mean, scale) if evaluator is None else evaluator.encode(batch.outcome, batch.treatment, batch.covariates)
                again = (evaluator or networks).encode(outcome_cf, batch.treatment_cf, batch.covariates)
            found["divergence"] = w2 * divergence(*first, *again, form).mean(-1)
    if prior.any():
        found["prior"] = prior * divergence(mean, scale, torch.zeros_like(mean), torch.ones_like(scale), "exact").mean(-1)
    return found
