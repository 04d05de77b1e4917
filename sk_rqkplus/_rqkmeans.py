"""RQKMeans: residual k-means codebooks."""

from dataclasses import replace
from functools import partial
from numbers import Integral
from os import PathLike
from typing import NamedTuple

import numpy as np
import torch
from sklearn.utils.random import sample_without_replacement

from sk_rqkplus._augment import resolve_augment, smoothed_bootstrap
from sk_rqkplus._base import (
    NON_NEGATIVE,
    POSITIVE_INT,
    BaseQuantizer,
    warn_of_fewer,
    warn_of_imbalance,
)
from sk_rqkplus._codebook import BALANCED_ITERATIONS, fit_codebook
from sk_rqkplus._compat import Interval, StrOptions, _fit_context
from sk_rqkplus._copies import count_distinct
from sk_rqkplus._footprint import bytes_to_fit
from sk_rqkplus._journal import keep_journal
from sk_rqkplus._lloyd import Level
from sk_rqkplus._memory import give_back
from sk_rqkplus._nearest import Codewords
from sk_rqkplus._prices import balance_level, balance_prices
from sk_rqkplus._progress import progress
from sk_rqkplus._residual import Leftover, power_of_two
from sk_rqkplus._table import Table
from sk_rqkplus._threads import one_thread


