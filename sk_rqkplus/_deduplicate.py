"""One ID per item: a suffix, or another codeword of the last level."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise, product

import numpy as np
from scipy.optimize import linear_sum_assignment

from sk_rqkplus._groups import (
    check_codes,
    group_starts,
    number_prefixes,
    number_rows,
    pack_rows,
    ranges,
    rank_in_order,
    rank_within,
    stable_sort,
)
from sk_rqkplus._keys import as_keys, key_order
from sk_rqkplus._threads import run_chunks

# Distances of many small groups are asked for at a time, in tables of so many values.
BATCH_VALUES = 2**20
# Groups of up to so many items are solved all at once.
SMALL = 3

LastDistances = Callable[[np.ndarray], np.ndarray]


def deduplicate(
    codes: np.ndarray,
    method: str = "suffix",
    *,
    codebook_size: int | None = None,
    distances: LastDistances | None = None,
    taken: np.ndarray | None = None,
    keys: Iterable | None = None,
    priority: np.ndarray | None = None,
) -> np.ndarray:
    """Make codes unique.

    Parameters
    ----------
    codes : array-like of shape (n_samples, n_levels), int
        One code per item.

    method : {"suffix", "reassign"}, default="suffix"
        ``"suffix"`` leaves the codes as they are and counts the items that share one:
        the suffix is 0, 1, 2 and so on. ``"reassign"`` places the items of every prefix
        that has a collision on distinct last-level codewords at the least total
        distance; only items beyond the number of free codewords keep their code and
        get a suffix.

    codebook_size : int, optional
        Number of codewords of the last level. Needed by ``"reassign"``.

    distances : callable, optional
        Maps an array of m row numbers to the (m, codebook_size) squared distances of
        these rows to the last-level codewords. Needed by ``"reassign"``, which calls it
        in several threads at a time.

    taken : ndarray of shape (n_taken, n_levels + 1), int, optional
        IDs that are given already.

    keys : array-like of shape (n_samples,), int or str, optional
        Distinct item keys. Items come first in the order of a hash of their keys, which
        is the same in every process: the ID of an item does not depend on the order of
        the rows.

    priority : array-like of shape (n_samples,), optional
        Items come first by priority, the largest first, then by row: popularity, say,
        gives popular items the small suffixes. Not together with ``keys``; with
        neither, items come first by row.

    Returns
    -------
    ids : ndarray of shape (n_samples, n_levels + 1), int32
        Codes and suffix; all rows differ from each other and from ``taken``.

    Raises
    ------
    ValueError
        If ``method`` is unknown, ``"reassign"`` lacks what it needs, or ``keys`` or
        ``priority`` do not order the items.

    Notes
    -----
    "reassign" is a linear assignment problem for every prefix, solved exactly. Integers
    are hashed by the last step of SplitMix64, strings by BLAKE2b of 8 bytes.

    Examples
    --------
    >>> from sk_rqkplus.ids import deduplicate
    >>> deduplicate([[3, 1], [3, 2], [3, 1]])
    array([[3, 1, 0],
           [3, 2, 0],
           [3, 1, 1]], dtype=int32)
    >>> deduplicate([[3, 1], [3, 2], [3, 1]], priority=[10, 0, 99])
    array([[3, 1, 1],
           [3, 2, 0],
           [3, 1, 0]], dtype=int32)
    """
    codes = check_codes(codes)
    if codes.min(initial=0) < 0:
        raise ValueError(
            f"codes have the value {codes.min()}, which should be >= 0. Give the codes "
            "that transform returns."
        )
    taken = _check_taken(taken, codes.shape[1] + 1)
    order = _first_come(len(codes), keys, priority)
    ordered = codes if order is None else codes[order]
    if method == "reassign":
        if codebook_size is None or distances is None:
            raise ValueError(
                "method='reassign' should come with codebook_size and distances. Give "
                "the size of the last codebook and the distances to its codewords."
            )
        ask = distances if order is None else lambda rows: distances(order[rows])
        ordered = _reassign(ordered, codebook_size, ask, taken)
    elif method != "suffix":
        raise ValueError(
            f"method={method!r} should be 'suffix' or 'reassign'. Choose one of them."
        )
    ids = _append_suffix(ordered, taken)
    if order is None:
        return ids
    restored = np.empty_like(ids)
    restored[order] = ids
    return restored


def _check_taken(taken: np.ndarray | None, n_columns: int) -> np.ndarray:
    if taken is None:
        return np.empty((0, n_columns), dtype=np.int32)
    taken = check_codes(taken)
    if taken.shape[1] != n_columns:
        raise ValueError(
            f"taken have {taken.shape[1]} columns, which should be {n_columns}. Give "
            "IDs: codes and suffix."
        )
    return taken


def _first_come(
    n_rows: int, keys: Iterable | None, priority: np.ndarray | None
) -> np.ndarray | None:
    """Order in which items choose; None is that of the rows."""
    if keys is not None and priority is not None:
        raise ValueError(
            "keys and priority are two orders, of which there should be one. Leave one "
            "of them out."
        )
    if keys is not None:
        return key_order(as_keys(keys, n_rows))
    if priority is None:
        return None
    priority = np.asarray(priority)
    if priority.shape != (n_rows,) or priority.dtype.kind not in "iuf":
        raise ValueError(
            f"priority has shape={priority.shape} and dtype={priority.dtype}, which "
            f"should be ({n_rows},) and a number. Give one number per row."
        )
    if np.isnan(priority).any():
        raise ValueError(
            f"priority[{int(np.isnan(priority).argmax())}]=nan should be a number. "
            "Fill in what is missing."
        )
    # From the back, so that rows of equal priority keep their order when reversed.
    return len(priority) - 1 - np.argsort(priority[::-1], kind="stable")[::-1]


def _append_suffix(codes: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Count the items of each code on from the largest suffix that is taken."""
    n_new = len(codes)
    packed = pack_rows(np.concatenate([codes, taken[:, :-1]]))
    suffix = rank_within(packed)[:n_new]
    if len(taken):
        used, first = np.unique(packed[n_new:], return_inverse=True)
        largest = np.zeros(len(used) + 1, dtype=np.int64)
        np.maximum.at(largest, first, taken[:, -1].astype(np.int64) + 1)
        at = np.minimum(np.searchsorted(used, packed[:n_new]), len(used) - 1)
        suffix += np.where(used[at] == packed[:n_new], largest[at], 0)
    ids = np.empty((n_new, codes.shape[1] + 1), dtype=np.int32)
    ids[:, :-1], ids[:, -1] = codes, suffix
    return ids


