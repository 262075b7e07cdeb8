"""The lectures' experiments: what each shows, what to look at; `enter` starts the one under the cursor."""

from __future__ import annotations

from app import glyphs as glyph
from app.views.answers import chosen, hint, keep
from app.views.lines import Line, block, heading
from app.views.state import Pressed, View, window
from makemore_core.command import Set
from makemore_core.config import LIVE_FIELDS, Config
from makemore_core.presets import PRESETS

_KEPT = {"steps", "seed", "device", "engine"}  # of the run, not of an experiment


def press(view: View, key: str) -> Pressed | None:
    """Up and down choose an experiment, `enter` makes the net it describes."""
    names = list(PRESETS)
    at = _at(view)
    by = {"up": -1, "down": 1, "pageup": -10, "pagedown": 10, "home": -100, "end": 100}.get(key)
    if by is not None:
        return Pressed(keep(view, preset_row=min(max(0, at + by), len(names) - 1)))
    if key != "enter":
        return None
    snapshot = view.history.snapshot
    now = snapshot.config if snapshot else {}
    wanted = PRESETS[names[at]].config().as_dict()
    changes = {name: value for name, value in wanted.items() if name not in _KEPT and now.get(name) != value}
    if changes and set(changes) <= LIVE_FIELDS:  # only a rate differs: an experiment begins anew all the same
        changes |= {"gain": wanted["gain"]}
    return Pressed(view, Set(changes) if changes else None)


def _at(view: View) -> int:
    names = list(PRESETS)
    return min(chosen(view, "preset_row", names.index(of(view) or names[0])), len(names) - 1)


def of(view: View) -> str | None:
    """The preset that the run's settings are, by value."""
    snapshot = view.history.snapshot
    if snapshot is None:
        return None
    now = {name: value for name, value in snapshot.config.items() if name not in _KEPT}
    fields = [name for name in Config.__struct_fields__ if name not in _KEPT]
    for name, preset in PRESETS.items():
        config = preset.config().as_dict()
        if all(now.get(field) == config[field] for field in fields):
            return name
    return None


def draw(view: View, width: int, height: int) -> list[Line]:
    """The list, the present one marked, and two lines on the one under the cursor."""
    g = view.glyphs
    names, at, present = list(PRESETS), _at(view), of(view)
    lines: list[Line] = [heading("experiments", "of the lectures", width, g)]
    room = max(1, height - len(lines) - 5)
    first, last = window(len(names), at, room)
    if first > 0:
        lines.append([(f" {g.above} {first} more", "dim")])
    for position in range(first, last):
        name = names[position]
        mark = g.cursor if position == at else " "
        style = "cursor" if position == at else "good" if name == present else ""
        text = f"{mark}{name:29s}{PRESETS[name].shows if width >= 76 else ''}"
        lines.append([(g.text(text), style)])
    if last < len(names):
        lines.append([(f" {g.below} {len(names) - last} more", "dim")])
    lines = block(lines, width, height - 4, g)
    chosen_one = PRESETS[names[at]]
    below: list[Line] = [
        [],
        [(" shows    ", "axis"), (g.text(glyph.clip(chosen_one.shows, width - 11, g)), "")],
        [(" look at  ", "axis"), (g.text(glyph.clip(chosen_one.look_at, width - 11, g)), "")],
        hint("↑↓ experiment  enter starts it  esc back", view),
    ]
    return [*lines, *block(below, width, 4, g)]
