"""Checks on the catalogue that remembers IDs."""

import copy
import os
import pickle
import subprocess
import sys
import tracemalloc
from uuid import UUID

import numpy as np
import pytest
from conftest import PACKAGE_ENV
from numpy.testing import assert_array_equal
from scipy.sparse.csgraph import connected_components
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline

from sk_rqkplus import RQKMeans, RQKMeansPlus, _catalogue, _sketch
from sk_rqkplus._sketch import match_sketches
from sk_rqkplus.ids import Catalogue, deduplicate, duplicate_groups, sketch

METHODS = ["suffix", "reassign"]


def n_copies(ids):
    return len(ids) - len(np.unique(ids, axis=0))


def from_table(table):
    """Return the callable that deduplicate asks for, out of an (n, K) array."""
    return lambda rows: np.asarray(table, dtype=float)[rows]


# sketch


def test_sketch_is_linear_in_the_row():
    rng = np.random.RandomState(0)
    X, Y = rng.randn(2, 5, 30)
    both = sketch(X) + 2 * sketch(Y)
    np.testing.assert_allclose(sketch(X + 2 * Y), both, rtol=1e-5, atol=1e-6)


def test_sketch_of_one_feature_is_proportional_to_it():
    values = sketch(np.array([[2.5], [-1.0]]))
    assert values.dtype == np.float32
    assert values.shape == (2, 3)
    np.testing.assert_allclose(values[0], -2.5 * values[1], rtol=1e-6)
    assert np.abs(values).min() > 0.1


@pytest.mark.parametrize("n_features", [2, 3, 8, 64])
def test_rows_that_differ_by_an_exchange_of_features_have_other_sketches(n_features):
    values = sketch(np.eye(n_features))
    assert np.abs(values[:, None] - values)[~np.eye(n_features, dtype=bool)].max() > 0
    assert len(np.unique(values, axis=0)) == n_features


def test_sketch_of_a_row_does_not_depend_on_chunks(monkeypatch):
    X = np.random.RandomState(0).randn(50, 16)
    whole = sketch(X)
    monkeypatch.setattr("sk_rqkplus._sketch.CHUNK_ROWS", 7)
    np.testing.assert_allclose(sketch(X), whole, rtol=1e-6)


@pytest.mark.parametrize("weights", [None, np.zeros(4, np.uint64)])
@pytest.mark.parametrize("seed", range(5))
def test_equal_rows_are_grouped_whatever_the_hash(monkeypatch, weights, seed):
    if weights is not None:
        monkeypatch.setattr(_sketch, "WEIGHTS", weights)
    rng = np.random.RandomState(seed)
    codes = rng.randint(5, size=80)
    sketches = rng.randint(-1, 2, size=(80, 3)).astype(np.float32)
    sketches[::7] *= -1
    group = _sketch._equal_rows(codes, sketches)
    rows = np.column_stack([codes, sketches])
    same = (rows[:, None] == rows).all(axis=2)
    assert_array_equal(group[:, None] == group, same)
    linked = _sketch._linked_rows(codes, sketches, 0.0)
    assert_array_equal(linked[:, None] == linked, same)


@pytest.mark.parametrize("seed", range(5))
def test_rows_are_linked_column_by_column(seed):
    rng = np.random.RandomState(seed)
    codes, sketches = rng.randint(3, size=60), rng.rand(60, 3).astype(np.float32)
    group = codes
    for column in sketches.T:
        # Brute-force twin: a chain of steps among the rows of a group.
        linked = (np.abs(column[:, None] - column) <= 0.1) & (group[:, None] == group)
        group = connected_components(linked)[1]
    found = _sketch._linked_rows(codes, sketches, 0.1)
    assert_array_equal(found[:, None] == found, group[:, None] == group)


# Catalogue


class Items:
    """Random rows of few codes, and what a catalogue wants to know of them."""

    def __init__(self, n, sizes=(4, 4, 8), seed=0, n_distinct=None):
        rng = np.random.RandomState(seed)
        self.sizes = sizes
        n_distinct = n if n_distinct is None else n_distinct
        source = np.r_[
            np.arange(n_distinct), rng.randint(n_distinct, size=n - n_distinct)
        ]
        source = rng.permutation(source)
        self.source = source
        self.X = rng.randn(n_distinct, 16)[source]
        self.codes = rng.randint(sizes, size=(n_distinct, len(sizes)))[source]
        self.table = rng.rand(n_distinct, sizes[-1])[source]
        self.sketches = sketch(self.X)

    def part(self, rows):
        return self.codes[rows], self.sketches[rows], from_table(self.table[rows])

    def everything(self):
        return self.part(np.arange(len(self.codes)))

    def catalogue(self, method="suffix", tolerance=1e-5):
        return Catalogue(self.sizes, method, tolerance)


@pytest.mark.parametrize("method", METHODS)
def test_first_ids_are_those_of_deduplicate(method):
    items = Items(200)
    expected = deduplicate(
        items.codes,
        method,
        codebook_size=items.sizes[-1],
        distances=from_table(items.table),
    )
    catalogue = items.catalogue(method)

    assert_array_equal(catalogue.extend(*items.everything()), expected)
    assert len(catalogue) == 200


@pytest.mark.parametrize("method", METHODS)
def test_first_ids_take_a_hundred_bytes_per_row(method):
    n, rng = 100_000, np.random.RandomState(0)
    codes = rng.randint(256, size=(n, 3)).astype(np.int32)
    sketches = rng.randn(n, 3).astype(np.float32)

    def distances(rows):
        return (codes[rows, 2][:, None] - np.arange(256.0)) ** 2

    # What is imported and started on first use is not counted.
    Catalogue([256] * 3, method).extend(codes[:2000], sketches[:2000], distances)
    catalogue = Catalogue([256] * 3, method, tolerance=1e-6)
    tracemalloc.start()
    ids = catalogue.extend(codes, sketches, distances)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # IDs of 16 bytes and entries of 28 are what is kept; what is given is not copied.
    assert kept / n == pytest.approx(16 + 28, abs=1)
    assert peak / n < 100
    assert len(np.unique(ids, axis=0)) == n


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_rows_are_recognised_in_any_order_and_subset(method, seed):
    items = Items(300)
    catalogue = items.catalogue(method)
    ids = catalogue.extend(*items.everything())

    rng = np.random.RandomState(seed)
    for rows in (
        rng.permutation(300),
        rng.permutation(300)[:40],
        np.arange(299, -1, -1),
    ):
        assert_array_equal(catalogue.lookup(*items.part(rows)), ids[rows])


