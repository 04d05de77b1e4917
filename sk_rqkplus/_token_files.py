"""What files of IDs have in common: columns, keys of items, errors."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from sk_rqkplus._layout import Layout
from sk_rqkplus._progress import delayed_bar

CHUNK_ROWS = 65_536
COLUMNS = {
    "item_id": "integers or strings",
    "codes": "lists of integers",
    "suffix": "integers",
    "tokens": "lists of strings",
}

Place = Callable[[int], str]


def wanted_columns(with_tokens: bool) -> list[str]:
    """Columns to read; tokens only where they are checked."""
    return [name for name in COLUMNS if name != "tokens" or with_tokens]


def chunks(n_rows: int, verbose: int = 0) -> Iterator[slice]:
    """Consecutive rows, with a bar."""
    with delayed_bar(n_rows, "row", verbose) as bar:
        for start in range(0, n_rows, CHUNK_ROWS):
            rows = slice(start, min(start + CHUNK_ROWS, n_rows))
            yield rows
            bar.update(rows.stop - rows.start)


def given_item_ids(
    item_ids: Sequence[int] | Sequence[str] | np.ndarray | None, n_items: int
) -> list:
    """Keys of so many items; None numbers them."""
    if item_ids is None:
        return list(range(n_items))
    if isinstance(item_ids, str | bytes) or not isinstance(item_ids, Iterable):
        raise TypeError(
            f"item_ids={item_ids!r} should be a sequence. Give one key per row."
        )
    keys = item_ids.tolist() if hasattr(item_ids, "tolist") else list(item_ids)
    if len(keys) != n_items:
        raise ValueError(
            f"n_item_ids={len(keys)} should equal n_ids={n_items}. Give one per row."
        )
    return check_item_ids(keys, lambda row: f"item_ids[{row}]")


def check_item_ids(keys: list, place: Place) -> list:
    """Return keys, or raise if they are of two kinds or not distinct."""
    kind = str if keys and isinstance(keys[0], str) else int
    for row, key in enumerate(keys):
        if not isinstance(key, kind) or isinstance(key, bool):
            raise ValueError(
                f"{place(row)} has item_id={key!r}, which should be an integer, or a "
                "string like all others. Give one kind of keys."
            )
    if len(set(keys)) < len(keys):
        seen: dict = {}
        row, key = next(
            (row, key)
            for row, key in enumerate(keys)
            if seen.setdefault(key, row) != row
        )
        raise ValueError(
            f"{place(row)} has item_id={key!r}, which {place(seen[key])} has too. Keys "
            "should be distinct."
        )
    if kind is int and keys and not -(2**63) <= min(keys) <= max(keys) < 2**63:
        raise ValueError(
            f"item_id={max(keys, key=abs)} should fit into 64 bits. Use strings."
        )
    return keys


def keys_array(keys: list) -> np.ndarray:
    """Keys as an array; strings stay as they are, of any length."""
    is_text = bool(keys) and isinstance(keys[0], str)
    return np.array(keys, dtype=object if is_text else np.int64)


def check_tokens(
    layout: Layout,
    ids: np.ndarray,
    tokens: np.ndarray,
    lengths: np.ndarray,
    place: Place,
) -> None:
    """Raise if tokens, one after the other, are not those of the IDs."""
    suffixed = layout.suffixed(ids, quiet=True)
    expected, counts = layout.flat(ids, suffixed)
    wrong = lengths != counts
    if not wrong.any():
        wrong[np.repeat(np.arange(len(ids)), counts)[tokens != expected]] = True
    if wrong.any():
        row = int(wrong.argmax())
        stop = int(lengths[: row + 1].sum())
        found = tokens[stop - lengths[row] : stop].tolist()
        [wanted] = layout.rows(ids[[row]], suffixed[[row]])
        raise ValueError(
            f"{place(row)} has tokens={found}, which should be {wanted} for its codes "
            "and suffix. Check base, suffix and template, or read with template=None."
        )


def bad_codes(place: str, codes: Any, suffix: Any, n_levels: int) -> ValueError:
    """Error of codes and suffix that are no ID."""
    return ValueError(
        f"{place} has {codes=} and {suffix=}, which should be integers >= 0, "
        f"{n_levels} of them and one."
    )
