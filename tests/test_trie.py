"""The prefix tree of IDs, and a model that it keeps to them."""

import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from sk_rqkplus.ids import deduplicate
from sk_rqkplus.tokens import (
    PrefixTrie,
    prefix_allowed_tokens_fn,
    to_strings,
    to_token_ids,
    vocabulary,
)

SIZES = (5, 7, 4)
IDS = deduplicate(np.random.RandomState(0).randint(SIZES, size=(60, 3)))


def test_a_tree_by_hand():
    trie = PrefixTrie([[3, 1], [0, 2], [3, 4], [3, 1]])
    assert repr(trie) == "PrefixTrie(n_items=4, n_nodes=[2, 3])"
    assert (len(trie), trie.depth) == (4, 2)
    assert_array_equal(trie.tokens[0], [0, 3])
    assert_array_equal(trie.tokens[1], [2, 1, 4])
    assert_array_equal(trie.offsets[0], [0, 2])
    assert_array_equal(trie.offsets[1], [0, 1, 3])
    assert_array_equal(trie.order, [1, 0, 3, 2])
    assert [starts.tolist() for starts in trie.starts] == [
        [0, 4],
        [0, 1, 4],
        [0, 1, 3, 4],
    ]
    assert trie.items([3, 1]).tolist() == [0, 3]
    assert trie.items([]).tolist() == [0, 1, 2, 3]


def test_a_tree_with_rows_of_two_lengths_by_hand():
    trie = PrefixTrie([[3, 1, 5], [3, 1, -1], [0, -1, -1]])
    assert trie.children([]).tolist() == [0, 3]
    assert trie.children([0]).tolist() == []
    assert trie.children([3, 1]).tolist() == [5]
    assert [trie.is_complete(p) for p in ([0], [3], [3, 1], [3, 1, 5])] == [1, 0, 1, 1]
    assert not trie.contains([0, -1])
    assert trie.items([3, 1]).tolist() == [0, 1]


def rows_of(ids):
    """Rows as lists, without the fill at their end."""
    return [[token for token in row if token >= 0] for row in ids.tolist()]


@pytest.mark.filterwarnings("ignore:suffix=:UserWarning")
@pytest.mark.parametrize(
    "ids",
    [
        IDS,
        IDS[:, :3],
        IDS[:, :1],
        IDS[:1],
        to_token_ids(IDS, SIZES, start=9),
        np.array([[1, 0], [1, -1], [2, -1]]),
        np.where(np.arange(4) < IDS[:, :1] % 4 + 1, IDS, -1),
    ],
)
def test_every_look_up_equals_a_search(ids):
    trie, rows = PrefixTrie(ids), rows_of(ids)
    prefixes = {tuple(row[:stop]) for row in rows for stop in range(len(row) + 1)}
    prefixes |= {(*prefix, 99) for prefix in prefixes} | {(0, 0, 0, 0, 0, 0), (-1,)}
    for prefix in map(list, prefixes):
        below = [row for row in rows if row[: len(prefix)] == prefix]
        longer = {row[len(prefix)] for row in below if len(row) > len(prefix)}
        assert trie.children(prefix).tolist() == sorted(longer)
        assert trie.contains(prefix) == bool(below)
        assert trie.is_complete(prefix) == (prefix in rows)
        found = [i for i, row in enumerate(rows) if row[: len(prefix)] == prefix]
        assert trie.items(prefix).tolist() == found


def test_an_empty_catalogue_allows_nothing():
    trie = PrefixTrie(np.empty((0, 3), dtype=int))
    assert len(trie) == 0
    assert trie.children([]).tolist() == []
    assert trie.contains([])
    assert not trie.is_complete([])
    assert trie.items([]).tolist() == []


def test_the_arrays_are_small_and_the_prefix_may_be_an_array():
    trie = PrefixTrie(IDS)
    arrays = [*trie.tokens, *trie.offsets, *trie.starts, trie.order]
    assert {array.dtype for array in arrays} == {np.dtype(np.int32)}
    for prefix in (IDS[0, :2], torch.from_numpy(IDS[0, :2]), tuple(IDS[0, :2])):
        assert_array_equal(trie.children(prefix), trie.children(IDS[0, :2].tolist()))
    with pytest.raises(
        TypeError, match=r"prefix=\[0.5\] should be a sequence of integers"
    ):
        trie.children([0.5])


@pytest.mark.parametrize(
    "ids, message",
    [
        ([1, 2], r"ids have shape=\(2,\) and dtype=int64"),
        ([[1.0]], r"ids have shape=\(1, 1\) and dtype=float64"),
        (np.empty((2, 0), int), r"ids have shape=\(2, 0\)"),
        (
            [[1, -2]],
            "ids have 1 rows of values from -2 to 1, which should be -1 or more",
        ),
        ([[1, 2**31]], "ids have 1 rows of values from 1 to 2147483648"),
        (
            [[1, 2, 3], [1, -1, 3]],
            r"ids\[1\]=\[1, -1, 3\] should have -1 at its end only",
        ),
        ([[-1, -1]], r"ids\[0\]=\[-1, -1\] should have -1 at its end only"),
    ],
)
def test_rows_that_are_no_ids_are_named(ids, message):
    with pytest.raises(ValueError, match=message):
        PrefixTrie(ids)


