"""Commands as data: read from a line, checked, said in words; and the channel between two threads."""

from __future__ import annotations

import threading

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from makemore_core.command import (
    MOST_WAITING,
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
    command_from_json,
    in_words,
)
from makemore_core.config import Config
from makemore_core.presets import settings_of
from makemore_core.snapshot import Snapshot

COMMANDS: list[Command] = [
    Pause(), Resume(), Step(), Step(100), Pace(), Pace(12.5), Set({"lr": 0.05}),
    Set({"norm": "none", "gain": 1.0}, live=True), Set({"lr": 0.1}, fresh=True), Restart(),
    Sample(1.5), Checkpoint(), Look("dead map", {"layer": 2}), Stop(),
]  # fmt: skip


def snapshot(step: int) -> Snapshot:
    return Snapshot(run="r", state="running", step=step, steps=9, time=0.0)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_every_command_comes_back_as_it_was(command: Command) -> None:
    assert command_from_json(msgspec.json.encode(command)) == command


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"", "not a command: "), (b"pause", "not a command: "), (b"[]", "not a command: "), (b"{}", "not a command: "),
        (b'{"type":"explode"}', "not a command: "), (b'{"type":"step","n":"3"}', "not a command: "),
        (b'{"type":"set"}', "not a command: "), (b'{"type":"set","changes":{"lr":null}}', "not a command: "),
        (b'{"type":"look"}', "not a command: "), (b'{"type":"look","name":"\xff"}', "not a command: "),
        (b"[" * 100_000, "not a command: "), (b'{"type":"pause"}{"type":"pause"}', "not a command: "),
        (b'{"type":"step","n":0}', "n=0: has to be at least 1 and at most 1,000,000"),
        (b'{"type":"pace","per_second":0}', "pace 0: has to be at least 0.1 and at most 1,000,000 steps a second"),
        (b'{"type":"step","n":1000001}', "n=1000001: has to be at least 1 and at most 1,000,000"),
        (b'{"type":"set","changes":{"lr":-1}}', "lr=-1: has to be a number above 0 and at most 1e+06"),
        (b'{"type":"set","changes":{"bias":"\\u001b["}}', r"bias=\x1b[: has to be auto, on, off"),
        (b'{"type":"set","changes":{"lrr":1}}', "lrr: no such setting; did you mean lr?"),
    ],
)  # fmt: skip
def test_what_is_no_command_is_refused_in_a_sentence(line: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=r"^\w") as caught:
        command_from_json(line)
    assert str(caught.value).startswith(message)
    assert str(caught.value).isprintable()


def test_an_experiment_is_said_by_its_name() -> None:
    before = Config(steps=50, seed=7).as_dict()
    assert in_words(Set({"lr": 0.2, "norm": "none"}, fresh=True), before) == "lr 0.1 → 0.2, norm batch → none"
    changes = {key: value for key, value in settings_of("mlp-original").items() if before[key] != value}
    assert in_words(Set(changes, fresh=True), before) == "mlp-original"
    assert in_words(Set(changes), before).startswith("n_layer 5 → 1, ")


def test_a_change_is_not_measured_by_the_defaults() -> None:
    """16 groups do not divide the default's 100 units, but those of the run that is asked may be 64."""
    line = b'{"type":"set","changes":{"norm":"group","norm_groups":16}}'
    assert command_from_json(line) == Set({"norm": "group", "norm_groups": 16})


WORDS = st.sampled_from(["type", "set", "step", "n", "changes", "lr", "gain", "look", "name", "options", "live"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | WORDS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=8,
)


@given(
    st.binary() | JSON.map(msgspec.json.encode) | JSON.map(lambda x: msgspec.json.encode({"type": "set", "changes": x}))
)
def test_garbage_is_a_command_or_a_value_error(line: bytes) -> None:
    try:
        command = command_from_json(line)
    except ValueError:
        return
    assert command_from_json(msgspec.json.encode(command)) == command


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (Set({"lr": 0.05}), "lr 0.1 → 0.05"),
        (Set({"norm": "none", "residual": True}), "norm batch → none, residual off → on"),
        (Set({"gain": "auto"}), "gain 1 → auto"),
        (Restart(), "restart"),
        (Pause(), "pause"),
    ],
)
def test_the_words_of_a_mark(command: Command, words: str) -> None:
    assert in_words(command, Config().as_dict()) == words


def test_a_change_without_a_before_says_what_is_set() -> None:
    assert in_words(Set({"lr": 0.05})) == "lr 0.05"


def test_a_channel_hands_over_in_order_and_once() -> None:
    channel = Channel()
    for step in range(3):
        channel.publish(snapshot(step))
    channel.send(Pause())
    channel.send(Resume())
    assert channel.drain() == [snapshot(0), snapshot(1), snapshot(2)]
    assert channel.drain() == []
    assert channel.commands() == [Pause(), Resume()]
    assert channel.commands() == []


def test_a_channel_that_nobody_reads_keeps_the_newest() -> None:
    channel = Channel()
    for step in range(MOST_WAITING + 10):
        channel.publish(snapshot(step))
    assert [event.step for event in channel.drain()] == list(range(10, MOST_WAITING + 10))


def test_a_wait_ends_when_somebody_asks() -> None:
    channel = Channel()
    asked: list[Command] = []

    def trainer() -> None:
        while not asked:
            channel.wait(60)
            asked.extend(channel.commands())

    thread = threading.Thread(target=trainer, daemon=True)
    thread.start()
    channel.send(Stop())
    thread.join(10)
    assert asked == [Stop()]


def test_what_was_asked_before_a_wait_is_not_slept_over() -> None:
    channel = Channel()
    assert channel.commands() == []
    channel.send(Pause())  # between the look and the wait
    channel.wait(60)
    assert channel.commands() == [Pause()]
