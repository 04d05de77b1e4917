"""The training loop: a private skorch net over whole batches, and what it reports."""

import traceback
from collections.abc import Callable, Iterator

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import Callback, EarlyStopping, LRScheduler
from torch import nn
from torch.nn import functional as F

LOSSES = {"mse": F.mse_loss, "l1": F.l1_loss}
OPTIMIZERS = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
}
MONITORS = ("reconstruction_error", "collision_rate")


class StopTraining(Exception):
    """Ends the training loop without an error."""


class Rows:
    """The rows of an array, as batches that are slices of it.

    skorch's default loader fetches row by row, which costs several times the training
    step itself.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows; only one batch at a time is copied.

    y : None
        Ignored.

    mean : ndarray of shape (n_features,)
        Subtracted from every batch.

    batch_size : int
        Rows per batch; the last one may be smaller, or larger by one.

    rng : RandomState or None
        Shuffles the rows anew in every epoch; None keeps their order.
    """

    def __init__(self, X, y=None, *, mean, batch_size, rng):
        self.X = X
        self.mean = mean
        self.batch_size = batch_size
        self.rng = rng

    def __len__(self) -> int:
        return len(self._starts())

    def _starts(self) -> list[int]:
        """First row of every batch; a last row alone joins the batch before it."""
        starts = list(range(0, len(self.X), self.batch_size))
        if len(starts) > 1 and len(self.X) - starts[-1] == 1 < self.batch_size:
            starts.pop()
        return starts

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield one epoch, as pairs of a batch and a target that nobody reads."""
        order = None if self.rng is None else self.rng.permutation(len(self.X))
        starts = self._starts()
        for start, stop in zip(starts, [*starts[1:], len(self.X)], strict=True):
            rows = slice(start, stop)
            values = self.X[rows] if order is None else self.X[np.sort(order[rows])]
            batch = torch.from_numpy(np.subtract(values, self.mean)).float()
            yield batch, torch.empty(0)


class RQVAENet(NeuralNet):
    """Trains an RQVAEModule.

    Parameters
    ----------
    module : RQVAEModule
        What to train.

    loss : {"mse", "l1"}
        Reconstruction loss.

    quant_weight : float
        Weight of the quantisation loss.

    **options : dict
        Passed to :class:`skorch.NeuralNet`.
    """

    def __init__(self, module, *, loss="mse", quant_weight=1.0, **options):
        super().__init__(
            module,
            criterion=nn.Identity,
            train_split=None,
            verbose=0,
            **options,
        )
        self.loss = loss
        self.quant_weight = quant_weight

    def get_dataset(self, X, y=None):
        """Leave the rows as they are."""
        return X

    def check_data(self, X, y=None):
        """Accept rows without a target."""

    def get_iterator(self, dataset, training=False):
        """Batches come from the rows themselves."""
        return dataset

    def get_loss(self, y_pred, y_true, X=None, training=False):
        """Reconstruction loss plus weighted quantisation loss."""
        decoded, quantisation = y_pred
        reconstruction = LOSSES[self.loss](decoded, X)
        # History records plain numbers; the sum is what the optimizer sees.
        self.history.record_batch("reconstruction_loss", reconstruction.item())
        self.history.record_batch("quantisation_loss", quantisation.item())
        return reconstruction + self.quant_weight * quantisation

    def partial_fit(self, X, y=None, classes=None, **fit_params):
        """Train further epochs; unlike skorch, let Ctrl-C through.

        Parameters
        ----------
        X : Rows
            Training rows.

        y : None
            Ignored.

        classes : None
            Ignored.

        **fit_params : dict
            Passed to the loop.

        Returns
        -------
        self : RQVAENet
            The trained net.
        """
        if not self.initialized_:
            self.initialize()
        self.notify("on_train_begin", X=X, y=y)
        try:
            self.fit_loop(X, y, **fit_params)
        except StopTraining:
            pass
        except KeyboardInterrupt as interrupt:
            if not _is_early_stopping(interrupt):
                raise
        self.notify("on_train_end", X=X, y=y)
        return self


def _is_early_stopping(interrupt: KeyboardInterrupt) -> bool:
    """Tell skorch's EarlyStopping, which raises KeyboardInterrupt, from Ctrl-C."""
    *_, (frame, _) = traceback.walk_tb(interrupt.__traceback__)
    return frame.f_code is EarlyStopping.on_epoch_end.__code__


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
            for gradient in gradients:
                gradient.mul_(limit / (norm + 1e-6))


