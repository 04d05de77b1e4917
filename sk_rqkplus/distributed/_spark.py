"""Rows of a Spark DataFrame as blocks, which a fit maps functions over."""

import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from sk_rqkplus._extras import require
from sk_rqkplus._lists import rows_of_lists, uneven
from sk_rqkplus._threads import block_rows
from sk_rqkplus.distributed._batches import row_name
from sk_rqkplus.distributed._fit import Block, call_pickled, in_windows

# Lists that are made of a column of vectors, for a while.
LISTS = "__lists__"
BATCH_ROWS = "spark.sql.execution.arrow.maxRecordsPerBatch"
# Types of keys that every engine orders alike.
KEY_TYPES = ("tinyint", "smallint", "int", "bigint", "string", "binary")
# Spark numbers the rows of a partition from its number times this.
PARTITION = 2**33
# Partitions of blocks, per task that runs at a time.
TASKS = 2


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
    # Spark does not tell names apart by their case.
    there = {name.lower() for name in df.columns}
    for name in added:
        if name.lower() in there:
            raise ValueError(
                f"df has a column {name!r}, which should be free for what is added. "
                "Drop or rename it."
            )


def check_key(df: Any, key: str) -> None:
    """Refuse keys that have no order that is the same everywhere."""
    kind = df.schema[key].dataType.simpleString()
    if kind not in KEY_TYPES:
        raise ValueError(
            f"key={key!r} has type {kind}, which should be integers, strings or bytes. "
            "Cast it, or choose another column."
        )


def with_lists(df: Any, embedding: str) -> tuple[Any, str]:
    """DataFrame with a column of arrays of numbers, and the name of that column."""
    types = require("pyspark.sql.types", extra="spark")
    kind = df.schema[embedding].dataType
    if kind.simpleString() == "vector":
        functions = require("pyspark.ml.functions", extra="spark")
        return df.withColumn(LISTS, functions.vector_to_array(embedding)), LISTS
    element = getattr(kind, "elementType", None)
    if not isinstance(element, types.NumericType) or isinstance(
        element, types.DecimalType
    ):
        raise ValueError(
            f"embedding={embedding!r} has type {kind.simpleString()}, which should be "
            "arrays of numbers or vectors. Choose another column."
        )
    return df, embedding


@contextmanager
def spark_engine(
    df: Any, embedding: str, key: str, nan_policy: str = "raise"
) -> Iterator["SparkEngine"]:
    """The rows of a DataFrame as blocks, which Spark keeps inside of this context."""
    check_columns(df, {"embedding": embedding, "key": key})
    check_key(df, key)
    F = require("pyspark.sql.functions", extra="spark")
    rows, lists = with_lists(df, embedding)
    rows = rows.select(F.col(key).alias("key"), F.col(lists).alias("embedding"))
    kept: list[Any] = []
    try:
        with _plain_errors():
            yield _engine(rows, key, f"embedding={embedding!r}", nan_policy, kept)
    finally:
        for frame in kept:
            frame.unpersist()


