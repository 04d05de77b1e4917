"""What RQ-KMeans+ is worth: on fitted rows, on other rows, and in time.

    python benchmarks/rqkmeans_plus.py [--only fitted held_out reach step loop large]

Every section prints its table as it comes and keeps it in results/rqkmeans_plus.json,
from which results/rqkmeans_plus.md is written; a run with --only leaves the others as
they were. "Published recipe" is the published architecture and training rule in the
modules of this package, which tests/test_fidelity.py compares with plain torch step by
step; its codebooks come from the published constrained k-means.
"""

import argparse
import datetime
import importlib.util
import json
import os
import resource
import tempfile
import threading
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from tabulate import tabulate
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from sk_rqkplus import RQVAE, RQKMeans, RQKMeansPlus, metrics
from sk_rqkplus._threads import one_thread
from sk_rqkplus._training import Rows

SHARED = Path(__file__).parents[2] / "shared"
RESULTS = Path(__file__).parent / "results"
SEEDS = (0, 1, 2)
PUBLISHED_LAYERS = (2048, 1024, 512, 256, 128, 64)
PUBLISHED = {
    "hidden_layer_sizes": PUBLISHED_LAYERS,
    "decoder": "mlp",
    "gradient": "ste",
    "balance": "none",
    "augment": "none",
    "revive_dead": False,
    "encoder_lr_ratio": 1.0,
    "lr": 1e-4,
    "lr_schedule": "constant",
    "warmup_epochs": 50,
    "batch_size": 2048,
    "eval_every": 50,
    "max_epochs": 100,
    "dedup": "suffix",
    "precision": "float32",
}
CLOSED = {
    "augment": "none",
    "encoder_lr_ratio": 1.0,
    "hidden_layer_sizes": (768,),
}


def catalogue():
    return np.load(SHARED / "data" / "industrial.npy")


def published(**params):
    path = SHARED / "data" / "industrial_constrained_codebooks.npz"
    return RQKMeansPlus(codebooks=path, **{**PUBLISHED, **params})


def timed(estimator, X):
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(X)
    return time.perf_counter() - start


# Sections: each returns a list of rows.


def fitted():
    """Figures on the fitted rows, mean of three seeds."""
    X = catalogue()
    contenders = {
        "RQKMeans(): the warm start": RQKMeans,
        "RQKMeansPlus(): the default": RQKMeansPlus,
        "RQKMeansPlus, closed catalogue": partial(RQKMeansPlus, **CLOSED),
        "RQKMeansPlus, closed, balance='all'": partial(
            RQKMeansPlus, balance="all", **CLOSED
        ),
        "published recipe, its last epoch (100)": published,
        "RQVAE()": RQVAE,
    }
    return [
        mean_of([figures(make(random_state=seed), X) for seed in SEEDS], method=name)
        for name, make in contenders.items()
    ]


def figures(estimator, X):
    if estimator.get_params().get("decoder") == "mlp":
        seconds = fit_to_the_last(estimator, X)
    else:
        seconds = timed(estimator, X)
    first = getattr(estimator, "history_", [{}])[0]
    codes = estimator.codes_
    decoded = estimator.inverse_transform(codes)
    placed = estimator.inverse_transform(estimator.ids_)
    sizes = [len(book) for book in estimator.codebooks_]
    return {
        "MSE": metrics.reconstruction_mse(X, decoded),
        "MSE of the IDs": metrics.reconstruction_mse(X, placed),
        "collisions": metrics.collision_rate(codes),
        "collisions of epoch 0": first.get("collision_rate", np.nan),
        "largest group": metrics.largest_group(codes),
        "perplexity / K": float(np.mean(metrics.perplexity(codes, sizes))),
        "recall@10": metrics.neighbour_recall(X, decoded).value,
        "IDs unique": float(metrics.collision_rate(estimator.ids_) == 0),
        "fit, s": seconds,
    }


def fit_to_the_last(estimator, X):
    """Fit, and keep the last epoch: the published code does not go back to epoch 0."""
    with tempfile.TemporaryDirectory() as folder:
        estimator.set_params(checkpoint_dir=folder, n_checkpoints=1)
        seconds = timed(estimator, X)
        history = estimator.history_
        (last,) = Path(folder).glob("epoch_*")
        estimator.restore(last, X).history_ = history
    return seconds


def held_out():
    """Error of rows that no stage has seen: 10 % in each of five splits."""
    X = catalogue()
    rows = []
    for split in range(5):
        fit, new = train_test_split(X, test_size=0.1, random_state=split)
        plus = RQKMeansPlus(random_state=split)
        closed = RQKMeansPlus(random_state=split, **CLOSED)
        plain = RQKMeansPlus(
            random_state=split,
            rqkmeans=RQKMeans(augment="none"),
            **{**PUBLISHED, "max_epochs": 50},
        )
        timed(plus, fit)
        timed(closed, fit)
        fit_to_the_last(plain, fit)
        start = plus.rqkmeans_
        rows.append(
            {
                "split": split,
                "warm start": -start.score(new),
                "RQKMeansPlus()": -plus.score(new),
                "gain": 1 - plus.score(new) / start.score(new),
                "closed": -closed.score(new),
                "published recipe": -plain.score(new),
                "its warm start": -RQKMeans(augment="none", random_state=split)
                .fit(fit)
                .score(new),
                "recall of warm start": recall(start, new, X),
                "recall of RQKMeansPlus()": recall(plus, new, X),
            }
        )
    return [*rows, mean_of(rows, split="mean")]


