"""Fit one codebook: k-means++, Lloyd iterations, prices.

Labels are exact (``_nearest``) and sums are taken in a fixed order, so that a codebook
does not depend on the number of threads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce

import numpy as np
import torch
from torch import Tensor

from sk_rqkplus._balance import capacities, lower_imbalance
from sk_rqkplus._cells import MANY_ROWS, MOST_MOVABLE, exact_prices
from sk_rqkplus._journal import NO_JOURNAL, Journal
from sk_rqkplus._members import Stats, member_sums
from sk_rqkplus._nearest import Codewords, nearest
from sk_rqkplus._outline import LEAST_CODEWORDS, LEAST_FEATURES
from sk_rqkplus._points import Points
from sk_rqkplus._residual import Leftover
from sk_rqkplus._rounding import row_sums
from sk_rqkplus._scores import (
    CACHED_SCORES,
    CACHED_SCORES_OF_A_FILE,
    LISTED_BYTES,
    LISTED_BYTES_OF_A_FILE,
    Scores,
    Selection,
)
from sk_rqkplus._swaps import swap
from sk_rqkplus._threads import join_chunks, one_thread

CHUNK_ROWS = 16_384
# Lloyd begins on so many rows per codeword, in so many leading directions, and goes on
# in all directions on so many, where rows are at least twice as many.
COARSE_ROWS, COARSE_FEATURES = 128, 64
SAMPLE_ROWS, MOST_SAMPLE_ROWS = 512, 2**20
# Codewords that rounding alone keeps from the means have settled: what is left is such
# a share of the sum of squares.
LEAST_TOL = 1e-12
# Codewords change places so often in the coarse stage, after so many iterations each.
SWAP_ROUNDS, SWAP_EVERY = 4, 3
# How far codewords go towards the means of their members; 1 is Lloyd's step. A factor
# between 0 and 2 lowers the inertia; this ends 0.6 % lower after as many iterations.
RELAXATION = 1.5
# k-means++ looks at so many rows and directions.
INIT_ROWS, INIT_FEATURES = 4096, 16
# Rows that the leading directions are found from.
BASIS_ROWS = 4096
# Balanced Lloyd iterations, how many of them look at all rows in the end, and rows per
# codeword that the others look at, and that are all rows.
BALANCED_ITERATIONS, LAST_ITERATIONS = 9, 3
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
# Values of an outline of a row, of most levels or more.
OUTLINE_VALUES = 160
# Bytes per row of labels, and of codes, IDs, catalogue and what they are sorted with.
LABEL_BYTES, ID_BYTES, OTHER_BYTES = 24, 130, 2**24


def bytes_to_fit(
    n_rows: int,
    n_features: int,
    n_codewords: int,
    *,
    n_fit: int,
    n_made: int = 0,
    balanced: bool = True,
) -> int:
    """Memory that a fit allocates at its peak, within a factor of about 1.5.

    Residuals in float32, and what they are along few directions; of a balanced level
    the table of scores, or lists of what is near where it is large, that of the rows
    that may move in the end, and those of ways between codewords; and chunks that
    threads work on. Weights are fitted to 26 peaks that were measured.

    Parameters
    ----------
    n_rows : int
        Rows to encode.

    n_features : int
        Their values.

    n_codewords : int
        Size of the largest codebook.

    n_fit : int
        Rows that are drawn to fit on; if fewer, residuals of all are not kept.

    n_made : int, default=0
        Rows that are made from these.

    balanced : bool, default=True
        Whether a level is.

    Returns
    -------
    n_bytes : int
        What the rows themselves take is not part of it.
    """
    n_seen = n_made or n_fit
    chunk = min(n_seen, CHUNK_ROWS)
    residuals = 2 * n_fit + 4 * n_made + 3.5 * chunk
    needed = 4 * (residuals * n_features + 3 * chunk * n_codewords)
    if n_features >= LEAST_FEATURES and n_codewords >= LEAST_CODEWORDS:
        needed += 4 * OUTLINE_VALUES * n_seen
    kept = n_fit == n_rows
    if balanced:
        needed += _bytes_to_balance(n_rows, n_seen, kept, n_codewords)
    ids = ID_BYTES * n_rows
    # Without residuals that are kept, IDs are given when all else is gone.
    needed = needed + ids if kept else max(needed + LABEL_BYTES * n_rows, ids)
    return int(needed + OTHER_BYTES)


def _bytes_to_balance(n_rows: int, n_seen: int, kept: bool, n_codewords: int) -> int:
    """What balance takes of that."""
    memory = CACHED_SCORES, LISTED_BYTES
    of_all = memory if kept else (CACHED_SCORES_OF_A_FILE, LISTED_BYTES_OF_A_FILE)
    n_few, n_more = BALANCED_ROWS * n_codewords, MOST_BALANCED_ROWS * n_codewords
    tables = (min(n_seen, n_few), memory), (min(n_seen, n_more), memory)
    scores = max(
        8 * rows * n_codewords if rows * n_codewords <= most else listed
        for rows, (most, listed) in (*tables, (n_rows, of_all))
    )
    movable = min(n_rows * n_codewords, MOST_MOVABLE)
    return scores + 12 * movable + 24 * n_codewords**2


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
        Sum of squared distances at the last of them.
    n_rows : int, default=0
        Number of rows that the prices come from.
    gap : float, default=0.0
        Duality gap of the prices, relative to the inertia.
    """

    codebook: Tensor
    prices: Tensor
    n_iter: int
    inertia: float
    n_rows: int = 0
    gap: float = 0.0


