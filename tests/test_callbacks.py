"""Around the steps of the training loop: figures, revival, warnings, schedules."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from sk_rqkplus._callbacks import (
    KeepBest,
    StopTraining,
    WarnOfCollapse,
    gradient_norm,
    learning_rate,
    revive,
)
from sk_rqkplus._networks import (
    MLP,
    ResidualMLP,
    ResidualQuantizer,
    RQVAEModule,
    VectorQuantizer,
)


def test_gradient_norm_by_hand():
    assert gradient_norm([torch.tensor([[3.0], [0.0]]), torch.tensor([4.0])]) == 5.0


@pytest.mark.parametrize(
    "schedule, expected",
    [
        ("constant", [0, 0.5, 1, 1, 1, 1, 1]),
        ("linear", [0, 0.5, 1, 0.75, 0.5, 0.25, 0]),
        ("cosine", [0, 0.5, 1, 0.853553, 0.5, 0.146447, 0]),
    ],
)
def test_learning_rate_by_hand(schedule, expected):
    factor = learning_rate(schedule, 2, 6)
    assert [factor(step) for step in range(7)] == pytest.approx(expected, abs=1e-6)


def net_of(books):
    """A net whose encoder is the identity, with an optimizer that has moments."""
    layers = [VectorQuantizer(book, np.zeros(len(book))) for book in books]
    encoder = ResidualMLP([1, 1])
    encoder.reset(torch.Generator().manual_seed(0))
    rq = ResidualQuantizer(layers, beta=0.25, gradient="full")
    module = RQVAEModule(encoder, rq, MLP([1, 1]))
    optimizer = torch.optim.Adam([layer.embedding.weight for layer in layers])
    for layer in layers:
        layer.embedding.weight.grad = torch.ones_like(layer.embedding.weight)
    optimizer.step()
    with torch.no_grad():
        for layer, book in zip(layers, books, strict=True):
            layer.embedding.weight.copy_(torch.tensor(book))
    return SimpleNamespace(
        networks=module, optimizer_=optimizer, over_processes=lambda values: values
    )


def test_dead_codewords_move_to_the_worst_rows_by_hand():
    # Codewords 0 and 1 serve the rows 0, 1, 9; nobody chose 50, 60. The rows farthest
    # from their codeword are 9 (off by 8) and 0 or 1, at a distance of 0 from theirs.
    books = [np.float32([[0.0], [1.0], [50.0], [60.0]])]
    net = net_of(books)
    net.networks.rq.vq_layers[0].usage[:] = torch.tensor([3, 2, 0, 0])
    rows = torch.tensor([[0.0], [1.0], [9.0], [4.0]])
    assert revive(net, rows) == 2
    book = net.networks.rq.vq_layers[0].embedding.weight
    assert_array_equal(book.detach().ravel(), [0, 1, 9, 4])
    moments = net.optimizer_.state[book]["exp_avg"].ravel()
    assert (moments[:2] != 0).all()
    assert (moments[2:] == 0).all()
    assert net.networks.rq.vq_layers[0].usage.sum() == 0
    assert net.networks.training


def test_deeper_levels_are_revived_from_residuals():
    books = [np.float32([[0.0], [10.0]]), np.float32([[0.0], [77.0]])]
    net = net_of(books)
    net.networks.rq.vq_layers[0].usage[:] = 1
    net.networks.rq.vq_layers[1].usage[:] = torch.tensor([4, 0])
    # Residuals of level 0 are 0, 1, 0 and -2.
    rows = torch.tensor([[0.0], [1.0], [10.0], [8.0]])
    assert revive(net, rows) == 1
    second = net.networks.rq.vq_layers[1].embedding.weight.detach()
    assert_array_equal(second.ravel(), [0, -2])


def test_without_dead_codewords_nothing_moves():
    net = net_of([np.float32([[0.0], [1.0]])])
    net.networks.rq.vq_layers[0].usage[:] = 1
    assert revive(net, torch.tensor([[5.0]])) == 0
    book = net.networks.rq.vq_layers[0].embedding.weight.detach()
    assert_array_equal(book.ravel(), [0, 1])


def test_a_collapse_is_told_once():
    watch = WarnOfCollapse()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch({"epoch": 0, "perplexity": [8.0, 6.0]}, None)
        watch({"epoch": 5, "perplexity": [4.0, 3.1]}, None)
    with pytest.warns(
        UserWarning, match="level 1 collapses: its perplexity=2.9 at"
    ):
        watch({"epoch": 10, "perplexity": [4.0, 2.9]}, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch({"epoch": 15, "perplexity": [1.0, 1.0]}, None)


def test_the_best_epoch_is_kept_and_patience_ends():
    losses = iter([5.0, 3.0, 4.0, 3.0, 9.0])
    seen = []
    keeper = KeepBest(
        lambda net: {"loss": next(losses)},
        lambda net: f"state {len(net.history)}",
        loss=lambda figures: figures["loss"],
        every=2,
        patience=2,
        observers=[lambda figures, state: seen.append((figures["epoch"], state))],
    )
    net = SimpleNamespace(history=[], max_epochs=99)
    keeper.on_train_begin(net)
    for _ in range(5):
        net.history.append({})
        keeper.on_epoch_end(net)
    net.history.append({})
    with pytest.raises(StopTraining, match="^$"):
        keeper.on_epoch_end(net)
    assert keeper.best_ == {"epoch": 2, "loss": 3.0}
    assert keeper.state_ == "state 2"
    assert keeper.first_state_ == "state 0"
    assert seen == [(epoch, f"state {epoch}") for epoch in (0, 2, 4, 6)]
