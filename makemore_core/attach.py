"""A run of another process as a stream: its record is followed, its trainer is asked through its socket.

It loads no torch. The trainer does not know how many look at it this way.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from makemore_core import rundir
from makemore_core.address import folder_id
from makemore_core.command import Command
from makemore_core.control import ControlClient
from makemore_core.files import read_file
from makemore_core.record import RecordReader
from makemore_core.snapshot import ENDED, Event, Snapshot, State, from_json, joined, snapshots

LONGEST_EXHIBIT = 16 * 1024 * 1024
PIECE = 1024 * 1024  # bytes of the record that are held at once
NOTICE = 10.0  # seconds for which damaged records and refusals are told of
SILENCE = 0.7  # seconds without a snapshot after which somebody looks what has become of the trainer


def recorded(reader: RecordReader, run: str) -> Iterator[Snapshot]:
    """What is new in a run's record, one by one, so that a long one need not be held in memory."""
    while payloads := reader.read(most=PIECE):
        for snapshot in snapshots(payloads):  # of a folder that may be a copy, or have been renamed
            yield snapshot if snapshot.run == run else msgspec.structs.replace(snapshot, run=run)


class _Liveness(threading.Thread):
    """Finds out what has become of a trainer, in a thread because one that hangs lets the question wait."""

    def __init__(self, folder: Path) -> None:
        super().__init__(name="liveness", daemon=True)
        self._folder = folder
        self.began = time.monotonic()
        self.heard: tuple[State, str] | None = None  # state and trouble, once they are known
        self.start()

    def run(self) -> None:
        self.heard = rundir.heard_of(self._folder)


