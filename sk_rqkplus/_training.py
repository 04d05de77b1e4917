"""The training loop: a private skorch net over whole batches."""

import traceback
from collections.abc import Iterator

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import EarlyStopping
from torch import Tensor
from torch.nn import functional as F

from sk_rqkplus._augment import ANCHORS, REAL_SHARE, Mixtures
from sk_rqkplus._callbacks import StopTraining
from sk_rqkplus._extras import require

LOSSES = {"mse": F.mse_loss, "l1": F.l1_loss}
OPTIMIZERS = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
}
# Mixtures to train on are of a row and some of so many neighbours, more than where
# codebooks alone are fitted.
TRAINING_NEIGHBOURS = 20
# Dead codewords move to rows of a sample of this size.
SAMPLE_ROWS = 4096


class Rows:
    """The rows of an array, as batches that are slices of it.

    skorch's default loader fetches row by row, which costs several times the training
    step itself.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows; only one batch at a time is copied, unless rows are mixed.

    mean : ndarray of shape (n_features,)
        Subtracted from every batch.

    batch_size : int
        Rows per batch; the last one may be smaller, or larger by a few.

    rng : RandomState or None
        Shuffles the rows anew in every epoch; None keeps their order.

    unit : float, default=1.0
        Divides every batch.

    mixed : bool, default=False
        Replace three rows in four by mixtures around them, drawn anew in every epoch.

    process, n_processes : int, default=0 and 1
        Of every batch take the rows of one of several processes that train together.
    """

    def __init__(
        self,
        X,
        *,
        mean,
        batch_size,
        rng,
        unit=1.0,
        mixed=False,
        process=0,
        n_processes=1,
    ):
        self.X = X
        self.mean = mean
        self.unit = unit
        self.batch_size = batch_size
        self.rng = rng
        self.mixtures = None
        if mixed:
            # A part of them, where they are many, from all over the array.
            anchors = np.sort(rng.permutation(len(X))[:ANCHORS])
            self.mixtures = Mixtures(self._centred(anchors), TRAINING_NEIGHBOURS)
        self.process = process
        self.n_processes = n_processes

    def __len__(self) -> int:
        return len(self._starts())

    def _starts(self) -> list[int]:
        """First row of every batch; too few last rows join the batch before them."""
        starts = list(range(0, len(self.X), self.batch_size))
        least = min(2 * self.n_processes, self.batch_size)
        if len(starts) > 1 and len(self.X) - starts[-1] < least:
            starts.pop()
        return starts

    def _centred(self, index: slice | np.ndarray) -> Tensor:
        rows = np.subtract(self.X[index], self.mean)
        rows /= self.unit
        return torch.from_numpy(rows).float()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield one epoch, as pairs of a batch and the weight of its loss."""
        source = order = None
        if self.mixtures is not None:
            source = self._smoothed()
        elif self.rng is not None:
            order = self.rng.permutation(len(self.X))
        starts = self._starts()
        for start, stop in zip(starts, [*starts[1:], len(self.X)], strict=True):
            own = slice(start + self.process, stop, self.n_processes)
            # Processes with fewer rows of a batch count less in the mean of them all.
            n_own = len(range(len(self.X))[own])
            weight = torch.tensor(n_own * self.n_processes / (stop - start))
            if source is not None:
                yield source[own], weight
            else:
                index = own if order is None else np.sort(order[own])
                yield self._centred(index), weight

    def _smoothed(self) -> Tensor:
        """A quarter of the rows as they are, and mixtures around the others."""
        order = self.rng.permutation(len(self.X))
        n_real = -(-len(order) // REAL_SHARE)
        own = torch.from_numpy(order[n_real:])
        mixed = self.mixtures.draw(own, self.rng)
        rows = torch.cat([self._centred(order[:n_real]), mixed])
        return rows[torch.from_numpy(self.rng.permutation(len(rows)))]

    def sample(self) -> Tensor:
        """Some of the rows, evenly spaced and centred."""
        return self._centred(slice(None, None, -(-len(self.X) // SAMPLE_ROWS)))


class NoCriterion:
    """Stands where skorch wants a criterion: the net computes its loss itself."""


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

    bfloat16 : bool
        Let the layers compute in bfloat16; weights stay in float32.

    **options : dict
        Passed to :class:`skorch.NeuralNet`.
    """

    n_processes = 1

    def __init__(
        self, module, *, loss="mse", quant_weight=1.0, bfloat16=False, **options
    ):
        super().__init__(
            module,
            criterion=NoCriterion,
            train_split=None,
            verbose=0,
            **options,
        )
        self.loss = loss
        self.quant_weight = quant_weight
        self.bfloat16 = bfloat16

    @property
    def networks(self):
        """The module, without what several processes wrap around it."""
        return getattr(self.module_, "module", self.module_)

    def over_processes(self, values: Tensor) -> Tensor:
        """Sum over the processes that train together."""
        return values

    def get_dataset(self, X, y=None):
        """Leave the rows as they are."""
        return X

    def check_data(self, X, y=None):
        """Accept rows without a target."""

    def get_iterator(self, dataset, training=False):
        """Batches come from the rows themselves."""
        return dataset

    def infer(self, x, **fit_params):
        """Apply the module, in bfloat16 where that was asked for."""
        device = next(self.module_.parameters()).device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.bfloat16):
            return super().infer(x, **fit_params)

    def get_loss(self, y_pred, y_true, X=None, training=False):
        """Reconstruction loss plus weighted quantisation loss."""
        decoded, quantisation = y_pred
        reconstruction = LOSSES[self.loss](decoded, X.to(decoded.device))
        weight = y_true.to(decoded.device)
        # History records plain numbers; the sum is what the optimizer sees.
        for name, part in (
            ("reconstruction_loss", reconstruction),
            ("quantisation_loss", quantisation),
        ):
            mean = self.over_processes(part.detach() * weight) / self.n_processes
            self.history.record_batch(name, mean.item())
        return (reconstruction + self.quant_weight * quantisation) * weight

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


