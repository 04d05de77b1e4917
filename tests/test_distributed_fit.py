"""A fit on an engine has the bits of a fit in memory."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from sk_rqkplus import RQKMeans, _prices, _threads
from sk_rqkplus._threads import block_rows
from sk_rqkplus.datasets import make_catalogue
from sk_rqkplus.distributed._fit import Block, EngineTable, in_windows


class PickledEngine:
    """Blocks in this process; what goes in and out of them is pickled."""

    def __init__(self, X, blocks=None):
        self.n_rows, self.n_features = X.shape
        self.dtype, self.X = X.dtype, X
        step = block_rows(len(X))
        starts = range(0, len(X), step)
        self.blocks = blocks or [Block(i, X[i : i + step]) for i in starts]

    def map(self, function, argument, blocks=None):
        sent = pickle.dumps((function, argument))
        for number in range(len(self.blocks)) if blocks is None else blocks:
            called, asked = pickle.loads(sent)
            yield pickle.loads(pickle.dumps(called(self.blocks[number], asked)))

    def keep(self, function, argument):
        found = self.map(function, argument)
        blocks = [
            block._replace(labels=(*block.labels, labels))
            for block, labels in zip(self.blocks, found, strict=True)
        ]
        return PickledEngine(self.X, blocks)


@pytest.fixture(scope="module")
def rows():
    """Several blocks of rows, the last of which is short."""
    X = make_catalogue(3000, 20, branching=(8, 8), random_state=0).data
    return (X + 3).astype(np.float32)


def assert_same_model(found, expected):
    assert_array_equal(found.mean_, expected.mean_)
    for one, other in zip(found.codebooks_, expected.codebooks_, strict=True):
        assert_array_equal(one, other)
    for one, other in zip(found.prices_, expected.prices_, strict=True):
        assert_array_equal(one, other)
    assert found.n_iter_ == expected.n_iter_
    assert_array_equal(found.duality_gap_, expected.duality_gap_)


@pytest.fixture(autouse=True, params=[0, 2**26], ids=["spread", "gathered"])
def where_scores_are(request, monkeypatch):
    monkeypatch.setattr("sk_rqkplus.distributed._fit.GATHERED_VALUES", request.param)


def fit_both(X, **params):
    params = {"codebook_sizes": (16, 16), "random_state": 0, **params}
    expected = RQKMeans(**params).fit(X)
    found = RQKMeans(**params)
    left = found._fit_table(EngineTable(PickledEngine(X)))
    assert_same_model(found, expected)
    if found.beam_size == 1:
        assert_array_equal(left.codes, expected.codes_)
    return found


@pytest.mark.parametrize(
    "params",
    [
        {"balance": "none"},
        {"balance": "last"},
        {"balance": "all"},
        {"balance": "all", "balance_tol": 0.5},
        {"max_samples": 1500},
        {"balance": "all", "max_samples": 1500},
        {"augment": 3000},
        {"augment": "none", "init": "random", "n_init": 2},
        {"refine": 0, "balance": "all"},
        {"refine": 2, "balance": "all"},
        {"refine": 2, "beam_size": 3, "max_samples": 1500, "balance": "all"},
        {"refine": 1, "beam_size": 2, "balance": "none"},
    ],
    ids=str,
)
def test_engine_and_memory_agree_to_the_last_bit(rows, params, monkeypatch):
    monkeypatch.setattr(_threads, "MIN_CHUNK_ROWS", 256)
    assert len(PickledEngine(rows).blocks) > 8
    fit_both(rows, **params)


@pytest.mark.parametrize("augment", ["none", 3000])
def test_engine_and_memory_agree_about_copies(rows, augment, monkeypatch):
    monkeypatch.setattr(_threads, "MIN_CHUNK_ROWS", 256)
    monkeypatch.setattr(_prices, "LARGEST_GAP", 0.0)
    X = np.repeat(rows[:300], np.arange(300) % 5 + 1, axis=0)
    found = fit_both(X, balance="all", augment=augment)
    # Codewords have moved on.
    monkeypatch.setattr(_prices, "MOST_TRIES", 1)
    plain = RQKMeans((16, 16), balance="all", augment=augment, random_state=0).fit(X)
    books = zip(plain.codebooks_, found.codebooks_, strict=True)
    assert any((one != other).any() for one, other in books)


def test_the_last_labels_are_not_computed(rows, monkeypatch):
    keep, kept = PickledEngine.keep, []
    monkeypatch.setattr(
        PickledEngine, "keep", lambda self, *args: kept.append(1) or keep(self, *args)
    )
    model = RQKMeans((4, 4, 4), max_samples=1000, random_state=0)
    left = model._fit_table(EngineTable(PickledEngine(rows)))
    assert len(kept) == 2
    assert left.codes.shape == (3000, 3)
    assert len(kept) == 3


@pytest.mark.parametrize("n_rows", [3, 40, 255, 256, 257, 513])
def test_few_rows(rows, n_rows):
    fit_both(rows[:n_rows].astype(np.float64), codebook_sizes=(2, 2), balance="all")


def test_empty_codewords_get_the_same_rows(rows):
    X = np.repeat(rows[:40], 60, axis=0)
    X[::7] = rows[len(rows) - len(X[::7]) :]
    fit_both(X, codebook_sizes=(64, 32), balance="none", init="random")


def test_crowds_are_left_out_on_an_engine_too(rows):
    X = rows.copy()
    X[100:2500:3] = X[0]
    with pytest.warns(UserWarning, match="cannot be balanced"):
        fit_both(X, balance="all")


@pytest.mark.parametrize(
    "n_sent, n_result, sizes",
    [
        (50, 60, [4, 6, 6, 4]),
        (50, 10**6, [4, *[1] * 16]),
        (10**6, 10, [1, 10, 9]),
    ],
)
def test_results_that_wait_are_few_bytes(monkeypatch, n_sent, n_result, sizes):
    for name, value in (("RESULT_BYTES", 400), ("MOST_BLOCKS", 10)):
        monkeypatch.setattr(f"sk_rqkplus.distributed._fit.{name}", value)
    asked = []

    def ask(blocks):
        asked.append(list(blocks))
        return [pickle.dumps(number).ljust(n_result) for number in blocks]

    assert list(in_windows(ask, range(5, 25), n_sent)) == [*range(5, 25)]
    assert [len(blocks) for blocks in asked] == sizes


def test_sparse_samples_are_gathered(rows):
    X = np.tile(rows, (50, 1)) + np.arange(150_000, dtype=np.float32)[:, None] % 97
    fit_both(X[:, :3], codebook_sizes=(2,), balance="all", augment="none")


def test_a_fit_begun_in_memory_goes_on_on_an_engine(rows, tmp_path, monkeypatch):
    params = {"codebook_sizes": (16, 16), "random_state": 0, "checkpoint_dir": tmp_path}
    expected = RQKMeans(**params).fit(rows)

    def never(*args, **kwargs):
        raise AssertionError("fitted again")

    monkeypatch.setattr("sk_rqkplus._rqkmeans.fit_codebook", never)
    found = RQKMeans(resume=True, **params)
    left = found._fit_table(EngineTable(PickledEngine(rows)))
    assert_same_model(found, expected)
    assert_array_equal(left.codes, expected.codes_)
    with pytest.raises(ValueError, match=r"has a fit with X='float32 of shape \(3000"):
        found._fit_table(EngineTable(PickledEngine(rows[1:])))
