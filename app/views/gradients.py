"""Gradients at every layer's output: their shapes on one scale, and how their std moves with depth and time."""

from __future__ import annotations

import math

from app import glyphs as glyph
from app.views.curve import Course, curves, legend, lines_over_steps, thinned, with_plot
from app.views.lines import Line, fit, heading
from app.views.state import View, gradient_sick, listed, rows
from app.views.table import histogram, norms

DEEPEST = 1e-16  # of the top of the scale, its foot at most: one underflow is not to flatten all the rest
_NUMBERS = 38  # cells of the numbers behind the histogram


def draw(view: View, width: int, height: int) -> list[Line]:
    """A row for each layer; below them the std of all over the steps."""
    g, history = view.glyphs, view.history
    found = rows(view)
    if not any(row.layer for row in found):
        return [[], [(" no layer in this snapshot yet", "dim")]]
    plot = min(height // 2, 16) if height >= 14 else 0
    room = height - plot - 2
    against = norms(found)
    label = min(12, max(len(glyph.escape(row.name)) for row in found) + 3)
    cells = max(8, width - label - _NUMBERS)
    scale = history.gradient_scale or 1.0
    note = f"at every layer's output; bars {g.plus_minus}{scale:g}, the rest in the grey edge bars"
    lines: list[Line] = [heading("gradients", note, width, g)]
    head = f"{'':{label}}{'':{cells}}{'mean':>10}{'std':>9}{'/median':>9}{'/start':>9}"
    lines.append([(head[:width], "dim")])
    cursor = min(max(0, view.cursor), len(found) - 1)
    tall = max(1, min(3, room // len(found)))

    def row(at: int) -> list[Line]:
        mark, trace = (g.cursor if at == cursor else " ", "cursor"), found[at].layer
        if trace is None:
            return [[mark, (f"{glyph.safe(found[at].name, label - 1, g)} a weight: 4 shows its gradient", "dim")]]
        gradient = trace.layer.gradient
        sick = gradient_sick(found[at], against.gradient_std)
        style = "sick" if sick else "gradient"
        bars = histogram(trace.gradient_counts, gradient.histogram, scale, cells, tall, style, g)
        return [*([(" " * label, ""), *bar] for bar in bars[:-1]), fit([
            mark,
            (glyph.safe(f"{trace.layer.index:>{against.digits}} {trace.layer.kind}", label - 1, g), ""),
            *bars[-1],
            (glyph.scientific(gradient.mean, g, 10), "dim"),
            (("!" * sick + glyph.scientific(gradient.std, g)).rjust(9), "sick" if sick else ""),
            (_times(gradient.std, against.gradient_std, g), "dim"),
            (_times(gradient.std, trace.first.gradient.std, g), "dim"),
        ], width, g)]  # fmt: skip

    lines += listed(len(found), cursor, room // tall, row, g, lambda at: gradient_sick(found[at], against.gradient_std))
    title = "gradient std over steps"
    return with_plot(lines, view, width, height, plot, title, legend(view, title, width, layers=True), over_steps)


def _times(value: float, other: float, g: glyph.Glyphs) -> str:
    ratio = value / other if other else math.nan
    text = glyph.scientific(ratio) if 0 < ratio < 0.01 else glyph.fixed(ratio, 5).strip()
    return (g.times + text).rjust(9)


def over_steps(view: View, width: int, height: int) -> list[Line]:
    """The gradient's std of every layer on one logarithmic scale that holds them all."""
    layers = view.history.layers
    found = [bounds for trace in layers.values() if (bounds := trace.gradient_std.bounds()) and bounds[1] > 0]
    if not found:
        return [[(" no finite gradient yet", "dim")]]
    high = 10.0 ** math.ceil(math.log10(max(high for _, high in found)) + 1e-9)
    low = 10.0 ** math.floor(math.log10(max(1e-300, high * DEEPEST, min(low or high for low, high in found))))
    courses = [Course(row.layer.gradient_std, style, letter) for row, style, letter in curves(view) if row.layer]
    return lines_over_steps(thinned(courses), view, width, height, low=low, high=max(high, low * 10), log=True)
