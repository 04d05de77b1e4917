"""Which tokens may follow a prefix: a tree of IDs in flat arrays."""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence, Sized
from numbers import Integral
from operator import index
from typing import Any

import numpy as np

from sk_rqkplus._groups import as_array
from sk_rqkplus._vocabulary import NO_TOKEN

EMPTY = np.empty(0, dtype=np.int32)
# They have a length and no tokens.
NO_PREFIX = (str, bytes, Mapping)


class PrefixTrie:
    """Prefix tree of IDs: the tokens that may follow, and the items below.

    Parameters
    ----------
    ids : array-like of shape (n_items, depth), int
        What the tree is of, one row per item: codes, IDs, or the numbers of their
        tokens by :func:`to_token_ids`. -1 at the end of a row makes it shorter.

    Attributes
    ----------
    tokens : list of ndarray of shape (n_nodes,), int32
        Last token of every distinct prefix of 1, 2 … tokens, sorted by prefix. -1 is
        the end of a shorter row.

    offsets : list of ndarray of shape (n_nodes + 1,), int32
        Where the children of the prefixes of 0, 1 … tokens begin among those of one
        token more: node ``i`` has the children ``offsets[t][i]`` to
        ``offsets[t][i + 1]`` in ``tokens[t]``.

    starts : list of ndarray of shape (n_nodes + 1,), int32
        Where the items of the prefixes of 0, 1 … tokens begin in ``order``.

    order : ndarray of shape (n_items,), int32
        Rows of ``ids`` in the order of the tree.

    Raises
    ------
    ValueError
        If ``ids`` are no matrix of integers from 0, but for -1 at the end.

    See Also
    --------
    prefix_allowed_tokens_fn : Keeps a model to the IDs of a tree.

    Notes
    -----
    The rows are sorted once. A look-up bisects the children of one node per token.

    Examples
    --------
    >>> from sk_rqkplus.tokens import PrefixTrie
    >>> trie = PrefixTrie([[3, 1], [3, 4], [0, 2]])
    >>> trie.children([])
    array([0, 3], dtype=int32)
    >>> trie.children([3])
    array([1, 4], dtype=int32)
    >>> trie.items([3])
    array([0, 1], dtype=int32)
    >>> trie.contains([3, 2])
    False
    """

    def __init__(self, ids: np.ndarray):
        ids = _check_rows(ids)
        self.order = np.lexsort(ids.T[::-1]).astype(np.int32)
        ids = ids[self.order]
        first = np.zeros(len(ids), dtype=bool)
        first[:1] = True
        nodes = np.zeros(1, dtype=np.int32)
        self.tokens: list[np.ndarray] = []
        self.offsets: list[np.ndarray] = []
        self.starts: list[np.ndarray] = [np.array([0, len(ids)], dtype=np.int32)]
        for level in range(ids.shape[1]):
            column = ids[:, level]
            first[1:] |= column[1:] != column[:-1]
            parents, nodes = nodes, np.flatnonzero(first).astype(np.int32)
            self.tokens.append(column[first])
            ends = np.searchsorted(nodes, np.r_[parents, len(ids)])
            self.offsets.append(np.asarray(ends, dtype=np.int32))
            self.starts.append(np.r_[nodes, len(ids)].astype(np.int32))

    def __len__(self) -> int:
        return len(self.order)

    def __repr__(self) -> str:
        nodes = ", ".join(str(len(tokens)) for tokens in self.tokens)
        return f"PrefixTrie(n_items={len(self)}, n_nodes=[{nodes}])"

    @property
    def depth(self) -> int:
        """Number of tokens of the longest ID that there may be."""
        return len(self.tokens)

    def children(self, prefix: Sequence[int]) -> np.ndarray:
        """Tokens that may follow a prefix.

        Parameters
        ----------
        prefix : sequence of int
            First tokens of an ID; empty for its first one.

        Returns
        -------
        tokens : ndarray of shape (n_children,), int32
            Sorted tokens. None after a whole ID, and after what is no prefix.
        """
        tokens = self._children(self._node(prefix), len(prefix))
        return tokens[1:] if _ends(tokens) else tokens

    def contains(self, prefix: Sequence[int]) -> bool:
        """Tell whether an ID starts with these tokens.

        Parameters
        ----------
        prefix : sequence of int
            Tokens.

        Returns
        -------
        found : bool
            Whether there is such an ID.
        """
        return self._node(prefix) >= 0

    def is_complete(self, prefix: Sequence[int]) -> bool:
        """Tell whether these tokens are a whole ID.

        Parameters
        ----------
        prefix : sequence of int
            Tokens.

        Returns
        -------
        complete : bool
            Whether there is such an ID.
        """
        node = self._node(prefix)
        if len(prefix) == self.depth:
            return node >= 0
        return _ends(self._children(node, len(prefix)))

    def items(self, prefix: Sequence[int]) -> np.ndarray:
        """Items whose IDs start with these tokens.

        Parameters
        ----------
        prefix : sequence of int
            Tokens; none for all items.

        Returns
        -------
        rows : ndarray of shape (n_found,), int32
            Their rows, sorted.
        """
        node = self._node(prefix)
        if node < 0:
            return EMPTY
        starts = self.starts[len(prefix)]
        return np.sort(self.order[starts[node] : starts[node + 1]])

    def _node(self, prefix: Sequence[int]) -> int:
        """Node of a prefix among those of its length, or -1."""
        if isinstance(prefix, NO_PREFIX) or not isinstance(prefix, Sized):
            raise _no_prefix(prefix)
        if len(prefix) > self.depth:
            return -1
        node = 0
        for token, tokens, offsets in zip(
            prefix, self.tokens, self.offsets, strict=False
        ):
            try:
                token, stop = index(token), offsets[node + 1]
            except TypeError as error:
                raise _no_prefix(prefix) from error
            node = bisect_left(tokens, token, offsets[node], stop)
            if token < 0 or node == stop or tokens[node] != token:
                return -1
        return node

    def _children(self, node: int, length: int) -> np.ndarray:
        """Last tokens of the children of a node, the end of an ID among them."""
        if node < 0 or length == self.depth:
            return EMPTY
        offsets = self.offsets[length]
        return self.tokens[length][offsets[node] : offsets[node + 1]]


