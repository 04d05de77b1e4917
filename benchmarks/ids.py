"""Time of every function of sk_rqkplus.ids at 1M and 10M rows.

    python benchmarks/ids.py [--most 10_000_000]

Codes and embeddings are random: 3 x 256 codewords, and 3 x 1024 where most codes are
alone. Distances come from a table, so that times are those of the functions. Seconds of
one run: wall clock, which a busy machine lengthens, and CPU time of all threads. Writes
results/ids.md.
"""

import argparse
import datetime
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate

from sk_rqkplus import RQKMeans
from sk_rqkplus.ids import (
    Catalogue,
    collision_floor,
    compare_ids,
    deduplicate,
    sketch,
)

RESULTS = Path(__file__).parent / "results"
SIZES = (10**6, 10**7)
N_FEATURES = 384


class Table:
    """Times by function and number of rows, printed as they come."""

    def __init__(self):
        self.rows = {}

    def measure(self, name, n_rows, function):
        """Run once; return what the function returns."""
        start, cpu = time.perf_counter(), time.process_time()
        result = function()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        self.rows.setdefault(name, {})[n_rows] = [f"{seconds:.3g}", f"{cpu:.3g}"]
        print(f"{n_rows:>12,}  {seconds:8.3f}  {cpu:8.3f}  {name}", flush=True)
        return result

    def __str__(self):
        rows = [
            [name, *(cell for n in SIZES for cell in row.get(n, ["", ""]))]
            for name, row in self.rows.items()
        ]
        headers = ["function"]
        for n in SIZES:
            headers += [f"{n:,} rows, s", "CPU, s"]
        return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)


def measure_deduplicate(table, n):
    """Both methods and all orders."""
    rng = np.random.RandomState(0)
    keys = rng.permutation(n)
    for k in (256, 1024):
        codes = rng.randint(k, size=(n, 3)).astype(np.int32)
        costs = rng.rand(4096, k)

        def distances(rows, costs=costs):
            return costs[rows % len(costs)]

        name = f"deduplicate, 3 x {k}"
        table.measure(f"{name}, suffix", n, lambda codes=codes: deduplicate(codes))
        table.measure(
            f"{name}, reassign",
            n,
            lambda codes=codes, k=k, distances=distances: deduplicate(
                codes, "reassign", codebook_size=k, distances=distances
            ),
        )
    name = "deduplicate, 3 x 1024, suffix"
    table.measure(f"{name}, integer keys", n, lambda: deduplicate(codes, keys=keys))
    texts = [f"item-{i}" for i in keys.tolist()]
    table.measure(f"{name}, string keys", n, lambda: deduplicate(codes, keys=texts))
    popularity = rng.zipf(1.5, size=n)
    table.measure(
        f"{name}, priority", n, lambda: deduplicate(codes, priority=popularity)
    )


def measure_catalogue(table, n):
    """Register, look up, map back, save, load, merge."""
    rng = np.random.RandomState(0)
    codes = rng.randint(256, size=(2 * n, 3)).astype(np.int32)
    sketches = rng.randn(2 * n, 3).astype(np.float32)
    catalogue = Catalogue((256, 256, 256))

    def run(name, function):
        return table.measure(f"Catalogue: {name}", n, function)

    run("extend, empty", lambda: catalogue.extend(codes[:n], sketches[:n]))
    n_bytes = sum(array.nbytes for array in catalogue._entries.arrays().values())
    assert n_bytes == 28 * n
    more = slice(n, n + 1000)
    run("extend by 1,000", lambda: catalogue.extend(codes[more], sketches[more]))
    run("extend by as many", lambda: catalogue.extend(codes[n:], sketches[n:]))
    order = rng.permutation(n)
    run("lookup", lambda: catalogue.lookup(codes[order], sketches[order]))
    run("lookup of one row", lambda: catalogue.lookup(codes[:1], sketches[:1]))
    ids = run("ids", lambda: catalogue.ids)
    run("find", lambda: catalogue.find(ids[order]))
    run("find one ID", lambda: catalogue.find(ids[:1]))
    run("rows of a prefix", lambda: catalogue.rows(ids[0, :2]))
    with tempfile.TemporaryDirectory() as folder:
        run("save", lambda: catalogue.save(folder))
        other = run("load", lambda: Catalogue.load(folder))
    run("merge, all known", lambda: catalogue.merge(other))
    texts = [f"item-{i}" for i in range(len(catalogue))]
    run("set_keys, strings", lambda: catalogue.set_keys(texts))
    run("lookup by key, first", lambda: catalogue.lookup(codes[:n], keys=texts[:n]))
    run("lookup by key", lambda: catalogue.lookup(codes[:n], keys=texts[:n]))
    run("lookup of one key", lambda: catalogue.lookup(codes[:1], keys=texts[:1]))
    table.measure("compare_ids, rows", n, lambda: compare_ids(ids[:n], ids[:n]))
    table.measure(
        "compare_ids, string keys",
        n,
        lambda: compare_ids(
            ids[:n], ids[:n], old_keys=texts[:n], new_keys=texts[:n][::-1]
        ),
    )


def measure_embeddings(table, n):
    """Functions of embeddings, read from a file."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "X.npy"
        X = np.lib.format.open_memmap(path, "w+", np.float32, (n, N_FEATURES))
        for start in range(0, n, 100_000):
            block = X[start : start + 100_000]
            block[:] = rng.standard_normal(block.shape, dtype=np.float32)
        X[: n // 100] = X[n // 2 : n // 2 + n // 100]
        X = np.load(path, mmap_mode="r")
        shape = f"{N_FEATURES} features from a file"
        floor = table.measure(
            f"collision_floor, {shape}", n, lambda: collision_floor(X)
        )
        assert floor.n_unavoidable == n // 100
        table.measure(
            f"collision_floor, eps=0.01, {shape}", n, lambda: collision_floor(X, 0.01)
        )
        table.measure(f"sketch, {shape}", n, lambda: sketch(X))
        rq = RQKMeans(
            (256, 256, 256), max_samples=20_000, augment="none", random_state=0
        ).fit(X[:30_000])
        new = X[n // 2 :]
        table.measure(f"RQKMeans.extend by half, {shape}", n, lambda: rq.extend(new))


def main():
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=max(SIZES))
    most = parser.parse_args().most
    table = Table()
    for n in SIZES:
        if n <= most:
            measure_deduplicate(table, n)
            measure_catalogue(table, n)
    measure_embeddings(table, min(SIZES))
    lines = [
        "# Time of the functions of sk_rqkplus.ids",
        "",
        __doc__.split("\n\n")[2].partition(" Writes")[0],
        "",
        str(table),
        "",
        f"{datetime.date.today()}, torch {torch.__version__}, numpy {np.__version__}, "
        f"{torch.get_num_threads()} threads, load average {os.getloadavg()[1]:.1f} on "
        f"{os.cpu_count()} cores; `python benchmarks/ids.py`.",
    ]
    (RESULTS / "ids.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
