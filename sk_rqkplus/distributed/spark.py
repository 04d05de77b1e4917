"""Spark: encode a DataFrame with a fitted model, or fit RQKMeans on it.

Rows go to Python as Arrow batches and come back with further columns. What is computed
there is what one machine computes, so that codes and IDs are the same whatever the
number of partitions and the order of the rows.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from sk_rqkplus._extras import require
from sk_rqkplus._pipelines import quantizer
from sk_rqkplus.distributed._batches import encode_batch, lean
from sk_rqkplus.distributed._identify import identify

CODES, TOKENS, IDS = "codes", "tokens", "ids"
# Lists that are made of a column of vectors, for a while.
LISTS = "__lists__"


def encode_dataframe(
    model: Any,
    df: Any,
    embedding: str = "embedding",
    *,
    key: str = "item_id",
    tokens: bool = True,
) -> Any:
    """Add the codes of a fitted model to a DataFrame.

    Parameters
    ----------
    model : estimator or Pipeline
        A fitted RQKMeans, RQKMeansPlus or RQVAE, or a Pipeline that ends in one. It is
        sent to every executor once, without what it knows of the fitted rows.

    df : pyspark.sql.DataFrame
        Table of items.

    embedding : str, default="embedding"
        Column of embeddings: arrays of numbers, or vectors of ``pyspark.ml.linalg``.

    key : str, default="item_id"
        Column of item keys, by which errors name a row.

    tokens : bool, default=True
        Whether to add the column ``tokens``.

    Returns
    -------
    encoded : pyspark.sql.DataFrame
        All columns of ``df``, ``codes`` (array<int>, one per level) and ``tokens``
        (string, as :func:`~sk_rqkplus.tokens.to_strings` writes codes). It is computed
        when it is used.

    Raises
    ------
    ValueError
        If a column is missing, of another type, or there already. A row without an
        embedding, or with one of another length, stops the job that meets it; the
        message names the key of the row.

    TypeError
        If ``model`` is no such model.
    """
    added = [CODES, TOKENS] if tokens else [CODES]
    check_columns(df, {"key": key, "embedding": embedding}, added)
    columns, (rows, lists) = df.columns, with_lists(df, embedding)
    shared = df.sparkSession.sparkContext.broadcast(lean(model))
    options = {"embedding": lists, "key": key, "keep": columns, "tokens": tokens}

    def encode(batches: Iterator) -> Iterator:
        torch.set_num_threads(1)
        for batch in batches:
            yield _plain_lists(encode_batch(batch, shared.value, **options))

    return rows.mapInArrow(encode, _with_columns(df, added))


def identify_dataframe(
    model: Any,
    df: Any,
    embedding: str = "embedding",
    *,
    key: str = "item_id",
    order: str | None = None,
) -> Any:
    """Add unique IDs to a DataFrame.

    Items that want the same ID choose in the order of their keys, so that the IDs do
    not depend on partitions.

    Parameters
    ----------
    model : estimator or Pipeline
        A fitted RQKMeans, RQKMeansPlus or RQVAE, or a Pipeline that ends in one.

    df : pyspark.sql.DataFrame
        Table of all items.

    embedding : str, default="embedding"
        Column of embeddings: arrays of numbers, or vectors of ``pyspark.ml.linalg``.

    key : str, default="item_id"
        Column of distinct item keys: integers, strings or bytes.

    order : str, optional
        Column of numbers: items with a larger one choose first. Popularity, say, gives
        popular items the small suffixes.

    Returns
    -------
    identified : pyspark.sql.DataFrame
        All columns of ``df`` and ``ids`` (array<int>, one per level and a suffix), with
        the rows in any order. It is computed when it is used.

    Raises
    ------
    ValueError
        If a column is missing, of another type, or there already. A key that is null or
        that two rows of the same first-level code have stops the job that meets it.

    TypeError
        If ``model`` is no such model.

    Notes
    -----
    Rows of the same first-level code meet in one task: with K codewords at level 0 a
    task needs memory for about ``n / K`` rows, several times as many where level 0 is
    uneven.
    """
    F = require("pyspark.sql.functions", extra="spark")
    wanted = {"key": key, "embedding": embedding} | ({"order": order} if order else {})
    check_columns(df, wanted, [CODES, IDS])
    rows, lists = with_lists(df, embedding)
    encoded = encode_dataframe(model, rows, lists, key=key, tokens=False)
    shared = df.sparkSession.sparkContext.broadcast(lean(model))
    columns = df.columns

    def number(group: Any) -> Any:
        torch.set_num_threads(1)
        group = group.combine_chunks()
        ids = identify(group, shared.value, key=key, order=order, embedding=lists)
        return _plain_lists(group.select(columns).append_column(IDS, ids[IDS]))

    # A model of one level has no prefix that parts rows that compete.
    one_level = len(quantizer(model).codebooks_) == 1
    group = [] if one_level else [F.col(CODES)[0]]
    return encoded.groupBy(*group).applyInArrow(number, _with_columns(df, [IDS]))


def check_columns(df: Any, wanted: dict[str, str], added: Sequence[str] = ()) -> None:
    """Refuse a DataFrame without the columns that are wanted, or with those to add."""
    if not hasattr(df, "sparkSession"):
        raise TypeError(
            f"df={type(df).__name__} should be a Spark DataFrame. Give one, or use the "
            "methods of the model for arrays."
        )
    for option, name in wanted.items():
        if df.columns.count(name) != 1:
            raise ValueError(
                f"{option}={name!r} should be one of the columns, {df.columns}. Choose "
                "one."
            )
    for name in set(added) & set(df.columns):
        raise ValueError(
            f"df has the column {name!r}, which should be free for what is added. Drop "
            "or rename it."
        )


def with_lists(df: Any, embedding: str) -> tuple[Any, str]:
    """DataFrame with a column of arrays of numbers, and the name of that column."""
    types = require("pyspark.sql.types", extra="spark")
    kind = df.schema[embedding].dataType
    if isinstance(kind, types.UserDefinedType) and kind.simpleString() == "vector":
        functions = require("pyspark.ml.functions", extra="spark")
        return df.withColumn(LISTS, functions.vector_to_array(embedding)), LISTS
    element = getattr(kind, "elementType", None)
    if not isinstance(element, types.NumericType):
        raise ValueError(
            f"embedding={embedding!r} has type {kind.simpleString()}, which should be "
            "arrays of numbers or vectors. Choose another column."
        )
    return df, embedding


def _with_columns(df: Any, added: Sequence[str]) -> Any:
    """Schema of a DataFrame with further columns."""
    types = require("pyspark.sql.types", extra="spark")
    kinds = {
        name: types.ArrayType(types.IntegerType(), containsNull=False)
        for name in (CODES, IDS)
    } | {TOKENS: types.StringType()}
    fields = [types.StructField(name, kinds[name], nullable=False) for name in added]
    return types.StructType([*df.schema.fields, *fields])


def _plain_lists(rows: Any) -> Any:
    """Lists of one size as lists of any, which are all that Spark reads."""
    pa = require("pyarrow", extra="spark")
    plain = pa.list_(pa.field("element", pa.int32(), nullable=False))
    for name in {CODES, IDS} & set(rows.schema.names):
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, name, rows.column(at).cast(plain))
    return rows
