"""Tokens, vocabularies and files of IDs: what is written is read back."""

import json
import warnings
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest
from numpy.testing import assert_array_equal

from sk_rqkplus import _token_json, _token_parquet
from sk_rqkplus._template import Template
from sk_rqkplus.ids import deduplicate
from sk_rqkplus.tokens import (
    from_strings,
    from_token_ids,
    from_tokens,
    read_index_json,
    read_jsonl,
    read_parquet,
    to_strings,
    to_token_ids,
    to_tokens,
    vocabulary,
    write_index_json,
    write_jsonl,
    write_parquet,
)

ignore_lengths = pytest.mark.filterwarnings("ignore:suffix=:UserWarning")

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


def test_the_published_file_is_written_byte_for_byte(published, tmp_path):
    ids, path = published
    with pytest.warns(UserWarning, match="gives 605 of 3686 IDs 4 tokens and the oth"):
        write_index_json(tmp_path / "index.json", ids, **PUBLISHED)
    assert (tmp_path / "index.json").read_bytes() == path.read_bytes()


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
@ignore_lengths
def test_tokens_by_hand(params, expected):
    assert [" ".join(tokens) for tokens in to_tokens(IDS, **params)] == expected


def test_tokens_of_no_rows_are_no_tokens():
    assert to_tokens(np.empty((0, 4), dtype=int), suffix="on_collision") == []


def test_a_base_is_a_number_whatever_its_type():
    for base in (1, 1.0, True, np.int64(1)):
        assert to_tokens([[3, 1]], base=base) == [["<a_4>", "<b_2>"]]


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
        (np.zeros((2, 1), int), {}, r"ids have shape=\(2, 1\)"),
        (IDS - 2, {}, "ids have the value -2, which should be >= 0"),
        (IDS + 2**31, {}, "ids have the value 2147483651, which should be >= 0 and <"),
        (IDS, {"template": 7}, "template=7 should be a string"),
    ],
)
def test_ids_without_tokens_are_named(ids, params, message):
    with pytest.raises((ValueError, TypeError), match=message):
        to_tokens(ids, **params)


@ignore_lengths
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


