import numpy as np
import pytest
import torch

from sk_rqkplus import RQKMeans, _beam
from sk_rqkplus._beam import BeamCodebooks, beam_search
from sk_rqkplus._nearest import Codewords
from sk_rqkplus._residual import encode
from sk_rqkplus._rounding import FLOAT32_ROUNDOFF

SIZES = [(8, 8, 8), (5, 1, 9), (7,), (2, 3, 2, 3), (3, 70)]
BEAMS = [1, 2, 5, 16, 1000]


def brute_force(X, codebooks, prices, beam_size):
    """Beam search one row at a time, with Python's order of tuples."""
    codes = []
    for x in X.astype(np.float64):
        beam = [((), x, 0.0)]
        for book, price in zip(codebooks, prices, strict=True):
            wide = [
                (np.square(r - c).sum() + (p + q), (*path, k), r - c, p + q)
                for path, r, p in beam
                for k, (c, q) in enumerate(zip(book.astype(float), price, strict=True))
            ]
            wide.sort(key=lambda candidate: candidate[:2])
            beam = [candidate[1:] for candidate in wide[:beam_size]]
        codes.append(beam[0][0])
    return np.array(codes)


def search(X, codebooks, prices, beam_size):
    levels = [
        Codewords(torch.from_numpy(book), torch.from_numpy(price))
        for book, price in zip(codebooks, prices, strict=True)
    ]
    exact = torch.from_numpy(X).double()
    rows = exact.float()
    codes = beam_search(
        rows,
        BeamCodebooks(levels),
        beam_size,
        noise=1.01 * FLOAT32_ROUNDOFF * rows.norm(dim=1),
        exact_rows=lambda index: exact[index],
    )
    return codes.numpy()


def problem(sizes, seed=0, n_rows=60, n_features=6, priced=True, grid=False):
    rng = np.random.RandomState(seed)

    def draw(*shape):
        return rng.randint(-2, 3, size=shape) if grid else rng.randn(*shape)

    X = draw(n_rows, n_features).astype(np.float64)
    codebooks = [draw(size, n_features).astype(np.float32) for size in sizes]
    prices = [priced * draw(size).astype(np.float64) for size in sizes]
    return X, codebooks, prices


@pytest.mark.parametrize("priced", [False, True])
@pytest.mark.parametrize("beam_size", BEAMS)
@pytest.mark.parametrize("sizes", SIZES)
def test_equals_brute_force(sizes, beam_size, priced):
    args = (*problem(sizes, priced=priced, n_rows=30), beam_size)
    np.testing.assert_array_equal(search(*args), brute_force(*args))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("beam_size", BEAMS)
@pytest.mark.parametrize("sizes", SIZES)
def test_ties_go_to_the_lesser_code(sizes, beam_size, seed):
    # Small integers: arithmetic is exact, and equal costs abound.
    problem_ = problem(sizes, seed, n_rows=20, n_features=2, grid=True)
    args = (*problem_, beam_size)
    np.testing.assert_array_equal(search(*args), brute_force(*args))


@pytest.mark.parametrize("beam_size", [1, 3, 40])
def test_equal_codewords(beam_size):
    X, codebooks, prices = problem((4, 4, 4))
    codebooks = [np.repeat(book, 3, axis=0) for book in codebooks]
    prices = [np.repeat(price, 3) for price in prices]
    args = X, codebooks, prices, beam_size
    found = search(*args)
    np.testing.assert_array_equal(found, brute_force(*args))
    assert (found % 3 == 0).all()


@pytest.mark.parametrize("scale", [1e-6, 1e-7, 1e-9])
@pytest.mark.parametrize("beam_size", [2, 5])
def test_margins_below_float32(beam_size, scale):
    X, codebooks, prices = problem((9, 9, 9), n_features=20, n_rows=40)
    rng = np.random.RandomState(1)
    # Prices of whole levels are equal, and codewords come in pairs a rounding apart.
    for book in codebooks:
        book[1::2] = book[:-1:2] * (1 + scale * rng.randn(4, 1))
    args = X, codebooks, [0 * price for price in prices], beam_size
    np.testing.assert_array_equal(search(*args), brute_force(*args))


def test_float32_rounding_of_rows_does_not_matter():
    _, codebooks, prices = problem((6, 6))
    # Half way between two codewords but for less than float32 can tell.
    rng = np.random.RandomState(0)
    pairs = np.stack([rng.permutation(6)[:2] for _ in range(40)])
    first = codebooks[0].astype(np.float64)
    X = first[pairs].mean(axis=1) + 1e-10 * rng.randn(40, 6)
    args = X, codebooks, [0 * price for price in prices], 3
    np.testing.assert_array_equal(search(*args), brute_force(*args))