@pytest.mark.parametrize("method", METHODS)
def test_rows_are_recognised_one_by_one(method):
    items = Items(100)
    catalogue = items.catalogue(method)
    ids = catalogue.extend(*items.everything())

    one_by_one = [catalogue.lookup(*items.part([row]))[0] for row in range(100)]
    assert_array_equal(one_by_one, ids)


@pytest.mark.parametrize("method", METHODS)
def test_no_rows_need_no_distances(method):
    catalogue = Items(50).catalogue(method)
    for _ in range(2):
        nothing = np.empty((0, len(catalogue.codebook_sizes)), dtype=int)
        assert catalogue.lookup(nothing, np.empty((0, 3))).shape == (0, 4)
        catalogue.extend(*Items(50).everything())


def test_a_callback_may_change_the_rows_that_it_is_asked_for():
    items = Items(200)
    ids = items.catalogue("reassign").extend(*items.everything())

    def distances(rows):
        found = items.table[rows]
        rows[:] = 0
        return found

    other = items.catalogue("reassign")
    assert_array_equal(other.extend(items.codes, items.sketches, distances), ids)


def test_a_known_row_needs_no_distances():
    items = Items(50)
    catalogue = items.catalogue("reassign")
    ids = catalogue.extend(*items.everything())
    assert_array_equal(catalogue.lookup(items.codes, items.sketches), ids)


def known_pair():
    catalogue = Catalogue([2, 4], tolerance=0.01)
    sketches = np.array([[1.0, 2, 3], [-1, -2, -3]])
    catalogue.extend(np.array([[0, 0], [0, 0]]), sketches)
    return catalogue, sketches


@pytest.mark.parametrize("column", range(3))
@pytest.mark.parametrize("shift, suffix", [(0.009, 1), (-0.009, 1), (0.02, 2), (-1, 2)])
def test_a_row_is_known_within_the_tolerance_only(column, shift, suffix):
    catalogue, sketches = known_pair()
    sketches[1, column] += shift
    ids = catalogue.lookup(np.array([[0, 0]]), sketches[[1]])
    assert_array_equal(ids, [[0, 0, suffix]])


def test_all_rows_are_recognised_after_noise_within_the_tolerance():
    items = Items(300)
    catalogue = items.catalogue(tolerance=1e-5)
    ids = catalogue.extend(*items.everything())

    noise = np.random.RandomState(1).uniform(-9e-6, 9e-6, items.sketches.shape)
    order = np.random.RandomState(2).permutation(300)
    noisy = (items.sketches + noise).astype(np.float32)
    assert np.any(noisy != items.sketches)
    assert_array_equal(catalogue.lookup(items.codes[order], noisy[order]), ids[order])


def test_an_equal_row_wins_over_one_within_the_tolerance():
    # Both rows are within the tolerance of each other; each still finds itself.
    sketches = np.array([[0.0, 0, 0], [0.5, 0, 0]])
    catalogue = Catalogue([1, 1], tolerance=1.0)
    catalogue.extend(np.zeros((2, 2), int), sketches)
    ids = catalogue.lookup(np.zeros((2, 2), int), sketches[::-1])
    assert_array_equal(ids[:, -1], [1, 0])


def test_a_row_is_known_by_another_code_than_that_of_its_entry():
    catalogue, sketches = known_pair()
    shifted = sketches + 0.009
    ids = catalogue.lookup(np.array([[0, 1], [1, 0]]), shifted)
    assert_array_equal(ids, [[0, 0, 0], [0, 0, 1]])
    # An entry is given once, and first to a row of its own code.
    codes = np.array([[1, 1], [0, 0], [1, 1]])
    ids = catalogue.lookup(codes, shifted[[0, 0, 1]])
    assert_array_equal(ids, [[1, 1, 0], [0, 0, 0], [0, 0, 1]])
    assert_array_equal(catalogue.extend(codes, shifted[[0, 0, 1]]), ids)
    assert len(catalogue) == 3


def test_a_row_halfway_between_codewords_keeps_its_id(X):
    rq = RQKMeans((8, 8), random_state=0).fit(X)
    one, other = rq.codebooks_[0][:2].astype(np.float64)
    prices = rq.prices_[0][:2]
    # On the wall between two cells, where prices are as they are.
    way = other - one
    share = 0.5 - (prices[0] - prices[1]) / (2 * (way @ way))
    row = one + share * way + rq.mean_
    new = np.array([row - 1e-7 * way, row + 1e-7 * way])
    codes = rq.transform(new)
    assert_array_equal(codes[:, 0], [0, 1])
    expected = rq.extend(new[:1])
    assert_array_equal(rq.predict(new[:1]), expected)
    assert_array_equal(rq.predict(new[1:]), expected)
    assert_array_equal(rq.extend(new[1:]), expected)
    assert len(rq.catalogue_) == len(X) + 1


def test_without_a_tolerance_a_row_of_another_code_is_another_row():
    catalogue = Catalogue([2, 4])
    sketches = np.array([[1.0, 2, 3], [-1, -2, -3]])
    catalogue.extend(np.array([[0, 0], [0, 0]]), sketches)
    ids = catalogue.lookup(np.array([[0, 1], [1, 0]]), sketches)
    assert_array_equal(ids, [[0, 1, 0], [1, 0, 0]])


