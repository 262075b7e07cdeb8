"""Real trainer processes that can be killed at any moment, and what their run should have come to without that.

Torch is loaded once, in a server that forks each trainer, so that a test can afford many. The reference is a bare
loop over `Trainer`: it knows nothing of sessions, records and checkpoints.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple

import torch

from makemore_core import recorder, rundir
from makemore_core.command import Back, Channel, Command, Restart, Set, Stop
from makemore_core.config import LIVE_FIELDS, Config
from makemore_core.dataset import Dataset, read
from makemore_core.record import RecordReader
from makemore_core.session import Request, Session
from makemore_core.snapshot import Snapshot, from_json
from makemore_core.trainer import Trainer
from makemore_core.watch import Watch

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["makemore_core.recorder", "makemore_core.exhibits", "tests.trainers"])


class Order(NamedTuple):
    """A command to give when the run has come so far, or at the first moment after."""

    attempt: int
    step: int
    command: Command


class Pace(NamedTuple):
    """How often a trainer saves and writes down, in seconds: often, where a test is to see much of it."""

    checkpoint: float = 0.2
    beat: float = 0.1


def new_run(folder: Path, config: Config, data: Path) -> Path:
    """A run that nobody has trained yet."""
    made = rundir.new_run(str(folder), "deep-batchnorm")
    rundir.write_manifest(
        made,
        rundir.Manifest(
            name=folder.name,
            preset="deep-batchnorm",
            config=config.as_dict(),
            data=str(data),
            data_sha256=read(data).sha256,
        ),
    )
    return made


def trainer_process(
    folder: Path,
    orders: Sequence[Order] = (),
    *,
    watch: Watch = Watch(per_second=50.0),  # noqa: B008
    pace: Pace = Pace(),  # noqa: B008
    stay: bool = False,
) -> ForkServerProcess:
    """A process that trains the run from where it is, and gives the orders that its record does not hold yet."""
    process = _processes.Process(target=_train, args=(folder, tuple(orders), watch, pace, stay), daemon=True)
    process.start()
    return process


def _train(folder: Path, orders: tuple[Order, ...], watch: Watch, pace: Pace, stay: bool) -> None:
    torch.set_num_threads(1)
    recorder.CHECKPOINT, recorder.BEAT = pace.checkpoint, pace.beat
    opened(folder, *orders, watch=watch, stay=stay).run()


def opened(
    folder: Path,
    *orders: Order,
    watch: Watch = Watch(every=5),  # noqa: B008
    stay: bool = False,
) -> Session:
    """The run, ready to go on; it is given the orders that its record does not hold yet."""
    session = recorder.open_run(folder, Channel(), watch=watch)
    session.stay = stay
    known = [change[2] for change in recorder.later_changes(folder, 0)]
    given = [order for order in orders if order.command not in known]
    asked = session.recorder.asked

    def also_orders(session: Session) -> list[Request]:
        due = asked(session)
        # not before what came late in an earlier life has come again
        if given and not session.replay and (session.attempt, session.trainer.step) >= given[0][:2]:
            due.append(Request(given.pop(0).command, "", lambda _: None))
        return due

    session.recorder.asked = also_orders  # type: ignore[method-assign]
    return session


def snapshots(folder: Path) -> list[Snapshot]:
    """The snapshots in a run's record."""
    payloads = RecordReader(folder / rundir.RECORD).read()
    events = [from_json(payload) for payload in payloads if payload.startswith(b'{"type":"snapshot"')]
    return [event for event in events if isinstance(event, Snapshot)]


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.005)


def reference(config: Config, dataset: Dataset, changes: Sequence[tuple[int, int, Command]]) -> Trainer:
    """The net that such changes, each made before the update it names, lead to when nothing ever goes wrong."""
    trainer, left = Trainer(config, dataset), list[Trainer]()
    for _, step, command in changes:
        if step > trainer.step:
            trainer.advance(step - trainer.step)
        match command:
            case Set(changes=values, live=live):
                before, config = config, config.replace(values)
                if live or values.keys() <= LIVE_FIELDS:
                    if before.changes_to(config).keys() - {"steps"}:
                        left.append(Trainer(before, dataset))
                        left[-1].restore(trainer.tensors(), trainer.step, trainer.optimizer.count)
                    trainer.reconfigure(config)
                else:
                    left.append(trainer)
                    trainer = Trainer(config, dataset)
            case Restart():
                left.append(trainer)
                trainer = Trainer(config, dataset)
            case Back():
                left[-1], trainer = trainer, left[-1]
                config = trainer.config
            case _:
                assert isinstance(command, Stop), command
    if config.steps > trainer.step:
        trainer.advance(config.steps - trainer.step)
    return trainer


def differing(trained: Trainer, wanted: Trainer) -> list[str]:
    """The names of the tensors that are not the same to the bit: weights, buffers, optimiser and generator."""
    a, b = trained.tensors(), wanted.tensors()
    return sorted(a.keys() ^ b.keys()) + [name for name in a.keys() & b.keys() if not torch.equal(a[name], b[name])]
