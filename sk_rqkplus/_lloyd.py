"""Fit one codebook: k-means++, Lloyd iterations, prices.

Labels are exact (``_nearest``) and sums of members are taken in float64 over chunks of
fixed size, so that a codebook does not depend on the number of threads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from sk_rqkplus._balance import Distances, capacities, repair, sweep_prices
from sk_rqkplus._nearest import Codewords, nearest

CHUNK_ROWS = 16_384
# k-means++ looks at this many rows, projected where they have more values.
INIT_ROWS, INIT_VALUES = 8192, 2**19
# Lloyd settles on this many rows per codeword before it sees all of them.
COARSE_ROWS = 128
# Balanced Lloyd: the prices of the first iteration are annealed from warm to cool,
# later ones follow the codewords at the cool end, and the last ones are exact.
# Temperatures are in units of the mean gap between the two nearest codewords.
BALANCED_ITERATIONS, EXACT_ITERATIONS = 12, 2
FIRST_SWEEPS, SWEEPS, EXACT_SWEEPS = 60, 10, 60
WARM, COOL, COLD = 2.0, 0.1, 0.02


@dataclass
class Stats:
    """What Lloyd needs to know of a set of rows: a commutative monoid under ``+``."""

    sums: Tensor
    counts: Tensor
    squares: float

    def __add__(self, other: "Stats") -> "Stats":
        return Stats(
            self.sums + other.sums,
            self.counts + other.counts,
            self.squares + other.squares,
        )

    def inertia(self, codebook: Tensor) -> float:
        """Sum of squared distances of the rows to their codewords."""
        book = codebook.double()
        cross = (self.sums * book).sum(1) * 2 - book.square().sum(1) * self.counts
        return self.squares - float(cross.sum())


@dataclass
class Level:
    """A fitted codebook.

    Attributes
    ----------
    codebook : Tensor of shape (n_codewords, n_features), float32
    prices : Tensor of shape (n_codewords,), float64
    n_iter : int
        Lloyd iterations over all rows.
    inertia : float
        Sum of squared distances at the last of them.
    """

    codebook: Tensor
    prices: Tensor
    n_iter: int
    inertia: float


def partial_stats(rows: Tensor, labels: Tensor, n_codewords: int) -> Stats:
    """Sums, counts and squares of some rows.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n_features), float32
        Rows.

    labels : Tensor of shape (n_rows,), int64
        Codeword of each.

    n_codewords : int
        Size of the codebook.

    Returns
    -------
    stats : Stats
        Float64, added in the order of the rows.
    """
    parts = []
    for chunk, label in zip(
        rows.split(CHUNK_ROWS), labels.split(CHUNK_ROWS), strict=True
    ):
        counts = torch.bincount(label, minlength=n_codewords)
        values = chunk.double()
        sums = torch.nn.functional.embedding_bag(
            torch.argsort(label, stable=True),
            values,
            torch.cumsum(counts, 0) - counts,
            mode="sum",
        )
        squares = float(values.square().sum(1).cpu().numpy().sum())
        parts.append(Stats(sums, counts, squares))
    return reduce(Stats.__add__, parts)


def fit_codebook(
    rows: Tensor,
    size: int,
    rng: np.random.RandomState,
    *,
    init: str = "k-means++",
    n_init: int = 1,
    max_iter: int = 25,
    tol: float = 1e-4,
    balance_tol: float | None = None,
    tick: Callable[[], object] = lambda: None,
) -> Level:
    """Learn one codebook.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n_features), float32
        What the levels before left over, scaled to the order of one.

    size : int
        Number of codewords, at most the number of distinct rows.

    rng : RandomState
        Source of all randomness.

    init : {"k-means++", "random"}, default="k-means++"
        How the first codewords are drawn.

    n_init : int, default=1
        Runs, of which the one with the least inertia is kept.

    max_iter : int, default=25
        Most Lloyd iterations of a run.

    tol : float, default=1e-4
        A run ends when an iteration lowers the inertia by less than this share.

    balance_tol : float, optional
        Balance the level, with this tolerance; None leaves it unbalanced.

    tick : callable, optional
        Called after every iteration.

    Returns
    -------
    level : Level
        The codebook, its prices and how it came about.
    """
    runs = []
    for _ in range(n_init):
        start = kmeans_plus_plus(rows, size, rng) if init == "k-means++" else None
        start = _draw(rows, size, rng) if start is None else start
        if len(rows) > 4 * COARSE_ROWS * size:
            coarse = _draw(rows, COARSE_ROWS * size, rng)
            start = lloyd(coarse, start, max_iter, tol).codebook
        runs.append(lloyd(rows, start, max_iter, tol, tick))
    level = min(runs, key=lambda run: run.inertia)
    if balance_tol is not None and size > 1:
        level = _balanced(rows, level, balance_tol, tick)
    return level


def lloyd(
    rows: Tensor,
    codebook: Tensor,
    max_iter: int,
    tol: float,
    tick: Callable[[], object] = lambda: None,
) -> Level:
    """Lloyd iterations from given codewords, until the inertia settles."""
    prices = torch.zeros(len(codebook), dtype=torch.float64, device=rows.device)
    before = np.inf
    for n_iter in range(1, max_iter + 1):
        labels = nearest(rows, Codewords(codebook))
        codebook, inertia = _update(rows, labels, codebook)
        tick()
        # A rise, after an empty codeword was moved, does not end the run.
        if n_iter > 1 and 0 <= before - inertia <= tol * before:
            break
        before = inertia
    return Level(codebook, prices, n_iter, inertia)


def _update(rows: Tensor, labels: Tensor, codebook: Tensor) -> tuple[Tensor, float]:
    """Codewords at the mean of their members, and the inertia before the move.

    An empty codeword goes to the row that is worst represented.
    """
    stats = partial_stats(rows, labels, len(codebook))
    means = (stats.sums / stats.counts.clamp(min=1)[:, None]).float()
    empty = torch.nonzero(stats.counts == 0).squeeze(1)
    if len(empty):
        means[empty] = rows[_worst_rows(rows, labels, codebook, len(empty))]
    return means, stats.inertia(codebook)


def _worst_rows(rows: Tensor, labels: Tensor, codebook: Tensor, n_rows: int) -> Tensor:
    """Rows of largest error, all of them different where there are so many."""
    errors = torch.cat(
        [
            (chunk - codebook[label]).square().sum(1)
            for chunk, label in zip(
                rows.split(CHUNK_ROWS), labels.split(CHUNK_ROWS), strict=True
            )
        ]
    )
    # A spare for each copy that may be among them.
    worst = torch.argsort(errors, descending=True, stable=True)[: 4 * n_rows]
    values = (rows[worst] + 0.0).cpu().numpy()
    _, first = np.unique(values, axis=0, return_index=True)
    spare = np.setdiff1d(np.arange(len(worst)), first)
    chosen = np.concatenate([np.sort(first), spare])[:n_rows]
    return worst[torch.as_tensor(chosen, device=worst.device)]


def _balanced(
    rows: Tensor, level: Level, balance_tol: float, tick: Callable[[], object]
) -> Level:
    """Turn an unconstrained codebook into a balanced one.

    A few Lloyd iterations at prices that improve with them, then the prices of the
    final codewords to the last row.
    """
    codebook, inertia = level.codebook, level.inertia
    prices = balance_prices(rows, codebook, balance_tol, exact=False)
    for left in reversed(range(BALANCED_ITERATIONS)):
        labels = nearest(rows, Codewords(codebook, prices))
        codebook, inertia = _update(rows, labels, codebook)
        prices = balance_prices(
            rows, codebook, balance_tol, prices, exact=left <= EXACT_ITERATIONS
        )
        tick()
    return Level(codebook, prices, level.n_iter + BALANCED_ITERATIONS, inertia)


def balance_prices(
    rows: Tensor,
    codebook: Tensor,
    balance_tol: float,
    prices: Tensor | None = None,
    *,
    exact: bool = True,
) -> Tensor:
    """Prices under which the counts of all codewords are within their bounds.

    Rows of which there are more copies than one codeword may hold are left out of the
    counts: equal rows cannot be told apart by any price.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n_features), float32
        Rows to share out.

    codebook : Tensor of shape (n_codewords, n_features), float32
        The codewords.

    balance_tol : float
        Relative deviation from equal counts that is allowed.

    prices : Tensor of shape (n_codewords,), float64, optional
        Where to start; None anneals from zero.

    exact : bool, default=True
        Whether to move single rows in the end until every count is within its bounds.

    Returns
    -------
    prices : Tensor of shape (n_codewords,), float64
        One price per codeword, in squared units of the rows.
    """
    _, upper = capacities(len(rows), len(codebook), balance_tol)
    rows = rows[~crowded(rows, upper)]
    if prices is None:
        prices = torch.zeros(len(codebook), dtype=torch.float64, device=rows.device)
        heat = np.geomspace(WARM, COOL, FIRST_SWEEPS)
    else:
        heat = np.full(SWEEPS, COOL)
    if exact:
        heat = np.concatenate([heat, np.geomspace(COOL, COLD, EXACT_SWEEPS)])
    if len(rows) == 0:
        return prices
    lower, upper = capacities(len(rows), len(codebook), balance_tol)
    distances = Distances(rows, codebook)
    heat = heat * _typical_gap(distances)
    prices = sweep_prices(distances, prices, lower, upper, heat.tolist())
    if exact:
        labels = nearest(rows, Codewords(codebook, prices))
        _, found = repair(distances, labels, prices.cpu().numpy(), lower, upper)
        prices = torch.as_tensor(found, device=rows.device)
    return prices


def crowded(rows: Tensor, limit: int) -> Tensor:
    """Which rows have more than ``limit`` copies, themselves included.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n_features)
        Rows.

    limit : int
        Most copies that are not a crowd.

    Returns
    -------
    mask : Tensor of shape (n_rows,), bool
        True for the rows of such a group.
    """
    mask = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    # Equal rows have equal norms, which are cheaper to sort.
    norms = rows.double().square().sum(1)
    values, inverse, counts = norms.unique(return_inverse=True, return_counts=True)
    for value in torch.nonzero(counts > limit).squeeze(1).tolist():
        group = torch.nonzero(inverse == value).squeeze(1)
        _, copies, sizes = rows[group].unique(
            dim=0, return_inverse=True, return_counts=True
        )
        mask[group] = sizes[copies] > limit
    return mask


def _typical_gap(distances: Distances) -> float:
    """Mean gap between the best two codewords over the first rows."""
    scores = distances.coarse(distances.rows[:CHUNK_ROWS])
    best = scores.topk(2, dim=1, largest=False).values.cpu().numpy()
    return max(float((best[:, 1] - best[:, 0]).mean()), 1e-30)


def _draw(rows: Tensor, n_rows: int, rng: np.random.RandomState) -> Tensor:
    """A random subset of the rows, in their order."""
    index = np.sort(rng.choice(len(rows), size=n_rows, replace=False))
    return rows[torch.as_tensor(index, device=rows.device)]


def kmeans_plus_plus(rows: Tensor, size: int, rng: np.random.RandomState) -> Tensor:
    """Greedy k-means++ on a subsample, in a random projection.

    Rows are rounded to 15 bits and projected with random signs, which gives integers
    that float64 multiplies exactly: the draw is the same for any thread count.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n_features), float32
        Rows to draw from.

    size : int
        Number of codewords.

    rng : RandomState
        Source of randomness.

    Returns
    -------
    codebook : Tensor of shape (size, n_features), float32
        ``size`` of the rows.

    References
    ----------
    Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", 2007.
    """
    sample = _draw(rows, min(len(rows), max(INIT_ROWS, 4 * size)), rng)
    points = _project(sample.cpu().numpy(), rng)
    norms = np.square(points).sum(axis=1)
    n_trials = int(np.clip(2048 // size, 1, 2 + np.log(size)))
    chosen = [rng.randint(len(points))]
    closest = _to_candidates(points, norms, chosen)[:, 0]
    while len(chosen) < size:
        if closest.sum() == 0:
            # What is left cannot be told apart in the projection.
            rest = np.setdiff1d(np.arange(len(points)), chosen)
            chosen += rng.choice(rest, size - len(chosen), replace=False).tolist()
            break
        cumulated = np.cumsum(closest)
        draws = rng.random_sample(n_trials) * cumulated[-1]
        candidates = np.searchsorted(cumulated, draws, side="right")
        candidates = np.minimum(candidates, len(points) - 1)
        improved = _to_candidates(points, norms, candidates)
        np.minimum(improved, closest[:, None], out=improved)
        best = int(improved.sum(axis=0).argmin())
        chosen.append(int(candidates[best]))
        closest = improved[:, best].copy()
    return sample[torch.as_tensor(chosen, device=sample.device)]


def _project(sample: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Integers below 2^20, in float64, that keep the distances of the rows."""
    n_features = sample.shape[1]
    largest = np.abs(sample).max()
    points = np.rint(sample * (2.0**15 / largest if largest > 0 else 1.0))
    points = points.astype(np.float64)
    n_kept = max(16, INIT_VALUES // len(sample))
    if n_kept < n_features:
        points = points @ (rng.randint(2, size=(n_features, n_kept)) * 2.0 - 1)
    excess = np.abs(points).max() / 2.0**20
    return np.rint(points / excess) if excess > 1 else points


def _to_candidates(points: np.ndarray, norms: np.ndarray, index) -> np.ndarray:
    """Squared distances of all points to some of them, exact in float64."""
    return norms[:, None] + norms[index] - 2 * (points @ points[index].T)


def count_distinct(rows: Tensor, limit: int) -> int:
    """Number of distinct rows, or ``limit`` as soon as there are that many."""
    distinct = np.empty((0, rows.shape[1]), dtype=np.float32)
    start, step = 0, 2 * limit
    while start < len(rows) and len(distinct) < limit:
        # Adding zero turns -0.0 into 0.0, which np.unique would keep apart.
        chunk = (rows[start : start + step] + 0.0).cpu().numpy()
        distinct = np.unique(np.concatenate([distinct, chunk]), axis=0)
        start, step = start + step, 2 * step
    return min(len(distinct), limit)
