"""Plots of quarter blocks (or ASCII marks): the loss curve with its ghosts and marks, and lines over steps.

A column of cells is a pure function of a few small integers and is cached by them, so that a curve that grows at its
end costs a few look-ups to draw again.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import NamedTuple, TypeAlias, TypeVar

from app import glyphs as glyph
from app.glyphs import Glyphs
from app.history import STILL, Attempt
from app.series import Bucket, Series, bridged
from app.views.lines import Line, cells_of, heading, runs
from app.views.state import UPDATE_HIGH, UPDATE_LOW, Draw, Row, View, rows
from app.views.status import loss_number
from app.views.table import per_column
from makemore_core.doctor import GUIDE
from makemore_core.snapshot import Intervention

T = TypeVar("T")
Reach: TypeAlias = tuple[int, int] | None  # lowest and highest dot of a column, counted from the bottom

# Quarter blocks by mask: bit 0 bottom left, 1 top left, 2 bottom right, 3 top right. Braille would be finer, but many
# fonts have no braille, and every terminal font has these.
_QUARTERS = " ▖▘▌▗▄▚▙▝▞▀▛▐▟▜█"
# ASCII by mask: bit 0 bottom, 1 middle, 2 top.
_MARKS = " .-:'|||"


class Trail(NamedTuple):
    """A line or band in dots, one reach for each column of dots, with its style."""

    reaches: Sequence[Reach]
    style: str

    def wider(self, times: int) -> Trail:
        """The same with so many columns for each of its own: it rises or falls in the first of them."""
        if times == 1:
            return self
        out: list[Reach] = []
        level: int | None = None
        for reach in self.reaches:
            level = reach and (reach[1] if level is None or reach[0] > level else reach[0])
            out += [reach, *[None if level is None else (level, level)] * (times - 1)]
        return Trail(out, self.style)


SHORTEST = 8  # steps of an axis, so that a first one is not drawn as a line
LINES = 12  # styles of lines, from the input to the output, cold to warm; and the most lines of a plot
DOTTED = 4  # columns of dots from one to the next of a line over what nothing is known of
CHANGED = " → "  # in the words of a mark
GHOST_WITHIN = 9  # times as high as the present curve or ln V: the hockey stick of a first loss of 27 still shows


class Grain(NamedTuple):
    """Dots to a cell, across and up."""

    across: int
    up: int


QUARTERS, MARKS = Grain(2, 2), Grain(1, 3)


def grain(g: Glyphs) -> Grain:
    """Dots to a cell with these glyphs."""
    return MARKS if g.ascii else QUARTERS


@functools.lru_cache(512)
def _column(
    subs: tuple[tuple[Reach, ...], ...], styles: tuple[str, ...], height: int, size: Grain
) -> tuple[tuple[str, str], ...]:
    """The cells of one column, top down. `subs`: for each column of dots the reaches, the topmost layer first.

    The topmost layer with a dot in a cell has the cell; a layer that fills the rest of it becomes the background, as
    style `top/under`.
    """
    cells: list[tuple[str, str]] = []
    everything = (1 << (size.across * size.up)) - 1
    glyphs = _QUARTERS if size is QUARTERS else _MARKS
    for row in range(height - 1, -1, -1):
        bottom, top = row * size.up, row * size.up + size.up - 1
        cell = (" ", "")
        drawn = 0
        for at, style in enumerate(styles):
            mask = 0
            for across, reaches in enumerate(subs):
                reach = reaches[at]
                if reach is not None and reach[0] <= top and reach[1] >= bottom:
                    for dot in range(max(reach[0], bottom), min(reach[1], top) + 1):
                        mask |= 1 << (across * size.up + dot - bottom)
            if mask and not drawn:
                drawn, cell = mask, (glyphs[mask], style)
                if mask == everything or size is MARKS:
                    break
            elif mask and mask | drawn == everything:
                cell = (cell[0], f"{cell[1]}/{style}")
                break
        cells.append(cell)
    return tuple(cells)


def stretch(last: int, dots: int) -> int:
    """Columns of dots to a step, a power of two, for a run of fewer steps than dots."""
    return 1 << max(0, (dots // max(SHORTEST, last)).bit_length() - 1)


class Canvas:
    """A grid of cells that trails are drawn on, and words over them."""

    def __init__(self, width: int, height: int, trails: Sequence[Trail], g: Glyphs) -> None:
        self.glyphs = g
        size = grain(g)
        styles = tuple(trail.style for trail in trails)
        dots = width * size.across
        columns: list[tuple[Reach, ...]] = list(zip_longest(*(trail.reaches for trail in trails)))[:dots]
        columns += [(None,) * len(trails)] * (dots - len(columns))
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

    def free(self, row: int, column: int, cells: int) -> bool:
        """Whether there is such a row, and nothing yet in so many of its cells."""
        return 0 <= row < len(self.chars) and set(self.chars[row][column : column + cells]) == {" "}

    def lines(self) -> list[Line]:
        """The grid as lines; without colours, bands, earlier curves and those of another run get signs of their own."""
        if not self.glyphs.coloured:
            signs = {"band": self.glyphs.shade, "ghost": self.glyphs.dot, "twin": self.glyphs.times}
            for chars, styles in zip(self.chars, self.styles, strict=True):
                chars[:] = [
                    signs.get(style, char) if char != " " else char for char, style in zip(chars, styles, strict=True)
                ]
        return [list(runs(tuple(c), tuple(s))) for c, s in zip(self.chars, self.styles, strict=True)]


class Axis(NamedTuple):
    """A scale from the bottom to the top of a plot, linear or logarithmic, in `dots` dots."""

    low: float
    high: float
    dots: int
    log: bool = False

    def dot(self, value: float) -> int:
        """The dot a value falls on; what lies outside falls on the edge, NaN, which grew too large, on the upper."""
        if self.log:
            share = (math.log(max(value, self.low)) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        else:
            share = (value - self.low) / (self.high - self.low)
        return int(max(0.0, min(self.dots - 1, share * self.dots)))

    def inside(self, value: float) -> bool:
        """Whether the value lies on the scale."""
        return self.low <= value <= self.high


def line(buckets: Sequence[Bucket | None], axis: Axis, *, joined: bool = False) -> list[Reach]:
    """The means as a line without gaps between neighbours; `joined`: nor over columns where nothing was measured, but
    dotted where they cannot be `bridged`.
    """
    out: list[Reach] = []
    before: int | None = None
    missed = 0
    for bucket in buckets:
        if bucket is None:
            out.append(None)
            missed += 1
            if not joined:
                before = None
            continue
        dot = axis.dot(bucket.mean)
        if before is not None and missed:
            for k in range(1, missed + 1) if bridged(missed, len(out)) else range(DOTTED, missed + 1, DOTTED):
                between = before + round((dot - before) * k / (missed + 1))
                out[k - missed - 1 + len(out)] = (between, between)
        if before is None or abs(dot - before) <= 1 or missed:
            out.append((dot, dot))
        else:
            out.append((before + 1, dot) if dot > before else (dot, before - 1))
        before, missed = dot, 0
    return out


def edge(values: Sequence[float | None], axis: Axis) -> list[Reach]:
    """A dot for each value that lies on the scale."""
    dots = [None if value is None or not axis.inside(value) else axis.dot(value) for value in values]
    return [None if dot is None else (dot, dot) for dot in dots]


def _nice(span: float, parts: int) -> float:
    rough = span / max(1, parts)
    unit = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    return next(k * unit for k in (1, 2, 2.5, 5, 10) if k * unit >= rough * 0.999)


def round_values(low: float, high: float, parts: int) -> list[float]:
    """The round numbers from `low` to `high` that divide it into about so many parts."""
    step = _nice(high - low, parts)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, min(last, first + 3 * parts + 3) + 1)]


def loss_axis(attempts: Sequence[Attempt], expected: float | None, dots: int, log: bool) -> Axis | None:
    """A scale that holds the means of all curves, at round numbers so that it seldom moves; None without a number."""
    found = [bounds for attempt in attempts if (bounds := attempt.loss.bounds())]
    if not found:
        return None
    own = attempts[-1].loss.bounds()
    if own:  # an earlier curve that left all measure behind does not decide the scale
        found = [b for b in found if b[1] <= GHOST_WITHIN * max(own[1], expected or 0.0)] or [own]
    low, high = min(b[0] for b in found), max(b[1] for b in found)
    vals = [value for a in attempts for _, value in a.val if math.isfinite(value)]
    low, high = min([low, *vals]), max([high, *(value for value in vals if value <= GHOST_WITHIN * high)])
    if expected is not None and high > expected / 2 and expected < 4 * high:
        high = max(high, expected)
    if log:
        low = max(low, 1e-6)
        low, high = low * 0.97, max(high, low * 1.2) * 1.02
        unit = 10.0 ** math.floor(math.log10(low))
        return Axis(math.floor(low / unit * 5) / 5 * unit, high, dots, True)
    step = _nice(max(high - low, abs(high) * 1e-3, 1e-6), 8)
    bottom = math.floor(low / step - 0.7) * step
    return Axis(max(0.0, bottom) if low >= 0 else bottom, math.ceil(high / step + 0.1) * step, dots)


def _ticks(axis: Axis, parts: int) -> list[float]:
    """Round values that divide the axis into about so many parts."""
    if not axis.log:
        return round_values(axis.low, axis.high, parts)
    low, high = axis.low * 0.999, axis.high * 1.001
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for leading in ((1, 2, 5), (1,)):
        ticks = [tick for e in exponents for k in leading if low <= (tick := float(f"{k}e{e}")) <= high]
        if len(ticks) <= parts + 2:
            break
    return ticks[:: -(-len(ticks) // (parts + 2))] if len(ticks) > 1 else round_values(axis.low, axis.high, parts)


def tick_texts(values: Sequence[float], cells: int, g: Glyphs, least: int = 1) -> list[str]:
    """The values on one axis, in one form that fits: so many decimals or more, else powers of ten.

    The first form that is exact is taken; where none is, as on a logarithmic axis, one in which all differ.
    """
    exact = [*(f".{places}f" for places in range(least, 4)), ".0f", ".0e", ".1e", ".2e"]
    small = min(filter(None, map(abs, values)), default=1.0) < 0.095
    texts: list[str] = []
    for at, form in enumerate([*exact, *([".0e"] if small else [".2f", ".1f", ".3f", ".3g"])]):
        texts = [glyph.power(f"{value:{form}}") if value or "e" not in form else "0" for value in values]
        if at < len(exact):
            told = all(abs(float(t) - value) <= 1e-6 * abs(value) for t, value in zip(texts, values, strict=True))
        else:
            told = len({*texts}) == len(texts)
        if told and max(map(len, texts), default=0) <= cells:
            break
    return [text.replace("-", g.minus) for text in texts]


def framed(body: list[Line], axis: Axis, gutter: int, g: Glyphs, values: Sequence[float] = ()) -> list[Line]:
    """A plot's lines behind `gutter` cells with the axis and these values, or else round ones, on it."""
    rows = len(body)
    if not values:  # fewer, where so many read alike
        every = (_ticks(axis, parts) for parts in range(max(2, rows // 4), 0, -1))
        values = next((v for v in every if len({*tick_texts(v, gutter - 1, g)}) == len(v)), ())
    places = [rows - 1 - min(rows - 1, axis.dot(value) * rows // axis.dots) for value in values]
    ticks = dict(zip(places, tick_texts(values, gutter - 1, g), strict=True))
    out = []
    for at, cells in enumerate(body):
        side = g.tick if at in ticks else g.bar
        out.append([(ticks.get(at, "").rjust(gutter - 1), "dim"), (side, "axis"), *cells])
    return out


def _foot(width: int, gutter: int, per_cell: float, g: Glyphs) -> Line:
    """The axis of steps, with round numbers under their steps."""
    chars = list(g.rule * width)
    free = 0
    for step in round_values(0, per_cell * width, max(1, width // 16)):
        if step % 1:
            continue
        at, text = int(step / per_cell), glyph.short(step)
        start = max(0, at - len(text) // 2)
        if start + len(text) < width and start >= free:
            padded = f"{text} " if start == 0 else f" {text} "
            start = max(0, start - (start > 0))
            chars[start : start + len(padded)] = padded
            free = start + len(padded) + 1
    word = " steps"
    if free + len(word) < width:
        chars[width - len(word) :] = word
    return [(" " * gutter + g.corner, "axis"), ("".join(chars)[:width], "axis")]


class Frame(NamedTuple):
    """The room of a plot over steps, and how much of it a step takes."""

    gutter: int  # cells of the axis on the left
    foot: int  # lines of the axis of steps
    cells: int
    rows: int
    per_dot: int  # steps to a column of dots
    wide: int  # columns of dots to a step
    glyphs: Glyphs

    @classmethod
    def of(cls, width: int, height: int, last: int, g: Glyphs) -> Frame | None:
        """That of a plot of steps up to `last`; None where there is no room for one."""
        gutter = 6 if width >= 30 else 0
        foot = 1 if height >= 5 else 0
        cells, rows = width - gutter, height - foot
        dots = cells * grain(g).across
        fits = cells >= 4 and rows >= 1
        return cls(gutter, foot, cells, rows, per_column(last, dots), stretch(last, dots), g) if fits else None

    @property
    def dots(self) -> int:
        """Dots from the bottom to the top."""
        return self.rows * grain(self.glyphs).up

    @property
    def per_cell(self) -> float:
        """Steps to a cell."""
        return self.per_dot * grain(self.glyphs).across / self.wide

    def drawn(self, step: int, view: View) -> int:
        """How many columns of a run up to `step` are drawn at most: all where it stands, else those of whole cells.

        The mean of a column that has only begun is noise, and a cell is sent once.
        """
        snapshot, columns = view.history.snapshot, max(1, grain(self.glyphs).across // self.wide)
        standing = snapshot is None or snapshot.state in STILL
        return step if standing else step // (columns * self.per_dot) * columns

    def canvas(self, trails: Sequence[Trail]) -> Canvas:
        """The trails, a reach for each `per_dot` steps, drawn in it."""
        return Canvas(self.cells, self.rows, [trail.wider(self.wide) for trail in trails], self.glyphs)

    def row(self, value: float, axis: Axis) -> int:
        """The row from the top that a value falls on."""
        return self.rows - 1 - axis.dot(value) * self.rows // axis.dots

    def around(self, canvas: Canvas, axis: Axis) -> list[Line]:
        """The lines of a plot with its axes."""
        if not self.gutter:
            return canvas.lines()
        lines = framed(canvas.lines(), axis, self.gutter, self.glyphs)
        return [*lines, _foot(self.cells, self.gutter - 1, self.per_cell, self.glyphs)] if self.foot else lines


def loss_curve(view: View, width: int, height: int) -> list[Line]:
    """The loss of the present attempt: the mean as a line on the band from minimum to maximum, validation points, the
    expected first loss as a line, marks where something was changed, behind it earlier attempts and another run.
    """
    history, snapshot = view.history, view.history.snapshot
    if snapshot is None:
        return []
    now, behind = history.attempt, [(ghost, "ghost") for ghost in reversed(history.ghosts)]
    behind += [(history.beside.attempt, "twin")] if history.beside else []
    frame = Frame.of(width, height, max(snapshot.step, *(other.loss.end for other, _ in behind), 1), view.glyphs)
    if frame is None:
        return []
    axis = loss_axis([*(other for other, _ in behind), now], snapshot.expected_loss, frame.dots, view.log)
    if axis is None:
        return [[(" " * frame.gutter + "no loss yet", "dim")]]
    drawn, first, expected = frame.drawn(snapshot.step, view), snapshot.first_loss, snapshot.expected_loss
    points = len(now.val), now.val[-1][0] if now.val else None
    grown = tuple(other.loss.end for other, _ in behind), points, now.loss.broken
    return _loss_curve(now, tuple(behind), axis, frame, drawn, history.marks, first, expected, grown)


@functools.lru_cache(8)
def _loss_curve(
    now: Attempt,
    behind: tuple[tuple[Attempt, str], ...],
    axis: Axis,
    frame: Frame,
    drawn: int,
    marks: tuple[Intervention, ...],
    first: float | None,
    expected: float | None,
    grown: object,
) -> list[Line]:
    """`grown`: what tells that an attempt is no longer as it was the last time, though it is the same one."""
    del grown
    cells, rows_, g = frame.cells, frame.rows, frame.glyphs
    columns = now.loss.columns(frame.per_dot)[:drawn]
    trails = [Trail(line(columns, axis), "loss")]
    trails += [Trail(line(other.loss.columns(frame.per_dot), axis), style) for other, style in behind]
    trails.append(Trail(edge([bucket and bucket.low for bucket in columns], axis), "band"))
    trails.append(Trail(edge([bucket and bucket.high for bucket in columns], axis), "band"))
    canvas = frame.canvas(trails)
    taken: list[int] = []  # rows with words in them
    if expected is not None and axis.inside(expected):
        taken.append(frame.row(expected, axis))
        word, around = "ln V", (taken[0], taken[0] - 1, taken[0] + 1)
        places = [(row, at) for at in (cells - len(word), 1) for row in around if canvas.free(row, at, len(word))]
        canvas.put(taken[0], 0, g.dashes * cells, "expected", over=False)
        if places and cells >= 24:  # where no curve runs through it
            canvas.put(*places[0], word, "expected")
            taken.append(places[0][0])
    _put_marks(canvas, marks, frame)
    _put_points(canvas, now.val, axis, frame)
    if first is not None and first > axis.high:  # the mean of many steps hides how wrong the net was at the first
        taken.append(1 if marks else 0)
        canvas.put(taken[-1], 2, f"{g.above} first loss {loss_number(first, 2)}", "dim")
    _put_labels(canvas, marks, frame, taken)
    if now.loss.broken is not None:
        text = f"!not finite from step {now.loss.broken:,}"
        canvas.put(rows_ // 2, max(0, min(cells - len(text), int(now.loss.broken / frame.per_cell))), text, "sick")
    return frame.around(canvas, axis)


def _put_points(canvas: Canvas, points: Sequence[tuple[int, float]], axis: Axis, frame: Frame) -> None:
    """Validation losses, the newest always, the others not closer than four cells to the next."""
    free = frame.cells
    for step, value in reversed(points):
        at = min(frame.cells - 1, int(max(0, step - 1) / frame.per_cell))
        if math.isfinite(value) and at < free:
            canvas.put(frame.row(value, axis), at, frame.glyphs.point, "val")
            free = at - 3


def _put_marks(canvas: Canvas, marks: Sequence[Intervention], frame: Frame) -> None:
    """A line down the plot for each change."""
    for mark in marks:
        at = min(frame.cells - 1, int(mark.step / frame.per_cell))
        for row in range(frame.rows):
            canvas.put(row, at, frame.glyphs.mark, "mark", over=False)


def _put_labels(canvas: Canvas, marks: Sequence[Intervention], frame: Frame, taken: Sequence[int]) -> None:
    """What was changed at the top of its line, on the next row where labels would touch; nothing strikes it through.

    The rows `taken` have words of their own.
    """
    cells, g = frame.cells, frame.glyphs
    free = dict.fromkeys([row for row in range(frame.rows) if row not in taken][: min(3, frame.rows // 3)], 0)
    for step, what in _told(marks, frame):
        at = min(cells - 1, int(step / frame.per_cell))
        text = glyph.escape(g.text(what), ascii=g.ascii)
        row = next((row for row, first in free.items() if first <= at), None)
        if row is None:
            continue
        left, right = at - free[row], cells - at - 1
        if len(text) <= right or left <= right:
            text = glyph.clip(text, right, g)
            canvas.put(row, at, g.below + text, "mark")
            free[row] = at + len(text) + 2
        else:
            text = glyph.clip(text, left, g)
            canvas.put(row, at - len(text), text + g.below, "mark")
            free[row] = cells


def _told(marks: Sequence[Intervention], frame: Frame) -> list[tuple[int, str]]:
    """Step and words of each label. Where one setting was changed again before its label would end, that is one change
    from the first value to the last: a learning rate pressed up by seven keys is told whole.
    """
    labels: list[tuple[int, str]] = []
    since = 0  # the step of the latest mark
    for mark in marks:
        before, arrow, after = mark.what.rpartition(CHANGED)
        step, what = labels[-1] if labels else (0, "")
        near = mark.step - since < (len(what) + 2) * frame.per_cell
        since = mark.step
        if arrow and near and "," not in mark.what and what.endswith(f"{CHANGED}{before.partition(' ')[2]}"):
            first = what.rpartition(CHANGED)[0]
            if first.partition(" ")[0] == before.partition(" ")[0] and first.partition(" ")[2] != after:
                labels[-1] = step, f"{first}{CHANGED}{after}"
                continue
        labels.append((mark.step, mark.what))
    return labels


class Course(NamedTuple):
    """A number over steps, to be drawn as a line."""

    series: Series
    style: str
    letter: str = ""  # at its end, where there are no colours


def lines_over_steps(
    courses: Sequence[Course],
    view: View,
    width: int,
    height: int,
    *,
    low: float,
    high: float,
    log: bool = False,
    guides: Sequence[tuple[float, str]] = (),
) -> list[Line]:
    """Several courses over the whole run on one fixed scale, with guide lines; the first course lies on top.

    What is not on the scale is drawn at its edge, where it is told how far it goes.
    """
    step = view.history.snapshot.step if view.history.snapshot else 0
    end = max([1, step, *(course.series.end for course in courses)])
    frame = Frame.of(width, height, end, view.glyphs)
    if frame is None:
        return []
    axis = Axis(low, high, frame.dots, log)
    return _lines_over_steps(tuple(courses), tuple(guides), axis, frame, frame.drawn(end, view))


@functools.lru_cache(16)
def _lines_over_steps(
    courses: tuple[Course, ...], guides: tuple[tuple[float, str], ...], axis: Axis, frame: Frame, drawn: int
) -> list[Line]:
    g = frame.glyphs
    of = [line(course.series.columns(frame.per_dot), axis, joined=True)[:drawn] for course in courses]
    canvas = frame.canvas([Trail(reaches, course.style) for reaches, course in zip(of, courses, strict=True)])
    for value, style in guides:
        canvas.put(frame.row(value, axis), 0, g.guide * frame.cells, style, over=False)
    bounds = [found for course in courses if (found := course.series.bounds())]
    highest = max((high for _, high in bounds), default=axis.high)
    lowest = min((low for low, _ in bounds), default=axis.low)
    for row, sign, most, outside in (
        (0, g.above, highest, highest > axis.high),
        (frame.rows - 1, g.below, lowest, lowest < axis.low),
    ):
        if outside:
            text = glyph.scientific(most, g) if axis.log else glyph.fixed(most, 5, 1, glyphs=g).strip()
            canvas.put(row, 2, f"{sign} to {text} ", "mark")
    for course in courses if not g.coloured else ():
        columns = course.series.columns(frame.per_dot)[:drawn]
        if columns and (end := columns[-1]) is not None:
            at = min(frame.cells - 1, (len(columns) * frame.wide - 1) // grain(g).across)
            canvas.put(frame.row(end.mean, axis), at, course.letter, "title")
    return frame.around(canvas, axis)


# --- the rows of the net, each in its colour -------------------------------------------------------------------------


def styles(count: int) -> list[str]:
    """A style for each of so many lines, in the order of depth; no two are alike where there are enough of them."""
    return [f"line{round(at * (LINES - 1) / max(1, count - 1))}" for at in range(count)]


class Curve(NamedTuple):
    """A row of the net as it is drawn over the steps: with its style, and its sign where there are no colours."""

    row: Row
    style: str
    letter: str


def curves(view: View) -> list[Curve]:
    """Every row of the net, in the one colour that it has in every plot."""
    found = rows(replace(view, filter=""))
    return [
        Curve(row, style, "abcdefghijklmnopqrstuvwxyz"[at if len(found) <= LINES else int(style[4:])])
        for at, (row, style) in enumerate(zip(found, styles(len(found)), strict=True))
    ]


def legend(view: View, title: str, width: int, *, by_row: bool = True, layers: bool = False) -> Line:
    """The names of the drawn weights, or layers, each in the style of its line, as many as fit behind the title, the
    first and the last among them, and an ellipsis for the others; `by_row`: by the number of the row of the table that
    they stand in.
    """
    g = view.glyphs
    every = [curve for curve in curves(view) if (curve.row.layer if layers else curve.row.weight)]
    drawn = thinned(every)
    scale: Line = [("log10 scale" if layers else f"log10, guide at {g.minus}3", "dim")]
    head: Line = [*scale, (f", {len(drawn)} of {len(every)}:", "dim")] if len(drawn) < len(every) else scale
    for most in range(len(drawn), min(1, len(drawn) - 1), -1):
        named = [("  " + _short_name(curve, by_row, g), curve.style) for curve in thinned(drawn, most)]
        if most < len(drawn):
            named.insert(-1, (" " + g.ellipsis, "dim"))
        if cells_of([*head, *named]) <= width - len(title) - 4:
            return [*head, *named]
    return scale


def _short_name(curve: Curve, by_row: bool, g: Glyphs) -> str:
    layer, weight = curve.row.layer, curve.row.weight
    if layer and (by_row or not weight):
        text = str(layer.layer.index)
    else:
        assert weight is not None
        text = weight.weight.name.removesuffix(".weight")
    text = glyph.clip(glyph.escape(text, ascii=g.ascii), 14, g)
    return text if g.coloured else f"{curve.letter}={text}"


def with_plot(
    lines: Sequence[Line], view: View, width: int, height: int, least: int, title: str, note: Line, plot: Draw
) -> list[Line]:
    """The lines of a table and a plot below them, in all that they leave of `height`, in which it has `least` lines
    or more; where that is 0 there is none.
    """
    if not least:
        return [*lines]
    room = max(least, height - len(lines) - 1)
    gap: list[Line] = [[]] * (height - room - len(lines))
    return [*lines, *gap, heading(title, note, width, view.glyphs), *plot(view, width, room - 1)]


def updates_over_steps(view: View, width: int, height: int) -> list[Line]:
    """update:data of every weight over the whole run, one scale for all, the guide at -3. The scale is that of the
    sparklines, or the part of it, in halves, that they have ever taken: lines that lie close can be told apart.
    """
    courses = [Course(row.weight.update, style, letter) for row, style, letter in curves(view) if row.weight]
    guides, bounds = ((GUIDE, "guide"),), [found for course in courses if (found := course.series.bounds())]
    lowest, highest = min((low for low, _ in bounds), default=GUIDE), max((high for _, high in bounds), default=GUIDE)
    lowest, highest = (min(UPDATE_HIGH, max(UPDATE_LOW, value)) for value in (lowest, highest))
    low, high = min(GUIDE - 0.5, math.floor(2 * lowest) / 2), max(GUIDE + 1.0, math.ceil(2 * highest) / 2)
    return lines_over_steps(thinned(courses), view, width, height, low=low, high=high, guides=guides)


def thinned(found: list[T], most: int = LINES) -> list[T]:
    """At most so many, the first and the last among them: more lines could not be told apart."""
    if len(found) <= most:
        return found
    return [found[round(at * (len(found) - 1) / (most - 1))] for at in range(most)]
