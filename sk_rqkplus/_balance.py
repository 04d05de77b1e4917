"""Prices that balance one codebook: a power diagram with bounded cell sizes.

For any bounds ``lower <= count <= upper`` there is one price per codeword such that
``argmin_k ||r - c_k||^2 + price_k`` is the assignment of least total distortion within
these bounds (Aurenhammer, Hoffmann and Aronov, "Minkowski-type theorems and
least-squares clustering", Algorithmica 1998). The prices are found in two steps:
Newton's method on an entropic dual brings the counts close to the bounds, then single
rows move along cheapest paths (``_cells``) until every count is within them.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from sk_rqkplus._moments import WINDOW, Moments, moments
from sk_rqkplus._scores import Scores
from sk_rqkplus._threads import one_thread

# Temperatures are in units of the mean gap between the two nearest codewords: prices
# are annealed from FIRST, those that are nearly right from NEAR, and the coldest
# temperature leaves so many rows of a codeword undecided. Where there are many rows it
# is COLDEST, since steps are as short as it is cold.
FIRST, NEAR, WARMEST, COOLING, UNDECIDED_ROWS = 0.25, 0.06, 1.0, 0.25, 0.5
COLDEST = 0.002
# Shares of the rows are rounded by less than this.
ROUNDING = 1e-12
# Where it got too cold, it becomes warmer by this factor, so often at most.
SLOWER, MOST_WARMINGS = 0.5, 4
# Largest excess, as a share of a codeword's rows, at which it gets cooler or warmer.
SETTLED, LOOSE, UNSETTLED = 0.1, 0.2, 8.0
# Steps at most; fewer for prices of codewords that will move again.
MOST_STEPS, FEW_STEPS = 40, 20
# Largest excess, in rows, before the last step.
LAST_ROWS = 16
# Newton's equations are damped, less where steps succeed, and more if not.
LEAST_DAMPING, MOST_DAMPING, LEAST_HESITATION = 1e-3, 0.05, 0.3
# Steps are in units of the temperature. A codeword has overshot if so large a share of
# its excess turns into one of the other sign, and gets nowhere if so little changes.
LONGEST_STEP, OVERSHOT, UNMOVED = 4.0, 0.25, 1e-3
# Excess, as a share of a codeword's rows, that Newton's method has failed at, and that
# it will fail at. So many times so many codewords are fetched, of so many scores.
LONELY, FAR_OFF = 0.05, 1.0
FETCH_ROUNDS, MOST_LONELY, FETCHED_SCORES = 3, 64, 2**24
# Newton's equations are those of so many rows that hesitate. They are solved up to
# such a share.
CURVATURE_ROWS, SOLVED, MOST_PRODUCTS = 2**13, 0.05, 100


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
    # 0.2 times ten is two: rounding must not take a row away.
    noise = ROUNDING * even
    upper = min(np.ceil((1 + tol) * even - noise), n_rows)
    return int(np.floor((1 - min(tol, 1)) * even + noise)), int(upper)


@dataclass
class Bounds:
    """Bounds of the counts, and which of them prices ask for.

    A price above zero asks for ``upper`` rows, one below zero for ``lower``, and a
    price of zero for anything between (complementary slackness).
    """

    n_rows: int
    n_codewords: int
    tol: float = 0.0
    lower: int = field(init=False)
    upper: int = field(init=False)

    def __post_init__(self) -> None:
        self.lower, self.upper = capacities(self.n_rows, self.n_codewords, self.tol)

    def anchor(self, prices: np.ndarray) -> np.ndarray:
        """Shift prices, which moves no row, so that what they ask for can add up."""
        if (prices == 0).any() and self._asked(prices, 0) <= self.n_rows <= self._asked(
            prices, 1
        ):
            return prices
        # The codeword in order of price at which upper turns into lower bounds.
        room = self.n_rows - self.lower * self.n_codewords
        n_upper = int(room // max(self.upper - self.lower, 1))
        ordered = np.sort(prices)[::-1]
        return prices - ordered[min(n_upper, self.n_codewords - 1)]

    def _asked(self, prices: np.ndarray, at_zero: int) -> int:
        upper = (prices > 0) | ((prices == 0) & bool(at_zero))
        return int(np.where(upper, self.upper, self.lower).sum())

    def excess(self, prices: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """What the counts have beyond what the prices ask for."""
        return counts - self.wanted(prices, counts)

    def wanted(self, prices: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Counts that the prices ask for, as near as possible to some counts."""
        free = np.clip(counts, self.lower, self.upper)
        asked = np.where(prices > 0, self.upper, self.lower)
        return np.where(prices == 0, free, asked)

    def error(self, excess: np.ndarray) -> float:
        """Largest excess, relative to an equal share of the rows."""
        return float(np.abs(excess).max() * self.n_codewords / self.n_rows)

    def violation(self, counts: np.ndarray) -> int:
        """By how much counts are outside of the bounds, in total."""
        beyond = np.maximum(counts - self.upper, 0) + np.maximum(self.lower - counts, 0)
        return int(beyond.sum())

    def gap(self, prices: np.ndarray, counts: np.ndarray) -> float:
        """Duality gap of an assignment of least score at such prices, at most.

        Counts beyond the bounds add to it as those within do, although the assignment
        costs less for them.
        """
        above, below = np.maximum(prices, 0), np.maximum(-prices, 0)
        slack = above * abs(self.upper - counts) + below * abs(counts - self.lower)
        return float(slack.sum())


