"""RQKMeans, and what it shares with RQKMeansPlus."""

import subprocess
import sys
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from sk_rqkplus import RQKMeans, _cells, _refine
from sk_rqkplus.datasets import make_catalogue
from sk_rqkplus.metrics import collision_rate, load_cv
from sk_rqkplus.scorers import SCORERS


def test_two_levels_by_hand():
    # Level 0 can only split {0, 1} from {10, 11}, so its codewords are 0.5 and 10.5.
    # What is left is -0.5 or +0.5, which level 1 stores exactly.
    X = np.array([[0.0], [1.0], [10.0], [11.0]])
    rq = RQKMeans((2, 2), random_state=0).fit(X)
    assert rq.mean_ == 5.5
    assert_allclose(np.sort(rq.codebooks_[0] + rq.mean_, axis=0), [[0.5], [10.5]])
    assert_allclose(np.sort(rq.codebooks_[1], axis=0), [[-0.5], [0.5]])
    assert collision_rate(rq.codes_) == 0
    assert_allclose(rq.inverse_transform(rq.codes_), X)
    assert rq.score(X) == 0


def test_methods_agree(X, fitted):
    assert fitted.codes_.dtype == fitted.ids_.dtype == np.int32
    assert fitted.codes_.shape == (len(X), 3)
    assert fitted.ids_.shape == (len(X), 4)
    assert_array_equal(fitted.transform(X), fitted.codes_)
    assert_array_equal(fitted.predict(X), fitted.ids_)
    again = clone(fitted)
    assert_array_equal(again.fit_transform(X), fitted.codes_)
    assert_array_equal(again.fit_predict(X), fitted.ids_)


def test_score_is_the_reconstruction_error(X, fitted):
    reconstructed = fitted.inverse_transform(fitted.transform(X))
    assert reconstructed.dtype == X.dtype
    error = np.square(X.astype(np.float64) - reconstructed).mean()
    assert fitted.score(X) == pytest.approx(-error, rel=1e-4)


def test_ids_reconstruct_without_their_suffix(X, fitted):
    expected = fitted.inverse_transform(fitted.ids_[:, :3])
    assert_array_equal(fitted.inverse_transform(fitted.ids_), expected)


@pytest.mark.parametrize("dedup", ["reassign", "suffix"])
def test_ids_are_unique(X, dedup):
    rq = RQKMeans((8, 8), dedup=dedup, random_state=0).fit(X)
    assert collision_rate(rq.codes_) > 0.3
    assert collision_rate(rq.ids_) == 0
    if dedup == "suffix":
        assert_array_equal(rq.ids_[:, :2], rq.codes_)
    order = np.random.default_rng(0).permutation(len(X))[:200]
    assert_array_equal(rq.predict(X[order]), rq.ids_[order])


def test_reassign_needs_no_suffix_where_there_is_room(X):
    rq = RQKMeans((16, 100), random_state=0).fit(X)
    assert collision_rate(rq.codes_) > 0
    assert np.bincount(rq.codes_[:, 0]).max() <= 100
    assert (rq.ids_[:, -1] == 0).all()


def test_without_a_catalogue_ids_are_unique_within_a_call(X):
    rq = RQKMeans((8, 8), store_catalogue=False, random_state=0).fit(X)
    assert not hasattr(rq, "catalogue_")
    assert_array_equal(rq.predict(X), rq.ids_)
    with pytest.raises(ValueError, match="store_catalogue=False should be True"):
        rq.extend(X)


def test_extend_makes_provisional_ids_permanent(X):
    rq = RQKMeans((8, 8), random_state=0).fit(X[:400])
    new = X[400:]
    ids = rq.extend(new)
    assert collision_rate(np.concatenate([rq.ids_, ids])) == 0
    assert_array_equal(rq.predict(X), np.concatenate([rq.ids_, ids]))
    assert_array_equal(rq.extend(X), np.concatenate([rq.ids_, ids]))


def test_a_failed_extend_changes_nothing(X):
    rq = RQKMeans((8, 8), random_state=0).fit(X[:400])
    with pytest.raises(ValueError, match=r"X\[0, 0\]=NaN should be finite"):
        rq.extend(np.full((1, X.shape[1]), np.nan))
    assert len(rq.catalogue_) == 400


