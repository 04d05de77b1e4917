"""Residual quantisation over all levels: encode and decode, no classes of estimators.

``x - mean`` is approximated by one codeword per level; each level quantises what the
levels before it left over. Codes are those of float64 arithmetic (see ``_nearest``).
"""

from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from sk_rqkplus._beam import BeamCodebooks, beam_search
from sk_rqkplus._nearest import Codewords, nearest_in_tile, tile_rows
from sk_rqkplus._points import Points
from sk_rqkplus._refine import Sums, merge_sums, refine_codebooks, refine_sums
from sk_rqkplus._rounding import FLOAT32_ROUNDOFF, row_sums
from sk_rqkplus._scores import Scores, Selection
from sk_rqkplus._threads import (
    block_rows,
    join_chunks,
    map_chunks,
    map_items,
    n_workers,
    scratch,
    split_rows,
)

Latent = Callable[[Tensor], Tensor]
# Sums of a joint refinement that are in memory at a time, unless threads are many.
SUMS_BYTES = 2**28


def power_of_two(magnitude: float) -> float:
    """Largest power of two up to a magnitude; 1 for zero.

    Dividing by it brings data of any unit into the range of float32 without rounding.
    """
    return float(2.0 ** np.floor(np.log2(magnitude))) if magnitude > 0 else 1.0


def centred(
    X: np.ndarray, mean: np.ndarray, device: torch.device, dtype: type = np.float64
) -> Tensor:
    """Return ``X - mean`` as a tensor on a device."""
    return torch.from_numpy(np.subtract(X, mean, dtype=dtype)).to(device)


