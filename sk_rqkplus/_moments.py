"""How many rows every codeword would get, and how prices would change that.

At temperature t row i asks for codeword k with probability
``softmax_k(-(D_ik + p_k) / t)``. All but a few of these shares are next to nothing, and
are left out: what is left is a sparse matrix, however many codewords there are.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array

from sk_rqkplus._near import Near, NearTable

# Shares below exp(-7) of the largest one of the row are left out, and those below this
# part of it have no say in how counts change. A row hesitates if it has two that do.
WINDOW, LEAST_SHARE = 7.0, 1e-2


@dataclass
class Moments:
    """Expected counts of the codewords at a temperature, and what their changes are.

    The derivative of count k by price l is ``-curvature[k, l] / t``, and the curvature
    is the sum of ``diag(s_i) - s_i s_i^T`` over all rows i, with shares s_i. Rows that
    have decided add nothing to it. Moments of sets of rows add up.

    Attributes
    ----------
    counts : ndarray of shape (n_codewords,), float64
        Sums of the shares.
    hesitant : list of tuple of ndarray
        Of some sets of rows that hesitate: how many shares each row has, the codewords
        that these are of, and the shares themselves, times the root of the number of
        rows that each of these stands for.
    """

    counts: np.ndarray
    hesitant: list[tuple[np.ndarray, np.ndarray, np.ndarray]]

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.counts + other.counts, self.hesitant + other.hesitant)

    def shares(self) -> csr_array:
        """Shares of all rows that hesitate.

        Returns
        -------
        shares : csr_array of shape (n_rows, n_codewords), float64
            ``diag(shares.T @ shares.sum(1)) - shares.T @ shares`` is the curvature.
        """
        n_shares, column, share = map(np.concatenate, zip(*self.hesitant, strict=True))
        first = np.append(0, np.cumsum(n_shares))
        shape = len(n_shares), len(self.counts)
        return csr_array((share, column, first), shape=shape)


def moments(near: Near | NearTable, temperature: float, most: float) -> Moments:
    """Moments of the rows of a tile.

    Parameters
    ----------
    near : Near or NearTable
        Scores, within ``WINDOW`` temperatures of the least one.

    temperature : float
        In the units of the scores.

    most : float
        How many rows that hesitate to look at, as a share of all rows; up to twice as
        many may be, and one at least.

    Returns
    -------
    moments : Moments
        Counts without the shares that are left out, and some rows that hesitate.
    """
    if isinstance(near, NearTable):
        some = _look_at_table(near, temperature, most)
    else:
        some = _look_at_list(near, temperature, most)
    # Shares of a row add up to one again: equal prices for all move no row.
    sums = np.bincount(some.row, some.weight, minlength=some.n_seen)
    scale = np.sqrt(some.n_hesitant / max(1, some.n_seen))
    share = some.weight / sums[some.row] * scale
    n_shares = np.bincount(some.row, minlength=some.n_seen)
    return Moments(some.counts, [(n_shares, some.column, share)])


@dataclass
class _Some:
    """Counts of all rows of a tile, and weights of some of those that hesitate."""

    counts: np.ndarray
    n_hesitant: int
    n_seen: int
    row: np.ndarray
    column: np.ndarray
    weight: np.ndarray


def _stride(n_hesitant: int, n_rows: int, most: float) -> int:
    """One of so many rows that hesitate is looked at."""
    return max(1, int(n_hesitant / (most * n_rows)))


def _look_at_list(near: Near, temperature: float, most: float) -> _Some:
    n_rows, row, column = len(near.least), near.row, near.column
    best = near.least.astype(np.float64)
    weight = np.exp((best[row] - near.score) / temperature)
    sums = np.bincount(row, weight, minlength=n_rows)
    counts = np.bincount(column, weight / sums[row], minlength=near.n_codewords)
    heard = weight >= LEAST_SHARE
    numbers = np.flatnonzero(np.bincount(row[heard], minlength=n_rows) > 1)
    few = numbers[:: _stride(len(numbers), n_rows, most)]
    seen = np.zeros(n_rows, dtype=bool)
    seen[few] = True
    kept = np.flatnonzero(heard & seen[row])
    place = (np.cumsum(seen) - 1)[row[kept]]
    return _Some(counts, len(numbers), len(few), place, column[kept], weight[kept])


def _look_at_table(near: NearTable, temperature: float, most: float) -> _Some:
    """The same where the scores are: only what is seen of few rows leaves the device.

    Sums of a matrix product have one order; to add to a list of counts has none there.
    """
    least = near.scores.amin(dim=1, keepdim=True)
    weight = (least.double() - near.scores).div_(temperature).exp_()
    weight.masked_fill_(near.scores > least + near.reach, 0.0)
    counts = (1 / weight.sum(1)) @ weight
    heard = weight >= LEAST_SHARE
    numbers = torch.nonzero(heard.sum(1) > 1).squeeze(1)
    few = numbers[:: _stride(len(numbers), len(weight), most)]
    row, column = torch.nonzero(heard[few], as_tuple=True)
    found = row, column, weight[few[row], column]
    kept = (values.cpu().numpy() for values in found)
    return _Some(counts.cpu().numpy(), len(numbers), len(few), *kept)
