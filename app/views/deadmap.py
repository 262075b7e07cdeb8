"""The dead-unit map of part 3: units across, examples down, ink where the nonlinearity is flat."""

from __future__ import annotations

import math
from dataclasses import replace

from app import glyphs as glyph
from app.views.answers import answer, none_yet, signed_bars, taken_at
from app.views.lines import Line, block, cells_of, heading, runs
from app.views.state import Pressed, View, chosen, hint, keep, rows, saturated_sick
from makemore_core.answers import DeadMap, Unit
from makemore_core.command import Look

NAME = "dead-map"
TITLE = "dead units"
_QUARTERS = " ▘▝▀▖▌▞▛▗▚▐▜▄▙▟█"  # by mask: bit 0 top left, 1 top right, 2 bottom left, 3 bottom right
_ASCII = " .:+#"  # by count


def look(view: View) -> Look:
    """The layer and unit under the cursor; the worst layer until one is chosen."""
    return Look(NAME, dict(_cursor(view)))


def _lost(view: View) -> set[int]:
    """The layers whose activations are not finite: compared with a threshold they seem alive."""
    layers = (trace.newest for trace in view.history.layers.values())
    return {layer.index for layer in layers if not math.isfinite(layer.activation.std)}


def _saturated(view: View) -> set[int]:
    """The layers that the table marks as saturated."""
    found = rows(replace(view, filter=""))
    return {row.layer.layer.index for row in found if row.layer is not None and saturated_sick(row)}


def _cursor(view: View) -> dict[str, int]:
    """The layer and unit that were chosen, as far as the net still has them: a change may number its layers anew."""
    units = {trace.newest.index: trace.newest.activation.units for trace in view.history.layers.values()}
    layer, unit = chosen(view, "dead_layer", -1), chosen(view, "dead_unit", -1)
    if layer not in units:
        return {}
    return {"layer": layer, "unit": unit} if unit in range(units[layer]) else {"layer": layer}


def press(view: View, key: str) -> Pressed | None:
    """Left and right move along the units, up and down along the layers, `enter` enlarges the layer shown."""
    data = answer(view, NAME, DeadMap)
    if data is None or not data.map or not data.layers or key not in ("left", "right", "up", "down", "enter"):
        return None
    if key == "enter":
        whole = replace(view, filter="")
        layers = [row.layer and row.layer.layer.index for row in rows(whole)]
        known = data.layer in layers  # else the answer is older than the net
        return Pressed(replace(whole, cursor=layers.index(data.layer), screen="layer") if known else view)
    if key in ("left", "right"):
        count = len(data.map)
        at = chosen(view, "dead_unit", -1 if key == "right" else count)
        return Pressed(keep(view, dead_layer=data.layer, dead_unit=(at + (1 if key == "right" else -1)) % count))
    indices = [layer.index for layer in data.layers]
    here = _cursor(view).get("layer", data.layer)  # the answer may be older than the net, or another's
    at = (indices.index(here) if here in indices else 0) + (1 if key == "down" else -1)
    return Pressed(keep(view, dead_layer=indices[at % len(indices)], dead_unit=0))


