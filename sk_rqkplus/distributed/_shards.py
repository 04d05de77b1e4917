"""A table of many Parquet files on one machine: a file at a time, and none twice."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from sk_rqkplus._extras import require
from sk_rqkplus._files import atomic_write
from sk_rqkplus._parquet import open_parquet
from sk_rqkplus._pipelines import fingerprint_of, quantizer
from sk_rqkplus._progress import delayed_bar
from sk_rqkplus._store import only_writer
from sk_rqkplus.distributed._batches import (
    check_model,
    encode_batch,
    encoded_schema,
    lean,
)
from sk_rqkplus.distributed._identify import check_key_type
from sk_rqkplus.distributed.catalogue import Appended, ShardedCatalogue

BATCH_ROWS = 16_384
ENDINGS = (".parquet", ".pq")
# In the metadata of an output: what it was made of.
STAMP = b"sk_rqkplus"
LEFT_BEHIND = re.compile(r".+\.[0-9a-f]{32}\.tmp")


class Encoded(NamedTuple):
    """What became of a table.

    Attributes
    ----------
    n_rows : int
        Rows of the table.

    n_files : int
        Files of the table.

    n_skipped : int
        Files that were done before.

    appended : Appended or None
        Items that got IDs, if IDs were asked for.
    """

    n_rows: int
    n_files: int
    n_skipped: int
    appended: Appended | None


@dataclass
class Shard:
    """A file of the table, and where its codes go.

    Attributes
    ----------
    source, target : Path
        The files.

    n_rows : int
        Number of rows of the source.

    schema : pyarrow.Schema
        Schema of the target; its metadata say what the target is made of.
    """

    source: Path
    target: Path
    n_rows: int
    schema: Any

    def is_done(self) -> bool:
        """Whether the target is there, made of just this."""
        if not self.target.exists():
            return False
        with open_parquet(self.target) as file:
            metadata = file.schema_arrow.metadata or {}
        found = json.loads(metadata.get(STAMP, b"{}"))
        wanted = json.loads(self.schema.metadata[STAMP])
        for name in ("model", "options"):
            if found.get(name) != wanted[name]:
                raise ValueError(
                    f"{self.target} was made by another model or with other options, "
                    "and should be made by the same. Use --force (force=True) to make "
                    "all files anew, or give another path."
                )
        return bool(found == wanted)


def encode_shards(
    model: Any,
    source: str | PathLike,
    out: str | PathLike,
    *,
    embedding: str = "embedding",
    key: str = "item_id",
    keep: Sequence[str] | None = None,
    tokens: bool = True,
    ids: str | PathLike | None = None,
    order: str | None = None,
    resume: bool = False,
    force: bool = False,
    verbose: int = 0,
) -> Encoded:
    """Encode a table of Parquet files, a batch of rows at a time.

    Parameters
    ----------
    model : estimator or Pipeline
        Fitted estimator of this package, or a Pipeline that ends in one.

    source : path-like
        Folder of Parquet files, at any depth, or one such file. Names that start with
        a dot or an underscore are passed over.

    out : path-like
        Folder to write, with one file for each of the source, of the same name.

    embedding : str, default="embedding"
        Column of lists of numbers, one per feature.

    key : str, default="item_id"
        Column of the keys of the items.

    keep : sequence of str, optional
        Columns to write beside the codes, instead of the key alone.

    tokens : bool, default=True
        Whether to write the column ``tokens``.

    ids : path-like, optional
        Folder of a :class:`ShardedCatalogue` to append the items to, once all are
        encoded. It is made if it does not exist.

    order : str, optional
        Column of numbers: items get IDs by it, the largest first, then by key.

    resume : bool, default=False
        Go on with what an earlier call began: files that it finished are skipped,
        unless their source was changed in the meantime.

    force : bool, default=False
        Write files anew that an earlier call wrote.

    verbose : int, default=0
        Whether to show how far the work is, if it takes more than two seconds.

    Returns
    -------
    encoded : Encoded
        Numbers of rows and files, and of items that got IDs.

    Raises
    ------
    ValueError
        If a file is damaged or its columns are not those of the first one, a row cannot
        be encoded, ``out`` holds anything else, or another process writes there. The
        message names the file.

    See Also
    --------
    encode_batch : What every batch goes through.

    Notes
    -----
    Memory does not grow with the table, but for the keys where ``ids`` are asked for. A
    file takes its place when it is whole and on the disk. What it was made of is in the
    metadata of its schema: the model, the options, and the size, the time and the
    SHA-256 of the footer of its source.

    Examples
    --------
    >>> import tempfile
    >>> import pyarrow as pa
    >>> import pyarrow.parquet as pq
    >>> from sk_rqkplus import RQKMeans
    >>> from sk_rqkplus.datasets import make_catalogue
    >>> from sk_rqkplus.distributed import encode_shards
    >>> X = make_catalogue(500, 16, random_state=0).data
    >>> model = RQKMeans((8, 8), random_state=0).fit(X)
    >>> items = pa.table({"item_id": range(500), "embedding": X.tolist()})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pq.write_table(items, f"{folder}/items.parquet")
    ...     encode_shards(model, f"{folder}/items.parquet", f"{folder}/codes.parquet")
    Encoded(n_rows=500, n_files=1, n_skipped=0, appended=None)
    """
    check_model(model)
    fingerprint, model = fingerprint_of(model), lean(model)
    options = {"embedding": embedding, "key": key, "keep": keep, "tokens": tokens}
    shards = _plan(model, fingerprint, Path(source), Path(out), options)
    columns = [key] if order is None else [key, order]
    if quantizer(model).dedup == "reassign":
        columns.append(embedding)
    _check_paths(Path(source), Path(out), ids)
    _check_ids(shards[0], model, ids, order, columns)
    Path(out).mkdir(parents=True, exist_ok=True)
    with only_writer(Path(out)):
        _check_out(Path(out), shards, resume, force)
        done = [not force and shard.is_done() for shard in shards]
        todo = [shard for shard, skip in zip(shards, done, strict=True) if not skip]
        with delayed_bar(_n_rows(todo), "row", verbose) as bar:
            for shard in todo:
                _encode(shard, model, options, bar)
        appended = None
        if ids is not None:
            with delayed_bar(_n_rows(shards), "row", verbose) as bar:
                rows = _rows(shards, columns, bar)
                catalogue = _catalogue(ids, model, key)
                appended = catalogue.append(
                    rows, model, order=order, embedding=embedding
                )
    return Encoded(_n_rows(shards), len(shards), sum(done), appended)


def _n_rows(shards: Iterable[Shard]) -> int:
    return sum(shard.n_rows for shard in shards)


def _plan(
    model: Any, fingerprint: str, source: Path, out: Path, options: dict[str, Any]
) -> list[Shard]:
    """All files of a table, each with a footer that was read."""
    shards: list[Shard] = []
    for path in _sources(source):
        with open_parquet(path) as file:
            n_rows, found = file.metadata.num_rows, file.schema_arrow
        try:
            schema = encoded_schema(found, model, **options)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if shards and not schema.equals(shards[0].schema):
            raise ValueError(
                f"{path} has the columns {_columns(schema)}, which should be "
                f"{_columns(shards[0].schema)} as in {shards[0].source}. Cast them."
            )
        stamp = {"model": fingerprint, "options": options, "source": _trace(path)}
        name = path.name if path == source else path.relative_to(source)
        metadata = {STAMP: json.dumps(stamp)}
        schema = schema.with_metadata(metadata)
        shards.append(Shard(path, out / name, n_rows, schema))
    return shards


def _columns(schema: Any) -> dict[str, str]:
    return {field.name: str(field.type) for field in schema}


def _sources(source: Path) -> list[Path]:
    """Parquet files of a table, in the order of their names."""
    if not source.exists():
        raise FileNotFoundError(
            f"{source} should be a Parquet file or a folder of such. Check the path."
        )
    if not source.is_dir():
        return [source]
    paths = sorted(
        path
        for path in source.rglob("*")
        if path.suffix.lower() in ENDINGS
        and path.is_file()
        and not any(part[0] in "._" for part in path.relative_to(source).parts)
    )
    if not paths:
        raise ValueError(
            f"{source} should have files that end in {' or '.join(ENDINGS)}. Check the "
            "path."
        )
    return paths


def _trace(path: Path) -> dict[str, Any]:
    """What changes when a Parquet file is replaced by another."""
    status = path.stat()
    with open(path, "rb") as file:
        file.seek(-8, os.SEEK_END)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-8 - length, os.SEEK_END)
        footer = hashlib.sha256(file.read(length)).hexdigest()
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "footer": footer}


def _check_paths(source: Path, out: Path, ids: str | PathLike | None) -> None:
    """Refuse to write into what is read."""
    inside = [("out", out, source)] if source.is_dir() else []
    if ids is not None:
        inside += [("ids", Path(ids), source), ("ids", Path(ids), out)]
    for name, path, other in inside:
        path, other = path.resolve(), other.resolve()
        if path.is_relative_to(other) or other.is_relative_to(path):
            raise ValueError(
                f"{name}={str(path)!r} should be apart from {str(other)!r}. Give "
                "another path."
            )


def _check_ids(
    shard: Shard,
    model: Any,
    ids: str | PathLike | None,
    order: str | None,
    columns: list[str],
) -> None:
    """Find out before the work what would stop the second pass after it."""
    if ids is None:
        if order is not None:
            raise ValueError(
                f"order={order!r} should come with ids: codes have no order. Leave it "
                "out."
            )
        return
    with open_parquet(shard.source) as file:
        schema = file.schema_arrow
    for name in columns:
        if schema.names.count(name) != 1:
            raise ValueError(
                f"{shard.source} has the columns {schema.names}, which should include "
                f"{name!r}. Choose another one."
            )
    kind = schema.field(columns[0]).type
    check_key_type(columns[0], kind)
    if _is_there(ids):
        _catalogue(ids, model, columns[0]).check_key_type(kind)


def _is_there(ids: str | PathLike) -> bool:
    """Whether a folder has anything in it."""
    return Path(ids).exists() and bool(os.listdir(ids))


def _catalogue(ids: str | PathLike, model: Any, key: str) -> ShardedCatalogue:
    """The catalogue of a folder, or a new one."""
    if not _is_there(ids):
        return ShardedCatalogue.create(ids, model, key=key)
    catalogue = ShardedCatalogue(ids)
    catalogue.check_model(model)
    if catalogue.key != key:
        raise ValueError(
            f"key={key!r} should be {catalogue.key!r}, the key of the catalogue "
            f"{str(ids)!r}. Rename the column, or give another path."
        )
    return catalogue


def _check_out(out: Path, shards: list[Shard], resume: bool, force: bool) -> None:
    """Refuse a folder that holds anything but what an earlier call wrote."""
    if resume and force:
        raise ValueError(
            "resume=True and force=True exclude each other. Leave one of them out."
        )
    targets = {shard.target for shard in shards}
    found = {path for path in out.rglob("*") if path.is_file()}
    for path in [path for path in found if LEFT_BEHIND.fullmatch(path.name)]:
        path.unlink()
        found.remove(path)
    others = [
        str(path.relative_to(out))
        for path in sorted(found - targets)
        if path.name[0] not in "._"
    ]
    if others:
        raise ValueError(
            f"{out} has other files, {others[:3]}, and should have those of the table "
            "alone. Remove them, or give another path."
        )
    if found & targets and not (resume or force):
        raise ValueError(
            f"{out} has files of an earlier run. Use --resume (resume=True) to go on "
            "with it, or --force (force=True) to write them anew."
        )


def _read(path: Path, columns: list[str]) -> Iterator[Any]:
    """Batches of some columns of a Parquet file."""
    with open_parquet(path) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=columns):
            if len(batch):
                yield batch


def _encode(shard: Shard, model: Any, options: dict[str, Any], bar: Any) -> None:
    """Write the codes of a file."""
    parquet = require("pyarrow.parquet", extra="parquet")
    key, keep = options["key"], options["keep"]
    columns = [options["embedding"], *([key] if keep is None else keep)]
    before = _trace(shard.source)
    shard.target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(shard.target) as temporary:
        start = 0
        with parquet.ParquetWriter(temporary, shard.schema) as writer:
            for batch in _read(shard.source, list(dict.fromkeys(columns))):
                try:
                    encoded = encode_batch(batch, model, **options)
                except ValueError as error:
                    place = f"{shard.source}, from row {start} on"
                    raise ValueError(f"{place}: {error}") from error
                writer.write_batch(encoded)
                start += len(batch)
                bar.update(len(batch))
        planned = json.loads(shard.schema.metadata[STAMP])["source"]
        if not before == planned == _trace(shard.source):
            raise ValueError(
                f"{shard.source} should not change while it is read. Run again with "
                "--resume (resume=True)."
            )


def _rows(shards: list[Shard], columns: list[str], bar: Any) -> Iterator[Any]:
    """Batches of the sources with their codes."""
    pa = require("pyarrow", extra="parquet")
    for shard in shards:
        encoded = _read(shard.target, ["codes"])
        codes = None
        for batch in _read(shard.source, columns):
            # Batches of the two files need not be of the same size.
            while codes is None or len(codes) < len(batch):
                more = pa.table(next(encoded))
                codes = more if codes is None else pa.concat_tables([codes, more])
            column = codes["codes"].slice(0, len(batch)).combine_chunks()
            codes = codes.slice(len(batch))
            yield pa.record_batch(
                [*batch.columns, column], [*batch.schema.names, "codes"]
            )
            bar.update(len(batch))
