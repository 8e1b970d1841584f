"""The split rule of spec/iwdd.md 3.6 and the held-out validation rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gencausal.data import synthetic
from gencausal.data.table import split


@pytest.mark.parametrize(("n", "train", "test"), [(4802, 3844, 958), (747, 597, 150), (746, 596, 150), (1000, 800, 200), (45, 39, 6)])
def test_split_sizes(n, train, test):
    """spec/iwdd.md section 8, item 13; 45 rows: 36 and 9, of which the second leaves 1 modulo 8."""
    assert [len(part) for part in split(n)] == [train, test]


@settings(max_examples=100, deadline=None)
@given(st.integers(20, 10_000))
def test_split_keeps_file_order_and_every_row_once(n):
    train, test = split(n)
    np.testing.assert_array_equal(np.concatenate([train, test]), np.arange(n))
    assert train.dtype == test.dtype == np.int64
    assert 0 <= len(train) - int(0.8 * n) <= 4


def test_validation_rows_come_from_train_alone_and_follow_the_seed():
    table = synthetic.load(0, n_train=333, n_test=100)
    fit, held = table.validation(0)
    assert len(held) == 33 and len(fit) == 300
    np.testing.assert_array_equal(np.sort(np.concatenate([fit, held])), table.train)
    assert not set(held) & set(table.test) and not set(fit) & set(held)
    np.testing.assert_array_equal(table.validation(0)[1], held)
    assert not np.array_equal(table.validation(1)[1], held)
    assert held.max() > 297 or held.min() < 30  # drawn over the whole range, not the head or the tail
    assert held.min() < 100 and held.max() > 200
