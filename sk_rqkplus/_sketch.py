"""A few numbers per row, by which rows are recognised."""

from collections import deque

import numpy as np

from sk_rqkplus._groups import rank_within
from sk_rqkplus._threads import map_chunks

N_SKETCH = 3
CHUNK_ROWS = 2048


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
    (known_codes, known_sketches), (codes, sketches) = known, queries
    found = np.full(len(codes), -1)
    left = np.flatnonzero(~np.isnan(known_sketches[:, 0]))
    # Most new rows have a code that nobody has.
    at = np.searchsorted(known_codes, codes)
    open_ = at < np.searchsorted(known_codes, codes, side="right")
    open_ &= ~np.isnan(sketches[:, 0])
    for allowed in (0.0, tolerance):
        rows = np.flatnonzero(open_ & (found < 0))
        if len(left) == 0 or len(rows) == 0:
            break
        both = _same_rows(
            np.concatenate([known_codes[left], codes[rows]]),
            np.concatenate([known_sketches[left], sketches[rows]]),
            allowed,
        )
        pairs = _pair(both[: len(left)], both[len(left) :])
        matched = pairs >= 0
        found[rows[matched]] = left[pairs[matched]]
        left = np.delete(left, pairs[matched])
    return found


def _same_rows(codes: np.ndarray, sketches: np.ndarray, tolerance: float) -> np.ndarray:
    """Group rows of one code whose sketches are linked by steps within a tolerance."""
    group = codes
    for column in sketches.T:
        order = np.lexsort((column, group))
        step = np.diff(column[order].astype(np.float64)) > tolerance
        new = np.r_[False, step | (np.diff(group[order]) != 0)]
        group = np.empty(len(codes), dtype=np.int64)
        group[order] = np.cumsum(new)
    return group


def _pair(entries: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Give the j-th query of a group its j-th entry, or -1 where there are fewer."""
    order = np.argsort(entries, kind="stable")
    start = np.searchsorted(entries[order], queries, side="left")
    stop = np.searchsorted(entries[order], queries, side="right")
    position = start + rank_within(queries)
    return np.where(position < stop, order[np.minimum(position, len(order) - 1)], -1)
