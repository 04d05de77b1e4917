"""The commands, each a function of its parsed arguments."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from sk_rqkplus import RQVAE, RQKMeans, RQKMeansPlus, metrics
from sk_rqkplus._cli_files import (
    IDs,
    format_of,
    load_model,
    read_ids,
    read_titles,
    refuse,
    refuse_model,
    save_model,
    sizes_of,
    stamp,
    write_ids,
)
from sk_rqkplus._files import atomic_write
from sk_rqkplus._matrix_files import read_column, read_matrix
from sk_rqkplus._persistence import check_savable
from sk_rqkplus._pipelines import prepared, quantizer
from sk_rqkplus._progress import is_watched, waiting
from sk_rqkplus._table import column_means
from sk_rqkplus._template import PUBLISHED
from sk_rqkplus._token_files import check_item_ids
from sk_rqkplus.ids import compare_ids
from sk_rqkplus.tokens import write_index_json

ESTIMATORS = {"rqkmeans": RQKMeans, "rqkmeans-plus": RQKMeansPlus, "rqvae": RQVAE}

# Options of encode, with their defaults: for a folder of files, and for one file.
SHARD_OPTIONS = {"resume": False, "keep": None, "ids": None, "order": None}
FILE_OPTIONS = {
    "key": None,
    "format": None,
    "base": 0,
    "suffix": "always",
    "template": PUBLISHED,
    "separator": "",
    "start": 0,
}


def demo(args: Namespace) -> None:
    """Fit to the functions and classes of the installed packages."""
    from sk_rqkplus.datasets import load_api_catalogue

    refuse(args.out / "index.json", args.force)
    refuse_model(args.out / "model", RQKMeansPlus.__name__, args.force)
    print("Reading the docstrings of the installed packages ...", flush=True)
    catalogue = load_api_catalogue(64)
    sid = _estimator(RQKMeansPlus, args, codebook_sizes=(64, 64, 64), verbose=1)
    if sid.random_state is None:
        sid.set_params(random_state=0)
    ids = sid.fit_predict(catalogue.data)
    print(f"\n{len(ids)} public functions and classes of the installed packages\n")
    print(_figures(sid, catalogue.data))
    print("\nSome first-level groups:\n")
    print(_groups(catalogue.names, ids))
    args.out.mkdir(parents=True, exist_ok=True)
    write_index_json(args.out / "index.json", ids)
    save_model(sid, args.out / "model")
    print(f"\nIDs: {args.out / 'index.json'}   Model: {args.out / 'model'}")


def fit(args: Namespace) -> None:
    """Fit an estimator and write the model."""
    kind = ESTIMATORS[args.estimator]
    refuse_model(args.model, kind.__name__, args.force)
    estimator = _estimator(kind, args, verbose=1)
    # Before the fit, which would be lost.
    check_savable(estimator, estimator._classes())
    _check_apart(args.model, estimator.checkpoint_dir)
    X, item_ids = _embeddings(args)
    if item_ids is not None and not estimator.store_catalogue:
        raise ValueError(
            f"--item-ids {args.item_ids} should come with --store-catalogue True. "
            "Leave one of them out."
        )
    estimator.fit(X)
    if item_ids is not None:
        estimator.catalogue_.set_keys(item_ids)
    save_model(estimator, args.model)
    print(_figures(estimator, X))
    print(f"Model: {args.model}")


def _check_apart(model: Path, checkpoint_dir: str | None) -> None:
    """Refuse states of a fit in the folder of the model, which has its own files."""
    if checkpoint_dir is None:
        return
    states = Path(checkpoint_dir).resolve()
    if model.resolve() in (states, *states.parents):
        raise ValueError(
            f"--checkpoint-dir {checkpoint_dir} should not be in --model {model}, "
            "which has no other files. Give a folder beside it."
        )


def encode(args: Namespace) -> None:
    """Write the IDs of items, without registering them."""
    if args.embeddings.is_dir():
        _encode_shards(args)
        return
    _only_for("embeddings that are a folder", args, SHARD_OPTIONS)
    refuse(args.out, args.force)
    kind = format_of(args.out, args.format)
    model = load_model(args.model, args.allow_pickle)
    X, item_ids = _embeddings(args)
    with waiting("Encoding", is_watched()):
        # In one call, since IDs of new rows are unique within a call.
        ids = quantizer(model).predict(prepared(model, X), **_keys(model, item_ids))
    _write(args, args.out, kind, IDs(ids, item_ids, sizes_of(model)))
    print(f"{len(ids)} items: {args.out}")


def _encode_shards(args: Namespace) -> None:
    """Write the codes of a folder of Parquet files."""
    from sk_rqkplus.distributed import encode_shards

    _only_for("embeddings that are one file", args, FILE_OPTIONS)
    found = encode_shards(
        load_model(args.model, args.allow_pickle),
        args.embeddings,
        args.out,
        embedding=args.column or "embedding",
        key=args.item_ids or "item_id",
        keep=args.keep,
        ids=args.ids,
        order=args.order,
        resume=args.resume,
        force=args.force,
        verbose=is_watched(),
    )
    skipped = f", {found.n_skipped} of them done before" if found.n_skipped else ""
    print(f"{found.n_rows} rows in {found.n_files} files{skipped}: {args.out}")
    if found.appended is not None:
        new, known = found.appended
        print(f"{new} new items, {known} known ones: {args.ids}")


def _only_for(what: str, args: Namespace, options: dict[str, Any]) -> None:
    """Refuse options that would be ignored."""
    for name, default in options.items():
        if getattr(args, name) != default:
            raise ValueError(
                f"--{name.replace('_', '-')} is for {what}. Leave it out of this "
                "command."
            )


def extend(args: Namespace) -> None:
    """Register new items in a model, and write their IDs."""
    refuse(args.out, args.force)
    kind = format_of(args.out, args.format)
    loaded = stamp(args.model)
    model = load_model(args.model, args.allow_pickle)
    X, item_ids = _embeddings(args)
    before = len(getattr(quantizer(model), "catalogue_", ()))
    with waiting("Encoding", is_watched()):
        ids = quantizer(model).extend(prepared(model, X), **_keys(model, item_ids))
    # The IDs take their place only after the model that knows them.
    with atomic_write(args.out) as temporary:
        _write(args, temporary, kind, IDs(ids, item_ids, sizes_of(model)))
        save_model(model, args.model, instead_of=loaded)
    after = len(quantizer(model).catalogue_)
    print(f"{len(ids)} items, {after - before} of them new: {args.out}")
    print(f"{after} items in the model: {args.model}")


def export(args: Namespace) -> None:
    """Write the IDs of a model or of a file in another format."""
    refuse(args.out, args.force)
    kind = format_of(args.out, args.format)
    layout = {
        "base": args.source_base,
        "suffix": args.source_suffix,
        "template": args.source_template,
    }
    items = read_ids(args.source, args.n_levels, layout, args.allow_pickle)
    if args.codebook_sizes is not None:
        sizes = np.atleast_1d(args.codebook_sizes).tolist()
        items = items._replace(codebook_sizes=sizes)
    _write(args, args.out, kind, items)
    print(f"{len(items.ids)} items: {args.out}")


def compare(args: Namespace) -> None:
    """Print what share of IDs and of prefixes changed."""
    old, new = (
        read_ids(path, args.n_levels, _layout(args), args.allow_pickle)
        for path in (args.old, args.new)
    )
    if (old.item_ids is None) != (new.item_ids is None):
        raise ValueError(
            f"{args.old} and {args.new} should both have item IDs, or neither. Fit "
            "with --item-ids, or compare other files."
        )
    if old.item_ids is None:
        # An item is its row then, and rows beyond the other side are new.
        old, new = (side._replace(item_ids=range(len(side.ids))) for side in (old, new))
    changes = compare_ids(
        old.ids, new.ids, old_keys=old.item_ids, new_keys=new.item_ids
    )
    print(_json(changes) if args.json else _changes(changes))


def report(args: Namespace) -> None:
    """Print the report on a model, and write it as a page."""
    from sk_rqkplus.report import sid_report

    if args.out is not None:
        refuse(args.out, args.force)
    model = load_model(args.model, args.allow_pickle)
    X, _ = _embeddings(args)
    titles = None if args.titles is None else read_titles(args.titles, len(X))
    with waiting("Measuring", is_watched()):
        result = sid_report(model, X, titles)
    if args.out is not None:
        result.save(args.out)
    print(result)
    if args.out is not None:
        print(f"\nReport: {args.out}")


def suggest(args: Namespace) -> None:
    """Print codebook sizes, with what they come to on a part of the rows."""
    from sk_rqkplus.model_selection import suggest_codebook_sizes

    X, _ = _embeddings(args)
    one = isinstance(args.candidates, int)
    suggestion = suggest_codebook_sizes(
        X,
        args.n_levels,
        candidates=[args.candidates] if one else args.candidates,
        max_collision_rate=args.max_collision_rate,
        random_state=args.random_state,
        verbose=is_watched(),
    )
    print(_json(suggestion) if args.json else suggestion)


def _changes(changes: Any) -> str:
    """Table of what changed."""
    rows = [
        ("items in both", f"{changes.n_common}"),
        ("items added", f"{changes.n_added}"),
        ("items removed", f"{changes.n_removed}"),
        ("IDs changed", f"{changes.id_changed:.2%}"),
    ]
    for level, share in enumerate(changes.prefix_changed, start=1):
        rows.append((f"prefixes of {level} changed", f"{share:.2%}"))
    return tabulate(rows, tablefmt="plain", disable_numparse=True)


def _json(figures: Any) -> str:
    return json.dumps(figures.to_dict(), indent=2)


def _embeddings(args: Namespace) -> tuple[np.ndarray, list | None]:
    """Matrix of the command line, and the keys of its rows."""
    X = read_matrix(
        args.embeddings, column=args.column, key=args.key, verbose=is_watched()
    )
    name = getattr(args, "item_ids", None)
    if name is None:
        return X, None
    keys = read_column(args.embeddings, name)
    place = f"{args.embeddings}, {name}"
    return X, check_item_ids(keys, lambda row: f"{place}, row {row}")


def _keys(model: Any, item_ids: list | None) -> dict[str, list]:
    """Keys for predict and extend, where the items of the model have keys."""
    catalogue = getattr(quantizer(model), "catalogue_", None)
    if catalogue is None or catalogue.keys is None:
        return {}
    if item_ids is None:
        raise ValueError(
            "--item-ids=None should name a column, since the items of the model have "
            "keys. Give the one that holds theirs."
        )
    return {"keys": item_ids}


def _layout(args: Namespace) -> dict[str, Any]:
    return {"base": args.base, "suffix": args.suffix, "template": args.template}


def _write(args: Namespace, path: str | Path, kind: str, items: IDs) -> None:
    write_ids(
        path,
        kind,
        items,
        layout=_layout(args),
        separator=args.separator,
        start=args.start,
    )


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


def _figures(estimator, X):
    """Table of what a fit came to."""
    sizes = [len(book) for book in estimator.codebooks_]
    codes, ids = estimator.codes_, estimator.ids_
    share = metrics.perplexity(codes) / sizes
    # X may be a mapped file: a chunk of it at a time.
    means = np.broadcast_to(column_means(X), X.shape)
    variance = metrics.reconstruction_mse(X, means)
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
        first = estimator.history_[0].get("reconstruction_error", float("nan"))
        start = " (RQ-KMeans)" if hasattr(estimator, "rqkmeans_") else ""
        rows.append((f"MSE of epoch 0{start}", f"{first:.3g}"))
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
