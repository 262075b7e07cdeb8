"""A session driven by a script instead of by people: each command is given at an exact moment, with no clock in it.

It is a `Recorder`, the door through which commands of other processes come, so nothing in the session is bent for it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

from makemore_core.command import Channel, Command, Stop
from makemore_core.config import Config, Value
from makemore_core.dataset import Dataset
from makemore_core.session import Recorder, Request, Session
from makemore_core.snapshot import Exhibit, Snapshot
from makemore_core.watch import Watch

SMALL = Config(n_layer=1, n_hidden=16, n_embd=4, batch_size=8, steps=120, engine="plain")
DENSE, SPARSE = Watch(every=1), Watch(every=40)


class Move(NamedTuple):
    """A command, and when to give it."""

    when: Callable[[Session], bool]
    command: Command


def at(step: int, command: Command) -> Move:
    """Give it when so many updates are done, or at the first moment after."""
    return Move(lambda session: session.trainer.step >= step, command)


def once(state: str, command: Command) -> Move:
    """Give it when the run is in that state."""
    return Move(lambda session: session.state == state, command)


class Outcome(NamedTuple):
    """What became of a command: the step it was given at, and the error its giver was told."""

    command: Command
    step: int
    error: str | None


class Script(Recorder):
    """Gives the moves in order, each when its moment has come, and notes what becomes of them."""

    def __init__(self, *moves: Move) -> None:
        self.moves = list(moves)
        self.outcomes: list[Outcome] = []
        self.snapshots: list[Snapshot] = []
        self.exhibits: list[Exhibit] = []
        self.saved_at: list[int] = []

    def asked(self, session: Session) -> list[Request]:
        due = []
        while self.moves and self.moves[0].when(session):
            command, step = self.moves.pop(0).command, session.trainer.step
            due.append(Request(command, "a script", functools.partial(self._told, command, step)))
            break
        return due

    def _told(self, command: Command, step: int, outcome: int | str) -> None:
        self.outcomes.append(Outcome(command, step, outcome if isinstance(outcome, str) else None))

    def snapshot(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)

    def exhibit(self, exhibit: Exhibit) -> None:
        self.exhibits.append(exhibit)

    def checkpoint(self, session: Session) -> str:
        if self.saved_at[-1:] != [session.trainer.step]:  # the same is not saved twice
            self.saved_at.append(session.trainer.step)
        return "saved"

    @property
    def losses(self) -> list[float]:
        """All losses of the last net, from its first update on, also where it was changed live on the way."""
        origins, first = {snapshot.attempt: snapshot.origin for snapshot in self.snapshots}, self.snapshots[-1].attempt
        while origins[first] == first - 1:
            first -= 1
        return [loss for snapshot in self.snapshots if snapshot.attempt >= first for loss in snapshot.losses]


def play(
    dataset: Dataset,
    *moves: Move,
    config: Config = SMALL,
    watch: Watch = SPARSE,
    stay: bool = False,
    twin: Mapping[str, Value] | None = None,
) -> tuple[Session, Script]:
    """Run a session to its end under a script; one that stays is stopped when the script is over."""
    script = Script(
        *moves, *([Move(lambda session: session.state in ("finished", "diverged"), Stop())] if stay else [])
    )
    session = Session(config, dataset, Channel(), twin=twin, watch=watch, recorder=script, stay=stay)
    session.run()
    return session, script
