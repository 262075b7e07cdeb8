"""Private files that are never half-written and never waited for: how everything in a run's folder is opened.

A reader finds the old content or the new, whatever happens to the writer; a name that turns out to be a pipe, a
folder or a link is an error at once, so that nothing planted in a folder can stall whoever looks into it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def opened(path: Path | str, flags: int = os.O_RDONLY) -> Iterator[int]:
    """The descriptor of a regular file, private (0600) where it is new. Raises OSError for anything else."""
    fd = open_regular(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def open_regular(path: Path | str, flags: int = os.O_RDONLY) -> int:
    """As `opened`, for a file that stays open."""
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(f"{path}: not a regular file")
    return fd


def read_file(path: Path | str, most: int = 1 << 40) -> bytes:
    """The whole content. Raises OSError, also where there are more than `most` bytes."""
    with opened(path) as fd:
        size = os.fstat(fd).st_size
        if size > most:
            raise OSError(f"{path}: {size:,} bytes, at most {most:,} are read")
        with os.fdopen(fd, "rb", closefd=False) as file:
            return file.read()


def write_file(path: Path | str, data: bytes | memoryview) -> None:
    """Write a file in place, onto the disk itself before this returns. Raises OSError."""
    with opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fd:
        _write_all(fd, data)
        os.fsync(fd)


def replace_file(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Put `data` in the place of the file in one stroke. `sync`: onto the disk itself. Raises OSError."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fd:
            _write_all(fd, data)
            if sync:
                os.fsync(fd)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
