"""Part 4 of the lectures: the forward pass in its smallest pieces, and all 26 gradients by hand.

It stands alone to be read beside the lecture, one small step at a time; it uses nothing of the project's own net.
Shapes: `B` batch, `T` block_size, `C` n_embd, `H` n_hidden, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore_core.dataset import Dataset
from makemore_core.engine import cross_entropy_backward, gradient_of

EPS = 1e-5


class Net(NamedTuple):
    """The parameters of part 4's net, of 4,137 numbers in all with 64 hidden units and 27 symbols."""

    C: Tensor  # (V, C)
    W1: Tensor  # (T*C, H)
    b1: Tensor  # (H,), which BatchNorm makes useless
    W2: Tensor  # (H, V)
    b2: Tensor  # (V,)
    bngain: Tensor  # (1, H)
    bnbias: Tensor  # (1, H)


class Piece(NamedTuple):
    """One of the 26 gradients: its formula as the lecture writes it, and where it stands there."""

    formula: str
    place: str


# In the lecture's order, from the loss to the embedding (part 4, exercise 1).
PIECES: dict[str, Piece] = {
    "logprobs": Piece("dlogprobs[range(n), Yb] = -1/n", "the loss"),
    "probs": Piece("(1 / probs) * dlogprobs", "cross-entropy"),
    "counts_sum_inv": Piece("(counts * dprobs).sum(1, keepdim=True)", "cross-entropy"),
    "counts_sum": Piece("-counts_sum**-2 * dcounts_sum_inv", "cross-entropy"),
    "counts": Piece("counts_sum_inv * dprobs + ones * dcounts_sum", "cross-entropy"),
    "norm_logits": Piece("counts * dcounts", "cross-entropy"),
    "logit_maxes": Piece("(-dnorm_logits).sum(1, keepdim=True)", "cross-entropy"),
    "logits": Piece("dnorm_logits + one_hot(argmax) * dlogit_maxes", "cross-entropy"),
    "h": Piece("dlogits @ W2.T", "second linear layer"),
    "W2": Piece("h.T @ dlogits", "second linear layer"),
    "b2": Piece("dlogits.sum(0)", "second linear layer"),
    "hpreact": Piece("(1 - h**2) * dh", "tanh"),
    "bngain": Piece("(bnraw * dhpreact).sum(0, keepdim=True)", "BatchNorm"),
    "bnbias": Piece("dhpreact.sum(0, keepdim=True)", "BatchNorm"),
    "bnraw": Piece("bngain * dhpreact", "BatchNorm"),
    "bnvar_inv": Piece("(bndiff * dbnraw).sum(0, keepdim=True)", "BatchNorm"),
    "bnvar": Piece("-0.5 * (bnvar + 1e-5)**-1.5 * dbnvar_inv", "BatchNorm"),
    "bndiff2": Piece("1/(n-1) * ones * dbnvar", "BatchNorm"),
    "bndiff": Piece("bnvar_inv * dbnraw + 2 * bndiff * dbndiff2", "BatchNorm"),
    "bnmeani": Piece("(-dbndiff).sum(0, keepdim=True)", "BatchNorm"),
    "hprebn": Piece("dbndiff + 1/n * ones * dbnmeani", "BatchNorm"),
    "embcat": Piece("dhprebn @ W1.T", "first linear layer"),
    "W1": Piece("embcat.T @ dhprebn", "first linear layer"),
    "b1": Piece("dhprebn.sum(0)", "first linear layer"),
    "emb": Piece("dembcat.view(emb.shape)", "embedding"),
    "C": Piece("dC[Xb[k, j]] += demb[k, j]", "embedding"),
}


class Comparison(NamedTuple):
    """A gradient by hand against autograd's: equal bit for bit, close (`torch.allclose`), largest difference.

    `size`: the largest number of autograd's, without its sign. `nan`: only numbers that are NaN on both sides are not
    close.
    """

    name: str
    shape: tuple[int, ...]
    exact: bool
    close: bool
    largest: float
    size: float
    nan: bool


def draw(vocabulary: int, n_hidden: int, generator: torch.Generator, n_embd: int = 10, block_size: int = 3) -> Net:
    """The net as part 4 draws it. The lecture leaves BatchNorm's gain and bias to torch's unseeded generator; here
    they come from a generator as torch starts it in a fresh process, so that every run is the same."""
    unseeded = torch.Generator()
    fan_in = n_embd * block_size
    return Net(
        C=torch.randn((vocabulary, n_embd), generator=generator),
        W1=torch.randn((fan_in, n_hidden), generator=generator) * (5 / 3) / fan_in**0.5,
        b1=torch.randn(n_hidden, generator=generator) * 0.1,
        W2=torch.randn((n_hidden, vocabulary), generator=generator) * 0.1,
        b2=torch.randn(vocabulary, generator=generator) * 0.1,
        bngain=torch.randn((1, n_hidden), generator=unseeded) * 0.1 + 1.0,
        bnbias=torch.randn((1, n_hidden), generator=unseeded) * 0.1,
    )


