"""Checkpoints of the published implementation (MiniOneRec, arXiv 2510.24431)."""

import argparse
import pickle
import re
from os import PathLike
from pathlib import Path

import numpy as np
import torch

from sk_rqkplus._checkpoints import Snapshot, split_state

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
    params = {key: _plain(key, value) for key, value in found.items()}
    for name in leave_out:
        params.pop(name, None)
    arrays = {key: value.numpy() for key, value in file["state_dict"].items()}
    last = [key for key in arrays if re.match(r"decoder\..*\.bias$", key)][-1:]
    try:
        snapshot = split_state(arrays)
        mean = np.zeros_like(arrays[last[0] if last else "decoder"])
    except KeyError as error:
        raise ValueError(
            f"path={str(path)!r} should have codebooks and a decoder: no {error}."
        ) from error
    params["codebook_sizes"] = tuple(len(book) for book in snapshot.codebooks)
    return {**params, **fixed}, snapshot, mean, int(file["epoch"])


def _load(path: str | PathLike) -> dict:
    """Read the file with an unpickler that admits tensors and the Namespace alone."""
    admitted = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([argparse.Namespace])
    try:
        file = torch.load(Path(path), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"path={str(path)!r} should be a checkpoint with nothing but tensors, "
            f"plain values and an argparse.Namespace: {reason}"
        ) from error
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(admitted)
    if not isinstance(file, dict):
        raise ValueError(f"path={str(path)!r} should hold a dict.")
    return file


def _plain(name: str, value):
    """Value of a published option as our parameter takes it."""
    if isinstance(value, str) and name not in ("loss", "lr_schedule", "optimizer"):
        # Lists may have come through argparse as text.
        value = [float(part) if "." in part else int(part) for part in value.split()]
    if isinstance(value, list):
        return tuple(value)
    return value.lower() if isinstance(value, str) else value
