"""Checkpoints of the published implementation (MiniOneRec, arXiv 2510.24431)."""

import argparse
import ast
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

import numpy as np
import torch

from sk_rqkplus._checkpoints import Snapshot, split_state

_reading = threading.Lock()
# Options of the published code, and the parameters that they are here.
NAMES = {
    "num_emb_list": "codebook_sizes",
    "layers": "hidden_layer_sizes",
    "dropout_prob": "dropout",
    "bn": "batch_norm",
    "loss_type": "loss",
    "quant_loss_weight": "quant_weight",
    "beta": "beta",
    "sk_epsilons": "sinkhorn_epsilon",
    "sk_iters": "sinkhorn_iter",
    "kmeans_iters": "kmeans_iter",
    "e_dim": "latent_dim",
    "learner": "optimizer",
    "lr": "lr",
    "weight_decay": "weight_decay",
    "lr_scheduler_type": "lr_schedule",
    "warmup_epochs": "warmup_epochs",
    "epochs": "max_epochs",
    "batch_size": "batch_size",
    "eval_step": "eval_every",
}


def read_published(
    path: str | PathLike, *, leave_out: tuple[str, ...] = (), **fixed
) -> tuple[dict, Snapshot, np.ndarray, int]:
    """Read a published checkpoint without running anything in it.

    Parameters
    ----------
    path : path-like
        A .pth file with ``args``, ``epoch`` and ``state_dict``.

    leave_out : tuple of str, default=()
        Parameters that the estimator does not have.

    **fixed : dict
        Parameters that the published code has no option for.

    Returns
    -------
    params : dict
        Parameters of an estimator.

    snapshot : Snapshot
        Weights and codebooks, without prices.

    mean : ndarray of shape (n_features,), float32
        Zero: published codebooks are not centred.

    epoch : int
        The epoch of the checkpoint.

    Raises
    ------
    ValueError
        If the file holds anything but tensors, plain values and a Namespace, or lacks a
        part.
    """
    file = _load(path)
    missing = [key for key in ("args", "epoch", "state_dict") if key not in file]
    if missing or not isinstance(file["args"], argparse.Namespace):
        raise ValueError(
            f"path={str(path)!r} should hold args (a Namespace), epoch and state_dict. "
            f"Missing or of another kind: {missing or ['args']}."
        )
    options = vars(file["args"])
    found = {NAMES[key]: value for key, value in options.items() if key in NAMES}
    try:
        params = {key: _plain(key, value) for key, value in found.items()}
        epoch = int(file["epoch"])
    except (ValueError, SyntaxError, TypeError) as error:
        raise ValueError(
            f"path={str(path)!r} has options that should be numbers or lists of them: "
            f"{error}"
        ) from error
    if "kmeans_init" in options:
        params["init"] = "k-means" if options["kmeans_init"] else "random"
    for name in leave_out:
        params.pop(name, None)
    snapshot, mean = _networks(file["state_dict"], path)
    params["codebook_sizes"] = tuple(len(book) for book in snapshot.codebooks)
    return {**params, **fixed}, snapshot, mean, epoch


def _networks(state: dict, path: str | PathLike) -> tuple[Snapshot, np.ndarray]:
    """Weights and codebooks in float32, and a mean of zeros."""
    arrays = {}
    for key, value in state.items() if isinstance(state, dict) else ():
        if isinstance(value, torch.Tensor):
            value = value.detach()
            arrays[key] = (
                value.float() if value.is_floating_point() else value
            ).numpy()
    last = [key for key in arrays if re.match(r"decoder\..*\.bias$", key)][-1:]
    try:
        return split_state(arrays), np.zeros_like(
            arrays[last[0] if last else "decoder"]
        )
    except KeyError as error:
        raise ValueError(
            f"path={str(path)!r} should have codebooks and a decoder: no {error}."
        ) from error


@contextmanager
def _admitting(*kinds: type) -> Iterator[None]:
    """Let files hold such objects alone: a setting of the process, put back at the end.

    One file is read at a time, so that no thread puts back what another one has set.
    """
    with _reading:
        before = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(list(kinds))
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(before)


def _load(path: str | PathLike) -> dict:
    """Read the file with an unpickler that admits tensors and the Namespace alone."""
    try:
        with _admitting(argparse.Namespace):
            file = torch.load(Path(path), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # an unpickler of damaged bytes ends in anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"path={str(path)!r} should be a checkpoint with nothing but tensors, "
            f"plain values and an argparse.Namespace: {reason}"
        ) from error
    if not isinstance(file, dict):
        raise ValueError(f"path={str(path)!r} should hold a dict.")
    return file


def _plain(name: str, value):
    """Value of a published option as our parameter takes it."""
    if isinstance(value, str):
        if name in ("loss", "lr_schedule", "optimizer"):
            return value.lower()
        # Numbers and lists may have come through argparse as text.
        parts = re.split(r"[\s,]+", value.strip("[]() "))
        values = [ast.literal_eval(part) for part in parts if part]
        return values[0] if len(values) == 1 and "[" not in value else tuple(values)
    return tuple(value) if isinstance(value, list) else value
