"""Open a Parquet file, or say that it is none."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike, fspath
from typing import Any

from sk_rqkplus._extras import require


@contextmanager
def open_parquet(path: str | PathLike) -> Iterator[Any]:
    """Open a Parquet file, which is read inside the block.

    Parameters
    ----------
    path : path-like
        The file.

    Yields
    ------
    file : pyarrow.parquet.ParquetFile
        The open file.

    Raises
    ------
    ValueError
        If the file cannot be read as Parquet.

    ImportError
        If pyarrow is not installed.
    """
    pa = require("pyarrow", extra="parquet")
    parquet = require("pyarrow.parquet", extra="parquet")
    with pa.OSFile(fspath(path)) as source:
        try:
            yield parquet.ParquetFile(source)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} should be a Parquet file: {error}") from error


def list_value(kind: Any) -> Any | None:
    """Type of the values of a type of lists, or None if it is no such type.

    Parameters
    ----------
    kind : pyarrow.DataType
        Type of a column.

    Returns
    -------
    value : pyarrow.DataType or None
        Type of what its lists hold.
    """
    types = require("pyarrow", extra="parquet").types
    is_list = (
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
    )
    return kind.value_type if is_list else None
