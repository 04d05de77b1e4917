"""Saved models and catalogues under attack: changed, killed, full, forged."""

import copy
import errno
import hashlib
import io
import json
import os
import pickle
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from conftest import PACKAGE_ENV
from numpy.testing import assert_array_equal

from sk_rqkplus import RQKMeans, RQKMeansPlus, cli, persistence
from sk_rqkplus._base import BaseQuantizer
from sk_rqkplus._store import MANIFEST, _dump, read_any_store, write_store
from sk_rqkplus.ids import Catalogue

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a POSIX system"),
    pytest.mark.filterwarnings("ignore:no epoch had a lower:UserWarning"),
]
KINDS = ["rqkmeans", "plus", "catalogue"]
# What a writer that was killed may leave, which nobody reads.
LITTER = re.compile(r".*\.[0-9a-f]{32}\.tmp|save-[0-9a-f]{32}\.tmp|arrays-.*")


@pytest.fixture(scope="module")
def models(X):
    small = RQKMeans((4, 4), random_state=0).fit(X[:60])
    keyed = RQKMeans((8, 8, 8), random_state=1).fit(X[:200])
    keyed.catalogue_.set_keys([f"item {i}" for i in range(200)])
    plus = RQKMeansPlus(
        (4, 4),
        hidden_layer_sizes=(5,),
        batch_norm=True,
        max_epochs=2,
        eval_every=1,
        random_state=0,
    ).fit(X[:60])
    return {
        "rqkmeans": small,
        "plus": plus,
        "catalogue": keyed.catalogue_,
        "big": keyed,
    }


