"""What every exhibit needs: options read strictly, the coming minibatches, and a pass through a copy of the net.

It stands alone because an exhibit must leave a run as it was, and here is how.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TypeAlias, TypeVar

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

from makemore_core.config import Value
from makemore_core.dataset import Split
from makemore_core.engine import requires_grad
from makemore_core.model import Model
from makemore_core.optim import Optimizer
from makemore_core.trainer import Trainer

Options: TypeAlias = Mapping[str, Value]
T = TypeVar("T")
Parts: TypeAlias = Generator[None, None, T]  # ends with its answer, and yields wherever the run may go on meanwhile
Maker: TypeAlias = Callable[[Trainer, Options], Parts[msgspec.Struct]]  # of one exhibit

DRAWN = 1_000_000  # indices that are held at once
OWN_SEED = 2147483647 + 20  # of everything that an exhibit draws


def whole(options: Options, name: str, default: int, low: int, high: int) -> int:
    """A whole number from the options, or what is allowed that is nearest to `default`.

    Raises ValueError naming it, its value and what is allowed.
    """
    value = options.get(name, min(max(low, default), high))
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name}={value}: has to be a whole number from {low:,} to {high:,}")
    return value


def real(options: Options, name: str, default: float, low: float, high: float) -> float:
    """A number from the options, or `default`. Raises ValueError naming it, its value and what is allowed."""
    value = options.get(name, default)
    if isinstance(value, bool | str) or not low <= value <= high:
        raise ValueError(f"{name}={value}: has to be a number from {low:g} to {high:g}")
    return float(value)


def copy_of(trainer: Trainer) -> Trainer:
    """A copy that stays as it is while the run goes on: net, optimiser, generator, settings and step."""
    copied = copy.copy(trainer)
    copied.model = trainer.model.clone()
    copied.optimizer = Optimizer(trainer.config, copied.model.parameters())
    copied.optimizer.state = [[slot.clone() for slot in slots] for slots in trainer.optimizer.state]
    copied.optimizer.count = trainer.optimizer.count
    copied.generator = torch.Generator().set_state(trainer.generator.get_state())
    return copied


def at_once(parts: Parts[T]) -> T:
    """What it comes to, where nothing has to go on meanwhile."""
    while True:
        try:
            next(parts)
        except StopIteration as done:
            answer: T = done.value
            return answer


def in_one(look: Callable[[Trainer, Options], T]) -> Callable[[Trainer, Options], Parts[T]]:
    """An exhibit in a single part, for it takes no longer than a few updates."""

    def parts(trainer: Trainer, options: Options) -> Parts[T]:
        yield from ()
        return look(trainer, options)

    return parts


def present_batch(trainer: Trainer, examples: int | None = None) -> Split:
    """The minibatch that the next update will see, or as many examples drawn in its stead."""
    batch = next(upcoming(trainer, 1, examples or trainer.config.batch_size))[0]
    return Split(trainer.train.x[batch], trainer.train.y[batch])


def upcoming(trainer: Trainer, n: int, size: int) -> Iterator[Tensor]:
    """The `n` minibatches of `size` indices that training would draw next, from a copy of its generator.

    As many (k, size) at a time as make up at most `DRAWN` indices, at least one.
    """
    generator = torch.Generator().set_state(trainer.generator.get_state())
    most = max(1, DRAWN // size)
    for first in range(0, n, most):
        yield trainer.minibatches(generator, trainer.step + first, min(most, n - first), size)


def floats(tensor: Tensor) -> list[float]:
    """The numbers of a tensor, in order."""
    return [float(x) for x in tensor.detach().flatten().tolist()]


def train_pass(net: Model, x: Tensor, y: Tensor) -> list[Tensor]:
    """Forward and backward with autograd as in training, on a net that may be disturbed; what each brick gave."""
    with requires_grad(net.parameters()):
        loss = F.cross_entropy(net(x), y)
        outs = [leaf.out for leaf in net.leaves()]
        for out in outs:
            out.retain_grad()
        loss.backward()  # type: ignore[no-untyped-call]
    return outs
