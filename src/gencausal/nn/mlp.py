r"""Many small multilayer perceptrons trained as one stacked network.

Every parameter has a leading axis S, one slice a network (a benchmark setting, a replication, a seed); a layer is one
batched matrix product. Slices never mix, so a stack of S networks computes what S separate networks would.

Shapes: S networks, B units, M draws or noise levels a unit, d covariates, K arms, h features.
"""

import math

import torch
from torch import nn
from torch.nn.functional import silu


class StackedLinear(nn.Module):
    """S affine maps at once: `x [S, N, n_in] -> [S, N, n_out]`."""

    def __init__(self, stack: int, n_in: int, n_out: int, rng: torch.Generator, gain: float = 1.0):
        super().__init__()
        weight = torch.randn(1, n_in, n_out, generator=rng, device=rng.device) * (gain / math.sqrt(n_in))
        self.weight = nn.Parameter(weight.repeat(stack, 1, 1))
        self.bias = nn.Parameter(torch.zeros(stack, 1, n_out, device=rng.device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class FeatureGates(nn.Module):
    """Non-negative gates, one a covariate: `x [S, N, d] -> |g| x`. An L1 penalty on |g| selects covariates (adaptive lasso in a network)."""

    def __init__(self, stack: int, n_in: int, initial: float, rng: torch.Generator):
        super().__init__()
        self.gate = nn.Parameter(torch.full((stack, 1, n_in), float(initial), device=rng.device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate.abs()

    def penalty(self) -> torch.Tensor:
        """Sum of |g| over covariates, [S]."""
        return self.gate.abs().sum((1, 2))


class FourierEmbedding(nn.Module):
    """Sines and cosines of a scalar at `n_frequencies` octaves from 1/4: `c [...] -> [..., 2 n_frequencies + 1]`, the scalar itself last."""

    def __init__(self, n_frequencies: int = 6):
        super().__init__()
        self.register_buffer("frequency", math.pi * 2.0 ** (torch.arange(n_frequencies) - 2.0), persistent=False)
        self.width = 2 * n_frequencies + 1

    def forward(self, c: torch.Tensor) -> torch.Tensor:
        angle = c[..., None] * self.frequency
        return torch.cat([angle.sin(), angle.cos(), c[..., None]], -1)


class OutcomeNetwork(nn.Module):
    r"""F(c_in y, c_noise, x, z) of the preconditioned denoiser, for a scalar outcome, covariates x and K arms z.

    The covariates pass once through gates, a trunk and one head an arm to an embedding e_z(x); the outcome y and the noise
    level meet it in a light decoder, so M draws of one unit cost one trunk. With u = c_in y and n the noise embedding,

        F = a(n) m(e) + b(n) u + MLP(u, n, e)                     `Eq. gaussian-skip`

    whose first two terms hold, at each noise level, the exact denoiser of a homoscedastic Gaussian outcome, (sigma^2 mu + v y) / (sigma^2 + v); over
    the levels a and b are fitted on the embedding.
    """

    def __init__(self, stack: int, covariates: int, arms: int, rng: torch.Generator, width: int = 200, depth: int = 3,
                 embedding: int = 128, decoder: int = 64, gate: float = 0.5):
        super().__init__()
        self.arms, self.embedding = arms, embedding
        self.gates = FeatureGates(stack, covariates, gate, rng)
        self.trunk = nn.ModuleList(StackedLinear(stack, covariates if i == 0 else width, width, rng, 1.4) for i in range(depth))
        self.heads = StackedLinear(stack, width, arms * embedding, rng, 1.4)
        self.noise = FourierEmbedding()
        self.to_mean = StackedLinear(stack, embedding, 1, rng)
        self.noise_coefficients = StackedLinear(stack, self.noise.width, 2, rng, 0.1)
        self.from_embedding = StackedLinear(stack, embedding, decoder, rng, 1.4)
        self.from_noise = StackedLinear(stack, self.noise.width + 1, decoder, rng, 1.4)
        self.hidden = StackedLinear(stack, decoder, decoder, rng, 1.4)
        self.out = StackedLinear(stack, decoder, 1, rng, 0.1)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Embeddings of every arm: `x [S, B, d] -> [S, B, K, h]`."""
        h = self.gates(x)
        for layer in self.trunk:
            h = silu(layer(h))
        return silu(self.heads(h)).unflatten(-1, (self.arms, self.embedding))

    def embed(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Embedding of the unit under arm z: `x [S, B, d], z [S, B] in {0..K-1} -> [S, B, h]`."""
        index = z[:, :, None, None].expand(-1, -1, 1, self.embedding)
        return self.encode(x).gather(2, index).squeeze(2)

    def decode(self, u: torch.Tensor, c_noise: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        """F for scaled outcomes `u [S, B, M]` under embeddings `e [S, B, h]` -> [S, B, M]. `c_noise` is three-dimensional and broadcasts to u;
        a level shared by draws or units is embedded once."""
        S, B, M = u.shape
        n = self.noise(c_noise.expand(S, -1, -1))
        rows, n = n.shape[1:3], n.flatten(1, 2)
        a, b = (self.noise_coefficients(n)[..., i].unflatten(1, rows) for i in (0, 1))
        weight, bias = self.from_noise.weight, self.from_noise.bias
        h = self.from_embedding(e)[:, :, None] + torch.baddbmm(bias, n, weight[:, :-1]).unflatten(1, rows)
        h = silu(torch.addcmul(h, u[..., None], weight[:, None, -1:])).reshape(S, B * M, -1)
        h = h + silu(self.hidden(h))
        return a * self.to_mean(e) + b * u + self.out(h).view(S, B, M)
