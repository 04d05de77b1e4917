"""Encode a Parquet table on one machine by every engine, and check the cost model.

    python benchmarks/distributed.py [--rows 10_000_000] [--features 64]
        [--engines plain,faiss,shards,dask,spark] [--workers 2] [--out results/x.md]

Every engine reads the table, encodes it with the same codebooks of 3 x 256 and writes
codes by item. Each is a process of its own, whose memory, and that of its children, is
sampled; codes of all engines are compared with those of the plain loop, which calls
``transform`` on chunks. Rates of the cost model come from small tables and one thread;
its predictions stand beside what is measured. Writes results/distributed.md.
"""

import argparse
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tabulate import tabulate

from sk_rqkplus import RQKMeans
from sk_rqkplus.datasets import make_catalogue

HERE = Path(__file__).resolve()
RESULTS = HERE.parent / "results" / "distributed.md"
ENGINES = ("plain", "faiss", "shards", "dask", "spark")
SIZES = (256, 256, 256)
BATCH_ROWS, N_FILES = 65_536, 16
# Tables that the rates come from, and one that is held out.
CALIBRATION = [(d, (k,) * 3) for d in (64, 256) for k in (256, 1024)]
HELD_OUT = [(128, (512,) * 3)]
CALIBRATION_ROWS, FIT_ROWS, FIT_SAMPLE = 200_000, 500_000, 50_000


def write_table(folder, n_rows, n_features, n_files=N_FILES, seed=0):
    """Parquet files of rows around those of a small catalogue."""
    base = make_catalogue(20_000, n_features, random_state=0).data.astype(np.float32)
    rng, spread = np.random.default_rng(seed), 0.3 * base.std()
    folder.mkdir()
    bounds = np.linspace(0, n_rows, n_files + 1).astype(int)
    for number, (first, last) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        schema = pa.schema(
            {"item_id": pa.int64(), "embedding": pa.list_(pa.float32(), n_features)}
        )
        path = folder / f"part-{number:03}.parquet"
        with pq.ParquetWriter(path, schema, use_dictionary=False) as writer:
            for start in range(first, last, BATCH_ROWS):
                keys = np.arange(start, min(start + BATCH_ROWS, last))
                shape = len(keys), n_features
                X = base[rng.integers(len(base), size=len(keys))]
                X = X + spread * rng.standard_normal(shape, dtype=np.float32)
                lists = pa.FixedSizeListArray.from_arrays(X.ravel(), n_features)
                batch = pa.record_batch([pa.array(keys), lists], schema=schema)
                writer.write_batch(batch)


def fitted(n_features, sizes=SIZES):
    """Codebooks of a sample of such rows."""
    X = make_catalogue(30_000, n_features, random_state=0).data.astype(np.float32)
    params = {"augment": "none", "balance": "none", "max_iter": 5, "tol": 0.01}
    model = RQKMeans(sizes, **params, store_catalogue=False, random_state=0)
    return model.fit(X)


