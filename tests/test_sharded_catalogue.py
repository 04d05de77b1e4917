import shutil

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_array_equal
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from sk_rqkplus import RQKMeans
from sk_rqkplus.distributed import Appended, ShardedCatalogue, catalogue, encode_batch


def encoded(X, model, keys=None, **columns):
    """Encoded rows with their embeddings, as a catalogue takes them."""
    lists = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), X.shape[1])
    keys = pa.array(range(len(X)) if keys is None else keys)
    batch = pa.record_batch({"item_id": keys, **columns, "embedding": lists})
    return pa.table(encode_batch(batch, model, keep=["item_id", *columns, "embedding"]))


@pytest.fixture(scope="module")
def copies(X):
    """A catalogue of which half is copies, so that IDs are hard to make unique."""
    rng = np.random.default_rng(0)
    return np.concatenate([X, X[rng.integers(0, 40, len(X))]])[rng.permutation(1200)]


@pytest.fixture(scope="module", params=["reassign", "suffix", "one level"])
def crowded(request, copies):
    """A model whose codes collide, and its rows, encoded."""
    one = request.param == "one level"
    dedup = "reassign" if one else request.param
    sizes = (8,) if one else (4, 4, 16)
    model = RQKMeans(sizes, balance="none", dedup=dedup, random_state=0).fit(copies)
    return model, encoded(copies, model)


@pytest.fixture
def filled(tmp_path, fitted, X):
    """A catalogue of 100 items."""
    made = ShardedCatalogue.create(tmp_path / "ids", fitted)
    made.append(encoded(X[:100], fitted), fitted)
    return made


def partitions(table, n_partitions, rng):
    """The rows as batches that a partitioned job would hand over in any order."""
    where = rng.integers(0, n_partitions, len(table))
    for part in rng.permutation(n_partitions):
        yield from table.filter(pa.array(where == part)).combine_chunks().to_batches()


@pytest.mark.parametrize("n_partitions", range(1, 9))
def test_ids_are_those_of_the_fit(tmp_path, crowded, n_partitions):
    model, table = crowded
    made = ShardedCatalogue.create(tmp_path / "ids", model)
    rng = np.random.default_rng(n_partitions)
    batches = partitions(table, n_partitions, rng)
    assert made.append(batches, model, buffer_bytes=20_000) == Appended(1200, 0)
    assert_array_equal(made.lookup(range(1200)), model.ids_)
    assert len(made) == 1200
    made.verify()


def test_appends_in_any_batches_move_no_id(tmp_path, crowded):
    model, table = crowded
    made = ShardedCatalogue.create(tmp_path / "ids", model)
    rng = np.random.default_rng(0)
    published = {}
    for n_rows in (1, 300, 60, 400, 500, 1200):
        some = table.take(rng.choice(len(table), n_rows, replace=False))
        keys = some["item_id"].to_pylist()
        n_known = len(published.keys() & set(keys))
        assert made.append(some, model) == Appended(len(keys) - n_known, n_known)
        new = {
            key: tuple(id_)
            for key, id_ in zip(keys, made.lookup(keys).tolist(), strict=True)
        }
        assert all(new.get(key, published[key]) == published[key] for key in published)
        published.update(new)
    assert len(set(published.values())) == len(table)
    again = ShardedCatalogue(tmp_path / "ids")
    found = map(tuple, again.lookup(list(published)).tolist())
    assert list(found) == list(published.values())
    for key, id_ in list(published.items())[::200]:
        assert again.items(id_)["item_id"].to_pylist() == [key]


def test_an_item_keeps_its_id_when_its_embedding_changes(filled, X, fitted):
    before = filled.lookup(range(100))
    assert filled.append(encoded(X[200:300], fitted), fitted) == Appended(0, 100)
    assert_array_equal(filled.lookup(range(100)), before)


def test_items_of_a_prefix(filled):
    ids = filled.lookup(range(100))
    for width in (1, 2, 3, 4):
        prefix = ids[7, :width].tolist()
        found = filled.items(prefix)
        rows = np.flatnonzero((ids[:, :width] == prefix).all(axis=1))
        assert sorted(found["item_id"].to_pylist()) == rows.tolist()
        assert found["ids"].to_pylist() == sorted(ids[rows].tolist())
    assert len(filled.items([99])) == 0
    with pytest.raises(ValueError, match=r"prefix=\[\] should have 1 to 4 numbers"):
        filled.items([])


def test_any_engine_reads_the_folder(filled):
    # A reader that knows nothing of the package.
    table = ds.dataset(filled.path, partitioning="hive").to_table()
    assert table.schema.names == ["item_id", "codes", "ids", "append", "level_0"]
    ids = np.array(table["ids"].to_pylist())
    assert_array_equal(ids, filled.lookup(table["item_id"]))
    assert_array_equal(ids[:, 0], table["level_0"])
    polars = pytest.importorskip("polars")
    assert len(polars.read_parquet(filled.path / "**/*.parquet")) == 100


