"""Scores of rows and codewords, by the faster of two libraries on a CPU.

torch's library of matrix products uses half the width of some processors, and NumPy's
the whole, or the other way round. Products differ in rounding; what needs the same bits
everywhere uses torch alone, and what is proved afterwards may use either.
"""

import time
from collections.abc import Callable
from functools import cache

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


@cache
def numpy_is_faster() -> bool:
    """Whether NumPy's products are much faster than torch's here, by trial.

    Returns
    -------
    faster : bool
        The same for the life of the process.
    """
    n_rows, n_codewords, n_features = TRIAL
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(n_rows, n_features, generator=generator)
    book = torch.rand(n_codewords, n_features, generator=generator)
    out = torch.empty(n_rows, n_codewords)
    with one_thread():
        numpy_time = _least_time(lambda: _by_numpy(out, rows, book))
        torch_time = _least_time(lambda: torch.mm(rows, book.T, out=out))
    return torch_time > WORTH * numpy_time


def _least_time(function: Callable[[], object]) -> float:
    times = []
    for _ in range(TRIALS):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)
