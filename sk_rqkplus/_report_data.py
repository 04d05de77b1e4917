"""What reports and displays show: usage, errors, trees and examples, as plain data."""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state
from sklearn.utils.random import sample_without_replacement
from sklearn.utils.validation import check_is_fitted

from sk_rqkplus._base import CHUNK_ROWS, BaseQuantizer
from sk_rqkplus._neighbours import Points
from sk_rqkplus._pairs import similarities
from sk_rqkplus._prefixes import Prefixes

# Titles that the words of a group are counted in, and that a tooltip names.
TITLES_PER_NODE = 100
N_SHOWN = 3
TITLE_LENGTH = 160
WORD = re.compile(r"\b[^\W\d_]{3,20}\b")
# Control characters, and those that turn the direction of the text around them.
UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]+"
)


def quantizer_and_rows(estimator: Any, X: Any) -> tuple[BaseQuantizer, np.ndarray]:
    """Quantiser at the end of a Pipeline or a search, and X as it arrives there.

    Parameters
    ----------
    estimator : estimator
        Fitted estimator, Pipeline that ends in one, or search over either.

    X : array-like of shape (n_samples, n_features)
        Rows as the estimator takes them.

    Returns
    -------
    quantizer : BaseQuantizer
        The fitted quantiser.

    rows : ndarray of shape (n_samples, n_features)
        Rows as the quantiser takes them; X itself where nothing comes before.

    Raises
    ------
    TypeError
        If the estimator does not end in a quantiser.
    """
    estimator = getattr(estimator, "best_estimator_", estimator)
    if isinstance(estimator, Pipeline) and estimator.steps:
        if len(estimator) > 1:
            X = estimator[:-1].transform(X)
        return quantizer_and_rows(estimator[-1], X)
    quantizer = quantizer_of(estimator)
    return quantizer, quantizer._validate(X)


def quantizer_of(estimator: Any) -> BaseQuantizer:
    """Fitted quantiser at the end of a Pipeline or a search.

    Parameters
    ----------
    estimator : estimator
        Fitted estimator, Pipeline that ends in one, or search over either.

    Returns
    -------
    quantizer : BaseQuantizer
        The fitted quantiser.

    Raises
    ------
    TypeError
        If the estimator does not end in a quantiser.
    """
    estimator = getattr(estimator, "best_estimator_", estimator)
    if isinstance(estimator, Pipeline) and estimator.steps:
        return quantizer_of(estimator[-1])
    if not isinstance(estimator, BaseQuantizer):
        raise TypeError(
            f"estimator={estimator!r} should be an RQKMeans or RQKMeansPlus, or a "
            "Pipeline that ends in one. Give the fitted estimator."
        )
    check_is_fitted(estimator)
    return estimator


def level_errors(quantizer: BaseQuantizer, X: np.ndarray, codes: np.ndarray) -> list:
    """Mean squared error of the reconstruction from the first 0, 1, 2 ... levels.

    Parameters
    ----------
    quantizer : BaseQuantizer
        Fitted quantiser.

    X : ndarray of shape (n_samples, n_features)
        Rows.

    codes : ndarray of shape (n_samples, n_levels), int
        Their codes.

    Returns
    -------
    errors : list of n_levels + 1 floats
        The first one is the error of a model without any level, the mean.
    """
    n_levels = codes.shape[1]
    total = np.zeros(n_levels + 1)
    for start in range(0, len(X), CHUNK_ROWS):
        rows = X[start : start + CHUNK_ROWS]
        part = codes[start : start + CHUNK_ROWS]
        total[0] += np.square(rows - quantizer.mean_, dtype=np.float64).sum()
        for level in range(1, n_levels + 1):
            reconstructed = quantizer._decode(part[:, :level])
            total[level] += np.square(rows - reconstructed).sum()
    return (total / X.size).tolist()


