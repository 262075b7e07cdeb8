"""Every gradient by hand held against autograd and against finite differences: part 4's 26, and each brick's.

It stands alone as the proof that the backward passes of this project are right, for `makemore gradcheck`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor

from makemore_core import dataset, layers, part4
from makemore_core.engine import gradient_of, requires_grad
from makemore_core.layers import Brick
from makemore_core.part4 import PIECES, Comparison
from makemore_core.published import PART_4
from makemore_core.snapshot import Json

STEP = 1e-6  # of a finite difference, in float64
CLOSE = 1e-9  # in float64 a backward pass by hand and autograd differ by rounding alone
CLOSE_TO_FINITE = 1e-6  # the error of a central difference with that step


class BrickCheck(NamedTuple):
    """The gradient by one tensor of a brick, in float64: largest differences from autograd and from finite ones."""

    brick: str
    tensor: str
    formula: str
    autograd: float
    finite: float

    @property
    def right(self) -> bool:
        """Whether both are as small as rounding explains."""
        return self.autograd < CLOSE and self.finite < CLOSE_TO_FINITE


class Formulas(NamedTuple):
    """What a brick does backward: the gradient by its input, those by its parameters in their order, and the place."""

    input: str
    parameters: tuple[str, ...]
    place: str


_THROUGH_NORM = "gamma/std * (dout - mean(dout) - xhat * "
BACKWARD: dict[str, Formulas] = {
    "Linear": Formulas("dout @ weight.T", ("x.T @ dout", "dout.sum(0)"), "part 4, exercise 1"),
    "Embedding": Formulas("", ("dweight[x[k, j]] += dout[k, j]",), "part 4, exercise 1"),
    "BatchNorm1d": Formulas(
        _THROUGH_NORM + "sum(dout * xhat) / (n-1))", ("sum(dout * xhat)", "sum(dout)"), "part 4, exercise 3"
    ),
    "GroupNorm": Formulas(
        "(dxhat - mean(dxhat) - xhat * mean(dxhat * xhat)) / std, per group",
        ("sum(dout * xhat)", "sum(dout)"), "Wu and He 2018",
    ),
    "LayerNorm": Formulas(
        "(dxhat - mean(dxhat) - xhat * mean(dxhat * xhat)) / std, per example",
        ("sum(dout * xhat)", "sum(dout)"), "Ba et al. 2016",
    ),
    "Tanh": Formulas("(1 - out**2) * dout", (), "part 4, exercise 1"),
    "Sigmoid": Formulas("out * (1 - out) * dout", (), "micrograd"),
    "ReLU": Formulas("dout where x > 0, else 0", (), "micrograd"),
    "LeakyReLU": Formulas("dout where x > 0, else 0.01 * dout", (), "Maas et al. 2013"),
    "ELU": Formulas("dout where x > 0, else (out + 1) * dout", (), "Clevert et al. 2015"),
    "Identity": Formulas("dout", (), "part 3"),
    "Residual": Formulas("dout + what comes through the bricks inside", (), "He et al. 2015"),
}  # fmt: skip


def formulas(brick: Brick) -> Formulas:
    """What this brick does: where BatchNorm's variance is the biased one, n stands for n-1."""
    found = BACKWARD[brick.kind]
    biased = isinstance(brick, layers.BatchNorm1d) and not brick.unbiased
    return found._replace(input=found.input.replace("(n-1)", "n")) if biased else found


def bricks() -> dict[str, Callable[[torch.Generator], tuple[Brick, Tensor]]]:
    """A small example of every brick with an input for it; kinks of piecewise functions are kept away from."""

    def numbers(generator: torch.Generator) -> Tensor:
        x = torch.randn((7, 6), generator=generator)
        return x + 0.1 * x.sign()

    def symbols(generator: torch.Generator) -> Tensor:
        return torch.randint(0, 5, (7, 3), generator=generator)

    return {
        "Linear": lambda g: (layers.Linear(6, 4, generator=g), numbers(g)),
        "Linear without bias": lambda g: (layers.Linear(6, 4, bias=False, generator=g), numbers(g)),
        "Embedding": lambda g: (layers.Embedding(5, 4, g), symbols(g)),
        "BatchNorm1d": lambda g: (layers.BatchNorm1d(6), numbers(g)),
        "BatchNorm1d, PyTorch's variance": lambda g: (layers.BatchNorm1d(6, unbiased=False), numbers(g)),
        "GroupNorm": lambda g: (layers.GroupNorm(2, 6), numbers(g)),
        "LayerNorm": lambda g: (layers.LayerNorm(6), numbers(g)),
        "Tanh": lambda g: (layers.Tanh(), numbers(g)),
        "Sigmoid": lambda g: (layers.Sigmoid(), numbers(g)),
        "ReLU": lambda g: (layers.ReLU(), numbers(g)),
        "LeakyReLU": lambda g: (layers.LeakyReLU(), numbers(g)),
        "ELU": lambda g: (layers.ELU(), numbers(g)),
        "Identity": lambda g: (layers.Identity(), numbers(g)),
        "Residual": lambda g: (
            layers.Residual(layers.Linear(6, 6, generator=g), layers.BatchNorm1d(6), layers.Tanh()), numbers(g),
        ),
    }  # fmt: skip


