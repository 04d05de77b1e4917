"""One chunk, one thread: parallel work whose bits do not depend on the thread count.

A matrix product adds in an order that may depend on the number of its threads. Here
every chunk of rows is worked on by one thread, chunks have a fixed size, and results
come in the order of the chunks, so that more threads change the time alone.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")

# Few rows are parted into so many chunks, unless these get too small to be worth it.
MIN_CHUNKS, MIN_CHUNK_ROWS = 8, 1024
# Results of so many chunks wait for their turn.
WINDOW = 64
# Rows of a block, whose sums are merged: on a CPU, on a GPU, and of a long table.
BLOCK_ROWS, LONG_BLOCK_ROWS, MOST_BLOCKS = {"cpu": 2**14, "cuda": 2**18}, 2**17, 2**10

CPU = torch.device("cpu")

_lock = threading.Lock()
# How many threads hold torch to one, and the count before the first of them did.
_users, _before = 0, 1
# Gives NumPy's BLAS its threads back: it has one count for all threads of the process.
_unlimit: Callable[[], None] | None = None
# Workers are kept: a new thread would allocate the buffers of its products anew.
_pools: dict[int, ThreadPoolExecutor] = {}
_worker = threading.local()


def _after_fork() -> None:
    """A forked process inherits pools and locks, but none of the other threads."""
    global _lock, _users
    _pools.clear()
    _lock, _users = threading.Lock(), int(_depth() > 0)
    if not _users:
        _give_back_blas()


if hasattr(os, "register_at_fork"):  # Windows does not fork.
    os.register_at_fork(after_in_child=_after_fork)


def _mark_worker() -> None:
    # As if inside of one_thread for ever: one that it enters must not restore more.
    _worker.active, _worker.depth = True, 1
    torch.set_num_threads(1)


def _depth() -> int:
    """How many ``one_thread`` this thread is in."""
    return getattr(_worker, "depth", 0)


def _pool(n_helpers: int) -> ThreadPoolExecutor:
    """Helpers, all of them started.

    A thread that sets its count sets that of threads to come as well: a helper must not
    start after ``one_thread`` has put it back.
    """
    with _lock:
        if n_helpers not in _pools:
            pool = ThreadPoolExecutor(n_helpers, initializer=_mark_worker)
            started = threading.Barrier(n_helpers)
            try:
                wait([pool.submit(started.wait) for _ in range(n_helpers)])
            except BaseException:
                # Those that were started would wait for the others for ever.
                started.abort()
                raise
            _pools[n_helpers] = pool
        return _pools[n_helpers]


def scratch(
    name: str,
    shape: Sequence[int],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """A buffer of this thread, for values that a chunk needs for a moment.

    Memory that is allocated for every chunk comes from the system page by page, which
    takes longer than the chunk's arithmetic.

    Parameters
    ----------
    name : str
        What the buffer is for: another call with this name overwrites it.

    shape : sequence of int
        Rows and columns.

    device : torch.device
        Where it is; a GPU's allocator keeps buffers by itself.

    dtype : torch.dtype, default=torch.float32
        Type of its values, one for each name.

    Returns
    -------
    buffer : Tensor of such a shape
        Values are whatever was there.
    """
    if device.type != "cpu":
        return torch.empty(shape, device=device, dtype=dtype)
    buffers = _worker.__dict__.setdefault("buffers", {})
    size = shape[0] * shape[1]
    if name not in buffers or len(buffers[name]) < size:
        buffers[name] = torch.empty(size, dtype=dtype)
    return buffers[name][:size].view(shape)


def n_workers() -> int:
    """Number of chunks that are worked on at a time.

    Returns
    -------
    n_workers : int
        The thread count that torch was set to, 1 inside of a chunk.
    """
    if getattr(_worker, "active", False):
        return 1
    if _depth():
        return _worker.count
    with _lock:
        return _own_count()


def _own_count() -> int:
    """Thread count of this thread; the one of another's ``one_thread`` is not its."""
    count = torch.get_num_threads()
    return _before if _users and count == 1 else count


@contextmanager
def inside_chunk() -> Iterator[None]:
    """Work as inside of a chunk: in this thread alone."""
    before = getattr(_worker, "active", False)
    _worker.active = True
    try:
        with one_thread():
            yield
    finally:
        _worker.active = before


@cache
def _blas() -> ThreadpoolController:
    """Libraries of matrix products; those loaded later are not ours."""
    return ThreadpoolController().select(user_api="blas")


def _limit_blas() -> None:
    global _unlimit
    _unlimit = _blas().limit(limits=1).restore_original_limits


