"""RQKMeans on Dask: the same bits, whatever the partitions, workers and accidents."""

import os
import signal

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from sk_rqkplus import RQKMeans, RQKMeansPlus
from sk_rqkplus.datasets import make_catalogue

da = pytest.importorskip("dask.array", reason="dask is not installed")
dd = pytest.importorskip("dask.dataframe", reason="dask is not installed")
distributed = pytest.importorskip("distributed", reason="distributed is not installed")
dask = pytest.importorskip("dask", reason="dask is not installed")
pd = pytest.importorskip("pandas", reason="pandas is not installed")

from sk_rqkplus.distributed.dask import DaskRQKMeans  # noqa: E402

SIZES = (8, 8)
CHUNKS = [(1500,), (750, 750), (375,) * 4, (1, 700, 0, 299, 500), (0, 1500, 0)]


@pytest.fixture(scope="module")
def rows():
    X = make_catalogue(1500, 12, branching=(6, 6), random_state=0).data
    X[200:220] = X[0]
    return X.astype(np.float32)


@pytest.fixture(scope="module")
def cluster():
    options = {"processes": True, "threads_per_worker": 1, "dashboard_address": ":0"}
    with distributed.LocalCluster(n_workers=2, **options) as cluster:
        with distributed.Client(cluster) as client:
            yield client


@pytest.fixture
def in_threads():
    with dask.config.set(scheduler="threads"):
        yield


def collection(X, chunks):
    return da.from_array(X, chunks=(chunks, X.shape[1])).persist()


def assert_same_model(found, expected):
    assert found.fingerprint_ == expected.fingerprint_
    for name in ("codebooks_", "prices_"):
        for one, other in zip(
            getattr(found, name), getattr(expected, name), strict=True
        ):
            assert_array_equal(one, other)
    assert_array_equal(found.mean_, expected.mean_)
    assert found.n_iter_ == expected.n_iter_


def check_against_memory(X, chunks, **params):
    params = {"codebook_sizes": SIZES, "random_state": 0, **params}
    expected = RQKMeans(**params).fit(X)
    on_dask = collection(X, chunks)
    found = DaskRQKMeans(**params).fit(on_dask)
    assert_same_model(found, expected)
    codes, ids = found.transform(on_dask), found.predict(on_dask)
    assert codes.chunks[0] == ids.chunks[0] == tuple(chunks)
    assert_array_equal(codes.compute(), expected.codes_)
    assert_array_equal(ids.compute(), expected.ids_)
    assert_array_equal(found.estimator_.transform(X), expected.codes_)
    return found


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
def test_partitions_do_not_matter_on_a_cluster(cluster, rows, chunks):
    check_against_memory(rows, chunks, balance="all")


def test_scores_may_stay_on_a_cluster(cluster, rows, monkeypatch):
    monkeypatch.setattr("sk_rqkplus.distributed._fit.GATHERED_VALUES", 0)
    check_against_memory(rows[:600], (200, 300, 100), codebook_sizes=(4,))


@pytest.mark.parametrize(
    "params",
    [
        {"balance": "none", "dedup": "suffix"},
        {"max_samples": 600},
        {"augment": 2000, "codebook_sizes": (8,)},
        {"refine": 1, "beam_size": 2},
    ],
    ids=str,
)
def test_parameters_mean_the_same_on_a_cluster(cluster, rows, params):
    check_against_memory(rows, CHUNKS[3], **params)


@pytest.mark.parametrize("dtype", [np.float64, np.int16, np.float16])
def test_other_schedulers_and_dtypes(in_threads, rows, dtype):
    X = (rows[:900] * 100).astype(dtype)
    found = check_against_memory(X, (400, 500))
    assert found.mean_.dtype == (np.float32 if dtype == np.float16 else np.float64)


def test_a_killed_worker_changes_nothing(cluster, rows, tmp_path):
    params = {"codebook_sizes": SIZES, "balance": "all", "random_state": 0}
    expected = RQKMeans(**params).fit(rows)
    marker, killed = tmp_path / "passes", tmp_path / "killed"

    def die_once(block):
        with marker.open("a") as file:
            file.write(".")
        # Well into the fit: the rows are read again in every pass.
        if marker.stat().st_size >= 30 and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return block

    X = collection(rows, (750, 750)).map_blocks(die_once, dtype=rows.dtype)
    before = set(cluster.run(os.getpid).values())
    with dask.config.set({"distributed.scheduler.allowed-failures": 10}):
        found = DaskRQKMeans(**params).fit(X)
    assert killed.exists()
    cluster.wait_for_workers(2)
    assert set(cluster.run(os.getpid).values()) != before
    assert_same_model(found, expected)
    assert_array_equal(found.transform(X).compute(), expected.codes_)


