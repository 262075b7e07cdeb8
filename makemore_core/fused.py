"""Loss and gradients of a minibatch on a GPU with two kernels for each layer: which one runs when, and on what.

A net of a hundred units leaves a GPU waiting between kernels, so what counts is how many there are: torch needs some
ten for a layer's forward and backward pass. Importing this module needs triton, which comes with torch's builds for a
GPU.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from makemore_core import kernels
from makemore_core.dataset import Split
from makemore_core.layers import BatchNorm1d, Identity, LeakyReLU, Linear, Nonlinearity, Residual
from makemore_core.model import Model

MOST = 128  # examples in a batch, and characters: a whole column, or a row of logits, is held in registers


class Run(Protocol):
    """What is done with a kernel for so many programs and these arguments."""

    def __call__(self, kernel: Any, programs: int, **arguments: Any) -> None: ...


def launch(kernel: Any, programs: int, **arguments: Any) -> None:
    """Run it on the GPU."""
    kernel[(programs,)](**arguments)


def prepare(kernel: Any, programs: int, **arguments: Any) -> None:
    """Compile it for the GPU, or find it compiled on disk."""
    kernel.warmup(**arguments, grid=(programs,))


class Block(NamedTuple):
    """A linear layer and what follows it up to the next one; `norm_first` tells BatchNorm before the nonlinearity."""

    linear: Linear
    norm: BatchNorm1d | None
    nonlinearity: Nonlinearity
    norm_first: bool
    residual: bool


class Fused:
    """A net on a GPU. Raises ValueError for one that the kernels do not know."""

    def __init__(self, model: Model, train: Split) -> None:
        self.model, self.train, self.blocks = model, train, blocks(model)
        if len(model.embedding.weight) > MOST:
            raise ValueError(f"more than {MOST} characters")

    def compile(self, batch_size: int) -> None:
        """Compile the kernels for such minibatches. The net may be on the meta device: shapes are enough. Raises
        ValueError for a batch that is too large for them.
        """
        if batch_size > MOST:
            raise ValueError(f"more than {MOST} examples in a batch")
        device = self.train.x.device
        self.gradients(
            torch.empty(batch_size, dtype=torch.int64, device=device), torch.empty((), device=device), prepare
        )

    def gradients(self, batch: Tensor, loss: Tensor, run: Run = launch) -> list[Tensor]:
        """Those of `model.parameters()` for the examples `batch` (B,); their mean cross-entropy goes into `loss`."""
        table, contexts = self.model.embedding.weight, self.train.x
        gradient = {id(parameter): torch.empty_like(parameter) for parameter in self.model.parameters()}
        B, T, C = len(batch), contexts.shape[1], table.shape[1]
        rows = _tile(B)
        shared = {"batch": batch, "B": B, "ROWS": rows, "num_warps": 4 if rows <= 32 else 8}

        x, passed = table, list[tuple[Block, dict[str, Any]]]()
        for block in self.blocks:
            weight, N = block.linear.weight, block.linear.weight.shape[1]
            out = torch.empty((B, N), device=x.device)
            given = _given(block) | {"x": x, "contexts": None if passed else contexts, "T": T, "C": C} | shared
            given |= {"before": torch.empty_like(out), "xhat": torch.empty_like(out), "std": torch.empty_like(out[0])}
            normalising = _running(block.norm) | {"RESIDUAL": block.residual}
            run(kernels.forward, _programs(N), weight=weight, out=out, **given, **normalising)
            passed.append((block, given))
            x = out

        dout, V = torch.empty_like(x), x.shape[1]
        words = {"V": V, "WORDS": _tile(V)}
        run(kernels.cross_entropy, 1, logits=x, targets=self.train.y, loss=loss, dlogits=dout, **words, **shared)

        behind: dict[str, Any] = {"dz_behind": None, "weight_behind": None, "dout_behind": None, "M": 0}
        for block, given in reversed(passed):
            N = given["N"]
            dz = torch.empty_like(given["before"])
            dout = dout if behind["dz_behind"] is None else torch.empty_like(dz)
            run(kernels.backward, _programs(N), dout=dout, dz=dz, **_gradients(block, gradient), **given, **behind)
            behind = {"dz_behind": dz, "weight_behind": block.linear.weight, "M": N}
            behind["dout_behind"] = dout if block.residual else None

        below = {"dz": behind["dz_behind"], "weight": behind["weight_behind"], "N": behind["M"]}
        table_of = {"contexts": contexts, "dtable": gradient[id(table)], "T": T, "C": C}
        run(kernels.embedding, _programs(C), **table_of, **below, **words, **shared)
        return list(gradient.values())


def blocks(model: Model) -> list[Block]:
    """The net as blocks, in the order of the forward pass."""
    made: list[Block] = []
    bricks = [(leaf, isinstance(layer, Residual)) for layer in model.layers for leaf in layer.leaves()]
    for brick, residual in bricks:
        if isinstance(brick, Linear):
            made.append(Block(brick, None, Identity(), True, residual))
        elif isinstance(brick, BatchNorm1d):
            made[-1] = made[-1]._replace(norm=brick, norm_first=isinstance(made[-1].nonlinearity, Identity))
        elif isinstance(brick, Nonlinearity):
            made[-1] = made[-1]._replace(nonlinearity=brick)
        else:
            raise ValueError(f"no kernels for {brick.kind}")
    return made


def _given(block: Block) -> dict[str, Any]:
    """What both passes of a block are told of it."""
    linear, norm, nonlinearity = block.linear, block.norm, block.nonlinearity
    return {
        "bias": linear.bias,
        "gamma": norm.gamma if norm else None,
        "K": linear.weight.shape[0],
        "N": linear.weight.shape[1],
        "slope": nonlinearity.negative_slope if isinstance(nonlinearity, LeakyReLU) else 0.0,
        "UNBIASED": bool(norm and norm.unbiased),
        "NORM_FIRST": block.norm_first,
        "NONLINEARITY": nonlinearity.kind,
    }


def _running(norm: BatchNorm1d | None) -> dict[str, Any]:
    if norm is None:
        return {"beta": None, "running_mean": None, "running_var": None, "eps": 0.0, "momentum": 0.0}
    return {name: getattr(norm, name) for name in ("beta", "running_mean", "running_var", "eps", "momentum")}


def _gradients(block: Block, of: dict[int, Tensor]) -> dict[str, Tensor | None]:
    linear, norm = block.linear, block.norm
    return {
        "dweight": of[id(linear.weight)],
        "dbias": None if linear.bias is None else of[id(linear.bias)],
        "dgamma": of[id(norm.gamma)] if norm else None,
        "dbeta": of[id(norm.beta)] if norm else None,
    }


def _tile(n: int) -> int:
    """The side of a tile that holds n: a power of two, and at least what a product of tiles takes."""
    return max(16, 1 << (n - 1).bit_length())


def _programs(columns: int) -> int:
    return -(-columns // int(kernels.COLS.value))
