"""A session's life on disk and its door to other processes: record, state file, checkpoints, lock and socket.

It joins the parts that know nothing of each other, so that the session itself need not know that there is a disk.
"""

from __future__ import annotations

import contextlib
import time
import zlib
from functools import partial
from pathlib import Path

import msgspec
from torch import Tensor

from makemore_core import checkpoint, rundir
from makemore_core.address import folder_id
from makemore_core.command import CHANGES, Channel, Command, Look, command_from_json
from makemore_core.config import Config, Value, printable
from makemore_core.dataset import Dataset, read_again
from makemore_core.dataset import read as read_dataset
from makemore_core.files import replace_file
from makemore_core.nets import Nets
from makemore_core.record import RecordReader, RecordWriter
from makemore_core.server import ControlServer
from makemore_core.session import WORTHLESS, NotKeptError, Recorder, Request, Session
from makemore_core.snapshot import UNSAVED, Exhibit, Intervention, Seen, Snapshot, same_net, to_json
from makemore_core.trainer import Trainer
from makemore_core.undo import Left, Undo
from makemore_core.watch import Watch

BEAT = 1.0  # seconds between two replacements of the state file, and two syncs of the record
CHECKPOINT = 30.0  # seconds between two checkpoints
FIRST = 5.0  # seconds to the first one
PREFIXES = ("", "twin.")  # of the names of the tensors of a run's net and of its twin's
SHOWN = 60.0  # seconds for which lost records are told of after recording has gone on
MOST_EXHIBITS = 16
UNWRITTEN = "the state file cannot be written"
RETRY = 5.0  # seconds after which a checkpoint that failed is tried again


class Entry(msgspec.Struct, tag="command", tag_field="type", omit_defaults=True):
    """A command in the record: who gave it, and before which update of which attempt it was applied.

    `change` counts the changes of a run from 0; a number that comes again takes the place of that change and of all
    that followed it, because somebody went another way from an earlier step.
    """

    step: int
    attempt: int
    who: str
    command: msgspec.Raw
    change: int | None = None


class KeptNet(msgspec.Struct):
    """What a checkpoint keeps of a net beside its tensors; `count`: the updates that its optimiser counted."""

    count: int
    seen: Seen


class Kept(msgspec.Struct):
    """What a checkpoint keeps of a run. `changes` counts those in the record that are in it."""

    step: int
    attempt: int
    changes: int
    config: dict[str, Value]
    twin: dict[str, Value]
    nets: list[KeptNet]
    interventions: list[Intervention]
    origin: int | None = None
    undo: list[Left] = []
    redo: list[Left] = []
    since: int = 0


