"""What a net's last update looked like, in plain numbers: the one place where tensors become them.

A probe only reads: it draws no random number and changes neither mode nor buffers, so watching cannot change
training. Tensors of one shape are measured in one pass, and all numbers of a probe reach the host in one transfer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from makemore_core.engine import Taps
from makemore_core.layers import Brick, Linear, Nonlinearity, Sigmoid, Tanh
from makemore_core.model import Model
from makemore_core.snapshot import BINS, FLAT, SATURATED, Activation, Gradient, Histogram, Layer, Weight

# Histograms without bounds of their own reach this many standard deviations of the median layer: further than the
# scale they are drawn on, so that each count has its place on it.
SPREAD = 4.0
CACHED = 196_608  # numbers that are measured in one pass: larger temporaries cost more in memory traffic than calls


class Probe(NamedTuple):
    """The statistics of one update, ready for a snapshot."""

    layers: tuple[Layer, ...]
    weights: tuple[Weight, ...]


class _Matrix(NamedTuple):
    """A weight that the lecture's pictures show (part 3)."""

    name: str
    tensor: Tensor
    position: int  # in model.parameters()
    layer: int | None


def rows(model: Model) -> list[tuple[int, Nonlinearity]]:
    """The bricks that get a row, the nonlinearities, by index."""
    return [(index, leaf) for index, leaf in enumerate(model.leaves()) if isinstance(leaf, Nonlinearity)]


@torch.no_grad()
def probe(model: Model, taps: Taps, dead: Mapping[int, int]) -> Probe:
    """Statistics of the last update; `dead` holds the confirmed number of dead units by index, where there is one."""
    shown, matrices = rows(model), _matrices(model)
    layers, weights = _transfer(_layer_numbers(shown, taps), _weight_numbers(matrices, taps))
    return Probe(
        tuple(
            _layer(index, brick, taps.outs[index].shape[-1], dead.get(index), numbers)
            for (index, brick), numbers in zip(shown, layers, strict=True)
        ),
        tuple(
            Weight(matrix.name, tuple(matrix.tensor.shape), matrix.layer, *numbers)
            for matrix, numbers in zip(matrices, weights, strict=True)
        ),
    )


