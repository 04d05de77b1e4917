"""Rows that an engine holds, as a fit asks for them.

The fit of :class:`~sk_rqkplus.RQKMeans` works on blocks of fixed row numbers and merges
what it adds up over them in the order of the blocks. An :class:`Engine` only maps
functions over the blocks, wherever these are; codebooks, prices and codes have the bits
of a fit in memory.
"""

import pickle
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from sk_rqkplus._nearest import Codewords
from sk_rqkplus._points import Points
from sk_rqkplus._refine import Sums, merge_sums, refine_codebooks
from sk_rqkplus._residual import Leftover
from sk_rqkplus._rqkmeans import RQKMeans
from sk_rqkplus._scores import Addend, Scores, Selection, add_up, score_rows
from sk_rqkplus._table import (
    checksum,
    column_sums,
    describe_rows,
    largest_deviation,
)
from sk_rqkplus._threads import CPU, block_rows, inside_chunk, one_thread

Result = TypeVar("Result")

# Rows of so many values, 256 MB of them, are balanced on one machine: that takes some
# hundred passes.
GATHERED_VALUES = 2**26
# Results that wait on this machine, in bytes, and blocks that are asked for at a time.
RESULT_BYTES, FIRST_BLOCKS, MOST_BLOCKS = 2**28, 16, 2**10


class Block(NamedTuple):
    """Rows that belong together, on an engine.

    Attributes
    ----------
    start : int
        Number of the first row.
    X : ndarray of shape (n_rows, n_features), float32 or float64
        The rows, C-contiguous.
    labels : tuple of ndarray of shape (n_rows,), int16 or int32
        What :meth:`Engine.keep` added.
    """

    start: int
    X: np.ndarray
    labels: tuple[np.ndarray, ...] = ()


class Engine(Protocol):
    """What an engine has to do for a fit.

    Block number i has the rows from ``i * B`` to ``(i + 1) * B``, where B is
    ``block_rows(n_rows)``. Functions are those of modules, and they and their arguments
    can be pickled. They may be called again for a block that got lost.
    """

    n_rows: int
    n_features: int
    dtype: np.dtype

    def map(
        self,
        function: Callable[[Block, Any], Any],
        argument: Any,
        blocks: Sequence[int] | None = None,
    ) -> Iterator[Any]:
        """Call a function for every block, or some of them in ascending order.

        Parameters
        ----------
        function : callable
            Maps a :class:`Block` and the argument to a result.

        argument : object
            The same for all blocks.

        blocks : sequence of int, optional
            Numbers of the blocks; None means all.

        Yields
        ------
        result : object
            Results in the order of the blocks.
        """

    def keep(self, function: Callable[[Block, Any], Any], argument: Any) -> "Engine":
        """Add labels to every block, which stay on the engine.

        Parameters
        ----------
        function : callable
            Maps a :class:`Block` and the argument to labels, which its ``labels`` end
            with from then on.

        argument : object
            The same for all blocks.

        Returns
        -------
        engine : Engine
            The same rows with more labels. This engine stays as it is.
        """


def call_pickled(sent: bytes, block: Block) -> bytes:
    """Call a pickled function and its argument for a block; the result, pickled."""
    function, argument = pickle.loads(sent)
    return pickle.dumps(function(block, argument), protocol=5)


