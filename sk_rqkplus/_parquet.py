"""Open a Parquet file, or say that it is none."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike, fspath
from typing import Any

from sk_rqkplus._extras import require

BUFFER_BYTES = 2**22


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
            # Or else a column of a row group is read as a whole.
            yield parquet.ParquetFile(
                source, buffer_size=BUFFER_BYTES, pre_buffer=False
            )
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} should be a Parquet file: {error}") from error
