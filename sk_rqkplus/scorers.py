"""Scorers for model selection: callables ``f(estimator, X, y=None)``, higher is better.

scikit-learn's own scorers compare predictions with a y that an unsupervised search does
not have. These look at the codes and reconstructions of the rows that are held out.

They take a fitted estimator of this package, or a Pipeline that ends in one. Embeddings
are then compared as the last step gets them, which is what its ``score`` does.

``SCORERS`` has them by name, for the parameter ``scoring`` of a search with several
metrics. Such a search needs a rule ``refit``: a name, or what :func:`refit_within`
returns.
"""

from collections.abc import Callable
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from sk_rqkplus import metrics

__all__ = [
    "SCORERS",
    "code_neighbour_recall",
    "in_sample_split",
    "mean_perplexity",
    "mean_prefix_cohesion",
    "mean_relative_perplexity",
    "neg_collision_rate",
    "neg_reconstruction_mse",
    "neighbour_recall",
    "reconstruction_r2",
    "refit_within",
]


def neg_reconstruction_mse(estimator, X, y=None) -> float:
    """Negative mean squared reconstruction error, the estimators' own score.

    Parameters
    ----------
    estimator : object
        Fitted estimator or Pipeline that ends in one.

    X : array-like of shape (n_samples, n_features)
        Rows to score on.

    y : None
        Ignored.

    Returns
    -------
    score : float
        At most 0.
    """
    return estimator.score(X)


def reconstruction_r2(estimator, X, y=None) -> float:
    """Share of the variance of the rows that their reconstructions explain.

    Parameters
    ----------
    estimator : object
        Fitted estimator or Pipeline that ends in one.

    X : array-like of shape (n_samples, n_features)
        Rows to score on.

    y : None
        Ignored.

    Returns
    -------
    score : float
        At most 1.

    See Also
    --------
    sk_rqkplus.metrics.reconstruction_r2 : The formula.
    """
    quantizer, rows = _last_step(estimator, X)
    return metrics.reconstruction_r2(rows, _reconstruct(quantizer, rows))


def neg_collision_rate(estimator, X, y=None) -> float:
    """Negative collision rate of the codes, before they are made unique.

    It depends on the number of rows: compare values of equally large sets only. That of
    a catalogue takes all of its rows, see :func:`in_sample_split`.

    Parameters
    ----------
    estimator : object
        Fitted estimator or Pipeline that ends in one.

    X : array-like of shape (n_samples, n_features)
        Rows to score on.

    y : None
        Ignored.

    Returns
    -------
    score : float
        In (-1, 0].

    See Also
    --------
    sk_rqkplus.metrics.collision_rate : The formula.
    """
    return -metrics.collision_rate(_codes(estimator, X))


def mean_perplexity(estimator, X, y=None) -> float:
    """Mean over the levels of the perplexity of the codes.

    Parameters
    ----------
    estimator : object
        Fitted estimator or Pipeline that ends in one.

    X : array-like of shape (n_samples, n_features)
        Rows to score on.

    y : None
        Ignored.

    Returns
    -------
    score : float
        At least 1.

    See Also
    --------
    sk_rqkplus.metrics.perplexity : The formula.
    """
    return float(metrics.perplexity(_codes(estimator, X)).mean())


def mean_relative_perplexity(estimator, X, y=None) -> float:
    """Mean over the levels of the perplexity over the codebook size.

    It falls where codebooks grow faster than their use: it finds a collapse, but does
    not choose a size.

    Parameters
    ----------
    estimator : object
        Fitted estimator or Pipeline that ends in one.

    X : array-like of shape (n_samples, n_features)
        Rows to score on.

    y : None
        Ignored.

    Returns
    -------
    score : float
        In (0, 1].

    See Also
    --------
    sk_rqkplus.metrics.perplexity : The formula.
    """
    quantizer, rows = _last_step(estimator, X)
    sizes = [len(book) for book in quantizer.codebooks_]
    return float(metrics.perplexity(_codes(quantizer, rows), sizes).mean())


