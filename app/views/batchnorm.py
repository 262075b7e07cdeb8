"""BatchNorm looked into (part 3): its statistics, the losses they give, an example in company, a slider, the spread."""

from __future__ import annotations

import math
from collections.abc import Sequence

from app import glyphs as glyph
from app.views.answers import answer, none_yet, symbol, taken_at
from app.views.lines import Line, block, heading
from app.views.state import Pressed, View, chosen, hint, keep
from app.views.status import loss_number
from makemore_core.answers import BatchNorms, NormLayer
from makemore_core.command import Look
from makemore_core.config import Value

NAME = "batchnorm"
SLIDERS = 5
START = (-2, -1, 0, 1, 2)
REACH = 10  # of a slider, in halves
LEAST_PART = 4  # lines of one that is begun
PARTS = ("statistics", "company", "slider", "spread")


def look(view: View) -> Look:
    """The statistics over part of the training split, which is enough for two digits; enter asks for all of it."""
    options: dict[str, Value] = {"examples": 0 if chosen(view, "bn_whole") else 5_000}
    return Look(NAME, options | {"example": chosen(view, "bn_example"), "scale": _scale(view)})


def _scale(view: View) -> float:
    """The chosen scale of the weights, in steps of which eight make a power of ten."""
    return float(f"{10 ** (chosen(view, 'bn_scale') / 8):.3g}")


def press(view: View, key: str) -> Pressed | None:
    """Up and down go from part to part, left and right change what the part shows, enter goes to the next value."""
    part = PARTS[chosen(view, "bn_part") % len(PARTS)]
    if key in ("up", "down"):
        return Pressed(keep(view, bn_part=(chosen(view, "bn_part") + (1 if key == "down" else -1)) % len(PARTS)))
    by = {"left": -1, "right": 1}.get(key, 0)
    match part, key:
        case "statistics", "enter":
            return Pressed(keep(view, bn_whole=1 - chosen(view, "bn_whole")))
        case "company", "left" | "right":
            return Pressed(keep(view, bn_example=max(0, chosen(view, "bn_example") + by)))
        case "spread", "left" | "right":
            return Pressed(keep(view, bn_scale=min(max(-16, chosen(view, "bn_scale") + by), 16)))
        case "slider", "left" | "right":
            which = chosen(view, "bn_slider")
            value = min(max(-REACH, _slid(view)[which] + by), REACH)
            return Pressed(keep(view, **{f"bn_value{which}": value}))
        case "slider", "enter":
            return Pressed(keep(view, bn_slider=(chosen(view, "bn_slider") + 1) % SLIDERS))
    return Pressed(view) if by else None  # on a screen with a slider they do not lead to another one


def draw(view: View, width: int, height: int) -> list[Line]:
    """The part that was chosen, and as many of the others below it as there is room for."""
    g = view.glyphs
    data = answer(view, NAME, BatchNorms)
    at = chosen(view, "bn_part") % len(PARTS)
    order = [*PARTS[at:], *PARTS[:at]]
    lines: list[Line] = []
    for position, part in enumerate(order):
        if position and height - 1 - len(lines) < LEAST_PART:
            break
        drawn, room = _part(part, data, view, width, position == 0), height - 1 - len(lines)
        if len(drawn) > room:
            drawn = [*drawn[: room - 1], [(f" {g.below} {len(drawn) - room + 1} more: down", "note")]]
        lines += drawn
    lines = block(lines, width, height - 1, g)
    own = {
        "statistics": "enter whole splits / a part", "company": "←→ another example",
        "slider": "←→ move  enter next value", "spread": "←→ another scale",
    }[order[0]]  # fmt: skip
    words = "  ".join(filter(None, (f"↑↓ part {at + 1} of {len(PARTS)}", own, "b BatchNorm on / off", "esc back")))
    return [*lines, *block([hint(words, view)], width, 1, g)]


