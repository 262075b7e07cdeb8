"""The one widget: it shows lines of styled spans and repaints only the cells that changed.

Everything on the screen goes through here, so this is where bytes and processor time are saved, and where the names
of styles get their looks.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from app.views.lines import Line

# Colours of the terminal's 256, by number: short to send, and of a middle lightness that reads on dark and light.
LOOKS: dict[str, str] = {
    "": "", "title": "bold", "dim": "245", "faint": "239", "axis": "242", "note": "bold 179", "good": "bold 71",
    "sick": "bold 203", "key": "bold 110", "cursor": "bold 222", "activation": "74", "gradient": "173",
    "update": "107", "guide": "241", "loss": "bold 75", "band": "24", "ghost": "241", "expected": "139", "val": "bold 215",
    "mark": "176", "progress": "71", "name": "", "start": "245",
    "line0": "75", "line1": "107", "line2": "173", "line3": "139", "line4": "179", "line5": "73",
}  # fmt: skip
GAP = 8  # unchanged cells between two changed ones that are cheaper to send than to jump over


@functools.cache
def look(name: str, coloured: bool) -> Style | None:
    """The rich style behind a name; without colours only weight is left. Signs tell what colours tell."""
    words = LOOKS[name].split()
    bold = "bold" in words
    number = next((int(word) for word in words if word.isdecimal()), None)
    if number is None or not coloured:
        dim = not coloured and name in ("faint", "guide", "ghost", "band")
        return Style(bold=True) if bold else Style(dim=True) if dim else None
    return Style(color=Color.from_ansi(number), bold=True if bold else None)


def changed(old: Line, new: Line) -> list[tuple[int, int]]:
    """First and last + 1 cell of each stretch that differs; nearby stretches are one.

    A line with characters that are not one cell wide is one stretch.
    """
    if old == new:
        return []
    text, before = "".join([t for t, _ in new]), "".join([t for t, _ in old])
    size = len(text)
    if len(before) != size or not (_plain(text) and _plain(before)):
        return [(0, 1_000_000)]
    looks = [style for t, style in new for _ in t]
    looks_before = [style for t, style in old for _ in t]
    stretches: list[tuple[int, int]] = []
    start = end = -1
    for at in range(size):
        if text[at] != before[at] or looks[at] != looks_before[at]:
            if start < 0:
                start = at
            elif at - end > GAP:
                stretches.append((start, end))
                start = at
            end = at + 1
    if start >= 0:
        stretches.append((start, end))
    return stretches


@functools.lru_cache(8192)
def _plain(text: str) -> bool:
    """Whether every character is one cell wide: ours are, those of names may not be."""
    from app.glyphs import width_of

    return width_of(text) == len(text)


class Panel(Widget):
    """Shows what it was given last; `show` compares with what is on the screen and asks for the difference only."""

    DEFAULT_CSS = "Panel { width: 1fr; height: 1fr; }"
    can_focus = False

    def __init__(self, *, coloured: bool = True) -> None:
        super().__init__()
        self.coloured = coloured
        self._lines: list[Line] = []
        self._strips: dict[int, Strip] = {}
        self._cuts: dict[int, set[int]] = {}

    @property
    def picture(self) -> Sequence[Line]:
        """The lines shown."""
        return self._lines

    def show(self, lines: list[Line]) -> int:
        """Put these lines on the screen; gives the number of cells to be sent."""
        old, self._lines = self._lines, lines
        regions: list[Region] = []
        cells = 0
        if len(old) != len(lines):
            self._strips.clear()
            self._cuts.clear()
            self.refresh()
            return self.size.area
        width = self.size.width
        for y, (before, new) in enumerate(zip(old, lines, strict=True)):
            stretches = changed(before, new)
            if not stretches:
                continue
            self._strips.pop(y, None)
            cuts = self._cuts.setdefault(y, set())
            for first, last in stretches:
                last = min(last, width)
                cuts.update((first, last))
                regions.append(Region(first, y, last - first, 1))
                cells += last - first
        if regions:
            self.refresh(*regions)
        return cells

    def render_line(self, y: int) -> Strip:
        """One line; its segments end where a changed stretch ends, since segments are sent whole."""
        strip = self._strips.get(y)
        if strip is None:
            line = self._lines[y] if y < len(self._lines) else []
            segments = [Segment(text, look(style, self.coloured)) for text, style in line if text]
            strip = Strip(segments).adjust_cell_length(self.size.width)
            cuts = sorted(cut for cut in self._cuts.pop(y, ()) if 0 < cut < self.size.width)
            if cuts:
                parts = strip.divide([*cuts, self.size.width])
                strip = Strip([segment for part in parts for segment in part], self.size.width)
            self._strips[y] = strip
        return strip

    def render_lines(self, crop: Region) -> list[Strip]:
        """The lines of a region. No style is laid over them: the background stays the terminal's own."""
        first, last = crop.column_span
        whole = first == 0 and last >= self.size.width
        strips = [self.render_line(y) for y in crop.line_range]
        return strips if whole else [strip.crop(first, last) for strip in strips]