class FolderRecorder(Recorder):
    """Records a session in its run folder, which has been made. A disk that fails never stops or slows training."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._folder_id = folder, folder_id(folder)
        self._lock = rundir.RunLock(folder)
        self._lock.acquire()
        self._server: ControlServer | None = None
        self._record: RecordWriter | None = None
        self._newest = b""
        self.finished: Snapshot | None = None  # the last word of an earlier life, until something happens
        self._last: Snapshot | None = None  # that was recorded
        self._next_beat = 0.0
        self._next_checkpoint = time.monotonic() + min(FIRST, CHECKPOINT)
        self._saved: tuple[Kept, Path] | None = None  # what the last checkpoint holds, and where it is
        self._unsaved = self._unwritten = ""  # what went wrong with the last checkpoint, and the state file
        self._recorded = 0.0  # when a record was written after some that were lost

    def open(self, session: Session) -> None:
        self._record = RecordWriter(self.folder / rundir.RECORD)
        with contextlib.suppress(OSError):  # no socket to be had: the run can still be watched by its files
            self._server = ControlServer(self.folder, wake=session.channel.wake)

    def asked(self, session: Session) -> list[Request]:
        self.alive(session)
        asked = self._server.asked() if self._server is not None else []
        return [Request(command, who, partial(self._tell, token, command)) for command, who, token in asked]

    def _tell(self, token: int, command: Command, outcome: int | str) -> None:
        if isinstance(outcome, int) and not isinstance(command, Look) and self._newest and not self._gone():
            rundir.write_state(self.folder, self._newest)  # a script may read at once what became of it
        if self._server is not None:
            self._server.acknowledge(token, outcome)

    def alive(self, session: Session) -> None:
        now = time.monotonic()
        if now < self._next_beat:
            return
        self._next_beat = now + BEAT
        if self._gone():  # nobody could find what is trained any more, nor its trainer
            self._unsaved = rundir.GONE
            session.end()
            return
        if self._server is not None:
            self._server.tell(session.state, session.trainer.step, self.trouble())
        if self._record is not None:
            self._record.sync()
        if self._newest and not rundir.write_state(self.folder, self._newest):
            self._unwritten = UNWRITTEN
        else:
            self._unwritten = ""
        if now >= self._next_checkpoint and (session.state == "running" or self._unsaved):
            with contextlib.suppress(ValueError):  # told by `trouble`, and tried again
                self.checkpoint(session)

    def _gone(self) -> bool:
        """Whether the run's folder was removed or renamed; another one may have taken its place."""
        try:
            return folder_id(self.folder) != self._folder_id
        except FileNotFoundError:
            return True
        except OSError:  # a file system that cannot be reached may come back
            return False

    def snapshot(self, snapshot: Snapshot) -> None:
        finished, self.finished = self.finished, None
        if finished is not None and snapshot.state == "finished":
            self._newest = to_json(finished)
            return
        self._newest = to_json(snapshot)
        last, self._last = self._last, snapshot
        begins = last is not None and last.attempt != snapshot.attempt and not same_net(last, snapshot)
        if begins and not self._gone():
            # they are of the net that was left, and nobody is to take them for this one's
            for shown in (self.folder / rundir.EXHIBITS).glob("*.json"):
                with contextlib.suppress(OSError):
                    shown.unlink()
        looked_at = last and (last.attempt, last.layers_step)
        again = snapshot.state == "running" and looked_at == (snapshot.attempt, snapshot.layers_step)
        self._append(to_json(_without_layers(snapshot)) if again else self._newest)
        if self._server is not None:
            self._server.tell(snapshot.state, snapshot.step, self.trouble())
        if snapshot.state != "running":
            self._next_beat = 0.0

    def exhibit(self, exhibit: Exhibit) -> None:
        """Only the newest are kept, beside the record: looking must not use up room for what happened.

        Each question has a file of its own, so that viewers who ask different ones do not take each other's answers.
        """
        if self._gone():
            return
        folder = self.folder / rundir.EXHIBITS
        question = zlib.crc32(msgspec.json.encode(exhibit.options, order="sorted"))
        with contextlib.suppress(OSError):  # whoever looks asks again
            folder.mkdir(mode=0o700, exist_ok=True)
            replace_file(folder / f"{exhibit.name}-{question:08x}.json", to_json(exhibit), sync=False)
            oldest_first = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
            for path in oldest_first[:-MOST_EXHIBITS]:
                path.unlink()

    def command(self, session: Session, command: Command, who: str) -> None:
        if isinstance(command, Look):  # views ask again and again, and it changes nothing
            return
        change = session.changes if isinstance(command, CHANGES) else None
        raw = msgspec.Raw(msgspec.json.encode(command))
        entry = Entry(session.trainer.step, session.attempt, who, raw, change)
        self._append(msgspec.json.encode(entry), durable=change is not None)

    def _append(self, payload: bytes, *, durable: bool = False) -> None:
        assert self._record is not None
        if self._gone():  # what may be at its place is another run's
            return
        lost = self._record.dropped
        written = self._record.append(payload, durable=durable)
        if self._record.dropped > lost:
            self._recorded = 0.0
            if written:  # after the record was removed, with the changes since the last checkpoint
                self._next_checkpoint = 0.0
        elif written and lost and not self._recorded:
            self._recorded = time.monotonic()

    def trouble(self) -> str:
        record = self._record
        dropped = record.dropped if record is not None else 0
        lost = f"{dropped:,} {'record' if dropped == 1 else 'records'} lost" if dropped else ""
        if record is not None and record.problem:
            lost = f"{lost or 'nothing is recorded'}: {record.problem}"
        elif not self._recorded or time.monotonic() - self._recorded > SHOWN:
            lost = ""
        return "; ".join(filter(None, (lost, self._unwritten, self._unsaved)))

    def unsaved(self) -> bool:
        return bool(self._unsaved)

    def lost(self) -> bool:
        return bool(self._unwritten) or (self._record is not None and self._record.dropped > 0)

    def checkpoint(self, session: Session) -> str:
        if self._gone():
            self._unsaved = rundir.GONE
            raise ValueError(rundir.GONE)
        over = session.trainer.step >= session.config.steps  # where only the last update may have ruined it
        if session.state == "diverged" or (over and session.net.ruined()):  # what was saved before is worth more
            self._unsaved = ""
            raise ValueError(WORTHLESS)
        kept = Kept(
            session.trainer.step,
            session.attempt,
            session.changes,
            session.config.as_dict(),
            session.nets.twin_changes,
            [KeptNet(net.trainer.optimizer.count, net.seen) for net in session.nets],
            list(session.interventions),
            *(session.nets.origin, list(session.undo.behind), list(session.undo.ahead), session.nets.since),
        )
        tensors = {
            prefix + name: tensor
            for prefix, net in zip(PREFIXES, session.nets, strict=False)
            for name, tensor in net.trainer.tensors().items()
        }
        try:
            # the same again would cost an older good one its place
            if self._saved is None or self._saved[0] != kept or not self._saved[1].is_dir():
                at = checkpoint.save(self.folder, tensors, msgspec.to_builtins(kept), session.undo.attempts)
                self._saved = kept, at
        except (OSError, ValueError) as error:
            self._next_checkpoint = time.monotonic() + RETRY
            self._unsaved = f"{UNSAVED}: {getattr(error, 'strerror', None) or error}"
            raise ValueError(self._unsaved) from None
        self._next_checkpoint = time.monotonic() + CHECKPOINT
        self._unsaved = ""
        return f"saved in {printable(str(self._saved[1]))}"

    def earlier(self, session: Session, attempt: int) -> Nets:
        rundir.checkpoints(self.folder)  # where they cannot be listed, that may pass
        try:
            kept, loaded = _read(self.folder, attempt)
        except ValueError:
            raise NotKeptError(f"the net of attempt {attempt} was not kept") from None
        nets = session.fresh(Config().replace(kept.config), kept.twin)
        _restore(nets, kept, loaded)
        nets.origin, nets.note = attempt, "; ".join(loaded.skipped)
        return nets

    def give_up(self) -> None:
        """Let the run go before it was opened."""
        self._lock.release()

    def close(self, session: Session) -> None:
        if self._server is not None:
            self._server.tell(session.state, session.trainer.step, self.trouble())
        if self._newest and not self._gone() and not rundir.write_state(self.folder, self._newest):
            self._unwritten = UNWRITTEN
        if self._record is not None:
            self._record.close()
        if self._server is not None:
            self._server.close()
        self._lock.release()


