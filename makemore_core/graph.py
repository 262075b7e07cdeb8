"""The engine for a GPU: many whole training steps captured in one CUDA graph, replayed with one launch.

A net this small leaves a GPU waiting for its next kernel; a graph takes Python out of the way, and the kernels of
`fused.py` take over from torch's when they have been compiled and agree with them on this machine. The steps
themselves run on any device, so that they are tested without a GPU.
"""

from __future__ import annotations

import contextlib
import gc
import math
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore_core.config import Config
from makemore_core.dataset import Split
from makemore_core.engine import Taps, requires_grad
from makemore_core.layers import BatchNorm1d, Brick, GroupNorm, Residual
from makemore_core.model import Model
from makemore_core.optim import Optimizer

SIZES = (64, 8, 1)  # steps in a graph; any number of steps is a few replays
GRAPHS = ((1, True), *((size, False) for size in SIZES))  # the last step of a call may be tapped


# One net's at a time: the next one finds most of them on disk. The end of the interpreter waits for its thread, which
# would abort in the midst of triton's C++.
COMPILER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kernels")

Result = TypeVar("Result")


class Gradients(Protocol):
    """What gives the gradients of a net's parameters for the examples `batch` (B,), and writes the loss."""

    model: Model
    train: Split

    def gradients(self, batch: Tensor, loss: Tensor) -> list[Tensor]:
        """In the order of `model.parameters()`."""


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

    It begins with torch's kernels. With `fuse`, the fused ones are compiled meanwhile, `compiling`, and take over
    between two calls if they agree with torch's on this machine and are faster; its name is "fused" from then on.
    """

    fixed = frozenset({"batch_size", "momentum", "beta1", "beta2", "optimizer_eps", "norm_momentum"})

    def __init__(self, model: Model, optimizer: Optimizer, train: Split, *, fuse: bool = True) -> None:
        self.model, self.optimizer, self.train = model, optimizer, train
        self.name = "graph"
        self.problem = ""  # why there are no fused kernels, in one line
        self._taps: Taps | None = None
        self.compiling: Future[None] | None = None
        try:
            self._graphs = self._capture_all()
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"no CUDA graphs: {_first_line(error)}") from None
        if fuse:
            # Of shapes alone: a thread that asked the GPU for memory would spoil a capture, and one that held this
            # engine could be the last to let go of its graphs, which would spoil another engine's.
            shapes = model.clone().to(torch.device("meta")), Split(*(part.to("meta") for part in train))
            self.compiling = COMPILER.submit(_compile, *shapes, optimizer.config.batch_size)
            weakref.finalize(self, self.compiling.cancel)

    def _take_over(self, compiled: Future[None], batch: Tensor) -> None:
        failed = compiled.exception()  # not raised: its traceback would hold this engine, and `finalize` holds it
        if failed is not None:
            self.problem = f"no fused kernels: {_first_line(failed)}"
            return
        try:
            from makemore_core.fused import Fused

            fused, (example,) = Fused(self.model, self.train), rows(1, len(batch), batch.device)
            example.copy_(batch)
            if not agrees(fused, example):
                raise RuntimeError("their gradients are not those of torch on this GPU")
            graphs = self._capture_all(fused)
            if not self._took(graphs) < self._took(self._graphs):
                raise RuntimeError("they are slower than torch's on this GPU")
            self._graphs, self.name = graphs, "fused"
        except Exception as error:  # no triton, no compiler for it, a net that it does not know: torch's kernels stay
            self.problem = f"no fused kernels: {_first_line(error)}"

    def advance(self, batches: Tensor, rates: list[float], tap: bool) -> Tensor:
        if self.compiling is not None and self.compiling.done():
            compiled, self.compiling = self.compiling, None
            self._take_over(compiled, batches[0])
        factors = update_factors(self.optimizer, rates).to(batches.device, non_blocking=True)
        losses: list[Tensor] = []
        done, n = 0, len(batches)
        while done < n:
            tapped = tap and done == n - 1
            size = next(size for size in SIZES if size <= n - done - (tap and not tapped))
            captured = self._graphs[size, tapped]
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

    def _capture_all(self, fused: Gradients | None = None) -> dict[tuple[int, bool], _Captured]:
        """A graph for each size. All on one stream, which no others share: the cuBLAS workspace of a stream is freed
        with any of its graphs (torch 2.13), and these go together.
        """
        on_gpu = self.train.x.device.type == "cuda"
        side = torch.cuda.Stream() if on_gpu else None  # type: ignore[no-untyped-call]
        return {(size, tapped): self._capture(size, tapped, fused, side) for size, tapped in GRAPHS}

    def _capture(self, size: int, tapped: bool, fused: Gradients | None, side: torch.cuda.Stream | None) -> _Captured:
        """A graph of so many steps. The net stays as it is, also where nothing can be captured."""
        device, batch = self.train.x.device, self.optimizer.config.batch_size
        batches = rows(size, batch, device)
        factors = torch.zeros((size, 3), device=device)
        with kept(self._all()):
            graph, (losses, taps) = capture(
                lambda: steps(self.model, self.optimizer, self.train, batches, factors, tapped, fused), side
            )
        return _Captured(graph, batches, factors, losses, taps)

    def _took(self, graphs: dict[tuple[int, bool], _Captured]) -> float:
        """Seconds of one replay of the largest, the second of two."""
        with kept(self._all()):
            return [seconds(graphs[max(SIZES), False].graph) for _ in range(2)][-1]

    def _all(self) -> list[Tensor]:
        """Everything that an update changes."""
        slots = [slot for slots in self.optimizer.state for slot in slots]
        return [*self.model.parameters(), *self.model.buffers(), *slots]


def _compile(shapes: Model, train: Split, batch_size: int) -> None:
    from makemore_core.fused import Fused  # needs triton, which comes with torch's builds for a GPU

    Fused(shapes, train).compile(batch_size)


def capture(work: Callable[[], Result], side: torch.cuda.Stream | None) -> tuple[Replayed, Result]:
    """Work as a graph, captured on a stream, and where its results will lie. It is done once on the way, outside of
    the graph, so that the libraries are loaded. Raises RuntimeError where it cannot be captured.
    """
    if side is None:
        raise RuntimeError("the net is not on a GPU")
    here = torch.cuda.current_stream()
    collects = gc.isenabled()
    gc.disable()  # a graph that is collected in the midst of a capture spoils it (pytorch pull request 161037)
    try:
        side.wait_stream(here)
        with torch.cuda.stream(side):
            work()
        here.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # what another thread does with the GPU meanwhile is no part of it, and does not spoil it
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            result = work()
    finally:  # one that breaks off leaves its own stream behind, and work that still writes
        if collects:
            gc.enable()
        torch.cuda.set_stream(here)
        with contextlib.suppress(RuntimeError):
            here.wait_stream(side)
    return graph, result


def seconds(graph: Replayed) -> float:
    """How long one replay takes."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    graph.replay()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