def test_grid_search_on_a_cluster(cluster, rows):
    from joblib import parallel_config
    from sklearn.model_selection import GridSearchCV

    grid = {"codebook_sizes": [(4, 4), (8, 8)], "balance": ["none", "last"]}
    search = GridSearchCV(RQKMeans(random_state=0), grid, cv=2)
    serial = clone(search).fit(rows[:600])
    with parallel_config(backend="dask"):
        parallel = clone(search).fit(rows[:600])
    for name in ("split0_test_score", "split1_test_score"):
        assert_array_equal(parallel.cv_results_[name], serial.cv_results_[name])
    assert parallel.best_params_ == serial.best_params_


def test_dataframes_of_unknown_length(in_threads, rows):
    X = pd.DataFrame(rows[:800], columns=[f"f{i}" for i in range(12)])
    expected = RQKMeans(SIZES, random_state=0).fit(X)
    on_dask = dd.from_pandas(X, npartitions=3)
    found = DaskRQKMeans(SIZES, random_state=0).fit(on_dask)
    assert_same_model(found, expected)
    assert_array_equal(found.feature_names_in_, expected.feature_names_in_)
    assert_array_equal(found.transform(on_dask).compute(), expected.codes_)
    assert_array_equal(found.predict(on_dask).compute(), expected.ids_)
    with pytest.raises(ValueError, match="has the columns"):
        found.transform(on_dask[on_dask.columns[::-1]])


def test_a_column_of_lists(in_threads, rows, tmp_path):
    X = rows[:800]
    table = pd.DataFrame({"item": range(800), "vector": list(X)})
    for part in range(2):
        table[400 * part : 400 * part + 400].to_parquet(tmp_path / f"{part}.parquet")
    on_dask = dd.read_parquet(tmp_path)
    on_dask = on_dask[on_dask.item != 900]
    found = DaskRQKMeans(SIZES, random_state=0).fit(on_dask, column="vector")
    expected = RQKMeans(SIZES, random_state=0).fit(X)
    assert_same_model(found, expected)
    assert_array_equal(found.predict(on_dask).compute(), expected.ids_)
    found = clone(found).fit_predict(on_dask, column="vector")
    assert_array_equal(found.compute(), expected.ids_)
    with pytest.raises(ValueError, match="column='vectors' should be one of"):
        DaskRQKMeans(SIZES).fit(on_dask, column="vectors")


def test_lists_of_integers_and_of_fractions(in_threads):
    X = np.array([[0, 2], [0.5, 0.25], [4, 4], [4.5, 4.75]])
    lists = [[0, 2], *X[1:].tolist()]
    with dask.config.set({"dataframe.convert-string": False}):
        table = dd.from_pandas(pd.DataFrame({"vector": lists}), npartitions=2)
        found = DaskRQKMeans((2,), random_state=0).fit(table, column="vector")
    assert_same_model(found, RQKMeans((2,), random_state=0).fit(X))


def test_other_columns_are_refused(in_threads):
    table = pd.DataFrame({"vector": [[1.0, 2.0], [3.0, 4.0], [5.0], [6.0, 7.0]]})
    with pytest.raises(ValueError, match="has strings"):
        DaskRQKMeans((2,)).fit(dd.from_pandas(table, npartitions=2), column="vector")
    with dask.config.set({"dataframe.convert-string": False}):
        ragged = dd.from_pandas(table, npartitions=2)
        with pytest.raises(ValueError, match="at index 2 a value that is no list of 2"):
            DaskRQKMeans((2,)).fit(ragged, column="vector")
        table = pd.DataFrame({"vector": [None, [1.0, 2.0]]})
        missing = dd.from_pandas(table, npartitions=1)
        with pytest.raises(ValueError, match="'vector' has None in its first row"):
            DaskRQKMeans((2,)).fit(missing, column="vector")


