"""Arrays and plain values in a folder: one safetensors file and a manifest.

The manifest names the file of the arrays and has its SHA-256 and its own. A folder is
replaced by replacing its manifest, which is one step: a reader finds what was saved
before or what was saved last, whatever happens in between.
"""

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from sk_rqkplus._files import sync_file, sync_folder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

MANIFEST = "manifest.json"
# What a save that was killed may leave behind: it is never read, and the next save
# removes it.
LEFT_BEHIND = re.compile(r"arrays-[0-9a-f]{16}\.safetensors|save-[0-9a-f]{32}\.tmp")


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of names, types, shapes and values, the same on every platform."""
    total = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        array = np.asarray(array)
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        total.update(json.dumps([name, array.dtype.str, array.shape]).encode() + b"\n")
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def write_store(
    path: str | PathLike,
    arrays: Mapping[str, np.ndarray],
    values: Mapping[str, Any],
    *,
    kind: str,
    version: int,
) -> None:
    """Write arrays and JSON values, whole or not at all; an older store is replaced.

    ``kind`` says what is stored, and ``version`` in which form.
    """
    folder = Path(path)
    new = not folder.exists()
    if new:
        folder.mkdir()
    try:
        with only_writer(folder):
            _write(folder, arrays, values, kind, version)
    except BaseException:
        if new:
            with suppress(OSError):
                folder.rmdir()
        raise
    if new:
        sync_folder(folder.parent)


def _write(
    folder: Path,
    arrays: Mapping[str, np.ndarray],
    values: Mapping[str, Any],
    kind: str,
    version: int,
) -> None:
    _check_target(folder, kind)
    # Memory of another layout would be written as if it were in C order.
    ordered = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    name = f"arrays-{digest(ordered)[:16]}.safetensors"
    # A folder of its own, since the library writes under names of its choice.
    scratch = folder / f"save-{uuid.uuid4().hex}.tmp"
    try:
        scratch.mkdir()
        save_file(ordered, scratch / name)
        size, sha256 = _measure(scratch / name)
        content = {
            "kind": kind,
            "version": version,
            "values": dict(values),
            "arrays": {"name": name, "bytes": size, "sha256": sha256},
        }
        (scratch / MANIFEST).write_bytes(_dump(content))
        # The library's file is private, whatever the umask.
        os.chmod(scratch / name, os.stat(scratch / MANIFEST).st_mode)
        for part in (name, MANIFEST):
            sync_file(scratch / part)
            os.replace(scratch / part, folder / part)
            sync_folder(folder)
    finally:
        remove_left_behind(folder)


def remove_left_behind(folder: Path) -> None:
    """Remove what the manifest, old or new, does not name."""
    kept = ""
    with suppress(OSError, ValueError, KeyError, TypeError):
        if (folder / MANIFEST).exists():
            kept = json.loads((folder / MANIFEST).read_bytes())["arrays"]["name"]
        for name in os.listdir(folder):
            if not LEFT_BEHIND.fullmatch(name) or name == kept:
                continue
            if (folder / name).is_dir():
                shutil.rmtree(folder / name, ignore_errors=True)
            else:
                os.unlink(folder / name)


@contextmanager
def only_writer(folder: Path, name: str = "path") -> Iterator[None]:
    """Refuse to write at the same time as another, where the system has locks."""
    if fcntl is None:
        yield
        return
    lock = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(
                    f"{name}={str(folder)!r} should be written by one process at a "
                    "time. Try again when the other one is done."
                ) from error
        yield
    finally:
        os.close(lock)


def _check_target(folder: Path, kind: str) -> None:
    """Refuse a folder that holds anything but an older store of the same kind."""
    others = _strangers(folder, {MANIFEST})
    if others:
        raise ValueError(
            f"path={str(folder)!r} has other files, {others}, and should be a new "
            "folder, an empty one or one that was saved before. Give another path."
        )
    if (folder / MANIFEST).exists():
        found = _parse(folder, (folder / MANIFEST).read_bytes()).get("kind")
        if found != kind:
            raise ValueError(
                f"path={str(folder)!r} holds a {found}, which should be a {kind} to be "
                "replaced by one. Give another path."
            )


def _strangers(folder: Path, known: set[str]) -> list[str]:
    names = set(os.listdir(folder)) - known
    return sorted(name for name in names if not LEFT_BEHIND.fullmatch(name))


def read_store(
    path: str | PathLike, *, kind: str, version: int
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and values of a store, after every byte of it was checked.

    Nothing of what is read is executed. A ValueError says what is wrong.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"path={str(folder)!r} should be a folder that was saved. Check the path."
        )
    while True:
        stamp = _stamp(folder)
        try:
            content = _read_manifest(folder, kind, version)
            return _read_arrays(folder, **content["arrays"]), content["values"]
        except (KeyError, TypeError) as error:
            raise _damaged(folder, MANIFEST, "lacks an entry") from error
        except (ValueError, OSError):
            # Another process may have saved in between.
            if _stamp(folder) == stamp:
                raise


def _stamp(folder: Path) -> tuple[int, ...]:
    """What changes when a manifest is replaced, be it by one of the same content."""
    try:
        stat = os.stat(folder / MANIFEST)
    except FileNotFoundError:
        return ()
    return stat.st_ino, stat.st_mtime_ns


def _dump(content: Mapping[str, Any]) -> bytes:
    """Bytes of a manifest, which end in their own checksum."""
    text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps({**content, "sha256": sha256}, indent=2, sort_keys=True).encode()


def _parse(folder: Path, raw: bytes) -> dict[str, Any]:
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _damaged(folder, MANIFEST, "is no JSON") from error
    if not isinstance(content, dict):
        raise _damaged(folder, MANIFEST, "is no JSON object")
    return content


def _read_manifest(folder: Path, kind: str, version: int) -> dict[str, Any]:
    try:
        raw = (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        raise ValueError(
            f"path={str(folder)!r} has no {MANIFEST}, which it should. Check the path: "
            "nothing was saved there."
        ) from None
    content = _parse(folder, raw)
    if content.get("kind") != kind:
        raise ValueError(
            f"path={str(folder)!r} holds a {content.get('kind')}, which should be a "
            f"{kind}. Load it with the class that saved it."
        )
    found = content.get("version")
    if not isinstance(found, int):
        raise _damaged(folder, MANIFEST, f"has version={found!r}")
    if found > version:
        raise ValueError(
            f"path={str(folder)!r} has version={found} of its format, which should be "
            f"<= {version}. Upgrade sk-rqkplus, or save it with an older one."
        )
    unsigned = {key: value for key, value in content.items() if key != "sha256"}
    if raw != _dump(unsigned):
        raise _damaged(folder, MANIFEST, "was changed")
    return unsigned


def _read_arrays(
    folder: Path, name: str, bytes: int, sha256: str
) -> dict[str, np.ndarray]:
    others = _strangers(folder, {MANIFEST})
    if others:
        raise _damaged(folder, others[0], "does not belong to it")
    if not LEFT_BEHIND.fullmatch(name) or not (folder / name).is_file():
        raise _damaged(folder, name, "is missing")
    if _measure(folder / name) != (bytes, sha256):
        raise _damaged(folder, name, "was changed")
    try:
        return load_file(folder / name)
    except SafetensorError as error:
        raise _damaged(folder, name, "is no safetensors file") from error


def _measure(path: str | PathLike) -> tuple[int, str]:
    """Length and SHA-256 of a file."""
    with open(path, "rb") as file:
        return os.stat(path).st_size, hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(folder: Path, name: str, what: str) -> ValueError:
    return ValueError(
        f"path={str(folder)!r} should be as it was saved, but {name} {what}. Use a "
        "copy, or save it again."
    )
