"""Item keys: integers, strings or other hashable values that name items."""

from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b
from itertools import repeat

import numpy as np

from sk_rqkplus._groups import stable_sort

NOT_KEYS = {"float", "bool", "bool_", "NoneType", "NAType", "NaTType"}


def as_keys(
    keys: Iterable, n_rows: int | None = None, *, name: str = "keys"
) -> np.ndarray:
    """Integers as an int64 array, anything else as an array of objects of one type."""
    if isinstance(keys, str | bytes) or not isinstance(keys, Iterable):
        raise ValueError(f"{name}={keys!r} should be one key per row. Give a sequence.")
    array = np.asarray(keys) if hasattr(keys, "__array__") else _as_objects(keys)
    if array.ndim != 1:
        raise ValueError(
            f"{name} have shape={array.shape}, which should be one-dimensional. Give "
            "one key per row."
        )
    if n_rows is not None and len(array) != n_rows:
        raise ValueError(
            f"n_{name}={len(array)} should equal n_rows={n_rows}. Give one key per row."
        )
    if len(array) == 0:
        return np.empty(0, dtype=np.int64)
    if array.dtype.kind not in "iu":
        return _of_one_type(array.astype(object), name)
    if array.dtype == np.uint64 and array.max() >= 2**63:
        raise _too_large(name)
    return array.astype(np.int64)


def _too_large(name: str) -> ValueError:
    return ValueError(
        f"{name} have values beyond 64 bits, which should be between -2^63 and 2^63 - "
        "1. Give such numbers as strings."
    )


def _as_objects(keys: Iterable) -> np.ndarray:
    # np.array would turn numbers among strings into strings, and tuples into a table.
    return np.fromiter(keys, dtype=object)


def _of_one_type(keys: np.ndarray, name: str) -> np.ndarray:
    """Objects as they are, integers as an array of integers."""
    types = set(map(type, keys))
    if all(issubclass(kind, str) for kind in types):
        return keys if types == {str} else _as_objects(map(str, keys))
    if all(issubclass(kind, int | np.integer) and kind is not bool for kind in types):
        try:
            return np.array(keys.tolist(), dtype=np.int64)
        except OverflowError:
            raise _too_large(name) from None
    names = sorted(kind.__name__ for kind in types)
    if len(types) > 1 or names[0] in NOT_KEYS or isinstance(keys[0], np.number):
        raise ValueError(
            f"{name} have values of type {', '.join(names)}, which should be integers, "
            "strings or hashable values of one type. Fill in what is missing and "
            "convert the rest."
        )
    try:
        hash(keys[0])
    except TypeError as error:
        raise TypeError(
            f"{name} have values of type {names[0]}, which should be hashable. Give "
            "integers or strings."
        ) from error
    return keys


def key_type(keys: np.ndarray) -> str:
    """Name of the type of keys; there are no keys of type ``"nothing"``."""
    if len(keys) == 0:
        return "nothing"
    return "integer" if keys.dtype != object else type(keys[0]).__name__


def check_same_type(keys: np.ndarray, known: np.ndarray) -> None:
    """Refuse keys that can only be strangers because of their type."""
    types = key_type(keys), key_type(known)
    if types[0] != types[1] and "nothing" not in types:
        raise ValueError(
            f"keys are of type {types[0]}, which should be {types[1]}, the type of the "
            "keys that are known. Convert them."
        )


def check_distinct(keys: np.ndarray, name: str = "keys") -> None:
    """Refuse keys that occur twice."""
    distinct = np.unique(keys) if keys.dtype != object else set(keys)
    if len(distinct) == len(keys):
        return
    twice = Counter(keys.tolist()).most_common(1)[0][0]
    raise ValueError(
        f"{name} have the value {twice!r} more than once, which should be distinct. "
        "Give every item a key of its own."
    )


def has_stable_hash(keys: np.ndarray) -> bool:
    """Whether :func:`key_order` is defined."""
    return key_type(keys) in ("integer", "str", "bytes", "nothing")


