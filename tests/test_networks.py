"""The networks and their quantiser, part by part."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from sk_rqkplus._networks import (
    MLP,
    Dropout,
    ResidualQuantizer,
    VectorQuantizer,
    rotate,
    sinkhorn,
)


def test_sinkhorn_by_hand():
    # Both rows prefer codeword 0; at a low temperature the one that loses least moves.
    plan = sinkhorn(torch.tensor([[0.0, 4.0], [0.0, 1.0]]), 0.05, 50)
    assert_array_equal(plan.argmax(dim=1), [0, 1])
    assert torch.allclose(plan.sum(dim=0), torch.ones(2, dtype=torch.float64))


def test_sinkhorn_survives_a_low_temperature():
    distances = torch.rand(64, 8, generator=torch.Generator().manual_seed(0))
    plan = sinkhorn(distances, 1e-3, 50)
    assert torch.isfinite(plan).all()
    assert torch.bincount(plan.argmax(dim=1), minlength=8).min() >= 4


def test_dropout_keeps_the_mean_and_its_own_generator():
    layer = Dropout(0.25, torch.Generator().manual_seed(0))
    X = torch.ones(200, 100)
    dropped = layer(X)
    assert dropped.mean() == pytest.approx(1.0, abs=0.02)
    assert (dropped == 0).float().mean() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(layer.eval()(X), X)


def test_layers_of_the_mlp():
    layers = MLP([4, 3, 2], batch_norm=True).mlp_layers
    names = [type(layer).__name__ for layer in layers]
    assert names == ["Dropout", "Linear", "BatchNorm1d", "ReLU", "Dropout", "Linear"]


def test_rotation_by_hand():
    # From the first axis to twice the second one: a quarter turn, and a factor of two.
    latent = torch.tensor([[1.0, 0.0]], requires_grad=True)
    rotated = rotate(latent, torch.tensor([[0.0, 2.0]]))
    assert torch.allclose(rotated, torch.tensor([[0.0, 2.0]]))
    # A gradient along the target arrives along the latent, one across it turned too.
    (gradient,) = torch.autograd.grad(rotated, latent, torch.tensor([[0.5, 1.0]]))
    assert torch.allclose(gradient, torch.tensor([[2.0, -1.0]]))


def test_rotation_is_a_scaled_isometry_whatever_the_rows():
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(50, 7, generator=generator, requires_grad=True)
    target = torch.randn(50, 7, generator=generator)
    rotated = rotate(latent, target)
    assert torch.equal(rotated, target)
    incoming = torch.randn(50, 7, generator=generator)
    (gradient,) = torch.autograd.grad(rotated, latent, incoming)
    scale = target.norm(dim=1) / latent.norm(dim=1)
    assert torch.allclose(gradient.norm(dim=1), scale * incoming.norm(dim=1), rtol=1e-4)


@pytest.mark.parametrize("latent", [[0.0, 0.0], [-2.0, 0.0], [1.0, 0.0]])
def test_rotation_of_degenerate_rows_is_finite(latent):
    latent = torch.tensor([latent], requires_grad=True)
    for target in ([[0.0, 0.0]], [[1.0, 0.0]]):
        rotated = rotate(latent, torch.tensor(target))
        assert torch.equal(rotated, torch.tensor(target))
        (gradient,) = torch.autograd.grad(rotated.sum(), latent)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("gradient", ["full", "rotation", "ste"])
def test_commitment_of_later_levels_reaches_the_encoder(gradient):
    # The codeword of level 1 is exact for level 0's residual but for 0.5, so that all
    # the commitment there is belongs to level 1 when level 0 has none.
    books = [np.float32([[1.0]]), np.float32([[0.5]])]
    layers = [VectorQuantizer(book, np.zeros(1)) for book in books]
    rq = ResidualQuantizer(layers, beta=1.0, gradient=gradient)
    latent = torch.tensor([[1.0]], requires_grad=True)
    _, loss = rq(latent)
    (arrived,) = torch.autograd.grad(loss, latent)
    # d/dz of (z - 1)^2 / 2 + (z - 1 - 0.5)^2 / 2 at z = 1; "ste" cancels the second.
    assert float(arrived) == pytest.approx(0.0 if gradient == "ste" else -0.5)


def test_usage_is_counted_in_training_alone():
    layer = VectorQuantizer(np.float32([[0.0], [1.0], [9.0]]), np.zeros(3))
    rows = torch.tensor([[0.1], [0.2], [0.9]])
    layer.train()(rows)
    layer.eval()(rows)
    assert_array_equal(layer.usage, [2, 1, 0])
    assert "usage" not in layer.state_dict()
