"""The prefix tree of codes: its largest nodes, with words and titles, and groups."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sk_rqkplus._prefixes import Prefixes
from sk_rqkplus._text import count
from sk_rqkplus._titles import COUNTED, Titles, keywords, spread

# Titles that a node shows.
N_SHOWN = 3


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

    everything = np.arange(len(codes))[spread(len(codes), 20 * COUNTED)]
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
