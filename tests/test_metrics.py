"""Checks on the figures of quality, by hand and by brute force."""

import tracemalloc
from collections import Counter
from itertools import combinations
from math import exp, log

import numpy as np
import pytest
from conftest import shared_file
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import spearmanr
from sklearn.metrics import r2_score
from sklearn.metrics.pairwise import cosine_similarity

from sk_rqkplus import metrics
from sk_rqkplus._groups import pack_rows
from sk_rqkplus._neighbours import Points, code_neighbours, fill_rings
from sk_rqkplus._pairs import pairs_in_groups, unit_rows
from sk_rqkplus._prefixes import sort_by_prefix
from sk_rqkplus.ids import deduplicate

OF_CODES = [
    metrics.collision_rate,
    metrics.shared_code_rate,
    metrics.independent_coding_rate,
    metrics.largest_group,
    metrics.code_gini,
    metrics.entropy,
    metrics.perplexity,
]
OF_CODES_AND_SIZES = [
    metrics.codebook_utilisation,
    metrics.joint_utilisation,
    metrics.gini,
    metrics.load_cv,
    metrics.perplexity,
]


@pytest.mark.parametrize(
    "codes, rate, shared, largest",
    [
        ([[0, 1], [0, 1], [0, 2], [3, 1]], 0.25, 0.5, 2),
        ([[0, 1], [1, 0], [0, 0], [1, 1]], 0.0, 0.0, 1),
        ([[5], [5], [5], [5], [5]], 0.8, 1.0, 5),
        ([[1, 1], [2, 2], [1, 1], [2, 2], [1, 1], [3, 3]], 0.5, 5 / 6, 3),
        ([[7, 7, 7]], 0.0, 0.0, 1),
    ],
)
def test_collisions_by_hand(codes, rate, shared, largest):
    assert metrics.collision_rate(codes) == pytest.approx(rate)
    assert metrics.shared_code_rate(codes) == pytest.approx(shared)
    assert metrics.independent_coding_rate(codes) == pytest.approx(1 - shared)
    assert metrics.largest_group(codes) == largest


def test_perplexity_by_hand():
    # Shares 1/2, 1/4, 1/4 have an entropy of 1.5 bits; one codeword alone has none.
    codes = [[0, 9], [0, 9], [1, 9], [2, 9]]
    assert_allclose(metrics.entropy(codes), [1.5 * log(2), 0], atol=1e-15)
    assert_allclose(metrics.perplexity(codes), [2**1.5, 1])
    assert_allclose(metrics.perplexity(codes, [4, 10]), [2**-0.5, 0.1])


def test_utilisation_by_hand():
    codes = [[0, 1], [0, 1], [1, 2]]
    assert_allclose(metrics.codebook_utilisation(codes, [2, 8]), [1, 0.25])
    # Two of 2 prefixes of one level, two of 16 codes.
    assert metrics.joint_utilisation(codes, [2, 8], 1) == 1
    assert metrics.joint_utilisation(codes, [2, 8]) == pytest.approx(1 / 8)


def test_joint_utilisation_of_more_codes_than_an_integer_can_count():
    codes = np.arange(40).reshape(2, 20)
    value = metrics.joint_utilisation(codes, [2**20] * 20)
    assert value == pytest.approx(2.0**-399, abs=0)


def test_gini_by_hand():
    # Sorted counts 0, 1, 3: (-2 * 0 + 0 * 1 + 2 * 3) / (3 * 4).
    assert_allclose(metrics.gini([[0], [2], [2], [2]], [3]), [0.5])
    # Of the counts in use, 1 and 3: (-1 * 1 + 1 * 3) / (2 * 4).
    assert metrics.code_gini([[0], [2], [2], [2]]) == pytest.approx(0.25)
    assert_allclose(metrics.gini([[0], [0]], [4]), [1 - 1 / 4])
    assert metrics.code_gini([[0], [0]]) == 0


def test_load_cv_by_hand():
    # Counts 3, 1 deviate by 1 from their mean of 2. Counts 4, 0, 0, 0 have mean 1 and
    # variance (9 + 1 + 1 + 1) / 4 = 3.
    values = metrics.load_cv([[0, 0], [0, 0], [0, 0], [1, 0]], [2, 4])
    assert_allclose(values, [0.5, 3**0.5])


def test_reconstruction_error_by_hand():
    # Differences 1, 0, -2, 3 have squares 1, 0, 4, 9.
    error = metrics.reconstruction_mse([[1.0, 2], [3, 4]], [[0.0, 2], [5, 1]])
    assert error == pytest.approx(3.5)


def test_reconstruction_error_of_float32_is_computed_in_float64():
    # In float32 the square of 1e-30 is 0.
    X = np.full((2, 2), 1e-30, dtype=np.float32)
    error = metrics.reconstruction_mse(X, np.zeros_like(X))
    assert error == pytest.approx(1e-60, rel=1e-6, abs=0)


def test_r2_by_hand():
    # Squares of the errors sum to 2, those of the deviations from the mean to 8.
    assert metrics.reconstruction_r2([[0.0], [2], [4]], [[1.0], [2], [3]]) == 0.75
    assert metrics.reconstruction_r2([[0.0], [2], [4]], [[2.0], [2], [2]]) == 0