@pytest.mark.parametrize("magnitude", [1e-30, 1e12, 1e30, 1e60, 1e300])
def test_rows_far_from_all_codewords(magnitude):
    X, codebooks, prices = problem((6, 6), n_rows=10)
    with np.errstate(over="ignore"):
        args = magnitude * X, codebooks, prices, 3
        np.testing.assert_array_equal(search(*args), brute_force(*args))


@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.parametrize("doubted", ["FLOAT32_ROUNDOFF", "FLOAT64_ROUNDOFF"])
def test_every_stage_decides_alike(monkeypatch, doubted, beam_size):
    args = (*problem((9, 8, 7)), beam_size)
    expected = search(*args)
    monkeypatch.setattr(_beam, "FLOAT32_ROUNDOFF", 1.0)
    monkeypatch.setattr(_beam, doubted, 1.0)
    called = []
    direct = _beam._direct_search
    monkeypatch.setattr(
        _beam, "_direct_search", lambda *args: called.append(1) or direct(*args)
    )
    np.testing.assert_array_equal(search(*args), expected)
    assert bool(called) == (doubted == "FLOAT64_ROUNDOFF")


def test_tiles_do_not_matter(monkeypatch):
    args = (*problem((9, 8, 7), n_rows=40), 4)
    expected = search(*args)
    monkeypatch.setattr(_beam, "TILE_SCORES", {"cpu": 1})
    monkeypatch.setattr(_beam, "EXACT_VALUES", 1)
    monkeypatch.setattr(_beam, "FLOAT64_ROUNDOFF", 1.0)
    np.testing.assert_array_equal(search(*args), expected)


def test_no_rows():
    X, codebooks, prices = problem((3, 4))
    assert search(X[:0], codebooks, prices, 2).shape == (0, 2)


def test_one_path_is_the_greedy_code():
    X, codebooks, prices = problem((16, 16, 16), n_rows=2000)
    expected = encode(X, codebooks, prices, np.zeros(6))
    np.testing.assert_array_equal(search(X, codebooks, prices, 1), expected)


def test_all_paths_find_the_optimum():
    X, codebooks, prices = problem((4, 4, 4), priced=False)
    grid = np.indices((4, 4, 4)).reshape(3, -1).T
    sums = sum(b[k].astype(float) for b, k in zip(codebooks, grid.T, strict=True))
    best = np.square(X[:, None] - sums).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(search(X, codebooks, prices, 64), grid[best])


@pytest.mark.parametrize("n_features", [3, 128, 500])
def test_bound_covers_the_error_of_scores(n_features):
    X, codebooks, prices = problem((20, 20, 20), n_features=n_features)
    rows = torch.from_numpy(X).float()
    levels = [
        Codewords(torch.from_numpy(book), torch.from_numpy(price))
        for book, price in zip(codebooks, prices, strict=True)
    ]
    tables = BeamCodebooks(levels)
    paths = torch.arange(20)[None, :, None].expand(60, -1, -1)
    single, double = (
        side.extend(1, side.scores(values)[1], paths)
        + side.scores(values)[0][:, :, None]
        for side, values in ((tables.single, rows), (tables.double, rows.double()))
    )
    error = (single - double).abs().amax(dim=(1, 2))
    bound = tables.single.score_errors(rows, None)[:, 1]
    assert (error > 0).any()
    assert (error < bound).all()
    assert (bound < 1e-3 * double.abs().amax(dim=(1, 2))).all()


@pytest.mark.parametrize("k", [1, 2, 5, 17])
@pytest.mark.parametrize("size", [17, 64, 1003, 1280])
def test_smallest(size, k):
    values = torch.from_numpy(np.random.RandomState(0).randn(50, size))
    values[::2] = values[::2].round()
    found, index = _beam._smallest(values, k)
    expected = values.sort(dim=1).values[:, :k]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(values.gather(1, index), found, rtol=0, atol=0)
    assert all(len(set(row)) == k for row in index.tolist())


@pytest.mark.gpu
def test_device_does_not_matter():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    X, codebooks, prices = problem((64, 64, 64), n_rows=5000, n_features=32)
    codes = []
    for device in ("cpu", "cuda"):
        levels = [
            Codewords(torch.from_numpy(b).to(device), torch.from_numpy(p).to(device))
            for b, p in zip(codebooks, prices, strict=True)
        ]
        rows = torch.from_numpy(X).float().to(device)
        codes.append(beam_search(rows, BeamCodebooks(levels), 5).cpu())
    assert torch.equal(*codes)


@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_codes_of_an_estimator_are_those_of_the_search(X, mean):
    X = X[:400].astype(np.float64) + mean
    rq = RQKMeans((16,) * 3, balance="all", beam_size=3, random_state=0).fit(X)
    expected = brute_force(X[:100] - rq.mean_, rq.codebooks_, rq.prices_, 3)
    np.testing.assert_array_equal(rq.transform(X)[:100], expected)
    one_by_one = [rq.transform(row[None])[0] for row in X[:30]]
    np.testing.assert_array_equal(one_by_one, expected[:30])