@pytest.fixture(autouse=True)
def no_hang():
    """End a test that waits for a pipe."""

    def stop(*args):
        raise TimeoutError("the test hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(500)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def contents(folder):
    return {
        path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def refusal(path):
    """What is said of a folder that is not loaded, None of one that is."""
    try:
        persistence.load(path)
    except (ValueError, FileNotFoundError) as error:
        return str(error)


def assert_refused(path, what):
    """Check that nothing loads a folder, and that the error is clear."""
    said = refusal(path)
    assert said is not None, f"{what} was loaded"
    assert f"path={str(path)!r}" in said, what


# ---------------------------------------------------------------------------
# Accidents


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bits_and_cut_files_are_refused(models, tmp_path, rounds, figure, kind):
    path, rng = tmp_path / "saved", np.random.RandomState(KINDS.index(kind))
    models[kind].save(path)
    n_flips, n_cuts = rounds(40, 400), rounds(10, 100)
    for file in sorted(path.iterdir()):
        content = file.read_bytes()
        # From every region of the file.
        edges = np.linspace(0, len(content), n_flips + 1).astype(int)
        for start, stop in zip(edges[:-1], edges[1:], strict=True):
            at, bit = rng.randint(start, max(stop, start + 1)), rng.randint(8)
            changed = bytes([content[at] ^ 1 << bit])
            file.write_bytes(content[:at] + changed + content[at + 1 :])
            assert_refused(path, f"{file.name} with bit {bit} of byte {at} flipped")
        for length in [
            0,
            len(content) - 1,
            *rng.randint(len(content), size=n_cuts - 2),
        ]:
            file.write_bytes(content[:length])
            assert_refused(path, f"{file.name} of {length} bytes")
            file.write_bytes(content + content[-1:] * (1 + length % 9))
            assert_refused(path, f"{file.name} with {1 + length % 9} bytes more")
        file.write_bytes(content)
        file.rename(tmp_path / "gone")
        assert_refused(path, f"a folder without {file.name}")
        (tmp_path / "gone").rename(file)
    assert len(persistence.load(path).__getstate__()) > 0
    n_all = 2 * (n_flips + 2 * n_cuts + 1)
    figure(f"changed files: {kind}", f"{n_all} flips, cuts and losses: all refused")


@pytest.mark.parametrize("kind", KINDS)
def test_swapped_files_are_refused(models, tmp_path, kind):
    models[kind].save(tmp_path / "one")
    other = models["big"]
    if kind == "catalogue":
        other = copy.deepcopy(models[kind])
        other.register([[0, 0, 0, 99]], keys=["new"])
    other.save(tmp_path / "two")
    for name in ("manifest", "arrays", "named arrays"):
        shutil.rmtree(tmp_path / "mixed", ignore_errors=True)
        shutil.copytree(tmp_path / "one", tmp_path / "mixed")
        [ours] = (tmp_path / "mixed").glob("arrays-*")
        [theirs] = (tmp_path / "two").glob("arrays-*")
        if name == "manifest":
            shutil.copy(tmp_path / "two" / MANIFEST, tmp_path / "mixed")
        elif name == "arrays":
            ours.unlink()
            shutil.copy(theirs, tmp_path / "mixed")
        else:
            shutil.copy(theirs, ours)
        assert_refused(tmp_path / "mixed", f"a folder with the {name} of another")


# ---------------------------------------------------------------------------
# Killed


KILL = """
import contextlib, copy, os, signal, sys, time
import numpy as np
from sk_rqkplus import RQKMeans, cli, persistence

X, n_trials, rng = np.load("X.npy"), int(sys.argv[1]), np.random.RandomState(0)
old, new = (RQKMeans((8, 8), random_state=seed).fit(X) for seed in (0, 1))
rows = np.random.RandomState(9).randn(400, X.shape[1])
exports = []

def run(line):
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        with contextlib.redirect_stderr(null):
            code = cli.main(line.split())
    assert code == 0, line

FIT = "fit ../X.npy --model model --estimator rqkmeans --codebook-sizes 8,8 --verbose 0"

def step(mode, i):
    if mode == "save":
        (old, new)[i % 2].save("model")
    elif mode == "catalogue":
        (old, new)[i % 2].catalogue_.save("model")
    elif mode == "extend":
        model = persistence.load("model")
        n = len(model.catalogue_) - len(X)
        model.extend(rows[n : n + 4])
        model.save("model")
    elif mode == "cli-fit":
        run(f"{FIT} --force --max-iter 2 --random-state {i % 2}")
    elif mode == "cli-extend":
        n = len(persistence.load("model").catalogue_) - len(X)
        np.save("rows.npy", rows[n : n + 4])
        run("extend rows.npy --model model --out new.npy --force")
    else:
        kind = ("ids", "strings")[i % 2]
        run(f"export model --out ids --format {kind} --force")

def check(mode):
    if mode == "cli-export":
        content = open("ids", "rb").read()
        assert content in exports
        return
    found = persistence.load("model")
    if mode == "catalogue":
        assert any((found.ids == each.ids_).all() for each in (old, new))
        return
    assert (found.transform(X) == found.codes_).all()
    if mode == "save":
        assert any((found.ids_ == each.ids_).all() for each in (old, new))
    if "extend" in mode:
        n = len(found.catalogue_)
        assert (n - len(X)) % 4 == 0
        while len(twin.catalogue_) < n:
            k = len(twin.catalogue_) - len(X)
            twin.extend(rows[k : k + 4])
        assert (found.catalogue_.ids == twin.catalogue_.ids[:n]).all()
        if n > len(X) + 300:
            old.save("model")

def in_child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return pid

def torture(mode):
    (old.catalogue_ if mode == "catalogue" else old).save("model")
    if mode == "cli-export":
        for i in (0, 1):
            step(mode, i)
            exports.append(open("ids", "rb").read())
    start = time.perf_counter()
    pid = in_child(lambda: [step(mode, i) for i in (0, 1)])
    assert os.waitpid(pid, 0)[1] == 0
    duration = (time.perf_counter() - start) / 2
    check(mode)
    for trial in range(n_trials):
        pid = in_child(lambda: [step(mode, trial + i) for i in range(10**6)])
        time.sleep(rng.uniform(0.1, 2.5) * duration)
        os.kill(pid, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1]), f"trial {trial} ended by itself"
        check(mode)
    step(mode, 0)
    check(mode)

for mode in sys.argv[2:]:
    twin = copy.deepcopy(old)
    os.mkdir(mode)
    os.chdir(mode)
    torture(mode)
    os.chdir("..")
"""
MODES = ["save", "catalogue", "extend", "cli-fit", "cli-extend", "cli-export"]


def test_killed_at_any_time_the_old_or_the_new_is_there(X, tmp_path, rounds, figure):
    np.save(tmp_path / "X.npy", X[:100])
    n_kills = rounds(2, 40)
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILL, str(n_kills), *MODES],
        cwd=tmp_path,
        env={**PACKAGE_ENV, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    files = {"rows.npy", "new.npy", "ids", "model"}
    for mode in MODES:
        left = set(os.listdir(tmp_path / mode)) - files
        assert not [name for name in left if not LITTER.fullmatch(name)]
        # The last save took away what those before it left in the folder.
        n_files = len(os.listdir(tmp_path / mode / "model"))
        assert n_files == 2 or mode == "cli-export"
        figure(f"kill -9: {mode}", f"{n_kills} kills: 0 unreadable, old or new intact")


# ---------------------------------------------------------------------------
# No room, no right


@contextmanager
def limited(n_bytes):
    """Let no file grow beyond some bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def mounted(path, options):
    """Mount a file system in memory, where that is allowed."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    if (
        not shutil.which("mount")
        or subprocess.run(command, capture_output=True).returncode
    ):
        pytest.skip("mounting is not allowed here")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("kind", ["model", "catalogue"])
def test_files_that_may_not_grow(models, tmp_path, rounds, kind):
    old, new = models["rqkmeans"], models["big"]
    if kind == "catalogue":
        old, new = old.catalogue_, new.catalogue_
    old.save(tmp_path / "saved")
    new.save(tmp_path / "new")
    before = contents(tmp_path / "saved")
    largest = max(path.stat().st_size for path in (tmp_path / "new").iterdir())
    for limit in np.linspace(0, largest - 1, rounds(10, 100)).astype(int).tolist():
        for path in (tmp_path / "saved", tmp_path / "none"):
            with (
                limited(limit),
                pytest.raises(OSError, match=f"too large: '{path}") as caught,
            ):
                new.save(path)
            assert caught.value.errno == errno.EFBIG
        assert contents(tmp_path / "saved") == before
        assert sorted(os.listdir(tmp_path)) == ["new", "saved"]


@contextmanager
def filled(disk, n_pages):
    """Leave only some pages of a disk free."""
    free = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes((free.f_bavail - n_pages) * free.f_bsize))
    yield
    (disk / "filler").unlink()


