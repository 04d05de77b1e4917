"""Spark, for real: a local session of two cores."""

import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline

from sk_rqkplus import RQVAE, RQKMeans, RQKMeansPlus
from sk_rqkplus._threads import block_rows
from sk_rqkplus.datasets import make_catalogue
from sk_rqkplus.distributed._spark import BATCH_ROWS, spark_engine
from sk_rqkplus.distributed.spark import (
    SparkRQKMeans,
    encode_dataframe,
    identify_dataframe,
)
from sk_rqkplus.tokens import to_strings

pyspark = pytest.importorskip("pyspark", reason="pyspark is not installed")
from sk_rqkplus.distributed.spark_ml import (  # noqa: E402
    SemanticIDEstimator,
    SemanticIDModel,
)

# Workers import the package, and this file, from where this process did.
PATHS = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]


@pytest.fixture(scope="module")
def spark():
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        pytest.skip("Spark needs Java")
    from pyspark.sql import SparkSession

    before = {name: os.environ.get(name) for name in ("PYSPARK_PYTHON", "PYTHONPATH")}
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [*PATHS, *filter(None, [before["PYTHONPATH"]])]
    )
    session = (
        SparkSession.builder.master("local[2,2]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.sql.shuffle.partitions", "4")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.log.level", "OFF")
        # Workers that fail or are killed are many here, and slow to import.
        .config("spark.python.daemon.module", "spark_daemon")
        .getOrCreate()
    )
    yield session
    session.stop()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture(scope="module")
def X():
    """Rows of which some share a code."""
    data = make_catalogue(900, 12, branching=(5, 5), random_state=1).data
    return (data + 2).astype(np.float32)


def table_of(X, keys=None, **columns):
    keys = np.arange(len(X)) if keys is None else keys
    value = pa.float32() if X.dtype == np.float32 else pa.float64()
    lists = pa.array(list(X), type=pa.list_(value))
    return pa.table({"item_id": keys, "embedding": lists, **columns})


def frame(spark, X, partitions=3, seed=0, **columns):
    """Shuffled rows of a DataFrame of some partitions."""
    table = table_of(X, **columns)
    order = np.random.default_rng(seed).permutation(len(X))
    return spark.createDataFrame(table.take(order)).repartition(partitions)


def by_key(df, column, key="item_id"):
    """Column of a DataFrame in the order of the keys, as an array."""
    return np.array(df.select(key, column).toArrow().sort_by(key)[column].to_pylist())


@pytest.mark.parametrize("partitions", [1, 3, 8])
def test_codes_are_those_of_one_machine(spark, X, partitions):
    model = RQKMeans((8, 8, 8), random_state=0).fit(X)
    df = frame(spark, X, partitions, title=[f"item {i}" for i in range(len(X))])
    encoded = encode_dataframe(model, df).persist()
    assert encoded.columns == [*df.columns, "codes", "tokens"]
    np.testing.assert_array_equal(by_key(encoded, "codes"), model.codes_)
    codes = np.hstack([model.codes_, np.zeros((len(X), 1), dtype=np.int32)])
    assert by_key(encoded, "tokens").tolist() == to_strings(codes, suffix="never")
    assert by_key(encoded, "title")[7] == "item 7"
    np.testing.assert_array_equal(by_key(encoded, "embedding"), X)
    encoded.unpersist()


def models():
    small = {"max_epochs": 2, "eval_every": 1, "random_state": 0}
    yield RQKMeansPlus((6, 6), **small)
    yield RQVAE((6, 6), latent_dim=4, **small)
    yield make_pipeline(PCA(6, random_state=0), RQKMeans((6, 6), random_state=0))


@pytest.mark.parametrize("model", [*models()], ids=lambda m: type(m).__name__)
def test_every_model_encodes(spark, X, model):
    model.fit(X)
    encoded = encode_dataframe(model, frame(spark, X), tokens=False)
    assert encoded.columns[-1] == "codes"
    np.testing.assert_array_equal(by_key(encoded, "codes"), model.transform(X))


