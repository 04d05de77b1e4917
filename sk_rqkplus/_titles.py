"""Titles of items: one clean line each, and the words that tell a group."""

import math
import re
import unicodedata
from collections import Counter
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

# Titles of a group whose words are counted.
COUNTED = 100
LENGTH = 160
WORD = re.compile(r"\b[^\W\d_]{3,20}\b")
# Control characters, and those that turn the direction of the text around them.
UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]+"
)


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
        shown = rows[spread(len(rows), COUNTED)]
        counts: Counter = Counter()
        for row in shown:
            words = set(WORD.findall(clean(self.titles[row]).lower()))
            counts.update(words - ENGLISH_STOP_WORDS)
        return counts, len(shown)


def clean(title: Any) -> str:
    """Title in one line of printable characters, cut where it is very long."""
    if title is None or (isinstance(title, float) and math.isnan(title)):
        return ""
    text = str(title)[: 4 * LENGTH].encode("utf-8", "replace").decode()
    text = unicodedata.normalize("NFC", UNPRINTABLE.sub(" ", text))
    text = " ".join(text.split())
    return text if len(text) <= LENGTH else text[:LENGTH].rstrip() + "…"


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


def spread(n: int, most: int) -> np.ndarray:
    """At most so many of n positions, evenly spread, with both ends."""
    return np.unique(np.linspace(0, n - 1, most).round().astype(np.int64))
