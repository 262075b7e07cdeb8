"""The first screen: every layer in a row, the loss, the names, and what the doctor says."""

from __future__ import annotations

from app import glyphs as glyph
from app.views.curve import Course, grain, lines_over_steps, loss_curve
from app.views.lines import Line, beside, block, heading
from app.views.state import UPDATE_GUIDE, UPDATE_HIGH, UPDATE_LOW, View
from app.views.table import needed, per_column, table

LINE_STYLES = ("line0", "line1", "line2", "line3", "line4", "line5")


def dashboard(view: View, width: int, height: int) -> list[Line]:
    """The body of the dashboard in exactly `height` lines of `width` cells."""
    if view.history.snapshot is None or height < 2:
        return block(waiting(view, width, height), width, height, view.glyphs)
    wanted = needed(view)
    least_below = 0 if height < 8 else 4 if height < 14 else 8 if height < 22 else 14
    top = min(wanted, height - least_below)
    lines = table(view, width, top) if view.history.layers or view.history.weights else _no_layers(view)
    below = height - len(lines)
    if below >= 3:
        lines += _below(view, width, below)
    return block(lines, width, height, view.glyphs)


def waiting(view: View, width: int, height: int) -> list[Line]:
    """What is being waited for, in the middle of the screen."""
    text = view.waiting
    left = max(0, (width - len(text)) // 2)
    return [[] for _ in range(height // 2)] + [[(" " * left, ""), (view.glyphs.text(text), "dim")]]


def _no_layers(view: View) -> list[Line]:
    return [[(" no layer in this snapshot yet: statistics come with the first update", "dim")]]


def _below(view: View, width: int, height: int) -> list[Line]:
    g = view.glyphs
    side = _side_width(width)
    left = width - side - 2 if side else width
    titled = height >= 4
    note = "" if left < 60 else f"minibatches: range and mean; {g.point} validation"
    if view.log:
        note = f"log scale; {note}" if note else "log scale"
    plots: list[Line] = []
    two = height >= 22 and left >= 60
    first = height - (height * 2 // 5 if two else 0)
    if titled:
        plots.append(heading("loss", note, left, g))
    plots += block(loss_curve(view, left, first - len(plots)), left, first - len(plots), g)
    if two:
        plots.append(heading("update:data", f"log10, every weight; guide {g.minus}3", left, g))
        rest = height - len(plots)
        plots += block(updates_over_steps(view, left, rest), left, rest, g)
    if not side:
        return plots
    return beside(plots, side_column(view, side, height), left, width, g)


def _side_width(width: int) -> int:
    return 0 if width < 64 else 26 if width < 100 else 38 if width < 150 else 52


def side_column(view: View, width: int, height: int) -> list[Line]:
    """Sampled names above, findings below."""
    found = view.findings
    if found is None:
        return names(view, width, height)
    told = findings(view, width, height)
    room = max(min(4, height - 1), height - len(told))
    if not found and height >= 12:
        room = height - 2
    return [*names(view, width, room), *told[: height - room]]


def names(view: View, width: int, height: int) -> list[Line]:
    """Names from the model, in as many columns as fit, escaped: they are made of what was in the data."""
    g, snapshot = view.glyphs, view.history.snapshot
    if snapshot is None:
        return []
    note = "" if snapshot.names_step is None else f"at step {snapshot.names_step:,}"
    lines = [heading("names", note, width, g)]
    if not snapshot.names:
        lines.append([(" none sampled yet", "dim")])
        return block(lines, width, height, g)
    rows = height - 1
    columns = max(1, min(width // 13, -(-len(snapshot.names) // max(1, rows))))
    cells = width // columns
    shown = snapshot.names[: rows * columns]
    for row in range(rows):
        found = [shown[at] for at in range(row, len(shown), rows)] if rows else []
        lines.append([(" " + glyph.safe(name, cells - 1, g), "name") for name in found[:columns]])
    return block(lines, width, height, g)


def findings(view: View, width: int, height: int) -> list[Line]:
    """What the doctor has found; nothing is good news."""
    g = view.glyphs
    found = view.findings or ()
    lines = [heading("doctor", "" if not found else f"{len(found)} finding{'s' * (len(found) > 1)}", width, g)]
    if not found:
        lines.append([(" nothing to report", "good")])
    for finding in found:
        first, *rest = glyph.wrap(glyph.escape(finding.title, ascii=g.ascii), width - 2) or [""]
        lines.append([("!", "sick"), (first, "sick")])
        lines += [[(" " + line, "sick")] for line in rest]
        lines += [[(" " + g.text(line), "dim")] for line in glyph.wrap(glyph.escape(finding.text), width - 2)]
    return lines[:height]


def updates_over_steps(view: View, width: int, height: int) -> list[Line]:
    """update:data of every weight over the whole run, one scale for all, the guide at -3."""
    snapshot = view.history.snapshot
    if snapshot is None:
        return []
    cells = width - (6 if width >= 30 else 0)
    dots = cells * grain(view.glyphs).across
    step = per_column(max(snapshot.step, 1), dots)
    courses = [
        Course(name, trace.update.columns(step, most=dots), LINE_STYLES[at % len(LINE_STYLES)])
        for at, (name, trace) in enumerate(view.history.weights.items())
    ]
    return lines_over_steps(
        courses[:24], view, width, height, low=UPDATE_LOW, high=UPDATE_HIGH, per_dot=step,
        guides=((UPDATE_GUIDE, "guide"),),
    )  # fmt: skip

