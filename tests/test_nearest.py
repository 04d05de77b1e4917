"""The kernel gives the float64 answer, whatever the path."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from sk_rqkplus import _nearest, _products, _rough
from sk_rqkplus._nearest import Codewords, nearest
from sk_rqkplus._residual import decode, encode
from sk_rqkplus._rounding import input_roundoff

MEANS = [0.0, 100.0]


def brute_force(X, codebooks, prices, mean):
    residual = X.astype(np.float64) - mean
    codes = []
    for book, price in zip(codebooks, prices, strict=True):
        difference = residual[:, None, :] - book.astype(np.float64)
        codes.append((np.square(difference).sum(-1) + price).argmin(1))
        residual -= book[codes[-1]]
    return np.stack(codes, axis=1)


@pytest.fixture(params=[False, True], ids=["torch", "numpy"], autouse=True)
def product(request, monkeypatch):
    """Products by either library."""
    monkeypatch.setattr(_products, "numpy_is_faster", lambda: request.param)


@pytest.fixture(params=MEANS)
def problem(request):
    """Rows, codebooks and prices; codewords 3 and 7 of level 0 are equal."""
    rng = np.random.default_rng(0)
    X = rng.normal(request.param, 1, size=(3000, 16)).astype(np.float32)
    codebooks = [rng.normal(0, 1, (37, 16)), rng.normal(0, 0.5, (20, 16))]
    codebooks = [book.astype(np.float32) for book in codebooks]
    codebooks[0][7] = codebooks[0][3]
    prices = [rng.uniform(0, 2, 37), np.zeros(20)]
    prices[0][7] = prices[0][3]
    return X, codebooks, prices, X.mean(axis=0)


def test_codes_are_those_of_float64(problem):
    codes = encode(*problem)
    assert codes.dtype == np.int32
    assert_array_equal(codes, brute_force(*problem))
    # Of two equal codewords the lower index wins.
    assert 3 in codes[:, 0]
    assert 7 not in codes[:, 0]


def between(book, n_rows, tilt, rng):
    """Rows half way between two codewords but for a tilt, in float64."""
    pairs = [rng.permutation(len(book))[:2] for _ in range(n_rows)]
    one, other = book.astype(np.float64)[np.transpose(pairs)]
    side = rng.choice([-1, 1], size=(n_rows, 1))
    return (one + other) / 2 + side * tilt * (one - other)


@pytest.mark.parametrize("first_look", [False, True])
@pytest.mark.parametrize("mean", MEANS)
def test_close_calls_are_those_of_float64(monkeypatch, first_look, mean):
    monkeypatch.setattr(_rough, "bfloat16_is_faster", lambda: first_look)
    rng = np.random.default_rng(0)
    books = [(s * rng.normal(size=(130, 160))).astype(np.float32) for s in (1, 0.05)]
    first = books[0].astype(np.float64)[rng.integers(130, size=300)]
    X = [between(books[0], 300, 1e-10, rng), first + between(books[1], 300, 1e-10, rng)]
    args = np.concatenate(X) + mean, books, [np.zeros(130)] * 2, np.full(160, mean)
    assert_array_equal(encode(*args), brute_force(*args))


def test_rounding_of_earlier_levels_is_not_taken_for_a_difference():
    # What float32 keeps of the residual is off by more than the tilt.
    rng = np.random.default_rng(0)
    books = [(s * rng.normal(size=(40, 32))).astype(np.float32) for s in (1e5, 1)]
    X = books[0].astype(np.float64)[rng.integers(40, size=500)]
    X += between(books[1], 500, 1e-6, rng)
    args = X, books, [np.zeros(40)] * 2, np.zeros(32)
    assert_array_equal(encode(*args), brute_force(*args))


@pytest.mark.parametrize("mean", MEANS)
def test_a_first_look_in_bfloat16_does_not_matter(monkeypatch, two_threads, mean):
    looked_at = []

    def look(rows, *args):
        looked_at.append(len(rows))
        return rough(rows, *args)

    rough = _nearest.rough_labels
    monkeypatch.setattr(_nearest, "rough_labels", look)
    monkeypatch.setattr(_rough, "bfloat16_is_faster", lambda: True)
    rng = np.random.default_rng(0)
    spread = 0.97 ** np.arange(128)
    X = (mean + spread * rng.normal(size=(2000, 128))).astype(np.float32)
    books = [
        (s * spread * rng.normal(size=(150, 128))).astype(np.float32) for s in (1, 0.5)
    ]
    model = books, [np.zeros(150)] * 2, X.mean(axis=0)
    expected = np.concatenate(
        [brute_force(part, *model) for part in np.array_split(X, 10)]
    )
    for n_threads in (1, 2):
        two_threads(n_threads)
        assert_array_equal(encode(X, *model), expected)
    for size, n_rows in ((1, 200), (7, 200), (1000, 2000)):
        parts = [encode(X[i : i + size], *model) for i in range(0, n_rows, size)]
        assert_array_equal(np.concatenate(parts)[:n_rows], expected[:n_rows])
    order = rng.permutation(len(X))
    assert_array_equal(encode(X[order], *model), expected[order])
    assert_array_equal(encode(np.asfortranarray(X), *model), expected)
    assert sum(looked_at) > len(X)


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_batches_do_not_matter(problem, batch):
    X, *model = problem
    X = X[:1000]
    parts = [encode(X[i : i + batch], *model) for i in range(0, len(X), batch)]
    assert_array_equal(np.concatenate(parts), encode(X, *model))


def test_threads_order_and_layout_do_not_matter(problem, two_threads):
    X, *model = problem
    expected = encode(X, *model)
    two_threads(1)
    assert_array_equal(encode(X, *model), expected)
    two_threads(2)
    assert_array_equal(encode(np.asfortranarray(X), *model), expected)
    order = np.random.default_rng(1).permutation(len(X))
    assert_array_equal(encode(X[order], *model), expected[order])
    assert_array_equal(encode(X.astype(np.float64), *model), expected)


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_reduced_precision_of_the_caller_does_not_matter(problem, precision):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        codes = encode(*problem)
    finally:
        torch.set_float32_matmul_precision(before)
    assert_array_equal(codes, brute_force(*problem))


@pytest.mark.parametrize("unit", [1e-30, 1e-20, 1e18, 1e30])
def test_units_do_not_matter(problem, unit):
    X, codebooks, prices, mean = problem
    unit = np.float32(unit)
    scaled = [book * unit for book in codebooks]
    zero = [np.zeros(len(book)) for book in codebooks]
    codes = encode(X * unit, scaled, zero, mean * unit)
    assert_array_equal(codes, brute_force(X * unit, scaled, zero, mean * unit))


def test_overflow_of_the_fast_pass_is_decided_in_float64():
    # Squares of 1e25 overflow float32; the second row is beyond the codebook's scale.
    books = [np.array([[-1.0], [1.0]], dtype=np.float32)]
    X = np.array([[-0.5], [1e25], [-1e25]])
    codes = encode(X, books, [np.zeros(2)], np.zeros(1))
    assert_array_equal(codes, [[0], [1], [0]])


def test_a_tie_goes_to_the_lower_index():
    books = [np.array([[1.0], [-1.0]], dtype=np.float32)]
    assert encode(np.zeros((1, 1)), books, [np.zeros(2)], np.zeros(1)) == [[0]]
    # A price of the difference of the squares makes another tie: (2-0)^2 = 1 + 3.
    books = [np.array([[0.0], [1.0]], dtype=np.float32)]
    prices = [np.array([0.0, 3.0])]
    assert encode(np.array([[2.0]]), books, prices, np.zeros(1)) == [[0]]


def test_doubtful_rows_are_decided_again(monkeypatch):
    """Wrong float32 labels of doubtful rows do not reach the result."""
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.normal(size=(500, 8)).astype(np.float32))
    words = Codewords(torch.from_numpy(rng.normal(size=(9, 8)).astype(np.float32)))
    expected = nearest(rows, words)

    def wrong(tile, *args):
        labels, all_of_them = torch.zeros(len(tile)).long(), torch.arange(len(tile))
        return labels, all_of_them, torch.ones(len(tile), 9).bool()

    monkeypatch.setattr(_nearest, "_fast_pass", wrong)
    assert torch.equal(nearest(rows, words), expected)


def test_few_rows_are_doubtful_on_centred_data():
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.normal(size=(5000, 64)).astype(np.float32))
    words = Codewords(torch.from_numpy(rng.normal(size=(64, 64)).astype(np.float32)))
    _, doubtful, rivals = _nearest._fast_pass(rows, words, None)
    assert 0 < len(doubtful) < 0.01 * len(rows)
    assert rivals.sum(1).max() < 5


def test_rivals_in_small_parts_are_decided_alike(monkeypatch):
    """Also copies of codewords, and rows of which every codeword is a rival."""
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.normal(size=(400, 384)).astype(np.float32))
    book = torch.from_numpy(rng.normal(size=(20, 384)).astype(np.float32))
    book[11] = book[3]
    words = Codewords(book)
    expected, index = nearest(rows, words), torch.arange(len(rows))
    rivals = torch.from_numpy(rng.random((400, 20)) < 0.3)
    rivals.scatter_(1, expected[:, None], True)
    rivals[50:60], rivals[expected == 3, 11] = True, True
    for n_values in (1, 5 * 384, 2**30):
        monkeypatch.setitem(_nearest.EXACT_VALUES, "cpu", n_values)
        found = _nearest._exact_pass(rows, index, rivals, words)
        assert torch.equal(found, expected)
    assert 3 in found
    assert 11 not in found


@pytest.mark.parametrize("n_features", [1, 5, 384, 1000])
def test_the_distance_of_a_pair_depends_on_the_pair_alone(n_features):
    rng = np.random.default_rng(0)
    apart = torch.from_numpy(rng.normal(size=(3000, n_features)))
    sums = apart.square().sum(1)
    for step in (1, 2, 3, 17, 1000):
        parts = [part.square().sum(1) for part in apart.split(step)]
        assert torch.equal(torch.cat(parts), sums)


def test_decode_sums_codewords():
    books = [np.array([[0.0], [10.0]]), np.array([[0.0], [1.0]])]
    codes = np.array([[0, 1], [1, 0], [1, 1]])
    assert_array_equal(decode(codes, books, 100.0), [[101.0], [110.0], [111.0]])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_device_does_not_matter(problem):
    assert_array_equal(encode(*problem, device="cuda"), encode(*problem))


@pytest.mark.skipif(
    not hasattr(torch.backends.mkldnn, "matmul"), reason="torch < 2.9 lacks the switch"
)
def test_newer_precision_switch_of_the_caller_does_not_matter(problem):
    expected = encode(*problem)
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        assert input_roundoff(torch.device("cpu")) == 2.0**-8
        assert_array_equal(encode(*problem), expected)
    finally:
        matmul.fp32_precision = before
