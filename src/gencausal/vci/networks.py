r"""Networks of VCI on cells, many trained as one stack (spec vci, 2.5; public code yulun-rayn/variational-causal-inference at 25c641d).

The encoder reads an outcome, its treatment and its covariates; the decoder reads latent and treatment alone, never the covariates:

    q(z | y, x, t) = N(mu, sigma^2),   sigma = softplus(raw) + 0.001        `Eq. encoder`
    p(y | z, t)    = N(loc, scale^2),  scale = softplus(raw) + 0.001        `Eq. decoder`

As published, both heads of the encoder end in a ReLU, so that mu >= 0 and sigma >= ln 2 + 0.001 = 0.694 (`relu_heads`, a switch); the hidden layers are Linear, BatchNorm, ReLU.

Shapes: S networks, B cells, M draws, G genes, T treatment columns, C covariate columns, L latents. Every parameter has the leading axis S; slices never mix.
"""

from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.functional import relu, softplus

from gencausal.nn.mlp import StackedLinear

FLOOR = 0.001
NORMS = ("batch", "layer", "none")
LIKELIHOODS = ("normal", "bernoulli", "negative_binomial")


class Norm(nn.Module):
    """Normalises features [S, N, h]: over the N rows of the pass (`batch`), over the h features of a row (`layer`), or not at all (`none`), then scales and shifts.

    The running mean and variance of `batch` are parameters without gradient, so that they are averaged, checkpointed and chosen with the weights; `remembering` limits who updates them.
    """

    def __init__(self, stack: int, width: int, kind: str, device: torch.device, momentum: float = 0.1):
        super().__init__()
        self.kind, self.momentum, self.remembers = kind, momentum, None
        if kind != "none":
            self.weight, self.bias = nn.Parameter(torch.ones(stack, 1, width, device=device)), nn.Parameter(torch.zeros(stack, 1, width, device=device))
        if kind == "batch":
            self.mean = nn.Parameter(torch.zeros(stack, 1, width, device=device), requires_grad=False)
            self.var = nn.Parameter(torch.ones(stack, 1, width, device=device), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "none":
            return x
        if self.kind == "layer":
            var, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
        elif self.training:
            var, mean = torch.var_mean(x, 1, correction=0, keepdim=True)
            with torch.no_grad():
                n, momentum = x.shape[1], self.momentum if self.remembers is None else self.momentum * self.remembers
                self.mean.lerp_(mean.detach(), momentum)
                self.var.lerp_(var.detach() * (n / max(n - 1, 1)), momentum)
        else:
            mean, var = self.mean, self.var
        factor = self.weight * (var + 1e-5).rsqrt()
        return torch.addcmul(self.bias - mean * factor, x, factor) if self.kind == "batch" else (x - mean) * factor + self.bias


class Trunk(nn.Module):
    """Hidden layers Linear, norm, ReLU: [S, N, widths[0]] -> [S, N, widths[-1]]."""

    def __init__(self, stack: int, widths: list[int], norm: str, rng: torch.Generator):
        super().__init__()
        self.linear = nn.ModuleList(StackedLinear(stack, a, b, rng, 1.4) for a, b in zip(widths, widths[1:]))
        self.norm = nn.ModuleList(Norm(stack, b, norm, rng.device) for b in widths[1:])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for linear, norm in zip(self.linear, self.norm):
            x = relu(norm(linear(x)))
        return x


class CellNetworks(nn.Module):
    """S encoders and decoders of VCI.

    genes, treatments: G and T; blocks: widths of the one-hot covariates; width, latent, embedding, covariate_embedding: layer sizes; relu_heads: the
    encoder's heads end in a ReLU as published; norm: one of `NORMS`; sees_treatment: whether the encoder reads the treatment (off for an adversarial autoencoder);
    sees_covariates: whether it reads the covariates. likelihood: law of an outcome, one of `LIKELIHOODS` (`objective.log_likelihood`); counts enter the encoder as log(1 + y).
    """

    def __init__(self, stack: int, genes: int, treatments: int, blocks: tuple[int, ...], rng: torch.Generator, width: int = 128, latent: int = 128, embedding: int = 256,
                 covariate_embedding: int = 16, relu_heads: bool = True, norm: str = "batch", sees_treatment: bool = True, sees_covariates: bool = True, likelihood: str = "normal"):
        super().__init__()
        self.blocks, self.latent, self.relu_heads, self.genes = tuple(blocks), latent, relu_heads, genes
        self.sees_treatment, self.sees_covariates, self.likelihood = sees_treatment, sees_covariates, likelihood
        self.embed = StackedLinear(stack, genes, embedding, rng)
        self.embed_covariates = nn.ModuleList(StackedLinear(stack, b, covariate_embedding, rng) for b in (blocks if sees_covariates else ()))
        inner = embedding + treatments * sees_treatment + covariate_embedding * len(self.embed_covariates)
        self.encoder = Trunk(stack, [inner, width, width], norm, rng)
        self.encoder_head = StackedLinear(stack, width, 2 * latent, rng)
        self.decoder = Trunk(stack, [latent + treatments, width, width], norm, rng)
        self.decoder_head = StackedLinear(stack, width, 2 * genes, rng)

    @contextmanager
    def remembering(self, which: torch.Tensor):
        """Within it only the networks of `which [S]` take a pass into their running moments: the others would not make it alone."""
        norms = [m for m in self.modules() if isinstance(m, Norm)]
        for norm in norms:
            norm.remembers = None if which.all() else which.view(-1, 1, 1).to(self.embed.weight)
        try:
            yield
        finally:
            for norm in norms:
                norm.remembers = None

    def encode(self, outcome: torch.Tensor, treatment: torch.Tensor, covariates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation [S, B, L] of q(z | y, x, t) (Eq. encoder): `outcome [S, B, G], treatment [S, B, T], covariates [S, B, C]`."""
        parts = [self.embed(outcome.log1p() if self.likelihood == "negative_binomial" else outcome)] + ([treatment] if self.sees_treatment else [])
        if self.sees_covariates:
            parts += [embed(block) for embed, block in zip(self.embed_covariates, covariates.split(self.blocks, -1))]
        heads = self.encoder_head(self.encoder(torch.cat(parts, -1)))
        if self.relu_heads:
            heads = relu(heads)
        mean, raw = heads.chunk(2, -1)
        return mean, softplus(raw) + FLOOR

    def hidden(self, latent: torch.Tensor, treatment: torch.Tensor) -> torch.Tensor:
        """Last hidden layer of the decoder, [S, N, width], before the head that `decode` and the fused likelihood share: `latent [S, N, L], treatment [S, N, T]`."""
        return self.decoder(torch.cat([latent, treatment], -1))

    def mean(self, hidden: torch.Tensor) -> torch.Tensor:
        """E[y | z, t], [S, N, G], without the cost of the second head."""
        G = self.genes
        loc = torch.baddbmm(self.decoder_head.bias[..., :G], hidden, self.decoder_head.weight[..., :G])
        return {"normal": lambda: loc, "bernoulli": loc.sigmoid, "negative_binomial": lambda: softplus(loc) + FLOOR}[self.likelihood]()

    def decode(self, latent: torch.Tensor, treatment: torch.Tensor) -> torch.Tensor:
        """Both heads [S, N, 2 G] of p(y | z, t), as `objective.log_likelihood` reads them: of a normal law loc and raw (Eq. decoder)."""
        return self.decoder_head(self.hidden(latent, treatment))

    def predict(self, outcome: torch.Tensor, treatment: torch.Tensor, covariates: torch.Tensor, treatment_cf: torch.Tensor) -> torch.Tensor:
        """Counterfactual outcome [S, B, G]: encoder mean, then decoder mean under `treatment_cf`."""
        return self.mean(self.hidden(self.encode(outcome, treatment, covariates)[0], treatment_cf))

    def generate(self, outcome: torch.Tensor, treatment: torch.Tensor, covariates: torch.Tensor, treatment_cf: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
        """The same from a drawn latent, with standard normal noise `eps [S, B, L]`."""
        mean, scale = self.encode(outcome, treatment, covariates)
        return self.mean(self.hidden(torch.addcmul(mean, scale, eps), treatment_cf))
