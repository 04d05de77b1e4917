"""Distances in fixed point: a row's depend on the row alone, to the last bit."""

import numpy as np
import torch
from torch import Tensor

from sk_rqkplus._nearest import tile_rows
from sk_rqkplus._rounding import row_sums
from sk_rqkplus._threads import map_chunks


def fixed_point_distances(
    rows: Tensor, codebook: Tensor, *, fine: bool = True
) -> np.ndarray:
    """Squared distances, up to a term per row, that do not depend on other rows.

    Numbers are split into two integers, small enough for sums of their products to be
    exact in float64. Whatever order a product adds in, copies of a row get the same
    distances, to the last bit, whatever the other rows are.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n_features), float64
        Rows.

    codebook : Tensor of shape (n_codewords, n_features), float32
        The codewords.

    fine : bool, default=True
        To about 2^-40 of the lengths of row and codeword. If not, to 2^-18, by the
        first integers alone and in a third of the time.

    Returns
    -------
    distances : ndarray of shape (n_rows, n_codewords), float64
        ``||c_k||^2 - 2 r.c_k``.
    """
    bits = (52 - int(np.ceil(np.log2(2 * rows.shape[1])))) // 2

    def split(values: Tensor, dim: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Two integers for each number, and the unit of the first one."""
        largest = values.abs().amax(dim, keepdim=True).double().clamp(min=1e-300)
        # By NumPy, whose powers of two are exact.
        _, exponent = np.frexp(largest.cpu().numpy())
        unit = torch.from_numpy(np.ldexp(1.0, exponent + 1 - bits)).to(values.device)
        values = values.double() / unit
        high = values.round()
        return high, ((values - high) * 2.0**bits).round_(), unit

    # A unit of its own for each codeword and each row.
    high, low, unit = split(codebook, (1,))
    cross = torch.cat([low, high], dim=1)
    norms = row_sums(codebook.double().square())

    def distances(tile: slice) -> np.ndarray:
        tile_high, tile_low, tile_unit = split(rows[tile], (1,))
        product = tile_high @ high.T
        if fine:
            both = torch.cat([tile_high, tile_low], dim=1)
            product += (both @ cross.T) * 2.0**-bits
        return (norms - 2 * product * (tile_unit * unit.T)).cpu().numpy()

    step = tile_rows(len(codebook), rows.shape[1], rows.device)
    return np.concatenate(list(map_chunks(distances, len(rows), step, rows.device)))