def _part(part: str, data: BatchNorms | None, view: View, width: int, first: bool) -> list[Line]:
    title, note = {
        "statistics": ("statistics", f"of the batch, running, and of the data {taken_at(view, NAME)}"),
        "company": ("one example in company", "the batch it is in moves what the net says of it"),
        "slider": ("slider", "move one of five values: normalisation moves them all"),
        "spread": ("spread", "normal numbers through one layer, forward and backward"),
    }[part]
    mark = view.glyphs.cursor + " " if first else ""
    head = heading(mark + title, note, width, view.glyphs)
    if part == "slider":
        return [head, *_slider(view, width)]
    if data is None:
        return [head, *none_yet(view, NAME, "looking into BatchNorm")]
    if part == "spread":
        return [head, *_spread(data, view)]
    if not data.layers:
        return [head, [(" this net has no BatchNorm: b puts it in", "dim")]]
    return [head, *(_statistics(data, view) if part == "statistics" else _company(data, view, width))]


def _statistics(data: BatchNorms, view: View) -> list[Line]:
    """The losses each kind of statistics gives, then how far each layer's are from those of the data."""
    g = view.glyphs
    over = "" if chosen(view, "bn_whole") else f"   over the first {data.examples:,} of each"
    lines: list[Line] = [[(f" {'loss, normalised by':28s}{'train':>9s}{'val':>9s}", "axis"), (over, "dim")]]
    if data.losses is not None:
        for kind, words in (
            ("running", "running statistics"), ("calibrated", f"all of {data.examples:,} examples"),
            ("batch", "its own minibatch"),
        ):  # fmt: skip
            both = getattr(data.losses, kind)
            lines.append([(f" {words:28s}{loss_number(both.train, 4):>9s}{loss_number(both.val, 4):>9s}", "")])
    lines.append([])
    lines.append(
        [(f" {'layer':>5s}  momentum  off by, in std:  {'batch':>7s}  {'running':>7s}   std against data", "axis")]
    )
    for layer in data.layers:
        batch, running = (_off(layer, kind) for kind in ("batch", "running"))
        ratios = [_ratio(layer, kind) for kind in ("batch", "running")]
        text = f" {layer.index:5d}  {layer.momentum:8.3g}  {'':15s}  {batch:7.3f}  {running:7.3f}   "
        style = "sick" if running > 0.15 else ""
        lines.append([(text, style), (f"{g.times}{ratios[0]:.2f} batch, {g.times}{ratios[1]:.2f} running", "dim")])
    return lines


def _off(layer: NormLayer, kind: str) -> float:
    """Root mean square distance of the means from those of the data, in standard deviations of the data."""
    means = getattr(layer.mean, kind)
    squares = [
        ((mean - all_) / std) ** 2
        for mean, all_, std in zip(means, layer.mean.calibrated, layer.std.calibrated, strict=False)
        if std > 0
    ]
    return math.sqrt(sum(squares) / len(squares)) if squares else math.nan


def _ratio(layer: NormLayer, kind: str) -> float:
    """Geometric mean of the standard deviations against those of the data."""
    pairs = zip(getattr(layer.std, kind), layer.std.calibrated, strict=False)
    logs = [math.log(std / all_) for std, all_ in pairs if std > 0 and all_ > 0]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def _company(data: BatchNorms, view: View, width: int) -> list[Line]:
    """The likeliest symbols: what evaluation says of the example alone, and between what its company moves it."""
    company = data.company
    if company is None:
        return []
    if not all(map(math.isfinite, (*company.alone_probabilities, *company.low, *company.high))):
        return [[(" the net says nothing of it: its logits are no numbers", "sick")]]
    g = view.glyphs
    context = "".join(symbol(company.symbols, index, view) for index in company.context)
    target = symbol(company.symbols, company.target, view)
    lines: list[Line] = [
        [(f" example {company.example:,}: ", "dim"), (f"{context} {g.arrow} {target}", "name"),
         (f"   logits move by {_mean(company.std):.2f} (std over {company.companies} minibatches)", "")],
        [(f" {'symbol':8s}{'alone':>7s}   {'in company, lowest to highest':32s}", "axis")],
    ]  # fmt: skip
    likely = sorted(range(len(company.alone_probabilities)), key=lambda i: -company.alone_probabilities[i])[:6]
    cells = max(8, min(40, width - 36))
    for index in likely:
        alone, low, high = company.alone_probabilities[index], company.low[index], company.high[index]
        text = f" {glyph.safe(symbol(company.symbols, index, view), 8, g)}{glyph.percent(alone, 7)}   "
        span = f"{glyph.percent(low)} to {glyph.percent(high)}  "
        lines.append([(text, "good" if index == company.target else ""), (f"{span:16s}", "dim"),
                      *_range(low, high, alone, cells, view)])  # fmt: skip
    return lines


