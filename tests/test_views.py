"""Every screen as a pure function of canned snapshots: exact in size, harmless, honest about what is hidden."""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain

import msgspec
import pytest
from msgspec import structs
from rich.color import Color

from app.glyphs import ASCII, UNICODE
from app.history import Attempt, Beside, History
from app.keys import FIRST, IDLE, KEYS, footer
from app.panel import LOOKS, Palette, changed, colour, look, sgr
from app.traces import WeightTrace
from app.views import SCREENS, draw
from app.views.curve import (
    LINES,
    Axis,
    Frame,
    _ticks,
    curves,
    framed,
    legend,
    line,
    loss_axis,
    loss_curve,
    tick_texts,
    updates_over_steps,
)
from app.views.dashboard import side_column, stds_over_steps
from app.views.gradients import over_steps
from app.views.layer import _bars, _over_steps
from app.views.lines import Line, cells_of, cut
from app.views.state import View, rows, update_sick, window
from app.views.table import header, layout, per_column, spark, table
from makemore_core.config import Config, Value
from makemore_core.presets import PRESETS
from makemore_core.snapshot import Event, Histogram, Intervention, Snapshot, Splits, Weight
from tests import canned
from tests.canned import text_of

DRAWN = {"faint", "band", "guide", "progress"}  # styles of what has no letters
SIZES = ((80, 24), (160, 48), (40, 12), (220, 60), (20, 5), (3, 2))


def view(snapshots: Sequence[Event], **state: object) -> View:
    history = History()
    history.feed(snapshots)
    return View(history, **state)  # type: ignore[arg-type]


def hostile(step: int = 1000) -> Snapshot:
    """Everything that comes from data or from another process, as bad as it can be."""
    bad = "\x1b]0;owned\x07\x1b[2J\u202e[/x]日本語"
    plain = canned.snapshot(step=step)
    return canned.snapshot(
        step=step, run=bad, preset=bad, device=bad, engine=bad, message=bad, names=(*canned.HOSTILE, bad), names_step=1,
        layers=tuple(replace_kind(layer, bad) for layer in plain.layers),
        weights=tuple(msgspec_replace(weight, name=bad + weight.name) for weight in plain.weights),
        interventions=(Intervention(10, bad),), config={**plain.config, "gain": bad, "norm": bad, "optimizer": bad},
    )  # fmt: skip


def msgspec_replace(struct: object, **changes: object) -> object:
    import msgspec

    return msgspec.structs.replace(struct, **changes)  # type: ignore[type-var]


def replace_kind(layer: object, kind: str) -> object:
    return msgspec_replace(layer, kind=kind)


FOUND = structs.replace(canned.FOUND, evidence="0.63 → 0.32 [/x]\x1b")
NETS: dict[str, Callable[[], Sequence[Event]]] = {
    "nothing": list,
    "empty": lambda: [canned.empty()],
    "healthy": lambda: canned.course(until=3000),
    "sick": lambda: canned.course(canned.SICK, until=3000),
    "nan": lambda: [*canned.course(until=2000), canned.nan(2100)],
    "nan-first": lambda: [canned.nan(5)],
    "one-layer": lambda: canned.course(canned.ONE_LAYER, until=3000),
    "hundred-layers": lambda: canned.course(canned.HUNDRED, until=1000),
    "relu": lambda: canned.course(canned.RELU, until=3000),
    "hostile": lambda: [hostile()],
    "restarted": lambda: [
        *canned.course(until=3000),
        canned.snapshot(canned.SICK, 500, since=0, attempt=1, interventions=(Intervention(0, "gain 1 → 3", 1),)),
    ],
    "no-steps": lambda: [canned.snapshot(steps=0, config={}, expected_loss=None, splits=None, preset=None, params=0)],
}


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("screen", [screen.name for screen in SCREENS])
def test_every_screen_shows_every_net_at_every_size(net: str, screen: str) -> None:
    state = view(NETS[net](), screen=screen, findings=(FOUND,), cursor=2)
    for glyphs in (UNICODE, ASCII):
        for cells, lines in SIZES if screen == "dashboard" else (*SIZES[::2], SIZES[-1]):
            picture = draw(replace(state, glyphs=glyphs), cells, lines)
            assert len(picture) == lines
            assert {cells_of(line) for line in picture} <= {cells}
            text = "".join(text_of(picture))
            assert not [char for char in text if unicodedata.category(char)[0] == "C"]
            assert glyphs is UNICODE or text.isascii(), [char for char in text if not char.isascii()]
            assert {style for line in picture for part in line for style in part[1].split("/")} <= set(LOOKS)
            assert not any(
                char.isalnum() for line in picture for text, style in line if style in DRAWN for char in text
            )


def test_the_dashboard_at_80_by_24_is_this() -> None:
    state = view(canned.course(until=20_000), findings=())
    picture = text_of(draw(state, 80, 24))
    assert picture[0] == "canned  deep-batchnorm  BN ×1  step 20,000/200,000  4,980/s  eta 0:36   training"
    assert picture[1] == "━──────────  loss 2.227  val 2.218 at 20k    ln V 3.296  lr 0.1  probes 1.1%"
    head = "act −1..1 mean std sat. gr ±0.006 std g:d upd:data now"
    assert picture[2].split() == ["layer", *head.split()]
    assert picture[3].split()[:3] == ["▸", "C", "27×10"]
    assert picture[4].split()[:2] == ["2", "Tanh"]
    assert picture[4].split()[3:6] == ["+0.00", "0.58", "1.4%"]
    assert picture[10].startswith("─ loss range, mean, ● val ──")
    assert "names at step 20,000" in picture[10]
    assert picture[23] == "space pause  b BatchNorm  g/G gain  -/+ lr  e explain  n names  ? help  q quit"


def test_what_differs_from_the_preset_is_told_beside_its_name() -> None:
    course = canned.course(until=2000)
    config = {**course[-1].config, "gain": 0.5, "norm": "none", "seed": 5}
    course[-1] = msgspec.structs.replace(course[-1], config=config)
    assert "  deep-batchnorm  no norm, gain 0.5  cpu plain" in text_of(draw(view(course), 160, 48))[0]
    course[-1] = msgspec.structs.replace(course[-1], run="deep-batchnorm-3")
    assert text_of(draw(view(course), 80, 24))[0].startswith("deep-batchnorm-3*  no BN ×0.5  step 2,000/200,000 ")
    for run, cells, told in (
        ("deep-batchnorm-3", 72, "deep-batchnorm-3*  step"),
        ("mine", 80, "mine*  no norm, gain 0.5  step"),
        ("mine", 68, "mine*  no BN ×0.5  step"),
        ("mine", 62, "mine*  step"),
    ):
        course[-1] = msgspec.structs.replace(course[-1], run=run)
        assert text_of(draw(view(course), cells, 24))[0].startswith(told)


def test_a_run_that_became_another_experiment_keeps_its_name_and_says_so() -> None:
    course = canned.course(until=2000)
    config = PRESETS["deep-tanh-gain1"].config().as_dict()
    course[-1] = msgspec.structs.replace(course[-1], run="deep-tanh-1", preset="deep-tanh", config=config, pace=1.0)
    assert text_of(draw(view(course), 80, 24))[0].startswith("deep-tanh-1*  no BN ×1  step")
    assert text_of(draw(view(course), 100, 24))[0].startswith("deep-tanh-1  deep-tanh-gain1  ")
    config = PRESETS["fifty-layers-residual"].config().as_dict()
    course[-1] = msgspec.structs.replace(course[-1], run="deep-batchnorm-1", preset="deep-batchnorm", config=config)
    course[-1] = msgspec.structs.replace(course[-1], pace=None)
    assert text_of(draw(view(course), 80, 24))[0].startswith(
        "fifty-layers-residual*  BN ×1  step"
    )  # more than the name


