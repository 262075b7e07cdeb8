"""Training without a screen: a progress bar on a terminal, plain lines into a pipe, JSON lines for programs.

It is the smallest front end: a loop over the stream, which ends when the run does.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from app.glyphs import ASCII, UNICODE, clip, escape
from app.launch import FINISHED, SAVING, Worker
from app.report import line, number
from app.terminal import (
    Exit,
    ascii_wanted,
    by_signal,
    is_dumb,
    stopped_by_signals,
    tell,
    without_terminal_if_lost,
)
from makemore_core import rundir
from makemore_core.command import Channel, Stop
from makemore_core.config import printable
from makemore_core.snapshot import Snapshot, gist, to_json
from makemore_core.watch import Watch

LINE = 5.0  # seconds between two plain lines
TICK = 0.1
NAME_CELLS = 20  # of a run's name before the bar


def train_headless(folder: Path, as_json: bool, watch: Watch, ascii_only: bool | None, channel: Channel) -> int:
    """Train the run in the folder to its end, or until ctrl-c or SIGTERM, which save first; the exit status.

    Raises OSError where what is printed found no room.
    """
    worker = Worker(folder, channel, watch=watch, stay=False)
    before = rundir.read_state(folder)
    printer: JsonLines | Lines = JsonLines() if as_json else Lines()
    if not as_json and sys.stdout.isatty() and sys.stderr.isatty() and not is_dumb():
        printer = Bar(ascii_wanted() if ascii_only is None else ascii_only)
    lost: list[OSError] = []
    with stopped_by_signals(channel) as caught:
        worker.start()
        try:
            newest = follow(folder, channel, worker, printer, before, lost)
        except BaseException:
            channel.send(Stop())
            worker.join(SAVING)
            raise
    if worker.error is not None:
        raise worker.error
    if caught:
        return by_signal(caught[0])
    if lost:
        raise lost[-1]
    incomplete = worker.unsaved() or worker.lost()
    return Exit.TROUBLE if incomplete or (newest is not None and newest.state == "diverged") else Exit.DONE


def follow(
    folder: Path,
    channel: Channel,
    worker: Worker,
    printer: JsonLines | Lines,
    before: Snapshot | None,
    lost: list[OSError],
) -> Snapshot | None:
    """Show what comes until the training has ended; the last snapshot. `lost`: why something could not be shown."""
    newest: Snapshot | None = None
    standing = gist("")  # the first remark comes back whenever a later one lapses
    ended = waits = False
    while not ended:
        ended = worker.join(TICK)
        for event in channel.drain():
            if isinstance(event, Snapshot):
                if newest is None:
                    remark(how_it_begins(event, before), printer)
                with without_terminal_if_lost(lost):
                    printer.show(event)
                if gist(event.message) - gist(newest.message if newest else "") - standing:
                    remark(f"{event.state}: {event.message}", printer)
                    standing = standing or gist(event.message)
                if event.state == "paused" and (newest is None or newest.state != "paused"):
                    remark(f"paused; makemore ctl {rundir.called(folder)} resume goes on", printer)
                newest = event
        if newest is not None and newest.state == "finished" and worker.unsaved() and not (ended or waits):
            waits = True
            remark("waiting for space to save it; ctrl-c gives up", printer)
    with without_terminal_if_lost(lost):
        printer.close()
    return newest


def how_it_begins(first: Snapshot, before: Snapshot | None) -> str:
    """What people have to know of a run that goes on; `before`: its last snapshot until now."""
    if before is None:
        return ""
    if first.state == "finished":
        return FINISHED
    return f"going on from step {first.step:,}" if first.step or first.attempt else ""


def remark(text: str, printer: JsonLines | Lines) -> None:
    """Tell people something between what is printed, if there is something to tell."""
    if text:
        with without_terminal_if_lost():
            printer.clear()
        tell(f"{printable(text)}\n")


class JsonLines:
    """Each snapshot as one JSON object a line on stdout."""

    def show(self, snapshot: Snapshot) -> None:
        sys.stdout.buffer.write(to_json(snapshot) + b"\n")
        sys.stdout.buffer.flush()

    def clear(self) -> None:
        """A line stays where it is."""

    def close(self) -> None:
        """Nothing is kept back."""


class Lines:
    """A line now and then, and at the start and the end."""

    def __init__(self) -> None:
        self._last: Snapshot | None = None
        self._next = 0.0
        self._printed = ""

    def show(self, snapshot: Snapshot) -> None:
        self._last = snapshot
        now = time.monotonic()
        if (now >= self._next and snapshot.step) or snapshot.state != "running":
            self._next = now + LINE
            self._print(snapshot)

    def _print(self, snapshot: Snapshot) -> None:
        before, self._printed, self._last = self._printed, line(snapshot), None
        if self._printed != before:
            sys.stdout.write(f"{self._printed}\n")
            sys.stdout.flush()

    def clear(self) -> None:
        """A line stays where it is."""

    def close(self) -> None:
        if self._last is not None:
            self._print(self._last)


class Bar(Lines):
    """A progress bar on stderr: rate, smoothed loss, time left. How the run ended is a line on stdout, as in a pipe."""

    def __init__(self, ascii_only: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        super().__init__()
        self._glyphs = ASCII if ascii_only else UNICODE
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            *(
                column(text, table_column=Column(no_wrap=True))
                for column, text in (
                    (MofNCompleteColumn, "/"),
                    (TextColumn, "{task.fields[rate]:,.0f} steps/s"),
                    (TextColumn, "loss {task.fields[loss]}"),
                )
            ),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            # bars of ASCII are what rich draws on an old Windows console
            console=Console(stderr=True, legacy_windows=ascii_only),
            auto_refresh=False,
            transient=True,
        )
        self._task = self._progress.add_task("loading", total=None, rate=0.0, loss="-")
        self._progress.start()

    def show(self, snapshot: Snapshot) -> None:
        if snapshot.state != "running":
            self.clear()
            super().show(snapshot)
            return
        self._last = snapshot
        self._progress.update(
            self._task,
            description=clip(escape(snapshot.run, ascii=self._glyphs.ascii), NAME_CELLS, self._glyphs),
            completed=snapshot.step,
            total=snapshot.steps,
            rate=snapshot.steps_per_second,
            loss=number(snapshot.smoothed_loss),
        )
        self._progress.start()
        self._progress.refresh()

    def clear(self) -> None:
        """Room for a line of text."""
        self._progress.stop()

    def close(self) -> None:
        self.clear()
        super().close()
