"""The doctor's list: what is wrong, the evidence, why it matters, what to try; `enter` tries it."""

from __future__ import annotations

from dataclasses import replace

from app import glyphs as glyph
from app.views.lines import Line, Span, block, cells_of, fit, heading
from app.views.state import Pressed, View, chosen, hint, keep, listed, style_of
from makemore_core.command import Set, in_words
from makemore_core.config import keeps_weights
from makemore_core.doctor import Check, Examination, Finding


def press(view: View, key: str) -> Pressed | None:
    """Up and down choose a finding, `enter` applies what it suggests."""
    found = view.findings
    if key in ("up", "down") and found:
        at = (found.index(_selected(view, found)) + (1 if key == "down" else -1)) % len(found)
        return Pressed(keep(view, doctor_row=at))
    if key == "enter":
        one = _selected(view, found) if found else None
        return Pressed(view, Set(one.fix, fresh=one.fresh) if one and one.fix else None)
    return None


def examined(view: View, run: Examination, twin: Examination | None = None) -> View:
    """The view with what is to be said now; the finding under the cursor stays there if it is found again."""
    names = [finding.name for finding in run.findings]
    if view.screen == "doctor" and view.findings and (name := _selected(view, view.findings).name) in names:
        view = keep(view, doctor_row=names.index(name))
    return replace(view, findings=run.findings, checks=run.checks, twin_checks=twin.checks if twin else ())


def _selected(view: View, found: tuple[Finding, ...]) -> Finding:
    return found[min(chosen(view, "doctor_row"), len(found) - 1)]


def draw(view: View, width: int, height: int) -> list[Line]:
    """The findings, the gravest first, and all about the one under the cursor."""
    g = view.glyphs
    found = view.findings
    count = f"{len(found)} finding{'s' * (len(found) != 1)}" if found else ""
    lines: list[Line] = [heading("doctor", count, width, g)]
    if not found:
        lines += [all_well(view), [], *_checks(view, width)]
    else:
        chosen_one = _selected(view, found)
        room = height - 2  # but for the heading and the keys
        about = _all_about(chosen_one, view, width, room - min(len(found), 3))

        def row(at: int) -> list[Line]:
            here = found[at] is chosen_one
            title = glyph.escape(g.text(found[at].what), ascii=g.ascii)
            return [[(f"{g.cursor if here else ' '}!{title}", "cursor" if here else style_of(found[at]))]]

        lines += listed(len(found), found.index(chosen_one), max(1, room - len(about)), row, g)
        checks = _checks(view, width)
        if len(lines) + len(checks) + len(about) > height - 2:
            fine = ", ".join(check.name for check in view.checks if check.seen and not check.found)
            checks = [[(" " + line, "dim")] for line in glyph.wrap(f"within their limits: {fine}", width - 2) if fine]
        if len(lines) + len(checks) + len(about) <= height - 2:
            lines += [[], *checks]
        lines += [[]] * (len(lines) + len(about) < height - 1)
        lines += about
    lines = block(lines, width, height - 1, g)
    tries = "enter tries it  " if view.obeyed else ""
    words = f"↑↓ finding  {tries}e explains  esc back" if found else "e explains the screen  esc back"
    return [*lines, *block([hint(words, view)], width, 1, g)]


def all_well(view: View) -> Line:
    """What is said where nothing was found."""
    if not any(check.seen for check in view.checks):
        return [(" nothing seen yet", "dim")]
    so_far = "" if all(check.seen for check in view.checks) else " so far"
    twin = any(check.found for check in view.twin_checks)
    return [(f" nothing to report{so_far}", "good"), (" of the run; of its twin there is" if twin else "", "sick")]


def _checks(view: View, width: int) -> list[Line]:
    """Everything that is looked at, in columns; where there is no room for the twin's, what is wrong with it below."""
    g = view.glyphs
    lines = _in_columns(_table(view, with_twin=bool(view.twin_checks)), g)
    if max(map(cells_of, lines)) <= width or not view.twin_checks:
        return lines
    wrong = "; ".join(f"{check.name} {check.seen}" for check in view.twin_checks if check.found)
    words, style = (f"!twin: {wrong}", "sick") if wrong else ("twin: nothing to report", "dim")
    told: list[Line] = [
        [(" " + line, style)] for line in glyph.wrap(glyph.escape(g.text(words), ascii=g.ascii), width - 1)
    ]
    return [*_in_columns(_table(view, with_twin=False), g), *told]


def _in_columns(rows: list[Line], g: glyph.Glyphs) -> list[Line]:
    """The same, every cell as wide as its column and a gap."""
    rows = [[(glyph.escape(g.text(text), ascii=g.ascii), style) for text, style in row] for row in rows]
    widths = [max(glyph.width_of(text) for text, _ in column) for column in zip(*rows, strict=True)]
    gap: Span = ("  ", "")
    return [
        [part for cell, cells in zip(row, widths, strict=True) for part in (*fit([cell], cells, g), gap)][:-1]
        for row in rows
    ]


def _table(view: View, *, with_twin: bool) -> list[Line]:
    """Names, what is seen, in the twin too, and the limit; `!` is wrong."""
    none = Check(name="", seen=" ", limit="")
    runs, twins = ({check.name: check for check in checks} for checks in (view.checks, view.twin_checks))
    rows: list[Line] = [[("  looked at", "axis"), ("seen", "axis"), (" twin", "axis"), ("limit", "axis")]]
    for name in {**runs, **twins} if with_twin else runs:
        run, twin = runs.get(name, none), twins.get(name, none)
        mark, style = _mark(twin)
        in_twin = mark + (twin.seen or "not judged yet"), style
        limit = run.limit or twin.limit
        if with_twin and twin.limit not in ("", limit):
            limit += f", twin {twin.limit}"
        mark, style = _mark(run)
        rows.append([(f" {mark}{name}", style), (run.seen or "not judged yet", style), in_twin, (limit, "dim")])
    return rows if with_twin else [[*row[:2], row[3]] for row in rows]


def _mark(check: Check) -> Span:
    return ("!", "sick") if check.found else (" ", "" if check.seen else "dim")


def _all_about(finding: Finding, view: View, width: int, room: int) -> list[Line]:
    """In so many lines; where they are too few, what `enter` does and what to try come before the reasons."""
    snapshot = view.history.snapshot
    change = in_words(Set(finding.fix), snapshot.config if snapshot else None) if finding.fix else "nothing to press"
    if finding.fix and (finding.fresh or not keeps_weights(finding.fix, view.live)):
        change += ", from the seed"
    rows = [
        ("seen", finding.evidence, style_of(finding)),
        ("why", finding.why, ""),
        ("try", finding.suggestion, "good"),
    ]
    rows += [("enter", change, "note")] if view.obeyed else []
    parts: dict[str, list[Line]] = {}
    g = view.glyphs
    for label, words, style in rows:
        texts = glyph.wrap(glyph.escape(g.text(words), ascii=g.ascii), max(10, width - 9))
        labels = [label, *[""] * (len(texts) - 1)]
        parts[label] = [[(f" {name:6s} ", "axis"), (text, style)] for name, text in zip(labels, texts, strict=True)]
    for label in ("why", "seen"):
        if sum(map(len, parts.values())) > room:
            del parts[label]
    return [line for lines in parts.values() for line in lines]
