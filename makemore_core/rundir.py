"""A run's folder: its manifest, its state file, its lock, and what the folder tells about the trainer behind it.

It is all that a viewer needs to find a run and to judge it, so it stands apart from training and imports no torch.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import os
import re
import stat
import struct
import threading
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from makemore_core import control
from makemore_core.config import Value, printable
from makemore_core.files import open_regular, opened, read_file, replace_file
from makemore_core.snapshot import ENDED, Snapshot, State, from_json

FORMAT = "1.0"
MANIFEST = "manifest.json"
STATE = "state.json"
LOCK = "lock"
RECORD = "record"
CHECKPOINTS = "checkpoints"
EXHIBITS = "exhibits"

LONGEST_FILE = 64 * 1024 * 1024
STALE = 5.0  # seconds without a sign of life after which a trainer passes for unresponsive
LONGEST_NAME = 100
NAME = re.compile(rf"\w[\w.,+=@ -]{{0,{LONGEST_NAME - 1}}}")


GONE = "its folder is gone"
_CHECKPOINT = re.compile(r"(\d{6,})-attempt(\d+)-step(\d+)")


class Saved(NamedTuple):
    """A checkpoint by its name: which one it is, counted from 1, its attempt, and the updates that it has behind it."""

    number: int
    attempt: int
    step: int
    path: Path


class Manifest(msgspec.Struct, kw_only=True):
    """What a run is, written once. `name`: of its folder, which counts where that is renamed; `data`: the path of the
    text, empty for the embedded names; `twin`: in what a second net differs; `created`: seconds since the epoch.
    """

    format: str = FORMAT
    name: str
    preset: str
    config: dict[str, Value]
    twin: dict[str, Value] = {}
    data: str = ""
    data_sha256: str = ""
    version: str = ""
    torch: str = ""
    created: float = msgspec.field(default_factory=time.time)


class Beat(msgspec.Struct, kw_only=True):
    """The state file: the newest snapshot, and a sign of life of the process that wrote it."""

    pid: int
    started: int
    heartbeat: float
    snapshot: msgspec.Raw


class Holder(msgspec.Struct):
    """Who holds a lock: a process id, which the system gives to others later, when that process started, and the
    system's number of the thread that trains, 0 where nobody knows.
    """

    pid: int
    started: int
    thread: int = 0


def runs_folder() -> Path:
    """Where runs are kept that were given no path: $MAKEMORE_RUNS, or runs/ here."""
    return Path(os.environ.get("MAKEMORE_RUNS") or "runs")


def new_run(name_or_path: str | None, preset: str) -> Path:
    """Make the folder of a new run, for the owner's eyes only; without a name it gets the next one of the preset.

    Raises ValueError where there is a run already, or where others can write.
    """
    if name_or_path is not None:
        folder = _path(name_or_path)
        if not NAME.fullmatch(folder.name):
            allowed = "begins with a letter, a digit or _ and has these, blanks and .,+=@- in it"
            if len(folder.name) > LONGEST_NAME:
                allowed = f"has at most {LONGEST_NAME} characters, not {len(folder.name)}"
            raise ValueError(f"run={printable(name_or_path)}: a name {allowed}")
        _make(folder)
        return folder
    number = 1 + max(
        (int(m[1]) for p in list_runs() if (m := re.fullmatch(rf"{preset}-(\d{{1,9}})", p.name))), default=0
    )
    while not _make(runs_folder() / f"{preset}-{number}", only_new=True):
        number += 1
    return runs_folder() / f"{preset}-{number}"


def _make(folder: Path, *, only_new: bool = False) -> bool:
    """Whether the folder was made; `only_new`: not where there is one, which another process may be making now."""
    try:
        folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _check_above(folder)  # before there is something to take away again
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            if only_new:
                return False
        check_private(folder)
        if any(folder.iterdir()):
            raise ValueError(f"run={folder}: is there already; resume it, or choose another name")
        folder.chmod(0o700)
        for inner in (RECORD, CHECKPOINTS):
            (folder / inner).mkdir(mode=0o700)
    except FileExistsError as error:
        raise ValueError(f"run={folder}: {error.filename} is no folder") from None
    except OSError as error:
        raise ValueError(f"run={folder}: {error.strerror or error}") from None
    return True


def check_private(folder: Path) -> None:
    """Raises ValueError where others can write to the folder, or can put another one in its place."""
    found = folder.stat()
    if found.st_uid != os.geteuid():
        raise ValueError(f"run={folder}: belongs to somebody else")
    if stat.S_IMODE(found.st_mode) & 0o022:
        raise ValueError(f"run={folder}: others can write to it (chmod go-w makes it yours alone)")
    _check_above(folder)


def _check_above(folder: Path) -> None:
    above = folder.absolute().parent.stat()
    if stat.S_IMODE(above.st_mode) & 0o002 and not above.st_mode & stat.S_ISVTX:
        raise ValueError(f"run={folder}: others can write to the folder it is in")


def find_run(name_or_path: str | None) -> Path:
    """The folder of a run, without a name of the latest one that can be read and has been recorded.

    Raises ValueError, with the nearest name.
    """
    if name_or_path is None:
        latest = next(filter(_is_worth_showing, list_runs()), None)
        if latest is None:
            raise ValueError(f"run: none in {runs_folder()} has been recorded yet; makemore begins one")
        return latest
    folder = _path(name_or_path)
    if is_run(folder):
        return folder
    runs = list_runs()
    near = difflib.get_close_matches(name_or_path, [run.name for run in runs], n=1)
    hint = f"; did you mean {near[0]}?" if near else "; makemore runs lists them" if runs else "; there is none yet"
    raise ValueError(f"run={printable(name_or_path)}: no such run{hint}")


def list_runs() -> list[Path]:
    """The runs in `runs_folder()`, the one that was written to last first. Raises ValueError where it is no folder."""
    try:
        folders = [Path(entry.path) for entry in os.scandir(runs_folder()) if NAME.fullmatch(entry.name)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ValueError(f"runs={runs_folder()}: {error.strerror or error}") from None
    return sorted(filter(is_run, folders), key=_touched, reverse=True)


def is_run(folder: Path) -> bool:
    """Whether there is a run's manifest in it."""
    return _mtime(folder / MANIFEST) > 0


