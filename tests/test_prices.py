"""Prices of a level, and codewords that move where copies are in the way."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from samples import draw, leftover, squared_distances

from sk_rqkplus import RQKMeans, _prices, _scores
from sk_rqkplus._lloyd import Level
from sk_rqkplus._nearest import Codewords, nearest
from sk_rqkplus._prices import Balance, balance_prices, follow
from sk_rqkplus._residual import Leftover


@pytest.mark.parametrize("relaxation", [0.5, 1.0, 1.5])
def test_members_stay_as_near_when_codewords_move(relaxation):
    rows, book = draw(300, 10)
    prices = torch.linspace(-3, 3, 10).double()
    prices[2] = 0
    labels = nearest(rows, Codewords(book, prices))
    counts = torch.bincount(labels, minlength=10)
    counts[4] = 0
    means = torch.stack(
        [rows[labels == k].mean(0) if n else book[k] for k, n in enumerate(counts)]
    )
    means = torch.lerp(book, means, relaxation)
    after = follow(prices, book, means, counts, relaxation)
    assert after[2] == after[4] == 0
    counts[2] = 0
    for k in torch.nonzero(counts).squeeze(1).tolist():
        mine = rows[labels == k]
        near = [
            squared_distances(mine, books[k : k + 1]).mean() + float(price[k])
            for books, price in ((book, prices), (means, after))
        ]
        assert_allclose(near[1], near[0], rtol=1e-5)


def test_streamed_rows_get_the_same_prices(monkeypatch):
    rows, book = draw(3000, 12)
    expected = balance_prices(leftover(rows), book, 0.0).prices
    monkeypatch.setattr(_scores, "CACHED_SCORES_OF_A_FILE", 0)
    zero = np.zeros(rows.shape[1], np.float32)
    streamed = balance_prices(Leftover(rows.numpy(), zero, 1.0, keep=False), book, 0.0)
    assert_array_equal(streamed.prices, expected)


@pytest.mark.parametrize("seed", [8, 9, 11])
def test_codewords_move_on_where_copies_leave_a_gap(industrial, seed):
    # Eleven pairs of equal items; at the first codewords they left up to 3e-4.
    rq = RQKMeans((256,), balance="all", augment="none", random_state=seed)
    codes = rq.fit_transform(industrial)
    assert 0 <= rq.duality_gap_[0] <= 1e-4
    assert set(np.bincount(codes[:, 0])) == {14, 15}


def balanced_in_tries(monkeypatch, balances, n_rows=200):
    """A level whose tries come to some balances, and the codebooks of these."""
    rows, book = draw(n_rows, 20)
    left, tried = leftover(rows), []

    def balance_prices(left, codebook, *args, **kwargs):
        tried.append(codebook)
        gap, n_beyond, parted = balances[len(tried) - 1]
        prices = torch.full((20,), float(len(tried)), dtype=torch.float64)
        return Balance(prices, gap, 0.0, n_beyond, parted)

    monkeypatch.setattr(_prices, "balance_prices", balance_prices)
    monkeypatch.setattr(_prices, "_error", lambda left, codebook: float(len(left)))
    prices = torch.zeros(20, dtype=torch.float64)
    level = Level(book, prices, 7, 100.0, n_rows=100)
    level = _prices.balance_level(left, level, 0.0, lambda: left.points)
    assert_allclose(level.gap, balances[int(level.prices[0]) - 1][0] / n_rows)
    assert level.codebook is tried[int(level.prices[0]) - 1]
    return level, tried


@pytest.mark.parametrize("most, rtol", [(10**6, 1e-6), (333, 0.2)])
def test_a_gap_is_relative_to_the_error_without_balance(monkeypatch, most, rtol):
    monkeypatch.setattr(_prices, "MOST_ERRORS", most)
    rows, book = draw(2000, 20)
    balance = Balance(torch.ones(20, dtype=torch.float64), 3.0, 0.0, 0, False)
    monkeypatch.setattr(_prices, "balance_prices", lambda *args, **kwargs: balance)
    level = Level(book, torch.zeros(20, dtype=torch.float64), 7, 1e9, n_rows=100)
    left = leftover(rows)
    level = _prices.balance_level(left, level, 0.0, lambda: left.points)
    error = torch.cdist(rows.double(), book.double()).min(1).values.square().sum()
    assert level.gap == pytest.approx(3.0 / float(error), rel=rtol)


def test_codewords_move_on_until_copies_leave_no_gap(monkeypatch):
    balances = [(1.0, 0, True), (0.0, 1, True), (0.0, 0, True)]
    level, tried = balanced_in_tries(monkeypatch, balances)
    assert (len(tried), level.n_iter) == (3, 9)
    # To the means of their members, a part of the way: equal prices leave these where
    # they are nearest.
    rows, book = draw(200, 20)
    labels = nearest(rows, Codewords(book))
    means = torch.stack([rows[labels == k].mean(0) for k in range(20)])
    assert_allclose(tried[1], torch.lerp(book, means, _prices.NUDGE), atol=1e-5)


@pytest.mark.parametrize(
    "balances, n_tries, best",
    [
        # Not for copies.
        ([(1.0, 3, False)], 1, 1),
        # A gap of 5e-5 of the error is small enough.
        ([(0.01, 0, True)], 1, 1),
        # Not for ever, and the best is kept.
        ([(3.0, 1, True), (2.0, 0, True), (1.0, 0, True), (1.5, 0, True)], 4, 3),
        ([(1.0, 0, True), (0.0, 1, True), (0.0, 1, True), (0.0, 1, True)], 4, 1),
    ],
)
def test_codewords_move_on_for_copies_alone(monkeypatch, balances, n_tries, best):
    level, tried = balanced_in_tries(monkeypatch, balances)
    assert len(tried) == n_tries
    assert level.codebook is tried[best - 1]


def test_codewords_stay_where_one_row_makes_no_difference(monkeypatch):
    _, tried = balanced_in_tries(monkeypatch, [(1e6, 1, True)], 20_001)
    assert len(tried) == 1


@pytest.mark.parametrize("exact", [True, False])
def test_rows_that_are_all_in_a_crowd_have_no_prices(exact):
    rows, book = draw(4, 2)[0].repeat(40, 1), draw(16, 8)[0][:8]
    prices = torch.arange(8).double()
    balance = balance_prices(leftover(rows), book, 0.0, prices, exact=exact)
    assert not balance.prices.any()
    assert (balance.crowd, balance.n_beyond) == (1.0, 0)