def _without_layers(snapshot: Snapshot) -> Snapshot:
    twin = snapshot.twin and _without_layers(snapshot.twin)
    return msgspec.structs.replace(snapshot, layers=(), weights=(), twin=twin)


def dataset_of(manifest: rundir.Manifest, data: str | None = None) -> Dataset:
    """The data that a run was started with, or the same from where it is now.

    Raises ValueError where the file is gone or has changed.
    """
    if data is not None:
        return read_again(manifest.name, data, manifest.data_sha256)
    try:
        dataset = read_dataset(manifest.data or None)
    except ValueError as error:
        gone = f"; --data tells where {manifest.name} finds it now" if str(error).endswith("no such file") else ""
        raise ValueError(f"{error}{gone}") from None
    if manifest.data_sha256 and dataset.sha256 != manifest.data_sha256:
        raise ValueError(f"{dataset.path}: has changed since {manifest.name} was started")
    return dataset


def open_run(folder: Path, channel: Channel, *, watch: Watch | None = None) -> Session:
    """A session that begins a run, or goes on from its last good checkpoint as if it had never stopped, bit for bit.

    Changes that were recorded after the checkpoint are made again, each before the update it was made before.
    Raises ValueError where the run is being trained, has no good checkpoint, or its data has changed.
    """
    manifest = rundir.read_manifest(folder)
    recorder = FolderRecorder(folder)
    try:
        return _session(manifest, recorder, channel, watch)
    except BaseException:
        recorder.give_up()
        raise


