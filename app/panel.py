"""The one widget: it shows lines of styled spans and repaints only the cells that changed.

Everything on the screen goes through here, so this is where bytes and processor time are saved, and where the names
of styles get their looks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from rich.color import Color, ColorSystem
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from textual._compositor import CompositorUpdate  # private: Textual has no public way to send a part of a line
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from app.glyphs import width_of
from app.views.lines import Line, cut

Palette: TypeAlias = Literal["dark", "light", "none"]  # for what background; none: only weight

# Colours of the terminal's 256, by number, which is short to send: on a dark background and on a light one. What is
# read has a contrast of 4.5 to it, what is only drawn of 3 (WCAG 2.2, 1.4.3 and 1.4.11).
LOOKS: dict[str, str] = {
    "": "", "title": "bold", "dim": "245 242", "faint": "242 245", "axis": "245 242", "note": "bold 179 94",
    "good": "bold 71 29", "sick": "bold 203 160", "key": "bold 110 24", "cursor": "bold 222 94",
    "activation": "74 25", "gradient": "173 130", "update": "107 28", "guide": "242 245", "loss": "bold 75 26",
    "band": "242 245", "ghost": "103 60", "expected": "139 97", "twin": "bold 173 125", "val": "bold 215 130",
    "mark": "176 127", "progress": "71 28", "name": "",
    "line0": "69 20", "line1": "74 63", "line2": "80 26", "line3": "79 24", "line4": "114 23", "line5": "149 29",
    "line6": "185 28", "line7": "179 58", "line8": "173 130", "line9": "210 161", "line10": "204 89",
    "line11": "169 127",
}  # fmt: skip
GAP = 2  # unchanged cells between two changed ones that are cheaper to send than to jump over


@functools.cache
def look(name: str, palette: Palette) -> Style | None:
    """The rich style behind a name, `top/under` for one on the colour of another.

    Without colours only weight is left: signs tell what colours tell.
    """
    name, _, under = name.partition("/")
    bold = LOOKS[name].startswith("bold")
    number = colour(name, palette)
    if number is None:
        dim = palette == "none" and name in ("faint", "guide", "ghost", "band")
        return Style(bold=True) if bold else Style(dim=True) if dim else None
    ground = colour(under, palette) if under else None
    return Style(
        color=Color.from_ansi(number),
        bgcolor=None if ground is None else Color.from_ansi(ground),
        bold=True if bold else None,
    )


def colour(name: str, palette: Palette) -> int | None:
    """The number of a style's colour of 256; None where it is the terminal's own."""
    numbers = [int(word) for word in LOOKS[name].split() if word.isdecimal()]
    return numbers[palette == "light"] if numbers and palette != "none" else None


def changed(old: Line, new: Line) -> list[tuple[int, int]]:
    """First and last + 1 cell of each stretch that differs; nearby stretches are one.

    A line with characters that are not one cell wide is one stretch.
    """
    if old == new:
        return []
    same = 0  # spans at the beginning that are alike, and cells in them
    skipped = 0
    for one, other in zip(old, new, strict=False):
        if one != other:
            break
        same += 1
        skipped += len(one[0])
    text, before = "".join([t for t, _ in new[same:]]), "".join([t for t, _ in old[same:]])
    size = len(text)
    if len(before) != size or not all(_plain(t) for t, _ in new) or not all(_plain(t) for t, _ in old):
        return [(0, 1_000_000)]
    looks = [style for t, style in new[same:] for _ in t]
    looks_before = [style for t, style in old[same:] for _ in t]
    stretches: list[tuple[int, int]] = []
    start = end = -1
    for at in range(size):
        if text[at] != before[at] or looks[at] != looks_before[at]:
            if start < 0:
                start = at
            elif at - end > GAP:
                stretches.append((skipped + start, skipped + end))
                start = at
            end = at + 1
    if start >= 0:
        stretches.append((skipped + start, skipped + end))
    return stretches


@functools.lru_cache(512)
def _plain(text: str) -> bool:
    """Whether every character is one cell wide: ours are, those of names may not be."""
    return text.isascii() or all(map(_one_cell, set(text)))


@functools.lru_cache(4096)
def _one_cell(character: str) -> bool:
    return width_of(character) == 1


class Patch(CompositorUpdate):
    """Changed stretches as they go to the terminal: only their cells, each style named once.

    Textual's own partial update sends every line from its beginning up to the change.
    """

    def __init__(self, stretches: Sequence[tuple[int, int, Line]], palette: Palette) -> None:
        self.stretches, self.palette = stretches, palette

    def render_segments(self, console: Console) -> str:
        """The bytes, in order of lines and columns."""
        out: list[str] = []
        row = column = -1
        now = ""
        depth = console.color_system or "truecolor"
        for x, y, line in self.stretches:
            out.append(f"\x1b[{x - column}C" if y == row else f"\x1b[{y + 1};{x + 1}H")
            row, column = y, x
            for text, style in line:
                code = sgr(style, self.palette, depth)
                if code != now:
                    out.append(f"\x1b[0;{code}m" if code else "\x1b[0m")
                    now = code
                out.append(text)
                column += len(text)
        if now:
            out.append("\x1b[0m")
        return "".join(out)


@functools.cache
def sgr(name: str, palette: Palette, depth: str) -> str:
    """The codes that switch a style on, for a terminal of that many colours; nothing for no style."""
    style = look(name, palette)
    if style is None:
        return ""
    system = {"standard": ColorSystem.STANDARD, "256": ColorSystem.EIGHT_BIT}.get(depth, ColorSystem.TRUECOLOR)
    return style.render("|", color_system=system).partition("|")[0].removeprefix("\x1b[").removesuffix("m")


class Panel(Widget):
    """Shows what it was given last; `show` compares with what is on the screen and sends the difference only.

    `resized` is called when it has another size, so that it is given what fits.
    """

    DEFAULT_CSS = "Panel { width: 1fr; height: 1fr; }"
    can_focus = False

    def __init__(self, resized: Callable[[], None], *, palette: Palette = "dark") -> None:
        super().__init__()
        self.palette = palette
        self._resized = resized
        self.picture: list[Line] = []  # the lines shown

    def on_resize(self) -> None:
        self._resized()

    def show(self, lines: list[Line]) -> None:
        """Put these lines on the screen, sending only the cells that differ from what is there."""
        old, self.picture = self.picture, lines
        width, height = self.size
        if len(old) != len(lines) or len(lines) != height:
            self.refresh()
            return
        stretches: list[tuple[int, int, Line]] = []
        for y, (before, new) in enumerate(zip(old, lines, strict=True)):
            if before is new:
                continue
            for first, last in changed(before, new):
                stretches.append((first, y, cut(new, first, min(last, width))))
        if stretches:
            self.app._display(self.screen, Patch(stretches, self.palette))  # type: ignore[arg-type]  # written as it is

    def render_line(self, y: int) -> Strip:
        """One line, for a full picture."""
        line = self.picture[y] if y < len(self.picture) else []
        segments = [Segment(text, look(style, self.palette)) for text, style in line if text]
        return Strip(segments).adjust_cell_length(self.size.width)

    def render_lines(self, crop: Region) -> list[Strip]:
        """The lines of a region. No style is laid over them: the background stays the terminal's own."""
        first, last = crop.column_span
        whole = first == 0 and last >= self.size.width
        strips = [self.render_line(y) for y in crop.line_range]
        return strips if whole else [strip.crop(first, last) for strip in strips]
