"""How far a long fit has come, in a folder, so that another process can go on from it.

A fit is a sequence of steps, each a function of the rows and of what the steps before
returned and drew. The journal has the results of the long ones, the state of the one
that is going on, and that of the generator after each. A fit that goes on runs the same
code again, and takes from the journal what is there.
"""

import copy
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from sklearn.utils import check_random_state

from sk_rqkplus._store import (
    MANIFEST,
    digest,
    only_writer,
    read_store,
    remove_left_behind,
    write_store,
)
from sk_rqkplus._warn import warn

Result = TypeVar("Result")
Fields = dict[str, Any]

KIND = "state of a fit"
# To be raised where fits change in a way that one begun before could not go on.
VERSION = 6
# The last state and the one before it take turns.
SLOTS = ("fit-state-0", "fit-state-1")
# Largest share of the time that goes into writing.
OVERHEAD = 0.02
# Parameters that do not touch what is learned: a fit may go on with others. What
# ``device`` stands for is described by itself.
FREE = {
    "checkpoint_dir",
    "dedup",
    "device",
    "memory",
    "n_checkpoints",
    "nan_policy",
    "resume",
    "store_catalogue",
    "verbose",
}


class Book:
    """The states of a fit in a folder.

    Parameters
    ----------
    folder : Path
        The checkpoint directory.

    owner : dict
        What the fit belongs to, as JSON values.

    rng : RandomState
        The generator that the fit draws from.

    device : torch.device
        Where restored tensors are to be.
    """

    def __init__(
        self,
        folder: Path,
        owner: Fields,
        rng: np.random.RandomState,
        device: torch.device,
    ):
        self.folder = folder
        self.owner = owner
        self.rng = rng
        self.device = device
        self.record: dict[str, Fields] = {}
        self.goes_on = False
        self.serial = 0
        self.written, self.cost = -np.inf, 0.0

    def begin(self) -> None:
        """Write the first state, and give up those of an earlier fit."""
        found, damaged = self._read_slots()
        self._give_up(damaged)
        self.serial = max((state["serial"] for _, state in found), default=-1) + 1
        self.record = {"": {"rng": self.rng.get_state(legacy=False)}}
        self.write()
        self._give_up([SLOTS[self.serial % 2]])

    def go_on(self) -> Fields | None:
        """Take over the last state; return whom it belongs to, None without one."""
        found, damaged = self._read_slots()
        what = " ".join(map(str, damaged.values()))
        if not found and damaged:
            raise ValueError(
                f"checkpoint_dir={str(self.folder)!r} should have a state that is as "
                f"it was written. Set resume=False to start anew. {what}"
            )
        if not found:
            return None
        if damaged:
            warn(
                f"checkpoint_dir={str(self.folder)!r} has a damaged state: the fit "
                f"goes on from the one before it. {what}"
            )
            self._give_up(damaged)
        self.goes_on = True
        arrays, values = max(found, key=lambda state: state[1]["serial"])
        self.serial = values["serial"] + 1
        self.record = _joined(arrays, self.device)
        self.rng.set_state(self.record[""]["rng"])
        return values["owner"]

    def _read_slots(self) -> tuple[list[Any], dict[str, Exception]]:
        """States that can be read, and what is wrong with the others."""
        found: list[Any] = []
        damaged: dict[str, Exception] = {}
        for name in SLOTS:
            if not (inside(self.folder, name) / MANIFEST).exists():
                continue
            remove_left_behind(self.folder / name)
            try:
                found.append(read_store(self.folder / name, kind=KIND, version=VERSION))
            except ValueError as error:
                damaged[name] = error
        return found, damaged

    def _give_up(self, names: Iterable[str]) -> None:
        """Make states unknown, so that others may take their places."""
        for name in names:
            with writing_to(self.folder):
                (self.folder / name / MANIFEST).unlink(missing_ok=True)

    def write(self) -> None:
        """Write the record in the place of the state before the last."""
        start = time.monotonic()
        arrays = _parted(self.record)
        values = {"owner": self.owner, "serial": self.serial}
        path = self.folder / SLOTS[self.serial % 2]
        with writing_to(self.folder):
            write_store(path, arrays, values, kind=KIND, version=VERSION)
        self.serial += 1
        self.written = time.monotonic()
        self.cost = self.written - start

    def write_if_due(self) -> None:
        """Write, unless that would take more than its share of the time."""
        if time.monotonic() - self.written >= self.cost / OVERHEAD:
            self.write()


