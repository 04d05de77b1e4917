"""Nine rows in ten are copies: every one of them has an ID of its own."""

import time

import numpy as np
import pytest

from sk_rqkplus import RQKMeans


def copies(n_rows, seed=0):
    """Rows of which nine in ten are copies, a few of them of very many."""
    rng = np.random.RandomState(seed)
    own = rng.normal(size=(n_rows // 10, 16)).astype(np.float32)
    popular = rng.zipf(1.3, size=n_rows - len(own)) % len(own)
    rows = np.concatenate([own, own[popular]])
    return rows[rng.permutation(n_rows)]


@pytest.mark.filterwarnings("ignore:level . cannot be balanced")
@pytest.mark.parametrize("dedup", ["reassign", "suffix"])
def test_copies_have_distinct_ids(rounds, figure, dedup):
    X = copies(rounds(20_000, 1_000_000))
    n_distinct = len(np.unique(X, axis=0))
    begin = time.perf_counter()
    rq = RQKMeans((64, 64, 64), dedup=dedup, max_samples=100_000, random_state=0)
    rq.fit(X)
    seconds = time.perf_counter() - begin
    assert len(np.unique(rq.ids_, axis=0)) == len(X)
    np.testing.assert_array_equal(rq.predict(X), rq.ids_)
    np.testing.assert_array_equal(rq.predict(X[-50:]).shape, (50, 4))
    figure(
        f"duplicates: {dedup}",
        f"{len(X):,} rows, {n_distinct:,} of them distinct: all IDs unique, equal to "
        f"predict, fit in {seconds:.0f} s",
    )


def test_rows_that_are_all_the_same_have_distinct_ids(rounds):
    X = np.ones((rounds(2000, 200_000), 4), dtype=np.float32)
    with pytest.warns(UserWarning, match=r"codebook_sizes=\(4, 4\) became \(1, 1\)"):
        rq = RQKMeans((4, 4), random_state=0).fit(X)
    np.testing.assert_array_equal(np.sort(rq.ids_[:, -1]), np.arange(len(X)))
    np.testing.assert_array_equal(rq.predict(X), rq.ids_)