@pytest.mark.parametrize("write", [write_index_json, write_jsonl, write_parquet])
@pytest.mark.parametrize("existing", [True, False])
def test_a_write_that_breaks_off_leaves_nothing_behind(
    tmp_path, monkeypatch, write, existing
):
    if existing:
        write(tmp_path / "file", IDS)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def break_off(n_rows, verbose):
        yield slice(0, 2)
        raise OSError("No space left on device")

    for module in (_token_json, _token_parquet):
        monkeypatch.setattr(module, "chunks", break_off)
    with pytest.raises(OSError, match="No space left on device"):
        write(tmp_path / "file", IDS + 1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# ---------------------------------------------------------------------------
# Identities, whatever the format

SIZES = (5, 7, 4)
TEMPLATES = ("<{letter}_{code}>", "<|sid_{level}_{code}|>", '"{code}" {level}\n')
LAYOUTS = [
    {"base": base, "suffix": suffix, "template": template}
    for base in (0, 1)
    for suffix in ("always", "on_collision", "never")
    for template in (
        "<{letter}_{code}>",
        "<|sid_{level}_{code}|>",
        '"{code}" {level}\n',
    )
]


def some_ids(seed, n=200):
    """Unique IDs under SIZES, many of them with a suffix."""
    codes = np.random.RandomState(seed).randint(SIZES, size=(n, len(SIZES)))
    return deduplicate(codes)


def kept(ids, suffix):
    """What a format without suffixes keeps."""
    return np.c_[ids[:, :-1], np.zeros(len(ids), int)] if suffix == "never" else ids


@ignore_lengths
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rows", [slice(None), slice(0), slice(1, 2), slice(50, None)])
def test_texts_are_read_back(layout, rows):
    # A part of the IDs may lack those that share a code with it.
    ids = some_ids(0)[rows]
    expected = kept(ids, layout["suffix"])
    tokens = to_tokens(ids, **layout)
    assert_array_equal(from_tokens(tokens, 3, **layout), expected)
    for separator in ("", " ", "->"):
        strings = to_strings(ids, separator=separator, **layout)
        assert strings == [separator.join(row) for row in tokens]
        back = from_strings(strings, 3, separator=separator, **layout)
        assert back.dtype == np.int32
        assert_array_equal(back, expected)


@ignore_lengths
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("start", [0, 1000])
def test_numbers_are_places_in_the_vocabulary(layout, start):
    ids = some_ids(1)
    words = vocabulary(SIZES, n_suffix=ids[:, -1].max() + 1, **layout)
    suffix = layout["suffix"]
    token_ids = to_token_ids(ids, SIZES, suffix=suffix, start=start)
    assert [
        [words[token - start] for token in row if token >= 0]
        for row in token_ids.tolist()
    ] == to_tokens(ids, **layout)
    back = from_token_ids(token_ids, SIZES, suffix=suffix, start=start)
    assert_array_equal(back, kept(ids, suffix))


@ignore_lengths
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n_suffix", [1, 3])
def test_the_vocabulary_is_what_ids_can_be_written_with(layout, n_suffix):
    codes = list(product(*map(range, (2, 3))))
    ids = np.array([[*code, s] for code in codes for s in range(n_suffix)])
    written = {token for row in to_tokens(ids, **layout) for token in row}
    words = vocabulary((2, 3), n_suffix=n_suffix, **layout)
    assert len(words) == len(set(words))
    assert set(words) == written


@ignore_lengths
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n", [0, 1, 200])
@pytest.mark.parametrize(
    "keys",
    [None, lambda n: np.arange(n) * 3 - 7, lambda n: [f"ü\n{i}" for i in range(n)]],
)
@pytest.mark.parametrize(
    "write, read", [(write_jsonl, read_jsonl), (write_parquet, read_parquet)]
)
def test_files_with_keys_are_read_back(tmp_path, layout, n, keys, write, read):
    ids = some_ids(2)[:n]
    item_ids = None if keys is None else keys(n)
    write(tmp_path / "file", ids, item_ids=item_ids, **layout)
    back, back_keys = read(tmp_path / "file", **layout)
    assert back.dtype == np.int32
    if n:
        # Codes and suffix are columns of their own: nothing depends on the layout.
        assert_array_equal(back, ids)
        assert_array_equal(read(tmp_path / "file", template=None)[0], ids)
    assert list(back_keys) == (list(range(n)) if item_ids is None else list(item_ids))


def test_chunks_are_of_no_account(tmp_path, monkeypatch):
    ids = some_ids(3)
    for write in (write_index_json, write_jsonl):
        write(tmp_path / "whole", ids)
        with monkeypatch.context() as patch:
            patch.setattr("sk_rqkplus._token_files.CHUNK_ROWS", 7)
            write(tmp_path / "parts", ids)
        assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()
    monkeypatch.setattr("sk_rqkplus._token_files.CHUNK_ROWS", 7)
    write_parquet(tmp_path / "parts", ids)
    assert_array_equal(read_parquet(tmp_path / "parts")[0], ids)


def test_json_is_as_json_writes_it(tmp_path):
    template = 'ü"{letter}{code}'
    write_index_json(tmp_path / "index.json", IDS, template=template)
    index = {str(i): row for i, row in enumerate(to_tokens(IDS, template=template))}
    assert (tmp_path / "index.json").read_text() == json.dumps(index, indent=2)
    keys = ['"', "ü", ""]
    write_jsonl(tmp_path / "ids.jsonl", IDS, item_ids=keys, template=template)
    records = [
        {"item_id": key, "codes": row[:-1], "suffix": row[-1], "tokens": tokens}
        for key, row, tokens in zip(keys, IDS.tolist(), index.values(), strict=True)
    ]
    lines = [json.dumps(record) for record in records]
    assert (tmp_path / "ids.jsonl").read_text() == "\n".join(lines) + "\n"


def test_parquet_is_read_by_others_and_theirs_by_us(tmp_path):
    ids, path = some_ids(4), tmp_path / "ids.parquet"
    write_parquet(path, ids, item_ids=[f"item {i}" for i in range(len(ids))])
    frame = pd.read_parquet(path)
    assert list(frame.columns) == ["item_id", "codes", "suffix", "tokens"]
    assert_array_equal(np.c_[np.stack(frame.codes), frame.suffix], ids)
    assert [list(row) for row in frame.tokens] == to_tokens(ids)
    assert pl.read_parquet(path)["tokens"].to_list() == to_tokens(ids)

    frame.to_parquet(tmp_path / "pandas.parquet")
    pl.from_pandas(frame).write_parquet(tmp_path / "polars.parquet")
    for name in ("pandas.parquet", "polars.parquet"):
        back, item_ids = read_parquet(tmp_path / name)
        assert_array_equal(back, ids)
        assert_array_equal(item_ids, frame.item_id)


# ---------------------------------------------------------------------------
# Warnings


@pytest.mark.parametrize(
    "params, message",
    [
        (
            {"suffix": "on_collision"},
            "gives 2 of 3 IDs 3 tokens and the others 2. Readers that take the first 2 "
            "drop the last one. Use suffix='always', or fit with dedup='reassign'",
        ),
        (
            {"suffix": "never"},
            "drops the suffix of 1 of 3 IDs, which then equal others",
        ),
    ],
)
def test_what_readers_would_lose_is_said(tmp_path, params, message):
    calls = [
        lambda: to_tokens(IDS, **params),
        lambda: to_strings(IDS, **params),
        lambda: to_token_ids(IDS, (4, 3), **params),
        lambda: write_index_json(tmp_path / "i", IDS, **params),
        lambda: write_jsonl(tmp_path / "j", IDS, **params),
        lambda: write_parquet(tmp_path / "p", IDS, **params),
    ]
    for call in calls:
        with pytest.warns(UserWarning, match=message) as record:
            call()
        assert record[0].filename == __file__


@pytest.mark.parametrize("suffix", ["always", "on_collision", "never"])
def test_ids_of_one_length_need_no_warning(tmp_path, suffix):
    ids = np.array([[0, 1, 0], [1, 1, 0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_tokens(ids, suffix=suffix)
        # All share their code with another: all have a suffix.
        to_tokens([[0, 1, 0], [0, 1, 1]], suffix="on_collision")
        write_parquet(tmp_path / "p", ids, suffix=suffix)
        read_parquet(tmp_path / "p", suffix=suffix)


# ---------------------------------------------------------------------------
# Templates

PIECES = ("{level}", "{letter}", "{code}", "1", "_", "")
JOINTS = ("", "1", "_")


def test_no_accepted_template_can_be_read_in_two_ways():
    numbers = (0, 1, 2, 10, 11, 12, 110, 111, 112)
    n_accepted = 0
    for pieces in sorted(set(product(PIECES, repeat=4))):
        try:
            template = Template("".join(pieces))
        except ValueError:
            continue
        n_accepted += 1
        tokens = [template.token(level, n) for level in range(13) for n in numbers]
        assert len(set(tokens)) == len(tokens), pieces
        for joint in JOINTS:
            try:
                template.check_separator(joint)
            except ValueError:
                continue
            strings = [
                joint.join(template.token(level, n) for level, n in enumerate(codes))
                for codes in product(numbers, repeat=2)
            ]
            assert len(set(strings)) == len(strings), (pieces, joint)
    assert n_accepted > 50


@pytest.mark.parametrize(
    "template, relation",
    [
        ("<{letter}>", "should have {code} once, and {letter} or {level}"),
        ("<{code}>", "should have {code} once, and {letter} or {level}"),
        ("{letter}{code}{code}", "should have {code} once"),
        ("", "should have {code} once"),
        ("{level}{code}", "should set {code} apart from other digits"),
        ("{code}{level}", "should set {code} apart from other digits"),
        ("{letter}1{code}", "should set {code} apart from other digits"),
        ("{letter}_{code:04d}", "should have no fields but"),
        ("{letter!r}_{code}", "should have no fields but"),
        ("{letter}_{code}_{item}", "should have no fields but"),
        ("{}_{code}", "should have no fields but"),
        ("{letter}_{code.real}", "should have no fields but"),
        ("<{letter}_{code>", "should have its braces in pairs"),
        ("{letter}_{code}}", "should have its braces in pairs"),
    ],
)
def test_templates_that_cannot_be_read_back_are_refused(template, relation):
    with pytest.raises(ValueError, match=relation.replace("{", r"\{")):
        to_tokens(IDS, template=template)
    with pytest.raises(ValueError, match="Use for example '<{letter}_{code}>'"):
        vocabulary((2, 2), template=template)


def test_braces_and_levels_beyond_z():
    assert to_tokens([[3, 0]], template="{{{level}:{code}}}") == [["{0:3}", "{1:0}"]]
    ids = np.arange(40)[None]
    tokens = to_tokens(ids, template="{level}:{code}")
    assert tokens[0][30] == "30:30"
    assert_array_equal(from_tokens(tokens, 39, template="{level}:{code}"), ids)


@pytest.mark.parametrize(
    "template, separator, message",
    [
        ("{level}_{code}", "", "separator='' should set the codes of template="),
        ("{level}_{code}", "0", "separator='0' should set the codes of template="),
        ("{letter}{code}", 1, "separator=1 should be a string"),
    ],
)
def test_separators_that_join_digits_are_refused(template, separator, message):
    params = {"template": template, "separator": separator}
    with pytest.raises((ValueError, TypeError), match=message):
        to_strings(IDS, **params)
    with pytest.raises((ValueError, TypeError), match=message):
        from_strings(["x"], 2, **params)


# ---------------------------------------------------------------------------
# Bad input


@pytest.mark.parametrize(
    "strings, message",
    [
        (["<a_1><b_1>"], r"strings\[0\]='<a_1><b_1>' should be like <a_7><b_7><c_7>"),
        (["<a_1><b_1><c_1>", "<a_1><b_1><c_01>"], r"strings\[1\]="),
        (["<a_1><b_1><c_1> "], r"strings\[0\]="),
        (["<a_1><b_1><c_٣>"], r"strings\[0\]="),
        ([None], r"strings\[0\]=None should be like"),
        (["<a_0><b_1><c_1>"], r"strings\[0\] has a token below base=1, '<a_0>'"),
        (["<a_1><b_1><c_4294967296>"], "should fit into 32 bits"),
    ],
)
def test_strings_that_are_no_ids_are_named(strings, message):
    with pytest.raises(ValueError, match=message):
        from_strings(strings, 2, base=1)


@pytest.mark.parametrize("n_levels", [0, -1, 1.5, None])
def test_a_number_of_levels_is_an_int(n_levels):
    with pytest.raises(ValueError, match="should be an int >= 1"):
        from_tokens([["<a_1>"]], n_levels)
    with pytest.raises(ValueError, match="should be an int >= 1"):
        from_strings(["<a_1>"], n_levels)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: vocabulary([]), r"codebook_sizes=\[\] should be a sequence"),
        (lambda: vocabulary([2, 0]), r"codebook_sizes=\[2, 0\] should be >= 1"),
        (lambda: vocabulary([2], n_suffix=-1), "n_suffix=-1 should be an int >= 0"),
        (lambda: vocabulary([2] * 26), "n_columns=27 of ids should be <= 26"),
        (lambda: vocabulary([2], base=3), "base=3 should be 0 or 1"),
        (lambda: to_token_ids(IDS, [4]), "ids have 3 columns, which should be 2"),
        (
            lambda: to_token_ids(IDS, [4, 2]),
            r"ids\[1, 1\]=2 should be below codebook_sizes\[1\]=2",
        ),
        (lambda: to_token_ids(IDS, [4, 4], start=-1), "start=-1 should be an int >= 0"),
        (
            lambda: from_token_ids([[1, 9]], [4, 4]),
            r"token_ids have shape=\(1, 2\), which should be \(n_samples, 3\)",
        ),
        (
            lambda: from_token_ids([[1.0, 2.0, 3.0]], [4, 4]),
            "token_ids have dtype=float64",
        ),
        (
            lambda: from_token_ids([[1, 4, 8], [1, 3, 8]], [4, 4]),
            r"token_ids\[1, 1\]=3 should be in \[4, 8\)",
        ),
        (
            lambda: from_token_ids([[1, 4, 7]], [4, 4]),
            r"token_ids\[0, 2\]=7 should be in \[8, 2\*\*31\)",
        ),
        (
            lambda: from_token_ids([[1, 4, -1]], [4, 4]),
            r"token_ids\[0, 2\]=-1 should be in",
        ),
    ],
)
def test_bad_vocabularies_and_numbers_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
@pytest.mark.parametrize(
    "item_ids, message",
    [
        ([1, 2], "n_item_ids=2 should equal n_ids=3"),
        ([1, 2, 1], r"item_ids\[2\] has item_id=1, which item_ids\[0\] has too"),
        (["a", "b", 1], r"item_ids\[2\] has item_id=1, which should be"),
        ([1, 2, "a"], r"item_ids\[2\] has item_id='a', which should be"),
        ([1, 2, True], r"item_ids\[2\] has item_id=True, which should be"),
        ([1.0, 2.0, 3.0], r"item_ids\[0\] has item_id=1.0, which should be"),
        ([1, 2, None], r"item_ids\[2\] has item_id=None, which should be"),
        ([1, 2, 2**63], "item_id=9223372036854775808 should fit into 64 bits"),
    ],
)
def test_bad_keys_are_named(tmp_path, write, item_ids, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "file", IDS, item_ids=item_ids)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("item_ids", ["abc", 5, b"abc"])
def test_one_key_is_no_sequence_of_keys(tmp_path, item_ids):
    with pytest.raises(TypeError, match="should be a sequence. Give one key per row"):
        write_jsonl(tmp_path / "file", IDS, item_ids=item_ids)


def test_keys_may_be_any_array():
    for keys in (
        np.array(["x", "y", "z"]),
        pd.Series(["x", "y", "z"]),
        ("x", "y", "z"),
    ):
        assert _token_json.given_item_ids(keys, 3) == ["x", "y", "z"]
    assert _token_json.given_item_ids(np.arange(3, dtype=np.uint8), 3) == [0, 1, 2]


RECORD = {
    "item_id": 5,
    "codes": [3, 1],
    "suffix": 0,
    "tokens": ["<a_3>", "<b_1>", "<c_0>"],
}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"codes": [3]}, r"has codes=\[3\] and suffix=0, which should be .* 2 of them"),
        ({"codes": [3, -1]}, r"has codes=\[3, -1\] and suffix=0"),
        ({"codes": [3, None]}, r"has codes=\[3, None\] and suffix=0"),
        ({"codes": [3, 2**31]}, r"has codes=\[3, 2147483648\] and suffix=0"),
        ({"suffix": -1}, r"has codes=\[3, 1\] and suffix=-1"),
        ({"item_id": 4}, "has item_id=4, which .* has too. Keys should be distinct"),
        (
            {"tokens": ["<a_3>", "<b_1>"]},
            r"has tokens=\['<a_3>', '<b_1>'\], which shou",
        ),
        (
            {"tokens": ["<a_3>", "<b_2>", "<c_0>"]},
            "has tokens=.* which should be .* for its codes and suffix",
        ),
        (
            {"tokens": ["<a_3>", None, "<c_0>"]},
            r"has tokens=\['<a_3>', None, '<c_0>'\]",
        ),
    ],
)
def test_what_is_wrong_with_a_row_is_named(tmp_path, change, message):
    rows = [{**RECORD, "item_id": 4}, RECORD | change]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "ids.jsonl").write_text(lines)
    with pytest.raises(ValueError, match="ids.jsonl, line 2 " + message):
        read_jsonl(tmp_path / "ids.jsonl")
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "ids.parquet")
    with pytest.raises(ValueError, match="ids.parquet, row 1 " + message):
        read_parquet(tmp_path / "ids.parquet")


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "line 2 should be JSON"),
        ("", "line 2 should be JSON"),
        ("[" * 100_000, "line 2 should be JSON"),
        (
            "7",
            r"line 2 should be an object with \['item_id', 'codes', 'suffix', 'token",
        ),
        (json.dumps({"item_id": 1}), "line 2 should be an object with"),
        ('{"item_id": 1, "item_id": 2}', "the key 'item_id' occurs twice"),
        (
            json.dumps(RECORD | {"tokens": "<a_3>"}),
            "line 2 should have a list of tokens",
        ),
        (json.dumps(RECORD | {"codes": 7}), "line 2 has codes=7 and suffix=0"),
        (json.dumps(RECORD | {"codes": [True, 1]}), r"line 2 has codes=\[True, 1\]"),
        (json.dumps(RECORD | {"codes": [1.0, 1]}), r"line 2 has codes=\[1.0, 1\]"),
        (json.dumps(RECORD | {"item_id": "a"}), "line 2 has item_id='a', which shou"),
        (
            json.dumps(RECORD | {"item_id": None}),
            "line 2 has item_id=None, which should",
        ),
    ],
)
def test_lines_that_are_no_records_are_named(tmp_path, line, message):
    first = json.dumps(RECORD | {"item_id": 4})
    (tmp_path / "ids.jsonl").write_text(first + "\n" + line + "\n")
    with pytest.raises(ValueError, match=message):
        read_jsonl(tmp_path / "ids.jsonl")


