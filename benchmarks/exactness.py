"""Codes against a float64 brute force on a large catalogue, whatever the path.

    python benchmarks/exactness.py [n_rows]

Prints how many codes of three levels differ, for every way of calling ``transform``.
Needs the shared data beside the checkout.
"""

import importlib.util
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

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


def report(name, codes, expected):
    """Print how many rows have another code."""
    differ = int((codes != expected).any(axis=1).sum())
    print(f"{name:>34}: {differ} of {len(codes):,} differ", flush=True)
    return differ


def check(title, rq, X):
    """Compare every path with the brute force; return the number of differences."""
    print(title)
    expected = brute_force(rq, X)
    order = np.random.default_rng(0).permutation(len(X))
    few, fewer = min(len(X), 70_000), min(len(X), 5_000)
    total = report("all rows at once", rq.transform(X), expected)
    total += report("batches of 1000", in_batches(rq, X, 1000), expected)
    total += report("batches of 7", in_batches(rq, X[:few], 7), expected[:few])
    total += report("batches of 1", in_batches(rq, X[:fewer], 1), expected[:fewer])
    with threads(1):
        total += report("one thread", rq.transform(X), expected)
    total += report("Fortran order", rq.transform(np.asfortranarray(X)), expected)
    total += report("permuted", rq.transform(X[order]), expected[order])
    with bf16_products():
        total += report("bfloat16 inside products", rq.transform(X), expected)
    for wanted in (False, True):
        with first_look(wanted):
            name = f"first look {'in bfloat16' if wanted else 'in float32'}"
            total += report(name, rq.transform(X), expected)
    return total


def main():
    """Check centred data and data far from the origin."""
    n_rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    X = load_rows(n_rows)
    params = {"max_samples": min(n_rows, 100_000), "random_state": 0}
    rq = RQKMeans(balance="all", store_catalogue=False, dedup="suffix", **params)
    total = check(f"{n_rows:,} x {X.shape[1]}, balance='all'", rq.fit(X), X)
    X -= X.mean(axis=0)
    X /= X.std()
    X += 100
    total += check("the same with mean 100, deviation 1", rq.fit(X), X)
    sys.exit(1 if total else 0)


if __name__ == "__main__":
    main()
