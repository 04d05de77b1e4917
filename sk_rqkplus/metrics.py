"""Figures of quality of codes and IDs: arrays in, floats out.

Figures that count look at all items. Figures that compare embeddings look at a sample
of pairs or of queries and return an :class:`Estimate`, a value with an interval. ``X``
may be a memory map: it is read a chunk at a time and never copied as a whole, if its
dtype is float32 or float64.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from sklearn.utils import check_random_state

from sk_rqkplus._groups import as_array, check_integers
from sk_rqkplus._inputs import check_matrix
from sk_rqkplus._neighbours import METRICS, Points, code_neighbours
from sk_rqkplus._pairs import (
    GROUP_WEIGHT,
    pairs_in_groups,
    similarities,
    squared_distances,
)
from sk_rqkplus._prefixes import group_sizes, sort_by_prefix

__all__ = [
    "Estimate",
    "code_gini",
    "code_neighbour_recall",
    "codebook_utilisation",
    "collision_rate",
    "distance_correlation",
    "embedding_hit_rate",
    "entropy",
    "gini",
    "independent_coding_rate",
    "joint_utilisation",
    "largest_group",
    "load_cv",
    "neighbour_recall",
    "path_average_similarity",
    "perplexity",
    "prefix_cohesion",
    "random_pair_similarity",
    "reconstruction_mse",
    "reconstruction_r2",
    "shared_code_rate",
]

CONFIDENCE = 0.95
CHUNK_VALUES = 2**22
# Samples that a correlation is also computed on, to see how much it varies.
BATCHES = 20
# Distances that differ by less than this share are the same but for rounding.
SAME_DISTANCE = 1e-9
# The sum of the squares of a row of such values is finite in float64.
LARGEST = 1e100


class Estimate(NamedTuple):
    """A figure from a sample, with its 95 % confidence interval.

    The interval says how far the figure of all pairs, or of all queries, of these very
    arrays may be away. It says nothing about other catalogues or other seeds of a fit.
    Where all of them were looked at, it is the value alone; so it is where all values
    of a sample are the same, although others may differ.

    Attributes
    ----------
    value : float
        The figure; NaN where it is not defined.

    low, high : float
        Bounds of the interval.
    """

    value: float
    low: float
    high: float


UNDEFINED = Estimate(np.nan, np.nan, np.nan)


def collision_rate(codes) -> float:
    r"""Share of items that are one too many for their code.

    .. math:: 1 - \frac{\text{number of distinct codes}}{n}

    Of m items that share a code, m - 1 count. It is 0 when all codes differ. The other
    definition in use, where all m count, is :func:`shared_code_rate`.

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
    sizes = group_sizes(_check_codes(codes))
    return float(1 - len(sizes) / sizes.sum())


def shared_code_rate(codes) -> float:
    r"""Share of items whose code another item has too.

    .. math:: \frac{1}{n} \sum_{g:\, m_g > 1} m_g

    with :math:`m_g` the number of items of code g. It is the collision rate in the
    sense of "items that collide", and at least as large as :func:`collision_rate`.

    Parameters
    ----------
    codes : array-like of shape (n_samples, n_levels), int
        One code per item.

    Returns
    -------
    rate : float
        In [0, 1].

    References
    ----------
    One minus the independent coding rate of OneSearch (arXiv 2509.03236).

    Examples
    --------
    >>> from sk_rqkplus.metrics import shared_code_rate
    >>> shared_code_rate([[0, 1], [0, 1], [0, 2], [3, 1]])
    0.5
    """
    sizes = group_sizes(_check_codes(codes))
    return float(sizes[sizes > 1].sum() / sizes.sum())