def _engine(
    rows: Any, key: str, place: str, nan_policy: str, kept: list
) -> "SparkEngine":
    """Number rows in the order of their keys, and pack them into blocks."""
    F = require("pyspark.sql.functions", extra="spark")
    ordered = rows.orderBy("key").persist()
    kept.append(ordered)
    first = ordered.first()
    if first is None:
        raise ValueError("n_samples=0 should be >= 1. Give a DataFrame that has rows.")
    _check_distinct(ordered, key)
    numbered, n_rows = _numbered(ordered)
    n_features, step = len(first["embedding"] or []), block_rows(n_rows)
    dtype = _dtype_of(rows.schema["embedding"].dataType.elementType)
    pack = _packer(key, place, n_features, dtype, nan_policy)
    n_blocks = -(-n_rows // step)
    n_parts = min(n_blocks, TASKS * rows.sparkSession.sparkContext.defaultParallelism)
    blocks = (
        numbered.withColumn("block", F.floor(F.col("row") / step).cast("int"))
        .groupBy("block")
        .applyInArrow(pack, "block int, X binary")
        .repartition(n_parts, "block")
        .persist()
    )
    kept.append(blocks)
    blocks.count()
    kept.remove(ordered)
    ordered.unpersist()
    return SparkEngine(blocks, n_rows, n_features, dtype, n_parts=n_parts, kept=kept)


def _check_distinct(ordered: Any, key: str) -> None:
    counts = ordered.groupBy("key").count()
    twice = counts.where("key is null or count > 1").first()
    if twice is None:
        return
    if twice["key"] is None:
        raise ValueError(
            f"key={key!r} is null in {twice['count']} rows. Give every item a key."
        )
    raise ValueError(
        f"{key}={twice['key']!r} is in {twice['count']} rows, and keys should be "
        "distinct. Give every item a key of its own."
    )


def _numbered(ordered: Any) -> tuple[Any, int]:
    """Column ``row`` of row numbers, and how many there are.

    A partition numbers its own rows; what comes before it is known from their counts.
    """
    F = require("pyspark.sql.functions", extra="spark")
    sizes = ordered.groupBy(F.spark_partition_id().alias("part")).count().collect()
    size = dict(sorted((row["part"], row["count"]) for row in sizes))
    before = np.cumsum([0, *size.values()]).tolist()
    offset = [0] * (max(size) + 1)
    for part, start in zip(size, before, strict=False):
        offset[part] = start - part * PARTITION
    offsets = F.lit(offset).cast("array<bigint>")
    row = F.monotonically_increasing_id() + offsets[F.spark_partition_id()]
    return ordered.withColumn("row", row), before[-1]


def _dtype_of(element: Any) -> np.dtype:
    """The dtype of rows of lists of such elements."""
    numbers = {"float": "f4", "double": "f8", "tinyint": "i1", "smallint": "i2"}
    dtype = numbers.get(element.simpleString(), "i8")
    return np.promote_types(dtype, np.float32)


def _packer(
    key: str, place: str, n_features: int, dtype: np.dtype, nan_policy: str
) -> Callable[[Any], Any]:
    """Function that makes one row of the rows of a block, which it checks."""

    def pack(block: Any) -> Any:
        pa = require("pyarrow", extra="spark")
        block = block.combine_chunks().sort_by("row")
        name = lambda row: row_name(block["key"], key, row)  # noqa: E731
        lists = block["embedding"].combine_chunks()
        X = rows_of_lists(lists, place, name)
        if X.shape[1] != n_features:
            raise uneven(place, name(0), X.shape[1], n_features)
        if nan_policy == "zero":
            X = np.nan_to_num(X, nan=0.0, posinf=0.0, neginf=0.0)
        finite = np.isfinite(X).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"{place} has NaN or infinity in {name(int(finite.argmin()))}. Fill it "
                "or leave it out."
            )
        values = np.ascontiguousarray(X, dtype=dtype).tobytes()
        return pa.table(
            {"block": block["block"][:1], "X": pa.array([values], type=pa.binary())}
        )

    return pack


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise a ValueError of a worker as such."""
    errors = require("pyspark.errors", extra="spark")
    try:
        yield
    except errors.PythonException as error:
        messages = re.findall(r"^ValueError: (.+)$", str(error), re.MULTILINE)
        if not messages:
            raise
        raise ValueError(messages[-1]) from error


class SparkEngine:
    """Blocks of rows, each a row of a DataFrame, see :class:`~._fit.Engine`.

    Parameters
    ----------
    blocks : pyspark.sql.DataFrame
        Columns ``block``, ``X`` and one for every level of labels. Spark keeps it.

    n_rows, n_features : int
        Shape of the table.

    dtype : dtype
        Of the rows.

    n_parts : int
        Number of partitions, by the hash of the block.

    kept : list
        What Spark keeps and is to forget in the end.
    """

    def __init__(
        self,
        blocks: Any,
        n_rows: int,
        n_features: int,
        dtype: np.dtype,
        *,
        n_parts: int,
        kept: list,
    ):
        self.blocks, self.n_rows, self.n_features = blocks, n_rows, n_features
        self.dtype, self.n_parts, self.kept = dtype, n_parts, kept

    def _call(self, sent: bytes, blocks: Any) -> Any:
        """Column ``result`` of what a function makes of every block, pickled."""
        shape = block_rows(self.n_rows), self.n_features, self.dtype
        return blocks.mapInArrow(_caller(sent, *shape), "block int, result binary")

    def map(
        self,
        function: Callable[[Block, Any], Any],
        argument: Any,
        blocks: Sequence[int] | None = None,
    ) -> Iterator[Any]:
        """Call a function for every block, or some of them in ascending order."""
        n_blocks = -(-self.n_rows // block_rows(self.n_rows))
        sent = pickle.dumps((function, argument))

        def ask(numbers: Sequence[int]) -> list[Any]:
            asked = self.blocks
            if len(numbers) < n_blocks:
                asked = asked.where(asked["block"].isin(list(numbers)))
            with _one_block_at_a_time(asked.sparkSession):
                found = self._call(sent, asked).toArrow().sort_by("block")
            return [result.as_buffer() for result in found["result"]]

        wanted = range(n_blocks) if blocks is None else blocks
        yield from in_windows(ask, wanted, len(sent))

    def keep(
        self, function: Callable[[Block, Any], Any], argument: Any
    ) -> "SparkEngine":
        """Add labels to every block, which stay on the engine."""
        with _one_block_at_a_time(self.blocks.sparkSession):
            sent = pickle.dumps((function, argument))
            found = self._call(sent, self.blocks)
            name = f"labels{len(self.blocks.columns)}"
            labels = (
                found.withColumnRenamed("result", name)
                .repartition(self.n_parts, "block")
                .persist()
            )
            self.kept.append(labels)
            labels.count()
        # Both sides are parted by block: rows stay where they are.
        blocks = self.blocks.join(labels.hint("shuffle_hash"), "block")
        shape = self.n_rows, self.n_features, self.dtype
        return SparkEngine(blocks, *shape, n_parts=self.n_parts, kept=self.kept)


def _caller(
    sent: bytes, step: int, n_features: int, dtype: np.dtype
) -> Callable[[Iterator], Iterator]:
    """Function of batches that calls what is sent for the block of every row."""

    def call(batches: Iterator) -> Iterator:
        pa = require("pyarrow", extra="spark")
        schema = pa.schema({"block": pa.int32(), "result": pa.binary()})
        for batch in batches:
            for row in range(batch.num_rows):
                number, X, *labels = (column[row] for column in batch.columns)
                rows = np.frombuffer(X.as_buffer(), dtype).reshape(-1, n_features)
                known = tuple(pickle.loads(part.as_buffer()) for part in labels)
                block = Block(number.as_py() * step, rows, known)
                result = call_pickled(sent, block)
                yield pa.record_batch(
                    [pa.array([number.as_py()]), pa.array([result])], schema=schema
                )

    return call


@contextmanager
def _one_block_at_a_time(session: Any) -> Iterator[None]:
    """Let Spark send one row in a batch: a block is as large as a batch should be."""
    before = session.conf.get(BATCH_ROWS)
    session.conf.set(BATCH_ROWS, "1")
    try:
        yield
    finally:
        session.conf.set(BATCH_ROWS, before)
