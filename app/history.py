"""The stream of snapshots accumulated for drawing: curves of bounded size, smoothed rows, ghosts and marks.

It is pure (no clock, no terminal), so that a live view, a replayed run and a test see the same thing.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import NamedTuple, TypeAlias, TypeVar

from app.glyphs import rebin
from makemore_core.snapshot import (
    ENDED,
    Activation,
    Event,
    Exhibit,
    Gradient,
    Histogram,
    Intervention,
    Layer,
    Snapshot,
    Weight,
)

MOST_BUCKETS = 2048
SHORT_BUCKETS = 512  # of the courses that every layer and weight has
MOST_GHOSTS = 4
SHOWING = 120  # snapshots: what came before so many is less than a hundredth of what is shown
SMOOTHING = 1.2  # seconds: histograms and statistics of a running net are means of about so long
LEAP = 4.0  # a scale that has moved by this factor is no noise: what came before is no part of the mean
BEAT = 4  # snapshots: a curve of a whole run need not be drawn with each
GRADIENT_STDS = 4  # the gradient scale reaches so many stds of the median layer
COMPARABLE = 10.0  # gradient scales of a run and its twin that are not further apart become one
UNBOUNDED_STDS = 3
RATE = 2.0  # seconds: as steady as steps a second are shown
STEADY = 0.75  # a number is shown anew when it has moved by so much of its last digit shown
STEADY_LEVEL = 0.4  # a bar, when it has moved by so much of an eighth
STILL = ("paused", *ENDED)


class Bucket(NamedTuple):
    """What was seen in a stretch of steps."""

    low: float
    high: float
    mean: float


Key = TypeVar("Key")
Trace = TypeVar("Trace")

_Sums: TypeAlias = tuple[float, float, float, float]  # low, high, total, count


class Series:
    """Numbers by step in at most `most` stretches of equal length (a power of two), each with minimum,
    maximum and mean, so that no spike is lost however long the run. Numbers that are not finite are only counted.
    """

    def __init__(self, most: int = MOST_BUCKETS) -> None:
        self.most = most
        self.stride = 1
        self.start: int | None = None
        self.end = 0
        self.last = math.nan
        self.broken: int | None = None  # the first step with a number that is not finite
        self._buckets: list[_Sums | None] = []
        self._bounds: tuple[float, float] | None = None  # of all buckets but the last
        self._whole: dict[int, list[Bucket | None]] = {}  # by steps to a column: the columns that will not change

    def __len__(self) -> int:
        return len(self._buckets)

    def still(self) -> Series:
        """A copy that stays as it is; it takes microseconds, for the stretches themselves never change."""
        other = copy.copy(self)
        other._buckets, other._whole = list(self._buckets), {}
        return other

    def add(self, step: int, value: float) -> None:
        """One number; steps may only grow, what was seen already is left out."""
        if self.start is None:
            self.start = step
        elif step < self.end:
            return
        self.end, self.last = step + 1, value
        self._put(step, (value,))

    def extend(self, first: int, values: Sequence[float]) -> None:
        """The numbers of the steps from `first` on; what was seen already is left out."""
        if self.start is not None and first < self.end:
            values, first = values[self.end - first :], self.end
        if not values:
            return
        self.end, self.last = first + len(values), values[-1]
        if self.start is None:
            self.start = first
        at = 0
        while at < len(values):
            step = first + at
            until = at + self.stride - step % self.stride
            self._put(step, values[at:until])
            at = until

    def spread(self, first: int, span: int, values: Sequence[float], mean: float | None) -> None:
        """What is left of the numbers of `span` steps from `first` on: their extremes in order, and their mean."""
        if self.start is not None and first < self.end:
            first, span = self.end, span - (self.end - first)
        if not values or span <= 0:
            return
        self.end, self.last = first + span, values[-1]
        if self.start is None:
            self.start = first
        for i, value in enumerate(values):
            self._put(first + i * span // len(values), (value,), value if mean is None else mean, span / len(values))

    def cut(self, step: int) -> None:
        """Forget the numbers from a step on, and those before it in the stretch that it is in."""
        if self.start is None or step >= self.end:
            return
        del self._buckets[max(0, step // self.stride - self.start // self.stride) :]
        self.start, self.end = (self.start if self._buckets else None), step
        self.broken = None if self.broken is None or self.broken >= step else self.broken
        self._bounds, self._whole = None, {}

    def _put(self, step: int, values: Sequence[float], mean: float | None = None, weight: float = 1.0) -> None:
        total = sum(values)
        if not math.isfinite(total):
            if self.broken is None:
                self.broken = step + next(i for i, value in enumerate(values) if not math.isfinite(value))
            values = [value for value in values if math.isfinite(value)]
            total = sum(values)
        assert self.start is not None
        at = step // self.stride - self.start // self.stride
        while at >= self.most:
            self._merge()
            at = step // self.stride - self.start // self.stride
        if at >= len(self._buckets):
            self._bounds = None
            self._buckets.extend([None] * (at + 1 - len(self._buckets)))
        if not values:
            return
        bucket = self._buckets[at]
        low, high, count = min(values), max(values), weight * len(values)
        total = total if mean is None else mean * count
        if bucket is None:
            self._buckets[at] = low, high, total, count
        else:
            self._buckets[at] = min(bucket[0], low), max(bucket[1], high), bucket[2] + total, bucket[3] + count

    def _merge(self) -> None:
        assert self.start is not None
        old: list[_Sums | None] = [*([None] * (self.start // self.stride % 2)), *self._buckets]
        self.stride *= 2
        self._bounds = None
        old += [None] * (len(old) % 2)
        self._buckets = [
            b if a is None else a if b is None else (min(a[0], b[0]), max(a[1], b[1]), a[2] + b[2], a[3] + b[3])
            for a, b in zip(old[::2], old[1::2], strict=True)
        ]

    def columns(self, per_column: int) -> list[Bucket | None]:
        """Stretches of `per_column` steps from step 0 up to the last step seen; None where nothing was.

        A stretch shorter than a bucket repeats the bucket. Read the list, do not change it.
        """
        if self.start is None:
            return []
        whole = self._whole.get(per_column)
        if whole is None:
            if len(self._whole) > 8:
                self._whole.clear()
            whole = self._whole[per_column] = []
        complete = (
            self.end // per_column if per_column >= self.stride else self.end // self.stride * self.stride // per_column
        )
        for column in range(len(whole), complete):
            whole.append(self._column(column, per_column))
        return [*whole, *(self._column(column, per_column) for column in range(len(whole), -(-self.end // per_column)))]

    def _column(self, column: int, per_column: int) -> Bucket | None:
        assert self.start is not None
        base = self.start // self.stride
        left = column * per_column // self.stride - base
        right = max(left + 1, -(-(column + 1) * per_column // self.stride) - base)
        found = _joined(self._buckets[max(0, left) : max(0, right)])
        return None if found is None else Bucket(found[0], found[1], found[2] / found[3])

    def bounds(self) -> tuple[float, float] | None:
        """Smallest and largest mean of a stretch; None where there is nothing."""
        if not self._buckets:
            return None
        if self._bounds is None:
            means = [bucket[2] / bucket[3] for bucket in self._buckets[:-1] if bucket is not None]
            self._bounds = (min(means), max(means)) if means else (math.inf, -math.inf)
        (low, high), last = self._bounds, self._buckets[-1]
        if last is not None:
            low, high = min(low, last[2] / last[3]), max(high, last[2] / last[3])
        return (low, high) if low <= high else None


def _joined(buckets: Iterable[_Sums | None]) -> _Sums | None:
    found = [bucket for bucket in buckets if bucket is not None]
    if len(found) < 2:
        return found[0] if found else None
    low, high, total, count = zip(*found, strict=True)
    return min(low), max(high), sum(total), sum(count)


def _short() -> Series:
    return Series(SHORT_BUCKETS)


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
    seen: int = 1
    version: int = 0  # counts the changes of what is shown
    std: Series = field(default_factory=_short)
    saturated: Series = field(default_factory=_short)
    gradient_std: Series = field(default_factory=_short)

    def still(self) -> LayerTrace:
        """A copy that stays as it is."""
        return replace(
            self,
            smooth=replace(self.smooth),
            std=self.std.still(),
            saturated=self.saturated.still(),
            gradient_std=self.gradient_std.still(),
        )

    def cut(self, step: int) -> None:
        """Forget the course from a step on."""
        for series in (self.std, self.saturated, self.gradient_std):
            series.cut(step)


@dataclass(eq=False)
class WeightTrace:
    """A weight's numbers as drawn, and the course of its update:data and grad:data."""

    weight: Weight
    newest: Weight
    smooth: list[float]
    seen: int = 1
    version: int = 0
    update: Series = field(default_factory=_short)
    grad: Series = field(default_factory=_short)

    def still(self) -> WeightTrace:
        """A copy that stays as it is."""
        return replace(self, update=self.update.still(), grad=self.grad.still())

    def cut(self, step: int) -> None:
        """Forget the course from a step on."""
        self.update.cut(step)
        self.grad.cut(step)


