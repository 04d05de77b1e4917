"""What RQKMeansPlus and RQVAE share: training from a start to the best epoch."""

import copy
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from os import PathLike

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from sk_rqkplus import metrics
from sk_rqkplus._augment import resolve_augment
from sk_rqkplus._base import (
    NON_NEGATIVE,
    POSITIVE_INT,
    BaseQuantizer,
    warn_of_imbalance,
)
from sk_rqkplus._callbacks import (
    AtEpochEnd,
    ClipGradient,
    KeepBest,
    StopOnNaN,
    TendCodewords,
    WarnOfCollapse,
    learning_rate,
    schedule_callback,
    summarise,
)
from sk_rqkplus._checkpoints import Checkpoints, Snapshot, read_checkpoint
from sk_rqkplus._compat import Interval, StrOptions, _fit_context
from sk_rqkplus._copies import count_distinct
from sk_rqkplus._extras import require
from sk_rqkplus._fitted import check_fitted, is_integer
from sk_rqkplus._footprint import bytes_to_fit
from sk_rqkplus._groups import as_array
from sk_rqkplus._journal import NO_JOURNAL, keep_journal
from sk_rqkplus._nearest import Codewords
from sk_rqkplus._networks import ResidualQuantizer, RQVAEModule, VectorQuantizer
from sk_rqkplus._prices import balance_prices
from sk_rqkplus._products import can_bfloat16
from sk_rqkplus._progress import progress
from sk_rqkplus._published import read_published
from sk_rqkplus._residual import Leftover
from sk_rqkplus._table import Table
from sk_rqkplus._threads import one_thread
from sk_rqkplus._training import (
    LOSSES,
    OPTIMIZERS,
    Rows,
    RQVAENet,
    make_accelerated_net,
    make_accelerator,
)
from sk_rqkplus._training_state import take_up, training_state
from sk_rqkplus._warn import warn

# Prices of balanced levels are found on at most so many rows, and epochs are scored on
# at most so many.
PRICE_ROWS, SCORED_ROWS = 2**17, 2**16
# A file that claims more would fill the memory with its history.
MAX_EPOCH = 10**6
# What decides about the best epoch, and whether higher is better.
MONITORS = {
    "reconstruction_error": False,
    "collision_rate": False,
    "neighbour_recall": True,
}


# Options of the net that parameters of the estimator stand for, or that cannot change.
OWN_OPTIONS = {
    "batch_size",
    "bfloat16",
    "callbacks",
    "compile",
    "criterion",
    "device",
    "loss",
    "lr",
    "max_epochs",
    "module",
    "optimizer",
    "optimizer__fused",
    "optimizer__param_groups",
    "optimizer__weight_decay",
    "quant_weight",
    "train_split",
    "verbose",
}


@dataclass
class Data:
    """Rows that a training learns from, and those held out to judge it."""

    rows: np.ndarray
    held_out: np.ndarray | None


