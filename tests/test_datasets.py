"""Checks on the API catalogue and on the synthetic one."""

import hashlib
import os
import pkgutil
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.utils import Bunch, check_random_state

from sk_rqkplus import datasets
from sk_rqkplus.datasets import load_api_catalogue, make_catalogue

FRESH_PROCESS = """
import sys
sys.path[:0] = {path!r}
from sklearn.experimental import enable_halving_search_cv, enable_iterative_imputer
from sk_rqkplus.datasets import load_api_catalogue
from test_datasets import fingerprint
sys.stdout.write(fingerprint(load_api_catalogue()))
"""


def fingerprint(catalogue):
    digest = hashlib.sha256(catalogue.data.tobytes())
    digest.update("\0".join([*catalogue.names, *catalogue.texts]).encode())
    return digest.hexdigest()


def global_state():
    state = check_random_state(None).get_state(legacy=False)["state"]
    return state["pos"], *state["key"]


@pytest.fixture(scope="module")
def loaded():
    """Return the catalogue, the warnings it leaked and whether it drew numbers."""
    before = global_state()
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        catalogue = load_api_catalogue()
    return Bunch(catalogue=catalogue, leaked=leaked, drew=before != global_state())


@pytest.fixture(scope="module")
def api(loaded):
    return loaded.catalogue


@pytest.fixture(scope="module")
def neighbours(api):
    """Return a function from a name to the names nearest to it."""
    names = list(api.names)

    def nearest(name, n_neighbours=5):
        row = names.index(name)
        similarity = api.data @ api.data[row]
        similarity[row] = -1
        return {names[i] for i in np.argsort(-similarity)[:n_neighbours]}

    return nearest


# ---------------------------------------------------------------------------
# The API catalogue


def test_api_shapes(api):
    assert 3_500 <= len(api.names) <= 8_000
    assert api.data.shape == (len(api.names), 128)
    assert api.data.dtype == np.float32
    assert len(api.texts) == len(api.names)
    assert f"{len(api.names)} items" in api.DESCR
    assert f"numpy {np.__version__}" in api.DESCR


def test_api_rows_have_unit_norm(api):
    assert_allclose(np.linalg.norm(api.data.astype(float), axis=1), 1, atol=1e-6)


def test_api_names_are_sorted_and_unique(api):
    assert list(api.names) == sorted(set(api.names))


def test_api_covers_the_four_packages(api):
    packages, counts = np.unique(
        [name.split(".")[0] for name in api.names], return_counts=True
    )
    assert list(packages) == ["numpy", "scipy", "sklearn", "torch"]
    assert counts.min() >= 400


@pytest.mark.parametrize(
    "name",
    [
        "numpy.linalg.svd",
        "scipy.stats.norm",
        "sklearn.cluster.KMeans",
        "torch.nn.Linear",
    ],
)
def test_api_holds_what_everybody_knows(api, name):
    assert name in api.names


def test_api_names_an_object_once(api):
    objects = [pkgutil.resolve_name(name) for name in api.names]
    assert len({id(item) for item in objects}) == len(objects)


def test_api_prefers_the_shortest_name(api):
    assert np.abs is np.absolute
    assert "numpy.abs" in api.names
    assert "numpy.absolute" not in api.names


@pytest.mark.parametrize(
    "pattern", [r"\._", r"\.tests?\.", r"^torch\.distributed", r"^scipy\.odr"]
)
def test_api_holds_public_names_only(api, pattern):
    assert not [name for name in api.names if re.search(pattern, name)]


def test_api_texts_hold_prose_only(api):
    assert min(map(len, api.texts)) > 80
    assert not [text for text in api.texts if re.search(r"0x[0-9a-fA-F]{5,}", text)]
    assert not [text for text in api.texts if re.search(r"^\s*>>> ", text, re.M)]


def test_api_text_belongs_to_its_name(api):
    text = api.texts[list(api.names).index("torch.nn.Linear")]
    assert text.startswith("Applies an affine linear transformation")


def test_api_has_few_identical_rows(api):
    n_distinct = len(np.unique(api.data, axis=0))
    assert 0.98 * len(api.data) < n_distinct < len(api.data)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("sklearn.cluster.KMeans", "sklearn.cluster.MiniBatchKMeans"),
        ("sklearn.decomposition.PCA", "sklearn.decomposition.IncrementalPCA"),
        ("sklearn.metrics.f1_score", "sklearn.metrics.fbeta_score"),
        ("torch.nn.LSTM", "torch.nn.GRU"),
        ("torch.optim.Adam", "torch.optim.AdamW"),
        ("torch.nn.functional.cross_entropy", "torch.nn.CrossEntropyLoss"),
        ("scipy.signal.butter", "scipy.signal.cheby1"),
        ("scipy.stats.norm", "scipy.stats.skewnorm"),
        ("scipy.fft.fft", "scipy.fft.ifft"),
        ("numpy.random.normal", "numpy.random.standard_normal"),
        ("numpy.linalg.svd", "torch.linalg.svd"),
        ("numpy.ma.median", "numpy.median"),
    ],
)
def test_api_neighbours_make_sense(neighbours, name, expected):
    assert expected in neighbours(name)


