"""Speed of the engine, side by side with peers in one run on the same rows.

    python benchmarks/engine.py [--only A D ...] [--huge] [--scratch DIR]

Times are wall clock with the same number of threads for all, the best of three
alternating runs, or a single run where one takes more than 30 s. Ratios are the time of
the peer over ours: above 1 we are faster. Results are printed as they come and kept in
engine.json, from which engine.md beside it is written; a run with --only leaves
the other sections as they were. Rows are smoothed bootstraps of a real catalogue, as
../shared/make_large.py beside the checkout makes them.
"""

import argparse
import copy
import datetime
import gc
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from tabulate import tabulate
from threadpoolctl import threadpool_info, threadpool_limits

from sk_rqkplus import RQKMeans, _rough, metrics
from sk_rqkplus._lloyd import lloyd
from sk_rqkplus._nearest import Codewords, nearest
from sk_rqkplus._points import Points

SHARED = Path(__file__).parents[2] / "shared"
RESULTS = Path(__file__).parent / "results"
SIZES = (256, 256, 256)
# Parameters of our fits in section A.
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"tol": 1e-2},
    {"tol": 1e-2, "refine": 0},
    {"tol": 1e-2, "max_samples": 2**16},
    {"tol": 1e-2, "max_samples": 2**15},
    {"tol": 0.3, "max_samples": 2**14},
)
N_FEATURES = 384
BLOCK = 100_000  # rows that the bootstrap draws at a time
EVERY_ROW = 10**9  # faiss: more points per centroid than there are
REPEATS, SHORT = 3, 30.0
LONGEST = 60.0  # a growing series ends after a fit of so many seconds
BYTES = 2**30
COUNTS = "smallest and largest counts"
PACKAGES = ["torch", "numpy", "scikit-learn"]
PEERS = {
    "faiss": "faiss-cpu",
    "k_means_constrained": "k-means-constrained",
    "fastkmeans": "fastkmeans",
}

Row = dict[str, Any]


class Absent(Exception):
    """What a case needs is not there."""


# Data


