"""Gain looked into: the spread through the depth for gains from 0.5 to 3, and where each settles (part 3)."""

from __future__ import annotations

import math

from app import glyphs as glyph
from app.history import bounded
from app.views.answers import answer, none_yet, stretched
from app.views.curve import Axis, Canvas, Trail, framed, grain, styles
from app.views.lines import Line, beside, block, heading
from app.views.state import Pressed, View, chosen, hint, keep
from makemore_core.answers import Gains
from makemore_core.command import Look, Set
from makemore_core.config import shown

NAME = "gain"
DEPTHS = (5, 10, 20, 50, 100, 200)
TABLE = 50
_FLAT = {"relu": "off", "leaky_relu": "", "identity": ""}  # where it is not saturated what is flat, or nothing is


def look(view: View) -> Look | None:
    """For the chosen depth and the net's own gain and nonlinearity, once: nothing of it changes as the net trains."""
    data = answer(view, NAME, Gains)
    depth = chosen(view, "gain_depth", 50)
    config = view.history.snapshot.config if view.history.snapshot else {}
    if data is not None and data.depth == depth and config.get("nonlinearity", data.nonlinearity) == data.nonlinearity:
        gain = config.get("gain", "auto")
        if any(row.own and (isinstance(gain, str) or abs(row.gain - gain) < 1e-9) for row in data.gains):
            return None
    return Look(NAME, {"depth": depth})


def press(view: View, key: str) -> Pressed | None:
    """Up and down choose a gain, left and right the depth, `enter` gives the net that gain."""
    data = answer(view, NAME, Gains)
    if key in ("left", "right"):
        at = DEPTHS.index(chosen(view, "gain_depth", 50)) + (1 if key == "right" else -1)
        return Pressed(keep(view, gain_depth=DEPTHS[min(max(0, at), len(DEPTHS) - 1)]))
    if data is None or not data.gains:
        return None
    at = _row(view, data)
    if key in ("up", "down"):
        return Pressed(keep(view, gain_row=(at + (1 if key == "down" else -1)) % len(data.gains)))
    return Pressed(view, Set({"gain": data.gains[at].gain})) if key == "enter" else None


def _row(view: View, data: Gains) -> int:
    advised = next((at for at, row in enumerate(data.gains) if row.recommended), 0)
    return min(chosen(view, "gain_row", advised), len(data.gains) - 1)


def draw(view: View, width: int, height: int) -> list[Line]:
    """The curves and the table of what each gain settles at."""
    g = view.glyphs
    data = answer(view, NAME, Gains)
    if data is None or not data.gains:
        title = heading("gain", "", width, g)
        return block([title, *none_yet(view, NAME, "sending numbers through the depth")], width, height, g)
    kind = glyph.escape(data.nonlinearity, ascii=g.ascii)
    note = f"std through {data.depth} layers of {data.units} {kind} units, weights gain / sqrt(fan-in)"
    lines: list[Line] = [heading("gain", note, width, g)]
    room = height - 2
    table = _table(data, _row(view, data), view)
    if width >= TABLE + 24:
        lines += beside(_plot(data, view, width - TABLE - 2, room), table, width - TABLE - 2, width, g)
    else:
        lines += table
    lines = block(lines, width, height - 1, g)
    gives = "enter gives the net this gain  " if view.obeyed else ""
    return [*lines, *block([hint(f"↑↓ gain  ←→ depth  {gives}esc back", view)], width, 1, g)]


def _table(data: Gains, selected: int, view: View) -> list[Line]:
    g = view.glyphs
    flat = _FLAT.get(data.nonlinearity, "saturated")
    undivided = bool(view.history.snapshot and view.history.snapshot.config.get("fan_in", "on") == "off")
    lines: list[Line] = [[(f"   gain  settles  {flat:>9s}", "axis")]]
    for at, (row, style) in enumerate(zip(data.gains, styles(len(data.gains)), strict=True)):
        marks = "  PyTorch's" * row.recommended + "  this net's" * (row.own and not undivided)
        cursor = g.cursor if at == selected else " "
        settles, share = (values[-1] if values else math.nan for values in (row.std, row.saturated))
        saturated = glyph.percent(share, 5) if flat else ""
        text = f"{cursor}{shown(row.gain):>6s}  {glyph.fixed(settles, 7, 3, glyphs=g)}  {saturated:>9s}"
        lines.append([(text, "cursor" if at == selected else style), (marks, "good")])
    large = "saturate" if bounded(data.nonlinearity) else "explode"
    words = f"a gain keeps the spread where its curve is level: smaller ones fade, larger ones {large}"
    words += "; this net does not divide by fan-in: f" * undivided
    return [*lines, [], *([(f" {line}", "dim")] for line in glyph.wrap(words, TABLE - 2))]


def _plot(data: Gains, view: View, width: int, height: int) -> list[Line]:
    g = view.glyphs
    size = grain(g)
    gutter, rows, cells = 6, height - 1, width - 6
    if rows < 2 or cells < 4:
        return []
    linear = all(max(row.std, default=0.0) <= 1.0 for row in data.gains)
    axis = Axis(0.0, 1.0, rows * size.up) if linear else Axis(1e-3, 1e3, rows * size.up, log=True)
    selected = _row(view, data)
    trails = [
        Trail(stretched(row.std, cells * size.across, axis), style)
        for row, style in zip(data.gains, styles(len(data.gains)), strict=True)
    ]
    canvas = Canvas(cells, rows, [Trail(trails[selected].reaches, "cursor"), *trails], g)
    values = (0.0, 0.25, 0.5, 0.75, 1.0) if linear else (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1e3)
    end = f" layer {data.depth}"
    return [
        *framed(canvas.lines(), axis, gutter, g, values),
        [(" " * (gutter - 1) + g.corner + "1 " + end.rjust(cells - 2, g.rule), "axis")],
    ]
