"""What a run leaves on disk is enough to go on bit for bit, and a disk that fails never stops it."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from makemore_core import checkpoint, control, memory, record, recorder, rundir
from makemore_core import session as sessions
from makemore_core.command import (
    Back,
    Channel,
    Checkpoint,
    Command,
    Look,
    Pause,
    Restart,
    Resume,
    Sample,
    Set,
    Step,
    Stop,
    Twin,
)
from makemore_core.config import Config, Optimizer, Value
from makemore_core.dataset import Dataset
from makemore_core.record import RecordReader
from makemore_core.recorder import later_changes, load_attempt, open_run
from makemore_core.session import Request, Session
from makemore_core.snapshot import Snapshot
from makemore_core.undo import MOST_LEFT
from makemore_core.watch import Watch
from tests.trainers import Order, Pace, differing, new_run, opened, reference, snapshots, trainer_process, wait_for

SMALL = Config(n_layer=1, n_hidden=16, n_embd=4, batch_size=8, steps=150, lr=0.02, engine="plain")


@pytest.fixture
def run(tmp_path: Path, few_names_file: Path) -> Callable[[Config], Path]:
    """Makes a run that nobody has trained yet."""
    return lambda config: new_run(tmp_path / "run", config, few_names_file)


def entries(folder: Path) -> list[dict[str, object]]:
    """The commands in a run's record."""
    payloads = RecordReader(folder / rundir.RECORD).read()
    return [msgspec.json.decode(payload) for payload in payloads if payload.startswith(b'{"type":"command"')]


# Going on


@pytest.mark.parametrize(
    ("engine", "optimizer"),
    [
        *(("fast", name) for name in ("sgd", "momentum", "rmsprop", "adam", "adamw")),
        ("plain", "sgd"),
        ("plain", "adam"),
    ],
)
def test_stopped_and_resumed_is_as_if_never_stopped(
    run: Callable[[Config], Path], few_names: Dataset, engine: str, optimizer: Optimizer
) -> None:
    config = SMALL.replace({"engine": engine, "optimizer": optimizer})
    folder = run(config)

    assert opened(folder, Order(0, 33, Stop())).run() == "stopped"
    changes = (Order(0, 50, Set({"lr": 0.01})), Order(1, 60, Set({"norm": "none"}, live=True)))
    assert opened(folder, *changes, Order(2, 71, Stop())).run() == "stopped"
    assert opened(folder, *changes, Order(2, 90, Restart())).run() == "finished"

    made = later_changes(folder, 0)
    assert [command for _, _, command in made] == [changes[0].command, changes[1].command, Restart()]
    assert differing(load_attempt(folder)[0], reference(config, few_names, made)) == []


