"""The cost model against sums by hand."""

import numpy as np
import pytest

from sk_rqkplus.distributed.cost import CostModel, Run

RATES = CostModel(flops=1e9, values=1e7, rows=1e5, job=0.5, network=1e8, process=0)


def test_encode_by_hand():
    cost = RATES.encode(1000, 10, (100, 50), workers=2)
    # 2 * 10 * 150 products, 10 values and a row each.
    one = 3000 / 1e9 + 10 / 1e7 + 1 / 1e5
    assert cost.seconds == pytest.approx(1000 * one / 2)
    # Values and key in, two codes and tokens out; the model goes to both workers.
    assert cost.moved == 1000 * (40 + 8 + 2 * 12) + 2 * 4 * 10 * 150


def test_fit_by_hand():
    options = {"n_iter": 3, "n_sweeps": 2, "workers": 4}
    cost = RATES.fit(8192, 10, (8, 4), max_samples=100, driver=2, **options)
    products = 8192 * 2 * 10 * (8 + 3 * 4) / 1e9
    values = 8192 * 10 * (2 + 3 * 3) / 1e7
    sample = 100 * 3 * 2 * 10 * 12 / 1e9
    collected = 8 * 8 * 2 * 2 * 4 + 4 * 100 * 10
    seconds = (products + values) / 4 + sample / 2 + collected / 1e8 + 0.5 * 4
    assert cost.seconds == pytest.approx(seconds)
    assert cost.moved == 3 * 4 * 8192 * 10 + collected
    # Without a sample every block sends its sums in every iteration, and once more for
    # a refinement, and is encoded twice.
    more = RATES.fit(8192, 10, (8, 4), **options)
    collected = 8 * 8 * 2 * 2 * 4 + 8 * 8 * (3 + 1) * 10 * 12
    assert more.moved == 3 * 4 * 8192 * 10 + collected
    products = 8192 * 2 * 10 * (6 * 8 + 8 * 4) / 1e9
    values = 8192 * 10 * (6 * 2 + 8 * 3) / 1e7
    seconds = (products + values) / 4 + collected / 1e8 + 0.5 * 14
    assert more.seconds == pytest.approx(seconds)


def test_calibration_recovers_the_rates():
    rng = np.random.default_rng(0)
    runs = []
    for _ in range(6):
        n, d, k = rng.integers([1000, 8, 16], [9000, 512, 4096]).tolist()
        runs.append(Run(n, d, (k, k), RATES.encode(n, d, (k, k)).seconds))
    found = CostModel.calibrated(runs, job=0.1)
    assert found.flops == pytest.approx(1e9)
    assert found.values == pytest.approx(1e7)
    assert found.rows == pytest.approx(1e5)
    assert found.job == 0.1


def test_more_workers_take_less_time_and_memory():
    for job in (RATES.encode, RATES.fit):
        costs = [job(10**8, 64, (256,) * 3, workers=w) for w in (1, 10, 100)]
        assert costs[0].seconds > costs[1].seconds > costs[2].seconds
        assert costs[0].memory >= costs[1].memory >= costs[2].memory


def test_too_few_runs():
    with pytest.raises(ValueError, match=r"runs=1 should be >= 3\. Measure tables"):
        CostModel.calibrated([Run(10, 10, (4,), 1.0)])
