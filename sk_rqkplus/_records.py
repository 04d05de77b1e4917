"""Records, such as the history of a training, as columns of numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Values of one name, and the numbers of the records that have it; None is all of them.
Column = tuple[np.ndarray, np.ndarray | None]
WIDEST = 2**63


def part_records(records: Sequence[Mapping[str, Any]]) -> dict[str, Column] | None:
    """Records as columns, by name.

    Parameters
    ----------
    records : sequence of dict
        Their values are int, float or lists of float, of one type and length per name;
        one name is in all of them.

    Returns
    -------
    columns : dict of str to Column, or None
        None if the records are others than these.
    """
    columns: dict[str, Column] = {}
    for name in dict.fromkeys(name for record in records for name in record):
        rows = [row for row, record in enumerate(records) if name in record]
        values = _as_array([records[row][name] for row in rows])
        if type(name) is not str or values is None:
            return None
        everywhere = len(rows) == len(records)
        columns[name] = values, None if everywhere else np.array(rows, dtype=np.int64)
    return columns if any(rows is None for _, rows in columns.values()) else None


def _as_array(values: list[Any]) -> np.ndarray | None:
    """Numbers of one type, or lists of floats of one length."""
    kinds = {type(value) for value in values}
    if kinds == {int} and all(-WIDEST <= value < WIDEST for value in values):
        return np.array(values, dtype=np.int64)
    if kinds == {list}:
        n_parts = {len(value) for value in values}
        if len(n_parts) > 1 or n_parts == {0}:
            return None
        kinds = {type(part) for value in values for part in value}
    return np.array(values, dtype=np.float64) if kinds == {float} else None


def join_records(columns: Mapping[str, Column]) -> list[dict[str, Any]]:
    """Undo :func:`part_records`.

    Parameters
    ----------
    columns : dict of str to Column
        Columns, which may come from anywhere.

    Returns
    -------
    records : list of dict
        The records.

    Raises
    ------
    IndexError or ValueError
        If columns do not fit together.
    """
    for name, (values, _) in columns.items():
        # Lists of nothing take memory, though a file has not a byte of them.
        if values.size == 0:
            raise ValueError(f"{name} should have values")
    n_records = max(len(values) for values, rows in columns.values() if rows is None)
    records: list[dict[str, Any]] = [{} for _ in range(n_records)]
    for name, (values, rows) in columns.items():
        places = range(n_records) if rows is None else rows.tolist()
        for place, value in zip(places, values.tolist(), strict=True):
            records[place][name] = value
    return records
