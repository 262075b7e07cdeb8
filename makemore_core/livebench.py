"""What watching costs, measured on the whole program as people run it: real processes, real terminals.

It stands apart from the engines' figures because nothing here looks inside: a run is a folder, a view is a process
behind a pseudo-terminal, and both are treated as a person would treat them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import random
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import msgspec

from makemore_core.attach import Attached
from makemore_core.command import Pause, Resume
from makemore_core.figures import Asked, Effort, Figure, compare, summary
from makemore_core.snapshot import Snapshot

PROGRAM = [sys.executable, "-m", "app"]
ROOT = Path(__file__).parent.parent
FOREVER = "1000000000"
PATIENCE = 60.0  # seconds after which something that was waited for passes for broken
SETTLE = 1.0  # seconds after a view opens, or a run goes on, before it is measured
SIZES = {"80×24": (80, 24, 30.0, 10.0), "200×50": (200, 50, 100.0, 40.0)}  # columns, rows, asked, moonshot in kB/s

# Makes the pseudo-terminal the controlling one, in the new process.
LAUNCH = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


class View:
    """A program behind a pseudo-terminal that is read as fast as it writes."""

    def __init__(self, command: list[str], columns: int, rows: int, env: dict[str, str]) -> None:
        self.began = time.monotonic()
        self.bytes = 0
        self._text, self._lock = b"", threading.Condition()
        self._terminal, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, *command],
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
            cwd=ROOT,
            env=env | {"TERM": "xterm-256color", "COLORTERM": "truecolor"},
        )
        os.close(other)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the program ended
            while data := os.read(self._terminal, 65536):
                with self._lock:
                    self.bytes += len(data)
                    self._text = (self._text + data)[-200_000:]
                    self._lock.notify()

    def wait_for(self, text: bytes) -> float:
        """When the text had been written, on the monotonic clock. Raises ValueError if it is not."""
        deadline = time.monotonic() + PATIENCE
        with self._lock:
            while text not in self._text:
                if not self._lock.wait(deadline - time.monotonic()):
                    raise ValueError(f"{text.decode()!r} did not come to the terminal within {PATIENCE:.0f} s")
            return time.monotonic()

    def press(self, key: bytes) -> float:
        """Type, and forget what was written before; when, on the monotonic clock."""
        with self._lock:
            self._text = b""
        began = time.monotonic()
        os.write(self._terminal, key)
        return began

    def close(self) -> None:
        """End the program and its terminal."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._terminal)


