"""The doctor's list: what is wrong, the evidence, why it matters, what to try; `enter` tries it."""

from __future__ import annotations

from dataclasses import replace

from app import glyphs as glyph
from app.views.lines import Line, block, heading
from app.views.state import Pressed, View, chosen, hint, keep, listed, style_of
from makemore_core.command import Set, in_words
from makemore_core.doctor import Finding, judged


def press(view: View, key: str) -> Pressed | None:
    """Up and down choose a finding, `enter` applies what it suggests."""
    found = view.findings
    if key in ("up", "down") and found:
        at = (chosen(view, "doctor_row") + (1 if key == "down" else -1)) % len(found)
        return Pressed(keep(view, doctor_row=at))
    if key == "enter":
        one = _selected(view, found) if found else None
        return Pressed(view, Set(one.fix, fresh=one.fresh) if one and one.fix else None)
    return None


def examined(view: View, found: tuple[Finding, ...]) -> View:
    """The view with new findings; while they are looked at, the one under the cursor stays there if it is found."""
    names = [finding.name for finding in found]
    if view.screen == "doctor" and view.findings and (name := _selected(view, view.findings).name) in names:
        view = keep(view, doctor_row=names.index(name))
    return replace(view, findings=found)


def _selected(view: View, found: tuple[Finding, ...]) -> Finding:
    return found[min(chosen(view, "doctor_row"), len(found) - 1)]


def draw(view: View, width: int, height: int) -> list[Line]:
    """The findings, the gravest first, and all about the one under the cursor."""
    g = view.glyphs
    found = view.findings
    count = f"{len(found)} finding{'s' * (len(found) != 1)}" if found else ""
    lines: list[Line] = [heading("doctor", count, width, g)]
    if not found:
        seen, unseen = judged(view.history.snapshot)
        well = f"nothing to report; within their limits: {', '.join(seen)}"
        told = [(well, "good") if seen else ("nothing seen yet", "dim")]
        told += [("the twin is not judged", "dim")] if view.history.twin else []
        told += [(f"not judged yet: {', '.join(unseen)}", "dim")] if unseen else []
        lines += [[(" " + line, style)] for words, style in told for line in glyph.wrap(words, width - 2)]
    else:
        chosen_one = _selected(view, found)
        room = height - 2  # but for the heading and the keys
        about = _all_about(chosen_one, view, width, room - min(len(found), 3))

        def row(at: int) -> list[Line]:
            here = found[at] is chosen_one
            title = glyph.escape(found[at].what, ascii=g.ascii)
            return [[(f"{g.cursor if here else ' '}!{title}", "cursor" if here else style_of(found[at]))]]

        lines += listed(len(found), found.index(chosen_one), max(1, room - len(about)), row, g)
        lines += [[]] * (len(lines) + len(about) < height - 1)
        lines += about
    lines = block(lines, width, height - 1, g)
    tries = "enter tries it  " if view.obeyed else ""
    words = f"↑↓ finding  {tries}e explains  esc back" if found else "e explains the screen  esc back"
    return [*lines, *block([hint(words, view)], width, 1, g)]


def _all_about(finding: Finding, view: View, width: int, room: int) -> list[Line]:
    """In so many lines; where they are too few, what `enter` does and what to try come before the reasons."""
    snapshot = view.history.snapshot
    change = in_words(Set(finding.fix), snapshot.config if snapshot else None) if finding.fix else "nothing to press"
    change += ", from the seed" if finding.fix and finding.fresh else ""
    rows = [
        ("seen", finding.evidence, style_of(finding)),
        ("why", finding.why, ""),
        ("try", finding.suggestion, "good"),
    ]
    rows += [("enter", change, "note")] if view.obeyed else []
    parts: dict[str, list[Line]] = {}
    for label, words, style in rows:
        texts = glyph.wrap(glyph.escape(words), max(10, width - 9))
        labels = [label, *[""] * (len(texts) - 1)]
        parts[label] = [
            [(f" {name:6s} ", "axis"), (view.glyphs.text(text), style)]
            for name, text in zip(labels, texts, strict=True)
        ]
    for label in ("why", "seen"):
        if sum(map(len, parts.values())) > room:
            del parts[label]
    return [line for lines in parts.values() for line in lines]