@pytest.mark.parametrize("balance", ["all", "last", [False, True]])
def test_balance_holds_on_transform(X, balance):
    rq = RQKMeans((10, 7), balance=balance, random_state=0).fit(X)
    counts = np.bincount(rq.transform(X)[:, -1], minlength=7)
    assert set(counts) <= {600 // 7, 600 // 7 + 1}
    first = np.bincount(rq.transform(X)[:, 0], minlength=10)
    assert (first.tolist() == [60] * 10) == (balance == "all")


def test_thread_count_does_not_matter(X, two_threads):
    fits = []
    for threads in (1, 2):
        two_threads(threads)
        fits.append(RQKMeans((16, 16), balance="all", random_state=0).fit(X))
    for name in ("codebooks_", "prices_"):
        for one, two in zip(*(getattr(fit, name) for fit in fits), strict=True):
            assert_array_equal(one, two)
    assert_array_equal(fits[0].ids_, fits[1].ids_)


def test_global_generators_are_left_alone(X):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    RQKMeans((8, 8), random_state=0).fit(X)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_fitted_on_a_sample_all_rows_are_encoded(X):
    rq = RQKMeans((8, 8), max_samples=200, random_state=0).fit(X)
    assert rq.codes_.shape == (600, 2)
    assert_array_equal(rq.predict(X), rq.ids_)


def test_memory_map_layout_and_frames_give_the_same_codes(X, fitted, tmp_path):
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    for other in (mapped, np.asfortranarray(X)):
        assert_array_equal(clone(fitted).fit(other).ids_, fitted.ids_)
    frame = pd.DataFrame(X, columns=[f"f{i}" for i in range(X.shape[1])])
    named = clone(fitted).fit(frame)
    assert_array_equal(named.ids_, fitted.ids_)
    assert named.feature_names_in_[1] == "f1"
    assert named.set_output(transform="pandas").transform(frame).columns.tolist() == [
        "rqkmeans0",
        "rqkmeans1",
        "rqkmeans2",
    ]


def test_few_distinct_rows_clamp_the_codebooks_with_one_warning():
    X = np.repeat([[0.0, 1.0], [4.0, 1.0], [9.0, 5.0]], 7, axis=0)
    with pytest.warns(UserWarning, match=r"\(5, 5\) became \(3, 1\)") as record:
        rq = RQKMeans((5, 5), balance="none", random_state=0).fit(X)
    assert len(record) == 1
    # Codebooks are float32, this X is not.
    assert rq.score(X) == pytest.approx(0, abs=1e-12)
    assert collision_rate(rq.ids_) == 0


@pytest.mark.filterwarnings("ignore:codebook_sizes:UserWarning")
@pytest.mark.parametrize(
    "X",
    [
        np.ones((1, 3)),
        np.ones((20, 3)),
        np.c_[np.arange(20.0), np.ones(20)],
        np.random.default_rng(0).normal(size=(30, 4)) * 1e30,
        np.random.default_rng(0).normal(size=(30, 4)) * 1e-30,
        np.random.default_rng(0).normal(size=(30, 4)).astype(np.float16),
        np.random.default_rng(0).integers(0, 9, size=(30, 4)),
    ],
    ids=["one row", "equal rows", "constant", "huge", "tiny", "half", "integers"],
)
def test_odd_data(X):
    rq = RQKMeans((4, 4), balance="all", random_state=0).fit(X)
    assert_array_equal(rq.predict(X), rq.ids_)
    assert collision_rate(rq.ids_) == 0
    spread = np.var(X.astype(np.float64), axis=0).mean()
    assert -rq.score(X) <= spread


@pytest.mark.parametrize("unit", [2.0**100, 2.0**-100])
@pytest.mark.parametrize(
    "params",
    [
        {"balance": "all"},
        {"balance": "none"},
        {"balance": "all", "refine": 0},
        {"augment": 400, "refine": 2},
        {"balance": "none", "beam_size": 3},
    ],
)
def test_units_do_not_change_a_fit(X, unit, params):
    rows = X[:400].astype(np.float64)
    one = RQKMeans((16, 16), random_state=0, **params).fit(rows)
    two = RQKMeans((16, 16), random_state=0, **params).fit(rows * unit)
    assert_array_equal(two.ids_, one.ids_)
    for book, other in zip(one.codebooks_, two.codebooks_, strict=True):
        assert_array_equal(book * np.float32(unit), other)


def test_a_level_that_stays_out_of_balance_says_so(X, monkeypatch):
    # Too few rounds to share all rows out.
    monkeypatch.setattr(_cells, "ROUNDS", 2)
    monkeypatch.setattr(_cells.Cells, "repair", lambda self, *, together: None)
    message = r"level 0 is not quite balanced: \d+ of 600 rows are beyond.*balance_tol"
    with pytest.warns(UserWarning, match=message):
        RQKMeans((16,), balance="all", random_state=0).fit(X[:600])


def test_a_level_says_so_too_when_a_fit_goes_on(X, tmp_path, monkeypatch):
    params = {"balance": "all", "random_state": 0, "checkpoint_dir": tmp_path}
    data = np.repeat(X[:17], 20, axis=0)

    def broken(*args):
        raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(RQKMeans, "_publish_levels", broken)
        with (
            pytest.warns(UserWarning, match="level 0 is not quite balanced"),
            pytest.raises(OSError, match="no room"),
        ):
            RQKMeans((16, 4), **params).fit(data)
    monkeypatch.setattr("sk_rqkplus._rqkmeans.balance_level", broken)
    with pytest.warns(UserWarning, match="level 0 is not quite balanced"):
        RQKMeans((16, 4), resume=True, **params).fit(data)


@pytest.mark.parametrize("balance", ["none", "last"])
def test_a_row_out_of_range_is_found_outside_of_the_sample(balance):
    X = np.random.default_rng(0).normal(size=(1000, 4))
    X[-1] = 1e39
    rq = RQKMeans((8, 8), balance=balance, max_samples=100, random_state=0)
    with pytest.raises(ValueError, match=r"up to 1e\+39, which should be between"):
        rq.fit(X)


def test_crowded_level_says_so(X):
    data = np.concatenate([np.repeat(X[:1], 300, axis=0), X[:300]])
    with pytest.warns(UserWarning, match="level 0 cannot be balanced: 50% of its rows"):
        rq = RQKMeans((8, 8), balance=[True, False], random_state=0).fit(data)
    assert collision_rate(rq.ids_) == 0
    assert_array_equal(rq.predict(data), rq.ids_)


@pytest.mark.parametrize("n_distinct, n_copies", [(40, 10), (17, 20), (20, 12)])
def test_few_distinct_rows_that_spoil_the_balance_are_told_of(n_distinct, n_copies):
    distinct = np.random.RandomState(0).normal(size=(n_distinct, 6))
    X = np.repeat(distinct, n_copies, axis=0)
    message = r"level 0 is not quite balanced: \d+ of \d+ rows.*copies of rows may be"
    with pytest.warns(UserWarning, match=message):
        RQKMeans((16,), balance="all", augment="none", random_state=0).fit(X)


@pytest.mark.parametrize("balance", ["last", "all"])
def test_rows_that_were_not_fitted_are_close_to_balanced(balance):
    X = make_catalogue(5000, 32, random_state=0).data.astype(np.float32)
    rq = RQKMeans((16, 16), balance=balance, augment="none", random_state=0)
    rq.fit(X[:4000])
    with_prices = load_cv(rq.transform(X[4000:]), (16, 16))[-1]
    rq.prices_ = [np.zeros_like(prices) for prices in rq.prices_]
    assert with_prices < 0.2
    assert with_prices < load_cv(rq.transform(X[4000:]), (16, 16))[-1] / 3


@pytest.mark.parametrize(
    "params, message",
    [
        ({"codebook_sizes": ()}, r"codebook_sizes=\(\) should be a sequence of one"),
        ({"codebook_sizes": (4.0, 4)}, "should be a sequence of one integer per level"),
        ({"codebook_sizes": (4, 0)}, r"\(4, 0\) should be >= 1 at every level"),
        ({"balance": [True]}, r"balance=\[True\] should be 'none', 'last', 'all' or"),
        ({"balance": "first"}, "'balance' parameter of RQKMeans must be"),
        ({"device": "tpu"}, "device='tpu' should be 'auto', 'cpu' or 'cuda'"),
        ({"device": "meta"}, "device='meta' should be 'auto', 'cpu' or 'cuda'"),
        ({"max_iter": 0}, "'max_iter' parameter of RQKMeans must be an int"),
        ({"tol": -1}, "'tol' parameter of RQKMeans must be a float"),
        ({"max_samples": 0}, "'max_samples' parameter of RQKMeans must be an int"),
    ],
)
def test_bad_parameters_are_named(X, params, message):
    with pytest.raises(ValueError, match=message):
        RQKMeans(**{"codebook_sizes": (4, 4), **params}).fit(X)


@pytest.mark.parametrize(
    "codes, message",
    [
        ([[0.5, 1.0, 0.0]], "should be integers of 3 or 4 columns"),
        ([[0, 1]], "should be integers of 3 or 4 columns"),
        ([[0, 16, 0]], r"codes\[0, 1\]=16 should be in \[0, 16\)"),
        ([[0, 0, 0], [-1, 0, 0]], r"codes\[1, 0\]=-1 should be in \[0, 16\)"),
    ],
)
def test_bad_codes_are_named(fitted, codes, message):
    with pytest.raises(ValueError, match=message):
        fitted.inverse_transform(codes)


def test_unfitted_estimators_say_so(X):
    for method in ("transform", "predict", "extend", "inverse_transform", "score"):
        with pytest.raises(NotFittedError, match="is not fitted yet"):
            getattr(RQKMeans(), method)(X)


def test_verbose_shows_a_bar_with_the_time_left(X, capsys):
    RQKMeans((4, 4), random_state=0, verbose=1).fit(X)
    bar = capsys.readouterr().err
    assert "RQKMeans: 100%" in bar
    assert "00:00<" in bar
    RQKMeans((4, 4), random_state=0).fit(X)
    assert capsys.readouterr().err == ""


def test_interrupt_is_raised_and_loses_nothing(X, monkeypatch):
    rq = RQKMeans((4, 4), random_state=0).fit(X)
    ids = rq.ids_

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt("Ctrl-C")

    monkeypatch.setattr("sk_rqkplus._rqkmeans.fit_codebook", interrupt)
    with pytest.raises(KeyboardInterrupt, match="Ctrl-C"):
        rq.fit(X)
    assert_array_equal(rq.predict(X), ids)


def test_pipeline_serves_rows_one_by_one(X):
    # The last bit of what a PCA returns depends on the batch.
    model = Pipeline([("pca", PCA(12)), ("sid", RQKMeans((16, 16), random_state=0))])
    ids = model.fit_predict(X)
    codes = model.transform(X)
    assert_array_equal(np.concatenate([model.transform(x[None]) for x in X]), codes)
    assert_array_equal(np.concatenate([model.predict(x[None]) for x in X]), ids)


def test_grid_search_does_not_depend_on_workers(X):
    grid = {"codebook_sizes": [(8, 8), (4, 4, 4)], "balance": ["none", "last"]}
    results = []
    for n_jobs in (1, 2):
        search = GridSearchCV(
            RQKMeans(random_state=0),
            grid,
            scoring=SCORERS,
            refit="reconstruction_mse",
            cv=2,
            n_jobs=n_jobs,
        ).fit(X)
        results.append(search.cv_results_)
    for key, values in results[0].items():
        if "time" not in key and not key.startswith("param"):
            assert_array_equal(values, results[1][key])


def test_another_process_gives_the_same_ids(X, fitted, tmp_path):
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "ids.npy", fitted.ids_)
    joblib.dump(fitted, tmp_path / "model.joblib")
    script = (
        "import joblib, numpy as np; m = joblib.load('model.joblib');"
        "X, ids = np.load('X.npy'), np.load('ids.npy');"
        "assert (m.predict(X) == ids).all(); assert (m.transform(X) == m.codes_).all()"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)


