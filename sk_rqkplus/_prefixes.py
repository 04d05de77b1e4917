"""Items by the first levels of their codes: keys, sizes of groups, order."""

from typing import NamedTuple

import numpy as np

from sk_rqkplus._groups import pack_rows


class Prefixes(NamedTuple):
    """Rows in the order of their codes: items that share a prefix stand side by side.

    Attributes
    ----------
    order : ndarray of shape (n_samples,), int64
        Row numbers; items of one code keep the order of their rows.

    bounds : list of n_levels + 1 ndarrays, int64
        ``bounds[l]`` are the places in ``order`` where the first l levels change, from
        0 to n_samples: the borders of the groups that share them.
    """

    order: np.ndarray
    bounds: list[np.ndarray]


def group_sizes(codes: np.ndarray) -> np.ndarray:
    """Number of items of every code that is in use, in the order of the codes.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_levels), int
        Non-negative codes, at least one.

    Returns
    -------
    sizes : ndarray of shape (n_codes,), int64
        At least 1 each.
    """
    keys = pack_rows(codes)
    keys.sort()
    return np.diff(bounds_of_runs(keys))


def sort_by_prefix(codes: np.ndarray) -> Prefixes:
    """Order rows by their codes and mark where prefixes change.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_levels), int
        Non-negative codes, at least one.

    Returns
    -------
    prefixes : Prefixes
        Order and borders for every length of prefix, 0 included.
    """
    order = np.argsort(pack_rows(codes), kind="stable")
    changes = np.zeros(len(codes) + 1, dtype=bool)
    changes[[0, -1]] = True
    bounds = [np.flatnonzero(changes)]
    for column in codes.T:
        column = column[order]
        changes[1:-1] |= column[1:] != column[:-1]
        bounds.append(np.flatnonzero(changes))
    return Prefixes(order, bounds)


def bounds_of_runs(values: np.ndarray) -> np.ndarray:
    """Where the runs of equal values begin, and the end of the last one.

    Parameters
    ----------
    values : ndarray of shape (n_samples,)
        Sorted values, at least one.

    Returns
    -------
    bounds : ndarray of shape (n_runs + 1,), int64
        From 0 to n_samples.
    """
    changes = np.ones(len(values) + 1, dtype=bool)
    np.not_equal(values[1:], values[:-1], out=changes[1:-1])
    return np.flatnonzero(changes)
