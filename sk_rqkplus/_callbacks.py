"""What happens around the steps of the training loop, as callbacks of skorch."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from skorch.callbacks import Callback, LRScheduler

from sk_rqkplus._warn import warn

# Step of the prices between two evaluations, over the mean squared norm of codewords.
PRICE_STEP = 0.02
# What every batch records.
BATCH_FIGURES = (
    "train_loss",
    "reconstruction_loss",
    "quantisation_loss",
    "gradient_norm",
)


class StopTraining(Exception):
    """Ends the training loop without an error."""


class StopOnNaN(Callback):
    """Raise as soon as a loss or a gradient is not finite."""

    def on_batch_end(self, net, batch=None, training=False, **kwargs):
        """Look at what was recorded last."""
        for name, key in (("loss", "train_loss"), ("gradient norm", "gradient_norm")):
            value = net.history[-1, "batches", -1, key]
            if not np.isfinite(value):
                raise ValueError(
                    f"{name}={value} at epoch {len(net.history)} should be finite. "
                    "Lower lr or set clip_grad_norm."
                )


class ClipGradient(Callback):
    """Record the norm of the gradient, and clip it.

    Parameters
    ----------
    max_norm : float or None
        Largest norm; None only records.
    """

    def __init__(self, max_norm):
        self.max_norm = max_norm

    def on_grad_computed(self, net, named_parameters, **kwargs):
        """Clip before the optimizer takes its step."""
        limit = np.inf if self.max_norm is None else self.max_norm
        gradients = [p.grad for _, p in named_parameters if p.grad is not None]
        norm = gradient_norm(gradients)
        net.history.record_batch("gradient_norm", norm)
        if norm > limit:
            torch._foreach_mul_(gradients, limit / (norm + 1e-6))


def gradient_norm(gradients: Sequence[torch.Tensor]) -> float:
    """Euclidean norm of all gradients together.

    Parameters
    ----------
    gradients : sequence of Tensor
        Gradients.

    Returns
    -------
    norm : float
        Their norm.
    """
    norms = torch.stack([torch.linalg.vector_norm(g) for g in gradients])
    return float(torch.linalg.vector_norm(norms))


class AtEpochEnd(Callback):
    """Call a function at the end of every epoch.

    Parameters
    ----------
    function : callable
        Called with the net; ends the training when it returns true.
    """

    def __init__(self, function):
        self.function = function

    def on_epoch_end(self, net, **kwargs):
        """Call the function."""
        if self.function(net):
            raise StopTraining


class KeepBest(Callback):
    """Score the model before the first epoch and every few epochs; keep the best.

    Parameters
    ----------
    evaluate : callable
        Maps a net to a dict of figures and a copy of its state.

    loss : callable
        Maps figures to what decides; lower is better.

    every : int
        Epochs between two evaluations; the last epoch is always evaluated.

    patience : int or None
        Stop after so many evaluations without a better one.

    observers : sequence of callable
        Called with the figures and the state of every evaluation; those of an earlier
        process, where this one goes on, are given to their ``recall``.

    Attributes
    ----------
    figures_ : list of dict
        Figures of every evaluation, and its ``epoch``.

    best_, state_ : dict and object
        Figures and state of the best of them.
    """

    def __init__(self, evaluate, *, loss, every, patience, observers=()):
        self.evaluate = evaluate
        self.loss = loss
        self.every = every
        self.patience = patience
        self.observers = observers

    def on_train_begin(self, net, **kwargs):
        """Score epoch 0, the start."""
        if len(net.history):
            # A training that goes on has its figures.
            return
        self.figures_, self.stale_ = [], 0
        self.state_ = self.first_state_ = self._score(net)
        self.best_ = self.figures_[0]

    def on_epoch_end(self, net, **kwargs):
        """Score, and keep the state if it is the best so far."""
        epoch = len(net.history)
        if epoch % self.every and epoch != net.max_epochs:
            return
        self._compare(net)
        if self.patience is not None and self.stale_ >= self.patience:
            raise StopTraining

    def on_train_end(self, net, **kwargs):
        """Score the last epoch, if another callback ended the training there."""
        if self.figures_[-1]["epoch"] != len(net.history):
            self._compare(net)

    def take_up(self, figures, best, stale, first_state, state):
        """Stand where the keeper of an earlier process did."""
        self.figures_, self.stale_ = figures, stale
        self.best_, self.state_ = figures[best], state
        self.first_state_ = first_state
        for observer in self.observers:
            for row in figures:
                observer.recall(row)

    def _compare(self, net):
        """Score an epoch, and keep its state if it is the best."""
        state = self._score(net)
        if self.loss(self.figures_[-1]) < self.loss(self.best_):
            self.best_, self.state_, self.stale_ = self.figures_[-1], state, 0
        else:
            self.stale_ += 1

    def _score(self, net):
        figures, state = self.evaluate(net)
        figures = {"epoch": len(net.history), **figures}
        self.figures_.append(figures)
        for observer in self.observers:
            observer(figures, state)
        return state


class WarnOfCollapse:
    """Warn once when a level uses less than half of the codewords it started with."""

    def __init__(self):
        self.first = None
        self.warned = False

    def __call__(self, figures: dict, state: object) -> None:
        """Compare the perplexities of an evaluation with the first ones."""
        self.recall(figures)

    def recall(self, figures: dict) -> None:
        """Compare; what an earlier process warned of is said again."""
        perplexity = np.array(figures["perplexity"])
        if self.first is None:
            self.first = perplexity
        fallen = np.flatnonzero(perplexity < self.first / 2)
        if self.warned or len(fallen) == 0:
            return
        self.warned = True
        level = fallen[0]
        warn(
            f"level {level} collapses: its perplexity={perplexity[level]:.1f} at epoch "
            f"{figures['epoch']} should stay above half of the {self.first[level]:.1f} "
            "it started with. Lower lr or beta, balance the level, or set "
            "sinkhorn_epsilon."
        )


class TendCodewords(Callback):
    """Follow which codewords are chosen: move prices a little, and revive the dead.

    After every epoch the prices of balanced levels take one step of dual ascent towards
    equal counts. At the epochs that are scored, where prices have just been found on
    all rows, codewords that nobody chose since the last one are revived instead.

    Parameters
    ----------
    balanced : sequence of int
        Numbers of the balanced levels.

    every : int
        Epochs between two evaluations.

    revive_dead : bool
        Whether to revive codewords.

    sample : callable
        Returns centred rows, among which those of largest error are looked for.
    """

    def __init__(self, balanced, *, every, revive_dead, sample):
        self.balanced = balanced
        self.every = every
        self.revive_dead = revive_dead
        self.sample = sample

    def on_train_begin(self, net, **kwargs):
        """Nothing is chosen yet."""
        if len(net.history):
            # The state of a training is saved before its codewords are tended.
            self.on_epoch_end(net)
            return
        layers = net.networks.rq.vq_layers
        self.chosen_ = [torch.zeros_like(layer.usage) for layer in layers]

    @torch.no_grad()
    def on_epoch_end(self, net, **kwargs):
        """Look at the counts of the epoch."""
        layers = net.networks.rq.vq_layers
        counts = [net.over_processes(layer.usage.clone()) for layer in layers]
        for layer, count, chosen in zip(layers, counts, self.chosen_, strict=True):
            layer.usage.zero_()
            chosen += count
        if len(net.history) % self.every:
            for level in self.balanced:
                step_prices(layers[level], counts[level])
            return
        if self.revive_dead and len(net.history) < net.max_epochs:
            dead = [torch.nonzero(chosen == 0)[:, 0] for chosen in self.chosen_]
            net.history.record("n_revived", revive(net, dead, self.sample))
        for chosen in self.chosen_:
            chosen.zero_()


@torch.no_grad()
def step_prices(layer, counts: torch.Tensor) -> None:
    """Raise the prices of codewords that were chosen too often, lower the others.

    Parameters
    ----------
    layer : VectorQuantizer
        The level; its prices are changed in place.

    counts : Tensor of shape (n_codewords,), int64
        How often each codeword was chosen in an epoch.
    """
    wanted = counts.sum() / len(counts)
    temperature = PRICE_STEP * layer.embedding.weight.square().sum(1).mean()
    layer.prices += (temperature * torch.log((counts + 1) / (wanted + 1))).double()


@torch.no_grad()
def revive(
    net, dead: Sequence[torch.Tensor], sample: Callable[[], torch.Tensor]
) -> int:
    """Move dead codewords to the rows of largest error.

    Parameters
    ----------
    net : RQVAENet
        The net in training; its codewords and optimizer are changed in place.

    dead : sequence of Tensor of int64
        Numbers of the dead codewords of every level.

    sample : callable
        Returns centred rows, among which those of largest error are looked for.

    Returns
    -------
    n_revived : int
        Number of codewords that were moved.
    """
    if not any(map(len, dead)):
        return 0
    module = net.networks.eval()
    layers = module.rq.vq_layers
    residual = module.encoder(sample().to(layers[0].embedding.weight.device))
    n_revived = 0
    for layer, codewords in zip(layers, dead, strict=True):
        book = layer.embedding.weight
        left = residual - book[layer.assign(residual)]
        worst = left.square().sum(1).topk(min(len(codewords), len(left))).indices
        moved = codewords[: len(worst)]
        book[moved] = residual[worst]
        for value in net.optimizer_.state.get(book, {}).values():
            if torch.is_tensor(value) and value.shape == book.shape:
                value[moved] = 0
        residual, n_revived = left, n_revived + len(moved)
    module.train()
    return n_revived


def learning_rate(
    schedule: str, n_warmup: int, n_steps: int, first_step: int = 0
) -> Callable[[int], float]:
    """Factor of the learning rate at every optimizer step.

    Parameters
    ----------
    schedule : {"constant", "linear", "cosine"}
        Course after the warm-up: no change, or a fall to zero at the last step.

    n_warmup : int
        Steps in which the factor rises linearly from zero to one.

    n_steps : int
        Steps of the whole training.

    first_step : int, default=0
        Steps that an earlier process has taken.

    Returns
    -------
    factor : callable
        Maps the number of a step, from 0, to the factor.
    """

    def factor(step: int) -> float:
        """Factor at one step."""
        step += first_step
        if step < n_warmup:
            return step / max(1, n_warmup)
        left = max(0.0, (n_steps - step) / max(1, n_steps - n_warmup))
        if schedule == "linear":
            return left
        return 1.0 if schedule == "constant" else (1 - np.cos(np.pi * left)) / 2

    return factor


def schedule_callback(factor: Callable[[int], float]) -> LRScheduler:
    """Callback that applies a factor after every batch.

    Parameters
    ----------
    factor : callable
        Maps the number of a step to the factor of the learning rate.

    Returns
    -------
    callback : LRScheduler
        For a net.
    """
    return LRScheduler(
        policy=torch.optim.lr_scheduler.LambdaLR,
        lr_lambda=factor,
        # Steps are counted from where this training begins, whatever its history.
        last_epoch=-1,
        step_every="batch",
    )


def batch_means(row: dict) -> dict[str, float]:
    """Mean losses of the batches of an epoch.

    Parameters
    ----------
    row : dict
        Entry of the history of a net.

    Returns
    -------
    means : dict of str to float
        By the names of the losses.
    """
    return {
        key: float(np.mean([batch[key] for batch in row["batches"]]))
        for key in BATCH_FIGURES
    }


def summarise(history: Sequence[dict], figures: Sequence[dict]) -> list[dict]:
    """One plain dict per epoch: mean losses of its batches, and figures if scored.

    Parameters
    ----------
    history : sequence of dict
        History of a net, one entry per epoch.

    figures : sequence of dict
        Figures of the epochs that were scored, among them epoch 0.

    Returns
    -------
    epochs : list of dict
        Entry i belongs to epoch i; entry 0 has figures only.
    """
    epochs: list[dict] = [{"epoch": epoch} for epoch in range(len(history) + 1)]
    for entry, row in zip(epochs[1:], history, strict=True):
        entry.update(batch_means(row))
        entry["n_revived"] = row.get("n_revived", 0)
    for row in figures:
        epochs[row["epoch"]].update(row)
    return epochs
