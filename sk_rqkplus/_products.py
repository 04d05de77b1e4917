"""Scores of rows and codewords, by the fastest product that a processor has.

torch's library of matrix products uses half the width of some processors, and NumPy's
the whole, or the other way round; and some have instructions for bfloat16. Products
differ in rounding; what needs the same bits everywhere uses torch's in float32 alone,
and what is proved afterwards may use any.
"""

import time
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sk_rqkplus._threads import one_thread

# Rows, codewords and features of the product that is timed, and how often.
TRIAL, TRIALS = (1024, 256, 256), 5
# NumPy's product takes a second pass over the scores.
WORTH = 1.3


def scores_into(out: Tensor, rows: Tensor, codebook: Tensor, offsets: Tensor) -> None:
    """Compute ``offsets - 2 rows @ codebook.T``.

    Parameters
    ----------
    out : Tensor of shape (n_rows, n_codewords), float32
        What is overwritten.

    rows : Tensor of shape (n_rows, n_features), float32
        Rows.

    codebook : Tensor of shape (n_codewords, n_features), float32
        Codewords.

    offsets : Tensor of shape (n_codewords,), float32
        Added to the scores of every row.
    """
    if out.device.type == "cpu" and numpy_is_faster():
        _by_numpy(out, rows, codebook)
        torch.add(offsets, out, alpha=-2, out=out)
    else:
        torch.addmm(offsets, rows, codebook.T, alpha=-2, out=out)


def _by_numpy(out: Tensor, rows: Tensor, codebook: Tensor) -> None:
    book = codebook.detach().numpy()
    np.matmul(rows.detach().numpy(), book.T, out=out.numpy())


def pair_products(
    rows: Tensor, codebook: Tensor, sizes: np.ndarray, column: np.ndarray
) -> np.ndarray:
    """Inner products of rows with a few codewords each.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n_features), float32
        Rows, on a CPU.

    codebook : Tensor of shape (n_codewords, n_features), float32
        Codewords.

    sizes : ndarray of shape (n_rows,), int64
        With how many codewords every row is multiplied.

    column : ndarray of shape (n_pairs,), int64
        Which these are, one row after the other.

    Returns
    -------
    products : ndarray of shape (n_pairs,), float32
        A fifth as fast as a product of matrices, and five times as fast as to gather
        the codewords.
    """
    first = torch.from_numpy(np.append(0, np.cumsum(sizes)))
    shape, zeros = (len(rows), len(codebook)), rows.new_zeros(len(column))
    pairs = _sparse(first, torch.from_numpy(column), zeros, shape)
    return torch.sparse.sampled_addmm(pairs, rows, codebook.T, beta=0).values().numpy()


def _sparse(*parts: Any) -> Tensor:
    return torch.sparse_csr_tensor(*parts, check_invariants=False)


with warnings.catch_warnings():
    # torch says once in a process that its sparse tensors are in beta.
    warnings.simplefilter("ignore", UserWarning)
    _sparse([0, 0], [], torch.empty(0, device="cpu"), (1, 1))


@cache
def trial() -> dict[str, float]:
    """Seconds that the products of this process take.

    Returns
    -------
    times : dict of str to float
        Of "torch" and "numpy" in float32, and of "bfloat16"; the same for the life of
        the process. A product that the processor has no instructions for takes for
        ever.
    """
    n_rows, n_codewords, n_features = TRIAL
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(n_rows, n_features, generator=generator)
    book = torch.rand(n_codewords, n_features, generator=generator)
    out = torch.empty(n_rows, n_codewords)
    times = {"bfloat16": np.inf}
    with one_thread():
        times["numpy"] = _least_time(lambda: _by_numpy(out, rows, book))
        times["torch"] = _least_time(lambda: torch.mm(rows, book.T, out=out))
        if can_bfloat16(rows.device):
            short, out = book.T.bfloat16(), out.bfloat16()
            times["bfloat16"] = _least_time(
                lambda: torch.mm(rows.bfloat16(), short, out=out)
            )
    return times


def numpy_is_faster() -> bool:
    """Whether NumPy's products are much faster than torch's here, by trial."""
    times = trial()
    return times["torch"] > WORTH * times["numpy"]


def bfloat16_is_faster() -> bool:
    """Whether products in bfloat16 are much faster than in float32, by trial."""
    times = trial()
    return min(times["torch"], times["numpy"]) > WORTH * times["bfloat16"]


def can_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for products in bfloat16.

    Parameters
    ----------
    device : torch.device
        A CPU or a GPU.

    Returns
    -------
    fast : bool
        True for GPUs with tensor cores for it, and processors with instructions for it.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if not hasattr(torch.cpu, "get_capabilities"):  # torch of 2024 and 2025
        return False
    known = torch.cpu.get_capabilities()
    return bool(known.get("amx_bf16") or known.get("avx512_bf16"))


def _least_time(function: Callable[[], object]) -> float:
    times = []
    for _ in range(TRIALS):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)
