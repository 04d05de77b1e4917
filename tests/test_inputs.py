"""What X may be: checks that name the value, and conversions that copy nothing."""

import numpy as np
import pytest
from scipy import sparse

from sk_rqkplus import RQVAE, RQKMeans, RQKMeansPlus
from sk_rqkplus._inputs import CHUNK_VALUES, ConvertedRows

SMALL = [
    RQKMeans((4, 4), random_state=0),
    RQKMeansPlus((4, 4), max_epochs=1, random_state=0),
    RQVAE((4, 4), latent_dim=3, max_epochs=1, random_state=0),
]
every_estimator = pytest.mark.parametrize("est", SMALL, ids=lambda e: type(e).__name__)


@pytest.fixture
def holed(X):
    """Rows with three values that are not finite, in two rows."""
    rows = X.copy()
    rows[17, [3, 5]] = np.nan, np.inf
    rows[99, 0] = -np.inf
    return rows


@pytest.fixture
def filled(holed):
    return np.where(np.isfinite(holed), holed, np.float32(0))


@pytest.mark.parametrize(
    "value, shown", [(np.nan, "NaN"), (np.inf, "inf"), (-np.inf, "-inf")]
)
@every_estimator
def test_the_first_value_that_is_not_finite_is_named(X, est, value, shown):
    rows = X.copy()
    rows[17, 3] = rows[40, 1] = value
    message = rf"X\[17, 3\]={shown} should be finite\. Impute it, or use nan_policy='z"
    with pytest.raises(ValueError, match=message):
        est.fit(rows)
    est.fit(X)
    methods = [est.transform, est.predict, est.extend, est.score]
    methods += [est.partial_fit] if hasattr(est, "partial_fit") else []
    for method in methods:
        with pytest.raises(ValueError, match=message):
            method(rows)


def test_rows_are_numbered_across_chunks():
    n_rows = CHUNK_VALUES // 2 + 10
    rows = np.zeros((n_rows, 2), dtype=np.float32)
    rows[-1, 1] = np.nan
    with pytest.raises(ValueError, match=rf"X\[{n_rows - 1}, 1\]=NaN"):
        RQKMeans((4,)).fit(rows)


@pytest.mark.skipif(
    np.finfo(np.longdouble).max == np.finfo(np.float64).max,
    reason="long double is no longer than double here",
)
def test_what_only_a_long_double_holds_is_named():
    rows = np.zeros((30, 2), dtype=np.longdouble)
    rows[20, 1] = np.longdouble("1e400")
    with pytest.raises(
        ValueError, match=r"X\[20, 1\]=1e\+400 should be finite in floa"
    ):
        RQKMeans((4,)).fit(rows)


def test_a_sum_that_overflows_is_no_missing_value():
    rows = np.full((100, 3), 3e38, dtype=np.float32)
    rows[:50] = -3e38
    with pytest.raises(ValueError, match=r"X deviates from its mean by up to 3e"):
        RQKMeans((2,)).fit(rows)


@every_estimator
@pytest.mark.filterwarnings("ignore:no epoch had")
def test_zero_replaces_and_counts(est, holed, filled):
    counts = "X has 3 NaN or infinite values in 2 of its 600 rows"
    zero = type(est)(**{**est.get_params(), "nan_policy": "zero"})
    with pytest.warns(UserWarning, match=counts):
        zero.fit(holed)
    est.fit(filled)
    assert zero.fingerprint_ == est.fingerprint_
    np.testing.assert_array_equal(zero.ids_, est.ids_)
    for method in ("transform", "predict", "extend", "score", "partial_fit"):
        if hasattr(est, method):
            with pytest.warns(UserWarning, match=counts):
                found = getattr(zero, method)(holed)
            if method == "partial_fit":
                found, wanted = found.ids_, est.partial_fit(filled).ids_
            else:
                wanted = getattr(est, method)(filled)
            np.testing.assert_array_equal(found, wanted)
    assert np.isnan(holed[17, 3])


def test_the_warning_points_here(holed, recwarn):
    zero = RQKMeans((4, 4), nan_policy="zero", random_state=0).fit(holed)
    zero.transform(holed)
    zero.fit_predict(holed)
    RQKMeans((4, 700), max_samples=600, random_state=0).fit(np.ones((5, 2)))
    assert [warning.filename for warning in recwarn] == [__file__] * 4