def key_order(keys: np.ndarray) -> np.ndarray:
    """Order of distinct keys by a hash that is the same in every process.

    Integers are hashed by the last step of SplitMix64, strings (as UTF-8) and bytes by
    BLAKE2b of 8 bytes, read as a little-endian integer.
    """
    if not has_stable_hash(keys):
        raise ValueError(
            f"keys are of type {key_type(keys)}, which should be integers or strings "
            "here: others have no hash that is the same everywhere. Give strings."
        )
    hashes = _splitmix64(keys) if keys.dtype != object else _blake2b(keys)
    # The first bits decide, and all of them where these are equal.
    first, order = stable_sort(
        (hashes >> np.uint64(len(keys).bit_length() + 2)).view("i8")
    )
    equal = np.flatnonzero(first[1:] == first[:-1])
    tied = np.union1d(equal, equal + 1)
    check_distinct(keys[order[tied]])
    order[tied] = sorted(order[tied], key=lambda row: (hashes[row], keys[row]))
    return order


def _splitmix64(keys: np.ndarray) -> np.ndarray:
    # Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
    mixed = keys.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _blake2b(keys: np.ndarray) -> np.ndarray:
    texts = keys if isinstance(keys[0], bytes) else map(_encode, keys)
    digests = [blake2b(text, digest_size=8).digest() for text in texts]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


class KeyIndex:
    """Positions of the keys of an array that only grows at its end."""

    def __init__(self) -> None:
        self._sorted = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        self._positions: dict = {}

    def find(self, keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Position of each wanted key in all keys, -1 where there is none."""
        check_same_type(wanted, keys)
        if len(keys) == 0 or len(wanted) == 0:
            return np.full(len(wanted), -1)
        if keys.dtype == object:
            self._add_objects(keys)
            found = map(self._positions.get, wanted, repeat(-1))
            return np.fromiter(found, dtype=np.int64, count=len(wanted))
        self._add_integers(keys)
        known, positions = self._sorted
        at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        return np.where(known[at] == wanted, positions[at], -1)

    def _add_objects(self, keys: np.ndarray) -> None:
        start = len(self._positions)
        self._positions.update(
            zip(keys[start:].tolist(), range(start, len(keys)), strict=True)
        )

    def _add_integers(self, keys: np.ndarray) -> None:
        known, positions = self._sorted
        new = np.arange(len(known), len(keys))
        new = new[np.argsort(keys[new])]
        at = np.searchsorted(known, keys[new])
        self._sorted = np.insert(known, at, keys[new]), np.insert(positions, at, new)


def pack_keys(keys: np.ndarray) -> dict[str, np.ndarray]:
    """Arrays of numbers that hold keys, for a file."""
    kind = key_type(keys)
    if kind in ("integer", "nothing"):
        return {"keys": keys}
    if kind != "str":
        raise ValueError(
            f"keys are of type {kind}, which should be integers or strings to be "
            "saved. Convert them to strings before they are registered."
        )
    texts = list(map(_encode, keys))
    ends = np.cumsum(np.fromiter(map(len, texts), dtype=np.int64, count=len(texts)))
    return {
        "key_bytes": np.frombuffer(b"".join(texts), dtype=np.uint8),
        "key_ends": ends,
    }


def unpack_keys(arrays: dict[str, np.ndarray]) -> np.ndarray | None:
    """Take out keys as :func:`pack_keys` made them, None where there are none.

    A ValueError or TypeError says that they are no keys.
    """
    if "key_ends" not in arrays:
        keys = arrays.pop("keys", None)
        if keys is not None:
            keys = as_keys(keys)
            check_distinct(keys)
        return keys
    text, ends = arrays.pop("key_bytes"), arrays.pop("key_ends")
    bounds = np.append(np.zeros(1, dtype=np.int64), ends)
    # Slices that overlap would take more memory than the file.
    if (
        (text.dtype, ends.dtype) != (np.uint8, np.int64)
        or text.ndim != 1
        or ends.ndim != 1
        or (np.diff(bounds) < 0).any()
        or bounds[-1] != len(text)
    ):
        raise ValueError("key_ends should be the ends of parts of key_bytes")
    whole, cuts = text.tobytes(), bounds.tolist()
    parts = zip(cuts[:-1], cuts[1:], strict=True)
    keys = _as_objects(whole[i:j].decode("utf-8", "surrogatepass") for i, j in parts)
    check_distinct(keys)
    return keys
