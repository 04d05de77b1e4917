"""RQKMeansPlus: its warm start, its training, and what it keeps."""

import subprocess
import sys

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from skorch.callbacks import Callback, EarlyStopping

from sk_rqkplus import RQKMeans, RQKMeansPlus
from sk_rqkplus._training import Rows
from sk_rqkplus.metrics import collision_rate
from sk_rqkplus.scorers import SCORERS


def plus(**params):
    defaults = {
        "codebook_sizes": (16, 16, 16),
        "hidden_layer_sizes": (32,),
        "max_epochs": 30,
        "batch_size": 128,
        "augment": "none",
        "eval_every": 5,
        "random_state": 0,
    }
    return RQKMeansPlus(**{**defaults, **params})


@pytest.fixture(scope="module")
def trained(X, fitted):
    return plus(codebooks=fitted).fit(X)


def test_epoch_0_is_rqkmeans_bit_for_bit(X, fitted):
    # X sits far from the origin on purpose: float32 distance kernels disagree there.
    start = plus(codebooks=fitted, max_epochs=0).fit(X)
    assert_array_equal(start.codes_, fitted.codes_)
    assert_array_equal(start.ids_, fitted.ids_)
    assert_array_equal(start.transform(X[:7]), fitted.transform(X[:7]))
    assert start.score(X) == fitted.score(X)
    assert start.best_epoch_ == 0


def test_training_lowers_the_error_of_the_warm_start(X, fitted, trained):
    assert trained.best_epoch_ > 0
    assert trained.score(X) > fitted.score(X)
    figures = [row for row in trained.history_ if "reconstruction_error" in row]
    assert [row["epoch"] for row in figures] == [0, 5, 10, 15, 20, 25, 30]
    assert figures[0]["reconstruction_error"] == -fitted.score(X)
    best = trained.history_[trained.best_epoch_]["reconstruction_error"]
    assert best == -trained.score(X)
    # Its prices were made exact after it had been chosen, which costs a little.
    lowest = min(row["reconstruction_error"] for row in figures)
    assert lowest <= best <= 1.01 * lowest


def test_history_has_the_losses_of_every_epoch(trained):
    assert len(trained.history_) == trained.n_iter_ + 1 == 31
    for row in trained.history_[1:]:
        total = row["reconstruction_loss"] + row["quantisation_loss"]
        assert row["train_loss"] == pytest.approx(total, rel=1e-5)
        assert row["gradient_norm"] > 0


def test_balanced_levels_stay_balanced(X, trained):
    counts = np.bincount(trained.transform(X)[:, -1], minlength=16)
    assert set(counts) <= {37, 38}


def test_methods_agree(X, trained):
    assert_array_equal(trained.transform(X), trained.codes_)
    assert_array_equal(trained.predict(X), trained.ids_)
    assert collision_rate(trained.ids_) == 0
    one_by_one = np.concatenate([trained.transform(x[None]) for x in X[:200]])
    assert_array_equal(one_by_one, trained.codes_[:200])


def test_a_worse_training_is_undone_with_a_warning(X, fitted):
    hopeless = plus(codebooks=fitted, lr=10.0, clip_grad_norm=None, max_epochs=6)
    with pytest.warns(UserWarning, match="no epoch had a lower reconstruction_error"):
        hopeless.fit(X)
    assert hopeless.best_epoch_ == 0
    assert_array_equal(hopeless.ids_, fitted.ids_)


@pytest.mark.parametrize(
    "params",
    [
        {"batch_norm": True, "dropout": 0.1},
        {"decoder": "mlp", "gradient": "ste", "loss": "l1"},
        {"sinkhorn_epsilon": [0.0, 0.0, 0.05], "sinkhorn_iter": 5},
        {"optimizer": "sgd", "lr_schedule": "linear", "clip_grad_norm": None},
        {"hidden_layer_sizes": (), "balance": "none", "warmup_epochs": 0},
        {"monitor": "collision_rate", "lr_schedule": "constant", "quant_weight": 0.1},
    ],
)
@pytest.mark.filterwarnings("ignore:no epoch had a lower:UserWarning")
def test_options_train_and_persist(X, fitted, params, tmp_path):
    model = plus(codebooks=fitted, max_epochs=10, **params).fit(X)
    assert len(model.history_) == 11
    assert all(np.isfinite(row["train_loss"]) for row in model.history_[1:])
    assert all(row["gradient_norm"] > 0 for row in model.history_[1:])
    joblib.dump(model, tmp_path / "model.joblib")
    loaded = joblib.load(tmp_path / "model.joblib")
    assert_array_equal(loaded.transform(X), model.codes_)
    assert_array_equal(loaded.predict(X), model.ids_)
    assert loaded.score(X) == model.score(X)


