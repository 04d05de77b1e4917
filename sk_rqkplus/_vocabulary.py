"""One vocabulary for all levels: its words, and IDs as numbers of words."""

from collections.abc import Sequence
from numbers import Integral

import numpy as np

from sk_rqkplus._groups import as_array
from sk_rqkplus._layout import Layout, check_ids, check_sizes
from sk_rqkplus._template import PUBLISHED

NO_TOKEN = -1


def vocabulary(
    codebook_sizes: Sequence[int],
    *,
    n_suffix: int = 1,
    base: int = 0,
    suffix: str = "always",
    template: str = PUBLISHED,
) -> list[str]:
    """List the tokens that IDs are written with, as ``add_tokens`` takes them.

    Parameters
    ----------
    codebook_sizes : sequence of int
        Number of codewords per level.

    n_suffix : int, default=1
        Number of suffixes, the largest one plus 1: ``ids[:, -1].max() + 1``. Leave room
        for items to come.

    base : {0, 1}, default=0
        Number of the first codeword of a level in the tokens.

    suffix : {"always", "on_collision", "never"}, default="always"
        Which IDs get a token for their suffix, see :func:`to_tokens`.

    template : str, default="<{letter}_{code}>"
        Text of a token, see :func:`to_tokens`.

    Returns
    -------
    words : list of str
        Tokens, all different: the levels one after the other, suffixes last. The place
        of a token is its number in :func:`to_token_ids`.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    Examples
    --------
    >>> from sk_rqkplus.tokens import vocabulary
    >>> vocabulary([2, 3])
    ['<a_0>', '<a_1>', '<b_0>', '<b_1>', '<b_2>', '<c_0>']
    >>> vocabulary([2, 1], suffix="never", base=1)
    ['<a_1>', '<a_2>', '<b_1>']
    """
    layout = Layout(base, suffix, template)
    sizes = check_sizes(codebook_sizes).tolist()
    if not isinstance(n_suffix, Integral) or n_suffix < 0:
        raise ValueError(
            f"n_suffix={n_suffix!r} should be an int >= 0. Give ids[:, -1].max() + 1."
        )
    # With one suffix nothing collides, and "on_collision" has nothing to write.
    unused = suffix == "never" or (suffix == "on_collision" and n_suffix == 1)
    layout.template.check_width(len(sizes) + 1)
    words = []
    for level, size in enumerate([*sizes, 0 if unused else int(n_suffix)]):
        first = layout.first(level, len(sizes))
        words += [layout.template.token(level, first + code) for code in range(size)]
    return words


def to_token_ids(
    ids: np.ndarray,
    codebook_sizes: Sequence[int],
    *,
    suffix: str = "always",
    start: int = 0,
) -> np.ndarray:
    """Number the tokens of IDs so that every level has its own range.

    A code becomes ``start`` + the sizes of all levels before it + the code.

    Parameters
    ----------
    ids : array-like of shape (n_samples, n_levels + 1), int
        IDs, 0-based, the last column the suffix.

    codebook_sizes : sequence of int
        Number of codewords per level.

    suffix : {"always", "on_collision", "never"}, default="always"
        Which IDs get a token for their suffix, see :func:`to_tokens`.

    start : int, default=0
        Number of the first token. ``len(tokenizer)`` before ``add_tokens`` gives the
        numbers that the tokenizer gives the words of :func:`vocabulary`.

    Returns
    -------
    token_ids : ndarray of shape (n_samples, n_levels + 1), int64
        Numbers of the tokens; without the last column if ``suffix="never"``, and -1 in
        it where an ID has no token for its suffix.

    Raises
    ------
    ValueError
        If a parameter is out of its range, or a code is not below its codebook size.

    See Also
    --------
    from_token_ids : Reads them back.
    vocabulary : The words that are numbered.

    Examples
    --------
    >>> from sk_rqkplus.tokens import to_token_ids
    >>> to_token_ids([[1, 2, 0], [1, 2, 1], [0, 0, 0]], [2, 3])
    array([[1, 4, 5],
           [1, 4, 6],
           [0, 2, 5]])
    """
    layout = Layout(suffix=suffix)
    ids = check_ids(ids)
    sizes = check_sizes(codebook_sizes)
    offsets = _offsets(sizes, start)
    if ids.shape[1] != len(offsets):
        raise ValueError(
            f"ids have {ids.shape[1]} columns, which should be {len(offsets)}: one per "
            "codebook and the suffix. Give what predict returns."
        )
    wrong = ids[:, :-1] >= sizes
    if wrong.any():
        row, level = np.argwhere(wrong)[0]
        raise ValueError(
            f"ids[{row}, {level}]={ids[row, level]} should be below codebook_sizes["
            f"{level}]={sizes[level]}. Give the sizes of the model that made the IDs."
        )
    suffixed = layout.suffixed(ids)
    token_ids = ids.astype(np.int64) + offsets
    token_ids[~suffixed, -1] = NO_TOKEN
    return token_ids[:, :-1] if suffix == "never" else token_ids