def test_merged_catalogues_know_a_row_by_either_code():
    one, sketches = known_pair()
    other = Catalogue([2, 4], tolerance=0.01)
    other.extend(np.array([[1, 3], [1, 3]]), np.array([sketches[1], -sketches[1]]))
    merge = one.merge(other)
    assert_array_equal(merge.known, [True, True])
    assert len(one) == 2


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("offset", [0.0, -7.3])
def test_sketches_are_matched_as_by_brute_force(scale, offset):
    rng = np.random.RandomState(0)
    # Walls between cells are at multiples of 64 tolerances.
    known = rng.randint(-3, 3, size=(3000, 3)) * 6.4 + rng.uniform(-1, 1, (3000, 3))
    known = ((known + offset) * scale).astype(np.float32)
    queries = known[rng.permutation(3000)[:500]].copy()
    queries += (rng.uniform(-0.12, 0.12, size=(500, 3)) * scale).astype(np.float32)
    queries[7, 1] = np.nan
    queries[8, 0] = np.inf
    known[11] = np.nan
    taken = rng.permutation(3000)[:50]
    tolerance = 0.1 * scale
    found = match_sketches(known, queries, tolerance, taken)
    gap = np.abs(known[None].astype(float) - queries[:, None]).max(axis=2)
    gap[:, taken] = np.inf
    close = gap <= tolerance
    assert 100 < close.any(axis=1).sum() < 400
    alone = close.sum(axis=1) == 1
    alone &= close[:, close.argmax(axis=1)].sum(axis=0) == 1
    assert_array_equal(found[alone], close.argmax(axis=1)[alone])
    assert (found[gap.min(axis=1) > tolerance * 1.001] == -1).all()
    given = found[found >= 0]
    assert len(np.unique(given)) == len(given)
    assert not np.isin(given, taken).any()


def test_sketches_in_float64_are_stored_and_found_as_float32():
    rows = np.random.RandomState(0).randn(6, 3)
    codes = np.zeros((6, 2), int)
    catalogue = Catalogue([2, 2])
    ids = catalogue.extend(codes, rows)
    assert_array_equal(catalogue.lookup(codes[::-1], rows[::-1]), ids[::-1])


def copies_of_one_row(n):
    return np.tile([[1, 2]], (n, 1)), np.tile(np.float32([[1, 2, 3]]), (n, 1))


def test_equal_rows_are_told_apart_by_order_of_occurrence():
    catalogue = Catalogue([4, 4])
    catalogue.extend(*copies_of_one_row(3))

    assert_array_equal(catalogue.lookup(*copies_of_one_row(2))[:, -1], [0, 1])
    assert_array_equal(catalogue.lookup(*copies_of_one_row(3))[:, -1], [0, 1, 2])


def test_a_copy_beyond_those_known_is_new():
    catalogue = Catalogue([4, 4])
    catalogue.extend(*copies_of_one_row(2))

    assert_array_equal(catalogue.extend(*copies_of_one_row(4))[:, -1], [0, 1, 2, 3])
    assert len(catalogue) == 4


def state(catalogue):
    return [array.copy() for array in catalogue._entries.arrays().values()]


def assert_same_state(catalogue, before):
    for now, then in zip(state(catalogue), before, strict=True):
        assert_array_equal(now, then)


@pytest.mark.parametrize("method", METHODS)
def test_lookup_of_new_rows_leaves_no_trace(method):
    items = Items(200)
    catalogue = items.catalogue(method)
    catalogue.extend(*items.part(np.arange(100)))
    before = state(catalogue)

    first = catalogue.lookup(*items.everything())
    assert_same_state(catalogue, before)
    assert_array_equal(catalogue.lookup(*items.everything()), first)


@pytest.mark.parametrize("method", METHODS)
def test_extend_makes_the_provisional_ids_of_lookup_final(method):
    items = Items(200)
    catalogue = items.catalogue(method)
    catalogue.extend(*items.part(np.arange(100)))

    provisional = catalogue.lookup(*items.everything())
    assert_array_equal(catalogue.extend(*items.everything()), provisional)
    assert_array_equal(catalogue.lookup(*items.everything()), provisional)


@pytest.mark.parametrize("method", METHODS)
def test_extend_by_known_rows_changes_nothing(method):
    items = Items(200)
    catalogue = items.catalogue(method)
    ids = catalogue.extend(*items.everything())
    before = state(catalogue)

    order = np.random.RandomState(0).permutation(200)
    assert_array_equal(catalogue.extend(*items.part(order)), ids[order])
    assert_same_state(catalogue, before)


def extend_in_parts(catalogue, items, n_parts, seed):
    """Register rows in parts, with lookups of all rows between them."""
    order = np.random.RandomState(seed).permutation(len(items.codes))
    given = np.full((len(order), len(items.sizes) + 1), -1)
    done = order[:0]
    for part in np.array_split(order, n_parts):
        given[part] = catalogue.extend(*items.part(part))
        done = np.r_[done, part]
        known = catalogue.lookup(*items.part(done))
        assert_array_equal(known, given[done])
        catalogue.lookup(*items.everything())
    return given


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [150, 900])
def test_ids_never_change_while_the_catalogue_grows(method, seed, n):
    # 16 prefixes of 8 codewords: 900 rows are far past capacity, 150 just about.
    items = Items(n, seed=seed)
    given = extend_in_parts(items.catalogue(method), items, 10, seed)

    assert given.min() == 0
    assert n_copies(given) == 0


@pytest.mark.parametrize("method", METHODS)
def test_codes_too_long_for_an_integer_are_hashed(method):
    items = Items(300, sizes=(256,) * 8)
    items.codes[:, :-1] = items.codes[items.source % 5, :-1]
    items.codes[:, -1] %= 3
    given = extend_in_parts(items.catalogue(method), items, 4, seed=0)

    assert n_copies(given) == 0
    assert_array_equal(given[:, :-2], items.codes[:, :-1])


@pytest.mark.parametrize("method", METHODS)
def test_prefixes_of_one_hash_still_get_unique_ids(method):
    # The hash of 8 levels of 256 drops the top bits of the first one.
    items = Items(24, sizes=(256,) * 8)
    items.codes[:] = np.arange(8)
    items.codes[:, 0] = np.tile([0, 64, 128], 8)
    catalogue = items.catalogue(method)
    assert len(np.unique(catalogue._entries.flatten(items.codes))) == 1

    assert n_copies(extend_in_parts(catalogue, items, 4, seed=0)) == 0


