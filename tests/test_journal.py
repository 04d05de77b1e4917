"""Fits that were broken off, and what they go on from."""

import errno
import os
import shutil
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.utils import check_random_state
from stand_in import gpu

from sk_rqkplus import (
    RQVAE,
    RQKMeans,
    RQKMeansPlus,
    _codebook,
    _journal,
    _lloyd,
    _residual,
    _rqkmeans,
)
from sk_rqkplus._checkpoints import read_checkpoint
from sk_rqkplus._journal import Book, Journal, describe, keep_journal
from sk_rqkplus._lloyd import Level
from sk_rqkplus._table import Table

# A short training says that no epoch was better; here it does not matter.
pytestmark = pytest.mark.filterwarnings("ignore:no epoch had a:UserWarning")


class Broken(Exception):
    """Stands for the end of a process."""


@pytest.fixture
def eager(monkeypatch):
    """Let a journal write every state that it is told of."""
    monkeypatch.setattr(_journal, "OVERHEAD", np.inf)


def break_after(monkeypatch, n_writes):
    """Break off a fit after so many writes; returns what writes as it was."""
    write = Book.write
    count = iter(range(1, n_writes + 1))

    def counted(self):
        write(self)
        if next(count) == n_writes:
            raise Broken("after a write")

    monkeypatch.setattr(Book, "write", counted)
    return write


def fit_in_pieces(monkeypatch, make, X, n_writes):
    """Fit, broken off after every few writes; returns it and the number of breaks."""
    for n_breaks in range(1000):
        with monkeypatch.context() as patch:
            break_after(patch, n_writes)
            try:
                return make(resume=True).fit(X), n_breaks
            except Broken:
                continue
    raise AssertionError("the fit makes no progress")


def assert_same_model(one, other):
    assert one.fingerprint_ == other.fingerprint_
    assert one.n_iter_ == other.n_iter_
    for name in ("codes_", "ids_", "mean_"):
        assert_array_equal(getattr(one, name), getattr(other, name))
    for left, right in zip(one.prices_, other.prices_, strict=True):
        assert_array_equal(left, right)
    if isinstance(one, RQKMeans):
        assert_array_equal(one.duality_gap_, other.duality_gap_)
        return
    assert one.history_ == other.history_
    assert one.best_epoch_ == other.best_epoch_
    if isinstance(one, RQKMeansPlus) and one.rqkmeans_ is not None:
        assert_same_model(one.rqkmeans_, other.rqkmeans_)


KMEANS = [
    {},
    {"n_init": 2, "balance": "all", "balance_tol": 0.1},
    {"refine": 2, "beam_size": 2, "balance": "none"},
    {"refine": 2, "balance": "all", "augment": "none"},
    {"refine": 2, "balance": "all", "augment": 1000},
    {"refine": 0, "balance": "all", "max_samples": 400},
    {"max_samples": 400, "init": "random"},
    {"augment": 1000},
]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("params", KMEANS, ids=str)
def test_rqkmeans_in_pieces_is_that_of_one_piece(X, tmp_path, monkeypatch, params):
    def make(**more):
        return RQKMeans((16, 16, 16), random_state=0, **params, **more)

    def kept(**more):
        return make(checkpoint_dir=tmp_path / "new" / "folder", **more)

    whole = make().fit(X)
    pieces, n_breaks = fit_in_pieces(monkeypatch, kept, X, 3)
    assert n_breaks >= 3
    assert_same_model(pieces, whole)
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == [
        "fit-state-0",
        "fit-state-1",
    ]


def test_a_finished_fit_is_not_refined_again(X, tmp_path, monkeypatch):
    params = {"checkpoint_dir": tmp_path, "random_state": 0}
    whole = RQKMeans((16, 16), **params).fit(X)

    def refined(*args):
        raise AssertionError("refined again")

    monkeypatch.setattr(_residual.Leftover, "refined", refined)
    assert_same_model(RQKMeans((16, 16), resume=True, **params).fit(X), whole)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.usefixtures("eager")