@pytest.mark.parametrize(("run", "cells", "told"), [
    ("mine", 80, "mine  deep-batchnorm  BN ×1  step"),
    ("deep-batchnorm-2", 80, "deep-batchnorm-2  BN gain 1  step"),
    ("a-name-as-long-as-this", 80, "a-name-as-long-as-this  BN ×1  step"), ("実験その一" * 5, 80, "実験その一実験その"),
    ("mine", 44, "mine 2,000 loss"),
])  # fmt: skip
def test_two_runs_can_be_told_apart_in_a_narrow_terminal(run: str, cells: int, told: str) -> None:
    course = canned.course(until=2000)
    course[-1] = msgspec.structs.replace(course[-1], run=run)
    first = text_of(draw(view(course), cells, 24 if cells == 80 else 12))[0]
    assert first.startswith(told)
    assert first.endswith("training")


def test_a_run_goes_by_the_preset_that_its_settings_are() -> None:
    course = canned.course(until=2000)
    for name in ("mlp-original", "deep-tanh-gain3"):
        config = {**course[-1].config, **PRESETS[name].config().replace({"steps": 7, "seed": 5}).as_dict()}
        course[-1] = msgspec.structs.replace(course[-1], config=config)
        assert text_of(draw(view(course), 80, 24))[0].startswith(f"canned  {name}  step")


def test_a_twin_is_named_by_what_differs_now() -> None:
    mine = canned.snapshot(config=Config(norm="batch").as_dict())
    for norm, told in (("none", "twin norm none"), ("batch", "twin, same as this run")):
        twin = canned.snapshot(run="twin norm none", config=Config(norm=norm).as_dict())  # type: ignore[arg-type]
        shown = replace(view([msgspec.structs.replace(mine, twin=twin)]), screen="twin")
        assert f"─ {told} " in "\n".join(text_of(draw(shown, 160, 40)))


def test_a_twin_is_told_of_on_every_screen() -> None:
    course = canned.course(until=2000)
    course[-1] = msgspec.structs.replace(course[-1], twin=msgspec.structs.replace(course[-1], smoothed_loss=2.5))
    assert "  loss 2.710  twin 2.500  val 2.642 at 2k     ln V 3.296" in text_of(draw(view(course), 80, 24))[1]


def test_a_pause_shows_losses_of_the_minibatch_each_once() -> None:
    course = canned.course(until=2000)
    twin = msgspec.structs.replace(course[-1], loss=2.31194, smoothed_loss=2.5)
    course[-1] = msgspec.structs.replace(course[-1], state="paused", loss=2.52251, twin=twin)
    shown = text_of(draw(view(course), 200, 48))[1]
    assert "  loss 2.710  twin 2.500  " in shown
    assert shown.endswith("batch 2.5225, 2.3119")
    assert shown.count("batch") == 1


@pytest.mark.parametrize(("changes", "told"), [
    ({}, "  BatchNorm, gain 1  "),
    ({"norm": "none", "gain": "auto"}, "  no norm, gain 5/3  cpu"),
    ({"fan_in": "off"}, "  BatchNorm, gain 1, fan-in off  "),
    ({"gain": 5 / 3, "n_layer": 3, "lr": 0.2}, "  BatchNorm, gain 5/3  n_layer 3  cpu"),
])  # fmt: skip
def test_the_header_always_tells_norm_gain_and_fan_in(changes: dict[str, Value], told: str) -> None:
    course = canned.course(until=2000)
    course[-1] = msgspec.structs.replace(course[-1], config={**course[-1].config, **changes})
    assert told in text_of(draw(view(course), 160, 48))[0]


def test_a_key_that_leads_back_says_so_and_one_that_changes_the_net_does_not() -> None:
    shown = view(canned.course(until=2000))
    footers = {name: text_of(draw(replace(shown, screen=name), 160, 48))[-1] for name in ("explain", "doctor", "gain")}
    assert "e back" in footers["explain"]
    assert "D back" in footers["doctor"]
    assert "g/G gain" in footers["gain"]


def test_the_first_loss_is_told_as_that_of_the_net_before_its_first_update() -> None:
    first = msgspec.structs.replace(canned.course(until=1)[-1], loss=24.71604, smoothed_loss=24.71604, step=1)
    for state in ("paused", "running"):
        told = text_of(draw(view([msgspec.structs.replace(first, state=state)]), 80, 24))[1]  # type: ignore[arg-type]
        assert "first loss !24.7160  " in told
        assert "batch" not in told


@pytest.mark.parametrize("lines", [24, 12])
def test_a_wide_header_tells_the_losses_over_the_splits_in_one_line_too(lines: int) -> None:
    course = canned.course(until=2000)
    course[-1] = structs.replace(course[-1], splits=Splits(2.01, 2.22, None, 2000))
    shown = text_of(draw(view(course), 240, lines))
    assert "  train 2.010  val 2.220 at 2k  " in shown[lines > 17]
    assert shown[0].endswith(" training")


@pytest.mark.parametrize("cells", [80, 120, 160])
def test_a_pause_moves_nothing_of_what_goes_on_being_told(cells: int) -> None:
    course = canned.course(until=20_000)
    course[-1] = msgspec.structs.replace(course[-1], run="deep-batchnorm-2")
    running = text_of(draw(view(course), cells, 24))
    course[-1] = msgspec.structs.replace(course[-1], state="paused")
    paused = text_of(draw(view(course), cells, 24))
    assert running[0].index("step") == paused[0].index("step")
    for told in ("━", "─ ", " val ", "ln V", " lr ")[: None if cells > 100 else -1]:
        assert running[1].index(told) == paused[1].index(told)


def test_the_progress_bar_has_its_share_of_the_width_whatever_is_told_beside_it() -> None:
    course = canned.course(until=2000)
    for loss in (2.1, 712.123):
        course[-1] = msgspec.structs.replace(course[-1], smoothed_loss=loss)
        assert text_of(draw(view(course), 160, 48))[1].index("  loss") == 22


@pytest.mark.parametrize(("loss", "told"), [(712.123, "!712.123"), (math.nan, "!nan"), (3.4, "3.400")])
def test_a_loss_is_sick_where_it_is_no_number_or_clearly_above_the_uniform_guess(loss: float, told: str) -> None:
    course = canned.course(until=2000)
    course[-1] = msgspec.structs.replace(course[-1], smoothed_loss=loss)
    for cells, lines in ((160, 48), (40, 12)):
        assert (told, "sick" if "!" in told else "loss") in chain(*draw(view(course), cells, lines)[:2])


def test_a_sick_value_has_a_sign_beside_its_colour() -> None:
    state = view(canned.course(canned.SICK, until=3000))
    found = [line for line in text_of(draw(state, 80, 24)) if " Tanh " in line]
    assert len(found) == 5
    assert all("!" in line for line in found)
    full = text_of(table(view([saturated(event) for event in canned.course(canned.SICK, until=3000)]), 80, 24))
    assert sum("  0.84 !100% █" in line for line in full) == 2  # it touches the number that it belongs to, and no other
    healthy = view(canned.course(until=20_000))
    assert not any("!" in line for line in text_of(draw(healthy, 80, 24)))


