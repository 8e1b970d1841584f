r"""CausalDiffAE: a diffusion decoder conditioned on a causal code of the image (Komanduri et al. 2024, arXiv 2404.17735; spec diffusion_counterfactuals 2.2).

Notation: exogenous code u_i in R^k of factor i, q(u | x_0) = N(m(x_0), s(x_0)^2); causal code z_i = f_i(A_{.i} o z) + u_i; labels y_i, standardised; decoder eps_theta(x_t, t, z).

    L = E ||eps_theta(x_t, t, z) - eps||^2 + gamma { KL(q(u | x) || N(0, I)) + 1/2 E ||z - y||^2 }                   `Eq. causaldiffae-loss`

The last term is KL(N(z, I) || N(y, I)), each y_i repeated over its k coordinates; gamma rises linearly from 0. Counterfactual: u from the image, z_i = c for the intervened, the others in
causal order, then DDIM from x_t0 under z_bar. x_t0 is a draw of q(x_t0 | x_0), as released, or DDIM inversion under the factual z.

`as_released` restores two defects of the public code: f_i reads the parents' u in place of their z (one hop, so a chain breaks), and an intervention overwrites z after its propagation, so
that nothing follows from it. They come apart in `propagate(early=True)`: one hop, with the intervention before it (`Eq. one-hop`, z_i = f_i(A_{.i} o u) + u_i with u_i = z_i = c for the
intervened), which is what training fits and what a fair comparison of the two kinds of parents needs. A `mask` without edges has no causal layer, z = u: a diffusion autoencoder with labels.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import silu, softplus

from gencausal import graph, seeding, solvers
from gencausal.counterfactual import Sampling, abduct
from gencausal.image_models.guided import GeneratorConfig, ImagePlayer, Stream, held_out_loss, identity_of, make_generator, prepare, trained
from gencausal.nn.mlp import StackedLinear
from gencausal.nn.unet import Encoder
from gencausal.training import Trained


@dataclass(frozen=True)
class Config:
    """The backbone is that of the guided method's generator."""

    generator: GeneratorConfig = GeneratorConfig()
    latent: int = 16  # k, coordinates of a factor's code
    width: int = 32  # channels of the encoder's first map
    gamma: float = 1.0  # its last value, beside a denoising loss averaged over pixels
    warmup: float = 0.5  # share of the rounds over which gamma rises to it
    as_released: bool = False


