"""Load what an estimator or a catalogue saved, whichever it is.

Every estimator has ``save`` and ``load``, and so has
:class:`~sk_rqkplus.ids.Catalogue`. A folder holds numbers and text alone, and nothing
in it is run.
"""

from os import PathLike
from typing import Any

from sk_rqkplus._catalogue import VERSION as CATALOGUE_VERSION
from sk_rqkplus._persistence import VERSION, read_model
from sk_rqkplus._rqkmeans import RQKMeans
from sk_rqkplus._rqkmeans_plus import RQKMeansPlus
from sk_rqkplus._rqvae import RQVAE
from sk_rqkplus._version import InconsistentVersionWarning
from sk_rqkplus.ids import Catalogue

__all__ = ["InconsistentVersionWarning", "load"]

# A folder names a class of these, and no other is ever looked for.
CLASSES = {kind.__name__: kind for kind in (RQKMeans, RQKMeansPlus, RQVAE)}
KINDS = {**dict.fromkeys(CLASSES, VERSION), Catalogue.__name__: CATALOGUE_VERSION}


def load(path: str | PathLike) -> Any:
    """Load an estimator or a catalogue, by what its folder says that it holds.

    Parameters
    ----------
    path : path-like
        Folder that ``save`` wrote.

    Returns
    -------
    model : RQKMeans, RQKMeansPlus, RQVAE or Catalogue
        As it was saved.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If a file is missing, changed or does not belong there, or the format is newer
        than this version.

    Examples
    --------
    >>> import tempfile
    >>> from sk_rqkplus import RQKMeans, persistence
    >>> from sk_rqkplus.datasets import make_catalogue
    >>> X = make_catalogue(100, 8, random_state=0).data
    >>> folder = tempfile.mkdtemp()
    >>> RQKMeans((8, 8), random_state=0).fit(X).save(folder)
    >>> persistence.load(folder)
    RQKMeans(codebook_sizes=(8, 8), random_state=0)
    """
    return read_model(path, CLASSES, KINDS)
