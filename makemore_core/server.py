"""The trainer's end of the control socket: one thread that may be sent anything.

What a peer can cost it in time, memory and descriptors is bounded, and it pauses many times as long as it worked, so
that no flood takes more than a few per cent of a core.
"""

from __future__ import annotations

import contextlib
import os
import random
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from makemore_core import address
from makemore_core.command import Command, Look, command_from_json
from makemore_core.config import printable
from makemore_core.control import LONGEST_ERROR
from makemore_core.snapshot import State

LONGEST_LINE = 64 * 1024
LONGEST_BACKLOG = 256 * 1024  # of answers that a client does not read
MOST_CLIENTS = 64
MOST_WAITING = 256  # commands that the trainer has not applied yet
MOST_BAD_LINES = 10
SILENCE = 5.0  # seconds in which a new client has to say something right, and a begun line has to end
PIECE = 2048  # bytes taken from a client at a time
TURN = 0.002  # seconds of work after which whoever else is ready waits for the next turn
REST = 40.0  # the server's thread pauses so many times as long as it worked
LONGEST_REST = 1.0
TICK = 1.0
CHECK_ADDRESS = 5.0


class Message(msgspec.Struct):
    """A line from a client."""

    id: msgspec.Raw = msgspec.Raw(b"null")
    who: str = ""
    command: msgspec.Raw = msgspec.Raw()
    hello: dict[str, bool] | None = None
    ping: msgspec.Raw = msgspec.Raw()


_requests = msgspec.json.Decoder(Message)


