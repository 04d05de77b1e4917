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
