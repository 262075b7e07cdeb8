"""The first screen: every layer in a row, the loss, the names, and what the doctor says."""

from __future__ import annotations

from app import glyphs as glyph
from app.views.curve import LINES, Course, curves, legend, lines_over_steps, loss_curve, thinned, updates_over_steps
from app.views.doctor import all_well
from app.views.lines import Line, beside, block, cells_of, heading
from app.views.state import View, style_of
from app.views.table import needed, table, tallest
from makemore_core.doctor import Finding

WIDE = 100  # the highest loss by the lowest: on a linear scale nothing but the highest is seen


def dashboard(view: View, width: int, height: int) -> list[Line]:
    """The body of the dashboard in exactly `height` lines of `width` cells."""
    if view.history.snapshot is None or height < 2:
        return block(waiting(view, width, height), width, height, view.glyphs)
    tall = tallest(view, height)
    least_below = 0 if height < 8 else 4 if height < 14 else 8 if height < 22 else 14
    top = min(needed(view, tall), height - least_below)
    lines: list[Line] = [[(" no layer in this snapshot yet: statistics come with the first update", "dim")]]
    if view.history.layers or view.history.weights:
        lines = table(view, width, top, tall)
    below = height - len(lines)
    if below >= 3:
        lines += _below(view, width, below)
    return lines