def test_pieces_may_be_on_a_gpu(X, tmp_path, monkeypatch):
    def make(**more):
        return RQKMeans((16, 16), random_state=0, balance="all", **more)

    def kept(**more):
        return make(checkpoint_dir=tmp_path, **more)

    with gpu():
        whole = make().fit(X)
        pieces, n_breaks = fit_in_pieces(monkeypatch, kept, X, 7)
    assert n_breaks >= 3
    assert_same_model(pieces, whole)


@pytest.mark.usefixtures("eager")
def test_iterations_on_a_sample_are_not_done_again(X, tmp_path, monkeypatch):
    def make(**more):
        return RQKMeans((16, 16), random_state=0, balance="none", tol=0.0, **more)

    def kept(**more):
        return make(checkpoint_dir=tmp_path, **more)

    monkeypatch.setattr(_codebook, "SAMPLE_ROWS", 8)
    whole = make().fit(X)
    with monkeypatch.context() as patch:
        # The first write is that of a beginning.
        break_after(patch, 3)
        with pytest.raises(Broken, match="after a write"):
            kept().fit(X)
    steps = []
    with monkeypatch.context() as patch:
        step = _lloyd.step
        patch.setattr(_lloyd, "step", lambda *args: steps.append(1) or step(*args))
        make().fit(X)
        n_whole = len(steps)
        pieces = kept(resume=True).fit(X)
    assert_same_model(pieces, whole)
    assert len(steps) - n_whole == n_whole - 2


TRAININGS = [
    (RQKMeansPlus, {"rqkmeans": RQKMeans(max_iter=4)}),
    (
        RQKMeansPlus,
        {
            "dropout": 0.2,
            "batch_norm": True,
            "balance": "all",
            "validation_fraction": 0.2,
            "patience": 3,
            "optimizer": "sgd",
            "net_params": {"optimizer__momentum": 0.9},
        },
    ),
    (RQVAE, {"balance": "last", "dropout": 0.1, "optimizer": "rmsprop"}),
    (RQVAE, {"init": "random", "augment": "mixtures", "lr_schedule": "linear"}),
]