def test_a_bad_row_is_named(in_threads, rows):
    X = rows.copy()
    X[1017, 3] = np.nan
    model = DaskRQKMeans(SIZES)
    with pytest.raises(ValueError, match=r"X\[1017\] contains NaN"):
        model.fit(collection(X, CHUNKS[3]))
    assert not hasattr(model, "codebooks_")


@pytest.mark.filterwarnings("ignore:X has 2 NaN")
def test_bad_values_may_count_as_zero(in_threads, rows):
    X = rows[:500].copy()
    X[100, 2:4] = np.nan, np.inf
    check_against_memory(X, (200, 300), nan_policy="zero")


def test_a_failed_fit_leaves_the_model_as_it_was(in_threads, rows):
    model = DaskRQKMeans(SIZES, random_state=0).fit(collection(rows, (1500,)))
    before = model.fingerprint_

    def fail(block):
        raise OSError("the disk is gone")

    bad = collection(rows, (750, 750)).map_blocks(fail, dtype=rows.dtype, meta=rows)
    with pytest.raises(OSError, match="the disk is gone"):
        model.fit(bad)
    assert model.fingerprint_ == before


def test_errors_of_workers_arrive(cluster, rows):
    def fail(block):
        raise OSError("the disk is gone")

    bad = collection(rows, (750, 750)).map_blocks(fail, dtype=rows.dtype, meta=rows)
    with pytest.raises(OSError, match="the disk is gone"):
        DaskRQKMeans(SIZES).fit(bad)


def test_reconstructions_and_score(in_threads, rows):
    X = collection(rows, (700, 800))
    model = DaskRQKMeans(SIZES, random_state=0).fit(X)
    made = model.inverse_transform(model.transform(X))
    assert made.chunks == ((700, 800), (12,))
    assert made.dtype == rows.dtype
    expected = model.estimator_.inverse_transform(model.estimator_.transform(rows))
    assert_array_equal(made.compute(), expected)
    assert model.score(X) == pytest.approx(model.estimator_.score(rows), rel=1e-6)


def test_conventions(in_threads, rows):
    model = DaskRQKMeans(SIZES, balance="none", random_state=0)
    assert model.get_params() == RQKMeans(**model.get_params()).get_params()
    X = collection(rows, (1500,))
    with pytest.raises(NotFittedError, match="not fitted"):
        model.transform(X)
    codes = model.fit_transform(X)
    assert_array_equal(codes.compute(), model.transform(X).compute())
    assert_array_equal(model.fit_predict(X).compute(), model.predict(X).compute())
    assert not hasattr(clone(model), "codebooks_")
    with pytest.raises(ValueError, match="which should be 12, as in fit"):
        model.transform(X[:, :5])


@pytest.mark.parametrize(
    "change, X, message",
    [
        ({}, np.ones((4, 2)), "should be a Dask array or dataframe"),
        ({}, da.ones((0, 2)), "n_samples=0"),
        ({}, da.ones((4, 0)), "n_features=0"),
        ({}, da.ones(4), "has 1 dimensions"),
        ({}, da.ones((4, 2)).astype(str), "should be numbers"),
        ({"max_iter": 0}, da.ones((4, 2)), "max_iter"),
        ({"device": "cuda"}, da.ones((4, 2)), "device='cuda' should be"),
    ],
)
def test_what_is_refused(in_threads, change, X, message):
    with pytest.raises((TypeError, ValueError), match=message):
        DaskRQKMeans((2,), **change).fit(X)


@pytest.mark.parametrize("estimator", [RQKMeans((2,)), RQKMeansPlus((2,))])
def test_collections_are_not_for_estimators_in_memory(rows, estimator):
    with pytest.raises(TypeError, match="DaskRQKMeans"):
        estimator.fit(collection(rows, (1500,)))
    fitted = RQKMeans((2,)).fit(rows[:100])
    with pytest.raises(TypeError, match="DaskRQKMeans"):
        fitted.transform(collection(rows, (1500,)))


def test_a_spark_dataframe_is_not_for_estimators_in_memory():
    frame = type("DataFrame", (), {"__module__": "pyspark.sql.classic.dataframe"})()
    with pytest.raises(TypeError, match="SparkRQKMeans"):
        RQKMeans((2,)).fit(frame)


def test_progress_is_shown(in_threads, rows, capsys):
    DaskRQKMeans(SIZES, verbose=1).fit(collection(rows, (1500,)))
    assert "RQKMeans" in capsys.readouterr().err