def test_a_failed_extend_leaves_the_catalogue_as_it_was():
    items = Items(100)
    catalogue = items.catalogue("reassign")
    ids = catalogue.extend(*items.part(np.arange(50)))
    before = state(catalogue)

    def fail(rows):
        raise MemoryError("no room for the distances")

    with pytest.raises(MemoryError, match="no room for the distances"):
        catalogue.extend(items.codes, items.sketches, fail)
    assert_same_state(catalogue, before)
    assert_array_equal(catalogue.lookup(*items.part(np.arange(50))), ids)


def test_a_suffix_beyond_32_bits_is_an_error_that_registers_nothing():
    catalogue = Catalogue([2, 2**30])
    catalogue.extend(np.array([[0, 0]]), np.zeros((1, 3)))
    before = state(catalogue)

    with pytest.raises(ValueError, match="suffix=2 should be below 2. Remove copies"):
        catalogue.extend(np.zeros((3, 2), int), np.zeros((3, 3)))
    assert_same_state(catalogue, before)


@pytest.mark.parametrize(
    "codes, n_sketches, message",
    [
        ([[0, 1], [0, 4]], 2, r"codes\[1, 1\]=4 should be in \[0, 4\)"),
        ([[2, 0]], 1, r"codes\[0, 0\]=2 should be in \[0, 2\)"),
        ([[0, -1]], 1, r"codes\[0, 1\]=-1 should be in \[0, 4\)"),
        ([[0, 2**32]], 1, "codes have the value 4294967296, which should fit"),
        ([[0, 1, 0]], 1, "codes have 3 levels, which should equal the 2 codebooks"),
        ([[0, 1]], 2, r"sketches have shape=\(2, 3\), which should be \(1, 3\)"),
        ([[0.0, 1.0]], 1, "codes have dtype=float64, which should be an integer"),
    ],
)
@pytest.mark.parametrize("call", ["lookup", "extend"])
def test_bad_rows_of_a_catalogue_are_named(call, codes, n_sketches, message):
    catalogue = Catalogue([2, 4])
    with pytest.raises(ValueError, match=message):
        getattr(catalogue, call)(np.array(codes), np.zeros((n_sketches, 3)))
    assert len(catalogue) == 0


def test_new_rows_need_distances_to_be_reassigned():
    catalogue = Catalogue([2, 4], "reassign")
    with pytest.raises(ValueError, match="with codebook_size and distances"):
        catalogue.lookup(np.array([[0, 1]]), np.zeros((1, 3)))


@pytest.mark.parametrize("n", [0, 1, 500])
def test_a_row_takes_28_bytes(n):
    items = Items(max(n, 1))
    catalogue = items.catalogue()
    for half in np.array_split(np.arange(n), 2):
        catalogue.extend(*items.part(half))
    assert sum(array.nbytes for array in state(catalogue)) == 28 * n
    catalogue.rows([0])
    assert len(pickle.dumps(catalogue)) < 28 * n + 2000


@pytest.mark.parametrize("call", ["lookup", "extend"])
@pytest.mark.parametrize("n_known", [0, 20])
def test_no_rows_give_no_ids(call, n_known):
    items = Items(20)
    catalogue = items.catalogue()
    catalogue.extend(*items.part(np.arange(n_known)))
    ids = getattr(catalogue, call)(*items.part(np.arange(0)))
    assert ids.shape == (0, 4)
    assert len(catalogue) == n_known


@pytest.mark.parametrize("method", METHODS)
def test_many_copies_get_unique_ids_that_are_found_again(method):
    # Nine rows in ten are copies; a quadratic step would take minutes.
    items = Items(20_000, sizes=(16, 16, 16), n_distinct=2_000)
    catalogue = items.catalogue(method)
    ids = catalogue.extend(*items.everything())

    assert n_copies(ids) == 0
    assert_array_equal(catalogue.lookup(*items.everything()), ids)


# Keys

