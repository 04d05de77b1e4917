"""The command line, as a shell would call it."""

import json
import os
import subprocess
import sys
import time

import joblib
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from conftest import shared_file
from numpy.testing import assert_array_equal
from safetensors.torch import save_file
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from sk_rqkplus import (
    RQVAE,
    RQKMeans,
    RQKMeansPlus,
    _cli_files,
    _progress,
    cli,
    persistence,
)
from sk_rqkplus.datasets import make_catalogue
from sk_rqkplus.ids import compare_ids
from sk_rqkplus.tokens import (
    read_index_json,
    read_jsonl,
    read_parquet,
    to_strings,
    to_token_ids,
    vocabulary,
)

COMMANDS = "demo fit encode extend export compare report suggest".split()
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
    assert "0 of 600 rows (0.00%) are copies of others: so many" in printed.err
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
    model = RQKMeansPlus.load(files / "model")
    assert (model.beta, model.quant_weight, model.hidden_layer_sizes) == (0.5, 2, (16,))
    assert model.clip_grad_norm is None
    assert model.batch_norm is True
    assert (model.balance, model.max_epochs, model.verbose) == ("none", 1, 0)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    shown = capsys.readouterr().out
    assert f"\nExample: sk-rqkplus {command} " in shown
    assert shown.splitlines()[-1].startswith("Example: ")


@pytest.mark.parametrize("kind", [RQKMeans, RQKMeansPlus, RQVAE])
def test_every_parameter_has_an_option(kind, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["fit", "--help"])
    shown = capsys.readouterr().out
    for name in kind().get_params(deep=False):
        value = "" if name == "resume" else " VALUE"
        assert f"--{name.replace('_', '-')}{value}" in shown


def test_a_fit_goes_on_from_its_directory(files, monkeypatch, capsys):
    options = ["--estimator", "rqkmeans", "--checkpoint-dir", str(files / "state")]
    assert fit(files, *options, *SMALL, "--resume") == 0
    wanted = persistence.load(files / "model")

    def never(*args, **kwargs):
        raise AssertionError("fitted again")

    monkeypatch.setattr("sk_rqkplus._rqkmeans.fit_codebook", never)
    assert fit(files, *options, *SMALL, "--resume", "--force") == 0
    found = persistence.load(files / "model")
    assert_array_equal(found.ids_, wanted.ids_)
    assert fit(files, *options, *SMALL, "--resume", "--force", "--tol", "0.5") == 2
    assert "has a fit with tol=0.0005, which should equal" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["model", "model/state"])
def test_states_of_a_fit_are_kept_apart_from_the_model(files, capsys, place):
    options = ["--estimator", "rqkmeans", "--checkpoint-dir", str(files / place)]
    assert fit(files, *options, *SMALL) == 2
    assert "should not be in --model" in capsys.readouterr().err
    assert not (files / "model").exists()


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
    assert not (files / "model").exists()


def test_missing_and_unreadable_files(files, capsys):
    assert encode(files) == 2
    assert "should be a directory of a model. Run fit first" in capsys.readouterr().err
    np.save(files / "X.npy", np.array([{"a": 1}], dtype=object))
    assert fit(files) == 2
    assert "X.npy should be a .npy file of numbers" in capsys.readouterr().err
    (files / "X.npy").unlink()
    assert fit(files) == 2
    assert "No such file" in capsys.readouterr().err


def test_demo(tmp_path, capsys):
    options = ["--codebook-sizes", "16,16", "--max-epochs", "2", "--eval-every", "1"]
    assert cli.main(["demo", "--out", str(tmp_path / "out"), *options]) == 0
    assert cli.main(["demo", "--out", str(tmp_path / "out"), *options]) == 2
    printed = capsys.readouterr()
    for line in ("collision rate", "perplexity", "reconstruction error", "<a_"):
        assert line in printed.out
    assert "RQKMeansPlus: 100%" in printed.err
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert len(index) > 3000
    assert len({tuple(tokens) for tokens in index.values()}) == len(index)
    model = RQKMeansPlus.load(tmp_path / "out" / "model")
    assert model.codebook_sizes == (16, 16)
    assert_array_equal(
        read_index_json(tmp_path / "out" / "index.json", n_levels=2), model.ids_
    )