def test_strings_are_keys(tmp_path, fitted, X):
    made = ShardedCatalogue.create(tmp_path / "ids", fitted)
    names = [f"item {row}" for row in range(50)]
    made.append(encoded(X[:50], fitted, names), fitted)
    found = made.lookup(["item 7", "no item", "item 3"])
    assert made.items(found[0])["item_id"].to_pylist() == ["item 7"]
    assert made.items(found[2])["item_id"].to_pylist() == ["item 3"]
    assert_array_equal(found[1], [-1] * 4)
    with pytest.raises(ValueError, match="keys should be of type string, as those of"):
        made.lookup([1, 2])
    with pytest.raises(ValueError, match="has type int64, which should be string as"):
        made.append(encoded(X[:5], fitted), fitted)


def test_popular_items_come_first(tmp_path, fitted, X):
    model = RQKMeans((2, 2), dedup="suffix", random_state=0).fit(X)
    views = np.random.default_rng(0).permutation(len(X))
    made = ShardedCatalogue.create(tmp_path / "ids", model)
    made.append(encoded(X, model, views=pa.array(views)), model, order="views")
    ids = made.lookup(range(len(X)))
    for prefix in np.unique(ids[:, :2], axis=0):
        rows = (ids[:, :2] == prefix).all(axis=1)
        assert_array_equal(np.argsort(ids[rows, -1]), np.argsort(-views[rows]))


def test_a_catalogue_without_items(tmp_path, fitted, X):
    made = ShardedCatalogue.create(tmp_path / "ids", fitted)
    assert len(made) == 0
    assert_array_equal(made.lookup(["a"]), [[-1] * 4])
    assert len(made.items([0])) == 0
    assert made.append(encoded(X[:5], fitted).slice(0, 0), fitted) == Appended(0, 0)
    assert made.append([], fitted) == Appended(0, 0)
    assert repr(made) == (
        "<ShardedCatalogue of 0 items, codebook_sizes=(16, 16, 16), method='reassign'>"
    )


def test_another_model_is_refused(filled, fitted, X):
    other = RQKMeans((16, 16, 16), random_state=1).fit(X)
    with pytest.raises(ValueError, match="model has fingerprint=.*belongs to another"):
        filled.append(encoded(X[:5], other), other)
    suffixed = RQKMeans((16, 16, 16), dedup="suffix", random_state=0).fit(X)
    with pytest.raises(ValueError, match="model has dedup='suffix', which should be "):
        filled.append(encoded(X[:5], suffixed), suffixed)


def test_a_pipeline_is_known_by_its_steps(tmp_path, X):
    one, other = (
        make_pipeline(
            PCA(4, svd_solver=name), RQKMeans((4, 4), balance="none", random_state=0)
        )
        for name in ("full", "covariance_eigh")
    )
    one.fit(X)
    other.fit(X)
    other.steps[-1] = one.steps[-1]
    made = ShardedCatalogue.create(tmp_path / "ids", one)
    made.append(encoded(X, one), one)
    assert_array_equal(made.lookup(range(len(X))), one[-1].ids_)
    with pytest.raises(ValueError, match="belongs to another model"):
        made.append(encoded(X, other), other)


def test_what_cannot_be_appended(filled, fitted, X):
    rows = encoded(X[100:110], fitted, range(100, 110))
    keys = rows["item_id"].combine_chunks()

    def with_keys(keys):
        return rows.set_column(0, "item_id", [keys])

    with pytest.raises(ValueError, match="item_id=100 is in more than one row, and"):
        filled.append(pa.concat_tables([rows, rows]), fitted)
    with pytest.raises(ValueError, match="key='item_id' has no value in row 0. Give"):
        filled.append(with_keys(pa.nulls(10, pa.int64())), fitted)
    with pytest.raises(ValueError, match="has type int32, which should be int64 as in"):
        filled.append(with_keys(keys.cast(pa.int32())), fitted)
    with pytest.raises(ValueError, match="should include 'embedding' once. Add it"):
        filled.append(rows.drop_columns(["embedding"]), fitted)
    wrong = pa.array([[99, 0, 0]] * 10)
    with pytest.raises(ValueError, match="codes should have 3 values from 0 to below"):
        filled.append(rows.set_column(2, "codes", wrong), fitted)
    with pytest.raises(TypeError, match="rows=dict should be a Table, a Dataset or ba"):
        filled.append([{"item_id": 1}], fitted)
    narrow = rows.set_column(2, "codes", rows["codes"].cast(pa.list_(pa.int8())))
    with pytest.raises(ValueError, match="in every batch. Cast them."):
        filled.append([*rows.to_batches(), *narrow.to_batches()], fitted)
    assert len(filled) == len(ShardedCatalogue(filled.path)) == 100
    assert [path.name for path in filled.path.parent.iterdir()] == ["ids"]


