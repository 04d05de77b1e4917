"""Memory that a fit takes at its peak, to be known before it begins."""

from sk_rqkplus._cells import MOST_MOVABLE
from sk_rqkplus._outline import LEAST_CODEWORDS, LEAST_FEATURES
from sk_rqkplus._prices import BALANCED_ROWS, MOST_BALANCED_ROWS
from sk_rqkplus._scores import (
    CACHED_SCORES,
    CACHED_SCORES_OF_A_FILE,
    LISTED_BYTES,
    LISTED_BYTES_OF_A_FILE,
)

# Rows that threads work on at a time, at most.
CHUNK_ROWS = 16_384
# Values of an outline of a row, of most levels or more.
OUTLINE_VALUES = 160
# Bytes per row of labels, and of codes, IDs, catalogue and what they are sorted with.
LABEL_BYTES, ID_BYTES, OTHER_BYTES = 24, 130, 2**24


def bytes_to_fit(
    n_rows: int,
    n_features: int,
    n_codewords: int,
    *,
    n_fit: int,
    n_made: int = 0,
    balanced: bool = True,
) -> int:
    """Memory that a fit allocates at its peak, within a factor of about 1.5.

    Residuals in float32, and what they are along few directions; of a balanced level
    the table of scores, or lists of what is near where it is large, that of the rows
    that may move in the end, and those of ways between codewords; and chunks that
    threads work on. Weights are fitted to 26 peaks that were measured.

    Parameters
    ----------
    n_rows : int
        Rows to encode.

    n_features : int
        Their values.

    n_codewords : int
        Size of the largest codebook.

    n_fit : int
        Rows that are drawn to fit on; if fewer, residuals of all are not kept.

    n_made : int, default=0
        Rows that are made from these.

    balanced : bool, default=True
        Whether a level is.

    Returns
    -------
    n_bytes : int
        What the rows themselves take is not part of it.
    """
    n_seen = n_made or n_fit
    chunk = min(n_seen, CHUNK_ROWS)
    residuals = 2 * n_fit + 4 * n_made + 3.5 * chunk
    needed = 4 * (residuals * n_features + 3 * chunk * n_codewords)
    if n_features >= LEAST_FEATURES and n_codewords >= LEAST_CODEWORDS:
        needed += 4 * OUTLINE_VALUES * n_seen
    kept = n_fit == n_rows
    if balanced:
        needed += _bytes_to_balance(n_rows, n_seen, kept, n_codewords)
    ids = ID_BYTES * n_rows
    # Without residuals that are kept, IDs are given when all else is gone.
    needed = needed + ids if kept else max(needed + LABEL_BYTES * n_rows, ids)
    return int(needed + OTHER_BYTES)


def _bytes_to_balance(n_rows: int, n_seen: int, kept: bool, n_codewords: int) -> int:
    """What balance takes of that."""
    memory = CACHED_SCORES, LISTED_BYTES
    of_all = memory if kept else (CACHED_SCORES_OF_A_FILE, LISTED_BYTES_OF_A_FILE)
    n_few, n_more = BALANCED_ROWS * n_codewords, MOST_BALANCED_ROWS * n_codewords
    tables = (min(n_seen, n_few), memory), (min(n_seen, n_more), memory)
    scores = max(
        8 * rows * n_codewords if rows * n_codewords <= most else listed
        for rows, (most, listed) in (*tables, (n_rows, of_all))
    )
    movable = min(n_rows * n_codewords, MOST_MOVABLE)
    return scores + 12 * movable + 24 * n_codewords**2
