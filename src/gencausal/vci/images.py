r"""Variational causal inference on images (arXiv 2410.12730; public configuration for Morpho-MNIST): networks, label code and the draw of T'. The losses are in `image_losses`.

Notation: outcome y, image [B, 1, S, S] in [0, 1]; treatment t, its label code [B, n, k] (`label_code`); latent z, one Gaussian q(z | y, t) = N(mean, scale^2) a resolution, a list of [B, c, r, r]; logits = decoder(z, t);
y' = sigmoid(decoder(z, t')), the model's own counterfactual.

A block is 1x1([x, features]) -> 3x3 -> 3x3, or 3x3 -> 3x3 without features, with GELU and a skip; at 1x1 resolution all are 1x1. The features enter linearly, so what depends on t alone is one number a channel and what depends
on z is one convolution for all blocks of a level: they are never concatenated (`Eq. split-features`: W [x, z, t] + b = W_x x + (W_z z + b) + W_t t).
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d, gelu, interpolate, linear, normalize, pixel_shuffle, pixel_unshuffle, softplus

from gencausal import checks

FLOOR = 1e-3
FORMS = ("official", "exact")
Gaussians = list[tuple[torch.Tensor, torch.Tensor]]
"""Mean and scale of every level, from the finest."""


@dataclass(frozen=True)
class Config:
    """Sizes of the networks and weights of the loss; the defaults are `PUBLISHED`."""

    size: int = 32  # side of an image
    patch: int = 1  # side of the square of pixels behind one position of the first map
    labels: int = 2  # labels of a treatment
    code: int = 16  # numbers that code one label
    embedding: int = 32  # channels of the embedded image
    treatment: int = 8  # of the embedded treatment
    resolutions: tuple[int, ...] = (32, 16, 8, 4, 1)  # sides of the maps, each a divisor of the one before
    widths: tuple[int, ...] = (16, 32, 64, 128, 256)  # channels
    depths: tuple[int, ...] = (4, 4, 4, 4, 4)  # encoder blocks
    latents: tuple[int, ...] = (16, 32, 64, 128, 256)  # latent channels, 0 for a level without
    defuse: int = 3  # blocks at the first resolution that see t, and decoder blocks that see no z
    weights: tuple[float, float, float] = (10.0, 0.02, 0.01)  # w0, w1, w2
    prior: float = 0.0  # weight of the divergence from N(0, I)
    mc: int = 3  # samples of z a reconstruction
    divergence: str = "official"  # or "exact"
    supervision: str = "discriminate"  # or "classify"
    evaluate: str = "frozen"  # encoder inside L2; or "live"
    detach_encode: bool = False  # decode a detached z for L2
    features: bool = True  # the feature terms

    def __post_init__(self):
        checks.choice(self.divergence, "divergence", FORMS)
        checks.choice(self.supervision, "supervision", ("discriminate", "classify"))
        checks.choice(self.evaluate, "evaluate", ("frozen", "live"))
        levels = {len(part) for part in (self.resolutions, self.widths, self.depths, self.latents)}
        if len(levels) > 1:
            raise checks.InputError("resolutions, widths, depths and latents must be of one length; give one number a level.")
        if self.patch * self.resolutions[0] != self.size:
            raise checks.InputError(f"resolutions must start at size / patch = {self.size / self.patch:g}, not {self.resolutions[0]}.")
        if self.defuse < 1 or self.depths[0] < self.defuse + bool(self.latents[0]):
            raise checks.InputError(f"depths must start with at least {self.defuse + bool(self.latents[0])} blocks: defuse = {self.defuse} see the treatment, and a level with a latent needs one more.")
        if not any(self.latents):
            raise checks.InputError("latents are all 0; give one level a latent.")
        if any(w < 0 for w in (*self.weights, self.prior)):
            raise checks.InputError("weights and prior must not be negative.")

    @property
    def latent_values(self) -> int:
        """Latent numbers an image."""
        return sum(c * r * r for c, r in zip(self.latents, self.resolutions))


PUBLISHED = Config()
"""The public configuration for Morpho-MNIST, thickness and intensity: 1,997,566 and 477,002 parameters, 30,976 latent values."""
PUBLISHED_DIGIT = Config(labels=1, code=10, weights=(10.0, 0.5, 0.01))
"""The same with the digit as treatment."""
SMALL = Config(patch=4, code=1, embedding=32, resolutions=(8, 4), widths=(32, 64), depths=(2, 1), latents=(0, 8), defuse=2, mc=1, weights=(10.0, 0.2, 0.02), supervision="classify")
"""Scaled down for one core: 128 latent values, standardised labels, a classifier in place of the discriminator."""


# ---------------------------------------------------------------- treatments


def label_code(values: torch.Tensor, size: int = 16) -> torch.Tensor:
    """`Eq. label-code`: [cos(v f_k), sin(v f_k)], f_k = 10,000^(-2 k / size), k = 0 ... size / 2 - 1, of labels `values [...]` in their own units, [..., size]; the code of 0 is ones and then zeros."""
    if size % 2:
        raise checks.InputError(f"size must be even, a cosine and a sine for each frequency, not {size}.")
    angles = values[..., None].double() * 10_000.0 ** (-torch.arange(size // 2, device=values.device, dtype=torch.float64) * 2 / size)
    return torch.cat([angles.cos(), angles.sin()], -1).float()


def code_size(n: int) -> int:
    """Numbers that code a continuous label where there are `n` images: the whole part of n^(1/4)."""
    return int(checks.whole(n, "n") ** 0.25 + 1e-9)


def draw_treatment(codes: torch.Tensor, pool: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """T' of `codes [B, n, k]`: one label of each row, drawn at random, is that of a random row of `pool [N, n, k]`; the others stay."""
    rows, labels = codes.shape[:2]
    which = torch.randint(labels, (rows,), generator=rng, device=codes.device)
    other = pool[torch.randint(len(pool), (rows,), generator=rng, device=codes.device)]
    return torch.where((torch.arange(labels, device=codes.device) == which[:, None])[..., None], other, codes)


