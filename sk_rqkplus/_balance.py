"""Prices that balance one codebook: a power diagram with bounded cell sizes.

For any bounds ``lower <= count <= upper`` there is one price per codeword such that
``argmin_k ||r - c_k||^2 + price_k`` is the assignment of least total distortion within
these bounds (Aurenhammer, Hoffmann and Aronov, "Minkowski-type theorems and
least-squares clustering", Algorithmica 1998). The prices are found in two steps:
Newton's method on an entropic dual brings the counts close to the bounds, then single
rows move along cheapest paths until every count is within them.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from sk_rqkplus._nearest import Codewords, best_two, tile_rows
from sk_rqkplus._threads import (
    block_rows,
    chunk_rows,
    fill_chunks,
    map_chunks,
    one_thread,
    run_chunks,
    scratch,
    split_rows,
)

Result = TypeVar("Result")
Moments = tuple[Tensor, ...]

# Tables of scores up to this size are kept, larger ones computed again: where rows are
# in memory, and where they are read from a file and memory is to stay small.
CACHED_SCORES, CACHED_SCORES_OF_A_FILE = 2**28, 2**26
# Temperatures are in units of the mean gap between the two nearest codewords: prices
# are annealed from warm, and the coldest temperature leaves so many rows of a codeword
# undecided.
WARM, COOLING, UNDECIDED_ROWS = 8.0, 0.25, 2.0
# Largest excess, as a share of a codeword's rows, at which it gets cooler or warmer.
SETTLED, LOOSE, UNSETTLED, MOST_STEPS = 0.1, 1.0, 8.0, 60
# Largest excess, in rows, before the last step.
LAST_ROWS = 16
# Steps are in units of the temperature. A codeword has overshot if so large a share of
# its excess turns into one of the other sign.
DAMPING, LEAST_HESITATION, LONGEST_STEP, OVERSHOT = 0.05, 0.3, 4.0, 0.25
# Excess, as a share of a codeword's rows, that Newton's method has failed at.
LONELY, FETCH_ROUNDS = 0.05, 3
# Above so many codewords Newton's matrix costs more than it saves. It is computed from
# so many rows, of those whose largest share is less than this.
NEWTON_CODEWORDS, CURVATURE_ROWS, DECIDED = 1024, 2**14, 1 - 1e-4
# Rows per codeword that may move in the end, those of least margin, and that counts
# are decided by.
MOVABLE_ROWS, MOST_MOVABLE, NEAR_ROWS = 64, 2**25, 16
# Values of rows in float64 that are taken at a time.
EXACT_VALUES = 2**23
ROUNDS, PATIENCE, CENTRING_ROUNDS = 8, 2, 30


def capacities(n_rows: int, n_codewords: int, tol: float) -> tuple[int, int]:
    """Bounds of the count of every codeword.

    Parameters
    ----------
    n_rows, n_codewords : int
        Rows to share out, and codewords to share them among.

    tol : float
        Relative deviation from ``n_rows / n_codewords`` that is allowed.

    Returns
    -------
    lower, upper : int
        ``floor((1 - tol) n / K)`` and ``ceil((1 + tol) n / K)``.
    """
    even = n_rows / n_codewords
    upper = min(np.ceil((1 + tol) * even), n_rows)
    return max(0, int(np.floor((1 - min(tol, 1)) * even))), int(upper)


class Source(Protocol):
    """Rows, rounded to float32 or exact; ``kept`` tells whether they are in memory."""

    @property
    def kept(self) -> bool: ...

    def __len__(self) -> int: ...

    def take(self, index: slice | Tensor) -> Tensor:
        """Rows in float32."""

    def exact(self, index: Tensor) -> Tensor:
        """Rows in float64."""


@dataclass
class Selection:
    """Every so many of the rows that are not in a crowd.

    Attributes
    ----------
    n_rows : int
        Number of all rows.
    crowd : ndarray of shape (n_crowd,), int64
        Numbers of the rows that are left out, ascending.
    stride : int
        One of so many of the other rows is selected.
    """

    n_rows: int
    crowd: np.ndarray
    stride: int = 1

    def __len__(self) -> int:
        return -(-(self.n_rows - len(self.crowd)) // self.stride)

    def inside(self, start: int, stop: int) -> np.ndarray:
        """Numbers of the selected rows between two, counted from the first of them."""
        first, last = np.searchsorted(self.crowd, [start, stop])
        kept = np.delete(np.arange(stop - start), self.crowd[first:last] - start)
        return kept[-(start - first) % self.stride :: self.stride]

    def sizes(self) -> list[int]:
        """Number of the selected rows of every block."""
        starts = np.arange(0, self.n_rows, block_rows(self.n_rows))
        before = starts - np.searchsorted(self.crowd, starts)
        ends = -(-np.append(before, self.n_rows - len(self.crowd)) // self.stride)
        return np.diff(ends).tolist()


def score_rows(n_rows: int, codebook: Tensor) -> int:
    """Rows of a tile of scores, of so many in all; a tile does not cross blocks."""
    tile = tile_rows(len(codebook), codebook.shape[1], codebook.device)
    return min(chunk_rows(n_rows, tile), block_rows(n_rows, codebook.device))


class Scores:
    """Squared distances of rows to codewords, up to a term per row, in float32.

    Tiles of scores are added up block by block, and the blocks in their order: whoever
    owns whole blocks gets the bits of a machine that owns all of them.

    Parameters
    ----------
    source : Source
        Where the rows come from.

    codebook : Tensor of shape (n_codewords, n_features), float32
        The codewords.

    index : Tensor of shape (n_rows,), int64, optional
        Which rows to share out; None means all.

    sizes : list of int, optional
        How many of these rows every block has; None parts all rows into blocks.

    n_tile : int, optional
        Rows of a tile, where these rows are a block of more of them. Its scores are
        needed once and not kept.
    """

    def __init__(
        self,
        source: Source,
        codebook: Tensor,
        index: Tensor | None = None,
        *,
        sizes: list[int] | None = None,
        n_tile: int | None = None,
    ):
        self.source, self.words, self.index = source, Codewords(codebook), index
        if sizes is None:
            n_rows = len(source) if index is None else len(index)
            blocks = split_rows(n_rows, block_rows(n_rows, codebook.device))
            sizes = [block.stop - block.start for block in blocks]
        self.n_rows = sum(sizes)
        self.n_tile = n_tile or score_rows(self.n_rows, codebook)
        starts = np.cumsum([0, *sizes]).tolist()
        self.tiles: list[slice] = []
        self.block_of: list[int] = []
        for number, (start, size) in enumerate(zip(starts, sizes, strict=False)):
            tiles = split_rows(size, self.n_tile)
            self.tiles += [slice(t.start + start, t.stop + start) for t in tiles]
            self.block_of += [number] * len(tiles)
        self.cache: dict[int, Tensor] = {}
        most = CACHED_SCORES if self.source.kept else CACHED_SCORES_OF_A_FILE
        if n_tile is None and self.n_rows * len(self.words) <= most:
            computed = self._run(self._compute)
            self.cache = dict(zip([t.start for t in self.tiles], computed, strict=True))

    def __len__(self) -> int:
        return self.n_rows

    def _compute(self, tile: slice) -> Tensor:
        rows = self.source.take(tile if self.index is None else self.index[tile])
        book = self.words.codebook
        return torch.addmm(self.words.offsets, rows, book.T, alpha=-2)

    def exact_rows(self, index: Tensor) -> Tensor:
        """Rows in float64.

        Parameters
        ----------
        index : Tensor of shape (n_rows,), int64
            Which of the rows to share out.

        Returns
        -------
        rows : Tensor of shape (n_rows, n_features), float64
            Rows.
        """
        return self.source.exact(index if self.index is None else self.index[index])

    def typical_gap(self) -> float:
        """Mean gap between the best two codewords over the first rows."""
        return _mean_gap(self._scores(self.tiles[0]))

    def _run(self, function: Callable[[slice], Result]) -> Iterator[Result]:
        return run_chunks(function, self.tiles, self.words.codebook.device)

    def total(
        self, function: Callable[..., Moments], prices: Tensor, *args: float
    ) -> Moments:
        """Add up what a function returns for the scores of every tile.

        Parameters
        ----------
        function : callable
            Maps scores of shape (n_rows, n_codewords), which it may overwrite, and
            further arguments to a tuple of float64 tensors.

        prices : Tensor of shape (n_codewords,), float64
            Added to the scores.

        *args : float
            Further arguments.

        Returns
        -------
        total : tuple of Tensor
            Sums.
        """
        parts = self._run(self._priced(function, prices, args))
        blocks = groupby(zip(self.block_of, parts, strict=True), key=itemgetter(0))
        return add_up(add_up(part for _, part in block) for _, block in blocks)

    def join(
        self, function: Callable[..., Tensor], prices: Tensor, *args: int
    ) -> Tensor:
        """Concatenate what a function returns for the scores of every tile.

        Parameters
        ----------
        function : callable
            Maps scores of shape (n_rows, n_codewords), which it may overwrite, and
            further arguments to a tensor of as many rows.

        prices : Tensor of shape (n_codewords,), float64
            Added to the scores.

        *args : int
            Further arguments.

        Returns
        -------
        joined : Tensor of shape (n_rows, ...)
            Results in the order of the rows.
        """
        priced = self._priced(function, prices, args)
        return fill_chunks(priced, self.tiles, self.words.codebook.device)

    def _scores(self, tile: slice, added: Tensor | float = 0.0) -> Tensor:
        """Scores of a tile, to be overwritten."""
        if not self.cache:
            return self._compute(tile).add_(added)
        cached = self.cache[tile.start]
        scores = scratch("scores", cached.shape, cached.device)
        return torch.add(cached, added, out=scores)

    def _priced(
        self, function: Callable[..., Result], prices: Tensor, args: tuple
    ) -> Callable[[slice], Result]:
        added = prices.float()
        return lambda tile: function(self._scores(tile, added), *args)

    def labels(self, prices: Tensor) -> Tensor:
        """Codeword of least score, up to rounding.

        Parameters
        ----------
        prices : Tensor of shape (n_codewords,), float64
            Added to the scores.

        Returns
        -------
        labels : Tensor of shape (n_rows,), int64
            Labels.
        """
        return self.margins(prices)[0]

    def margins(self, prices: Tensor) -> tuple[Tensor, Tensor]:
        """Labels, and how far off the runner-up is.

        Parameters
        ----------
        prices : Tensor of shape (n_codewords,), float64
            Added to the scores.

        Returns
        -------
        labels : Tensor of shape (n_rows,), int64
            Labels, up to rounding.

        margins : Tensor of shape (n_rows,), float32
            Difference of the two least scores.
        """
        labels, margin = self.join(_margins, prices).unbind(dim=1)
        return labels.long(), margin.float()


def _margins(tile: Tensor) -> Tensor:
    """Labels of a tile, and how far off the runner-up is."""
    labels, best, next_best = best_two(tile)
    return torch.stack([labels.double(), (next_best - best).double()], dim=1)


def _mean_gap(tile: Tensor) -> float:
    """Mean gap between the best two codewords."""
    _, best, next_best = best_two(tile)
    gap = float((next_best - best).mean())
    return gap if 1e-30 < gap < np.inf else 1e-30


def add_up(parts: Iterable[Moments]) -> Moments:
    """Sums of tuples of tensors, in their order."""
    total: Moments = ()
    for part in parts:
        pairs = zip(total, part, strict=True)
        total = tuple(a + b for a, b in pairs) if total else part
    return total


@dataclass
class Bounds:
    """Bounds of the counts, and which of them prices ask for.

    A price above zero asks for ``upper`` rows, one below zero for ``lower``, and a
    price of zero for anything between (complementary slackness).
    """

    n_rows: int
    n_codewords: int
    tol: float = 0.0
    lower: int = field(init=False)
    upper: int = field(init=False)

    def __post_init__(self) -> None:
        self.lower, self.upper = capacities(self.n_rows, self.n_codewords, self.tol)

    def anchor(self, prices: np.ndarray) -> np.ndarray:
        """Shift prices, which moves no row, so that what they ask for can add up."""
        if (prices == 0).any() and self._asked(prices, 0) <= self.n_rows <= self._asked(
            prices, 1
        ):
            return prices
        # The codeword in order of price at which upper turns into lower bounds.
        room = self.n_rows - self.lower * self.n_codewords
        n_upper = int(room // max(self.upper - self.lower, 1))
        ordered = np.sort(prices)[::-1]
        return prices - ordered[min(n_upper, self.n_codewords - 1)]

    def _asked(self, prices: np.ndarray, at_zero: int) -> int:
        upper = (prices > 0) | ((prices == 0) & bool(at_zero))
        return int(np.where(upper, self.upper, self.lower).sum())

    def excess(self, prices: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """What the counts have beyond what the prices ask for."""
        return counts - self.wanted(prices, counts)

    def wanted(self, prices: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Counts that the prices ask for, as near as possible to some counts."""
        free = np.clip(counts, self.lower, self.upper)
        asked = np.where(prices > 0, self.upper, self.lower)
        return np.where(prices == 0, free, asked)

    def error(self, excess: np.ndarray) -> float:
        """Largest excess, relative to an equal share of the rows."""
        return float(np.abs(excess).max() * self.n_codewords / self.n_rows)

    def violation(self, counts: np.ndarray) -> int:
        """By how much counts are outside of the bounds, in total."""
        beyond = np.maximum(counts - self.upper, 0) + np.maximum(self.lower - counts, 0)
        return int(beyond.sum())

    def gap(self, prices: np.ndarray, counts: np.ndarray) -> float:
        """Duality gap of an assignment of least score at such prices."""
        above, below = np.maximum(prices, 0), np.maximum(-prices, 0)
        slack = above * (self.upper - counts) + below * (counts - self.lower)
        return float(slack.sum())