def lower_imbalance(
    scores: Scores,
    prices: Tensor | None,
    tol: float,
    n_before: int = 0,
    *,
    loose: bool = False,
) -> Tensor:
    """Prices that bring the counts close to their bounds.

    At temperature t row i asks for codeword k with probability
    ``softmax_k(-(D_ik + p_k) / t)``. The expected counts are the gradient of a smooth
    concave function of the prices, whose maximum is found by Newton's method while t
    falls.

    Parameters
    ----------
    scores : Scores
        Rows and codewords.

    prices : Tensor of shape (n_codewords,), float64 or None
        Where to start; None anneals from zero.

    tol : float
        Relative deviation from equal counts that is allowed.

    n_before : int, optional
        Number of rows that the prices come from.

    loose : bool, default=False
        Cool down early, for prices of codewords that will move again.

    Returns
    -------
    prices : Tensor of shape (n_codewords,), float64
        Improved prices.
    """
    n_codewords = len(scores.words)
    bounds = Bounds(len(scores), n_codewords, tol)
    gap, share = scores.typical_gap(), len(scores) / n_codewords
    coldest = np.clip(UNDECIDED_ROWS * n_codewords / len(scores), COLDEST, 0.1)
    if prices is None:
        prices, heat = torch.zeros_like(scores.words.prices), FIRST
    else:
        prices = fetch(scores, prices, bounds, 4 + FAR_OFF * share, strict=False)
        # Counts of m rows are off by about sqrt(m), which is as far as to look.
        heat = max(coldest, min(NEAR, np.sqrt(n_codewords / max(n_before, 1))))
    settled = LOOSE if loose else SETTLED
    finished = LOOSE if loose else min(SETTLED, LAST_ROWS * n_codewords / len(scores))
    newton, cooling = _Newton(scores, bounds, prices.cpu().numpy()), COOLING
    warmings = MOST_WARMINGS
    for _ in range(FEW_STEPS if loose else MOST_STEPS):
        error = newton.look(heat * gap)
        # Newton's method converges from nearby: cool down only when it has.
        if error < (settled if heat > coldest else finished):
            if heat <= coldest:
                break
            heat = max(heat * cooling, coldest)
        elif error > UNSETTLED and heat < WARMEST and warmings > 0:
            # And cool down more slowly, so as not to be too cold at once again.
            cooling, warmings = SLOWER, warmings - 1
            heat = min(heat / SLOWER, WARMEST)
        newton.step()
    prices = torch.as_tensor(newton.prices, device=scores.words.prices.device)
    return prices if loose else fetch(scores, prices, bounds, 4 + LONELY * share)


