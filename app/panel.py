"""The one widget: it shows lines of styled spans and repaints only the cells that changed.

Everything on the screen goes through here, so this is where bytes and processor time are saved, and where the names
of styles get their looks.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from rich.color import Color, ColorSystem
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style
from textual._compositor import CompositorUpdate  # private: Textual has no public way to send a part of a line
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from app.views.lines import Line, cut

# Colours of the terminal's 256, by number: short to send, and of a middle lightness that reads on dark and light.
LOOKS: dict[str, str] = {
    "": "", "title": "bold", "dim": "245", "faint": "239", "axis": "242", "note": "bold 179", "good": "bold 71",
    "sick": "bold 203", "key": "bold 110", "cursor": "bold 222", "activation": "74", "gradient": "173",
    "update": "107", "guide": "241", "loss": "bold 75", "band": "238", "ghost": "241", "expected": "139",
    "twin": "bold 173", "val": "bold 215", "mark": "176", "progress": "71", "name": "", "start": "245",
    "line0": "69", "line1": "110", "line2": "44", "line3": "42", "line4": "77", "line5": "107", "line6": "178",
    "line7": "208", "line8": "204", "line9": "175", "line10": "199", "line11": "171",
}  # fmt: skip
GAP = 2  # unchanged cells between two changed ones that are cheaper to send than to jump over


@functools.cache
def look(name: str, coloured: bool) -> Style | None:
    """The rich style behind a name, `top/under` for one on the colour of another.

    Without colours only weight is left: signs tell what colours tell.
    """
    name, _, under = name.partition("/")
    words = LOOKS[name].split()
    bold = "bold" in words
    number = next((int(word) for word in words if word.isdecimal()), None)
    if number is None or not coloured:
        dim = not coloured and name in ("faint", "guide", "ghost", "band")
        return Style(bold=True) if bold else Style(dim=True) if dim else None
    ground = Color.from_ansi(int(LOOKS[under].split()[-1])) if under else None
    return Style(color=Color.from_ansi(number), bgcolor=ground, bold=True if bold else None)


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
    from app.glyphs import width_of

    return width_of(text) == len(text)


class Patch(CompositorUpdate):
    """Changed stretches as they go to the terminal: only their cells, each style named once.

    Textual's own partial update sends every line from its beginning up to the change.
    """

    def __init__(self, stretches: Sequence[tuple[int, int, Line]], coloured: bool) -> None:
        self.stretches, self.coloured = stretches, coloured

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        del console, options
        for x, y, line in self.stretches:
            yield Segment(f"\x1b[{y + 1};{x + 1}H")
            yield from (Segment(text, look(style, self.coloured)) for text, style in line)

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
                code = sgr(style, self.coloured, depth)
                if code != now:
                    out.append(f"\x1b[0;{code}m" if code else "\x1b[0m")
                    now = code
                out.append(text)
                column += len(text)
        if now:
            out.append("\x1b[0m")
        return "".join(out)


@functools.cache
def sgr(name: str, coloured: bool, depth: str) -> str:
    """The codes that switch a style on, for a terminal of that many colours; nothing for no style."""
    style = look(name, coloured)
    if style is None:
        return ""
    system = {"standard": ColorSystem.STANDARD, "256": ColorSystem.EIGHT_BIT}.get(depth, ColorSystem.TRUECOLOR)
    return style.render("|", color_system=system).partition("|")[0].removeprefix("\x1b[").removesuffix("m")


class Panel(Widget):
    """Shows what it was given last; `show` compares with what is on the screen and sends the difference only."""

    DEFAULT_CSS = "Panel { width: 1fr; height: 1fr; }"
    can_focus = False

    def __init__(self, *, coloured: bool = True) -> None:
        super().__init__()
        self.coloured = coloured
        self.sent_cells = 0
        self._lines: list[Line] = []

    @property
    def picture(self) -> Sequence[Line]:
        """The lines shown."""
        return self._lines

    def show(self, lines: list[Line]) -> None:
        """Put these lines on the screen, sending only the cells that differ from what is there."""
        old, self._lines = self._lines, lines
        width, height = self.size
        if len(old) != len(lines) or len(lines) != height:
            self.sent_cells += width * height
            self.refresh()
            return
        stretches: list[tuple[int, int, Line]] = []
        for y, (before, new) in enumerate(zip(old, lines, strict=True)):
            if before is new:
                continue
            for first, last in changed(before, new):
                stretches.append((first, y, cut(new, first, min(last, width))))
                self.sent_cells += min(last, width) - first
        if stretches:
            self.app._display(self.screen, Patch(stretches, self.coloured))

    def render_line(self, y: int) -> Strip:
        """One line, for a full picture."""
        line = self._lines[y] if y < len(self._lines) else []
        segments = [Segment(text, look(style, self.coloured)) for text, style in line if text]
        return Strip(segments).adjust_cell_length(self.size.width)

    def render_lines(self, crop: Region) -> list[Strip]:
        """The lines of a region. No style is laid over them: the background stays the terminal's own."""
        first, last = crop.column_span
        whole = first == 0 and last >= self.size.width
        strips = [self.render_line(y) for y in crop.line_range]
        return strips if whole else [strip.crop(first, last) for strip in strips]
