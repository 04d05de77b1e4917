"""More rows than there are: what codebooks of a small catalogue are fitted on.

With a dozen rows per codeword k-means learns the rows by heart: rows that it has not
seen are half as far again from their codewords, and most codewords of later levels
serve single rows. Mixtures of neighbours fill the gaps between the rows.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sk_rqkplus._threads import join_chunks, map_chunks

# A mixture is of a row and some of its nearest neighbours, with Dirichlet weights.
NEIGHBOURS, MIXED, OWN_WEIGHT = 10, 3, 2
# One row in four is left as it is.
REAL_SHARE = 4
# Neighbours are looked up among at most so many rows.
ANCHORS, CHUNK_ROWS = 16_384, 256
# Rows per codeword between which mixtures help on unseen rows, and how many to make.
FEWEST, MOST, WANTED = 4, 64, 128


def resolve_augment(
    augment: str | int, count: Callable[[int], int], n_codewords: int
) -> int:
    """Number of rows to fit on, 0 for the rows as they are.

    Parameters
    ----------
    augment : {"auto", "none"} or int
        Parameter of the estimator.

    count : callable
        Maps a limit to the number of distinct rows, or the limit if there are more.

    n_codewords : int
        Size of the largest codebook.

    Returns
    -------
    n_augmented : int
        Number of rows.
    """
    if augment == "none" or count(2) < 2:
        return 0
    if augment == "auto":
        n_rows = count(MOST * n_codewords)
        few = FEWEST * n_codewords <= n_rows < MOST * n_codewords
        return WANTED * n_codewords if few else 0
    return int(augment)


def smoothed_bootstrap(rows: Tensor, n_rows: int, rng: np.random.RandomState) -> Tensor:
    """Rows to fit codebooks on, where there are few of them.

    A quarter are rows as they are, each about equally often. The others are
    :class:`Mixtures` of them, with weights from a Dirichlet distribution of parameters
    2, 1, 1, 1. Mixtures are not rescaled: being shorter than rows they shrink the
    codewords, which suits rows that were never seen.

    Parameters
    ----------
    rows : Tensor of shape (n_samples, n_features), float32
        Centred rows.

    n_rows : int
        Number of rows to return.

    rng : RandomState
        Source of randomness.

    Returns
    -------
    rows : Tensor of shape (n_rows, n_features), float32
        Rows as they are first, then mixtures.

    References
    ----------
    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 16.5.
    """
    order = torch.as_tensor(rng.permutation(len(rows)), device=rows.device)
    n_real = -(-n_rows // REAL_SHARE)
    real = rows[order.repeat(-(-n_real // len(order)))[:n_real]]
    mixtures = Mixtures(rows[order[:ANCHORS]])
    own = torch.arange(n_rows - n_real, device=rows.device)
    return torch.cat([real, mixtures.draw(own, rng)])


class Mixtures:
    """Convex mixtures of a row and three of its nearest neighbours.

    Parameters
    ----------
    rows : Tensor of shape (n_samples, n_features), float32
        Rows to mix, at least two; the first 16,384 of them are.

    n_neighbours : int, default=10
        Neighbours of a row that take part.
    """

    def __init__(self, rows: Tensor, n_neighbours: int = NEIGHBOURS):
        self.rows = rows[:ANCHORS]
        n_neighbours = min(n_neighbours, len(self.rows) - 1)
        self.near = nearest_others(self.rows, n_neighbours)

    def draw(self, own: Tensor, rng: np.random.RandomState) -> Tensor:
        """Draw mixtures.

        Parameters
        ----------
        own : Tensor of shape (n_mixtures,), int64
            Number of the row that each is mostly made of, modulo the number of rows.

        rng : RandomState
            Source of randomness.

        Returns
        -------
        mixed : Tensor of shape (n_mixtures, n_features), float32
            Mixtures.
        """
        base, near, n_rows = self.rows, self.near, len(own)
        chosen = own % len(base)
        shares = rng.dirichlet([OWN_WEIGHT] + [1] * MIXED, n_rows).astype(np.float32)
        weights = torch.as_tensor(shares, device=base.device)
        numbers = rng.randint(near.shape[1], size=(n_rows, MIXED))
        draws = torch.as_tensor(numbers, device=base.device)

        def mix(tile: slice) -> Tensor:
            own, weight = chosen[tile], weights[tile]
            mixed = base[own] * weight[:, :1]
            for part, draw in zip(weight.T[1:], draws[tile].T, strict=True):
                mixed += part[:, None] * base[near[own, draw]]
            return mixed

        return torch.cat([base[:0], *map_chunks(mix, n_rows, CHUNK_ROWS, base.device)])


def nearest_others(rows: Tensor, n_neighbours: int) -> Tensor:
    """Nearest rows of every row, itself left out.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n_features), float32
        Rows.

    n_neighbours : int
        How many neighbours, fewer than rows.

    Returns
    -------
    index : Tensor of shape (n_rows, n_neighbours), int64
        Their indices.
    """
    squares = rows.square().sum(1)

    def search(tile: slice) -> Tensor:
        distances = torch.addmm(squares, rows[tile], rows.T, alpha=-2)
        own = torch.arange(tile.start, tile.stop, device=rows.device)
        distances.scatter_(1, own[:, None], torch.inf)
        return distances.topk(n_neighbours, dim=1, largest=False).indices

    return join_chunks(search, len(rows), CHUNK_ROWS, rows.device)