class RQKMeans(BaseQuantizer):
    """Residual k-means: one short tuple of integers per embedding.

    Level 0 clusters the rows of ``X``; every later level clusters what the levels
    before it left over. A row is approximated by the mean of the data plus one codeword
    per level, and the indices of those codewords are its Semantic ID (SID) code. In the
    end the codewords of all levels move jointly (``refine``).

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
        How the first codewords of a level are drawn from the rows. Early on, a codeword
        that lowers the error little moves to where another one lowers it much.

    n_init : int, default=1
        Runs of k-means per level, of which the one of least error is kept.

    max_iter : int, default=25
        Most Lloyd iterations of every stage of a run: on a few rows, where codewords
        that change places take up to 15 more, on a sample where rows are many, and on
        all rows. A balanced level takes 9 more, and up to 12 where rows have copies.

    tol : float, default=5e-4
        A run ends when codewords at the means of their members would lower the error by
        at most this share.

    max_samples : int, default=None
        Fit the codebooks on a random subset of so many rows; None takes all. Prices,
        ``codes_`` and IDs are those of all rows, so that balance holds for all of them.

    augment : {"auto", "none"} or int, default="auto"
        Fit on so many rows made from ``X``, a quarter of them rows as they are and the
        others mixtures of neighbours, which describes unseen rows better where rows are
        few. "auto" makes 128 per codeword where there are 4 to 64, "none" makes none.
        Prices, ``codes_`` and IDs are always those of the rows of ``X``.

    refine : int, default=1
        Rounds of moving the codewords of all levels jointly to where they reconstruct
        the rows best under their codes. One lowers the error by 3 %, that of unseen
        rows by 1 to 2 %, and has half a percent to two percent of the rows collide that
        did not; more of them add little to the first. One level alone needs none.

    beam_size : int, default=1
        Prefixes that compete at every level of encoding; 1 is the greedy code. 5 takes
        twice the time and lowers the error by 0.7 to 1 %. A beam does not hold the
        counts of balanced levels to their bounds.

    dedup : {"reassign", "suffix"}, default="reassign"
        How :meth:`predict` makes IDs unique, see :func:`~sk_rqkplus.ids.deduplicate`.

    store_catalogue : bool, default=True
        Remember the fitted rows (28 bytes each), so that :meth:`predict` recognises
        them. Without it IDs are unique within a call only.

    checkpoint_dir : path-like, default=None
        Directory of this fit alone, where it writes how far it has come: its levels
        and the iteration it is at, at most 2 % of the time. None writes nothing.

    resume : bool, default=False
        Go on from what is in ``checkpoint_dir``, to the codebooks that the fit would
        have had without a break, bit for bit on one kind of CPU. An empty directory
        starts a fit, and so does False, which gives up what is there.

    nan_policy : {"raise", "zero"}, default="raise"
        What NaN and infinity in ``X`` are: an error that names the first of them, or 0
        with a warning that counts them, as published. Rows are converted as they are
        read, so that this copies no file either.

    device : str or torch.device, default="auto"
        Where to compute: "cpu", "cuda", or "auto" for a GPU where there is one.

    random_state : int, RandomState instance or None, default=None
        Source of randomness. An int gives bit-identical codebooks for any number of
        threads, on one kind of processor with the same versions of the packages. See
        :term:`Glossary <random_state>`.

    verbose : int, default=0
        Show a progress bar, and before it how many collisions are unavoidable because
        rows are copies of others.

    Attributes
    ----------
    codebooks_ : list of ndarray of shape (n_codewords, n_features), float32
        Codewords of each level, relative to ``mean_`` at level 0.

    prices_ : list of ndarray of shape (n_codewords,), float64
        Added to the squared distance of each codeword; zero at unbalanced levels.

    mean_ : ndarray of shape (n_features,)
        Mean of the rows that codebooks are learnt from, removed before anything else.

    codes_ : ndarray of shape (n_samples, n_levels), int32
        Codes of the fitted rows; equal to ``transform(X)``.

    ids_ : ndarray of shape (n_samples, n_levels + 1), int32
        Unique IDs of the fitted rows; equal to ``predict(X)``.

    catalogue_ : Catalogue
        Registry of the IDs that are given, where ``store_catalogue`` is true.

    fingerprint_ : str
        Digest of the model, which its catalogue has too.

    duality_gap_ : ndarray of shape (n_levels,)
        Per balanced level, by how much the total distortion of the balanced assignment
        exceeds the least possible one at most, relative to that without balance; zero
        proves the assignment optimal. Zero at other levels.

    n_iter_ : int
        Most iterations of a level over all rows that it learns from, those of balance
        included; those of its start, over a part of them, do not count.

    n_features_in_ : int
        Number of features seen during fit.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, where X had them.

    See Also
    --------
    RQKMeansPlus : Fine-tunes these codebooks together with an encoder and a decoder.

    Notes
    -----
    With ``beam_size=1`` encoding is greedy: a level takes its nearest codeword without
    looking ahead, at a cost of ``O(n_features * sum(codebook_sizes))`` per row. A
    balanced level is a power diagram, one price per codeword, so that the assignment of
    new rows is the rule of the fit.

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

    _how_to_need_less = (
        "Set max_samples, which fits on a part of the rows, or fit on fewer."
    )
    _fitted_attributes = (*BaseQuantizer._fitted_attributes, "duality_gap_")
    _parameter_constraints: dict = {
        **BaseQuantizer._parameter_constraints,
        "balance_tol": [NON_NEGATIVE],
        "init": [StrOptions({"k-means++", "random"})],
        "n_init": [POSITIVE_INT],
        "max_iter": [POSITIVE_INT],
        "tol": [NON_NEGATIVE],
        "max_samples": [POSITIVE_INT, None],
        "augment": [StrOptions({"auto", "none"}), POSITIVE_INT],
        "refine": [Interval(Integral, 0, None, closed="left")],
        "beam_size": [POSITIVE_INT],
        "checkpoint_dir": [str, PathLike, None],
        "resume": ["boolean"],
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
        tol=5e-4,
        max_samples=None,
        augment="auto",
        refine=1,
        beam_size=1,
        dedup="reassign",
        store_catalogue=True,
        checkpoint_dir=None,
        resume=False,
        nan_policy="raise",
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
        self.augment = augment
        self.refine = refine
        self.beam_size = beam_size
        self.dedup = dedup
        self.store_catalogue = store_catalogue
        self.checkpoint_dir = checkpoint_dir
        self.resume = resume
        self.nan_policy = nan_policy
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

        Raises
        ------
        ValueError
            If a value of ``X`` is not finite, parameters do not suit each other or the
            data, or ``checkpoint_dir`` has a fit of other rows or parameters that
            ``resume`` cannot go on with.
        MemoryError
            If the fit needs more memory than there is. Nothing was computed then.
        OSError
            If ``checkpoint_dir`` cannot be written. What was written before is intact.
        """
        with self._all_or_nothing(), one_thread():
            X = self._validate(X, reset=True)
            self._check_memory(X, self._bytes_to_fit(X))
            self._tell_of_copies(X)
            left = self._fit_table(Table(X, self._resolve_device()))
            codes = left.codes if self.beam_size == 1 else self._encode(X)
            if not left.kept:
                # IDs take memory too.
                del left
                give_back()
            self._publish(X, codes)
        return self

    def _bytes_to_fit(self, X):
        """Memory that a fit takes at its peak, about."""
        sizes = self._resolve_sizes()
        balanced = any(self._resolve_balance(len(sizes)))
        n_samples, n_features = X.shape
        n_fit = min(n_samples, self.max_samples or n_samples)
        n_made = resolve_augment(self.augment, partial(min, n_fit), max(sizes))
        return bytes_to_fit(
            n_samples,
            n_features,
            max(sizes),
            n_fit=n_fit,
            n_made=n_made,
            balanced=balanced,
        )

    def _fit_table(self, table):
        """Codebooks and prices from rows, wherever these are; all but their IDs."""
        sizes = self._resolve_sizes()
        balanced = self._resolve_balance(len(sizes))
        # A level alone has been fitted as it should be.
        n_rounds = self.refine if len(sizes) > 1 else 0
        with keep_journal(self, table) as (journal, rng):
            index = self._draw_sample(len(table), rng)
            few = None if index is None else Table(table.take(index), table.device)
            self.mean_ = (table if few is None else few).mean()
            scale = self._resolve_scale(table)
            left = table.leftover(self.mean_, scale, keep=index is None)
            seen = left if few is None else few.leftover(self.mean_, scale)
            sample = _Sample(seen, self._resolve_mixtures(seen, max(sizes), rng))
            settles = n_rounds or any(balanced) or left is not seen
            n_last = n_rounds + len(sizes) if settles else 0
            n_steps = sum(map(self._n_steps, balanced)) + n_last
            with progress(self, n_steps, "iteration") as tick:
                levels = self._fit_levels(
                    sample, sizes, balanced, n_rounds, rng, tick, journal
                )
                parts = [journal.part(f"settled level {n}") for n in range(len(sizes))]
                if n_rounds and not parts[-1].saved:
                    self._refine(sample, levels, balanced, n_rounds, tick)
                if settles:
                    self._settle(left, sample, levels, balanced, tick, parts)
            journal.flush()
        self._publish_levels(levels, scale)
        return left

    def _publish_levels(self, levels, scale):
        """Attributes of the levels, in the units of the rows."""
        self.codebooks_ = [
            np.multiply(level.codebook.cpu().numpy(), scale, dtype=np.float32)
            for level in levels
        ]
        self.prices_ = [level.prices.cpu().numpy() * scale**2 for level in levels]
        self.duality_gap_ = np.array([level.gap for level in levels])
        self.n_iter_ = max(level.n_iter for level in levels)

    def _draw_sample(self, n_samples, rng):
        """Numbers of the rows to fit on, None for all."""
        if self.max_samples is None or self.max_samples >= n_samples:
            return None
        return np.sort(
            sample_without_replacement(n_samples, self.max_samples, random_state=rng)
        )

    def _resolve_mixtures(self, seen, n_codewords, rng):
        """Rows to learn from: those that are seen, or mixtures of them."""
        n_rows = resolve_augment(
            self.augment, partial(count_distinct, seen), n_codewords
        )
        if n_rows == 0:
            return seen
        rows = smoothed_bootstrap(seen, n_rows, rng).cpu().numpy()
        return Leftover(rows, np.zeros_like(rows[0]), 1.0, device=seen.device)

    def _resolve_scale(self, table):
        """A power of two near the largest deviation of all rows from the mean."""
        largest = table.largest(self.mean_)
        if largest and not 1e-36 < largest < 1e36:
            raise ValueError(
                f"X deviates from its mean by up to {largest:.3g}, which should be "
                "between 1e-36 and 1e36, the range of float32 codebooks. Rescale X."
            )
        return power_of_two(largest)

    def _n_steps(self, flag):
        """Most iterations of a level that is balanced, or not."""
        return self.n_init * self.max_iter + BALANCED_ITERATIONS * flag

    def _fit_levels(self, sample, sizes, balanced, n_rounds, rng, tick, journal):
        """Fit level after level on the sample."""
        levels, n_done = [], 0
        for number, (size, flag) in enumerate(zip(sizes, balanced, strict=True)):
            part = journal.part(f"level {number}")
            last = number + 1 == len(sizes)
            fit = partial(self._fit_level, sample, size, flag, last, n_rounds)
            level = part.once(Level, partial(fit, rng, tick, part))
            n_done += self._n_steps(flag)
            tick(to=n_done)
            levels.append(level)
            # Rows of a last level that is balanced are encoded when it is.
            if n_rounds or not (last and flag):
                sample.advance(level)
        found = [len(level.codebook) for level in levels]
        warn_of_fewer(sizes, found)
        return levels

    def _fit_level(self, sample, size, flag, last, n_rounds, rng, tick, journal):
        """Fit one level on the sample, with prices near balance."""
        # Of mixtures more may be different, and of few rows of many fewer.
        n_codewords = count_distinct(sample.seen, size)
        if sample.is_mixed:
            n_codewords = count_distinct(sample.rows, n_codewords)
        level = fit_codebook(
            sample.rows.points,
            n_codewords,
            rng,
            init=self.init,
            n_init=self.n_init,
            max_iter=self.max_iter,
            tol=self.tol,
            balance_tol=self.balance_tol if flag else None,
            tick=tick,
            journal=journal,
        )
        # What is left over, of mixtures too, is that of rows in balance: to the last of
        # them where codewords stay, and near enough where these move again.
        needed = sample.is_mixed if n_rounds else not last
        if flag and needed:
            return self._rebalance(sample, level, exact=not n_rounds)
        return level

    def _rebalance(self, sample, level, *, exact):
        """Balance a level on the rows that are seen, from prices near to that."""
        balance = balance_prices(
            sample.seen,
            level.codebook,
            self.balance_tol,
            level.prices,
            n_before=level.n_rows,
            exact=exact,
        )
        return replace(level, prices=balance.prices, n_rows=len(sample.seen))

    def _refine(self, sample, levels, balanced, n_rounds, tick):
        """Move the codewords of all levels jointly to where they serve the sample."""
        for n_done in range(n_rounds):
            if n_done:
                sample.restart()
                for number, (level, flag) in enumerate(
                    zip(levels, balanced, strict=True)
                ):
                    if flag:
                        levels[number] = self._rebalance(sample, level, exact=False)
                    sample.advance(levels[number])
            books = sample.rows.refined(self.beam_size)
            for number, (level, book) in enumerate(zip(levels, books, strict=True)):
                moved = torch.as_tensor(book, device=sample.rows.device)
                levels[number] = replace(level, codebook=moved)
            tick()

    def _settle(self, left, sample, levels, balanced, tick, parts):
        """Balance the levels on all rows, and encode these."""
        left.restart()
        for number, (level, flag) in enumerate(zip(levels, balanced, strict=True)):
            points = partial(sample.points_at, left, levels[:number])
            finish = partial(self._balance, left, level, flag, points)
            level = levels[number] = parts[number].once(Level, finish)
            advice = "Raise balance_tol, or lower codebook_sizes."
            warn_of_imbalance(number, level, len(left), advice)
            left.advance(_words_of(level))
            tick()

    def _balance(self, left, level, flag, points):
        """Give a level that should have them prices that balance all rows."""
        return balance_level(left, level, self.balance_tol, points) if flag else level


class _Sample(NamedTuple):
    """Rows that a fit sees, and those that it learns from: the same, or mixtures."""

    seen: Leftover
    rows: Leftover

    @property
    def is_mixed(self):
        """Whether these are different rows."""
        return self.rows is not self.seen

    def advance(self, level):
        """Subtract a level."""
        words = _words_of(level)
        for rows in self._different():
            rows.advance(words)

    def restart(self):
        """Return to before the first level."""
        for rows in self._different():
            rows.restart()

    def _different(self):
        return self if self.is_mixed else [self.rows]

    def points_at(self, left, levels):
        """What some levels leave over of the rows to learn from."""
        if self.rows is not left:
            self.rows.restart()
            for level in levels:
                self.rows.advance(_words_of(level))
        return self.rows.points


def _words_of(level):
    """Codewords of a level and their prices."""
    return Codewords(level.codebook, level.prices)
