"""Semantic IDs from item embeddings, with scikit-learn estimators.

``RQKMeans`` learns residual k-means codebooks; ``RQKMeansPlus`` fine-tunes them inside
a residual autoencoder; ``RQVAE`` is the classic baseline. ``transform`` returns codes,
``predict`` unique IDs, and ``sk_rqkplus.tokens`` writes them as the tokens that
generative recommenders train on.
"""

from sk_rqkplus._rqkmeans import RQKMeans
from sk_rqkplus._rqkmeans_plus import RQKMeansPlus
from sk_rqkplus._rqvae import RQVAE
from sk_rqkplus._version import __version__

__all__ = ["RQVAE", "RQKMeans", "RQKMeansPlus", "__version__"]