def partial_stats(
    points: Points,
    codebook: Tensor,
    prices: Tensor | None = None,
    *,
    exact: bool = True,
) -> Stats:
    """Sums and counts of the members of every codeword in one block of rows.

    Parameters
    ----------
    points : Points
        Rows of a block.

    codebook : Tensor of shape (n_codewords, n_features), float32
        The codewords, to the nearest of which a row belongs.

    prices : Tensor of shape (n_codewords,), float64, optional
        Added to the squared distances; None means zero.

    exact : bool, default=True
        See :func:`member_sums`.

    Returns
    -------
    stats : Stats
        Float64, added in the order of the rows.
    """
    labels = points.assign(codebook, prices)
    return member_sums(points.rows, labels, len(codebook), exact=exact)


def sum_of_squares(points: Points) -> float:
    """Sum of the squares of all values in float64, the same for any thread count."""
    return float(sum(points.map(_squares)))


def _squares(points: Points) -> float:
    parts = points.rows.split(CHUNK_ROWS // 8)
    return float(sum(part.double().square().sum() for part in parts))


@one_thread()
def fit_codebook(
    points: Points,
    size: int,
    rng: np.random.RandomState,
    *,
    init: str = "k-means++",
    n_init: int = 1,
    max_iter: int = 25,
    tol: float = 1e-4,
    balance_tol: float | None = None,
    tick: Callable[[], object] = lambda: None,
    journal: Journal = NO_JOURNAL,
) -> Level:
    """Learn one codebook.

    Parameters
    ----------
    points : Points
        What the levels before left over, scaled to the order of one.

    size : int
        Number of codewords, at most the number of distinct rows.

    rng : RandomState
        Source of all randomness.

    init : {"k-means++", "random"}, default="k-means++"
        How the first codewords are drawn.

    n_init : int, default=1
        Runs, of which the one with the least inertia is kept.

    max_iter : int, default=25
        Most Lloyd iterations of a run.

    tol : float, default=1e-4
        A run ends when codewords at the means of their members would lower the inertia
        by at most this share.

    balance_tol : float, optional
        Balance the level, with this tolerance; None leaves it unbalanced.

    tick : callable, optional
        Called after every iteration.

    journal : Journal, optional
        Told of every iteration; what it has of this codebook is not computed again.

    Returns
    -------
    level : Level
        The codebook, its prices and how it came about.
    """
    if balance_tol is not None:
        points = _draw(points, min(len(points), MOST_BALANCED_ROWS * size), rng)
    squares = sum_of_squares(points)

    def run(part: Journal) -> Level:
        steps = part.part("iterations")
        start = None
        if not steps.saved:
            start = _start(points, size, rng, init, max_iter, tol)
            early = steps.part("sample")
            start = _on_a_sample(points, start, rng, max_iter, tol, early)
        return lloyd(points, start, max_iter, tol, tick, squares=squares, journal=steps)

    parts = [journal.part(f"run {number}") for number in range(n_init)]
    runs = [part.once(Level, partial(run, part)) for part in parts]
    level = min(runs, key=lambda run: run.inertia)
    if balance_tol is not None and size > 1:
        balance = journal.part("balance")
        level = _balanced(points, level, balance_tol, rng, tick, balance)
    return level


def _start(
    points: Points,
    size: int,
    rng: np.random.RandomState,
    init: str,
    max_iter: int,
    tol: float,
) -> Tensor:
    """Codewords that have settled on a few rows, in their leading directions.

    Where rows are few, directions that are mostly noise have no say in who goes with
    whom.
    """
    sample = _draw(points, min(len(points), COARSE_ROWS * size), rng)
    rows = sample.take(slice(0, len(sample)))
    few = project(rows, leading_directions(rows, COARSE_FEATURES, rng))
    if init == "k-means++":
        chosen = kmeans_plus_plus(few, size, rng)
    else:
        chosen = rng.choice(len(rows), size, replace=False)
    index = torch.as_tensor(chosen, device=rows.device)
    codebook = _settle(Points(few), few[index], max_iter, tol, rng)
    labels = nearest(few, Codewords(codebook))
    if len(rows) == len(points):
        # In all directions, they are a good guess.
        points.remember(codebook, labels)
    stats = member_sums(rows, labels, size, exact=False)
    means, empty = stats.means(), stats.counts == 0
    means[empty] = rows[index[empty]]
    return means


def _settle(
    points: Points,
    codebook: Tensor,
    max_iter: int,
    tol: float,
    rng: np.random.RandomState,
) -> Tensor:
    """Codewords that have settled, after some changed places where that is better."""
    squares = sum_of_squares(points)
    # As many iterations for each, since their errors are compared.
    n_iter = min(SWAP_EVERY, max_iter)
    best = lloyd(points, codebook, n_iter, 0.0, squares=squares)
    for _ in range(SWAP_ROUNDS if len(codebook) > 2 else 0):
        swapped, spared = swap(points, best.codebook, rng)
        if spared <= max(tol * best.inertia, LEAST_TOL * squares):
            break
        level = lloyd(points, swapped, n_iter, 0.0, squares=squares)
        if level.inertia >= best.inertia:
            break
        best = level
    return lloyd(points, best.codebook, max_iter, tol, squares=squares).codebook


def _on_a_sample(
    points: Points,
    codebook: Tensor,
    rng: np.random.RandomState,
    max_iter: int,
    tol: float,
    journal: Journal,
) -> Tensor:
    """Codewords that have settled on some of many rows, which is most of the way."""
    n_rows = min(SAMPLE_ROWS * len(codebook), MOST_SAMPLE_ROWS)
    if len(points) < 2 * n_rows:
        return codebook
    sample = _draw(points, n_rows, rng)
    return lloyd(sample, codebook, max_iter, tol, journal=journal).codebook


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


def _balanced(
    points: Points,
    level: Level,
    balance_tol: float,
    rng: np.random.RandomState,
    tick: Callable[[], object],
    journal: Journal,
) -> Level:
    """Turn an unconstrained codebook into a balanced one.

    Lloyd iterations whose bounds close in little by little, on a sample and in the end
    on all rows: codewords that had to be balanced at once would find no better place
    (0.000747 instead of 0.000720 on a catalogue of 3,686 items). The prices end close
    to balance; ``exact_prices`` finishes them on the rows to encode.
    """
    n_codewords = len(level.codebook)
    few = _draw(points, min(len(points), BALANCED_ROWS * n_codewords), rng)
    state = journal.restore(codebook=level.codebook, prices=None, n_iter=0)
    codebook, prices, done = state["codebook"], state["prices"], state["n_iter"]
    tols = np.linspace(1, 0, BALANCED_ITERATIONS - LAST_ITERATIONS).tolist()
    tols += [0.0] * LAST_ITERATIONS
    for n_iter, tol in enumerate(tols[done:], done + 1):
        relaxation = 1.0 if n_iter == len(tols) else RELAXATION
        sample = few if tol > 0 else points
        scores = Scores(sample, codebook)
        tol = max(tol, balance_tol)
        prices = lower_imbalance(scores, prices, tol, len(few), loose=True)
        codebook, prices = _priced_step(sample, scores, prices, relaxation)
        tick()
        journal.save(codebook=codebook, prices=prices, n_iter=n_iter)
    n_iter = level.n_iter + BALANCED_ITERATIONS
    return Level(codebook, prices, n_iter, level.inertia, len(points))


def _priced_step(
    points: Points, scores: Scores, prices: Tensor, relaxation: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Codewords at the means of their members or beyond, and the prices there."""
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
    gap: float
    crowd: float
    n_beyond: int
    parted: bool


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
    n_rows = len(left) - len(crowd)
    if prices is not None and not prices.any():
        prices = None
    gap, n_beyond, parted, least = 0.0, 0, False, BALANCED_ROWS * len(codebook)
    # Prices of few rows are soon found, and close to those of more.
    sizes = [n_rows]
    while sizes[0] >= 8 * max(least, n_before):
        sizes.insert(0, sizes[0] // 8)
    for size in sizes if n_rows else []:
        selection = Selection(len(left), crowd, n_rows // size)
        if selection.stride < SPARSE:
            scores = left.scores(codebook, selection)
        else:
            few = torch.as_tensor(selection.inside(0, len(left)), device=left.device)
            scores = Scores(Points(left.take(few)), codebook)
        prices = lower_imbalance(scores, prices, tol, n_before)
        n_before = len(scores)
    if prices is None:
        prices = torch.zeros(len(codebook), dtype=torch.float64, device=codebook.device)
    elif exact:
        prices, gap, n_beyond, parted = exact_prices(scores, prices, tol)
    return Balance(prices, gap, len(crowd) / len(left), n_beyond, parted)


def balance_level(
    left: Leftover, level: Level, tol: float, points: Callable[[], Points]
) -> tuple[Level, Balance]:
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

    balance : Balance
        How well it is balanced.
    """
    few, most = None, MOST_BALANCED_ROWS * len(level.codebook)
    tried: list[tuple[Level, Balance]] = []
    while True:
        balance = balance_prices(
            left, level.codebook, tol, level.prices, n_before=level.n_rows
        )
        gap = balance.gap / _error(left, level.codebook) if balance.gap else 0.0
        level = replace(level, prices=balance.prices, gap=gap)
        tried.append((level, balance))
        in_the_way = balance.n_beyond > 0 or level.gap > LARGEST_GAP
        if not balance.parted or not in_the_way or len(tried) == MOST_TRIES:
            break
        if len(left) > MANY_ROWS:
            break
        if few is None:
            rows = points()
            index = torch.arange(0, len(rows), -(-len(rows) // most))
            few = Points(rows.take(index.to(rows.device)))
        scores = Scores(few, level.codebook)
        codebook, prices = _priced_step(few, scores, level.prices, NUDGE)
        n_iter = level.n_iter + 1
        level = replace(level, codebook=codebook, prices=prices, n_iter=n_iter)
    return min(tried, key=lambda one: (one[1].n_beyond, one[1].gap))


def _error(left: Leftover, codebook: Tensor) -> float:
    """Sum of squared distances without balance, of many rows by some of them."""
    rows = left.take(slice(0, len(left), -(-len(left) // MOST_ERRORS)))
    labels = nearest(rows, Codewords(codebook))
    errors = (rows - codebook[labels]).square().sum(1, dtype=torch.float64)
    return max(float(errors.mean()) * len(left), 1e-300)


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


def _draw(points: Points, n_rows: int, rng: np.random.RandomState) -> Points:
    """A random subset of the rows, in their order."""
    if n_rows == len(points):
        return Points(points.take(slice(0, n_rows)))
    index = np.sort(rng.choice(len(points), size=n_rows, replace=False))
    return Points(points.take(torch.as_tensor(index, device=points.device)))


def leading_directions(
    rows: Tensor, n_directions: int, rng: np.random.RandomState
) -> Tensor | None:
    """Orthonormal directions of largest spread, by subspace iteration.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n_features), float32
        Rows; a few thousand of them are looked at.

    n_directions : int
        How many directions.

    rng : RandomState
        Source of the first guess.

    Returns
    -------
    directions : Tensor of shape (n_features, n_directions), float32 or None
        At most as many as there are features; None where these are few.

    References
    ----------
    Halko, Martinsson and Tropp, "Finding structure with randomness", SIAM Review 2011,
    algorithm 4.4.
    """
    n_features = rows.shape[1]
    if n_features <= INIT_FEATURES:
        return None
    # On a CPU: libraries of GPUs do not promise the same bits every time.
    sample = rows[:: max(1, len(rows) // BASIS_ROWS)][:BASIS_ROWS].double().cpu()
    guess = rng.standard_normal((n_features, min(n_features, n_directions + 8)))
    basis = torch.from_numpy(guess)
    for _ in range(3):
        basis = torch.linalg.qr(sample.T @ (sample @ basis)).Q
    image = sample @ basis
    _, order = torch.linalg.eigh(image.T @ image)
    return (basis @ order.flip(1)[:, :n_directions]).float().to(rows.device)


def project(rows: Tensor, directions: Tensor | None) -> Tensor:
    """Coordinates of rows along some directions.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n_features), float32
        Rows.

    directions : Tensor of shape (n_features, n_directions), float32 or None
        None stands for the axes.

    Returns
    -------
    points : Tensor of shape (n_rows, n_directions), float32
        Coordinates.
    """
    if directions is None:
        return rows
    return join_chunks(
        lambda chunk: rows[chunk] @ directions,
        len(rows),
        CHUNK_ROWS // 8,
        rows.device,
    )


def kmeans_plus_plus(
    points: Tensor, size: int, rng: np.random.RandomState
) -> np.ndarray:
    """Greedy k-means++ on a subsample, in the first few coordinates.

    Parameters
    ----------
    points : Tensor of shape (n_rows, n_features), float32
        Rows to draw from, their leading coordinates first.

    size : int
        Number of codewords.

    rng : RandomState
        Source of randomness.

    Returns
    -------
    chosen : ndarray of shape (size,), int64
        Indices of ``size`` different points.

    References
    ----------
    Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", 2007.
    """
    n_rows = min(len(points), max(INIT_ROWS, 4 * size))
    index = np.sort(rng.choice(len(points), size=n_rows, replace=False))
    sample = points[torch.as_tensor(index, device=points.device)]
    columns = sample[:, :INIT_FEATURES].cpu().numpy().T.copy()
    n_trials = int(np.clip(1024 // size, 1, 3))
    chosen = [rng.randint(n_rows)]
    closest = _squared_distances(columns, chosen)[0]
    while len(chosen) < size:
        cumulated = np.cumsum(closest, dtype=np.float64)
        if cumulated[-1] == 0:
            # What is left cannot be told apart in these coordinates.
            rest = np.setdiff1d(np.arange(n_rows), chosen)
            chosen += rng.choice(rest, size - len(chosen), replace=False).tolist()
            break
        draws = rng.random_sample(n_trials) * cumulated[-1]
        candidates = np.searchsorted(cumulated, draws, side="right")
        candidates = np.minimum(candidates, n_rows - 1)
        improved = np.minimum(_squared_distances(columns, candidates), closest)
        best = int(improved.sum(axis=1).argmin())
        chosen.append(int(candidates[best]))
        closest = improved[best]
    return index[chosen]


def _squared_distances(
    columns: np.ndarray, index: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Squared distances of some points to all, by differences: zero for copies."""
    total = np.zeros((len(index), columns.shape[1]), dtype=np.float32)
    for column in columns:
        total += np.square(column - column[index][:, None])
    return total


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
