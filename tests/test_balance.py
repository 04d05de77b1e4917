"""Prices against the exact optimum, and what they promise."""

from itertools import product

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from samples import draw, leftover, squared_distances
from scipy.optimize import linear_sum_assignment

from sk_rqkplus import RQKMeans, _balance, _cells, _moments, _scores
from sk_rqkplus._balance import Bounds, capacities, fetch, lower_imbalance
from sk_rqkplus._cells import Cells, Distances
from sk_rqkplus._fixed_point import fixed_point_distances
from sk_rqkplus._near import near_in
from sk_rqkplus._nearest import Codewords, nearest
from sk_rqkplus._prices import balance_prices
from sk_rqkplus._scores import Scores


def find_prices(rows, book, tol=0.0):
    return balance_prices(leftover(rows), book, tol).prices


@pytest.mark.parametrize(
    "n_rows, n_codewords, tol, expected",
    [
        (10, 5, 0.0, (2, 2)),
        (11, 5, 0.0, (2, 3)),
        (100, 10, 0.25, (7, 13)),
        # (1 - 0.8) 10 is rounded to less than 2, and (1 + 0.1) 10 to more than 11.
        (100, 10, 0.8, (2, 18)),
        (100, 10, 0.1, (9, 11)),
        (3, 4, 5.0, (0, 3)),
    ],
)
def test_capacities_by_hand(n_rows, n_codewords, tol, expected):
    assert capacities(n_rows, n_codewords, tol) == expected


@pytest.mark.parametrize("seed", range(5))
def test_balance_is_the_optimal_assignment(seed):
    # 60 rows on 12 codewords of 5 places each: an assignment problem with 60 columns.
    rows, book = draw(60, 12, seed=seed)
    prices = find_prices(rows, book)
    labels = nearest(rows, Codewords(book, prices)).numpy()
    assert_array_equal(np.bincount(labels, minlength=12), 5)

    cost = np.repeat(squared_distances(rows, book), 5, axis=1)
    row, column = linear_sum_assignment(cost)
    assert_array_equal(labels[row], column // 5)


@pytest.mark.parametrize("spread, n_rows", [(0.1, 30_000), (0.01, 30_001), (1e-3, 999)])
def test_clusters_that_are_far_apart_share_their_rows(monkeypatch, spread, n_rows):
    rng = np.random.default_rng(0)
    centres, cluster = rng.normal(size=(4, 6)), rng.integers(4, size=n_rows)
    rows = centres[cluster] + spread * rng.normal(size=(n_rows, 6))
    rows = torch.from_numpy(rows.astype(np.float32))
    # Two of each cluster, which has a few rows too many or too few for two.
    book = torch.cat([rows[cluster == number][:2] for number in range(4)])
    # Rows that may move are few, so that they are none of those between clusters.
    monkeypatch.setattr(_cells, "MOST_MOVABLE", 2**15)
    balance = balance_prices(leftover(rows), book, 0.0)
    counts = torch.bincount(nearest(rows, Codewords(book, balance.prices)), minlength=8)
    assert counts.max() - counts.min() <= 1
    assert (balance.n_beyond, balance.gap) == (0, pytest.approx(0, abs=1e-9))
    if n_rows > 4096:
        monkeypatch.setattr(_cells, "MOST_BRIDGES", 0)
        assert balance_prices(leftover(rows), book, 0.0).n_beyond > 0


def test_groups_of_codewords_get_their_rows_by_hand():
    rows = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0], [100.0], [101.0], [102.0]])
    book = torch.tensor([[0.5], [3.0], [100.0], [101.5]])
    scores = Scores(leftover(rows), book)
    bounds = Bounds(8, 4)
    zero = torch.zeros(4, dtype=torch.float64)
    assert_array_equal(scores.labels(zero), [0, 0, 1, 1, 1, 2, 3, 3])
    prices = fetch(scores, zero, bounds, 0, group=np.array([0, 0, 1, 1]))
    labels = scores.labels(prices)
    # Of the five on the left, the last one is nearest to the others.
    assert_array_equal(labels >= 2, [False] * 4 + [True] * 4)
    # Prices of a group have changed alike.
    assert_allclose(prices[0] - prices[1], 0, atol=1e-9)
    assert_allclose(prices[2] - prices[3], 0, atol=1e-9)


