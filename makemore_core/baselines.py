"""How people train this net today, each written out in its own way: what `makemore bench` measures against.

They share nothing with the engines but the data, so that no slip of ours can slow a reference down.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from makemore_core.dataset import Split

JAX_SCRIPT = Path(__file__).with_name("baseline_jax.py")


class Shape(NamedTuple):
    """A net of `n_layer` hidden tanh layers with BatchNorm; `norm_output`: BatchNorm for the logits too."""

    n_layer: int
    n_hidden: int
    batch_size: int
    norm_output: bool
    vocabulary: int
    n_embd: int = 10
    block_size: int = 3

    @property
    def widths(self) -> list[int]:
        """Features from the embeddings to the logits."""
        return [self.n_embd * self.block_size, *[self.n_hidden] * self.n_layer, self.vocabulary]


# ---- the notebook of part 3, class by class


class Linear:
    def __init__(self, fan_in: int, fan_out: int, generator: torch.Generator, bias: bool = True) -> None:
        self.weight = torch.randn((fan_in, fan_out), generator=generator) / fan_in**0.5
        self.bias = torch.zeros(fan_out) if bias else None

    def __call__(self, x: Tensor) -> Tensor:
        self.out: Tensor = x @ self.weight
        if self.bias is not None:
            self.out += self.bias
        return self.out

    def parameters(self) -> list[Tensor]:
        return [self.weight] + ([] if self.bias is None else [self.bias])


class BatchNorm1d:
    def __init__(self, dim: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        self.eps = eps
        self.momentum = momentum
        self.gamma = torch.ones(dim)
        self.beta = torch.zeros(dim)
        self.running_mean = torch.zeros(dim)
        self.running_var = torch.ones(dim)

    def __call__(self, x: Tensor) -> Tensor:
        xmean = x.mean(0, keepdim=True)
        xvar = x.var(0, keepdim=True)
        xhat = (x - xmean) / torch.sqrt(xvar + self.eps)
        self.out = self.gamma * xhat + self.beta
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


class Notebook:
    """The loop of part 3: bare, or with its statistics (retain_grad and update ratios) at every step."""

    def __init__(self, shape: Shape, train: Split, statistics: bool = False) -> None:
        self.Xtr, self.Ytr = train
        self.batch_size, self.statistics = shape.batch_size, statistics
        self.g = torch.Generator().manual_seed(2147483647)
        self.C = torch.randn((shape.vocabulary, shape.n_embd), generator=self.g)
        self.layers: list[Linear | BatchNorm1d | Tanh] = []
        for fan_in, fan_out in zip(shape.widths[:-2], shape.widths[1:-1], strict=True):
            self.layers += [Linear(fan_in, fan_out, self.g, bias=False), BatchNorm1d(fan_out), Tanh()]
        last = Linear(shape.n_hidden, shape.vocabulary, self.g, bias=not shape.norm_output)
        self.layers += [last, BatchNorm1d(shape.vocabulary)] if shape.norm_output else [last]
        self.layers[-1].parameters()[0].mul_(0.1)  # last layer: make less confident
        self.parameters = [self.C] + [p for layer in self.layers for p in layer.parameters()]
        for p in self.parameters:
            p.requires_grad = True

    def run(self, steps: int) -> None:
        """So many iterations of the notebook's cell."""
        lossi, ud = [], []
        for i in range(steps):
            ix = torch.randint(0, self.Xtr.shape[0], (self.batch_size,), generator=self.g)
            Xb, Yb = self.Xtr[ix], self.Ytr[ix]
            emb = self.C[Xb]
            x = emb.view(emb.shape[0], -1)
            for layer in self.layers:
                x = layer(x)
            loss = F.cross_entropy(x, Yb)
            if self.statistics:
                for layer in self.layers:
                    layer.out.retain_grad()
            for p in self.parameters:
                p.grad = None
            loss.backward()  # type: ignore[no-untyped-call]
            lr = 0.1 if i < 150000 else 0.01
            for p in self.parameters:
                assert p.grad is not None
                p.data += -lr * p.grad
            lossi.append(loss.log10().item())
            if self.statistics:
                with torch.no_grad():
                    ud.append([_update_ratio(lr, p) for p in self.parameters])


def _update_ratio(lr: float, p: Tensor) -> float:
    assert p.grad is not None
    return float(((lr * p.grad).std() / p.data.std()).log10().item())


