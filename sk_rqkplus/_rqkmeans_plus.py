"""RQKMeansPlus: RQ-KMeans codebooks, fine-tuned inside a residual autoencoder."""

import copy
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from numbers import Integral, Real
from os import PathLike

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, check_memory

from sk_rqkplus import metrics
from sk_rqkplus._base import NON_NEGATIVE, POSITIVE_INT, BaseQuantizer
from sk_rqkplus._codebook_files import read_codebooks
from sk_rqkplus._compat import HasMethods, Interval, StrOptions, _fit_context
from sk_rqkplus._lloyd import balance_prices
from sk_rqkplus._nearest import Codewords
from sk_rqkplus._progress import progress
from sk_rqkplus._residual import Leftover
from sk_rqkplus._rqkmeans import RQKMeans
from sk_rqkplus._rqvae import ResidualQuantizer, RQVAEModule, VectorQuantizer
from sk_rqkplus._threads import one_thread
from sk_rqkplus._training import (
    LOSSES,
    MONITORS,
    OPTIMIZERS,
    ClipGradient,
    KeepBest,
    Rows,
    RQVAENet,
    StopOnNaN,
    Tick,
    learning_rate,
    schedule_callback,
    summarise,
)

# Prices of balanced levels are found on at most so many rows.
PRICE_ROWS = 2**18


@dataclass
class Snapshot:
    """A model at one epoch: weights of the networks, codebooks and prices."""

    state: dict[str, np.ndarray]
    codebooks: list[np.ndarray]
    prices: list[np.ndarray]