def test_no_changed_byte_makes_another_id(filled):
    part = next(filled.path.rglob("part-*.parquet"))
    data, keys = part.read_bytes(), range(200)
    expected, n_refused = filled.lookup(keys), 0
    rng = np.random.default_rng(0)
    for at in rng.integers(len(data), size=100):
        changed = bytearray(data)
        changed[at] ^= 1 << rng.integers(8)
        part.write_bytes(changed)
        try:
            found = ShardedCatalogue(filled.path).lookup(keys)
        except (OSError, ValueError, NotImplementedError):
            n_refused += 1
        else:
            np.testing.assert_array_equal(found, expected)
    assert n_refused > 50


def test_no_reader_sees_metadata_that_changed(filled):
    part = next(filled.path.rglob("part-*.parquet"))
    data = part.read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    for at in range(-8 - length, 0, 7):
        changed = bytearray(data)
        changed[at] ^= 1 << (at % 8)
        part.write_bytes(changed)
        with pytest.raises(ValueError, match="parquet should end as it was written"):
            ShardedCatalogue(filled.path)


def test_a_catalogue_of_an_earlier_version_is_read(filled, monkeypatch):
    def read(*args, read=catalogue.read_store, **kwargs):
        files, values = read(*args, **kwargs)
        files.pop("end_crc", None)
        return files, values

    monkeypatch.setattr(catalogue, "read_store", read)
    assert_array_equal(
        ShardedCatalogue(filled.path).lookup(range(100)), filled.lookup(range(100))
    )


def test_damage_is_refused(filled, tmp_path):
    part = next(filled.path.rglob("part-*.parquet"))
    data = part.read_bytes()
    part.write_bytes(data[:-1])
    with pytest.raises(ValueError, match=r"part-0.parquet should be a file of \d+ byt"):
        ShardedCatalogue(filled.path)
    part.write_bytes(bytes([*data[:99], data[99] ^ 1, *data[100:]]))
    with pytest.raises(ValueError, match="should be as it was written, but was change"):
        ShardedCatalogue(filled.path).verify()
    part.unlink()
    with pytest.raises(ValueError, match=r"part-0.parquet should be a file of \d+ byt"):
        ShardedCatalogue(filled.path)
    part.write_bytes(data)
    filled.verify()
    (filled.path / "append=0").rename(filled.path / "append=1")
    with pytest.raises(FileNotFoundError, match="append=0/_files' should be a folder"):
        ShardedCatalogue(filled.path)
    shutil.rmtree(filled.path / "_catalogue")
    with pytest.raises(FileNotFoundError, match="_catalogue' should be a folder that"):
        ShardedCatalogue(filled.path)


def test_only_a_new_folder_is_made_a_catalogue(filled, fitted, tmp_path):
    with pytest.raises(ValueError, match="ids' exists, and should be a new folder or"):
        ShardedCatalogue.create(filled.path, fitted)
    with pytest.raises(ValueError, match="key='codes' should not be the name of anoth"):
        ShardedCatalogue.create(tmp_path / "x", fitted, key="codes")
    (tmp_path / "empty").mkdir()
    assert len(ShardedCatalogue.create(tmp_path / "empty", fitted)) == 0
    with pytest.raises(FileNotFoundError, match="No such file or directory"):
        ShardedCatalogue.create(tmp_path / "no" / "ids", fitted)


def test_one_process_appends_at_a_time(filled, fitted, X):
    def slow():
        yield from encoded(X[100:110], fitted, range(100, 110)).to_batches()
        with pytest.raises(ValueError, match="should be written by one process at a t"):
            ShardedCatalogue(filled.path).append(encoded(X, fitted), fitted)

    assert filled.append(slow(), fitted) == Appended(10, 0)


def test_an_append_sees_those_before_it(filled, fitted, X):
    other = ShardedCatalogue(filled.path)
    rows = encoded(X[100:200], fitted, range(100, 200))
    assert filled.append(rows, fitted) == Appended(100, 0)
    assert other.append(rows, fitted) == Appended(0, 100)
    assert_array_equal(other.lookup(range(200)), filled.lookup(range(200)))


def test_an_append_that_fails_leaves_nothing(filled, fitted, X, monkeypatch):
    rows = encoded(X[100:200], fitted, range(100, 200))
    written = []

    def fail_later(*args):
        written.append(args)
        if len(written) == 3:
            raise OSError("No space left on device")
        return real(*args)

    real = catalogue._write_part
    monkeypatch.setattr(catalogue, "_write_part", fail_later)
    with pytest.raises(OSError, match="No space left"):
        filled.append(rows, fitted)
    assert len(ShardedCatalogue(filled.path)) == 100
    assert [path.name for path in filled.path.parent.iterdir()] == ["ids"]
    assert filled.append(rows, fitted) == Appended(100, 0)


def test_keys_are_sorted_in_every_file(filled):
    for part in filled.path.rglob("part-*.parquet"):
        keys = pq.read_table(part, columns=["item_id"])["item_id"].to_pylist()
        assert keys == sorted(keys)
