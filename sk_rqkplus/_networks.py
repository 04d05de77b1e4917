"""The networks of RQ-KMeans+ and RQ-VAE, and their training-time quantiser.

Modules carry the names of the published implementation (MiniOneRec, arXiv 2510.24431),
so that its ``state_dict`` loads as it is.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Dropout(nn.Module):
    """Dropout that draws from a generator of its own.

    ``nn.Dropout`` draws from the global generator, which belongs to the caller.

    Parameters
    ----------
    p : float
        Probability of dropping a value.

    generator : torch.Generator, optional
        Source of randomness; None is the global one.
    """

    def __init__(self, p: float, generator: torch.Generator | None = None):
        super().__init__()
        self.p = p
        self.generator = generator

    def forward(self, X: Tensor) -> Tensor:
        """Drop values in training, and scale up those that stay."""
        if not self.training or self.p == 0:
            return X
        kept = torch.empty_like(X).bernoulli_(1 - self.p, generator=self.generator)
        return X * kept / (1 - self.p)


class MLP(nn.Module):
    """Dropout and Linear per layer, batch norm and ReLU between the layers.

    Parameters
    ----------
    sizes : sequence of int
        Number of features from input to output.

    dropout : float, default=0.0
        Probability of dropping an input of a layer.

    batch_norm : bool, default=False
        Normalise before every ReLU.

    generator : torch.Generator, optional
        Source of dropout.

    device : str, default="cpu"
        Where the weights are; those on "meta" take no memory.

    Notes
    -----
    The weights are not set until :meth:`reset` or ``load_state_dict`` is called, so
    that building a network never draws from the global generator.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        dropout: float = 0.0,
        batch_norm: bool = False,
        generator: torch.Generator | None = None,
        device: str = "cpu",
    ):
        super().__init__()
        place: dict[str, Any] = {"dtype": torch.float32, "device": device}
        layers: list[nn.Module] = []
        for i, (n_in, n_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            linear = nn.utils.skip_init(nn.Linear, n_in, n_out, **place)
            layers += [Dropout(dropout, generator), linear]
            if i < len(sizes) - 2:
                layers += [nn.BatchNorm1d(n_out, **place)] * batch_norm + [nn.ReLU()]
        self.mlp_layers = nn.Sequential(*layers)

    def reset(self, generator: torch.Generator) -> None:
        """Draw the weights (Xavier normal) and set the biases to zero."""
        for layer in self.mlp_layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight, generator=generator)
                nn.init.zeros_(layer.bias)

    def forward(self, X: Tensor) -> Tensor:
        """Apply all layers."""
        return self.mlp_layers(X)


class ResidualMLP(nn.Module):
    """``X + MLP(X)``, which is exactly ``X`` until the first update.

    Parameters
    ----------
    sizes : sequence of int
        Number of features from input to output; both ends are equal.

    **options : dict
        Passed to :class:`MLP`.
    """

    def __init__(self, sizes: Sequence[int], **options):
        super().__init__()
        self.mlp = MLP(sizes, **options)

    def reset(self, generator: torch.Generator) -> None:
        """Draw the weights, but leave those of the last Linear at zero."""
        self.mlp.reset(generator)
        last = self.mlp.mlp_layers[-1]
        nn.init.zeros_(last.get_parameter("weight"))

    def forward(self, X: Tensor) -> Tensor:
        """Add what the layers make of X to X."""
        return X + self.mlp(X)


class VectorQuantizer(nn.Module):
    """One codebook whose codewords are trained.

    Parameters
    ----------
    codebook : ndarray of shape (n_codewords, n_features)
        Initial codewords.

    prices : ndarray of shape (n_codewords,)
        Added to the squared distances, see ``_balance``.

    sinkhorn_epsilon : float, default=0.0
        Temperature of a balanced assignment within the batch; 0 takes the nearest.

    sinkhorn_iter : int, default=50
        Iterations of that assignment.
    """

    def __init__(
        self,
        codebook: np.ndarray,
        prices: np.ndarray,
        *,
        sinkhorn_epsilon: float = 0.0,
        sinkhorn_iter: int = 50,
    ):
        super().__init__()
        weight = torch.tensor(codebook, dtype=torch.float32)
        self.embedding = nn.Embedding.from_pretrained(weight, freeze=False)
        self.prices: Tensor
        self.usage: Tensor
        # Part of the fitted state of the estimator, not of a published state_dict.
        self.register_buffer(
            "prices", torch.tensor(prices, dtype=torch.float64), persistent=False
        )
        # Rows of every codeword in training, since somebody set it to zero.
        self.register_buffer(
            "usage", torch.zeros(len(weight), dtype=torch.int64), persistent=False
        )
        self.sinkhorn_epsilon = sinkhorn_epsilon
        self.sinkhorn_iter = sinkhorn_iter

    def forward(self, rows: Tensor) -> Tensor:
        """Codeword of every row of a batch."""
        # Products in bfloat16 would choose other codewords for many rows.
        with torch.no_grad(), torch.autocast(rows.device.type, enabled=False):
            labels = self.assign(rows)
        if self.training:
            self.usage += torch.bincount(labels, minlength=len(self.usage))
        return self.embedding(labels)

    def assign(self, rows: Tensor) -> Tensor:
        """Codeword of every row of a batch in training."""
        book = self.embedding.weight
        if self.sinkhorn_epsilon > 0:
            distances = (
                rows.square().sum(1, keepdim=True)
                + book.square().sum(1)
                - 2 * rows @ book.T
            )
            plan = sinkhorn(distances, self.sinkhorn_epsilon, self.sinkhorn_iter)
            return plan.argmax(dim=1)
        offsets = book.square().sum(1) + self.prices.float()
        return torch.addmm(offsets, rows, book.T, alpha=-2).argmin(dim=1)


