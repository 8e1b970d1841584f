"""Noise levels against their closed forms."""

import pytest
import torch

from gencausal.schedules import SIGMA_MAX, SIGMA_MIN, karras_sigmas, log_normal, sid_sigma


def test_karras_grid_ends_and_falls():
    """Eq. 5, Karras et al. 2022: from 80 to 0.002 over N levels, then 0; sevenths powers are equally spaced."""
    grid = karras_sigmas(18, dtype=torch.float64)
    assert len(grid) == 19 and grid[0] == pytest.approx(80) and grid[-2] == pytest.approx(0.002) and grid[-1] == 0
    assert (grid.diff() < 0).all()
    gaps = grid[:-1].pow(1 / 7).diff()
    assert torch.allclose(gaps, gaps[0].expand_as(gaps))


def test_one_step_grid_and_zero_steps():
    assert karras_sigmas(1).tolist() == [80.0, 0.0]
    with pytest.raises(ValueError, match="steps"):
        karras_sigmas(0)


@pytest.mark.parametrize("t, sigma", [(0.0, 0.002), (0.2, 0.0851), (0.5, 2.515), (0.8, 24.41), (1.0, 80.0)])
def test_distillation_levels(t, sigma):
    """Eq. sid-sigma at the values the specification lists."""
    assert sid_sigma(torch.tensor(t, dtype=torch.float64)).item() == pytest.approx(sigma, rel=5e-4)


def test_log_normal_levels():
    """ln sigma has the mean and sd asked for, and no level passes sigma_max."""
    n = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    levels = log_normal(n, -1.2, 1.2).log()
    assert levels.mean().item() == pytest.approx(-1.2, abs=0.02) and levels.std().item() == pytest.approx(1.2, abs=0.02)
    assert log_normal(torch.tensor([50.0]), 0, 1).item() == SIGMA_MAX > SIGMA_MIN