def neighbour_recall(estimator, X, y=None) -> float:
    """Share of the 10 nearest neighbours that reconstructed rows keep.

    Parameters
    ----------
    estimator : object
        Fitted estimator or Pipeline that ends in one.

    X : array-like of shape (n_samples, n_features)
        Rows to score on, among which neighbours are looked up; at least 2. Of 10 rows
        or less, all are neighbours.

    y : None
        Ignored.

    Returns
    -------
    score : float
        In [0, 1].

    See Also
    --------
    sk_rqkplus.metrics.neighbour_recall : The formula.
    """
    quantizer, rows = _last_step(estimator, X)
    other = _reconstruct(quantizer, rows)
    return metrics.neighbour_recall(rows, other, k=_k(rows)).value


def code_neighbour_recall(estimator, X, y=None) -> float:
    """Share of the 10 nearest neighbours that codes alone find.

    Parameters
    ----------
    estimator : object
        Fitted estimator or Pipeline that ends in one.

    X : array-like of shape (n_samples, n_features)
        Rows to score on, among which neighbours are looked up; at least 2. Of 10 rows
        or less, all are neighbours.

    y : None
        Ignored.

    Returns
    -------
    score : float
        In [0, 1].

    See Also
    --------
    sk_rqkplus.metrics.code_neighbour_recall : The formula.
    """
    quantizer, rows = _last_step(estimator, X)
    codes = _codes(quantizer, rows)
    return metrics.code_neighbour_recall(rows, codes, k=_k(rows)).value


def mean_prefix_cohesion(estimator, X, y=None) -> float:
    """Mean over the levels of the cosine similarity of rows that share a prefix.

    Levels at which no two rows share a prefix do not count.

    Parameters
    ----------
    estimator : object
        Fitted estimator or Pipeline that ends in one.

    X : array-like of shape (n_samples, n_features)
        Rows to score on.

    y : None
        Ignored.

    Returns
    -------
    score : float
        In [-1, 1]; NaN where no two rows share a codeword of the first level.

    See Also
    --------
    sk_rqkplus.metrics.prefix_cohesion : The formula.
    """
    quantizer, rows = _last_step(estimator, X)
    levels = metrics.prefix_cohesion(_codes(quantizer, rows), rows)
    values = [level.value for level in levels if not np.isnan(level.value)]
    return float(np.mean(values)) if values else np.nan


SCORERS: dict[str, Callable[..., float]] = {
    "reconstruction_mse": neg_reconstruction_mse,
    "reconstruction_r2": reconstruction_r2,
    "neighbour_recall": neighbour_recall,
    "code_neighbour_recall": code_neighbour_recall,
    "prefix_cohesion": mean_prefix_cohesion,
    "perplexity": mean_perplexity,
    "relative_perplexity": mean_relative_perplexity,
    "collision_rate": neg_collision_rate,
}


