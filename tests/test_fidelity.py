"""The published training rule, written out in plain torch, step for step.

The oracle below shares nothing with the package: parameters are tensors in a dict under
their published names, and every formula is spelt out.
"""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch.nn import functional as F

from sk_rqkplus import RQVAE, RQKMeansPlus
from sk_rqkplus._training import Rows

SIZES, HIDDEN, EPOCHS, BATCH = (16, 12, 8), (20, 12), 6, 150

OPTIMIZERS = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
}

DEFAULTS = {
    "loss": "mse",
    "batch_norm": False,
    "sinkhorn_epsilon": [0.0, 0.0, 0.0],
    "sinkhorn_iter": 50,
    "beta": 0.25,
    "quant_weight": 1.0,
    "optimizer": "adamw",
    "weight_decay": 0.0,
    "lr": 1e-3,
    "lr_schedule": "constant",
    "warmup_epochs": 2,
    "clip_grad_norm": 1.0,
}

CASES = {
    "sinkhorn": {"sinkhorn_epsilon": [0.0, 0.05, 0.02], "sinkhorn_iter": 20},
    "l1": {"loss": "l1", "quant_weight": 0.5, "beta": 0.4},
    "batch norm": {"batch_norm": True},
    "linear schedule": {"lr_schedule": "linear", "lr": 3e-3},
    "weight decay": {"weight_decay": 0.1, "lr": 3e-3},
    "all of them": {
        "sinkhorn_epsilon": [0.1, 0.0, 0.02],
        "loss": "l1",
        "batch_norm": True,
        "lr_schedule": "linear",
        "weight_decay": 0.1,
        "lr": 3e-3,
    },
    "clipped": {"clip_grad_norm": 0.01, "lr": 3e-3},
    **{name: {"optimizer": name} for name in ("adam", "sgd", "adagrad", "rmsprop")},
}


def mlp(P, buffers, prefix, X, n_layers, batch_norm):
    """Dropout(0), Linear, and between the layers batch norm and ReLU."""
    width = 4 if batch_norm else 3
    for i in range(n_layers):
        name = f"{prefix}.{width * i + 1}"
        X = F.linear(X, P[f"{name}.weight"], P[f"{name}.bias"])
        if i == n_layers - 1:
            return X
        if batch_norm:
            name = f"{prefix}.{width * i + 2}"
            X = F.batch_norm(
                X,
                buffers[f"{name}.running_mean"],
                buffers[f"{name}.running_var"],
                P[f"{name}.weight"],
                P[f"{name}.bias"],
                training=True,
            )
        X = torch.relu(X)
    raise AssertionError("no layers")


def choose(D, epsilon, n_iter):
    """Nearest codeword, or the argmax of a Sinkhorn plan."""
    if epsilon == 0:
        return D.argmin(dim=1)
    middle = (D.max() + D.min()) / 2
    amplitude = D.max() - middle + 1e-5
    Q = torch.exp(-((D - middle) / amplitude).double() / epsilon)
    n_rows, n_codewords = Q.shape
    Q = Q / Q.sum()
    for _ in range(n_iter):
        Q = Q / Q.sum(dim=1, keepdim=True) / n_rows
        Q = Q / Q.sum(dim=0, keepdim=True) / n_codewords
    return (Q * n_rows).argmax(dim=1)


