"""The first example of the README, which is no doctest."""

import re
from pathlib import Path

import numpy as np
from numpy.testing import assert_array_equal

from sk_rqkplus import persistence
from sk_rqkplus.datasets import make_catalogue
from sk_rqkplus.tokens import read_index_json

README = Path(__file__).parents[1] / "README.md"


def test_first_example_runs(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.+?)```", README.read_text(), re.DOTALL)
    (script,) = (block for block in blocks if ">>>" not in block)
    X = make_catalogue(1500, 16, random_state=0).data
    np.save(tmp_path / "items.npy", X)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(script, str(README), "exec"), names)
    ids = names["rq"].ids_
    assert_array_equal(read_index_json("index.json", n_levels=3), ids)
    assert_array_equal(persistence.load("model").predict(X), ids)
