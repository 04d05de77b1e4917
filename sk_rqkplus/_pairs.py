"""Pairs of rows: which ones, how similar, how far apart. A chunk of pairs at a time."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# Values of the rows that are looked at together.
CHUNK_VALUES = 2**20


class Pairs(NamedTuple):
    """Pairs of places.

    Attributes
    ----------
    first, second : ndarray of shape (n_pairs,), int64
        Two different places each.

    weights : ndarray of shape (n_pairs,), float64, or None
        Weight of every pair where these are all there are; None for a sample, which
        was drawn with such weights.
    """

    first: np.ndarray
    second: np.ndarray
    weights: np.ndarray | None


# Weight of a group of m items, of which every pair has an equal part.
GROUP_WEIGHT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "pair": lambda size: size * (size - 1) / 2,
    "item": lambda size: size * 1.0,
    "group": lambda size: np.ones(len(size)),
}


def pairs_in_groups(
    bounds: np.ndarray, n_pairs: int, average: str, rng: np.random.RandomState
) -> Pairs:
    """Pairs within groups: all of them if they are few, or a sample.

    Parameters
    ----------
    bounds : ndarray of shape (n_groups + 1,), int64
        Borders of the groups among the places 0, 1, 2 and so on.

    n_pairs : int
        How many pairs to draw, with replacement, if there are more.

    average : {"pair", "item", "group"}
        What has the same weight.

    rng : RandomState
        Source of randomness.

    Returns
    -------
    pairs : Pairs
        None where no group has two places.
    """
    size = np.diff(bounds)
    start, size = bounds[:-1][size > 1], size[size > 1]
    weight = GROUP_WEIGHT[average](size)
    # In floating point, since the number of all pairs may not fit into an integer.
    if (size * (size - 1.0) / 2).sum() <= n_pairs:
        return _all_pairs(start, size, weight)
    total = np.cumsum(weight)
    draw = np.sort(rng.random_sample(n_pairs)) * total[-1]
    group = np.searchsorted(total[:-1], draw, side="right")
    first = rng.randint(size[group])
    second = rng.randint(size[group] - 1)
    second += second >= first
    return Pairs(start[group] + first, start[group] + second, None)


def _all_pairs(start: np.ndarray, size: np.ndarray, weight: np.ndarray) -> Pairs:
    n_pairs = size * (size - 1) // 2
    group = np.repeat(np.arange(len(size)), n_pairs)
    number = np.arange(len(group)) - np.repeat(np.cumsum(n_pairs) - n_pairs, n_pairs)
    # Pairs (0, 1), (0, 2), (1, 2), (0, 3), ... have the numbers
    # second (second - 1) / 2 + first.
    second = ((1 + np.sqrt(1 + 8 * number)) / 2).astype(np.int64)
    first = number - second * (second - 1) // 2
    weights = np.repeat(weight / n_pairs, n_pairs)
    return Pairs(start[group] + first, start[group] + second, weights)


def similarities(X: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine similarity of pairs of rows; that of a row of zeros is 0.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows.

    first, second : ndarray of shape (n_pairs,), int
        Row numbers.

    Returns
    -------
    values : ndarray of shape (n_pairs,), float64
        From -1 to 1.
    """

    def cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return (unit_rows(one) * unit_rows(other)).sum(axis=1)

    return np.clip(_by_chunks(cosine, X, first, second), -1, 1)


def squared_distances(
    X: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    prepare: Callable[[np.ndarray], np.ndarray] = lambda rows: rows,
) -> np.ndarray:
    """Squared Euclidean distance of pairs of rows.

    Differences, not the expanded form: the value of a pair depends on the pair alone,
    so that copies of a row are equally far from any other.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows.

    first, second : ndarray of shape (n_pairs,), int
        Row numbers.

    prepare : callable, optional
        Maps float64 rows to the rows whose distance is meant.

    Returns
    -------
    values : ndarray of shape (n_pairs,), float64
        At least 0.
    """

    def distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.square(prepare(one) - prepare(other)).sum(axis=1)

    return _by_chunks(distance, X, first, second)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Divide rows by their norms; rows of zeros stay as they are.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_features), float64
        Rows, of any finite size.

    Returns
    -------
    rows : ndarray of shape (n_rows, n_features), float64
        Rows of norm 1 or 0.
    """
    # First by the largest value, whose square might not be a float.
    largest = np.abs(rows).max(axis=1, keepdims=True)
    rows = rows / np.where(largest > 0, largest, 1)
    norms = np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
    return rows / np.where(norms > 0, norms, 1)


def _by_chunks(
    function: Callable[[np.ndarray, np.ndarray], np.ndarray],
    X: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
) -> np.ndarray:
    """Values of pairs of float64 rows, a chunk of pairs at a time."""
    values = np.empty(len(first))
    step = max(1, CHUNK_VALUES // X.shape[1])
    for start in range(0, len(first), step):
        chunk = slice(start, start + step)
        rows = (X[index[chunk]].astype(np.float64) for index in (first, second))
        values[chunk] = function(*rows)
    return values
