"""Sums and counts of the rows of every codeword, in an order that never changes."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

# Members are added in float32 in runs of so many, and the runs in float64.
RUN_ROWS = 64


@dataclass
class Stats:
    """Sums and counts of the members of every codeword; adds up over sets of rows."""

    sums: Tensor
    counts: Tensor

    def merge(self, other: "Stats") -> "Stats":
        """Statistics of two sets of rows together, in float64.

        Addition commutes but rounds: blocks are merged in the order of their rows.
        """
        return Stats(self.sums + other.sums, self.counts + other.counts)

    def means(self) -> Tensor:
        """Mean of the members of every codeword, zero where there are none."""
        return (self.sums / self.counts.clamp(min=1)[:, None]).float()

    def inertia(self, codebook: Tensor, squares: float) -> float:
        """Sum of squared distances to the codewords of rows with such squares."""
        book = codebook.double()
        cross = (self.sums * book).sum(1) * 2 - book.square().sum(1) * self.counts
        return squares - float(cross.sum())

    def excess(self, codebook: Tensor) -> float:
        """What the inertia falls by if every codeword goes to the mean of its rows."""
        away = self.sums - codebook.double() * self.counts[:, None]
        return float((away.square().sum(1) / self.counts.clamp(min=1)).sum())


def member_sums(
    rows: Tensor, labels: Tensor, n_codewords: int, *, exact: bool = True
) -> Stats:
    """Sums and counts of the rows of every label.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n_features), float32
        Rows.

    labels : Tensor of shape (n_rows,), int64
        Codeword of each.

    n_codewords : int
        Size of the codebook.

    exact : bool, default=True
        Add in float64 throughout, so that the mean of copies is the row itself. If
        not, short runs of members are added in float32, which is several times faster.

    Returns
    -------
    stats : Stats
        Float64, added in the order of the rows.
    """
    counts = torch.bincount(labels, minlength=n_codewords)
    order = order_by(labels)
    first = torch.cumsum(counts, 0) - counts
    every = torch.arange(len(rows), device=rows.device)
    if exact:
        sums = embedding_bag(every, rows[order].double(), first, mode="sum")
        return Stats(sums, counts)
    # Runs of members, few enough to be added in float32.
    n_runs = (counts + RUN_ROWS - 1) // RUN_ROWS
    first_run = torch.cumsum(n_runs, 0) - n_runs
    codeword = torch.repeat_interleave(n_runs)
    place = torch.arange(len(codeword), device=rows.device) - first_run[codeword]
    runs = embedding_bag(order, rows, first[codeword] + place * RUN_ROWS, mode="sum")
    every = torch.arange(len(runs), device=rows.device)
    return Stats(embedding_bag(every, runs.double(), first_run, mode="sum"), counts)


def order_by(labels: Tensor) -> Tensor:
    """Stable order of labels; NumPy sorts short integers by radix.

    Parameters
    ----------
    labels : Tensor of shape (n_rows,), int64
        Non-negative integers.

    Returns
    -------
    order : Tensor of shape (n_rows,), int64
        Indices that sort them.
    """
    if labels.device.type != "cpu" or (len(labels) and int(labels.max()) >= 2**16):
        return torch.argsort(labels, stable=True)
    short = labels.numpy().astype(np.uint16)
    return torch.from_numpy(short.argsort(kind="stable"))
