"""From codes that several items may share to one ID per item.

An ID is a code and one more column, the suffix. Everything here works on arrays, and so
on anybody's codes.
"""

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.utils.validation import check_array

from sk_rqkplus._threads import map_chunks

__all__ = ["Catalogue", "deduplicate", "sketch"]

N_SKETCH = 4
MAX_KEY = 2**62
CHUNK_ROWS = 2048
BATCH_ROWS = 8192

LastDistances = Callable[[np.ndarray], np.ndarray]


def deduplicate(
    codes: np.ndarray,
    method: str = "suffix",
    *,
    codebook_size: int | None = None,
    distances: LastDistances | None = None,
    taken: np.ndarray | None = None,
) -> np.ndarray:
    """Make codes unique.

    Parameters
    ----------
    codes : array-like of shape (n_samples, n_levels), int
        One code per item; rows come first in the order in which they are given.

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
        these rows to the last-level codewords. Needed by ``"reassign"``.

    taken : ndarray of shape (n_taken, n_levels + 1), int, optional
        IDs that are given already.

    Returns
    -------
    ids : ndarray of shape (n_samples, n_levels + 1), int32
        Codes and suffix; all rows differ from each other and from ``taken``.

    Raises
    ------
    ValueError
        If ``method`` is unknown, or ``"reassign"`` lacks what it needs.

    Examples
    --------
    >>> from sk_rqkplus.ids import deduplicate
    >>> deduplicate([[3, 1], [3, 2], [3, 1]])
    array([[3, 1, 0],
           [3, 2, 0],
           [3, 1, 1]], dtype=int32)
    """
    codes = _check_codes(codes)
    if taken is None:
        taken = np.empty((0, codes.shape[1] + 1), dtype=np.int32)
    if method == "reassign":
        if codebook_size is None or distances is None:
            raise ValueError(
                "method='reassign' should come with codebook_size and distances. Give "
                "the size of the last codebook and the distances to its codewords."
            )
        codes = _reassign(codes, codebook_size, distances, taken)
    elif method != "suffix":
        raise ValueError(
            f"method={method!r} should be 'suffix' or 'reassign'. Choose one of them."
        )
    return _append_suffix(codes, taken)


def _check_codes(codes: np.ndarray) -> np.ndarray:
    codes = check_array(codes, dtype=None, ensure_min_samples=0, input_name="codes")
    if codes.dtype.kind not in "iu":
        raise ValueError(
            f"codes have dtype={codes.dtype}, which should be an integer type. "
            "Give the codes that transform returns."
        )
    bounds = np.iinfo(np.int32)
    for value in (codes.min(initial=0), codes.max(initial=0)):
        if not bounds.min <= value <= bounds.max:
            raise ValueError(
                f"codes have the value {value}, which should fit into 32 bits. "
                "Give the codes that transform returns."
            )
    return codes.astype(np.int32)


def _groups(columns: np.ndarray) -> np.ndarray:
    """Number the distinct rows of an integer matrix."""
    group = np.zeros(len(columns), dtype=np.int64)
    for column in columns.T:
        _, column = np.unique(column, return_inverse=True)
        group = group * (column.max(initial=0) + 1) + column
        _, group = np.unique(group, return_inverse=True)
    return group


