"""IDs as texts, in memory."""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from sk_rqkplus._layout import Layout, check_n_levels
from sk_rqkplus._template import PUBLISHED


def to_tokens(
    ids: np.ndarray,
    *,
    base: int = 0,
    suffix: str = "always",
    template: str = PUBLISHED,
) -> list[list[str]]:
    """Write every ID as a list of tokens such as ``<a_12>``, one per level.

    Parameters
    ----------
    ids : array-like of shape (n_samples, n_levels + 1), int
        IDs, 0-based, the last column the suffix, as ``predict`` returns them.

    base : {0, 1}, default=0
        Number of the first codeword of a level in the tokens.

    suffix : {"always", "on_collision", "never"}, default="always"
        Which IDs get a token for their suffix. ``"on_collision"`` writes it for items
        that share their code, counted from 1, as the published files do; ``"never"``
        drops it.

    template : str, default="<{letter}_{code}>"
        Text of a token, with the fields ``{code}``, once, and ``{letter}`` or
        ``{level}``: a, b, c … or 0, 1, 2 … from the first level on.

    Returns
    -------
    tokens : list of list of str
        Tokens of each ID.

    Raises
    ------
    ValueError
        If a parameter is out of its range, an ID is negative or has too many levels, or
        tokens of the template could not be read back.

    Warns
    -----
    UserWarning
        If IDs differ in length, or differ from each other no more.

    See Also
    --------
    from_tokens : Reads them back.
    to_strings : One string per ID.

    Examples
    --------
    >>> from sk_rqkplus.tokens import to_tokens
    >>> to_tokens([[3, 1, 0], [3, 1, 1]], base=1, suffix="on_collision")
    [['<a_4>', '<b_2>', '<c_1>'], ['<a_4>', '<b_2>', '<c_2>']]
    >>> to_tokens([[3, 1, 0]], template="<|sid_{level}_{code}|>")
    [['<|sid_0_3|>', '<|sid_1_1|>', '<|sid_2_0|>']]
    """
    layout = Layout(base, suffix, template)
    ids = layout.check(ids)
    return layout.rows(ids, layout.suffixed(ids))


def from_tokens(
    tokens: Iterable[Sequence[str]],
    n_levels: int,
    *,
    base: int = 0,
    suffix: str = "always",
    template: str = PUBLISHED,
) -> np.ndarray:
    """Read lists of tokens back.

    Parameters
    ----------
    tokens : iterable of sequence of str
        Tokens of each ID.

    n_levels : int
        Number of levels of the codes; one token more is the suffix.

    base : {0, 1}, default=0
        Number of the first codeword in the tokens.

    suffix : {"always", "on_collision", "never"}, default="always"
        Which IDs have a token for their suffix; those without get suffix 0.

    template : str, default="<{letter}_{code}>"
        Text of a token, see :func:`to_tokens`.

    Returns
    -------
    ids : ndarray of shape (n_samples, n_levels + 1), int32
        IDs, 0-based.

    Raises
    ------
    ValueError
        If a list of tokens is not what the parameters say; the message names the row.

    Examples
    --------
    >>> from sk_rqkplus.tokens import from_tokens
    >>> from_tokens([["<a_4>", "<b_2>", "<c_1>"]], 2, base=1, suffix="on_collision")
    array([[3, 1, 0]], dtype=int32)
    """
    layout = Layout(base, suffix, template)
    rows = tokens.tolist() if isinstance(tokens, np.ndarray) else list(tokens)
    return layout.read(rows, n_levels, lambda row: f"tokens[{row}]")


