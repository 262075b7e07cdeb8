"""What a view is drawn from: the history of the run and the state of the screen, frozen while it is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from app.glyphs import UNICODE, Glyphs
from app.history import History, bounded
from app.traces import LayerTrace, WeightTrace
from app.views.lines import Line
from makemore_core.command import Command, Look
from makemore_core.config import Value
from makemore_core.doctor import LIMITS, START, Check, Finding, most_saturated
from makemore_core.snapshot import Weight


@dataclass(frozen=True)
class View:
    """The state of the screen. `history` is read, never changed, by views."""

    history: History
    glyphs: Glyphs = UNICODE
    screen: str = "dashboard"
    cursor: int = 0
    filter: str = ""
    log: bool = False
    live: bool = False
    frozen: bool = False
    readonly: bool = False
    lost: bool = False
    absent: str = ""  # why nobody answers, where nobody trains the run
    run: str = "makemore"  # its name, until a snapshot tells it
    message: str = ""
    message_style: str = "note"
    waiting: str = "waiting for the first snapshot"
    told: tuple[int, frozenset[str]] = (0, frozenset())  # the trainer's answer that was given here already
    prompt: str = ""  # "", "filter", "twin", "untwin" or "quit"
    typed: str = ""  # so far, in answer to the prompt "twin"
    question: str = ""  # of the prompts after "twin"
    choices: tuple[tuple[str, str], ...] = ()  # and its answers: key, what it does
    findings: tuple[Finding, ...] = ()
    checks: tuple[Check, ...] = ()
    twin_checks: tuple[Check, ...] = ()  # of the twin, where there is one
    scroll: int = 0
    options: dict[str, Value] = field(default_factory=dict)  # what a screen keeps for itself

    @property
    def obeyed(self) -> bool:
        """Whether keys may change the run and somebody trains it."""
        return not (self.readonly or self.absent)


def chosen(view: View, name: str, default: int = 0) -> int:
    """A whole number that a screen keeps for itself."""
    value = view.options.get(name, default)
    return value if isinstance(value, int) else default


def keep(view: View, **values: Value) -> View:
    """The view with numbers of a screen's own changed; the names are written `screen_name`."""
    return replace(view, options={**view.options, **values})


def hint(words: str, view: View) -> Line:
    """The last line of a screen: its own keys."""
    if view.glyphs.ascii:
        words = words.replace("←→", "left/right").replace("↑↓", "up/down")
    return [(" " + view.glyphs.text(words), "dim")]


class Row(NamedTuple):
    """A row of the table: a layer with the weight that feeds it, or a weight that has no layer behind it."""

    layer: LayerTrace | None
    weight: WeightTrace | None

    @property
    def name(self) -> str:
        """`5 Tanh`, or the weight's name."""
        if self.layer is not None:
            return f"{self.layer.layer.index} {self.layer.layer.kind}"
        return self.weight.weight.name if self.weight else ""


def rows(view: View) -> list[Row]:
    """The rows that the filter lets through, in the order of the net."""
    weights: dict[int | None, list[WeightTrace]] = {}
    for trace in view.history.weights.values():
        weights.setdefault(trace.weight.layer, []).append(trace)
    out: list[Row] = []
    for layer in view.history.layers.values():
        feeding = weights.pop(layer.layer.index, [])
        out += [Row(None, weight) for weight in feeding[:-1]]
        out.append(Row(layer, feeding[-1] if feeding else None))
    out += [Row(None, weight) for left in weights.values() for weight in left]
    if view.filter:
        out = [row for row in out if view.filter.lower() in row.name.lower()]
    return out


def selected(view: View) -> Row | None:
    """The row under the cursor."""
    found = rows(view)
    return found[min(max(0, view.cursor), len(found) - 1)] if found else None