def chunks(path):
    """Keys and rows of a table, a chunk at a time."""
    for file in sorted(path.glob("*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(BATCH_ROWS):
            X = batch["embedding"].flatten().to_numpy()
            yield batch["item_id"], X.reshape(len(batch), -1)


def write_chunks(path, parts):
    """One file of keys and codes."""
    path.mkdir()
    writer = None
    for keys, codes in parts:
        values = pa.array(np.ascontiguousarray(codes, dtype=np.int32).ravel())
        lists = pa.FixedSizeListArray.from_arrays(values, codes.shape[1])
        batch = pa.record_batch({"item_id": keys, "codes": lists})
        writer = writer or pq.ParquetWriter(path / "codes.parquet", batch.schema)
        writer.write_batch(batch)
    writer.close()


def run_plain(model, source, out, workers):
    write_chunks(out, ((keys, model.transform(X)) for keys, X in chunks(source)))


def run_faiss(model, source, out, workers):
    import faiss

    faiss.omp_set_num_threads(workers)
    bits = [int(np.log2(len(book))) for book in model.codebooks_]
    rq = faiss.ResidualQuantizer(model.n_features_in_, len(bits), bits[0])
    rq.max_beam_size, rq.is_trained = 1, True
    books = np.concatenate(model.codebooks_)
    faiss.copy_array_to_vector(books.ravel(), rq.codebooks)
    rq.compute_codebook_tables()
    mean = model.mean_.astype(np.float32)
    write_chunks(out, ((k, rq.compute_codes(X - mean)) for k, X in chunks(source)))


def run_shards(model, source, out, workers):
    from sk_rqkplus.distributed import encode_shards

    encode_shards(model, source, out)


def encode_file(model, path, out):
    """What a Dask task does: read a file, encode it and write the codes."""
    import torch

    from sk_rqkplus.distributed import encode_batch, encoded_schema

    torch.set_num_threads(1)
    file = pq.ParquetFile(path)
    schema = encoded_schema(file.schema_arrow, model)
    with pq.ParquetWriter(out / path.name, schema) as writer:
        for batch in file.iter_batches(BATCH_ROWS):
            writer.write_batch(encode_batch(batch, model))


def dask_cluster(workers, folder):
    from dask.distributed import Client, LocalCluster

    cluster = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        dashboard_address=None,
        local_directory=str(folder),
    )
    return cluster, Client(cluster)


def run_dask(model, source, out, workers):
    import dask

    from sk_rqkplus.distributed import lean

    out.mkdir()
    cluster, client = dask_cluster(workers, out.parent)
    with cluster, client:
        shared = client.scatter(lean(model), broadcast=True)
        task = dask.delayed(encode_file)
        files = sorted(source.glob("*.parquet"))
        dask.compute([task(shared, file, out) for file in files])


def spark_session(workers, folder):
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    return (
        SparkSession.builder.master(f"local[{workers}]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.memory", "4g")
        .config("spark.local.dir", str(folder))
        .config("spark.log.level", "ERROR")
        .getOrCreate()
    )


def run_spark(model, source, out, workers):
    from sk_rqkplus.distributed.spark import encode_dataframe

    spark = spark_session(workers, out.parent)
    df = spark.read.parquet(str(source))
    encoded = encode_dataframe(model, df)
    encoded.select("item_id", "codes", "tokens").write.parquet(str(out))
    spark.stop()


def fit_memory(params, source, workers):
    X = np.concatenate([X for _, X in chunks(source)])
    return RQKMeans(**params).fit(X)


def fit_dask(params, source, workers):
    import dask.array as da

    from sk_rqkplus.distributed.dask import DaskRQKMeans

    cluster, client = dask_cluster(workers, source.parent)
    with cluster, client:
        parts = [X for _, X in chunks(source)]
        X = da.concatenate([da.from_array(part, chunks=part.shape) for part in parts])
        return DaskRQKMeans(**params).fit(X.persist())


def fit_spark(params, source, workers):
    from sk_rqkplus.distributed.spark import SparkRQKMeans

    spark = spark_session(workers, source.parent)
    model = SparkRQKMeans(**params).fit(spark.read.parquet(str(source)))
    spark.stop()
    return model


def child(task, source, out, features, workers):
    """What a process of its own does; prints the seconds that it took."""
    import torch

    # Instead of the folder of this file, which would hide Dask's distributed.
    sys.path[0] = str(HERE.parents[1])

    kind, _, name = task.partition("-")
    torch.set_num_threads(workers)
    if kind == "encode":
        model = fitted(features)
        start = time.perf_counter()
        globals()[f"run_{name}"](model, source, out, workers)
        found = None
    else:
        params = {"codebook_sizes": SIZES, "max_samples": FIT_SAMPLE, "random_state": 0}
        params |= {"augment": "none", "store_catalogue": False}
        start = time.perf_counter()
        found = globals()[f"fit_{name}"](params, source, workers).fingerprint_
    print(json.dumps([time.perf_counter() - start, found]))


class Memory:
    """Peaks of the memory of a process and of its children, sampled."""

    def __init__(self, pid):
        import psutil

        self.psutil, self.root = psutil, psutil.Process(pid)
        self.peak, self.java = 0, 0

    def sample(self):
        try:
            processes = [self.root, *self.root.children(recursive=True)]
        except self.psutil.Error:
            return
        for process in processes:
            try:
                used = process.memory_info().rss
                name = process.name()
            except self.psutil.Error:
                continue
            kind = "java" if name == "java" else "peak"
            setattr(self, kind, max(getattr(self, kind), used))


def in_child(task, source, out, features, workers):
    """Seconds, result and memory of a task in a process of its own."""
    command = [sys.executable, str(HERE), "--task", task, "--source", str(source)]
    command += ["--target", str(out), "--features", str(features)]
    command += ["--workers", str(workers)]
    paths = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": paths.strip(os.pathsep)}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=env
        )
        memory = Memory(process.pid)
        try:
            while process.poll() is None:
                memory.sample()
                time.sleep(0.1)
            printed = process.communicate()[0]
        finally:
            process.kill()
        if process.returncode:
            errors.seek(0)
            lines = errors.read().strip().splitlines()
            print(f"{task} failed: {lines[-1] if lines else process.returncode}")
            return None
    seconds, found = json.loads(printed.strip().splitlines()[-1])
    return seconds, found, memory


