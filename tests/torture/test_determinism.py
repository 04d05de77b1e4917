"""Codes and IDs are those of the rows, whatever the machinery around them."""

import pickle
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import PACKAGE_ENV
from joblib import Parallel, delayed
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sk_rqkplus import RQVAE, RQKMeans, RQKMeansPlus
from sk_rqkplus.datasets import make_catalogue

N_FEATURES, SIZES = 16, (32, 32, 32)


def rows_of(n_rows, seed):
    """Families of rows that float64 changes nothing of, off the origin."""
    rng = np.random.RandomState(seed)
    centres = rng.normal(size=(200, N_FEATURES)).astype(np.float32) + 1
    rows = rng.standard_normal((n_rows, N_FEATURES)).astype(np.float32)
    rows *= np.float32(0.3)
    rows += centres[rng.randint(len(centres), size=n_rows)]
    return rows


def encode(estimator, X):
    return estimator.transform(X), estimator.predict(X)


def assert_same(found, expected, what):
    for name, one, other in zip(("codes", "IDs"), found, expected, strict=True):
        differ = (one != other).any(axis=1)
        assert not differ.any(), f"{differ.sum()} {name} differ by {what}"


def by_batches(estimator, X, sizes):
    """Codes and IDs, a batch at a time."""
    bounds = np.cumsum(np.resize(sizes, len(X)))
    parts = np.split(X, bounds[bounds < len(X)])
    codes, ids = zip(*(encode(estimator, part) for part in parts), strict=True)
    return np.concatenate(codes), np.concatenate(ids)


def seeds(rounds):
    return range(rounds(1, 10))


def ways(rq, X, seed):
    """What is done to rows or to the model, and the codes and IDs of all rows then."""
    order = np.random.RandomState(seed).permutation(len(X))
    back = np.argsort(order)
    yield "a permutation", [part[back] for part in encode(rq, X[order])]
    yield "batches", by_batches(rq, X, [1, 7, 500, 2049, 30_000])
    yield "Fortran order", encode(rq, np.asfortranarray(X))
    yield "strides", encode(rq, np.repeat(X, 2, axis=1)[:, ::2])
    yield "float64", encode(rq, X.astype(np.float64))
    yield "lists", encode(rq, X.tolist())
    yield "pickle", encode(pickle.loads(pickle.dumps(rq)), X)
    with tempfile.TemporaryDirectory() as folder:
        rq.save(folder)
        yield "save and load", encode(RQKMeans.load(folder), X)


def test_the_way_rows_come_in_changes_nothing(rounds, figure, two_threads):
    n_rows = rounds(4000, 100_000)
    for seed in seeds(rounds):
        X = rows_of(n_rows, seed)
        rq = RQKMeans(SIZES, max_samples=50_000, random_state=seed).fit(X)
        expected = rq.codes_, rq.ids_
        for threads in (1, 2, 8):
            two_threads(threads)
            assert_same(encode(rq, X), expected, f"{threads} threads, seed {seed}")
        for what, found in ways(rq, X, seed):
            assert_same(found, expected, f"{what}, seed {seed}")
    n_seeds = len(seeds(rounds))
    figure(
        "determinism: rows",
        f"0 of {n_seeds} x {n_rows:,} rows differ over 3 thread counts, a permutation, "
        "5 batch sizes, Fortran order, strides, float64, lists, pickle, save and load",
    )


@pytest.mark.parametrize("cls", [RQKMeans, RQKMeansPlus, RQVAE])
def test_fits_are_the_same_for_any_number_of_threads(rounds, two_threads, cls):
    X = rows_of(rounds(1500, 20_000), 0)
    short = {} if cls is RQKMeans else {"max_epochs": 2, "eval_every": 1}
    fits = []
    for threads in (1, 2, 8):
        two_threads(threads)
        fits.append(cls((16, 16), random_state=0, **short).fit(X))
        assert torch.get_num_threads() == threads
    assert len({fit.fingerprint_ for fit in fits}) == 1
    for fit in fits[1:]:
        np.testing.assert_array_equal(fit.ids_, fits[0].ids_)


PROCESS = """
import sys
import numpy as np
from sk_rqkplus import RQKMeans
X = np.load(sys.argv[1])
rq = RQKMeans((32, 32, 32), max_samples=50_000, random_state=0).fit(X)
np.savez(sys.argv[2], codes=rq.transform(X), ids=rq.predict(X))
"""


