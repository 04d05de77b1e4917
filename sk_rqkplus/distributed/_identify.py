"""Unique IDs of encoded rows, in a second pass over groups of codes."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from sk_rqkplus._extras import require
from sk_rqkplus._groups import check_codes, group_starts
from sk_rqkplus._lists import list_value, rows_of_lists
from sk_rqkplus._pipelines import prepared, quantizer
from sk_rqkplus.distributed._batches import (
    check_complete,
    check_model,
    lists_of_rows,
    row_name,
)
from sk_rqkplus.ids import deduplicate


def identify(
    table: Any,
    model: Any,
    *,
    key: str = "item_id",
    order: str | None = None,
    embedding: str = "embedding",
    taken: np.ndarray | None = None,
) -> Any:
    """Unique IDs of rows that are encoded.

    Parameters
    ----------
    table : pyarrow.Table
        All rows that share a first-level code, or a union of such groups, with the
        columns ``codes``, ``key`` and, where ``dedup="reassign"``, ``embedding``. Of a
        model of one level: all rows.

    model : estimator or Pipeline
        Fitted estimator of this package, or a Pipeline that ends in one. Its ``dedup``
        says how IDs are made unique.

    key : str, default="item_id"
        Column of distinct keys, integers or strings, without nulls.

    order : str, optional
        Column of numbers: rows come first by it, the largest first, then by key.
        Popularity, say, gives popular items the small suffixes.

    embedding : str, default="embedding"
        Column of lists of numbers.

    taken : ndarray of shape (n_taken, n_levels + 1), int, optional
        IDs of these groups that are given already.

    Returns
    -------
    ids : pyarrow.Table
        The columns ``key`` and ``ids`` (lists of n_levels + 1 int32), in the order of
        the rows of ``table``.

    Raises
    ------
    ValueError
        If a column is missing or incomplete, a key occurs twice, or codes are none of
        the model.

    Notes
    -----
    Rows come first by their rank, not by their place in a file: the IDs do not depend
    on how rows were partitioned. Where the rows of a fit are in the order of their
    keys, the IDs are its ``ids_``.

    Examples
    --------
    >>> import numpy as np
    >>> import pyarrow as pa
    >>> from sk_rqkplus import RQKMeans
    >>> from sk_rqkplus.distributed import identify
    >>> X = np.array([[0.0], [1.0], [8.0], [9.0]])
    >>> model = RQKMeans((2, 2), dedup="suffix", random_state=0).fit(X)
    >>> table = pa.table({"item_id": list("cab"), "codes": [[1, 0], [1, 0], [0, 1]]})
    >>> identify(table, model)["ids"].to_pylist()
    [[1, 0, 1], [1, 0, 0], [0, 1, 0]]
    """
    pa = require("pyarrow", extra="parquet")
    check_model(model)
    codes = codes_of(table, model)
    rank = _ranks(table, key, order)
    if taken is None:
        taken = np.empty((0, codes.shape[1] + 1), dtype=np.int32)
    taken = check_codes(taken)
    last = quantizer(model)
    distances = _Distances(table, model, codes, key, embedding)
    ids = np.empty((len(codes), codes.shape[1] + 1), dtype=np.int32)
    for rows, used in _groups(codes, rank, taken, last.dedup):
        # Groups of prefixes do not meet, so that each is a call of its own: whatever
        # else is in the table, its arithmetic is the same to the last bit.
        ids[rows] = deduplicate(
            codes[rows],
            last.dedup,
            codebook_size=len(last.codebooks_[-1]),
            distances=distances.among(rows),
            taken=used,
        )
    return pa.table({key: table[key], "ids": lists_of_rows(ids)})


def codes_of(table: Any, model: Any, column: str = "codes") -> np.ndarray:
    """Codes of a table, checked.

    Parameters
    ----------
    table : pyarrow.Table
        Table with a column of lists of integers.

    model : estimator or Pipeline
        The model that made them.

    column : str, default="codes"
        Name of the column.

    Returns
    -------
    codes : ndarray of shape (n_rows, n_levels), int32
        The codes.
    """
    sizes = np.array([len(book) for book in quantizer(model).codebooks_])
    if column not in table.schema.names:
        raise ValueError(
            f"table has the columns {table.schema.names}, which should include "
            f"{column!r}. Give what encode_batch returns."
        )
    pa = require("pyarrow", extra="parquet")
    kind = list_value(table.schema.field(column).type)
    if kind is None or not pa.types.is_integer(kind):
        raise ValueError(
            f"{column} have type {table.schema.field(column).type}, which should be "
            "lists of integers. Give what encode_batch returns."
        )
    if len(table) == 0:
        return np.empty((0, len(sizes)), dtype=np.int32)
    lists = table[column].combine_chunks()
    codes = rows_of_lists(lists, column, lambda row: f"row {row}")
    if codes.shape[1] != len(sizes) or (codes < 0).any() or (codes >= sizes).any():
        raise ValueError(
            f"{column} should have {len(sizes)} values from 0 to below "
            f"{sizes.tolist()}. Give the codes of this model."
        )
    return codes.astype(np.int32)


def _ranks(table: Any, key: str, order: str | None) -> np.ndarray:
    """Rows in the order in which they choose."""
    pc = require("pyarrow.compute", extra="parquet")
    check_keys(table, key)
    ways = [(key, "ascending")]
    if order is not None:
        _check_order(table, order, key)
        ways.insert(0, (order, "descending"))
    return pc.sort_indices(table, sort_keys=ways).to_numpy().astype(np.int64)


def check_keys(table: Any, key: str) -> None:
    """Refuse keys that do not name the rows of a table.

    Parameters
    ----------
    table : pyarrow.Table
        The table.

    key : str
        Its column of keys.
    """
    pc = require("pyarrow.compute", extra="parquet")
    if table.schema.names.count(key) != 1:
        raise ValueError(
            f"key={key!r} should be one of the columns, {table.schema.names}. Choose "
            "one."
        )
    check_key_type(key, table.schema.field(key).type)
    column = table[key]
    check_complete(column, key)
    if pc.count_distinct(column).as_py() != len(column):
        counts = pc.value_counts(column)
        most = pc.index(counts.field("counts"), pc.max(counts.field("counts")))
        twice = counts.field("values")[most.as_py()].as_py()
        raise ValueError(
            f"{key}={twice!r} is in more than one row, and keys should be distinct. "
            "Give every item a key of its own."
        )


def check_key_type(key: str, kind: Any) -> None:
    """Refuse keys that have no order that is the same everywhere."""
    types = require("pyarrow", extra="parquet").types
    if not (
        types.is_integer(kind)
        or types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
    ):
        raise ValueError(
            f"key={key!r} has type {kind}, which should be integers, strings or bytes. "
            "Cast it, or choose another column."
        )


def _check_order(table: Any, order: str, key: str) -> None:
    pa = require("pyarrow", extra="parquet")
    pc = require("pyarrow.compute", extra="parquet")
    kind = table.schema.field(order).type if order in table.schema.names else None
    if kind is None or not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise ValueError(
            f"order={order!r} should be a column of numbers among "
            f"{table.schema.names}. Choose one."
        )
    missing = pc.is_null(table[order], nan_is_null=True)
    if pc.any(missing).as_py():
        row = missing.index(pa.scalar(True)).as_py()
        raise ValueError(
            f"order={order!r} has no value in {row_name(table[key], key, row)}. Fill "
            "it."
        )


def _groups(
    codes: np.ndarray, rank: np.ndarray, taken: np.ndarray, method: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of every first-level code, by rank, and the IDs that are taken there."""
    if method == "suffix" or codes.shape[1] == 1:
        # One level has no prefix: all rows are one group.
        yield rank, taken
        return
    rows = rank[np.argsort(codes[rank, 0], kind="stable")]
    taken = taken[np.argsort(taken[:, 0], kind="stable")]
    starts = group_starts(codes[rows, 0])
    for start, stop in pairwise([*starts.tolist(), len(rows)]):
        first = codes[rows[start], 0]
        used = slice(*np.searchsorted(taken[:, 0], [first, first + 1]))
        yield rows[start:stop], taken[used]


class _Distances:
    """Distances of rows of a table to the last codewords, where they are asked for."""

    def __init__(
        self, table: Any, model: Any, codes: np.ndarray, key: str, embedding: str
    ):
        self.model, self.codes = model, codes
        if quantizer(model).dedup != "reassign":
            return
        if table.schema.names.count(embedding) != 1:
            raise ValueError(
                f"embedding={embedding!r} should be one of the columns, "
                f"{table.schema.names}: dedup='reassign' needs it. Choose one."
            )
        self.X = rows_of_lists(
            table[embedding].combine_chunks(),
            f"embedding={embedding!r}",
            lambda row: row_name(table[key], key, row),
        )

    def among(self, rows: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """Distances by the position of a row among some."""
        return lambda index: self.of(rows[index])

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Distances of some rows of the table."""
        last = quantizer(self.model)
        X = last._validate(prepared(self.model, self.X[rows]))
        return last._last_distances(X, self.codes[rows])(slice(None))