def test_the_last_prices_count(monkeypatch):
    rows, book = draw(500, 16)
    monkeypatch.setattr(_cells, "ROUNDS", 1)
    assert balance_prices(leftover(rows), book, 0.0).n_beyond == 0


@pytest.mark.parametrize("n_rows, n_codewords", [(500, 16), (1003, 40), (64, 64)])
def test_counts_are_within_the_capacities(n_rows, n_codewords):
    rows, book = draw(max(n_rows, 2 * n_codewords), n_codewords)
    lower, upper = capacities(len(rows), n_codewords, 0.0)
    prices = find_prices(rows, book)
    counts = torch.bincount(nearest(rows, Codewords(book, prices)))
    assert counts.min() >= lower
    assert counts.max() <= upper


def test_tolerance_costs_less_distance():
    rows, book = draw(800, 16)
    distances = squared_distances(rows, book)
    totals = []
    for tol in (0.0, 0.5):
        labels = nearest(rows, Codewords(book, find_prices(rows, book, tol))).numpy()
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
        results.append(find_prices(rows, book).numpy())
    assert_array_equal(*results)


def test_no_row_is_indifferent_after_a_repair():
    rows, book = draw(400, 10)
    prices = find_prices(rows, book).numpy()
    scores = np.sort(squared_distances(rows, book) + prices, axis=1)
    assert (scores[:, 1] - scores[:, 0]).min() > 1e-9


@pytest.mark.parametrize("fine, error", [(True, 2.0**-40), (False, 2.0**-18)])
def test_fixed_point_distances_are_accurate(fine, error):
    rows, book = draw(200, 10, n_features=300)
    exact = squared_distances(rows, book)
    norms = rows.double().square().sum(1, keepdim=True).numpy()
    found = fixed_point_distances(rows.double(), book, fine=fine) + norms
    assert np.abs(found - exact).max() < error * exact.max()


@pytest.mark.parametrize("fine", [True, False])
def test_a_large_codeword_does_not_blur_the_others(fine):
    rows, book = draw(100, 10, n_features=77)
    before = fixed_point_distances(rows.double(), book, fine=fine)
    book[3] *= 1e6
    found = fixed_point_distances(rows.double(), book, fine=fine)
    others = np.arange(10) != 3
    assert_array_equal(found[:, others], before[:, others])


@pytest.mark.parametrize("fine", [True, False])
def test_fixed_point_distances_of_copies_are_equal(fine):
    rows, book = draw(301, 10, n_features=77)
    rows[300] = rows[5]
    found = fixed_point_distances(rows.double(), book, fine=fine)
    assert_array_equal(found[300], found[5])


@pytest.mark.parametrize("fine", [True, False])
def test_fixed_point_distances_do_not_depend_on_other_rows(fine):
    rows, book = draw(301, 10, n_features=77)
    rows[7] *= 1e6
    found = fixed_point_distances(rows.double(), book, fine=fine)
    for part in (slice(5, 6), slice(0, 7), slice(8, 301)):
        alone = fixed_point_distances(rows[part].double(), book, fine=fine)
        assert_array_equal(alone, found[part])


def test_newton_brings_counts_close():
    rows, book = draw(2000, 20)
    scores = Scores(leftover(rows), book)
    prices = lower_imbalance(scores, None, 0.0)
    counts = torch.bincount(scores.labels(prices), minlength=20)
    before = torch.bincount(scores.labels(torch.zeros(20)), minlength=20)
    assert (before - 100).abs().max() > 100
    assert (counts - 100).abs().max() <= 10


