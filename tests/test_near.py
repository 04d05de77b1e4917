"""Lists of near codewords against whole tiles of scores."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from sk_rqkplus import RQKMeans, _scores
from sk_rqkplus._near import Shortlist, near_in
from sk_rqkplus._points import Points


def draw(n_rows, n_codewords, seed=0):
    """Scores without prices, of which the last codeword is far from all rows."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n_rows, 4))
    book = rng.normal(size=(n_codewords, 4))
    book[-1] += 20
    scores = (book**2).sum(1) - 2 * rows @ book.T
    return torch.from_numpy(scores.astype(np.float32))


def assert_same(one, other):
    assert one.n_codewords == other.n_codewords
    for name in ("least", "row", "column", "score"):
        assert_array_equal(getattr(one, name), getattr(other, name))
        assert getattr(one, name).dtype == getattr(other, name).dtype


@pytest.mark.parametrize("reach", [0.0, 0.5, 1e9])
def test_near_are_the_scores_within_reach(reach):
    tile = draw(200, 30)
    near = near_in(tile, reach)
    least = tile.min(dim=1).values
    expected = torch.nonzero(tile <= (least + reach)[:, None])
    assert_array_equal(np.stack([near.row, near.column], axis=1), expected)
    assert_array_equal(near.score, tile[near.row, near.column])
    assert_array_equal(near.least, least)
    assert_array_equal(near.labels(), tile.argmin(dim=1))


def test_ties_go_to_the_lower_codeword():
    tile = torch.tensor([[2.0, 1.0, 1.0], [0.0, 3.0, 0.0]])
    assert_array_equal(near_in(tile, 0.0).labels(), [1, 0])
    assert_array_equal(near_in(tile, 5.0).labels(), [1, 0])


@pytest.mark.parametrize("seed", range(20))
def test_a_list_tells_what_the_whole_tile_does_or_nothing(seed):
    rng = np.random.default_rng(seed)
    tile = draw(100, 30, seed)
    start = torch.from_numpy(rng.normal(size=30).astype(np.float32))
    kept = Shortlist(tile, start, 3.0)
    n_told = 0
    for change in np.geomspace(0.01, 10, 30):
        for reach in (0.0, 0.3, 1.0, 2.9, 3.5):
            moved = start + torch.from_numpy(change * rng.normal(size=30)).float()
            found = kept.near(moved, reach)
            if found is not None:
                n_told += 1
                assert_same(found, near_in(tile + moved, reach))
    assert 20 < n_told < 150
    # Within the reach of the list, and no farther.
    assert kept.near(start, 2.99) is not None
    assert kept.near(start, 3.5) is None


def test_a_codeword_far_from_all_rows_may_move_alone():
    tile, prices = draw(100, 30), torch.zeros(30)
    kept = Shortlist(tile, prices, 2.0)
    distance = float((tile[:, -1] - tile.min(dim=1).values).min())
    assert distance > 100
    for far, told in ((0.5, True), (1.5, False)):
        moved = prices.clone()
        moved[-1] = -far * distance
        found = kept.near(moved, 1.0)
        assert (found is not None) == told
        if told:
            assert_same(found, near_in(tile + moved, 1.0))
    # A codeword among the rows may not fall as far.
    moved = prices.clone()
    moved[3] = -0.5 * distance
    assert kept.near(moved, 1.0) is None


def test_a_balanced_fit_does_not_depend_on_what_is_kept(X, monkeypatch):
    def fit():
        model = RQKMeans((32, 16), balance="all", random_state=0).fit(X)
        return model, len(told)

    told = []
    near = Shortlist.near

    def note(self, *args):
        found = near(self, *args)
        told.append(found is not None)
        return found

    monkeypatch.setattr(Shortlist, "near", note)
    whole, n_lists = fit()
    assert n_lists == 0
    monkeypatch.setattr(_scores, "CACHED_SCORES", 0)
    monkeypatch.setattr(_scores, "LISTED_BYTES", 64 * len(X))
    listed, _ = fit()
    # Some passes need no scores, and some do.
    assert 0.2 < np.mean(told) < 0.9
    told.clear()
    monkeypatch.setattr(_scores, "LISTED_BYTES", 0)
    computed, n_lists = fit()
    assert n_lists == 0
    for other in (listed, computed):
        assert other.fingerprint_ == whole.fingerprint_
        assert_array_equal(other.ids_, whole.ids_)
        for one, two in zip(other.prices_, whole.prices_, strict=True):
            assert_array_equal(one, two)


def test_lists_keep_to_their_memory(monkeypatch):
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(3000, 8))).float()
    monkeypatch.setattr(_scores, "CACHED_SCORES", 0)
    for n_bytes, some in ((2**22, True), (3000 * 8, False)):
        monkeypatch.setattr(_scores, "LISTED_BYTES", n_bytes)
        scores = _scores.Scores(Points(rows), rows[:64])
        prices = torch.zeros(64).double()
        scores.total(lambda near: len(near.row), prices, 0.1)
        kept = sum(kept.n_bytes for kept in scores.lists.values())
        assert (kept > 0) == some
        assert kept <= n_bytes
