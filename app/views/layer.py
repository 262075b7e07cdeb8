"""One layer enlarged: plots with axes of its histograms, now and as it began, and of its course.

The axes are plotext's, which takes some milliseconds a plot: the screen is drawn once a second, and on a key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from app import glyphs as glyph
from app.glyphs import Glyphs
from app.history import bounded
from app.series import Series, bridged
from app.traces import LayerTrace, WeightTrace
from app.views.curve import round_values, tick_texts
from app.views.lines import Line, beside, block, cells_of, fit, heading
from app.views.state import (
    Row,
    View,
    gradient_sick,
    is_bounded,
    rows,
    saturated_sick,
    selected,
    spread_sick,
    update_sick,
)
from app.views.table import Norms, norms, per_column
from makemore_core.doctor import GUIDE
from makemore_core.snapshot import SATURATED, Histogram

# plotext knows colours by number, views know styles by name
_NUMBERS = {"ghost": 244, "activation": 74, "gradient": 173, "update": 107, "guide": 241, "": 250}
_STYLES = {str(number): name for name, number in _NUMBERS.items()}


NONE_NOW = ", none now"  # nothing finite
HIGHER = 3.0  # times as high as the density now, that of the first update still shows whole


class Trace(NamedTuple):
    """Points joined by a line."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str


