"""What a fit makes: checks of attributes that come from elsewhere."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sk_rqkplus.ids import Catalogue

# Attributes that only some fits have.
OPTIONAL = {
    "_sklearn_output_config",
    "catalogue_",
    "codes_",
    "feature_names_in_",
    "ids_",
}


def check_fitted(estimator: Any) -> None:
    """Refuse attributes of a fit that methods could not rely on."""
    state = vars(estimator)
    missing = set(estimator._fitted_attributes) - OPTIONAL - state.keys()
    if missing:
        raise ValueError(f"{min(missing)} is missing")
    for name, is_sound in CHECKS.items():
        if name in state and not is_sound(state[name], state):
            raise ValueError(f"{name} is not what a fit makes")
    # They share a length, so that an ID has one more column than a code.
    if ("ids_" in state) != ("codes_" in state) or (
        "ids_" in state and len(state["ids_"]) != len(state["codes_"])
    ):
        raise ValueError("ids_ should be as long as codes_")
    estimator._check_loaded()


def is_array(value: Any, dtypes: str, shape: tuple[int | None, ...]) -> bool:
    """Whether a value is a finite array of one of some types, and of a shape."""
    return (
        isinstance(value, np.ndarray)
        and value.dtype.str[1:] in dtypes.split()
        and len(value.shape) == len(shape)
        and all(n is None or m == n for m, n in zip(value.shape, shape, strict=True))
        and bool(np.isfinite(value).all())
    )


def is_integer(value: Any, least: int = 0) -> bool:
    """Whether a value is an int, and not too small."""
    return isinstance(value, int) and value >= least


def _sizes(state: Mapping[str, Any]) -> list[int]:
    return [len(book) for book in state["codebooks_"]]


def _are_codebooks(books: Any, state: Mapping[str, Any]) -> bool:
    return (
        isinstance(books, list)
        and len(books) > 0
        and all(is_array(book, "f4", (None, None)) for book in books)
        and all(book.size and book.shape[1] == books[0].shape[1] for book in books)
    )


def _are_prices(prices: Any, state: Mapping[str, Any]) -> bool:
    sizes = _sizes(state)
    return (
        isinstance(prices, list)
        and len(prices) == len(sizes)
        and all(
            is_array(each, "f8", (size,))
            for each, size in zip(prices, sizes, strict=True)
        )
    )


def _are_codes(codes: Any, state: Mapping[str, Any]) -> bool:
    sizes = _sizes(state)
    return is_array(codes, "i4", (None, len(sizes))) and bool(
        ((codes >= 0) & (codes < sizes)).all()
    )


def _are_ids(ids: Any, state: Mapping[str, Any]) -> bool:
    return (
        isinstance(ids, np.ndarray)
        and ids.ndim == 2
        and _are_codes(ids[:, :-1], state)
        and is_array(ids[:, -1], "i4", (None,))
        and ids[:, -1].min(initial=0) >= 0
    )


def _is_catalogue(catalogue: Any, state: Mapping[str, Any]) -> bool:
    return (
        isinstance(catalogue, Catalogue)
        and catalogue.codebook_sizes == tuple(_sizes(state))
        and catalogue.fingerprint == state["fingerprint_"]
        and len(catalogue.origin) in (1, state["n_features_in_"])
    )


def _is_history(history: Any, state: Mapping[str, Any]) -> bool:
    return (
        isinstance(history, list)
        and len(history) > 0
        and all(isinstance(row, dict) for row in history)
    )


# In this order: a check may rely on those before it.
CHECKS: dict[str, Any] = {
    "n_features_in_": lambda value, state: is_integer(value, 1),
    "mean_": lambda value, state: is_array(value, "f4 f8", (state["n_features_in_"],)),
    "codebooks_": _are_codebooks,
    "prices_": _are_prices,
    "_n_features_out": lambda value, state: value == len(state["codebooks_"]),
    "fingerprint_": lambda value, state: isinstance(value, str),
    "n_iter_": lambda value, state: is_integer(value),
    "codes_": _are_codes,
    "ids_": _are_ids,
    "catalogue_": _is_catalogue,
    "feature_names_in_": lambda value, state: (
        isinstance(value, np.ndarray)
        and value.dtype == object
        and value.shape == (state["n_features_in_"],)
    ),
    "_sklearn_output_config": lambda value, state: (
        isinstance(value, dict)
        and all(isinstance(v, str | None) for v in value.values())
    ),
    "duality_gap_": lambda value, state: is_array(
        value, "f8", (len(state["codebooks_"]),)
    ),
    "unit_": lambda value, state: isinstance(value, float) and 0 < value < np.inf,
    "state_": lambda value, state: (
        isinstance(value, dict)
        and all(is_array(v, "f4 i8", (None,) * np.ndim(v)) for v in value.values())
    ),
    "history_": _is_history,
    "best_epoch_": lambda value, state: is_integer(value),
    # What it is made of was checked before.
    "rqkmeans_": lambda value, state: (
        value is None or hasattr(getattr(value, "estimator", value), "codebooks_")
    ),
}
