"""The studio over a run: one that a thread of this process trains, or one that another process trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from app import launch
from app.driver import run_app
from app.headless import SAVING, stopped_by_signals, without_terminal_if_lost
from app.studio import Studio
from app.terminal import Exit, by_signal
from app.views.state import Finding
from makemore_core.aside import Aside
from makemore_core.attach import Attached
from makemore_core.command import Channel, Command, Stop
from makemore_core.doctor import Chart
from makemore_core.snapshot import Event, Snapshot
from makemore_core.watch import Watch


class OwnRun:
    """The `Stream` of a worker of this process, which tells the studio when the worker has failed."""

    def __init__(self, channel: Channel, worker: launch.Worker) -> None:
        self._channel, self._worker = channel, worker
        self.failed: Callable[[], None] = lambda: None

    def drain(self) -> Iterable[Event]:
        if self._worker.error is not None:
            self.failed()
        return self._channel.drain()

    def send(self, command: Command) -> None:
        self._channel.send(command)


def train_in_studio(folder: Path, watch: Watch, ascii_only: bool | None, channel: Channel) -> int:
    """Train the run in the folder and show it; the exit status.

    Where the terminal is lost the training goes on to its end without it.
    """
    worker = launch.Worker(folder, channel, watch=watch, stay=True)
    stream = OwnRun(channel, worker)
    handed_over: list[bool] = []
    studio = Studio(
        stream,
        title=folder.name,
        ascii=ascii_only,
        fps=watch.per_second,
        start=worker.start,
        detach=lambda: handed_over.append(True),
        findings=advice(),
    )
    stream.failed = studio.exit
    with stopped_by_signals(channel) as caught:  # until all is saved: a terminal may close at any moment
        status = run_studio(studio, worker.leave)
        if status != Exit.LOST:
            channel.send(Stop())
            save_and_leave(folder, worker, watch, hand_over=bool(handed_over))
            return status
        worker.join()
        if worker.error is not None:
            return Exit.ERROR
        return by_signal(caught[0]) if caught else status


def run_studio(studio: Studio, on_lost: Callable[[], None]) -> int:
    """`run_app`, the terminal asked for its background where nothing else tells it."""
    return run_app(studio, on_lost=on_lost, on_light=studio.lighten if studio.ground_unknown else None)


def save_and_leave(folder: Path, worker: launch.Worker, watch: Watch, *, hand_over: bool) -> None:
    """Wait until the run has stopped, have a background trainer go on with it if asked to, and tell."""
    stopped = worker.join(SAVING)
    if worker.error is not None:
        raise worker.error
    if not stopped:
        raise ValueError(f"{folder.name}: did not stop within {SAVING:g} s; its last checkpoint is in the folder")
    if hand_over:
        pid = launch.in_background(folder, watch)
        said = f"training goes on in the background, process {pid}; to look: makemore attach {launch.shown(folder)}"
    elif worker.unsaved():
        raise ValueError(f"{folder.name}: could not be saved; makemore resume goes on from its last checkpoint")
    else:
        said = f"saved; to go on: makemore resume {launch.shown(folder)}"
    with without_terminal_if_lost():
        print(said, flush=True)


def attach_studio(folder: Path, readonly: bool, fps: float, ascii_only: bool | None, aside: Aside) -> int:
    """Show a run that another process trains; the exit status."""
    stream = Attached(folder, readonly=readonly, first=aside.keep)
    studio = Studio(
        stream,
        title=folder.name,
        readonly=readonly,
        ascii=ascii_only,
        fps=fps,
        owns=False,
        findings=advice(),
        waiting=f"reading {folder.name}",
    )
    try:
        status = run_studio(studio, studio.exit)
    finally:
        stream.close()
    snapshot = studio.history.snapshot
    if status == Exit.DONE and snapshot is not None and snapshot.state in ("running", "paused") and not studio.stopped:
        with without_terminal_if_lost():
            print(f"the run goes on; to look again: makemore attach {launch.shown(folder)}", flush=True)
    return status


def advice() -> Callable[[Sequence[Snapshot]], list[Finding]]:
    """A doctor for one run, who remembers how it began; gives what he finds as the screens show it."""
    chart = Chart()

    def examine(snapshots: Sequence[Snapshot]) -> list[Finding]:
        for snapshot in snapshots:
            chart.see(snapshot)
        return [
            Finding(f.what, f"{f.evidence}; {f.suggestion}", f.evidence, f.why, f.suggestion, f.fix)
            for f in chart.findings()
        ]

    return examine