class OneLayer:
    """The earlier loop of part 3: one hidden layer with BatchNorm, written out without classes."""

    def __init__(self, shape: Shape, train: Split) -> None:
        self.Xtr, self.Ytr = train
        self.batch_size = shape.batch_size
        self.g = torch.Generator().manual_seed(2147483647)
        hidden, g = shape.n_hidden, self.g
        self.C = torch.randn((shape.vocabulary, shape.n_embd), generator=g)
        fan_in = shape.widths[0]
        self.W1 = torch.randn((fan_in, hidden), generator=g) * (5 / 3) / (fan_in**0.5)
        self.W2 = torch.randn((hidden, shape.vocabulary), generator=g) * 0.01
        self.b2 = torch.zeros(shape.vocabulary)
        self.bngain, self.bnbias = torch.ones((1, hidden)), torch.zeros((1, hidden))
        self.bnmean_running, self.bnstd_running = torch.zeros((1, hidden)), torch.ones((1, hidden))
        self.parameters = [self.C, self.W1, self.W2, self.b2, self.bngain, self.bnbias]
        for p in self.parameters:
            p.requires_grad = True

    def run(self, steps: int) -> None:
        """So many iterations of the notebook's cell."""
        lossi = []
        for i in range(steps):
            ix = torch.randint(0, self.Xtr.shape[0], (self.batch_size,), generator=self.g)
            Xb, Yb = self.Xtr[ix], self.Ytr[ix]
            emb = self.C[Xb]
            embcat = emb.view(emb.shape[0], -1)
            hpreact = embcat @ self.W1
            bnmeani = hpreact.mean(0, keepdim=True)
            bnstdi = hpreact.std(0, keepdim=True)
            hpreact = self.bngain * (hpreact - bnmeani) / bnstdi + self.bnbias
            with torch.no_grad():
                self.bnmean_running = 0.999 * self.bnmean_running + 0.001 * bnmeani
                self.bnstd_running = 0.999 * self.bnstd_running + 0.001 * bnstdi
            h = torch.tanh(hpreact)
            logits = h @ self.W2 + self.b2
            loss = F.cross_entropy(logits, Yb)
            for p in self.parameters:
                p.grad = None
            loss.backward()  # type: ignore[no-untyped-call]
            lr = 0.1 if i < 100000 else 0.01
            for p in self.parameters:
                assert p.grad is not None
                p.data += -lr * p.grad
            lossi.append(loss.log10().item())


class Modules:
    """The same net of torch.nn's modules, moved by `optim.SGD`."""

    def __init__(self, shape: Shape, train: Split, device: str = "cpu") -> None:
        self.x, self.y = train.x.to(device), train.y.to(device)
        self.batch_size = shape.batch_size
        layers: list[nn.Module] = [nn.Embedding(shape.vocabulary, shape.n_embd), nn.Flatten()]
        for fan_in, fan_out in zip(shape.widths[:-2], shape.widths[1:-1], strict=True):
            layers += [nn.Linear(fan_in, fan_out, bias=False), nn.BatchNorm1d(fan_out), nn.Tanh()]
        layers.append(nn.Linear(shape.n_hidden, shape.vocabulary, bias=not shape.norm_output))
        if shape.norm_output:
            layers.append(nn.BatchNorm1d(shape.vocabulary))
        self.model = nn.Sequential(*layers).to(device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def run(self, steps: int) -> None:
        """So many updates."""
        for _ in range(steps):
            ix = torch.randint(0, len(self.y), (self.batch_size,), device=self.y.device)
            loss = F.cross_entropy(self.model(self.x[ix]), self.y[ix])
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()


class Jax:
    """`lax.scan` over the same step, in a process of its own: this Python's jax, or that of $MAKEMORE_JAX_PYTHON.

    Raises ValueError where neither has jax.
    """

    def __init__(self, shape: Shape, train: Split) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="makemore-bench-")
        data = Path(self._folder.name) / "train.npz"
        np.savez(data, x=train.x.numpy().astype(np.int32), y=train.y.numpy().astype(np.int32))
        python = os.environ.get("MAKEMORE_JAX_PYTHON") or sys.executable
        flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        self._process = subprocess.Popen(
            [python, str(JAX_SCRIPT), str(data), json.dumps(shape._asdict())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        )
        said = self._read()
        if not said:
            self.close()
            raise ValueError("jax is not installed; MAKEMORE_JAX_PYTHON may name a Python that has it")
        self.version = said

    def time(self, steps: int) -> float:
        """Seconds for so many updates."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return float(self._read())

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._folder.cleanup()


def stopwatch(run: object, steps: int) -> float:
    """Seconds that `run.run(steps)` takes."""
    assert isinstance(run, Notebook | OneLayer | Modules)
    began = time.perf_counter()
    run.run(steps)
    return time.perf_counter() - began
