"""The IDs that are given, and the items that have them."""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import wraps
from os import PathLike
from typing import Any, NamedTuple, TypeVar

import numpy as np

from sk_rqkplus._deduplicate import LastDistances, deduplicate
from sk_rqkplus._entries import Entries
from sk_rqkplus._groups import as_array, check_codes, pack_rows, rank_within
from sk_rqkplus._keys import (
    KeyIndex,
    as_keys,
    check_distinct,
    has_stable_hash,
    pack_keys,
    unpack_keys,
)
from sk_rqkplus._sketch import N_SKETCH, match_rows, match_sketches, sketch
from sk_rqkplus._store import read_store, write_store
from sk_rqkplus._version import stamped, unstamped

# Of the format, and what arrays and values of a damaged one raise.
VERSION = 1
ERRORS = (AttributeError, KeyError, OverflowError, TypeError, ValueError)
Result = TypeVar("Result")


def _one_at_a_time(method: Callable[..., Result]) -> Callable[..., Result]:
    """Let a method of a catalogue see and leave a whole state, in any thread."""

    @wraps(method)
    def locked(self: "Catalogue", *args: Any, **kwargs: Any) -> Result:
        with self._lock:
            return method(self, *args, **kwargs)

    return locked


class Merge(NamedTuple):
    """What became of the items of another catalogue.

    Attributes
    ----------
    ids : ndarray of shape (n_other, n_levels + 1), int32
        IDs that the items have from now on, in the order of the other catalogue.

    known : ndarray of shape (n_other,), bool
        Items that were in both catalogues and have the ID of the first.

    changed : ndarray of shape (n_other,), bool
        Items whose ID is not the one that they had in the other catalogue.
    """

    ids: np.ndarray
    known: np.ndarray
    changed: np.ndarray