def in_sample_split(n_samples: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """One split that fits on all rows and scores on all rows.

    For figures of the catalogue as it is, such as the collision rate, which a fold
    would understate. Figures of error are too good on fitted rows: with this split they
    favour the larger model.

    Parameters
    ----------
    n_samples : int
        Number of rows of X.

    Returns
    -------
    splits : list of one pair of ndarrays of shape (n_samples,)
        For the parameter ``cv`` of a search or of ``cross_validate``.

    Examples
    --------
    >>> from sk_rqkplus.scorers import in_sample_split
    >>> in_sample_split(3)
    [(array([0, 1, 2]), array([0, 1, 2]))]
    """
    if not isinstance(n_samples, Integral) or n_samples < 1:
        raise ValueError(
            f"n_samples={n_samples!r} should be an int >= 1. Give the number of rows."
        )
    rows = np.arange(n_samples)
    return [(rows, rows)]


def refit_within(
    metric: str, *, then: str, tolerance: float | str = "one_se"
) -> Callable[[dict[str, Any]], int]:
    """Rule of a search: nearly the best by one metric, the best of these by another.

    Settings whose mean of ``metric`` is within a tolerance of the best are taken to be
    as good; of these the one with the best mean of ``then`` is refitted. Ties go to the
    better ``metric``, then to the setting that comes first.

    Parameters
    ----------
    metric : str
        Key of ``scoring`` by which a setting has to be nearly the best.

    then : str
        Key of ``scoring`` that decides between them.

    tolerance : float or "one_se", default="one_se"
        How far the mean may be from the best: a share of the absolute value of the
        best, or one standard error over the folds of the best setting.

    Returns
    -------
    refit : callable
        For the parameter ``refit`` of a search with several metrics: maps
        ``cv_results_`` to the index of a setting.

    Raises
    ------
    ValueError
        If the tolerance is neither, and on a call if a metric is missing from the
        results or has no finite score, or if one split has no standard error.

    References
    ----------
    Breiman et al., "Classification and Regression Trees", 1984, section 3.4.3: the rule
    of one standard error.

    Examples
    --------
    >>> from sk_rqkplus.scorers import refit_within
    >>> choose = refit_within("neighbour_recall", then="collision_rate", tolerance=0.05)
    >>> choose(
    ...     {
    ...         "mean_test_neighbour_recall": [0.50, 0.49, 0.30],
    ...         "mean_test_collision_rate": [-0.20, -0.15, -0.01],
    ...     }
    ... )
    1
    """
    numeric = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)
    if tolerance != "one_se" and not (numeric and 0 <= float(tolerance) < np.inf):
        raise ValueError(
            f"tolerance={tolerance!r} should be 'one_se' or >= 0. Give a share of the "
            "best value, such as 0.01."
        )
    # A partial, since a search that is pickled keeps its rule.
    return partial(_choose, metric=metric, then=then, tolerance=tolerance)


def _choose(
    results: dict[str, Any], *, metric: str, then: str, tolerance: float | str
) -> int:
    first, second = _means(results, "metric", metric), _means(results, "then", then)
    if not np.isfinite(first).any():
        raise ValueError(
            f"metric={metric!r} should have a finite score for some setting. Look at "
            "the errors of the fits."
        )
    first = np.where(np.isnan(first), -np.inf, first)
    best = int(np.argmax(first))
    if tolerance == "one_se":
        allowed = _standard_error(results, metric, best)
    else:
        allowed = float(tolerance) * abs(first[best])
    near = first >= first[best] - allowed
    # The last key counts most, NaN comes last, and the sort is stable.
    order = np.lexsort((-first, -second, ~near))
    return int(order[0])


def _means(results: dict[str, Any], parameter: str, metric: str) -> np.ndarray:
    prefix = "mean_test_"
    if prefix + metric not in results:
        known = [key.removeprefix(prefix) for key in results if key.startswith(prefix)]
        raise ValueError(
            f"{parameter}={metric!r} should be one of {known}. Name a key of scoring."
        )
    return np.asarray(results[prefix + metric], dtype=np.float64)


def _standard_error(results: dict[str, Any], metric: str, setting: int) -> float:
    """Standard error of the mean over the folds, from the sample standard deviation."""
    splits = [
        values[setting]
        for name, values in results.items()
        if name.startswith("split") and name.endswith(f"_test_{metric}")
    ]
    if len(splits) < 2:
        raise ValueError(
            f"tolerance='one_se' should come with 2 splits or more, not {len(splits)}. "
            "Give a share of the best value, such as 0.01."
        )
    return float(np.std(splits, ddof=1) / len(splits) ** 0.5)


def _last_step(estimator: Any, X: Any) -> tuple[Any, np.ndarray]:
    """The estimator of this package at the end of Pipelines, and the rows it gets."""
    while isinstance(estimator, Pipeline):
        for _, step in estimator.steps[:-1]:
            if step is not None and step != "passthrough":
                X = step.transform(X)
        estimator = estimator.steps[-1][1]
    return estimator, X


def _codes(estimator: Any, X: Any) -> np.ndarray:
    """Codes as an array, whatever container the output is set to."""
    return np.asarray(estimator.transform(X))


def _reconstruct(quantizer: Any, rows: Any) -> np.ndarray:
    return quantizer.inverse_transform(_codes(quantizer, rows))


def _k(rows: Any) -> int:
    return min(10, len(rows) - 1)
