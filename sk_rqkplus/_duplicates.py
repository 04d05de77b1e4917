"""Rows that no code can tell apart: copies, and rows closer than a distance."""

from dataclasses import asdict, dataclass
from numbers import Real

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from sklearn.utils.extmath import randomized_svd

from sk_rqkplus._groups import group_starts
from sk_rqkplus._inputs import check_matrix
from sk_rqkplus._threads import map_chunks

CHUNK_ROWS = 2048
# Close rows are looked for in so many directions, chosen on so many rows.
N_DIRECTIONS, N_PILOT = 16, 10_000
# More pairs than these say nothing of copies.
MAX_PAIRS = 20_000_000


@dataclass(frozen=True)
class CollisionFloor:
    """Collisions that no codebook can avoid.

    Attributes
    ----------
    n_rows : int
        Number of rows.

    n_distinct : int
        Number of groups of rows that are the same, or linked within ``eps``.

    n_unavoidable : int
        ``n_rows - n_distinct``: rows beyond the first of every group.

    rate : float
        ``n_unavoidable / n_rows``, a lower bound of the collision rate of codes.

    largest_group : int
        Most rows of a group.

    eps : float
        Largest distance of two rows that count as the same.
    """

    n_rows: int
    n_distinct: int
    n_unavoidable: int
    rate: float
    largest_group: int
    eps: float

    def to_dict(self) -> dict:
        """Return the figures by name.

        Returns
        -------
        figures : dict
            Plain Python values.
        """
        return asdict(self)

    def __str__(self) -> str:
        within = f" within {self.eps:g}" if self.eps else ""
        return (
            f"{self.n_unavoidable} of {self.n_rows} rows ({self.rate:.2%}) are copies "
            f"of others{within}: so many collisions are unavoidable."
        )


def collision_floor(X: np.ndarray, eps: float = 0.0) -> CollisionFloor:
    """Count the collisions that are unavoidable because embeddings are the same.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Item embeddings, of which only chunks are copied: a memory-mapped file will do.

    eps : float, default=0.0
        Rows at a Euclidean distance of at most ``eps`` count as the same, in units of
        ``X``. 0 counts rows that are equal in every bit (0.0 equals -0.0).

    Returns
    -------
    floor : CollisionFloor
        Counts, and the share of rows that must collide.

    Raises
    ------
    ValueError
        If ``X`` has missing or infinite values, or ``eps`` is negative or links too
        many pairs of rows.

    See Also
    --------
    duplicate_groups : Which rows these are.

    Notes
    -----
    With ``eps > 0`` groups are the connected components of the graph of close pairs, as
    of single linkage: the ends of a chain of close rows may be further apart.

    Examples
    --------
    >>> from sk_rqkplus.ids import collision_floor
    >>> floor = collision_floor([[0.0, 1.0], [2.0, 3.0], [0.0, 1.0], [2.0, 3.1]])
    >>> floor.n_distinct, floor.rate
    (3, 0.25)
    >>> collision_floor([[0.0, 1.0], [2.0, 3.0], [2.0, 3.1]], eps=0.2).n_unavoidable
    1
    """
    groups = duplicate_groups(X, eps)
    sizes = np.unique(groups, return_counts=True)[1]
    n_unavoidable = len(groups) - len(sizes)
    return CollisionFloor(
        n_rows=len(groups),
        n_distinct=len(sizes),
        n_unavoidable=n_unavoidable,
        rate=n_unavoidable / len(groups),
        largest_group=int(sizes.max()),
        eps=float(eps),
    )


def duplicate_groups(X: np.ndarray, eps: float = 0.0) -> np.ndarray:
    """First row that every row is the same as.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Item embeddings, as of :func:`collision_floor`.

    eps : float, default=0.0
        Largest distance of two rows that count as the same.

    Returns
    -------
    groups : ndarray of shape (n_samples,), int64
        Number of the first row of the group; its own for a row that is like no other
        before it.

    Examples
    --------
    >>> from sk_rqkplus.ids import duplicate_groups
    >>> duplicate_groups([[0.0, 1.0], [2.0, 3.0], [0.0, 1.0], [2.0, 3.1]])
    array([0, 1, 0, 3])
    """
    X = check_matrix(X)
    if not isinstance(eps, Real) or not 0 <= eps < np.inf:
        raise ValueError(
            f"eps={eps!r} should be a finite number >= 0. Give a distance in units of "
            "X, or 0 for copies."
        )
    groups = _equal_rows(X)
    if eps == 0:
        return groups
    first = np.unique(groups)
    pairs = _close_pairs(X, first, float(eps))
    graph = coo_array((np.ones(len(pairs), bool), pairs.T), shape=(len(first),) * 2)
    component = connected_components(graph, directed=False)[1]
    lowest = first[np.unique(component, return_index=True)[1]]
    return lowest[component[np.searchsorted(first, groups)]]


