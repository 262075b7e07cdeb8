"""Numbers turned into strings of block glyphs or plain ASCII, and hostile text turned into harmless.

It stands alone, pure and without a terminal, so that every row of the screen can be tested as a literal string;
`python -m app.glyphs` shows them.
"""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len, get_character_cell_size

LEVELS = 8


class Glyphs(NamedTuple):
    """The characters a screen is drawn with; every one is one cell wide (but the ASCII plus-minus)."""

    ascii: bool
    ramp: str  # nothing .. full, growing upwards: LEVELS + 1 characters
    meter: str  # nothing .. full, growing to the right: LEVELS + 1 characters
    rule: str
    bar: str
    corner: str
    tick: str
    junction: str
    guide: str
    dashes: str
    low_line: str
    progress: str
    progress_left: str
    cursor: str
    point: str
    mark: str
    above: str
    below: str
    ellipsis: str
    minus: str
    times: str
    arrow: str
    plus_minus: str
    box: str  # corners and edges: top left, top, top right, side, bottom left, bottom right
    shade: str  # what a band is drawn with where there are no colours
    dot: str  # the same for an earlier curve
    coloured: bool = True

    def text(self, text: str) -> str:
        """Our own words in the characters of this set, cell by cell but for its arrow; its minus is the tables'."""
        return text.translate(_ASCII) if self.ascii else _MINUS.sub(self.minus, text)


UNICODE = Glyphs(
    ascii=False, ramp=" ▁▂▃▄▅▆▇█", meter=" ▏▎▍▌▋▊▉█", rule="─",
    bar="│", corner="└", tick="┤", junction="┬", guide="─", dashes="┄", low_line="▁",
    progress="━", progress_left="─", cursor="▸", point="●", mark="┊", above="▴", below="▾", ellipsis="…",
    minus="−", times="×", arrow="→", plus_minus="±", box="┌─┐│└┘",
    shade="░", dot="·",
)  # fmt: skip
ASCII = Glyphs(
    ascii=True, ramp=" .:-=+*#@", meter=" .:-=+*##", rule="-",
    bar="|", corner="+", tick="|", junction="+", guide="_", dashes="-", low_line="_",
    progress="=", progress_left=".", cursor=">", point="o", mark=":", above="^", below="v", ellipsis="~",
    minus="-", times="x", arrow="->", plus_minus="+-", box="+-+|++",
    shade=":", dot=".",
)  # fmt: skip

_MINUS = re.compile(r"(?<![\w)/])-(?=\d)")  # of a number, not of a name, a path or a power of ten
_ASCII = {
    ord(fancy): plain
    for fancy, plain in zip(
        "─│└┤┬━▸●┊┄▴▾…−×±┌┐┘·“”’–—≥≤≈÷█", "-|+|+=>o:-^v~-x~+++.\"\"'--><~/#", strict=True
    )
} | {ord("→"): "->"}  # fmt: skip


def level(value: float, full: float) -> int:
    """`value` of 0..`full` in eighths; anything above zero is at least one, anything else not finite is none."""
    if not value > 0 or not full > 0:
        return 0
    return LEVELS if value >= full else max(1, math.ceil(value / full * LEVELS - 0.5))


def bars(levels: Sequence[int], glyphs: Glyphs = UNICODE) -> str:
    """Levels 0..8, one cell each."""
    ramp = glyphs.ramp
    return "".join([ramp[n] for n in levels])


def tower(heights: Sequence[float], rows: int, glyphs: Glyphs = UNICODE) -> list[str]:
    """Bars of 0..8 drawn `rows` lines high, top line first; what is above zero shows at least an eighth of a line."""
    full = [0 if not height > 0 else max(1, min(LEVELS * rows, round(height * rows))) for height in heights]
    ramp = glyphs.ramp
    if rows == 1:
        return ["".join([ramp[n] for n in full])]
    return [
        "".join([ramp[max(0, min(LEVELS, n - LEVELS * below))] for n in full]) for below in range(rows - 1, -1, -1)
    ]  # fmt: skip


