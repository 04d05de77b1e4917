import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import PACKAGE_ENV
from numpy.testing import assert_array_equal
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from sk_rqkplus import RQKMeans
from sk_rqkplus.cli import main
from sk_rqkplus.distributed import (
    Appended,
    Encoded,
    ShardedCatalogue,
    _shards,
    encode_shards,
)


def write_table(folder, X, keys, n_files, row_group_size=100):
    """Write rows as files of unlike sizes."""
    cuts = np.linspace(0, len(X) ** 0.5, n_files + 1) ** 2
    cuts = cuts.astype(int)
    for number, (start, stop) in enumerate(zip(cuts, cuts[1:], strict=False)):
        lists = pa.FixedSizeListArray.from_arrays(
            pa.array(X[start:stop].ravel()), X.shape[1]
        )
        table = pa.table(
            {
                "item_id": keys[start:stop],
                "views": np.arange(start, stop) % 7,
                "embedding": lists,
            }
        )
        path = folder / f"day={number % 2}" / f"part-{number}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, row_group_size=row_group_size)
    return folder


def read_rows(folder, column="codes"):
    """Lists of a column by key."""
    rows = {}
    for path in sorted(folder.rglob("*.parquet")):
        table = pq.ParquetFile(path).read()
        keys = table["item_id"].to_pylist()
        rows.update(zip(keys, table[column].to_pylist(), strict=True))
    return rows


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*.parquet"))}


@pytest.fixture
def table(tmp_path, X):
    return write_table(tmp_path / "table", X, np.arange(len(X)), 5)


@pytest.mark.parametrize("n_files", [1, 3, 8])
@pytest.mark.parametrize("dedup", ["reassign", "suffix"])
def test_codes_and_ids_are_those_of_the_fit(tmp_path, X, dedup, n_files, monkeypatch):
    monkeypatch.setattr(_shards, "BATCH_ROWS", 37)
    rows = np.concatenate([X, X[:300]])
    model = RQKMeans((4, 4, 16), dedup=dedup, random_state=0).fit(rows)
    order = np.random.default_rng(n_files).permutation(len(rows))
    source = write_table(tmp_path / "table", rows[order], order, n_files)
    out, ids = tmp_path / "codes", tmp_path / "ids"
    found = encode_shards(model, source, out, ids=ids)
    assert found == Encoded(900, n_files, 0, Appended(900, 0))
    codes = read_rows(out)
    assert [codes[key] for key in range(900)] == model.codes_.tolist()
    assert_array_equal(ShardedCatalogue(ids).lookup(range(900)), model.ids_)


def test_outputs_are_like_their_inputs(tmp_path, table, fitted):
    out = tmp_path / "codes"
    encode_shards(fitted, table, out, keep=["views", "item_id"], tokens=False)
    for path in table.rglob("*.parquet"):
        written = pq.ParquetFile(out / path.relative_to(table)).read()
        assert written.schema.names == ["views", "item_id", "codes"]
        assert written["views"].equals(pq.ParquetFile(path).read()["views"])
    one = next(table.rglob("*.parquet"))
    assert encode_shards(fitted, one, tmp_path / "one").n_files == 1
    assert (tmp_path / "one" / one.name).exists()


def test_resume_makes_what_is_missing_or_changed(tmp_path, table, X, fitted):
    out = tmp_path / "codes"
    encode_shards(fitted, table, out)
    whole, before = read_rows(out), stamps(out)
    first, second, third, *others = before
    first.unlink()
    source = table / second.relative_to(out)
    os.utime(source, ns=(1, 1))
    found = encode_shards(fitted, table, out, resume=True)
    assert found == Encoded(len(X), 5, 3, None)
    assert read_rows(out) == whole
    after = stamps(out)
    assert [path for path in before if after[path] == before[path]] == [third, *others]
    assert encode_shards(fitted, table, out, resume=True).n_skipped == 5
    assert encode_shards(fitted, table, out, force=True).n_skipped == 0
    assert read_rows(out) == whole


