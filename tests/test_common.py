"""What every estimator owes scikit-learn, and the shape of the package."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

import sk_rqkplus
from sk_rqkplus import RQVAE, RQKMeans, RQKMeansPlus

SMALL = [
    RQKMeans((4, 4), random_state=0),
    RQKMeansPlus((4, 4), max_epochs=2, eval_every=1, random_state=0),
    RQVAE((4, 4), latent_dim=3, max_epochs=2, eval_every=1, random_state=0),
]
ESTIMATORS = [RQKMeans(), RQKMeansPlus(max_epochs=2), RQVAE(max_epochs=2), *SMALL]


@parametrize_with_checks(ESTIMATORS)
def test_sklearn_contract(estimator, check):
    check(estimator)


# Checks that scikit-learn runs on its own estimators only.
OUTSIDE_THE_GENERATOR = [
    "check_dataframe_column_names_consistency",
    "check_get_feature_names_out_error",
    "check_global_output_transform_pandas",
    "check_global_set_output_transform_polars",
    "check_inplace_ensure_writeable",
    "check_param_validation",
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
]


@pytest.mark.parametrize("check", OUTSIDE_THE_GENERATOR)
@pytest.mark.parametrize("estimator", SMALL, ids=lambda e: type(e).__name__)
def test_more_of_the_contract(estimator, check):
    getattr(estimator_checks, check)(type(estimator).__name__, estimator)


LAYERS = [
    {
        "_compat",
        "_extras",
        "_files",
        "_groups",
        "_pairs",
        "_pipelines",
        "_template",
        "_tensors",
        "_text",
        "_threads",
        "_titles",
        "_version",
        "_warn",
    },
    {
        "_advice",
        "_inputs",
        "_memory",
        "_near",
        "_prefixes",
        "_products",
        "_rounding",
        "_seeding",
        "_treemap",
    },
    {"_members", "_moments", "_neighbours", "_outline", "_prefix_tree", "_rough"},
    {
        "_nearest",
        "_augment",
        "_codebook_files",
        "_duplicates",
        "_keys",
        "_layout",
        "_lists",
        "_parquet",
        "_progress",
        "_sketch",
        "_store",
        "metrics",
    },
    {
        "_beam",
        "_deduplicate",
        "_entries",
        "_fixed_point",
        "_journal",
        "_points",
        "_refine",
        "_scores",
        "scorers",
    },
    {"_balance", "_lloyd", "_swaps"},
    {"_cells"},
    {"_matrix_files", "_token_files", "_tokens", "_vocabulary"},
    {"_residual", "_catalogue", "_token_json", "_token_parquet", "_trie"},
    {"_copies", "_networks", "_callbacks", "_checkpoints", "_compare", "_table"},
    {"_prices"},
    {"_codebook", "_footprint"},
    {"ids", "tokens"},
    {"_fitted", "_records"},
    {"_persistence"},
    {"_base", "_training", "_published"},
    {"_training_state"},
    {"_autoencoder"},
    {"_rqkmeans", "_rqvae"},
    {"_rqkmeans_plus"},
    {"datasets", "persistence"},
    {"distributed._batches", "distributed._fit"},
    {"distributed.dask", "distributed._identify", "distributed._spill"},
    {"distributed.catalogue"},
    {"distributed._shards"},
    {"distributed"},
    {"distributed._spark", "distributed.cost"},
    {"distributed.spark"},
    {"distributed.spark_ml"},
    {"__init__"},
    {"_frontier", "_report_data", "_svg"},
    {"_report_figures", "plotting"},
    {"_report_html", "model_selection"},
    {"report"},
    {"_cli_files"},
    {"_commands"},
    {"cli"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
PACKAGE = Path(sk_rqkplus.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    """Name of a module inside this package; a package is named like its folder."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def known(module):
    """The longest part of a dotted name that is a module, or where public names are."""
    while module and module not in RANK:
        module = module.rpartition(".")[0]
    return module or "__init__"


def imports_of(tree):
    """Modules of this package that a module imports, at any depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "sk_rqkplus":
            # Either a module or a public name that __init__ gathers.
            names = [f"sk_rqkplus.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # A module of a package is imported from it like a name of a module.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, module = name.partition(".")
            if package == "sk_rqkplus":
                yield known(module)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path):
    imported = set(imports_of(ast.parse(path.read_text())))
    upward = {name for name in imported if RANK[name] >= RANK[name_of(path)]}
    assert not upward, f"{name_of(path)} may only import from lower layers"


def test_upward_import_is_seen():
    source = "def f():\n    from sk_rqkplus import RQKMeans"
    assert set(imports_of(ast.parse(source))) == {"__init__"}


def test_private_names_of_sklearn_stay_in_one_file():
    private = re.compile(r"from sklearn[\w.]* import _|from sklearn[\w.]*\._")
    users = [name_of(path) for path in MODULES if private.search(path.read_text())]
    assert users == ["_compat"]


@pytest.mark.parametrize("estimator", SMALL, ids=lambda e: type(e).__name__)
def test_fitted_state_is_numpy_and_plain_python(estimator):
    X = np.random.default_rng(0).normal(size=(40, 5))
    fitted = estimator.fit(X)

    def plain(value):
        if isinstance(value, dict):
            return all(map(plain, value.values()))
        if isinstance(value, list | tuple):
            return all(map(plain, value))
        if hasattr(value, "__dict__"):
            return plain(value.__getstate__())
        return value is None or isinstance(
            value, np.ndarray | np.generic | str | int | float
        )

    attributes = {k: v for k, v in vars(fitted).items() if k.endswith("_")}
    assert attributes
    assert [k for k, v in attributes.items() if not plain(v)] == []