def codes_of(path):
    """Codes in the order of the items."""
    table = pq.read_table(path, columns=["item_id", "codes"])
    order = np.argsort(table["item_id"].to_numpy())
    values = table["codes"].combine_chunks().flatten().to_numpy()
    return values.reshape(len(table), -1)[order]


def calibrate(folder):
    """Cost model from small tables in one thread, and a table held out.

    Times are those of the CPU: a rate of a core, also on a machine that is not alone.
    """
    import torch

    from sk_rqkplus.distributed.cost import CostModel, Run

    torch.set_num_threads(1)
    runs = []
    for number, (width, sizes) in enumerate(CALIBRATION + HELD_OUT):
        source, model = folder / f"small-{number}", fitted(width, sizes)
        write_table(source, CALIBRATION_ROWS, width, 1)
        times = []
        for repeat in range(2):
            start = time.process_time()
            run_plain(model, source, folder / f"small-{number}-{repeat}", 1)
            times.append(time.process_time() - start)
        runs.append(Run(CALIBRATION_ROWS, width, sizes, min(times)))
    return CostModel.calibrated(runs[: len(CALIBRATION)]), runs


def encode_table(args, folder, source, model):
    """Rows of the table of engines."""
    rows, plain, expected = [], None, None
    cost = model.encode(args.rows, args.features, SIZES, workers=args.workers)
    for engine in args.engines:
        out = folder / f"codes-{engine}"
        done = in_child(f"encode-{engine}", source, out, args.features, args.workers)
        if done is None:
            continue
        seconds, _, memory = done
        same = ""
        if engine == "plain":
            plain, expected = seconds, codes_of(out)
        elif engine != "faiss" and expected is not None:
            same = "yes" if np.array_equal(codes_of(out), expected) else "NO"
        rows.append(
            [
                engine,
                f"{seconds:.1f}",
                f"{args.rows / seconds:,.0f}",
                "" if plain is None else f"{seconds / plain - 1:+.0%}",
                f"{memory.peak / 2**20:,.0f}",
                f"{memory.java / 2**20:,.0f}" if memory.java else "",
                same,
                f"{cost.seconds:.1f}",
                f"{cost.memory / 2**20:,.0f}",
            ]
        )
        print(*rows[-1], sep="  ", flush=True)
        shutil.rmtree(out)
    headers = ["engine", "s", "rows/s", "over plain", "MiB of a worker", "MiB of Java"]
    headers += ["codes equal", "model, s", "model, MiB"]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)


