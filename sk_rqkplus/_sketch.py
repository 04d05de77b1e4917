"""A few numbers per row, by which rows are recognised."""

from collections import deque
from itertools import product

import numpy as np
from scipy.spatial import KDTree

from sk_rqkplus._groups import rank_within, stable_sort
from sk_rqkplus._threads import map_chunks

N_SKETCH = 3
CHUNK_ROWS = 2048
# Of the hash of a row.
WEIGHTS = np.random.RandomState(0).randint(2**64, size=N_SKETCH + 1, dtype=np.uint64)
# Width of a cell of sketches in tolerances: few rows are near its walls, and few others
# are in it. Rows of a chunk that are looked for in cells.
CELL, CELL_ROWS = 64, 2**16


def sketch(X: np.ndarray, origin: np.ndarray | float = 0.0) -> np.ndarray:
    """Three numbers that tell a row from others, and change little with rounding.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows; only a part of them is ever copied.

    origin : ndarray of shape (n_features,) or float, default=0
        Subtracted first, so that a common offset does not hide differences.

    Returns
    -------
    values : ndarray of shape (n_samples, 3), float32
        Sums of the row under three fixed sets of random weights of mean square
        ``1 / n_features``.
    """
    n_features = X.shape[1]
    # Not signs: rows that differ by an exchange of two features would look the same.
    weights = np.random.RandomState(0).uniform(-1, 1, size=(n_features, N_SKETCH))
    weights *= np.sqrt(3 / n_features)
    values = np.empty((len(X), N_SKETCH), dtype=np.float32)

    def fill(chunk: slice) -> None:
        values[chunk] = (X[chunk].astype(np.float64) - origin) @ weights

    deque(map_chunks(fill, len(X), CHUNK_ROWS), maxlen=0)
    return values


def match_rows(
    known: tuple[np.ndarray, np.ndarray],
    queries: tuple[np.ndarray, np.ndarray],
    tolerance: float,
) -> np.ndarray:
    """Known row of every query, or -1: equal sketches first, then close ones.

    Parameters
    ----------
    known, queries : tuple of ndarray of shape (n,) and ndarray of shape (n, 3)
        Codes as numbers, and sketches; a sketch of NaN is like no other. The codes that
        are known are sorted.

    tolerance : float
        Largest difference of a sketch value at which two rows are the same.

    Returns
    -------
    found : ndarray of shape (n_queries,), int64
        Position among the known ones, each of which is given once.
    """
    found = np.full(len(queries[0]), -1)
    left = np.flatnonzero(~np.isnan(known[1][:, 0]))
    rows = np.flatnonzero(~np.isnan(queries[1][:, 0]))
    for exact in (True, False):
        if not exact:
            # Linking is slow: only rows that have somebody to be linked with.
            rows = rows[_occur_in(queries[0][rows], known[0][left])]
            left = left[_occur_in(known[0][left], np.sort(queries[0][rows]))]
        codes = np.concatenate([known[0][left], queries[0][rows]])
        sketches = np.concatenate([known[1][left], queries[1][rows]])
        group = (
            _equal_rows(codes, sketches)
            if exact
            else _linked_rows(codes, sketches, tolerance)
        )
        pairs = _pair(group[: len(left)], group[len(left) :])
        found[rows[pairs >= 0]] = left[pairs[pairs >= 0]]
        left = np.delete(left, pairs[pairs >= 0])
        rows = rows[pairs < 0]
    return found


def match_sketches(
    known: np.ndarray, queries: np.ndarray, tolerance: float, taken: np.ndarray
) -> np.ndarray:
    """Known row of every query by its sketch alone, or -1.

    A row that is as close to one codeword as to another gets the one or the other, as
    rounding has it: its code may not be the one that it is known by.

    Parameters
    ----------
    known, queries : ndarray of shape (n, 3), float32
        Sketches; one of NaN is like no other.

    tolerance : float
        Largest difference of a sketch value at which two rows are the same.

    taken : ndarray of shape (n_taken,), int64
        Positions among the known ones that are given already.

    Returns
    -------
    found : ndarray of shape (n_queries,), int64
        Position among the known ones, each of which is given once.
    """
    found = np.full(len(queries), -1)
    queries = queries.astype(np.float64)
    rows, cells = _cells_around(queries, tolerance)
    near = np.setdiff1d(
        _inside(known, cells, queries[rows], tolerance), taken, assume_unique=True
    )
    rows = np.unique(rows[np.isin(cells, _cells(known[near], tolerance))])
    if len(rows) == 0:
        # A tree has at least one point.
        return found
    # Copies are one point of the tree.
    points, group = np.unique(known[near], axis=0, return_inverse=True)
    bound = np.nextafter(tolerance, np.inf)
    _, nearest = KDTree(points).query(
        queries[rows], p=np.inf, distance_upper_bound=bound
    )
    rows, nearest = rows[nearest < len(points)], nearest[nearest < len(points)]
    at = _pair(group, nearest)
    found[rows[at >= 0]] = near[at[at >= 0]]
    return found


