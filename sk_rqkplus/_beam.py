"""Beam search over additive codebooks, exact like :mod:`sk_rqkplus._nearest`.

A greedy code takes the nearest codeword level by level; a beam keeps the ``beam_size``
best prefixes and lets all their extensions compete. The cost of a prefix is::

    ||x - c_1 - .. - c_l||^2 + price_1 + .. + price_l
        = ||x||^2 + sum_a (||c_a||^2 + price_a - 2 x.c_a) + sum_{a<b} 2 c_a.c_b

so that one product of the rows with all codebooks and tables of the products between
codebooks give the cost of every path, and no residual is ever formed. Float32 decides
wherever its margins exceed its rounding error, float64 wherever its own do, and direct
differences decide what is left, which are ties.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sk_rqkplus._nearest import Codewords
from sk_rqkplus._rounding import FLOAT32_ROUNDOFF, input_roundoff, row_sums

FLOAT64_ROUNDOFF = 2.0**-53
# Scores of the extensions of one tile: few enough for the cache of a CPU core.
TILE_SCORES = {"cpu": 2**20, "cuda": 2**26}
EXACT_VALUES = 2**22
# Minima of groups of this size tell where the smallest values are.
GROUP = 4
# Inner products are summed in parts of so many terms, which bounds their error.
PRODUCT_TERMS = 128


class BeamCodebooks:
    """The codebooks of all levels, made ready for :func:`beam_search`.

    The tables take 12 bytes for every pair of codewords of different levels.

    Parameters
    ----------
    levels : sequence of Codewords
        Codebook and prices of every level, on one device.
    """

    def __init__(self, levels: Sequence[Codewords]):
        self.levels = list(levels)
        self.single = _Tables(self.levels, torch.float32)
        self.double = _Tables(self.levels, torch.float64)


class _Tables:
    """Products between codebooks in one precision, and bounds of their errors."""

    def __init__(self, levels: Sequence[Codewords], dtype: torch.dtype):
        exact = torch.cat([words.exact for words in levels])
        prices = torch.cat([words.prices for words in levels])
        offsets = exact.square().sum(1) + prices
        self.sizes = [len(words) for words in levels]
        self.starts = [sum(self.sizes[:level]) for level in range(len(levels))]
        self.codebook = exact.to(dtype)
        self.offsets = offsets.to(dtype)
        #: Of every level: twice its products with the codewords of the levels before.
        self.cross = [
            (2 * exact[:start] @ words.exact.T).to(dtype)
            for start, words in zip(self.starts, levels, strict=True)
        ]
        largest = [words.exact.norm(dim=1).max() for words in levels]
        self.norms = torch.stack(largest).cumsum(0)
        self.largest_offsets = torch.stack(
            [part.abs().max() for part in offsets.split(self.sizes)]
        ).cumsum(0)

    def scores(self, rows: Tensor) -> tuple[Tensor, ...]:
        """``||c||^2 + price - 2 x.c`` of all codewords, one tensor per level."""
        scores = self.offsets.repeat(len(rows), 1)
        product = torch.empty_like(scores)
        for values, codewords in zip(
            rows.split(PRODUCT_TERMS, dim=1),
            self.codebook.split(PRODUCT_TERMS, dim=1),
            strict=True,
        ):
            torch.mm(values, codewords.T, out=product)
            scores.add_(product, alpha=-2)
        return scores.split(self.sizes, dim=1)

    def extend(self, level: int, scores: Tensor, paths: Tensor) -> Tensor:
        """What one level adds to the scores of the kept paths.

        Parameters
        ----------
        level : int
            The level that is added.

        scores : Tensor of shape (n_rows, n_codewords)
            Scores of its codewords on their own.

        paths : Tensor of shape (n_rows, n_paths, level), int64
            Rows of ``codebook`` that the paths consist of.

        Returns
        -------
        wide : Tensor of shape (n_rows, n_paths, n_codewords)
            Scores, plus twice the products with the codewords of the path.
        """
        if level == 0:
            return scores[:, None]
        wide = self.cross[level].index_select(0, paths[:, :, 0].flatten())
        for before in range(1, level):
            wide += self.cross[level].index_select(0, paths[:, :, before].flatten())
        wide = wide.view(*paths.shape[:2], -1)
        return wide.add_(scores[:, None])

    def score_errors(self, rows: Tensor, noise: Tensor | None) -> Tensor:
        """Bound of the error of any score of a path, after every level.

        As in :mod:`sk_rqkplus._nearest`, a product of n terms is off by ``n u`` times
        the norms, and every sum by u times the sum of the magnitudes. What float64
        loses on direct differences is added, so that these would decide alike.

        Parameters
        ----------
        rows : Tensor of shape (n_rows, n_features)
            Rows, in the precision of the tables.

        noise : Tensor of shape (n_rows,) or None
            Bound of the distance of each row from the exact row.

        Returns
        -------
        errors : Tensor of shape (n_rows, n_levels)
            Bounds, in the precision of the tables.
        """
        single = rows.dtype == torch.float32
        unit = FLOAT32_ROUNDOFF if single else FLOAT64_ROUNDOFF
        inside = input_roundoff(rows.device) if single else 0.0
        n_features = rows.shape[1]
        norms = rows.norm(dim=1, keepdim=True) * (1 + 2 * n_features * unit)
        total, offsets = self.norms, self.largest_offsets
        n_terms = torch.arange(1, len(total) + 1, device=rows.device)
        n_terms = n_terms * (n_terms + 1) / 2
        n_products = min(n_features, PRODUCT_TERMS) + n_features / PRODUCT_TERMS
        gamma = 1.05 * (n_products + 8 + n_terms) * unit
        gamma_double = 1.05 * (n_features + 8 + n_terms) * FLOAT64_ROUNDOFF
        # 2 sum_{a<b} ||c_a|| ||c_b|| is less than the square of the sum.
        cross = (1.05 * (n_terms + 2) * unit + gamma_double) * total.square()
        slope = 2 * total * (gamma + inside * (2 + inside))
        errors = norms * slope.to(rows) + (gamma * offsets + cross).to(rows)
        direct = (norms + total.to(rows)).square() + offsets.to(rows)
        errors = errors + gamma_double.to(rows) * direct
        if noise is not None:
            errors = errors + noise[:, None] * (2 * total).to(rows)
        return errors


def beam_search(
    rows: Tensor,
    codebooks: BeamCodebooks,
    beam_size: int,
    *,
    noise: Tensor | None = None,
    exact_rows: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Code of every row, as a beam search in float64 arithmetic gives it.

    At each level the ``beam_size`` extensions of least cost are kept, of equal ones
    those with the lexicographically smaller code; the best path in the end wins.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n_features), float32
        Centred rows.

    codebooks : BeamCodebooks
        Codebooks and prices of all levels, on the device of the rows.

    beam_size : int
        Paths that are kept, at least 1, which gives the greedy code.

    noise : Tensor of shape (n_rows,), optional
        Bound of the Euclidean distance between each row and the exact row that it
        stands for; None means that the rows are exact.

    exact_rows : callable, optional
        Maps row indices to the exact rows in float64; None means ``rows`` themselves.

    Returns
    -------
    codes : Tensor of shape (n_rows, n_levels), int64
        Index of one codeword per level.

    References
    ----------
    Liu et al., "Improved residual vector quantization for high-dimensional approximate
    nearest neighbor search", 2015 (arXiv 1509.05195), for search by several paths.
    """
    if exact_rows is None:

        def exact_rows(index: Tensor) -> Tensor:
            return rows[index].double()

    codes, certain = _tiled(rows, codebooks.single, beam_size, noise)
    for doubtful in _parts(torch.nonzero(~certain).squeeze(1), rows.shape[1]):
        exact = exact_rows(doubtful)
        found, certain = _tiled(exact, codebooks.double, beam_size, None)
        ties = torch.nonzero(~certain).squeeze(1)
        for part in _parts(ties, beam_size * max(codebooks.double.sizes)):
            found[part] = _direct_search(exact[part], codebooks, beam_size)
        codes[doubtful] = found
    return codes