def _session(manifest: rundir.Manifest, recorder: FolderRecorder, channel: Channel, watch: Watch | None) -> Session:
    kept, loaded = last_checkpoint(recorder.folder)
    session = Session(
        Config().replace(kept.config if kept else manifest.config),
        dataset_of(manifest),
        channel,
        name=manifest.name,
        preset=manifest.preset or None,
        twin=kept.twin if kept else manifest.twin,
        watch=watch,
        recorder=recorder,
    )
    if kept and loaded:
        _restore(session.nets, kept, loaded)
        session.attempt, session.nets.origin, session.changes = kept.attempt, kept.origin, kept.changes
        session.undo = Undo(kept.undo, kept.redo)
        session.interventions = list(kept.interventions)
        session.message = "; ".join(loaded.skipped)
    session.replay = later_changes(recorder.folder, session.changes)
    last = rundir.read_state(recorder.folder)
    if not kept and last and (last.step or last.attempt):
        session.message = "no checkpoint yet: begins again from the seed"
        session.message += ", and every change is made again" * bool(session.replay)
    ended = kept and last and last.state == "finished" and (last.attempt, last.step) == (kept.attempt, kept.step)
    if kept and ended and kept.step >= session.config.steps and not session.replay:
        session.state, recorder.finished = "finished", last
    return session


def _restore(nets: Nets, kept: Kept, loaded: checkpoint.Loaded) -> None:
    """Set nets to what was saved. Raises ValueError where they are others."""
    for prefix, net, own in zip(PREFIXES, nets, kept.nets, strict=False):
        net.trainer.restore(_with(prefix, loaded.tensors), kept.step, own.count)
        net.seen = own.seen
        net.dead = {row.index: row.activation.dead for row in net.seen.layers if row.activation.dead is not None}
    nets.since = kept.since


def _with(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of one net, by their own names."""
    of_twin = prefix == PREFIXES[1]
    return {
        name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(PREFIXES[1]) == of_twin
    }


def last_checkpoint(folder: Path) -> tuple[Kept, checkpoint.Loaded] | tuple[None, None]:
    """The last good checkpoint of a run; nothing where none was ever saved. Raises ValueError where none is good."""
    return _read(folder) if rundir.checkpoints(folder) else (None, None)


def _read(folder: Path, attempt: int | None = None) -> tuple[Kept, checkpoint.Loaded]:
    """The last good checkpoint of a run, or of one of its attempts. Raises ValueError where there is none."""
    loaded = checkpoint.load(folder, attempt)
    try:
        return msgspec.convert(loaded.rest, Kept), loaded
    except msgspec.ValidationError as error:
        raise ValueError(f"{folder.name}: its checkpoint is not of this program: {error}") from None


def later_changes(folder: Path, known: int) -> list[tuple[int, int, Command]]:
    """What the record of a run says was changed after its first `known` changes: attempt, step and command each.

    One that could not be recorded ends the list, since nothing behind it would be the same.
    """
    changes: dict[int, tuple[int, int, Command]] = {}
    for payload in RecordReader(folder / rundir.RECORD).read():
        if not payload.startswith(b'{"type":"command"'):
            continue
        try:
            entry = msgspec.json.decode(payload, type=Entry)
            command = command_from_json(bytes(entry.command))
        except (msgspec.MsgspecError, ValueError):  # of a later program
            continue
        if entry.change is not None:
            changes = {number: change for number, change in changes.items() if number < entry.change}
            changes[entry.change] = entry.attempt, entry.step, command
    later: list[tuple[int, int, Command]] = []
    while known + len(later) in changes:
        later.append(changes[known + len(later)])
    return later


def load_attempt(folder: Path, data: str | None = None) -> tuple[Trainer, int]:
    """The net of a run's last good checkpoint, on the CPU, to look at, and the number of its attempt; `data`: where the
    run's data is now, if it was moved.

    Raises ValueError where there is none.
    """
    manifest = rundir.read_manifest(folder)
    kept, loaded = last_checkpoint(folder)
    if kept is None or loaded is None:
        raise ValueError(f"{folder.name}: has no checkpoint yet")
    config = Config().replace(kept.config).replace({"device": "cpu", "engine": "plain"})
    trainer = Trainer(config, dataset_of(manifest, data))
    trainer.restore(_with(PREFIXES[0], loaded.tensors), kept.step, kept.nets[0].count)
    return trainer, kept.attempt
