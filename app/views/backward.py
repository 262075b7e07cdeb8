"""The backward pass by hand beside autograd's, on the present minibatch, with formula, shapes and place (part 4)."""

from __future__ import annotations

import math

from app import glyphs as glyph
from app.views.answers import answer, none_yet, signed_bars, symbol, taken_at
from app.views.lines import Line, block, heading
from app.views.state import MOVES, Pressed, View, chosen, hint, keep, listed
from makemore_core.answers import Backward, Example, GradientRow
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
    by = MOVES.get(key)
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
    beside = f" and {len(data.one_expression)} in one expression" if data.one_expression else ""
    number, number_exact = f"{len(data.gradients)} gradients{beside}", sum(row.exact for row in rows)
    told = f"!{len(wrong)} of {number} differ from autograd's" if wrong else f"all {number} agree with autograd's"
    exact = f", {number_exact} exact" if number_exact else ", up to rounding"
    if lost and not wrong:
        told, exact = f"nothing to compare: {len(lost)} of {number} are nan on both sides", ""
    lines.append([(f" {told}", "sick" if wrong else "note" if lost else "good"), (exact, "dim")])
    at = min(chosen(view, "backward_row"), len(rows) - 1)
    row = rows[at]
    formula, place = (glyph.escape(text, ascii=g.ascii) for text in (row.formula, row.place))
    below: list[Line] = [
        [
            (" " if " = " in formula or "+= " in formula else f" d{glyph.escape(row.name, ascii=g.ascii)} = ", "title"),
            (formula, ""),
        ],
        [(f" {place}; {_shape(row, g)}", "dim")],
    ]
    example = data.example
    if example and example.name == row.name and all(map(math.isfinite, example.dlogits)) and height >= 16:
        below += _pulled(example, width, view)
    below.append(hint("↑↓ gradient  . one step  esc back", view))
    label = min(22, max(glyph.width_of(row.name) for row in rows) + 1)
    by_hand = "by hand" if width >= label + 56 else ""
    head = by_hand + ", through the next brick" * bool(by_hand and data.form != "pieces" and width >= label + 90)
    exact_head = "exact" * bool(number_exact)
    lines.append([(_columns("d loss / d", "shape", "largest", exact_head, "close", "off by", head, label), "axis")])

    def drawn(position: int) -> list[Line]:
        apart: list[Line] = [[(" in one expression", "axis")]] if position == len(data.gradients) else []
        return [*apart, _line(rows[position], position == at, label, bool(exact_head), bool(by_hand), view)]

    lines += listed(len(rows), at, max(1, height - len(lines) - len(below) - 1), drawn, g)
    return [*block(lines, width, height - len(below), g), *block(below, width, len(below), g)]


def _columns(name: str, shape: str, size: str, exact: str, close: str, off: str, formula: str, label: int) -> str:
    exact = f"{exact:5s}  " if exact else ""
    return f" {name:{label}s}{shape:>10s}  {size:>7s}  {exact}{close:5s}  {off:>7s}  {formula}"


def _line(row: GradientRow, selected: bool, label: int, any_exact: bool, by_hand: bool, view: View) -> Line:
    g = view.glyphs
    exact, close = ("yes" if row.exact else "no") * any_exact, ("yes" if row.close else "nan" if row.nan else "!NO")
    name = glyph.safe(row.name, label - 1, g) + " "
    size, off = (glyph.scientific(value) for value in (row.size, row.largest))
    formula = glyph.escape(row.formula, ascii=g.ascii) if by_hand else ""
    text = _columns(name, _shape(row, g), size, exact, close, off, formula, label)
    mark = g.cursor if selected else " "
    return [(mark + text[1:], "sick" if not row.close and not row.nan else "cursor" if selected else "")]


def _shape(row: GradientRow, g: glyph.Glyphs) -> str:
    return g.times.join(map(str, row.shape)) or "one number"


def _pulled(example: Example, width: int, view: View) -> list[Line]:
    """The gradient of one example as bars over the symbols: which logit it raises, and which it lowers."""
    g = view.glyphs
    context, target = (
        "".join(symbol(example.symbols, index, view) for index in indices)
        for indices in (example.context, [example.target])
    )
    share = -sum(pull for pull in example.dlogits if pull < 0)
    cells = min(len(example.dlogits), max(0, width - 6))
    signs = "".join(glyph.safe(symbol(example.symbols, index, view), 1, g) for index in range(cells))
    up, down = (signed_bars([max(0.0, sign * pull) for pull in example.dlogits], cells, view) for sign in (-1, 1))
    return [
        [(f" one example, {context} {g.arrow} {target}, times n: its row sums to 0", "dim")],
        [(f"      {signs}", "axis")],
        [(" up   ", "dim"), (up, "good"), (f"  the right symbol, by {share:.2f}", "dim")],
        [(" down ", "dim"), (down, "gradient"), ("  the others, by their probability", "dim")],
    ]