def recall(model, new, X):
    return metrics.neighbour_recall(
        new, model.inverse_transform(model.transform(new))
    ).value


class PublishedRows(Dataset):
    """One row at a time, as the published loader fetches them."""

    def __init__(self, X):
        self.X = X

    def __len__(self):
        return len(self.X)

    def __getitem__(self, index):
        return torch.from_numpy(self.X[index])


def step():
    """One step at the published architecture: two batches of the catalogue an epoch."""
    X = catalogue()
    name = "published, float32, rows one by one"
    peers = {}
    # As shipped, the loader starts four workers anew in every epoch.
    for n_workers in (0, 4):
        peers[f"{name}, {n_workers} workers"] = published_steps(X, n_workers)
    losses = peers[f"{name}, 0 workers"][1]
    rows = [{"trainer": key, "ms": 1e3 * value[0]} for key, value in peers.items()]
    for precision in ("float32", "auto"):
        seconds, ours = our_steps(X, precision)
        row = {"trainer": f"ours, precision={precision!r}", "ms": 1e3 * seconds}
        for n_workers in (0, 4):
            peer = peers[f"{name}, {n_workers} workers"][0]
            row[f"peer of {n_workers} workers / ours"] = peer / seconds
        difference = np.abs(np.divide(ours, losses) - 1).max()
        rows.append({**row, "largest difference of losses": float(difference)})
    return rows


def published_steps(X, n_workers, n_epochs=6):
    """Seconds per step and losses of the published loop, written out."""
    model = published(max_epochs=n_epochs, warmup_epochs=0)
    module = start_module(model, X)
    optimizer = torch.optim.AdamW(module.parameters(), lr=model.lr, weight_decay=0)
    loader = DataLoader(
        PublishedRows(X), batch_size=2048, shuffle=False, num_workers=n_workers
    )
    losses, best = [], np.inf
    for _ in range(n_epochs):
        start = time.perf_counter()
        for batch in loader:
            optimizer.zero_grad()
            decoded, quantisation = module(batch)
            loss = F.mse_loss(decoded, batch) + quantisation
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
        best = min(best, time.perf_counter() - start)
    return best / len(loader), losses


def our_steps(X, precision, n_epochs=6):
    """The same with our net, without evaluations."""
    model = published(max_epochs=n_epochs, warmup_epochs=0, precision=precision)
    module = start_module(model, X)
    rows = Rows(X, mean=np.float32(0), batch_size=2048, rng=None)
    net = model._make_net(module, torch.device("cpu"), [], len(rows)).initialize()
    best = np.inf
    for _ in range(n_epochs):
        start = time.perf_counter()
        net.partial_fit(rows, epochs=1)
        best = min(best, time.perf_counter() - start)
    batches = [batch for epoch in net.history for batch in epoch["batches"]]
    losses = [batch["train_loss"] for batch in batches]
    return best / len(rows), losses


def reach():
    """Time to the error that the published recipe has after 100 epochs."""
    X = catalogue()
    peer = published(random_state=0)
    seconds = fit_to_the_last(peer, X)
    target = -peer.score(X)
    rows = [
        {"method": "published recipe, codebooks given", "s": seconds, "MSE": target}
    ]
    first = RQKMeans(augment="none")
    for name, params in {
        "RQKMeansPlus, codebooks given, epoch 0": {"codebooks": peer.codebooks},
        "RQKMeansPlus, first stage included, epoch 0": {"rqkmeans": first},
        "RQKMeansPlus(), first stage included": {"max_epochs": 150},
    }.items():
        model = RQKMeansPlus(**{"max_epochs": 0, "random_state": 0, **params})
        own = timed(model, X)
        assert -model.score(X) <= target
        rows.append(
            {
                "method": name,
                "s": own,
                "MSE": -model.score(X),
                "published / ours": seconds / own,
            }
        )
    return rows


def start_module(model, X):
    model.n_features_in_, model.mean_ = X.shape[1], np.zeros(X.shape[1], np.float32)
    return model._start(X, [256] * 3, np.random.RandomState(0))


def loop():
    """Our net against a bare torch loop over the same batches, at the defaults."""
    X = catalogue()
    rows = []
    for precision in ("float32", "auto"):
        bare, net = np.inf, np.inf
        for _ in range(5):
            bare = min(bare, bare_epoch(X, precision))
            net = min(net, net_epoch(X, precision))
        rows.append(
            {
                "precision": precision,
                "bare torch, ms an epoch": 1e3 * bare,
                "ours, ms an epoch": 1e3 * net,
                "overhead": net / bare - 1,
            }
        )
    return rows


