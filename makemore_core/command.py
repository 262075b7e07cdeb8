"""What somebody asks of a training run, and the channel between the two: commands go in, events come out.

Commands are data, applied between updates, so that the same one works from a key, a script or another process.
Nobody waits here: the queue of events drops its oldest where no one reads, the trainer never blocks on a reader.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Protocol, TypeAlias

import msgspec

from makemore_core.config import Value, parse, shown
from makemore_core.presets import preset_of
from makemore_core.snapshot import Event


class Pause(msgspec.Struct, frozen=True, tag="pause"):
    """Wait, after one more update where the last was not looked at; `Resume` or `Step` goes on."""


class Resume(msgspec.Struct, frozen=True, tag="resume"):
    """Go on after a pause."""


class Step(msgspec.Struct, frozen=True, tag="step"):
    """Run `n` updates, then pause."""

    n: int = 1


class Pace(msgspec.Struct, frozen=True, tag="pace"):
    """Run at most `per_second` updates a second, slow enough to be followed by eye; None: as fast as it goes."""

    per_second: float | None = None


class Set(msgspec.Struct, frozen=True, tag="set"):
    """Change fields of the configuration.

    Some need a new net: the run restarts from its seed, unless `live`, with which what cannot be applied to the
    weights as they are is refused. Fields that only the coming updates read (lr and the like) never restart. With
    `fresh` the run begins anew whatever is changed. A paused run whose net is changed makes one update, to be seen.
    `paused`: a new net waits after its first update.
    """

    changes: dict[str, Value]
    live: bool = False
    fresh: bool = False
    paused: bool = False


class Restart(msgspec.Struct, frozen=True, tag="restart"):
    """A new net from the same seed, with the present configuration."""


class Back(msgspec.Struct, frozen=True, tag="back"):
    """Undo a restart or a live change: go back to the net that it left, as it was then; again: to the one before that.

    `forth` undoes the going back. The net goes on as an attempt of its own. `attempt`, the one whose net is gone back
    to, is written down by the run, so that it is the same when a life of the run is repeated.
    """

    forth: bool = False
    attempt: int | None = None


class Twin(msgspec.Struct, frozen=True, tag="twin"):
    """Train a second net that differs in `changes`, in lock-step from the seed; without any, end that."""

    changes: dict[str, Value] = {}


class Sample(msgspec.Struct, frozen=True, tag="sample"):
    """Fresh names from the model; `temperature` divides the logits, for these and those that follow."""

    temperature: float = 1.0


class Checkpoint(msgspec.Struct, frozen=True, tag="checkpoint"):
    """Save now."""


class Look(msgspec.Struct, frozen=True, tag="look"):
    """Ask for an exhibit by name; the answer is an `Exhibit` event. Changes nothing."""

    name: str
    options: dict[str, Value] = {}


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Save and end the run."""


Command: TypeAlias = Pause | Resume | Step | Pace | Set | Restart | Back | Twin | Sample | Checkpoint | Look | Stop
COLDEST, HOTTEST = 0.001, 100.0  # temperatures: below, logits overflow; above, all characters are alike
MOST_STEPS = 1_000_000  # of one command
MOST_WAITING = 1024  # events, or commands, that nobody has taken
CHANGES = (Set, Restart, Back, Twin)  # what has to be made again, in order, to get the same weights

_decoder: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)


def command_from_json(line: bytes) -> Command:
    """Raises ValueError where the line is no command, in a sentence for people."""
    try:
        command = _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not a command: {error}") from None
    check(command)
    return command


def check(command: Command) -> None:
    """Raises ValueError for a command that no run could carry out."""
    if isinstance(command, Step) and not 1 <= command.n <= MOST_STEPS:
        raise ValueError(f"n={command.n}: has to be at least 1 and at most {MOST_STEPS:,}")
    if isinstance(command, Sample) and not COLDEST <= command.temperature <= HOTTEST:
        raise ValueError(f"temperature={command.temperature}: has to be at least {COLDEST} and at most {HOTTEST}")
    if isinstance(command, Pace) and command.per_second is not None and not 0.1 <= command.per_second <= 1e6:
        raise ValueError(
            f"pace {shown(command.per_second)}: has to be at least 0.1 and at most 1,000,000 steps a second"
        )
    if isinstance(command, Set | Twin):
        for name, value in command.changes.items():  # whether they fit each other, only the run's own config can say
            parse(name, value)


def check_steps(steps: int, step: int) -> None:
    """Raises ValueError where a run at `step` is to have had enough before that: a slip would end it at once."""
    if steps < step:
        raise ValueError(f"steps={steps}: the run is at step {step:,} already")


def in_words(command: Command, config: Mapping[str, Value] | None = None) -> str:
    """The command in the words of a mark on the loss curve: `lr 0.1 → 0.05`, or the name of an experiment begun."""
    if isinstance(command, Set | Twin):
        before = config or {}
        if isinstance(command, Set) and command.fresh and (name := preset_of({**before, **command.changes})):
            return name
        words = ", ".join(
            f"{name} {shown(before[name])} → {shown(value)}" if name in before else f"{name} {shown(value)}"
            for name, value in command.changes.items()
        )
        return f"twin {words or 'off'}" if isinstance(command, Twin) else words
    if isinstance(command, Back):
        return "forth" if command.forth else "back"
    return type(command).__name__.lower()


class Stream(Protocol):
    """A run as a front end sees it, whether it is trained in this process, in another, or was trained long ago."""

    def drain(self) -> Iterable[Event]:
        """Everything new since the last call, oldest first; never waits."""

    def send(self, command: Command) -> None:
        """Ask; the effect shows in later snapshots. Never waits."""


class Channel:
    """The `Stream` inside one process: a trainer thread publishes, a front end drains; either may come first."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=MOST_WAITING)
        self._commands: deque[Command] = deque(maxlen=MOST_WAITING)
        self._called = threading.Event()

    def drain(self) -> list[Event]:
        return [self._events.popleft() for _ in range(len(self._events))]

    def send(self, command: Command) -> None:
        self._commands.append(command)
        self._called.set()

    def publish(self, event: Event) -> None:
        """Hand an event to whoever drains; never waits."""
        self._events.append(event)

    def commands(self) -> list[Command]:
        """What was asked since the last call, oldest first."""
        return [self._commands.popleft() for _ in range(len(self._commands))]

    def wake(self) -> None:
        """End a `wait`: something was asked in another way."""
        self._called.set()

    def wait(self, seconds: float) -> None:
        """Sleep until somebody asks something, `seconds` at most."""
        self._called.wait(seconds)
        self._called.clear()
