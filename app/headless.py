"""Training without a screen: a progress bar on a terminal, plain lines into a pipe, JSON lines for programs.

It is the smallest front end: a loop over the stream, which ends when the run does.
"""

from __future__ import annotations

import errno
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Protocol

from app.launch import Worker
from app.terminal import Exit, by_signal, is_gone, outlive_terminal, visible
from makemore_core.command import Channel, Stop
from makemore_core.snapshot import Snapshot, to_json
from makemore_core.watch import Watch

LINE = 5.0  # seconds between two plain lines
TICK = 0.1
SAVING = 30.0  # seconds that a run may take to save and stop; a checkpoint takes a small part of one


class Printer(Protocol):
    """Shows snapshots one after the other."""

    def show(self, snapshot: Snapshot) -> None:
        """A new one."""

    def close(self) -> None:
        """That was all."""


def train_headless(folder: Path, as_json: bool, watch: Watch) -> int:
    """Train the run in the folder to its end, or until ctrl-c or SIGTERM, which save first; the exit status."""
    channel = Channel()
    worker = Worker(folder, channel, watch=watch, stay=False)
    with stopped_by_signals(channel) as caught:
        worker.start()
        try:
            newest = follow(channel, worker, JsonLines() if as_json else Bar() if _on_terminal() else Lines())
        except BaseException:
            channel.send(Stop())
            worker.join(SAVING)
            raise
    if worker.error is not None:
        raise worker.error
    if caught:
        return by_signal(caught[0])
    return Exit.FINDINGS if worker.unsaved() or (newest is not None and newest.state == "diverged") else Exit.DONE


def follow(channel: Channel, worker: Worker, printer: Printer) -> Snapshot | None:
    """Show what comes until the training has ended; the last snapshot."""
    newest: Snapshot | None = None
    ended = False
    while not ended:
        ended = worker.join(TICK)
        for event in channel.drain():
            if isinstance(event, Snapshot):
                with without_terminal_if_lost():
                    printer.show(event)
                if what(event.message) != what(newest.message if newest else ""):
                    tell(event)
                newest = event
    with without_terminal_if_lost():
        printer.close()
    return newest


def what(message: str) -> str:
    """A message without the number that grows while it lasts."""
    return re.sub(r"[\d,]+ records? (?=lost)", "", message)


def _on_terminal() -> bool:
    return sys.stdout.isatty() and sys.stderr.isatty()


def tell(snapshot: Snapshot) -> None:
    """What the run has to say to people, if anything."""
    if snapshot.message:
        with without_terminal_if_lost():
            sys.stderr.write(f"{snapshot.state}: {visible(snapshot.message)}\n")
            sys.stderr.flush()


@contextmanager
def stopped_by_signals(channel: Channel) -> Iterator[list[int]]:
    """Meanwhile the signals that end a program ask the run to stop instead; what was caught is in the list.

    Where SIGHUP tells that the terminal is gone, the run goes on without it.
    """
    caught: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        caught.append(number)
        channel.send(Stop())

    def hung_up(number: int, frame: FrameType | None) -> None:
        if any(is_gone(fd) for fd in (0, 1, 2)):
            outlive_terminal()
        else:
            stop(number, frame)

    handlers = {signal.SIGINT: stop, signal.SIGTERM: stop, signal.SIGHUP: hung_up}
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # started by nohup, or the terminal went before
        del handlers[signal.SIGHUP]
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield caught
    finally:
        for number, was in before.items():
            if signal.getsignal(number) == handlers[number]:
                signal.signal(number, was)


@contextmanager
def without_terminal_if_lost() -> Iterator[None]:
    """What cannot be shown does not stop the training.

    Where the terminal or the reader of a pipe is gone it is not missed later either; a full disk may have room again.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EIO, errno.EPIPE):
            outlive_terminal()


class JsonLines:
    """Each snapshot as one JSON object a line on stdout."""

    def show(self, snapshot: Snapshot) -> None:
        sys.stdout.buffer.write(to_json(snapshot) + b"\n")
        sys.stdout.buffer.flush()

    def close(self) -> None:
        """Nothing is kept back."""


class Lines:
    """A line now and then, and at the start and the end."""

    def __init__(self) -> None:
        self._last: Snapshot | None = None
        self._next = 0.0

    def show(self, snapshot: Snapshot) -> None:
        self._last = snapshot
        now = time.monotonic()
        if now >= self._next and snapshot.step:
            self._next = now + LINE
            self._print(snapshot)

    def _print(self, snapshot: Snapshot) -> None:
        sys.stdout.write(line(snapshot) + "\n")
        sys.stdout.flush()
        self._last = None

    def close(self) -> None:
        if self._last is not None:
            self._print(self._last)


def line(snapshot: Snapshot) -> str:
    """A snapshot in one line for people."""
    parts = [f"step {snapshot.step:,}/{snapshot.steps:,}", f"loss {number(snapshot.smoothed_loss)}"]
    if snapshot.splits is not None:
        parts += [f"{name} {number(getattr(snapshot.splits, name))}" for name in ("train", "val")]
    if snapshot.state == "running" and snapshot.steps_per_second > 0:
        parts.append(f"{snapshot.steps_per_second:,.0f} steps/s")
    if snapshot.twin is not None:
        val = f" val {number(snapshot.twin.splits.val)}" if snapshot.twin.splits else ""
        parts.append(f"({visible(snapshot.twin.run)}: loss {number(snapshot.twin.smoothed_loss)}{val})")
    return "  ".join([*parts, snapshot.state])


def number(value: float | None) -> str:
    """A loss to four decimals; a dash where there is none."""
    return "-" if value is None else f"{value:.4f}"


class Bar:
    """A progress bar on stderr: rate, smoothed loss, time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:,.0f} steps/s"),
            TextColumn("loss {task.fields[loss]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            auto_refresh=False,
        )
        self._task = self._progress.add_task("loading", total=None, rate=0.0, loss="-")
        self._progress.start()

    def show(self, snapshot: Snapshot) -> None:
        self._progress.update(
            self._task,
            description=snapshot.run,
            completed=snapshot.step,
            total=snapshot.steps,
            rate=snapshot.steps_per_second,
            loss=number(snapshot.smoothed_loss),
            refresh=True,
        )

    def close(self) -> None:
        self._progress.stop()