def test_a_full_disk(models, X, tmp_path, capsys, figure):
    np.save(tmp_path / "X.npy", X)
    with mounted(tmp_path / "disk", "size=256k") as disk:
        models["rqkmeans"].save(disk / "saved")
        before = contents(disk)
        for n_pages in range(4):
            for path in (disk / "saved", disk / "none"):
                with (
                    filled(disk, n_pages),
                    pytest.raises(OSError, match=f"No space left on device: '{path}"),
                ):
                    models["big"].save(path)
            assert contents(disk) == before
        for line in (
            f"fit {tmp_path}/X.npy --model {disk}/m --estimator rqkmeans "
            "--codebook-sizes 4,4 --verbose 0",
            f"extend {tmp_path}/X.npy --model {disk}/saved --out {disk}/a.json",
            f"export {disk}/saved --out {disk}/a.json",
        ):
            with filled(disk, 0):
                assert cli.main(line.split()) == 2
            error = capsys.readouterr().err.splitlines()[-1]
            assert error.startswith("sk-rqkplus: [Errno 28] No space left on device")
            assert contents(disk) == before
    figure("disk full", "save, fit, extend, export: clear error, old intact, no litter")


def test_a_disk_that_may_not_be_written(models, tmp_path):
    with mounted(tmp_path / "disk", "size=1m") as disk:
        models["rqkmeans"].save(disk / "saved")
        before = contents(disk)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for path in (disk / "saved", disk / "none"):
            with pytest.raises(OSError, match="Read-only file system: '") as caught:
                models["big"].save(path)
            assert caught.value.errno == errno.EROFS
        assert_array_equal(
            persistence.load(disk / "saved").ids_, models["rqkmeans"].ids_
        )
        assert contents(disk) == before