def check_brick(name: str, brick: Brick, x: Tensor, generator: torch.Generator) -> list[BrickCheck]:
    """The gradients of sum(out * dout) by the input and by each parameter, three ways, in float64."""
    for leaf in brick.leaves():
        for attribute, value in list(vars(leaf).items()):
            if isinstance(value, Tensor):
                tensor = value.double()
                if attribute in ("gamma", "beta"):  # at 1 and 0 a wrong formula could pass
                    tensor += 0.3 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                setattr(leaf, attribute, tensor)
    x = x.double() if x.is_floating_point() else x
    dout = torch.randn(brick(x).shape, generator=generator, dtype=torch.float64)
    inputs = {"input": x} if x.is_floating_point() else {}
    tensors = inputs | {_name(brick, tensor): tensor for tensor in brick.parameters()}

    brick(x)
    dx = brick.backward(dout)
    by_hand = {name: dx if name == "input" else gradient_of(tensor) for name, tensor in tensors.items()}
    with requires_grad(list(tensors.values())):
        by_autograd = torch.autograd.grad((brick(x) * dout).sum(), list(tensors.values()))

    form = formulas(brick)
    written = {"input": form.input} | dict(
        zip([key for key in tensors if key != "input"], form.parameters, strict=False)
    )
    return [
        BrickCheck(
            name, key, written.get(key, ""), _largest(by_hand[key], autograd),
            _largest(by_hand[key], finite_difference(lambda: float((brick(x) * dout).sum()), tensors[key])),
        )
        for key, autograd in zip(tensors, by_autograd, strict=True)
    ]  # fmt: skip


def finite_difference(value: Callable[[], float], tensor: Tensor) -> Tensor:
    """d value / d tensor by moving one number of `tensor` at a time, up and down."""
    gradient, flat = torch.zeros_like(tensor), tensor.view(-1)
    for i in range(flat.numel()):
        kept = float(flat[i])
        flat[i] = kept + STEP
        above = value()
        flat[i] = kept - STEP
        gradient.view(-1)[i] = (above - value()) / (2 * STEP)
        flat[i] = kept
    return gradient


def _name(brick: Brick, tensor: Tensor) -> str:
    leaves = list(brick.leaves())
    for position, leaf in enumerate(leaves):
        for name, value in vars(leaf).items():
            if value is tensor:
                return name if len(leaves) == 1 else f"{position}.{name}"
    raise AssertionError("a parameter that no leaf holds")


def _largest(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max()) if a.shape == b.shape else float("inf")


# --- the command -----------------------------------------------------------------------------------------------------


class Report(NamedTuple):
    """Everything that `makemore gradcheck` prints."""

    params: int
    loss: float
    gradients: list[Comparison]
    one_expression: list[Comparison]
    bricks: list[BrickCheck]

    @property
    def wrong(self) -> list[str]:
        """The names of the gradients that are not right."""
        pieces = [c.name for c in self.gradients if not c.close]
        short = [f"{c.name} in one expression" for c in self.one_expression if not c.close]
        return pieces + short + [f"{b.brick}: {b.tensor}" for b in self.bricks if not b.right]


def check(data: str | None = None) -> Report:
    """Part 4's net on its first minibatch, and every brick. Raises ValueError where `data` cannot be read."""
    net, x, y = part4.exercise(dataset.read(data))
    loss, gradients, short = part4.examine(net, x, y)
    checks = []
    for name, make in bricks().items():
        generator = torch.Generator().manual_seed(1)
        checks += check_brick(name, *make(generator), generator)
    return Report(sum(tensor.numel() for tensor in net), loss, gradients, short, checks)


def run(json: bool = False, data: str | None = None) -> int:
    """Print the comparisons; 1 if a gradient is wrong, else 0."""
    report = check(data)
    if json:
        print(msgspec.json.encode(_plain(report)).decode())
    else:
        print("\n".join(_table(report)))
    return 1 if report.wrong else 0


def _plain(report: Report) -> dict[str, Json]:
    return {
        "params": report.params,
        "first_loss": report.loss,
        "gradients": [_shown(c) | PIECES[c.name]._asdict() for c in report.gradients],
        "one_expression": [_shown(c) for c in report.one_expression],
        "bricks": [b._asdict() | {"right": b.right} for b in report.bricks],
        "wrong": list(report.wrong),
    }


def _shown(comparison: Comparison) -> dict[str, Json]:
    return comparison._asdict() | {"shape": list(comparison.shape)}


def _table(report: Report) -> Iterator[str]:
    yield f"part 4: {report.params:,} parameters, first loss {report.loss:.4f} (published {PART_4.first_loss:.4f},"
    yield "on the lectures' file; BatchNorm's gain and bias were drawn there without a seed)"
    yield ""
    yield f"{'gradient':15s} {'shape':>12s}  exact  close  {'off by':>7s}  largest |gradient|"
    yield from map(_line, report.gradients)
    yield ""
    yield "in one expression (exercises 2 and 3)"
    yield from map(_line, report.one_expression)
    yield ""
    yield f"{'brick, in float64':32s} {'by':>10s}  {'autograd':>9s}  finite differences"
    for b in report.bricks:
        verdict = "" if b.right else "  WRONG"
        yield f"{b.brick:32s} {b.tensor:>10s}  {b.autograd:9.1e}  {b.finite:9.1e}{verdict}"
    yield ""
    count = len(report.gradients) + len(report.one_expression) + len(report.bricks)
    wrong = report.wrong
    yield f"wrong: {', '.join(wrong)}" if wrong else f"all {count} gradients are right"


def _line(c: Comparison) -> str:
    shape = "x".join(map(str, c.shape))
    exact, close = ("yes" if c.exact else "no"), ("yes" if c.close else "WRONG")
    return f"{c.name:15s} {shape:>12s}  {exact:5s}  {close:5s}  {c.largest:.1e}  {c.size:.1e}"