def in_windows(
    ask: Callable[[Sequence[int]], Sequence[Any]], blocks: Sequence[int], n_sent: int
) -> Iterator[Any]:
    """Results of blocks in their order, of which few wait here at a time.

    Parameters
    ----------
    ask : callable
        Maps numbers of blocks to their results, pickled.

    blocks : sequence of int
        Which blocks.

    n_sent : int
        Bytes of what is sent to every block. Sums over codewords take twice as many;
        what results take in truth is known from the first of them.

    Yields
    ------
    result : object
        Results.
    """
    start, largest, size = 0, 1, min(FIRST_BLOCKS, RESULT_BYTES // (2 * n_sent))
    while start < len(blocks):
        found = ask(blocks[start : start + max(size, 1)])
        start += len(found)
        largest = max(largest, *map(len, found))
        size = min(MOST_BLOCKS, RESULT_BYTES // largest)
        yield from map(pickle.loads, found)


def take_over(model: Any, estimator: RQKMeans, **others: Any) -> None:
    """Let a model of an engine have what an estimator has learnt, and no more."""
    fitted = {k: v for k, v in vars(estimator).items() if k.endswith("_")}
    for name in [name for name in vars(model) if name.endswith("_")]:
        delattr(model, name)
    vars(model).update(fitted, estimator_=estimator, **others)


class EngineTable:
    """The rows of an engine as the table that a fit begins with.

    Parameters
    ----------
    engine : Engine
        Where the rows are.
    """

    device = CPU

    def __init__(self, engine: Engine):
        self.engine = engine

    def __len__(self) -> int:
        return self.engine.n_rows

    def check(self) -> None:
        """Raise a ValueError where a value is not a finite number."""
        for row in self.engine.map(_first_not_finite, None):
            if row is not None:
                raise ValueError(
                    f"X[{row}] contains NaN or infinity, which should be numbers. "
                    "Remove or fill in such rows."
                )

    def describe(self) -> str:
        """What tells these rows from others, wherever they are."""
        engine = self.engine
        shape = engine.n_rows, engine.n_features
        return describe_rows(engine.dtype, shape, engine.map(_checksum, None))

    def take(self, index: np.ndarray) -> np.ndarray:
        """Rows of some numbers, which come to this machine."""
        return _gather(self.engine, index, lambda rows: (_raw_rows, rows))

    def mean(self) -> np.ndarray:
        """Mean of every column, in the dtype of the rows."""
        total = sum(self.engine.map(_column_sums, None))
        return np.asarray(total / len(self)).astype(self.engine.dtype)

    def largest(self, mean: np.ndarray) -> float:
        """Largest absolute difference from the mean of the columns."""
        return max(self.engine.map(_largest_deviation, mean))

    def leftover(
        self, mean: np.ndarray, scale: float, *, keep: bool = True
    ) -> "EngineRows":
        """The rows before the first level; the engine decides what it keeps."""
        return EngineRows(self.engine, mean, scale)


def _first_not_finite(block: Block, _: None) -> int | None:
    finite = np.isfinite(block.X).all(axis=1)
    return None if finite.all() else block.start + int(finite.argmin())


def _checksum(block: Block, _: None) -> int:
    return checksum(block.X)


def _column_sums(block: Block, _: None) -> np.ndarray:
    return column_sums(block.X)


def _largest_deviation(block: Block, mean: np.ndarray) -> float:
    return largest_deviation(block.X, mean)


def _raw_rows(block: Block, rows: np.ndarray) -> np.ndarray:
    return block.X[_inside(rows, block)]


def _inside(rows: np.ndarray, block: "Block | BlockRows") -> np.ndarray:
    """Numbers of those rows that are in a block, counted from its first row."""
    stop = block.start + len(block.X)
    first, last = np.searchsorted(rows, [block.start, stop])
    return rows[first:last] - block.start


def _gather(
    engine: Engine, index: np.ndarray, call: Callable[[np.ndarray], tuple]
) -> Any:
    """Rows of some numbers in any order, from the blocks that have them."""
    rows, place = np.unique(index, return_inverse=True)
    blocks = np.unique(rows // block_rows(engine.n_rows)).tolist()
    function, argument = call(rows)
    parts = engine.map(function, argument, blocks)
    # One copy at a time: a part goes to its place when it comes.
    first = next(parts)
    found = _empty_like(first, len(rows))
    start = 0
    for part in chain([first], parts):
        found[start : start + len(part)] = part
        start += len(part)
    if np.array_equal(rows, index):
        return found
    return found[torch.from_numpy(place) if isinstance(found, Tensor) else place]


def _empty_like(rows: Any, n_rows: int) -> Any:
    """Room for so many rows like some."""
    shape = n_rows, *rows.shape[1:]
    if isinstance(rows, Tensor):
        return rows.new_empty(shape)
    return np.empty(shape, dtype=rows.dtype)


class State(NamedTuple):
    """What makes residuals of rows: mean, scale, codebooks and prices so far."""

    mean: np.ndarray
    scale: float
    levels: list[tuple[Tensor, Tensor]]


class BlockRows(Leftover):
    """What is left over of the rows of one block, where the block is.

    Parameters
    ----------
    block : Block
        Rows, and labels of the levels so far.

    state : State
        Mean, scale and levels.
    """

    def __init__(self, block: Block, state: State):
        super().__init__(block.X, state.mean, state.scale, keep=False)
        self.start = block.start
        self.levels = [Codewords(*level) for level in state.levels]
        self.labels = [torch.from_numpy(labels) for labels in block.labels]


def _in_block(block: Block, argument: tuple) -> Any:
    """Call a function of the residuals of a block, in one thread."""
    function, state, args = argument
    with inside_chunk():
        return function(BlockRows(block, state), *args)


class EngineRows:
    """What the levels so far leave over of the rows of an engine.

    It stands in for :class:`~sk_rqkplus._residual.Leftover`, and for its points.

    Parameters
    ----------
    engine : Engine
        Where the rows are.

    mean : ndarray of shape (n_features,)
        Subtracted from the rows.

    scale : float
        Power of two by which the rows are divided.
    """

    kept, device = False, CPU

    def __init__(self, engine: Engine, mean: np.ndarray, scale: float):
        self.first = engine
        self.mean, self.scale = mean, scale
        self.restart()

    def restart(self) -> None:
        """Return to before the first level."""
        self.engine = self.first
        self.levels: list[Codewords] = []
        # Labels of the last level, until they are asked for.
        self._waiting: tuple | None = None

    def __len__(self) -> int:
        return self.engine.n_rows

    def _settled(self) -> Engine:
        """The engine, with the labels of all levels so far."""
        if self._waiting is not None:
            self.engine = self.engine.keep(_in_block, self._waiting)
            self._waiting = None
        return self.engine

    def _argument(self, function: Callable, *args: Any) -> tuple:
        levels = [(words.codebook, words.prices) for words in self.levels]
        return function, State(self.mean, self.scale, levels), args

    def run(
        self, function: Callable[..., Result], *args: Any, blocks: Any = None
    ) -> Iterator[Result]:
        """What a function returns for the residuals of blocks, in order."""
        argument = self._argument(function, *args)
        return self._settled().map(_in_block, argument, blocks)

    @property
    def points(self) -> "EngineRows":
        """Residuals as blocks."""
        return self

    def map(self, function: Callable[..., Result], *args: Any) -> Iterator[Result]:
        """What a function returns for the points of every block, in order."""
        return self.run(_of_points, function, args)

    def look_along_few(self, codebook: Tensor) -> None:
        """Blocks are read anew for every codebook: a look at all is as soon done."""

    def remember(self, codebook: Tensor, labels: Tensor) -> None:
        """Nor are labels kept."""

    def _numbers(self, index: slice | Tensor) -> np.ndarray:
        if isinstance(index, slice):
            return np.arange(*index.indices(len(self)))
        return index.numpy()

    def _gather(self, function: Callable, index: slice | Tensor) -> Tensor:
        numbers = self._numbers(index)
        return _gather(
            self._settled(),
            numbers,
            lambda rows: (_in_block, self._argument(function, rows)),
        )

    def take(self, index: slice | Tensor) -> Tensor:
        """Residuals of some rows in float32, which come to this machine."""
        return self._gather(_take, index)

    def exact(self, index: Tensor) -> Tensor:
        """Residuals of some rows in float64, which come to this machine."""
        return self._gather(_exact, index)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        return self.take(index)

    def squares(self) -> Tensor:
        """Squared norm of every residual."""
        return torch.cat(list(self.run(Leftover.squares)))

    def distinct(self, index: slice, by: Callable[[Tensor], Tensor]) -> np.ndarray:
        """Distinct values of some residuals."""
        step = block_rows(len(self))
        blocks = range(index.start // step, -(-index.stop // step))
        parts = self.run(_distinct, index.start, index.stop, by, blocks=blocks)
        return np.unique(np.concatenate(list(parts)), axis=0)

    def scores(self, codebook: Tensor, selection: Selection) -> Scores:
        """Scores of some rows, which come to this machine where they are few."""
        if len(selection) * self.engine.n_features > GATHERED_VALUES:
            return EngineScores(self, codebook, selection)
        numbers = torch.from_numpy(selection.inside(0, len(self)))
        gathered = Gathered(self, numbers)
        return Scores(gathered, codebook, sizes=selection.sizes())

    def advance(self, words: Codewords) -> None:
        """Subtract the nearest codewords; labels stay on the engine."""
        self._settled()
        self._waiting = self._argument(_short_labels, words.codebook, words.prices)
        self.levels.append(words)

    @property
    def codes(self) -> np.ndarray:
        """Labels of the levels so far, of shape (n_samples, n_levels), int32."""
        return np.concatenate(list(self.run(_codes)))

    def refined(self, beam_size: int) -> list[np.ndarray]:
        """Codebooks of the levels so far, moved jointly."""
        sums = merge_sums(self.run(_refine_sums, beam_size))
        books = [words.codebook.numpy() for words in self.levels]
        return refine_codebooks(sums, books)


class Gathered(Points):
    """Some rows of an engine, rounded, on this machine.

    Parameters
    ----------
    rows : EngineRows
        Where exact rows are asked for.

    numbers : Tensor of shape (n_rows,), int64
        Which rows.
    """

    def __init__(self, rows: EngineRows, numbers: Tensor):
        super().__init__(rows.take(numbers))
        self.source, self.numbers = rows, numbers

    def exact(self, index: Tensor) -> Tensor:
        """Some of the rows in float64."""
        return self.source.exact(self.numbers[index])


def _of_points(rows: BlockRows, function: Callable, args: tuple) -> Any:
    return function(rows.points, *args)


def _take(rows: BlockRows, numbers: np.ndarray) -> Tensor:
    return rows.take(torch.from_numpy(_inside(numbers, rows)))


def _exact(rows: BlockRows, numbers: np.ndarray) -> Tensor:
    return rows.exact(torch.from_numpy(_inside(numbers, rows)))


def _distinct(rows: BlockRows, start: int, stop: int, by: Callable) -> np.ndarray:
    first, last = max(start - rows.start, 0), min(stop - rows.start, len(rows))
    return rows.distinct(slice(first, last), by)


def _short_labels(rows: BlockRows, codebook: Tensor, prices: Tensor) -> np.ndarray:
    dtype = np.int16 if len(codebook) <= 2**15 else np.int32
    return rows.assign(Codewords(codebook, prices)).numpy().astype(dtype)


def _codes(rows: BlockRows) -> np.ndarray:
    return rows.codes


def _refine_sums(rows: BlockRows, beam_size: int) -> Sums:
    rows.search_again(beam_size)
    return rows.refine_sums(slice(0, len(rows)))


class EngineScores(Scores):
    """Scores of rows that an engine holds.

    Parameters
    ----------
    rows : EngineRows
        Where the rows come from.

    codebook : Tensor of shape (n_codewords, n_features), float32
        The codewords.

    selection : Selection
        Which rows to share out.
    """

    def __init__(self, rows: EngineRows, codebook: Tensor, selection: Selection):
        self.rows, self.selection = rows, selection
        self.words, self.n_rows = Codewords(codebook), len(selection)
        self.n_tile = score_rows(self.n_rows, codebook)
        self.with_rows = np.flatnonzero(selection.sizes()).tolist()

    def exact_rows(self, index: Tensor) -> Tensor:
        """Rows in float64, which come to this machine."""
        numbers = torch.from_numpy(self.selection.inside(0, len(self.rows)))
        return self.rows.exact(numbers[index])

    def _map(self, method: Callable, *args: Any, blocks: list[int]) -> Iterator[Any]:
        asked = self.words.codebook, self.selection, self.n_tile, method, args
        return self.rows.run(_of_scores, *asked, blocks=blocks)

    def typical_gap(self) -> float:
        """Mean gap between the best two codewords over the first rows."""
        return next(self._map(Scores.typical_gap, blocks=self.with_rows[:1]))

    def total(
        self,
        function: Callable[..., Addend],
        prices: Tensor,
        reach: float,
        *args: float,
    ) -> Addend:
        """Add up what a function returns for what is near in every tile."""
        asked = function, prices, reach, *args
        return add_up(self._map(Scores.total, *asked, blocks=self.with_rows))

    def labels(self, prices: Tensor) -> Tensor:
        """Codeword of least score, up to rounding."""
        return torch.cat(list(self._map(Scores.labels, prices, blocks=self.with_rows)))

    def join(
        self, function: Callable[..., Tensor], prices: Tensor, *args: Any
    ) -> Tensor:
        """Concatenate what a function returns for the scores of every tile."""
        asked = function, prices, *args
        return torch.cat(list(self._map(Scores.join, *asked, blocks=self.with_rows)))


def _of_scores(
    rows: BlockRows,
    codebook: Tensor,
    selection: Selection,
    n_tile: int,
    method: Callable,
    args: tuple,
) -> Any:
    """Call a method of the scores of a block."""
    inside = selection.inside(rows.start, rows.start + len(rows))
    index = None if len(inside) == len(rows) else torch.from_numpy(inside)
    scores = Scores(rows, codebook, index, sizes=[len(inside)], n_tile=n_tile)
    return method(scores, *args)


def fit_engine(estimator: RQKMeans, engine: Engine) -> RQKMeans:
    """Fit an estimator on the rows of an engine; it knows none of them afterwards.

    Parameters
    ----------
    estimator : RQKMeans
        Estimator with its parameters.

    engine : Engine
        Where the rows are.

    Returns
    -------
    estimator : RQKMeans
        The same, without ``codes_``, ``ids_`` and ``catalogue_``.
    """
    estimator._validate_params()
    # Where it is "auto", nobody asks for a GPU, which would begin to use it.
    if estimator.device != "auto" and estimator._resolve_device().type != "cpu":
        raise ValueError(
            f"device={estimator.device!r} should be 'auto' or 'cpu': engines compute "
            "on CPUs. Fit on a GPU with RQKMeans and max_samples."
        )
    table = EngineTable(engine)
    if len(table) == 0 or engine.n_features == 0:
        raise ValueError(
            f"X has n_samples={len(table)} rows of n_features={engine.n_features}, "
            "which should be >= 1. Give a table of embeddings."
        )
    table.check()
    estimator.n_features_in_ = engine.n_features
    with one_thread():
        estimator._fit_table(table)
    # What scikit-learn removes after a fit of its own.
    for name in ("_callback_fit_ctx", "_skl_callbacks_to_teardown"):
        estimator.__dict__.pop(name, None)
    estimator._n_features_out = len(estimator.codebooks_)
    estimator.fingerprint_ = estimator._fingerprint()
    return estimator
