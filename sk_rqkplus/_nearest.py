"""Exact nearest codeword: a fast pass, a proof, and float64 where the proof fails.

Every code in this package is decided here. Scores ``||c||^2 + price - 2 r.c`` come from
one matrix product per tile, in bfloat16 where a processor is fast at it. A
rounding-error bound then tells which codewords may be the nearest one: for most rows
that is one, and for the others the few rivals are compared in float64. The answer is
therefore the float64 argmin, ties to the lower index, whatever the tile, the thread
count, the device or the precision of the product.
"""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from sk_rqkplus._outline import (
    Directions,
    Outline,
    OutlinedCodewords,
    outlined_labels,
)
from sk_rqkplus._products import scores_into
from sk_rqkplus._rough import (
    LEAST_ROWS,
    RoughCodewords,
    rough_codewords,
    rough_labels,
)
from sk_rqkplus._rounding import (
    FLOAT32_ROUNDOFF,
    SMALLEST,
    input_roundoff,
    row_norms,
    row_sums,
)
from sk_rqkplus._threads import (
    chunk_rows,
    fill_chunks,
    floor_power,
    n_workers,
    scratch,
    split_rows,
)

# Scores of one tile: few enough for the cache of a CPU, and so many that calls do not
# count; a GPU wants larger launches.
TILE_SCORES = {"cpu": 2**20, "cuda": 2**26}
MIN_TILE_ROWS = 512
# Values of the rows and rivals that are compared at a time.
EXACT_VALUES = {"cpu": 2**20, "cuda": 2**26}
# Rivals as a share of all pairs of rows and codewords that are compared sooner than
# they are told apart in float32.
MOST_RIVALS = 2.0**-8


class Codewords:
    """One codebook, made ready for :func:`nearest`.

    Parameters
    ----------
    codebook : Tensor of shape (n_codewords, n_features), float32
        The codewords.

    prices : Tensor of shape (n_codewords,), float64, optional
        Added to the squared distance of every codeword; None means zero.
    """

    def __init__(self, codebook: Tensor, prices: Tensor | None = None):
        self.codebook = codebook
        self.exact = codebook.double()
        if prices is None:
            prices = self.exact.new_zeros(len(codebook))
        self.prices = prices.to(codebook.device)
        self.exact_offsets = self.exact.square().sum(1) + self.prices
        self.offsets = self.exact_offsets.float()
        self.largest_offset = float(self.exact_offsets.abs().max())
        self.largest_norm = float(self.exact.norm(dim=1).max())
        self._outlined: OutlinedCodewords | None = None

    def __len__(self) -> int:
        return len(self.codebook)

    @cached_property
    def rough(self) -> RoughCodewords | None:
        """The codebook for a first look, None where that is not worth it."""
        return rough_codewords(self.codebook, self.exact_offsets)

    def along(self, directions: Directions) -> OutlinedCodewords:
        """The codebook along some directions."""
        outlined = self._outlined
        if outlined is None or outlined.directions is not directions:
            outlined = self._outlined = OutlinedCodewords(self.exact, directions)
        return outlined


