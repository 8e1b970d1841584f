r"""IWDD as its code was released: one bundle of defects, kept apart from the method and used by experiment E19 alone.

Written from the description in specification 2.2, 2.3, 2.7 and 6 (defects D1-D16). Notation as in `distillation`, without a stack: B rows,
d = p + 1 (p covariates and the treatment), y scalar outcome [B], c = (x, z) the condition [B, d], F the raw network.

`Eq. released-network`:    h_0 = ReLU(u), u in R^d; in block j = 1..4, with n = noise(sigma),
                           a = MLP(MLP(h + W_n n)), g = sigmoid(first half of W_g a) tanh(second half), (r, s_j) = W_o g twofold, h <- (h + r) / sqrt 2;
                           F = head(sum_j s_j / 2)
`Eq. released-index`:      noise(sigma) = table[int(ln(sigma) / 4)], int cutting off towards zero: rows -1, 0 and 1 of 100 are all that occur   (D3)
`Eq. released-training`:   u = c_in (w y_sigma + b) + c in the loss of teacher and fake score                                                   (D2)
`Eq. released-denoiser`:   u = c_in (w y_sigma + b) in the sampler and in both scores: c is handed on and never read                            (D1, D2)
`Eq. released-generator`:  y = F(sigma_init eps; sigma_init), eps ~ N(0, I_d), raw: no c_skip, no c_out, no c
`Eq. released-size`:       16 d^2 + 3748 d + 480,329 parameters of F, unused layers included; w and b are 2 d more

Where the description leaves a choice open (whether c_in multiplies sigma_init eps) we take the plainest reading: it does not.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from gencausal.diffusion import precondition
from gencausal.distillation import sid_loss

NOISE_ROWS, NOISE_WIDTH, HEAD, BLOCKS = 100, 128, 128, 4


@dataclass(frozen=True)
class ReleasedConfig:
    """Everything that decides an as-released run; the defaults are the released ones on ACIC 2018."""

    teacher_epochs: int = 2000  # passes over the training rows
    distillation_epochs: int = 2000
    batch: int = 512  # rows a step; the last batch of an epoch is smaller
    lr: float = 1e-4  # of teacher, generator and fake score
    weight_decay: float = 1e-6  # of Adam, coupled
    milestones: tuple[float, ...] = (0.25, 0.5, 0.75, 0.9)  # shares of the teacher's epochs after which its learning rate is a tenth
    log_sigma_mean: float = -1.2  # training levels, ln sigma ~ N(mean, sd^2)
    log_sigma_sd: float = 1.2
    alpha: float = 0.5  # coefficient of the SiD loss
    t_max: float = 0.8  # largest time of the distillation levels
    beta1: float = 0.0  # Adam's first decay in the distillation
    probability: float = 0.01  # of z = 1 for the generator (D5)
    sigma_init: float = 2.5  # noise level the generator starts from in training and validation
    sigma_init_test: float = 5.0  # the same at the final test (D8)
    draws: int = 100  # draws a test unit and arm
    draws_in: int = 50  # draws a training unit and arm
    sampler_steps: int = 50  # Heun steps of the teacher


def parameter_count(d: int) -> int:
    """Parameters of F at input width d (Eq. released-size)."""
    return 16 * d**2 + 3748 * d + 480_329


def noise_index(sigma: torch.Tensor) -> torch.Tensor:
    """Row of the noise table at each level, as an integer cast gives it: -1 below e^-4, 1 from e^4 up, else 0 (Eq. released-index)."""
    return (sigma.log() / 4).long()


def noise_table() -> torch.Tensor:
    """Sines and cosines of the row numbers 0-99 at frequencies 10^(4k/63), k = 0..63: [100, 128]."""
    angle = torch.arange(NOISE_ROWS)[:, None] * 10.0 ** (4 * torch.arange(64) / 63)
    return torch.cat([angle.sin(), angle.cos()], 1)


def _chain(*widths: int) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them."""
    layers = [nn.Linear(a, b) for a, b in zip(widths, widths[1:])]
    return nn.Sequential(*[m for layer in layers for m in (layer, nn.ReLU())][:-1])


