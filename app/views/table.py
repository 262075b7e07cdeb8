"""The table of layers: one row each, so that depth reads downwards and a sick layer breaks the pattern of its column.

Columns are chosen by the width of the screen, in the order of what they tell; scales are the same in every row.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import NamedTuple, TypeAlias

from app import glyphs as glyph
from app.glyphs import LEVELS, Glyphs
from app.history import bounded
from app.series import Bucket, bridged
from app.traces import LayerTrace, WeightTrace
from app.views.lines import Line, Span, fit, runs
from app.views.state import (
    UPDATE_HIGH,
    UPDATE_LOW,
    Row,
    View,
    gradient_sick,
    is_bounded,
    listed,
    rows,
    saturated_sick,
    spread_sick,
    update_sick,
)
from makemore_core.snapshot import SATURATED, Histogram, Weight


class Column(NamedTuple):
    """A column: its least and most cells (with the cell before it), how it shares what is left over, and its head."""

    rank: int  # on a narrow screen the last are given up first
    least: int
    most: int
    share: float = 0.0
    align: str = ">"
    style: str = "dim"
    of_weight: bool = False


COLUMNS = {  # in the order shown
    "activation": Column(0, 9, 41, 3, "<", "activation"),
    "mean": Column(9, 6, 6),
    "std": Column(3, 6, 6),
    "saturated": Column(1, 6, 6),  # a cell more than the number, so that the sign before it touches no other
    "meter": Column(8, 3, 9, 0.6, "<"),
    "dead": Column(10, 5, 5),
    "gradient": Column(4, 9, 41, 2.6, "<", "gradient"),
    "grad std": Column(5, 7, 7),
    "shape": Column(11, 10, 10, align="<", of_weight=True),
    "grad:data": Column(7, 7, 7, of_weight=True),
    "spark": Column(6, 9, 41, 2, "<", "update", of_weight=True),
    "update": Column(2, 5, 5, of_weight=True),
}


class Layout(NamedTuple):
    """The widths of a table: the label's, and of each column shown, in the order shown."""

    label: int
    columns: tuple[tuple[str, int], ...]


@functools.lru_cache(64)
def layout(width: int, label: int, dead: bool) -> Layout:
    """The columns that fit into `width` cells behind a label of at most `label` cells."""
    least_label = min(label, 8 if width < 100 else 16)
    left = width - least_label
    chosen: dict[str, int] = {}
    for name, column in sorted(COLUMNS.items(), key=lambda item: item[1].rank):
        if (name == "dead" and not dead) or (name == "shape" and width < 130):
            continue
        if column.least <= left:
            chosen[name] = column.least
            left -= column.least
    extra = min(left, label - least_label, 2 if width < 100 else 6 if width < 120 else 12)
    left -= extra
    while left > 0:
        growing = {name: chosen[name] / COLUMNS[name].share for name in chosen if chosen[name] < COLUMNS[name].most}
        if not growing:
            break
        chosen[min(growing, key=growing.__getitem__)] += 1
        left -= 1
    return Layout(least_label + extra, tuple((name, chosen[name]) for name in COLUMNS if name in chosen))


def _scale(value: float) -> str:
    return f"{value:g}" if 1e-3 <= value < 1e4 else glyph.scientific(value).replace(".0e", "e")


def _titles(view: View, table: Sequence[Row]) -> dict[str, tuple[str, ...]]:
    """The heads of the columns, each in several lengths, the longest first."""
    g, history = view.glyphs, view.history
    kinds = {is_bounded(row) for row in table if row.layer is not None}
    edge = "1" if kinds != {False} else _scale(history.activation_scale or 1.0)
    mixed = f" (unbounded {g.plus_minus}{_scale(history.activation_scale)})" if len(kinds) == 2 else ""
    grad = _scale(history.gradient_scale)
    return {
        "activation": (
            f"activation {g.minus}{edge}..{edge}{mixed}", f"activation {g.plus_minus}{edge}{mixed}",
            f"activation {g.minus}{edge}..{edge}", f"act {g.minus}{edge}..{edge}", f"act {g.plus_minus}{edge}", "act",
        ),
        "mean": ("mean",), "std": ("std",), "saturated": ("sat.",), "dead": ("dead",),
        "meter": (f"|a|>{SATURATED:g}", f">{SATURATED:g}".replace("0.", "."), "") if kinds == {True} else ("flat", ""),
        "gradient": (
            f"gradient {g.plus_minus}{grad}", f"grad {g.plus_minus}{grad}", f"grad{g.plus_minus}{grad}",
            f"gr {g.plus_minus}{grad}", f"gr{g.plus_minus}{grad}", "grad",
        ),
        "grad std": ("std",), "shape": ("shape",), "grad:data": ("gr:data", "g:d"),
        "spark": (
            f"update:data log10 {g.minus}5..{g.minus}1, line at {g.minus}3",
            f"update:data {g.minus}5..{g.minus}1", "update:data", "upd:data", "upd",
        ),
        "update": ("now",),
    }  # fmt: skip


