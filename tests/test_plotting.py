"""Displays: what they draw is what was computed, where matplotlib is installed."""

import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_rqkplus import RQKMeans, RQKMeansPlus, plotting
from sk_rqkplus._report_data import level_errors
from sk_rqkplus.model_selection import suggest_codebook_sizes
from sk_rqkplus.plotting import (
    CodebookSizeDisplay,
    CodebookUsageDisplay,
    PrefixTreeDisplay,
    ReconstructionDisplay,
    TrainingCurveDisplay,
)


@pytest.fixture
def pyplot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    pyplot = pytest.importorskip("matplotlib.pyplot")
    yield pyplot
    pyplot.close("all")


@pytest.fixture(scope="module")
def plus(X):
    return RQKMeansPlus(
        (8, 8), hidden_layer_sizes=(8,), max_epochs=3, eval_every=1, random_state=0
    ).fit(X)


def test_usage_is_counted_and_sorted(pyplot, fitted, X):
    display = CodebookUsageDisplay.from_estimator(fitted, X, linewidth=3)
    for level, (counts, line) in enumerate(
        zip(display.counts, display.lines_, strict=True)
    ):
        expected = np.bincount(fitted.codes_[:, level], minlength=16)
        assert_array_equal(counts, np.sort(expected)[::-1])
        x, y = line.get_data()
        # The area under a curve of load over share is 1.
        assert np.sum(np.diff(x) * (y[:-1] + y[1:]) / 2) == pytest.approx(1)
        assert line.get_linewidth() == 3
        assert line.get_label() == f"level {level}"


def test_training_curve_is_the_history(pyplot, plus):
    display = TrainingCurveDisplay.from_estimator(
        make_pipeline(StandardScaler(), plus),
        figures=["reconstruction_error", "train_loss"],
    )
    errors = [entry["reconstruction_error"] for entry in plus.history_]
    assert_allclose(display.lines_[0].get_ydata(), errors)
    assert_array_equal(display.lines_[1].get_xdata(), [1, 2, 3])
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert labels[-1] == f"best epoch: {plus.best_epoch_}"


def test_training_curve_needs_a_history(pyplot, fitted, plus):
    with pytest.raises(ValueError, match="estimator=RQKMeans should have a history_"):
        TrainingCurveDisplay.from_estimator(fitted)
    with pytest.raises(ValueError, match="The history has no 'accuracy'"):
        TrainingCurveDisplay.from_estimator(plus, figures=["accuracy"])


def test_tree_has_a_box_per_prefix(pyplot, fitted, X):
    titles = [f"drill {i}" if i % 2 else "a $bad$ tape" for i in range(len(X))]
    display = PrefixTreeDisplay.from_estimator(
        fitted, X, titles=titles, n_first=5, n_second=3
    )
    frames = [p for p in display.patches_ if p.get_facecolor()[0] > 0.93]
    assert len(frames) == 5
    assert len(display.patches_) <= 5 + 5 * 3
    display.figure_.canvas.draw()
    words = " ".join(text.get_text() for text in display.texts_)
    assert "drill" in words
    assert "tape" in words


def test_texts_of_a_tree_are_inside_their_boxes(pyplot, fitted, X):
    titles = ["WWW mmm electromagnetic WWWWWWWWWW"] * len(X)
    display = PrefixTreeDisplay.from_estimator(fitted, X, titles=titles)
    display.figure_.canvas.draw()
    assert len(display.texts_) > 20
    for text in display.texts_:
        box, extent = text.get_clip_box(), text.get_window_extent()
        assert extent.x0 >= box.x0
        assert extent.x1 <= box.x1
        assert extent.y0 >= box.y0 - 1
        assert extent.y1 <= box.y1 + 1


def test_reconstruction_against_levels(pyplot, fitted, X):
    display = ReconstructionDisplay.from_estimator(fitted, X)
    errors = level_errors(fitted, X, fitted.codes_)
    assert_allclose(display.errors, errors)
    assert_allclose(display.line_.get_ydata(), errors)
    assert_array_equal(display.line_.get_xdata(), [0, 1, 2, 3])


def test_sizes_are_fitted_and_drawn(pyplot, X):
    template = RQKMeans((2, 2), augment="none")
    display = CodebookSizeDisplay.from_estimator(template, X, codebook_sizes=(4, 8))
    left, right = display.ax_
    rates = [point.collision_rate for point in display.points]
    assert_array_equal(
        left.lines[0].get_xydata(), list(zip([4, 8], rates, strict=True))
    )
    errors = [point.error for point in display.points]
    assert_allclose(right.lines[0].get_ydata(), errors)
    assert display.figure_ is right.figure


def test_a_suggestion_draws_what_it_recommends(pyplot, X):
    suggestion = suggest_codebook_sizes(X, 2, candidates=[(4, 2), (8, 4)])
    display = suggestion.plot()
    assert display.marked == suggestion.codebook_sizes
    assert display.ax_[0].get_xlabel() == "number of codes"
    assert_array_equal(display.ax_[0].lines[0].get_xdata(), [8, 32])
    labels = [text.get_text() for text in display.ax_[1].get_legend().get_texts()]
    assert labels == ["held out", "fitted", "recommended"]


@pytest.mark.parametrize(
    "make",
    [
        lambda rq, X: CodebookUsageDisplay.from_estimator(rq, X),
        lambda rq, X: TrainingCurveDisplay.from_estimator(rq),
        lambda rq, X: PrefixTreeDisplay.from_estimator(rq, X),
        lambda rq, X: ReconstructionDisplay.from_estimator(rq, X),
    ],
)
def test_axes_that_are_given_are_used_again(pyplot, plus, X, make):
    display = make(plus, X)
    figure, ax = pyplot.subplots()
    assert display.plot(ax=ax) is display
    assert display.ax_ is ax
    assert display.figure_ is figure
    assert len(pyplot.get_fignums()) == 2


def test_without_matplotlib_the_extra_is_named(monkeypatch, fitted, X):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'pip install "sk-rqkplus\[plot\]"'):
        CodebookUsageDisplay.from_estimator(fitted, X)


def test_importing_the_displays_does_not_import_matplotlib():
    code = "import sys, sk_rqkplus.plotting; print('matplotlib' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "False"
    assert plotting.__all__ == sorted(plotting.__all__)
