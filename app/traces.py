"""What a row of the table shows: a layer's or a weight's numbers, smoothed over time and steady, and their courses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from app.glyphs import height, rebin
from app.series import Series
from makemore_core.snapshot import Activation, Gradient, Histogram, Layer, Weight

SHORT_BUCKETS = 512  # of the courses that every layer and weight has
LEAP = 4.0  # a scale that has moved by this factor is no noise: what came before is no part of the mean
STEADY = 0.75  # a number is shown anew when it has moved by so much of its last digit shown
LEAST = 0.5  # of a count in the mean of looks: what is less is what is left of old ones
STEADY_LEVEL = 0.4  # a bar, when it has moved by so much of an eighth
# Which of the numbers are scales: std of activation and gradient; std of gradient and data, and their ratio.
SCALES_OF_LAYER, SCALES_OF_WEIGHT = (1, 4), (1, 2, 3)


def _short() -> Series:
    return Series(SHORT_BUCKETS)


def _column(step: int) -> int:
    """Where a look after so many updates is in a course: beside the loss of the last of them."""
    return max(0, step - 1)


@dataclass
class Smooth:
    """Running means of a layer's statistics and counts."""

    numbers: list[float]
    activation_counts: list[float]
    gradient_counts: list[float]


@dataclass(eq=False)
class LayerTrace:
    """What a layer's row shows, and the course of its statistics.

    `layer` and the counts are what is drawn: smoothed while the net runs, and steady, so that noise below what a
    cell can show paints nothing. `newest` is the layer as it came last, `first` as it came first.
    """

    layer: Layer
    newest: Layer
    first: Layer
    first_step: int
    activation_counts: list[float]
    gradient_counts: list[float]
    smooth: Smooth
    seen: int = 0  # times, of which the running means are
    version: int = 0  # counts the changes of what is shown
    std: Series = field(default_factory=_short)
    saturated: Series = field(default_factory=_short)
    gradient_std: Series = field(default_factory=_short)

    @classmethod
    def of(cls, layer: Layer, step: int) -> LayerTrace:
        """A row that begins with this layer."""
        activation, gradient = layer.activation.histogram.counts, layer.gradient.histogram.counts
        smooth = Smooth(list(_layer_numbers(layer)), list(activation), list(gradient))
        return cls(layer, layer, layer, step, list(activation), list(gradient), smooth)

    def see(self, layer: Layer, step: int, share: float, recent: bool) -> None:
        """Take in the layer as it was after `step` updates; `share` is its weight, 0..1, in the running means.

        Not `recent`: so much comes after it that nothing of it will be seen but the course.
        """
        if recent:
            leapt = _leapt(self.smooth.numbers, _layer_numbers(layer), SCALES_OF_LAYER)
            self.seen = 1 if leapt else self.seen + 1
            self._mix(layer, max(share, 1 / self.seen))
        else:
            self.layer, self.seen = layer, 0
        at = _column(step)
        self.std.add(at, layer.activation.std)
        self.saturated.add(at, layer.activation.saturated)
        self.gradient_std.add(at, layer.gradient.std)

    def _mix(self, layer: Layer, share: float) -> None:
        """Move the row towards the newest statistics; a share of 1 shows them exactly."""
        smooth, old = self.smooth, self.newest
        before = self.layer, self.activation_counts, self.gradient_counts
        smooth.numbers = [_towards(a, b, share) for a, b in zip(smooth.numbers, _layer_numbers(layer), strict=True)]
        smooth.activation_counts, self.activation_counts = _mix_counts(
            smooth.activation_counts,
            self.activation_counts,
            old.activation.histogram,
            layer.activation.histogram,
            share,
        )
        smooth.gradient_counts, self.gradient_counts = _mix_counts(
            smooth.gradient_counts, self.gradient_counts, old.gradient.histogram, layer.gradient.histogram, share
        )
        self.newest = layer
        self.layer = layer if share >= 1.0 else _steady_layer(self, layer)
        self.version += (self.layer, self.activation_counts, self.gradient_counts) != before

    def copy(self) -> LayerTrace:
        """A copy that stays as it is."""
        return replace(
            self,
            smooth=replace(self.smooth),
            std=self.std.copy(),
            saturated=self.saturated.copy(),
            gradient_std=self.gradient_std.copy(),
        )

    def cut(self, step: int) -> None:
        """Forget the course from a step on."""
        for series in (self.std, self.saturated, self.gradient_std):
            series.cut(_column(step))


