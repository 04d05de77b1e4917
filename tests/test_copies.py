"""Rows that are equal."""

import pytest
import torch
from numpy.testing import assert_array_equal
from samples import leftover, tensor

from sk_rqkplus._copies import count_distinct, crowded


@pytest.mark.parametrize("limit, expected", [(2, 2), (3, 3), (9, 3)])
def test_count_distinct(limit, expected):
    rows = tensor([[0.0], [-0.0], [1.0], [2.0], [2.0], [1.0]])
    left = leftover(rows)
    assert count_distinct(left, limit) == expected


def test_crowds_are_left_out():
    rows = torch.tensor([[0.0], [0.0], [0.0], [1.0], [1.0], [2.0]])
    mask = crowded(leftover(rows), 2)
    assert_array_equal(mask, [True, True, True, False, False, False])
    # Equal norms alone are no crowd.
    assert not crowded(leftover(torch.tensor([[1.0, 0.0], [0.0, 1.0]])), 1).any()