def lower_imbalance(
    scores: Scores,
    prices: Tensor | None,
    tol: float,
    n_before: int = 0,
    *,
    loose: bool = False,
) -> Tensor:
    """Prices that bring the counts close to their bounds.

    At temperature t row i asks for codeword k with probability
    ``softmax_k(-(D_ik + p_k) / t)``. The expected counts are the gradient of a smooth
    concave function of the prices, whose maximum is found by Newton's method while t
    falls.

    Parameters
    ----------
    scores : Scores
        Rows and codewords.

    prices : Tensor of shape (n_codewords,), float64 or None
        Where to start; None anneals from zero.

    tol : float
        Relative deviation from equal counts that is allowed.

    n_before : int, optional
        Number of rows that the prices come from.

    loose : bool, default=False
        Cool down early, for prices of codewords that will move again.

    Returns
    -------
    prices : Tensor of shape (n_codewords,), float64
        Improved prices.
    """
    n_codewords = len(scores.words)
    bounds = Bounds(len(scores), n_codewords, tol)
    gap = scores.typical_gap()
    warmest, coldest = WARM, min(0.1, UNDECIDED_ROWS * n_codewords / len(scores))
    if prices is None:
        prices, heat = torch.zeros_like(scores.words.prices), warmest
    else:
        # Counts of m rows are off by about sqrt(m), which is as far as to look.
        heat = max(coldest, min(1.0, np.sqrt(n_codewords / max(n_before, 1))))
    settled = finished = LOOSE if loose else SETTLED
    if not loose:
        finished = min(settled, LAST_ROWS * n_codewords / len(scores))
    newton = _Newton(n_codewords, steady=not loose)
    step = newton if n_codewords <= NEWTON_CODEWORDS else _ascent
    for _ in range(MOST_STEPS):
        prices, error = step(scores, prices, heat * gap, bounds)
        # Newton's method converges from nearby: cool down only when it has.
        if error < (settled if heat > coldest else finished):
            if heat <= coldest:
                break
            heat = max(heat * COOLING, coldest)
        elif error > UNSETTLED:
            heat = min(heat / COOLING, warmest)
    return prices if loose else _fetch(scores, prices, bounds)