@functools.lru_cache(4096)
def _meter(eighths: int, width: int, glyphs: Glyphs) -> str:
    whole, rest = divmod(eighths, LEVELS)
    return (glyphs.meter[LEVELS] * whole + (glyphs.meter[rest] if rest else "")).ljust(width)


def meter(share: float, width: int, glyphs: Glyphs = UNICODE) -> str:
    """A bar `width` cells long for a share of 0..1, in eighths of a cell; the least share above zero shows."""
    if not share > 0:
        return " " * width
    eighths = round(min(1.0, share) * width * LEVELS)
    return _meter(max(1, eighths), width, glyphs)


def progress(share: float, width: int, glyphs: Glyphs = UNICODE) -> tuple[str, str]:
    """A progress bar as its two parts: what is done, what is left."""
    done = round(width * min(1.0, max(0.0, share))) if math.isfinite(share) else 0
    return glyphs.progress * done, glyphs.progress_left * (width - done)


# --- histograms -----------------------------------------------------------------------------------------------------


@functools.lru_cache(1024)
def _overlaps(
    low: float, high: float, bins: int, to_low: float, to_high: float, cells: int, tails: bool
) -> tuple[tuple[tuple[int, int, float], ...], ...]:
    """For each bin the cells it falls into, as (bin, cell, share of the bin); outside goes to the edge cells."""
    rows: list[tuple[tuple[int, int, float], ...]] = []
    step, cell = (high - low) / bins, (to_high - to_low) / cells
    for b in range(bins):
        if tails and b in (0, bins - 1):
            rows.append(((b, cells - 1 if b else 0, 1.0),))
            continue
        left, right = low + b * step, low + (b + 1) * step
        parts: dict[int, float] = {}
        first = math.floor((left - to_low) / cell + 1e-9)
        last = max(first, math.ceil((right - to_low) / cell - 1e-9) - 1)
        if last - first > 4 * cells:  # one bin covers far more than the picture: the middle of it is enough
            first = min(max(first, -1), cells)
            last = max(first, min(last, cells))
        for c in range(first, last + 1):
            start, end = max(left, to_low + c * cell), min(right, to_low + (c + 1) * cell)
            if c == first:
                start = left
            if c == last:
                end = right
            at = min(cells - 1, max(0, c))
            parts[at] = parts.get(at, 0.0) + max(0.0, end - start) / step
        rows.append(tuple((b, c, share) for c, share in parts.items()))
    return tuple(rows)


def rebin(
    counts: Sequence[float], low: float, high: float, to_low: float, to_high: float, cells: int, *, tails: bool = False
) -> list[float]:
    """Shares (of 1) in `cells` equal cells of `to_low..to_high`, from counts in equal bins of `low..high`.

    A bin that straddles cells is divided among them; what lies outside is counted in the edge cells. With `tails` the
    first and the last bin hold what lies outside, and go to the edge cells whole. All zero where nothing was counted or
    a bound is not finite.
    """
    shares = [0.0] * cells
    total = sum(counts)
    if not total > 0 or not all(map(math.isfinite, (low, high, to_low, to_high, total))) or to_high <= to_low:
        return shares
    if high <= low:  # every value the same
        at = min(cells - 1, max(0, math.floor((low - to_low) / (to_high - to_low) * cells)))
        shares[at] = 1.0
        return shares
    for parts in _overlaps(low, high, len(counts), to_low, to_high, cells, tails):
        for b, c, share in parts:
            shares[c] += counts[b] * share
    return [share / total for share in shares]


def height(flat: float) -> float:
    """The level, 7 for a full bar, of so many times the share of a flat histogram: of five times a full bar.

    The power 3/4 of the share is drawn, so that a tail stays visible beside a peak, and a full bar leaves the top
    eighth free, so that rows do not grow into each other.
    """
    return float((flat / 5) ** 0.75) * (LEVELS - 1)


