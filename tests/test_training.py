"""Batches, and the net that trains on them."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sk_rqkplus._training import Rows


@pytest.mark.parametrize("rng", [None, np.random.RandomState(0)])
def test_batches_are_every_row_once(rng):
    X = np.arange(10.0)[:, None]
    rows = Rows(X, mean=np.array([1.0]), batch_size=4, rng=rng)
    batches = [batch for batch, _ in rows]
    assert [len(batch) for batch in batches] == [4, 4, 2]
    seen = torch.cat(batches).ravel().numpy() + 1
    assert_array_equal(np.sort(seen), np.arange(10))
    assert (rng is None) == (seen == np.arange(10)).all()


def test_mixtures_are_convex_and_new_in_every_epoch():
    # On a line from 0 to 1 every mixture of rows lies between them.
    X = np.linspace(0, 1, 40)[:, None]
    rng = np.random.RandomState(0)
    rows = Rows(X, mean=np.array([0.5]), batch_size=16, rng=rng, mixed=True)
    first, second = (torch.cat([batch for batch, _ in rows]) for _ in range(2))
    assert first.shape == (40, 1)
    assert first.abs().max() <= 0.5
    assert not torch.equal(first.sort(0).values, second.sort(0).values)
    # One row in four is real, another one in every epoch, and they are shuffled.
    real = [np.isin(epoch, np.float32(X - 0.5)).ravel() for epoch in (first, second)]
    assert real[0].sum() == real[1].sum() == 10
    assert not np.array_equal(np.sort(first[real[0]]), np.sort(second[real[1]]))
    assert 0 < real[0][:16].sum() < 10


@pytest.mark.parametrize("mixed", [False, True])
def test_processes_share_every_batch(mixed):
    X = np.random.default_rng(0).normal(size=(25, 3))
    options = {"mean": np.zeros(3), "batch_size": 10, "mixed": mixed}
    whole = list(Rows(X, rng=np.random.RandomState(0), **options))
    shares = [
        list(Rows(X, rng=np.random.RandomState(0), process=i, n_processes=2, **options))
        for i in range(2)
    ]
    assert len(whole) == len(shares[0]) == len(shares[1]) == 3
    for (batch, weight), (one, weight_1), (two, weight_2) in zip(
        whole, *shares, strict=True
    ):
        both = np.concatenate([one, two])
        assert_array_equal(np.sort(both, axis=0), np.sort(batch, axis=0))
        assert float(weight) == 1
        # The mean over processes of weighted means is the mean of the whole batch.
        mean = (weight_1 * one.mean(0) + weight_2 * two.mean(0)) / 2
        assert_allclose(mean, batch.mean(0), atol=1e-6)


def test_few_last_rows_join_the_batch_before_them():
    X = np.zeros((252, 1))
    shares = [
        Rows(X, mean=0.0, batch_size=125, rng=None, process=i, n_processes=3)
        for i in range(3)
    ]
    sizes = [[len(batch) for batch, _ in rows] for rows in shares]
    assert sizes == [[42, 43], [42, 42], [41, 42]]


def test_mixtures_of_many_rows_come_from_all_over(monkeypatch):
    monkeypatch.setattr("sk_rqkplus._training.ANCHORS", 40)
    X = np.arange(400.0)[:, None]
    rng = np.random.RandomState(0)
    rows = Rows(X, mean=np.zeros(1), batch_size=400, rng=rng, mixed=True)
    ((batch, _),) = rows
    assert len(rows.mixtures.rows) == 40
    assert 30 < (batch < 100).sum() < 170
    assert 30 < (batch >= 300).sum() < 170


def test_sample_is_spread_over_the_rows():
    X = np.arange(10_000.0)[:, None]
    sample = Rows(X, mean=np.zeros(1), batch_size=10, rng=None).sample()
    assert_array_equal(sample.ravel(), np.arange(0, 10_000, 3))
