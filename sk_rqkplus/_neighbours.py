"""Nearest rows of a sample of rows, exact, by matrix products a chunk at a time.

A fast pass in float32 selects some more rows than are wanted, float64 differences put
them in order, and a bound of the rounding error tells whether a row that was left out
could be nearer. If so, a pass in float64 decides. The answer does not depend on chunks
or threads.

Copies of a row are one point with several members. Where only some of the members of a
point are among the nearest k, these are drawn at random, so that the order of the rows
has no say: the decoded rows of a quantiser are full of such ties.
"""

from collections.abc import Callable, Iterator

import numpy as np

from sk_rqkplus._pairs import squared_distances, unit_rows
from sk_rqkplus._prefixes import Prefixes, bounds_of_runs

# Rows and values that a chunk may have, and queries that are looked up together.
CHUNK_ROWS, CHUNK_VALUES, BLOCK_QUERIES = 8192, 2**22, 1024
FIRST_ROWS = 256
# Points that the fast pass selects beyond those that are wanted.
SPARE = 16

METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "euclidean": lambda rows: rows,
    "cosine": unit_rows,
}


class Points:
    """Rows of a matrix as points, where copies of a row are one point.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows; they are not copied.

    metric : {"euclidean", "cosine"}
        Whether distances are those of the rows, or of the rows divided by their norms.
    """

    def __init__(self, X: np.ndarray, metric: str):
        self.X = X
        self.prepare = METRICS[metric]
        keys = np.concatenate([_hashes(X[chunk]) for chunk in _chunks(X)])
        self.order = np.argsort(keys, kind="stable")
        bounds = bounds_of_runs(keys[self.order])
        self.start, self.size = bounds[:-1], np.diff(bounds)
        self.point = np.empty(len(X), dtype=np.int64)
        self.point[self.order] = np.repeat(np.arange(len(self.size)), self.size)
        self.is_first = np.zeros(len(X), dtype=bool)
        self.is_first[self.order[self.start]] = True

    def distances(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Squared distances of queries to rows.

        Parameters
        ----------
        queries : ndarray of shape (n_queries,), int64
            Row numbers.

        rows : ndarray of shape (n_queries, n_rows), int64
            Row numbers, some for every query.

        Returns
        -------
        distances : ndarray of shape (n_queries, n_rows), float64
            Squared distances.
        """
        first = np.repeat(queries, rows.shape[1])
        values = squared_distances(self.X, first, rows.ravel(), self.prepare)
        return values.reshape(rows.shape)

    def radius(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Squared distance of every query to the k-th nearest of the other rows.

        Parameters
        ----------
        queries : ndarray of shape (n_queries,), int64
            Row numbers.

        k : int
            Less than the number of rows.

        Returns
        -------
        radius : ndarray of shape (n_queries,), float64
            Squared distances.
        """
        blocks = [self._nearest(block, k) for block in _blocks(queries)]
        return np.concatenate(
            [_at_kth(distances, sizes, k) for _, distances, sizes in blocks]
        )

    def neighbours(
        self, queries: np.ndarray, k: int, rng: np.random.RandomState
    ) -> np.ndarray:
        """The k nearest of the other rows of every query.

        Parameters
        ----------
        queries : ndarray of shape (n_queries,), int64
            Row numbers.

        k : int
            Less than the number of rows.

        rng : RandomState
            Which members of the last point are taken.

        Returns
        -------
        rows : ndarray of shape (n_queries, k), int64
            Row numbers, from near to far.
        """
        place = np.empty(len(self.X), dtype=np.int64)
        place[self.order] = np.arange(len(self.X))
        found = []
        for block in _blocks(queries):
            points, _, sizes = self._nearest(block, k)
            ring, member = fill_rings(sizes, k, rng)
            point = np.take_along_axis(points, ring, axis=1)
            own = (place[block] - self.start[self.point[block]])[:, None]
            # The query is a member of its own point, and is passed over.
            member += (point == self.point[block][:, None]) & (member >= own)
            found.append(self.order[self.start[point] + member])
        return np.concatenate(found)

    def _nearest(
        self, queries: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points near the queries in order, distances, and members but the query."""
        points, distances, sizes, certain = self._select(queries, k, np.float32)
        doubtful = np.flatnonzero(~certain)
        if len(doubtful):
            again = self._select(queries[doubtful], k, np.float64)
            points[doubtful], distances[doubtful], sizes[doubtful] = again[:3]
        return points, distances, sizes

    def _select(
        self, queries: np.ndarray, k: int, dtype: type
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """One pass: points, distances, members, and whether no other can be nearer."""
        wanted = min(k + 1 + SPARE, len(self.size))
        rows = self.prepare(self.X[queries].astype(np.float64))
        centre = rows.mean(axis=0)
        rows -= centre
        # What overflows is not finite, hence not certain.
        with np.errstate(over="ignore", invalid="ignore"):
            scores, best, largest = self._pass(rows, centre, wanted, dtype)
        distances = self.distances(queries, best)
        order = np.lexsort((best, distances), axis=1)
        distances = np.take_along_axis(distances, order, axis=1)
        points = self.point[np.take_along_axis(best, order, axis=1)]
        sizes = self.size[points] - (points == self.point[queries][:, None])

        norms = np.sqrt(np.square(rows).sum(axis=1))
        roundoff = (rows.shape[1] + 8) * np.finfo(dtype).eps
        error = roundoff * (largest + 2 * norms) * largest
        left_out = scores[:, -1] + np.square(norms) - error
        certain = _at_kth(distances, sizes, k) < left_out
        return points, distances, sizes, certain | (wanted == len(self.size))

    def _pass(
        self, queries: np.ndarray, centre: np.ndarray, wanted: int, dtype: type
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Rows of least score ``||x||^2 - 2 q.x``, scores, and the largest norm."""
        scores = np.full((len(queries), wanted), np.inf, dtype=dtype)
        best = np.zeros((len(queries), wanted), dtype=np.int64)
        largest = 0.0
        queries = (-2 * queries).astype(dtype)
        for chunk in _chunks(self.X):
            index = chunk.start + np.flatnonzero(self.is_first[chunk])
            rows = self.prepare(self.X[index].astype(np.float64)) - centre
            squares = np.square(rows).sum(axis=1)
            largest = max(largest, float(np.sqrt(squares.max(initial=0))))
            tile = queries @ rows.astype(dtype).T
            tile += squares.astype(dtype)
            scores, best = _merge(scores, best, tile, index)
        return scores, best, largest


def code_neighbours(
    prefixes: Prefixes, queries: np.ndarray, k: int, rng: np.random.RandomState
) -> np.ndarray:
    """Other items that share the longest prefixes with every query.

    Parameters
    ----------
    prefixes : Prefixes
        Rows in the order of their codes.

    queries : ndarray of shape (n_queries,), int64
        Row numbers.

    k : int
        Less than the number of rows.

    rng : RandomState
        Which of the items with a prefix of equal length are taken.

    Returns
    -------
    rows : ndarray of shape (n_queries, k), int64
        Row numbers, the longest prefixes first.
    """
    place = np.empty(len(prefixes.order), dtype=np.int64)
    place[prefixes.order] = np.arange(len(place))
    place = place[queries]
    # Intervals of the order that contain the query: itself, its code, its prefixes.
    intervals = [(place, place + 1)]
    for bounds in reversed(prefixes.bounds):
        group = np.searchsorted(bounds, place, side="right")
        intervals.append((bounds[group - 1], bounds[group]))
    low, high = (np.stack(ends, axis=1) for ends in zip(*intervals, strict=True))
    ring, member = fill_rings(np.diff(high - low, axis=1), k, rng)
    inner_low = np.take_along_axis(low, ring, axis=1)
    inner_high = np.take_along_axis(high, ring, axis=1)
    position = np.take_along_axis(low, ring + 1, axis=1) + member
    position += np.where(position >= inner_low, inner_high - inner_low, 0)
    return prefixes.order[position]


def fill_rings(
    sizes: np.ndarray, k: int, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Take k members from the first rings: all of these, and a sample of the last one.

    The sample is systematic: from a random start in equal steps, so that every member
    is as likely as any other.

    Parameters
    ----------
    sizes : ndarray of shape (n_queries, n_rings), int64
        Members of every ring, from near to far; at least k for every query.

    k : int
        How many to take.

    rng : RandomState
        Source of the starts.

    Returns
    -------
    ring, member : ndarray of shape (n_queries, k), int64
        Number of the ring, and of the member within it.
    """
    before = np.cumsum(sizes, axis=1) - sizes
    take = np.clip(k - before, 0, sizes)
    numbers = np.tile(np.arange(sizes.shape[1]), len(sizes))
    ring = np.repeat(numbers, take.ravel()).reshape(len(sizes), k)
    slot = np.arange(k) - np.take_along_axis(before, ring, axis=1)
    step = np.take_along_axis(sizes / np.maximum(take, 1), ring, axis=1)
    # A multiple of 2^-20, for which no sum rounds up to the next integer.
    start = rng.randint(2**20, size=(len(sizes), 1)) / 2**20
    return ring, ((slot + start) * step).astype(np.int64)


def _at_kth(distances: np.ndarray, sizes: np.ndarray, k: int) -> np.ndarray:
    """Distance at which the number of members reaches k; infinite if it does not."""
    column = (np.cumsum(sizes, axis=1) < k).sum(axis=1)
    distances = np.pad(distances, ((0, 0), (0, 1)), constant_values=np.inf)
    return distances[np.arange(len(distances)), column]


def _merge(
    scores: np.ndarray, best: np.ndarray, tile: np.ndarray, index: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Least scores of every query so far and of a tile, ties by row number."""
    n_queries, wanted = scores.shape
    # Few scores are less: their places are found faster in the flat array.
    query, column = np.divmod(np.flatnonzero(tile < scores[:, -1:]), tile.shape[1])
    queries = np.concatenate([np.repeat(np.arange(n_queries), wanted), query])
    values = np.concatenate([scores.ravel(), tile[query, column]])
    rows = np.concatenate([best.ravel(), index[column]])
    order = np.lexsort((rows, values, queries))
    start = np.searchsorted(queries[order], np.arange(n_queries))
    first = order[start[:, None] + np.arange(wanted)]
    return values[first], rows[first]


def _chunks(X: np.ndarray) -> Iterator[slice]:
    """Chunks that grow: after the first ones, few rows of a chunk are near enough."""
    most = min(CHUNK_ROWS, max(FIRST_ROWS, CHUNK_VALUES // X.shape[1]))
    start, step = 0, FIRST_ROWS
    while start < len(X):
        yield slice(start, min(start + step, len(X)))
        start, step = start + step, min(2 * step, most)


def _blocks(queries: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(queries), BLOCK_QUERIES):
        yield queries[start : start + BLOCK_QUERIES]


def _hashes(rows: np.ndarray) -> np.ndarray:
    """A 64-bit hash of every row; that of zero and of minus zero are the same."""
    rng = np.random.RandomState(0)
    words = np.ascontiguousarray(rows + 0).view(f"u{rows.itemsize}").astype(np.uint64)
    # Values differ in their high bits, which a product would shift out: mix them down.
    words *= np.uint64(0x9E3779B97F4A7C15)
    words ^= words >> np.uint64(29)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(32)
    weights = rng.randint(2**63, size=rows.shape[1], dtype=np.uint64)
    words *= 2 * weights + np.uint64(1)
    return words.sum(axis=1)
