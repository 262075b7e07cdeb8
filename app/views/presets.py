"""The lectures' experiments: what each shows, what to look at; `enter` starts the one under the cursor."""

from __future__ import annotations

from dataclasses import replace

from app import glyphs as glyph
from app.views.lines import Line, block, heading
from app.views.state import MOVES, Pressed, View, chosen, hint, keep, listed
from makemore_core.command import Set
from makemore_core.presets import PRESETS, goes_by, settings_of

WHOLE = 16  # lines, with which the words on an experiment take as many as they need


def press(view: View, key: str) -> Pressed | None:
    """Up and down choose an experiment, `enter` begins the one it is on."""
    names = list(PRESETS)
    at = _at(view)
    by = MOVES.get(key)
    if by is not None:
        return Pressed(keep(view, preset_row=min(max(0, at + by), len(names) - 1)))
    if key != "enter":
        return None
    snapshot = view.history.snapshot
    now = snapshot.config if snapshot else {}
    wanted = settings_of(names[at])
    changes = {name: value for name, value in wanted.items() if now.get(name) != value}
    begun = Set(changes, fresh=True, paused=PRESETS[names[at]].paused)
    return Pressed(replace(view, screen="dashboard"), begun)


def _at(view: View) -> int:
    names = list(PRESETS)
    snapshot = view.history.snapshot
    name = goes_by(snapshot.preset, snapshot.config)[0] if snapshot else None
    return min(chosen(view, "preset_row", names.index(name) if name in names else 0), len(names) - 1)


def draw(view: View, width: int, height: int) -> list[Line]:
    """The list, the present one marked, and below it the words on the one under the cursor, whole if there is room."""
    g = view.glyphs
    names, at = list(PRESETS), _at(view)
    snapshot = view.history.snapshot
    present, changed = goes_by(snapshot.preset, snapshot.config) if snapshot else ("", [])
    lines: list[Line] = [heading("experiments", "of the lectures", width, g)]
    chosen_one = PRESETS[names[at]]
    run = glyph.escape(present + (f" with {', '.join(changed)}" if changed else ""), ascii=g.ascii)
    below: list[Line] = [[]]
    for label, text in (("this run", run), ("shows", chosen_one.shows), ("look at", chosen_one.look_at)):
        parts = glyph.wrap(text, width - 11) if height >= WHOLE else [glyph.clip(text, width - 11, g)]
        below += [[(f" {'' if nth else label:8s} ", "axis"), (g.text(part), "")] for nth, part in enumerate(parts)]
    waits = chosen_one.paused or (snapshot is not None and snapshot.state == "paused")
    starts = f"enter starts it{', paused at step 1' * waits}  " if view.obeyed else ""
    below.append(hint(f"↑↓ experiment  {starts}esc back", view))
    room = max(1, height - len(lines) - len(below))

    def row(position: int) -> list[Line]:
        name = names[position]
        mark = g.cursor if position == at else " "
        style = "cursor" if position == at else "good" if name == present and not changed else ""
        text = f"{mark}{name:29s}{PRESETS[name].shows if width >= 76 else ''}"
        return [[(g.text(text), style)]]

    lines += listed(len(names), at, room, row, g)
    return block([*block(lines, width, max(0, height - len(below)), g), *below], width, height, g)