def _equal_rows(X: np.ndarray) -> np.ndarray:
    """First row that every row equals, by a hash that is checked."""
    hashes = np.empty(len(X), dtype=np.uint64)
    rng = np.random.RandomState(0)
    weights = rng.randint(2**64, size=X.shape[1] * X.itemsize // 4, dtype=np.uint64)

    def fill(chunk: slice) -> None:
        words = _positive_zeros(X[chunk]).view(np.uint32)
        hashes[chunk] = np.einsum("ij,j->i", words, weights)

    _run(fill, len(X))
    order = np.argsort(hashes, kind="stable")
    again = np.flatnonzero(np.diff(hashes[order]) == 0) + 1
    differs = np.zeros(len(again), dtype=bool)

    def compare(chunk: slice) -> None:
        at = again[chunk]
        differs[chunk] = (X[order[at]] != X[order[at - 1]]).any(axis=1)

    _run(compare, len(again))
    starts = group_starts(hashes[order])
    sizes = np.diff(starts, append=len(X))
    groups = np.empty(len(X), dtype=np.int64)
    groups[order] = np.repeat(order[starts], sizes)
    for start in np.unique(groups[order[again[differs]]]):
        rows = np.flatnonzero(groups == start)
        _, first, inverse = np.unique(
            _positive_zeros(X[rows]), axis=0, return_index=True, return_inverse=True
        )
        groups[rows] = rows[first[inverse.ravel()]]
    return groups


def _positive_zeros(rows: np.ndarray) -> np.ndarray:
    """A copy in which equal rows have equal bits."""
    return np.ascontiguousarray(rows) + rows.dtype.type(0)


def _close_pairs(X: np.ndarray, rows: np.ndarray, eps: float) -> np.ndarray:
    """Pairs of some rows within a distance, as positions among them."""
    projected, slack = _project(X, rows)
    tree, radius = cKDTree(projected), eps + slack
    pairs, n_pairs = [np.empty((0, 2), dtype=np.int64)], 0
    for start in range(0, len(rows), CHUNK_ROWS):
        chunk = projected[start : start + CHUNK_ROWS]
        sizes = tree.query_ball_point(chunk, radius, workers=-1, return_length=True)
        n_pairs += int(sizes.sum()) - len(chunk)
        if n_pairs > MAX_PAIRS:
            raise ValueError(
                f"eps={eps:g} leaves more than {MAX_PAIRS} pairs of rows to compare. "
                "Lower eps."
            )
        crowded = np.flatnonzero(sizes > 1)
        others = tree.query_ball_point(chunk[crowded], radius)
        one = np.repeat(start + crowded, sizes[crowded])
        other = np.concatenate([np.empty(0, dtype=np.int64), *others]).astype(np.int64)
        candidates = np.column_stack([one, other])[one < other]
        pairs.append(candidates[_are_close(X, rows[candidates], eps)])
    return np.concatenate(pairs)


def _are_close(X: np.ndarray, pairs: np.ndarray, eps: float) -> np.ndarray:
    """Which pairs of rows are within a distance."""
    close = np.empty(len(pairs), dtype=bool)

    def verify(chunk: slice) -> None:
        one, other = pairs[chunk].T
        difference = X[one].astype(np.float64) - X[other]
        close[chunk] = np.einsum("ij,ij->i", difference, difference) <= eps**2

    _run(verify, len(pairs))
    return close


def _project(X: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Rows along the directions of most variance, and a bound of the rounding.

    A projection never lengthens a distance: what is close is close in it.
    """
    step = -(-len(rows) // N_PILOT)
    pilot = X[rows[::step]].astype(np.float64)
    origin = pilot.mean(axis=0)
    n_directions = min(N_DIRECTIONS, *pilot.shape)
    directions = randomized_svd(pilot - origin, n_directions, random_state=0)[2].T
    projected = np.empty((len(rows), n_directions))

    def fill(chunk: slice) -> None:
        projected[chunk] = (X[rows[chunk]].astype(np.float64) - origin) @ directions

    _run(fill, len(rows))
    return projected, 1e-10 * float(np.abs(projected).max())


def _run(function, n_rows: int) -> None:
    for _ in map_chunks(function, n_rows, CHUNK_ROWS):
        pass
