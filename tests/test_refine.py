import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits

from sk_rqkplus import _refine
from sk_rqkplus._refine import merge_sums, refine_codebooks, refine_sums

SIZES = (5, 4, 3)


def problem(n_rows=200, seed=0, dtype=np.float64):
    rng = np.random.RandomState(seed)
    codebooks = [rng.randn(size, 6).astype(dtype) for size in SIZES]
    codes = np.stack([rng.randint(size, size=n_rows) for size in SIZES], axis=1)
    return rng.randn(n_rows, 6).astype(np.float32), codes, codebooks


def indicators(codes):
    return np.hstack(
        [np.eye(size)[code] for size, code in zip(SIZES, codes.T, strict=True)]
    )


def decoded(codes, codebooks):
    pairs = zip(codebooks, codes.T, strict=True)
    return sum(book[code].astype(np.float64) for book, code in pairs)


def error(rows, codes, codebooks):
    return np.square(rows - decoded(codes, codebooks)).sum()


def refined(rows, codes, codebooks, ridge, n_block=1000):
    left = torch.from_numpy(rows - decoded(codes, codebooks)).float()
    labels = torch.from_numpy(codes.T.copy())
    sizes = [len(book) for book in codebooks]
    blocks = zip(left.split(n_block), labels.split(n_block, dim=1), strict=True)
    sums = merge_sums(refine_sums(block, [*part], sizes) for block, part in blocks)
    return refine_codebooks(sums, codebooks, ridge=ridge)


@pytest.mark.parametrize("largest_dense", [0, 10**6])
@pytest.mark.parametrize("ridge", [0.01, 0.7, 30])
def test_ridge_solution_of_the_augmented_problem(monkeypatch, ridge, largest_dense):
    monkeypatch.setattr(_refine, "DENSE_VALUES", largest_dense)
    monkeypatch.setattr(_refine, "PRECISION", 1e-7)
    rows, codes, codebooks = problem()
    given = np.vstack(codebooks)
    design = np.vstack([indicators(codes), np.sqrt(ridge) * np.eye(sum(SIZES))])
    target = np.vstack([rows, np.sqrt(ridge) * given])
    expected = np.linalg.lstsq(design, target, rcond=None)[0]
    found = np.vstack(refined(rows, codes, codebooks, ridge))

    def objective(books):
        return np.square(target - design @ books).sum()

    least, start = objective(expected), objective(given)
    assert objective(found) - least <= 1e-9 * (start - least)
    # What moves a constant from level to level is held by the ridge alone.
    np.testing.assert_allclose(found, expected, atol=1e-5 / min(ridge, 1))


@pytest.mark.parametrize("ridge, atol", [(0.7, 1e-10), (1e-7, 1e-6)])
def test_the_solution_of_exact_sums_is_exact(monkeypatch, ridge, atol):
    # Of all solutions a little ridge gives that nearest to the given codewords.
    monkeypatch.setattr(_refine, "PRECISION", 1e-14)
    rows, codes, codebooks = problem()
    design, given = indicators(codes), np.vstack(codebooks)
    residual = rows - design @ given
    sums = csr_array(design.T @ design), design.T @ residual
    moved = np.vstack(refine_codebooks(sums, codebooks, ridge=ridge))
    padded = np.vstack([design, np.sqrt(ridge) * np.eye(sum(SIZES))])
    target = np.vstack([residual, np.zeros_like(given)])
    exact = np.linalg.lstsq(padded, target, rcond=None)[0]
    if ridge < 1e-3:
        exact = np.linalg.lstsq(design, residual, rcond=1e-10)[0]
    np.testing.assert_allclose(moved, given + exact, atol=atol)


def test_little_ridge_is_least_squares(monkeypatch):
    monkeypatch.setattr(_refine, "PRECISION", 1e-7)
    rows, codes, codebooks = problem()
    design = indicators(codes)
    solution = np.linalg.lstsq(design, rows.astype(np.float64), rcond=None)[0]
    found = decoded(codes, refined(rows, codes, codebooks, 1e-5))
    np.testing.assert_allclose(found, design @ solution, atol=5e-6)