def _cached(number: int, size: int) -> list[slice]:
    """So many items of so many numbers in parts that stay in the processor's cache while they are measured."""
    most = max(1, CACHED // size)
    return [slice(start, start + most) for start in range(0, number, most)]


def _layer_numbers(shown: list[tuple[int, Nonlinearity]], taps: Taps) -> Tensor:
    """For each output and then for its gradient mean, std, histogram's low, high and counts; last the saturation.

    The nonlinearities of a net are of one kind and shape; the histograms of all outs have one scale, those of all
    gradients too.
    """
    brick, n = shown[0][1], len(shown)
    tensors = [of_bricks[index] for of_bricks in (taps.outs, taps.gradients) for index, _ in shown]
    size = tensors[0].numel()
    slices = _cached(2 * n, size)
    parts = [_rows(tensors[some]) for some in slices]
    measured = torch.cat([moments(x) for x in parts])
    high = reach(measured[:, 1].view(2, n))
    ends = torch.stack([-high, high], 1)
    limits = bounds(brick)
    if limits:  # filled: a tensor made of numbers would be waited for
        ends[0, 0].fill_(limits[0])
        ends[0, 1].fill_(limits[1])
    ends = ends.repeat_interleave(n, 0)
    counts = torch.cat([_counts(x, ends[some]) for x, some in zip(parts, slices, strict=True)])
    table = torch.cat([measured, ends, counts], 1)
    outs = [x[: max(0, n - some.start)] for x, some in zip(parts, slices, strict=True)]
    saturated = torch.cat([brick.flat(x, SATURATED).sum(1, keepdim=True) for x in outs]) / size
    saturated = torch.where(measured[:n, :1].isnan(), torch.nan, saturated)  # NaN is beyond no threshold
    return torch.cat([table[:n], table[n:], saturated], 1)


def _rows(tensors: list[Tensor]) -> Tensor:
    """n tensors of one shape as (n, size); one that comes alone, as large ones do, is not copied."""
    return torch.stack(tensors).flatten(1) if len(tensors) > 1 else tensors[0].reshape(1, -1)


def _weight_numbers(matrices: list[_Matrix], taps: Taps) -> Tensor:
    """(n, 5), in the order of the fields of `Weight`; matrices of one shape are measured together."""
    alike: dict[torch.Size, list[int]] = {}
    for place, matrix in enumerate(matrices):
        alike.setdefault(matrix.tensor.shape, []).append(place)
    parts = [places[some] for shape, places in alike.items() for some in _cached(len(places), 3 * shape.numel())]
    found = torch.cat([_weight_moments([matrices[place] for place in part], taps) for part in parts])
    places = [place for part in parts for place in part]
    in_order = sorted(range(len(places)), key=places.__getitem__)  # no index: on a GPU it would be waited for
    _, data, gradient_mean, gradient, _, change = torch.stack([found[place] for place in in_order], 1)
    # a constant tensor has no spread to be compared with: the ratios may be infinite or NaN
    return torch.stack([gradient_mean, gradient, data, gradient / data, (change / data).log10()], 1)


def _weight_moments(group: list[_Matrix], taps: Taps) -> Tensor:
    """(n, 6): mean and std of the weights, of their gradients, and of their change."""
    tensors = [matrix.tensor for matrix in group]
    tensors += [part[matrix.position] for part in (taps.updates, taps.before) for matrix in group]
    x = torch.stack(tensors).view(3, len(group), -1)
    torch.sub(x[0], x[2], out=x[2])
    return moments(x).transpose(0, 1).flatten(1)


def moments(x: Tensor) -> Tensor:
    """Mean and standard deviation (..., 2) over the last dimension of `x`, in float64.

    The squares of gradients that vanish would be 0 in float32. Many times faster than `Tensor.std`, which goes
    through the numbers one by one.
    """
    mean = x.mean(-1, keepdim=True)
    spread = torch.linalg.vector_norm(x - mean, dim=-1, keepdim=True, dtype=torch.float64)
    return torch.cat([mean, spread / (x.shape[-1] - 1) ** 0.5], -1)


def reach(stds: Tensor, spread: float = SPREAD) -> Tensor:
    """(..., n) -> (...), float32: half the width of a histogram that is the same for n tensors of these spreads.

    1 where nothing is spread or finite.
    """
    high = (spread * stds.nanmedian(-1).values).float()
    return torch.where((high > 0) & (high < torch.inf), high, 1.0)


def bounds(brick: Brick) -> tuple[float, float] | None:
    """Where the outputs of a nonlinearity can lie; None where there is no bound on both sides."""
    return (-1.0, 1.0) if isinstance(brick, Tanh) else (0.0, 1.0) if isinstance(brick, Sigmoid) else None


def _counts(x: Tensor, ends: Tensor) -> Tensor:
    """Histograms (n, BINS) of the rows of `x` (n, size) from and to `ends` (n, 2); NaN is counted nowhere."""
    # not histc: it takes its range as numbers, for which it would wait for the device
    low, high = ends[:, :1], ends[:, 1:]
    scale = BINS / (high - low)
    # from the middle, so that 0 is in the bin above it on every scale round 0
    bins = x.mul(scale).add_(BINS / 2 - (low + high) / 2 * scale)
    bins = bins.clamp_(0, BINS - 1).nan_to_num_(nan=BINS).long()
    counts = x.new_zeros((len(x), BINS + 1), dtype=torch.float64)  # float32 would stop at 2^24
    return counts.scatter_add_(1, bins, counts.new_ones(()).expand_as(x))[:, :BINS]


def _transfer(*tables: Tensor) -> list[list[list[float]]]:
    """Tables (n, K) as rows of numbers, all in one transfer to the host."""
    numbers = iter(torch.cat([table.flatten().double() for table in tables]).tolist())
    return [[list(islice(numbers, table.shape[1])) for _ in range(table.shape[0])] for table in tables]


def _layer(index: int, brick: Nonlinearity, units: int, dead: int | None, numbers: list[float]) -> Layer:
    mean, std, histogram = _measured(numbers[: 4 + BINS])
    activation = Activation(mean, std, numbers[-1], units, dead, histogram)
    return Layer(index, brick.kind, activation, Gradient(*_measured(numbers[4 + BINS : -1])))


def _measured(numbers: list[float]) -> tuple[float, float, Histogram]:
    mean, std, low, high, *counts = numbers
    return mean, std, Histogram(low, high, tuple(map(int, counts)))


def _matrices(model: Model) -> list[_Matrix]:
    """The embedding and the weights of the linear layers, each with the first row at or behind its module."""
    positions = {id(parameter): position for position, parameter in enumerate(model.parameters())}
    indices = [index for index, _ in rows(model)]
    weights = [("C", 0, model.embedding.weight)]
    weights += [
        (f"{index}.weight", index, leaf.weight) for index, leaf in enumerate(model.leaves()) if isinstance(leaf, Linear)
    ]
    matrices = []
    for name, index, weight in weights:
        place = bisect_left(indices, index)
        layer = indices[place] if place < len(indices) else None
        matrices.append(_Matrix(name, weight, positions[id(weight)], layer))
    return matrices


class DeadUnits:
    """The units that are flat (beyond 0.99 for tanh) for every example shown to it, by index of the row.

    Fed slice by slice with a whole split; a unit of one batch is no evidence.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._flat: dict[int, Tensor] = {}

    @torch.no_grad()
    def look(self, x: Tensor) -> Tensor:
        """Contexts (N, T) -> logits (N, V), in evaluation, taking note of the units on the way."""
        if self._flat and not self.any():
            return self._model.infer(x)
        for index, brick, out in self._model.infer_by_brick(x):
            if isinstance(brick, Nonlinearity):
                flat = brick.flat(out, FLAT).all(0)
                self._flat[index] = flat & self._flat.get(index, torch.ones_like(flat))
        return out

    def any(self) -> bool:
        """Whether a unit is left that may be dead."""
        return any(bool(flat.any()) for flat in self._flat.values())

    def units(self) -> dict[int, Tensor]:
        """Per row a boolean for each unit."""
        return dict(self._flat)

    def counts(self) -> dict[int, int]:
        """Per row the number of dead units."""
        return {index: int(flat.sum()) for index, flat in self._flat.items()}