def _range(low: float, high: float, alone: float, cells: int, view: View) -> Line:
    """Where probabilities lie between 0 and 1: the reach in company, and a point for the example alone."""
    g = view.glyphs
    first, last = round(low * (cells - 1)), round(high * (cells - 1))
    chars = [" "] * first + [g.progress] * (last - first + 1) + [" "] * (cells - last - 1)
    chars[round(alone * (cells - 1))] = g.point
    return [("".join(chars[:cells]), "activation")]


def _slid(view: View) -> list[int]:
    """The five values, in halves."""
    return [chosen(view, f"bn_value{at}", 2 * START[at]) for at in range(SLIDERS)]


def normalised(values: Sequence[float]) -> list[float]:
    """Mean 0 and std 1 over the batch, as the lecture's BatchNorm does it (n - 1 below)."""
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return [(value - mean) / math.sqrt(variance + 1e-5) for value in values]


def _slider(view: View, width: int) -> list[Line]:
    """Five values and what they become, on one scale from -5 to 5 (the lecture's own widget)."""
    g = view.glyphs
    values = [half / 2 for half in _slid(view)]
    mean = sum(values) / len(values)
    std = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    cells = max(11, min(41, (width - 24) // 2))
    words = f"mean {mean:+.2f}, std {std:.2f}".replace("-", g.minus)
    lines: list[Line] = [[(f" {'value':>7s}  {words:{cells}s}  normalised: mean 0, std {'1' if std else '0'}", "axis")]]
    for at, (value, norm) in enumerate(zip(values, normalised(values), strict=True)):
        here = at == chosen(view, "bn_slider")
        mark = g.cursor if here else " "
        style = "cursor" if here else "activation"
        lines.append([
            (f"{mark}{glyph.fixed(value, 7, 1, plus=True, glyphs=g)}  ", style if here else ""),
            (_beam(value, cells, view), style), ("  ", ""),
            (_beam(norm, cells, view), "gradient"), (glyph.fixed(norm, 7, 2, plus=True, glyphs=g), ""),
        ])  # fmt: skip
    return lines


def _beam(value: float, cells: int, view: View) -> str:
    g = view.glyphs
    chars = [g.rule] * cells
    chars[cells // 2] = g.junction
    chars[round(min(max(value, -5), 5) / 10 * (cells - 1) + (cells - 1) / 2)] = g.point
    return "".join(chars)


def _spread(data: BatchNorms, view: View) -> list[Line]:
    """Std behind Linear and behind Linear and BatchNorm, for weights of a scale."""
    g = view.glyphs
    lines: list[Line] = [
        [(f" {'':14s}{'Linear':>18s}{'Linear + BatchNorm':>22s}", "axis")],
        [(f" {'scale':>12s}  {'forward':>9s}{'backward':>9s}{'forward':>13s}{'backward':>9s}", "axis")],
    ]
    for row in data.spread.table:
        mark = g.cursor if row.chosen else " "
        plain = f"{glyph.fixed(row.linear.forward, 9, 2)}{glyph.fixed(row.linear.backward, 9, 2)}"
        normed = f"{glyph.fixed(row.batchnorm.forward, 13, 2)}{glyph.fixed(row.batchnorm.backward, 9, 2)}"
        style = "cursor" if row.chosen else ""
        lines.append([(f"{mark}{row.scale:12.4g}  {plain}", style), (normed, style or "good")])
    return lines


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
