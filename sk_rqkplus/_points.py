"""Rows in memory as blocks, over which functions are mapped."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from torch import Tensor

from sk_rqkplus._nearest import Codewords, nearest
from sk_rqkplus._outline import (
    Directions,
    Outline,
    choose_width,
    leading_axes,
    outline_rows,
)
from sk_rqkplus._threads import block_rows, map_items

Result = TypeVar("Result")

# Rows are looked at along other directions where these are fewer, by such a factor.
FEWER = 0.7


class Points:
    """Rows in memory: blocks to map functions over, and a source of scores.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n_features), float32
        Rows.

    Attributes
    ----------
    labels : Tensor of shape (n_rows,), int64 or None
        Labels that were last assigned.
    """

    kept = True

    def __init__(self, rows: Tensor):
        self.rows, self.device = rows, rows.device
        self.labels: Tensor | None = None
        self._codebook: Tensor | None = None
        self._blocks: list[Points] = []
        # Blocks have one list, of the codewords that were last made ready.
        self._ready: list[Codewords] = []
        self._axes: Tensor | None = None
        self._directions: Directions | None = None
        self._outline: Outline | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: slice | Tensor) -> Tensor:
        """Some of the rows."""
        return self.rows[index]

    def exact(self, index: Tensor) -> Tensor:
        """Some of the rows in float64."""
        return self.rows[index].double()

    def assign(self, codebook: Tensor) -> Tensor:
        """Nearest codeword of every row; remembered for this very codebook."""
        if self.labels is None or self._codebook is not codebook:
            words = self._make_ready(codebook)
            outline = self._outlined()
            if outline is not None and self._codebook is not None:
                # Most rows stay where they were.
                known = len(self._codebook) == len(codebook)
                outline.guess = self.labels if known else None
            self.remember(codebook, nearest(self.rows, words, outline))
        assert self.labels is not None
        return self.labels

    def look_along_few(self, codebook: Tensor) -> None:
        """Prepare for assignments to codebooks like this one, where it is worth it."""
        if self._axes is None:
            self._axes = leading_axes(self.rows, codebook)
        if self._axes is None:
            return
        width = choose_width(self.rows, codebook, self._axes)
        before = self._directions.axes.shape[1] if self._directions else 0
        # Other coordinates take as long as an iteration spares.
        if width and before and width > FEWER * before:
            return
        axes = self._axes[:, :width].contiguous()
        self._directions = Directions(axes) if width else None
        for block in (self, *self.blocks()):
            block._directions, block._outline = self._directions, None

    def _outlined(self) -> Outline | None:
        if self._outline is None and self._directions is not None:
            self._outline = outline_rows(self.rows, self._directions)
        return self._outline

    def _make_ready(self, codebook: Tensor) -> Codewords:
        ready = self._ready[0] if self._ready else None
        if ready is None or ready.codebook is not codebook:
            ready = Codewords(codebook)
            self._ready[:] = [ready]
        return ready

    def remember(self, codebook: Tensor, labels: Tensor) -> None:
        """Take labels over that are known for a codebook."""
        self._codebook, self.labels = codebook, labels
        if len(self._blocks) > 1:
            for block, part in zip(self._blocks, self._split(labels), strict=True):
                block.remember(codebook, part)

    def blocks(self) -> list["Points"]:
        """Blocks of the rows, which share their memory."""
        if not self._blocks:
            parts = self._split(self.rows)
            self._blocks = [self] if len(parts) < 2 else [Points(p) for p in parts]
            for block in self._blocks:
                block._ready = self._ready
            if self.labels is not None and self._codebook is not None:
                self.remember(self._codebook, self.labels)
        return self._blocks

    def _split(self, values: Tensor) -> list[Tensor]:
        return list(values.split(block_rows(len(self), self.device)))

    def map(self, function: Callable[..., Result], *args: Any) -> Iterator[Result]:
        """What a function returns for every block and some arguments, in order."""
        return map_items(
            lambda block: function(block, *args), self.blocks(), self.device
        )
