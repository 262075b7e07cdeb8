"""Where a run's trainer can be reached: the Unix socket in a private folder whose name the run's folder tells."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import tempfile
import time
from pathlib import Path

import msgspec

from makemore_core.config import is_utf8
from makemore_core.files import read_file, replace_file

ADDRESS = "control.json"
PREFIX = "makemore-control-"  # of the folders of the sockets
OLD = 60.0  # seconds after which such a folder is no longer one that is being made
LONGEST = 64 * 1024  # bytes of what the folder tells
LONGEST_PATH = 107  # bytes of a socket's name


class Address(msgspec.Struct):
    """Where a run listens, as its folder tells it."""

    path: str


def folder_id(folder: Path) -> tuple[int, int]:
    """What stays the same when a folder is renamed and differs in a copy. Raises OSError."""
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def connect(folder: Path) -> socket.socket | None:
    """A connection to the trainer of a run, None where nobody listens. Raises OSError while it cannot take one."""
    path = told(folder)
    if path is None or not ours(path):
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        connection.connect(path)
        if peer(connection) in (os.geteuid(), os.stat(folder).st_uid):
            return connection
    except BlockingIOError:
        connection.close()
        raise
    except OSError:
        pass
    connection.close()
    return None


def tell(folder: Path, path: str) -> None:
    """Have the run's folder tell where its trainer listens. Raises OSError."""
    replace_file(folder / ADDRESS, msgspec.json.encode(Address(path)), sync=False)


def told(folder: Path) -> str | None:
    """What the run's folder tells; None where it tells nothing that can be read."""
    try:
        return msgspec.json.decode(read_file(folder / ADDRESS, LONGEST), type=Address).path
    except (OSError, msgspec.MsgspecError, RecursionError):
        return None


def free_path() -> str:
    """A new private folder's socket: under the temporary directory, or under /tmp where that one's name will not do."""
    for parent in _parents():
        if is_utf8(parent) and len(os.fsencode(parent)) + len(f"/{PREFIX}12345678/control") <= LONGEST_PATH:
            return os.path.join(tempfile.mkdtemp(prefix=PREFIX, dir=parent), "control")
    raise OSError(f"{tempfile.gettempdir()}: no name for a socket")


def _parents() -> list[str]:
    return list(dict.fromkeys([tempfile.gettempdir(), "/tmp"]))


def ours(path: str) -> bool:
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


def sweep(folder: Path) -> None:
    """Remove the sockets that killed trainers left; one that anybody listens at, or will in a moment, stays."""
    left = [told(folder) or ""]
    for place in (place for parent in _parents() for place in Path(parent).glob(PREFIX + "*")):
        with contextlib.suppress(OSError):
            if time.time() - place.lstat().st_mtime > OLD:
                left.append(str(place / "control"))
    for path in filter(ours, left):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.setblocking(False)
            try:
                connection.connect(path)
            except (ConnectionRefusedError, FileNotFoundError):
                remove(path)
            except OSError:
                continue


def remove(path: str) -> None:
    """Remove a socket and its folder, as far as they are there."""
    with contextlib.suppress(OSError):
        os.unlink(path)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(path))


def peer(connection: socket.socket) -> int:
    """The user at the other end."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])
