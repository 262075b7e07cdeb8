"""Whole runs in processes of their own under full disks, floods and long recording; speeds are printed."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.launch import begin, plan
from makemore_core import rundir
from makemore_core.attach import Attached
from makemore_core.command import Pause
from makemore_core.control import ControlClient
from makemore_core.record import RecordReader
from tests.test_control import harass

pytestmark = pytest.mark.torture

MINUTES = float(os.environ.get("MAKEMORE_TORTURE_MINUTES", "20"))
AT_ONCE = 2.0  # seconds of each of the two sides of a comparison
TIMES = 11

# Trains a run and prints time and step ten times a second.
TRAINS = """
import sys, threading, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from makemore_core import recorder
from makemore_core.command import Channel
from makemore_core.watch import Watch
recorder.CHECKPOINT = float(sys.argv[2])
session = recorder.open_run(Path(sys.argv[1]), Channel(), watch=Watch(per_second=float(sys.argv[3]), budget=0.2))

def tell():
    while True:
        time.sleep(0.1)
        if record := session.recorder._record:
            print(time.monotonic(), session.trainer.step, record.dropped, flush=True)

threading.Thread(target=tell, daemon=True).start()

session.run()
import os
os._exit(0)
"""


class Training:
    """A run in a process of its own."""

    def __init__(self, folder: Path, *, checkpoints: float = 3600.0, per_second: float = 10.0) -> None:
        argv = [sys.executable, "-c", TRAINS, str(folder), str(checkpoints), str(per_second)]
        self.folder = folder
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self._text = b""
        self.samples: list[tuple[float, int, int]] = []

    def look(self) -> tuple[float, int, int]:
        """The newest time, step and number of records dropped."""
        assert self.process.stdout is not None
        while data := self.process.stdout.read():
            self._text += data
        *lines, self._text = self._text.split(b"\n")
        for line in lines:
            at, step, dropped = line.split()
            self.samples.append((float(at), int(step), int(dropped)))
        return self.samples[-1] if self.samples else (0.0, 0, 0)

    def until(self, true: Callable[[tuple[float, int, int]], bool], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not true(self.look()):
            assert self.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def steps_in(self, seconds: float, meanwhile: Callable[[], None] = lambda: None) -> float:
        """Steps a second while `meanwhile` is called again and again."""
        meanwhile()
        deadline = time.monotonic() + seconds
        self.look()
        self.until(lambda new, old=self.samples[-1]: new != old)  # type: ignore[misc]
        start = self.look()
        while time.monotonic() < deadline:
            meanwhile()
        time.sleep(0.1)
        end = self.look()
        return (end[1] - start[1]) / (end[0] - start[0])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Training]]:
    """Starts training a new run, or one that is ready for it."""
    monkeypatch.setenv("MAKEMORE_RUNS", str(tmp_path))
    started = []

    def start(folder: Path | None = None, **how: float) -> Training:
        folder = folder or begin(plan(None, {"steps": str(10**9)}, None), None)
        started.append(Training(folder, **how))
        return started[-1]

    yield start
    for found in started:
        found.kill()


def compare(found: Training, quiet: Callable[[], None], disturb: Callable[[], None], what: str) -> None:
    """Print the speed while disturbed against that while left alone, taken in turns."""
    found.until(lambda new: new[1] > 20_000)
    ratios = []
    for _ in range(TIMES):
        alone = found.steps_in(AT_ONCE, quiet)
        ratios.append(found.steps_in(AT_ONCE, disturb) / alone)
    ratios.sort()
    print(f"\n{what}: {ratios[TIMES // 2]:.1%} of its speed alone, from {ratios[0]:.1%} to {ratios[-1]:.1%}")


def idle() -> None:
    time.sleep(0.05)


# -- disks


class Quota:
    """No file of the trainer may grow any more: works everywhere."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def fill(self) -> None:
        _, hard = resource.prlimit(self._pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, (0, hard))

    def free(self) -> None:
        _, hard = resource.prlimit(self._pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, (hard, hard))


