"""What callbacks of scikit-learn are told."""

import pytest

from sk_rqkplus import RQKMeans, RQKMeansPlus

pytest.importorskip("sklearn.callback", reason="scikit-learn < 1.9 has no callbacks")


class Record:
    """Keep the names of the tasks that end; stop after so many."""

    def __init__(self, stop_after=None):
        self.ended = []
        self.stop_after = stop_after
        self.open = False

    def setup(self, estimator, context):
        self.open = True

    def teardown(self, estimator, context):
        self.open = False

    def on_fit_task_begin(self, estimator, context, **kwargs):
        pass

    def on_fit_task_end(self, estimator, context, **kwargs):
        self.ended.append(context.task_name)
        return len(self.ended) == self.stop_after


def test_every_iteration_is_reported(X):
    record = Record()
    rq = RQKMeans((4, 4), max_iter=5, tol=0.0, balance="none", random_state=0)
    rq.set_callbacks(record)
    rq.fit(X)
    assert record.ended[-1] == "fit"
    # Five of each level, one round, and two levels that are encoded again.
    assert record.ended.count("iteration") == 13
    assert not record.open


def test_a_callback_can_stop_the_training(X):
    record = Record(stop_after=3)
    model = RQKMeansPlus((4, 4), max_epochs=20, eval_every=1, random_state=0)
    model.set_callbacks(record)
    model.fit(X)
    assert model.n_iter_ == 3
    assert record.ended == ["epoch", "epoch", "epoch", "fit"]
    assert not record.open


def test_callbacks_are_closed_after_an_error(X):
    record = Record()
    rq = RQKMeans((4, 4)).set_callbacks(record)
    with pytest.raises(ValueError, match=r"X\[0, 0\]=NaN should be"):
        rq.fit(X * float("nan"))
    assert not record.open
