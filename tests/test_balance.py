"""Prices against the exact optimum, and what they promise."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from scipy.optimize import linear_sum_assignment

from sk_rqkplus._balance import Distances, capacities, repair, sweep_prices
from sk_rqkplus._lloyd import balance_prices, crowded
from sk_rqkplus._nearest import Codewords, nearest


def draw(n_rows, n_codewords, n_features=6, seed=0):
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(rng.normal(size=(n_rows, n_features)).astype(np.float32))
    # Codewords among few of the rows: far from balanced without prices.
    book = rows[: 2 * n_codewords : 2] * 1.5
    return rows, book


def squared_distances(rows, book):
    return torch.cdist(rows.double(), book.double()).square().numpy()


@pytest.mark.parametrize(
    "n_rows, n_codewords, tol, expected",
    [(10, 5, 0.0, (2, 2)), (11, 5, 0.0, (2, 3)), (100, 10, 0.25, (7, 13))],
)
def test_capacities_by_hand(n_rows, n_codewords, tol, expected):
    assert capacities(n_rows, n_codewords, tol) == expected


@pytest.mark.parametrize("seed", range(5))
def test_balance_is_the_optimal_assignment(seed):
    # 60 rows on 12 codewords of 5 places each: an assignment problem with 60 columns.
    rows, book = draw(60, 12, seed=seed)
    prices = balance_prices(rows, book, 0.0)
    labels = nearest(rows, Codewords(book, prices)).numpy()
    assert_array_equal(np.bincount(labels, minlength=12), 5)

    cost = np.repeat(squared_distances(rows, book), 5, axis=1)
    row, column = linear_sum_assignment(cost)
    assert_array_equal(labels[row], column // 5)


@pytest.mark.parametrize("n_rows, n_codewords", [(500, 16), (1003, 40), (64, 64)])
def test_counts_are_within_the_capacities(n_rows, n_codewords):
    rows, book = draw(max(n_rows, 2 * n_codewords), n_codewords)
    lower, upper = capacities(len(rows), n_codewords, 0.0)
    prices = balance_prices(rows, book, 0.0)
    counts = torch.bincount(nearest(rows, Codewords(book, prices)))
    assert counts.min() >= lower
    assert counts.max() <= upper


def test_tolerance_costs_less_distance():
    rows, book = draw(800, 16)
    distances = squared_distances(rows, book)
    totals = []
    for tol in (0.0, 0.5):
        labels = nearest(rows, Codewords(book, balance_prices(rows, book, tol))).numpy()
        counts = np.bincount(labels, minlength=16)
        assert counts.min() >= 50 * (1 - tol)
        assert counts.max() <= 50 * (1 + tol)
        totals.append(distances[np.arange(800), labels].sum())
    assert totals[1] < totals[0]


def test_prices_do_not_depend_on_threads(two_threads):
    rows, book = draw(3000, 32, n_features=50)
    results = []
    for threads in (1, 2):
        two_threads(threads)
        results.append(balance_prices(rows, book, 0.0).numpy())
    assert_array_equal(*results)


def test_no_row_is_indifferent_after_a_repair():
    rows, book = draw(400, 10)
    prices = balance_prices(rows, book, 0.0).numpy()
    scores = np.sort(squared_distances(rows, book) + prices, axis=1)
    assert (scores[:, 1] - scores[:, 0]).min() > 1e-9


def test_fixed_point_distances_are_accurate():
    rows, book = draw(200, 10, n_features=300)
    distances = Distances(rows, book)
    exact = squared_distances(rows, book)
    norms = rows.double().square().sum(1, keepdim=True).numpy()
    fine = distances.fine(torch.arange(200)).numpy() + norms
    coarse = distances.coarse(rows).numpy() + norms
    assert np.abs(fine - exact).max() < 1e-9 * exact.max()
    assert np.abs(coarse - exact).max() < 1e-3 * exact.max()


def test_sweeps_bring_counts_closer():
    rows, book = draw(2000, 20)
    zero = torch.zeros(20, dtype=torch.float64)

    def imbalance(prices):
        labels = nearest(rows, Codewords(book, prices))
        return torch.bincount(labels, minlength=20).double().std()

    prices = sweep_prices(Distances(rows, book), zero, 100, 100, [0.1] * 50)
    assert imbalance(prices) < imbalance(zero) / 4


def test_repair_moves_copies_together():
    # Three copies and a nearby row on two codewords of room for two each: no price can
    # part the copies, and the one that can move does.
    rows = torch.tensor([[0.0], [0.0], [0.0], [0.4]])
    book = torch.tensor([[0.0], [1.0]])
    labels, _ = repair(
        Distances(rows, book), torch.tensor([0, 0, 0, 0]), np.zeros(2), 2, 2
    )
    assert_array_equal(labels, [0, 0, 0, 1])


def test_crowds_are_left_out():
    rows = torch.tensor([[0.0], [0.0], [0.0], [1.0], [1.0], [2.0]])
    assert_array_equal(crowded(rows, 2), [True, True, True, False, False, False])
    # Equal norms alone are no crowd.
    assert not crowded(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), 1).any()
