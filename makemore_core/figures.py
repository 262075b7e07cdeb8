"""Figures of the bench, with their spread, and what the project asks of them.

They stand apart so that every part of the bench speaks of its results in the same few words.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import NamedTuple

import msgspec


class Asked(NamedTuple):
    """What the project asks of a figure: at least so much, or at most."""

    demand: float
    moonshot: float
    at_most: bool = False


class Figure(msgspec.Struct, frozen=True):
    """One result. `value` is the median over the rounds unless `name` says otherwise, `low` and `high` their quartiles.

    `asked` is what the project asks of it, None where it asks nothing; `sides` holds the median steps per second of
    what was compared.
    """

    name: str
    value: float
    low: float
    high: float
    unit: str = "ratio"
    asked: Asked | None = None
    sides: dict[str, float] = {}

    @property
    def verdict(self) -> str:
        """Whether the value is what was asked for, in a word."""
        if self.asked is None:
            return ""
        sign = -1 if self.asked.at_most else 1
        if sign * self.value >= sign * self.asked.moonshot:
            return "moonshot"
        return "reached" if sign * self.value >= sign * self.asked.demand else "missed"


class Report(msgspec.Struct, frozen=True):
    """All figures of one run of the bench, with what they were taken on, and what was left out and why."""

    machine: dict[str, str | int]
    figures: list[Figure]
    notes: list[str]


class Effort(msgspec.Struct, frozen=True):
    """How much time the bench may take: seconds of one turn, and how many turns each side has."""

    turn: float
    rounds: int


QUICK, FULL = Effort(0.4, 3), Effort(1.5, 9)


def row(figure: Figure) -> str:
    """A figure in one line."""
    digits = 2 if figure.value < 100 else 0
    unit = "×" if figure.unit == "ratio" else f" {figure.unit}"
    asked = ""
    if figure.asked is not None:
        sign = "≤" if figure.asked.at_most else "≥"
        asked = f"  asked {sign} {figure.asked.demand:g}, moonshot {figure.asked.moonshot:g}: {figure.verdict}"
    spread = f"[{figure.low:.{digits}f}–{figure.high:.{digits}f}]"
    return f"{figure.name:<62} {figure.value:8.{digits}f}{unit} {spread}{asked}"


def compare(
    name: str, speeds: Mapping[str, list[float]], side: str, reference: str, asked: Asked | None = None
) -> Figure:
    """How many times as fast as the reference a side is, round by round."""
    ratios = [ours / theirs for ours, theirs in zip(speeds[side], speeds[reference], strict=True)]
    medians = {key: statistics.median(speeds[key]) for key in (side, reference)}
    return msgspec.structs.replace(summary(name, ratios, asked), sides=medians)


def summary(name: str, values: list[float], asked: Asked | None = None, *, unit: str = "ratio") -> Figure:
    """The median of some values and their quartiles (the extremes where there are too few)."""
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]
    return Figure(name, statistics.median(ordered), low, high, unit, asked)
