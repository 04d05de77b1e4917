"""Checks on tokens and on the published index.json."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from sk_rqkplus.ids import deduplicate
from sk_rqkplus.tokens import read_index_json, to_tokens, write_index_json

DATA = Path(__file__).parents[2] / "shared" / "data"
PUBLISHED = {"base": 1, "suffix": "on_collision"}


@pytest.fixture(scope="module")
def published():
    """Return the IDs of the published codes, and the path of the published file."""
    path = DATA / "industrial_constrained.index.json"
    codes = DATA / "industrial_constrained_codes.npy"
    if not (path.exists() and codes.exists()):
        pytest.skip(
            "../shared/data/industrial_constrained* are not beside the checkout"
        )
    return deduplicate(np.load(codes)), path


def test_the_published_file_is_written(published, tmp_path):
    ids, path = published
    write_index_json(tmp_path / "index.json", ids, **PUBLISHED)

    written = (tmp_path / "index.json").read_text(encoding="utf-8")
    expected = json.loads(path.read_text(encoding="utf-8"))
    assert json.loads(written) == expected
    assert list(json.loads(written)) == list(expected)


def test_the_published_file_is_read(published):
    ids, path = published
    assert_array_equal(read_index_json(path, n_levels=3, **PUBLISHED), ids)


@pytest.mark.parametrize(
    "params, message",
    [
        ({"suffix": "never"}, r"has 4 tokens, which should be one of \[3\]"),
        ({"suffix": "always"}, "key '0' has 3 tokens"),
        ({"n_levels": 2}, "key '[0-9]+' has 4 tokens"),
    ],
)
def test_the_published_file_read_as_something_else_is_an_error(
    published, params, message
):
    with pytest.raises(ValueError, match=message):
        read_index_json(published[1], **{"n_levels": 3, **PUBLISHED, **params})


IDS = np.array([[3, 1, 0], [3, 2, 0], [3, 1, 1]])


@pytest.mark.parametrize(
    "params, expected",
    [
        ({}, ["<a_3> <b_1> <c_0>", "<a_3> <b_2> <c_0>", "<a_3> <b_1> <c_1>"]),
        ({"base": 1}, ["<a_4> <b_2> <c_1>", "<a_4> <b_3> <c_1>", "<a_4> <b_2> <c_2>"]),
        (
            {"suffix": "on_collision"},
            ["<a_3> <b_1> <c_1>", "<a_3> <b_2>", "<a_3> <b_1> <c_2>"],
        ),
        (
            {"suffix": "on_collision", "base": 1},
            ["<a_4> <b_2> <c_1>", "<a_4> <b_3>", "<a_4> <b_2> <c_2>"],
        ),
        ({"suffix": "never"}, ["<a_3> <b_1>", "<a_3> <b_2>", "<a_3> <b_1>"]),
        ({"suffix": "never", "base": 1}, ["<a_4> <b_2>", "<a_4> <b_3>", "<a_4> <b_2>"]),
    ],
)
def test_tokens_by_hand(params, expected):
    assert [" ".join(tokens) for tokens in to_tokens(IDS, **params)] == expected


def test_tokens_of_no_rows_are_no_tokens():
    assert to_tokens(np.empty((0, 4), dtype=int), suffix="on_collision") == []


def test_letters_run_to_z():
    tokens = to_tokens(np.arange(26)[None])[0]
    assert (tokens[0], tokens[25]) == ("<a_0>", "<z_25>")


@pytest.mark.parametrize(
    "ids, params, message",
    [
        (IDS, {"base": 2}, "base=2 should be 0 or 1"),
        (IDS, {"suffix": "sometimes"}, "suffix='sometimes' should be one of"),
        (IDS[0], {}, r"ids have shape=\(3,\) and dtype=int64"),
        (IDS / 2, {}, r"ids have shape=\(3, 3\) and dtype=float64"),
        (np.zeros((1, 27), int), {}, "n_columns=27 of ids should be <= 26"),
        (IDS - 2, {}, "ids have the value -2, which should be >= 0"),
    ],
)
def test_ids_without_tokens_are_named(ids, params, message):
    with pytest.raises(ValueError, match=message):
        to_tokens(ids, **params)


@pytest.mark.parametrize("suffix", ["always", "on_collision", "never"])
@pytest.mark.parametrize("base", [0, 1])
@pytest.mark.parametrize("n_levels", [1, 3])
@pytest.mark.parametrize("n", [0, 1, 120])
def test_reading_gives_back_what_was_written(tmp_path, suffix, base, n_levels, n):
    ids = deduplicate(np.random.RandomState(n).randint(5, size=(n, n_levels)))
    path = tmp_path / "index.json"
    write_index_json(path, ids, base=base, suffix=suffix)
    back = read_index_json(path, n_levels=n_levels, base=base, suffix=suffix)

    assert back.dtype == np.int32
    kept = slice(None, -1) if suffix == "never" else slice(None)
    assert_array_equal(back[:, kept], ids[:, kept])
    assert not (suffix == "never" and back[:, -1].any())


def test_rows_follow_the_numbers_not_the_order_of_the_keys(tmp_path):
    (tmp_path / "index.json").write_text('{"1": ["<a_8>"], "0": ["<a_7>"]}')
    ids = read_index_json(tmp_path / "index.json", n_levels=1, suffix="never")
    assert_array_equal(ids[:, 0], [7, 8])


@pytest.mark.parametrize(
    "index, message",
    [
        (
            {"0": ["<a_1>", "<b_1>"], "2": ["<a_1>", "<b_2>"]},
            "lacks the key '1' of row",
        ),
        ({"first": ["<a_1>", "<b_1>"]}, "lacks the key '0' of row 0"),
        ({"0": ["<a_1>", "<c_1>"]}, "key '0' has '<c_1>', which should be like <b_7>"),
        ({"0": ["a_1", "<b_1>"]}, "key '0' has 'a_1', which should be like <a_7>"),
        ({"0": ["<a_-1>", "<b_1>"]}, "key '0' has '<a_-1>', which should be like"),
        ({"0": ["<a_1>", "<b_1> "]}, "key '0' has '<b_1> ', which should be like"),
        ({"0": ["<a_1>", ""]}, "key '0' has '', which should be like <b_7>"),
        ({"0": ["<a_1>"]}, r"key '0' has 1 tokens, which should be one of \[2\]"),
        ({"0": ["<a_1>", "<b_1>", "<c_1>"]}, "key '0' has 3 tokens"),
        ({"0": []}, "key '0' has 0 tokens"),
        (
            {"0": ["<a_1>", "<b_1>"], "1": ["<a_1>", "<b_0>"]},
            "key '1' has a token below",
        ),
        ({"0": ["<a_1>", 1]}, "key '0' has 1, which should be like <b_7>"),
        ({"0": ["<a_1>", None]}, "key '0' has None, which should be like <b_7>"),
        ({"0": ["<a_1>", ["<b_1>"]]}, r"key '0' has \['<b_1>'\], which should be like"),
        ({"0": "<a_1><b_1>"}, "key '0' has '<a_1><b_1>', which should be a list"),
        ({"0": {"<a_1>": 0, "<b_1>": 0}}, "key '0' has {.*}, which should be a list"),
        ({"0": 7}, "key '0' has 7, which should be a list of tokens"),
        ({"0": None}, "key '0' has None, which should be a list of tokens"),
        (
            {"0": ["<a_1>", "<b_2147483648>"]},
            "key '0' has .*, which should fit into 32",
        ),
        (
            {"0": ["<a_1>", f"<b_{10**40}>"]},
            "key '0' has .*, which should be like <b_7>",
        ),
        ([["<a_1>", "<b_1>"]], "should hold an object of row numbers and tokens"),
        ("<a_1>", "should hold an object of row numbers and tokens"),
        (None, "should hold an object of row numbers and tokens"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path, index, message):
    path = tmp_path / "index.json"
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=message):
        read_index_json(path, n_levels=1, base=1)


@pytest.mark.parametrize(
    "params, message",
    [
        ({"base": -1}, "base=-1 should be 0 or 1"),
        ({"suffix": None}, "suffix=None should be one of"),
    ],
)
def test_bad_parameters_of_reading_are_named(tmp_path, params, message):
    with pytest.raises(ValueError, match=message):
        read_index_json(tmp_path / "index.json", n_levels=1, **params)


def test_a_write_of_bad_ids_leaves_the_old_file_alone(tmp_path):
    write_index_json(tmp_path / "index.json", IDS)
    with pytest.raises(ValueError, match="ids have the value -1"):
        write_index_json(tmp_path / "index.json", IDS - 1)

    assert_array_equal(read_index_json(tmp_path / "index.json", n_levels=2), IDS)


@pytest.mark.parametrize("existing", [True, False])
def test_a_write_that_breaks_off_leaves_nothing_behind(tmp_path, monkeypatch, existing):
    if existing:
        write_index_json(tmp_path / "index.json", IDS)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def write_half(self, text, **kwargs):
        self.write_bytes(text[: len(text) // 2].encode())
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", write_half)
    with pytest.raises(OSError, match="No space left on device"):
        write_index_json(tmp_path / "index.json", IDS + 1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
