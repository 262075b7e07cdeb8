"""The engine for a GPU: many whole training steps captured in one CUDA graph, replayed with one launch.

A net this small leaves a GPU waiting for its next kernel; a graph takes Python out of the way, and the fused
normalisations of torch leave fewer kernels to wait for. The steps themselves run on any device, so that they are
tested without a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore_core.config import Config
from makemore_core.dataset import Split
from makemore_core.engine import Taps
from makemore_core.layers import BatchNorm1d, Brick, GroupNorm, Residual
from makemore_core.model import Model
from makemore_core.optim import Optimizer

SIZES = (64, 8, 1)  # steps in a graph; any number of steps is a few replays


Result = TypeVar("Result")


class Replayed(Protocol):
    """Work that has been captured."""

    def replay(self) -> None:
        """Do it again, on what its inputs hold by now and into the results that it gave."""


class _Captured(NamedTuple):
    """A graph, where its inputs are to be written, and where its results lie after a replay."""

    graph: Replayed
    batches: Tensor
    factors: Tensor
    losses: Tensor
    taps: Taps | None


class GraphEngine:
    """An `Engine` for nets and data on a GPU. Raises ValueError, in one line, where nothing can be captured."""

    name = "graph"
    fixed = frozenset({"batch_size", "momentum", "beta1", "beta2", "optimizer_eps", "norm_momentum"})

    def __init__(self, model: Model, optimizer: Optimizer, train: Split) -> None:
        self.model, self.optimizer, self.train = model, optimizer, train
        self._graphs: dict[tuple[int, int, bool], _Captured] = {}
        self._taps: Taps | None = None
        try:
            self._graph(1, optimizer.config.batch_size, True)
        except RuntimeError as error:
            raise ValueError(f"no CUDA graphs: {str(error).partition(chr(10))[0]}") from None

    def advance(self, batches: Tensor, rates: list[float], watch: bool) -> Tensor:
        factors = update_factors(self.optimizer, rates).to(batches.device, non_blocking=True)
        losses: list[Tensor] = []
        done, n = 0, len(batches)
        while done < n:
            watched = watch and done == n - 1
            size = next(size for size in SIZES if size <= n - done - (watch and not watched))
            captured = self._graph(size, batches.shape[1], watched)
            captured.batches.copy_(batches[done : done + size])
            captured.factors.copy_(factors[done : done + size])
            captured.graph.replay()
            losses.append(captured.losses.clone())
            self._taps = captured.taps or self._taps
            done += size
        self.optimizer.count += n
        return torch.cat(losses)

    def taps(self) -> Taps:
        assert self._taps is not None
        return self._taps

    def _graph(self, size: int, batch: int, watched: bool) -> _Captured:
        key = (size, batch, watched)
        if key not in self._graphs:
            self._graphs[key] = self._capture(size, batch, watched)
        return self._graphs[key]

    def _capture(self, size: int, batch: int, watched: bool) -> _Captured:
        device = self.train.x.device
        batches = torch.zeros((size, batch), dtype=torch.int64, device=device)
        factors = torch.zeros((size, 3), device=device)
        kept = [*self.model.parameters(), *self.model.buffers(), *(s for slots in self.optimizer.state for s in slots)]
        before = [tensor.clone() for tensor in kept]
        graph, (losses, taps) = capture(
            lambda: steps(self.model, self.optimizer, self.train, batches, factors, watched), device
        )
        for tensor, value in zip(kept, before, strict=True):
            tensor.copy_(value)
        return _Captured(graph, batches, factors, losses, taps)


def capture(work: Callable[[], Result], device: torch.device) -> tuple[Replayed, Result]:
    """Work as a graph, and where its results will lie. It is done once on the way, outside of the graph, so that the
    libraries are loaded. Raises RuntimeError where it cannot be captured.
    """
    if device.type != "cuda":
        raise RuntimeError("the net is not on a GPU")
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return graph, result


# ---- the steps that are captured


def steps(
    model: Model, optimizer: Optimizer, train: Split, batches: Tensor, factors: Tensor, watch: bool
) -> tuple[Tensor, Taps | None]:
    """One update for each row of `batches` (n, B) with its row of `factors` (n, 3): the losses (n,), and with `watch`
    the taps of the last one. Nothing in it waits for the device or depends on the host's clock or counters.
    """
    parameters = model.parameters()
    losses, taps = [], None
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        for i in range(len(batches)):
            watched = watch and i == len(batches) - 1
            logits, outs = forward(model, train.x[batches[i]])
            loss = F.cross_entropy(logits, train.y[batches[i]])
            gradients = list(torch.autograd.grad(loss, parameters + outs if watched else parameters))
            before = [p.detach().clone() for p in parameters] if watched else []
            update(optimizer, gradients[: len(parameters)], factors[i])
            losses.append(loss.detach())
            if watched:
                own, at_outs = gradients[: len(parameters)], gradients[len(parameters) :]
                taps = Taps([out.detach() for out in outs], at_outs, own, before)
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
    return torch.stack(losses), taps


def forward(model: Model, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Contexts (B, T) -> logits (B, V), with torch's fused normalisations, and the out of every brick."""
    out = F.embedding(x, model.embedding.weight).flatten(1)
    outs: list[Tensor] = []
    for layer in model.layers:
        start = out
        for leaf in layer.leaves():
            out = _through(leaf, out)
            outs.append(out)
        if isinstance(layer, Residual):
            out = start + out
    return out, outs


