"""Checks on the scorers, on a tiny model."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_rqkplus import RQKMeans, RQKMeansPlus, metrics
from sk_rqkplus.scorers import (
    SCORERS,
    code_neighbour_recall,
    in_sample_split,
    mean_perplexity,
    mean_prefix_cohesion,
    mean_relative_perplexity,
    neg_collision_rate,
    neg_reconstruction_mse,
    neighbour_recall,
    reconstruction_r2,
    refit_within,
)


@pytest.fixture(scope="module")
def rows():
    return np.random.RandomState(0).randn(60, 6)


@pytest.fixture(scope="module")
def tiny(rows):
    return RQKMeans((4, 4), random_state=0).fit(rows)


class Known:
    """Stand-in for a model whose codes and reconstructions are known."""

    codebooks_ = (np.zeros((2, 1)), np.zeros((4, 1)))

    def transform(self, X):
        return np.array([[0, 0], [0, 0], [1, 0], [1, 1]])

    def inverse_transform(self, codes):
        return np.array([[1.0], [1.0], [3.0], [5.0]])


ROWS = np.array([[0.0], [1.0], [3.0], [6.0]])


def test_scores_of_known_codes_by_hand():
    # One of four items is one too many. Two codewords used equally often count 2, and
    # shares of 3/4 and 1/4 count 4 / 3 ** 0.75.
    assert neg_collision_rate(Known(), ROWS) == -0.25
    second = 4 / 3**0.75
    assert mean_perplexity(Known(), ROWS) == pytest.approx((2 + second) / 2)
    relative = mean_relative_perplexity(Known(), ROWS)
    assert relative == pytest.approx((2 / 2 + second / 4) / 2)


def test_scores_of_known_reconstructions_by_hand():
    # Squares of the errors 1, 0, 0, 1 against deviations -2.5, -1.5, 0.5, 3.5.
    r2 = reconstruction_r2(Known(), ROWS)
    assert r2 == pytest.approx(1 - 2 / (6.25 + 2.25 + 0.25 + 12.25))
    # Of 4 rows, the 3 others are the neighbours.
    assert neighbour_recall(Known(), ROWS) == 1
    assert code_neighbour_recall(Known(), ROWS) == 1


def test_prefix_cohesion_of_known_codes_by_hand():
    # First level: rows 0, 1 at 0.6 and rows 2, 3 at 0; second: rows 0, 1 alone.
    X = [[1.0, 0], [3, 4], [1, 0], [0, 1]]
    assert mean_prefix_cohesion(Known(), X) == pytest.approx((0.3 + 0.6) / 2)


def test_levels_that_no_rows_share_do_not_count():
    class Distinct(Known):
        def transform(self, X):
            return np.arange(2 * len(X)).reshape(-1, 2) // self.divisor

    model = Distinct()
    model.divisor = (4, 1)
    X = [[1.0, 0], [3, 4], [1, 0], [0, 1]]
    assert mean_prefix_cohesion(model, X) == pytest.approx(0.3)
    model.divisor = 1
    assert np.isnan(mean_prefix_cohesion(model, X))


@pytest.mark.parametrize("n", [60, 7])
def test_scorers_are_the_metrics_of_the_rows_given(tiny, rows, n):
    held_out = rows[:n]
    codes = tiny.transform(held_out)
    error = metrics.reconstruction_mse(held_out, tiny.inverse_transform(codes))

    assert neg_reconstruction_mse(tiny, held_out) == pytest.approx(-error, rel=1e-5)
    assert neg_collision_rate(tiny, held_out) == -metrics.collision_rate(codes)
    assert mean_perplexity(tiny, held_out) == metrics.perplexity(codes).mean()
    share = metrics.perplexity(codes, [4, 4]).mean()
    assert mean_relative_perplexity(tiny, held_out) == share
    other = tiny.inverse_transform(codes)
    k = min(10, n - 1)
    assert reconstruction_r2(tiny, held_out) == metrics.reconstruction_r2(
        held_out, other
    )
    assert neighbour_recall(tiny, held_out) == (
        metrics.neighbour_recall(held_out, other, k=k).value
    )
    assert code_neighbour_recall(tiny, held_out) == (
        metrics.code_neighbour_recall(held_out, codes, k=k).value
    )
    levels = metrics.prefix_cohesion(codes, held_out)
    values = [level.value for level in levels]
    assert mean_prefix_cohesion(tiny, held_out) == pytest.approx(np.nanmean(values))


def test_codes_are_scored_before_they_are_made_unique(tiny, rows):
    # 60 rows on 16 codes.
    assert metrics.collision_rate(tiny.predict(rows)) == 0
    assert neg_collision_rate(tiny, rows) <= 16 / 60 - 1


@pytest.mark.parametrize("name", [n for n in SCORERS if n != "relative_perplexity"])
def test_higher_is_better(rows, name):
    sizes = [(1, 1), (8, 8)]
    coarse, fine = (RQKMeans(s, random_state=0).fit(rows) for s in sizes)
    assert SCORERS[name](coarse, rows) < SCORERS[name](fine, rows)


@pytest.mark.parametrize("name", SCORERS)
def test_scorers_take_a_y_and_ignore_it(tiny, rows, name):
    score = SCORERS[name](tiny, rows)
    assert type(score) is float
    assert SCORERS[name](tiny, rows, np.arange(60)) == score


@pytest.mark.parametrize("name", SCORERS)
@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_codes_in_a_data_frame_score_the_same(rows, name, container):
    frames = pytest.importorskip(container)
    steps = make_pipeline(StandardScaler(), RQKMeans((4, 4), random_state=0))
    expected = SCORERS[name](steps.fit(rows), rows)
    framed = clone(steps).set_output(transform=container)
    X = frames.DataFrame(
        rows,
        **{"pandas": {"columns": list("abcdef")}, "polars": {"schema": list("abcdef")}}[
            container
        ],
    )
    assert SCORERS[name](framed.fit(X), X) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", SCORERS)
def test_a_pipeline_scores_what_its_last_step_gets(rows, name):
    last = RQKMeans((4, 4), random_state=0)
    inner = Pipeline([("nothing", "passthrough"), ("pca", PCA(3)), ("rq", last)])
    nested = make_pipeline(StandardScaler(), None, inner).fit(rows)
    seen = nested[0].transform(rows)
    seen = nested[-1][1].transform(seen)
    expected = SCORERS[name](nested[-1][-1], seen)
    assert SCORERS[name](nested, rows) == pytest.approx(expected, rel=1e-12)
    assert SCORERS[name](make_pipeline(last).fit(rows), rows) == (
        SCORERS[name](clone(last).fit(rows), rows)
    )


def test_all_of_them_score_a_pipeline_in_cross_validation(rows):
    pipeline = make_pipeline(StandardScaler(), RQKMeans((4, 4), random_state=0))
    scores = cross_validate(pipeline, rows, cv=2, scoring=SCORERS, error_score="raise")

    assert np.all(scores["test_reconstruction_mse"] < 0)
    assert np.all(scores["test_collision_rate"] > -1)
    assert np.all((scores["test_perplexity"] >= 1) & (scores["test_perplexity"] <= 4))


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_all_of_them_serve_a_search(rows, n_jobs):
    search = GridSearchCV(
        RQKMeans(random_state=0),
        {"codebook_sizes": [(2, 2), (4, 4), (6, 6)]},
        scoring=SCORERS,
        refit=refit_within("neighbour_recall", then="collision_rate", tolerance=0.1),
        cv=2,
        n_jobs=n_jobs,
        error_score="raise",
    ).fit(rows)
    results = search.cv_results_
    for name in SCORERS:
        assert np.isfinite(results[f"mean_test_{name}"]).all()
    recall = results["mean_test_neighbour_recall"]
    near = np.flatnonzero(recall >= 0.9 * recall.max())
    best = near[results["mean_test_collision_rate"][near].argmax()]
    assert search.best_index_ == best
    # The rule travels with copies of the search.
    for copy in (clone(search), pickle.loads(pickle.dumps(search))):
        assert copy.refit(results) == best


@pytest.mark.filterwarnings("ignore:no epoch had a lower reconstruction_error")
def test_they_score_rqkmeansplus(rows):
    plus = RQKMeansPlus((4, 4), max_epochs=1, random_state=0).fit(rows)
    scores = {name: scorer(plus, rows) for name, scorer in SCORERS.items()}
    assert all(type(score) is float and np.isfinite(score) for score in scores.values())
    assert scores["reconstruction_mse"] == plus.score(rows)


def test_one_split_of_all_rows(rows):
    search = GridSearchCV(
        RQKMeans(random_state=0),
        {"codebook_sizes": [(4, 4), (8, 8)]},
        scoring=neg_collision_rate,
        cv=in_sample_split(len(rows)),
    ).fit(rows)
    ((fitted, scored),) = in_sample_split(len(rows))
    assert_array_equal(fitted, np.arange(60))
    assert_array_equal(scored, np.arange(60))
    rate = metrics.collision_rate(search.best_estimator_.codes_)
    assert search.best_params_ == {"codebook_sizes": (8, 8)}
    assert search.best_score_ == -rate


# The rule that chooses between two figures, on results made by hand.

RESULTS = {
    "mean_test_recall": np.array([0.50, 0.48, 0.20, 0.47]),
    "split0_test_recall": np.array([0.48, 0.48, 0.20, 0.47]),
    "split1_test_recall": np.array([0.52, 0.48, 0.20, 0.47]),
    "mean_test_collision": np.array([-0.3, -0.2, -0.0, -0.1]),
}


@pytest.mark.parametrize(
    "tolerance, chosen",
    [
        (0, 0),
        (0.05, 1),  # 0.475 and better
        (0.1, 3),  # 0.45 and better
        (1.0, 2),
        # Splits of 0.48 and 0.52 have a standard deviation of 0.0283, hence the mean a
        # standard error of 0.02, and 0.48 is just within it.
        ("one_se", 1),
    ],
)
def test_nearly_the_best_by_hand(tolerance, chosen):
    choose = refit_within("recall", then="collision", tolerance=tolerance)
    index = choose(RESULTS)
    assert type(index) is int
    assert index == chosen


def test_one_standard_error_is_the_default():
    assert refit_within("recall", then="collision")(RESULTS) == 1


def test_a_share_of_a_negative_best():
    # Errors of 1.0 and 1.04: within 5 % of the best, not within 3 %.
    results = {
        "mean_test_mse": [-1.04, -1.0, -2.0],
        "mean_test_collision": [-0.1, -0.2, -0.0],
    }
    choose = refit_within("mse", then="collision", tolerance=0.05)
    assert choose(results) == 0
    choose = refit_within("mse", then="collision", tolerance=0.03)
    assert choose(results) == 1


def test_ties_go_to_the_better_first_figure_then_to_the_first_setting():
    results = {"mean_test_a": [0.9, 1.0, 1.0], "mean_test_b": [5, 5, 5]}
    assert refit_within("a", then="b", tolerance=0.5)(results) == 1
    results = {"mean_test_a": [0.9, 1.0, 1.0], "mean_test_b": [6, 5, 5]}
    assert refit_within("a", then="b", tolerance=0.5)(results) == 0


def test_settings_without_a_score_are_passed_over():
    results = {"mean_test_a": [np.nan, 1.0, 0.9], "mean_test_b": [9, np.nan, 1]}
    assert refit_within("a", then="b", tolerance=0.5)(results) == 2
    # If the second figure is missing for all that are near, the first one decides.
    assert refit_within("a", then="b", tolerance=0)(results) == 1
    assert (
        refit_within("a", then="b", tolerance=0.0)(
            {"mean_test_a": [np.nan, -np.inf, -2.0], "mean_test_b": [9, 9, 1]}
        )
        == 2
    )


@pytest.mark.parametrize(
    "results, tolerance, message",
    [
        (RESULTS, -0.1, "tolerance=-0.1 should be 'one_se' or >= 0"),
        (RESULTS, np.nan, "tolerance=nan should be 'one_se' or >= 0"),
        (RESULTS, np.inf, "tolerance=inf should be 'one_se' or >= 0"),
        (RESULTS, "1se", "tolerance='1se' should be 'one_se' or >= 0"),
        (RESULTS, None, "tolerance=None should be 'one_se' or >= 0"),
        (RESULTS, True, "tolerance=True should be 'one_se' or >= 0"),
        ({"mean_test_collision": [0]}, 0.1, "metric='recall' should be one of .'coll"),
        ({"mean_test_recall": [0]}, 0.1, "then='collision' should be one of .'recall"),
        (
            {"mean_test_recall": [np.nan], "mean_test_collision": [0]},
            0.1,
            "metric='recall' should have a finite score for some setting",
        ),
        (
            {
                "mean_test_recall": [1],
                "split0_test_recall": [1],
                "mean_test_collision": [0],
            },
            "one_se",
            "tolerance='one_se' should come with 2 splits or more, not 1",
        ),
    ],
)
def test_bad_rules_are_named(results, tolerance, message):
    with pytest.raises(ValueError, match=message):
        refit_within("recall", then="collision", tolerance=tolerance)(results)
