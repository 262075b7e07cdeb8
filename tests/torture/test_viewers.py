"""Ten people look at a run; one's terminal hangs, one's connection dies every second; the trainer does not notice."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from makemore_core import rundir
from tests.commands import ROOT
from tests.terminal import environment
from tests.torture.test_run_torture import Training, training

__all__ = ["training"]  # a fixture

VIEWERS = 10
ROUNDS = 6
AT_ONCE = 5.0  # seconds without viewers, with them, and with them dying, in turns: thirty of each


class Viewer:
    """`makemore attach` on a terminal whose other end reads what comes and throws it away."""

    def __init__(self, folder: Path) -> None:
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        os.set_blocking(self._master, False)
        installed = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(folder.parent / "bytecode")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app", "attach", str(folder)],
            stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, env=environment(installed), start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.received = 0

    def read(self) -> None:
        """Take in what it has sent."""
        with contextlib.suppress(BlockingIOError, OSError):
            while data := os.read(self._master, 1 << 16):
                self.received += len(data)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


class Crowd:
    """Ten viewers; the first is stopped for good, and every second the oldest of the others is killed and replaced."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.viewers = [Viewer(folder) for _ in range(VIEWERS)]
        self.killed = 0
        self._next = 0.0

    def look(self) -> None:
        for viewer in self.viewers:
            viewer.read()
        time.sleep(0.02)

    def look_and_die(self) -> None:
        self.look()
        if time.monotonic() > self._next:
            self._next = time.monotonic() + 1.0
            self.viewers.pop(1).kill()
            self.viewers.append(Viewer(self._folder))
            self.killed += 1

    def come(self) -> None:
        for viewer in self.viewers[1:]:
            viewer.signal(signal.SIGCONT)
        self._next = time.monotonic() + 1.0

    def go(self) -> None:
        for viewer in self.viewers:
            viewer.signal(signal.SIGSTOP)


def kept_waiting(pid: int) -> float:
    """Seconds in which a process' first thread, which trains, was ready and no processor was free for it."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]) / 1e9


@pytest.fixture
def crowd(training: Callable[..., Training]) -> Iterator[tuple[Training, Crowd]]:
    """A trainer at work, and the viewers of its run."""
    found = training(per_second=10)
    found.until(lambda new: new[1] > 20_000)
    crowd = Crowd(found.folder)
    yield found, crowd
    for viewer in crowd.viewers:
        viewer.kill()


@pytest.mark.torture
def test_ten_viewers(crowd: tuple[Training, Crowd]) -> None:
    found, viewers = crowd
    pid = found.process.pid
    deadline = time.monotonic() + 60
    while min(viewer.received for viewer in viewers.viewers) < 1000 and time.monotonic() < deadline:
        for viewer in viewers.viewers:
            viewer.read()
        time.sleep(0.05)

    def measured(meanwhile: Callable[[], None]) -> tuple[float, float]:
        began, waited = time.monotonic(), kept_waiting(pid)
        rate = found.steps_in(AT_ONCE, meanwhile)
        return rate, rate / (1 - (kept_waiting(pid) - waited) / (time.monotonic() - began))

    ratios: dict[str, list[tuple[float, float]]] = {
        "one of them stopped": [],
        "and one killed and replaced each second": [],
    }
    for _ in range(ROUNDS):
        viewers.go()
        alone = measured(lambda: time.sleep(0.02))
        viewers.come()
        for what, look in zip(ratios, (viewers.look, viewers.look_and_die), strict=True):
            rate, work = measured(look)
            ratios[what].append((rate / alone[0], work / alone[1]))
    received = sum(viewer.received for viewer in viewers.viewers)
    print(f"\n{VIEWERS} viewers of a trainer, on {os.cpu_count()} cores with a load of {os.getloadavg()[0]:.1f}:")
    for what, found_ratios in ratios.items():
        wall, work = (sorted(column)[ROUNDS // 2] for column in zip(*found_ratios, strict=True))
        print(f"  {what}: {wall:.1%} of its steps a second alone, {work:.1%} while a processor was free for it")
    assert viewers.killed >= 20
    assert received > 100_000
    assert found.process.poll() is None
    assert rundir.liveness(found.folder) == "running"
    assert found.look()[2] == 0  # nothing was dropped from the record