def training(kind, **params):
    if kind is RQVAE:
        params = {"latent_dim": 6, **params}
    return kind(
        (16, 16),
        **{
            "hidden_layer_sizes": (16,),
            "max_epochs": 7,
            "eval_every": 2,
            "warmup_epochs": 2,
            "batch_size": 128,
            "random_state": 0,
            **params,
        },
    )


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    "kind, params", TRAININGS, ids=lambda p: getattr(p, "__name__", "")
)
def test_training_in_pieces_is_that_of_one_piece(
    X, tmp_path, monkeypatch, kind, params
):
    def make(folder="pieces", **more):
        return training(kind, checkpoint_dir=tmp_path / folder, **params, **more)

    whole = make("whole").fit(X)
    pieces, n_breaks = fit_in_pieces(monkeypatch, make, X, 3)
    assert n_breaks >= 1
    assert_same_model(pieces, whole)
    # What is kept for ``restore`` is what one piece would have kept.
    kept = [
        {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
        for folder in (tmp_path / "whole", tmp_path / "pieces")
    ]
    assert kept[0] == kept[1]
    # Five last ones, and the best by each figure but those that were best before.
    assert 5 < len(kept[0]) <= 5 + 2


def test_codewords_revived_before_a_break_stay_so(X, tmp_path, monkeypatch):
    params = {"init": "random", "checkpoint_dir": tmp_path}
    whole = training(RQVAE, init="random").fit(X)
    assert whole.history_[2]["n_revived"] > 0
    pieces, n_breaks = fit_in_pieces(
        monkeypatch, lambda **more: training(RQVAE, **params, **more), X, 2
    )
    assert n_breaks >= 2
    assert_same_model(pieces, whole)


def test_a_finished_first_stage_is_not_fitted_again(X, tmp_path, monkeypatch):
    model = training(RQKMeansPlus, checkpoint_dir=tmp_path).fit(X)

    def never(*args, **kwargs):
        raise AssertionError("fitted again")

    monkeypatch.setattr(_rqkmeans, "fit_codebook", never)
    again = training(RQKMeansPlus, checkpoint_dir=tmp_path, resume=True).fit(X)
    assert_same_model(again, model)
    # The folder of the first stage is no parameter of what came out.
    assert again.rqkmeans_.checkpoint_dir is None
    assert again.rqkmeans_.resume is False


@pytest.mark.usefixtures("eager")
def test_a_first_stage_from_the_cache_leaves_no_state_and_needs_none(
    X, tmp_path, monkeypatch
):
    def make(seed, **more):
        folders = {"checkpoint_dir": tmp_path / "fit", "memory": str(tmp_path / "m")}
        first = RQKMeans(max_iter=4)
        common = {"max_epochs": 3, "eval_every": 1, "random_state": seed}
        return RQKMeansPlus((8, 8), rqkmeans=first, **common, **folders, **more)

    whole = make(0).fit(X)
    # The folder of the first stage is that of another one now.
    make(1).fit(X)
    with monkeypatch.context() as patch:
        break_after(patch, 2)
        with pytest.raises(Broken, match="after a write"):
            make(0).fit(X)
    assert_same_model(make(0, resume=True).fit(X), whole)


def test_a_first_stage_may_have_a_folder_of_its_own(X, tmp_path):
    first = RQKMeans(checkpoint_dir=tmp_path / "first")
    training(RQKMeansPlus, rqkmeans=first, checkpoint_dir=tmp_path / "fit").fit(X)
    assert not (tmp_path / "fit" / "rqkmeans").exists()
    assert (tmp_path / "first" / "fit-state-0").exists()


@pytest.mark.parametrize("kind", [RQKMeans, RQKMeansPlus, RQVAE])
def test_resume_needs_a_directory_and_an_empty_one_will_do(X, tmp_path, kind):
    params = {} if kind is RQKMeans else {"max_epochs": 1}
    model = kind((8, 8), resume=True, **params)
    with pytest.raises(ValueError, match="checkpoint_dir=None should be the direc"):
        model.fit(X)
    assert not hasattr(model, "codebooks_")
    model.set_params(checkpoint_dir=tmp_path / "not" / "there").fit(X)
    assert model.codes_.shape == (600, 2)


def test_other_rows_and_parameters_are_refused_by_name(X, tmp_path):
    params = {"checkpoint_dir": tmp_path, "random_state": 0}
    model = RQKMeans([8, 8], **params).fit(X)
    again = RQKMeans((8, 8), resume=True, verbose=0, dedup="suffix", **params)
    assert_array_equal(again.fit(X).codes_, model.codes_)
    for rows, name in [
        (X[:-1], r"X='float32 of shape \(600, 24\), CRC"),
        (X[::-1], "X='float32 of shape"),
        (X.astype(float), "X='float32 of shape"),
    ]:
        with pytest.raises(ValueError, match=f"has a fit with {name}"):
            again.fit(rows)
    for change, text in [
        ({"tol": 0.5}, "tol=0.0005, which should equal tol=0.5 to go on"),
        ({"random_state": 1}, "random_state=0, which should equal random_state=1"),
        ({"max_iter": 26}, "max_iter=25, which should equal max_iter=26"),
        ({"balance": [True, True]}, "balance='last', which should equal balance"),
    ]:
        with pytest.raises(ValueError, match=text):
            RQKMeans((8, 8), resume=True, **{**params, **change}).fit(X)
    with pytest.raises(ValueError, match="class='RQKMeans', which should equal"):
        training(RQVAE, checkpoint_dir=tmp_path, resume=True).fit(X)
    # All of these left the state alone; without resume it is given up.
    assert_array_equal(again.fit(X).codes_, model.codes_)
    RQKMeans((8, 8), **{**params, "tol": 0.5}).fit(X)
    with pytest.raises(ValueError, match=r"tol=0.5, which should equal tol=0.0005"):
        again.fit(X)


def test_other_codebooks_to_start_from_are_refused(X, fitted, tmp_path):
    params = {"max_epochs": 1, "eval_every": 1, "checkpoint_dir": tmp_path}
    RQKMeansPlus((16, 16, 16), codebooks=fitted, **params).fit(X)
    other = RQKMeans((16, 16, 16), random_state=1).fit(X)
    for codebooks in (other, fitted.codebooks_):
        model = RQKMeansPlus((16, 16, 16), codebooks=codebooks, resume=True, **params)
        with pytest.raises(ValueError, match="has a fit with codebooks='RQKMeans "):
            model.fit(X)


def test_max_epochs_may_rise_where_the_rate_is_constant(X, tmp_path):
    params = {"lr_schedule": "constant", "init": "random"}
    folder = {"checkpoint_dir": tmp_path, "resume": True}
    for max_epochs in (4, 6, 9):
        params["max_epochs"] = max_epochs
        further = training(RQVAE, **params, **folder).fit(X)
        assert_same_model(further, training(RQVAE, **params).fit(X))
    with pytest.raises(
        ValueError, match="max_epochs=9, which should equal max_epochs=8 to"
    ):
        training(RQVAE, **{**params, "max_epochs": 8}, **folder).fit(X)
    params = {"checkpoint_dir": tmp_path / "cosine"}
    training(RQVAE, **params).fit(X)
    with pytest.raises(ValueError, match="max_epochs=8: lr_schedule='cosine' is a cou"):
        training(RQVAE, max_epochs=8, resume=True, **params).fit(X)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("random_state", [None, np.random.RandomState(5)], ids=str)
def test_what_was_drawn_is_known(X, tmp_path, monkeypatch, random_state):
    def make(folder, **more):
        return RQKMeans(
            (8, 8),
            random_state=random_state,
            n_init=2,
            checkpoint_dir=tmp_path / folder,
            **more,
        )

    with monkeypatch.context() as patch:
        break_after(patch, 2)
        with pytest.raises(Broken, match="after a write"):
            make("one").fit(X)
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    before = check_random_state(None).get_state()[1].copy()
    one = make("one", resume=True).fit(X)
    other, n_breaks = fit_in_pieces(
        monkeypatch, lambda **more: make("other", **more), X, 3
    )
    assert n_breaks > 1
    assert_same_model(other, one)
    assert_array_equal(check_random_state(None).get_state()[1], before)


def last_state(folder):
    """Folder of the state that was written last."""
    return max(
        folder.glob("fit-state-*"),
        key=lambda path: os.stat(path / "manifest.json").st_mtime_ns,
    )


def damage(state):
    (arrays,) = state.glob("arrays-*")
    content = bytearray(arrays.read_bytes())
    content[-1] ^= 1
    arrays.write_bytes(content)


def test_a_damaged_state_leaves_the_one_before_it(X, tmp_path, monkeypatch, eager):
    params = {"checkpoint_dir": tmp_path, "random_state": 0}
    whole = RQKMeans((8, 8), random_state=0).fit(X)
    with monkeypatch.context() as patch:
        break_after(patch, 6)
        with pytest.raises(Broken, match="after a write"):
            RQKMeans((8, 8), **params).fit(X)
    damage(last_state(tmp_path))
    with pytest.warns(
        UserWarning, match="has a damaged state: the fit goes on from"
    ) as found:
        again = RQKMeans((8, 8), resume=True, **params).fit(X)
    assert found[0].filename == __file__
    assert_same_model(again, whole)
    for state in tmp_path.glob("fit-state-*"):
        damage(state)
    with pytest.raises(ValueError, match="Set resume=False to start anew"):
        RQKMeans((8, 8), resume=True, **params).fit(X)
    assert_same_model(RQKMeans((8, 8), **params).fit(X), whole)


def test_a_changed_checkpoint_is_refused(X, tmp_path):
    model = training(RQVAE, checkpoint_dir=tmp_path, max_epochs=2).fit(X)
    path = tmp_path / "epoch_00002.safetensors"
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(len(content), size=200):
        changed = bytearray(content)
        changed[place] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="should be a checkpoint that a fit wrote"):
            read_checkpoint(path)
    path.write_bytes(content)
    assert model.restore(path).best_epoch_ == 2


