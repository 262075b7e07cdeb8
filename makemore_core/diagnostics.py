"""What a net's last update looked like, in plain numbers: the one place where tensors become them.

A probe only reads: it draws no random number and changes neither mode nor buffers, so watching cannot change
training. All numbers of a probe reach the host in one transfer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from makemore_core.engine import Taps
from makemore_core.layers import Brick, Nonlinearity, Sigmoid, Tanh
from makemore_core.model import Model
from makemore_core.snapshot import BINS, FLAT, SATURATED, Activation, Gradient, Histogram, Layer, Weight

SPREAD = 3.0  # histograms without bounds of their own reach this many standard deviations of the median layer


class Probe(NamedTuple):
    """The statistics of one update, ready for a snapshot."""

    layers: tuple[Layer, ...]
    weights: tuple[Weight, ...]


class _Row(NamedTuple):
    position: int
    brick: Nonlinearity
    out: Tensor
    gradient: Tensor


def rows(model: Model) -> list[tuple[int, Nonlinearity]]:
    """The bricks that get a row, the nonlinearities, by index."""
    return [(index, leaf) for index, leaf in enumerate(model.leaves()) if isinstance(leaf, Nonlinearity)]


@torch.no_grad()
def probe(model: Model, taps: Taps, dead: Mapping[int, int]) -> Probe:
    """Statistics of the last update; `dead` holds the confirmed number of dead units by index, where there is one."""
    shown = [_Row(index, brick, taps.outs[index], taps.gradients[index]) for index, brick in rows(model)]
    numbers, layout = _gather(shown, model, taps)
    values = iter(torch.cat([number.flatten().float() for number in numbers]).tolist())  # the one transfer
    taken = [[next(values) for _ in range(size)] for size in layout]
    layers = tuple(_layer(row, taken.pop(0), dead.get(row.position)) for row in shown)
    weights = tuple(
        _weight(name, tensor, layer, taken.pop(0))
        for (name, tensor), layer in zip(_matrices(model), _owners(model), strict=True)
    )
    return Probe(layers, weights)


def _gather(shown: list[_Row], model: Model, taps: Taps) -> tuple[list[Tensor], list[int]]:
    """All numbers as tensors still on the device, and how many belong to each row and each weight."""
    numbers: list[Tensor] = []
    layout: list[int] = []
    reach = _reach([row.out for row in shown])
    gradient_reach = _reach([row.gradient for row in shown])
    for row in shown:
        low, high = bounds(row.brick) or (-reach, reach)
        part = [
            row.out.mean(), row.out.std(), row.brick.flat(row.out, SATURATED).float().mean(),
            _tensor(low, row.out), _tensor(high, row.out), _counts(row.out, low, high),
            row.gradient.mean(), row.gradient.std(), gradient_reach,
            _counts(row.gradient, -gradient_reach, gradient_reach),
        ]  # fmt: skip
        layout.append(sum(number.numel() for number in part))
        numbers += part
    parameters = model.parameters()
    for _, weight in _matrices(model):
        position = next(i for i, parameter in enumerate(parameters) if parameter is weight)
        gradient, change = taps.updates[position], weight - taps.before[position]
        numbers += [gradient.mean(), gradient.std(), weight.std(), change.std()]
        layout.append(4)
    return numbers, layout


def _reach(tensors: list[Tensor]) -> Tensor:
    """Half the width of a histogram that is the same for all `tensors`; 1 where nothing is spread or finite."""
    if not tensors:
        return torch.ones(())
    reach = SPREAD * torch.stack([tensor.std() for tensor in tensors]).nanmedian()
    return torch.where(torch.isfinite(reach) & (reach > 0), reach, torch.ones_like(reach))


def bounds(brick: Brick) -> tuple[float, float] | None:
    """Where the outputs of a nonlinearity can lie; None where there is no bound on both sides."""
    return (-1.0, 1.0) if isinstance(brick, Tanh) else (0.0, 1.0) if isinstance(brick, Sigmoid) else None


def _tensor(value: float | Tensor, like: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value, device=like.device)


def _counts(x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    # scaled to 0..1 first, since histc takes its range as numbers and would wait for the device
    return torch.histc(((x - low) / (high - low)).clamp_(0.0, 1.0), BINS, 0.0, 1.0)


def _layer(row: _Row, values: list[float], dead: int | None) -> Layer:
    mean, std, saturated, low, high = values[:5]
    gradient_mean, gradient_std, reach = values[5 + BINS : 8 + BINS]
    counts, gradient_counts = values[5 : 5 + BINS], values[8 + BINS :]
    activation = Activation(
        mean, std, saturated, row.out.shape[-1], dead, Histogram(low, high, tuple(int(n) for n in counts))
    )
    gradient = Gradient(gradient_mean, gradient_std, Histogram(-reach, reach, tuple(int(n) for n in gradient_counts)))
    return Layer(row.position, row.brick.kind, activation, gradient)


def _weight(name: str, tensor: Tensor, layer: int | None, values: list[float]) -> Weight:
    grad_mean, grad_std, data_std, change_std = values
    ratio, update = _over(grad_std, data_std), _over(change_std, data_std)
    log = torch.tensor(update, dtype=torch.float64).log10().item()
    return Weight(name, tuple(tensor.shape), layer, grad_mean, grad_std, data_std, ratio, log)


def _over(above: float, below: float) -> float:
    """A ratio that may be infinite or NaN: a constant tensor has no spread to be compared with."""
    return (torch.tensor(above, dtype=torch.float64) / torch.tensor(below, dtype=torch.float64)).item()


def _matrices(model: Model) -> list[tuple[str, Tensor]]:
    """The weights that the lecture's pictures show: parameters with two dimensions (part 3)."""
    parameters = {id(parameter) for parameter in model.parameters() if parameter.ndim == 2}
    return [(name, tensor) for name, tensor in model.named_tensors() if id(tensor) in parameters]


def _owners(model: Model) -> list[int | None]:
    """For each matrix the index of the first row at or behind its module."""
    indices = [index for index, _ in rows(model)]
    places = [0 if name == "C" else int(name.partition(".")[0]) for name, _ in _matrices(model)]
    return [next((index for index in indices if index >= place), None) for place in places]


class DeadUnits:
    """Counts the units that are flat (beyond 0.99 for tanh) for every example shown to it, by index of the row.

    Fed slice by slice with a whole split; a unit of one batch is no evidence.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._flat: dict[int, Tensor] = {}

    @torch.no_grad()
    def look(self, x: Tensor) -> Tensor:
        """Contexts (N, T) -> logits (N, V), in evaluation, taking note of the units on the way."""
        out = self._model.embedding.infer(x)
        index = 0
        for layer in self._model.layers:
            out, index = self._through(layer, out, index)
        return out

    def _through(self, brick: Brick, x: Tensor, index: int) -> tuple[Tensor, int]:
        leaves = list(brick.leaves())
        if leaves != [brick]:  # a residual connection
            out = x
            for leaf in leaves:
                out, index = self._through(leaf, out, index)
            return x + out, index
        out = brick.infer(x)
        if isinstance(brick, Nonlinearity):
            flat = brick.flat(out, FLAT).all(0)
            self._flat[index] = flat & self._flat.get(index, torch.ones_like(flat))
        return out, index + 1

    def units(self) -> dict[int, Tensor]:
        """Per row a boolean for each unit."""
        return dict(self._flat)

    def counts(self) -> dict[int, int]:
        """Per row the number of dead units."""
        return {index: int(flat.sum()) for index, flat in self._flat.items()}
