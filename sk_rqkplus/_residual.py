"""Residual quantisation over all levels: encode and decode, no classes of estimators.

``x - mean`` is approximated by one codeword per level; each level quantises what the
levels before it left over. Codes are those of float64 arithmetic (see ``_nearest``).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from sk_rqkplus._nearest import FLOAT32_ROUNDOFF, Codewords, nearest, tile_rows

Latent = Callable[[Tensor], Tensor]


def power_of_two(magnitude: float) -> float:
    """Largest power of two up to a magnitude; 1 for zero.

    Dividing by it brings data of any unit into the range of float32 without rounding.
    """
    return float(2.0 ** np.floor(np.log2(magnitude))) if magnitude > 0 else 1.0


def centred(
    X: np.ndarray, mean: np.ndarray, device: torch.device, dtype: type = np.float64
) -> Tensor:
    """Return ``X - mean`` as a tensor on a device."""
    return torch.from_numpy(np.subtract(X, mean, dtype=dtype)).to(device)


def encode(
    X: np.ndarray,
    codebooks: Sequence[np.ndarray],
    prices: Sequence[np.ndarray],
    mean: np.ndarray,
    *,
    latent: Latent | None = None,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Greedy code of every row.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32 or float64
        Rows; only a tile of them is ever copied.

    codebooks : sequence of ndarray of shape (n_codewords, n_features), float32
        One codebook per level.

    prices : sequence of ndarray of shape (n_codewords,), float64
        Price of every codeword, in squared units of X.

    mean : ndarray of shape (n_features,)
        Origin of the codebooks.

    latent : callable, optional
        Maps centred rows (float64 tensor) to what is quantised; None is the identity.

    device : str or torch.device, default="cpu"
        Where to compute. The codes do not depend on it.

    Returns
    -------
    codes : ndarray of shape (n_samples, n_levels), int32
        Index of one codeword per level.
    """
    device = torch.device(device)
    scale = power_of_two(max(float(np.abs(book).max()) for book in codebooks))
    levels = [
        Codewords(
            torch.as_tensor(np.divide(book, scale), dtype=torch.float32).to(device),
            torch.as_tensor(np.divide(price, scale * scale)),
        )
        for book, price in zip(codebooks, prices, strict=True)
    ]
    codes = np.empty((len(X), len(levels)), dtype=np.int32)
    step = tile_rows(max(map(len, levels)), X.shape[1], device)
    for start in range(0, len(X), step):
        tile = X[start : start + step]
        code = _encode_tile(tile, levels, mean, scale, latent, device)
        codes[start : start + step] = code.cpu().numpy()
    return codes


def _encode_tile(
    tile: np.ndarray,
    levels: Sequence[Codewords],
    mean: np.ndarray,
    scale: float,
    latent: Latent | None,
    device: torch.device,
) -> Tensor:
    """Codes of one tile of rows."""
    if latent is None:
        residual = (
            centred(tile, mean, device, np.result_type(tile, mean).type).float() / scale
        )
    else:
        rows = latent(centred(tile, mean, device)) / scale
        residual = rows.float()
    codes = torch.empty((len(tile), len(levels)), dtype=torch.int64, device=device)
    noise = 1.01 * FLOAT32_ROUNDOFF * residual.norm(dim=1)

    for level, words in enumerate(levels):

        def exact(index: Tensor, level: int = level) -> Tensor:
            """Float64 residual of some rows of the tile before a level."""
            if latent is None:
                exact = centred(tile[index.cpu().numpy()], mean, device) / scale
            else:
                exact = rows[index]
            for before, code in zip(levels[:level], codes[index].T, strict=False):
                exact = exact - before.exact[code]
            return exact

        codes[:, level] = nearest(residual, words, noise=noise, exact_rows=exact)
        residual -= words.codebook[codes[:, level]]
        noise += 1.01 * FLOAT32_ROUNDOFF * residual.norm(dim=1)
    return codes


def decode(
    codes: np.ndarray, codebooks: Sequence[np.ndarray], mean: np.ndarray | float = 0.0
) -> np.ndarray:
    """Sum of the codewords that each code names, plus the mean.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_levels), int
        Index of one codeword per level.

    codebooks : sequence of ndarray of shape (n_codewords, n_features)
        One codebook per level.

    mean : ndarray of shape (n_features,) or float, default=0
        Origin of the codebooks.

    Returns
    -------
    X : ndarray of shape (n_samples, n_features), float64
        Reconstructed rows.
    """
    total = np.zeros((len(codes), codebooks[0].shape[1])) + mean
    for book, code in zip(codebooks, codes.T, strict=True):
        total += book[code]
    return total
