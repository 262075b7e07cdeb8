"""Control of a run from other processes: commands as JSON lines over a private Unix socket, both ends of it.

The trainer's end is one thread that may be sent anything: what a peer can cost it in time, memory and descriptors
is bounded, and it pauses many times as long as it worked, so that no flood takes more than a few per cent of a core.

A client sends `{"id": 1, "who": "anna", "command": {"type": "pause"}}`, `{"ping": 1}` or
`{"hello": {"readonly": true}}`; each is answered by one line with `"ok"` and, where `ok` is false, `"error"`. A
command is answered once it was applied, with the step it was applied before.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import random
import selectors
import socket
import stat
import struct
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from makemore_core.command import Command, Look, command_from_json
from makemore_core.files import read_file, replace_file
from makemore_core.snapshot import State

ADDRESS = "control.json"
PREFIX = "makemore-control-"  # of the folders of the sockets
OLD = 60.0  # seconds after which such a folder is no longer one that is being made
LONGEST_LINE = 64 * 1024
LONGEST_BACKLOG = 256 * 1024  # of answers that a client does not read
LONGEST_PATH = 107  # bytes of a socket's name
MOST_CLIENTS = 64
MOST_WAITING = 256  # commands that the trainer has not applied yet
MOST_BAD_LINES = 10
SILENCE = 5.0  # seconds in which a new client has to say something right, and a begun line has to end
PIECE = 2048  # bytes taken from a client at a time
TURN = 0.002  # seconds of work after which whoever else is ready waits for the next turn
REST = 40.0  # the server's thread pauses so many times as long as it worked
LONGEST_REST = 1.0
TICK = 1.0
PATIENCE = 0.5  # seconds to wait for the answer to a ping
CHECK_ADDRESS = 5.0


class Address(msgspec.Struct):
    """Where a run listens, as its folder tells it."""

    path: str


class Request(msgspec.Struct):
    """A line from a client."""

    id: msgspec.Raw = msgspec.Raw(b"null")
    who: str = ""
    command: msgspec.Raw = msgspec.Raw()
    hello: dict[str, bool] | None = None
    ping: msgspec.Raw = msgspec.Raw()


class Reply(msgspec.Struct, omit_defaults=True):
    """An answer. `step`: the command was applied before that update; `error`: one line for people.

    A ping is answered with the `state` and `step` that the trainer told last, `age` seconds ago, its process id and
    the device and inode of the run's folder.
    """

    ok: bool = msgspec.field()
    id: int | float | str | bool | None = None
    step: int | None = None
    error: str = ""
    state: State | None = None
    age: float | None = None
    pid: int | None = None
    folder: tuple[int, int] | None = None


_requests = msgspec.json.Decoder(Request)
_replies = msgspec.json.Decoder(Reply)


def one_line(text: str, most: int = 300) -> str:
    """Text from elsewhere, safe to show: no control characters, no line ends, at most `most` characters."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:most])


