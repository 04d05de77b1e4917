"""What comes in as X: checked in one place, a chunk at a time, never copied whole."""

from typing import Any

import numpy as np
from sklearn.utils.validation import check_array, validate_data

from sk_rqkplus._groups import naming
from sk_rqkplus._threads import map_chunks
from sk_rqkplus._warn import warn

# Values of a chunk that is looked at.
CHUNK_VALUES = 2**22


class ConvertedRows:
    """Rows of an array that are converted when they are read.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Numbers of any type, in memory or in a file; nothing is ever written to it.

    zero : bool, default=False
        Read NaN and infinity as 0.

    Attributes
    ----------
    dtype : dtype
        float32 or float64, the narrower one that holds the values of ``X``.
    """

    ndim = 2

    def __init__(self, X: np.ndarray, *, zero: bool = False):
        self.X, self.zero = X, zero
        self.shape, self.size = X.shape, X.size
        floats = X.dtype.kind == "f" and X.dtype.itemsize <= 4
        self.dtype = np.dtype(np.float32 if floats else np.float64)

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, index: Any) -> np.ndarray:
        rows = self.X[index].astype(self.dtype)
        if self.zero:
            np.nan_to_num(rows, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        return rows

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)


def check_rows(estimator: Any, X: Any, *, reset: bool) -> np.ndarray | ConvertedRows:
    """Rows as numbers that are finite.

    A float32 or float64 array is returned as it is, also one that is a file. Of another
    type, or with values that ``nan_policy="zero"`` replaces, it is converted as it is
    read. Only what is no array yet, such as a list, is copied.

    Parameters
    ----------
    estimator : estimator
        Whose ``nan_policy``, number of features and names of features hold.

    X : array-like of shape (n_samples, n_features)
        What the caller gave.

    reset : bool
        Set the number and names of the features, instead of comparing them.

    Returns
    -------
    rows : ndarray or ConvertedRows of shape (n_samples, n_features)
        Rows of float32 or float64.

    Raises
    ------
    TypeError
        If an engine holds the rows.
    ValueError
        If rows are no matrix of numbers, or a value is not finite, which is named.
    """
    if isinstance(X, ConvertedRows):
        # Of an estimator that has this one as a part.
        validate_data(estimator, X, reset=reset, skip_check_array=True)
        return X
    _refuse_collections(X)
    _refuse_masked(X, "X")
    with naming("X"):
        X = validate_data(
            estimator, X, reset=reset, dtype="numeric", ensure_all_finite=False
        )
    _check_dtype(X, "X")
    n_values, n_rows = _count_non_finite(X, stop=estimator.nan_policy != "zero")
    if n_values:
        warn(
            f"X has {n_values} NaN or infinite values in {n_rows} of its {len(X)} "
            "rows, which count as 0 with nan_policy='zero'. Impute them, if they mean "
            "anything else."
        )
    if n_values or X.dtype not in (np.float32, np.float64):
        return ConvertedRows(X, zero=n_values > 0)
    return X


def check_matrix(X: Any, name: str = "X", **params: int) -> np.ndarray:
    """Rows that no estimator sees; further parameters are those of check_array."""
    _refuse_masked(X, name)
    options: dict[str, Any] = {**params, "input_name": name}
    with naming(name):
        X = check_array(X, dtype=None, ensure_all_finite=False, **options)
        _check_dtype(X, name)
        return check_array(X, dtype=[np.float64, np.float32], **options)


def _refuse_collections(X: Any) -> None:
    """Refuse rows that an engine holds, and say which estimator takes them."""
    engines = {"dask": "dask.DaskRQKMeans", "pyspark": "spark.SparkRQKMeans"}
    package = type(X).__module__.partition(".")[0].removesuffix("_expr")
    if package in engines:
        raise TypeError(
            f"X is a {type(X).__name__} of {package}, which should be in memory. Use "
            f"sk_rqkplus.distributed.{engines[package]}, or collect the rows."
        )


def _check_dtype(X: np.ndarray, name: str) -> None:
    """Refuse text, and dates, which NumPy would count in their units."""
    if X.dtype.kind not in "biufO":
        raise ValueError(
            f"{name} has dtype={X.dtype}, which should be numbers. Give embeddings."
        )


def _refuse_masked(X: Any, name: str) -> None:
    """Refuse what NumPy would take as if nothing was masked."""
    if np.ma.is_masked(X):
        raise ValueError(
            f"{name} has masked values, which should be filled. Impute them, or fill "
            "them with NaN where nan_policy='zero' is meant."
        )


def _count_non_finite(X: np.ndarray, *, stop: bool) -> tuple[int, int]:
    """Number of values that are not finite, and of rows that have one."""
    if X.dtype.kind != "f":
        return 0, 0
    is_long = X.dtype.itemsize > 8
    exact = np.float32 if X.dtype.itemsize <= 4 else np.float64

    def find(chunk: slice) -> tuple[int, np.ndarray]:
        with np.errstate(over="ignore", invalid="ignore"):
            # What is finite may not be so in what is computed with.
            rows = X[chunk].astype(exact) if is_long else X[chunk]
            # One pass without memory; a sum may also overflow.
            if np.isfinite(rows.sum(dtype=exact)):
                return chunk.start, np.empty((0, 2), dtype=int)
        return chunk.start, np.argwhere(~np.isfinite(rows))

    n_values = n_rows = 0
    for start, found in map_chunks(find, len(X), max(1, CHUNK_VALUES // X.shape[1])):
        if stop and len(found):
            row, column = found[0]
            value = str(X[start + row, column]).replace("nan", "NaN")
            within = " in float64" if is_long else ""
            raise ValueError(
                f"X[{start + row}, {column}]={value} should be finite{within}. "
                "Impute it, or use nan_policy='zero'."
            )
        n_values += len(found)
        n_rows += len(np.unique(found[:, 0]))
    return n_values, n_rows
