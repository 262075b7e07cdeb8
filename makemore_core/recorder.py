"""A session's life on disk and its door to other processes: record, state file, checkpoints, lock and socket.

It joins the parts that know nothing of each other, so that the session itself need not know that there is a disk.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections import deque
from pathlib import Path

import msgspec
from torch import Tensor

from makemore_core import checkpoint, rundir
from makemore_core.command import CHANGES, Channel, Command, command_from_json
from makemore_core.config import Config, Value
from makemore_core.control import ControlServer
from makemore_core.dataset import Dataset
from makemore_core.dataset import read as read_dataset
from makemore_core.record import RecordReader, RecordWriter
from makemore_core.session import Recorder, Request, Session
from makemore_core.snapshot import Exhibit, Intervention, Snapshot, to_json
from makemore_core.trainer import Trainer
from makemore_core.watch import Watch

BEAT = 1.0  # seconds between two replacements of the state file, and two syncs of the record
CHECKPOINT = 30.0  # seconds between two checkpoints
PREFIXES = ("", "twin.")  # of the names of the tensors of a run's net and of its twin's
RETRY = 5.0  # seconds after which a checkpoint that failed is tried again


class Entry(msgspec.Struct, tag="command", tag_field="type"):
    """A command in the record: who gave it, and before which update of which attempt it was applied."""

    step: int
    attempt: int
    who: str
    command: msgspec.Raw


class KeptNet(msgspec.Struct):
    """What a checkpoint keeps of a net beside its tensors: the updates its optimiser counted, and two losses."""

    count: int
    first_loss: float | None = None
    loss: float | None = None


class Kept(msgspec.Struct):
    """What a checkpoint keeps of a run. `commands` counts the changes in the record that are in it."""

    step: int
    attempt: int
    commands: int
    config: dict[str, Value]
    twin: dict[str, Value]
    nets: list[KeptNet]
    interventions: list[Intervention]


class FolderRecorder(Recorder):
    """Records a session in its run folder, which has been made. A disk that fails never stops or slows training."""

    def __init__(self, folder: Path, *, readonly: bool = False) -> None:
        self.folder = folder
        self._readonly = readonly
        self._lock = rundir.RunLock(folder)
        self._lock.acquire()
        self._queue: deque[tuple[Command, str, int]] = deque()
        self._server: ControlServer | None = None
        self._record: RecordWriter | None = None
        self._newest = b""
        self._written = b""
        self._next_beat = 0.0
        self._next_checkpoint = time.monotonic() + CHECKPOINT

    def open(self, session: Session) -> None:
        self._record = RecordWriter(self.folder / rundir.RECORD)
        with contextlib.suppress(OSError):  # no socket to be had: the run can still be watched by its files
            handle = functools.partial(self._enqueue, session.channel)
            self._server = ControlServer(self.folder, handle=handle, readonly=self._readonly)

    def _enqueue(self, channel: Channel, command: Command, who: str, token: int) -> str | None:
        self._queue.append((command, who, token))
        channel.wake()
        return None

    def asked(self, session: Session) -> list[Request]:
        self._beat(session)
        requests = []
        while self._queue:
            command, who, token = self._queue.popleft()
            requests.append(Request(command, who, functools.partial(self._tell, session, token)))
        return requests

    def _tell(self, session: Session, token: int, error: str | None) -> None:
        if self._server is not None:
            self._server.acknowledge(token, session.trainer.step if error is None else error)

    def _beat(self, session: Session) -> None:
        now = time.monotonic()
        if now < self._next_beat:
            return
        self._next_beat = now + BEAT
        if self._server is not None:
            self._server.tell(session.state, session.trainer.step)
        if self._record is not None:
            self._record.sync()
        if self._newest:
            rundir.write_state(self.folder, self._newest)
        if now >= self._next_checkpoint and session.state == "running":
            failed = self.checkpoint(session)
            if "could not" in failed:
                session.message = failed

    def snapshot(self, snapshot: Snapshot) -> None:
        ends = snapshot.state != "running"
        self._newest = to_json(snapshot)
        self._append(self._newest)
        if ends:
            self._next_beat = 0.0

    def exhibit(self, exhibit: Exhibit) -> None:
        self._append(to_json(exhibit))

    def command(self, command: Command, who: str, step: int, attempt: int) -> bool:
        entry = Entry(step, attempt, who, msgspec.Raw(msgspec.json.encode(command)))
        return self._append(msgspec.json.encode(entry), durable=True)

    def _append(self, payload: bytes, *, durable: bool = False) -> bool:
        return self._record is not None and self._record.append(payload, durable=durable)

    def dropped(self) -> int:
        return self._record.dropped if self._record is not None else 0

    def checkpoint(self, session: Session) -> str:
        kept = Kept(
            session.trainer.step,
            session.attempt,
            session.commands,
            session.config.as_dict(),
            session.twin_changes,
            [KeptNet(net.trainer.optimizer.count, net.first_loss, net.loss) for net in session.nets],
            session.interventions,
        )
        tensors = {
            prefix + name: tensor
            for prefix, net in zip(PREFIXES, session.nets, strict=False)
            for name, tensor in net.trainer.tensors().items()
        }
        try:
            path = checkpoint.save(self.folder, tensors, msgspec.to_builtins(kept))
        except OSError as error:
            self._next_checkpoint = time.monotonic() + RETRY
            return f"the checkpoint could not be saved: {error.strerror or error}"
        self._next_checkpoint = time.monotonic() + CHECKPOINT
        return f"saved in {path}"

    def close(self, session: Session) -> None:
        if self._server is not None:
            self._server.tell(session.state, session.trainer.step)
        if self._newest:
            rundir.write_state(self.folder, self._newest)
        if self._record is not None:
            self._record.close()
        if self._server is not None:
            self._server.close()
        self._lock.release()


def dataset_of(manifest: rundir.Manifest) -> Dataset:
    """The data that a run was started with. Raises ValueError where the file is gone or has changed."""
    dataset = read_dataset(manifest.data or None)
    if manifest.data_sha256 and dataset.sha256 != manifest.data_sha256:
        raise ValueError(f"{dataset.path}: has changed since {manifest.name} was started")
    return dataset


def open_run(
    folder: Path, channel: Channel, *, watch: Watch | None = None, stay: bool = False, readonly: bool = False
) -> Session:
    """A session that begins a run, or goes on from its last good checkpoint as if it had never stopped, bit for bit.

    Changes that were recorded after the checkpoint are made again, each before the update it was made before.
    Raises ValueError where the run is being trained, has no good checkpoint, or its data has changed.
    """
    manifest = rundir.read_manifest(folder)
    recorder = FolderRecorder(folder, readonly=readonly)
    kept, loaded = last_checkpoint(folder)
    session = Session(
        Config().replace(kept.config if kept else manifest.config),
        dataset_of(manifest),
        channel,
        name=manifest.name,
        preset=manifest.preset or None,
        twin=kept.twin if kept else manifest.twin,
        watch=watch,
        recorder=recorder,
        stay=stay,
    )
    if kept and loaded:
        for prefix, net, own in zip(PREFIXES, session.nets, kept.nets, strict=False):
            net.trainer.restore(_with(prefix, loaded.tensors), kept.step, own.count)
            net.first_loss, net.loss = own.first_loss, own.loss
        session.attempt, session.commands = kept.attempt, kept.commands
        session.interventions = list(kept.interventions)
        session.message = "; ".join(loaded.skipped)
    session.replay = _changes(folder)[session.commands :]
    return session


def _with(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of one net, by their own names."""
    other = [one for one in PREFIXES if one.startswith(prefix) and one != prefix]
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix) and not any(name.startswith(one) for one in other)
    }