def oracle(X, weights, config, residual):
    """Figures of every step, and the final weights."""
    P = {
        key: value.clone().requires_grad_()
        for key, value in weights.items()
        if "running" not in key and "num_batches" not in key
    }
    buffers = {key: value.clone() for key, value in weights.items() if "running" in key}
    n_layers, bn = len(HIDDEN) + 1, config["batch_norm"]
    optimizer = OPTIMIZERS[config["optimizer"]](
        P.values(), lr=config["lr"], weight_decay=config["weight_decay"]
    )
    batches = -(-len(X) // BATCH)
    n_warmup, n_steps = config["warmup_epochs"] * batches, EPOCHS * batches
    figures = []
    for step in range(n_steps):
        if step < n_warmup:
            factor = step / n_warmup
        elif config["lr_schedule"] == "constant":
            factor = 1.0
        else:
            factor = (n_steps - step) / (n_steps - n_warmup)
        optimizer.param_groups[0]["lr"] = config["lr"] * factor
        start = step % batches * BATCH
        batch = X[start : start + BATCH]
        prefix = "encoder.mlp.mlp_layers" if residual else "encoder.mlp_layers"
        Z = mlp(P, buffers, prefix, batch, n_layers, bn)
        Z = batch + Z if residual else Z
        left, total, losses = Z, torch.zeros_like(Z), []
        for level, epsilon in enumerate(config["sinkhorn_epsilon"]):
            C = P[f"rq.vq_layers.{level}.embedding.weight"]
            D = ((left[:, None] - C[None]) ** 2).sum(dim=2).detach()
            q = C[choose(D, epsilon, config["sinkhorn_iter"])]
            codebook = ((q - left.detach()) ** 2).mean()
            commitment = ((q.detach() - left) ** 2).mean()
            losses.append(codebook + config["beta"] * commitment)
            q = left + (q - left).detach()
            left = left - q
            total = total + q
        decoded = mlp(P, buffers, "decoder.mlp_layers", total, n_layers, bn)
        error = decoded - batch
        reconstruction = (
            error.abs().mean() if config["loss"] == "l1" else error.square().mean()
        )
        quantisation = sum(losses) / len(losses)
        loss = reconstruction + config["quant_weight"] * quantisation
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(P.values(), config["clip_grad_norm"])
        optimizer.step()
        parts = (loss, reconstruction, quantisation, norm)
        figures.append([float(part.detach()) for part in parts])
    return figures, {**P, **buffers}


def determined(state):
    """Leave out what batch norm cancels: biases before it, and running means of them.

    The gradient of such a bias is nothing but rounding, which Adam scales up.
    """
    state = dict(state)
    for key in [key for key in state if key.endswith("running_mean")]:
        prefix, number, _ = key.rsplit(".", 2)
        del state[key], state[f"{prefix}.{int(number) - 1}.bias"]
    return state


@pytest.mark.parametrize("kind", [RQKMeansPlus, RQVAE])
@pytest.mark.parametrize("case", CASES)
def test_every_step_of_the_published_rule(X, kind, case):
    config = {**DEFAULTS, **CASES[case]}
    rows = X[:400] - X.mean(axis=0)
    published = {"gradient": "ste", "balance": "none", "augment": "none"}
    special = {"latent_dim": 6}
    if kind is RQKMeansPlus:
        special = {"decoder": "mlp", "encoder_lr_ratio": 1.0}
    model = kind(
        SIZES,
        hidden_layer_sizes=HIDDEN,
        max_epochs=EPOCHS,
        batch_size=BATCH,
        precision="float32",
        **published,
        **special,
        **config,
    )
    model.unit_ = 1.0
    generator = torch.Generator().manual_seed(3)
    encoder, decoder = model._networks(rows.shape[1], None)
    encoder.reset(generator)
    decoder.reset(generator)
    n_latent = 6 if kind is RQVAE else rows.shape[1]
    books = [
        torch.randn(size, n_latent, generator=generator).numpy() / 4 for size in SIZES
    ]
    module = model._make_module(encoder, decoder, books, [np.zeros(n) for n in SIZES])
    start = {key: value.clone() for key, value in module.state_dict().items()}
    batches = Rows(rows, mean=np.float32(0), batch_size=BATCH, rng=None)
    net = model._make_net(module, torch.device("cpu"), [], len(batches)).fit(batches)

    expected, weights = oracle(
        torch.from_numpy(rows), start, config, kind is RQKMeansPlus
    )
    keys = ["train_loss", "reconstruction_loss", "quantisation_loss", "gradient_norm"]
    steps = [
        [batch[key] for key in keys]
        for epoch in net.history
        for batch in epoch["batches"]
    ]
    assert len(steps) == 18
    assert_allclose(steps, expected, rtol=2e-5)
    state = module.state_dict()
    if config["batch_norm"]:
        weights = determined(weights)
    for key, value in weights.items():
        assert_allclose(
            state[key].numpy(), value.detach().numpy(), atol=2e-5, err_msg=key
        )

    # Encoded by the estimator, the rows get the codes of these weights.
    model.mean_, model.n_features_in_ = np.zeros(rows.shape[1], np.float32), 24
    model._adopt(model._snapshot(module))
    with torch.no_grad():
        left = module.eval().encoder(torch.from_numpy(rows))
        for level, code in enumerate(model.transform(rows).T):
            book = weights[f"rq.vq_layers.{level}.embedding.weight"]
            assert_array_equal(code, torch.cdist(left, book).argmin(dim=1))
            left = left - book[code.astype(np.int64)]