def waiting(view: View, width: int, height: int) -> list[Line]:
    """What is being waited for, in the middle of the screen."""
    text = view.waiting
    left = max(0, (width - len(text)) // 2)
    return [[] for _ in range(height // 2)] + [[(" " * left, ""), (view.glyphs.text(text), "dim")]]


def _below(view: View, width: int, height: int) -> list[Line]:
    """What is below the table: the loss, names and findings; on a large screen two more plots."""
    g = view.glyphs
    side = _side_width(width)
    left = width - side - 2 if side else width
    two = height >= 22 and side >= 38
    first = height - (height * 2 // 5 if two else 0)
    loss = _titled("loss", _loss_note(view, left), left, first, g, loss_curve(view, left, first - (first >= 4)))
    if not side:
        return loss
    lines = beside(loss, side_column(view, side, first), left, width, g)
    if two:
        rest = height - first
        note = legend(view, "update:data", left)
        update = _titled("update:data", note, left, rest, g, updates_over_steps(view, left, rest - 1))
        spread = _titled("activation std", _layers_drawn(view), side, rest, g, stds_over_steps(view, side, rest - 1))
        lines += beside(update, spread, left, width, g)
    return lines


def _titled(title: str, note: str | Line, width: int, height: int, g: glyph.Glyphs, lines: list[Line]) -> list[Line]:
    """A plot under its title, the title left out where there is no room for it."""
    lines = [heading(title, note, width, g), *lines] if height >= 4 else lines
    return [*lines[:height], *([[]] * (height - len(lines)))]


def _loss_note(view: View, width: int) -> Line:
    bounds = view.history.attempt.loss.bounds()
    parts = ["log scale"] if view.log else []
    if bounds and bounds[1] > WIDE * bounds[0] and not view.log:
        parts = ["y for a log scale"]
    whole = 80 if parts or view.history.beside else 60  # cells in which there is room for all of it
    if 30 <= width < whole:
        parts.append(f"range, mean, {view.glyphs.point} val")
    if width >= whole:
        parts.append(f"of minibatches: range and mean; {view.glyphs.point} validation")
    note: Line = [(", ".join(parts), "dim")] if parts else []
    if other := view.history.beside:
        g = view.glyphs
        run = f"{g.times} " * (not g.coloured) + glyph.clip(glyph.escape(other.run, ascii=g.ascii), width // 3, g)
        note += [*([("; ", "dim")] if parts else []), (run, "twin")]
    return note


def _side_width(width: int) -> int:
    return 0 if width < 64 else 26 if width < 100 else 38 if width < 150 else 56


def side_column(view: View, width: int, height: int) -> list[Line]:
    """Sampled names above, findings below."""
    told = findings(view, width, height - min(3, height - 1))
    return [*names(view, width, height - len(told)), *told]


def _cut(lines: list[Line], height: int, width: int, g: glyph.Glyphs) -> list[Line]:
    """The first lines, with a sign at their end where more was said."""
    if len(lines) <= height or height < 1:
        return lines[: max(0, height)]
    *before, (text, style) = lines[height - 1]
    return [*lines[: height - 1], [*before, (glyph.clip(f"{text} {g.ellipsis}", width - cells_of(before), g), style)]]


def names(view: View, width: int, height: int) -> list[Line]:
    """Names from the model, in as many columns as fit, escaped: they are made of what was in the data."""
    g, snapshot = view.glyphs, view.history.snapshot
    if snapshot is None:
        return []
    at = "" if snapshot.names_step is None else f"at step {snapshot.names_step:,}"
    warm = snapshot.names_temperature
    longest = [", ".join(filter(None, (at, f"temperature {warm:g}"))), f"{at}, T {warm:g}", f"T {warm:g}"]
    note = at if warm == 1.0 else next((text for text in longest if len(text) + 9 <= width), longest[-1])
    lines = [heading("names", note, width, g)]
    if not snapshot.names:
        none = "none: its logits are no numbers" if snapshot.state == "diverged" else "none sampled yet"
        lines.append([(f" {none}", "dim")])
        return block(lines, width, height, g)
    rows = height - 1
    columns = max(1, min(width // 13, -(-len(snapshot.names) // max(1, rows))))
    cells = width // columns
    shown = snapshot.names[: rows * columns]
    for row in range(rows):
        lines.append([
            (" " + glyph.safe(name or "(empty)", cells - 1, g), "name" if name else "dim") for name in shown[row::rows]
        ])  # fmt: skip
    return block(lines, width, height, g)


def findings(view: View, width: int, height: int) -> list[Line]:
    """What the doctor has found, in `height` lines at most: all the titles, and as much about them, the first ones
    first, as has room. Nothing is good news.
    """
    g = view.glyphs
    found = view.findings
    head = heading("doctor", "" if not found else f"{len(found)} finding{'s' * (len(found) > 1)}", width, g)
    lines: list[Line] = [] if found else [all_well(view)]
    titles = [_title(finding, width, g) for finding in found]
    if sum(map(len, titles)) > height - 1:
        titles = [_cut(title, 1, width, g) for title in titles]
    room = height - 1 - sum(map(len, titles))
    for finding, title in zip(found, titles, strict=True):
        about = [[(" " + line, "dim")] for line in _wrapped(f"{finding.suggestion}; {finding.evidence}", width - 2, g)]
        lines += [*title, *_cut(about, room, width, g)]
        room -= len(about)
    return [head, *_cut(lines, height - 1, width, g)]


def _title(finding: Finding, width: int, g: glyph.Glyphs) -> list[Line]:
    words = _wrapped(finding.what, width - 1, g)
    return [[(" " if at else "!", style_of(finding)), (line, style_of(finding))] for at, line in enumerate(words)]


def _wrapped(text: str, width: int, g: glyph.Glyphs) -> list[str]:
    return glyph.wrap(glyph.escape(g.text(text), ascii=g.ascii), width)


def _layers_drawn(view: View) -> str:
    count = len(view.history.layers)
    return "every layer" if count <= LINES else f"{LINES} of {count} layers"


def stds_over_steps(view: View, width: int, height: int) -> list[Line]:
    """The std of every layer's activations over the whole run."""
    high = max(1.0, view.history.activation_scale)
    courses = [Course(row.layer.std, style, letter) for row, style, letter in curves(view) if row.layer]
    return lines_over_steps(thinned(courses), view, width, height, low=0.0, high=high)