class Journal:
    """A part of what a fit has come to: one step of it.

    Parameters
    ----------
    book : Book or None
        Where it is written; None remembers nothing.

    path : str, default=""
        Name of the step; those of the steps inside it begin with it.
    """

    def __init__(self, book: Book | None, path: str = ""):
        self.book = book
        self.path = path

    def part(self, name: str) -> "Journal":
        """Journal of a step inside this one."""
        return Journal(self.book, f"{self.path}/{name}")

    @property
    def goes_on(self) -> bool:
        """Whether the fit goes on from that of an earlier process."""
        return self.book is not None and self.book.goes_on

    @property
    def saved(self) -> bool:
        """Whether a state of this step is there to go on from."""
        return self.book is not None and self.path in self.book.record

    def restore(self, **start: Any) -> Fields:
        """State of this step, and that of the generator; ``start`` without one."""
        if self.book is None or self.path not in self.book.record:
            return start
        fields = dict(self.book.record[self.path])
        self.book.rng.set_state(fields.pop("rng"))
        return fields

    def save(self, *, at_once: bool = False, **fields: Any) -> None:
        """Record the state of this step; that of steps inside it has had its time.

        Tensors are written later than recorded, and must not change in place, unless
        ``at_once`` is true.
        """
        if self.book is None:
            return
        record = self.book.record
        for path in [path for path in record if path.startswith(f"{self.path}/")]:
            del record[path]
        record[self.path] = {**fields, "rng": self.book.rng.get_state(legacy=False)}
        if at_once:
            self.book.write()
        else:
            self.book.write_if_due()

    def once(self, kind: type[Result], compute: Callable[[], Result]) -> Result:
        """Result of this step, a dataclass: from the record, or else computed."""
        if self.saved:
            return kind(**self.restore())
        result = compute()
        self.save(**vars(result))
        return result

    def flush(self) -> None:
        """Write what is recorded."""
        if self.book is not None:
            self.book.write()


NO_JOURNAL = Journal(None)


@contextmanager
def keep_journal(
    estimator,
    table: Any,
    *,
    may_rise: Mapping[str, bool] | None = None,
) -> Iterator[tuple[Journal, np.random.RandomState]]:
    """Journal of a fit in ``checkpoint_dir``, and the generator to draw from.

    Parameters
    ----------
    estimator : estimator
        With parameters ``checkpoint_dir``, ``resume`` and ``random_state``.

    table : Table
        The rows of the fit, which describes them, and its ``device``.

    may_rise : dict of str to bool, optional
        Parameters of which a fit may go on with a larger one, and whether this may.

    Yields
    ------
    journal : Journal
        Of the whole fit.

    rng : RandomState
        That of the fit before, where this one goes on.
    """
    if estimator.checkpoint_dir is None:
        if estimator.resume:
            raise ValueError(
                "checkpoint_dir=None should be the directory of the fit with "
                "resume=True. Give it, or leave resume out."
            )
        yield NO_JOURNAL, check_random_state(estimator.random_state)
        return
    folder = Path(estimator.checkpoint_dir)
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if (folder / MANIFEST).exists():
        raise ValueError(
            f"checkpoint_dir={str(folder)!r} holds a saved model, which would no "
            "longer load, and should be a directory of the fit alone. Give another one."
        )
    with only_writer(folder, "checkpoint_dir"):
        owner = {
            # A store takes older versions; a fit that changed cannot.
            "format": VERSION,
            "class": type(estimator).__name__,
            "params": describe_params(estimator),
            "device": table.device.type,
            "X": table.describe(),
        }
        random_state = estimator.random_state
        if estimator.resume:
            # Neither the global generator nor the caller's is turned back.
            rng = (
                np.random.RandomState()
                if random_state is None
                else check_random_state(copy.deepcopy(random_state))
            )
            book = Book(folder, owner, rng, table.device)
            before = book.go_on()
            if before is not None:
                check_owner(folder, before, owner, may_rise or {})
                yield Journal(book), rng
                return
        book = Book(folder, owner, check_random_state(random_state), table.device)
        book.begin()
        yield Journal(book), book.rng


