"""Around the steps of the training loop: figures, revival, warnings, schedules."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from skorch.history import History

from sk_rqkplus._callbacks import (
    KeepBest,
    StopTraining,
    TendCodewords,
    WarnOfCollapse,
    gradient_norm,
    learning_rate,
    revive,
    step_prices,
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


def chosen(*levels):
    return [torch.nonzero(torch.tensor(counts) == 0)[:, 0] for counts in levels]


def test_dead_codewords_move_to_the_worst_rows_by_hand():
    # Codewords 0 and 1 serve all rows; nobody chose 50 and 60. The rows farthest from
    # their codeword are 9 (off by 8) and 4 (off by 3).
    net = net_of([np.float32([[0.0], [1.0], [50.0], [60.0]])])
    rows = torch.tensor([[0.0], [1.0], [9.0], [4.0]])
    assert revive(net, chosen([3, 2, 0, 0]), lambda: rows) == 2
    book = net.networks.rq.vq_layers[0].embedding.weight
    assert_array_equal(book.detach().ravel(), [0, 1, 9, 4])
    moments = net.optimizer_.state[book]["exp_avg"].ravel()
    assert (moments[:2] != 0).all()
    assert (moments[2:] == 0).all()
    assert net.networks.training


def test_deeper_levels_are_revived_from_residuals():
    net = net_of([np.float32([[0.0], [10.0]]), np.float32([[0.0], [77.0]])])
    # Residuals of level 0 are 0, 1, 0 and -2.
    rows = torch.tensor([[0.0], [1.0], [10.0], [8.0]])
    assert revive(net, chosen([2, 2], [4, 0]), lambda: rows) == 1
    second = net.networks.rq.vq_layers[1].embedding.weight.detach()
    assert_array_equal(second.ravel(), [0, -2])


def test_without_dead_codewords_nothing_moves():
    net = net_of([np.float32([[0.0], [1.0]])])
    assert revive(net, chosen([1, 1]), lambda: pytest.fail("no need to look")) == 0
    book = net.networks.rq.vq_layers[0].embedding.weight.detach()
    assert_array_equal(book.ravel(), [0, 1])


def test_price_steps_by_hand():
    # Squared norms are 0, 4 and 8: their mean is 4, a step of 0.08 per logarithm.
    layer = net_of([np.float32([[0.0], [2.0], [8**0.5]])]).networks.rq.vq_layers[0]
    step_prices(layer, torch.tensor([9, 3, 0]))
    expected = 0.08 * np.log([10 / 5, 4 / 5, 1 / 5])
    assert_allclose(layer.prices, expected, rtol=1e-6)


def test_codewords_are_tended_epoch_by_epoch():
    net = net_of([np.float32([[0.0], [1.0], [50.0]])])
    net.history, net.max_epochs = History(), 9
    layer = net.networks.rq.vq_layers[0]
    rows = torch.tensor([[0.0], [1.0], [7.0]])
    tend = TendCodewords([0], every=2, revive_dead=True, sample=lambda: rows)
    tend.on_train_begin(net)
    for epoch, usage in enumerate(([2, 0, 0], [0, 2, 0]), start=1):
        net.history.new_epoch()
        layer.usage[:] = torch.tensor(usage)
        tend.on_epoch_end(net)
        assert layer.usage.sum() == 0
        if epoch == 1:
            prices = layer.prices.clone()
            assert prices[0] > 0 > prices[1] == prices[2]
    # In the second epoch prices stay, and what nobody chose in either comes to life.
    assert_array_equal(layer.prices, prices)
    assert_array_equal(layer.embedding.weight.detach().ravel(), [0, 1, 7])
    assert net.history[-1, "n_revived"] == 1


def test_a_collapse_is_told_once():
    watch = WarnOfCollapse()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch({"epoch": 0, "perplexity": [8.0, 6.0]}, None)
        watch({"epoch": 5, "perplexity": [4.0, 3.1]}, None)
    with pytest.warns(UserWarning, match="level 1 collapses: its perplexity=2.9 at"):
        watch({"epoch": 10, "perplexity": [4.0, 2.9]}, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch({"epoch": 15, "perplexity": [1.0, 1.0]}, None)


def test_the_best_epoch_is_kept_and_patience_ends():
    losses = iter([5.0, 3.0, 4.0, 3.0, 9.0])
    seen = []
    keeper = KeepBest(
        lambda net: ({"loss": next(losses)}, f"state {len(net.history)}"),
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