def test_resume_is_refused_to_another_model(tmp_path, table, X, fitted):
    out = tmp_path / "codes"
    encode_shards(fitted, table, out)
    other = RQKMeans((16, 16, 16), random_state=1).fit(X)
    with pytest.raises(ValueError, match="part-0.parquet was made by another model or"):
        encode_shards(other, table, out, resume=True)
    with pytest.raises(ValueError, match="or with other options, and should be made"):
        encode_shards(fitted, table, out, tokens=False, resume=True)
    encode_shards(other, table, out, force=True)
    assert [read_rows(out)[key] for key in range(600)] == other.codes_.tolist()


def test_what_is_there_is_not_overwritten(tmp_path, table, fitted):
    out = tmp_path / "codes"
    encode_shards(fitted, table, out)
    before = stamps(out)
    with pytest.raises(ValueError, match="has files of an earlier run. Use --resume"):
        encode_shards(fitted, table, out)
    with pytest.raises(ValueError, match="resume=True and force=True exclude each"):
        encode_shards(fitted, table, out, resume=True, force=True)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"has other files, \['notes.txt'\], and"):
        encode_shards(fitted, table, out, force=True)
    assert stamps(out) == before


def test_a_pipeline_is_resumed_by_another_process(tmp_path, table, X):
    import joblib

    model = make_pipeline(PCA(8, random_state=0), RQKMeans((8, 8), random_state=0))
    joblib.dump(model.fit(X), tmp_path / "model.joblib")
    encode_shards(model, table, tmp_path / "codes", ids=tmp_path / "ids")
    script = (
        "import sys, joblib\n"
        "from sk_rqkplus.distributed import encode_shards\n"
        "model, table, out, ids = sys.argv[1:]\n"
        "print(encode_shards(joblib.load(model), table, out, ids=ids, resume=True))"
    )
    paths = [tmp_path / name for name in ("model.joblib", "table", "codes", "ids")]
    result = subprocess.run(
        [sys.executable, "-c", script, *map(str, paths)],
        capture_output=True,
        text=True,
        env=PACKAGE_ENV,
    )
    assert "n_skipped=5, appended=Appended(n_new=0, n_known=600)" in result.stdout


def test_bad_files_are_named_before_anything_is_written(tmp_path, table, fitted):
    out, bad = tmp_path / "codes", table / "part-9.parquet"
    good = next(table.rglob("part-0.parquet"))
    bad.write_bytes(good.read_bytes()[:-9])
    with pytest.raises(ValueError, match="part-9.parquet should be a Parquet file: "):
        encode_shards(fitted, table, out)
    rows = pq.ParquetFile(good).read()
    pq.write_table(rows.drop_columns(["embedding"]), bad)
    with pytest.raises(ValueError, match="part-9.parquet: embedding='embedding'"):
        encode_shards(fitted, table, out)
    pq.write_table(rows.cast(rows.schema.set(0, pa.field("item_id", "int32"))), bad)
    with pytest.raises(ValueError, match="part-9.parquet has the columns .*'int32'"):
        encode_shards(fitted, table, out)
    assert not out.exists()


def test_bad_rows_are_named_and_what_is_done_stays(tmp_path, table, fitted):
    out, bad = tmp_path / "codes", table / "part-9.parquet"
    rows = [[0.0] * 24, [np.nan] * 24]
    lists = pa.array(rows, pa.list_(pa.float32(), 24))
    columns = {"item_id": [900, 901], "views": [0, 0], "embedding": lists}
    pq.write_table(pa.table(columns), bad)
    match = "part-9.parquet, from row 0 on: embedding='embed.* in row item_id=901"
    with pytest.raises(ValueError, match=match):
        encode_shards(fitted, table, out)
    assert len(stamps(out)) == 5
    assert list(out.rglob("*.tmp")) == []
    bad.unlink()
    assert encode_shards(fitted, table, out, resume=True).n_skipped == 5