@pytest.mark.parametrize("codes", [7, [], "34"])
def test_a_first_line_without_codes_is_named(tmp_path, codes):
    (tmp_path / "ids.jsonl").write_text(json.dumps(RECORD | {"codes": codes}))
    with pytest.raises(ValueError, match="line 1 has codes="):
        read_jsonl(tmp_path / "ids.jsonl")


def test_bytes_that_are_no_text_are_named(tmp_path):
    (tmp_path / "file").write_bytes(b"\xff\xfe{")
    with pytest.raises(ValueError, match="file should be text in UTF-8"):
        read_jsonl(tmp_path / "file")
    with pytest.raises(ValueError, match="file should be text in UTF-8"):
        read_index_json(tmp_path / "file", n_levels=1)


def test_a_key_that_occurs_twice_is_named(tmp_path):
    (tmp_path / "index.json").write_text('{"0": ["<a_1>"], "0": ["<a_2>"]}')
    with pytest.raises(
        ValueError, match="index.json should be JSON: the key '0' occur"
    ):
        read_index_json(tmp_path / "index.json", n_levels=1, suffix="never")


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"item_id": [1.5, 2.5]},
            "has item_id of type double, which should be inte",
        ),
        (
            {"codes": [3, 1]},
            "has codes of type int64, which should be lists",
        ),
        (
            {"codes": [["3"], ["1"]]},
            "has codes of type list<.*string>, which sho",
        ),
        ({"codes": [[3, 1], None]}, "row 1 has no codes. Fill the column"),
        ({"suffix": [None, 1]}, "row 0 has no suffix. Fill the column"),
        ({"suffix": ["0", "1"]}, "has suffix of type string, which should be int"),
        (
            {"tokens": ["<a_3>", "<b_1>"]},
            "has tokens of type string, which should be",
        ),
        (
            {"codes": pa.array([[3, 2**64 - 1]] * 2, pa.list_(pa.uint64()))},
            "has codes out of range",
        ),
    ],
)
def test_columns_of_another_type_are_named(tmp_path, change, message):
    columns = {name: [value, value] for name, value in RECORD.items()} | {
        "item_id": [1, 2]
    }
    pa.parquet.write_table(pa.table(columns | change), tmp_path / "ids.parquet")
    with pytest.raises(ValueError, match=message):
        read_parquet(tmp_path / "ids.parquet")


