"""Prices that balance one codebook: a power diagram with bounded cell sizes.

For any bounds ``lower <= count <= upper`` there is one price per codeword such that
``argmin_k ||r - c_k||^2 + price_k`` is the assignment of least total distortion within
these bounds (Aurenhammer, Hoffmann and Aronov, "Minkowski-type theorems and
least-squares clustering", Algorithmica 1998). The prices are found in two steps:
sweeps of entropic dual ascent bring the counts close to the bounds, then rows move
along shortest paths on the graph of codewords until every count is within them.

Distances come from products of integers that float64 holds exactly, so that prices do
not depend on the number of threads.
"""

import numpy as np
import torch
from torch import Tensor

CHUNK_ROWS = 8192
SOFT_COUNT_UNIT = 2.0**20
# Tables of distances up to this size are kept, larger ones computed again.
CACHED_DISTANCES = 2**24


class Distances:
    """Squared distances of rows to codewords, up to a term per row, in fixed point.

    A number is split into two integers, ``high`` and ``low``, small enough for sums of
    their products to be exact in float64. Whatever order a matrix product adds in, its
    result is then the same.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n_features), float32
        Rows to assign.

    codebook : Tensor of shape (n_codewords, n_features), float32
        The codewords.
    """

    def __init__(self, rows: Tensor, codebook: Tensor):
        self.rows = rows
        self.bits = (52 - int(np.ceil(np.log2(2 * rows.shape[1])))) // 2
        largest = max(float(rows.abs().max()), float(codebook.abs().max()), 1e-300)
        self.unit = 2.0 ** (np.ceil(np.log2(largest)) + 1 - self.bits)
        high, low = self._split(codebook)
        self.high = high
        self.cross = torch.cat([low, high], dim=1)
        self.norms = (codebook.double() / self.unit).square().sum(1)

    def _split(self, values: Tensor) -> tuple[Tensor, Tensor]:
        values = values.double() / self.unit
        high = values.round()
        return high, ((values - high) * 2.0**self.bits).round_()

    def coarse(self, rows: Tensor) -> Tensor:
        """Distances to about 2^-20 of the largest one."""
        high = (rows.double() / self.unit).round_()
        return (self.norms - 2 * (high @ self.high.T)) * self.unit**2

    def fine(self, index: Tensor) -> Tensor:
        """Distances of some rows to about 2^-42 of the largest one."""
        high, low = self._split(self.rows[index])
        product = high @ self.high.T
        product += (torch.cat([high, low], dim=1) @ self.cross.T) * 2.0**-self.bits
        return (self.norms - 2 * product) * self.unit**2


def capacities(n_rows: int, n_codewords: int, tol: float) -> tuple[int, int]:
    """Bounds of the count of every codeword.

    Parameters
    ----------
    n_rows, n_codewords : int
        Rows to share out, and codewords to share them among.

    tol : float
        Relative deviation from ``n_rows / n_codewords`` that is allowed.

    Returns
    -------
    lower, upper : int
        ``floor((1 - tol) n / K)`` and ``ceil((1 + tol) n / K)``.
    """
    even = n_rows / n_codewords
    upper = min(np.ceil((1 + tol) * even), n_rows)
    return max(0, int(np.floor((1 - min(tol, 1)) * even))), int(upper)


def sweep_prices(
    distances: Distances,
    prices: Tensor,
    lower: int,
    upper: int,
    temperatures: list[float],
) -> Tensor:
    """Dual ascent: raise the price of a codeword that is asked for too often.

    At temperature t row i asks for codeword k with probability
    ``softmax_k(-(D_ik + p_k) / t)``; the price that brings the expected count n_k to a
    bound b is near ``p_k + t log(n_k / b)``. Bounds leave a price at zero where the
    count needs none (complementary slackness).

    Parameters
    ----------
    distances : Distances
        Rows and codewords.

    prices : Tensor of shape (n_codewords,), float64
        Where to start.

    lower, upper : int
        Bounds of the counts.

    temperatures : list of float
        One sweep each, in units of squared distance.

    Returns
    -------
    prices : Tensor of shape (n_codewords,), float64
        Improved prices.
    """
    rows = distances.rows
    n_codewords = len(prices)
    keep = len(rows) * n_codewords <= CACHED_DISTANCES
    chunks = rows.split(CHUNK_ROWS)
    cache = [distances.coarse(chunk) for chunk in chunks] if keep else None
    for temperature in temperatures:
        counts = torch.zeros_like(prices)
        for i, chunk in enumerate(chunks):
            scores = cache[i] if cache else distances.coarse(chunk)
            counts += _soft_counts(scores + prices, temperature)
        counts = (counts / SOFT_COUNT_UNIT).clamp_(min=1e-3)
        at_upper = prices + temperature * torch.log(counts / upper)
        at_lower = prices + temperature * torch.log(counts / max(lower, 1e-3))
        prices = torch.minimum(torch.maximum(at_upper, torch.zeros(())), at_lower)
    return prices


def _soft_counts(scores: Tensor, temperature: float) -> Tensor:
    """Expected counts as whole multiples of a unit, so that their order is free."""
    scores = scores.sub_(scores.amin(dim=1, keepdim=True)).div_(-temperature).float()
    weights = scores.exp_()
    weights /= weights.sum(dim=1, keepdim=True)
    return (weights * SOFT_COUNT_UNIT).round_().sum(dim=0, dtype=torch.float64)


