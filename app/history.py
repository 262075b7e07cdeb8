"""The stream of snapshots accumulated for drawing: curves of bounded size, smoothed rows, ghosts and marks.

It is pure (no clock, no terminal), so that a live view, a replayed run and a test see the same thing.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from statistics import median
from typing import NamedTuple, TypeVar

from app.series import Series
from app.traces import LayerTrace, WeightTrace
from makemore_core.config import Value
from makemore_core.snapshot import ENDED, Event, Exhibit, Intervention, Snapshot, same_net
from makemore_core.undo import MOST_LEFT

MOST_GHOSTS = 4  # earlier attempts that are drawn
MOST_PAST = 16  # that are kept, so that one gone back to goes on with its curve
MOST_TRACES = MOST_LEFT  # of them with the curves of every layer
RECENT = 120  # looks at the layers: what came before so many is less than a hundredth of what is shown
SMOOTHING = 1.2  # seconds: histograms and statistics of a running net are means of about so long
STDS = 3  # of the median layer that a scale reaches at most: less far than was counted
COMPARABLE = 4.0  # scales of a run and its twin that are not further apart become one
RATE = 2.0  # seconds: as steady as steps a second are shown
STILL = ("paused", *ENDED)

Key = TypeVar("Key")
Trace = TypeVar("Trace")


@dataclass(eq=False)
class Attempt:
    """One run from its seed, or from a live change, to the next restart or change: its curves, with those that it goes
    on from. One that was gone back to has the number of each of its lives.

    `began` is the step from which on it is another than the one it goes on from, `took` how many updates it had since
    when it was left; `again`: it was gone back to, and its curves are a later one's too.
    """

    number: int
    numbers: frozenset[int] = frozenset()
    began: int = 0
    took: int = 0
    again: bool = False
    loss: Series = field(default_factory=Series)
    val: list[tuple[int, float]] = field(default_factory=list)
    layers: dict[tuple[int, str], LayerTrace] = field(default_factory=dict)
    weights: dict[str, WeightTrace] = field(default_factory=dict)

    def copy(self) -> Attempt:
        """A copy that stays as it is."""
        return replace(
            self,
            loss=self.loss.copy(),
            val=list(self.val),
            layers={key: trace.copy() for key, trace in self.layers.items()},
            weights={key: trace.copy() for key, trace in self.weights.items()},
        )

    def cut(self, step: int) -> None:
        """Forget the curves from a step on."""
        self.loss.cut(step)
        for layer in self.layers.values():
            layer.cut(step)
        for weight in self.weights.values():
            weight.cut(step)
        self.val = [point for point in self.val if point[0] <= step]


class Beside(NamedTuple):
    """The curves of another run, to be compared with."""

    run: str
    attempt: Attempt


class History:
    """Feed it events; read the fields. A restart turns the curves so far into a ghost."""

    def __init__(self, beside: Beside | None = None) -> None:
        self.beside = beside
        self.snapshot: Snapshot | None = None
        self.exhibits: dict[str, Exhibit] = {}
        self.exhibit_configs: dict[str, dict[str, Value]] = {}  # the run's settings as each came, by name
        self.attempt = Attempt(0, frozenset({0}))
        self.past: dict[int, Attempt] = {}  # attempts before this one, by number
        self.hidden = -1  # the last of them that is not to be drawn
        self._twin: History | None = None
        self.rate = 0.0
        self._rates = 0  # that the present attempt's is a mean of
        self._seen: Snapshot | None = None  # the one that the layers are of
        self.gradient_scale = 0.0
        self.activation_scale = 0.0  # of unbounded units
        self.version = 0

    def copy(self) -> History:
        """A copy that stays as it is while this one goes on: what a frozen view is drawn from."""
        other = copy.copy(self)
        other.exhibits, other.attempt, other.past = dict(self.exhibits), self.attempt.copy(), dict(self.past)
        other._twin = self.twin.copy() if self.twin else None
        return other

    # --- in ---

    def feed(self, events: Iterable[Event]) -> None:
        """Take in what came, oldest first. Of a long record only its end is smoothed: nothing before it shows."""
        for event, recent in _with_recency(events):
            self.version += 1
            if isinstance(event, Exhibit):
                self.exhibits[event.name] = event
                self.exhibit_configs[event.name] = self.snapshot.config if self.snapshot else {}
            else:
                self._take(event, recent)

    def _take(self, snapshot: Snapshot, recent: bool) -> None:
        before = self.snapshot
        if before is not None and (snapshot.attempt > before.attempt or snapshot.run != before.run):
            self._leave(before.step)
            self._begin(snapshot)
        elif before is not None and (snapshot.attempt, snapshot.step) < (before.attempt, before.step):
            self._go_back(snapshot)
        elif before is None:
            self.attempt.number, self.attempt.numbers = snapshot.attempt, frozenset({snapshot.attempt})
        self._take_losses(snapshot)
        self._take_val(snapshot)
        still = snapshot.state in STILL
        if snapshot.steps_per_second > 0:
            share = 1.0  # but for a rate that wanders: not that of a pause's end, nor one that is held
            if before is not None and self.rate and not still and before.pace is None and snapshot.pace is None:
                share = _share(before, snapshot, RATE)
            self._rates += 1
            self.rate += (snapshot.steps_per_second - self.rate) * max(share, 1 / self._rates)
        seen = self._seen
        if _looked(snapshot) and (still or seen is None or seen_at(seen) != seen_at(snapshot)):
            share = 1.0 if still or seen is None else _share(seen, snapshot, SMOOTHING)
            self._take_layers(snapshot, share, recent)
            self._take_weights(snapshot, share, recent)
            self._rescale()
            self._seen = snapshot
        if snapshot.twin is not None:
            twin = self._twin = self._twin or History()
            twin._take(snapshot.twin, recent)
            for name in ("gradient_scale", "activation_scale"):
                small, large = sorted((getattr(self, name), getattr(twin, name)))
                if large <= COMPARABLE * small:
                    setattr(self, name, small)  # beyond which nothing may have been counted of the one
                    setattr(twin, name, small)
        self.snapshot = snapshot

    def _go_back(self, snapshot: Snapshot) -> None:
        """The run goes on from a checkpoint: what an earlier life did after it comes again, or comes another way."""
        if snapshot.attempt < self.attempt.number:
            again = self.past.get(snapshot.attempt)
            self.past = {number: past for number, past in self.past.items() if number < snapshot.attempt}
            self._show(again.copy() if again else Attempt(snapshot.attempt, frozenset({snapshot.attempt})))
        else:
            self.attempt = self.attempt.copy()  # what was drawn of the earlier life is not this one's
        self.attempt.cut(snapshot.step)

    def _leave(self, step: int) -> None:
        """Keep the present attempt, at `step` now, among the past ones, and of most of these no more than the losses.

        Those go first that nobody comes back to: what was gone back to, then what was trained least, but for the last.
        """
        self.attempt.took = step - self.attempt.began
        self.past[self.attempt.number] = self.attempt
        worst = sorted([*self.past.values()][:-1], key=lambda one: (not one.again, one.took))
        for attempt in worst[: max(0, len(self.past) - MOST_PAST)]:
            del self.past[attempt.number]
        traced = [attempt for attempt in worst if attempt.layers and attempt.number in self.past]
        for attempt in traced[: max(0, len(traced) + 1 - MOST_TRACES)]:
            attempt.layers, attempt.weights = {}, {}

    def _begin(self, snapshot: Snapshot) -> None:
        """A new attempt; where the run has gone back to the net of an earlier one, with the curves of that."""
        before = snapshot.step - (len(snapshot.losses) if snapshot.losses_span is None else snapshot.losses_span)
        number, origin = snapshot.attempt, self.past.get(-1 if snapshot.origin is None else snapshot.origin)
        attempt = origin.copy() if origin else Attempt(number)
        attempt.number, attempt.numbers = number, attempt.numbers | {number}
        if origin and origin.number < number - 1:  # gone back to; one that was left just now may be yet
            origin.again = True
        elif origin:
            attempt.began = before
        if self.snapshot is not None and same_net(self.snapshot, snapshot):
            self.attempt = attempt
        else:
            self._show(attempt)
        self.attempt.cut(before)

    def _show(self, attempt: Attempt) -> None:
        self.attempt, self._seen, self.exhibits = attempt, None, {}
        self.rate, self._rates = 0.0, 0
        self.gradient_scale = self.activation_scale = 0.0

    @property
    def twin(self) -> History | None:
        """That of a second net in lock-step, while there is one."""
        return self._twin if self.snapshot and self.snapshot.twin else None

    @property
    def layers(self) -> dict[tuple[int, str], LayerTrace]:
        """What is drawn of each layer, by index and kind."""
        return self.attempt.layers

    @property
    def weights(self) -> dict[str, WeightTrace]:
        """What is drawn of each weight, by name."""
        return self.attempt.weights

    @property
    def ghosts(self) -> list[Attempt]:
        """The latest earlier attempts, oldest first, but for those that a later one goes on from."""
        earlier = [past for number, past in self.past.items() if number > self.hidden and len(past.loss)]
        later = [attempt.numbers for attempt in [*earlier, self.attempt]]
        return [past for past in earlier if not any(past.numbers < numbers for numbers in later)][-MOST_GHOSTS:]

    def _take_losses(self, snapshot: Snapshot) -> None:
        losses = snapshot.losses
        if snapshot.losses_span is not None:
            first = snapshot.step - snapshot.losses_span
            self.attempt.loss.spread(first, snapshot.losses_span, losses, snapshot.losses_mean)
        else:
            self.attempt.loss.extend(snapshot.step - len(losses), losses)

    def _take_val(self, snapshot: Snapshot) -> None:
        splits, points = snapshot.splits, self.attempt.val
        if splits and splits.val is not None and (not points or points[-1][0] < splits.step):
            points.append((splits.step, splits.val))
            if len(points) > 1024:
                del points[1::2]

    def _take_layers(self, snapshot: Snapshot, share: float, recent: bool) -> None:
        before = _numbered_anew(self.layers, [(layer.index, layer.kind) for layer in snapshot.layers])
        kept: dict[tuple[int, str], LayerTrace] = {}
        for layer in snapshot.layers:
            key = layer.index, layer.kind
            trace = before.get(key) or LayerTrace.of(layer, seen_at(snapshot))
            trace.see(layer, seen_at(snapshot), share, recent)
            kept[key] = trace
        self.attempt.layers = kept

    def _take_weights(self, snapshot: Snapshot, share: float, recent: bool) -> None:
        before = _numbered_anew(self.weights, [weight.name for weight in snapshot.weights])
        kept: dict[str, WeightTrace] = {}
        for weight in snapshot.weights:
            trace = before.get(weight.name) or WeightTrace.of(weight)
            trace.see(weight, seen_at(snapshot), share, recent)
            kept[weight.name] = trace
        self.attempt.weights = kept

    # --- scales ---

    def _rescale(self) -> None:
        """Scales that all layers share: kept until the net has left them clearly, so that shapes can be compared."""
        stds = [t.layer.gradient.std for t in self.layers.values()]
        self.gradient_scale = _scale(self.gradient_scale, stds)
        open_ended = [
            math.hypot(t.layer.activation.mean, t.layer.activation.std)
            for t in self.layers.values()
            if not bounded(t.layer.kind)
        ]
        self.activation_scale = _scale(self.activation_scale, open_ended)

    def reset_scales(self) -> None:
        """Choose all scales anew, for the present attempt alone."""
        self.hidden = self.attempt.number - 1
        self.gradient_scale = self.activation_scale = 0.0
        self._rescale()

    @property
    def marks(self) -> tuple[Intervention, ...]:
        """What was changed during the present attempt and those that it goes on from, and what began them."""
        if self.snapshot is None:
            return ()
        return tuple(mark for mark in self.snapshot.interventions if mark.attempt in self.attempt.numbers)


def _numbered_anew(traces: dict[Key, Trace], keys: list[Key]) -> dict[Key, Trace]:
    """The same traces by new keys: a normalisation that comes or goes on the live net numbers every layer anew."""
    if traces.keys() == set(keys):
        return traces
    kinds = [[key[1:] if isinstance(key, tuple) else () for key in some] for some in (traces, keys)]
    return dict(zip(keys, traces.values(), strict=True)) if kinds[0] == kinds[1] else traces


def _with_recency(events: Iterable[Event]) -> Iterator[tuple[Event, bool]]:
    """The events, each with whether it is recent: not before the last `RECENT` looks at the layers or weights.

    Older looks only extend the curves.
    """
    waiting: deque[Event] = deque()
    looks = 0
    for event in events:
        waiting.append(event)
        looks += _looked(event)
        while looks > RECENT:
            looks -= _looked(waiting[0])
            yield waiting.popleft(), False
    for event in waiting:
        yield event, True


def _looked(event: Event) -> bool:
    return isinstance(event, Snapshot) and bool(event.layers or event.weights)


BOUNDED = ("tanh", "sigmoid", "softsign", "hardtanh", "hardsigmoid", "softmax")


def bounded(kind: str) -> bool:
    """Whether a module of that kind gives nothing outside -1..1."""
    return kind.lower() in BOUNDED


def _scale(now: float, sizes: Iterable[float]) -> float:
    finite = [size for size in sizes if math.isfinite(size) and size > 0]
    if not finite:
        return now
    wanted = STDS * median(finite)
    return now if now and 0.87 * now <= wanted <= 1.5 * now else round_down(wanted)


def round_down(value: float) -> float:
    """The next number below with a plain first digit or two: 1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8 and so on."""
    if not value > 0 or not math.isfinite(value):
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next(
        (float(f"{k * unit:.6g}") for k in (10, 8, 6, 5, 4, 3, 2.5, 2, 1.5, 1.2, 1) if k * unit <= value * 1.001), value
    )


def seen_at(snapshot: Snapshot) -> int:
    """The step that the layers and weights of a snapshot are of."""
    return snapshot.step if snapshot.layers_step is None else snapshot.layers_step


def _share(before: Snapshot, now: Snapshot, seconds: float) -> float:
    """The weight of the newest in a mean over about so many seconds: nearly all where the one before is older."""
    return 1 - math.exp(-max(0.0, now.time - before.time) / seconds)
