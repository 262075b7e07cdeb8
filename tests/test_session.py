"""A run obeys commands between updates, tells all that happened, and is the same whether anybody looks or not."""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path

import pytest
import torch

from makemore_core import clock, model, session, trainer, watched
from makemore_core.clock import CREDIT
from makemore_core.command import (
    Channel,
    Checkpoint,
    Command,
    Look,
    Pace,
    Pause,
    Restart,
    Resume,
    Sample,
    Set,
    Step,
    Stop,
    Twin,
)
from makemore_core.config import LIVE_FIELDS, LIVE_IF_ASKED_FIELDS, Config, Value
from makemore_core.dataset import Dataset
from makemore_core.doctor import examine
from makemore_core.layers import BatchNorm1d
from makemore_core.memory import free_memory
from makemore_core.model import Model, sample
from makemore_core.nets import Nets, bytes_of
from makemore_core.session import Recorder, Request, Session
from makemore_core.trainer import Trainer
from makemore_core.watch import Watch
from makemore_core.watched import Watched
from tests.scripted import DENSE, SMALL, SPARSE, Move, Script, at, once, play

UNWATCHED = Watch(per_second=1e-6)


def weights(session: Session) -> dict[str, torch.Tensor]:
    """Everything that training changes, generator and optimiser included."""
    return {name: tensor.clone() for name, tensor in session.trainer.tensors().items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


# Commands


def test_a_command_is_applied_before_exactly_the_update_that_is_reported(few_names: Dataset) -> None:
    ran, script = play(few_names, at(50, Set({"lr": 0.02})), watch=UNWATCHED)

    (mark,) = ran.interventions
    assert mark.step == script.outcomes[0].step >= 50
    assert mark.what == "lr 0.1 → 0.02"
    reference = Trainer(SMALL, few_names)
    losses = reference.advance(mark.step)
    reference.config = SMALL.replace({"lr": 0.02})
    losses += reference.advance(SMALL.steps - mark.step)
    assert script.losses == losses
    assert_same(weights(ran), reference.tensors())


def test_paused_means_no_update_and_a_step_is_as_many_as_asked(few_names: Dataset) -> None:
    seen: list[int] = []

    def settled(session: Session) -> bool:
        seen.append(session.trainer.step)
        return session.state == "paused" and len(seen) > 3 and seen[-3:] == [session.trainer.step] * 3

    ran, script = play(
        few_names,
        at(30, Pause()),
        Move(settled, Step(7)),
        once("paused", Step(1)),
        once("paused", Resume()),
        watch=UNWATCHED,
    )

    paused = [snapshot.step for snapshot in script.snapshots if snapshot.state == "paused"]
    first = paused[0]
    assert first >= 30
    assert [step for step in sorted(set(paused)) if step > first] == [first + 7, first + 8]
    assert [outcome.error for outcome in script.outcomes] == [None] * 4
    assert ran.state == "finished"


def test_what_only_coming_updates_read_never_restarts(few_names: Dataset) -> None:
    values: dict[str, Value] = dict.fromkeys(LIVE_FIELDS, 0.02)
    values |= {"steps": 130, "batch_size": 5, "lr_decay_at": 60, "norm_momentum": 0.02}
    ran, script = play(few_names, *(at(50, Set({name: value})) for name, value in values.items()), watch=Watch(every=3))

    assert ran.nets.origin is not None
    assert [snapshot.step for snapshot in script.snapshots] == sorted(snapshot.step for snapshot in script.snapshots)
    assert ran.trainer.step == ran.config.steps == 130
    assert {name: ran.config.as_dict()[name] for name in values} == values
    assert {leaf.momentum for leaf in ran.trainer.model.leaves() if isinstance(leaf, BatchNorm1d)} == {0.02}
    made = [mark.step for mark in ran.interventions if "planned" not in mark.what]
    assert made == [outcome.step for outcome in script.outcomes if outcome.command != Set({"steps": 130})]  # no mark


@pytest.mark.parametrize(
    ("optimizer", "name"),
    [
        ("momentum", "momentum"),
        ("rmsprop", "beta2"),
        ("adam", "beta1"),
        ("adam", "optimizer_eps"),
        ("adamw", "weight_decay"),
    ],
)
def test_what_the_optimiser_is_told_on_the_way_it_does(few_names: Dataset, optimizer: str, name: str) -> None:
    config = SMALL.replace({"optimizer": optimizer, "lr": 0.01})
    _, script = play(few_names, at(40, Set({name: 0.25})), config=config, watch=Watch(every=40))
    losses = Trainer(config, few_names).advance(SMALL.steps)
    assert script.losses[:41] == losses[:41]  # the first loss after the change is of the net before it
    assert script.losses[41:] != losses[41:]


@pytest.mark.parametrize(
    ("name", "value"),
    [("norm", "none"), ("gain", 2.0), ("fan_in", "off"), ("nonlinearity", "relu"), ("optimizer", "adam")],
)
def test_live_or_restart(few_names: Dataset, name: str, value: Value) -> None:
    live, _ = play(few_names, at(50, Set({name: value}, live=True)))
    again, script = play(few_names, at(50, Set({name: value})))

    assert name in LIVE_IF_ASKED_FIELDS
    assert (live.attempt, live.nets.origin, again.attempt, again.nets.origin) == (1, 0, 1, None)
    assert (live.interventions[0].attempt, again.interventions[0].attempt) == (1, 1)
    assert live.interventions[0].step >= 50
    assert again.interventions[0].step == 0  # the change that began the attempt
    fresh = Trainer(SMALL.replace({name: value}), few_names)
    assert script.losses == fresh.advance(SMALL.steps)
    assert_same(weights(again), fresh.tensors())
    for ran in (live, again):
        assert ran.snapshot().params == sum(parameter.numel() for parameter in ran.trainer.model.parameters())


def test_dead_units_are_not_carried_over_to_a_net_with_other_rows(few_names: Dataset) -> None:
    ran = Session(SMALL, few_names, Channel())
    ran.net.dead = {2: 3, 5: 4}
    ran.net.reconfigure(SMALL.replace({"lr": 0.01}))
    assert ran.net.dead == {2: 3, 5: 4}
    ran.net.reconfigure(SMALL.replace({"norm": "none"}))
    assert ran.net.dead == {}


def test_changed_live_in_a_pause_the_net_is_looked_at_again(few_names: Dataset) -> None:
    def known(session: Session) -> bool:
        return session.state == "paused" and session.net.seen.splits is not None

    moves = [at(20, Pause()), Move(known, Set({"norm": "none"}, live=True)), Move(known, Stop())]
    _, script = play(few_names, *moves)
    first, last = (next(s for s in some if s.splits) for some in (script.snapshots, reversed(script.snapshots)))
    assert (last.state, last.step) == ("stopped", first.step + 1)
    assert last.splits is not None
    assert last.splits.step == last.layers_step == last.step
    assert [layer.index for layer in first.layers] != [layer.index for layer in last.layers]


def test_of_a_net_that_was_changed_live_no_earlier_losses_are_told(
    few_names: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "EVALUATION_BATCH", 100)
    midway = Move(lambda run: run.state == "paused" and run._survey is not None, Set({"norm": "none"}, live=True))
    known = Move(lambda run: run.state == "paused" and run.net.seen.splits is not None, Stop())
    _, script = play(few_names, at(20, Pause()), midway, known)
    assert {seen.splits.step == seen.step for seen in script.snapshots if seen.splits} == {True}


@pytest.mark.parametrize("every", [20, 40])  # the updates run at a time end at the decay, or on both sides of it
def test_the_planned_decay_of_the_learning_rate_is_marked_once_an_attempt(few_names: Dataset, every: int) -> None:
    config = SMALL.replace({"lr_decay_at": 60})
    moves = at(80, Restart()), at(90, Pause()), once("paused", Resume())
    ran, _ = play(few_names, *moves, config=config, watch=Watch(every=every))
    marks = [(mark.step, mark.what, mark.attempt) for mark in ran.interventions]
    planned = "lr 0.1 → 0.01, as planned"
    assert marks == [(60, planned, 0), (0, "restart", 1), (60, planned, 1)]
    assert play(few_names, config=config.replace({"lr_decay": 1.0}))[0].interventions == []  # by 1 it does not fall


def test_of_very_many_marks_the_latest_are_told(few_names: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MOST_INTERVENTIONS", 2)
    _, script = play(few_names, *(at(step, Set({"lr": step / 100})) for step in (20, 30, 40)))
    assert [mark.what for mark in script.snapshots[-1].interventions] == ["lr 0.2 → 0.3", "lr 0.3 → 0.4"]


def test_a_restart_keeps_the_marks_and_begins_anew(few_names: Dataset) -> None:
    ran, script = play(few_names, at(20, Set({"lr": 0.05})), at(40, Restart()), at(60, Set({"n_hidden": 12})))

    assert [(mark.what, mark.attempt) for mark in ran.interventions] == [
        ("lr 0.1 → 0.05", 1),
        ("restart", 2),
        ("n_hidden 16 → 12", 3),
    ]
    assert [script.snapshots[-1].attempt, script.snapshots[-1].config["lr"]] == [3, 0.05]
    assert script.losses == Trainer(SMALL.replace({"lr": 0.05, "n_hidden": 12}), few_names).advance(SMALL.steps)


@pytest.mark.parametrize("anew", [Restart(), Set({"gain": 3.0}), Set({"lr": 0.05}, fresh=True)])
def test_restarted_while_paused_it_shows_the_net_as_initialised_and_waits(few_names: Dataset, anew: Command) -> None:
    _, script = play(few_names, at(20, Pause()), once("paused", anew), once("paused", Resume()))

    first = next(snapshot for snapshot in script.snapshots if snapshot.attempt == 1)
    assert (first.state, first.step, first.layers_step) == ("paused", 1, 1)
    config = SMALL.replace(anew.changes) if isinstance(anew, Set) else SMALL
    fresh = Trainer(config, few_names)
    assert script.losses == fresh.advance(1, tap=True) + fresh.advance(SMALL.steps - 1)


def test_a_run_can_begin_paused_and_goes_on_as_any_other(few_names: Dataset) -> None:
    ran, script = play(few_names, once("paused", Resume()), watch=Watch(paused=True))

    assert {(seen.step, bool(seen.layers)) for seen in script.snapshots if seen.state == "paused"} == {(1, True)}
    assert ran.state == "finished"
    assert script.losses == Trainer(SMALL, few_names).advance(SMALL.steps)


@pytest.mark.parametrize("changes", [{"lr": 0.05}, {}, {"lr": SMALL.lr}])
def test_an_experiment_begins_anew_whatever_it_changes(few_names: Dataset, changes: dict[str, Value]) -> None:
    ran, played = play(few_names, at(20, Set(changes, fresh=True)))
    assert ran.attempt == 1
    assert played.losses == Trainer(SMALL.replace(changes), few_names).advance(SMALL.steps)


def test_a_setting_that_is_so_already_is_no_change(few_names: Dataset) -> None:
    ran, script = play(few_names, at(40, Set({"lr": SMALL.lr})))
    assert "lr is 0.1 already" in {snapshot.message for snapshot in script.snapshots}
    assert ran.interventions == []


def test_a_run_whose_twin_was_ended_goes_on_as_if_alone(few_names: Dataset) -> None:
    ran, script = play(few_names, at(40, Twin()), twin={"norm": "none"})
    assert [seen.twin is not None for seen in (script.snapshots[0], script.snapshots[-1])] == [True, False]
    assert [(mark.step, mark.what) for mark in ran.interventions] == [(40, "twin off")]
    assert_same(weights(ran), weights(play(few_names)[0]))
    again, _ = play(few_names, at(40, Twin()), at(60, Restart()), twin={"norm": "none"})
    assert (again.attempt, again.nets.twin) == (1, None)  # nor does it come back with a new net


def test_a_change_that_cannot_be_made_again_ends_the_repetition(few_names: Dataset) -> None:
    ran = Session(SMALL, few_names, Channel(), recorder=(script := Script()))
    ran.replay = [(0, 20, Set({"n_hidden": 10**9})), (0, 40, Set({"lr": 0.5}))]
    assert ran.run() == "finished"
    assert any(" cannot be made again: " in snapshot.message for snapshot in script.snapshots)
    assert (ran.interventions, ran.config) == ([], SMALL)


def test_a_change_that_came_after_the_net_had_diverged_is_made_again_when_it_has(few_names: Dataset) -> None:
    """Which is noticed some steps sooner or later, as the updates happen to come together."""
    config = SMALL.replace({"lr": 1e6, "norm": "none", "nonlinearity": "identity"})
    over = Move(lambda session: session.state in ("finished", "diverged"), Stop())
    ran = Session(config, few_names, Channel(), recorder=Script(over), stay=True)
    ran.replay = [(0, 119, Set({"lr": 0.01}))]
    assert ran.run() == "finished"
    assert (ran.attempt, ran.config.lr) == (1, 0.01)


def test_a_finished_run_takes_more_steps(few_names: Dataset) -> None:
    ran, script = play(few_names, once("finished", Set({"steps": 150})), stay=True)

    assert ran.trainer.step == 150
    assert ran.state == "finished"
    assert script.saved_at == [120, 150]
    assert script.losses == Trainer(SMALL, few_names).advance(150)


def test_steps_fewer_than_are_done_are_refused_but_for_a_new_net(few_names: Dataset) -> None:
    ran, script = play(few_names, at(40, Set({"steps": 10})), at(40, Set({"steps": 10, "gain": 2.0})))

    refused, anew = script.outcomes
    assert (refused.error, anew.error) == (f"steps=10: the run is at step {refused.step} already", None)
    assert (ran.state, ran.attempt, ran.trainer.step) == ("finished", 1, 10)


@pytest.mark.parametrize(
    ("cause", "cure"),
    [
        ({"lr": 1e6}, [Set({"lr": 0.01})]),
        ({"lr": 9e5}, [Set({"lr": 0.01}, live=True)]),
        ({"gain": 1e30}, [Set({"gain": 1.0})]),
    ],
)
def test_a_diverged_run_is_told_and_any_change_restarts_it(
    few_names: Dataset, cause: dict[str, Value], cure: list[Command]
) -> None:
    ran, script = play(
        few_names,
        once("diverged", Step(1)),
        *(once("diverged", command) for command in cure),
        config=SMALL.replace({**cause, "norm": "none", "nonlinearity": "identity"}),
        stay=True,
    )

    diverged = next(snapshot for snapshot in script.snapshots if snapshot.state == "diverged")
    assert diverged.message.endswith(": the doctor says what to try")
    assert not any(math.isfinite(layer.activation.std) for layer in diverged.layers[-1:])
    assert diverged.loss is not None
    assert not math.isfinite(diverged.loss)
    assert script.outcomes[0].error == "the run is diverged: restart it"
    assert ran.attempt == 1
    assert "finished" in [snapshot.state for snapshot in script.snapshots]
    assert math.isfinite(ran.net.seen.loss or math.nan)


def test_no_rate_is_blamed_for_a_net_that_was_no_number_from_the_start(few_names: Dataset) -> None:
    config = SMALL.replace({"gain": 1e38, "n_layer": 2, "norm": "none", "nonlinearity": "identity"})
    _, script = play(few_names, config=config)
    assert script.snapshots[-1].message == "the loss is no number from step 0 on: the doctor says what to try"


def test_nothing_of_a_diverged_run_is_saved(few_names: Dataset) -> None:
    config = SMALL.replace({"lr": 1e6, "norm": "none", "nonlinearity": "identity"})
    ran, script = play(few_names, once("diverged", Checkpoint()), config=config, stay=True)

    assert script.outcomes[0].error == "the run is diverged: there is nothing worth saving"
    assert (ran.state, script.saved_at) == ("diverged", [])


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (Set({"lr": -1.0}), "lr=-1.0: has to be a number above 0 and at most 1e+06"),
        (Set({"gian": 2.0}), "gian: no such setting; did you mean gain?"),
        (Set({"norm": "group", "norm_groups": 7}), "norm_groups=7: has to divide n_hidden=16 without a remainder"),
        (Twin({"steps": 5}), "steps=5: a twin takes the same steps, 120"),
        (Twin({"batch_size": 5}), "batch_size=5: a twin sees the same minibatches, 8 each"),
        (Set({"n_hidden": 8, "lr": 0.5}, live=True), "n_hidden: cannot be changed on a live net; without --live the"),
        (Set({"engine": "manual"}, live=True), "engine: cannot be changed on a live net; without --live the run"),
        (Look("no such thing"), "no such thing: no such exhibit"),
    ],
)
def test_what_cannot_be_done_is_told_and_changes_nothing(few_names: Dataset, command: Command, said: str) -> None:
    ran, script = play(few_names, at(40, command))

    assert script.outcomes[0].error is not None
    assert said in script.outcomes[0].error
    assert not any(said in snapshot.message for snapshot in script.snapshots)  # whoever asked is told, nobody else
    assert (ran.changes, ran.interventions, ran.attempt) == (0, [], 0)
    assert script.losses == Trainer(SMALL, few_names).advance(SMALL.steps)


