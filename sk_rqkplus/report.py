"""Report on the Semantic IDs of a catalogue: figures, pictures and advice."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from html import escape
from os import PathLike, fspath
from typing import Any

import numpy as np
from tabulate import tabulate

from sk_rqkplus import __version__
from sk_rqkplus._advice import Advice, advise
from sk_rqkplus._files import atomic_write
from sk_rqkplus._prefix_tree import collision_groups, prefix_tree
from sk_rqkplus._prefixes import sort_by_prefix
from sk_rqkplus._report_data import (
    examples,
    quantizer_and_rows,
    thinned,
    training_curves,
    usage,
)
from sk_rqkplus._report_figures import FIGURES, measure, show
from sk_rqkplus._report_html import LEVEL_ROWS, render
from sk_rqkplus._text import sizes_text
from sk_rqkplus._titles import Titles

__all__ = ["SIDReport", "sid_report"]


@dataclass(frozen=True, repr=False)
class SIDReport:
    """What the codes of a catalogue are like, as :func:`sid_report` returns it.

    ``str(report)`` is a table. A notebook shows the page.

    Attributes
    ----------
    model : dict
        The estimator and the size of the data.

    figures : dict of str to dict
        Figures of the whole. Each has a ``value`` and, where they exist, the ``low``
        and ``high`` ends of a 95 % confidence interval, a ``floor`` that no model goes
        below, and a ``baseline`` that a model without knowledge reaches. What does not
        exist is None.

    levels : list of dict
        Figures of every level.

    usage : list of dict
        Items per codeword of every level in descending order: ``count`` at ``rank``.
        At most 256 ranks.

    tree : list of dict
        Largest prefixes of one level and, as their ``children``, of two.

    history : dict of str to (list, list)
        Epochs and values of the figures of the training.

    examples : list of dict
        Some items with their nearest neighbours, and the IDs of both.

    groups : list of dict
        Codes that most items share, with titles.

    advice : list of Advice
        What to change, and which figure says so. Warnings come first.

    See Also
    --------
    sid_report : Makes a report.
    """

    model: dict
    figures: dict[str, dict]
    levels: list[dict]
    usage: list[dict]
    tree: list[dict]
    history: dict[str, tuple[list, list]]
    examples: list[dict]
    groups: list[dict]
    advice: list[Advice]

    def __repr__(self) -> str:
        return f"<SIDReport of {self.model['n_items']:,} items, {self.model['name']}>"

    def __str__(self) -> str:
        model = self.model
        head = (
            f"{model['name']}, {sizes_text(model['codebook_sizes'])} codewords, "
            f"{model['n_items']:,} items of {model['n_features']:,} features"
        )
        return "\n\n".join(
            [head, self._figure_table(), self._level_table(), *self._advice_lines()]
        )

    def _figure_table(self) -> str:
        rows = []
        for key, spec in FIGURES.items():
            figure = self.figures[key]
            interval = [show(figure[end], spec.unit) for end in ("low", "high")]
            rows.append(
                [
                    spec.label,
                    show(figure["value"], spec.unit),
                    " to ".join(interval) if figure["low"] != figure["high"] else "",
                    "" if figure["floor"] is None else show(figure["floor"], spec.unit),
                    ""
                    if figure["baseline"] is None
                    else f"{show(figure['baseline'], spec.unit)} ({spec.baseline})",
                ]
            )
        heads = ["figure", "value", "95 % interval", "floor", "baseline"]
        return _table(rows, heads, ["left", "right", "left", "right", "left"])

    def _level_table(self) -> str:
        rows = []
        for label, key, unit in LEVEL_ROWS:
            values = [level[key] for level in self.levels]
            values = [v["value"] if isinstance(v, dict) else v for v in values]
            rows.append([label, *(show(value, unit) for value in values)])
        heads = ["", *(f"level {i}" for i in range(len(self.levels)))]
        return _table(rows, heads, ["left", *["right"] * len(self.levels)])

    def _advice_lines(self) -> list[str]:
        if not self.advice:
            return ["No figure is out of the ordinary."]
        return [
            f"{one.severity}: {one.topic} ({one.trigger()})\n  {one.text}"
            for one in self.advice
        ]

    def _repr_html_(self) -> str:
        # In a frame, so that neither page changes the look of the other.
        page = escape(self.to_html())
        style = "width:100%;height:720px;border:0"
        return f'<iframe title="SID report" style="{style}" srcdoc="{page}"></iframe>'

    def to_dict(self) -> dict:
        """Everything as plain Python, ready for ``json.dump``.

        Returns
        -------
        report : dict
            The attributes; what is not defined is None.
        """
        return asdict(self)

    def to_html(self, path: str | PathLike | None = None) -> str:
        """Page with everything in it: no script, nothing from a network.

        Parameters
        ----------
        path : path-like, optional
            File to write, which is replaced if it exists.

        Returns
        -------
        page : str
            The HTML document.
        """
        page = render(self)
        if path is not None:
            _write(path, page)
        return page

    def save(self, path: str | PathLike) -> None:
        """Write the report in the format that the ending of the name says.

        Parameters
        ----------
        path : path-like
            File to write, which is replaced if it exists: ``.html`` for the page,
            ``.json`` for :meth:`to_dict`, ``.txt`` for the table.

        Raises
        ------
        ValueError
            If the name has another ending.
        """
        formats: dict[str, Callable[[], str]] = {
            ".html": self.to_html,
            ".json": lambda: json.dumps(self.to_dict(), indent=1, allow_nan=False),
            ".txt": lambda: f"{self}\n",
        }
        for ending, text in formats.items():
            if fspath(path).lower().endswith(ending):
                _write(path, text())
                return
        raise ValueError(
            f"path={fspath(path)!r} should end in one of {', '.join(formats)}. The "
            "ending says which format to write."
        )


def _table(rows: list, heads: list[str], align: list[str]) -> str:
    return tabulate(
        rows, heads, tablefmt="simple", colalign=align, disable_numparse=True
    )


def _write(path: str | PathLike, text: str) -> None:
    with (
        atomic_write(path) as temporary,
        open(temporary, "w", encoding="utf-8") as file,
    ):
        file.write(text)


def sid_report(estimator: Any, X: Any, titles: Any = None) -> SIDReport:
    """Measure what the codes and IDs of a catalogue are like.

    Figures stand beside their floors and beside what random codes reach, and those
    that are out of the ordinary come with advice. Figures that compare pairs of items
    are estimated from samples, the same ones at every call.

    Read more in the :ref:`User Guide <report>`.

    Parameters
    ----------
    estimator : RQKMeans, RQKMeansPlus, RQVAE, Pipeline or search
        Fitted estimator, Pipeline that ends in one, or search over either. It is not
        changed.

    X : array-like of shape (n_samples, n_features)
        Item embeddings: an array, a DataFrame or a memory-mapped file, which is read in
        parts. A Pipeline transforms all of it at once.

    titles : array-like of shape (n_samples,), default=None
        Title of every item. Without them items are called by their row number.

    Returns
    -------
    report : SIDReport
        The report.

    Raises
    ------
    TypeError
        If the estimator does not end in a quantiser of this package.

    ValueError
        If there is not one title per row.

    See Also
    --------
    sk_rqkplus.plotting : The same pictures in matplotlib.
    sk_rqkplus.model_selection.suggest_codebook_sizes : How many codewords to use.

    Examples
    --------
    >>> from sk_rqkplus import RQKMeans
    >>> from sk_rqkplus.datasets import make_catalogue
    >>> from sk_rqkplus.report import sid_report
    >>> X = make_catalogue(500, 16, random_state=0).data
    >>> report = sid_report(RQKMeans((16, 16, 16), random_state=0).fit(X), X)
    >>> report
    <SIDReport of 500 items, RQKMeans>
    >>> report.figures["id_collision_rate"]["value"]
    0.0
    """
    quantizer, X = quantizer_and_rows(estimator, X)
    names = Titles(titles, len(X))
    codes = quantizer._encode(X)
    ids = quantizer._identify(X, codes)
    figures, levels, n_sampled = measure(quantizer, X, codes, ids)
    prefixes = sort_by_prefix(codes)
    sizes = [len(book) for book in quantizer.codebooks_]
    model = {
        "name": type(quantizer).__name__,
        "n_items": len(X),
        "n_features": X.shape[1],
        "codebook_sizes": sizes,
        "largest_prefix": int(np.diff(prefixes.bounds[-2]).max()),
        "best_epoch": _optional_int(quantizer, "best_epoch_"),
        "n_epochs": _optional_int(quantizer, "n_iter_"),
        "n_sampled": n_sampled,
        "has_titles": names.given,
        "version": __version__,
    }
    counts = usage(codes, sizes)
    return SIDReport(
        model=model,
        figures=figures,
        levels=levels,
        usage=[
            dict(zip(("rank", "count"), thinned(count), strict=True))
            for count in counts
        ],
        tree=prefix_tree(codes, prefixes, names),
        history=training_curves(getattr(quantizer, "history_", [])),
        examples=examples(X, ids, names),
        groups=collision_groups(codes, prefixes, names),
        advice=advise(figures, levels, model),
    )


def _optional_int(quantizer: Any, name: str) -> int | None:
    value = getattr(quantizer, name, None)
    return None if value is None else int(value)