def usage(codes: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """Items per codeword of every level, the largest count first.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_levels), int
        Codes.

    sizes : sequence of int
        Codewords per level.

    Returns
    -------
    counts : list of ndarray of shape (n_codewords,)
        Counts in descending order.
    """
    return [
        np.sort(np.bincount(column, minlength=size))[::-1]
        for column, size in zip(codes.T, sizes, strict=True)
    ]


def thinned(values: np.ndarray, n_values: int = 256) -> tuple[list, list]:
    """Positions and values of an array, at most so many and with both ends."""
    at = spread(len(values), n_values)
    return at.tolist(), values[at].tolist()


def random_hashing_collision(n_samples: int, sizes: Sequence[int]) -> float:
    """Expected collision rate if every item drew one of all codes at random.

    ``1 - B (1 - (1 - 1 / B)^n) / n`` with B the number of codes, which is close to
    ``1 - B (1 - exp(-n / B)) / n``.

    Parameters
    ----------
    n_samples : int
        Number of items n.

    sizes : sequence of int
        Codewords per level; B is their product.

    Returns
    -------
    rate : float
        Between 0 and 1.
    """
    chance = 1 / math.prod(sizes)
    if chance in (0, 1):
        return chance * (1 - 1 / n_samples)
    distinct = -math.expm1(n_samples * math.log1p(-chance)) / chance
    return max(0.0, 1 - distinct / n_samples)


class Titles:
    """Names of items: titles in one clean line, or row numbers where there are none.

    Parameters
    ----------
    titles : sequence of n_samples strings or None
        Titles; values that are missing or blank stand for none.

    n_samples : int
        Number of items.
    """

    def __init__(self, titles: Any, n_samples: int):
        self.given = titles is not None
        if not self.given:
            return
        self.titles = np.asarray(titles, dtype=object)
        if self.titles.shape != (n_samples,):
            raise ValueError(
                f"titles have shape={self.titles.shape}, which should be "
                f"({n_samples},). Give one title per row of X."
            )

    def __getitem__(self, row: int) -> str:
        """Title of an item."""
        title = clean(self.titles[row]) if self.given else ""
        return title or f"item {row}"

    def words(self, rows: np.ndarray) -> tuple[Counter, int]:
        """In how many of the titles every word occurs, and the number of titles."""
        if not self.given:
            return Counter(), 0
        shown = rows[spread(len(rows), TITLES_PER_NODE)]
        counts: Counter = Counter()
        for row in shown:
            words = set(WORD.findall(clean(self.titles[row]).lower()))
            counts.update(words - ENGLISH_STOP_WORDS)
        return counts, len(shown)


def clean(title: Any) -> str:
    """Title in one line of printable characters, cut where it is very long."""
    if title is None or (isinstance(title, float) and math.isnan(title)):
        return ""
    text = str(title)[: 4 * TITLE_LENGTH].encode("utf-8", "replace").decode()
    text = unicodedata.normalize("NFC", UNPRINTABLE.sub(" ", text))
    text = " ".join(text.split())
    return text if len(text) <= TITLE_LENGTH else text[:TITLE_LENGTH].rstrip() + "…"


def keywords(
    counts: Counter, n_titles: int, base: Counter, n_base: int, n_words: int = 3
) -> list[str]:
    """Words that are frequent in a group and rare around it.

    The score of a word is ``p log(p / q)``, its part of the Kullback-Leibler divergence
    of the group from its surroundings.

    Parameters
    ----------
    counts, base : Counter
        In how many titles every word occurs, in the group and around it.

    n_titles, n_base : int
        Number of titles of both.

    n_words : int, default=3
        Most words to return.

    Returns
    -------
    words : list of str
        Best first; no word that begins like a better one.
    """

    def score(word: str) -> float:
        share = counts[word] / n_titles
        return share * math.log(share * (n_base + 1) / (base[word] + 1))

    least = 2 if n_titles > 2 else 1
    frequent = sorted(w for w in counts if counts[w] >= least)
    chosen: list[str] = []
    for word in sorted(frequent, key=score, reverse=True):
        if not any(word[:4] == other[:4] for other in chosen):
            chosen.append(word)
    return chosen[:n_words]


def prefix_tree(
    codes: np.ndarray,
    prefixes: Prefixes,
    titles: Titles,
    *,
    n_first: int = 96,
    n_second: int = 10,
) -> list[dict]:
    """Largest prefixes of one level and, inside each, of two.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_levels), int
        Codes.

    prefixes : Prefixes
        Their order.

    titles : Titles
        Names of the items.

    n_first, n_second : int
        Most nodes of the first level, and of the second inside each of them; the others
        are one node together.

    Returns
    -------
    nodes : list of dict
        ``code`` (None for the node of the others), ``n_codes``, ``count``, ``shared``
        (items whose code another item has), ``words``, ``titles`` and ``children``; the
        node of the others comes last.
    """
    sizes = np.diff(prefixes.bounds[-1])
    shared = np.repeat(sizes > 1, sizes)

    def nodes(
        level: int, start: int, stop: int, most: int, base: tuple[Counter, int]
    ) -> Iterator[dict]:
        for places, n_codes in _largest(prefixes.bounds[level + 1], start, stop, most):
            rows = prefixes.order[places]
            words = titles.words(rows)
            node: dict[str, Any] = {
                "code": int(codes[rows[0], level]) if n_codes == 1 else None,
                "n_codes": n_codes,
                "count": len(rows),
                "shared": int(shared[places].sum()),
                "words": keywords(*words, *base),
                "titles": [titles[row] for row in rows[spread(len(rows), N_SHOWN)]],
                "children": [],
            }
            if level == 0 and n_codes == 1 and codes.shape[1] > 1:
                inside = (places.start, places.stop)
                node["children"] = list(nodes(1, *inside, n_second, words))
            yield node

    everything = np.arange(len(codes))[spread(len(codes), 20 * TITLES_PER_NODE)]
    return list(nodes(0, 0, len(codes), n_first, titles.words(everything)))


def _largest(
    bounds: np.ndarray, start: int, stop: int, most: int
) -> Iterator[tuple[Any, int]]:
    """Places of the largest runs between two places, then those of the others.

    With each comes the number of runs; one that is alone is no "others".
    """
    first, last = np.searchsorted(bounds, [start, stop])
    bounds = bounds[first : last + 1]
    sizes = np.diff(bounds)
    order = np.argsort(-sizes, kind="stable")
    if len(order) == most + 1:
        most += 1
    for run in order[:most]:
        yield slice(int(bounds[run]), int(bounds[run + 1])), 1
    if len(order) > most:
        left = np.ones(len(order), dtype=bool)
        left[order[:most]] = False
        places = bounds[0] + np.flatnonzero(np.repeat(left, sizes))
        yield places, len(order) - most


def sample_rows(n_samples: int, n_rows: int) -> np.ndarray:
    """Row numbers of a random sample, always the same one, in order."""
    if n_samples <= n_rows:
        return np.arange(n_samples)
    return np.sort(sample_without_replacement(n_samples, n_rows, random_state=0))


def spread(n: int, most: int) -> np.ndarray:
    """At most so many of n positions, evenly spread, with both ends."""
    return np.unique(np.linspace(0, n - 1, most).round().astype(np.int64))


def tree_nodes(
    tree: Sequence[dict], n_items: int, n_first: int, n_second: int
) -> tuple[list[dict], float]:
    """Nodes of a treemap, from those of :func:`prefix_tree`.

    Parameters
    ----------
    tree : sequence of dict
        Prefix tree.

    n_items : int
        Number of all items.

    n_first, n_second : int
        Most nodes of the first level, of which others are left out, and of the second
        inside each, of which others are one node.

    Returns
    -------
    nodes : list of dict
        What :func:`~sk_rqkplus._treemap.layout` takes.

    share : float
        Share of the items that they have.
    """
    largest = [node for node in tree if node["code"] is not None][:n_first]
    nodes = [_drawn(node, n_items, n_second) for node in largest]
    return nodes, sum(node["count"] for node in nodes) / n_items


def _drawn(node: dict, n_items: int, n_second: int) -> dict:
    others = node["code"] is None
    share = node["shared"] / node["count"]
    what = count(node["n_codes"], "more code") if others else f"{node['code']}"
    lines = [
        f"{what}: {count(node['count'], 'item')}, {node['count'] / n_items:.1%} of all",
        f"{share:.0%} share their code",
        *node["titles"],
    ]
    children = _fold(node["children"], n_second)
    return {
        "count": node["count"],
        "name": f"+{node['n_codes']:,}" if others else f"{node['code']}",
        "words": [] if others else node["words"],
        "title": "" if others else node["titles"][0],
        "tooltip": "\n".join(lines),
        "shade": min(4, int(5 * share)),
        "children": [_drawn(child, n_items, 0) for child in children],
    }


def _fold(nodes: Sequence[dict], most: int) -> list[dict]:
    """Largest nodes, and the others as one node."""
    if len(nodes) <= most:
        return list(nodes)
    others = nodes[most - 1 :]
    keys = ("n_codes", "count", "shared")
    total = {key: sum(node[key] for node in others) for key in keys}
    rest = {"code": None, "words": [], "titles": others[0]["titles"], "children": []}
    return [*nodes[: most - 1], rest | total]


def count(n: int, noun: str) -> str:
    """Number and noun, in the plural where it is not one."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def collision_groups(
    codes: np.ndarray,
    prefixes: Prefixes,
    titles: Titles,
    *,
    n_groups: int = 8,
    n_titles: int = 5,
) -> list[dict]:
    """Codes that most items share.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_levels), int
        Codes.

    prefixes : Prefixes
        Their order.

    titles : Titles
        Names of the items.

    n_groups, n_titles : int
        Most groups, and most titles of each.

    Returns
    -------
    groups : list of dict
        ``code``, ``count``, ``rows`` and ``titles`` of some of the items.
    """
    found: list[dict] = []
    for places, n_codes in _largest(prefixes.bounds[-1], 0, len(codes), n_groups):
        rows = prefixes.order[places]
        if n_codes == 1 and len(rows) > 1 and len(found) < n_groups:
            shown = rows[spread(len(rows), n_titles)]
            found.append(
                {
                    "code": codes[rows[0]].tolist(),
                    "count": len(rows),
                    "rows": shown.tolist(),
                    "titles": [titles[row] for row in shown],
                }
            )
    return found


def examples(
    X: np.ndarray,
    ids: np.ndarray,
    titles: Titles,
    *,
    n_items: int = 6,
    k: int = 5,
    random_state: Any = 0,
) -> list[dict]:
    """Some items, their nearest neighbours, and the IDs of both.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows.

    ids : ndarray of shape (n_samples, n_levels + 1), int
        Their IDs.

    titles : Titles
        Names of the items.

    n_items, k : int
        Number of items, and of neighbours of each.

    random_state : int, RandomState instance or None, default=0
        Chooses the items.

    Returns
    -------
    items : list of dict
        ``row``, ``title``, ``id`` and ``neighbours``, a list of the same with
        ``similarity`` and ``shared_levels``, the length of the common prefix.
    """
    rng = check_random_state(random_state)
    k = min(k, len(X) - 1)
    n_items = min(n_items, len(X))
    queries = sample_without_replacement(len(X), n_items, random_state=rng)
    if k:
        near = Points(X, "cosine").neighbours(queries, k, rng)
    else:
        near = np.empty((len(queries), 0), dtype=np.int64)
    similarity = similarities(X, np.repeat(queries, k), near.ravel())

    def item(row: int) -> dict:
        return {"row": int(row), "title": titles[row], "id": ids[row].tolist()}

    def neighbour(row: int, query: int, similarity: float) -> dict:
        equal = ids[row, :-1] == ids[query, :-1]
        shared = int(np.logical_and.accumulate(equal).sum())
        return item(row) | {
            "similarity": float(similarity),
            "shared_levels": shared,
        }

    return [
        item(query)
        | {
            "neighbours": [
                neighbour(row, query, similarity)
                for row, similarity in zip(rows, values, strict=True)
            ]
        }
        for query, rows, values in zip(
            queries, near, similarity.reshape(near.shape), strict=True
        )
    ]


def training_curves(history: Sequence[dict]) -> dict[str, tuple[list, list]]:
    """Course of every figure of a training.

    Parameters
    ----------
    history : sequence of dict
        One entry per epoch; figures may be missing in some of them.

    Returns
    -------
    curves : dict of str to (list, list)
        Epochs and finite values of each figure that has any.
    """
    names = dict.fromkeys(key for entry in history for key in entry)
    names.pop("epoch", None)
    curves = {}
    for name in names:
        points = [
            (int(entry.get("epoch", i)), float(entry[name]))
            for i, entry in enumerate(history)
            if _is_finite(entry.get(name))
        ]
        if points:
            epochs, values = zip(*points, strict=True)
            curves[name] = (list(epochs), list(values))
    return curves


def _is_finite(value: Any) -> bool:
    return (
        isinstance(value, int | float | np.number)
        and not isinstance(value, bool)
        and math.isfinite(value)
    )
