"""Every weight: its numbers, and its update:data over the whole run beside all the others'."""

from __future__ import annotations

from app import glyphs as glyph
from app.views.dashboard import legend, updates_over_steps
from app.views.lines import Line, fit, heading
from app.views.state import Row, View, listed, rows, update_sick
from app.views.table import per_column, spark

_NUMBERS = 51  # cells of the numbers


def draw(view: View, width: int, height: int) -> list[Line]:
    """A row for each weight; below them update:data over the steps."""
    g = view.glyphs
    found = rows(view)
    if not any(row.weight for row in found):
        return [[], [(" no weight " + ("passes the filter" if view.filter else "in this snapshot yet"), "dim")]]
    plot = min(height // 2, 18) if height >= 14 else 0
    room = height - plot - 2
    label = min(18 if width >= 100 else 10, max(glyph.width_of(glyph.escape(_name(row))) for row in found) + 2)
    wide = width >= label + _NUMBERS + 16 + 10
    cells = max(0, width - label - _NUMBERS - (10 if wide else 0) - 1)
    step = view.history.snapshot.step if view.history.snapshot else 0
    lines: list[Line] = [heading("weights", f"update:data is log10, on the scale {g.minus}5..{g.minus}1", width, g)]
    head = f"{'':{label}}" + (f"{'shape':<10}" if wide else "")
    head += f"{'grad mean':>10}{'grad std':>9}{'data std':>9}{'grad:data':>10}{'update:data':>13}"
    lines.append([(head[:width], "dim")])
    cursor = min(max(0, view.cursor), len(found) - 1)

    def row(at: int) -> list[Line]:
        trace = found[at].weight
        line: Line = [
            (g.cursor if at == cursor else " ", "cursor"),
            (glyph.safe(_name(found[at]), label - 1, g), "" if trace else "dim"),
        ]
        if trace is None:
            return [line]
        weight = trace.weight
        sick = update_sick(weight.update_data_log10, weight)
        if wide:
            line.append((glyph.safe(g.times.join(str(n) for n in weight.shape), 10, g), "dim"))
        line += [
            (glyph.scientific(weight.grad_mean, g, 10), "dim"),
            (glyph.scientific(weight.grad_std, g, 9), ""),
            (glyph.scientific(weight.data_std, g, 9), ""),
            (glyph.scientific(weight.grad_data_ratio, g, 10), ""),
            (
                ("!" * sick + glyph.fixed(weight.update_data_log10, 6, 2, glyphs=g).strip()).rjust(13),
                "sick" if sick else "",
            ),
        ]
        if cells >= 6:
            line += [(" ", ""), *spark(trace, per_column(step, cells), cells, 1, g)[0]]
        return [fit(line, width, g)]

    lines += listed(len(found), cursor, room, row, g)
    if plot >= 5:
        lines += [[]] * (height - plot - len(lines))
        title = "update:data over steps"
        lines.append(heading(title, legend(view, title, width, by_row=False), width, g))
        lines += updates_over_steps(view, width, plot - 1)
    return lines


def _name(row: Row) -> str:
    """The weight's, or the layer's where none feeds it."""
    return row.weight.weight.name if row.weight else row.name
