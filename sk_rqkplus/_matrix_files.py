"""A matrix of embeddings from a file: .npy, .npz, .parquet or .safetensors."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np
from safetensors import SafetensorError, safe_open

from sk_rqkplus._extras import require
from sk_rqkplus._lists import list_value, rows_of_lists, uneven
from sk_rqkplus._parquet import open_parquet
from sk_rqkplus._progress import delayed_bar

CHUNK_ROWS = 16_384


def read_matrix(
    path: str | PathLike,
    *,
    column: str | None = None,
    key: str | None = None,
    verbose: int = 0,
) -> np.ndarray:
    """Read a matrix of numbers.

    Parameters
    ----------
    path : path-like
        File that ends in .npy, .npz, .parquet or .safetensors.

    column : str, optional
        Column of a Parquet file, of lists of equally many numbers. It may be left out
        where there is only one of lists.

    key : str, optional
        Name of an array in an .npz or .safetensors file. It may be left out where there
        is only one.

    verbose : int, default=0
        Whether to show a bar if reading takes more than two seconds.

    Returns
    -------
    X : ndarray of shape (n_rows, n_columns)
        The matrix. That of an .npy or .safetensors file is mapped into memory and read
        when it is used, except for types of 16 bits or less in the latter.

    Raises
    ------
    ValueError
        If the file has no such matrix; the message names the file and the row.

    ImportError
        If the file is Parquet and pyarrow is not installed.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from sk_rqkplus._matrix_files import read_matrix
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/items.npz", X=np.eye(3), Y=np.eye(5))
    ...     read_matrix(f"{folder}/items.npz", key="X").shape
    (3, 3)
    """
    ending = Path(path).suffix.lower()
    reader = READERS.get(ending)
    if reader is None:
        raise ValueError(
            f"{path} should end in one of {', '.join(READERS)}. Convert it, or give it "
            "the ending of what it is."
        )
    for name, value, endings in (
        ("column", column, PARQUET),
        ("key", key, (".npz", ".safetensors")),
    ):
        if value is not None and ending not in endings:
            raise ValueError(
                f"{name}={value!r} should be left out for {path}. It is for files that "
                f"end in {' or '.join(endings)}."
            )
    X = reader(Path(path), column if ending in PARQUET else key, verbose)
    if X.ndim != 2 or X.dtype.kind not in "fiu":
        raise ValueError(
            f"{path} has shape={X.shape} and dtype={X.dtype}, which should be a matrix "
            "of numbers. Give one row per item."
        )
    return X


def read_column(path: str | PathLike, column: str) -> list:
    """Read a column of a Parquet file, such as the keys of items.

    Parameters
    ----------
    path : path-like
        Parquet file.

    column : str
        Name of the column.

    Returns
    -------
    values : list
        Its values.

    Raises
    ------
    ValueError
        If it is no Parquet file or has no such column.
    """
    if Path(path).suffix.lower() not in PARQUET:
        raise ValueError(
            f"column={column!r} should be of a Parquet file, not of {path}. Leave it "
            "out."
        )
    with open_parquet(path) as file:
        _check_name("column", column, file.schema_arrow.names, path)
        return file.read(columns=[column])[column].to_pylist()


def _check_name(option: str, name: str, names: list[str], path: str | PathLike) -> None:
    if names.count(name) != 1:
        raise ValueError(
            f"{option}={name!r} should be one of {names}, which {path} has. Choose one."
        )


@contextmanager
def _reading(path: Path, what: str, *errors: type[Exception]) -> Iterator[None]:
    """Say of a damaged file what it should be."""
    try:
        yield
    except errors as error:
        raise ValueError(f"{path} should be {what}: {error}") from error


def _read_npy(path: Path, name: str | None, verbose: int) -> np.ndarray:
    with _reading(path, "a .npy file of numbers", ValueError, EOFError, BadZipFile):
        X = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(X, np.ndarray):
        raise ValueError(f"{path} should be a .npy file with one matrix.")
    return X


def _read_npz(path: Path, name: str | None, verbose: int) -> np.ndarray:
    errors = (ValueError, EOFError, BadZipFile, ZlibError)
    with _reading(path, "an .npz file", *errors):
        file = np.load(path, allow_pickle=False)
    if isinstance(file, np.ndarray):
        raise ValueError(f"{path} should be an .npz file. Give a .npy its own ending.")
    with file:
        name = _only(path, name, file.files)
        with _reading(path, "an .npz file", *errors):
            return file[name]


def _read_safetensors(path: Path, name: str | None, verbose: int) -> np.ndarray:
    with _reading(path, "a .safetensors file", SafetensorError):
        # As a tensor of torch: NumPy has no bfloat16, and would read all at once.
        with safe_open(path, framework="pt") as file:
            tensor = file.get_tensor(_only(path, name, list(file.keys())))
    is_narrow = tensor.is_floating_point() and tensor.itemsize < 4
    return (tensor.float() if is_narrow else tensor).numpy()


def _only(path: Path, name: str | None, names: list[str]) -> str:
    """Name of the array to read: the given one, or the only one."""
    if name is not None:
        _check_name("key", name, names, path)
        return name
    if len(names) != 1:
        raise ValueError(
            f"{path} has the arrays {names}, which should be one. Choose by key."
        )
    return names[0]


def _read_parquet(path: Path, column: str | None, verbose: int) -> np.ndarray:
    with open_parquet(path) as file:
        column = _list_column(file.schema_arrow, column, path)
        n_rows, place = file.metadata.num_rows, f"{path}, {column}"
        X = np.empty((n_rows, 0), dtype=np.float32)
        start = 0
        with delayed_bar(n_rows, "row", verbose) as bar:
            for batch in file.iter_batches(CHUNK_ROWS, columns=[column]):
                name = lambda row, start=start: f"row {start + row}"  # noqa: E731
                rows = rows_of_lists(batch.column(0), place, name)
                if start == 0:
                    X = np.empty((n_rows, rows.shape[1]), dtype=rows.dtype)
                elif rows.shape[1] != X.shape[1]:
                    raise uneven(place, name(0), rows.shape[1], X.shape[1])
                X[start : start + len(rows)] = rows
                start += len(rows)
                bar.update(len(rows))
    return X


def _list_column(schema: Any, column: str | None, path: Path) -> str:
    """Name of the column to read: the given one, or the only one of lists."""
    types = require("pyarrow", extra="parquet").types
    lists = []
    for field in schema:
        value = list_value(field.type)
        if value is not None and (types.is_floating(value) or types.is_integer(value)):
            lists.append(field.name)
    if column is None and len(lists) == 1:
        return lists[0]
    if column is None:
        raise ValueError(
            f"{path} has the columns {lists} of lists of numbers, which should be one. "
            "Choose by column."
        )
    _check_name("column", column, schema.names, path)
    if column not in lists:
        raise ValueError(
            f"column={column!r} of {path} has type {schema.field(column).type}, which "
            "should be lists of numbers. Choose one of those."
        )
    return column


PARQUET = (".parquet", ".pq")
READERS: dict[str, Callable[[Path, str | None, int], np.ndarray]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    **dict.fromkeys(PARQUET, _read_parquet),
}
