"""How a run begins: settings and data are checked, its folder made, and it is trained here or in the background.

It loads no torch, so that bad input is refused at once and a run is handed over in no time.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click
import msgspec

from makemore_core import __version__, control, dataset, rundir
from makemore_core.command import Channel, Command, Set, check_steps
from makemore_core.config import Config, Value, is_utf8, parse, printable
from makemore_core.presets import DEFAULT, preset, twin_changes
from makemore_core.snapshot import to_json
from makemore_core.watch import Watch

if TYPE_CHECKING:
    from makemore_core.session import Session

LOG = "trainer.log"
STARTING = 30.0  # seconds that a trainer in the background may take until it answers
FINISHED = "finished already: --steps N trains on up to there"
SAVING = 30.0  # seconds that a run may take to save and stop; a checkpoint takes a small part of one


class Plan(NamedTuple):
    """What is to be trained: a preset and what differs from it, in what a twin differs, and the data."""

    preset: str
    config: Config
    twin: Mapping[str, Value]
    data: str
    sha256: str


def plan(preset_name: str | None, changes: Mapping[str, str], data: str | None, twin: Sequence[str] = ()) -> Plan:
    """Check everything that can be checked without torch. Raises ValueError, in one line."""
    name = DEFAULT if preset_name is None else preset_name
    with naming("--preset"):
        begun = preset(name).config()
    config = begun.replace(changes)
    items = dataset.read(data)
    path = _written(data) if data else ""
    with naming("--twin"):
        differs = twin_changes(config, twin)
    return Plan(name, config, differs, path, items.sha256)


def _written(data: str) -> str:
    """Where a file is, as the manifest of a run says it. Raises ValueError where it cannot."""
    path = os.path.abspath(data)
    if not is_utf8(path):
        raise ValueError(f"--data {printable(path)}: a name that is not UTF-8 cannot be written down")
    return path


@contextmanager
def naming(option: str) -> Iterator[None]:
    """Name the option whose value is refused."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{option} {error}") from None


def begin(plan: Plan, run: str | None) -> Path:
    """The folder of a new run, ready to be trained. Raises ValueError where there can be none."""
    folder = rundir.new_run(run, plan.preset)
    manifest = rundir.Manifest(
        name=folder.name,
        preset=plan.preset,
        config=plan.config.as_dict(),
        twin=dict(plan.twin),
        data=plan.data,
        data_sha256=plan.sha256,
        version=__version__,
        torch=torch_version(),
    )
    try:
        rundir.write_manifest(folder, manifest)
    except BaseException as error:  # also ctrl-c: what is left would hold the name
        forget(folder)
        if isinstance(error, OSError):
            raise ValueError(f"run={folder}: cannot be written: {error.strerror or error}") from None
        raise
    return folder


def forget(folder: Path) -> bool:
    """Remove the folder of a run that never began, so that nobody takes it for one; whether it was such a run."""
    never = not rundir.is_recorded(folder) and rundir.held_by(folder) is None
    if never:
        shutil.rmtree(folder, ignore_errors=True)
    return never


def moved(folder: Path, data: str) -> None:
    """From now on the data of a run is found in this file. Raises ValueError where it is not what it began with."""
    manifest = rundir.read_manifest(folder)
    dataset.read_again(manifest.name, data, manifest.data_sha256)
    if not manifest.data:  # the names that come with the program are there always
        return
    try:
        rundir.write_manifest(folder, msgspec.structs.replace(manifest, data=_written(data)))
    except OSError as error:
        raise click.ClickException(f"{folder.name}: cannot be written: {error.strerror or error}") from None


def longer(folder: Path, steps: str) -> list[Command]:
    """What gives a run that is over so many steps in all. Raises ValueError."""
    changes = {"steps": parse("steps", steps)}
    last = rundir.read_state(folder)
    if last is None or last.state not in ("finished", "stopped"):
        raise ValueError(f"--steps: {folder.name} has not been finished or stopped; resume it without")
    check_steps(int(changes["steps"]), last.step)
    return [Set(changes)] if changes["steps"] != last.steps else []