def test_api_warns_of_nothing(loaded):
    assert loaded.leaked == []


def test_api_leaves_the_global_generator_alone(loaded):
    assert not loaded.drew


@pytest.mark.parametrize("n_threads", ["1", "2"])
def test_api_is_the_same_in_a_fresh_process(api, n_threads):
    # All warnings are errors there, and the experimental estimators are enabled.
    environment = os.environ | {"PYTHONHASHSEED": n_threads}
    for library in ("OMP", "OPENBLAS", "MKL"):
        environment[f"{library}_NUM_THREADS"] = n_threads
    here = Path(__file__).resolve().parent
    code = FRESH_PROCESS.format(path=[str(here.parent), str(here)])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == fingerprint(api)


def test_name_is_split_at_dots_underscores_and_capitals():
    words = datasets._document("torch.nn.LSTMCell", "text").split()
    assert words == ["nn", *["LSTMCell", "LSTM", "Cell"] * 3, "text"]
    words = datasets._document("sklearn.metrics.f1_score", "text").split()
    assert words == ["metrics", *["f1_score", "f1", "score"] * 3, "text"]


def test_text_loses_what_varies():
    def documented():
        pass

    documented.__doc__ = """Use ``{'b', 'a'}`` of <object at 0x7f3a2b1c>.

    Examples
    --------
    >>> random()
    0.123

    Notes
    -----
    Kept.
    """
    assert datasets._text(documented).split() == (
        "Use 'a', 'b' of <object at >. Notes ----- Kept.".split()
    )


def test_inherited_docstring_is_no_text():
    class Documented:
        """Say something about the class."""

    assert datasets._text(Documented) == "Say something about the class."
    assert datasets._text(Documented()) == ""


def test_namespaces_a_version_lacks_are_passed_over(monkeypatch):
    monkeypatch.setattr(datasets, "_NAMESPACES", {"numpy": " fft no_such_module"})
    assert [module.__name__ for module in datasets._namespaces()] == [
        "numpy",
        "numpy.fft",
    ]


@pytest.mark.parametrize(
    "n_features, error, message",
    [
        (0, ValueError, r"n_features=0 should be >= 1\. Give the length"),
        (8.5, TypeError, r"n_features=8\.5 should be an int\. Give the length"),
    ],
)
def test_api_bad_length_is_named(n_features, error, message):
    with pytest.raises(error, match=message):
        load_api_catalogue(n_features)


def test_embeddings_longer_than_the_data_are_named():
    with pytest.raises(ValueError, match="n_features=4 should be <= 3, the number"):
        datasets._embed(np.eye(3), 4, 0)


# ---------------------------------------------------------------------------
# The synthetic catalogue


def test_made_shapes():
    catalogue = make_catalogue(300, 16, branching=(4, 3, 2), random_state=0)
    assert catalogue.data.shape == (300, 16)
    assert catalogue.data.dtype == np.float32
    assert catalogue.paths.shape == (300, 3)
    assert catalogue.paths.dtype == np.int32
    assert_array_equal(catalogue.paths.min(axis=0), [0, 0, 0])
    assert_array_equal(catalogue.paths.max(axis=0), [3, 2, 1])


def test_made_rows_have_unit_norm():
    data = make_catalogue(random_state=0).data.astype(float)
    assert_allclose(np.linalg.norm(data, axis=1), 1, atol=1e-6)


def test_branches_have_unequal_sizes():
    # Two branches at a ratio of 1 : 1/2 hold 2/3 and 1/3 of the rows.
    paths = make_catalogue(30_000, 2, branching=(2, 3), random_state=0).paths
    assert_allclose(np.bincount(paths[:, 0]) / 30_000, [2 / 3, 1 / 3], atol=0.01)
    expected = np.array([6, 3, 2]) / 11
    assert_allclose(np.bincount(paths[:, 1]) / 30_000, expected, atol=0.01)


def test_each_level_is_spread_times_as_wide():
    # Independent offsets of mean square length 1, 1/4 and 1/16 per level: before the
    # rows are scaled, siblings at level 1 are 2 * (1/4 + 1/16) apart, rows of one leaf
    # 2 * 1/16, and the squared length of a row is 21/16 on average.
    made = make_catalogue(2000, 2000, branching=(3, 3), spread=0.5, random_state=0)
    distance = 2 - 2 * made.data[:300].astype(float) @ made.data[:300].T
    same = made.paths[:300, None] == made.paths[None, :300]
    other_row = ~np.eye(300, dtype=bool)
    leaf = distance[same.all(axis=2) & other_row].mean()
    sibling = distance[same[..., 0] & ~same[..., 1]].mean()
    stranger = distance[~same[..., 0]].mean()
    assert_allclose(leaf, 2 / 21, rtol=0.1)
    assert_allclose(sibling, 10 / 21, rtol=0.15)
    assert_allclose(stranger, 2, rtol=0.15)


