"""Keeping out of a trainer's way: a view of its run leaves it the processor that it trains on.

Being nice is not enough. Where sessions are scheduled as groups (Linux autogroup) niceness does not count between
them, and the scheduler now and then puts a process that wakes ten times a second onto the trainer's processor though
another one is free.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from makemore_core import rundir

NICE = 10  # by how much a view of another process's run yields to it where processors are short
AGAIN = 2.0  # seconds after which somebody looks who trains the run; where he runs is looked up each time


class Aside:
    """Yields to the trainer of the run in a folder, for all of this process, from now on."""

    def __init__(self, folder: Path) -> None:
        os.nice(NICE)
        self._folder = folder
        self._allowed = os.sched_getaffinity(0)
        self._now = self._allowed
        self._holder: rundir.Holder | None = None
        self._asked = 0.0
        self.keep()

    def keep(self) -> None:
        """Move to the processors that the trainer leaves free; to be called before each piece of work.

        A change that the system refuses is left.
        """
        if len(self._allowed) < 2:
            return
        if time.monotonic() - self._asked > AGAIN:
            self._asked = time.monotonic()
            self._holder = rundir.held_by(self._folder)
        new = self._allowed - processors(self._holder) if self._holder else self._allowed
        if new and new != self._now:
            self._now = new
            for thread in os.listdir("/proc/self/task"):
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(int(thread), new)


def processors(holder: rundir.Holder) -> set[int]:
    """Where the thread that trains runs, or ran last; empty where nobody knows."""
    try:
        with open(f"/proc/{holder.pid}/task/{holder.thread or holder.pid}/stat", "rb") as file:
            return {int(file.read().rpartition(b")")[2].split()[36])}
    except (OSError, ValueError, IndexError):
        return set()