def header(view: View, plan: Layout, table: Sequence[Row]) -> Line:
    """The heads of the columns, in the longest form that fits."""
    titles, shown = _titles(view, table), dict(plan.columns)
    if "gradient" not in shown:
        titles["grad std"] = ("grad std", "gr std")
    if "spark" not in shown:
        titles["update"] = ("update:data", "upd:d", "upd")
    line: Line = [(" layer".ljust(plan.label)[: plan.label], "dim")]
    if plan.label < 6:
        line = [(" " * plan.label, "")]
    for name, cells in plan.columns:
        room = cells - 1
        text = next((t for t in titles[name] if len(t) <= room), titles[name][-1][:room])
        line.append((f" {text:{COLUMNS[name].align}{room}}", COLUMNS[name].style))
    return line


@functools.lru_cache(512)
def _label(name: str, cells: int, digits: int, index: int | None, g: Glyphs) -> str:
    text = f"{index:>{digits}} {name}" if index is not None else f"{'':{digits}} {name}"
    if index is None and glyph.width_of(text) > cells:
        text = name
    return glyph.safe(text, cells, g)


def histogram(
    counts: Sequence[float], box: Histogram, scale: float, cells: int, tall: int, style: str, g: Glyphs,
    *, tails: bool = True,
) -> list[Line]:  # fmt: skip
    """Counts as bars on the scale `-scale..scale`, `tall` lines high, the top line first.

    What lies outside the scale, or in the edge bins where these hold `tails`, is drawn in the edge bars; grey where
    there are tails, since they are no heap of numbers at the scale's end as saturation is.
    """
    shares = glyph.rebin(counts, box.low, box.high, -scale, scale, cells, tails=tails)
    lines = glyph.tower(glyph.heights(shares), tall, g)
    edge = "axis" if tails and cells > 2 else style
    return [[(line[:1], edge), (line[1:-1], style), (line[1:][-1:], edge)] for line in lines]


def spark(trace: WeightTrace, per_column: int, cells: int, tall: int, g: Glyphs) -> tuple[tuple[Span, ...], ...]:
    """update:data over the whole run on the fixed scale -5..-1, with a line at -3, its middle, where no bar stands.

    Bars beyond the doctor's limits are in the colour of a warning, by what those say of the first step of a column.
    """
    eighths = LEVELS * tall
    shown: list[int] = []
    last = -1
    for at, bucket in enumerate(trace.update.columns(per_column)[:cells]):
        shown.append(level := _spark_level(bucket, eighths, trace.weight, at * per_column))
        if level and last >= 0 and bridged(at - last - 1, at):
            shown[last:at] = [shown[last]] * (at - last)  # between two looks the last one stands
        last = at if level else last
    return _spark(tuple(shown), cells, tall, g)


def _spark_level(bucket: Bucket | None, eighths: int, weight: Weight, step: int) -> int:
    """The height of a bar that begins at a step, 0 for none; negative where it is a warning."""
    if bucket is None:
        return 0
    value = min(max(bucket.mean, UPDATE_LOW), UPDATE_HIGH)
    height = max(1, round((value - UPDATE_LOW) / (UPDATE_HIGH - UPDATE_LOW) * eighths))
    return -height if update_sick(bucket.mean, weight, step) else height


@functools.lru_cache(512)
def _spark(levels: tuple[int, ...], cells: int, tall: int, g: Glyphs) -> tuple[tuple[Span, ...], ...]:
    lines = []
    middle = tall // 2  # the line, counted from the bottom, in which or at whose lower edge -3 lies
    line_glyph = g.guide if tall % 2 else g.low_line
    for below in range(tall - 1, -1, -1):
        chars, styles = [], []
        for level in [*levels, *([0] * (cells - len(levels)))]:
            height = max(0, min(LEVELS, abs(level) - LEVELS * below))
            if height or below != middle:
                chars.append(g.ramp[height])
                styles.append("" if not height else "sick" if level < 0 else "update")
            else:
                chars.append(line_glyph)
                styles.append("guide")
        lines.append(runs(tuple(chars), tuple(styles)))
    return tuple(lines)


def per_column(step: int, cells: int) -> int:
    """Steps to a column, 1, 2, 3, 4, 6, 8, 12 …, so that a run of `step` steps fills two thirds of the columns or more.

    Old columns then stand still while new ones come, which is what keeps a growing curve cheap to send.
    """
    size = 1
    while size * cells < step:
        size *= 2
    return size * 3 // 4 if size >= 4 and size * 3 // 4 * cells >= step else size


