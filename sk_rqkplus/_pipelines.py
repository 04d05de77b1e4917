"""A model: a quantiser, or a pipeline that ends in one."""

from typing import Any

import joblib
import numpy as np
from sklearn.pipeline import Pipeline


def quantizer(model: Any) -> Any:
    """Quantiser at the end of a model."""
    return model[-1] if isinstance(model, Pipeline) else model


def prepared(model: Any, X: np.ndarray) -> np.ndarray:
    """Rows as they come to the quantiser."""
    if isinstance(model, Pipeline) and len(model) > 1:
        return model[:-1].transform(X)
    return X


def fingerprint_of(model: Any) -> str:
    """Digest of all that codes are made with, preparing steps included."""
    own = quantizer(model)._fingerprint()
    if isinstance(model, Pipeline) and len(model) > 1:
        return f"{own}-{joblib.hash(model.steps[:-1])}"
    return own
