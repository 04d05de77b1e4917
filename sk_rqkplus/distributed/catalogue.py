"""The IDs that are given, as a Parquet dataset that any engine reads."""

import os
import re
import shutil
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sk_rqkplus._extras import require
from sk_rqkplus._files import measure, sync_file, sync_folder
from sk_rqkplus._lists import rows_of_lists
from sk_rqkplus._pipelines import fingerprint_of, quantizer
from sk_rqkplus._store import only_writer, read_store, write_store
from sk_rqkplus.distributed._batches import check_model
from sk_rqkplus.distributed._identify import check_keys, codes_of, identify
from sk_rqkplus.distributed._spill import Spill

FORMAT_VERSION = 1
# Engines pass over names that start with an underscore.
ABOUT, FILES = "_catalogue", "_files"
PART = "part-0.parquet"
APPEND = re.compile(r"append=(\d+)")
BUFFER_BYTES = 2**27
# No metadata of a file are longer.
MOST_METADATA = 2**26


class Appended(NamedTuple):
    """What became of the rows that were appended.

    Attributes
    ----------
    n_new : int
        Rows that got an ID.

    n_known : int
        Rows whose key has an ID since before, which it keeps.
    """

    n_new: int
    n_known: int


class ShardedCatalogue:
    """The IDs that are given, for more items than fit into memory.

    A folder of Parquet files with the columns key, ``codes`` and ``ids``, one file for
    each append and first-level code: ``append=0/level_0=17/part-0.parquet``. An item is
    known by its key. An ID once given never changes.

    Parameters
    ----------
    path : path-like
        Folder that :meth:`create` made.

    Attributes
    ----------
    key : str
        Name of the column of keys.

    codebook_sizes : tuple of int
        Number of codewords per level.

    method : {"suffix", "reassign"}
        How new IDs are made unique, which is the ``dedup`` of the model.

    fingerprint : str
        Fingerprint of the model.

    Raises
    ------
    ValueError
        If there is no catalogue, or a file is missing or of another size.

    See Also
    --------
    sk_rqkplus.ids.Catalogue : The same in memory, which knows items by content too.

    Notes
    -----
    An append is written beside the folder and takes its place in it by one rename: any
    reader sees all of it or nothing. A catalogue that is open sees the appends that
    were there when it was opened.

    Examples
    --------
    >>> import tempfile
    >>> import pyarrow as pa
    >>> from sk_rqkplus import RQKMeans
    >>> from sk_rqkplus.distributed import ShardedCatalogue
    >>> X = [[0.0], [1.0], [8.0], [9.0]]
    >>> model = RQKMeans((2, 2), dedup="suffix", random_state=0).fit(X)
    >>> rows = pa.table({"item_id": list("abc"), "codes": [[1, 0], [1, 0], [0, 1]]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     catalogue = ShardedCatalogue.create(f"{folder}/ids.parquet", model)
    ...     catalogue.append(rows, model)
    ...     catalogue.lookup(["c", "b", "z"])
    Appended(n_new=3, n_known=0)
    array([[ 0,  1,  0],
           [ 1,  0,  1],
           [-1, -1, -1]], dtype=int32)
    """

    def __init__(self, path: str | PathLike):
        self.path = Path(path)
        about = self.path / ABOUT
        _, values = read_store(about, kind=type(self).__name__, version=FORMAT_VERSION)
        try:
            self.key = str(values["key"])
            self.codebook_sizes = tuple(map(int, values["codebook_sizes"]))
            self.method = str(values["method"])
            self.fingerprint = str(values["fingerprint"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"path={str(path)!r} should hold a catalogue, and lacks a value. Use a "
                "copy."
            ) from error
        self._read_appends()

    @classmethod
    def create(
        cls, path: str | PathLike, model: Any, *, key: str = "item_id"
    ) -> "ShardedCatalogue":
        """Make a catalogue without items.

        Parameters
        ----------
        path : path-like
            Folder to make, which should not exist or be empty.

        model : estimator or Pipeline
            Fitted estimator of this package, or a Pipeline that ends in one.

        key : str, default="item_id"
            Name of the column of keys.

        Returns
        -------
        catalogue : ShardedCatalogue
            The catalogue.

        Raises
        ------
        ValueError
            If the folder exists and has files.
        """
        check_model(model)
        if key in ("codes", "ids", "append", "level_0"):
            raise ValueError(
                f"key={key!r} should not be the name of another column of the "
                "catalogue. Rename the column."
            )
        folder = Path(path)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(
                f"path={str(path)!r} exists, and should be a new folder or an empty "
                "one. Open what is there, or give another path."
            )
        values = {
            "key": key,
            "codebook_sizes": [len(book) for book in quantizer(model).codebooks_],
            "method": quantizer(model).dedup,
            "fingerprint": fingerprint_of(model),
        }
        with _beside(folder) as staged:
            write_store(
                staged / ABOUT, {}, values, kind=cls.__name__, version=FORMAT_VERSION
            )
            _publish(staged, folder)
        return cls(path)

    def __len__(self) -> int:
        return sum(int(files["n_rows"].sum()) for files in self._appends)

    def __repr__(self) -> str:
        return (
            f"<ShardedCatalogue of {len(self)} items, codebook_sizes="
            f"{self.codebook_sizes}, method={self.method!r}>"
        )

    def dataset(self, prefix: Sequence[int] = ()) -> Any:
        """The catalogue as a dataset that is read when it is used.

        Parameters
        ----------
        prefix : sequence of int, default=()
            A first-level code, to read its files only.

        Returns
        -------
        dataset : pyarrow.dataset.Dataset
            With the columns key, ``codes``, ``ids``, ``append`` and ``level_0``.
        """
        ds = require("pyarrow.dataset", extra="parquet")
        pa = require("pyarrow", extra="parquet")
        paths = [
            str(self._part(number, level))
            for number, files in enumerate(self._appends)
            for level in files["level_0"].tolist()
            if not len(prefix) or level == prefix[0]
        ]
        hive = ds.partitioning(
            pa.schema([("append", pa.int32()), ("level_0", pa.int32())]), flavor="hive"
        )
        if not paths:
            return ds.dataset(self._schema().empty_table())
        return ds.dataset(
            paths,
            partitioning=hive,
            partition_base_dir=str(self.path),
            format=ds.ParquetFileFormat(
                default_fragment_scan_options=ds.ParquetFragmentScanOptions(
                    page_checksum_verification=True
                )
            ),
        )

    def lookup(self, keys: Iterable) -> np.ndarray:
        """Look up the IDs of items.

        Parameters
        ----------
        keys : sequence of shape (n_keys,)
            Keys of items.

        Returns
        -------
        ids : ndarray of shape (n_keys, n_levels + 1), int32
            Their IDs; -1 where a key is unknown.

        Raises
        ------
        ValueError
            If keys are of another type than those of the catalogue.
        """
        pa = require("pyarrow", extra="parquet")
        pc = require("pyarrow.compute", extra="parquet")
        dataset = self.dataset()
        kind = dataset.schema.field(self.key).type
        try:
            wanted = pa.array(keys, type=None if kind == pa.null() else kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise ValueError(
                f"keys should be of type {kind}, as those of the catalogue: {error}"
            ) from error
        ids = np.full((len(wanted), len(self.codebook_sizes) + 1), -1, dtype=np.int32)
        if len(self) == 0:
            return ids
        found = dataset.to_table(
            columns=[self.key, "ids"], filter=pc.field(self.key).isin(wanted)
        )
        at = pc.index_in(wanted, value_set=found[self.key].combine_chunks())
        known = at.is_valid().to_numpy(zero_copy_only=False)
        ids[known] = self._ids(found)[at.drop_null().to_numpy()]
        return ids

    def items(self, prefix: Sequence[int]) -> Any:
        """Find the items whose IDs start with a prefix.

        Parameters
        ----------
        prefix : sequence of int
            First columns of an ID: one to all of them.

        Returns
        -------
        items : pyarrow.Table
            The columns key and ``ids``, in the order of the IDs.
        """
        prefix = [int(code) for code in prefix]
        if not 0 < len(prefix) <= len(self.codebook_sizes) + 1:
            raise ValueError(
                f"prefix={prefix} should have 1 to {len(self.codebook_sizes) + 1} "
                "numbers. Give the first columns of an ID."
            )
        table = self.dataset(prefix).to_table(columns=[self.key, "ids"])
        ids = self._ids(table)
        rows = np.flatnonzero((ids[:, : len(prefix)] == prefix).all(axis=1))
        return table.take(rows[np.lexsort(ids[rows].T[::-1])])

    def append(
        self,
        rows: Any,
        model: Any,
        *,
        order: str | None = None,
        embedding: str = "embedding",
        buffer_bytes: int = BUFFER_BYTES,
    ) -> Appended:
        """Give IDs to new items; items that are known keep theirs.

        Parameters
        ----------
        rows : pyarrow.Table, pyarrow.dataset.Dataset or iterable of RecordBatch
            Encoded rows: the key, ``codes`` as :func:`encode_batch` writes them, and
            the embedding if ``method="reassign"``. Keys are distinct.

        model : estimator or Pipeline
            The model that made the codes.

        order : str, optional
            Column of numbers: rows come first by it, the largest first, then by key.

        embedding : str, default="embedding"
            Column of lists of numbers.

        buffer_bytes : int, default=2**27
            Rows are sorted into their groups so many bytes at a time. Larger is faster
            where there are many first-level codes.

        Returns
        -------
        appended : Appended
            Number of new and of known items.

        Raises
        ------
        ValueError
            If the catalogue belongs to another model, a column is missing, a key occurs
            twice, or another process appends.

        Notes
        -----
        Memory holds the keys of the rows, a few buffers and the rows of one first-level
        code. The disk holds the rows once more while it works, beside the catalogue. An
        append that is killed leaves the catalogue as it was; do it again.
        """
        pa = require("pyarrow", extra="parquet")
        self.check_model(model)
        with only_writer(self.path):
            # Another process may have appended since this one looked.
            self._read_appends()
            with _beside(self.path) as staged:
                columns = [self.key, "codes", *([order] if order else [])]
                if self.method == "reassign":
                    columns.append(embedding)
                spill, keys = self._spill(
                    staged, _batches(rows, columns), model, buffer_bytes
                )
                if spill is None:
                    return Appended(0, 0)
                check_keys(pa.table({self.key: keys}), self.key)
                known = self._known(keys)
                if len(known) < len(keys):
                    options = {"key": self.key, "order": order, "embedding": embedding}
                    self._write_append(staged, spill, known, model, options)
                return Appended(len(keys) - len(known), len(known))

    def verify(self) -> None:
        """Compare every file with the SHA-256 that it was written with.

        Raises
        ------
        ValueError
            If a file was changed.
        """
        for number, files in enumerate(self._appends):
            for level, sha256 in zip(files["level_0"], files["sha256"], strict=True):
                path = self._part(number, level)
                if measure(path)[1] != sha256.tobytes().hex():
                    raise ValueError(
                        f"{path} should be as it was written, but was changed. Use a "
                        "copy."
                    )

    def _part(self, number: int, level: int) -> Path:
        return self.path / f"append={number}" / f"level_0={level}" / PART

    def _schema(self) -> Any:
        """Schema without items, of which keys have no type yet."""
        pa = require("pyarrow", extra="parquet")
        n_levels = len(self.codebook_sizes)
        return pa.schema(
            {
                self.key: pa.null(),
                "codes": pa.list_(pa.int32(), n_levels),
                "ids": pa.list_(pa.int32(), n_levels + 1),
                "append": pa.int32(),
                "level_0": pa.int32(),
            }.items()
        )

    def _read_appends(self) -> None:
        """What is in every append, after a look at the size of each file."""
        found = [APPEND.fullmatch(name) for name in os.listdir(self.path)]
        numbers = sorted(int(match[1]) for match in found if match)
        self._appends: list[dict[str, np.ndarray]] = []
        for number in range(max(numbers, default=-1) + 1):
            store = self.path / f"append={number}" / FILES
            files, _ = read_store(store, kind="append", version=FORMAT_VERSION)
            for level, n_bytes in zip(files["level_0"], files["n_bytes"], strict=True):
                path = self._part(number, level)
                if not path.is_file() or path.stat().st_size != n_bytes:
                    raise ValueError(
                        f"{path} should be a file of {n_bytes} bytes, as it was "
                        "written. Use a copy of the catalogue."
                    )
            self._check_ends(number, files)
            self._appends.append(files)

    def _check_ends(self, number: int, files: dict[str, np.ndarray]) -> None:
        """Refuse files whose last part changed: Parquet's readers may crash on it."""
        if "end_crc" not in files:  # as in catalogues of earlier versions
            return
        for level, crc in zip(files["level_0"], files["end_crc"], strict=True):
            path = self._part(number, level)
            if _crc_of_end(path) != crc:
                raise ValueError(
                    f"{path} should end as it was written, but was changed. Use a "
                    "copy of the catalogue."
                )

    def check_model(self, model: Any) -> None:
        """Refuse a model that the catalogue does not belong to.

        Parameters
        ----------
        model : estimator or Pipeline
            Fitted estimator of this package, or a Pipeline that ends in one.

        Raises
        ------
        ValueError
            If its fingerprint or its ``dedup`` is another one.
        """
        check_model(model)
        for name, ours, theirs in (
            ("fingerprint", self.fingerprint, fingerprint_of(model)),
            ("dedup", self.method, quantizer(model).dedup),
        ):
            if ours != theirs:
                raise ValueError(
                    f"model has {name}={theirs!r}, which should be {ours!r}: the "
                    f"catalogue {str(self.path)!r} belongs to another model. Use that "
                    "one, or create another catalogue."
                )

    def _group_of(self, codes: np.ndarray) -> np.ndarray:
        """Number of the group in which rows get their IDs."""
        # One level has no prefix: all rows are one group.
        return codes[:, 0] if codes.shape[1] > 1 else np.zeros(len(codes), np.int32)

    def _spill(
        self, staged: Path, batches: Iterator[Any], model: Any, buffer_bytes: int
    ) -> tuple[Spill | None, Any]:
        """Sort rows into their groups, on disk; and their keys."""
        pa = require("pyarrow", extra="parquet")
        spill, keys = None, []
        for batch in batches:
            if spill is None:
                self.check_key_type(batch.schema.field(self.key).type)
                spill = Spill(staged / "spill.arrow", batch.schema, buffer_bytes)
            if batch.schema != spill.schema:
                raise ValueError(
                    f"rows have the schema {batch.schema}, which should be "
                    f"{spill.schema} in every batch. Cast them."
                )
            codes = codes_of(pa.table(batch), model)
            spill.add(batch, self._group_of(codes))
            keys.append(batch.column(self.key))
        return spill, pa.chunked_array(keys) if keys else None

    def check_key_type(self, kind: Any) -> None:
        """Refuse keys of another type than those that are known.

        Parameters
        ----------
        kind : pyarrow.DataType
            Type of the keys.

        Raises
        ------
        ValueError
            If it is another one.
        """
        known = self.dataset().schema.field(self.key).type
        if len(self) and kind != known:
            raise ValueError(
                f"key={self.key!r} has type {kind}, which should be {known} as in the "
                "catalogue. Cast it."
            )

    def _known(self, keys: Any) -> Any:
        """Those of some keys that are in the catalogue."""
        pc = require("pyarrow.compute", extra="parquet")
        if len(self) == 0:
            return keys.slice(0, 0)
        # All keys together may be longer than offsets of 32 bits reach.
        pa = require("pyarrow", extra="parquet")
        large = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}
        kind = large.get(keys.type, keys.type)
        among = pc.field(self.key).cast(kind).isin(keys.cast(kind).combine_chunks())
        return self.dataset().to_table(columns=[self.key], filter=among)[self.key]

    def _write_append(
        self, staged: Path, spill: Spill, known: Any, model: Any, options: dict
    ) -> None:
        """Write the IDs of new rows, and let them take their place in one step."""
        number = len(self._appends)
        folder = staged / f"append={number}"
        files: dict[str, list] = {
            name: [] for name in ("level_0", "n_rows", "n_bytes", "sha256", "end_crc")
        }
        for group, rows in spill.groups():
            for level, part in self._identified(group, rows, known, model, options):
                n_bytes, sha256 = _write_part(folder / f"level_0={level}", part)
                files["level_0"].append(level)
                files["n_rows"].append(len(part))
                files["n_bytes"].append(n_bytes)
                files["sha256"].append(np.frombuffer(bytes.fromhex(sha256), np.uint8))
                path = folder / f"level_0={level}" / PART
                files["end_crc"].append(_crc_of_end(path))
        arrays = {name: np.array(values) for name, values in files.items()}
        write_store(folder / FILES, arrays, {}, kind="append", version=FORMAT_VERSION)
        _publish(folder, self.path / folder.name)
        self._appends.append(arrays)

    def _identified(
        self, group: int, rows: Any, known: Any, model: Any, options: dict
    ) -> Iterator[tuple[int, Any]]:
        """New rows of a group with their IDs, by the first number of these."""
        pc = require("pyarrow.compute", extra="parquet")
        if len(known):
            is_known = pc.is_in(rows[self.key], value_set=known)
            rows = rows.filter(pc.invert(is_known))
        if len(rows) == 0:
            return
        rows = rows.sort_by(self.key).combine_chunks()
        several = len(self.codebook_sizes) == 1
        published = self.dataset(() if several else (group,))
        taken = self._ids(published.to_table(columns=["ids"]))
        table = identify(rows, model, taken=taken, **options)
        table = table.add_column(1, "codes", rows["codes"])
        first = self._ids(table)[:, 0]
        for level in np.unique(first).tolist():
            yield level, table.take(np.flatnonzero(first == level))

    def _ids(self, table: Any) -> np.ndarray:
        """IDs of a table as a matrix."""
        width = len(self.codebook_sizes) + 1
        lists = table["ids"].combine_chunks()
        ids = rows_of_lists(lists, "ids", lambda row: f"row {row}")
        return ids.astype(np.int32).reshape(-1, width)


def _batches(rows: Any, columns: list[str]) -> Iterator[Any]:
    """Batches of some columns, from a table, a dataset or batches."""
    pa = require("pyarrow", extra="parquet")
    ds = require("pyarrow.dataset", extra="parquet")
    if isinstance(rows, pa.RecordBatch):
        rows = [rows]
    if isinstance(rows, pa.Table | ds.Dataset):
        _check_columns(rows.schema, columns)
    if isinstance(rows, ds.Dataset):
        rows = rows.to_batches(columns=columns)
    elif isinstance(rows, pa.Table):
        rows = rows.to_batches()
    for batch in rows:
        if not isinstance(batch, pa.RecordBatch):
            raise TypeError(
                f"rows={type(batch).__name__} should be a Table, a Dataset or batches. "
                "Give what encode_batch returns."
            )
        _check_columns(batch.schema, columns)
        if len(batch):
            batch = batch.select(columns)
            yield batch.replace_schema_metadata(None)


def _check_columns(schema: Any, columns: list[str]) -> None:
    for name in columns:
        if schema.names.count(name) != 1:
            raise ValueError(
                f"rows have the columns {schema.names}, which should include {name!r} "
                "once. Add it, or rename one."
            )


def _write_part(folder: Path, part: Any) -> tuple[int, str]:
    """Write a file; its size and SHA-256."""
    parquet = require("pyarrow.parquet", extra="parquet")
    folder.mkdir(parents=True)
    parquet.write_table(part, folder / PART, write_page_checksum=True)
    sync_file(folder / PART)
    sync_folder(folder)
    return measure(folder / PART)


def _crc_of_end(path: Path) -> int:
    """CRC-32 of the metadata at the end of a Parquet file."""
    with open(path, "rb") as file:
        n_bytes = file.seek(-8, os.SEEK_END) + 8
        length = int.from_bytes(file.read(4), "little")
        # A changed length may be anything.
        file.seek(max(0, n_bytes - 8 - min(length, MOST_METADATA)))
        return zlib.crc32(file.read())


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A new folder beside another, gone in the end, as are those that kills left."""
    path = Path(os.path.abspath(path))
    for left in path.parent.glob(f"{path.name}.*.tmp"):
        if re.fullmatch(r"[0-9a-f]{32}", left.name[len(path.name) + 1 : -4]):
            shutil.rmtree(left, ignore_errors=True)
    staged = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    staged.mkdir()
    try:
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _publish(staged: Path, path: Path) -> None:
    """Let a folder take its place, in one step."""
    sync_folder(staged)
    os.rename(staged, path)
    sync_folder(path.parent)