def shell(*words):
    """Run the installed command as a shell would."""
    code = "import sys; from sk_rqkplus.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True
    )


def test_installed_command(files):
    run = shell("--help")
    assert run.returncode == 0
    for command in COMMANDS:
        assert f"    {command} " in run.stdout
    model = ["--model", files / "model"]
    run = shell("fit", files / "X.npy", *model, "--estimator", "rqkmeans", *SMALL)
    assert (run.returncode, run.stdout.splitlines()[-1][:6]) == (0, "Model:")
    run = shell("encode", files / "X.npy", *model, "--out", files / "ids.parquet")
    assert (run.returncode, run.stderr) == (0, "")
    run = shell("encode", files / "X.npy", *model, "--out", files / "ids.parquet")
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("sk-rqkplus: ")
    assert run.stderr.count("\n") == 1


# ---------------------------------------------------------------------------
# In a folder of files


def run(line):
    """Run a command line."""
    return cli.main(line.split())


@pytest.fixture
def new(X):
    return make_catalogue(20, X.shape[1], random_state=1).data.astype(X.dtype) + 3


@pytest.fixture
def folder(X, new, tmp_path, monkeypatch):
    """Folder of embeddings and two fitted models, one with keys, to be worked in."""
    monkeypatch.chdir(tmp_path)
    np.save("X.npy", X)
    np.save("new.npy", new)
    np.savez("X.npz", X=X)
    save_file({"X": torch.from_numpy(X)}, "X.safetensors")
    keys = [f"item {i}" for i in range(len(X))]
    pa.parquet.write_table(pa.table({"key": keys, "X": list(X)}), "X.parquet")
    some = {"key": ["new 0", "new 1", "item 7"], "X": [*new[:2], X[7]]}
    pa.parquet.write_table(pa.table(some), "new.parquet")
    rq = RQKMeans((8, 8, 8), random_state=0).fit(X)
    _cli_files.save_model(rq, tmp_path / "plain")
    rq.catalogue_.set_keys(keys)
    _cli_files.save_model(rq, tmp_path / "keyed")
    (tmp_path / "titles.json").write_text(json.dumps(keys))
    return tmp_path


def model_of(name):
    return persistence.load(name)


@pytest.mark.parametrize("name", ["X.npy", "X.npz", "X.parquet", "X.safetensors"])
def test_fit_reads_every_format(X, folder, name):
    line = f"fit {name} --model m --estimator rqkmeans --codebook-sizes 8,8,8"
    assert run(f"{line} --random-state 0 --verbose 0") == 0
    assert_array_equal(model_of("m").ids_, model_of("plain").ids_)


def test_keys_may_be_numbers(X, folder):
    table = pa.table({"key": np.arange(600) * 7, "X": list(X)})
    pa.parquet.write_table(table, "numbered.parquet")
    line = "fit numbered.parquet --item-ids key --model m --estimator rqkmeans"
    assert run(f"{line} --codebook-sizes 8,8 --random-state 0 --verbose 0") == 0
    assert run("export m --out ids.parquet") == 0
    assert_array_equal(read_parquet("ids.parquet")[1], np.arange(600) * 7)
    assert run("compare m ids.parquet") == 0


def test_fit_of_an_rqvae(folder):
    line = "fit X.npy --model m --estimator rqvae --codebook-sizes 8,8 --max-epochs 1"
    assert run(f"{line} --random-state 0 --verbose 0") == 0
    assert isinstance(model_of("m"), RQVAE)
    assert run("extend new.npy --model m --out new-ids.npy") == 0
    assert np.load("new-ids.npy").shape == (20, 3)


def test_fit_remembers_keys(folder):
    line = "fit X.parquet --column X --item-ids key --model m --estimator rqkmeans"
    assert run(f"{line} --codebook-sizes 8,8,8 --random-state 0 --verbose 0") == 0
    assert model_of("m").catalogue_.keys[599] == "item 599"
    assert run(f"{line} --force --store-catalogue False --verbose 0") == 2


