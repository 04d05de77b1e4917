"""Codes against a float64 brute force on a large catalogue, whatever the path.

    python benchmarks/exactness.py [--rows 1000000] [--out results/exactness.md]

Counts rows with another code in any of three levels, for every way of calling
``transform``. Needs the shared data beside the checkout.
"""

import argparse
import importlib.util
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate

from sk_rqkplus import RQKMeans, _rough

SHARED = Path(__file__).resolve().parents[2] / "shared"
CHUNK_ROWS = 4096


def load_rows(n_rows):
    """Rows of the shared generator."""
    path = SHARED / "make_large.py"
    if not path.exists():
        sys.exit(f"skipped: {path.name} is not beside the checkout")
    spec = importlib.util.spec_from_file_location("make_large", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.smoothed_bootstrap(n_rows, 1)


def brute_force(rq, X):
    """Codes by sums of squared differences in float64."""
    codes = np.empty((len(X), len(rq.codebooks_)), dtype=np.int32)
    books = [torch.from_numpy(book).double() for book in rq.codebooks_]
    prices = [torch.from_numpy(price) for price in rq.prices_]
    for start in range(0, len(X), CHUNK_ROWS):
        chunk = slice(start, start + CHUNK_ROWS)
        residual = torch.from_numpy(X[chunk].astype(np.float64) - rq.mean_)
        for level, (book, price) in enumerate(zip(books, prices, strict=True)):
            mode = "donot_use_mm_for_euclid_dist"
            scores = torch.cdist(residual, book, compute_mode=mode).square() + price
            code = scores.argmin(1)
            codes[chunk, level] = code
            residual -= book[code]
    return codes


@contextmanager
def threads(n):
    """Another number of torch threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def bf16_products():
    """Matrix products that round their float32 inputs to bfloat16 first."""
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


@contextmanager
def first_look(wanted):
    """Whether a product in bfloat16 comes first, whatever is faster here."""
    before = _rough.bfloat16_is_faster
    _rough.bfloat16_is_faster = lambda: wanted
    try:
        yield
    finally:
        _rough.bfloat16_is_faster = before


def in_batches(rq, X, size):
    """``transform`` of consecutive batches."""
    parts = [rq.transform(X[i : i + size]) for i in range(0, len(X), size)]
    return np.concatenate(parts)


def check(data, rq, X):
    """Compare every way with the brute force: rows of a table."""
    expected = brute_force(rq, X)
    order = np.random.default_rng(0).permutation(len(X))
    few, fewer = min(len(X), 70_000), min(len(X), 5_000)
    found = []

    def report(way, codes, expected):
        differ = int((codes != expected).any(axis=1).sum())
        found.append([data, way, f"{len(codes):,}", differ])
        print(*found[-1], sep="  ", flush=True)

    report("all rows at once", rq.transform(X), expected)
    report("batches of 1000", in_batches(rq, X, 1000), expected)
    report("batches of 7", in_batches(rq, X[:few], 7), expected[:few])
    report("batches of 1", in_batches(rq, X[:fewer], 1), expected[:fewer])
    with threads(1):
        report("one thread", rq.transform(X), expected)
    report("Fortran order", rq.transform(np.asfortranarray(X)), expected)
    report("permuted", rq.transform(X[order]), expected[order])
    with bf16_products():
        report("bfloat16 inside products", rq.transform(X), expected)
    for wanted in (False, True):
        with first_look(wanted):
            name = f"first look {'in bfloat16' if wanted else 'in float32'}"
            report(name, rq.transform(X), expected)
    return found


def main():
    """Check centred data and data far from the origin."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    X = load_rows(args.rows)
    params = {"max_samples": min(args.rows, 100_000), "random_state": 0}
    rq = RQKMeans(balance="all", store_catalogue=False, dedup="suffix", **params)
    found = check("as they are", rq.fit(X), X)
    X -= X.mean(axis=0)
    X /= X.std()
    X += 100
    found += check("mean 100, deviation 1", rq.fit(X), X)
    if args.out:
        args.out.write_text(describe(found, X))
    sys.exit(1 if any(differ for *_, differ in found) else 0)


def describe(found, X):
    """The page of results."""
    table = tabulate(
        found, ["rows", "way", "compared", "differ"], "pipe", disable_numparse=True
    )
    return (
        f"# Codes of {len(X):,} x {X.shape[1]} rows, 3 x 256, all levels balanced\n\n"
        "Rows with another code than sums of squared differences in float64 give them."
        f"\n\n{table}\n\ntorch {torch.__version__}, {torch.get_num_threads()} threads; "
        "`python benchmarks/exactness.py`\n"
    )


if __name__ == "__main__":
    main()
