"""Command line: ``sk-rqkplus demo``, ``fit`` and ``encode``."""

import argparse
import ast
import sys
from pathlib import Path

import joblib
import numpy as np
from sklearn.decomposition import PCA
from sklearn.pipeline import Pipeline
from tabulate import tabulate

from sk_rqkplus import RQKMeans, RQKMeansPlus, __version__, metrics
from sk_rqkplus._files import atomic_write
from sk_rqkplus._layout import SUFFIXES
from sk_rqkplus.tokens import write_index_json

ESTIMATORS = {"rqkmeans": RQKMeans, "rqkmeans-plus": RQKMeansPlus}
MODEL_FILE = "model.joblib"


def main(argv=None):
    """Run the command line.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; None takes those of the process.

    Returns
    -------
    code : int
        0, or 2 after an error, which is one line on standard error.
    """
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except (ValueError, TypeError, OSError, EOFError, ImportError) as error:
        print(f"sk-rqkplus: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sk-rqkplus: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser():
    parser = argparse.ArgumentParser(
        prog="sk-rqkplus", description="Semantic IDs from item embeddings."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = _command(
        commands,
        "demo",
        _demo,
        "Semantic IDs of the functions and classes of the installed numpy, scipy, "
        "scikit-learn and torch.",
        "sk-rqkplus demo --out demo-output",
    )
    demo.add_argument(
        "--out",
        type=Path,
        default=Path("demo-output"),
        help="directory for index.json and the model (default: %(default)s)",
    )
    _add_parameters(demo, RQKMeansPlus)

    fit = _command(
        commands,
        "fit",
        _fit,
        "Fit an estimator on a matrix of embeddings.",
        "sk-rqkplus fit items.npy --model model --codebook-sizes 256,256,256",
    )
    fit.add_argument("embeddings", type=Path, help=".npy file (n_items, n_features)")
    fit.add_argument("--model", type=Path, required=True, help="directory to write")
    fit.add_argument("--force", action="store_true", help="overwrite the model")
    fit.add_argument(
        "--estimator", choices=list(ESTIMATORS), default="rqkmeans-plus", help=" "
    )
    _add_parameters(fit, RQKMeans, RQKMeansPlus)

    encode = _command(
        commands,
        "encode",
        _encode,
        "Write the tokens of items with a fitted model.",
        "sk-rqkplus encode items.npy --model model --out index.json",
    )
    encode.add_argument("embeddings", type=Path, help=".npy file (n_items, n_features)")
    encode.add_argument(
        "--model",
        type=Path,
        required=True,
        help="directory that fit wrote; loading runs code, so trust its origin",
    )
    encode.add_argument("--out", type=Path, required=True, help="index.json to write")
    encode.add_argument("--force", action="store_true", help="overwrite the output")
    encode.add_argument("--base", type=int, choices=(0, 1), default=0, help=" ")
    encode.add_argument("--suffix", choices=SUFFIXES, default="always", help=" ")
    return parser


def _command(commands, name, run, description, example):
    command = commands.add_parser(
        name,
        help=description,
        description=description,
        epilog=f"Example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _add_parameters(command, *estimators):
    """One option per parameter of the estimators."""
    group = command.add_argument_group("parameters of the estimator")
    seen = {}
    for estimator in estimators:
        for name, default in estimator().get_params(deep=False).items():
            seen.setdefault(name, default)
    for name, default in seen.items():
        group.add_argument(
            f"--{name.replace('_', '-')}",
            dest=f"param_{name}",
            type=_value,
            default=argparse.SUPPRESS,
            metavar="VALUE",
            help=f"default: {default}",
        )


def _value(text):
    """Read a Python literal, such as 0.25, None or 256,256; anything else is text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None}.get(text, text)


def _estimator(kind, args, **defaults):
    """Estimator with the parameters of the command line."""
    given = {
        name.removeprefix("param_"): value
        for name, value in vars(args).items()
        if name.startswith("param_")
    }
    estimator = kind()
    known = estimator.get_params(deep=False)
    # "none" is a word where it is a choice, as in balance.
    given = {
        name: "none" if name == "balance" and value is None else value
        for name, value in given.items()
    }
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(
            f"--{unknown[0].replace('_', '-')} is no parameter of {kind.__name__}. "
            "Choose another --estimator or leave it out."
        )
    return estimator.set_params(**{**defaults, **given})


def _load_embeddings(path):
    try:
        X = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"{path} should be a .npy file of numbers: {error}") from error
    if not isinstance(X, np.ndarray):
        raise ValueError(f"{path} should be a .npy file with one matrix.")
    return X


def _refuse(path, force):
    if path.exists() and not force:
        raise ValueError(f"{path} exists already. Use --force to overwrite it.")


def _save_model(model, directory):
    directory.mkdir(parents=True, exist_ok=True)
    with atomic_write(directory / MODEL_FILE) as temporary:
        joblib.dump(model, temporary)


def _fit(args):
    _refuse(args.model / MODEL_FILE, args.force)
    estimator = _estimator(ESTIMATORS[args.estimator], args, verbose=1)
    X = _load_embeddings(args.embeddings)
    estimator.fit(X)
    _save_model(estimator, args.model)
    print(_figures(estimator, X))
    print(f"Model: {args.model / MODEL_FILE}")


def _encode(args):
    _refuse(args.out, args.force)
    path = args.model / MODEL_FILE
    if not path.exists():
        raise ValueError(
            f"--model {args.model} should hold {MODEL_FILE}. Run fit first."
        )
    model = joblib.load(path)
    X = _load_embeddings(args.embeddings)
    # In one call, since IDs of new rows are unique within a call.
    ids = model.predict(X)
    write_index_json(args.out, ids, base=args.base, suffix=args.suffix)
    print(f"{len(ids)} items: {args.out}")


def _demo(args):
    from sk_rqkplus.datasets import load_api_catalogue

    print("Reading the docstrings of the installed packages ...", flush=True)
    catalogue = load_api_catalogue()
    sid = _estimator(RQKMeansPlus, args, codebook_sizes=(64, 64, 64), verbose=1)
    if sid.random_state is None:
        sid.set_params(random_state=0)
    model = Pipeline([("pca", PCA(64, random_state=0)), ("sid", sid)])
    ids = model.fit_predict(catalogue.data)
    print(f"\n{len(ids)} public functions and classes of the installed packages\n")
    print(_figures(sid, model[:-1].transform(catalogue.data)))
    print("\nSome first-level groups:\n")
    print(_groups(catalogue.names, ids))
    args.out.mkdir(parents=True, exist_ok=True)
    write_index_json(args.out / "index.json", ids)
    _save_model(model, args.out)
    print(f"\nIDs: {args.out / 'index.json'}   Model: {args.out / MODEL_FILE}")


def _figures(estimator, X):
    """Table of what a fit came to."""
    sizes = [len(book) for book in estimator.codebooks_]
    codes, ids = estimator.codes_, estimator.ids_
    share = metrics.perplexity(codes) / sizes
    variance = float(np.var(X, axis=0, dtype=np.float64).mean())
    error = -estimator.score(X)
    rows = [
        ("codebook sizes", " x ".join(map(str, sizes))),
        ("collision rate of the codes", f"{metrics.collision_rate(codes):.1%}"),
        ("collision rate of the IDs", f"{metrics.collision_rate(ids):.1%}"),
        ("IDs with a suffix above 0", f"{(ids[:, -1] > 0).mean():.1%}"),
        ("perplexity / size, per level", "  ".join(f"{value:.2f}" for value in share)),
        ("reconstruction error (MSE)", f"{error:.3g}"),
        ("explained variance", f"{1 - error / variance:.1%}" if variance else "-"),
    ]
    if hasattr(estimator, "best_epoch_"):
        first = estimator.history_[0]["reconstruction_error"]
        rows.append(("MSE of epoch 0 (RQ-KMeans)", f"{first:.3g}"))
        rows.append(("best epoch", f"{estimator.best_epoch_} of {estimator.n_iter_}"))
    return tabulate(rows, tablefmt="plain", disable_numparse=True)


def _groups(names, ids, n_groups=6, n_names=6):
    """First-level groups of middle size, by the names of their items."""
    values, counts = np.unique(ids[:, 0], return_counts=True)
    order = values[np.argsort(counts, kind="stable")]
    spread = np.linspace(0.4, 0.95, n_groups) * (len(order) - 1)
    chosen = order[np.unique(spread.astype(int))]
    lines = []
    for value in chosen:
        members = names[ids[:, 0] == value]
        picked = members[np.linspace(0, len(members) - 1, n_names).astype(int)]
        shown = ", ".join(dict.fromkeys(picked.tolist()))
        lines.append(f"<a_{value}> ({len(members)} items): {shown}")
    return "\n".join(lines)