class Attached:
    """The `Stream` of a run's folder, live or long over."""

    def __init__(self, folder: Path, *, readonly: bool = False, first: Callable[[], None] = lambda: None) -> None:
        """`first` is called before anything is read, each time."""
        self._folder, self._first = folder, first
        self._folder_id = folder_id(folder)
        self._reader = RecordReader(folder / rundir.RECORD)
        self._client = ControlClient(folder, readonly=readonly)
        self._newest: Snapshot | None = None
        self._told: tuple[State | None, str] = (None, "")  # state and trouble
        self._message = ""  # the trainer's own
        self._heard = 0.0  # when the last snapshot was read
        self._look: _Liveness | None = None
        self._exhibited = 0  # when an exhibit was last put into its folder
        self._seen: dict[str, tuple[int, int]] = {}
        self._damaged = 0  # records that could not be read
        self._remark, self._remarked_at = "", 0.0  # what this view alone is told, and since when
        self._beside: tuple[int, str] | None = None  # answers and message of the trainer when it was told
        self._alone = False  # whether it takes the place of that message
        self._refused = 0  # commands of this view, whose refusals the trainer does not count

    def drain(self) -> Iterator[Event]:
        """Everything new since the last call, one by one."""
        self._first()
        if self._replaced():
            return
        heard = self._heard
        anew = self._listen()
        for snapshot in recorded(self._reader, self._folder.name):
            self._newest, self._message, self._heard = snapshot, snapshot.message, time.monotonic()
            self._told = snapshot.state, ""
            yield self._remarked(snapshot)
        if self._newest is not None and (self._skipped() or (anew and heard == self._heard)):
            yield self._remarked(msgspec.structs.replace(self._newest, losses=()))
        if self._newest is not None and self._beside is None:
            self._beside = self._newest.answered, self._newest.message
        yield from self._exhibits()
        yield from self._turn()

    def _listen(self) -> bool:
        """Hear why commands were refused, which this view alone is told, for a while; whether that is news."""
        refused = [reply.error for reply in self._client.replies() if not reply.ok]
        if refused:
            self._refused += len(refused)
            return self._say(refused[-1], alone=True)
        return bool(self._remark) and time.monotonic() > self._remarked_at + NOTICE and self._say("")

    def _skipped(self) -> bool:
        """Whether more records had to be skipped, which is told as a refusal is."""
        damaged = self._reader.damaged
        if damaged == self._damaged:
            return False
        self._damaged = damaged
        return self._say(f"{damaged:,} damaged {'record' if damaged == 1 else 'records'} skipped")

    def _say(self, remark: str, *, alone: bool = False) -> bool:
        """Tell it for a while, `alone`: in the place of what the trainer said before."""
        self._remark, self._remarked_at, self._beside, self._alone = remark, time.monotonic(), None, alone
        return True

    def _remarked(self, snapshot: Snapshot) -> Snapshot:
        said = snapshot.answered, snapshot.message
        if self._alone and self._beside not in (None, said):  # the trainer has said something since
            self._remark = ""
        hidden = self._remark and self._alone and snapshot.message == self._message
        message = "; ".join(filter(None, (self._remark, "" if hidden else snapshot.message)))
        return msgspec.structs.replace(snapshot, message=message, answered=snapshot.answered + self._refused)

    def _exhibits(self) -> Iterator[Event]:
        """What was taken from the net on somebody's request, oldest first; each question has one file."""
        folder = self._folder / rundir.EXHIBITS
        with contextlib.suppress(OSError):  # there is none yet
            changed = folder.stat().st_mtime_ns
            if changed == self._exhibited:
                return
            found = [(path.stat(), path) for path in folder.glob("*.json")]
            for stat, path in sorted(found, key=lambda one: one[0].st_mtime_ns):
                version = stat.st_ino, stat.st_mtime_ns
                if self._seen.get(path.name) != version:
                    self._seen[path.name] = version
                    with contextlib.suppress(ValueError):
                        yield from_json(read_file(path, LONGEST_EXHIBIT))
            self._exhibited = changed

    def _turn(self) -> Iterator[Event]:
        """A snapshot where things are no longer as the trainer wrote: it crashed, does not answer, or cannot write."""
        look = self._look
        if look is None or (not look.is_alive() and time.monotonic() - max(self._heard, look.began) > SILENCE):
            self._look = _Liveness(self._folder)
        if look is None or look.heard is None or look.heard == self._told or self._heard >= look.began:
            return
        state, trouble = look.heard
        if self._newest is None:
            self._newest = self._blank(state)
        if self._newest is not None:
            self._told = look.heard
            message = self._word(state) or joined(self._message, trouble)
            speed = 0.0 if state != self._newest.state else self._newest.steps_per_second
            told = {"state": state, "steps_per_second": speed, "message": message}
            self._newest = msgspec.structs.replace(self._newest, losses=(), **told)
            yield self._remarked(self._newest)

    def _word(self, state: State) -> str:
        """What there is to say of a trainer that is silent."""
        if state == "unresponsive":
            return "its trainer does not answer"
        return rundir.absent(self._folder, state) if state == "crashed" else ""

    def _blank(self, state: State) -> Snapshot | None:
        """What is shown of a run that ended before anything was recorded."""
        if state not in ENDED:
            return None
        try:
            manifest = rundir.read_manifest(self._folder)
        except ValueError:
            return None
        steps = manifest.config.get("steps")
        return Snapshot(
            run=manifest.name,
            state=state,
            step=0,
            steps=steps if isinstance(steps, int) else 0,
            time=manifest.created,
            preset=manifest.preset,
            config=manifest.config,
        )

    def absent(self, seen: str) -> str:
        """Why nobody obeys a command to this run, in a line; nothing where somebody does. `seen`: its last state."""
        return "another run is in its folder now" if self._replaced() else rundir.absent(self._folder, seen)

    def _replaced(self) -> bool:
        try:
            return folder_id(self._folder) != self._folder_id
        except OSError:  # it is gone, or cannot be reached for now
            return False

    def send(self, command: Command) -> None:
        if not self._replaced():
            self._client.send(command)

    def close(self) -> None:
        """Let the socket go."""
        self._client.close()
