"""What iterations, tolerance and start of k-means buy: error against time of the fit.

    python benchmarks/frontier.py [n_rows]

Writes results/frontier.md and results/frontier.png. Needs the shared data beside the
checkout. Errors are of fitted rows and of as many rows again, which were not seen.
"""

import sys
import time
from pathlib import Path

import matplotlib as mpl
import torch
from exactness import load_rows

from sk_rqkplus import RQKMeans

RESULTS = Path(__file__).parent / "results"
TOLERANCES = (3e-2, 5e-3, 2e-3, 1e-3, 5e-4, 2e-4, 5e-5)
# Those that are named in the picture: the others are too close to each other.
LABELLED = (3e-2, 5e-3, 5e-4, 5e-5)
STARTS = {
    "k-means++": {"init": "k-means++"},
    "random rows": {"init": "random"},
    "k-means++, n_init=2": {"init": "k-means++", "n_init": 2},
    "refine=0": {"refine": 0},
    "refine=2": {"refine": 2},
}


def measure(X, new, **params):
    """Seconds and errors of one fit without IDs."""
    rq = RQKMeans(
        balance="none",
        augment="none",
        dedup="suffix",
        store_catalogue=False,
        random_state=0,
        **params,
    )
    start = time.perf_counter()
    rq.fit(X)
    return time.perf_counter() - start, -rq.score(X), -rq.score(new), rq.n_iter_


def draw(curves, path):
    """Plot held-out error against time, a line per start."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, points in curves.items():
        seconds, errors = zip(*[(p[1], p[3]) for p in points], strict=True)
        axes.plot(seconds, errors, "o-", label=name)
        for tol, x, _, y, _ in points:
            if name == "k-means++" and tol in LABELLED:
                axes.annotate(
                    f"{tol:g}", (x, y), xytext=(4, 5), textcoords="offset points"
                )
    axes.set(xlabel="fit, seconds", ylabel="MSE of unseen rows")
    axes.set_title("Where tol ends: defaults are k-means++, refine=1 and tol=0.0005")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main():
    """Measure, print and write."""
    n_rows = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    rows = load_rows(2 * n_rows)
    X, new = rows[:n_rows], rows[n_rows:]
    measure(X[: n_rows // 10], new[:1000])
    lines = [
        f"# {n_rows:,} x {X.shape[1]}, 3 x 256, fit without IDs",
        "",
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; "
        "`python benchmarks/frontier.py`",
        "",
        "| start | tol | iterations | fit, s | MSE fitted | MSE unseen |",
        "|---|---|---|---|---|---|",
    ]
    curves = {}
    for name, start in STARTS.items():
        for tol in TOLERANCES:
            seconds, fitted, unseen, n_iter = measure(X, new, tol=tol, **start)
            curves.setdefault(name, []).append((tol, seconds, fitted, unseen, n_iter))
            cells = f"{n_iter} | {seconds:.1f} | {fitted:.6f} | {unseen:.6f}"
            lines.append(f"| {name} | {tol:g} | {cells} |")
            print(lines[-1], flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "frontier.md").write_text("\n".join(lines) + "\n")
    draw(curves, RESULTS / "frontier.png")


if __name__ == "__main__":
    main()
