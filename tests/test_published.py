"""Checkpoints of the published code: what they hold becomes a fitted estimator."""

import argparse
import os

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sk_rqkplus import RQVAE, RQKMeansPlus
from sk_rqkplus.metrics import collision_rate

ARGS = {
    "num_emb_list": [16, 16],
    "e_dim": 24,
    "layers": [20, 12],
    "dropout_prob": 0.0,
    "bn": False,
    "loss_type": "mse",
    "quant_loss_weight": 1.0,
    "beta": 0.25,
    "sk_epsilons": [0.0, 0.0],
    "sk_iters": 50,
    "kmeans_init": True,
    "kmeans_iters": 100,
    "learner": "AdamW",
    "lr": 1e-4,
    "weight_decay": 1e-4,
    "lr_scheduler_type": "constant",
    "warmup_epochs": 50,
    "epochs": 10_000,
    "batch_size": 2048,
    "eval_step": 50,
    "device": "cuda:0",
    "data_path": "items.npy",
}


def layers(sizes, generator, prefix):
    """Weights of an MLP under their published names."""
    state = {}
    for i, (n_in, n_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        weight = torch.randn(n_out, n_in, generator=generator) / n_in**0.5
        state[f"{prefix}.mlp_layers.{3 * i + 1}.weight"] = weight
        state[f"{prefix}.mlp_layers.{3 * i + 1}.bias"] = torch.zeros(n_out)
    return state


def checkpoint(latent_dim, residual, **changes):
    generator = torch.Generator().manual_seed(0)
    sizes = [24, 20, 12, latent_dim]
    prefix = "encoder.mlp" if residual else "encoder"
    state = {
        **layers(sizes, generator, prefix),
        **layers(sizes[::-1], generator, "decoder"),
        **{
            f"rq.vq_layers.{level}.embedding.weight": torch.randn(
                16, latent_dim, generator=generator
            )
            for level in range(2)
        },
    }
    return {
        "args": argparse.Namespace(**{**ARGS, "e_dim": latent_dim}),
        "epoch": 7,
        "best_loss": 0.1,
        "best_collision_rate": 0.2,
        "state_dict": state,
        "optimizer": torch.optim.AdamW(
            [state["decoder.mlp_layers.1.weight"]]
        ).state_dict(),
        **changes,
    }


def apply(state, prefix, rows):
    """The MLP in float64, spelt out."""
    for i in (1, 4, 7):
        weight = state[f"{prefix}.mlp_layers.{i}.weight"].double().numpy()
        rows = rows @ weight.T + state[f"{prefix}.mlp_layers.{i}.bias"].numpy()
        rows = rows if i == 7 else np.maximum(rows, 0)
    return rows


@pytest.mark.parametrize("kind", [RQKMeansPlus, RQVAE])
def test_published_model_is_reproduced(X, tmp_path, kind):
    residual = kind is RQKMeansPlus
    file = checkpoint(24 if residual else 6, residual)
    torch.save(file, tmp_path / "best.pth")
    model = kind.from_minionerec(tmp_path / "best.pth", X, random_state=0)

    state = file["state_dict"]
    left = apply(state, "encoder.mlp" if residual else "encoder", X.astype(float))
    left = X + left if residual else left
    total, codes = 0, []
    for level in range(2):
        book = state[f"rq.vq_layers.{level}.embedding.weight"].double().numpy()
        codes.append(np.square(left[:, None] - book).sum(axis=2).argmin(axis=1))
        left, total = left - book[codes[-1]], total + book[codes[-1]]
    assert_array_equal(model.transform(X), np.column_stack(codes))
    assert_allclose(
        model.inverse_transform(model.codes_), apply(state, "decoder", total), atol=1e-5
    )
    assert collision_rate(model.ids_) == 0
    assert_array_equal(model.predict(X), model.ids_)
    assert (model.best_epoch_, model.codebook_sizes) == (7, (16, 16))
    assert (model.lr, model.optimizer, model.gradient) == (1e-4, "adamw", "ste")
    assert model.hidden_layer_sizes == (20, 12)


def test_without_rows_nothing_is_registered(X, tmp_path):
    torch.save(checkpoint(24, True), tmp_path / "best.pth")
    model = RQKMeansPlus.from_minionerec(tmp_path / "best.pth")
    assert not hasattr(model, "codes_")
    assert model.transform(X).shape == (600, 2)
    assert collision_rate(model.predict(X)) == 0


def test_training_goes_on_from_a_published_model(X, tmp_path):
    torch.save(checkpoint(24, True), tmp_path / "best.pth")
    model = RQKMeansPlus.from_minionerec(
        tmp_path / "best.pth", X, lr=1e-3, max_epochs=20, warmup_epochs=0, eval_every=5
    )
    before = model.score(X)
    model.set_params(batch_size=100).partial_fit(X)
    assert model.score(X) > before
    assert model.n_iter_ == 27


class Harmful:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_in_the_file_is_run(tmp_path):
    admitted = set(torch.serialization.get_safe_globals())
    for part in ("args", "epoch", "state_dict", "extra"):
        trap = tmp_path / f"trap_{part}"
        torch.save(
            checkpoint(24, True, **{part: Harmful(trap)}), tmp_path / "harmful.pth"
        )
        with pytest.raises(ValueError, match="should be a checkpoint with nothing but"):
            RQKMeansPlus.from_minionerec(tmp_path / "harmful.pth")
        assert not trap.exists()
    assert set(torch.serialization.get_safe_globals()) == admitted


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"args": {"beta": 1}}, r"should hold args \(a Namespace\), epoch and state_d"),
        ({"state_dict": {}}, "should have codebooks and a decoder"),
        ({"state_dict": {"decoder.bias": torch.zeros(2)}}, "vq_layers.0.embedding"),
    ],
)
def test_other_files_are_refused(tmp_path, changes, message):
    torch.save(checkpoint(24, True, **changes), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=message):
        RQKMeansPlus.from_minionerec(tmp_path / "other.pth")


def test_other_networks_are_refused(tmp_path):
    torch.save(checkpoint(6, False), tmp_path / "rqvae.pth")
    with pytest.raises(ValueError, match="has other networks than this estimator"):
        RQKMeansPlus.from_minionerec(tmp_path / "rqvae.pth")


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(ValueError, match="text.pth' should be a checkpoint with"):
        RQVAE.from_minionerec(tmp_path / "text.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="list.pth' should hold a dict"):
        RQVAE.from_minionerec(tmp_path / "list.pth")
