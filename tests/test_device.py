"""Computing on a GPU: on one where it is at hand, and on a stand-in everywhere.

On the stand-in results are those of the CPU to the last bit, so that any difference is
a tensor that took another way.
"""

import copy

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from stand_in import gpu

from sk_rqkplus import RQVAE, RQKMeans, RQKMeansPlus, _moments, _scores
from sk_rqkplus._balance import capacities
from sk_rqkplus._lloyd import lloyd
from sk_rqkplus._near import NearTable, near_in
from sk_rqkplus._points import Points
from sk_rqkplus._rounding import row_sums
from sk_rqkplus._scores import Scores
from sk_rqkplus.datasets import make_catalogue

HAS_GPU = torch.cuda.is_available()
stand_in = pytest.mark.skipif(HAS_GPU, reason="there is a GPU, which it would hide")
on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not HAS_GPU, reason="needs a CUDA device"),
]
DEVICES = [
    pytest.param("cpu", id="cpu"),
    pytest.param("cuda", id="gpu", marks=on_gpu),
]


@pytest.fixture(scope="module")
def X():
    X = make_catalogue(1200, n_features=48, random_state=0).data.astype(np.float32)
    # Copies of a row: as many as one codeword may have.
    X[1160:] = X[1160]
    return X


def values_of(estimator):
    """All arrays and numbers that a fit left; what is a digest of others is not."""
    names = sorted(name for name in vars(estimator) if name.endswith("_"))
    return [getattr(estimator, name) for name in names if name != "fingerprint_"]


def assert_same(found, expected, rtol=0.0):
    assert type(found) is type(expected)
    if isinstance(found, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other, rtol)
    elif type(found).__module__.startswith("sk_rqkplus."):
        assert_same(found.__getstate__(), expected.__getstate__(), rtol)
    elif isinstance(found, dict):
        assert found.keys() == expected.keys()
        # A digest of all bits is not close to another.
        for name in found.keys() - {"fingerprint"}:
            assert_same(found[name], expected[name], rtol)
    elif isinstance(found, float) or np.asarray(found).dtype.kind == "f":
        assert_allclose(found, expected, rtol=rtol, atol=rtol / 100)
    else:
        assert_array_equal(found, expected)


@stand_in
def test_the_stand_in_is_as_strict_as_a_gpu():
    with gpu() as traffic:
        here, there = torch.ones(3), torch.ones(3, device="cuda")
        assert there.device == torch.device("cuda", 0)
        for mixed in (lambda: there + here, lambda: here.add_(there)):
            with pytest.raises(RuntimeError, match="of cuda:0 and of the CPU"):
                mixed()
        with pytest.raises(TypeError, match="has no NumPy array"):
            there.numpy()
        with pytest.raises(TypeError, match="has no NumPy array"):
            np.asarray(there)
        number = torch.tensor(1.0)
        for strict in (
            lambda: here[there.long()],
            lambda: there.__setitem__(there > 0, here),
            lambda: torch.stack([there[0], number]),
            lambda: number.add_(there[0]),
        ):
            with pytest.raises(RuntimeError, match="of cuda:0 and of the CPU"):
                strict()
        assert float(there[0] + number) == 2
        assert (traffic.up, traffic.down) == (0, 0)
        assert_array_equal((there + 1).cpu().numpy(), [2, 2, 2])
        there.copy_(here)
        here.to(there)
        assert (traffic.up, traffic.down) == (24, 12)
        assert float(there.sum()) == 3
        assert traffic.waits == 2


RQKMEANS = {
    "plain": {},
    "balanced": {"balance": "all"},
    "augmented": {"augment": 2000, "balance": "none"},
    "beam": {"beam_size": 3, "refine": 1},
    "sample": {"max_samples": 400, "balance": "all", "dedup": "suffix"},
    "random starts": {"init": "random", "n_init": 2, "balance": "none"},
    "sizes": {"codebook_sizes": (1, 40, 7)},
}


