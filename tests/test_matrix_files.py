"""Matrices from files of all formats."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from numpy.testing import assert_array_equal
from safetensors.torch import save_file

from sk_rqkplus._matrix_files import read_column, read_matrix

X = np.random.RandomState(0).normal(size=(50, 7)).astype(np.float32)


def write_table(path, **columns):
    pa.parquet.write_table(pa.table(columns), path, row_group_size=13)


def fixed(matrix):
    """Column of lists of a fixed size."""
    values = pa.array(matrix.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(values, matrix.shape[1])


def test_every_format_gives_the_same_matrix(tmp_path):
    np.save(tmp_path / "a.npy", X)
    np.savez(tmp_path / "a.npz", X=X)
    np.savez_compressed(tmp_path / "b.npz", X=X, Y=X[:3], names=np.array(["a"]))
    write_table(tmp_path / "a.parquet", item=np.arange(50), X=fixed(X))
    write_table(tmp_path / "b.PQ", X=list(X), Y=fixed(X[:, :2]), names=[["a"]] * 50)
    save_file({"X": torch.from_numpy(X)}, tmp_path / "a.safetensors")
    tensors = {"X": torch.from_numpy(X), "bias": torch.zeros(3)}
    save_file(tensors, tmp_path / "b.safetensors")
    for name, options in [
        ("a.npy", {}),
        ("a.npz", {}),
        ("b.npz", {"key": "X"}),
        ("a.parquet", {}),
        ("a.parquet", {"column": "X"}),
        ("b.PQ", {"column": "X"}),
        ("a.safetensors", {}),
        ("b.safetensors", {"key": "X"}),
    ]:
        back = read_matrix(tmp_path / name, **options)
        assert back.dtype == np.float32, name
        assert_array_equal(back, X)
        assert_array_equal(read_matrix(str(tmp_path / name), **options), X)


def test_large_files_are_mapped_where_that_is_possible(tmp_path):
    np.save(tmp_path / "X.npy", X)
    assert isinstance(read_matrix(tmp_path / "X.npy"), np.memmap)
    save_file({"X": torch.from_numpy(X)}, tmp_path / "X.safetensors")
    back = read_matrix(tmp_path / "X.safetensors")
    # A view of what torch mapped, not a copy.
    assert not back.flags.owndata
    assert_array_equal(back, X)


@pytest.mark.parametrize("chunk", [1, 7, 50, 1000])
def test_chunks_of_parquet_are_of_no_account(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("sk_rqkplus._matrix_files.CHUNK_ROWS", chunk)
    write_table(tmp_path / "X.parquet", X=list(X))
    assert_array_equal(read_matrix(tmp_path / "X.parquet"), X)


def test_parquet_of_others_is_read(tmp_path):
    pd.DataFrame({"X": list(X)}).to_parquet(tmp_path / "pandas.parquet")
    pl.DataFrame({"X": X}).write_parquet(tmp_path / "polars.parquet")
    for name in ("pandas.parquet", "polars.parquet"):
        assert_array_equal(read_matrix(tmp_path / name), X)


@pytest.mark.parametrize(
    "dtype, expected",
    [
        ("float64", "float64"),
        ("float16", "float32"),
        ("int8", "float32"),
        ("int64", "float64"),
    ],
)
def test_types_of_parquet_become_those_of_estimators(tmp_path, dtype, expected):
    matrix = (X * 4).astype(dtype)
    write_table(tmp_path / "X.parquet", X=fixed(matrix))
    back = read_matrix(tmp_path / "X.parquet")
    assert back.dtype == expected
    assert_array_equal(back, matrix)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_types_of_safetensors_keep_their_values(tmp_path, dtype):
    tensor = torch.from_numpy(X).to(dtype)
    save_file({"X": tensor}, tmp_path / "X.safetensors")
    back = read_matrix(tmp_path / "X.safetensors")
    assert_array_equal(back, tensor.double().numpy())


def test_no_rows_are_a_matrix_without_rows(tmp_path):
    write_table(tmp_path / "X.parquet", X=pa.array([], pa.list_(pa.float32())))
    assert read_matrix(tmp_path / "X.parquet").shape[0] == 0
    np.save(tmp_path / "X.npy", X[:0])
    assert read_matrix(tmp_path / "X.npy").shape == (0, 7)


ROWS = [[1.0, 2.0]] * 20


@pytest.mark.parametrize(
    "columns, options, message",
    [
        (
            {"a": [1, 2]},
            {},
            r"has the columns \[\] of lists of numbers, which should be",
        ),
        (
            {"a": ROWS, "b": ROWS},
            {},
            r"has the columns \['a', 'b'\] of lists of numbers, .* Choose by column",
        ),
        ({"a": ROWS}, {"column": "b"}, r"column='b' should be one of \['a'\], which"),
        (
            {"a": [1, 2]},
            {"column": "a"},
            "column='a' .* has type int64, which should be",
        ),
        ({"a": [["x"]]}, {"column": "a"}, "column='a' .* has type list<"),
        ({"a": ROWS[:17] + [[1.0]]}, {}, "has 1 values in row 17, which should be 2"),
        (
            {"a": [*ROWS[:3], [1.0], *ROWS]},
            {},
            "has 1 values in row 3, which should be",
        ),
        ({"a": ROWS[:17] + [None]}, {}, "has no list in row 17. Fill it or leave it"),
        ({"a": ROWS[:17] + [[1.0, None]]}, {}, "has an empty value in row 17. Fill it"),
        ({"a": ROWS}, {"key": "a"}, "key='a' should be left out for"),
    ],
)
def test_parquet_without_a_matrix_is_named(
    tmp_path, monkeypatch, columns, options, message
):
    monkeypatch.setattr("sk_rqkplus._matrix_files.CHUNK_ROWS", 8)
    write_table(tmp_path / "X.parquet", **columns)
    with pytest.raises(ValueError, match=message):
        read_matrix(tmp_path / "X.parquet", **options)


@pytest.mark.parametrize(
    "array, message",
    [
        (X[0], r"has shape=\(7,\) and dtype=float32, which should be a matrix"),
        (X[None], r"has shape=\(1, 50, 7\)"),
        (X > 0, "dtype=bool"),
        (X.astype(complex), "dtype=complex128"),
        (np.array([["a"]]), "dtype=<U1"),
    ],
)
def test_arrays_that_are_no_matrix_are_named(tmp_path, array, message):
    np.save(tmp_path / "X.npy", array)
    np.savez(tmp_path / "X.npz", array)
    for name in ("X.npy", "X.npz"):
        with pytest.raises(ValueError, match=name + " has .*" + message[-12:]):
            read_matrix(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        read_matrix(tmp_path / "X.npy")


@pytest.mark.parametrize("ending", [".npy", ".npz", ".parquet", ".safetensors"])
def test_damaged_and_missing_files_are_named(tmp_path, ending):
    path = tmp_path / f"X{ending}"
    with pytest.raises(FileNotFoundError, match="No such file"):
        read_matrix(path)
    for content in (b"", b"x" * 9, b"\x80\x04K\x01.", bytes(100)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"X{ending} should be an? .*file"):
            read_matrix(path)


@pytest.mark.parametrize("ending", [".npy", ".npz", ".parquet", ".safetensors"])
def test_files_cut_short_are_named(tmp_path, ending):
    whole = tmp_path / f"X{ending}"
    np.save(tmp_path / "X.npy", X)
    np.savez(tmp_path / "X.npz", X)
    write_table(tmp_path / "X.parquet", X=list(X))
    save_file({"X": torch.from_numpy(X)}, tmp_path / "X.safetensors")
    content = whole.read_bytes()
    for stop in (len(content) // 2, len(content) - 1):
        whole.write_bytes(content[:stop])
        with pytest.raises(ValueError, match=rf"X{ending} should be an? .*file"):
            read_matrix(whole)


def test_objects_are_never_unpickled(tmp_path):
    array = np.array([{"a": 1}], dtype=object)
    np.save(tmp_path / "X.npy", array)
    np.savez(tmp_path / "X.npz", X=array)
    with pytest.raises(
        ValueError, match=r"X.npy should be a .npy file of numbers: Array"
    ):
        read_matrix(tmp_path / "X.npy")
    with pytest.raises(
        ValueError, match=r"X.npz should be an .npz file: Object arrays"
    ):
        read_matrix(tmp_path / "X.npz")


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_one_of_several_arrays_is_to_be_chosen(tmp_path, ending):
    path = tmp_path / f"X{ending}"
    if ending == ".npz":
        np.savez(path, a=X, b=X)
    else:
        save_file({"a": torch.from_numpy(X), "b": torch.zeros(3, 2)}, path)
    with pytest.raises(
        ValueError, match=r"has the arrays \['a', 'b'\], which should be"
    ):
        read_matrix(path)
    with pytest.raises(ValueError, match=r"key='c' should be one of \['a', 'b'\]"):
        read_matrix(path, key="c")
    with pytest.raises(ValueError, match="column='a' should be left out for"):
        read_matrix(path, column="a")


def test_other_endings_are_named(tmp_path):
    with pytest.raises(ValueError, match="X.csv should end in one of .npy, .npz, .saf"):
        read_matrix(tmp_path / "X.csv")
    with pytest.raises(ValueError, match="X should end in one of"):
        read_matrix(tmp_path / "X")


def test_keys_are_a_column(tmp_path):
    write_table(tmp_path / "X.parquet", item=["a", "b"], X=ROWS[:2])
    assert read_column(tmp_path / "X.parquet", "item") == ["a", "b"]
    with pytest.raises(
        ValueError, match=r"column='x' should be one of \['item', 'X'\]"
    ):
        read_column(tmp_path / "X.parquet", "x")
    with pytest.raises(ValueError, match="column='x' should be of a Parquet file"):
        read_column(tmp_path / "X.npy", "x")
