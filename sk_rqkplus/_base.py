"""What all estimators share: from a fitted quantiser to codes, IDs and errors."""

from contextlib import contextmanager
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils.validation import check_array, check_is_fitted

from sk_rqkplus._codebook_files import write_codebooks
from sk_rqkplus._compat import CallbackSupportMixin, Interval, StrOptions
from sk_rqkplus._deduplicate import LastDistances
from sk_rqkplus._duplicates import floor_of_copies
from sk_rqkplus._fixed_point import fixed_point_distances
from sk_rqkplus._inputs import check_rows
from sk_rqkplus._memory import check_memory
from sk_rqkplus._persistence import VERSION, read_model, write_model
from sk_rqkplus._progress import tell
from sk_rqkplus._residual import centred, decode, encode
from sk_rqkplus._store import digest
from sk_rqkplus._table import column_means
from sk_rqkplus._version import stamped, unstamped
from sk_rqkplus._warn import warn
from sk_rqkplus.ids import Catalogue, deduplicate, sketch

CHUNK_ROWS = 16_384
# Share of the rows that copies may take beyond the bounds of a level without a warning,
# and that may be copies of which there are too many.
FEW, CROWD = 0.01, 0.05
# Rounding moves a row that comes through float32 matrix products by about 1e-7 of its
# norm; rows of a catalogue that differ by less than this are copies to any model.
SKETCH_TOLERANCE = 1e-5


def warn_of_fewer(wanted, found) -> None:
    """Warn where codebooks became smaller than they should be.

    Parameters
    ----------
    wanted, found : sequence of int
        Sizes of the codebooks.
    """
    if tuple(found) != tuple(wanted):
        warn(
            f"codebook_sizes={tuple(wanted)} became {tuple(found)}: a level had fewer "
            "distinct rows than codewords. Lower codebook_sizes or fit on more rows."
        )


def warn_of_imbalance(level, balance, n_rows, advice) -> None:
    """Warn where a balanced level did not come within its bounds.

    Parameters
    ----------
    level : int
        Which level.
    balance : Balance or Level
        How well it is balanced. Copies may take a few rows beyond the bounds.
    n_rows : int
        Of how many rows.
    advice : str
        What to do.
    """
    if balance.crowd > CROWD:
        warn(
            f"level {level} cannot be balanced: {balance.crowd:.0%} of its rows have "
            "more copies than one codeword may take. Remove duplicates, lower "
            "codebook_sizes or use balance='none'."
        )
    elif balance.n_beyond > (FEW * n_rows if balance.parted else 0):
        copies = "; copies of rows may be the reason" if balance.parted else ""
        warn(
            f"level {level} is not quite balanced: {balance.n_beyond} of {n_rows} rows "
            f"are beyond the bounds of their codewords{copies}. {advice}"
        )