def test_patience_stops_early(X, fitted):
    model = plus(codebooks=fitted, lr=10.0, eval_every=1, patience=3, max_epochs=50)
    with pytest.warns(UserWarning, match="no epoch had a lower"):
        model.fit(X)
    assert model.n_iter_ == 3


def test_thread_count_does_not_matter(X, fitted, two_threads):
    fits = []
    for threads in (1, 2):
        two_threads(threads)
        # Odd sizes: products of gradients then differ between thread counts.
        model = plus(codebooks=fitted, batch_norm=True, batch_size=333, max_epochs=10)
        fits.append(model.set_params(hidden_layer_sizes=(100, 37)).fit(X))
        assert torch.get_num_threads() == threads
    assert fits[0].history_ == fits[1].history_
    for key, value in fits[0].state_.items():
        assert_array_equal(value, fits[1].state_[key])


def test_global_generators_are_left_alone(X, fitted):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    model = plus(codebooks=fitted, dropout=0.2, max_epochs=2).fit(X)
    model.transform(X), model.net_
    assert torch.equal(torch.get_rng_state(), before[0])
    assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_warm_starts_of_all_kinds_agree(X, fitted, tmp_path):
    fitted.save_codebooks(tmp_path / "books.npz")
    with np.load(tmp_path / "books.npz") as file:
        arrays = [file[f"codebook_{level}"] for level in range(3)]
    common = {"max_epochs": 0, "balance": "none"}
    from_file = plus(codebooks=tmp_path / "books.npz", **common).fit(X)
    from_text = plus(codebooks=str(tmp_path / "books.npz"), **common).fit(X)
    from_arrays = plus(codebooks=arrays, **common).fit(X)
    assert from_arrays.rqkmeans_ is None
    assert not from_arrays.mean_.any()
    assert_array_equal(from_file.codes_, from_arrays.codes_)
    assert_array_equal(from_text.codes_, from_arrays.codes_)
    # The same codewords about another origin; the file has no prices.
    assert_array_equal(from_arrays.codes_[:, :2], fitted.codes_[:, :2])


def test_template_is_cloned_and_fitted(X):
    template = RQKMeans((2, 2), balance="none", max_iter=3)
    model = plus(rqkmeans=template, max_epochs=0).fit(X)
    assert not hasattr(template, "codebooks_")
    assert model.rqkmeans_.max_iter == 3
    assert [len(book) for book in model.codebooks_] == [16, 16, 16]


def test_first_stage_is_cached(X, tmp_path, monkeypatch):
    expected = plus(memory=str(tmp_path), max_epochs=1).fit(X)

    def refuse(*args, **kwargs):
        raise AssertionError("the first stage was fitted again")

    monkeypatch.setattr(RQKMeans, "fit", refuse)
    model = plus(memory=str(tmp_path), max_epochs=1, beta=0.5).fit(X)
    for one, two in zip(
        model.rqkmeans_.codebooks_, expected.rqkmeans_.codebooks_, strict=True
    ):
        assert_array_equal(one, two)


def bad_codebooks(n_levels=3, size=16, n_features=24, value=0.0):
    return [np.full((size, n_features), value) for _ in range(n_levels)]


@pytest.mark.parametrize(
    "params, message",
    [
        ({"codebooks": bad_codebooks(2)}, "codebooks has 2 levels, which should equal"),
        ({"codebooks": bad_codebooks(size=9)}, r"codebook_0\) has shape=\(9, 24\)"),
        ({"codebooks": bad_codebooks(n_features=9)}, r"should be \(16, 24\)"),
        ({"codebooks": bad_codebooks(value=np.nan)}, "NaN or infinite values"),
        ({"hidden_layer_sizes": (0,)}, r"hidden_layer_sizes=\(0,\) should be a"),
        ({"sinkhorn_epsilon": [0.1]}, r"sinkhorn_epsilon=\[0.1\] should be >= 0"),
        ({"dropout": 1.0}, "'dropout' parameter of RQKMeansPlus must be a float"),
        ({"gradient": "half"}, "'gradient' parameter of RQKMeansPlus must be a str"),
    ],
)
def test_bad_parameters_are_named(X, params, message):
    with pytest.raises(ValueError, match=message):
        plus(**params).fit(X)