def moments_of(tile, temperature, most):
    near = near_in(tile.clone(), _moments.WINDOW * temperature)
    return _moments.moments(near, temperature, most)


def curvature_of(moments):
    shares = moments.shares().toarray()
    return np.diag(shares.T @ shares.sum(axis=1)) - shares.T @ shares


@pytest.mark.parametrize("temperature", [0.1, 0.5, 50.0])
def test_moments_are_those_of_all_shares(temperature):
    rows, book = draw(4000, 20)
    tile = torch.from_numpy(squared_distances(rows, book)).float()
    share = torch.softmax(-tile.double() / temperature, dim=1).numpy()
    expected = np.diag(share.sum(0)) - share.T @ share
    found = moments_of(tile, temperature, 1.0)
    assert_allclose(found.counts, share.sum(0), rtol=1e-2, atol=0.1)
    error = np.abs(curvature_of(found) - expected).max()
    assert error < 0.03 * np.abs(expected).max()
    # Equal prices for all move no row.
    assert np.abs(curvature_of(found).sum(axis=1)).max() < 1e-9


def test_moments_add_up():
    rows, book = draw(4000, 20)
    tile = torch.from_numpy(squared_distances(rows, book)).float()
    whole = moments_of(tile, 0.5, 1.0)
    parts = [moments_of(part, 0.5, 1.0) for part in tile.split(1500)]
    total = _scores.add_up(parts)
    assert_allclose(total.counts, whole.counts)
    assert_array_equal(total.shares().toarray(), whole.shares().toarray())


def test_curvature_is_that_of_some_rows_that_hesitate():
    rows, book = draw(4000, 20)
    tile = torch.from_numpy(squared_distances(rows, book)).float()
    whole = moments_of(tile, 0.5, 1.0)
    least_two = tile.sort(dim=1).values[:, :2]
    gap = (least_two[:, 1] - least_two[:, 0]) / 0.5
    hesitant = int((gap < -np.log(_moments.LEAST_SHARE)).sum())
    assert 1000 < hesitant < 4000
    assert whole.shares().shape[0] == hesitant
    some = moments_of(tile, 0.5, 500 / 4000)
    assert some.shares().shape[0] < 650
    assert_array_equal(some.counts, whole.counts)
    error = np.linalg.norm(curvature_of(some) - curvature_of(whole))
    assert error < 0.2 * np.linalg.norm(curvature_of(whole))
    # Of rows that have all decided there is none.
    assert not curvature_of(moments_of(tile * 1e6, 0.5, 1.0)).any()


def test_a_step_solves_the_equations_of_newton():
    rows, book = draw(4000, 20)
    tile = torch.from_numpy(squared_distances(rows, book)).float()
    found = moments_of(tile, 0.5, 1.0)
    excess = np.random.default_rng(0).normal(size=20)
    active = np.arange(20) != 7
    step = _balance._solve(found, excess, active, 0.01)
    matrix = curvature_of(found)
    matrix += np.diag(
        0.01 * (found.shares().T @ found.shares().sum(axis=1))
        + _balance.LEAST_HESITATION
    )
    expected = np.linalg.solve(matrix[np.ix_(active, active)], excess[active])
    assert step[7] == 0
    error = np.linalg.norm(step[active] - expected)
    assert error < 3 * _balance.SOLVED * np.linalg.norm(expected)


@pytest.mark.parametrize("tol", [0.99, 1.0, 4.0])
def test_bounds_that_allow_all_rows(tol):
    rows = torch.cat([torch.zeros(90), torch.ones(38)])[:, None]
    rows += torch.linspace(0, 0.3, 128)[:, None]
    for size in (2, 3):
        model = RQKMeans((size,), balance="all", balance_tol=tol, random_state=0)
        counts = np.bincount(model.fit_transform(rows.numpy())[:, 0])
        lower, upper = capacities(128, size, tol)
        assert lower <= counts.min()
        assert counts.max() <= upper