def draw(view: View, width: int, height: int) -> list[Line]:
    """The map, the share of each unit, the dead ones marked, and the unit under the cursor followed."""
    data = answer(view, NAME, DeadMap)
    g = view.glyphs
    if data is None:
        title = heading(TITLE, "", width, g)
        return block([title, *none_yet(view, NAME, "asking for the map")], width, height, g)
    layer = next((layer for layer in data.layers if layer.index == data.layer), None)
    flat = f"|h| > {data.threshold:g}" if data.threshold is not None else "off or flat"
    kind = glyph.escape(layer.kind, ascii=g.ascii) if layer else ""
    shown = f"{'' if 'layer' in view.history.exhibits[NAME].options else 'worst '}layer {data.layer} {kind}"
    if data.layer in _lost(view):
        title = heading(TITLE, f"{shown}, {taken_at(view, NAME)}", width, g)
        words = " its activations are not finite: no unit can be told flat or dead"
        return block([title, [(words, "sick")], _layers(data, width, view)], width, height, g)
    lines: list[Line] = [[]]  # the heading, once it is known how much there is room for
    saturated = data.layer in _saturated(view)
    beyond = "flat" if data.threshold is None else f"beyond {data.threshold:g}"
    share = "!" * saturated + glyph.percent(data.share).strip() + f" {beyond}"
    count = len(data.dead)
    dead = f"!{count} of {len(data.map)}" if count else "none"
    lines.append([
        (f" {dead} dead on the training split", "sick" if count else "good"), ("; ", ""),
        (share, "sick" if saturated else ""), (f" in the next batch {taken_at(view, NAME)}", ""),
    ])  # fmt: skip
    followed = _followed(data, view, width, height >= 16)
    room = height - len(lines) - len(followed) - (5 if height >= 12 else 3)
    across, down = (1 if len(data.map) <= width - 2 else 2), (1 if data.examples <= room else 2)  # to a cell
    seen = min(data.examples, max(1, room) * down)
    of = f"{seen} of {data.examples}" if seen < data.examples else f"{seen}"
    notes = [
        f"{shown}: {len(data.map)} units{one} {of} examples{other}, ink {where}{flat}"
        for one, other, where in (
            (" across,", " down", "where "),
            (f" {g.times}", "", "where "),
            (f" {g.times}", "", ""),
        )
    ]
    note = next((text for text in notes if len(text) <= width - len(TITLE) - 4), notes[-1])
    lines[0] = heading(TITLE, g.text(note), width, g)
    first = _first(chosen(view, "dead_unit"), len(data.map), (width - 2) * across)
    lines += _map(data, first, across, down, width - 2, max(1, room), view)
    lines.append(_shares(data, first, across, width - 2, view))
    lines.append(_marks(data, first, across, width - 2, view))
    if height >= 12:
        lines += [_layers(data, width, view), []]
    lines += followed
    lines = block(lines, width, height - 1, g)
    return [*lines, *block([hint("←→ unit  ↑↓ layer  enter enlarges it  esc back", view)], width, 1, g)]


