"""Mixtures of neighbours, and when they are made."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.cluster import KMeans

from sk_rqkplus import RQKMeans
from sk_rqkplus._augment import nearest_others, resolve_augment, smoothed_bootstrap
from sk_rqkplus.metrics import perplexity


def draw(n_rows=60, n_features=5, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(n_rows, n_features)).astype(np.float32))


def test_neighbours_by_brute_force():
    rows = draw()
    distances = torch.cdist(rows, rows)
    distances.fill_diagonal_(torch.inf)
    expected = distances.topk(10, largest=False).indices
    found = nearest_others(rows, 10)
    assert_array_equal(found.sort().values, expected.sort().values)


def test_a_quarter_are_rows_and_the_rest_between_neighbours():
    # Two far apart groups: no mixture leaves the box of its group.
    rows = draw()
    rows[30:] += 100
    made = smoothed_bootstrap(rows, 400, np.random.RandomState(0))
    assert made.shape == (400, 5)
    real, mixed = made[:100], made[100:]
    counts = (real[:, None] == rows).all(2).sum(0)
    assert set(counts.tolist()) <= {1, 2}
    assert not (mixed[:, None] == rows).all(2).any()
    group = mixed[:, 0] > 50
    for side, part in ((~group, rows[:30]), (group, rows[30:])):
        assert side.sum() == 150
        assert (mixed[side] >= part.amin(0) - 1e-4).all()
        assert (mixed[side] <= part.amax(0) + 1e-4).all()


@pytest.mark.parametrize("n_rows", [2, 3, 11])
def test_few_rows_are_enough(n_rows):
    made = smoothed_bootstrap(draw(n_rows), 9, np.random.RandomState(0))
    assert made.shape == (9, 5)
    assert made.isfinite().all()


def test_threads_do_not_matter(two_threads):
    rows, results = draw(2000, 40), []
    for threads in (1, 2):
        two_threads(threads)
        results.append(smoothed_bootstrap(rows, 3000, np.random.RandomState(0)))
    assert torch.equal(*results)


@pytest.mark.parametrize(
    "augment, n_rows, expected",
    [
        ("none", 40, 0),
        ("auto", 39, 0),
        ("auto", 40, 1280),
        ("auto", 639, 1280),
        ("auto", 640, 0),
        (77, 5000, 77),
        (77, 1, 0),
    ],
)
def test_when_rows_are_made(augment, n_rows, expected):
    def count(limit):
        return min(limit, n_rows)

    assert resolve_augment(augment, count, 10) == expected


def test_unseen_rows_are_described_better(industrial):
    order = np.random.RandomState(1).permutation(len(industrial))
    new, known = industrial[order[:368]], industrial[order[368:]]
    errors = {}
    for augment in ("none", "auto"):
        rq = RQKMeans(balance="none", augment=augment, random_state=0).fit(known)
        errors[augment] = -rq.score(new)
        assert_array_equal(rq.codes_, rq.transform(known))
    assert errors["auto"] < 0.95 * errors["none"]
    assert errors["auto"] < 0.00106
    # All of the last two levels is used, and the fitted rows are described no worse
    # than by plain k-means.
    assert (perplexity(rq.codes_)[1:] >= 0.4 * 256).all()
    left = known
    for _ in range(3):
        level = KMeans(256, n_init=1, random_state=0).fit(left)
        left = left - level.cluster_centers_[level.labels_]
    assert -rq.score(known) <= np.square(left).mean()