def test_legal_codewords_are_not_fetched():
    rows, book = draw(2000, 20)
    scores, bounds = Scores(leftover(rows), book), Bounds(2000, 20, 19.0)
    prices = torch.full((20,), 1e-3).double()
    counts = np.bincount(scores.labels(prices), minlength=20)
    # Far from what such prices ask for, and all of them within the bounds.
    assert bounds.error(bounds.excess(prices.numpy(), counts)) > 10
    assert bounds.violation(counts) == 0
    found = fetch(scores, prices, bounds, 104, strict=False)
    assert_array_equal(found, prices)


def newton_of(n_codewords):
    return _balance._Newton(None, None, np.zeros(n_codewords))


def test_codewords_that_overshoot_take_shorter_steps():
    newton = newton_of(3)
    for excess in ([8, 8, 8], [-7, 2, -1], [6, 1, 1]):
        newton._compare(np.array(excess, dtype=float))
    longest = _balance.LONGEST_STEP
    assert_array_equal(newton.longest, [longest / 4, longest, longest / 2])
    newton._compare(np.array([5.0, 0.5, 0]))
    assert_array_equal(newton.longest, [longest / 2, longest, longest])


def test_codewords_that_get_nowhere_take_longer_steps():
    newton = newton_of(3)
    for excess in ([8, 8, 0], [8, 4, 0], [8, 2, 0]):
        newton._compare(np.array(excess, dtype=float))
    longest = _balance.LONGEST_STEP
    assert_array_equal(newton.longest, [4 * longest, longest, longest])
    # Some rows are in sight.
    newton._compare(np.array([7.0, 1, 0]))
    assert_array_equal(newton.longest, [longest, longest, longest])


def test_a_balance_that_gets_too_cold_does_not_come_back_for_ever(monkeypatch):
    rows, book = draw(2000, 20)
    scores = Scores(leftover(rows), book)
    gap, heats = scores.typical_gap(), []

    def look(self, temperature):
        """Settled where it is warm, and far from it where it is not."""
        heats.append(temperature / gap)
        return 0.01 if heats[-1] > 0.1 else 20.0

    monkeypatch.setattr(_balance._Newton, "look", look)
    monkeypatch.setattr(_balance._Newton, "step", lambda self: None)
    lower_imbalance(scores, None, 0.0, loose=True)
    change = np.array(heats[1:]) / heats[:-1]
    assert (change > 1).sum() == _balance.MOST_WARMINGS
    # Most of the steps are left for where it is cold.
    assert np.mean(np.array(heats) < 0.1) > 0.5
    assert len(heats) == _balance.FEW_STEPS


def test_steps_that_succeed_are_damped_less():
    newton = newton_of(1)
    for excess, expected in ((8, 0.05), (4, 0.0125), (2, 0.003125), (3, 0.0125)):
        newton._compare(np.array([float(excess)]))
        assert newton.damping == expected
    for excess in (2.0, 1.0, 0.5):
        newton._compare(np.array([excess]))
    assert newton.damping == _balance.LEAST_DAMPING


def test_a_price_of_zero_does_not_go_to_the_wrong_side():
    newton = _balance._Newton(None, Bounds(60, 3, 0.4), np.zeros(3))
    newton.temperature, newton.excess = 1.0, np.array([-1.4, 5.5, 0.0])
    # Many rows hesitate between the first two: what is best for both together would
    # make the first one dearer, which has too few rows.
    half = np.full(200, 0.5)
    rows = np.full(100, 2), np.tile([0, 1], 100), half
    newton.moments = _moments.Moments(np.full(3, 20.0), [rows])
    active = np.array([True, True, False])
    assert _balance._solve(newton.moments, newton.excess, active, 0.05)[0] > 0.5
    newton.step()
    assert newton.prices[0] == newton.prices[2] == 0
    assert newton.prices[1] > 0.5


def test_many_codewords_are_balanced():
    rows, book = draw(6000, 1500, n_features=8)
    labels = nearest(rows, Codewords(book, find_prices(rows, book)))
    assert_array_equal(torch.bincount(labels, minlength=1500), 4)


