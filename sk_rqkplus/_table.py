"""The rows that a fit begins with, in memory or in a memory-mapped file."""

import zlib
from collections.abc import Iterable

import numpy as np
import torch

from sk_rqkplus._residual import Leftover
from sk_rqkplus._threads import block_rows, split_rows


def column_sums(X: np.ndarray) -> np.ndarray:
    """Sum of every column in float64; the layout in memory makes no difference."""
    return np.ascontiguousarray(X).sum(axis=0, dtype=np.float64)


def column_means(X: np.ndarray) -> np.ndarray:
    """Mean of every column, a block of rows at a time.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows.

    Returns
    -------
    means : ndarray of shape (n_features,), float64
        Their mean.
    """
    blocks = split_rows(len(X), block_rows(len(X)))
    return np.asarray(sum(column_sums(X[block]) for block in blocks) / len(X))


def largest_deviation(X: np.ndarray, mean: np.ndarray) -> float:
    """Largest absolute difference from the mean of the columns."""
    return float(np.abs(X - mean).max())


def checksum(X: np.ndarray) -> int:
    """CRC-32 of the values of rows; the layout in memory makes no difference."""
    return zlib.crc32(np.ascontiguousarray(X).data)


def describe_rows(
    dtype: np.dtype, shape: tuple[int, int], checksums: Iterable[int]
) -> str:
    """Type and shape of rows, and a checksum of those of their blocks."""
    total = zlib.crc32(np.fromiter(checksums, dtype="<u4").tobytes())
    return f"{np.dtype(dtype)} of shape {shape}, CRC-32 {total:08x}"


class Table:
    """Rows in memory, as a fit asks for them; see ``distributed`` for other tables.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32 or float64
        Rows.

    device : torch.device
        Where to compute.
    """

    def __init__(self, X: np.ndarray, device: torch.device):
        self.X, self.device = X, device

    def __len__(self) -> int:
        return len(self.X)

    def describe(self) -> str:
        """What tells these rows from others, wherever they are."""
        blocks = split_rows(len(self), block_rows(len(self)))
        checksums = (checksum(self.X[block]) for block in blocks)
        return describe_rows(self.X.dtype, self.X.shape, checksums)

    def take(self, index: np.ndarray) -> np.ndarray:
        """Rows of some numbers."""
        return self.X[index]

    def mean(self) -> np.ndarray:
        """Mean of every column, in the dtype of the rows."""
        return column_means(self.X).astype(self.X.dtype)

    def largest(self, mean: np.ndarray) -> float:
        """Largest absolute difference from the mean of the columns."""
        blocks = split_rows(len(self), block_rows(len(self)))
        return max(largest_deviation(self.X[block], mean) for block in blocks)

    def leftover(
        self, mean: np.ndarray, scale: float, *, keep: bool = True
    ) -> Leftover:
        """The rows before the first level."""
        return Leftover(self.X, mean, scale, device=self.device, keep=keep)
