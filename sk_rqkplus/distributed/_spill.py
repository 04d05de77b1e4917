"""Rows on their way to their group, in one file on disk."""

from collections import defaultdict
from collections.abc import Iterator
from os import PathLike, fspath
from typing import Any

import numpy as np

from sk_rqkplus._extras import require
from sk_rqkplus._groups import group_starts


class Spill:
    """Rows that come in any order and are read back a group at a time.

    Rows are collected until a buffer is full, sorted by group, and written with one
    record batch per group; where the batches of a group are stays in memory.

    Parameters
    ----------
    path : path-like
        File to write.

    schema : pyarrow.Schema
        Columns of the rows.

    buffer_bytes : int
        Size of the buffer.
    """

    def __init__(self, path: str | PathLike, schema: Any, buffer_bytes: int):
        self._pa = require("pyarrow", extra="parquet")
        self.path, self.schema, self.buffer_bytes = fspath(path), schema, buffer_bytes
        self._places: dict[int, list[int]] = defaultdict(list)
        self._n_batches = 0
        self._waiting: list[Any] = []
        self._groups: list[np.ndarray] = []
        self._writer = self._pa.ipc.new_file(self.path, schema)

    def add(self, batch: Any, groups: np.ndarray) -> None:
        """Add rows, each with the number of its group."""
        self._waiting.append(batch)
        self._groups.append(groups)
        if sum(waiting.nbytes for waiting in self._waiting) >= self.buffer_bytes:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        groups = np.concatenate(self._groups)
        order = np.argsort(groups, kind="stable")
        table = self._pa.Table.from_batches(self._waiting, self.schema).take(order)
        starts = group_starts(groups[order])
        sizes = np.diff(starts, append=len(order))
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
            for batch in table.slice(start, size).combine_chunks().to_batches():
                self._places[int(groups[order[start]])].append(self._n_batches)
                self._writer.write_batch(batch)
                self._n_batches += 1
        self._waiting.clear()
        self._groups.clear()

    def groups(self) -> Iterator[tuple[int, Any]]:
        """Number and rows of every group, in ascending order; no rows are added then.

        Yields
        ------
        group : int
            Number of the group.

        rows : pyarrow.Table
            Its rows, in the order in which they were added.
        """
        self._flush()
        self._writer.close()
        with (
            self._pa.memory_map(self.path) as source,
            self._pa.ipc.open_file(source) as file,
        ):
            for group, places in sorted(self._places.items()):
                batches = map(file.get_batch, places)
                yield group, self._pa.Table.from_batches(batches, self.schema)