@pytest.mark.parametrize(
    "name, read",
    [
        ("ids.json", lambda path: read_index_json(path, n_levels=3)),
        ("ids.jsonl", lambda path: read_jsonl(path)[0]),
        ("ids.parquet", lambda path: read_parquet(path)[0]),
        ("ids.npy", np.load),
    ],
)
def test_encode_and_export_write_every_format(folder, capsys, name, read):
    ids = model_of("plain").ids_
    for line in ("encode X.npy --model plain", "export plain", "export ids.npy"):
        np.save("ids.npy", ids)
        assert run(f"{line} --out {name} --force") == 0
        assert capsys.readouterr().out == f"600 items: {name}\n"
        assert_array_equal(read(name), ids)


def test_export_of_text_and_numbers(folder):
    ids = model_of("plain").ids_
    template = "--template <|{level}:{code}|> --base 1"
    assert run(f"export plain --out a.txt {template} --separator ,") == 0
    layout = {"template": "<|{level}:{code}|>", "base": 1}
    assert (folder / "a.txt").read_text().splitlines() == to_strings(
        ids, separator=",", **layout
    )
    assert run(f"export plain --out v.txt --format vocabulary {template}") == 0
    n_suffix = ids[:, -1].max() + 1
    words = vocabulary((8, 8, 8), n_suffix=n_suffix, **layout)
    assert (folder / "v.txt").read_text().splitlines() == words
    assert run("export plain --out t.npy --format token-ids --start 9") == 0
    token_ids = to_token_ids(ids, (8, 8, 8), start=9)
    assert_array_equal(np.load("t.npy"), token_ids)
    assert run("export plain --out i.npy") == 0
    line = "export i.npy --out u.npy --format token-ids --start 9 --codebook-sizes"
    assert run(f"{line} 8,8,8") == 0
    assert_array_equal(np.load("u.npy"), token_ids)


def test_the_published_layout_there_and_back(folder, capsys):
    assert run("export plain --out index.json --base 1 --suffix on_collision") == 0
    warning = capsys.readouterr().err
    assert warning.startswith("sk-rqkplus: warning: suffix='on_collision' gives ")
    assert warning.count("\n") == 1
    source = "--source-base 1 --source-suffix on_collision"
    assert run(f"export index.json {source} --out back.npy") == 0
    assert_array_equal(np.load("back.npy"), model_of("plain").ids_)


@pytest.mark.filterwarnings("ignore:suffix=:UserWarning")
def test_a_published_file_through_parquet_and_back(folder):
    published = shared_file("industrial_constrained.index.json")
    source = "--source-base 1 --source-suffix on_collision"
    assert run(f"export {published} {source} --out a.parquet") == 0
    line = "export a.parquet --out a.json --base 1 --suffix on_collision"
    assert run(line) == 0
    assert (folder / "a.json").read_bytes() == published.read_bytes()


def test_keys_go_from_file_to_file(folder):
    assert run("encode X.parquet --item-ids key --model plain --out a.parquet") == 0
    assert run("export keyed --out b.jsonl") == 0
    assert run("export b.jsonl --out c.parquet") == 0
    ids, keys = read_parquet("a.parquet")
    assert keys[7] == "item 7"
    for back in (read_jsonl("b.jsonl"), read_parquet("c.parquet")):
        assert_array_equal(back[0], ids)
        assert_array_equal(back[1], keys)


def test_extend_registers_for_good(new, folder, capsys):
    before = model_of("plain").ids_
    assert run("extend new.npy --model plain --out new.json") == 0
    assert capsys.readouterr().out.splitlines() == [
        "20 items, 20 of them new: new.json",
        "620 items in the model: plain",
    ]
    ids = read_index_json("new.json", n_levels=3)
    model = model_of("plain")
    assert_array_equal(model.catalogue_.ids, np.concatenate([before, ids]))
    assert_array_equal(model.predict(new), ids)
    # Once more changes nothing.
    assert run("extend new.npy --model plain --out again.json") == 0
    assert "20 items, 0 of them new" in capsys.readouterr().out
    assert_array_equal(read_index_json("again.json", n_levels=3), ids)
    assert run("export plain --out all.npy") == 0
    assert_array_equal(np.load("all.npy"), model.catalogue_.ids)


