"""Checkpoints of a training: what is kept, and what comes back."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from sk_rqkplus import RQVAE, RQKMeans, RQKMeansPlus
from sk_rqkplus._checkpoints import (
    Checkpoints,
    Snapshot,
    read_checkpoint,
    write_checkpoint,
)


def snapshot(value=0.0):
    state = {"decoder.mlp_layers.1.bias": np.full(2, value, dtype=np.float32)}
    books = [np.full((3, 2), value, dtype=np.float32)]
    return Snapshot(state, books, [np.full(3, value)])


def figures(epoch, error, collisions):
    return {
        "epoch": epoch,
        "reconstruction_error": error,
        "collision_rate": collisions,
        "perplexity": [2.5],
    }


def test_best_and_last_are_kept(tmp_path):
    keep = Checkpoints(tmp_path / "new" / "folder", 2, np.zeros(2))
    rows = [(0, 5.0, 0.1), (10, 4.0, 0.3), (20, 3.0, 0.2), (30, 3.5, 0.4)]
    for epoch, error, collisions in rows:
        keep(figures(epoch, error, collisions), snapshot(epoch))
    folder = tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == [
        "best_collision_rate.safetensors",
        "best_reconstruction_error.safetensors",
        "epoch_00020.safetensors",
        "epoch_00030.safetensors",
    ]
    for name, epoch in [
        ("best_collision_rate", 0),
        ("best_reconstruction_error", 20),
        ("epoch_00030", 30),
    ]:
        found, mean, kept = read_checkpoint(folder / f"{name}.safetensors")
        assert kept["epoch"] == epoch
        assert_array_equal(found.codebooks[0], snapshot(epoch).codebooks[0])
        assert_array_equal(found.prices[0], snapshot(epoch).prices[0])
        assert_array_equal(mean, np.zeros(2))


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "epoch.safetensors"
    write_checkpoint(path, snapshot(1.0), np.zeros(2), figures(1, 1.0, 0.0))

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("sk_rqkplus._checkpoints.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        write_checkpoint(path, snapshot(2.0), np.zeros(2), figures(2, 1.0, 0.0))
    assert read_checkpoint(path)[2]["epoch"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["epoch.safetensors"]


def test_further_epochs_are_counted_on(tmp_path):
    before = [figures(0, 5.0, 0.3), {"epoch": 1}, figures(2, 4.0, 0.1)]
    keep = Checkpoints(tmp_path, 5, np.zeros(2), before)
    rows = [(0, 4.0, 0.1), (1, 4.5, 0.2), (2, 3.0, 0.2)]
    for epoch, error, collisions in rows:
        keep(figures(epoch, error, collisions), snapshot(epoch))
    # Epoch 0 is the end of the fit before; its collision rate stays the best.
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best_reconstruction_error.safetensors",
        "epoch_00003.safetensors",
        "epoch_00004.safetensors",
    ]
    path = tmp_path / "best_reconstruction_error.safetensors"
    assert read_checkpoint(path)[2]["epoch"] == 4


def test_epochs_of_an_earlier_fit_go_first(tmp_path):
    for _ in range(2):
        keep = Checkpoints(tmp_path, 2, np.zeros(2))
        for epoch in (0, 5, 10) if keep.last == [] else (0, 5):
            keep(figures(epoch, 1.0, 0.0), snapshot(epoch))
    names = sorted(path.name for path in tmp_path.glob("epoch_*"))
    assert names == ["epoch_00000.safetensors", "epoch_00005.safetensors"]


@pytest.mark.filterwarnings("ignore:no epoch had a lower:UserWarning")
@pytest.mark.parametrize("kind", [RQKMeansPlus, RQVAE])
def test_a_fit_comes_back_from_its_checkpoint(X, fitted, tmp_path, kind):
    params = {
        "hidden_layer_sizes": (32,),
        "batch_norm": True,
        "augment": "none",
        "balance": "last",
        "max_epochs": 12,
        "eval_every": 4,
        "random_state": 0,
    }
    if kind is RQKMeansPlus:
        params["codebooks"] = fitted
    model = kind((16, 16, 16), checkpoint_dir=tmp_path, n_checkpoints=9, **params)
    model.fit(X)
    assert len(list(tmp_path.glob("epoch_*"))) == 4
    for name in ("best_collision_rate", "epoch_00008"):
        again = kind((16, 16, 16), **params)
        again.restore(tmp_path / f"{name}.safetensors", X)
        kept = read_checkpoint(tmp_path / f"{name}.safetensors")[2]
        assert -again.score(X) == kept["reconstruction_error"]
        assert again.best_epoch_ == kept["epoch"]
        assert_array_equal(again.predict(X), again.ids_)
        assert_array_equal(again.transform(X), again.codes_)
    # The figures of the epoch that is published are those of its last prices.
    rates = [
        row["collision_rate"]
        for row in model.history_
        if "collision_rate" in row and row["epoch"] != model.best_epoch_
    ]
    best = kind((16, 16, 16), **params)
    best.restore(tmp_path / "best_collision_rate.safetensors")
    assert best.history_[-1]["collision_rate"] <= min(rates)
    assert not hasattr(best, "codes_")
    assert (
        best.history_[-1]
        == read_checkpoint(tmp_path / "best_collision_rate.safetensors")[2]
    )
    # What another fit left is gone, and training goes on from the checkpoint.
    model.restore(tmp_path / "epoch_00008.safetensors")
    assert not hasattr(model, "ids_")
    assert not hasattr(model, "catalogue_")
    model.partial_fit(X)
    assert [row["epoch"] for row in model.history_] == list(range(21))
    assert_array_equal(model.predict(X), model.ids_)


def test_wrong_files_are_refused_and_nothing_is_lost(X, fitted, tmp_path):
    model = RQKMeansPlus(
        (16, 16, 16), codebooks=fitted, hidden_layer_sizes=(8,), max_epochs=0
    ).fit(X)
    codes = model.codes_
    (tmp_path / "text.safetensors").write_text("no checkpoint")
    with pytest.raises(ValueError, match="should be a checkpoint that a fit wrote"):
        model.restore(tmp_path / "text.safetensors")
    path = tmp_path / "small.safetensors"
    write_checkpoint(path, snapshot(), np.zeros(2), figures(3, 1.0, 0.0))
    with pytest.raises(ValueError, match=r"has codebook_sizes=\(3,\), which should eq"):
        model.restore(path)
    with pytest.raises(ValueError, match="has other networks than this estimator"):
        RQKMeansPlus((3,), hidden_layer_sizes=(8,)).restore(path)
    assert_array_equal(model.transform(X), codes)


def test_a_directory_that_cannot_be_made_is_an_error(X, fitted, tmp_path):
    (tmp_path / "file").write_text("")
    model = RQKMeansPlus((16, 16, 16), codebooks=fitted, max_epochs=1)
    model.set_params(checkpoint_dir=tmp_path / "file" / "below")
    with pytest.raises(OSError, match="file"):
        model.fit(X)
    assert not hasattr(model, "codes_")


def test_checkpoints_do_not_change_the_fit(X, tmp_path):
    fits = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no epoch had a lower")
        for folder in (None, tmp_path):
            model = RQKMeansPlus(
                (8, 8),
                rqkmeans=RQKMeans(max_iter=3),
                max_epochs=2,
                eval_every=1,
                checkpoint_dir=folder,
                random_state=0,
            )
            fits.append(model.fit(X))
    assert fits[0].history_ == fits[1].history_


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda model, figures: model.prices[0].fill(np.nan), "prices_ is not what"),
        (lambda model, figures: setattr(model, "unit", -1.0), "unit_ is not what"),
        (lambda model, figures: model.prices.reverse(), "prices_ is not what"),
        (lambda model, figures: figures.update(epoch=10**9), "epoch=1000000000, which"),
        (lambda model, figures: figures.pop("epoch"), "it has no epoch"),
    ],
)
def test_a_checkpoint_signed_by_others_is_checked(X, tmp_path, change, message):
    model = RQKMeansPlus((3, 4), max_epochs=0, checkpoint_dir=tmp_path, random_state=0)
    model.fit(X)
    path = tmp_path / "epoch_00000.safetensors"
    found, mean, row = read_checkpoint(path)
    change(found, row)
    write_checkpoint(path, found, mean, row)
    ids = model.ids_
    with pytest.raises(ValueError, match=message):
        model.restore(path)
    assert model.ids_ is ids
