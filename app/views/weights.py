"""Every weight: its gradient, its numbers, and its update:data over the whole run beside all the others'."""

from __future__ import annotations

from app import glyphs as glyph
from app.views.answers import answer
from app.views.dashboard import legend, updates_over_steps
from app.views.lines import Line, cells_of, fit, heading
from app.views.state import Row, View, listed, rows, update_sick
from app.views.table import histogram, per_column, spark
from makemore_core.answers import WeightGradients
from makemore_core.command import Look
from makemore_core.snapshot import Histogram

NAME = "weight-gradients"
BARS = 10  # cells of a histogram or a course beside which one more number is shown
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
    numbers, rest = NUMBERS, width - label - sum(cells for _, cells in NUMBERS)
    enough = BARS if data is None else 2 * BARS
    while (len(numbers) > 3 and rest < enough) or (len(numbers) > 1 and rest < 0):
        rest += numbers[0][1]
        numbers = numbers[1:]
    wide = rest >= 10 + 2 * BARS
    rest -= 10 if wide else 0
    bars = 0 if data is None else rest // 2 if rest >= 2 * BARS else rest
    cells = rest - bars - 1
    step = view.history.snapshot.step if view.history.snapshot else 0
    lines: list[Line] = [heading("weights", f"update:data is log10, on the scale {g.minus}5..{g.minus}1", width, g)]
    head = f"{'':{label}}" + (f"{'shape':<10}" if wide else "")
    if data is not None and bars > 1:
        scale = g.plus_minus + glyph.scientific(data.reach)
        title = next((text for text in (f"gradient {scale}", f"grad {scale}", scale) if len(text) < bars), "")
        head += f" {title:{bars - 1}}"
    head += "".join(name.rjust(cells) for name, cells in numbers)
    lines.append([(head[:width], "dim")])
    cursor = min(max(0, view.cursor), len(found) - 1)
    tall = max(1, min(3, room // len(found)))

    def row(at: int) -> list[Line]:
        trace = found[at].weight
        line: Line = [
            (g.cursor if at == cursor else " ", "cursor"),
            (glyph.safe(_name(found[at]), label - 1, g), "" if trace else "dim"),
        ]
        if trace is None:
            return [line]
        weight = trace.weight
        sick = update_sick(weight.update_data_log10, weight, trace.step)
        if wide:
            line.append((glyph.safe(g.times.join(str(n) for n in weight.shape), 10, g), "dim"))
        above: list[Line] = [[(" " * cells_of(line), "")] for _ in range(tall - 1)]
        if data is not None and bars > 1:
            counts = data.counts.get(weight.name, [])
            for part, text in zip([*above, line], histogram(counts, REACH, 1.0, bars - 1, tall, g), strict=True):
                part += [(" ", ""), (text, "gradient")]
        told = (
            (glyph.scientific(weight.grad_mean, g, 10), "dim"),
            (glyph.scientific(weight.grad_std, g, 9), ""),
            (glyph.scientific(weight.data_std, g, 9), ""),
            (glyph.scientific(weight.grad_data_ratio, g, 10), ""),
            (
                ("!" * sick + glyph.fixed(weight.update_data_log10, 6, 2, glyphs=g).strip()).rjust(13),
                "sick" if sick else "",
            ),
        )
        line += told[-len(numbers) :]
        if cells >= 6:
            for part, spans in zip([*above, line], spark(trace, per_column(step, cells), cells, tall, g), strict=True):
                part += [(" " * (cells_of(line) - cells_of(part) + 1), ""), *spans]
        return [fit(part, width, g) for part in (*above, line)]

    def sick(at: int) -> bool:
        trace = found[at].weight
        return trace is not None and update_sick(trace.weight.update_data_log10, trace.weight, trace.step)

    lines += listed(len(found), cursor, room // tall, row, g, sick)
    if plot >= 5:
        plot = max(plot, height - len(lines) - 1)
        lines += [[]] * (height - plot - len(lines))
        title = "update:data over steps"
        lines.append(heading(title, legend(view, title, width, by_row=False), width, g))
        lines += updates_over_steps(view, width, plot - 1)
    return lines


def _name(row: Row) -> str:
    """The weight's, or the layer's where none feeds it."""
    return row.weight.weight.name if row.weight else row.name