def test_a_folder_that_may_not_be_written(models):
    folder = Path(tempfile.mkdtemp())
    try:
        models["rqkmeans"].save(folder / "saved")
        before = contents(folder)
        for path in (folder, folder / "saved"):
            path.chmod(0o555)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                if os.getuid() == 0:
                    os.setgroups([])
                    os.setgid(65534)
                    os.setuid(65534)
                for path in (folder / "saved", folder / "none"):
                    with pytest.raises(PermissionError, match="Permission denied: '"):
                        models["big"].save(path)
                loaded = persistence.load(folder / "saved")
                assert_array_equal(loaded.ids_, models["rqkmeans"].ids_)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        assert contents(folder) == before
    finally:
        (folder / "saved").chmod(0o755)
        shutil.rmtree(folder)


# ---------------------------------------------------------------------------
# Malice


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def bomb():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a", b"\0" * 2**24)
    return content.getvalue()


def little(n):
    return n.to_bytes(8, "little")


def sparse(path, size, start=b""):
    """Make a file of many zeros, which take no room."""
    path.write_bytes(start)
    os.truncate(path, size)


def sign(folder, change):
    """Change a manifest and sign it anew."""
    content = json.loads((folder / MANIFEST).read_bytes())
    del content["sha256"]
    change(content)
    (folder / MANIFEST).write_bytes(_dump(content))


def put(folder, content):
    """Put other bytes in place of the arrays, and sign them."""
    sha256 = hashlib.sha256(content).hexdigest()
    [old] = folder.glob("arrays-*")
    old.unlink()
    name = f"arrays-{sha256[:16]}.safetensors"
    (folder / name).write_bytes(content)
    size = len(content)
    sign(folder, lambda c: c.update(arrays=dict(name=name, bytes=size, sha256=sha256)))


def rename(folder, name):
    sign(folder, lambda content: content["arrays"].update(name=str(name)))


def link(folder, name):
    [file] = folder.glob(name)
    file.rename(folder.parent / "elsewhere")
    file.symlink_to(folder.parent / "elsewhere")


def special(folder, name, make):
    [file] = folder.glob(name)
    file.unlink()
    make(file)


def values(folder, change):
    sign(folder, lambda content: change(content["values"]))


def tolerance(folder, text):
    """Write something else in place of a number."""
    content = (folder / MANIFEST).read_bytes()
    text = content.replace(b'"balance_tol": 0.0', b'"balance_tol": ' + text)
    (folder / MANIFEST).write_bytes(text)