def test_r2_of_equal_rows_is_that_of_sklearn():
    X = np.full((3, 2), 0.5)
    assert metrics.reconstruction_r2(X, X) == 1 == r2_score(X, X)
    assert metrics.reconstruction_r2(X, X + 1) == 0 == r2_score(X, X + 1)
    # The mean of three 0.1 is not 0.1.
    assert metrics.reconstruction_r2(X / 5, X) == 0
    assert metrics.reconstruction_r2(X[:1], X[:1]) == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_errors_equal_those_of_sklearn_whatever_the_chunks(dtype, monkeypatch):
    rng = np.random.RandomState(0)
    X = (rng.randn(101, 7) * np.arange(1, 8) + 100).astype(dtype)
    other = (X + rng.randn(101, 7)).astype(dtype)
    expected = r2_score(X, other, multioutput="variance_weighted")
    for n_values in (1, 50, 10**6):
        monkeypatch.setattr(metrics, "CHUNK_VALUES", n_values)
        assert metrics.reconstruction_r2(X, other) == pytest.approx(expected, rel=1e-6)
        error = np.square(X.astype(float) - other).mean()
        assert metrics.reconstruction_mse(X, other) == pytest.approx(error)


def entropy(counts):
    total = sum(counts)
    return -sum(n / total * log(n / total) for n in counts if n)


def mean_difference_gini(counts):
    """The definition by the mean absolute difference."""
    differences = sum(abs(a - b) for a in counts for b in counts)
    return differences / (2 * len(counts) * sum(counts))


@pytest.fixture(params=range(6))
def random_codes(request):
    rng = np.random.RandomState(request.param)
    sizes = rng.randint(2, 9, size=3)
    return rng.randint(sizes, size=(rng.randint(1, 60), 3)), sizes


def test_collisions_equal_counting_in_a_dict(random_codes):
    groups = Counter(map(tuple, random_codes[0].tolist()))
    extra = sum(n - 1 for n in groups.values())

    shared = sum(n for n in groups.values() if n > 1)
    share = metrics.shared_code_rate(random_codes[0])
    alone = metrics.independent_coding_rate(random_codes[0])

    assert share == pytest.approx(shared / len(random_codes[0]))
    assert alone == pytest.approx(1 - share)
    assert metrics.largest_group(random_codes[0]) == max(groups.values())
    assert metrics.code_gini(random_codes[0]) == pytest.approx(
        mean_difference_gini(list(groups.values()))
    )
    rate = metrics.collision_rate(random_codes[0])
    assert rate == pytest.approx(extra / len(random_codes[0]))


def test_figures_per_level_equal_those_of_counts_in_a_dict(random_codes):
    codes, sizes = random_codes
    utilisation = metrics.codebook_utilisation(codes, sizes)
    for level, (column, size) in enumerate(zip(codes.T.tolist(), sizes, strict=True)):
        counts = [Counter(column)[k] for k in range(size)]
        mean = sum(counts) / size
        deviation = (sum((n - mean) ** 2 for n in counts) / size) ** 0.5

        assert utilisation[level] == pytest.approx(sum(n > 0 for n in counts) / size)
        assert metrics.load_cv(codes, sizes)[level] == pytest.approx(deviation / mean)
        assert metrics.entropy(codes)[level] == pytest.approx(entropy(counts))
        assert metrics.perplexity(codes)[level] == pytest.approx(exp(entropy(counts)))
        gini = metrics.gini(codes, sizes)[level]
        assert gini == pytest.approx(mean_difference_gini(counts))
        prefixes = {tuple(code[: level + 1]) for code in codes.tolist()}
        joint = metrics.joint_utilisation(codes, sizes, level + 1)
        assert joint == pytest.approx(len(prefixes) / np.prod(sizes[: level + 1]))


def test_unique_ids_have_no_collision(random_codes):
    ids = deduplicate(random_codes[0])
    assert metrics.collision_rate(ids) == 0
    assert metrics.largest_group(ids) == 1
    assert ids[:, -1].max() == metrics.largest_group(random_codes[0]) - 1


def test_equal_loads_are_perfect():
    codes = np.stack([np.arange(12) % 4, np.arange(12) % 3], axis=1)
    assert_allclose(metrics.perplexity(codes), [4, 3])
    assert_allclose(metrics.codebook_utilisation(codes, [4, 3]), [1, 1])
    assert_allclose(metrics.load_cv(codes, [4, 3]), [0, 0], atol=1e-15)
    assert_allclose(metrics.gini(codes, [4, 3]), [0, 0], atol=1e-15)
    assert metrics.joint_utilisation(codes, [4, 3]) == 1


def test_the_order_of_rows_does_not_matter(random_codes):
    codes, sizes = random_codes
    for figure in OF_CODES:
        assert_allclose(figure(codes[::-1]), figure(codes), rtol=1e-15)
    for figure in OF_CODES_AND_SIZES:
        assert_allclose(figure(codes[::-1], sizes), figure(codes, sizes), rtol=1e-15)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64])
def test_every_integer_type_will_do(dtype):
    codes = np.array([[0, 3], [1, 3], [1, 2]])
    for figure in OF_CODES:
        assert_allclose(figure(codes.astype(dtype)), figure(codes))
    for figure in OF_CODES_AND_SIZES:
        assert_allclose(figure(codes.astype(dtype), [2, 4]), figure(codes, [2, 4]))


@pytest.mark.parametrize(
    "codes, message",
    [
        ([[0.0, 1.0]], "codes have dtype=float64, which should be an integer type"),
        ([[0, -1]], "codes have the value -1, which should be >= 0"),
        ([0, 1], "Expected 2D array, got 1D array"),
        (np.empty((0, 2), int), "Found array with 0 sample"),
    ],
)
@pytest.mark.parametrize("figure", OF_CODES + OF_CODES_AND_SIZES)
def test_bad_codes_are_named(figure, codes, message):
    arguments = (codes, [2, 2]) if figure in OF_CODES_AND_SIZES else (codes,)
    with pytest.raises(ValueError, match=message):
        figure(*arguments)


