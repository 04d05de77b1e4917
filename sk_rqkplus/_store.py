"""Arrays and plain values in a folder: one safetensors file and a manifest.

The manifest names the file of the arrays and has its SHA-256 and its own. A folder is
replaced by replacing its manifest, which is one step: a reader finds what was saved
before or what was saved last, whatever happens in between.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sk_rqkplus._files import sync_file, sync_folder
from sk_rqkplus._tensors import (
    TensorsError,
    is_storable,
    read_tensors,
    write_tensors,
)

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

MANIFEST = "manifest.json"
# Most bytes of a manifest, which is parsed before its checksum is known. What is parsed
# takes up to 25 times as much.
MAX_MANIFEST = 2**23
# What a save that was killed may leave behind: it is never read, and the next save
# removes it.
LEFT_BEHIND = re.compile(r"arrays-[0-9a-f]{16}\.safetensors|save-[0-9a-f]{32}\.tmp")
# A link is not followed, and a pipe that nobody writes to is not waited for.
OPEN_FLAGS = os.O_RDONLY | sum(
    getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY")
)
Stamp = tuple[int, ...]


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
    instead_of: Stamp | None = None,
) -> None:
    """Write arrays and JSON values, whole or not at all; an older store is replaced.

    ``kind`` says what is stored, and ``version`` in which form. ``instead_of`` is the
    :func:`stamp` of the store that may be replaced, None that of any.
    """
    folder = Path(path)
    new = not folder.exists()
    if new:
        folder.mkdir()
    try:
        with only_writer(folder):
            _check_target(folder, kind, instead_of)
            _write(folder, arrays, values, kind, version)
    except BaseException as error:
        if new:
            with suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError) and error.filename is None:
            # A full disk is told without saying which.
            error.filename = str(folder)
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
    # In a folder of its own, which is removed as a whole.
    scratch = folder / f"save-{uuid.uuid4().hex}.tmp"
    try:
        scratch.mkdir()
        size, sha256 = write_tensors(scratch / "arrays", _checked(arrays))
        name = f"arrays-{sha256[:16]}.safetensors"
        content = {
            "kind": kind,
            "version": version,
            "values": dict(values),
            "arrays": {"name": name, "bytes": size, "sha256": sha256},
        }
        (scratch / MANIFEST).write_bytes(_checked_size(_dump(content)))
        for part, target in (("arrays", name), (MANIFEST, MANIFEST)):
            sync_file(scratch / part)
            os.replace(scratch / part, folder / target)
            sync_folder(folder)
    finally:
        remove_left_behind(folder)


def _checked(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of types that can be stored."""
    checked = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in checked.items():
        if not is_storable(array.dtype):
            raise ValueError(
                f"{name} has dtype={array.dtype}, which should be one of integers, "
                "floats of at most 64 bits or booleans. Convert it."
            )
    return checked


def _checked_size(manifest: bytes) -> bytes:
    if len(manifest) > MAX_MANIFEST:
        raise ValueError(
            f"{MANIFEST} has {len(manifest)} bytes, which should be <= {MAX_MANIFEST} "
            "to be read again. Shorten what it holds besides arrays, such as history_."
        )
    return manifest


def remove_left_behind(folder: Path) -> None:
    """Remove what the manifest, old or new, does not name."""
    kept = ""
    with suppress(OSError, ValueError, KeyError, TypeError):
        if os.path.lexists(folder / MANIFEST):
            kept = _parse(folder, _read_whole(folder))["arrays"]["name"]
        for name in os.listdir(folder):
            if not LEFT_BEHIND.fullmatch(name) or name == kept:
                continue
            if (folder / name).is_dir() and not (folder / name).is_symlink():
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


def check_target(path: str | PathLike, kind: str) -> None:
    """Refuse a folder that holds anything but an older store of the same kind."""
    if Path(path).is_dir():
        _check_target(Path(path), kind, None)


def _check_target(folder: Path, kind: str, instead_of: Stamp | None) -> None:
    others = _strangers(folder)
    if others:
        raise ValueError(
            f"path={str(folder)!r} has other files, {others}, and should be a new "
            "folder, an empty one or one that was saved before. Give another path."
        )
    if instead_of is not None and stamp(folder) != instead_of:
        raise ValueError(
            f"path={str(folder)!r} should be as it was loaded, and was saved to in the "
            "meantime. Load it again."
        )
    if os.path.lexists(folder / MANIFEST):
        found = _parse(folder, _read_whole(folder)).get("kind")
        if found != kind:
            raise ValueError(
                f"path={str(folder)!r} holds a {found}, which should be a {kind} to be "
                "replaced by one. Give another path."
            )


