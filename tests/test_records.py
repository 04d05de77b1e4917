"""Columns of records."""

import numpy as np
import pytest

from sk_rqkplus._records import join_records, part_records


@pytest.mark.parametrize(
    "records",
    [
        [{"epoch": 0}],
        [{"epoch": 0, "loss": 0.5}, {"epoch": 1}, {"epoch": 2, "loss": -0.0}],
        [{"a": [0.5, 1e-300]}, {"a": [np.inf, -np.inf], "b": -(2**63)}],
    ],
)
def test_records_come_back(records):
    joined = join_records(part_records(records))
    assert repr(joined) == repr(records)


@pytest.mark.parametrize(
    "records",
    [
        [{"a": 1}, {"b": 1}],
        [{"a": 1}, {"a": 1.0}],
        [{"a": True}],
        [{"a": 2**63}],
        [{"a": "text"}],
        [{"a": None}],
        [{"a": []}],
        [{"a": [1]}],
        [{"a": [1.0]}, {"a": [1.0, 2.0]}],
        [{"a": [1.0]}, {"a": 1.0}],
        [{"a": np.float64(1)}],
        [{1: 1}],
        [{}],
        [],
    ],
)
def test_other_records_have_no_columns(records):
    assert part_records(records) is None


ONE, MANY = np.zeros(1), np.zeros((2**40, 0))


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"a": (MANY, None)}, "a should have values"),
        ({"a": (ONE, np.zeros(1, dtype=int))}, "empty"),
        ({"a": (ONE, None), "b": (ONE, np.array([0, 0]))}, "shorter|longer"),
        ({"a": (ONE, None), "b": (ONE, np.array([1]))}, "out of range"),
    ],
)
def test_columns_of_no_records_are_refused(columns, message):
    with pytest.raises((IndexError, ValueError), match=message):
        join_records(columns)