def test_one_branch_is_one_cluster():
    made = make_catalogue(50, 32, branching=(1,), spread=1e-3, random_state=0)
    assert_array_equal(made.paths, np.zeros((50, 1)))
    assert (made.data @ made.data.T).min() > 0.9999


def test_rows_come_in_no_order():
    paths = make_catalogue(1000, 2, random_state=0).paths
    assert not np.array_equal(np.sort(paths[:, 0]), paths[:, 0])


@pytest.mark.parametrize("share", [0.0, 0.01, 0.29, 0.5])
def test_share_of_duplicates_is_exact(share):
    data = make_catalogue(200, 8, duplicates=share, random_state=0).data
    assert 200 - len(np.unique(data, axis=0)) == round(200 * share)


def test_copies_keep_the_path_of_their_original():
    made = make_catalogue(200, 8, duplicates=0.5, random_state=0)
    both = np.hstack([made.data, made.paths])
    assert len(np.unique(both, axis=0)) == len(np.unique(made.data, axis=0)) == 100


def test_duplicates_leave_the_originals_alone():
    plain = make_catalogue(200, 8, random_state=0)
    copied = make_catalogue(200, 8, duplicates=0.25, random_state=0)
    assert (plain.data == copied.data).all(axis=1).sum() == 150


def test_one_row_stays_an_original():
    assert make_catalogue(1, 4, duplicates=0.9, random_state=0).data.shape == (1, 4)


@pytest.mark.parametrize("n_values", [1, 7 * 8, 10**9])
def test_blocks_change_nothing(monkeypatch, n_values):
    params = dict(branching=(5, 4, 3), duplicates=0.2, random_state=3)
    expected = make_catalogue(500, 8, **params)
    monkeypatch.setattr(datasets, "_CHUNK_VALUES", n_values)
    made = make_catalogue(500, 8, **params)
    assert_array_equal(made.data, expected.data)
    assert_array_equal(made.paths, expected.paths)


def test_a_tree_too_large_to_hold():
    # 10**12 leaves; only those that are visited are drawn.
    made = make_catalogue(100, 4, branching=(10_000,) * 3, random_state=0)
    assert made.paths.max() < 10_000
    assert len(np.unique(made.data, axis=0)) == 100


def test_same_seed_same_catalogue():
    first, second = (make_catalogue(100, 8, random_state=7) for _ in range(2))
    assert_array_equal(first.data, second.data)
    assert_array_equal(first.paths, second.paths)


def test_other_seed_other_catalogue():
    first, second = (make_catalogue(100, 8, random_state=seed) for seed in (0, 1))
    assert not np.isin(first.data, second.data).all()


def test_generator_instance_moves_on():
    rng = np.random.RandomState(0)
    first, second = (make_catalogue(100, 8, random_state=rng) for _ in range(2))
    expected = make_catalogue(100, 8, random_state=0)
    assert_array_equal(first.data, expected.data)
    assert not np.array_equal(first.data, second.data)


def test_no_seed_leaves_the_global_generator_alone():
    before = global_state()
    first, second = make_catalogue(50, 8), make_catalogue(50, 8)
    assert not np.array_equal(first.data, second.data)
    assert global_state() == before


@pytest.mark.parametrize(
    "params, error, message",
    [
        ({"n_samples": 0}, ValueError, r"n_samples=0 should be >= 1\. Ask for"),
        ({"n_samples": 9.0}, TypeError, r"n_samples=9\.0 should be an int\. Ask"),
        ({"n_features": 1}, ValueError, r"n_features=1 should be >= 2\. Unit rows"),
        ({"branching": 8}, TypeError, r"branching=8 should be a sequence\. Give"),
        ({"branching": "8"}, TypeError, r"branching='8' should be a sequence\. Give"),
        ({"branching": ()}, ValueError, r"branching=\(\) should not be empty\. Give"),
        ({"branching": (8, 0)}, ValueError, r"branching\[1\]=0 should be >= 1\. Give"),
        ({"branching": (8, 2.5)}, TypeError, r"branching\[1\]=2\.5 should be an int"),
        ({"spread": 0}, ValueError, r"spread=0 should be in \(0, 1\]\. Give"),
        ({"spread": 1.5}, ValueError, r"spread=1\.5 should be in \(0, 1\]\. Give"),
        ({"spread": np.nan}, ValueError, r"spread=nan should be in \(0, 1\]\. Give"),
        ({"spread": "0.5"}, TypeError, r"spread='0\.5' should be a float\. Give"),
        ({"duplicates": 1}, ValueError, r"duplicates=1 should be in \[0, 1\)\. Give"),
        ({"duplicates": -0.1}, ValueError, r"duplicates=-0\.1 should be in \[0, 1\)"),
        ({"duplicates": None}, TypeError, r"duplicates=None should be a float\. Give"),
    ],
)
def test_bad_parameters_are_named(params, error, message):
    with pytest.raises(error, match=message):
        make_catalogue(**params)