def test_a_file_without_rows_is_encoded(tmp_path, table, X, fitted):
    some = pq.ParquetFile(next(table.rglob("part-0.parquet"))).read()
    pq.write_table(some.slice(0, 0), table / "part-9.parquet")
    found = encode_shards(fitted, table, tmp_path / "codes", ids=tmp_path / "ids")
    assert found == Encoded(len(X), 6, 0, Appended(len(X), 0))
    assert len(pq.ParquetFile(tmp_path / "codes" / "part-9.parquet").read()) == 0


def test_a_key_that_is_in_two_files_is_named(tmp_path, table, fitted):
    some = pq.ParquetFile(next(table.rglob("part-1.parquet"))).read()
    pq.write_table(some.slice(3, 1), table / "part-9.parquet")
    key = some["item_id"][3].as_py()
    with pytest.raises(ValueError, match=f"item_id={key} is in more than one row, and"):
        encode_shards(fitted, table, tmp_path / "codes", ids=tmp_path / "ids")
    assert len(ShardedCatalogue(tmp_path / "ids")) == 0
    assert encode_shards(fitted, table, tmp_path / "codes", resume=True).n_skipped == 6


def test_data_damaged_behind_the_footer_are_named(tmp_path, table, fitted):
    path = next(table.rglob("part-4.parquet"))
    data = bytearray(path.read_bytes())
    data[4:2000] = b"\xff" * 1996
    path.write_bytes(data)
    with pytest.raises(ValueError, match="part-4.parquet should be a Parquet file: "):
        encode_shards(fitted, table, tmp_path / "codes")


def test_what_would_stop_the_second_pass_stops_the_first(tmp_path, table, X, fitted):
    out, ids = tmp_path / "codes", tmp_path / "ids"
    other = RQKMeans((16, 16, 16), random_state=1).fit(X)
    ShardedCatalogue.create(ids, other)
    with pytest.raises(ValueError, match="belongs to another model"):
        encode_shards(fitted, table, out, ids=ids)
    with pytest.raises(ValueError, match="should include 'clicks'. Choose another"):
        encode_shards(fitted, table, out, ids=tmp_path / "new", order="clicks")
    with pytest.raises(ValueError, match="order='views' should come with ids: codes"):
        encode_shards(fitted, table, out, order="views")
    ShardedCatalogue.create(tmp_path / "by_sku", fitted, key="sku")
    with pytest.raises(ValueError, match="key='item_id' should be 'sku', the key of"):
        encode_shards(fitted, table, out, ids=tmp_path / "by_sku")
    by_name = ShardedCatalogue.create(tmp_path / "by_name", fitted)
    names = pa.table({"item_id": ["a"], "codes": [[0, 0, 0]], "embedding": [X[0]]})
    by_name.append(names, fitted)
    with pytest.raises(ValueError, match="has type int64, which should be string as"):
        encode_shards(fitted, table, out, ids=tmp_path / "by_name")
    for name, options in (
        ("out", {"out": table / "codes"}),
        ("ids", {"out": out, "ids": out / "ids"}),
        ("ids", {"out": out, "ids": table}),
    ):
        with pytest.raises(ValueError, match=f"{name}='.*' should be apart from"):
            encode_shards(fitted, table, **options)
    with pytest.raises(FileNotFoundError, match="should be a Parquet file or a folder"):
        encode_shards(fitted, tmp_path / "nothing", out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="should have files that end in .parquet or"):
        encode_shards(fitted, tmp_path / "empty", out)
    assert not out.exists()


def test_more_tables_come_into_one_catalogue(tmp_path, X, fitted):
    ids = tmp_path / "ids"
    for number, rows in enumerate((slice(0, 400), slice(300, 600))):
        keys = np.arange(600)[rows]
        source = write_table(tmp_path / f"table-{number}", X[rows], keys, 2)
        out = tmp_path / f"codes-{number}"
        found = encode_shards(fitted, source, out, ids=ids, order="views")
        assert found.appended == [Appended(400, 0), Appended(200, 100)][number]
        if number == 0:
            before = ShardedCatalogue(ids).lookup(range(400))
    after = ShardedCatalogue(ids).lookup(range(600))
    assert_array_equal(after[:400], before)
    assert len(np.unique(after, axis=0)) == 600