def folder_id(folder: Path) -> tuple[int, int]:
    """What stays the same when a folder is renamed and differs in a copy. Raises OSError."""
    found = os.stat(folder)
    return found.st_dev, found.st_ino


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

    `handle(command, who, token)` is called in the server's thread, in the order of arrival: it queues the command
    and returns None, or refuses it with one line. What was queued is answered by `acknowledge(token, step)`.
    Raises OSError where no socket can be made.
    """

    def __init__(self, folder: Path, *, handle: Callable[[Command, str, int], str | None]) -> None:
        self._folder = folder
        self._handle = handle
        self._told: tuple[State, int, float] = ("running", 0, time.monotonic())
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
        self._folder_id = folder_id(folder)
        _sweep(folder)
        self._listen()
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)
        self._thread.start()

    def tell(self, state: State, step: int) -> None:
        """What a ping is answered with; told at least once a second, or the run passes for unresponsive."""
        self._told = (state, step, time.monotonic())

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
        path, listener = _free_path(), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            listener.bind(path)
            os.chmod(path, 0o600)
            listener.listen(MOST_CLIENTS)
        except OSError:
            listener.close()
            _remove_socket(path)
            raise
        self.path, self._listener = path, listener
        self._selector.register(listener, selectors.EVENT_READ)
        self._tell_address()

    def _tell_address(self) -> None:
        with contextlib.suppress(OSError):  # a full disk: it is tried again every few seconds
            replace_file(self._folder / ADDRESS, msgspec.json.encode(Address(self.path)), sync=False)

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
            if _peer(connection) != os.geteuid():
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

    def _command(self, client: _Client, request: Request) -> None:
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
            try:
                refusal = self._handle(command, one_line(request.who, 80) or "somebody", self._token)
            except Exception as error:  # whatever it is, the door stays open for others, and the asker is told
                refusal = f"{type(error).__name__}: {error}"
            if refusal is not None:
                self._answers.append((self._token, refusal))

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
        state, step, told = self._told
        return {
            "ok": True,
            "id": name,
            "state": state,
            "step": step,
            "age": round(time.monotonic() - told, 3),
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
        self._say(client, {"ok": False, "id": name, "error": one_line(error)})

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
        elif _address(self._folder) != self.path:
            self._tell_address()

    def _end(self) -> None:
        for client in list(self._clients.values()):
            self._drop(client)
        self._listener.close()
        self._ear.close()
        self._bell.close()
        self._selector.close()
        if _address(self._folder) == self.path:
            (self._folder / ADDRESS).unlink(missing_ok=True)
        _remove_socket(self.path)


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
                reply.error = one_line(reply.error)
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
            while data := connection.recv(LONGEST_LINE):
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


_NOBODY = "nobody is training it now"


class NoAnswerError(ValueError):
    """A trainer is there and was asked, but has not answered in time."""


def connect(folder: Path) -> socket.socket | None:
    """A connection to the trainer of a run, None where nobody listens. Raises OSError while it cannot take one."""
    path = _address(folder)
    if path is None or not _ours(path):
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        connection.connect(path)
        if _peer(connection) in (os.geteuid(), os.stat(folder).st_uid):
            return connection
    except BlockingIOError:
        connection.close()
        raise
    except OSError:
        pass
    connection.close()
    return None


def ping(folder: Path, timeout: float | None = None) -> Reply | None:
    """What the trainer of this very folder says of itself, None where none answers in time."""
    client = ControlClient(folder)
    try:
        reply = client.request(None, PATIENCE if timeout is None else timeout)
        return reply if reply.ok and reply.folder == folder_id(folder) else None
    except (ValueError, OSError):
        return None
    finally:
        client.close()


def _address(folder: Path) -> str | None:
    try:
        return msgspec.json.decode(read_file(folder / ADDRESS, LONGEST_LINE), type=Address).path
    except (OSError, msgspec.MsgspecError, RecursionError):
        return None


def _free_path() -> str:
    """A new private folder's socket: under the temporary directory, or under /tmp where that one's name is long."""
    for parent in (tempfile.gettempdir(), "/tmp"):
        if len(os.fsencode(parent)) + len(f"/{PREFIX}12345678/control") <= LONGEST_PATH:
            return os.path.join(tempfile.mkdtemp(prefix=PREFIX, dir=parent), "control")
    raise OSError(f"{tempfile.gettempdir()}: too long for a socket's name")


def _ours(path: str) -> bool:
    """Whether a socket lies in a folder that nobody else can have put it into."""
    try:
        found = os.lstat(os.path.dirname(path))
    except (OSError, ValueError):
        return False
    return (
        stat.S_ISDIR(found.st_mode)
        and not stat.S_IMODE(found.st_mode) & 0o077
        and found.st_uid in (os.geteuid(), 0)
        and os.path.basename(os.path.dirname(path)).startswith(PREFIX)
    )


def _sweep(folder: Path) -> None:
    """Remove the sockets that killed trainers left; one that anybody listens at, or will in a moment, stays."""
    left = [_address(folder) or ""]
    for place in Path(tempfile.gettempdir()).glob(PREFIX + "*"):
        with contextlib.suppress(OSError):
            if time.time() - place.lstat().st_mtime > OLD:
                left.append(str(place / "control"))
    for path in filter(_ours, left):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.setblocking(False)
            try:
                connection.connect(path)
            except (ConnectionRefusedError, FileNotFoundError):
                _remove_socket(path)
            except OSError:
                continue


def _remove_socket(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(path))


def _peer(connection: socket.socket) -> int:
    """The user at the other end."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def _somebody() -> str:
    """Whose key it was, as the marks say it."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return f"user {os.geteuid()}"