def test_two_processes_agree(rounds, figure, tmp_path):
    n_rows = rounds(3000, 1_000_000)
    X = rows_of(n_rows, 0)
    np.save(tmp_path / "X.npy", X)
    for name, threads in (("one", "1"), ("two", "2")):
        subprocess.run(
            [sys.executable, "-c", PROCESS, tmp_path / "X.npy", tmp_path / name],
            env={**PACKAGE_ENV, "OMP_NUM_THREADS": threads},
            check=True,
        )
    one, two = (np.load(tmp_path / f"{name}.npz") for name in ("one", "two"))
    assert_same((one["codes"], one["ids"]), (two["codes"], two["ids"]), "process")
    assert len(np.unique(one["ids"], axis=0)) == n_rows
    figure(
        "determinism: processes", f"0 of {n_rows:,} rows differ between two processes"
    )


def test_searches_agree_for_any_number_of_jobs(rounds):
    X = rows_of(rounds(400, 10_000), 0)
    results = []
    for n_jobs in (1, 2):
        search = GridSearchCV(
            RQKMeans((8, 8), random_state=0),
            {"codebook_sizes": [(4, 4), (8, 8)]},
            cv=2,
            n_jobs=n_jobs,
        ).fit(X)
        ids = Parallel(n_jobs=n_jobs)(
            delayed(search.best_estimator_.predict)(part) for part in np.split(X, 2)
        )
        results.append((search.cv_results_["mean_test_score"], np.concatenate(ids)))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])


def test_rows_behind_pca_are_known_one_by_one(rounds, figure):
    n_rows, n_single = rounds(2000, 100_000), rounds(200, 20_000)
    for seed in seeds(rounds):
        X = make_catalogue(n_rows, 24, random_state=seed).data.astype(np.float32)
        pipe = make_pipeline(
            PCA(8, random_state=0), RQKMeans((16, 16, 16), random_state=0)
        ).fit(X)
        ids = pipe[-1].ids_
        np.testing.assert_array_equal(pipe.predict(X), ids)
        chosen = np.random.RandomState(seed).choice(n_rows, n_single, replace=False)
        singly = np.concatenate([pipe.predict(X[[row]]) for row in chosen])
        differ = (singly != ids[chosen]).any(axis=1)
        assert not differ.any(), f"{differ.sum()} IDs differ, seed {seed}"
    figure(
        "determinism: Pipeline behind PCA",
        f"0 of {len(seeds(rounds))} x {n_single:,} rows differ, one by one",
    )


@pytest.mark.parametrize("cls", [RQKMeans, RQKMeansPlus])
def test_threads_encode_as_one_does(rounds, cls):
    X = rows_of(rounds(3000, 100_000), 0)
    short = {} if cls is RQKMeans else {"max_epochs": 1}
    rq = cls((16, 16, 16), random_state=0, **short).fit(X)
    expected = rq.codes_, rq.ids_
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: encode(rq, X), range(rounds(8, 64))):
            assert_same(found, expected, "a thread among eight")


@pytest.mark.parametrize("cls", [RQKMeans, RQKMeansPlus, RQVAE])
def test_fits_in_two_threads_do_not_meet(rounds, cls):
    X = rows_of(rounds(800, 20_000), 0)
    short = {} if cls is RQKMeans else {"max_epochs": 2, "eval_every": 1}
    make = lambda seed: cls((8, 8), random_state=seed, **short)  # noqa: E731
    alone = [make(seed).fit(X).fingerprint_ for seed in (0, 1)]
    states = (
        torch.get_rng_state(),
        np.random.get_state()[1].copy(),  # noqa: NPY002
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
    )
    with ThreadPoolExecutor(2) as pool:
        for _ in range(rounds(1, 10)):
            fits = list(pool.map(lambda seed: make(seed).fit(X), (0, 1)))
            assert [fit.fingerprint_ for fit in fits] == alone
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert torch.get_num_threads() == states[2]
    assert torch.get_float32_matmul_precision() == states[3]


def test_a_fit_without_a_seed_leaves_the_generators_of_torch_alone():
    X = rows_of(300, 0)
    before = torch.get_rng_state()
    RQKMeansPlus((4, 4), max_epochs=1, dropout=0.1, random_state=0).fit(X)
    RQVAE((4, 4), max_epochs=1, dropout=0.1, random_state=0).fit(X)
    assert torch.equal(torch.get_rng_state(), before)
