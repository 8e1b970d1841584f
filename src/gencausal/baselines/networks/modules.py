r"""The stacked networks: twins of the teacher, and TARNet, CFR, DragonNet and an S-learner of the literature.

Shapes: S networks, B units, d covariates, K arms, P raw outputs of the law (`laws`). Each module has `outputs(x) -> [S, B, K, P]`, the raw outputs of
every arm, and `terms(x, z, y, w)`, its named training losses [S] at factual (x, z, y) with weights w. With weights normalised in the batch,

    `Eq. weighted`     L = sum_i w_i l_i / sum_i w_i
    `Eq. twin`         L + gate_penalty sum |g|                       e_z(x) from the teacher's gates, trunk and heads; raw = A e + MLP(e), A for the location
    `Eq. tarnet`       w_i = 1 / (K p(z_i)), l the squared error of head z_i on Phi(x_i)                        Shalit et al. 2017
    `Eq. cfr`          Eq. tarnet + balance mean_{j<k} MMD^2(Phi | z = j, Phi | z = k)                          Shalit et al. 2017
    `Eq. dragonnet`    mean (y - Q_z)^2 + propensity CE(g(Phi), z) + targeted mean (y - Q_z - eps_z / g_z)^2    Shi et al. 2019

with sum_k eps_k = 0 in the last, so that for two arms eps_z / g_z = eps (z / g - (1 - z) / (1 - g)) as published. The discrepancy of CFR is taken between
the projections of Phi to the unit sphere, so that shrinking Phi does not lower it.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, elu, normalize, one_hot, silu

from gencausal.baselines.networks.config import LiteratureConfig, TwinConfig
from gencausal.baselines.networks.laws import Mean
from gencausal.data.stack import OUTCOME_SD
from gencausal.nn.mlp import FeatureGates, OutcomeNetwork, StackedLinear

Terms = dict[str, torch.Tensor]


def weighted(loss: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """sum_i w_i loss_i / sum_i w_i of each network, [S, B] and [S, B] -> [S] (Eq. weighted)."""
    return (w * loss).sum(1) / w.sum(1)


def at_arm(values: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """`values [S, B, K, ...]` at arms `z [S, B]` -> [S, B, ...]."""
    return values[torch.arange(len(z), device=z.device)[:, None], torch.arange(z.shape[1], device=z.device), z]


class Twin(nn.Module):
    """The teacher's network without noise levels (Eq. twin): its gates, trunk and heads, the same initial weights at the same `rng`, and a decoder of its width."""

    def __init__(self, stack: int, covariates: int, arms: int, rng: torch.Generator, law, config: TwinConfig):
        super().__init__()
        self.arms, self.embedding, self.law, self.gate_penalty = arms, config.embedding, law, config.gate_penalty
        self.gates = FeatureGates(stack, covariates, config.gate, rng)
        self.trunk = nn.ModuleList(StackedLinear(stack, covariates if i == 0 else config.width, config.width, rng, 1.4) for i in range(config.depth))
        self.heads = StackedLinear(stack, config.width, arms * config.embedding, rng, 1.4)
        self.to_mean = StackedLinear(stack, config.embedding, 1, rng)
        self.from_embedding = StackedLinear(stack, config.embedding, config.decoder, rng, 1.4)
        self.hidden = StackedLinear(stack, config.decoder, config.decoder, rng, 1.4)
        self.out = StackedLinear(stack, config.decoder, law.size, rng, 0.1)

    encode, embed = OutcomeNetwork.encode, OutcomeNetwork.embed

    def decode(self, e: torch.Tensor) -> torch.Tensor:
        """Raw outputs of embeddings `e [S, N, h] -> [S, N, P]`."""
        h = silu(self.from_embedding(e))
        raw = self.out(h + silu(self.hidden(h)))
        return torch.cat([raw[..., :1] + self.to_mean(e), raw[..., 1:]], -1)

    def outputs(self, x: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(x).flatten(1, 2)).unflatten(1, (-1, self.arms))

    def terms(self, x: torch.Tensor, z: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> Terms:
        return {"fit": weighted(self.law.loss(self.decode(self.embed(x, z)), y), w), "gates": self.gate_penalty * self.gates.penalty()}


class _Layers(nn.Module):
    """ELU layers of the given widths, and a linear output where `last` is given."""

    def __init__(self, stack: int, n_in: int, widths: list[int], rng: torch.Generator, last: int | None = None):
        super().__init__()
        self.hidden = nn.ModuleList(StackedLinear(stack, a, b, rng, 1.2) for a, b in zip([n_in, *widths[:-1]], widths))
        self.last = None if last is None else StackedLinear(stack, widths[-1], last, rng, 0.1)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        for layer in self.hidden:
            h = elu(layer(h))
        return h if self.last is None else self.last(h)


class SLearner(nn.Module):
    """One network of (x, one-hot z): 3 x 200 and 2 x 100 ELU by default, squared error."""

    def __init__(self, stack: int, covariates: int, arms: int, rng: torch.Generator, config: LiteratureConfig):
        super().__init__()
        self.arms, self.law = arms, Mean()
        self.layers = _Layers(stack, covariates + arms, [config.width] * config.depth + [config.head] * 2, rng, 1)

    def factual(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.cat([x, one_hot(z, self.arms).to(x)], -1))

    def outputs(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.factual(x, torch.full(x.shape[:2], k, device=x.device)) for k in range(self.arms)], 2)

    def terms(self, x: torch.Tensor, z: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> Terms:
        return {"fit": weighted(self.law.loss(self.factual(x, z), y), w)}


class Tarnet(nn.Module):
    """A shared representation Phi(x) and a head of two layers an arm (Eq. tarnet)."""

    def __init__(self, stack: int, covariates: int, arms: int, rng: torch.Generator, config: LiteratureConfig):
        super().__init__()
        self.arms, self.law, self.config = arms, Mean(), config
        self.representation = _Layers(stack, covariates, [config.width] * config.depth, rng)
        self.heads = nn.ModuleList(_Layers(stack, config.width, [config.head] * 2, rng, 1) for _ in range(arms))

    def represent(self, x: torch.Tensor) -> torch.Tensor:
        """Phi(x), [S, B, width]."""
        return self.representation(x)

    def respond(self, phi: torch.Tensor) -> torch.Tensor:
        """Raw outputs of every arm from the representation, [S, B, K, 1]."""
        return torch.stack([head(phi) for head in self.heads], 2)

    def outputs(self, x: torch.Tensor) -> torch.Tensor:
        return self.respond(self.represent(x))

    def terms(self, x: torch.Tensor, z: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> Terms:
        phi = self.represent(x)
        raw = self.respond(phi)
        return {"fit": weighted(self.law.loss(at_arm(raw, z), y), w)} | self.penalties(phi, raw[..., 0], z, y)

    def penalties(self, phi: torch.Tensor, q: torch.Tensor, z: torch.Tensor, y: torch.Tensor) -> Terms:
        """Terms beside the factual loss, from the representation, the responses `q [S, B, K]`, arms and outcomes."""
        return {}


class Cfr(Tarnet):
    """TARNet whose arms have alike representations (Eq. cfr)."""

    def penalties(self, phi: torch.Tensor, q: torch.Tensor, z: torch.Tensor, y: torch.Tensor) -> Terms:
        return {"balance": self.config.balance * discrepancy(normalize(phi, dim=-1), z, self.arms, self.config.kernel)}


class Dragonnet(Tarnet):
    """TARNet with a propensity head and targeted regularisation (Eq. dragonnet)."""

    def __init__(self, stack: int, covariates: int, arms: int, rng: torch.Generator, config: LiteratureConfig):
        super().__init__(stack, covariates, arms, rng, config)
        self.propensity = StackedLinear(stack, config.width, arms, rng, 0.1)
        self.epsilon = nn.Parameter(torch.zeros(stack, arms - 1, device=rng.device))

    def penalties(self, phi: torch.Tensor, q: torch.Tensor, z: torch.Tensor, y: torch.Tensor) -> Terms:
        logits = self.propensity(phi)
        g = (logits.softmax(-1) + self.config.clip) / (1 + self.arms * self.config.clip)
        return {"propensity": self.config.propensity * cross_entropy(logits.transpose(1, 2), z, reduction="none").mean(1),
                "targeted": self.config.targeted * targeted(y, q, g, z, self.epsilon).mean(1) / OUTCOME_SD**2}


def targeted(y: torch.Tensor, q: torch.Tensor, g: torch.Tensor, z: torch.Tensor, epsilon: torch.Tensor) -> torch.Tensor:
    """(y - Q_z - eps_z / g_z)^2 of each unit, [S, B], with eps_0 = -sum eps_k: y, z [S, B]; q, g [S, B, K]; epsilon [S, K - 1] of arms 1 to K - 1."""
    full = torch.cat([-epsilon.sum(1, keepdim=True), epsilon], 1)
    return (y - at_arm(q, z) - full.gather(1, z) / at_arm(g, z)).square()


def discrepancy(phi: torch.Tensor, z: torch.Tensor, arms: int, kernel: str = "linear") -> torch.Tensor:
    """Squared maximum mean discrepancy between the arms' empirical laws of `phi [S, B, h]`, averaged over the pairs of arms, [S].

    kernel: `linear` compares means; `rbf` is exp(-r^2 / (2 m)), m the mean squared distance of the batch, taken as a constant. A pair with an arm
    that the batch lacks counts 0.
    """
    member = one_hot(z, arms).to(phi).transpose(1, 2)
    present = (member.sum(2) > 0).to(phi)
    share = member / member.sum(2, keepdim=True).clamp(min=1)
    if kernel == "linear":
        mean = share @ phi
        inner = mean @ mean.mT
    else:
        square = phi.square().sum(-1)
        distance = (square[:, :, None] + square[:, None] - 2 * phi @ phi.mT).clamp(min=0)
        inner = share @ (-0.5 * distance / distance.detach().mean((1, 2), keepdim=True).clamp(min=1e-12)).exp() @ share.mT
    own = inner.diagonal(dim1=1, dim2=2)
    pairs = (own[:, :, None] + own[:, None] - 2 * inner) * present[:, :, None] * present[:, None]
    return pairs.sum((1, 2)) / (arms * (arms - 1))
