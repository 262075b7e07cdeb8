"""How much memory can be had, and the refusal of what would take more."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path


def find_room(needed: float) -> None:
    """Raises MemoryError where so many bytes cannot be had: Linux, which promises more than it has, would kill the
    program later on.
    """
    free = free_memory()
    if needed > free:
        raise MemoryError(f"it takes about {needed / 2**30:,.1f} GiB of memory, and {free / 2**30:,.1f} GiB are free")


def free_memory(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes that can be had: what the machine has left, or a container of its share; infinite where nobody knows."""
    free = math.inf
    with contextlib.suppress(OSError, LookupError, ValueError):
        free = 1024.0 * _numbers(proc / "meminfo")["MemAvailable:"]
    for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        for folder in (cgroup, cgroup / "memory"):
            with contextlib.suppress(OSError, LookupError, ValueError):  # "max": no limit
                left = int((folder / limit).read_text()) - int((folder / used).read_text())
                free = min(free, left + _numbers(folder / "memory.stat")["inactive_file"])  # files that make room
    return free


def _numbers(path: Path) -> dict[str, int]:
    """The numbers of a file of lines of a name and a number."""
    return {words[0]: int(words[1]) for line in path.read_text().splitlines() if len(words := line.split()) > 1}
