"""A few numbers per row, by which rows are recognised."""

from collections import deque

import numpy as np

from sk_rqkplus._groups import rank_within, stable_sort
from sk_rqkplus._threads import map_chunks

N_SKETCH = 3
CHUNK_ROWS = 2048
# Of the hash of a row.
WEIGHTS = np.random.RandomState(0).randint(2**64, size=N_SKETCH + 1, dtype=np.uint64)


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


def _occur_in(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Which values occur in a sorted array."""
    if len(ordered) == 0:
        return np.zeros(len(values), dtype=bool)
    # Sorted, since a search for numbers here and there is slow.
    wanted, order = stable_sort(values)
    at = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    occurs = np.empty(len(values), dtype=bool)
    occurs[order] = ordered[at] == wanted
    return occurs


def _equal_rows(codes: np.ndarray, sketches: np.ndarray) -> np.ndarray:
    """Number the groups of equal rows, found by a hash that is checked."""
    words = np.ascontiguousarray(sketches + np.float32(0)).view(np.uint32)
    hashes = codes.astype(np.uint64) * WEIGHTS[N_SKETCH]
    for word, weight in zip(words.T, WEIGHTS[:N_SKETCH], strict=True):
        hashes += word * weight
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
