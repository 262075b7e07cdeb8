"""Synthetic snapshots for the views, and a stream that makes them up as it goes; `python -m tests.canned` shows it.

Built from the schema alone: no net, no torch. The numbers imitate the shapes of the lectures' pictures.
"""

from __future__ import annotations

import itertools
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.views.lines import Line
from makemore_core.command import Command, Look, Pause, Restart, Resume, Sample, Set, Step, Stop, in_words
from makemore_core.config import LIVE_FIELDS, Config
from makemore_core.doctor import Finding
from makemore_core.snapshot import (
    BINS,
    Activation,
    Event,
    Exhibit,
    Gradient,
    Histogram,
    Intervention,
    Layer,
    Snapshot,
    Splits,
    Weight,
)

NAMES = (
    "mariah",
    "kaleo",
    "jennan",
    "azriel",
    "emmanu",
    "tayden",
    "lorie",
    "anniah",
    "deklyn",
    "sophi",
    "rylee",
    "zoren",
)
HOSTILE = (
    "\x1b[31mred",
    "[/x]",
    "[bold]b[/]",
    "\x9b2Jc1",
    "\u202eabc",
    "日本語の名前",
    "e\u0301\u0301\u0301\u0301a",
    "\r\n\t",
    "",
)


FOUND = Finding(
    name="activations-shrink",
    what="spread shrinks with depth",
    evidence="std 0.62 → 0.32",
    why="Tanh squeezes.",
    suggestion="gain 5/3",
    fix={"gain": 5 / 3},
)


@dataclass(frozen=True)
class Shape:
    """How the statistics of a net look: pre-activation spread by depth, gradient by depth, update:data."""

    layers: int = 5
    kind: str = "Tanh"
    spread: float = 0.85
    growth: float = 1.0  # of the spread, per layer
    gradient: float = 2e-3
    gradient_growth: float = 1.0  # towards the input, per layer
    update: float = -3.0
    update_slope: float = 0.0  # per layer
    loss: float = 2.1
    first_loss: float = 3.29


HEALTHY = Shape()
SICK = Shape(spread=2.6, growth=1.05, gradient_growth=1.7, update=-2.2, update_slope=-0.25, loss=2.4, first_loss=3.6)
SHRINKING = Shape(spread=1.0, growth=0.72, gradient_growth=0.8, update=-2.6, update_slope=-0.2, loss=2.2)
ONE_LAYER = Shape(layers=1)
HUNDRED = Shape(layers=100, growth=0.985)
RELU = Shape(kind="ReLU", spread=1.4)


def gaussian(spread: float, low: float, high: float, tanh: bool, count: int, noise: random.Random) -> Histogram:
    """Counts of normal numbers, through a tanh if asked, as a minibatch would leave them."""
    width = (high - low) / BINS
    edges = [low + width * at for at in range(BINS + 1)]
    if tanh:
        edges = [math.atanh(min(1 - 1e-9, max(-1 + 1e-9, edge))) for edge in edges]
    below = [0.5 * (1 + math.erf(edge / max(spread, 1e-6) / math.sqrt(2))) for edge in edges]
    below[0], below[-1] = 0.0, 1.0
    expected = [(b - a) * count for a, b in itertools.pairwise(below)]
    return Histogram(low, high, tuple(max(0, round(noise.gauss(e, math.sqrt(e)))) for e in expected))


def layer(shape: Shape, at: int, noise: random.Random) -> Layer:
    """The layer number `at`, as it looks at that step."""
    spread = shape.spread * shape.growth**at
    bounded = shape.kind == "Tanh"
    histogram = gaussian(spread, -1.0 if bounded else -6.0, 1.0 if bounded else 6.0, bounded, 3200, noise)
    centres = [histogram.low + (k + 0.5) * (histogram.high - histogram.low) / BINS for k in range(BINS)]
    total = sum(histogram.counts) or 1
    mean = sum(c * n for c, n in zip(centres, histogram.counts, strict=True)) / total
    std = math.sqrt(sum((c - mean) ** 2 * n for c, n in zip(centres, histogram.counts, strict=True)) / total)
    limit = math.atanh(0.97)
    saturated = (1 - math.erf(limit / max(spread, 1e-6) / math.sqrt(2))) * noise.gauss(1, 0.05) if bounded else 0.5
    grad = shape.gradient * shape.gradient_growth ** (shape.layers - 1 - at) * noise.gauss(1, 0.04)
    reach = 4 * shape.gradient * shape.gradient_growth ** ((shape.layers - 1) / 2)  # stds of the median layer
    bins = gaussian(grad, -reach, reach, False, 3200, noise)
    return Layer(
        2 + 3 * at,
        shape.kind,
        Activation(mean, std, min(1.0, max(0.0, saturated)), 100, None, histogram),
        Gradient(noise.gauss(0, grad / 50), grad, bins),
    )


