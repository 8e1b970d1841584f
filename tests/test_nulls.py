import numpy as np
import pytest
import torch
from torch import nn

from gencausal import checks, nulls


def test_p_by_hand():
    """Eq. monte-carlo-p: ties count against, and B nulls cannot give less than 1 / (B + 1)."""
    assert nulls.monte_carlo_p(2.0, [1.0, 2.0, 3.0]) == pytest.approx(3 / 4)
    assert nulls.monte_carlo_p(9.0, np.zeros(99)) == pytest.approx(0.01)
    with pytest.raises(checks.InputError, match="null"):
        nulls.monte_carlo_p(1.0, [np.nan])


def test_p_is_valid_under_the_null():
    """P(p <= a) <= a, and close to it."""
    rng = np.random.default_rng(0)
    found = np.array([nulls.monte_carlo_p(draw[0], draw[1:]) for draw in rng.normal(size=(4000, 20))])
    for level in (0.05, 0.1, 0.5):
        assert (found <= level).mean() == pytest.approx(level, abs=0.025)


def test_reinitialised_networks_differ_and_repeat():
    def make(seed):
        net = nn.Linear(3, 2)
        with torch.no_grad():
            net.weight.copy_(torch.randn(2, 3, generator=torch.Generator().manual_seed(seed)))
        return net

    first, again = (nulls.reinitialised(make, lambda net: float(net.weight.sum()), [0, 1, 2]) for _ in range(2))
    assert np.array_equal(first, again) and len(set(first)) == 3
