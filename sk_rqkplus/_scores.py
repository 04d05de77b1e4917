"""Scores of many rows at given prices, tile by tile, in an order that never changes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from operator import add, itemgetter
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from sk_rqkplus._memory import give_back
from sk_rqkplus._near import Near, NearTable, Shortlist, near_in, reach_of
from sk_rqkplus._nearest import Codewords, best_two, tile_rows
from sk_rqkplus._rounding import input_roundoff
from sk_rqkplus._threads import (
    CPU,
    block_rows,
    chunk_rows,
    fill_chunks,
    run_chunks,
    scratch,
    split_rows,
)

Result = TypeVar("Result")
Addend = TypeVar("Addend")

# Tables of scores up to this size are kept, larger ones computed again: where rows are
# in memory, and where they are read from a file and memory is to stay small.
CACHED_SCORES, CACHED_SCORES_OF_A_FILE = 2**28, 2**26
# Of the larger ones lists are kept, of what is within so many times the reach, or less
# where these would take more than so many bytes.
WIDER = 6.0
LISTED_BYTES, LISTED_BYTES_OF_A_FILE = 2**28, 2**26
# Codewords are near each other if most, of so many, have another one within this share
# of the largest squared norm, of which float32 rounds a ten millionth.
CLOSE, CLOSEST_OF = 2.0**-13, 256
# Rows of a file after which memory that was freed goes back to the system.
GIVE_BACK_ROWS = 2**19


class Source(Protocol):
    """Rows, rounded to float32 or exact; ``kept`` tells whether they are in memory."""

    @property
    def kept(self) -> bool: ...

    def __len__(self) -> int: ...

    def take(self, index: slice | Tensor) -> Tensor:
        """Rows in float32."""

    def exact(self, index: Tensor) -> Tensor:
        """Rows in float64."""


@dataclass
class Selection:
    """Every so many of the rows that are not in a crowd.

    Attributes
    ----------
    n_rows : int
        Number of all rows.
    crowd : ndarray of shape (n_crowd,), int64
        Numbers of the rows that are left out, ascending.
    stride : int
        One of so many of the other rows is selected.
    """

    n_rows: int
    crowd: np.ndarray
    stride: int = 1

    def __len__(self) -> int:
        return -(-(self.n_rows - len(self.crowd)) // self.stride)

    def inside(self, start: int, stop: int) -> np.ndarray:
        """Numbers of the selected rows between two, counted from the first of them."""
        first, last = np.searchsorted(self.crowd, [start, stop])
        kept = np.delete(np.arange(stop - start), self.crowd[first:last] - start)
        return kept[-(start - first) % self.stride :: self.stride]

    def sizes(self, device: torch.device = CPU) -> list[int]:
        """Number of the selected rows of every block on a device."""
        starts = np.arange(0, self.n_rows, block_rows(self.n_rows, device))
        before = starts - np.searchsorted(self.crowd, starts)
        ends = -(-np.append(before, self.n_rows - len(self.crowd)) // self.stride)
        return np.diff(ends).tolist()


def score_rows(n_rows: int, codebook: Tensor) -> int:
    """Rows of a tile of scores, of so many in all; a tile does not cross blocks."""
    tile = tile_rows(len(codebook), codebook.shape[1], codebook.device)
    return min(chunk_rows(n_rows, tile), block_rows(n_rows, codebook.device))


class Scores:
    """Squared distances of rows to codewords, up to a term per row, in float32.

    Tiles of scores are added up block by block, and the blocks in their order: whoever
    owns whole blocks gets the bits of a machine that owns all of them.

    Parameters
    ----------
    source : Source
        Where the rows come from.

    codebook : Tensor of shape (n_codewords, n_features), float32
        The codewords.

    index : Tensor of shape (n_rows,), int64, optional
        Which rows to share out; None means all.

    sizes : list of int, optional
        How many of these rows every block has; None parts all rows into blocks.

    n_tile : int, optional
        Rows of a tile, where these rows are a block of more of them. Its scores are
        needed once and not kept.

    Attributes
    ----------
    cache : dict of int to Tensor
        Scores of the tiles that begin at these rows, all of them or none.
    lists : dict of int to Shortlist
        What stands for the scores of tiles where they are not kept.
    """

    def __init__(
        self,
        source: Source,
        codebook: Tensor,
        index: Tensor | None = None,
        *,
        sizes: list[int] | None = None,
        n_tile: int | None = None,
    ):
        self.source, self.words, self.index = source, Codewords(codebook), index
        if sizes is None:
            n_rows = len(source) if index is None else len(index)
            blocks = split_rows(n_rows, block_rows(n_rows, codebook.device))
            sizes = [block.stop - block.start for block in blocks]
        self.precise = bool(input_roundoff(codebook.device)) or _are_close(self.words)
        self.n_rows = sum(sizes)
        self.n_tile = n_tile or score_rows(self.n_rows, codebook)
        starts = np.cumsum([0, *sizes]).tolist()
        self.tiles: list[slice] = []
        self.block_of: list[int] = []
        for number, (start, size) in enumerate(zip(starts, sizes, strict=False)):
            tiles = split_rows(size, self.n_tile)
            self.tiles += [slice(t.start + start, t.stop + start) for t in tiles]
            self.block_of += [number] * len(tiles)
        self.cache: dict[int, Tensor] = {}
        self.lists: dict[int, Shortlist] = {}
        most = CACHED_SCORES if self.source.kept else CACHED_SCORES_OF_A_FILE
        if n_tile is None and self.n_rows * len(self.words) <= most:
            computed = self._run(self._compute)
            self.cache = dict(zip([t.start for t in self.tiles], computed, strict=True))
        # Bytes that the list of a row may take.
        room = LISTED_BYTES if self.source.kept else LISTED_BYTES_OF_A_FILE
        once = n_tile is not None or codebook.device.type != "cpu"
        self.room = 0.0 if once or self.cache else room / max(1, self.n_rows)

    def __len__(self) -> int:
        return self.n_rows

    def _compute(self, tile: slice) -> Tensor:
        rows = self.source.take(tile if self.index is None else self.index[tile])
        words = self.words
        if not self.precise:
            return torch.addmm(words.offsets, rows, words.codebook.T, alpha=-2)
        # Codewords are near each other, or the caller of the fit lets products round:
        # counts would be off. What matters are differences to the least score.
        offsets, rows = words.exact_offsets, rows.double()
        scores = torch.addmm(offsets, rows, words.exact.T, alpha=-2)
        return scores.sub_(scores.amin(dim=1, keepdim=True)).float()

    def exact_rows(self, index: Tensor) -> Tensor:
        """Rows in float64.

        Parameters
        ----------
        index : Tensor of shape (n_rows,), int64
            Which of the rows to share out.

        Returns
        -------
        rows : Tensor of shape (n_rows, n_features), float64
            Rows.
        """
        return self.source.exact(index if self.index is None else self.index[index])

    def typical_gap(self) -> float:
        """Mean gap between the best two codewords over the first rows."""
        return _mean_gap(self._scores(self.tiles[0]))

    def _run(self, function: Callable[[slice], Result]) -> Iterator[Result]:
        return run_chunks(function, self.tiles, self.words.codebook.device)

    def total(
        self,
        function: Callable[..., Addend],
        prices: Tensor,
        reach: float,
        *args: float,
    ) -> Addend:
        """Add up what a function returns for what is near in every tile.

        Parameters
        ----------
        function : callable
            Maps a :class:`Near` or :class:`NearTable` and further arguments to what can
            be added.

        prices : Tensor of shape (n_codewords,), float64
            Added to the scores.

        reach : float
            How far above the least score of a row the others may be.

        *args : float
            Further arguments.

        Returns
        -------
        total : object
            Sum, in the order of the tiles.
        """
        added = prices.float()
        parts = self._run(lambda tile: function(self._near(tile, added, reach), *args))
        blocks = groupby(zip(self.block_of, parts, strict=True), key=itemgetter(0))
        return add_up(add_up(part for _, part in block) for _, block in blocks)

    def join(
        self, function: Callable[..., Tensor], prices: Tensor, *args: Any
    ) -> Tensor:
        """Concatenate what a function returns for the scores of every tile.

        Parameters
        ----------
        function : callable
            Maps scores of shape (n_rows, n_codewords), which it may overwrite, and
            further arguments to a tensor of as many rows.

        prices : Tensor of shape (n_codewords,), float64
            Added to the scores.

        *args : object
            Further arguments.

        Returns
        -------
        joined : Tensor of shape (n_rows, ...)
            Results in the order of the rows.
        """
        priced = self._priced(function, prices, args)
        return fill_chunks(priced, self.tiles, self.words.codebook.device)

    def _scores(self, tile: slice, added: Tensor | float = 0.0) -> Tensor:
        """Scores of a tile, to be overwritten."""
        self._save_memory(tile)
        if not self.cache:
            return self._compute(tile).add_(added)
        cached = self.cache[tile.start]
        scores = scratch("scores", cached.shape, cached.device)
        return torch.add(cached, added, out=scores)

    def _near(self, tile: slice, added: Tensor, reach: float) -> Near | NearTable:
        """What is near in a tile, from a list of it if there is one."""
        if not self.room:
            return near_in(self._scores(tile, added), reach)
        self._save_memory(tile)
        kept = self.lists.get(tile.start)
        near = None if kept is None else kept.near(added, reach)
        if near is not None:
            return near
        scores = self._compute(tile)
        wide = reach_of(scores, added, self.room)
        if reach:
            wide = min(wide, WIDER * reach)
        if wide > reach:
            kept = Shortlist(scores, added, wide)
            near = kept.near(added, reach)
            # Some rows tell about how long it is, not exactly.
            if kept.n_bytes <= 2 * self.room * len(scores):
                self.lists[tile.start] = kept
        return near or near_in(scores.add_(added), reach)

    def _save_memory(self, tile: slice) -> None:
        many = tile.start // GIVE_BACK_ROWS < tile.stop // GIVE_BACK_ROWS
        if many and not self.source.kept:
            give_back()

    def _priced(
        self, function: Callable[..., Result], prices: Tensor, args: tuple
    ) -> Callable[[slice], Result]:
        added = prices.float()
        return lambda tile: function(self._scores(tile, added), *args)

    def labels(self, prices: Tensor) -> Tensor:
        """Codeword of least score, up to rounding.

        Parameters
        ----------
        prices : Tensor of shape (n_codewords,), float64
            Added to the scores.

        Returns
        -------
        labels : Tensor of shape (n_rows,), int64
            Labels.
        """
        added, device = prices.float(), self.words.codebook.device

        def labels(tile: slice) -> Tensor:
            found = self._near(tile, added, 0.0).labels()
            return torch.as_tensor(found, device=device)

        return fill_chunks(labels, self.tiles, device)

    def margins(self, prices: Tensor) -> tuple[Tensor, Tensor]:
        """Labels, and how far off the runner-up is.

        Parameters
        ----------
        prices : Tensor of shape (n_codewords,), float64
            Added to the scores.

        Returns
        -------
        labels : Tensor of shape (n_rows,), int64
            Labels, up to rounding.

        margins : Tensor of shape (n_rows,), float32
            Difference of the two least scores.
        """
        labels, margin = self.join(_margins, prices).unbind(dim=1)
        return labels.long(), margin.float()


def _are_close(words: Codewords) -> bool:
    """Whether most codewords are so near to another one that float32 is too coarse.

    It depends on the codebook alone, and not on which rows are asked for together.
    """
    if len(words) == 1:
        return False
    some = words.exact[:: -(-len(words) // CLOSEST_OF)]
    squares = words.exact.square().sum(1)
    apart = some.square().sum(1)[:, None] - 2 * some @ words.exact.T + squares
    # Each of them is one of those that are nearest to it.
    nearest = apart.topk(2, dim=1, largest=False).values[:, 1]
    return bool(nearest.median() < CLOSE * squares.max())


def _margins(tile: Tensor) -> Tensor:
    """Labels of a tile, and how far off the runner-up is."""
    labels, best, next_best = best_two(tile)
    return torch.stack([labels.double(), (next_best - best).double()], dim=1)


def _mean_gap(tile: Tensor) -> float:
    """Mean gap between the best two codewords."""
    _, best, next_best = best_two(tile)
    gap = float((next_best - best).mean())
    return gap if 1e-30 < gap < np.inf else 1e-30


def add_up(parts: Iterable[Addend]) -> Addend:
    """Sum of some parts, of which there is one at least, in their order."""
    return reduce(add, parts)