def test_what_a_command_did_is_told_for_a_while_and_how_the_run_ended_for_good(
    few_names: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "SAID", 0.0)
    told = Move(lambda session: session.state == "paused" and not session.message, Resume())
    _, script = play(few_names, at(40, Pause()), once("paused", Set({"lr": 0.5})), told, watch=Watch(every=1))
    messages = [(snapshot.state, snapshot.message) for snapshot in script.snapshots]
    said = messages.index(("paused", "lr 0.1 → 0.5"))
    assert ("paused", "") in messages[said:]
    assert messages[-1] == ("finished", "saved")


def test_what_stands_is_told_again_once_what_a_command_did_was_told(
    few_names: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(session, "SAID", 0.0)
    stands = "no GPU that torch can use on this machine: training on the CPU"
    told = Move(lambda session: session.state == "paused" and session.message != "lr 0.1 → 0.5", Stop())
    moves = at(40, Pause()), once("paused", Set({"lr": 0.5})), told
    _, script = play(few_names, *moves, config=SMALL.replace({"device": "cuda"}), watch=Watch(every=1))
    messages = [snapshot.message for snapshot in script.snapshots if snapshot.state == "paused"]
    assert messages[messages.index("lr 0.1 → 0.5") :][-1] == stands


def test_what_a_command_did_is_told_again_and_not_wiped_by_those_who_look(few_names: Dataset) -> None:
    same = Set({"lr": SMALL.lr})
    _, script = play(few_names, at(40, same), at(50, Look("backward")), at(60, same), watch=Watch(every=1))
    assert {snapshot.message for snapshot in script.snapshots if 41 <= snapshot.step < 100} == {"lr is 0.1 already"}
    heard = [max(snapshot.answered for snapshot in script.snapshots if snapshot.step < step) for step in (40, 60, 100)]
    assert heard == [0, 1, 2]  # that it was said again can be told from that it still stands


def test_a_net_that_its_last_update_ruined_is_not_called_finished(few_names: Dataset) -> None:
    config = SMALL.replace(
        {"n_layer": 5, "nonlinearity": "identity", "norm": "none", "gain": 5.0, "lr": 1e6, "steps": 1}
    )
    ran, script = play(few_names, config=config)
    assert math.isfinite(script.losses[-1])
    assert (ran.state, script.saved_at) == ("diverged", [])
    assert script.snapshots[-1].message == "the loss is no number from step 1 on: the doctor says what to try"


@pytest.mark.filterwarnings("ignore:var")  # torch's, of one example
def test_a_net_that_learnt_is_kept_also_where_its_running_statistics_are_no_numbers(few_names: Dataset) -> None:
    config = SMALL.replace({"norm_variance": "pytorch"})
    moves = at(20, Set({"batch_size": 1})), at(25, Set({"batch_size": 8}))  # of one example the variance is 0/0
    ran, script = play(few_names, *moves, config=config, watch=Watch(every=5))
    last = script.snapshots[-1]
    assert last.splits is not None
    assert math.isnan(last.splits.val or 0.0)
    assert all(map(math.isfinite, script.losses))
    assert (ran.state, script.saved_at[-1:], last.message) == ("finished", [120], "saved")


def test_dead_units_of_a_net_that_waits_are_shown_as_soon_as_they_are_counted(few_names: Dataset) -> None:
    config = SMALL.replace({"norm": "none", "nonlinearity": "relu", "bias_init": 3.0})
    counted = Move(lambda session: session.state == "paused" and session.net.seen.splits is not None, Stop())
    _, script = play(few_names, counted, config=config, watch=Watch(paused=True))
    last = script.snapshots[-1]
    assert (last.step, [layer.activation.dead is None for layer in last.layers]) == (1, [False])


def test_looking_at_a_net_that_waits_fills_no_record(few_names: Dataset) -> None:
    def settled(ran: Session) -> bool:
        splits, step = ran.net.seen.splits, ran.trainer.step
        seen = splits is not None and splits.step == ran.net.seen.names_step == step
        return ran.state == "paused" and seen and not ran._making

    def told(*looks: Command) -> int:
        moves = [Move(settled, command) for command in (*looks, Resume())]
        _, script = play(few_names, at(40, Pause()), *moves, watch=UNWATCHED)
        assert len(script.exhibits) == len(looks)
        return len([snapshot for snapshot in script.snapshots if snapshot.state == "paused"])

    assert told(*[Look("gain")] * 5) == told()


def test_a_finished_net_is_not_changed_unseen(few_names: Dataset) -> None:
    none, more = Set({"norm": "none"}, live=True), Set({"norm": "none", "steps": 150}, live=True)
    ran, script = play(few_names, once("finished", none), once("finished", more), once("finished", Stop()), stay=True)
    refused, applied, _ = script.outcomes
    assert refused.error == "the run is finished, so a live change would not be seen: set steps higher first"
    assert applied.error is None
    assert (ran.trainer.step, script.snapshots[-1].layers_step, ran.config.norm) == (150, 150, "none")


def test_nor_is_one_that_is_looked_at_for_the_last_time(few_names: Dataset) -> None:
    looked_at = Move(lambda session: session._last_look is not None, Set({"norm": "none"}, live=True))
    ran, script = play(few_names, looked_at)
    assert [outcome.error for outcome in script.outcomes] == [
        "the run is finished, so a live change would not be seen: set steps higher first"
    ]
    assert (ran.state, ran.config.norm, script.snapshots[-1].layers_step) == ("finished", "batch", 120)


def test_a_run_that_looks_at_its_net_for_the_last_time_obeys(
    few_names: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large net that takes minutes."""
    parts = list[int]()

    def endless(net: Watched, whole: bool) -> Iterator[None]:
        while whole:
            parts.append(net.trainer.step)
            yield

    monkeypatch.setattr(Watched, "survey", endless)
    goes_on = Move(lambda _: len(parts) >= 3, Set({"steps": 130}))
    stop = Move(lambda _: parts[-1:] == [130] and len(parts) >= 9, Stop())
    ran, script = play(few_names, goes_on, stop)
    assert [outcome.error for outcome in script.outcomes] == [None, None]
    assert (ran.state, ran.trainer.step, script.saved_at) == ("stopped", 130, [130])
    assert set(parts) == {120, 130}


def test_a_device_that_is_absent_costs_no_net(few_names: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    ran, script = play(few_names, at(40, Set({"device": "cuda"})))
    assert script.outcomes[0].error == "device=cuda: no GPU that torch can use on this machine"
    assert (ran.attempt, ran.config) == (0, SMALL)


@pytest.mark.parametrize("command", [Set({"n_hidden": 77}), Twin({"n_hidden": 77})])
def test_a_net_that_cannot_be_made_here_leaves_the_run_as_it_is(
    few_names: Dataset, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(config: Config, dataset: Dataset) -> Watched:
        if config.n_hidden == 77:
            raise RuntimeError("not enough memory\nand more")
        return Watched(config, dataset)

    monkeypatch.setattr("makemore_core.nets.Watched", no_room)
    ran, script = play(few_names, at(40, command))

    assert script.outcomes[0].error == "there can be no such net here: not enough memory"
    assert (ran.attempt, ran.config, ran.nets.twin_changes) == (0, SMALL, {})


@pytest.mark.parametrize("changes", [{"n_layer": 100}, {"batch_size": 10**6}], ids=str)
def test_what_linux_would_kill_the_program_for_is_refused(few_names: Dataset, changes: dict[str, Value]) -> None:
    ran, script = play(few_names, at(40, Set({"n_hidden": 16384, **changes})))
    what, error = "there can be no such net here", script.outcomes[0].error
    assert error is not None
    assert re.fullmatch(rf"{what}: it takes about [\d,.]+ GiB of memory, and [\d,.]+ GiB are free", error)
    assert (ran.state, ran.attempt, ran.config) == ("finished", 0, SMALL)


def test_a_twin_that_there_is_no_memory_for_beside_the_net_is_refused(
    few_names: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("makemore_core.memory.free_memory", lambda: 1.5 * bytes_of(SMALL, few_names.vocabulary))
    ran, script = play(few_names, at(40, Twin({"lr": 0.5})))
    assert str(script.outcomes[0].error).startswith("there can be no such net here: it takes about")
    assert (ran.state, ran.attempt) == ("finished", 0)


@pytest.mark.parametrize(
    ("also", "twin"), [({}, {}), ({"n_hidden": 17}, {}), ({}, {"n_hidden": 17})], ids=["live", "a new net", "a twin"]
)
def test_a_minibatch_that_does_not_fit_is_refused_and_changes_nothing(
    few_names: Dataset, monkeypatch: pytest.MonkeyPatch, also: dict[str, Value], twin: dict[str, Value]
) -> None:
    call = Model.__call__

    def fitting(net: Model, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 1000 and net.parameters()[1].shape[1] == SMALL.replace(also | twin).n_hidden:
            raise RuntimeError("can't allocate memory\nand where that was")
        return call(net, x)

    monkeypatch.setattr(Model, "__call__", fitting)
    asked, script = play(few_names, at(50, Set({"batch_size": 1_000_000} | also)), watch=UNWATCHED, twin=twin)

    assert script.outcomes[0].error == "batch_size=1000000: does not fit here: can't allocate memory"
    assert (asked.state, asked.attempt, asked.config) == ("finished", 0, SMALL)
    assert_same(weights(asked), weights(play(few_names)[0]))


def test_the_first_slice_of_larger_minibatches_is_one_of_them(
    few_names: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    slices: list[tuple[int, int]] = []
    advance = Session._advance

    def noted(session: Session, n: int, tap: bool) -> None:
        slices.append((session.config.batch_size, n))
        advance(session, n, tap)

    monkeypatch.setattr(Session, "_advance", noted)
    config = SMALL.replace({"steps": 10_000})
    play(few_names, at(1000, Set({"batch_size": 500})), at(1001, Stop()), config=config, watch=UNWATCHED)

    assert max(n for size, n in slices if size == 8) > 1
    assert next(n for size, n in slices if size == 500) == 1


def test_a_view_that_fails_does_not_hurt_the_training(few_names: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    exhibits = pytest.importorskip("makemore_core.exhibits")

    def broken(*_: object) -> Iterator[None]:
        yield from ()
        raise ZeroDivisionError("a slip")

    monkeypatch.setitem(exhibits.EXHIBITS, "broken", broken)
    ran, script = play(few_names, at(40, Look("broken")))

    assert script.outcomes[0].error == "broken: ZeroDivisionError: a slip"
    assert ran.state == "finished"


def test_a_net_that_there_is_no_room_to_copy_is_trained_on(few_names: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> None:
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr("makemore_core.making.copy_of", full)
    ran, script = play(few_names, at(40, Look("backward")))
    assert script.outcomes[0].error == "backward: RuntimeError: can't allocate memory"
    assert ran.state == "finished"


@pytest.mark.parametrize("state", ["running", "paused"])
def test_training_goes_on_while_an_exhibit_is_made(
    few_names: Dataset, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    exhibits, steps, reached = pytest.importorskip("makemore_core.exhibits"), list[int](), [0]

    def long(trainer: Trainer, _: object) -> Generator[None, None, dict[str, object]]:
        for _ in range(20):
            time.sleep(2 * session.SLICE)
            steps.append(reached[0])
            yield
        return {"step": trainer.step}

    def done(run: Session) -> bool:
        reached[0] = run.trainer.step
        return len(steps) >= 20

    monkeypatch.setitem(exhibits.EXHIBITS, "long", long)
    pause = [at(30, Pause())] if state == "paused" else []
    look = Move(lambda run: run.state == state and run.trainer.step >= 30, Look("long"))
    ran, script = play(few_names, *pause, look, Move(done, Stop()), config=SMALL.replace({"steps": 10**6}))

    (exhibit,) = script.exhibits
    assert exhibit.data == {"step": exhibit.step}
    assert ran.trainer.step == exhibit.step if state == "paused" else len(set(steps)) > 15
    assert script.outcomes[-2].error is None


def _slow(parts: int) -> Callable[[Trainer, Mapping[str, Value]], Generator[None, None, dict[str, object]]]:
    def look(trainer: Trainer, options: Mapping[str, Value]) -> Generator[None, None, dict[str, object]]:
        norm = trainer.config.norm
        for _ in range(parts):
            time.sleep(session.SLICE)
            yield
        return {"norm": norm, **options}

    return look


def test_an_exhibit_is_never_of_a_net_that_was_changed_meanwhile(
    few_names: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    exhibits = pytest.importorskip("makemore_core.exhibits")
    monkeypatch.setitem(exhibits.EXHIBITS, "slow", _slow(10))
    moves = at(30, Look("slow")), at(30, Set({"norm": "none"}, live=True)), at(30, Look("slow"))
    _, script = play(few_names, *moves, config=SMALL.replace({"norm": "batch"}))
    assert [exhibit.data for exhibit in script.exhibits] == [{"norm": "none"}]  # the run waits for it at its end


def test_two_who_ask_for_different_things_are_both_answered(
    few_names: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    exhibits = pytest.importorskip("makemore_core.exhibits")
    monkeypatch.setitem(exhibits.EXHIBITS, "slow", _slow(5))
    moves = [at(30, Look("slow", {"unit": unit})) for unit in (0, 1, 0, 1, 0, 2)]
    _, script = play(few_names, *moves)
    units = [exhibit.data["unit"] for exhibit in script.exhibits]
    assert (units[0], units[-1]) == (0, 2)
    assert len(units) < len(moves)  # of those that wait for the first, only the newest follows


def test_nothing_is_obeyed_after_a_stop(few_names: Dataset) -> None:
    channel = Channel()
    channel.send(Step(5))
    channel.send(Stop())
    channel.send(Restart())
    ran = Session(SMALL, few_names, channel)

    assert ran.run() == "stopped"
    assert (ran.attempt, ran.trainer.step) == (0, 0)


def test_a_checkpoint_that_fails_is_told_to_whoever_asked_for_it(few_names: Dataset) -> None:
    class Full(Script):
        def checkpoint(self, session: Session) -> str:
            raise ValueError("the checkpoint could not be saved: No space left on device")

    script = Full(at(30, Checkpoint()))
    Session(SMALL, few_names, Channel(), recorder=script).run()

    assert script.outcomes[0].error == "the checkpoint could not be saved: No space left on device"


@pytest.mark.parametrize("stopped", [False, True])
def test_a_finished_run_that_could_not_be_saved_waits_for_room_or_is_saved_when_stopped(
    few_names: Dataset, stopped: bool
) -> None:
    class FullAtFirst(Script):
        room = False

        def checkpoint(self, session: Session) -> str:
            if not self.room:
                raise ValueError("No space left on device")
            return super().checkpoint(session)

        def unsaved(self) -> bool:
            return not self.saved_at

        def asked(self, session: Session) -> list[Request]:
            if session.state == "finished":
                self.room = True
                if stopped:
                    return [Request(Stop(), "somebody", lambda _: None)]
                self.checkpoint(session)
            return []

    script = FullAtFirst()
    assert Session(SMALL, few_names, Channel(), recorder=script).run() == "finished"
    assert script.saved_at == [SMALL.steps]


def test_names_that_are_asked_for_are_drawn_anew_and_as_many_as_ever(few_names: Dataset) -> None:
    _, unasked = play(few_names)
    _, script = play(few_names, at(40, Sample()), at(60, Sample()))

    drawn = [snapshot.names for snapshot in script.snapshots if snapshot.names]
    assert {len(names) for names in drawn} == {len(unasked.snapshots[-1].names)}
    assert len(set(drawn)) >= 2


# Snapshots


@pytest.mark.parametrize("engine", ["plain", "fast", "manual"])
def test_the_losses_are_the_same_watched_and_unwatched(few_names: Dataset, engine: str) -> None:
    config = SMALL.replace({"engine": engine, "steps": 250, "n_layer": 1})
    a, watched_densely = play(few_names, config=config, watch=DENSE)
    b, unwatched = play(few_names, config=config, watch=UNWATCHED)

    assert len(watched_densely.snapshots) > 250 > 10 > len(unwatched.snapshots)
    assert watched_densely.losses == unwatched.losses
    assert_same(weights(a), weights(b))


@pytest.mark.parametrize("watch", [Watch(every=1), Watch(every=7), Watch(per_second=200.0), UNWATCHED])
def test_every_loss_arrives_exactly_once(few_names: Dataset, watch: Watch) -> None:
    moves = [at(20, Pause()), once("paused", Step(3)), once("paused", Resume()), at(60, Set({"lr": 0.05}))]
    _, script = play(few_names, *moves, at(80, Look("?")), watch=watch)

    assert len(script.losses) == SMALL.steps
    arrived = 0
    for snapshot in script.snapshots:
        arrived += len(snapshot.losses)
        assert arrived == snapshot.step
        assert snapshot.loss == (script.losses[arrived - 1] if arrived else None)
    assert script.snapshots[-1].first_loss == script.losses[0]


def test_losses_that_wait_for_a_look_do_not_pile_up(few_names: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot has to be small enough for a line of the record."""
    monkeypatch.setattr(session, "MOST_LOSSES", 10)
    monkeypatch.setattr(session, "LONGEST_SLICE", 4)
    _, script = play(few_names, watch=Watch(every=100))
    assert max(len(snapshot.losses) for snapshot in script.snapshots) <= 10 + 4
    assert len(script.losses) == SMALL.steps


def test_the_cadence_in_steps_is_kept(few_names: Dataset) -> None:
    _, script = play(few_names, watch=Watch(every=25))

    assert sorted({snapshot.step for snapshot in script.snapshots}) == [0, 25, 50, 75, 100, 120]
    assert all(snapshot.layers for snapshot in script.snapshots if snapshot.step)


class SlowMotion:
    """A clock that only training and looking move: an update takes 1 ms, each look its own price."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, prices: dict[str, float]) -> None:
        self.now = 1000.0
        self.prices = prices
        monkeypatch.setattr(session.time, "monotonic", lambda: self.now)
        advance, look, survey, sample = Watched.advance, Watched.look, Watched.survey, Watched.sample

        def slow_advance(net: Watched, batches: torch.Tensor, tap: bool) -> None:
            self.now += 0.001 * len(batches) + prices["tap"] * tap
            advance(net, batches, tap)

        def slow_look(net: Watched) -> None:
            self.now += prices["look"]
            look(net)

        def slow_survey(net: Watched, whole: bool) -> Iterator[None]:
            for _ in survey(net, whole):
                self.now += prices["survey"]
                yield

        def slow_sample(net: Watched, seed: int, temperature: float) -> Iterator[None]:
            self.now += prices["sample"]
            yield from sample(net, seed, temperature)

        for name, slow in {
            "advance": slow_advance, "look": slow_look, "survey": slow_survey, "sample": slow_sample
        }.items():  # fmt: skip
            monkeypatch.setattr(watched.Watched, name, slow)


@pytest.mark.parametrize("every", [1, 2, 10])
def test_the_speed_told_is_that_of_the_steps_told(
    few_names: Dataset, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    SlowMotion(monkeypatch, {"tap": 0.001, "look": 0.002, "survey": 0.0, "sample": 0.0})
    config = SMALL.replace({"steps": 2000, "n_hidden": 4, "batch_size": 2})
    _, script = play(few_names, at(1000, Stop()), config=config, watch=Watch(every=every))
    told = [seen.steps_per_second for seen in script.snapshots if seen.step >= 500 and seen.state == "running"]
    assert told[-1] == pytest.approx(every / (0.001 * every + 0.003), rel=0.15)


@pytest.mark.parametrize(("budget", "dear"), [(0.01, "look"), (0.03, "survey"), (0.03, "sample"), (0.1, "tap")])
def test_looking_keeps_to_its_budget(
    few_names: Dataset, monkeypatch: pytest.MonkeyPatch, budget: float, dear: str
) -> None:
    prices = {"tap": 0.001, "look": 0.002, "survey": 0.005, "sample": 0.01}
    prices[dear] *= 10
    SlowMotion(monkeypatch, prices)
    config = SMALL.replace({"steps": 20_000, "n_layer": 1, "n_hidden": 4, "batch_size": 2, "engine": "fast"})

    ran, script = play(few_names, at(19_000, Stop()), config=config, watch=Watch(per_second=50.0, budget=budget))

    shares = [snapshot.overhead for snapshot in script.snapshots]
    assert all(0 <= share <= 1 for share in shares)
    seconds = ran.trainer.step * 0.001
    credit = CREDIT["survey"] + CREDIT["probe"] * (dear == "look")
    assert shares[-1] * seconds <= budget * seconds + credit + sum(prices.values())
    assert shares[-1] >= 0.3 * budget  # what may be spent is spent
    assert script.snapshots[-1].splits is not None
    assert script.snapshots[-1].names


@pytest.mark.parametrize("steps", range(100, 121, 4))
def test_what_is_told_at_the_end_is_of_the_end(few_names: Dataset, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """A survey that is under way when the last update is done is of an earlier step."""
    monkeypatch.setattr(clock, "CREDIT", dict.fromkeys(clock.CREDIT, 1e9))
    monkeypatch.setattr(clock, "FIRST_LOOK", 0.0)
    monkeypatch.setattr(model, "EVALUATION_BATCH", 100)
    ran, script = play(few_names, config=SMALL.replace({"steps": steps}), watch=Watch(every=1), stay=True)
    last = script.snapshots[-1]
    assert last.splits is not None
    assert (last.splits.step, last.names_step) == (steps, steps)
    splits = (ran.trainer.split(items) for items in (few_names.train, few_names.val, few_names.test))
    losses = [model.evaluate(ran.trainer.model, split) for split in splits]
    assert [last.splits.train, last.splits.val, last.splits.test] == pytest.approx(losses)


def test_the_cadence_by_time_is_kept(few_names: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    SlowMotion(monkeypatch, {"tap": 0.0, "look": 0.0, "survey": 0.0, "sample": 0.0})
    monkeypatch.setattr(session, "SHORT", 0)
    config = SMALL.replace({"steps": 2000, "n_layer": 1, "n_hidden": 4, "engine": "fast"})  # two seconds

    _, script = play(few_names, config=config, watch=Watch(per_second=10.0))

    looked = sorted({snapshot.step for snapshot in script.snapshots})
    assert 13 <= len(looked) <= 22
    assert max(b - a for a, b in itertools.pairwise(looked)) <= 160  # and a slice of updates or two


def test_a_pace_is_kept_and_changes_nothing_else(few_names: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowMotion(monkeypatch, {"tap": 0.0, "look": 0.0, "survey": 0.0, "sample": 0.0})

    def wait(_: Channel, seconds: float) -> None:
        slow.now += seconds

    monkeypatch.setattr(Channel, "wait", wait)
    began = slow.now
    # the ten seconds at the lowest pace are given up with it
    moves = at(20, Pace(10.0)), at(40, Pace(0.1)), at(41, Pace(100.0)), at(90, Pace())
    _, script = play(few_names, *moves, watch=Watch(every=1))
    assert script.losses == Trainer(SMALL, few_names).advance(SMALL.steps)
    assert slow.now - began == pytest.approx(0.02 + 20 / 10 + 50 / 100 + (SMALL.steps - 90) * 0.001, abs=0.15)
    assert {snapshot.pace for snapshot in script.snapshots} == {None, 10.0, 0.1, 100.0}
    assert all(snapshot.steps_per_second <= (snapshot.pace or 1e9) for snapshot in script.snapshots)


def test_all_time_of_a_run_that_is_held_to_a_pace_is_accounted_for(
    few_names: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking, before the next update is due and beyond it, waits that take too long, and updates."""
    slow = SlowMotion(monkeypatch, {"tap": 0.001, "look": 0.004, "survey": 0.05, "sample": 0.03})

    def wait(_: Channel, seconds: float) -> None:
        slow.now += seconds + 0.01

    monkeypatch.setattr(Channel, "wait", wait)
    began = slow.now
    ran, _ = play(few_names, at(100, Stop()), config=SMALL.replace({"steps": 200}), watch=Watch(pace=20.0))
    assert ran._clock.elapsed == pytest.approx(slow.now - began, rel=0.05)
    assert slow.now - began > 4


def test_a_run_that_is_over_in_a_moment_is_looked_at_all_along_it(
    few_names: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    SlowMotion(monkeypatch, {"tap": 0.001, "look": 0.002, "survey": 0.001, "sample": 0.01})
    _, script = play(few_names, config=SMALL.replace({"steps": 1000}), watch=Watch())
    looks = sorted({seen.layers_step for seen in script.snapshots if seen.layers_step})
    assert max(b - a for a, b in itertools.pairwise([0, *looks, 1000])) <= 20


def test_a_run_that_is_held_to_a_pace_is_looked_at_while_it_waits(
    few_names: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "LOOK_AGAIN", 0.0)
    watch = Watch(pace=200.0, budget=1e-9)
    _, script = play(few_names, config=SMALL.replace({"steps": 200}), watch=watch)
    running = [seen for seen in script.snapshots if seen.state == "running" and seen.step > 1]
    assert len({seen.splits.step for seen in running if seen.splits}) > 1
    assert len({seen.names_step for seen in running}) > 1
    assert script.losses == Trainer(SMALL, few_names).advance(200)


def test_paused_what_is_shown_is_of_the_last_update(few_names: Dataset) -> None:
    """One that was not looked at is followed by one that is."""
    unseen = Move(lambda session: session.trainer.step not in (0, session.net.seen.layers_step), Pause())
    _, script = play(few_names, unseen, once("paused", Stop()), watch=Watch(per_second=1e-3))
    paused = next(snapshot for snapshot in script.snapshots if snapshot.state == "paused")
    assert paused.layers_step == paused.step == script.outcomes[0].step + 1


def test_after_a_live_change_no_layer_of_the_net_before_is_told(few_names: Dataset) -> None:
    change = at(20, Set({"gain": 3.0}, live=True))
    _, script = play(few_names, change, at(21, Stop()), watch=Watch(every=7))
    changed = next(seen for seen in script.snapshots if seen.config["gain"] == 3.0)
    assert (changed.layers, changed.layers_step) == ((), None)


@pytest.mark.parametrize(("lr", "of_twin"), [(1e6, 0.1), (0.1, 1e6)])
def test_of_a_run_and_its_twin_only_the_one_that_is_ruined_is_called_so(
    few_names: Dataset, lr: float, of_twin: float
) -> None:
    config = SMALL.replace({"lr": lr, "norm": "none", "nonlinearity": "identity"})
    _, script = play(few_names, config=config, twin={"lr": of_twin}, watch=Watch(every=1))
    last = script.snapshots[-1]
    assert last.twin is not None
    assert (last.state, last.twin.state) == (("diverged", "paused") if lr > 1 else ("finished", "diverged"))
    assert ("diverged" in {found.name for found in examine(last.twin).findings}) == (of_twin > 1)


@pytest.mark.parametrize("twin", [{}, {"lr": 0.5}])
def test_a_net_that_waits_is_looked_at_in_full(few_names: Dataset, twin: dict[str, Value]) -> None:
    """Its losses over the splits and its names are of the step that it waits at, and training is none the wiser."""

    def known(session: Session) -> bool:
        steps = [
            (net.seen.splits and net.seen.splits.step, net.seen.names_step, net.trainer.step) for net in session.nets
        ]
        return session.state == "paused" and all(len(set(known)) == 1 for known in steps)

    moves = at(20, Pause()), Move(known, Step(1)), Move(known, Resume())
    _, script = play(few_names, *moves, watch=Watch(every=1), twin=twin)

    waited = [seen for seen in script.snapshots if seen.state == "paused" and seen.splits and seen.names]
    told = {seen.step: (seen.splits.step, seen.names_step) for seen in waited if seen.splits}
    assert len(told) == 2
    assert all(steps == (step, step) for step, steps in told.items())
    if twin:
        last = waited[-1].twin
        assert last is not None
        assert (last.splits and last.splits.step) == last.names_step == last.step
    assert script.losses == Trainer(SMALL, few_names).advance(SMALL.steps)


def test_steps_asked_for_one_after_the_other_are_all_made(few_names: Dataset) -> None:
    channel = Channel()
    for command in (Pause(), Step(1), Step(2), Step(1)):
        channel.send(command)
    ran = Session(SMALL, few_names, channel, recorder=Script(once("paused", Stop())), watch=Watch(every=1))
    assert ran.run() == "stopped"
    assert ran.trainer.step == 5  # the pause came before the first update, which can be looked at


def test_a_pause_that_was_to_come_after_the_end_is_forgotten_there(few_names: Dataset) -> None:
    longer = Set({"steps": SMALL.steps + 40})
    end = Move(lambda session: session.trainer.step > SMALL.steps and session.state != "running", Stop())
    _, script = play(few_names, at(SMALL.steps - 2, Step(10)), once("finished", longer), end, stay=True)
    assert script.snapshots[-1].step == SMALL.steps + 40


def test_step_and_loss_are_told_where_probes_are_too_dear(few_names: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    SlowMotion(monkeypatch, {"tap": 0.0, "look": 1.0, "survey": 0.0, "sample": 0.0})
    config = SMALL.replace({"steps": 10_000, "n_layer": 1, "n_hidden": 4, "engine": "fast"})  # ten seconds

    _, script = play(few_names, config=config, watch=Watch(per_second=10.0))

    told = sorted({snapshot.step for snapshot in script.snapshots})
    assert max(b - a for a, b in itertools.pairwise(told)) <= 1200
    probed = {snapshot.layers_step for snapshot in script.snapshots if snapshot.layers}
    assert probed == {1, 10_000}


def test_that_the_last_look_takes_long_is_told(few_names: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    SlowMotion(monkeypatch, {"tap": 0.0, "look": 0.0, "survey": 5.0, "sample": 0.0})
    _, script = play(few_names, watch=Watch())
    looking = next(seen for seen in script.snapshots if seen.step == SMALL.steps)
    assert (looking.state, len(script.losses)) == ("running", SMALL.steps)


@pytest.mark.parametrize("pace", [None, 1.0])
def test_a_net_that_was_trained_slowly_is_as_dear(
    few_names: Dataset, monkeypatch: pytest.MonkeyPatch, pace: float | None
) -> None:
    class Full(Script):
        def checkpoint(self, session: Session) -> str:
            raise ValueError("the disk is full")

    slow = SlowMotion(monkeypatch, {"tap": 0.0, "look": 0.0, "survey": 0.0, "sample": 0.0})

    def wait(_: Channel, seconds: float) -> None:
        slow.now += seconds

    monkeypatch.setattr(Channel, "wait", wait)
    script = Full(at(20, Restart()), at(21, Stop()))
    ran = Session(SMALL, few_names, Channel(), recorder=script, watch=Watch(every=1, pace=pace))
    ran.run()
    refused = "this net is not left, for the disk is full"
    assert (ran.attempt, script.outcomes[0].error) == ((0, refused) if pace else (1, None))


def test_a_net_that_was_changed_live_is_not_looked_at_before_its_next_update(
    few_names: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of which there is nothing to see yet, however long it waits for it."""
    slow = SlowMotion(monkeypatch, {"tap": 0.0, "look": 0.0, "survey": 0.01, "sample": 0.0})

    def wait(_: Channel, seconds: float) -> None:
        slow.now += seconds

    monkeypatch.setattr(Channel, "wait", wait)
    surveyed = Move(lambda run: run.config.gain == 2.0 and run.net.seen.splits is not None, Stop())
    _, script = play(few_names, at(20, Set({"gain": 2.0}, live=True)), surveyed, watch=Watch(every=1, pace=1.0))
    last = script.snapshots[-1]
    assert (last.step, last.layers, last.splits and last.splits.step) == (20, (), 20)


def test_a_recorder_need_not_do_anything(few_names: Dataset) -> None:
    channel = Channel()
    assert Session(SMALL, few_names, channel, recorder=Recorder(), watch=Watch(every=1)).run() == "finished"
    assert len(channel.drain()) >= SMALL.steps


def test_a_crash_is_told_to_the_recorder_and_not_hidden(few_names: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    class Closing(Script):
        def close(self, session: Session) -> None:
            closed.append(session.state)

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a slip")

    monkeypatch.setattr(Watched, "advance", broken)
    with pytest.raises(ZeroDivisionError):
        Session(Config(), few_names, Channel(), recorder=Closing()).run()
    assert closed == ["crashed"]


def test_names_are_sampled_at_the_temperature_asked_for(few_names: Dataset) -> None:
    ran, script = play(few_names, at(40, Sample(temperature=0.25)))

    assert script.snapshots[-1].names_temperature == 0.25
    asked = ran.net.trainer
    seed = session.SAMPLING_SEED + 1
    net = asked.model, few_names, asked.config.block_size
    assert list(script.snapshots[-1].names) == list(
        sample(*net, watched.NAMES, seed, 0.25, longest=watched.LONGEST_SHOWN)
    )


def test_the_smoothed_loss_is_the_mean_at_first_and_then_of_the_latest(few_names: Dataset) -> None:
    config = SMALL.replace({"steps": 1500, "n_layer": 1, "n_hidden": 4, "lr": 0.5})
    _, script = play(few_names, config=config, watch=Watch(every=60))
    _, other = play(few_names, config=config, watch=Watch(every=49))
    assert other.snapshots[-1].smoothed_loss == script.snapshots[-1].smoothed_loss  # however many came at once
    losses: list[float] = []
    for snapshot in script.snapshots:
        losses += snapshot.losses
        if losses:
            assert snapshot.smoothed_loss == pytest.approx(sum(losses[-500:]) / len(losses[-500:]), rel=0.03)
        if 0 < len(losses) < 400:
            assert snapshot.smoothed_loss == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    assert len(losses) == 1500
    splits = script.snapshots[-1].splits
    assert splits is not None
    assert splits.minibatches == script.snapshots[-1].smoothed_loss


@pytest.mark.parametrize(
    ("state", "commands"),
    [
        ("running", (Pause(), Set({"norm": "batch"}, fresh=True))),
        ("finished", (Set({"norm": "batch"}, fresh=True), Pause())),
        ("diverged", (Set({"lr": 0.1}, fresh=True), Pause())),
    ],
)
def test_a_new_net_that_is_asked_for_paused_waits_after_its_first_update(
    few_names: Dataset, state: str, commands: tuple[Command, ...]
) -> None:
    lr = 1e6 if state == "diverged" else 0.1
    config = SMALL.replace({"lr": lr, "norm": "none", "nonlinearity": "identity"})
    session = Session(config, few_names, Channel(), stay=True)

    def asked(one: Session) -> list[Request]:
        due = commands if one.attempt == 0 and one.state == state and one.trainer.step else ()
        last = [Stop()] if one.attempt and one.state == "paused" else []
        return [Request(command, "a test", lambda _: None) for command in (*due, *last)]

    session.recorder.asked = asked  # type: ignore[method-assign]
    session.run()
    assert (session.attempt, session.trainer.step) == (1, 1)


@pytest.mark.parametrize("block_size", [3, 64])
def test_data_that_takes_more_memory_than_there_is_is_refused(
    few_names: Dataset, block_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = sum(len(name) + 1 for name in few_names.train)
    takes = 8 * examples * 2 * block_size  # of the contexts alone, each kept as it is and once more
    monkeypatch.setattr("makemore_core.memory.free_memory", lambda: takes / 2)
    trainer._prepared.cache_clear()
    monkeypatch.setattr("makemore_core.nets.find_room", lambda _: None)  # of the net
    with pytest.raises(ValueError, match="there can be no such net here: it takes about "):
        Nets.fresh(SMALL.replace({"block_size": block_size}), few_names, {})


def test_the_rate_that_is_told_is_the_one_in_force(few_names: Dataset) -> None:
    config = SMALL.replace({"lr": 0.1, "lr_decay": 0.1, "lr_decay_at": 60})
    _, script = play(few_names, config=config, watch=SPARSE)
    told = {snapshot.step: snapshot.lr for snapshot in script.snapshots}
    assert (told[40], told[80]) == (0.1, pytest.approx(0.01))


def test_a_new_net_may_be_asked_to_wait_at_its_start(few_names: Dataset) -> None:
    waits = Set({"n_hidden": 12}, fresh=True, paused=True)
    ran, script = play(few_names, at(40, waits), once("paused", Resume()))
    shown = next(snapshot for snapshot in script.snapshots if snapshot.state == "paused")
    assert (shown.attempt, shown.step, shown.layers_step) == (1, 1, 1)
    assert ran.state == "finished"
    refused = Set({"n_hidden": 16384, "n_layer": 100}, fresh=True, paused=True)
    ran, script = play(few_names, at(40, refused))
    assert (ran.state, ran.attempt) == ("finished", 0)
    assert "paused" not in {snapshot.state for snapshot in script.snapshots}


def test_what_is_free_of_a_container_is_no_more_than_its_share(tmp_path: Path) -> None:
    proc, v2, v1 = (tmp_path / name for name in ("proc", "v2", "v1/memory"))
    for folder in (proc, v2, v1):
        folder.mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:  8000 kB\nHugePages_Total:  0\n")
    assert free_memory(proc, tmp_path / "none") == 8000 * 1024
    assert free_memory(tmp_path / "none", tmp_path / "none") == math.inf
    for folder, limit, used in ((v2, "max", "current"), (v1, "limit_in_bytes", "usage_in_bytes")):
        (folder / f"memory.{limit}").write_text("5000\n")
        (folder / f"memory.{used}").write_text("3000\n")
        (folder / "memory.stat").write_text("anon 2000\ninactive_file 500\n")
    assert free_memory(proc, v2) == free_memory(proc, v1.parent) == 2500
    (v2 / "memory.max").write_text("max\n")
    assert free_memory(proc, v2) == 8000 * 1024
