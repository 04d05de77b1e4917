"""Eight threads read and extend one catalogue: no ID is lost, doubled or changed."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from sk_rqkplus import RQKMeans

N_THREADS, N_FEATURES, N_NEW = 8, 8, 20
# What allocators may keep back for later, after the first rounds, in MB.
SLACK = 64


def resident():
    """Anonymous memory of this process in MB; None where that is not told."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) / 1024


def new_rows(number):
    return np.random.RandomState(1000 + number).normal(size=(N_NEW, N_FEATURES))


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("dedup", ["reassign", "suffix"])
def test_threads_extend_and_predict(rounds, figure, dedup, keyed):
    n_rounds = rounds(40, 1000)
    X = np.random.RandomState(0).normal(size=(400, N_FEATURES))
    rq = RQKMeans((6, 6, 4), dedup=dedup, random_state=0).fit(X)
    known = rq.ids_.copy()
    known_keys = np.arange(len(X)) if keyed else None
    if keyed:
        rq.catalogue_.set_keys(known_keys)
    given, lock, memory = {}, threading.Lock(), []

    def play(number):
        kind = number % 4
        if kind == 0:
            rows = new_rows(number)
            keys = 10**6 + number * N_NEW + np.arange(N_NEW) if keyed else None
            ids = rq.extend(rows, keys)
            with lock:
                given[number] = rows, keys, ids
        elif kind == 1:
            # The rows of the fit keep their IDs while others come.
            np.testing.assert_array_equal(rq.predict(X, known_keys), known)
        elif kind == 2 and given:
            with lock:
                rows, keys, ids = given[min(given)]
            np.testing.assert_array_equal(rq.predict(rows, keys), ids)
        else:
            np.testing.assert_array_equal(
                rq.extend(X[:5], _of(known_keys, 5)), known[:5]
            )
        if number % 50 == 0:
            memory.append(resident())

    with ThreadPoolExecutor(N_THREADS) as pool:
        list(pool.map(play, range(n_rounds)))
    ids = np.concatenate([known, *(entry[2] for entry in given.values())])
    assert len(given) == n_rounds // 4
    assert len(rq.catalogue_) == len(ids)
    assert len(np.unique(ids, axis=0)) == len(ids)
    assert set(map(tuple, rq.catalogue_.ids)) == set(map(tuple, ids))
    for rows, keys, expected in given.values():
        np.testing.assert_array_equal(rq.predict(rows, keys), expected)
    if memory[0] is not None and len(memory) > 4:
        grown = memory[-1] - memory[2]
        assert grown < SLACK, f"memory grew by {grown:.0f} MB"
        figure(
            f"soak: {dedup}, {'keys' if keyed else 'content'}",
            f"{n_rounds} rounds from {N_THREADS} threads, {len(ids):,} distinct IDs of "
            f"{len(ids):,}, memory {grown:+.1f} MB after the first 100",
        )


def _of(keys, n_keys):
    return None if keys is None else keys[:n_keys]


def test_a_catalogue_that_is_read_is_whole(rounds):
    """A reader finds the items of some number of extensions, never of a part of one."""
    rq = RQKMeans((6, 6, 4), dedup="suffix", random_state=0)
    rq.fit(np.random.RandomState(0).normal(size=(200, N_FEATURES)))
    done = threading.Event()
    lengths = []

    def read():
        while not done.is_set():
            lengths.append(len(rq.catalogue_.ids))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(rounds(10, 200)):
        rq.extend(new_rows(number))
    done.set()
    reader.join()
    assert {(length - 200) % N_NEW for length in lengths} == {0}
    assert lengths == sorted(lengths)