def test_industrial_floors(industrial):
    """Published sizes on a real catalogue: balance, error and collisions."""
    n, K = len(industrial), 256
    rq = RQKMeans((K,) * 3, balance="all", augment="none", random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rq.fit(industrial)
    assert -rq.score(industrial) <= 0.00074
    for codes in (rq.codes_, rq.transform(industrial)):
        for column in codes.T:
            assert set(np.bincount(column, minlength=K)) == {n // K, n // K + 1}
    assert (rq.duality_gap_ <= 1e-4).all()
    assert collision_rate(rq.ids_[:, :3]) == 0
    assert np.square(industrial - rq.inverse_transform(rq.ids_)).mean() <= 0.00076


@pytest.mark.parametrize("bad", [{"codebook_sizes": (0,)}, {"device": "tpu"}])
def test_a_failed_refit_leaves_the_last_fit(X, bad):
    rq = RQKMeans((8, 8), random_state=0).fit(X)
    ids = rq.ids_
    rq.set_params(**bad)
    with pytest.raises(ValueError, match="should be"):
        rq.fit(X[:, :5])
    assert_array_equal(rq.set_params(device="cpu").predict(X), ids)


def test_a_failed_first_fit_leaves_nothing(X):
    rq = RQKMeans((0,))
    with pytest.raises(ValueError, match="should be >= 1 at every level"):
        rq.fit(X)
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        rq.transform(X)


def test_refit_forgets_the_catalogue(X):
    rq = RQKMeans((8, 8), random_state=0).fit(X)
    rq.set_params(store_catalogue=False, codebook_sizes=(4, 4)).fit(X + 5)
    assert not hasattr(rq, "catalogue_")
    assert_array_equal(rq.predict(X + 5), rq.ids_)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e4])
