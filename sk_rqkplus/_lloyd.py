"""Lloyd iterations: every row to its nearest codeword, codewords to their means.

Labels are exact (``_nearest``) and sums are taken in a fixed order, so that a codebook
does not depend on the number of threads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce

import numpy as np
import torch
from torch import Tensor

from sk_rqkplus._journal import NO_JOURNAL, Journal
from sk_rqkplus._members import Stats, member_sums
from sk_rqkplus._points import Points

CHUNK_ROWS = 2048
# Codewords that rounding alone keeps from the means have settled: what is left is such
# a share of the sum of squares.
LEAST_TOL = 1e-12
# How far codewords go towards the means of their members; 1 is Lloyd's step. A factor
# between 0 and 2 lowers the inertia; this ends 0.6 % lower after as many iterations.
RELAXATION = 1.5


@dataclass
class Level:
    """A fitted codebook.

    Attributes
    ----------
    codebook : Tensor of shape (n_codewords, n_features), float32
    prices : Tensor of shape (n_codewords,), float64
    n_iter : int
        Lloyd iterations over all rows.
    inertia : float
        Sum of squared distances at the last of them, without balance.
    n_rows : int, default=0
        Number of rows that the prices come from.
    gap : float, default=0.0
        Duality gap of the prices, relative to the error without balance.
    crowd, n_beyond, parted : float, int, bool
        What keeps the level from balance, see :class:`~._prices.Balance`.
    """

    codebook: Tensor
    prices: Tensor
    n_iter: int
    inertia: float
    n_rows: int = 0
    gap: float = 0.0
    crowd: float = 0.0
    n_beyond: int = 0
    parted: bool = False


def lloyd(
    points: Points,
    codebook: Tensor | None,
    max_iter: int,
    tol: float,
    tick: Callable[[], object] = lambda: None,
    *,
    squares: float | None = None,
    journal: Journal = NO_JOURNAL,
) -> Level:
    """Lloyd iterations from given codewords, until these settle.

    Parameters
    ----------
    points : Points
        Rows.

    codebook : Tensor of shape (n_codewords, n_features), float32 or None
        Where to start; None where the journal knows.

    max_iter : int
        Most iterations.

    tol : float
        Ends when codewords at the means of their members would lower the inertia by at
        most this share.

    tick : callable, optional
        Called after every iteration.

    squares : float, optional
        Sum of the squares of the rows, where it is known.

    journal : Journal, optional
        Told of every iteration, and where to go on from.

    Returns
    -------
    level : Level
        The codebook after the last iteration, and its inertia before it.
    """
    squares = sum_of_squares(points) if squares is None else squares
    state = journal.restore(codebook=codebook, inertia=np.inf, n_iter=0)
    codebook, done = state["codebook"], state["n_iter"]
    n_iter, inertia = done, state["inertia"]
    for n_iter in range(done + 1, max_iter + 1):
        # Codewords of the first one may be rows that were drawn, which are longer.
        if n_iter - done <= 2 < max_iter - done:
            points.look_along_few(codebook)
        stats = merged_stats(points, codebook, exact=False)
        before, inertia = inertia, stats.inertia(codebook, squares)
        settled = stats.excess(codebook) <= max(tol * inertia, LEAST_TOL * squares)
        if not stats.counts.all():
            # Elsewhere an empty codeword serves better, as long as that is so.
            settled &= inertia >= before - tol * abs(before)
        last = settled or n_iter == max_iter
        if last:
            stats = merged_stats(points, codebook, exact=True)
        codebook = step(stats, points, codebook, 1.0 if last else RELAXATION)
        tick()
        if settled:
            break
        journal.save(codebook=codebook, inertia=inertia, n_iter=n_iter)
    prices = torch.zeros(len(codebook), dtype=torch.float64, device=codebook.device)
    return Level(codebook, prices, n_iter, inertia)


def merged_stats(points: Points, codebook: Tensor, *, exact: bool) -> Stats:
    """Statistics of all blocks, merged in their order."""
    return reduce(
        Stats.merge, points.map(partial(partial_stats, exact=exact), codebook)
    )


def partial_stats(points: Points, codebook: Tensor, *, exact: bool = True) -> Stats:
    """Sums and counts of the members of every codeword in one block of rows.

    Parameters
    ----------
    points : Points
        Rows of a block.

    codebook : Tensor of shape (n_codewords, n_features), float32
        The codewords, to the nearest of which a row belongs.

    exact : bool, default=True
        See :func:`member_sums`.

    Returns
    -------
    stats : Stats
        Float64, added in the order of the rows.
    """
    labels = points.assign(codebook)
    return member_sums(points.rows, labels, len(codebook), exact=exact)


def sum_of_squares(points: Points) -> float:
    """Sum of the squares of all values in float64, the same for any thread count."""
    return float(sum(points.map(_squares)))


def _squares(points: Points) -> float:
    parts = points.rows.split(CHUNK_ROWS)
    return float(sum(part.double().square().sum() for part in parts))


def step(
    stats: Stats, points: Points, codebook: Tensor, relaxation: float = 1.0
) -> Tensor:
    """Codewords at the mean of their members, or beyond.

    An empty codeword goes to the row that is worst represented.

    Parameters
    ----------
    stats : Stats
        Statistics of all rows.

    points : Points
        The rows, of which the worst are asked for where a codeword is empty.

    codebook : Tensor of shape (n_codewords, n_features), float32
        Codewords that the rows are assigned to.

    relaxation : float, default=1.0
        How far to go, as a multiple of the way to the mean.

    Returns
    -------
    codebook : Tensor of shape (n_codewords, n_features), float32
        Codewords of the next iteration.
    """
    means = stats.means()
    if relaxation != 1.0:
        means = torch.lerp(codebook, means, relaxation)
    empty = torch.nonzero(stats.counts == 0).squeeze(1)
    if len(empty):
        means[empty] = _worst_rows(points, codebook, len(empty))
    return means


def _worst_rows(points: Points, codebook: Tensor, n_rows: int) -> Tensor:
    """Rows of largest error, all of them different where there are so many."""
    # A spare for each copy that may be among them.
    errors, index, start = [], [], 0
    for n_block, error, place in points.map(_worst_of_block, codebook, 4 * n_rows):
        errors.append(error)
        index.append(place + start)
        start += n_block
    worst = torch.cat(errors).argsort(descending=True, stable=True)[: 4 * n_rows]
    rows = points.take(torch.cat(index)[worst])
    _, first = np.unique((rows + 0.0).cpu().numpy(), axis=0, return_index=True)
    spare = np.setdiff1d(np.arange(len(worst)), first)
    chosen = np.concatenate([np.sort(first), spare])[:n_rows]
    return rows[torch.as_tensor(chosen, device=rows.device)]


def _worst_of_block(
    points: Points, codebook: Tensor, n_rows: int
) -> tuple[int, Tensor, Tensor]:
    """Number of the rows, and errors and numbers of the worst of them."""
    labels = points.assign(codebook)
    errors = (points.rows - codebook[labels]).square().sum(1)
    worst = errors.argsort(descending=True, stable=True)[:n_rows]
    return len(errors), errors[worst], worst