@stand_in
@pytest.mark.parametrize("params", RQKMEANS.values(), ids=RQKMEANS)
def test_all_of_a_fit_can_be_on_a_gpu(X, params):
    params = {"codebook_sizes": (16, 16), "random_state": 0, **params}
    expected = RQKMeans(device="cpu", **params).fit(X)
    new = X[:50] + np.float32(0.01)
    with gpu() as traffic:
        found = RQKMeans(device="cuda", **params).fit(X)
        answers = found.transform(new), found.predict(X), found.score(new)
    assert traffic.calls > 1000
    # What prices are found from is added up in another order, and there are many
    # prices that rows leave open.
    rtol = 0.0 if params.get("balance") == "none" else 1e-3
    assert_same(values_of(found), values_of(expected), rtol)
    same = expected.transform(new), expected.predict(X), expected.score(new)
    assert_same(answers, same, rtol)


@stand_in
@pytest.mark.parametrize("kind", [RQKMeansPlus, RQVAE])
def test_networks_can_be_on_a_gpu(X, kind):
    params = {"codebook_sizes": (16, 16), "random_state": 0, "max_epochs": 2}
    # Rounding to bfloat16 is left to the real one.
    params["precision"] = "float32"
    expected = kind(device="cpu", **params).fit(X)
    with gpu() as traffic:
        found = kind(device="cuda", **params).fit(X)
        codes, decoded = found.transform(X), found.inverse_transform(found.codes_)
    assert traffic.calls > 1000
    assert_array_equal(codes, expected.transform(X))
    assert_array_equal(decoded, expected.inverse_transform(expected.codes_))
    for name, value in expected.state_.items():
        assert_array_equal(found.state_[name], value)


@stand_in
def test_a_model_of_a_gpu_needs_none_later(X, tmp_path):
    with gpu():
        model = RQKMeans((16, 16), random_state=0).fit(X)
        codes = model.transform(X)
        joblib.dump(model, tmp_path / "model.joblib")
        twin = copy.deepcopy(model)
    for found in (twin, joblib.load(tmp_path / "model.joblib")):
        assert_array_equal(found.transform(X), codes)


def on_stand_in(rows):
    return torch.as_tensor(rows, device="cuda")


@stand_in
def test_lloyd_iterations_leave_the_rows_where_they_are():
    rows = np.random.RandomState(0).randn(3000, 24).astype(np.float32)
    moved = []
    for n_iter in (2, 12):
        with gpu() as traffic:
            points, start = Points(on_stand_in(rows)), on_stand_in(rows[:10])
            before = traffic.up, traffic.down
            lloyd(points, start, n_iter, 0.0)
            moved.append((traffic.up - before[0], traffic.down - before[1]))
            assert traffic.calls > 50 * n_iter
    assert moved == [(0, 0), (0, 0)]


@stand_in
@pytest.mark.parametrize("n_rows", [20_000, 80_000])
def test_a_look_at_prices_brings_back_what_it_needs(n_rows):
    rows = np.random.RandomState(0).randn(n_rows, 8).astype(np.float32)
    with gpu() as traffic:
        scores = Scores(Points(on_stand_in(rows)), on_stand_in(rows[:64]))
        prices = torch.zeros(64, dtype=torch.float64, device="cuda")
        gap = scores.typical_gap()
        traffic.down = traffic.up = 0
        moments = scores.total(_moments.moments, prices, 7 * gap, gap, 2048 / n_rows)
        n_seen = sum(len(n_shares) for n_shares, *_ in moments.hesitant)
        n_shares = sum(len(share) for *_, share in moments.hesitant)
        assert 1000 < n_seen < 3 * 2048
        # A row, a codeword and a weight for each share, and the counts of each tile.
        assert traffic.down <= 24 * n_shares + 8 * 64 * len(scores.tiles)
        assert traffic.up == 0
        scores.labels(prices)
        assert traffic.up == 0


