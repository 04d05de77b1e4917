"""Codes of a batch of rows: Arrow in, Arrow out."""

from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from sk_rqkplus._base import BaseQuantizer
from sk_rqkplus._extras import require
from sk_rqkplus._lists import list_value, rows_of_lists
from sk_rqkplus._pipelines import prepared, quantizer
from sk_rqkplus.tokens import to_strings

# What a fit keeps of its rows, or of how it came about.
OF_ROWS = (
    "codes_",
    "ids_",
    "catalogue_",
    "rqkmeans_",
    "history_",
    "feature_names_in_",
)
# Parameters that a fit starts from, which may hold rows or open files.
OF_FIT = ("rqkmeans", "codebooks", "memory", "callbacks", "net_params")


def lean(model: Any) -> Any:
    """Copy of a fitted model that can encode and identify, but carries no rows.

    Parameters
    ----------
    model : estimator or Pipeline
        Fitted estimator of this package, or a Pipeline that ends in one.

    Returns
    -------
    model : estimator or Pipeline
        Copy without ``codes_``, ``ids_`` and ``catalogue_``: what is sent to workers.

    Raises
    ------
    TypeError
        If it is no such model.

    Examples
    --------
    >>> from sk_rqkplus import RQKMeans
    >>> from sk_rqkplus.datasets import make_catalogue
    >>> from sk_rqkplus.distributed import lean
    >>> X = make_catalogue(500, 16, random_state=0).data
    >>> model = RQKMeans((8, 8), random_state=0).fit(X)
    >>> hasattr(lean(model), "codes_")
    False
    >>> bool((lean(model).transform(X) == model.codes_).all())
    True
    """
    check_model(model)
    if isinstance(model, Pipeline):
        pipeline = copy(model)
        name, last = model.steps[-1]
        pipeline.steps = [*model.steps[:-1], (name, lean(last))]
        return pipeline
    slim = copy(model)
    for name in OF_ROWS:
        vars(slim).pop(name, None)
    for name in OF_FIT:
        if hasattr(slim, name):
            setattr(slim, name, None)
    return slim


def check_model(model: Any) -> None:
    """Refuse what cannot encode."""
    last = quantizer(model)
    if not isinstance(last, BaseQuantizer):
        raise TypeError(
            f"model={type(model).__name__} should be an estimator of this package or a "
            "Pipeline that ends in one. Give such a model, fitted."
        )
    check_is_fitted(last)


def encoded_schema(
    schema: Any,
    model: Any,
    *,
    embedding: str = "embedding",
    key: str = "item_id",
    keep: Sequence[str] | None = None,
    tokens: bool = True,
) -> Any:
    """Schema of what :func:`encode_batch` returns.

    Parameters
    ----------
    schema : pyarrow.Schema
        Schema of the batches.

    model : estimator or Pipeline
        Fitted estimator of this package, or a Pipeline that ends in one.

    embedding : str, default="embedding"
        Column of lists of numbers, one per feature.

    key : str, default="item_id"
        Column of the keys of the items.

    keep : sequence of str, optional
        Columns that are passed on instead of the key alone.

    tokens : bool, default=True
        Whether to add the column ``tokens``.

    Returns
    -------
    schema : pyarrow.Schema
        The columns that are passed on, then ``codes`` and ``tokens``.

    Raises
    ------
    ValueError
        If a column is missing, there more than once, or of another type.
    """
    pa = require("pyarrow", extra="parquet")
    check_model(model)
    kept = _kept(key, keep)
    for option, name in (("embedding", embedding), *(("keep", name) for name in kept)):
        if len(schema.get_all_field_indices(name)) != 1:
            raise ValueError(
                f"{option if keep is not None or name == embedding else 'key'}={name!r}"
                f" should be one of the columns, {schema.names}. Choose one."
            )
    value = list_value(schema.field(embedding).type)
    if value is None or not (pa.types.is_floating(value) or pa.types.is_integer(value)):
        raise ValueError(
            f"embedding={embedding!r} has type {schema.field(embedding).type}, which "
            "should be lists of numbers. Choose another column."
        )
    n_levels = len(quantizer(model).codebooks_)
    fields = [schema.field(name) for name in kept]
    fields.append(pa.field("codes", pa.list_(pa.int32(), n_levels), nullable=False))
    if tokens:
        fields.append(pa.field("tokens", pa.string(), nullable=False))
    return pa.schema(fields)


def _kept(key: str, keep: Sequence[str] | None) -> list[str]:
    """Columns that are passed on."""
    if isinstance(keep, str):
        raise TypeError(f"keep={keep!r} should be a sequence of names. Give a list.")
    kept = [key] if keep is None else list(keep)
    for name in kept:
        if name in ("codes", "tokens") or kept.count(name) > 1:
            raise ValueError(
                f"keep={kept} should be distinct names other than 'codes' and "
                f"'tokens'. Leave out or rename {name!r}."
            )
    return kept