class Block(nn.Module):
    """One residual block of Eq. released-network; `unused` is counted and never called."""

    def __init__(self, d: int):
        super().__init__()
        self.noise = nn.Linear(NOISE_WIDTH, d)
        self.first, self.second = (_chain(d, 256, 128, 128, d) for _ in range(2))
        self.gate, self.out = nn.Linear(d, 2 * d), nn.Linear(d, 2 * d)
        self.unused = nn.Linear(d, 2)

    def forward(self, h: torch.Tensor, n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(next h, skip), each [B, d]."""
        gate, content = self.gate(self.second(self.first(h + self.noise(n)))).chunk(2, -1)
        residual, skip = self.out(gate.sigmoid() * content.tanh()).chunk(2, -1)
        return (h + residual) / math.sqrt(2), skip


class ReleasedNetwork(nn.Module):
    """F of Eq. released-network. Layers are drawn from torch's defaults with `rng`; the layers named unused take part in the count alone."""

    def __init__(self, d: int, rng: torch.Generator):
        super().__init__()
        self.register_buffer("table", noise_table(), persistent=False)
        self.noise = nn.Sequential(nn.Linear(NOISE_WIDTH, NOISE_WIDTH), nn.SiLU(), nn.Linear(NOISE_WIDTH, NOISE_WIDTH), nn.SiLU())
        self.blocks = nn.ModuleList(Block(d) for _ in range(BLOCKS))
        self.head = _chain(d, HEAD, HEAD, HEAD, 1)
        self.unused_convolution, self.unused_head = nn.Conv1d(2, 64, 1), nn.Linear(HEAD, HEAD)
        redraw(self, rng)
        nn.init.zeros_(self.head[2].weight)

    def forward(self, u: torch.Tensor, sigma: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """F, [B], of inputs `u [B, d]` at levels `sigma [B]`; the condition `c [B, d]` is received and not read (D1)."""
        n = self.noise(self.table[noise_index(sigma)])
        h, skips = u.relu(), 0
        for block in self.blocks:
            h, skip = block(h, n)
            skips = skips + skip
        return self.head(skips / math.sqrt(BLOCKS))[:, 0]


def redraw(module: nn.Module, rng: torch.Generator) -> None:
    """Draw every affine layer anew, weights and biases uniform in +-1/sqrt(inputs), from the stream `rng` (torch's defaults use a global one)."""
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv1d)):
            bound = layer.weight[0].numel() ** -0.5
            for parameter in (layer.weight, layer.bias):
                nn.init.uniform_(parameter, -bound, bound, generator=rng)


class ReleasedDenoiser(nn.Module):
    """F behind its input layer w y + b and the preconditioning of Eq. 7, Karras et al. 2022, sigma_data = 0.5 on outcomes of sd 1."""

    def __init__(self, network: ReleasedNetwork, d: int, rng: torch.Generator):
        super().__init__()
        self.network, self.input = network, nn.Linear(1, d)
        redraw(self.input, rng)

    def forward(self, y: torch.Tensor, sigma: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """D(y; sigma), [B], for `y, sigma [B]`; `c [B, d]` is handed on and not read (Eq. released-denoiser)."""
        p = precondition(sigma)
        return p.c_skip * y + p.c_out * self.network(p.c_in[:, None] * self.input(y[:, None]), sigma, c)

    def losses(self, y: torch.Tensor, sigma: torch.Tensor, eps: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """EDM loss of each row, [B] (Eq. 8, Karras et al. 2022), with the condition added to the input (Eq. released-training)."""
        p, noisy = precondition(sigma), y + sigma * eps
        return (self.network(p.c_in[:, None] * self.input(noisy[:, None]) + c, sigma, c) - (y - p.c_skip * noisy) / p.c_out).square()


def teacher_condition(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """[z, x], the order in the teacher's loss: `x [B, p], z [B] -> [B, p + 1]`."""
    return torch.cat([z[:, None], x], 1)


def distillation_condition(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """[x, z], the order everywhere else (D4)."""
    return torch.cat([x, z[:, None]], 1)


def generate(network: ReleasedNetwork, eps: torch.Tensor, sigma_init: float, c: torch.Tensor) -> torch.Tensor:
    """Outcomes, [B], from noise `eps [B, d]`; `c [B, d]` is handed on and not read (Eq. released-generator)."""
    return network(sigma_init * eps, torch.full_like(eps[:, 0], sigma_init), c)


def generator_loss(y: torch.Tensor, d_teacher: torch.Tensor, d_fake: torch.Tensor, alpha: float) -> torch.Tensor:
    """Eq. sid-split of `distillation`, summed over the batch; all arguments [B]."""
    y, d_teacher, d_fake = (v[None, :, None] for v in (y, d_teacher, d_fake))
    return y.shape[1] * sid_loss(y, d_teacher, d_fake, alpha).sum()


def weighted_loss(w: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    """The teacher's optional weighting (D16): w [B, 1, 1, 1] times losses [B, 1] is [B, 1, B, 1], so that its mean is mean(w) mean(losses). Off in the
    released run; kept to be shown."""
    return (w.reshape(-1, 1, 1, 1) * losses.reshape(-1, 1)).mean()