@pytest.mark.parametrize(("value", "sick"), [(-4.1, True), (-3.9, False), (-1.8, False), (-1.7, True)])
def test_updates_are_signed_where_the_doctor_finds_them_too_large_or_small(value: float, sick: bool) -> None:
    weight = structs.replace(canned.snapshot().weights[1], layer=1)
    assert update_sick(value, weight, 100) == sick
    assert not update_sick(value, weight, 99)  # the doctor judges none so early
    assert update_sick(math.nan, weight, 1)


@pytest.mark.parametrize(("value", "sick"), [(-4.1, True), (-0.6, False), (-0.5, True)])
def test_the_last_layer_may_move_faster(value: float, sick: bool) -> None:
    output = canned.snapshot().weights[-1]
    assert update_sick(value, output, 100) == sick


def course(*looks: tuple[int, float]) -> WeightTrace:
    """A weight's course from its update:data at steps."""
    weight = canned.snapshot().weights[1]
    trace = WeightTrace.of(weight)
    for step, value in looks:
        trace.see(structs.replace(weight, update_data_log10=value), step, 1.0, True)
    return trace


def test_dead_units_have_a_column_once_there_is_one() -> None:
    snapshot = canned.snapshot(step=3000)
    layers = tuple(
        structs.replace(layer, activation=structs.replace(layer.activation, dead=dead))
        for layer, dead in zip(snapshot.layers, (None, 7, 0, 0, 0), strict=True)
    )
    head, *lines = text_of(table(view([structs.replace(snapshot, layers=layers)]), 160, 12))
    at = head.index("dead") + len("dead")
    assert [line[:at].split()[-1] for line in lines if " Tanh " in line] == ["?", "!7", "0", "0", "0"]
    assert "dead" not in text_of(table(view([snapshot]), 160, 12))[0]


@pytest.mark.parametrize("gone", [0.0, math.nan])
def test_a_gradient_is_compared_with_those_of_the_layers_that_have_one(gone: float) -> None:
    snapshot = canned.snapshot(step=3000)
    layers = tuple(
        structs.replace(layer, gradient=structs.replace(layer.gradient, std=gone if at else layer.gradient.std))
        for at, layer in enumerate(snapshot.layers)
    )
    lines = text_of(table(view([structs.replace(snapshot, layers=layers)]), 160, 12))
    assert ["!" in line for line in lines if " Tanh " in line] == [False, True, True, True, True]