@lru_cache(maxsize=1)
def generator() -> Callable[[int, int], np.ndarray]:
    path = SHARED / "make_large.py"
    if not path.exists():
        raise Absent("../shared/make_large.py is absent")
    spec = importlib.util.spec_from_file_location("make_large", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.smoothed_bootstrap


@lru_cache(maxsize=2)
def blocks(n_blocks: int) -> np.ndarray:
    return generator()(n_blocks * BLOCK, 0)


def real_catalogue() -> np.ndarray:
    path = SHARED / "data" / "industrial.npy"
    if not path.exists():
        raise Absent("../shared/data/industrial.npy is absent")
    return np.load(path)


@dataclass(frozen=True)
class Setup:
    """What the command line asks for."""

    threads: int
    shrink: int
    huge: bool
    folder: Path
    scratch: Path

    def count(self, n_rows: int) -> int:
        return n_rows // self.shrink

    def rows(self, n_rows: int) -> np.ndarray:
        """The first rows of one bootstrap, the same in every case."""
        n_rows = self.count(n_rows)
        return blocks(-(-n_rows // BLOCK))[:n_rows]

    @cached_property
    def huge_file(self) -> Path:
        """Ten million rows on disk, written on first use."""
        path = self.scratch / "huge.npy"
        n_rows, step = self.count(10_000_000), 5 * BLOCK
        print(f"  writing {n_rows:,} rows", flush=True)
        out = np.lib.format.open_memmap(
            path, "w+", dtype=np.float32, shape=(n_rows, N_FEATURES)
        )
        for seed, start in enumerate(range(0, n_rows, step)):
            size = min(step, n_rows - start)
            out[start : start + size] = generator()(size, seed)
        out.flush()
        return path


# Races


@dataclass
class Outcome:
    """The best time of a contender and its last result, or why there is none."""

    name: str
    seconds: float = np.inf
    result: Any = None
    reason: str = ""

    @property
    def time(self) -> float | str:
        return self.reason or self.seconds

    def over(self, other: "Outcome") -> float | None:
        """Time as a multiple of that of another."""
        return None if self.reason or other.reason else self.seconds / other.seconds


def clock(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call takes, and what it returns."""
    start = time.perf_counter()
    result = run()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def race(
    contenders: Mapping[str, Callable[[], Any]], repeats: int = REPEATS
) -> list[Outcome]:
    """Run all in turn, several times where they are short."""
    outcomes = [Outcome(name) for name in contenders]
    for turn in range(repeats):
        for outcome in outcomes:
            if outcome.reason or (turn and outcome.seconds > SHORT):
                continue
            last = attempt(outcome, contenders[outcome.name])
            print(f"  {outcome.name}: {cell(outcome.reason or last)}", flush=True)
    return outcomes


def attempt(outcome: Outcome, run: Callable[[], Any]) -> float:
    """One run; a peer that is not installed or fails does not end the benchmark."""
    outcome.result, seconds = None, np.inf
    try:
        seconds, outcome.result = clock(run)
        outcome.seconds = min(outcome.seconds, seconds)
    except ModuleNotFoundError as error:
        outcome.reason = f"not installed: pip install {PEERS[str(error.name)]}"
    except Exception as error:
        if outcome.name.startswith("ours"):
            raise
        outcome.reason = f"failed: {type(error).__name__}: {error}"
    return seconds


@dataclass
class Quantised:
    """Codes of rows, and what they stand for."""

    codebooks: list[np.ndarray]
    codes: np.ndarray
    mean: np.ndarray

    def error(self, X: np.ndarray) -> float:
        """Mean squared error, by the same float64 sums for all."""
        total = 0.0
        for start in range(0, len(X), BLOCK):
            part = slice(start, start + BLOCK)
            residual = X[part].astype(np.float64) - self.mean
            for book, code in zip(self.codebooks, self.codes[part].T, strict=True):
                residual -= book[code]
            total += float(np.square(residual).sum())
        return total / X.size


def centred(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = X.mean(axis=0, dtype=np.float64).astype(np.float32)
    return X - mean, mean


# Contenders: functions without arguments that return what they quantised


def ours(sizes, X, **params) -> Callable[[], Quantised]:
    def run():
        model = estimator(sizes, **params).fit(X)
        return Quantised(model.codebooks_, model.codes_, model.mean_)

    return run


def estimator(sizes, **params) -> RQKMeans:
    params = {"device": "cpu", **params}
    return RQKMeans(sizes, augment="none", random_state=0, **params)


def per_level(X, sizes, cluster) -> Callable[[], Quantised]:
    """Residual k-means with ``cluster(rows, size)``, which gives centroids, labels."""

    def run():
        residual, mean = centred(X)
        books, codes = [], []
        for size in sizes:
            book, labels = cluster(residual, size)
            residual -= book[labels]
            books.append(book)
            codes.append(labels)
        return Quantised(books, np.stack(codes, axis=1), mean)

    return run


def faiss_kmeans(name: str, **options) -> Callable:
    """One of the k-means classes of faiss on all rows, 25 iterations."""

    def cluster(rows, size):
        import faiss

        if options.get("gpu") and not faiss.get_num_gpus():
            raise RuntimeError("faiss is built without GPUs")
        settings = {"niter": 25, "max_points_per_centroid": EVERY_ROW, **options}
        kmeans = getattr(faiss, name)(rows.shape[1], size, **settings)
        kmeans.train(rows)
        return kmeans.centroids, kmeans.assign(rows)[1]

    return cluster


def fastkmeans_on_gpu(rows, size):
    from fastkmeans import FastKMeans

    kmeans = FastKMeans(rows.shape[1], size, niter=25, gpu=True)
    kmeans.train(rows)
    return kmeans.centroids, kmeans.predict(rows)


def sklearn_kmeans(rows, size):
    kmeans = KMeans(size, n_init=1, random_state=0).fit(rows)
    return kmeans.cluster_centers_, kmeans.labels_


def faiss_quantizer(X, train_type=None, beam=None) -> Callable[[], Quantised]:
    """Residual quantiser of faiss on all rows, or at its defaults."""

    def run():
        import faiss

        rows, mean = centred(X)
        quantizer = faiss.ResidualQuantizer(X.shape[1], len(SIZES), 8)
        if train_type is not None:
            quantizer.train_type = getattr(faiss.ResidualQuantizer, train_type)
            quantizer.max_beam_size = beam
            quantizer.cp.max_points_per_centroid = EVERY_ROW
        quantizer.train(rows)
        books = faiss.vector_to_array(quantizer.codebooks)
        books = books.reshape(len(SIZES), -1, X.shape[1])
        return Quantised(list(books), quantizer.compute_codes(rows), mean)

    return run


def constrained(n_init: int, max_iter: int, n_jobs: int = 1) -> Callable:
    """Min-cost-flow k-means with counts within one of equal."""

    def cluster(rows, size):
        from k_means_constrained import KMeansConstrained

        kmeans = KMeansConstrained(
            size,
            size_min=len(rows) // size - 1,
            size_max=len(rows) // size + 1,
            n_init=n_init,
            max_iter=max_iter,
            n_jobs=n_jobs,
            random_state=0,
        ).fit(rows)
        return kmeans.cluster_centers_.astype(np.float32), kmeans.labels_

    return cluster


# Cases: functions of the setup that return the rows of a table


def fit_unconstrained(setup: Setup) -> list[Row]:
    """Whole fit of 3 x 256 codebooks on all of 100k x 384 rows, `balance="none"`.

    Ours gives codes and unique IDs, peers give codes, as "codes" do: these are ours
    with dedup="suffix" and store_catalogue=False, with the default tol=0.0005 and
    refine=1 and with others, some with codebooks of a sample. MSE is that of all rows.
    Peers get centred rows. The quantisers of faiss take 10 iterations per level, its
    k-means classes 25; at its defaults ResidualQuantizer trains on a sample of 65,536.
    """
    X = setup.rows(100_000)
    lean = partial(
        ours, SIZES, X, balance="none", dedup="suffix", store_catalogue=False
    )
    contenders = {
        "ours": ours(SIZES, X, balance="none"),
        **{named("codes", params): lean(**params) for params in SETTINGS},
        "faiss Kmeans per level": per_level(X, SIZES, faiss_kmeans("Kmeans")),
        "faiss SuperKmeans per level": per_level(X, SIZES, faiss_kmeans("SuperKmeans")),
        "scikit-learn KMeans per level": per_level(X, SIZES, sklearn_kmeans),
        "faiss RQ, its defaults (progressive, beam 5)": faiss_quantizer(X),
    }
    for train_type in ("Train_default", "Train_progressive_dim"):
        name = f"faiss RQ, {train_type}, beam 1"
        contenders[name] = faiss_quantizer(X, train_type, 1)
    return compare(race(contenders), X, n_ours=len(SETTINGS) + 1)


def named(name: str, params: dict[str, Any]) -> str:
    """A name, and the parameters that make a difference."""
    return ", ".join([name, *(f"{key}={value:g}" for key, value in params.items())])


def compare(outcomes: list[Outcome], X: np.ndarray, n_ours: int = 1) -> list[Row]:
    """Time, error and ratios to ours, which come first."""
    errors = [o.result.error(X) if o.result else None for o in outcomes]
    rows: list[Row] = []
    for outcome, error in zip(outcomes, errors, strict=True):
        row = {"method": outcome.name, "seconds": outcome.time, "MSE": error}
        for base in outcomes[:n_ours]:
            row[f"time / {base.name}"] = outcome.over(base)
        if error is not None and len(rows) >= n_ours:
            mine = zip(outcomes, errors[:n_ours], strict=False)
            as_good = [each.name for each, own in mine if own <= error]
            row["no more error have"] = "; ".join(as_good) or "none"
        rows.append(row)
    return rows


def fit_balanced(setup: Setup) -> list[Row]:
    """Whole fit of 3 x 256 balanced codebooks on a real catalogue of 3,686 x 384.

    KMeansConstrained per level with n_init=3, max_iter=100 and counts of n // K - 1 to
    n // K + 1; n_jobs is the faster of 1 and 2 in a short trial.
    """
    X = real_catalogue()[:: setup.shrink]
    # Fewer rows than 14 per codeword in a trial run need fewer codewords.
    sizes = tuple(size // setup.shrink for size in SIZES)
    trials = race(
        {f"{n}": per_level(X, sizes[:1], constrained(2, 3, n)) for n in (1, 2)},
        repeats=1,
    )
    best = int(min(trials, key=lambda trial: trial.seconds).name)
    peer = per_level(X, sizes, constrained(3, 100, best))
    outcomes = race(
        {
            'ours, balance="all"': ours(sizes, X, balance="all"),
            f"KMeansConstrained per level, n_jobs={best}": peer,
        }
    )
    rows = compare(outcomes, X)
    for row, outcome in zip(rows, outcomes, strict=True):
        codes = outcome.result and outcome.result.codes
        row[COUNTS] = None if codes is None else extremes(codes, sizes)
    return rows


def extremes(codes: np.ndarray, sizes) -> str:
    """Smallest to largest count of every level."""
    counts = [np.bincount(c, minlength=s) for c, s in zip(codes.T, sizes, strict=True)]
    return ", ".join(f"{count.min()}-{count.max()}" for count in counts)


def fit_balanced_level(setup: Setup) -> list[Row]:
    """One balanced level of 256 codewords, `RQKMeans((256,), balance="all")`.

    KMeansConstrained with n_init=1 and max_iter=5.
    """
    K = 256 // setup.shrink
    rows: list[Row] = []
    for n_rows in (2_000, 8_000, 32_000, 100_000):
        X = setup.rows(n_rows)
        mine, peer = race(
            {
                f"ours, {len(X):,} rows": ours((K,), X, balance="all"),
                "KMeansConstrained": per_level(X, (K,), constrained(1, 5)),
            }
        )
        rows.append(versus(len(X), mine, peer, X))
    return rows


def versus(n_rows: int, mine: Outcome, peer: Outcome, X: np.ndarray) -> Row:
    return {
        "rows": n_rows,
        "ours, s": mine.time,
        "peer, s": peer.time,
        "peer / ours": peer.over(mine),
        "MSE of ours": mine.result.error(X),
        "MSE of peer": peer.result.error(X) if peer.result else None,
    }


def encode(setup: Setup) -> list[Row]:
    """Codes of 100k and 1M x 384 rows with 3 x 256 codebooks, `transform`.

    faiss.ResidualQuantizer.compute_codes with the same codebooks and a beam of one. It
    gets rows that are already centred, ours also checks and centres them.
    """
    X = setup.rows(100_000)
    model = estimator(SIZES, balance="none", store_catalogue=False).fit(X)
    rows: list[Row] = []
    for n_rows in (100_000, 1_000_000):
        X = setup.rows(n_rows)
        contenders = {
            f"ours, {len(X):,} rows": partial(model.transform, X),
            "faiss compute_codes": partial(faiss_codes, model, X - model.mean_),
        }
        mine, peer = race(contenders)
        same = None
        if peer.result is not None:
            same = float((mine.result == peer.result).all(axis=1).mean())
            peer.result = Quantised(model.codebooks_, peer.result, model.mean_)
        mine.result = Quantised(model.codebooks_, mine.result, model.mean_)
        row = versus(len(X), mine, peer, X)
        rows.append({**row, "share of equal codes": same})
    return rows


def faiss_codes(model: RQKMeans, rows: np.ndarray) -> np.ndarray:
    import faiss

    quantizer = faiss.ResidualQuantizer(rows.shape[1], len(SIZES), 8)
    quantizer.max_beam_size = 1
    books = np.concatenate(model.codebooks_).ravel()
    faiss.copy_array_to_vector(books, quantizer.codebooks)
    quantizer.is_trained = True
    return quantizer.compute_codes(rows)


def lloyd_iteration(setup: Setup) -> list[Row]:
    """One Lloyd iteration on 100k x 384 rows at K = 256, 1024 and 8192.

    A tenth of the difference between the times of 11 iterations and of one, from the
    same random rows as first codewords (fastkmeans and SuperKmeans draw their own),
    tol=0. MSE is that after 11 iterations.
    """
    rows, _ = centred(setup.rows(100_000))
    table: list[Row] = []
    for K in (256, 1024, 8192):
        K = K // setup.shrink
        print(f" K={K}", flush=True)
        start = rows[np.random.default_rng(0).choice(len(rows), K, replace=False)]
        outcomes = race(
            {
                f"{name}, {n_iter}": partial(run, rows, start, n_iter)
                for n_iter in (1, 11)
                for name, run in LLOYD.items()
            }
        )
        table += iteration_rows(outcomes, rows, K)
    return table


def iteration_rows(outcomes: list[Outcome], rows: np.ndarray, K: int) -> list[Row]:
    table: list[Row] = []
    firsts, lasts = outcomes[: len(LLOYD)], outcomes[len(LLOYD) :]
    for name, first, last in zip(LLOYD, firsts, lasts, strict=True):
        row: Row = {"K": K, "method": name, "s per iteration": last.reason}
        if not last.reason:
            row["s per iteration"] = (last.seconds - first.seconds) / 10
            labels = our_labels(rows, last.result)
            fitted = Quantised([last.result], labels[:, None], np.zeros(1))
            row["time / ours"] = row["s per iteration"]
            row["MSE"] = fitted.error(rows)
        table.append(row)
    ours_per_iteration = table[0]["s per iteration"]
    for row in table:
        if "time / ours" in row:
            row["time / ours"] /= ours_per_iteration
    return table


def our_lloyd(rows, start, n_iter):
    points = Points(torch.from_numpy(rows))
    level = lloyd(points, torch.from_numpy(start), n_iter, 0.0)
    return level.codebook.numpy()


def our_labels(rows: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    words = Codewords(torch.from_numpy(np.asarray(codebook, dtype=np.float32)))
    return nearest(torch.from_numpy(rows), words).numpy()


def faiss_lloyd(rows, start, n_iter):
    import faiss

    kmeans = faiss.Kmeans(rows.shape[1], len(start), **faiss_all(n_iter))
    kmeans.train(rows, init_centroids=start)
    return kmeans.centroids


def super_lloyd(rows, start, n_iter):
    import faiss

    kmeans = faiss.SuperKmeans(rows.shape[1], len(start), **faiss_all(n_iter))
    kmeans.train(rows)
    return kmeans.centroids


def faiss_all(n_iter: int) -> dict[str, int]:
    """Settings by which faiss takes every row and is silent on few per centroid."""
    return {
        "niter": n_iter,
        "max_points_per_centroid": EVERY_ROW,
        "min_points_per_centroid": 1,
    }


def sklearn_lloyd(rows, start, n_iter):
    kmeans = KMeans(
        len(start), init=start, n_init=1, max_iter=n_iter, tol=0, algorithm="lloyd"
    )
    return kmeans.fit(rows).cluster_centers_


def fast_lloyd(rows, start, n_iter):
    from fastkmeans import FastKMeans

    kmeans = FastKMeans(rows.shape[1], len(start), niter=n_iter, tol=0, gpu=False)
    kmeans.train(rows)
    return kmeans.centroids


def our_lloyd_in_float32(rows, start, n_iter):
    faster, _rough.bfloat16_is_faster = _rough.bfloat16_is_faster, lambda: False
    try:
        return our_lloyd(rows, start, n_iter)
    finally:
        _rough.bfloat16_is_faster = faster


LLOYD: dict[str, Callable] = {
    "ours": our_lloyd,
    "ours, without bfloat16": our_lloyd_in_float32,
    "faiss Kmeans": faiss_lloyd,
    "faiss SuperKmeans": super_lloyd,
    "scikit-learn KMeans": sklearn_lloyd,
    "fastkmeans": fast_lloyd,
}


def throughput(setup: Setup) -> list[Row]:
    """Exact assignment of 100k x 384 rows against the machine's own limits.

    GFLOP/s counts the 2 n K d operations of the scores; torch.mm is one product of the
    same shape into memory that is there already, and bandwidth is torch.sum of 1 GiB.
    """
    return rates(setup.rows(100_000), "cpu")


def rates(X: np.ndarray, device: str) -> list[Row]:
    """Rates on a device at several sizes of the codebook."""
    rows = torch.from_numpy(centred(X)[0]).to(device)
    gigabyte = torch.ones(BYTES // 4, device=device)
    (read,) = race({"torch.sum, 1 GiB": gigabyte.sum}, repeats=5)
    del gigabyte
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(rows)))
    books = [rows[order[: min(K, len(rows))].to(device)] for K in (256, 1024, 8192)]
    return [limits(rows, book, BYTES / read.seconds / 1e9) for book in books]


def limits(rows: torch.Tensor, book: torch.Tensor, bandwidth: float) -> Row:
    """Rates of one assignment, and their shares of what is possible."""
    words, scores = Codewords(book), rows.new_empty(len(rows), len(book))
    contenders = {
        f"ours, K={len(book)}": partial(nearest, rows, words),
        "torch.mm": partial(torch.mm, rows, book.T, out=scores),
    }
    assign, product = race(contenders, repeats=5)
    flops = 2e-9 * len(rows) * len(book) * rows.shape[1]
    speed = 4e-9 * rows.numel() / assign.seconds
    return {
        "K": len(book),
        "ours, s": assign.seconds,
        "ours, GFLOP/s": flops / assign.seconds,
        "torch.mm, GFLOP/s": flops / product.seconds,
        "share of torch.mm": product.seconds / assign.seconds,
        "rows read, GB/s": speed,
        "memory read, GB/s": bandwidth,
        "share of memory": speed / bandwidth,
    }


def growth(setup: Setup) -> list[Row]:
    """Time of fit against rows, at 3 x 256, and codewords, one level of 100k rows.

    One run each. A series ends after a fit of more than 60 s. Ten million rows are
    read from a memory-mapped file in a fresh process, and fitted on a million of them.
    """
    table = growth_in_rows(setup, "none") + growth_in_rows(setup, "all")
    for balance in ("none", "all"):
        for K in (256, 1024, 2048, 4096, 8192):
            X = setup.rows(100_000)
            table.append(timed_fit(X, (K // setup.shrink,), balance, "codewords"))
            if table[-1]["fit, s"] > LONGEST:
                break
    if setup.huge:
        table.append(growth_from_disk(setup))
    plot_growth(table, setup.folder / "growth.png")
    return table


def growth_in_rows(setup: Setup, balance: str) -> list[Row]:
    table: list[Row] = []
    for n_rows in (10_000, 30_000, 100_000, 300_000, 1_000_000):
        table.append(timed_fit(setup.rows(n_rows), SIZES, balance, "rows"))
        if table[-1]["fit, s"] > LONGEST:
            break
    return table


def timed_fit(X, sizes, balance: str, series: str) -> Row:
    name = f"ours, balance={balance}, {len(X):,} rows, {sizes}"
    (fit,) = race({name: ours(sizes, X, balance=balance)}, repeats=1)
    return growth_row(len(X), sizes, balance, series, fit.time)


def growth_row(n_rows, sizes, balance, series, seconds) -> Row:
    return {
        "growth in": series,
        "balance": balance,
        "rows": n_rows,
        "levels": len(sizes),
        "K": sizes[0],
        "fit, s": seconds,
    }


def growth_from_disk(setup: Setup) -> Row:
    """Fit on a sample of the large file."""
    blocks.cache_clear()
    params = {"balance": "none", "max_samples": setup.count(1_000_000)}
    fit = in_fresh_process(setup, params)
    return growth_row(fit["rows"], SIZES, "none", "rows", fit["seconds"])


def plot_growth(table: list[Row], path: Path) -> None:
    """Two log-log panels, with a line of slope one for the eye."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("  no plot: pip install matplotlib")
        return
    fig = Figure(figsize=(9, 4), layout="constrained")
    panels = {"rows": ("rows", "3 x 256"), "codewords": ("K", "one level")}
    for ax, series in zip(fig.subplots(1, 2), panels, strict=True):
        key, title = panels[series]
        of_series = [row for row in table if row["growth in"] == series]
        for balance, marker in (("none", "o"), ("all", "s")):
            drawn = [
                (row[key], row["fit, s"])
                for row in of_series
                if row["balance"] == balance and not isinstance(row["fit, s"], str)
            ]
            x, y = np.array(drawn, dtype=float).T
            ax.loglog(x, y, marker=marker, label=f'balance="{balance}"')
        ends = np.array([x[0], x[-1]])
        ax.loglog(ends, drawn[0][1] * ends / ends[0], "k:", label="proportional")
        ax.set(xlabel=series, ylabel="fit, s", title=title)
        if series == "codewords":
            sizes = sorted({row[key] for row in of_series})
            ax.set_xticks(sizes, [str(size) for size in sizes])
            ax.set_xticks([], minor=True)
        low, high = ax.get_ylim()
        ticks = [tick for tick in (1, 3, 10, 30, 100, 300, 1000) if low < tick < high]
        ax.set_yticks(ticks, [str(tick) for tick in ticks])
        ax.set_yticks([], minor=True)
        ax.grid(which="major", alpha=0.4)
        ax.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=150)


def scale(setup: Setup) -> list[Row]:
    """Large catalogues, 384 features, 3 x 256; the target at a million rows is 120 s.

    With --huge also ten million rows in a memory-mapped file, fitted on a sample of
    100,000, in a fresh process. Its private memory (RssAnon) is sampled every 50 ms;
    the file is not in it, nor is what the process held before the fit.
    """
    table = [scale_in_memory(setup)]
    if setup.huge:
        blocks.cache_clear()
        gc.collect()
        params = {"balance": "last", "max_samples": setup.count(100_000)}
        table.append(in_fresh_process(setup, params))
    return table


def scale_in_memory(setup: Setup) -> Row:
    X = setup.rows(1_000_000)
    (fit,) = race({'ours, balance="all"': ours(SIZES, X, balance="all")}, repeats=1)
    return {
        "rows": len(X),
        "balance": "all",
        "seconds": fit.time,
        COUNTS: extremes(fit.result.codes, SIZES),
        "within one of n / K": within_one(fit.result.codes),
    }


def within_one(codes: np.ndarray) -> bool:
    """Whether every count of every level is one of the two numbers next to n / K."""
    low, high = len(codes) // SIZES[0], -(-len(codes) // SIZES[0])
    counts = [np.bincount(code, minlength=SIZES[0]) for code in codes.T]
    return all(low <= count.min() and count.max() <= high for count in counts)


def in_fresh_process(setup: Setup, params: dict[str, Any]) -> Row:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        job = pool.submit(fit_from_disk, setup.huge_file, params, setup.threads)
        row = job.result()
    print(f"  {row['rows']:,} rows from disk: {cell(row['seconds'])}", flush=True)
    return row


def fit_from_disk(path: Path, params: dict[str, Any], threads: int) -> Row:
    """Fit on a memory-mapped file, and the private memory that it takes."""
    limit_threads(threads)
    X = np.load(path, mmap_mode="r")
    before = private_memory()
    with sampled_memory() as samples:
        seconds, model = clock(lambda: estimator(SIZES, **params).fit(X))
    gc.collect()
    return {
        "rows": len(X),
        **params,
        "seconds": seconds,
        COUNTS: extremes(model.codes_, SIZES),
        "peak memory, GiB": (max(samples) - before) / BYTES,
        "kept after fit, GiB": (private_memory() - before) / BYTES,
        "file, GiB": path.stat().st_size / BYTES,
    }


def private_memory() -> int:
    """Bytes of anonymous resident memory: without files that are mapped."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise Absent("RssAnon is in no /proc/self/status")


@contextmanager
def sampled_memory(interval: float = 0.05) -> Iterator[list[int]]:
    samples, done = [private_memory()], threading.Event()

    def sample():
        while not done.wait(interval):
            samples.append(private_memory())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()
        samples.append(private_memory())


def new_data(setup: Setup) -> list[Row]:
    """Balance of rows that were not fitted: a random 20 % of 100k x 384, 3 x 256.

    Load CV is the standard deviation of the counts of the last level over their mean,
    with the prices of the fit and, by the same codebooks, for the nearest codeword.
    Even a uniform draw of so many rows has the CV of the last column.
    """
    X = setup.rows(100_000)
    order = np.random.default_rng(0).permutation(len(X))
    fitted, held_out = np.split(X[order], [4 * len(X) // 5])
    table = [loads(balance, fitted, held_out) for balance in ("last", "all")]
    chance = float(np.sqrt((SIZES[-1] - 1) / len(held_out)))
    return [{**row, "CV of a uniform draw": chance} for row in table]


def loads(balance: str, fitted: np.ndarray, held_out: np.ndarray) -> Row:
    model = estimator(SIZES, balance=balance, store_catalogue=False).fit(fitted)
    free = copy.copy(model)
    free.prices_ = [np.zeros_like(price) for price in model.prices_]

    def load(quantizer, X):
        return float(metrics.load_cv(quantizer.transform(X), SIZES)[-1])

    row: Row = {
        "balance": balance,
        "CV, fitted rows": load(model, fitted),
        "CV, new rows": load(model, held_out),
        "CV, new rows, nearest": load(free, held_out),
    }
    row["nearest / ours"] = row["CV, new rows, nearest"] / row["CV, new rows"]
    print(f"  {row}", flush=True)
    return row


def fit_on_gpu(setup: Setup) -> list[Row]:
    """Whole fits of 3 x 256 codebooks on 1M x 384 rows on a GPU.

    Rows begin and codes end in the memory of the CPU. faiss.Kmeans and fastkmeans take
    25 iterations per level and are called with all rows at every level, as their
    interfaces want it. fastkmeans compares in float16, which is its default there.
    """
    need_gpu()
    X = setup.rows(1_000_000)
    lean = partial(ours, SIZES, X, dedup="suffix", store_catalogue=False)
    # The first call of a process waits for the device's libraries.
    ours(SIZES, X[: 64 * SIZES[0]], device="cuda", balance="all")()
    contenders = {
        f'ours, {name}, balance="{balance}"': lean(device=device, balance=balance)
        for balance in ("none", "all")
        for device, name in (("cuda", "GPU"), ("cpu", "CPU"))
    }
    contenders |= {
        "faiss Kmeans per level, GPU": per_level(
            X, SIZES, faiss_kmeans("Kmeans", gpu=True)
        ),
        "fastkmeans per level, GPU": per_level(X, SIZES, fastkmeans_on_gpu),
    }
    return compare(race(contenders), X)


def throughput_on_gpu(setup: Setup) -> list[Row]:
    """Exact assignment of 262,144 x 384 rows on a GPU against its own limits.

    As F. The rows are in the memory of the GPU.
    """
    need_gpu()
    # Scores of all rows and 8,192 codewords at once: 8 GiB.
    return rates(setup.rows(2**18), "cuda")


def need_gpu() -> None:
    if not torch.cuda.is_available():
        raise Absent("needs a CUDA device")


CASES: dict[str, Callable[[Setup], list[Row]]] = {
    "A": fit_unconstrained,
    "B": fit_balanced,
    "C": fit_balanced_level,
    "D": encode,
    "E": lloyd_iteration,
    "F": throughput,
    "G": growth,
    "H": scale,
    "I": new_data,
    "J": fit_on_gpu,
    "K": throughput_on_gpu,
}


# Report


def cell(value: Any) -> str:
    """Text of one value of a table."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def table_of(rows: list[Row]) -> str:
    """Markdown table with the columns of all rows, in the order they appear."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[cell(row.get(column)) for column in columns] for row in rows]
    return tabulate(cells, headers=columns, tablefmt="github", disable_numparse=True)


def section_of(name: str, section: dict[str, Any]) -> str:
    title, _, note = (CASES[name].__doc__ or "").partition("\n")
    note = "\n".join(line.strip() for line in note.strip().splitlines())
    if name == "G":
        note += "\n\n![Time of fit](growth.png)"
    about = f"{section['date']}, load average at start {section['load']:.2f}, "
    about += f"`{section['command']}`\\\n{section['machine']}"
    head = f"## {name}. {title.rstrip('.')}"
    return "\n\n".join([head, note, table_of(section["rows"]), about])


def report(results: dict[str, Any]) -> str:
    note = (__doc__ or "").split("\n\n")[2]
    head = ["# Speed of the engine", "Written by `benchmarks/engine.py`.", note.strip()]
    sections = [section_of(name, results[name]) for name in CASES if name in results]
    return "\n\n".join([*head, *sections]) + "\n"


def command(setup: Setup) -> str:
    """The command line, without the folders of this machine."""
    words = ["python", "benchmarks/engine.py", *sys.argv[1:]]
    folders = {str(setup.folder), str(setup.scratch.parent)}
    return " ".join("DIR" if word in folders else word for word in words)


def machine(threads: int) -> str:
    """CPU and versions, without anything that names the machine."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    fields = dict(reversed([line.split("\t", 1)[:2] for line in lines if "\t" in line]))
    fields = {key: value.strip(": \t") for key, value in fields.items()}
    model = fields.get("model name", "unknown CPU")
    model += f" (family {fields.get('cpu family')}, model {fields.get('model')})"
    flags = fields.get("flags", "").split()
    bf16 = "with" if "avx512_bf16" in flags else "without"
    amx = "with" if "amx_tile" in flags else "without"
    versions = []
    for package in ["sk-rqkplus", *PACKAGES, *PEERS.values()]:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {package}")
    cores = f"{os.cpu_count()} cores, {threads} threads"
    blas = ", ".join(f"OpenBLAS for {kernel}" for kernel in kernels())
    able = f"{bf16} AVX-512 bfloat16, {amx} AMX"
    if torch.cuda.is_available():
        able += f", {torch.cuda.get_device_name()}"
    return f"{model}, {able}, {cores}; {blas}; {', '.join(versions)}."


def kernels() -> list[str]:
    """Processors that the libraries of matrix products take this one for."""
    return sorted({lib.get("architecture") for lib in threadpool_info()} - {None})


def check_kernels() -> None:
    """The same kernels in all libraries: that of faiss may not know the processor."""
    with suppress(ImportError):
        import faiss  # noqa: F401
    if len(kernels()) > 1:
        raise SystemExit(
            f"OpenBLAS takes kernels for {' and '.join(kernels())}. Set "
            "OPENBLAS_CORETYPE to the one that is the fastest here, for a fair race."
        )


def limit_threads(threads: int) -> None:
    """The same number of threads for torch, faiss, OpenMP and BLAS."""
    torch.set_num_threads(threads)
    try:
        import faiss

        faiss.omp_set_num_threads(threads)
    except ImportError:
        pass
    threadpool_limits(threads)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument(
        "--huge", action="store_true", help="G and H at 10M rows, 15 GB"
    )
    parser.add_argument("--scratch", type=Path, help="folder for the 15 GB file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--shrink", type=int, default=1, help="divide sizes by this, for a trial"
    )
    parser.add_argument("--results", type=Path, help="folder, instead of results/")
    args = parser.parse_args()
    if args.shrink > 1 and args.results is None:
        parser.error("--shrink needs --results: a trial is not a result.")
    return args


def run_case(name: str, setup: Setup) -> bool:
    """Run one case and write what is known by then; False if it failed."""
    section: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "load": os.getloadavg()[0],
        "command": command(setup),
        "machine": machine(setup.threads),
    }
    print(f"{name}. {(CASES[name].__doc__ or '').splitlines()[0]}", flush=True)
    try:
        section["rows"] = CASES[name](setup)
    except Absent as reason:
        print(f"  skipped: {reason}")
        return True
    except Exception:
        traceback.print_exc()
        return False
    print(f"\n{table_of(section['rows'])}\n", flush=True)
    setup.folder.mkdir(parents=True, exist_ok=True)
    store = setup.folder / "engine.json"
    results = json.loads(store.read_text()) if store.exists() else {}
    results[name] = section
    store.write_text(json.dumps(results, indent=1) + "\n")
    (setup.folder / "engine.md").write_text(report(results))
    return True


def main() -> None:
    args = arguments()
    check_kernels()
    # A large file is removed also where the run is ended from outside.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    limit_threads(args.threads)
    load = os.getloadavg()[0]
    print(f"{machine(args.threads)} Load average {load:.2f}\n")
    if load > 0.5:
        print("The machine is busy. Threads that wait for each other suffer most.\n")
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        folder = args.results or RESULTS
        setup = Setup(args.threads, args.shrink, args.huge, folder, Path(scratch))
        failed = [name for name in args.only if not run_case(name, setup)]
    if failed:
        raise SystemExit(f"failed: {' '.join(failed)}")


if __name__ == "__main__":
    main()