def _through(brick: Brick, x: Tensor) -> Tensor:
    if isinstance(brick, BatchNorm1d):
        # The unbiased variance is n/(n-1) times the biased one: torch's normalisation with a smaller eps and gamma.
        share = (len(x) - 1) / len(x) if brick.unbiased else 1.0
        gamma = brick.gamma * math.sqrt(share) if brick.unbiased else brick.gamma
        running = brick.running_mean, brick.running_var
        return F.batch_norm(x, *running, gamma, brick.beta, True, brick.momentum, brick.eps * share)
    if isinstance(brick, GroupNorm):
        return F.group_norm(x, brick.num_groups, brick.gamma, brick.beta, brick.eps)
    return brick.infer(x)


def update_factors(optimizer: Optimizer, rates: list[float]) -> Tensor:
    """What each of the coming updates multiplies with (n, 3): the step, 1 / the root of adam's correction, decay."""
    config, rows = optimizer.config, []
    for t, lr in enumerate(rates, start=optimizer.count + 1):
        adam = config.optimizer in ("adam", "adamw")
        step = lr / (1 - config.beta1**t) if adam else lr
        root = 1 / math.sqrt(1 - config.beta2**t) if adam else 1.0
        rows.append((step, root, 1 - lr * config.weight_decay if config.optimizer == "adamw" else 1.0))
    return torch.tensor(rows)


@torch.no_grad()
def update(optimizer: Optimizer, gradients: list[Tensor], factors: Tensor) -> None:
    """`Optimizer.update` with its numbers on the device, for all parameters at once."""
    config, parameters = optimizer.config, optimizer.parameters
    step, root, decay = factors.unbind()
    slots = [list(slot) for slot in zip(*optimizer.state, strict=True)]
    direction = gradients
    match config.optimizer:
        case "momentum":
            torch._foreach_mul_(slots[0], config.momentum)
            torch._foreach_add_(slots[0], gradients)
            direction = slots[0]
        case "rmsprop":
            direction = _over_root(gradients, _mean_square(slots[0], gradients, config), None, config)
        case "adam" | "adamw":
            if config.optimizer == "adamw":
                torch._foreach_mul_(parameters, decay)
            torch._foreach_lerp_(slots[0], gradients, 1 - config.beta1)
            direction = _over_root(slots[0], _mean_square(slots[1], gradients, config), root, config)
    torch._foreach_sub_(parameters, torch._foreach_mul(direction, step))


def _mean_square(mean: list[Tensor], gradients: list[Tensor], config: Config) -> list[Tensor]:
    torch._foreach_mul_(mean, config.beta2)
    torch._foreach_addcmul_(mean, gradients, gradients, 1 - config.beta2)
    return mean


def _over_root(above: list[Tensor], square: list[Tensor], root: Tensor | None, config: Config) -> list[Tensor]:
    below = list(torch._foreach_sqrt(square))
    if root is not None:
        torch._foreach_mul_(below, root)
    torch._foreach_add_(below, config.optimizer_eps)
    return list(torch._foreach_div(above, below))