def _first(unit: int, units: int, room: int) -> int:
    """The first unit shown, so that the one under the cursor is."""
    return 0 if units <= room else min(max(0, unit - room // 2), units - room)


def flags(row: str, examples: int) -> list[bool]:
    """The bits of one unit, the first example first."""
    try:
        bits = "".join(f"{int(digit, 16):04b}" for digit in row)
    except ValueError:
        bits = ""
    return [bit == "1" for bit in bits.ljust(examples, "0")[:examples]]


def _map(data: DeadMap, first: int, across: int, down: int, cells: int, rows: int, view: View) -> list[Line]:
    shown = range(first, min(len(data.map), first + cells * across))
    columns = [flags(data.map[unit], data.examples) for unit in shown]
    dead = set(data.dead)
    lines: list[Line] = []
    for top in range(0, min(data.examples, rows * down), down):
        line: Line = [(" ", "")]
        for left in range(0, len(columns), across):
            mask = 0
            for y in range(2):
                for x in range(2):  # where a cell is one unit wide or one example high, its bit fills the cell
                    unit, example = left + (x if across == 2 else 0), top + (y if down == 2 else 0)
                    if unit < len(columns) and example < data.examples and columns[unit][example]:
                        mask |= 1 << (2 * y + x)
            char = _ASCII[mask.bit_count()] if view.glyphs.ascii else _QUARTERS[mask]
            style = "sick" if dead & {shown[left], shown[min(left + across - 1, len(columns) - 1)]} else "activation"
            line.append((char, style))
        lines.append(_joined(line))
    return lines


def _joined(line: Line) -> Line:
    return list(runs(*zip(*line, strict=True)))


def _shares(data: DeadMap, first: int, across: int, cells: int, view: View) -> Line:
    """The share of the examples that each unit is flat for, as a bar."""
    groups = [data.shares[at : at + across] for at in range(first, len(data.shares), across)][:cells]
    dead = {(unit - first) // across for unit in data.dead}
    bars = glyph.bars([glyph.level(max(group), 1.0) for group in groups], view.glyphs)
    line: Line = [(" ", ""), *((bar, "sick" if at in dead else "band") for at, bar in enumerate(bars))]
    label = "  share of examples per unit"
    return [*_joined(line), (label if len(bars) + len(label) <= cells else "", "dim")]


def _marks(data: DeadMap, first: int, across: int, cells: int, view: View) -> Line:
    """`x` below a unit that is dead on the whole split, an arrow below the one under the cursor."""
    dead = {(unit - first) // across for unit in data.dead}
    at = (chosen(view, "dead_unit", -1) - first) // across if "dead_unit" in view.options else -1
    line: Line = [(" ", "")]
    for cell in range(min(cells, -(-(len(data.map) - first) // across))):
        line.append((view.glyphs.above, "cursor") if cell == at else ("x" if cell in dead else " ", "sick"))
    return _joined(line)


def _layers(data: DeadMap, width: int, view: View) -> Line:
    """Every layer's share, the shown one marked; where they do not all fit, those round it."""
    lost, saturated = _lost(view), _saturated(view)
    line: Line = []
    for layer in data.layers:
        mark = view.glyphs.cursor if layer.index == data.layer else " "
        dead = f" !{layer.dead} dead" if layer.dead else ""
        share = (
            "!" * (layer.index in saturated) + glyph.percent(math.nan if layer.index in lost else layer.share).strip()
        )
        text = f"{mark}{layer.index} {share}{dead}  "
        line.append(
            (
                text,
                "sick" if layer.dead or layer.index in saturated else "cursor" if layer.index == data.layer else "dim",
            )
        )
    at = next((at for at, layer in enumerate(data.layers) if layer.index == data.layer), 0)
    first = 0
    while first < at and cells_of(line[first:]) >= width and cells_of(line[first : at + 1]) > width // 2:
        first += 1
    return [(view.glyphs.ellipsis if first else " ", "dim"), *line[first:]]


def _followed(data: DeadMap, view: View, width: int, bars: bool) -> list[Line]:
    unit = data.unit
    if unit is None:
        return []
    flat = flags(data.map[unit.unit], data.examples).count(True) if unit.unit < len(data.map) else 0
    state = "dead on the whole training split" if unit.dead else "alive on the training split"
    head: Line = [
        (f" unit {unit.unit}", "cursor"),
        (f"  flat for {flat} of {data.examples} examples, ", ""),
        (state, "sick" if unit.dead else "good"),
    ]
    return [head, *(_incoming(unit, view, width) if bars and unit.weights else [])]


def _incoming(unit: Unit, view: View, width: int) -> list[Line]:
    """What comes into the unit: its weights, and the gradient that reaches them."""
    mean = sum(map(abs, unit.weights)) / len(unit.weights)
    gradient = sum(map(abs, unit.weights_gradient)) / max(1, len(unit.weights_gradient))
    bias = "" if unit.bias is None else view.glyphs.text(f", bias {unit.bias:.2f}")
    cells = max(4, width - 52)
    stuck = gradient == 0
    return [
        [(f"  weights in, from {unit.linear}: mean |w| {mean:.2g}{bias}".ljust(50), "dim"),
         (signed_bars(unit.weights, cells, view), "activation")],
        [(f"  their gradient: mean |g| {glyph.scientific(gradient)}".ljust(50), "sick" if stuck else "dim"),
         (signed_bars(unit.weights_gradient, cells, view), "gradient")],
    ]  # fmt: skip