def _fetch(scores: Scores, prices: Tensor, bounds: Bounds) -> Tensor:
    """Set the prices of lonely codewords one by one, to the row.

    No row hesitates about a codeword that is far from all others, so that Newton's
    method does not see what its price should be.
    """
    for _ in range(FETCH_ROUNDS):
        found = prices.cpu().numpy().copy()
        labels = scores.labels(prices)
        counts = torch.bincount(labels, minlength=len(found)).cpu().numpy()
        excess = bounds.excess(found, counts)
        lonely = np.flatnonzero(np.abs(excess) > 4 + LONELY * len(scores) / len(found))
        for cell in lonely.tolist():
            distances = scores.join(_distance_to, prices, cell)
            wanted = int(counts[cell] - excess[cell])
            near = distances.topk(wanted + 1, largest=False).values
            prices[cell] -= near[-2:].double().mean()
        if len(lonely) == 0:
            break
        prices = torch.as_tensor(
            bounds.anchor(prices.cpu().numpy()), device=prices.device
        )
    return prices


def _distance_to(tile: Tensor, cell: int) -> Tensor:
    """How far every row is from a cell: below zero inside of it."""
    mine = tile[:, cell].clone()
    tile[:, cell] = torch.inf
    return mine - tile.amin(dim=1)


