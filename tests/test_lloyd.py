"""Lloyd iterations, their start and their repairs."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from samples import blobs, tensor

from sk_rqkplus import _lloyd
from sk_rqkplus._lloyd import lloyd, merged_stats, partial_stats, step
from sk_rqkplus._members import Stats, member_sums
from sk_rqkplus._points import Points
from sk_rqkplus._seeding import kmeans_plus_plus


def test_statistics_by_hand():
    rows = Points(tensor([[1.0], [2.0], [9.0]]))
    stats = partial_stats(rows, tensor([[1.0], [-9.0], [8.0]]))
    assert_array_equal(stats.sums, [[3.0], [0.0], [9.0]])
    assert_array_equal(stats.counts, [2, 0, 1])
    # (1-1)^2 + (2-1)^2 + (9-8)^2
    assert stats.inertia(tensor([[1.0], [0.0], [8.0]]), 86.0) == pytest.approx(2.0)


def test_statistics_add_up():
    rows, labels = blobs(100), torch.arange(100) % 4
    whole = member_sums(rows, labels, 4)
    first = member_sums(rows[:30], labels[:30], 4)
    second = member_sums(rows[30:], labels[30:], 4)
    parts = first.merge(second)
    assert_array_equal(parts.sums, second.merge(first).sums)
    assert isinstance(parts, Stats)
    assert_allclose(parts.sums, whole.sums, rtol=1e-12)
    assert_array_equal(parts.counts, whole.counts)


def test_one_iteration_by_hand():
    rows = tensor([[0.0], [1.0], [10.0], [11.0]])
    level = lloyd(Points(rows), tensor([[1.0], [10.0]]), 10, 0.0)
    assert_array_equal(level.codebook, [[0.5], [10.5]])
    assert level.inertia == pytest.approx(1.0, rel=1e-5)


def test_iterations_go_beyond_the_means_and_end_there():
    rows = tensor([[0.0], [1.0], [10.0], [11.0]])
    start = tensor([[1.0], [10.0]])
    stats = merged_stats(Points(rows), start, exact=True)
    assert_array_equal(step(stats, Points(rows), start), [[0.5], [10.5]])
    assert_array_equal(step(stats, Points(rows), start, 1.5), [[0.25], [10.75]])
    # The last of two iterations starts from there.
    level = lloyd(Points(rows), start, 2, 0.0)
    assert level.inertia == pytest.approx(2 * (0.25**2 + 0.75**2))
    assert_array_equal(level.codebook, [[0.5], [10.5]])


def test_an_empty_codeword_does_not_go_beyond_its_row():
    rows = tensor([[0.0], [1.0], [10.0]])
    codebook = tensor([[0.5], [100.0]])
    stats = merged_stats(Points(rows), codebook, exact=True)
    found = step(stats, Points(rows), codebook, 1.5)
    assert float(found[1]) == 10.0


def test_a_run_ends_where_means_are_little_better():
    rows = tensor([[0.0], [2.0], [10.0], [12.0]])
    start = tensor([[1.5], [11.0]])
    stats = merged_stats(Points(rows), start, exact=True)
    # Inertia 1.5^2 + 0.5^2 + 1 + 1; at the mean of the first two rows 2 * 0.5^2 less.
    assert stats.inertia(start, 248.0) == pytest.approx(4.5)
    assert stats.excess(start) == pytest.approx(0.5)
    assert lloyd(Points(rows), start, 10, 0.12).n_iter == 1
    assert lloyd(Points(rows), start, 10, 0.11).n_iter == 2
    # It ends at the means all the same.
    assert_array_equal(lloyd(Points(rows), start, 10, 1.0).codebook, [[1.0], [11.0]])


def test_a_run_does_not_end_while_an_empty_codeword_finds_a_place():
    rows = tensor([[0.0], [2.0], [10.0]])
    # The two that have members are at their means.
    level = lloyd(Points(rows), tensor([[1.0], [10.0], [99.0]]), 10, 0.0)
    assert_array_equal(np.sort(level.codebook[:, 0]), [0.0, 2.0, 10.0])
    # And it ends where there is none.
    rows = tensor([[0.0], [10.0], [10.0]])
    level = lloyd(Points(rows), tensor([[0.0], [10.0], [99.0]]), 10, 0.0)
    assert level.n_iter == 2


def test_an_empty_codeword_does_not_prolong_a_run_for_little(monkeypatch):
    rows, far = blobs(), torch.full((1, 8), 99.0)
    start = rows[kmeans_plus_plus(rows, 10, np.random.RandomState(0))]
    # There is no place for one more.
    monkeypatch.setattr(_lloyd, "_worst_rows", lambda *args: far)
    tol = 1e-3
    expected = lloyd(Points(rows), start, 50, tol).n_iter
    found = lloyd(Points(rows), torch.cat([start, far]), 50, tol).n_iter
    to_the_end = lloyd(Points(rows), torch.cat([start, far]), 50, 0.0).n_iter
    assert expected <= found <= expected + 1 < to_the_end - 1


def test_a_perfect_fit_ends_where_rounding_is_all_that_is_left():
    # Codewords cannot be nearer to the means than float32 has numbers.
    rng = np.random.default_rng(0)
    centres = np.float32(rng.normal(size=(8, 16)))
    noise = 1e-7 * rng.normal(size=(4000, 16))
    rows = tensor(np.repeat(centres, 500, axis=0) + noise)
    level = lloyd(Points(rows), torch.from_numpy(centres), 25, 0.0)
    assert level.n_iter <= 2


def test_inertia_never_rises():
    rows = blobs()
    start = rows[kmeans_plus_plus(rows, 10, np.random.RandomState(0))]
    inertias = [lloyd(Points(rows), start, n, 0.0).inertia for n in range(1, 8)]
    assert (np.diff(inertias) <= 1e-6 * inertias[0]).all()


def test_long_sums_are_accurate():
    rows = torch.ones(300_000, 1) + 1e-3
    codebook = tensor([[1.0], [9.0]])
    for exact, tolerance in ((True, 1e-15), (False, 3e-6)):
        stats = merged_stats(Points(rows), codebook, exact=exact)
        expected = float(rows[0]) * 300_000
        assert float(stats.sums[0]) == pytest.approx(expected, rel=tolerance)
        assert_array_equal(stats.counts, [300_000, 0])


def move(rows, labels, codebook):
    points = Points(rows)
    points.remember(codebook, labels)
    return step(merged_stats(points, codebook, exact=True), points, codebook)


def test_empty_codeword_goes_to_the_worst_row():
    rows = tensor([[0.0], [1.0], [50.0]])
    codebook = move(rows, torch.tensor([0, 0, 0]), tensor([[0.0], [99.0]]))
    assert_array_equal(codebook, [[17.0], [50.0]])


def test_empty_codewords_go_to_different_rows():
    rows = tensor([[0.0], [50.0], [50.0], [40.0]])
    start = tensor([[0.0], [98.0], [99.0]])
    codebook = move(rows, torch.zeros(4, dtype=torch.int64), start)
    assert_array_equal(codebook[1:].sort(dim=0).values, [[40.0], [50.0]])


def test_no_codeword_stays_empty():
    # From a start where all codewords but one are far away.
    rows = blobs(500, n_blobs=20)
    start = torch.cat([rows[:1], rows[:1] + 1e4 + torch.arange(19)[:, None]])
    level = lloyd(Points(rows), start, 25, 0.0)
    distances = torch.cdist(rows, level.codebook)
    assert len(distances.argmin(1).unique()) == 20
