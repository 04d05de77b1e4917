"""What reports and displays show: usage, errors, examples and curves, as plain data."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state
from sklearn.utils.random import sample_without_replacement
from sklearn.utils.validation import check_is_fitted

from sk_rqkplus._base import CHUNK_ROWS, BaseQuantizer
from sk_rqkplus._neighbours import Points
from sk_rqkplus._pairs import similarities
from sk_rqkplus._titles import Titles, spread


def quantizer_and_rows(estimator: Any, X: Any) -> tuple[BaseQuantizer, np.ndarray]:
    """Quantiser at the end of a Pipeline or a search, and X as it arrives there.

    Parameters
    ----------
    estimator : estimator
        Fitted estimator, Pipeline that ends in one, or search over either.

    X : array-like of shape (n_samples, n_features)
        Rows as the estimator takes them.

    Returns
    -------
    quantizer : BaseQuantizer
        The fitted quantiser.

    rows : ndarray of shape (n_samples, n_features)
        Rows as the quantiser takes them; X itself where nothing comes before.

    Raises
    ------
    TypeError
        If the estimator does not end in a quantiser.
    """
    estimator = getattr(estimator, "best_estimator_", estimator)
    if isinstance(estimator, Pipeline) and estimator.steps:
        if len(estimator) > 1:
            X = estimator[:-1].transform(X)
        return quantizer_and_rows(estimator[-1], X)
    quantizer = quantizer_of(estimator)
    return quantizer, quantizer._validate(X)


def quantizer_of(estimator: Any) -> BaseQuantizer:
    """Fitted quantiser at the end of a Pipeline or a search.

    Parameters
    ----------
    estimator : estimator
        Fitted estimator, Pipeline that ends in one, or search over either.

    Returns
    -------
    quantizer : BaseQuantizer
        The fitted quantiser.

    Raises
    ------
    TypeError
        If the estimator does not end in a quantiser.
    """
    estimator = getattr(estimator, "best_estimator_", estimator)
    if isinstance(estimator, Pipeline) and estimator.steps:
        return quantizer_of(estimator[-1])
    if not isinstance(estimator, BaseQuantizer):
        raise TypeError(
            f"estimator={estimator!r} should be an RQKMeans, RQKMeansPlus or RQVAE, "
            "or a Pipeline that ends in one. Give the fitted estimator."
        )
    check_is_fitted(estimator)
    return estimator


def level_errors(quantizer: BaseQuantizer, X: np.ndarray, codes: np.ndarray) -> list:
    """Mean squared error of the reconstruction from the first 0, 1, 2 ... levels.

    Parameters
    ----------
    quantizer : BaseQuantizer
        Fitted quantiser.

    X : ndarray of shape (n_samples, n_features)
        Rows.

    codes : ndarray of shape (n_samples, n_levels), int
        Their codes.

    Returns
    -------
    errors : list of n_levels + 1 floats
        The first one is the error of a model without any level, the mean.
    """
    n_levels = codes.shape[1]
    total = np.zeros(n_levels + 1)
    for start in range(0, len(X), CHUNK_ROWS):
        rows = X[start : start + CHUNK_ROWS]
        part = codes[start : start + CHUNK_ROWS]
        total[0] += np.square(rows - quantizer.mean_, dtype=np.float64).sum()
        for level in range(1, n_levels + 1):
            reconstructed = quantizer._decode(part[:, :level])
            total[level] += np.square(rows - reconstructed).sum()
    return (total / X.size).tolist()


def usage(codes: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """Items per codeword of every level, the largest count first.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_levels), int
        Codes.

    sizes : sequence of int
        Codewords per level.

    Returns
    -------
    counts : list of ndarray of shape (n_codewords,)
        Counts in descending order.
    """
    return [
        np.sort(np.bincount(column, minlength=size))[::-1]
        for column, size in zip(codes.T, sizes, strict=True)
    ]


def thinned(values: np.ndarray, n_values: int = 256) -> tuple[list, list]:
    """Positions and values of an array, at most so many and with both ends."""
    at = spread(len(values), n_values)
    return at.tolist(), values[at].tolist()


def random_hashing_collision(n_samples: int, sizes: Sequence[int]) -> float:
    """Expected collision rate if every item drew one of all codes at random.

    ``1 - B (1 - (1 - 1 / B)^n) / n`` with B the number of codes, which is close to
    ``1 - B (1 - exp(-n / B)) / n``.

    Parameters
    ----------
    n_samples : int
        Number of items n.

    sizes : sequence of int
        Codewords per level; B is their product.

    Returns
    -------
    rate : float
        Between 0 and 1.
    """
    chance = 1 / math.prod(sizes)
    if chance in (0, 1):
        return chance * (1 - 1 / n_samples)
    distinct = -math.expm1(n_samples * math.log1p(-chance)) / chance
    return max(0.0, 1 - distinct / n_samples)


def sample_rows(n_samples: int, n_rows: int) -> np.ndarray:
    """Row numbers of a random sample, always the same one, in order."""
    if n_samples <= n_rows:
        return np.arange(n_samples)
    return np.sort(sample_without_replacement(n_samples, n_rows, random_state=0))


def examples(
    X: np.ndarray,
    ids: np.ndarray,
    titles: Titles,
    *,
    n_items: int = 6,
    k: int = 5,
    random_state: Any = 0,
) -> list[dict]:
    """Some items, their nearest neighbours, and the IDs of both.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows.

    ids : ndarray of shape (n_samples, n_levels + 1), int
        Their IDs.

    titles : Titles
        Names of the items.

    n_items, k : int
        Number of items, and of neighbours of each.

    random_state : int, RandomState instance or None, default=0
        Chooses the items.

    Returns
    -------
    items : list of dict
        ``row``, ``title``, ``id`` and ``neighbours``, a list of the same with
        ``similarity`` and ``shared_levels``, the length of the common prefix.
    """
    rng = check_random_state(random_state)
    k = min(k, len(X) - 1)
    n_items = min(n_items, len(X))
    queries = sample_without_replacement(len(X), n_items, random_state=rng)
    if k:
        near = Points(X, "cosine").neighbours(queries, k, rng)
    else:
        near = np.empty((len(queries), 0), dtype=np.int64)
    similarity = similarities(X, np.repeat(queries, k), near.ravel())

    def item(row: int) -> dict:
        return {"row": int(row), "title": titles[row], "id": ids[row].tolist()}

    def neighbour(row: int, query: int, similarity: float) -> dict:
        equal = ids[row, :-1] == ids[query, :-1]
        shared = int(np.logical_and.accumulate(equal).sum())
        return item(row) | {
            "similarity": float(similarity),
            "shared_levels": shared,
        }

    return [
        item(query)
        | {
            "neighbours": [
                neighbour(row, query, similarity)
                for row, similarity in zip(rows, values, strict=True)
            ]
        }
        for query, rows, values in zip(
            queries, near, similarity.reshape(near.shape), strict=True
        )
    ]


def training_curves(history: Sequence[dict]) -> dict[str, tuple[list, list]]:
    """Course of every figure of a training.

    Parameters
    ----------
    history : sequence of dict
        One entry per epoch; figures may be missing in some of them.

    Returns
    -------
    curves : dict of str to (list, list)
        Epochs and finite values of each figure that has any.
    """
    names = dict.fromkeys(key for entry in history for key in entry)
    names.pop("epoch", None)
    curves = {}
    for name in names:
        points = [
            (int(entry.get("epoch", i)), float(entry[name]))
            for i, entry in enumerate(history)
            if _is_finite(entry.get(name))
        ]
        if points:
            epochs, values = zip(*points, strict=True)
            curves[name] = (list(epochs), list(values))
    return curves


def _is_finite(value: Any) -> bool:
    return (
        isinstance(value, int | float | np.number)
        and not isinstance(value, bool)
        and math.isfinite(value)
    )
