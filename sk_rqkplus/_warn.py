"""Warnings that point to the code that uses the package."""

import sys
import warnings

# Packages between a caller and what warns: scikit-learn wraps methods in its own.
OURS = {"sk_rqkplus", "sklearn"}


def warn(message: str) -> None:
    """Warn, and name the line outside of this package that led there."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals["__name__"].split(".")[0] in OURS:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