DEEP = b'{"kind":' + b"[" * 2**20 + b"]" * 2**20 + b"}"
ATTACKS = {
    "a pickle as manifest": lambda f: (f / MANIFEST).write_bytes(
        pickle.dumps(Payload(f.parent / "ran"))
    ),
    "a pickle as arrays": lambda f: put(f, pickle.dumps(Payload(f.parent / "ran"))),
    "a pickle beside": lambda f: (f / "model.joblib").write_bytes(
        pickle.dumps(Payload(f.parent / "ran"))
    ),
    "a zip bomb": lambda f: put(f, bomb()),
    "a header of 2^60 bytes": lambda f: put(f, little(2**60) + b"{}"),
    "a header of 100 MB": lambda f: sparse(
        next(f.glob("arrays-*")), 2**28, little(100 * 2**20) + b'{"a":'
    ),
    "a signed header of 17 MB": lambda f: put(
        f, little(2**24 + 8) + b" " * (2**24 + 8)
    ),
    "a header without end": lambda f: put(f, little(2**16) + b"[" * 2**16),
    "arrays of 2^60 bytes": lambda f: put(
        f,
        little(64)
        + b'{"a":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}'.replace(
            b"%d", str(2**33).encode()
        ).ljust(64),
    ),
    "a manifest without end": lambda f: (f / MANIFEST).write_bytes(DEEP),
    "a manifest of 4 GB": lambda f: sparse(f / MANIFEST, 2**32, b'{"kind": "'),
    "a name with ..": lambda f: rename(f, "../arrays-0000000000000000.safetensors"),
    "an absolute name": lambda f: rename(f, f / "arrays-0000000000000000.safetensors"),
    "a name of the manifest": lambda f: rename(f, MANIFEST),
    "a name that ends in a line": lambda f: rename(
        f, next(f.glob("arrays-*")).name + "\n"
    ),
    "an array of another name": lambda f: values(
        f, lambda v: v["attributes"].update(mean_={"array": "../mean_"})
    ),
    "a linked manifest": lambda f: link(f, MANIFEST),
    "linked arrays": lambda f: link(f, "arrays-*"),
    "a pipe as manifest": lambda f: special(f, MANIFEST, os.mkfifo),
    "a pipe as arrays": lambda f: special(f, "arrays-*", os.mkfifo),
    "a device as manifest": lambda f: special(f, MANIFEST, zero),
    "a device as arrays": lambda f: special(f, "arrays-*", zero),
    "a folder as manifest": lambda f: special(f, MANIFEST, os.mkdir),
    "a folder as arrays": lambda f: special(f, "arrays-*", os.mkdir),
    "a key that is there twice": lambda f: (f / MANIFEST).write_bytes(
        (f / MANIFEST)
        .read_bytes()
        .replace(b'{\n  "arrays"', b'{\n  "version": 1,\n  "arrays"')
    ),
    "a number that is none": lambda f: (f / MANIFEST).write_bytes(
        (f / MANIFEST)
        .read_bytes()
        .replace(b'"balance_tol": 0.0', b'"balance_tol": NaN')
    ),
    "an infinite number": lambda f: (f / MANIFEST).write_bytes(
        (f / MANIFEST)
        .read_bytes()
        .replace(b'"balance_tol": 0.0', b'"balance_tol": 1e999')
    ),
    "a class of another package": lambda f: sign(
        f, lambda c: c.update(kind="os.system")
    ),
    "a class as a list": lambda f: sign(f, lambda c: c.update(kind=["RQKMeans"])),
    "a nested class": lambda f: values(
        f,
        lambda v: v["parameters"].update(
            tol={"estimator": {"class": "Popen", "parameters": {}, "attributes": {}}}
        ),
    ),
    "an unknown tag": lambda f: values(
        f, lambda v: v["parameters"].update(tol={"eval": "1"})
    ),
    "a method that is no method": lambda f: values(
        f, lambda v: v["attributes"].update(transform=1)
    ),
    "a cache of pickles": lambda f: values(
        f, lambda v: v["parameters"].update(memory="cache")
    ),
    "strings of a device": lambda f: values(
        f, lambda v: v["parameters"].update(device={"device": "tape:0"})
    ),
    "networks of 2^60 weights": lambda f: values(
        f, lambda v: v["parameters"].update(hidden_layer_sizes=[2**30])
    ),
    "many layers": lambda f: values(
        f, lambda v: v["parameters"].update(hidden_layer_sizes=[1] * 30_000)
    ),
}


def zero(path):
    """Make a device that never ends, where that is allowed."""
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    except OSError:
        pytest.skip("making a device is not allowed here")


