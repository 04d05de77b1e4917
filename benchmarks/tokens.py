"""Time of every function of ``sk_rqkplus.tokens`` on a million IDs.

    python benchmarks/tokens.py [--rows 1000000] [--out benchmarks/results/tokens.md]

Codes are uniform over 3 x 256, and IDs get a suffix where they collide. Every format is
written and read back, and what comes back is compared. Look-ups are means over prefixes
of random items. Seconds are those of the processor, so that other work on the machine
does not count.
"""

import argparse
import tempfile
import time
import timeit
import warnings
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate

from sk_rqkplus import tokens
from sk_rqkplus.ids import deduplicate

SIZES = (256, 256, 256)
EOS = 0


def timed(function):
    """Result of a call, and its seconds of processor time."""
    start = time.process_time()
    result = function()
    return result, time.process_time() - start


def round_trips(ids, folder, suffix):
    """Pairs of a name, a call that writes and a call that reads."""
    path = Path(folder) / "file"
    layout = {"suffix": suffix}
    return [
        (
            "lists of tokens",
            lambda: tokens.to_tokens(ids, **layout),
            lambda written: tokens.from_tokens(written, 3, **layout),
        ),
        (
            "strings",
            lambda: tokens.to_strings(ids, **layout),
            lambda written: tokens.from_strings(written, 3, **layout),
        ),
        (
            "numbers of tokens",
            lambda: tokens.to_token_ids(ids, SIZES, **layout),
            lambda written: tokens.from_token_ids(written, SIZES, **layout),
        ),
        (
            "index.json",
            lambda: tokens.write_index_json(path, ids, **layout),
            lambda _: tokens.read_index_json(path, n_levels=3, **layout),
        ),
        (
            "JSON Lines",
            lambda: tokens.write_jsonl(path, ids, **layout),
            lambda _: tokens.read_jsonl(path, **layout)[0],
        ),
        (
            "Parquet",
            lambda: tokens.write_parquet(path, ids, **layout),
            lambda _: tokens.read_parquet(path, **layout)[0],
        ),
    ]


def formats(ids):
    """One row of the table per format."""
    rows = []
    for suffix in ("always", "on_collision"):
        with tempfile.TemporaryDirectory() as folder:
            for name, write, read in round_trips(ids, folder, suffix):
                written, seconds = timed(write)
                back, seconds_back = timed(lambda: read(written))  # noqa: B023
                assert np.array_equal(back, ids), name
                rows.append([name, suffix, f"{seconds:.2f}", f"{seconds_back:.2f}"])
    return rows


def look_ups(trie, token_ids):
    """Microseconds of a look-up by the length of the prefix."""
    allowed = tokens.prefix_allowed_tokens_fn(trie, eos_token_id=EOS, prompt_length=0)
    chosen = np.random.RandomState(0).choice(len(token_ids), 1000)
    rows = []
    for length in range(trie.depth + 1):
        prefixes = token_ids[chosen, :length].tolist()
        tensors = [torch.tensor(prefix, dtype=torch.long) for prefix in prefixes]
        calls = [
            lambda: [trie.children(prefix) for prefix in prefixes],  # noqa: B023
            lambda: [trie.contains(prefix) for prefix in prefixes],  # noqa: B023
            lambda: [allowed(0, tensor) for tensor in tensors],  # noqa: B023
        ]
        seconds = [
            min(timeit.repeat(call, timer=time.process_time, number=1, repeat=5))
            for call in calls
        ]
        rows.append(
            [length, *(f"{value / len(prefixes) * 1e6:.1f}" for value in seconds)]
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    # That IDs differ in length is what is measured here.
    warnings.filterwarnings("ignore", message="suffix=")
    codes = np.random.RandomState(0).randint(256, size=(args.rows, 3))
    ids = deduplicate(codes)
    written = formats(ids)
    token_ids = tokens.to_token_ids(ids, SIZES, start=1)
    trie, seconds = timed(lambda: tokens.PrefixTrie(token_ids))
    arrays = [*trie.tokens, *trie.offsets, *trie.starts, trie.order]
    megabytes = sum(array.nbytes for array in arrays) / 1e6
    text = (
        f"# Tokens of {args.rows:,} IDs, 3 x 256\n\n"
        "`python benchmarks/tokens.py`, seconds of processor time of one run each. "
        "Every format was read back and compared.\n\n"
        + tabulate(
            written,
            headers=["format", "suffix", "write, s", "read, s"],
            tablefmt="github",
            disable_numparse=True,
        )
        + f"\n\n{trie} is built in {seconds:.2f} s and takes {megabytes:.0f} MB. "
        "Microseconds of a look-up by the length of the prefix, best of five means "
        "over 1,000 items:\n\n"
        + tabulate(
            look_ups(trie, token_ids),
            headers=["tokens", "children", "contains", "prefix_allowed_tokens_fn"],
            tablefmt="github",
            disable_numparse=True,
        )
        + "\n"
    )
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