def test_extend_by_key(folder, capsys):
    ids = model_of("keyed").ids_
    line = "extend new.parquet --model keyed --out new-ids.parquet"
    assert run(line) == 2
    assert "--item-ids=None should name a column" in capsys.readouterr().err
    assert run(f"{line} --item-ids key") == 0
    assert "3 items, 2 of them new" in capsys.readouterr().out
    back, keys = read_parquet("new-ids.parquet")
    assert keys.tolist() == ["new 0", "new 1", "item 7"]
    assert_array_equal(back[2], ids[7])


@pytest.mark.parametrize("broken", ["write_index_json", "save_model"])
def test_an_extend_that_fails_changes_nothing(folder, monkeypatch, capsys, broken):
    def fail(*args, **kwargs):
        raise OSError("No space left on device")

    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for module in ("_cli_files", "_commands"):
        monkeypatch.setattr(f"sk_rqkplus.{module}.{broken}", fail)
    assert run("extend new.npy --model plain --out new.json") == 2
    assert capsys.readouterr().err == "sk-rqkplus: No space left on device\n"
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after == before


def test_of_two_extends_at_once_the_later_gives_up(folder, monkeypatch, capsys):
    read = _cli_files.read_matrix

    def meanwhile(*args, **kwargs):
        monkeypatch.setattr("sk_rqkplus._commands.read_matrix", read)
        assert run("extend new.npy --model plain --out first.json") == 0
        return read(*args, **kwargs)

    monkeypatch.setattr("sk_rqkplus._commands.read_matrix", meanwhile)
    assert run("extend new.npy --model plain --out second.json") == 2
    assert "should not change while it is extended" in capsys.readouterr().err
    assert (folder / "first.json").exists()
    assert not (folder / "second.json").exists()
    assert len(model_of("plain").catalogue_) == 620


def test_pipelines_encode_and_extend(X, new, folder):
    rq = RQKMeans((8, 8, 8), random_state=0)
    model = make_pipeline(PCA(8, random_state=0), rq).fit(X)
    _cli_files.save_model(model, folder / "pipe")
    assert run("extend new.npy --model pipe --out new-ids.npy --allow-pickle") == 0
    assert run("encode new.npy --model pipe --out same.npy --allow-pickle") == 0
    assert_array_equal(np.load("same.npy"), np.load("new-ids.npy"))
    assert run("export pipe --out all.npy --allow-pickle") == 0
    assert len(np.load("all.npy")) == 620


# ---------------------------------------------------------------------------
# Figures


def test_compare(X, folder, capsys):
    other = RQKMeans((8, 8, 8), random_state=1).fit(X)
    _cli_files.save_model(other, folder / "other")
    ids = model_of("plain").ids_
    expected = compare_ids(ids, other.ids_).to_dict()
    assert run("export plain --out a.parquet") == 0
    assert run("export plain --out a.json") == 0
    for old in ("plain", "a.parquet", "a.json"):
        capsys.readouterr()
        assert run(f"compare {old} other --json") == 0
        found = json.loads(capsys.readouterr().out)
        assert found == expected | {"prefix_changed": list(expected["prefix_changed"])}
    assert run("compare plain other") == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["items", "in", "both", "600"]
    assert shown[3].split() == ["IDs", "changed", f"{expected['id_changed']:.2%}"]


