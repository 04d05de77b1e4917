"""RQVAE: the classic baseline, a residual-quantised autoencoder that starts anew."""

import numpy as np

from sk_rqkplus._autoencoder import BaseAutoencoder
from sk_rqkplus._base import POSITIVE_INT, warn_of_fewer
from sk_rqkplus._codebook import fit_codebook
from sk_rqkplus._compat import StrOptions
from sk_rqkplus._copies import count_distinct
from sk_rqkplus._nearest import Codewords
from sk_rqkplus._networks import MLP
from sk_rqkplus._residual import Leftover, power_of_two
from sk_rqkplus._table import column_means

# The first codebooks come from the latents of at most so many rows.
INIT_ROWS = 2**16


class RQVAE(BaseAutoencoder):
    """RQ-VAE: encoder, residual quantiser and decoder, trained from a random start.

    The baseline that :class:`RQKMeansPlus` is compared with. The latent space is small,
    the codebooks start from k-means of what the untrained encoder makes of the rows,
    and gradients pass straight through the quantiser.

    Read more in the :ref:`User Guide <rqvae>`.

    Parameters
    ----------
    codebook_sizes : array-like of int, default=(256, 256, 256)
        Number of codewords of each level.

    latent_dim : int, default=32
        Number of features of the latent space.

    init : {"k-means", "random"}, default="k-means"
        Where the codebooks start: level by level from k-means of the latents, or from
        uniform values in ``[-1 / n_codewords, 1 / n_codewords]``.

    kmeans_iter : int, default=100
        Most iterations of that k-means.

    beta : float, default=0.25
        Weight of the commitment loss, which pulls the encoder to the codewords.

    quant_weight : float, default=1.0
        Weight of the quantisation loss against the reconstruction loss.

    loss : {"mse", "l1"}, default="mse"
        Reconstruction loss.

    hidden_layer_sizes : array-like of int, default=(512, 256, 128)
        Hidden layers of the encoder; the decoder has them in reverse.

    dropout : float, default=0.0
        Probability of dropping an input of a layer.

    batch_norm : bool, default=False
        Normalise before every ReLU.

    gradient : {"full", "rotation", "ste"}, default="ste"
        As in :class:`RQKMeansPlus`; ``"ste"`` is the published rule.

    augment : {"auto", "mixtures", "none"}, default="none"
        Train on mixtures of a row and its neighbours, as in :class:`RQKMeansPlus`.

    balance : {"last", "all", "none"} or array-like of bool, default="none"
        Which levels give every codeword equally many rows.

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

    weight_decay : float, default=0.0
        Weight decay of the optimizer.

    lr_schedule : {"cosine", "linear", "constant"}, default="cosine"
        Course of the learning rate after the warm-up.

    warmup_epochs : int, default=5
        Epochs in which the learning rate rises from zero.

    clip_grad_norm : float or None, default=1.0
        Largest norm of the gradient; None does not clip.

    max_epochs : int, default=200
        Most epochs.

    batch_size : int, default=256
        Rows per optimizer step.

    eval_every : int, default=25
        Epochs between two evaluations.

    monitor : {"reconstruction_error", "collision_rate", "neighbour_recall"} or \
            callable, default="reconstruction_error"
        Which figure decides about the best epoch. A callable ``f(estimator, X)``
        returns a float, higher is better, like those of :mod:`~sk_rqkplus.scorers`.

    validation_fraction : float or None, default=None
        Share of the rows that are held out and on which ``monitor`` is looked at; None
        looks at the fitted rows. All rows get codes and IDs.

    patience : int or None, default=None
        Stop after so many evaluations without a better one; None never stops early.

    checkpoint_dir : path-like, default=None
        Directory of this fit alone. Every evaluation writes checkpoints: those of the
        best reconstruction error, of the best collision rate and of the last
        evaluations, see :meth:`restore`, and the state that ``resume`` goes on from.

    n_checkpoints : int, default=5
        How many of the last evaluations are kept there.

    resume : bool, default=False
        Go on from what is in ``checkpoint_dir``, to the model that the fit would have
        had without a break, bit for bit on one kind of CPU with ``random_state``. An
        empty directory starts a fit, and so does False, which gives up what is there.

    callbacks : list of skorch.callbacks.Callback, default=None
        Further callbacks of the skorch net.

    net_params : dict, default=None
        Further parameters of the skorch net.

    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Precision of the layers in training, as in :class:`RQKMeansPlus`.

    accelerate : bool, default=False
        Train in several processes, as in :class:`RQKMeansPlus`.

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
    codebooks_ : list of ndarray of shape (n_codewords, latent_dim), float32
        Codewords of each level, in the latent space.

    prices_ : list of ndarray of shape (n_codewords,), float64
        Added to the squared distance of each codeword; zero at unbalanced levels.

    mean_ : ndarray of shape (n_features,)
        Mean of the rows, removed before anything else.

    unit_ : float
        Power of two that centred rows are divided by before the encoder.

    state_ : dict of str to ndarray
        Weights of encoder and decoder, named as in the published ``state_dict``.

    history_ : list of dict
        One entry per epoch, from epoch 0, the untrained start, as in
        :class:`RQKMeansPlus`.

    best_epoch_ : int
        Epoch that was restored.

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
    RQKMeansPlus : Starts from RQ-KMeans, and is seldom worse.

    Notes
    -----
    The published code takes k-means of the first batch alone; here it is of all rows,
    or of 65,536 of them.

    References
    ----------
    Lee et al., "Autoregressive Image Generation using Residual Quantization", arXiv
    2203.01941. Rajput et al., "Recommender Systems with Generative Retrieval", arXiv
    2305.05065, which uses it for Semantic IDs.

    Examples
    --------
    >>> from sk_rqkplus import RQVAE
    >>> from sk_rqkplus.datasets import make_catalogue
    >>> X = make_catalogue(200, 8, random_state=0).data
    >>> rq = RQVAE((8, 8), latent_dim=4, max_epochs=5, random_state=0).fit(X)
    >>> rq.predict(X).shape
    (200, 3)
    """

    _parameter_constraints: dict = {
        **BaseAutoencoder._parameter_constraints,
        "latent_dim": [POSITIVE_INT],
        "init": [StrOptions({"k-means", "random"})],
        "kmeans_iter": [POSITIVE_INT],
    }

    _published = {"augment": "none", "revive_dead": False, "dedup": "suffix"}
    _epoch_0 = "the fit is its untrained start"

    def __init__(
        self,
        codebook_sizes=(256, 256, 256),
        *,
        latent_dim=32,
        init="k-means",
        kmeans_iter=100,
        beta=0.25,
        quant_weight=1.0,
        loss="mse",
        hidden_layer_sizes=(512, 256, 128),
        dropout=0.0,
        batch_norm=False,
        gradient="ste",
        augment="none",
        balance="none",
        sinkhorn_epsilon=0.0,
        sinkhorn_iter=50,
        revive_dead=True,
        optimizer="adamw",
        lr=1e-3,
        weight_decay=0.0,
        lr_schedule="cosine",
        warmup_epochs=5,
        clip_grad_norm=1.0,
        max_epochs=200,
        batch_size=256,
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
        self.latent_dim = latent_dim
        self.init = init
        self.kmeans_iter = kmeans_iter
        self.beta = beta
        self.quant_weight = quant_weight
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.dropout = dropout
        self.batch_norm = batch_norm
        self.gradient = gradient
        self.augment = augment
        self.balance = balance
        self.sinkhorn_epsilon = sinkhorn_epsilon
        self.sinkhorn_iter = sinkhorn_iter
        self.revive_dead = revive_dead
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

    def _latent_unit(self):
        """The latent space has a unit of its own."""
        return 1.0

    def _codebook_origin(self):
        """The latent space has an origin of its own."""
        return 0.0

    def _networks(self, n_features, generator, device="cpu"):
        """Encoder and decoder, weights not set."""
        sizes = [n_features, *self.hidden_layer_sizes, self.latent_dim]
        options = self._network_options(generator, device)
        return MLP(sizes, **options), MLP(sizes[::-1], **options)

    def _start(self, X, sizes, rng, journal):
        """Module with random networks; sets ``mean_``."""
        self.mean_ = column_means(X).astype(X.dtype)
        self.unit_ = self._resolve_unit(X)
        encoder, decoder = self._new_networks(X.shape[1], rng)
        if self.init == "k-means":
            books = self._kmeans(X, encoder, sizes, rng)
        else:
            uniform = (rng.uniform(-1, 1, size=(n, self.latent_dim)) for n in sizes)
            books = [book / len(book) for book in uniform]
        prices = [np.zeros(len(book)) for book in books]
        return self._make_module(encoder, decoder, books, prices)

    def _kmeans(self, X, encoder, sizes, rng):
        """Codebooks of what the encoder makes of the rows."""
        rows = X[:: -(-len(X) // INIT_ROWS)]
        device = self._resolve_device()
        latent = self._in_units(encoder.eval().double().to(device))
        largest = Leftover(rows, self.mean_, 1.0, latent=latent, device=device)
        scale = power_of_two(float(largest.squares().max()) ** 0.5)
        left = Leftover(rows, self.mean_, scale, latent=latent, device=device)
        for size in sizes:
            n_codewords = count_distinct(left, size)
            level = fit_codebook(
                left.points, n_codewords, rng, max_iter=self.kmeans_iter
            )
            words = Codewords(level.codebook)
            left.advance(words)
        encoder.cpu().float().train()
        books = [words.codebook.cpu().numpy() * scale for words in left.levels]
        warn_of_fewer(sizes, [len(book) for book in books])
        return [book.astype(np.float32) for book in books]
