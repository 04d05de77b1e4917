"""How IDs are written: which numbers, which suffixes, the text of a token."""

from collections.abc import Callable, Sequence
from itertools import compress
from numbers import Integral
from typing import NoReturn

import numpy as np

from sk_rqkplus._groups import as_array
from sk_rqkplus._template import PUBLISHED, Template
from sk_rqkplus._warn import warn

SUFFIXES = ("always", "on_collision", "never")
MAX_NUMBER = np.iinfo(np.int32).max


class Layout:
    """How IDs are written: the first number, which suffixes, the text of a token.

    Parameters
    ----------
    base : {0, 1}
        Number of the first codeword of a level.

    suffix : {"always", "on_collision", "never"}
        Which IDs get a token for their suffix.

    template : str
        Text of a token.
    """

    def __init__(
        self, base: int = 0, suffix: str = "always", template: str = PUBLISHED
    ):
        if base not in (0, 1):
            raise ValueError(f"base={base!r} should be 0 or 1. Choose one of them.")
        if suffix not in SUFFIXES:
            raise ValueError(
                f"suffix={suffix!r} should be one of {SUFFIXES}. Choose one."
            )
        self.base = int(base)
        self.suffix = suffix
        self.template = Template(template)

    def first(self, level: int, n_levels: int) -> int:
        """Number that a 0 of an ID is written as, at a level."""
        # The published suffix counts from 1 whatever the base of the codes.
        if level == n_levels and self.suffix == "on_collision":
            return 1
        return self.base

    def lengths(self, n_levels: int) -> list[int]:
        """Numbers of tokens that an ID may have."""
        return {
            "always": [n_levels + 1],
            "on_collision": [n_levels, n_levels + 1],
            "never": [n_levels],
        }[self.suffix]

    def check(self, ids: np.ndarray) -> np.ndarray:
        """IDs as an array, if they can be written."""
        ids = check_ids(ids)
        self.template.check_width(ids.shape[1])
        return ids

    def suffixed(self, ids: np.ndarray, *, quiet: bool = False) -> np.ndarray:
        """Which IDs get a token for their suffix; warns of what readers would lose."""
        if self.suffix == "always":
            return np.ones(len(ids), dtype=bool)
        later = ids[:, -1] > 0
        if self.suffix == "never":
            if later.any() and not quiet:
                warn(
                    f"suffix='never' drops the suffix of {later.sum()} of {len(ids)} "
                    "IDs, which then equal others. Use suffix='always', or fit with "
                    "dedup='reassign'."
                )
            return np.zeros(len(ids), dtype=bool)
        # A suffix above 0 stays, also where those that share the code are not here.
        kept = later | _shared(ids[:, :-1])
        if kept.any() and not kept.all() and not quiet:
            short = ids.shape[1] - 1
            warn(
                f"suffix='on_collision' gives {kept.sum()} of {len(ids)} IDs "
                f"{short + 1} tokens and the others {short}. Readers that take the "
                f"first {short} drop the last one. Use suffix='always', or fit with "
                "dedup='reassign' and use suffix='never'."
            )
        return kept

    def texts(
        self,
        ids: np.ndarray,
        suffixed: np.ndarray,
        decorate: Callable[[int, str], str] = lambda level, token: token,
    ) -> list[np.ndarray]:
        """Tokens of every column that is written; empty where there is no suffix."""
        n_levels = ids.shape[1] - 1
        columns = []
        for level, column in enumerate(ids.T[: self.lengths(n_levels)[-1]]):
            first = self.first(level, n_levels)

            def text(value: int, level: int = level, first: int = first) -> str:
                return decorate(level, self.template.token(level, value + first))

            columns.append(look_up(column, text))
        if self.suffix == "on_collision":
            columns[-1][~suffixed] = ""
        return columns

    def rows(self, ids: np.ndarray, suffixed: np.ndarray) -> list[list[str]]:
        """Tokens of every ID."""
        rows = list(map(list, zip(*self.texts(ids, suffixed), strict=True)))
        if self.suffix == "on_collision":
            for row in compress(rows, ~suffixed):
                row.pop()
        return rows

    def flat(
        self, ids: np.ndarray, suffixed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of all IDs one after the other, and the number of each ID."""
        texts = np.stack(self.texts(ids, suffixed), axis=1)
        written = np.ones(texts.shape, dtype=bool)
        if self.suffix == "on_collision":
            written[:, -1] = suffixed
        return texts[written], written.sum(axis=1)

    def read(
        self, rows: Sequence, n_levels: int, place: Callable[[int], str]
    ) -> np.ndarray:
        """IDs of lists of tokens; ``place`` names a row in errors."""
        lengths = self._row_lengths(rows, n_levels, place)
        ids = np.zeros((len(rows), n_levels + 1), dtype=np.int32)
        for level in range(self.lengths(n_levels)[-1]):
            has = lengths > level
            column = [tokens[level] for tokens in compress(rows, has)]
            numbers = self._numbers(column, level)
            first = self.first(level, n_levels)
            wrong = (numbers < first) | (numbers > MAX_NUMBER)
            if wrong.any():
                entry = int(wrong.argmax())
                where = place(int(np.flatnonzero(has)[entry]))
                self._refuse(where, level, column[entry], numbers[entry])
            ids[has, level] = numbers - first
        return ids

    def _row_lengths(
        self, rows: Sequence, n_levels: int, place: Callable[[int], str]
    ) -> np.ndarray:
        """Number of tokens of every row, if it is one that an ID may have."""
        check_n_levels(n_levels)
        self.template.check_width(n_levels + 1)
        for row, tokens in enumerate(rows):
            if not isinstance(tokens, list | tuple):
                raise ValueError(
                    f"{place(row)} has {tokens!r}, which should be a list of tokens."
                )
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        allowed = self.lengths(n_levels)
        wrong = ~np.isin(lengths, allowed)
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"{place(row)} has {lengths[row]} tokens, which should be one of "
                f"{allowed}. Check {n_levels=} and suffix={self.suffix!r}."
            )
        return lengths

    def _numbers(self, column: list, level: int) -> np.ndarray:
        """Numbers in the tokens of a level, -1 for what is no token."""
        # An empty text is no token of any template.
        texts = [token if isinstance(token, str) else "" for token in column]
        numbers = {text: self.template.number(level, text) for text in set(texts)}
        found = map(numbers.__getitem__, texts)
        return np.fromiter(found, dtype=np.int64, count=len(texts))

    def _refuse(self, place: str, level: int, token: object, number: int) -> NoReturn:
        if number < 0:
            example = self.template.token(level, 7)
            raise ValueError(f"{place} has {token!r}, which should be like {example}.")
        if number > MAX_NUMBER:
            raise ValueError(f"{place} has {token!r}, which should fit into 32 bits.")
        raise ValueError(
            f"{place} has a token below base={self.base}, {token!r}. Check base and "
            "suffix."
        )


def look_up(column: np.ndarray, function: Callable[[int], str]) -> np.ndarray:
    """Apply a function of numbers to a column, once for every distinct value.

    Parameters
    ----------
    column : ndarray of shape (n,), int
        Numbers.

    function : callable
        Text of a number.

    Returns
    -------
    texts : ndarray of shape (n,), object
        Texts.
    """
    values, inverse = np.unique(column, return_inverse=True)
    return np.array([function(v) for v in values.tolist()], dtype=object)[inverse]


def check_ids(ids: np.ndarray) -> np.ndarray:
    """Return IDs as an array, or raise if they are no matrix of integers >= 0."""
    ids = as_array(ids, "ids")
    if ids.ndim != 2 or ids.shape[1] < 2 or ids.dtype.kind not in "iu":
        raise ValueError(
            f"ids have shape={ids.shape} and dtype={ids.dtype}, which should be a "
            "matrix of integers, two columns or more. Give what predict returns."
        )
    # Numbers from 1 have to fit too.
    for value in (ids.min(initial=0), ids.max(initial=0)):
        if not 0 <= value < MAX_NUMBER:
            raise ValueError(
                f"ids have the value {value}, which should be >= 0 and < {MAX_NUMBER}. "
                "Give what predict returns."
            )
    return ids


def check_n_levels(n_levels: int) -> None:
    """Raise if this is no number of levels."""
    if not isinstance(n_levels, Integral) or n_levels < 1:
        raise ValueError(
            f"n_levels={n_levels!r} should be an int >= 1. Give the number of levels "
            "of the codes."
        )


def check_sizes(codebook_sizes: Sequence[int]) -> np.ndarray:
    """Return codebook sizes as an array, or raise if they are none."""
    sizes = as_array(codebook_sizes, "codebook_sizes")
    if sizes.ndim != 1 or len(sizes) == 0 or sizes.dtype.kind not in "iu":
        raise ValueError(
            f"codebook_sizes={codebook_sizes!r} should be a sequence of one integer "
            "per level. Give for example (256, 256, 256)."
        )
    if sizes.min() < 1:
        raise ValueError(
            f"codebook_sizes={codebook_sizes!r} should be >= 1 at every level."
        )
    return sizes.astype(np.int64)


def _shared(codes: np.ndarray) -> np.ndarray:
    """Which rows have a code that another row has too."""
    order = np.lexsort(codes.T)
    equal = (codes[order[1:]] == codes[order[:-1]]).all(axis=1)
    shared = np.zeros(len(codes), dtype=bool)
    shared[order[1:]] = equal
    shared[order[:-1]] |= equal
    return shared
