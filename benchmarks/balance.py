"""What bounds on the middle levels cost and buy: prefixes, collisions, error.

    python benchmarks/balance.py

Writes results/balance.md. Needs the shared data beside the checkout. A tenth of the
rows is held out, in five splits; figures are means over them.
"""

import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import ShuffleSplit
from tabulate import tabulate

from sk_rqkplus import RQKMeans, metrics

RESULTS = Path(__file__).parent / "results"
DATA = Path(__file__).parents[2] / "shared" / "data" / "industrial.npy"
SIZES = (256, 256, 256)
TOLERANCES = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
SETTINGS = {
    '"none"': {"balance": "none"},
    '"last"': {"balance": "last"},
    "[False, True, True]": {"balance": [False, True, True]},
    **{
        f'"all", balance_tol={tol:g}': {"balance": "all", "balance_tol": tol}
        for tol in TOLERANCES
    },
    **{
        f"[False, True, True], balance_tol={tol:g}": {
            "balance": [False, True, True],
            "balance_tol": tol,
        }
        for tol in TOLERANCES[1:]
    },
}


def figures(X, new, seed, **params):
    """Figures of one fit."""
    rq = RQKMeans(SIZES, random_state=seed, store_catalogue=False, **params).fit(X)
    codes = rq.codes_
    cohesion = [value.value for value in metrics.prefix_cohesion(codes, X)]
    return [
        -rq.score(X) * 1e6,
        -rq.score(new) * 1e6,
        *(metrics.perplexity(codes) / SIZES),
        *cohesion[:2],
        metrics.collision_rate(codes) * 100,
        metrics.largest_group(codes),
    ]


def main():
    """Measure, print and write."""
    if not DATA.exists():
        raise SystemExit(f"{DATA} is absent.")
    X = np.load(DATA)
    splits = ShuffleSplit(5, test_size=0.1, random_state=0).split(X)
    splits = [(X[fitted], X[held_out]) for fitted, held_out in splits]
    rows = []
    for name, params in SETTINGS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found = [
                figures(*split, seed, **params) for seed, split in enumerate(splits)
            ]
        means = np.mean(found, axis=0)
        cells = [f"{value:.0f}" for value in means[:2]]
        cells += [f"{value:.2f}" for value in means[2:5]]
        cells += [f"{value:.3f}" for value in means[5:7]]
        cells += [f"{means[7]:.1f} %", f"{means[8]:.0f}"]
        rows.append([name, *cells])
        print(*rows[-1], sep="  ", flush=True)
    headers = [
        "balance",
        "fitted, 1e-6",
        "held out, 1e-6",
        *(f"perplexity / K, level {level}" for level in (1, 2, 3)),
        "cohesion, 1 token",
        "cohesion, 2 tokens",
        "collisions",
        "largest group",
    ]
    table = tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)
    text = [
        f"# Bounds on the levels of RQKMeans, {len(X)} x {X.shape[1]}, 3 x 256",
        "",
        "Means over five splits, a tenth of the rows held out. Cohesion is the mean",
        "cosine of two fitted items that share their first tokens.",
        "",
        table,
        "",
        f"torch {torch.__version__}; `python benchmarks/balance.py`",
        "",
    ]
    (RESULTS / "balance.md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
