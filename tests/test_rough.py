"""A first look in bfloat16 decides nothing that float64 would decide otherwise."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from sk_rqkplus import _nearest, _rough
from sk_rqkplus._nearest import Codewords, nearest
from sk_rqkplus._rough import RoughCodewords, rough_codewords, rough_labels
from sk_rqkplus._rounding import row_norms


@pytest.fixture
def rough(monkeypatch):
    """Take the first look on every machine, at any size."""
    monkeypatch.setattr(_rough, "bfloat16_is_faster", lambda: True)
    monkeypatch.setattr(_rough, "LEAST_SIZE", 2)


def draw(n_rows, n_codewords, n_features, seed=0):
    rng = np.random.default_rng(seed)
    book = rng.normal(size=(n_codewords, n_features)).astype(np.float32)
    near = book[rng.integers(n_codewords, size=n_rows)]
    rows = near + rng.normal(size=near.shape).astype(np.float32)
    return torch.from_numpy(rows), torch.from_numpy(book)


def brute_force(rows, book, prices=0.0):
    rows, book = rows.double().numpy(), book.double().numpy()
    scores = np.square(book).sum(1) - 2 * rows @ book.T + prices
    return scores.argmin(axis=1), scores


def first_look(rows, book, prices=None, noise=None):
    """Labels, and which of them the first look is sure of."""
    words = Codewords(book, prices)
    norms = row_norms(rows)
    slack = 2 * _nearest._sum_error(norms, words)
    labels, doubtful, _ = rough_labels(rows, words.rough, norms, slack, noise)
    certain = np.ones(len(rows), dtype=bool)
    certain[doubtful] = False
    return labels.numpy(), certain


@pytest.mark.parametrize("scale", [1e-30, 1e-19, 1.0, 1e15])
@pytest.mark.parametrize("priced", [False, True])
def test_what_is_certain_is_right(rough, scale, priced):
    rows, book = draw(3000, 64, 100)
    prices = torch.linspace(0, 20.0, 64).double() * scale**2 if priced else None
    rows, book = rows * scale, book * scale
    labels, certain = first_look(rows, book, prices)
    expected, _ = brute_force(rows, book, 0.0 if prices is None else prices.numpy())
    assert_array_equal(labels[certain], expected[certain])
    assert certain.mean() > (0.9 if scale > 1e-19 else -1)
    assert_array_equal(nearest(rows, Codewords(book, prices)), expected)


def test_what_is_certain_is_right_for_all_rows_in_the_noise(rough):
    rows, book = draw(3000, 64, 100)
    noise = torch.full((3000,), 2.0)
    labels, certain = first_look(rows, book, noise=noise)
    assert 0.5 < certain.mean() < first_look(rows, book)[1].mean()
    for other in range(64):
        # The worst move is straight to another codeword.
        way = book[other] - book[labels]
        moved = rows + 2 * way / way.norm(dim=1, keepdim=True).clamp(min=1e-9)
        _, scores = brute_force(moved, book)
        mine = np.take_along_axis(scores, labels[:, None], axis=1)[:, 0]
        assert (mine <= scores[:, other])[certain].all()


# Large similarities round to other ones as they leave the product.
@pytest.mark.parametrize("shift", [0.0, *np.linspace(300, 4000, 30)])
@pytest.mark.parametrize("tilt", [-1e-2, 1e-2])
def test_bounds_cover_the_worst_rounding(rough, tilt, shift):
    # All values lose as much as they can, and the similarities of the two codewords
    # go opposite ways; prices make up for the difference.
    n_features, value = 256, 1 + 0.99 * 2.0**-8
    rows = torch.full((100, n_features), value)
    book = torch.full((2, n_features), value)
    book[1] *= -1
    similarity = 2 * (rows[:1].double() @ book.double().T)[0]
    prices = similarity - book.double().square().sum(1) + torch.tensor([0.0, tilt])
    prices -= shift
    labels, certain = first_look(rows, book, prices)
    assert not certain.any()
    expected, _ = brute_force(rows, book, prices.numpy())
    assert (expected == int(tilt < 0)).all()
    assert_array_equal(nearest(rows, Codewords(book, prices)), expected)


def test_upper_bounds_are_upper_bounds(rough, monkeypatch):
    rows, book = draw(500, 64, 90)
    found = []
    largest = _rough._largest_two

    def keep(bounds):
        found.append(bounds.float())
        return largest(bounds)

    monkeypatch.setattr(_rough, "_largest_two", keep)
    first_look(rows, book)
    _, scores = brute_force(rows, book)
    bounds = found[0].double().numpy() * (1 + np.sign(found[0].numpy()) * 2.0**-8)
    assert (bounds + 1e-4 >= -scores).all()
    # And no wider than rounding can explain.
    norms = np.outer(rows.norm(dim=1), 2 * book.norm(dim=1))
    assert (bounds + scores <= 0.02 * norms + 0.02 * np.abs(scores)).all()


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_the_nearest_codeword_is_among_the_rivals(rough, noise):
    rows, book = draw(3000, 64, 100)
    rows *= 0.3
    far = torch.from_numpy(np.random.default_rng(1).normal(size=rows.shape)).float()
    moved = rows + noise * far / far.norm(dim=1, keepdim=True)
    words, norms = Codewords(book), row_norms(moved)
    slack = 2 * _nearest._sum_error(norms, words)
    noises = torch.full((len(rows),), noise) if noise else None
    labels, doubtful, rivals = rough_labels(moved, words.rough, norms, slack, noises)
    expected, scores = brute_force(rows, book)
    assert 0 < len(doubtful) < 0.9 * len(rows)
    assert rivals[torch.arange(len(doubtful)), expected[doubtful]].all()
    assert rivals[torch.arange(len(doubtful)), labels[doubtful]].all()
    # Two or three codewords, and not all of them.
    assert rivals.sum() < 5 * len(doubtful)


@pytest.mark.parametrize("value", [3.4e38, np.inf, np.nan, 2e19])
def test_what_cannot_be_computed_is_not_certain(rough, value):
    rows, book = draw(100, 16, 32)
    rows[7, 3] = value
    _, certain = first_look(rows, book)
    assert not certain[7]
    assert certain.mean() > 0.9


def test_short_codewords_do_not_spoil_the_look(rough):
    rows, book = draw(2000, 64, 100)
    book[3], book[5] = 0, book[5] * 1e-36
    labels, certain = first_look(rows, book)
    assert certain.mean() > 0.9
    expected, _ = brute_force(rows, book)
    assert_array_equal(labels[certain], expected[certain])


def test_squares_that_vanish_are_part_of_the_bound(rough):
    # In float32 the norm of the rows is zero; in bfloat16 the wrong codeword is ahead.
    n_features, unit = 256, 2.0**-76
    rows = torch.full((100, n_features), unit)
    rows[:, :128] *= 1 + 0.49 * 2.0**-7
    rows[:, -1] *= 1.25
    assert float(rows.norm(dim=1).max()) == 0
    book = torch.zeros(64, n_features)
    book[0] = 1
    book[0, 128:] = -1
    book[1] = -book[0]
    book[2:, :128:2], book[2:, 1:128:2] = 1, -1
    squares = book.double().square().sum(1)
    similarity = 2 * rows.double() @ book.double().T
    assert (similarity.argmax(1) == 0).all()
    assert (similarity[:, 0] > 0).all()
    _, certain = first_look(rows, book, -squares)
    assert not certain.any()


@pytest.mark.parametrize("value", [-3.4e38, 3.4e38])
def test_offsets_that_overflow_are_left_to_float32(rough, value):
    rows, book = draw(100, 16, 32)
    prices = torch.zeros(16).double()
    prices[0], prices[1] = value, -1e36
    words = Codewords(book, prices)
    assert words.rough is None
    expected, _ = brute_force(rows, book, prices.numpy())
    assert_array_equal(nearest(rows, words), expected)


def test_equal_codewords_are_not_certain_and_the_first_is_taken(rough):
    rows, book = draw(200, 16, 32)
    book[9] = book[4]
    labels, certain = first_look(rows, book)
    assert not certain[np.isin(labels, [4, 9])].any()
    assert 9 not in nearest(rows, Codewords(book))


def test_numbers_are_put_in_order_and_back():
    numbers = torch.tensor([-torch.inf, -2.0, -1e-30, -0.0, 0.0, 1e-30, 3.0, torch.inf])
    keys = numbers.bfloat16().view(torch.int16).numpy().copy()
    before = keys.copy()
    _rough._in_order(keys, np.empty_like(keys))
    assert (np.diff(keys.astype(int)) > 0).all()
    _rough._in_order(keys, np.empty_like(keys))
    assert_array_equal(keys, before)


def test_a_look_that_tells_little_is_the_last(rough):
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.normal(size=(300, 400)).astype(np.float32))
    words = Codewords(rows[:256].clone())
    others = torch.from_numpy(rng.normal(size=rows.shape).astype(np.float32))
    assert isinstance(words.rough, RoughCodewords)
    expected, _ = brute_force(others, rows[:256])
    assert_array_equal(nearest(others, words), expected)
    assert words.rough is None


def test_small_products_are_not_looked_at_first(monkeypatch):
    monkeypatch.setattr(_rough, "bfloat16_is_faster", lambda: True)
    offsets = torch.zeros(256, dtype=torch.float64)
    assert rough_codewords(torch.zeros(256, 64), offsets) is None
    assert rough_codewords(torch.zeros(16, 256), offsets[:16]) is None
    assert rough_codewords(torch.zeros(256, 256), offsets) is not None
    monkeypatch.setattr(_rough, "bfloat16_is_faster", lambda: False)
    assert rough_codewords(torch.zeros(256, 256), offsets) is None
