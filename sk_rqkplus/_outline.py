"""A first look along few directions, after which few codewords are compared whole.

Rows vary much along some directions and little along most. The inner product of a row
and a codeword is that of their coordinates along some directions, and a rest that is
at most the product of the lengths of what these leave over (Cauchy-Schwarz). A product
of narrow matrices so bounds all scores from below. A codeword that is likely to be the
nearest one gets its whole score, and of the others only those whose bound is not above
that.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sk_rqkplus._products import bfloat16_is_faster, pair_products, scores_into
from sk_rqkplus._rounding import (
    FLOAT32_ROUNDOFF,
    SMALLEST,
    input_roundoff,
    row_norms,
)
from sk_rqkplus._threads import join_chunks, n_workers, scratch

# Directions are looked for among so many rows, and their number among fewer.
BASIS_ROWS, TRIAL_ROWS = 4096, 256
WIDTHS = (16, 24, 32, 48, 64, 96, 128, 160, 192)
# With fewer features or codewords there is little to save.
LEAST_FEATURES, LEAST_CODEWORDS = 128, 64
# What things take, in multiplications of a product of matrices: a feature of a codeword
# that is looked at alone, a bound that is looked at, a score of which the least is
# looked for, a feature in bfloat16 where that is fast, and the directions, as a
# multiple of the cube of the number of features.
PAIR, BOUND, LEAST, SHORT, AXES = 16.0, 45.0, 20.0, 0.5, 50.0
# Where more than such a share of codewords are near, all are looked at.
MOST_NEAR = 0.05
# An outline serves for so many iterations, and is to spare so much of them.
ITERATIONS, WORTH = 5, 0.9
# Directions are looked for where this share would make up for it.
SPARED = 0.2


class Directions:
    """Directions that are orthonormal up to rounding.

    Parameters
    ----------
    axes : Tensor of shape (n_features, n_directions), float32
        The directions.

    Attributes
    ----------
    skew : float
        Bound of how far squared lengths along them are off, as a share.
    """

    def __init__(self, axes: Tensor):
        self.axes, self.exact = axes, axes.double()
        unit = torch.eye(axes.shape[1], dtype=torch.float64, device=axes.device)
        self.skew = 1.01 * float((self.exact.T @ self.exact - unit).norm()) + 1e-15


@dataclass
class Outline:
    """Rows along some directions, and bounds of what is not seen there.

    Attributes
    ----------
    directions : Directions
        Where they are looked at along.
    coordinates : Tensor of shape (n_rows, n_directions), float32
        Coordinates.
    norms : Tensor of shape (n_rows,), float32
        Norms of the rows, or more.
    rests : Tensor of shape (n_rows,), float32
        Norms of what the directions leave over, or more.
    errors : Tensor of shape (n_rows,), float32
        How far off coordinates are because of rounding, or more.
    guess : Tensor of shape (n_rows,), int64 or None
        Codewords that are likely to be near.
    """

    directions: Directions
    coordinates: Tensor
    norms: Tensor
    rests: Tensor
    errors: Tensor
    guess: Tensor | None = None

    def __getitem__(self, index: slice) -> "Outline":
        return Outline(
            self.directions,
            self.coordinates[index],
            self.norms[index],
            self.rests[index],
            self.errors[index],
            None if self.guess is None else self.guess[index],
        )


class OutlinedCodewords:
    """A codebook along some directions.

    Parameters
    ----------
    codebook : Tensor of shape (n_codewords, n_features), float64
        Codewords.

    directions : Directions
        Where to look along.
    """

    def __init__(self, codebook: Tensor, directions: Directions):
        self.directions = directions
        exact = codebook @ directions.exact
        self.coordinates = exact.float()
        error = 1e-12 * codebook.shape[1]
        squares = codebook.square().sum(1) * (1 + 2 * directions.skew + error)
        rests = (squares - exact.square().sum(1)).clamp(min=0).sqrt()
        self.rests = (rests * (1 + 4 * FLOAT32_ROUNDOFF)).float() + SMALLEST
        # Bound of the lengths of the coordinates.
        self.largest = float(squares.max()) ** 0.5


def outline_rows(rows: Tensor, directions: Directions) -> Outline:
    """Look at rows along some directions.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n_features), float32
        Rows.

    directions : Directions
        Where to look along.

    Returns
    -------
    outline : Outline
        With V the directions and ``M = I - V V^T``, the rest of a row r is the root of
        ``r^T |M| r``: M is below zero by the skew, at most.
    """
    n_features, width = directions.axes.shape
    inside, skew = input_roundoff(rows.device), directions.skew
    # Of every coordinate, which is an inner product with a vector of length one.
    error = 1.05 * (n_features + 8) * FLOAT32_ROUNDOFF + inside * (2 + inside)
    error *= (1 + skew) * width**0.5

    def look(chunk: slice) -> Tensor:
        part = rows[chunk]
        coordinates = scratch("coordinates", (len(part), width), rows.device)
        # A product with a place for it is not cast to fewer bits in autocast.
        torch.mm(part, directions.axes, out=coordinates)
        norms = row_norms(part)
        seen = coordinates.norm(dim=1) * (1 - 2 * width * FLOAT32_ROUNDOFF)
        seen = (seen - error * norms).clamp(min=0)
        squares = norms.square() * (1 + 2 * skew + 8 * FLOAT32_ROUNDOFF)
        rests = (squares - seen.square()).sqrt() * (1 + 4 * FLOAT32_ROUNDOFF)
        sizes = torch.stack([norms, rests, error * norms], dim=1)
        return torch.cat([coordinates, sizes], dim=1)

    parts = join_chunks(look, len(rows), 2**20 // n_features, rows.device)
    return Outline(directions, parts[:, :width], *parts[:, width:].T.contiguous())


def outlined_labels(
    rows: Tensor,
    outline: Outline,
    codebook: Tensor,
    offsets: Tensor,
    words: OutlinedCodewords,
    slack: Tensor,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Float32 labels, of which few codewords are looked at whole.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n_features), float32
        Rows, on a CPU.

    outline : Outline
        The same rows.

    codebook : Tensor of shape (n_codewords, n_features), float32
        Codewords.

    offsets : Tensor of shape (n_codewords,), float32
        Squared norms of the codewords, and their prices.

    words : OutlinedCodewords
        The same codewords, along the same directions.

    slack : Tensor of shape (n_rows,), float32
        Bound of the error of a difference of two scores.

    Returns
    -------
    labels : Tensor of shape (n_rows,), int64
        Codewords of least score in float32; those that are nearest without doubt where
        no other one is near.

    doubtful : Tensor of shape (n_doubtful,), int64
        Which rows another codeword may be nearer to.

    rivals : Tensor of shape (n_doubtful, n_codewords), bool
        Which codewords these are, the label among them.

    None where so many are near that a product with all codewords takes less time.
    """
    shape = len(rows), len(codebook)
    bounds = scratch("scores", shape, rows.device)
    scores_into(bounds, outline.coordinates, words.coordinates, offsets)
    if outline.guess is None:
        labels = bounds.numpy().argmin(axis=1)
    else:
        labels = outline.guess.numpy().copy()
    limit = _whole(rows, codebook, offsets, np.ones(len(rows), dtype=int), labels)
    limit += (slack + 2 * words.largest * outline.errors).numpy()
    torch.addcmul(bounds, outline.rests[:, None], words.rests, value=-2, out=bounds)
    # A bound that is not a number is not beyond the limit.
    mask = scratch("inside", shape, rows.device, torch.bool).numpy()
    np.greater(bounds.numpy(), limit[:, None], out=mask)
    if np.count_nonzero(mask) < (1 - MOST_NEAR) * mask.size:
        return None
    near = np.flatnonzero(np.logical_not(mask, out=mask))
    row, column = np.divmod(near, len(codebook))
    sizes = np.bincount(row, minlength=len(rows))
    column = column[sizes[row] > 1]
    sizes[sizes == 1] = 0
    scores = _whole(rows, codebook, offsets, sizes, column)
    doubtful, rivals = _compare(scores, sizes, column, slack.numpy(), labels, shape[1])
    as_tensor = torch.from_numpy
    return as_tensor(labels), as_tensor(doubtful), as_tensor(rivals)


