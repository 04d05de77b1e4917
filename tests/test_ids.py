"""Checks on unique IDs, unavoidable collisions and churn."""

from itertools import permutations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from sk_rqkplus.ids import deduplicate

METHODS = ["suffix", "reassign"]


def n_copies(ids):
    return len(ids) - len(np.unique(ids, axis=0))


def from_table(table):
    """Return the callable that deduplicate asks for, out of an (n, K) array."""
    return lambda rows: np.asarray(table, dtype=float)[rows]


def reassign(codes, table, taken=None):
    table = np.asarray(table, dtype=float)
    return deduplicate(
        codes,
        "reassign",
        codebook_size=table.shape[1],
        distances=from_table(table),
        taken=None if taken is None else np.array(taken),
    )


# deduplicate(method="suffix")


@pytest.mark.parametrize(
    "codes, suffix",
    [
        ([[3, 1], [3, 2], [3, 1]], [0, 0, 1]),
        ([[0, 0], [0, 0], [0, 0]], [0, 1, 2]),
        ([[1, 2], [2, 1], [1, 2], [2, 1], [1, 1]], [0, 0, 1, 1, 0]),
        ([[5], [4], [5]], [0, 0, 1]),
        (np.empty((0, 2), dtype=int), []),
    ],
)
def test_suffix_counts_the_items_of_a_code(codes, suffix):
    ids = deduplicate(codes)

    assert ids.dtype == np.int32
    assert_array_equal(ids[:, :-1], codes)
    assert_array_equal(ids[:, -1], suffix)


def test_suffix_counts_on_from_the_largest_that_is_taken():
    taken = np.array([[0, 1, 0], [0, 1, 4], [2, 2, 0]])
    ids = deduplicate([[0, 1], [0, 2], [0, 1]], taken=taken)
    assert_array_equal(ids, [[0, 1, 5], [0, 2, 0], [0, 1, 6]])


@pytest.mark.parametrize("seed", range(10))
def test_suffix_equals_counting_one_by_one(seed):
    codes = np.random.RandomState(seed).randint(3, size=(40, 2))
    seen = {}
    for row, suffix in zip(codes.tolist(), deduplicate(codes)[:, -1], strict=True):
        assert suffix == seen.setdefault(tuple(row), 0)
        seen[tuple(row)] += 1


# deduplicate(method="reassign")


def test_reassign_moves_the_cheaper_item():
    # Both want codeword 0. Moving the first costs 9 more, moving the second only 2.
    ids = reassign([[7, 0], [7, 0]], [[1, 10, 20], [1, 3, 20]])
    assert_array_equal(ids, [[7, 0, 0], [7, 1, 0]])


def test_reassign_may_move_an_item_that_had_its_code_alone():
    # Items 0 and 1 share codeword 0; making room at codeword 1 is the cheapest way.
    table = [[0, 9, 9], [0, 1, 9], [9, 0, 0.5]]
    ids = reassign([[7, 0], [7, 0], [7, 1]], table)
    assert_array_equal(ids, [[7, 0, 0], [7, 1, 0], [7, 2, 0]])


def test_reassign_leaves_prefixes_without_collision_alone():
    # Every distance asks for codeword 2, but only prefix 1 has a collision.
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 0]])
    ids = reassign(codes, np.tile([5.0, 5.0, 0.0], (4, 1)))

    assert_array_equal(ids[:2], [[0, 0, 0], [0, 1, 0]])
    assert 2 in ids[2:, 1]


def test_reassign_asks_for_the_distances_of_colliding_prefixes_only():
    asked = []

    def distances(rows):
        asked.extend(rows)
        return np.zeros((len(rows), 4))

    codes = [[0, 0], [1, 3], [0, 2], [1, 3], [2, 1]]
    deduplicate(codes, "reassign", codebook_size=4, distances=distances)
    assert sorted(asked) == [1, 3]


def test_reassign_past_capacity_falls_back_to_the_suffix():
    ids = reassign([[0, 1]] * 5, [[0, 1]] * 5)

    assert_array_equal(np.sort(ids[:2, 1]), [0, 1])
    assert_array_equal(ids[:2, 2], [0, 0])
    assert_array_equal(ids[2:], [[0, 1, 1], [0, 1, 2], [0, 1, 3]])


