"""Figures of quality of codes and IDs: arrays in, floats out."""

import numpy as np
from sklearn.utils.validation import check_array

__all__ = [
    "codebook_utilisation",
    "collision_rate",
    "largest_group",
    "load_cv",
    "perplexity",
    "reconstruction_mse",
]


def _check_codes(codes: np.ndarray) -> np.ndarray:
    codes = check_array(codes, dtype=None, input_name="codes")
    if codes.dtype.kind not in "iu":
        raise ValueError(
            f"codes have dtype={codes.dtype}, which should be an integer type. "
            "Give the codes that transform returns."
        )
    if codes.min() < 0:
        raise ValueError(f"codes have the value {codes.min()}, which should be >= 0.")
    return codes


def _group_sizes(codes: np.ndarray) -> np.ndarray:
    return np.unique(_check_codes(codes), axis=0, return_counts=True)[1]


def _check_sizes(codes: np.ndarray, codebook_sizes) -> np.ndarray:
    sizes = np.asarray(codebook_sizes)
    if sizes.shape != (codes.shape[1],):
        raise ValueError(
            f"codebook_sizes={codebook_sizes!r} should have n_levels={codes.shape[1]} "
            "values. Give one size per column of codes."
        )
    if (codes.max(axis=0) >= sizes).any():
        raise ValueError(
            f"codebook_sizes={codebook_sizes!r} should exceed the largest codes "
            f"{codes.max(axis=0).tolist()}. Give the sizes of the model of these codes."
        )
    return sizes


def collision_rate(codes) -> float:
    """Share of items that are one too many for their code.

    ``1 - n_distinct / n``: of m items that share a code, m - 1 count. It is 0 when all
    codes differ.

    Parameters
    ----------
    codes : array-like of shape (n_samples, n_levels), int
        One code per item.

    Returns
    -------
    rate : float
        Collision rate in [0, 1).

    References
    ----------
    MiniOneRec (arXiv 2510.24431), which reports it as the collision rate.

    Examples
    --------
    >>> from sk_rqkplus.metrics import collision_rate
    >>> collision_rate([[0, 1], [0, 1], [0, 2], [3, 1]])
    0.25
    """
    sizes = _group_sizes(codes)
    return float(1 - len(sizes) / sizes.sum())


def largest_group(codes) -> int:
    """Number of items of the code that most items share.

    Parameters
    ----------
    codes : array-like of shape (n_samples, n_levels), int
        One code per item.

    Returns
    -------
    size : int
        Size of the largest group.

    Examples
    --------
    >>> from sk_rqkplus.metrics import largest_group
    >>> largest_group([[0, 1], [0, 1], [0, 2], [3, 1]])
    2
    """
    return int(_group_sizes(codes).max())


def perplexity(codes) -> np.ndarray:
    """Effective number of codewords in use at every level.

    ``exp(-sum_k p_k log p_k)`` with ``p_k`` the share of items of codeword k. It equals
    K when K codewords are used equally often.

    Parameters
    ----------
    codes : array-like of shape (n_samples, n_levels), int
        One code per item.

    Returns
    -------
    values : ndarray of shape (n_levels,)
        Perplexity per level, at least 1.

    Examples
    --------
    >>> from sk_rqkplus.metrics import perplexity
    >>> perplexity([[0, 0], [1, 0], [2, 0], [3, 0]])
    array([4., 1.])
    """
    codes = _check_codes(codes)
    values = []
    for column in codes.T:
        share = np.unique(column, return_counts=True)[1] / len(codes)
        values.append(np.exp(-(share * np.log(share)).sum()))
    return np.array(values)


def codebook_utilisation(codes, codebook_sizes) -> np.ndarray:
    """Share of the codewords of every level that some item uses.

    Parameters
    ----------
    codes : array-like of shape (n_samples, n_levels), int
        One code per item.

    codebook_sizes : array-like of shape (n_levels,), int
        Number of codewords per level.

    Returns
    -------
    values : ndarray of shape (n_levels,)
        Utilisation per level in (0, 1].

    References
    ----------
    GPR (arXiv 2511.10138), which calls the first of these values CUR.

    Examples
    --------
    >>> from sk_rqkplus.metrics import codebook_utilisation
    >>> codebook_utilisation([[0, 1], [0, 1], [1, 2]], [2, 4])
    array([1. , 0.5])
    """
    codes = _check_codes(codes)
    sizes = _check_sizes(codes, codebook_sizes)
    return np.array([len(np.unique(column)) for column in codes.T]) / sizes


def load_cv(codes, codebook_sizes) -> np.ndarray:
    """Coefficient of variation of the number of items per codeword, per level.

    Standard deviation of the counts over their mean; codewords without items count.

    Parameters
    ----------
    codes : array-like of shape (n_samples, n_levels), int
        One code per item.

    codebook_sizes : array-like of shape (n_levels,), int
        Number of codewords per level.

    Returns
    -------
    values : ndarray of shape (n_levels,)
        0 where all codewords have equally many items.

    Examples
    --------
    >>> from sk_rqkplus.metrics import load_cv
    >>> load_cv([[0], [0], [0], [1]], [2])
    array([0.5])
    """
    codes = _check_codes(codes)
    sizes = _check_sizes(codes, codebook_sizes)
    counts = [
        np.bincount(column, minlength=size)
        for column, size in zip(codes.T, sizes, strict=True)
    ]
    return np.array([count.std() / count.mean() for count in counts])


def reconstruction_mse(X, X_reconstructed) -> float:
    """Mean over all values of the squared difference of rows and reconstructions.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings.

    X_reconstructed : array-like of shape (n_samples, n_features)
        What ``inverse_transform`` makes of their codes.

    Returns
    -------
    error : float
        Mean squared error, in squared units of X.

    Examples
    --------
    >>> from sk_rqkplus.metrics import reconstruction_mse
    >>> reconstruction_mse([[1.0, 2.0]], [[1.0, 4.0]])
    2.0
    """
    X = check_array(X, dtype=[np.float64, np.float32], input_name="X")
    other = check_array(
        X_reconstructed, dtype=[np.float64, np.float32], input_name="X_reconstructed"
    )
    if X.shape != other.shape:
        raise ValueError(
            f"X_reconstructed has shape={other.shape}, which should equal {X.shape} of "
            "X. Give the reconstruction of the same rows."
        )
    return float(np.square(np.subtract(X, other, dtype=np.float64)).mean())