@pytest.mark.parametrize("n_copies", [2, 3, 7])
def test_copies_share_a_codeword_and_counts_hold(n_copies):
    rows, book = draw(700, 20)
    rows[100 : 100 + 10 * n_copies] = rows[100:110].repeat(n_copies, 1)
    labels = nearest(rows, Codewords(book, find_prices(rows, book)))
    groups = labels[100 : 100 + 10 * n_copies].view(n_copies, 10)
    assert (groups == groups[0]).all()
    counts = torch.bincount(labels, minlength=20)
    assert (counts - 35).abs().max() <= n_copies // 2


@pytest.mark.parametrize("tol", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(15))
def test_duality_gap_is_zero_without_copies(seed, tol):
    rows, book = draw(1003, 40, seed=seed)
    balance = balance_prices(leftover(rows), book, tol)
    assert 0 <= balance.gap < 1e-9
    assert (balance.crowd, balance.n_beyond, balance.parted) == (0, 0, False)


def test_copies_are_found_among_rows_of_equal_sums():
    rows = np.array([[1.0, 2, 3], [3, 2, 1], [1, 2, 3], [2, 2, 2]])
    found = [group.tolist() for group in Distances(rows).copies()]
    assert found == [[0, 2]]


def test_duality_gap_bounds_the_optimum():
    # The gap of an assignment by Lagrangian duality, against an exact solver.
    rows, book = draw(60, 12)
    cost = np.repeat(squared_distances(rows, book), 5, axis=1)
    row, column = linear_sum_assignment(cost)
    best = cost[row, column].sum()
    rng = np.random.default_rng(0)
    bounds = Bounds(60, 12)
    for _ in range(20):
        prices = bounds.anchor(rng.normal(size=12))
        priced = squared_distances(rows, book) + prices
        labels = priced.argmin(axis=1)
        found = squared_distances(rows, book)[np.arange(60), labels].sum()
        gap = bounds.gap(prices, np.bincount(labels, minlength=12))
        assert found - gap <= best + 1e-9


def test_few_movable_rows_reach_the_same_optimum(monkeypatch):
    rows, book = draw(3000, 12)
    expected = nearest(rows, Codewords(book, find_prices(rows, book)))
    monkeypatch.setattr(_cells, "MOVABLE_ROWS", 16)
    found = nearest(rows, Codewords(book, find_prices(rows, book)))
    assert_array_equal(found, expected)


@pytest.mark.parametrize("n_movable", [16, 64])
def test_moves_to_near_cells_reach_the_same_optimum(monkeypatch, n_movable):
    rows, book = draw(3000, 40)
    expected = nearest(rows, Codewords(book, find_prices(rows, book)))
    counts = torch.bincount(expected, minlength=40)
    assert_array_equal(counts, 75)
    widths = []
    whole = Distances.nearest

    def note(self, prices, n_near):
        widths.append(n_near)
        return whole(self, prices, n_near)

    monkeypatch.setattr(Distances, "nearest", note)
    monkeypatch.setattr(_cells, "MOVABLE_ROWS", n_movable)
    monkeypatch.setattr(_cells, "LEAST_NEAR", 6)
    monkeypatch.setattr(_cells, "MOST_MOVABLE", 6 * min(40 * n_movable, 3000))
    found = nearest(rows, Codewords(book, find_prices(rows, book)))
    assert min(widths) <= 7
    assert_array_equal(found, expected)


