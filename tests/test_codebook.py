"""Fits of one codebook: stages, runs and threads."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from samples import blobs

from sk_rqkplus import _codebook
from sk_rqkplus._codebook import fit_codebook
from sk_rqkplus._points import Points


def test_many_rows_are_settled_on_a_sample_first(monkeypatch):
    rows, seen = blobs(4096), []
    whole = _codebook.lloyd

    def note(points, codebook, *args, **kwargs):
        stage = len(points), codebook is not None and codebook.shape[1]
        # The coarse stage runs it several times.
        seen.extend([stage] * (seen[-1:] != [stage]))
        return whole(points, codebook, *args, **kwargs)

    monkeypatch.setattr(_codebook, "lloyd", note)
    monkeypatch.setattr(_codebook, "COARSE_ROWS", 64)
    fit_codebook(Points(rows), 10, np.random.RandomState(0))
    assert seen == [(640, 8), (4096, 8)]
    seen.clear()
    monkeypatch.setattr(_codebook, "SAMPLE_ROWS", 128)
    level = fit_codebook(Points(rows), 10, np.random.RandomState(0))
    assert seen == [(640, 8), (1280, 8), (4096, 8)]
    assert level.n_iter < 5
    seen.clear()
    monkeypatch.setattr(_codebook, "MOST_SAMPLE_ROWS", 1000)
    fit_codebook(Points(rows), 10, np.random.RandomState(0))
    assert seen == [(640, 8), (1000, 8), (4096, 8)]


@pytest.mark.parametrize("balance_tol", [None, 0.0])
def test_threads_do_not_matter(two_threads, balance_tol):
    rows = blobs(5000, n_features=40)
    results = []
    for threads in (1, 2):
        two_threads(threads)
        rng = np.random.RandomState(0)
        results.append(fit_codebook(Points(rows), 32, rng, balance_tol=balance_tol))
    assert_array_equal(results[0].codebook, results[1].codebook)
    assert_array_equal(results[0].prices, results[1].prices)


def test_more_runs_are_not_worse():
    rows = blobs(800, n_blobs=30)

    def inertia(n_init):
        rng = np.random.RandomState(0)
        return fit_codebook(Points(rows), 30, rng, init="random", n_init=n_init).inertia

    assert inertia(5) <= inertia(1)


def test_coarse_start_is_as_good():
    # Enough rows that Lloyd begins on a subset of them.
    rows = blobs(8000, n_blobs=8)
    level = fit_codebook(Points(rows), 8, np.random.RandomState(0))
    assert level.inertia / rows.numel() < 1.05