def heights(shares: Sequence[float]) -> list[float]:
    """Shares of a histogram as levels 0..7, alike in all rows: a flat histogram is 2.1 high.

    What is there at all is at least a level high, what is less than a thousandth of a flat histogram is not there.
    """
    cells, full = len(shares), LEVELS - 1
    return [min(full, max(1.0, height(share * cells))) if share * cells > 1e-3 else 0.0 for share in shares]


# --- numbers --------------------------------------------------------------------------------------------------------


def word(value: float) -> str | None:
    """nan, inf or -inf for a number that is not finite."""
    if math.isfinite(value):
        return None
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"


def fixed(value: float, width: int, decimals: int = 2, *, plus: bool = False, glyphs: Glyphs = UNICODE) -> str:
    """A number in `width` cells, right-aligned: as many decimals as fit, else a power of ten, or its size."""
    if (text := word(value)) is None:
        sign = "+" if plus else ""
        for places in range(decimals, -1, -1):
            text = f"{value:{sign}z.{places}f}"  # z: what rounds to 0 has no minus
            if len(text) <= width:
                break
        else:
            text = scientific(value)
            if len(text) > width:
                text = power(f"{value:.0e}")
            if len(text) > width:
                text = ("-" if value < 0 else ">") + "9" * (width - 1)
    return text.replace("-", glyphs.minus).rjust(width)


def scientific(value: float, glyphs: Glyphs | None = None, width: int = 0) -> str:
    """Two digits and a power of ten: `2.6e-3`, right-aligned in `width` cells, with one digit where two do not fit.

    The minus before a number is that of the glyphs.
    """
    if (text := word(value) or ("0" if value == 0 else None)) is not None:
        return text.rjust(width)
    text = power(f"{value:.1e}")
    if 0 < width < len(text):
        text = power(f"{value:.0e}")
    return (text[:1].replace("-", glyphs.minus) + text[1:] if glyphs else text).rjust(width)


def power(text: str) -> str:
    """`1e-02` as 1e-2, and what has no power of ten as it is."""
    mantissa, e, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if e else text


def percent(share: float, width: int = 4) -> str:
    """A share 0..1 as a percentage: `0%`, `2.8%`, ` 14%`."""
    if (text := word(share)) is None:
        number = share * 100
        text = (
            "0%"
            if number == 0
            else "<.1%"
            if 0 < number < 0.05
            else f"{number:.1f}%"
            if number < 9.95
            else f"{number:.0f}%"
        )
    return text.rjust(width)


def short(number: float) -> str:
    """A count in at most five cells: 950, 41.2k, 200k, 1.5M."""
    if (text := word(number)) is not None:
        return text
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            scaled = number / size
            return f"{scaled:.3g}{letter}" if scaled < 999.5 else f"{scaled:.0f}{letter}"
    return f"{number:.0f}"


def rate(number: float) -> str:
    """Steps a second at three digits, so that a steady rate is a steady text."""
    if (text := word(number)) is not None:
        return text
    if number <= 0:
        return "0"
    if number < 100:
        return f"{number:.3g}"
    unit = 10 ** (math.floor(math.log10(number)) - 2)
    return f"{round(number / unit) * unit:,}"


def duration(seconds: float) -> str:
    """0:31, 1:02:03, 3d04h, or a question mark for what is not known."""
    if not math.isfinite(seconds) or seconds < 0:
        return "?"
    whole = int(seconds)
    if whole >= 86_400:
        return f"{whole // 86_400}d{whole % 86_400 // 3600:02}h"
    if whole >= 3600:
        return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}"
    return f"{whole // 60}:{whole % 60:02}"


# --- text -----------------------------------------------------------------------------------------------------------

_STACKED = 2  # marks on one letter, beyond which they only climb over other lines