@dataclass(eq=False)
class Attempt:
    """One run from its seed to a restart: its curves."""

    number: int
    trained: float = 0.0  # seconds, but for slow motion
    loss: Series = field(default_factory=Series)
    val: list[tuple[int, float]] = field(default_factory=list)
    train: list[tuple[int, float]] = field(default_factory=list)

    def still(self) -> Attempt:
        """A copy that stays as it is."""
        return replace(self, loss=self.loss.still(), val=list(self.val), train=list(self.train))

    def cut(self, step: int) -> None:
        """Forget the curves from a step on."""
        self.loss.cut(step)
        self.val = [point for point in self.val if point[0] <= step]
        self.train = [point for point in self.train if point[0] <= step]


class History:
    """Feed it events; read the fields. A restart turns the curves so far into a ghost."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self.exhibits: dict[str, Exhibit] = {}
        self.attempt = Attempt(0)
        self.ghosts: list[Attempt] = []
        self.twin: History | None = None  # of a second net in lock-step
        self.layers: dict[tuple[int, str], LayerTrace] = {}
        self.weights: dict[str, WeightTrace] = {}
        self.rate = 0.0
        self._seen: Snapshot | None = None  # the one that the layers are of
        self.gradient_scale = 0.0
        self.activation_scale = 0.0  # of unbounded units
        self.version = 0
        self._count = 0
        self.beat = 0  # counts the times at which plots are worth drawing anew

    def still(self) -> History:
        """A copy that stays as it is while this one goes on: what a frozen view is drawn from."""
        other = copy.copy(self)
        other.exhibits, other.attempt = dict(self.exhibits), self.attempt.still()
        other.layers = {key: trace.still() for key, trace in self.layers.items()}
        other.weights = {key: trace.still() for key, trace in self.weights.items()}
        other.twin = self.twin.still() if self.twin else None
        return other

    # --- in ---

    def feed(self, events: Iterable[Event]) -> None:
        """Take in what came, oldest first. Of a long record only the end is smoothed: nothing before it shows."""
        for event, shows in _ends(events, SHOWING):
            self.version += 1
            if isinstance(event, Exhibit):
                self.exhibits[event.name] = event
            else:
                self._take(event, shows)

    def _take(self, snapshot: Snapshot, shows: bool) -> None:
        before = self.snapshot
        if before is not None and (snapshot.attempt > before.attempt or snapshot.run != before.run):
            if len(self.attempt.loss):
                self.ghosts = [*self.ghosts, self.attempt][-MOST_GHOSTS:]
            self._begin(Attempt(snapshot.attempt))
        elif before is not None and (snapshot.attempt, snapshot.step) < (before.attempt, before.step):
            self._go_back(snapshot)
        elif before is not None and before.state == "running" and before.pace is None:
            self.attempt.trained += snapshot.time - before.time
        self.attempt.number = snapshot.attempt
        self._take_losses(snapshot)
        self._take_splits(snapshot)
        still = snapshot.state in STILL
        if snapshot.steps_per_second > 0:
            share = 1.0  # but for a rate that wanders: not that of a pause's end, nor one that is held
            if before is not None and self.rate and not still and before.pace is None and snapshot.pace is None:
                share = _share(before, snapshot, RATE)
            self.rate += (snapshot.steps_per_second - self.rate) * share
        seen = self._seen
        if (snapshot.layers or snapshot.weights) and (still or seen is None or seen_at(seen) != seen_at(snapshot)):
            share = 1.0 if still or seen is None else _share(seen, snapshot, SMOOTHING)
            self._take_layers(snapshot, share, shows)
            self._take_weights(snapshot, share, shows)
            self._rescale()
            self._seen = snapshot
        if snapshot.twin is None:
            self.twin = None
        else:
            self.twin = self.twin or History()
            self.twin._take(snapshot.twin, shows)
            scales = sorted((self.gradient_scale, self.twin.gradient_scale))
            if scales[1] <= COMPARABLE * scales[0]:
                self.gradient_scale = self.twin.gradient_scale = scales[1]
        self.snapshot = snapshot
        self._count += 1
        self.beat += still or before is None or before.state != snapshot.state or self._count % BEAT == 0

    def _go_back(self, snapshot: Snapshot) -> None:
        """The run goes on from a checkpoint: what an earlier life did after it comes again, or comes another way."""
        if snapshot.attempt < self.attempt.number:
            again = [ghost.still() for ghost in self.ghosts if ghost.number == snapshot.attempt]
            self.ghosts = [ghost for ghost in self.ghosts if ghost.number < snapshot.attempt]
            self._begin(again[-1] if again else Attempt(snapshot.attempt))
        self.attempt.cut(snapshot.step)
        for layer in self.layers.values():
            layer.cut(snapshot.step)
        for weight in self.weights.values():
            weight.cut(snapshot.step)

    def _begin(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.layers, self.weights, self._seen = {}, {}, None
        self.rate = 0.0
        self.gradient_scale = self.activation_scale = 0.0

    def _take_losses(self, snapshot: Snapshot) -> None:
        losses = snapshot.losses
        if snapshot.losses_span is not None:
            first = snapshot.step - snapshot.losses_span
            self.attempt.loss.spread(first, snapshot.losses_span, losses, snapshot.losses_mean)
        else:
            self.attempt.loss.extend(snapshot.step - len(losses), losses)

    def _take_splits(self, snapshot: Snapshot) -> None:
        splits = snapshot.splits
        if splits is None:
            return
        for points, value in ((self.attempt.val, splits.val), (self.attempt.train, splits.train)):
            if value is not None and (not points or points[-1][0] < splits.step):
                points.append((splits.step, value))
                if len(points) > 1024:
                    del points[1::2]

    def _take_layers(self, snapshot: Snapshot, share: float, shows: bool) -> None:
        self.layers = _numbered_anew(self.layers, [(layer.index, layer.kind) for layer in snapshot.layers])
        kept: dict[tuple[int, str], LayerTrace] = {}
        for layer in snapshot.layers:
            key = layer.index, layer.kind
            trace = self.layers.get(key)
            if trace is None:
                trace = _begin_trace(layer, seen_at(snapshot))
            elif not shows:
                trace.layer, trace.seen = layer, 0
            else:
                leapt = _leapt(trace.smooth.numbers, _layer_numbers(layer), SCALES_OF_LAYER)
                trace.seen = 1 if leapt else trace.seen + 1
                _mix(trace, layer, max(share, 1 / trace.seen))
            for series, value in (
                (trace.std, layer.activation.std),
                (trace.saturated, layer.activation.saturated),
                (trace.gradient_std, layer.gradient.std),
            ):
                series.add(seen_at(snapshot), value)
            kept[key] = trace
        self.layers = kept

    def _take_weights(self, snapshot: Snapshot, share: float, shows: bool) -> None:
        self.weights = _numbered_anew(self.weights, [weight.name for weight in snapshot.weights])
        kept: dict[str, WeightTrace] = {}
        for weight in snapshot.weights:
            trace = self.weights.get(weight.name)
            if trace is None:
                trace = WeightTrace(weight, weight, list(_weight_numbers(weight)))
            elif not shows:
                trace.seen = 0
            else:
                leapt = _leapt(trace.smooth, _weight_numbers(weight), SCALES_OF_WEIGHT)
                trace.seen = 1 if leapt else trace.seen + 1
                mixed = max(share, 1 / trace.seen)
                trace.smooth = [
                    _towards(a, b, mixed) for a, b in zip(trace.smooth, _weight_numbers(weight), strict=True)
                ]
                shown = [
                    new if mixed >= 1.0 else steady(old, new, digit(new) if at < 4 else 0.1)
                    for at, (old, new) in enumerate(zip(_weight_numbers(trace.weight), trace.smooth, strict=True))
                ]
                before, trace.weight = trace.weight, Weight(weight.name, weight.shape, weight.layer, *shown)
                trace.version += trace.weight != before
                trace.newest = weight
            trace.update.add(seen_at(snapshot), weight.update_data_log10)
            trace.grad.add(seen_at(snapshot), weight.grad_data_ratio)
            kept[weight.name] = trace
        self.weights = kept

    # --- scales ---

    def _rescale(self) -> None:
        """Scales that all layers share: kept until the net has left them clearly, so that shapes can be compared."""
        stds = [t.layer.gradient.std for t in self.layers.values()]
        self.gradient_scale = _scale(self.gradient_scale, GRADIENT_STDS, stds)
        open_ended = [
            abs(t.layer.activation.mean) + t.layer.activation.std
            for t in self.layers.values()
            if not bounded(t.layer.kind)
        ]
        self.activation_scale = _scale(self.activation_scale, UNBOUNDED_STDS, open_ended)

    def reset_scales(self) -> None:
        """Choose all scales anew, for the present attempt alone."""
        self.ghosts = []
        self.gradient_scale = self.activation_scale = 0.0
        self._rescale()

    @property
    def marks(self) -> tuple[Intervention, ...]:
        """What was changed during the present attempt, and what began it."""
        if self.snapshot is None:
            return ()
        return tuple(mark for mark in self.snapshot.interventions if mark.attempt == self.attempt.number)


def _numbered_anew(traces: dict[Key, Trace], keys: list[Key]) -> dict[Key, Trace]:
    """The same traces by new keys: a normalisation that comes or goes on the live net numbers every layer anew."""
    if traces.keys() == set(keys):
        return traces
    kinds = [[key[1:] if isinstance(key, tuple) else () for key in some] for some in (traces, keys)]
    return dict(zip(keys, traces.values(), strict=True)) if kinds[0] == kinds[1] else traces


def _ends(events: Iterable[Event], size: int) -> Iterator[tuple[Event, bool]]:
    """The events, each with whether it is among the last so many."""
    waiting: deque[Event] = deque()
    for event in events:
        waiting.append(event)
        if len(waiting) > size:
            yield waiting.popleft(), False
    for event in waiting:
        yield event, True


BOUNDED = ("tanh", "sigmoid", "softsign", "hardtanh", "hardsigmoid", "softmax")


def bounded(kind: str) -> bool:
    """Whether a module of that kind gives nothing outside -1..1."""
    return kind.lower() in BOUNDED


def _scale(now: float, times: int, sizes: Iterable[float]) -> float:
    finite = [size for size in sizes if math.isfinite(size) and size > 0]
    if not finite:
        return now
    wanted = times * median(finite)
    return now if now and 0.5 * now <= wanted <= 1.25 * now else round_up(wanted)


def round_up(value: float) -> float:
    """The next number above with a plain first digit or two: 1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8 and so on."""
    if not value > 0 or not math.isfinite(value):
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next(
        (float(f"{k * unit:.6g}") for k in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if k * unit >= value * 0.999), value
    )


def digit(value: float) -> float:
    """The worth of the second digit of a number: what `2.6e-3` can show of it."""
    if not value or not math.isfinite(value):
        return 0.0
    return float(10.0 ** (math.floor(math.log10(abs(value))) - 1))


def steady(shown: float, new: float, unit: float) -> float:
    """The number to show: as before, until the new one has left it by most of what the last digit is worth."""
    return shown if abs(new - shown) < STEADY * unit else new


def seen_at(snapshot: Snapshot) -> int:
    """The step that the layers and weights of a snapshot are of."""
    return snapshot.step if snapshot.layers_step is None else snapshot.layers_step


def _share(before: Snapshot, now: Snapshot, seconds: float) -> float:
    """The weight of the newest in a mean over about so many seconds: nearly all where the one before is older."""
    return 1 - math.exp(-max(0.0, now.time - before.time) / seconds)


def _leapt(before: Sequence[float], now: Sequence[float], scales: Sequence[int]) -> bool:
    """Whether one of the numbers that are scales has become many times as large or as small."""
    return any(
        max(before[at], now[at]) > LEAP * min(before[at], now[at])
        for at in scales
        if math.isfinite(before[at]) and math.isfinite(now[at])
    )


def _weight_numbers(weight: Weight) -> tuple[float, float, float, float, float]:
    return weight.grad_mean, weight.grad_std, weight.data_std, weight.grad_data_ratio, weight.update_data_log10


# Which of the numbers are scales: std of activation and gradient; std of gradient and data, and their ratio.
SCALES_OF_LAYER, SCALES_OF_WEIGHT = (1, 4), (1, 2, 3)


def _layer_numbers(layer: Layer) -> tuple[float, float, float, float, float]:
    a, g = layer.activation, layer.gradient
    return a.mean, a.std, a.saturated, g.mean, g.std


def _begin_trace(layer: Layer, step: int) -> LayerTrace:
    activation, gradient = layer.activation.histogram.counts, layer.gradient.histogram.counts
    smooth = Smooth(list(_layer_numbers(layer)), list(activation), list(gradient))
    return LayerTrace(layer, layer, layer, step, list(activation), list(gradient), smooth)


def _mix(trace: LayerTrace, layer: Layer, share: float) -> None:
    """Move the row towards the newest statistics; a share of 1 shows them exactly."""
    smooth, old = trace.smooth, trace.newest
    before = trace.layer, trace.activation_counts, trace.gradient_counts
    smooth.numbers = [_towards(a, b, share) for a, b in zip(smooth.numbers, _layer_numbers(layer), strict=True)]
    smooth.activation_counts, trace.activation_counts = _mix_counts(
        smooth.activation_counts, trace.activation_counts, old.activation.histogram, layer.activation.histogram, share
    )
    smooth.gradient_counts, trace.gradient_counts = _mix_counts(
        smooth.gradient_counts, trace.gradient_counts, old.gradient.histogram, layer.gradient.histogram, share
    )
    trace.newest = layer
    trace.layer = layer if share >= 1.0 else _steady_layer(trace, layer)
    trace.version += (trace.layer, trace.activation_counts, trace.gradient_counts) != before


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
        smooth = [n * total for n in rebin(smooth, was.low, was.high, now.low, now.high, cells)]
        shown = [n * before for n in rebin(shown, was.low, was.high, now.low, now.high, cells)]
    smooth = [a + (b - a) * share for a, b in zip(smooth, now.counts, strict=True)]
    flat = (sum(smooth) or 1.0) * 5 / max(1, len(smooth))  # what fills a bar: five times a flat histogram
    return smooth, [
        a if abs((b / flat) ** 0.75 - (a / flat) ** 0.75) * 8 < STEADY_LEVEL and (b == 0) == (a == 0) else b
        for a, b in zip(shown, smooth, strict=True)
    ]


def _towards(old: float, new: float, share: float) -> float:
    return old + (new - old) * share if math.isfinite(old) and math.isfinite(new) else new