def test_bad_codebook_files_are_named(X, tmp_path):
    books = {f"codebook_{level}": np.zeros((16, 24)) for level in range(3)}
    np.savez(tmp_path / "more.npz", **books, codebook_3=books["codebook_0"])
    with pytest.raises(ValueError, match=r"codebook_3.*should be .* for 3 levels"):
        plus(codebooks=tmp_path / "more.npz").fit(X)
    del books["codebook_1"]
    np.savez(tmp_path / "less.npz", **books)
    with pytest.raises(ValueError, match=r"Missing: \['codebook_1'\]"):
        plus(codebooks=tmp_path / "less.npz").fit(X)
    with pytest.raises(FileNotFoundError, match="none.npz"):
        plus(codebooks=tmp_path / "none.npz").fit(X)


def test_first_stage_of_other_sizes_is_refused(X, fitted):
    with pytest.raises(ValueError, match=r"codebook_sizes=\(16, 16, 16\) should have"):
        plus(codebooks=fitted, codebook_sizes=(8, 8)).fit(X)
    with pytest.raises(ValueError, match="n_features=24, which should equal"):
        plus(codebooks=fitted).fit(X[:, :20])


def test_a_fitted_first_stage_in_a_search_is_frozen(X, fitted):
    model = plus(codebooks=FrozenEstimator(fitted), max_epochs=0)
    assert_array_equal(clone(model).fit(X).ids_, fitted.ids_)
    with pytest.raises(ValueError, match="codebooks is an estimator that should be f"):
        clone(plus(codebooks=fitted)).fit(X)


class At(Callback):
    """Call a function at the end of the first batch."""

    def __init__(self, action):
        self.action = action

    def on_batch_end(self, net, **kwargs):
        self.action(net)


def test_nan_loss_raises_and_loses_nothing(X, trained):
    def spoil(net):
        with torch.no_grad():
            net.module_.encoder.mlp.mlp_layers[-1].weight.fill_(np.nan)

    ids = trained.ids_
    model = clone(trained).set_params(codebooks=trained.codebooks)
    model.__dict__.update(trained.__dict__)
    model.set_params(callbacks=[At(spoil)])
    with pytest.raises(ValueError, match="loss=nan at epoch 1 should be finite"):
        model.fit(X)
    assert_array_equal(model.predict(X), ids)


def test_interrupt_is_raised(X, fitted):
    def interrupt(net):
        raise KeyboardInterrupt("Ctrl-C")

    threads = torch.get_num_threads()
    model = plus(codebooks=fitted, callbacks=[At(interrupt)])
    with pytest.raises(KeyboardInterrupt, match="Ctrl-C"):
        model.fit(X)
    assert not hasattr(model, "codebooks_")
    assert torch.get_num_threads() == threads


def test_net_params_reach_the_net(X, fitted):
    model = plus(codebooks=fitted, net_params={"optimizer__betas": (0.5, 0.9)})
    model.fit(X)
    assert model.net_.optimizer_.param_groups[0]["betas"] == (0.5, 0.9)


def test_net_is_rebuilt_with_the_fitted_weights(X, trained):
    centred = torch.from_numpy(X - trained.mean_)
    assert trained.unit_ == 1.0
    module = trained.net_.module_.eval()
    with torch.no_grad():
        latent = module.encoder(centred)
    expected = trained._latent(torch.device("cpu"))(centred.double())
    assert torch.allclose(latent.double(), expected, atol=1e-5)


def test_published_names_of_the_weights(trained):
    assert list(trained.state_) == [
        "encoder.mlp.mlp_layers.1.weight",
        "encoder.mlp.mlp_layers.1.bias",
        "encoder.mlp.mlp_layers.4.weight",
        "encoder.mlp.mlp_layers.4.bias",
        "decoder.mlp.mlp_layers.1.weight",
        "decoder.mlp.mlp_layers.1.bias",
        "decoder.mlp.mlp_layers.4.weight",
        "decoder.mlp.mlp_layers.4.bias",
    ]


