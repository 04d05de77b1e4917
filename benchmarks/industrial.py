"""Quality and time on a real catalogue, side by side with peers in one run.

    python benchmarks/industrial.py [--out benchmarks/results/industrial.md]

Peers: k-means per level with scikit-learn, and faiss where it is installed. Time is the
whole of ``fit``, IDs included; ratios are times over that of scikit-learn.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import KMeans
from tabulate import tabulate

from sk_rqkplus import RQKMeans, RQKMeansPlus, metrics

DATA = Path(__file__).parents[2] / "shared" / "data" / "industrial.npy"
SIZES = (256, 256, 256)


def sklearn_per_level(X):
    """Residual k-means with scikit-learn; codes and reconstruction."""
    residual, codes = X - X.mean(axis=0), []
    for size in SIZES:
        kmeans = KMeans(size, n_init=1, random_state=0).fit(residual)
        codes.append(kmeans.labels_)
        residual = residual - kmeans.cluster_centers_[kmeans.labels_]
    return np.stack(codes, axis=1), X - residual


def faiss_residual_quantizer(X):
    """Residual quantiser of faiss, beam of one, as in published pipelines."""
    import faiss

    quantizer = faiss.ResidualQuantizer(X.shape[1], len(SIZES), 8)
    quantizer.train_type = faiss.ResidualQuantizer.Train_default
    quantizer.max_beam_size = 1
    quantizer.train(X)
    codes = quantizer.compute_codes(X)
    return codes.astype(int), quantizer.decode(codes)


def ours(estimator):
    """Function of X that fits an estimator."""

    def run(X):
        fitted = estimator.fit(X)
        return fitted.codes_, fitted.inverse_transform(fitted.codes_), fitted

    return run


def row(name, run, X, base):
    start = time.perf_counter()
    codes, reconstructed, *fitted = run(X)
    seconds = time.perf_counter() - start
    after = "-"
    if fitted:
        ids = fitted[0].ids_
        error = metrics.reconstruction_mse(X, fitted[0].inverse_transform(ids))
        after = f"{metrics.collision_rate(ids):.1%} / {error:.6f}"
    share = metrics.perplexity(codes) / SIZES
    return [
        name,
        f"{metrics.reconstruction_mse(X, reconstructed):.6f}",
        f"{metrics.collision_rate(codes):.1%}",
        metrics.largest_group(codes),
        " / ".join(f"{value:.2f}" for value in share),
        after,
        f"{seconds:.1f}",
        f"{seconds / (base or seconds):.2f}",
    ], seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    args = parser.parse_args()
    if not args.data.exists():
        raise SystemExit(f"{args.data} is absent; give another with --data.")
    X = np.load(args.data)
    runs = [("k-means per level, scikit-learn", sklearn_per_level)]
    try:
        import faiss  # noqa: F401

        runs.append(("ResidualQuantizer, faiss, beam 1", faiss_residual_quantizer))
    except ImportError:
        pass
    runs += [
        (
            f'RQKMeans(balance="{balance}")',
            ours(RQKMeans(SIZES, balance=balance, augment="none", random_state=0)),
        )
        for balance in ("none", "last", "all")
    ]
    runs.append(("RQKMeans()", ours(RQKMeans(SIZES, random_state=0))))
    runs.append(("RQKMeansPlus()", ours(RQKMeansPlus(SIZES, random_state=0))))
    rows, base = [], None
    for name, run in runs:
        cells, seconds = row(name, run, X, base)
        base = base or seconds
        rows.append(cells)
    table = tabulate(
        rows,
        headers=[
            "method",
            "MSE",
            "collisions",
            "largest group",
            "perplexity / K",
            "collisions / MSE of the IDs",
            "fit, s",
            "ratio",
        ],
        tablefmt="github",
        disable_numparse=True,
    )
    text = (
        f"# {args.data.name}, {X.shape[0]} x {X.shape[1]}, 3 x 256, random_state=0\n\n"
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; "
        "`python benchmarks/industrial.py`. RQKMeans with a `balance` that is named "
        f'has `augment="none"`.\n\n{table}\n'
    )
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
