import pickle

import numpy as np
import pyarrow as pa
import pytest
from numpy.testing import assert_array_equal
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from sk_rqkplus import RQVAE, RQKMeans, RQKMeansPlus
from sk_rqkplus.distributed import encode_batch, encoded_schema, identify, lean
from sk_rqkplus.tokens import to_strings


def view_of(X, array):
    """Rows as views of values that are in the opposite order."""
    sizes = np.full(len(X), X.shape[1])
    offsets = (np.cumsum(sizes) - sizes)[::-1]
    number = np.int64 if array is pa.LargeListViewArray else np.int32
    values = pa.array(np.ascontiguousarray(X[::-1]).reshape(-1))
    return array.from_arrays(offsets.astype(number), sizes.astype(number), values)


def embeddings(X):
    """Rows as lists of one size."""
    values = pa.array(np.ascontiguousarray(X).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(values, X.shape[1])


LISTS = {
    "list": lambda X: embeddings(X).cast(pa.list_(pa.from_numpy_dtype(X.dtype))),
    "large": lambda X: embeddings(X).cast(pa.large_list(pa.from_numpy_dtype(X.dtype))),
    "fixed size": embeddings,
    "view": lambda X: view_of(X, pa.ListViewArray),
    "large view": lambda X: view_of(X, pa.LargeListViewArray),
}


def batch_of(X, **columns):
    columns = {"item_id": np.arange(len(X)), **columns, "embedding": embeddings(X)}
    return pa.record_batch(columns)


def matrix(column):
    """Lists of a column as a matrix."""
    return np.array(column.to_pylist())


def encoded(X, model, **columns):
    """Encoded rows with their embeddings, as the second pass takes them."""
    batch = batch_of(X, **columns)
    keep = [*columns, "item_id", "embedding"]
    return pa.table(encode_batch(batch, model, keep=list(dict.fromkeys(keep))))


@pytest.fixture(scope="module")
def copies(X):
    """A catalogue of which half is copies, so that IDs are hard to make unique."""
    rng = np.random.default_rng(0)
    return np.concatenate([X, X[rng.integers(0, 40, len(X))]])[rng.permutation(1200)]


@pytest.fixture(scope="module", params=["reassign", "suffix"])
def crowded(request, copies):
    """A model whose codes collide, and its rows."""
    model = RQKMeans((4, 4, 16), dedup=request.param, random_state=0)
    return model.fit(copies), copies


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LISTS)
def test_codes_are_those_of_transform(X, fitted, name, dtype):
    X = X.astype(dtype)
    columns = {"item_id": np.arange(len(X)), "embedding": LISTS[name](X)}
    batch = pa.record_batch(columns)
    found = encode_batch(batch, fitted)
    assert found.schema.equals(encoded_schema(batch.schema, fitted))
    assert_array_equal(matrix(found["codes"]), fitted.transform(X))
    part = encode_batch(batch.slice(17, 100), fitted)
    assert part.equals(found.slice(17, 100))


def test_tensors_of_a_fixed_shape_are_lists(X, fitted):
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(X[:50])
    batch = pa.record_batch({"item_id": np.arange(50), "embedding": tensors})
    codes = matrix(encode_batch(batch, fitted)["codes"])
    assert_array_equal(codes, fitted.codes_[:50])


def test_half_precision_and_integers_are_numbers(X, fitted):
    for rows in (X.astype(np.float16), X.astype(np.int32)):
        codes = matrix(encode_batch(batch_of(rows), fitted)["codes"])
        assert_array_equal(codes, fitted.transform(rows.astype(np.float64)))


def test_columns_that_are_passed_on(X, fitted):
    batch = batch_of(X[:3], title=pa.array(["a", None, "c"], pa.large_string()))
    found = encode_batch(batch, fitted, keep=["title", "item_id"], tokens=False)
    assert found.schema.names == ["title", "item_id", "codes"]
    assert found["title"].equals(batch["title"])
    assert encode_batch(batch, fitted, keep=[]).schema.names == ["codes", "tokens"]
    assert encode_batch(batch, fitted).schema.names == ["item_id", "codes", "tokens"]


def test_tokens_are_those_of_the_codes(X, fitted):
    tokens = encode_batch(batch_of(X[:5]), fitted)["tokens"].to_pylist()
    assert tokens == to_strings(
        np.c_[fitted.codes_[:5], np.zeros(5, int)], suffix="never"
    )
    first = fitted.codes_[0]
    assert tokens[0] == "<a_{}><b_{}><c_{}>".format(*first)


