"""How a net is moved by some updates: the lecture's way with autograd, and with the backward pass by hand.

Every engine changes the same tensors in place and draws nothing itself, so one can take over from another between
two updates.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore_core.dataset import Split
from makemore_core.model import Model
from makemore_core.optim import Optimizer


class Taps(NamedTuple):
    """What the last update left to look at, by `model.leaves()` and `model.parameters()`.

    `outs` (B, F) and `gradients` (B, F), d loss / d out, per brick; `updates`, the gradient of each parameter;
    `before`, each parameter before the update.
    """

    outs: list[Tensor]
    gradients: list[Tensor]
    updates: list[Tensor]
    before: list[Tensor]


class Engine(Protocol):
    """Moves the parameters of a net in place.

    `fixed`: the fields of a configuration that may change on a live net and that it reads only when it is made.
    """

    name: str
    fixed: frozenset[str]

    def advance(self, batches: Tensor, rates: list[float], tap: bool) -> Tensor:
        """Run one update for each row of `batches` (n, B), which holds indices of training examples.

        `rates` are the n learning rates. Returns the n losses. With `tap` the last update can be looked at.
        """

    def taps(self) -> Taps:
        """The last update, if it was run with `tap`."""


class PlainEngine:
    """The reference: forward, autograd, update, in the lecture's order of operations (part 3)."""

    name = "plain"
    fixed: frozenset[str] = frozenset()

    def __init__(self, model: Model, optimizer: Optimizer, train: Split) -> None:
        self.model, self.optimizer, self.train = model, optimizer, train
        self._taps: Taps | None = None

    def advance(self, batches: Tensor, rates: list[float], tap: bool) -> Tensor:
        with requires_grad(self.model.parameters()):
            losses = [self._step(batch, lr, False) for batch, lr in zip(batches[:-1], rates[:-1], strict=True)]
            losses.append(self._step(batches[-1], rates[-1], tap))
        return torch.stack(losses)

    def _step(self, batch: Tensor, lr: float, tap: bool) -> Tensor:
        loss = F.cross_entropy(self.model(self.train.x[batch]), self.train.y[batch])
        outs = [leaf.out for leaf in self.model.leaves()] if tap else []
        for out in outs:
            out.retain_grad()
        parameters = self.model.parameters()
        for parameter in parameters:
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        before = [p.detach().clone() for p in parameters] if tap else []
        self.optimizer.update(lr)
        if tap:
            gradients = [gradient_of(out) for out in outs]
            updates = [gradient_of(p) for p in parameters]
            self._taps = Taps([out.detach() for out in outs], gradients, updates, before)
        return loss.detach()

    def taps(self) -> Taps:
        assert self._taps is not None
        return self._taps


class ManualEngine(PlainEngine):
    """The same with the backward pass by hand, brick by brick, without autograd (part 4, exercise 4)."""

    name = "manual"

    @torch.no_grad()
    def _step(self, batch: Tensor, lr: float, tap: bool) -> Tensor:
        model, target = self.model, self.train.y[batch]
        logits = model(self.train.x[batch])
        loss = F.cross_entropy(logits, target)
        model.backward(cross_entropy_backward(logits, target))
        before = [p.clone() for p in model.parameters()] if tap else []
        self.optimizer.update(lr)
        if tap:
            leaves = model.leaves()
            gradients = [gradient_of(p) for p in model.parameters()]
            self._taps = Taps([leaf.out for leaf in leaves], [leaf.dout for leaf in leaves], gradients, before)
        return loss


def cross_entropy_backward(logits: Tensor, target: Tensor) -> Tensor:
    """d loss / d logits (B, V) of the mean cross-entropy, in one expression (part 4, exercise 2)."""
    dlogits = F.softmax(logits, 1)
    dlogits[range(len(target)), target] -= 1
    return dlogits / len(target)


@contextlib.contextmanager
def requires_grad(tensors: list[Tensor]) -> Iterator[None]:
    """Autograd follows what is made of these tensors within, and only there."""
    for tensor in tensors:
        tensor.requires_grad_(True)
    try:
        yield
    finally:
        for tensor in tensors:
            tensor.requires_grad_(False)


def gradient_of(tensor: Tensor) -> Tensor:
    """What the last backward pass left there, autograd's or the one by hand."""
    assert tensor.grad is not None
    return tensor.grad
