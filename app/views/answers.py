"""The answers to `Look` commands as a screen reads them, and what it shows until one has come.

They come as plain JSON from whoever trains, perhaps an older program: what does not fit is said, never raised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from app import glyphs as glyph
from app.series import Bucket
from app.views.curve import Axis, Reach, line
from app.views.lines import Line
from app.views.state import View

Answer = TypeVar("Answer")


def answer(view: View, name: str, kind: type[Answer]) -> Answer | None:
    """The latest exhibit of that name, None where there is none that can be read."""
    exhibit = view.history.exhibits.get(name)
    if exhibit is None:
        return None
    try:
        return msgspec.convert(exhibit.data, kind)
    except msgspec.ValidationError:
        return None


def none_yet(view: View, name: str, does: str) -> list[Line]:
    """What a screen shows without an answer."""
    if name in view.history.exhibits:
        return [[(" the answer cannot be read: the run is trained by another version of the program", "sick")]]
    if view.absent:
        return [[(" " + glyph.escape(view.absent, ascii=view.glyphs.ascii), "dim")]]
    if view.frozen:
        return [[(" the view is frozen: p lets it move and ask", "dim")]]
    return [[(view.glyphs.text(f" {does} …"), "dim")]]


def taken_at(view: View, name: str) -> str:
    """The step that the answer is of."""
    exhibit = view.history.exhibits.get(name)
    return "" if exhibit is None else f"at step {exhibit.step:,}"


def stretched(values: Sequence[float], dots: int, axis: Axis) -> list[Reach]:
    """Values as a line over so many dots across; a gap where one is not finite."""
    means = [values[at * len(values) // dots] for at in range(dots)] if values else []
    return line([Bucket(mean, mean, mean) if math.isfinite(mean) else None for mean in means], axis)


def symbol(symbols: Sequence[str], index: int, view: View) -> str:
    """One of a net's symbols, harmless, or a question mark."""
    return glyph.escape(symbols[index] if 0 <= index < len(symbols) else "?", ascii=view.glyphs.ascii)


def signed_bars(values: list[float], cells: int, view: View) -> str:
    """Sizes of numbers as bars against the largest, as many as fit."""
    shown = [abs(value) for value in values[:cells]]
    most = max((value for value in shown if value < float("inf")), default=0.0)
    return glyph.bars([glyph.level(value, most) for value in shown], view.glyphs)