class CausalCode(nn.Module):
    """q(u | x_0) and the causal layer u -> z: codes [B, n, k]."""

    def __init__(self, channels: int, size: int, mask: np.ndarray, config: Config, rng: torch.Generator):
        super().__init__()
        n, k = len(mask), config.latent
        self.n, self.k, self.as_released = n, k, config.as_released
        self.encoder = Encoder(channels, size, 2 * n * k, rng, config.width, config.generator.patch)
        self.layers = nn.ModuleList([StackedLinear(n, n * k, 64, rng, 1.4), StackedLinear(n, 64, k, rng, 0.1)])
        self.register_buffer("mask", torch.as_tensor(mask != 0, dtype=torch.float32), persistent=False)
        self.order = graph.order(mask)
        self.steps = nn.Parameter(torch.zeros(()), requires_grad=False)  # of training so far; a parameter, so that a checkpoint holds it

    def posterior(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of u, [B, n, k] each, of images x in [-1, 1]."""
        mean, spread = self.encoder(x).unflatten(1, (self.n, 2 * self.k)).chunk(2, 2)
        return mean, softplus(spread) + 1e-3

    def mechanisms(self, z: torch.Tensor) -> torch.Tensor:
        """f_i(A_{.i} o z) of every factor, [B, n, k]; zero for roots."""
        seen = self.mask.T[:, None, :, None] * z[None]  # [node, B, parent, k]
        h = silu(self.layers[0](seen.flatten(2)))
        return self.layers[1](h).transpose(0, 1) * self.mask.any(0)[None, :, None]

    def propagate(self, u: torch.Tensor, do: dict[int, torch.Tensor] | None = None, early: bool = False) -> torch.Tensor:
        """z [B, n, k] from u under `do` (factor to values [B], repeated over its coordinates). early: as released but with the intervention before the hop (Eq. one-hop)."""
        values = {i: v[:, None].expand(-1, self.k) for i, v in (do or {}).items()}
        if self.as_released:
            u = torch.stack([values.get(i, u[:, i]) for i in range(self.n)], 1) if early else u
            z = list((self.mechanisms(u) + u).unbind(1))
            return torch.stack([values.get(i, z[i]) for i in range(self.n)], 1)
        z = list(torch.zeros_like(u).unbind(1))
        for i in self.order:
            z[i] = values[i] if i in values else self.mechanisms(torch.stack(z, 1))[:, i] + u[:, i]
        return torch.stack(z, 1)


def make(channels: int, size: int, mask: np.ndarray, config: Config, seed: int, device: torch.device | str = "cpu") -> nn.ModuleDict:
    """Untrained parts: `decoder`, conditional on the code, and `code`."""
    decoder = make_generator(config.generator, channels, size, seed, device, condition=len(mask) * config.latent)
    return nn.ModuleDict({"decoder": decoder, "code": CausalCode(channels, size, mask, config, seeding.generator(seed, "code", device=device)).to(device)})


def train(images: torch.Tensor, z: torch.Tensor, mask: np.ndarray, config: Config, seed: int, folder: Path | None = None, device: torch.device | str = "cpu", published: bool = True, data: str = "") -> Trained:
    """Eq. causaldiffae-loss on `images [N, C, S, S]` and labels `z [N, n]`; the result's module is `both`."""
    images, z, labelled, fit_rows, held = prepare(images, z, seed, 1.0, device)
    both = make(images.shape[1], images.shape[2], mask, config, seed, device)
    stream = Stream(images[fit_rows], z[fit_rows], config.generator.batch, seeding.generator(seed, "generator-batches", device=device), labelled[fit_rows])
    codes = seeding.generator(seed, "codes", device=device)

    def loss() -> dict[str, torch.Tensor]:
        x, y, _, _, eps, alpha, sigma = stream.draw()
        mean, spread = both["code"].posterior(x)
        u = mean + spread * torch.randn(mean.shape, generator=codes, device=codes.device)
        causal = both["code"].propagate(u)
        gamma = config.gamma * (both["code"].steps / max(1.0, config.warmup * config.generator.rounds)).clamp(max=1.0)
        both["code"].steps += 1
        divergence = 0.5 * (mean.square() + spread.square() - 1) - spread.log()
        return {"denoising": both["decoder"].loss(x, eps, alpha, sigma, causal.flatten(1)).mean()[None], "noise": gamma * divergence.sum((1, 2)).mean()[None],
                "labels": gamma * 0.5 * (causal - y[:, :, None]).square().sum((1, 2)).mean()[None]}

    def score(modules: dict[str, nn.Module]) -> dict[str, torch.Tensor]:
        made = modules["both"]
        with torch.no_grad():
            code = made["code"].propagate(made["code"].posterior(2 * images[held][:128] - 1)[0]).flatten(1)
        return {"held_out": held_out_loss(made["decoder"], images[held], seed, condition=code)[None]}

    generator = config.generator
    player = ImagePlayer(both, loss, generator.lr, weight_decay=generator.weight_decay, average=generator.average)
    identity = identity_of("causaldiffae", images, z, seed, data, mask=np.asarray(mask).tolist(), **asdict(config))
    return trained("causaldiffae", identity, {"both": player}, generator.rounds, [stream.rng, codes], seed, folder, published, score=score, score_every=generator.score_every)


@torch.no_grad()
def invert(both: nn.ModuleDict, images: torch.Tensor, sampling: Sampling, rng: torch.Generator | None = None) -> torch.Tensor:
    """The noise of `images [B, C, S, S]` in [0, 1] under their own code, as `sampling.abduction` says."""
    x, code = 2 * images - 1, both["code"]
    before = code.propagate(code.posterior(x)[0]).flatten(1)
    return abduct(lambda v, a, s: both["decoder"](v, a, s, before), x, sampling.grid(), rng if sampling.abduction == "noise" else None)


@torch.no_grad()
def counterfactual(both: nn.ModuleDict, images: torch.Tensor, z: torch.Tensor | None, do: dict[int, torch.Tensor | float], sampling: Sampling, rng: torch.Generator | None = None, early: bool = False,
                   noise: torch.Tensor | None = None) -> torch.Tensor:
    """Images [B, C, S, S] in [0, 1] of the same units under `do` (factor to standardised value or values [B]). `z` is not read: the code comes from the image.

    early: see `CausalCode.propagate`. noise: what `invert` gave before, to save its time. An empty `do` gives the reconstruction.
    """
    x, code = 2 * images - 1, both["code"]
    values = {i: torch.as_tensor(v, dtype=x.dtype, device=x.device).expand(len(x)) for i, v in do.items()}
    after = code.propagate(code.posterior(x)[0], values, early).flatten(1)
    noise = invert(both, images, sampling, rng) if noise is None else noise
    return (solvers.ddim(lambda v, a, s: both["decoder"](v, a, s, after), noise, sampling.grid()).clamp(-1, 1) + 1) / 2
