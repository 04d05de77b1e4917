"""The runner of shards under kill -9, and its memory."""

import os
import signal
import subprocess
import sys
import time

import joblib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import PACKAGE_ENV
from numpy.testing import assert_array_equal

from sk_rqkplus import RQKMeans
from sk_rqkplus.datasets import make_catalogue
from sk_rqkplus.distributed import ShardedCatalogue, encode_shards

# Says when it starts, so that a kill hits the work and not the imports.
RUN = """
import sys, joblib
from sk_rqkplus.distributed import encode_shards
model = joblib.load(sys.argv[1])
print("start", flush=True)
encode_shards(model, *sys.argv[2:4], ids=sys.argv[4], resume=True)
"""
# Says how much memory of its own it came to have, beyond that of a first file.
MEASURE = """
import sys, threading, joblib, torch
from sk_rqkplus.distributed import encode_shards

def anonymous():
    with open("/proc/self/status") as file:
        lines = [line for line in file if line.startswith("RssAnon")]
    return int(lines[0].split()[1]) / 1024

def watch():
    while not done.wait(0.01):
        peak[0] = max(peak[0], anonymous())

torch.set_num_threads(1)
model, first, table, out = sys.argv[1:5]
encode_shards(joblib.load(model), first, out + "-first")
before, peak, done = anonymous(), [0.0], threading.Event()
thread = threading.Thread(target=watch)
thread.start()
encode_shards(joblib.load(model), table, out)
done.set()
thread.join()
print(max(0.0, peak[0] - before))
"""


def write_table(folder, X, n_files):
    folder.mkdir()
    for number, rows in enumerate(np.array_split(np.arange(len(X)), n_files)):
        lists = pa.FixedSizeListArray.from_arrays(pa.array(X[rows].ravel()), X.shape[1])
        table = pa.table({"item_id": rows, "embedding": lists})
        path = folder / f"part-{number:03}.parquet"
        pq.write_table(table, path, row_group_size=10**7, use_dictionary=False)
    return folder


def codes_of(folder):
    """Codes of every file."""
    return {
        path.name: pq.ParquetFile(path).read()["codes"].to_pylist()
        for path in folder.glob("*.parquet")
    }


def test_killed_at_any_moment_it_goes_on(tmp_path, rounds, figure):
    # Files that take long enough to be killed at.
    n_rows = rounds(3000, 200_000)
    X = make_catalogue(n_rows, 8, duplicates=0.2, random_state=0).data
    model = RQKMeans((8, 8, 16), balance="none", random_state=0).fit(X)
    joblib.dump(model, tmp_path / "model")
    table = write_table(tmp_path / "table", X, 8)
    encode_shards(model, table, tmp_path / "whole", ids=tmp_path / "whole-ids")
    whole = codes_of(tmp_path / "whole")
    rng = np.random.default_rng(0)
    kills, runs, done_at_kills, longest = 0, 0, set(), None
    command = [sys.executable, "-c", RUN, *map(str, (tmp_path / "model", table))]
    while kills < rounds(2, 60):
        out, ids = tmp_path / f"codes-{runs}", tmp_path / f"ids-{runs}"
        returned = None
        while returned != 0:
            process = subprocess.Popen(
                [*command, str(out), str(ids)], stdout=subprocess.PIPE, env=PACKAGE_ENV
            )
            assert process.stdout.readline() == b"start\n"
            begin = time.monotonic()
            if longest is not None and kills < rounds(2, 60):
                time.sleep(rng.uniform(0, longest))
                process.send_signal(signal.SIGKILL)
            returned = process.wait()
            process.stdout.close()
            if longest is None:
                # The first one is left alone, to know how long it takes.
                longest = time.monotonic() - begin
            found = codes_of(out)
            if returned == -signal.SIGKILL:
                kills += 1
                done_at_kills.add(len(found))
            assert all(found[name] == whole[name] for name in found)
            if ids.exists():
                made = ShardedCatalogue(ids)
                assert len(made) in (0, len(X))
        runs += 1
        assert codes_of(out) == whole
        assert_array_equal(ShardedCatalogue(ids).lookup(range(len(X))), model.ids_)
        left = [path.name for path in tmp_path.rglob("*.tmp")]
        assert left == []
    assert kills >= rounds(2, 60)
    assert len(done_at_kills) >= rounds(1, 3)
    figure(
        "shard runner: kill -9 at random moments, then --resume",
        f"{kills} kills of {runs} jobs, at {len(done_at_kills)} different numbers of "
        "files: every one of them old or new, codes and IDs as without a kill",
    )


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
def test_memory_does_not_grow_with_the_table(tmp_path, rounds, figure):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(10_000, 128)).astype(np.float32)
    model = RQKMeans((16, 16), balance="none", random_state=0, max_iter=2)
    joblib.dump(model.fit(X[:2000]), tmp_path / "model")
    first = write_table(tmp_path / "first", X, 1)
    peaks, sizes = [], []
    for name, n_copies in (("small", rounds(2, 20)), ("large", rounds(30, 60))):
        table = write_table(tmp_path / name, np.tile(X, (n_copies, 1)), 1)
        sizes.append(sum(path.stat().st_size for path in table.iterdir()) / 2**20)
        paths = map(str, (tmp_path / "model", first, table, tmp_path / f"{name}-codes"))
        result = subprocess.run(
            [sys.executable, "-c", MEASURE, *paths],
            capture_output=True,
            text=True,
            env=PACKAGE_ENV,
            check=True,
        )
        peaks.append(float(result.stdout))
    assert peaks[1] < peaks[0] + (sizes[1] - sizes[0]) / 3
    figure(
        "shard runner: memory",
        f"{sizes[0]:.0f} MiB of Parquet in one row group: {peaks[0]:.0f} MiB beyond a "
        f"file before; {sizes[1]:.0f} MiB: {peaks[1]:.0f} MiB",
    )