def test_new_rows_far_from_the_origin_are_new(offset):
    rng = np.random.default_rng(0)
    X, new = offset + rng.normal(size=(2, 1000, 16))
    rq = RQKMeans((4, 8), random_state=0).fit(X)
    ids = np.concatenate([rq.ids_, rq.extend(new)])
    assert collision_rate(ids) == 0


def test_float32_rows_on_a_model_of_float64(X):
    data = X.astype(np.float64) * 3 + 1e5
    rq = RQKMeans((8, 8), balance="none", random_state=0).fit(data)
    single = data.astype(np.float32)
    assert_array_equal(rq.transform(single), rq.transform(single.astype(np.float64)))


@pytest.mark.parametrize("unit", [1e39, 1e-44])
def test_units_beyond_float32_are_refused(X, unit):
    with pytest.raises(ValueError, match="X deviates from its mean by up to"):
        RQKMeans((4, 4)).fit(X.astype(np.float64) * unit)


def test_beam_lowers_the_error(industrial):
    X = industrial[:2000]
    # A refinement is for the codes of the beam, and there are other codebooks.
    params = {"balance": "none", "refine": 0, "random_state": 0}
    rq = RQKMeans((32,) * 3, **params).fit(X)
    wide = RQKMeans((32,) * 3, beam_size=5, **params).fit(X)
    for book, expected in zip(wide.codebooks_, rq.codebooks_, strict=True):
        assert_array_equal(book, expected)
    assert wide.score(X) > rq.score(X)
    assert_array_equal(wide.codes_, wide.transform(X))
    assert_array_equal(wide.ids_, wide.predict(X))
    assert_array_equal(wide.transform(X[::-7]), wide.codes_[::-7])