def fetch(
    scores: Scores,
    prices: Tensor,
    bounds: Bounds,
    allowed: float,
    *,
    group: np.ndarray | None = None,
    strict: bool = True,
) -> Tensor:
    """Set the prices of lonely codewords, or groups of them, one by one to the row.

    No row hesitates about codewords that are far from all others, so that Newton's
    method does not see what their prices should be.

    Parameters
    ----------
    scores : Scores
        Rows and codewords.

    prices : Tensor of shape (n_codewords,), float64
        Where to start.

    bounds : Bounds
        Bounds of the counts.

    allowed : float
        Rows too many or too few that a codeword may have.

    group : ndarray of shape (n_codewords,), int, optional
        Group of every codeword, whose prices change alike; None means that each is its
        own.

    strict : bool, default=True
        Whether what prices ask for counts, or the bounds alone.

    Returns
    -------
    prices : Tensor of shape (n_codewords,), float64
        Improved prices.
    """
    n_rows, n_codewords = len(scores), len(scores.words)
    group = np.arange(n_codewords) if group is None else group
    most = max(1, min(MOST_LONELY, FETCHED_SCORES // n_rows))
    for _ in range(FETCH_ROUNDS):
        found = prices.cpu().numpy().copy()
        labels = scores.labels(prices)
        counts = torch.bincount(labels, minlength=n_codewords).cpu().numpy()
        inside = np.clip(counts, bounds.lower, bounds.upper)
        wanted = bounds.wanted(found, counts) if strict else inside
        excess = np.abs(np.bincount(group, counts - wanted))
        lonely = np.flatnonzero(excess > allowed)
        if len(lonely) == 0:
            break
        lonely = lonely[np.argsort(-excess[lonely], kind="stable")[:most]]
        cells = [np.flatnonzero(group == one).tolist() for one in lonely]
        asked = np.bincount(group, wanted)[lonely]
        change = np.zeros(len(excess))
        change[lonely] = _changes(scores, prices, cells, asked)
        found += change[group]
        prices = torch.as_tensor(bounds.anchor(found), device=prices.device)
    return prices


def _changes(
    scores: Scores, prices: Tensor, cells: list[list[int]], wanted: np.ndarray
) -> np.ndarray:
    """Changes of the prices of groups of cells that give them as many rows as wanted.

    Each is found with those before it already changed.
    """
    # One row per group, and one for the nearest of all other cells.
    table = scores.join(_scores_of, prices, cells).T.contiguous()
    change = np.zeros(len(cells))
    for number in range(len(cells)):
        own = table[number].clone()
        table[number] = torch.inf
        distance = own - table.amin(dim=0)
        n_near = min(int(wanted[number]) + 1, len(scores))
        near = distance.topk(n_near, largest=False).values
        change[number] = -float(near[-2:].double().mean())
        table[number] = own + change[number]
    return change


def _scores_of(tile: Tensor, cells: list[list[int]]) -> Tensor:
    """Least scores of groups of cells, and the least of all others."""
    least = [tile[:, some].amin(dim=1) for some in cells]
    tile[:, sum(cells, [])] = torch.inf
    return torch.stack([*least, tile.amin(dim=1)], dim=1)


class _Newton:
    """Newton's method on the entropic dual.

    Parameters
    ----------
    scores : Scores
        Rows and codewords.

    bounds : Bounds
        Bounds of the counts.

    prices : ndarray of shape (n_codewords,), float64
        Where to start.
    """

    def __init__(self, scores: Scores, bounds: Bounds, prices: np.ndarray):
        self.scores, self.bounds, self.prices = scores, bounds, prices
        self.excess, self.damping = np.zeros(len(prices)), MOST_DAMPING
        self.longest = np.full(len(prices), LONGEST_STEP)

    def look(self, temperature: float) -> float:
        """Imbalance of the prices, relative to an equal share of the rows."""
        most = CURVATURE_ROWS / len(self.scores)
        device = self.scores.words.prices.device
        prices = torch.as_tensor(self.prices, device=device)
        self.temperature = temperature
        reach = WINDOW * temperature
        self.moments = self.scores.total(moments, prices, reach, temperature, most)
        self._compare(self.bounds.excess(self.prices, self.moments.counts))
        return self.bounds.error(self.excess)

    def _compare(self, excess: np.ndarray) -> None:
        """Learn from what the last step has come to."""
        before, self.excess = self.excess, excess
        better = np.abs(excess).sum() < np.abs(before).sum()
        damping = self.damping * (0.25 if better else 4.0)
        self.damping = min(max(damping, LEAST_DAMPING), MOST_DAMPING)
        # Two codewords may hand rows back and forth for ever, and one that is far from
        # all rows may get nowhere.
        turned = -excess * before > OVERSHOT * np.square(before)
        lost = (excess != 0) & (np.abs(excess - before) < UNMOVED * np.abs(before))
        most = np.where(lost, np.inf, LONGEST_STEP)
        longer = np.minimum(2 * self.longest, most)
        self.longest = np.where(turned, self.longest / 2, longer)

    def step(self) -> None:
        """Go to better prices."""
        before = self.prices
        active = (before != 0) | (self.excess != 0)
        step = _solve(self.moments, self.excess, active, self.damping)
        moved = before + self.temperature * np.clip(step, -self.longest, self.longest)
        # On the other side of zero they ask for another count.
        side = np.where(before == 0, self.excess, before)
        self.prices = self.bounds.anchor(np.where(moved * side < 0, 0.0, moved))


def _solve(
    moments: Moments, excess: np.ndarray, active: np.ndarray, damping: float
) -> np.ndarray:
    """Change of prices, in units of the temperature, that takes away some excess.

    By conjugate gradients, whose products with sparse shares take the place of a matrix
    of K x K numbers. Prices that are not active stay.
    """
    shares = moments.shares()
    columns = shares.T.tocsr()
    held = columns @ shares.sum(axis=1)
    # Codewords that hardly anyone hesitates about would be thrown far off.
    diagonal = (1 + damping) * held + LEAST_HESITATION
    curvature = diagonal - shares.power(2).sum(axis=0)

    def product(step: np.ndarray) -> np.ndarray:
        return active * (diagonal * step - columns @ (shares @ step))

    shape = len(excess), len(excess)
    matrix = LinearOperator(shape, product, dtype=excess.dtype)
    roughly = LinearOperator(shape, lambda step: step / curvature, dtype=excess.dtype)
    wanted = np.where(active, excess, 0.0)
    with one_thread():
        step, _ = cg(matrix, wanted, rtol=SOLVED, maxiter=MOST_PRODUCTS, M=roughly)
    return step
