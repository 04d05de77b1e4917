"""Chunks in order, errors that stop the work, and settings that are put back."""

import os
import threading
import time

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from sk_rqkplus import _threads
from sk_rqkplus._threads import (
    chunk_rows,
    join_chunks,
    map_chunks,
    n_workers,
    one_thread,
    scratch,
)


@pytest.mark.parametrize("threads", [1, 2])
def test_results_come_in_order(two_threads, threads):
    two_threads(threads)
    found = list(map_chunks(lambda chunk: chunk, 100_000, 300))
    assert [chunk.start for chunk in found] == list(range(0, 100_000, 300))
    assert found[-1].stop == 100_000
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("threads", [1, 2])
def test_results_are_joined_in_order(two_threads, threads):
    two_threads(threads)
    values = torch.arange(20_000.0).view(-1, 2)
    found = join_chunks(lambda chunk: values[chunk] * 2, len(values), 300)
    assert torch.equal(found, values * 2)


def test_chunks_do_not_depend_on_threads():
    assert chunk_rows(100_000, 2048) == 2048
    assert chunk_rows(4000, 2048) == 1024
    assert chunk_rows(10, 2048) == 1024


def test_two_threads_share_the_work(two_threads):
    two_threads(2)
    both = threading.Barrier(2, timeout=20)
    names = list(
        map_chunks(lambda chunk: both.wait() or threading.get_ident(), 512, 256)
    )
    assert len(set(names)) == 2


def test_inside_a_chunk_there_is_one_thread(two_threads):
    two_threads(2)
    both = threading.Barrier(2, timeout=20)

    def nested(chunk):
        # A helper that came out of it with two would leave a third thread spinning.
        inner = list(map_chunks(lambda part: part.start, 600, 300))
        both.wait()
        return n_workers(), torch.get_num_threads(), inner

    assert set(map(str, map_chunks(nested, 1000, 256))) == {"(1, 1, [0, 256, 512])"}
    assert n_workers() == 2


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_ends_the_work(two_threads, threads):
    two_threads(threads)
    begun = []

    def fail(chunk):
        begun.append(chunk.start)
        raise KeyboardInterrupt("stop")

    with pytest.raises(KeyboardInterrupt, match="stop"):
        list(map_chunks(fail, 100_000, 256))
    assert len(begun) <= 2
    assert torch.get_num_threads() == threads
    assert list(map_chunks(lambda chunk: chunk.start, 300, 256)) == [0, 256]


def test_an_error_of_a_helper_ends_the_work(two_threads):
    two_threads(2)
    here, begun = threading.get_ident(), []

    def fail_elsewhere(chunk):
        begun.append(chunk.start)
        if threading.get_ident() != here:
            raise ValueError("in a helper")
        time.sleep(0.01)

    with pytest.raises(ValueError, match="in a helper"):
        list(map_chunks(fail_elsewhere, 100_000, 256))
    assert len(begun) < 60


def test_helpers_do_not_wait_for_those_that_cannot_start(monkeypatch):
    class Full(_threads.ThreadPoolExecutor):
        def submit(self, *args):
            if self._threads:
                raise RuntimeError("can't start new thread")
            future = super().submit(*args)
            started.append(future)
            return future

    started = []
    monkeypatch.setattr(_threads, "_pools", {})
    monkeypatch.setattr(_threads, "ThreadPoolExecutor", Full)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        _threads._pool(3)
    error = started[0].exception(timeout=10)
    assert isinstance(error, threading.BrokenBarrierError)


def test_a_scratch_buffer_is_used_again():
    cpu = torch.device("cpu")
    first = scratch("test", (4, 5), cpu)
    assert scratch("test", (2, 3), cpu).data_ptr() == first.data_ptr()
    assert scratch("other", (2, 3), cpu).data_ptr() != first.data_ptr()
    assert scratch("test", (40, 50), cpu).shape == (40, 50)


def test_one_thread_is_restored_by_the_last_to_leave(two_threads):
    two_threads(2)
    with one_thread():
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def blas_threads():
    """Thread counts of all libraries of matrix products."""
    return [
        lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"
    ]


def test_blas_has_its_threads_back_when_nobody_computes_alone(two_threads):
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        assert set(before) == {2}
        with one_thread():
            assert set(blas_threads()) == {1}
            other = threading.Thread(target=lambda: [*map_chunks(str, 9, 2)])
            other.start()
            other.join()
            assert set(blas_threads()) == {1}
        assert blas_threads() == before
        with pytest.raises(ValueError, match="stop"), one_thread():
            raise ValueError("stop")
        assert blas_threads() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_of_another_thread_has_blas_threads_back(two_threads):
    with threadpool_limits(2, user_api="blas"):
        inside, forked = threading.Event(), threading.Event()

        def compute():
            with one_thread():
                inside.set()
                forked.wait()

        thread = threading.Thread(target=compute)
        thread.start()
        inside.wait()
        pid = os.fork()
        if pid == 0:
            os._exit(max(blas_threads()))
        forked.set()
        thread.join()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 2


def test_one_thread_is_restored_after_an_error(two_threads):
    two_threads(2)
    with pytest.raises(ZeroDivisionError, match="by zero"), one_thread():
        _ = 1 / 0
    assert torch.get_num_threads() == 2


def test_threads_that_overlap_restore_what_each_had(two_threads):
    two_threads(2)
    inside, outside = threading.Event(), threading.Event()
    found = {}

    def first():
        torch.set_num_threads(3)
        with one_thread():
            inside.set()
            outside.wait(20)
        found["first"] = torch.get_num_threads()

    def second():
        inside.wait(20)
        # Born while the first computes alone: torch would give it one thread for good.
        with one_thread():
            assert n_workers() == 3
            outside.set()
            threads[0].join()
        found["second"] = torch.get_num_threads()

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"first": 3, "second": 3}
    assert torch.get_num_threads() == 2


def test_a_thread_of_its_own_count_keeps_it(two_threads):
    two_threads(2)
    found = []

    def work():
        torch.set_num_threads(4)
        with one_thread():
            found.append((n_workers(), torch.get_num_threads()))
        found.append(torch.get_num_threads())

    with one_thread():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert found == [(4, 1), 4]
    assert torch.get_num_threads() == 2
