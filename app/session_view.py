"""The studio over a run: one that a thread of this process trains, or one that another process trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import click

from app import launch
from app.driver import run_app
from app.history import Beside, History
from app.report import ask, unrecorded
from app.studio import Studio
from app.terminal import Exit, by_signal, stopped_by_signals, without_terminal_if_lost
from makemore_core import rundir
from makemore_core.aside import Aside
from makemore_core.attach import Attached, recorded
from makemore_core.command import Channel, Command, Stop
from makemore_core.record import RecordReader
from makemore_core.snapshot import Event, Snapshot
from makemore_core.watch import Watch


class OwnRun:
    """The `Stream` of a worker of this process, which tells the studio when the worker has failed.

    What is recorded of the run's earlier lives comes before the first word of this one.
    """

    def __init__(self, folder: Path, channel: Channel, worker: launch.Worker) -> None:
        self._folder, self._channel, self._worker = folder, channel, worker
        self._begun = False
        self.failed: Callable[[], None] = lambda: None

    def drain(self) -> Iterator[Event]:
        if self._worker.error is not None:
            self.failed()
        for event in self._channel.drain():
            if isinstance(event, Snapshot) and not self._begun:
                self._begun = True
                for past in recorded(RecordReader(self._folder / rundir.RECORD), self._folder.name):
                    if past.time == event.time:  # this life's own
                        break
                    if past.attempt <= event.attempt:  # it goes on from before a restart that comes again
                        yield past
            yield event

    def send(self, command: Command) -> None:
        self._channel.send(command)


def curves_of(run: str) -> Beside:
    """What was recorded of a run, to be drawn beside another one. Raises ValueError where nothing was."""
    folder, history = rundir.find_run(run), History()
    history.feed(recorded(RecordReader(folder / rundir.RECORD), folder.name))
    if not len(history.attempt.loss):
        raise ValueError(unrecorded(folder))
    return Beside(folder.name, history.attempt)


def train_in_studio(
    folder: Path, watch: Watch, ascii_only: bool | None, channel: Channel, beside: Beside | None = None
) -> int:
    """Train the run in the folder and show it; the exit status.

    Where the terminal is lost the training goes on to its end without it.
    """
    worker = launch.Worker(folder, channel, watch=watch, stay=True)
    stream = OwnRun(folder, channel, worker)
    handed_over: list[bool] = []  # whether the run waited then
    studio = Studio(
        stream,
        run=folder.name,
        ascii=ascii_only,
        fps=watch.per_second,
        start=worker.start,
        detach=handed_over.append,
        beside=beside,
        absent=lambda: rundir.absent(folder) if worker.ended() else "",
    )
    stream.failed = studio.exit
    with stopped_by_signals(channel) as caught:  # until all is saved: a terminal may close at any moment
        status = run_studio(studio, worker.leave)
        if status != Exit.LOST:
            channel.send(Stop())
            save_and_leave(folder, worker, watch, waits=handed_over[-1] if handed_over else None)
            return status
        worker.join()
        if worker.error is not None:
            return Exit.ERROR
        return by_signal(caught[0]) if caught else status


def run_studio(studio: Studio, on_lost: Callable[[], None]) -> int:
    """`run_app`, the terminal asked for its background where nothing else tells it."""
    return run_app(studio, on_lost=on_lost, on_light=studio.lighten if studio.ground_unknown else None)


def save_and_leave(folder: Path, worker: launch.Worker, watch: Watch, *, waits: bool | None) -> None:
    """Wait until the run has stopped, and tell. `waits`: a background trainer goes on with it, paused or not."""
    if waits is not None:
        with without_terminal_if_lost():
            print("saving, to go on in the background ...", flush=True)
    stopped = worker.join(launch.SAVING)
    if worker.error is not None:
        raise worker.error
    if not stopped:
        raise click.ClickException(
            f"{folder.name}: did not stop within {launch.SAVING:g} s; its last checkpoint is in the folder"
        )
    if worker.unsaved():
        raise unsaved(folder)
    if waits is not None:
        pid = launch.in_background(folder, watch._replace(pace=None, paused=waits))  # nobody follows the steps
        what = "the run waits, paused," if waits else "training goes on at full speed"
        said = launch.to_look(what, pid, folder)
    elif launch.forget(folder):
        said = "nothing was trained yet, so no run is kept"
    elif not rundir.checkpoints(folder):  # diverged before the first
        said = f"nothing to save; to begin again from the seed: makemore resume {rundir.called(folder)}"
    else:
        last = rundir.read_state(folder)
        again = "to open it again" if last is not None and last.state == "finished" else "to go on"
        said = f"saved; {again}: makemore resume {rundir.called(folder)}"
    with without_terminal_if_lost():
        print(said, flush=True)


def unsaved(folder: Path) -> click.ClickException:
    """That a run was stopped and not saved."""
    again = f"could not be saved; makemore resume {rundir.called(folder)} goes on from its last checkpoint"
    return click.ClickException(f"{folder.name}: {again if folder.is_dir() else rundir.absent(folder)}")


def attach_studio(
    folder: Path, readonly: bool, fps: float, ascii_only: bool | None, aside: Aside, beside: Beside | None = None
) -> int:
    """Show a run that another process trains; the exit status."""
    stream = Attached(folder, readonly=readonly, first=aside.keep)
    studio = Studio(
        stream,
        run=folder.name,
        readonly=readonly,
        ascii=ascii_only,
        fps=fps,
        absent=lambda: stream.absent(studio.run_state),
        waiting=f"reading {folder.name}",
        beside=beside,
    )
    try:
        status = run_studio(studio, studio.exit)
    finally:
        stream.close()
    snapshot, said = studio.history.snapshot, ""
    if studio.stopped:
        step = ask(folder, Stop()).step
        if [saved.step for saved in rundir.checkpoints(folder)[:1]] != [step]:
            raise unsaved(folder)
        said = f"saved; to go on: makemore resume {rundir.called(folder)}"
    elif status == Exit.DONE and snapshot and snapshot.state in ("running", "paused") and not studio.absent():
        goes_on = "waits, paused" if snapshot.state == "paused" else "goes on"
        said = f"the run {goes_on}; to look again: makemore attach {rundir.called(folder)}"
    elif status == Exit.DONE and (absent := studio.absent()):
        said = f"{folder.name}: {absent}"
    if said:
        with without_terminal_if_lost():
            print(said, flush=True)
    return status
