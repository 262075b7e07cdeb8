"""The screens: pure functions from the view state to lines, and the one table that registers them.

A screen is added by a line in `SCREENS`; its key, its place in the help and its exhibits follow from it.
"""

from __future__ import annotations

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
from app.views.lines import Line, block
from app.views.lines import width as cells
from app.views.state import Screen, View
from app.views.status import ask, keys_line, message_line, status

SCREENS: tuple[Screen, ...] = (
    Screen("1", "dashboard", "dashboard", dashboard, help="every layer in a row, loss, names, findings"),
    Screen("2", "layer", "one layer", layer.draw, every=1.0, help="the layer under the cursor, enlarged"),
    Screen("3", "gradients", "gradients", gradients.draw, every=0.25, help="gradients through depth and time"),
    Screen("4", "weights", "weights", weights.draw, every=0.25, help="every weight; update:data over time"),
    Screen(
        "5",
        "dead-map",
        "dead units",
        deadmap.draw,
        look=deadmap.look,
        press=deadmap.press,
        help="units × examples where no gradient passes",
    ),
    Screen(
        "6",
        "backward",
        "backward by hand",
        backward.draw,
        look=backward.look,
        press=backward.press,
        help="every gradient by hand against autograd",
    ),
    Screen("7", "twin", "twin", twin.draw, help="two nets that differ in a setting, side by side"),
    Screen(
        "8",
        "find-lr",
        "learning rate",
        findlr.draw,
        look=findlr.look,
        press=findlr.press,
        help="range test from 0.001 to 1 on a copy; enter takes the best",
    ),
    Screen(
        "B",
        "batchnorm",
        "BatchNorm",
        batchnorm.draw,
        look=batchnorm.look,
        look_every=10.0,
        press=batchnorm.press,
        help="BatchNorm looked into: statistics, company, a slider, the spread",
    ),
    Screen(
        "i",
        "gain",
        "gain",
        gain.draw,
        look=gain.look,
        press=gain.press,
        help="the spread through any depth for gains from 0.5 to 3",
    ),
    Screen(
        "P",
        "presets",
        "experiments",
        presets.draw,
        press=presets.press,
        help="the lectures' experiments; enter starts one",
    ),
    Screen(
        "D", "doctor", "doctor", doctor.draw, press=doctor.press, help="what is wrong, why, what to try; enter tries it"
    ),
    Screen("e", "explain", "explained", explain.draw, help="what the panel in focus shows"),
    Screen("9", "help", "help", keyhelp.draw, every=1.0, help="keys, and what is what"),
)


def screen(name: str) -> Screen:
    """The screen of that name."""
    return next(screen for screen in SCREENS if screen.name == name)


def draw(view: View, width: int, height: int) -> list[Line]:
    """The whole picture, exactly `height` lines of exactly `width` cells."""
    above = 0 if height < 4 else 1 if height < 18 or width < 60 else 2
    below = 0 if height < 6 else 1 if height < 20 else 2
    body = height - above - below
    lines = list(status(view, width, above)) if above else []
    lines += block([], width, above - len(lines), view.glyphs)
    lines += block(screen(view.screen).draw(view, width, body), width, body, view.glyphs)
    if below == 2:
        lines.append(message_line(view, width))
    if below:
        live: Line = [("  L live: on", "note")] if view.live and not view.prompt else []
        keys = [*keys_line(view, width - cells(live)), *live] if cells(live) < width else live
        lines += block([message_line(view, width) if below == 1 and view.message else keys], width, 1, view.glyphs)
    return ask(view, lines, width, height) if view.prompt == "quit" else lines
