"""A run of another process as a stream: all that happened, what became of its trainer, and what is asked of it."""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import msgspec
import pytest

from app import report
from app.history import History
from app.launch import Worker
from app.session_view import OwnRun, curves_of
from makemore_core import attach, recorder, rundir
from makemore_core.attach import Attached
from makemore_core.command import Back, Channel, Command, Look, Pause, Restart, Resume, Set, Step, Stop
from makemore_core.config import Config
from makemore_core.record import BUDGET, RecordReader, RecordWriter
from makemore_core.server import ControlServer
from makemore_core.snapshot import Event, Exhibit, Snapshot, joined, to_json
from makemore_core.watch import Watch
from tests.canned import snapshot as canned
from tests.terminal import Terminal
from tests.trainers import Order, new_run, opened, trainer_process, wait_for

SMALL = Config(n_layer=2, n_hidden=16, n_embd=4, batch_size=8, steps=150, lr=0.02, engine="plain")
ENDLESS = SMALL.replace({"steps": 10**9, "engine": "fast"})


class Viewer:
    """Somebody who looks: drains, keeps what came, and waits for what is to come."""

    def __init__(self, folder: Path, *, readonly: bool = False) -> None:
        self.stream = Attached(folder, readonly=readonly)
        self.events: list[Event] = []

    @property
    def snapshots(self) -> list[Snapshot]:
        return [event for event in self.events if isinstance(event, Snapshot)]

    @property
    def newest(self) -> Snapshot:
        return self.snapshots[-1]

    def look(self) -> None:
        self.events += self.stream.drain()

    def wait(self, condition: Callable[[Snapshot], bool], what: str, seconds: float = 30.0) -> Snapshot:
        """Look until the newest snapshot is as expected."""

        def met() -> bool:
            self.look()
            return bool(self.snapshots) and condition(self.newest)

        wait_for(met, what, seconds)
        return self.newest


@pytest.fixture
def live(tmp_path: Path, few_names_file: Path) -> Iterator[tuple[Path, ForkServerProcess]]:
    """A run without an end, and the process that trains it."""
    folder = new_run(tmp_path / "run", ENDLESS, few_names_file)
    trainer = trainer_process(folder)
    try:
        yield folder, trainer
    finally:
        trainer.kill()
        trainer.join()


def test_another_run_in_the_folder_is_not_taken_for_this_one(tmp_path: Path, few_names_file: Path) -> None:
    folder = new_run(tmp_path / "run", SMALL, few_names_file)
    opened(folder).run()
    viewer = Viewer(folder)
    viewer.wait(lambda seen: seen.state == "finished", "the end of the run")
    seen = len(viewer.events)
    folder.rename(tmp_path / "moved")
    new_run(folder, SMALL.replace({"steps": 300}), few_names_file)
    opened(folder).run()
    for _ in range(3):
        viewer.look()
    assert len(viewer.events) == seen
    viewer.stream.send(Pause())
    assert viewer.stream.absent("running") == "another run is in its folder now"
    assert list(viewer.stream._client.replies()) == []