@pytest.mark.parametrize(
    "sizes, message",
    [
        ([4], r"codebook_sizes=\[4\] should have n_levels=2 values"),
        (4, "codebook_sizes=4 should have n_levels=2 values"),
        ([4.0, 4.0], r"codebook_sizes=\[4.0, 4.0\] should have .* values, all int"),
        ([4, 3], r"codebook_sizes=\[4, 3\] should exceed the largest codes \[1, 3\]"),
    ],
)
@pytest.mark.parametrize("figure", OF_CODES_AND_SIZES)
def test_bad_codebook_sizes_are_named(figure, sizes, message):
    with pytest.raises(ValueError, match=message):
        figure([[0, 3], [1, 2]], sizes)


@pytest.mark.parametrize(
    "X, other, message",
    [
        (
            [[1.0, 2.0]],
            [[1.0]],
            r"has shape=\(1, 1\), which should equal \(1, 2\) of X",
        ),
        ([[np.nan]], [[1.0]], "Input X contains NaN"),
        ([[1.0]], [[np.inf]], "Input X_reconstructed contains infinity"),
    ],
)
def test_bad_reconstructions_are_named(X, other, message):
    with pytest.raises(ValueError, match=message):
        metrics.reconstruction_mse(X, other)


@pytest.mark.parametrize(
    "levels, message",
    [
        (0, r"n_levels=0 should be in \[1, 2\]"),
        (3, r"n_levels=3 should be in \[1, 2\]"),
        (1.0, "n_levels=1.0 should be an int"),
        (True, "n_levels=True should be an int"),
    ],
)
def test_bad_lengths_of_prefixes_are_named(levels, message):
    with pytest.raises((ValueError, TypeError), match=message):
        metrics.joint_utilisation([[0, 1]], [2, 2], levels)


# Keys and order of codes.


