"""Joint refinement of additive codebooks for given codes: one least-squares problem.

Level-wise k-means fits every codebook to what the levels before left over. For fixed
codes all of them together solve a linear least-squares problem, whose normal equations
need only counts, co-occurrences and sums of members.
"""

from collections.abc import Iterable, Sequence
from functools import reduce

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from threadpoolctl import threadpool_limits

from sk_rqkplus._threads import block_rows, split_rows


def refine_codebooks(
    rows: np.ndarray,
    codes: np.ndarray,
    codebooks: Sequence[np.ndarray],
    *,
    ridge: float = 1e-3,
    frozen: int = 0,
) -> list[np.ndarray]:
    """Codewords of all levels that reconstruct the rows best under their codes.

    Minimises ``||X - sum_l C_l[codes_l]||^2 + ridge ||C - C_old||^2``. The ridge makes
    the solution unique: a constant can move from one level to another at no cost, and a
    codeword of no row may be anything. With it such a codeword stays where it is, and
    the first term never exceeds that of the given codebooks (but for rounding).

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_features), float32 or float64
        Centred rows; only a chunk of them is ever copied.

    codes : ndarray of shape (n_rows, n_levels), int
        Index of one codeword per level.

    codebooks : sequence of ndarray of shape (n_codewords, n_features)
        The present codebooks, one per level.

    ridge : float, default=1e-3
        Weight of the present codewords, in rows: a codeword of m rows is drawn to its
        place as by ``ridge`` of m + ``ridge`` rows. Positive.

    frozen : int, default=0
        Number of first levels that are not changed.

    Returns
    -------
    codebooks : list of ndarray of shape (n_codewords, n_features)
        Refined codebooks, in the dtypes of the given ones. They do not depend on the
        number of threads.

    Raises
    ------
    ValueError
        If ``ridge`` is not positive, or if ``frozen`` is not in [0, n_levels].

    References
    ----------
    Babenko and Lempitsky, "Additive quantization for extreme vector compression", 2014,
    for the least-squares update of all codebooks at once.
    """
    if not ridge > 0:
        raise ValueError(
            f"ridge={ridge} should be > 0. Without it the codewords are not determined."
        )
    if not 0 <= frozen <= len(codebooks):
        raise ValueError(
            f"frozen={frozen} should be in [0, {len(codebooks)}], the number of levels."
        )
    if frozen == len(codebooks):
        return [book.copy() for book in codebooks]
    blocks = split_rows(len(rows), block_rows(len(rows)))
    sums = merge_sums(
        refine_sums(rows[block], codes[block], codebooks, frozen=frozen)
        for block in blocks
    )
    return solve_codebooks(sums, codebooks, ridge=ridge, frozen=frozen)


Sums = tuple[np.ndarray, np.ndarray]


def refine_sums(
    rows: np.ndarray,
    codes: np.ndarray,
    codebooks: Sequence[np.ndarray],
    *,
    frozen: int = 0,
) -> Sums:
    """Left and right side of the normal equations of a block of rows.

    Co-occurrences of the codewords, ``A^T A`` of the indicator matrix A, and the sums
    of residuals over their members, ``A^T (X - A C)``; both add up over blocks. Counts
    are integers up to 2^53, which float64 holds exactly in any order of summation.
    """
    starts = np.cumsum([0, *map(len, codebooks[frozen:])])
    members = codes[:, frozen:].astype(np.int64) + starts[:-1]
    gram = np.zeros((starts[-1], starts[-1]))
    sums = np.zeros((starts[-1], rows.shape[1]))
    residual = rows.astype(np.float64)
    for book, code in zip(codebooks, codes.T, strict=True):
        residual -= book[code]
    for level in members.T:
        for other in members.T:
            np.add.at(gram, (level, other), 1.0)
        order = np.argsort(level, kind="stable")
        present, first = np.unique(level[order], return_index=True)
        sums[present] += np.add.reduceat(residual[order], first, axis=0)
    return gram, sums


def merge_sums(blocks: Iterable[Sums]) -> Sums:
    """Sums of all blocks, added in their order."""
    return reduce(lambda a, b: (a[0] + b[0], a[1] + b[1]), blocks)


def solve_codebooks(
    sums: Sums, codebooks: Sequence[np.ndarray], *, ridge: float, frozen: int = 0
) -> list[np.ndarray]:
    """Codebooks of :func:`refine_codebooks`, from the sums of all rows."""
    moving = codebooks[frozen:]
    step = _solve(*sums, ridge)
    # What is solved for is the step from the present codewords, not their place: it is
    # small, and zero in exact arithmetic and in floating point where there is no row.
    parts = np.split(step, np.cumsum([len(book) for book in moving])[:-1])
    moved = [
        (book + part).astype(book.dtype)
        for book, part in zip(moving, parts, strict=False)
    ]
    return [book.copy() for book in codebooks[:frozen]] + moved


def _solve(gram: np.ndarray, sums: np.ndarray, ridge: float) -> np.ndarray:
    """Solve ``(G + ridge I) S = B`` for the codewords that have rows.

    On one thread: the sums of a factorisation are ordered by the number of threads.
    """
    step = np.zeros_like(sums)
    used = np.flatnonzero(gram.diagonal())
    system = gram[np.ix_(used, used)]
    system[np.diag_indices_from(system)] += ridge
    with threadpool_limits(limits=1, user_api="blas"):
        factor = cho_factor(system, lower=True, overwrite_a=True)
        step[used] = cho_solve(factor, sums[used])
    return step
