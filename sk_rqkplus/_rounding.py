"""Bounds of what rounding does, and sums that it does the same to wherever they are."""

import torch
from torch import Tensor

FLOAT32_ROUNDOFF = 2.0**-24
# Numbers below are taken for zero by some instructions.
SMALLEST = 2.0**-126


def row_norms(rows: Tensor) -> Tensor:
    """Norms of rows, not below the exact ones."""
    n_features = rows.shape[1]
    # Squares of small values are zero.
    lost = (n_features * SMALLEST) ** 0.5
    return rows.norm(dim=1) * (1 + 2 * n_features * FLOAT32_ROUNDOFF) + lost


def row_sums(values: Tensor) -> Tensor:
    """Sums over the last axis, of which each depends on its own values alone.

    A GPU adds in an order that depends on how many rows there are and on where they
    begin in memory. Copies of a row would differ in the last bit.

    Parameters
    ----------
    values : Tensor of shape (..., n_values)
        Overwritten on a GPU.

    Returns
    -------
    sums : Tensor of shape (...)
        In the type of the values.
    """
    if values.device.type == "cpu":
        return values.sum(-1)
    while (width := values.shape[-1]) > 1:
        half = (width + 1) // 2
        values[..., : width - half] += values[..., half:]
        values = values[..., :half]
    # Not a view, which would keep all values.
    return values.squeeze(-1).clone()


def input_roundoff(device: torch.device) -> float:
    """Unit roundoff to which a matrix product may first round its float32 inputs."""
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    settings = [
        getattr(getattr(backend, "matmul", None), "fp32_precision", "none"),
        getattr(torch.backends, "fp32_precision", "none"),
    ]
    try:
        reduced = torch.get_float32_matmul_precision() != "highest"
        reduced |= device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32
    except RuntimeError:
        # The older settings cannot be read once the newer ones are in use.
        reduced = True
    reduced |= not set(settings) <= {"none", "ieee"}
    return 2.0**-8 if reduced else 0.0