def _is_worth_showing(folder: Path) -> bool:
    try:
        read_manifest(folder)
    except ValueError:
        return False
    return is_recorded(folder) or held_by(folder) is not None


def is_recorded(folder: Path) -> bool:
    """Whether anything is left of a run's training."""
    with contextlib.suppress(OSError):
        return _mtime(folder / STATE) > 0 or any(any((folder / inner).iterdir()) for inner in (RECORD, CHECKPOINTS))
    return False


def checkpoints(folder: Path) -> list[Saved]:
    """Whatever carries a checkpoint's name in a run's folder, good or not, the newest first.

    Raises ValueError where nobody can tell.
    """
    try:
        names = os.listdir(folder / CHECKPOINTS)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ValueError(f"{folder.name}: its checkpoints cannot be read: {error.strerror or error}") from None
    found = [(match, folder / CHECKPOINTS / name) for name in names if (match := _CHECKPOINT.fullmatch(name))]
    return sorted((Saved(int(match[1]), int(match[2]), int(match[3]), path) for match, path in found), reverse=True)


def called(folder: Path) -> str:
    """A run as people name it: its name where that is enough to find it, else its path."""
    return folder.name if folder.parent == runs_folder() else str(folder)


def _path(name_or_path: str) -> Path:
    """A word is the name of a run, anything with a slash in it is a path."""
    if "\0" in name_or_path or not name_or_path.strip():
        raise ValueError("run: a name or a path is needed")
    if os.sep in name_or_path or name_or_path in (".", ".."):
        return Path(name_or_path).absolute()
    return runs_folder() / name_or_path


def _touched(folder: Path) -> float:
    return max(_mtime(folder / STATE), _mtime(folder / MANIFEST))