def make_accelerator(device: torch.device):
    """Accelerator of the processes that train together.

    Parameters
    ----------
    device : torch.device
        Where to train.

    Returns
    -------
    accelerator : accelerate.Accelerator
        It knows the number of processes from the environment.
    """
    accelerate = require("accelerate", extra="accelerate")
    # Buffers count rows and hold prices, which every process keeps by itself.
    options = accelerate.DistributedDataParallelKwargs(broadcast_buffers=False)
    return accelerate.Accelerator(
        cpu=device.type == "cpu", kwargs_handlers=[options], mixed_precision="no"
    )


def make_accelerated_net(module, accelerator, **options) -> RQVAENet:
    """Net that trains together with the nets of other processes.

    Parameters
    ----------
    module : RQVAEModule
        What to train.

    accelerator : accelerate.Accelerator
        Joins the processes.

    **options : dict
        Passed to :class:`RQVAENet`.

    Returns
    -------
    net : RQVAENet
        The net; its module is plain again after training.
    """
    from skorch.hf import AccelerateMixin

    class AcceleratedNet(AccelerateMixin, RQVAENet):
        n_processes = accelerator.num_processes

        def over_processes(self, values: Tensor) -> Tensor:
            return accelerator.reduce(values, reduction="sum")

        def train_step(self, batch, **fit_params):
            # All processes see one loss, so that all of them stop or none.
            step = super().train_step(batch, **fit_params)
            loss = self.over_processes(step["loss"].detach()) / self.n_processes
            return {**step, "loss": loss}

        def get_iterator(self, dataset, training=False):
            return dataset

    # The accelerator places the module.
    options["device"] = None
    return AcceleratedNet(module, accelerator=accelerator, **options)