def window(count: int, cursor: int, height: int) -> tuple[int, int]:
    """First and last + 1 of the rows shown where `count` do not fit in `height`: the cursor stays in the middle.

    A row is given up at either end where rows are hidden beyond it, for the line that says how many.
    """
    if count <= max(0, height):
        return 0, count
    if height <= 2:
        first = min(max(0, cursor), count - 1)
        return first, first + 1
    room = height - 2
    first = min(max(0, cursor - room // 2), count - room)
    last = first + room
    if first <= 1:  # the line above would hide one row only: show the row instead
        return 0, height - 1
    if last >= count - 1:
        return count - height + 1, count
    return first, last


def listed(
    count: int, cursor: int, height: int, row: Callable[[int], Sequence[Line]], g: Glyphs,
    sick: Callable[[int], bool] = lambda _: False,
) -> list[Line]:  # fmt: skip
    """As many of `count` rows round the cursor as fit, and how many are hidden, how many of them `sick`; `row` gives
    the lines of one.
    """
    first, last = window(count, cursor, height)

    def hidden(rows: range, sign: str, where: str) -> list[Line]:
        told: Line = [(f" {sign} {len(rows)} more {where}", "dim")]
        ill = sum(map(sick, rows))
        return [[*told, (f", {ill} of them !", "sick")] if ill else told] if rows else []

    lines = hidden(range(first), g.above, "above")
    for at in range(first, last):
        lines += row(at)
    return lines + hidden(range(last, count), g.below, "below")


# From the lectures: where a number stops looking like that of a net that learns.
GRADIENT_WITHIN = 4.0  # std of a layer's gradient against the median layer
UPDATE_LOW, UPDATE_HIGH = -5.0, -1.0  # the scale of update:data


def spread_sick(row: Row, first_std: float, began: float) -> bool:
    """The activations have shrunk or grown against the first layer's by the doctor's limits, or are no numbers.

    `began` is the first layer's std as the net began: more is let pass later, but not in a layer that began so.
    """
    if row.layer is None:
        return False
    first, std = row.layer.first.activation.std, row.layer.layer.activation.std
    strict = LIMITS["shrink_at_start"], LIMITS["grow_at_start"]
    began_so = row.layer.first_step <= START and not strict[0] * began <= first <= strict[1] * began
    low, high = strict if began_so else (LIMITS["shrink"], LIMITS["grow"])
    return not (math.isfinite(std) and low * first_std <= std <= high * first_std and std > 0)


def saturated_sick(row: Row) -> bool:
    """Too much in the flat region by the doctor's limits, or no number.

    Training saturates healthy layers too, so more is let pass later, but not in a layer that began saturated.
    """
    if row.layer is None:
        return False
    first, now = row.layer.first, row.layer.layer
    began_so = row.layer.first_step <= START and not first.activation.saturated <= most_saturated(first, True)
    return not now.activation.saturated <= most_saturated(now, began_so)


def gradient_sick(row: Row, median_std: float) -> bool:
    """The gradient has vanished or exploded against the median layer's, or is no number."""
    if row.layer is None:
        return False
    std = row.layer.layer.gradient.std
    return not (math.isfinite(std) and median_std / GRADIENT_WITHIN <= std <= median_std * GRADIENT_WITHIN and std > 0)


def update_sick(value: float, weight: Weight, step: int) -> bool:
    """Weights that move too fast, too slowly, or not at all, by the doctor's limits; the last layer's may be faster.

    The first updates after initialisation are not typical, and only judged where they are no number.
    """
    if step < LIMITS["updates_after"] and math.isfinite(value):
        return False
    ahead = LIMITS["last_layer"] if weight.layer is None else 0.0
    return not LIMITS["updates_small"] <= value <= LIMITS["updates_large"] + ahead


def style_of(finding: Finding) -> str:
    """What was at the start only is told quietly."""
    return "dim" if finding.past else "sick"


def is_bounded(row: Row) -> bool:
    """Whether the row's activations lie in -1..1 by their kind."""
    return row.layer is not None and bounded(row.layer.layer.kind)


MOVES = {
    "up": -1,
    "down": 1,
    "pageup": -10,
    "pagedown": 10,
    "home": -100_000,
    "end": 100_000,
}  # rows that a key moves by

Draw = Callable[[View, int, int], Sequence[Line]]


class Pressed(NamedTuple):
    """What a key that a screen has a use for of its own leads to: another view, and perhaps a command."""

    view: View
    command: Command | None = None


class Screen(NamedTuple):
    """A screen: how it is drawn, how often, and the exhibit it asks for while it is shown.

    `every` is in seconds; `look` gives the command to send, at most every `look_every` seconds or when it changes.
    `press` takes up, down, left, right, pageup, pagedown, home, end and enter; None: not for this screen. One without
    it has the layers' cursor, or, where it is a `text` of so many cells, the moving keys scroll it.
    """

    name: str
    draw: Draw
    every: float = 0.1
    look: Callable[[View], Look | None] | None = None
    look_every: float = 2.0
    press: Callable[[View, str], Pressed | None] | None = None
    text: Callable[[View, int], Sequence[Line]] | None = None