def test_verbose_shows_both_stages(X, capsys):
    plus(max_epochs=2, verbose=1, eval_every=1).fit(X)
    bars = capsys.readouterr().err
    assert "RQKMeans: 100%" in bars
    assert "RQKMeansPlus: 100%" in bars
    assert "loss=" in bars


@pytest.mark.filterwarnings("ignore:no epoch had a lower:UserWarning")
def test_pipeline_serves_rows_one_by_one(X):
    model = Pipeline([("pca", PCA(12)), ("sid", plus(max_epochs=10))])
    ids = model.fit_predict(X)
    codes = model.transform(X)
    assert_array_equal(np.concatenate([model.transform(x[None]) for x in X]), codes)
    assert_array_equal(np.concatenate([model.predict(x[None]) for x in X]), ids)


@pytest.mark.filterwarnings("ignore:no epoch had a lower:UserWarning")
@pytest.mark.parametrize("scoring", [None, SCORERS], ids=["score", "scorers"])
def test_grid_search_does_not_depend_on_workers(X, scoring):
    grid = {
        "beta": [0.1, 0.25],
        "quant_weight": [0.5, 1.0],
        "codebook_sizes": [(8, 8), (4, 4, 4)],
    }
    searches = []
    for n_jobs in (1, 2):
        search = GridSearchCV(
            plus(max_epochs=4, eval_every=2),
            grid,
            scoring=scoring,
            refit=True if scoring is None else "reconstruction_mse",
            cv=2,
            n_jobs=n_jobs,
        )
        searches.append(search.fit(X))
    one, two = (search.cv_results_ for search in searches)
    scores = [key for key in one if "test_" in key]
    assert len(scores) >= 5
    for key in scores:
        assert_array_equal(one[key], two[key], err_msg=key)
    assert searches[0].best_params_ == searches[1].best_params_
    assert_array_equal(searches[0].predict(X), searches[1].predict(X))


def test_another_process_gives_the_same_ids(X, trained, tmp_path):
    np.save(tmp_path / "X.npy", X)
    joblib.dump(trained, tmp_path / "model.joblib")
    script = (
        "import joblib, numpy as np; m = joblib.load('model.joblib');"
        "X = np.load('X.npy'); assert (m.predict(X) == m.ids_).all();"
        "assert (m.transform(X) == m.codes_).all()"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)


def test_industrial_floors(industrial):
    """Published sizes on a real catalogue, whose rows alone are learned."""
    model = RQKMeansPlus(augment="none", max_epochs=50, random_state=0)
    model.fit(industrial)
    assert -model.score(industrial) <= 0.00066
    assert collision_rate(model.ids_) == 0


def test_refit_forgets_the_catalogue(X, fitted):
    model = plus(codebooks=fitted, max_epochs=0).fit(X)
    model.set_params(store_catalogue=False).fit(X[::-1])
    assert not hasattr(model, "catalogue_")
    assert_array_equal(model.predict(X[::-1]), model.ids_)


@pytest.mark.filterwarnings("ignore:no epoch had a lower:UserWarning")
def test_early_stopping_of_skorch_ends_the_training(X, fitted):
    stop = EarlyStopping("train_loss", patience=2, threshold=10.0, sink=lambda _: None)
    model = plus(codebooks=fitted, callbacks=[stop], eval_every=1).fit(X)
    assert model.n_iter_ < 30


@pytest.mark.filterwarnings("ignore:no epoch had a lower:UserWarning")
def test_a_last_row_alone_joins_the_batch_before_it(X, fitted):
    rows = Rows(X, mean=np.float32(0), batch_size=599, rng=None)
    assert [len(batch) for batch, _ in rows] == [600]
    model = plus(codebooks=fitted, batch_norm=True, batch_size=599, max_epochs=1)
    assert model.fit(X).n_iter_ == 1
    with pytest.raises(ValueError, match="batch_size=1 should be >= 2 with batch_norm"):
        model.set_params(batch_size=1).fit(X)


@pytest.mark.filterwarnings("ignore:no epoch had a lower:UserWarning")
def test_default_dtype_of_the_caller_does_not_matter(X, fitted):
    expected = plus(codebooks=fitted, max_epochs=3).fit(X)
    torch.set_default_dtype(torch.float64)
    try:
        model = plus(codebooks=fitted, max_epochs=3).fit(X)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_array_equal(model.ids_, expected.ids_)