KINDS = {
    "integers": lambda n: np.arange(n) * 3 - 50,
    "strings": lambda n: [f"item-{i}" for i in range(n)],
    "others": lambda n: [UUID(int=i) for i in range(n)],
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_with_keys_content_does_not_matter(method, kind):
    items, keys = Items(200), np.array(KINDS[kind](200), dtype=object)
    catalogue = items.catalogue(method)
    ids = catalogue.extend(*items.everything(), keys=keys)
    assert n_copies(ids) == 0

    order = np.random.RandomState(0).permutation(200)
    other = Items(200, seed=1)
    assert_array_equal(catalogue.lookup(other.codes, keys=keys[order]), ids[order])
    assert_array_equal(catalogue.extend(*other.everything(), keys=keys), ids)
    assert len(catalogue) == 200
    assert catalogue.keys.tolist() == keys.tolist()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_with_keys_the_rows_of_a_call_may_come_in_any_order(method, seed):
    items, keys = Items(300), np.arange(300)
    order = np.random.RandomState(seed).permutation(300)
    one, other = items.catalogue(method), items.catalogue(method)

    ids = one.extend(*items.everything(), keys=keys)
    assert_array_equal(other.extend(*items.part(order), keys=keys[order]), ids[order])


def test_copies_of_a_row_are_told_apart_by_key():
    codes, sketches = copies_of_one_row(3)
    catalogue = Catalogue([4, 4])
    ids = catalogue.extend(codes, sketches, keys=["a", "b", "c"])
    found = catalogue.lookup(codes, sketches, keys=["c", "a", "c"])
    assert_array_equal(found, ids[[2, 0, 2]])


def test_an_item_of_another_key_is_another_item():
    codes, sketches = copies_of_one_row(1)
    catalogue = Catalogue([4, 4])
    catalogue.extend(codes, sketches, keys=["a"])
    assert_array_equal(catalogue.extend(codes, sketches, keys=["b"]), [[1, 2, 1]])


def test_without_keys_rows_of_a_catalogue_with_keys_are_known_by_content():
    items = Items(100)
    catalogue = items.catalogue()
    ids = catalogue.extend(*items.everything(), keys=np.arange(100))
    assert_array_equal(catalogue.lookup(*items.everything()), ids)


def test_keys_may_be_set_later():
    items = Items(100)
    catalogue = items.catalogue()
    ids = catalogue.extend(*items.everything())
    catalogue.set_keys(range(100))

    assert_array_equal(catalogue.lookup(items.codes[:9], keys=range(9)), ids[:9])
    more = catalogue.extend(items.codes[:2], items.sketches[:2], keys=[98, 100])
    assert_array_equal(more[0], ids[98])
    assert len(catalogue) == 101


def test_items_of_codes_and_keys_alone_are_known_by_their_keys_only():
    catalogue = Catalogue([2, 2])
    codes = np.zeros((2, 2), int)
    ids = catalogue.extend(codes, keys=["a", "b"])
    assert_array_equal(catalogue.lookup(codes, keys=["b", "a"]), ids[::-1])
    unknown = catalogue.lookup(codes, np.zeros((2, 3)))
    assert_array_equal(unknown[:, -1], [2, 3])


def catalogue_of(keys):
    catalogue = Catalogue([2, 4])
    codes, sketches = np.zeros((3, 2), int), np.arange(9).reshape(3, 3)
    catalogue.extend(codes, sketches, keys=keys)
    return catalogue


@pytest.mark.parametrize(
    "known, call, message",
    [
        (["a", "b", "c"], {"keys": None}, "keys=None should be the keys of the rows"),
        (
            None,
            {"keys": ["a"]},
            "the 3 items of the catalogue have none. Call set_keys",
        ),
        (["a", "b", "c"], {"keys": [1]}, "are of type integer, which should be str"),
        (["a", "b", "c"], {"keys": ["d", "e"]}, "n_keys=2 should equal n_rows=1"),
        (None, {"sketches": None}, "sketches=None should come with keys"),
    ],
)
def test_what_keys_do_not_allow_is_named(known, call, message):
    catalogue = catalogue_of(known)
    before = state(catalogue)
    call = {"sketches": np.zeros((1, 3)), **call}
    with pytest.raises(ValueError, match=message):
        catalogue.extend(np.zeros((1, 2), int), **call)
    assert_same_state(catalogue, before)


def test_a_new_key_twice_is_refused_and_a_known_one_is_not():
    catalogue = catalogue_of(["a", "b", "c"])
    codes = np.zeros((2, 2), int)
    assert n_copies(catalogue.extend(codes, keys=["c", "c"])) == 1
    for call in (catalogue.lookup, catalogue.extend):
        with pytest.raises(ValueError, match="keys have the value 'd' more than once"):
            call(codes, keys=["d", "d"])


@pytest.mark.parametrize(
    "keys, message",
    [
        (["a", "b"], "n_keys=2 should equal n_rows=3"),
        (["a", "b", "a"], "keys have the value 'a' more than once"),
        ([1.5, 2, 3], "values of type float, int"),
    ],
)
def test_keys_that_cannot_be_set_leave_none(keys, message):
    catalogue = catalogue_of(None)
    with pytest.raises(ValueError, match=message):
        catalogue.set_keys(keys)
    assert catalogue.keys is None


def test_keys_are_set_once():
    catalogue = catalogue_of([1, 2, 3])
    with pytest.raises(ValueError, match="keys of 3 items are set, which should be"):
        catalogue.set_keys([4, 5, 6])
    catalogue.keys[0] = 9
    assert_array_equal(catalogue.keys, [1, 2, 3])


# The way back


@pytest.mark.parametrize("sizes", [(4, 4, 8), (30,), (256,) * 8])
@pytest.mark.parametrize("method", METHODS)
def test_rows_of_ids_and_prefixes(method, sizes):
    items = Items(300, sizes=sizes)
    items.codes %= 4
    catalogue = items.catalogue(method)
    ids = np.empty((300, len(sizes) + 1), dtype=np.int32)
    for part in np.array_split(np.arange(300), 3):
        ids[part] = catalogue.extend(*items.part(part))

    assert_array_equal(catalogue.ids, ids)
    order = np.random.RandomState(0).permutation(300)
    assert_array_equal(catalogue.find(ids[order]), order)
    for n_columns in range(1, ids.shape[1] + 1):
        prefixes = ids[order[:40], :n_columns]
        expected = [
            np.flatnonzero((ids[:, :n_columns] == prefix).all(axis=1))
            for prefix in prefixes
        ]
        for found, rows in zip(catalogue.rows(prefixes), expected, strict=True):
            assert_array_equal(found, rows)
        assert_array_equal(catalogue.rows(prefixes[0]), expected[0])


def test_nobody_has_an_id_that_was_not_given():
    catalogue = catalogue_of(None)
    strangers = [[0, 0, 3], [0, 1, 0], [1, 0, 0], [9, 0, 0], [-1, 0, 0], [0, 0, -1]]
    assert_array_equal(catalogue.find(strangers), [-1] * 6)
    assert [len(rows) for rows in catalogue.rows(strangers)] == [0] * 6
    assert_array_equal(catalogue.find([[0, 0, 1], [0, 0, 7]]), [1, -1])
    assert len(Catalogue([2, 4]).rows([0])) == 0
    assert catalogue.find(np.empty((0, 3), int)).shape == (0,)
    assert catalogue.rows(np.empty((0, 1), int)) == []


@pytest.mark.parametrize(
    "call, prefixes, message",
    [
        ("find", [[0, 0]], "ids have 2 columns, which should be 3"),
        ("rows", [[0, 0, 0, 0]], "prefixes have 4 columns, which should be at most 3"),
        ("rows", [0.5], "codes have dtype=float64"),
    ],
)
def test_bad_prefixes_are_named(call, prefixes, message):
    with pytest.raises(ValueError, match=message):
        getattr(catalogue_of(None), call)(prefixes)


# IDs from elsewhere


def test_ids_from_elsewhere_stay_as_they_are():
    catalogue = Catalogue([4, 4])
    ids = np.array([[1, 2, 5], [1, 2, 0], [3, 0, 0]])
    catalogue.register(ids, keys=["a", "b", "c"])
    assert_array_equal(catalogue.ids, ids)
    new = catalogue.extend(np.array([[1, 2], [1, 2]]), keys=["d", "a"])
    assert_array_equal(new, [[1, 2, 6], [1, 2, 5]])


def test_rows_are_known_by_the_code_behind_their_id():
    catalogue = Catalogue([4, 4])
    catalogue.register([[1, 3, 0]], np.ones((1, 3)), codes=[[1, 2]])
    assert_array_equal(catalogue.lookup([[1, 2]], np.ones((1, 3))), [[1, 3, 0]])


@pytest.mark.parametrize(
    "ids, params, message",
    [
        ([[0, 0, 1]], {}, r"ids\[0\]=\[0, 0, 1\] should be free"),
        ([[0, 1, 0], [0, 1, 0]], {}, r"ids\[1\]=\[0, 1, 0\] should be given once"),
        ([[0, 4, 0]], {}, r"ids\[0, 1\]=4 should be in \[0, 4\)"),
        ([[0, 1, -1]], {}, r"ids\[0, -1\]=-1 should be >= 0"),
        ([[0, 1]], {}, "ids have 2 columns, which should be 3"),
        ([[0, 1, 0]], {"codes": [[1, 1]]}, "codes should agree with ids in all levels"),
        ([[0, 1, 0]], {"codes": [[0, 1]] * 2}, "sketches have shape="),
    ],
)
def test_ids_that_cannot_be_taken_over_are_named(ids, params, message):
    catalogue = catalogue_of(None)
    with pytest.raises(ValueError, match=message):
        catalogue.register(ids, np.zeros((len(ids), 3)), **params)
    assert len(catalogue) == 3


def test_a_known_key_is_not_registered_again():
    catalogue = catalogue_of(["a", "b", "c"])
    with pytest.raises(ValueError, match="keys have the value 'b', which should be un"):
        catalogue.register([[1, 0, 0], [1, 1, 0]], keys=["d", "b"])
    assert len(catalogue) == 3


# merge


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("keyed", [True, False])
@pytest.mark.parametrize("with_distances", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_merged_items_keep_the_first_id_or_their_own(
    method, keyed, with_distances, seed
):
    items, keys = Items(400, seed=seed), np.arange(400)
    ours, theirs = items.catalogue(method), items.catalogue(method)
    rows = np.random.RandomState(seed).permutation(400)[:250]
    for catalogue, part in ((ours, np.arange(250)), (theirs, rows)):
        catalogue.extend(*items.part(part), keys=keys[part] if keyed else None)
    before, other = ours.ids, theirs.ids
    merge = ours.merge(theirs, items.part(rows)[2] if with_distances else None)

    assert_array_equal(ours.ids[:250], before)
    assert_array_equal(theirs.ids, other)
    assert n_copies(ours.ids) == 0
    assert_array_equal(merge.known, rows < 250)
    assert len(ours) == 250 + (rows >= 250).sum()
    assert_array_equal(merge.ids[rows < 250], before[rows[rows < 250]])
    assert_array_equal(merge.changed, (merge.ids != other).any(axis=1))
    # Whoever could keep an ID did: who could not met one that is taken.
    taken = set(map(tuple, before.tolist()))
    lost = merge.changed & ~merge.known
    assert lost.any()
    assert all(tuple(row) in taken for row in other[lost].tolist())
    found = ours.lookup(*items.part(rows), keys=keys[rows] if keyed else None)
    assert_array_equal(found, merge.ids)
    assert_array_equal(ours.merge(theirs).ids, merge.ids)


def test_merging_into_nothing_copies():
    catalogue = catalogue_of(["a", "b", "c"])
    empty = Catalogue([2, 4])
    merge = empty.merge(catalogue)
    assert not merge.known.any()
    assert not merge.changed.any()
    assert_array_equal(empty.ids, catalogue.ids)
    assert_array_equal(empty.keys, catalogue.keys)
    assert catalogue.merge(Catalogue([2, 4])).ids.shape == (0, 3)
    assert catalogue.keys.tolist() == ["a", "b", "c"]
    assert_array_equal(catalogue.lookup([[0, 0]], keys=["b"]), catalogue.ids[[1]])


@pytest.mark.parametrize(
    "other, message",
    [
        (Catalogue([2, 5]), r"other has codebook_sizes=\(2, 5\), which should be"),
        (Catalogue([2, 4], fingerprint="b"), "other has fingerprint='b', which should"),
        (Catalogue([2, 4], origin=1.0), "other has another origin"),
        (catalogue_of(["a", "b", "c"]), "have none. Call set_keys first"),
    ],
)
def test_catalogues_that_do_not_fit_are_not_merged(other, message):
    catalogue = catalogue_of(None)
    with pytest.raises(ValueError, match=message):
        catalogue.merge(other)
    assert len(catalogue) == 3


# Copies, pickles, files


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_goes_its_own_way(copied):
    catalogue = catalogue_of(["a", "b", "c"])
    twin = copied(catalogue)
    catalogue.extend([[1, 1]], keys=["d"])
    twin.extend([[1, 2]], keys=["e"])
    assert_array_equal(catalogue.lookup([[0, 0]], keys=["d"]), [[1, 1, 0]])
    assert_array_equal(twin.lookup([[0, 0]], keys=["e"]), [[1, 2, 0]])
    assert (len(catalogue), len(twin)) == (4, 4)


def test_interrupted_at_any_line_an_extend_is_whole_or_nothing():
    def stop_at(n):
        def trace(frame, event, arg):
            nonlocal n
            n -= "sk_rqkplus" in frame.f_code.co_filename
            if n == 0:
                raise KeyboardInterrupt
            return trace

        return trace

    items, codes = Items(30), np.zeros((2, 3), int)
    outcomes = set()
    for n in range(1, 2000, 3):
        catalogue = items.catalogue()
        ids = catalogue.extend(*items.part(np.arange(20)), keys=np.arange(20))
        sys.settrace(stop_at(n))
        try:
            catalogue.extend(*items.everything(), keys=np.arange(30))
            done = True
        except KeyboardInterrupt:
            done = False
        finally:
            sys.settrace(None)
        outcomes.add(len(catalogue))
        assert_array_equal(catalogue.ids[:20], ids)
        assert_array_equal(catalogue.lookup(codes, keys=[3, 19]), ids[[3, 19]])
        if done:
            break
    assert done
    assert outcomes == {20, 30}


ALL_KEYS = {"none": lambda n: None, **KINDS}
ALL_KEYS.pop("others")


@pytest.mark.parametrize("keys", ALL_KEYS)
@pytest.mark.parametrize("sizes", [(4, 4, 8), (256,) * 8])
@pytest.mark.parametrize("n", [0, 1, 200])
def test_a_catalogue_comes_back_as_it_was_saved(tmp_path, keys, sizes, n):
    items = Items(max(n, 1), sizes=sizes)
    catalogue = Catalogue(
        sizes, "reassign", 1e-3, origin=np.arange(5.0), fingerprint="f" * 64
    )
    ids = catalogue.extend(*items.part(np.arange(n)), keys=ALL_KEYS[keys](n))
    catalogue.save(tmp_path / "catalogue")
    loaded = Catalogue.load(str(tmp_path / "catalogue"))

    assert len(loaded) == n
    assert_array_equal(loaded.ids, ids)
    for name in ("codebook_sizes", "method", "tolerance", "fingerprint"):
        assert getattr(loaded, name) == getattr(catalogue, name)
    assert_array_equal(loaded.origin, catalogue.origin)
    assert_same_state(loaded, state(catalogue))
    if keys != "none" and n:
        assert loaded.keys.tolist() == catalogue.keys.tolist()
    found = loaded.extend(*items.part(np.arange(n)), keys=ALL_KEYS[keys](n))
    assert_array_equal(found, ids)


def test_saving_twice_writes_the_same_bytes(tmp_path):
    catalogue = catalogue_of(["a", "b", "c"])
    contents = []
    for name in ("one", "two", "two"):
        catalogue.save(tmp_path / name)
        files = sorted((tmp_path / name).iterdir())
        contents.append([(file.name, file.read_bytes()) for file in files])
    assert contents[0] == contents[1] == contents[2]


def test_keys_that_cannot_be_saved_are_named(tmp_path):
    catalogue = catalogue_of([UUID(int=i) for i in range(3)])
    with pytest.raises(ValueError, match="keys are of type UUID, which should be"):
        catalogue.save(tmp_path / "catalogue")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays.pop("slots"),
        lambda arrays: arrays.update(rows=np.zeros(3, np.uint32)),
        lambda arrays: arrays.update(codes=arrays["codes"][::-1] - np.arange(3)),
        lambda arrays: arrays.update(slots=arrays["slots"][:2]),
        lambda arrays: arrays.update(sketches=arrays["sketches"].astype(np.float64)),
        lambda arrays: arrays.update(slots=-1 - arrays["slots"]),
        lambda arrays: arrays.update(keys=np.arange(2)),
        lambda arrays: arrays.update(keys=np.arange(6.0).reshape(3, 2)),
    ],
)
def test_arrays_of_no_catalogue_are_refused(tmp_path, monkeypatch, change):
    def write(path, arrays, values, **kwargs):
        change(arrays)
        write_store(path, arrays, values, **kwargs)

    write_store = _catalogue.write_store
    monkeypatch.setattr(_catalogue, "write_store", write)
    catalogue_of(None).save(tmp_path / "catalogue")
    with pytest.raises(ValueError, match="should hold the arrays of a catalogue"):
        Catalogue.load(tmp_path / "catalogue")


