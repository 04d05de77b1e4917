"""How many codewords to use: sizes against collisions and held-out errors."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from tabulate import tabulate

from sk_rqkplus._base import BaseQuantizer
from sk_rqkplus._frontier import REACH, SizePoint, fitted_rows, measure_sizes
from sk_rqkplus._inputs import check_matrix
from sk_rqkplus._rqkmeans import RQKMeans
from sk_rqkplus._text import sizes_text
from sk_rqkplus._warn import warn
from sk_rqkplus.plotting import CodebookSizeDisplay

__all__ = ["CodebookSuggestion", "SizePoint", "suggest_codebook_sizes"]

# Sizes that are tried: the largest powers of two that leave so many rows per codeword.
N_CANDIDATES = 6
LEAST_ROWS = 4
# Sizes from where on none lowers the held-out error by this share are too large.
GAIN = 0.01


@dataclass(frozen=True)
class CodebookSuggestion:
    """Codebook sizes that were tried, and the one to use.

    ``str(suggestion)`` is a table with the reason below.

    Attributes
    ----------
    codebook_sizes : tuple of int
        The recommended sizes.

    reason : str
        Why, in words.

    points : list of SizePoint
        Figures of all sizes that were tried, from few codes to many.

    n_samples : int
        Rows of the catalogue.

    n_fitted, n_encoded : int
        Rows that the models were fitted to, and that were encoded to count collisions.

    See Also
    --------
    suggest_codebook_sizes : Makes a suggestion.
    """

    codebook_sizes: tuple[int, ...]
    reason: str
    points: list[SizePoint]
    n_samples: int
    n_fitted: int
    n_encoded: int

    def __str__(self) -> str:
        rows = [
            [
                "*" if point.codebook_sizes == self.codebook_sizes else "",
                sizes_text(point.codebook_sizes),
                f"{point.rows_per_codeword:,.1f}",
                f"{point.collision_rate:.1%}",
                f"{point.error:.4g}",
                f"{point.fitted_error:.4g}",
            ]
            for point in self.points
        ]
        heads = ["", "sizes", "rows / codeword", "collisions"]
        heads += ["error, held out", "error, fitted"]
        align = ["left", "left", *["right"] * 4]
        table = tabulate(
            rows, heads, tablefmt="simple", disable_numparse=True, colalign=align
        )
        return f"{table}\n\n{self.reason}"

    def to_dict(self) -> dict:
        """Everything as plain Python, ready for ``json.dump``.

        Returns
        -------
        suggestion : dict
            The attributes.
        """
        return asdict(self)

    def plot(self, ax: Any = None) -> CodebookSizeDisplay:
        """Draw collisions and errors against the sizes.

        Parameters
        ----------
        ax : array-like of two matplotlib Axes, default=None
            Axes to draw on; None makes new ones.

        Returns
        -------
        display : CodebookSizeDisplay
            The display, with the recommended sizes marked.
        """
        display = CodebookSizeDisplay(points=self.points, marked=self.codebook_sizes)
        return display.plot(ax=ax)


def suggest_codebook_sizes(
    X: Any,
    n_levels: int = 3,
    *,
    candidates: Sequence[Any] | None = None,
    estimator: BaseQuantizer | None = None,
    max_collision_rate: float = 0.2,
    max_samples: int = 50_000,
    max_encoded: int = 1_000_000,
    random_state: Any = 0,
    verbose: int = 0,
) -> CodebookSuggestion:
    """Try codebook sizes on a subsample, and recommend one.

    Each size is fitted to a random subsample. The error is that of other rows, so that
    codebooks which learn their rows by heart show. Collisions are counted on all rows,
    or extrapolated where there are more than ``max_encoded``.

    Sizes are too large from where on none lowers the held-out error by 1 %. Of the
    others the smallest one with few enough collisions is recommended, or the one of
    least held-out error if none has so few.

    Read more in the :ref:`User Guide <suggest>`.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Item embeddings: an array, a DataFrame or a memory-mapped file.

    n_levels : int, default=3
        Number of levels.

    candidates : sequence, default=None
        Sizes to try: ints for equal levels, or one tuple of ``n_levels`` ints each.
        None tries up to six powers of two, the largest of which leaves at least four
        fitted rows per codeword.

    estimator : RQKMeans, RQKMeansPlus or RQVAE, default=None
        Template of the fits; None is a default :class:`~sk_rqkplus.RQKMeans`.

    max_collision_rate : float, default=0.2
        Collision rate of the codes, before IDs are made unique, that is few enough.

    max_samples : int, default=50_000
        Most rows to fit to. Of fewer rows 80 % are fitted.

    max_encoded : int, default=1_000_000
        Most rows to encode.

    random_state : int, RandomState instance or None, default=0
        Draws the rows and seeds the fits. See :term:`Glossary <random_state>`.

    verbose : int, default=0
        Show a progress bar.

    Returns
    -------
    suggestion : CodebookSuggestion
        The sizes with their figures, the recommended one and the reason.

    Raises
    ------
    TypeError
        If ``estimator`` is no quantiser of this package.

    ValueError
        If there are fewer than 2 rows, or a parameter is out of its range.

    Warns
    -----
    UserWarning
        If there are more than five times as many rows as are encoded: collision rates
        are then uncertain.

    Notes
    -----
    A fit to the whole catalogue has more rows per codeword than one to a subsample. Its
    held-out error is lower, most of all for large codebooks.

    Examples
    --------
    >>> from sk_rqkplus.datasets import make_catalogue
    >>> from sk_rqkplus.model_selection import suggest_codebook_sizes
    >>> X = make_catalogue(2000, 16, random_state=0).data
    >>> suggestion = suggest_codebook_sizes(X, 3, candidates=[8, 16, 32, 64])
    >>> len(suggestion.points)
    4
    >>> suggestion.codebook_sizes
    (32, 32, 32)
    """
    X = check_matrix(X, ensure_min_samples=2)
    estimator = RQKMeans() if estimator is None else estimator
    _check(estimator, n_levels, max_collision_rate, max_samples, max_encoded)
    n_encoded = min(len(X), max_encoded)
    n_fitted = fitted_rows(n_encoded, max_samples)
    if len(X) > REACH * n_encoded:
        warn(
            f"n_samples={len(X)} should be <= {REACH * n_encoded}, which is {REACH} "
            "times max_encoded. Raise max_encoded: collision rates are uncertain."
        )
    points = list(
        measure_sizes(
            estimator,
            X,
            resolve_candidates(candidates, n_levels, n_fitted),
            max_samples=max_samples,
            max_encoded=max_encoded,
            random_state=random_state,
            verbose=verbose,
        )
    )
    sizes, reason = choose(points, max_collision_rate)
    return CodebookSuggestion(sizes, reason, points, len(X), n_fitted, n_encoded)


def choose(
    points: Sequence[SizePoint], max_collision_rate: float
) -> tuple[tuple[int, ...], str]:
    """Recommend sizes, and say why.

    Parameters
    ----------
    points : sequence of SizePoint
        What there is to choose from, from few codes to many.

    max_collision_rate : float
        Collision rate that is low enough.

    Returns
    -------
    sizes : tuple of int
        Sizes of one of the points.

    reason : str
        Why this one.
    """
    errors = [point.error for point in points]
    n_sound = next(
        i
        for i in range(1, len(points) + 1)
        if min(errors[i:], default=np.inf) > (1 - GAIN) * min(errors[:i])
    )
    sound = points[:n_sound]
    enough = [point for point in sound if point.collision_rate <= max_collision_rate]
    chosen = enough[0] if enough else min(sound, key=lambda point: point.error)
    name = sizes_text(chosen.codebook_sizes)
    if enough:
        reason = (
            f"{name} is the smallest size with a collision rate of at most "
            f"{max_collision_rate:.0%}: {chosen.collision_rate:.1%}, at a held-out "
            f"error of {chosen.error:.3g}."
        )
    else:
        reason = (
            "No size that still lowers the held-out error has a collision rate of at "
            f"most {max_collision_rate:.0%}. {name} has the least error, "
            f"{chosen.error:.3g}, and a collision rate of {chosen.collision_rate:.1%}. "
            "Add a level, or let dedup make IDs unique."
        )
    if n_sound < len(points):
        reason += (
            f" From {sizes_text(points[n_sound].codebook_sizes)} on the held-out error "
            f"falls by less than {GAIN:.0%}: codewords learn their rows by heart."
        )
    return chosen.codebook_sizes, reason


def resolve_candidates(
    candidates: Sequence[Any] | None, n_levels: int, n_fitted: int
) -> list[tuple[int, ...]]:
    """Put the sizes to try in order, from few codes to many.

    Parameters
    ----------
    candidates : sequence or None
        Ints, tuples of one int per level, or None.

    n_levels : int
        Number of levels.

    n_fitted : int
        Rows that are fitted.

    Returns
    -------
    sizes : list of tuple of int
        One tuple per candidate.
    """
    if candidates is None:
        last = max(1, int(np.log2(max(2, n_fitted / LEAST_ROWS))))
        candidates = [2**i for i in range(max(1, last - N_CANDIDATES + 1), last + 1)]
    resolved = set()
    for candidate in candidates:
        sizes = np.asarray(candidate)
        if sizes.ndim == 0:
            sizes = np.repeat(sizes, n_levels)
        if sizes.dtype.kind not in "iu" or sizes.shape != (n_levels,) or min(sizes) < 1:
            raise ValueError(
                f"candidates have {candidate!r}, which should be an int >= 1 or a "
                f"tuple of n_levels={n_levels} of them."
            )
        resolved.add(tuple(sizes.tolist()))
    if not resolved:
        raise ValueError(
            f"candidates={candidates!r} should have at least one size. Give for "
            "example [64, 128, 256]."
        )
    return sorted(resolved, key=lambda sizes: (np.prod(sizes, dtype=float), sizes))


def _check(
    estimator: Any,
    n_levels: Any,
    max_collision_rate: Any,
    max_samples: Any,
    max_encoded: Any,
) -> None:
    if not isinstance(estimator, BaseQuantizer):
        raise TypeError(
            f"estimator={estimator!r} should be an RQKMeans, RQKMeansPlus or RQVAE. "
            "Give one as a template, and transform X first by what comes before it."
        )
    for name, value, least in (
        ("n_levels", n_levels, 1),
        ("max_samples", max_samples, 1),
        ("max_encoded", max_encoded, 2),
    ):
        if not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name}={value!r} should be an int >= {least}.")
    if (
        not isinstance(max_collision_rate, Real)
        or not 0 <= float(max_collision_rate) <= 1
    ):
        raise ValueError(
            f"max_collision_rate={max_collision_rate!r} should be in [0, 1]. Give a "
            "share of the items, such as 0.2."
        )