@pytest.mark.parametrize("dedup", ["reassign", "suffix"])
@pytest.mark.parametrize("partitions", [1, 3, 8])
def test_ids_are_those_of_one_machine(spark, X, partitions, dedup):
    model = RQKMeans((8, 8, 8), dedup=dedup, random_state=0).fit(X)
    identified = identify_dataframe(model, frame(spark, X, partitions))
    assert identified.columns == ["item_id", "embedding", "ids"]
    np.testing.assert_array_equal(by_key(identified, "ids"), model.ids_)


def test_one_level_has_one_group(spark, X):
    model = RQKMeans((12,), random_state=0).fit(X[:20])
    identified = identify_dataframe(model, frame(spark, X[:20]))
    np.testing.assert_array_equal(by_key(identified, "ids"), model.ids_)


def test_popular_items_get_small_suffixes(spark):
    X = np.repeat(np.array([[0.0], [9.0]]), 3, axis=0)
    model = RQKMeans((2, 1), balance="none", dedup="suffix", random_state=0).fit(X)
    df = frame(spark, X, order=[5, 9, 7, 1, 1, 2])
    suffix = by_key(identify_dataframe(model, df, order="order"), "ids")[:, -1]
    # Largest first, then by key.
    assert suffix.tolist() == [2, 0, 1, 1, 2, 0]


def test_vectors(spark, X):
    from pyspark.ml.functions import array_to_vector

    X = X.astype(np.float64)
    model = RQKMeans((8, 8), random_state=0).fit(X)
    df = frame(spark, X).withColumn("vector", array_to_vector("embedding"))
    identified = identify_dataframe(model, df, "vector")
    assert identified.columns == [*df.columns, "ids"]
    np.testing.assert_array_equal(by_key(identified, "ids"), model.ids_)
    encoded = encode_dataframe(model, df, "vector")
    assert encoded.schema["vector"].dataType == df.schema["vector"].dataType
    row = encoded.where("item_id = 7").first()
    assert row["vector"].toArray().tolist() == X[7].tolist()
    assert row["codes"] == model.codes_[7].tolist()


def test_no_rows(spark, X, fitted_small):
    df = spark.createDataFrame([], frame(spark, X).schema)
    assert encode_dataframe(fitted_small, df).count() == 0
    assert identify_dataframe(fitted_small, df).count() == 0


@pytest.fixture(scope="module")
def fitted_small(X):
    return RQKMeans((8, 8), random_state=0).fit(X)


@pytest.mark.parametrize(
    "value, message",
    [
        (None, r"embedding='embedding' has no list in row item_id='f'"),
        ([1.0] * 11, r"embedding='embedding' has 1[12] values in row item_id='.'"),
    ],
)
def test_bad_rows_are_named(spark, X, fitted_small, value, message):
    rows = [(key, list(map(float, x))) for key, x in zip("abcde", X, strict=False)]
    df = spark.createDataFrame(
        [*rows, ("f", value)], "item_id string, embedding array<float>"
    )
    with pytest.raises(pyspark.errors.PythonException, match=message):
        encode_dataframe(fitted_small, df.coalesce(1)).collect()


def test_bad_columns(spark, X, fitted_small):
    df = frame(spark, X[:4])
    with pytest.raises(ValueError, match=r"embedding='x' should be one of the columns"):
        encode_dataframe(fitted_small, df, "x")
    with pytest.raises(ValueError, match=r"key='x' should be one of the columns"):
        encode_dataframe(fitted_small, df, key="x")
    with pytest.raises(ValueError, match=r"order='x' should be one of the columns"):
        identify_dataframe(fitted_small, df, order="x")
    with pytest.raises(ValueError, match=r"'item_id' has type bigint, which should be"):
        encode_dataframe(fitted_small, df, "item_id")
    with pytest.raises(ValueError, match=r"df has a column 'codes'"):
        encode_dataframe(fitted_small, df.withColumn("codes", df.item_id))
    with pytest.raises(TypeError, match=r"df=ndarray should be a Spark DataFrame"):
        encode_dataframe(fitted_small, X)
    with pytest.raises(TypeError, match=r"model=PCA should be an estimator of this"):
        encode_dataframe(PCA(2).fit(X), df)