def encode(
    X: np.ndarray,
    codebooks: Sequence[np.ndarray],
    prices: Sequence[np.ndarray],
    mean: np.ndarray,
    *,
    beam_size: int = 1,
    latent: Latent | None = None,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Code of every row.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32 or float64
        Rows; only a tile of them is ever copied.

    codebooks : sequence of ndarray of shape (n_codewords, n_features), float32
        One codebook per level.

    prices : sequence of ndarray of shape (n_codewords,), float64
        Price of every codeword, in squared units of X.

    mean : ndarray of shape (n_features,)
        Origin of the codebooks.

    beam_size : int, default=1
        Number of prefixes that are kept at every level; 1 is the greedy code.

    latent : callable, optional
        Maps centred rows (float64 tensor) to what is quantised; None is the identity.

    device : str or torch.device, default="cpu"
        Where to compute. The codes do not depend on it.

    Returns
    -------
    codes : ndarray of shape (n_samples, n_levels), int32
        Index of one codeword per level.
    """
    device = torch.device(device)
    scale = power_of_two(max(float(np.abs(book).max()) for book in codebooks))
    levels = [
        Codewords(
            torch.as_tensor(np.divide(book, scale), dtype=torch.float32).to(device),
            torch.as_tensor(np.divide(price, scale * scale)),
        )
        for book, price in zip(codebooks, prices, strict=True)
    ]

    books = BeamCodebooks(levels) if beam_size > 1 else None

    def encode_tile(tile: slice) -> np.ndarray:
        left = Leftover(X[tile], mean, scale, latent=latent, device=device, parts=False)
        if books is not None:
            return left.search(books, beam_size).int().cpu().numpy()
        *before, last = levels
        for words in before:
            left.advance(words)
        # What the last level leaves over is of no use.
        left.labels.append(left.assign(last))
        return left.codes

    codes = np.empty((len(X), len(levels)), dtype=np.int32)
    step = tile_rows(max(map(len, levels)), X.shape[1], device)
    start = 0
    for part in map_chunks(encode_tile, len(X), step, device):
        codes[start : start + len(part)] = part
        start += len(part)
    return codes


class Leftover:
    """What the levels so far leave over of every row.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32 or float64
        Rows.

    mean : ndarray of shape (n_features,)
        Subtracted from the rows.

    scale : float
        Power of two by which the rows are divided.

    latent : callable, optional
        Maps centred rows (float64 tensor) to what is quantised; None is the identity.

    device : str or torch.device, default="cpu"
        Where to compute.

    keep : bool, default=True
        Keep all residuals in memory; if false they are computed from ``X`` a tile at a
        time, so that memory grows with the number of rows by their codes alone.

    parts : bool, default=True
        Work on chunks of the rows; if false on all at once, where they are a chunk.

    Attributes
    ----------
    rows : Tensor of shape (n_samples, n_features), float32
        Residuals, rounded, where they are kept.
    """

    def __init__(
        self,
        X: np.ndarray,
        mean: np.ndarray,
        scale: float,
        *,
        latent: Latent | None = None,
        device: str | torch.device = "cpu",
        keep: bool = True,
        parts: bool = True,
    ):
        self.X, self.mean, self.scale, self.latent = X, mean, scale, latent
        self.device, self.parts = torch.device(device), parts
        self.levels: list[Codewords] = []
        self.labels: list[Tensor] = []
        self.rows: Tensor | None = None
        self.latents: Tensor | None = None
        if keep:
            if latent is not None:
                self.latents = self._join(self._first)
            self._keep()

    def _keep(self) -> None:
        kept = self._join(lambda tile: self._first(tile).float())
        self.noise = self._join(lambda tile: rounding(kept[tile]))
        self.rows = kept

    def restart(self) -> None:
        """Return to before the first level."""
        self.levels, self.labels = [], []
        if self.kept:
            # Before there are others.
            self.rows = None
            self._keep()

    def __len__(self) -> int:
        return len(self.X)

    def _join(
        self, function: Callable[[slice], Tensor], n_codewords: int = 1
    ) -> Tensor:
        if not self.parts:
            return function(slice(0, len(self)))
        step = tile_rows(n_codewords, self.X.shape[1], self.device)
        return join_chunks(function, len(self), step, self.device)

    @property
    def kept(self) -> bool:
        """Whether the residuals are in memory."""
        return self.rows is not None

    @property
    def points(self) -> Points:
        """Residuals as blocks; those that are kept, if they are."""
        return Points(self.take(slice(0, len(self))))

    @property
    def codes(self) -> np.ndarray:
        """Labels of the levels so far, of shape (n_samples, n_levels), int32."""
        return torch.stack(self.labels, dim=1).cpu().numpy().astype(np.int32)

    def _first(self, index: slice | Tensor, dtype: type | None = None) -> Tensor:
        """Rows before the first level; latents are exact whatever the dtype."""
        if self.latents is not None:
            return self.latents[index]
        X = self.X[index.cpu().numpy() if isinstance(index, Tensor) else index]
        if self.latent is not None:
            return self.latent(centred(X, self.mean, self.device)) / self.scale
        dtype = np.result_type(X, self.mean).type if dtype is None else dtype
        return centred(X, self.mean, self.device, dtype) / self.scale

    def tile(self, index: slice | Tensor) -> tuple[Tensor, Tensor]:
        """Residuals of some rows, and how far off they are.

        Parameters
        ----------
        index : slice or Tensor of int64
            Which rows.

        Returns
        -------
        rows : Tensor of shape (n_rows, n_features), float32
            Residuals, rounded.

        noise : Tensor of shape (n_rows,), float32
            Bound of their Euclidean distance to the exact ones.
        """
        if self.rows is not None:
            return self.rows[index], self.noise[index]
        rows = self._first(index).float()
        noise = rounding(rows)
        for words, labels in zip(self.levels, self.labels, strict=True):
            rows -= words.codebook[labels[index].long()]
            noise += rounding(rows)
        return rows, noise

    def take(self, index: slice | Tensor) -> Tensor:
        """Residuals of some rows, rounded to float32.

        Parameters
        ----------
        index : slice or Tensor of int64
            Which rows.

        Returns
        -------
        rows : Tensor of shape (n_rows, n_features), float32
            Residuals.
        """
        return self.tile(index)[0]

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        return self.take(index)

    def squares(self) -> Tensor:
        """Squared norm of every residual.

        Returns
        -------
        squares : Tensor of shape (n_samples,), float64
            The same for copies of a row.
        """
        return self._join(lambda tile: row_sums(self.take(tile).double().square()))

    def exact(self, index: Tensor) -> Tensor:
        """Residuals in float64.

        Parameters
        ----------
        index : Tensor of shape (n_rows,), int64
            Which rows.

        Returns
        -------
        rows : Tensor of shape (n_rows, n_features), float64
            Residuals.
        """
        rows = self._first(index, np.float64)
        for words, labels in zip(self.levels, self.labels, strict=True):
            rows = rows - words.exact[labels[index].long()]
        return rows

    def assign(self, words: Codewords) -> Tensor:
        """Index of the nearest codeword of every residual.

        Parameters
        ----------
        words : Codewords
            Codebook and prices of the next level.

        Returns
        -------
        labels : Tensor of shape (n_samples,), int32
            Labels, as float64 arithmetic gives them.
        """

        def assign_tile(tile: slice) -> Tensor:
            rows, noise = self.tile(tile)
            return nearest_in_tile(
                rows,
                words,
                noise=noise,
                exact_rows=lambda i: self.exact(i + tile.start),
            ).int()

        return self._join(assign_tile, len(words))

    def search(self, books: BeamCodebooks, beam_size: int) -> Tensor:
        """Codes by beam search, before the first level.

        Parameters
        ----------
        books : BeamCodebooks
            Codebooks and prices of all levels.

        beam_size : int
            Number of prefixes that are kept.

        Returns
        -------
        codes : Tensor of shape (n_samples, n_levels), int64
            Index of one codeword per level.
        """

        def search_tile(tile: slice) -> Tensor:
            rows, noise = self.tile(tile)
            exact = lambda index: self.exact(index + tile.start)  # noqa: E731
            return beam_search(rows, books, beam_size, noise=noise, exact_rows=exact)

        return self._join(search_tile, max(map(len, books.levels)))

    def search_again(self, beam_size: int) -> None:
        """Take the codes of a beam search over the levels so far for the greedy ones.

        Parameters
        ----------
        beam_size : int
            Number of prefixes that are kept; with 1 nothing changes.
        """
        if beam_size == 1:
            return
        levels = self.levels
        self.restart()
        codes = self.search(BeamCodebooks(levels), beam_size).int()
        for words, labels in zip(levels, codes.T, strict=True):
            self.advance(words, labels.contiguous())

    def refine_sums(self, index: slice) -> Sums:
        """What a joint refinement of the levels so far needs to know of some rows.

        Parameters
        ----------
        index : slice
            Which rows.

        Returns
        -------
        sums : tuple
            See :func:`~sk_rqkplus._refine.refine_sums`.
        """
        labels = [part[index] for part in self.labels]
        return refine_sums(self.take(index), labels, [*map(len, self.levels)])

    def refined(self, beam_size: int) -> list[np.ndarray]:
        """Codebooks of the levels so far, moved jointly.

        Parameters
        ----------
        beam_size : int
            Width of the search for the codes that they are refined for; with more than
            1 these take the place of the greedy ones.

        Returns
        -------
        codebooks : list of ndarray of shape (n_codewords, n_features), float32
            Refined codebooks.
        """
        self.search_again(beam_size)
        books = [words.codebook.cpu().numpy() for words in self.levels]
        blocks = split_rows(len(self), block_rows(len(self), self.device))
        # Sums that wait for each other take memory.
        n_pairs = min(blocks[0].stop * len(books) ** 2, sum(map(len, books)) ** 2)
        n_bytes = 8 * sum(book.size for book in books) + 12 * n_pairs
        step = max(n_workers(), SUMS_BYTES // n_bytes)
        windows = (blocks[i : i + step] for i in range(0, len(blocks), step))
        parts = (map_items(self.refine_sums, some, self.device) for some in windows)
        sums = merge_sums(chain.from_iterable(parts))
        return refine_codebooks(sums, books)

    def scores(self, codebook: Tensor, selection: Selection) -> Scores:
        """Scores of some rows.

        Parameters
        ----------
        codebook : Tensor of shape (n_codewords, n_features), float32
            The codewords.

        selection : Selection
            Which rows.

        Returns
        -------
        scores : Scores
            Their squared distances to the codewords.
        """
        index = None
        if len(selection) < len(self):
            inside = selection.inside(0, len(self))
            index = torch.as_tensor(inside, device=self.device)
        return Scores(self, codebook, index, sizes=selection.sizes(self.device))

    def distinct(self, index: slice, by: Callable[[Tensor], Tensor]) -> np.ndarray:
        """Distinct values of some residuals.

        Parameters
        ----------
        index : slice
            Which rows.

        by : callable
            Maps residuals to their values, a function of a module.

        Returns
        -------
        values : ndarray
            Sorted.
        """
        return np.unique(by(self.take(index)).cpu().numpy(), axis=0)

    def advance(self, words: Codewords, labels: Tensor | None = None) -> None:
        """Subtract the codewords of a level.

        Parameters
        ----------
        words : Codewords
            Codebook of the level.

        labels : Tensor of shape (n_samples,), int32, optional
            Codeword of every row, by default the nearest one.
        """
        codeword_of = self.assign(words) if labels is None else labels

        def subtract(tile: slice) -> Tensor:
            rows, _ = self.tile(tile)
            codewords = scratch("codewords", rows.shape, rows.device)
            index = codeword_of[tile].long()
            rows -= torch.index_select(words.codebook, 0, index, out=codewords)
            return rounding(rows)

        if self.kept:
            self.noise += self._join(subtract)
        self.levels.append(words)
        self.labels.append(codeword_of)


def rounding(rows: Tensor) -> Tensor:
    """Bound of the distance that rounding to float32 has moved each row.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n_features), float32
        Rounded rows.

    Returns
    -------
    bound : Tensor of shape (n_rows,), float32
        Euclidean distances.
    """
    return 1.01 * FLOAT32_ROUNDOFF * rows.norm(dim=1)


def decode(
    codes: np.ndarray, codebooks: Sequence[np.ndarray], mean: np.ndarray | float = 0.0
) -> np.ndarray:
    """Sum of the codewords that each code names, plus the mean.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_levels), int
        Index of one codeword per level.

    codebooks : sequence of ndarray of shape (n_codewords, n_features)
        One codebook per level.

    mean : ndarray of shape (n_features,) or float, default=0
        Origin of the codebooks.

    Returns
    -------
    X : ndarray of shape (n_samples, n_features), float64
        Reconstructed rows.
    """
    total = np.zeros((len(codes), codebooks[0].shape[1])) + mean
    for book, code in zip(codebooks, codes.T, strict=True):
        total += book[code]
    return total
