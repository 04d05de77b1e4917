"""Import optional packages, or say which pip line installs them."""

from importlib import import_module
from types import ModuleType


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional module.

    Parameters
    ----------
    module : str
        Name of the module to import, for example ``"matplotlib.pyplot"``.

    extra : str
        The extra of this project that installs it.

    Returns
    -------
    module : module
        The imported module.

    Raises
    ------
    ImportError
        If the module is not installed; the message has the pip line that helps.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module} is needed here but could not be imported ({error}). "
            f'Install it with: pip install "sk-rqkplus[{extra}]"'
        ) from error