def test_a_pipeline_encodes(X):
    model = make_pipeline(PCA(8, random_state=0), RQKMeans((8, 8), random_state=0))
    model.fit(X)
    codes = matrix(encode_batch(batch_of(X), model)["codes"])
    assert_array_equal(codes, model.transform(X))
    model[-1].set_output(transform="pandas")
    assert_array_equal(matrix(encode_batch(batch_of(X), model)["codes"]), codes)


def test_no_rows_are_no_codes(X, fitted):
    empty = batch_of(X).slice(0, 0)
    found = encode_batch(empty, fitted)
    assert len(found) == 0
    assert found.schema == encoded_schema(empty.schema, fitted)


def test_bad_embeddings_are_named_by_their_key(X, fitted):
    rows = X[:4].tolist()

    def encode(wrong, **options):
        lists = pa.array([*rows, wrong], pa.list_(pa.float64()))
        batch = pa.record_batch({"item_id": list("abcde"), "embedding": lists})
        return encode_batch(batch, fitted, **options)

    with pytest.raises(ValueError, match="'embedding' has no list in row item_id='e'"):
        encode(None)
    with pytest.raises(ValueError, match="has 3 values in row item_id='e', which sho"):
        encode(rows[0][:3])
    with pytest.raises(ValueError, match="an empty value in row item_id='e'. Fill"):
        encode([None, *rows[0][1:]])
    with pytest.raises(ValueError, match="NaN or infinity in row item_id='e'. Fill"):
        encode([np.nan, *rows[0][1:]])
    with pytest.raises(ValueError, match="NaN or infinity in row 4. Fill"):
        encode([np.inf, *rows[0][1:]], key="row", keep=[])


def test_what_cannot_be_encoded(X, fitted):
    batch = batch_of(X[:3], codes=np.arange(3))
    with pytest.raises(ValueError, match="embedding='x' should be one of the columns"):
        encode_batch(batch, fitted, embedding="x")
    with pytest.raises(ValueError, match="key='sku' should be one of the columns"):
        encode_batch(batch, fitted, key="sku")
    with pytest.raises(ValueError, match="embedding='item_id' has type int64, which"):
        encode_batch(batch, fitted, embedding="item_id", keep=[])
    with pytest.raises(ValueError, match="other than 'codes' and 'tokens'"):
        encode_batch(batch, fitted, keep=["codes"])
    with pytest.raises(TypeError, match="keep='item_id' should be a sequence"):
        encode_batch(batch, fitted, keep="item_id")
    with pytest.raises(ValueError, match="key='item_id' has no value in row 1. Give"):
        encode_batch(batch_of(X[:2], item_id=pa.array(["a", None])), fitted)
    with pytest.raises(ValueError, match="X has 3 features, but RQKMeans is expecting"):
        encode_batch(batch_of(X[:, :3]), fitted)
    with pytest.raises(TypeError, match="model=PCA should be an estimator of this"):
        encode_batch(batch, PCA())
    with pytest.raises(ValueError, match="not fitted yet"):
        encode_batch(batch, RQKMeans())


@pytest.mark.parametrize(
    "estimator",
    [
        RQKMeans((8, 8), random_state=0),
        RQKMeansPlus((8, 8), max_epochs=1, random_state=0),
        RQVAE((8, 8), latent_dim=4, max_epochs=1, random_state=0),
    ],
    ids=lambda e: type(e).__name__,
)
@pytest.mark.filterwarnings("ignore:no epoch had")
def test_a_lean_model_encodes_and_identifies(X, estimator):
    model = estimator.fit(X)
    slim = lean(model)
    for name in ("codes_", "ids_", "catalogue_"):
        assert hasattr(model, name)
        assert not hasattr(slim, name)
    assert_array_equal(slim.transform(X), model.codes_)
    table = encoded(X, pickle.loads(pickle.dumps(slim)))
    assert_array_equal(matrix(identify(table, slim)["ids"]), model.ids_)


def test_a_lean_model_is_small(X):
    many = np.tile(X, (20, 1))
    pipeline = make_pipeline(PCA(8), RQKMeans((8, 8), random_state=0)).fit(many)
    size = len(pickle.dumps(lean(pipeline)))
    assert size < 2 * sum(book.nbytes for book in pipeline[-1].codebooks_) + 20_000
    assert len(pickle.dumps(pipeline)) > 10 * size
    assert hasattr(pipeline[-1], "codes_")


