"""What the figures of quality say of several tokenisers of one catalogue, side by side.

    python benchmarks/tokenisers.py [--seeds 3] [--out benchmarks/results/tokenisers.md]

All have 3 x 256 codewords. Two controls have no collisions and little or no sense: one
numbers the items of every prefix, the other numbers all items. Recall on fitted rows is
exact, over all queries. Held-out figures are those of 10 % of the rows, of a model that
was fitted without them; their neighbours are looked up among themselves.
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split
from tabulate import tabulate

from sk_rqkplus import RQKMeans, RQKMeansPlus, metrics, scorers
from sk_rqkplus.ids import deduplicate

DATA = Path(__file__).parents[2] / "shared" / "data"
SIZES = (256, 256, 256)
# Name and format of every figure.
FIGURES = {
    "collisions": "{:.1%}",
    "perplexity / K": "{:.2f}",
    "R²": "{:.3f}",
    "recall@10": "{:.3f}",
    "recall@10 by codes": "{:.3f}",
    "prefix cohesion": "{:.2f}",
    "R² held out": "{:.3f}",
    "recall@10 held out": "{:.3f}",
}


def published(X):
    """Nearest codeword in the codebooks of the published constrained RQ-KMeans."""
    with np.load(DATA / "industrial_constrained_codebooks.npz") as file:
        books = [file[f"codebook_{level}"] for level in range(len(SIZES))]
    residual, codes = X.astype(np.float64), []
    for book in books:
        scores = np.square(book).sum(axis=1) - 2 * residual @ book.T
        codes.append(scores.argmin(axis=1))
        residual = residual - book[codes[-1]]
    return np.stack(codes, axis=1), X - residual


def models(seed):
    """Estimators by name."""
    plain = {"augment": "none", "random_state": seed}
    return {
        'RQKMeans, balance="none"': RQKMeans(SIZES, balance="none", **plain),
        'RQKMeans, balance="last"': RQKMeans(SIZES, balance="last", **plain),
        'RQKMeans, balance="all"': RQKMeans(SIZES, balance="all", **plain),
        "RQKMeans, defaults": RQKMeans(SIZES, random_state=seed),
        "RQKMeansPlus, defaults": RQKMeansPlus(SIZES, random_state=seed),
    }


def figures(X, codes, reconstructed=None, held_out=(np.nan, np.nan)):
    """Values in the order of FIGURES, some of them one per level."""
    everything = {"n_queries": len(X)}
    r2 = recall = np.nan
    if reconstructed is not None:
        r2 = metrics.reconstruction_r2(X, reconstructed)
        recall = metrics.neighbour_recall(X, reconstructed, **everything).value
    cohesion = metrics.prefix_cohesion(codes, X, average="item")
    return [
        metrics.collision_rate(codes),
        metrics.perplexity(codes, SIZES),
        r2,
        recall,
        metrics.code_neighbour_recall(X, codes, **everything).value,
        np.array([level.value for level in cohesion]),
        *held_out,
    ]


def of_seed(X, seed):
    """Figures of every tokeniser by name, for one seed."""
    fitted, held_out = train_test_split(X, test_size=0.1, random_state=seed)
    table = {"constrained, published": figures(X, *published(X))}
    for name, estimator in models(seed).items():
        estimator.fit(fitted)
        unseen = (
            scorers.reconstruction_r2(estimator, held_out),
            scorers.neighbour_recall(estimator, held_out),
        )
        codes = estimator.fit_transform(X)
        decoded = estimator.inverse_transform(codes)
        table[name] = figures(X, codes, decoded, unseen)
        if name == "RQKMeans, defaults":
            default = estimator
    ids = default.ids_[:, : len(SIZES)]
    table["IDs of RQKMeans, defaults"] = figures(X, ids, default.inverse_transform(ids))
    numbered = deduplicate(default.codes_[:, :-1])
    decoded = default.inverse_transform(numbered)
    table["... with a number as last level"] = figures(X, numbered, decoded)
    number = np.random.RandomState(seed).permutation(len(X))
    digits = np.stack([number // 256**2, number // 256 % 256, number % 256], axis=1)
    table["numbers of the items"] = figures(X, digits)
    return table


def cells(values):
    """Texts of one row of the table."""
    texts = [
        " / ".join(form.format(number) for number in np.atleast_1d(value))
        for form, value in zip(FIGURES.values(), values, strict=True)
    ]
    return [text.replace("nan", "-") for text in texts]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    X = np.load(DATA / "industrial.npy")
    tables = [of_seed(X, seed) for seed in range(args.seeds)]
    # For every tokeniser and figure, the values of the seeds.
    runs = {
        name: list(zip(*(table[name] for table in tables), strict=True))
        for name in tables[0]
    }
    rows = [
        [name, *cells([np.mean(values, axis=0) for values in run])]
        for name, run in runs.items()
    ]
    ranges = [[np.ptp(values, axis=0).max() for values in run] for run in runs.values()]
    rows.append(["largest range over the seeds", *cells(np.nanmax(ranges, axis=0))])
    text = (
        "# Figures of several tokenisers, industrial.npy, 3686 x 384, 3 x 256\n\n"
        f"Means over the seeds 0 to {args.seeds - 1}, by `python "
        'benchmarks/tokenisers.py`. RQKMeans with\n`augment="none"` but for the '
        "defaults. Cohesion weighs items equally; two items drawn at\nrandom have a "
        f"similarity of {metrics.random_pair_similarity(X).value:.2f}, ten drawn at "
        f"random a recall of {10 / (len(X) - 1):.3f}, and of the held-out\nrows "
        f"{10 / (round(0.1 * len(X)) - 1):.3f}.\n\n"
        f"{tabulate(rows, ['tokeniser', *FIGURES], 'github', disable_numparse=True)}\n"
    )
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
