"""The recipe for Ray Data, for real: a local cluster of two cores."""

import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sk_rqkplus import RQKMeans
from sk_rqkplus.datasets import make_catalogue
from sk_rqkplus.distributed import encode_batch, encoded_schema, lean

pytest.importorskip("ray.data", reason="ray is not installed")
PACKAGES = os.pathsep.join(
    [str(Path(__file__).parents[1]), str(Path(__file__).parent), *sys.path]
)


@pytest.fixture(scope="module")
def ray():
    import ray

    options = {"include_dashboard": False, "log_to_driver": False}
    env = {"env_vars": {"PYTHONPATH": PACKAGES}}
    ray.init(num_cpus=2, runtime_env=env, configure_logging=False, **options)
    yield ray
    ray.shutdown()


def encode(table, shared):
    import ray

    model = ray.get(shared)
    batches = [encode_batch(batch, model) for batch in table.to_batches()]
    schema = encoded_schema(table.schema, model)
    return pa.Table.from_batches(batches, schema=schema)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_codes_are_those_of_one_machine(ray, tmp_path):
    X = make_catalogue(600, 8, random_state=0).data.astype(np.float32)
    model = RQKMeans((8, 8), random_state=0).fit(X)
    lists = pa.array(list(X), type=pa.list_(pa.float32()))
    table = pa.table({"item_id": np.arange(600), "embedding": lists})
    shared = ray.put(lean(model))
    encoded = (
        ray.data.from_arrow([table.slice(i, 150) for i in range(0, 600, 150)])
        .map_batches(encode, batch_format="pyarrow", fn_kwargs={"shared": shared})
        .materialize()
    )
    rows = sorted(encoded.take_all(), key=lambda row: row["item_id"])
    codes = np.array([row["codes"] for row in rows])
    np.testing.assert_array_equal(codes, model.codes_)
    assert rows[0]["tokens"] == "<a_{}><b_{}>".format(*codes[0])
