"""The answers to `Look` commands as typed data, and what a screen shows until one has come.

They come as plain JSON from whoever trains, perhaps an older program: what does not fit is said, never raised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import msgspec

from app import glyphs as glyph
from app.series import Bucket
from app.views.curve import Axis, Reach, line
from app.views.lines import Line
from app.views.state import View
from makemore_core.config import Value


class MapLayer(msgspec.Struct):
    """A row of the net in the dead-unit map."""

    index: int
    kind: str
    units: int
    dead: int
    share: float


class Unit(msgspec.Struct):
    """One unit followed to what comes into it."""

    unit: int
    dead: bool
    weights: list[float] = []
    weights_gradient: list[float] = []
    linear: int | None = None
    bias: float | None = None


class DeadMap(msgspec.Struct):
    """Units × examples; `map` has a row of bits a unit, in hexadecimal."""

    layer: int
    examples: int
    share: float
    map: list[str]
    shares: list[float]
    dead: list[int]
    layers: list[MapLayer]
    threshold: float | None = None
    unit: Unit | None = None


class GradientRow(msgspec.Struct):
    """A gradient by hand against autograd's."""

    name: str
    shape: list[int]
    exact: bool
    close: bool
    largest: float
    formula: str
    place: str
    nan: bool = False
    size: float = math.nan


class Example(msgspec.Struct):
    """The gradient by the logits of one example, times n, a number for each symbol; `name` is that of its row."""

    name: str
    context: list[int]
    target: int
    symbols: list[str]
    dlogits: list[float]


class Backward(msgspec.Struct):
    """All gradients of a net on the present minibatch."""

    form: str
    loss: float
    gradients: list[GradientRow]
    one_expression: list[GradientRow] = []
    example: Example | None = None


class Kinds(msgspec.Struct):
    """One statistic three ways, a number for each feature."""

    batch: list[float]
    running: list[float]
    calibrated: list[float]


class NormLayer(msgspec.Struct):
    """A BatchNorm layer's statistics."""

    index: int
    momentum: float
    mean: Kinds
    std: Kinds


class TrainVal(msgspec.Struct):
    """A loss on two splits."""

    train: float | None
    val: float | None


class Losses(msgspec.Struct):
    """What each kind of statistics gives."""

    running: TrainVal
    calibrated: TrainVal
    batch: TrainVal


class Company(msgspec.Struct):
    """One example alone, and among different minibatches; a number for each symbol."""

    example: int
    context: list[int]
    target: int
    symbols: list[str]
    companies: int
    alone_probabilities: list[float]
    std: list[float]
    low: list[float]
    high: list[float]


class Ways(msgspec.Struct):
    """A spread forward and backward."""

    forward: float
    backward: float


class SpreadRow(msgspec.Struct):
    """The spread behind Linear, and behind Linear and BatchNorm, for a scale of the weights."""

    scale: float
    chosen: bool
    linear: Ways
    batchnorm: Ways


class Spread(msgspec.Struct):
    """The same for some scales."""

    fan_in: int
    fan_out: int
    table: list[SpreadRow]


class BatchNorms(msgspec.Struct):
    """BatchNorm looked into; without layers where the net has none."""

    examples: int
    layers: list[NormLayer]
    spread: Spread
    losses: Losses | None = None
    company: Company | None = None


class GainRow(msgspec.Struct):
    """The spread through the depth for one gain."""

    gain: float
    recommended: bool
    own: bool
    std: list[float]
    saturated: list[float]


class Gains(msgspec.Struct):
    """The same for some gains."""

    depth: int
    units: int
    nonlinearity: str
    recommended: float
    gains: list[GainRow]


class WeightGradients(msgspec.Struct):
    """Histograms from -`reach` to `reach` by the weight's name."""

    reach: float
    counts: dict[str, list[float]]


class RangeTest(msgspec.Struct):
    """A learning-rate range test."""

    rates: list[float]
    losses: list[float | None]
    smooth: list[float | None]
    suggestion: float | None
    reason: str
    fix: dict[str, Value] | None = None


Answer = TypeVar("Answer")


def answer(view: View, name: str, kind: type[Answer]) -> Answer | None:
    """The latest exhibit of that name, None where there is none that can be read."""
    exhibit = view.history.exhibits.get(name)
    if exhibit is None:
        return None
    try:
        return msgspec.convert(exhibit.data, kind)
    except msgspec.ValidationError:
        return None


def none_yet(view: View, name: str, does: str) -> list[Line]:
    """What a screen shows without an answer."""
    if name in view.history.exhibits:
        return [[(" the answer cannot be read: the run is trained by another version of the program", "sick")]]
    if view.absent:
        return [[(" " + glyph.escape(view.absent, ascii=view.glyphs.ascii), "dim")]]
    if view.frozen:
        return [[(" the view is frozen: p lets it move and ask", "dim")]]
    return [[(view.glyphs.text(f" {does} …"), "dim")]]


def taken_at(view: View, name: str) -> str:
    """The step that the answer is of."""
    exhibit = view.history.exhibits.get(name)
    return "" if exhibit is None else f"at step {exhibit.step:,}"


def chosen(view: View, name: str, default: int = 0) -> int:
    """A whole number that a screen keeps for itself."""
    value = view.options.get(name, default)
    return value if isinstance(value, int) else default


def keep(view: View, **values: Value) -> View:
    """The view with numbers of a screen's own changed; the names are written `screen_name`."""
    return replace(view, options={**view.options, **values})


def hint(words: str, view: View) -> Line:
    """The last line of a screen: its own keys."""
    if view.glyphs.ascii:
        words = words.replace("←→", "left/right").replace("↑↓", "up/down")
    return [(" " + view.glyphs.text(words), "dim")]


def stretched(values: Sequence[float], dots: int, axis: Axis) -> list[Reach]:
    """Values as a line over so many dots across; a gap where one is not finite."""
    means = [values[at * len(values) // dots] for at in range(dots)] if values else []
    return line([Bucket(mean, mean, mean) if math.isfinite(mean) else None for mean in means], axis)


def symbol(symbols: Sequence[str], index: int, view: View) -> str:
    """One of a net's symbols, harmless, or a question mark."""
    return glyph.escape(symbols[index] if 0 <= index < len(symbols) else "?", ascii=view.glyphs.ascii)


def signed_bars(values: list[float], cells: int, view: View) -> str:
    """Sizes of numbers as bars against the largest, as many as fit."""
    shown = [abs(value) for value in values[:cells]]
    most = max((value for value in shown if value < float("inf")), default=0.0)
    return glyph.bars([glyph.level(value, most) for value in shown], view.glyphs)