def escape(text: str, *, ascii: bool = False) -> str:  # noqa: A002
    """Text that no terminal obeys: control, format and private characters become \\x1b and the like.

    Combining marks stay where an alphabet needs them: on a letter, two at most, never alone.
    """
    if text.isascii() and text.isprintable():
        return text
    out: list[str] = []
    marks = _STACKED
    for char in unicodedata.normalize("NFC", text):
        category = unicodedata.category(char)
        code = ord(char)
        width = get_character_cell_size(char)
        if ascii and code > 126:
            harmless = False
        elif category in ("Mn", "Mc", "Me"):
            marks += 1
            harmless = marks <= _STACKED and not 0xFE00 <= code <= 0xFE0F and not 0xE0100 <= code <= 0xE01EF
        else:
            harmless = (category[0] not in "CZ" and width > 0) or char == " " or category == "Zs"
            marks = 0 if category[0] == "L" else _STACKED
        if harmless:
            out.append(" " if category == "Zs" else char)
        else:
            out.append(f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65_536 else f"\\U{code:06x}")
            marks = _STACKED
    return "".join(out)


@functools.lru_cache(16384)
def width_of(text: str) -> int:
    """Cells that the text takes on the screen."""
    return len(text) if text.isascii() else cell_len(text)


def clip(text: str, width: int, glyphs: Glyphs = UNICODE) -> str:
    """The text in `width` cells at most, an ellipsis at its end where something was left out."""
    if width <= 0:
        return ""
    if len(text) <= width and width_of(text) <= width:
        return text
    cells = 0
    for at, char in enumerate(text):
        cells += get_character_cell_size(char)
        if cells > width - 1:
            return text[:at] + glyphs.ellipsis
    return text


def safe(text: str, width: int, glyphs: Glyphs = UNICODE) -> str:
    """Text from data, harmless and exactly `width` cells wide: clipped or filled with blanks."""
    plain = clip(escape(text[: 4 * width + 8], ascii=glyphs.ascii), width, glyphs)
    return plain + " " * (width - width_of(plain))


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` cells, at least one, broken at blanks where there are any."""
    width = max(1, width)
    lines: list[str] = []
    line = ""
    for chunk in text.split():
        while width_of(chunk) > width:
            room = width - width_of(line) - 1 if line else width
            if line and room < 4:
                lines.append(line)
                line = ""
                continue
            cut = len(chunk)
            while cut > 1 and width_of(chunk[:cut]) > room:
                cut -= 1
            lines.append(f"{line} {chunk[:cut]}" if line else chunk[:cut])
            line, chunk = "", chunk[cut:]
        if line and width_of(line) + 1 + width_of(chunk) > width:
            lines.append(line)
            line = chunk
        else:
            line = f"{line} {chunk}" if line and chunk else line or chunk
    return [*lines, line] if line else lines


def _demo() -> None:
    import random

    generator = random.Random(1)
    for glyphs in (UNICODE, ASCII):
        signs = (f"{name} {sign}" for name, sign in glyphs._asdict().items() if isinstance(sign, str))
        print(*wrap("  ".join(signs), 100), sep="\n")
        for spread in (0.2, 0.6, 1.2, 3.0):
            counts = [0.0] * 40
            for _ in range(3200):
                counts[min(39, int((math.tanh(generator.gauss(0, spread)) + 1) * 20))] += 1
            row = bars([round(h) for h in heights(rebin(counts, -1, 1, -1, 1, 20))], glyphs)
            print(f"{spread:4}  {row}  {meter((counts[0] + counts[39]) / 3200, 4, glyphs)}|")
        print(glyphs.text("".join(progress(0.4, 20, glyphs)) + f" {safe(chr(27) + '[31mred', 12, glyphs)}|"))
        print(fixed(-1.5, 5, glyphs=glyphs), scientific(2.6e-3), percent(0.028), short(41_200), duration(31))


if __name__ == "__main__":
    _demo()