def test_key_twice(spark, X, fitted_small):
    df = spark.createDataFrame(
        table_of(np.repeat(X[:3], 2, axis=0), [0, 0, 1, 2, 3, 4])
    )
    with pytest.raises(pyspark.errors.PythonException, match=r"item_id=0 is in more"):
        identify_dataframe(fitted_small, df).collect()


class Killer(RQKMeans):
    """A model that kills the first worker that uses it."""

    def transform(self, X):
        flag = Path(self.flag)
        if not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().transform(X)


def test_killed_worker(spark, X, tmp_path):
    model = Killer((8, 8), random_state=0).fit(X)
    model.flag = str(tmp_path / "killed")
    encoded = encode_dataframe(model, frame(spark, X, 8))
    np.testing.assert_array_equal(by_key(encoded, "codes"), model.codes_)
    assert Path(model.flag).exists()


@pytest.fixture(scope="module")
def many(X):
    """Rows of several blocks."""
    return np.concatenate([X, X[::-1] * 1.25, X * 0.5])[:2500]


@pytest.mark.parametrize("partitions, sizes", [(1, (12,)), (3, (12, 12)), (8, (12,))])
def test_fit_is_that_of_one_machine(spark, many, partitions, sizes):
    params = {"max_iter": 2, "augment": "none", "random_state": 0}
    expected = RQKMeans(sizes, **params).fit(many)
    df = frame(spark, many, partitions)
    model = SparkRQKMeans(sizes, **params)
    assert model.fit(df, "embedding", key="item_id") is model
    assert model.fingerprint_ == expected.fingerprint_
    for one, other in zip(model.codebooks_, expected.codebooks_, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(by_key(model.transform(df), "codes"), expected.codes_)
    np.testing.assert_array_equal(by_key(model.predict(df), "ids"), expected.ids_)


def test_blocks_are_rows_in_the_order_of_keys(spark, many):
    # Strings come in another order than numbers: "10" before "9".
    keys = [str(i) for i in range(len(many))]
    table = table_of(many, keys)
    df = spark.createDataFrame(table.take(np.arange(len(many))[::-1])).repartition(5)
    df = df.unionAll(spark.createDataFrame([], df.schema))
    batch_rows = spark.conf.get(BATCH_ROWS)
    with spark_engine(df, "embedding", "item_id") as engine:
        assert (engine.n_rows, engine.n_features) == many.shape
        labelled = engine.keep(negative_starts, 1).keep(negative_starts, 2)
        every = list(labelled.map(whole, None))
        some = list(labelled.map(whole, None, [0, 2]))
        plain = list(engine.map(whole, None))
    X = many[np.argsort(np.array(keys), kind="stable")]
    np.testing.assert_array_equal(np.concatenate([b.X for b in every]), X)
    assert [b.start for b in every] == list(range(0, len(X), block_rows(len(X))))
    assert [len(b.X) for b in every[:-1]] == [block_rows(len(X))] * (len(every) - 1)
    assert [b.start for b in some] == [every[0].start, every[2].start]
    assert all([list(map(int, b.labels)) == [-b.start, -2 * b.start] for b in every])
    assert all(b.labels == () for b in plain)
    # Nothing stays with Spark, neither rows nor settings.
    assert spark.sparkContext._jsc.getPersistentRDDs().size() == 0
    assert spark.conf.get(BATCH_ROWS) == batch_rows


def negative_starts(block, factor):
    return np.array(-factor * block.start)


def whole(block, _):
    return block._replace(X=block.X.copy())


@pytest.mark.parametrize(
    "rows, message",
    [
        ([], r"n_samples=0 should be >= 1"),
        ([("a", [1.0]), ("a", [2.0])], r"item_id='a' is in 2 rows, and keys should"),
        ([("a", [1.0]), (None, [2.0])], r"key='item_id' is null in 1 rows"),
        ([("a", [1.0]), ("b", None)], r"has no list in row item_id='b'"),
        ([("a", [1.0]), ("b", [1.0, 2.0])], r"has 2 values in row item_id='b'"),
        ([("a", [1.0]), ("b", [float("inf")])], r"infinity in row item_id='b'"),
    ],
)
def test_fit_refuses(spark, rows, message):
    df = spark.createDataFrame(rows, "item_id string, embedding array<float>")
    with pytest.raises(ValueError, match=message):
        SparkRQKMeans((2, 2)).fit(df)
    assert spark.sparkContext._jsc.getPersistentRDDs().size() == 0


def test_bad_values_may_count_as_zero(spark, X):
    bad, X = X[:300].copy(), X[:300].copy()
    bad[100, 2:4], X[100, 2:4] = (np.nan, np.inf), 0
    df = frame(spark, bad, 2)
    with spark_engine(df, "embedding", "item_id", nan_policy="zero") as engine:
        found = list(engine.map(whole, None))
    np.testing.assert_array_equal(np.concatenate([block.X for block in found]), X)


def test_fit_refuses_columns_and_parameters(spark, X):
    df = frame(spark, X[:9])
    with pytest.raises(ValueError, match=r"key='id' should be one of the columns"):
        SparkRQKMeans((2, 2)).fit(df, key="id")
    with pytest.raises(ValueError, match=r"key='item_id' has type double, which"):
        SparkRQKMeans((2, 2)).fit(df.withColumn("item_id", df.item_id.cast("double")))
    with pytest.raises(ValueError, match=r"embedding='item_id' has type bigint"):
        SparkRQKMeans((2, 2)).fit(df, "item_id", key="item_id")
    with pytest.raises(ValueError, match=r"The 'max_iter' parameter of RQKMeans"):
        SparkRQKMeans((2, 2), max_iter=0).fit(df)
    with pytest.raises(NotFittedError, match=r"SparkRQKMeans instance is not fitted"):
        SparkRQKMeans((2, 2)).transform(df)
    assert SparkRQKMeans((2, 2)).get_params() == RQKMeans((2, 2)).get_params()


def test_pipeline_of_spark(spark, X):
    from pyspark.ml import Pipeline
    from pyspark.ml.feature import MaxAbsScaler
    from pyspark.ml.functions import array_to_vector, vector_to_array

    quantizer = SparkRQKMeans((6,), max_samples=300, augment="none", random_state=0)
    stage = SemanticIDEstimator(quantizer, "scaled", outputCol="sid")
    scaler = MaxAbsScaler(inputCol="vector", outputCol="scaled")
    df = frame(spark, X).withColumn("vector", array_to_vector("embedding"))
    pipeline = Pipeline(stages=[scaler, stage]).fit(df)
    encoded = pipeline.transform(df)
    assert encoded.columns == ["item_id", "embedding", "vector", "scaled", "sid"]
    scaled = by_key(encoded.withColumn("rows", vector_to_array("scaled")), "rows")
    expected = RQKMeans(**quantizer.get_params()).fit(scaled)
    np.testing.assert_array_equal(by_key(encoded, "sid"), expected.codes_)
    # A model of one machine is a stage too, and arrays are as good as vectors.
    model = SemanticIDModel(expected, "rows", "codes")
    again = model.transform(encoded.withColumn("rows", vector_to_array("scaled")))
    np.testing.assert_array_equal(by_key(again, "codes"), expected.codes_)
    with pytest.raises(ValueError, match="df has a column 'sid', which should be free"):
        pipeline.stages[-1].transform(encoded)
    with pytest.raises(TypeError, match=r"quantizer=RQKMeans should be a SparkRQKM"):
        SemanticIDEstimator(expected)
    assert not hasattr(quantizer, "estimator_")
