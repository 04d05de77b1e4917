"""Scores are the same, but for rounding, whoever computes them."""

import pytest
import torch

from sk_rqkplus import RQKMeans, _products
from sk_rqkplus._products import numpy_is_faster, scores_into


@pytest.mark.parametrize("faster", [False, True])
def test_scores(monkeypatch, faster):
    monkeypatch.setattr(_products, "numpy_is_faster", lambda: faster)
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(50, 24, generator=generator)[::2, ::3]
    book = torch.rand(7, 8, generator=generator).requires_grad_()
    offsets = torch.rand(7, generator=generator)
    out = torch.full((25, 7), torch.nan)
    with torch.no_grad():
        scores_into(out, rows, book, offsets)
        expected = offsets.double() - 2 * rows.double() @ book.double().T
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("numpy_time, faster", [(1.0, True), (1.6, False)])
def test_numpy_has_to_be_much_faster(monkeypatch, numpy_time, faster):
    times = iter([numpy_time, 2.0])
    monkeypatch.setattr(_products, "_least_time", lambda function: next(times))
    assert numpy_is_faster.__wrapped__() is faster


def test_the_trial_says_yes_or_no():
    assert numpy_is_faster() in (False, True)
    assert torch.get_num_threads() >= 1


@pytest.mark.parametrize("balance", ["none", "all"])
def test_no_bit_of_a_fit_depends_on_who_computes(monkeypatch, X, balance):
    fits = []
    for faster in (False, True):
        monkeypatch.setattr(_products, "numpy_is_faster", lambda faster=faster: faster)
        rq = RQKMeans((16, 16), balance=balance, beam_size=2, refine=1, random_state=0)
        fits.append(rq.fit(X).fingerprint_)
    assert fits[0] == fits[1]
