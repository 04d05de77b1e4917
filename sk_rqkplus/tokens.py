"""From IDs to the tokens and files that recommenders read, and back."""

from sk_rqkplus._token_json import (
    read_index_json,
    read_jsonl,
    write_index_json,
    write_jsonl,
)
from sk_rqkplus._token_parquet import read_parquet, write_parquet
from sk_rqkplus._tokens import from_strings, from_tokens, to_strings, to_tokens
from sk_rqkplus._trie import PrefixTrie, prefix_allowed_tokens_fn
from sk_rqkplus._vocabulary import from_token_ids, to_token_ids, vocabulary

__all__ = [
    "PrefixTrie",
    "from_strings",
    "from_token_ids",
    "from_tokens",
    "prefix_allowed_tokens_fn",
    "read_index_json",
    "read_jsonl",
    "read_parquet",
    "to_strings",
    "to_token_ids",
    "to_tokens",
    "vocabulary",
    "write_index_json",
    "write_jsonl",
    "write_parquet",
]