@pytest.mark.parametrize("n_near", [3, 7, 20])
def test_distances_to_near_cells_are_those_to_all(n_near):
    rng = np.random.default_rng(0)
    values, prices = rng.random((50, 20)), rng.random(20)
    values[7] = values[3]
    whole = Distances(values)
    some = whole.nearest(prices, n_near)
    labels = whole.labels(prices)
    assert_array_equal(some.labels(prices), labels)
    for cell in np.unique(labels):
        inside = np.flatnonzero(labels == cell)
        assert_array_equal(some.to(inside, cell), values[inside, cell])
    assert [group.tolist() for group in some.copies()] == [[3, 7]]
    near = np.argsort(values + prices, axis=1)[:, :n_near]
    cell = int(np.bincount(labels).argmax())
    members = np.flatnonzero(labels == cell)
    increase = values[members] - values[members, cell][:, None]
    is_near = (near[members, None] == np.arange(20)[:, None]).any(axis=2)
    expected = np.where(is_near, increase, np.inf).min(axis=0)
    assert_array_equal(some.increases(members, cell, 20), expected)
    assert np.isinf(some.increases(members[:0], cell, 20)).all()
    # What is not near is as far as the farthest of what is, at least.
    farthest = np.sort(values + prices, axis=1)[members, n_near - 1][:, None] - prices
    bounds = np.where(is_near, np.inf, farthest - values[members, cell][:, None])
    assert_allclose(some.beyond(members, cell, prices), bounds.min(axis=0), rtol=1e-12)
    assert (np.where(is_near, np.inf, increase) >= bounds - 1e-12).all()
    assert np.isinf(some.beyond(members[:0], cell, prices)).all()


def test_a_balance_that_fails_is_no_worse_than_its_start(monkeypatch):
    rows, book = draw(2000, 20)
    scores, bounds = Scores(leftover(rows), book), Bounds(2000, 20)
    start = lower_imbalance(scores, None, 0.0, loose=True)
    counts = np.bincount(nearest(rows, Codewords(book, start)), minlength=20)
    astray = np.arange(20.0) * 1e3
    monkeypatch.setattr(Cells, "centred_prices", lambda self: astray)
    found, _, n_beyond, _ = _cells.exact_prices(scores, start, 0.0)
    assert_array_equal(found, start)
    assert n_beyond == bounds.violation(counts) > 0


def test_prices_stop_where_rows_that_stay_would_move():
    # Two rows of the first cell are to go to the second, for 1 and for 4 more each.
    table = Distances(np.array([[0.0, 1.0], [0.0, 4.0]]))
    for reach, counts, change in ((np.inf, [2, 3], 1.0), (0.5, [3, 2], 0.5)):
        cells = Cells(table, np.array([1, 2]), Bounds(5, 2), np.zeros(2), reach)
        cells.kept[:] = 2, 3
        cells.repair()
        assert_array_equal(cells.counts, counts)
        assert cells.prices[0] - cells.prices[1] == change
        # The margin of rows that stay is never used up.
        assert cells._widest_change(cells.prices) <= reach


@pytest.mark.parametrize("n_copied", [0, 400])
@pytest.mark.parametrize("away", [3.0, 12.0])
def test_a_far_pair_of_codewords_does_not_take_what_is_far(away, n_copied, monkeypatch):
    """Counts went further astray at every turn once, for more than an hour."""
    rows, book = draw(20000, 40)
    rows[19600:] += away
    rows[:n_copied] = rows[n_copied : 2 * n_copied]
    book[:2] = rows[19600:19602]
    scores = Scores(leftover(rows), book)
    prices = lower_imbalance(scores, None, 0.0)
    prices[:2] += 1.0
    left, repair = [], Cells.repair

    def noted(self, **kwargs):
        left.append(int(np.abs(self._excess(False)[:-1]).sum()))
        repair(self, **kwargs)

    monkeypatch.setattr(Cells, "repair", noted)
    prices, gap, n_beyond, parted = _cells.exact_prices(scores, prices, 0.0)
    labels = nearest(rows, Codewords(book, prices))
    counts = np.bincount(labels, minlength=40)
    assert len(left) > 1
    assert max(left) == left[0]
    if n_copied == 0:
        assert sorted(left, reverse=True) == left
        assert (gap < 1e-9, n_beyond, parted) == (True, 0, False)
        assert_array_equal(counts, 500)
    else:
        inertia = float((rows - book[labels]).double().square().sum())
        assert gap <= 1e-4 * inertia
        assert np.abs(counts - 500).max() <= 1


