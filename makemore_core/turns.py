"""Sides of a comparison that take turns, so that what else the machine is doing falls on all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from makemore_core.figures import Effort

Stopwatch: TypeAlias = Callable[[int], float]  # steps -> the seconds they took


def take_turns(sides: Mapping[str, Stopwatch], effort: Effort) -> dict[str, list[float]]:
    """Steps per second of each side in each round; all sides have a turn in every round, in changing order."""
    steps = {name: _calibrate(side, effort.turn) for name, side in sides.items()}
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(effort.rounds):
        for name in names if turn % 2 else reversed(names):
            speeds[name].append(steps[name] / sides[name](steps[name]))
    return speeds


def _calibrate(side: Stopwatch, turn: float) -> int:
    """How many steps fill a turn; also what warms the side up: what only its first call waits for says nothing."""
    side(1)
    steps, seconds = 1, side(1)
    while seconds < turn / 4 and steps < 1_000_000:
        steps = max(steps + 1, min(steps * 8, int(steps * turn / 2 / max(seconds, 1e-9))))
        seconds = side(steps)
    return max(1, round(steps * turn / seconds))
