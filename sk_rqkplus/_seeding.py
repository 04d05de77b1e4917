"""Where Lloyd iterations begin: leading directions, and k-means++ along them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sk_rqkplus._threads import join_chunks

CHUNK_ROWS = 2048
# k-means++ looks at so many rows and directions.
INIT_ROWS, INIT_FEATURES = 4096, 16
# Rows that the leading directions are found from.
BASIS_ROWS = 4096


def leading_directions(
    rows: Tensor, n_directions: int, rng: np.random.RandomState
) -> Tensor | None:
    """Orthonormal directions of largest spread, by subspace iteration.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n_features), float32
        Rows; a few thousand of them are looked at.

    n_directions : int
        How many directions.

    rng : RandomState
        Source of the first guess.

    Returns
    -------
    directions : Tensor of shape (n_features, n_directions), float32 or None
        At most as many as there are features; None where these are few.

    References
    ----------
    Halko, Martinsson and Tropp, "Finding structure with randomness", SIAM Review 2011,
    algorithm 4.4.
    """
    n_features = rows.shape[1]
    if n_features <= INIT_FEATURES:
        return None
    # On a CPU: libraries of GPUs do not promise the same bits every time.
    sample = rows[:: max(1, len(rows) // BASIS_ROWS)][:BASIS_ROWS].double().cpu()
    guess = rng.standard_normal((n_features, min(n_features, n_directions + 8)))
    basis = torch.from_numpy(guess)
    for _ in range(3):
        basis = torch.linalg.qr(sample.T @ (sample @ basis)).Q
    image = sample @ basis
    _, order = torch.linalg.eigh(image.T @ image)
    return (basis @ order.flip(1)[:, :n_directions]).float().to(rows.device)


def project(rows: Tensor, directions: Tensor | None) -> Tensor:
    """Coordinates of rows along some directions.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n_features), float32
        Rows.

    directions : Tensor of shape (n_features, n_directions), float32 or None
        None stands for the axes.

    Returns
    -------
    points : Tensor of shape (n_rows, n_directions), float32
        Coordinates.
    """
    if directions is None:
        return rows
    return join_chunks(
        lambda chunk: rows[chunk] @ directions,
        len(rows),
        CHUNK_ROWS,
        rows.device,
    )


def kmeans_plus_plus(
    points: Tensor, size: int, rng: np.random.RandomState
) -> np.ndarray:
    """Greedy k-means++ on a subsample, in the first few coordinates.

    Parameters
    ----------
    points : Tensor of shape (n_rows, n_features), float32
        Rows to draw from, their leading coordinates first.

    size : int
        Number of codewords.

    rng : RandomState
        Source of randomness.

    Returns
    -------
    chosen : ndarray of shape (size,), int64
        Indices of ``size`` different points.

    References
    ----------
    Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", 2007.
    """
    n_rows = min(len(points), max(INIT_ROWS, 4 * size))
    index = np.sort(rng.choice(len(points), size=n_rows, replace=False))
    sample = points[torch.as_tensor(index, device=points.device)]
    columns = sample[:, :INIT_FEATURES].cpu().numpy().T.copy()
    n_trials = int(np.clip(1024 // size, 1, 3))
    chosen = [rng.randint(n_rows)]
    closest = _squared_distances(columns, chosen)[0]
    while len(chosen) < size:
        cumulated = np.cumsum(closest, dtype=np.float64)
        if cumulated[-1] == 0:
            # What is left cannot be told apart in these coordinates.
            rest = np.setdiff1d(np.arange(n_rows), chosen)
            chosen += rng.choice(rest, size - len(chosen), replace=False).tolist()
            break
        draws = rng.random_sample(n_trials) * cumulated[-1]
        candidates = np.searchsorted(cumulated, draws, side="right")
        candidates = np.minimum(candidates, n_rows - 1)
        improved = np.minimum(_squared_distances(columns, candidates), closest)
        best = int(improved.sum(axis=1).argmin())
        chosen.append(int(candidates[best]))
        closest = improved[best]
    return index[chosen]


def _squared_distances(
    columns: np.ndarray, index: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Squared distances of some points to all, by differences: zero for copies."""
    total = np.zeros((len(index), columns.shape[1]), dtype=np.float32)
    for column in columns:
        total += np.square(column - column[index][:, None])
    return total
