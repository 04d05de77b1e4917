"""Training in two processes: the same rows seen, the same model but for rounding."""

import os
import pickle
import socket
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sk_rqkplus import RQKMeansPlus

PARAMS = {
    "codebook_sizes": (16, 16),
    "hidden_layer_sizes": (32,),
    "augment": "none",
    "balance": "last",
    "max_epochs": 6,
    "eval_every": 3,
    "batch_size": 125,  # 600 rows: the last batch is smaller, and all of them are odd
    "random_state": 0,
    "precision": "float32",
}

SCRIPT = """
import os, pickle, sys
import numpy as np
from sk_rqkplus import RQKMeansPlus
from sk_rqkplus._training import Rows

seen, batches = [], Rows.__iter__

def listen(self):
    for batch, weight in batches(self):
        seen.append(batch.numpy())
        yield batch, weight

Rows.__iter__ = listen
params = pickle.loads(bytes.fromhex(sys.argv[1]))
model = RQKMeansPlus(accelerate=True, **params).fit(np.load("X.npy"))
with open(f"rank{os.environ['RANK']}.pkl", "wb") as file:
    pickle.dump((model, seen), file)
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def two_processes(X, tmp_path_factory):
    """What two gloo processes fitted, and the batches that each of them saw."""
    pytest.importorskip("accelerate")
    folder = tmp_path_factory.mktemp("two")
    np.save(folder / "X.npy", X)
    blob = pickle.dumps(PARAMS).hex()
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    together.update(MASTER_PORT=str(free_port()), ACCELERATE_USE_CPU="true")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, blob],
            cwd=folder,
            env={**os.environ, **together, "RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    files = [folder / f"rank{rank}.pkl" for rank in range(2)]
    return [pickle.loads(file.read_bytes()) for file in files]


@pytest.fixture(scope="module")
def one_process(X):
    return RQKMeansPlus(**PARAMS).fit(X)


def test_every_row_is_seen_once_an_epoch(X, one_process, two_processes):
    (_, first), (_, second) = two_processes
    assert len(first) == len(second) == 5 * 6
    assert [len(batch) for batch in first[:5]] == [63, 63, 63, 63, 50]
    expected = np.sort((X - one_process.mean_).astype(np.float32), axis=0)
    for epoch in range(6):
        part = slice(5 * epoch, 5 * epoch + 5)
        rows = np.concatenate(first[part] + second[part])
        assert_array_equal(np.sort(rows, axis=0), expected)


def test_both_processes_end_with_the_model_of_one(X, one_process, two_processes):
    (first, _), (second, _) = two_processes
    assert first.best_epoch_ == second.best_epoch_ == one_process.best_epoch_ > 0
    assert_array_equal(first.ids_, second.ids_)
    for key, value in one_process.state_.items():
        assert_array_equal(first.state_[key], second.state_[key])
        assert_allclose(first.state_[key], value, atol=1e-5, err_msg=key)
    for row, other in zip(one_process.history_, first.history_, strict=True):
        for key in {"reconstruction_error", "perplexity", "train_loss"} & row.keys():
            assert_allclose(row[key], other[key], rtol=2e-3)
    assert (first.transform(X) == one_process.codes_).mean() > 0.99


def test_processes_see_the_same_losses(two_processes):
    (first, _), (second, _) = two_processes
    assert first.history_ == second.history_


def test_the_model_is_plain_afterwards(X, two_processes):
    model, _ = two_processes[0]
    assert_array_equal(model.predict(X), model.ids_)
    assert_array_equal(pickle.loads(pickle.dumps(model)).transform(X), model.codes_)


def test_processes_must_draw_the_same(X):
    with pytest.raises(ValueError, match="random_state=None should be an int with acc"):
        RQKMeansPlus(accelerate=True).fit(X)


def test_one_process_alone_trains_as_without(X, one_process):
    pytest.importorskip("accelerate")
    alone = RQKMeansPlus(**PARAMS, accelerate=True).fit(X)
    assert alone.history_ == one_process.history_
    assert_array_equal(alone.ids_, one_process.ids_)
