"""Checks on unique IDs, unavoidable collisions and churn."""

import json
import subprocess
import sys
from itertools import permutations
from uuid import UUID

import numpy as np
import pandas as pd
import polars as pl
import pytest
from conftest import PACKAGE_ENV
from numpy.testing import assert_array_equal
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.optimize import linear_sum_assignment

from sk_rqkplus import _duplicates
from sk_rqkplus._deduplicate import assign_small
from sk_rqkplus._groups import (
    number_prefixes,
    number_rows,
    pack_rows,
    rank_within,
    stable_sort,
)
from sk_rqkplus._keys import KeyIndex, as_keys, key_order, pack_keys, unpack_keys
from sk_rqkplus.ids import (
    Catalogue,
    collision_floor,
    compare_ids,
    deduplicate,
    duplicate_groups,
)

METHODS = ["suffix", "reassign"]


def n_copies(ids):
    return len(ids) - len(np.unique(ids, axis=0))


def from_table(table):
    """Return the callable that deduplicate asks for, out of an (n, K) array."""
    return lambda rows: np.asarray(table, dtype=float)[rows]


def reassign(codes, table, taken=None, **params):
    table = np.asarray(table, dtype=float)
    return deduplicate(
        codes,
        "reassign",
        codebook_size=table.shape[1],
        distances=from_table(table),
        taken=None if taken is None else np.array(taken),
        **params,
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


@pytest.mark.parametrize("kind", ["integer", "real", "few values"])
@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_small_assignments_cost_what_the_library_finds(m, kind):
    rng = np.random.RandomState(m)
    shape = (300, m, 9)
    tables = {
        "integer": rng.randint(50, size=shape).astype(float),
        "real": rng.rand(*shape),
        "few values": rng.randint(2, size=shape).astype(float),
    }[kind]
    tables[:, :, 4] = np.inf
    columns = assign_small(tables)

    assert all(len(set(row)) == m for row in columns.tolist())
    for table, column in zip(tables, columns, strict=True):
        best = table[linear_sum_assignment(table)].sum()
        assert table[np.arange(m), column].sum() == pytest.approx(best, rel=1e-12)


def test_small_assignments_use_the_last_free_columns():
    tables = np.full((1, 3, 7), np.inf)
    tables[0][:, [1, 4, 6]] = [[0, 5, 5], [0, 1, 9], [0, 1, 9]]
    assert tables[0][np.arange(3), assign_small(tables)[0]].sum() == 6


@pytest.mark.parametrize("batch_values", [1, 64, 2**22])
def test_reassign_does_not_depend_on_batches(monkeypatch, batch_values):
    rng = np.random.RandomState(0)
    codes, table = rng.randint([9, 8], size=(70, 2)), rng.rand(70, 8)
    taken = np.array([[0, 1, 0], [0, 1, 1], [3, 7, 0], [8, 0, 2]])
    expected = reassign(codes, table, taken)
    monkeypatch.setattr("sk_rqkplus._deduplicate.BATCH_VALUES", batch_values)
    assert_array_equal(reassign(codes, table, taken), expected)


@pytest.mark.parametrize(
    "answer", [np.zeros((2, 3)), np.full((2, 4), np.nan), np.full((2, 4), np.inf)]
)
def test_distances_of_the_wrong_kind_are_refused(answer):
    with pytest.raises(ValueError, match=r"distances of 2 rows .* should be \(2, 4\)"):
        deduplicate(
            [[0, 1], [0, 1]], "reassign", codebook_size=4, distances=lambda _: answer
        )


# Who comes first


def test_popular_items_come_first():
    ids = deduplicate([[1], [1], [2], [1]], priority=[5, 9, 0, 9])
    assert_array_equal(ids, [[1, 2], [1, 0], [2, 0], [1, 1]])


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_priorities_of_any_type_sort_downwards(dtype):
    priority = np.random.RandomState(0).randint(256, size=50).astype(dtype)
    suffix = deduplicate(np.zeros((50, 1), int), priority=priority)[:, -1]
    order = sorted(range(50), key=lambda row: (-int(priority[row]), row))
    assert_array_equal(np.argsort(suffix), order)


def test_priority_decides_who_is_placed():
    ids = reassign([[0, 1]] * 3, [[9, 8], [9, 9], [0, 0]], priority=[0, 1, 2])
    assert_array_equal(ids[[0]], [[0, 1, 1]])
    assert sorted(ids[1:, 1]) == [0, 1]


KEYS = {
    "integers": 2**40 + np.arange(300) * 7,
    "negative": -np.arange(300),
    "strings": [f"item-{i}" for i in range(300)],
    "unicode": [chr(0x4E00 + i) for i in range(300)],
    "bytes": [bytes([i % 256, i // 256]) for i in range(300)],
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("seed", range(3))
def test_with_keys_the_order_of_rows_does_not_matter(method, kind, seed):
    rng = np.random.RandomState(seed)
    codes, table = rng.randint([6, 8], size=(300, 2)), rng.rand(300, 8)
    keys = as_keys(KEYS[kind])
    taken = np.array([[0, 1, 0], [1, 1, 3]])

    def ids_of(order):
        return deduplicate(
            codes[order],
            method,
            codebook_size=8,
            distances=from_table(table[order]),
            taken=taken,
            keys=keys[order],
        )

    ids = ids_of(np.arange(300))
    order = rng.permutation(300)
    assert_array_equal(ids_of(order), ids[order])
    assert n_copies(np.concatenate([ids, taken])) == 0


def test_the_order_of_integers_is_that_of_splitmix64():
    # First outputs of the generator with seeds 0 to 3, by its reference code.
    outputs = [
        0xE220A8397B1DCDAF,
        0x910A2DEC89025CC1,
        0x975835DE1C9756CE,
        0x1D0B14E4DB018FED,
    ]
    assert_array_equal(key_order(np.arange(4)), np.argsort(outputs))


def test_the_order_of_strings_is_the_same_in_every_process():
    keys = [f"item-{i}" for i in range(40)]
    script = (
        "from sk_rqkplus._keys import as_keys, key_order;"
        "print(key_order(as_keys([f'item-{i}' for i in range(40)])).tolist())"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script],
        env={**PACKAGE_ENV, "PYTHONHASHSEED": "7"},
        check=True,
        capture_output=True,
    ).stdout
    assert json.loads(printed) == key_order(as_keys(keys)).tolist()


def test_strings_of_one_hash_come_in_their_own_order(monkeypatch):
    monkeypatch.setattr(
        "sk_rqkplus._keys._blake2b", lambda keys: np.zeros(len(keys), np.uint64)
    )
    keys = as_keys(["c", "a", "b"])
    assert_array_equal(key_order(keys), [1, 2, 0])
    with pytest.raises(ValueError, match="keys have the value 'c' more than once"):
        key_order(as_keys(["c", "a", "c"]))


@pytest.mark.parametrize(
    "params, message",
    [
        ({"keys": [1, 2], "priority": [1, 2]}, "keys and priority are two orders"),
        ({"keys": [1, 2, 3]}, "n_keys=3 should equal n_rows=2"),
        ({"keys": [7, 7]}, "keys have the value 7 more than once"),
        ({"keys": ["a", "a"]}, "keys have the value 'a' more than once"),
        ({"keys": [(1, 2), (3, 4)]}, "keys are of type tuple, which should be int"),
        ({"priority": [1]}, r"priority has shape=\(1,\) and dtype=int64"),
        ({"priority": ["a", "b"]}, "priority has shape=.* and a number"),
        ({"priority": [0, np.nan]}, r"priority\[1\]=nan should be a number"),
    ],
)
def test_bad_orders_are_named(params, message):
    with pytest.raises(ValueError, match=message):
        deduplicate([[0, 1], [0, 1]], **params)


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
        ([[0, 1]], {"taken": [[0, 1]]}, "taken have 2 columns, which should be 3"),
        (
            [[0, 1], [0, 1]],
            {
                "method": "reassign",
                "codebook_size": 2,
                "distances": lambda rows: np.zeros((len(rows), 2)),
                "taken": [[0, 5, 0]],
            },
            "taken have the last codeword 5, which should be below codebook_size=2",
        ),
    ],
)
def test_bad_arguments_of_deduplicate_are_named(codes, params, message):
    with pytest.raises(ValueError, match=message):
        deduplicate(codes, **params)


# Groups of equal rows


@pytest.mark.parametrize("high", [3, 1000, 2**31 - 1])
@pytest.mark.parametrize("n_columns", [0, 1, 3, 5])
def test_packed_rows_sort_as_rows_do(n_columns, high):
    rows = np.random.RandomState(0).randint(-high, high, size=(60, n_columns))
    rows = np.concatenate([rows, rows[::3]])
    packed = pack_rows(rows.astype(np.int32))

    assert 0 <= packed.min()
    assert packed.max() < 2**62
    keys = list(map(tuple, rows.tolist()))
    order = sorted(range(len(rows)), key=lambda row: (keys[row], row))
    assert_array_equal(np.argsort(packed, kind="stable"), order)
    distinct = sorted(set(keys))
    numbers = number_rows(rows)
    assert_array_equal(numbers, [distinct.index(key) for key in keys])
    assert_array_equal(number_prefixes(rows, numbers), number_rows(rows[:, :-1]))


@pytest.mark.parametrize("high", [1, 5, 2**40, 2**62])
def test_the_order_is_stable(high):
    values = np.random.RandomState(0).randint(high, size=200)
    values[::2] = values[1::2]
    ordered, order = stable_sort(values)
    assert_array_equal(order, np.argsort(values, kind="stable"))
    assert_array_equal(ordered, np.sort(values))
    seen = [(values[:row] == values[row]).sum() for row in range(200)]
    assert_array_equal(rank_within(values), seen)


# Keys


@pytest.mark.parametrize(
    "keys, expected",
    [
        ([3, 1], np.int64([3, 1])),
        (np.uint8([3, 1]), np.int64([3, 1])),
        ([np.int32(3), 1], np.int64([3, 1])),
        (pd.Series([3, 1]), np.int64([3, 1])),
        (pl.Series([3, 1]), np.int64([3, 1])),
        (range(2), np.int64([0, 1])),
        ([], np.empty(0, np.int64)),
        (["b", "a"], ["b", "a"]),
        (np.array(["b", "a"]), ["b", "a"]),
        (pd.Series(["b", "a"]), ["b", "a"]),
        (pl.Series(["b", "a"]), ["b", "a"]),
        (pd.Index(["b", "a"]), ["b", "a"]),
        ([np.str_("b"), "a"], ["b", "a"]),
        (iter(["b", "a"]), ["b", "a"]),
        ([b"b", b"a"], [b"b", b"a"]),
    ],
)
def test_keys_are_integers_or_objects(keys, expected):
    found = as_keys(keys)
    assert_array_equal(found, expected)
    assert found.dtype == getattr(expected, "dtype", object)
    assert {type(key) for key in found.tolist()} <= {int, str, bytes}


@pytest.mark.parametrize(
    "keys, error, message",
    [
        ("ab", ValueError, "keys='ab' should be one key per row"),
        ([1.0, 2.0], ValueError, "values of type float, which should be integers"),
        (np.float32([1, 2]), ValueError, "values of type float, which should be"),
        ([None, None], ValueError, "values of type NoneType"),
        (["a", None], ValueError, "values of type NoneType, str"),
        (["a", 1], ValueError, "values of type int, str"),
        ([True, False], ValueError, "values of type bool"),
        ([True, 2], ValueError, "values of type bool, int"),
        (pd.Series(["a", None]), ValueError, "which should be integers"),
        (pd.Series([1, None], dtype="Int64"), ValueError, "which should be integers"),
        ([[1], [2]], TypeError, "values of type list, which should be hashable"),
        (np.ones((2, 2), int), ValueError, r"keys have shape=\(2, 2\)"),
        ([2**63, 1], ValueError, "values beyond 64 bits, which should be between"),
        ([-(2**70), 1], ValueError, "values beyond 64 bits"),
        (np.array([2**63, 1], np.uint64), ValueError, "values beyond 64 bits"),
    ],
)
def test_bad_keys_are_named(keys, error, message):
    with pytest.raises(error, match=message):
        as_keys(keys)


@pytest.mark.parametrize(
    "keys",
    [
        np.random.RandomState(0).permutation(50) - 20,
        [f"item-{i}" for i in range(50)],
        [UUID(int=i) for i in range(50)],
        [(i, str(i)) for i in range(50)],
    ],
)
def test_keys_are_found_where_they_stand_while_they_grow(keys):
    keys, index = as_keys(keys), KeyIndex()
    for size in (0, 10, 10, 50):
        expected = np.where(np.arange(50) < size, np.arange(50), -1)
        assert_array_equal(index.find(keys[:size], keys), expected)


def test_keys_of_another_type_are_refused():
    with pytest.raises(ValueError, match="are of type integer, which should be str"):
        KeyIndex().find(as_keys(["1", "2"]), as_keys([1, 2]))


@pytest.mark.parametrize(
    "keys", [[5, -1], ["a", "", "\x00", "é\n", "\ud800", "a\x00"], []]
)
def test_keys_are_packed_into_numbers_and_back(keys):
    keys = as_keys(keys)
    arrays = pack_keys(keys)
    assert all(array.dtype.kind in "iu" for array in arrays.values())
    back = unpack_keys(arrays)
    assert back.tolist() == keys.tolist()
    assert back.dtype == keys.dtype


def test_other_keys_cannot_be_packed():
    with pytest.raises(ValueError, match="keys are of type UUID, which should be int"):
        pack_keys(as_keys([UUID(int=1)]))


# collision_floor, duplicate_groups


def equal_to_first(X):
    """Brute-force twin of the groups of equal rows."""
    return [next(j for j, row in enumerate(X) if (row == x).all()) for x in X]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_features", [1, 2, 33])
def test_equal_rows_have_one_group(dtype, n_features):
    rng = np.random.RandomState(0)
    X = rng.randn(40, n_features).astype(dtype)[rng.randint(40, size=200)]
    X[3], X[77] = 0.0, -0.0
    assert_array_equal(duplicate_groups(X), equal_to_first(X))

    floor = collision_floor(X)
    assert floor.n_distinct == len(np.unique(X, axis=0))
    assert floor.n_unavoidable == 200 - floor.n_distinct
    assert floor.rate == floor.n_unavoidable / 200
    assert floor.largest_group == np.unique(X, axis=0, return_counts=True)[1].max()


def test_a_difference_in_the_last_bit_is_one():
    X = np.ones((3, 5), dtype=np.float32)
    X[1, 2] = np.nextafter(X[1, 2], 2, dtype=np.float32)
    assert_array_equal(duplicate_groups(X), [0, 1, 0])


def test_rows_of_one_hash_are_told_apart(monkeypatch):
    monkeypatch.setattr(np, "einsum", lambda *_: 7)
    X = np.random.RandomState(0).randint(3, size=(60, 2)).astype(float)
    assert_array_equal(duplicate_groups(X), equal_to_first(X))


@pytest.mark.parametrize("n_features", [1, 2, 5, 40])
@pytest.mark.parametrize("eps", [1e-9, 0.05, 0.3, 3.0])
def test_close_rows_are_linked_as_by_single_linkage(n_features, eps, monkeypatch):
    monkeypatch.setattr(_duplicates, "CHUNK_ROWS", 32)
    rng = np.random.RandomState(0)
    X = rng.randn(60, n_features)[rng.randint(60, size=150)]
    X += rng.choice([0, 1e-3, 0.2], size=(150, 1)) * rng.rand(150, n_features)
    cluster = fcluster(linkage(X), eps, criterion="distance")
    groups = duplicate_groups(X, eps)

    assert_array_equal(groups[groups], groups)
    assert (groups <= np.arange(150)).all()
    both = np.unique(np.column_stack([cluster, groups]), axis=0)
    assert len(both) == len(np.unique(cluster)) == len(np.unique(groups))
    assert collision_floor(X, eps).n_distinct == len(both)


def test_a_chain_of_close_rows_is_one_group():
    X = np.column_stack([np.arange(10) * 0.5, np.zeros(10)])
    assert_array_equal(duplicate_groups(X, 0.5), np.zeros(10))
    assert_array_equal(duplicate_groups(X, 0.49), np.arange(10))


def test_the_floor_of_the_catalogue(industrial):
    floor = collision_floor(industrial)
    assert floor.n_unavoidable == 11
    assert floor.n_distinct == len(np.unique(industrial, axis=0))
    assert collision_floor(industrial, 1e-3).n_unavoidable >= 11
    assert json.loads(json.dumps(floor.to_dict()))["n_rows"] == 3686
    assert str(floor) == (
        "11 of 3686 rows (0.30%) are copies of others: so many collisions are "
        "unavoidable."
    )


def test_files_do_as_well_as_arrays(tmp_path):
    X = np.random.RandomState(0).randn(500, 8).astype(np.float32)[np.arange(500) % 90]
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert_array_equal(duplicate_groups(mapped), duplicate_groups(X))
    assert_array_equal(duplicate_groups(mapped, 0.1), np.arange(500) % 90)


@pytest.mark.parametrize(
    "X, eps, message",
    [
        ([[0.0, np.nan]], 0, "X contains NaN"),
        ([[1.0]], -1, "eps=-1 should be a finite number >= 0"),
        ([[1.0]], np.nan, "eps=nan should be a finite number"),
        ([[1.0]], "a", "eps='a' should be a finite number"),
        ([1.0], 0, "Expected 2D array"),
        (np.empty((0, 2)), 0, r"0 sample\(s\)"),
    ],
)
def test_bad_arguments_of_the_floor_are_named(X, eps, message):
    with pytest.raises(ValueError, match=message):
        collision_floor(X, eps)


def test_too_many_close_pairs_are_refused(monkeypatch):
    monkeypatch.setattr(_duplicates, "MAX_PAIRS", 100)
    X = np.random.RandomState(0).rand(50, 2)
    with pytest.raises(ValueError, match="eps=2 leaves more than 100 pairs"):
        collision_floor(X, 2)
    assert collision_floor(np.zeros((50, 2)), 2).n_distinct == 1


# compare_ids

OLD = np.array([[0, 3, 0], [0, 4, 0], [1, 1, 0], [1, 1, 1]])
NEW = np.array([[0, 3, 0], [0, 5, 0], [2, 1, 0], [1, 1, 2]])


def test_changes_by_hand():
    changes = compare_ids(OLD, NEW)
    assert changes.to_dict() == {
        "n_common": 4,
        "n_added": 0,
        "n_removed": 0,
        "id_changed": 0.75,
        "prefix_changed": (0.25, 0.5),
    }


def test_items_are_matched_by_key():
    changes = compare_ids(
        OLD, NEW[::-1][:3], old_keys=["a", "b", "c", "d"], new_keys=["x", "c", "b"]
    )
    assert (changes.n_common, changes.n_added, changes.n_removed) == (2, 1, 2)
    assert changes.prefix_changed == (0.5, 1.0)
    assert changes.id_changed == 1.0


def keyed(ids, keys):
    catalogue = Catalogue([4, 8])
    catalogue.register(ids, keys=keys)
    return catalogue


def test_arrays_mappings_and_catalogues_compare_alike():
    keys = [["a", "b", "c", "d"], ["d", "b", "x", "a"]]
    old, new = OLD, NEW[[3, 1, 2, 0]]
    expected = compare_ids(old, new, old_keys=keys[0], new_keys=keys[1])
    olds = [dict(zip(keys[0], old.tolist(), strict=True)), keyed(old, keys[0])]
    news = [dict(zip(keys[1], map(tuple, new), strict=True)), keyed(new, keys[1])]
    for one in olds:
        for other in news:
            assert compare_ids(one, other) == expected
    assert expected.n_common == 3
    assert compare_ids(olds[1], new, new_keys=keys[1]) == expected


def test_catalogues_without_keys_are_compared_row_by_row():
    old, new = Catalogue([4, 8]), Catalogue([4, 8])
    for catalogue, ids in ((old, OLD), (new, NEW)):
        catalogue.register(ids, np.arange(12).reshape(4, 3))
    assert compare_ids(old, new) == compare_ids(OLD, NEW)


def test_nothing_in_common_is_no_change():
    changes = compare_ids({"a": (1, 0)}, {"b": (1, 0)})
    assert (changes.n_common, changes.n_added, changes.n_removed) == (0, 1, 1)
    assert changes.id_changed == 0
    assert compare_ids({}, {"b": (1, 0)}).n_added == 1


@pytest.mark.parametrize(
    "old, new, params, message",
    [
        (OLD, NEW[:3], {}, "n_old=4 should equal n_new=3"),
        (OLD, NEW[:, :2], {}, "old and new have 3 and 2 columns"),
        (OLD, NEW, {"old_keys": range(4)}, "known of both sides or of none"),
        (OLD, {"a": (1, 1, 0)}, {}, "known of both sides or of none"),
        ({1: (1, 1, 0)}, NEW, {"old_keys": [1]}, "old_keys should be None: old has"),
        (
            OLD,
            NEW,
            {"old_keys": [1, 2, 3, 3], "new_keys": range(4)},
            "old_keys have the value 3 more than once",
        ),
        (OLD, NEW, {"old_keys": [1], "new_keys": [1]}, "n_old_keys=1 should equal"),
        ({"a": (1, 0)}, {1: (1, 0)}, {}, "are of type str, which should be integer"),
        (OLD / 2, NEW, {}, "old have dtype=float64"),
    ],
)
def test_what_cannot_be_compared_is_named(old, new, params, message):
    with pytest.raises(ValueError, match=message):
        compare_ids(old, new, **params)
