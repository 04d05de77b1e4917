"""RQKMeansPlus: RQ-KMeans codebooks, fine-tuned inside a residual autoencoder."""

from os import PathLike, fspath

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import check_memory

from sk_rqkplus._autoencoder import BaseAutoencoder
from sk_rqkplus._base import NON_NEGATIVE
from sk_rqkplus._codebook_files import read_codebooks
from sk_rqkplus._compat import HasMethods, StrOptions
from sk_rqkplus._journal import inside
from sk_rqkplus._networks import MLP, ResidualMLP
from sk_rqkplus._rqkmeans import RQKMeans


class RQKMeansPlus(BaseAutoencoder):
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

    gradient : {"full", "rotation", "ste"}, default="full"
        ``"full"`` lets the commitment loss of every level reach the encoder.
        ``"rotation"`` does too, and turns the gradient of the decoder as quantisation
        turns the latent (the rotation trick). ``"ste"`` passes gradients straight
        through at every level, as published, which cancels those of all levels but the
        first.

    codebooks : RQKMeans, sequence of ndarray, path or None, default=None
        Codebooks to start from: a fitted :class:`RQKMeans` (in a search, wrapped in
        :class:`sklearn.frozen.FrozenEstimator`), one array per level, or an .npz file
        with keys ``codebook_0``, ``codebook_1`` and so on. Arrays and files are taken
        to be un-centred: ``mean_`` is then zero. None fits ``rqkmeans``.

    rqkmeans : RQKMeans, default=None
        First stage to clone and fit, with the ``codebook_sizes`` of this estimator and
        ``beam_size=1``; None is an RQKMeans with the same ``balance`` and else with its
        own defaults.

    memory : str, path or joblib.Memory, default=None
        Cache of the first stage: a grid over other parameters then fits it once, if
        ``random_state`` is an int.

    augment : {"auto", "mixtures", "none"}, default="auto"
        Train on mixtures of a row and its neighbours, drawn anew in every epoch, which
        lowers the error of unseen rows where rows are few; "auto" does so where there
        are 4 to 64 rows per codeword. With "none" the model fits the rows it sees more
        closely and gains nothing on others. Figures, codes and IDs are always those of
        the rows of ``X``.

    balance : {"last", "all", "none"} or array-like of bool, default="last"
        Which levels stay balanced while the encoder moves: their prices take a step
        after every epoch, and are found anew, on up to 131,072 rows, at every
        evaluation.

    sinkhorn_epsilon : float or array-like of float, default=0.0
        Temperature of a balanced assignment within every training batch, for all levels
        or for each; 0 takes the nearest codeword.

    sinkhorn_iter : int, default=50
        Iterations of that assignment.

    revive_dead : bool, default=True
        Move codewords that no row chose between two evaluations to the rows of largest
        error.

    optimizer : {"adamw", "adam", "sgd", "adagrad", "rmsprop"}, default="adamw"
        Optimizer.

    lr : float, default=1e-3
        Learning rate after the warm-up.

    encoder_lr_ratio : float, default=0.01
        Learning rate of the encoder over that of codewords and decoder. Codewords that
        follow an encoder which moves fast describe unseen rows worse.

    weight_decay : float, default=0.0
        Weight decay of the optimizer.

    lr_schedule : {"cosine", "linear", "constant"}, default="cosine"
        Course of the learning rate after the warm-up.

    warmup_epochs : int, default=5
        Epochs in which the learning rate rises from zero.

    clip_grad_norm : float or None, default=1.0
        Largest norm of the gradient; None does not clip.

    max_epochs : int, default=150
        Most epochs. 0 leaves RQ-KMeans as it is.

    batch_size : int, default=512
        Rows per optimizer step.

    eval_every : int, default=25
        Epochs between two evaluations on all rows.

    monitor : {"reconstruction_error", "collision_rate", "neighbour_recall"} or \
            callable, default="reconstruction_error"
        Which figure decides about the best epoch. A callable ``f(estimator, X)``
        returns a float, higher is better, like those of :mod:`~sk_rqkplus.scorers`.

    validation_fraction : float or None, default=None
        Share of the rows that are held out of both stages and on which ``monitor`` is
        looked at; None looks at the fitted rows. All rows get codes and IDs. A first
        stage given as ``codebooks`` may have seen them.

    patience : int or None, default=None
        Stop after so many evaluations without a better one; None never stops early.

    checkpoint_dir : path-like, default=None
        Directory of this fit alone. Every evaluation writes checkpoints: those of the
        best reconstruction error, of the best collision rate and of the last
        evaluations, see :meth:`restore`, and the state that ``resume`` goes on from.

    n_checkpoints : int, default=5
        How many of the last evaluations are kept there.

    resume : bool, default=False
        Go on from what is in ``checkpoint_dir``, the first stage included, to the model
        that the fit would have had without a break, bit for bit on one kind of CPU with
        ``random_state``. An empty directory starts a fit, and so does False, which
        gives up what is there.

    callbacks : list of skorch.callbacks.Callback, default=None
        Further callbacks of the skorch net.

    net_params : dict, default=None
        Further parameters of the skorch net, such as
        ``{"optimizer__betas": (0.9, 0.95)}``.

    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Precision of the layers in training; weights and codewords stay in float32.
        "auto" takes bfloat16 where the processor or the GPU is fast at it. Encoding is
        exact in any case.

    accelerate : bool, default=False
        Train in several processes, each on its share of every batch, with the
        accelerate library: call ``fit`` with the same rows in every process that
        ``accelerate launch`` or ``torchrun`` starts.

    dedup : {"reassign", "suffix"}, default="reassign"
        How :meth:`predict` makes IDs unique, see :func:`~sk_rqkplus.ids.deduplicate`.

    store_catalogue : bool, default=True
        Remember the fitted rows (28 bytes each), so that :meth:`predict` recognises
        them. Without it IDs are unique within a call only.

    nan_policy : {"raise", "zero"}, default="raise"
        What NaN and infinity in ``X`` are: an error that names the first of them, or 0
        with a warning that counts them, as published. Rows are converted as they are
        read, so that this copies no file either.

    device : str or torch.device, default="auto"
        Where to compute: "cpu", "cuda", or "auto" for a GPU where there is one.

    random_state : int, RandomState instance or None, default=None
        Source of randomness. Anything but None gives a bit-identical fit for any number
        of threads; on a CPU the training then runs in one thread.
        See :term:`Glossary <random_state>`.

    verbose : int, default=0
        Show a progress bar, and before it how many collisions are unavoidable because
        rows are copies of others.

    Attributes
    ----------
    codebooks_ : list of ndarray of shape (n_codewords, n_features), float32
        Codewords of each level, in the space of the encoder.

    prices_ : list of ndarray of shape (n_codewords,), float64
        Added to the squared distance of each codeword; at levels that are not balanced
        they are those of the first stage, in general zero.

    mean_ : ndarray of shape (n_features,)
        Removed from the rows before anything else.

    unit_ : float
        Power of two that centred rows are divided by before the encoder, so that ``lr``
        suits rows of any scale; 1 where ``codebooks`` was given as arrays. Losses in
        ``history_`` are those of such rows.

    state_ : dict of str to ndarray
        Weights of encoder and decoder, named as in the published ``state_dict``.

    rqkmeans_ : RQKMeans or None
        The fitted first stage; None where ``codebooks`` was given as arrays.

    history_ : list of dict
        One entry per epoch, from epoch 0: mean losses of its batches and the number
        of codewords revived after it; where it was evaluated, also
        ``reconstruction_error``, ``collision_rate``, the ``perplexity`` of every level
        and what ``monitor`` names, and the same figures of held-out rows with the
        prefix ``validation_``.

    best_epoch_ : int
        Epoch that was restored; 0 is RQ-KMeans.

    codes_ : ndarray of shape (n_samples, n_levels), int32
        Codes of the fitted rows; equal to ``transform(X)``.

    ids_ : ndarray of shape (n_samples, n_levels + 1), int32
        Unique IDs of the fitted rows; equal to ``predict(X)``.

    catalogue_ : Catalogue
        Registry of the IDs that are given, where ``store_catalogue`` is true.

    fingerprint_ : str
        Digest of the model, which its catalogue has too.

    n_iter_ : int
        Epochs trained.

    n_features_in_ : int
        Number of features seen during fit.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, where X had them.

    See Also
    --------
    RQKMeans : The first stage alone.
    RQVAE : The classic baseline, which starts from nothing.

    Notes
    -----
    Epochs are scored on all fitted rows, or on at most 65,536 of them where there are
    more.
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

    _parts = (RQKMeans,)
    _how_to_need_less = "Give rqkmeans=RQKMeans(max_samples=...), or fit on fewer rows."
    _fitted_attributes = (*BaseAutoencoder._fitted_attributes, "rqkmeans_")
    _parameter_constraints: dict = {
        **BaseAutoencoder._parameter_constraints,
        "decoder": [StrOptions({"residual", "mlp"})],
        "codebooks": [HasMethods("fit"), "array-like", str, PathLike, None],
        "rqkmeans": [HasMethods("fit"), None],
        "memory": [str, PathLike, HasMethods("cache"), None],
        "encoder_lr_ratio": [NON_NEGATIVE],
    }

    _published = {
        "leave_out": ("latent_dim", "kmeans_iter", "init"),
        "decoder": "mlp",
        "gradient": "ste",
        "balance": "none",
        "augment": "none",
        "revive_dead": False,
        "encoder_lr_ratio": 1.0,
        "dedup": "suffix",
    }
    _epoch_0 = "the fit is that of RQKMeans"

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
        augment="auto",
        balance="last",
        sinkhorn_epsilon=0.0,
        sinkhorn_iter=50,
        revive_dead=True,
        optimizer="adamw",
        lr=1e-3,
        encoder_lr_ratio=0.01,
        weight_decay=0.0,
        lr_schedule="cosine",
        warmup_epochs=5,
        clip_grad_norm=1.0,
        max_epochs=150,
        batch_size=512,
        eval_every=25,
        monitor="reconstruction_error",
        validation_fraction=None,
        patience=None,
        checkpoint_dir=None,
        n_checkpoints=5,
        resume=False,
        callbacks=None,
        net_params=None,
        precision="auto",
        accelerate=False,
        dedup="reassign",
        store_catalogue=True,
        nan_policy="raise",
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
        self.augment = augment
        self.balance = balance
        self.sinkhorn_epsilon = sinkhorn_epsilon
        self.sinkhorn_iter = sinkhorn_iter
        self.revive_dead = revive_dead
        self.optimizer = optimizer
        self.lr = lr
        self.encoder_lr_ratio = encoder_lr_ratio
        self.weight_decay = weight_decay
        self.lr_schedule = lr_schedule
        self.warmup_epochs = warmup_epochs
        self.clip_grad_norm = clip_grad_norm
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.eval_every = eval_every
        self.monitor = monitor
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.checkpoint_dir = checkpoint_dir
        self.n_checkpoints = n_checkpoints
        self.resume = resume
        self.callbacks = callbacks
        self.net_params = net_params
        self.precision = precision
        self.accelerate = accelerate
        self.dedup = dedup
        self.store_catalogue = store_catalogue
        self.nan_policy = nan_policy
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _networks(self, n_features, generator, device="cpu"):
        """Encoder and decoder, weights not set."""
        sizes = [n_features, *self.hidden_layer_sizes, n_features]
        options = self._network_options(generator, device)
        kind = ResidualMLP if self.decoder == "residual" else MLP
        return ResidualMLP(sizes, **options), kind(sizes[::-1], **options)

    def _start(self, X, sizes, rng, journal):
        """Module of epoch 0, which is RQ-KMeans; sets ``mean_`` and ``rqkmeans_``."""
        books, prices = self._warm_start(X, sizes, rng, journal)
        # Arrays and files are taken as they are, as published.
        self.unit_ = 1.0 if self.rqkmeans_ is None else self._resolve_unit(X)
        encoder, decoder = self._new_networks(X.shape[1], rng)
        return self._make_module(encoder, decoder, books, prices)

    def _take_over(self, *args):
        self.rqkmeans_ = None
        super()._take_over(*args)

    def _first_stage(self, sizes):
        """The first stage, not fitted."""
        template = self.rqkmeans
        if template is None:
            template = RQKMeans(
                balance=self.balance,
                dedup="suffix",
                store_catalogue=False,
                nan_policy=self.nan_policy,
                device=self.device,
                verbose=self.verbose,
            )
        if isinstance(template, type):
            raise TypeError(
                f"rqkmeans={template.__name__} should be an estimator, not a class. "
                "Give an instance."
            )
        return clone(template).set_params(codebook_sizes=tuple(sizes))

    def _tell_of_copies(self, X):
        """Say it once: a first stage that is fitted may say it too."""
        fitted = self.codebooks is None
        if not (fitted and getattr(self._first_stage([]), "verbose", 0)):
            super()._tell_of_copies(X)

    def _bytes_to_start(self, X, sizes):
        """Memory of the first stage, where it is fitted."""
        first = self._first_stage(sizes)
        if self.codebooks is not None or not isinstance(first, RQKMeans):
            return 0
        first._validate_params()
        return first._bytes_to_fit(X)

    def _warm_start(self, X, sizes, rng, journal):
        """Codebooks and prices of the first stage."""
        first = self.codebooks
        if first is None:
            template = self._first_stage(sizes)
            seed = rng.randint(2**31 - 1)
            if template.random_state is None:
                template.set_params(random_state=seed)
            folder = self._first_folder(template, journal)
            # Where its states are does not change what a first stage is.
            fit_once = self._cache().cache(_fit_first_stage, ignore=["folder"])
            first = fit_once(template, X, folder)
        if hasattr(first, "fit"):
            self._check_first_stage(first, X, sizes)
            self.rqkmeans_, self.mean_ = first, first.mean_
            books, prices = first.codebooks_, first.prices_
        else:
            books = self._check_codebooks(first, X, sizes)
            prices = [np.zeros(len(book)) for book in books]
            self.rqkmeans_, self.mean_ = None, np.zeros(X.shape[1], dtype=X.dtype)
        return books, prices

    def _cache(self):
        """Memory of joblib, which knows a folder as a string only."""
        is_path = isinstance(self.memory, PathLike)
        return check_memory(fspath(self.memory) if is_path else self.memory)

    def _first_folder(self, template, journal):
        """Parameters by which the first stage has a folder inside that of the fit."""
        taken = template.get_params(deep=False).get("checkpoint_dir", self)
        if journal.book is None or taken is not None:
            return {}
        folder = inside(self.checkpoint_dir, "rqkmeans")
        return {"checkpoint_dir": str(folder), "resume": journal.goes_on}

    def _check_first_stage(self, first, X, sizes):
        """Check that a fitted first stage suits the data."""
        if not isinstance(getattr(first, "estimator", first), RQKMeans):
            raise TypeError(
                f"codebooks={first!r} should be an RQKMeans, arrays or a file. Give "
                "the codebooks_ of another estimator as arrays."
            )
        if not hasattr(first, "codebooks_"):
            raise ValueError(
                "codebooks is an estimator that should be fitted. clone and "
                "GridSearchCV return it to its unfitted state: wrap it in "
                "sklearn.frozen.FrozenEstimator, or give rqkmeans and memory instead."
            )
        if first.beam_size > 1:
            raise ValueError(
                f"codebooks has beam_size={first.beam_size}, which should be 1: codes "
                "of this estimator are greedy. Fit it with beam_size=1."
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


def _fit_first_stage(template, X, folder):
    if not folder:
        return template.fit(X)
    first = template.set_params(**folder).fit(X)
    return first.set_params(checkpoint_dir=None, resume=False)