@dataclass(eq=False)
class WeightTrace:
    """A weight's numbers as drawn, and the course of its update:data and grad:data."""

    weight: Weight
    smooth: list[float]
    seen: int = 0
    step: int = 0
    version: int = 0
    update: Series = field(default_factory=lambda: Series(SHORT_BUCKETS, logarithms=True))
    grad: Series = field(default_factory=_short)

    @classmethod
    def of(cls, weight: Weight) -> WeightTrace:
        """A row that begins with this weight."""
        return cls(weight, list(_weight_numbers(weight)))

    def see(self, weight: Weight, step: int, share: float, recent: bool) -> None:
        """Take in the weight, as `LayerTrace.see` does a layer."""
        if recent:
            leapt = _leapt(self.smooth, _weight_numbers(weight), SCALES_OF_WEIGHT)
            self.seen = 1 if leapt else self.seen + 1
            share = max(share, 1 / self.seen)
            self.smooth = [_towards(a, b, share) for a, b in zip(self.smooth, _weight_numbers(weight), strict=True)]
            shown = [
                new if share >= 1.0 else steady(old, new, digit(new) if at < 4 else 0.1)
                for at, (old, new) in enumerate(zip(_weight_numbers(self.weight), self.smooth, strict=True))
            ]
            before, self.weight = self.weight, Weight(weight.name, weight.shape, weight.layer, *shown)
            self.version += self.weight != before
        else:
            self.seen = 0
        self.step = step
        self.update.add(_column(step), weight.update_data_log10)
        self.grad.add(_column(step), weight.grad_data_ratio)

    def copy(self) -> WeightTrace:
        """A copy that stays as it is."""
        return replace(self, update=self.update.copy(), grad=self.grad.copy())

    def cut(self, step: int) -> None:
        """Forget the course from a step on."""
        self.update.cut(_column(step))
        self.grad.cut(_column(step))


def digit(value: float) -> float:
    """The worth of the second digit of a number: what `2.6e-3` can show of it."""
    if not value or not math.isfinite(value):
        return 0.0
    return float(10.0 ** (math.floor(math.log10(abs(value))) - 1))


def steady(shown: float, new: float, unit: float) -> float:
    """The number to show: as before, until the new one has left it by most of what the last digit is worth."""
    return shown if abs(new - shown) < STEADY * unit else new


def _leapt(before: Sequence[float], now: Sequence[float], scales: Sequence[int]) -> bool:
    """Whether one of the numbers that are scales has become many times as large or as small."""
    return any(
        max(before[at], now[at]) > LEAP * min(before[at], now[at])
        for at in scales
        if math.isfinite(before[at]) and math.isfinite(now[at])
    )


def _weight_numbers(weight: Weight) -> tuple[float, float, float, float, float]:
    return weight.grad_mean, weight.grad_std, weight.data_std, weight.grad_data_ratio, weight.update_data_log10


def _layer_numbers(layer: Layer) -> tuple[float, float, float, float, float]:
    a, g = layer.activation, layer.gradient
    return a.mean, a.std, a.saturated, g.mean, g.std


def _steady_layer(trace: LayerTrace, layer: Layer) -> Layer:
    """The layer as shown before, its numbers moved where the running means have left them; bounds are the newest."""
    mean, std, saturated, grad_mean, grad_std = trace.smooth.numbers
    shown_a, shown_g = trace.layer.activation, trace.layer.gradient
    return Layer(
        layer.index,
        layer.kind,
        Activation(
            steady(shown_a.mean, mean, 0.01),
            steady(shown_a.std, std, 0.01 if std < 10 else digit(std)),
            steady(shown_a.saturated, saturated, 0.001 if saturated < 0.1 else 0.01),
            layer.activation.units, layer.activation.dead,
            _kept_bounds(shown_a.histogram, layer.activation.histogram),
        ),
        Gradient(
            steady(shown_g.mean, grad_mean, digit(grad_std) / 10),
            steady(shown_g.std, grad_std, digit(grad_std)),
            _kept_bounds(shown_g.histogram, layer.gradient.histogram),
        ),
    )  # fmt: skip


def _kept_bounds(old: Histogram, new: Histogram) -> Histogram:
    return old if (old.low, old.high) == (new.low, new.high) else new


def _mix_counts(
    smooth: list[float], shown: list[float], was: Histogram, now: Histogram, share: float
) -> tuple[list[float], list[float]]:
    """The running mean of the counts, and what is shown of it: a bin moves when its bar would be seen to move."""
    if share >= 1.0 or len(smooth) != len(now.counts):
        return list(now.counts), list(now.counts)
    if (was.low, was.high) != (now.low, now.high):
        total, before = sum(smooth), sum(shown)
        cells = len(smooth)
        smooth = [n * total for n in rebin(smooth, was.low, was.high, now.low, now.high, cells, tails=True)]
        shown = [n * before for n in rebin(shown, was.low, was.high, now.low, now.high, cells, tails=True)]
    smooth = [a + (b - a) * share for a, b in zip(smooth, now.counts, strict=True)]
    seen = [b if b >= (LEAST / 2 if a else LEAST) else 0.0 for a, b in zip(shown, smooth, strict=True)]
    flat = (sum(smooth) or 1.0) / max(1, len(smooth))
    return smooth, [
        a if abs(height(b / flat) - height(a / flat)) < STEADY_LEVEL and (b == 0) == (a == 0) else b
        for a, b in zip(shown, seen, strict=True)
    ]


def _towards(old: float, new: float, share: float) -> float:
    return old + (new - old) * share if math.isfinite(old) and math.isfinite(new) else new