def check_owner(
    folder: Path, before: Fields, owner: Fields, may_rise: Mapping[str, bool]
) -> None:
    """Refuse to go on with a fit of other rows or parameters."""
    old, new = ({**side, **side["params"]} for side in (before, owner))
    for name in dict.fromkeys(["class", *old["params"], *new["params"], *owner]):
        if name == "params":
            continue
        found: Any = old.get(name)
        wanted: Any = new.get(name)
        if found == wanted:
            continue
        if name in may_rise and wanted > found:
            if may_rise[name]:
                continue
            raise ValueError(
                f"checkpoint_dir={str(folder)!r} has a fit with {name}={found!r}, "
                f"which should equal {name}={wanted!r}: lr_schedule="
                f"{owner['params']['lr_schedule']!r} is a course to that epoch. Set "
                "it back, or start anew with resume=False."
            )
        raise ValueError(
            f"checkpoint_dir={str(folder)!r} has a fit with {name}={found!r}, which "
            f"should equal {name}={wanted!r} to go on. Set it back, or start anew with "
            "resume=False."
        )


def describe_params(estimator) -> Fields:
    """Parameters that a fit depends on, as JSON values."""
    params = estimator.get_params(deep=False)
    return {k: describe(v) for k, v in sorted(params.items()) if k not in FREE}


def describe(value: Any) -> Any:
    """A parameter as a JSON value that differs where it does."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, PathLike):
        return fspath(value)
    if isinstance(value, np.ndarray | torch.Tensor):
        array = np.asarray(value)
        if array.size <= 64:
            return array.tolist()
        return f"array {digest({'': array})[:16]}"
    if isinstance(value, Mapping):
        return {str(key): describe(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [describe(part) for part in value]
    if hasattr(value, "fingerprint_"):
        return f"{type(value).__name__} {value.fingerprint_[:16]}"
    if hasattr(value, "get_params") and not isinstance(value, type):
        return {"class": type(value).__name__, **describe_params(value)}
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def inside(folder: str | PathLike, name: str) -> Path:
    """Folder in a checkpoint directory, whoever made that: it leads nowhere else."""
    path = Path(folder) / name
    if path.is_symlink():
        raise ValueError(
            f"checkpoint_dir={str(folder)!r} has a link, {name!r}, which should be a "
            "folder of a fit. Remove it."
        )
    return path


@contextmanager
def writing_to(folder: str | PathLike) -> Iterator[None]:
    """Say which directory it was, and what to do, where writing fails."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        # The library of the arrays has the number of an error in its text alone.
        found = re.search(r"os error (\d+)", str(error))
        number = int(found[1]) if found else getattr(error, "errno", None)
        reason = getattr(error, "strerror", None) or error
        text = (
            f"checkpoint_dir={str(folder)!r} should be a directory with room that can "
            f"be written: {reason}. Free space there or give another one; what was "
            "written before is intact, and resume=True goes on from it."
        )
        raise OSError(*([text] if number is None else [number, text])) from error


def _parted(record: Mapping[str, Fields]) -> dict[str, np.ndarray]:
    """Arrays of a record, and all else as one of text: it has a word for infinity."""
    arrays: dict[str, np.ndarray] = {}
    plain: Fields = {}
    for path, fields in record.items():
        plain[path] = {}
        for name, value in fields.items():
            if name == "rng":
                state = dict(value["state"])
                for key in [k for k, v in state.items() if isinstance(v, np.ndarray)]:
                    arrays[f"{path}:rng.{key}"] = state.pop(key)
                value = {**value, "state": state}
            if isinstance(value, np.ndarray | torch.Tensor):
                arrays[f"{path}:{name}"] = torch.as_tensor(value).cpu().numpy()
            else:
                plain[path][name] = value
    text = json.dumps(plain).encode()
    return {**arrays, "": np.frombuffer(text, dtype=np.uint8)}


def _joined(arrays: dict[str, np.ndarray], device: torch.device) -> dict[str, Fields]:
    """Undo ``_parted``; arrays are tensors, aligned as torch aligns its own."""
    record: dict[str, Fields] = json.loads(arrays.pop("").tobytes())
    for key, array in arrays.items():
        path, _, name = key.rpartition(":")
        if name.startswith("rng."):
            record[path]["rng"]["state"][name.removeprefix("rng.")] = array
        else:
            record[path][name] = torch.from_numpy(array).clone().to(device)
    return record
