"""Figures of a report: computed once, beside their floors and baselines."""

from typing import Any, NamedTuple

import numpy as np

from sk_rqkplus import metrics
from sk_rqkplus._base import BaseQuantizer
from sk_rqkplus._report_data import (
    level_errors,
    random_hashing_collision,
    sample_rows,
)
from sk_rqkplus.ids import collision_floor

# Neighbours are those within a sample of at most so many rows.
SAMPLE_ROWS = 20_000
NEIGHBOURS = 10


class Spec(NamedTuple):
    """How a figure is named and shown."""

    section: str
    label: str
    unit: str
    meaning: str
    baseline: str = ""


APART, KEPT, MEANING = (
    "Are items told apart?",
    "Are embeddings kept?",
    "Do prefixes carry meaning?",
)
FIGURES = {
    "collision_rate": Spec(
        APART,
        "Collision rate of the codes",
        "share",
        "Items that are one too many for their code, before IDs are made unique.",
        "random codes",
    ),
    "shared_code_rate": Spec(
        APART, "Items that share a code", "share", "Other items have the same code."
    ),
    "largest_group": Spec(
        APART, "Largest group", "count", "Items of the code that most items share."
    ),
    "id_collision_rate": Spec(
        APART, "Collision rate of the IDs", "share", "0 means that all IDs are unique."
    ),
    "moved_rate": Spec(
        APART,
        "IDs moved to a free codeword",
        "share",
        "Their last level differs from that of the code.",
    ),
    "suffix_rate": Spec(
        APART,
        "IDs with a suffix above 0",
        "share",
        "Their prefix has more items than the last level has codewords, "
        "or IDs are made unique by suffix alone.",
    ),
    "joint_utilisation": Spec(
        APART, "Codes in use", "share", "Of all codes that the codebooks can make."
    ),
    "reconstruction_mse": Spec(
        KEPT,
        "Reconstruction error (MSE)",
        "error",
        "Mean squared difference of embeddings and their reconstructions.",
        "the mean alone",
    ),
    "reconstruction_r2": Spec(
        KEPT,
        "Explained variance (R²)",
        "share",
        "Share of the variance of the embeddings that codes keep.",
    ),
    "neighbour_recall": Spec(
        KEPT,
        f"Neighbours kept (recall@{NEIGHBOURS})",
        "share",
        "Nearest neighbours that reconstructions still have.",
        "random items",
    ),
    "path_average_similarity": Spec(
        MEANING,
        "Similarity within a code",
        "similarity",
        "Mean cosine similarity of two items of the same code.",
        "random pairs",
    ),
    "code_neighbour_recall": Spec(
        MEANING,
        f"Neighbours by prefix (recall@{NEIGHBOURS})",
        "share",
        "Nearest neighbours found among the items of the longest common prefix.",
        "random items",
    ),
    "distance_correlation": Spec(
        MEANING,
        "Distance of codes and embeddings",
        "correlation",
        "Spearman correlation over pairs: 1 means that codes order pairs as "
        "embeddings do.",
        "no relation",
    ),
}


def figure(
    value: Any, *, floor: float | None = None, baseline: float | None = None
) -> dict:
    """Value, the interval where it is an estimate, and what it is compared with."""
    low = high = None
    if isinstance(value, tuple):
        value, low, high = map(_plain, value)
    return {
        "value": _plain(value),
        "low": low,
        "high": high,
        "floor": floor,
        "baseline": baseline,
    }


def _plain(value: Any) -> float | int | None:
    """Python number; None where it is not defined."""
    if value is None or not np.isfinite(value):
        return None
    return int(value) if isinstance(value, int | np.integer) else float(value)


def show(value: Any, unit: str) -> str:
    """Figure as text."""
    if value is None:
        return "–"
    if unit == "share":
        percent = round(100 * value, 9) + 0.0  # Nothing is -0.0 %.
        digits = ".1f" if abs(percent) >= 0.1 or not percent else ".1g"
        # The space does not break, so that a unit stays with its number.
        return f"{percent:{digits}}\u00a0%"
    if unit == "count":
        return f"{value:,}"
    if unit == "number":
        return f"{value:,.1f}"
    if unit == "error":
        return f"{value:.3g}"
    return f"{value:.2f}" if unit == "ratio" else f"{value:.3f}"


