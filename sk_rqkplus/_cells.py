"""Single rows move along cheapest paths until every count is within its bounds."""

import numpy as np
import torch
from torch import Tensor

from sk_rqkplus._balance import Bounds
from sk_rqkplus._fixed_point import fixed_point_distances
from sk_rqkplus._scores import Scores

# Rows per codeword that may move in the end, those of least margin, and that counts
# are decided by.
MOVABLE_ROWS, MOST_MOVABLE, NEAR_ROWS = 64, 2**25, 16
# Values of rows in float64 that are taken at a time.
EXACT_VALUES = 2**23
ROUNDS, PATIENCE = 8, 2
CENTRING_ROUNDS, ROOM_TRIALS, PATH_ROUNDS = 30, 6, 100


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

        Successive shortest paths: each step raises prices by the length of the paths,
        so that the assignment stays the best one for its own counts.

        Parameters
        ----------
        together : bool, default=False
            Whether copies of a row move together, to counts within the bounds. If not,
            copies are parted where that is optimal, and brought together in the end.
        """
        patience = PATIENCE * len(self.prices) if together else np.inf
        while (excess := self._excess(together)).any() and patience > 0:
            # Copies that moved together may have changed what the next path needs.
            paths = self._cheapest_paths(excess, 1 if together else len(excess))
            if not paths:
                break
            for path in paths:
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

    def _cheapest_paths(self, excess: np.ndarray, most: int) -> list[list[int]]:
        """Shortest paths from nodes with too many rows to those with too few.

        Prices rise until no path costs anything, so that all of them are as good as
        one. They have no node in common: a move changes what leaves the cells it
        touches.
        """
        reached, parent = self._distances(excess, most)
        takers = np.flatnonzero((excess < 0) & np.isfinite(reached))
        used, farthest = np.zeros(len(excess), dtype=bool), 0.0
        paths: list[list[int]] = []
        for taker in takers[reached[takers].argsort(kind="stable")][:most].tolist():
            path = [taker]
            while not used[path[-1]] and parent[path[-1]] >= 0:
                path.append(int(parent[path[-1]]))
            if not used[path[-1]]:
                used[path], farthest = True, reached[taker]
                paths.append(path[::-1])
        self.prices = self.prices + farthest - np.minimum(reached, farthest)
        return paths

    def _distances(
        self, excess: np.ndarray, most: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Dijkstra from all nodes with too many rows, and the trees of its paths.

        Ends when it has come to so many nodes with too few rows, or to all of them.
        """
        prices, taking = self.prices, excess < 0
        reached = np.where(excess > 0, 0.0, np.inf)
        parent = np.full(len(prices), -1)
        waiting, left = reached.copy(), min(most, int(taking.sum()))
        while left:
            node = int(waiting.argmin())
            nearest = waiting[node]
            if not np.isfinite(nearest):
                break
            waiting[node] = np.inf
            left -= int(taking[node])
            length = np.maximum(self.frontier[node] + prices - prices[node], 0.0)
            through = nearest + length
            # Nodes that are done are not farther than this one.
            shorter = through < reached
            reached[shorter] = waiting[shorter] = through[shorter]
            parent[shorter] = node
        # What is still waiting may be nearer by another way, but not than the last one.
        return np.where(np.isfinite(waiting), np.inf, reached), parent

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
        prices, room = _towards_the_middle(frontier, prices)
        if _cramped(room):
            roomy = _with_room(frontier, prices, float(np.median(room)))
            prices, _ = _towards_the_middle(frontier, roomy)
        return prices[:-1] - prices[-1]


def _cramped(room: np.ndarray) -> bool:
    """Whether some prices have next to no room, compared with others."""
    return len(room) > 0 and bool(room.min() <= 0.01 * np.median(room))


def _towards_the_middle(
    frontier: np.ndarray, prices: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Prices that went to the middle of their intervals, and the room they had."""
    for _ in range(CENTRING_ROUNDS):
        high = (frontier + prices).min(axis=1)
        low = (prices[:, None] - frontier).max(axis=0)
        middle = np.isfinite(high) & np.isfinite(low) & (high >= low)
        room = np.minimum(high - prices, prices - low)[middle]
        if not _cramped(room):
            break
        moved = prices.copy()
        moved[middle] += ((high[middle] + low[middle]) / 2 - prices[middle]) / 2
        prices = moved
    return prices, room


def _with_room(frontier: np.ndarray, prices: np.ndarray, room: float) -> np.ndarray:
    """Prices that are valid even if all increases were less by some room.

    Along chains of indifferent rows the middle would be reached by one edge a round;
    shortest paths reach it at once. There are such prices unless a cycle is too short,
    and then there may be for a quarter of the room.
    """
    for trial in range(1, ROOM_TRIALS + 1):
        room /= 4
        # A path has no more edges than there are nodes.
        n_rounds = PATH_ROUNDS if trial < ROOM_TRIALS else len(prices)
        nearer = frontier.copy()
        nearer[:-1, :-1] -= room
        found = prices
        for _ in range(n_rounds):
            before, found = found, np.minimum(found, (nearer + found).min(axis=1))
            if np.array_equal(before, found):
                return found
    return prices


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
