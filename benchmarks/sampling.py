"""What it costs to fit on a sample of the rows and to encode all of them.

    python benchmarks/sampling.py [--rows 200_000] [--features 64] [--epochs 20]

RQKMeans takes ``max_samples`` and balances its last level on all rows; RQKMeansPlus is
fitted on the sample alone. Errors and collisions are those of all rows. Rows are a
smoothed bootstrap of a real catalogue, in its leading directions; the shared data must
be beside the checkout. Seconds are of one run. Writes results/sampling.md.
"""

import argparse
import datetime
import sys
import time
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA
from tabulate import tabulate

from sk_rqkplus import RQKMeans, RQKMeansPlus
from sk_rqkplus.metrics import collision_rate

RESULTS = Path(__file__).parent / "results" / "sampling.md"
SAMPLES = (5_000, 20_000, 50_000)


def load_rows(n_rows, n_features):
    """Rows of the shared generator, in their leading directions."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "shared"))
    from make_large import smoothed_bootstrap

    X = smoothed_bootstrap(n_rows)
    pca = PCA(n_features, random_state=0).fit(X[:20_000])
    return pca.transform(X).astype(np.float32)


def models(epochs):
    """Models by name, as functions of the size of the sample."""
    common = {"store_catalogue": False, "dedup": "suffix", "random_state": 0}
    yield "RQKMeans", lambda n: (RQKMeans(max_samples=n, **common), None)
    plus = {"max_epochs": epochs, **common}
    yield "RQKMeansPlus", lambda n: (RQKMeansPlus(**plus), n)


def measure(X, model, n_fitted):
    """Seconds of the fit, and figures of all rows."""
    rng = np.random.default_rng(0)
    few = (
        slice(None) if n_fitted is None else np.sort(rng.permutation(len(X))[:n_fitted])
    )
    start = time.perf_counter()
    model.fit(X[few])
    seconds = time.perf_counter() - start
    error = -model.score(X) / X.var(axis=0).mean()
    return seconds, error, collision_rate(model.transform(X))


def main(args):
    X = load_rows(args.rows, args.features)
    rows = []
    for name, build in models(args.epochs):
        figures = {}
        for n in [*(n for n in SAMPLES if n < len(X)), len(X)]:
            figures[n] = measure(X, *build(n))
            print(name, n, *figures[n], flush=True)
        whole = figures[len(X)][1]
        for n, (seconds, error, collisions) in figures.items():
            change = f"{error / whole - 1:+.1%}"
            cells = (
                f"{n:,}",
                f"{n / 256:,.0f}",
                f"{seconds:.1f}",
                f"{error:.4f}",
                change,
            )
            rows.append([name, *cells, f"{collisions:.2%}"])
    headers = ["model", "fitted rows", "per codeword", "fit, s", "error"]
    headers += ["to all rows", "collisions"]
    table = tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)
    text = f"""# Fit on a sample, encode everything

`python benchmarks/sampling.py --rows {args.rows} --features {args.features}
--epochs {args.epochs}`, {datetime.date.today()}. {len(X):,} x {args.features}, 3 x 256
codewords. Error: mean squared reconstruction error of all rows, relative to their
variance. Collisions: share of rows whose code another row has already.

{table}
"""
    RESULTS.write_text(text)
    print(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=20)
    main(parser.parse_args())