def test_room_is_found_where_a_cycle_has_next_to_none():
    # A row of the first cell and one of the second are indifferent, and there is little
    # room for prices to change that.
    frontier = np.ones((5, 5))
    np.fill_diagonal(frontier, np.inf)
    frontier[0, 1], frontier[1, 2], frontier[2, 0] = 0.0, 0.0, 3e-5
    prices = _cells._with_room(frontier, np.zeros(5), 1.0)
    slack = frontier + prices - prices[:, None]
    assert slack[:-1, :-1].min() > 1e-6


def test_of_rows_of_equal_margins_no_more_move_than_there_is_memory_for():
    margins = torch.tensor([2.0, 1.0, 2.0, 0.0, 2.0, 3.0])
    assert_array_equal(_cells._least(margins, 2.0, 4), [0, 1, 2, 3])
    assert_array_equal(_cells._least(margins, 1.0, 2), [1, 3])
    assert_array_equal(_cells._least(margins, np.inf, 9), np.arange(6))


def test_ties_do_not_keep_rows_from_their_near_cells(monkeypatch):
    """Rows on a grid, of which most are as far from two codewords."""
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.integers(0, 2, (4000, 16)).astype(np.float32))
    book = torch.eye(16) * 0.5
    widths = []
    whole = Distances.nearest

    def note(self, prices, n_near):
        widths.append((len(self.values), n_near))
        return whole(self, prices, n_near)

    monkeypatch.setattr(Distances, "nearest", note)
    monkeypatch.setattr(_cells, "MOVABLE_ROWS", 4)
    monkeypatch.setattr(_cells, "LEAST_NEAR", 8)
    monkeypatch.setattr(_cells, "MOST_MOVABLE", 8 * 64)
    find_prices(rows, book)
    assert min(width for _, width in widths) >= 8
    assert max(n_rows * width for n_rows, width in widths) <= 8 * 64


def test_a_lonely_codeword_gets_its_share():
    # A cluster of 40 rows far from 1000 others, with a codeword of its own.
    rows, book = draw(1040, 10)
    rows[1000:] += 100
    book = torch.cat([book[:9], rows[1000:1001]])
    counts = torch.bincount(nearest(rows, Codewords(book, find_prices(rows, book))))
    assert_array_equal(counts, 104)


def test_repair_joins_copies():
    # Three copies and a nearby row on two codewords of room for two each: no price can
    # part the copies.
    table = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.16, 0.36]])
    cells = Cells(Distances(table), np.zeros(2, int), Bounds(4, 2), np.zeros(2))
    cells.repair()
    assert sorted(cells.counts) == [1, 3]
    assert cells.parted


def test_repair_joins_copies_on_the_path_of_another_row():
    # Two codewords want three rows each, and one two; the copies at 5 are parted.
    rows = np.array([5.0, 5.0, 11.0, 3.0, 1.0, 7.0, 8.0, 9.0])
    table = np.square(rows[:, None] - [7.0, 8.0, 10.0])
    bounds = Bounds(8, 3)
    cells = Cells(Distances(table), np.zeros(3, int), bounds, np.zeros(3))
    cells.repair()
    assert cells.parted
    # All copies here or there would leave a codeword with one row, or with four.
    assert_array_equal(cells.counts, [2, 3, 3])
    labels = cells._labels()
    assert labels[0] == labels[1]


