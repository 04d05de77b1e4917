"""Data that several tests share."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import sk_rqkplus
from sk_rqkplus import RQKMeans, _threads
from sk_rqkplus.datasets import make_catalogue

SHARED = Path(__file__).parents[2] / "shared"
# Other processes import the package from where this one did.
PACKAGE_ENV = {**os.environ, "PYTHONPATH": str(Path(sk_rqkplus.__file__).parents[1])}


FIGURES = Path(__file__).parents[1] / "benchmarks" / "results" / "torture.md"


def pytest_addoption(parser):
    parser.addoption(
        "--torture",
        action="store_true",
        help="run the torture tests in full and record their figures",
    )


@pytest.fixture
def rounds(request):
    """Callable that picks a number of rounds: a small share, or the whole torture."""
    full = request.config.getoption("torture")
    return lambda share, whole: whole if full else share


@pytest.fixture
def figure(request):
    """Callable that records what a torture test measured, where it ran in full."""

    def record(test, measured):
        if not request.config.getoption("torture"):
            return
        lines = FIGURES.read_text().splitlines()[2:] if FIGURES.exists() else []
        rows = dict(line.strip("| ").split(" | ", 1) for line in lines)
        rows[test] = measured
        table = [f"| {test} | {rows[test]} |" for test in sorted(rows)]
        FIGURES.write_text("\n".join(["| test | figure |", "|---|---|", *table, ""]))

    return record


def shared_file(name):
    path = SHARED / "data" / name
    if not path.exists():
        pytest.skip(f"../shared/data/{name} is not beside the checkout")
    return path


@pytest.fixture(scope="session")
def industrial():
    return np.load(shared_file("industrial.npy"))


@pytest.fixture(scope="session")
def trace():
    with np.load(shared_file("reference_trace.npz")) as file:
        trace = {key: file[key] for key in file.files}
    trace["config"] = json.loads(str(trace["config"]))
    return trace


@pytest.fixture(scope="session")
def X():
    """A small catalogue with some structure, off the origin."""
    data = make_catalogue(600, 24, branching=(6, 6), random_state=0).data
    return (data + 3).astype(np.float32)


@pytest.fixture(scope="session")
def fitted(X):
    return RQKMeans((16, 16, 16), random_state=0).fit(X)


@pytest.fixture
def two_threads(monkeypatch):
    """Callable that sets the number of torch threads, which is restored.

    Few rows have several chunks meanwhile, for threads to share.
    """
    monkeypatch.setattr(_threads, "MIN_CHUNK_ROWS", 256)
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
