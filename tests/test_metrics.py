"""Checks on the figures of quality, by hand and by brute force."""

from collections import Counter
from math import exp, log

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sk_rqkplus import metrics
from sk_rqkplus.ids import deduplicate

OF_CODES = [metrics.collision_rate, metrics.largest_group, metrics.perplexity]
OF_CODES_AND_SIZES = [metrics.codebook_utilisation, metrics.load_cv]


@pytest.mark.parametrize(
    "codes, rate, largest",
    [
        ([[0, 1], [0, 1], [0, 2], [3, 1]], 0.25, 2),
        ([[0, 1], [1, 0], [0, 0], [1, 1]], 0.0, 1),
        ([[5], [5], [5], [5], [5]], 0.8, 5),
        ([[1, 1], [2, 2], [1, 1], [2, 2], [1, 1], [3, 3]], 0.5, 3),
        ([[7, 7, 7]], 0.0, 1),
    ],
)
def test_collisions_by_hand(codes, rate, largest):
    assert metrics.collision_rate(codes) == pytest.approx(rate)
    assert metrics.largest_group(codes) == largest


def test_perplexity_by_hand():
    # Shares 1/2, 1/4, 1/4 have an entropy of 1.5 bits; one codeword alone has none.
    values = metrics.perplexity([[0, 9], [0, 9], [1, 9], [2, 9]])
    assert_allclose(values, [2**1.5, 1])


def test_utilisation_by_hand():
    values = metrics.codebook_utilisation([[0, 1], [0, 1], [1, 2]], [2, 8])
    assert_allclose(values, [1, 0.25])


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


def entropy(counts):
    total = sum(counts)
    return -sum(n / total * log(n / total) for n in counts if n)


@pytest.fixture(params=range(6))
def random_codes(request):
    rng = np.random.RandomState(request.param)
    sizes = rng.randint(2, 9, size=3)
    return rng.randint(sizes, size=(rng.randint(1, 60), 3)), sizes


def test_collisions_equal_counting_in_a_dict(random_codes):
    groups = Counter(map(tuple, random_codes[0].tolist()))
    extra = sum(n - 1 for n in groups.values())

    assert metrics.largest_group(random_codes[0]) == max(groups.values())
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
        assert metrics.perplexity(codes)[level] == pytest.approx(exp(entropy(counts)))


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