def test_ids_are_those_of_the_fit(crowded):
    model, X = crowded
    assert_array_equal(matrix(identify(encoded(X, model), model)["ids"]), model.ids_)


@pytest.mark.parametrize("n_partitions", [1, 2, 3, 8])
def test_ids_do_not_depend_on_partitions(crowded, n_partitions):
    model, X = crowded
    keys = np.random.default_rng(n_partitions).permutation(len(X))
    table = encoded(X, model, item_id=keys)
    first = matrix(table["codes"])[:, 0]
    found = {}
    for part in range(n_partitions):
        rows = np.flatnonzero(first % n_partitions == part)
        part = identify(table.take(rows), model).to_pylist()
        found.update((row["item_id"], row["ids"]) for row in part)
    in_order = identify(encoded(X[np.argsort(keys)], model), model)
    assert [found[key] for key in range(len(X))] == in_order["ids"].to_pylist()


def test_ties_are_broken_alike_in_every_partition():
    # Every row is as far from many codewords: the assignment has many optima.
    grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 3), axis=-1).reshape(-1, 3)
    X = np.concatenate([grid, grid + 100, grid])
    model = RQKMeans((2, 70), balance="none", random_state=0).fit(X)
    whole = identify(encoded(X, model), model)
    assert_array_equal(matrix(whole["ids"]), model.ids_)
    for first in range(2):
        rows = np.flatnonzero(model.codes_[:, 0] == first)
        part = identify(encoded(X, model).take(rows), model)
        assert_array_equal(matrix(part["ids"]), model.ids_[rows])


def test_one_level_is_one_group(copies):
    for dedup in ("reassign", "suffix"):
        model = RQKMeans((64,), balance="none", dedup=dedup, random_state=0)
        model.fit(copies)
        table = encoded(copies, model)
        assert_array_equal(matrix(identify(table, model)["ids"]), model.ids_)


def test_popular_items_come_first(copies):
    model = RQKMeans((4, 4), dedup="suffix", random_state=0).fit(copies)
    views = np.random.default_rng(1).integers(0, 50, len(copies))
    table = encoded(copies, model, views=views)
    ids = matrix(identify(table, model, order="views")["ids"])
    for row in range(0, len(copies), 97):
        rivals = (model.codes_ == model.codes_[row]).all(axis=1)
        ahead = (views > views[row]) | ((views == views[row]) & (np.arange(1200) < row))
        assert ids[row, -1] == (rivals & ahead).sum()


def test_ids_that_are_taken_are_not_given_again(crowded):
    model, X = crowded
    table = encoded(X, model)
    taken = matrix(identify(table.slice(0, 500), model)["ids"])
    ids = matrix(identify(table.slice(500), model, taken=taken)["ids"])
    assert len(np.unique(np.r_[taken, ids], axis=0)) == len(X)


def test_what_cannot_be_identified(X, fitted):
    table = encoded(X[:4], fitted)

    def with_keys(keys):
        return table.set_column(0, "item_id", [pa.array(keys)])

    with pytest.raises(ValueError, match="item_id='b' is in more than one row, and"):
        identify(with_keys(["a", "b", "b", "c"]), fitted)
    with pytest.raises(ValueError, match="key='item_id' has no value in row 2. Give"):
        identify(with_keys(["a", "b", None, "c"]), fitted)
    with pytest.raises(ValueError, match="key='item_id' has type double, which should"):
        identify(with_keys([0.0, 1.0, 2.0, 3.0]), fitted)
    with pytest.raises(ValueError, match="key='sku' should be one of the columns"):
        identify(table, fitted, key="sku")
    with pytest.raises(ValueError, match="should include 'codes'. Give what encode"):
        identify(table.drop_columns(["codes"]), fitted)
    with pytest.raises(ValueError, match="dedup='reassign' needs it. Choose one"):
        identify(table.drop_columns(["embedding"]), fitted)
    wrong = pa.array(np.full((4, 3), 16).tolist())
    with pytest.raises(ValueError, match="codes should have 3 values from 0 to below"):
        identify(table.set_column(2, "codes", [wrong]), fitted)
    with pytest.raises(ValueError, match="order='x' should be a column of numbers amo"):
        identify(table, fitted, order="x")
    order = table.append_column("x", pa.array([1.0, 2.0, np.nan, 3.0]))
    with pytest.raises(ValueError, match="order='x' has no value in row item_id=2"):
        identify(order, fitted, order="x")
