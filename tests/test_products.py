"""Scores are the same, but for rounding, whoever computes them."""

import numpy as np
import pytest
import torch

from sk_rqkplus import RQKMeans, _products, _rough
from sk_rqkplus._products import (
    bfloat16_is_faster,
    can_bfloat16,
    numpy_is_faster,
    scores_into,
)


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


@pytest.mark.parametrize(
    "times, numpy, bfloat16",
    [
        ({"torch": 2.0, "numpy": 1.0, "bfloat16": np.inf}, True, False),
        ({"torch": 2.0, "numpy": 1.6, "bfloat16": 1.5}, False, False),
        ({"torch": 2.0, "numpy": 1.0, "bfloat16": 0.7}, True, True),
    ],
)
def test_a_product_has_to_be_much_faster(monkeypatch, times, numpy, bfloat16):
    monkeypatch.setattr(_products, "trial", lambda: times)
    assert numpy_is_faster() is numpy
    assert bfloat16_is_faster() is bfloat16


@pytest.mark.parametrize("able", [False, True])
def test_the_trial_times_what_there_is(monkeypatch, able):
    monkeypatch.setattr(_products, "can_bfloat16", lambda device: able)
    times = _products.trial.__wrapped__()
    assert np.isfinite(times.pop("bfloat16")) == able
    assert sorted(times) == ["numpy", "torch"]
    assert 0 < min(times.values()) < np.inf


@pytest.mark.parametrize(
    "known, fast",
    [
        ({"amx_bf16": True}, True),
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_f": True}, False),
        (None, False),
    ],
)
def test_bfloat16_is_asked_of_the_processor(monkeypatch, known, fast):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    if known is not None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert can_bfloat16(torch.device("cpu")) == fast


@pytest.mark.parametrize("balance", ["none", "all"])
def test_no_bit_of_a_fit_depends_on_who_computes(monkeypatch, X, balance):
    monkeypatch.setattr(_rough, "LEAST_SIZE", 2)
    fits = []
    for numpy, bfloat16 in [(False, False), (True, False), (False, True)]:
        monkeypatch.setattr(_products, "numpy_is_faster", lambda numpy=numpy: numpy)
        monkeypatch.setattr(_rough, "bfloat16_is_faster", lambda yes=bfloat16: yes)
        rq = RQKMeans((16, 16), balance=balance, beam_size=2, refine=1, random_state=0)
        fits.append(rq.fit(X).fingerprint_)
    assert len(set(fits)) == 1
