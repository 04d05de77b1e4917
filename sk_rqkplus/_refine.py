"""Joint refinement of additive codebooks for given codes: one least-squares problem.

Level-wise k-means fits every codebook to what the levels before left over. For fixed
codes all of them together solve a linear least-squares problem, whose normal equations
need only co-occurrences of codewords and the sums of what their members leave over.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from sk_rqkplus._members import member_sums
from sk_rqkplus._threads import one_thread

# Co-occurrences of codewords, and sums of residuals over their members.
Sums = tuple[csr_array, np.ndarray]
# A product takes a matrix whole where it has no more values, and one in so many is not
# zero: of the others it takes as long as these.
DENSE_VALUES, DENSE = 2**26, 16
# The solution is as close as that, relative to where it starts, or as close as so many
# steps bring it.
PRECISION, MOST_STEPS = 1e-4, 200
# Weight of the codewords as they are, in rows: with fewer the refinement learns the
# rows by heart, with more it moves little.
RIDGE = 10.0


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
    starts = np.cumsum([0, *sizes], dtype=np.int32)
    columns = torch.stack(list(labels), dim=1).int().cpu().numpy() + starts[:-1]
    n_rows, n_levels = columns.shape
    firsts = np.arange(0, columns.size + 1, n_levels, dtype=np.int32)
    members = csr_array(
        (np.ones(columns.size), columns.ravel(), firsts), shape=(n_rows, starts[-1])
    )
    sums = [
        member_sums(residual, label.long(), size, exact=False).sums
        for label, size in zip(labels, sizes, strict=True)
    ]
    return (members.T @ members).tocsr(), torch.cat(sums).cpu().numpy()


def merge_sums(blocks: Iterable[Sums]) -> Sums:
    """Sums of all blocks, added in their order.

    Co-occurrences are whole numbers, whose order does not matter: they are merged with
    others of like size, so that none is copied for every block.
    """
    waiting: list[csr_array] = []
    total: np.ndarray | None = None
    for pairs, sums in blocks:
        total = sums if total is None else total + sums
        waiting.append(pairs)
        while len(waiting) > 1 and 2 * waiting[-1].nnz >= waiting[-2].nnz:
            waiting[-2:] = [waiting[-2] + waiting[-1]]
    assert total is not None
    return sum(waiting[1:], waiting[0]), total


def refine_codebooks(
    sums: Sums, codebooks: Sequence[np.ndarray], *, ridge: float = RIDGE
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

    ridge : float, default=10.0
        Weight of the present codewords, in rows: a codeword of m rows is drawn to its
        place as by ``ridge`` of m + ``ridge`` rows. Positive.

    Returns
    -------
    codebooks : list of ndarray of shape (n_codewords, n_features)
        Refined codebooks, in the dtypes of the given ones. They do not depend on the
        number of threads.

    Raises
    ------
    ValueError
        If ``ridge`` is not positive.

    References
    ----------
    Babenko and Lempitsky, "Additive quantization for extreme vector compression", 2014,
    for the least-squares update of all codebooks at once.
    """
    if not ridge > 0:
        raise ValueError(
            f"ridge={ridge} should be > 0. Without it the codewords are not determined."
        )
    # What is solved for is the step from the present codewords, not their place: it is
    # small, and zero where there is no row.
    steps = np.split(_solve(*sums, ridge), np.cumsum([*map(len, codebooks)])[:-1])
    return [
        (book + step).astype(book.dtype)
        for book, step in zip(codebooks, steps, strict=True)
    ]


@one_thread()
def _solve(pairs: csr_array, sums: np.ndarray, ridge: float) -> np.ndarray:
    """Solve ``(G + ridge I) S = B`` by conjugate gradients, scaled by the diagonal.

    Codewords of different levels go together about as often as chance has it, so that
    some ten steps are enough, where a factorisation of thousands of codewords would
    take minutes. On one thread: the order of a sum depends on how many there are.
    """
    dense = pairs.shape[0] ** 2 <= min(DENSE_VALUES, DENSE * pairs.nnz)
    matrix = pairs.toarray() if dense else pairs
    diagonal = (pairs.diagonal() + ridge)[:, None]
    solution, left = np.zeros_like(sums), sums.copy()
    scaled = left / diagonal
    direction, size = scaled, np.vdot(left, scaled)
    enough = PRECISION**2 * size
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
