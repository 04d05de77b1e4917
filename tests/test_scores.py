"""Scores of rows and codewords that float32 would not tell apart."""

import numpy as np
import torch
from numpy.testing import assert_allclose
from samples import leftover, squared_distances

from sk_rqkplus._scores import Scores

NO_PRICES = torch.zeros(16, dtype=torch.float64)


def test_codewords_that_are_close_are_told_apart():
    rng = np.random.default_rng(0)
    sides = np.where(rng.integers(2, size=(3000, 1)) == 1, 1.0, -1.0)
    rows = torch.from_numpy((sides + 1e-4 * rng.normal(size=(3000, 8))).astype("f"))
    book = rows[:16].clone()
    expected = np.sort(squared_distances(rows, book), axis=1)
    scores = Scores(leftover(rows), book)
    assert scores.precise
    labels, margins = scores.margins(NO_PRICES)
    # Distances are of 1e-7, and what float32 rounds of scores is of 1e-6.
    gap = expected[:, 1] - expected[:, 0]
    assert_allclose(margins, gap, rtol=1e-3, atol=1e-12)
    found = squared_distances(rows, book)[np.arange(3000), labels]
    assert_allclose(found, expected[:, 0], atol=1e-12)


def test_codewords_that_are_apart_take_float32():
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(300, 8)).astype("f"))
    assert not Scores(leftover(rows), rows[:16].clone()).precise
    assert not Scores(leftover(rows), rows[:1].clone()).precise