# ---------------------------------------------------------------- blocks


class _ChannelsLast(torch.autograd.Function):
    """A weight with its channels last in memory, where small convolutions are two to four times as fast; the gradient comes back in the weight's own order, since the fused AdamW of torch pairs memory, not indices."""

    @staticmethod
    def forward(ctx, weight: torch.Tensor) -> torch.Tensor:
        return weight.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.contiguous()


class _Ordered(torch.autograd.Function):
    """The same tensor; its gradient comes back with channels last. Where several losses meet, sums and slices forget the order, and all that lies below would be copied to and fro."""

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.contiguous(memory_format=torch.channels_last)


class Conv(nn.Module):
    """A convolution with zero padding, `normed` by its largest singular value (spectral normalisation; power iteration from the kept vector `u`, no step here)."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, rng: torch.Generator, normed: bool = False):
        super().__init__()
        self.padding = kernel // 2
        bound = (channels_in * kernel**2) ** -0.5
        self.weight = nn.Parameter((2 * torch.rand(channels_out, channels_in, kernel, kernel, generator=rng) - 1) * bound)
        self.bias = nn.Parameter((2 * torch.rand(channels_out, generator=rng) - 1) * bound)
        self.u = nn.Parameter(normalize(torch.randn(channels_out, generator=rng), dim=0), requires_grad=False) if normed else None
        for _ in range(15 if normed else 0):
            self.iterate()

    @torch.no_grad()
    def iterate(self) -> None:
        """One step of the power iteration."""
        if self.u is not None:
            matrix = self.weight.flatten(1)
            self.u.copy_(normalize(matrix @ normalize(self.u @ matrix, dim=0), dim=0))

    def kernel(self) -> torch.Tensor:
        """The weight in use; the gradient passes the singular value, not its vectors."""
        weight = self.weight
        if self.u is not None:
            matrix = weight.flatten(1)
            with torch.no_grad():
                v = normalize(self.u @ matrix, dim=0)
            weight = weight / (self.u @ (matrix @ v))
        return _ChannelsLast.apply(weight)

    def forward(self, x: torch.Tensor, channels: int | None = None, bias: bool = True) -> torch.Tensor:
        """Of `x [B, C, r, r]`, on the first `channels` inputs alone where given."""
        weight, shift = self.kernel(), self.bias if bias else None
        weight = weight if channels is None else weight[:, :channels]
        if x.shape[-1] == 1 or (not self.padding and (x.shape[-1] <= 8 or x.shape[1] == 1)):  # at one position padding is all that a 3x3 kernel sees beside it; small 1x1 maps are faster as products of matrices
            return linear(x.permute(0, 2, 3, 1), weight[:, :, self.padding, self.padding], shift).permute(0, 3, 1, 2)
        return conv2d(x, weight, shift, padding=self.padding)


class Block(nn.Module):
    """Residual bottleneck block, [B, wide_in, r, r] -> [B, wide_out, r, r]; `features` channels enter as `extra`, their share of the first convolution (with its bias), [B, middle, r or 1, r or 1]."""

    def __init__(self, wide_in: int, middle: int, wide_out: int, rng: torch.Generator, features: int = 0, kernel: int = 3, activate: bool = True, normed: bool = False):
        super().__init__()
        self.wide_in, self.activate = wide_in, activate
        self.first = Conv(wide_in + features, middle, 1 if features else kernel, rng, normed)
        self.second = Conv(middle, middle, kernel, rng, normed) if features else None
        self.last = Conv(middle, wide_out, kernel, rng, normed)
        self.skip = Conv(wide_in, wide_out, 1, rng) if wide_in != wide_out else None

    def forward(self, x: torch.Tensor, extra: torch.Tensor | None = None) -> torch.Tensor:
        h = gelu(self.first(x)) if extra is None else gelu(self.first(x, self.wide_in, bias=False) + extra)
        h = h if self.second is None else gelu(self.second(h))
        h = self.last(h)
        return (gelu(h) if self.activate else h) + (x if self.skip is None else self.skip(x))


def share(blocks: list[Block], t: torch.Tensor, z: torch.Tensor | None = None) -> list[torch.Tensor]:
    """`extra` of every block from the treatment's features `t [B, m]` and the latent `z [B, c, r, r]` (Eq. split-features); the features' order is (t, constant covariates of 0, z)."""
    weights = [block.first.kernel()[:, block.wide_in:] for block in blocks]
    found = torch.cat([linear(t, weight[:, :t.shape[1], 0, 0], block.first.bias) for block, weight in zip(blocks, weights)], 1)[..., None, None]
    if z is not None:
        late = torch.cat([weight[:, -z.shape[1]:] for weight in weights])
        found = found + (linear(z.permute(0, 2, 3, 1), late[..., 0, 0]).permute(0, 3, 1, 2) if z.shape[-1] <= 8 else conv2d(z, late))
    return list(found.split([len(weight) for weight in weights], 1))


def _last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _down(x: torch.Tensor, rate: int) -> torch.Tensor:
    return x if rate == 1 else avg_pool2d(x, rate)


def _up(x: torch.Tensor, rate: int) -> torch.Tensor:
    return x if rate == 1 else _last(interpolate(x, scale_factor=rate, mode="nearest"))


def _plan(config: Config, wide_in: int) -> list[tuple[int, int, int, int, int]]:
    """(level, channels in, bottleneck, channels out, pooling) of the blocks from the finest level to the coarsest."""
    found = []
    for level, (width, depth) in enumerate(zip(config.widths, config.depths)):
        for place in range(depth):
            rate = config.resolutions[level - 1] // config.resolutions[level] if level and not place else 1
            found.append((level, wide_in, -(-width // 4), width, rate))
            wide_in = width
    return found


COVARIATES = 1
"""Channels of the constant that stands for the missing covariates, 0 everywhere: it has weights in encoder and discriminator and no effect."""


class Encoder(nn.Module):
    """q(z | y, t): from the embedded image [B, e, r, r] and treatment [B, m] to the Gaussian of every level with a latent, and the maps after the first `defuse - 1` blocks."""

    def __init__(self, config: Config, rng: torch.Generator):
        super().__init__()
        self.config, self.plan = config, _plan(config, config.embedding)
        self.blocks = nn.ModuleList(Block(wide_in, middle, wide_out, rng, config.treatment + COVARIATES if i < config.defuse else 0, 3 if config.resolutions[level] > 1 else 1, i < len(self.plan) - 1)
                                    for i, (level, wide_in, middle, wide_out, _) in enumerate(self.plan))
        self.heads = nn.ModuleDict({str(level): Block(width, -(-width // 4), 2 * latent, rng, kernel=1, activate=False) for level, (width, latent) in enumerate(zip(config.widths, config.latents)) if latent})

    def maps(self, x: torch.Tensor, t: torch.Tensor, blocks: int) -> list[torch.Tensor]:
        """The outputs of the first `blocks` blocks."""
        found = []
        for block, extra in zip(self.blocks[:blocks], share(list(self.blocks[:blocks]), t)):
            found.append(x := _Ordered.apply(block(x, extra)))
        return found

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> tuple[Gaussians, list[torch.Tensor]]:
        defuse, found = self.config.defuse, []
        first = self.maps(x, t, defuse)
        x = first[-1]
        for i, (level, *_, rate) in enumerate(self.plan):
            x = x if i < defuse else _down(self.blocks[i](x), rate)
            if str(level) in self.heads and (i + 1 == len(self.plan) or self.plan[i + 1][0] > level):
                mean, raw = _Ordered.apply(self.heads[str(level)](x)).chunk(2, 1)
                found.append((mean, softplus(raw) + FLOOR))
        return found, first[:-1]


class Decoder(nn.Module):
    """logits [n, 1, S, S] of latents (finest level first) and embedded treatments [n, m], and the maps after the first `defuse - 1` of the last `defuse` pairs of blocks. No covariate enters."""

    def __init__(self, config: Config, rng: torch.Generator):
        super().__init__()
        self.config = config
        levels = list(range(len(config.widths)))[::-1]
        plan = [(level, config.widths[level]) for level in levels for _ in range(config.depths[level])] + [(0, config.patch**2)]
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(config.widths[level], config.resolutions[level], config.resolutions[level])) for level in levels)
        self.pairs, self.steps = nn.ModuleList(), []
        wide_in, at = config.widths[-1], levels[0]
        for i, (level, wide_out) in enumerate(plan):
            late = i >= len(plan) - config.defuse
            middle, kernel = -(-config.widths[level] // 4), 3 if config.resolutions[level] > 1 else 1
            seen = config.treatment + (0 if late else config.latents[at])
            self.pairs.append(nn.ModuleList([Block(wide_in, middle, wide_in, rng, seen, kernel), Block(wide_in, middle, wide_out, rng, 0, kernel, i < len(plan) - 1)]))
            self.steps.append((at, late, config.resolutions[level] // config.resolutions[at]))
            wide_in, at = wide_out, level

    def forward(self, z: list[torch.Tensor], t: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        config, latents = self.config, iter(z[::-1])
        levels = list(range(len(config.widths)))[::-1]
        x, maps = _last(t.new_zeros(len(t), *self.biases[0].shape)), []
        for level, bias in zip(levels, self.biases):
            x = x + bias[None].to(x.dtype)
            x = self._run(x, t, next(latents) if config.latents[level] else None, [i for i, (at, late, _) in enumerate(self.steps) if at == level and not late], [])
        x = self._run(x, t, None, [i for i, (_, late, _) in enumerate(self.steps) if late], maps)
        return pixel_shuffle(x, config.patch) if config.patch > 1 else x, maps[:-1]

    def _run(self, x: torch.Tensor, t: torch.Tensor, z: torch.Tensor | None, pairs: list[int], maps: list[torch.Tensor]) -> torch.Tensor:
        if pairs:
            for i, extra in zip(pairs, share([self.pairs[i][0] for i in pairs], t, z)):
                merge, embed = self.pairs[i]
                maps.append(x := _Ordered.apply(embed(_up(merge(x, extra), self.steps[i][2]))))
        return x


class Embedding(nn.Module):
    """Image [B, 1, S, S] to [B, e, r, r]: one linear map of the pixels behind each position."""

    def __init__(self, config: Config, rng: torch.Generator):
        super().__init__()
        self.patch, self.map = config.patch, Conv(config.patch**2, config.embedding, 1, rng)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return self.map(_last(pixel_unshuffle(y, self.patch) if self.patch > 1 else y))


class Generator(nn.Module):
    """Embeddings, live encoder, decoder, and the frozen encoder that L2 sees (no gradient; `refresh` copies the live one, buffers too)."""

    def __init__(self, config: Config, rng: torch.Generator):
        super().__init__()
        self.config = config
        self.outcome = Embedding(config, rng)
        self.treatment = nn.Linear(config.labels * config.code, config.treatment)
        _uniform(self.treatment, rng)
        self.minibatches = nn.Parameter(torch.zeros(()), requires_grad=False)  # seen so far: a checkpoint keeps it
        self.encoder, self.decoder = Encoder(config, rng), Decoder(config, rng)
        self.frozen = None
        if config.evaluate == "frozen":
            self.frozen = Encoder(config, rng).requires_grad_(False)
            self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the live encoder into the frozen one."""
        if self.frozen is not None:
            self.frozen.load_state_dict(self.encoder.state_dict())

    def encode(self, y: torch.Tensor, codes: torch.Tensor) -> Gaussians:
        """q(z | y, t) of images [B, 1, S, S] and codes [B, n, k] or [B, n k]."""
        return self.encoder(self.outcome(y), self.treatment(codes.flatten(1)))[0]

    def decode(self, z: list[torch.Tensor], codes: torch.Tensor) -> torch.Tensor:
        """Mean image [B, 1, S, S] in [0, 1]."""
        return self.decoder(z, self.treatment(codes.flatten(1)))[0].sigmoid()

    def counterfactual(self, y: torch.Tensor, codes: torch.Tensor, codes_cf: torch.Tensor, rng: torch.Generator | None = None) -> torch.Tensor:
        """Mean image under `codes_cf`, from the posterior mean of z, or from a draw of it where `rng` is given."""
        found = self.encode(y, codes)
        return self.decode([mean if rng is None else mean + scale * torch.randn(mean.shape, generator=rng, device=mean.device) for mean, scale in found], codes_cf)

    def noise(self, rows: int, rng: torch.Generator, samples: int = 1) -> list[torch.Tensor]:
        """Standard normal noise [samples rows, c, r, r] of every level with a latent."""
        config = self.config
        return [torch.randn(samples * rows, r, r, c, generator=rng, device=rng.device).permute(0, 3, 1, 2) for c, r in zip(config.latents, config.resolutions) if c]


