"""Files of IDs in Parquet."""

from collections.abc import Sequence
from os import PathLike
from types import ModuleType
from typing import Any

import numpy as np

from sk_rqkplus._extras import require
from sk_rqkplus._files import atomic_write
from sk_rqkplus._layout import MAX_NUMBER, Layout
from sk_rqkplus._lists import list_value
from sk_rqkplus._parquet import open_parquet
from sk_rqkplus._template import PUBLISHED
from sk_rqkplus._token_files import (
    COLUMNS,
    Place,
    bad_codes,
    check_item_ids,
    check_tokens,
    chunks,
    given_item_ids,
    keys_array,
    wanted_columns,
)


def write_parquet(
    path: str | PathLike,
    ids: np.ndarray,
    *,
    item_ids: Sequence[int] | Sequence[str] | np.ndarray | None = None,
    base: int = 0,
    suffix: str = "always",
    template: str = PUBLISHED,
    verbose: int = 0,
) -> None:
    """Write IDs as Parquet with the columns item_id, codes, suffix and tokens.

    Parameters
    ----------
    path : path-like
        File to write, whole or not at all.

    ids : array-like of shape (n_samples, n_levels + 1), int
        IDs, 0-based, the last column the suffix. The codes and the suffix in the file
        are these numbers, whatever ``base`` is.

    item_ids : array-like of shape (n_samples,), int or str, optional
        Keys of the items, all different; by default the numbers of the rows.

    base : {0, 1}, default=0
        Number of the first codeword of a level in the tokens.

    suffix : {"always", "on_collision", "never"}, default="always"
        Which IDs get a token for their suffix, see :func:`to_tokens`.

    template : str, default="<{letter}_{code}>"
        Text of a token, see :func:`to_tokens`.

    verbose : int, default=0
        Whether to show how far the work is, if it takes more than two seconds.

    Raises
    ------
    ImportError
        If pyarrow is not installed.

    See Also
    --------
    read_parquet : Reads such a file.

    Notes
    -----
    ``item_id`` is int64 or string, ``codes`` a list of int32, ``suffix`` int32 and
    ``tokens`` a list of strings.
    """
    pa = require("pyarrow", extra="parquet")
    parquet = require("pyarrow.parquet", extra="parquet")
    layout = Layout(base, suffix, template)
    ids = layout.check(ids)
    keys = given_item_ids(item_ids, len(ids))
    suffixed = layout.suffixed(ids)
    kind = pa.string() if keys and isinstance(keys[0], str) else pa.int64()
    schema = pa.schema(
        {
            "item_id": kind,
            "codes": pa.list_(pa.int32()),
            "suffix": pa.int32(),
            "tokens": pa.list_(pa.string()),
        }.items()
    )
    with (
        atomic_write(path) as temporary,
        parquet.ParquetWriter(temporary, schema) as writer,
    ):
        for rows in chunks(len(ids), verbose):
            codes = ids[rows, :-1].astype(np.int32)
            widths = np.full(len(codes), codes.shape[1])
            texts, lengths = layout.flat(ids[rows], suffixed[rows])
            columns = [
                pa.array(keys[rows], type=kind),
                _lists(pa, pa.array(codes.reshape(-1)), widths),
                pa.array(ids[rows, -1].astype(np.int32)),
                _lists(pa, pa.array(texts, type=pa.string()), lengths),
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def read_parquet(
    path: str | PathLike,
    *,
    base: int = 0,
    suffix: str = "always",
    template: str | None = PUBLISHED,
) -> tuple[np.ndarray, np.ndarray]:
    """Read Parquet with the columns item_id, codes, suffix and tokens.

    Parameters
    ----------
    path : path-like
        File to read.

    base : {0, 1}, default=0
        Number of the first codeword in the tokens.

    suffix : {"always", "on_collision", "never"}, default="always"
        Which IDs have a token for their suffix.

    template : str or None, default="<{letter}_{code}>"
        Text of a token, see :func:`to_tokens`. The tokens should be those of the codes
        and the suffix. None reads codes and suffix alone, whatever the tokens are.

    Returns
    -------
    ids : ndarray of shape (n_samples, n_levels + 1), int32
        IDs, 0-based.

    item_ids : ndarray of shape (n_samples,), int64 or object
        Keys of the items, integers or strings.

    Raises
    ------
    ValueError
        If the file is no such table; the message names the column and the row.

    ImportError
        If pyarrow is not installed.
    """
    table = _read_table(path, wanted_columns(template is not None))

    def place(row: int) -> str:
        return f"{path}, row {row}"

    keys = check_item_ids(table["item_id"].to_pylist(), place)
    ids = _ids_of_table(table, place)
    if template is not None and len(ids):
        tokens = table["tokens"].combine_chunks()
        texts = tokens.flatten().to_numpy(zero_copy_only=False)
        lengths = tokens.value_lengths().to_numpy()
        check_tokens(Layout(base, suffix, template), ids, texts, lengths, place)
    return ids, keys_array(keys)


def _lists(pa: ModuleType, values: Any, lengths: np.ndarray) -> Any:
    """Array of lists of so many values each."""
    offsets = np.r_[0, np.cumsum(lengths)].astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def _read_table(path: str | PathLike, wanted: list[str]) -> Any:
    """Some columns of a Parquet file, checked."""
    pa = require("pyarrow", extra="parquet")
    with open_parquet(path) as file:
        names = file.schema_arrow.names
        if any(names.count(name) != 1 for name in wanted):
            raise ValueError(
                f"{path} has the columns {names}, which should be {wanted}."
            )
        table = file.read(columns=wanted)
    return pa.table({name: _checked(table[name], name, path) for name in wanted})


def _checked(column: Any, name: str, path: str | PathLike) -> Any:
    """Column without nulls, of integers of 64 bits, strings or lists of them."""
    pa = require("pyarrow", extra="parquet")
    inner = list_value(column.type)
    kind = column.type if inner is None else inner
    value, target = str(kind), None
    if pa.types.is_integer(kind):
        value, target = "integers", pa.int64()
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        value, target = "strings", pa.large_string()
    found = value if inner is None else f"lists of {value}"
    if found not in COLUMNS[name].split(" or "):
        raise ValueError(
            f"{path} has {name} of type {column.type}, which should be {COLUMNS[name]}."
        )
    if column.null_count:
        row = column.is_null().index(True).as_py()
        raise ValueError(f"{path}, row {row} has no {name}. Fill the column.")
    try:
        return column.cast(target if inner is None else pa.large_list(target))
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} has {name} out of range: {error}.") from error


def _ids_of_table(table: Any, place: Place) -> np.ndarray:
    """IDs of the columns codes and suffix."""
    if len(table) == 0:
        return np.zeros((0, 1), dtype=np.int32)
    codes = table["codes"].combine_chunks()
    lengths = codes.value_lengths().to_numpy()
    wrong = (lengths != lengths[0]) | (lengths == 0)
    if not wrong.any():
        # A null is as wrong as a negative code.
        values = codes.flatten().fill_null(-1).to_numpy().reshape(len(table), -1)
        ids = np.column_stack([values, table["suffix"].to_numpy()])
        wrong = ((ids < 0) | (ids >= MAX_NUMBER)).any(axis=1)
    if wrong.any():
        row = int(wrong.argmax())
        raise bad_codes(
            place(row),
            table["codes"][row].as_py(),
            table["suffix"][row].as_py(),
            lengths[0],
        )
    return ids.astype(np.int32)