def last_checkpoint(folder: Path) -> tuple[Kept, checkpoint.Loaded] | tuple[None, None]:
    """The last good checkpoint of a run; nothing where none was ever saved. Raises ValueError where none is good."""
    if not checkpoint.saved(folder):
        return None, None
    loaded = checkpoint.load(folder)
    try:
        return msgspec.convert(loaded.rest, Kept), loaded
    except msgspec.ValidationError as error:
        raise ValueError(f"{folder.name}: its checkpoint is not of this program: {error}") from None


def _changes(folder: Path) -> list[tuple[int, int, Command]]:
    """Every change of the run's configuration in its record: attempt, step and command."""
    changes: list[tuple[int, int, Command]] = []
    for payload in RecordReader(folder / rundir.RECORD).read():
        try:
            entry = msgspec.json.decode(payload, type=Entry)
            command = command_from_json(bytes(entry.command))
        except (msgspec.MsgspecError, ValueError):
            continue
        if isinstance(command, CHANGES):
            changes.append((entry.attempt, entry.step, command))
    return changes


def load_trainer(folder: Path) -> Trainer:
    """The net of a run's last good checkpoint, to look at. Raises ValueError where there is none."""
    manifest = rundir.read_manifest(folder)
    kept, loaded = last_checkpoint(folder)
    if kept is None or loaded is None:
        raise ValueError(f"{folder.name}: has no checkpoint yet")
    trainer = Trainer(Config().replace(kept.config).replace({"device": "cpu"}), dataset_of(manifest))
    trainer.restore(_with(PREFIXES[0], loaded.tensors), kept.step, kept.nets[0].count)
    return trainer