def _strangers(folder: Path) -> list[str]:
    names = set(os.listdir(folder)) - {MANIFEST}
    return sorted(name for name in names if not LEFT_BEHIND.fullmatch(name))


def read_store(
    path: str | PathLike, *, kind: str, version: int
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and values of a store, after every byte of it was checked.

    Nothing of what is read is executed. A ValueError says what is wrong.
    """
    _, arrays, values = read_any_store(path, {kind: version})
    return arrays, values


def read_any_store(
    path: str | PathLike, versions: Mapping[str, int]
) -> tuple[str, dict[str, np.ndarray], dict[str, Any]]:
    """Kind, arrays and values of a store that is of one of several kinds.

    ``versions`` has the newest version that can be read of each kind.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"path={str(folder)!r} should be a folder that was saved. Check the path."
        )
    while True:
        before = stamp(folder)
        try:
            content = _read_manifest(folder, versions)
            arrays = _read_arrays(folder, **content["arrays"])
            return content["kind"], arrays, content["values"]
        except (KeyError, TypeError) as error:
            raise _damaged(folder, MANIFEST, "lacks an entry") from error
        except (ValueError, OSError):
            # Another process may have saved in between.
            if stamp(folder) == before:
                raise


def stamp(path: str | PathLike) -> Stamp:
    """What changes when a store is replaced, be it by one of the same content."""
    try:
        status = os.lstat(Path(path) / MANIFEST)
    except FileNotFoundError:
        return ()
    return status.st_ino, status.st_mtime_ns


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


def _read_manifest(folder: Path, versions: Mapping[str, int]) -> dict[str, Any]:
    try:
        raw = _read_whole(folder)
    except FileNotFoundError:
        raise ValueError(
            f"path={str(folder)!r} has no {MANIFEST}, which it should. Check the path: "
            "nothing was saved there."
        ) from None
    content = _parse(folder, raw)
    kind, found = content.get("kind"), content.get("version")
    if not isinstance(kind, str) or kind not in versions:
        raise ValueError(
            f"path={str(folder)!r} holds a {kind}, which should be a "
            f"{' or '.join(versions)}. Load it with the class that saved it."
        )
    if type(found) is not int or found < 1:
        raise _damaged(folder, MANIFEST, f"has version={found!r}")
    if found > versions[kind]:
        raise ValueError(
            f"path={str(folder)!r} has version={found} of its format, which should be "
            f"<= {versions[kind]}. Upgrade sk-rqkplus, or save it with an older one."
        )
    unsigned = {key: value for key, value in content.items() if key != "sha256"}
    if not _is_spelled(raw, unsigned):
        raise _damaged(folder, MANIFEST, "was changed")
    return unsigned


def _is_spelled(raw: bytes, content: dict[str, Any]) -> bool:
    """Whether bytes are the one spelling of a manifest."""
    try:
        return raw == _dump(content)
    except (ValueError, RecursionError):
        # Infinite numbers, which no manifest has, or depths that it has not.
        return False


def _read_arrays(
    folder: Path, name: str, bytes: int, sha256: str
) -> dict[str, np.ndarray]:
    others = _strangers(folder)
    if others:
        raise _damaged(folder, others[0], "does not belong to it")
    if not LEFT_BEHIND.fullmatch(name):
        raise _damaged(folder, name, "is missing")
    try:
        with _open(folder, name) as file:
            size = os.fstat(file.fileno()).st_size
            if size != bytes:
                raise _damaged(folder, name, "was changed")
            # What is parsed are the very bytes that the checksum is taken of.
            arrays, found = read_tensors(file, size)
    except FileNotFoundError as error:
        raise _damaged(folder, name, "is missing") from error
    except TensorsError as error:
        raise _damaged(folder, name, f"was changed: {error}") from error
    if found != sha256:
        raise _damaged(folder, name, "was changed")
    return arrays


def _open(folder: Path, name: str) -> BinaryIO:
    """Open a file that is one: no link, no pipe, no device."""
    try:
        file = os.fdopen(os.open(folder / name, OPEN_FLAGS), "rb")
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EISDIR):
            raise _damaged(folder, name, "is no regular file") from error
        raise
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise _damaged(folder, name, "is no regular file")
    return file


def _read_whole(folder: Path) -> bytes:
    """Content of the manifest."""
    with _open(folder, MANIFEST) as file:
        raw = file.read(MAX_MANIFEST + 1)
    if len(raw) > MAX_MANIFEST:
        raise _damaged(folder, MANIFEST, f"has more than {MAX_MANIFEST} bytes")
    return raw


def _damaged(folder: Path, name: str, what: str) -> ValueError:
    return ValueError(
        f"path={str(folder)!r} should be as it was saved, but {name} {what}. Use a "
        "copy, or save it again."
    )
