"""The app driven by keys over a stream that is made up: every press shows at once and becomes the right command."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import msgspec
import pytest
from rich.color import Color
from textual.pilot import Pilot

from app import studio
from app.keys import CHANGING, KEYS
from app.panel import LOOKS, colour
from app.studio import GAIN_LADDER, PENDING_SECONDS, Studio, neighbour, next_lr
from app.views import SCREENS
from app.views.state import selected
from makemore_core.command import Back, Look, Pace, Pause, Restart, Resume, Sample, Set, Step, Twin
from makemore_core.config import Config
from makemore_core.doctor import Examination
from makemore_core.snapshot import Event, Exhibit, Intervention
from tests.canned import HUNDRED, FakeStream, Shape, nan, snapshot, text_of

DEADLINE = 20.0


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said is there until it is asked for, however busy the machine is."""
    monkeypatch.setattr(studio, "MESSAGE_SECONDS", 10 * DEADLINE)


class Clock:
    """Time that moves a tenth of a second with every look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.1
        return self.now


def picture(app: Studio) -> str:
    return "\n".join(text_of(app.panel.picture))


async def until(pilot: Pilot[int], true: Callable[[], bool]) -> None:
    """Wait for a state, not for a time."""
    end = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < end, "never came about:\n" + picture(pilot.app)  # type: ignore[arg-type]
        await pilot.pause()
        await asyncio.sleep(0.005)


@asynccontextmanager
async def running(
    shape: Shape | None = None, size: tuple[int, int] = (80, 24), **options: object
) -> AsyncIterator[tuple[Pilot[int], Studio, FakeStream]]:
    stream = FakeStream(*([shape] if shape else []), clock=Clock())
    app = Studio(stream, fps=60, ascii=False, **options)  # type: ignore[arg-type]
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.history.snapshot is not None and " Tanh " in picture(app))
        yield pilot, app, stream


@pytest.mark.parametrize(
    ("key", "sent", "said"),
    [
        ("space", Pause(), "pause"),
        (".", Step(1), "one step"),
        ("n", Sample(), "sampling names"),
        ("<", Pace(1000.0), "at most 1,000 steps a second"),
        (">", Pace(), "as fast as it goes"),
        ("N", Sample(temperature=1.5), "sampling names at temperature 1.5"),
        ("r", Restart(), "restarted from the seed; u undoes it"),
        ("u", Back(), ""),
        ("U", Back(forth=True), ""),
        ("b", Set({"norm": "none"}), "norm batch → none, restarted from the seed; u undoes it"),
        ("G", Set({"gain": 1.5}), "gain 1 → 1.5, restarted from the seed; u undoes it"),
        ("g", Set({"gain": 0.5}), "gain 1 → 0.5, restarted from the seed; u undoes it"),
        ("+", Set({"lr": 0.2}), "lr 0.1 → 0.2"),
        ("-", Set({"lr": 0.05}), "lr 0.1 → 0.05"),
        ("f", Set({"fan_in": "off"}), "fan_in on → off, restarted from the seed; u undoes it"),
        ("a", Set({"nonlinearity": "relu"}), "nonlinearity tanh → relu, restarted from the seed; u undoes it"),
    ],
)
async def test_a_key_becomes_a_command_and_says_so_at_once(key: str, sent: object, said: str) -> None:
    async with running() as (pilot, app, stream):
        await pilot.press(key)
        assert stream.sent == [sent]
        assert app.state.message == said
        assert said in picture(app)


async def test_two_presses_before_the_trainer_answers_are_two_rungs() -> None:
    async with running() as (pilot, app, stream):
        stream.drain = list  # type: ignore[method-assign]
        await pilot.press("G", "G", "-", "-")
        assert [c.changes for c in stream.sent if isinstance(c, Set)] == [
            {"gain": 1.5}, {"gain": 5 / 3}, {"lr": 0.05}, {"lr": 0.02},
        ]  # fmt: skip
        assert app.state.message == "lr 0.05 → 0.02"


async def test_what_is_not_carried_out_is_given_up_though_nothing_comes() -> None:
    async with running() as (pilot, app, stream):
        stream.drain = list  # type: ignore[method-assign]
        await pilot.press("G")
        assert app.setting("gain") == 1.5
        asked = app.clock()
        app.clock = lambda: asked + PENDING_SECONDS
        await until(pilot, lambda: app.setting("gain") == 1.0)


async def test_fan_in_comes_back_as_the_net_had_it() -> None:
    async with running() as (pilot, app, stream):
        for shrink, divided in ((0.01, "hidden"), (0.1, "on")):
            stream.send(Set({"fan_in": divided, "last_shrink": shrink}))
            await until(pilot, lambda shrink=shrink: app.setting("last_shrink") == shrink)
            await pilot.press("f", "f")
            assert [c.changes for c in stream.sent if isinstance(c, Set)][-2:] == [
                {"fan_in": "off"}, {"fan_in": divided},
            ]  # fmt: skip


async def test_the_gain_ends_with_its_ladder() -> None:
    async with running() as (pilot, app, stream):
        await pilot.press(*"GGGGGG")
        assert app.state.message == "gain 5 is the largest on the ladder"
        assert stream.sent[-1] == Set({"gain": 5.0})
        assert len(stream.sent) == 5


async def test_a_gain_larger_than_auto_is_larger_than_pytorchs() -> None:
    async with running() as (pilot, app, stream):
        stream.send(Set({"gain": "auto"}))
        await until(pilot, lambda: app.setting("gain") == "auto")
        await pilot.press("G")
        assert stream.sent[-1] == Set({"gain": 2.0})


def test_the_help_tells_the_gains_of_the_ladder() -> None:
    told = next(key.help for key in KEYS if key.action == "gain(1)").partition(": ")[2].split()
    assert [float(Fraction(gain)) for gain in told] == list(GAIN_LADDER)


async def test_that_changes_are_live_is_seen_at_every_size() -> None:
    async with running() as (pilot, app, _):
        await pilot.press("L")
        app.state = replace(app.state, message="")
        for size in ((40, 8), (60, 14), (80, 24), (160, 48)):
            await pilot.resize_terminal(*size)
            await until(pilot, lambda size=size: len(app.panel.picture) == size[1])
            assert picture(app).endswith("  L live: on")
        await pilot.press("L")
        assert "live: on" not in picture(app)


async def test_a_slip_in_the_twins_settings_can_be_corrected() -> None:
    async with running(size=(80, 12)) as (pilot, app, stream):
        await pilot.press("t")
        assert "twin with norm=none_" in picture(app)
        assert picture(app).endswith("   enter: both from the seed, esc: no; key=value or preset")
        await pilot.press(*"lr=2X", "enter")  # in the place of what was proposed
        assert "lr=2X: " in picture(app)
        assert (app.state.prompt, app.state.typed, stream.sent) == ("twin", "lr=2X", [])
        await pilot.press("backspace")
        assert "twin with lr=2_" in picture(app)
        await pilot.press("enter")
        assert stream.sent == [Twin({"lr": 2.0})]


async def test_the_proposed_twin_can_be_taken_and_added_to() -> None:
    async with running() as (pilot, _, stream):
        await pilot.press("t", "space", *"lr=2", "enter")
        assert stream.sent == [Twin({"norm": "none", "lr": 2.0})]


async def test_undo_is_asked_of_the_trainer_which_says_what_came_of_it() -> None:
    async with running() as (pilot, _, stream):
        await pilot.press("+", "u", "U")
        assert stream.sent == [Set({"lr": 0.2}), Back(), Back(forth=True)]


async def test_what_a_key_changes_is_changed_of_the_net_that_is_gone_back_to() -> None:
    async with running() as (pilot, app, stream):
        events: list[Event] = []
        stream.drain = lambda: [events.pop(0)] if events else []  # type: ignore[method-assign]
        await pilot.press("+", "u", "u", "+")
        assert stream.sent == [Set({"lr": 0.2}), Back(), Back()]
        for answered in (1, 2):
            events.append(snapshot(step=stream.step, answered=answered))
        await until(pilot, lambda: app.last is not None and app.last.answered == 2)
        await pilot.press("+")
        assert "not yet: the run is going to another net" in picture(app)
        events.append(snapshot(step=stream.step, answered=3, config=Config(lr=0.5).as_dict()))
        await until(pilot, lambda: app.setting("lr") == 0.5)
        await pilot.press("+")
        assert stream.sent[3:] == [Set({"lr": 1.0})]


async def test_what_the_trainer_says_is_shown_at_once_but_what_was_said_here_not_again() -> None:
    async with running() as (pilot, app, stream):
        events: list[Event] = []
        stream.drain = lambda: [events.pop(0)] if events else []  # type: ignore[method-assign]
        step = stream.step

        async def told(message: str, *marks: Intervention) -> None:
            nonlocal step
            step += 1
            events.append(snapshot(step=step, message=message, answered=step, interventions=marks))
            await until(pilot, lambda: app.history.snapshot.step == step)  # type: ignore[union-attr]

        mark = Intervention(5, "restart")
        await told("")
        await pilot.press("r")
        await told("restarted: a new net from the seed", mark)
        assert "restarted from the seed; u undoes it" in picture(app)
        app.message_until = app.clock()
        await until(pilot, lambda: not app.state.message)
        assert "a new net from the seed" not in picture(app)
        await pilot.press("r")
        await told("this net is not left, for the disk is full", mark)
        await until(pilot, lambda: "this net is not left, for the disk is full" in picture(app))
        await pilot.press("+")
        await told("lr 0.1 → 0.2; it cannot be undone", mark, Intervention(6, "lr 0.1 → 0.2"))
        await until(pilot, lambda: "it cannot be undone" in picture(app))
        for other in ("gain 1 → 2", "restarted"):  # from somewhere else, in words that were heard before or not
            await told(f"{other}: a new net from the seed", mark, mark, mark)
            await until(pilot, lambda other=other: f"{other}: a new net from the seed" in picture(app))
        refused = "the run is finished, so a live change would not be seen"
        for _ in range(2):
            await pilot.press("b")
            assert "norm batch → none" in picture(app)
            await told(refused, mark, mark, mark)
            await until(pilot, lambda: refused in picture(app))
            assert not app.awaited


async def test_trouble_that_lasts_is_told_once_and_takes_no_words_away() -> None:
    async with running() as (pilot, app, stream):
        step = stream.step
        lost = [snapshot(step=step + n, message=f"{n:,} records lost: no space left") for n in range(1, 40)]
        stream.drain = lambda: [lost.pop(0)] if lost else []  # type: ignore[method-assign]
        await until(pilot, lambda: "records lost: no space left" in picture(app))
        await pilot.press("+")
        await until(pilot, lambda: not lost)
        assert "lr 0.1 → 0.2" in picture(app)
        await pilot.press("+")
        assert stream.sent == [Set({"lr": 0.2}), Set({"lr": 0.5})]


async def test_what_the_trainer_says_is_shown_in_a_frozen_view_too() -> None:
    async with running() as (pilot, app, stream):
        step = stream.step
        await pilot.press("p")
        stream.drain = lambda: [snapshot(step=step + 1, message="back to the net at step 40", answered=1)]  # type: ignore[method-assign]
        await until(pilot, lambda: "back to the net at step 40" in picture(app))


async def test_a_twin_that_is_there_from_the_start_is_pointed_at() -> None:
    stream = FakeStream(clock=Clock())
    drain = stream.drain
    stream.drain = lambda: [msgspec.structs.replace(one, twin=one) for one in drain()]  # type: ignore[method-assign]
    app = Studio(stream, fps=60, ascii=False)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "a twin is trained beside this run: 7 shows both" in picture(app))


async def test_live_changes_are_asked_for_as_such() -> None:
    async with running() as (pilot, app, stream):
        await pilot.press("L", "G")
        assert stream.sent == [Set({"gain": 1.5}, live=True)]
        assert "applied to the live weights" in app.state.message


async def test_a_setting_that_is_so_already_is_not_asked_for() -> None:
    async with running() as (_, app, stream):
        app.put(Set({"gain": 1.0}))
        assert app.state.message == "gain is 1 already"
        app.put(Set({}))
        assert app.state.message == "nothing to change"
        assert stream.sent == []


async def test_space_pauses_and_goes_on() -> None:
    async with running() as (pilot, app, stream):
        await pilot.press("space")
        await until(pilot, lambda: "paused" in picture(app).splitlines()[0])
        assert "space go on" in picture(app)
        await pilot.press("space")
        assert stream.sent == [Pause(), Resume()]
        await until(pilot, lambda: "training" in picture(app).splitlines()[0])


async def test_space_trains_on_past_the_end() -> None:
    async with running() as (pilot, app, stream):
        stream.send(Set({"steps": stream.step + 1000}))
        await until(pilot, lambda: "finished" in picture(app).splitlines()[0])
        assert "space go on" in picture(app)
        end = stream.step
        await pilot.press("space")
        assert stream.sent[-1] == Set({"steps": 2 * end})
        await until(pilot, lambda: stream.step > end and f"/{2 * end:,} " in picture(app).splitlines()[0])


async def test_space_trains_a_run_of_no_steps() -> None:
    async with running() as (pilot, app, stream):
        stream.drain = lambda: [snapshot(step=0, steps=0, state="finished", attempt=1, config={"steps": 0})]  # type: ignore
        await until(pilot, lambda: app.history.snapshot.step == 0)  # type: ignore[union-attr]
        await pilot.press("space")
        assert stream.sent == [Set({"steps": 200_000})]


async def test_a_finished_run_goes_on_by_a_step_and_cannot_be_frozen() -> None:
    async with running() as (pilot, app, stream):
        stream.send(Set({"steps": stream.step + 1000}))
        await until(pilot, lambda: "finished" in picture(app).splitlines()[0])
        end = stream.step
        await pilot.press("p")
        assert app.state.message == "finished: nothing moves that could be frozen"
        assert not app.state.frozen
        await pilot.press(".", ".")
        assert stream.sent[-2:] == [Set({"steps": end + 1}), Set({"steps": end + 2})]
        await until(pilot, lambda: stream.step == end + 2 and app.history.snapshot.state == "finished")  # type: ignore


@pytest.mark.parametrize("state", ["paused", "unresponsive"])
async def test_a_run_that_does_not_move_is_frozen_without_training_on(state: str) -> None:
    async with running() as (pilot, app, stream):
        stream.drain = lambda: [snapshot(step=7777, state=state)]  # type: ignore[method-assign]
        await until(pilot, lambda: app.history.snapshot.state == state)  # type: ignore[union-attr]
        await pilot.press("p")
        assert re.fullmatch(r"view frozen at step [\d,]+; p lets it move", app.state.message)


async def test_a_restart_leaves_a_ghost_and_a_mark() -> None:
    async with running(size=(120, 40)) as (pilot, app, _):
        await pilot.press("G")
        await until(pilot, lambda: bool(app.history.ghosts) and "▾gain 1 → 1.5" in picture(app))


async def test_a_frozen_view_stands_while_training_goes_on() -> None:
    async with running() as (pilot, app, _):
        await pilot.press("p")
        step = app.state.history.snapshot.step  # type: ignore[union-attr]
        still = picture(app)
        await until(pilot, lambda: app.history.snapshot.step > step + 2000)  # type: ignore[union-attr]
        assert picture(app).splitlines()[:20] == still.splitlines()[:20]
        assert "view frozen" in still
        await pilot.press("p")
        assert "training" in picture(app).splitlines()[0]


async def test_every_screen_opens_by_its_key_and_closes_by_escape() -> None:
    async with running() as (pilot, app, _):
        keys = {key.action.removeprefix("screen('").removesuffix("')"): key.shown for key in KEYS}
        for screen in SCREENS[1:]:
            if screen.name == "explain":
                continue
            await pilot.press(keys[screen.name])
            assert app.state.screen == screen.name
            for leave in ("e", "escape"):  # what was explained is come back to
                await pilot.press("e", leave)
                assert app.state.screen == screen.name
            await pilot.press("escape")
            assert app.state.screen == "dashboard"
        await pilot.press("?")
        assert app.state.screen == "help"
        await pilot.press("?")
        assert app.state.screen == "dashboard"


async def test_in_the_help_a_key_tells_what_it_does_and_does_not_do_it() -> None:
    async with running() as (pilot, app, stream):
        await pilot.press("?")
        for key in KEYS:
            for name in key.keys if key.group in CHANGING else ():
                await pilot.press(name)
                assert app.state.message == f"{key.shown}: {key.help} (not done while the help is shown)"
        assert (stream.sent, app.state.screen) == ([], "help")
        await pilot.press("x")
        assert app.state.message == "x does nothing; ? tells every key"
        await pilot.press("?", "+")
        assert stream.sent == [Set({"lr": 0.2})]


async def test_left_and_right_turn_over_the_screens() -> None:
    async with running() as (pilot, app, _):
        for key, shown in (("right", SCREENS[1]), ("left", SCREENS[0]), ("left", SCREENS[-1]), ("right", SCREENS[0])):
            await pilot.press(key)
            assert app.state.screen == shown.name


async def test_a_key_changes_the_scale_of_the_loss() -> None:
    async with running(size=(160, 48)) as (pilot, app, _):
        for said, log in (("logarithmic loss", True), ("linear loss", False)):
            await pilot.press("y")
            assert app.state.message == said
            assert ("log scale," in picture(app)) == log


async def test_what_is_said_is_gone_after_some_seconds() -> None:
    async with running() as (pilot, app, _):
        await pilot.press("y")
        said = app.clock()
        for later, shown in ((DEADLINE, True), (11 * DEADLINE, False)):
            app.clock = lambda now=said + later: now  # type: ignore[misc]
            app.tick()
            assert bool(app.state.message) == shown


async def test_the_cursor_moves_and_enter_enlarges_its_layer() -> None:
    async with running() as (pilot, app, _):
        assert app.state.cursor == 1  # the first layer, behind the embedding
        await pilot.press("tab", "j", "k")
        assert app.state.cursor == 2
        await pilot.press("enter")
        assert app.state.screen == "layer"
        assert "5 Tanh" in picture(app)
        assert "activation, density" in picture(app)
        await pilot.press("down")
        assert "8 Tanh" in picture(app)
        await pilot.press("escape", "home", "up")
        assert app.state.cursor == 6  # round to the last


async def test_a_text_is_scrolled_by_lines_and_pages_and_no_further_than_its_ends() -> None:
    async with running(size=(60, 12)) as (pilot, app, _):
        cursor = app.state.cursor
        for keys, room in (("?", 9), ("e", 9)):
            await pilot.press(keys, "end")
            end = app.state.scroll
            assert "that is all" in picture(app)
            await pilot.press("pagedown", "down")
            assert app.state.scroll == end > 3
            await pilot.press("up", "pageup")
            assert app.state.scroll == max(0, end - 1 - room)
            await pilot.press("home")
            assert " more lines below" in picture(app)
            await pilot.press("escape")
            assert (app.state.screen, app.state.scroll, app.state.cursor) == ("dashboard", 0, cursor)


async def test_a_screen_without_layers_leaves_their_cursor_alone() -> None:
    async with running() as (pilot, app, _):
        cursor = app.state.cursor
        for screen in ("D", "P", "8"):
            await pilot.press(screen, "end", "pagedown")
        assert app.state.cursor == cursor


async def test_a_hundred_layers_scroll_with_the_cursor() -> None:
    async with running(HUNDRED) as (pilot, app, _):
        assert "more below" in picture(app)
        await pilot.press("end")
        assert "more above" in picture(app)
        assert "more below" not in picture(app)
        assert "▸" in picture(app)


async def test_the_filter_is_typed_kept_and_cleared() -> None:
    async with running() as (pilot, app, stream):
        await pilot.press("/", *"1b", "backspace", "1", "space", "T")
        assert app.state.filter == "11 T"
        assert not stream.sent  # letters of a filter are no keys
        await pilot.press("enter")
        assert "1 of 7 rows have '11 T'" in picture(app)
        await pilot.press("escape")
        assert app.state.filter == ""


async def test_a_filter_leaves_the_cursor_on_its_layer() -> None:
    async with running() as (pilot, app, _):
        await pilot.press("down", "down")
        for keys in (("/", *"tanh"), ("escape",), ("/", *"tanh", "enter"), ("escape",)):
            await pilot.press(*keys)
            row = selected(app.state)
            assert row is not None
            assert row.name == "8 Tanh"
        await pilot.press("/", *"C")
        assert app.state.cursor == 0


async def test_the_screen_of_a_twin_that_is_gone_is_left() -> None:
    async with running() as (pilot, app, stream):
        now = snapshot(step=stream.step + 1)
        stream.drain = lambda: [msgspec.structs.replace(now, twin=now)]  # type: ignore[method-assign]
        await pilot.press("7")
        await until(pilot, lambda: app.twinned)
        assert app.state.screen == "twin"
        stream.drain = lambda: [now]  # type: ignore[method-assign]
        await until(pilot, lambda: app.state.screen == "dashboard")


async def test_an_answer_that_cannot_change_is_not_asked_for_again() -> None:
    async with running(clock=Clock()) as (pilot, app, stream):
        stream.drain = list  # type: ignore[method-assign]
        step = stream.step + 10

        async def asked(state: str, exhibit: Exhibit | None) -> bool:
            app.history.feed([snapshot(step=step, state=state), *([exhibit] if exhibit else [])])
            before = len(stream.sent)
            for _ in range(60):  # each moves the clock by some tenths of a second
                app.tick()
            return len(stream.sent) > before

        await pilot.press("5")
        look = next(sent for sent in stream.sent if isinstance(sent, Look))
        assert await asked("paused", None)
        assert await asked("paused", Exhibit(look.name, step - 1, {}, look.options))
        assert await asked("paused", Exhibit(look.name, step, {}, {"unit": 1000}))
        assert not await asked("paused", Exhibit(look.name, step, {}, look.options))
        app.history.snapshot = msgspec.structs.replace(app.history.snapshot, config=Config(batch_size=64).as_dict())
        before = len(stream.sent)
        await until(pilot, lambda: len(stream.sent) > before)  # it may depend on what was changed
        assert await asked("running", None)


async def test_what_another_view_asked_for_is_not_shown_in_the_place_of_the_own() -> None:
    async with running() as (pilot, app, stream):
        shown = app.history.exhibits
        stream._answers.append(Exhibit("gain", 1, {}, {"depth": 500}))
        await until(pilot, lambda: "gain" in shown)  # better than nothing
        await pilot.press("i")
        await until(pilot, lambda: shown["gain"].options == {"depth": 50})
        await pilot.press("right")
        await until(pilot, lambda: shown["gain"].options == {"depth": 100})
        stream._answers += [Exhibit("gain", 2, {}, {"depth": 50}), Exhibit("dead-map", 2, {})]
        await until(pilot, lambda: "dead-map" in shown)
        assert shown["gain"].options == {"depth": 100}


async def test_the_name_of_a_folder_is_harmless_before_anything_was_read() -> None:
    app = Studio(FakeStream(rate=0), run="bad\x1b[2J", waiting="reading bad\x1b[2J")
    assert (app.state.run, app.state.waiting) == (r"bad\x1b[2J", r"reading bad\x1b[2J")


async def test_a_picture_is_saved_and_said_where(tmp_path: Path) -> None:
    async with running(pictures=tmp_path) as (pilot, app, stream):
        stream.drain = list  # type: ignore[method-assign]  # both of the same step
        await pilot.press("s", "s")
        saved = sorted(tmp_path.glob("*.svg"))
        assert len(saved) == 2
        assert "<svg" in saved[0].read_text(encoding="utf-8")
        assert app.state.message.startswith("picture saved: ")
    async with running(pictures=tmp_path / "missing") as (pilot, app, _):
        await pilot.press("s")
        assert app.state.message.startswith("no picture: No such file")


async def test_quitting_asks_and_may_be_cancelled() -> None:
    handed: list[bool] = []
    async with running(detach=handed.append) as (pilot, app, stream):
        for key in ("ctrl+c", "ctrl+q"):
            await pilot.press(key)
            assert app.state.prompt == "quit"
            await pilot.press("escape")
        await pilot.press("q")
        assert "stop and save" in picture(app)
        await pilot.press("space", "escape")
        assert app.state.prompt == ""
        assert not stream.sent
        await pilot.press("q", "s")
        await until(pilot, lambda: not app.is_running or app._exit)
    assert (app.return_code, app.stopped) == (0, True)
    assert handed == []


async def test_training_may_go_on_in_the_background_where_it_can() -> None:
    handed: list[bool] = []
    async with running(detach=handed.append) as (pilot, app, stream):
        await pilot.press("q")
        assert "keep training in the background" in picture(app)
        await pilot.press("k")
        await until(pilot, lambda: app._exit)
    assert handed == [False]
    assert not stream.sent


@pytest.mark.parametrize("keys", [["d"], ["q", "k"]], ids=str)
async def test_a_pause_that_was_just_asked_for_goes_along_into_the_background(keys: list[str]) -> None:
    handed: list[bool] = []
    async with running(detach=handed.append) as (pilot, app, _):
        await pilot.press("space", *keys)
        await until(pilot, lambda: app._exit)
    assert handed == [True]


@pytest.mark.parametrize("state", ["finished", "diverged"])
async def test_a_run_that_is_over_is_left_without_a_question_and_not_handed_over(state: str) -> None:
    handed: list[bool] = []
    for key in ("d", "q"):
        async with running(detach=handed.append) as (pilot, app, stream):
            await pilot.press("q")
            stream.drain = lambda: [snapshot(step=7777, state=state)]  # type: ignore[method-assign]
            await until(pilot, lambda app=app: app.state.prompt == "")
            assert app.state.message == "the run has ended meanwhile: q leaves"
            await pilot.press(key)
            await until(pilot, lambda app=app: app._exit)
    assert handed == []


async def test_leaving_the_run_of_another_process_does_not_stop_it() -> None:
    async with running() as (pilot, app, stream):
        await pilot.press("q")
        assert "training goes on" in picture(app)
        await pilot.press("enter")
        await until(pilot, lambda: app._exit)
    assert not stream.sent


async def test_keys_that_change_training_are_off_when_read_only() -> None:
    async with running(readonly=True) as (pilot, app, stream):
        await pilot.press("space", "b", "G", "+", "f", "a", "n", "r", ".", "L")
        assert not stream.sent
        assert "read only" in app.state.message
        await pilot.press("q")
        await until(pilot, lambda: app._exit)


async def test_training_starts_behind_the_first_picture() -> None:
    order: list[str] = []
    stream = FakeStream(clock=Clock())
    stream.drain = list  # type: ignore[method-assign]
    app = Studio(stream, ascii=False, start=lambda: order.append(picture(app)), waiting="loading torch and the data")
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: bool(order))
        assert "loading torch and the data" in order[0]
        await pilot.press("g")
        assert app.state.message == "not yet: loading torch and the data"


async def test_a_stream_that_breaks_is_lost_not_a_crash() -> None:
    async with running() as (pilot, app, stream):

        def broken() -> Iterator[Event]:
            yield snapshot(step=7777)
            raise OSError("Stale file handle")

        stream.drain = broken  # type: ignore[assignment,method-assign]
        await until(pilot, lambda: app.state.lost)
        assert picture(app).splitlines()[0].endswith("lost")
        assert "Stale file handle" in picture(app)
        assert app.history.snapshot.step == 7777  # type: ignore[union-attr]
        stream.drain = list  # type: ignore[method-assign]
        await until(pilot, lambda: not app.state.lost)


async def test_the_doctor_sees_what_came_last_though_nothing_comes_after_it() -> None:
    async with running() as (pilot, app, stream):
        app.examined = app.clock()  # he has just been asked
        app.state = replace(app.state, findings=())
        coming = [nan(7777)]
        stream.drain = lambda: [coming.pop()] if coming else []  # type: ignore[method-assign]
        await until(pilot, lambda: any(finding.name == "diverged" for finding in app.state.findings))


async def test_a_net_that_diverges_and_windows_that_change_size() -> None:
    async with running() as (pilot, app, stream):
        stream.drain = lambda: [nan(5000)]  # type: ignore[method-assign]
        await until(pilot, lambda: "diverged" in picture(app))
        await pilot.press("n", "N")
        assert app.state.message == "no names: the logits of a diverged net are no numbers"
        assert not stream.sent
        for size in ((40, 12), (10, 3), (220, 60), (80, 24)):
            await pilot.resize_terminal(*size)
            await until(pilot, lambda size=size: len(app.panel.picture) == size[1])


async def test_a_slow_screen_has_a_new_size_at_once() -> None:
    async with running() as (pilot, app, _):
        await pilot.press("2")
        app.clock = lambda: app.drawn_at  # nothing is due
        for size in ((100, 30), (80, 24)):
            await pilot.resize_terminal(*size)
            await until(pilot, lambda size=size: len(app.panel.picture) == size[1])


async def test_nothing_is_drawn_when_nothing_is_new_and_hidden_screens_are_not_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running() as (pilot, app, stream):
        await pilot.press("space")
        await until(pilot, lambda: "paused" in picture(app))
        app.state = app.state  # no message any more, nothing new
        drawn: list[str] = []
        real = app.panel.show
        monkeypatch.setattr(app.panel, "show", lambda lines: (drawn.append("x"), real(lines)))
        app.message_until = app.clock() + 1e9
        stream.drain = list  # type: ignore[method-assign]
        for _ in range(20):
            app.tick()
        assert not drawn


def test_ladders() -> None:
    assert neighbour((0.5, 1.0, 3.0), 1.2, 1) == 3.0
    assert neighbour((0.5, 1.0, 3.0), 1.2, -1) == 1.0
    assert neighbour((0.5, 1.0, 3.0), 3.0, 1) == 3.0
    assert [next_lr(x, 1) for x in (0.1, 0.2, 0.5, 0.07, 9)] == [0.2, 0.5, 1.0, 0.1, 10.0]
    assert [next_lr(x, -1) for x in (0.1, 0.2, 0.5, 0.07)] == [0.05, 0.1, 0.2, 0.05]


async def test_a_frozen_view_says_that_the_run_was_paused() -> None:
    async with running() as (pilot, app, _):
        await pilot.press("p")
        assert picture(app).splitlines()[0].endswith("view frozen")
        await pilot.press("space")
        await until(pilot, lambda: picture(app).splitlines()[0].endswith("frozen, paused"))
        assert "eta" not in picture(app)
        assert "space go on" in picture(app)


async def test_what_was_said_before_the_run_began_is_not_said_of_it() -> None:
    stream = FakeStream(clock=Clock())
    drain, stream.drain = stream.drain, list  # type: ignore[method-assign, assignment]
    app = Studio(stream, fps=60, ascii=False)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("space")
        assert "not yet: loading torch and the data" in picture(app)
        stream.drain = drain  # type: ignore[method-assign]
        await until(pilot, lambda: app.history.snapshot is not None and "not yet" not in picture(app))
        assert app.clock() < app.message_until


async def test_earlier_curves_that_were_taken_away_while_frozen_stay_away() -> None:
    async with running() as (pilot, app, _):
        await pilot.press("G")
        await until(pilot, lambda: bool(app.history.ghosts))
        await pilot.press("p", "0", "p")
        assert app.history.ghosts == []


async def test_the_doctor_of_a_frozen_view_stands_still_too() -> None:
    asked: list[int] = []
    async with running() as (pilot, app, stream):
        app.chart.examine = lambda: asked.append(1) or Examination()  # type: ignore[func-returns-value,method-assign]
        await until(pilot, lambda: bool(asked))
        await pilot.press("p")
        before, step = len(asked), stream.step
        app.examined = -math.inf
        await until(pilot, lambda: stream.step > step + 2000)
        assert len(asked) == before
        await pilot.press("p")
        await until(pilot, lambda: len(asked) > before)


async def test_a_twin_is_not_ended_by_one_key() -> None:
    async with running() as (pilot, app, stream):
        stream.drain = list  # type: ignore[method-assign]
        app.history.feed([msgspec.structs.replace(snapshot(step=stream.step + 1), twin=snapshot(step=stream.step + 1))])
        await pilot.press("t", "n", "t", "escape", "t", "enter")
        assert "End the twin? It is not kept." in picture(app)
        assert stream.sent == []
        await pilot.press("y")
        assert stream.sent == [Twin()]
        assert "End the twin" not in picture(app)


@pytest.mark.parametrize("answer", ["enter", "y"])
async def test_a_question_about_the_twin_is_answered_to_nobody_who_is_gone(answer: str) -> None:
    gone: list[str] = []
    async with running(absent=lambda: gone[0] if gone else "") as (pilot, app, stream):
        stream.drain = list  # type: ignore[method-assign]
        if answer == "y":
            app.history.feed([msgspec.structs.replace(snapshot(step=stream.step + 1), twin=snapshot())])
        await pilot.press("t")
        gone.append("nobody is training it now")
        await pilot.press(answer)
        assert stream.sent == []
        assert (app.state.message, app.state.prompt) == (gone[0], "")


async def test_a_key_is_not_confirmed_to_a_trainer_that_does_not_answer() -> None:
    async with running() as (pilot, app, stream):
        stream.drain = list  # type: ignore[method-assign]
        app.history.feed([msgspec.structs.replace(snapshot(step=stream.step + 1), state="unresponsive")])
        await pilot.press("b", "+", "space")
        assert (stream.sent, app.state.message) == ([], "its trainer does not answer: nothing was sent")
        app.history.feed([snapshot(step=stream.step + 2)])
        await pilot.press("space")
        assert stream.sent == [Pause()]


async def test_a_light_terminal_gets_other_colours_and_a_saved_picture_does_not(tmp_path: Path) -> None:
    async with running(light=True, pictures=tmp_path) as (pilot, app, _):
        styles = [segment.style for y in range(24) for segment in app.panel.render_line(y)]
        numbers = {style.color.number for style in styles if style and style.color}
        assert numbers <= {colour(name, "light") for name in LOOKS}
        await pilot.press("s")
        await until(pilot, lambda: any(path.read_text().endswith("</svg>\n") for path in tmp_path.glob("*.svg")))
        (saved,) = tmp_path.glob("*.svg")
        assert Color.from_ansi(colour("activation", "dark") or 0).get_truecolor().hex in saved.read_text()
        assert app.panel.palette == "light"
