"""Snapshots and exhibits as lines of strict JSON: nothing is lost on the way, and garbage is refused."""

from __future__ import annotations

import contextlib
import json
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from makemore_core.snapshot import (
    Activation,
    Exhibit,
    Gradient,
    Histogram,
    Intervention,
    Layer,
    Snapshot,
    Splits,
    Weight,
    from_json,
    to_json,
)
from tests.commands import strict

NAN, INF = math.nan, math.inf
LINE = {"type": "snapshot", "run": "r", "state": "running", "step": 3, "steps": 9, "time": 1.5}


def same(a: object, b: object) -> bool:
    """Equal, where NaN equals NaN, and 0.0 is not 0."""
    return repr(a) == repr(b)


def snapshot(**changes: object) -> Snapshot:
    return msgspec.structs.replace(Snapshot(run="r", state="running", step=3, steps=9, time=1.5), **changes)


NUMBERS = st.floats(width=64)
COUNTS = st.integers(0, 2**53)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
HISTOGRAMS = st.builds(Histogram, NUMBERS, NUMBERS, st.lists(COUNTS, max_size=5).map(tuple))
LAYERS = st.builds(
    Layer,
    COUNTS,
    WORDS,
    st.builds(Activation, NUMBERS, NUMBERS, NUMBERS, COUNTS, st.none() | COUNTS, HISTOGRAMS),
    st.builds(Gradient, NUMBERS, NUMBERS, HISTOGRAMS),
)
WEIGHTS = st.builds(
    Weight,
    WORDS,
    st.lists(COUNTS, max_size=3).map(tuple),
    st.none() | COUNTS,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    NUMBERS,
)
SNAPSHOTS = st.deferred(
    lambda: st.builds(
        Snapshot,
        run=WORDS,
        state=st.sampled_from(["running", "paused", "finished", "stopped", "crashed", "diverged", "unresponsive"]),
        step=COUNTS,
        steps=COUNTS,
        time=NUMBERS,
        loss=st.none() | NUMBERS,
        losses=st.lists(NUMBERS, max_size=6).map(tuple),
        config=st.dictionaries(WORDS, st.integers(-(2**63), 2**63 - 1) | st.booleans() | WORDS, max_size=3),
        overhead=NUMBERS,
        splits=st.none() | st.builds(Splits, st.none() | NUMBERS, st.none() | NUMBERS, st.none() | NUMBERS, COUNTS),
        layers=st.lists(LAYERS, max_size=2).map(tuple),
        weights=st.lists(WEIGHTS, max_size=2).map(tuple),
        names=st.lists(WORDS, max_size=3).map(tuple),
        interventions=st.lists(st.builds(Intervention, COUNTS, WORDS, COUNTS), max_size=2).map(tuple),
        message=WORDS,
        twin=st.none() | SNAPSHOTS,
    )
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@given(SNAPSHOTS)
def test_every_snapshot_comes_back_as_it_was(event: Snapshot) -> None:
    line = to_json(event)
    assert b"\n" not in line
    strict(line)
    assert same(from_json(line), event)


@given(st.builds(Exhibit, WORDS, COUNTS, st.dictionaries(WORDS, JSON, max_size=4)))
def test_every_exhibit_comes_back_as_it_was(event: Exhibit) -> None:
    line = to_json(event)
    strict(line)
    assert same(from_json(line), event)


def test_a_number_that_is_not_finite_is_null_with_its_kind_beside_it() -> None:
    told = strict(to_json(snapshot(loss=NAN, overhead=-INF, losses=(1.0, INF, 2.0, NAN))))
    assert isinstance(told, dict)
    assert (told["loss"], told["loss_kind"]) == (None, "nan")
    assert (told["overhead"], told["overhead_kind"]) == (None, "-inf")
    assert (told["losses"], told["losses_kind"]) == ([1.0, None, 2.0, None], {"1": "inf", "3": "nan"})
    assert "time_kind" not in told


def test_kinds_reach_into_lists_of_lists() -> None:
    event = Exhibit("map", 1, {"rows": [[1.0, NAN], [], [INF]], "empty": []})
    told = strict(to_json(event))
    assert isinstance(told, dict)
    assert told["data"] == {
        "rows": [[1.0, None], [], [None]],
        "rows_kind": {"0": {"1": "nan"}, "2": {"0": "inf"}},
        "empty": [],
    }
    assert same(from_json(to_json(event)), event)


def test_a_key_that_only_looks_like_a_kind_is_kept() -> None:
    event = Exhibit("brick", 1, {"layer": "Tanh", "layer_kind": "nonlinearity", "none": None, "none_kind": "unknown"})
    assert from_json(to_json(event)) == event


@pytest.mark.parametrize("dead", [None, 0, 3])
def test_numbers_that_were_not_taken_are_null_without_a_kind(dead: int | None) -> None:
    histogram = Histogram(-1.0, 1.0, (1, 2))
    layer = Layer(2, "Tanh", Activation(0.0, 0.6, 0.1, 100, dead, histogram), Gradient(0.0, 1.0, histogram))
    line = to_json(snapshot(layers=(layer,)))
    assert b"_kind" not in line
    assert from_json(line) == snapshot(layers=(layer,))


def test_unknown_keys_are_ignored_for_the_sake_of_newer_writers() -> None:
    line = json.dumps(LINE | {"colour": "red", "colour_kind": "nan", "loss": None, "loss_kind": "inf"}).encode()
    assert from_json(line) == snapshot(loss=INF)


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{", b"null", b"3", b"[]", b"{}", b'"snapshot"', b"\xff\xfe", b'{"type":"snapshot"}', b"nan", b"\x00",
        json.dumps(LINE | {"type": "bomb"}).encode(), json.dumps(LINE | {"step": "3"}).encode(),
        json.dumps(LINE | {"step": 2.5}).encode(), json.dumps(LINE | {"state": "asleep"}).encode(),
        json.dumps(LINE | {"layers": [1]}).encode(), json.dumps(LINE | {"losses": None}).encode(),
        json.dumps(LINE | {"time": None, "time_kind": "huge"}).encode(), b"[" * 100_000, b'{"twin":' * 100_000,
        json.dumps(LINE).encode()[:-1], json.dumps(LINE).encode() * 2, json.dumps(LINE | {"run": "\ud800"}).encode(),
        b'{"type":"snapshot","run":"\xff","a_kind":1}',
    ],
)  # fmt: skip
def test_what_is_no_snapshot_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"^not a snapshot: "):
        from_json(line)


@given(st.binary() | st.builds(lambda raw: msgspec.json.encode(raw), JSON))
def test_garbage_raises_nothing_but_value_errors(line: bytes) -> None:
    with pytest.raises(ValueError, match="not a snapshot"):
        from_json(line)


KEYS = st.sampled_from(
    ["step", "losses", "losses_kind", "loss", "loss_kind", "layers", "twin", "config", "names", "type"]
)


@given(st.dictionaries(KEYS, JSON), st.data())
def test_a_damaged_snapshot_is_refused_or_a_snapshot(damage: dict[str, object], data: st.DataObject) -> None:
    line = msgspec.json.encode(LINE | damage)
    at = data.draw(st.integers(0, len(line) - 1))
    for broken in (line, line[:at], line[:at] + data.draw(st.binary(max_size=3)) + line[at + 1 :]):
        with contextlib.suppress(ValueError):
            event = from_json(broken)
            assert same(from_json(to_json(event)), event)
