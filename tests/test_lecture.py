"""The published numbers of part 3, and the notebook's own loop, written out again, as the reference for every digit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from makemore_core.dataset import Dataset, read
from makemore_core.model import sample
from makemore_core.presets import preset
from makemore_core.published import DEEP_LAYERS, DEEP_WEIGHTS, DeepWeight
from makemore_core.snapshot import Weight
from makemore_core.trainer import Trainer

SEED = 2147483647


def digits(number: float) -> str:
    """Five significant digits: what is promised of published numbers that are printed with seven."""
    return f"{number:.4e}"


# ---- the notebook, cell by cell, sharing no code with the program -------------------------------------------------


@dataclass
class Notebook:
    """Part 3 from reading the file to the minibatches."""

    path: str | Path

    def __post_init__(self) -> None:
        words = Path(self.path).read_text(encoding="utf-8").splitlines()
        chars = sorted(set("".join(words)))
        self.stoi = {s: i + 1 for i, s in enumerate(chars)}
        self.stoi["."] = 0
        self.itos = {i: s for s, i in self.stoi.items()}
        random.seed(42)
        random.shuffle(words)
        n1 = int(0.8 * len(words))
        n2 = int(0.9 * len(words))
        self.Xtr, self.Ytr = self.build_dataset(words[:n1])
        self.parts = {"train": words[:n1], "val": words[n1:n2], "test": words[n2:]}

    def build_dataset(self, words: list[str], block_size: int = 3) -> tuple[Tensor, Tensor]:
        X, Y = [], []
        for w in words:
            context = [0] * block_size
            for ch in w + ".":
                ix = self.stoi[ch]
                X.append(context)
                Y.append(ix)
                context = [*context[1:], ix]
        return torch.tensor(X), torch.tensor(Y)

    def begin(self) -> Notebook:
        """Weights and minibatches are drawn from the start again."""
        self.generator = torch.Generator().manual_seed(SEED)
        return self

    def minibatch(self) -> tuple[Tensor, Tensor]:
        ix = torch.randint(0, self.Xtr.shape[0], (32,), generator=self.generator)
        return self.Xtr[ix], self.Ytr[ix]

    def randn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)


class Linear:
    def __init__(self, notebook: Notebook, fan_in: int, fan_out: int, bias: bool = True) -> None:
        self.weight = notebook.randn(fan_in, fan_out) / fan_in**0.5
        self.bias = torch.zeros(fan_out) if bias else None

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x @ self.weight
        if self.bias is not None:
            self.out += self.bias
        return self.out

    def parameters(self) -> list[Tensor]:
        return [self.weight] + ([] if self.bias is None else [self.bias])


class BatchNorm1d:
    def __init__(self, dim: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        self.eps = eps
        self.momentum = momentum
        self.training = True
        self.gamma = torch.ones(dim)
        self.beta = torch.zeros(dim)
        self.running_mean = torch.zeros(dim)
        self.running_var = torch.ones(dim)

    def __call__(self, x: Tensor) -> Tensor:
        if self.training:
            xmean = x.mean(0, keepdim=True)
            xvar = x.var(0, keepdim=True)
        else:
            xmean = self.running_mean
            xvar = self.running_var
        xhat = (x - xmean) / torch.sqrt(xvar + self.eps)
        self.out = self.gamma * xhat + self.beta
        if self.training:
            with torch.no_grad():
                self.running_mean = (1 - self.momentum) * self.running_mean + self.momentum * xmean
                self.running_var = (1 - self.momentum) * self.running_var + self.momentum * xvar
        return self.out

    def parameters(self) -> list[Tensor]:
        return [self.gamma, self.beta]


class Tanh:
    def __call__(self, x: Tensor) -> Tensor:
        self.out = torch.tanh(x)
        return self.out

    def parameters(self) -> list[Tensor]:
        return []


class DeepNet:
    """Part 3, "Let's torch-ify the code now and train a deeper neural net"."""

    def __init__(self, notebook: Notebook, batchnorm: bool) -> None:
        self.notebook = notebook
        n_embd, n_hidden, vocab_size, block_size = 10, 100, len(notebook.itos), 3
        self.C = notebook.randn(vocab_size, n_embd)
        self.layers: list[Linear | BatchNorm1d | Tanh] = []
        fan_in = n_embd * block_size
        for fan_out in [n_hidden] * 5 + [vocab_size]:
            self.layers.append(Linear(notebook, fan_in, fan_out, bias=not batchnorm))
            if batchnorm:
                self.layers.append(BatchNorm1d(fan_out))
            if len(self.layers) < (17 if batchnorm else 11):
                self.layers.append(Tanh())
            fan_in = fan_out
        with torch.no_grad():
            last = self.layers[-1]
            if isinstance(last, BatchNorm1d):
                last.gamma *= 0.1
            elif isinstance(last, Linear):
                last.weight *= 0.1
            for layer in self.layers[:-1]:
                if isinstance(layer, Linear):
                    layer.weight *= 1.0 if batchnorm else 5 / 3
        self.parameters = [self.C] + [p for layer in self.layers for p in layer.parameters()]
        for p in self.parameters:
            p.requires_grad = True

    def forward(self, Xb: Tensor) -> Tensor:
        emb = self.C[Xb]
        x = emb.view(emb.shape[0], -1)
        for layer in self.layers:
            x = layer(x)
        return x

    def train(self) -> Iterator[float]:
        i = 0
        while True:
            Xb, Yb = self.notebook.minibatch()
            loss = F.cross_entropy(self.forward(Xb), Yb)
            for layer in self.layers:
                layer.out.retain_grad()
            for p in self.parameters:
                p.grad = None
            loss.backward()
            lr = 0.1 if i < 150000 else 0.01
            for p in self.parameters:
                p.data += -lr * p.grad
            i += 1
            yield loss.item()

    def samples(self, n: int) -> list[str]:
        for layer in self.layers:
            if isinstance(layer, BatchNorm1d):
                layer.training = False
        g = torch.Generator().manual_seed(SEED + 10)
        names = []
        for _ in range(n):
            out = []
            context = [0] * 3
            while True:
                logits = self.forward(torch.tensor([context]))
                probs = F.softmax(logits, dim=1)
                ix = torch.multinomial(probs, num_samples=1, generator=g).item()
                context = [*context[1:], ix]
                out.append(ix)
                if ix == 0:
                    break
            names.append("".join(self.notebook.itos[i] for i in out[:-1]))
        return names


def one_hidden_layer(notebook: Notebook, stage: str) -> Iterator[float]:
    """Part 3, the net of one hidden layer in its five stages, as plain expressions; yields the losses."""
    n_embd, n_hidden, vocab_size, block_size = 10, 200, len(notebook.itos), 3
    C = notebook.randn(vocab_size, n_embd)
    W1 = notebook.randn(n_embd * block_size, n_hidden)
    if stage == "mlp-tanh":
        W1 = W1 * 0.2
    if stage in ("mlp-kaiming", "mlp-batchnorm"):
        W1 = W1 * (5 / 3) / ((n_embd * block_size) ** 0.5)
    b1 = None if stage == "mlp-batchnorm" else notebook.randn(n_hidden)
    if b1 is not None and stage in ("mlp-tanh", "mlp-kaiming"):
        b1 = b1 * 0.01
    W2 = notebook.randn(n_hidden, vocab_size)
    b2 = notebook.randn(vocab_size)
    if stage != "mlp-original":
        W2, b2 = W2 * 0.01, b2 * 0
    bngain, bnbias = torch.ones((1, n_hidden)), torch.zeros((1, n_hidden))
    parameters = [C, W1, W2, b2] + ([bngain, bnbias] if b1 is None else [b1])
    for p in parameters:
        p.requires_grad = True
    i = 0
    while True:
        Xb, Yb = notebook.minibatch()
        emb = C[Xb]
        hpreact = emb.view(emb.shape[0], -1) @ W1
        if b1 is None:
            hpreact = bngain * (hpreact - hpreact.mean(0, keepdim=True)) / hpreact.std(0, keepdim=True) + bnbias
        else:
            hpreact = hpreact + b1
        loss = F.cross_entropy(torch.tanh(hpreact) @ W2 + b2, Yb)
        for p in parameters:
            p.grad = None
        loss.backward()
        lr = 0.1 if i < 100000 else 0.01
        for p in parameters:
            p.data += -lr * p.grad
        i += 1
        yield loss.item()


# ---- the program against the notebook, on the embedded names ------------------------------------------------------


@pytest.fixture(scope="module")
def cells(names: Dataset) -> Notebook:
    return Notebook(names.path)


def trainer(name: str, dataset: Dataset, **changes: int | float | bool | str) -> Trainer:
    return Trainer(preset(name).config().replace({"engine": "plain", "device": "cpu"} | changes), dataset)


@pytest.mark.parametrize("name", ["deep-batchnorm", "deep-tanh"])
def test_the_deep_nets_losses_and_names_are_the_notebooks_bit_for_bit(
    name: str, names: Dataset, cells: Notebook
) -> None:
    net = DeepNet(cells.begin(), batchnorm=name == "deep-batchnorm")
    losses = net.train()
    ours = trainer(name, names)
    assert ours.advance(100) + ours.advance(200, tap=True) == [next(losses) for _ in range(300)]

    statistics = ours.probe({})
    outs = {i: layer.out for i, layer in enumerate(net.layers) if isinstance(layer, Tanh)}
    assert [layer.index for layer in statistics.layers] == list(outs)
    for layer in statistics.layers:
        out = outs[layer.index]
        assert layer.kind == "Tanh"
        assert layer.activation.mean == pytest.approx(out.mean().item(), abs=1e-7)
        assert layer.activation.std == pytest.approx(out.std().item(), rel=1e-6)
        assert layer.activation.saturated == pytest.approx((out.abs() > 0.97).float().mean().item(), rel=1e-6)
        assert layer.gradient.std == pytest.approx(out.grad.std().item(), rel=1e-6)
    matrices = [p for p in net.parameters if p.ndim == 2]
    assert [weight.shape for weight in statistics.weights] == [tuple(p.shape) for p in matrices]
    for weight, p in zip(statistics.weights, matrices, strict=True):
        assert weight.grad_data_ratio == pytest.approx((p.grad.std() / p.std()).item(), rel=1e-6)

    assert list(sample(ours.model, names, 3)) == net.samples(20)


@pytest.mark.parametrize("name", ["mlp-original", "mlp-softmax", "mlp-tanh"])
def test_the_one_layer_nets_losses_are_the_notebooks_bit_for_bit(name: str, names: Dataset, cells: Notebook) -> None:
    losses = one_hidden_layer(cells.begin(), name)
    assert trainer(name, names).advance(200) == [next(losses) for _ in range(200)]


@pytest.mark.parametrize("name", ["mlp-kaiming", "mlp-batchnorm"])
def test_the_one_layer_nets_written_in_another_order_agree_within_rounding(
    name: str, names: Dataset, cells: Notebook
) -> None:
    # the notebook multiplies by 5/3 before it divides by sqrt(fan_in), and its first BatchNorm has no epsilon
    losses = one_hidden_layer(cells.begin(), name)
    assert trainer(name, names).advance(100) == pytest.approx([next(losses) for _ in range(100)], abs=1e-4)


def test_how_the_updates_are_grouped_makes_no_difference(names: Dataset) -> None:
    one_by_one, at_once = trainer("deep-batchnorm", names), trainer("deep-batchnorm", names)
    assert [loss for _ in range(64) for loss in one_by_one.advance(1)] == at_once.advance(64)


# ---- the published numbers, on the lectures' names ----------------------------------------------------------------


@pytest.fixture(scope="module")
def lecture(lecture_names: Path) -> Dataset:
    return read(lecture_names)


def test_split_sizes(lecture: Dataset) -> None:
    assert lecture.vocabulary == 27
    sizes = [len(lecture.examples(items, 3).y) for items in (lecture.train, lecture.val, lecture.test)]
    assert sizes == [182_625, 22_655, 22_866]


def test_the_split_is_the_notebooks(lecture: Dataset) -> None:
    notebook = Notebook(lecture.path)
    assert {"train": [*lecture.train], "val": [*lecture.val], "test": [*lecture.test]} == notebook.parts
    split = lecture.examples(lecture.train, 3)
    assert torch.equal(split.x, notebook.Xtr)
    assert torch.equal(split.y, notebook.Ytr)


def test_the_six_layer_table(lecture: Dataset) -> None:
    deep = trainer("deep-batchnorm", lecture)
    assert count(deep) == 47_024
    losses = deep.advance(1001, tap=True)
    assert f"{losses[0]:.4f}" == "3.2870"
    statistics = deep.probe({})

    def printed(index: int, mean: float, std: float, saturated: float, gradient_std: float) -> tuple[object, ...]:
        return index, f"{mean:+.2f}", f"{std:.2f}", f"{saturated:.2%}", digits(gradient_std)

    def line(weight: Weight | DeepWeight) -> tuple[object, ...]:
        return weight.shape, digits(weight.grad_std), digits(weight.grad_data_ratio)

    tanhs = [(layer.index, layer.activation, layer.gradient) for layer in statistics.layers]
    measured = [printed(index, out.mean, out.std, out.saturated, gradient.std) for index, out, gradient in tanhs]
    assert measured == [printed(*published) for published in DEEP_LAYERS]
    assert list(map(line, statistics.weights)) == list(map(line, DEEP_WEIGHTS))


@pytest.mark.parametrize(
    ("name", "first", "within"),
    [
        ("mlp-original", 27.5, 0.5),
        ("mlp-softmax", 3.32, 0.005),
        ("mlp-tanh", 3.3, 0.05),
        ("mlp-kaiming", 3.3, 0.05),
        ("mlp-batchnorm", 3.3239, 0.00005),
    ],
)
def test_first_losses_of_one_hidden_layer(name: str, first: float, within: float, lecture: Dataset) -> None:
    assert trainer(name, lecture).advance(1)[0] == pytest.approx(first, abs=within)


def test_parameters_of_the_one_layer_nets(lecture: Dataset) -> None:
    part_3 = preset("mlp-batchnorm").config()
    part_4 = part_3.replace({"n_hidden": 64, "bias": "on"})  # b1 is kept there, useless as it is
    assert [count(Trainer(config, lecture)) for config in (part_3, part_4)] == [12_097, 4_137]


def count(trainer: Trainer) -> int:
    return sum(p.numel() for p in trainer.model.parameters())