def _no_prefix(prefix: Any) -> TypeError:
    return TypeError(
        f"prefix={prefix!r} should be a sequence of integers. Give the first tokens of "
        "an ID."
    )


def _ends(children: np.ndarray) -> bool:
    """Tell whether a shorter ID ends here: its end comes before all tokens."""
    return len(children) > 0 and children[0] == NO_TOKEN


def _check_rows(ids: np.ndarray) -> np.ndarray:
    ids = as_array(ids, "ids")
    if ids.ndim != 2 or ids.shape[1] == 0 or ids.dtype.kind not in "iu":
        raise ValueError(
            f"ids have shape={ids.shape} and dtype={ids.dtype}, which should be a "
            "matrix of integers. Give codes, IDs or what to_token_ids returns."
        )
    limit = np.iinfo(np.int32).max
    if len(ids) > limit or ids.max(initial=0) > limit or ids.min(initial=0) < NO_TOKEN:
        raise ValueError(
            f"ids have {len(ids)} rows of values from {ids.min()} to {ids.max()}, "
            "which should be -1 or more and fit into 32 bits. Give what to_token_ids "
            "returns."
        )
    ended = ids == NO_TOKEN
    wrong = ended[:, 0] | (ended[:, :-1] & ~ended[:, 1:]).any(axis=1)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"ids[{row}]={ids[row].tolist()} should have -1 at its end only, after one "
            "token or more."
        )
    return ids.astype(np.int32)


class _AllowedTokens:
    """The function that ``generate`` calls, which can be pickled."""

    def __init__(
        self,
        trie: PrefixTrie,
        token_ids: np.ndarray | None,
        eos_token_id: int,
        prompt_length: int | None,
        start_token_id: int | None,
    ):
        self.trie = trie
        self.token_ids = token_ids
        self.words = (
            None
            if token_ids is None
            else {token: word for word, token in enumerate(token_ids.tolist())}
        )
        self.eos_token_id = eos_token_id
        self.prompt_length = prompt_length
        self.start_token_id = start_token_id

    def __call__(self, batch_id: int, input_ids: Sequence[int]) -> list[int]:
        """Tokens that may come next in one sequence of a batch."""
        # A tensor, as generate has it, would hand out tensors one by one.
        tolist = getattr(input_ids, "tolist", None)
        sequence = list(input_ids) if tolist is None else tolist()
        if self.start_token_id is None:
            prefix = sequence[self.prompt_length :]
        elif self.start_token_id in sequence:
            prefix = sequence[
                len(sequence) - sequence[::-1].index(self.start_token_id) :
            ]
        else:
            return [self.start_token_id]
        if self.words is not None:
            prefix = [self.words.get(token, -1) for token in prefix]
        allowed = self.trie.children(prefix)
        if self.token_ids is not None:
            allowed = self.token_ids[allowed]
        tokens = allowed.tolist()
        # Beams that ran out of IDs, and what follows the end of one, end as well.
        if not tokens or self.trie.is_complete(prefix):
            tokens.append(self.eos_token_id)
        return tokens


