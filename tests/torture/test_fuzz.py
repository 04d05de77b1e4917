"""Malformed input to every public function: an error that names it, and nothing else.

A case is a function, one of its parameters, and a value that this parameter may not
have; everything else is valid. Hypothesis draws cases from a fixed seed and prints the
smallest that fails.
"""

import json
import signal
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from sk_rqkplus import RQVAE, RQKMeans, RQKMeansPlus, metrics, scorers
from sk_rqkplus import ids as ids_module
from sk_rqkplus import tokens as tok
from sk_rqkplus._matrix_files import read_matrix
from sk_rqkplus.model_selection import suggest_codebook_sizes
from sk_rqkplus.report import sid_report

SECONDS = 60
N_FEATURES = 3
X = np.random.RandomState(0).normal(size=(24, N_FEATURES)).astype(np.float32)
SMALL = {
    RQKMeans: dict(codebook_sizes=(3, 2), random_state=0),
    RQKMeansPlus: dict(
        codebook_sizes=(3, 2), max_epochs=1, hidden_layer_sizes=(4,), random_state=0
    ),
    RQVAE: dict(
        codebook_sizes=(3, 2),
        max_epochs=1,
        latent_dim=2,
        hidden_layer_sizes=(4,),
        kmeans_iter=2,
        random_state=0,
    ),
}
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    FITTED = {cls: cls(**params).fit(X) for cls, params in SMALL.items()}
CODES, IDS, SIZES = FITTED[RQKMeans].codes_, FITTED[RQKMeans].ids_, [3, 2]
TRIE = tok.PrefixTrie(IDS)


