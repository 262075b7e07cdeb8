"""The engine for a GPU: many whole training steps captured in one CUDA graph, replayed with one launch.

A net this small leaves a GPU waiting for its next kernel; a graph takes Python out of the way, and the kernels of
`fused.py` take over from torch's when they have been compiled and agree with them on this machine. The steps
themselves run on any device, so that they are tested without a GPU.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore_core.config import Config
from makemore_core.dataset import Split
from makemore_core.engine import Taps
from makemore_core.layers import BatchNorm1d, Brick, GroupNorm, Residual
from makemore_core.model import Model
from makemore_core.optim import Optimizer

if TYPE_CHECKING:
    from makemore_core.fused import Fused  # needs triton, which comes with torch's builds for a GPU

SIZES = (64, 8, 1)  # steps in a graph; any number of steps is a few replays
GRAPHS = ((1, True), *((size, False) for size in SIZES))  # the last step of a call may be watched


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
    """An `Engine` for nets and data on a GPU. Raises ValueError, in one line, where nothing can be captured.

    It begins with torch's kernels. With `fuse`, the fused ones are compiled by a thread, `compiling`, and take over
    between two calls; the name of the engine is "fused" from then on.
    """

    fixed = frozenset({"batch_size", "momentum", "beta1", "beta2", "optimizer_eps", "norm_momentum"})

    def __init__(self, model: Model, optimizer: Optimizer, train: Split, *, fuse: bool = True) -> None:
        self.model, self.optimizer, self.train = model, optimizer, train
        self.name = "graph"
        self.problem = ""  # why there are no fused kernels, in one line
        self._taps: Taps | None = None
        self._compiled: Fused | None = None
        try:
            self._graphs = {(size, watched): self._capture(size, watched) for size, watched in GRAPHS}
        except RuntimeError as error:
            raise ValueError(f"no CUDA graphs: {_first_line(error)}") from None
        # No daemon: an interpreter that ends while it is in the midst of triton's C++ aborts.
        shapes = model.clone().to(torch.device("meta"))
        self.compiling = threading.Thread(target=self._compile, args=(shapes,), name="kernels", daemon=False)
        if fuse:
            self.compiling.start()

    def _compile(self, shapes: Model) -> None:
        # On the meta device, because a thread that asked the GPU for memory would spoil a capture.
        try:
            from makemore_core.fused import Fused

            Fused(shapes, Split(*(part.to("meta") for part in self.train))).compile(self.optimizer.config.batch_size)
            self._compiled = Fused(self.model, self.train)
        except Exception as error:  # no triton, no compiler for it, a net that it does not know: torch's kernels stay
            self.problem = f"no fused kernels: {_first_line(error)}"

    def _take_over(self, fused: Fused, batch: Tensor) -> None:
        try:
            if not agrees(fused, batch):
                raise RuntimeError("their gradients are not those of torch on this GPU")
            self._graphs |= {
                (size, watched): self._capture(size, watched, fused) for size, watched in GRAPHS if not watched
            }
            self.name = "fused"
        except Exception as error:  # triton's own are no RuntimeError, nor is a C compiler that fails
            self.problem = f"no fused kernels: {_first_line(error)}"

    def advance(self, batches: Tensor, rates: list[float], watch: bool) -> Tensor:
        if self._compiled is not None:
            fused, self._compiled = self._compiled, None
            self._take_over(fused, batches[0])
        factors = update_factors(self.optimizer, rates).to(batches.device, non_blocking=True)
        losses: list[Tensor] = []
        done, n = 0, len(batches)
        while done < n:
            watched = watch and done == n - 1
            size = next(size for size in SIZES if size <= n - done - (watch and not watched))
            captured = self._graphs[size, watched]
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

    def _capture(self, size: int, watched: bool, fused: Fused | None = None) -> _Captured:
        """A graph of so many steps. The net stays as it is, also where nothing can be captured."""
        device, batch = self.train.x.device, self.optimizer.config.batch_size
        batches = rows(size, batch, device)
        factors = torch.zeros((size, 3), device=device)
        slots = [slot for slots in self.optimizer.state for slot in slots]
        with kept([*self.model.parameters(), *self.model.buffers(), *slots]):
            graph, (losses, taps) = capture(
                lambda: steps(self.model, self.optimizer, self.train, batches, factors, watched, fused), device
            )
        return _Captured(graph, batches, factors, losses, taps)


def capture(work: Callable[[], Result], device: torch.device) -> tuple[Replayed, Result]:
    """Work as a graph, and where its results will lie. It is done once on the way, outside of the graph, so that the
    libraries are loaded. Raises RuntimeError where it cannot be captured.
    """
    if device.type != "cuda":
        raise RuntimeError("the net is not on a GPU")
    here = torch.cuda.current_stream()
    try:
        side = _side()
        side.wait_stream(here)
        with torch.cuda.stream(side):
            work()
        here.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side):
            result = work()
    finally:  # a capture that breaks off leaves its own stream behind
        torch.cuda.set_stream(here)
    return graph, result


@functools.cache
def _side() -> torch.cuda.Stream:
    """Where all captures run, because cuBLAS keeps tens of megabytes for every stream that it has seen."""
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def kept(tensors: list[Tensor]) -> Iterator[None]:
    """Tensors that have the same values afterwards as before, whatever becomes of what is done with them."""
    before = [tensor.clone() for tensor in tensors]
    try:
        yield
    finally:
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


# ---- the steps that are captured


def rows(n: int, batch_size: int, device: torch.device) -> Tensor:
    """Room for `n` minibatches (n, B), each at a multiple of 16 bytes, for which the fused kernels are compiled."""
    return torch.zeros((n, batch_size + batch_size % 2), dtype=torch.int64, device=device)[:, :batch_size]


def steps(
    model: Model,
    optimizer: Optimizer,
    train: Split,
    batches: Tensor,
    factors: Tensor,
    watch: bool,
    fused: Fused | None = None,
) -> tuple[Tensor, Taps | None]:
    """One update for each row of `batches` (n, B) with its row of `factors` (n, 3): the losses (n,), and with `watch`
    the taps of the last one. Nothing in it waits for the device or depends on the host's clock or counters.
    """
    losses, taps = [], None
    for i in range(len(batches)):
        if watch and i == len(batches) - 1:
            loss, gradients, outs, at_outs = pull(model, train, batches[i], watch)
            taps = Taps(outs, at_outs, gradients, [parameter.clone() for parameter in model.parameters()])
        elif fused is not None:
            loss = torch.empty((), device=train.x.device)
            gradients = fused.gradients(batches[i], loss)
        else:
            loss, gradients, _, _ = pull(model, train, batches[i])
        update(optimizer, gradients, factors[i])
        losses.append(loss)
    return torch.stack(losses), taps


def pull(
    model: Model, train: Split, batch: Tensor, watch: bool = False
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    """By autograd: the loss of the examples `batch` (B,), the gradients of the parameters, and with `watch` the outs of
    all bricks and their gradients.
    """
    parameters = model.parameters()
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        logits, outs = forward(model, train.x[batch])
        loss = F.cross_entropy(logits, train.y[batch])
        gradients = list(torch.autograd.grad(loss, parameters + outs if watch else parameters))
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
    own, at_outs = gradients[: len(parameters)], gradients[len(parameters) :]
    return loss.detach(), own, [out.detach() for out in outs], at_outs


def agrees(fused: Fused, batch: Tensor) -> bool:
    """Whether the fused kernels give what torch's give for these examples, on this machine. The net stays as it is.

    Each tensor has a scale of its own, for in a deep net some are far smaller than others. One that is nothing but
    rounding, as the gradient of a bias before BatchNorm, is known by how far torch itself is from its float64.
    """
    model, loss = fused.model, torch.empty((), device=batch.device)
    exact = model.clone().to(torch.float64)
    with kept(model.buffers()):
        ours = [*fused.gradients(batch, loss), loss, *(buffer.clone() for buffer in model.buffers())]
    with kept(model.buffers()):
        theirs, truth = (_told(net, fused.train, batch) for net in (model, exact))
    return all(
        torch.allclose(a, b, rtol=0.0, atol=1e-3 * _largest(b) + 100 * _largest(b - x), equal_nan=True)
        for a, b, x in zip(ours, theirs, truth, strict=True)
    )


def _told(model: Model, train: Split, batch: Tensor) -> list[Tensor]:
    """Gradients and loss of these examples, then the running statistics, which they change."""
    loss, gradients, _, _ = pull(model, train, batch)
    return [*gradients, loss, *(buffer.clone() for buffer in model.buffers())]


def _largest(tensor: Tensor) -> float:
    return float(tensor.abs().max())


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