@pytest.mark.parametrize("most", [1.0, 0.05])
def test_moments_of_a_table_are_those_of_its_list(most):
    rng = np.random.RandomState(0)
    tile = torch.from_numpy(rng.rand(500, 40).astype(np.float32))
    tile[3] = 0.5
    table = NearTable(tile, 0.21)
    listed = near_in(tile, 0.21)
    found = _moments.moments(table, 0.03, most)
    expected = _moments.moments(listed, 0.03, most)
    assert_allclose(found.counts, expected.counts, rtol=1e-12)
    for one, other in zip(found.hesitant[0], expected.hesitant[0], strict=True):
        assert_allclose(one, other, rtol=1e-12)
    assert_array_equal(table.labels().numpy(), listed.labels())


# On a GPU products round in another way: fits differ, what they promise does not.


@pytest.mark.parametrize("params", RQKMEANS.values(), ids=RQKMEANS)
@pytest.mark.parametrize("device", DEVICES)
def test_a_fit_keeps_its_promises(X, device, params):
    params = {"codebook_sizes": (16, 16), "random_state": 0, **params}
    model = RQKMeans(device=device, **params).fit(X)
    again = RQKMeans(device=device, **params).fit(X)
    assert_same(values_of(again), values_of(model))
    assert_array_equal(model.transform(X), model.codes_)
    assert_array_equal(model.transform(X[7:8]), model.codes_[7:8])
    assert_array_equal(model.set_params(device="cpu").transform(X), model.codes_)
    on_cpu = RQKMeans(device="cpu", **params).fit(X)
    assert_allclose(model.score(X), on_cpu.score(X), rtol=0.03)
    if params.get("balance") == "all":
        for level, size in zip(model.codes_.T, params["codebook_sizes"], strict=True):
            lower, upper = capacities(len(X), size, 0.0)
            counts = np.bincount(level, minlength=size)
            assert lower <= np.min(counts)
            assert np.max(counts) <= upper


@pytest.mark.filterwarnings("ignore:no epoch had a:UserWarning")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", [RQKMeansPlus, RQVAE])
def test_networks_keep_their_promises(X, device, kind):
    model = kind((16, 16), random_state=0, max_epochs=3, dropout=0.1, device=device)
    codes = model.fit_transform(X)
    assert_array_equal(codes, model.codes_)
    assert_array_equal(model.transform(X[:5]), codes[:5])
    assert_array_equal(model.set_params(device="cpu").transform(X), codes)
    assert model.score(X) > -X.var()


@pytest.mark.parametrize("n_features", [130, 384, 385])
@pytest.mark.parametrize("device", DEVICES)
def test_the_sum_of_a_row_depends_on_it_alone(device, n_features):
    rng = np.random.RandomState(0)
    values = torch.from_numpy(rng.rand(40, n_features)).to(device)
    values[7:] = values[7]
    exact = values.cpu().numpy().sum(axis=1)
    sums = row_sums(values.clone())
    assert_allclose(sums.cpu().numpy(), exact, rtol=1e-14)
    assert len(sums[7:].unique()) == 1
    for index in (7, slice(7, 9), slice(9, 30), [3, 7, 11]):
        alone = row_sums(values[index].clone().view(-1, n_features))
        assert torch.equal(alone, sums[index].view(-1))
    cube = row_sums(values.clone().view(2, 20, n_features))
    assert torch.equal(cube.view(-1), sums)


def test_rounded_products_do_not_find_prices(monkeypatch):
    """As after ``torch.set_float32_matmul_precision("high")``."""
    rows = torch.from_numpy(np.random.RandomState(0).randn(500, 24)).float()
    exact = Scores(Points(rows), rows[:16]).margins(torch.zeros(16))
    monkeypatch.setattr(_scores, "input_roundoff", lambda _: 2.0**-8)
    monkeypatch.setattr(torch, "addmm", rounded(torch.addmm))
    found = Scores(Points(rows), rows[:16]).margins(torch.zeros(16))
    assert_array_equal(found[0].numpy(), exact[0].numpy())
    assert_allclose(found[1].numpy(), exact[1].numpy(), atol=1e-4)


def rounded(addmm):
    """A product that rounds float32 inputs to bfloat16."""

    def product(offsets, rows, book, **options):
        if rows.dtype == torch.float32:
            rows, book = rows.bfloat16().float(), book.bfloat16().float()
        return addmm(offsets, rows, book, **options)

    return product
