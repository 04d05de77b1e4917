"""Checks on files that are written whole or not at all, and on codebook files."""

import os
import stat

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sk_rqkplus._codebook_files import read_codebooks, write_codebooks
from sk_rqkplus._files import atomic_write


def write(path, text):
    with atomic_write(path) as temporary, open(temporary, "w") as file:
        file.write(text)


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("as_type", [str, lambda path: path])
def test_a_file_is_written_and_nothing_else(tmp_path, as_type):
    write(as_type(tmp_path / "a.txt"), "first")
    assert contents(tmp_path) == {"a.txt": "first"}
    write(as_type(tmp_path / "a.txt"), "second")
    assert contents(tmp_path) == {"a.txt": "second"}


def test_the_old_file_is_there_until_the_end(tmp_path):
    write(tmp_path / "a.txt", "old")
    with atomic_write(tmp_path / "a.txt") as temporary:
        with open(temporary, "w") as file:
            file.write("new")
        assert (tmp_path / "a.txt").read_text() == "old"
    assert contents(tmp_path) == {"a.txt": "new"}


@pytest.mark.parametrize("old", [{}, {"a.txt": "old"}], ids=["no file", "old file"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_everything_as_it_was(tmp_path, old, error):
    for name, text in old.items():
        (tmp_path / name).write_text(text)

    def break_off(path):
        with atomic_write(path) as temporary, open(temporary, "w") as file:
            file.write("half of")
            raise error("stopped halfway")

    with pytest.raises(error, match="stopped halfway"):
        break_off(tmp_path / "a.txt")
    assert contents(tmp_path) == old


def test_two_writers_do_not_mix(tmp_path):
    with atomic_write(tmp_path / "a.txt") as outer:
        write(tmp_path / "a.txt", "inner")
        with open(outer, "w") as file:
            file.write("outer")
    assert contents(tmp_path) == {"a.txt": "outer"}


@pytest.mark.parametrize(
    "umask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)]
)
def test_the_mode_follows_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write(tmp_path / "a.txt", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == mode


def test_a_missing_folder_fails_before_the_work_begins(tmp_path):
    began = []

    def start(path):
        with atomic_write(path):
            began.append(path)

    with pytest.raises(FileNotFoundError, match="No such file or directory: .*missing"):
        start(tmp_path / "missing" / "a.txt")
    assert began == []
    assert contents(tmp_path) == {}


def test_a_folder_is_not_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write(tmp_path / "folder", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


# Codebooks


def random_books(n_levels=3, seed=0):
    rng = np.random.RandomState(seed)
    return [rng.randn(4 + i, 5).astype(np.float32) for i in range(n_levels)]


@pytest.mark.parametrize("n_levels", [1, 3, 12])
def test_codebooks_are_read_as_they_were_written(tmp_path, n_levels):
    books = random_books(n_levels)
    write_codebooks(tmp_path / "books.npz", books)
    back = read_codebooks(tmp_path / "books.npz", n_levels)

    assert len(back) == n_levels
    for book, expected in zip(back, books, strict=True):
        assert book.dtype == np.float32
        assert_array_equal(book, expected)


def test_the_mean_is_added_to_level_0_only(tmp_path):
    books = random_books()
    mean = np.array([1.0, -2, 3, 0, 0.5])
    write_codebooks(tmp_path / "books.npz", books, mean)
    back = read_codebooks(tmp_path / "books.npz", 3)

    assert_allclose(back[0] - mean, books[0], atol=1e-6)
    assert_array_equal(back[1], books[1])
    assert_array_equal(back[2], books[2])


def test_writing_changes_neither_codebooks_nor_the_name(tmp_path):
    books = random_books()
    before = [book.copy() for book in books]
    write_codebooks(tmp_path / "books", books, mean=1.0)

    assert [path.name for path in tmp_path.iterdir()] == ["books"]
    for book, expected in zip(books, before, strict=True):
        assert_array_equal(book, expected)


def test_the_file_is_the_published_one(tmp_path):
    write_codebooks(tmp_path / "books.npz", random_books(2), mean=np.ones(5))
    with np.load(tmp_path / "books.npz") as file:
        assert sorted(file.files) == ["codebook_0", "codebook_1"]
        assert file["codebook_0"].dtype == np.float32


def test_codebooks_in_float64_are_read_as_float32(tmp_path):
    np.savez(tmp_path / "books.npz", codebook_0=np.full((2, 3), 0.1))
    (book,) = read_codebooks(tmp_path / "books.npz", 1)
    assert_array_equal(book, np.full((2, 3), 0.1, dtype=np.float32))
    assert book.dtype == np.float32


def test_other_arrays_in_the_file_do_not_matter(tmp_path):
    np.savez(tmp_path / "books.npz", codebook_0=np.ones((2, 3)), note=np.arange(3))
    assert_array_equal(read_codebooks(tmp_path / "books.npz", 1), [np.ones((2, 3))])


@pytest.mark.parametrize(
    "keys, n_levels, message",
    [
        (["codebook_0", "codebook_2"], 3, r"Missing: \['codebook_1'\]"),
        (["codebook_0"], 3, r"Missing: \['codebook_1', 'codebook_2'\]"),
        (["book_0"], 1, r"has the keys \['book_0'\], .* Missing: \['codebook_0'\]"),
        (
            ["codebook_0", "codebook_1"],
            1,
            r"has the keys \['codebook_0', 'codebook_1'\], which should be "
            r"\['codebook_0'\] for 1 levels. Add to codebook_sizes",
        ),
    ],
)
def test_a_wrong_number_of_levels_is_named(tmp_path, keys, n_levels, message):
    np.savez(tmp_path / "books.npz", **{key: np.ones((2, 3)) for key in keys})
    with pytest.raises(ValueError, match=message):
        read_codebooks(tmp_path / "books.npz", n_levels)


def test_pickles_are_refused(tmp_path):
    np.savez(tmp_path / "books.npz", codebook_0=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="cannot be loaded when allow_pickle=False"):
        read_codebooks(tmp_path / "books.npz", 1)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.npz"):
        read_codebooks(tmp_path / "nowhere.npz", 3)


def test_a_write_that_fails_keeps_the_old_codebooks(tmp_path, monkeypatch):
    books = random_books()
    write_codebooks(tmp_path / "books.npz", books)

    def write_half(file, **arrays):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", write_half)
    with pytest.raises(OSError, match="No space left on device"):
        write_codebooks(tmp_path / "books.npz", random_books(seed=1))
    assert [path.name for path in tmp_path.iterdir()] == ["books.npz"]
    assert_array_equal(read_codebooks(tmp_path / "books.npz", 3)[0], books[0])
