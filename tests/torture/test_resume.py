"""Fits that are killed, run out of room or are interrupted, and then go on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import PACKAGE_ENV

from sk_rqkplus._checkpoints import read_checkpoint
from sk_rqkplus._journal import KIND, SLOTS, VERSION
from sk_rqkplus._store import MANIFEST, read_store

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

# A process that has imported the package forks one fit for every line it is given.
FORKING = """
import json, os, resource, signal, sys, warnings
import numpy as np
import torch._dynamo  # what the first optimizer of a process would import
from sk_rqkplus import RQKMeans, RQKMeansPlus, _journal
from sk_rqkplus.datasets import make_catalogue

X = make_catalogue(2000, 24, branching=(6, 6), random_state=0).data
X = X.astype(np.float32)
# Every state is written, so that every moment of a fit is one to be killed at.
_journal.OVERHEAD = np.inf
warnings.simplefilter("ignore")
# A shell may have told what it runs in the background to ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)

def run(out, kind, params, limit=None, user=None):
    if user is not None:
        os.setuid(user)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    model = {"plus": RQKMeansPlus, "rqkmeans": RQKMeans}[kind](**params)
    try:
        model.fit(X)
        answer = model.fingerprint_ + _journal.digest({"ids": model.ids_})
    except (OSError, KeyboardInterrupt) as error:
        names = [name for name in vars(model) if name.endswith("_")]
        answer = f"{type(error).__name__}: {error} {names}"
    os.write(out, answer.encode())

print("ready", flush=True)
pid = None
for line in sys.stdin:
    # Until now its number is that of no other process, so that it can be killed.
    pid and os.waitpid(pid, 0)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            run(writing, **json.loads(line))
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    print(pid, flush=True)
    with os.fdopen(reading, "rb") as file:
        answer = file.read().decode()
    print(json.dumps(answer), flush=True)
