"""Time and memory of every function of ``sk_rqkplus.metrics``.

    python benchmarks/metrics.py [--counted 10000000] [--compared 1000000] [--out ...]

Figures that count get codes alone; figures that compare get float32 rows of 384 values
too, which are clusters with noise, made here. Time is one run, by default on the rows
in memory, with --memmap on a file of them; memory is how far the peak of the process
rises over what it was before the call.
"""

import argparse
import os
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from tabulate import tabulate

from sk_rqkplus import metrics

N_FEATURES, SIZES = 384, (256, 256, 256)
BLOCK = 16_384


def resident():
    """Bytes of memory of this process, those of mapped files left out."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


def measure(function):
    """Result, seconds, and bytes by which memory rises."""
    before, peak, done = resident(), [0], threading.Event()

    def watch():
        while not done.wait(0.01):
            peak[0] = max(peak[0], resident() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    try:
        value = function()
    finally:
        seconds = time.perf_counter() - start
        done.set()
        watcher.join()
    return value, seconds, peak[0]


def make_codes(n_rows):
    rng = np.random.default_rng(0)
    return rng.integers(0, SIZES, size=(n_rows, len(SIZES)), dtype=np.int32)


def make_rows(codes, path):
    """Rows near their codewords, and the codewords; files that are mapped."""
    rng = np.random.default_rng(1)
    books = [
        rng.standard_normal((size, N_FEATURES), dtype=np.float32) / 2**level
        for level, size in enumerate(SIZES)
    ]
    shape = (len(codes), N_FEATURES)
    files = [
        np.lib.format.open_memmap(path / name, "w+", np.float32, shape)
        for name in ("X.npy", "decoded.npy")
    ]
    for start in range(0, len(codes), BLOCK):
        block = slice(start, start + BLOCK)
        pairs = zip(books, codes[block].T, strict=True)
        files[1][block] = sum(book[code] for book, code in pairs)
        noise = rng.standard_normal(files[1][block].shape, dtype=np.float32)
        files[0][block] = files[1][block] + noise / 4
    return files


def counting(codes):
    yield "collision_rate", lambda: metrics.collision_rate(codes)
    yield "shared_code_rate", lambda: metrics.shared_code_rate(codes)
    yield "independent_coding_rate", lambda: metrics.independent_coding_rate(codes)
    yield "largest_group", lambda: metrics.largest_group(codes)
    yield "entropy", lambda: metrics.entropy(codes)
    yield "perplexity", lambda: metrics.perplexity(codes, SIZES)
    yield "codebook_utilisation", lambda: metrics.codebook_utilisation(codes, SIZES)
    yield "joint_utilisation", lambda: metrics.joint_utilisation(codes, SIZES)
    yield "gini", lambda: metrics.gini(codes, SIZES)
    yield "code_gini", lambda: metrics.code_gini(codes)
    yield "load_cv", lambda: metrics.load_cv(codes, SIZES)


def comparing(codes, X, decoded):
    n = len(X)
    pairs = np.random.default_rng(2).integers(0, n, size=(n, 2))
    yield "reconstruction_mse", lambda: metrics.reconstruction_mse(X, decoded)
    yield "reconstruction_r2", lambda: metrics.reconstruction_r2(X, decoded)
    yield "random_pair_similarity", lambda: metrics.random_pair_similarity(X)
    yield (
        "path_average_similarity",
        lambda: metrics.path_average_similarity(codes, X),
    )
    yield "prefix_cohesion", lambda: metrics.prefix_cohesion(codes, X)
    yield "distance_correlation", lambda: metrics.distance_correlation(codes, X)
    yield "code_neighbour_recall", lambda: metrics.code_neighbour_recall(X, codes)
    yield "neighbour_recall", lambda: metrics.neighbour_recall(X, decoded)
    yield "embedding_hit_rate", lambda: metrics.embedding_hit_rate(X, pairs)


def table(calls):
    rows = []
    for name, call in calls:
        _, seconds, memory = measure(call)
        rows.append([name, f"{seconds:.2f}", f"{memory / 2**20:,.0f}"])
        print(*rows[-1], flush=True)
    head = ["function", "seconds", "memory, MiB"]
    return tabulate(rows, head, "github", disable_numparse=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counted", type=int, default=10_000_000)
    parser.add_argument("--compared", type=int, default=1_000_000)
    parser.add_argument("--memmap", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    counted = table(counting(make_codes(args.counted)))
    codes = make_codes(args.compared)
    with tempfile.TemporaryDirectory() as folder:
        files = make_rows(codes, Path(folder))
        X, decoded = files if args.memmap else map(np.array, files)
        compared = table(comparing(codes, X, decoded))
    text = (
        "# Time of the metrics\n\n"
        f"`python benchmarks/metrics.py`, {os.cpu_count()} cores, numpy "
        f"{np.__version__}, load average at the end {os.getloadavg()[0]:.1f}.\n"
        "Memory is what a call needs beyond its arguments, at its peak.\n\n"
        f"## Figures that count: {args.counted:,} codes of 3 x 256\n\n{counted}\n\n"
        f"## Figures that compare: {args.compared:,} rows of {N_FEATURES} values, "
        f"float32{', memory-mapped' if args.memmap else ''}\n\n"
        "Samples are the defaults: 100,000 pairs, 1,000 queries whose 10 nearest are "
        "found among\nall rows.\n\n"
        f"{compared}\n"
    )
    if args.out:
        args.out.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