def gradient_norm(gradients: list[torch.Tensor]) -> float:
    """Euclidean norm of all gradients together.

    Row by row and then over the rows in float64: a sum over a whole tensor would depend
    on the number of threads in its last bits, and with it the clipped gradients.

    Parameters
    ----------
    gradients : list of Tensor
        Gradients.

    Returns
    -------
    norm : float
        Their norm.
    """
    squares = 0.0
    for gradient in gradients:
        rows = gradient.reshape(len(gradient), -1).double().square().sum(dim=1)
        squares += float(rows.cpu().numpy().sum())
    return float(np.sqrt(squares))


class StopOnNaN(Callback):
    """Raise as soon as a loss is not finite."""

    def on_batch_end(self, net, batch=None, training=False, **kwargs):
        """Look at the loss that was recorded last."""
        loss = net.history[-1, "batches", -1, "train_loss"]
        if not np.isfinite(loss):
            raise ValueError(
                f"loss={loss} at epoch {len(net.history)} should be finite. Lower lr, "
                "set clip_grad_norm, or scale X to the order of one."
            )


class KeepBest(Callback):
    """Score the model before the first epoch and every few epochs; keep the best.

    Parameters
    ----------
    evaluate : callable
        Maps a net to a dict of figures; lower is better.

    snapshot : callable
        Maps a net to a copy of its state.

    monitor : str
        Which figure decides.

    every : int
        Epochs between two evaluations; the last epoch is always evaluated.

    patience : int or None
        Stop after so many evaluations without a better one.
    """

    def __init__(self, evaluate, snapshot, *, monitor, every, patience):
        self.evaluate = evaluate
        self.snapshot = snapshot
        self.monitor = monitor
        self.every = every
        self.patience = patience

    def on_train_begin(self, net, **kwargs):
        """Score epoch 0, the warm start."""
        self.figures_ = [{"epoch": 0, **self.evaluate(net)}]
        self.best_ = self.figures_[0]
        self.state_ = self.first_state_ = self.snapshot(net)
        self.stale_ = 0

    def on_epoch_end(self, net, **kwargs):
        """Score, and keep the state if it is the best so far."""
        epoch = len(net.history)
        if epoch % self.every and epoch != net.max_epochs:
            return
        self.figures_.append({"epoch": epoch, **self.evaluate(net)})
        if self.figures_[-1][self.monitor] < self.best_[self.monitor]:
            self.best_ = self.figures_[-1]
            self.state_ = self.snapshot(net)
            self.stale_ = 0
            return
        self.stale_ += 1
        if self.patience is not None and self.stale_ >= self.patience:
            raise StopTraining


class Tick(Callback):
    """Report the end of every epoch.

    Parameters
    ----------
    tick : callable
        Called with the training loss; stops the training when it returns true.
    """

    def __init__(self, tick):
        self.tick = tick

    def on_epoch_end(self, net, **kwargs):
        """Pass the mean loss of the epoch on."""
        if self.tick(loss=net.history[-1, "train_loss"]):
            raise StopTraining


def learning_rate(schedule: str, n_warmup: int, n_steps: int) -> Callable[[int], float]:
    """Factor of the learning rate at every optimizer step.

    Parameters
    ----------
    schedule : {"constant", "linear", "cosine"}
        Course after the warm-up: no change, or a fall to zero at the last step.

    n_warmup : int
        Steps in which the factor rises linearly from zero to one.

    n_steps : int
        Steps of the whole training.

    Returns
    -------
    factor : callable
        Maps the number of a step, from 0, to the factor.
    """

    def factor(step: int) -> float:
        """Factor at one step."""
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
        policy=torch.optim.lr_scheduler.LambdaLR, lr_lambda=factor, step_every="batch"
    )


def summarise(history: list[dict], figures: list[dict]) -> list[dict]:
    """One plain dict per epoch: mean losses of its batches, and figures if scored.

    Parameters
    ----------
    history : list of dict
        History of a net, one entry per epoch.

    figures : list of dict
        Figures of the epochs that were scored, among them epoch 0.

    Returns
    -------
    epochs : list of dict
        Entry i belongs to epoch i; entry 0 has figures only.
    """
    epochs: list[dict] = [{"epoch": epoch} for epoch in range(len(history) + 1)]
    for entry, row in zip(epochs[1:], history, strict=True):
        for key in ("train_loss", "reconstruction_loss", "quantisation_loss"):
            entry[key] = float(np.mean([batch[key] for batch in row["batches"]]))
        entry["gradient_norm"] = float(
            np.mean([batch["gradient_norm"] for batch in row["batches"]])
        )
    for row in figures:
        epochs[row["epoch"]].update(row)
    return epochs