@contextmanager
def alarm():
    """Turn a hang into a failure."""

    def ring(*_):
        pytest.fail(f"no answer after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def play(n_cases, strategy, check):
    """Let Hypothesis try a check on so many cases."""
    count = [0]

    @settings(
        max_examples=n_cases,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(case):
        count[0] += 1
        with alarm(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check(case)

    run()
    return count[0]


# Words by which messages of scikit-learn speak of a matrix that has no name.
OF_MATRICES = {
    "X": ["X", "array", "sample", "feature", "dtype", "Sparse", "Complex", "string"],
    "codes": ["codes", "array", "sample", "Sparse", "Complex", "sequence"],
}


def refuses(case):
    """Check that a call ends in an error that names the parameter."""
    label, call, name, value = case
    try:
        found = call(value)
    except (ValueError, TypeError) as error:
        words = OF_MATRICES.get(name, [name])
        if not any(word in str(error) for word in words):
            pytest.fail(f"{label}({name}={value!r}) is refused by {error!r}")
    else:
        pytest.fail(f"{label} accepted {name}={value!r} and returned {found!r}")


# --- Values that are wrong ----------------------------------------------------------

junk = st.one_of(
    st.none(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.just({}),
    st.just(object()),
    st.complex_numbers(allow_nan=False, allow_infinity=False),
    st.just([[1.0, 2.0], [3.0]]),
    st.just(np.array(["a", "b"])),
)
not_finite = st.sampled_from([np.nan, np.inf, -np.inf])


@st.composite
def holed(draw, n_features=N_FEATURES):
    """Rows with values that are not finite."""
    rows = X[: draw(st.integers(1, len(X)))].copy()
    rows = rows.astype(draw(st.sampled_from(["f2", "f4", "f8"])))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, rows.size - 1))
        rows.flat[at] = draw(not_finite)
    return rows


wrong_shapes = st.one_of(
    hnp.arrays(np.float64, st.integers(0, 5), elements=st.floats(-1, 1)),
    hnp.arrays(np.float32, st.tuples(*[st.integers(1, 3)] * 3), elements=st.just(0.5)),
    st.sampled_from([np.empty((0, N_FEATURES)), np.empty((4, 0)), np.float64(3)]),
)
wrong_width = st.integers(1, 6).filter(lambda n: n != N_FEATURES).map(np.eye)
of_no_numbers = st.sampled_from(
    [
        np.full((4, N_FEATURES), "a"),
        np.full((4, N_FEATURES), 1j),
        np.full((4, N_FEATURES), None),
        np.zeros((4, N_FEATURES), dtype="M8[s]"),
        np.ma.masked_less(X, 0),
        sparse.csr_array(X),
        X.tobytes(),
    ]
)
bad_rows = st.one_of(junk, holed(), wrong_shapes, of_no_numbers)
bad_new_rows = bad_rows | wrong_width


@st.composite
def out_of_range(draw):
    """Codes of which one names no codeword."""
    codes = CODES.astype(draw(st.sampled_from(["i4", "i8"]))).copy()
    row, level = draw(st.integers(0, len(codes) - 1)), draw(st.integers(0, 1))
    codes[row, level] = draw(
        st.integers(-(2**30), -1) | st.integers(SIZES[level], 2**30)
    )
    return codes


@st.composite
def negative(draw):
    """Codes of which one is negative."""
    codes = CODES.copy()
    codes.flat[draw(st.integers(0, codes.size - 1))] = draw(st.integers(-(2**31), -1))
    return codes


floats = hnp.arrays(np.float64, (4, 2), elements=st.floats(width=16))
bad_codes = st.one_of(
    junk,
    floats,
    negative(),
    hnp.arrays(np.int64, st.integers(0, 5), elements=st.integers(0, 2)),
    hnp.arrays(np.int64, (2, 2, 2), elements=st.integers(0, 2)),
    st.just(np.full((4, 2), "0")),
)
bad_32_bits = bad_codes | st.integers(31, 62).map(lambda n: np.full((4, 2), 2**n))


def not_int(least, most=None):
    """Values that are no integer from some range."""
    outside = [st.integers(least - 2**40, least - 1)]
    outside += [] if most is None else [st.integers(most + 1, most + 2**40)]
    return st.one_of(
        *outside,
        st.floats().filter(lambda value: value != value // 1 or abs(value) > 1e300),
        st.text(max_size=3),
        st.just([1]),
        st.just({}),
    )


def not_float(least, most=np.inf, *, inside=False):
    """Values that are no finite number from some range."""
    numbers = [
        st.floats(max_value=least, exclude_max=not inside, allow_infinity=False),
        st.just(np.nan),
    ]
    if np.isfinite(most):
        numbers.append(st.floats(min_value=most, exclude_min=True))
    return st.one_of(*numbers, st.text(max_size=3), st.just([1.0, "a"]), st.just({}))


def not_one_of(*words):
    """Anything but some words."""
    return st.one_of(
        st.text(max_size=8).filter(lambda text: text not in words),
        st.integers(min_value=-(2**40), max_value=-1),
        st.floats(max_value=-0.5),
        st.just({}),
    )


bad_sizes = st.one_of(
    st.lists(st.integers(-3, 0), min_size=1, max_size=3),
    st.lists(st.floats(1.5, 9), min_size=1, max_size=3).filter(
        lambda sizes: any(size % 1 for size in sizes)
    ),
    st.sampled_from([(), [[3, 2]], 3, "32", None, {}, ["3"], [True]]),
)
bad_flags = st.one_of(
    not_one_of("none", "last", "all"),
    st.lists(st.booleans(), max_size=4).filter(lambda flags: len(flags) != 2),
    st.just([1, 0]),
)
not_bool = st.one_of(st.text(max_size=3), st.integers(2), st.just([True]), st.none())
bad_seeds = st.one_of(
    st.integers(max_value=-1), st.floats(), st.text(max_size=3), st.just([])
)

# --- Parameters of the estimators ----------------------------------------------------

OF_ALL = {
    "codebook_sizes": bad_sizes,
    "balance": bad_flags,
    "dedup": not_one_of("reassign", "suffix"),
    "store_catalogue": not_bool,
    "nan_policy": not_one_of("raise", "zero"),
    "device": st.sampled_from(["gpu", "cuda:999", "meta", "", 3, None, []]),
    "random_state": bad_seeds,
    "verbose": st.sampled_from([-1, "a", None, 1.5, []]),
}
OF_TRAINING = {
    "beta": not_float(0),
    "quant_weight": not_float(0),
    "loss": not_one_of("mse", "l1"),
    "hidden_layer_sizes": bad_sizes.filter(lambda sizes: sizes != ()),
    "dropout": not_float(0, 1),
    "batch_norm": not_bool,
    "gradient": not_one_of("full", "rotation", "ste"),
    "augment": not_one_of("auto", "none", "mixtures"),
    "sinkhorn_epsilon": st.one_of(
        st.floats(max_value=0, exclude_max=True),
        st.sampled_from([np.nan, "a", [0.1], [0.1, -1.0], [0.1, np.nan], None, {}]),
    ),
    "sinkhorn_iter": not_int(1),
    "revive_dead": not_bool,
    "optimizer": not_one_of("adamw", "adam", "sgd", "adagrad", "rmsprop"),
    "lr": not_float(0, inside=True),
    "weight_decay": not_float(0),
    "lr_schedule": not_one_of("constant", "linear", "cosine"),
    "warmup_epochs": not_int(0),
    "clip_grad_norm": not_float(0, inside=True),
    "max_epochs": not_int(0),
    "batch_size": not_int(1),
    "eval_every": not_int(1),
    "monitor": not_one_of("reconstruction_error", "collision_rate", "neighbour_recall"),
    "validation_fraction": not_float(0, 1, inside=True),
    "patience": not_int(1),
    "n_checkpoints": not_int(1),
    "callbacks": st.sampled_from([3, "a", {}]),
    "net_params": st.sampled_from([3, "a", [], {"lr": 1.0}, {"max_epochs": 2}]),
    "precision": not_one_of("auto", "float32", "bfloat16"),
    "accelerate": not_bool,
}
PARAMETERS = {
    RQKMeans: {
        **OF_ALL,
        "balance_tol": not_float(0),
        "init": not_one_of("k-means++", "random"),
        "n_init": not_int(1),
        "max_iter": not_int(1),
        "tol": not_float(0),
        "max_samples": not_int(1),
        "augment": not_one_of("auto", "none"),
        "refine": not_int(0),
        "beam_size": not_int(1),
    },
    RQKMeansPlus: {
        **OF_ALL,
        **OF_TRAINING,
        "decoder": not_one_of("residual", "mlp"),
        "encoder_lr_ratio": not_float(0),
        "codebooks": st.one_of(
            st.lists(holed(), min_size=2, max_size=2),
            st.sampled_from([[], [np.eye(3)], [np.eye(3), np.eye(4)], 3, {}]),
            st.just(FITTED[RQVAE]),
            st.just(RQKMeans((3, 2))),
        ),
        "rqkmeans": st.sampled_from([3, "a", [], RQKMeans]),
        "memory": st.sampled_from([3, [], {}]),
    },
    RQVAE: {
        **OF_ALL,
        **OF_TRAINING,
        "latent_dim": not_int(1),
        "init": not_one_of("k-means", "random"),
        "kmeans_iter": not_int(1),
    },
}


@st.composite
def parameter_cases(draw):
    cls = draw(st.sampled_from(list(PARAMETERS)))
    name = draw(st.sampled_from(list(PARAMETERS[cls])))
    value = draw(PARAMETERS[cls][name])

    def fit(value):
        return cls(**{**SMALL[cls], name: value}).fit(X)

    return f"{cls.__name__}.fit", fit, name, value


# --- Methods and functions -----------------------------------------------------------

bad_keys = st.one_of(
    st.lists(st.integers(), max_size=30).filter(lambda keys: len(keys) != len(X)),
    st.lists(st.integers(0, 9), min_size=len(X), max_size=len(X)),
    st.sampled_from(["a", 3, [None] * len(X), [[1]] * len(X), [1.5] * len(X)]),
)


def method_cases():
    """Rows and codes of every method."""
    for cls, fitted in FITTED.items():
        name = cls.__name__
        fresh = lambda rows, cls=cls: cls(**SMALL[cls]).fit(rows)  # noqa: E731
        yield f"{name}.fit", fresh, "X", bad_rows
        for method in ("transform", "predict", "extend", "score"):
            yield f"{name}.{method}", getattr(fitted, method), "X", bad_new_rows
        if hasattr(fitted, "partial_fit"):
            yield f"{name}.partial_fit", fitted.partial_fit, "X", bad_new_rows
        yield f"{name}.inverse_transform", fitted.inverse_transform, "codes", bad_codes
        yield (
            f"{name}.inverse_transform",
            fitted.inverse_transform,
            "codes",
            out_of_range(),
        )
        extend = lambda keys, fitted=fitted: fitted.extend(X, keys)  # noqa: E731
        yield f"{name}.extend", extend, "keys", bad_keys


def functions():
    """Label, function of a bad value, name of the parameter, bad values."""
    of_codes = [
        metrics.collision_rate,
        metrics.shared_code_rate,
        metrics.independent_coding_rate,
        metrics.largest_group,
        metrics.entropy,
        metrics.code_gini,
    ]
    for function in of_codes:
        yield function.__name__, function, "codes", bad_codes
    of_sizes = [
        metrics.codebook_utilisation,
        metrics.joint_utilisation,
        metrics.gini,
        metrics.load_cv,
        metrics.perplexity,
    ]
    wrong = bad_sizes.filter(lambda sizes: sizes is not None) | st.just([2, 2])
    for function in of_sizes:
        label = function.__name__
        yield label, lambda codes, f=function: f(codes, SIZES), "codes", bad_codes
        yield label, lambda sizes, f=function: f(CODES, sizes), "codebook_sizes", wrong
    yield (
        "joint_utilisation",
        lambda n: metrics.joint_utilisation(CODES, SIZES, n),
        "n_levels",
        not_int(1, 2),
    )
    for function in (metrics.reconstruction_mse, metrics.reconstruction_r2):
        yield function.__name__, lambda rows, f=function: f(rows, X), "X", bad_rows
        yield (
            function.__name__,
            lambda rows, f=function: f(X, rows),
            "X",
            bad_new_rows,
        )
    for function in (metrics.path_average_similarity, metrics.prefix_cohesion):
        label = function.__name__
        yield label, lambda c, f=function: f(c, X), "codes", bad_codes
        yield label, lambda rows, f=function: f(CODES, rows), "X", bad_rows
        yield (
            label,
            lambda n, f=function: f(CODES, X, n_pairs=n),
            "n_pairs",
            not_int(1),
        )
        yield (
            label,
            lambda a, f=function: f(CODES, X, average=a),
            "average",
            not_one_of("pair", "prefix"),
        )
    yield (
        "random_pair_similarity",
        metrics.random_pair_similarity,
        "X",
        bad_rows,
    )
    yield (
        "distance_correlation",
        lambda d: metrics.distance_correlation(CODES, X, code_distance=d),
        "code_distance",
        not_one_of("prefix", "hamming"),
    )
    recalls = {
        "neighbour_recall": lambda **k: metrics.neighbour_recall(
            **{"X": X, "X_reconstructed": X, "k": 3, **k}
        ),
        "code_neighbour_recall": lambda **k: metrics.code_neighbour_recall(
            **{"X": X, "codes": CODES, "k": 3, **k}
        ),
    }
    for label, recall in recalls.items():
        yield label, lambda rows, f=recall: f(X=rows), "X", bad_rows
        yield label, lambda k, f=recall: f(k=k), "k", not_int(1, len(X) - 1)
        yield label, lambda n, f=recall: f(n_queries=n), "n_queries", not_int(1)
        yield (
            label,
            lambda m, f=recall: f(metric=m),
            "metric",
            not_one_of("euclidean", "cosine"),
        )
    yield (
        "embedding_hit_rate",
        lambda pairs: metrics.embedding_hit_rate(X, pairs, k=3),
        "pairs",
        st.one_of(junk, st.just([[0, len(X)]]), st.just([[-1, 0]]), st.just([0, 1])),
    )
    yield "deduplicate", ids_module.deduplicate, "codes", bad_32_bits
    yield (
        "deduplicate",
        lambda m: ids_module.deduplicate(CODES, m),
        "method",
        not_one_of("suffix", "reassign"),
    )
    yield (
        "deduplicate",
        lambda k: ids_module.deduplicate(CODES, keys=k),
        "keys",
        bad_keys,
    )
    yield (
        "deduplicate",
        lambda p: ids_module.deduplicate(CODES, priority=p),
        "priority",
        st.sampled_from([[1], "a", [np.nan] * len(X), [None] * len(X), 3]),
    )
    for function in (ids_module.collision_floor, ids_module.duplicate_groups):
        label = function.__name__
        yield label, function, "X", bad_rows
        yield label, lambda eps, f=function: f(X, eps), "eps", not_float(0)
    yield "compare_ids", lambda old: ids_module.compare_ids(old, IDS), "old", junk
    yield "Catalogue", ids_module.Catalogue, "codebook_sizes", bad_sizes
    yield (
        "Catalogue.extend",
        lambda codes: ids_module.Catalogue(SIZES).extend(codes, keys=range(len(X))),
        "codes",
        bad_32_bits | out_of_range(),
    )
    yield (
        "Catalogue.lookup",
        lambda keys: ids_module.Catalogue(SIZES).lookup(CODES, keys=keys),
        "keys",
        bad_keys,
    )
    sketches = st.sampled_from([[[0, 0, 0]], "a", [[0.0]] * len(X), 3, [None] * len(X)])
    yield (
        "Catalogue.extend",
        lambda s: ids_module.Catalogue(SIZES).extend(CODES, s),
        "sketches",
        sketches,
    )
    yield "Catalogue.find", FITTED[RQKMeans].catalogue_.find, "ids", junk
    templates = st.one_of(
        st.text(max_size=6).filter(lambda t: "{" not in t),
        st.sampled_from(["{level}", "{code}", "{0}", "{", "{code!x}", "{nobody}", 3]),
    )
    for label, function in {
        "to_tokens": lambda **k: tok.to_tokens(**{"ids": IDS, **k}),
        "to_strings": lambda **k: tok.to_strings(**{"ids": IDS, **k}),
        "vocabulary": lambda ids=None, **k: tok.vocabulary(SIZES, **k),
    }.items():
        if label != "vocabulary":
            yield label, lambda ids, f=function: f(ids=ids), "ids", bad_codes
        yield label, lambda t, f=function: f(template=t), "template", templates
        yield label, lambda b, f=function: f(base=b), "base", not_int(0)
        yield (
            label,
            lambda s, f=function: f(suffix=s),
            "suffix",
            not_one_of("always", "never", "unique", "collision", "needed", "auto"),
        )
    yield "vocabulary", tok.vocabulary, "codebook_sizes", bad_sizes
    texts = st.lists(st.text(max_size=6), min_size=1, max_size=3)
    yield "from_strings", lambda s: tok.from_strings(s, 2), "strings", texts
    rows = st.lists(texts, min_size=1, max_size=3)
    yield "from_tokens", lambda t: tok.from_tokens(t, 2), "tokens", rows
    yield "to_token_ids", lambda i: tok.to_token_ids(i, SIZES), "ids", bad_codes
    yield (
        "from_token_ids",
        lambda i: tok.from_token_ids(i, SIZES),
        "token_ids",
        bad_codes,
    )
    yield "PrefixTrie", tok.PrefixTrie, "ids", bad_codes
    for name in ("children", "contains", "is_complete", "items"):
        yield f"PrefixTrie.{name}", getattr(TRIE, name), "prefix", junk
    for name in scorers.__all__:
        scorer = getattr(scorers, name)
        if name in ("SCORERS", "in_sample_split", "refit_within"):
            continue
        yield name, lambda r, f=scorer: f(FITTED[RQKMeans], r), "X", bad_new_rows
    yield "in_sample_split", scorers.in_sample_split, "n_samples", not_int(1)
    yield (
        "sid_report",
        lambda rows: sid_report(FITTED[RQKMeans], rows),
        "X",
        bad_new_rows,
    )
    yield "suggest", lambda r: suggest_codebook_sizes(r, 2), "X", bad_rows
    yield (
        "suggest",
        lambda n: suggest_codebook_sizes(X, n),
        "n_levels",
        not_int(1),
    )


TARGETS = list(method_cases()) + list(functions())


@st.composite
def target_cases(draw):
    label, call, name, values = draw(st.sampled_from(TARGETS))
    return label, call, name, draw(values)


def test_bad_parameters_are_refused(rounds, figure):
    n_cases = play(rounds(60, 1200), parameter_cases(), refuses)
    figure(
        "fuzz: parameters of estimators", f"{n_cases} malformed, all refused by name"
    )


def test_bad_arguments_are_refused(rounds, figure):
    n_cases = play(rounds(150, 2000), target_cases(), refuses)
    figure("fuzz: arguments of methods", f"{n_cases} malformed, all refused by name")


# --- Values that are right -----------------------------------------------------------

shapes = st.tuples(st.integers(1, 30), st.integers(1, 5))
good_rows = st.one_of(
    hnp.arrays(
        st.sampled_from(["f2", "f4", "f8"]),
        shapes,
        elements=st.floats(-1000, 1000, width=16),
    ),
    hnp.arrays(st.sampled_from(["i1", "u2", "i8"]), shapes),
    hnp.arrays(np.float64, shapes, elements=st.sampled_from([0.0, -0.0, 1.0, 1e-30])),
    hnp.arrays(np.float64, shapes, elements=st.sampled_from([1e30, 1e30 + 1e15, -1.0])),
)


@st.composite
def good_fits(draw):
    """An estimator of any sound parameters, and rows."""
    n_levels = draw(st.integers(1, 3))
    every = st.booleans() | st.just("auto")
    params = {
        "codebook_sizes": draw(
            st.lists(st.integers(1, 4), min_size=n_levels, max_size=n_levels)
        ),
        "balance": draw(
            st.sampled_from(["none", "last", "all"])
            | st.lists(st.booleans(), min_size=n_levels, max_size=n_levels)
        ),
        "dedup": draw(st.sampled_from(["reassign", "suffix"])),
        "store_catalogue": draw(st.booleans()),
        "nan_policy": draw(st.sampled_from(["raise", "zero"])),
        "random_state": draw(st.integers(0, 2**32 - 1)),
    }
    if draw(every) is True:
        params["max_epochs"] = draw(st.integers(0, 1))
        return RQKMeansPlus(**params, hidden_layer_sizes=(3,)), draw(good_rows)
    params["max_samples"] = draw(st.none() | st.integers(1, 40))
    params["beam_size"] = draw(st.integers(1, 3))
    params["augment"] = draw(st.sampled_from(["auto", "none", 40]))
    params["n_init"] = draw(st.integers(1, 2))
    params["max_iter"] = draw(st.integers(1, 3))
    params["init"] = draw(st.sampled_from(["k-means++", "random"]))
    params["refine"] = draw(st.integers(0, 1))
    return RQKMeans(**params), draw(good_rows)


def keeps_promises(case):
    """Check what every fit promises."""
    estimator, rows = case
    estimator.fit(rows)
    codes, ids = estimator.transform(rows), estimator.predict(rows)
    np.testing.assert_array_equal(codes, estimator.codes_)
    np.testing.assert_array_equal(ids, estimator.ids_)
    assert len(np.unique(ids, axis=0)) == len(rows)
    sizes = np.array([len(book) for book in estimator.codebooks_])
    assert (codes >= 0).all()
    assert (codes < sizes).all()
    assert (ids[:, :-2] == codes[:, :-1]).all()
    assert np.isfinite(estimator.inverse_transform(ids)).all()
    assert estimator.score(rows) <= 0
    backwards = estimator.transform(rows[::-1])
    np.testing.assert_array_equal(backwards, codes[::-1])
    if estimator.store_catalogue:
        np.testing.assert_array_equal(estimator.extend(rows), ids)


def test_sound_values_are_taken(rounds, figure):
    n_cases = play(rounds(40, 1000), good_fits(), keeps_promises)
    figure("fuzz: sound fits", f"{n_cases} sound ones, all keep what they promise")


# --- Files ----------------------------------------------------------------------------

texts_of_files = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
    st.sampled_from(
        [
            b"\x93NUMPY",
            b"\x93NUMPY\x01\x00v\x00{'descr': '|O'",
            b"PAR1PAR1",
            b"PK\x03\x04",
        ]
    ),
)
READERS = {
    "index.json": lambda path: tok.read_index_json(path, 2),
    "codes.jsonl": lambda path: tok.read_jsonl(path),
    "codes.parquet": lambda path: tok.read_parquet(path),
    "rows.npy": read_matrix,
    "rows.parquet": read_matrix,
    "rows.npz": read_matrix,
    "catalogue": ids_module.Catalogue.load,
    "codebooks.npz": lambda path: RQKMeansPlus(
        **{**SMALL[RQKMeansPlus], "codebooks": path}
    ).fit(X),
    "checkpoint.safetensors": lambda path: RQVAE(**SMALL[RQVAE]).restore(path),
    "model.pth": RQKMeansPlus.from_minionerec,
}


def test_files_of_anything_are_refused(rounds, figure, tmp_path):
    """An error that names the file, whatever is in it."""

    def refused(case):
        name, content = case
        path = tmp_path / name
        path.write_bytes(content)
        try:
            found = READERS[name](path)
        except (ValueError, TypeError, OSError) as error:
            if path.stem not in str(error) and "codebook" not in str(error):
                pytest.fail(f"{name} of {content!r} is refused by {error!r}")
        else:
            # A table without rows is one: of IDs and keys, for example.
            parts = found if isinstance(found, tuple) else [found]
            if any(len(part) for part in parts):
                pytest.fail(f"{name} of {content!r} was read as {found!r}")

    cases = st.tuples(st.sampled_from(sorted(READERS)), texts_of_files)
    n_cases = play(rounds(100, 1500), cases, refused)
    figure("fuzz: files", f"{n_cases} of random content, all refused by name")