def test_the_first_items_are_placed_even_where_a_later_one_is_nearer():
    ids = reassign([[0, 1]] * 3, [[9, 8], [9, 9], [0, 0]])
    assert_array_equal(ids, [[0, 1, 0], [0, 0, 0], [0, 1, 1]])


def test_reassign_stays_off_codewords_that_are_taken():
    # Codeword 0 is the nearest and 1 the next, both are taken by others.
    ids = reassign([[3, 0]], [[0, 1, 2, 3]], taken=[[3, 0, 0], [3, 1, 0], [4, 2, 0]])
    assert_array_equal(ids, [[3, 2, 0]])


def test_reassign_under_a_full_prefix_counts_on():
    ids = reassign([[3, 0], [3, 0]], [[0, 1]] * 2, taken=[[3, 0, 0], [3, 1, 0]])
    assert_array_equal(ids, [[3, 0, 1], [3, 0, 2]])


def test_a_collision_among_taken_ids_is_not_ours():
    ids = reassign([[3, 1]], [[0, 9, 0]], taken=[[3, 2, 0], [3, 2, 1]])
    assert_array_equal(ids, [[3, 1, 0]])


def least_total(table, free):
    """Try every way to place all rows on distinct free codewords."""
    rows = np.arange(len(table))
    return min(table[rows, list(way)].sum() for way in permutations(free, len(table)))


@pytest.mark.parametrize("seed", range(20))
def test_reassign_costs_as_little_as_the_best_of_all_assignments(seed):
    rng = np.random.RandomState(seed)
    table = rng.rand(4, 6)
    ids = reassign([[0, 0], [0, 3], [0, 3], [0, 5]], table)

    assert n_copies(ids[:, :-1]) == 0
    total = table[np.arange(4), ids[:, 1]].sum()
    assert total == pytest.approx(least_total(table, range(6)))


@pytest.mark.parametrize("seed", range(20))
def test_reassign_beside_taken_ids_is_the_best_on_what_is_free(seed):
    table = np.random.RandomState(seed).rand(3, 5)
    ids = reassign([[0, 0], [0, 1], [0, 1]], table, taken=[[0, 1, 0], [0, 4, 2]])

    total = table[np.arange(3), ids[:, 1]].sum()
    assert total == pytest.approx(least_total(table, [0, 2, 3]))


# Both methods


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_levels", [1, 2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_ids_differ_from_each_other_and_from_taken_ones(method, n_levels, seed):
    rng = np.random.RandomState(seed)
    table = rng.rand(60, 4)

    def draw(n, taken):
        codes = rng.randint(4, size=(n, n_levels))
        return deduplicate(
            codes, method, codebook_size=4, distances=from_table(table), taken=taken
        )

    first = draw(30, None)
    assert n_copies(first) == 0
    assert n_copies(np.concatenate([first, draw(60, first)])) == 0


@pytest.mark.parametrize("seed", range(5))
def test_reassign_keeps_prefixes_and_fills_codewords_before_it_counts(seed):
    rng = np.random.RandomState(seed)
    codes = rng.randint([3, 4], size=(24, 2))
    ids = reassign(codes, rng.rand(24, 4))

    assert_array_equal(ids[:, 0], codes[:, 0])
    for prefix in range(3):
        inside = ids[ids[:, 0] == prefix]
        assert len(np.unique(inside[:, 1])) == min(4, len(inside))


@pytest.mark.parametrize(
    "codes, params, message",
    [
        (
            [[0, 1]],
            {"method": "hash"},
            "method='hash' should be 'suffix' or 'reassign'",
        ),
        ([[0, 1]], {"method": "reassign"}, "with codebook_size and distances"),
        (
            [[0, 1]],
            {"method": "reassign", "codebook_size": 2},
            "with codebook_size and distances",
        ),
        ([[0.0, 1.0]], {}, "codes have dtype=float64, which should be an integer type"),
        ([[0, 2**31]], {}, "codes have the value 2147483648, which should fit into 32"),
        ([0, 1], {}, "Expected 2D array, got 1D array"),
    ],
)
def test_bad_arguments_of_deduplicate_are_named(codes, params, message):
    with pytest.raises(ValueError, match=message):
        deduplicate(codes, **params)
