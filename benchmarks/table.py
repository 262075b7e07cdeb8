"""Writes the figures of `makemore bench --json`, read from stdin, into the table of this folder's README."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec

from makemore_core.figures import Figure, Report

README = Path(__file__).with_name("README.md")
START, END = "<!-- figures -->\n", "<!-- end -->"


def table(report: Report) -> str:
    """The report as Markdown."""
    about = ", ".join(f"{key} {value}" for key, value in report.machine.items())
    lines = [f"{time.strftime('%Y-%m-%d')}: {about}.", ""]
    lines += ["| figure | median | quartiles | demand | moonshot | |", "|---|---|---|---|---|---|"]
    lines += [line(figure) for figure in report.figures]
    return "\n".join([*lines, "", *(f"Not measured: {note}." for note in report.notes), ""])


def line(figure: Figure) -> str:
    """One row."""
    unit = "×" if figure.unit == "ratio" else f" {figure.unit}"
    sign = "≤" if figure.asked and figure.asked.at_most else "≥"
    asked = (f"{sign} {figure.asked.demand:g}", f"{sign} {figure.asked.moonshot:g}") if figure.asked else ("", "")
    cells = [figure.name, f"{figure.value:.3g}{unit}", f"{figure.low:.3g}–{figure.high:.3g}", *asked, figure.verdict]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Replace what stands between the two marks."""
    report = msgspec.json.decode(sys.stdin.buffer.read(), type=Report)
    text = README.read_text()
    before, _, rest = text.partition(START)
    README.write_text(before + START + table(report) + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