@contextmanager
def little_memory(n_bytes):
    """Let the process take some bytes more than it has."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("this system does not say how much memory is taken")
    taken = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = taken * resource.getpagesize() + n_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("attack", ATTACKS)
def test_malicious_folders_are_refused(models, tmp_path, figure, attack):
    folder, network = tmp_path / "saved", "layers" in attack or "weights" in attack
    models["plus" if network else "rqkmeans"].save(folder)
    before = {*tmp_path.iterdir(), tmp_path / "elsewhere"}
    ATTACKS[attack](folder)
    signal.alarm(60)
    with little_memory(2**28):
        assert_refused(folder, attack)
        # Nor does a save to it follow, wait or run.
        with suppress(ValueError, OSError):
            models["rqkmeans"].save(folder)
    # A pickle would have made a folder beside.
    assert set(tmp_path.iterdir()) <= before
    figure(
        "malicious folders",
        f"{len(ATTACKS)} kinds: refused, nothing runs, nothing is written outside, "
        "less than 256 MB",
    )


def test_no_manifest_takes_much_memory(models, tmp_path, rounds):
    models["rqkmeans"].save(tmp_path / "saved")
    lists = b"[]," * (rounds(2**20, 2**23) // 3 - 9)
    (tmp_path / "saved" / MANIFEST).write_bytes(b'{"kind":[' + lists + b"[]]}")
    with little_memory(2**28):
        assert_refused(tmp_path / "saved", "a manifest of many lists")


# ---------------------------------------------------------------------------
# Forged: signed anew, so that only what it says can be wrong


def mutated(value, rng):
    """A value like another one, but wrong in some way."""
    if isinstance(value, np.ndarray):
        return mutated_array(value, rng)
    if isinstance(value, dict) and value and rng.rand() < 0.9:
        key = sorted(value)[rng.randint(len(value))]
        change = {**value, key: mutated(value[key], rng)}
        if rng.rand() < 0.1:
            del change[key]
        return change
    if isinstance(value, list) and value and rng.rand() < 0.8:
        at = rng.randint(len(value))
        return [*value[:at], mutated(value[at], rng), *value[at + 1 :]]
    others = [None, True, -1, 0, 1, 7, 2**31, 2**70, 0.5, -1e300, "", "suffix", [], {}]
    others += [[1, 2], {"tuple": [1]}, {"array": "mean_"}, {"float": "nan"}, "x" * 99]
    return others[rng.randint(len(others))]


def mutated_array(array, rng):
    kind = rng.randint(7)
    if kind == 0 or not array.size:
        types = ["f8", "f4", "f2", "i8", "i4", "u1", "u4", "?"]
        return array.astype(types[rng.randint(len(types))])
    if kind == 1:
        return array[: rng.randint(len(array))] if array.ndim else array[None]
    if kind == 2:
        return array.T.copy() if array.ndim > 1 else np.stack([array, array])
    if kind == 3:
        return np.concatenate([array, array]) if array.ndim else array * 0
    array = array.copy()
    if kind == 4:
        return rng.permutation(array) if array.ndim else array
    wrong = [-1, 0, 1, np.nan, np.inf, 3e38, 1e300, 2**31, 2**62, -(2**62)]
    with np.errstate(all="ignore"):
        flat, value = array.reshape(-1), wrong[rng.randint(len(wrong))]
        at = rng.randint(len(flat)) if kind == 5 else slice(None)
        flat[at] = np.array([value]).astype(array.dtype)[0]
    return array


def use(model, X):
    """Call what a loaded model is for; return what came out."""
    if isinstance(model, Catalogue):
        keys = model.keys
        codes = np.zeros((3, len(model.codebook_sizes)), dtype=int)
        new = ["x", "y", "z"] if keys is not None else None
        ids = model.extend(codes, np.zeros((3, 3)), keys=new)
        assert (model.find(ids) >= 0).all()
        model.merge(copy.deepcopy(model))
        return ids, model.codebook_sizes
    sizes = [len(book) for book in model.codebooks_]
    repr(model)
    codes = model.transform(X)
    assert ((codes >= 0) & (codes < sizes)).all()
    model.inverse_transform(codes)
    model.score(X)
    ids = model.predict(X)
    if hasattr(model, "catalogue_") and model.catalogue_.keys is None:
        model.extend(X)
    return ids, sizes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_forged_models_are_refused_or_work(
    models, X, tmp_path, rounds, figure, monkeypatch, kind
):
    # An attacker can compute the fingerprint of whatever model too.
    monkeypatch.setattr(BaseQuantizer, "_fingerprint", lambda self: self.fingerprint_)
    models[kind].save(tmp_path / "saved")
    versions = {**persistence.KINDS}
    name, arrays, plain = read_any_store(tmp_path / "saved", versions)
    n_loaded, n_rounds = 0, rounds(40, 1000)
    for seed in range(n_rounds):
        rng = np.random.RandomState(seed)
        if rng.rand() < 0.6:
            changed = mutated(arrays, rng), plain
        else:
            changed = arrays, mutated(plain, rng)
        if not all(isinstance(each, dict) for each in changed):
            continue
        if not all(isinstance(each, np.ndarray) for each in changed[0].values()):
            continue
        write_store(tmp_path / "forged", *changed, kind=name, version=1)
        said = refusal(tmp_path / "forged")
        if said is not None:
            assert "path=" in said, f"seed={seed}"
            continue
        n_loaded += 1
        try:
            ids, sizes = use(persistence.load(tmp_path / "forged"), X[:20])
        except (ValueError, TypeError):
            # What is wrong with a parameter is said where it is used.
            continue
        assert ((ids[:, :-1] >= 0) & (ids[:, :-1] < sizes)).all(), f"seed={seed}"
        assert len(np.unique(ids, axis=0)) == len(ids), f"seed={seed}"
    figure(
        f"forged and signed: {kind}",
        f"{n_rounds}: {n_loaded} load and work or say why, all others are refused",
    )
