"""RQKMeans on Dask: the rows are a collection, and stay where they are."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from sk_rqkplus._extras import require
from sk_rqkplus._rqkmeans import RQKMeans
from sk_rqkplus._threads import block_rows, split_rows
from sk_rqkplus.distributed._batches import lean
from sk_rqkplus.distributed._fit import (
    Block,
    call_pickled,
    fit_engine,
    in_windows,
    take_over,
)
from sk_rqkplus.ids import deduplicate

# Parts of the second pass of IDs, each of which has some of the first-level codes.
MOST_PARTS = 64


class DaskRQKMeans(BaseEstimator):
    """RQKMeans of a Dask collection, on any of Dask's schedulers.

    Codebooks, prices, codes and IDs are those of :class:`~sk_rqkplus.RQKMeans` fitted
    on the same rows, to the last bit, whatever the partitions and the workers.

    Parameters are those of :class:`~sk_rqkplus.RQKMeans`, which see; ``device`` is
    "auto" or "cpu". Nothing is remembered of the fitted rows, so that
    ``store_catalogue`` has no effect: the IDs of a collection are unique within it.

    Attributes
    ----------
    estimator_ : RQKMeans
        The fitted model, which needs no Dask. It has no ``codes_``, ``ids_`` and
        ``catalogue_``.

    codebooks_, prices_, mean_, duality_gap_, n_iter_, n_features_in_, fingerprint_
        As those of :class:`~sk_rqkplus.RQKMeans`; ``feature_names_in_``, too, where X
        is a DataFrame.

    See Also
    --------
    sk_rqkplus.RQKMeans : The same in memory.

    Notes
    -----
    Every pass over the rows computes the collection again, unless it is persisted:
    ``X = X.persist()`` keeps it in the memory of the workers.

    Examples
    --------
    >>> import dask.array as da
    >>> from sk_rqkplus.datasets import make_catalogue
    >>> from sk_rqkplus.distributed.dask import DaskRQKMeans
    >>> X = da.from_array(
    ...     make_catalogue(500, 16, random_state=0).data, chunks=(200, 16)
    ... )
    >>> model = DaskRQKMeans((8, 8), random_state=0).fit(X)
    >>> model.transform(X)
    dask.array<encode, shape=(500, 2), dtype=int32, chunksize=(200, 2), ...>
    >>> model.predict(X).compute().shape
    (500, 3)
    """

    __init__ = RQKMeans.__init__

    def fit(self, X, y=None, *, column=None):
        """Learn the codebooks.

        Parameters
        ----------
        X : Dask array or dataframe of shape (n_samples, n_features)
            Item embeddings. Chunks of unknown length are computed once to count them.

        y : None
            Ignored, present for API consistency.

        column : str, default=None
            Column of a DataFrame whose values are embeddings, lists of numbers; None
            takes all columns as features.

        Returns
        -------
        self : DaskRQKMeans
            The fitted estimator.

        Raises
        ------
        TypeError
            If X is no Dask collection.
        ValueError
            If X has no rows, is not numeric, or has a value that is not finite; the
            message names the row.
        """
        names, rows = _as_array(X, column, self.nan_policy)
        estimator = RQKMeans(**self.get_params(deep=False))
        fit_engine(estimator, DaskEngine(rows))
        if names is not None:
            estimator.feature_names_in_ = names
        take_over(self, estimator, _column=column)
        return self

    def transform(self, X):
        """SID code of every row, lazily.

        Parameters
        ----------
        X : Dask array or dataframe of shape (n_samples, n_features)
            Item embeddings.

        Returns
        -------
        codes : Dask array of shape (n_samples, n_levels), int32
            Codes, in chunks of the same rows.
        """
        return self._encode(self._rows(X))

    def fit_transform(self, X, y=None, *, column=None):
        """Fit, and return the codes of the rows, lazily.

        Parameters
        ----------
        X : Dask array or dataframe of shape (n_samples, n_features)
            Item embeddings.

        y : None
            Ignored, present for API consistency.

        column : str, default=None
            As in :meth:`fit`.

        Returns
        -------
        codes : Dask array of shape (n_samples, n_levels), int32
            Codes, in chunks of the same rows.
        """
        return self.fit(X, column=column).transform(X)

    def predict(self, X):
        """Unique ID of every row of a collection, lazily.

        A second pass over the rows: those of a first-level code come together, and
        choose in the order of their row numbers.

        Parameters
        ----------
        X : Dask array or dataframe of shape (n_samples, n_features)
            Item embeddings, all that need IDs.

        Returns
        -------
        ids : Dask array of shape (n_samples, n_levels + 1), int32
            Codes and suffixes, in chunks of the same rows; of the fitted rows they are
            ``RQKMeans.fit(X).ids_``.
        """
        rows = self._rows(X)
        return _identify(rows, self._encode(rows), lean(self.estimator_))

    def fit_predict(self, X, y=None, *, column=None):
        """Fit, and return the IDs of the rows, lazily.

        Parameters
        ----------
        X : Dask array or dataframe of shape (n_samples, n_features)
            Item embeddings.

        y : None
            Ignored, present for API consistency.

        column : str, default=None
            As in :meth:`fit`.

        Returns
        -------
        ids : Dask array of shape (n_samples, n_levels + 1), int32
            Codes and suffixes, in chunks of the same rows.
        """
        return self.fit(X, column=column).predict(X)

    def inverse_transform(self, codes):
        """Reconstruct embeddings, lazily.

        Parameters
        ----------
        codes : Dask array of shape (n_samples, n_levels) or (n_samples, n_levels + 1)
            Codes, or IDs, whose suffix is ignored.

        Returns
        -------
        X : Dask array of shape (n_samples, n_features)
            Reconstructed embeddings, in chunks of the same rows.
        """
        check_is_fitted(self)
        _check_collection(codes, "codes", "array")
        n_features, dtype = self.n_features_in_, self.mean_.dtype
        return codes.map_blocks(
            _of_rows,
            "inverse_transform",
            lean(self.estimator_),
            n_features,
            dtype=dtype,
            chunks=(codes.chunks[0], (n_features,)),
            meta=np.empty((0, 0), dtype=dtype),
        )

    def score(self, X, y=None):
        """Negative mean squared reconstruction error, so that higher is better.

        Parameters
        ----------
        X : Dask array or dataframe of shape (n_samples, n_features)
            Item embeddings.

        y : None
            Ignored, present for API consistency.

        Returns
        -------
        score : float
            ``-mean((X - inverse_transform(transform(X)))**2)``, which is computed now.
        """
        rows = self._rows(X)
        error = rows.astype(np.float64) - self.inverse_transform(self._encode(rows))
        return -float((error**2).mean().compute())

    def _rows(self, X):
        """Array of the rows of a collection, checked against the fit."""
        check_is_fitted(self)
        names, rows = _as_array(X, self._column, self.nan_policy)
        if rows.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {rows.shape[1]} features, which should be {self.n_features_in_}"
                f", as in fit. Give embeddings of the same model."
            )
        known = getattr(self, "feature_names_in_", None)
        if known is not None and names is not None and list(known) != list(names):
            raise ValueError(
                f"X has the columns {list(names)}, which should be {list(known)}, as "
                "in fit. Select them in this order."
            )
        return rows

    def _encode(self, rows):
        n_levels = len(self.codebooks_)
        return rows.map_blocks(
            _of_rows,
            "transform",
            lean(self.estimator_),
            n_levels,
            dtype=np.int32,
            chunks=(rows.chunks[0], (n_levels,)),
            meta=np.empty((0, 0), dtype=np.int32),
            token="encode",
        )


def _of_rows(
    rows: np.ndarray, method: str, model: RQKMeans, n_columns: int
) -> np.ndarray:
    """Call a method of a model for a chunk of rows, of which there may be none."""
    if len(rows) == 0:
        dtype = np.int32 if method == "transform" else model.mean_.dtype
        return np.empty((0, n_columns), dtype=dtype)
    return getattr(model, method)(rows)


def _check_collection(X: Any, name: str, *kinds: str) -> None:
    """Refuse what is none of the collections of Dask."""
    package, kind = type(X).__module__.split(".")[0], type(X).__name__.lower()
    if package.startswith("dask") and kind in kinds:
        return
    raise TypeError(
        f"{name} is a {type(X).__name__}, which should be a Dask {' or '.join(kinds)}. "
        "Use RQKMeans for what is in memory."
    )


def _as_array(
    X: Any, column: str | None, nan_policy: str
) -> tuple[np.ndarray | None, Any]:
    """Names of the features, and the rows in chunks of all their features."""
    _check_collection(X, "X", "array", "dataframe")
    names = None
    if type(X).__name__ == "DataFrame":
        names, X = _from_dataframe(X, column)
    if X.ndim != 2:
        raise ValueError(
            f"X has {X.ndim} dimensions, which should be 2. Give one row per item."
        )
    if X.dtype.kind not in "biuf":
        raise ValueError(
            f"X has dtype={X.dtype}, which should be numbers. Give embeddings."
        )
    narrow = X.dtype.kind == "f" and X.dtype.itemsize <= 4
    X = X.astype(np.float32 if narrow else np.float64)
    if nan_policy == "zero":
        X = X.map_blocks(np.nan_to_num, nan=0.0, posinf=0.0, neginf=0.0, dtype=X.dtype)
    return names, X if X.numblocks[1] == 1 else X.rechunk({1: -1})


def _from_dataframe(X: Any, column: str | None) -> tuple[np.ndarray | None, Any]:
    """Names of the features of a DataFrame, where it has them, and its values."""
    if column is None:
        names = np.asarray(X.columns, dtype=object)
        named = all(isinstance(name, str) for name in names)
        return (names if named else None), X.to_dask_array()
    if column not in X.columns:
        raise ValueError(
            f"column={column!r} should be one of {list(X.columns)}. Name the column of "
            "the embeddings."
        )
    first = X[column].head(1, npartitions=-1)
    if len(first) == 0:
        raise ValueError("X has n_samples=0 rows, which should be >= 1. Give a table.")
    if isinstance(first.iloc[0], str):
        raise ValueError(
            f"column={column!r} has strings, which should be lists of numbers. Dask "
            "makes strings of lists in memory unless its configuration has "
            "dataframe.convert-string=False."
        )
    values = np.asarray(first.iloc[0])
    if values.ndim != 1:
        raise ValueError(
            f"column={column!r} has {first.iloc[0]!r} in its first row, which should "
            "be a list of numbers. Fill it, or choose another column."
        )
    # Integers of the first row tell nothing of the others.
    values = values if values.dtype.kind == "f" else values.astype(np.float64)
    da = require("dask.array", extra="dask")
    shape = (np.nan, len(values))
    parts = [
        da.from_delayed(part, shape, meta=np.empty((0, 0), values.dtype))
        for part in _delayed(X[column].to_delayed(), _stack, len(values), values.dtype)
    ]
    return None, da.concatenate(parts, allow_unknown_chunksizes=True)


def _delayed(parts: Sequence[Any], function: Callable, *args: Any) -> list[Any]:
    """What a function returns for delayed values, delayed."""
    call = require("dask", extra="dask").delayed(function, pure=True)
    return [call(part, *args) for part in parts]


def _stack(series: Any, n_features: int, dtype: np.dtype) -> np.ndarray:
    """Rows of a partition whose values are lists."""
    lengths = series.map(lambda value: len(value) if hasattr(value, "__len__") else -1)
    wrong = np.flatnonzero(lengths.to_numpy() != n_features)
    if len(wrong):
        raise ValueError(
            f"column={series.name!r} has at index {series.index[wrong[0]]!r} a value "
            f"that is no list of {n_features} numbers. Give embeddings of one length."
        )
    if len(series) == 0:
        return np.empty((0, n_features), dtype=dtype)
    return np.stack(series.to_list()).astype(dtype)


class DaskEngine:
    """Rows of a Dask array, in blocks of fixed row numbers.

    Parameters
    ----------
    X : Dask array of shape (n_samples, n_features), float32 or float64
        Rows, in chunks of all their features.
    """

    def __init__(self, X: Any):
        if np.isnan(X.shape[0]):
            X = X.compute_chunk_sizes()
        self.n_rows, self.n_features = (int(n) for n in X.shape)
        self.dtype = np.dtype(X.dtype)
        self._blocks: list[Any] = []
        self._labels: list[list[Any]] = []
        self._persisted = 0
        if self.n_rows:
            step = block_rows(self.n_rows)
            chunks = X.rechunk({0: step, 1: -1}).to_delayed().ravel()
            call = require("dask", extra="dask").delayed(_as_block)
            starts = [rows.start for rows in split_rows(self.n_rows, step)]
            self._blocks = [call(s, c) for s, c in zip(starts, chunks, strict=True)]

    def map(
        self,
        function: Callable[[Block, Any], Any],
        argument: Any,
        blocks: Sequence[int] | None = None,
    ) -> Iterator[Any]:
        """Call a function for every block, or some of them in ascending order.

        Parameters
        ----------
        function : callable
            Maps a block and the argument to a result.

        argument : object
            The same for all blocks.

        blocks : sequence of int, optional
            Numbers of the blocks; None means all.

        Yields
        ------
        result : object
            Results in the order of the blocks.
        """
        dask = require("dask", extra="dask")
        self._persist()
        sent = pickle.dumps((function, argument))
        shared = dask.delayed(sent, traverse=False)
        quiet = {"distributed.admin.large-graph-warning-threshold": "1GB"}

        def ask(numbers: Sequence[int]) -> Sequence[bytes]:
            with dask.config.set(quiet):
                return dask.compute(*self._tasks(shared, numbers))

        wanted = range(len(self._blocks)) if blocks is None else blocks
        yield from in_windows(ask, wanted, len(sent))

    def keep(
        self, function: Callable[[Block, Any], Any], argument: Any
    ) -> "DaskEngine":
        """Add labels to every block, which are computed with the next call.

        Parameters
        ----------
        function : callable
            Maps a block and the argument to labels.

        argument : object
            The same for all blocks.

        Returns
        -------
        engine : DaskEngine
            The same rows with more labels.
        """
        dask = require("dask", extra="dask")
        sent = dask.delayed(pickle.dumps((function, argument)), traverse=False)
        kept = object.__new__(DaskEngine)
        vars(kept).update(vars(self))
        labels = self._tasks(sent, range(len(self._blocks)))
        kept._labels = [*self._labels, labels]
        return kept

    def _tasks(self, sent: Any, numbers: Sequence[int]) -> list[Any]:
        call = require("dask", extra="dask").delayed(_call, pure=False)
        labels = [[level[i] for level in self._labels] for i in numbers]
        return [
            call(self._blocks[i], known, sent)
            for i, known in zip(numbers, labels, strict=True)
        ]

    def _persist(self) -> None:
        """Let the workers hold the labels, which the graphs of calls then refer to."""
        dask = require("dask", extra="dask")
        while self._persisted < len(self._labels):
            labels = dask.persist(*self._labels[self._persisted])
            self._labels[self._persisted] = list(labels)
            self._persisted += 1


def _as_block(start: int, rows: np.ndarray) -> Block:
    return Block(start, np.ascontiguousarray(rows))


def _call(block: Block, labels: list[bytes], sent: bytes) -> bytes:
    known = tuple(pickle.loads(level) for level in labels)
    return call_pickled(sent, block._replace(labels=known))


def _identify(rows: Any, codes: Any, model: RQKMeans) -> Any:
    """IDs of all rows: parted by first-level code, numbered, and put back."""
    dask, da = require("dask", extra="dask"), require("dask.array", extra="dask")
    chunks = rows.to_delayed().ravel()
    size = len(model.codebooks_[0])
    # Items of a prefix choose among its codewords together.
    alone = len(model.codebooks_) == 1 and model.dedup == "reassign"
    n_parts = 1 if alone else min(len(chunks), size, MOST_PARTS)
    split = dask.delayed(_split, nout=n_parts)
    number = dask.delayed(_number, nout=len(chunks))
    keep_rows = model.dedup == "reassign"
    pieces = [
        split(chunk, code, n_parts, keep_rows)
        for chunk, code in zip(chunks, codes.to_delayed().ravel(), strict=True)
    ]
    parts = [
        number([piece[part] for piece in pieces], model) for part in range(n_parts)
    ]
    put_back = dask.delayed(_put_back)
    found = [
        put_back([piece[p][0] for p in range(n_parts)], [part[i] for part in parts])
        for i, piece in enumerate(pieces)
    ]
    width = len(model.codebooks_) + 1
    name = f"ids-{dask.base.tokenize(*found)}"
    layer = {(name, i, 0): ids.key for i, ids in enumerate(found)}
    high_level = require("dask.highlevelgraph", extra="dask").HighLevelGraph
    graph = high_level.from_collections(name, layer, dependencies=found)
    return da.Array(graph, name, (rows.chunks[0], (width,)), dtype=np.int32)


Piece = tuple[np.ndarray, np.ndarray, np.ndarray | None]


def _split(
    rows: np.ndarray, codes: np.ndarray, n_parts: int, keep_rows: bool
) -> list[Piece]:
    """Places, codes and rows of a chunk, for every part of the first-level codes."""
    part = codes[:, 0] % n_parts
    places = [np.flatnonzero(part == number) for number in range(n_parts)]
    return [(at, codes[at], rows[at] if keep_rows else None) for at in places]


def _number(pieces: list[Piece], model: RQKMeans) -> list[np.ndarray]:
    """IDs of the rows of one part, chunk by chunk."""
    codes = np.concatenate([piece[1] for piece in pieces])
    distances = None
    if model.dedup == "reassign":
        X = np.concatenate([piece[2] for piece in pieces])
        distances = model._last_distances(X, codes)
    size = len(model.codebooks_[-1])
    ids = deduplicate(codes, model.dedup, codebook_size=size, distances=distances)
    return np.split(ids, np.cumsum([len(piece[1]) for piece in pieces])[:-1])


def _put_back(places: list[np.ndarray], ids: list[np.ndarray]) -> np.ndarray:
    """IDs of a chunk in the order of its rows."""
    found = np.empty((sum(map(len, places)), ids[0].shape[1]), dtype=np.int32)
    for at, part in zip(places, ids, strict=True):
        found[at] = part
    return found
