"""Plots of braille dots (or ASCII marks): the loss curve with its ghosts and marks, and lines over steps.

A column of cells is a pure function of a few small integers and is cached by them, so that a curve that grows at its
end costs a few look-ups to draw again.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from app import glyphs as glyph
from app.glyphs import Glyphs
from app.history import Attempt, Bucket
from app.views.lines import Line, runs
from app.views.state import View
from app.views.table import per_column

Reach: TypeAlias = tuple[int, int] | None  # lowest and highest dot of a column, counted from the bottom

# dots of a braille cell by column and by row from the bottom
_BRAILLE = ((0x40, 0x04, 0x02, 0x01), (0x80, 0x20, 0x10, 0x08))


class Trail(NamedTuple):
    """A line or band in dots, one reach for each column of dots, with its style."""

    reaches: Sequence[Reach]
    style: str


class Grain(NamedTuple):
    """Dots to a cell, across and up."""

    across: int
    up: int


BRAILLE, MARKS = Grain(2, 4), Grain(1, 3)


def grain(g: Glyphs) -> Grain:
    """Dots to a cell with these glyphs."""
    return MARKS if g.ascii else BRAILLE


@functools.lru_cache(32768)
def _column(
    subs: tuple[tuple[Reach, ...], ...], styles: tuple[str, ...], height: int, size: Grain
) -> tuple[tuple[str, str], ...]:
    """The cells of one column, top down. `subs`: for each column of dots the reaches, the topmost layer first.

    A cell belongs to the topmost layer that has a dot in it, alone: a line stays thin on its band.
    """
    cells: list[tuple[str, str]] = []
    for row in range(height - 1, -1, -1):
        bottom, top = row * size.up, row * size.up + size.up - 1
        cell = (" ", "")
        for at, style in enumerate(styles):
            mask = 0
            for across, reaches in enumerate(subs):
                reach = reaches[at]
                if reach is not None and reach[0] <= top and reach[1] >= bottom:
                    for dot in range(max(reach[0], bottom), min(reach[1], top) + 1):
                        mask |= _BRAILLE[across][dot - bottom] if size is BRAILLE else 1 << (dot - bottom)
            if mask:
                cell = (chr(0x2800 + mask) if size is BRAILLE else _MARKS_BY_MASK[mask], style)
                break
        cells.append(cell)
    return tuple(cells)


_MARKS_BY_MASK = " .-:'|||"


class Canvas:
    """A grid of cells that trails are drawn on, and words over them."""

    def __init__(self, width: int, height: int, trails: Sequence[Trail], g: Glyphs) -> None:
        size = grain(g)
        styles = tuple(trail.style for trail in trails)
        none: tuple[Reach, ...] = (None,) * len(trails)
        dots = width * size.across
        columns = [none] * dots
        longest = max((len(trail.reaches) for trail in trails), default=0)
        padded = [[*trail.reaches, *([None] * (longest - len(trail.reaches)))] for trail in trails]
        columns[: min(longest, dots)] = list(zip(*padded, strict=True))[:dots]
        cells = [
            _column(tuple(columns[at : at + size.across]), styles, height, size)
            for at in range(0, dots, size.across)
        ]  # fmt: skip
        grid = list(zip(*cells, strict=True)) if cells else [()] * height
        self.chars = [[cell[0] for cell in row] for row in grid]
        self.styles = [[cell[1] for cell in row] for row in grid]

    def put(self, row: int, column: int, text: str, style: str, *, over: bool = True) -> None:
        """Words at a place; not `over`: only where nothing is yet. What lies outside is left out."""
        if not 0 <= row < len(self.chars):
            return
        for at, char in enumerate(text, column):
            if 0 <= at < len(self.chars[row]) and (over or self.chars[row][at] == " "):
                self.chars[row][at], self.styles[row][at] = char, style

    def lines(self) -> list[Line]:
        """The grid as lines."""
        return [list(runs(tuple(c), tuple(s))) for c, s in zip(self.chars, self.styles, strict=True)]


class Axis(NamedTuple):
    """A scale from the bottom to the top of a plot, linear or logarithmic, in `dots` dots."""

    low: float
    high: float
    dots: int
    log: bool = False

    def dot(self, value: float) -> int:
        """The dot a value falls on; what lies outside falls on the edge."""
        if self.log:
            share = (math.log(max(value, 1e-12)) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        else:
            share = (value - self.low) / (self.high - self.low)
        return min(self.dots - 1, max(0, int(share * self.dots)))

    def inside(self, value: float) -> bool:
        """Whether the value lies on the scale."""
        return self.low <= value <= self.high


def line(buckets: Sequence[Bucket | None], axis: Axis) -> list[Reach]:
    """The means as a line without gaps between neighbours."""
    out: list[Reach] = []
    before: int | None = None
    for bucket in buckets:
        if bucket is None:
            out.append(None)
            before = None
            continue
        dot = axis.dot(bucket.mean)
        if before is None or abs(dot - before) <= 1:
            out.append((dot, dot))
        else:
            out.append((before + 1, dot) if dot > before else (dot, before - 1))
        before = dot
    return out


def band(buckets: Sequence[Bucket | None], axis: Axis) -> list[Reach]:
    """From the smallest to the largest value."""
    return [None if b is None else (axis.dot(b.low), axis.dot(b.high)) for b in buckets]


def _nice(span: float, parts: int) -> float:
    rough = span / max(1, parts)
    unit = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    return next(k * unit for k in (1, 2, 2.5, 5, 10) if k * unit >= rough * 0.999)


def loss_axis(attempts: Sequence[Attempt], expected: float | None, dots: int, log: bool) -> Axis | None:
    """A scale that holds the means of all curves, at round numbers so that it seldom moves; None without a number."""
    found = [bounds for attempt in attempts if (bounds := attempt.loss.bounds())]
    if not found:
        return None
    low, high = min(b[0] for b in found), max(b[1] for b in found)
    low = min([low, *(value for a in attempts for _, value in a.val[-1:] if math.isfinite(value))])
    if expected is not None and high > expected / 2 and expected < 4 * high:
        high = max(high, expected)
    if log:
        low = max(low, 1e-6)
        low, high = low * 0.97, max(high, low * 1.2) * 1.02
        unit = 10.0 ** math.floor(math.log10(low))
        return Axis(math.floor(low / unit * 5) / 5 * unit, high, dots, True)
    step = _nice(max(high - low, abs(high) * 1e-3, 1e-6), 8)
    return Axis(math.floor(low / step - 0.2) * step, math.ceil(high / step + 0.1) * step, dots)


def _ticks(axis: Axis, rows: int) -> list[tuple[int, float]]:
    """Rows from the top and the values to write there, at most one in three rows."""
    parts = max(1, rows // 4)
    if axis.log:
        ratio = (axis.high / axis.low) ** (1 / max(1, parts))
        values = [axis.low * ratio**k for k in range(parts + 1)]
    else:
        step = _nice(axis.high - axis.low, parts)
        first = math.ceil(axis.low / step - 1e-9)
        values = [k * step for k in range(first, first + parts + 3) if k * step <= axis.high + 1e-9]
    per_row = axis.dots // rows
    return [(rows - 1 - min(rows - 1, axis.dot(value) // per_row), value) for value in values]


def tick_text(value: float, cells: int, g: Glyphs) -> str:
    """A value beside an axis."""
    return glyph.fixed(value, cells, 1 if abs(value) >= 10 or abs(value * 10 - round(value * 10)) < 1e-9 else 2, glyphs=g)


def _frame(body: list[Line], ticks: dict[int, str], gutter: int, g: Glyphs) -> list[Line]:
    out = []
    for at, cells in enumerate(body):
        text = ticks.get(at)
        side = g.tick if text is not None else g.bar
        out.append([((text or "").rjust(gutter), "dim"), (side, "axis"), *cells])
    return out


def _foot(width: int, gutter: int, first: int, per_cell: int, now: int, g: Glyphs) -> Line:
    """The axis of steps: its ends and the middle."""
    chars = list(g.rule * width)
    line: Line = [(" " * gutter + g.corner, "axis")]
    last = first + per_cell * width
    words = [(0, str(first) if first < 1000 else glyph.short(first))]
    if width >= 30:
        words.append((width // 2, glyph.short(first + per_cell * (width // 2))))
    words.append((width - 1, glyph.short(last) + (" steps" if width >= 24 else "")))
    for at, text in words:
        start = min(max(0, at - (len(text) // 2 if 0 < at < width - 1 else len(text) - 1 if at else 0)), width)
        padded = f"{text} " if start == 0 else f" {text} " if start + len(text) < width else f" {text}"
        start = max(0, start - (start > 0))
        chars[start : start + len(padded)] = padded
    line.append(("".join(chars)[:width], "axis"))
    return line


def loss_curve(view: View, width: int, height: int) -> list[Line]:
    """The loss of the present attempt: the mean as a line on the band from minimum to maximum, validation points, the
    expected first loss as a line, marks where something was changed, earlier attempts as ghosts behind.
    """
    g, history, snapshot = view.glyphs, view.history, view.history.snapshot
    gutter = 5 if width >= 30 else 0
    foot = 1 if height >= 5 else 0
    size = grain(g)
    cells, rows_ = width - gutter - (1 if gutter else 0), height - foot
    if snapshot is None or cells < 4 or rows_ < 1:
        return []
    attempts = [*history.ghosts, history.attempt]
    expected = snapshot.expected_loss
    axis = loss_axis(attempts, expected, rows_ * size.up, view.log)
    if axis is None:
        return [[(" " * gutter + " no loss yet", "dim")]]
    last = max(history.attempt.loss.end, snapshot.step, *(min(a.loss.end, 10**12) for a in history.ghosts), 1)
    dots = cells * size.across
    per_dot = per_column(last, dots)
    now = history.attempt.loss.columns(per_dot, most=dots)
    trails = [Trail(line(now, axis), "loss")]
    ghosts = [line(ghost.loss.columns(per_dot, most=dots), axis) for ghost in reversed(history.ghosts)]
    trails += [Trail(ghost, "ghost") for ghost in ghosts]
    trails.append(Trail(band(now, axis), "band"))
    if expected is not None and axis.inside(expected):
        level = axis.dot(expected)
        trails.append(Trail([(level, level) if at % (2 * size.across) < size.across else None for at in range(dots)], "expected"))
    canvas = Canvas(cells, rows_, trails, g)
    per_cell = per_dot * size.across
    _put_marks(canvas, view, per_cell, cells)
    for step, value in history.attempt.val:
        if math.isfinite(value) and axis.inside(value) and 0 <= step:
            at = min(cells - 1, max(0, step - 1) // per_cell)
            canvas.put(rows_ - 1 - axis.dot(value) // size.up, at, g.point, "val")
    if expected is not None and axis.inside(expected) and cells >= 24:
        at = rows_ - 1 - axis.dot(expected) // size.up
        canvas.put(at, cells - 4, "ln V", "expected", over=False)
    broken = history.attempt.loss.broken
    if broken is not None:
        canvas.put(rows_ // 2, min(cells - 16, broken // per_cell), f"!not finite from step {broken:,}", "sick")
    if not gutter:
        return canvas.lines()
    ticks = {at: tick_text(value, gutter, g) for at, value in _ticks(axis, rows_)}
    out = _frame(canvas.lines(), ticks, gutter, g)
    if foot:
        out.append(_foot(cells, gutter, 0, per_cell, snapshot.step, g))
    return out


def _put_marks(canvas: Canvas, view: View, per_cell: int, cells: int) -> None:
    """A line down the plot for each change, its label at the top, on the next row where labels would touch."""
    g = view.glyphs
    free: list[int] = [0] * 3  # the first free column of each row of labels
    rows_ = len(canvas.chars)
    for mark in view.history.marks:
        at = min(cells - 1, mark.step // per_cell)
        for row in range(rows_):
            canvas.put(row, at, g.mark, "mark", over=False)
        text = glyph.clip(glyph.escape(g.text(mark.what), ascii=g.ascii), 22, g)
        row = next((row for row in range(min(3, rows_ // 3)) if free[row] <= at), None)
        if row is None:
            continue
        if at + 1 + len(text) <= cells:
            canvas.put(row, at, g.mark_head + text, "mark")
            free[row] = at + len(text) + 2
        elif at - len(text) >= free[row]:
            canvas.put(row, at - len(text), text + g.mark_head, "mark")
            free[row] = cells


class Course(NamedTuple):
    """A number over steps, to be drawn as a line."""

    name: str
    buckets: Sequence[Bucket | None]
    style: str


def lines_over_steps(
    courses: Sequence[Course],
    view: View,
    width: int,
    height: int,
    *,
    low: float,
    high: float,
    per_dot: int,
    guides: Sequence[tuple[float, str]] = (),
) -> list[Line]:
    """Several courses on one fixed scale, with guide lines; every course a number of steps to a column of dots."""
    g = view.glyphs
    size = grain(g)
    gutter = 5 if width >= 30 else 0
    foot = 1 if height >= 5 else 0
    cells, rows_ = width - gutter - (1 if gutter else 0), height - foot
    if cells < 4 or rows_ < 1:
        return []
    axis = Axis(low, high, rows_ * size.up)
    dots = cells * size.across
    trails = [Trail(line(course.buckets[:dots], axis), course.style) for course in courses]
    for value, style in guides:
        level = axis.dot(value)
        trails.append(Trail([(level, level)] * dots, style))
    canvas = Canvas(cells, rows_, trails, g)
    ticks = {at: tick_text(value, gutter, g) for at, value in _ticks(axis, rows_)} if gutter else {}
    out = _frame(canvas.lines(), ticks, gutter, g) if gutter else canvas.lines()
    if foot:
        step = view.history.snapshot.step if view.history.snapshot else 0
        out.append(_foot(cells, gutter, 0, per_dot * size.across, step, g))
    return out
