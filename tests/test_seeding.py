"""Where Lloyd iterations begin."""

import numpy as np
import torch
from numpy.testing import assert_allclose, assert_array_equal
from samples import blobs, tensor

from sk_rqkplus._seeding import kmeans_plus_plus, leading_directions


def test_kmeans_plus_plus_finds_the_blobs():
    rows = blobs()
    for seed in range(5):
        chosen = kmeans_plus_plus(rows, 10, np.random.RandomState(seed))
        # Every blob has a codeword: no row is far from one.
        start = rows[chosen]
        assert torch.cdist(rows, start).amin(1).max() < 15


def test_kmeans_plus_plus_takes_every_distinct_row():
    rows = tensor([[0.0], [0.0], [1.0], [2.0], [2.0]])
    start = rows[kmeans_plus_plus(rows, 3, np.random.RandomState(0))]
    assert_array_equal(start.sort(dim=0).values, [[0.0], [1.0], [2.0]])


def test_leading_directions_are_those_of_the_covariance():
    rng = np.random.default_rng(0)
    spread = np.r_[np.linspace(9, 5, 10), np.full(40, 0.1)]
    rows = tensor(rng.normal(size=(3000, 50)) * spread)
    found = leading_directions(rows, 10, np.random.RandomState(0))
    assert_allclose(found.T @ found, np.eye(10), atol=1e-5)
    # Nothing of the first ten coordinates is lost, nothing of the others kept.
    assert found[10:].abs().max() < 0.05
    assert leading_directions(rows[:, :10], 10, np.random.RandomState(0)) is None