def _whole(
    rows: Tensor,
    codebook: Tensor,
    offsets: Tensor,
    sizes: np.ndarray,
    column: np.ndarray,
) -> np.ndarray:
    """Scores of so many codewords for every row, one row after the other."""
    products = pair_products(rows, codebook, sizes, column)
    return offsets.numpy()[column] - 2 * products


def _compare(
    scores: np.ndarray,
    sizes: np.ndarray,
    column: np.ndarray,
    slack: np.ndarray,
    labels: np.ndarray,
    n_codewords: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Put the codewords of least score among the labels; doubtful rows and rivals."""
    several = np.flatnonzero(sizes)
    sizes = sizes[several]
    if not len(several):
        return several, np.empty((0, n_codewords), dtype=bool)
    first = np.cumsum(sizes) - sizes
    place = np.repeat(np.arange(len(several)), sizes)
    behind = scores - np.minimum.reduceat(scores, first)[place]
    best = np.flatnonzero(~(behind > 0))
    best = best[np.flatnonzero(np.diff(place[best], prepend=-1))]
    labels[several] = column[best]
    rival = np.flatnonzero(~(behind > slack[several][place]))
    n_rivals = np.bincount(place[rival])
    rival = rival[n_rivals[place[rival]] > 1]
    doubtful = np.flatnonzero(n_rivals > 1)
    rivals = np.zeros((len(doubtful), n_codewords), dtype=bool)
    rivals[np.searchsorted(doubtful, place[rival]), column[rival]] = True
    return several[doubtful], rivals


def leading_axes(rows: Tensor, codebook: Tensor) -> Tensor | None:
    """Directions in which rows and codewords are long, the longest first.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n_features), float32
        Rows, which will be assigned to such codebooks a few times.

    codebook : Tensor of shape (n_codewords, n_features), float32
        Codewords.

    Returns
    -------
    axes : Tensor of shape (n_features, n_axes), float32 or None
        Orthonormal up to rounding; None where it takes longer to find them than to do
        without.
    """
    n_codewords, n_features = codebook.shape
    # All threads spare it, and one looks for directions.
    spared = SPARED * _plain(codebook) * ITERATIONS * len(rows) / n_workers()
    small = n_features < LEAST_FEATURES or n_codewords < LEAST_CODEWORDS
    if small or spared < AXES * n_features**3 or rows.device.type != "cpu":
        return None
    moments = [(part.T @ part).double() for part in (_some(rows, BASIS_ROWS), codebook)]
    shares = [part / part.trace().clamp(min=SMALLEST) for part in moments]
    axes = torch.linalg.eigh(shares[0] + shares[1]).eigenvectors.flip(1)
    return axes[:, : WIDTHS[-1]].float()


def choose_width(rows: Tensor, codebook: Tensor, axes: Tensor) -> int:
    """Number of the leading axes along which rows are soonest told apart.

    Nothing but time depends on it.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n_features), float32
        Rows.

    codebook : Tensor of shape (n_codewords, n_features), float32
        Codewords like those that the rows will be assigned to.

    axes : Tensor of shape (n_features, n_axes), float32
        Orthonormal directions.

    Returns
    -------
    width : int
        Zero where to look at all codewords whole takes about as long, or less.
    """
    some, offsets = _some(rows, TRIAL_ROWS), codebook.square().sum(1)
    best = torch.addmm(offsets, some, codebook.T, alpha=-2).amin(dim=1, keepdim=True)
    of_rows, of_words = some @ axes, codebook @ axes
    least, width = WORTH * _plain(codebook), 0
    for tried in WIDTHS:
        near, far = of_rows[:, :tried], of_words[:, :tried]
        bounds = torch.addmm(offsets, near, far.T, alpha=-2)
        bounds.addr_(_rest(some, near), _rest(codebook, far), alpha=-2)
        n_near = 1 + float((bounds <= best).sum()) / len(some)
        cost = len(codebook) * (tried + BOUND)
        cost += codebook.shape[1] * (PAIR * n_near + tried / ITERATIONS)
        if cost < least:
            least, width = cost, tried
    return width


def _plain(codebook: Tensor) -> float:
    """What it takes to compare a row with all codewords."""
    product = codebook.numel() * (SHORT if bfloat16_is_faster() else 1.0)
    return product + LEAST * len(codebook)


def _some(rows: Tensor, n_rows: int) -> Tensor:
    return rows[:: -(-len(rows) // n_rows)]


def _rest(rows: Tensor, coordinates: Tensor) -> Tensor:
    """Lengths of what coordinates leave over, up to rounding."""
    return (rows.square().sum(1) - coordinates.square().sum(1)).clamp(min=0).sqrt()
