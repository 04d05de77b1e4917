"""Rows of codes: one number per row, groups of equal rows, ranks."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_array

MAX_NUMBER = 2**62


def as_array(values: ArrayLike, name: str, dtype: type | None = None) -> np.ndarray:
    """Values as an array, or an error that names them."""
    try:
        return np.asarray(values, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} should be an array of numbers. Give rows of one length: {error}"
        ) from error


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Errors of scikit-learn, of which not all name the array, with its name."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if re.search(rf"\b{name}\b", str(error)):
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name}: {error}") from error


def check_integers(codes: np.ndarray, name: str = "codes", **params: int) -> np.ndarray:
    """Codes as a matrix of integers; further parameters are those of check_array."""
    with naming(name):
        codes = check_array(codes, dtype=None, input_name=name, **params)
    if codes.dtype.kind not in "iu":
        raise ValueError(
            f"{name} have dtype={codes.dtype}, which should be an integer type. "
            "Give the codes that transform returns."
        )
    return codes


def check_codes(codes: np.ndarray, name: str = "codes") -> np.ndarray:
    """Codes as an int32 matrix."""
    codes = check_integers(codes, name, ensure_min_samples=0)
    bounds = np.iinfo(np.int32)
    for value in (codes.min(initial=0), codes.max(initial=0)):
        if not bounds.min <= value <= bounds.max:
            raise ValueError(
                f"{name} have the value {value}, which should fit into 32 bits. "
                "Give the codes that transform returns."
            )
    return codes.astype(np.int32, copy=False)


def pack_rows(columns: np.ndarray) -> np.ndarray:
    """One integer per row, equal for equal rows, and in the order of the rows.

    Mixed radix where the product of the ranges of the columns fits into 62 bits; else
    the columns so far are replaced by their ranks, which are fewer than the rows.

    Parameters
    ----------
    columns : ndarray of shape (n_rows, n_columns), int
        Rows.

    Returns
    -------
    packed : ndarray of shape (n_rows,), int64
        Numbers from 0 to below 2^62.
    """
    packed, span = np.zeros(len(columns), dtype=np.int64), 1
    for column in columns.T:
        low, high = int(column.min(initial=0)), int(column.max(initial=0))
        size = high - low + 1
        if span * size > MAX_NUMBER:
            packed, span = _ranks(packed)
        if span * size > MAX_NUMBER or high > MAX_NUMBER:
            (column, size), low = _ranks(column), 0
        packed *= size
        packed += column.astype(np.int64, copy=False)
        packed -= low
        span *= size
    return packed


def _ranks(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Rank of every value among the distinct ones, and their number."""
    distinct, ranks = np.unique(values, return_inverse=True)
    return ranks.astype(np.int64, copy=False), len(distinct)


def stable_sort(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort non-negative integers, first come first.

    Parameters
    ----------
    values : ndarray of shape (n,), int64
        Numbers from 0 to below 2^62.

    Returns
    -------
    ordered : ndarray of shape (n,), int64
        Sorted values.

    order : ndarray of shape (n,), int64
        Their positions.
    """
    bits, largest = len(values).bit_length(), int(values.max(initial=0))
    if largest < 2**16 or largest >> (62 - bits):
        # NumPy sorts short integers by radix.
        short = values.astype(np.uint16) if largest < 2**16 else values
        order = np.argsort(short, kind="stable")
        return values[order], order
    # Value and position in one word: sorting words takes half the time of argsort.
    words = values << bits
    words |= np.arange(len(values))
    words.sort()
    return words >> bits, words & ((1 << bits) - 1)


def group_starts(ordered: np.ndarray) -> np.ndarray:
    """Where a new value begins in a sorted array.

    Parameters
    ----------
    ordered : ndarray of shape (n,)
        Sorted values.

    Returns
    -------
    starts : ndarray of shape (n_groups,), int64
        Positions, the first of which is 0.
    """
    if len(ordered) == 0:
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])


def number_rows(columns: np.ndarray) -> np.ndarray:
    """Number the distinct rows of an integer matrix from 0, in sorted order.

    Parameters
    ----------
    columns : ndarray of shape (n_rows, n_columns), int
        Rows of at most 32 bits per value.

    Returns
    -------
    numbers : ndarray of shape (n_rows,), int64
        The same for equal rows only.
    """
    ordered, order = stable_sort(pack_rows(columns))
    starts = group_starts(ordered)
    sizes = np.diff(starts, append=len(order))
    numbers = np.empty(len(order), dtype=np.int64)
    numbers[order] = np.repeat(np.arange(len(starts)), sizes)
    return numbers


def number_prefixes(columns: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Number the distinct rows without their last column, given those with it.

    Parameters
    ----------
    columns : ndarray of shape (n_rows, n_columns), int
        Rows.

    numbers : ndarray of shape (n_rows,), int64
        ``number_rows(columns)``.

    Returns
    -------
    prefixes : ndarray of shape (n_rows,), int64
        ``number_rows(columns[:, :-1])``, without sorting again.
    """
    one = np.empty(numbers.max(initial=-1) + 1, dtype=np.int64)
    one[numbers] = np.arange(len(numbers))
    distinct = columns[one, :-1]
    new = (distinct[1:] != distinct[:-1]).any(axis=1)
    return np.r_[0, np.cumsum(new)][numbers]


def rank_within(group: np.ndarray) -> np.ndarray:
    """Position of every element among those of its group, in order of occurrence.

    Parameters
    ----------
    group : ndarray of shape (n,), int64
        Numbers from 0 to below 2^62.

    Returns
    -------
    rank : ndarray of shape (n,), int64
        0 for the first element of every group.
    """
    ordered, order = stable_sort(group)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = rank_in_order(ordered)
    return rank


def rank_in_order(ordered: np.ndarray) -> np.ndarray:
    """Position of every element among those of its group, where these are sorted.

    Parameters
    ----------
    ordered : ndarray of shape (n,), int64
        Sorted numbers.

    Returns
    -------
    rank : ndarray of shape (n,), int64
        0 for the first element of every group.
    """
    starts = group_starts(ordered)
    sizes = np.diff(starts, append=len(ordered))
    return np.arange(len(ordered)) - np.repeat(starts, sizes)


def ranges(start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Concatenation of ``arange(start[i], stop[i])``.

    Parameters
    ----------
    start, stop : ndarray of shape (n,), int64
        Bounds, with ``start <= stop``.

    Returns
    -------
    joined : ndarray, int64
        The numbers of all ranges.
    """
    sizes = stop - start
    before = np.cumsum(sizes) - sizes
    return np.arange(sizes.sum()) + np.repeat(start - before, sizes)
