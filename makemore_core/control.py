"""Control of a run from other processes: commands as JSON lines over a private Unix socket. This is a client's end.

A client sends `{"id": 1, "who": "anna", "command": {"type": "pause"}}`, `{"ping": 1}` or
`{"hello": {"readonly": true}}`; each is answered by one line with `"ok"` and, where `ok` is false, `"error"`. A
command is answered once it was applied, with the step it was applied before.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import selectors
import socket
import time
from pathlib import Path

import msgspec

from makemore_core.address import connect, folder_id
from makemore_core.command import Command
from makemore_core.config import printable
from makemore_core.snapshot import State

PATIENCE = 0.5  # seconds to wait for the answer to a ping
ANSWERING = 10.0  # seconds that a trainer may take to do what is asked, to save for example, and to say so
LONGEST_BACKLOG = 256 * 1024  # of commands that a trainer does not read, or of its answers
PIECE = 64 * 1024  # bytes taken from it at a time
LONGEST_ERROR = 300  # characters


class Reply(msgspec.Struct, omit_defaults=True):
    """An answer. `step`: the command was applied before that update; `error`: one line for people.

    A ping is answered with the `state` and `step` that the trainer told last, `age` seconds ago, what it has `trouble`
    with, its process id and the device and inode of the run's folder.
    """

    ok: bool = msgspec.field()
    id: int | float | str | bool | None = None
    step: int | None = None
    error: str = ""
    state: State | None = None
    age: float | None = None
    trouble: str = ""
    pid: int | None = None
    folder: tuple[int, int] | None = None


_replies = msgspec.json.Decoder(Reply)


class ControlClient:
    """One viewer's or script's connection to a trainer; opened when first used and again after a loss.

    Nothing waits but `request`. `readonly`: the trainer itself refuses this connection's commands.
    """

    def __init__(self, folder: Path, *, readonly: bool = False, who: str | None = None) -> None:
        self._folder = folder
        self._readonly = readonly
        self._who = who or _somebody()
        self._connection: socket.socket | None = None
        self._inbox = bytearray()
        self._outbox = bytearray()
        self._id = 0
        self._open: set[int] = set()
        self._lost: list[Reply] = []

    def send(self, command: Command) -> int:
        """Ask, without waiting; the answer comes from `replies`, under the id that is returned."""
        self._id += 1
        return self._put(self._asking(command))

    def request(self, command: Command | None, timeout: float = 5.0) -> Reply:
        """Ask and wait for the answer; None: a ping. Raises ValueError: NoAnswerError where it may come yet."""
        self._id += 1
        name = self._put({"ping": self._id} if command is None else self._asking(command))
        deadline = time.monotonic() + timeout
        kept: list[Reply] = []
        try:
            while (left := deadline - time.monotonic()) > 0:
                for reply in self.replies():
                    if reply.id == name and reply.error == _NOBODY:
                        raise ValueError(f"{self._folder.name}: {_NOBODY}")
                    if reply.id == name:
                        return reply
                    kept.append(reply)
                self._wait(left)
        finally:
            self._lost = kept + self._lost
        self._open.discard(name)
        raise NoAnswerError(f"{self._folder.name}: no answer from its trainer in {timeout:g} s")

    def replies(self) -> list[Reply]:
        """The answers since the last call; never waits. What a lost connection leaves open is answered as refused."""
        self._flush()
        if self._connection is not None:
            self._receive(self._connection)
        heard, self._lost = self._lost, []
        return heard + self._heard()

    def _heard(self) -> list[Reply]:
        """The answers that have come whole."""
        heard = []
        while (end := self._inbox.find(b"\n")) >= 0:
            line = bytes(self._inbox[:end])
            del self._inbox[: end + 1]
            with contextlib.suppress(msgspec.MsgspecError, RecursionError):
                reply = _replies.decode(line)
                self._open.discard(reply.id if isinstance(reply.id, int) else -1)
                reply.error = printable(reply.error, LONGEST_ERROR)
                if reply.id != 0:
                    heard.append(reply)
        return heard

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _asking(self, command: Command) -> dict[str, object]:
        return {"id": self._id, "who": self._who, "command": command}

    def _put(self, request: dict[str, object]) -> int:
        if self._connection is not None:  # it may have been hung up on: then this goes over a new one
            self._receive(self._connection)
        self._open.add(self._id)
        self._outbox += msgspec.json.encode(request) + b"\n"
        self._flush()
        return self._id

    def _connect(self) -> socket.socket | None:
        if self._connection is None:
            self._connection = connect(self._folder)
            if self._connection is not None and self._readonly:
                self._outbox[:0] = b'{"id":0,"hello":{"readonly":true}}\n'
        return self._connection

    def _flush(self) -> None:
        if not self._outbox:
            return
        try:
            connection = self._connect()
            if connection is None or len(self._outbox) > LONGEST_BACKLOG:
                self._lose()
            else:
                del self._outbox[: connection.send(self._outbox)]
        except BlockingIOError:
            pass
        except OSError:
            self._lose()

    def _receive(self, connection: socket.socket) -> None:
        try:
            while data := connection.recv(PIECE):
                self._inbox += data
                if len(self._inbox) > LONGEST_BACKLOG:
                    break
            else:
                self._lose()
        except BlockingIOError:
            pass
        except OSError:
            self._lose()

    def _lose(self) -> None:
        self.close()
        self._outbox.clear()
        self._lost += self._heard()  # a trainer that ends answers first, and both may come at once
        self._lost += [Reply(ok=False, id=name, error=_NOBODY) for name in sorted(self._open)]
        self._open.clear()

    def _wait(self, seconds: float) -> None:
        if self._connection is None:  # too many are calling at once
            time.sleep(min(seconds, 0.01))
            return
        with selectors.DefaultSelector() as selector:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outbox else 0)
            selector.register(self._connection, events)
            selector.select(seconds)


_NOBODY = "no trainer can be reached"


class NoAnswerError(ValueError):
    """A trainer is there and was asked, but has not answered in time."""


def ping(folder: Path) -> Reply | None:
    """What the trainer of this very folder says of itself, None where none answers in time."""
    client = ControlClient(folder)
    try:
        reply = client.request(None, PATIENCE)
        return reply if reply.ok and reply.folder == folder_id(folder) else None
    except (ValueError, OSError):
        return None
    finally:
        client.close()


def _somebody() -> str:
    """Whose key it was, as the marks say it."""
    try:
        return printable(getpass.getuser())
    except (OSError, KeyError, ImportError):
        return f"user {os.geteuid()}"