def weight(shape: Shape, at: int, step: int, noise: random.Random) -> Weight:
    """The weight number `at`: the embedding, one for each layer, the output."""
    last = at == shape.layers + 1
    name = "C" if at == 0 else "output" if last else f"W{at}"
    dims = (27, 10) if at == 0 else (30, 100) if at == 1 else (100, 27) if last else (100, 100)
    update = shape.update + shape.update_slope * at + 0.6 * math.exp(-step / 3000) + noise.gauss(0, 0.03)
    return Weight(
        name, dims, None if last else 2 + 3 * max(0, at - 1), noise.gauss(0, 1e-5), 7e-3, 0.12,
        10 ** (update + 1.3), update,
    )  # fmt: skip


def losses(shape: Shape, first: int, last: int) -> tuple[float, ...]:
    """A noisy loss that falls, for the steps `first` .. `last` - 1."""
    noise = random.Random(first)
    return tuple(
        shape.loss + (shape.first_loss - shape.loss) * math.exp(-((step / 4000) ** 0.5)) + noise.gauss(0, 0.12)
        if step
        else shape.first_loss
        for step in range(first, last)
    )


def snapshot(shape: Shape = HEALTHY, step: int = 1000, *, since: int | None = None, **fields: object) -> Snapshot:
    """A whole snapshot after `step` updates; `since`: the step of the one before. Any field can be given."""
    noise = random.Random(step * 7919 + shape.layers)
    first = max(0, step - 100) if since is None else since
    told = losses(shape, first, step)
    values: dict[str, object] = {
        "run": "canned",
        "state": "running",
        "step": step,
        "steps": 200_000,
        "time": 1_700_000_000.0 + step / 5000,
        "loss": told[-1] if told else None,
        "smoothed_loss": sum(told) / len(told) if told else None,
        "first_loss": shape.first_loss,
        "losses": told,
        "expected_loss": math.log(27),
        "lr": 0.1,
        "params": 47_024,
        "preset": "deep-batchnorm",
        "config": Config().as_dict(),
        "device": "cpu",
        "engine": "plain",
        "steps_per_second": 5000.0 + noise.gauss(0, 60),
        "overhead": 0.011,
        "splits": Splits(None, shape.loss + 1.1 * math.exp(-((step / 4000) ** 0.5)), None, step // 2000 * 2000),
        "layers": tuple(layer(shape, at, noise) for at in range(shape.layers)),
        "weights": tuple(weight(shape, at, step, noise) for at in range(shape.layers + 2)),
        "names": NAMES,
        "names_step": step // 5000 * 5000,
    }
    return Snapshot(**{**values, **fields})  # type: ignore[arg-type]


def nan(step: int = 1000) -> Snapshot:
    """A net that has diverged: nothing in it is a number any more."""
    healthy = snapshot(HEALTHY, step)
    empty = Histogram(-1.0, 1.0, (0,) * BINS)
    bad, worse = math.nan, math.inf
    return snapshot(
        HEALTHY, step, state="diverged", loss=bad, smoothed_loss=bad, losses=(*healthy.losses[:50], *(bad,) * 50),
        splits=Splits(None, worse, None, step),
        layers=tuple(
            Layer(old.index, old.kind, Activation(bad, worse, bad, 100, None, empty), Gradient(bad, bad, empty))
            for old in healthy.layers
        ),
        weights=tuple(
            Weight(w.name, w.shape, w.layer, bad, worse, bad, bad, -worse) for w in healthy.weights
        ),
        message="the loss is not a number since step 950",
    )  # fmt: skip


def empty(step: int = 0) -> Snapshot:
    """Before the first update: no layers, no losses."""
    return snapshot(
        HEALTHY,
        step,
        layers=(),
        weights=(),
        losses=(),
        loss=None,
        smoothed_loss=None,
        splits=None,
        names=(),
        names_step=None,
    )


def course(shape: Shape = HEALTHY, until: int = 20_000, every: int = 500, **fields: object) -> list[Snapshot]:
    """A run up to a step, a snapshot after its first update and then `every` so many."""
    steps = [1, *range(every, until + 1, every)]
    return [snapshot(shape, step, since=before, **fields) for before, step in itertools.pairwise([0, *steps])]


def text_of(lines: Sequence[Line]) -> list[str]:
    """The bare text of lines, without the blanks at their ends."""
    return ["".join(text for text, _ in line).rstrip() for line in lines]


class FakeStream:
    """A run that is made up: it moves with the clock it is given, and obeys commands."""

    def __init__(
        self, shape: Shape = HEALTHY, clock: Callable[[], float] = time.monotonic, rate: float = 5000.0
    ) -> None:
        self.shape, self.clock, self.rate = shape, clock, rate
        self.sent: list[Command] = []
        self.config = Config()
        self.state, self.step, self.attempt = "running", 0, 0
        self.marks: list[Intervention] = []
        self.names, self.names_step = NAMES, 0
        self.last = clock()
        self.every = 0.1
        self._answers: list[Event] = []

    def drain(self) -> list[Event]:
        """What happened since the last call."""
        now = self.clock()
        events, self._answers = self._answers, []
        if self.state == "running" and now - self.last >= self.every:
            self._advance(round((now - self.last) * self.rate))
            events.append(self._snapshot())
            self.last = now
        elif self.state != "running":
            self.last = now
        return events

    def _advance(self, steps: int) -> None:
        steps = max(1, steps) if self.step else 1
        self.before, self.step = self.step, min(self.config.steps, self.step + steps)
        if self.step >= self.config.steps:
            self.state = "finished"

    def _snapshot(self) -> Snapshot:
        return snapshot(
            self.shape, self.step, since=max(getattr(self, "before", 0), self.step - 5000), state=self.state,
            attempt=self.attempt, steps=self.config.steps, config=self.config.as_dict(), lr=self.config.lr,
            interventions=tuple(self.marks), names=self.names, names_step=self.names_step,
        )  # fmt: skip

    def send(self, command: Command) -> None:
        """Obey at once."""
        self.sent.append(command)
        if isinstance(command, Look):
            self._answers.append(Exhibit(command.name, self.step, {}, command.options))
            return
        if isinstance(command, Pause):
            self.state = "paused"
        elif isinstance(command, Resume):
            self.state = "running"
        elif isinstance(command, Step):
            self.state = "paused"
            self._advance(command.n)
        elif isinstance(command, Sample):
            self.names, self.names_step = (*self.names[1:], self.names[0]), self.step
        elif isinstance(command, Stop):
            self.state = "stopped"
        elif isinstance(command, Set | Restart):
            what = in_words(command, self.config.as_dict())
            if isinstance(command, Set):
                self.config = self.config.replace(command.changes)
                if self.state == "finished" and self.step < self.config.steps:
                    self.state = "running"
            if isinstance(command, Restart) or not (command.live or set(command.changes) <= LIVE_FIELDS):
                self.attempt, self.step, self.before = self.attempt + 1, 0, 0
            self.marks.append(Intervention(self.step, what, self.attempt))
        self._answers.append(self._snapshot())


NETS = {
    "healthy": HEALTHY, "sick": SICK, "shrinking": SHRINKING, "one": ONE_LAYER, "hundred": HUNDRED, "relu": RELU,
}  # fmt: skip


def main() -> int:
    """Show a net by name: `python -m tests.canned sick [--ascii] [--readonly]`."""
    from app.session_view import run_studio
    from app.studio import Studio

    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    stream = FakeStream(NETS[words[0] if words else "healthy"])
    studio = Studio(
        stream,
        ascii=True if "--ascii" in sys.argv else None,
        readonly="--readonly" in sys.argv,
    )
    return run_studio(studio, studio.exit)


if __name__ == "__main__":
    sys.exit(main())