def independent_coding_rate(codes) -> float:
    r"""Share of items that have their code for themselves.

    .. math:: \text{ICR} = \frac{|\{g : m_g = 1\}|}{n}

    with :math:`m_g` the number of items of code g: one minus
    :func:`shared_code_rate`.

    Parameters
    ----------
    codes : array-like of shape (n_samples, n_levels), int
        One code per item.

    Returns
    -------
    rate : float
        In [0, 1].

    References
    ----------
    OneSearch (arXiv 2509.03236), Table 2; the definition is that of the code which its
    authors published.

    Examples
    --------
    >>> from sk_rqkplus.metrics import independent_coding_rate
    >>> independent_coding_rate([[0, 1], [0, 1], [0, 2], [3, 1]])
    0.5
    """
    sizes = group_sizes(_check_codes(codes))
    return float((sizes == 1).sum() / sizes.sum())


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

    References
    ----------
    MiniOneRec (arXiv 2510.24431), whose code prints it.

    Examples
    --------
    >>> from sk_rqkplus.metrics import largest_group
    >>> largest_group([[0, 1], [0, 1], [0, 2], [3, 1]])
    2
    """
    return int(group_sizes(_check_codes(codes)).max())


def entropy(codes) -> np.ndarray:
    r"""Entropy of the use of codewords at every level, in nats.

    .. math:: H = -\sum_k p_k \ln p_k

    with :math:`p_k` the share of items of codeword k.

    Parameters
    ----------
    codes : array-like of shape (n_samples, n_levels), int
        One code per item.

    Returns
    -------
    values : ndarray of shape (n_levels,)
        From 0, one codeword, to ``log(K)``, K codewords used equally often.

    References
    ----------
    OneRec technical report (arXiv 2506.13695), which compares tokenisers by it.

    Examples
    --------
    >>> from sk_rqkplus.metrics import entropy
    >>> entropy([[0, 0], [1, 0], [2, 0], [3, 0]]).round(4)
    array([1.3863, 0.    ])
    """
    codes = _check_codes(codes)
    # stats.entropy divides counts by their sum.
    values = [stats.entropy(group_sizes(column[:, None])) for column in codes.T]
    return np.array(values) + 0.0


def perplexity(codes, codebook_sizes=None) -> np.ndarray:
    r"""Effective number of codewords in use at every level.

    .. math:: \exp(H) = \exp\Bigl(-\sum_k p_k \ln p_k\Bigr)

    with :math:`p_k` the share of items of codeword k. It equals K when K codewords are
    used equally often. With ``codebook_sizes`` it is divided by them, so that 1 is the
    most there can be.

    Parameters
    ----------
    codes : array-like of shape (n_samples, n_levels), int
        One code per item.

    codebook_sizes : array-like of shape (n_levels,), int, optional
        Number of codewords per level.

    Returns
    -------
    values : ndarray of shape (n_levels,)
        Perplexity per level, at least 1; or its share of the codebook size.

    References
    ----------
    The usual figure for models after van den Oord et al., "Neural Discrete
    Representation Learning", 2017.

    Examples
    --------
    >>> from sk_rqkplus.metrics import perplexity
    >>> codes = [[0, 0], [1, 0], [2, 0], [3, 0]]
    >>> perplexity(codes)
    array([4., 1.])
    >>> perplexity(codes, [4, 4])
    array([1.  , 0.25])
    """
    values = np.exp(entropy(codes))
    if codebook_sizes is None:
        return values
    return values / _check_sizes(_check_codes(codes), codebook_sizes)


def codebook_utilisation(codes, codebook_sizes) -> np.ndarray:
    r"""Share of the codewords of every level that some item uses.

    .. math:: \text{CUR}_l = \frac{|\{k : n_{lk} > 0\}|}{K_l}

    with :math:`n_{lk}` the number of items of codeword k of level l.

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
    GPR (arXiv 2511.10138), whose codebook usage rate ``CUR_L1`` is the first value.

    Examples
    --------
    >>> from sk_rqkplus.metrics import codebook_utilisation
    >>> codebook_utilisation([[0, 1], [0, 1], [1, 2]], [2, 4])
    array([1. , 0.5])
    """
    codes = _check_codes(codes)
    sizes = _check_sizes(codes, codebook_sizes)
    return np.array([(load > 0).mean() for load in _loads(codes, sizes)])


def joint_utilisation(codes, codebook_sizes, n_levels=None) -> float:
    r"""Share of all possible prefixes that some item uses.

    .. math:: \frac{\text{number of distinct prefixes of } l \text{ levels}}
        {K_1 K_2 \cdots K_l}

    It cannot exceed n over the number of possible prefixes, which for complete codes is
    small by design: compare it at equal sizes and equal n only.

    Parameters
    ----------
    codes : array-like of shape (n_samples, n_levels), int
        One code per item.

    codebook_sizes : array-like of shape (n_levels,), int
        Number of codewords per level.

    n_levels : int, optional
        Length of the prefixes; None means complete codes.

    Returns
    -------
    value : float
        In (0, 1].

    References
    ----------
    OneSearch (arXiv 2509.03236), Table 2: ``CUR_L1xL2`` is that of two levels,
    ``CUR_Total`` that of all.

    Examples
    --------
    >>> from sk_rqkplus.metrics import joint_utilisation
    >>> joint_utilisation([[0, 1], [0, 1], [1, 2]], [2, 4])
    0.25
    """
    codes = _check_codes(codes)
    sizes = _check_sizes(codes, codebook_sizes)
    if n_levels is None:
        n_levels = codes.shape[1]
    _check_count("n_levels", n_levels, 1, codes.shape[1])
    # As a float: the product may not fit into an integer.
    possible = np.prod(sizes[:n_levels], dtype=np.float64)
    return float(len(group_sizes(codes[:, :n_levels])) / possible)


def gini(codes, codebook_sizes) -> np.ndarray:
    r"""Gini coefficient of the number of items per codeword, per level.

    .. math:: G = \frac{\sum_{i=1}^{K} (2 i - K - 1)\, n_{(i)}}{K \sum_i n_{(i)}}

    with :math:`n_{(1)} \le \dots \le n_{(K)}` the sorted numbers of items; codewords
    without items count.

    Parameters
    ----------
    codes : array-like of shape (n_samples, n_levels), int
        One code per item.

    codebook_sizes : array-like of shape (n_levels,), int
        Number of codewords per level.

    Returns
    -------
    values : ndarray of shape (n_levels,)
        From 0, all codewords have equally many items, to ``1 - 1 / K``, one has all.

    See Also
    --------
    code_gini : The same figure over complete codes.

    References
    ----------
    FORGE (arXiv 2509.20904) proposes the Gini coefficient to compare tokenisers without
    training a recommender.

    Examples
    --------
    >>> from sk_rqkplus.metrics import gini
    >>> gini([[0], [0], [0], [1]], [2])
    array([0.25])
    """
    codes = _check_codes(codes)
    sizes = _check_sizes(codes, codebook_sizes)
    return np.array([_gini(load) for load in _loads(codes, sizes)])


def code_gini(codes) -> float:
    r"""Gini coefficient of the number of items per code, over the codes in use.

    .. math:: G = \frac{\sum_{i=1}^{M} (2 i - M - 1)\, m_{(i)}}{M \sum_i m_{(i)}}

    with :math:`m_{(1)} \le \dots \le m_{(M)}` the sorted numbers of items of the M
    codes that some item has. Codes that no item has do not count, unlike codewords in
    :func:`gini`.

    Parameters
    ----------
    codes : array-like of shape (n_samples, n_levels), int
        One code per item.

    Returns
    -------
    value : float
        0 where all codes in use have equally many items, below 1.

    References
    ----------
    FORGE (arXiv 2509.20904), as the code which its authors published has it.

    Examples
    --------
    >>> from sk_rqkplus.metrics import code_gini
    >>> code_gini([[0, 0], [0, 0], [0, 0], [1, 1]])
    0.25
    """
    return _gini(group_sizes(_check_codes(codes)))


def load_cv(codes, codebook_sizes) -> np.ndarray:
    """Coefficient of variation of the number of items per codeword, per level.

    Standard deviation of the numbers over their mean; codewords without items count.

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

    References
    ----------
    Shazeer et al., "Outrageously Large Neural Networks", 2017, section 4, measure the
    load of experts by its square.

    Examples
    --------
    >>> from sk_rqkplus.metrics import load_cv
    >>> load_cv([[0], [0], [0], [1]], [2])
    array([0.5])
    """
    codes = _check_codes(codes)
    sizes = _check_sizes(codes, codebook_sizes)
    return np.array([load.std() / load.mean() for load in _loads(codes, sizes)])


def reconstruction_mse(X, X_reconstructed) -> float:
    r"""Mean over all values of the squared difference of rows and reconstructions.

    .. math:: \frac{1}{n d} \sum_i \lVert x_i - \hat x_i \rVert^2

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

    References
    ----------
    The distortion of vector quantisation: Gersho and Gray, "Vector Quantization and
    Signal Compression", 1992.

    Examples
    --------
    >>> from sk_rqkplus.metrics import reconstruction_mse
    >>> reconstruction_mse([[1.0, 2.0]], [[1.0, 4.0]])
    2.0
    """
    X, other = _check_reconstruction(X, X_reconstructed)
    return _sum_of_squares(X, lambda chunk: other[chunk]) / X.size


def reconstruction_r2(X, X_reconstructed) -> float:
    r"""Share of the variance of the rows that reconstructions explain.

    .. math:: R^2 = 1 - \frac{\sum_i \lVert x_i - \hat x_i \rVert^2}
        {\sum_i \lVert x_i - \bar x \rVert^2}

    with :math:`\bar x` the mean of the rows given. It gives the error a scale: 0 is
    what one codeword at the mean achieves.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings.

    X_reconstructed : array-like of shape (n_samples, n_features)
        What ``inverse_transform`` makes of their codes.

    Returns
    -------
    share : float
        At most 1. Where all rows are equal it is 1 without error and else 0, as in
        scikit-learn.

    See Also
    --------
    sklearn.metrics.r2_score : The same with ``multioutput="variance_weighted"``.

    References
    ----------
    The coefficient of determination, summed over the features.

    Examples
    --------
    >>> from sk_rqkplus.metrics import reconstruction_r2
    >>> reconstruction_r2([[0.0], [2.0], [4.0]], [[1.0], [2.0], [3.0]])
    0.75
    """
    X, other = _check_reconstruction(X, X_reconstructed)
    error = _sum_of_squares(X, lambda chunk: other[chunk])
    # The first row is near the others, so that equal rows have a spread of exactly 0.
    first = X[0].astype(np.float64)
    total = sum(_minus(X[chunk], first).sum(axis=0) for chunk in _chunks(X))
    spread = _sum_of_squares(X, lambda chunk: first + total / len(X))
    if spread == 0:
        return float(error == 0)
    return 1 - error / spread


def random_pair_similarity(X, *, n_pairs=100_000, random_state=0) -> Estimate:
    r"""Mean cosine similarity of two different items drawn at random.

    .. math:: \frac{2}{n (n - 1)} \sum_{i < j} \cos(x_i, x_j)

    The baseline of :func:`path_average_similarity` and :func:`prefix_cohesion`:
    embeddings of language models are rarely near 0.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings.

    n_pairs : int, default=100_000
        Number of pairs to draw, with replacement; all pairs where there are no more.

    random_state : int, RandomState instance or None, default=0
        Which pairs are drawn. See :term:`Glossary <random_state>`.

    Returns
    -------
    similarity : Estimate
        From -1 to 1, with an interval from the normal approximation.

    References
    ----------
    The baseline is this project's addition to the figure of GPR (arXiv 2511.10138).

    Examples
    --------
    >>> from sk_rqkplus.metrics import random_pair_similarity
    >>> round(random_pair_similarity([[1, 0], [3, 4], [0, 1], [0, 2]]).value, 4)
    0.5333
    """
    X = _check_X(X, ensure_min_samples=2)
    _check_count("n_pairs", n_pairs, 2)
    everything = np.array([0, len(X)])
    order = np.arange(len(X))
    rng = check_random_state(random_state)
    return _group_similarity(X, order, everything, n_pairs, "pair", rng)


def path_average_similarity(
    codes, X, *, n_pairs=100_000, average="pair", random_state=0
) -> Estimate:
    r"""Mean cosine similarity of the embeddings of two items that share their code.

    .. math:: \text{PAS} = \operatorname{mean}_{i < j,\, \text{code}_i = \text{code}_j}
        \cos(x_i, x_j)

    High values mean that items which collide are alike. Compare it with
    :func:`random_pair_similarity`. Copies of an embedding collide in any model and have
    similarity 1: leave them out if they are many.

    Parameters
    ----------
    codes : array-like of shape (n_samples, n_levels), int
        One code per item.

    X : array-like of shape (n_samples, n_features)
        Embeddings of the items.

    n_pairs : int, default=100_000
        Number of pairs to draw, with replacement; all pairs where there are no more.

    average : {"pair", "item", "group"}, default="pair"
        What has equal weight: every pair, so that large groups dominate; every item
        that shares its code; or every code that is shared.

    random_state : int, RandomState instance or None, default=0
        Which pairs are drawn. See :term:`Glossary <random_state>`.

    Returns
    -------
    similarity : Estimate
        From -1 to 1, with an interval from the normal approximation; NaN where no two
        items share a code.

    References
    ----------
    GPR (arXiv 2511.10138). A public reimplementation takes ``average="group"``.

    Examples
    --------
    >>> from sk_rqkplus.metrics import path_average_similarity
    >>> codes = [[0, 1], [0, 1], [2, 2]]
    >>> path_average_similarity(codes, [[1.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    Estimate(value=0.6, low=0.6, high=0.6)
    """
    codes = _check_codes(codes)
    levels = [codes.shape[1]]
    return _cohesion(codes, X, levels, n_pairs, average, random_state)[0]


def prefix_cohesion(
    codes, X, *, n_pairs=100_000, average="pair", random_state=0
) -> list[Estimate]:
    r"""Mean cosine similarity of two items that share the first l codes, per level.

    .. math:: \operatorname{mean}_{i < j,\, \text{code}_i[:l] = \text{code}_j[:l]}
        \cos(x_i, x_j) \qquad l = 1, \dots, L

    In a good hierarchy it rises from level to level, from well above
    :func:`random_pair_similarity`. The last value is
    :func:`path_average_similarity`.

    Parameters
    ----------
    codes : array-like of shape (n_samples, n_levels), int
        One code per item.

    X : array-like of shape (n_samples, n_features)
        Embeddings of the items.

    n_pairs : int, default=100_000
        Number of pairs to draw for every level, with replacement; all pairs where there
        are no more.

    average : {"pair", "item", "group"}, default="pair"
        What has equal weight: every pair, so that large groups dominate; every item
        that shares its prefix; or every prefix that is shared.

    random_state : int, RandomState instance or None, default=0
        Which pairs are drawn. See :term:`Glossary <random_state>`.

    Returns
    -------
    similarities : list of n_levels Estimates
        From -1 to 1, with intervals from the normal approximation; NaN where no two
        items share a prefix.

    References
    ----------
    The figure of GPR (arXiv 2511.10138) for every prefix instead of the code alone.

    Examples
    --------
    >>> from sk_rqkplus.metrics import prefix_cohesion
    >>> codes = [[0, 1], [0, 1], [0, 2]]
    >>> X = [[1.0, 0.0], [3.0, 4.0], [0.0, 1.0]]
    >>> [round(level.value, 4) for level in prefix_cohesion(codes, X)]
    [0.4667, 0.6]
    """
    codes = _check_codes(codes)
    levels = list(range(1, codes.shape[1] + 1))
    return _cohesion(codes, X, levels, n_pairs, average, random_state)


def neighbour_recall(
    X, X_reconstructed, *, k=10, n_queries=1000, metric="euclidean", random_state=0
) -> Estimate:
    r"""Share of the nearest neighbours that reconstructed embeddings keep.

    .. math:: \text{recall@}k = \operatorname{mean}_q
        \frac{|\{j \in \hat N_k(q) : d(x_q, x_j) \le r_k(q)\}|}{k}

    with :math:`\hat N_k(q)` the k nearest of the other items by reconstructed
    embeddings, and :math:`r_k(q)` the distance of the k-th nearest by embeddings.

    Neighbours are exact, and the query is not its own neighbour. Items that are equally
    near are equally right: a found item counts if it is no farther than the k-th
    neighbour. Items of one code have the same reconstruction; where only some of them
    are among the k nearest, these are drawn at random, so that the order of the rows
    has no say. At random, recall is ``k / (n_samples - 1)``.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings.

    X_reconstructed : array-like of shape (n_samples, n_other_features)
        What ``inverse_transform`` makes of their codes, or any other embeddings of the
        same items.

    k : int, default=10
        Number of neighbours, less than ``n_samples``.

    n_queries : int, default=1000
        Number of items whose neighbours are looked up, drawn without replacement; all
        items where there are no more.

    metric : {"euclidean", "cosine"}, default="euclidean"
        Distance, of both kinds of embeddings.

    random_state : int, RandomState instance or None, default=0
        Which queries are drawn, and how ties are broken. See :term:`Glossary
        <random_state>`.

    Returns
    -------
    recall : Estimate
        From 0 to 1, with an interval from the normal approximation.

    References
    ----------
    Jégou et al., "Product Quantization for Nearest Neighbor Search", 2011, measure
    quantisers by recall. That ties count is the rule of Aumüller et al.,
    "ANN-Benchmarks", 2020.

    Examples
    --------
    >>> from sk_rqkplus.metrics import neighbour_recall
    >>> X = [[0.0], [1.0], [3.0], [7.0]]
    >>> neighbour_recall(X, [[0.0], [5.0], [6.0], [8.0]], k=1)
    Estimate(value=0.75, low=0.75, high=0.75)
    """
    X = _check_X(X, ensure_min_samples=2)
    other = _check_X(X_reconstructed, "X_reconstructed")
    _check_lengths("X_reconstructed", other, "X", X)
    _check_choice("metric", metric, METRICS)
    rng = check_random_state(random_state)
    queries = _draw_queries(X, k, n_queries, rng)
    found = Points(other, metric).neighbours(queries, k, rng)
    return _recall(X, queries, found, metric)


def code_neighbour_recall(
    X, codes, *, k=10, n_queries=1000, metric="euclidean", random_state=0
) -> Estimate:
    r"""Share of the nearest neighbours that codes alone find.

    .. math:: \text{recall@}k = \operatorname{mean}_q
        \frac{|\{j \in C_k(q) : d(x_q, x_j) \le r_k(q)\}|}{k}

    with :math:`C_k(q)` k of the other items that share the longest prefixes with the
    query: first the items of its code, then those that share all levels but the last,
    and so on. Within equal length they are drawn at random. :math:`r_k(q)` is the
    distance of the k-th nearest by embeddings.

    What a recommender sees are tokens, not reconstructions: this figure is that of the
    prefix tree alone. At random, recall is ``k / (n_samples - 1)``.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings.

    codes : array-like of shape (n_samples, n_levels), int
        One code per item.

    k : int, default=10
        Number of neighbours, less than ``n_samples``.

    n_queries : int, default=1000
        Number of items whose neighbours are looked up, drawn without replacement; all
        items where there are no more.

    metric : {"euclidean", "cosine"}, default="euclidean"
        Distance of the embeddings.

    random_state : int, RandomState instance or None, default=0
        Which queries are drawn, and how ties are broken. See :term:`Glossary
        <random_state>`.

    Returns
    -------
    recall : Estimate
        From 0 to 1, with an interval from the normal approximation.

    See Also
    --------
    neighbour_recall : The same for reconstructed embeddings.

    References
    ----------
    This project's definition; recall is that of Jégou et al., "Product Quantization for
    Nearest Neighbor Search", 2011.

    Examples
    --------
    >>> from sk_rqkplus.metrics import code_neighbour_recall
    >>> X = [[0.0], [1.0], [5.0], [7.0]]
    >>> code_neighbour_recall(X, [[0, 0], [0, 1], [1, 1], [1, 1]], k=1)
    Estimate(value=1.0, low=1.0, high=1.0)
    """
    X = _check_X(X, ensure_min_samples=2)
    codes = _check_codes(codes)
    _check_lengths("codes", codes, "X", X)
    _check_choice("metric", metric, METRICS)
    rng = check_random_state(random_state)
    queries = _draw_queries(X, k, n_queries, rng)
    found = code_neighbours(sort_by_prefix(codes), queries, k, rng)
    return _recall(X, queries, found, metric)


def embedding_hit_rate(
    X, pairs, *, k=10, n_queries=1000, metric="cosine", random_state=0
) -> Estimate:
    r"""Share of the items known to belong to an item that are among its neighbours.

    .. math:: \text{EmbHitRate@}k = \operatorname{mean}_q
        \frac{|R_q \cap \text{top-}k(q)|}{|R_q|}

    with :math:`R_q` the items that are paired with q, such as those bought or clicked
    together, and top-k(q) the k nearest of the other items by embeddings.

    It tells whether embeddings are fit for a recommender before any is trained. Given
    reconstructed embeddings, it tells what quantisation has left of it.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings.

    pairs : array-like of shape (n_pairs, 2), int
        Row numbers: a query and an item that belongs to it. Pairs given twice count
        once, pairs of an item with itself do not count. Give both orders where the
        relation is symmetric.

    k : int, default=10
        Number of neighbours, less than ``n_samples``.

    n_queries : int, default=1000
        Number of queries to look at, drawn without replacement; all queries that have
        pairs where there are no more.

    metric : {"euclidean", "cosine"}, default="cosine"
        Distance of the embeddings.

    random_state : int, RandomState instance or None, default=0
        Which queries are drawn, and how ties are broken. See :term:`Glossary
        <random_state>`.

    Returns
    -------
    rate : Estimate
        From 0 to 1, with an interval from the normal approximation; NaN without pairs.

    References
    ----------
    FORGE (arXiv 2509.20904).

    Examples
    --------
    >>> from sk_rqkplus.metrics import embedding_hit_rate
    >>> X = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.2, 1.0]]
    >>> embedding_hit_rate(X, [[0, 1], [0, 2], [3, 2]], k=1)
    Estimate(value=0.75, low=0.75, high=0.75)
    """
    X = _check_X(X, ensure_min_samples=2)
    pairs = _check_pairs(pairs, len(X))
    _check_count("k", k, 1, len(X) - 1)
    _check_count("n_queries", n_queries, 2)
    _check_choice("metric", metric, METRICS)
    known, n_known = np.unique(pairs[:, 0], return_counts=True)
    if len(known) == 0:
        return UNDEFINED
    rng = check_random_state(random_state)
    chosen = _draw(len(known), n_queries, rng)
    queries = known[chosen]
    found = Points(X, metric).neighbours(queries, k, rng)
    keys = pairs[:, 0] * len(X) + pairs[:, 1]
    hits = np.isin(queries[:, None] * len(X) + found, keys).sum(axis=1)
    return _mean(hits / n_known[chosen], len(known))


def distance_correlation(
    codes, X, *, n_pairs=100_000, code_distance="prefix", random_state=0
) -> Estimate:
    r"""Spearman correlation of the distances of codes and of embeddings.

    .. math:: \rho = \operatorname{corr}(\operatorname{rank} d_c(i, j),
        \operatorname{rank} \lVert x_i - x_j \rVert)

    over pairs of different items, equal ranks for ties. The distance of two codes is
    the number of levels that are not in their common prefix, or that differ.

    Most pairs share no prefix and are tied at the largest distance: expect small values
    and compare models of equal sizes only.

    Parameters
    ----------
    codes : array-like of shape (n_samples, n_levels), int
        One code per item.

    X : array-like of shape (n_samples, n_features)
        Embeddings of the items.

    n_pairs : int, default=100_000
        Number of pairs to draw, with replacement; all pairs where there are no more.

    code_distance : {"prefix", "hamming"}, default="prefix"
        Number of levels from the first that differs, or number of levels that differ.

    random_state : int, RandomState instance or None, default=0
        Which pairs are drawn. See :term:`Glossary <random_state>`.

    Returns
    -------
    correlation : Estimate
        From -1 to 1; NaN where either distance is the same for all pairs. The interval
        comes from the variation between 20 batches of the pairs.

    References
    ----------
    Spearman, "The Proof and Measurement of Association between Two Things", 1904.

    Examples
    --------
    >>> from sk_rqkplus.metrics import distance_correlation
    >>> codes = [[0, 0], [0, 1], [1, 1], [1, 1]]
    >>> X = [[0.0], [1.0], [5.0], [5.5]]
    >>> round(distance_correlation(codes, X).value, 4)
    0.8452
    """
    codes = _check_codes(codes, ensure_min_samples=2)
    X = _check_X(X)
    _check_lengths("X", X, "codes", codes)
    _check_count("n_pairs", n_pairs, 10 * BATCHES)
    _check_choice("code_distance", code_distance, CODE_DISTANCES)
    rng = check_random_state(random_state)
    pairs = pairs_in_groups(np.array([0, len(X)]), n_pairs, "pair", rng)
    differs = codes[pairs.first] != codes[pairs.second]
    of_codes = CODE_DISTANCES[code_distance](differs)
    of_rows = squared_distances(X, pairs.first, pairs.second)
    value = _spearman(of_codes, of_rows)
    if pairs.weights is not None or np.isnan(value):
        return Estimate(value, value, value)
    parts = [slice(batch, None, BATCHES) for batch in range(BATCHES)]
    batches = [_spearman(of_codes[part], of_rows[part]) for part in parts]
    return _interval(value, float(np.std(batches, ddof=1)) / BATCHES**0.5, BATCHES)


CODE_DISTANCES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "prefix": lambda differs: np.logical_or.accumulate(differs, axis=1).sum(axis=1),
    "hamming": lambda differs: differs.sum(axis=1),
}


def _check_codes(codes: Any, **params: int) -> np.ndarray:
    codes = check_integers(codes, "codes", **params)
    if codes.min() < 0:
        raise ValueError(f"codes have the value {codes.min()}, which should be >= 0.")
    return codes


def _check_sizes(codes: np.ndarray, codebook_sizes: Any) -> np.ndarray:
    sizes = np.asarray(codebook_sizes)
    if sizes.shape != (codes.shape[1],) or sizes.dtype.kind not in "iu":
        raise ValueError(
            f"codebook_sizes={codebook_sizes!r} should have n_levels={codes.shape[1]} "
            "values, all int. Give one size per column of codes."
        )
    if (codes.max(axis=0) >= sizes).any():
        raise ValueError(
            f"codebook_sizes={codebook_sizes!r} should exceed the largest codes "
            f"{codes.max(axis=0).tolist()}. Give the sizes of the model of these codes."
        )
    return sizes


def _check_X(X: Any, name: str = "X", **params: int) -> np.ndarray:
    X = check_matrix(X, name, **params)
    largest = max(-float(X.min()), float(X.max()))
    if largest > LARGEST:
        raise ValueError(
            f"{name} has values up to {largest:.0e} in size, which should be <= "
            f"{LARGEST:.0e}. Scale the rows: squares of such values are not finite."
        )
    return X


def _check_lengths(name: str, array: np.ndarray, of: str, other: np.ndarray) -> None:
    if len(array) != len(other):
        raise ValueError(
            f"{name} has n_samples={len(array)}, which should equal {len(other)} of "
            f"{of}. Give arrays of the same items."
        )


def _check_count(name: str, value: Any, least: int, most: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}={value!r} should be an int. Give a whole number.")
    if value < least or (most is not None and value > most):
        relation = f">= {least}" if most is None else f"in [{least}, {most}]"
        raise ValueError(f"{name}={value} should be {relation}. Choose another number.")


def _check_choice(name: str, value: Any, choices: dict) -> None:
    if not isinstance(value, str) or value not in choices:
        options = ", ".join(map(repr, choices))
        raise ValueError(
            f"{name}={value!r} should be one of {options}. Choose one of them."
        )


def _check_reconstruction(X: Any, other: Any) -> tuple[np.ndarray, np.ndarray]:
    X, other = _check_X(X), _check_X(other, "X_reconstructed")
    if X.shape != other.shape:
        raise ValueError(
            f"X_reconstructed has shape={other.shape}, which should equal {X.shape} of "
            "X. Give the reconstruction of the same rows."
        )
    return X, other


def _check_pairs(pairs: Any, n_samples: int) -> np.ndarray:
    """Distinct pairs of different rows, sorted."""
    pairs = as_array(pairs, "pairs")
    if pairs.size == 0:
        return np.empty((0, 2), dtype=np.int64)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        raise ValueError(
            f"pairs have shape={pairs.shape} and dtype={pairs.dtype}, which should be "
            "integers of two columns. Give row numbers of X."
        )
    if pairs.min() < 0 or pairs.max() >= n_samples:
        raise ValueError(
            f"pairs have values from {pairs.min()} to {pairs.max()}, which should be "
            f"in [0, {n_samples}). Give row numbers of X."
        )
    pairs = pairs[pairs[:, 0] != pairs[:, 1]].astype(np.int64)
    keys = np.unique(pairs[:, 0] * n_samples + pairs[:, 1])
    return np.stack(np.divmod(keys, n_samples), axis=1)


def _loads(codes: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    """Number of items per codeword, for every level."""
    columns = codes.astype(np.int64, copy=False).T
    return [
        np.bincount(column, minlength=size)
        for column, size in zip(columns, sizes, strict=True)
    ]


def _gini(counts: np.ndarray) -> float:
    counts = np.sort(counts).astype(np.float64)
    ranks = 2 * np.arange(1, len(counts) + 1) - len(counts) - 1
    return float((ranks * counts).sum() / (len(counts) * counts.sum()))


def _chunks(X: np.ndarray) -> list[slice]:
    step = max(1, CHUNK_VALUES // X.shape[1])
    return [slice(start, start + step) for start in range(0, len(X), step)]


def _minus(rows: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.subtract(rows, other, dtype=np.float64)


def _sum_of_squares(X: np.ndarray, other: Callable[[slice], np.ndarray]) -> float:
    """Sum of squared differences to what a function returns for every chunk."""
    parts = (np.square(_minus(X[chunk], other(chunk))).sum() for chunk in _chunks(X))
    return float(sum(parts))


def _cohesion(
    codes: np.ndarray,
    X: Any,
    levels: list[int],
    n_pairs: int,
    average: str,
    random_state: Any,
) -> list[Estimate]:
    """Mean similarity of items that share prefixes of the given lengths."""
    X = _check_X(X)
    _check_lengths("X", X, "codes", codes)
    _check_count("n_pairs", n_pairs, 2)
    _check_choice("average", average, GROUP_WEIGHT)
    rng = check_random_state(random_state)
    order, bounds = sort_by_prefix(codes)
    return [
        _group_similarity(X, order, bounds[level], n_pairs, average, rng)
        for level in levels
    ]


def _group_similarity(
    X: np.ndarray,
    order: np.ndarray,
    bounds: np.ndarray,
    n_pairs: int,
    average: str,
    rng: np.random.RandomState,
) -> Estimate:
    pairs = pairs_in_groups(bounds, n_pairs, average, rng)
    if len(pairs.first) == 0:
        return UNDEFINED
    values = similarities(X, order[pairs.first], order[pairs.second])
    if pairs.weights is None:
        return _mean(values, np.inf, low=-1)
    value = float(np.average(values, weights=pairs.weights))
    return Estimate(value, value, value)


def _draw_queries(
    X: np.ndarray, k: int, n_queries: int, rng: np.random.RandomState
) -> np.ndarray:
    _check_count("k", k, 1, len(X) - 1)
    _check_count("n_queries", n_queries, 2)
    return _draw(len(X), n_queries, rng)


def _draw(n: int, n_drawn: int, rng: np.random.RandomState) -> np.ndarray:
    """Some of the numbers below n, sorted; all of them if they are no more."""
    if n <= n_drawn:
        return np.arange(n)
    return np.sort(rng.choice(n, n_drawn, replace=False))


def _recall(
    X: np.ndarray, queries: np.ndarray, found: np.ndarray, metric: str
) -> Estimate:
    """Mean share of found rows that are no farther than the k-th nearest."""
    truth = Points(X, metric)
    radius = truth.radius(queries, found.shape[1])[:, None]
    near = truth.distances(queries, found) <= radius * (1 + SAME_DISTANCE)
    return _mean(near.mean(axis=1), len(X))


def _mean(values: np.ndarray, n_all: float, low: float = 0) -> Estimate:
    """Mean of a sample out of n_all values, which lie between low and 1."""
    value = float(values.mean())
    if len(values) == n_all:
        return Estimate(value, value, value)
    variance = values.var(ddof=1) / len(values) * (1 - len(values) / n_all)
    return _interval(value, float(variance**0.5), len(values), low)


def _interval(value: float, error: float, n_values: int, low: float = -1) -> Estimate:
    """Value with Student's interval for a standard error."""
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n_values - 1)) * error
    return Estimate(value, max(value - half, low), min(value + half, 1.0))


def _spearman(one: np.ndarray, other: np.ndarray) -> float:
    if (one == one[0]).all() or (other == other[0]).all():
        return np.nan
    return float(stats.spearmanr(one, other).statistic)