def _give_back_blas() -> None:
    global _unlimit
    if _unlimit is not None:
        _unlimit()
        _unlimit = None


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch and BLAS compute in one thread, and restore their numbers of threads.

    torch has one count per thread, which a thread takes over from the last one that set
    its own. Every thread restores what it had itself, or, where it was born while
    another computed alone, what that one had before. BLAS has its own back when nobody
    computes alone any more.
    """
    global _users, _before
    if _depth() == 0:
        with _lock:
            _worker.count = _own_count()
            if _users == 0:
                _before = _worker.count
                _limit_blas()
            _users += 1
            torch.set_num_threads(1)
    _worker.depth = _depth() + 1
    try:
        yield
    finally:
        _worker.depth -= 1
        if _depth() == 0:
            with _lock:
                _users -= 1
                torch.set_num_threads(_worker.count)
                if _users == 0:
                    _give_back_blas()


def chunk_rows(n_rows: int, most: int) -> int:
    """Rows of a chunk; they do not depend on the number of threads.

    Parameters
    ----------
    n_rows : int
        Number of rows.

    most : int
        Most rows of a chunk.

    Returns
    -------
    step : int
        Rows of every chunk but the last; a power of two, unless ``most`` is less.
    """
    return min(most, max(MIN_CHUNK_ROWS, floor_power(n_rows // MIN_CHUNKS)))


def floor_power(number: int) -> int:
    """Largest power of two up to a number, at least 1."""
    return 1 << max(0, number.bit_length() - 1)


def block_rows(n_rows: int, device: torch.device = CPU) -> int:
    """Rows of a block: what is added up over rows is added up by blocks.

    Blocks have fixed row numbers, which depend on the number of rows alone. Whoever
    owns a block adds up its rows in one order, and the blocks are merged in theirs.

    Parameters
    ----------
    n_rows : int
        Number of rows of the table.

    device : torch.device, default="cpu"
        Where it is computed.

    Returns
    -------
    n_block : int
        Rows of every block but the last; a power of two, so that tiles fit into it.
    """
    long = min(floor_power(n_rows // MOST_BLOCKS), LONG_BLOCK_ROWS)
    return max(chunk_rows(n_rows, BLOCK_ROWS[device.type]), long)


def split_rows(n_rows: int, step: int) -> list[slice]:
    """Slices of ``step`` rows each, the last of which may be shorter."""
    return [slice(i, min(i + step, n_rows)) for i in range(0, n_rows, step)]


def map_chunks(
    function: Callable[[slice], Result],
    n_rows: int,
    step: int,
    device: torch.device = CPU,
) -> Iterator[Result]:
    """Apply a function to chunks of rows, as many at a time as torch has threads.

    Parameters
    ----------
    function : callable
        Maps the slice of a chunk to its result.

    n_rows : int
        Number of rows.

    step : int
        Most rows of a chunk; few rows are parted into smaller ones, for balance.

    device : torch.device, default="cpu"
        Where the function computes; a GPU takes one chunk after the other.

    Yields
    ------
    result : object
        What the function returned, in the order of the chunks.
    """
    chunks = split_rows(n_rows, chunk_rows(n_rows, step))
    yield from run_chunks(function, chunks, device)


def run_chunks(
    function: Callable[[slice], Result],
    chunks: Sequence[slice],
    device: torch.device = CPU,
) -> Iterator[Result]:
    """Apply a function to given chunks, see :func:`map_chunks`."""
    workers = min(n_workers(), len(chunks)) if device.type == "cpu" else 1
    with one_thread():
        if workers < 2:
            yield from map(function, chunks)
            return
        for i in range(0, len(chunks), WINDOW):
            yield from _in_parallel(function, chunks[i : i + WINDOW], workers - 1)


def map_items(
    function: Callable[[Item], Result], items: Sequence[Item], device: torch.device
) -> Iterator[Result]:
    """Apply a function to items, such as blocks of rows, see :func:`map_chunks`."""
    one_each = split_rows(len(items), 1)
    return run_chunks(lambda one: function(items[one.start]), one_each, device)


def join_chunks(
    function: Callable[[slice], Tensor],
    n_rows: int,
    step: int,
    device: torch.device = CPU,
) -> Tensor:
    """Concatenate what a function returns for chunks of rows.

    Every result goes to its place at once. Results that wait for each other would need
    twice the memory, and small ones keep the heap around them from being used again.

    Parameters
    ----------
    function : callable
        Maps the slice of a chunk to a tensor of as many rows.

    n_rows : int
        Number of rows, at least one.

    step : int
        Most rows of a chunk.

    device : torch.device, default="cpu"
        Where the function computes.

    Returns
    -------
    joined : Tensor of shape (n_rows, ...)
        Results in the order of the rows.
    """
    return fill_chunks(function, split_rows(n_rows, chunk_rows(n_rows, step)), device)


def fill_chunks(
    function: Callable[[slice], Tensor],
    chunks: Sequence[slice],
    device: torch.device = CPU,
) -> Tensor:
    """Concatenate what a function returns for given chunks, see :func:`join_chunks`."""
    joined: list[Tensor] = []
    n_rows, first = chunks[-1].stop, threading.Lock()

    def fill(chunk: slice) -> None:
        part = function(chunk)
        with first:
            if not joined:
                joined.append(part.new_empty((n_rows, *part.shape[1:])))
        joined[0][chunk] = part

    deque(run_chunks(fill, chunks, device), maxlen=0)
    return joined[0]


def _in_parallel(
    function: Callable[[slice], Result], chunks: Sequence[slice], n_helpers: int
) -> list[Result]:
    """Results of some chunks, of which this thread computes what helpers leave.

    Waking a thread costs as much as a small chunk: helpers are woken once.
    """
    waiting = deque(enumerate(chunks))
    results: dict[int, Result] = {}

    def work() -> None:
        while waiting:
            try:
                number, chunk = waiting.popleft()
            except IndexError:
                return
            try:
                results[number] = function(chunk)
            except BaseException:
                # After an error or Ctrl-C nobody begins another chunk.
                waiting.clear()
                raise

    pool = _pool(n_helpers)
    helpers: list[Future[None]] = []
    try:
        for _ in range(n_helpers):
            helpers.append(pool.submit(work))
        _worker.active = True
        work()
    finally:
        _worker.active = False
        waiting.clear()
        started = [helper for helper in helpers if not helper.cancel()]
        wait(started)
    for helper in started:
        helper.result()
    return [results[number] for number in range(len(chunks))]