def _number(text: str, sick: bool, style: str) -> tuple[Span, ...]:
    """A number and the cell before it, the sign of a sick one touching it."""
    bare = text.lstrip()
    return ((" " * (len(text) - len(bare)), ""), ("!" + bare, "sick")) if sick else ((" ", ""), (text, style))


class Norms(NamedTuple):
    """What one row has to be compared with."""

    first_std: float
    began: float
    gradient_std: float
    digits: int


def norms(table: Sequence[Row]) -> Norms:
    """The first layer's std, now and as it began, the median gradient std, and the digits of the largest index."""
    traces = [row.layer for row in table if row.layer is not None]
    layers = [trace.layer for trace in traces]
    stds = [layer.gradient.std for layer in layers if math.isfinite(layer.gradient.std) and layer.gradient.std > 0]
    digits = len(str(max((layer.index for layer in layers), default=0)))
    first = next((layer.activation.std for layer in layers), 0.0)
    began = next((trace.first.activation.std for trace in traces), 0.0)
    return Norms(first, began, median(stds) if stds else 0.0, digits)


class Sick(NamedTuple):
    """What is out of the ordinary in a layer's row."""

    spread: bool
    saturated: bool
    gradient: bool


def _sick(row: Row, against: Norms) -> Sick:
    spread = spread_sick(row, against.first_std, against.began)
    return Sick(spread, saturated_sick(row), gradient_sick(row, against.gradient_std))


Block: TypeAlias = tuple[tuple[Span, ...], ...]  # the lines of one cell of the table, top first


def _blank(cells: int, tall: int) -> Block:
    return (((" " * cells, ""),),) * tall


def _low(spans: tuple[Span, ...], cells: int, tall: int) -> Block:
    """Something one line high, on the bottom line."""
    return (*_blank(cells, tall - 1), spans)


@functools.lru_cache(512)
def _layer_cells(
    trace: LayerTrace, version: int, columns: tuple[tuple[str, int], ...], tall: int, scales: tuple[float, float],
    sick: Sick, g: Glyphs,
) -> tuple[Block, ...]:  # fmt: skip
    """The cells of a layer's row, by what is shown of it: `version` counts the changes of that."""
    del version
    activation, gradient = trace.layer.activation, trace.layer.gradient
    out: list[Block] = []
    for column, cells in columns:
        room = cells - 1
        if column == "activation":
            style = "sick" if sick.saturated or sick.spread else "activation"
            tails = not bounded(trace.layer.kind)
            box, counts = activation.histogram, trace.activation_counts
            lines = histogram(counts, box, scales[0], room, tall, style, g, tails=tails)
            out.append(tuple(((" ", ""), *line) for line in lines))
        elif column == "gradient":
            style = "sick" if sick.gradient else "gradient"
            lines = histogram(trace.gradient_counts, gradient.histogram, scales[1], room, tall, style, g)
            out.append(tuple(((" ", ""), *line) for line in lines))
        elif column == "meter":
            style = "sick" if sick.saturated else "activation"
            out.append(_low(((" ", ""), (glyph.meter(activation.saturated, room, g), style)), cells, tall))
        else:
            out.append(_low(_layer_number(trace, column, room, sick, g), cells, tall))
    return tuple(out)


def _layer_number(trace: LayerTrace, column: str, room: int, sick: Sick, g: Glyphs) -> tuple[Span, ...]:
    activation, gradient = trace.layer.activation, trace.layer.gradient
    if column == "mean":
        mean = 0.0 if abs(activation.mean) < 0.005 else activation.mean
        return _number(glyph.fixed(mean, room, plus=True, glyphs=g), not math.isfinite(mean), "dim")
    if column == "std":
        return _number(glyph.fixed(activation.std, room - 1, glyphs=g).rjust(room), sick.spread, "")
    if column == "saturated":
        return _number(glyph.percent(activation.saturated, room), sick.saturated, "")
    if column == "dead":
        dead = activation.dead
        return _number(("?" if dead is None else f"{dead}").rjust(room), bool(dead), "dim")
    assert column == "grad std"
    return _number(glyph.scientific(gradient.std, g, room), sick.gradient, "")