def test_two_fits_do_not_share_a_directory(X, tmp_path):
    model = RQKMeans((8, 8), checkpoint_dir=tmp_path)
    with keep_journal(model, Table(X, torch.device("cpu"))):
        with pytest.raises(ValueError, match="checkpoint_dir=.* by one process at a"):
            model.fit(X)
    model.fit(X)
    with pytest.raises(ValueError, match="resume=True should be False with accelerate"):
        RQVAE(
            resume=True, accelerate=True, random_state=0, checkpoint_dir=tmp_path
        ).fit(X)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("kind", [RQKMeans, RQKMeansPlus])
def test_a_full_disk_stops_the_fit_and_nothing_is_lost(X, tmp_path, monkeypatch, kind):
    def make(**more):
        if kind is RQKMeans:
            return RQKMeans((8, 8), random_state=0, **more)
        return training(kind, **more)

    whole = make().fit(X)
    model = make(checkpoint_dir=tmp_path)
    with monkeypatch.context() as patch:
        # The third file finds no room.
        room = iter([True, True])
        write_store = _journal.write_store

        def full(*args, **kwargs):
            if not next(room, False):
                raise OSError(errno.ENOSPC, "No space left on device")
            write_store(*args, **kwargs)

        patch.setattr(_journal, "write_store", full)
        with pytest.raises(OSError, match="checkpoint_dir=.* should be a directory w"):
            model.fit(X)
    assert not [name for name in vars(model) if name.endswith("_")]
    assert not list(tmp_path.rglob("*.tmp"))
    assert_same_model(model.set_params(resume=True).fit(X), whole)