@pytest.mark.parametrize("fit", ["fit", "fit_predict"])
def test_warnings_of_a_training_point_here(X, fit, tmp_path, recwarn):
    first = RQKMeans(max_samples=20, random_state=0)
    model = RQKMeansPlus(
        (8, 30),
        rqkmeans=first,
        memory=tmp_path,
        balance="none",
        monitor="collision_rate",
        lr=1e-12,
        max_epochs=1,
        augment="none",
        random_state=0,
    )
    getattr(model, fit)(X)
    assert [str(w.message).split()[0] for w in recwarn] == ["codebook_sizes=(8,", "no"]
    assert [warning.filename for warning in recwarn] == [__file__] * 2


def test_code_without_a_module_is_warned(holed):
    names = {"zero": RQKMeans((4,), nan_policy="zero"), "X": holed}
    with pytest.warns(UserWarning, match="values in .* of its") as found:
        exec("zero.fit(X)", names)
    assert found[0].filename == "<string>"


@pytest.mark.parametrize("policy", ["raise", "zero"])
def test_the_tag_follows_the_policy(policy):
    tags = RQKMeans(nan_policy=policy).__sklearn_tags__()
    assert tags.input_tags.allow_nan == (policy == "zero")


def test_an_unknown_policy_is_refused(X):
    with pytest.raises(ValueError, match="'nan_policy' parameter of RQKMeans"):
        RQKMeans(nan_policy="drop").fit(X)


@pytest.mark.parametrize("dtype", ["f2", ">f4", "i1", "i8", "u2", "?", "g", "O"])
def test_other_numbers_are_read_like_floats(X, dtype):
    rows = (X * 3).astype(dtype)
    wanted = np.float32 if dtype in ("f2", ">f4") else np.float64
    found = RQKMeans((4, 4), random_state=0).fit(rows)
    expected = RQKMeans((4, 4), random_state=0).fit(rows.astype(wanted))
    assert found.fingerprint_ == expected.fingerprint_
    np.testing.assert_array_equal(found.ids_, expected.ids_)
    np.testing.assert_array_equal(found.predict(rows), found.ids_)


@pytest.mark.parametrize("dtype", ["f4", "f2", "i2"])
def test_a_file_is_neither_copied_nor_written(X, tmp_path, dtype):
    rows = (X * 10).astype(dtype)
    rows.tofile(tmp_path / "rows")
    file = np.memmap(tmp_path / "rows", dtype, "r", shape=rows.shape)
    rq = RQKMeans((4, 4), random_state=0).fit(file)
    checked = rq._validate(file)
    held = checked.X if isinstance(checked, ConvertedRows) else checked
    assert np.shares_memory(held, file)
    np.testing.assert_array_equal(rq.predict(file), rq.ids_)
    np.testing.assert_array_equal(np.fromfile(tmp_path / "rows", dtype), rows.ravel())


def test_converted_rows_read_as_an_array():
    rows = np.array([[1, np.nan], [np.inf, 2], [3, 4]], dtype=np.float16)
    converted = ConvertedRows(rows, zero=True)
    expected = np.array([[1, 0], [0, 2], [3, 4]], dtype=np.float32)
    np.testing.assert_array_equal(np.asarray(converted), expected)
    np.testing.assert_array_equal(converted[[2, 0]], expected[[2, 0]])
    np.testing.assert_array_equal(converted[1], expected[1])
    assert converted[:1].dtype == converted.dtype == np.float32
    assert np.asarray(converted, dtype=np.float64).dtype == np.float64
    assert (len(converted), converted.shape, converted.size) == (3, (3, 2), 6)


@pytest.mark.parametrize(
    "rows, message",
    [
        (np.ma.masked_less([[0.0, 1.0]] * 5, 0.5), "X has masked values, which should"),
        (np.zeros((5, 2), dtype="m8[s]"), "X has dtype=timedelta64.*should be numbers"),
    ],
)
def test_what_is_no_number_is_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        RQKMeans((2,)).fit(rows)


@pytest.mark.parametrize("method", ["fit", "transform", "predict", "extend", "score"])
@pytest.mark.parametrize(
    "change",
    [
        lambda X: X[:0],
        lambda X: X[:, :0],
        lambda X: X[0],
        lambda X: X + 1j,
        sparse.csr_array,
        sparse.csc_matrix,
    ],
    ids=["no rows", "no columns", "one-dimensional", "complex", "CSR", "CSC"],
)
def test_what_is_no_matrix_is_refused_by_name(X, method, change):
    fitted = RQKMeans((4, 4), random_state=0).fit(X)
    est = RQKMeans((4, 4)) if method == "fit" else fitted
    with pytest.raises((ValueError, TypeError), match=r"\bX\b"):
        getattr(est, method)(change(X))