# ---------------------------------------------------------------------------
# What a model may write

EOS, START = 1, 2


def test_allowed_tokens_after_a_prompt():
    trie = PrefixTrie([[10, 20], [10, 21], [11, -1]])
    allowed = prefix_allowed_tokens_fn(trie, eos_token_id=EOS, prompt_length=2)
    for sequence, expected in [
        ([5, 5], [10, 11]),
        ([5, 5, 10], [20, 21]),
        ([5, 5, 11], [EOS]),
        ([5, 5, 10, 20], [EOS]),
        ([5, 5, 10, 20, EOS], [EOS]),
        ([5, 5, 10, 20, EOS, 0, 0, 0], [EOS]),
        ([5, 5, 12], [EOS]),
        ([5], [10, 11]),
    ]:
        assert allowed(0, sequence) == expected
        assert allowed(0, torch.tensor(sequence)) == expected
        assert pickle.loads(pickle.dumps(allowed))(3, sequence) == expected


def test_allowed_tokens_after_a_start_token():
    trie = PrefixTrie([[0, 2], [0, 3], [1, -1], [1, 2]])
    words = np.array([50, 51, 52, 40])
    allowed = prefix_allowed_tokens_fn(
        trie, words, eos_token_id=EOS, start_token_id=START
    )
    for sequence, expected in [
        ([7], [START]),
        ([7, START], [50, 51]),
        ([START, 50, 52, 7, START, 50], [52, 40]),
        ([START, 51], [52, EOS]),
        ([START, 50, 40], [EOS]),
        ([START, 0], [EOS]),
    ]:
        assert allowed(0, torch.tensor(sequence)) == expected


@pytest.mark.parametrize(
    "params, message",
    [
        (
            {},
            "prompt_length=None and start_token_id=None should not be given both, nor",
        ),
        (
            {"prompt_length": 1, "start_token_id": 2},
            "prompt_length=1 and start_token_id",
        ),
        ({"prompt_length": -1}, "prompt_length=-1 should be an int >= 0"),
        ({"prompt_length": 1.5}, "prompt_length=1.5 should be an int >= 0"),
        ({"start_token_id": "<s>"}, "start_token_id='<s>' should be an int >= 0"),
        (
            {"prompt_length": 0, "eos_token_id": None},
            "eos_token_id=None should be an int >= 0",
        ),
        (
            {"prompt_length": 0, "eos_token_id": 10},
            "eos_token_id=10 should be no token of an ID",
        ),
        ({"start_token_id": 20}, "start_token_id=20 should be no token of an ID"),
        (
            {"prompt_length": 0, "token_ids": range(5)},
            r"token_ids have shape=\(5,\).* more than 20 integers",
        ),
        (
            {"prompt_length": 0, "token_ids": np.ones(30)},
            "token_ids have .* dtype=float64",
        ),
        (
            {"prompt_length": 0, "token_ids": [*range(100, 120), 3, 3]},
            "token_ids have 3 2 times, which should be distinct. Add vocabulary",
        ),
        (
            {"prompt_length": 0, "token_ids": range(30), "eos_token_id": 29},
            "eos_token_id=29 should be no token of an ID",
        ),
    ],
)
def test_constraints_that_cannot_hold_are_named(params, message):
    trie = PrefixTrie([[10, 20]])
    with pytest.raises(ValueError, match=message):
        prefix_allowed_tokens_fn(trie, **{"eos_token_id": EOS, **params})


# ---------------------------------------------------------------------------
# Models of transformers, small and at random


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip(
        "transformers", reason="needs the extra transformers of this package"
    )


N_TEXT = 10
N_TOKENS = N_TEXT + sum(SIZES) + int(IDS[:, -1].max()) + 1
SPECIAL = {"pad_token_id": 0, "eos_token_id": EOS, "bos_token_id": 3}


@pytest.fixture(scope="module")
def decoder(transformers):
    config = transformers.GPT2Config(
        vocab_size=N_TOKENS,
        n_positions=32,
        n_embd=16,
        n_layer=2,
        n_head=2,
        **SPECIAL,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="module")