@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.parametrize("balance", ["last", "all"])
@pytest.mark.parametrize("augment", ["none", 3000])
def test_refinement_lowers_the_error_and_keeps_the_balance(
    industrial, beam_size, balance, augment
):
    X = industrial[:1500]
    params = {"augment": augment, "beam_size": beam_size, "random_state": 0}
    fits = [
        RQKMeans((32,) * 3, balance=balance, refine=refine, **params).fit(X)
        for refine in (0, 1, 3)
    ]
    before, once, thrice = [rq.score(X) for rq in fits]
    assert min(once, thrice) > before
    for rq in fits:
        assert_array_equal(rq.codes_, rq.transform(X))
        if beam_size == 1:
            assert (rq.duality_gap_ <= 1e-4).all()
            for number in range(3) if balance == "all" else [2]:
                counts = np.bincount(rq.codes_[:, number], minlength=32)
                assert set(counts) == {46, 47}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("refine", [1, 3])
def test_far_rows_are_balanced_after_a_refinement(refine):
    # A codeword among few far rows has a low price, at which it takes others, too.
    rng = np.random.RandomState(0)
    X = rng.randn(640, 8)
    X[:6] += 1e3 * rng.randn(8)
    rq = RQKMeans((16, 16), balance="all", refine=refine, random_state=0).fit(X)
    assert_array_equal([np.bincount(column) for column in rq.codes_.T], 40)


def test_refinement_of_one_level_changes_nothing(X):
    plain = RQKMeans((16,), refine=0, random_state=0).fit(X)
    refined = RQKMeans((16,), refine=2, random_state=0).fit(X)
    assert_array_equal(refined.codebooks_[0], plain.codebooks_[0])