class _Newton:
    """Steps of Newton's method, shorter ones for codewords that overshoot.

    Parameters
    ----------
    n_codewords : int
        Number of prices.

    steady : bool
        Whether codewords that overshoot take shorter steps; two of them may hand rows
        back and forth for ever.
    """

    def __init__(self, n_codewords: int, steady: bool):
        self.steady = steady
        self.longest = np.full(n_codewords, LONGEST_STEP)
        self.excess = np.zeros(n_codewords)

    def __call__(
        self, scores: Scores, prices: Tensor, temperature: float, bounds: Bounds
    ) -> tuple[Tensor, float]:
        """Prices after a step, and the imbalance that it started from."""
        most = CURVATURE_ROWS / len(scores)
        total = scores.total(_moments, prices, temperature, most)
        before, counts, matrix = (each.cpu().numpy() for each in (prices, *total))
        excess = bounds.excess(before, counts)
        if self.steady:
            self._shorten(excess)
        active = np.flatnonzero((before != 0) | (excess != 0))
        # Codewords that hardly anyone hesitates about would be thrown far off.
        matrix[np.diag_indices_from(matrix)] *= 1 + DAMPING
        matrix[np.diag_indices_from(matrix)] += LEAST_HESITATION
        with one_thread():
            step = torch.linalg.solve(
                torch.from_numpy(matrix[np.ix_(active, active)]),
                torch.from_numpy(excess[active]),
            ).numpy()
        moved, longest = before.copy(), self.longest[active]
        moved[active] += temperature * np.clip(step, -longest, longest)
        moved = bounds.anchor(np.where(moved * before < 0, 0.0, moved))
        return torch.as_tensor(moved, device=prices.device), bounds.error(excess)

    def _shorten(self, excess: np.ndarray) -> None:
        turned = -excess * self.excess > OVERSHOT * np.square(self.excess)
        longer = np.minimum(2 * self.longest, LONGEST_STEP)
        self.longest = np.where(turned, self.longest / 2, longer)
        self.excess = excess


