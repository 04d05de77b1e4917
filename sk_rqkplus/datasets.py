"""Catalogues to try things on: one read from installed packages, one made to order.

:func:`load_api_catalogue` embeds the docstrings of NumPy, SciPy, scikit-learn and
PyTorch, so that Semantic IDs can be read by a person without a download.
:func:`make_catalogue` draws a tree of clusters of any size, whose true branches are
known.
"""

import importlib
import inspect
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral, Real
from types import ModuleType

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.utils import Bunch, check_random_state

__all__ = ["load_api_catalogue", "make_catalogue"]

# Public namespaces without those that are deprecated, for tests, or change the
# process when imported; "" is the package itself.
_NAMESPACES = {
    "numpy": """ char ctypeslib dtypes exceptions fft lib lib.array_utils lib.format
        lib.introspect lib.mixins lib.recfunctions lib.scimath lib.stride_tricks linalg
        ma ma.mrecords polynomial polynomial.chebyshev polynomial.hermite
        polynomial.hermite_e polynomial.laguerre polynomial.legendre
        polynomial.polynomial polynomial.polyutils random rec strings typing""",
    "scipy": """ cluster.hierarchy cluster.vq constants datasets differentiate fft
        fftpack integrate interpolate io io.arff io.matlab io.wavfile linalg
        linalg.interpolative ndimage optimize optimize.elementwise signal
        signal.windows sparse sparse.csgraph sparse.linalg spatial spatial.distance
        spatial.transform special stats stats.contingency stats.mstats stats.qmc
        stats.sampling""",
    "sklearn": """ base calibration callback cluster compose covariance
        cross_decomposition datasets decomposition discriminant_analysis dummy ensemble
        exceptions feature_extraction feature_extraction.image feature_extraction.text
        feature_selection frozen gaussian_process gaussian_process.kernels impute
        inspection isotonic kernel_approximation kernel_ridge linear_model manifold
        metrics metrics.cluster metrics.pairwise mixture model_selection multiclass
        multioutput naive_bayes neighbors neural_network pipeline preprocessing
        random_projection semi_supervised svm tree utils utils.arrayfuncs
        utils.class_weight utils.discovery utils.extmath utils.graph
        utils.metadata_routing utils.metaestimators utils.multiclass utils.parallel
        utils.random utils.sparsefuncs utils.validation""",
    "torch": """ amp autograd autograd.forward_ad autograd.functional autograd.graph
        autograd.profiler compiler distributions distributions.constraints
        distributions.transforms fft func futures fx hub jit library linalg masked
        nested nn nn.attention nn.functional nn.init nn.parameter nn.utils
        nn.utils.parametrizations nn.utils.parametrize nn.utils.prune nn.utils.rnn
        nn.utils.stateless optim optim.lr_scheduler optim.swa_utils overrides package
        profiler quasirandom random serialization signal.windows sparse special utils
        utils.checkpoint utils.data utils.dlpack utils.flop_counter utils.hooks""",
}

# These exist only once somebody has imported sklearn.experimental.
_EXPERIMENTAL = {"HalvingGridSearchCV", "HalvingRandomSearchCV", "IterativeImputer"}