def prefix_allowed_tokens_fn(
    trie: PrefixTrie,
    token_ids: Sequence[int] | np.ndarray | None = None,
    *,
    eos_token_id: int,
    prompt_length: int | None = None,
    start_token_id: int | None = None,
) -> Callable[[int, Sequence[int]], list[int]]:
    """Keep ``generate`` of transformers to the IDs of a catalogue.

    Parameters
    ----------
    trie : PrefixTrie
        Tree of the tokens of the IDs, as :func:`to_token_ids` numbers them.

    token_ids : sequence of int, optional
        Number that the tokenizer has for every word of :func:`vocabulary`:
        ``tokenizer.convert_tokens_to_ids(vocabulary(...))``. None means that the tree
        is of numbers of the tokenizer.

    eos_token_id : int
        End of a sequence, allowed after a whole ID and only there.

    prompt_length : int, optional
        Number of tokens before the ID: ``input_ids.shape[1]`` of the prompts, padded
        on the left, for a decoder; 1 for a model with an encoder, whose decoder starts
        with one token.

    start_token_id : int, optional
        Token after whose last occurrence the ID begins, instead of ``prompt_length``. A
        sequence that lacks it gets it next.

    Returns
    -------
    allowed : callable
        Function of the number of a sequence in the batch and its tokens so far, which
        returns the tokens that may come next: ``prefix_allowed_tokens_fn`` of
        ``generate``.

    Raises
    ------
    ValueError
        If not exactly one of ``prompt_length`` and ``start_token_id`` is given, or the
        numbers of tokens cannot be told apart.

    Notes
    -----
    Search for at most as many beams as there are IDs. Further beams have no ID to go
    to; they end with a score of minus infinity.

    Examples
    --------
    >>> from sk_rqkplus.tokens import PrefixTrie, prefix_allowed_tokens_fn, to_token_ids
    >>> trie = PrefixTrie(to_token_ids([[1, 0, 0], [1, 2, 0]], [2, 3], start=100))
    >>> allowed = prefix_allowed_tokens_fn(trie, eos_token_id=2, prompt_length=4)
    >>> allowed(0, [7, 8, 9, 1]), allowed(0, [7, 8, 9, 1, 101])
    ([101], [102, 104])
    >>> allowed(0, [7, 8, 9, 1, 101, 102, 105])
    [2]
    """
    if (prompt_length is None) == (start_token_id is None):
        raise ValueError(
            f"{prompt_length=} and {start_token_id=} should not be given both, nor "
            "neither. Give the one that says where IDs begin."
        )
    largest = max((int(tokens.max(initial=-1)) for tokens in trie.tokens), default=-1)
    if token_ids is not None:
        token_ids = _check_token_ids(token_ids, largest)
    _check_int("eos_token_id", eos_token_id)
    _check_int("prompt_length", 0 if prompt_length is None else prompt_length)
    _check_int("start_token_id", 0 if start_token_id is None else start_token_id)
    for name, token in (
        ("eos_token_id", eos_token_id),
        ("start_token_id", start_token_id),
    ):
        if token is not None and _is_used(token, trie, token_ids):
            raise ValueError(
                f"{name}={token} should be no token of an ID. Give numbers of the "
                "tokenizer, or build the tree with start=len(tokenizer)."
            )
    return _AllowedTokens(trie, token_ids, eos_token_id, prompt_length, start_token_id)


def _check_int(name: str, value: int) -> None:
    if not isinstance(value, Integral) or value < 0:
        raise ValueError(
            f"{name}={value!r} should be an int >= 0. Give that of the tokenizer, or "
            "input_ids.shape[1] as the length of the prompts."
        )


def _check_token_ids(token_ids: Sequence[int] | np.ndarray, largest: int) -> np.ndarray:
    given = np.asarray(token_ids)
    if given.ndim != 1 or given.dtype.kind not in "iu" or len(given) <= largest:
        raise ValueError(
            f"token_ids have shape={given.shape} and dtype={given.dtype}, which should "
            f"be more than {largest} integers, one per word. Give "
            "tokenizer.convert_tokens_to_ids(vocabulary(...))."
        )
    values, counts = np.unique(given, return_counts=True)
    if (counts > 1).any():
        raise ValueError(
            f"token_ids have {values[counts.argmax()]} {counts.max()} times, which "
            "should be distinct. Add vocabulary(...) to the tokenizer by add_tokens."
        )
    return given


def _is_used(token: int, trie: PrefixTrie, token_ids: np.ndarray | None) -> bool:
    """Tell whether an ID has this token."""
    if token_ids is not None:
        return token in token_ids
    return any((tokens == token).any() for tokens in trie.tokens)
