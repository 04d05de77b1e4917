"""Lists of numbers in Arrow, as the rows of a matrix."""

from collections.abc import Callable
from typing import Any

import numpy as np

from sk_rqkplus._extras import require


def list_value(kind: Any) -> Any | None:
    """Type of the values of a type of lists, or None if it is no such type.

    Parameters
    ----------
    kind : pyarrow.DataType
        Type of a column: lists of any layout, or tensors of a fixed shape.

    Returns
    -------
    value : pyarrow.DataType or None
        Type of what its lists hold.
    """
    types = require("pyarrow", extra="parquet").types
    kind = getattr(kind, "storage_type", kind)
    is_list = (
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )
    return kind.value_type if is_list else None


def rows_of_lists(lists: Any, place: str, row_name: Callable[[int], str]) -> np.ndarray:
    """Lists of equally many numbers as the rows of a matrix.

    Parameters
    ----------
    lists : pyarrow.Array
        The lists.

    place : str
        Where they are from, for errors.

    row_name : callable
        Maps the position of a list to what an error calls it.

    Returns
    -------
    X : ndarray of shape (n_rows, n_columns)
        The matrix, in a type that holds all values and has 32 bits or more. It is a
        view of the lists if their values have such a type.

    Raises
    ------
    ValueError
        If a list or a value is missing, or lists differ in length.
    """
    lists = getattr(lists, "storage", lists)
    if len(lists) == 0:
        return np.empty((0, 0), dtype=np.float32)
    if lists.null_count:
        raise ValueError(
            f"{place} has no list in {row_name(_first_null(lists))}. Fill it or leave "
            "it out."
        )
    lengths = lists.value_lengths().to_numpy()
    wrong = lengths != lengths[0]
    if wrong.any():
        row = int(wrong.argmax())
        raise uneven(place, row_name(row), lengths[row], lengths[0])
    values = lists.flatten()
    if values.null_count:
        row = _first_null(values) // int(lengths[0])
        raise ValueError(f"{place} has an empty value in {row_name(row)}. Fill it.")
    numbers = values.to_numpy(zero_copy_only=False)
    # Estimators take 32 bits or 64; the least of them that holds all values.
    dtype = np.promote_types(numbers.dtype, np.float32)
    return numbers.astype(dtype, copy=False).reshape(len(lists), lengths[0])


def uneven(place: str, row: str, found: int, wanted: int) -> ValueError:
    """Error of a list that is longer or shorter than the others."""
    return ValueError(
        f"{place} has {found} values in {row}, which should be {wanted} as in the "
        "first one."
    )


def _first_null(values: Any) -> int:
    return int(values.is_null().to_numpy(zero_copy_only=False).argmax())
