"""The version of the package, and of the state that its pickles hold."""

import warnings
from typing import Any

from sklearn import exceptions

__version__ = "0.1.0"
# Raised when a pickle of the version before can no longer be read.
STATE_FORMAT = 1
STAMP = "_sk_rqkplus"


class InconsistentVersionWarning(exceptions.InconsistentVersionWarning):
    """A pickle was made by another version of sk-rqkplus.

    Parameters
    ----------
    estimator_name : str
        Name of the class.

    version : str
        Version that made the pickle.
    """

    def __init__(self, *, estimator_name: str, version: str):
        super().__init__(
            estimator_name=estimator_name,
            current_sklearn_version="",
            original_sklearn_version="",
        )
        self.version = version

    def __str__(self) -> str:
        return (
            f"{self.estimator_name} was pickled by sk-rqkplus {self.version}, and this "
            f"is {__version__}, which may read it wrongly. Use save and load between "
            "versions."
        )


def stamped(state: dict[str, Any]) -> dict[str, Any]:
    """State of a pickle, with the version that made it."""
    return {**state, STAMP: {"version": __version__, "format": STATE_FORMAT}}


def unstamped(state: dict[str, Any], name: str) -> dict[str, Any]:
    """State as it was before :func:`stamped`; says if it is of another version."""
    state = dict(state)
    stamp = state.pop(STAMP, {"version": "of unknown version", "format": 1})
    if stamp["format"] != STATE_FORMAT:
        raise ValueError(
            f"{name} was pickled by sk-rqkplus {stamp['version']} with "
            f"format={stamp['format']}, which should be {STATE_FORMAT}. Load it with "
            "that version and save it with its save method."
        )
    if stamp["version"] != __version__:
        warnings.warn(
            InconsistentVersionWarning(estimator_name=name, version=stamp["version"]),
            stacklevel=3,
        )
    return state