def _moments(tile: Tensor, temperature: float, most: float) -> Moments:
    """Expected counts of the codewords at a temperature, and how prices change them.

    The latter by the rows that hesitate, or a share of ``most`` of all: others have no
    say, and the product would take most of the time.
    """
    share = scratch("shares", tile.shape, tile.device)
    torch.softmax(tile.mul_(-1 / temperature), dim=1, out=share)
    # Subnormal numbers would slow the product tenfold.
    torch.threshold_(share, 1e-12, 0.0)
    hesitant = torch.nonzero(share.amax(1) < DECIDED).squeeze(1)
    few = hesitant[:: max(1, int(len(hesitant) / (most * len(share))))]
    weight = len(hesitant) / max(1, len(few))
    some = share[few]
    diagonal = some.sum(0).diag()
    curvature = torch.addmm(diagonal, some.T, some, beta=weight, alpha=-weight)
    return share.sum(0).double(), curvature.double()


def soft_counts(tile: Tensor, temperature: float) -> Moments:
    """Expected counts of the codewords at a temperature."""
    share = torch.softmax(tile.mul_(-1 / temperature), dim=1)
    return (share.sum(0, dtype=torch.float64),)


def _ascent(
    scores: Scores, prices: Tensor, temperature: float, bounds: Bounds
) -> tuple[Tensor, float]:
    """A step of ascent, for codebooks too large for Newton's matrix.

    ``p_k + t log(n_k / b)`` would bring the expected count n_k to b, if all other
    prices stayed.
    """
    (total,) = scores.total(soft_counts, prices, temperature)
    before, counts = prices.cpu().numpy(), total.clamp_(min=1e-3).cpu().numpy()
    wanted = bounds.wanted(before, counts)
    moved = before + temperature * np.log(counts / np.maximum(wanted, 1e-3))
    moved = bounds.anchor(np.where(moved * before < 0, 0.0, moved))
    error = bounds.error(counts - wanted)
    return torch.as_tensor(moved, device=prices.device), error