class SmallDisk:
    """A file system of its own that a large file fills."""

    def __init__(self, folder: Path) -> None:
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        with self._ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            free = os.statvfs(self._ballast)
            os.posix_fallocate(file.fileno(), file.tell(), max(1, free.f_bavail * free.f_frsize))
            while file.write(bytes(512)):
                pass

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)


def check_full_disk(found: Training, disk: Quota | SmallDisk, what: str) -> None:
    reader = RecordReader(found.folder / rundir.RECORD)

    def quiet() -> None:
        disk.free()
        idle()
        reader.read()

    def full() -> None:
        disk.fill()
        idle()

    compare(found, quiet, full, what)
    lost = found.look()[2]
    assert lost > 0
    disk.free()
    reader.read()
    freed = time.monotonic()
    found.until(lambda _: bool(reader.read()))
    waited = time.monotonic() - freed
    reader.close()
    assert reader.damaged == 0
    assert waited < 10
    print(f"{lost} snapshots dropped and counted, no torn record; recording again {waited:.1f} s after there was room")


def test_no_file_may_grow(training: Callable[..., Training]) -> None:
    found = training()
    check_full_disk(found, Quota(found.process.pid), "a disk full at every write")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_file_system(training: Callable[..., Training], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.mkdir(mode=0o700)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m,mode=700", "none", str(disk)]).returncode:
        pytest.skip("mounting is not allowed here")
    monkeypatch.setenv("MAKEMORE_RUNS", str(disk))
    try:
        found = training(begin(plan(None, {"steps": str(10**9)}, None), str(disk / "run")))
        check_full_disk(found, SmallDisk(disk), "a full file system")
        found.kill()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# -- floods


def test_10000_hostile_messages(training: Callable[..., Training]) -> None:
    found = training()
    dice, sent = random.Random(8), 0

    def attack() -> None:
        nonlocal sent
        harass(found.folder, 100, dice)
        sent += 100
        time.sleep(100 * TIMES * AT_ONCE / 10_000)

    compare(found, idle, attack, "under malformed, huge and slow messages")
    while sent < 10_000:
        attack()
    assert ControlClient(found.folder).request(None, 20).ok
    assert ControlClient(found.folder).request(Pause(), 20).ok
    assert found.process.poll() is None
    print(f"{sent:,} messages sent; the socket still answers and a command still works")


# -- days


def resident(pid: int) -> float:
    """Megabytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_memory_handles_and_threads_stay_while_viewers_come_and_go(training: Callable[..., Training]) -> None:
    found = training(per_second=100, checkpoints=5.0)
    pid, dice = found.process.pid, random.Random(9)
    found.until(lambda new: new[1] > 50_000)
    began, viewers, counted = time.monotonic(), list[Attached](), []
    while (passed := (time.monotonic() - began) / 60) < MINUTES:
        if dice.random() < 0.2:
            viewers.append(Attached(found.folder))
        if len(viewers) > 5:
            viewers.pop(0).close()
        for viewer in viewers:
            if dice.random() < 0.8:
                for _ in viewer.drain():
                    pass
        time.sleep(0.2)
        found.look()
        handles, threads = len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))
        counted.append((passed, resident(pid), handles - len(viewers), threads))
    first = [row for row in counted if row[0] < 0.1 * MINUTES]
    last = [row for row in counted if row[0] > 0.9 * MINUTES]
    grown = max(row[1] for row in last) - max(row[1] for row in first)
    size = sum(path.stat().st_size for path in (found.folder / rundir.RECORD).iterdir())
    course = [max(row[1] for row in counted if int(10 * row[0] / MINUTES) == tenth) for tenth in range(10)]
    print("\nmemory in MB, by tenths of the time:", *(f"{most:.0f}" for most in course))
    print(f"{MINUTES:g} minutes at up to 100 snapshots a second: memory {grown:+.1f} MB, record {size / 1e6:.0f} MB")
    for what, at in (("handles", 2), ("threads", 3)):
        print(what, sorted({row[at] for row in first}), "->", sorted({row[at] for row in last}))
    assert grown < 20
    assert max(row[2] for row in last) <= max(row[2] for row in first) + 6
    assert max(row[3] for row in last) <= max(row[3] for row in first)
