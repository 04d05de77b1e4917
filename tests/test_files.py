"""Checks on files written whole or not at all, on stores, and on codebook files."""

import json
import os
import shutil
import stat
import threading

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sk_rqkplus._codebook_files import read_codebooks, write_codebooks
from sk_rqkplus._files import atomic_write
from sk_rqkplus._store import _dump, digest, read_store, write_store


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


# Stores

ARRAYS = {
    "none": np.empty((0, 3), dtype=np.float32),
    "numbers": np.arange(6, dtype=np.uint32),
    "matrix": np.arange(6.0).reshape(2, 3),
}
VALUES = {"sizes": [3, 4], "tolerance": 0.1, "name": None}
KIND = {"kind": "Thing", "version": 2}


def save(path, arrays=ARRAYS, values=VALUES, **kind):
    write_store(path, arrays, values, **{**KIND, **kind})


def load(path, **kind):
    return read_store(path, **{**KIND, **kind})


def assert_loads(path, arrays=ARRAYS, values=VALUES):
    found, back = load(path)
    assert back == values
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


OTHER = {"numbers": np.arange(9), "new": np.float32([1.5])}


def test_a_store_is_read_as_it_was_written(tmp_path):
    save(tmp_path / "store")
    assert_loads(tmp_path / "store")
    save(tmp_path / "store", OTHER, {"other": 1})
    assert_loads(tmp_path / "store", OTHER, {"other": 1})
    assert len(list((tmp_path / "store").iterdir())) == 2


def test_the_layout_in_memory_does_not_matter(tmp_path):
    matrix = np.arange(12.0).reshape(3, 4)
    for other in (matrix.T.copy().T, np.repeat(matrix, 2, axis=0)[::2]):
        save(tmp_path / "store", {"matrix": other})
        assert_loads(tmp_path / "store", {"matrix": matrix})
        assert digest({"a": other}) == digest({"a": matrix})


def test_the_digest_knows_names_types_shapes_and_values():
    arrays = [
        {"a": np.int32([1, 2])},
        {"b": np.int32([1, 2])},
        {"a": np.int64([1, 2])},
        {"a": np.int32([[1, 2]])},
        {"a": np.int32([1, 3])},
        {"a": np.int32([1]), "b": np.int32([2])},
        {},
    ]
    assert len({digest(each) for each in arrays}) == len(arrays)
    swapped = np.int32([1, 2]).astype(">i4")
    assert digest({"a": swapped}) == digest(arrays[0])
    # Fixed for good: saved fingerprints are compared with it.
    expected = "375bbfb329f1d47038e11e13c00c33b64fee326aceb337033576725b34ed0281"
    assert digest(arrays[0]) == expected


@pytest.mark.parametrize("where", [0.0, 0.3, 0.6, 0.999])
@pytest.mark.parametrize("file", [0, 1])
def test_a_changed_byte_is_refused(tmp_path, file, where):
    save(tmp_path / "store")
    path = sorted((tmp_path / "store").iterdir())[file]
    content = path.read_bytes()
    at = int(where * len(content))
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(ValueError, match="path='.*store'"):
        load(tmp_path / "store")
    path.write_bytes(content)
    assert_loads(tmp_path / "store")


def test_every_byte_of_the_manifest_is_checked(tmp_path):
    save(tmp_path / "store")
    path = tmp_path / "store" / "manifest.json"
    content = path.read_bytes()
    for at in range(len(content)):
        changed = bytes([content[at] ^ 1])
        path.write_bytes(content[:at] + changed + content[at + 1 :])
        with pytest.raises(ValueError, match="path='.*store'"):
            load(tmp_path / "store")
    path.write_bytes(content + b"\n")
    with pytest.raises(ValueError, match="manifest.json was changed"):
        load(tmp_path / "store")


@pytest.mark.parametrize("keep", [0, 10, -1])
def test_a_truncated_file_is_refused(tmp_path, keep):
    for file in (0, 1):
        save(tmp_path / "store")
        path = sorted((tmp_path / "store").iterdir())[file]
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(ValueError, match="should be as it was saved"):
            load(tmp_path / "store")
        path.unlink()
        if file:
            save(tmp_path / "store")


def test_missing_files_are_named(tmp_path):
    save(tmp_path / "store")
    arrays, manifest = sorted((tmp_path / "store").iterdir())
    arrays.rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"but arrays-\w+.safetensors is missing"):
        load(tmp_path / "store")
    manifest.unlink()
    with pytest.raises(ValueError, match="has no manifest.json, which it should"):
        load(tmp_path / "store")
    with pytest.raises(FileNotFoundError, match="should be a folder that was saved"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["a.pkl", "arrays.safetensors", ".hidden", "folder/"])
def test_a_file_that_does_not_belong_there_is_refused(tmp_path, name):
    save(tmp_path / "store")
    stranger = tmp_path / "store" / name
    stranger.mkdir() if name.endswith("/") else stranger.touch()
    with pytest.raises(ValueError, match="does not belong to it"):
        load(tmp_path / "store")
    with pytest.raises(ValueError, match="has other files, .* should be a new folder"):
        save(tmp_path / "store")


