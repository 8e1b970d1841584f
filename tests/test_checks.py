"""Each check refuses what it must, in one sentence that names the argument, and passes the rest on unchanged."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gencausal import checks
from gencausal.checks import InputError


def test_matrix_returns_float64_of_any_holder():
    for values in ([[1, 2], [3, 4]], np.array([[1, 2], [3, 4]], dtype=np.int32), pd.DataFrame({"a": [1, 3], "b": [2, 4]})):
        array = checks.matrix(values)
        assert array.dtype == np.float64
        np.testing.assert_array_equal(array, [[1, 2], [3, 4]])


@pytest.mark.parametrize("bad", [[1.0, 2.0], 3.0, np.zeros((0, 2)), np.zeros((2, 0)), np.zeros((2, 2, 2))])
def test_matrix_refuses_other_shapes(bad):
    with pytest.raises(InputError, match="covs must be a table"):
        checks.matrix(bad, "covs")


def test_matrix_refuses_text_and_other_column_counts():
    with pytest.raises(InputError, match="X must hold numbers only.*get_dummies"):
        checks.matrix(pd.DataFrame({"a": ["x", "y"]}))
    with pytest.raises(InputError, match="X has 2 columns but 3 are expected"):
        checks.matrix([[1, 2]], columns=3)
    assert checks.matrix([[1, 2]], columns=2).shape == (1, 2)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 4), st.integers(0, 2), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_matrix_names_the_first_bad_cell(row, column, bad):
    values = np.zeros((5, 3))
    values[row, column] = bad
    values[4, 2] = np.nan if (row, column) != (4, 2) else bad
    with pytest.raises(InputError, match=rf"row {row}, column {column};"):
        checks.matrix(values)
    with pytest.raises(InputError, match=rf"row {row}, column '{'abc'[column]}';"):
        checks.matrix(pd.DataFrame(values, columns=list("abc")))


def test_vector_flattens_one_column_and_checks_length_and_values():
    np.testing.assert_array_equal(checks.vector([[1], [2]], length=2), [1.0, 2.0])
    with pytest.raises(InputError, match="Y must be one column"):
        checks.vector(np.zeros((3, 2)))
    with pytest.raises(InputError, match="Y must be one column"):
        checks.vector([])
    with pytest.raises(InputError, match="Y has 3 entries but the covariates have 4 rows"):
        checks.vector([1, 2, 3], length=4)
    with pytest.raises(InputError, match="Y holds nan in row 1"):
        checks.vector([1, np.nan, np.inf])


def test_treatment_accepts_arms_and_refuses_one_arm_gaps_and_fractions():
    arms = checks.treatment(pd.Series([0.0, 2.0, 1.0]))
    assert arms.dtype == np.int64 and arms.tolist() == [0, 2, 1]
    assert checks.treatment([False, True]).tolist() == [0, 1]
    with pytest.raises(InputError, match="T has one arm only"):
        checks.treatment([1, 1, 1])
    with pytest.raises(InputError, match="none in arm 1"):
        checks.treatment([0, 2])
    with pytest.raises(InputError, match="T holds 0.5 in row 1"):
        checks.treatment([0, 0.5, 1])
    with pytest.raises(InputError, match="T holds -1 in row 0"):
        checks.treatment([-1, 0, 1])
    assert checks.treatment([1, 1], arms=2).tolist() == [1, 1]
    with pytest.raises(InputError, match="T holds arm 2 in row 1 but only the arms 0 to 1"):
        checks.treatment([1, 2], arms=2)


def test_numbers():
    assert checks.whole(np.int64(3), "n") == 3 and type(checks.whole(np.int64(3), "n")) is int
    for bad in (0, 1.0, True, "3", None):
        with pytest.raises(InputError, match="n must be a whole number of at least 1"):
            checks.whole(bad, "n")
    with pytest.raises(InputError, match="setting must be a whole number from 1 to 40, not 41"):
        checks.whole(41, "setting", 1, 40)
    assert checks.fraction(0.1, "alpha") == 0.1
    for bad in (0, 1, 1.5, float("nan"), "0.1", True):
        with pytest.raises(InputError, match="alpha must be a number between 0 and 1"):
            checks.fraction(bad, "alpha")
    assert checks.positive(2, "lr") == 2.0
    for bad in (0, -1.0, float("inf"), float("nan"), "1", True):
        with pytest.raises(InputError, match="lr must be a finite number above 0"):
            checks.positive(bad, "lr")
    assert checks.choice("obs", "mode", ["obs", "ipw"]) == "obs"
    with pytest.raises(InputError, match="mode must be one of 'obs', 'ipw', not 'shufle'"):
        checks.choice("shufle", "mode", ["obs", "ipw"])


def test_input_error_is_a_value_error():
    assert issubclass(InputError, ValueError)