def measure(
    quantizer: BaseQuantizer, X: np.ndarray, codes: np.ndarray, ids: np.ndarray
) -> tuple[dict[str, dict], list[dict], int]:
    """Figures of a report.

    Parameters
    ----------
    quantizer : BaseQuantizer
        Fitted quantiser.

    X : ndarray of shape (n_samples, n_features)
        Rows.

    codes : ndarray of shape (n_samples, n_levels), int
        Their codes.

    ids : ndarray of shape (n_samples, n_levels + 1), int
        Their IDs.

    Returns
    -------
    figures : dict of str to dict
        Figures of the whole, with the keys of ``FIGURES``.

    levels : list of dict
        Figures of every level.

    n_sampled : int
        Rows among which neighbours were looked for.
    """
    sizes = [len(book) for book in quantizer.codebooks_]
    errors = level_errors(quantizer, X, codes)
    sampled = sample_rows(len(X), SAMPLE_ROWS)
    figures = {
        **_of_codes(X, codes, ids, sizes),
        **_of_errors(errors),
        **_of_pairs(quantizer, X, codes, sampled),
    }
    return figures, _of_levels(X, codes, sizes, errors), len(sampled)


def _of_codes(
    X: np.ndarray, codes: np.ndarray, ids: np.ndarray, sizes: list[int]
) -> dict[str, dict]:
    random = random_hashing_collision(len(codes), sizes)
    floor = collision_floor(X).rate
    return {
        "collision_rate": figure(
            metrics.collision_rate(codes), floor=floor, baseline=random
        ),
        "shared_code_rate": figure(metrics.shared_code_rate(codes)),
        "largest_group": figure(metrics.largest_group(codes)),
        "id_collision_rate": figure(metrics.collision_rate(ids)),
        "moved_rate": figure(float((ids[:, :-1] != codes).any(axis=1).mean())),
        "suffix_rate": figure(float((ids[:, -1] > 0).mean())),
        "joint_utilisation": figure(metrics.joint_utilisation(codes, sizes)),
    }


def _of_errors(errors: list[float]) -> dict[str, dict]:
    variance, error = errors[0], errors[-1]
    r2 = 1 - error / variance if variance > 0 else None
    return {
        "reconstruction_mse": figure(error, baseline=variance),
        "reconstruction_r2": figure(r2),
    }


def _of_pairs(
    quantizer: BaseQuantizer, X: np.ndarray, codes: np.ndarray, sampled: np.ndarray
) -> dict[str, dict]:
    """Figures that compare rows with each other, which one row alone has not."""
    n_sampled = len(sampled)
    k = min(NEIGHBOURS, n_sampled - 1)
    keys = (
        "neighbour_recall",
        "path_average_similarity",
        "code_neighbour_recall",
        "distance_correlation",
    )
    if k < 1:
        return {key: figure(None) for key in keys}
    rows, code = X[sampled], codes[sampled]
    decoded = quantizer.inverse_transform(code)
    values = (
        metrics.neighbour_recall(rows, decoded, k=k),
        metrics.path_average_similarity(codes, X),
        metrics.code_neighbour_recall(rows, code, k=k),
        metrics.distance_correlation(codes, X),
    )
    chance = k / (n_sampled - 1)
    baselines = (chance, metrics.random_pair_similarity(X).value, chance, 0.0)
    return {
        key: figure(value, baseline=baseline)
        for key, value, baseline in zip(keys, values, baselines, strict=True)
    }


def _of_levels(
    X: np.ndarray, codes: np.ndarray, sizes: list[int], errors: list[float]
) -> list[dict]:
    per_level = {
        "utilisation": metrics.codebook_utilisation(codes, sizes),
        "perplexity": metrics.perplexity(codes),
        "perplexity_share": metrics.perplexity(codes, sizes),
        "gini": metrics.gini(codes, sizes),
        "load_cv": metrics.load_cv(codes, sizes),
    }
    cohesion = metrics.prefix_cohesion(codes, X) if len(X) > 1 else [None] * len(sizes)
    levels = []
    for number, size in enumerate(sizes):
        level: dict[str, Any] = {"size": size}
        level |= {key: float(values[number]) for key, values in per_level.items()}
        level["largest"] = int(np.bincount(codes[:, number]).max())
        level["mse"] = errors[number + 1]
        level["r2"] = 1 - errors[number + 1] / errors[0] if errors[0] > 0 else None
        level["cohesion"] = figure(cohesion[number])
        levels.append(level)
    return levels