def torch_version() -> str:
    """The version of the torch that will train, read without loading it; empty where it cannot be told."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return ""
    try:
        told = re.search(r"^__version__ = ['\"](.+)['\"]", (Path(spec.origin).parent / "version.py").read_text(), re.M)
    except OSError:
        return ""
    return told[1] if told else ""


def in_background(folder: Path, watch: Watch, steps: str | None = None) -> int:
    """Train a run in a process of its own that outlives this one and its terminal; its process id.

    Returns once the trainer answers. Raises ValueError where it ends before that.
    """
    options = [f"--fps={watch.per_second}", f"--budget={watch.budget}"]
    options += [f"--probe-every={watch.every}"] if watch.every else []
    options += [f"--pace={watch.pace}"] if watch.pace else []
    options += ["--paused"] if watch.paused else []
    options += [f"--steps={steps}"] if steps is not None else []
    with open(folder / LOG, "ab") as log:
        os.fchmod(log.fileno(), 0o600)
        said = log.tell()
        trainer = subprocess.Popen(
            [sys.executable, "-m", "app", "resume", os.path.abspath(folder), "--headless", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # the record tells it all
            stderr=log,
            start_new_session=True,
            cwd="/",
            env=os.environ | {"PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path if path)},
        )
    deadline = time.monotonic() + STARTING
    while time.monotonic() < deadline:
        ended = trainer.poll() is not None
        beat = rundir.read_beat(folder)  # all there is where no socket can be had, or where it is over already
        if control.ping(folder) is not None or (beat is not None and beat.pid == trainer.pid):
            return trainer.pid
        if ended:
            break
        time.sleep(0.05)
    holder = rundir.held_by(folder)
    if trainer.poll() is None and holder is not None and holder.pid == trainer.pid:
        return trainer.pid  # it trains, but cannot write: on a full disk it has not even a socket
    trainer.kill()  # else it might train what is told not to have begun
    trainer.wait()
    lines = (folder / LOG).read_bytes()[said:].decode(errors="replace").strip().splitlines()
    raise ValueError(f"run={folder.name}: the trainer did not start: {lines[-1] if lines else 'it said nothing'}")


def to_look(what: str, pid: int, folder: Path) -> str:
    """What goes on in the background; the command to look at it is in a line of its own, to be copied."""
    return f"{what} in the background, process {pid}; to look:\nmakemore attach {rundir.called(folder)}"


def as_json(pid: int | None, folder: Path) -> bytes:
    """The same for programs; `pid` is null where nothing was left to train."""
    path = os.path.abspath(folder)
    return to_json({"run": folder.name, "folder": path if is_utf8(path) else printable(path), "pid": pid})


class Worker:
    """A session in a thread of its own: `start` loads torch there, so that the caller's screen is drawn meanwhile."""

    def __init__(self, folder: Path, channel: Channel, *, watch: Watch, stay: bool) -> None:
        self._folder, self._channel, self._watch, self._stay = folder, channel, watch, stay
        self.session: Session | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="trainer", daemon=True)

    def start(self) -> None:
        """Begin to train."""
        self._thread.start()

    def leave(self) -> None:
        """Nobody looks any more: the training ends with the run instead of waiting for commands."""
        self._stay = False
        if self.session is not None:
            self.session.stay = False

    def _run(self) -> None:
        try:
            from makemore_core.recorder import open_run

            self.session = open_run(self._folder, self._channel, watch=self._watch)
            self.session.stay = self._stay
            try:
                self.session.run()
            except ValueError as error:  # all input was checked before
                raise RuntimeError(f"the training failed: {error}") from error
        except BaseException as error:
            self.error = error

    def unsaved(self) -> bool:
        """Whether the last attempt to save the run failed."""
        return self.session is not None and self.session.recorder.unsaved()

    def lost(self) -> bool:
        """Whether something of what happened could not be written down."""
        return self.session is not None and self.session.recorder.lost()

    def ended(self) -> bool:
        """Whether the training was begun and is over."""
        return self._thread.ident is not None and not self._thread.is_alive()

    def join(self, seconds: float | None = None) -> bool:
        """Wait for the end of the training; whether it has ended."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()
