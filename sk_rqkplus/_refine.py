"""Joint refinement of additive codebooks for given codes: one least-squares problem.

Level-wise k-means fits every codebook to what the levels before left over. For fixed
codes all of them together solve a linear least-squares problem, whose normal equations
need only co-occurrences of codewords and the sums of what their members leave over.
"""

from collections.abc import Iterable, Sequence
from functools import reduce

import numpy as np
import torch
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits
from torch import Tensor

from sk_rqkplus._members import member_sums

# Co-occurrences, which are a matrix as long as it is not larger, and sums.
Sums = tuple[csr_array, np.ndarray]
DENSE_VALUES = 2**24
# The solution is as close as that, relative to where it starts, or as close as so many
# steps bring it.
PRECISION, MOST_STEPS = 1e-4, 200


def refine_sums(
    residual: Tensor, labels: Sequence[Tensor], sizes: Sequence[int]
) -> Sums:
    """Both sides of the normal equations of a block of rows.

    With the indicator matrix A of codes, of one column per codeword of any level, these
    are ``A^T A`` and ``A^T (X - A C)``, which add up over blocks.

    Parameters
    ----------
    residual : Tensor of shape (n_rows, n_features), float32
        What all levels leave over.

    labels : sequence of Tensor of shape (n_rows,), int
        Codeword of every row, per level.

    sizes : sequence of int
        Number of codewords, per level.

    Returns
    -------
    pairs : csr_array of shape (n_codewords, n_codewords), float64
        How often codewords of all levels, one after the other, occur together.

    sums : ndarray of shape (n_codewords, n_features), float64
        Sum of the residuals of the members of each.
    """
    starts = np.cumsum([0, *sizes])
    columns = torch.stack(list(labels), dim=1).cpu().numpy() + starts[:-1]
    n_rows, n_levels = columns.shape
    firsts = np.arange(0, n_rows * n_levels + 1, n_levels)
    members = csr_array(
        (np.ones(columns.size), columns.ravel(), firsts), shape=(n_rows, starts[-1])
    )
    sums = [
        member_sums(residual, label.long(), size, exact=False).sums
        for label, size in zip(labels, sizes, strict=True)
    ]
    return (members.T @ members).tocsr(), torch.cat(sums).cpu().numpy()


def merge_sums(blocks: Iterable[Sums]) -> Sums:
    """Sums of all blocks, added in their order."""
    return reduce(lambda a, b: (a[0] + b[0], a[1] + b[1]), blocks)


def refine_codebooks(
    sums: Sums, codebooks: Sequence[np.ndarray], *, ridge: float
) -> list[np.ndarray]:
    """Codewords of all levels that reconstruct the rows best under their codes.

    Minimises ``||X - sum_l C_l[codes_l]||^2 + ridge ||C - C_old||^2``. The ridge makes
    the solution unique: a constant can move from one level to another at no cost, and a
    codeword of no row may be anything. With it such a codeword stays where it is, and
    the first term never exceeds that of the given codebooks (but for rounding).

    Parameters
    ----------
    sums : tuple
        What :func:`refine_sums` returns, of all rows.

    codebooks : sequence of ndarray of shape (n_codewords, n_features)
        The present codebooks, one per level.

    ridge : float
        Weight of the present codewords, in rows: a codeword of m rows is drawn to its
        place as by ``ridge`` of m + ``ridge`` rows. Positive.

    Returns
    -------
    codebooks : list of ndarray of shape (n_codewords, n_features)
        Refined codebooks, in the dtypes of the given ones. They do not depend on the
        number of threads.

    References
    ----------
    Babenko and Lempitsky, "Additive quantization for extreme vector compression", 2014,
    for the least-squares update of all codebooks at once.
    """
    # What is solved for is the step from the present codewords, not their place: it is
    # small, and zero where there is no row.
    steps = np.split(_solve(*sums, ridge), np.cumsum([*map(len, codebooks)])[:-1])
    return [
        (book + step).astype(book.dtype)
        for book, step in zip(codebooks, steps, strict=True)
    ]


def _solve(pairs: csr_array, sums: np.ndarray, ridge: float) -> np.ndarray:
    """Solve ``(G + ridge I) S = B`` by conjugate gradients, scaled by the diagonal.

    Codewords of different levels go together about as often as chance has it, so that
    some ten steps are enough, where a factorisation of thousands of codewords would
    take minutes.
    """
    matrix = pairs.toarray() if np.prod(pairs.shape) <= DENSE_VALUES else pairs
    diagonal = (pairs.diagonal() + ridge)[:, None]
    solution, left = np.zeros_like(sums), sums.copy()
    scaled = left / diagonal
    direction, size = scaled, np.vdot(left, scaled)
    enough = PRECISION**2 * size
    # On one thread: the sums of a product are ordered by the number of threads.
    with threadpool_limits(limits=1, user_api="blas"):
        for _ in range(MOST_STEPS):
            if size <= enough:
                break
            image = matrix @ direction + ridge * direction
            length = size / np.vdot(direction, image)
            solution += length * direction
            left -= length * image
            scaled = left / diagonal
            before, size = size, np.vdot(left, scaled)
            direction = scaled + size / before * direction
    return solution