def fit_table(args, folder, model):
    """Rows of the table of fits with a sample."""
    n_rows, rows = min(args.rows, FIT_ROWS), []
    source = folder / "fit"
    write_table(source, n_rows, args.features, 4)
    options = {"max_samples": FIT_SAMPLE, "workers": args.workers}
    cost = model.fit(n_rows, args.features, SIZES, driver=args.workers, **options)
    prints = set()
    for engine in ("memory", "dask", "spark"):
        task = f"fit-{engine}", source, source, args.features, args.workers
        if engine != "memory" and engine not in args.engines:
            continue
        done = in_child(*task)
        if done is None:
            continue
        seconds, found, memory = done
        prints.add(found)
        predicted = "" if engine == "memory" else f"{cost.seconds:.1f}"
        mib = f"{memory.peak / 2**20:,.0f}"
        rows.append([engine, f"{seconds:.1f}", mib, predicted])
        print(*rows[-1], sep="  ", flush=True)
    headers = ["fit on", "s", "MiB of a worker", "model, s"]
    table = tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)
    equal = "all equal" if len(prints) == 1 else "NOT EQUAL"
    return f"{table}\n\nFingerprints of the models: {equal}."


def calibration_table(model, runs):
    rows = []
    for number, (n, d, sizes, seconds) in enumerate(runs):
        predicted = model.encode(n, d, sizes).seconds
        use = "fitted" if number < len(CALIBRATION) else "held out"
        name = f"{len(sizes)} x {sizes[0]}"
        error = f"{predicted / seconds - 1:+.0%}"
        rows.append(
            [f"{n:,}", d, name, f"{seconds:.2f}", f"{predicted:.2f}", error, use]
        )
    headers = ["rows", "features", "codebooks", "CPU s", "model, s", "error", ""]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)


def billion_table(model):
    """What the model says for 1 billion x 768 with 3 x 8192."""
    n, d, sizes, rows = 10**9, 768, (8192,) * 3, []
    for machines in (1, 10, 100):
        cores = 16 * machines
        encode = model.encode(n, d, sizes, workers=cores)
        fit = model.fit(n, d, sizes, workers=cores, driver=16, max_samples=10**6)
        for job, cost in (("fit, 1M sampled", fit), ("encode", encode)):
            rows.append(
                [
                    job,
                    f"{machines} x 16 cores",
                    f"{cost.seconds / 3600:,.1f}",
                    f"{cost.memory / 2**30:,.1f}",
                    f"{cost.moved / 1e12:,.2f}",
                ]
            )
    headers = ["job", "machines", "hours", "GiB of a worker", "TB moved"]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)


def main(args):
    args.engines = args.engines.split(",")
    with tempfile.TemporaryDirectory(prefix="distributed-", dir=args.tmp) as name:
        folder = Path(name)
        model, runs = calibrate(folder)
        source = folder / "table"
        write_table(source, args.rows, args.features)
        encoded = encode_table(args, folder, source, model)
        shutil.rmtree(source)
        fits = fit_table(args, folder, model)
    rates = f"{model.flops:.3g} flop/s, {model.values:.3g} values/s"
    text = f"""# Encoding a table by every engine

`python benchmarks/distributed.py --rows {args.rows} --features {args.features}`,
{datetime.date.today()}, {args.workers} workers on {os.cpu_count()} cores,
{args.rows:,} x {args.features} in {N_FILES} Parquet files, 3 x 256 codewords.
Seconds are those of reading, encoding and writing; Dask and Spark include the start of
their workers. Plain is a loop of `transform` on chunks in one process, whose worker has
{args.workers} threads; so have the workers of faiss and shards.

{encoded}

## Fit

{min(args.rows, FIT_ROWS):,} rows, codebooks from {FIT_SAMPLE:,} of them.

{fits}

## Cost model

Rates of one core, from the CPU time of {CALIBRATION_ROWS:,} rows of four
tables: {rates}, {model.rows:.3g} rows/s.

{calibration_table(model, runs)}

## One billion x 768 with 3 x 8192

{billion_table(model)}
"""
    args.out.write_text(text)
    print(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--tmp", help="where temporary files go")
    for option in ("--task", "--source", "--target"):
        parser.add_argument(option, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.task:
        paths = Path(asked.source), Path(asked.target)
        child(asked.task, *paths, asked.features, asked.workers)
    else:
        # So that a run that is stopped takes its files away too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        main(asked)