def to_strings(
    ids: np.ndarray,
    *,
    base: int = 0,
    suffix: str = "always",
    template: str = PUBLISHED,
    separator: str = "",
) -> list[str]:
    """Write every ID as one string such as ``<a_12><b_7><c_201>``.

    Parameters
    ----------
    ids : array-like of shape (n_samples, n_levels + 1), int
        IDs, 0-based, the last column the suffix.

    base : {0, 1}, default=0
        Number of the first codeword of a level in the tokens.

    suffix : {"always", "on_collision", "never"}, default="always"
        Which IDs get a token for their suffix, see :func:`to_tokens`.

    template : str, default="<{letter}_{code}>"
        Text of a token, see :func:`to_tokens`.

    separator : str, default=""
        What stands between two tokens.

    Returns
    -------
    strings : list of str
        Tokens of each ID, joined.

    Raises
    ------
    ValueError
        As :func:`to_tokens`, and if the joined tokens could be read in two ways.

    See Also
    --------
    from_strings : Reads them back.

    Examples
    --------
    >>> from sk_rqkplus.tokens import to_strings
    >>> to_strings([[3, 1, 0], [3, 1, 1]])
    ['<a_3><b_1><c_0>', '<a_3><b_1><c_1>']
    >>> to_strings(
    ...     [[3, 1, 0]], suffix="never", template="{letter}{code}", separator="-"
    ... )
    ['a3-b1']
    """
    layout = Layout(base, suffix, template)
    layout.template.check_separator(separator)
    ids = layout.check(ids)
    columns = layout.texts(
        ids,
        layout.suffixed(ids),
        lambda level, token: separator + token if level else token,
    )
    return list(map("".join, zip(*columns, strict=True)))


def from_strings(
    strings: Iterable[str],
    n_levels: int,
    *,
    base: int = 0,
    suffix: str = "always",
    template: str = PUBLISHED,
    separator: str = "",
) -> np.ndarray:
    """Read joined tokens back.

    Parameters
    ----------
    strings : iterable of str
        Tokens of each ID, joined.

    n_levels : int
        Number of levels of the codes; one token more is the suffix.

    base : {0, 1}, default=0
        Number of the first codeword in the tokens.

    suffix : {"always", "on_collision", "never"}, default="always"
        Which IDs have a token for their suffix; those without get suffix 0.

    template : str, default="<{letter}_{code}>"
        Text of a token, see :func:`to_tokens`.

    separator : str, default=""
        What stands between two tokens.

    Returns
    -------
    ids : ndarray of shape (n_samples, n_levels + 1), int32
        IDs, 0-based.

    Raises
    ------
    ValueError
        If a string is not what the parameters say; the message names the row.

    Examples
    --------
    >>> from sk_rqkplus.tokens import from_strings
    >>> from_strings(["<a_3><b_1><c_0>", "<a_3><b_1><c_1>"], 2)
    array([[3, 1, 0],
           [3, 1, 1]], dtype=int32)
    """
    layout = Layout(base, suffix, template)
    layout.template.check_separator(separator)
    check_n_levels(n_levels)
    layout.template.check_width(n_levels + 1)
    pattern = re.compile(_joined(layout, n_levels, separator))
    rows = []
    for row, string in enumerate(strings):
        match = pattern.fullmatch(string) if isinstance(string, str) else None
        if match is None:
            example = separator.join(
                layout.template.token(level, 7)
                for level in range(layout.lengths(n_levels)[0])
            )
            raise ValueError(
                f"strings[{row}]={string!r} should be like {example}. Check n_levels="
                f"{n_levels}, {suffix=}, template and separator."
            )
        tokens = match.groups()
        rows.append(tokens if tokens[-1] is not None else tokens[:-1])
    return layout.read(rows, n_levels, lambda row: f"strings[{row}]")


def _joined(layout: Layout, n_levels: int, separator: str) -> str:
    """Regular expression of an ID in one string, with a group for each token."""
    between = re.escape(separator)
    tokens = [f"({layout.template.pattern(level)})" for level in range(n_levels + 1)]
    codes, suffix = between.join(tokens[:-1]), between + tokens[-1]
    return (
        codes
        + {"always": suffix, "on_collision": f"(?:{suffix})?", "never": ""}[
            layout.suffix
        ]
    )
