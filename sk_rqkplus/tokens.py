"""From IDs to the tokens and files that recommenders read."""

import json
import re
from os import PathLike
from pathlib import Path

import numpy as np

from sk_rqkplus._files import atomic_write

__all__ = ["read_index_json", "to_tokens", "write_index_json"]

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TOKEN = re.compile(r"<([a-z])_(\d{1,10})>")
SUFFIXES = ("always", "on_collision", "never")


def to_tokens(
    ids: np.ndarray, *, base: int = 0, suffix: str = "always"
) -> list[list[str]]:
    """Write every ID as a list of tokens such as ``<a_12>``, one letter per level.

    Parameters
    ----------
    ids : array-like of shape (n_samples, n_levels + 1), int
        IDs, 0-based, the last column the suffix, as ``predict`` returns them.

    base : {0, 1}, default=0
        Number of the first codeword of a level in the tokens.

    suffix : {"always", "on_collision", "never"}, default="always"
        Which IDs get a token for their suffix. ``"on_collision"`` writes it for items
        that share their code, counted from 1, as the published files do; ``"never"``
        drops it.

    Returns
    -------
    tokens : list of list of str
        Tokens of each ID.

    Raises
    ------
    ValueError
        If a parameter is out of its range, or an ID is negative or has too many levels.

    Examples
    --------
    >>> from sk_rqkplus.tokens import to_tokens
    >>> to_tokens([[3, 1, 0], [3, 1, 1]], base=1, suffix="on_collision")
    [['<a_4>', '<b_2>', '<c_1>'], ['<a_4>', '<b_2>', '<c_2>']]
    """
    ids = np.asarray(ids)
    if base not in (0, 1):
        raise ValueError(f"base={base!r} should be 0 or 1. Choose one of them.")
    if suffix not in SUFFIXES:
        raise ValueError(f"suffix={suffix!r} should be one of {SUFFIXES}. Choose one.")
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise ValueError(
            f"ids have shape={ids.shape} and dtype={ids.dtype}, which should be a "
            "matrix of integers. Give what predict returns."
        )
    if ids.shape[1] > len(LETTERS):
        raise ValueError(
            f"n_columns={ids.shape[1]} of ids should be <= {len(LETTERS)}, one letter "
            "each. Use fewer levels."
        )
    if ids.min(initial=0) < 0:
        raise ValueError(f"ids have the value {ids.min()}, which should be >= 0.")
    n_levels = ids.shape[1] - 1
    texts = [
        [f"<{letter}_{value + base}>" for value in column.tolist()]
        for letter, column in zip(LETTERS, ids.T[:-1], strict=False)
    ]
    # The published suffix counts from 1 whatever the base of the codes.
    last_base = 1 if suffix == "on_collision" else base
    last = [f"<{LETTERS[n_levels]}_{v + last_base}>" for v in ids[:, -1].tolist()]
    rows = [list(row) for row in zip(*texts, strict=True)] or [[] for _ in last]
    for row, token in zip(rows, last, strict=True):
        row.append(token)
    if suffix == "always":
        return rows
    keep = (
        _shared(ids[:, :-1]) if suffix == "on_collision" else np.zeros(len(ids), bool)
    )
    return [row if kept else row[:-1] for row, kept in zip(rows, keep, strict=True)]


def _shared(codes: np.ndarray) -> np.ndarray:
    """Which rows have a code that another row has too."""
    _, inverse, counts = np.unique(
        codes, axis=0, return_inverse=True, return_counts=True
    )
    return counts[inverse.reshape(-1)] > 1


def write_index_json(
    path: str | PathLike,
    ids: np.ndarray,
    *,
    base: int = 0,
    suffix: str = "always",
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

    See Also
    --------
    read_index_json : Reads such a file.
    """
    rows = to_tokens(ids, base=base, suffix=suffix)
    index = {str(row): tokens for row, tokens in enumerate(rows)}
    with atomic_write(path) as temporary:
        Path(temporary).write_text(json.dumps(index, indent=2), encoding="utf-8")


def read_index_json(
    path: str | PathLike, *, n_levels: int, base: int = 0, suffix: str = "always"
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
    if base not in (0, 1):
        raise ValueError(f"base={base!r} should be 0 or 1. Choose one of them.")
    if suffix not in SUFFIXES:
        raise ValueError(f"suffix={suffix!r} should be one of {SUFFIXES}. Choose one.")
    index = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(index, dict):
        raise ValueError(f"{path} should hold an object of row numbers and tokens.")
    ids = np.zeros((len(index), n_levels + 1), dtype=np.int32)
    lengths = {
        "always": {n_levels + 1},
        "on_collision": {n_levels, n_levels + 1},
        "never": {n_levels},
    }[suffix]
    bases = np.full(n_levels + 1, base)
    bases[-1] = 1 if suffix == "on_collision" else base
    for row in range(len(index)):
        if str(row) not in index:
            raise ValueError(f"{path} lacks the key {str(row)!r} of row {row}.")
        tokens, place = index[str(row)], f"{path}, key {str(row)!r}"
        if not isinstance(tokens, list):
            raise ValueError(
                f"{place} has {tokens!r}, which should be a list of tokens."
            )
        if len(tokens) not in lengths:
            raise ValueError(
                f"{place} has {len(tokens)} tokens, which should be "
                f"one of {sorted(lengths)}. Check n_levels={n_levels} and {suffix=}."
            )
        ids[row, : len(tokens)] = _parse(tokens, place) - bases[: len(tokens)]
    if ids.min(initial=0) < 0:
        row = int(np.argwhere(ids < 0)[0, 0])
        raise ValueError(
            f"{path}, key {str(row)!r} has a token below {base=}. Check base."
        )
    return ids


def _parse(tokens: list, place: str) -> np.ndarray:
    """Numbers of some tokens, which should carry the letters of their levels."""
    values = []
    for letter, token in zip(LETTERS, tokens, strict=False):
        match = TOKEN.fullmatch(token) if isinstance(token, str) else None
        if match is None or match[1] != letter:
            raise ValueError(
                f"{place} has {token!r}, which should be like <{letter}_7>."
            )
        if int(match[2]) > np.iinfo(np.int32).max:
            raise ValueError(f"{place} has {token!r}, which should fit into 32 bits.")
        values.append(int(match[2]))
    return np.array(values, dtype=np.int64)