@pytest.mark.parametrize("largest", [3, 2**31 - 1, 2**62, 2**64 - 1])
def test_keys_are_in_the_order_of_the_codes(largest):
    rng = np.random.RandomState(0)
    values = np.array([0, 1, largest // 2, largest], dtype=np.uint64)
    codes = values[rng.randint(4, size=(200, 5))]
    _, ranks = np.unique(pack_rows(codes), return_inverse=True)
    assert_array_equal(ranks, np.unique(codes, axis=0, return_inverse=True)[1])
    assert metrics.collision_rate(codes) == 1 - len(np.unique(codes, axis=0)) / 200


def test_borders_of_prefixes_by_hand():
    order, bounds = sort_by_prefix(np.array([[1, 0], [0, 5], [1, 0], [0, 2]]))
    assert order.tolist() == [3, 1, 0, 2]
    assert [level.tolist() for level in bounds] == [[0, 4], [0, 2, 4], [0, 1, 2, 4]]


# Similarity of pairs.


def test_similarities_by_hand():
    # Cosines: (0, 1) 0.6, (0, 2) 0, (1, 2) 0.8; the last item is alone.
    X = [[1.0, 0], [3, 4], [0, 2], [-5, 0]]
    codes = [[0, 0], [0, 0], [0, 1], [1, 0]]

    # Rows 0, 1, 2 against row 3: -1, -0.6, 0.
    everything = (0.6 + 0 + 0.8 - 1 - 0.6 + 0) / 6
    assert metrics.random_pair_similarity(X).value == pytest.approx(everything)
    levels = metrics.prefix_cohesion(codes, X)
    assert [level.value for level in levels] == pytest.approx([1.4 / 3, 0.6])
    assert metrics.path_average_similarity(codes, X).value == pytest.approx(0.6)


def test_the_three_averages_by_hand():
    # A group of 3 with cosines 1, 0, 0 and a group of 2 with cosine 1.
    X = [[1.0, 0], [1, 0], [0, 1], [0, 1], [0, 1]]
    codes = [[0], [0], [0], [1], [1]]

    def similarity(average):
        return metrics.path_average_similarity(codes, X, average=average).value

    assert similarity("pair") == pytest.approx((1 + 0 + 0 + 1) / 4)
    assert similarity("item") == pytest.approx((0.5 + 0.5 + 0 + 1 + 1) / 5)
    assert similarity("group") == pytest.approx((1 / 3 + 1) / 2)


@pytest.fixture(scope="module")
def catalogue():
    """Rows of 20 clusters, copies and zeros among them, and codes that follow."""
    rng = np.random.RandomState(0)
    labels = rng.randint(20, size=300)
    X = rng.randn(20, 8)[labels] + 0.3 * rng.randn(300, 8)
    X[7] = 0
    X[100:110] = X[200]
    codes = np.stack([labels // 5, labels % 5, (X[:, 0] > 0).astype(int)], axis=1)
    return codes, X


def brute_similarity(codes, X, average):
    """Similarity of items that share their code, by loops over pairs."""
    cosine = cosine_similarity(X)
    groups = {}
    for row, code in enumerate(map(tuple, codes.tolist())):
        groups.setdefault(code, []).append(row)
    groups = [group for group in groups.values() if len(group) > 1]
    if average == "item":
        of_items = [
            np.mean([cosine[row, other] for other in group if other != row])
            for group in groups
            for row in group
        ]
        return np.mean(of_items)
    of_groups = [[cosine[pair] for pair in combinations(g, 2)] for g in groups]
    if average == "group":
        return np.mean([np.mean(values) for values in of_groups])
    return np.mean(np.concatenate(of_groups))


@pytest.mark.parametrize("average", ["pair", "item", "group"])
def test_similarities_equal_loops_over_all_pairs(catalogue, average):
    codes, X = catalogue
    levels = metrics.prefix_cohesion(codes, X, average=average)
    for length, level in enumerate(levels, start=1):
        expected = brute_similarity(codes[:, :length], X, average)
        assert level == pytest.approx((expected,) * 3)
    last = metrics.path_average_similarity(codes, X, average=average)
    assert last == pytest.approx(levels[-1])


@pytest.mark.parametrize("average", ["pair", "item", "group"])
def test_samples_of_pairs_are_unbiased(catalogue, average):
    codes, X = catalogue
    expected = brute_similarity(codes[:, :1], X, average)
    sample = metrics.prefix_cohesion(codes, X, n_pairs=9000, average=average)[0]
    assert sample.low < expected < sample.high
    assert 0 < sample.high - sample.low < 0.05


def test_all_pairs_of_two_groups_by_hand():
    rng = np.random.RandomState(0)
    pairs = pairs_in_groups(np.array([0, 3, 4, 6]), 4, "pair", rng)
    drawn = set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert drawn == {(0, 1), (0, 2), (1, 2), (4, 5)}


def test_pairs_are_drawn_equally_often_and_within_groups():
    rng = np.random.RandomState(0)
    bounds = np.array([0, 3, 4, 6, 11])
    draws = [pairs_in_groups(bounds, 13, "pair", rng) for _ in range(1000)]
    assert draws[0].weights is None
    first = np.concatenate([draw.first for draw in draws])
    second = np.concatenate([draw.second for draw in draws])
    low, high = np.minimum(first, second), np.maximum(first, second)
    counts = Counter(zip(low.tolist(), high.tolist(), strict=True))
    expected = {*combinations(range(3), 2), (4, 5), *combinations(range(6, 11), 2)}
    assert set(counts) == expected
    # 13,000 draws of 14 pairs: 929 each, give or take 29.
    assert 800 < min(counts.values()) <= max(counts.values()) < 1060


def test_pairs_of_more_items_than_pairs_fit_into_an_integer():
    bounds = np.array([0, 2**40])
    pairs = pairs_in_groups(bounds, 1000, "pair", np.random.RandomState(0))
    assert (pairs.first != pairs.second).all()
    assert 0 <= min(pairs.first.min(), pairs.second.min())
    assert max(pairs.first.max(), pairs.second.max()) < 2**40


def test_unit_rows_of_any_size():
    rows = unit_rows(np.array([[3e200, 4e200], [3e-200, 4e-200], [0, 0], [-5, 0]]))
    assert_allclose(rows, [[0.6, 0.8], [0.6, 0.8], [0, 0], [-1, 0]])


def test_items_that_share_nothing_have_no_similarity():
    undefined = metrics.path_average_similarity([[0], [1]], [[1.0], [2.0]])
    assert np.isnan(undefined).all()
    assert np.isnan(metrics.path_average_similarity([[0]], [[1.0]])).all()
    first, second = metrics.prefix_cohesion([[0, 0], [0, 1]], [[1.0], [2.0]])
    assert first == (1, 1, 1)
    assert np.isnan(second).all()


# Neighbours.


def brute_neighbours(X, k, metric="euclidean"):
    """Squared distances without the diagonal, and that of the k-th nearest."""
    X = np.asarray(X, dtype=float)
    if metric == "cosine":
        norms = np.linalg.norm(X, axis=1, keepdims=True)
        X = X / np.where(norms > 0, norms, 1)
    distances = np.square(X[:, None] - X).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    return distances, np.sort(distances, axis=1)[:, [k - 1]]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_neighbours_equal_those_of_the_whole_matrix(seed, metric):
    # Grids have copies and ties, and an origin far away costs float32 its digits.
    rng = np.random.RandomState(seed)
    n, d = rng.randint(3, 90), rng.randint(1, 6)
    X = rng.randn(n, d) if seed % 2 else rng.randint(-2, 3, size=(n, d)) * 1.0
    X = (X + [0, 1000, 1e6][seed % 3]).astype([np.float64, np.float32][seed % 4 // 2])
    k = rng.randint(1, n)
    points, queries = Points(X, metric), np.arange(n)
    distances, radius = brute_neighbours(X, k, metric)
    found = points.neighbours(queries, k, rng)

    assert len(points.size) == len(np.unique(X, axis=0))
    tolerance = {"rtol": 1e-9, "atol": 1e-15}
    assert_allclose(points.radius(queries, k), radius[:, 0], **tolerance)
    assert all(len(set(row)) == k for row in found.tolist())
    expected = np.sort(distances, axis=1)[:, :k]
    assert_allclose(np.take_along_axis(distances, found, axis=1), expected, **tolerance)


def test_neighbours_do_not_depend_on_chunks_and_blocks(catalogue, monkeypatch):
    X = catalogue[1]
    rng = np.random.RandomState
    expected = Points(X, "euclidean").neighbours(np.arange(300), 10, rng(0))
    assert (expected != np.arange(300)[:, None]).all()
    for name, value in [("FIRST_ROWS", 7), ("CHUNK_ROWS", 13), ("BLOCK_QUERIES", 300)]:
        monkeypatch.setattr(f"sk_rqkplus._neighbours.{name}", value)
        found = Points(X, "euclidean").neighbours(np.arange(300), 10, rng(0))
        assert_array_equal(found, expected)


def test_copies_are_the_same_point_whatever_the_sign_of_zero():
    X = np.array([[0.0, 1], [-0.0, 1], [1, 0], [0, 1], [1, -0.0], [1e-300, 1]])
    for dtype, sizes in [(np.float64, [1, 2, 3]), (np.float32, [2, 4])]:
        points = Points(X.astype(dtype), "euclidean")
        assert sorted(points.size.tolist()) == sizes


def test_rows_that_float32_cannot_tell_apart_are_decided_in_float64():
    # Steps of 1e-9 on rows of size 1: all float32 scores are equal.
    X = np.array([[1.0, 0], [0, 1], [-1, 0]])[np.arange(90) % 3]
    X[:, 0] += 1e-9 * np.random.RandomState(0).permutation(90)
    distances, radius = brute_neighbours(X, 3)
    assert_allclose(Points(X, "euclidean").radius(np.arange(90), 3), radius[:, 0])
    assert metrics.neighbour_recall(X, X, k=3) == (1, 1, 1)


def test_neighbour_recall_by_hand():
    # Nearest of 0, 1, 3, 7 are 1, 0, 1, 3; of their reconstructions 1, 3, 1, 3.
    X = [[0.0], [1.0], [3.0], [7.0]]
    recall = metrics.neighbour_recall(X, [[0.0], [5.0], [6.0], [8.0]], k=1)
    assert recall == (0.75, 0.75, 0.75)


def test_what_reconstructs_all_rows_keeps_all_neighbours(catalogue):
    X = catalogue[1]
    for metric in ("euclidean", "cosine"):
        assert metrics.neighbour_recall(X, X, metric=metric) == (1, 1, 1)
        assert metrics.neighbour_recall(X, 3 * X, metric=metric).value == 1
    # A reconstruction may have other columns.
    assert metrics.neighbour_recall(X, np.hstack([X, X])).value == 1
    assert metrics.neighbour_recall(X[:11], np.zeros((11, 1)), k=10).value == 1


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_neighbour_recall_equals_sets_of_neighbours(catalogue, metric):
    # Rows without ties, so that the k nearest are a set.
    rng = np.random.RandomState(1)
    X = rng.randn(120, 5)
    other = X + rng.randn(120, 5)
    nearest = [
        np.argsort(brute_neighbours(rows, 7, metric)[0], axis=1)[:, :7].tolist()
        for rows in (X, other)
    ]
    expected = np.mean(
        [len({*a} & {*b}) / 7 for a, b in zip(*nearest, strict=True)],
    )
    recall = metrics.neighbour_recall(X, other, k=7, metric=metric)
    assert recall.value == pytest.approx(expected)


def test_ties_are_broken_at_random():
    # One codeword for all rows: any ten of them are as near, in any order of the rows.
    rng = np.random.RandomState(0)
    X = np.sort(rng.randn(500, 1), axis=0)
    recall = metrics.neighbour_recall(X, np.zeros((500, 1)))
    chance = 10 / 499
    assert recall.value == pytest.approx(chance, abs=0.01)
    codes = np.zeros((500, 1), dtype=int)
    recall = metrics.code_neighbour_recall(X, codes)
    assert recall.value == pytest.approx(chance, abs=0.01)


def test_items_that_are_equally_near_are_equally_right():
    X = np.zeros((30, 2))
    other = np.random.RandomState(0).randn(30, 2)
    assert metrics.neighbour_recall(X, other) == (1, 1, 1)


def test_code_neighbour_recall_by_hand():
    # By codes 0 finds 1 (same code), 1 finds 0, 2 finds 3 (same prefix), 3 finds 2.
    # By rows 0 and 1 find each other, 2 finds 1, 3 finds 2.
    X = [[0.0], [1.0], [3.0], [6.0]]
    codes = [[0, 0], [0, 0], [1, 1], [1, 2]]
    assert metrics.code_neighbour_recall(X, codes, k=1).value == 0.75


@pytest.mark.parametrize("seed", range(8))
def test_code_neighbours_share_the_longest_prefixes(seed):
    rng = np.random.RandomState(seed)
    n, k = rng.randint(3, 60), 2
    codes = rng.randint(3, size=(n, rng.randint(1, 4)))
    common = np.cumprod(codes[:, None] == codes, axis=2).sum(axis=2)
    np.fill_diagonal(common, -1)
    found = code_neighbours(sort_by_prefix(codes), np.arange(n), k, rng)

    assert all(len(set(row)) == k for row in found.tolist())
    expected = -np.sort(-common, axis=1)[:, :k]
    assert_array_equal(np.take_along_axis(common, found, axis=1), expected)


def test_members_of_the_last_ring_are_equally_likely():
    # Two members of the first ring, none of the second, three of seven of the third.
    rng = np.random.RandomState(0)
    ring, member = fill_rings(np.tile([2, 0, 7], (7000, 1)), 5, rng)
    assert (ring == [0, 0, 2, 2, 2]).all()
    assert (member[:, :2] == [0, 1]).all()
    assert all(len(set(row)) == 3 for row in member[:, 2:].tolist())
    # 3,000 each, give or take 41.
    counts = np.bincount(member[:, 2:].ravel(), minlength=7)
    assert abs(counts - 3000).max() < 170


def test_the_order_of_rows_does_not_matter_to_neighbours(catalogue):
    codes, X = catalogue
    order = np.random.RandomState(3).permutation(300)
    recall = metrics.neighbour_recall(X, X.round())
    again = metrics.neighbour_recall(X[order], X[order].round())
    assert again.value == pytest.approx(recall.value, abs=0.01)
    recall = metrics.code_neighbour_recall(X, codes)
    again = metrics.code_neighbour_recall(X[order], codes[order])
    assert again.value == pytest.approx(recall.value, abs=0.02)


def test_embedding_hit_rate_by_hand():
    # The nearest by angle of 0 is 1, of 3 it is 2; 0 has two partners, 3 has one.
    X = [[1.0, 0], [2, 0.2], [0, 1], [0.2, 1]]
    rate = metrics.embedding_hit_rate(X, [[0, 1], [0, 2], [3, 2]], k=1)
    assert rate == (0.75, 0.75, 0.75)
    # Twice is once, and an item does not belong to itself.
    pairs = [[0, 1], [0, 2], [3, 2], [0, 1], [3, 3], [1, 1]]
    assert metrics.embedding_hit_rate(X, pairs, k=1) == rate


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_embedding_hit_rate_equals_loops_over_queries(metric):
    rng = np.random.RandomState(0)
    X = rng.randn(80, 4)
    pairs = rng.randint(80, size=(300, 2))
    partners = {}
    for query, item in pairs.tolist():
        if query != item:
            partners.setdefault(query, set()).add(item)
    nearest = np.argsort(brute_neighbours(X, 9, metric)[0], axis=1)[:, :9].tolist()
    shares = [len(s & {*nearest[q]}) / len(s) for q, s in partners.items()]
    rate = metrics.embedding_hit_rate(X, pairs, k=9, metric=metric)
    assert rate.value == pytest.approx(np.mean(shares))


def test_hits_of_ties_are_those_of_chance():
    pairs = np.stack([np.arange(400), (np.arange(400) + 1) % 400], axis=1)
    rate = metrics.embedding_hit_rate(np.zeros((400, 2)), pairs)
    assert rate.value == pytest.approx(10 / 399, abs=0.02)


def test_no_pairs_have_no_hit_rate():
    assert np.isnan(metrics.embedding_hit_rate(np.eye(3), [], k=1)).all()
    assert np.isnan(metrics.embedding_hit_rate(np.eye(3), [[1, 1]], k=1)).all()


# Correlation of distances.


def test_distance_correlation_by_hand():
    # Distances of codes 1, 2, 2, 2, 2, 0 have ranks 2, 4.5, 4.5, 4.5, 4.5, 1; those of
    # rows 1, 5, 5.5, 4, 4.5, 0.5 have ranks 2, 5, 6, 3, 4, 1. Deviations of ranks have
    # squares that sum to 12.5 and 17.5, and products that sum to 12.5.
    codes = [[0, 0], [0, 1], [1, 1], [1, 1]]
    X = [[0.0], [1.0], [5.0], [5.5]]
    value = metrics.distance_correlation(codes, X).value
    assert value == pytest.approx(12.5 / (12.5 * 17.5) ** 0.5)


@pytest.mark.parametrize("code_distance", ["prefix", "hamming"])
def test_distance_correlation_equals_scipy_on_all_pairs(catalogue, code_distance):
    codes, X = catalogue
    first, second = np.triu_indices(300, 1)
    differs = codes[first] != codes[second]
    if code_distance == "prefix":
        of_codes = 3 - np.cumprod(~differs, axis=1).sum(axis=1)
    else:
        of_codes = differs.sum(axis=1)
    expected = spearmanr(of_codes, np.linalg.norm(X[first] - X[second], axis=1))
    value = metrics.distance_correlation(codes, X, code_distance=code_distance)
    assert value == pytest.approx((expected.statistic,) * 3)

    sample = metrics.distance_correlation(
        codes, X, n_pairs=20_000, code_distance=code_distance
    )
    assert sample.low < expected.statistic < sample.high < sample.low + 0.1


def test_equal_distances_have_no_correlation():
    codes, X = np.zeros((5, 2), int), np.random.RandomState(0).randn(5, 2)
    assert np.isnan(metrics.distance_correlation(codes, X)).all()
    assert np.isnan(metrics.distance_correlation(np.arange(5)[:, None], X)).all()
    assert np.isnan(metrics.distance_correlation([[0], [0], [1]], np.eye(3))).all()


# Samples and intervals.


def partners(n):
    """Five partners of every row."""
    rows = np.repeat(np.arange(n), 5)
    return np.stack([rows, np.arange(5 * n) * 7 % n], axis=1)


# Callables of codes, rows, sample size and keywords, which return one Estimate.
SAMPLED = {
    "random_pair_similarity": lambda codes, X, size, **params: (
        metrics.random_pair_similarity(X, n_pairs=size, **params)
    ),
    "path_average_similarity": lambda codes, X, size, **params: (
        metrics.path_average_similarity(codes, X, n_pairs=size, **params)
    ),
    "prefix_cohesion": lambda codes, X, size, **params: metrics.prefix_cohesion(
        codes, X, n_pairs=size, average="item", **params
    )[0],
    "neighbour_recall": lambda codes, X, size, **params: metrics.neighbour_recall(
        X, X.round(), n_queries=size // 4, **params
    ),
    "code_neighbour_recall": lambda codes, X, size, **params: (
        metrics.code_neighbour_recall(X, codes, n_queries=size // 4, **params)
    ),
    "embedding_hit_rate": lambda codes, X, size, **params: metrics.embedding_hit_rate(
        X, partners(len(X)), n_queries=size // 4, **params
    ),
    "distance_correlation": lambda codes, X, size, **params: (
        metrics.distance_correlation(codes, X, n_pairs=5 * size, **params)
    ),
}


@pytest.mark.parametrize("name", SAMPLED)
def test_a_seed_gives_the_same_sample(catalogue, name):
    def figure(**params):
        return SAMPLED[name](*catalogue, 400, **params)

    first, rng = figure(), np.random.RandomState(0)
    assert first.low < first.value < first.high
    assert figure(random_state=0) == first
    assert figure(random_state=rng) == first
    assert figure(random_state=rng) != first
    assert figure(random_state=1) != first


@pytest.mark.parametrize("name", SAMPLED)
def test_intervals_cover_the_figure_of_everything(catalogue, name):
    # The figure of everything; ties are broken at random, so it is a mean itself.
    seeds = range(20) if "recall" in name else range(1)
    everything = np.mean(
        [SAMPLED[name](*catalogue, 10**5, random_state=seed).value for seed in seeds]
    )
    covered = 0
    for seed in range(200):
        estimate = SAMPLED[name](*catalogue, 400, random_state=seed)
        covered += estimate.low <= everything <= estimate.high
    # 190 of 200 are expected, with a standard deviation of 3. It would be 165 if the
    # standard error were too small by 30 %, and 200 if it were too large.
    assert 176 <= covered <= 199


@pytest.mark.parametrize("name", SAMPLED)
def test_samples_leave_the_global_generator_alone(catalogue, name):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    SAMPLED[name](*catalogue, 400)
    assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


# Input.

OF_CODES_AND_ROWS = {
    "path_average_similarity": metrics.path_average_similarity,
    "prefix_cohesion": metrics.prefix_cohesion,
    "distance_correlation": metrics.distance_correlation,
    "code_neighbour_recall": lambda codes, X, **params: metrics.code_neighbour_recall(
        X, codes, k=1, **params
    ),
}
OF_ROWS = {
    "random_pair_similarity": metrics.random_pair_similarity,
    "neighbour_recall": lambda X: metrics.neighbour_recall(X, X, k=1),
    "embedding_hit_rate": lambda X: metrics.embedding_hit_rate(X, [[0, 1]], k=1),
    "reconstruction_mse": lambda X: metrics.reconstruction_mse(X, X),
    "reconstruction_r2": lambda X: metrics.reconstruction_r2(X, X),
}
OF_ROWS |= {
    name: lambda X, figure=figure: figure(np.arange(len(X))[:, None] // 2, X)
    for name, figure in OF_CODES_AND_ROWS.items()
}


@pytest.mark.parametrize("name", OF_ROWS)
@pytest.mark.parametrize(
    "X, message",
    [
        ([[0.0, 1], [np.nan, 2], [3, 4]], "Input X contains NaN"),
        ([[0.0, 1], [np.inf, 2], [3, 4]], "Input X contains infinity"),
        ([[0.0, 1], [1e200, 2], [3, 4]], r"X has values up to 1e\+200 in size, which"),
        ([1.0, 2.0, 3.0], "Expected 2D array, got 1D array"),
        (np.empty((0, 2)), "Found array with 0 sample"),
        ([["a"], ["b"], ["c"]], "X has dtype=<U1, which should be numbers"),
    ],
)
def test_bad_rows_are_named(name, X, message):
    with pytest.raises(ValueError, match=message):
        OF_ROWS[name](X)


@pytest.mark.parametrize("name", OF_CODES_AND_ROWS)
@pytest.mark.parametrize(
    "codes, message",
    [
        ([[0.0], [1.0]], "codes have dtype=float64, which should be an integer type"),
        ([[0], [-1]], "codes have the value -1, which should be >= 0"),
        ([[0], [1], [2]], "has n_samples=.*, which should equal"),
        (np.empty((0, 1), int), "Found array with 0 sample"),
    ],
)
def test_bad_codes_of_rows_are_named(name, codes, message):
    with pytest.raises(ValueError, match=message):
        OF_CODES_AND_ROWS[name](codes, [[1.0], [2.0]])


@pytest.mark.parametrize("k", [1, 2])
def test_one_row_has_no_pairs_and_no_neighbours(k):
    message = "minimum of 2 is required"
    for name in ("random_pair_similarity", "neighbour_recall", "embedding_hit_rate"):
        with pytest.raises(ValueError, match=message):
            OF_ROWS[name]([[1.0]])
    with pytest.raises(ValueError, match=message):
        metrics.distance_correlation([[0]], [[1.0]])
    with pytest.raises(ValueError, match=message):
        metrics.code_neighbour_recall([[1.0]], [[0]], k=k)


@pytest.mark.parametrize(
    "params, message",
    [
        ({"k": 0}, r"k=0 should be in \[1, 4\]"),
        ({"k": 5}, r"k=5 should be in \[1, 4\]"),
        ({"k": 1.5}, "k=1.5 should be an int"),
        ({"k": 1, "n_queries": 1}, "n_queries=1 should be >= 2"),
        ({"k": 1, "n_queries": None}, "n_queries=None should be an int"),
        ({"k": 1, "metric": "cos"}, "metric='cos' should be one of 'euclidean', 'c"),
    ],
)
def test_bad_parameters_of_neighbours_are_named(params, message):
    X, codes = np.eye(5), np.arange(5)[:, None]
    calls = [
        lambda: metrics.neighbour_recall(X, X, **params),
        lambda: metrics.code_neighbour_recall(X, codes, **params),
        lambda: metrics.embedding_hit_rate(X, [[0, 1]], **params),
    ]
    for call in calls:
        with pytest.raises((ValueError, TypeError), match=message):
            call()


@pytest.mark.parametrize(
    "params, message",
    [
        ({"n_pairs": 1}, "n_pairs=1 should be >= "),
        ({"n_pairs": "all"}, "n_pairs='all' should be an int"),
    ],
)
def test_bad_numbers_of_pairs_are_named(params, message):
    X, codes = np.eye(5), np.arange(5)[:, None]
    calls = [
        lambda: metrics.random_pair_similarity(X, **params),
        lambda: metrics.path_average_similarity(codes, X, **params),
        lambda: metrics.prefix_cohesion(codes, X, **params),
        lambda: metrics.distance_correlation(codes, X, **params),
    ]
    for call in calls:
        with pytest.raises((ValueError, TypeError), match=message):
            call()


def test_bad_choices_are_named():
    X, codes = np.eye(5), np.arange(5)[:, None]
    with pytest.raises(
        ValueError, match="average='all' should be one of 'pair', 'item"
    ):
        metrics.path_average_similarity(codes, X, average="all")
    with pytest.raises(
        ValueError, match="average=None should be one of 'pair', 'item'"
    ):
        metrics.prefix_cohesion(codes, X, average=None)
    with pytest.raises(
        ValueError, match="code_distance='l2' should be one of 'prefix'"
    ):
        metrics.distance_correlation(codes, X, code_distance="l2")


@pytest.mark.parametrize(
    "pairs, message",
    [
        ([0, 1], r"pairs have shape=\(2,\) and dtype=int64, which should be"),
        ([[0, 1, 2]], r"pairs have shape=\(1, 3\)"),
        ([[0.0, 1.0]], "pairs have .*dtype=float64, which should be integers"),
        ([[0, 3]], r"pairs have values from 0 to 3, which should be in \[0, 3\)"),
        ([[-1, 2]], r"pairs have values from -1 to 2, which should be in \[0, 3\)"),
    ],
)
def test_bad_pairs_are_named(pairs, message):
    with pytest.raises(ValueError, match=message):
        metrics.embedding_hit_rate(np.eye(3), pairs, k=1)


@pytest.mark.parametrize("name", SAMPLED)
@pytest.mark.parametrize("kind", ["float32", "memmap", "fortran", "list", "int"])
def test_rows_of_any_kind_give_the_same_figure(catalogue, name, kind, tmp_path):
    codes, X = catalogue
    # Values that float32 has, and whole numbers.
    X = np.round(4 * X)
    if kind == "memmap":
        np.save(tmp_path / "X.npy", X)
        other = np.load(tmp_path / "X.npy", mmap_mode="r")
    else:
        other = {
            "float32": X.astype(np.float32),
            "fortran": np.asfortranarray(X),
            "list": X.tolist(),
            "int": X.astype(int),
        }[kind]
    if name == "neighbour_recall":
        expected, value = (
            metrics.neighbour_recall(rows, X // 2, n_queries=100) for rows in (X, other)
        )
    else:
        expected = SAMPLED[name](codes, X, 400)
        rows = other if hasattr(other, "shape") else np.array(other)
        value = SAMPLED[name](codes, rows, 400)
    assert value == pytest.approx(expected, rel=1e-12)


def test_a_memory_map_is_read_in_chunks(tmp_path, monkeypatch):
    # 64 MB of rows, of which chunks of half a megabyte are in memory.
    n, d = 65_536, 128
    X = np.lib.format.open_memmap(
        tmp_path / "X.npy", mode="w+", dtype=np.float64, shape=(n, d)
    )
    rng = np.random.RandomState(0)
    for start in range(0, n, 8192):
        X[start : start + 8192] = rng.randn(8192, d)
    codes = rng.randint(32, size=(n, 2))
    for module in ("metrics", "_neighbours", "_pairs"):
        monkeypatch.setattr(f"sk_rqkplus.{module}.CHUNK_VALUES", 2**16)

    tracemalloc.start()
    metrics.reconstruction_r2(X, X)
    metrics.prefix_cohesion(codes, X, n_pairs=1000)
    metrics.distance_correlation(codes, X, n_pairs=1000)
    metrics.neighbour_recall(X, X, n_queries=20)
    metrics.code_neighbour_recall(X, codes, n_queries=20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 2**20


# The published codes.


def test_figures_of_the_published_codes(industrial):
    codes = np.load(shared_file("industrial_constrained_codes.npy"))
    with np.load(shared_file("industrial_constrained_codebooks.npz")) as file:
        books = [file[f"codebook_{level}"] for level in range(3)]
    reconstructed = sum(book[code] for book, code in zip(books, codes.T, strict=True))

    # Labels of the fit.
    assert round(metrics.collision_rate(codes), 3) == 0.100
    assert metrics.largest_group(codes) == 10
    share = metrics.perplexity(codes, [256] * 3)
    assert share.round(2).tolist() == [1.00, 1.00, 1.00]
    assert round(metrics.reconstruction_mse(industrial, reconstructed), 6) == 0.000753

    # The nearest codeword, level by level: what gets served.
    residual, served = industrial.astype(np.float64), []
    for book in books:
        scores = np.square(book).sum(axis=1) - 2 * residual @ book.T
        served.append(scores.argmin(axis=1))
        residual = residual - book[served[-1]]
    codes = np.stack(served, axis=1)
    assert round(metrics.collision_rate(codes), 3) == 0.119
    assert metrics.largest_group(codes) == 20
    share = metrics.perplexity(codes, [256] * 3)
    assert share.round(2).tolist() == [0.99, 0.95, 0.93]
    error = metrics.reconstruction_mse(industrial, industrial - residual)
    assert round(error, 6) == 0.000760