def encode_batch(
    batch: Any,
    model: Any,
    *,
    embedding: str = "embedding",
    key: str = "item_id",
    keep: Sequence[str] | None = None,
    tokens: bool = True,
) -> Any:
    """Codes of a batch of rows, for any engine that hands out Arrow.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
        Rows with an embedding and a key each.

    model : estimator or Pipeline
        Fitted estimator of this package, or a Pipeline that ends in one.

    embedding : str, default="embedding"
        Column of lists of numbers, one per feature: lists of any layout and width.

    key : str, default="item_id"
        Column of the keys of the items, by which errors name a row.

    keep : sequence of str, optional
        Columns that are passed on instead of the key alone.

    tokens : bool, default=True
        Whether to add the column ``tokens``.

    Returns
    -------
    encoded : pyarrow.RecordBatch
        The columns that are passed on, ``codes`` (lists of n_levels int32, equal to
        ``model.transform`` of the rows) and ``tokens`` (one string per row, without a
        suffix, as :func:`~sk_rqkplus.tokens.to_strings` writes it).

    Raises
    ------
    ValueError
        If a column is missing, or an embedding is missing, incomplete, not finite or of
        another length; the message names the key of the row.

    TypeError
        If ``model`` cannot encode.

    Examples
    --------
    >>> import numpy as np
    >>> import pyarrow as pa
    >>> from sk_rqkplus import RQKMeans
    >>> from sk_rqkplus.distributed import encode_batch
    >>> X = np.array([[0.0, 0.0], [0.0, 1.0], [9.0, 0.0], [9.0, 1.0]], dtype="float32")
    >>> model = RQKMeans((2, 2), balance="none", random_state=0).fit(X)
    >>> batch = pa.record_batch({"item_id": list("abcd"), "embedding": list(X)})
    >>> encode_batch(batch, model).schema.names
    ['item_id', 'codes', 'tokens']
    >>> codes = encode_batch(batch, model)["codes"].to_pylist()
    >>> codes == model.transform(X).tolist()
    True
    """
    pa = require("pyarrow", extra="parquet")
    schema = encoded_schema(
        batch.schema, model, embedding=embedding, key=key, keep=keep, tokens=tokens
    )
    if key in _kept(key, keep):
        check_complete(batch.column(key), key)
    codes = _codes(batch, model, embedding, key)
    columns = [batch.column(name) for name in _kept(key, keep)]
    columns.append(lists_of_rows(codes))
    if tokens:
        no_suffix = np.zeros((len(codes), 1), dtype=np.int32)
        texts = to_strings(np.hstack([codes, no_suffix]), suffix="never")
        columns.append(pa.array(texts, type=pa.string()))
    return pa.record_batch(columns, schema=schema)


def lists_of_rows(rows: np.ndarray) -> Any:
    """Rows of an int32 matrix as lists of one size."""
    pa = require("pyarrow", extra="parquet")
    values = pa.array(np.ascontiguousarray(rows, dtype=np.int32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(values, rows.shape[1])


def _codes(batch: Any, model: Any, embedding: str, key: str) -> np.ndarray:
    if len(batch) == 0:
        n_levels = len(quantizer(model).codebooks_)
        return np.empty((0, n_levels), dtype=np.int32)
    names = batch.column(key) if key in batch.schema.names else None
    place = f"embedding={embedding!r}"
    X = rows_of_lists(
        batch.column(embedding), place, lambda row: row_name(names, key, row)
    )
    try:
        rows = prepared(model, X)
        return np.asarray(quantizer(model).transform(rows), dtype=np.int32)
    except ValueError as error:
        wrong = ~np.isfinite(X).all(axis=1)
        if not wrong.any():
            raise
        row = int(wrong.argmax())
        raise ValueError(
            f"{place} has NaN or infinity in {row_name(names, key, row)}. Fill it or "
            "leave it out."
        ) from error


def check_complete(keys: Any, key: str) -> None:
    """Refuse rows without a key."""
    pa = require("pyarrow", extra="parquet")
    if keys.null_count:
        row = keys.is_null().index(pa.scalar(True)).as_py()
        raise ValueError(
            f"key={key!r} has no value in row {row}. Give every item a key."
        )


def row_name(keys: Any | None, key: str, row: int) -> str:
    """What an error calls a row: its key, or its number where it has none."""
    return f"row {row}" if keys is None else f"row {key}={keys[row].as_py()!r}"