def cells_of_copies(seed, n_copies, n_near=3):
    """Eight rows of which the first are copies, to be shared out among three cells."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 12, 8).astype(float)
    rows[1:n_copies] = rows[0]
    whole = np.square(rows[:, None] - rng.permutation(12)[:3])
    table = Distances(np.empty((8, n_near)))
    if n_near < 3:
        table.cells = np.empty((8, n_near), dtype=np.int32)
    table.fill(slice(None), Distances(whole).nearest(np.zeros(3), n_near))
    return Cells(table, np.zeros(3, int), Bounds(8, 3), np.zeros(3)), whole


@pytest.mark.parametrize("n_copies", [2, 3, 4])
@pytest.mark.parametrize("seed", range(20))
def test_prices_of_joined_copies_bound_the_optimum(seed, n_copies):
    cells, distances = cells_of_copies(seed, n_copies)
    cells.repair()
    labels, prices = cells._labels(), cells.prices[:-1] - cells.prices[-1]
    assert (labels[:n_copies] == labels[0]).all()
    # Every row is where it is cheapest.
    priced = distances + prices
    assert_allclose(priced[range(8), labels], priced.min(axis=1), atol=1e-9)
    least = min(
        distances[range(8), choice].sum()
        for choice in product(range(3), repeat=8)
        if cells.bounds.violation(np.bincount(choice, minlength=3)) == 0
    )
    gap = cells.bounds.gap(prices, cells.counts)
    assert distances[range(8), labels].sum() - gap <= least + 1e-9


def test_copies_are_joined_where_cells_know_the_near_ones():
    n_parted = 0
    for seed in range(20):
        cells, _ = cells_of_copies(seed, 3, n_near=2)
        cells.repair()
        n_parted += cells.parted
        assert len(np.unique(cells._labels()[:3])) == 1
    assert n_parted > 0


def test_copies_go_together_the_way_that_costs_least(monkeypatch):
    join, found = Cells._ways_together, []

    def ways_together(self, copies, label):
        ways = join(self, copies, label)
        found.append((ways, len(np.unique(label))))
        return ways

    monkeypatch.setattr(Cells, "_ways_together", ways_together)
    n_direct = n_on_paths = n_in_three = 0
    for seed in range(200):
        found.clear()
        cells, _ = cells_of_copies(seed, 3)
        cells.repair()
        for ways, n_cells in found:
            costs = [cost for cost, _, _ in ways]
            # One direct way for every cell comes first.
            on_path = costs.index(min(costs)) >= n_cells
            n_on_paths, n_direct = n_on_paths + on_path, n_direct + (not on_path)
            n_in_three += n_cells > 2
        if len(found) == 1:
            (ways, _), prices = found[0], cells.prices[:-1] - cells.prices[-1]
            counts = cells.counts
            cost = cells.bounds.violation(counts), cells.bounds.gap(prices, counts)
            assert cost == min(cost for cost, _, _ in ways)
    assert min(n_direct, n_on_paths, n_in_three) > 0


def test_copies_that_no_counts_suit_do_not_move_for_ever(monkeypatch):
    # Pairs alone, and an odd number of rows for each codeword.
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(30, 2))).float()
    table = squared_distances(rows.repeat(2, 1), rows[:4])
    cells = Cells(Distances(table), np.zeros(4, int), Bounds(60, 4), np.zeros(4))
    moves = []
    move = Cells._move
    monkeypatch.setattr(Cells, "_move", lambda *args: moves.append(move(*args)))
    cells.repair()
    cells.repair(together=True)
    assert cells.bounds.violation(cells.counts) > 0
    assert _cells.PATIENCE < len(moves) < 3 * _cells.PATIENCE


def test_bounds_ask_for_what_adds_up():
    bounds = Bounds(11, 4)
    assert (bounds.lower, bounds.upper) == (2, 3)
    prices = bounds.anchor(np.array([5.0, 1.0, 4.0, 3.0]))
    # Three codewords of the largest prices get one row more, the last one is free.
    assert_array_equal(prices, [4.0, 0.0, 3.0, 2.0])
    assert_array_equal(bounds.wanted(prices, np.array([9, 9, 0, 0])), [3, 3, 3, 3])
    assert bounds.gap(prices, np.array([3, 2, 3, 3])) == 0
    assert bounds.gap(prices, np.array([2, 3, 3, 3])) == 4.0
