r"""Flat shapes in few colours on a white canvas, drawn by area and read back by area.

A canvas shows the data window `[x0, x1] x [y0, y1]` on `size` x `size` pixels without margins; pixel rows run downwards. A shape gives each pixel the
share of it that it covers, from the signed distance of the pixel's centre to the edge, in pixels:

    coverage = clamp(1/2 - distance, 0, 1)                                                        `Eq. coverage`

Shapes are laid over each other, `image <- (1 - coverage) image + coverage colour`. Coverage is linear in colour, so areas and centroids of a shape can be read back
from the pixels (`redness`, `darkness`).

Everything is vectorised over images; coordinates of a shape are tensors [N] in data units, images are float32 [N, 3, size, size] in [0, 1].
"""

from dataclasses import dataclass

import torch

from gencausal import checks

WHITE, BLACK, FIREBRICK, ORANGE, SKYBLUE = ((255, 255, 255), (0, 0, 0), (178, 34, 34), (255, 165, 0), (135, 206, 250))


@dataclass(frozen=True)
class Canvas:
    """`size` x `size` pixels that show the window `(x0, x1, y0, y1)` in data units."""

    size: int
    window: tuple[float, float, float, float]

    def __post_init__(self):
        checks.whole(self.size, "size", 8)

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels per data unit along x and y."""
        x0, x1, y0, y1 = self.window
        return self.size / (x1 - x0), self.size / (y1 - y0)

    def grid(self, device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
        """Data coordinates of pixel centres: x [1, 1, size] and y [1, size, 1]."""
        x0, x1, y0, y1 = self.window
        centre = (torch.arange(self.size, device=device) + 0.5) / self.size
        return (x0 + (x1 - x0) * centre)[None, None, :], (y1 - (y1 - y0) * centre)[None, :, None]

    def ellipse(self, x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor | float) -> torch.Tensor:
        """Coverage [N, size, size] of circles of `radius` about (x, y), all in data units; ellipses where the pixels are not square."""
        gx, gy = self.grid(x.device)
        radius = torch.as_tensor(radius, dtype=torch.float32, device=x.device).expand(len(x))[:, None, None]
        u, v = (gx - x[:, None, None]) / radius, (gy - y[:, None, None]) / radius
        level = (u**2 + v**2).sqrt().clamp(min=1e-6)
        sx, sy = self.scale
        slope = ((u / (radius * sx)) ** 2 + (v / (radius * sy)) ** 2).sqrt() / level  # of `level`, per pixel
        return (0.5 - (level - 1) / slope.clamp(min=1e-6)).clamp(0, 1)

    def segment(self, x0: torch.Tensor, y0: torch.Tensor, x1: torch.Tensor, y1: torch.Tensor, thickness: float) -> torch.Tensor:
        """Coverage of straight strokes from (x0, y0) to (x1, y1) with flat ends, `thickness` in pixels."""
        gx, gy = self.grid(x0.device)
        sx, sy = self.scale
        x0, y0, x1, y1 = (v[:, None, None] for v in (x0, y0, x1, y1))
        dx, dy = (x1 - x0) * sx, (y1 - y0) * sy
        length = (dx**2 + dy**2).sqrt().clamp(min=1e-6)
        px, py = (gx - (x0 + x1) / 2) * sx, (gy - (y0 + y1) / 2) * sy
        along, across = (px * dx + py * dy).abs() / length, (px * dy - py * dx).abs() / length
        return (0.5 + length / 2 - along).clamp(0, 1) * (0.5 + thickness / 2 - across).clamp(0, 1)

    def box(self, x0: torch.Tensor | float, x1: torch.Tensor | float, y0: torch.Tensor | float, y1: torch.Tensor | float, like: torch.Tensor) -> torch.Tensor:
        """Coverage of upright boxes; `like [N]` gives number, type and device. Exact: the product of the two overlaps."""
        x0, x1, y0, y1 = (torch.as_tensor(v, dtype=torch.float32, device=like.device).expand(len(like))[:, None, None] for v in (x0, x1, y0, y1))
        gx, gy = self.grid(like.device)
        hx, hy = 0.5 / self.scale[0], 0.5 / self.scale[1]
        wide = (torch.minimum(gx + hx, x1) - torch.maximum(gx - hx, x0)).clamp(min=0) / (2 * hx)
        high = (torch.minimum(gy + hy, y1) - torch.maximum(gy - hy, y0)).clamp(min=0) / (2 * hy)
        return wide * high

    def parabola(self, x0: float, top: torch.Tensor, bend: torch.Tensor, bottom: float, thickness: float) -> torch.Tensor:
        """Coverage of strokes along y = top - (x - x0)^2 / bend, from (x0, top) down to y = `bottom`, ends flat."""
        gx, gy = self.grid(top.device)
        top, bend = top[:, None, None], bend[:, None, None]
        sx, sy = self.scale
        slope = -2 * (gx - x0) / bend * (sy / sx)
        distance = (gy - top + (gx - x0) ** 2 / bend).abs() * sy / (1 + slope**2).sqrt()
        inside = (0.5 + (gx - x0) * sx).clamp(0, 1) * (0.5 + (gy - bottom) * sy).clamp(0, 1)
        return (0.5 + thickness / 2 - distance).clamp(0, 1) * inside


def paint(layers: list[tuple[torch.Tensor, tuple[int, int, int]]]) -> torch.Tensor:
    """Images [N, 3, H, W] in [0, 1] of `(coverage [N, H, W], colour)` layers on white, later ones on top."""
    first = layers[0][0]
    image = first.new_ones(len(first), 3, *first.shape[1:])
    for coverage, colour in layers:
        image = torch.lerp(image, first.new_tensor(colour)[None, :, None, None] / 255, coverage[:, None])
    return image


def redness(images: torch.Tensor) -> torch.Tensor:
    """Red less blue of `images [N, 3, H, W]`, clamped to [0, 1], [N, H, W]: nothing on white, black or water, 0.56 on the ball, 1 on the lamp. Values below
    a tenth are grain of sampled images and count as none."""
    value = (images[:, 0] - images[:, 2]).clamp(0, 1)
    return torch.where(value < 0.1, torch.zeros_like(value), value)


def darkness(images: torch.Tensor) -> torch.Tensor:
    """One less the mean channel, clamped to [0, 1], [N, H, W]: the share of black where only black and white are."""
    return (1 - images.mean(1)).clamp(0, 1)