class _Client:
    """A connection as the server sees it."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.inbox = bytearray()
        self.outbox = bytearray()
        self.readonly = False
        self.proven = False  # has said something right
        self.closing = False
        self.bad_lines = 0
        self.since = time.monotonic()  # of the connection, or of the line that has been begun


class ControlServer:
    """Listens for one run; the trainer never waits for it, nor for anybody who is connected.

    What is sent waits for `asked`, and for the answer by `acknowledge`; `wake` is called, in the server's thread, when
    there is more. Raises OSError where no socket can be made.
    """

    def __init__(self, folder: Path, *, wake: Callable[[], None]) -> None:
        self._folder = folder
        self._wake = wake
        self._asked: deque[tuple[Command, str, int]] = deque()
        self._told: tuple[State, int, str, float] = ("running", 0, "", time.monotonic())
        self._clients: dict[int, _Client] = {}
        self._waiting: dict[int, tuple[_Client, msgspec.Raw]] = {}
        self._token = 0
        self._answers: deque[tuple[int, int | str]] = deque()
        self._stopping = False
        self._selector = selectors.DefaultSelector()
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._ear.setblocking(False)
        self._selector.register(self._ear, selectors.EVENT_READ)
        self._folder_id = address.folder_id(folder)
        address.sweep(folder)
        self._listen()
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)
        self._thread.start()

    def tell(self, state: State, step: int, trouble: str = "") -> None:
        """What a ping is answered with; told at least once a second, or the run passes for unresponsive."""
        self._told = (state, step, trouble, time.monotonic())

    def asked(self) -> list[tuple[Command, str, int]]:
        """What was sent since the last call, in the order of arrival: command, who, and the token to acknowledge."""
        return [self._asked.popleft() for _ in range(len(self._asked))]

    def acknowledge(self, token: int, result: int | str) -> None:
        """The step before which a command was applied, or why it could not be; never waits."""
        self._answers.append((token, result))
        self._ring()

    def close(self) -> None:
        """Stop listening and remove the socket, after the answers that are under way."""
        self._stopping = True
        self._ring()
        self._thread.join(timeout=5.0)

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # full: it has been rung already; closed: nobody is there to hear
            self._bell.send(b"!")

    # what follows runs in the server's thread

    def _listen(self) -> None:
        path, listener = address.free_path(), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            listener.bind(path)
            os.chmod(path, 0o600)
            listener.listen(MOST_CLIENTS)
        except OSError:
            listener.close()
            address.remove(path)
            raise
        self.path, self._listener = path, listener
        self._selector.register(listener, selectors.EVENT_READ)
        self._tell_address()

    def _tell_address(self) -> None:
        with contextlib.suppress(OSError):  # a full disk: it is tried again every few seconds
            address.tell(self._folder, self.path)

    def _serve(self) -> None:
        checked = time.monotonic()
        while not self._stopping:
            ready = self._selector.select(TICK)
            began = time.thread_time()
            random.shuffle(ready)  # so that nobody is left out for ever
            for key, mask in ready:
                self._turn(key.fileobj, mask)
                if time.thread_time() - began > TURN:
                    break
            self._answer()
            self._close_idle()
            if time.monotonic() - checked > CHECK_ADDRESS:
                checked = time.monotonic()
                self._keep_address()
            time.sleep(min(LONGEST_REST, REST * (time.thread_time() - began)))
        self._answer()
        self._end()

    def _turn(self, ready: object, mask: int) -> None:
        if ready is self._listener:
            self._accept()
        elif ready is self._ear:
            self._ear.recv(4096)
        elif isinstance(ready, socket.socket) and (client := self._clients.get(ready.fileno())):
            if mask & selectors.EVENT_READ:
                self._receive(client)
            if mask & selectors.EVENT_WRITE and not client.closing:
                self._flush(client)
            if client.closing and not client.outbox:
                self._drop(client)

    def _accept(self) -> None:
        for _ in range(MOST_CLIENTS // 4):
            try:
                connection, _ = self._listener.accept()
            except OSError:  # nobody is left, or no descriptor is free: then they stay in the queue
                return
            if address.peer(connection) != os.geteuid():
                connection.close()
                continue
            self._make_room()
            connection.setblocking(False)
            self._clients[connection.fileno()] = _Client(connection)
            self._selector.register(connection, selectors.EVENT_READ)

    def _make_room(self) -> None:
        """Let the one that was silent longest give way, first of those that have said nothing right.

        Who is called up again has only to connect again, as `ControlClient` does by itself.
        """
        if len(self._clients) >= MOST_CLIENTS:
            self._drop(min(self._clients.values(), key=lambda client: (client.proven, client.since)))

    def _receive(self, client: _Client) -> None:
        try:
            data = client.connection.recv(PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            client.outbox.clear()
            client.closing = True
            return
        if not client.inbox:
            client.since = time.monotonic()
        client.inbox += data
        *lines, rest = client.inbox.split(b"\n")
        client.inbox = rest
        for line in lines:
            self._hear(client, bytes(line))
            if client.closing:
                return
        if len(rest) > LONGEST_LINE:
            self._refuse(client, f"a line has at most {LONGEST_LINE:,} bytes")
            self._hang_up(client)

    def _hear(self, client: _Client, line: bytes) -> None:
        try:
            if len(line) > LONGEST_LINE:
                raise ValueError(f"a line has at most {LONGEST_LINE:,} bytes")
            request = _requests.decode(line)
        except (ValueError, RecursionError) as error:
            self._misheard(client, f"not a request: {error}")
            return
        client.proven = True
        if request.hello is not None:
            client.readonly = client.readonly or bool(request.hello.get("readonly"))
            self._say(client, self._about(request.id))
        elif bytes(request.ping):
            self._say(client, self._about(request.ping))
        elif bytes(request.command):
            self._command(client, request)
        else:
            self._misheard(client, "not a request: it has no command, ping or hello")

    def _command(self, client: _Client, request: Message) -> None:
        try:
            command = command_from_json(bytes(request.command))
        except ValueError as error:
            self._refuse(client, str(error), request.id)
            return
        if client.readonly and not isinstance(command, Look):  # which changes nothing
            self._refuse(client, "this connection is read-only", request.id)
        elif len(self._waiting) >= MOST_WAITING:
            self._refuse(client, "too many commands are waiting, try again", request.id)
        else:
            self._token += 1
            self._waiting[self._token] = (client, request.id)
            self._asked.append((command, printable(request.who, 80) or "somebody", self._token))
            self._wake()

    def _answer(self) -> None:
        while self._answers:
            token, result = self._answers.popleft()
            client, name = self._waiting.pop(token, (None, None))
            if client is None or name is None or client.closing:
                continue
            if isinstance(result, str):
                self._refuse(client, result, name)
            else:
                self._say(client, {"ok": True, "id": name, "step": result})

    def _about(self, name: msgspec.Raw) -> dict[str, object]:
        state, step, trouble, told = self._told
        return {
            "ok": True,
            "id": name,
            "state": state,
            "step": step,
            "age": round(time.monotonic() - told, 3),
            "trouble": trouble,
            "pid": os.getpid(),
            "folder": self._folder_id,
        }

    def _misheard(self, client: _Client, error: str) -> None:
        client.bad_lines += 1
        self._refuse(client, error)
        if client.bad_lines >= MOST_BAD_LINES:
            self._hang_up(client)

    def _hang_up(self, client: _Client) -> None:
        """Say what is still to be said, listen no more."""
        client.closing, client.since = True, time.monotonic()
        self._flush(client)

    def _refuse(self, client: _Client, error: str, name: msgspec.Raw | None = None) -> None:
        self._say(client, {"ok": False, "id": name, "error": printable(error, LONGEST_ERROR)})

    def _say(self, client: _Client, reply: dict[str, object]) -> None:
        client.outbox += msgspec.json.encode(reply) + b"\n"
        if len(client.outbox) > LONGEST_BACKLOG:
            client.outbox.clear()
            client.closing = True
        self._flush(client)

    def _flush(self, client: _Client) -> None:
        try:
            if client.outbox:
                del client.outbox[: client.connection.send(client.outbox)]
        except BlockingIOError:
            pass
        except OSError:
            client.outbox.clear()
            client.closing = True
        wanted = selectors.EVENT_WRITE if client.outbox or client.closing else 0
        if not client.closing:
            wanted |= selectors.EVENT_READ
        self._selector.modify(client.connection, wanted)

    def _close_idle(self) -> None:
        now = time.monotonic()
        for client in list(self._clients.values()):
            due = client.inbox or client.closing or not client.proven
            if due and now - client.since > SILENCE:
                self._drop(client)

    def _drop(self, client: _Client) -> None:
        self._selector.unregister(client.connection)
        del self._clients[client.connection.fileno()]
        client.connection.close()
        client.closing = True

    def _keep_address(self) -> None:
        """Listen at a new place where somebody tidied the temporary directory; tell it where it was forgotten."""
        if not self._folder.is_dir():
            return
        if not os.path.exists(self.path):
            old = self._listener
            with contextlib.suppress(OSError):  # no room for a socket: the next check tries again
                self._listen()
                self._selector.unregister(old)
                old.close()
        elif address.told(self._folder) != self.path:
            self._tell_address()

    def _end(self) -> None:
        for client in list(self._clients.values()):
            self._drop(client)
        self._listener.close()
        self._ear.close()
        self._bell.close()
        self._selector.close()
        if address.told(self._folder) == self.path:
            (self._folder / address.ADDRESS).unlink(missing_ok=True)
        address.remove(self.path)