def sinkhorn(distances: Tensor, epsilon: float, n_iter: int) -> Tensor:
    """Balanced soft assignment of a batch.

    Parameters
    ----------
    distances : Tensor of shape (n_rows, n_codewords)
        Squared distances; they are shifted and scaled to [-1, 1].

    epsilon : float
        Temperature.

    n_iter : int
        Number of times that rows and columns are normalised.

    Returns
    -------
    plan : Tensor of shape (n_rows, n_codewords), float64
        Rows sum to about 1, columns to about ``n_rows / n_codewords``.

    References
    ----------
    Cuturi, "Sinkhorn Distances: Lightspeed Computation of Optimal Transport", 2013.
    """
    high, low = distances.max(), distances.min()
    middle = (high + low) / 2
    amplitude = high - middle + 1e-5
    # In logarithms: at a low temperature a whole row of the plan would underflow.
    plan = -((distances - middle) / amplitude).double() / epsilon
    n_rows, n_codewords = plan.shape
    for _ in range(n_iter):
        plan = plan - plan.logsumexp(dim=1, keepdim=True) - np.log(n_rows)
        plan = plan - plan.logsumexp(dim=0, keepdim=True) - np.log(n_codewords)
    return torch.exp(plan + np.log(n_rows))


class ResidualQuantizer(nn.Module):
    """All codebooks, one after the other on what is left over.

    Parameters
    ----------
    vq_layers : sequence of VectorQuantizer
        The levels.

    beta : float
        Weight of the commitment loss.

    gradient : {"full", "rotation", "ste"}
        ``"full"`` subtracts codewords as constants, so that the commitment loss of
        every level reaches the encoder, and passes the gradient of the decoder straight
        through once, on the sum. ``"rotation"`` does the same, but turns and scales
        that gradient as it turns the latent into the sum. ``"ste"`` passes it through
        at every level, as published: what one level adds, the next subtracts, and only
        the first commitment loss arrives.
    """

    def __init__(
        self, vq_layers: Sequence[VectorQuantizer], *, beta: float, gradient: str
    ):
        super().__init__()
        self.vq_layers = nn.ModuleList(vq_layers)
        self.beta = beta
        self.gradient = gradient

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Quantise a batch; return it and the mean over the levels of their losses."""
        residual, total = latent, torch.zeros_like(latent)
        losses = []
        for layer in self.vq_layers:
            word = layer(residual)
            codebook_loss = F.mse_loss(word, residual.detach())
            commitment_loss = F.mse_loss(word.detach(), residual)
            losses.append(codebook_loss + self.beta * commitment_loss)
            if self.gradient == "ste":
                word = residual + (word - residual).detach()
                residual = residual - word
            else:
                residual = residual - word.detach()
            total = total + word
        if self.gradient == "full":
            total = latent + (total - latent).detach()
        elif self.gradient == "rotation":
            total = rotate(latent, total.detach())
        return total, torch.stack(losses).mean()


def rotate(latent: Tensor, target: Tensor) -> Tensor:
    """Turn and scale every row into its target, as a linear map of the row.

    The map is a constant, so that gradients of the target arrive at the latent turned
    and scaled in reverse: angles between gradient and vector are kept.

    Parameters
    ----------
    latent : Tensor of shape (n_rows, n_features)
        What the encoder returned.

    target : Tensor of shape (n_rows, n_features)
        What it was quantised to.

    Returns
    -------
    rotated : Tensor of shape (n_rows, n_features)
        Equal to the target, with a gradient in the latent.

    References
    ----------
    Fifty et al., "Restructuring Vector Quantization with the Rotation Trick", arXiv
    2410.06424, equation 4.
    """
    norm = latent.detach().norm(dim=1, keepdim=True)
    length = target.norm(dim=1, keepdim=True)
    # A row of zeros has no direction: it gets the gradient of its target as it is.
    e, q = latent.detach() / (norm + (norm == 0)), F.normalize(target, dim=1)
    between = F.normalize(e + q, dim=1)
    turned = (
        latent
        - 2 * between * (between * latent).sum(1, keepdim=True)
        + 2 * q * (e * latent).sum(1, keepdim=True)
    ) * (length / (norm + (norm == 0)))
    return turned + (target - turned).detach()


class RQVAEModule(nn.Module):
    """Encoder, residual quantiser and decoder.

    Parameters
    ----------
    encoder : MLP or ResidualMLP
        Maps rows to latents.

    rq : ResidualQuantizer
        Quantises latents.

    decoder : MLP or ResidualMLP
        Maps quantised latents to rows.
    """

    def __init__(self, encoder: nn.Module, rq: ResidualQuantizer, decoder: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.rq = rq
        self.decoder = decoder

    def forward(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction and quantisation loss of a batch."""
        quantised, quantisation_loss = self.rq(self.encoder(X).to(X.dtype))
        return self.decoder(quantised).to(X.dtype), quantisation_loss
