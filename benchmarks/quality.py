"""What mixtures, beams and refinement buy: error, neighbours, prefixes, collisions.

    python benchmarks/quality.py [--splits 5] [--out benchmarks/results/quality.md]

Needs the shared data beside the checkout. On a real catalogue of 3,686 rows a tenth is
held out, in several splits; on 20,000 rows of a larger one, whose codewords have more
rows, 5,000 others are. Figures are means over splits and, of the larger one, seeds.
"""

import argparse
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine import SIZES, Absent, generator, real_catalogue
from sklearn.cluster import KMeans
from sklearn.model_selection import ShuffleSplit
from tabulate import tabulate

from sk_rqkplus import RQKMeans, metrics

FIGURES = {
    "fitted, 1e-6": "{:.0f}",
    "held out, 1e-6": "{:.0f}",
    "recall, held out": "{:.3f}",
    "perplexity / K, level 2": "{:.2f}",
    "perplexity / K, level 3": "{:.2f}",
    "cohesion, 1 token": "{:.3f}",
    "cohesion, 2 tokens": "{:.3f}",
    "collisions": "{:.1%}",
    "largest count, n / K": "{:.2f}",
    "fit, s": "{:.1f}",
    "encode, us a row": "{:.1f}",
}
MIXTURES = {
    f'balance="{balance}", augment="{augment}"': {
        "balance": balance,
        "augment": augment,
    }
    for balance in ("none", "last", "all")
    for augment in ("none", "auto")
}
BEYOND_GREEDY: dict[str, dict[str, Any]] = {
    "refine=0": {"refine": 0},
    "refine=2": {"refine": 2},
    "refine=5": {"refine": 5},
    "beam_size=2": {"beam_size": 2},
    "beam_size=5": {"beam_size": 5},
    "beam_size=10": {"beam_size": 10},
    "refine=0, beam_size=5": {"refine": 0, "beam_size": 5},
    "refine=5, beam_size=5": {"refine": 5, "beam_size": 5},
}


class KMeansPerLevel:
    """Residual k-means by scikit-learn."""

    def __init__(self, random_state: int):
        self.random_state = random_state

    def fit(self, X: np.ndarray) -> "KMeansPerLevel":
        self.levels, left = [], X
        for size in SIZES:
            level = KMeans(size, n_init=1, random_state=self.random_state).fit(left)
            left = left - level.cluster_centers_[level.labels_]
            self.levels.append(level)
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        codes = []
        for level in self.levels:
            codes.append(level.predict(X))
            X = X - level.cluster_centers_[codes[-1]]
        return np.stack(codes, axis=1)

    def inverse_transform(self, codes: np.ndarray) -> np.ndarray:
        pairs = zip(self.levels, codes.T, strict=True)
        return sum(level.cluster_centers_[code] for level, code in pairs)


def ours(random_state: int, **params: Any) -> RQKMeans:
    """Codes alone are measured."""
    return RQKMeans(SIZES, random_state=random_state, store_catalogue=False, **params)


def figures(model: Any, X: np.ndarray, new: np.ndarray) -> list[float]:
    """Figures of one model, in the order of FIGURES."""
    start = time.perf_counter()
    model.fit(X)
    fitted = time.perf_counter()
    codes, new_codes = model.transform(X), model.transform(new)
    encoded = time.perf_counter()
    decoded = model.inverse_transform(new_codes)
    counts = np.bincount(codes[:, -1], minlength=SIZES[-1])
    return [
        metrics.reconstruction_mse(X, model.inverse_transform(codes)) * 1e6,
        metrics.reconstruction_mse(new, decoded) * 1e6,
        metrics.neighbour_recall(new, decoded).value,
        *(metrics.perplexity(codes) / SIZES)[1:],
        *(value.value for value in metrics.prefix_cohesion(codes, X)[:2]),
        metrics.collision_rate(codes),
        counts.max() / counts.mean(),
        fitted - start,
        1e6 * (encoded - fitted) / (len(X) + len(new)),
    ]


def compare(models: dict[str, Any], parts: list[tuple[np.ndarray, np.ndarray]]) -> str:
    """Table of means over splits, or seeds; every model is a function of the seed."""
    rows = []
    for name, make in models.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found = [figures(make(seed), *part) for seed, part in enumerate(parts)]
        means = np.mean(found, axis=0)
        cells = [
            form.format(x) for form, x in zip(FIGURES.values(), means, strict=True)
        ]
        rows.append([name, *cells])
        print(*rows[-1], sep="  ", flush=True)
    headers = ["", *FIGURES]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)


def makers(settings: dict[str, dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Names, and functions of a seed that make estimators."""
    for name, params in settings.items():
        yield name, lambda seed, params=params: ours(seed, **params)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    try:
        small, make_rows = real_catalogue(), generator()
    except Absent as reason:
        raise SystemExit(f"skipped: {reason}") from None
    splits = ShuffleSplit(args.splits, test_size=0.1, random_state=0).split(small)
    parts = [(small[fitted], small[held_out]) for fitted, held_out in splits]
    plain = {"scikit-learn's k-means per level": KMeansPerLevel}
    of_small = compare({**plain, **dict(makers({**MIXTURES, **BEYOND_GREEDY}))}, parts)
    rows = make_rows(25_000, 0)
    larger = [(rows[:20_000], rows[20_000:])] * 2
    of_larger = compare(dict(makers({"default": {}, **BEYOND_GREEDY})), larger)
    text = f"""# Quality of RQKMeans, 3 x 256

Cohesion is the mean cosine of two fitted items that share their first tokens, recall
that of ten neighbours among the rows that are held out, and the largest count that of
a codeword of the last level. The default is balance="last", augment="auto", refine=1
and beam_size=1. torch {torch.__version__}, {torch.get_num_threads()}
threads; `python benchmarks/quality.py`.

## {len(small)} x {small.shape[1]}, a tenth held out, {args.splits} splits

{of_small}

## 20,000 x {rows.shape[1]} of a larger catalogue, 5,000 others held out, two seeds

{of_larger}
"""
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
