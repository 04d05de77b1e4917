"""States of a training: what they are, and files of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from os import PathLike
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from sk_rqkplus._files import atomic_write
from sk_rqkplus._journal import writing_to
from sk_rqkplus._store import digest

# Figures of which the best checkpoint is kept; lower is better.
KEPT = ("reconstruction_error", "collision_rate")


@dataclass
class Snapshot:
    """A model at one epoch.

    Attributes
    ----------
    state : dict of str to ndarray
        Weights of the networks.
    codebooks : list of ndarray of shape (n_codewords, n_latent), float32
    prices : list of ndarray of shape (n_codewords,), float64
    unit : float, default=1.0
        What rows are divided by before the encoder.
    """

    state: dict[str, np.ndarray]
    codebooks: list[np.ndarray]
    prices: list[np.ndarray]
    unit: float = 1.0


class Checkpoints:
    """Writes the best epochs and the last ones to a directory.

    ``best_reconstruction_error.safetensors`` and ``best_collision_rate.safetensors``
    are overwritten by every better epoch; of ``epoch_00010.safetensors`` and its like
    the last ones are kept. Every file is written whole or not at all.

    Parameters
    ----------
    directory : path-like
        Where to write; it is made if need be.

    n_last : int
        How many of the last evaluated epochs are kept.

    mean : ndarray of shape (n_features,)
        Origin of the rows, which belongs to the model.

    before : sequence of dict, default=()
        History of a fit that this one goes on from: epochs are counted on, and only
        what is better than its best overwrites that.
    """

    def __init__(
        self,
        directory: str | PathLike,
        n_last: int,
        mean: np.ndarray,
        before: Sequence[dict] = (),
    ):
        self.directory = Path(directory)
        self.n_last = n_last
        self.mean = mean
        self.n_before = max(0, len(before) - 1)
        self.best: dict[str, float] = {}
        for row in before:
            self.recall(row)
        with writing_to(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            # What a process that was killed had not finished.
            for path in self.directory.glob("*.safetensors.*.tmp"):
                path.unlink(missing_ok=True)
        # Those of an earlier fit go first.
        self.last = sorted(self.directory.glob("epoch_*.safetensors"))

    def recall(self, figures: dict) -> list[str]:
        """Take note of the figures of an epoch; return those that are the best."""
        better = [
            name
            for name in KEPT
            if figures.get(name, np.inf) < self.best.get(name, np.inf)
        ]
        self.best.update({name: figures[name] for name in better})
        return better

    def __call__(self, figures: dict, snapshot: Snapshot) -> None:
        """Write the files of an evaluated epoch."""
        if self.n_before and figures["epoch"] == 0:
            return
        figures = {**figures, "epoch": figures["epoch"] + self.n_before}
        path = self.directory / f"epoch_{figures['epoch']:05d}.safetensors"
        self.last = [old for old in self.last if old != path] + [path]
        best = [f"best_{name}.safetensors" for name in self.recall(figures)]
        with writing_to(self.directory):
            for name in [path.name, *best]:
                write_checkpoint(self.directory / name, snapshot, self.mean, figures)
            while len(self.last) > self.n_last:
                self.last.pop(0).unlink(missing_ok=True)


def write_checkpoint(
    path: str | PathLike, snapshot: Snapshot, mean: np.ndarray, figures: dict
) -> None:
    """Write a model at one epoch.

    Parameters
    ----------
    path : path-like
        File to write, whole or not at all.

    snapshot : Snapshot
        The model.

    mean : ndarray of shape (n_features,)
        Origin of the rows.

    figures : dict
        Figures of the epoch, and its ``epoch``.
    """
    arrays = {"mean": mean, **join_state(snapshot)}
    arrays = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
    text = json.dumps(figures)
    # One entry, since the library writes several in any order.
    metadata = {"checkpoint": f"{_sha256(arrays, text)} {text}"}
    with atomic_write(path) as temporary:
        save_file(arrays, temporary, metadata=metadata)


def _sha256(arrays: dict[str, np.ndarray], text: str) -> str:
    """Checksum of all that a file of a checkpoint says."""
    return sha256(f"{digest(arrays)} {text}".encode()).hexdigest()


def read_checkpoint(path: str | PathLike) -> tuple[Snapshot, np.ndarray, dict]:
    """Read a model at one epoch.

    Parameters
    ----------
    path : path-like
        File of :func:`write_checkpoint`.

    Returns
    -------
    snapshot : Snapshot
        The model.

    mean : ndarray of shape (n_features,)
        Origin of the rows.

    figures : dict
        Figures of the epoch, and its ``epoch``.

    Raises
    ------
    ValueError
        If the file is no checkpoint, or was changed.
    """
    try:
        with safe_open(Path(path), framework="numpy") as file:
            checksum, _, text = (file.metadata() or {})["checkpoint"].partition(" ")
            arrays = {key: file.get_tensor(key) for key in file.keys()}
        if checksum != _sha256(arrays, text):
            raise ValueError("its content has another checksum.")
        figures = json.loads(text)
        if not isinstance(figures, dict) or "epoch" not in figures:
            raise ValueError("it has no epoch.")
        return split_state(arrays), arrays["mean"], figures
    except (SafetensorError, KeyError, OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(
            f"path={str(path)!r} should be a checkpoint that a fit wrote to "
            f"checkpoint_dir: {error}"
        ) from error


def join_state(snapshot: Snapshot) -> dict[str, np.ndarray]:
    """Arrays of a model by their published names.

    Parameters
    ----------
    snapshot : Snapshot
        The model.

    Returns
    -------
    arrays : dict of str to ndarray
        What :func:`split_state` takes.
    """
    arrays = {"unit": np.array([snapshot.unit]), **snapshot.state}
    for level, (book, price) in enumerate(
        zip(snapshot.codebooks, snapshot.prices, strict=True)
    ):
        arrays[f"rq.vq_layers.{level}.embedding.weight"] = book
        arrays[f"rq.vq_layers.{level}.prices"] = price
    return arrays


def split_state(arrays: dict[str, np.ndarray]) -> Snapshot:
    """Tell codebooks and prices from the weights of the networks.

    Parameters
    ----------
    arrays : dict of str to ndarray
        Arrays by their published names; prices and unit may be missing.

    Returns
    -------
    snapshot : Snapshot
        The model they make up.

    Raises
    ------
    KeyError
        If there is no codebook.
    """
    name = "rq.vq_layers.{}.embedding.weight".format
    n_levels = 0
    while name(n_levels) in arrays:
        n_levels += 1
    books = [arrays[name(level)] for level in range(max(1, n_levels))]
    prices = [
        arrays.get(f"rq.vq_layers.{level}.prices", np.zeros(len(book)))
        for level, book in enumerate(books)
    ]
    state = {
        key: value
        for key, value in arrays.items()
        if not key.startswith("rq.") and key not in ("mean", "unit")
    }
    unit = float(arrays["unit"][0]) if "unit" in arrays else 1.0
    return Snapshot(state, books, prices, unit)