def _cells_around(
    queries: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Cells that hold what is close to a query: queries, and a cell of each."""
    rows = np.flatnonzero(np.isfinite(queries).all(axis=1))
    # With room for what rounds.
    low = _corners(queries[rows] - 2 * tolerance, tolerance)
    high = _corners(queries[rows] + 2 * tolerance, tolerance)
    found, cells = [], []
    for corner in product((False, True), repeat=N_SKETCH):
        among = (low != high)[:, corner].all(axis=1)
        found.append(rows[among])
        cells.append(_hash(np.where(corner, high, low)[among]))
    return np.concatenate(found), np.concatenate(cells)


def _cells(sketches: np.ndarray, tolerance: float) -> np.ndarray:
    """Number of the cell of every sketch."""
    return _hash(_corners(sketches, tolerance))


def _inside(
    known: np.ndarray, cells: np.ndarray, queries: np.ndarray, tolerance: float
) -> np.ndarray:
    """Positions of the known ones in some cells, which are around queries."""
    walls = [queries[:, :1] + 2 * side * tolerance for side in (-1, 1)]
    first = np.unique(_cells(np.concatenate(walls), tolerance))
    wanted = np.sort(cells)

    def find(chunk: slice) -> np.ndarray:
        part = known[chunk]
        # Where there are few queries, one value rules out almost all.
        some = np.flatnonzero(_among(_cells(part[:, :1], tolerance), first))
        some = some[_among(_cells(part[some], tolerance), wanted)]
        return chunk.start + some[np.isfinite(part[some]).all(axis=1)]

    nothing = np.empty(0, dtype=np.int64)
    return np.concatenate([nothing, *map_chunks(find, len(known), CELL_ROWS)])


def _corners(sketches: np.ndarray, tolerance: float) -> np.ndarray:
    """Cells of sketches, as whole numbers, those below zero from the top."""
    cells = np.floor(sketches.astype(np.float64) / (CELL * tolerance))
    with np.errstate(invalid="ignore"):
        return cells.astype(np.int64).view(np.uint64)


def _hash(words: np.ndarray) -> np.ndarray:
    """One number per row of unsigned integers, which different ones may share."""
    hashes = np.zeros(len(words), dtype=np.uint64)
    for word, weight in zip(words.T, WEIGHTS[: words.shape[1]], strict=True):
        hashes += word * weight
    return hashes


def _occur_in(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Which values occur in a sorted array."""
    # Sorted, since a search for numbers here and there is slow.
    wanted, order = stable_sort(values)
    occurs = np.empty(len(values), dtype=bool)
    occurs[order] = _among(wanted, ordered)
    return occurs


def _among(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Which values are among sorted ones."""
    if len(ordered) == 0:
        return np.zeros(len(values), dtype=bool)
    at = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return ordered[at] == values


def _equal_rows(codes: np.ndarray, sketches: np.ndarray) -> np.ndarray:
    """Number the groups of equal rows, found by a hash that is checked."""
    words = np.ascontiguousarray(sketches + np.float32(0)).view(np.uint32)
    hashes = codes.astype(np.uint64) * WEIGHTS[N_SKETCH] + _hash(words)
    shift = np.uint64(2 + len(codes).bit_length())
    ordered, order = stable_sort((hashes >> shift).view(np.int64))
    again = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
    one, other = order[again], order[again - 1]
    differs = codes[one] != codes[other]
    differs |= (words[one] != words[other]).any(axis=1)
    new = np.ones(len(codes), dtype=bool)
    new[again] = False
    group = np.empty(len(codes), dtype=np.int64)
    group[order] = np.cumsum(new) - 1
    # Rows of one hash that are not equal.
    mixed = np.flatnonzero(np.isin(group, group[one[differs]]))
    group[mixed] = len(codes) + _linked_rows(codes[mixed], sketches[mixed], 0.0)
    return group


def _linked_rows(
    codes: np.ndarray, sketches: np.ndarray, tolerance: float
) -> np.ndarray:
    """Number the groups of rows of one code that are linked by steps in a sketch."""
    group, rows, used = codes.copy(), np.arange(len(codes)), 0
    for column in sketches.T:
        column = column[rows]
        order = np.lexsort((column, group[rows]))
        step = np.diff(column[order].astype(np.float64)) > tolerance
        new = np.r_[True, step | (np.diff(group[rows[order]]) != 0)][: len(rows)]
        number = used + np.cumsum(new)
        group[rows[order]] = number
        # A row that is alone stays so.
        alone = new & np.r_[new[1:], True][: len(rows)]
        rows, used = rows[order[~alone]], number.max(initial=used)
    return group


def _pair(entries: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Give the j-th query of a group its j-th entry, or -1 where there are fewer."""
    n_groups = 1 + max(entries.max(initial=-1), queries.max(initial=-1))
    sizes = np.bincount(entries, minlength=n_groups)
    starts = np.cumsum(sizes) - sizes
    order = np.append(stable_sort(entries)[1], -1)
    rank = rank_within(queries)
    position = np.where(rank < sizes[queries], starts[queries] + rank, len(entries))
    return order[position]
