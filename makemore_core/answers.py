"""What a net answers when it is asked to show something on top of its snapshots: read and written without torch.

An exhibit is one of these as plain JSON. What has a default may be absent from it, as older programs left it out.
"""

from __future__ import annotations

import math

import msgspec

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
    """Units × examples; `map` has a row of bits a unit in hexadecimal, the first example first."""

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
    """A learning-rate range test: the rates tried, the losses they gave, also smoothed, and what to take from it.

    `fix` are the settings with which a run trains at the suggested rate: one past its planned decay ends that.
    """

    rates: list[float]
    losses: list[float]
    smooth: list[float]
    suggestion: float | None
    reason: str
    fix: dict[str, Value] | None = None