class Run:
    """A run of another process, seen through its folder; it trains only while it is measured."""

    def __init__(self, folder: Path, env: dict[str, str], size: tuple[int, int] | None = None) -> None:
        command = [*PROGRAM, "train", "--engine", "fast", "--steps", FOREVER, "--run", str(folder)]
        self.view = View(command, *size, env) if size else None
        self._process = None
        if not size:
            self._process = subprocess.Popen(
                [*command, "--headless"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT, env=env
            )
        self._folder = folder
        self._stream: Attached | None = None
        self._newest: Snapshot | None = None

    def __enter__(self) -> Self:
        self._wait_for(lambda snapshot: snapshot.step >= 1, "did not begin")
        self.pause()
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()
        if self.view is not None:
            self.view.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        """The process that trains, where there is no view."""
        assert self._process is not None
        return self._process.pid

    def snapshot(self) -> Snapshot | None:
        """The newest one."""
        if self._stream is None and (self._folder / "record").is_dir():
            self._stream = Attached(self._folder)
        for event in self._stream.drain() if self._stream is not None else ():
            if isinstance(event, Snapshot):
                self._newest = event
        return self._newest

    def pause(self) -> None:
        """Stop training, and return when it has stopped."""
        self._ask(Pause(), "paused")

    def resume(self) -> None:
        """Go on training, and return when it does."""
        self._ask(Resume(), "running")

    def _ask(self, command: Pause | Resume, state: str) -> None:
        assert self._stream is not None
        self._stream.send(command)
        self._wait_for(lambda snapshot: snapshot.state == state, f"was not {state}")

    def speed(self, seconds: float) -> float:
        """Steps per second over so long, by the snapshots' own clock."""
        self.resume()
        time.sleep(min(SETTLE, seconds / 4))
        first = self.fresh()
        time.sleep(seconds)
        last = self.fresh()
        self.pause()
        return (last.step - first.step) / (last.time - first.time)

    def fresh(self) -> Snapshot:
        """The next snapshot to come."""
        before = self.snapshot()
        return self._wait_for(lambda snapshot: snapshot is not before, "told nothing")

    def _wait_for(self, condition: Callable[[Snapshot], bool], otherwise: str) -> Snapshot:
        """The first snapshot of which that is so. Raises ValueError where there is none in time."""
        deadline = time.monotonic() + PATIENCE
        while (snapshot := self.snapshot()) is None or not condition(snapshot):
            if time.monotonic() > deadline:
                raise ValueError(f"the run {self._folder.name} {otherwise} within {PATIENCE:.0f} s")
            time.sleep(0.005)
        return snapshot


def measure(effort: Effort, notes: list[str]) -> Iterator[Figure]:
    """The figures of the whole program; what cannot be measured here is added to the notes."""
    with tempfile.TemporaryDirectory(prefix="makemore-bench-", ignore_cleanup_errors=True) as name:
        env = os.environ | {"MAKEMORE_RUNS": name, "OMP_NUM_THREADS": "1"}
        for part in (_watched, _bytes_and_keys, _memory, _starts):
            try:
                yield from part(Path(name), effort, env)
            except (ValueError, OSError) as error:
                notes.append(f"{part.__name__.strip('_').replace('_', ' ')}: {error}")


def _watched(folder: Path, effort: Effort, env: dict[str, str]) -> Iterator[Figure]:
    """Training with a live view, in its own process and from another one, against headless."""
    with (
        Run(folder / "headless", env) as headless,
        Run(folder / "studio", env, (160, 48)) as studio,
        Run(folder / "attached", env) as attached,
    ):
        view = View([*PROGRAM, "attach", str(folder / "attached")], 160, 48, env)
        view.wait_for(b"paused")
        sides = {"headless": headless, "studio": studio, "attached": attached}
        speeds: dict[str, list[float]] = {side: [] for side in sides}
        for turn in range(effort.rounds):
            for side in sides if turn % 2 else reversed(sides):
                speeds[side].append(sides[side].speed(2 * effort.turn))
        view.close()
    name = "six layers: {} at 160×48, 10 frames/s / headless"
    yield compare(name.format("studio"), speeds, "studio", "headless", Asked(0.90, 0.97))
    yield compare(name.format("view attached"), speeds, "attached", "headless", Asked(0.97, 0.99))


def _bytes_and_keys(folder: Path, effort: Effort, env: dict[str, str]) -> Iterator[Figure]:
    """What a view sends to the terminal while it trains at full speed, and how soon it answers a key."""
    for name, (columns, rows, asked, moonshot) in SIZES.items():
        with Run(folder / f"bytes-{columns}", env, (columns, rows)) as run:
            assert run.view is not None
            run.resume()
            time.sleep(SETTLE)
            rates = []
            for _ in range(3):
                began, before = time.monotonic(), run.view.bytes
                time.sleep(4 * effort.turn)
                rates.append((run.view.bytes - before) / (time.monotonic() - began) / 1000)
            asking = Asked(asked, moonshot, at_most=True)
            yield summary(f"bytes to the terminal, {name}, training", rates, asking, unit="kB/s")
            if columns == 80:
                yield _keys(run.view, effort)
            run.pause()
            time.sleep(SETTLE)
            before = run.view.bytes
            time.sleep(effort.turn)
            yield summary(f"bytes to the terminal, {name}, paused", [(run.view.bytes - before) / 1000], unit="kB")


def _keys(view: View, effort: Effort) -> Figure:
    """From a key to the word it brings to the screen; the value is the 95th percentile."""
    rng, waits = random.Random(1), list[float]()
    for _ in range(8 * effort.rounds):
        began = view.press(b"p")  # freezes the view, and says so
        waits.append(1000 * (view.wait_for(b"frozen") - began))
        view.press(b"p")
        time.sleep(0.3 + rng.random() / 5)  # at no particular moment between two frames
    worst = sorted(waits)[int(0.95 * len(waits))]
    asked = Asked(60, 30, at_most=True)
    figure = summary("key to changed screen, training, 95th percentile", waits, asked, unit="ms")
    return msgspec.structs.replace(figure, value=worst)


def _memory(folder: Path, effort: Effort, env: dict[str, str]) -> Iterator[Figure]:
    """How much a training process grows."""
    steps = 100_000 if effort.rounds < 5 else 1_000_000
    with Run(folder / "memory", env) as run:
        run.resume()
        start = _reach(run, run.fresh().step + 50_000)
        before = _resident(run.pid)
        _reach(run, start + steps)
        grown = _resident(run.pid) - before
    asked = Asked(20, 5, at_most=True) if steps == 1_000_000 else None
    yield summary(f"memory growth over {steps:,} steps", [grown], asked, unit="MB")


def _reach(run: Run, step: int) -> int:
    while (snapshot := run.fresh()).step < step:
        time.sleep(0.1)
    return snapshot.step


def _resident(pid: int) -> float:
    """Resident memory in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise ValueError("this system does not tell how much memory a process has")


def _starts(folder: Path, effort: Effort, env: dict[str, str]) -> Iterator[Figure]:
    """Seconds from the command to the help, to the first picture, to the first update."""
    helps, pictures, steps = [], [], []
    for turn in range(effort.rounds):
        began = time.monotonic()
        subprocess.run([*PROGRAM, "--help"], cwd=ROOT, env=env, stdout=subprocess.DEVNULL, check=True)
        helps.append(time.monotonic() - began)
        view = View([*PROGRAM, "train", "--run", str(folder / f"start-{turn}")], 80, 24, env)
        pictures.append(view.wait_for(b"quit") - view.began)  # the footer: the last line of a picture
        view.close()
        steps.append(_first_step(folder / f"first-{turn}", env))
    yield summary("makemore --help", helps, Asked(0.3, 0.2, at_most=True), unit="s")
    yield summary("first picture of the studio", pictures, Asked(0.7, 0.5, at_most=True), unit="s")
    yield summary("first training step", steps, Asked(3.5, 2.5, at_most=True), unit="s")


def _first_step(folder: Path, env: dict[str, str]) -> float:
    began = time.monotonic()
    command = [*PROGRAM, "train", "--headless", "--json", "--probe-every", "1", "--run", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, env=env) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if msgspec.json.decode(line).get("step", 0) >= 1:
                break
        seconds = time.monotonic() - began
        process.kill()
    return seconds
