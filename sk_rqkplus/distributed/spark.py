"""Spark: encode a DataFrame with a fitted model, or fit RQKMeans on it.

Rows go to Python as Arrow batches and come back with further columns. What is computed
there is what one machine computes, so that codes and IDs are the same whatever the
number of partitions and the order of the rows.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from sk_rqkplus._extras import require
from sk_rqkplus._pipelines import quantizer
from sk_rqkplus._rqkmeans import RQKMeans
from sk_rqkplus.distributed._batches import encode_batch, lean
from sk_rqkplus.distributed._fit import fit_engine, take_over
from sk_rqkplus.distributed._identify import identify
from sk_rqkplus.distributed._spark import (
    check_columns,
    check_key,
    spark_engine,
    with_lists,
)

CODES, TOKENS, IDS = "codes", "tokens", "ids"


class SparkRQKMeans(BaseEstimator):
    """RQKMeans that is fitted on a Spark DataFrame.

    Codebooks, codes and IDs are those of :class:`~sk_rqkplus.RQKMeans` fitted on the
    same rows in the order of their keys, whatever the number of partitions.

    Parameters are those of :class:`~sk_rqkplus.RQKMeans`, which see; ``device`` is
    "auto" or "cpu". Nothing is remembered of the fitted rows, so that
    ``store_catalogue`` has no effect: IDs are unique within the table of a call.

    Attributes
    ----------
    estimator_ : RQKMeans
        The fitted model, which needs no Spark. It has no ``codes_``, ``ids_`` and
        ``catalogue_``.

    embedding_, key_ : str
        Columns that it was fitted on.

    codebooks_, prices_, mean_, duality_gap_, n_iter_, n_features_in_, fingerprint_
        As those of :class:`~sk_rqkplus.RQKMeans`.

    See Also
    --------
    sk_rqkplus.RQKMeans : The same in memory.
    encode_dataframe : Codes of a model that was fitted elsewhere.
    identify_dataframe : IDs of a model that was fitted elsewhere.

    Notes
    -----
    Sums over blocks of rows come to the driver: ``8 * K * d`` bytes for every block of
    up to 131,072 rows in an iteration over all rows. Fit large codebooks with
    ``max_samples``, as one does on one machine; balance then still regards all rows,
    and takes up to 32 bytes per row on the driver.

    Examples
    --------
    >>> from sk_rqkplus.distributed.spark import SparkRQKMeans
    >>> model = SparkRQKMeans((256, 256, 256), max_samples=1_000_000, random_state=0)
    >>> model.fit(df, "embedding", key="item_id")  # doctest: +SKIP
    >>> model.predict(df).write.parquet("ids.parquet")  # doctest: +SKIP
    """

    __init__ = RQKMeans.__init__

    def fit(self, df, embedding="embedding", key="item_id"):
        """Learn the codebooks.

        Parameters
        ----------
        df : pyspark.sql.DataFrame
            Table of items. It is read once.

        embedding : str, default="embedding"
            Column of embeddings: arrays of numbers, or vectors of
            ``pyspark.ml.linalg``.

        key : str, default="item_id"
            Column of distinct item keys: integers, strings or bytes. Rows are numbered
            in the order of their keys.

        Returns
        -------
        self : SparkRQKMeans
            The fitted estimator.

        Raises
        ------
        ValueError
            If a column is missing or of another type, a key is null or occurs twice,
            there are no rows, or an embedding is missing, not finite or of another
            length.
        """
        estimator = RQKMeans(**self.get_params(deep=False))
        estimator._validate_params()
        with spark_engine(df, embedding, key, self.nan_policy) as engine:
            fit_engine(estimator, engine)
        take_over(self, estimator, embedding_=embedding, key_=key)
        return self

    def transform(self, df):
        """Add codes and tokens.

        Parameters
        ----------
        df : pyspark.sql.DataFrame
            Table with the columns of the fit.

        Returns
        -------
        encoded : pyspark.sql.DataFrame
            ``df`` with the columns ``codes`` and ``tokens``, see
            :func:`encode_dataframe`.
        """
        check_is_fitted(self)
        return encode_dataframe(self.estimator_, df, self.embedding_, key=self.key_)

    def predict(self, df, order=None):
        """Add unique IDs.

        Parameters
        ----------
        df : pyspark.sql.DataFrame
            Table of all items, with the columns of the fit.

        order : str, default=None
            Column of numbers: items with a larger one choose first.

        Returns
        -------
        identified : pyspark.sql.DataFrame
            ``df`` with the column ``ids``, see :func:`identify_dataframe`.
        """
        check_is_fitted(self)
        columns = {"key": self.key_, "order": order}
        return identify_dataframe(self.estimator_, df, self.embedding_, **columns)


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
    check_key(df, key)
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