def test_a_source_that_changes_is_noticed(tmp_path, table, fitted, monkeypatch):
    def touch(*args, **options):
        for path in table.rglob("*.parquet"):
            os.utime(path)
        return real(*args, **options)

    real = _shards.encode_batch
    monkeypatch.setattr(_shards, "encode_batch", touch)
    with pytest.raises(ValueError, match="part-0.parquet should not change while it"):
        encode_shards(fitted, table, tmp_path / "codes")
    assert stamps(tmp_path / "codes") == {}


def test_one_process_writes_at_a_time(tmp_path, table, fitted, monkeypatch):
    def encode_too(*args, **options):
        with pytest.raises(ValueError, match="should be written by one process at a t"):
            encode_shards(fitted, table, tmp_path / "codes", resume=True)
        return real(*args, **options)

    real = _shards.encode_batch
    monkeypatch.setattr(_shards, "encode_batch", encode_too)
    assert encode_shards(fitted, table, tmp_path / "codes").n_files == 5


@pytest.fixture
def model_folder(tmp_path, X, capsys):
    np.save(tmp_path / "sample.npy", X)
    argv = "--estimator rqkmeans --codebook-sizes 16,16,16 --random-state 0 --verbose 0"
    model = str(tmp_path / "model")
    command = ["fit", str(tmp_path / "sample.npy"), "--model", model, *argv.split()]
    assert main(command) == 0
    capsys.readouterr()
    return model


def test_command_line_encodes_a_folder(tmp_path, table, fitted, model_folder, capsys):
    out, ids = tmp_path / "codes.parquet", tmp_path / "ids.parquet"
    command = ["encode", str(table), "--model", model_folder, "--out", str(out)]
    assert main([*command, "--ids", str(ids)]) == 0
    assert capsys.readouterr().out == (
        f"600 rows in 5 files: {out}\n600 new items, 0 known ones: {ids}\n"
    )
    assert [read_rows(out)[key] for key in range(600)] == fitted.codes_.tolist()
    assert_array_equal(ShardedCatalogue(ids).lookup(range(600)), fitted.ids_)
    assert main([*command, "--resume"]) == 0
    found = capsys.readouterr().out
    assert found == f"600 rows in 5 files, 5 of them done before: {out}\n"


@pytest.mark.parametrize(
    "argv, message",
    [
        ("", "has files of an earlier run. Use --resume"),
        ("--resume --keep views", "was made by another model or with other options"),
        ("--force --item-ids sku", "key='sku' should be one of the columns"),
        ("--force --column views", "embedding='views' has type int64, which should"),
        ("--format jsonl", "--format is for embeddings that are one file. Leave it"),
        ("--base 1", "--base is for embeddings that are one file. Leave it out"),
    ],
)
def test_command_line_says_in_a_line_what_is_wrong(
    tmp_path, table, model_folder, capsys, argv, message
):
    command = ["encode", str(table), "--model", model_folder]
    command += ["--out", str(tmp_path / "codes")]
    assert main(command) == 0
    capsys.readouterr()
    assert main([*command, *argv.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_command_line_has_one_command_for_both(tmp_path, model_folder, capsys):
    command = ["encode", str(tmp_path / "sample.npy"), "--model", model_folder]
    command += ["--out", str(tmp_path / "ids.json")]
    for option in (["--resume"], ["--ids", "x"], ["--keep", "a,b"], ["--order", "a"]):
        assert main([*command, *option]) == 2
        assert f"{option[0]} is for embeddings that are a folder" in (
            capsys.readouterr().err
        )
    assert main(command) == 0