def test_writing_keeps_to_its_share_of_the_time(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(_journal.time, "monotonic", lambda: now[0])
    written = []

    def write_store(*args, **kwargs):
        now[0] += 1.0
        written.append(now[0])

    monkeypatch.setattr(_journal, "write_store", write_store)
    book = Book(tmp_path, {}, np.random.RandomState(0), torch.device("cpu"))
    book.begin()
    step = Journal(book, "step")
    for _ in range(2000):
        now[0] += 0.1
        step.save(n_iter=1)
    assert len(written) == 1 + 3
    assert len(written) / now[0] <= 0.02


def test_values_come_back_as_they_were(tmp_path):
    rng = np.random.RandomState(3)
    rng.standard_normal()
    book = Book(tmp_path, {"class": "A"}, rng, torch.device("cpu"))
    book.begin()
    fields = {
        "single": torch.tensor(1.5),
        "empty": torch.zeros(0, 3, dtype=torch.float64),
        "words": torch.arange(6, dtype=torch.int64).reshape(2, 3).T,
        "array": np.array([True, False]),
        "inertia": np.inf,
        "share": 0.1,
        "rows": [{"epoch": 1, "nothing": None, "nan": np.nan}],
    }
    journal = Journal(book).part("level 0").part("run")
    journal.save(at_once=True, **fields)
    level = Level(torch.ones(2, 2), torch.zeros(2, dtype=torch.float64), 3, 0.25)
    assert Journal(book).part("level 1").once(Level, lambda: level) is level
    Journal(book).flush()
    drawn = rng.standard_normal(5)

    other = np.random.RandomState(0)
    book = Book(tmp_path, {}, other, torch.device("cpu"))
    assert book.go_on() == {"class": "A"}
    found = Journal(book).part("level 0").part("run").restore()
    for name in ("single", "empty", "words", "array"):
        wanted = torch.as_tensor(fields[name])
        assert found[name].dtype == wanted.dtype
        assert torch.equal(found[name], wanted)
    for name in ("inertia", "share"):
        assert found[name] == fields[name]
    assert repr(found["rows"]) == repr(fields["rows"])
    assert Journal(book).part("level 0").restore(start=1) == {"start": 1}
    again = Journal(book).part("level 1").once(Level, pytest.fail)
    assert torch.equal(again.codebook, level.codebook)
    assert (again.n_iter, again.inertia, again.gap) == (3, 0.25, 0.0)
    assert_array_equal(other.standard_normal(5), drawn)
    # A step that is saved has done with those inside it.
    Journal(book).part("level 0").save(n_iter=1)
    assert not Journal(book).part("level 0").part("run").saved


def test_rows_are_described_alike_in_any_layout(X):
    def describe_rows(rows):
        return Table(rows, torch.device("cpu")).describe()

    assert describe_rows(X) == describe_rows(np.asfortranarray(X))
    other = X.copy()
    other[17, 3] = np.nextafter(other[17, 3], np.float32(np.inf))
    described = {describe_rows(rows) for rows in (X, other, X[::-1], X[:, ::-1])}
    assert len(described) == 4


def test_parameters_are_described(fitted, tmp_path):
    assert describe((1, np.int64(2), None)) == [1, 2, None]
    assert describe(tmp_path) == str(tmp_path)
    assert describe(np.arange(3)) == [0, 1, 2]
    assert describe(np.arange(99)) != describe(np.arange(99.0))
    assert describe({"a": describe}) == {"a": "sk_rqkplus._journal.describe"}
    assert describe([Broken(), Broken]) == [f"{__name__}.Broken"] * 2
    assert describe(RQKMeans(tol=0.5))["tol"] == 0.5
    assert describe(fitted) == f"RQKMeans {fitted.fingerprint_[:16]}"


@pytest.mark.filterwarnings("error")
def test_an_extra_last_evaluation_is_no_place_to_go_on_from(X, tmp_path):
    params = {"checkpoint_dir": tmp_path, "max_epochs": 5, "balance": "all", "lr": 0.05}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no epoch had a")
        model = training(RQVAE, **params).fit(X)
        again = training(RQVAE, resume=True, **params).fit(X)
    assert_same_model(again, model)


def test_the_folder_of_a_model_is_no_place_for_a_fit(X, fitted, tmp_path):
    fitted.save(tmp_path)
    with pytest.raises(ValueError, match="holds a saved model, which would no longer"):
        RQKMeans((8, 8), checkpoint_dir=tmp_path).fit(X)
    assert_array_equal(RQKMeans.load(tmp_path).predict(X), fitted.ids_)


def test_a_fit_of_another_format_does_not_go_on(X, tmp_path, monkeypatch):
    params = {"checkpoint_dir": tmp_path, "random_state": 0}
    RQKMeans((8, 8), **params).fit(X)
    before = _journal.VERSION
    monkeypatch.setattr(_journal, "VERSION", before + 1)
    with pytest.raises(ValueError, match=f"format={before}, which should equal format"):
        RQKMeans((8, 8), resume=True, **params).fit(X)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["fit-state-0", "fit-state-1", "rqkmeans"])
def test_links_in_a_directory_are_not_followed(X, tmp_path, name, resume):
    model = RQKMeans((8, 8), random_state=0).fit(X)
    model.save(tmp_path / "model")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / name).symlink_to(tmp_path / "model")
    params = {"checkpoint_dir": tmp_path / "checkpoints", "resume": resume}
    with pytest.raises(ValueError, match=f"has a link, '{name}', which should be"):
        training(RQKMeansPlus, max_epochs=1, **params).fit(X)
    assert_array_equal(RQKMeans.load(tmp_path / "model").predict(X), model.ids_)