def encoder_decoder(transformers):
    config = transformers.T5Config(
        vocab_size=N_TOKENS,
        d_model=16,
        d_kv=8,
        d_ff=16,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
        **SPECIAL,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.T5ForConditionalGeneration(config).eval()


SEARCHES = [
    {"do_sample": False},
    {"do_sample": True},
    {"num_beams": 4, "num_return_sequences": 4},
    {"num_beams": 30, "num_return_sequences": 30},
    {"num_beams": 4, "do_sample": True},
]


def written(sequences, start):
    """What stands between a prompt and the end of each sequence."""
    rows = [row[start:] for row in sequences.tolist()]
    return [row[: row.index(EOS)] if EOS in row else row for row in rows]


def generate(model, prompts, **params):
    mask = (prompts != 0).long()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        return model.generate(
            prompts,
            attention_mask=mask,
            max_new_tokens=8,
            early_stopping=False,
            **params,
        )


PROMPTS = torch.tensor([[0, 4, 5, START], [6, 7, 8, START]])


@pytest.mark.filterwarnings("ignore:suffix=:UserWarning")
@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("suffix", ["always", "on_collision", "never"])
@pytest.mark.parametrize("where", [{"prompt_length": 4}, {"start_token_id": START}])
def test_a_decoder_writes_ids_only(decoder, search, suffix, where):
    ids = to_token_ids(IDS, SIZES, suffix=suffix, start=N_TEXT)
    catalogue = rows_of(ids)
    allowed = prefix_allowed_tokens_fn(PrefixTrie(ids), eos_token_id=EOS, **where)
    free = written(generate(decoder, PROMPTS, **search), 4)
    assert not any(row in catalogue for row in free)
    kept = written(
        generate(decoder, PROMPTS, prefix_allowed_tokens_fn=allowed, **search), 4
    )
    assert [row for row in kept if row not in catalogue] == []
    n_returned = search.get("num_return_sequences", 1)
    assert len(kept) == 2 * n_returned
    for first in (0, n_returned):
        one = kept[first : first + n_returned]
        assert len({tuple(row) for row in one}) == n_returned


@pytest.mark.parametrize("search", SEARCHES)
def test_an_encoder_and_decoder_write_ids_only(encoder_decoder, search):
    ids = to_token_ids(IDS, SIZES, start=N_TEXT)
    allowed = prefix_allowed_tokens_fn(
        PrefixTrie(ids), eos_token_id=EOS, prompt_length=1
    )
    free = written(generate(encoder_decoder, PROMPTS, **search), 1)
    assert not any(row in ids.tolist() for row in free)
    kept = generate(
        encoder_decoder, PROMPTS, prefix_allowed_tokens_fn=allowed, **search
    )
    assert [row for row in written(kept, 1) if row not in ids.tolist()] == []


def test_more_beams_than_ids_find_every_id_first(decoder):
    ids = to_token_ids(IDS[:5], SIZES, start=N_TEXT)
    allowed = prefix_allowed_tokens_fn(
        PrefixTrie(ids), eos_token_id=EOS, prompt_length=4
    )
    found = generate(
        decoder,
        PROMPTS[:1],
        prefix_allowed_tokens_fn=allowed,
        num_beams=12,
        num_return_sequences=12,
        output_scores=True,
        return_dict_in_generate=True,
    )
    rows = written(found.sequences, 4)
    assert sorted(rows[:5]) == sorted(ids.tolist())
    finite = found.sequences_scores > -1e6
    assert finite.tolist() == [True] * 5 + [False] * 7


def test_a_tokenizer_takes_the_vocabulary(transformers, decoder):
    tokenizers = pytest.importorskip("tokenizers")
    words = {
        word: i for i, word in enumerate("[pad] [eos] [sid] the item is [unk]".split())
    }
    model = tokenizers.models.WordLevel(words, unk_token="[unk]")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(model), unk_token="[unk]"
    )
    start = len(tokenizer)
    words = vocabulary(SIZES, n_suffix=IDS[:, -1].max() + 1)
    assert tokenizer.add_tokens(words) == len(words)
    token_ids = to_token_ids(IDS, SIZES, start=start)
    assert tokenizer(to_strings(IDS))["input_ids"] == token_ids.tolist()

    # The same constraint, from numbers of the tokenizer and from places of words.
    places = PrefixTrie(to_token_ids(IDS, SIZES))
    by_place = prefix_allowed_tokens_fn(
        places,
        tokenizer.convert_tokens_to_ids(words),
        eos_token_id=EOS,
        prompt_length=0,
    )
    direct = prefix_allowed_tokens_fn(
        PrefixTrie(token_ids), eos_token_id=EOS, prompt_length=0
    )
    for row in token_ids.tolist():
        for stop in range(5):
            assert by_place(0, row[:stop]) == direct(0, row[:stop])
    with pytest.raises(ValueError, match="which should be distinct. Add vocabulary"):
        prefix_allowed_tokens_fn(
            places,
            tokenizer.convert_tokens_to_ids([word + "x" for word in words]),
            eos_token_id=EOS,
            prompt_length=0,
        )
