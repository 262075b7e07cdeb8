"""The backward pass by hand beside autograd's, on the present minibatch, with formula, shapes and place (part 4)."""

from __future__ import annotations

from app import glyphs as glyph
from app.views.answers import Backward, GradientRow, answer, chosen, hint, keep, none_yet, taken_at
from app.views.lines import Line, block, heading
from app.views.state import Pressed, View, listed
from makemore_core.command import Look

NAME = "backward"


def look(view: View) -> Look:
    """The comparison on the present minibatch."""
    del view
    return Look(NAME)


def press(view: View, key: str) -> Pressed | None:
    """Up and down move along the gradients."""
    if key == "enter":
        return Pressed(view)
    data = answer(view, NAME, Backward)
    by = {"up": -1, "down": 1, "pageup": -10, "pagedown": 10, "home": -(10**6), "end": 10**6}.get(key)
    if data is None or by is None:
        return None
    last = len(data.gradients) + len(data.one_expression) - 1
    return Pressed(keep(view, backward_row=min(max(0, chosen(view, "backward_row") + by), last)))


def draw(view: View, width: int, height: int) -> list[Line]:
    """A row a gradient; the one under the cursor with its formula and where it stands in the lecture."""
    g = view.glyphs
    data = answer(view, NAME, Backward)
    if data is None:
        title = heading("backward by hand", "", width, g)
        return block([title, *none_yet(view, NAME, "asking for the gradients")], width, height, g)
    rows = [*data.gradients, *data.one_expression]
    wrong, lost = ([row for row in rows if not row.close and row.nan is nan] for nan in (False, True))
    form = "part 4's pieces" if data.form == "pieces" else "brick by brick"
    note = f"{form}, next minibatch {taken_at(view, NAME)}, loss {data.loss:.4f}"
    lines: list[Line] = [heading("backward by hand", note, width, g)]
    told = (
        f"!{len(wrong)} of {len(rows)} gradients differ from autograd's"
        if wrong
        else f"all {len(rows)} gradients are close to autograd's"
    )
    exact = f", {sum(row.exact for row in rows)} bit for bit"
    if lost and not wrong:
        told, exact = f"nothing to compare: {len(lost)} of {len(rows)} gradients are nan on both sides", ""
    lines.append([(f" {told}", "sick" if wrong else "note" if lost else "good"), (exact, "dim")])
    lines.append([(_columns("d loss / d", "shape", "exact", "close", "largest", "by hand", width), "axis")])
    at = min(chosen(view, "backward_row"), len(rows) - 1)
    room = max(1, height - len(lines) - 4)

    def drawn(position: int) -> list[Line]:
        head: list[Line] = [[(" in one expression", "axis")]] if position == len(data.gradients) else []
        return [*head, _line(rows[position], position == at, width, view)]

    lines += listed(len(rows), at, room, drawn, g)
    lines = block(lines, width, height - 3, g)
    row = rows[at]
    formula, place = (glyph.escape(text, ascii=g.ascii) for text in (row.formula, row.place))
    below: list[Line] = [
        [
            (" " if " = " in formula or "+= " in formula else f" d{glyph.escape(row.name, ascii=g.ascii)} = ", "title"),
            (formula, ""),
        ],
        [(f" {place}; {_shape(row)}", "dim")],
        hint("↑↓ gradient  . one step  esc back", view),
    ]
    return [*lines, *block(below, width, 3, g)]


def _columns(name: str, shape: str, exact: str, close: str, largest: str, formula: str, width: int) -> str:
    text = f" {name:22s}{shape:>11s}  {exact:5s}  {close:5s}  {largest:>8s}"
    return text + (f"  {formula}" if width >= 76 else "")


def _line(row: GradientRow, selected: bool, width: int, view: View) -> Line:
    g = view.glyphs
    exact, close = ("yes" if row.exact else "no"), ("yes" if row.close else "nan" if row.nan else "!NO")
    name = glyph.safe(row.name, 21, g)
    formula = glyph.escape(row.formula, ascii=g.ascii)
    text = _columns(name, _shape(row), exact, close, glyph.scientific(row.largest), formula, width)
    mark = g.cursor if selected else " "
    return [(mark + text[1:], "sick" if not row.close and not row.nan else "cursor" if selected else "")]


def _shape(row: GradientRow) -> str:
    return "x".join(map(str, row.shape)) or "one number"