@pytest.mark.parametrize("ridge", [1e-6, 1e-3, 1.0, 1e3])
def test_error_never_rises(ridge):
    rows, codes, codebooks = problem()
    moved = refined(rows, codes, codebooks, ridge)
    before, after = error(rows, codes, codebooks), error(rows, codes, moved)
    assert after < before
    again = refined(rows, codes, moved, ridge)
    assert error(rows, codes, again) <= after * (1 + 1e-12)


def test_less_ridge_fits_better_and_much_ridge_changes_nothing():
    rows, codes, codebooks = problem()
    errors = [
        error(rows, codes, refined(rows, codes, codebooks, ridge))
        for ridge in (1e-3, 1e-1, 1e1, 1e3)
    ]
    assert errors == sorted(errors)
    moved = refined(rows, codes, codebooks, 1e15)
    np.testing.assert_allclose(np.vstack(moved), np.vstack(codebooks), atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_codewords_without_rows_stay(dtype):
    rows, codes, codebooks = problem(dtype=dtype)
    codes[codes[:, 0] == 2, 0] = 0
    codes[codes[:, 2] == 1, 2] = 0
    moved = refined(rows, codes, codebooks, 0.1)
    np.testing.assert_array_equal(moved[0][2], codebooks[0][2])
    np.testing.assert_array_equal(moved[2][1], codebooks[2][1])
    assert all(book.dtype == dtype for book in moved)
    assert not (moved[0][0] == codebooks[0][0]).any()


def test_nothing_moves_where_nothing_is_left_over():
    _, codes, codebooks = problem()
    whole = [(8 * book).round() for book in codebooks]
    rows = decoded(codes, whole).astype(np.float32)
    for book, moved in zip(whole, refined(rows, codes, whole, 1.0), strict=True):
        np.testing.assert_array_equal(moved, book)


def test_one_level_gives_means():
    rows, codes, codebooks = problem()
    moved = refined(rows, codes[:, :1], codebooks[:1], 1e-7)[0]
    means = [rows[codes[:, 0] == code].mean(axis=0) for code in range(SIZES[0])]
    np.testing.assert_allclose(moved, means, atol=1e-6)


@pytest.mark.parametrize("n_block", [7, 50, 64])
def test_blocks_hardly_matter(n_block):
    rows, codes, codebooks = problem()
    whole = refined(rows, codes, codebooks, 10)
    parted = refined(rows, codes, codebooks, 10, n_block=n_block)
    # Members are added in float32, in runs.
    np.testing.assert_allclose(np.vstack(parted), np.vstack(whole), atol=2e-6)


def test_threads_do_not_matter():
    # Sums of so many values are parted among threads of BLAS that may.
    rng = np.random.RandomState(0)
    rows = torch.from_numpy(rng.randn(20_000, 128).astype(np.float32))
    labels = [torch.from_numpy(rng.randint(256, size=20_000)) for _ in range(3)]
    sums = refine_sums(rows, labels, [256] * 3)
    results = []
    for n_threads in (1, 2):
        with threadpool_limits(limits=n_threads):
            books = refine_codebooks(sums, [np.zeros((256, 128))] * 3, ridge=1.0)
            results.append(np.vstack(books))
    np.testing.assert_array_equal(*results)
    assert results[0].any()


def test_a_ridge_is_positive():
    sums = csr_array(np.eye(2)), np.zeros((2, 3))
    with pytest.raises(ValueError, match="ridge=0 should be > 0"):
        refine_codebooks(sums, [np.zeros((2, 3))], ridge=0)


def test_co_occurrences_of_blocks_add_up():
    rng = np.random.RandomState(0)
    rows = torch.zeros(5000, 1)
    labels = [torch.from_numpy(rng.randint(size, size=5000)) for size in SIZES]
    whole, _ = refine_sums(rows, labels, SIZES)
    for cuts in ([5000], [1, 4999], [700] * 7 + [100], [1] * 40 + [4960]):
        split = [rows.split(cuts), *(part.split(cuts) for part in labels)]
        parts = zip(*split, strict=True)
        blocks = [refine_sums(block, list(some), SIZES) for block, *some in parts]
        pairs, _ = merge_sums(blocks)
        np.testing.assert_array_equal(pairs.toarray(), whole.toarray())
    design = indicators(np.stack([part.numpy() for part in labels], axis=1))
    np.testing.assert_array_equal(whole.toarray(), design.T @ design)
