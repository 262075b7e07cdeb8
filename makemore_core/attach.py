"""A run of another process as a stream: its record is followed, its trainer is asked through its socket.

It loads no torch. The trainer does not know how many look at it this way.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from makemore_core import rundir
from makemore_core.command import Command
from makemore_core.control import ControlClient
from makemore_core.record import RecordReader
from makemore_core.snapshot import Event, Snapshot, State, from_json

PIECE = 1024 * 1024  # bytes of the record that are held at once
LIVENESS = 1.0  # seconds between two looks at what has become of the trainer


class Attached:
    """The `Stream` of a run's folder, live or long over."""

    def __init__(self, folder: Path, *, readonly: bool = False) -> None:
        self._folder = folder
        self._reader = RecordReader(folder / rundir.RECORD)
        self._client = ControlClient(folder, readonly=readonly)
        self._newest: Snapshot | None = None
        self._told: State | None = None
        self._next_look = 0.0

    @property
    def damaged(self) -> int:
        """How many records were skipped because they are damaged."""
        return self._reader.damaged

    def drain(self) -> Iterator[Event]:
        """Everything new since the last call, one by one, so that a long record need not be held in memory."""
        for payload in self._payloads():
            try:
                event = from_json(payload)
            except ValueError:
                continue  # a command, or a kind of entry that a later program wrote
            if isinstance(event, Snapshot):
                self._newest, self._told = event, event.state
            yield event
        yield from self._refusals()
        yield from self._turn()

    def _payloads(self) -> Iterator[bytes]:
        while payloads := self._reader.read(most=PIECE):
            yield from payloads

    def _refusals(self) -> Iterator[Event]:
        for reply in self._client.replies():
            if not reply.ok and self._newest is not None:
                yield msgspec.structs.replace(self._newest, losses=(), message=reply.error)

    def _turn(self) -> Iterator[Event]:
        """A snapshot where the state is no longer the one that the trainer wrote: it crashed, or does not answer."""
        now = time.monotonic()
        if self._newest is None or now < self._next_look:
            return
        self._next_look = now + LIVENESS
        state = rundir.liveness(self._folder)
        if state != self._told:
            self._told = state
            self._newest = msgspec.structs.replace(self._newest, state=state, losses=(), steps_per_second=0.0)
            yield self._newest

    def send(self, command: Command) -> None:
        self._client.send(command)

    def close(self) -> None:
        """Let the socket go."""
        self._client.close()