class RQKMeansPlus(BaseQuantizer):
    """RQ-KMeans+: residual k-means codebooks fine-tuned together with an encoder.

    The encoder is ``X + MLP(X)`` with the last layer of the MLP at zero, and the
    codebooks start from :class:`RQKMeans`. Epoch 0 therefore *is* RQ-KMeans. It is
    scored like every other epoch, and restored if none of them is better.

    Read more in the :ref:`User Guide <rqkmeans_plus>`.

    Parameters
    ----------
    codebook_sizes : array-like of int, default=(256, 256, 256)
        Number of codewords of each level.

    beta : float, default=0.25
        Weight of the commitment loss, which pulls the encoder to the codewords.

    quant_weight : float, default=1.0
        Weight of the quantisation loss against the reconstruction loss.

    loss : {"mse", "l1"}, default="mse"
        Reconstruction loss.

    hidden_layer_sizes : array-like of int, default=(512,)
        Hidden layers of the encoder; the decoder has them in reverse.

    dropout : float, default=0.0
        Probability of dropping an input of a layer.

    batch_norm : bool, default=False
        Normalise before every ReLU.

    decoder : {"residual", "mlp"}, default="residual"
        ``"residual"`` starts as the identity, like the encoder; ``"mlp"`` starts at
        random, as published.

    gradient : {"full", "ste"}, default="full"
        ``"full"`` lets the commitment loss of every level reach the encoder. ``"ste"``
        passes gradients straight through at every level, as published, which cancels
        those of all levels but the first.

    codebooks : RQKMeans, sequence of ndarray, path or None, default=None
        Codebooks to start from: a fitted :class:`RQKMeans` (in a search, wrapped in
        :class:`sklearn.frozen.FrozenEstimator`), one array per level, or an .npz file
        with keys ``codebook_0``, ``codebook_1`` and so on. Arrays and files are taken
        to be un-centred: ``mean_`` is then zero. None fits ``rqkmeans``.

    rqkmeans : RQKMeans, default=None
        First stage to clone and fit, with the ``codebook_sizes`` of this estimator;
        None is an RQKMeans with the same ``balance``.

    memory : str, path or joblib.Memory, default=None
        Cache of the first stage: a grid over other parameters then fits it once, if
        ``random_state`` is an int.

    balance : {"last", "all", "none"} or array-like of bool, default="last"
        Which levels stay balanced while the encoder moves.

    sinkhorn_epsilon : float or array-like of float, default=0.0
        Temperature of a balanced assignment within every training batch, for all levels
        or for each; 0 takes the nearest codeword.

    sinkhorn_iter : int, default=50
        Iterations of that assignment.

    optimizer : {"adamw", "adam", "sgd", "adagrad", "rmsprop"}, default="adamw"
        Optimizer.

    lr : float, default=1e-3
        Learning rate after the warm-up.

    weight_decay : float, default=0.0
        Weight decay of the optimizer.

    lr_schedule : {"cosine", "linear", "constant"}, default="cosine"
        Course of the learning rate after the warm-up.

    warmup_epochs : int, default=5
        Epochs in which the learning rate rises from zero.

    clip_grad_norm : float or None, default=1.0
        Largest norm of the gradient; None does not clip.

    max_epochs : int, default=100
        Most epochs. 0 leaves RQ-KMeans as it is.

    batch_size : int, default=512
        Rows per optimizer step.

    eval_every : int, default=10
        Epochs between two evaluations on all rows.

    monitor : {"reconstruction_error", "collision_rate"}, \
            default="reconstruction_error"
        Which figure decides about the best epoch.

    patience : int or None, default=None
        Stop after so many evaluations without a better one; None never stops early.

    callbacks : list of skorch.callbacks.Callback, default=None
        Further callbacks of the skorch net.

    net_params : dict, default=None
        Further parameters of the skorch net, such as
        ``{"optimizer__betas": (0.9, 0.95)}``.

    dedup : {"reassign", "suffix"}, default="reassign"
        How :meth:`predict` makes IDs unique, see :func:`~sk_rqkplus.ids.deduplicate`.

    store_catalogue : bool, default=True
        Remember the fitted rows (28 bytes each), so that :meth:`predict` recognises
        them. Without it IDs are unique within a call only.

    device : str or torch.device, default="auto"
        Where to compute: "cpu", "cuda", or "auto" for a GPU where there is one.

    random_state : int, RandomState instance or None, default=None
        Source of randomness. Anything but None gives a bit-identical fit for any number
        of threads; on a CPU the training then runs in one thread.
        See :term:`Glossary <random_state>`.

    verbose : int, default=0
        Show a progress bar.

    Attributes
    ----------
    codebooks_ : list of ndarray of shape (n_codewords, n_features), float32
        Codewords of each level, in the space of the encoder.

    prices_ : list of ndarray of shape (n_codewords,), float64
        Added to the squared distance of each codeword; zero at unbalanced levels.

    mean_ : ndarray of shape (n_features,)
        Removed from the rows before anything else.

    state_ : dict of str to ndarray
        Weights of encoder and decoder, named as in the published ``state_dict``.

    rqkmeans_ : RQKMeans or None
        The fitted first stage; None where ``codebooks`` was given as arrays.

    history_ : list of dict
        One entry per epoch, from epoch 0: mean losses of its batches, and
        ``reconstruction_error`` and ``collision_rate`` where it was evaluated.

    best_epoch_ : int
        Epoch that was restored; 0 is RQ-KMeans.

    codes_ : ndarray of shape (n_samples, n_levels), int32
        Codes of the fitted rows; equal to ``transform(X)``.

    ids_ : ndarray of shape (n_samples, n_levels + 1), int32
        Unique IDs of the fitted rows; equal to ``predict(X)``.

    catalogue_ : Catalogue
        Registry of the IDs that are given, where ``store_catalogue`` is true.

    n_iter_ : int
        Epochs trained.

    n_features_in_ : int
        Number of features seen during fit.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, where X had them.

    See Also
    --------
    RQKMeans : The first stage alone.

    Notes
    -----
    The encoder runs in float64 when rows are encoded, so that a code does not depend on
    the other rows of a batch.

    References
    ----------
    "GPR: Towards a Generative Pre-trained One-Model Paradigm for Large-Scale
    Advertising Recommendation", arXiv 2511.10138.

    "MiniOneRec: An Open-Source Framework for Scaling Generative Recommendation", arXiv
    2510.24431.

    Examples
    --------
    >>> from sk_rqkplus import RQKMeansPlus
    >>> from sk_rqkplus.datasets import make_catalogue
    >>> X = make_catalogue(200, 8, random_state=0).data
    >>> rq = RQKMeansPlus((8, 8), max_epochs=5, random_state=0).fit(X)
    >>> rq.predict(X).shape
    (200, 3)
    """

    _parameter_constraints: dict = {
        **BaseQuantizer._parameter_constraints,
        "beta": [NON_NEGATIVE],
        "quant_weight": [NON_NEGATIVE],
        "loss": [StrOptions(set(LOSSES))],
        "hidden_layer_sizes": ["array-like"],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "batch_norm": ["boolean"],
        "decoder": [StrOptions({"residual", "mlp"})],
        "gradient": [StrOptions({"full", "ste"})],
        "codebooks": [HasMethods("fit"), "array-like", str, PathLike, None],
        "rqkmeans": [HasMethods("fit"), None],
        "memory": [str, PathLike, HasMethods("cache"), None],
        "sinkhorn_epsilon": [NON_NEGATIVE, "array-like"],
        "sinkhorn_iter": [POSITIVE_INT],
        "optimizer": [StrOptions(set(OPTIMIZERS))],
        "lr": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [NON_NEGATIVE],
        "lr_schedule": [StrOptions({"constant", "linear", "cosine"})],
        "warmup_epochs": [Interval(Integral, 0, None, closed="left")],
        "clip_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
        "max_epochs": [Interval(Integral, 0, None, closed="left")],
        "batch_size": [POSITIVE_INT],
        "eval_every": [POSITIVE_INT],
        "monitor": [StrOptions(set(MONITORS))],
        "patience": [POSITIVE_INT, None],
        "callbacks": [list, tuple, None],
        "net_params": [dict, None],
    }

    def __init__(
        self,
        codebook_sizes=(256, 256, 256),
        *,
        beta=0.25,
        quant_weight=1.0,
        loss="mse",
        hidden_layer_sizes=(512,),
        dropout=0.0,
        batch_norm=False,
        decoder="residual",
        gradient="full",
        codebooks=None,
        rqkmeans=None,
        memory=None,
        balance="last",
        sinkhorn_epsilon=0.0,
        sinkhorn_iter=50,
        optimizer="adamw",
        lr=1e-3,
        weight_decay=0.0,
        lr_schedule="cosine",
        warmup_epochs=5,
        clip_grad_norm=1.0,
        max_epochs=100,
        batch_size=512,
        eval_every=10,
        monitor="reconstruction_error",
        patience=None,
        callbacks=None,
        net_params=None,
        dedup="reassign",
        store_catalogue=True,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.codebook_sizes = codebook_sizes
        self.beta = beta
        self.quant_weight = quant_weight
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.dropout = dropout
        self.batch_norm = batch_norm
        self.decoder = decoder
        self.gradient = gradient
        self.codebooks = codebooks
        self.rqkmeans = rqkmeans
        self.memory = memory
        self.balance = balance
        self.sinkhorn_epsilon = sinkhorn_epsilon
        self.sinkhorn_iter = sinkhorn_iter
        self.optimizer = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.lr_schedule = lr_schedule
        self.warmup_epochs = warmup_epochs
        self.clip_grad_norm = clip_grad_norm
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.eval_every = eval_every
        self.monitor = monitor
        self.patience = patience
        self.callbacks = callbacks
        self.net_params = net_params
        self.dedup = dedup
        self.store_catalogue = store_catalogue
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Fit the first stage, fine-tune it, and register the rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Item embeddings: an array, a DataFrame or a memory-mapped file.

        y : None
            Ignored, present for API consistency.

        Returns
        -------
        self : RQKMeansPlus
            The fitted estimator.

        Raises
        ------
        ValueError
            If ``codebooks`` do not fit, or a loss is not finite.
        """
        with self._all_or_nothing():
            X = self._validate(X, reset=True)
            sizes = self._resolve_sizes()
            balanced = self._resolve_balance(len(sizes))
            self._resolve_network(len(sizes))
            rng = check_random_state(self.random_state)

            start = self._warm_start(X, sizes, rng)
            keeper, net = self._train(X, start, balanced, rng)
            self._restore_best(X, keeper, balanced)
            self.history_ = summarise(net.history, keeper.figures_)
            self.n_iter_ = len(net.history)
            self._publish(X, self._encode(X))
        return self

    @property
    def net_(self):
        """Skorch net of the fitted model, built anew at every access.

        Returns
        -------
        net : skorch.NeuralNet
            Initialised, with the fitted weights.
        """
        check_is_fitted(self)
        device = self._resolve_device()
        net = self._make_net(self._fitted_module(), device, [])
        return net.initialize()

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
        epsilon = np.asarray(self.sinkhorn_epsilon, dtype=float)
        if epsilon.shape not in ((), (n_levels,)) or not (epsilon >= 0).all():
            raise ValueError(
                f"sinkhorn_epsilon={self.sinkhorn_epsilon!r} should be >= 0, one value "
                f"or one for each of the {n_levels} levels."
            )
        return np.broadcast_to(epsilon, n_levels).tolist()

    def _warm_start(self, X, sizes, rng):
        """Codebooks and prices to start from; sets ``mean_`` and ``rqkmeans_``."""
        first = self.codebooks
        if first is None:
            template = self.rqkmeans
            if template is None:
                template = RQKMeans(
                    balance=self.balance,
                    dedup="suffix",
                    store_catalogue=False,
                    device=self.device,
                    verbose=self.verbose,
                )
            template = clone(template).set_params(codebook_sizes=tuple(sizes))
            seed = rng.randint(2**31 - 1)
            if template.random_state is None:
                template.set_params(random_state=seed)
            first = check_memory(self.memory).cache(_fit_first_stage)(template, X)
        if hasattr(first, "fit"):
            self._check_first_stage(first, X, sizes)
            self.rqkmeans_, self.mean_ = first, first.mean_
            books, prices = first.codebooks_, first.prices_
        else:
            books = self._check_codebooks(first, X, sizes)
            prices = [np.zeros(len(book)) for book in books]
            self.rqkmeans_, self.mean_ = None, np.zeros(X.shape[1], dtype=X.dtype)
        return Snapshot({}, [book.copy() for book in books], [p.copy() for p in prices])

    def _check_first_stage(self, first, X, sizes):
        """Check that a fitted first stage suits the data."""
        if not hasattr(first, "codebooks_"):
            raise ValueError(
                "codebooks is an estimator that should be fitted. clone and "
                "GridSearchCV return it to its unfitted state: wrap it in "
                "sklearn.frozen.FrozenEstimator, or give rqkmeans and memory instead."
            )
        found = tuple(np.asarray(first.codebook_sizes).tolist())
        if found != tuple(sizes):
            raise ValueError(
                f"codebooks of codebook_sizes={found} should have those of this "
                f"estimator, {tuple(sizes)}. Set codebook_sizes to match."
            )
        if first.n_features_in_ != X.shape[1]:
            raise ValueError(
                f"codebooks have n_features={first.n_features_in_}, which should equal "
                f"n_features={X.shape[1]} of X. Fit both on the same embeddings."
            )

    def _check_codebooks(self, codebooks, X, sizes):
        """Codebooks from arrays or a file, after a check of every shape."""
        if isinstance(codebooks, str | PathLike):
            codebooks = read_codebooks(codebooks, len(sizes))
        if len(codebooks) != len(sizes):
            raise ValueError(
                f"codebooks has {len(codebooks)} levels, which should equal the "
                f"{len(sizes)} of codebook_sizes={tuple(sizes)}."
            )
        books = []
        for level, (book, size) in enumerate(zip(codebooks, sizes, strict=True)):
            book = np.asarray(book, dtype=np.float32)
            if book.shape != (size, X.shape[1]):
                raise ValueError(
                    f"codebooks[{level}] (codebook_{level}) has shape={book.shape}, "
                    f"which should be {(size, X.shape[1])}: codebook_sizes[{level}] "
                    "and the number of features of X."
                )
            if not np.isfinite(book).all():
                raise ValueError(
                    f"codebooks[{level}] (codebook_{level}) has NaN or infinite "
                    "values, which should be finite."
                )
            books.append(book)
        return books

    def _train(self, X, start, balanced, rng):
        """Train from a warm start; return what kept the best epoch, and the net."""
        device = self._resolve_device()
        module = self._make_module(
            start, torch.Generator(device).manual_seed(rng.randint(2**31 - 1))
        )
        initial = torch.Generator().manual_seed(rng.randint(2**31 - 1))
        module.encoder.reset(initial)
        module.decoder.reset(initial)
        rows = Rows(X, mean=self.mean_, batch_size=self.batch_size, rng=rng)

        def evaluate(net):
            """Score the module as it stands."""
            # Epoch 0 keeps the prices of the first stage, to the last bit.
            if len(net.history):
                self._update_prices(X, net.module_, balanced, exact=False)
            return self._figures(X, _snapshot(net.module_))

        keeper = KeepBest(
            evaluate,
            lambda net: _snapshot(net.module_),
            monitor=self.monitor,
            every=self.eval_every,
            patience=self.patience,
        )
        reproducible = self.random_state is not None and device.type == "cpu"
        with (
            one_thread() if reproducible else nullcontext(),
            progress(self, self.max_epochs, "epoch") as tick,
        ):
            net = self._make_net(module, device, [keeper, Tick(tick)], len(rows))
            net.fit(rows)
        return keeper, net

    def _figures(self, X, snapshot):
        """Figures of a snapshot over all rows."""
        self._adopt(snapshot)
        codes = self._encode(X)
        return {
            "reconstruction_error": self._reconstruction_error(X, codes),
            "collision_rate": metrics.collision_rate(codes),
        }

    def _adopt(self, snapshot):
        self.state_ = snapshot.state
        self.codebooks_ = snapshot.codebooks
        self.prices_ = snapshot.prices

    def _restore_best(self, X, keeper, balanced):
        """Take over the best epoch, with exact prices."""
        best, first = keeper.best_, keeper.figures_[0]
        self._adopt(keeper.state_)
        if best["epoch"] > 0 and any(balanced):
            module = self._fitted_module()
            self._update_prices(X, module, balanced, exact=True)
            best.update(self._figures(X, _snapshot(module)))
            if best[self.monitor] >= first[self.monitor]:
                best = first
                self._adopt(keeper.first_state_)
        self.best_epoch_ = best["epoch"]
        if self.best_epoch_ == 0 and self.max_epochs > 0:
            warnings.warn(
                f"no epoch had a lower {self.monitor} than epoch 0: the fit is that of "
                "RQKMeans. Raise max_epochs or lr, or use RQKMeans.",
                stacklevel=4,
            )

    @torch.no_grad()
    def _update_prices(self, X, module, balanced, *, exact):
        """Balance the levels that should be, on the rows as the encoder sees them."""
        if not any(balanced):
            return
        layers = module.rq.vq_layers
        device = layers[0].embedding.weight.device
        step = -(-len(X) // PRICE_ROWS)
        encoder = torch.inference_mode()(copy.deepcopy(module.encoder).eval().double())
        left = Leftover(X[::step], self.mean_, 1.0, latent=encoder, device=device)
        for level, (layer, flag) in enumerate(zip(layers, balanced, strict=True)):
            book = layer.embedding.weight.detach()
            if flag and len(book) > 1:
                layer.prices = balance_prices(
                    left, book, 0.0, layer.prices, exact=exact
                ).prices
            if any(balanced[level + 1 :]):
                words = Codewords(book, layer.prices)
                left.advance(words, left.assign(words))

    def _make_module(self, snapshot, generator=None):
        """Networks with the codebooks of a snapshot, weights not set."""
        epsilons = self._resolve_network(len(snapshot.codebooks))
        layers = [
            VectorQuantizer(
                book,
                prices,
                sinkhorn_epsilon=epsilon,
                sinkhorn_iter=self.sinkhorn_iter,
            )
            for book, prices, epsilon in zip(
                snapshot.codebooks, snapshot.prices, epsilons, strict=True
            )
        ]
        return RQVAEModule(
            snapshot.codebooks[0].shape[1],
            self.hidden_layer_sizes,
            ResidualQuantizer(layers, beta=self.beta, gradient=self.gradient),
            decoder=self.decoder,
            dropout=self.dropout,
            batch_norm=self.batch_norm,
            generator=generator,
        )

    def _fitted_module(self):
        """Networks with the fitted weights, in evaluation mode."""
        module = self._make_module(Snapshot({}, self.codebooks_, self.prices_))
        state = {key: torch.from_numpy(value) for key, value in self.state_.items()}
        for part in ("encoder", "decoder"):
            prefix = f"{part}."
            getattr(module, part).load_state_dict(
                {
                    key.removeprefix(prefix): value.clone()
                    for key, value in state.items()
                    if key.startswith(prefix)
                }
            )
        return module.eval()

    def _make_net(self, module, device, callbacks, n_batches=1):
        """The private skorch net around a module."""
        factor = learning_rate(
            self.lr_schedule,
            self.warmup_epochs * n_batches,
            self.max_epochs * n_batches,
        )
        return RQVAENet(
            module,
            loss=self.loss,
            quant_weight=self.quant_weight,
            optimizer=OPTIMIZERS[self.optimizer],
            optimizer__weight_decay=self.weight_decay,
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

    def _latent(self, device):
        encoder = self._fitted_module().encoder.double().to(device)
        return torch.inference_mode()(encoder)

    def _decoder(self):
        return torch.inference_mode()(self._fitted_module().decoder.double())


def _fit_first_stage(template, X):
    return template.fit(X)


def _snapshot(module):
    """Copy of the state of a module."""
    state = {
        key: value.cpu().numpy().copy()
        for key, value in module.state_dict().items()
        if not key.startswith("rq.")
    }
    layers = module.rq.vq_layers
    books = [layer.embedding.weight.detach().cpu().numpy().copy() for layer in layers]
    prices = [layer.prices.cpu().numpy().copy() for layer in layers]
    return Snapshot(state, books, prices)
