"""Rows that tests of several modules begin with."""

import numpy as np
import torch

from sk_rqkplus._residual import Leftover


def tensor(values):
    return torch.tensor(values, dtype=torch.float32)


def blobs(n_rows=2000, n_blobs=10, n_features=8, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 10, (n_blobs, n_features))
    rows = centres[rng.integers(n_blobs, size=n_rows)]
    return tensor(rows + rng.normal(size=rows.shape))


def draw(n_rows, n_codewords, n_features=6, seed=0):
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(rng.normal(size=(n_rows, n_features)).astype(np.float32))
    # Codewords among few of the rows: far from balanced without prices.
    book = rows[: 2 * n_codewords : 2] * 1.5
    return rows, book


def leftover(rows):
    """The rows themselves, as what no level has quantised yet."""
    return Leftover(rows.numpy(), np.zeros(rows.shape[1], np.float32), 1.0)


def squared_distances(rows, book):
    return torch.cdist(rows.double(), book.double()).square().numpy()
