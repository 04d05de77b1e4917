"""What commands read and write: models, and IDs in every format."""

import json
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
from sklearn.pipeline import Pipeline

from sk_rqkplus import persistence
from sk_rqkplus._base import BaseQuantizer
from sk_rqkplus._files import atomic_write
from sk_rqkplus._matrix_files import read_matrix
from sk_rqkplus._persistence import write_model
from sk_rqkplus._pipelines import quantizer
from sk_rqkplus._progress import is_watched, waiting
from sk_rqkplus._store import MANIFEST, Stamp, check_target
from sk_rqkplus._store import stamp as store_stamp
from sk_rqkplus.tokens import (
    read_index_json,
    read_jsonl,
    read_parquet,
    to_strings,
    to_token_ids,
    vocabulary,
    write_index_json,
    write_jsonl,
    write_parquet,
)

# A model of another make, such as a pipeline, which runs code when it is loaded.
PICKLE = "model.joblib"
# Endings of names, and what is written where no format is given.
FORMATS = {
    ".json": "index.json",
    ".jsonl": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".txt": "strings",
    ".npy": "ids",
}
ALL_FORMATS = [*dict.fromkeys(FORMATS.values()), "token-ids", "vocabulary"]


class IDs(NamedTuple):
    """IDs of some items, and what is known of them.

    Attributes
    ----------
    ids : ndarray of shape (n_items, n_levels + 1), int
        The IDs.

    item_ids : sequence or None
        Keys of the items.

    codebook_sizes : list of int or None
        Sizes of the codebooks of the model.
    """

    ids: np.ndarray
    item_ids: Sequence | None
    codebook_sizes: list[int] | None


def refuse(path: Path, force: bool) -> None:
    """Raise if a file exists that may not be overwritten."""
    if path.exists() and not force:
        raise ValueError(f"{path} exists already. Use --force to overwrite it.")


def refuse_model(directory: Path, kind: str, force: bool) -> None:
    """Raise if a model of a kind may not be written to a directory."""
    for name in (MANIFEST, PICKLE):
        refuse(directory / name, force)
    check_target(directory, kind)


def load_model(directory: Path, allow_pickle: bool = False) -> Any:
    """Load the model of a directory that fit wrote."""
    with waiting(f"Loading {directory}", is_watched()):
        if not (directory / PICKLE).exists():
            if not (directory / MANIFEST).exists():
                raise ValueError(
                    f"{directory} should be a directory of a model. Run fit first."
                )
            model = persistence.load(directory)
        elif allow_pickle:
            model = _load_pickle(directory / PICKLE)
        else:
            raise ValueError(
                f"{directory / PICKLE} runs code when it is loaded. Give "
                "--allow-pickle if you trust who made it."
            )
    if not isinstance(quantizer(model), BaseQuantizer):
        raise ValueError(
            f"{directory} holds a {type(model).__name__}, which should be an estimator "
            "of this package or a pipeline that ends in one. Run fit first."
        )
    return model


def _load_pickle(path: Path) -> Any:
    try:
        return joblib.load(path)
    except OSError:
        raise
    except Exception as error:
        # A damaged pickle fails in any way.
        raise ValueError(
            f"{path} could not be loaded ({type(error).__name__}: {error}). Run fit "
            "again."
        ) from error


def stamp(directory: Path) -> Stamp:
    """Tell one model of a directory from the next that replaces it."""
    if (directory / PICKLE).exists():
        status = (directory / PICKLE).stat()
        return status.st_ino, status.st_mtime_ns
    return store_stamp(directory)


def save_model(model: Any, directory: Path, instead_of: Stamp | None = None) -> None:
    """Write a model, whole or not at all; if asked, only in place of a certain one.

    An estimator is saved by its own method. Anything else, and what was a pickle
    before, is pickled.
    """
    if instead_of is not None and stamp(directory) != instead_of:
        raise ValueError(
            f"{directory} should not change while it is extended. Run one extend at a "
            "time, and this one again."
        )
    with waiting(f"Writing {directory}", is_watched()):
        if isinstance(model, Pipeline) or (directory / PICKLE).exists():
            directory.mkdir(parents=True, exist_ok=True)
            with atomic_write(directory / PICKLE) as temporary:
                joblib.dump(model, temporary)
        else:
            directory.parent.mkdir(parents=True, exist_ok=True)
            write_model(directory, model, model._classes(), instead_of)


def sizes_of(model: Any) -> list[int]:
    """Number of codewords per level."""
    return [len(book) for book in quantizer(model).codebooks_]


def ids_of(model: Any) -> IDs:
    """IDs of all items of a model, those that extend registered among them."""
    estimator = quantizer(model)
    catalogue = getattr(estimator, "catalogue_", None)
    if catalogue is None:
        return IDs(estimator.ids_, None, sizes_of(model))
    keys = catalogue.keys
    return IDs(catalogue.ids, None if keys is None else keys.tolist(), sizes_of(model))


