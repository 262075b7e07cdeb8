"""The screens that ask: drawn from what real nets answer, at any size, in both alphabets; and what their keys do."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from itertools import chain
from math import inf, nan

import msgspec
import pytest

from app.glyphs import ASCII, UNICODE, Glyphs
from app.history import History
from app.studio import Studio
from app.views import draw, screen
from app.views.answers import stretched
from app.views.batchnorm import normalised
from app.views.curve import Axis
from app.views.deadmap import flags
from app.views.doctor import examined
from app.views.lines import cells_of
from app.views.state import Pressed, View, selected
from makemore_core import dataset
from makemore_core.command import Command, Look, Set
from makemore_core.config import Config, Value
from makemore_core.depth import through_depth
from makemore_core.doctor import LIMITS, Check, Examination
from makemore_core.exhibits import EXHIBITS
from makemore_core.looking import at_once
from makemore_core.presets import PRESETS
from makemore_core.snapshot import Event, Exhibit, Snapshot, State, from_json, to_json
from makemore_core.trainer import Trainer
from tests import canned
from tests.canned import text_of

SCREENS = ("dead-map", "backward", "find-lr", "batchnorm", "gain", "presets", "doctor", "explain")


@functools.cache
def history(preset: str) -> History:
    """A net of 30 steps and its answer to every question."""
    whole = dataset.read()
    names = whole._replace(train=whole.train[::40], val=whole.val[::40])
    config = PRESETS[preset].config().replace({"engine": "plain"})
    trainer = Trainer(config, names)
    losses = trainer.advance(30, tap=True)
    seen = trainer.probe({})
    snapshot = Snapshot(
        run="r", state="running", step=30, steps=200, time=0.0, loss=losses[-1], first_loss=losses[0], lr=0.1,
        losses=tuple(losses), expected_loss=3.3, layers=seen.layers, weights=seen.weights, config=config.as_dict(),
    )  # fmt: skip
    taken = History()
    looks = {name: at_once(look(trainer, {"unit": 3} if name == "dead-map" else {})) for name, look in EXHIBITS.items()}
    answers = [Exhibit(name, 30, msgspec.to_builtins(shown)) for name, shown in looks.items()]
    taken.feed([snapshot, *answers])
    return taken


def view(name: str, preset: str = "mlp-batchnorm", glyphs: Glyphs = UNICODE, **options: Value) -> View:
    return View(history(preset), glyphs, screen=name, findings=(canned.FOUND,), options=options)


def words(view: View, cells: int = 100, rows: int = 40) -> str:
    return "\n".join(text_of(draw(view, cells, rows)))


@pytest.mark.parametrize("name", SCREENS)
@pytest.mark.parametrize("preset", ["mlp-batchnorm", "deep-tanh"])
@pytest.mark.parametrize("size", [(20, 5), (40, 12), (80, 24), (160, 48)])
def test_any_size(name: str, preset: str, size: tuple[int, int]) -> None:
    for glyphs in (UNICODE, ASCII):
        lines = draw(view(name, preset, glyphs), *size)
        assert [cells_of(line) for line in lines] == [size[0]] * size[1]
        if glyphs.ascii:
            assert "".join(text_of(lines)).isascii()


@pytest.mark.parametrize("name", ["gradients", "dead-map", "find-lr", "gain"])
def test_nothing_is_cut_on_a_small_screen(name: str) -> None:
    own = text_of(screen(name).draw(view(name, "deep-tanh"), 80, 21))
    assert "…" not in "".join(own)


@pytest.mark.parametrize("name", ["gradients", "weights"])
def test_a_net_of_few_layers_fills_a_large_screen(name: str) -> None:
    own = text_of(screen(name).draw(replace(view(name), cursor=1), 160, 44))
    assert own.count("") <= 3
    assert next(at for at, line in enumerate(own) if line.startswith("▸")) >= 5  # rows of several lines


@pytest.mark.parametrize("name", SCREENS)
def test_without_an_answer_and_with_one_that_cannot_be_read(name: str) -> None:
    for exhibits in ({}, {other: Exhibit(other, 1, {"rates": [[]]}) for other in EXHIBITS}):
        empty = History()
        empty.exhibits.update(exhibits)
        lines = draw(View(empty, screen=name), 80, 24)
        assert [cells_of(line) for line in lines] == [80] * 24
        asks = screen(name).look
        assert (asks is None) or "…" in "".join(text_of(lines)) or "cannot be read" in "".join(text_of(lines))


@pytest.mark.parametrize("gain", [1.0, 200.0, 1e300])
def test_gains_whose_numbers_grow_without_bound_are_drawn(gain: float) -> None:
    grown = at_once(through_depth(Config(nonlinearity="relu", gain=gain), {"depth": 200}))
    taken = History()
    taken.feed([from_json(to_json(Exhibit("gain", 1, msgspec.to_builtins(grown))))])
    assert f"{gain:g}" in words(View(taken, screen="gain"))


def test_dead_units_are_marked_and_a_unit_followed() -> None:
    shown = view("dead-map", dead_unit=3)
    exhibit = shown.history.exhibits["dead-map"]
    dead = replace(shown, history=History())
    dead.history.exhibits["dead-map"] = Exhibit("dead-map", 30, {**exhibit.data, "dead": [3, 7]})
    assert "!2 of 200 dead on the training split;" in words(dead)
    assert "    ▴   x" in words(dead, 210).split("\n")
    assert "unit 3  flat for" in words(shown)
    assert "their gradient" in words(shown, 80, 24)


def test_the_worst_layer_is_told_and_a_saturated_one_signed() -> None:
    shown = view("dead-map", "deep-tanh")
    data = shown.history.exhibits["dead-map"].data
    heads = (" across, ", "examples down, ink where |h| > 0.99 ─")
    assert f"dead units worst layer {data['layer']} Tanh: 100 units" in words(shown)
    assert all(head in words(shown, 160) for head in heads)
    assert "share of examples per unit" in words(shown, 80, 24)
    chosen = view("dead-map", "deep-tanh")
    chosen.history.exhibits["dead-map"] = Exhibit("dead-map", 30, data, {"layer": 2})
    assert f"dead units layer {data['layer']} Tanh" in words(chosen)
    snapshot = shown.history.snapshot
    assert snapshot is not None
    sick = [
        msgspec.structs.replace(row, activation=msgspec.structs.replace(row.activation, saturated=0.9))
        for row in snapshot.layers
    ]
    saturated = replace(shown, history=History())
    saturated.history.feed([msgspec.structs.replace(snapshot, layers=tuple(sick))])
    exhibit = Exhibit("dead-map", 30, {**data, "dead": list(range(100))})
    saturated.history.exhibits["dead-map"] = exhibit
    spans = chain(*draw(saturated, 160, 48))
    assert any(style == "sick" and re.fullmatch(r"!\S+% beyond 0\.99", text) for text, style in spans)
    strip = next(line for line in draw(saturated, 160, 48) if any("per unit" in text for text, _ in line))
    assert {style for text, style in strip if set(text) & set("▁▂▃▄▅▆▇█")} == {"sick"}


@pytest.mark.parametrize("about", ["backward", "find-lr", "batchnorm", "gain", "dead-map", "layer", "weights"])
def test_what_is_explained_stays_on_the_screen_below_the_words(about: str) -> None:
    explained = replace(view(about, "mlp-batchnorm"), screen="explain", options={"explained": about})
    told, alone = text_of(draw(explained, 160, 48)), text_of(draw(replace(explained, screen=about), 160, 48))
    head = next(line for line in alone[2:] if line.startswith("─ "))
    assert told[2].startswith("─ explained ")
    assert head in told[4:]
    assert not any("enter " in line for line in told[:-1])  # its keys do nothing here
    assert "e back" in told[-1]


def test_a_gain_that_is_not_divided_by_fan_in_is_not_marked_as_a_curves() -> None:
    def told(fan_in: str) -> str:
        shown = view("gain", "deep-tanh")
        assert shown.history.snapshot is not None
        config = {**shown.history.snapshot.config, "fan_in": fan_in}
        history = History()
        history.feed([msgspec.structs.replace(shown.history.snapshot, config=config)])
        history.exhibits = shown.history.exhibits
        return words(replace(shown, history=history), 160, 48)

    assert "this net's" in told("on")
    assert "this net's" not in told("off")
    assert "this net does not divide by fan-in: f" in told("off")


def test_units_that_are_no_numbers_are_neither_flat_nor_alive() -> None:
    shown = view("dead-map", "deep-tanh")
    lost = [
        msgspec.structs.replace(row, activation=msgspec.structs.replace(row.activation, std=nan))
        for row in shown.history.snapshot.layers  # type: ignore[union-attr]
    ]
    diverged = replace(shown, history=History())
    diverged.history.feed([msgspec.structs.replace(shown.history.snapshot, layers=tuple(lost))])  # type: ignore
    diverged.history.exhibits["dead-map"] = shown.history.exhibits["dead-map"]
    told = words(diverged)
    assert "not finite: no unit can be told flat or dead" in told
    assert not re.search(r"▸\d+ !?\d", told)
    assert "alive" not in told


def test_a_layer_or_unit_that_the_net_no_longer_has_is_not_asked_for() -> None:
    asked = screen("dead-map").look
    assert asked is not None
    assert asked(view("dead-map", dead_layer=2, dead_unit=199)) == Look("dead-map", {"layer": 2, "unit": 199})
    assert asked(view("dead-map", dead_layer=2, dead_unit=200)) == Look("dead-map", {"layer": 2})
    gone = view("dead-map", "deep-tanh", dead_layer=8, dead_unit=3)  # as b numbers the layers: 1 3 5 7 9
    assert asked(gone) == Look("dead-map")
    shown = gone.history.exhibits["dead-map"].data["layer"]
    assert isinstance(shown, int)
    assert pressed(gone, "up").options["dead_layer"] == (shown - 2 if shown > 1 else 9)


def test_the_layer_chosen_among_many_is_in_the_line_of_layers() -> None:
    shown = view("dead-map", "deep-tanh")
    data = shown.history.exhibits["dead-map"].data
    for layer in (1, 99, 199):
        many = [{"index": at, "kind": "Tanh", "units": 100, "dead": 0, "share": 0.04} for at in range(1, 200, 2)]
        deep = replace(shown, history=History())
        deep.history.exhibits["dead-map"] = Exhibit("dead-map", 30, {**data, "layer": layer, "layers": many})
        (line,) = (line for line in words(deep, 80, 24).splitlines() if f"▸{layer} 4.0%" in line)
        assert len(line) > 70
        assert line.startswith("…") == (layer > 1)
        assert line.endswith("…") == (layer < 199)


def test_enter_enlarges_the_layer_of_the_map() -> None:
    for filtered in ("", "zzz"):
        shown = replace(view("dead-map", "deep-tanh", dead_layer=7), cursor=1, filter=filtered)
        enlarged = pressed(shown, "enter")
        row, layer = selected(enlarged), shown.history.exhibits["dead-map"].data["layer"]
        assert enlarged.screen == "layer"
        assert row is not None
        assert row.layer is not None
        assert row.layer.layer.index == layer


def test_flags() -> None:
    assert flags("88", 5) == [True, False, False, False, True]
    assert flags("not hexadecimal", 3) == [False] * 3


def test_gradients_with_their_formulas() -> None:
    shown = words(view("backward", backward_row=8))
    assert "all 25 gradients and 2 in one expression agree" in shown
    assert re.search(r", \d+ exact\n", words(view("backward", backward_row=8), 80, 24))
    assert "dh = dlogits @ W2.T" in shown
    assert "second linear layer; 32×200" in shown
    assert "brick by brick" in words(view("backward", "deep-tanh"))


def test_the_size_of_a_gradient_stands_beside_what_it_is_off_by() -> None:
    for cells in (60, 80):
        told = words(view("backward"), cells).split("\n")
        assert told[4].startswith(" d loss / d          shape  largest  exact  close   off by")
        size = next(line for line in told if "logit_maxes" in line)[27:35]
        assert float(size) < 1e-7


@pytest.mark.parametrize(("preset", "row"), [("mlp-batchnorm", 7), ("deep-tanh", 21)])
def test_the_row_of_the_logits_shows_how_one_example_pulls_at_them(preset: str, row: int) -> None:
    told = words(view("backward", preset, backward_row=row), 80, 24).split("\n")
    at = next(at for at, line in enumerate(told) if ".abcdefghijklmnopqrstuvwxyz" in line)
    target = told[at].index(told[at - 1].split(",")[1][-1])
    assert (told[at + 1][6:33].strip(), told[at + 1][target], told[at + 2][target]) == ("█", "█", " ")
    assert "times n" not in words(view("backward", preset))


def test_a_wrong_gradient_is_told_in_words() -> None:
    shown = view("backward")
    data = shown.history.exhibits["backward"].data
    gradients = data["gradients"]
    assert isinstance(gradients, list)
    wrong = replace(shown, history=History())
    changed = [dict(row) | {"close": row["name"] != "bnvar"} for row in gradients if isinstance(row, dict)]
    wrong.history.exhibits["backward"] = Exhibit("backward", 30, {**data, "gradients": changed})
    assert "!1 of 25 gradients and 2 in one expression differ" in words(wrong)
    assert "!NO" in words(wrong)


def test_gradients_that_are_nan_on_both_sides_are_not_wrong() -> None:
    shown = view("backward")
    data = shown.history.exhibits["backward"].data
    rows = [dict(row) | {"close": False, "exact": False, "largest": nan, "nan": True} for row in data["gradients"]]  # type: ignore
    diverged = replace(shown, history=History())
    data = {**data, "gradients": rows, "one_expression": []}
    diverged.history.exhibits["backward"] = Exhibit("backward", 30, data)
    assert "nothing to compare: 25 of 25 gradients are nan on both sides" in words(diverged)
    assert "!" not in words(diverged)


def test_the_gradients_of_the_weights_are_drawn_where_there_is_room() -> None:
    shown = view("weights", "deep-tanh")
    asked = screen("weights").look
    assert asked is not None
    assert asked(shown) == Look("weight-gradients")
    unanswered = replace(shown, history=History())
    unanswered.history.feed([shown.history.snapshot])  # type: ignore[list-item]
    for cells, numbers in ((40, 2), (60, 3), (80, 4), (100, 5)):
        told = words(shown, cells, 24).split("\n")
        at = next(at for at, line in enumerate(told) if "grad:data" in line)
        head, row = told[at], told[at + 2]
        assert head.endswith("update:data")
        assert len(re.findall(r"e-?\d|[.]\d\d", row)) == numbers
        assert ("▄▄" in row, "±" in head) == (True, cells > 40)
        assert "±" not in words(unanswered, cells, 24)
    for cells in (20, 40, 60, 80, 160):
        assert {cells_of(line) for line in draw(shown, cells, 24)} == {cells}


def test_the_slider_moves_one_value_and_normalisation_moves_all() -> None:
    shown = view("batchnorm", bn_part=2)
    moved = pressed(shown, "right")
    assert moved.options["bn_value0"] == -3
    assert "−1.5" in words(moved)
    before, after = normalised([-2, -1, 0, 1, 2]), normalised([-1.5, -1, 0, 1, 2])
    assert all(a != b for a, b in zip(before, after, strict=True))
    assert sum(after) == pytest.approx(0)
    assert "enter" in words(shown)
    assert pressed(shown, "enter").options["bn_slider"] == 1


def test_batchnorms_statistics_and_company() -> None:
    shown = words(view("batchnorm"))
    assert "running statistics" in shown
    assert "its own minibatch" in shown
    assert "↑↓ part 1 of 4  enter whole splits / a part  b BatchNorm on / off  esc back" in words(
        view("batchnorm"), 80, 24
    )
    assert "logits move by" in words(view("batchnorm", bn_part=1))
    assert "this net has no BatchNorm: b puts it in" in words(view("batchnorm", "deep-tanh"))


def test_left_and_right_stay_on_batchnorms_screen() -> None:
    press = screen("batchnorm").press
    assert press is not None
    for part in range(4):
        for key in ("left", "right"):
            assert press(view("batchnorm", bn_part=part), key) is not None


def test_a_net_without_numbers_has_no_company() -> None:
    shown = view("batchnorm", bn_part=1)
    data = shown.history.exhibits["batchnorm"].data
    company = data["company"]
    assert isinstance(company, dict)
    diverged = replace(shown, history=History())
    company = company | {name: [nan] * 27 for name in ("alone_probabilities", "std", "low", "high")}
    diverged.history.exhibits["batchnorm"] = Exhibit("batchnorm", 30, {**data, "company": company})
    assert "its logits are no numbers" in words(diverged)


def test_losses_that_exploded_keep_to_their_columns() -> None:
    shown = view("batchnorm")
    data = shown.history.exhibits["batchnorm"].data
    large = {kind: {"train": 123456.7, "val": None} for kind in ("running", "calibrated", "batch")}
    exploded = replace(shown, history=History())
    exploded.history.exhibits["batchnorm"] = Exhibit("batchnorm", 30, {**data, "losses": large})
    assert f"its own minibatch{'1.2e5':>20s}{'-':>9s}" in words(exploded)


def test_gains_are_marked() -> None:
    shown = words(view("gain", "deep-tanh"))
    assert "5/3" in shown
    assert "PyTorch's" in shown
    assert command(view("gain", "deep-tanh", gain_row=2), "enter") == Set({"gain": 1.0})
    assert command(view("gain", "deep-tanh-gain1"), "enter") == Set({"gain": 5 / 3})
    assert pressed(view("gain", gain_depth=50), "right").options["gain_depth"] == 100
    asked = screen("gain").look
    assert asked is not None
    assert asked(view("gain", gain_depth=100)) == Look("gain", {"depth": 100})
    assert asked(view("gain", gain_depth=10)) is None  # it does not change while the net trains


def test_a_spread_that_leaves_all_numbers_is_a_line_that_ends() -> None:
    shown = view("gain")
    data = shown.history.exhibits["gain"].data
    rows = [dict(row) | {"std": [3.0**n for n in range(80)] + [inf, nan]} for row in data["gains"]]  # type: ignore
    exploded = replace(shown, history=History())
    exploded.history.exhibits["gain"] = Exhibit("gain", 30, {**data, "gains": rows})
    assert "layer 10" in words(exploded)


def test_a_line_has_no_gap_where_it_leaves_the_bottom() -> None:
    assert stretched([0.0, 9.0, nan, 5.0], 4, Axis(0.0, 10.0, 10)) == [(0, 0), (1, 9), None, (5, 5)]


@pytest.mark.parametrize(("kind", "head", "large"), [("relu", "off", "explode"), ("identity", "", "explode")])
def test_gains_of_what_is_no_tanh(kind: str, head: str, large: str) -> None:
    shown = view("gain")
    data = shown.history.exhibits["gain"].data
    other = replace(shown, history=History())
    other.history.exhibits["gain"] = Exhibit("gain", 30, {**data, "nonlinearity": kind})
    told = words(other)
    assert f"settles  {head:>9s}".rstrip() + "\n" in told
    assert large in told
    assert "saturate" not in told


@pytest.mark.parametrize("kind", ["ReLU", "LeakyReLU", "ELU", "Sigmoid", "Identity", "Mish"])
def test_no_other_layer_is_explained_as_a_tanh(kind: str) -> None:
    assert "tanh" in words(view("explain", "deep-tanh"))
    other = replace(view("explain"), history=History(), cursor=1)
    other.history.feed([canned.snapshot(canned.Shape(kind=kind))])
    assert "tanh" not in words(other)


@pytest.mark.parametrize("name", ["dead-map", "backward", "find-lr", "gain", "presets", "doctor"])
def test_an_explanation_has_the_title_of_its_screen(name: str) -> None:
    own = text_of(screen(name).draw(view(name), 80, 21))[0]
    explained = text_of(screen("explain").draw(view("explain", explained=name), 80, 21))[0]
    assert own.startswith("─ " + explained.removeprefix("─ explained ").rstrip(" ─"))


def test_what_is_explained_of_the_updates_is_what_is_marked() -> None:
    told = words(view("explain", "deep-tanh"))
    assert f"Above {UNICODE.text(str(LIMITS['updates_large']))} the weights" in told


def test_enter_takes_the_rate_that_was_found() -> None:
    suggestion = view("find-lr").history.exhibits["find-lr"].data["suggestion"]
    assert isinstance(suggestion, float)
    assert command(view("find-lr"), "enter") == Set({"lr": suggestion})
    assert command(view("find-lr"), "down") == Look("find-lr")
    assert f"try lr {suggestion:g}" in words(view("find-lr"))
    after = replace(view("find-lr"), history=view("find-lr").history.copy())
    assert after.history.snapshot is not None
    planned = {**after.history.snapshot.config, "lr_decay_at": after.history.snapshot.step}
    after.history.snapshot = msgspec.structs.replace(after.history.snapshot, config=planned)
    assert command(after, "enter") == Set({"lr": suggestion, "lr_decay_at": 0})
    none = replace(view("find-lr"), history=History())
    data = {**view("find-lr").history.exhibits["find-lr"].data, "suggestion": None, "fix": None}
    none.history.exhibits["find-lr"] = Exhibit("find-lr", 30, data)
    none.history.snapshot = after.history.snapshot  # past the planned decay, which nothing is to end
    assert command(none, "enter") == Set({})  # which the studio answers: nothing to change
    assert "then 8 again" not in words(none)
    late = replace(none, history=view("find-lr").history.copy())
    late.history.exhibits["find-lr"] = Exhibit("find-lr", 3000, data)
    assert " the lecture tests a fresh net: space, r, then 8 again" in words(late, 160, 24)


def test_what_lies_above_the_rates_scale_is_one_mark() -> None:
    shown = replace(view("find-lr"), history=History())
    data = view("find-lr").history.exhibits["find-lr"].data
    rates = [10 ** (3 * at / 999 - 3) for at in range(1000)]
    smooth = [2.0 + 0.01 * (at % 5) if at < 800 else 3.9 for at in range(1000)]
    shown.history.exhibits["find-lr"] = Exhibit("find-lr", 30, {**data, "rates": rates, "smooth": smooth})
    for cells in (80, 160):
        top = words(shown, cells, 30).split("\n")[3]
        assert top.count("▴ to 3.9") == 1
        assert not set(top) & set("▖▘▌▗▄▚▙▝▞▀▛▐▟▜█")
    assert re.search(r"2\.[56]\d?┤", words(shown))  # noise does not fill the plot


def test_enter_starts_an_experiment() -> None:
    at = list(PRESETS).index("deep-tanh-gain3")
    assert command(view("presets", "deep-tanh", preset_row=at), "enter") == Set({"gain": 3.0}, fresh=True, paused=True)
    assert "gain 3 is too large" in words(view("presets", preset_row=at))
    asked = command(view("presets", "deep-tanh", preset_row=list(PRESETS).index("deep-slow")), "enter")
    assert asked == Set({"lr": 0.001}, fresh=True)
    assert command(view("presets", "deep-tanh", preset_row=list(PRESETS).index("deep-tanh")), "enter") == Set(
        {}, fresh=True, paused=True
    )
    assert pressed(view("presets", preset_row=at), "enter").screen == "dashboard"


@pytest.mark.parametrize("name", PRESETS)
def test_what_an_experiment_shows_is_read_whole_on_a_small_screen(name: str) -> None:
    told = words(view("presets", preset_row=list(PRESETS).index(name)), 80, 24)
    assert "…" not in told.partition("this run")[2]
    assert " ".join(UNICODE.text(PRESETS[name].look_at).split()) in " ".join(told.rpartition("look at")[2].split())
    assert "enter starts it" in told


def test_enter_tries_what_the_doctor_suggests() -> None:
    assert command(view("doctor"), "enter") == Set({"gain": 5 / 3})
    for why in ("past", "over"):
        began = replace(view("doctor"), findings=(msgspec.structs.replace(canned.FOUND, **{why: True}),))
        assert command(began, "enter") == Set({"gain": 5 / 3}, fresh=True)
        assert "from the seed" in words(began)
    shown = words(view("doctor"))
    assert "std 0.62 → 0.32" in shown
    assert "gain 5/3 → 5/3" in shown


@pytest.mark.parametrize(("key", "order"), [("down", "abcab"), ("up", "acbac")])
def test_behind_the_last_finding_is_the_first(key: str, order: str) -> None:
    findings = tuple(msgspec.structs.replace(canned.FOUND, name=name, what=f"trouble {name}") for name in "abc")
    state, seen = replace(view("doctor"), findings=findings), ""
    for _ in order:
        (marked,) = (line for line in words(state).splitlines() if line.startswith(UNICODE.cursor))
        seen += marked[-1]
        state = pressed(state, key)
    assert seen == order


def check(name: str, seen: str, limit: str, *, found: bool = False) -> Check:
    return Check(name=name, seen=seen, limit=limit, found=found)


CHECKS = (
    check("saturation", "41 % of layer 1 Tanh beyond 0.97", "75 % at most"),
    check("spread", "0.62 → 0.32, × 0.52", "× 0.6 to 1.6", found=True),
    check("update:data", "", "-3.5 to -1.75"),
)


def test_the_doctor_shows_what_it_looked_at_beside_the_limits() -> None:
    state = replace(view("doctor"), findings=(), checks=CHECKS)
    lines = [line.rstrip() for line in words(state, 80, 12).splitlines()]
    assert lines[2:8] == [
        " nothing to report so far",
        "",
        "  looked at    seen                              limit",
        "  saturation   41 % of layer 1 Tanh beyond 0.97  75 % at most",
        " !spread       0.62 → 0.32, × 0.52               × 0.6 to 1.6",
        "  update:data  not judged yet                    −3.5 to −1.75",
    ]
    assert "nothing to report so far" in words(replace(state, screen="dashboard"))
    judged = tuple(msgspec.structs.replace(one, seen="fine") for one in CHECKS)
    assert "so far" not in words(replace(state, checks=judged))
    assert "nothing seen yet" in words(replace(state, checks=()))
    assert "-> 0.32, x 0.52" in words(replace(state, glyphs=ASCII), 80, 12)


def test_the_twin_is_looked_at_beside_it() -> None:
    twin = (
        check("saturation", "3 % of layer 2 Tanh beyond 0.97", "30 % at most", found=True),
        check("running statistics", "2.34 evaluated, 2.44 minibatches", "0.15 apart"),
    )
    state = replace(view("doctor"), findings=(), checks=CHECKS, twin_checks=twin)
    wide = words(state, 140, 12)
    assert "75 % at most, twin 30 % at most" in wide
    assert "!3 % of layer 2 Tanh" in wide
    assert "2.34 evaluated" in wide
    assert "nothing to report so far of the run; of its twin there is" in wide
    narrow = [line.rstrip() for line in words(state, 80, 14).splitlines()]
    assert narrow[4] == "  looked at    seen                              limit"
    assert narrow[8] == " !twin: saturation 3 % of layer 2 Tanh beyond 0.97"
    healthy = tuple(msgspec.structs.replace(one, found=False) for one in twin)
    assert " twin: nothing to report" in words(replace(state, twin_checks=healthy), 80, 14)


def test_where_something_is_wrong_the_checks_stand_below_it_while_there_is_room() -> None:
    state = replace(view("doctor"), checks=CHECKS)
    assert "looked at" in words(state, 80, 30)
    assert "within their limits: saturation" in words(state, 80, 12)
    small = words(state, 80, 10)
    assert "looked at" not in small
    assert "try " in small


def test_the_finding_under_the_cursor_stays_there_when_another_comes_above_it() -> None:
    other = msgspec.structs.replace(canned.FOUND, name="saturated", fix={"norm": "batch"})
    state = examined(view("doctor"), Examination((other, canned.FOUND)))
    assert command(state, "enter") == Set({"gain": 5 / 3})
    assert command(examined(state, Examination((canned.FOUND,))), "enter") == Set({"gain": 5 / 3})
    assert command(examined(state, Examination((other,))), "enter") == Set({"norm": "batch"})
    unseen = examined(replace(view("doctor"), screen="dashboard"), Examination((other, canned.FOUND)))
    assert command(replace(unseen, screen="doctor"), "enter") == Set({"norm": "batch"})


def test_what_enter_does_is_told_on_a_small_screen_and_not_where_it_may_not() -> None:
    long = msgspec.structs.replace(canned.FOUND, evidence="std 0.62 " * 9, why="Tanh squeezes. " * 9)
    state = replace(view("doctor"), findings=(canned.FOUND,) * 5 + (long,) * 5, options={"doctor_row": 5})
    small = words(state, 40, 12)
    assert "try    gain 5/3" in small
    assert "enter  gain 5/3" in small
    assert "more above" in small
    for name in ("doctor", "gain", "find-lr", "presets"):
        for readonly, absent in ((False, ""), (True, ""), (False, "nobody is training it now")):
            own = text_of(screen(name).draw(replace(view(name), readonly=readonly, absent=absent), 100, 30))
            assert ("enter" in "".join(own)) == (not readonly and not absent)


def test_symbols_of_the_alphabet_are_harmless() -> None:
    shown = view("batchnorm", bn_part=1)
    data = shown.history.exhibits["batchnorm"].data
    company = data["company"]
    assert isinstance(company, dict)
    hostile = replace(shown, history=History())
    company = company | {"symbols": ["\x1b[31m", "\x9b2J", "\u202e"] * 9}
    hostile.history.exhibits["batchnorm"] = Exhibit("batchnorm", 30, {**data, "company": company})
    for cells in (40, 80, 160):
        lines = draw(hostile, cells, 30)
        assert [cells_of(line) for line in lines] == [cells] * 30
        assert all(char.isprintable() for char in "".join(text_of(lines)))


def pressed(view: View, key: str) -> View:
    answer = answer_of(view, key)
    assert answer is not None
    return answer.view


def command(view: View, key: str) -> Command | None:
    answer = answer_of(view, key)
    assert answer is not None
    return answer.command


def answer_of(view: View, key: str) -> Pressed | None:
    press = screen(view.screen).press
    assert press is not None
    return press(view, key)


# --- in the studio


class Asked:
    """A stream that says what there is to say at once, and keeps what was asked."""

    def __init__(self, preset: str) -> None:
        taken = history(preset)
        assert taken.snapshot is not None
        self.events: list[Event] = [taken.snapshot]
        self.answers = taken.exhibits
        self.sent: list[Command] = []

    def drain(self) -> list[Event]:
        events, self.events = self.events, []
        return events

    def send(self, command: Command) -> None:
        self.sent.append(command)
        if isinstance(command, Look):
            self.events.append(msgspec.structs.replace(self.answers[command.name], options=command.options))


async def until(pilot: object, reached: object) -> None:
    """Let the studio tick until something has come about; 10 seconds at most."""
    for _ in range(1000):
        if reached():  # type: ignore[operator]
            return
        await pilot.pause(0.01)  # type: ignore[attr-defined]
    raise AssertionError("it has not come about")


@pytest.mark.parametrize(("key", "name"), [("5", "dead-map"), ("6", "backward"), ("B", "batchnorm"), ("i", "gain")])
async def test_a_screen_asks_for_what_it_shows(key: str, name: str) -> None:
    stream = Asked("mlp-batchnorm")
    studio = Studio(stream, fps=50)
    async with studio.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: studio.history.snapshot is not None)
        await pilot.press(key)
        await until(pilot, lambda: name in studio.history.exhibits)
        assert isinstance(stream.sent[0], Look)
        assert stream.sent[0].name == name
        await pilot.press("right", "down", "escape")
        assert studio.state.screen == "dashboard"


async def test_enter_leads_from_an_explanation_back_to_what_it_explains() -> None:
    studio = Studio(Asked("mlp-batchnorm"), fps=50)
    async with studio.run_test(size=(160, 48)) as pilot:
        await until(pilot, lambda: studio.history.snapshot is not None)
        await pilot.press("i", "e", "enter")
        assert studio.state.screen == "gain"
        assert not any(isinstance(command, Set) for command in studio.stream.sent)  # type: ignore[attr-defined]


async def test_what_an_explained_screen_needs_is_asked_for_while_it_is_explained() -> None:
    studio = Studio(Asked("mlp-batchnorm"), fps=50)
    async with studio.run_test(size=(160, 48)) as pilot:
        await until(pilot, lambda: studio.history.snapshot is not None)
        studio.state = replace(studio.state, screen="explain", options={"explained": "gain"})
        await until(pilot, lambda: "gain" in studio.history.exhibits)


async def test_where_nobody_trains_the_run_nobody_is_asked_and_waiting_ends() -> None:
    stream, told = Asked("mlp-batchnorm"), "nobody is training it now"
    answers, stream.answers = stream.answers, {}
    gone: list[str] = []
    studio = Studio(stream, fps=50, absent=lambda: gone[0] if gone else "")

    def shown() -> str:
        return "\n".join(text_of(studio.panel.picture))

    stream.send = stream.sent.append  # type: ignore[method-assign]
    async with studio.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: studio.history.snapshot is not None)
        await pilot.press("6")
        await until(pilot, lambda: bool(stream.sent) and "asking for the gradients" in shown())
        gone.append(told)
        await until(pilot, lambda: told in shown())
        assert studio.state.message == told  # at once, where there is no room for a line of its own
        studio.message_until = 0.0
        await pilot.press("escape")
        await until(pilot, lambda: shown().splitlines()[22] == told and not studio.state.message)
        stream.sent.clear()
        await pilot.press("5", "8", "down", "B", "G", "space", "n", "r", "t", ">")
        assert studio.state.message == told
        assert stream.sent == []
        gone.clear()
        stream.answers = answers
        del stream.send  # type: ignore[method-assign]
        await until(pilot, lambda: "batchnorm" in studio.history.exhibits)
        await pilot.press("G")
        assert isinstance(stream.sent[-1], Set)


async def test_the_finder_and_the_doctor_change_the_run_but_not_read_only() -> None:
    for readonly in (False, True):
        stream = Asked("deep-tanh-gain1")
        studio = Studio(stream, fps=50, readonly=readonly)
        studio.chart.examine = lambda: Examination((canned.FOUND,))  # type: ignore[method-assign]
        async with studio.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda studio=studio: bool(studio.state.findings))
            await pilot.press("8")
            await until(pilot, lambda studio=studio: "find-lr" in studio.history.exhibits)
            await pilot.press("enter", "D", "enter", "e")
            assert studio.state.screen == "explain"
            assert studio.state.options["explained"] == "doctor"
        changes = [list(command.changes) for command in stream.sent if isinstance(command, Set)]
        assert changes == ([] if readonly else [["lr"], ["gain"]])


async def test_what_enter_applies_is_live_where_that_is_on() -> None:
    stream = Asked("deep-tanh")
    studio = Studio(stream, fps=50)
    studio.chart.examine = lambda: Examination((canned.FOUND,))  # type: ignore[method-assign]
    async with studio.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: bool(studio.state.findings))
        await pilot.press("i")
        await until(pilot, lambda: "gain" in studio.history.exhibits)
        await pilot.press("up", "L", "enter")
        assert stream.sent[-1] == Set({"gain": 1.5}, live=True)
        assert studio.state.message == "gain 5/3 → 1.5, applied to the live weights; u undoes it"
        await pilot.press("D", "enter")
        assert stream.sent[-1] == Set({"gain": 5 / 3}, live=True)
        assert studio.state.message == "gain 1.5 → 5/3, applied to the live weights; u undoes it"
        await pilot.press("P", "down", "enter")
        assert isinstance(stream.sent[-1], Set)
        assert (stream.sent[-1].live, stream.sent[-1].fresh) == (False, True)
        assert ", restarted from the seed" in studio.state.message


@pytest.mark.parametrize("state", ["running", "finished", "diverged"])
async def test_an_experiment_with_something_to_see_at_the_start_waits_there(state: State) -> None:
    stream = Asked("deep-batchnorm")
    stream.events = [msgspec.structs.replace(event, state=state) for event in stream.events]
    studio = Studio(stream, fps=50)
    async with studio.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: studio.history.snapshot is not None)
        await pilot.press("P", "home", *["down"] * list(PRESETS).index("deep-linear"))
        assert any("enter starts it, paused at step 1" in row for row in text_of(studio.panel.picture))
        await pilot.press("enter")
    assert [getattr(command, "paused", None) for command in stream.sent] == [True]


async def test_a_key_pressed_in_a_frozen_view_acts_on_the_net_as_it_is_now() -> None:
    stream = Asked("deep-batchnorm")
    studio = Studio(stream, fps=50)
    async with studio.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: studio.history.snapshot is not None)
        now = studio.history.snapshot
        assert now is not None
        await pilot.press("p")
        stream.events.append(msgspec.structs.replace(now, attempt=1, config={**now.config, "norm": "none"}))
        await until(pilot, lambda: studio.history.snapshot is not now)
        await pilot.press("P", "home", *["down"] * list(PRESETS).index("deep-batchnorm"), "enter")
        assert stream.sent == [Set({"norm": "batch"}, fresh=True)]
        assert studio.state.history is not studio.history  # what is shown stays frozen