class _Cells:
    """The cells of a power diagram while rows move between them.

    ``frontier[k, l]`` is the least increase of distance at which a row of cell k could
    move to cell l. Prices are valid as long as ``p_k <= p_l + frontier[k, l]``.
    """

    def __init__(self, distances: Distances, labels: Tensor, n_codewords: int):
        self.distances = distances
        self.table = None
        if len(labels) * n_codewords <= CACHED_DISTANCES:
            self.table = distances.fine(torch.arange(len(labels), device=labels.device))
        self.labels = labels.clone()
        order = torch.argsort(labels, stable=True)
        counts = torch.bincount(labels, minlength=n_codewords)
        self.members = list(order.split(counts.tolist()))
        self.counts = counts.cpu().numpy().copy()
        self.frontier = np.stack([self._frontier(k) for k in range(n_codewords)])

    def _increase(self, cell: int) -> Tensor:
        """Increase of distance if a member of a cell moved, per codeword."""
        members = self.members[cell]
        if self.table is None:
            distances = self.distances.fine(members)
        else:
            distances = self.table[members]
        return distances - distances[:, cell : cell + 1]

    def _frontier(self, cell: int) -> np.ndarray:
        if len(self.members[cell]) == 0:
            return np.full(len(self.members), np.inf)
        return self._increase(cell).amin(dim=0).cpu().numpy()

    def move(self, path: list[int]) -> None:
        """Move the nearest row along each edge; equal rows move together."""
        moving = []
        for origin, target in zip(path[:-1], path[1:], strict=True):
            increase = self._increase(origin)[:, target]
            moving.append(increase == increase.min())
        arriving = None
        for cell, leaves in zip(path, [*moving, None], strict=True):
            members = self.members[cell]
            left = members if leaves is None else members[~leaves]
            if arriving is not None:
                left = torch.cat([left, arriving])
                self.labels[arriving] = cell
            arriving = None if leaves is None else members[leaves]
            self.members[cell] = left.sort().values
            self.counts[cell] = len(left)
        for cell in path:
            self.frontier[cell] = self._frontier(cell)


def repair(
    distances: Distances, labels: Tensor, prices: np.ndarray, lower: int, upper: int
) -> tuple[Tensor, np.ndarray]:
    """Move rows along cheapest paths until every count is within its bounds.

    Successive shortest paths on the graph of codewords: each step raises prices by the
    length of the path, so that the assignment stays the best one for its own counts.

    Parameters
    ----------
    distances : Distances
        Rows and codewords.

    labels : Tensor of shape (n_rows,), int64
        ``argmin_k D_ik + price_k``.

    prices : ndarray of shape (n_codewords,)
        Prices that the labels come from.

    lower, upper : int
        Bounds of the counts.

    Returns
    -------
    labels : Tensor of shape (n_rows,), int64
        Repaired assignment. Where equal rows are more than a cell may hold, the counts
        are as close to the bounds as was found.

    prices : ndarray of shape (n_codewords,)
        Prices that give this assignment with the widest margins that were found.
    """
    cells = _Cells(distances, labels, len(prices))
    violation = _violation(cells.counts, lower, upper)
    best = (violation, cells.labels.clone(), prices, cells.frontier.copy())
    patience = 2 * len(prices)
    while best[0] > 0 and patience > 0:
        path, prices = _cheapest_path(cells, prices, lower, upper)
        if path is None:
            break
        cells.move(path)
        violation = _violation(cells.counts, lower, upper)
        patience -= 1
        if violation < best[0]:
            best = (violation, cells.labels.clone(), prices, cells.frontier.copy())
            patience = 2 * len(prices)
    _, labels, prices, frontier = best
    return labels, _centre(prices, frontier)


def _violation(counts: np.ndarray, lower: int, upper: int) -> int:
    return int(
        np.maximum(counts - upper, 0).sum() + np.maximum(lower - counts, 0).sum()
    )


def _cheapest_path(
    cells: _Cells, prices: np.ndarray, lower: int, upper: int
) -> tuple[list[int] | None, np.ndarray]:
    """Dijkstra from the cells that should give a row to those that should take one."""
    counts = cells.counts
    giving, taking = counts > upper, counts < upper
    if not giving.any():
        giving, taking = counts > lower, counts < lower
    length = np.maximum(cells.frontier + prices[None, :] - prices[:, None], 0)
    reached = np.where(giving, 0.0, np.inf)
    parent = np.full(len(prices), -1)
    open_ = np.ones(len(prices), dtype=bool)
    while True:
        node = int(np.where(open_, reached, np.inf).argmin())
        if not open_[node] or not np.isfinite(reached[node]):
            return None, prices
        if taking[node]:
            break
        open_[node] = False
        through = reached[node] + length[node]
        shorter = open_ & (through < reached)
        reached[shorter], parent[shorter] = through[shorter], node
    path = [node]
    while parent[path[0]] >= 0:
        path.insert(0, int(parent[path[0]]))
    return path, prices + reached[node] - np.minimum(reached, reached[node])


def _centre(prices: np.ndarray, frontier: np.ndarray, n_rounds: int = 20) -> np.ndarray:
    """Move every price to the middle of the interval that its cell allows.

    A solution of a transport problem sits where some rows are indifferent between two
    cells; in the middle no row is, and rounding cannot tip it over.
    """
    prices = prices.copy()
    frontier = frontier.copy()
    np.fill_diagonal(frontier, np.inf)
    for _ in range(n_rounds):
        for k in range(len(prices)):
            high = (prices + frontier[k]).min()
            low = (prices - frontier[:, k]).max()
            if np.isfinite(high) and np.isfinite(low) and high >= low:
                prices[k] = (high + low) / 2
    return prices - np.median(prices)