def test_killed_and_resumed_is_as_if_never_killed(run: Callable[[Config], Path], few_names: Dataset) -> None:
    config = SMALL.replace({"engine": "fast", "steps": 9_000, "optimizer": "adam"})
    folder = run(config)
    third = config.steps // 3
    orders = [Order(0, third, Set({"lr": 0.01})), Order(1, third + 100, Restart()), Order(2, third, Set({"gain": 2.0}))]

    for attempt in range(4):
        trainer = trainer_process(folder, orders)
        wait_for(lambda: progress(folder) > (attempt, third // 2), f"progress in attempt {attempt}")  # noqa: B023
        trainer.kill()
        trainer.join()
    trainer = trainer_process(folder, orders)
    trainer.join(60)

    assert trainer.exitcode == 0
    changes = later_changes(folder, 0)
    assert [command for _, _, command in changes] == [order.command for order in orders]
    assert differing(load_attempt(folder)[0], reference(config, few_names, changes)) == []


def progress(folder: Path) -> tuple[int, int]:
    """Attempt and step of a run as its state file tells it."""
    snapshot = rundir.read_state(folder)
    return (snapshot.attempt, snapshot.step) if snapshot else (0, 0)


def crash(session: Session, attempt: int, step: int) -> None:
    """Run until the step, then fail, which leaves everything as a kill does."""
    advance = session._advance

    def failing(n: int, tap: bool) -> None:
        if (session.attempt, session.trainer.step) >= (attempt, step):
            raise KeyboardInterrupt
        advance(n, tap)

    session._advance = failing  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        session.run()


def test_opening_a_finished_run_again_loses_nothing_of_it(run: Callable[[Config], Path]) -> None:
    folder = run(SMALL)
    opened(folder).run()
    state, recorded = rundir.read_state(folder), snapshots(folder)
    session = opened(folder)
    assert (session.state, session.run()) == ("finished", "finished")

    assert (rundir.read_state(folder), snapshots(folder)) == (state, recorded)
    (shown,) = [event for event in session.channel.drain() if isinstance(event, Snapshot)]
    assert state is not None
    assert state.layers
    assert [shown.state, shown.layers, shown.weights, shown.names] == [
        "finished",
        state.layers,
        state.weights,
        state.names,
    ]


def test_more_steps_of_a_finished_run_are_as_if_it_had_had_them(
    run: Callable[[Config], Path], few_names: Dataset
) -> None:
    folder = run(SMALL)
    opened(folder).run()
    session = opened(folder)
    session.channel.send(Set({"steps": 190}))
    assert session.run() == "finished"
    assert [snapshot.state for snapshot in snapshots(folder)].count("finished") >= 2
    assert differing(load_attempt(folder)[0], reference(SMALL.replace({"steps": 190}), few_names, [])) == []


def test_more_steps_that_were_saved_count_though_a_kill_left_the_word_that_it_is_finished(
    run: Callable[[Config], Path],
) -> None:
    folder = run(SMALL)
    opened(folder).run()
    finished = (folder / rundir.STATE).read_bytes()
    session = opened(folder)
    for command in Set({"steps": 190}), Checkpoint(), Stop():
        session.channel.send(command)
    assert session.run() == "stopped"
    (folder / rundir.STATE).write_bytes(finished)
    again = opened(folder)
    assert (again.state, again.run(), again.trainer.step) == ("running", "finished", 190)


def test_killed_before_its_first_checkpoint_it_begins_anew_and_makes_its_changes_again(
    run: Callable[[Config], Path], few_names: Dataset
) -> None:
    folder = run(SMALL)
    crash(opened(folder, Order(0, 20, Set({"lr": 0.5})), Order(1, 40, Restart())), 2, 30)
    shutil.rmtree(folder / rundir.CHECKPOINTS)  # the one of the net that was left
    assert rundir.liveness(folder) == "crashed"

    session = opened(folder)
    assert session.message == "no checkpoint yet: begins again from the seed, and every change is made again"
    assert session.run() == "finished"

    changes = later_changes(folder, 0)
    assert len(changes) == 2
    assert session.attempt == 2
    assert [mark.what for mark in session.interventions] == ["lr 0.02 → 0.5", "restart"]
    assert differing(session.trainer, reference(SMALL, few_names, changes)) == []


def test_a_run_that_finished_but_was_never_saved_begins_again(run: Callable[[Config], Path]) -> None:
    folder = run(SMALL)
    opened(folder).run()
    shutil.rmtree(folder / rundir.CHECKPOINTS)
    session = opened(folder)
    assert (session.state, session.message) == ("running", "no checkpoint yet: begins again from the seed")
    session.recorder.give_up()  # type: ignore[attr-defined]


def test_what_an_answered_command_did_can_be_read_at_once(run: Callable[[Config], Path]) -> None:
    folder = run(SMALL.replace({"steps": 10**9}))
    trainer = trainer_process(folder, pace=Pace(checkpoint=1e9, beat=1e9))
    wait_for(lambda: control.ping(folder) is not None, "the trainer to answer")
    client = control.ControlClient(folder)
    try:
        for lr in (0.01, 0.02, 0.03):
            reply = client.request(Set({"lr": lr}), 30)
            assert reply.ok
            state = rundir.read_state(folder)
            assert state is not None
            assert (state.config["lr"], state.step >= (reply.step or 0)) == (lr, True)
    finally:
        client.close()
        trainer.kill()
        trainer.join()


def test_a_net_that_diverged_is_never_saved_over_one_that_learnt(
    run: Callable[[Config], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    save = checkpoint.save

    def full_twice(*_: object) -> Path:
        monkeypatch.setattr(checkpoint, "save", full_once)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full_once(*_: object) -> Path:
        monkeypatch.setattr(checkpoint, "save", save)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = run(SMALL.replace({"norm": "none", "nonlinearity": "identity", "n_layer": 4, "steps": 10_000}))
    assert opened(folder, Order(0, 30, Stop())).run() == "stopped"
    kept = [saved.path.name for saved in rundir.checkpoints(folder)]

    monkeypatch.setattr(checkpoint, "save", full_twice)
    session = opened(folder, Order(0, 40, Checkpoint()), Order(0, 50, Set({"lr": 1e6})), stay=True)

    def later(_: float) -> None:
        session.recorder._next_beat = 0.0  # type: ignore[attr-defined]  # it would be tried again
        session.recorder.alive(session)
        session.channel.send(Stop())

    session.channel.wait = later  # type: ignore[method-assign]
    assert session.run() == "diverged"
    assert [saved.path.name for saved in rundir.checkpoints(folder)] == kept
    assert session.recorder.trouble() == ""


def test_a_net_that_only_its_last_update_ruined_is_not_saved_while_it_is_looked_at(
    run: Callable[[Config], Path],
) -> None:
    folder = run(SMALL)
    session = opened(folder, Order(0, 100, Checkpoint()))
    asked = session.recorder.asked

    def ruined(session: Session) -> list[Request]:
        due = asked(session)
        if session._last_look is not None and not told:
            for parameter in session.trainer.model.parameters():
                parameter.fill_(float("nan"))
            due.append(Request(Checkpoint(), "", told.append))
        return due

    told = list[int | str]()
    session.recorder.asked = ruined  # type: ignore[method-assign]
    assert session.run() == "diverged"
    assert told == ["the run is diverged: there is nothing worth saving"]
    assert rundir.checkpoints(folder)[0].step in range(100, SMALL.steps)


def test_checkpoints_that_cannot_be_read_are_not_taken_for_none(run: Callable[[Config], Path]) -> None:
    folder = run(SMALL)
    opened(folder, Order(0, 30, Stop())).run()
    (folder / rundir.CHECKPOINTS).rename(folder / "aside")
    (folder / rundir.CHECKPOINTS).write_text("not a folder")
    with pytest.raises(ValueError, match=r"^run: its checkpoints cannot be read: Not a directory$"):
        open_run(folder, Channel())
    (folder / rundir.STATE).unlink()  # as after a kill, for whoever looks
    assert rundir.absent(folder) == "its trainer is gone; its checkpoints cannot be read: Not a directory"


def test_a_state_file_that_cannot_be_written_at_the_end_is_a_loss(run: Callable[[Config], Path]) -> None:
    folder = run(SMALL)
    (folder / rundir.STATE).mkdir()
    session = opened(folder)
    assert (session.run(), session.recorder.lost(), session.recorder.unsaved()) == ("finished", True, False)
    assert rundir.checkpoints(folder)


# Going back


def test_going_back_that_fails_as_the_checkpoints_cannot_be_listed_can_be_tried_again(
    run: Callable[[Config], Path],
) -> None:
    folder = run(SMALL)
    session, moves = opened(folder, Order(0, 40, Restart()), Order(1, 20, Pause())), list[str]()

    def next_move(_: float) -> None:
        inside, aside = folder / rundir.CHECKPOINTS, folder / "aside"
        moves.append(session.message)
        if len(moves) == 1:
            inside.rename(aside)
            inside.write_text("not a folder")
        elif len(moves) == 2:
            inside.unlink()
            aside.rename(inside)
        session.channel.send(Back() if session.attempt == 1 else Stop())

    session.channel.wait = next_move  # type: ignore[method-assign, assignment]
    session.run()
    assert (session.attempt, session.nets.origin) == (2, 0)
    assert any("cannot be read" in message for message in moves)


def test_going_back_that_fails_for_want_of_memory_can_be_tried_again(
    run: Callable[[Config], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened(run(SMALL), Order(0, 40, Restart()), Order(1, 20, Back()), Order(1, 30, Pause()))
    free, told = memory.free_memory, list[str]()

    def little() -> float:
        return 1000.0 if (session.attempt, session.trainer.step) == (1, 20) else free()

    def again(_: float) -> None:
        told.append(session.message)
        session.channel.send(Back() if session.attempt == 1 else Stop())

    monkeypatch.setattr(memory, "free_memory", little)
    session.channel.wait = again  # type: ignore[method-assign, assignment]
    session.run()
    assert (session.attempt, session.nets.origin) == (2, 0)


def test_a_net_that_was_left_can_be_gone_back_to_bit_for_bit(run: Callable[[Config], Path], few_names: Dataset) -> None:
    folder = run(SMALL)
    session = opened(folder, Order(0, 40, Set({"n_hidden": 12})), Order(1, 30, Back()))
    assert session.run() == "finished"

    assert differing(session.trainer, reference(SMALL, few_names, [])) == []
    seen = snapshots(folder)
    assert {(s.attempt, s.origin, s.config["n_hidden"]) for s in seen} == {(0, None, 16), (1, None, 12), (2, 0, 16)}
    back = next(s for s in seen if s.attempt == 2)
    assert (back.step, back.layers_step) == (40, 40)
    assert "back to the net at step 40: n_hidden 12 → 16" in back.message
    assert [(mark.step, mark.what) for mark in session.interventions] == [(0, "n_hidden 16 → 12"), (40, "back")]


@pytest.mark.parametrize("change", [{"norm": "none"}, {"optimizer": "adam", "lr": 0.01}, {"lr": 0.5}])
def test_a_live_change_is_undone_bit_for_bit_and_done_again(
    tmp_path: Path, few_names_file: Path, few_names: Dataset, change: dict[str, Value]
) -> None:
    live, forth = Set(change, live=True), Back(forth=True)
    folder, other = (new_run(tmp_path / name, SMALL, few_names_file) for name in ("run", "other"))
    session = opened(folder, Order(0, 40, live), Order(1, 70, Back()))
    assert session.run() == "finished"
    assert differing(session.trainer, reference(SMALL, few_names, [])) == []
    seen = snapshots(folder)
    assert {(s.attempt, s.origin) for s in seen} == {(0, None), (1, 0), (2, 0)}
    assert next(s for s in seen if s.attempt == 2).step == 40

    again = opened(other, Order(0, 40, live), Order(1, 70, Back()), Order(2, 50, forth))
    assert again.run() == "finished"
    assert differing(again.trainer, reference(SMALL, few_names, [(0, 40, live)])) == []


def test_a_learning_rate_that_ruined_the_net_is_undone_also_after_a_kill(
    run: Callable[[Config], Path], few_names: Dataset
) -> None:
    config = SMALL.replace({"norm": "none", "nonlinearity": "identity"})
    folder = run(config)
    ruinous = Order(0, 40, Set({"lr": 1e6}))
    session = opened(folder, ruinous, stay=True)
    session.channel.wait = lambda _: session.end()  # type: ignore[method-assign]
    assert session.run() == "diverged"
    assert "on: u goes back to the net before; the doctor says" in session.message

    again = opened(folder, ruinous, stay=True)
    told, wishes = [""], iter([Back(), Stop()])

    def waits(_: float) -> None:
        told.append(again.message)
        again.channel.send(next(wishes))

    again.channel.wait = waits  # type: ignore[method-assign]
    assert again.run() == "finished"
    assert told[1] == session.message
    assert differing(again.trainer, reference(config, few_names, [])) == []


def test_changes_one_after_the_other_of_a_net_that_is_not_trained_meanwhile_push_no_other_one_out(
    run: Callable[[Config], Path],
) -> None:
    folder = run(SMALL)
    session = opened(folder, watch=Watch(every=1))
    asked, turns = session.recorder.asked, iter(["relu", "tanh"] * 10)

    def moves(one: Session) -> list[Request]:
        if one.attempt == 0 and one.trainer.step == 30:
            return [*asked(one), _request(Restart())]
        change = next(turns, None) if one.attempt and one.trainer.step >= 40 else None
        return [*asked(one), *([_request(Set({"nonlinearity": change}, live=True))] if change else [])]

    session.recorder.asked = moves  # type: ignore[method-assign]
    session.run()
    assert [left.own for left in session.undo.behind[:2]] == [30, 40]
    assert len(session.undo.behind) <= MOST_LEFT
    assert {saved.attempt for saved in rundir.checkpoints(folder)} >= {0, 1}


def test_a_net_that_cannot_be_saved_is_changed_live_all_the_same_and_that_is_told(
    run: Callable[[Config], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = Set({"gain": 3.0}, live=True), Pause(), Set({"lr": 0.03}), Set({"lr": 0.04}), Stop()
    session = opened(run(SMALL), *(Order(0, 40, change) for change in changes))

    def full(*_: object) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "save", full)
    session.run()
    told = {snapshot.message for snapshot in snapshots(session.recorder.folder)}  # type: ignore[attr-defined]
    for what in ("gain 1 → 3", "lr 0.02 → 0.03", "lr 0.03 → 0.04"):
        full_disk = f"{what}; it cannot be undone; the checkpoint could not be saved: No space"
        assert any(full_disk in one for one in told), what
    assert session.undo.behind == []


def test_a_change_made_again_after_a_kill_can_be_undone_though_the_net_could_not_be_saved_in_the_first_life(
    run: Callable[[Config], Path], monkeypatch: pytest.MonkeyPatch, few_names: Dataset
) -> None:
    folder, full = run(SMALL), [False]
    save = checkpoint.save

    def sometimes(*what: Any) -> Path:
        if full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return save(*what)

    monkeypatch.setattr(checkpoint, "save", sometimes)
    session = opened(folder, Order(0, 20, Checkpoint()), Order(0, 40, Set({"gain": 3.0}, live=True)))
    asked = session.recorder.asked

    def fills(one: Session) -> list[Request]:
        full[0] = one.trainer.step >= 30
        return asked(one)

    session.recorder.asked = fills  # type: ignore[method-assign]
    crash(session, 1, 60)
    full[0] = False
    again = opened(folder, Order(1, 70, Back()))
    assert again.run() == "finished"
    assert "back to the net at step 40" in {one.message.partition(":")[0] for one in snapshots(folder)}
    assert differing(again.trainer, reference(SMALL, few_names, [])) == []


def test_a_net_that_cannot_be_saved_is_not_stopped_from_afar(
    run: Callable[[Config], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, save = run(SMALL), checkpoint.save
    session = opened(folder, watch=Watch(every=1))
    told: list[int | str] = []

    def sometimes(*what: Any) -> Path:
        if session.trainer.step < 60:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return save(*what)

    def moves(one: Session) -> list[Request]:
        return [*asked(one), *([Request(Stop(), "ctl", told.append)] if one.trainer.step in (40, 60) else [])]

    asked = session.recorder.asked
    session.recorder.asked = moves  # type: ignore[method-assign]
    monkeypatch.setattr(checkpoint, "save", sometimes)
    assert session.run() == "stopped"
    refused = f"it is not stopped, for the checkpoint could not be saved: No space left on device; kill {os.getpid()}"
    assert (str(told[0]).startswith(refused), told[1:]) == (True, [60])
    assert load_attempt(folder)[0].step == 60


def test_two_live_changes_at_one_step_are_undone_one_after_the_other(run: Callable[[Config], Path]) -> None:
    session = opened(run(SMALL), Order(2, 60, Back()), Order(3, 70, Back()), watch=Watch(every=1))
    asked, changes = session.recorder.asked, [Set({"norm": "none"}, live=True), Set({"gain": 3.0}, live=True)]

    def both(one: Session) -> list[Request]:
        due = [_request(changes.pop(0)) for _ in range(len(changes))] if one.trainer.step >= 40 else []
        return [*asked(one), *due]

    session.recorder.asked = both  # type: ignore[method-assign]
    assert session.run() == "finished"
    seen = snapshots(session.recorder.folder)  # type: ignore[attr-defined]
    assert {(one.attempt, one.origin) for one in seen} >= {(0, None), (2, 1), (3, 1), (4, 0)}
    between = next(one.config for one in seen if one.attempt == 3)
    assert (between["norm"], between["gain"]) == ("none", SMALL.gain)
    assert (session.config.norm, session.config.gain) == (SMALL.norm, SMALL.gain)


def test_a_rate_that_was_changed_in_a_pause_is_there_again_after_a_restart(run: Callable[[Config], Path]) -> None:
    session, rates = opened(run(SMALL), watch=Watch(every=1)), list[float]()
    asked = session.recorder.asked
    moves: list[Command] = [Pause(), Set({"lr": 0.05}), Set({"lr": 0.06}), Restart(), Back(), Back(), Back()]
    moves += [Back(forth=True), Back(forth=True), Resume()]

    def one_by_one(one: Session) -> list[Request]:
        if one.trainer.step < 40 and isinstance(moves[0] if moves else None, Pause):
            return asked(one)
        if one.state == "paused":
            rates.append(one.config.lr)
        return [*asked(one), *([_request(moves.pop(0))] if moves else [])]

    session.recorder.asked = one_by_one  # type: ignore[method-assign]
    assert session.run() == "finished"
    assert rates == [0.02, 0.05, 0.06, 0.06, 0.06, 0.05, 0.02, 0.05, 0.06]


def test_what_is_gone_back_to_and_finished_is_what_is_found_on_the_disk(run: Callable[[Config], Path]) -> None:
    folder = run(SMALL)
    session, moves = opened(folder, Order(1, 80, Back()), stay=True), [Restart(), Stop()]
    asked = session.recorder.asked

    def once_finished(one: Session) -> list[Request]:
        return [*asked(one), *([_request(moves.pop(0))] if one.state == "finished" else [])]

    session.recorder.asked = once_finished  # type: ignore[method-assign]
    assert session.run() == "finished"
    assert (session.attempt, session.trainer.step) == (2, SMALL.steps)
    trainer, attempt = load_attempt(folder)
    assert (attempt, trainer.step) == (2, SMALL.steps)


def test_no_loss_of_a_net_that_was_left_is_lost(run: Callable[[Config], Path]) -> None:
    """Not even those since the last snapshot."""
    folder = run(SMALL)
    opened(folder, Order(0, 40, Restart()), Order(1, 30, Back()), watch=Watch(per_second=1e-6)).run()
    assert sum(len(seen.losses) for seen in snapshots(folder) if seen.attempt != 1) == SMALL.steps


def test_restarts_are_undone_one_after_the_other_and_done_again(run: Callable[[Config], Path]) -> None:
    """As an editor undoes."""
    back, forth = Back(), Back(forth=True)
    ways = [Restart(), Restart(), back, back, forth, forth, back, Restart(), back]
    session, origins = opened(run(SMALL), watch=Watch(every=1)), []
    asked = session.recorder.asked

    def moves(one: Session) -> list[Request]:
        if len(origins) < one.attempt:
            origins.append(one.nets.origin)
        if one.attempt < len(ways) and one.trainer.step % 10 == 9:  # each is trained a little before it is left
            return [*asked(one), _request(ways[one.attempt])]
        return asked(one)

    session.recorder.asked = moves  # type: ignore[method-assign]
    session.run()
    assert origins == [None, None, 1, 0, 3, 2, 5, None, 7]


@pytest.mark.parametrize("state", ["paused", "finished"])
def test_what_comes_back_is_seen_as_it_was_left(run: Callable[[Config], Path], state: str) -> None:
    """Without an update that nobody asked for."""
    session, told = opened(run(SMALL), stay=True), list[str]()
    asked = session.recorder.asked

    def moves(one: Session) -> list[Request]:
        due, seen = asked(one), one.net.seen
        known = one.state == state and seen.splits and seen.splits.step == seen.names_step == one.trainer.step
        if one.attempt in (0, 2) and known:
            told.append(repr((one.trainer.step, seen)))
            due.append(_request(Stop() if one.attempt else Restart()))
        elif (one.attempt, one.state, state) == (0, "running", "paused") and one.trainer.step >= 40:
            due.append(_request(Pause()))
        elif one.attempt == 1 and one.trainer.step:
            due.append(_request(Back()))
        return due

    session.recorder.asked = moves  # type: ignore[method-assign]
    session.run()
    assert len(told) == 2
    assert told[0] == told[1]


@pytest.mark.parametrize("at", [41, 60, 120])
def test_going_back_is_made_again_after_a_kill(run: Callable[[Config], Path], few_names: Dataset, at: int) -> None:
    folder = run(SMALL)
    crash(opened(folder, Order(0, 40, Restart()), Order(1, 30, Back())), 2, at)
    session = opened(folder)
    assert session.attempt == 1  # the last checkpoint is of the net that was left by going back
    assert session.run() == "finished"
    assert (session.attempt, session.nets.origin) == (2, 0)
    assert (session.undo.behind, session.undo.ahead) == ([], [(1, 30)])
    assert differing(session.trainer, reference(SMALL, few_names, [])) == []


def test_a_trainer_that_comes_later_can_undo_and_do_again(run: Callable[[Config], Path]) -> None:
    folder = run(SMALL)
    orders = Order(0, 40, Restart()), Order(1, 30, Back()), Order(2, 50, Stop())
    assert opened(folder, *orders).run() == "stopped"
    forth, live = Order(2, 60, Back(forth=True)), Order(3, 40, Set({"norm": "none"}, live=True))
    assert opened(folder, forth, live, Order(4, 70, Set({"lr": 0.1})), Order(5, 75, Stop())).run() == "stopped"
    last = opened(folder, Order(5, 80, Set({"n_hidden": 12})))
    last.run()
    origins = {(seen.attempt, seen.origin) for seen in snapshots(folder)}
    assert origins == {(0, None), (1, None), (2, 0), (3, 1), (4, 3), (5, 4), (6, None)}
    marks = [mark.what.split()[0] for mark in last.interventions]
    assert marks == ["restart", "back", "forth", "norm", "lr", "n_hidden"]
    assert last.undo.behind == [(2, 60), (3, 40), (4, 30), (5, 10)]  # of these their own updates, since a live change


def test_the_net_that_took_longest_stays_however_many_are_left(run: Callable[[Config], Path]) -> None:
    folder = run(SMALL)
    session, left = opened(folder, watch=Watch(every=1)), 100
    asked = session.recorder.asked

    def moves(one: Session) -> list[Request]:
        due = one.trainer.step >= (5 if one.attempt else left) and one.attempt < 15
        return [*asked(one), *([_request(Restart())] if due else [])]

    session.recorder.asked = moves  # type: ignore[method-assign]
    session.run()
    assert len(session.undo.behind) == MOST_LEFT
    assert session.undo.behind[0] == (0, left)
    assert {saved.attempt for saved in rundir.checkpoints(folder)} >= session.undo.attempts


def test_where_nothing_was_left_nothing_is_undone(run: Callable[[Config], Path]) -> None:
    session = opened(run(SMALL), Order(0, 30, Back(forth=True)), Order(0, 40, Back()))
    assert session.run() == "finished"
    assert session.attempt == 0
    told = [event.message for event in session.channel.drain() if isinstance(event, Snapshot)]
    assert "nothing to undo: no other net was left" in told
    assert "nothing to go forth to" in told


def test_a_net_that_was_not_kept_after_all_is_told_and_then_passed_over(run: Callable[[Config], Path]) -> None:
    folder = run(SMALL)
    session = opened(folder, watch=Watch(every=1), stay=True)
    asked, moves, told = session.recorder.asked, [Restart(), Restart(), Back(), Back(), Stop()], list[int | str]()

    def moved(one: Session) -> list[Request]:
        if one.trainer.step < 10 or not moves:
            return asked(one)
        if isinstance(moves[0], Back):
            for saved in rundir.checkpoints(folder):
                if saved.attempt == 1:
                    shutil.rmtree(saved.path)
        return [*asked(one), Request(moves.pop(0), "a test", told.append)]

    session.recorder.asked = moved  # type: ignore[method-assign]
    session.run()
    assert told == [0, 0, "the net of attempt 1 was not kept", 10, 11]
    assert session.nets.origin == 0


def test_where_the_newest_checkpoint_of_a_net_gone_back_to_is_damaged_that_is_told(
    run: Callable[[Config], Path],
) -> None:
    folder = run(SMALL)
    session = opened(folder, Order(0, 20, Checkpoint()), Order(0, 40, Restart()), Order(1, 30, Back()))
    asked = session.recorder.asked

    def damaged(one: Session) -> list[Request]:
        if one.attempt == 1:
            newest = next(saved.path for saved in rundir.checkpoints(folder) if (saved.attempt, saved.step) == (0, 40))
            (newest / checkpoint.TENSORS).write_bytes(b"")
        return asked(one)

    session.recorder.asked = damaged  # type: ignore[method-assign]
    session.run()
    told = next(snapshot.message for snapshot in snapshots(folder) if snapshot.attempt == 2)
    assert told.startswith("back to the net at step 20: the same settings; checkpoint ")
    assert f"-step40 was not taken: {checkpoint.TENSORS} is damaged" in told


@pytest.mark.parametrize("long", [False, True])
def test_a_net_that_took_long_is_not_left_where_it_cannot_be_saved(
    run: Callable[[Config], Path], monkeypatch: pytest.MonkeyPatch, long: bool
) -> None:
    def full(*_: object) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    monkeypatch.setattr(sessions, "KEPT", 0.0 if long else 60.0)
    session = opened(run(SMALL), Order(0, 40, Restart()), Order(0, 50, Back()), Order(0, 60, Stop()))
    assert session.run() == "stopped"
    assert session.attempt == (0 if long else 1)
    told = " ".join(event.message for event in session.channel.drain() if isinstance(event, Snapshot))
    refused = "this net is not left, for the checkpoint could not be saved: No space left on device"
    assert (refused if long else "a new net from the seed; it cannot be undone") in told


def test_a_change_made_while_the_past_is_repeated_takes_the_place_of_the_later_ones(
    run: Callable[[Config], Path], few_names: Dataset
) -> None:
    folder = run(SMALL)
    early, late, other = Set({"lr": 0.5}), Set({"lr": 0.9}), Set({"lr": 0.001})
    crash(opened(folder, Order(0, 20, early), Order(1, 100, late)), 2, 120)
    shutil.rmtree(folder / rundir.CHECKPOINTS)  # of the nets before the two

    session = open_run(folder, Channel(), watch=Watch(per_second=1e-6))
    session.channel.send(Step(60))  # early is repeated, late is not reached
    session.channel.send(Look("?"))
    asked, given = session.recorder.asked, [other]
    session.recorder.asked = lambda one: (
        asked(one)
        + (  # type: ignore[method-assign]
            [_request(given.pop()), _request(Resume())] if one.state == "paused" and given else []
        )
    )
    assert session.run() == "finished"

    changes = later_changes(folder, 0)
    assert [command for _, _, command in changes] == [early, other]
    assert changes[1][1] == 60
    assert differing(load_attempt(folder)[0], reference(SMALL, few_names, changes)) == []
    again = opened(folder)
    assert again.replay == []
    again.recorder.give_up()  # type: ignore[attr-defined]


def _request(command: Command) -> recorder.Request:
    return recorder.Request(command, "somebody", lambda _: None)


def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(
    run: Callable[[Config], Path], few_names: Dataset
) -> None:
    folder = run(SMALL)
    opened(folder, Order(0, 40, Checkpoint()), Order(0, 80, Stop())).run()
    first, newest = sorted((folder / rundir.CHECKPOINTS).iterdir())
    weights = newest / checkpoint.TENSORS
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)

    session = opened(folder)
    at = session.trainer.step
    assert session.run() == "finished"

    assert f"-step{at}" in first.name
    told = next(snapshot.message for snapshot in snapshots(folder) if "was not taken" in snapshot.message)
    assert told.startswith(f"checkpoint {newest.name} was not taken: {checkpoint.TENSORS} is damaged")
    assert differing(session.trainer, reference(SMALL, few_names, [])) == []


def test_what_was_just_begun_is_saved_before_long(
    run: Callable[[Config], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "FIRST", 0.0)
    monkeypatch.setattr(recorder, "BEAT", 0.0)
    folder = run(SMALL)
    crash(opened(folder), 0, 40)
    (only,) = rundir.checkpoints(folder)
    assert 0 <= only.step < 40


def test_a_run_without_any_good_checkpoint_is_refused(run: Callable[[Config], Path]) -> None:
    folder = run(SMALL)
    opened(folder, Order(0, 40, Stop())).run()
    for path in (folder / rundir.CHECKPOINTS).iterdir():
        (path / checkpoint.TENSORS).write_bytes(b"")
    with pytest.raises(ValueError, match=r"^run: has no good checkpoint; [^\n]+$"):
        open_run(folder, Channel())
    assert rundir.held_by(folder) is None  # and the lock was given back


def test_a_checkpoint_that_says_less_than_this_programs_is_refused_and_not_half_read(
    run: Callable[[Config], Path],
) -> None:
    folder = run(SMALL)
    opened(folder, Order(0, 40, Stop())).run()
    tensors, rest, _ = checkpoint.load(folder)
    (net,) = rest["nets"]
    seen = net.pop("seen")
    checkpoint.save(folder, tensors, {**rest, "nets": [{**net, **seen}]})
    with pytest.raises(ValueError, match=r"^run: its checkpoint is not of this program: [^\n]+`seen`[^\n]+$"):
        open_run(folder, Channel())


def test_data_that_changed_or_went_is_told_in_one_line(tmp_path: Path, few_names_file: Path) -> None:
    data = tmp_path / "names.txt"
    data.write_bytes(few_names_file.read_bytes())
    folder = new_run(tmp_path / "run", SMALL, data)
    data.write_bytes(few_names_file.read_bytes() + b"zoe\n")
    with pytest.raises(ValueError, match=rf"^{re.escape(str(data))}: has changed since run was started$"):
        open_run(folder, Channel())
    data.unlink()
    with pytest.raises(ValueError, match=rf"^{re.escape(str(data))}: no such file; --data tells where run finds it"):
        open_run(folder, Channel())


def test_a_run_that_is_being_trained_is_refused_with_the_process(run: Callable[[Config], Path]) -> None:
    folder = run(SMALL.replace({"steps": 10_000_000}))
    trainer = trainer_process(folder)
    wait_for(lambda: rundir.held_by(folder) is not None, "a trainer")
    with pytest.raises(ValueError, match=rf"^run: is being trained already, by process {trainer.pid}$"):
        open_run(folder, Channel())
    trainer.kill()
    trainer.join()
    opened(folder, Order(0, 0, Stop())).run()  # a lock left by a kill is taken over


def test_dead_units_are_still_known_when_a_run_goes_on(run: Callable[[Config], Path]) -> None:
    session = opened(folder := run(SMALL))
    session.run()
    assert session.net.dead
    assert opened(folder).net.dead == session.net.dead


def test_a_twin_is_resumed_with_it(run: Callable[[Config], Path], few_names: Dataset) -> None:
    folder = run(SMALL)
    orders = [Order(0, 20, Twin({"lr": 0.5})), Order(1, 30, Set({"momentum": 0.5, "lr": 0.01}))]
    opened(folder, *orders, Order(1, 50, Stop())).run()
    session = opened(folder)
    session.run()

    changes = later_changes(folder, 0)
    assert session.nets.twin is not None
    assert differing(session.trainer, reference(SMALL, few_names, changes[1:])) == []
    twin = SMALL.replace({"lr": 0.5})
    assert differing(session.nets.twin.trainer, reference(twin, few_names, [])) == ["generator"]  # it draws nothing


# The record


def test_every_command_is_in_the_record_before_it_is_applied(
    run: Callable[[Config], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(SMALL)
    known: list[tuple[str, int, int]] = []
    apply, synced = Session._apply, list[object]()

    def spying(session: Session, command: Command, *rest: object) -> None:
        known.append((type(command).__name__, len(entries(folder)), len(synced)))
        apply(session, command, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Session, "_apply", spying)
    monkeypatch.setattr(record.RecordWriter, "_sync_now", lambda writer: synced.append(writer))  # onto the disk
    commands: list[Command] = [Pause(), Resume(), Set({"lr": 0.5}), Sample(3.0), Restart(), Checkpoint(), Stop()]
    session = open_run(folder, Channel())
    for command in commands:
        session.channel.send(command)
    session.run()

    assert known == [
        (type(command).__name__, number, sum(isinstance(change, Set | Restart) for change in commands[:number]))
        for number, command in enumerate(commands, start=1)
    ]
    assert [(entry["command"], entry.get("change")) for entry in entries(folder)][2:5] == [
        ({"type": "set", "changes": {"lr": 0.5}, "live": False, "fresh": False, "paused": False}, 0),
        ({"type": "sample", "temperature": 3.0}, None),
        ({"type": "restart"}, 1),
    ]


def test_looking_and_what_was_refused_are_not_in_the_record(run: Callable[[Config], Path]) -> None:
    folder = run(SMALL)
    orders = [Order(0, 10, Look("?")), Order(0, 10, Set({"lr": -1.0})), Order(0, 20, Step(1_000)), Order(0, 30, Stop())]
    opened(folder, *orders).run()
    assert [entry["command"]["type"] for entry in entries(folder)] == ["step", "stop"]  # type: ignore[index]


def test_all_losses_are_in_the_record_once(run: Callable[[Config], Path], few_names: Dataset) -> None:
    folder = run(SMALL)
    opened(folder, Order(0, 50, Stop()), watch=Watch(every=3)).run()
    opened(folder, watch=Watch(every=5)).run()

    losses: list[float] = []
    for snapshot in snapshots(folder):
        losses += snapshot.losses
        assert len(losses) == snapshot.step
    assert losses == reference(SMALL.replace({"steps": 0}), few_names, []).advance(SMALL.steps)


def test_the_state_file_is_the_newest_snapshot(run: Callable[[Config], Path]) -> None:
    folder = run(SMALL)
    opened(folder).run()
    assert rundir.read_state(folder) == snapshots(folder)[-1]
    assert rundir.liveness(folder) == "finished"


# The disk


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """A list; while it has something in it, nothing can be written or saved."""
    full: list[bool] = []
    refuse = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    write, save, replace = os.write, checkpoint.save, rundir.replace_file

    def writing(fd: int, data: bytes) -> int:
        if full:
            write(fd, data[:7])
            raise refuse
        return write(fd, data)

    def saving(*arguments: object, **more: object) -> Path:
        if full:
            raise refuse
        return save(*arguments, **more)  # type: ignore[arg-type]

    def replacing(*arguments: object, **more: object) -> None:
        if full:
            raise refuse
        replace(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(record.os, "write", writing)
    monkeypatch.setattr(checkpoint, "save", saving)
    monkeypatch.setattr(rundir, "replace_file", replacing)
    for name, seconds in {"CHECKPOINT": 0.03, "RETRY": 0.01, "BEAT": 0.0}.items():
        monkeypatch.setattr(recorder, name, seconds)
    monkeypatch.setattr(record, "LONGEST_PAUSE", 0.01)
    yield full
    full.clear()


def at(session: Session, step: int, act: Callable[[], object]) -> None:
    """Do something when the run has come so far."""
    advance = session._advance

    def acting(n: int, tap: bool) -> None:
        if session.trainer.step >= step and not done:
            done.append(True)
            act()
        advance(n, tap)

    done: list[bool] = []
    session._advance = acting  # type: ignore[method-assign]


def test_a_full_disk_is_counted_shown_and_got_over(
    run: Callable[[Config], Path], few_names: Dataset, disk: list[bool]
) -> None:
    folder = run(SMALL)
    session = opened(folder, Order(0, 70, Set({"lr": 0.5})), watch=Watch(every=1))
    channel = session.channel
    at(session, 40, lambda: disk.append(True))
    at(session, 100, disk.clear)
    assert session.run() == "finished"

    told = {event.step: event.message for event in channel.drain() if isinstance(event, Snapshot)}
    assert not any("lost" in message for step, message in told.items() if step <= 40)
    assert re.search(
        r"\d+ records lost: No space left on device; the state file cannot be written;"
        r" the checkpoint could not be saved: No space left on device",
        told[99],
    )
    assert re.search(r"\d+ records lost$", told[SMALL.steps])
    kept = snapshots(folder)
    assert {snapshot.step for snapshot in kept} >= {*range(41), *range(120, 151)}  # after at most a moment's pause
    assert RecordReader(folder / rundir.RECORD).damaged == 0
    assert differing(load_attempt(folder)[0], reference(SMALL, few_names, [(0, 70, Set({"lr": 0.5}))])) == []


def test_a_finished_run_is_saved_as_soon_as_there_is_room(
    run: Callable[[Config], Path], monkeypatch: pytest.MonkeyPatch, disk: list[bool]
) -> None:
    monkeypatch.setattr(recorder, "CHECKPOINT", 1e9)
    folder = run(SMALL)
    session, waited = opened(folder), list[str]()
    asked = session.recorder.asked

    def room(one: Session) -> list[Request]:
        if one.state == "finished":
            disk.clear()
            waited.append(one.state)
            if len(waited) > 100:
                one.end()
        return asked(one)

    session.recorder.asked = room  # type: ignore[method-assign]
    at(session, 100, lambda: disk.append(True))
    assert session.run() == "finished"
    assert load_attempt(folder)[0].step == SMALL.steps


def test_the_end_of_a_run_that_stays_open_is_on_the_disk_at_once(
    run: Callable[[Config], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "BEAT", 1e9)
    folder = run(SMALL)
    session, states = opened(folder, stay=True), list[str]()
    asked = session.recorder.asked

    def waits(one: Session) -> list[Request]:
        due = asked(one)
        if one.state == "finished":
            found = rundir.read_state(folder)
            states.append(found.state if found else "")
            if len(states) > 2:
                one.end()
        return due

    session.recorder.asked = waits  # type: ignore[method-assign]
    session.run()
    assert states[-1] == "finished"


@pytest.mark.parametrize("becomes", ["removed", "renamed", "replaced"])
def test_a_run_whose_folder_is_gone_ends_without_waiting_for_room(
    run: Callable[[Config], Path], monkeypatch: pytest.MonkeyPatch, becomes: str
) -> None:
    monkeypatch.setattr(recorder, "BEAT", 0.0)
    folder = run(SMALL)

    def move() -> None:
        shutil.rmtree(folder) if becomes == "removed" else folder.rename(folder.with_name("moved"))
        if becomes == "replaced":
            folder.mkdir()

    session = opened(folder, Order(0, 120, Stop()))
    at(session, 40, move)
    assert session.run() == "stopped"
    assert session.trainer.step < 120
    assert session.recorder.unsaved()
    messages = [event.message for event in session.channel.drain() if isinstance(event, Snapshot)]
    assert messages[-1] == "its folder is gone"
    assert list(folder.iterdir()) == [] if becomes == "replaced" else not folder.exists()


def test_nothing_is_saved_into_the_folder_of_another_run(
    run: Callable[[Config], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(SMALL)
    session = open_run(folder, Channel())
    survey = session.net.survey

    def replaced(whole: bool) -> Iterator[None]:
        for part in survey(whole):
            if whole and not folder.with_name("moved").exists():
                folder.rename(folder.with_name("moved"))
                folder.mkdir()
                with pytest.raises(ValueError, match="its folder is gone"):
                    session.recorder.checkpoint(session)
                monkeypatch.setattr(recorder, "BEAT", 0.0)
                session.recorder._next_beat = 0.0  # type: ignore[attr-defined]
            yield part

    monkeypatch.setattr(session.net, "survey", replaced)
    assert session.run() == "stopped"
    assert list(folder.iterdir()) == []


def test_changes_are_not_lost_with_a_record_that_somebody_removes(
    run: Callable[[Config], Path], few_names: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "BEAT", 0.0)
    folder = run(SMALL)
    changes = [Set({"lr": 0.5}), Set({"lr": 0.001})]
    session = opened(folder, Order(0, 20, changes[0]), Order(1, 90, changes[1]))
    made = session.interventions
    at(session, 50, lambda: shutil.rmtree(folder / rundir.RECORD))
    crash(session, 2, 120)
    told = [event.message for event in session.channel.drain() if isinstance(event, Snapshot)]
    assert re.search(r"\d+ records lost", told[-1])

    session = opened(folder)
    assert session.run() == "finished"
    steps = [mark.step for mark in made]
    wanted = reference(SMALL, few_names, [*zip(range(2), steps, changes, strict=True)])
    assert differing(session.trainer, wanted) == []


def test_what_is_saved_already_costs_no_older_checkpoint_its_place(run: Callable[[Config], Path]) -> None:
    folder = run(SMALL)
    session = opened(folder)
    at(session, 40, lambda: session.recorder.checkpoint(session))
    at(session, 80, lambda: [session.recorder.checkpoint(session) for _ in range(3)])
    crash(session, 0, 90)
    assert [saved.step for saved in rundir.checkpoints(folder)] == [80, 40]


def test_a_change_that_could_not_be_recorded_is_not_confused_with_the_next(
    run: Callable[[Config], Path], few_names: Dataset, disk: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(SMALL)
    lost, kept = Set({"lr": 0.5}), Set({"lr": 0.001})
    session = opened(folder, Order(0, 40, lost), Order(1, 90, kept))
    at(session, 30, lambda: disk.append(True))
    at(session, 60, disk.clear)

    def save_for_the_last_time() -> None:
        monkeypatch.setattr(recorder, "CHECKPOINT", 1e9)
        session.recorder.checkpoint(session)

    at(session, 85, save_for_the_last_time)
    crash(session, 2, 120)
    assert later_changes(folder, 0) == []
    assert [command for _, _, command in later_changes(folder, 1)] == [kept]

    session = opened(folder)
    assert session.changes == 1  # the lost one is in the checkpoint
    assert session.run() == "finished"

    step = next(mark.step for mark in session.interventions if "0.5" in mark.what)
    wanted = reference(SMALL, few_names, [(0, step, lost), later_changes(folder, 1)[0]])
    assert differing(session.trainer, wanted) == []


def test_without_a_socket_it_is_still_trained_and_recorded(
    run: Callable[[Config], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(recorder, "ControlServer", refuse)
    folder = run(SMALL)
    assert opened(folder).run() == "finished"
    assert snapshots(folder)[-1].step == SMALL.steps