def test_compare_matches_by_key_or_by_row(folder, capsys):
    assert run("export plain --out old.npy") == 0
    assert run("export keyed --out old.parquet") == 0
    assert run("extend new.npy --model plain --out new.json") == 0
    assert run("extend new.parquet --item-ids key --model keyed --out new.jsonl") == 0
    for line, n_added in [("old.npy plain", 20), ("old.parquet keyed", 2)]:
        capsys.readouterr()
        assert run(f"compare {line} --json") == 0
        changes = json.loads(capsys.readouterr().out)
        assert (changes["n_common"], changes["n_added"]) == (600, n_added)
        assert (changes["n_removed"], changes["id_changed"]) == (0, 0.0)
    assert run("compare plain keyed") == 2
    assert "should both have item IDs, or neither" in capsys.readouterr().err


def test_report(folder, capsys):
    line = "report X.npy --model plain --titles titles.json"
    assert run(line) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("RQKMeans, 3 × 8 codewords, 600 items of 24 features")
    assert run(f"{line} --out report.html") == 0
    assert capsys.readouterr().out == shown + "\nReport: report.html\n"
    assert "item 7" in (folder / "report.html").read_text()
    assert run(f"{line} --out report.html") == 2
    assert run(f"{line} --out report.html --force") == 0
    (folder / "titles.json").write_text('["one"]')
    assert run(line) == 2
    assert "titles.json has 1 titles, which should be 600" in capsys.readouterr().err
    (folder / "titles.txt").write_text("line\n" * 600)
    assert run("report X.npy --model plain --titles titles.txt") == 0


def test_suggest(folder, capsys):
    line = "suggest X.npy --n-levels 2 --candidates 4,8,16 --max-collision-rate 0.9"
    assert run(line) == 0
    shown = capsys.readouterr().out
    assert "is the smallest size with a collision rate of at most 90%" in shown
    assert run(f"{line} --json") == 0
    suggestion = json.loads(capsys.readouterr().out)
    assert suggestion["codebook_sizes"] == [16, 16]
    [chosen] = [line for line in shown.splitlines() if line.startswith("*")]
    assert "16" in chosen
    assert len(suggestion["points"]) == 3


# ---------------------------------------------------------------------------
# Errors


