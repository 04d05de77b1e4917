import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from sk_rqkplus._refine import refine_codebooks

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


def test_little_ridge_is_least_squares():
    rows, codes, codebooks = problem()
    refined = refine_codebooks(rows, codes, codebooks, ridge=1e-7)
    design = indicators(codes)
    solution = np.linalg.lstsq(design, rows.astype(np.float64), rcond=None)[0]
    np.testing.assert_allclose(decoded(codes, refined), design @ solution, atol=1e-6)
    # Of all solutions it is the one nearest to the given codewords.
    given = np.vstack(codebooks)
    residual = rows - design @ given
    nearest = given + np.linalg.lstsq(design, residual, rcond=1e-10)[0]
    np.testing.assert_allclose(np.vstack(refined), nearest, atol=1e-6)


def test_ridge_solution_of_the_augmented_problem():
    rows, codes, codebooks = problem()
    given, ridge = np.vstack(codebooks), 0.7
    design = np.vstack([indicators(codes), np.sqrt(ridge) * np.eye(sum(SIZES))])
    target = np.vstack([rows, np.sqrt(ridge) * given])
    expected = np.linalg.lstsq(design, target, rcond=None)[0]
    refined = refine_codebooks(rows, codes, codebooks, ridge=ridge)
    np.testing.assert_allclose(np.vstack(refined), expected, atol=1e-10)


@pytest.mark.parametrize("ridge", [1e-6, 1e-3, 1.0, 1e3])
@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_error_never_rises(ridge, frozen):
    rows, codes, codebooks = problem()
    refined = refine_codebooks(rows, codes, codebooks, ridge=ridge, frozen=frozen)
    before, after = error(rows, codes, codebooks), error(rows, codes, refined)
    assert after < before
    again = refine_codebooks(rows, codes, refined, ridge=ridge, frozen=frozen)
    assert error(rows, codes, again) <= after * (1 + 1e-12)


def test_less_ridge_fits_better_and_much_ridge_changes_nothing():
    rows, codes, codebooks = problem()
    errors = [
        error(rows, codes, refine_codebooks(rows, codes, codebooks, ridge=ridge))
        for ridge in (1e-3, 1e-1, 1e1, 1e3)
    ]
    assert errors == sorted(errors)
    refined = refine_codebooks(rows, codes, codebooks, ridge=1e15)
    np.testing.assert_allclose(np.vstack(refined), np.vstack(codebooks), atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_codewords_without_rows_stay(dtype):
    rows, codes, codebooks = problem(dtype=dtype)
    codes[codes[:, 0] == 2, 0] = 0
    codes[codes[:, 2] == 1, 2] = 0
    refined = refine_codebooks(rows, codes, codebooks)
    np.testing.assert_array_equal(refined[0][2], codebooks[0][2])
    np.testing.assert_array_equal(refined[2][1], codebooks[2][1])
    assert all(book.dtype == dtype for book in refined)
    assert not (refined[0][0] == codebooks[0][0]).any()


def test_frozen_levels_stay_and_all_may_be_frozen():
    rows, codes, codebooks = problem()
    for frozen in range(4):
        refined = refine_codebooks(rows, codes, codebooks, frozen=frozen)
        for level, (book, given) in enumerate(zip(refined, codebooks, strict=True)):
            assert (book == given).all() == (level < frozen)
            assert not np.shares_memory(book, given)


def test_one_level_gives_means():
    rows, codes, codebooks = problem()
    refined = refine_codebooks(rows, codes[:, :1], codebooks[:1], ridge=1e-7)[0]
    means = [rows[codes[:, 0] == code].mean(axis=0) for code in range(SIZES[0])]
    np.testing.assert_allclose(refined, means, atol=1e-6)


def test_threads_do_not_matter_and_chunks_hardly(monkeypatch):
    rows, codes, codebooks = problem()
    results = []
    for n_threads in (1, 2):
        with threadpool_limits(limits=n_threads):
            results.append(refine_codebooks(rows, codes, codebooks))
    np.testing.assert_array_equal(np.vstack(results[0]), np.vstack(results[1]))
    monkeypatch.setattr("sk_rqkplus._refine.block_rows", lambda n_rows: 7)
    chunked = refine_codebooks(rows, codes, codebooks)
    np.testing.assert_allclose(np.vstack(chunked), np.vstack(results[0]), atol=1e-11)


def test_errors():
    rows, codes, codebooks = problem()
    with pytest.raises(ValueError, match="ridge=0 should be > 0"):
        refine_codebooks(rows, codes, codebooks, ridge=0)
    with pytest.raises(ValueError, match=r"frozen=4 should be in \[0, 3\]"):
        refine_codebooks(rows, codes, codebooks, frozen=4)
