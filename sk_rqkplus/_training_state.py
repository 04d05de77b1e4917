"""All that the rest of a training depends on, to be saved and taken up again."""

from typing import Any

import numpy as np
import torch
from skorch.history import History
from torch import nn

from sk_rqkplus._callbacks import KeepBest, TendCodewords, batch_means
from sk_rqkplus._checkpoints import Snapshot, join_state, split_state
from sk_rqkplus._networks import Dropout
from sk_rqkplus._training import RQVAENet

Fields = dict[str, Any]


def training_state(net: RQVAENet, keeper: KeepBest, tend: TendCodewords) -> Fields:
    """State of a training that has just been scored.

    Parameters
    ----------
    net : RQVAENet
        The net in training.

    keeper : KeepBest
        What keeps its best epoch.

    tend : TendCodewords
        What looks after its codewords; it has not seen this epoch.

    Returns
    -------
    fields : dict
        Tensors, arrays and JSON values; the tensors are those of the training.
    """
    module = net.networks
    fields: Fields = {"epoch": len(net.history), "history": compacted(net.history)}
    fields.update({f"module.{k}": v for k, v in module.state_dict().items()})
    for level, layer in enumerate(module.rq.vq_layers):
        fields[f"prices.{level}"] = layer.prices
        fields[f"usage.{level}"] = layer.usage
        fields[f"chosen.{level}"] = tend.chosen_[level]
    for number, state in net.optimizer_.state_dict()["state"].items():
        for name, value in state.items():
            fields[f"optimizer.{number}.{name}"] = value
    generator = dropout_generator(module)
    if generator is not None:
        fields["generator"] = generator.get_state()
    best = [row is keeper.best_ for row in keeper.figures_].index(True)
    fields.update(figures=keeper.figures_, best=best, stale=keeper.stale_)
    fields.update(_prefixed("first.", keeper.first_state_))
    if best:
        fields.update(_prefixed("best.", keeper.state_))
    return fields


@torch.no_grad()
def take_up(
    fields: Fields, net: RQVAENet, keeper: KeepBest, tend: TendCodewords
) -> None:
    """Bring a training that has not begun to a state of :func:`training_state`.

    Parameters
    ----------
    fields : dict
        The state.

    net : RQVAENet
        Initialised, with a learning rate that begins at the step of the state.

    keeper : KeepBest
        What keeps its best epoch.

    tend : TendCodewords
        What looks after its codewords.
    """
    module = net.networks
    module.load_state_dict(_inside(fields, "module."))
    for level, layer in enumerate(module.rq.vq_layers):
        layer.prices.copy_(fields[f"prices.{level}"])
        layer.usage.copy_(fields[f"usage.{level}"])
    tend.chosen_ = [fields[f"chosen.{n}"] for n in range(len(module.rq.vq_layers))]
    optimizer: dict[int, Fields] = {}
    for key, value in _inside(fields, "optimizer.").items():
        number, _, name = key.partition(".")
        # Counts of steps stay on the CPU but where the optimizer wants them elsewhere.
        value = value.cpu() if name == "step" and torch.is_tensor(value) else value
        optimizer.setdefault(int(number), {})[name] = value
    groups = net.optimizer_.state_dict()["param_groups"]
    net.optimizer_.load_state_dict({"state": optimizer, "param_groups": groups})
    generator = dropout_generator(module)
    if generator is not None:
        generator.set_state(fields["generator"].cpu())
    net.history_ = History(fields["history"])
    first = _snapshot(fields, "first.")
    best = _snapshot(fields, "best.") if fields["best"] else first
    keeper.take_up(fields["figures"], fields["best"], fields["stale"], first, best)


def compacted(history: History) -> list[Fields]:
    """History with one batch per epoch that stands for all: its mean losses."""
    return [
        {
            **{k: v for k, v in row.items() if isinstance(v, bool | int | float)},
            "batches": [batch_means(row)],
        }
        for row in history
    ]


def dropout_generator(module: nn.Module) -> torch.Generator | None:
    """The generator that all layers of dropout share."""
    layers = [layer for layer in module.modules() if isinstance(layer, Dropout)]
    return layers[0].generator if layers else None


def _prefixed(prefix: str, snapshot: Snapshot) -> Fields:
    return {f"{prefix}{key}": value for key, value in join_state(snapshot).items()}


def _inside(fields: Fields, prefix: str) -> Fields:
    """Fields of a prefix, without it."""
    return {
        key.removeprefix(prefix): value
        for key, value in fields.items()
        if key.startswith(prefix)
    }


def _snapshot(fields: Fields, prefix: str) -> Snapshot:
    arrays: dict[str, np.ndarray] = {
        key: value.cpu().numpy() for key, value in _inside(fields, prefix).items()
    }
    return split_state(arrays)