def tile_rows(n_codewords: int, n_features: int, device: torch.device) -> int:
    """Number of rows whose scores and values fit the tile of a device.

    A power of two, so that tiles do not cross blocks.
    """
    budget = TILE_SCORES[device.type]
    fits = min(budget // n_codewords, 2 * budget // n_features)
    return max(MIN_TILE_ROWS, floor_power(fits))


def nearest(rows: Tensor, words: Codewords, outline: Outline | None = None) -> Tensor:
    """Index of the nearest codeword of every row, as float64 arithmetic gives it.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n_features), float32
        Rows to assign.

    words : Codewords
        Codebook and prices, on the device of the rows.

    outline : Outline, optional
        The rows along some directions, for a first look.

    Returns
    -------
    labels : Tensor of shape (n_rows,), int64
        ``argmin_k ||r - c_k||^2 + price_k``, ties to the lower index.
    """
    step = tile_rows(len(words), rows.shape[1], rows.device)
    if outline is not None and step > MIN_TILE_ROWS:
        # A look along few directions is quick, so that calls count for more.
        step *= 2
    # Inside of a chunk nobody shares the work, and small tiles only cost calls.
    if n_workers() > 1:
        step = chunk_rows(len(rows), step)
    tiles = split_rows(len(rows), step)

    def assign(tile: slice) -> Tensor:
        seen = None if outline is None else outline[tile]
        return nearest_in_tile(rows[tile], words, outline=seen)

    return fill_chunks(assign, tiles, rows.device)


def nearest_in_tile(
    rows: Tensor,
    words: Codewords,
    *,
    outline: Outline | None = None,
    noise: Tensor | None = None,
    exact_rows: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Index of the nearest codeword of the rows of one tile.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n_features), float32
        Rows to assign.

    words : Codewords
        Codebook and prices, on the device of the rows.

    outline : Outline, optional
        The rows along some directions, for a first look.

    noise : Tensor of shape (n_rows,), optional
        Bound of the Euclidean distance between each row and the exact row that it
        stands for; None means that the rows are exact.

    exact_rows : callable, optional
        Maps row indices to the exact rows in float64; None means ``rows`` themselves.

    Returns
    -------
    labels : Tensor of shape (n_rows,), int64
        ``argmin_k ||r - c_k||^2 + price_k``, ties to the lower index.
    """
    found = None if outline is None else _narrow_pass(rows, words, outline, noise)
    found = found or _rough_pass(rows, words, noise)
    labels, doubtful, rivals = found or _fast_pass(rows, words, noise)
    if len(doubtful):
        source = rows if exact_rows is None else exact_rows
        labels[doubtful] = _exact_pass(source, doubtful, rivals, words)
    return labels


def best_two(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Index of the least score of every row, that score, and the next one.

    Parameters
    ----------
    scores : Tensor of shape (n_rows, n_codewords), float32
        Scores; the least one of every row becomes infinite.

    Returns
    -------
    labels : Tensor of shape (n_rows,), int64
        Index of the least score, the lower one of a tie.

    best, next_best : Tensor of shape (n_rows,), float32
        The two least scores.
    """
    if scores.device.type == "cpu":
        # NumPy's argmin is vectorised; torch's on a CPU takes three times as long.
        labels = torch.from_numpy(scores.numpy().argmin(axis=1))
    else:
        labels = scores.argmin(dim=1)
    column = labels[:, None]
    best = scores.gather(1, column).squeeze(1)
    scores.scatter_(1, column, torch.inf)
    return labels, best, scores.amin(dim=1)


def _rough_pass(
    rows: Tensor, words: Codewords, noise: Tensor | None
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Labels in bfloat16, as :func:`_fast_pass`; None where that is not worth it."""
    # Another thread may give up on it.
    rough = words.rough
    if rough is None or len(rows) < LEAST_ROWS:
        return None
    norms = row_norms(rows)
    slack = 2 * _sum_error(norms, words)
    labels, doubtful, rivals = rough_labels(rows, rough, norms, slack, noise)
    if int(rivals.sum()) > MOST_RIVALS * len(rows) * len(words):
        words.rough = None
        return None
    return labels, doubtful, rivals


def _narrow_pass(
    rows: Tensor, words: Codewords, outline: Outline, noise: Tensor | None
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Labels along few directions, as :func:`_fast_pass`; None if many are near."""
    along = words.along(outline.directions)
    slack = 2 * score_error(outline.norms, words, noise)
    return outlined_labels(rows, outline, words.codebook, words.offsets, along, slack)


def _fast_pass(
    rows: Tensor, words: Codewords, noise: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Float32 labels, and which of them rounding may have changed.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n_features), float32
        Rows.

    words : Codewords
        Codebook and prices.

    noise : Tensor of shape (n_rows,) or None
        Bound of the distance between each row and the exact one.

    Returns
    -------
    labels : Tensor of shape (n_rows,), int64
        Codewords of least score.

    doubtful : Tensor of shape (n_doubtful,), int64
        Which rows another codeword may be nearer to.

    rivals : Tensor of shape (n_doubtful, n_codewords), bool
        Which codewords these are, the label among them.
    """
    scores = scratch("scores", (len(rows), len(words)), rows.device)
    scores_into(scores, rows, words.codebook, words.offsets)
    labels, best, next_best = best_two(scores)
    limit = 2 * score_error(row_norms(rows), words, noise)
    # An overflow makes the margin NaN, and a NaN is not certain either.
    doubtful = torch.nonzero(~(next_best - best > limit)).squeeze(1)
    behind = scores[doubtful] - best[doubtful, None]
    rivals = ~(behind > limit[doubtful, None])
    rivals.scatter_(1, labels[doubtful, None], True)
    return labels, doubtful, rivals


def score_error(norms: Tensor, words: Codewords, noise: Tensor | None) -> Tensor:
    """Bound of the rounding error of any score of rows of such norms."""
    error = _sum_error(norms, words)
    # Inputs rounded to u inside the product shift it by up to 2u + u^2.
    inside = input_roundoff(norms.device)
    error = error + inside * (2 + inside) * 2 * words.largest_norm * norms
    if noise is not None:
        error = error + 2 * words.largest_norm * noise
    return error


def _sum_error(norms: Tensor, words: Codewords) -> Tensor:
    """Bound of the rounding error of a score as a sum in float32.

    An inner product of n terms is off by at most ``n u sum |r_j c_j|`` (Higham,
    Accuracy and Stability of Numerical Algorithms, 3.1), and the sum is at most
    ``||r|| ||c||``. Eight more units cover the offset and the final additions.
    """
    n_features = words.codebook.shape[1]
    gamma = (n_features + 8) * FLOAT32_ROUNDOFF * 1.05
    sizes = 2 * words.largest_norm * norms + words.largest_offset
    return gamma * sizes + (2 * n_features + 32) * SMALLEST


def _exact_pass(
    source: Tensor | Callable[[Tensor], Tensor],
    index: Tensor,
    rivals: Tensor,
    words: Codewords,
) -> Tensor:
    """Decide rows in float64, one sum of squared differences per rival.

    Differences, not the expanded form: it neither cancels nor goes through a matrix
    product, so that the value of a pair depends on the pair alone.
    """
    labels = []
    n_pairs = max(1, EXACT_VALUES[rivals.device.type] // words.codebook.shape[1])
    number = rivals.sum(1).cumsum(0) // n_pairs
    sizes = number.unique_consecutive(return_counts=True)[1].tolist()
    for part, among in zip(index.split(sizes), rivals.split(sizes), strict=True):
        rows = source[part].double() if isinstance(source, Tensor) else source(part)
        row, word = torch.nonzero(among, as_tuple=True)
        apart = rows[row].sub_(words.exact[word])
        distances = torch.full_like(among, torch.inf, dtype=torch.float64)
        distances[row, word] = row_sums(apart.square_()) + words.prices[word]
        labels.append(distances.argmin(dim=1))
    return torch.cat(labels)