@functools.lru_cache(512)
def _weight_cells(
    trace: WeightTrace, version: int, columns: tuple[tuple[str, int], ...], tall: int, g: Glyphs
) -> tuple[Block, ...]:
    """The numbers of a weight; its sparkline is put in by the caller."""
    del version
    weight = trace.weight
    out: list[Block] = []
    for column, cells in columns:
        room = cells - 1
        if column == "grad:data":
            ratio = weight.grad_data_ratio
            out.append(_low(_number(glyph.scientific(ratio, g, room), not math.isfinite(ratio), ""), cells, tall))
        elif column == "update":
            value = weight.update_data_log10
            sick = update_sick(value, weight, trace.step)
            out.append(_low(_number(glyph.fixed(value, room, 1, glyphs=g), sick, ""), cells, tall))
        elif column == "shape":
            text = glyph.safe(g.times.join(str(n) for n in weight.shape), room, g)
            out.append(_low(((" ", ""), (text, "dim")), cells, tall))
        else:
            out.append(_blank(cells, tall))
    return tuple(out)


def _row(view: View, row: Row, plan: Layout, against: Norms, chosen: bool, sick: bool, tall: int) -> list[Line]:
    g, history = view.glyphs, view.history
    name = row.layer.layer.kind if row.layer else row.name
    label = _label(name, plan.label - 1, against.digits, row.layer.layer.index if row.layer else None, g)
    style = "sick" if sick else "cursor" if chosen else "" if row.layer else "dim"
    sign = (g.cursor, "cursor") if chosen else ("!" if sick else " ", "sick")
    blocks: list[Block] = [_low((sign, (label, style)), plan.label, tall)]
    layer_columns = tuple(column for column in plan.columns if not COLUMNS[column[0]].of_weight)
    weight_columns = tuple(column for column in plan.columns if COLUMNS[column[0]].of_weight)
    if row.layer is not None:
        scale = 1.0 if is_bounded(row) else history.activation_scale or 1.0
        scales = scale, history.gradient_scale or 1.0
        blocks += _layer_cells(row.layer, row.layer.version, layer_columns, tall, scales, _sick(row, against), g)
    else:
        blocks += [_blank(cells, tall) for _, cells in layer_columns]
        if row.weight is not None and layer_columns and "shape" not in dict(plan.columns):
            shape = ("shape", layer_columns[0][1])
            blocks[1] = _weight_cells(row.weight, 0, (shape,), tall, g)[0]
    if row.weight is None:
        blocks += [_blank(cells, tall) for _, cells in weight_columns]
    else:
        for (column, cells), block in zip(
            weight_columns, _weight_cells(row.weight, row.weight.version, weight_columns, tall, g), strict=True
        ):
            if column == "spark":
                step = history.snapshot.step if history.snapshot else 0
                course = spark(row.weight, per_column(step, cells - 1), cells - 1, tall, g)
                block = tuple(((" ", ""), *line) for line in course)
            blocks.append(block)
    return [[span for block in blocks for span in block[at]] for at in range(tall)]


def table(view: View, width: int, height: int, tall: int = 1) -> list[Line]:
    """The head and the rows round the cursor, with what is hidden counted; `height` lines at most.

    Each row is `tall` lines high, which makes its bars taller and nothing else.
    """
    g = view.glyphs
    found = rows(view)
    against = norms(found)
    label = max((against.digits + 2 + glyph.width_of(_bare(row)) for row in found), default=6)
    dead = any(row.layer and row.layer.layer.activation.dead for row in found)
    plan = layout(width, label, dead)
    lines = [header(view, plan, found)]
    room = height - 1 - (1 if view.filter else 0)
    cursor = min(max(0, view.cursor), len(found) - 1)

    def row(at: int) -> list[Line]:
        return _row(view, found[at], plan, against, at == cursor, sick(at), tall)

    def sick(at: int) -> bool:
        layer, weight = found[at]
        dead = bool(layer and layer.layer.activation.dead)
        moves_badly = bool(weight and update_sick(weight.weight.update_data_log10, weight.weight, weight.step))
        return dead or moves_badly or any(_sick(found[at], against))

    lines += listed(len(found), cursor, room // tall, row, g, sick)
    if view.filter:
        everything = len(rows(replace(view, filter="")))
        word = glyph.clip(glyph.escape(view.filter, ascii=g.ascii), 20, g)
        lines.append([(f" {len(found)} of {everything} rows have {word!r} in their name; / changes that", "note")])
    return [fit(line, width, g) for line in lines[:height]]


def _bare(row: Row) -> str:
    return glyph.escape((row.layer.layer.kind if row.layer else row.name)[:24])


def needed(view: View, tall: int = 1) -> int:
    """Lines that the whole table takes, with its head."""
    return 1 + tall * len(rows(view)) + (1 if view.filter else 0)


def tallest(view: View, height: int) -> int:
    """How many lines high its rows may be on a screen of that height, most of which is for the curves."""
    return next((tall for tall in (3, 2) if needed(view, tall) <= height * 0.45 and height >= 30), 1)
