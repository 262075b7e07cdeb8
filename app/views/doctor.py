"""The doctor's list: what is wrong, the evidence, why it matters, what to try; `enter` tries it."""

from __future__ import annotations

from app import glyphs as glyph
from app.views.answers import chosen, hint, keep
from app.views.lines import Line, block, heading
from app.views.state import Pressed, View
from makemore_core.command import Set, say
from makemore_core.doctor import Finding


def press(view: View, key: str) -> Pressed | None:
    """Up and down choose a finding, `enter` applies what it suggests."""
    found = view.findings or ()
    if key in ("up", "down") and found:
        at = (chosen(view, "doctor_row") + (1 if key == "down" else -1)) % len(found)
        return Pressed(keep(view, doctor_row=at))
    if key == "enter":
        fix = _selected(view, found).fix if found else None
        return Pressed(view, Set(fix) if fix else None)
    return None


def _selected(view: View, found: tuple[Finding, ...]) -> Finding:
    return found[min(chosen(view, "doctor_row"), len(found) - 1)]


def draw(view: View, width: int, height: int) -> list[Line]:
    """The findings, the gravest first, and all about the one under the cursor."""
    g = view.glyphs
    found = view.findings or ()
    count = f"{len(found)} finding{'s' * (len(found) != 1)}" if found else ""
    lines: list[Line] = [heading("doctor", count, width, g)]
    if view.findings is None:
        lines.append([(" no doctor at hand", "dim")])
    elif not found:
        words = "nothing to report: the first loss, saturation, spread and gradients through the depth, update:data, "
        words += "dead units and BatchNorm's statistics are within their limits"
        lines += [[(" " + line, "good")] for line in glyph.wrap(words, width - 2)]
    else:
        chosen_one = _selected(view, found)
        for finding in found:
            here = finding is chosen_one
            mark = g.cursor if here else " "
            title = glyph.escape(finding.what, ascii=g.ascii)
            lines.append([(f"{mark}!{title}", "cursor" if here else "sick")])
        lines.append([])
        lines += _all_about(chosen_one, view, width)
    lines = block(lines, width, height - 1, g)
    words = "↑↓ finding  enter tries it  e explains  esc back" if found else "e explains the screen  esc back"
    return [*lines, *block([hint(words, view)], width, 1, g)]


def _all_about(finding: Finding, view: View, width: int) -> list[Line]:
    snapshot = view.history.snapshot
    change = say(Set(finding.fix), snapshot.config if snapshot else None) if finding.fix else "nothing to press"
    rows = (
        ("seen", finding.evidence, "sick"), ("why", finding.why, ""), ("try", finding.suggestion, "good"),
        ("enter", change, "note"),
    )  # fmt: skip
    lines: list[Line] = []
    for label, words, style in rows:
        for at, text in enumerate(glyph.wrap(glyph.escape(words), max(10, width - 9))):
            lines.append([(f" {label if at == 0 else '':6s} ", "axis"), (view.glyphs.text(text), style)])
    return lines