def test_a_newer_format_is_refused_with_advice(tmp_path):
    save(tmp_path / "store", version=3)
    with pytest.raises(ValueError, match="version=3 .* should be <= 2. Upgrade sk-rq"):
        load(tmp_path / "store")
    assert load(tmp_path / "store", version=4)[1] == VALUES


def test_another_class_is_refused(tmp_path):
    save(tmp_path / "store", kind="Other")
    with pytest.raises(
        ValueError, match="holds a Other, which should be a Thing. Load"
    ):
        load(tmp_path / "store")
    with pytest.raises(
        ValueError, match="holds a Other, which should be a Thing to be"
    ):
        save(tmp_path / "store")


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "null", "[" * 100_000, '{"kind": "Thing"}', "\ud800"]
)
def test_a_manifest_of_something_else_is_refused(tmp_path, content):
    save(tmp_path / "store")
    path = tmp_path / "store" / "manifest.json"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match="path='.*store'"):
        load(tmp_path / "store")


def sign(path, change):
    """Change a manifest and give it a checksum that fits."""
    content = json.loads(path.read_bytes())
    del content["sha256"]
    change(content)
    path.write_bytes(_dump(content))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.pop("arrays"), "manifest.json lacks an entry"),
        (lambda c: c["arrays"].pop("bytes"), "manifest.json lacks an entry"),
        (lambda c: c["arrays"].update(name="../secret"), "../secret is missing"),
        (lambda c: c["arrays"].update(name=3), "manifest.json lacks an entry"),
        (lambda c: c.update(version="2"), "version='2'"),
        (lambda c: c.update(version=None), "version=None"),
    ],
)
def test_a_forged_manifest_is_refused(tmp_path, change, message):
    save(tmp_path / "store")
    (tmp_path / "secret").write_text("secret")
    sign(tmp_path / "store" / "manifest.json", change)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "store")


@pytest.mark.parametrize("call", ["os.replace", "os.fsync", "os.open", "os.unlink"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("old", [True, False])
def test_failing_at_any_step_leaves_the_old_or_the_new(
    tmp_path, monkeypatch, call, error, old
):
    path, n_failures = tmp_path / "store", 0
    for step in range(20):
        if old:
            save(path)
        calls = []
        real = getattr(os, call.removeprefix("os."))

        def fail(*args, calls=calls, step=step, real=real, **kwargs):
            calls.append(args)
            if len(calls) == step + 1:
                raise error("stopped")
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(call, fail)
            try:
                save(path, OTHER, {"new": 1})
                failed = False
            except error:
                failed = True
        n_failures += failed
        if not failed or (path.exists() and "new" in load(path)[1]):
            assert_loads(path, OTHER, {"new": 1})
        elif old:
            assert_loads(path)
        else:
            assert list(tmp_path.iterdir()) == []
        if len(calls) <= step:
            break
        if path.exists() and not old:
            shutil.rmtree(path)
    assert n_failures or call == "os.unlink"


def test_what_a_killed_save_left_is_ignored_and_removed(tmp_path):
    save(tmp_path / "store")
    for name in (
        f"save-{'0' * 32}.tmp",
        f"save-{'0' * 32}.tmp/.tmpbUNP1r",
        "arrays-0123456789abcdef.safetensors",
    ):
        path = tmp_path / "store" / name
        path.mkdir() if name.endswith(".tmp") else path.write_text("half")
    assert_loads(tmp_path / "store")
    save(tmp_path / "store")
    assert len(list((tmp_path / "store").iterdir())) == 2


def test_a_reader_sees_one_of_the_stores_while_they_are_replaced(tmp_path):
    path, stop = tmp_path / "store", threading.Event()
    save(path)

    def write():
        while not stop.is_set():
            save(path, OTHER, {"new": 1})
            save(path)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(100):
            assert load(path)[1] in (VALUES, {"new": 1})
    finally:
        stop.set()
        writer.join()
    assert_loads(path)


def test_a_second_writer_is_refused(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    save(tmp_path / "store")
    lock = os.open(tmp_path / "store", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        with pytest.raises(ValueError, match="should be written by one process at a"):
            save(tmp_path / "store", OTHER)
    finally:
        os.close(lock)
    assert_loads(tmp_path / "store")


def test_the_files_of_a_store_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        save(tmp_path / "store")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(f.stat().st_mode) for f in (tmp_path / "store").iterdir()}
    assert modes == {0o640}


def test_a_file_is_not_replaced_by_a_store(tmp_path):
    (tmp_path / "store").write_text("mine")
    with pytest.raises(NotADirectoryError, match="store"):
        save(tmp_path / "store")
    assert contents(tmp_path) == {"store": "mine"}


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
    with pytest.raises(ValueError, match="should be an .npz file with the keys"):
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
