"""Codebooks in the published .npz: one array a level, ``codebook_0`` first."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np

from sk_rqkplus._files import atomic_write


def read_codebooks(path: str | PathLike, n_levels: int) -> list[np.ndarray]:
    """Read the codebooks of so many levels.

    Parameters
    ----------
    path : path-like
        The .npz file.

    n_levels : int
        Number of levels that are expected.

    Returns
    -------
    codebooks : list of ndarray of shape (n_codewords, n_features), float32
        One codebook per level.

    Raises
    ------
    ValueError
        If keys are missing or there are more of them; the message names them.
    """
    wanted = [f"codebook_{level}" for level in range(n_levels)]
    damaged = (ValueError, EOFError, KeyError, BadZipFile, ZlibError)
    try:
        file = np.load(Path(path), allow_pickle=False)
    except damaged as error:
        raise _no_codebooks(path, wanted) from error
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise _no_codebooks(path, wanted)
    with file:
        found = [key for key in file.files if key.startswith("codebook_")]
        missing = [key for key in wanted if key not in found]
        if missing or len(found) != n_levels:
            raise ValueError(
                f"codebooks={str(path)!r} has the keys {sorted(file.files)}, which "
                f"should be {wanted} for {n_levels} levels. "
                + (f"Missing: {missing}." if missing else "Add to codebook_sizes.")
            )
        try:
            return [np.asarray(file[key], dtype=np.float32) for key in wanted]
        except damaged as error:
            raise _no_codebooks(path, wanted) from error


def _no_codebooks(path: str | PathLike, wanted: list[str]) -> ValueError:
    return ValueError(
        f"codebooks={str(path)!r} should be an .npz file with the keys {wanted}, of "
        "arrays of numbers. Give what save_codebooks writes."
    )


def write_codebooks(
    path: str | PathLike, codebooks: Sequence[np.ndarray], mean: np.ndarray | float = 0
) -> None:
    """Write codebooks as the published code reads them.

    Parameters
    ----------
    path : path-like
        The .npz file to write, whole or not at all.

    codebooks : sequence of ndarray of shape (n_codewords, n_features)
        One codebook per level.

    mean : ndarray of shape (n_features,) or float, default=0
        Origin of the codebooks; it is added to level 0, since the file has no origin.
    """
    books = {f"codebook_{i}": np.asarray(book) for i, book in enumerate(codebooks)}
    books["codebook_0"] = (books["codebook_0"] + mean).astype(np.float32)
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **books)  # type: ignore[arg-type]
