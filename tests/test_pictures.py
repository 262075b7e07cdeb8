"""A handful of pictures of the screen as they should be; `python -m tests.test_pictures` makes them anew.

A picture is an SVG without a clock in it. What is compared is each piece of text with its place and colour, so that a
difference names the line that differs.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from app.studio import Studio
from makemore_core.command import Command
from makemore_core.snapshot import Event, Intervention
from tests import canned

FOLDER = Path(__file__).parent / "pictures"


class Still:
    """A run that has been told once and says nothing more."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = list(events)

    def drain(self) -> list[Event]:
        told, self.events = self.events, []
        return told

    def send(self, command: Command) -> None:
        """Nobody is there."""


PICTURES: dict[str, tuple[Sequence[Event], tuple[int, int], Sequence[str], bool]] = {
    "healthy-80x24": (canned.course(until=40_000), (80, 24), (), False),
    "sick-160x48": (canned.course(canned.SICK, until=40_000), (160, 48), (), False),
    "shrinking-ascii-80x24": (canned.course(canned.SHRINKING, until=40_000), (80, 24), (), True),
    "restarted-100x30": (
        [
            *canned.course(canned.SICK, until=20_000),
            *canned.course(until=15_000, attempt=1, interventions=(Intervention(0, "gain 3 → 1.667", 1),)),
        ],
        (100, 30), ("down", "down"), False,
    ),
    "hundred-40x12": ([canned.snapshot(canned.HUNDRED, 5000)], (40, 12), ("down",) * 9, False),
    "weights-100x30": (canned.course(canned.SICK, until=40_000), (100, 30), ("4",), False),
}  # fmt: skip


async def draw(name: str) -> str:
    """The picture, as an SVG."""
    events, size, keys, ascii_only = PICTURES[name]
    findings = (canned.FOUND,) if "sick" in name or "shrinking" in name else ()
    app = Studio(Still(events), ascii=ascii_only, light=False, clock=lambda: 0.0)
    examined = app.chart.examine
    app.chart.examine = lambda: examined()._replace(findings=findings)  # type: ignore[method-assign]
    async with app.run_test(size=size) as pilot:
        while app.history.snapshot is None:
            await pilot.pause()
        app.paint()
        await pilot.press(*keys)
        await pilot.pause()
        # rich names the styles by a sum over the whole picture, which would make every line differ
        return re.sub(r"terminal-\d+", "terminal", app.export_screenshot(title="makemore"))


def pieces(svg: str) -> list[tuple[str, str, str, str]]:
    """Every text of a picture: its place, its look, and itself."""
    looks = dict(re.findall(r"\.terminal-[\w-]*?(r\d+) \{([^}]*)\}", svg))
    found = re.findall(r'<text class="[\w-]*?(r\d+)" x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)</text>', svg)
    return [(y, x, looks.get(look, look), text) for look, x, y, text in found]


@pytest.mark.parametrize("name", PICTURES)
async def test_the_screen_looks_as_it_should(name: str) -> None:
    wanted = pieces((FOLDER / f"{name}.svg").read_text(encoding="utf-8"))
    assert len(wanted) > 10
    assert pieces(await draw(name)) == wanted


def main() -> None:
    """Write all pictures."""
    FOLDER.mkdir(exist_ok=True)
    for name in PICTURES:
        (FOLDER / f"{name}.svg").write_text(asyncio.run(draw(name)), encoding="utf-8")
        print(name, file=sys.stderr)


if __name__ == "__main__":
    main()
