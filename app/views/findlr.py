"""The learning-rate finder: the loss of a copy trained at rates in equal exponents (part 2), `enter` takes the best."""

from __future__ import annotations

import math

from app import glyphs as glyph
from app.views.answers import answer, none_yet, stretched, taken_at
from app.views.curve import Axis, Canvas, Trail, framed, grain
from app.views.lines import Line, block, heading
from app.views.state import Pressed, View, hint
from app.views.status import loss_number
from makemore_core.answers import RangeTest
from makemore_core.command import Look, Set
from makemore_core.config import decayed

NAME = "find-lr"
FRESH = 100  # steps; of a net that has learnt hardly any rate stands out
LEAST_TOP = 1.3  # of the lowest loss: a scale that is not filled by noise


def look(view: View) -> Look | None:
    """Once; a test is a thousand updates, so that another is run only when up or down asks for one."""
    return None if NAME in view.history.exhibits else Look(NAME)


def press(view: View, key: str) -> Pressed | None:
    """`enter` takes the suggestion, if there is one, up or down runs the test again on the net as it is now."""
    data = answer(view, NAME, RangeTest)
    if key == "enter":
        fix, now = dict(data.fix or {}) if data else {}, view.history.snapshot
        if fix and now is not None and decayed({**now.config, **fix}, now.step):  # as planned, since the test
            fix["lr_decay_at"] = 0
        return Pressed(view, None if data is None else Set(fix))
    return Pressed(view, Look(NAME)) if key in ("up", "down") else None


def draw(view: View, width: int, height: int) -> list[Line]:
    """The curve over the exponents, the suggestion marked, and the reason."""
    g = view.glyphs
    data = answer(view, NAME, RangeTest)
    if data is None or not data.rates:
        title = heading("learning rate", "", width, g)
        return block([title, *none_yet(view, NAME, "training a copy at a thousand rates")], width, height, g)
    note = f"{len(data.rates):,} updates of a copy {taken_at(view, NAME)}, lr 0.001 to 1"
    snapshot = view.history.snapshot
    lines: list[Line] = [heading("learning rate", note, width, g)]
    lines += _plot(data, view, width, max(3, height - 6), snapshot.lr if snapshot else None)
    if data.suggestion is None:
        learnt = view.history.exhibits[NAME].step > FRESH
        lines.append([(" no suggestion: ", "sick"), (glyph.escape(data.reason), "")])
        if learnt and view.obeyed:
            keys = "r" if snapshot and snapshot.state == "paused" else "space, r"
            lines.append([(f" the lecture tests a fresh net: {keys}, then 8 again", "")])
    else:
        lines.append([(f" try lr {data.suggestion:g}", "good"), (f": {glyph.escape(data.reason)}", "")])
    now = "" if snapshot is None or snapshot.lr is None else f"; the run trains at lr {snapshot.lr:g}"
    lines.append([(f" the mean of the latest losses{now}", "dim")])
    lines = block(lines, width, height - 1, g)
    other = data.suggestion is not None and snapshot is not None and data.suggestion != snapshot.lr
    takes = "enter takes it  " if other and view.obeyed else ""
    return [*lines, *block([hint(f"{takes}↑↓ test again  esc back", view)], width, 1, g)]


def _plot(data: RangeTest, view: View, width: int, height: int, lr: float | None) -> list[Line]:
    g = view.glyphs
    size = grain(g)
    gutter, rows = 6, height - 1
    cells = max(4, width - gutter)
    finite = [value for value in data.smooth if math.isfinite(value)]
    if not finite or rows < 2:
        return [[(" no loss is a number", "sick")]]
    settled = finite[len(finite) // 20 :]  # the first means are of few losses
    low = min(settled)
    high = max(*settled[: max(2, len(settled) // 10)], low * LEAST_TOP)
    margin = 0.08 * (high - low)
    axis = Axis(low - margin, high + 2 * margin, rows * size.up)
    inside = [value if value <= axis.high else math.nan for value in data.smooth]
    canvas = Canvas(cells, rows, [Trail(stretched(inside, cells * size.across, axis), "loss")], g)
    _mark(canvas, data, lr, "now", cells, rows, view)
    _mark(canvas, data, data.suggestion, "try", cells, rows, view)
    above = [at for at, value in enumerate(data.smooth) if value > axis.high and at >= len(data.smooth) // 20]
    if above:
        text = f" to {loss_number(max(data.smooth[at] for at in above), 1)}"
        at = min(cells - 1, above[0] * cells // len(data.smooth))
        fits = at + 1 + len(text) <= cells
        canvas.put(0, at if fits else at - len(text), g.above + text if fits else f"{text[1:]} {g.above}", "mark")
    return [*framed(canvas.lines(), axis, gutter, g), _foot(cells, gutter, view)]


def _mark(canvas: Canvas, data: RangeTest, rate: float | None, word: str, cells: int, rows: int, view: View) -> None:
    if rate is None or not data.rates[0] <= rate <= data.rates[-1] * 1.0001 or data.rates[-1] <= data.rates[0]:
        return
    share = math.log(rate / data.rates[0]) / math.log(data.rates[-1] / data.rates[0])
    at = min(cells - 1, round(share * (cells - 1)))
    for row in range(rows):
        canvas.put(row, at, view.glyphs.mark, "mark", over=False)
    text = f"{word} {rate:g}"
    canvas.put(1 if word == "try" else 2, at + 1 if at + 1 + len(text) <= cells else at - len(text), text, "mark")


def _foot(cells: int, gutter: int, view: View) -> Line:
    chars = [view.glyphs.rule] * cells
    for third, text in enumerate(("0.001", "0.01", "0.1", "1")):
        at = min(cells - len(text), max(0, round(third / 3 * (cells - 1)) - (len(text) // 2 if 0 < third < 3 else 0)))
        chars[max(0, at) : at + len(text)] = text
    return [(" " * (gutter - 1) + view.glyphs.corner + "".join(chars)[:cells], "axis")]