def _rank_within(group: np.ndarray) -> np.ndarray:
    """Position of every element among those of its group, in order of occurrence."""
    order = np.argsort(group, kind="stable")
    ranked = group[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    sizes = np.diff(np.r_[starts, len(group)])
    rank = np.empty(len(group), dtype=np.int64)
    rank[order] = np.arange(len(group)) - np.repeat(starts, sizes)
    return rank


def _append_suffix(codes: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Count the items of each code on from the largest suffix that is taken."""
    n_new = len(codes)
    if n_new == 0:
        return np.empty((0, codes.shape[1] + 1), dtype=np.int32)
    group = _groups(np.concatenate([codes, taken[:, :-1]]))
    first = np.zeros(group.max() + 1, dtype=np.int64)
    np.maximum.at(first, group[n_new:], taken[:, -1] + 1)
    suffix = first[group[:n_new]] + _rank_within(group[:n_new])
    return np.column_stack([codes, suffix]).astype(np.int32)


def _reassign(
    codes: np.ndarray, codebook_size: int, distances: LastDistances, taken: np.ndarray
) -> np.ndarray:
    """Spread the items of every prefix that has a collision over its free codewords."""
    codes = codes.copy()
    n_new = len(codes)
    every = np.concatenate([codes, taken[:, :-1]])
    prefix, code = _groups(every[:, :-1]), _groups(every)
    # A taken ID of the same code as another taken one is no collision of ours.
    crowded = np.bincount(code[:n_new], minlength=len(every)) + np.isin(
        np.arange(len(every)), code[n_new:]
    )
    colliding = np.unique(prefix[:n_new][crowded[code[:n_new]] > 1])
    order = np.argsort(prefix, kind="stable")
    starts = np.searchsorted(prefix[order], colliding, side="left")
    stops = np.searchsorted(prefix[order], colliding, side="right")
    # Distances of many small groups at a time: one by one, calls would cost more.
    batches = np.cumsum(stops - starts) // BATCH_ROWS
    for batch in np.split(np.arange(len(starts)), np.flatnonzero(np.diff(batches)) + 1):
        placed, free = [], []
        for start, stop in zip(starts[batch], stops[batch], strict=True):
            members = order[start:stop]
            occupied = every[members[members >= n_new], -1]
            free.append(np.setdiff1d(np.arange(codebook_size), occupied))
            placed.append(members[members < n_new][: len(free[-1])])
        rows = np.concatenate([*placed, np.empty(0, dtype=np.int64)])
        if len(rows) == 0:
            continue
        table = distances(rows)
        ends = np.cumsum([len(members) for members in placed])
        for part, members, columns in zip(
            np.split(table, ends[:-1]), placed, free, strict=True
        ):
            row, column = linear_sum_assignment(part[:, columns])
            codes[members[row], -1] = columns[column]
    return codes


def sketch(X: np.ndarray, origin: np.ndarray | float = 0.0) -> np.ndarray:
    """Four numbers that tell a row from others, and change little with rounding.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows; only a part of them is ever copied.

    origin : ndarray of shape (n_features,) or float, default=0
        Subtracted first, so that a common offset does not hide differences.

    Returns
    -------
    values : ndarray of shape (n_samples, 4), float32
        Sums of the row under four fixed random signs, over ``sqrt(n_features)``.
    """
    n_features = X.shape[1]
    signs = np.random.RandomState(0).randint(2, size=(n_features, N_SKETCH)) * 2.0 - 1
    signs /= np.sqrt(n_features)
    values = np.empty((len(X), N_SKETCH), dtype=np.float32)

    def fill(chunk: slice) -> None:
        values[chunk] = (X[chunk].astype(np.float64) - origin) @ signs

    deque(map_chunks(fill, len(X), CHUNK_ROWS), maxlen=0)
    return values


class Catalogue:
    """The IDs that are given: rows are recognised, and new ones get a free ID.

    A row is known by its code and its :func:`sketch`, within a tolerance, because a row
    that comes through a matrix product (a PCA, say) differs in the last bit from batch
    to batch. Rows that are equal are told apart by their order of occurrence.

    Parameters
    ----------
    codebook_sizes : sequence of int
        Number of codewords per level.

    method : {"suffix", "reassign"}, default="suffix"
        How new IDs are made unique, see :func:`deduplicate`.

    tolerance : float, default=0.0
        Largest difference of a sketch value at which two rows are the same.

    Notes
    -----
    One row takes 28 bytes: a key of 8, a sketch of 16, and 4 for the ID.

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
    """

    def __init__(
        self,
        codebook_sizes: Sequence[int],
        method: str = "suffix",
        tolerance: float = 0.0,
    ):
        self.codebook_sizes = tuple(int(size) for size in codebook_sizes)
        self.method = method
        self.tolerance = tolerance
        self._keys = np.empty(0, dtype=np.int64)
        self._sketch = np.empty((0, N_SKETCH), dtype=np.float32)
        # Last codeword and suffix of the ID, in one number.
        self._slots = np.empty(0, dtype=np.int32)

    def __len__(self) -> int:
        return len(self._keys)

    def lookup(
        self,
        codes: np.ndarray,
        sketches: np.ndarray,
        distances: LastDistances | None = None,
    ) -> np.ndarray:
        """Look up the IDs of rows; those of unknown rows are provisional.

        Parameters
        ----------
        codes : ndarray of shape (n_samples, n_levels), int
            Code of every row.

        sketches : ndarray of shape (n_samples, 4)
            Sketch of every row.

        distances : callable, optional
            Distances to the last codebook, needed by ``"reassign"`` for unknown rows.

        Returns
        -------
        ids : ndarray of shape (n_samples, n_levels + 1), int32
            IDs, all different as long as no row occurs more often than it is known.
        """
        codes = self._check(codes, sketches)
        return self._identify(codes, sketches, distances)[0]

    def extend(
        self,
        codes: np.ndarray,
        sketches: np.ndarray,
        distances: LastDistances | None = None,
    ) -> np.ndarray:
        """Register rows for good; rows already known keep their IDs.

        Parameters
        ----------
        codes : ndarray of shape (n_samples, n_levels), int
            Code of every row.

        sketches : ndarray of shape (n_samples, 4)
            Sketch of every row.

        distances : callable, optional
            Distances to the last codebook, needed by ``"reassign"`` for unknown rows.

        Returns
        -------
        ids : ndarray of shape (n_samples, n_levels + 1), int32
            IDs, as :meth:`lookup` gives them from now on.
        """
        codes = self._check(codes, sketches)
        sketches = np.asarray(sketches, dtype=np.float32)
        ids, unknown = self._identify(codes, sketches, distances)
        slots = ids[:, -2] + ids[:, -1].astype(np.int64) * self.codebook_sizes[-1]
        if slots.max(initial=0) > np.iinfo(np.int32).max:
            raise ValueError(
                f"suffix={ids[:, -1].max()} should be below "
                f"{2**31 // self.codebook_sizes[-1]}. Remove copies from the rows."
            )
        keys = np.concatenate([self._keys, self._flatten(codes[unknown])])
        order = np.argsort(keys, kind="stable")
        state = (
            keys[order],
            np.concatenate([self._sketch, sketches[unknown]])[order],
            np.concatenate([self._slots, slots[unknown].astype(np.int32)])[order],
        )
        self._keys, self._sketch, self._slots = state
        return ids

    def _check(self, codes: np.ndarray, sketches: np.ndarray) -> np.ndarray:
        codes = _check_codes(codes)
        if codes.shape[1] != len(self.codebook_sizes):
            raise ValueError(
                f"codes have {codes.shape[1]} levels, which should equal the "
                f"{len(self.codebook_sizes)} codebooks of the catalogue. Give the "
                "codes of the model that the catalogue belongs to."
            )
        if len(sketches) != len(codes):
            raise ValueError(
                f"n_sketches={len(sketches)} should equal n_codes={len(codes)}. Give "
                "one sketch per code."
            )
        outside = (codes < 0) | (codes >= np.array(self.codebook_sizes))
        if outside.any():
            row, level = np.argwhere(outside)[0]
            raise ValueError(
                f"codes[{row}, {level}]={codes[row, level]} should be in [0, "
                f"{self.codebook_sizes[level]}). Give the codes of the model that the "
                "catalogue belongs to."
            )
        return codes

    def _flatten(self, codes: np.ndarray) -> np.ndarray:
        """One integer per code; codes of one prefix are neighbours."""
        prefix = np.zeros(len(codes), dtype=np.int64)
        room = MAX_KEY // self.codebook_sizes[-1]
        for column, size in zip(codes.T[:-1], self.codebook_sizes[:-1], strict=True):
            # Past 62 bits this is a hash; two prefixes that share one only share the
            # count of suffixes.
            prefix = (prefix * size + column) % room
        return prefix * self.codebook_sizes[-1] + codes[:, -1]

    def _identify(
        self, codes: np.ndarray, sketches: np.ndarray, distances: LastDistances | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """IDs of rows, and which rows are unknown."""
        keys = self._flatten(codes)
        entry = self._match(keys, np.asarray(sketches, dtype=np.float32))
        size = self.codebook_sizes[-1]
        slots = self._slots[entry] if len(self) else np.zeros(len(codes), np.int32)
        ids = np.column_stack([codes[:, :-1], slots % size, slots // size])
        unknown = entry < 0
        if unknown.any():
            rows = np.flatnonzero(unknown)
            ids[rows] = deduplicate(
                codes[rows],
                self.method,
                codebook_size=size,
                distances=None if distances is None else lambda i: distances(rows[i]),
                taken=self._taken(codes[rows], keys[rows]),
            )
        return ids.astype(np.int32), unknown

    def _taken(self, codes: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """IDs given already under the prefixes of some codes."""
        size = self.codebook_sizes[-1]
        # By prefix, not by key: prefixes that share a hash each need the IDs under it.
        _, first = np.unique(_groups(codes[:, :-1]), return_index=True)
        prefix = keys[first] // size
        start = np.searchsorted(self._keys, prefix * size)
        stop = np.searchsorted(self._keys, (prefix + 1) * size)
        slots = self._slots[_ranges(start, stop)]
        prefixes = np.repeat(codes[first, :-1], stop - start, axis=0)
        return np.column_stack([prefixes, slots % size, slots // size])

    def _match(self, keys: np.ndarray, sketches: np.ndarray) -> np.ndarray:
        """Entry of every row, or -1: equal sketches first, then close ones."""
        found = np.full(len(keys), -1)
        wanted = np.unique(keys)
        start = np.searchsorted(self._keys, wanted, side="left")
        stop = np.searchsorted(self._keys, wanted, side="right")
        entries = _ranges(start, stop)
        for tolerance in (0.0, self.tolerance):
            open_ = np.flatnonzero(found < 0)
            if len(entries) == 0 or len(open_) == 0:
                break
            both = _same_rows(
                np.concatenate([self._keys[entries], keys[open_]]),
                np.concatenate([self._sketch[entries], sketches[open_]]),
                tolerance,
            )
            pairs = _pair(both[: len(entries)], both[len(entries) :])
            matched = pairs >= 0
            found[open_[matched]] = entries[pairs[matched]]
            entries = np.delete(entries, pairs[matched])
        return found


def _ranges(start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Concatenation of ``arange(start[i], stop[i])``."""
    sizes = stop - start
    before = np.cumsum(sizes) - sizes
    return np.arange(sizes.sum()) + np.repeat(start - before, sizes)


def _same_rows(keys: np.ndarray, sketches: np.ndarray, tolerance: float) -> np.ndarray:
    """Group rows of one key whose sketches are linked by steps within a tolerance."""
    group = keys
    for column in sketches.T:
        order = np.lexsort((column, group))
        step = np.diff(column[order].astype(np.float64)) > tolerance
        new = np.r_[False, step | (np.diff(group[order]) != 0)]
        group = np.empty(len(keys), dtype=np.int64)
        group[order] = np.cumsum(new)
    return group


def _pair(entries: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Give the j-th query of a group its j-th entry, or -1 where there are fewer."""
    order = np.argsort(entries, kind="stable")
    start = np.searchsorted(entries[order], queries, side="left")
    stop = np.searchsorted(entries[order], queries, side="right")
    position = start + _rank_within(queries)
    return np.where(position < stop, order[np.minimum(position, len(order) - 1)], -1)
