"""How much memory there is, from files made for it, and fits that are refused."""

import ctypes
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from sk_rqkplus import RQVAE, RQKMeans, RQKMeansPlus, _memory, _rqkmeans, _scores
from sk_rqkplus._footprint import bytes_to_fit
from sk_rqkplus._memory import available_bytes, check_memory, give_back

CPU = torch.device("cpu")
MB = 2**20


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Callable that lays out files of a system and returns what it has available."""
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(_memory, "_limits", lambda root: iter(()))

    def available(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return available_bytes(CPU, tmp_path)

    return available


MEMINFO = {
    "proc/meminfo": "MemTotal:  4096 kB\nMemAvailable:   2048 kB\nHugePages: 0\n"
}


def test_the_system_tells_what_is_available(system):
    assert system(MEMINFO) == 2 * MB


def test_nothing_is_known_without_files(system):
    assert system({}) is None


def test_elsewhere_nothing_is_checked(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    assert available_bytes(CPU) is None
    check_memory(2**80, 1, CPU, "Buy some.")


@pytest.mark.parametrize(
    "line, folder, names",
    [
        ("0::/jobs/one", "sys/fs/cgroup", ("max", "current")),
        (
            "4:memory:/jobs/one",
            "sys/fs/cgroup/memory",
            ("limit_in_bytes", "usage_in_bytes"),
        ),
    ],
)
def test_the_tightest_control_group_counts(system, line, folder, names):
    most, used = (f"memory.{name}" for name in names)
    files = {
        **MEMINFO,
        "proc/self/cgroup": f"1:cpu:/\n{line}\n",
        f"{folder}/jobs/one/{most}": "max\n",
        f"{folder}/jobs/one/{used}": "1000\n",
        f"{folder}/jobs/{most}": "1500000\n",
        f"{folder}/jobs/{used}": "1000000\n",
        f"{folder}/jobs/memory.stat": "anon 5\ninactive_file 250000\nactive_file 40\n",
    }
    assert system(files) == 1_500_000 - 1_000_000 + 250_040


def test_a_group_that_is_over_its_limit_leaves_nothing(system):
    files = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": "10\n",
        "sys/fs/cgroup/memory.current": "20\n",
    }
    assert system(files) == 0


def test_limits_of_the_process_count(monkeypatch, tmp_path):
    resource = pytest.importorskip("resource")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/status").write_text("VmSize: 3 kB\nVmData: 1 kB\n")
    limits = {resource.RLIMIT_AS: 10_240, resource.RLIMIT_DATA: resource.RLIM_INFINITY}
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limits[which], -1))
    assert list(_memory._limits(tmp_path)) == [10_240 - 3 * 1024]
    limits[resource.RLIMIT_DATA] = 4096
    assert list(_memory._limits(tmp_path)) == [10_240 - 3 * 1024, 4096 - 1024]


def test_the_system_of_this_test_has_memory():
    found = available_bytes(CPU)
    assert found is None or found > 10 * MB


ADVICE = {
    RQKMeans: "Set max_samples, which",
    RQKMeansPlus: "Give rqkmeans=RQKMeans\\(max_samples=...\\), or fit on fewer rows",
    RQVAE: "Fit on fewer rows",
}


@pytest.mark.parametrize(
    "est",
    [
        RQKMeans((16, 16)),
        RQKMeansPlus((16, 16), max_epochs=1),
        RQVAE((16, 16), max_epochs=1),
    ],
    ids=lambda e: type(e).__name__,
)
def test_a_fit_that_does_not_fit_is_refused_before_it_begins(X, est, monkeypatch):
    monkeypatch.setattr(_memory, "available_bytes", lambda device: 100_000)
    with pytest.raises(
        MemoryError,
        match=r"n_samples=600 need about 0\.\d+ GiB, which should be <= 0\.00 GiB, the "
        rf"memory available\. {ADVICE[type(est)]}",
    ):
        est.fit(X)
    assert not hasattr(est, "codebooks_")


@pytest.mark.parametrize("needed, what", [(60, None), (80, "warns"), (140, "warns")])
def test_what_may_not_be_enough_is_told_of(X, monkeypatch, needed, what):
    monkeypatch.setattr(_memory, "available_bytes", lambda device: 100 * MB)
    monkeypatch.setattr(RQKMeans, "_bytes_to_fit", lambda self, X: needed * MB)
    if what is None:
        with warnings.catch_warnings(action="error"):
            RQKMeans((4, 4), random_state=0).fit(X)
        return
    message = rf"need about {needed / 1024:.2f} GiB, which should be well below 0\.10 G"
    with pytest.warns(UserWarning, match=message) as record:
        RQKMeans((4, 4), random_state=0).fit(X)
    assert record[0].filename == __file__


def test_a_sample_needs_less():
    n_rows, n_features = 10**7, 384
    options = {"n_features": n_features, "n_codewords": 256}
    whole = bytes_to_fit(n_rows, **options, n_fit=n_rows)
    part = bytes_to_fit(n_rows, **options, n_fit=200_000)
    # Residuals of all rows, in float32.
    assert whole > n_rows * n_features * 4
    assert part < whole / 4


def test_figures_follow_peaks_that_were_measured():
    """Peaks of anonymous memory in MB of fits with two threads, within 1.5 of them."""
    free = {"balanced": False}
    measured = [
        (60_000, 768, 256, free, 709),
        (200_000, 256, 512, free, 548),
        (21_975, 128, 512, {"n_made": 65_536}, 582),
        (180_614, 768, 256, {}, 1909),
        (477_047, 256, 256, {}, 2268),
        (505_098, 64, 256, {}, 1624),
        (27_849, 32, 256, free, 84),
        (7255, 16, 512, {}, 198),
        (34_760, 16, 512, {}, 566),
        (95_571, 32, 256, {"n_fit": 19_114}, 509),
        (109_873, 16, 512, {"n_fit": 21_974}, 979),
        (50_000, 32, 1024, {"n_made": 131_072}, 1340),
        (20_000, 64, 2048, {"n_made": 262_144}, 2451),
        (1_000_000, 384, 256, {"n_fit": 100_000}, 906),
        (4_000_000, 384, 256, {"n_fit": 100_000}, 967),
        (10_000_000, 384, 256, {"n_fit": 100_000}, 1697),
    ]
    for n_rows, n_features, n_codewords, options, peak in measured:
        options = {"n_fit": n_rows, **options}
        needed = bytes_to_fit(n_rows, n_features, n_codewords, **options)
        assert peak / 1.5 < needed / 10**6 < peak * 1.5


def test_a_check_of_memory_names_both_figures(monkeypatch):
    monkeypatch.setattr(_memory, "available_bytes", lambda device: 3 * 2**30)
    check_memory(2 * 2**30, 5, CPU, "Less.")
    with pytest.raises(MemoryError, match=r"n_samples=5 need about 5\.00 GiB.*3\.00"):
        check_memory(5 * 2**30, 5, CPU, "Less.")


def private_memory():
    status = Path("/proc/self/status")
    if "RssAnon" not in (status.read_text() if status.exists() else ""):
        pytest.skip("RssAnon is in no /proc/self/status")
    (line,) = (s for s in status.read_text().splitlines() if s.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def test_memory_that_is_freed_in_pieces_goes_back():
    private_memory()
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("the C library has no malloc_trim")
    # Below what the C library maps by itself, with others between any two.
    pieces = [bytearray(100_000) for _ in range(2_000)]
    del pieces[1::2]
    before = private_memory()
    give_back()
    assert private_memory() < before - 50 * MB
    assert len(pieces) == 1_000


def test_nothing_is_given_back_where_that_is_not_known(monkeypatch):
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("not here"))
    give_back()


def test_fits_of_files_give_memory_back(monkeypatch):
    calls, at_end = [], []
    monkeypatch.setattr(_scores, "give_back", lambda: calls.append(1))
    monkeypatch.setattr(_rqkmeans, "give_back", lambda: at_end.append(1))
    monkeypatch.setattr(_scores, "GIVE_BACK_ROWS", 256)
    X = np.random.RandomState(0).normal(size=(2000, 8)).astype(np.float32)
    RQKMeans((8, 8), balance="all", random_state=0).fit(X)
    assert calls == at_end == []
    RQKMeans((8, 8), balance="all", max_samples=500, random_state=0).fit(X)
    assert len(calls) > 10
    assert len(at_end) == 1
