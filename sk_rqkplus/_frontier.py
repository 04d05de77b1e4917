"""Codebook sizes against collisions and errors, from fits to a subsample."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state
from sklearn.utils.random import sample_without_replacement
from tqdm.auto import tqdm

from sk_rqkplus import metrics
from sk_rqkplus._base import CHUNK_ROWS, BaseQuantizer
from sk_rqkplus._prefixes import group_sizes

# Up to so many times the rows of a sample its collision rate is extrapolated well, see
# docs/report.rst.
REACH = 5
# Share of the rows that are fitted, where there are not enough to hold as many out.
FITTED = 0.8


@dataclass(frozen=True)
class SizePoint:
    """What codebooks of some sizes come to.

    Attributes
    ----------
    codebook_sizes : tuple of int
        Codewords per level.

    n_codes : int
        Number of codes that they can make.

    rows_per_codeword : float
        Rows of the whole catalogue per codeword of the largest codebook.

    collision_rate : float
        Of the whole catalogue: counted if all of it was encoded, else extrapolated.

    counted_collision_rate : float
        Counted on the rows that were encoded.

    error : float
        Mean squared reconstruction error of rows that were not fitted.

    fitted_error : float
        The same of the rows that were fitted.
    """

    codebook_sizes: tuple[int, ...]
    n_codes: int
    rows_per_codeword: float
    collision_rate: float
    counted_collision_rate: float
    error: float
    fitted_error: float


def extrapolate_collisions(codes: np.ndarray, n_samples: int) -> float:
    r"""Expected collision rate of more rows like those of a sample.

    What a random part of the sample would show is known: with :math:`s_k` rows of code
    k among m, a share q of the rows is expected to use

    .. math:: D(q m) = \sum_k 1 - (1 - q)^{s_k}

    codes. The log-odds of :math:`D(x) / x`, the share of rows that have a code of their
    own, are nearly straight in :math:`\log x`. They are continued to n rows by the
    parabola through the whole sample, a half and a quarter of it.

    Parameters
    ----------
    codes : ndarray of shape (m, n_levels), int
        Codes of a random sample of the rows.

    n_samples : int
        Number of rows n, at least m.

    Returns
    -------
    rate : float
        Collision rate; that of the sample where it has no collision.

    References
    ----------
    Heck et al., "Explicit calculation of the rarefaction diversity measurement and the
    determination of sufficient sample size", Ecology 56, 1975. The continuation is this
    project's; docs/report.rst has its errors.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_rqkplus._frontier import extrapolate_collisions
    >>> codes = np.random.RandomState(0).randint(1000, size=(4000, 1))
    >>> float(1 - len(np.unique(codes)) / 4000)
    0.7...
    >>> extrapolate_collisions(codes[:2000], 4000)
    0.7...
    """
    sizes, m = group_sizes(codes), len(codes)
    counted = 1 - len(sizes) / m
    if counted == 0 or n_samples == m:
        return counted
    part = np.array([1, 1 / 2, 1 / 4])
    own = (1 - (1 - part) ** sizes[:, None]).sum(axis=0) / (part * m)
    parabola = np.polyfit(np.log(part), np.log(own / (1 - own)), 2)
    log_odds = np.polyval(parabola, math.log(n_samples / m))
    return max(counted, float(1 / (1 + np.exp(log_odds))))


def measure_sizes(
    estimator: BaseQuantizer,
    X: np.ndarray,
    candidates: Sequence[tuple[int, ...]],
    *,
    max_samples: int,
    max_encoded: int,
    random_state: Any,
    verbose: int = 0,
) -> Iterator[SizePoint]:
    """Fit clones of an estimator to a subsample, one for each choice of sizes.

    Parameters
    ----------
    estimator : BaseQuantizer
        Template of the fits.

    X : ndarray of shape (n_samples, n_features)
        Rows of the whole catalogue.

    candidates : sequence of tuple of int
        Codebook sizes to try.

    max_samples, max_encoded : int
        Most rows to fit to, and to encode.

    random_state : int, RandomState instance or None
        Draws the rows, and seeds the fits.

    verbose : int, default=0
        Show a progress bar.

    Yields
    ------
    point : SizePoint
        Figures of one candidate.
    """
    rng = check_random_state(random_state)
    rows = sample_without_replacement(
        len(X), min(len(X), max_encoded), random_state=rng
    )
    rng.shuffle(rows)
    n_fitted = fitted_rows(len(rows), max_samples)
    fitted = X[np.sort(rows[:n_fitted])]
    held_out = X[np.sort(rows[n_fitted : n_fitted + max_samples])]
    rows.sort()
    seed = rng.randint(2**31 - 1)
    for sizes in tqdm(candidates, unit="fit", disable=not verbose):
        model = clone(estimator).set_params(
            codebook_sizes=sizes,
            dedup="suffix",
            store_catalogue=False,
            random_state=seed,
        )
        model.fit(fitted)
        parts = (rows[i : i + CHUNK_ROWS] for i in range(0, len(rows), CHUNK_ROWS))
        codes = np.vstack([model._encode(X[part]) for part in parts])
        yield SizePoint(
            codebook_sizes=sizes,
            n_codes=math.prod(sizes),
            rows_per_codeword=len(X) / max(sizes),
            collision_rate=extrapolate_collisions(codes, len(X)),
            counted_collision_rate=metrics.collision_rate(codes),
            error=-model.score(held_out),
            fitted_error=-model.score(fitted),
        )


def fitted_rows(n_encoded: int, max_samples: int) -> int:
    """How many of the encoded rows are fitted, such that some are held out."""
    return max(1, min(max_samples, int(FITTED * n_encoded)))
