"""Every weight: its gradient, its numbers, and its update:data over the whole run beside all the others'."""

from __future__ import annotations

from typing import NamedTuple

from app import glyphs as glyph
from app.traces import WeightTrace
from app.views.answers import answer
from app.views.curve import legend, updates_over_steps, with_plot
from app.views.lines import Line, cells_of, fit, heading
from app.views.state import Row, View, listed, rows, update_sick
from app.views.table import histogram, per_column, spark
from makemore_core.answers import WeightGradients
from makemore_core.command import Look
from makemore_core.snapshot import Histogram

NAME = "weight-gradients"
BARS = 10  # cells of a histogram or a course beside which one more number is shown
SHAPE = 10  # cells
LEAST_COURSE = 6  # cells
REACH = Histogram(-1.0, 1.0, ())  # of the histograms, in what the answer calls their reach
# With their cells; the first are given up first where it is narrow.
NUMBERS: tuple[tuple[str, int], ...] = (
    ("grad mean", 10),
    ("grad std", 9),
    ("data std", 9),
    ("grad:data", 10),
    ("update:data", 13),
)


def look(view: View) -> Look:
    """The gradients of the weights on the present minibatch."""
    del view
    return Look(NAME)


class _Columns(NamedTuple):
    """What there is room for in a row, in cells; 0 for what there is none for."""

    shape: int
    bars: int  # the gradient's histogram, with a blank before it
    numbers: tuple[tuple[str, int], ...]
    course: int


def _columns(label: int, width: int, answered: bool) -> _Columns:
    numbers, rest = NUMBERS, width - label - sum(cells for _, cells in NUMBERS)
    enough = 2 * BARS if answered else BARS
    while (len(numbers) > 3 and rest < enough) or (len(numbers) > 1 and rest < 0):
        rest += numbers[0][1]
        numbers = numbers[1:]
    shape = SHAPE if rest >= SHAPE + 2 * BARS else 0
    rest -= shape
    bars = 0 if not answered or rest < 2 else rest // 2 if rest >= 2 * BARS else rest
    course = rest - bars - 1
    return _Columns(shape, bars, numbers, course if course >= LEAST_COURSE else 0)


def draw(view: View, width: int, height: int) -> list[Line]:
    """A row for each weight; below them update:data over the steps."""
    g = view.glyphs
    found = rows(view)
    if not any(row.weight for row in found):
        return [[], [(" no weight " + ("passes the filter" if view.filter else "in this snapshot yet"), "dim")]]
    plot = min(height // 2, 18) if height >= 14 else 0
    room = height - plot - 2
    label = min(18 if width >= 100 else 10, max(glyph.width_of(glyph.escape(_name(row))) for row in found) + 2)
    data = answer(view, NAME, WeightGradients)
    columns = _columns(label, width, data is not None)
    head = f"{'':{label}}" + "shape".ljust(columns.shape)[: columns.shape]
    if data is not None and columns.bars:
        scale = g.plus_minus + glyph.scientific(data.reach)
        title = next((text for text in (f"gradient {scale}", f"grad {scale}", scale) if len(text) < columns.bars), "")
        head += f" {title:{columns.bars - 1}}"
    head += "".join(name.rjust(cells) for name, cells in columns.numbers)
    lines: list[Line] = [heading("weights", f"update:data is log10, on the scale {g.minus}5..{g.minus}1", width, g)]
    lines.append([(head[:width], "dim")])
    cursor = min(max(0, view.cursor), len(found) - 1)
    tall = max(1, min(3, room // len(found)))

    def row(at: int) -> list[Line]:
        trace = found[at].weight
        start: Line = [
            (g.cursor if at == cursor else " ", "cursor"),
            (glyph.safe(_name(found[at]), label - 1, g), "" if trace else "dim"),
        ]
        if trace is None:
            return [start]
        return [fit(part, width, g) for part in _row(start, trace, data, columns, tall, view)]

    def sick(at: int) -> bool:
        trace = found[at].weight
        return trace is not None and _sick(trace)

    lines += listed(len(found), cursor, room // tall, row, g, sick)
    title = "update:data over steps"
    note = legend(view, title, width, by_row=False)
    return with_plot(lines, view, width, height, plot, title, note, updates_over_steps)


def _row(
    line: Line, trace: WeightTrace, data: WeightGradients | None, columns: _Columns, tall: int, view: View
) -> list[Line]:
    """The line of a weight behind its label, and what of its histogram and its course is above it."""
    g, weight, sick = view.glyphs, trace.weight, _sick(trace)
    if columns.shape:
        line.append((glyph.safe(g.times.join(str(n) for n in weight.shape), columns.shape, g), "dim"))
    above: list[Line] = [[(" " * cells_of(line), "")] for _ in range(tall - 1)]
    if data is not None and columns.bars:
        counts = data.counts.get(weight.name, [])
        bars = histogram(counts, REACH, 1.0, columns.bars - 1, tall, "gradient", g)
        for part, bar in zip([*above, line], bars, strict=True):
            part += [(" ", ""), *bar]
    update = ("!" * sick + glyph.fixed(weight.update_data_log10, 6, 2, glyphs=g).strip()).rjust(13)
    told = (
        (glyph.scientific(weight.grad_mean, g, 10), "dim"),
        (glyph.scientific(weight.grad_std, g, 9), ""),
        (glyph.scientific(weight.data_std, g, 9), ""),
        (glyph.scientific(weight.grad_data_ratio, g, 10), ""),
        (update, "sick" if sick else ""),
    )
    line += told[-len(columns.numbers) :]
    if columns.course:
        step = view.history.snapshot.step if view.history.snapshot else 0
        course = spark(trace, per_column(step, columns.course), columns.course, tall, g)
        for part, spans in zip([*above, line], course, strict=True):
            part += [(" " * (cells_of(line) - cells_of(part) + 1), ""), *spans]
    return [*above, line]


def _sick(trace: WeightTrace) -> bool:
    return update_sick(trace.weight.update_data_log10, trace.weight, trace.step)


def _name(row: Row) -> str:
    """The weight's, or the layer's where none feeds it."""
    return row.weight.weight.name if row.weight else row.name
