"""The command line, as a shell would call it."""

import json
import subprocess
import sys

import joblib
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from sk_rqkplus import RQKMeans, RQKMeansPlus, cli
from sk_rqkplus.tokens import read_index_json

SMALL = ["--codebook-sizes", "8,8", "--random-state", "0"]


@pytest.fixture
def files(X, tmp_path):
    np.save(tmp_path / "X.npy", X)
    return tmp_path


def fit(files, *options):
    return cli.main(
        ["fit", str(files / "X.npy"), "--model", str(files / "model"), *options]
    )


def encode(files, *options):
    paths = [str(files / name) for name in ("X.npy", "model", "index.json")]
    return cli.main(
        ["encode", paths[0], "--model", paths[1], "--out", paths[2], *options]
    )


def test_fit_and_encode(X, files, capsys):
    assert fit(files, "--estimator", "rqkmeans", *SMALL) == 0
    assert encode(files, "--base", "1") == 0
    ids = read_index_json(files / "index.json", n_levels=2, base=1)
    assert_array_equal(ids, RQKMeans((8, 8), random_state=0).fit(X).ids_)
    printed = capsys.readouterr()
    assert "collision rate of the IDs     0.0%" in printed.out
    assert "RQKMeans: 100%" in printed.err


def test_every_parameter_reaches_the_estimator(files):
    options = {
        "--beta": "0.5",
        "--quant-weight": "2",
        "--hidden-layer-sizes": "16,",
        "--clip-grad-norm": "None",
        "--batch-norm": "true",
        "--balance": "none",
        "--max-epochs": "1",
        "--verbose": "0",
    }
    flat = [word for option in options.items() for word in option]
    assert fit(files, *SMALL, *flat) == 0
    model = joblib.load(files / "model" / "model.joblib")
    assert isinstance(model, RQKMeansPlus)
    assert (model.beta, model.quant_weight, model.hidden_layer_sizes) == (0.5, 2, (16,))
    assert model.clip_grad_norm is None
    assert model.batch_norm is True
    assert (model.balance, model.max_epochs, model.verbose) == ("none", 1, 0)


@pytest.mark.parametrize("kind", [RQKMeans, RQKMeansPlus])
def test_every_parameter_has_an_option(kind, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["fit", "--help"])
    shown = capsys.readouterr().out
    assert "Example: sk-rqkplus fit" in shown
    for name in kind().get_params(deep=False):
        assert f"--{name.replace('_', '-')} VALUE" in shown


def test_nothing_is_overwritten_without_force(files, capsys):
    small = ["--estimator", "rqkmeans", *SMALL]
    assert fit(files, *small) == 0
    assert fit(files, *small) == 2
    assert "exists already. Use --force to overwrite it." in capsys.readouterr().err
    assert fit(files, *small, "--force") == 0
    assert encode(files) == 0
    assert encode(files) == 2
    assert encode(files, "--force") == 0


@pytest.mark.parametrize(
    "options, message",
    [
        (["--estimator", "rqkmeans", "--beta", "1"], "--beta is no parameter of RQKM"),
        (["--codebook-sizes", "8,0"], r"codebook_sizes=(8, 0) should be >= 1"),
        (["--codebook-sizes", "many"], "'codebook_sizes' parameter of RQKMeansPlus"),
    ],
)
def test_errors_are_one_line(files, capsys, options, message):
    assert fit(files, *options) == 2
    error = capsys.readouterr().err.strip().split("\n")[-1]
    assert error.startswith("sk-rqkplus: ")
    assert message in error
    assert not (files / "model" / "model.joblib").exists()


def test_missing_and_unreadable_files(files, capsys):
    assert encode(files) == 2
    assert "should hold model.joblib. Run fit first." in capsys.readouterr().err
    np.save(files / "X.npy", np.array([{"a": 1}], dtype=object))
    assert fit(files) == 2
    assert "X.npy should be a .npy file of numbers" in capsys.readouterr().err
    (files / "X.npy").unlink()
    assert fit(files) == 2
    assert "No such file" in capsys.readouterr().err


def test_demo(tmp_path, capsys):
    options = ["--codebook-sizes", "16,16", "--max-epochs", "2", "--eval-every", "1"]
    assert cli.main(["demo", "--out", str(tmp_path / "out"), *options]) == 0
    printed = capsys.readouterr()
    for line in ("collision rate", "perplexity", "reconstruction error", "<a_"):
        assert line in printed.out
    assert "RQKMeansPlus: 100%" in printed.err
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert len(index) > 3000
    assert len({tuple(tokens) for tokens in index.values()}) == len(index)
    model = joblib.load(tmp_path / "out" / "model.joblib")
    assert model.named_steps["sid"].codebook_sizes == (16, 16)


def test_installed_command():
    code = "import sys; from sk_rqkplus.cli import main; sys.exit(main())"
    run = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True
    )
    assert run.returncode == 0
    for command in ("demo", "fit", "encode"):
        assert command in run.stdout