def read_ids(
    path: Path, n_levels: int, layout: dict[str, Any], allow_pickle: bool = False
) -> IDs:
    """IDs of a model, or of a file in a format that holds them."""
    if path.is_dir():
        return ids_of(load_model(path, allow_pickle))
    kind = FORMATS.get(path.suffix.lower())
    with waiting(f"Reading {path}", is_watched()):
        if kind == "index.json":
            return IDs(read_index_json(path, n_levels=n_levels, **layout), None, None)
        if kind == "jsonl":
            return IDs(*_with_keys(*read_jsonl(path, template=None)), None)
        if kind == "parquet":
            return IDs(*_with_keys(*read_parquet(path, template=None)), None)
        if kind == "ids":
            return IDs(read_matrix(path), None, None)
    raise ValueError(
        f"{path} should be a directory of a model, or end in .json, .jsonl, .parquet "
        "or .npy. Give one of them."
    )


def _with_keys(ids: np.ndarray, item_ids: np.ndarray) -> tuple[np.ndarray, list | None]:
    """IDs and keys; numbers of rows are no keys."""
    is_numbered = np.array_equal(item_ids, np.arange(len(ids)))
    return ids, None if is_numbered else item_ids.tolist()


def format_of(path: Path, name: str | None) -> str:
    """Format of a file to write: the given one, or that of its ending."""
    found = name or FORMATS.get(path.suffix.lower())
    if found is None:
        raise ValueError(
            f"--out {path} should end in one of {', '.join(FORMATS)}. Or give --format."
        )
    return found


def write_ids(
    path: str | PathLike,
    kind: str,
    items: IDs,
    *,
    layout: dict[str, Any],
    separator: str = "",
    start: int = 0,
) -> None:
    """Write IDs in a format, whole or not at all.

    Parameters
    ----------
    path : path-like
        File to write.

    kind : str
        One of ALL_FORMATS.

    items : IDs
        What to write.

    layout : dict
        ``base``, ``suffix`` and ``template`` of tokens.

    separator : str, default=""
        What stands between the tokens of a string.

    start : int, default=0
        Number of the first token.
    """
    ids, verbose = items.ids, is_watched()
    if kind == "index.json":
        write_index_json(path, ids, **layout, verbose=verbose)
    elif kind == "jsonl":
        write_jsonl(path, ids, item_ids=items.item_ids, **layout, verbose=verbose)
    elif kind == "parquet":
        write_parquet(path, ids, item_ids=items.item_ids, **layout, verbose=verbose)
    elif kind == "strings":
        _write_lines(path, to_strings(ids, separator=separator, **layout))
    elif kind == "vocabulary":
        n_suffix = int(ids[:, -1].max(initial=0)) + 1
        _write_lines(path, vocabulary(_sizes(items), n_suffix=n_suffix, **layout))
    elif kind == "token-ids":
        suffix = layout["suffix"]
        numbers = to_token_ids(ids, _sizes(items), suffix=suffix, start=start)
        _write_array(path, numbers)
    else:
        _write_array(path, np.asarray(ids, dtype=np.int32))


def _sizes(items: IDs) -> list[int]:
    if items.codebook_sizes is None:
        raise ValueError(
            "codebook_sizes=None should be known for this format. Give "
            "--codebook-sizes, or the directory of a model."
        )
    return items.codebook_sizes


def _write_lines(path: str | PathLike, texts: Iterable[str]) -> None:
    lines = list(texts)
    broken = next((text for text in lines if len(text.splitlines()) != 1), None)
    if broken is not None:
        raise ValueError(
            f"token={broken!r} should be one line of text. Use another --template or "
            "--separator, or another format."
        )
    with (
        atomic_write(path) as temporary,
        open(temporary, "w", encoding="utf-8", newline="\n") as file,
    ):
        file.writelines(f"{line}\n" for line in lines)


def _write_array(path: str | PathLike, array: np.ndarray) -> None:
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)


def read_titles(path: Path, n_items: int) -> list[str]:
    """Titles of items: a JSON list of strings, or one line of text each."""
    try:
        text = path.read_text(encoding="utf-8")
        titles = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except ValueError as error:
        raise ValueError(f"{path} should be text in UTF-8, or JSON: {error}") from error
    if not isinstance(titles, list) or not all(isinstance(t, str) for t in titles):
        raise ValueError(f"{path} should hold a list of strings, one per item.")
    if len(titles) != n_items:
        raise ValueError(
            f"{path} has {len(titles)} titles, which should be {n_items}, one per item."
        )
    return titles
