"""Lines of styled spans: the plain data that every view returns, and how to put them beside and below each other.

A view is a pure function to such lines, so that it can be tested without a terminal; one widget shows them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import groupby
from typing import TypeAlias

from app.glyphs import Glyphs, clip, width_of

Span: TypeAlias = tuple[str, str]  # text, name of a style
Line: TypeAlias = list[Span]


def cells_of(line: Line) -> int:
    """Cells that the line takes."""
    return sum(width_of(text) for text, _ in line)


def fit(line: Line, cells: int, glyphs: Glyphs) -> Line:
    """The line exactly `cells` wide: clipped, with an ellipsis, filled with blanks, or itself where it is so."""
    size = 0
    for text, _ in line:
        size += width_of(text)
    if size == cells:
        return line
    if size < cells:
        return [*line, (" " * (cells - size), "")]
    out: Line = []
    left = cells
    for text, style in line:
        size = width_of(text)
        if size > left:
            text = clip(text, left, glyphs)
            size = width_of(text)
            out.append((text, style))
            left -= size
            break
        out.append((text, style))
        left -= size
    if left > 0:
        out.append((" " * left, ""))
    return out


def ends(left: Line, right: Line, cells: int, glyphs: Glyphs) -> Line:
    """One line with something at both its ends; the left end gives way."""
    size = cells_of(right)
    if size >= cells:
        return fit(right, cells, glyphs)
    return [*fit(left, cells - size, glyphs), *right]


def beside(left: Sequence[Line], right: Sequence[Line], left_width: int, cells: int, glyphs: Glyphs) -> list[Line]:
    """Two blocks side by side in `cells` cells, two of them between, the left one `left_width` wide."""
    rest = cells - left_width - 2
    out = []
    for at in range(max(len(left), len(right))):
        one = left[at] if at < len(left) else []
        two = right[at] if at < len(right) else []
        out.append([*fit(one, left_width, glyphs), ("  ", "faint"), *fit(two, rest, glyphs)])
    return out


def block(lines: Sequence[Line], cells: int, rows: int, glyphs: Glyphs) -> list[Line]:
    """Exactly `rows` lines of exactly `cells` cells."""
    out = [fit(line, cells, glyphs) for line in lines[:rows]]
    out += [[(" " * cells, "")] for _ in range(rows - len(out))]
    return out


def cut(line: Line, first: int, last: int) -> Line:
    """The cells `first` .. `last` of a line; a wide character that the cut goes through becomes a blank."""
    out: Line = []
    at = 0
    for text, style in line:
        size = width_of(text)
        if at < last and at + size > first:
            if size == len(text):
                out.append((text[max(0, first - at) : last - at], style))
            else:
                piece, x = "", at
                for char in text:
                    w = width_of(char)
                    piece += char if first <= x and x + w <= last else " " * max(0, min(x + w, last) - max(x, first))
                    x += w
                out.append((piece, style))
        at += size
    return out


def heading(title: str, note: str | Line, cells: int, glyphs: Glyphs) -> Line:
    """A rule with a title in it and a note behind: `── loss ── mean of 500 steps ────`."""
    out: Line = [(f"{glyphs.rule} ", "faint"), (title, "title"), (" ", "")]
    if note:
        out += [*([(note, "dim")] if isinstance(note, str) else note), (" ", "")]
    out = fit(out, cells, glyphs) if cells_of(out) > cells else out
    left = cells - cells_of(out)
    return [*out, (glyphs.rule * left, "faint")] if left > 0 else out


@functools.lru_cache(512)
def runs(chars: tuple[str, ...], styles: tuple[str, ...]) -> tuple[Span, ...]:
    """Cells as spans, neighbours of one style joined."""
    out: list[Span] = []
    at = 0
    for style, group in groupby(styles):
        size = len(list(group))
        out.append(("".join(chars[at : at + size]), style))
        at += size
    return tuple(out)