def _mtime(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


class _Format(msgspec.Struct):
    format: str


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Raises OSError."""
    replace_file(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")


def read_manifest(folder: Path) -> Manifest:
    """What the run is, under the name that its folder has now.

    Raises ValueError where it cannot be read, or where a newer program wrote it.
    """
    try:
        data = read_file(folder / MANIFEST, LONGEST_FILE)
        form = msgspec.json.decode(data, type=_Format).format
        if _major(form) > _major(FORMAT):
            raise ValueError(
                f"{folder.name}: a newer makemore wrote it, in format {form[:20]}; this one reads {FORMAT}"
            )
        return msgspec.structs.replace(msgspec.json.decode(data, type=Manifest), name=folder.name)
    except OSError as error:
        raise ValueError(f"{folder.name}: its {MANIFEST} cannot be read: {error.strerror or error}") from None
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"{folder.name}: its {MANIFEST} is damaged: {error}") from None


def _major(form: str) -> int:
    digits = form.partition(".")[0]
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 10 else 0


def write_state(folder: Path, snapshot: bytes) -> bool:
    """Put the newest snapshot, a JSON object, in the place of the one before, with a sign of life.

    Where it cannot be written (False), the sign of life stays: touching a file needs no room on a disk.
    """
    beat = Beat(
        pid=os.getpid(), started=process_start(os.getpid()), heartbeat=time.time(), snapshot=msgspec.Raw(snapshot)
    )
    try:
        replace_file(folder / STATE, msgspec.json.encode(beat) + b"\n", sync=False)
    except OSError:
        with contextlib.suppress(OSError):
            os.utime(folder / STATE)
        return False
    return True


def read_state(folder: Path) -> Snapshot | None:
    """The newest snapshot; None where there is none or it is damaged."""
    beat = read_beat(folder)
    try:
        event = from_json(bytes(beat.snapshot)) if beat else None
    except ValueError:
        return None
    return msgspec.structs.replace(event, run=folder.name) if isinstance(event, Snapshot) else None


def read_beat(folder: Path) -> Beat | None:
    """The state file as it is; None where there is none or it is damaged."""
    try:
        beat = msgspec.json.decode(read_file(folder / STATE, LONGEST_FILE), type=Beat)
    except (OSError, msgspec.MsgspecError, RecursionError):
        return None
    beat.heartbeat = max(beat.heartbeat, _mtime(folder / STATE))
    return beat


def process_start(pid: int) -> int:
    """When a process started, in the system's ticks since it was booted; 0 where it is gone or nobody knows."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            words = file.read().rpartition(b")")[2].split()
        return 0 if words[0] in b"ZX" else int(words[19])
    except (OSError, ValueError, IndexError):
        return 0


_held: set[tuple[int, int]] = set()  # locks of this process by device and inode: its own do not show to it
_FLOCK = "hhqqi4x"  # struct flock of Linux: type, whence, start, length, pid


class RunLock:
    """One trainer a run: a POSIX record lock, which ends with its process and which no child inherits.

    This process must not open the lock's file otherwise: closing it would give the lock away.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd: int | None = None

    def acquire(self) -> None:
        """Raises ValueError that names the process that trains the run already, or says why it cannot be locked."""
        name = self._folder.name
        try:
            check_private(self._folder)
            if holder := held_by(self._folder):
                raise ValueError(f"{name}: is being trained already, by process {holder.pid}")
            fd = open_regular(self._folder / LOCK, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise ValueError(f"{name}: cannot be locked: {error.strerror or error}") from None
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            os.close(fd)
            holder = held_by(self._folder)
            raise ValueError(f"{name}: is being trained already, by process {holder.pid if holder else '?'}") from None
        except OSError:  # no locks on this file system: the process id in the file has to do
            pass
        self._fd = fd
        _held.add(_identity(fd))
        holder = Holder(os.getpid(), process_start(os.getpid()), threading.get_native_id())
        with contextlib.suppress(OSError):  # a full disk; the lock itself holds
            os.ftruncate(fd, 0)
            os.pwrite(fd, msgspec.json.encode(holder), 0)

    def release(self) -> None:
        """Let another trainer have the run."""
        if self._fd is not None:
            _held.discard(_identity(self._fd))
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = None


def held_by(folder: Path) -> Holder | None:
    """The process that holds the run's lock; None where nobody does."""
    path = folder / LOCK
    try:
        found = path.lstat()
        if (found.st_dev, found.st_ino) in _held:
            return Holder(os.getpid(), process_start(os.getpid()))
        with opened(path) as fd:
            written = _written(os.pread(fd, 4096, 0))
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            try:
                kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, asked))
            except OSError:  # no locks on this file system
                return written if written and process_start(written.pid) == written.started else None
    except OSError:
        return None
    if kind == fcntl.F_UNLCK:
        return None
    return written if written and pid in (written.pid, 0, -1) else Holder(pid, process_start(pid))


def _written(data: bytes) -> Holder | None:
    try:
        holder = msgspec.json.decode(data, type=Holder)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return holder if holder.started and holder.pid > 0 else None


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def absent(folder: Path, seen: str = "") -> str:
    """That nobody trains the run in the folder, and what to do about it; nothing where somebody does.

    `seen`: the state that it was last seen in, where somebody looks.
    """
    if held_by(folder) is not None:
        return ""
    if not folder.is_dir():
        return GONE
    if seen not in ENDED and (last := read_state(folder)):
        seen = last.state
    resume = f"`makemore resume {called(folder)}`"
    match seen:
        case "finished":
            return f"it is finished; {resume} opens it with all its screens"
        case "stopped":
            return f"it was stopped; {resume} goes on"
        case "diverged":
            return f"it diverged; {resume} opens it: D says what to change, u undoes what was"
    try:
        saved = checkpoints(folder)
    except ValueError as error:
        return f"its trainer is gone; {str(error).partition(': ')[2]}"
    follows = f"goes on from step {saved[0].step:,}" if saved else "begins again from the seed"
    return f"its trainer is gone; {resume} {follows}"


def liveness(folder: Path) -> State:
    """What has become of a run: the word of its trainer, else what lock, process and heartbeat tell of it."""
    return heard_of(folder)[0]


def heard_of(folder: Path) -> tuple[State, str]:
    """The same, and what its trainer has trouble with: on a full disk nothing else may tell."""
    reply = control.ping(folder)
    if reply is None or reply.state is None:
        return _left_behind(folder), ""
    return reply.state if (reply.age or 0.0) < STALE or reply.state in ENDED else "unresponsive", reply.trouble


def _left_behind(folder: Path) -> State:
    holder, beat, snapshot = held_by(folder), read_beat(folder), read_state(folder)
    last: State = snapshot.state if snapshot else "running"
    if holder is None:
        return last if last in ENDED else "crashed"
    if beat is None or beat.pid != holder.pid:  # has only just taken over
        last, heard = "running", _mtime(folder / LOCK)
    else:
        heard = beat.heartbeat
    return last if time.time() - heard < STALE else "unresponsive"
