"""Time of a report on a million rows, and how well a sample tells the collisions.

    python benchmarks/report.py [n_rows]

Writes results/report.md. The collision rate of the whole is known by fitting the
whole; beside it is what fits to 20,000 rows say when all rows are encoded, and when a
fifth and a tenth of them are.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate

from sk_rqkplus import RQKMeans, metrics
from sk_rqkplus._frontier import measure_sizes
from sk_rqkplus.datasets import make_catalogue
from sk_rqkplus.report import sid_report

RESULTS = Path(__file__).parent / "results"
CATALOGUES = {
    "8 x 8 x 8 branches": {"branching": (8, 8, 8)},
    "40 x 20 x 20 branches": {"branching": (40, 20, 20)},
    "no branches": {"branching": (1,)},
}


def gigabytes():
    """Largest memory of the process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def time_report(n_rows):
    """Seconds and memory of a report, from a memory-mapped file with titles."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "X.npy"
        data = make_catalogue(n_rows, 64, random_state=0).data
        np.save(path, data.astype(np.float32))
        del data
        X = np.load(path, mmap_mode="r")
        titles = [f"item of kind {i % 97}, no. {i}" for i in range(n_rows)]
        rq = RQKMeans(random_state=0, max_samples=100_000).fit(X)
        before, start = gigabytes(), time.perf_counter()
        report = sid_report(rq, X, titles)
        seconds = time.perf_counter() - start
        start = time.perf_counter()
        page = report.to_html()
        drawing = time.perf_counter() - start
    return [
        ["sid_report", f"{seconds:.1f} s"],
        ["to_html", f"{drawing:.2f} s"],
        ["page", f"{len(page.encode()) / 2**10:.0f} KiB"],
        ["memory of the process before", f"{before:.2f} GiB"],
        ["largest memory after", f"{gigabytes():.2f} GiB"],
        ["X", f"{X.nbytes / 2**30:.2f} GiB"],
    ]


def compare_collisions(n_rows):
    """Collision rates of whole fits, and what samples say."""
    for name, params in CATALOGUES.items():
        data = make_catalogue(n_rows, 32, random_state=0, **params).data
        X = data.astype(np.float32)
        for size in (32, 128):
            sizes = (size,) * 3
            whole = RQKMeans(sizes, dedup="suffix", random_state=0).fit(X)
            row = [name, f"3 x {size}", metrics.collision_rate(whole.codes_)]
            for share in (1, 5, 10):
                (point,) = measure_sizes(
                    RQKMeans(),
                    X,
                    [sizes],
                    max_samples=20_000,
                    max_encoded=n_rows // share,
                    random_state=0,
                )
                row.append(point.collision_rate)
            print(row, flush=True)
            yield [cell if isinstance(cell, str) else f"{cell:.3f}" for cell in row]


def main():
    """Measure and write."""
    n_rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    timings = time_report(n_rows)
    print(tabulate(timings), flush=True)
    heads = ["catalogue", "sizes", "whole fit", "all encoded", "a fifth", "a tenth"]
    collisions = list(compare_collisions(200_000))
    lines = [
        "# Reports",
        "",
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; "
        "`python benchmarks/report.py`",
        "",
        f"## sid_report on {n_rows:,} x 64 rows, 3 x 256, from a memory-mapped file",
        "",
        tabulate(timings, ["", ""], tablefmt="github"),
        "",
        "## Collision rate of 200,000 x 32 rows, from fits to 20,000 of them",
        "",
        tabulate(collisions, heads, tablefmt="github", disable_numparse=True),
        "",
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "report.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
