"""The screens: pure functions from the view state to lines, and the one table that registers them.

A screen is added by a line in `SCREENS` and one in `keys.KEYS`, which says what key reaches it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from app.glyphs import escape
from app.views import (
    backward,
    batchnorm,
    deadmap,
    doctor,
    explain,
    findlr,
    gain,
    gradients,
    keyhelp,
    layer,
    presets,
    twin,
    weights,
)
from app.views.dashboard import dashboard
from app.views.lines import Line, block, cells_of
from app.views.state import MOVES, Draw, Screen, View
from app.views.status import ask, keys_line, message_line, status

LEAST_EXPLAINED = 9  # lines of a picture below its explanation


def page(text: Callable[[View, int], Sequence[Line]]) -> Draw:
    """How a text is drawn: from the line on that it is scrolled to, with a word of what is hidden."""

    def drawn(view: View, width: int, height: int) -> Sequence[Line]:
        lines, g = text(view, width), view.glyphs
        if len(lines) <= height:
            return lines
        first = min(view.scroll, len(lines) - height + 1)
        shown = lines[first : first + height - 1]
        hidden = len(lines) - first - len(shown)
        more = f" {g.below} {hidden} more lines below: down, pgdn" if hidden else f" {g.above} that is all: up, pgup"
        return [*shown, [(more, "note")]]

    return drawn


def explained(view: View, width: int, height: int) -> Sequence[Line]:
    """The explanation above what it explains, which its own keys do not move here; alone where there is no room."""
    words, about = explain.text(view, width), screen(explain.about(view))
    room = height - len(words)
    if about.text or room < LEAST_EXPLAINED:
        return page(explain.text)(view, width, height)
    return [*words, *about.draw(view, width, room + bool(about.press))][:height]  # without the line of its keys


SCREENS: tuple[Screen, ...] = (
    Screen("dashboard", dashboard),
    Screen("layer", layer.draw, every=1.0),
    Screen("gradients", gradients.draw, every=0.25),
    Screen("weights", weights.draw, every=0.25, look=weights.look),
    Screen("dead-map", deadmap.draw, look=deadmap.look, press=deadmap.press),
    Screen("backward", backward.draw, look=backward.look, press=backward.press),
    Screen("twin", twin.draw),
    Screen("find-lr", findlr.draw, look=findlr.look, press=findlr.press),
    Screen("batchnorm", batchnorm.draw, look=batchnorm.look, look_every=10.0, press=batchnorm.press),
    Screen("gain", gain.draw, look=gain.look, press=gain.press),
    Screen("presets", presets.draw, press=presets.press),
    Screen("doctor", doctor.draw, press=doctor.press),
    Screen("explain", explained, text=explain.text),
    Screen("help", page(keyhelp.text), every=1.0, text=keyhelp.text),
)


def screen(name: str) -> Screen:
    """The screen of that name."""
    return next(screen for screen in SCREENS if screen.name == name)


def margins(width: int, height: int) -> tuple[int, int]:
    """Lines above and below what a screen draws itself."""
    return 0 if height < 4 else 1 if height < 18 or width < 60 else 2, 0 if height < 6 else 1 if height < 20 else 2


def scrolled(view: View, key: str, width: int, height: int) -> int:
    """The line that a text begins with after a moving key; it ends where its last line is seen."""
    text = screen(view.screen).text
    room = max(1, height - sum(margins(width, height)) - 1)  # a line tells what is hidden
    by = {"pageup": -room, "pagedown": room}.get(key, MOVES[key])
    return max(0, min(view.scroll + by, len(text(view, width)) - room)) if text else 0


def draw(view: View, width: int, height: int) -> list[Line]:
    """The whole picture, exactly `height` lines of exactly `width` cells."""
    above, below = margins(width, height)
    body = height - above - below
    lines = list(status(view, width, above)) if above else []
    lines += block([], width, above - len(lines), view.glyphs)
    lines += block(screen(view.screen).draw(view, width, body), width, body, view.glyphs)
    if below == 2:
        told = view.message or escape(view.absent, ascii=view.glyphs.ascii)
        lines.append(message_line(replace(view, message=told), width))
    if below:
        live: Line = [("  L live: on", "note")] if view.live and not view.prompt else []
        keys = [*keys_line(view, width - cells_of(live)), *live] if cells_of(live) < width else live
        lines += block([message_line(view, width) if below == 1 and view.message else keys], width, 1, view.glyphs)
    return ask(view, lines, width, height) if view.prompt in ("untwin", "quit") else lines
