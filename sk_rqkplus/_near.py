"""Scores that are not far above the least one of their row, and lists of them.

A row that is shared out at some temperature hesitates between a few codewords. As long
as prices change little, no others can come near: a list of somewhat more codewords
stands for the whole row of scores, to the last bit, in a hundredth of the memory.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sk_rqkplus._threads import scratch

# Units of rounding of a score, of which there are several before two are compared.
ROUNDOFF = 2.0**-21
# Rows that are looked at for how long the list of a row will be, and bytes of an entry.
SOME_ROWS, ENTRY_BYTES = 32, 8


@dataclass
class Near:
    """Scores of a tile within reach of the least one of their row.

    Attributes
    ----------
    n_codewords : int
        Number of all codewords.
    least : ndarray of shape (n_rows,), float32
        Least score of every row.
    row, column : ndarray of shape (n_near,), int64
        Row and codeword of each score, in the order of the rows and, for each, of the
        codewords.
    score : ndarray of shape (n_near,), float32
        The scores, of which every row has one at least.
    """

    n_codewords: int
    least: np.ndarray
    row: np.ndarray
    column: np.ndarray
    score: np.ndarray

    def labels(self) -> np.ndarray:
        """Codeword of least score of every row, the lower one of a tie."""
        best = np.flatnonzero(self.score == self.least[self.row])
        first = np.flatnonzero(np.diff(self.row[best], prepend=-1))
        return self.column[best[first]]


@dataclass
class NearTable:
    """Scores of a tile that stays on its device: what is near is not listed.

    Attributes
    ----------
    scores : Tensor of shape (n_rows, n_codewords), float32
        All scores.
    reach : float
        How far above the least score of a row the others may be.
    """

    scores: Tensor
    reach: float

    def labels(self) -> Tensor:
        """Codeword of least score of every row, the lower one of a tie."""
        return self.scores.argmin(dim=1)


def near_in(tile: Tensor, reach: float) -> Near | NearTable:
    """What is near in a tile of scores.

    Parameters
    ----------
    tile : Tensor of shape (n_rows, n_codewords), float32
        Scores.

    reach : float
        How far above the least score of a row the others may be.

    Returns
    -------
    near : Near or NearTable
        Scores within reach; the whole tile on a GPU, where passes over it are cheaper
        than to bring a list to the CPU.
    """
    if tile.device.type == "cpu":
        return _listed(tile, reach)
    return NearTable(tile, reach)


def _listed(tile: Tensor, reach: float) -> Near:
    """What is near in a tile on a CPU."""
    least = tile.amin(dim=1)
    # NumPy finds what is true twice as fast.
    most = least.numpy() + np.float32(reach)
    inside = scratch("inside", tile.shape, tile.device, torch.bool).numpy()
    np.less_equal(tile.numpy(), most[:, None], out=inside)
    flat = np.flatnonzero(inside)
    row, column = np.divmod(flat, tile.shape[1])
    return Near(tile.shape[1], least.numpy(), row, column, tile.numpy().ravel()[flat])


def reach_of(tile: Tensor, prices: Tensor, n_bytes: float) -> float:
    """Reach within which lists take so many bytes a row, or about as many.

    Parameters
    ----------
    tile : Tensor of shape (n_rows, n_codewords), float32
        Scores without prices, on a CPU.

    prices : Tensor of shape (n_codewords,), float32
        Prices.

    n_bytes : float
        Bytes that the list of a row may take on average.

    Returns
    -------
    reach : float
        Of some of the rows; infinite where there is room for all codewords.
    """
    some = (tile[:: -(-len(tile) // SOME_ROWS)] + prices).numpy()
    n_near = int(len(some) * n_bytes / ENTRY_BYTES)
    if n_near >= some.size:
        return np.inf
    behind = some - some.min(axis=1, keepdims=True)
    return float(np.partition(behind.ravel(), n_near)[n_near])


class Shortlist:
    """What a tile has within reach at some prices, in place of the whole tile.

    Parameters
    ----------
    tile : Tensor of shape (n_rows, n_codewords), float32
        Scores without prices, on a CPU.

    prices : Tensor of shape (n_codewords,), float32
        Prices.

    reach : float
        How far above the least score with its price the listed ones may be.
    """

    def __init__(self, tile: Tensor, prices: Tensor, reach: float):
        priced = scratch("scores", tile.shape, tile.device)
        near = _listed(torch.add(tile, prices, out=priced), reach)
        others = priced.numpy()
        others -= near.least[:, None]
        others[near.row, near.column] = np.inf
        # How far above its row every codeword is wherever it is not on the list.
        self.others = others.min(axis=0).astype(np.float64)
        self.scores = tile.numpy()[near.row, near.column]
        self.columns = near.column.astype(np.int32)
        self.sizes = np.bincount(near.row).astype(np.int32)
        self.least = near.least
        self.prices = prices.numpy()
        self.largest = max(abs(float(value)) for value in tile.aminmax())

    @property
    def n_bytes(self) -> int:
        """What the list takes."""
        parts = self.scores, self.columns, self.sizes, self.least, self.others
        return sum(part.nbytes for part in parts)

    def near(self, prices: Tensor, reach: float) -> Near | None:
        """What is near in the tile at other prices.

        Parameters
        ----------
        prices : Tensor of shape (n_codewords,), float32
            Prices.

        reach : float
            How far above the least score of a row the others may be.

        Returns
        -------
        near : Near or None
            What :func:`near_in` finds in the whole tile, bit by bit; None where a
            codeword that is not on the list may be near.
        """
        now = prices.numpy()
        scores = self.scores + now[self.columns]
        first = np.cumsum(self.sizes) - self.sizes
        least = np.minimum.reduceat(scores, first)
        above = float((self.others + now - self.prices).min())
        sizes = self.largest + np.abs(now).max() + np.abs(self.prices).max() + reach
        rise = float((least.astype(np.float64) - self.least).max())
        if not rise + reach + ROUNDOFF * float(sizes) < above:
            return None
        most = np.repeat(least + np.float32(reach), self.sizes)
        inside = np.flatnonzero(scores <= most)
        row = np.repeat(np.arange(len(least)), self.sizes)[inside]
        column = self.columns[inside].astype(np.int64)
        return Near(len(now), least, row, column, scores[inside])
