"""Display classes: pictures of fitted estimators in matplotlib.

As in scikit-learn, ``from_estimator`` computes and draws, the attributes keep what was
computed, and ``plot`` draws it again, on other axes or in another style. They need
matplotlib: ``pip install "sk-rqkplus[plot]"``.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sk_rqkplus._base import BaseQuantizer
from sk_rqkplus._extras import require
from sk_rqkplus._frontier import SizePoint, measure_sizes
from sk_rqkplus._inputs import check_matrix
from sk_rqkplus._prefix_tree import prefix_tree, tree_nodes
from sk_rqkplus._prefixes import sort_by_prefix
from sk_rqkplus._report_data import (
    level_errors,
    quantizer_and_rows,
    quantizer_of,
    training_curves,
    usage,
)
from sk_rqkplus._titles import Titles
from sk_rqkplus._treemap import HEADING_SIZE, WORD_SIZE, Box, layout

__all__ = [
    "CodebookSizeDisplay",
    "CodebookUsageDisplay",
    "PrefixTreeDisplay",
    "ReconstructionDisplay",
    "TrainingCurveDisplay",
]

# Fill and text of the shades of a tree, the same as those of the report.
SHADES = ("#e3ebf0", "#c9dde8", "#9bc1d6", "#4f8fb3", "#1f5d82")
INK = ("#1f2630", "#1f2630", "#14202b", "#ffffff", "#ffffff")
FRAME = "#f0f1f3"
# Size of the texts of a tree beside those of the page.
TEXT_SCALE = 0.75


class _Display:
    """What all displays share: the axes that they draw on."""

    figure_: Any
    ax_: Any

    def _axes(self, ax: Any, **figure: Any) -> Any:
        """Axes to draw on, new ones if there are none."""
        pyplot = require("matplotlib.pyplot", extra="plot")
        if ax is None:
            _, ax = pyplot.subplots(layout="constrained", **figure)
        self.ax_ = ax
        self.figure_ = np.ravel(ax)[0].figure
        return ax


class CodebookUsageDisplay(_Display):
    """How evenly the codewords of every level are used.

    Codewords are sorted by the number of their items. A level whose codewords all have
    equally many items is a horizontal line at 1.

    Parameters
    ----------
    counts : list of ndarray of shape (n_codewords,)
        Items per codeword of every level, the largest count first.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the curves.

    figure_ : matplotlib Figure
        Figure with the axes.

    lines_ : list of matplotlib Line2D
        Curve of every level.

    See Also
    --------
    sk_rqkplus.report.sid_report : All figures and pictures in one page.

    Examples
    --------
    >>> from sk_rqkplus import RQKMeans
    >>> from sk_rqkplus.datasets import make_catalogue
    >>> from sk_rqkplus.plotting import CodebookUsageDisplay
    >>> X = make_catalogue(500, 16, random_state=0).data
    >>> rq = RQKMeans((16, 16), random_state=0).fit(X)
    >>> display = CodebookUsageDisplay.from_estimator(rq, X)  # doctest: +SKIP
    """

    def __init__(self, *, counts: Sequence[np.ndarray]):
        self.counts = counts

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, *, ax: Any = None, **kwargs: Any
    ) -> "CodebookUsageDisplay":
        """Count the items of every codeword, and draw.

        Parameters
        ----------
        estimator : RQKMeans, RQKMeansPlus, RQVAE, Pipeline or search
            Fitted estimator, or one that ends in one.

        X : array-like of shape (n_samples, n_features)
            Rows whose codes are counted.

        ax : matplotlib Axes, default=None
            Axes to draw on; None makes new ones.

        **kwargs : dict
            Passed to ``Axes.plot``.

        Returns
        -------
        display : CodebookUsageDisplay
            The display.
        """
        quantizer, X = quantizer_and_rows(estimator, X)
        sizes = [len(book) for book in quantizer.codebooks_]
        counts = usage(quantizer._encode(X), sizes)
        return cls(counts=counts).plot(ax=ax, **kwargs)

    def plot(self, ax: Any = None, **kwargs: Any) -> "CodebookUsageDisplay":
        """Draw one curve per level.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes new ones.

        **kwargs : dict
            Passed to ``Axes.plot``.

        Returns
        -------
        display : CodebookUsageDisplay
            This display.
        """
        ax = self._axes(ax)
        self.lines_ = []
        for level, counts in enumerate(self.counts):
            # Both ends of every codeword, so that the curve is a staircase.
            share = np.repeat(np.arange(len(counts) + 1) / len(counts), 2)[1:-1]
            load = np.repeat(counts / np.mean(counts), 2)
            style = {"label": f"level {level}", **kwargs}
            self.lines_ += ax.plot(share, load, **style)
        ax.axhline(1, color="0.6", linestyle="--", linewidth=1, zorder=0)
        ax.set(xlabel="share of codewords, most used first", xlim=(0, 1))
        ax.set(ylabel="items / mean of the level", ylim=(0, None))
        ax.legend()
        return self


class TrainingCurveDisplay(_Display):
    """Course of figures over the epochs of a training.

    Parameters
    ----------
    curves : dict of str to (list, list)
        Epochs and values of every figure.

    best_epoch : int or None, default=None
        Epoch that was restored, marked by a line.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the curves.

    figure_ : matplotlib Figure
        Figure with the axes.

    lines_ : list of matplotlib Line2D
        Curve of every figure.
    """

    def __init__(self, *, curves: dict, best_epoch: int | None = None):
        self.curves = curves
        self.best_epoch = best_epoch

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any = None,
        *,
        figures: Sequence[str] = ("reconstruction_error",),
        ax: Any = None,
        **kwargs: Any,
    ) -> "TrainingCurveDisplay":
        """Read the history of an estimator, and draw.

        Parameters
        ----------
        estimator : RQKMeansPlus, RQVAE, Pipeline or search
            Fitted estimator with a ``history_``, or one that ends in one.

        X : None
            Ignored, present for API consistency.

        figures : sequence of str, default=("reconstruction_error",)
            Keys of the history to draw.

        ax : matplotlib Axes, default=None
            Axes to draw on; None makes new ones.

        **kwargs : dict
            Passed to ``Axes.plot``.

        Returns
        -------
        display : TrainingCurveDisplay
            The display.

        Raises
        ------
        ValueError
            If the estimator has no history.
        """
        quantizer = quantizer_of(estimator)
        if not hasattr(quantizer, "history_"):
            raise ValueError(
                f"estimator={type(quantizer).__name__} should have a history_ of its "
                "training. Give a fitted RQKMeansPlus or RQVAE."
            )
        display = cls(
            curves=training_curves(quantizer.history_),
            best_epoch=getattr(quantizer, "best_epoch_", None),
        )
        return display.plot(ax=ax, figures=figures, **kwargs)

    def plot(
        self,
        ax: Any = None,
        *,
        figures: Sequence[str] = ("reconstruction_error",),
        **kwargs: Any,
    ) -> "TrainingCurveDisplay":
        """Draw one curve per figure.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes new ones.

        figures : sequence of str, default=("reconstruction_error",)
            Keys of the curves to draw.

        **kwargs : dict
            Passed to ``Axes.plot``.

        Returns
        -------
        display : TrainingCurveDisplay
            This display.

        Raises
        ------
        ValueError
            If there is no curve of that name.
        """
        unknown = [name for name in figures if name not in self.curves]
        if unknown:
            raise ValueError(
                f"figures={tuple(figures)!r} should be among {sorted(self.curves)}. "
                f"The history has no {unknown[0]!r}."
            )
        ax = self._axes(ax)
        self.lines_ = []
        for name in figures:
            epochs, values = self.curves[name]
            marker = "o" if len(epochs) < 30 else None
            style = {"marker": marker, "label": name.replace("_", " "), **kwargs}
            self.lines_ += ax.plot(epochs, values, **style)
        if self.best_epoch is not None:
            label = f"best epoch: {self.best_epoch}"
            ax.axvline(self.best_epoch, color="0.6", linestyle="--", label=label)
        ax.set(xlabel="epoch", ylim=(0, None))
        ax.legend()
        return self


class PrefixTreeDisplay(_Display):
    """Treemap of the first two levels: areas are numbers of items.

    A frame is a first code, the boxes inside are second codes. The stronger the shade,
    the more of the items have a code that another item has too.

    Parameters
    ----------
    tree : list of dict
        Prefix tree, as ``sid_report(...).tree`` has it.

    n_items : int
        Number of all items.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the boxes.

    figure_ : matplotlib Figure
        Figure with the axes.

    patches_ : list of matplotlib Patch
        The boxes.

    texts_ : list of matplotlib Text
        The texts in them.
    """

    def __init__(self, *, tree: list[dict], n_items: int):
        self.tree = tree
        self.n_items = n_items

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        titles: Any = None,
        ax: Any = None,
        n_first: int = 36,
        n_second: int = 8,
    ) -> "PrefixTreeDisplay":
        """Count the items of every prefix, and draw.

        Parameters
        ----------
        estimator : RQKMeans, RQKMeansPlus, RQVAE, Pipeline or search
            Fitted estimator, or one that ends in one.

        X : array-like of shape (n_samples, n_features)
            Rows whose codes are counted.

        titles : array-like of shape (n_samples,), default=None
            Titles of the items; boxes name words that are frequent in them.

        ax : matplotlib Axes, default=None
            Axes to draw on; None makes new ones.

        n_first, n_second : int, default=36 and 8
            Most first codes to draw, and second codes inside each of them.

        Returns
        -------
        display : PrefixTreeDisplay
            The display.
        """
        quantizer, X = quantizer_and_rows(estimator, X)
        codes = quantizer._encode(X)
        tree = prefix_tree(
            codes,
            sort_by_prefix(codes),
            Titles(titles, len(X)),
            n_first=n_first,
            n_second=n_second,
        )
        display = cls(tree=tree, n_items=len(X))
        return display.plot(ax=ax, n_first=n_first, n_second=n_second)

    def plot(
        self, ax: Any = None, *, n_first: int = 36, n_second: int = 8
    ) -> "PrefixTreeDisplay":
        """Draw the boxes.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes new ones. Texts are fitted to their present
            size.

        n_first, n_second : int, default=36 and 8
            Most first codes to draw, and second codes inside each of them.

        Returns
        -------
        display : PrefixTreeDisplay
            This display.
        """
        patches = require("matplotlib.patches", extra="plot")
        ax = self._axes(ax, figsize=(9, 6))
        nodes, share = tree_nodes(self.tree, self.n_items, n_first, n_second)
        ax.set_axis_off()
        ax.set_title(f"{len(nodes)} first codes, {share:.0%} of {self.n_items:,} items")
        # The layout moves the axes when it is drawn: do so, then measure.
        self.figure_.draw_without_rendering()
        size = ax.get_window_extent().size * 72 / self.figure_.dpi / TEXT_SCALE
        ax.set(xlim=(0, size[0]), ylim=(size[1], 0))
        self.patches_, self.texts_ = [], []
        for cell in layout(nodes, Box(0, 0, *map(float, size))):
            x, y, *extent = cell.box
            color = FRAME if cell.shade is None else SHADES[cell.shade]
            box = ax.add_patch(patches.Rectangle((x, y), *extent, facecolor=color))
            self.patches_.append(box)
            for line, (dx, dy) in zip(cell.lines, cell.baselines(), strict=True):
                text = ax.text(
                    x + dx,
                    y + dy,
                    line,
                    fontsize=TEXT_SCALE * (HEADING_SIZE if cell.bold else WORD_SIZE),
                    weight="bold" if cell.bold else None,
                    color=INK[cell.shade or 0],
                    parse_math=False,
                    clip_on=True,
                )
                text.set_clip_path(box)
                self.texts_.append(text)
        return self


class ReconstructionDisplay(_Display):
    """Reconstruction error against the number of levels that are read.

    Parameters
    ----------
    errors : sequence of float, n_levels + 1 values
        Mean squared error from the first 0, 1, 2 ... levels.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the curve.

    figure_ : matplotlib Figure
        Figure with the axes.

    line_ : matplotlib Line2D
        The curve.
    """

    def __init__(self, *, errors: Sequence[float]):
        self.errors = errors

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, *, ax: Any = None, **kwargs: Any
    ) -> "ReconstructionDisplay":
        """Measure the error after every level, and draw.

        Parameters
        ----------
        estimator : RQKMeans, RQKMeansPlus, RQVAE, Pipeline or search
            Fitted estimator, or one that ends in one.

        X : array-like of shape (n_samples, n_features)
            Rows that are reconstructed.

        ax : matplotlib Axes, default=None
            Axes to draw on; None makes new ones.

        **kwargs : dict
            Passed to ``Axes.plot``.

        Returns
        -------
        display : ReconstructionDisplay
            The display.
        """
        quantizer, X = quantizer_and_rows(estimator, X)
        errors = level_errors(quantizer, X, quantizer._encode(X))
        return cls(errors=errors).plot(ax=ax, **kwargs)

    def plot(self, ax: Any = None, **kwargs: Any) -> "ReconstructionDisplay":
        """Draw the curve.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes new ones.

        **kwargs : dict
            Passed to ``Axes.plot``.

        Returns
        -------
        display : ReconstructionDisplay
            This display.
        """
        ax = self._axes(ax)
        levels = range(len(self.errors))
        (self.line_,) = ax.plot(levels, self.errors, **{"marker": "o", **kwargs})
        ax.set(xlabel="levels read", ylabel="mean squared error", xticks=levels)
        ax.set_ylim(0, None)
        return self


class CodebookSizeDisplay(_Display):
    """Collision rate and reconstruction error against the size of the codebooks.

    Parameters
    ----------
    points : list of SizePoint
        Figures of every size.

    marked : tuple of int, default=None
        Sizes of the point to mark.

    Attributes
    ----------
    ax_ : ndarray of two matplotlib Axes
        Axes of the collision rate and of the error.

    figure_ : matplotlib Figure
        Figure with the axes.

    See Also
    --------
    sk_rqkplus.model_selection.suggest_codebook_sizes : Recommends a size.
    """

    def __init__(
        self, *, points: Sequence[SizePoint], marked: tuple[int, ...] | None = None
    ):
        self.points = points
        self.marked = marked

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseQuantizer,
        X: Any,
        *,
        codebook_sizes: Sequence[int] = (16, 32, 64, 128, 256),
        max_samples: int = 50_000,
        max_encoded: int = 1_000_000,
        random_state: Any = 0,
        ax: Any = None,
    ) -> "CodebookSizeDisplay":
        """Fit clones of an estimator with codebooks of other sizes, and draw.

        Parameters
        ----------
        estimator : RQKMeans, RQKMeansPlus or RQVAE
            Template of the fits, with as many levels as it has; it need not be fitted.

        X : array-like of shape (n_samples, n_features)
            Rows of the catalogue.

        codebook_sizes : sequence of int, default=(16, 32, 64, 128, 256)
            Codewords per level to try.

        max_samples, max_encoded : int, default=50_000 and 1_000_000
            Most rows to fit to, and to encode.

        random_state : int, RandomState instance or None, default=0
            Draws the rows and seeds the fits.

        ax : array-like of two matplotlib Axes, default=None
            Axes to draw on; None makes new ones.

        Returns
        -------
        display : CodebookSizeDisplay
            The display.
        """
        X = check_matrix(X, ensure_min_samples=2)
        n_levels = len(estimator.codebook_sizes)
        points = measure_sizes(
            estimator,
            X,
            [(size,) * n_levels for size in codebook_sizes],
            max_samples=max_samples,
            max_encoded=max_encoded,
            random_state=random_state,
        )
        return cls(points=list(points)).plot(ax=ax)

    def plot(self, ax: Any = None) -> "CodebookSizeDisplay":
        """Draw both figures, side by side.

        Parameters
        ----------
        ax : array-like of two matplotlib Axes, default=None
            Axes to draw on; None makes new ones.

        Returns
        -------
        display : CodebookSizeDisplay
            This display.
        """
        left, right = self.ax_ = np.ravel(self._axes(ax, ncols=2, figsize=(9, 3.6)))
        # Equal sizes are told by one number, others by the number of codes.
        equal = all(len(set(point.codebook_sizes)) == 1 for point in self.points)
        x = [p.codebook_sizes[0] if equal else p.n_codes for p in self.points]
        left.plot(x, [point.collision_rate for point in self.points], marker="o")
        left.set(ylabel="collision rate", ylim=(0, None))
        fitted = [point.fitted_error for point in self.points]
        right.plot(x, [point.error for point in self.points], "o-", label="held out")
        right.plot(x, fitted, "o:", label="fitted")
        right.set(ylabel="mean squared error", ylim=(0, None))
        for axes in (left, right):
            axes.set_xscale("log", base=2 if equal else 10)
            axes.set_xlabel("codewords per level" if equal else "number of codes")
            if equal:
                axes.set_xticks(x, [f"{size:,}" for size in x])
        for point, place in zip(self.points, x, strict=True):
            if point.codebook_sizes == self.marked:
                right.axvline(place, color="0.6", linestyle="--", label="recommended")
                left.axvline(place, color="0.6", linestyle="--")
        right.legend()
        return self
