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

# A sample tells the collision rate of so many times as many rows; docs/report.rst has
# the measured errors. Beyond it is a bound from above.
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

    With D codes in use among m rows, of which :math:`f_1` have one row and :math:`f_2`
    two, n rows are expected to use

    .. math:: D + f_0 \Bigl(1 - \bigl(1 - \tfrac{f_1}{m f_0 + f_1}\bigr)^{n - m}\Bigr),
        \qquad f_0 = \frac{m - 1}{m} \frac{f_1^2}{2 f_2}

    codes, the extrapolation that ecologists use for the number of species.

    Parameters
    ----------
    codes : ndarray of shape (m, n_levels), int
        Codes of rows that the model was not fitted to.

    n_samples : int
        Number of rows n, at least m.

    Returns
    -------
    rate : float
        Collision rate.

    References
    ----------
    Chao et al., "Rarefaction and extrapolation with Hill numbers", Ecological
    Monographs 84, 2014, equation 9.

    Examples
    --------
    Without any repetition there is nothing to extrapolate from but luck:

    >>> import numpy as np
    >>> from sk_rqkplus._frontier import extrapolate_collisions
    >>> extrapolate_collisions(np.array([[0], [0], [0], [0]]), 8)
    0.875
    """
    sizes = group_sizes(codes)
    m, distinct = len(codes), float(len(sizes))
    once, twice = int((sizes == 1).sum()), int((sizes == 2).sum())
    unseen = (m - 1) / m * (once**2 / (2 * twice) if twice else once * (once - 1) / 2)
    if unseen > 0:
        miss = math.log1p(-once / (m * unseen + once))
        distinct += -math.expm1((n_samples - m) * miss) * unseen
    return 1 - distinct / n_samples


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
