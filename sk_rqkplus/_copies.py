"""Rows that are equal: crowds of them, and how many are different."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sk_rqkplus._residual import Leftover
from sk_rqkplus._rounding import row_sums


def crowded(left: Leftover, limit: int) -> Tensor:
    """Which rows have more than ``limit`` copies, themselves included.

    Parameters
    ----------
    left : Leftover
        Rows.

    limit : int
        Most copies that are not a crowd.

    Returns
    -------
    mask : Tensor of shape (n_rows,), bool
        True for the rows of such a group.
    """
    # Equal rows have equal norms, which are cheaper to sort.
    norms = left.squares()
    mask = torch.zeros(len(norms), dtype=torch.bool, device=norms.device)
    ordered = norms.sort().values
    runs = ordered[limit:] == ordered[: max(len(norms) - limit, 0)]
    for value in ordered[limit:][runs].unique():
        group = torch.nonzero(norms == value).squeeze(1)
        _, copies, sizes = left.take(group).unique(
            dim=0, return_inverse=True, return_counts=True
        )
        mask[group] = sizes[copies] > limit
    return mask


def count_distinct(left: Leftover, limit: int) -> int:
    """Number of distinct rows, or ``limit`` as soon as there are that many.

    Parameters
    ----------
    left : Leftover
        Rows.

    limit : int
        Where to stop counting.

    Returns
    -------
    n_distinct : int
        Count.
    """
    limit = min(limit, len(left))
    # Rows of different norms are different, and numbers are cheaper to sort.
    by_norm = _count_distinct(left, limit, _norms)
    if by_norm >= limit:
        return limit
    return min(limit, _count_distinct(left, limit, _values))


def _norms(rows: Tensor) -> Tensor:
    return row_sums(rows.double().square())


def _values(rows: Tensor) -> Tensor:
    # Adding zero turns -0.0 into 0.0, which np.unique would keep apart.
    return rows + 0.0


def _count_distinct(left: Leftover, limit: int, by: Callable[[Tensor], Tensor]) -> int:
    """Number of distinct values of the rows; stops once there are enough."""
    distinct: list[np.ndarray] = []
    start, step = 0, 2 * limit
    while start < len(left) and (start == 0 or len(distinct[0]) < limit):
        found = left.distinct(slice(start, min(start + step, len(left))), by)
        distinct = [np.unique(np.concatenate([*distinct, found]), axis=0)]
        start, step = start + step, 2 * step
    return len(distinct[0])
