"""Prices that balance a level, and codewords that move where copies are in the way.

Prices are lowered into balance by ``_balance`` and finished, row by row, by ``_cells``.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import attrgetter

import torch
from torch import Tensor

from sk_rqkplus._balance import capacities, lower_imbalance
from sk_rqkplus._cells import MANY_ROWS, exact_prices
from sk_rqkplus._copies import crowded
from sk_rqkplus._lloyd import Level, merged_stats, step
from sk_rqkplus._nearest import Codewords, nearest
from sk_rqkplus._points import Points
from sk_rqkplus._residual import Leftover
from sk_rqkplus._scores import Scores, Selection
from sk_rqkplus._threads import one_thread

# Rows per codeword that prices are found on first, and that codewords learn from.
BALANCED_ROWS, MOST_BALANCED_ROWS = 64, 512
# Relative duality gap above which codewords move on where copies are the reason, and so
# many places that they are tried at.
LARGEST_GAP, MOST_TRIES = 1e-4, 4
# How far they move on, as a multiple of the way to the mean of their members: a little,
# since all levels together have found their places.
NUDGE = 0.25
# Rows that the error without balance is taken from.
MOST_ERRORS = 2**17
# One of so many rows, or fewer, are gathered in memory: blocks would have few of them.
SPARSE = 64


@dataclass
class Balance:
    """Prices of a level, and how well they balance it.

    Attributes
    ----------
    prices : Tensor of shape (n_codewords,), float64
        One price per codeword, in squared units of the rows.
    gap : float
        Duality gap, in the same units: zero where no assignment within the bounds is
        better.
    crowd : float
        Share of the rows that no price can tell apart, which the counts leave out.
    n_beyond : int
        Rows by which the counts are outside of their bounds.
    parted : bool
        Whether copies, which no price can part, may be the reason for these two.
    """

    prices: Tensor
    gap: float = 0.0
    crowd: float = 0.0
    n_beyond: int = 0
    parted: bool = False


@one_thread()
def balance_prices(
    left: Leftover,
    codebook: Tensor,
    tol: float,
    prices: Tensor | None = None,
    *,
    n_before: int = 0,
    exact: bool = True,
) -> Balance:
    """Prices under which the counts of all codewords are within their bounds.

    Rows of which there are more copies than one codeword may hold are left out of the
    counts: equal rows cannot be told apart by any price.

    Parameters
    ----------
    left : Leftover
        Rows to share out.

    codebook : Tensor of shape (n_codewords, n_features), float32
        The codewords.

    tol : float
        Relative deviation from equal counts that is allowed.

    prices : Tensor of shape (n_codewords,), float64, optional
        Where to start; None anneals from zero.

    n_before : int, optional
        Number of rows that these prices come from.

    exact : bool, default=True
        Whether to move single rows in the end until every count is within its bounds.

    Returns
    -------
    balance : Balance
        Prices, and their quality.
    """
    _, upper = capacities(len(left), len(codebook), tol)
    crowd = torch.nonzero(crowded(left, upper)).squeeze(1).cpu().numpy()
    n_rows, crowding = len(left) - len(crowd), len(crowd) / len(left)
    if n_rows == 0 or len(codebook) == 1:
        return Balance(codebook.new_zeros(len(codebook)).double(), crowd=crowding)
    if prices is not None and not prices.any():
        prices = None
    least = BALANCED_ROWS * len(codebook)
    # Prices of few rows are soon found, and close to those of more.
    sizes = [n_rows]
    while sizes[0] >= 8 * max(least, n_before):
        sizes.insert(0, sizes[0] // 8)
    for size in sizes:
        selection = Selection(len(left), crowd, n_rows // size)
        if selection.stride < SPARSE:
            scores = left.scores(codebook, selection)
        else:
            few = torch.as_tensor(selection.inside(0, len(left)), device=left.device)
            scores = Scores(Points(left.take(few)), codebook)
        prices = lower_imbalance(scores, prices, tol, n_before)
        n_before = len(scores)
    assert prices is not None
    if not exact:
        return Balance(prices, crowd=crowding)
    prices, gap, n_beyond, parted = exact_prices(scores, prices, tol)
    return Balance(prices, gap, crowding, n_beyond, parted)


def balance_level(
    left: Leftover, level: Level, tol: float, points: Callable[[], Points]
) -> Level:
    """Prices for a level that balance all rows, to the last of them.

    Copies of a row may be in the way of that. Then codewords move towards the means of
    their members, where others are in the way, or none.

    Parameters
    ----------
    left : Leftover
        Rows to share out.

    level : Level
        A codebook, and prices close to balance.

    tol : float
        Relative deviation from equal counts that is allowed.

    points : callable
        Returns rows that codewords may move towards the means of.

    Returns
    -------
    level : Level
        The try of fewest rows beyond the bounds, and of smallest gap among equals.
    """
    few, most = None, MOST_BALANCED_ROWS * len(level.codebook)
    tried: list[Level] = []
    while True:
        balance = balance_prices(
            left, level.codebook, tol, level.prices, n_before=level.n_rows
        )
        gap = balance.gap / _error(left, level.codebook) if balance.gap else 0.0
        found = {**vars(balance), "gap": gap, "n_rows": len(left)}
        level = replace(level, **found)
        tried.append(level)
        in_the_way = level.n_beyond > 0 or level.gap > LARGEST_GAP
        if not level.parted or not in_the_way or len(tried) == MOST_TRIES:
            break
        if len(left) > MANY_ROWS:
            break
        if few is None:
            rows = points()
            index = torch.arange(0, len(rows), -(-len(rows) // most))
            few = Points(rows.take(index.to(rows.device)))
        scores = Scores(few, level.codebook)
        codebook, prices = priced_step(few, scores, level.prices, NUDGE)
        n_iter = level.n_iter + 1
        level = replace(level, codebook=codebook, prices=prices, n_iter=n_iter)
    return min(tried, key=attrgetter("n_beyond", "gap"))


def _error(left: Leftover, codebook: Tensor) -> float:
    """Sum of squared distances without balance, of many rows by some of them."""
    rows = left.take(slice(0, len(left), -(-len(left) // MOST_ERRORS)))
    labels = nearest(rows, Codewords(codebook))
    errors = (rows - codebook[labels]).square().sum(1, dtype=torch.float64)
    return max(float(errors.mean()) * len(left), 1e-300)


def priced_step(
    points: Points, scores: Scores, prices: Tensor, relaxation: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Codewords at the means of their members or beyond, and the prices there.

    Parameters
    ----------
    points : Points
        Rows.

    scores : Scores
        Their squared distances to the codewords as they are.

    prices : Tensor of shape (n_codewords,), float64
        Prices that members come from.

    relaxation : float, default=1.0
        How far to go, as a multiple of the way to the mean.

    Returns
    -------
    codebook : Tensor of shape (n_codewords, n_features), float32
        Codewords of the next iteration.

    prices : Tensor of shape (n_codewords,), float64
        Prices of the codewords where they are, see :func:`follow`.
    """
    codebook = scores.words.codebook
    points.remember(codebook, scores.labels(prices))
    stats = merged_stats(points, codebook, exact=relaxation == 1.0)
    moved = step(stats, points, codebook, relaxation)
    return moved, follow(prices, codebook, moved, stats.counts, relaxation)


def follow(
    prices: Tensor,
    before: Tensor,
    after: Tensor,
    counts: Tensor,
    relaxation: float = 1.0,
) -> Tensor:
    """Prices of codewords that went towards the mean of their members.

    Members stay as near as they were, on average. At its old price, a codeword that is
    far from all rows, and only cheap, would get all of them from a place among them.
    The mean squared distance falls by ``1 - (1 - w)^2`` of that to the mean, of which
    the codeword went w times the way.

    Parameters
    ----------
    prices : Tensor of shape (n_codewords,), float64
        Prices that the members come from.

    before, after : Tensor of shape (n_codewords, n_features), float32
        Codewords.

    counts : Tensor of shape (n_codewords,), int64
        Members of each; a codeword without any is free afterwards, and one that was
        free stays so.

    relaxation : float, default=1.0
        How far they went, as a multiple of the way to the mean.

    Returns
    -------
    prices : Tensor of shape (n_codewords,), float64
        Prices of the codewords where they are.
    """
    share = (2 - relaxation) / relaxation
    nearer = share * (after - before).double().square().sum(1)
    return torch.where((counts == 0) | (prices == 0), 0.0, prices + nearer)