def fixed_point_distances(
    rows: Tensor, codebook: Tensor, *, fine: bool = True
) -> np.ndarray:
    """Squared distances, up to a term per row, that do not depend on other rows.

    Numbers are split into two integers, small enough for sums of their products to be
    exact in float64. Whatever order a product adds in, copies of a row get the same
    distances, to the last bit, whatever the other rows are.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n_features), float64
        Rows.

    codebook : Tensor of shape (n_codewords, n_features), float32
        The codewords.

    fine : bool, default=True
        To about 2^-40 of the lengths of row and codeword. If not, to 2^-18, by the
        first integers alone and in a third of the time.

    Returns
    -------
    distances : ndarray of shape (n_rows, n_codewords), float64
        ``||c_k||^2 - 2 r.c_k``.
    """
    bits = (52 - int(np.ceil(np.log2(2 * rows.shape[1])))) // 2

    def split(values: Tensor, dim: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Two integers for each number, and the unit of the first one."""
        largest = values.abs().amax(dim, keepdim=True).double().clamp(min=1e-300)
        # By NumPy, whose powers of two are exact.
        _, exponent = np.frexp(largest.cpu().numpy())
        unit = torch.from_numpy(np.ldexp(1.0, exponent + 1 - bits)).to(values.device)
        values = values.double() / unit
        high = values.round()
        return high, ((values - high) * 2.0**bits).round_(), unit

    # A unit of its own for each codeword and each row.
    high, low, unit = split(codebook, (1,))
    cross = torch.cat([low, high], dim=1)
    norms = codebook.double().square().sum(1)

    def distances(tile: slice) -> np.ndarray:
        tile_high, tile_low, tile_unit = split(rows[tile], (1,))
        product = tile_high @ high.T
        if fine:
            both = torch.cat([tile_high, tile_low], dim=1)
            product += (both @ cross.T) * 2.0**-bits
        return (norms - 2 * product * (tile_unit * unit.T)).cpu().numpy()

    step = tile_rows(len(codebook), rows.shape[1], rows.device)
    return np.concatenate(list(map_chunks(distances, len(rows), step, rows.device)))


def exact_prices(scores: Scores, prices: Tensor, tol: float) -> tuple[Tensor, float]:
    """Prices under which every count is within its bounds, to the last row.

    Parameters
    ----------
    scores : Scores
        Rows and codewords.

    prices : Tensor of shape (n_codewords,), float64
        Prices close to balance.

    tol : float
        Relative deviation from equal counts that is allowed.

    Returns
    -------
    prices : Tensor of shape (n_codewords,), float64
        Balanced prices, in the middle of what the rows leave open.

    gap : float
        Duality gap: how far the total distortion is from the least possible one at
        most.
    """
    n_codewords = len(scores.words)
    bounds = Bounds(len(scores), n_codewords, tol)
    found = prices.cpu().numpy()
    best, table, parted = (np.inf, found, 0.0), None, False
    most = max(MOST_MOVABLE // n_codewords, 64)
    for turn in range(ROUNDS):
        if turn:
            # Rounding can only have moved rows of the least margins.
            n_near = max(NEAR_ROWS * n_codewords, len(scores) // 256)
            cells, _ = _open_cells(scores, found, bounds, min(n_near, most), table)
            violation = bounds.violation(cells.counts)
            if violation < best[0]:
                best = (violation, found, bounds.gap(found, cells.counts))
            if violation == 0:
                break
            # The next ones take as much memory.
            del cells
        n_movable = max(MOVABLE_ROWS * n_codewords << turn, len(scores) // 256)
        cells, reach = _open_cells(scores, found, bounds, min(n_movable, most), table)
        cells.repair(together=parted)
        parted |= cells.parted
        found = cells.centred_prices(reach)
        table = cells.table if np.isinf(reach) else None
        del cells
    return torch.as_tensor(best[1], device=prices.device), best[2]


def _open_cells(
    scores: Scores,
    prices: np.ndarray,
    bounds: Bounds,
    n_movable: int,
    table: np.ndarray | None,
) -> tuple["Cells", float]:
    """Cells at some prices, with the rows of least margin free to move."""
    if table is not None:
        return Cells(
            table, np.zeros(len(prices), dtype=np.int64), bounds, prices
        ), np.inf
    n_codewords = len(prices)
    device = scores.words.prices.device
    labels, margins = scores.margins(torch.as_tensor(prices, device=device))
    reach = np.inf
    if n_movable < len(scores):
        reach = float(margins.kthvalue(n_movable).values)
    movable = torch.nonzero(margins <= reach).squeeze(1)
    table = np.empty((len(movable), n_codewords))
    # A part at a time: rows in float64 may take many times what the table does.
    step = max(1, EXACT_VALUES // max(scores.words.codebook.shape))
    for start in range(0, len(movable), step):
        part = slice(start, start + step)
        rows = scores.exact_rows(movable[part])
        table[part] = fixed_point_distances(rows, scores.words.codebook)
    fixed = torch.bincount(labels, minlength=n_codewords)
    fixed -= torch.bincount(labels[movable], minlength=n_codewords)
    return Cells(table, fixed.cpu().numpy(), bounds, prices), reach


class Cells:
    """The cells of a power diagram while single rows move between them.

    Nodes of a graph are the codewords and one more that stands for the bounds.
    ``frontier[k, l]`` is the least increase of distance at which a row of cell k could
    move to cell l; moving on to the last node tells that cell k keeps one row more.
    Prices are valid as long as ``p_k <= p_l + frontier[k, l]``.

    Parameters
    ----------
    table : ndarray of shape (n_rows, n_codewords), float64
        Squared distances of the rows that may move.

    fixed : ndarray of shape (n_codewords,), int64
        Number of other rows in every cell, which stay.

    bounds : Bounds
        Bounds of the counts.

    prices : ndarray of shape (n_codewords,), float64
        Where to start.
    """

    def __init__(
        self,
        table: np.ndarray,
        fixed: np.ndarray,
        bounds: Bounds,
        prices: np.ndarray,
    ):
        n_codewords = len(prices)
        self.table, self.fixed, self.bounds = table, fixed, bounds
        self.start, self.parted = prices, False
        self.prices = np.append(prices, 0.0)
        labels = (table + prices).argmin(axis=1)
        order = np.argsort(labels, kind="stable")
        inside = np.bincount(labels, minlength=n_codewords)
        self.members = np.split(order, np.cumsum(inside)[:-1])
        self.kept = bounds.wanted(prices, fixed + inside).astype(np.int64)
        self.frontier = np.full((n_codewords + 1, n_codewords + 1), np.inf)
        for cell in range(n_codewords):
            self._update(cell)

    @property
    def counts(self) -> np.ndarray:
        """Number of rows in every cell."""
        return self.fixed + np.fromiter(map(len, self.members), dtype=np.int64)

    def _update(self, cell: int) -> None:
        """Recompute what leaves a cell."""
        distances = self.table[self.members[cell]]
        increase = distances - distances[:, cell : cell + 1]
        self.frontier[cell, :-1] = increase.min(axis=0, initial=np.inf)
        self._update_ways(cell)

    def _update_ways(self, cell: int) -> None:
        """Whether a cell may keep one row more, or one less."""
        kept = self.kept[cell]
        self.frontier[cell, -1] = 0.0 if kept < self.bounds.upper else np.inf
        self.frontier[-1, cell] = 0.0 if kept > self.bounds.lower else np.inf

    def repair(self, *, together: bool = False) -> None:
        """Move rows along cheapest paths until every count is what prices ask for.

        Successive shortest paths: each step raises prices by the length of the path, so
        that the assignment stays the best one for its own counts.

        Parameters
        ----------
        together : bool, default=False
            Whether copies of a row move together, to counts within the bounds. If not,
            copies are parted where that is optimal, and brought together in the end.
        """
        patience = PATIENCE * len(self.prices) if together else np.inf
        while (excess := self._excess(together)).any() and patience > 0:
            path = self._cheapest_path(excess)
            if path is None:
                break
            self._move(path, together)
            patience -= 1
        if not together:
            self._join_copies()

    def _excess(self, together: bool) -> np.ndarray:
        """Rows that every node has too many."""
        if together:
            self.kept = np.clip(self.counts, self.bounds.lower, self.bounds.upper)
        excess = np.append(self.counts - self.kept, 0)
        excess[-1] = -excess.sum()
        return excess

    def _cheapest_path(self, excess: np.ndarray) -> list[int] | None:
        """Dijkstra from the nodes with too many rows to those with too few.

        Raises the prices of the nodes that it reaches.
        """
        prices, taking = self.prices, excess < 0
        reached = np.where(excess > 0, 0.0, np.inf)
        parent = np.full(len(prices), -1)
        waiting = reached.copy()
        while True:
            node = int(waiting.argmin())
            nearest = waiting[node]
            if not np.isfinite(nearest):
                return None
            if taking[node]:
                break
            waiting[node] = np.inf
            length = np.maximum(self.frontier[node] + prices - prices[node], 0.0)
            through = nearest + length
            # Nodes that are done are not farther than this one.
            shorter = through < reached
            reached[shorter] = waiting[shorter] = through[shorter]
            parent[shorter] = node
        path = [node]
        while parent[path[0]] >= 0:
            path.insert(0, int(parent[path[0]]))
        self.prices = prices + nearest - np.minimum(reached, nearest)
        return path

    def _move(self, path: list[int], together: bool) -> None:
        """Move the nearest row along every edge of a path."""
        last, moving = len(self.prices) - 1, []
        for origin, target in zip(path[:-1], path[1:], strict=True):
            if target == last:
                self.kept[origin] += 1
            elif origin == last:
                self.kept[target] -= 1
            else:
                members = self.members[origin]
                increase = self.table[members, target] - self.table[members, origin]
                at = np.flatnonzero(increase == increase.min())
                moving.append((origin, at if together else at[:1], target))
        for origin, at, target in moving:
            rows = self.members[origin][at]
            self.members[origin] = np.delete(self.members[origin], at)
            self._after_leaving(origin, rows)
            self.members[target] = np.append(self.members[target], rows)
            increase = self.table[rows] - self.table[rows, target][:, None]
            np.minimum(
                self.frontier[target, :-1],
                increase.min(axis=0),
                out=self.frontier[target, :-1],
            )
        for cell in set(path) - {last}:
            self._update_ways(cell)

    def _after_leaving(self, cell: int, rows: np.ndarray) -> None:
        """Recompute the least increases of a cell that some rows had."""
        increase = self.table[rows] - self.table[rows, cell][:, None]
        columns = np.flatnonzero((increase == self.frontier[cell, :-1]).any(axis=0))
        members = self.members[cell]
        left = self.table[np.ix_(members, columns)] - self.table[members, cell][:, None]
        self.frontier[cell, columns] = left.min(axis=0, initial=np.inf)

    def _join_copies(self) -> None:
        """Bring copies of a row together again, where the counts suit best.

        Copies that were parted are indifferent between their cells, and a small change
        of prices moves all of them to one side. Where a row has many copies, the counts
        may end outside of their bounds by as many.
        """
        label = np.empty(len(self.table), dtype=np.int64)
        for cell, members in enumerate(self.members):
            label[members] = cell
        for copies in _copies(self.table):
            choices = np.unique(label[copies])
            if len(choices) == 1:
                continue
            self.parted = True
            counts = self.counts - np.bincount(label[copies], minlength=len(self.kept))
            trials = counts + len(copies) * np.eye(len(counts), dtype=int)[choices]
            costs = [
                (self.bounds.violation(trial), self.bounds.gap(self.prices[:-1], trial))
                for trial in trials
            ]
            label[copies] = choices[costs.index(min(costs))]
            for cell in choices:
                self.members[cell] = np.flatnonzero(label == cell)
                self._update(cell)
        self.kept = np.clip(self.counts, self.bounds.lower, self.bounds.upper)
        for cell in range(len(self.kept)):
            self._update(cell)

    def centred_prices(self, reach: float) -> np.ndarray:
        """Prices in the middle of the intervals that their cells allow.

        A solution of a transport problem sits where some rows are indifferent between
        two cells; in the middle no row is, and rounding cannot tip it over.

        Parameters
        ----------
        reach : float
            Least margin of the rows that stay, at the prices that they stay at.

        Returns
        -------
        prices : ndarray of shape (n_codewords,), float64
            Prices relative to that of the last node.
        """
        frontier, prices = self.frontier.copy(), self.prices.copy()
        if np.isfinite(reach):
            still = reach + self.start[:, None] - self.start
            still[self.fixed == 0] = np.inf
            np.minimum(frontier[:-1, :-1], still, out=frontier[:-1, :-1])
        np.fill_diagonal(frontier, np.inf)
        # Room spreads by one edge a round along chains of indifferent rows.
        for _ in range(len(prices) + CENTRING_ROUNDS):
            high = (frontier + prices).min(axis=1)
            low = (prices[:, None] - frontier).max(axis=0)
            middle = np.isfinite(high) & np.isfinite(low) & (high >= low)
            room = np.minimum(high - prices, prices - low)[middle]
            if len(room) == 0 or room.min() > 0.01 * np.median(room):
                break
            centre = (high[middle] + low[middle]) / 2
            prices[middle] += (centre - prices[middle]) / 2
        return prices[:-1] - prices[-1]


def _copies(table: np.ndarray) -> list[np.ndarray]:
    """Groups of equal rows of a table."""
    sums = table.sum(axis=1)
    order = np.argsort(sums, kind="stable")
    equal = sums[order[1:]] == sums[order[:-1]]
    # Of equal sums are copies, and few other rows: only these are copied to look.
    near = np.flatnonzero(equal)
    equal[near] = (table[order[near + 1]] == table[order[near]]).all(axis=1)
    groups = np.split(order, np.flatnonzero(~equal) + 1)
    return [group for group in groups if len(group) > 1]
