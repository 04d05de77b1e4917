"""RQVAE: a random start, k-means of its latents, and what all estimators do."""

import joblib
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone

from sk_rqkplus import RQVAE
from sk_rqkplus.metrics import collision_rate, perplexity


def rqvae(**params):
    defaults = {
        "codebook_sizes": (16, 16, 16),
        "latent_dim": 6,
        "hidden_layer_sizes": (32,),
        "max_epochs": 60,
        "eval_every": 10,
        "batch_size": 128,
        "random_state": 0,
    }
    return RQVAE(**{**defaults, **params})


@pytest.fixture(scope="module")
def trained(X):
    return rqvae().fit(X)


def test_training_reconstructs_most_of_the_variance(X, trained):
    assert trained.best_epoch_ > 0
    assert -trained.score(X) < 0.35 * X.var(axis=0).mean()
    assert [len(book) for book in trained.codebooks_] == [16, 16, 16]
    assert {book.shape[1] for book in trained.codebooks_} == {6}


def test_methods_agree(X, trained):
    assert_array_equal(trained.transform(X), trained.codes_)
    assert_array_equal(trained.predict(X), trained.ids_)
    assert collision_rate(trained.ids_) == 0
    one_by_one = np.concatenate([trained.transform(x[None]) for x in X[:100]])
    assert_array_equal(one_by_one, trained.codes_[:100])
    decoded = trained.inverse_transform(trained.codes_)
    assert decoded.shape == X.shape
    assert -trained.score(X) == pytest.approx(np.square(X - decoded).mean(), rel=1e-4)


def test_kmeans_starts_with_all_codewords_in_use(X):
    used = {
        init: perplexity(rqvae(init=init, max_epochs=1, lr=1e-9).fit(X).codes_)
        for init in ("k-means", "random")
    }
    assert (used["k-means"] > 8).all()
    assert used["random"][0] < used["k-means"][0]


def test_persists(X, trained, tmp_path):
    joblib.dump(trained, tmp_path / "model.joblib")
    loaded = joblib.load(tmp_path / "model.joblib")
    assert_array_equal(loaded.predict(X), trained.ids_)
    assert loaded.score(X) == trained.score(X)


def test_thread_count_does_not_matter(X, two_threads):
    fits = []
    for threads in (1, 2):
        two_threads(threads)
        fits.append(rqvae(max_epochs=5, eval_every=5, hidden_layer_sizes=(33,)).fit(X))
    assert fits[0].history_ == fits[1].history_
    assert_array_equal(fits[0].ids_, fits[1].ids_)


def test_balanced_level(X):
    model = rqvae(balance="last", max_epochs=10).fit(X)
    counts = np.bincount(model.transform(X)[:, -1], minlength=16)
    assert set(counts) <= {37, 38}


def test_latents_of_any_size(X):
    # Wider than the rows, and a single number.
    for latent_dim in (1, 40):
        model = rqvae(latent_dim=latent_dim, max_epochs=4, eval_every=2).fit(X)
        assert model.codebooks_[0].shape[1] == latent_dim
        assert_array_equal(model.transform(X), model.codes_)


@pytest.mark.parametrize(
    "params, message",
    [
        ({"latent_dim": 0}, "'latent_dim' parameter of RQVAE must be an int"),
        ({"init": "zeros"}, "'init' parameter of RQVAE must be a str among"),
        ({"kmeans_iter": 0}, "'kmeans_iter' parameter of RQVAE must be an int"),
    ],
)
def test_bad_parameters_are_named(X, params, message):
    with pytest.raises(ValueError, match=message):
        rqvae(**params).fit(X)


def test_partial_fit_goes_on(X, trained):
    model = clone(trained).set_params(max_epochs=20).fit(X)
    before = model.score(X)
    model.partial_fit(X)
    assert model.score(X) > before
    assert (model.n_iter_, len(model.history_)) == (40, 41)
    assert [row["epoch"] for row in model.history_] == list(range(41))
    assert 20 < model.best_epoch_ <= 40
    row = model.history_[model.best_epoch_]
    assert row["reconstruction_error"] == -model.score(X)
    assert_array_equal(model.predict(X), model.ids_)


def test_codebooks_are_written_as_published(trained, tmp_path):
    trained.save_codebooks(tmp_path / "books.npz")
    with np.load(tmp_path / "books.npz") as file:
        assert sorted(file.files) == ["codebook_0", "codebook_1", "codebook_2"]
        for level, book in enumerate(trained.codebooks_):
            assert_array_equal(file[f"codebook_{level}"], book)


def test_a_crowd_is_told_of(X):
    data = np.concatenate([np.repeat(X[:1], 300, axis=0), X[:300]])
    model = RQVAE((8, 8), balance="all", max_epochs=5, random_state=0)
    with pytest.warns(UserWarning, match="level 0 cannot be balanced: 50% of its rows"):
        model.fit(data)