def parts(X, precision):
    model = RQKMeansPlus(random_state=0, max_epochs=1, precision=precision)
    model.set_params(rqkmeans=RQKMeans(augment="none", max_iter=3, balance="none"))
    model.n_features_in_ = X.shape[1]
    module = model._start(X, [256] * 3, np.random.RandomState(0))
    rng = np.random.RandomState(0)
    rows = Rows(
        X, mean=model.mean_, unit=model.unit_, batch_size=model.batch_size, rng=rng
    )
    return model, module, rows


def bare_epoch(X, precision):
    model, module, rows = parts(X, precision)
    net = model._make_net(module, torch.device("cpu"), [])
    weights = module.parameters()
    optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0, fused=True)
    with one_thread():
        start = time.perf_counter()
        for batch, _ in rows:
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=net.bfloat16):
                decoded, quantisation = module(batch)
            (F.mse_loss(decoded, batch) + quantisation).backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
        return time.perf_counter() - start


def net_epoch(X, precision):
    model, module, rows = parts(X, precision)
    net = model._make_net(module, torch.device("cpu"), [], len(rows)).initialize()
    with one_thread():
        start = time.perf_counter()
        net.partial_fit(rows, epochs=1)
        return time.perf_counter() - start


def large():
    """One epoch over a million rows of 384 values, from a file."""
    path = SHARED / "make_large.py"
    spec = importlib.util.spec_from_file_location("make_large", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        out = np.lib.format.open_memmap(path, "w+", np.float32, (1_000_000, 384))
        for i in range(10):
            part = slice(100_000 * i, 100_000 * (i + 1))
            out[part] = module.smoothed_bootstrap(100_000, i)
        del out
        X = np.load(path, mmap_mode="r")
        first = RQKMeans(max_samples=100_000, store_catalogue=False, random_state=0)
        seconds_first = timed(first, X)
        model = RQKMeansPlus(
            codebooks=first, max_epochs=1, warmup_epochs=0, store_catalogue=False
        )
        before = anonymous_memory()
        peak, seconds = in_the_meantime(lambda: timed(model, X))
        return [
            {
                "rows": len(X),
                "first stage, s": seconds_first,
                "whole fit of one epoch, s": seconds,
                "steps": -(-len(X) // model.batch_size),
                "peak beyond the start, GiB": (peak - before) / 2**30,
                "size of the rows, GiB": X.nbytes / 2**30,
                "MSE of epoch 0": model.history_[0]["reconstruction_error"],
                "MSE of epoch 1": model.history_[1]["reconstruction_error"],
            }
        ]


def anonymous_memory():
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


def in_the_meantime(run):
    """Peak memory while a function runs, looked at every 50 ms, and its result."""
    peak, done = [anonymous_memory()], threading.Event()

    def watch():
        while not done.wait(0.05):
            peak[0] = max(peak[0], anonymous_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = run()
    finally:
        done.set()
        watcher.join()
    return peak[0], result


def mean_of(rows, **label):
    columns = {key: [row[key] for row in rows] for key in rows[0] if key not in label}
    return {**label, **{key: float(np.mean(v)) for key, v in columns.items()}}


SECTIONS = {f.__name__: f for f in (fitted, held_out, reach, step, loop, large)}


def machine():
    with open("/proc/cpuinfo") as info:
        line = next((row for row in info if row.startswith("model name")), ": unknown")
    return (
        f"{line.split(':')[1].strip()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )


def report(results):
    text = [f"# RQ-KMeans+ on industrial.npy\n\n{__doc__.split(chr(10) * 2, 2)[2]}"]
    for name, section in SECTIONS.items():
        if name in results:
            found = results[name]
            table = tabulate(
                found["rows"], headers="keys", tablefmt="github", floatfmt=".4g"
            )
            text.append(
                f"## {name}: {section.__doc__}\n\n{table}\n\n{found['date']}, "
                f"load average at start {found['load']:.2f}, {found['machine']}"
            )
    return "\n\n".join(text) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=list(SECTIONS))
    path = RESULTS / "rqkmeans_plus.json"
    for name in parser.parse_args().only:
        load = os.getloadavg()[0]
        rows = SECTIONS[name]()
        print(f"\n{name}: {SECTIONS[name].__doc__}\n")
        print(tabulate(rows, headers="keys", floatfmt=".4g"), flush=True)
        results = json.loads(path.read_text()) if path.exists() else {}
        results[name] = {
            "rows": rows,
            "date": str(datetime.date.today()),
            "load": load,
            "machine": machine(),
            "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        }
        path.write_text(json.dumps(results, indent=1) + "\n")
        (RESULTS / "rqkmeans_plus.md").write_text(report(results))


if __name__ == "__main__":
    main()
