"""Checks on the catalogue that remembers IDs."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from sk_rqkplus.ids import Catalogue, deduplicate, sketch

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


def test_a_row_of_another_code_is_another_row():
    catalogue, sketches = known_pair()
    ids = catalogue.lookup(np.array([[0, 1], [1, 0]]), sketches)
    assert_array_equal(ids, [[0, 1, 0], [1, 0, 0]])


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
    return [np.array(a) for a in catalogue._entries if a is not None]


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
    assert len(np.unique(catalogue._flatten(items.codes))) == 1

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
