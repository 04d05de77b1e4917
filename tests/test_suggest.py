"""Suggested codebook sizes: extrapolation, held-out errors, and the choice."""

import json
from itertools import product
from math import exp, log

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from sk_rqkplus import RQKMeans, RQKMeansPlus, metrics
from sk_rqkplus._frontier import (
    REACH,
    SizePoint,
    extrapolate_collisions,
    fitted_rows,
    measure_sizes,
)
from sk_rqkplus._text import sizes_text
from sk_rqkplus.datasets import make_catalogue
from sk_rqkplus.model_selection import (
    choose,
    resolve_candidates,
    suggest_codebook_sizes,
)


@pytest.fixture(scope="module")
def rows():
    data = make_catalogue(4000, 16, branching=(12, 8, 6), random_state=0).data
    return data.astype(np.float32)


@pytest.fixture(scope="module")
def suggestion(rows):
    return suggest_codebook_sizes(rows, 2, candidates=[4, 16, 64])


# Extrapolation


def test_no_further_rows_is_the_collision_rate():
    codes = np.random.RandomState(0).randint(5, size=(30, 2))
    expected = metrics.collision_rate(codes)
    assert extrapolate_collisions(codes, 30) == pytest.approx(expected)


def test_extrapolation_by_hand():
    # Counts 2, 1, 1 of m = 4. The whole uses 3 codes, a half is expected to use
    # 1 - 1/4 + 2 * 1/2 = 7/4, a quarter 1 - 9/16 + 2 * 1/4 = 15/16: shares 3/4, 7/8 and
    # 15/16, with odds 3, 7 and 15.
    codes = np.array([[0], [0], [1], [2]])
    # The parabola through log 3, log 7 and log 15 at steps 0, -1 and -2, at step 1:
    log_odds = 3 * log(3) - 3 * log(7) + log(15)
    expected = 1 / (1 + exp(log_odds))
    assert extrapolate_collisions(codes, 8) == pytest.approx(expected)


def test_nothing_is_known_without_a_collision():
    assert extrapolate_collisions(np.arange(5)[:, None], 10) == 0


def test_one_code_for_all():
    codes = np.zeros((64, 1), dtype=int)
    assert extrapolate_collisions(codes, 320) == pytest.approx(1 - 1 / 320, abs=1e-3)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("factor", [2, REACH])
def test_extrapolation_of_draws_from_known_shares(power, factor):
    share = 1 / np.arange(1, 2001) ** power
    share /= share.sum()
    rng = np.random.RandomState(0)
    codes = rng.choice(len(share), size=(6000, 1), p=share)
    n = 6000 * factor
    expected = 1 - (1 - (1 - share) ** n).sum() / n
    assert extrapolate_collisions(codes, n) == pytest.approx(expected, abs=0.02)


def test_sample_tells_the_collisions_of_the_whole(rows):
    # The truth is known by fitting the whole.
    whole = RQKMeans((24, 24, 24), random_state=0).fit(rows)
    truth = metrics.collision_rate(whole.codes_)
    arguments = {"max_samples": 800, "random_state": 0}
    for max_encoded, error in ((4000, 0.04), (800, 0.07)):
        (point,) = measure_sizes(
            RQKMeans(), rows, [(24, 24, 24)], max_encoded=max_encoded, **arguments
        )
        assert point.collision_rate == pytest.approx(truth, abs=error)
    assert point.counted_collision_rate < truth - 0.1


# What is measured


def test_points_are_in_order_and_of_the_rows(suggestion, rows):
    points = suggestion.points
    assert [point.codebook_sizes for point in points] == [(4, 4), (16, 16), (64, 64)]
    assert [point.n_codes for point in points] == [16, 256, 4096]
    assert [point.rows_per_codeword for point in points] == [1000, 250, 62.5]
    assert (suggestion.n_samples, suggestion.n_fitted) == (4000, 3200)
    rates = [point.collision_rate for point in points]
    assert rates == sorted(rates, reverse=True)
    # All rows were encoded, so that nothing is extrapolated.
    assert rates == [point.counted_collision_rate for point in points]


def test_held_out_rows_are_not_fitted(rows):
    fits, models = [], []

    class Recorder(RQKMeans):
        def fit(self, X, y=None):
            fits.append(X)
            models.append(self)
            return super().fit(X)

    (point,) = measure_sizes(
        Recorder(augment="none", balance="none"),
        rows[:100],
        [(40, 20)],
        max_samples=80,
        max_encoded=100,
        random_state=0,
    )
    (fitted,) = fits
    known = {row.tobytes() for row in fitted}
    held_out = np.array([row for row in rows[:100] if row.tobytes() not in known])
    assert (len(fitted), len(held_out)) == (80, 20)
    model = models[0]
    assert point.error == pytest.approx(-model.score(held_out))
    assert point.fitted_error == pytest.approx(-model.score(fitted))
    assert point.fitted_error < point.error / 2


def test_too_large_codebooks_show():
    # Noise in many dimensions: codewords of few rows are no better than the mean.
    suggestion = suggest_codebook_sizes(
        np.random.RandomState(0).normal(size=(300, 64)),
        2,
        candidates=[1, 120],
        estimator=RQKMeans(augment="none", balance="none"),
        max_collision_rate=1.0,
    )
    small, large = suggestion.points
    assert large.fitted_error < small.fitted_error / 2
    assert large.error > small.error * 0.99
    assert suggestion.codebook_sizes == (1, 1)
    assert "From 2 × 120 on the held-out error falls by less than 1%" in (
        suggestion.reason
    )