def test_the_first_updates_are_not_judged_however_many_steps_a_column_has() -> None:
    for size in (50, 100, 200):
        (line,) = spark(course(*((step, -4.5) for step in range(1, 401, 50))), size, 8, 1, UNICODE)
        assert (line[0], line[1][1]) == (("▁" * max(1, 100 // size), "update"), "sick")


def test_a_weight_that_does_not_move_has_a_sick_bar_at_the_floor_and_one_that_is_no_number_none() -> None:
    looks = [(step, -2.0 if step < 200 else -math.inf) for step in range(1, 800, 100)]
    assert spark(course(*looks), 100, 10, 1, UNICODE)[0] == (("▆▆", "update"), ("▁" * 6, "sick"), ("──", "guide"))
    gone = course((1, -2.0), (101, math.nan), (201, math.nan))
    assert spark(gone, 100, 4, 1, UNICODE)[0] == (("▆", "update"), ("───", "guide"))


def test_saturation_is_judged_by_how_the_layer_began() -> None:
    trained = [canned.snapshot(canned.HEALTHY, 1, since=0), *canned.course(canned.SICK, until=3000)[1:]]
    for snapshots, sick in ((canned.course(canned.SICK, until=3000), 5), (trained, 0)):
        found = [line for line in text_of(draw(view(snapshots), 80, 24)) if " Tanh " in line]
        assert sum(" !4" in line or " !5" in line for line in found) == sick


def test_shrinking_activations_are_signed_from_where_the_doctor_calls_it_so() -> None:
    state = view(canned.course(canned.SHRINKING, until=3000))
    signed = [" !0." in line for line in text_of(draw(state, 80, 24)) if " Tanh " in line]
    assert signed == [False, False, False, True, True]  # 0.6 of the first, where they began so
    state = view([canned.snapshot(step=1), *canned.course(canned.SHRINKING, until=3000)[1:]])
    signed = [" !0." in line for line in text_of(draw(state, 80, 24)) if " Tanh " in line]
    assert signed == [False] * 5  # training moves spreads by itself: later 0.35


def test_what_is_no_number_is_a_word() -> None:
    picture = "\n".join(text_of(draw(view([*canned.course(until=2000), canned.nan(2100)]), 80, 24)))
    assert "diverged" in picture
    assert "loss !nan" in picture
    assert " !nan" in picture
    assert "not finite from step 2,050" in picture


def test_hidden_layers_are_counted_and_the_sick_among_them() -> None:
    state = view([canned.snapshot(canned.HUNDRED)])
    ill = []
    for cursor in (0, 1, 7, 50, 95, 101):
        picture = text_of(draw(replace(state, cursor=cursor), 80, 24))
        head = next(at for at, line in enumerate(picture) if line.lstrip().startswith("layer"))
        rule = next(at for at, line in enumerate(picture) if line.startswith("─ loss"))
        hidden = [line.split() for line in picture[head:rule] if " more " in line]
        shown = [line for line in picture[head + 1 : rule] if " more " not in line]
        assert sum(int(words[1]) for words in hidden) + len(shown) == 102
        assert any(line.startswith("▸") for line in picture)
        ill.append(sum(int(words[4]) for words in hidden if words[-1] == "!") + sum("!" in line for line in shown))
    assert set(ill) == {max(ill)} != {0}


@pytest.mark.parametrize("trouble", ["dead units", "large updates", "small updates", "saturation"])
def test_a_row_is_counted_among_the_sick_that_are_hidden_whatever_its_trouble_is(trouble: str) -> None:
    """One that is not sick in any other way."""
    (healthy,) = (event for event in canned.course(canned.HUNDRED, until=1000) if event.step == 1000)
    layers, weights = [*quiet(healthy).layers], [*quiet(healthy).weights]
    activation = layers[50].activation
    if trouble == "dead units":
        layers[50] = structs.replace(layers[50], activation=structs.replace(activation, dead=3))
    elif trouble == "saturation":
        layers[50] = structs.replace(layers[50], activation=structs.replace(activation, saturated=0.9))
    else:
        value = -1.0 if trouble == "large updates" else -6.0
        weights[50] = structs.replace(weights[50], update_data_log10=value)
    for ill in (False, True):
        shown = structs.replace(quiet(healthy), **({"layers": tuple(layers), "weights": tuple(weights)} if ill else {}))
        (hidden,) = (line for line in text_of(table(view([shown]), 160, 8)) if " more below" in line)
        assert hidden.endswith("more below" + ", 1 of them !" * ill)


@pytest.mark.parametrize(("count", "height"), [(102, 10), (5, 5), (6, 5), (7, 5), (3, 1), (1, 1), (50, 2)])
def test_the_window_always_holds_the_cursor(count: int, height: int) -> None:
    for cursor in range(count):
        first, last = window(count, cursor, height)
        assert 0 <= first <= cursor < last <= count
        if height > 2:
            assert last - first + (first > 0) + (last < count) == min(count, height)
            assert 1 not in (first, count - last)  # its own line would take no less


def test_no_room_at_all_for_no_rows_at_all() -> None:
    first = msgspec_replace(canned.snapshot(), layers=(), weights=())
    state = view([msgspec_replace(first, twin=first)], screen="twin")
    assert len(draw(state, 80, 1)) == 1


@pytest.mark.parametrize("filtered", ["", "tanh"])
def test_the_row_marked_is_the_one_that_enter_enlarges(filtered: str) -> None:
    state = view(canned.course(until=1000), filter=filtered)
    for at, row in enumerate(rows(state)):
        for screen, name in (("gradients", row.name), ("weights", row.weight.weight.name if row.weight else "")):
            shown = text_of(draw(replace(state, screen=screen, cursor=at), 80, 24))
            (marked,) = (line for line in shown if line.startswith("▸"))
            assert marked[1:].split("  ")[0].strip().startswith(name)


def test_a_filter_says_how_many_it_lets_through() -> None:
    state = view(canned.course(until=1000), filter="tanh")
    assert len(rows(state)) == 5
    assert any("5 of 7 rows have 'tanh'" in line for line in text_of(draw(state, 80, 24)))
    nothing = view(canned.course(until=1000), filter="zzz")
    assert any("0 of 7 rows" in line for line in text_of(draw(nothing, 80, 24)))


def test_marks_ghosts_and_the_expected_loss_are_in_the_curve() -> None:
    state = view(NETS["restarted"]())
    picture = draw(state, 120, 40)
    text = "\n".join(text_of(picture))
    assert "▾gain 1 → 3" in text
    assert "ln V" in text
    styles = {style.split("/")[0] for line in picture for _, style in line}
    assert {"ghost", "loss", "band", "expected", "mark"} <= styles


def test_without_colours_bands_ghosts_and_lines_are_told_apart_by_signs() -> None:
    state = view(NETS["restarted"](), glyphs=UNICODE._replace(coloured=False))
    text = "\n".join(text_of(draw(state, 120, 48)))
    assert "░" in text
    assert "·" in text
    assert "a=C" in text
    assert "b=2" in text
    course = canned.course(until=2000)
    twins = [structs.replace(one, twin=structs.replace(one, losses=tuple(2 * n for n in one.losses))) for one in course]
    text = "\n".join(text_of(draw(replace(view(twins), glyphs=state.glyphs, screen="twin"), 120, 48)))
    assert "a=this run  b=" in text
    lines = text.partition("a=this run")[2].splitlines()
    assert [line[-1] for line in lines if line[-1:] in ("a", "b")] == ["b", "a"]


def test_the_loss_of_another_run_is_drawn_behind_under_its_name() -> None:
    other = History()
    other.feed(canned.course(canned.SICK, until=4000))
    course = [*canned.course(canned.SHRINKING, until=3000), *canned.course(until=2000, attempt=1)]
    state = view(course, screen="dashboard")
    state.history.beside = Beside(f"older{canned.HOSTILE[0]}", other.attempt)
    picture = draw(state, 120, 40)
    styles = {style.split("/")[0] for line in picture for _, style in line}
    assert {"ghost", "twin"} <= styles
    (heading,) = (line for line in text_of(picture) if line.startswith("─ loss"))
    assert "validation; older" in heading
    plain = draw(replace(state, glyphs=UNICODE._replace(coloured=False)), 120, 40)
    told = "\n".join(text_of(plain))
    assert "× older" in told
    assert told.count("×") > 20


def test_a_layer_has_one_colour_in_every_plot() -> None:
    state = view(NETS["one-layer"]())
    own = {curve.style for curve in curves(state) if curve.row.layer}
    assert len(own) == 1
    for plot in (stds_over_steps, over_steps):
        assert {style for line in plot(state, 100, 20) for _, style in line if style.startswith("line")} == own
    assert own < {style for _, style in legend(state, "update:data", 100)}
    for net, lines in (("healthy", 7), ("hundred-layers", LINES)):
        assert len({LOOKS[curve.style] for curve in curves(view(NETS[net]()))}) == lines


def test_the_lines_of_the_gradients_are_named_as_in_every_plot() -> None:
    state = view(NETS["healthy"](), screen="gradients")
    (head,) = (line for line in draw(state, 100, 30) if "gradient std over steps" in text_of([line])[0])
    named = {text.strip(): style for text, style in head if style.startswith("line")}
    assert named == {str(c.row.layer.layer.index): c.style for c in curves(state) if c.row.layer}


def test_a_finding_that_is_cut_off_says_so() -> None:
    long = structs.replace(canned.FOUND, suggestion=" ".join(["so much to do"] * 30))
    assert "…" in "".join(text_of(side_column(view(NETS["healthy"](), findings=(long,)), 26, 15))[-1])
    assert "…" not in "".join(text_of(side_column(view(NETS["healthy"](), findings=(long,)), 38, 40)))
    many = tuple(structs.replace(long, what=f"trouble {at}") for at in range(4))
    shown = text_of(side_column(view(NETS["healthy"](), findings=many), 38, 15))
    assert all(any(line == f"!trouble {at}" for line in shown) for at in range(4))
    assert len(shown) == 15
    assert "…" in shown[shown.index("!trouble 1") - 1]
    many = tuple(structs.replace(long, what=f"trouble {at} of the kind that is long") for at in range(4))
    assert [line[:10] for line in text_of(side_column(view(NETS["healthy"](), findings=many), 26, 8))[-4:]] == [
        f"!trouble {at}" for at in range(4)
    ]


def test_what_was_at_the_start_only_is_told_quietly() -> None:
    for past, style in ((True, "dim"), (False, "sick")):
        found = structs.replace(canned.FOUND, past=past)
        (line,) = (
            line for line in side_column(view(NETS["healthy"](), findings=(found,)), 38, 20) if "!" in line[0][0]
        )
        assert {of for text, of in line if text.strip()} == {style}


def test_the_head_of_the_meter_is_that_of_the_units() -> None:
    for net, told in (("healthy", "|a|>0.97"), ("relu", "flat")):
        state = view(NETS[net]())
        plan = layout(200, 12, False)
        assert told in "".join(text for text, _ in header(state, plan, rows(state)))


def test_two_histograms_can_be_compared_whatever_the_width_of_their_bins() -> None:
    wide, narrow = Histogram(-2.0, 2.0, (0, 10, 10, 0)), Histogram(-1.0, 1.0, (5, 5, 5, 5))
    shapes = [_bars("", box, box.counts, "ghost", False)[0] for box in (wide, narrow)]
    assert max(shapes[0].y) == max(shapes[1].y) == 0.5
    outliers = Histogram(-1.0, 1.0, (90, 5, 5, 100))
    assert _bars("", outliers, outliers.counts, "ghost", True)[0][1:3] == ([-0.25, 0.25], [0.05, 0.05])
    grown = canned.course(replace(canned.HEALTHY, gradient=2e-5), until=1)
    grown += canned.course(until=3000, every=1000)[1:]
    (head,) = (line for line in text_of(draw(view(grown, screen="layer", cursor=1), 200, 60)) if "density" in line)
    assert head.split("gradient, density")[1].split("  ")[1:] == ["step 1 cut", "now"]
    assert " cut" not in head.split("gradient, density")[0]


def test_a_layer_whose_numbers_all_lie_beyond_the_axis_can_be_enlarged() -> None:
    exploded = canned.course(until=1000)
    histogram = structs.replace(exploded[-1].layers[0].gradient.histogram, counts=(500, *(0,) * 38, 500))
    layers = [
        structs.replace(layer, gradient=structs.replace(layer.gradient, histogram=histogram))
        for layer in exploded[-1].layers
    ]
    exploded[-1] = structs.replace(exploded[-1], state="paused", layers=tuple(layers))
    assert "gradient, density" in "\n".join(text_of(draw(view(exploded, screen="layer", cursor=1), 100, 30)))


def test_an_enlarged_layer_is_judged_as_in_the_table() -> None:
    sick = [msgspec.structs.replace(event, state="paused") for event in canned.course(canned.SICK, until=3000)]
    (worst,) = (layer for layer in sick[-1].layers if layer.index == 5)
    activation = structs.replace(worst.activation, dead=7, saturated=0.9)
    worst = structs.replace(worst, activation=activation, gradient=structs.replace(worst.gradient, std=1.0))
    sick[-1] = structs.replace(sick[-1], layers=tuple(worst if row.index == 5 else row for row in sick[-1].layers))
    fast = (structs.replace(weight, update_data_log10=-0.5) for weight in sick[-1].weights)
    sick[-1] = structs.replace(sick[-1], weights=tuple(fast))
    for events, judged in ((sick, True), (canned.course(until=20_000), False)):
        lines = draw(view(events, screen="layer", cursor=2), 160, 48)
        spans = list(chain(*lines))
        assert sum(style == "sick" and text.startswith("!") for text, style in spans) == 4 * judged
        assert ("  share saturated", "") in spans


def test_an_enlarged_layer_at_80_by_24_has_its_numbers_on_few_lines_and_two_ticks_an_axis() -> None:
    lines = text_of(draw(view(canned.course(until=20_000), screen="layer", cursor=2), 80, 24))
    assert lines[3].split("  ")[-1].startswith("gradient std")
    assert "gradient mean" not in lines[3]
    assert lines[4].startswith(" weight")
    for first, last in ((6, 14), (14, 23)):
        left, right = ([line[a:b].partition("┤") for line in lines[first:last]] for a, b in ((0, 40), (40, 80)))
        for side in (left, right):
            assert sum(bool(bar) and any(map(str.isdigit, tick)) for tick, bar, _ in side) >= 2
        assert any(bar and float(tick) == 0 for tick, bar, _ in left)


def test_a_gradient_that_vanished_against_the_first_has_a_power_of_ten() -> None:
    first = canned.snapshot(step=1)
    now = canned.snapshot(step=100)
    small = (
        structs.replace(row, gradient=structs.replace(row.gradient, std=row.gradient.std / 1000)) for row in now.layers
    )
    events = [first, structs.replace(now, layers=tuple(small))]
    picture = "\n".join(text_of(draw(view(events, screen="gradients"), 100, 30)))
    assert re.search(r"×\d\.\de-[34]", picture)
    assert "×0.00" not in picture


def test_an_empty_name_is_told() -> None:
    shown = side_column(view([canned.snapshot(names=("ann", "", "bob"))], findings=()), 38, 8)
    assert any("(empty)" in text and style == "dim" for line in shown for text, style in line)


def test_the_help_is_read_whole_on_a_large_screen() -> None:
    picture = text_of(draw(view(canned.course(until=2000), screen="help"), 160, 48))
    assert all(key.help in "\n".join(picture) for key in KEYS if "-" not in key.help)
    assert not any("more lines below" in line for line in picture)


@pytest.mark.parametrize("broken", ["this run", "twin"])
def test_one_of_a_pair_that_leaves_all_measure_behind_does_not_flatten_the_other(broken: str) -> None:
    healthy, ruined = canned.course(until=2000), canned.course(until=2000)
    ruined = [msgspec.structs.replace(one, losses=tuple(1e7 * loss for loss in one.losses)) for one in ruined]
    one, other = (ruined, healthy) if broken == "this run" else (healthy, ruined)
    both = [msgspec.structs.replace(mine, twin=twin) for mine, twin in zip(one, other, strict=True)]
    picture = text_of(draw(view(both, screen="twin"), 80, 30))
    assert any(line.lstrip().startswith("3.0┤") for line in picture)
    assert any("▴ to 3.5e7" in line for line in picture)


def test_a_twin_that_is_not_there_is_told_under_a_heading_with_the_key_that_makes_one() -> None:
    picture = text_of(draw(view(canned.course(until=2000), screen="twin"), 80, 24))
    assert picture[2].startswith("─ twin none yet ──")
    assert picture[3].startswith(" t trains a second net")


def test_the_legend_names_the_first_some_and_the_last_line_at_any_width() -> None:
    hundred, healthy, title = view(NETS["hundred-layers"]()), view(NETS["healthy"]()), "update:data"
    for cells in range(40, 200):
        parts = [text.strip() for text, _ in legend(hundred, title, cells)]
        assert cells_of(legend(hundred, title, cells)) <= cells - len(title) - 4  # so that nothing of it is clipped
        assert ("…" in parts) == (parts[1:] != [] and len(parts) < 2 + 12 + ("…" in parts))  # nor left out unsaid
        assert parts[1:] == [] or (parts[1:3] == [", 12 of 102:", "C"] and parts[-1] == "output")
        assert cells < 60 or len(parts) >= 4
    assert len(parts) == 2 + 12
    for cells in (80, 200):
        names = "".join(text for text, _ in legend(healthy, title, cells))
        assert names == "log10, guide at −3  C  2  5  8  11  14  output"


def test_unbounded_units_say_their_scale() -> None:
    text = "\n".join(text_of(draw(view(canned.course(canned.RELU, until=1000)), 120, 30)))
    assert "activation −4..4" in text or "activation −5..5" in text
    bounded = canned.course(replace(canned.HEALTHY, kind="Sigmoid"), until=1000)
    assert "activation −1..1" in "\n".join(text_of(draw(view(bounded), 120, 30)))


@pytest.mark.parametrize("state", ["running", "paused", "finished", "stopped", "crashed", "diverged", "unresponsive"])
def test_a_speed_is_told_of_what_moves_or_has_finished_and_the_time_left_of_what_moves(state: str) -> None:
    last = canned.snapshot(step=1010, since=1000, state=state)
    first = text_of(draw(view([*canned.course(until=1000), last]), 80, 24))[0]
    assert ("/s" in first, "eta" in first) == (state in ("running", "finished"), state == "running")


def test_layers_that_were_looked_at_seconds_ago_say_at_what_step() -> None:
    for at, state, told in (
        (99_000, "running", "probes 1.1%  batch"),
        (60_000, "running", "probes 1.1% at 60k  batch"),
        (None, "running", "probes 1.1%  batch"),
        (60_000, "paused", "batch"),
    ):
        seen = canned.snapshot(step=100_000, layers_step=at, state=state, steps_per_second=5000.0)
        shown = text_of(draw(view([seen]), 200, 48))[1]
        assert told in shown
        assert ("60k" in shown) == ("60k" in told)


def test_frozen_paused_lost_and_read_only_say_so() -> None:
    running = view(canned.course(until=1000))
    for state, word in (
        (replace(running, frozen=True), "view frozen"),
        (replace(running, lost=True), "lost"),
        (view([canned.snapshot(state="paused")]), "paused"),
        (view([canned.snapshot(state="paused")], frozen=True), "frozen, paused"),
        (view([canned.snapshot(state="finished")]), "finished"),
        (view([canned.nan()]), "diverged"),
        (view([], waiting="loading torch and the data"), "starting"),
    ):
        assert text_of(draw(state, 80, 24))[0].endswith(word)
    readonly = text_of(draw(replace(running, readonly=True), 80, 24))[-1]
    assert readonly.startswith("read only")
    assert "BatchNorm" not in readonly
    absent = text_of(draw(replace(running, absent="nobody is training it now"), 80, 24))[-1]
    assert "BatchNorm" not in absent
    assert "go on" in text_of(draw(view([canned.snapshot(state="paused")]), 80, 24))[-1]


def test_a_message_in_ascii_is_ascii() -> None:
    state = view(canned.course(until=1000), glyphs=ASCII, message="ü: no such preset")
    assert "\\xfc: no such preset" in (said := "\n".join(text_of(draw(state, 80, 24))))
    assert said.isascii()


def test_the_question_lies_over_the_middle() -> None:
    state = view(canned.course(until=1000), prompt="quit", choices=(("s", "stop and save"), ("esc", "cancel: go on")))
    for cells, lines in ((80, 24), (40, 12)):
        picture = draw(state, cells, lines)
        assert {cells_of(line) for line in picture} == {cells}
        assert any("s     stop and save" in line for line in text_of(picture))
    for cells in range(1, 12):
        assert {cells_of(line) for line in draw(state, cells, 10)} == {cells}


def test_columns_fit_every_width_and_none_is_given_twice() -> None:
    for cells in range(10, 260):
        plan = layout(cells, 12, True)
        assert plan.label + sum(size for _, size in plan.columns) <= cells
        assert len({name for name, _ in plan.columns}) == len(plan.columns)
    assert [name for name, _ in layout(80, 10, False).columns] == [
        "activation", "mean", "std", "saturated", "meter", "gradient", "grad std", "grad:data", "spark", "update",
    ]  # fmt: skip


def test_a_growing_run_fills_most_of_its_columns() -> None:
    for step in range(1, 5000):
        size = per_column(step, 40)
        assert size * 40 >= step
        assert step <= 160 or step / size > 40 * 0.66 - 1


def test_a_line_has_no_gaps_and_may_bridge_what_was_not_measured() -> None:
    from app.series import Bucket

    axis = Axis(0, 10, 10)
    one, ten = Bucket(1, 1, 1), Bucket(9, 9, 9)
    assert line([one, ten, one], axis) == [(1, 1), (2, 9), (1, 8)]
    assert line([one, None, ten], axis) == [(1, 1), None, (9, 9)]
    assert line([one, None, ten], axis, joined=True) == [(1, 1), (5, 5), (9, 9)]
    assert line([one, None, None, ten], axis, joined=True) == [(1, 1), None, None, (9, 9)]


def test_what_leaves_the_scale_of_a_curve_is_told_at_its_edge() -> None:
    history = History()
    first = canned.snapshot(canned.HEALTHY, 1, since=0)
    history.feed([structs.replace(first, weights=tuple(moved(weight, 1e-9) for weight in first.weights))])
    assert text_of(updates_over_steps(View(history), 70, 12))[-2].split("▾")[1].split()[:2] == ["to", "−11.4"]
    (trace, *_) = history.layers.values()
    trace.gradient_std.add(1, 1e-13)
    assert text_of(over_steps(View(history), 70, 20))[-2].startswith("1e−13┤")
    trace.gradient_std.add(2, 1e-30)
    assert "▾ to 1.0e-30" in text_of(over_steps(View(history), 70, 20))[-2]


def test_nothing_is_made_up_of_the_long_way_between_the_first_looks() -> None:
    assert spark(course((1, -4.0), (1000, -2.0), (1500, -2.0)), 100, 16, 1, UNICODE)[0] == (
        ("▂", "update"), ("────────", "guide"), ("▆▆▆▆▆▆", "update"), ("─", "guide"),
    )  # fmt: skip
    first, then = _over_steps("update:data", course((1, -4.0), (1000, -2.0), (1500, -2.0)).update, 16, "update")
    assert (first.name, first.y, then.name, then.y) == ("update:data", [-4.0], "", [-2.0, -2.0])


@pytest.mark.parametrize(("low", "high", "parts", "told"), [
    (1e-5, 1e-1, 3, "1e−5 1e−4 1e−3 1e−2 1e−1"), (1e-5, 1e2, 3, "1e−5 1e−3 1e−1 1e1"), (0.1, 9.0, 7, None),
    (1.8, 3.4, 5, "2.0 2.5 3.0"),
])  # fmt: skip
def test_the_numbers_of_a_logarithmic_axis_are_round(low: float, high: float, parts: int, told: str | None) -> None:
    ticks = _ticks(Axis(low, high, 60, True), parts)
    assert told is None or " ".join(tick_texts(ticks, 5, UNICODE)) == told
    assert told is not None or ticks == [0.1, 0.2, 0.5, 1, 2, 5]


def test_the_numbers_on_one_axis_have_one_form() -> None:
    for values, texts in (
        ((2.625, 2.6, 2.575), "2.625 2.600 2.575"),
        ((1e-3, 1e-2, 0.1, 1.0, 1e3), "1e−3 1e−2 1e−1 1e0 1e3"),
        ((-2.0, -3.0), "−2.0 −3.0"),
        ((0.0, 5e5, 2e6), "0 5e5 2e6"),
        ((0.8, 1.931, 11.25), "0.80 1.93 11.25"),
        ((0.0, 1000.0), "0 1000"),
        ((1e-4, 4.64e-4), "1e−4 5e−4"),
    ):
        assert " ".join(tick_texts(values, 5, UNICODE)) == texts
    assert " ".join(tick_texts((-0.0125, -0.01, 0.0), 8, UNICODE)) == "−1.25e−2 −1.00e−2 0"


@pytest.mark.parametrize("loss", [0.5, 3.3, 12.3, 1234.0])
@pytest.mark.parametrize("rows", [4, 10, 40])
def test_the_numbers_on_the_axis_of_a_flat_loss_differ(loss: float, rows: int) -> None:
    flat = Attempt(1)
    flat.loss.extend(0, [loss, loss + 1e-4])
    axis = loss_axis([flat], None, 2 * rows, False)
    assert axis is not None
    told = [text for (text, _), *_ in framed([[]] * rows, axis, 6, UNICODE) if text.strip()]
    assert told
    assert len({*told}) == len(told)


def test_only_what_changed_is_sent() -> None:
    old: Line = [("abc", "title"), ("0123456789", ""), ("xyz", "dim")]
    assert changed(old, list(old)) == []
    assert changed(old, [("abc", "title"), ("0123456799", ""), ("xyz", "dim")]) == [(11, 12)]
    assert changed(old, [("abC", "title"), ("0123456789", ""), ("xyz", "")]) == [(2, 3), (13, 16)]
    assert changed([("日本", "")], [("日木", "")]) == [(0, 1_000_000)]
    assert changed([("日x e\u0301", "")], [("日y e\u0301", "")]) == [(0, 1_000_000)]  # though as wide as it is long
    wide = [("日" + "-" * 40, ""), ("e\u0301", "")]  # as many cells as characters, but not each in its own
    assert changed(wide, [("a" + "-" * 42, "")]) == [(0, 1_000_000)]
    assert cut([("ab", "x"), ("日本c", "y")], 1, 5) == [("b", "x"), ("日 ", "y")]


def test_looks_without_colour_keep_their_weight_only() -> None:
    assert all(look(name, "none") is None or look(name, "none").color is None for name in LOOKS)  # type: ignore[union-attr]
    assert sgr("sick", "dark", "256") == "1;38;5;203"
    assert sgr("loss/band", "dark", "256") == "1;38;5;75;48;5;242"
    assert sgr("loss/band", "light", "256") == "1;38;5;26;48;5;245"
    assert sgr("sick", "none", "256") == "1"
    assert sgr("", "dark", "256") == ""


@pytest.mark.parametrize(
    ("palette", "ground"), [("dark", (0, 0, 0)), ("dark", (0x1E, 0x1E, 0x1E)), ("light", (255, 255, 255))]
)
def test_colours_stand_out_from_the_background(palette: Palette, ground: tuple[int, int, int]) -> None:
    numbers = {name: colour(name, palette) for name in LOOKS}
    shown = {name: Color.from_ansi(number).get_truecolor() for name, number in numbers.items() if number is not None}
    pale = {name for name, rgb in shown.items() if contrast(rgb, ground) < (3.0 if name in DRAWN else 4.5)}
    assert not pale


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """The ratio of WCAG 2.2."""
    linear = [[c / 3294.6 if c <= 10.31 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb] for rgb in (one, other)]
    dark, light = sorted(0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in linear)
    return (light + 0.05) / (dark + 0.05)


def test_the_table_of_keys_has_each_key_once_and_every_word_is_short() -> None:
    names = [name for key in KEYS for name in key.keys]
    assert len(names) == len(set(names))
    assert all(len(key.help) <= 60 for key in KEYS)
    assert ("q", "quit") in footer(True)
    assert not {"b", "space"} & {key for key, _ in footer(True)}
    assert footer(False, "diverged")[:3] == [("r", "restart"), ("u/U", "undo"), ("D", "doctor")]
    words = {key.short for key in KEYS if key.short}
    assert words.issuperset({word for table in (IDLE, FIRST) for words in table.values() for word in words})
    assert {word for _, word in footer(False, "diverged")} == words - {"pause", "step", "pace", "names", "freeze"}
    reached = [key.action for key in KEYS if key.group == "screens"]
    assert reached == ["explain" if screen.name == "explain" else f"screen('{screen.name}')" for screen in SCREENS]


def test_the_numbers_of_a_row_are_not_those_of_an_earlier_picture() -> None:
    """Rows are drawn from caches: after any number of pictures the newest is that of a history never drawn before."""
    events = [
        structs.replace(event, weights=tuple(moved(weight, 10.0 ** -(step / 4)) for weight in event.weights))
        for step, event in enumerate(canned.course(until=6000))
    ]
    watched, fresh, first = History(), History(), History()
    for event in events:
        watched.feed([event])
        text_of(table(View(watched), 160, 20))
    fresh.feed(events)
    first.feed(events[:1])
    picture = text_of(table(View(watched), 160, 20))
    assert picture == text_of(table(View(fresh), 160, 20))
    assert all(now != then for now, then in zip(picture[1:], text_of(table(View(first), 160, 20))[1:], strict=True))


def test_the_curves_are_those_of_the_present_step() -> None:
    """However often they were drawn before, and though the run has gone back and done other things since."""
    again = [canned.snapshot(canned.SHRINKING, step, since=step - 500) for step in (5000, 5500, 6000)]
    events = [*canned.course(until=6000), *again]
    watched = History()
    for n, event in enumerate(events, 1):
        watched.feed([event])
        fresh = History()
        fresh.feed(events[:n])
        for draw_curves in (loss_curve, updates_over_steps, stds_over_steps):
            picture = text_of(draw_curves(View(watched), 70, 14))
            assert picture == text_of(draw_curves(View(fresh), 70, 14))
            frame = Frame.of(70, 14, event.step, UNICODE)
            assert frame is not None
            end = max(len(line[6:].removesuffix("ln V").rstrip(" ┄─")) for line in picture[:-1])
            assert event.step == 500 or abs(end - event.step / frame.per_cell) <= 1.5  # a second look, in no whole cell


def quiet(snapshot: Snapshot) -> Snapshot:
    """The snapshot with every layer as the first one, and every weight moving as it should."""
    first = snapshot.layers[0]
    layers = (structs.replace(first, index=layer.index) for layer in snapshot.layers)
    weights = (structs.replace(weight, update_data_log10=-3.0) for weight in snapshot.weights)
    return structs.replace(snapshot, layers=tuple(layers), weights=tuple(weights))


def test_what_comes_within_one_cell_of_a_curve_is_drawn_at_once() -> None:
    history = History()
    history.feed(canned.snapshot(step=step, since=step - 10_000, splits=None) for step in range(10_000, 60_001, 10_000))
    assert "●" not in "\n".join(text_of(loss_curve(View(history), 70, 12)))
    history.feed([canned.snapshot(step=60_001, since=60_000, splits=Splits(None, 2.5, None, 60_001))])
    assert "●" in "\n".join(text_of(loss_curve(View(history), 70, 12)))
    history.feed([canned.snapshot(step=60_002, losses=(math.nan,))])
    assert "!not finite from step 60,001" in "\n".join(text_of(loss_curve(View(history), 70, 12)))


def saturated(snapshot: Snapshot) -> Snapshot:
    """The snapshot with every layer flat everywhere."""
    flat = [structs.replace(layer.activation, saturated=1.0) for layer in snapshot.layers]
    layers = [structs.replace(layer, activation=one) for layer, one in zip(snapshot.layers, flat, strict=True)]
    return structs.replace(snapshot, layers=tuple(layers))


def moved(weight: Weight, times: float) -> Weight:
    """The weight with a gradient and an update so many times as large."""
    return structs.replace(
        weight,
        grad_std=weight.grad_std * times,
        grad_data_ratio=weight.grad_data_ratio * times,
        update_data_log10=weight.update_data_log10 + math.log10(times),
    )


def test_the_smallest_screen_keeps_step_and_loss() -> None:
    assert text_of(draw(view(canned.course(until=2000)), 20, 5))[0] == " 2k 2.710   training"


def test_a_run_of_few_steps_fills_the_plot() -> None:
    losses = (3.0, 40.0, 9e3, 2e6, math.nan, math.nan)
    few = msgspec.structs.replace(canned.snapshot(step=6), losses=losses, interventions=(), state="diverged")
    history = History()
    history.feed([few])
    lines = text_of(loss_curve(View(history=history), 70, 12))
    assert "!not finite from step 4" in "\n".join(lines)
    assert lines[1].strip("2.0e6┤ ") == "▛▀▀▀▀▀▀▀"  # eight cells a step, the last of which has a number
    assert lines[-1].split()[0] == "└0"
    assert [word for word in lines[-1].split() if word.isdigit()] == ["2", "4", "6"]


def test_a_curve_is_drawn_in_whole_cells_until_the_run_stands() -> None:
    for state, cells in (("running", 50), ("paused", 51)):
        history = History()
        losses = (2.0,) * 12_900  # 50.4 cells
        history.feed([canned.snapshot(step=12_900, losses=losses, state=state, expected_loss=None, splits=None)])
        (low,) = (line for line in text_of(loss_curve(View(history=history), 70, 12)) if "▄" in line or "▀" in line)
        assert len(low.rstrip()) == 6 + cells


def test_the_curves_of_one_screen_have_one_axis_of_steps() -> None:
    for step, losses in ((1, (3.0,)), (46, (3.0, *[math.nan] * 45))):
        history = History()
        history.feed([canned.snapshot(step=1, since=0)])
        history.feed([canned.snapshot(step=step, since=0, losses=losses, layers=(), weights=(), state="diverged")])
        feet = {text_of(curve(View(history), 70, 12))[-1] for curve in (loss_curve, updates_over_steps)}
        assert len(feet) == 1


def test_a_validation_loss_above_the_training_loss_lies_on_the_scale() -> None:
    history = History()
    history.feed([canned.snapshot(step=step, losses=(0.7,) * 500, splits=None) for step in (500, 1000)])
    history.attempt.val.append((900, 5.4))
    lines = text_of(loss_curve(View(history=history), 70, 20))
    (row,) = (at for at, line in enumerate(lines) if "●" in line)
    assert row < next(at for at, line in enumerate(lines) if "ln V" in line)


def test_a_validation_loss_stands_over_the_last_loss_before_it() -> None:
    history = History()
    history.feed([canned.snapshot(step=64, losses=(2.0,) * 40 + (3.0,) * 24, splits=None, expected_loss=None)])
    history.attempt.val.append((40, 3.0))
    picture = text_of(loss_curve(View(history=history), 70, 12))
    (at,) = (line.index("●") for line in picture if "●" in line)
    (low,) = (line for line in picture if line.startswith("  2.0┤"))
    assert at == len(low) - 1


@pytest.mark.parametrize("step", [600, 905, 940, 985, 999])
def test_the_label_of_a_mark_is_as_long_as_there_is_room_and_leaves_the_guide_s(step: int) -> None:
    history = History()
    mark = Intervention(step, "nonlinearity leaky_relu → tanh, live weights")
    history.feed([canned.snapshot(step=1000, losses=(3.2,) * 500, splits=None, interventions=(mark,))])
    lines = text_of(loss_curve(View(history=history), 110, 20))
    assert next(at for at, line in enumerate(lines) if "ln V" in line) < 3  # where labels are
    assert any(line.endswith("┄ln V") for line in lines)
    assert any(mark.what in line for line in lines)


def test_changes_of_one_setting_next_to_each_other_are_told_as_one() -> None:
    """A learning rate that was pressed up key by key: what matters is where it ended."""
    history = History()
    ladder = ["0.1", "0.2", "0.5", "1", "2", "5"]
    marks = [Intervention(300 + 20 * at, f"lr {a} → {b}") for at, (a, b) in enumerate(itertools.pairwise(ladder))]
    marks += [Intervention(420, "gain 1 → 2"), Intervention(440, "gain 2 → 3"), Intervention(900, "lr 5 → 0.1")]
    history.feed([canned.snapshot(step=1000, losses=(2.2,) * 500, splits=None, interventions=tuple(marks))])
    text = "\n".join(text_of(loss_curve(View(history=history), 110, 20)))
    assert re.findall(r"(?:lr|gain) [\d.]+ → [\d.]+", text) == ["lr 0.1 → 5", "lr 5 → 0.1", "gain 1 → 3"]
    to_and_fro = tuple(Intervention(300 + 5 * at, what) for at, what in enumerate(("lr 1 → 2", "lr 2 → 1")))
    history.feed([canned.snapshot(step=1001, losses=(2.2,), splits=None, interventions=to_and_fro)])
    assert "lr 1 → 1" not in "\n".join(text_of(loss_curve(View(history=history), 110, 20)))
    assert text.count("│") >= len(marks)


@pytest.mark.parametrize("slope", [-0.02, -0.01, 0.0, 0.01])
def test_no_curve_runs_through_the_word_at_the_guide(slope: float) -> None:
    history = History()
    losses = tuple(math.log(27) + slope * (at - 63) for at in range(64))
    history.feed([canned.snapshot(step=64, losses=losses, splits=None)])
    assert "\n".join(text_of(loss_curve(View(history=history), 70, 9))).count("ln V") == 1


def test_what_lies_above_a_scale_is_not_told_below_it() -> None:
    history = History()
    for step in (1, 2):
        shown = canned.snapshot(step=step, since=step)
        weights = [msgspec.structs.replace(weight, update_data_log10=0.0) for weight in shown.weights]
        history.feed([msgspec.structs.replace(shown, weights=tuple(weights))])
    text = "\n".join(text_of(updates_over_steps(View(history=history), 70, 9)))
    assert ("▴ to 0.0" in text, "▾" in text) == (True, False)


def test_the_loss_has_no_scale_below_0() -> None:
    for losses in ((27.0, 2.0), (0.01, 0.02)):
        history = History()
        history.feed([canned.snapshot(step=2, losses=losses, expected_loss=None, splits=None)])
        axis = loss_axis([history.attempt], None, 8, False)
        assert axis is not None
        assert axis.low >= 0


@pytest.mark.parametrize(("first", "told"), [(27.3, "27.30"), (3.5e12, "3.5e12")])
def test_a_first_loss_that_the_means_hide_is_told(first: float, told: str) -> None:
    history = History()
    losses = (27.3, *(9.0,) * 9, *(2.5,) * 9990)
    history.feed([canned.snapshot(step=len(losses), losses=losses, first_loss=first)])
    picture = "\n".join(text_of(loss_curve(View(history=history), 70, 12)))
    assert f"▴ first loss {told}" in picture


@pytest.mark.parametrize(("ghost", "high"), [(9.0, 9.0), (1e4, 3.3)])
def test_an_earlier_curve_decides_the_scale_unless_it_exploded(ghost: float, high: float) -> None:
    earlier, now = Attempt(0), Attempt(1)
    earlier.loss.extend(0, [ghost] * 50)
    now.loss.extend(0, [3.0, 2.0])
    axis = loss_axis([earlier, now], 3.3, 40, False)
    assert axis is not None
    assert high <= axis.high < high + 1.5


def test_on_a_logarithmic_scale_equal_factors_are_equally_far() -> None:
    history = History()
    history.feed([canned.snapshot(step=4, losses=(10.0, 1.0, 0.1, 0.01), expected_loss=None, splits=None)])
    lines = text_of(loss_curve(View(history, log=True), 70, 20))
    ticks = {at: line.partition("┤")[0].strip() for at, line in enumerate(lines) if "┤" in line}
    assert ticks == {0: "10.00", 6: "1.00", 12: "0.10", 18: "0.01"}


def test_new_scales_are_those_of_the_present_attempt() -> None:
    state = view(NETS["restarted"]())
    assert "3k" in text_of(draw(state, 120, 40))[-3]
    state.history.reset_scales()
    picture = draw(state, 120, 40)
    assert "ghost" not in {style.split("/")[0] for line in picture for _, style in line}


def test_an_attempt_has_the_number_that_the_snapshots_and_checkpoints_give_it() -> None:
    first, again = (text_of(draw(view([canned.snapshot(attempt=attempt)]), 200, 60)) for attempt in (0, 3))
    assert "attempt" not in first[1]
    assert "  attempt 3" in again[1]