"""

KMEANS = {"codebook_sizes": [32, 32], "n_init": 2, "random_state": 0}
PLUS = {
    "codebook_sizes": [16, 16],
    "hidden_layer_sizes": [16],
    "max_epochs": 5,
    "eval_every": 1,
    "augment": "none",
    "dropout": 0.1,
    "random_state": 0,
}
FITS = {"rqkmeans": KMEANS, "plus": PLUS}


class Fits:
    """Fits in processes of their own, one at a time."""

    def __init__(self):
        environment = {**PACKAGE_ENV, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", FORKING],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stdout.readline() == "ready\n"

    def start(self, kind, folder, resume=True, **limits):
        """Start a fit; returns the number of its process."""
        params = {**FITS[kind], "checkpoint_dir": folder and str(folder)}
        params["resume"] = resume and folder is not None
        line = json.dumps({"kind": kind, "params": params, **limits})
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def answer(self):
        """What became of it: a digest of the model or an error; empty if killed."""
        return json.loads(self.process.stdout.readline())

    def fit(self, *args, **kwargs):
        self.start(*args, **kwargs)
        return self.answer()


@pytest.fixture(scope="module")
def fits():
    fits = Fits()
    yield fits
    fits.process.stdin.close()
    fits.process.wait(timeout=60)


@pytest.fixture(scope="module")
def whole(fits):
    """Digest and seconds of every fit in one piece."""
    found = {}
    for kind in FITS:
        start = time.monotonic()
        found[kind] = fits.fit(kind, None), time.monotonic() - start
        assert "Error" not in found[kind][0]
    return found


def states_of(folder):
    """States of a fit and of its first stage that have a manifest."""
    folders = [part / name for part in (folder, folder / "rqkmeans") for name in SLOTS]
    return [part for part in folders if (part / MANIFEST).exists()]


def read_all(folder):
    """Read all that a fit has written; raises if something cannot be read."""
    found = states_of(folder)
    for state in found:
        read_store(state, kind=KIND, version=VERSION)
    for path in folder.glob("*.safetensors"):
        read_checkpoint(path)
    return len(found)


@pytest.mark.parametrize("kind", FITS)
def test_killed_fits_go_on_to_the_same_model(
    fits, whole, tmp_path, rounds, figure, kind
):
    wanted, seconds = whole[kind]
    rng = np.random.default_rng(0)
    n_kills = n_models = n_read = 0
    while n_kills < rounds(3, 100):
        folder = tmp_path / str(n_models)
        answer = ""
        while not answer:
            pid = fits.start(kind, folder)
            time.sleep(rng.uniform(0, 0.8 * seconds))
            os.kill(pid, signal.SIGKILL)
            answer = fits.answer()
            n_kills += not answer
            n_read += read_all(folder)
        assert answer == wanted, f"model {n_models} of {kind} after {n_kills} kills"
        assert not list(folder.rglob("*.tmp"))
        n_models += 1
    figure(
        f"kill -9 during a fit with checkpoints, {kind}",
        f"{n_kills} kills, {n_models} models resumed to their end: all bit for bit "
        f"those of one piece; {n_read} states read, 0 unreadable",
    )


@pytest.mark.parametrize("kind", FITS)
def test_a_fit_without_room_says_so_and_goes_on_later(
    fits, whole, tmp_path, rounds, figure, kind
):
    n_limits = rounds(1, 25)
    for number, limit in enumerate(np.geomspace(4_000, 60_000, n_limits).astype(int)):
        folder = tmp_path / str(number)
        pid = fits.start(kind, folder)
        time.sleep(whole[kind][1] * (number + 0.5) / n_limits)
        os.kill(pid, signal.SIGKILL)
        if fits.answer():
            continue
        before, litter = states_of(folder), set(folder.rglob("*.tmp"))
        answer = fits.fit(kind, folder, limit=int(limit))
        if answer != whole[kind][0]:
            assert answer.startswith("OSError"), f"{limit} bytes: {answer}"
            assert f"checkpoint_dir='{folder}" in answer, f"{limit} bytes: {answer}"
            assert answer.endswith(" []"), "the estimator should be as it was"
        read_all(folder)
        assert set(before) <= set(states_of(folder))
        assert set(folder.rglob("*.tmp")) <= litter
        assert fits.fit(kind, folder) == whole[kind][0], f"{limit} bytes"
    figure(
        f"no room for checkpoints, {kind}",
        f"{n_limits} limits of the size of files: an OSError that names "
        "checkpoint_dir, states intact, no litter, resumed to the same model",
    )


def test_a_full_file_system(fits, whole, tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=160k", "tmpfs", str(folder)]
    if subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("may not mount a small file system")
    try:
        answer = fits.fit("plus", folder)
        assert answer.startswith("OSError: [Errno 28] checkpoint_dir="), answer
        assert not list(folder.rglob("*.tmp"))
        assert read_all(folder) > 0
        subprocess.run(["mount", "-o", "remount,size=9m", str(folder)], check=True)
        assert fits.fit("plus", folder) == whole["plus"][0]
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("kind", FITS)
def test_a_directory_that_may_not_be_written(fits, whole, tmp_path, kind):
    folder = tmp_path / "closed"
    pid = fits.start(kind, folder)
    time.sleep(whole[kind][1] / 2)
    os.kill(pid, signal.SIGKILL)
    fits.answer()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    # A process of the superuser may write everywhere, so the fit is another's.
    user = 65534 if os.getuid() == 0 else None
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    for parent in list(folder.parents)[:3]:
        if user is not None and parent.stat().st_uid == 0 and parent != Path("/tmp"):
            parent.chmod(0o755)
    answer = fits.fit(kind, folder, user=user)
    if answer.startswith(("ModuleNotFoundError", "ImportError")):
        pytest.skip("the other user may not read the packages")
    assert answer.startswith("PermissionError: [Errno 13] checkpoint_dir="), answer
    assert answer.endswith(" []")
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert fits.fit(kind, folder) == whole[kind][0]


@pytest.mark.parametrize("kind", FITS)
def test_an_interrupted_fit_goes_on(fits, whole, tmp_path, rounds, kind):
    wanted, seconds = whole[kind]
    rng = np.random.default_rng(1)
    n_interrupted = 0
    for number in range(rounds(1, 20)):
        answer = "KeyboardInterrupt"
        while answer.startswith("KeyboardInterrupt"):
            pid = fits.start(kind, tmp_path / str(number))
            time.sleep(rng.uniform(0.1, 0.8) * seconds)
            os.kill(pid, signal.SIGINT)
            answer = fits.answer()
            n_interrupted += answer.startswith("KeyboardInterrupt")
            read_all(tmp_path / str(number))
        assert answer == wanted, f"model {number} of {kind}"
    assert n_interrupted > 0
