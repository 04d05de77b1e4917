"""RQKMeans: residual k-means codebooks."""

import warnings

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.random import sample_without_replacement

from sk_rqkplus._balance import capacities
from sk_rqkplus._base import (
    CHUNK_ROWS,
    NON_NEGATIVE,
    POSITIVE_INT,
    BaseQuantizer,
    column_means,
)
from sk_rqkplus._compat import StrOptions, _fit_context
from sk_rqkplus._lloyd import (
    BALANCED_ITERATIONS,
    count_distinct,
    crowded,
    fit_codebook,
)
from sk_rqkplus._nearest import Codewords, nearest
from sk_rqkplus._progress import progress
from sk_rqkplus._residual import power_of_two

# A level of which a larger share of rows are copies of a few is called unbalanced.
CROWD = 0.05


class RQKMeans(BaseQuantizer):
    """Residual k-means: one short tuple of integers per embedding.

    Level 0 clusters the rows of ``X``; every later level clusters what the levels
    before it left over. A row is approximated by the mean of the data plus one codeword
    per level, and the indices of those codewords are its Semantic ID (SID) code.

    Read more in the :ref:`User Guide <rqkmeans>`.

    Parameters
    ----------
    codebook_sizes : array-like of int, default=(256, 256, 256)
        Number of codewords of each level; their number is the length of a code. A level
        with fewer distinct rows than codewords gets as many codewords as rows, with a
        warning.

    balance : {"last", "all", "none"} or array-like of bool, default="last"
        Which levels give every codeword equally many rows: the last one, all, none, or
        those marked True. Prefixes carry meaning, and balance costs them some; the last
        level only tells items apart, where balance avoids collisions.

    balance_tol : float, default=0.0
        By how much the counts of a balanced level may deviate, relative to
        ``n_samples / n_codewords``. 0 allows the two whole numbers next to it.

    init : {"k-means++", "random"}, default="k-means++"
        How the first codewords of a level are drawn from the rows.

    n_init : int, default=1
        Runs of k-means per level, of which the one of least error is kept.

    max_iter : int, default=25
        Most Lloyd iterations of a run. A balanced level takes 12 more.

    tol : float, default=1e-4
        A run ends when an iteration lowers its error by less than this share.

    max_samples : int, default=None
        Fit on a random subset of so many rows; None takes all. All rows are encoded.
        Balance then holds for the subset, and nearly so for all rows.

    dedup : {"reassign", "suffix"}, default="reassign"
        How :meth:`predict` makes IDs unique, see :func:`~sk_rqkplus.ids.deduplicate`.

    store_catalogue : bool, default=True
        Remember the fitted rows (28 bytes each), so that :meth:`predict` recognises
        them. Without it IDs are unique within a call only.

    device : str or torch.device, default="auto"
        Where to compute: "cpu", "cuda", or "auto" for a GPU where there is one.

    random_state : int, RandomState instance or None, default=None
        Source of randomness. An int gives bit-identical codebooks for any number of
        threads. See :term:`Glossary <random_state>`.

    verbose : int, default=0
        Show a progress bar.

    Attributes
    ----------
    codebooks_ : list of ndarray of shape (n_codewords, n_features), float32
        Codewords of each level, relative to ``mean_`` at level 0.

    prices_ : list of ndarray of shape (n_codewords,), float64
        Added to the squared distance of each codeword; zero at unbalanced levels.

    mean_ : ndarray of shape (n_features,)
        Mean of the fitted rows, removed before anything else.

    codes_ : ndarray of shape (n_samples, n_levels), int32
        Codes of the fitted rows; equal to ``transform(X)``.

    ids_ : ndarray of shape (n_samples, n_levels + 1), int32
        Unique IDs of the fitted rows; equal to ``predict(X)``.

    catalogue_ : Catalogue
        Registry of the IDs that are given, where ``store_catalogue`` is true.

    n_iter_ : int
        Most Lloyd iterations of a level.

    n_features_in_ : int
        Number of features seen during fit.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, where X had them.

    See Also
    --------
    RQKMeansPlus : Fine-tunes these codebooks together with an encoder and a decoder.

    Notes
    -----
    Encoding is greedy: a level takes its nearest codeword without looking ahead, at a
    cost of ``O(n_features * sum(codebook_sizes))`` per row. A balanced level is a power
    diagram, one price per codeword, so that the assignment of new rows is the rule of
    the fit.

    References
    ----------
    "GPR: Towards a Generative Pre-trained One-Model Paradigm for Large-Scale
    Advertising Recommendation", arXiv 2511.10138.

    Aurenhammer, Hoffmann and Aronov, "Minkowski-type theorems and least-squares
    clustering", Algorithmica 20, 1998.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_rqkplus import RQKMeans
    >>> X = np.array([[0.0], [1.0], [10.0], [11.0]])
    >>> rq = RQKMeans(codebook_sizes=(2, 2), random_state=0).fit(X)
    >>> rq.transform(X).shape
    (4, 2)
    >>> rq.inverse_transform(rq.transform(X)).ravel()
    array([ 0.,  1., 10., 11.])
    """

    _parameter_constraints: dict = {
        **BaseQuantizer._parameter_constraints,
        "balance_tol": [NON_NEGATIVE],
        "init": [StrOptions({"k-means++", "random"})],
        "n_init": [POSITIVE_INT],
        "max_iter": [POSITIVE_INT],
        "tol": [NON_NEGATIVE],
        "max_samples": [POSITIVE_INT, None],
    }

    def __init__(
        self,
        codebook_sizes=(256, 256, 256),
        *,
        balance="last",
        balance_tol=0.0,
        init="k-means++",
        n_init=1,
        max_iter=25,
        tol=1e-4,
        max_samples=None,
        dedup="reassign",
        store_catalogue=True,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.codebook_sizes = codebook_sizes
        self.balance = balance
        self.balance_tol = balance_tol
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.max_samples = max_samples
        self.dedup = dedup
        self.store_catalogue = store_catalogue
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Learn the codebooks and register the rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Item embeddings: an array, a DataFrame or a memory-mapped file.

        y : None
            Ignored, present for API consistency.

        Returns
        -------
        self : RQKMeans
            The fitted estimator.
        """
        with self._all_or_nothing():
            X = self._validate(X, reset=True)
            sizes = self._resolve_sizes()
            balanced = self._resolve_balance(len(sizes))
            device = self._resolve_device()
            rng = check_random_state(self.random_state)

            rows, self.mean_, scale = self._draw_rows(X, rng, device)
            levels = self._fit_levels(rows, sizes, balanced, rng)
            self.codebooks_ = [
                np.multiply(level.codebook.cpu().numpy(), scale, dtype=np.float32)
                for level in levels
            ]
            self.prices_ = [level.prices.cpu().numpy() * scale**2 for level in levels]
            self.n_iter_ = max(level.n_iter for level in levels)
            self._publish(X, self._encode(X))
        return self

    def _draw_rows(self, X, rng, device):
        """Rows to fit on, centred and scaled; the mean and the scale removed."""
        index = None
        if self.max_samples is not None and self.max_samples < len(X):
            index = np.sort(
                sample_without_replacement(len(X), self.max_samples, random_state=rng)
            )
        X = X if index is None else X[index]
        mean = column_means(X).astype(X.dtype)
        chunks = range(0, len(X), CHUNK_ROWS)
        largest = max(float(np.abs(X[i : i + CHUNK_ROWS] - mean).max()) for i in chunks)
        if largest and not 1e-36 < largest < 1e36:
            raise ValueError(
                f"X deviates from its mean by up to {largest:.3g}, which should be "
                "between 1e-36 and 1e36, the range of float32 codebooks. Rescale X."
            )
        scale = power_of_two(largest)
        rows = torch.empty(X.shape, dtype=torch.float32)
        for i in chunks:
            part = torch.from_numpy(X[i : i + CHUNK_ROWS] - mean)
            rows[i : i + CHUNK_ROWS] = part / scale
        return rows.to(device), mean, scale

    def _fit_levels(self, rows, sizes, balanced, rng):
        """Fit level after level; ``rows`` becomes what the last one leaves over."""
        levels = []
        n_steps = [self.max_iter + BALANCED_ITERATIONS * flag for flag in balanced]
        with progress(self, sum(n_steps), "iteration") as tick:
            for level, (size, flag) in enumerate(zip(sizes, balanced, strict=True)):
                fitted = fit_codebook(
                    rows,
                    count_distinct(rows, size),
                    rng,
                    init=self.init,
                    n_init=self.n_init,
                    max_iter=self.max_iter,
                    tol=self.tol,
                    balance_tol=self.balance_tol if flag else None,
                    tick=tick,
                )
                tick(to=sum(n_steps[: level + 1]))
                self._warn_if_crowded(rows, fitted, level, flag)
                words = Codewords(fitted.codebook, fitted.prices)
                for chunk in rows.split(CHUNK_ROWS):
                    chunk -= fitted.codebook[nearest(chunk, words)]
                levels.append(fitted)
        found = tuple(len(level.codebook) for level in levels)
        if found != tuple(sizes):
            warnings.warn(
                f"codebook_sizes={tuple(sizes)} became {found}: a level had fewer "
                "distinct rows than codewords. Lower codebook_sizes or fit on more "
                "rows.",
                stacklevel=4,
            )
        return levels

    def _warn_if_crowded(self, rows, fitted, level, flag):
        """Say so where a level cannot be balanced."""
        if not flag or len(fitted.codebook) == 1:
            return
        _, upper = capacities(len(rows), len(fitted.codebook), self.balance_tol)
        share = float(crowded(rows, upper).float().mean())
        if share > CROWD:
            warnings.warn(
                f"level {level} cannot be balanced: {share:.0%} of its rows have more "
                f"than {upper} copies, the most that one codeword may take. Remove "
                "duplicates, lower codebook_sizes or use balance='none'.",
                stacklevel=5,
            )