def exercise(data: Dataset) -> tuple[Net, Tensor, Tensor]:
    """The small net of the exercises, with 64 hidden units, and its first minibatch: `x` (32, 3), `y` (32,)."""
    train = data.examples(data.train, 3)
    generator = torch.Generator().manual_seed(2147483647)
    net = draw(data.vocabulary, 64, generator)
    batch = torch.randint(0, len(train.y), (32,), generator=generator)
    return net, train.x[batch], train.y[batch]


def forward(net: Net, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The forward pass in its smallest pieces, by name, from contexts `x` (B, T) and targets `y` (B,) to the loss."""
    n = x.shape[0]
    v: dict[str, Tensor] = dict(net._asdict())
    v["emb"] = net.C[x]  # (B, T, C)
    v["embcat"] = v["emb"].view(n, -1)  # (B, T*C)
    v["hprebn"] = v["embcat"] @ net.W1 + net.b1  # (B, H)
    v["bnmeani"] = 1 / n * v["hprebn"].sum(0, keepdim=True)
    v["bndiff"] = v["hprebn"] - v["bnmeani"]
    v["bndiff2"] = v["bndiff"] ** 2
    v["bnvar"] = 1 / (n - 1) * v["bndiff2"].sum(0, keepdim=True)  # Bessel's correction
    v["bnvar_inv"] = (v["bnvar"] + EPS) ** -0.5
    v["bnraw"] = v["bndiff"] * v["bnvar_inv"]
    v["hpreact"] = net.bngain * v["bnraw"] + net.bnbias
    v["h"] = torch.tanh(v["hpreact"])
    v["logits"] = v["h"] @ net.W2 + net.b2  # (B, V)
    v["logit_maxes"] = v["logits"].max(1, keepdim=True).values
    v["norm_logits"] = v["logits"] - v["logit_maxes"]
    v["counts"] = v["norm_logits"].exp()
    v["counts_sum"] = v["counts"].sum(1, keepdim=True)
    v["counts_sum_inv"] = v["counts_sum"] ** -1
    v["probs"] = v["counts"] * v["counts_sum_inv"]
    v["logprobs"] = v["probs"].log()
    v["loss"] = -v["logprobs"][torch.arange(n, device=y.device), y].mean()
    return v


def backward(v: Mapping[str, Tensor], x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """All 26 gradients by hand, each from those before it (part 4, exercise 1)."""
    n = x.shape[0]
    d: dict[str, Tensor] = {}
    d["logprobs"] = torch.zeros_like(v["logprobs"])
    d["logprobs"][torch.arange(n, device=y.device), y] = -1.0 / n
    d["probs"] = (1.0 / v["probs"]) * d["logprobs"]
    d["counts_sum_inv"] = (v["counts"] * d["probs"]).sum(1, keepdim=True)
    d["counts_sum"] = (-(v["counts_sum"] ** -2)) * d["counts_sum_inv"]
    d["counts"] = v["counts_sum_inv"] * d["probs"] + torch.ones_like(v["counts"]) * d["counts_sum"]
    d["norm_logits"] = v["counts"] * d["counts"]
    d["logit_maxes"] = (-d["norm_logits"]).sum(1, keepdim=True)
    best = F.one_hot(v["logits"].max(1).indices, num_classes=v["logits"].shape[1])
    d["logits"] = d["norm_logits"].clone() + best * d["logit_maxes"]
    d["h"] = d["logits"] @ v["W2"].T
    d["W2"] = v["h"].T @ d["logits"]
    d["b2"] = d["logits"].sum(0)
    d["hpreact"] = (1.0 - v["h"] ** 2) * d["h"]
    d["bngain"] = (v["bnraw"] * d["hpreact"]).sum(0, keepdim=True)
    d["bnbias"] = d["hpreact"].sum(0, keepdim=True)
    d["bnraw"] = v["bngain"] * d["hpreact"]
    d["bnvar_inv"] = (v["bndiff"] * d["bnraw"]).sum(0, keepdim=True)
    d["bnvar"] = (-0.5 * (v["bnvar"] + EPS) ** -1.5) * d["bnvar_inv"]
    d["bndiff2"] = (1.0 / (n - 1)) * torch.ones_like(v["bndiff2"]) * d["bnvar"]
    d["bndiff"] = v["bnvar_inv"] * d["bnraw"] + (2 * v["bndiff"]) * d["bndiff2"]
    d["bnmeani"] = (-d["bndiff"]).sum(0, keepdim=True)
    d["hprebn"] = d["bndiff"].clone() + 1.0 / n * (torch.ones_like(d["bndiff"]) * d["bnmeani"])
    d["embcat"] = d["hprebn"] @ v["W1"].T
    d["W1"] = v["embcat"].T @ d["hprebn"]
    d["b1"] = d["hprebn"].sum(0)
    d["emb"] = d["embcat"].view(v["emb"].shape)
    d["C"] = torch.zeros_like(v["C"]).index_add_(0, x.reshape(-1), d["emb"].reshape(-1, v["C"].shape[1]))
    return {name: d[name] for name in PIECES}


def batchnorm_backward(v: Mapping[str, Tensor], dhpreact: Tensor) -> Tensor:
    """d loss / d hprebn (B, H) through the whole of BatchNorm in one expression (part 4, exercise 3)."""
    n = dhpreact.shape[0]
    through_variance = n / (n - 1) * v["bnraw"] * (dhpreact * v["bnraw"]).sum(0)
    return v["bngain"] * v["bnvar_inv"] / n * (n * dhpreact - dhpreact.sum(0) - through_variance)


def examine(net: Net, x: Tensor, y: Tensor) -> tuple[float, list[Comparison], list[Comparison]]:
    """The loss, the 26 comparisons, and the two in one expression, on one minibatch. Leaves `net` as it was."""
    net = Net(*(tensor.detach().clone().requires_grad_(True) for tensor in net))
    values = forward(net, x, y)
    for name in PIECES:
        values[name].retain_grad()
    values["loss"].backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        by_hand = backward(values, x, y)
        gradients = [compare(name, by_hand[name], gradient_of(values[name])) for name in PIECES]
        short = [
            compare("logits", cross_entropy_backward(values["logits"], y), gradient_of(values["logits"])),
            compare("hprebn", batchnorm_backward(values, by_hand["hpreact"]), gradient_of(values["hprebn"])),
        ]
    return float(values["loss"].detach()), gradients, short


def compare(name: str, by_hand: Tensor, by_autograd: Tensor) -> Comparison:
    """As the lecture's `cmp` does it."""
    close = bool(torch.allclose(by_hand, by_autograd))
    return Comparison(
        name,
        tuple(by_autograd.shape),
        bool(torch.all(by_hand == by_autograd)),
        close,
        float((by_hand - by_autograd).abs().max()),
        float(by_autograd.abs().max()),
        not close and bool(torch.allclose(by_hand, by_autograd, equal_nan=True)),
    )


# --- exercise 4: training with the backward pass by hand alone -------------------------------------------------------


class Trained(NamedTuple):
    """The trained parameters and BatchNorm's statistics over the whole training split."""

    net: Net
    mean: Tensor  # (1, H)
    variance: Tensor  # (1, H)


@torch.no_grad()
def train(net: Net, x: Tensor, y: Tensor, steps: int, generator: torch.Generator, decay_at: int = 100_000) -> Trained:
    """`steps` updates of minibatches of 32, lr 0.1 then 0.01, in place, without autograd (part 4, exercise 4)."""
    for step in range(steps):
        batch = torch.randint(0, len(y), (32,), generator=generator)
        gradients = short_backward(net, x[batch], y[batch])
        for parameter, gradient in zip(net, gradients, strict=True):
            parameter += -(0.1 if step < decay_at else 0.01) * gradient
    hprebn = _embedded(net, x) @ net.W1 + net.b1
    return Trained(net, hprebn.mean(0, keepdim=True), hprebn.var(0, keepdim=True, unbiased=True))


def short_backward(net: Net, x: Tensor, y: Tensor) -> Net:
    """The gradient of every parameter, with cross-entropy and BatchNorm in one expression each."""
    n = x.shape[0]
    embcat = _embedded(net, x)
    hprebn = embcat @ net.W1 + net.b1
    bnvar_inv = (hprebn.var(0, keepdim=True, unbiased=True) + EPS) ** -0.5
    bnraw = (hprebn - hprebn.mean(0, keepdim=True)) * bnvar_inv
    h = torch.tanh(net.bngain * bnraw + net.bnbias)
    dlogits = cross_entropy_backward(h @ net.W2 + net.b2, y)
    dhpreact = (1.0 - h**2) * (dlogits @ net.W2.T)
    dhprebn = batchnorm_backward({"bnraw": bnraw, "bngain": net.bngain, "bnvar_inv": bnvar_inv}, dhpreact)
    demb = (dhprebn @ net.W1.T).view(n * x.shape[1], -1)
    return Net(
        C=torch.zeros_like(net.C).index_add_(0, x.reshape(-1), demb),
        W1=embcat.T @ dhprebn,
        b1=dhprebn.sum(0),
        W2=h.T @ dlogits,
        b2=dlogits.sum(0),
        bngain=(bnraw * dhpreact).sum(0, keepdim=True),
        bnbias=dhpreact.sum(0, keepdim=True),
    )


@torch.no_grad()
def loss_of(trained: Trained, x: Tensor, y: Tensor) -> float:
    """Mean cross-entropy over a split, with the statistics of the training split."""
    net = trained.net
    hprebn = _embedded(net, x) @ net.W1 + net.b1
    hpreact = net.bngain * (hprebn - trained.mean) * (trained.variance + EPS) ** -0.5 + net.bnbias
    return float(F.cross_entropy(torch.tanh(hpreact) @ net.W2 + net.b2, y))


def _embedded(net: Net, x: Tensor) -> Tensor:
    return net.C[x].view(x.shape[0], -1)  # (B, T*C)