class BaseQuantizer(
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Codes, IDs and reconstructions from codebooks that a subclass fits.

    A subclass publishes ``mean_``, ``codebooks_`` and ``prices_`` in ``fit`` and then
    calls :meth:`_publish`. It may override ``_latent`` and ``_decoder``. All that a fit
    may set is in ``_fitted_attributes``, estimators that may be parts of it are in
    ``_parts``, and what to do where memory is short in ``_how_to_need_less``.
    """

    _parts: tuple = ()
    _how_to_need_less = "Fit on fewer rows."
    _fitted_attributes: tuple = (
        "_n_features_out",
        "_sklearn_output_config",
        "catalogue_",
        "codebooks_",
        "codes_",
        "feature_names_in_",
        "fingerprint_",
        "ids_",
        "mean_",
        "n_features_in_",
        "n_iter_",
        "prices_",
    )

    _parameter_constraints: dict = {
        "codebook_sizes": ["array-like"],
        "balance": [StrOptions({"none", "last", "all"}), "array-like"],
        "dedup": [StrOptions({"reassign", "suffix"})],
        "store_catalogue": ["boolean"],
        "nan_policy": [StrOptions({"raise", "zero"})],
        "device": [str, torch.device],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def fit_transform(self, X, y=None):
        """Fit, and return the codes of the rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Item embeddings.

        y : None
            Ignored, present for API consistency.

        Returns
        -------
        codes : ndarray of shape (n_samples, n_levels), int32
            SID codes, equal to ``fit(X).transform(X)``.
        """
        return self.fit(X, y).codes_.copy()

    def fit_predict(self, X, y=None):
        """Fit, and return the IDs of the rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Item embeddings.

        y : None
            Ignored, present for API consistency.

        Returns
        -------
        ids : ndarray of shape (n_samples, n_levels + 1), int32
            Unique IDs, equal to ``fit(X).predict(X)``.
        """
        return self.fit(X, y).ids_.copy()

    def transform(self, X):
        """SID code of every row.

        The code is a pure function of the row: it does not depend on the other rows,
        their order, the number of threads or the device.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Item embeddings.

        Returns
        -------
        codes : ndarray of shape (n_samples, n_levels), int32
            Index of one codeword per level. Several rows may share a code.
        """
        return self._encode(self._validate(X))

    def predict(self, X, keys=None):
        """Unique ID of every row.

        Rows of the fitted catalogue get the IDs of ``ids_``, in any order and subset.
        Other rows get a free ID of their code, which is provisional: it may be given to
        another row until :meth:`extend` registers it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Item embeddings.

        keys : array-like of shape (n_samples,), default=None
            Item keys: an item of the catalogue is known by its key then, whatever its
            embedding. ``catalogue_.set_keys`` gives keys to the fitted rows.

        Returns
        -------
        ids : ndarray of shape (n_samples, n_levels + 1), int32
            Code and suffix. With ``dedup="reassign"`` the last level of the code may
            differ from that of :meth:`transform`.
        """
        X = self._validate(X)
        return self._identify(X, self._encode(X), keys)

    def extend(self, X, keys=None):
        """Register items in the catalogue for good.

        IDs given before never change, and rows already registered keep theirs.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Item embeddings.

        keys : array-like of shape (n_samples,), default=None
            Item keys, needed if and only if the items of the catalogue have keys.

        Returns
        -------
        ids : ndarray of shape (n_samples, n_levels + 1), int32
            IDs, which :meth:`predict` returns from now on.

        Raises
        ------
        ValueError
            If the estimator was fitted with ``store_catalogue=False``, or ``keys`` are
            not what the catalogue needs.
        """
        X = self._validate(X)
        if not hasattr(self, "catalogue_"):
            raise ValueError(
                f"store_catalogue={self.store_catalogue} should be True for extend. "
                "Fit with store_catalogue=True."
            )
        codes = self._encode(X)
        distances = self._last_distances(X, codes)
        sketches = self.catalogue_.sketch(X)
        return self.catalogue_.extend(codes, sketches, distances, keys=keys)

    def inverse_transform(self, codes):
        """Reconstruct embeddings.

        Parameters
        ----------
        codes : array-like of shape (n_samples, n_levels) or (n_samples, n_levels + 1)
            Codes, or IDs, whose suffix is ignored.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Reconstructed embeddings, in the dtype of the fitted data.
        """
        check_is_fitted(self)
        codes = check_array(codes, dtype=None, input_name="codes")
        sizes = np.array([len(book) for book in self.codebooks_])
        if codes.dtype.kind not in "iu" or codes.shape[1] - len(sizes) not in (0, 1):
            raise ValueError(
                f"codes have shape={codes.shape} and dtype={codes.dtype}, which should "
                f"be integers of {len(sizes)} or {len(sizes) + 1} columns. Give what "
                "transform or predict returns."
            )
        codes = codes[:, : len(sizes)]
        if (codes < 0).any() or (codes >= sizes).any():
            row, level = np.argwhere((codes < 0) | (codes >= sizes))[0]
            raise ValueError(
                f"codes[{row}, {level}]={codes[row, level]} should be in [0, "
                f"{sizes[level]}). Give codes of this estimator."
            )
        X = np.empty((len(codes), self.n_features_in_), dtype=self.mean_.dtype)
        for start in range(0, len(codes), CHUNK_ROWS):
            X[start : start + CHUNK_ROWS] = self._decode(
                codes[start : start + CHUNK_ROWS]
            )
        return X

    def save_codebooks(self, path):
        """Write the codebooks as the .npz of the published code.

        Parameters
        ----------
        path : path-like
            File to write, whole or not at all, with the keys ``codebook_0``,
            ``codebook_1`` and so on. It has no origin: ``mean_`` is added to level 0.
        """
        check_is_fitted(self)
        write_codebooks(path, self.codebooks_, self._codebook_origin())

    def save(self, path):
        """Save to a folder, whole or not at all.

        Parameters
        ----------
        path : path-like
            A new folder, or one that an estimator of this class was saved to before,
            which is replaced in one step.

        Raises
        ------
        ValueError
            If a parameter is no plain value (a callable, say), keys of the catalogue
            are neither integers nor strings, the model was changed after its fit, or
            the folder holds anything else. Nothing is written then.
        OSError
            If the disk is full or the folder cannot be written to. What was saved
            before is left as it was.

        See Also
        --------
        load : Load what this method saved.

        Notes
        -----
        See :ref:`persistence` for the format, which holds no code.

        Examples
        --------
        >>> import tempfile
        >>> from sk_rqkplus import RQKMeans
        >>> from sk_rqkplus.datasets import make_catalogue
        >>> X = make_catalogue(100, 8, random_state=0).data
        >>> rq = RQKMeans((8, 8), random_state=0).fit(X)
        >>> folder = tempfile.mkdtemp()
        >>> rq.save(folder)
        >>> bool((RQKMeans.load(folder).predict(X) == rq.ids_).all())
        True
        """
        check_is_fitted(self)
        write_model(path, self, self._classes())

    @classmethod
    def load(cls, path):
        """Load what :meth:`save` saved. Nothing in the folder is run.

        Parameters
        ----------
        path : path-like
            The folder.

        Returns
        -------
        estimator : estimator
            Fitted, with the same parameters, codes, IDs and catalogue.

        Raises
        ------
        FileNotFoundError
            If there is no such folder.
        ValueError
            If a file is missing, changed or does not belong there, or the folder holds
            an estimator of another class, or the format is newer than this version.
        """
        return read_model(path, cls._classes(), {cls.__name__: VERSION})

    @classmethod
    def _classes(cls):
        """Estimators of which this one may be made, by name."""
        return {each.__name__: each for each in (cls, *cls._parts)}

    def _check_loaded(self):
        """Check what a file says of the fit, beyond single attributes."""
        self._check_width()
        if self._fingerprint() != self.fingerprint_:
            raise ValueError("fingerprint_ is that of another model")

    def _check_width(self):
        """Check that codewords are as wide as what they quantise."""
        if self.codebooks_[0].shape[1] != self.n_features_in_:
            raise ValueError("codebooks_ should have n_features_in_ columns")

    def __getstate__(self):
        return stamped(super().__getstate__())

    def __setstate__(self, state):
        super().__setstate__(unstamped(state, type(self).__name__))

    def score(self, X, y=None):
        """Negative mean squared reconstruction error, so that higher is better.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Item embeddings.

        y : None
            Ignored, present for API consistency.

        Returns
        -------
        score : float
            ``-mean((X - inverse_transform(transform(X)))**2)``, in squared units of X.
        """
        X = self._validate(X)
        return -self._reconstruction_error(X, self._encode(X))

    def _tell_of_copies(self, X):
        """Say before a fit how many collisions no codebook can avoid."""
        if self.verbose:
            tell(str(floor_of_copies(X)))

    def _validate(self, X, *, reset=False):
        if not reset:
            check_is_fitted(self)
        return check_rows(self, X, reset=reset)

    def _check_memory(self, X, needed):
        """Refuse a fit that needs more memory than there is, before it begins."""
        check_memory(needed, len(X), self._resolve_device(), self._how_to_need_less)

    @contextmanager
    def _all_or_nothing(self):
        """Leave the estimator as it was, if a fit does not come to its end."""
        before = dict(vars(self))
        try:
            yield
        except BaseException:
            # scikit-learn closes its callbacks by attributes that must stay.
            kept = {k: v for k, v in vars(self).items() if "_callback" in k}
            self.__dict__.clear()
            self.__dict__.update({**before, **kept})
            raise

    def _resolve_sizes(self):
        """Check the codebook sizes and which of the levels are balanced."""
        sizes = np.asarray(self.codebook_sizes)
        if sizes.ndim != 1 or len(sizes) == 0 or sizes.dtype.kind not in "iu":
            raise ValueError(
                f"codebook_sizes={self.codebook_sizes!r} should be a sequence of one "
                "integer per level. Give for example (256, 256, 256)."
            )
        if sizes.min() < 1:
            raise ValueError(
                f"codebook_sizes={self.codebook_sizes!r} should be >= 1 at every level."
            )
        return sizes.tolist()

    def _resolve_balance(self, n_levels):
        """Whether each level is balanced."""
        if isinstance(self.balance, str):
            last = self.balance != "none"
            return [self.balance == "all"] * (n_levels - 1) + [last]
        flags = list(self.balance)
        if len(flags) != n_levels or not all(
            isinstance(flag, bool | np.bool_) for flag in flags
        ):
            raise ValueError(
                f"balance={self.balance!r} should be 'none', 'last', 'all' or one bool "
                f"for each of the {n_levels} levels."
            )
        return [bool(flag) for flag in flags]

    def _resolve_device(self):
        name = self.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise ValueError(
                f"device={self.device!r} should be 'auto', 'cpu' or 'cuda'. Use 'auto' "
                "to take a GPU where there is one."
            ) from error
        if device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(
                f"device={self.device!r} should be available, but torch sees no CUDA "
                "device. Call set_params(device='auto') to take a GPU where there is "
                "one and the CPU elsewhere; codes are the same."
            )
        if device.type not in ("cpu", "cuda"):
            raise ValueError(
                f"device={self.device!r} should be 'auto', 'cpu' or 'cuda'. Use 'auto' "
                "to take a GPU where there is one."
            )
        if device.type == "cuda" and device.index is None:
            # Other threads may have another GPU for their current one.
            device = torch.device("cuda", torch.cuda.current_device())
        return device

    def _publish(self, X, codes):
        """Set what is known of the fitted rows."""
        self._n_features_out = codes.shape[1]
        self.codes_ = codes
        self.fingerprint_ = self._fingerprint()
        distances = self._last_distances(X, codes)
        self.__dict__.pop("catalogue_", None)
        if not self.store_catalogue:
            self.ids_ = self._deduplicate(codes, distances)
            return
        origin = column_means(X)
        sketches = sketch(X, origin)
        spread = np.sqrt(np.square(sketches, dtype=np.float64).mean())
        offset = np.sqrt(np.square(origin).mean())
        catalogue = Catalogue(
            [len(book) for book in self.codebooks_],
            self.dedup,
            SKETCH_TOLERANCE * spread + 2.0**-22 * offset,
            origin=origin,
            fingerprint=self.fingerprint_,
        )
        self.ids_ = catalogue.extend(codes, sketches, distances)
        self.catalogue_ = catalogue

    def _identify(self, X, codes, keys=None):
        """IDs of validated rows, given their codes."""
        distances = self._last_distances(X, codes)
        if hasattr(self, "catalogue_"):
            sketches = self.catalogue_.sketch(X)
            return self.catalogue_.lookup(codes, sketches, distances, keys=keys)
        return self._deduplicate(codes, distances, keys)

    def _fingerprint(self):
        """Digest of all that codes are made with."""
        arrays = {
            "mean": self.mean_,
            "beam_size": np.int64(getattr(self, "beam_size", 1)),
            "unit": np.float64(getattr(self, "unit_", 1.0)),
        }
        for name in ("codebooks", "prices"):
            for level, array in enumerate(getattr(self, f"{name}_")):
                arrays[f"{name}.{level}"] = array
        state = getattr(self, "state_", {})
        return digest({**arrays, **{f"state.{k}": v for k, v in state.items()}})

    @property
    def catalogue_(self):
        """Registry of the IDs that are given, where ``store_catalogue`` is true.

        Returns
        -------
        catalogue : Catalogue
            It may be set to another catalogue of this very model, a loaded one say.
        """
        if "catalogue_" not in vars(self):
            raise AttributeError(
                f"{type(self).__name__} has no catalogue_: fit with "
                "store_catalogue=True."
            )
        return vars(self)["catalogue_"]

    @catalogue_.setter
    def catalogue_(self, catalogue):
        check_is_fitted(self)
        if not isinstance(catalogue, Catalogue):
            raise TypeError(
                f"catalogue_={catalogue!r} should be a Catalogue. Give what "
                "Catalogue.load returns."
            )
        if catalogue.fingerprint != self.fingerprint_:
            raise ValueError(
                f"catalogue_ has fingerprint={catalogue.fingerprint!r}, which should "
                f"be {self.fingerprint_!r}: it belongs to another model. Set a "
                "catalogue that this model made."
            )
        vars(self)["catalogue_"] = catalogue

    def _deduplicate(self, codes, distances, keys=None):
        return deduplicate(
            codes,
            self.dedup,
            codebook_size=len(self.codebooks_[-1]),
            distances=distances,
            keys=keys,
        )

    def _last_distances(self, X, codes) -> LastDistances:
        """Function of row numbers: squared distances to the last codewords.

        Up to a term per row, which makes no difference to an assignment.
        """
        device = self._resolve_device()
        latent = self._latent(device)
        last = torch.from_numpy(self.codebooks_[-1]).to(device)
        before = [np.asarray(book, dtype=np.float64) for book in self.codebooks_[:-1]]

        def distances(rows):
            residual = centred(X[rows], self.mean_, device)
            residual = residual if latent is None else latent(residual)
            for book, code in zip(before, codes[rows].T, strict=False):
                residual = residual - torch.from_numpy(book[code]).to(device)
            # In fixed point: copies of a row must tie exactly.
            return fixed_point_distances(residual, last, fine=False)

        return distances

    def _codebook_origin(self):
        """What was subtracted from rows before they were quantised."""
        return self.mean_

    def _latent(self, device):
        """Map of centred float64 rows to what is quantised; None is the identity."""
        return None

    def _decoder(self):
        """Map of summed codewords to centred rows; None is the identity."""
        return None

    def _encode(self, X):
        device = self._resolve_device()
        return encode(
            X,
            self.codebooks_,
            self.prices_,
            self.mean_,
            beam_size=getattr(self, "beam_size", 1),
            latent=self._latent(device),
            device=device,
        )

    def _decode(self, codes):
        """Reconstructed rows in float64; codes may end before the last level."""
        decoder, books = self._decoder(), self.codebooks_[: codes.shape[1]]
        if decoder is None:
            return decode(codes, books, self.mean_)
        summed = torch.from_numpy(decode(codes, books))
        return decoder(summed).numpy() + self.mean_

    def _reconstruction_error(self, X, codes):
        """Mean squared error, a chunk of rows at a time."""
        total = 0.0
        for start in range(0, len(X), CHUNK_ROWS):
            chunk = slice(start, start + CHUNK_ROWS)
            total += np.square(X[chunk] - self._decode(codes[chunk])).sum()
        return float(total / X.size)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        # Codes are integers whatever the dtype of X.
        tags.transformer_tags.preserves_dtype = []
        tags.input_tags.allow_nan = self.nan_policy == "zero"
        return tags


NON_NEGATIVE = Interval(Real, 0, None, closed="left")
POSITIVE_INT = Interval(Integral, 1, None, closed="left")
