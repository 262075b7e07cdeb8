"""The record of a run on disk: JSON lines, appended with one write each, that a crash can tear only at the end.

Writer and readers share nothing but the files, so a reader can be in any process and cannot hold the writer up. Each
line carries its number, `n`, and a checksum, `crc`, as the last members of its object; a reader takes a line only if
the checksum is right and the number is new to it. That alone keeps it right while segments are rotated, thinned and
merged under its eyes: whatever it finds there, it delivers each record at most once, in order, unaltered.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from makemore_core.files import open_regular, opened, sync_folder
from makemore_core.recordlines import LONGEST_TAIL, seal, thinned, unseal

BUDGET = 16 * 1024 * 1024  # at most this is read when somebody attaches, which has to be quick
SEGMENT = 1024 * 1024
LONGEST = 4 * 1024 * 1024  # bytes of a line
CHUNK = 1024 * 1024
MOST_SEGMENTS = 100_000
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds between attempts to write to a disk that refuses
RECENT = 3  # full segments that are not thinned
THINNING_PACE = 3  # bytes thinned for each byte written, while there is something to thin

_NAME = re.compile(r"(\d{15})\.jsonl")


class Segment(NamedTuple):
    """A file of the record; `first` is the number of its first line and its name."""

    first: int
    size: int


def segments(folder: Path) -> list[Segment]:
    """The files of a record, in order; none where there is no such folder."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if match := _NAME.fullmatch(entry.name):
                    with contextlib.suppress(FileNotFoundError):
                        found.append(Segment(int(match[1]), entry.stat(follow_symlinks=False).st_size))
    except OSError:
        return []
    return sorted(found)


def segment_path(folder: Path, first: int) -> Path:
    """Where the segment lies that begins with line number `first`."""
    return folder / f"{first:015}.jsonl"


