"""The table of layers: one row each, so that depth reads downwards and a sick layer breaks the pattern of its column.

Columns are chosen by the width of the screen, in the order of what they tell; scales are the same in every row.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import NamedTuple

from app import glyphs as glyph
from app.glyphs import Glyphs
from app.history import Series, WeightTrace
from app.views.lines import Line, fit
from app.views.state import (
    UPDATE_HIGH,
    UPDATE_LOW,
    Row,
    View,
    gradient_sick,
    is_bounded,
    rows,
    saturated_sick,
    spread_sick,
    update_sick,
    window,
)
from makemore_core.snapshot import SATURATED


class Column(NamedTuple):
    """A column by name, its least and most cells (with the cell before it), and how it shares what is left over."""

    name: str
    least: int
    most: int
    share: float = 0.0


# In the order in which they are given up on a narrow screen, the last first.
COLUMNS = (
    Column("activation", 9, 41, 3),
    Column("saturated", 5, 5),
    Column("update", 5, 5),
    Column("std", 5, 5),
    Column("gradient", 9, 41, 2),
    Column("grad std", 7, 7),
    Column("spark", 7, 41, 2),
    Column("grad:data", 7, 7),
    Column("meter", 4, 9, 0.6),
    Column("mean", 6, 6),
    Column("dead", 5, 5),
    Column("shape", 10, 10),
)
ORDER = (
    "activation", "mean", "std", "saturated", "meter", "dead", "gradient", "grad std", "shape", "grad:data", "spark",
    "update",
)  # fmt: skip


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
    for column in COLUMNS:
        if (column.name == "dead" and not dead) or (column.name == "shape" and width < 130):
            continue
        if column.least <= left:
            chosen[column.name] = column.least
            left -= column.least
    extra = min(left, label - least_label, 6 if width < 120 else 12)
    left -= extra
    while left > 0:
        growing = [c for c in COLUMNS if c.share and chosen.get(c.name, c.most) < c.most]
        if not growing:
            break
        best = min(growing, key=lambda c: chosen[c.name] / c.share)
        chosen[best.name] += 1
        left -= 1
    return Layout(least_label + extra, tuple((name, chosen[name]) for name in ORDER if name in chosen))


def _scale(value: float) -> str:
    return f"{value:g}".replace("e-0", "e-").replace("e+0", "e") if 1e-3 <= value < 1e4 else glyph.scientific(value)


def _titles(view: View, table: Sequence[Row]) -> dict[str, tuple[str, ...]]:
    """The heads of the columns, each in several lengths, the longest first."""
    g, history = view.glyphs, view.history
    kinds = {is_bounded(row) for row in table if row.layer is not None}
    edge = "1" if kinds != {False} else _scale(history.activation_scale)
    mixed = f" (unbounded {g.plus_minus}{_scale(history.activation_scale)})" if len(kinds) == 2 else ""
    grad = _scale(history.gradient_scale)
    return {
        "activation": (
            f"activation {g.minus}{edge}..{edge}{mixed}", f"activation {g.plus_minus}{edge}{mixed}",
            f"activation {g.minus}{edge}..{edge}", f"act {g.minus}{edge}..{edge}", f"act {g.plus_minus}{edge}", "act",
        ),
        "mean": ("mean",), "std": ("std",), "saturated": ("sat.",), "dead": ("dead",),
        "meter": (f"|a|>{SATURATED:g}", f">{SATURATED:g}".replace("0.", "."), ""),
        "gradient": (f"gradient {g.plus_minus}{grad}", f"grad {g.plus_minus}{grad}", f"{g.plus_minus}{grad}", "grad"),
        "grad std": ("std",), "shape": ("weight",), "grad:data": ("gr:data", "g:d"),
        "spark": (
            f"update:data log10 {g.minus}5..{g.minus}1, line at {g.minus}3",
            f"update:data {g.minus}5..{g.minus}1", "update:data", "upd:data", "upd",
        ),
        "update": (f"{g.guide}{g.minus}3{g.guide}",),
    }  # fmt: skip


NUMBERS = ("mean", "std", "saturated", "dead", "grad std", "grad:data", "update")


def header(view: View, plan: Layout, table: Sequence[Row]) -> Line:
    """The heads of the columns, in the longest form that fits."""
    titles = _titles(view, table)
    line: Line = [(" layer".ljust(plan.label)[: plan.label], "dim")]
    if plan.label < 6:
        line = [(" " * plan.label, "")]
    for name, cells in plan.columns:
        room = cells - 1
        text = next((t for t in titles[name] if len(t) <= room), titles[name][-1][:room])
        style = {"activation": "activation", "gradient": "gradient", "spark": "update"}.get(name, "dim")
        line.append((" " + (text.rjust(room) if name in NUMBERS else text.ljust(room)), style))
    return line


@functools.lru_cache(4096)
def _label(name: str, cells: int, digits: int, index: int | None, g: Glyphs) -> str:
    text = f"{index:>{digits}} {name}" if index is not None else f"{'':{digits}} {name}"
    return glyph.safe(text, cells, g)


def _histogram(counts: Sequence[float], low: float, high: float, scale: float, cells: int, g: Glyphs) -> str:
    shares = glyph.rebin(counts, low, high, -scale, scale, cells)
    return glyph.bars([round(height) for height in glyph.heights(shares)], g)


def spark(series: Series, per_column: int, cells: int, g: Glyphs) -> Line:
    """update:data over the whole run on the fixed scale -5..-1: a line at -3 where no bar stands yet.

    Half a cell is -3. Bars that lie above -2 or below -4 are in the colour of a warning.
    """
    out: list[str] = []
    styles: list[str] = []
    for bucket in series.columns(per_column, most=cells):
        if bucket is None:
            out.append(g.guide)
            styles.append("guide")
            continue
        height = glyph.level(min(max(bucket.mean, UPDATE_LOW), UPDATE_HIGH) - UPDATE_LOW, UPDATE_HIGH - UPDATE_LOW)
        out.append(g.ramp[max(1, height)])
        styles.append("sick" if update_sick(bucket.mean) else "update")
    out += g.guide * (cells - len(out))
    styles += ["guide"] * (cells - len(styles))
    line: Line = []
    for text, style in zip(out, styles, strict=True):
        if line and line[-1][1] == style:
            line[-1] = (line[-1][0] + text, style)
        else:
            line.append((text, style))
    return line


def per_column(step: int, cells: int) -> int:
    """Steps to a column, a power of two, so that a run of `step` steps fills half the columns or more.

    Old columns then stand still while new ones come, which is what keeps a growing curve cheap to send.
    """
    size = 1
    while size * cells < step:
        size *= 2
    return size


def _number(text: str, sick: bool, style: str) -> list[tuple[str, str]]:
    return [("!", "sick"), (text, "sick")] if sick else [(" ", ""), (text, style)]


class _Scales(NamedTuple):
    """What one row has to be compared with."""

    first_std: float
    gradient_std: float
    digits: int


def _scales(table: Sequence[Row]) -> _Scales:
    layers = [row.layer.layer for row in table if row.layer is not None]
    stds = [layer.gradient.std for layer in layers if math.isfinite(layer.gradient.std) and layer.gradient.std > 0]
    digits = len(str(max((layer.index for layer in layers), default=0)))
    first = next((layer.activation.std for layer in layers), 0.0)
    return _Scales(first, median(stds) if stds else 0.0, digits)


def _row(view: View, row: Row, plan: Layout, scales: _Scales, chosen: bool) -> Line:
    g, history = view.glyphs, view.history
    name = row.layer.layer.kind if row.layer else row.name
    index = row.layer.layer.index if row.layer else None
    label = _label(name, plan.label - 1, scales.digits, index, g)
    line: Line = [(g.cursor if chosen else " ", "cursor"), (label, "cursor" if chosen else "" if row.layer else "dim")]
    for column, cells in plan.columns:
        line += _cell(view, row, column, cells, scales, g, history.snapshot.step if history.snapshot else 0)
    return line


def _cell(view: View, row: Row, column: str, cells: int, scales: _Scales, g: Glyphs, step: int) -> Line:
    room = cells - 1
    if column in ("grad:data", "spark", "update", "shape"):
        return _weight_cell(row.weight, column, room, g, step) if row.weight else [(" " * cells, "")]
    if row.layer is None:
        return [(" " * cells, "")]
    trace, layer, history = row.layer, row.layer.layer, view.history
    activation, gradient = layer.activation, layer.gradient
    if column == "activation":
        scale = 1.0 if is_bounded(row) else history.activation_scale or 1.0
        box = activation.histogram
        style = "sick" if saturated_sick(row) or spread_sick(row, scales.first_std) else "activation"
        return [(" ", ""), (_histogram(trace.activation_counts, box.low, box.high, scale, room, g), style)]
    if column == "gradient":
        box = gradient.histogram
        style = "sick" if gradient_sick(row, scales.gradient_std) else "gradient"
        shape = _histogram(trace.gradient_counts, box.low, box.high, history.gradient_scale or 1.0, room, g)
        return [(" ", ""), (shape, style)]
    if column == "mean":
        mean = activation.mean if abs(activation.mean) >= 0.005 or activation.mean != activation.mean else 0.0
        return _number(glyph.fixed(mean, room, plus=True, glyphs=g), not math.isfinite(mean), "dim")
    if column == "std":
        return _number(glyph.fixed(activation.std, room, glyphs=g), spread_sick(row, scales.first_std), "")
    if column == "saturated":
        return _number(glyph.percent(activation.saturated, room), saturated_sick(row), "")
    if column == "meter":
        style = "sick" if saturated_sick(row) else "activation"
        return [(" ", ""), (glyph.meter(activation.saturated, room, g), style)]
    if column == "grad std":
        return _number(glyph.scientific(gradient.std).rjust(room), gradient_sick(row, scales.gradient_std), "")
    if column == "dead":
        dead = activation.dead
        return _number(("?" if dead is None else f"{dead}").rjust(room), bool(dead), "dim")
    raise AssertionError(column)


def _weight_cell(trace: WeightTrace, column: str, room: int, g: Glyphs, step: int) -> Line:
    weight = trace.weight
    if column == "grad:data":
        ratio = weight.grad_data_ratio
        return _number(glyph.scientific(ratio).rjust(room), not math.isfinite(ratio), "")
    if column == "spark":
        return [(" ", ""), *spark(trace.update, per_column(step, room), room, g)]
    if column == "update":
        value = weight.update_data_log10
        return _number(glyph.fixed(value, room, 1, glyphs=g), update_sick(value), "")
    return [(" ", ""), (glyph.safe(g.times.join(str(n) for n in weight.shape), room, g), "dim")]


def table(view: View, width: int, height: int) -> list[Line]:
    """The head and the rows round the cursor, with what is hidden counted; `height` lines at most."""
    found = rows(view)
    everything = len(rows(replace(view, filter="")))
    digits = _scales(found).digits
    label = max((digits + 2 + glyph.width_of(_bare(row)) for row in found), default=6)
    dead = any(row.layer and row.layer.layer.activation.dead for row in found)
    plan = layout(width, label, dead)
    scales = _scales(found)
    lines = [fit(header(view, plan, found), width, view.glyphs)]
    first, last = window(len(found), view.cursor, height - 1)
    if first > 0:
        lines.append([(f" {view.glyphs.above} {first} more above", "dim")])
    cursor = min(max(0, view.cursor), len(found) - 1)
    lines += [fit(_row(view, found[at], plan, scales, at == cursor), width, view.glyphs) for at in range(first, last)]
    if last < len(found):
        lines.append([(f" {view.glyphs.below} {len(found) - last} more below", "dim")])
    if view.filter and len(lines) < height + 1:
        shown = f" {len(found)} of {everything} rows have {glyph.clip(glyph.escape(view.filter), 20, view.glyphs)!r} in them"
        lines.append([(shown, "note")])
    return lines[:height]


def _bare(row: Row) -> str:
    return glyph.escape((row.layer.layer.kind if row.layer else row.name)[:24])


def needed(view: View) -> int:
    """Lines that the whole table takes, with its head."""
    return 1 + len(rows(view)) + (1 if view.filter else 0)

