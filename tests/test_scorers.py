"""Checks on the scorers, on a tiny model."""

import numpy as np
import pytest
from sklearn.model_selection import cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_rqkplus import RQKMeans, metrics
from sk_rqkplus.scorers import (
    SCORERS,
    mean_perplexity,
    neg_collision_rate,
    neg_reconstruction_mse,
)


@pytest.fixture(scope="module")
def rows():
    return np.random.RandomState(0).randn(60, 6)


@pytest.fixture(scope="module")
def tiny(rows):
    return RQKMeans((4, 4), random_state=0).fit(rows)


class FixedCodes:
    """Stand-in for a model whose codes are known."""

    def transform(self, X):
        return np.array([[0, 0], [0, 0], [1, 0], [1, 1]])


def test_scores_of_known_codes_by_hand():
    # One of four items is one too many. Two codewords used equally often count 2, and
    # shares of 3/4 and 1/4 count 4 / 3 ** 0.75.
    assert neg_collision_rate(FixedCodes(), None) == -0.25
    expected = (2 + 4 / 3**0.75) / 2
    assert mean_perplexity(FixedCodes(), None) == pytest.approx(expected)


@pytest.mark.parametrize("n", [60, 7])
def test_scorers_are_the_metrics_of_the_rows_given(tiny, rows, n):
    held_out = rows[:n]
    codes = tiny.transform(held_out)
    error = metrics.reconstruction_mse(held_out, tiny.inverse_transform(codes))

    assert neg_reconstruction_mse(tiny, held_out) == pytest.approx(-error, rel=1e-5)
    assert neg_collision_rate(tiny, held_out) == -metrics.collision_rate(codes)
    assert mean_perplexity(tiny, held_out) == metrics.perplexity(codes).mean()


def test_codes_are_scored_before_they_are_made_unique(tiny, rows):
    # 60 rows on 16 codes.
    assert metrics.collision_rate(tiny.predict(rows)) == 0
    assert neg_collision_rate(tiny, rows) <= 16 / 60 - 1


@pytest.mark.parametrize("name", SCORERS)
def test_higher_is_better(rows, name):
    sizes = [(1, 1), (8, 8)]
    coarse, fine = (RQKMeans(s, random_state=0).fit(rows) for s in sizes)
    assert SCORERS[name](coarse, rows) < SCORERS[name](fine, rows)


@pytest.mark.parametrize("name", SCORERS)
def test_scorers_take_a_y_and_ignore_it(tiny, rows, name):
    score = SCORERS[name](tiny, rows)
    assert type(score) is float
    assert SCORERS[name](tiny, rows, np.arange(60)) == score


@pytest.mark.parametrize("scorer", [neg_collision_rate, mean_perplexity])
def test_codes_in_a_data_frame_score_the_same(rows, tiny, scorer):
    pytest.importorskip("pandas")
    framed = RQKMeans((4, 4), random_state=0).set_output(transform="pandas").fit(rows)
    assert scorer(framed, rows) == scorer(tiny, rows)


def test_all_of_them_score_a_pipeline_in_cross_validation(rows):
    pipeline = make_pipeline(StandardScaler(), RQKMeans((4, 4), random_state=0))
    scores = cross_validate(pipeline, rows, cv=2, scoring=SCORERS, error_score="raise")

    assert np.all(scores["test_reconstruction_mse"] < 0)
    assert np.all(scores["test_collision_rate"] > -1)
    assert np.all((scores["test_perplexity"] >= 1) & (scores["test_perplexity"] <= 4))