def _reassign(
    codes: np.ndarray, codebook_size: int, distances: LastDistances, taken: np.ndarray
) -> np.ndarray:
    """Spread the items of every prefix that has a collision over its free codewords."""
    rows, group, used_group, used_column = _colliding(codes, taken)
    if used_column.max(initial=0) >= codebook_size:
        raise ValueError(
            f"taken have the last codeword {used_column.max()}, which should be below "
            f"codebook_size={codebook_size}. Give IDs of the same model."
        )
    n_groups = 1 + max(group.max(initial=-1), used_group.max(initial=-1))
    free = codebook_size - np.bincount(used_group, minlength=n_groups)
    fits = rank_in_order(group) < free[group]
    rows, group = rows[fits], group[fits]
    codes = codes.copy()

    def spread(batch: slice) -> None:
        # A copy, since a callback may use it as its own.
        table = _ask(distances, rows[batch].copy(), codebook_size)
        first, last = group[batch.start], group[batch.stop - 1]
        used = slice(*np.searchsorted(used_group, [first, last + 1]))
        start = np.searchsorted(group[batch], used_group[used], side="left")
        stop = np.searchsorted(group[batch], used_group[used], side="right")
        if used.start < used.stop:
            columns = np.repeat(used_column[used], stop - start)
            table = table.copy()
            table[ranges(start, stop), columns] = np.inf
        codes[rows[batch], -1] = _assign(table, group[batch])

    # scipy lets other threads run while it solves a problem.
    batches = list(_batches(group, max(1, BATCH_VALUES // codebook_size)))
    deque(run_chunks(spread, batches), maxlen=0)
    return codes


def _colliding(codes: np.ndarray, taken: np.ndarray) -> tuple[np.ndarray, ...]:
    """Rows and groups of prefixes with a collision, and columns that are taken."""
    n_new = len(codes)
    every = np.concatenate([codes, taken[:, :-1]])
    code = number_rows(every)
    prefix = number_prefixes(every, code)
    # A taken ID of the same code as another taken one is no collision of ours.
    crowd = np.bincount(code[:n_new], minlength=len(every))
    crowd[np.unique(code[n_new:])] += 1
    colliding = np.zeros(len(every), dtype=bool)
    colliding[prefix[:n_new][crowd[code[:n_new]] > 1]] = True
    rows = np.flatnonzero(colliding[prefix[:n_new]])
    rows = rows[stable_sort(prefix[rows])[1]]
    used = n_new + np.flatnonzero(colliding[prefix[n_new:]])
    used = used[np.unique(code[used], return_index=True)[1]]
    group = np.cumsum(colliding) - 1
    return rows, group[prefix[rows]], group[prefix[used]], every[used, -1]


def _batches(group: np.ndarray, n_rows: int) -> Iterator[slice]:
    """Slices of whole groups, of about so many rows."""
    starts = group_starts(group)
    cuts = starts[group_starts(starts // n_rows)]
    for start, stop in pairwise([*cuts.tolist(), len(group)]):
        yield slice(start, stop)


def _ask(distances: LastDistances, rows: np.ndarray, codebook_size: int) -> np.ndarray:
    """Table of distances, checked."""
    table = np.asarray(distances(rows), dtype=np.float64)
    if table.shape != (len(rows), codebook_size) or not np.isfinite(table).all():
        raise ValueError(
            f"distances of {len(rows)} rows have shape={table.shape}, which should be "
            f"({len(rows)}, {codebook_size}), and be finite. Return one row per row "
            "number and one column per codeword."
        )
    return table


def _assign(table: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Column of every row: distinct in a group, at the least total of the group."""
    column = np.empty(len(table), dtype=np.int64)
    starts = group_starts(group)
    sizes = np.diff(starts, append=len(group))
    for size in range(1, SMALL + 1):
        rows = starts[sizes == size][:, None] + np.arange(size)
        if len(rows):
            column[rows] = assign_small(table[rows])
    large = sizes > SMALL
    for start, size in zip(starts[large], sizes[large], strict=True):
        rows = slice(start, start + size)
        column[rows] = linear_sum_assignment(table[rows])[1]
    return column


def assign_small(tables: np.ndarray) -> np.ndarray:
    """Exact assignments of a few rows each, by trying the nearest columns of every row.

    Of m rows each takes one of its m nearest columns: the others hold at most m - 1.

    Parameters
    ----------
    tables : ndarray of shape (n_groups, m, n_columns), float64
        Costs, with at least m finite columns in every row.

    Returns
    -------
    columns : ndarray of shape (n_groups, m), int64
        Distinct columns of least total cost.
    """
    n_groups, m, n_columns = tables.shape
    if m == 1:
        return tables.argmin(axis=2)
    nearest = np.argpartition(tables, m - 1, axis=2)[:, :, :m]
    costs = np.take_along_axis(tables, nearest, axis=2)
    ways = np.array(list(product(range(m), repeat=m)))
    best, choice = np.full(n_groups, np.inf), np.zeros(n_groups, dtype=np.int64)
    for number, way in enumerate(ways):
        columns = nearest[:, np.arange(m), way]
        total = costs[:, np.arange(m), way].sum(axis=1)
        distinct = (np.diff(np.sort(columns, axis=1), axis=1) > 0).all(axis=1)
        better = distinct & (total < best)
        best[better], choice[better] = total[better], number
    return np.take_along_axis(nearest, ways[choice][:, :, None], axis=2)[:, :, 0]