KILL = """
import os, signal, sys, time, numpy as np
from sk_rqkplus.ids import Catalogue
path, rng = sys.argv[1], np.random.RandomState(0)
def catalogue(n):
    new = Catalogue([256] * 3)
    new.extend(rng.randint(256, size=(n, 3)), rng.randn(n, 3), keys=np.arange(n))
    return new
kinds = {n: catalogue(n) for n in (20_000, 30_000)}
kinds[20_000].save(path)
found = []
for trial in range(12):
    child = os.fork()
    if child == 0:
        while True:
            for kind in kinds.values():
                kind.save(path)
    time.sleep(rng.uniform(0.01, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    loaded = Catalogue.load(path)
    found.append(len(loaded))
    assert (loaded.ids == kinds[len(loaded)].ids).all()
kinds[30_000].save(path)
print(len(Catalogue.load(path)), len(os.listdir(path)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_a_save_that_is_killed_leaves_the_old_or_the_new(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", KILL, str(tmp_path / "catalogue")],
        env=PACKAGE_ENV,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["30000", "2"]


# Estimators


def test_growing_ten_times_in_any_order_and_reloaded_changes_no_id(
    industrial, tmp_path
):
    X, keys = industrial, np.array([f"item-{i}" for i in range(len(industrial))])
    order = np.random.RandomState(0).permutation(len(X))
    parts = np.array_split(order, 10)
    rq = RQKMeans((64, 64, 64), random_state=0, max_iter=5).fit(X[parts[0]])
    rq.catalogue_.set_keys(keys[parts[0]])
    given = {"key": {}, "content": {}}
    for step, part in enumerate(parts):
        ids = rq.extend(X[part], keys=keys[part])
        done = order[: sum(map(len, parts[: step + 1]))]
        for row, key in zip(ids.tolist(), keys[part], strict=True):
            given["key"][key] = tuple(row)
        path = tmp_path / "catalogue"
        rq.catalogue_.save(path)
        rq = pickle.loads(pickle.dumps(rq))
        rq.catalogue_ = Catalogue.load(path)
        shuffled = np.random.RandomState(step).permutation(done)
        again = rq.extend(X[shuffled], keys=keys[shuffled])
        assert [given["key"][key] for key in keys[shuffled]] == list(
            map(tuple, again.tolist())
        )
        assert len(rq.catalogue_) == len(done) == len(set(given["key"].values()))
    assert len(done) == len(X)


def test_growing_without_keys_changes_no_id_either(industrial, tmp_path):
    # Without copies: one that comes in a later call is the item that is known.
    X = industrial[np.unique(duplicate_groups(industrial))][:1500]
    order = np.random.RandomState(1).permutation(len(X))
    parts = np.array_split(order, 10)
    rq = RQKMeans((32, 32, 32), random_state=0, max_iter=5).fit(X[parts[0]])
    ids = np.empty((len(X), 4), dtype=np.int32)
    for step, part in enumerate(parts):
        ids[part] = rq.extend(X[part])
        rq.catalogue_.save(tmp_path / "catalogue")
        rq.catalogue_ = Catalogue.load(tmp_path / "catalogue")
        done = np.random.RandomState(step).permutation(
            np.concatenate(parts[: step + 1])
        )
        assert_array_equal(rq.extend(X[done]), ids[done])
    assert len(rq.catalogue_) == len(X)
    assert n_copies(ids) == 0


@pytest.mark.parametrize("store_catalogue", [True, False])
def test_predict_with_keys_does_not_depend_on_the_order_of_rows(X, store_catalogue):
    rq = RQKMeans((8, 8), random_state=0, store_catalogue=store_catalogue).fit(X[:300])
    keys = np.arange(600)
    if store_catalogue:
        rq.catalogue_.set_keys(keys[:300])
        assert_array_equal(rq.predict(X[:300], keys=keys[:300]), rq.ids_)
    ids = rq.predict(X, keys=keys)
    order = np.random.RandomState(0).permutation(600)
    assert_array_equal(rq.predict(X[order], keys=keys[order]), ids[order])


def test_keys_go_through_a_pipeline(X):
    model = make_pipeline(PCA(8), RQKMeans((8, 8), random_state=0)).fit(X)
    keys = np.array([f"item-{i}" for i in range(len(X))])
    model[-1].catalogue_.set_keys(keys)
    order = np.random.RandomState(0).permutation(len(X))
    found = model.predict(X[order], keys=keys[order])
    assert_array_equal(found, model[-1].ids_[order])
    assert_array_equal(model.predict(X), model[-1].ids_)


def test_keys_that_the_catalogue_lacks_are_refused(X, fitted):
    with pytest.raises(ValueError, match="the 600 items of the catalogue have none"):
        fitted.predict(X, keys=range(600))


def test_the_fingerprint_is_that_of_the_model(X, fitted):
    same = RQKMeans((16, 16, 16), random_state=0).fit(X)
    other = RQKMeans((16, 16, 16), random_state=1).fit(X)
    assert fitted.fingerprint_ == same.fingerprint_ == fitted.catalogue_.fingerprint
    assert fitted.fingerprint_ == pickle.loads(pickle.dumps(fitted)).fingerprint_
    assert fitted.fingerprint_ != other.fingerprint_
    assert len(fitted.fingerprint_) == 64

    same.catalogue_ = fitted.catalogue_
    assert_array_equal(same.predict(X), fitted.ids_)
    with pytest.raises(ValueError, match="catalogue_ has fingerprint=.* another model"):
        other.catalogue_ = fitted.catalogue_
    assert_array_equal(other.predict(X), other.ids_)
    with pytest.raises(TypeError, match="catalogue_=3 should be a Catalogue"):
        other.catalogue_ = 3
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        RQKMeans().catalogue_ = fitted.catalogue_


def test_the_fingerprint_knows_the_encoder(X, fitted):
    plus = RQKMeansPlus(codebooks=fitted, max_epochs=0, codebook_sizes=(16, 16, 16))
    plus.fit(X)
    assert_array_equal(plus.codes_, fitted.codes_)
    assert plus.fingerprint_ != fitted.fingerprint_
    assert plus.catalogue_.fingerprint == plus.fingerprint_
    before = plus._fingerprint()
    plus.state_[min(plus.state_)] = plus.state_[min(plus.state_)] + 1
    assert plus._fingerprint() != before == plus.fingerprint_


def test_a_saved_catalogue_is_refused_by_another_model(X, fitted, tmp_path):
    fitted.catalogue_.save(tmp_path / "catalogue")
    other = RQKMeans((16, 16, 16), random_state=1, store_catalogue=False).fit(X)
    with pytest.raises(ValueError, match="it belongs to another model"):
        other.catalogue_ = Catalogue.load(tmp_path / "catalogue")
    assert not hasattr(other, "catalogue_")


def test_a_model_without_a_catalogue_may_take_its_own(X, fitted, tmp_path):
    fitted.catalogue_.save(tmp_path / "catalogue")
    bare = RQKMeans((16, 16, 16), random_state=0, store_catalogue=False).fit(X)
    bare.catalogue_ = Catalogue.load(tmp_path / "catalogue")
    assert_array_equal(bare.predict(X[::-1]), fitted.ids_[::-1])


def test_a_catalogue_is_pickled_without_its_lock():
    catalogue = Catalogue([2, 2])
    catalogue.extend(np.array([[0, 1]]), keys=["a"])
    for copied in (pickle.loads(pickle.dumps(catalogue)), copy.deepcopy(catalogue)):
        assert copied.lookup(np.array([[0, 1]]), keys=["a"]).tolist() == [[0, 1, 0]]
        assert copied.extend(np.array([[0, 1]]), keys=["b"]).tolist() == [[0, 1, 1]]
    assert len(catalogue) == 1


@pytest.mark.parametrize("sizes", [[2.5, 2], "22", 3, [[2, 2]], [2, 0], [], ["a"]])
def test_sizes_of_a_catalogue_are_checked(sizes):
    with pytest.raises(ValueError, match="codebook_sizes"):
        Catalogue(sizes)
