"""A first look in bfloat16, at which most rows can already be decided.

Similarities ``2 r.c - ||c||^2 - price`` are a product of matrices, and a product of
numbers that are rounded to bfloat16 is two to five times as fast as one in float32.
Rounding moves the similarity of a codeword c by at most ``reach(r) ||2 c||``
(Cauchy-Schwarz). The product itself adds that, as one feature more, and so gives an
upper bound of every similarity. A codeword whose lower bound is above the upper bounds
of all others is the nearest one.
"""

import numpy as np
import torch
from torch import Tensor

from sk_rqkplus._products import bfloat16_is_faster
from sk_rqkplus._rounding import SMALLEST
from sk_rqkplus._threads import scratch

# Unit roundoff of bfloat16, and a factor that makes up for rounding to it.
ROUNDOFF, UP = 2.0**-8, 1 + 2.0**-7
# Features beyond those of the rows: three parts of the offset, and the bound.
N_PARTS, N_MORE = 3, 4
# Smaller products are not worth rounding the rows for.
LEAST_SIZE, LEAST_ROWS = 128, 64
# Codewords count as longer than what is taken for zero, so that zeros among them lose
# no share of their length.
LEAST_LENGTH = 2.0**-100
LOWEST = np.iinfo(np.int16).min


class RoughCodewords:
    """One codebook, made ready for :func:`rough_labels`.

    Parameters
    ----------
    codebook : Tensor of shape (n_codewords, n_features), float32
        The codewords.

    offsets : Tensor of shape (n_codewords,), float64
        Squared norms of the codewords, and their prices.
    """

    def __init__(self, codebook: Tensor, offsets: Tensor):
        n_codewords, self.n_features = codebook.shape
        doubled = 2 * codebook.detach().double()
        norms = doubled.norm(dim=1).clamp(min=LEAST_LENGTH)
        width = self.n_features + N_MORE
        self.table = torch.zeros(n_codewords, width, dtype=torch.bfloat16)
        self.table[:, : self.n_features] = doubled
        rest = -offsets.detach()
        for column in range(self.n_features, self.n_features + N_PARTS):
            self.table[:, column] = rest
            rest = rest - self.table[:, column].double()
        lost = (doubled - self.table[:, : self.n_features].double()).norm(dim=1)
        lost += self.n_features * SMALLEST
        # What rounding takes from a codeword, as a share of its length.
        self.lost = float((lost / norms).max())
        self.lengths = (norms * UP).bfloat16()
        self.table[:, -1] = self.lengths

    def reach(self, norms: Tensor, noise: Tensor | None) -> Tensor:
        """How far rounding moves a similarity, per unit of length of a codeword.

        Parameters
        ----------
        norms : Tensor of shape (n_rows,), float32
            Norms of the rows.

        noise : Tensor of shape (n_rows,) or None
            Bound of the distance between each row and the exact one.

        Returns
        -------
        reach : Tensor of shape (n_rows,), bfloat16
            Rounded up.
        """
        reach = norms * (ROUNDOFF + (1 + ROUNDOFF) * self.lost)
        reach += self.n_features * SMALLEST
        if noise is not None:
            reach += noise * (1 + self.lost)
        return (reach * UP).bfloat16()


def rough_codewords(codebook: Tensor, offsets: Tensor) -> RoughCodewords | None:
    """Codewords for a first look, or None where it would not be worth it."""
    small = min(codebook.shape) < LEAST_SIZE
    if small or codebook.device.type != "cpu" or not bfloat16_is_faster():
        return None
    words = RoughCodewords(codebook, offsets)
    # An overflow may come out as a NaN that is taken for less than all others.
    return words if words.table.isfinite().all() else None


def rough_labels(
    rows: Tensor,
    words: RoughCodewords,
    norms: Tensor,
    slack: Tensor,
    noise: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Nearest codewords as far as a product in bfloat16 can tell.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n_features), float32
        Rows.

    words : RoughCodewords
        The codebook.

    norms : Tensor of shape (n_rows,), float32
        Norms of the rows, or more.

    slack : Tensor of shape (n_rows,), float32
        Bound of the rounding of two sums in float32.

    noise : Tensor of shape (n_rows,) or None
        Bound of the distance between each row and the exact one.

    Returns
    -------
    labels : Tensor of shape (n_rows,), int64
        Codewords of largest upper bound.

    doubtful : Tensor of shape (n_doubtful,), int64
        Rows for which the lower bound of that is not above all other upper bounds.

    rivals : Tensor of shape (n_doubtful, n_codewords), bool
        Whose upper bounds it is not above; the label is among them.
    """
    n_features, reach = words.n_features, words.reach(norms, noise)
    width = words.table.shape[1]
    wide = scratch("wide", (len(rows), width), rows.device, torch.bfloat16)
    wide[:, :n_features] = rows
    wide[:, n_features:-1] = 1
    wide[:, -1] = reach
    bounds = scratch("bounds", (len(rows), len(words.table)), rows.device, wide.dtype)
    torch.mm(wide, words.table.T, out=bounds)
    labels, best, next_best = _largest_two(bounds)
    both = 2.01 * reach.float() * words.lengths[labels].float()
    # Results are rounded once more: that of the best, and that of any other.
    lower = best - both - slack - 1.01 * ROUNDOFF * best.abs()
    lower -= 1.02 * ROUNDOFF * lower.abs()
    doubtful = torch.nonzero(~(next_best < lower)).squeeze(1)
    rivals = ~(_taken_back(bounds, doubtful) < lower[doubtful, None])
    rivals.scatter_(1, labels[doubtful, None], True)
    return labels, doubtful, rivals


def _largest_two(bounds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Index of the largest bound of every row, that bound, and the next one."""
    other = scratch("other keys", bounds.shape, bounds.device, torch.int16)
    keys = bounds.view(torch.int16).numpy()
    _in_order(keys, other.numpy())
    labels = keys.argmax(axis=1)
    at = np.arange(len(keys)), labels
    best = keys[at]
    keys[at] = LOWEST
    largest = np.stack([best, keys.max(axis=1)])
    _in_order(largest, np.empty_like(largest))
    best, next_best = torch.from_numpy(largest).view(torch.bfloat16).float()
    return torch.from_numpy(labels), best, next_best


def _taken_back(bounds: Tensor, index: Tensor) -> Tensor:
    """Bounds of some rows, of which the integers in their order have been made."""
    keys = bounds.view(torch.int16).numpy()[index.numpy()]
    _in_order(keys, np.empty_like(keys))
    return torch.from_numpy(keys).view(torch.bfloat16).float()


def _in_order(keys: np.ndarray, other: np.ndarray) -> None:
    """Turn the bits of numbers into integers in their order, or back again.

    The bits of negative numbers, taken for integers, count down.
    """
    np.right_shift(keys, 15, out=other)
    np.bitwise_and(other, 0x7FFF, out=other)
    np.bitwise_xor(keys, other, out=keys)