def plot(
    title: str, traces: Sequence[Trace], width: int, height: int, g: Glyphs, hold: Sequence[float] = ()
) -> list[Line]:
    """Traces on axes that hold them, and the values `hold` besides.

    Points that are not finite are left out, and the title says how many.
    """
    import plotext

    if width < 20 or height < 6:
        return [[(glyph.clip(title, width, g), "title")], [(" too small to plot", "dim")]][:height]
    plotext.clear_figure()
    plotext.limit_size(False, False)
    plotext.theme("clear")
    plotext.plotsize(width, height - 1)
    left_out = 0
    drawn: list[tuple[float, float]] = []
    for trace in traces:
        points = [
            (x, y)
            for x, y in zip(trace.x, trace.y, strict=True)
            if abs(x) < 1e300 and (y == 0 or 1e-300 < abs(y) < 1e300)
        ]
        left_out += len(trace.x) - len(points)
        if points:
            xs, ys = zip(*points, strict=True)
            plotext.plot(list(xs), list(ys), marker=_marker(trace, g), color=_NUMBERS[trace.style])
            drawn += points
    if not drawn:
        return [
            [(title, "title")],
            [(" no number to plot" + (" : not finite" if left_out else " yet"), "sick" if left_out else "dim")],
        ]
    heights = [*hold, *(y for _, y in drawn)]
    if hold and min(heights) < max(heights):
        plotext.ylim(min(heights), max(heights))
    for set_ticks, values, parts in (
        (plotext.xticks, [x for x, _ in drawn], width // 12),
        (plotext.yticks, heights, height // 3),
    ):
        tried = (round_values(min(values), max(values), more) for more in range(max(1, parts), parts + 5))
        ticks = next((ticks for ticks in tried if len(ticks) > 1), [values[0]])
        large = max(map(abs, ticks)) >= 1000
        set_ticks(ticks, [glyph.short(tick) for tick in ticks] if large else tick_texts(ticks, 8, g, least=0))
    head: Line = [(f" {title}" + (f" ({left_out} not finite)" if left_out else ""), "title")]
    for trace in traces:  # beside the title, since a legend in the plot would lie on the curves
        sign = f"{_marker(trace, g)} " if g.ascii or not g.coloured else ""
        head += [(f"  {sign}{trace.name}", trace.style)] if trace.name else []
    return [fit(head, width, g), *(_spans(line, g) for line in plotext.build().split("\n"))][:height]


def _marker(trace: Trace, g: Glyphs) -> str:
    """What it is drawn with: without colours, what is behind gets a sign of its own."""
    if trace.style in ("ghost", "guide", "") and (g.ascii or not g.coloured):
        return "."
    return "*" if g.ascii else "hd" if g.coloured else "o"


_SGR = re.compile(r"\x1b\[([0-9;]*)m")


def _spans(text: str, g: Glyphs) -> Line:
    """A line with colour codes as styled spans."""
    out: Line = []
    style = "axis"
    for at, part in enumerate(_SGR.split(text)):
        if at % 2:
            style = _STYLES.get(part.rpartition(";")[2], "axis") if part not in ("", "0") else "axis"
        elif part:
            out.append((g.text(part), style))
    return out


def draw(view: View, width: int, height: int) -> list[Line]:
    """The row under the cursor: a layer's four plots, or a weight's course."""
    row, g = selected(view), view.glyphs
    if row is None:
        return [[], [(" no layer to show" + (": nothing passes the filter" if view.filter else " yet"), "dim")]]
    count = len(rows(view))
    at = min(max(0, view.cursor), count - 1) + 1
    name = glyph.escape(row.name, ascii=g.ascii)
    lines: list[Line] = [heading(name, f"row {at} of {count}; up and down go to others, esc back", width, g)]
    if row.layer is None:
        assert row.weight is not None
        return [
            *lines,
            *_numbers_of_weight(row.weight, width, g),
            *plot("update:data, log10; its guide is -3", _updates(row.weight, width), width, height - 3, g),
        ]
    lines += _numbers(row, row.layer, norms(rows(view)), width, g)
    if row.weight is not None:
        lines += _numbers_of_weight(row.weight, width, g)
    rest = height - len(lines)
    if rest < 12:
        return lines + _activation(row.layer, width, rest, g)
    if width < 64:
        half = rest // 2
        return (
            lines
            + block(_activation(row.layer, width, half, g), width, half, g)
            + _gradient(row.layer, width, rest - half, g)
        )
    left, upper = width // 2 - 1, rest // 2
    right, lower = width - left - 2, rest - upper
    lines += beside(_activation(row.layer, left, upper, g), _gradient(row.layer, right, upper, g), left, width, g)
    lines += beside(_course(row.layer, left, lower, g), _gradient_course(row.layer, right, lower, g), left, width, g)
    return lines


Fact: TypeAlias = tuple[str, str, str]  # name, value, style


def _facts(facts: Sequence[Fact], width: int) -> list[Line]:
    """As many on a line as fit whole."""
    lines: list[Line] = [[]]
    for name, text, style in facts:
        fact: Line = [(f" {name} ", "dim"), (("!" if style == "sick" else "") + text + " ", style)]
        if lines[-1] and cells_of(lines[-1]) + cells_of(fact) > width:
            lines.append([])
        lines[-1] += fact
    return lines


def _numbers(row: Row, trace: LayerTrace, against: Norms, width: int, g: Glyphs) -> list[Line]:
    activation, gradient = trace.layer.activation, trace.layer.gradient
    unchecked = "unchecked" if math.isfinite(activation.std) else "cannot be told"
    dead = unchecked if activation.dead is None else f"{activation.dead} of {activation.units}"
    share = f"|a| > {SATURATED:g}" if is_bounded(row) else "in the flat region"
    facts = [
        ("mean", glyph.fixed(activation.mean, 6, 3, plus=True, glyphs=g).strip(), "activation"),
        ("std", glyph.fixed(activation.std, 5, 3, glyphs=g).strip(),
         "sick" if spread_sick(row, against.first_std, against.began) else "activation"),
        (share, glyph.percent(activation.saturated, 0), "sick" if saturated_sick(row) else "activation"),
        ("dead", dead, "sick" if activation.dead else ""),
    ]  # fmt: skip
    if width >= 100:
        facts.append(("gradient mean", glyph.scientific(gradient.mean, g), "gradient"))
    style = "sick" if gradient_sick(row, against.gradient_std) else "gradient"
    return _facts([*facts, ("gradient std", glyph.scientific(gradient.std, g), style)], width)


def _numbers_of_weight(trace: WeightTrace, width: int, g: Glyphs) -> list[Line]:
    weight = trace.weight
    facts = (
        ("weight", glyph.escape(weight.name, ascii=g.ascii), ""),
        ("shape", g.times.join(str(n) for n in weight.shape), ""),
        ("data std", glyph.scientific(weight.data_std), ""),
        ("grad std", glyph.scientific(weight.grad_std), ""),
        ("grad:data", glyph.scientific(weight.grad_data_ratio), ""),
        ("update:data", glyph.fixed(weight.update_data_log10, 6, 2, glyphs=g).strip(),
         "sick" if update_sick(weight.update_data_log10, weight, trace.step) else "update"),
    )  # fmt: skip
    return _facts(facts, width)


def _bars(name: str, box: Histogram, counts: Sequence[float], style: str, tails: bool) -> list[Trace]:
    """The density of a histogram, whatever the width of its bins; none where nothing finite was counted.

    Without the edge bins where they hold what lies outside, which is what they do of values without limits.
    """
    total, width = sum(counts), (box.high - box.low) / max(1, len(box.counts))
    inside = range(1, len(counts) - 1) if tails else range(len(counts))
    centres = [box.low + (at + 0.5) * width for at in inside]
    return [Trace(name, centres, [counts[at] / total / (width or 1.0) for at in inside], style)] if total else []


def _densities(
    title: str, trace: LayerTrace, first: Histogram, now: tuple[Histogram, Sequence[float]], tails: bool
) -> tuple[str, list[Trace]]:
    """The density now, and behind it the one of the first update, cut off where it is so high that this one is flat."""
    name = f"step {trace.first_step:,}"
    own = _bars("now", *now, title, tails)
    ghost = _bars(name, first, first.counts, "ghost", tails)
    if ghost and own and max(ghost[0].y) > (top := HIGHER * max(own[0].y)):
        ghost = [ghost[0]._replace(name=f"{name} cut", y=[min(y, top) for y in ghost[0].y])]
    return f"{title}, density" + NONE_NOW * (not own), ghost + own


def _activation(trace: LayerTrace, width: int, height: int, g: Glyphs) -> list[Line]:
    now = trace.layer.activation.histogram, trace.activation_counts
    tails = not bounded(trace.layer.kind)
    return plot(*_densities("activation", trace, trace.first.activation.histogram, now, tails), width, height, g, (0,))


def _gradient(trace: LayerTrace, width: int, height: int, g: Glyphs) -> list[Line]:
    now = trace.layer.gradient.histogram, trace.gradient_counts
    return plot(*_densities("gradient", trace, trace.first.gradient.histogram, now, True), width, height, g, (0,))


def _over_steps(name: str, series: Series, width: int, style: str) -> list[Trace]:
    """The course of a number, in parts between which nothing is known of its way."""
    size = per_column(max(1, series.end), max(10, width))
    parts: list[Trace] = []
    xs: list[float] = []
    ys: list[float] = []
    last = -1
    for at, bucket in enumerate(series.columns(size)):
        if bucket is None:
            continue
        if not parts or not bridged(at - last - 1, at):
            parts.append(Trace("" if parts else name, xs := [], ys := [], style))
        xs.append(at * size + (size + 1) / 2)
        ys.append(bucket.mean)
        last = at
    return parts


def _course(trace: LayerTrace, width: int, height: int, g: Glyphs) -> list[Line]:
    saturated = _over_steps("share saturated", trace.saturated, width, "")
    return plot(
        "over steps", [*_over_steps("std", trace.std, width, "activation"), *saturated], width, height, g, (0, 1)
    )


def _gradient_course(trace: LayerTrace, width: int, height: int, g: Glyphs) -> list[Line]:
    parts = _over_steps("", trace.gradient_std, width, "gradient")
    logs = [part._replace(y=[math.log10(y) if y > 0 else math.nan for y in part.y]) for part in parts]
    return plot("gradient std over steps, log10", logs, width, height, g)


def _updates(trace: WeightTrace, width: int) -> list[Trace]:
    parts = _over_steps("update:data", trace.update, width, "update")
    xs = [x for part in parts for x in part.x]
    return [Trace("", xs, [GUIDE] * len(xs), "guide"), *parts]