class RecordWriter:
    """Appends to a record; never raises for the disk's sake and never waits for it.

    `dropped` counts what could not be recorded or was removed, `problem` says why nothing can be recorded, and is empty
    while all is well. The files together stay under `budget` bytes: as it is used up, the densest part of the record is
    thinned, the oldest first, a few lines with each line that is written. Commands are never thinned away. A record
    that somebody removes goes on with its numbers in a new file.
    """

    def __init__(self, folder: Path, *, budget: int = BUDGET, segment: int = SEGMENT) -> None:
        self._folder = folder
        self._segment = max(1, min(segment, budget // 16))
        self._budget = budget
        self.dropped = 0
        self.problem = ""
        self._fd: int | None = None
        self._first = self._next = 0
        self._size = 0
        self._torn = False  # a part of a line is on disk that could not be cut off yet
        self._pause, self._try_again = 0.0, 0.0
        self._sealed: list[Segment] = []
        self._solid: set[int] = set()  # segments that thinning does not make smaller
        self._thinned = 0  # bytes of the file that thinning is writing
        self._thin_at = 0.0
        self._thinning: Generator[int, None, None] | None = None
        self._syncing: threading.Thread | None = None
        self._new_names = False
        try:
            self._open()
        except OSError as error:
            self._fail(error)

    def append(self, payload: bytes, *, durable: bool = False) -> bool:
        """Write one record, a JSON object in one line. `durable`: onto the disk itself before this returns.

        False where it could not be written; it is then counted in `dropped` and leaves no trace in the file.
        """
        assert b"\n" not in payload, payload[:40]
        assert payload.startswith(b'{"'), payload[:40]
        assert payload.endswith(b"}"), payload[:40]
        self.problem = self._obstacle(len(payload), durable)
        if self.problem:
            self.dropped += 1
            return False
        try:
            self._ready()
            self._write(seal(payload, self._next))
            if durable:
                self._sync_now()
        except OSError as error:
            self.dropped += 1
            self._fail(error)
            return False
        self._pause = self._try_again = 0.0
        self._thin(THINNING_PACE * len(payload))
        return True

    def _obstacle(self, size: int, durable: bool) -> str:
        """Why a record is not even tried to be written; a durable one always is, unless no reader would take it."""
        if size > LONGEST - LONGEST_TAIL:
            return f"a record is longer than {LONGEST:,} bytes"
        if not durable and time.monotonic() < self._try_again:
            return self.problem
        if not durable and self._used() + size + self._segment > self._budget:  # thinning needs room
            self._thin(THINNING_PACE * size)
            return f"the record has used up its {self._budget:,} bytes"
        return ""

    def _used(self) -> int:
        return sum(segment.size for segment in self._sealed) + self._size + self._thinned

    def sync(self) -> None:
        """Have everything so far put onto the disk itself, by a thread, so that a slow disk holds nobody up."""
        if self._fd is None or (self._syncing is not None and self._syncing.is_alive()):
            return
        folder = self._folder if self._new_names else None

        def sync(fd: int) -> None:
            with contextlib.suppress(OSError):  # the data is in the files all the same, and is synced again in a second
                os.fsync(fd)
                if folder is not None:
                    sync_folder(folder)

        with contextlib.suppress(OSError):  # no descriptor or thread is to be had now
            self._syncing = _by_thread(sync, self._fd)
            self._new_names = False

    def close(self) -> None:
        """Sync and close; a writer can be opened on the folder again."""
        if self._thinning is not None:
            self._thinning.close()
        if self._syncing is not None:
            self._syncing.join(timeout=5.0)
        if self._fd is not None:
            with contextlib.suppress(OSError):  # what could not be synced may yet arrive on the disk
                self._sync_now()
            os.close(self._fd)
            self._fd = None

    def _open(self) -> None:
        """Go on behind the last whole line of what is there."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        for litter in self._folder.glob(".*.tmp"):
            litter.unlink(missing_ok=True)
        *self._sealed, last = segments(self._folder) or [Segment(0, 0)]
        fd = open_regular(segment_path(self._folder, last.first), os.O_RDWR | os.O_CREAT | os.O_APPEND)
        try:
            self._size, self._next = _end(fd, last.first)
            os.ftruncate(fd, self._size)
        except OSError:
            os.close(fd)
            raise
        self._fd, self._first, self._new_names = fd, last.first, True

    def _ready(self) -> None:
        if self._fd is None:
            self._open()
        assert self._fd is not None
        if self._torn:
            os.ftruncate(self._fd, self._size)
            self._torn = False
        removed = os.fstat(self._fd).st_nlink == 0
        if removed or self._size >= self._segment:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            fd = open_regular(segment_path(self._folder, self._next), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND)
            self.sync()
            os.close(self._fd)
            self._sealed.append(Segment(self._first, self._size))
            self._fd, self._first, self._size, self._new_names = fd, self._next, 0, True
        if removed:
            self._miss()

    def _miss(self) -> None:
        """Forget the segments that somebody removed, and count their lines, thinned or not."""
        if self._thinning is not None:
            self._thinning.close()
            self._thinning = None
        there = {segment.first for segment in segments(self._folder)}
        if self._first not in there:  # it could not be listed
            return
        ends = [*(segment.first for segment in self._sealed[1:]), self._first]
        lines = {segment.first: end - segment.first for segment, end in zip(self._sealed, ends, strict=True)}
        self.dropped += sum(lines[first] for first in lines.keys() - there)
        self._sealed = [segment for segment in self._sealed if segment.first in there]

    def _write(self, line: bytes) -> None:
        assert self._fd is not None
        self._torn = True
        written = os.write(self._fd, line)
        if written < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._torn = False
        self._size += written
        self._next += 1

    def _fail(self, error: OSError) -> None:
        self.problem = error.strerror or str(error)
        self._pause = min(LONGEST_PAUSE, 2 * self._pause or FIRST_PAUSE)
        self._try_again = time.monotonic() + self._pause
        if self._torn and self._fd is not None:
            with contextlib.suppress(OSError):  # tried again before the next write
                os.ftruncate(self._fd, self._size)
                self._torn = False

    def _sync_now(self) -> None:
        assert self._fd is not None
        os.fsync(self._fd)
        if self._new_names:
            sync_folder(self._folder)
            self._new_names = False

    def _thin(self, most: int) -> None:
        """Go on thinning for about `most` bytes, where the record has grown towards its budget."""
        if self._thinning is None:
            # two segments, and what comes while it is put onto the disk, early
            room = 3 * self._segment + min(4 * most, 4 * self._segment)
            due = self._used() + room > self._budget and time.monotonic() >= self._thin_at
            dense = self._densest() if due else []
            if not dense:
                return
            self._thinning = self._thin_out(dense)
        try:
            while most > 0:
                most -= next(self._thinning)
        except StopIteration:
            self._thinning = None
        except OSError:  # room may come; until then the budget holds because nothing more is written
            self._thinning, self._thin_at = None, time.monotonic() + LONGEST_PAUSE
            self._miss()

    def _densest(self) -> list[Segment]:
        """What to thin next: where most bytes stand for each line there was, at the oldest such place.

        It is one segment, with its neighbours where they are about as dense and all make up one segment afterwards.
        The newest ones are left as they are: that is where people look closely.
        """
        old = self._sealed[:-RECENT] or self._sealed
        ends = [segment.first for segment in self._sealed[1:]] + [self._first]
        density = [
            round(math.log2(max(1, segment.size) / (end - segment.first))) if segment.first not in self._solid else -99
            for segment, end in zip(old, ends, strict=False)
        ]
        if max(density, default=-99) == -99:
            return []
        start = density.index(max(density))
        end, size = start + 1, self._sealed[start].size
        for step in (1, -1):
            at = end if step > 0 else start - 1
            while 0 <= at < len(density) and density[at] >= max(density) - 1:
                size += self._sealed[at].size
                if size > 2.2 * self._segment:
                    break
                start, end, at = min(start, at), max(end, at + 1), at + step
        return self._sealed[start:end]

    def _thin_out(self, dense: list[Segment]) -> Generator[int, None, None]:
        """Put half of the lines of neighbours into the place of the first; yields the bytes it has handled."""
        first = dense[0].first
        temporary = self._folder / f".{first:015}.tmp"
        self._thinned = 0
        try:
            with opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as out:
                for handled, lines in thinned(_lines_of(self._folder, [segment.first for segment in dense])):
                    if lines and os.write(out, lines) < len(lines):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    self._thinned += len(lines)
                    yield handled
                yield from _synced(out)
            os.replace(temporary, segment_path(self._folder, first))
        except (OSError, GeneratorExit):
            temporary.unlink(missing_ok=True)
            self._thinned = 0
            raise
        for segment in dense[1:]:
            segment_path(self._folder, segment.first).unlink(missing_ok=True)
        at = self._sealed.index(dense[0])
        self._sealed[at : at + len(dense)] = [Segment(first, self._thinned)]
        if self._thinned > 0.9 * sum(segment.size for segment in dense):
            self._solid.add(first)
        self._thinned = 0


class RecordReader:
    """Follows a record that somebody may be writing, from its beginning; never raises for what the files hold.

    `damaged` counts the lines that were skipped because they are not what was written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.damaged = 0
        self._fd: int | None = None
        self._first = -1  # the segment that is being read
        self._position = 0
        self._last = -1  # the highest number delivered
        self._before = -1  # and what it was when this file was opened

    def read(self, most: int | None = None) -> list[bytes]:
        """The payloads since the last call, in order; a torn end is left for a later call.

        With `most`, it is those from about so many bytes of the files, so that a long record can be opened in pieces;
        none only where there are none.
        """
        payloads: list[bytes] = []
        left = most if most is not None else 1 << 62
        for _ in range(MOST_SEGMENTS):
            names = [segment.first for segment in segments(self._folder)]
            left -= self._take(payloads, left)
            if left <= 0 and payloads:
                break
            if left <= 0:  # all of it was known already
                left = most or 1
                continue
            merged = self._first not in names or self._replaced()  # with neighbours that this file did not hold
            here = max((first for first in names if first <= self._first), default=-1)
            later = min((first for first in names if first > self._first), default=-1)
            if merged and here >= 0:
                self._open(here)
            elif later >= 0:
                self._leave_tail()
                self._open(later)
            else:
                break
        return payloads

    def close(self) -> None:
        """Let go of the file; a reader that nobody holds any more does so by itself."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    __del__ = close

    def _open(self, first: int) -> None:
        """Go to a segment; where it is gone, its lines are in the one before, or it was taken away."""
        try:
            fd = open_regular(segment_path(self._folder, first))
        except FileNotFoundError:
            return
        except OSError:  # whatever carries that name, it is not a segment
            self.damaged += 1
            fd = None
        self.close()
        self._fd, self._first, self._position, self._before = fd, first, 0, self._last

    def _replaced(self) -> bool:
        """Whether the name of the open file stands for another one by now."""
        try:
            return self._fd is not None and not os.path.samestat(
                os.fstat(self._fd), os.stat(segment_path(self._folder, self._first), follow_symlinks=False)
            )
        except OSError:
            return False

    def _take(self, payloads: list[bytes], most: int) -> int:
        """Read on to the last line end in the open file; the number of bytes taken."""
        began, size = self._position, CHUNK
        while self._fd is not None and self._position - began < most:
            try:
                data = os.pread(self._fd, size, self._position)
            except OSError:
                break
            end = data.rfind(b"\n") + 1
            if end:
                for line in data[: end - 1].split(b"\n"):
                    self._hear(line, payloads)
                self._position += end
                size = CHUNK
            elif len(data) < size:
                break
            elif size <= LONGEST:
                size *= 4
            else:  # no line is so long: go on inside it, so that its end is counted as damaged
                self._position += len(data)
        return self._position - began

    def _hear(self, line: bytes, payloads: list[bytes]) -> None:
        found = unseal(line)
        if found is None or self._before < found[0] <= self._last:
            self.damaged += 1
        elif found[0] > self._last:
            self._last = found[0]
            payloads.append(found[1])

    def _leave_tail(self) -> None:
        """Count what follows the last line end of a file that nobody will write to again."""
        with contextlib.suppress(OSError):
            if self._fd is not None and os.fstat(self._fd).st_size > self._position:
                self.damaged += 1


def _lines_of(folder: Path, firsts: Iterable[int]) -> Iterator[bytes]:
    """The lines of some segments, one after the other. Raises OSError."""
    for first in firsts:
        with opened(segment_path(folder, first)) as fd, os.fdopen(fd, "rb", closefd=False) as file:
            for line in file:
                yield line.removesuffix(b"\n")


def _end(fd: int, first: int) -> tuple[int, int]:
    """Where the last whole line of a file ends, and the number that the next one gets. Raises OSError."""
    size = os.fstat(fd).st_size
    start = max(0, size - 4 * LONGEST)
    data = os.pread(fd, size - start, start)
    end = data.rfind(b"\n") + 1
    bad = 0
    for line in reversed(data[: end - 1].split(b"\n") if end else []):
        if found := unseal(line):
            return start + end, found[0] + 1 + bad
        bad += 1
    return (start + end if end else 0), first + bad


def _by_thread(work: Callable[[int], None], fd: int) -> threading.Thread:
    """Does it with a copy of the descriptor, and closes that. Raises OSError where the system has none or no thread."""
    own = os.dup(fd)

    def run() -> None:
        try:
            work(own)
        finally:
            os.close(own)

    thread = threading.Thread(target=run, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        os.close(own)
        raise OSError(errno.EAGAIN, str(error)) from None
    return thread


def _synced(fd: int) -> Iterator[int]:
    """Sync a file by a thread; yields until it is done. Raises OSError."""
    problems: list[OSError] = []

    def sync(own: int) -> None:
        try:
            os.fsync(own)
        except OSError as error:
            problems.append(error)

    thread = _by_thread(sync, fd)
    while thread.is_alive():
        yield LONGEST
    if problems:
        raise problems[0]