@pytest.mark.filterwarnings("ignore:no epoch had a lower")
def test_the_estimator_is_a_template(rows):
    template = RQKMeansPlus((5,), max_epochs=1, hidden_layer_sizes=(4,))
    before = template.get_params()
    suggestion = suggest_codebook_sizes(
        rows[:300], 2, candidates=[4], estimator=template
    )
    assert suggestion.codebook_sizes == (4, 4)
    assert template.get_params() == before
    assert not hasattr(template, "codebooks_")


def test_calls_agree_and_leave_the_global_generator(rows):
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    one, two = (
        suggest_codebook_sizes(rows[:500], 2, candidates=[4, 8]) for _ in range(2)
    )
    assert one == two
    assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002
    other = suggest_codebook_sizes(rows[:500], 2, candidates=[4, 8], random_state=1)
    assert other.points != one.points


def test_a_memory_map_is_sampled(rows, tmp_path):
    np.save(tmp_path / "X.npy", rows[:500])
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    arguments = {"candidates": [4], "max_samples": 100, "max_encoded": 200}
    assert suggest_codebook_sizes(mapped, 2, **arguments) == suggest_codebook_sizes(
        rows[:500], 2, **arguments
    )


# The choice


def point(size, collisions, error):
    return SizePoint((size,), size, 1.0, collisions, collisions, error, error)


def test_the_smallest_size_with_few_collisions():
    points = [point(1, 0.9, 4.0), point(2, 0.2, 3.0), point(4, 0.1, 2.0)]
    sizes, reason = choose(points, 0.2)
    assert sizes == (2,)
    assert reason.startswith("1 × 2 is the smallest size with a collision rate of at")
    assert "20.0%, at a held-out error of 3." in reason


def test_the_least_error_where_none_has_few_collisions():
    sizes, reason = choose([point(1, 0.9, 4.0), point(2, 0.5, 3.0)], 0.2)
    assert sizes == (2,)
    assert (
        "still lowers the held-out error has a collision rate of at most 20%." in reason
    )
    assert "Add a level" in reason


def test_a_size_that_lowers_the_error_no_further_is_not_recommended():
    points = [point(1, 0.9, 4.0), point(2, 0.5, 3.0), point(4, 0.1, 2.98)]
    sizes, reason = choose(points, 0.2)
    assert sizes == (2,)
    assert "From 1 × 4 on the held-out error falls by less than 1%" in reason
    assert choose([*points[:2], point(4, 0.1, 2.96)], 0.2)[0] == (4,)
    # A step without a gain does not count where a later one has one.
    assert choose([*points, point(8, 0.05, 2.5)], 0.2)[0] == (4,)


def test_candidates_by_default():
    sizes = [sizes[0] for sizes in resolve_candidates(None, 3, 2948)]
    assert sizes == [16, 32, 64, 128, 256, 512]
    assert resolve_candidates(None, 2, 1) == [(2, 2)]


def test_candidates_are_sorted_by_the_number_of_codes():
    given = [(8, 2), 2, (2, 2), [4, 2], np.int64(3)]
    assert resolve_candidates(given, 2, 100) == [(2, 2), (4, 2), (3, 3), (8, 2)]


def test_some_rows_are_held_out():
    for n, most in product([2, 3, 10, 1000], [1, 5, 1000]):
        assert 1 <= fitted_rows(n, most) < n
        assert fitted_rows(n, most) <= most


# Text, dictionary, errors


def test_text_and_dictionary(suggestion):
    text = str(suggestion)
    assert text.endswith(suggestion.reason)
    marked = [line for line in text.splitlines() if line.startswith("*")]
    assert len(marked) == 1
    assert sizes_text(suggestion.codebook_sizes) in marked[0]
    plain = json.loads(json.dumps(suggestion.to_dict(), allow_nan=False))
    assert plain["points"][0]["codebook_sizes"] == [4, 4]


def test_far_extrapolation_warns(rows):
    with pytest.warns(UserWarning, match="n_samples=4000 should be <= 500, which is 5"):
        suggest_codebook_sizes(rows, 2, candidates=[4], max_encoded=100)


@pytest.mark.parametrize(
    "arguments, error, match",
    [
        ({"candidates": []}, ValueError, r"candidates=\[\] should have at least one"),
        ({"candidates": [0]}, ValueError, "candidates have 0, which should be an int"),
        ({"candidates": [(4,)]}, ValueError, r"candidates have \(4,\), which should"),
        ({"candidates": [2.5]}, ValueError, "candidates have 2.5, which should"),
        ({"n_levels": 0}, ValueError, "n_levels=0 should be an int >= 1"),
        ({"max_samples": 0}, ValueError, "max_samples=0 should be an int >= 1"),
        ({"max_encoded": 1}, ValueError, "max_encoded=1 should be an int >= 2"),
        ({"max_collision_rate": 2}, ValueError, r"max_collision_rate=2 should be in"),
        ({"estimator": "rqkmeans"}, TypeError, "estimator='rqkmeans' should be an RQK"),
    ],
)
def test_parameters_out_of_range(rows, arguments, error, match):
    with pytest.raises(error, match=match):
        suggest_codebook_sizes(rows[:50], **arguments)


def test_one_row_is_too_few():
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        suggest_codebook_sizes(np.ones((1, 3)))
