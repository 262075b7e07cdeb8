"""The studio: a Textual app over a `Stream`.

It reads the stream on a timer and never waits for it, keeps the history, and hands frozen view states to the pure
views; keys become commands. It knows nothing of how the net is trained, nor where.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import msgspec
from textual import events
from textual.app import App, ComposeResult

from app.glyphs import ASCII, UNICODE, clip, escape
from app.history import STILL, Beside, History
from app.keys import CHANGING, KEYS, bindings
from app.panel import Panel
from app.terminal import ascii_wanted, light_wanted
from app.views import SCREENS, draw, screen, scrolled
from app.views.doctor import examined
from app.views.explain import about
from app.views.state import MOVES, View, rows, selected
from makemore_core.command import (
    CHANGES,
    Back,
    Command,
    Look,
    Pace,
    Pause,
    Restart,
    Resume,
    Sample,
    Set,
    Step,
    Stream,
    Twin,
    in_words,
)
from makemore_core.config import Config, Nonlinearity, Value, decayed, keeps_weights, shown
from makemore_core.doctor import GAINS, Chart, division
from makemore_core.presets import twin_changes
from makemore_core.snapshot import ENDED, Event, Exhibit, Snapshot, gist

GAIN_LADDER = (0.1, 0.2, 0.5, 1.0, 1.5, 5 / 3, 2.0, 3.0, 5.0)
TEMPERATURES = (0.5, 0.75, 1.0, 1.5, 2.0)
PACES = (1.0, 10.0, 100.0, 1000.0, math.inf)  # steps a second
LR_LADDER = (1.0, 2.0, 5.0)
NONLINEARITIES = get_args(Nonlinearity)
MESSAGE_SECONDS = 6.0
PENDING_SECONDS = 3.0
FEW = 3  # questions whose answers may still be on the way


class Studio(App[int]):
    """Shows a run and lets it be changed. `start` is called once, when the first picture is on the screen.

    `detach` has a run of this process go on in another one, or wait there: its argument. None where it is another one
    that trains it.
    `absent` says why nobody would obey, in a line; nothing where somebody trains the run.
    """

    CSS_PATH = "studio.tcss"
    ENABLE_COMMAND_PALETTE = False
    TITLE = "makemore"
    BINDINGS = list(bindings())  # noqa: RUF012

    def __init__(
        self,
        stream: Stream,
        *,
        run: str = "makemore",
        readonly: bool = False,
        ascii: bool | None = None,  # noqa: A002
        light: bool | None = None,
        fps: float = 10.0,
        start: Callable[[], None] | None = None,
        detach: Callable[[bool], None] | None = None,
        absent: Callable[[], str] = lambda: "",
        pictures: Path | None = None,
        waiting: str = "loading torch and the data",
        beside: Beside | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(ansi_color=True)
        self.stream, self.start, self.detach_run = stream, start, detach
        self.fps, self.clock, self.absent = fps, clock, absent
        self.pictures = pictures or Path.cwd()
        self.history, self.chart = History(beside), Chart()
        use_ascii = ascii_wanted() if ascii is None else ascii
        self.state = View(
            self.history,
            (ASCII if use_ascii else UNICODE)._replace(coloured=not self.no_color),
            run=escape(run, ascii=use_ascii),
            readonly=readonly,
            waiting=escape(waiting, ascii=use_ascii),
        )
        light = light_wanted() if light is None else light
        self.ground_unknown = light is None and not self.no_color
        self.panel = Panel(self.paint, palette="none" if self.no_color else "light" if light else "dark")
        self.pending: dict[str, tuple[Value, float]] = {}
        self.message_until = 0.0
        self.drawn: tuple[object, ...] = ()
        self.drawn_at = -math.inf
        self.asked_at: dict[str, float] = {}
        self.asked: dict[str, list[Look]] = {}  # by name, what no answer has come to yet and the newest
        self.examined = -math.inf
        self.last: Snapshot | None = None  # that came
        self.placed = self.twinned = False
        self.awaited = 0  # changes that were asked for here and have not been answered yet
        self.due = 0  # how many answers there will be once everything asked for here is answered
        self.returns = 0, -math.inf  # after how many answers another net is there, and when that is given up
        self.stopped = False  # whether the run is to stop, once the terminal is given back
        self.unexamined = False  # whether anything came since the chart was read

    # --- the picture ---

    def compose(self) -> ComposeResult:
        yield self.panel

    def on_mount(self) -> None:
        self.set_interval(1 / self.fps, self.tick)
        self.call_after_refresh(self.begin)

    def begin(self) -> None:
        """The first picture is up: let training start behind it."""
        self.paint()
        if self.start is not None:
            self.call_after_refresh(self.start)

    def tick(self) -> None:
        """Take in what came, and repaint if it shows."""
        version = self.history.version
        self.history.feed(self.came())
        if self.history.version != version:
            self.place_cursor()
            self.point_at_twin()
        self.settle_pending()
        self.tell_state()
        self.examine()
        if (absent := self.absent()) != self.state.absent:
            self.state = replace(self.state, absent=absent)
            self.asked.clear()  # whoever trains the run next has not heard of it
            self.awaited = 0
            if absent:
                self.say(absent)
        if self.state.prompt == "quit" and self.over():  # while the question was open
            self.state = replace(self.state, prompt="")
            self.say("the run has ended meanwhile: q leaves")
        now = self.clock()
        if self.state.message and now >= self.message_until:
            self.state = replace(self.state, message="")
        self.ask_for_exhibit(now)
        current = screen(self.state.screen)
        if now - self.drawn_at >= current.every * 0.9:
            self.paint(lazily=True)

    def place_cursor(self) -> None:
        """At the first layer, once there is one: what `enter` enlarges is then worth a look."""
        if self.placed or not self.history.layers:
            return
        self.placed = True
        if self.state.cursor == 0:
            at = next((at for at, row in enumerate(rows(self.state)) if row.layer is not None), 0)
            self.state = replace(self.state, cursor=at)

    def point_at_twin(self) -> None:
        """Say once, when a twin appears, where it is to be seen; once it is gone nothing is there to be seen."""
        if (self.history.twin is not None) != self.twinned:
            self.twinned = not self.twinned
            told = self.last is not None and self.last.message
            if self.twinned and self.state.screen != "twin" and not (told or self.absent()):
                self.say("a twin is trained beside this run: 7 shows both")
            if not self.twinned and self.state.screen == "twin" and not self.state.frozen:
                self.action_screen("dashboard")

    def paint(self, *, lazily: bool = False) -> None:
        """Draw the present state; `lazily`: only if there is something new in it."""
        size = self.panel.size
        if not size.width or not size.height:
            return
        key = (self.state, self.state.history.version, size)
        if lazily and key == self.drawn:
            return
        self.drawn, self.drawn_at = key, self.clock()
        self.panel.show(draw(self.state, size.width, size.height))

    def lighten(self) -> None:
        """Take the colours for a light background, which it turned out to be."""
        self.panel.palette = "light"
        self.panel.refresh()

    def came(self) -> Iterator[Event]:
        """What is new, the snapshots among it on the doctor's chart too."""
        try:
            for event in self.stream.drain():
                if isinstance(event, Snapshot):
                    self.heed(self.last, event)
                    self.last = event
                    self.chart.see(event)
                    self.unexamined = True
                elif not self.is_own(event):
                    continue
                yield event
            self.state = replace(self.state, lost=False) if self.state.lost else self.state
        except OSError as error:  # at any event: what came before it counts
            if not self.state.lost:
                self.state = replace(self.state, lost=True)
                self.say(f"the run cannot be read: {error}", "sick")

    def tell_state(self) -> None:
        """Of a run that is paused or ends while the view is frozen."""
        shown = self.state.history.snapshot
        if self.state.frozen and shown is not None and shown.state != self.run_state:
            self.state.history.snapshot = msgspec.structs.replace(shown, state=self.run_state)
            self.state.history.version += 1

    def send(self, command: Command) -> None:
        """Ask the trainer."""
        self.awaited += isinstance(command, CHANGES) and not isinstance(command, Back)
        if not isinstance(command, Look):
            self.due = max(self.due, self.last.answered if self.last else 0) + 1
        self.stream.send(command)

    def heed(self, before: Snapshot | None, now: Snapshot) -> None:
        """What the trainer has to say comes at once, but for an answer that was given here as the key was pressed."""
        if before is None:  # it was said of a run that had not begun
            self.state = replace(self.state, message="")
            return
        changed = now.interventions[-1:] != before.interventions[-1:]
        answer = now.answered != before.answered and bool(now.message or changed)
        news = gist(now.message) - gist(before.message)
        if answer and self.awaited and changed and len(news) <= 1:  # more than what was done: that it cannot be undone
            self.state = replace(self.state, told=(now.answered, gist(now.message)))
        elif answer or news:
            if answer and self.awaited:  # it was refused
                self.drop_pending()
            self.state = replace(self.state, message="")
            if self.state.frozen:  # what is shown has stopped before it
                self.say(now.message)
        self.awaited = max(0, self.awaited - answer)

    def examine(self) -> None:
        """Read the doctor's chart where anything came, once a second at most: findings do not come faster."""
        now = self.clock()
        if not self.unexamined or self.state.frozen or (now - self.examined < 1.0 and self.run_state not in STILL):
            return
        self.examined, self.unexamined = now, False
        self.state = examined(self.state, self.chart.examine(), self.chart.twin.examine() if self.chart.twin else None)

    def ask_for_exhibit(self, now: float) -> None:
        """Ask for what the visible screen needs, at its own low rate."""
        current = screen(about(self.state) if self.state.screen == "explain" else self.state.screen)
        look = current.look(self.state) if current.look and not (self.state.frozen or self.state.absent) else None
        if look is None or self.answered(look):
            return
        asked = self.asked.get(look.name, [])
        if look not in asked[-1:] or now - self.asked_at.get(look.name, -math.inf) >= current.look_every:
            self.asked_at[look.name] = now
            self.asked[look.name] = [*(other for other in asked if other != look), look][-FEW:]
            self.send(look)

    def answered(self, look: Look) -> bool:
        """Whether its answer is here, and asked again would be the same: the net waits, or will not move any more."""
        shown, now = self.history.exhibits.get(look.name), self.history.snapshot
        if shown is None or now is None or now.state not in STILL:
            return False
        config = self.history.exhibit_configs.get(look.name)
        return (shown.step, shown.options, config) == (now.step, look.options, now.config)

    def is_own(self, exhibit: Exhibit) -> bool:
        """Whether this view waits for it, or has asked for nothing of its name; else another view has asked for it."""
        asked, look = self.asked.get(exhibit.name, []), Look(exhibit.name, exhibit.options)
        if look in asked:
            self.asked[look.name] = asked[asked.index(look) + 1 :] or [look]  # the newest is asked again and again
        return look in asked or not asked

    def say(self, text: str, style: str = "note") -> None:
        """A short message line, at once."""
        self.state = replace(self.state, message=clip(escape(text), 200), message_style=style)
        self.message_until = self.clock() + MESSAGE_SECONDS
        self.paint()

    # --- what may be pressed ---

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """While a question is open its answers are read from the keys themselves; the help only tells what acts."""
        del parameters
        told = KEYS if self.state.prompt else [key for key in KEYS if key.group in CHANGING] if self.helps() else ()
        return not any(key.action.partition("(")[0] == action for key in told)

    def helps(self) -> bool:
        """Whether the help is on the screen, to which one comes to ask what a key does, not to do it."""
        return self.state.screen == "help"

    def changes_allowed(self) -> bool:
        """Whether training may be acted on; says why not."""
        if self.state.readonly:
            self.say("read only: keys that change training are off")
            return False
        if self.history.snapshot is None:
            self.say(f"not yet: {self.state.waiting}")
            return False
        return self.obeyed()

    @property
    def run_state(self) -> str:
        """That of the run as it was last heard of; empty before the first snapshot."""
        return self.history.snapshot.state if self.history.snapshot else ""

    def obeyed(self) -> bool:
        """Whether somebody trains the run and answers; says where nobody does."""
        silent = self.run_state == "unresponsive"
        absent = self.absent() or ("its trainer does not answer: nothing was sent" if silent else "")
        if absent:
            self.say(absent)
        return not absent

    def on_key(self, event: events.Key) -> None:
        """Answers to the open question; what a key does that is not done here, or that it does nothing."""
        if not self.state.prompt:
            pressed = {event.key, event.character}
            if key := next((key for key in KEYS if pressed.intersection(key.keys)), None):
                self.say(f"{key.shown}: {key.help} (not done while the help is shown)")
            elif event.is_printable and event.character:
                self.say(f"{event.character} does nothing; ? tells every key")
            return
        event.stop()
        self.state = replace(self.state, message="")
        if self.state.prompt == "filter":
            self.type_filter(event)
        elif self.state.prompt == "twin":
            self.type_twin(event)
        else:
            self.answer(event)

    # --- training ---

    def action_pause(self) -> None:
        if not self.changes_allowed() or self.diverged():
            return
        if self.run_state == "finished":  # train on, for as many steps again
            self.change("steps", 2 * self.last_step() or Config().steps)
            return
        paused = self.waits()
        self.pending["paused"] = (not paused, self.clock() + PENDING_SECONDS)
        self.send(Resume() if paused else Pause())
        self.say("going on" if paused else "pause")

    def waits(self) -> bool:
        """Whether the run is paused, or has been asked to be."""
        return bool(self.setting("paused")) if "paused" in self.pending else self.run_state == "paused"

    def diverged(self) -> bool:
        """Whether there is nothing left that could be trained on; says so."""
        over = self.run_state == "diverged"
        if over:
            self.say("diverged: r restarts from the seed, D says what to change")
        return over

    def last_step(self) -> int:
        """Of a finished run, once what was asked for is done."""
        snapshot, steps = self.history.snapshot, self.setting("steps")
        return max(snapshot.step if snapshot else 0, steps if isinstance(steps, int) else 0)

    def action_step(self) -> None:
        if not self.changes_allowed() or self.diverged():
            return
        if self.run_state == "finished":
            self.change("steps", self.last_step() + 1)
        else:
            self.send(Step(1))
            self.pending["paused"] = (True, self.clock() + PENDING_SECONDS)
            self.say("one step")

    def names_possible(self) -> bool:
        """Whether the net can be sampled from; says why not."""
        if not self.changes_allowed():
            return False
        diverged = self.run_state == "diverged"
        if diverged:
            self.say("no names: the logits of a diverged net are no numbers")
        return not diverged

    def action_pace(self, by: int) -> None:
        """Down and up a ladder whose top is full speed."""
        if not self.changes_allowed():
            return
        assert self.history.snapshot is not None
        now = self.setting("pace") if "pace" in self.pending else self.history.snapshot.pace or math.inf
        pace = neighbour(PACES, now, by) if isinstance(now, float) else math.inf
        self.pending["pace"] = (pace, self.clock() + PENDING_SECONDS)
        self.send(Pace(pace if math.isfinite(pace) else None))
        rate = f"at most {pace:,g} step{'s' * (pace != 1)} a second"
        self.say(rate if math.isfinite(pace) else "as fast as it goes")

    def action_sample(self) -> None:
        if self.names_possible():
            self.send(Sample(temperature=self.temperature()))
            self.say("sampling names")

    def temperature(self) -> float:
        """Of the names that are shown."""
        return self.history.snapshot.names_temperature if self.history.snapshot else 1.0

    def action_temperature(self) -> None:
        """Sample at the next temperature of the ladder, and again at the first after the last."""
        if self.names_possible():
            after = neighbour(TEMPERATURES, self.temperature(), 1)
            temperature = after if after != self.temperature() else TEMPERATURES[0]
            self.send(Sample(temperature=temperature))
            self.say(f"sampling names at temperature {temperature:g}")

    def action_restart(self) -> None:
        if self.changes_allowed():
            ruined = self.run_state == "diverged"
            self.send(Restart())
            self.say("restarted from the seed" + "; u undoes it" * (not ruined))

    def action_go_back(self, forth: bool) -> None:
        """Back to the net before, or forth; the trainer says to which, or that there is none.

        What has been asked for and not been done is taken for dropped.
        """
        if not self.changes_allowed():
            return
        self.send(Back(forth))
        self.returns = self.due, self.clock() + PENDING_SECONDS
        self.drop_pending()
        way = "forth again" if forth else "back to the net before"
        self.state = replace(self.state, message="")
        if self.state.frozen:
            self.say(f"{way}; the view is frozen")

    # --- the net ---

    def settings(self) -> dict[str, Value]:
        """The configuration as it will be once everything asked for is done."""
        now = self.history.snapshot.config if self.history.snapshot else {}
        return {**now, **{name: value for name, (value, _) in self.pending.items()}}

    def setting(self, name: str) -> Value | None:
        """A field of the configuration as it will be."""
        return self.settings().get(name)

    def settle_pending(self) -> None:
        """Forget what has been carried out, or was not within a while."""
        snapshot = self.history.snapshot
        now = self.clock()
        if snapshot is not None:
            seen: dict[str, Value] = {**snapshot.config, "paused": snapshot.state == "paused"}
            seen["pace"] = snapshot.pace or math.inf
            self.pending = {
                name: (value, until)
                for name, (value, until) in self.pending.items()
                if until > now and seen.get(name) != value
            }

    def drop_pending(self) -> None:
        """Take the settings that were asked for as not done."""
        self.pending = {name: asked for name, asked in self.pending.items() if name in ("paused", "pace")}

    def change(self, name: str, value: Value) -> None:
        """Ask for a field to be changed, and say at once what that does."""
        self.put(Set({name: value}))

    def put(self, command: Set) -> None:
        """Ask for settings to be changed, on the live weights where that is on and can be, and say what that does."""
        live = self.state.live and not command.fresh and keeps_weights(command.changes, live=True)
        asked, before = msgspec.structs.replace(command, live=live), self.settings()
        if not asked.fresh and asked.changes.items() <= before.items():
            already = ", ".join(f"{name} is {shown(value)} already" for name, value in asked.changes.items())
            self.say(already or "nothing to change")
            return
        self.send(asked)
        self.pending |= {name: (value, self.clock() + PENDING_SECONDS) for name, value in command.changes.items()}
        self.say(in_words(asked, before) + self.effect(asked))

    def ask(self, prompt: str, question: str, *choices: tuple[str, str]) -> None:
        """A question in a box; the keys pressed are its answers."""
        self.state = replace(self.state, prompt=prompt, question=question, choices=choices, message="")
        self.paint()

    def effect(self, command: Set) -> str:
        """What a change does beside changing settings, to be said after it."""
        snapshot = self.history.snapshot
        assert snapshot is not None
        if snapshot.state == "diverged":
            return ", restarted from the seed"
        if not command.fresh and keeps_weights(command.changes, live=False):
            return decayed({**snapshot.config, **command.changes}, snapshot.step) if "lr" in command.changes else ""
        return f", {'applied to the live weights' if command.live else 'restarted from the seed'}; u undoes it"

    def change_of(self, name: str) -> Value | None:
        """The present value of a field that a key is about to change; None, and a message, where it cannot be."""
        if not self.changes_allowed():
            return None
        due, until = self.returns
        if self.last is not None and self.last.answered < due and self.clock() < until:
            self.say("not yet: the run is going to another net")  # whose settings are others
            return None
        value = self.setting(name)
        if value is None:
            self.say(f"this run has no setting {name}")
        return value

    def action_norm(self) -> None:
        value = self.change_of("norm")
        if value is not None:
            self.change("norm", "batch" if value == "none" else "none")

    def action_gain(self, way: int) -> None:
        value = self.change_of("gain")
        if value is None:
            return
        number = GAINS.get(str(self.setting("nonlinearity")), 1.0) if value == "auto" else float(value)
        new = neighbour(GAIN_LADDER, number, way)
        if new == number:
            self.say(f"gain {shown(number)} is the {'largest' if way > 0 else 'smallest'} on the ladder")
        else:
            self.change("gain", new)

    def action_lr(self, way: int) -> None:
        value = self.change_of("lr")
        if isinstance(value, int | float) and value > 0:
            self.change("lr", next_lr(float(value), way))

    def action_fan_in(self) -> None:
        value = self.change_of("fan_in")
        if value is not None:
            self.change("fan_in", division(self.setting("last_shrink")) if value == "off" else "off")

    def action_nonlinearity(self) -> None:
        value = self.change_of("nonlinearity")
        if value is not None:
            at = NONLINEARITIES.index(str(value)) + 1 if value in NONLINEARITIES else 0
            self.change("nonlinearity", NONLINEARITIES[at % len(NONLINEARITIES)])

    def action_live(self) -> None:
        if self.state.readonly:
            self.say("read only: keys that change training are off")
            return
        self.state = replace(self.state, live=not self.state.live)
        self.say(
            "changes are applied to the live weights where they can be"
            if self.state.live
            else "changes restart the run from its seed"
        )

    # --- looking ---

    def action_freeze(self) -> None:
        snapshot = self.history.snapshot
        if self.state.frozen:
            self.state = replace(self.state, frozen=False, history=self.history)
            self.say("the view moves again")
        elif self.run_state in ENDED:
            self.say(f"{self.run_state}: nothing moves that could be frozen")
        else:
            self.state = replace(self.state, frozen=True, history=self.history.copy())
            trains = "; training goes on" if self.run_state == "running" else ""
            self.say(f"view frozen at step {snapshot.step if snapshot else 0:,}{trains}; p lets it move")

    def action_log(self) -> None:
        self.state = replace(self.state, log=not self.state.log)
        self.say("logarithmic loss" if self.state.log else "linear loss")

    def action_rescale(self) -> None:
        self.history.reset_scales()
        if self.state.frozen:  # what is shown is a copy
            self.state.history.reset_scales()
        self.say("scales chosen anew, earlier curves taken away")

    def pressed(self, key: str) -> bool:
        """Whether the visible screen has a use of its own for the key; does it."""
        press = screen(self.state.screen).press
        answer = press(replace(self.state, history=self.history), key) if press else None  # on the net as it is now
        if answer is None:
            return False
        view, command = answer
        if command is None or (self.obeyed() if isinstance(command, Look) else self.changes_allowed()):
            self.state = replace(view, history=self.state.history)
            if isinstance(command, Set):
                self.put(command)
            elif command is not None:
                self.send(command)
        self.paint()
        return True

    def action_explain(self) -> None:
        """What the screen shows that is left for the explanation."""
        if self.state.screen != "explain":
            self.state = replace(self.state, options={**self.state.options, "explained": self.state.screen})
        self.action_screen("explain")

    def action_move(self, key: str) -> None:
        if self.pressed(key):
            return
        current, count = screen(self.state.screen), len(rows(self.state))
        if current.text is not None:
            self.state = replace(self.state, scroll=scrolled(self.state, key, *self.panel.size))
        elif current.press is None and count:
            at, by = min(max(0, self.state.cursor), count - 1), MOVES[key]
            cursor = (at + by) % count if abs(by) == 1 else min(max(0, at + by), count - 1)
            self.state = replace(self.state, cursor=cursor)
        self.paint()

    def action_arrow(self, by: int) -> None:
        if not self.pressed("right" if by > 0 else "left"):
            self.action_turn(by)

    def action_turn(self, by: int) -> None:
        names = [one.name for one in SCREENS]
        self.action_screen(names[(names.index(self.state.screen) + by) % len(names)])

    def action_screen(self, name: str) -> None:
        if name == self.state.screen:
            name = self.screen_before()
        self.state = replace(self.state, screen=name, scroll=0, message="")
        self.paint()

    def action_enlarge(self) -> None:
        if not self.pressed("enter"):
            self.action_screen("explain" if self.state.screen == "explain" else "layer")

    def let_through(self, text: str) -> None:
        """Another filter; the cursor stays on its row where that is still there."""
        row, state = selected(self.state), replace(self.state, filter=text)
        names = [other.name for other in rows(state)]
        self.state = replace(state, cursor=names.index(row.name) if row and row.name in names else 0)

    async def action_back(self) -> None:
        if self.state.screen == "dashboard" and self.state.filter:
            self.let_through("")
        self.state = replace(self.state, screen=self.screen_before(), scroll=0, message="")
        self.paint()

    def screen_before(self) -> str:
        """Where leaving the present screen leads to: from an explanation to what it explains."""
        return about(self.state) if self.state.screen == "explain" else "dashboard"

    def action_picture(self) -> None:
        step = self.history.snapshot.step if self.history.snapshot else 0
        name = f"makemore-{self.state.screen}-step{step}"
        path = self.pictures / f"{name}.svg"
        number = 2
        while path.exists():
            path, number = self.pictures / f"{name}-{number}.svg", number + 1
        try:
            path.write_text(self.picture(), encoding="utf-8")
        except OSError as error:
            self.say(f"no picture: {error.strerror or error}: {path}", "sick")
        else:
            self.say(f"picture saved: {path}")

    def picture(self) -> str:
        """The screen as an SVG, which has a dark background."""
        palette = self.panel.palette
        self.panel.palette = "dark" if palette == "light" else palette
        try:
            return self.export_screenshot(title=self.state.run)
        finally:
            self.panel.palette = palette

    # --- what is typed ---

    def action_filter(self) -> None:
        self.state = replace(self.state, prompt="filter", message="")
        self.paint()

    def type_filter(self, event: events.Key) -> None:
        """A character more or less of the filter."""
        text, done = edited(self.state.filter, event)
        self.let_through(text)
        self.state = replace(self.state, prompt="" if done else "filter")
        self.paint()

    def action_twin(self) -> None:
        """Ask in what a twin is to differ; where there is one, whether to end it."""
        if not self.changes_allowed():
            return
        if self.history.twin is not None:
            self.ask("untwin", "End the twin? It is not kept.", ("y", "end it"), ("esc", "keep it"))
        else:
            self.state = replace(self.state, prompt="twin", typed=self.proposed_twin(), message="")
            self.paint()

    def proposed_twin(self) -> str:
        """What a twin is asked to differ in until something else is typed."""
        return "norm=none" if self.setting("norm") != "none" else "norm=batch"

    def type_twin(self, event: events.Key) -> None:
        """A character more or less of the settings in which a twin is to differ."""
        replaces = self.state.typed == self.proposed_twin() and event.character != " " and event.is_printable
        text, done = edited("" if replaces else self.state.typed, event)
        self.state = replace(self.state, typed=text, prompt="" if done else "twin")
        if done and text.strip() and self.history.snapshot is not None and self.obeyed():
            try:
                changes = twin_changes(Config().replace(self.history.snapshot.config), text.split())
            except ValueError as error:  # to be corrected
                self.state = replace(self.state, prompt="twin")
                self.say(str(error), "sick")
                return
            twin = Twin(changes)
            self.send(twin)
            self.action_screen("twin")
            self.say(f"{in_words(twin)}: both from the seed, in lock-step; u undoes it")
        self.paint()

    # --- quitting ---

    def over(self) -> bool:
        """Whether nothing goes on that leaving could end, or that could go on in the background."""
        return bool(self.absent()) or self.run_state in ENDED

    def action_detach(self) -> None:
        """Leave, and let the run go on, or wait: in a process of its own where it is this one that trains."""
        if self.detach_run is not None and not self.over():
            self.detach_run(self.waits())
        self.exit(0)

    def action_ask_quit(self) -> None:
        if self.history.snapshot is None or self.over() or self.state.readonly:
            self.exit(0)
            return
        waits = self.waits()
        fast = ", at full speed" if self.history.snapshot.pace is not None else ""
        kept = "keep it in the background, paused" if waits else f"keep training in the background{fast}"
        choices = [("s", "stop and save"), ("k", kept), ("esc", "cancel: stay" if waits else "cancel: go on")]
        if self.detach_run is None:
            left = "leave: it waits" if waits else "leave: training goes on"
            choices = [("k", left), ("s", "stop the run and save"), ("esc", "cancel: stay")]
        self.ask("quit", "Quit: what becomes of the run?", *choices)

    def answer(self, event: events.Key) -> None:
        """The key pressed in the question box; on quitting the first choice is also `q` and enter."""
        offered = [key for key, _ in self.state.choices]
        key, prompt = event.key, self.state.prompt
        if key in ("q", "enter", "ctrl+c", "ctrl+q") and prompt == "quit":
            key = offered[0]
        if key == "s" and key in offered:
            self.stopped = True
            self.exit(0)
        elif key == "k" and key in offered:
            self.action_detach()
        elif key in ("escape", "c", "n", "q", "ctrl+c") or (key == "y" and key in offered):
            self.state = replace(self.state, prompt="")
            if key == "y" and self.obeyed():
                self.send(Twin())
                self.say("the twin is gone")
            self.paint()


def edited(text: str, event: events.Key) -> tuple[str, bool]:
    """A line of input after one more key, and whether that key ended it; escape and ctrl-u empty it."""
    if event.key in ("enter", "tab"):
        return text, True
    if event.key in ("escape", "ctrl+c"):
        return "", True
    if event.key == "ctrl+u":
        return "", False
    if event.key == "backspace":
        return text[:-1], False
    if event.character and event.character.isprintable() and len(text) < 60:
        return text + event.character, False
    return text, False


def neighbour(ladder: Sequence[float], value: float, way: int) -> float:
    """The next rung up or down from a value that may lie between rungs; the value itself at the end."""
    if way > 0:
        return next((rung for rung in ladder if rung > value * 1.0001), value)
    return next((rung for rung in reversed(ladder) if rung < value * 0.9999), value)


def next_lr(value: float, way: int) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    exponent = math.floor(math.log10(value))
    ladder = sorted(float(f"{m * 10.0**e:.6g}") for e in range(exponent - 2, exponent + 3) for m in LR_LADDER)
    return min(1e6, neighbour(ladder, value, way))
