"""Warnings that point to the code that uses the package."""

import sys
import warnings
from types import FrameType

# Between a caller and what warns: scikit-learn wraps methods, skorch calls back, joblib
# caches a first stage, and contexts are entered.
OURS = {"sk_rqkplus", "sklearn", "skorch", "joblib", "contextlib"}


def warn(message: str) -> None:
    """Warn, and name the line outside of this package that led there."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and _package_of(frame) in OURS:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def _package_of(frame: FrameType) -> str:
    """Name of the package; code that is executed as text may have none."""
    return str(frame.f_globals.get("__name__")).partition(".")[0]