class BaseAutoencoder(BaseQuantizer):
    """An encoder, a residual quantiser and a decoder, trained together.

    A subclass has ``_networks``, which builds encoder and decoder, ``_start``, which
    returns the module that the training starts from, ``_published``, parameters that
    published checkpoints imply, and ``_epoch_0``, what the start is in words.
    """

    _fitted_attributes: tuple = (
        *BaseQuantizer._fitted_attributes,
        "best_epoch_",
        "history_",
        "state_",
        "unit_",
    )
    _parameter_constraints: dict = {
        **BaseQuantizer._parameter_constraints,
        "beta": [NON_NEGATIVE],
        "quant_weight": [NON_NEGATIVE],
        "loss": [StrOptions(set(LOSSES))],
        "hidden_layer_sizes": ["array-like"],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "batch_norm": ["boolean"],
        "gradient": [StrOptions({"full", "rotation", "ste"})],
        "augment": [StrOptions({"auto", "none", "mixtures"})],
        "sinkhorn_epsilon": [NON_NEGATIVE, "array-like"],
        "sinkhorn_iter": [POSITIVE_INT],
        "revive_dead": ["boolean"],
        "optimizer": [StrOptions(set(OPTIMIZERS))],
        "lr": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [NON_NEGATIVE],
        "lr_schedule": [StrOptions({"constant", "linear", "cosine"})],
        "warmup_epochs": [Interval(Integral, 0, None, closed="left")],
        "clip_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
        "max_epochs": [Interval(Integral, 0, None, closed="left")],
        "batch_size": [POSITIVE_INT],
        "eval_every": [POSITIVE_INT],
        "monitor": [StrOptions(set(MONITORS)), callable],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither"), None],
        "patience": [POSITIVE_INT, None],
        "checkpoint_dir": [str, PathLike, None],
        "n_checkpoints": [POSITIVE_INT],
        "resume": ["boolean"],
        "callbacks": [list, tuple, None],
        "net_params": [dict, None],
        "precision": [StrOptions({"auto", "float32", "bfloat16"})],
        "accelerate": ["boolean"],
    }

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Train from the start, and register the rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Item embeddings: an array, a DataFrame or a memory-mapped file.

        y : None
            Ignored, present for API consistency.

        Returns
        -------
        self : estimator
            The fitted estimator.

        Raises
        ------
        ValueError
            If parameters do not suit each other or the data, a loss is not finite, or
            ``checkpoint_dir`` has a fit of other rows or parameters that ``resume``
            cannot go on with.
        OSError
            If ``checkpoint_dir`` cannot be written. What was written before is intact.
        """
        with self._all_or_nothing(), ExitStack() as stack:
            X = self._validate(X, reset=True)
            sizes = self._resolve_sizes()
            self._resolve_network(len(sizes))
            self._check_memory(X, self._bytes_to_fit(X, sizes))
            self._tell_of_copies(X)
            self._forget_rows()
            journal, rng = stack.enter_context(self._keep_journal(X))

            data = self._hold_out(X, rng)
            module = self._start(data.rows, sizes, rng, journal)
            self.history_ = self._train(X, data, module, rng, journal)
            self.n_iter_ = len(self.history_) - 1
            self._publish(X, self._encode(X))
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None):
        """Train for ``max_epochs`` further epochs from where the fit stands.

        The optimizer and the learning rate start anew. The rows of ``X`` take the place
        of those registered before: the model changes, and its IDs with it. ``resume``
        is for :meth:`fit`; a training of this kind that is broken off starts again.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Item embeddings.

        y : None
            Ignored, present for API consistency.

        Returns
        -------
        self : estimator
            The estimator, trained further, or fitted where it was not before.
        """
        if not hasattr(self, "state_"):
            return self.fit(X)
        # scikit-learn leaves this out where an estimator is fitted already.
        self._validate_params()
        with self._all_or_nothing():
            X = self._validate(X)
            self._check_sizes([len(book) for book in self.codebooks_], "the fit")
            self._forget_rows()
            best_before, n_before = self.best_epoch_, self.n_iter_
            rng = check_random_state(self.random_state)
            # The same rows are held out as in the fit, where X is the same.
            data = self._hold_out(X, rng)
            if self.random_state is not None:
                # Not the batches of the epochs before once more.
                rng = np.random.RandomState(rng.randint(2**31 - 1) ^ n_before)
            module = self._fitted_module(self._generator(rng)).train()
            history = self._train(
                X, data, module, rng, NO_JOURNAL, before=self.history_
            )
            if self.best_epoch_ == 0:
                self.best_epoch_ = best_before
            else:
                self.best_epoch_ += n_before
            later = [{**row, "epoch": row["epoch"] + n_before} for row in history[1:]]
            self.history_ = self.history_ + later
            self.n_iter_ = n_before + len(later)
            self._publish(X, self._encode(X))
        return self

    def restore(self, path, X=None):
        """Take over a checkpoint that a fit wrote to ``checkpoint_dir``.

        Parameters
        ----------
        path : path-like
            File of the checkpoint, of an estimator with these parameters.

        X : array-like of shape (n_samples, n_features), default=None
            Rows to register; None registers nothing.

        Returns
        -------
        self : estimator
            The estimator, fitted as it was at that epoch.

        Raises
        ------
        ValueError
            If the file is no checkpoint, or one of other sizes.
        """
        with self._all_or_nothing():
            snapshot, mean, figures = read_checkpoint(path)
            self._take_over(snapshot, mean, figures, X, f"path={str(path)!r}")
        return self

    @classmethod
    def from_minionerec(cls, path, X=None, **params):
        """Read a checkpoint of the published code.

        Nothing in the file is run: it may hold tensors, plain values and an
        ``argparse.Namespace``, and anything else is refused.

        Parameters
        ----------
        path : path-like
            A .pth file with ``args``, ``epoch`` and ``state_dict``.

        X : array-like of shape (n_samples, n_features), default=None
            Rows to register; None registers nothing.

        **params : dict
            Further parameters of the estimator; they take precedence over those of the
            file.

        Returns
        -------
        estimator : estimator
            Fitted, with the parameters of the file.

        Raises
        ------
        ValueError
            If the file is of another kind, or holds what is not admitted.
        """
        found, snapshot, mean, epoch = read_published(path, **cls._published)
        estimator = cls(**{**found, **params})
        estimator._validate_params()
        figures = {"epoch": epoch}
        estimator._take_over(snapshot, mean, figures, X, f"path={str(path)!r}")
        return estimator

    @property
    def net_(self):
        """Skorch net of the fitted model, built anew at every access.

        Returns
        -------
        net : skorch.NeuralNet
            Initialised, with the fitted weights. Its module works on rows
            ``(X - mean_) / unit_``.
        """
        check_is_fitted(self)
        device = self._resolve_device()
        return self._make_net(self._fitted_module(), device, []).initialize()

    def _resolve_network(self, n_levels):
        """Check what depends on other parameters; return epsilon per level."""
        hidden = np.asarray(self.hidden_layer_sizes)
        if hidden.ndim != 1 or (
            len(hidden) and (hidden.dtype.kind not in "iu" or hidden.min() < 1)
        ):
            raise ValueError(
                f"hidden_layer_sizes={self.hidden_layer_sizes!r} should be a sequence "
                "of integers >= 1. Give for example (512,)."
            )
        if self.batch_norm and self.batch_size < 2:
            raise ValueError(
                f"batch_size={self.batch_size} should be >= 2 with batch_norm=True, "
                "which needs the spread of a batch."
            )
        if self.accelerate and not isinstance(self.random_state, Integral):
            raise ValueError(
                f"random_state={self.random_state!r} should be an int with "
                "accelerate=True. All processes then draw the same."
            )
        if self.accelerate:
            require("accelerate", extra="accelerate")
            if self.resume:
                raise ValueError(
                    "resume=True should be False with accelerate=True: the state of "
                    "several processes is not written. Use restore and partial_fit."
                )
        taken = sorted(OWN_OPTIONS & set(self.net_params or {}))
        if taken:
            raise ValueError(
                f"net_params={self.net_params!r} should not have {taken}, which the "
                "estimator sets itself. Use its own parameters."
            )
        epsilon = as_array(self.sinkhorn_epsilon, "sinkhorn_epsilon", float)
        if epsilon.shape not in ((), (n_levels,)) or not (epsilon >= 0).all():
            raise ValueError(
                f"sinkhorn_epsilon={self.sinkhorn_epsilon!r} should be >= 0, one value "
                f"or one for each of the {n_levels} levels."
            )
        return np.broadcast_to(epsilon, n_levels).tolist()

    def _keep_journal(self, X):
        """Journal of the fit, where one process has all of its state."""
        if self.accelerate:
            return nullcontext((NO_JOURNAL, check_random_state(self.random_state)))
        # A course of the learning rate that ends leads to another model.
        may_rise = {"max_epochs": self.lr_schedule == "constant"}
        table = Table(X, self._resolve_device())
        return keep_journal(self, table, may_rise=may_rise)

    def _bytes_to_fit(self, X, sizes):
        """Memory that a fit takes at its peak, about: of its start, or of its prices.

        Rows that are parted into fitted and held out ones are copied.
        """
        n_samples, n_features = X.shape
        n_rows = min(n_samples, PRICE_ROWS)
        balanced = len(self._balanced_levels()) > 0
        prices = bytes_to_fit(
            n_samples, n_features, max(sizes), n_fit=n_rows, balanced=balanced
        )
        copies = 0 if self.validation_fraction is None else X.size * X.dtype.itemsize
        # Latents in float64 stand beside the residuals.
        latents = 8 * n_rows * n_features
        return copies + max(prices + latents, self._bytes_to_start(X, sizes))

    def _bytes_to_start(self, X, sizes):
        """Memory of what comes before the training."""
        return 0

    def _hold_out(self, X, rng):
        """Part the rows into those to learn from and those to judge by."""
        if self.validation_fraction is None:
            return Data(X, None)
        n_held_out = int(np.ceil(self.validation_fraction * len(X)))
        if n_held_out >= len(X):
            raise ValueError(
                f"validation_fraction={self.validation_fraction} should leave rows to "
                f"learn from, of n_samples={len(X)}. Lower it or fit on more rows."
            )
        order = rng.permutation(len(X))
        return Data(X[np.sort(order[n_held_out:])], X[np.sort(order[:n_held_out])])

    def _forget_rows(self):
        """Drop what is known of rows: a model in training has no IDs to give."""
        for name in ("codes_", "ids_", "catalogue_", "fingerprint_"):
            vars(self).pop(name, None)

    def _resolve_unit(self, X):
        """Power of two nearest to the typical norm of centred rows.

        Rates of optimizers are absolute. In this unit the defaults suit rows of any
        scale, and dividing by it rounds nothing.
        """
        rows = np.subtract(X[:: -(-len(X) // SCORED_ROWS)], self.mean_, dtype=float)
        norm = np.sqrt(np.einsum("ij,ij->", rows, rows) / len(rows))
        return float(2.0 ** np.round(np.log2(norm))) if norm > 0 else 1.0

    def _mixes(self, rows):
        """Whether to train on mixtures of the rows."""
        if self.augment != "auto":
            return self.augment == "mixtures" and len(rows) > 1
        left = Leftover(rows, self.mean_, 1.0, keep=False)
        count = partial(count_distinct, left)
        return resolve_augment("auto", count, max(self.codebook_sizes)) > 0

    def _generator(self, rng):
        """Generator of dropout, on the device."""
        generator = torch.Generator(self._resolve_device())
        return generator.manual_seed(rng.randint(2**31 - 1))

    def _fused(self, device):
        """Options of an optimizer that updates all weights in one call, if it can."""
        one_by_one = {"rmsprop"} if device.type == "cpu" else {"rmsprop", "adagrad"}
        return {} if self.optimizer in one_by_one else {"optimizer__fused": True}

    def _network_options(self, generator, device):
        """What encoder and decoder have in common."""
        return {
            "device": device,
            "dropout": self.dropout,
            "batch_norm": self.batch_norm,
            "generator": generator,
        }

    def _new_networks(self, n_features, rng):
        """Encoder and decoder with weights as they are drawn."""
        networks = self._networks(n_features, self._generator(rng))
        weights = torch.Generator().manual_seed(rng.randint(2**31 - 1))
        for network in networks:
            network.reset(weights)
        return networks

    def _train(self, X, data, module, rng, journal, before=()):
        """Train a module, adopt its best epoch, and return the history."""
        device = self._resolve_device()
        accelerator = make_accelerator(device) if self.accelerate else None
        rows = self._batches_of(data.rows, rng, accelerator)
        reproducible = self.random_state is not None and device.type == "cpu"
        with (
            one_thread() if reproducible else nullcontext(),
            progress(self, self.max_epochs, "epoch") as tick,
        ):
            keeper = self._make_keeper(data, accelerator, before)
            tend = TendCodewords(
                self._balanced_levels(),
                every=self.eval_every,
                revive_dead=self.revive_dead,
                sample=rows.sample,
            )
            callbacks = [
                keeper,
                AtEpochEnd(partial(self._save_training, journal, keeper, tend)),
                tend,
                AtEpochEnd(lambda net: tick(loss=net.history[-1, "train_loss"])),
            ]
            saved = journal.part("training").restore(epoch=0)
            done = saved["epoch"]
            first_step = done * len(rows)
            net = self._make_net(
                module, device, callbacks, len(rows), accelerator, first_step
            ).initialize()
            if done:
                take_up(saved, net, keeper, tend)
                tick(to=done)
            net.partial_fit(rows, epochs=self.max_epochs - done)
        self._restore_best(X, data, keeper, len(before) > 0)
        return summarise(net.history, keeper.figures_)

    def _save_training(self, journal, keeper, tend, net):
        """Write the state of the training at every evaluation but an extra last one."""
        if journal.book is not None and len(net.history) % self.eval_every == 0:
            journal.part("training").save(
                at_once=True, **training_state(net, keeper, tend)
            )

    def _batches_of(self, rows, rng, accelerator):
        """Rows in batches, of which every process has its part."""
        self._check_batches(rows, accelerator)
        return Rows(
            rows,
            mean=self.mean_,
            unit=self.unit_,
            batch_size=self.batch_size,
            rng=rng,
            mixed=self._mixes(rows),
            process=accelerator.process_index if accelerator else 0,
            n_processes=accelerator.num_processes if accelerator else 1,
        )

    def _check_batches(self, rows, accelerator):
        """Check that every batch has rows enough for all who share it."""
        if self.batch_norm and len(rows) < 2:
            raise ValueError(
                f"n_samples={len(rows)} to learn from should be >= 2 with "
                "batch_norm=True. Fit on more rows."
            )
        if accelerator is not None and self.batch_size < 2 * accelerator.num_processes:
            raise ValueError(
                f"batch_size={self.batch_size} should be >= 2 rows for each of the "
                f"{accelerator.num_processes} processes. Raise it."
            )

    def _make_keeper(self, data, accelerator, before):
        """Callback that scores epochs and keeps the best."""
        observers = [WarnOfCollapse()]
        if self.checkpoint_dir is not None and (
            accelerator is None or accelerator.is_main_process
        ):
            observers.append(
                Checkpoints(self.checkpoint_dir, self.n_checkpoints, self.mean_, before)
            )

        def evaluate(net):
            """Score the module as it stands."""
            # Epoch 0 keeps the prices of the start, to the last bit.
            if len(net.history):
                self._update_prices(data.rows, net.networks)
            snapshot = self._snapshot(net.networks)
            self._adopt(snapshot)
            return self._figures(data), snapshot

        return KeepBest(
            evaluate,
            loss=self._monitored,
            every=self.eval_every,
            patience=self.patience,
            observers=observers,
        )

    def _figures(self, data):
        """Figures of the model as it stands."""
        figures = self._figures_of(data.rows)
        if data.held_out is not None:
            held_out = self._figures_of(data.held_out)
            figures.update({f"validation_{key}": v for key, v in held_out.items()})
        return figures

    def _figures_of(self, X):
        """Figures of some rows, or of a part of them where they are many."""
        X = X[:: -(-len(X) // SCORED_ROWS)]
        codes = self._encode(X)
        figures = {
            "reconstruction_error": self._reconstruction_error(X, codes),
            "collision_rate": metrics.collision_rate(codes),
            "perplexity": metrics.perplexity(codes).tolist(),
        }
        if self.monitor == "neighbour_recall":
            k = min(10, len(X) - 1)
            recall = metrics.neighbour_recall(X, self._decode(codes), k=k)
            figures["neighbour_recall"] = recall.value
        elif callable(self.monitor):
            value = self.monitor(self, X)
            if not (isinstance(value, Real) and np.isfinite(value)):
                raise ValueError(
                    f"monitor={self.monitor!r} returned {value!r}, which should be a "
                    "finite number. Return one for every epoch."
                )
            figures["monitor"] = float(value)
        return figures

    def _resolve_monitor(self):
        """Name of the figure that decides, and whether higher is better."""
        name = "monitor" if callable(self.monitor) else self.monitor
        return name, MONITORS.get(name, True)

    def _monitored(self, figures):
        """The figure that decides, lower is better."""
        name, higher = self._resolve_monitor()
        prefix = "" if self.validation_fraction is None else "validation_"
        return (-1 if higher else 1) * figures[prefix + name]

    def _snapshot(self, module):
        """Copy of the state of a module, codebooks in units of the latent space."""
        unit = self._latent_unit()
        layers = module.rq.vq_layers
        return Snapshot(
            state={
                key: value.cpu().numpy().copy()
                for key, value in module.state_dict().items()
                if not key.startswith("rq.")
            },
            codebooks=[
                layer.embedding.weight.detach().cpu().numpy() * np.float32(unit)
                for layer in layers
            ],
            prices=[layer.prices.cpu().numpy() * unit**2 for layer in layers],
            unit=self.unit_,
        )

    def _adopt(self, snapshot):
        self.unit_ = snapshot.unit
        self.state_ = snapshot.state
        self.codebooks_ = snapshot.codebooks
        self.prices_ = snapshot.prices

    def _restore_best(self, X, data, keeper, trained_before):
        """Take over the best epoch, with exact prices."""
        best, first = keeper.best_, keeper.figures_[0]
        self._adopt(keeper.state_)
        if best["epoch"] > 0 and self._balanced_levels():
            module = self._fitted_module().to(self._resolve_device())
            self._update_prices(X, module, exact=True)
            self._adopt(self._snapshot(module))
            best.update(self._figures(data))
            if self._monitored(best) >= self._monitored(first):
                best = first
                self._adopt(keeper.first_state_)
        self.best_epoch_ = best["epoch"]
        if self.best_epoch_ == 0 and self.max_epochs > 0:
            name, higher = self._resolve_monitor()
            start = "the model is as it was" if trained_before else self._epoch_0
            warn(
                f"no epoch had a {'higher' if higher else 'lower'} {name} than epoch "
                f"0: {start}. Raise max_epochs, change lr, or do without the training."
            )

    def _balanced_levels(self):
        """Numbers of the levels that are balanced."""
        flags = self._resolve_balance(len(self.codebook_sizes))
        return [level for level, flag in enumerate(flags) if flag]

    @torch.no_grad()
    def _update_prices(self, X, module, *, exact=False):
        """Balance the levels that should be, on the rows as the encoder sees them."""
        balanced = self._balanced_levels()
        if not balanced:
            return
        layers = module.rq.vq_layers
        device = layers[0].embedding.weight.device
        latent = self._in_units(copy.deepcopy(module.encoder).eval().double())
        rows = X[:: -(-len(X) // PRICE_ROWS)]
        unit = self._latent_unit()
        left = Leftover(rows, self.mean_, unit, latent=latent, device=device)
        for level in range(max(balanced) + 1):
            layer = layers[level]
            book = layer.embedding.weight.detach()
            if level in balanced:
                balance = balance_prices(left, book, 0.0, layer.prices, exact=exact)
                layer.prices = balance.prices
                advice = "Lower codebook_sizes."
                if exact:
                    warn_of_imbalance(level, balance, len(left), advice)
            if level < max(balanced):
                words = Codewords(book, layer.prices)
                left.advance(words)

    def _make_module(self, encoder, decoder, codebooks, prices):
        """Networks and quantiser as one module, which works in units of ``unit_``."""
        epsilons = self._resolve_network(len(codebooks))
        unit = self._latent_unit()
        layers = [
            VectorQuantizer(
                book / np.float32(unit),
                price / unit**2,
                sinkhorn_epsilon=epsilon,
                sinkhorn_iter=self.sinkhorn_iter,
            )
            for book, price, epsilon in zip(codebooks, prices, epsilons, strict=True)
        ]
        rq = ResidualQuantizer(layers, beta=self.beta, gradient=self.gradient)
        return RQVAEModule(encoder, rq, decoder)

    def _fitted_networks(self, generator=None):
        """Encoder and decoder with the fitted weights."""
        networks = self._networks(self.n_features_in_, generator)
        for prefix, network in zip(("encoder.", "decoder."), networks, strict=True):
            weights = {
                key.removeprefix(prefix): torch.from_numpy(value.copy())
                for key, value in self.state_.items()
                if key.startswith(prefix)
            }
            try:
                network.load_state_dict(weights)
            except RuntimeError as error:
                raise ValueError(
                    f"hidden_layer_sizes={self.hidden_layer_sizes!r} and the other "
                    f"parameters of the networks should be those of the fit: {error}"
                ) from error
            network.eval()
        return networks

    def _fitted_module(self, generator=None):
        """The module with the fitted weights, in evaluation mode."""
        networks = self._fitted_networks(generator)
        return self._make_module(*networks, self.codebooks_, self.prices_).eval()

    def _make_net(
        self,
        module,
        device,
        callbacks,
        n_batches=1,
        accelerator=None,
        first_step=0,
    ):
        """The private skorch net around a module."""
        factor = learning_rate(
            self.lr_schedule,
            self.warmup_epochs * n_batches,
            self.max_epochs * n_batches,
            first_step,
        )
        make, first = RQVAENet, ()
        if accelerator is not None:
            make, first = make_accelerated_net, (accelerator,)
        fast = self.precision == "auto" and can_bfloat16(device)
        encoder_lr = self.lr * getattr(self, "encoder_lr_ratio", 1.0)
        return make(
            module,
            *first,
            loss=self.loss,
            quant_weight=self.quant_weight,
            bfloat16=fast or self.precision == "bfloat16",
            optimizer=OPTIMIZERS[self.optimizer],
            optimizer__weight_decay=self.weight_decay,
            **self._fused(device),
            # With a star in front: several processes put a prefix there.
            optimizer__param_groups=[("*encoder.*", {"lr": encoder_lr})],
            lr=self.lr,
            max_epochs=self.max_epochs,
            batch_size=self.batch_size,
            device=device,
            callbacks=[
                StopOnNaN(),
                ClipGradient(self.clip_grad_norm),
                schedule_callback(factor),
                *(self.callbacks or []),
                *callbacks,
            ],
            **(self.net_params or {}),
        )

    def _take_over(self, snapshot, mean, figures, X, origin):
        """Become the model of a file, and register rows if there are any."""
        sizes = [len(book) for book in snapshot.codebooks]
        self._check_sizes(sizes, origin)
        self._resolve_network(len(sizes))
        for array in (mean, *snapshot.codebooks, *snapshot.state.values()):
            if not np.isfinite(array).all():
                raise ValueError(
                    f"{origin} has NaN or infinite values, which should be finite."
                )
        epoch = figures["epoch"]
        if not is_integer(epoch) or epoch > MAX_EPOCH:
            raise ValueError(
                f"{origin} has epoch={epoch!r}, which should be an integer from 0 to "
                f"{MAX_EPOCH}."
            )
        vars(self).pop("feature_names_in_", None)
        self.mean_, self.n_features_in_ = mean, len(mean)
        self._adopt(snapshot)
        try:
            self._check_width()
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"{origin} has other networks than this estimator: {error}"
            ) from error
        self.best_epoch_ = self.n_iter_ = epoch
        self.history_ = [{"epoch": epoch} for epoch in range(self.n_iter_)] + [figures]
        self._n_features_out = len(sizes)
        self._forget_rows()
        self.fingerprint_ = self._fingerprint()
        try:
            check_fitted(self)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{origin} should hold a model as a fit makes it, but {error}."
            ) from error
        if X is not None:
            X = self._validate(X)
            self._publish(X, self._encode(X))

    def _check_width(self):
        """Check that networks, weights and codewords fit together."""
        if len(self.hidden_layer_sizes) > len(self.state_):
            raise ValueError("hidden_layer_sizes has more layers than state_")
        n_features, n_latent = self.n_features_in_, self.codebooks_[0].shape[1]
        # Without memory: networks of any size may be asked for.
        networks = self._networks(n_features, None, "meta")
        widths = [
            network.eval()(torch.zeros(1, n_in, device="meta")).shape[1]
            for network, n_in in zip(networks, (n_features, n_latent), strict=True)
        ]
        weights = {
            f"{prefix}.{name}": value
            for prefix, network in zip(("encoder", "decoder"), networks, strict=True)
            for name, value in network.state_dict().items()
        }
        # Checkpoints have single values in one dimension.
        wanted = {
            name: (str(value.dtype).removeprefix("torch."), *(value.shape or (1,)))
            for name, value in weights.items()
        }
        found = {
            name: (value.dtype.name, *(value.shape or (1,)))
            for name, value in self.state_.items()
        }
        if found != wanted or widths != [n_latent, n_features]:
            raise ValueError(
                "state_ should have the weights of networks with these parameters, "
                f"hidden_layer_sizes={self.hidden_layer_sizes!r} among them"
            )

    def _check_sizes(self, sizes, origin):
        """Check codebooks that are there; a fit on few rows may have made fewer."""
        wanted = self._resolve_sizes()
        if len(sizes) != len(wanted) or (np.array(sizes) > wanted).any():
            raise ValueError(
                f"{origin} has codebook_sizes={tuple(sizes)}, which should equal "
                f"{tuple(wanted)} of this estimator. Set codebook_sizes."
            )

    def _latent_unit(self):
        """Unit of the latent space, which is that of the rows."""
        return self.unit_

    def _in_units(self, encoder):
        """Encoder of the module as a map of centred rows to latents."""

        @torch.inference_mode()
        def latent(rows):
            return encoder(rows / self.unit_) * self._latent_unit()

        return latent

    def _latent(self, device):
        encoder, _ = self._fitted_networks()
        return self._in_units(encoder.double().to(device))

    def _decoder(self):
        _, decoder = self._fitted_networks()
        decoder = decoder.double()

        @torch.inference_mode()
        def decode(quantised):
            return decoder(quantised / self._latent_unit()) * self.unit_

        return decode
