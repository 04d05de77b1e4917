"""Command line: ``sk-rqkplus`` and its commands."""

import argparse
import ast
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, NoReturn

from sk_rqkplus import RQKMeansPlus, __version__, _commands
from sk_rqkplus._cli_files import ALL_FORMATS
from sk_rqkplus._layout import SUFFIXES
from sk_rqkplus._template import PUBLISHED

ERRORS = (ValueError, TypeError, OSError, EOFError, ImportError, MemoryError)
MODEL_HELP = "directory that fit wrote"


def main(argv: Sequence[str] | None = None) -> int:
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
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            args.run(args)
    except (
        ValueError,
        TypeError,
        OSError,
        EOFError,
        ImportError,
        MemoryError,
    ) as error:
        _say(str(error) or type(error).__name__)
        return 2
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    return 0


def _say(text: str) -> None:
    """Print a line on standard error."""
    print(f"sk-rqkplus: {' '.join(text.split())}", file=sys.stderr)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    _say(f"warning: {message}")


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all others."""

    def error(self, message: str) -> NoReturn:
        _say(f"{message}. See {self.prog} --help.")
        raise SystemExit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="sk-rqkplus", description="Semantic IDs of item embeddings.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        _add_demo,
        _add_fit,
        _add_encode,
        _add_extend,
        _add_export,
        _add_compare,
        _add_report,
        _add_suggest,
    ):
        add(commands)
    return parser


def _add_demo(commands: Any) -> None:
    command = _command(
        commands,
        _commands.demo,
        "Semantic IDs of the functions and classes of the installed numpy, scipy, "
        "scikit-learn and torch.",
        "--out demo-output",
    )
    command.add_argument(
        "--out",
        type=Path,
        default=Path("demo-output"),
        help="directory for index.json and the model (default: %(default)s)",
    )
    _add_force(command, "index.json and the model")
    _add_parameters(command, RQKMeansPlus)


def _add_fit(commands: Any) -> None:
    command = _command(
        commands,
        _commands.fit,
        "Fit an estimator on a matrix of embeddings.",
        "items.npy --model model --codebook-sizes 256,256,256",
    )
    _add_embeddings(command)
    command.add_argument("--model", type=Path, required=True, help="directory to write")
    _add_force(command, "the model")
    command.add_argument(
        "--estimator", choices=list(_commands.ESTIMATORS), default="rqkmeans-plus"
    )
    _add_parameters(command, *_commands.ESTIMATORS.values())


def _add_encode(commands: Any) -> None:
    command = _command(
        commands,
        _commands.encode,
        "Write the IDs of items. IDs of items that the model does not know are "
        "provisional: extend registers them. Of a folder of Parquet files, write the "
        "codes, a file at a time.",
        "items.npy --model model --out index.json",
    )
    _add_embeddings(command)
    _add_model(command)
    _add_out(command)
    _add_force(command, "the output")
    _add_shards(command)


def _add_shards(command: argparse.ArgumentParser) -> None:
    """Options of a table of many files."""
    group = command.add_argument_group(
        "embeddings that are a folder of Parquet files, as is the output then"
    )
    group.add_argument(
        "--resume", action="store_true", help="go on with what a run before this began"
    )
    group.add_argument(
        "--keep",
        type=lambda text: text.split(","),
        metavar="COLUMNS",
        help="columns to write beside the codes (default: that of --item-ids)",
    )
    group.add_argument(
        "--ids",
        type=Path,
        metavar="DIRECTORY",
        help="catalogue of unique IDs to append the items to, or to make",
    )
    group.add_argument(
        "--order",
        metavar="COLUMN",
        help="numbers by which items get their IDs, the largest first",
    )


def _add_extend(commands: Any) -> None:
    command = _command(
        commands,
        _commands.extend,
        "Register new items in a model and write their IDs. IDs given before never "
        "change, and items known already keep theirs. The model is replaced, and the "
        "IDs are written only if it is.",
        "new.parquet --column embedding --model model --out new-ids.parquet",
    )
    _add_embeddings(command)
    _add_model(command)
    _add_out(command)
    _add_force(command, "the output")


def _add_export(commands: Any) -> None:
    command = _command(
        commands,
        _commands.export,
        "Write the IDs of all items of a model, or those of a file, in another format.",
        "model --out ids.parquet --suffix never",
    )
    command.add_argument(
        "source",
        type=Path,
        help="directory that fit wrote, or IDs: .npy, .parquet, .jsonl or index.json",
    )
    _add_out(command)
    _add_force(command, "the output")
    command.add_argument(
        "--codebook-sizes",
        type=_value,
        help="of IDs that come from a file, for the formats token-ids and vocabulary",
    )
    _add_allow_pickle(command)
    _add_layout(command, "source-", "tokens of a source that is an index.json")
    _add_n_levels(command)


def _add_compare(commands: Any) -> None:
    command = _command(
        commands,
        _commands.compare,
        "Say what share of IDs, and of their prefixes, changed from one model or file "
        "to another. Items are matched by their item IDs, or else by their rows.",
        "old-model new-model",
    )
    for name in ("old", "new"):
        command.add_argument(
            name,
            type=Path,
            help="directory that fit wrote, or IDs: .npy, .parquet, .jsonl, index.json",
        )
    _add_json(command)
    _add_allow_pickle(command)
    _add_layout(command, "", "tokens, where a side is an index.json")
    _add_n_levels(command)


def _add_report(commands: Any) -> None:
    command = _command(
        commands,
        _commands.report,
        "Say what the codes and IDs of a model are like.",
        "items.npy --model model --titles titles.json --out report.html",
    )
    _add_embeddings(command, item_ids=False)
    _add_model(command)
    command.add_argument(
        "--titles", type=Path, help="JSON list of strings, or a text of one line each"
    )
    command.add_argument(
        "--out", type=Path, help="page to write: .html, or .json or .txt"
    )
    _add_force(command, "the output")


def _add_suggest(commands: Any) -> None:
    command = _command(
        commands,
        _commands.suggest,
        "Try codebook sizes on a part of the items, and recommend one.",
        "items.npy --n-levels 3",
    )
    _add_embeddings(command, item_ids=False)
    _add_n_levels(command)
    command.add_argument(
        "--candidates",
        type=_value,
        help="sizes to try: 64,128,256 for levels of one size, or (64,64,256),(9,9,9)",
    )
    command.add_argument(
        "--max-collision-rate",
        type=float,
        default=0.2,
        help="of codes, that is low enough (default: 0.2)",
    )
    command.add_argument("--random-state", type=int, default=0, help="(default: 0)")
    _add_json(command)


def _command(
    commands: Any, run: Callable, description: str, example: str
) -> argparse.ArgumentParser:
    """Subcommand that is called like its function."""
    command = commands.add_parser(
        run.__name__,
        help=description.partition(".")[0] + ".",
        description=fill(description),
        epilog=f"Example: sk-rqkplus {run.__name__} {example}",
        # The example is to be copied as it is.
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _add_embeddings(command: argparse.ArgumentParser, item_ids: bool = True) -> None:
    command.add_argument(
        "embeddings",
        type=Path,
        help="matrix (n_items, n_features): .npy, .npz, .parquet or .safetensors",
    )
    command.add_argument(
        "--column", help="column of a .parquet, of lists of numbers, if it has several"
    )
    command.add_argument(
        "--key", help="array of an .npz or .safetensors, if it has several"
    )
    if item_ids:
        command.add_argument(
            "--item-ids",
            metavar="COLUMN",
            help="column of a .parquet: keys of the items",
        )


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", type=Path, required=True, help=MODEL_HELP)
    _add_allow_pickle(command)


def _add_allow_pickle(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--allow-pickle",
        action="store_true",
        help="load a model.joblib, such as a pipeline, which may run any code",
    )


def _add_out(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        help="file to write; its ending is its format: .json (index.json), .jsonl, "
        ".parquet, .txt (strings) or .npy (IDs)",
    )
    command.add_argument(
        "--format", choices=ALL_FORMATS, help="format of the output, whatever its name"
    )
    _add_layout(command, "", "tokens of the output")
    command.add_argument(
        "--separator", default="", help="between the tokens of strings (default: none)"
    )
    command.add_argument(
        "--start", type=int, default=0, help="first of the token-ids (default: 0)"
    )


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print a JSON object")


def _add_n_levels(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--n-levels", type=int, default=3, help="levels of a code (default: 3)"
    )


def _add_layout(command: argparse.ArgumentParser, prefix: str, title: str) -> None:
    """Options of the text of tokens."""
    group = command.add_argument_group(title)
    group.add_argument(
        f"--{prefix}base",
        type=int,
        choices=(0, 1),
        default=0,
        help="number of the first codeword (default: 0)",
    )
    group.add_argument(
        f"--{prefix}suffix",
        choices=SUFFIXES,
        default="always",
        help="which IDs have a token for their suffix (default: always)",
    )
    group.add_argument(
        f"--{prefix}template",
        default=PUBLISHED,
        help=f"text of a token (default: {PUBLISHED})",
    )


def _add_force(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument("--force", action="store_true", help=f"overwrite {what}")


def _add_parameters(command, *estimators):
    """One option per parameter of the estimators."""
    group = command.add_argument_group("parameters of the estimator")
    seen = {}
    for estimator in estimators:
        for name, default in estimator().get_params(deep=False).items():
            seen.setdefault(name, default)
    # Said in the command that goes on, it needs no value.
    seen.pop("resume", None)
    group.add_argument(
        "--resume",
        dest="param_resume",
        action="store_true",
        default=argparse.SUPPRESS,
        help="go on from what is in --checkpoint-dir, if anything is",
    )
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