class Catalogue:
    """The IDs that are given: items are recognised, and new ones get a free ID.

    An item is known by its key, where items have keys, or else by its content: its
    :func:`sketch`, within a tolerance, because a row that comes through a matrix
    product (a PCA, say) differs in the last bit from batch to batch. Of rows that are
    close it is one with the same code, if there is one: a row halfway between two
    codewords may change its code, and keeps its ID. Rows that are equal are then told
    apart by their order of occurrence.

    An ID once given never changes. Every method does all of its work or none. Threads
    may share a catalogue: one of them reads or writes it at a time.

    Parameters
    ----------
    codebook_sizes : sequence of int
        Number of codewords per level.

    method : {"suffix", "reassign"}, default="suffix"
        How new IDs are made unique, see :func:`deduplicate`.

    tolerance : float, default=0.0
        Largest difference of a sketch value at which two rows are the same.

    origin : array-like of shape (n_features,) or float, default=0.0
        What :meth:`sketch` subtracts from rows.

    fingerprint : str, optional
        Fingerprint of the model that makes the codes, see ``fingerprint_`` of the
        estimators.

    Attributes
    ----------
    ids : ndarray of shape (n_rows, n_levels + 1), int32
        All IDs, in the order of registration.

    keys : ndarray of shape (n_rows,) or None
        Keys of all items, in the order of registration; None where they have none.

    Notes
    -----
    One row takes 28 bytes: a code of 8, a sketch of 12, 4 for the ID and 4 for the
    number of the row. Codes of more than 62 bits take 4 bytes per level more, and keys
    what they take.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_rqkplus.ids import Catalogue, sketch
    >>> X = np.array([[0.0, 1.0], [2.0, 3.0], [2.5, 3.0]])
    >>> codes = np.array([[0, 1], [1, 0], [1, 0]])
    >>> catalogue = Catalogue([2, 2])
    >>> catalogue.extend(codes, sketch(X))
    array([[0, 1, 0],
           [1, 0, 0],
           [1, 0, 1]], dtype=int32)
    >>> catalogue.lookup(codes[[2]], sketch(X[[2]]))
    array([[1, 0, 1]], dtype=int32)
    >>> catalogue.rows([1, 0])
    array([1, 2])

    With keys an item is known by its key alone:

    >>> catalogue.set_keys(["a", "b", "c"])
    >>> catalogue.lookup(codes[[0]], keys=["c"])
    array([[1, 0, 1]], dtype=int32)
    >>> catalogue.keys[catalogue.find([[1, 0, 1]])]
    array(['c'], dtype=object)
    """

    def __init__(
        self,
        codebook_sizes: Sequence[int],
        method: str = "suffix",
        tolerance: float = 0.0,
        *,
        origin: np.ndarray | float = 0.0,
        fingerprint: str | None = None,
    ):
        sizes = as_array(codebook_sizes, "codebook_sizes")
        if sizes.ndim != 1 or sizes.dtype.kind not in "iu" or (sizes < 1).any():
            raise ValueError(
                f"codebook_sizes={codebook_sizes!r} should be one or more integers "
                ">= 1. Give the number of codewords per level."
            )
        self.codebook_sizes = tuple(sizes.tolist())
        self.method = method
        self.tolerance = float(tolerance)
        self.origin = np.atleast_1d(np.asarray(origin, dtype=np.float64))
        self.fingerprint = fingerprint
        self._entries = Entries.none(self.codebook_sizes)
        self._forget()

    def _forget(self) -> None:
        """Drop what can be made of the entries anew."""
        self._index = KeyIndex()
        self._places: tuple = (None, None)
        # Locks belong to a process: they are no part of the state.
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        state = dict(vars(self))
        del state["_index"], state["_places"], state["_lock"]
        return stamped(state)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(unstamped(state, type(self).__name__))
        self._forget()

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return (
            f"<Catalogue of {len(self)} items, codebook_sizes={self.codebook_sizes}, "
            f"method={self.method!r}>"
        )

    @property
    def ids(self) -> np.ndarray:
        """All IDs, in the order of registration.

        Returns
        -------
        ids : ndarray of shape (n_rows, n_levels + 1), int32
            Codes and suffixes.
        """
        return self._entries.by_row()[0]

    @property
    def keys(self) -> np.ndarray | None:
        """Item keys, in the order of registration.

        Returns
        -------
        keys : ndarray of shape (n_rows,) or None
            Integers or objects; None where items have no keys.
        """
        keys = self._entries.keys
        return None if keys is None else keys.copy()

    def sketch(self, X: np.ndarray) -> np.ndarray:
        """Sketch rows from the origin of the catalogue.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        values : ndarray of shape (n_samples, 3), float32
            What :meth:`lookup` and :meth:`extend` recognise rows by.
        """
        return sketch(X, self.origin)

    @_one_at_a_time
    def lookup(
        self,
        codes: np.ndarray,
        sketches: np.ndarray | None = None,
        distances: LastDistances | None = None,
        *,
        keys: Iterable | None = None,
    ) -> np.ndarray:
        """Look up the IDs of rows; those of unknown rows are provisional.

        Parameters
        ----------
        codes : ndarray of shape (n_samples, n_levels), int
            Code of every row.

        sketches : ndarray of shape (n_samples, 3), optional
            Sketch of every row, which is not needed with keys.

        distances : callable, optional
            Distances to the last codebook, needed by ``"reassign"`` for unknown rows.

        keys : array-like of shape (n_samples,), optional
            Key of every item: content does not matter then.

        Returns
        -------
        ids : ndarray of shape (n_samples, n_levels + 1), int32
            IDs, all different as long as no row occurs more often than it is known.
        """
        return self._identify(*self._check(codes, sketches, keys), distances)[0]

    @_one_at_a_time
    def extend(
        self,
        codes: np.ndarray,
        sketches: np.ndarray | None = None,
        distances: LastDistances | None = None,
        *,
        keys: Iterable | None = None,
    ) -> np.ndarray:
        """Register rows for good; rows already known keep their IDs.

        Parameters
        ----------
        codes : ndarray of shape (n_samples, n_levels), int
            Code of every row.

        sketches : ndarray of shape (n_samples, 3), optional
            Sketch of every row. Without it rows are known by their keys only.

        distances : callable, optional
            Distances to the last codebook, needed by ``"reassign"`` for unknown rows.

        keys : array-like of shape (n_samples,), optional
            Key of every item, in all calls or in none. New items then come first in
            the order of :func:`deduplicate` with keys, where these are integers or
            strings.

        Returns
        -------
        ids : ndarray of shape (n_samples, n_levels + 1), int32
            IDs, as :meth:`lookup` gives them from now on.
        """
        codes, sketches, checked = self._check(codes, sketches, keys)
        self._check_keyed(checked)
        ids, unknown = self._identify(codes, sketches, checked, distances)
        self._add(ids, codes, sketches, checked, where=unknown)
        return ids

    @_one_at_a_time
    def register(
        self,
        ids: np.ndarray,
        sketches: np.ndarray | None = None,
        *,
        codes: np.ndarray | None = None,
        keys: Iterable | None = None,
    ) -> None:
        """Take over IDs that were given elsewhere, as they are.

        Parameters
        ----------
        ids : ndarray of shape (n_samples, n_levels + 1), int
            IDs, all of which are free.

        sketches : ndarray of shape (n_samples, 3), optional
            Sketch of every row. Without it rows are known by their keys only.

        codes : ndarray of shape (n_samples, n_levels), int, optional
            Code of every row, by which it is recognised; None takes those of the IDs.

        keys : array-like of shape (n_samples,), optional
            Key of every item, in all calls or in none.

        Raises
        ------
        ValueError
            If an ID is taken or occurs twice, or a key is known.
        """
        ids = self._check_ids(ids)
        codes, sketches, checked = self._check(
            ids[:, :-1] if codes is None else codes, sketches, keys
        )
        self._check_keyed(checked)
        if len(codes) != len(ids) or (codes[:, :-1] != ids[:, :-2]).any():
            raise ValueError(
                "codes should agree with ids in all levels but the last. Give the "
                "codes that the IDs were made of."
            )
        if checked is not None:
            check_distinct(checked)
            known = self._index.find(self._known_keys(), checked) >= 0
            if known.any():
                raise ValueError(
                    f"keys have the value {checked[known.argmax()]!r}, which should be "
                    "unknown to the catalogue. Leave out what is registered."
                )
        self._add(ids, codes, sketches, checked, where=slice(None))

    @_one_at_a_time
    def set_keys(self, keys: Iterable) -> None:
        """Give keys to the items, once: they are known by their keys from then on.

        Parameters
        ----------
        keys : array-like of shape (n_rows,)
            Distinct integers, strings or other hashable values, one per item, in the
            order of registration: after a fit that of its rows.

        Raises
        ------
        ValueError
            If there are keys already, or these are not one per item and distinct.
        """
        if self._entries.keys is not None:
            raise ValueError(
                f"keys of {len(self)} items are set, which should be done once. Make a "
                "new catalogue to change them."
            )
        checked = as_keys(keys, len(self))
        check_distinct(checked)
        self._entries = replace(self._entries, keys=checked)

    def find(self, ids: np.ndarray) -> np.ndarray:
        """Find the rows that have IDs.

        Parameters
        ----------
        ids : array-like of shape (n_ids, n_levels + 1), int
            IDs, of which some may be nobody's.

        Returns
        -------
        rows : ndarray of shape (n_ids,), int64
            Number of the item in the order of registration, -1 where there is none.
        """
        ids = check_codes(ids, "ids")
        if ids.shape[1] != len(self.codebook_sizes) + 1:
            raise ValueError(
                f"ids have {ids.shape[1]} columns, which should be "
                f"{len(self.codebook_sizes) + 1}. Give codes and suffix; rows takes "
                "prefixes."
            )
        start, stop, rows = self._entries.members(ids)
        found = np.full(len(ids), -1)
        found[start < stop] = rows[start[start < stop]]
        return found

    def rows(self, prefixes: np.ndarray) -> np.ndarray | list[np.ndarray]:
        """Find the rows whose IDs start with a prefix.

        Parameters
        ----------
        prefixes : array-like of shape (n_columns,) or (n_prefixes, n_columns), int
            First columns of IDs: one to all of them.

        Returns
        -------
        rows : ndarray of int64, or list of n_prefixes such arrays
            Numbers of the items in the order of registration, ascending; a list where
            there are several prefixes.
        """
        prefixes = np.asarray(prefixes)
        checked = check_codes(np.atleast_2d(prefixes))
        if checked.shape[1] > len(self.codebook_sizes) + 1:
            raise ValueError(
                f"prefixes have {checked.shape[1]} columns, which should be at most "
                f"{len(self.codebook_sizes) + 1}. Give the first columns of IDs."
            )
        start, stop, rows = self._entries.members(checked)
        if prefixes.ndim == 1:
            return rows[start[0] : stop[0]]
        return [rows[i:j] for i, j in zip(start.tolist(), stop.tolist(), strict=True)]

    @_one_at_a_time
    def merge(
        self, other: "Catalogue", distances: LastDistances | None = None
    ) -> Merge:
        """Take over the items of another catalogue of the same model.

        IDs of this catalogue do not change. Items known in both keep the ID that they
        have here. The others keep that of the other catalogue where it is free, or else
        get a new one.

        Parameters
        ----------
        other : Catalogue
            Another catalogue, which stays as it is.

        distances : callable, optional
            Maps row numbers of the other catalogue to distances to the last codebook;
            without it new IDs are made with a suffix.

        Returns
        -------
        merge : Merge
            The IDs from now on, and which of the items were known or changed.

        Raises
        ------
        ValueError
            If the catalogues are of different models, or only one of them has keys.
        """
        self._check_same_model(other)
        entries = other._entries
        (theirs, codes, sketches), keys = entries.by_row(), entries.keys
        entry = self._recognise(codes, sketches, keys)
        unknown = entry < 0
        ids = theirs.copy()
        ids[~unknown] = self._entries.ids(entry[~unknown])
        new = np.flatnonzero(unknown)
        taken = self.find(theirs[new]) >= 0
        clash, free = new[taken], new[~taken]
        ids[clash] = self._deduplicate(
            theirs[clash, :-1] if distances is None else codes[clash],
            None if distances is None else lambda rows: distances(clash[rows]),
            keys=None if keys is None else keys[clash],
            method="suffix" if distances is None else self.method,
            given=theirs[free],
        )
        self._add(ids, codes, sketches, keys, where=unknown)
        return Merge(ids, ~unknown, (ids != theirs).any(axis=1))

    def save(self, path: str | PathLike) -> None:
        """Save to a folder, whole or not at all.

        Parameters
        ----------
        path : path-like
            A new folder, or one that a catalogue was saved to before, which is replaced
            in one step.

        Raises
        ------
        ValueError
            If the folder holds anything else, or keys are neither integers nor strings.

        Notes
        -----
        ``manifest.json`` has the parameters, the fingerprint and the SHA-256 of the
        arrays, which are in a safetensors file.
        """
        write_store(path, *self._pack(), kind=type(self).__name__, version=VERSION)

    @classmethod
    def load(cls, path: str | PathLike) -> "Catalogue":
        """Load what :meth:`save` wrote.

        Parameters
        ----------
        path : path-like
            The folder.

        Returns
        -------
        catalogue : Catalogue
            With the same items, IDs and keys.

        Raises
        ------
        ValueError
            If a file is missing, changed or does not belong there, or the format is
            newer than this version.
        """
        stored = read_store(path, kind=cls.__name__, version=VERSION)
        try:
            return cls._unpack(*stored)
        except ERRORS as error:
            raise ValueError(
                f"path={str(path)!r} should hold the arrays of a catalogue, and does "
                "not. Save the catalogue again."
            ) from error

    def _pack(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays and plain values that make up the catalogue."""
        self._check_values()
        # Once, since another thread may extend the catalogue.
        entries = self._entries
        keys = {} if entries.keys is None else pack_keys(entries.keys)
        values = {
            "codebook_sizes": list(self.codebook_sizes),
            "method": self.method,
            "tolerance": self.tolerance,
            "fingerprint": self.fingerprint,
        }
        return {**entries.arrays(), **keys, "origin": self.origin}, values

    @classmethod
    def _unpack(
        cls, arrays: dict[str, np.ndarray], values: dict[str, Any]
    ) -> "Catalogue":
        """Catalogue of what :meth:`_pack` returns; one of :data:`ERRORS` if it is none.

        A file may be signed anew: everything that a method relies on is checked.
        """
        arrays = dict(arrays)
        catalogue = cls(**values, origin=arrays.pop("origin"))
        catalogue._check_values()
        table = {name: arrays.pop(name) for name in catalogue._entries.arrays()}
        keys = unpack_keys(arrays)
        entries = Entries(catalogue.codebook_sizes, **table, keys=keys)
        if arrays or not entries.is_sound():
            raise ValueError("the arrays are no table of a catalogue")
        catalogue._entries = entries
        return catalogue

    def _check_values(self) -> None:
        """Check what is no array."""
        if self.method not in ("suffix", "reassign"):
            raise ValueError(
                f"method={self.method!r} should be 'suffix' or 'reassign'. Make the "
                "catalogue anew."
            )
        if not 0 <= self.tolerance < np.inf:
            raise ValueError(
                f"tolerance={self.tolerance} should be finite and >= 0. Set it."
            )
        if self.origin.ndim != 1 or not len(self.origin):
            raise ValueError(
                f"origin has shape={self.origin.shape}, which should be one-dimensional"
                ". Set one value per feature, or one."
            )
        if not np.isfinite(self.origin).all():
            raise ValueError("origin has NaN or infinite values. Set finite ones.")
        if not isinstance(self.fingerprint, str | None):
            raise TypeError(
                f"fingerprint={self.fingerprint!r} should be a string or None. Set "
                "fingerprint_ of an estimator."
            )
        if max(self.codebook_sizes) > np.iinfo(np.int32).max:
            raise ValueError(
                f"codebook_sizes={self.codebook_sizes} should be below 2^31."
            )

    def _check(
        self,
        codes: np.ndarray,
        sketches: np.ndarray | None,
        keys: Iterable | None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Codes, sketches and keys of rows, checked."""
        codes = check_codes(codes)
        if codes.shape[1] != len(self.codebook_sizes):
            raise ValueError(
                f"codes have {codes.shape[1]} levels, which should equal the "
                f"{len(self.codebook_sizes)} codebooks of the catalogue. Give the "
                "codes of the model that the catalogue belongs to."
            )
        self._check_range(codes, "codes")
        if sketches is None and keys is None:
            raise ValueError(
                "sketches=None should come with keys. Give sketches, keys or both."
            )
        if sketches is None:
            # Equal to nothing, so that such rows are found by their keys only.
            sketches = np.full((len(codes), N_SKETCH), np.nan)
        sketches = as_array(sketches, "sketches", np.float32)
        if sketches.shape != (len(codes), N_SKETCH):
            raise ValueError(
                f"sketches have shape={sketches.shape}, which should be "
                f"({len(codes)}, {N_SKETCH}). Give one sketch per code."
            )
        if keys is None:
            return codes, sketches, None
        return codes, sketches, as_keys(keys, len(codes))

    def _check_range(self, codes: np.ndarray, name: str) -> None:
        outside = (codes < 0) | (codes >= np.array(self.codebook_sizes))
        if outside.any():
            row, level = np.argwhere(outside)[0]
            raise ValueError(
                f"{name}[{row}, {level}]={codes[row, level]} should be in [0, "
                f"{self.codebook_sizes[level]}). Give the {name} of the model that the "
                "catalogue belongs to."
            )

    def _check_ids(self, ids: np.ndarray) -> np.ndarray:
        """IDs that are free."""
        ids = check_codes(ids, "ids")
        taken = self.find(ids) >= 0
        self._check_range(ids[:, :-1], "ids")
        if (ids[:, -1] < 0).any():
            row = int((ids[:, -1] < 0).argmax())
            raise ValueError(
                f"ids[{row}, -1]={ids[row, -1]} should be >= 0. Give codes and suffix."
            )
        twice = rank_within(pack_rows(ids)) > 0
        for wrong, relation in ((taken, "free"), (twice, "given once")):
            if wrong.any():
                row = int(wrong.argmax())
                raise ValueError(
                    f"ids[{row}]={ids[row].tolist()} should be {relation}. Leave out "
                    "what is registered, or extend by these rows."
                )
        return ids

    def _check_keyed(self, keys: np.ndarray | None) -> None:
        """Refuse keys for some items only."""
        if len(self) == 0 or (keys is None) == (self._entries.keys is None):
            return
        if keys is None:
            raise ValueError(
                f"keys=None should be the keys of the rows: the {len(self)} items of "
                "the catalogue have keys. Give keys."
            )
        raise ValueError(
            f"keys should be None: the {len(self)} items of the catalogue have none. "
            "Call set_keys first."
        )

    def _check_same_model(self, other: "Catalogue") -> None:
        for name in ("codebook_sizes", "fingerprint"):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                raise ValueError(
                    f"other has {name}={theirs!r}, which should be {ours!r}: IDs of "
                    "different models mean different things. Merge catalogues of one "
                    "model."
                )
        if len(other):
            self._check_keyed(other._entries.keys)
        if not np.array_equal(self.origin, other.origin):
            raise ValueError(
                "other has another origin, which should be the same: its sketches "
                "cannot be compared. Merge catalogues that started from one fit."
            )

    def _known_keys(self) -> np.ndarray:
        keys = self._entries.keys
        return np.empty(0, dtype=np.int64) if keys is None else keys

    def _identify(
        self,
        codes: np.ndarray,
        sketches: np.ndarray,
        keys: np.ndarray | None,
        distances: LastDistances | None,
    ) -> tuple[np.ndarray, np.ndarray | slice]:
        """IDs of rows, and which rows are unknown: a mask, or a slice of them all."""
        entry = self._recognise(codes, sketches, keys)
        unknown = entry < 0
        if len(codes) and unknown.all():
            # As after a fit: many rows, none of which are copied.
            ids = self._deduplicate(codes, distances, keys=keys, method=self.method)
            return ids, slice(None)
        ids = np.empty((len(codes), codes.shape[1] + 1), dtype=np.int32)
        ids[~unknown] = self._entries.ids(entry[~unknown])
        rows = np.flatnonzero(unknown)
        if len(rows):
            ids[rows] = self._deduplicate(
                codes[rows],
                None if distances is None else lambda i: distances(rows[i]),
                keys=None if keys is None else keys[rows],
                method=self.method,
            )
        return ids, unknown

    def _recognise(
        self, codes: np.ndarray, sketches: np.ndarray, keys: np.ndarray | None
    ) -> np.ndarray:
        """Entry of every row, -1 where it is unknown."""
        if keys is None:
            if len(self) == 0:
                # Comparing the many rows of a fit with nothing would take memory.
                return np.full(len(codes), -1)
            flat = self._entries.flatten(codes)
            entries = self._entries.under(codes)
            found = match_rows(
                (self._entries.codes[entries], self._entries.sketches[entries]),
                (flat, sketches),
                self.tolerance,
            )
            entry = np.where(found < 0, -1, entries[found]) if len(entries) else found
            return self._recognise_other_codes(entry, sketches)
        if len(self):
            self._check_keyed(keys)
        row = self._index.find(self._known_keys(), keys)
        check_distinct(keys[row < 0])
        entry = np.full(len(row), -1)
        entry[row >= 0] = self._place()[row[row >= 0]]
        return entry

    def _recognise_other_codes(
        self, entry: np.ndarray, sketches: np.ndarray
    ) -> np.ndarray:
        """Entry of every row, where a row without one may be known by another code."""
        rows = np.flatnonzero(entry < 0)
        if len(rows) == 0 or self.tolerance == 0:
            return entry
        taken = entry[entry >= 0]
        entry[rows] = match_sketches(
            self._entries.sketches, sketches[rows], self.tolerance, taken
        )
        return entry

    def _add(
        self,
        ids: np.ndarray,
        codes: np.ndarray,
        sketches: np.ndarray,
        keys: np.ndarray | None,
        *,
        where: np.ndarray | slice,
    ) -> None:
        """Register some of the rows, in one step."""
        keys = None if keys is None else keys[where]
        self._entries = self._entries.with_items(
            ids[where], codes[where], sketches[where], keys
        )
        self._places = None, None

    def _place(self) -> np.ndarray:
        """Entry of every row of the catalogue."""
        entries, place = self._places
        if entries is not self._entries:
            entries = self._entries
            place = np.empty(len(entries.rows), dtype=np.uint32)
            place[entries.rows] = np.arange(len(place), dtype=np.uint32)
            self._places = entries, place
        return place

    def _deduplicate(
        self,
        codes: np.ndarray,
        distances: LastDistances | None,
        *,
        keys: np.ndarray | None,
        method: str,
        given: np.ndarray | None = None,
    ) -> np.ndarray:
        """Free IDs of new rows."""
        taken = self._entries.ids(self._entries.under(codes[:, :-1]))
        return deduplicate(
            codes,
            method,
            codebook_size=self.codebook_sizes[-1],
            distances=distances,
            taken=taken if given is None else np.concatenate([taken, given]),
            keys=keys if keys is not None and has_stable_hash(keys) else None,
        )