def test_refined_codewords_are_where_they_reconstruct_best(industrial):
    # Of the codes that they are refined for, which are those of the levels as fitted.
    params = {"balance": "none", "augment": "none", "random_state": 0}
    before = RQKMeans((32,) * 3, refine=0, **params).fit(industrial)
    after = RQKMeans((32,) * 3, refine=1, **params).fit(industrial)
    ridge = _refine.RIDGE
    hot = [np.eye(32)[code] for code in before.codes_.T]
    design = np.vstack([np.hstack(hot), np.sqrt(ridge) * np.eye(96)])
    given = np.vstack(before.codebooks_)
    target = np.vstack([industrial - before.mean_, np.sqrt(ridge) * given])
    expected = np.linalg.lstsq(design, target, rcond=None)[0]
    assert np.abs(expected - given).max() > 1e-2
    assert_allclose(np.vstack(after.codebooks_), expected, atol=5e-6)


@pytest.mark.filterwarnings("ignore:codebook_sizes:UserWarning")
@pytest.mark.parametrize("balance", ["none", "last", "all"])
@pytest.mark.parametrize("sizes", [(1,), (1, 1), (1, 9), (9, 1), (500, 500), (2, 300)])
def test_odd_sizes(X, sizes, balance):
    X = X[:100]
    rq = RQKMeans(sizes, balance=balance, random_state=0).fit(X)
    assert_array_equal(rq.codes_, rq.transform(X))
    assert len(np.unique(rq.ids_, axis=0)) == len(X)
    assert (rq.codes_ < np.minimum(sizes, 100)).all()
    if max(sizes) >= 100:
        # With a refinement a balanced first level moves on after the second has learnt
        # by heart what it leaves over.
        refine = 0 if balance == "all" else 1
        rq = RQKMeans(sizes, balance=balance, refine=refine, random_state=0).fit(X)
        assert rq.score(X) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("augment", ["none", 700])
def test_a_read_only_file_gives_the_same_fit(X, tmp_path, augment):
    np.save(tmp_path / "X.npy", X)
    file = np.load(tmp_path / "X.npy", mmap_mode="r")
    params = {"balance": "all", "augment": augment, "random_state": 0}
    expected = RQKMeans((8, 8), **params).fit(X)
    for rows in (file, np.asfortranarray(X)):
        rq = RQKMeans((8, 8), **params).fit(rows)
        assert_array_equal(rq.codes_, expected.codes_)
        for book, other in zip(rq.codebooks_, expected.codebooks_, strict=True):
            assert_array_equal(book, other)


@pytest.mark.parametrize("balance_tol", [0.0, 0.3])
def test_a_subset_to_fit_on_still_balances_all_rows(industrial, balance_tol):
    rq = RQKMeans(
        (16, 16),
        balance="all",
        balance_tol=balance_tol,
        max_samples=700,
        random_state=0,
    ).fit(industrial)
    even = len(industrial) / 16
    for codes in (rq.codes_, rq.transform(industrial)):
        for column in codes.T:
            counts = np.bincount(column, minlength=16)
            assert counts.min() >= np.floor((1 - balance_tol) * even)
            assert counts.max() <= np.ceil((1 + balance_tol) * even)
    assert rq.duality_gap_.shape == (2,)
    assert (rq.duality_gap_ <= 1e-4).all()


def test_looser_bounds_lower_the_error(industrial):
    X = industrial[:2000]
    errors = [
        -RQKMeans((32, 32), balance="all", balance_tol=tol, random_state=0)
        .fit(X)
        .score(X)
        for tol in (0.0, 0.5)
    ]
    assert errors[1] < errors[0]


def test_several_runs_count_as_steps(X):
    """scikit-learn refuses more steps than were announced."""
    rq = RQKMeans((8, 8), n_init=3, max_iter=2, tol=0, random_state=0).fit(X)
    assert rq.n_iter_ == 2 + 9


def test_a_sample_of_fewer_rows_than_codewords(X):
    with pytest.warns(UserWarning, match=r"codebook_sizes=\(8, 8\) became \(3, 1\)"):
        rq = RQKMeans((8, 8), max_samples=3, augment="none", random_state=0).fit(X)
    np.testing.assert_array_equal(rq.predict(X), rq.ids_)
