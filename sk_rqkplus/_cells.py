"""Single rows move along cheapest paths until every count is within its bounds."""

from dataclasses import dataclass
from itertools import product
from operator import itemgetter

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from sk_rqkplus._balance import Bounds, fetch, lower_imbalance
from sk_rqkplus._fixed_point import fixed_point_distances
from sk_rqkplus._scores import Scores
from sk_rqkplus._threads import split_rows

# Rows per codeword that may move in the end, those of least margin, and that counts
# are decided by. Where codewords are many, rows may move to the nearest ones: to so
# many of them at least, and to as many as the table has room for, twice as many at
# every turn.
MOVABLE_ROWS, NEAR_ROWS, LEAST_NEAR = 64, 16, 64
FIRST_MOVABLE, MOST_MOVABLE = 2**23, 2**25
# Values of rows in float64 that are taken at a time, and distances that are priced.
EXACT_VALUES, PRICED_VALUES = 2**23, 2**20
ROUNDS = 8
# So often groups of cells that no row is between get their rows.
MOST_BRIDGES = 2
# Of so many rows it makes no difference where one of them is.
MANY_ROWS = 20_000
# Moves of copies in a row that come no closer to the bounds.
PATIENCE = 64
# A price that is so much of the largest one away from zero is not zero.
LEAST_PRICE = 1e-9
CENTRING_ROUNDS, ROOM_TRIALS, PATH_ROUNDS = 30, 10, 100

NO_ROWS = np.empty(0, dtype=np.int64)
# A node, the rows that go from there, and the node that they go to.
Move = tuple[int, np.ndarray, int]
# What counts come to, how, and at which prices.
Way = tuple[tuple[int, float], list[Move], np.ndarray]


