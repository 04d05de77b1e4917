"""Write a file whole or not at all."""

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike


@contextmanager
def atomic_write(path: str | PathLike) -> Iterator[str]:
    """Give a temporary path beside ``path`` that takes its place on success.

    A reader sees the old file or the new one, whatever happens in between.

    Parameters
    ----------
    path : path-like
        File to write.

    Yields
    ------
    temporary : str
        Where to write.
    """
    path = os.fspath(path)
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        # Created here, so that a missing or read-only directory fails before any work.
        open(temporary, "xb").close()
        yield temporary
        sync_file(temporary)
        os.replace(temporary, path)
        sync_folder(os.path.dirname(path) or ".")
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def sync_file(path: str | PathLike) -> None:
    """Bring the content of a file to the disk.

    Parameters
    ----------
    path : path-like
        The file.
    """
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def sync_folder(path: str | PathLike) -> None:
    """Bring the names of the files in a folder to the disk, where the system can.

    Parameters
    ----------
    path : path-like
        The folder.
    """
    if os.name == "nt":
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def measure(path: str | PathLike) -> tuple[int, str]:
    """Length and SHA-256 of a file.

    Parameters
    ----------
    path : path-like
        File to read.

    Returns
    -------
    n_bytes : int
        Length.

    sha256 : str
        Digest, in hexadecimal digits.
    """
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return file.tell(), digest.hexdigest()
