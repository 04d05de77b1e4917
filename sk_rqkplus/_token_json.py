"""Files of IDs in JSON: the published index.json, and JSON Lines."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from os import PathLike
from typing import Any, TextIO

import numpy as np

from sk_rqkplus._files import atomic_write
from sk_rqkplus._layout import MAX_NUMBER, Layout, look_up
from sk_rqkplus._template import PUBLISHED
from sk_rqkplus._token_files import (
    Place,
    bad_codes,
    check_item_ids,
    check_tokens,
    chunks,
    given_item_ids,
    keys_array,
    wanted_columns,
)


def write_index_json(
    path: str | PathLike,
    ids: np.ndarray,
    *,
    base: int = 0,
    suffix: str = "always",
    template: str = PUBLISHED,
    verbose: int = 0,
) -> None:
    """Write IDs as the published ``index.json``.

    Parameters
    ----------
    path : path-like
        File to write, whole or not at all.

    ids : array-like of shape (n_samples, n_levels + 1), int
        IDs, 0-based, the last column the suffix.

    base : {0, 1}, default=0
        Number of the first codeword in the file: 1 for files of the constrained and
        plus variants of the published code, 0 for those of its RQ-VAE.

    suffix : {"always", "on_collision", "never"}, default="always"
        Which IDs get a token for their suffix, see :func:`to_tokens`.

    template : str, default="<{letter}_{code}>"
        Text of a token, see :func:`to_tokens`.

    verbose : int, default=0
        Whether to show how far the work is, if it takes more than two seconds.

    See Also
    --------
    read_index_json : Reads such a file.
    """
    layout = Layout(base, suffix, template)
    ids = layout.check(ids)
    suffixed = layout.suffixed(ids)

    def decorate(level: int, token: str) -> str:
        return (",\n    " if level else "[\n    ") + json.dumps(token)

    with _writing(path) as file:
        file.write("{")
        for rows in chunks(len(ids), verbose):
            opening = ",\n" if rows.start else "\n"
            keys = [f'  "{row}": ' for row in range(rows.start, rows.stop)]
            texts = layout.texts(ids[rows], suffixed[rows], decorate)
            lines = map("".join, zip(keys, *texts, strict=True))
            file.write(opening + "\n  ],\n".join(lines) + "\n  ]")
        file.write("\n}" if len(ids) else "}")


def read_index_json(
    path: str | PathLike,
    *,
    n_levels: int,
    base: int = 0,
    suffix: str = "always",
    template: str = PUBLISHED,
) -> np.ndarray:
    """Read the published ``index.json``.

    Parameters
    ----------
    path : path-like
        File to read.

    n_levels : int
        Number of levels of the codes; one token more is the suffix.

    base : {0, 1}, default=0
        Number of the first codeword in the file.

    suffix : {"always", "on_collision", "never"}, default="always"
        Which IDs have a token for their suffix; those without get suffix 0.

    template : str, default="<{letter}_{code}>"
        Text of a token, see :func:`to_tokens`.

    Returns
    -------
    ids : ndarray of shape (n_samples, n_levels + 1), int32
        IDs, 0-based, row by row in the order of the keys.

    Raises
    ------
    ValueError
        If the keys are not the numbers of the rows, or a list of tokens is not what the
        parameters say; the message names the key.
    """
    layout = Layout(base, suffix, template)
    with _reading(path) as file:
        index = _parse(file.read(), str(path))
    if not isinstance(index, dict):
        raise ValueError(f"{path} should hold an object of row numbers and tokens.")
    keys = list(map(str, range(len(index))))
    missing = next((key for key in keys if key not in index), None)
    if missing is not None:
        raise ValueError(
            f"{path} lacks the key {missing!r} of row {missing}. Number the rows from "
            "0 on."
        )
    rows = [index[key] for key in keys]
    return layout.read(rows, n_levels, lambda row: f"{path}, key '{row}'")


def write_jsonl(
    path: str | PathLike,
    ids: np.ndarray,
    *,
    item_ids: Sequence[int] | Sequence[str] | np.ndarray | None = None,
    base: int = 0,
    suffix: str = "always",
    template: str = PUBLISHED,
    verbose: int = 0,
) -> None:
    """Write IDs as JSON Lines: an object with item_id, codes, suffix and tokens a line.

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

    See Also
    --------
    read_jsonl : Reads such a file.
    """
    layout = Layout(base, suffix, template)
    ids = layout.check(ids)
    keys = given_item_ids(item_ids, len(ids))
    suffixed = layout.suffixed(ids)

    def decorate(level: int, token: str) -> str:
        return (", " if level else "") + json.dumps(token)

    with _writing(path) as file:
        for rows in chunks(len(ids), verbose):
            lines = zip(
                [f'{{"item_id": {json.dumps(key)}, "codes": ' for key in keys[rows]],
                [str(code) for code in ids[rows, :-1].tolist()],
                look_up(ids[rows, -1], lambda value: f', "suffix": {value}, '),
                repeat('"tokens": ['),
                *layout.texts(ids[rows], suffixed[rows], decorate),
                repeat("]}\n"),
            )
            file.writelines(map("".join, lines))


def read_jsonl(
    path: str | PathLike,
    *,
    base: int = 0,
    suffix: str = "always",
    template: str | None = PUBLISHED,
) -> tuple[np.ndarray, np.ndarray]:
    """Read JSON Lines of item_id, codes, suffix and tokens.

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
        If a line is no such object; the message names it.
    """
    layout = None if template is None else Layout(base, suffix, template)

    def place(row: int) -> str:
        return f"{path}, line {row + 1}"

    with _reading(path) as file:
        keys, ids, tokens, lengths = _columns(file, layout is not None, place)
    check_item_ids(keys, place)
    if layout is not None and len(ids):
        check_tokens(layout, ids, tokens, lengths, place)
    return ids, keys_array(keys)


@contextmanager
def _writing(path: str | PathLike) -> Iterator[TextIO]:
    """Text file that is written whole or not at all."""
    with (
        atomic_write(path) as temporary,
        open(temporary, "w", encoding="utf-8", newline="\n") as file,
    ):
        yield file


@contextmanager
def _reading(path: str | PathLike) -> Iterator[TextIO]:
    """Text file to read; only line feeds end a line."""
    try:
        with open(path, encoding="utf-8", newline="\n") as file:
            yield file
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} should be text in UTF-8 ({error}).") from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Object of a JSON text, in which no key may occur twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in found if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} occurs twice")
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_distinct)


def _parse(text: str, place: str) -> Any:
    try:
        return DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} should be JSON: {error}.") from error


def _columns(
    lines: Iterable[str], with_tokens: bool, place: Place
) -> tuple[list, np.ndarray, np.ndarray, np.ndarray]:
    """Keys, IDs, tokens one after the other and their number, of some lines."""
    wanted = wanted_columns(with_tokens)
    # Flat lists: a million small ones would keep the garbage collector busy.
    keys: list = []
    numbers: list[int] = []
    tokens: list = []
    lengths: list[int] = []
    width = 1
    for row, line in enumerate(lines):
        record = _parse(line, place(row))
        if not isinstance(record, dict) or any(name not in record for name in wanted):
            raise ValueError(f"{place(row)} should be an object with {wanted}.")
        codes, suffix = record["codes"], record["suffix"]
        width = width if row or not isinstance(codes, list) else len(codes) + 1
        if not _is_id(codes, suffix, width):
            raise bad_codes(place(row), codes, suffix, width - 1)
        keys.append(record["item_id"])
        numbers += codes
        numbers.append(suffix)
        if with_tokens:
            if not isinstance(record["tokens"], list):
                raise ValueError(f"{place(row)} should have a list of tokens.")
            tokens += record["tokens"]
            lengths.append(len(record["tokens"]))
    return (
        keys,
        np.array(numbers, dtype=np.int32).reshape(-1, width),
        np.fromiter(tokens, dtype=object, count=len(tokens)),
        np.array(lengths, dtype=np.int64),
    )


def _is_id(codes: object, suffix: object, width: int) -> bool:
    """Tell whether these are the codes and the suffix of an ID of so many columns."""
    if not isinstance(codes, list) or not 1 < len(codes) + 1 == width:
        return False
    return all(type(v) is int and 0 <= v < MAX_NUMBER for v in (*codes, suffix))
