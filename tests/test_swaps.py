"""Codewords that change places."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sk_rqkplus import _codebook, _swaps
from sk_rqkplus._lloyd import lloyd
from sk_rqkplus._nearest import Codewords
from sk_rqkplus._points import Points
from sk_rqkplus._swaps import swap


def clusters(n_clusters, n_rows, spread, seed=0):
    """Rows around well separated centres, as many around each."""
    rng = np.random.RandomState(seed)
    centres = 10 * rng.randn(n_clusters, 6)
    rows = np.repeat(centres, n_rows, axis=0) + spread * rng.randn(
        n_clusters * n_rows, 6
    )
    return torch.from_numpy(rows).float(), torch.from_numpy(centres).float()


def error(rows, codebook):
    return float(torch.cdist(rows.double(), codebook.double()).amin(1).square().sum())


def test_a_codeword_goes_to_the_cluster_that_has_none():
    rows, centres = clusters(5, 100, 0.1)
    # Two codewords share the first cluster, and one has the last two.
    start = torch.stack(
        [rows[0], rows[1], *centres[1:3], (centres[3] + centres[4]) / 2]
    )
    stuck = lloyd(Points(rows), start, 50, 0.0).codebook
    assert error(rows, stuck) > 100 * error(rows, centres)
    found, spared = swap(Points(rows), stuck, np.random.RandomState(0))
    # The two halves of two clusters, and all of it is in between them.
    expected = error(rows, stuck) - error(rows, centres)
    assert_allclose(spared, expected, rtol=0.1)
    # One of the first two is as it was; the others that matter are.
    assert sorted((found == stuck).all(1).tolist()) == [False] * 2 + [True] * 3
    settled = lloyd(Points(rows), found, 50, 0.0).codebook
    assert_allclose(error(rows, settled), error(rows, centres), rtol=0.05)


def test_what_is_best_stays():
    rows, centres = clusters(8, 200, 0.1)
    book = lloyd(Points(rows), centres, 50, 0.0).codebook
    found, spared = swap(Points(rows), book, np.random.RandomState(0))
    assert spared == 0
    assert torch.equal(found, book)


def test_loss_is_that_of_brute_force():
    rng = np.random.RandomState(0)
    rows = torch.from_numpy(rng.randn(5000, 4)).float()
    rows[:, 0] *= 3
    book = rows[:12]
    squared = torch.cdist(rows.double(), book.double()).square()
    label = squared.argmin(1)
    parts = [
        _swaps._members_of(block, Codewords(book)) for block in Points(rows).blocks()
    ]
    assert_array_equal(torch.cat([part.labels for part in parts]), label)
    loss = sum(part.loss for part in parts)
    for k in range(12):
        others = squared[:, [other for other in range(12) if other != k]].amin(1)
        expected = (others - squared.amin(1))[label == k].sum()
        assert_allclose(float(loss[k]), float(expected), rtol=1e-4, atol=1e-3)


def test_members_are_halved_where_they_spread():
    rng = np.random.RandomState(0)
    rows = rng.randn(2000, 5).astype(np.float32)
    rows[:, 3] *= 20
    # Far off, and cheap to lose: its members are copies of one row and a close one.
    rows[1000:] = 500 + 1e-3 * rng.rand(1000, 1)
    book = torch.from_numpy(np.stack([rows[:1000].mean(0), rows[1000], rows[1001]]))
    found, spared = swap(Points(torch.from_numpy(rows)), book, rng)
    assert spared > 0
    # The mean of half a Gaussian is 0.8 standard deviations off.
    new = found[(found != book).any(1)]
    assert len(new) == 2
    assert_allclose(np.sort(new[:, 3]), [-16, 16], atol=1.5)
    assert_allclose(new[:, [0, 1, 2, 4]], 0, atol=0.3)


def test_neighbours_are_the_nearest_others():
    book = torch.from_numpy(np.random.RandomState(0).randn(2000, 7)).float()
    far = torch.cdist(book.double(), book.double()).fill_diagonal_(torch.inf)
    assert_array_equal(_swaps._neighbours(Codewords(book)), far.argmin(1))


PAIRS = [
    # The largest gain gets the codeword of least cost.
    ([9.0, 8.0, 1, 1, 1], [50.0, 50.0, 2, 1, 60], [1, 0, 4, 4, 2], [(3, 0), (2, 1)]),
    # Not worth it: the cost is not below the gain.
    ([9.0, 1.0, 1.0], [50.0, 9.0, 20.0], [1, 0, 0], []),
    # A codeword is not taken together with the neighbour that takes over.
    ([9.0, 8.0, 0.0, 0.0], [50.0, 50.0, 1.0, 2.0], [1, 0, 3, 2], [(2, 0)]),
    # The members of that neighbour may be halved.
    ([9.0, 8.0, 0, 0], [50.0, 50.0, 3, 1], [1, 2, 0, 1], [(3, 0)]),
    ([9.0, 8.0, 0, 0], [50.0, 50.0, 3, 1], [1, 2, 3, 1], [(3, 0)]),
    ([9.0, 8.0, 0, 0, 0], [50.0, 50.0, 3, 1, 60], [1, 2, 4, 1, 0], [(3, 0), (2, 1)]),
    # None halves its own members, nor is one taken that was halved.
    ([9.0], [1.0], [0], []),
    ([9.0, 8.0], [1.0, 2.0], [1, 0], []),
]


@pytest.mark.parametrize("gain, cost, near, expected", PAIRS)
def test_pairs(monkeypatch, gain, cost, near, expected):
    monkeypatch.setattr(_swaps, "MOST", 1.0)
    assert list(_swaps._pairs(gain, cost, near)) == expected


def test_at_most_a_share_changes_places():
    gain, cost = [10.0] * 30 + [0.0] * 30, [100.0] * 30 + [1.0] * 30
    near = [*range(1, 30), 0, *range(31, 60), 30]
    pairs = list(_swaps._pairs(gain, cost, near))
    assert len({taken for taken, _ in pairs}) == len(pairs) == 15
    assert {halved for _, halved in pairs} == set(range(15))
    assert all(near[taken] not in {other for other, _ in pairs} for taken, _ in pairs)


def test_copies_and_empty_codewords_do_no_harm():
    # Their mean is not the row to the last bit.
    rows = torch.full((200, 3), 0.1)
    rows[100:] = 0.7
    book = torch.tensor([[0.1] * 3, [0.7] * 3, [7.0] * 3, [8.0] * 3])
    found, _ = swap(Points(rows), book, np.random.RandomState(0))
    assert torch.isfinite(found).all()
    assert error(rows, found) == 0
    one, spared = swap(Points(rows), book[:1], np.random.RandomState(0))
    assert spared == 0
    assert torch.equal(one, book[:1])


def test_noise_gets_no_worse():
    rng = np.random.RandomState(0)
    rows = torch.from_numpy(rng.randn(8192, 64)).float()
    points, book = Points(rows), rows[:64]
    plain = lloyd(points, book, 25, 1e-3).codebook
    found = _codebook._settle(points, book, 25, 1e-3, rng)
    assert error(rows, found) < 1.001 * error(rows, plain)


def test_threads_do_not_matter():
    rng = np.random.RandomState(0)
    rows = torch.from_numpy(rng.randn(12_000, 10)).float()
    found, before = [], torch.get_num_threads()
    for n_threads in (1, 2, 3):
        torch.set_num_threads(n_threads)
        found.append(swap(Points(rows), rows[:40], np.random.RandomState(0)))
    torch.set_num_threads(before)
    for codebook, spared in found[1:]:
        assert torch.equal(codebook, found[0][0])
        assert spared == found[0][1] > 0


@pytest.mark.parametrize("n_codewords", [16, 200])
def test_swaps_lower_the_error(n_codewords):
    rng = np.random.RandomState(0)
    # Parts of very different spread: a random start has too many in the dense ones.
    sizes = np.repeat([0.1, 0.3, 1.0, 3.0], 3000)[:, None]
    rows = torch.from_numpy(sizes * rng.randn(12_000, 6) + 5 * sizes).float()
    points, book = Points(rows), rows[:n_codewords]
    plain = lloyd(points, book, 100, 1e-5).codebook
    found = _codebook._settle(points, book, 100, 1e-5, rng)
    assert error(rows, found) < 0.95 * error(rows, plain)
