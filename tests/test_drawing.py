import math

import pytest
import torch

from gencausal import checks
from gencausal.data.drawing import BLACK, FIREBRICK, ORANGE, SKYBLUE, WHITE, Canvas, darkness, paint, redness

CANVAS = Canvas(64, (0.0, 20.0, -1.0, 21.0))
AREA = math.prod(CANVAS.scale)


def one(*values):
    return tuple(torch.tensor([float(v)]) for v in values)


@pytest.mark.parametrize("radius", [1.0, 1.5, 3.0])
@pytest.mark.parametrize("at", [(10.0, 10.0), (10.13, 9.87), (7.31, 12.049)])
def test_circle_has_its_area_and_its_centre(radius, at):
    """Eq. coverage: within 2 % of pi r^2 at any place between pixels; the centroid is the centre."""
    cover = CANVAS.ellipse(*one(*at), radius)[0]
    x, y = (g[0] for g in CANVAS.grid())
    assert float(cover.sum()) == pytest.approx(math.pi * radius**2 * AREA, rel=0.02)
    assert float((cover * x).sum() / cover.sum()) == pytest.approx(at[0], abs=5e-3) and float((cover * y).sum() / cover.sum()) == pytest.approx(at[1], abs=5e-3)


def test_box_is_exact_and_cut_by_the_canvas():
    like = torch.zeros(1)
    assert float(CANVAS.box(3.3, 7.9, 2.2, 4.15, like).sum()) == pytest.approx(4.6 * 1.95 * AREA, rel=1e-4)
    assert float(CANVAS.box(-5, 2, -9, 1, like).sum()) == pytest.approx(2 * 2 * AREA, rel=1e-4)


@pytest.mark.parametrize("ends", [(2, 5, 9, 5), (4, 3, 4, 12), (3, 4, 11, 13)])
def test_stroke_has_length_times_thickness(ends):
    sx, sy = CANVAS.scale
    length = math.hypot((ends[2] - ends[0]) * sx, (ends[3] - ends[1]) * sy)
    assert float(CANVAS.segment(*one(*ends), 3.0).sum()) == pytest.approx(3 * length, rel=0.01)


def test_parabola_runs_from_its_top_to_the_line():
    cover = CANVAS.parabola(8.0, *one(5.0, 4.0), 0.5, 2.0)[0]  # y = 5 - (x - 8)^2 / 4 meets 0.5 at x = 8 + sqrt(18)
    x, y = (g[0].squeeze() for g in CANVAS.grid())
    columns, rows = x[cover.amax(0) > 0.5], y[cover.amax(1) > 0.5]
    assert float(columns.min()) == pytest.approx(8, abs=0.35) and float(columns.max()) == pytest.approx(8 + 18**0.5, abs=0.5)
    assert float(rows.min()) == pytest.approx(0.5, abs=0.4) and float(rows.max()) == pytest.approx(5, abs=0.5)


def test_colours_are_told_apart():
    """Red less blue sees ball and lamp, darkness sees black, each in proportion to coverage."""
    cover = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.7 + 0.3
    for colour, red in ((FIREBRICK, 144 / 255), (ORANGE, 1.0), (SKYBLUE, 0.0), (BLACK, 0.0), (WHITE, 0.0)):
        torch.testing.assert_close(redness(paint([(cover, colour)])), red * cover)
    torch.testing.assert_close(darkness(paint([(cover, BLACK)])), cover)


def test_later_layers_lie_on_top():
    full, half = torch.ones(1, 8, 8), torch.full((1, 8, 8), 0.5)
    assert paint([(full, ORANGE), (full, BLACK)]).abs().max() == 0
    torch.testing.assert_close(paint([(half, BLACK)]), torch.full((1, 3, 8, 8), 0.5))


def test_a_tiny_canvas_is_refused():
    with pytest.raises(checks.InputError, match="size"):
        Canvas(4, (0, 1, 0, 1))
