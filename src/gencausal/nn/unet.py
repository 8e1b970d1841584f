r"""Convolutional networks of images and noise levels: a small U-Net that maps a noisy image to an image, an encoder that maps it to numbers, a decoder that maps numbers to an image.

Both work on patches: `pixel_unshuffle` by p turns [B, C, H, W] into [B, C p^2, H/p, W/p], so a 64 x 64 image costs what a 16 x 16 one does at p = 4. Noise levels and, where
asked for, a condition enter every block as a scale and a shift after its second normalisation (Dhariwal and Nichol 2021). Weights are drawn from the generator given; memory is channels last.
"""

import math

import torch
from torch import nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle, scaled_dot_product_attention, silu

from gencausal import checks
from gencausal.nn.mlp import FourierEmbedding


def groups(channels: int) -> int:
    """Groups of a normalisation: eight channels each where that divides."""
    return max(1, channels // 8) if channels % 8 == 0 else 1


class Block(nn.Module):
    """Two convolutions and a skip: `h [B, n_in, H, W], e [B, embedding] -> [B, n_out, H, W]`. Begins as its skip: the last convolution is zero."""

    def __init__(self, n_in: int, n_out: int, embedding: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups(n_in), n_in), nn.Conv2d(n_in, n_out, 3, padding=1)
        self.from_embedding = nn.Linear(embedding, 2 * n_out)
        self.norm2, self.conv2 = nn.GroupNorm(groups(n_out), n_out), nn.Conv2d(n_out, n_out, 3, padding=1)
        self.skip = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()

    def forward(self, h: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        scale, shift = self.from_embedding(e)[:, :, None, None].chunk(2, 1)
        inner = self.conv1(silu(self.norm1(h)))
        inner = self.conv2(silu(self.norm2(inner) * (1 + scale) + shift))
        return self.skip(h) + inner


class Attention(nn.Module):
    """Self-attention over the pixels of a small map, with a skip."""

    def __init__(self, channels: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.out = nn.GroupNorm(groups(channels), channels), nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        B, C, H, W = h.shape
        q, k, v = self.qkv(self.norm(h)).reshape(B, 3, self.heads, C // self.heads, H * W).transpose(3, 4).unbind(1)
        mixed = scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(B, C, H, W)
        return h + self.out(mixed)


class Embedding(nn.Module):
    """Noise level and condition to one vector: `c_noise [B], condition [B, k] or None -> [B, width]`. A condition may be missing (None): its learned stand-in enters."""

    def __init__(self, width: int, condition: int):
        super().__init__()
        self.noise = FourierEmbedding()
        self.first, self.second = nn.Linear(self.noise.width, width), nn.Linear(width, width)
        self.condition = nn.Linear(condition, width) if condition else None
        self.missing = nn.Parameter(torch.zeros(width)) if condition else None

    def forward(self, c_noise: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
        e = self.first(self.noise(c_noise))
        if self.condition is not None:
            e = e + (self.missing if condition is None else self.condition(condition))
        return silu(self.second(silu(e)))


class UNet(nn.Module):
    """Image to image at a noise level: `x [B, C, S, S], c_noise [B], condition [B, k] -> [B, C, S, S]`.

    channels: C of the image. size: S, divisible by `patch` times 2^(len(multipliers) - 1). width: channels of the first map, times `multipliers` further down.
    blocks: residual blocks a map on the way down (one more on the way up). condition: k, 0 for none.
    """

    def __init__(self, channels: int, size: int, rng: torch.Generator, width: int = 64, multipliers: tuple[int, ...] = (1, 2), blocks: int = 2, patch: int = 4, condition: int = 0):
        super().__init__()
        if size % (patch * 2 ** (len(multipliers) - 1)):
            raise checks.InputError(f"size is {size} but must be a multiple of {patch * 2 ** (len(multipliers) - 1)}, the patch times the halvings; pad the images or take a smaller patch.")
        self.patch, self.embedding = patch, Embedding(4 * width, condition)
        inner = channels * patch**2
        self.stem = nn.Conv2d(inner, width, 3, padding=1)
        down, up, widths, now = [], [], [width], width
        for level, multiplier in enumerate(multipliers):
            stage = [Block(now if i == 0 else width * multiplier, width * multiplier, 4 * width) for i in range(blocks)]
            now = width * multiplier
            widths += [now] * blocks
            last = level == len(multipliers) - 1
            down.append(nn.ModuleDict({"blocks": nn.ModuleList(stage), "shrink": nn.Identity() if last else nn.Conv2d(now, now, 3, stride=2, padding=1)}))
            widths += [] if last else [now]
        self.down = nn.ModuleList(down)
        self.middle = nn.ModuleList([Block(now, now, 4 * width), Attention(now), Block(now, now, 4 * width)])
        for level, multiplier in reversed(list(enumerate(multipliers))):
            stage = []
            for _ in range(blocks + 1):
                stage.append(Block(now + widths.pop(), width * multiplier, 4 * width))
                now = width * multiplier
            up.append(nn.ModuleDict({"blocks": nn.ModuleList(stage), "grow": nn.Identity() if level == 0 else nn.Conv2d(now, now, 3, padding=1)}))
        self.up = nn.ModuleList(up)
        self.norm, self.out = nn.GroupNorm(groups(now), now), nn.Conv2d(now, inner, 3, padding=1)
        draw(self, rng)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor, c_noise: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        e = self.embedding(c_noise, condition)
        h = self.stem(pixel_unshuffle(x, self.patch).contiguous(memory_format=torch.channels_last))
        kept = [h]
        for stage in self.down:
            for block in stage["blocks"]:
                h = block(h, e)
                kept.append(h)
            if not isinstance(stage["shrink"], nn.Identity):
                h = stage["shrink"](h)
                kept.append(h)
        first, attention, second = self.middle
        h = second(attention(first(h, e)), e)
        for stage in self.up:
            for block in stage["blocks"]:
                h = block(torch.cat([h, kept.pop()], 1), e)
            if not isinstance(stage["grow"], nn.Identity):
                h = stage["grow"](nn.functional.interpolate(h, scale_factor=2.0, mode="nearest"))
        return pixel_shuffle(self.out(silu(self.norm(h))), self.patch)


class Encoder(nn.Module):
    """Image to numbers at a noise level: `x [B, C, S, S], c_noise [B] -> [B, outputs]`. The last map is flattened, not averaged, as places matter."""

    def __init__(self, channels: int, size: int, outputs: int, rng: torch.Generator, width: int = 32, patch: int = 4, hidden: int = 256):
        super().__init__()
        if size % (4 * patch):
            raise checks.InputError(f"size is {size} but must be a multiple of {4 * patch}, four patches; pad the images or take a smaller patch.")
        self.patch, self.embedding = patch, Embedding(4 * width, 0)
        self.stem = nn.Conv2d(channels * patch**2, width, 3, padding=1)
        self.blocks = nn.ModuleList([Block(width, width, 4 * width), Block(width, 2 * width, 4 * width), Block(2 * width, 2 * width, 4 * width)])
        self.shrink = nn.ModuleList([nn.Conv2d(width, width, 3, stride=2, padding=1), nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1)])
        self.norm = nn.GroupNorm(groups(2 * width), 2 * width)
        self.hidden, self.out = nn.Linear(2 * width * (size // (4 * patch)) ** 2, hidden), nn.Linear(hidden, outputs)
        draw(self, rng)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor, c_noise: torch.Tensor | None = None) -> torch.Tensor:
        e = self.embedding(x.new_zeros(len(x)) if c_noise is None else c_noise, None)
        h = self.stem(pixel_unshuffle(x, self.patch).contiguous(memory_format=torch.channels_last))
        for i, block in enumerate(self.blocks):
            h = block(h, e)
            if i < len(self.shrink):
                h = self.shrink[i](h)
        return self.out(silu(self.hidden(silu(self.norm(h)).flatten(1))))


class Decoder(nn.Module):
    """Numbers to an image, the encoder turned round: `v [B, inputs] -> [B, C, S, S]`."""

    def __init__(self, channels: int, size: int, inputs: int, rng: torch.Generator, width: int = 32, patch: int = 4, hidden: int = 256):
        super().__init__()
        if size % (4 * patch):
            raise checks.InputError(f"size is {size} but must be a multiple of {4 * patch}, four patches; pad the images or take a smaller patch.")
        self.patch, self.side, self.width = patch, size // (4 * patch), 2 * width
        self.hidden, self.spread = nn.Linear(inputs, hidden), nn.Linear(hidden, 2 * width * self.side**2)
        self.blocks = nn.ModuleList([Block(2 * width, 2 * width, hidden), Block(2 * width, width, hidden), Block(width, width, hidden)])
        self.norm, self.out = nn.GroupNorm(groups(width), width), nn.Conv2d(width, channels * patch**2, 3, padding=1)
        draw(self, rng)
        self.to(memory_format=torch.channels_last)

    def forward(self, v: torch.Tensor) -> torch.Tensor:
        e = silu(self.hidden(v))
        h = self.spread(e).unflatten(1, (self.width, self.side, self.side)).contiguous(memory_format=torch.channels_last)
        for i, block in enumerate(self.blocks):
            h = block(nn.functional.interpolate(h, scale_factor=2.0, mode="nearest") if i else h, e)
        return pixel_shuffle(self.out(silu(self.norm(h))), self.patch)


@torch.no_grad()
def draw(module: nn.Module, rng: torch.Generator) -> None:
    """Draw every weight anew from `rng`: N(0, 1 / fan-in), biases zero; the last convolution of a block, of an attention and of the network zero, as it stood on a skip."""
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            fan_in = part.weight[0].numel()
            part.weight.copy_(torch.randn(part.weight.shape, generator=rng, device=rng.device) / math.sqrt(fan_in))
            part.bias.zero_()
    for part in module.modules():
        if isinstance(part, Block):
            part.conv2.weight.zero_()
        if isinstance(part, (Attention, UNet)):
            part.out.weight.zero_()