def exact_prices(
    scores: Scores, prices: Tensor, tol: float
) -> tuple[Tensor, float, int, bool]:
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

    n_beyond : int
        Rows by which counts are outside of their bounds in the end; zero as a rule.

    parted : bool
        Whether copies that no price can part may be the reason, and that of the gap.
    """
    n_rows, n_codewords = len(scores), len(scores.words)
    bounds = Bounds(n_rows, n_codewords, tol)
    found = prices.cpu().numpy()
    tried, table, parted = [], None, False
    most = MOST_MOVABLE // min(n_codewords, LEAST_NEAR)
    bridges = MOST_BRIDGES
    for turn in range(ROUNDS + 1):
        room = min(FIRST_MOVABLE << turn, MOST_MOVABLE)
        if turn:
            # Rounding can only have moved rows of the least margins.
            n_near = max(NEAR_ROWS * n_codewords, n_rows // 256)
            n_near = min(n_near, most)
            cells = _open_cells(scores, found, bounds, n_near, room, table)
            tried.append(_judged(cells, found))
            if tried[-1][0] == 0 or turn == ROUNDS:
                break
            stuck = 2 * tried[-1][0] > tried[-2][0]
            group = cells.groups()
            # The next ones take as much memory.
            del cells
            if stuck and table is None and group.any() and bridges > 0:
                bridges -= 1
                found = _bridge(scores, found, tol, bounds, group)
        n_movable = max(MOVABLE_ROWS * n_codewords << turn, n_rows // 256)
        n_movable = most if turn == ROUNDS - 1 else min(n_movable, most)
        cells = _open_cells(scores, found, bounds, n_movable, room, table)
        if not tried:
            tried.append(_judged(cells, found))
        cells.repair(together=parted)
        parted |= cells.parted
        found = cells.centred_prices()
        # What is near depends on the prices.
        whole = np.isinf(cells.reach) and cells.table.cells is None
        table = cells.table if whole else None
        del cells
    # The last of equals: its prices are in the middle.
    violation, _, gap, found = min(reversed(tried), key=itemgetter(0, 1, 2))
    return torch.as_tensor(found, device=prices.device), gap, violation, parted


def _bridge(
    scores: Scores, prices: np.ndarray, tol: float, bounds: Bounds, group: np.ndarray
) -> np.ndarray:
    """Prices that give groups of cells their rows, and cells their share of these.

    Between groups that are far apart no row is near to where it could go.
    """
    found = torch.as_tensor(prices, device=scores.words.prices.device)
    found = fetch(scores, found, bounds, 0, group=group)
    found = lower_imbalance(scores, found, tol, len(scores))
    return fetch(scores, found, bounds, 0, group=group).cpu().numpy()


def _judged(cells: "Cells", prices: np.ndarray) -> tuple[int, int, float, np.ndarray]:
    """By how much counts are beyond bounds, in all and at worst, the gap and prices."""
    bounds, counts = cells.bounds, cells.counts
    worst = int(max(counts.max() - bounds.upper, bounds.lower - counts.min(), 0))
    return bounds.violation(counts), worst, bounds.gap(prices, counts), prices


def _open_cells(
    scores: Scores,
    prices: np.ndarray,
    bounds: Bounds,
    n_movable: int,
    room: int,
    table: "Distances | None",
) -> "Cells":
    """Cells at some prices, with the rows of least margin free to move."""
    if table is not None:
        return Cells(table, np.zeros(len(prices), dtype=np.int64), bounds, prices)
    n_codewords = len(prices)
    device = scores.words.prices.device
    labels, margins = scores.margins(torch.as_tensor(prices, device=device))
    reach = np.inf
    if n_movable < len(scores):
        reach = float(margins.kthvalue(n_movable).values)
    movable = _least(margins, reach, n_movable)
    # A part at a time: rows in float64 may take many times what the table does.
    step = max(1, EXACT_VALUES // max(scores.words.codebook.shape))
    n_near = min(n_codewords, max(LEAST_NEAR, room // len(movable)))
    table = Distances(np.empty((len(movable), n_near)))
    if n_near < n_codewords:
        table.cells = np.empty(table.values.shape, dtype=np.int32)
    for start in range(0, len(movable), step):
        part = slice(start, start + step)
        rows = scores.exact_rows(movable[part])
        distances = fixed_point_distances(rows, scores.words.codebook)
        table.fill(part, Distances(distances).nearest(prices, n_near))
    fixed = torch.bincount(labels, minlength=n_codewords)
    fixed -= torch.bincount(labels[movable], minlength=n_codewords)
    return Cells(table, fixed.cpu().numpy(), bounds, prices, reach)


def _least(margins: Tensor, reach: float, n_rows: int) -> Tensor:
    """Numbers of the rows of least margin, the first ones of those that reach it.

    There may be any number of ties, and memory for so many rows.
    """
    below, tied = margins < reach, margins == reach
    n_tied = n_rows - int(below.sum())
    below[torch.nonzero(tied).squeeze(1)[:n_tied]] = True
    return torch.nonzero(below).squeeze(1)


@dataclass
class Distances:
    """Squared distances of rows to all cells, or to those that are near.

    Attributes
    ----------
    values : ndarray of shape (n_rows, n_near), float64
        Squared distances.
    cells : ndarray of shape (n_rows, n_near), int32, or None
        Cells that these are to, ascending; None stands for all cells.
    """

    values: np.ndarray
    cells: np.ndarray | None = None

    def fill(self, part: slice, found: "Distances") -> None:
        """Take the distances of some rows over."""
        self.values[part] = found.values
        if self.cells is not None:
            self.cells[part] = found.cells

    def nearest(self, prices: np.ndarray, n_near: int) -> "Distances":
        """Distances to the cells of least score, from those to all."""
        if n_near == self.values.shape[1]:
            return self
        priced = self.values + prices
        cells = np.argpartition(priced, n_near - 1, axis=1)[:, :n_near]
        cells = np.sort(cells, axis=1).astype(np.int32)
        return Distances(np.take_along_axis(self.values, cells, axis=1), cells)

    def labels(self, prices: np.ndarray) -> np.ndarray:
        """Cell of least score of every row, the lower one of a tie."""
        n_rows, n_near = self.values.shape
        parts = split_rows(n_rows, max(1, PRICED_VALUES // n_near))
        return np.concatenate([self._labels_of(part, prices) for part in parts])

    def _labels_of(self, part: slice, prices: np.ndarray) -> np.ndarray:
        if self.cells is None:
            return (self.values[part] + prices).argmin(axis=1)
        cells = self.cells[part]
        least = (self.values[part] + prices[cells]).argmin(axis=1)[:, None]
        return np.take_along_axis(cells, least, axis=1)[:, 0].astype(np.int64)

    def to(self, rows: np.ndarray, cell: int) -> np.ndarray:
        """Distance of each of some rows to a cell, infinite if that is not near."""
        if self.cells is None:
            return self.values[rows, cell]
        found = np.full(len(rows), np.inf)
        number, column = np.nonzero(self.cells[rows] == cell)
        found[number] = self.values[rows[number], column]
        return found

    def increases(self, rows: np.ndarray, cell: int, n_cells: int) -> np.ndarray:
        """Least increase of distance at which one of the rows of a cell gets to each.

        Parameters
        ----------
        rows : ndarray of shape (n_some,), int64
            Some rows.

        cell : int
            The cell that they are in.

        n_cells : int
            Number of all cells.

        Returns
        -------
        increases : ndarray of shape (n_cells,), float64
            Infinite where no row gets to.
        """
        increase = self.values[rows] - self.to(rows, cell)[:, None]
        if self.cells is None:
            return increase.min(axis=0, initial=np.inf)
        least = np.full(n_cells, np.inf)
        np.minimum.at(least, self.cells[rows], increase)
        return least

    def beyond(self, rows: np.ndarray, cell: int, prices: np.ndarray) -> np.ndarray:
        """Lower bounds of the increase to cells that are not near.

        Parameters
        ----------
        rows : ndarray of shape (n_some,), int64
            Some rows.

        cell : int
            The cell that they are in, a near one of all of them.

        prices : ndarray of shape (n_cells,), float64
            Prices that the near cells are the nearest ones at.

        Returns
        -------
        bounds : ndarray of shape (n_cells,), float64
            Of the rows that a cell is not near to; infinite where there are none.
        """
        if self.cells is None or len(rows) == 0:
            return np.full(len(prices), np.inf)
        cells = self.cells[rows]
        # At these prices, what is not near is no nearer than what is.
        reach = (self.values[rows] + prices[cells]).max(axis=1) - self.to(rows, cell)
        order = np.argsort(reach, kind="stable")
        near = np.zeros((len(prices), len(rows)), dtype=bool)
        near[cells[order], np.arange(len(rows))[:, None]] = True
        least = reach[order[near.argmin(axis=1)]]
        return np.where(near.all(axis=1), np.inf, least - prices)

    def copies(self) -> list[np.ndarray]:
        """Groups of equal rows."""
        sums, n_near = self.values.sum(axis=1), self.values.shape[1]
        # Distances that are whole numbers often have equal sums, but not such ones.
        weights = np.random.RandomState(0).uniform(1.0, 2.0, size=n_near)
        parts = split_rows(len(sums), max(1, PRICED_VALUES // n_near))
        others = [(self.values[part] * weights).sum(axis=1) for part in parts]
        order = np.lexsort((np.concatenate(others), sums))
        equal = sums[order[1:]] == sums[order[:-1]]
        # Of equal sums are copies, and few other rows: only these are copied to look.
        near = np.flatnonzero(equal)
        one, other = order[near], order[near + 1]
        same = (self.values[one] == self.values[other]).all(axis=1)
        if self.cells is not None:
            same &= (self.cells[one] == self.cells[other]).all(axis=1)
        equal[near] = same
        groups = np.split(order, np.flatnonzero(~equal) + 1)
        return [group for group in groups if len(group) > 1]


class Cells:
    """The cells of a power diagram while single rows move between them.

    Nodes of a graph are the codewords and one more that stands for the bounds.
    ``frontier[k, l]`` is the least increase of distance at which a row of cell k could
    move to cell l; moving on to the last node tells that cell k keeps one row more.
    Prices are valid as long as ``p_k <= p_l + frontier[k, l]``.

    Parameters
    ----------
    table : Distances
        Squared distances of the rows that may move.

    fixed : ndarray of shape (n_codewords,), int64
        Number of other rows in every cell, which stay.

    bounds : Bounds
        Bounds of the counts.

    prices : ndarray of shape (n_codewords,), float64
        Where to start.

    reach : float, default=inf
        Least margin of the rows that stay, at these prices.
    """

    def __init__(
        self,
        table: Distances,
        fixed: np.ndarray,
        bounds: Bounds,
        prices: np.ndarray,
        reach: float = np.inf,
    ):
        n_codewords = len(prices)
        self.table, self.fixed, self.bounds = table, fixed, bounds
        self.reach = reach
        self.start, self.parted = prices, False
        self.prices = np.append(prices, 0.0)
        labels = table.labels(prices)
        order = np.argsort(labels, kind="stable")
        inside = np.bincount(labels, minlength=n_codewords)
        self.members = np.split(order, np.cumsum(inside)[:-1])
        self.kept = bounds.wanted(prices, fixed + inside).astype(np.int64)
        self.frontier = np.full((n_codewords + 1, n_codewords + 1), np.inf)
        for cell in range(n_codewords):
            self._update(cell)
        self._update_ways()

    @property
    def counts(self) -> np.ndarray:
        """Number of rows in every cell."""
        return self.fixed + np.fromiter(map(len, self.members), dtype=np.int64)

    def _update(self, cell: int) -> None:
        """Recompute what leaves a cell."""
        members, n_cells = self.members[cell], len(self.kept)
        self.frontier[cell, :-1] = self.table.increases(members, cell, n_cells)

    def groups(self) -> np.ndarray:
        """Which cells are connected by rows that may move within reach.

        Returns
        -------
        group : ndarray of shape (n_codewords,), int32
            Number of the group of every cell; zero throughout where there is one.
        """
        prices = self.prices[:-1]
        near = self.frontier[:-1, :-1] + prices - prices[:, None] <= self.reach
        return connected_components(csr_array(near), directed=False)[1]

    def _update_ways(self) -> None:
        """Whether cells may keep one row more, or one less."""
        self.frontier[:-1, -1] = np.where(self.kept < self.bounds.upper, 0.0, np.inf)
        self.frontier[-1, :-1] = np.where(self.kept > self.bounds.lower, 0.0, np.inf)

    def repair(self, *, together: bool = False) -> None:
        """Move rows along cheapest paths until every count is what prices ask for.

        Successive shortest paths: each step raises prices by the length of the paths,
        so that the assignment stays the best one for its own counts. They end where
        prices have changed so much that rows that should stay would move.

        Parameters
        ----------
        together : bool, default=False
            Whether copies of a row move together, to counts within the bounds. If not,
            copies are parted where that is optimal, and brought together in the end.
        """
        least, patience = np.inf, PATIENCE
        while (excess := self._excess(together)).any() and patience > 0:
            # Copies that moved together may have changed what the next path needs.
            most = 1 if together else len(excess)
            left = np.abs(excess[:-1]).sum()
            # And may go back and forth for ever.
            patience = patience - 1 if together and left >= least else PATIENCE
            least = min(least, left)
            paths, prices = self._cheapest_paths(excess, most)
            share = self._share_in_reach(prices)
            if share < 1 and most > 1:
                # The cheapest path may still be in reach, where the last one is not.
                paths, prices = self._cheapest_paths(excess, 1)
                share = self._share_in_reach(prices)
            if not paths or share < 1:
                # Between valid prices all are valid.
                self.prices = self.prices + share * (prices - self.prices)
                break
            self.prices = prices
            for path in paths:
                self._move(self._moves(path, together))
        # Until counts are what prices ask for, copies are parted on the way.
        if not together and not self._excess(together).any():
            self._join_copies()

    def _share_in_reach(self, prices: np.ndarray) -> float:
        """How far prices may go towards others before rows that stay would move."""
        now, then = self._widest_change(self.prices), self._widest_change(prices)
        if then <= self.reach:
            return 1.0
        # Between the two, the widest change is at most what a line between them is.
        return max(0.0, (self.reach - now) / (then - now))

    def _widest_change(self, prices: np.ndarray) -> float:
        """Most that a cell whose rows stay has got dearer, relative to another one."""
        change = prices[:-1] - self.start
        return float(change.max(initial=-np.inf, where=self.fixed > 0) - change.min())

    def _excess(self, together: bool) -> np.ndarray:
        """Rows that every node has too many."""
        if together:
            self._keep_counts()
        excess = np.append(self.counts - self.kept, 0)
        excess[-1] = -excess.sum()
        return excess

    def _cheapest_paths(
        self, excess: np.ndarray, most: int
    ) -> tuple[list[list[int]], np.ndarray]:
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
        return paths, self.prices + farthest - np.minimum(reached, farthest)

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

    def _moves(self, path: list[int], together: bool) -> list[Move]:
        """The nearest row along every edge of a path, or all that are as near."""
        moves, last, to = [], len(self.kept), self.table.to
        for origin, target in zip(path[:-1], path[1:], strict=True):
            rows = NO_ROWS
            if last not in (origin, target):
                members = self.members[origin]
                increase = to(members, target) - to(members, origin)
                near = np.flatnonzero(increase == increase.min())
                rows = members[near if together else near[:1]]
            moves.append((origin, rows, target))
        return moves

    def _move(self, moves: list[Move]) -> None:
        """Move rows from node to node."""
        last = len(self.kept)
        for origin, rows, target in moves:
            if target == last:
                self.kept[origin] += 1
            elif origin == last:
                self.kept[target] -= 1
            else:
                members = self.members[origin]
                self.members[origin] = members[~np.isin(members, rows)]
                self._update(origin)
                self.members[target] = np.append(self.members[target], rows)
                increase = self.table.increases(rows, target, last)
                least = self.frontier[target, :-1]
                np.minimum(least, increase, out=least)
        self._update_ways()

    def _join_copies(self) -> None:
        """Bring copies of a row together again, where that costs least.

        Copies that were parted are indifferent between their cells, and a small change
        of prices moves all of them to one side. Where a row has many copies, the counts
        may end outside of their bounds by as many.
        """
        label = self._labels()
        for copies in self.table.copies():
            if (label[copies] == label[copies[0]]).all():
                continue
            self.parted = True
            ways = self._ways_together(copies, label[copies])
            _, moves, self.prices = min(ways, key=itemgetter(0))
            self._move(moves)
            self._keep_counts()
            for _, rows, target in moves:
                label[rows] = target

    def _labels(self) -> np.ndarray:
        """Cell of every row that may move."""
        label = np.empty(len(self.table.values), dtype=np.int64)
        for cell, members in enumerate(self.members):
            label[members] = cell
        return label

    def _keep_counts(self) -> None:
        """Keep the rows that there are, within the bounds."""
        self.kept = np.clip(self.counts, self.bounds.lower, self.bounds.upper)
        self._update_ways()

    def _ways_together(self, copies: np.ndarray, label: np.ndarray) -> list[Way]:
        """Ways to bring parted copies into one cell.

        All of them may go to one of their cells, and two counts are not what prices ask
        for. Or one cell keeps a row more or less than prices ask for, and the copies
        are on the path that this row takes.
        """
        ways: list[Way] = []
        cells = np.unique(label).tolist()
        for target in cells:
            moves = [(c, copies[label == c], target) for c in cells if c != target]
            ways.append((self._cost(moves, self.prices), moves, self.prices))
        best, _, _ = min(ways, key=itemgetter(0))
        if best > (0, 0.0) and self.bounds.n_rows <= MANY_ROWS:
            ways += self._ways_along_paths(copies, label, cells)
        return ways

    def _ways_along_paths(
        self, copies: np.ndarray, label: np.ndarray, cells: list[int]
    ) -> list[Way]:
        """Paths of a row more or less in a cell that bring copies into one cell."""
        ways: list[Way] = []
        for cell, change in product(cells, (-1, 1)):
            kept = self.kept[cell] + change
            if self.bounds.lower <= kept <= self.bounds.upper:
                excess = np.zeros(len(self.prices), dtype=np.int64)
                excess[cell], excess[-1] = -change, change
                paths, prices = self._cheapest_paths(excess, 1)
                if not paths or self._share_in_reach(prices) < 1:
                    continue
                moves = self._moves(paths[0], together=True)
                after = label.copy()
                for _, rows, target in moves:
                    after[np.isin(copies, rows)] = target
                if (after == after[0]).all():
                    ways.append((self._cost(moves, prices), moves, prices))
        return ways

    def _cost(self, moves: list[Move], prices: np.ndarray) -> tuple[int, float]:
        """By how much counts are beyond their bounds after some moves, and the gap."""
        counts = np.append(self.counts, 0)
        for origin, rows, target in moves:
            counts[origin] -= len(rows)
            counts[target] += len(rows)
        counts, prices = counts[:-1], prices[:-1] - prices[-1]
        return self.bounds.violation(counts), self.bounds.gap(prices, counts)

    def centred_prices(self) -> np.ndarray:
        """Prices in the middle of the intervals that their cells allow.

        A solution of a transport problem sits where some rows are indifferent between
        two cells; in the middle no row is, and rounding cannot tip it over.

        Returns
        -------
        prices : ndarray of shape (n_codewords,), float64
            Prices relative to that of the last node.
        """
        frontier, prices = self.frontier.copy(), self.prices.copy()
        for cell, ways in enumerate(frontier[:-1, :-1]):
            still = self.reach if self.fixed[cell] else np.inf
            np.minimum(ways, still + self.start[cell] - self.start, out=ways)
            beyond = self.table.beyond(self.members[cell], cell, self.start)
            np.minimum(ways, beyond, out=ways)
        # A count that is not what its price asks for has no say in the latter. Prices
        # that a path has brought to zero are rounded.
        above = prices[:-1] - prices[-1]
        least = LEAST_PRICE * np.abs(above).max()
        frontier[:-1, -1][above > least] = np.inf
        frontier[-1, :-1][above < -least] = np.inf
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