@contextlib.contextmanager
def kept(tensors: list[Tensor]) -> Iterator[None]:
    """Tensors that have the same values afterwards as before, whatever becomes of what is done with them."""
    before = [tensor.clone() for tensor in tensors]
    try:
        yield
    finally:
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)


def _first_line(error: BaseException) -> str:
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
    tap: bool,
    fused: Gradients | None = None,
) -> tuple[Tensor, Taps | None]:
    """One update for each row of `batches` (n, B) with its row of `factors` (n, 3): the losses (n,), and with `tap`
    the taps of the last one. Nothing in it waits for the device or depends on the host's clock or counters.

    With `fused` these are what trains, in a step that is tapped too: the same run whether anybody looks or not.
    """
    losses, taps = [], None
    for i, batch in enumerate(batches):
        tapped = tap and i == len(batches) - 1
        if tapped or fused is None:
            with kept(model.buffers() if fused else []):
                loss, gradients, outs, at_outs = pull(model, train, batch, tapped)
        if tapped:
            taps = Taps(outs, at_outs, gradients, [parameter.clone() for parameter in model.parameters()])
        if fused is not None:
            loss = torch.empty((), device=train.x.device)
            gradients = fused.gradients(batch, loss)
        update(optimizer, gradients, factors[i])
        losses.append(loss)
    return torch.stack(losses), taps


def pull(
    model: Model, train: Split, batch: Tensor, tap: bool = False
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    """By autograd: the loss of the examples `batch` (B,), the gradients of the parameters, and with `tap` the outs of
    all bricks and their gradients.
    """
    parameters = model.parameters()
    with requires_grad(parameters):
        logits, outs = forward(model, train.x[batch])
        loss = F.cross_entropy(logits, train.y[batch])
        gradients = list(torch.autograd.grad(loss, parameters + outs if tap else parameters))
    own, at_outs = gradients[: len(parameters)], gradients[len(parameters) :]
    return loss.detach(), own, [out.detach() for out in outs], at_outs


def agrees(fused: Gradients, batch: Tensor) -> bool:
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
