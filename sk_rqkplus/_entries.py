"""The table behind a catalogue: 28 bytes per item, sorted by code."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from sk_rqkplus._groups import group_starts, number_rows, ranges
from sk_rqkplus._keys import check_same_type
from sk_rqkplus._sketch import N_SKETCH

MAX_CODE = 2**62
MAX_ROWS = 2**32


@dataclass(frozen=True, eq=False)
class Entries:
    """What is known of every item. Items are added by making a new table.

    All but ``keys`` is in the order of the codes, so that the items of a code or of a
    prefix are neighbours; ``rows`` has their order of registration, that of ``keys``.
    """

    sizes: tuple[int, ...]
    codes: np.ndarray
    sketches: np.ndarray
    # Last codeword and suffix of the ID, in one number.
    slots: np.ndarray
    rows: np.ndarray
    # Of codes that are too long for a number, which is then a hash.
    prefixes: np.ndarray
    keys: np.ndarray | None = None

    @classmethod
    def none(cls, sizes: Sequence[int]) -> "Entries":
        """A table of no items."""
        n_stored = len(sizes) - 1 if math.prod(sizes) > MAX_CODE else 0
        return cls(
            sizes=tuple(sizes),
            codes=np.empty(0, dtype=np.int64),
            sketches=np.empty((0, N_SKETCH), dtype=np.float32),
            slots=np.empty(0, dtype=np.int32),
            rows=np.empty(0, dtype=np.uint32),
            prefixes=np.empty((0, n_stored), dtype=np.int32),
        )

    def __len__(self) -> int:
        return len(self.codes)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything but sizes and keys, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)[1:-1]}

    def is_sound(self) -> bool:
        """Whether the arrays are such as this class makes, and all IDs different."""
        n, wanted = len(self), Entries.none(self.sizes).arrays()
        return (
            all(
                array.dtype == wanted[name].dtype
                and array.shape == (n, *wanted[name].shape[1:])
                for name, array in self.arrays().items()
            )
            and (self.keys is None or self.keys.shape == (n,))
            and self._has_sound_codes()
            and self._has_every_row()
            and self._has_distinct_ids()
        )

    def _has_sound_codes(self) -> bool:
        """Whether codes are in range and order, and agree with the prefixes."""
        last_size = self.sizes[-1]
        largest = min(math.prod(self.sizes), MAX_CODE // last_size * last_size)
        if len(self) == 0:
            return True
        if self.codes[0] < 0 or self.codes[-1] >= largest or self.slots.min() < 0:
            return False
        if not (self.codes[1:] >= self.codes[:-1]).all():
            return False
        if not self.prefixes.shape[1]:
            return True
        codes = np.column_stack([self.prefixes, self.codes % last_size])
        inside = (self.prefixes >= 0) & (self.prefixes < self.sizes[:-1])
        return bool(inside.all() and (self.flatten(codes) == self.codes).all())

    def _has_every_row(self) -> bool:
        """Whether every number of a row is there once."""
        if self.rows.max(initial=0) >= max(1, len(self)):
            return False
        seen = np.zeros(len(self), dtype=bool)
        seen[self.rows] = True
        return bool(seen.all())

    def _has_distinct_ids(self) -> bool:
        """Whether no ID is there twice."""
        if self.prefixes.shape[1]:
            prefix = number_rows(self.prefixes)
        else:
            # Codes are in order: a new prefix starts where the number changes.
            prefix = self.codes // self.sizes[-1]
            prefix = np.cumsum(np.append(prefix[:1] * 0, np.diff(prefix) > 0))
        words = np.sort((prefix << 31) | self.slots)
        return bool((words[1:] != words[:-1]).all())

    def flatten(self, codes: np.ndarray) -> np.ndarray:
        """One integer per code; codes of one prefix are neighbours."""
        prefix = np.zeros(len(codes), dtype=np.int64)
        room = MAX_CODE // self.sizes[-1]
        for column, size in zip(codes.T[:-1], self.sizes[:-1], strict=True):
            # Past 62 bits this is a hash.
            prefix = (prefix * size + column) % room
        return prefix * self.sizes[-1] + codes[:, -1]

    def ids(self, entries: np.ndarray | slice) -> np.ndarray:
        """IDs of some entries."""
        codes, slots = self.codes[entries], self.slots[entries]
        ids = np.empty((len(codes), len(self.sizes) + 1), dtype=np.int32)
        ids[:, -1], ids[:, -2] = np.divmod(slots, self.sizes[-1])
        if self.prefixes.shape[1]:
            ids[:, :-2] = self.prefixes[entries]
            return ids
        prefix = codes // self.sizes[-1]
        for level in range(len(self.sizes) - 2, -1, -1):
            prefix, ids[:, level] = np.divmod(prefix, self.sizes[level])
        return ids

    def by_row(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """IDs, codes and sketches in the order of registration."""
        ids = np.empty((len(self), len(self.sizes) + 1), dtype=np.int32)
        ids[self.rows] = self.ids(slice(None))
        codes, sketches = ids[:, :-1].copy(), np.empty_like(self.sketches)
        codes[self.rows, -1] = self.codes % self.sizes[-1]
        sketches[self.rows] = self.sketches
        return ids, codes, sketches

    def under(self, prefixes: np.ndarray) -> np.ndarray:
        """Entries whose code starts with one of some prefixes, and maybe others."""
        n_known = prefixes.shape[1]
        if len(self) == 0 or self.prefixes.shape[1] > n_known:
            return np.arange(len(self))
        codes = np.zeros((len(prefixes), len(self.sizes)), dtype=np.int64)
        codes[:, :n_known] = prefixes
        first = np.sort(self.flatten(codes))
        first = first[group_starts(first)]
        start = np.searchsorted(self.codes, first)
        stop = np.searchsorted(self.codes, first + math.prod(self.sizes[n_known:]))
        return ranges(start, stop)

    def members(
        self, prefixes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows by ID, and where those of every prefix start and stop among them."""
        # The last codeword of an ID may differ from that of its code.
        n_known = min(prefixes.shape[1], len(self.sizes) - 1)
        inside = prefixes[:, :n_known]
        inside = inside[((inside >= 0) & (inside < self.sizes[:n_known])).all(axis=1)]
        entries = self.under(inside)
        ids = self.ids(entries)[:, : prefixes.shape[1]]
        number = number_rows(np.concatenate([prefixes, ids]))
        wanted, found = number[: len(prefixes)], number[len(prefixes) :]
        # In one word: rows, which have 32 bits, are sorted within each number.
        words = np.sort((found << 32) | self.rows[entries].astype(np.int64))
        stop = np.cumsum(np.bincount(found, minlength=number.max(initial=-1) + 1))
        start = np.append(0, stop)[wanted]
        return start, stop[wanted], words & (2**32 - 1)

    def with_items(
        self,
        ids: np.ndarray,
        codes: np.ndarray,
        sketches: np.ndarray,
        keys: np.ndarray | None,
    ) -> "Entries":
        """The table with more items, after those that are there."""
        slots = ids[:, -2] + ids[:, -1].astype(np.int64) * self.sizes[-1]
        if slots.max(initial=0) > np.iinfo(np.int32).max:
            raise ValueError(
                f"suffix={ids[:, -1].max()} should be below "
                f"{2**31 // self.sizes[-1]}. Remove copies from the rows."
            )
        if len(self) + len(ids) > MAX_ROWS:
            raise ValueError(
                f"n_rows={len(self) + len(ids)} should be <= {MAX_ROWS}. Split the "
                "catalogue."
            )
        flat = self.flatten(codes)
        order = np.argsort(flat, kind="stable")
        new = {
            "codes": flat,
            "sketches": sketches,
            "slots": slots,
            "rows": np.arange(len(self), len(self) + len(ids)),
            "prefixes": codes[:, : self.prefixes.shape[1]],
        }
        tables = {
            name: new.pop(name)[order].astype(array.dtype, copy=False)
            for name, array in self.arrays().items()
        }
        if len(self):
            at = np.searchsorted(self.codes, tables["codes"], side="right")
            tables = {
                name: np.insert(array, at, tables[name], axis=0)
                for name, array in self.arrays().items()
            }
        if len(ids) == 0 and len(self):
            keys = self.keys
        elif keys is not None and self.keys is not None and len(self):
            check_same_type(keys, self.keys)
            keys = np.concatenate([self.keys, keys])
        return Entries(self.sizes, **tables, keys=keys)