@pytest.mark.parametrize(
    "line, message",
    [
        ("", "the following arguments are required: COMMAND. See sk-rqkplus --help."),
        (
            "fit",
            "arguments are required: embeddings, --model. See sk-rqkplus fit --hel",
        ),
        ("encode X.npy --model plain --out a.json --base 2", "invalid choice: 2"),
        ("suggest X.npy --bogus", "unrecognized arguments: --bogus"),
    ],
)
def test_usage_errors_are_one_line(folder, capsys, line, message):
    with pytest.raises(SystemExit, match="2"):
        run(line)
    error = capsys.readouterr().err
    assert error.startswith("sk-rqkplus: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "line, message",
    [
        (
            "encode X.npy --model nowhere --out a.json",
            "nowhere should be a directory of a model",
        ),
        ("encode X.npy --model damaged --out a.json --allow-pickle", "could not be lo"),
        (
            "encode X.npy --model other --out a.json --allow-pickle",
            "holds a dict, which should be",
        ),
        ("encode X.npy --model other --out a.json", "Give --allow-pickle if you trust"),
        ("compare plain other", "other/model.joblib runs code when it is loaded"),
        ("encode X.npy --model changed --out a.json", "should be as it was saved, but"),
        ("encode X.npy --model catalogue --out a.json", "holds a Catalogue, which sho"),
        ("fit X.npy --model other --force", "has other files, ['model.joblib'], and"),
        ("fit X.npy --model plain --force", "holds a RQKMeans, which should be a RQK"),
        ("fit X.npy --model m --memory cache", "memory='cache' should be None to be s"),
        ("encode none.npy --model plain --out a.json", "No such file or directory"),
        ("encode X.csv --model plain --out a.json", "X.csv should end in one of .npy"),
        ("encode X.npy --model plain --out a.csv", "--out a.csv should end in one of"),
        ("encode X.npy --model plain --out no/a.json", "No such file or directory"),
        (
            "encode X.npy --model plain --out a.json --column X",
            "column='X' should be le",
        ),
        (
            "encode X.npy --model plain --out a.json --item-ids X",
            "should be of a Parqu",
        ),
        ("encode X.parquet --model plain --out a.json --item-ids X", "has item_id="),
        (
            "encode new.parquet --model plain --out a.json --key X",
            "key='X' should be l",
        ),
        (
            "encode X.npy --model plain --out a.json --template {code}",
            "template='{code",
        ),
        (
            "export plain --out a.txt --template {level}_{code}",
            "separator='' should set",
        ),
        ("export X.txt --out a.json", "X.txt should be a directory of a model, or end"),
        ("export nowhere --out a.json", "nowhere should be a directory of a model, or"),
        ("export X.npy --out a.json", "ids have shape=(600, 24) and dtype=float32"),
        ("export i.npy --out v.txt --format vocabulary", "Give --codebook-sizes"),
        ("export i.npy --out a.txt --format token-ids --codebook-sizes 8,8", "columns"),
        ("compare plain X.npy", "new have dtype=float32"),
        ("report new.npy --model plain --titles titles.json", "has 600 titles, which"),
        ("report X.npy --model plain --titles X.npy", "X.npy should be text in UTF-8"),
        ("report X.npy --model plain --out a.pdf", "should end in one of .html"),
        ("suggest X.npy --n-levels 0", "n_levels=0 should be an int >= 1"),
        ("suggest X.npy --candidates 0", "candidates have 0, which should be an int"),
        ("suggest X.npy --candidates many", "candidates have 'm', which should be"),
    ],
)
def test_errors_name_what_is_wrong(folder, capsys, line, message):
    np.save("i.npy", model_of("plain").ids_)
    (folder / "X.txt").write_text("")
    for name, content in [("damaged", b"\x80\x04 no pickle"), ("other", None)]:
        (folder / name).mkdir()
        joblib.dump({}, folder / name / "model.joblib")
        if content:
            (folder / name / "model.joblib").write_bytes(content)
    model = model_of("plain")
    model.catalogue_.save("catalogue")
    model.save("changed")
    arrays = next((folder / "changed").glob("*.safetensors"))
    arrays.write_bytes(arrays.read_bytes()[:-1])
    before = sorted(folder.rglob("*"))
    assert run(line) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert printed.err.startswith("sk-rqkplus: ")
    assert printed.err.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    "line",
    [
        "fit X.npy --model plain --estimator rqkmeans",
        "encode X.npy --model plain --out there.json",
        "extend new.npy --model plain --out there.json",
        "export plain --out there.json",
        "report X.npy --model plain --out there.json",
    ],
)
def test_what_is_there_stays(folder, capsys, line):
    (folder / "there.json").write_text("mine")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert run(line) == 2
    assert "exists already. Use --force to overwrite it." in capsys.readouterr().err
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after == before


def test_an_interrupt_is_one_line(folder, capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("sk_rqkplus._commands.load_model", interrupt)
    assert run("encode X.npy --model plain --out a.json") == 130
    assert capsys.readouterr().err == "sk-rqkplus: interrupted\n"


# ---------------------------------------------------------------------------
# Bars


def test_long_work_shows_on_a_terminal_only(monkeypatch, capsys):
    monkeypatch.setattr(_progress, "BAR_DELAY", 0.0)
    with _progress.waiting("Encoding", verbose=0):
        time.sleep(0.1)
    assert capsys.readouterr().err == ""
    with _progress.waiting("Encoding", verbose=1):
        time.sleep(0.1)
    assert "Encoding 00:00" in capsys.readouterr().err
    with (
        pytest.raises(OSError, match="No space left"),
        _progress.waiting("Encoding", verbose=1),
    ):
        raise OSError("No space left")


def test_short_work_shows_nothing(capsys):
    with _progress.waiting("Encoding", verbose=1):
        pass
    with _progress.delayed_bar(10, "row", verbose=1) as bar:
        bar.update(10)
    assert capsys.readouterr().err == ""


def test_standard_error_may_be_no_terminal(monkeypatch):
    assert not _progress.is_watched()
    main, side = pytest.importorskip("pty").openpty()
    with os.fdopen(side, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert _progress.is_watched()
    os.close(main)