_MIN_TEXT = 80
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{5,}\b")
_SET = re.compile(r"``\{('[^{}]*')\}``")
_WORD_BREAK = re.compile(r"[._]|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

# Code, citations and tables that are the same on hundreds of pages say more about
# who wrote a page than about what the item does. SciPy also fills some examples with
# fresh random numbers at every import.
_BOILERPLATE = re.compile(
    r"^(?:(?:Examples?|References|Methods)\n[-=]{3,}|\*\*Array API|Examples?::?$)"
    r".*?(?=^[A-Z][\w ]+\n[-=]{3,}|\Z)",
    re.DOTALL | re.MULTILINE,
)
_CODE_LINE = re.compile(r"^\s*(?:>>>|\.\.\. ).*$", re.MULTILINE)

_CHUNK_VALUES = 2**20


def load_api_catalogue(
    n_features: int = 128,
    *,
    random_state: int | np.random.RandomState | None = 0,
) -> Bunch:
    """Embed the public API of NumPy, SciPy, scikit-learn and PyTorch.

    An item is a public function or class, its text the prose of its docstring.
    Nothing is downloaded: the texts are read from the installed packages, weighted
    by TF-IDF, reduced by a truncated SVD and scaled to unit norm.

    Parameters
    ----------
    n_features : int, default=128
        Length of an embedding.

    random_state : int, RandomState instance or None, default=0
        Seeds the randomised SVD. None draws a fresh seed and leaves NumPy's global
        generator alone.

    Returns
    -------
    catalogue : :class:`~sklearn.utils.Bunch`
        A dictionary with attributes:

        data : ndarray of shape (n_items, n_features)
            Unit rows, float32.
        names : ndarray of shape (n_items,)
            Qualified names in alphabetical order, e.g. ``"torch.nn.Linear"``. An
            object with several names goes by the shortest.
        texts : list of str
            The docstring of every item without examples, references and lists
            of methods.
        DESCR : str
            What the catalogue holds and the versions it was read from.

    Raises
    ------
    TypeError
        If ``n_features`` is not an int.
    ValueError
        If ``n_features`` is less than 1, or more than the texts support.

    See Also
    --------
    make_catalogue : Synthetic embeddings of any size.

    Notes
    -----
    With an int as ``random_state`` the result is the same, bit for bit, in every
    process with the same versions of the four packages, whatever the number of
    threads. Other versions have other items.

    A few rows are bit-identical, since some functions share one docstring.

    Examples
    --------
    >>> from sk_rqkplus.datasets import load_api_catalogue
    >>> catalogue = load_api_catalogue()  # doctest: +SKIP
    >>> catalogue.data.shape[1]  # doctest: +SKIP
    128
    """
    _check_int("n_features", n_features, 1, "Give the length of an embedding.")
    items = _api_items()
    names = list(items)
    texts = list(items.values())
    data = _embed(_tfidf(items), n_features, random_state)
    return Bunch(
        data=data, names=np.array(names), texts=texts, DESCR=_describe(len(items))
    )


def make_catalogue(
    n_samples: int = 1000,
    n_features: int = 64,
    *,
    branching: Sequence[int] = (8, 8),
    spread: float = 0.5,
    duplicates: float = 0.0,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Draw embeddings from a tree of clusters, scaled to unit norm.

    The offset of a branch from its parent has length 1 on average at the first
    level and is ``spread`` times as long at every further one. A row is the sum of
    the offsets along its path and of noise, which is one more step shorter than the
    last offsets.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of rows.

    n_features : int, default=64
        Number of columns, at least 2.

    branching : sequence of int, default=(8, 8)
        Branches of a node, one number per level.

    spread : float, default=0.5
        Length of the offsets of a level relative to the level above, in (0, 1].

    duplicates : float, default=0.0
        Share of rows that are bit-identical copies of other rows, in [0, 1). The
        share is rounded to whole rows, and one row always stays an original.

    random_state : int, RandomState instance or None, default=None
        Pass an int for the same catalogue at every call. None draws a fresh seed
        and leaves NumPy's global generator alone.

    Returns
    -------
    catalogue : :class:`~sklearn.utils.Bunch`
        A dictionary with attributes:

        data : ndarray of shape (n_samples, n_features)
            Unit rows, float32.
        paths : ndarray of shape (n_samples, len(branching))
            The true branch of every row at every level, int32.

    Raises
    ------
    TypeError
        If a parameter is of the wrong type.
    ValueError
        If a parameter is out of its range.

    See Also
    --------
    load_api_catalogue : A real catalogue of a few thousand items with names.

    Notes
    -----
    Real categories differ in size. Branch ``k`` of any node is drawn with a
    probability proportional to ``1 / (k + 1)``, so branch 0 is the largest.

    Rows are made in blocks: beyond the result the function needs some megabytes,
    and a few integers per row.

    Examples
    --------
    >>> from sk_rqkplus.datasets import make_catalogue
    >>> catalogue = make_catalogue(500, 16, branching=(4, 3, 2), random_state=0)
    >>> catalogue.data.shape, catalogue.paths.shape
    ((500, 16), (500, 3))
    >>> catalogue.paths.max(axis=0)
    array([3, 2, 1], dtype=int32)
    """
    _check_int("n_samples", n_samples, 1, "Ask for at least one row.")
    _check_int(
        "n_features",
        n_features,
        2,
        "Unit rows of one column are all alike; ask for more.",
    )
    _check_tree(branching, spread, duplicates)

    seed = _as_random_state(random_state).randint(2**32, size=4, dtype=np.uint32)
    path_rng, copy_rng, *tree_rngs = (
        np.random.default_rng(child)
        for child in np.random.SeedSequence(seed).spawn(len(branching) + 3)
    )
    paths = _draw_paths(n_samples, branching, path_rng)
    data = np.empty((n_samples, n_features), dtype=np.float32)
    _fill(data, paths, spread, tree_rngs)
    _copy_rows(data, paths, duplicates, copy_rng)
    return Bunch(data=data, paths=paths)


def _as_random_state(
    random_state: int | np.random.RandomState | None,
) -> np.random.RandomState:
    """Return a generator that is never the global one unless it was asked for."""
    if random_state is None:
        return np.random.RandomState()
    return check_random_state(random_state)


# ---------------------------------------------------------------------------
# The API catalogue


def _api_items() -> dict[str, str]:
    """Return the docstring of every public object by name, sorted by name."""
    # Objects are kept with their names: an id is unique only among the living.
    found: dict[int, tuple[str, object]] = {}
    for namespace in _namespaces():
        for name, item in _public_objects(namespace):
            # torch wraps some functions anew once its compiler has been imported.
            item = inspect.unwrap(item)
            known = found.setdefault(id(item), (name, item))
            if (len(name), name) < (len(known[0]), known[0]):
                found[id(item)] = name, item
    texts = {name: _text(item) for name, item in found.values()}
    return {name: texts[name] for name in sorted(texts) if len(texts[name]) > _MIN_TEXT}


def _namespaces() -> Iterator[ModuleType]:
    """Import the public namespaces, passing over those a version does not have."""
    for package, names in _NAMESPACES.items():
        for name in ["", *names.split()]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    module = importlib.import_module(f"{package}.{name}".rstrip("."))
                except ModuleNotFoundError:
                    continue
            yield module


def _public_objects(namespace: ModuleType) -> Iterator[tuple[str, Callable]]:
    """Yield the functions and classes of a namespace under their full names."""
    listed = hasattr(namespace, "__all__")
    for name in namespace.__all__ if listed else dir(namespace):
        if name.startswith("_") or name in _EXPERIMENTAL:
            continue
        item = _get_quietly(namespace, name)
        if not callable(item) or isinstance(item, ModuleType):
            continue
        if listed or _is_home(namespace.__name__, item):
            yield f"{namespace.__name__}.{name}", item


def _get_quietly(namespace: ModuleType, name: str) -> object:
    """Return an attribute, or None if it is gone or warns that it will be."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return getattr(namespace, name)
        except (AttributeError, ImportError, Warning):
            return None


def _is_home(namespace: str, item: object) -> bool:
    """Tell what a namespace without ``__all__`` defines from what it imports."""
    home = getattr(item, "__module__", None) or ""
    return f"{home}.".startswith((f"{namespace}.", "torch._C."))


def _text(item: object) -> str:
    """Return the prose of a docstring, without what differs between two runs."""
    doc = getattr(item, "__doc__", None)
    if not isinstance(doc, str) or doc == type(item).__doc__:
        return ""
    doc = _CODE_LINE.sub("", _BOILERPLATE.sub("", inspect.cleandoc(doc)))
    # SciPy prints a set of names into its deprecation notes, in the order of hashes.
    doc = _SET.sub(lambda match: ", ".join(sorted(match[1].split(", "))), doc)
    return _ADDRESS.sub("", doc).strip()


def _tfidf(items: dict[str, str]) -> csr_matrix:
    """Weight the words of names and docstrings."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    # A word on a tenth of all pages (parameters, returns, array) tells nothing apart.
    vectorizer = TfidfVectorizer(
        token_pattern=r"[a-z][a-z0-9]+",
        stop_words="english",
        sublinear_tf=True,
        min_df=3,
        max_df=0.1,
    )
    return vectorizer.fit_transform(_document(*item) for item in items.items())


def _document(name: str, text: str) -> str:
    """Return the words that stand for an item; its own name counts three times."""
    # Without the package: what a function does should weigh more than whose it is.
    _, *parents, own = name.split(".")
    own = f"{own} {_WORD_BREAK.sub(' ', own)} "
    return f"{_WORD_BREAK.sub(' ', '.'.join(parents))} {own * 3}{text}"


def _embed(
    weights: csr_matrix,
    n_features: int,
    random_state: int | np.random.RandomState | None,
) -> np.ndarray:
    """Return the rows in the leading directions, scaled to unit norm."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.preprocessing import Normalizer

    if n_features > min(weights.shape):
        raise ValueError(
            f"n_features={n_features} should be <= {min(weights.shape)}, the number "
            "of items or words. Ask for shorter embeddings."
        )
    svd = TruncatedSVD(n_features, random_state=_as_random_state(random_state))
    rows = svd.fit_transform(weights)
    # One thread and two, or two kinds of processor, were seen to differ by 5e-15 on
    # average and 2e-12 at most. Rounding to integers of at most 2**12 absorbs that
    # (the odds that any value of the catalogue flips are 1 in 20,000) and moves no
    # row by more than 0.2 %. Their squares add up exactly in any order, so nothing
    # after this line can differ either.
    _, exponent = np.frexp(np.abs(rows).max(axis=1, keepdims=True))
    rows = np.rint(np.ldexp(rows, 12 - exponent))
    return Normalizer(copy=False).fit_transform(rows).astype(np.float32)


def _describe(n_items: int) -> str:
    """Return the description of the catalogue."""
    versions = ", ".join(
        f"{package} {importlib.import_module(package).__version__}"
        for package in _NAMESPACES
    )
    return (
        f"The public functions and classes of {versions}: {n_items} items, "
        "embedded by TF-IDF and truncated SVD of their names and docstrings."
    )


# ---------------------------------------------------------------------------
# The synthetic catalogue


def _draw_paths(
    n_samples: int, branching: Sequence[int], rng: np.random.Generator
) -> np.ndarray:
    """Draw the branch of every row at every level, small numbers more often."""
    paths = np.empty((n_samples, len(branching)), dtype=np.int32)
    for level, n_branches in enumerate(branching):
        share = 1 / np.arange(1, n_branches + 1)
        paths[:, level] = rng.choice(n_branches, n_samples, p=share / share.sum())
    return paths


def _fill(
    data: np.ndarray,
    paths: np.ndarray,
    spread: float,
    rngs: list[np.random.Generator],
) -> None:
    """Write a unit row for every path into ``data``."""
    # Rows are visited in the order of their paths, so that only one node per level
    # is open at a time and a tree with millions of leaves need not be held. Each
    # level has its own generator, hence the size of a block changes no draw.
    n_levels, n_features = paths.shape[1], data.shape[1]
    scales = spread ** np.arange(n_levels + 1) / np.sqrt(n_features)
    visit = np.lexsort(paths.T[::-1])
    last_path = np.full(n_levels, -1)
    last_offset = np.zeros((n_levels, n_features))
    for rows in _blocks(visit, n_features):
        path = paths[rows]
        enters = np.vstack([last_path, path[:-1]]) != path
        enters = np.logical_or.accumulate(enters, axis=1)
        value = rngs[-1].standard_normal((len(rows), n_features)) * scales[-1]
        for level, rng in enumerate(rngs[:-1]):
            n_new = np.count_nonzero(enters[:, level])
            fresh = rng.standard_normal((n_new, n_features)) * scales[level]
            offsets = np.vstack([last_offset[level], fresh])
            value += offsets[np.cumsum(enters[:, level])]
            last_offset[level] = offsets[-1]
        last_path = path[-1]
        data[rows] = value / np.linalg.norm(value, axis=1, keepdims=True)


def _copy_rows(
    data: np.ndarray, paths: np.ndarray, share: float, rng: np.random.Generator
) -> None:
    """Overwrite a share of the rows with copies of rows that are kept."""
    n_copies = min(round(share * len(data)), len(data) - 1)
    shuffled = rng.permutation(len(data))
    copies, originals = shuffled[:n_copies], shuffled[n_copies:]
    sources = rng.choice(originals, n_copies)
    for rows in _blocks(np.column_stack([copies, sources]), data.shape[1]):
        data[rows[:, 0]] = data[rows[:, 1]]
        paths[rows[:, 0]] = paths[rows[:, 1]]


def _blocks(rows: np.ndarray, n_features: int) -> Iterator[np.ndarray]:
    """Cut an array of row numbers into parts that stand for a bounded memory."""
    size = max(1, _CHUNK_VALUES // n_features)
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


# ---------------------------------------------------------------------------
# Validation


def _check_int(name: str, value: int, minimum: int, advice: str) -> None:
    """Raise unless ``value`` is an int of at least ``minimum``."""
    if not isinstance(value, Integral):
        raise TypeError(f"{name}={value!r} should be an int. {advice}")
    if value < minimum:
        raise ValueError(f"{name}={value} should be >= {minimum}. {advice}")


def _check_real(name: str, value: float, advice: str) -> None:
    """Raise unless ``value`` is a number."""
    if not isinstance(value, Real):
        raise TypeError(f"{name}={value!r} should be a float. {advice}")


def _check_tree(branching: Sequence[int], spread: float, duplicates: float) -> None:
    """Raise unless the parameters describe a tree."""
    advice = "Give the number of branches of a node at every level, e.g. (8, 8)."
    if isinstance(branching, str) or not hasattr(branching, "__len__"):
        raise TypeError(f"branching={branching!r} should be a sequence. {advice}")
    if len(branching) == 0:
        raise ValueError(f"branching={branching!r} should not be empty. {advice}")
    for level, n_branches in enumerate(branching):
        _check_int(f"branching[{level}]", n_branches, 1, advice)

    advice = "Give the length of offsets relative to the level above."
    _check_real("spread", spread, advice)
    if not 0 < spread <= 1:
        raise ValueError(f"spread={spread} should be in (0, 1]. {advice}")

    advice = "Give the share of rows that are copies of other rows."
    _check_real("duplicates", duplicates, advice)
    if not 0 <= duplicates < 1:
        raise ValueError(f"duplicates={duplicates} should be in [0, 1). {advice}")