class Discriminator(nn.Module):
    """D(y, t): the encoder's trunk with the treatment in every block and one more block to a logit [B] (the mean over the coarsest map); all convolutions of blocks but the last block's are spectrally normalised, skips are not."""

    def __init__(self, config: Config, rng: torch.Generator):
        super().__init__()
        self.config = config
        self.outcome = Embedding(config, rng)
        self.treatment = nn.Linear(config.labels * config.code, config.treatment)
        _uniform(self.treatment, rng)
        self.plan = [*_plan(config, config.embedding), (len(config.widths) - 1, config.widths[-1], -(-config.widths[-1] // 4), 1, config.resolutions[-1])]
        self.blocks = nn.ModuleList(Block(wide_in, middle, wide_out, rng, config.treatment + COVARIATES, 3 if config.resolutions[level] > 1 and i < len(self.plan) - 1 else 1, i < len(self.plan) - 1, i < len(self.plan) - 1)
                                    for i, (level, wide_in, middle, wide_out, _) in enumerate(self.plan))

    def iterate(self) -> None:
        """One power iteration of every normalised convolution."""
        for module in self.modules():
            if isinstance(module, Conv):
                module.iterate()

    def forward(self, y: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        x, t = self.outcome(y), self.treatment(codes.flatten(1))
        for block, extra, (*_, rate) in zip(self.blocks, share(list(self.blocks), t), self.plan):
            x = _down(block(x, extra), rate)
        return x.mean((1, 2, 3))


class Classifier(nn.Module):
    """c(y): the codes of an image's labels, [B, labels * code]: the encoder's trunk without treatment, its coarsest map averaged, one linear layer."""

    def __init__(self, config: Config, rng: torch.Generator):
        super().__init__()
        self.config, self.plan, self.outcome = config, _plan(config, config.embedding), Embedding(config, rng)
        self.blocks = nn.ModuleList(Block(wide_in, middle, wide_out, rng, 0, 3 if config.resolutions[level] > 1 else 1) for level, wide_in, middle, wide_out, _ in self.plan)
        self.last = nn.Linear(config.widths[-1], config.labels * config.code)
        _uniform(self.last, rng)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        x = self.outcome(y)
        for block, (*_, rate) in zip(self.blocks, self.plan):
            x = _down(block(x), rate)
        return self.last(x.mean((2, 3)))


@torch.no_grad()
def _uniform(layer: nn.Linear, rng: torch.Generator) -> None:
    for parameter in (layer.weight, layer.bias):
        parameter.copy_((2 * torch.rand(parameter.shape, generator=rng) - 1) * layer.in_features**-0.5)


def parameters(module: nn.Module) -> int:
    """Trained parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
