"""Churn: how many IDs changed from one catalogue to the next."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from sk_rqkplus._catalogue import Catalogue
from sk_rqkplus._groups import check_codes
from sk_rqkplus._keys import KeyIndex, as_keys, check_distinct


@dataclass(frozen=True)
class IDChanges:
    """What changed between the IDs of two catalogues.

    Attributes
    ----------
    n_common : int
        Items in both.

    n_added : int
        Items in the new one only.

    n_removed : int
        Items in the old one only.

    id_changed : float
        Share of the common items whose ID changed; 0 where there are none.

    prefix_changed : tuple of float
        For every level the share of the common items whose prefix up to that level
        changed.
    """

    n_common: int
    n_added: int
    n_removed: int
    id_changed: float
    prefix_changed: tuple[float, ...]

    def to_dict(self) -> dict:
        """Return the figures by name.

        Returns
        -------
        figures : dict
            Plain Python values.
        """
        return asdict(self)


def compare_ids(
    old: np.ndarray | Mapping | Catalogue,
    new: np.ndarray | Mapping | Catalogue,
    *,
    old_keys: Iterable | None = None,
    new_keys: Iterable | None = None,
) -> IDChanges:
    """Compare the IDs of the same items before and after.

    Parameters
    ----------
    old, new : array-like of shape (n, n_levels + 1), mapping of key to ID, or Catalogue
        IDs before and after. Items are matched by key where there are keys, and else
        row by row; a catalogue without keys counts as the array of its ``ids``.

    old_keys, new_keys : array-like of shape (n,), optional
        Item keys of arrays, for both or for none.

    Returns
    -------
    changes : IDChanges
        Shares of IDs and of prefixes that changed, and counts of items.

    Raises
    ------
    ValueError
        If only one side has keys, or without keys the numbers of rows differ.

    Notes
    -----
    The numbers of codewords mean nothing by themselves. Two fits may number the same
    clusters differently, and then nearly all IDs change.

    Examples
    --------
    >>> from sk_rqkplus.ids import compare_ids
    >>> old = {"a": (0, 3, 0), "b": (0, 4, 0), "c": (1, 1, 0)}
    >>> new = {"a": (0, 3, 0), "b": (0, 5, 0), "d": (1, 1, 0)}
    >>> changes = compare_ids(old, new)
    >>> changes.n_common, changes.id_changed, changes.prefix_changed
    (2, 0.5, (0.0, 0.5))
    """
    ids, keys = _ids_and_keys(old, old_keys, "old")
    new_ids, other_keys = _ids_and_keys(new, new_keys, "new")
    if ids.shape[1] != new_ids.shape[1] and len(ids) and len(new_ids):
        raise ValueError(
            f"old and new have {ids.shape[1]} and {new_ids.shape[1]} columns, which "
            "should be the same. Compare IDs of as many levels."
        )
    n_old, n_new = len(ids), len(new_ids)
    if (keys is None) != (other_keys is None):
        raise ValueError(
            "keys should be known of both sides or of none. Give old_keys and "
            "new_keys, or set the keys of the catalogue."
        )
    if keys is not None and other_keys is not None:
        position = KeyIndex().find(other_keys, keys)
        ids, new_ids = ids[position >= 0], new_ids[position[position >= 0]]
    elif n_old != n_new:
        raise ValueError(
            f"n_old={n_old} should equal n_new={n_new}, since rows are compared one by "
            "one. Give keys to match items."
        )
    # A prefix differs from the first level on that does.
    differs = np.logical_or.accumulate(ids != new_ids, axis=1)
    shares = differs.mean(axis=0).tolist() if len(ids) else [0.0] * ids.shape[1]
    return IDChanges(
        n_common=len(ids),
        n_added=n_new - len(ids),
        n_removed=n_old - len(ids),
        id_changed=shares[-1],
        prefix_changed=tuple(shares[:-1]),
    )


def _ids_and_keys(
    ids: np.ndarray | Mapping | Catalogue, keys: Iterable | None, name: str
) -> tuple[np.ndarray, np.ndarray | None]:
    if keys is not None and isinstance(ids, Mapping | Catalogue):
        raise ValueError(
            f"{name}_keys should be None: {name} has keys of its own. Leave them out."
        )
    if isinstance(ids, Catalogue):
        return ids.ids, ids.keys
    if isinstance(ids, Mapping):
        table = np.array(list(ids.values()), dtype=None if ids else np.int32)
        return check_codes(table if ids else table.reshape(0, 1), name), as_keys(ids)
    ids = check_codes(ids, name)
    if keys is None:
        return ids, None
    keys = as_keys(keys, len(ids), name=f"{name}_keys")
    check_distinct(keys, f"{name}_keys")
    return ids, keys
