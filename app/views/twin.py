"""The twin screen: two nets that differ in a few settings, side by side layer by layer, both losses on one axis."""

from __future__ import annotations

import math
from dataclasses import replace

from app import glyphs as glyph
from app.history import Attempt, History
from app.views.curve import Course, lines_over_steps, loss_axis
from app.views.lines import Line, beside, block, heading
from app.views.state import View
from app.views.status import loss_span
from app.views.table import needed, table, tallest
from makemore_core.command import Twin, in_words

LEAST_CURVE = 6  # rows of the plot and its title, less is not worth drawing


def draw(view: View, width: int, height: int) -> list[Line]:
    """The body of the screen."""
    twin = view.history.twin
    if twin is None or twin.snapshot is None or view.history.snapshot is None:
        lines: list[Line] = [heading("twin", "none yet" if view.obeyed else "none", width, view.glyphs)]
        if view.obeyed:
            words = "t trains a second net that differs in a setting, "
            words += "with the same seed and the same minibatches, step by step beside this one; both begin from the "
            words += "seed, and u brings this net back"
            lines += [[(" " + line, "")] for line in glyph.wrap(words, width - 2)]
        return block(lines, width, height, view.glyphs)
    other, half = replace(view, history=twin), (width - 2) // 2
    tall = min(tallest(view, height), tallest(other, height))
    tables = 1 + max(needed(view, tall), needed(other, tall))
    tables = min(tables, height - LEAST_CURVE) if height >= LEAST_CURVE + 4 else height
    left = _side(view, "this run", half, tables, tall)
    right = _side(other, _name(view), width - half - 2, tables, tall)
    lines = beside(left, right, half, width, view.glyphs)
    rest = height - len(lines)
    if rest >= LEAST_CURVE:
        note = [
            (f"{'━ ' if view.glyphs.coloured else 'a='}this run  ", "loss"),
            ("━ " if view.glyphs.coloured else "b=", "twin"),
            (glyph.clip(glyph.escape(_name(view)), 40), "twin"),
            ("  mean of minibatches", "dim"),
        ]
        plain = [(view.glyphs.text(text), style) for text, style in note]
        lines += [heading("loss", plain, width, view.glyphs), *_losses(view, twin, width, rest - 1)]
    return block(lines, width, height, view.glyphs)


def _side(view: View, name: str, width: int, height: int, tall: int) -> list[Line]:
    """One net: its name and losses, and its rows."""
    snapshot = view.history.snapshot
    assert snapshot is not None
    style, expected = "loss" if name == "this run" else "twin", snapshot.expected_loss
    note: Line = [("loss ", style), loss_span(snapshot.smoothed_loss, expected, style)]
    if snapshot.splits and snapshot.splits.val is not None:
        note += [("  val ", style), loss_span(snapshot.splits.val, expected, style)]
    title = glyph.escape(view.glyphs.text(name), ascii=view.glyphs.ascii)
    return [heading(title, note, width, view.glyphs), *table(view, width, height - 1, tall)]


def _losses(view: View, twin: History, width: int, height: int) -> list[Line]:
    lowest_last = sorted((view.history.attempt, twin.attempt), key=_highest, reverse=True)  # the scale is for that
    axis = loss_axis(lowest_last, None, 8, view.log)
    if axis is None:
        return [[("no loss yet", "dim")]]
    courses = [Course(view.history.attempt.loss, "loss", "a"), Course(twin.attempt.loss, "twin", "b")]
    return lines_over_steps(courses, view, width, height, low=axis.low, high=axis.high, log=axis.log)


def _highest(attempt: Attempt) -> float:
    bounds = attempt.loss.bounds()
    return bounds[1] if bounds else math.inf


def _name(view: View) -> str:
    """In what the twin differs now: the run may have been changed into it since."""
    mine, twin = view.history.snapshot, view.history.twin
    if mine is None or twin is None or twin.snapshot is None:
        return "twin"
    differs = {name: value for name, value in twin.snapshot.config.items() if mine.config.get(name) != value}
    return in_words(Twin(differs)) if differs else "twin, same as this run"