def from_token_ids(
    token_ids: np.ndarray,
    codebook_sizes: Sequence[int],
    *,
    suffix: str = "always",
    start: int = 0,
) -> np.ndarray:
    """Read numbers of tokens back.

    Parameters
    ----------
    token_ids : array-like of shape (n_samples, n_tokens), int
        Numbers of tokens, as :func:`to_token_ids` returns them.

    codebook_sizes : sequence of int
        Number of codewords per level.

    suffix : {"always", "on_collision", "never"}, default="always"
        Which IDs have a token for their suffix; those without get suffix 0.

    start : int, default=0
        Number of the first token.

    Returns
    -------
    ids : ndarray of shape (n_samples, n_levels + 1), int32
        IDs, 0-based.

    Raises
    ------
    ValueError
        If a number is outside the range of its level; the message names the place.

    Examples
    --------
    >>> from sk_rqkplus.tokens import from_token_ids
    >>> from_token_ids([[1, 4, 6]], [2, 3])
    array([[1, 2, 1]], dtype=int32)
    """
    layout = Layout(suffix=suffix)
    sizes = check_sizes(codebook_sizes)
    offsets = _offsets(sizes, start)
    token_ids = as_array(token_ids, "token_ids")
    width = layout.lengths(len(sizes))[-1]
    if token_ids.ndim != 2 or token_ids.shape[1] != width:
        raise ValueError(
            f"token_ids have shape={token_ids.shape}, which should be (n_samples, "
            f"{width}). Check codebook_sizes and {suffix=}."
        )
    if token_ids.dtype.kind not in "iu":
        raise ValueError(
            f"token_ids have dtype={token_ids.dtype}, which should be an integer type. "
            "Give what to_token_ids returns."
        )
    ids = np.zeros((len(token_ids), len(offsets)), dtype=np.int64)
    ids[:, :width] = token_ids - offsets[:width]
    if suffix == "on_collision":
        ids[token_ids[:, -1] == NO_TOKEN, -1] = 0
    wrong = (ids < 0) | (ids >= np.r_[sizes, np.iinfo(np.int32).max])
    if wrong.any():
        row, level = np.argwhere(wrong)[0]
        stop = offsets[level] + sizes[level] if level < len(sizes) else "2**31"
        raise ValueError(
            f"token_ids[{row}, {level}]={token_ids[row, level]} should be in "
            f"[{offsets[level]}, {stop}). Check codebook_sizes, suffix and start."
        )
    return ids.astype(np.int32)


def _offsets(sizes: np.ndarray, start: int) -> np.ndarray:
    """Number of the first token of every level, and of the suffix."""
    if not isinstance(start, Integral) or start < 0:
        raise ValueError(f"start={start!r} should be an int >= 0. Use len(tokenizer).")
    return start + np.r_[0, np.cumsum(sizes)]
