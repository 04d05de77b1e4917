"""Scorers for model selection: callables ``f(estimator, X, y=None)``, higher is better.

scikit-learn's own scorers compare predictions with a y that an unsupervised search does
not have. These look at the codes and reconstructions of the rows that are held out.
"""

import numpy as np

from sk_rqkplus import metrics

__all__ = ["SCORERS", "mean_perplexity", "neg_collision_rate", "neg_reconstruction_mse"]


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


def neg_collision_rate(estimator, X, y=None) -> float:
    """Negative collision rate of the codes, before they are made unique.

    It depends on the number of rows: compare values of equally large sets only.

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
    """
    return -metrics.collision_rate(np.asarray(estimator.transform(X)))


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
    """
    return float(metrics.perplexity(np.asarray(estimator.transform(X))).mean())


SCORERS = {
    "reconstruction_mse": neg_reconstruction_mse,
    "collision_rate": neg_collision_rate,
    "perplexity": mean_perplexity,
}