def _parts(index: Tensor, n_values: int) -> tuple[Tensor, ...]:
    """Split row numbers so that ``n_values`` per row are few enough."""
    return index.split(max(1, EXACT_VALUES // n_values)) if len(index) else ()


def _tiled(
    rows: Tensor, tables: _Tables, beam_size: int, noise: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Codes of all rows, and which of them are certain, a tile at a time."""
    codes = torch.empty(
        (len(rows), len(tables.sizes)), dtype=torch.int64, device=rows.device
    )
    certain = torch.empty(len(rows), dtype=torch.bool, device=rows.device)
    widest = max(beam_size * max(tables.sizes), sum(tables.sizes))
    step = max(16, TILE_SCORES[rows.device.type] // widest)
    for start in range(0, len(rows), step):
        tile = slice(start, start + step)
        bound = None if noise is None else noise[tile]
        codes[tile], certain[tile] = _search(rows[tile], tables, beam_size, bound)
    return codes, certain


def _search(
    rows: Tensor, tables: _Tables, beam_size: int, noise: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Codes of a tile, and which of them rounding cannot have changed."""
    scores = tables.scores(rows)
    errors = tables.score_errors(rows, noise)
    last = len(scores) - 1
    certain = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    paths = torch.empty((len(rows), 1, 0), dtype=torch.int64, device=rows.device)
    beam = rows.new_zeros((len(rows), 1))
    for level, start in enumerate(tables.starts):
        wide = tables.extend(level, scores[level], paths)
        n_kept = min(1 if level == last else beam_size, wide[0].numel())
        beam, kept, margin = _keep(wide, beam, n_kept)
        # An overflow makes the margin NaN, and a NaN is not certain either.
        certain &= margin > 2 * errors[:, level]
        paths = _follow(paths, kept, tables.sizes[level], start)
    starts = torch.tensor(tables.starts, device=rows.device)
    return paths[:, 0] - starts, certain


def _keep(wide: Tensor, beam: Tensor, n_kept: int) -> tuple[Tensor, Tensor, Tensor]:
    """The least sums of every row, where they are, and their margin to the rest."""
    if n_kept == 1:
        return _least(wide, beam)
    # The score of a single path is common to all of its extensions.
    flat = (wide if wide.shape[1] == 1 else wide.add_(beam[:, :, None])).flatten(1)
    if n_kept == flat.shape[1]:
        everything = torch.arange(n_kept, device=flat.device).expand(len(flat), -1)
        return flat, everything, flat.new_full((len(flat),), torch.inf)
    values, index = _smallest(flat, n_kept + 1)
    margin = values[:, n_kept] - values[:, n_kept - 1]
    return values[:, :n_kept], index[:, :n_kept], margin


def _least(wide: Tensor, beam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same for a single sum to keep: ``amin`` is by far the fastest reduction."""
    n_rows, n_paths, n_codewords = wide.shape
    least = wide.amin(dim=2).add_(beam)
    path = least.argmin(dim=1, keepdim=True)
    at = torch.arange(n_rows, device=wide.device) * n_paths + path[:, 0]
    among = wide.flatten(0, 1).index_select(0, at)
    best, code = among.min(dim=1, keepdim=True)
    among.scatter_(1, code, torch.inf)
    parent = beam.gather(1, path)
    best = best + parent
    rest = least.scatter(1, path, torch.inf).amin(dim=1, keepdim=True)
    margin = torch.minimum(among.amin(dim=1, keepdim=True) + parent, rest) - best
    return best, path * n_codewords + code, margin[:, 0]


def _smallest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest values of every row in ascending order, and where they are.

    They are in the k groups whose minima are smallest, so that ``topk``, which takes
    ten times as long per value as ``amin``, need only see few values.
    """
    n_groups = values.shape[1] // GROUP
    if n_groups <= 2 * k:
        found = values.topk(k, dim=1, largest=False)
        return found.values, found.indices
    head = n_groups * GROUP
    minima = values[:, :head].unflatten(1, (GROUP, n_groups)).amin(dim=1)
    members = torch.arange(head, device=values.device).view(GROUP, n_groups).T
    index = members[_smallest(minima, k)[1]].flatten(1)
    tail = torch.arange(head, values.shape[1], device=values.device)
    index = torch.cat([index, tail.expand(len(values), -1)], dim=1)
    found = values.gather(1, index).topk(k, dim=1, largest=False)
    return found.values, index.gather(1, found.indices)


def _follow(paths: Tensor, kept: Tensor, size: int, start: int) -> Tensor:
    """Extend the paths that lead to the kept candidates."""
    parents = torch.div(kept, size, rounding_mode="floor")
    before = paths.gather(1, parents[:, :, None].expand(-1, -1, paths.shape[2]))
    return torch.cat([before, (kept % size + start)[:, :, None]], dim=2)


def _direct_search(rows: Tensor, codebooks: BeamCodebooks, beam_size: int) -> Tensor:
    """Codes of rows in float64, costs by direct differences, ties to the lesser code.

    Only candidates that the error bound leaves in question are compared.
    """
    tables = codebooks.double
    scores, errors = tables.scores(rows), tables.score_errors(rows, None)
    paths = torch.empty((len(rows), 1, 0), dtype=torch.int64, device=rows.device)
    beam, spent = rows.new_zeros((len(rows), 1)), rows.new_zeros((len(rows), 1))
    residual = rows[:, None]
    for level, words in enumerate(codebooks.levels):
        wide = tables.extend(level, scores[level], paths)
        flat = (wide + beam[:, :, None]).flatten(1)
        last = level == len(scores) - 1
        n_kept = min(1 if last else beam_size, flat.shape[1])
        candidates = _candidates(flat, n_kept, errors[:, level])
        costs, prices = _costs(residual, spent, words, candidates)
        order = costs.sort(dim=1, stable=True).indices[:, :n_kept]
        # In the order of the codes again, which is what breaks the next ties.
        order = order.sort(dim=1).values
        kept, spent = candidates.gather(1, order), prices.gather(1, order)
        beam = flat.gather(1, kept)
        parents = torch.div(kept, len(words), rounding_mode="floor")
        residual = _differences(residual, parents, words.exact[kept % len(words)])
        paths = _follow(paths, kept, len(words), tables.starts[level])
    return paths[:, 0] - torch.tensor(tables.starts, device=rows.device)


def _candidates(flat: Tensor, n_kept: int, errors: Tensor) -> Tensor:
    """Candidates of every row that may be among its least, in ascending order."""
    limit = flat.kthvalue(n_kept, dim=1).values + 2 * errors
    # Without a bound there is no choice but to compare all of them.
    within = ~(flat > limit[:, None])
    n_candidates = int(within.sum(dim=1).max())
    found = flat.topk(n_candidates, dim=1, largest=False, sorted=False)
    return found.indices.sort(dim=1).values


def _costs(
    residual: Tensor, spent: Tensor, words: Codewords, candidates: Tensor
) -> tuple[Tensor, Tensor]:
    """Costs and summed prices of candidates, a bounded number at a time."""
    parents = torch.div(candidates, len(words), rounding_mode="floor")
    codes = candidates % len(words)
    prices = spent.gather(1, parents) + words.prices[codes]
    step = max(1, EXACT_VALUES // (candidates.shape[1] * residual.shape[2]))
    squares = [
        row_sums(_differences(*part).square_())
        for part in zip(
            residual.split(step),
            parents.split(step),
            (words.exact[code] for code in codes.split(step)),
            strict=True,
        )
    ]
    return torch.cat(squares) + prices, prices


def _differences(residual: Tensor, parents: Tensor, codewords: Tensor) -> Tensor:
    """Residuals of paths, one codeword further."""
    index = parents[:, :, None].expand(-1, -1, residual.shape[2])
    return residual.gather(1, index) - codewords