def test_a_live_run_is_seen_controlled_and_its_end_told(
    live: tuple[Path, ForkServerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, trainer = live
    one, other, reader = Viewer(folder), Viewer(folder), Viewer(folder, readonly=True)
    one.wait(lambda s: s.state == "running" and s.step > 0, "training")
    other.wait(lambda s: s.step > 0, "training")

    one.stream.send(Pause())
    paused = one.wait(lambda s: s.state == "paused", "a pause")
    other.wait(lambda s: s.state == "paused" and s.step == paused.step, "the other one sees it")

    other.stream.send(Step(5))
    one.wait(lambda s: s.state == "paused" and s.step == paused.step + 5, "five steps")
    one.stream.send(Set({"lr": 0.5}))
    mark = other.wait(lambda s: bool(s.interventions), "a mark").interventions[0]
    assert (mark.step, mark.what) == (paused.step + 5, "lr 0.02 → 0.5")

    reader.stream.send(Resume())
    refused = reader.wait(lambda s: "read-only" in s.message, "a refusal")
    assert (refused.state, refused.step) == ("paused", paused.step + 5)

    one.stream.send(Set({"gain": 0.5, "n_hidden": 8}, live=True))
    one.wait(lambda s: s.message.startswith("n_hidden: cannot be changed"), "a refusal")
    monkeypatch.setattr(attach, "NOTICE", 0.0)
    one.wait(lambda s: "n_hidden" not in s.message, "the end of it")
    other.look()
    assert not any("n_hidden" in s.message for s in other.snapshots)
    before = len(other.snapshots)
    other.stream.send(Resume())
    other.wait(lambda s: s.state == "running" and s.step > paused.step + 5, "going on")
    other.wait(lambda _: len(other.snapshots) > before + 3, "going on for a while")
    assert {s.state for s in other.snapshots[before:] if s.step > paused.step + 5} == {"running"}

    one.stream.send(Stop())
    trainer.join(30)
    for viewer in (one, other, reader):
        viewer.wait(lambda s: s.state == "stopped", "the end")
    # a viewer that is late finds the older stretches thinned, and no step missing
    assert sum(s.losses_span or len(s.losses) for s in one.snapshots) >= one.newest.step


def test_a_refusal_is_told_with_every_snapshot_and_counted_once(live: tuple[Path, ForkServerProcess]) -> None:
    """What would come and go with each of them would be news each time."""
    one = Viewer(live[0])
    answered = one.wait(lambda s: s.step > 0, "training").answered
    one.stream.send(Set({"gain": 0.5, "n_hidden": 8}, live=True))
    one.wait(lambda s: "n_hidden" in s.message, "a refusal")
    first = next(at for at, s in enumerate(one.snapshots) if "n_hidden" in s.message)
    one.wait(lambda _: len(one.snapshots) > first + 5, "going on for a while")
    assert {("n_hidden" in s.message, s.answered) for s in one.snapshots[first:]} == {(True, answered + 1)}


def test_two_people_at_once_get_an_outcome_that_both_see(live: tuple[Path, ForkServerProcess]) -> None:
    folder, _ = live
    one, other = Viewer(folder), Viewer(folder)
    one.wait(lambda s: s.step > 0, "training")
    other.wait(lambda s: s.step > 0, "training")

    one.stream.send(Set({"lr": 0.5}))
    other.stream.send(Set({"lr": 0.25}))
    for viewer in (one, other):
        viewer.wait(lambda s: len(s.interventions) == 2, "two marks")
    assert one.newest.interventions == other.newest.interventions
    assert one.newest.config["lr"] == other.newest.config["lr"] in (0.25, 0.5)


def test_a_killed_trainer_is_told_as_crashed_and_a_resumed_one_as_running(live: tuple[Path, ForkServerProcess]) -> None:
    folder, trainer = live
    viewer = Viewer(folder)
    viewer.wait(lambda s: s.step > 0, "training")
    assert rundir.absent(folder) == ""
    wait_for(lambda: bool(rundir.checkpoints(folder)), "a checkpoint")
    trainer.kill()
    trainer.join()
    began = time.monotonic()
    crashed = viewer.wait(lambda s: s.state == "crashed", "a crash")
    print(f"\ntold {time.monotonic() - began:.2f} s after the kill")
    assert (crashed.losses, crashed.steps_per_second) == ((), 0.0)
    step = rundir.checkpoints(folder)[0].step
    assert crashed.message == f"its trainer is gone; `makemore resume {folder}` goes on from step {step:,}"

    assert rundir.absent(folder) == crashed.message

    viewer.stream.send(Pause())
    viewer.wait(lambda s: s.message == f"no trainer can be reached; {crashed.message}", "a refusal")

    again = trainer_process(folder, [Order(0, 0, Stop())])
    viewer.wait(lambda s: s.state == "stopped", "the end of its second life")
    again.join()


def test_what_was_refused_is_told_in_the_place_of_what_was_done_before_and_until_something_is_done(
    live: tuple[Path, ForkServerProcess],
) -> None:
    viewer, refused = Viewer(live[0]), "nothing to undo: no other net was left"
    viewer.wait(lambda s: s.step > 0, "training")
    viewer.stream.send(Set({"gain": 3.0}))
    viewer.wait(lambda s: s.message.startswith("gain 1 → 3"), "a change")
    viewer.stream.send(Back())
    viewer.wait(lambda s: s.message.startswith("back to the net at step"), "the net before")
    viewer.stream.send(Back())
    assert viewer.wait(lambda s: refused in s.message, "a refusal").message == refused
    viewer.stream.send(Back(forth=True))
    viewer.wait(lambda s: s.message.startswith("forth to the net at step"), "the net after")


def test_a_trainer_that_is_stopped_by_a_signal_is_told_as_unresponsive(
    live: tuple[Path, ForkServerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rundir, "STALE", 0.3)
    monkeypatch.setattr(attach, "SILENCE", 0.1)
    folder, trainer = live
    viewer = Viewer(folder)
    viewer.wait(lambda s: s.step > 0, "training")
    assert trainer.pid is not None
    os.kill(trainer.pid, signal.SIGSTOP)
    viewer.wait(lambda s: s.state == "unresponsive", "silence")
    os.kill(trainer.pid, signal.SIGCONT)
    viewer.wait(lambda s: s.state == "running" and s.steps_per_second > 0, "going on")


def test_of_a_trainer_that_waits_it_is_no_longer_said_that_it_does_not_answer_once_it_does(
    live: tuple[Path, ForkServerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rundir, "STALE", 0.3)
    monkeypatch.setattr(attach, "SILENCE", 0.1)
    folder, trainer = live
    viewer = Viewer(folder)
    viewer.wait(lambda s: s.step > 0, "training")
    viewer.stream.send(Pause())
    viewer.wait(lambda s: s.state == "paused", "a pause")
    before = viewer.newest.message
    assert trainer.pid is not None
    os.kill(trainer.pid, signal.SIGSTOP)
    viewer.wait(lambda s: s.message == "its trainer does not answer", "silence")
    os.kill(trainer.pid, signal.SIGCONT)
    viewer.wait(lambda s: (s.state, s.message) == ("paused", before), "an answer")


def test_what_the_trainer_cannot_write_down_it_says(
    tmp_path: Path, few_names_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attach, "SILENCE", 0.1)
    folder, full = new_run(tmp_path / "run", SMALL, few_names_file), "nothing is recorded: No space left on device"
    opened(folder, Order(0, 30, Stop())).run()
    server, viewer = ControlServer(folder, wake=lambda: None), Viewer(folder)
    try:
        server.tell("paused", 30, full)
        viewer.wait(lambda s: s.state == "paused" and s.message.endswith(full), "trouble")
        assert report.newest(folder).message.endswith(full)
        assert (
            joined("saved in x; 37 records lost: full", "38 records lost: full") == "saved in x; 38 records lost: full"
        )
        server.tell("paused", 30)
        viewer.wait(lambda s: s.state == "paused" and full not in s.message, "its end")
    finally:
        server.close()


def test_a_view_never_waits_for_a_trainer_that_hangs(
    live: tuple[Path, ForkServerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = live
    viewer = Viewer(folder)
    asked: list[Path] = []

    def hanging(folder: Path) -> tuple[rundir.State, str]:
        asked.append(folder)
        time.sleep(30.0)
        return "unresponsive", ""

    monkeypatch.setattr(rundir, "heard_of", hanging)
    viewer.wait(lambda s: s.step > 0 and bool(asked), "training")


def test_the_curves_of_another_run_are_those_of_its_net_as_it_is_now(tmp_path: Path, few_names_file: Path) -> None:
    folder = new_run(tmp_path / "older", SMALL, few_names_file)
    with pytest.raises(ValueError, match="older: nothing has been recorded yet"):
        curves_of(str(folder))
    opened(folder, Order(0, 90, Restart()), Order(1, 60, Stop())).run()
    run, attempt = curves_of(str(folder))
    assert (run, attempt.number, attempt.loss.end) == ("older", 1, 60)


@pytest.mark.parametrize("state", ["finished", "stopped"])
def test_a_run_that_is_over_is_seen_whole(tmp_path: Path, few_names_file: Path, state: str) -> None:
    folder = new_run(tmp_path / "run", SMALL, few_names_file)
    opened(folder, Order(0, 30, Restart()), *([Order(1, 100, Stop())] if state == "stopped" else [])).run()

    viewer = Viewer(folder)
    viewer.wait(lambda s: s.state == state, state)
    look = viewer.stream._look
    viewer.wait(lambda _: viewer.stream._look is not look, "another look")
    viewer.wait(lambda _: viewer.stream._look is not None and viewer.stream._look.heard is not None, "its end")
    viewer.look()
    assert viewer.newest.state == state
    assert viewer.newest.attempt == 1
    assert {s.attempt for s in viewer.snapshots} == {0, 1}


def test_records_that_cannot_be_read_are_told(tmp_path: Path, few_names_file: Path) -> None:
    folder = new_run(tmp_path / "run", SMALL, few_names_file)
    opened(folder).run()
    segment = min((folder / rundir.RECORD).iterdir())
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join([lines[0], lines[1][:-9] + b"\n", *lines[2:]]))

    viewer = Viewer(folder)
    viewer.look()
    assert [s.message for s in viewer.snapshots if "skipped" in s.message] == [viewer.newest.message]
    assert viewer.newest.message.startswith("1 damaged record skipped; saved in ")
    assert (viewer.newest.losses, viewer.newest.step) == ((), 150)
    viewer.look()
    assert len([s for s in viewer.snapshots if "skipped" in s.message]) == 1


def test_a_run_that_died_before_anything_was_recorded_is_told(tmp_path: Path, few_names_file: Path) -> None:
    folder = new_run(tmp_path / "run", SMALL, few_names_file)
    viewer = Viewer(folder)
    told = viewer.wait(lambda s: s.state == "crashed", "a crash")
    assert (told.run, told.step, told.steps) == ("run", 0, 150)
    assert told.message == f"its trainer is gone; `makemore resume {folder}` begins again from the seed"


def test_a_run_whose_end_is_not_in_its_record_is_told_as_over_with_what_it_said_last(
    tmp_path: Path, few_names_file: Path
) -> None:
    folder = new_run(tmp_path / "run", SMALL, few_names_file)
    last = canned(run="run", step=60, since=0, message="3 records lost")
    writer = RecordWriter(folder / rundir.RECORD)
    assert writer.append(to_json(last))
    writer.close()
    assert rundir.write_state(folder, to_json(msgspec.structs.replace(last, state="finished")))
    viewer = Viewer(folder)
    over = viewer.wait(lambda s: s.state == "finished", "its end")
    assert over.message == "3 records lost"


def test_a_renamed_run_goes_by_its_new_name(tmp_path: Path, few_names_file: Path) -> None:
    folder = new_run(tmp_path / "run", SMALL, few_names_file)
    opened(folder, Order(0, 30, Stop())).run()
    viewer = Viewer(folder.rename(tmp_path / "renamed"))
    viewer.wait(lambda s: s.state == "stopped", "its end")
    assert {snapshot.run for snapshot in viewer.snapshots} == {"renamed"}


def test_an_exhibit_comes_through_once_and_takes_no_room_in_the_record(tmp_path: Path, few_names_file: Path) -> None:
    folder = new_run(tmp_path / "run", SMALL, few_names_file)
    viewer, late = Viewer(folder), Viewer(folder)
    session = opened(folder, Order(0, 30, Look("dead-map")), Order(0, 60, Look("dead-map")), Order(0, 90, Stop()))
    snapshot = session.recorder.snapshot

    def looked_at(one: Snapshot) -> None:
        snapshot(one)
        viewer.look()

    session.recorder.snapshot = looked_at  # type: ignore[method-assign]
    session.run()
    late.wait(lambda s: s.state == "stopped", "the end")

    shown = [(event.name, event.step) for event in viewer.events if isinstance(event, Exhibit)]
    assert [name for name, _ in shown] == ["dead-map", "dead-map"]
    assert [(event.name, event.step) for event in late.events if isinstance(event, Exhibit)] == [shown[-1]]
    payloads = RecordReader(folder / rundir.RECORD).read()
    assert not any(payload.startswith(b'{"type":"exhibit"') for payload in payloads)


def test_each_question_has_an_answer_of_its_own_and_not_too_many_are_kept(
    tmp_path: Path, few_names_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "MOST_EXHIBITS", 3)
    folder = new_run(tmp_path / "run", SMALL, few_names_file)
    looks = [Look("dead-map", {"layer": 2, "unit": unit}) for unit in (0, 1, 2, 3, 2)]
    opened(folder, *(Order(0, 10 * at, look) for at, look in enumerate(looks, 1)), Order(0, 90, Stop())).run()
    late = Viewer(folder)
    late.wait(lambda s: s.state == "stopped", "the end")
    shown = [(event.options["unit"], event.step) for event in late.events if isinstance(event, Exhibit)]
    assert shown == [(1, 20), (3, 40), (2, 50)]


@pytest.mark.parametrize(("change", "another"), [(Restart(), True), (Set({"lr": 0.01}), False)])
def test_who_comes_after_a_restart_is_shown_nothing_of_the_net_before(
    tmp_path: Path, few_names_file: Path, change: Command, another: bool
) -> None:
    folder = new_run(tmp_path / "run", SMALL, few_names_file)
    first = Viewer(folder)
    session = opened(folder, Order(0, 30, Look("dead-map")), Order(0, 60, change), Order(1, 90, Stop()))
    snapshot = session.recorder.snapshot
    session.recorder.snapshot = lambda one: (snapshot(one), first.look())[0]  # type: ignore[method-assign]
    session.run()
    late = Viewer(folder)
    late.wait(lambda s: s.state == "stopped", "the end")
    assert any(isinstance(event, Exhibit) for event in first.events)
    assert any(isinstance(event, Exhibit) for event in late.events) != another


@pytest.mark.parametrize("steps", [150, 300])
def test_a_resumed_run_shows_its_past_as_if_attached_to(tmp_path: Path, few_names_file: Path, steps: int) -> None:
    folder = new_run(tmp_path / "run", SMALL, few_names_file)
    opened(folder, Order(0, 30, Restart())).run()
    attached, own, channel = History(), History(), Channel()
    attached.feed(Attached(folder).drain())
    channel.send(Set({"steps": steps}))
    worker = Worker(folder, channel, watch=Watch(every=5), stay=True)
    stream = OwnRun(folder, channel, worker)
    worker.start()

    def finished() -> bool:
        own.feed(stream.drain())
        return own.snapshot is not None and own.snapshot.step == steps and own.snapshot.state == "finished"

    wait_for(finished, "its end")
    stream.send(Stop())
    assert worker.join(30)
    assert [ghost.loss.columns(1) for ghost in own.ghosts] == [ghost.loss.columns(1) for ghost in attached.ghosts]
    assert own.attempt.loss.columns(1)[:150] == attached.attempt.loss.columns(1)
    assert (own.attempt.loss.end, own.attempt.val[0]) == (steps, attached.attempt.val[0])
    for key, trace in attached.layers.items():
        assert own.layers[key].std.columns(1)[: trace.std.end] == trace.std.columns(1)


def test_a_run_resumed_from_before_a_restart_shows_its_layers_past_too(tmp_path: Path, few_names_file: Path) -> None:
    folder = new_run(tmp_path / "run", SMALL, few_names_file)
    opened(folder, Order(0, 90, Restart()), Order(1, 40, Stop())).run()
    channel, history = Channel(), History()
    channel.publish(canned(run="run", step=60, since=60, layers=(), weights=()))
    history.feed(OwnRun(folder, channel, Worker(folder, channel, watch=Watch(), stay=True)).drain())
    assert (history.attempt.number, history.attempt.loss.start, history.attempt.loss.end) == (0, 0, 60)
    assert history.ghosts == []
    assert {trace.std.start for trace in history.layers.values()} == {4}  # with the loss of the fifth update


def test_after_a_resume_the_curve_goes_on_where_it_was() -> None:
    history = History()
    steps = [(0, 40), (40, 80), (20, 60), (60, 100), (100, 120)]  # killed at 80, resumed from the checkpoint at 20
    losses = [3.0 - step / 100 for step in range(120)]
    for first, last in steps:
        history.feed([msgspec.structs.replace(canned(), step=last, losses=tuple(losses[first:last]), attempt=0)])

    assert history.ghosts == []
    assert (history.attempt.loss.start, history.attempt.loss.end) == (0, 120)
    assert len([bucket for bucket in history.attempt.loss.columns(1) if bucket]) == 120


def test_a_record_of_its_whole_budget_is_opened_at_once(tmp_path: Path, few_names_file: Path) -> None:
    folder = new_run(tmp_path / "run", SMALL, few_names_file)
    writer = RecordWriter(folder / rundir.RECORD)
    line, step = to_json(canned(step=1_000_000, since=999_600)), 0
    for step in range(400, 400 * 2000, 400):
        one = line.replace(b'"step":1000000', b'"step":%d' % step)
        wait_for(functools.partial(writer.append, one), "room in the record, which is being thinned")
    writer.close()
    assert rundir.write_state(folder, line)
    size = sum(path.stat().st_size for path in (folder / rundir.RECORD).iterdir())

    began = time.monotonic()
    with Terminal([sys.executable, "-m", "app", "attach", str(folder)]) as terminal:
        terminal.wait_for(f"{step:,}", 30)
        seconds, cpu = time.monotonic() - began, terminal.cpu_seconds()
        mb = max(terminal.rss_mb(), peak_mb(terminal.pid))
        maps = Path(f"/proc/{terminal.pid}/maps").read_text()
        print(
            f"\na record of {size / 1e6:.1f} MB: seen after {seconds:.2f} s ({cpu:.2f} s of work), {mb:.0f} MB at most"
        )
    assert size > 0.5 * BUDGET
    assert mb < 80
    assert "libtorch" not in maps


def peak_mb(pid: int) -> float:
    """The most memory that a process ever had resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1000
