"""A file that is larger than the memory: a fit reads it and never copies it whole.

``ulimit -v`` limits the addresses of a process. A file that is mapped takes addresses
of its own length, so that NumPy could not even open 15 GB under a limit of 6 GB. What a
user needs is a bound of the memory that is allocated. ``RLIMIT_DATA`` (``ulimit -d``)
is such a bound: since Linux 4.7 it counts private anonymous memory, and no files.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import PACKAGE_ENV

GB = 10**9

# Lets the allocator of glibc return buffers at once: what it keeps varies from run to
# run by as much as the fit of the small file needs.
RETURN = {"OMP_NUM_THREADS": "2", "MALLOC_MMAP_THRESHOLD_": "131072"}

CHILD = """
import json, resource, sys, threading, time
import numpy as np
from sk_rqkplus import RQKMeans

def field(name):
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024

path, n_rows, n_features, limit, room, sizes, balance, max_samples = json.loads(
    sys.argv[1]
)
X = np.memmap(path, np.float32, "r", shape=(n_rows, n_features))
begin, before, peaks = time.perf_counter(), field("RssAnon"), [0]

def watch():
    while True:
        peaks[0] = max(peaks[0], field("RssAnon"))
        time.sleep(0.01)

threading.Thread(target=watch, daemon=True).start()
if limit or room:
    most = limit or field("VmData") + room
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
rq = RQKMeans(sizes, balance=balance, max_samples=max_samples, random_state=0).fit(X)
seconds, peak = time.perf_counter() - begin, peaks[0]
unique = len(np.unique(rq.ids_[:: max(1, n_rows // 10**6)], axis=0))
held = rq.codes_.nbytes + rq.ids_.nbytes + 28 * n_rows
if room:
    assert (rq.transform(X) == rq.codes_).all()
    assert (rq.predict(X) == rq.ids_).all()
print(json.dumps([len(rq.ids_), unique, seconds, peak, peak - before, held]))
"""

needs_linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="RLIMIT_DATA counts memory on Linux"
)


def write_rows(path, n_rows, n_features):
    """A file of families of rows, written a chunk at a time."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((1000, n_features), dtype=np.float32)
    step = 50_000
    noise = rng.standard_normal((step, n_features), dtype=np.float32) * np.float32(0.5)
    with open(path, "wb") as file:
        for start in range(0, n_rows, step):
            n_new = min(step, n_rows - start)
            rows = centres[rng.integers(len(centres), size=n_new)]
            # The same noise in another order and sign: drawing it takes the longest.
            signs = rng.choice(np.float32([-1, 1]), size=n_features)
            rows += noise[rng.permutation(step)[:n_new]] * signs
            rows.tofile(file)


def fit_in_a_child(
    path, shape, *, limit=0, room=0, sizes, balance="last", max_samples, env=()
):
    arguments = [str(path), *shape, limit, room, sizes, balance, max_samples]
    return subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(arguments)],
        env={**PACKAGE_ENV, **dict(env)},
        capture_output=True,
        text=True,
    )


@needs_linux
def test_a_file_is_fitted_in_less_memory_than_it_has(tmp_path):
    shape, room = (130_000, 384), 150 * 10**6
    write_rows(tmp_path / "rows", *shape)
    assert (tmp_path / "rows").stat().st_size > room
    options = {"room": room, "sizes": [4, 4], "max_samples": 2000, "env": RETURN}
    done = fit_in_a_child(tmp_path / "rows", shape, **options)
    assert done.returncode == 0, done.stderr
    n_ids, unique, *_ = json.loads(done.stdout)
    assert n_ids == unique == shape[0]
    # Without a sample the residuals would not fit, which is said before they are made.
    options["max_samples"] = None
    done = fit_in_a_child(tmp_path / "rows", shape, **options)
    assert "MemoryError: n_samples=130000 need about" in done.stderr
    assert "Set max_samples" in done.stderr


@needs_linux
@pytest.mark.parametrize(
    "n_rows, balance", [(1_000_000, "last"), (3_000_000, "last"), (10_000_000, "none")]
)
def test_15_gb_in_6_gb(n_rows, balance, rounds, figure, tmp_path):
    """Files of three lengths, the last of 15 GB; prices take it some hundred passes."""
    if not rounds(False, True):
        pytest.skip("15 GB are for --torture")
    write_rows(tmp_path / "rows", n_rows, 384)
    done = fit_in_a_child(
        tmp_path / "rows",
        (n_rows, 384),
        limit=6 * GB,
        sizes=[256, 256, 256],
        balance=balance,
        max_samples=200_000,
    )
    (tmp_path / "rows").unlink()
    assert done.returncode == 0, done.stderr
    n_ids, unique, seconds, peak, grown, held = json.loads(done.stdout)
    assert n_ids == n_rows
    assert unique == len(range(0, n_rows, max(1, n_rows // 10**6)))
    assert grown - held < 2 * GB
    figure(
        f"memmap of {n_rows:,} x 384 under ulimit -d of 6 GB, balance={balance!r}",
        f"completes in {seconds:.0f} s, {peak / GB:.2f} GB of memory at most, "
        f"{(grown - held) / GB:.2f} GB beyond package, codes, IDs and catalogue",
    )
