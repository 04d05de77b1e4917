"""Codewords that spare little error go to where one more spares much.

Lloyd iterations move codewords to the means of their members, and hardly ever from one
part of the data to another: how many codewords a part has is what it got at the start.
Here a codeword is taken from where its members are nearly as well off with their second
nearest, and given to where members fall into two halves.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial, reduce
from operator import add

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from sk_rqkplus._members import Stats, member_sums
from sk_rqkplus._nearest import Codewords, best_two, tile_rows
from sk_rqkplus._points import Points
from sk_rqkplus._threads import join_chunks, map_items, scratch

# What one more codeword spares in the end is more than halves of its members tell, and
# what one less costs is less, since others come nearer. They change places where the
# one is above this share of the other.
WORTH = 0.5
# At most such a share of the codewords at a time.
MOST = 0.5
# Products with the members' scatter that find the direction they are halved along.
PRODUCTS = 2


def swap(
    points: Points, codebook: Tensor, rng: np.random.RandomState
) -> tuple[Tensor, float]:
    """Take codewords that spare little, and halve the members of others with them.

    What they spare is rounded: it decides where codewords go, and not which is nearest.

    Parameters
    ----------
    points : Points
        Rows.

    codebook : Tensor of shape (n_codewords, n_features), float32
        Codewords that have nearly settled.

    rng : RandomState
        Source of the first guess of the directions.

    Returns
    -------
    codebook : Tensor of shape (n_codewords, n_features), float32
        Codewords, to be settled again.

    spared : float
        By how much the sum of squared distances falls, roughly; zero where none was
        taken.

    References
    ----------
    Kaukoranta, Fränti and Nevalainen, "Iterative split-and-merge algorithm for VQ
    codebook generation", Optical Engineering 37(10), 1998.
    """
    words, device = Codewords(codebook), codebook.device
    blocks = list(points.map(_members_of, words))
    loss = reduce(add, (block.loss for block in blocks))
    stats = reduce(Stats.merge, map_items(_Members.stats, blocks, device))
    means = stats.means()
    guess = rng.standard_normal(tuple(codebook.shape))
    along = torch.as_tensor(guess, dtype=torch.float32, device=device)
    for _ in range(PRODUCTS):
        pull = partial(_Members.pull, means=means, along=along)
        pulled = reduce(add, map_items(pull, blocks, device))
        along = normalize(pulled.float(), dim=1)
    halve = partial(_Members.halve, means=means, along=along)
    parts = reduce(Stats.merge, map_items(halve, blocks, device))
    halves = parts.means().view(len(words), 2, -1)
    apart = (halves - means[:, None]).double().square().sum(2)
    counts = parts.counts.view(len(words), 2)
    # Copies may all be on one side of what their mean is rounded to.
    gain = ((apart * counts).sum(1) * (counts > 0).all(1)).tolist()
    cost = (WORTH * loss).tolist()
    pairs = list(_pairs(gain, cost, _neighbours(words).tolist()))
    swapped, spared = codebook.clone(), sum(gain[h] - cost[t] for t, h in pairs)
    if pairs:
        index = torch.tensor(pairs, device=device)
        swapped[index] = halves[index[:, 1]]
    return swapped, spared


def _pairs(
    gain: list[float], cost: list[float], near: list[int]
) -> Iterator[tuple[int, int]]:
    """Codewords to take, and others whose members they halve.

    Parameters
    ----------
    gain : list of float
        What halving the members of each spares.

    cost : list of float
        What it costs to take it.

    near : list of int
        Its nearest neighbour, which is to take them over.

    Yields
    ------
    taken, halved : int
        The largest gain that is left, for the least cost.
    """
    numbers = range(len(gain))
    givers = iter(sorted(numbers, key=cost.__getitem__))
    # Who takes members over is not taken as well; its own may be halved.
    touched: set[int] = set()
    needed: set[int] = set()
    takers = sorted(numbers, key=gain.__getitem__, reverse=True)
    for halved in takers[: int(MOST * len(gain))]:
        if halved in touched:
            continue
        touched.add(halved)
        free = (k for k in givers if not ({k, near[k]} & touched or k in needed))
        taken = next(free, None)
        if taken is None or gain[halved] <= cost[taken]:
            return
        touched.add(taken)
        needed.add(near[taken])
        yield taken, halved


def _neighbours(words: Codewords) -> Tensor:
    """Nearest other codeword of each."""
    book = words.codebook

    def nearest(chunk: slice) -> Tensor:
        scores = torch.addmm(words.offsets, book[chunk], book.T, alpha=-2)
        scores.diagonal(chunk.start).fill_(torch.inf)
        return scores.argmin(dim=1)

    step = tile_rows(len(book), book.shape[1], book.device)
    return join_chunks(nearest, len(book), step, book.device)


@dataclass
class _Members:
    """Rows of a block, the codeword of each, and what losing a codeword costs them."""

    rows: Tensor
    labels: Tensor
    loss: Tensor

    def stats(self) -> Stats:
        """Sums and counts of the members of every codeword."""
        return self._sums(self.rows)

    def pull(self, means: Tensor, along: Tensor) -> Tensor:
        """Product of the scatter of all members around their mean with a direction."""
        away = self.rows - means[self.labels]
        return self._sums(away * self._places(away, along)).sums

    def halve(self, means: Tensor, along: Tensor) -> Stats:
        """Sums and counts of the members on either side of their mean."""
        side = self._places(self.rows - means[self.labels], along).squeeze(1) > 0
        return member_sums(self.rows, 2 * self.labels + side, 2 * len(means))

    def _places(self, away: Tensor, along: Tensor) -> Tensor:
        return (away * along[self.labels]).sum(1, keepdim=True)

    def _sums(self, values: Tensor) -> Stats:
        return member_sums(values, self.labels, len(self.loss), exact=False)


def _members_of(points: Points, words: Codewords) -> _Members:
    """Members of all codewords in a block, up to rounding."""
    labels, behind = [], []
    step = tile_rows(len(words), points.rows.shape[1], points.device)
    for tile in points.rows.split(step):
        scores = scratch("scores", (len(tile), len(words)), tile.device)
        torch.addmm(words.offsets, tile, words.codebook.T, alpha=-2, out=scores)
        label, best, next_best = best_two(scores)
        labels.append(label)
        behind.append(next_best - best)
    label = torch.cat(labels)
    loss = member_sums(torch.cat(behind)[:, None], label, len(words))
    return _Members(points.rows, label, loss.sums[:, 0])