def test_files_that_are_no_tables_are_named(tmp_path):
    path = tmp_path / "ids.parquet"
    write_parquet(path, IDS)
    content = path.read_bytes()
    pa.parquet.write_table(pa.table({"codes": [[1]]}), path)
    with pytest.raises(ValueError, match=r"has the columns \['codes'\], which should"):
        read_parquet(path)
    for wrong in (b"", b"no table", content[:-20], content[20:]):
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match="ids.parquet should be a Parquet file"):
            read_parquet(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="ids.parquet"):
        read_parquet(path)


@ignore_lengths
def test_tokens_of_another_layout_are_named(tmp_path):
    for write, read in ((write_jsonl, read_jsonl), (write_parquet, read_parquet)):
        write(tmp_path / "file", IDS, base=1, suffix="on_collision")
        for params in ({}, {"base": 1}, {"suffix": "on_collision"}):
            with pytest.raises(ValueError, match="Check base, suffix and template"):
                read(tmp_path / "file", **params)
        assert_array_equal(read(tmp_path / "file", template=None)[0], IDS)


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'pip install "sk-rqkplus\[parquet\]"'):
        write_parquet(tmp_path / "file", IDS)
    with pytest.raises(ImportError, match=r'pip install "sk-rqkplus\[parquet\]"'):
        read_parquet(tmp_path / "file")
