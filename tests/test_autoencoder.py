"""What the trained estimators share: rows held out, monitors, mixtures, revival."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback

from sk_rqkplus import RQVAE, RQKMeans, RQKMeansPlus, _cells, ids, metrics
from sk_rqkplus._callbacks import StopTraining
from sk_rqkplus.scorers import neg_collision_rate


def plus(**params):
    defaults = {
        "codebook_sizes": (16, 16, 16),
        "hidden_layer_sizes": (32,),
        "max_epochs": 12,
        "batch_size": 128,
        "augment": "none",
        "eval_every": 3,
        "encoder_lr_ratio": 1.0,
        "random_state": 0,
    }
    return RQKMeansPlus(**{**defaults, **params})


@pytest.fixture
def fitted_rows(monkeypatch):
    """The rows that every first stage was fitted on."""
    rows, fit = [], RQKMeans.fit

    def listen(self, X, y=None):
        rows.append(np.array(X))
        return fit(self, X, y)

    monkeypatch.setattr(RQKMeans, "fit", listen)
    return rows


def test_a_level_that_stays_out_of_balance_says_so(X, monkeypatch):
    # Too few rounds to share all rows out; the first stage is left as it is.
    first = RQKMeans((16,), balance="none", random_state=0).fit(X)
    monkeypatch.setattr(_cells, "ROUNDS", 2)
    monkeypatch.setattr(_cells.Cells, "repair", lambda self, *, together: None)
    message = r"level 0 is not quite balanced: \d+ of 600 rows.*Lower codebook_sizes"
    model = plus(codebook_sizes=(16,), codebooks=first.codebooks_, balance="all")
    with pytest.warns(UserWarning, match=message):
        model.fit(X)


def test_validation_rows_are_kept_from_both_stages(X, fitted_rows):
    model = plus(validation_fraction=0.2).fit(X)
    (learned,) = fitted_rows
    assert len(learned) == 480
    known = {row.tobytes() for row in learned}
    held_out = np.array([row for row in X if row.tobytes() not in known])
    assert len(held_out) == 120
    first = model.history_[0]
    error = "reconstruction_error"
    assert first[error] == -model.rqkmeans_.score(learned)
    assert first[f"validation_{error}"] == -model.rqkmeans_.score(held_out)
    scored = {row["epoch"]: row for row in model.history_ if error in row}
    decides = {epoch: row[f"validation_{error}"] for epoch, row in scored.items()}
    assert model.best_epoch_ == min(decides, key=decides.get)
    # All rows get codes and IDs.
    assert_array_equal(model.predict(X), model.ids_)
    assert len(model.codes_) == 600


def test_too_few_rows_to_hold_out_are_named(X):
    with pytest.raises(ValueError, match="validation_fraction=0.9 should leave rows"):
        plus(validation_fraction=0.9, codebook_sizes=(1,)).fit(X[:2])


def test_a_callable_monitor_is_a_scorer(X, fitted):
    model = plus(codebooks=fitted, monitor=neg_collision_rate, balance="none").fit(X)
    scored = [row for row in model.history_ if "monitor" in row]
    assert [row["monitor"] for row in scored] == [
        -row["collision_rate"] for row in scored
    ]
    best = max(row["monitor"] for row in scored)
    assert model.history_[model.best_epoch_]["monitor"] == best
    assert metrics.collision_rate(model.codes_) == -best


@pytest.mark.filterwarnings("ignore:no epoch had a higher:UserWarning")
def test_neighbour_recall_as_monitor(X, fitted):
    model = plus(codebooks=fitted, monitor="neighbour_recall", balance="none").fit(X)
    scored = {
        row["epoch"]: row["neighbour_recall"]
        for row in model.history_
        if "neighbour_recall" in row
    }
    assert model.best_epoch_ == max(scored, key=scored.get)
    assert len(scored) == 5
    decoded = model.inverse_transform(model.codes_)
    expected = metrics.neighbour_recall(X, decoded).value
    assert scored[model.best_epoch_] == pytest.approx(expected, abs=1e-3)


def test_perplexity_of_every_level_is_in_the_history(X, fitted):
    model = plus(codebooks=fitted, max_epochs=3, balance="none").fit(X)
    assert model.history_[0]["perplexity"] == pytest.approx(
        metrics.perplexity(fitted.codes_)
    )


def test_dead_codewords_come_to_life(X, fitted):
    books = [book.copy() for book in fitted.codebooks_]
    books[0] += fitted.mean_
    books[1][:5] = 100.0
    options = {"codebooks": books, "balance": "none", "max_epochs": 30}
    alive = plus(**options).fit(X)
    dead = plus(**options, revive_dead=False).fit(X)
    used = [len(np.unique(model.codes_[:, 1])) for model in (alive, dead)]
    assert used[0] == 16
    assert used[1] <= 11
    assert sum(row.get("n_revived", 0) for row in alive.history_) >= 5
    assert sum(row.get("n_revived", 0) for row in dead.history_) == 0
    assert alive.score(X) > dead.score(X)


def test_a_grid_fits_the_first_stage_once_per_fold(X, fitted_rows, tmp_path):
    grid = {"beta": [0.1, 0.2, 0.3, 0.4], "quant_weight": [0.3, 0.5, 1.0, 2.0]}
    model = plus(max_epochs=1, codebook_sizes=(8, 8), memory=str(tmp_path))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no epoch had a lower")
        search = GridSearchCV(model, grid, cv=2).fit(X)
    assert len(search.cv_results_["params"]) == 16
    # Two folds, and the fit to all rows in the end.
    assert [len(rows) for rows in fitted_rows] == [300, 300, 600]


def test_partial_fit_goes_on_from_where_the_fit_stands(X, fitted):
    model = plus(codebooks=fitted, lr_schedule="constant").fit(X)
    before, ids, history = -model.score(X), model.ids_, model.history_
    model.partial_fit(X)
    assert -model.score(X) < before
    assert (model.n_iter_, len(model.history_)) == (24, 25)
    assert model.history_[:13] == history
    assert 12 < model.best_epoch_ <= 24
    assert (model.ids_ != ids).any()
    assert_array_equal(model.predict(X), model.ids_)


def test_partial_fit_of_a_new_estimator_is_a_fit(X, fitted):
    one = plus(codebooks=fitted).fit(X)
    two = plus(codebooks=fitted).partial_fit(X)
    assert one.history_ == two.history_
    assert_array_equal(one.ids_, two.ids_)


def test_partial_fit_on_other_rows_registers_them(X, fitted):
    model = plus(codebooks=fitted).fit(X[:400])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no epoch had a lower")
        model.partial_fit(X[300:])
    assert len(model.catalogue_) == 300
    assert_array_equal(model.predict(X[300:]), model.ids_)
    with pytest.raises(ValueError, match="X has 20 features, but RQKMeansPlus is exp"):
        model.partial_fit(X[:, :20])
    assert_array_equal(model.predict(X[300:]), model.ids_)


def test_partial_fit_is_reproducible(X, fitted):
    fits = [plus(codebooks=fitted).fit(X).partial_fit(X) for _ in range(2)]
    assert fits[0].history_ == fits[1].history_
    assert_array_equal(fits[0].ids_, fits[1].ids_)


@pytest.mark.parametrize("kind", [RQKMeansPlus, RQVAE])
def test_bfloat16_loses_little_and_encodes_exactly(X, kind):
    params = {"hidden_layer_sizes": (64,), "max_epochs": 20, "random_state": 0}
    losses = {}
    for precision in ("float32", "bfloat16"):
        model = kind((16, 16), precision=precision, augment="none", **params).fit(X)
        losses[precision] = [row["train_loss"] for row in model.history_[1:]]
        assert_array_equal(model.transform(X[::-1])[::-1], model.codes_)
        one_by_one = np.concatenate([model.transform(x[None]) for x in X[:50]])
        assert_array_equal(one_by_one, model.codes_[:50])
        assert model.state_["decoder." + last_bias(model)].dtype == np.float32
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=1e-2)


def last_bias(model):
    key = next(key for key in reversed(model.state_) if "bias" in key)
    return key.partition(".")[2]


def test_mixtures_are_for_few_rows(X, fitted):
    # 600 rows: 37 per codeword of 16, 300 of 2.
    model = plus(augment="auto")
    model.mean_ = X.mean(axis=0)
    assert model._mixes(X)
    assert not model.set_params(codebook_sizes=(2, 2))._mixes(X)
    assert not model.set_params(codebook_sizes=(256, 256))._mixes(X)
    assert model.set_params(augment="mixtures")._mixes(X)
    assert not model.set_params(augment="none")._mixes(X)


def test_mixtures_learn_what_holds_for_other_rows(industrial):
    fit, new = industrial[::2], industrial[1::2]
    first = RQKMeans((64, 64), random_state=0).fit(fit)
    errors = {
        augment: -plus(
            codebook_sizes=(64, 64),
            codebooks=first,
            augment=augment,
            hidden_layer_sizes=(256,),
            max_epochs=40,
            eval_every=20,
        )
        .fit(fit)
        .score(new)
        for augment in ("mixtures", "none")
    }
    assert errors["mixtures"] < errors["none"]


@pytest.mark.parametrize("scale", [2.0**-10, 2.0**10])
def test_the_unit_of_the_rows_does_not_matter(X, scale):
    # A start that leaves something to learn.
    rough = RQKMeans(max_iter=1, tol=1.0, refine=0)
    params = {"rqkmeans": rough, "augment": "mixtures"}
    first, other = plus(**params).fit(X), plus(**params).fit(X * scale)
    assert_array_equal(other.ids_, first.ids_)
    assert other.score(X * scale) == pytest.approx(first.score(X) * scale**2)
    assert other.unit_ == first.unit_ * scale
    assert other.best_epoch_ == first.best_epoch_ > 0


def test_rqvae_in_another_unit(X):
    params = {"latent_dim": 6, "max_epochs": 4, "eval_every": 2, "random_state": 0}
    first = RQVAE((16, 16), **params).fit(X)
    other = RQVAE((16, 16), **params).fit(X * 64)
    assert_array_equal(other.codes_, first.codes_)
    assert other.score(X * 64) == pytest.approx(first.score(X) * 64**2)


def test_a_stop_between_evaluations_is_scored(X, fitted):
    class Stop(Callback):
        def on_epoch_end(self, net, **kwargs):
            if len(net.history) == 7:
                raise StopTraining

    model = plus(codebooks=fitted, callbacks=[Stop()], eval_every=5).fit(X)
    assert model.n_iter_ == 7
    scored = [row["epoch"] for row in model.history_ if "perplexity" in row]
    assert scored == [0, 5, 7]


def test_partial_fit_holds_out_the_same_rows(X):
    held_out = []

    def listen(estimator, X):
        held_out.append(X.copy())
        return 0.0

    model = plus(monitor=listen, validation_fraction=0.2, max_epochs=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no epoch had a higher")
        model.fit(X).partial_fit(X)
    sizes = [len(rows) for rows in held_out]
    assert sizes.count(120) >= 2
    small = [rows for rows in held_out if len(rows) == 120]
    for rows in small:
        assert_array_equal(rows, small[0])


def test_a_monitor_sees_no_catalogue_of_another_fit(X, fitted):
    seen = []

    def monitor(estimator, X):
        seen.append(hasattr(estimator, "catalogue_"))
        return float(len(seen))

    model = plus(codebooks=fitted, monitor=monitor, max_epochs=3).fit(X)
    model.fit(X).partial_fit(X)
    assert len(seen) >= 6
    assert not any(seen)


@pytest.mark.parametrize("value", [np.nan, None, "good"])
def test_a_monitor_must_return_a_number(X, fitted, value):
    model = plus(codebooks=fitted, monitor=lambda estimator, X: value)
    with pytest.raises(ValueError, match="returned .*, which should be a finite"):
        model.fit(X)


def test_partial_fit_checks_what_was_changed(X, fitted):
    model = plus(codebooks=fitted, max_epochs=0).fit(X)
    for params, message in [
        ({"batch_size": 0}, "'batch_size' parameter of RQKMeansPlus must be an int"),
        ({"codebook_sizes": (16, 16)}, r"the fit has codebook_sizes=\(16, 16, 16\)"),
        ({"hidden_layer_sizes": (9,)}, r"hidden_layer_sizes=\(9,\) and the other"),
    ]:
        changed = clone(plus(codebooks=None))
        changed.__dict__.update(model.__dict__)
        with pytest.raises(ValueError, match=message):
            changed.set_params(**params).partial_fit(X)
    assert_array_equal(model.predict(X), model.ids_)


def test_no_gain_of_further_epochs_is_said_as_it_is(X, fitted):
    model = plus(codebooks=fitted).fit(X).set_params(lr=10.0, max_epochs=3)
    codes, best = model.codes_, model.best_epoch_
    with pytest.warns(UserWarning, match="than epoch 0: the model is as it was"):
        model.partial_fit(X)
    assert_array_equal(model.codes_, codes)
    assert model.best_epoch_ == best


@pytest.mark.parametrize("name", ["max_epochs", "optimizer", "callbacks", "lr"])
def test_net_params_that_are_ours_are_named(X, fitted, name):
    with pytest.raises(ValueError, match=rf"should not have \['{name}'\], which"):
        plus(codebooks=fitted, net_params={name: 1}).fit(X)


def test_batch_norm_needs_two_rows(X):
    model = plus(codebook_sizes=(1,), batch_norm=True)
    with pytest.raises(ValueError, match="n_samples=1 to learn from should be >= 2"):
        model.fit(X[:1])


@pytest.mark.parametrize(
    "codebooks, error, message",
    [
        (KMeans(2), TypeError, "should be an RQKMeans, arrays or a file"),
        (RQVAE((16, 16, 16)), TypeError, "should be an RQKMeans, arrays or a file"),
        (
            RQKMeans((16, 16, 16), beam_size=2, max_iter=2, random_state=0),
            ValueError,
            "codebooks has beam_size=2, which should be 1",
        ),
    ],
)
def test_first_stages_of_another_kind_are_refused(X, codebooks, error, message):
    if isinstance(codebooks, RQKMeans):
        codebooks.fit(X)
    with pytest.raises(error, match=message):
        plus(codebooks=codebooks).fit(X)


def test_fewer_codewords_are_told_of_and_restored(X, tmp_path):
    params = {"latent_dim": 3, "max_epochs": 1, "random_state": 0}
    model = RQVAE((16, 16), checkpoint_dir=tmp_path, **params)
    with pytest.warns(UserWarning, match=r"codebook_sizes=\(16, 16\) became \(10, "):
        model.fit(X[:10])
    again = RQVAE((16, 16), **params).restore(tmp_path / "epoch_00001.safetensors")
    assert len(again.codebooks_[0]) == 10


def test_clone_and_refit_give_the_same(X, fitted):
    model = plus(rqkmeans=RQKMeans(max_iter=5), dropout=0.1).fit(X)
    again = clone(model).fit(X)
    assert again.history_ == model.history_
    assert_array_equal(again.ids_, model.ids_)


@pytest.mark.parametrize(
    "estimator",
    [
        RQKMeans((4, 4), verbose=1),
        RQKMeansPlus((4, 4), max_epochs=1, verbose=1),
        RQKMeansPlus((4, 4), max_epochs=1, rqkmeans=RQKMeans(), verbose=1),
        RQVAE((4, 4), latent_dim=3, max_epochs=1, verbose=1),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
@pytest.mark.filterwarnings("ignore:no epoch had:UserWarning")
def test_unavoidable_collisions_are_told_once(estimator, X, capsys):
    floor = str(ids.collision_floor(np.concatenate([X, X[:30]]).astype(np.float16)))
    estimator.fit(np.concatenate([X, X[:30]]).astype(np.float16))
    told = capsys.readouterr().err
    assert "30 of 630 rows" in floor
    assert told.count(floor) == 1
    assert told.index(floor) < told.index("100%")
