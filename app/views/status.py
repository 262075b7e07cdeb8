"""The lines that every screen has: status above, message and keys below, and the question box."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from app import glyphs as glyph
from app.keys import footer
from app.views.lines import Line, Span, cells_of, cut, ends, fit
from app.views.state import View
from makemore_core.config import Value, shown
from makemore_core.doctor import GAINS, LIMITS
from makemore_core.presets import goes_by
from makemore_core.snapshot import Snapshot, gist

WORDS = {
    "running": ("training", "good"), "paused": ("paused", "note"), "finished": ("finished", "good"),
    "stopped": ("stopped", "note"), "crashed": ("crashed", "sick"), "diverged": ("diverged", "sick"),
    "unresponsive": ("lost", "sick"),
}  # fmt: skip

NORMS = {"batch": ("BatchNorm", "BN"), "layer": ("LayerNorm", "LN"), "group": ("GroupNorm", "GN")}
TOLD = ("norm", "gain", "fan_in", "lr")  # settings that the header always tells, changed or not
ENLARGES = ("dashboard", "gradients", "weights", "twin")  # screens on which enter does
TEXTS = ("explain", "doctor", "help")  # screens whose key, pressed again, leads back
RUNNING = len("  9,990/s  eta 0:30 training")  # cells behind the step while training runs


def state_word(view: View) -> tuple[str, str]:
    """One word of state, and its style."""
    if view.lost:
        return "lost", "sick"
    if view.history.snapshot is None:
        return "starting", "note"
    word, style = WORDS.get(view.history.snapshot.state, (view.history.snapshot.state, "note"))
    if view.frozen:
        return "view frozen" if word == "training" else f"frozen, {word}", "note"
    return word, style


def loss_number(value: float | None, places: int = 3) -> str:
    """A loss in steady digits, or the word for what it is."""
    if value is None:
        return "-"
    return glyph.word(value) or (f"{value:.{places}f}" if abs(value) < 1000 else glyph.scientific(value))


def loss_span(value: float | None, expected: float | None, style: str, places: int = 3) -> Span:
    """A loss in its style, or as what is sick, with the sign of that: no number, or clearly above the uniform guess."""
    most = math.inf if expected is None else expected + LIMITS["risen"]
    sick = value is not None and not (math.isfinite(value) and value <= most)
    return ("!" * sick + loss_number(value, places), "sick" if sick else style)


def _smoothed(snapshot: Snapshot, style: str = "loss") -> Span:
    return loss_span(snapshot.smoothed_loss, snapshot.expected_loss, style)


def _of_minibatch(snapshot: Snapshot, style: str = "", places: int = 4) -> Span:
    """The loss that the last minibatch had before its update."""
    return loss_span(snapshot.loss, snapshot.expected_loss, style, places)


def status(view: View, cells: int, rows: int) -> list[Line]:
    """One or two lines: what runs, how far, how fast, how well; the word of state always at the right end."""
    snapshot = view.history.snapshot
    word, style = state_word(view)
    badge: Line = [(" ", ""), (word, style)]
    if snapshot is None:
        return [ends([(view.run, "title"), (f"  {view.waiting}", "dim")], badge, cells, view.glyphs)][:rows]
    if rows == 1:
        return [_one_line(view, snapshot, badge, cells)]
    return [_first(view, snapshot, badge, cells), _second(view, snapshot, cells)]


def _eta(view: View, snapshot: Snapshot) -> str:
    left = snapshot.steps - snapshot.step
    rate = view.history.rate
    if snapshot.state != "running" or left <= 0:
        return ""
    return glyph.duration(left / rate) if rate > 0 else "?"


def _one_line(view: View, snapshot: Snapshot, badge: Line, cells: int) -> Line:
    if cells >= 100:
        told = [("  ", ""), *(span for fact in _facts(view, snapshot, cells // 2) for span in (*fact, ("  ", "")))]
        return [*_first(view, snapshot, [], cells - cells_of(told) - cells_of(badge)), *told, *badge]
    name = glyph.clip(glyph.escape(snapshot.run, ascii=view.glyphs.ascii), 14 if cells > 44 else 9, view.glyphs)
    left: Line = [
        (name, "title"),
        (f" {snapshot.step:,}", ""),
        (" loss ", "dim"),
        _smoothed(snapshot),
    ]
    if cells < 34:
        left = [(f" {glyph.short(snapshot.step)} ", ""), left[-1]] if cells < 26 else left[1:]
    return ends(left, badge, cells, view.glyphs)


def _first(view: View, snapshot: Snapshot, badge: Line, cells: int) -> Line:
    g = view.glyphs
    where = glyph.escape(" ".join(filter(None, (snapshot.device, snapshot.engine))), ascii=g.ascii)
    rate, eta = f"{glyph.rate(view.history.rate)}/s", _eta(view, snapshot)
    steps = f"{snapshot.step:,}"
    if snapshot.steps:
        steps += f"/{snapshot.steps:,}"
    middle: Line = [("step ", "dim"), (steps, "")]
    if snapshot.state in ("running", "finished") and view.history.rate > 0:
        middle += [("  ", ""), (rate, "")]
    if snapshot.pace is not None and snapshot.state in ("running", "paused"):
        middle.append((" held", "note") if snapshot.state == "running" else (f"  held to {snapshot.pace:g}/s", "note"))
    if eta:
        middle += [("  eta ", "dim"), (eta, "")]
    # as much is kept free in a pause as rate and eta take, so that going on moves nothing
    kept = len(f"step {steps}") + RUNNING if snapshot.state in ("running", "paused") else 0
    room = cells - 2 - max(cells_of(middle) + cells_of(badge), kept)
    run = glyph.escape(snapshot.run, ascii=g.ascii)
    preset, other = goes_by(snapshot.preset, snapshot.config)
    preset = glyph.escape(preset, ascii=g.ascii)
    # `deep-tanh-3` tells the preset too
    needed = "" if preset in (run, run.rstrip("0123456789")[:-1]) else preset
    full, short, shortest = _net(snapshot.config, g)
    more = [one for one in other if not full or one.split()[0] not in TOLD]
    changed, count = glyph.escape(", ".join(more), ascii=g.ascii), f"{len(other)} changed" if other else ""
    ours = preset == snapshot.preset  # the experiment that it began as
    tries: list[tuple[str, ...]] = [(run, preset, full, changed, where)]
    tries += [(run, needed, *told) for told in ((full, changed, where), (full, changed), (short, changed))]
    tries += [(run, needed, shortest, changed)]
    if not other:
        tries += [(run, needed)] if ours else [(run, needed), (preset + "*", short), (preset + "*", shortest)]
    elif ours:
        tries += [(run, full, changed), (run, shortest, changed)]
    tries += [(run, short), (run, shortest)] if short else [(run, needed, count, where), (run, needed, count)]
    if count:
        tries += [(run, changed or full if ours or not needed else count), (run, count)]
    tries += [(run,), (glyph.clip(run, max(0, room - 2), g) if room > 8 else "",)]
    left: Line = []
    for parts in tries:
        told = [part for part in dict.fromkeys(parts) if part]
        most = told.index(preset) if preset in told else 0
        if told[:1] == [run] and preset not in told and (other or not ours):
            told[0] += "*"
        left = [(part + "  ", "title" if at == most else "dim") for at, part in enumerate(told)]
        if cells_of(left) <= room:
            break
    left = fit(left, room + 2, g) if cells_of(left) < room + 2 and cells >= 100 else left
    return ends([*left, *middle], badge, cells, g)


def _net(config: Mapping[str, Value], g: glyph.Glyphs) -> tuple[str, str, str]:
    """What no row of the table tells of a net, longer and shorter: its norm, its gain, and where fan-in is not divided
    by; empty for a net of other settings than ours.
    """
    gain, kind = config.get("gain"), str(config.get("nonlinearity"))
    if gain is None:
        return "", "", ""
    factor = glyph.escape(shown(GAINS.get(kind, 1.0) if gain == "auto" else gain), ascii=g.ascii)
    norm = NORMS.get(str(config.get("norm")), ("no norm", "no BN"))
    fan_in = "fan-in off" if config.get("fan_in") == "off" else ""
    gain_of = f"gain {factor}"
    short, shortest = (" ".join(filter(None, (norm[1], text, fan_in))) for text in (gain_of, f"{g.times}{factor}"))
    return ", ".join(filter(None, (norm[0], gain_of, fan_in))), short, shortest


def _facts(view: View, snapshot: Snapshot, cells: int) -> list[Line]:
    """The losses and what else is worth a word, as many as fit."""
    splits, twin = snapshot.splits, snapshot.twin
    facts: list[Line] = [[("loss ", "dim"), _smoothed(snapshot)]]
    if snapshot.step == 1:  # the net as initialised: what comes behind is of the net after its first update
        facts = [[("first loss ", "dim"), _of_minibatch(snapshot, "loss")]]
    if twin is not None:
        facts.append([("twin ", "dim"), _of_minibatch(twin, "twin") if twin.step == 1 else _smoothed(twin, "twin")])
    if cells >= 110 and splits is not None and splits.train is not None:
        facts.append([("train ", "dim"), loss_span(splits.train, snapshot.expected_loss, "")])
    if splits is not None and splits.val is not None:
        val = loss_span(splits.val, snapshot.expected_loss, "val")
        facts.append([("val ", "dim"), val, (f" at {glyph.short(splits.step):<5}", "dim")])
    if snapshot.expected_loss is not None:
        facts.append([("ln V ", "dim"), (loss_number(snapshot.expected_loss), "expected")])
    if snapshot.lr is not None:
        facts.append([("lr ", "dim"), (f"{snapshot.lr:.4g}", "")])
    if cells >= 150:
        if snapshot.params:
            facts.append([(f"{snapshot.params:,}", ""), (" parameters", "dim")])
        if snapshot.attempt:
            facts.append([("attempt ", "dim"), (str(snapshot.attempt), "")])
    if snapshot.state == "paused" and snapshot.step > 1:  # where single steps are taken
        facts.append([("batch ", "dim"), _of_minibatch(snapshot)])
        if twin is not None:
            facts[-1] += [(", ", "dim"), _of_minibatch(twin, "twin")]
    if snapshot.state == "running":  # behind what stays
        share = glyph.percent(snapshot.overhead).strip()
        facts.append([("probes ", "dim"), (share, ""), (_seen_at(view, snapshot), "dim")])
        if cells >= 150:
            facts.append([("batch ", "dim"), _of_minibatch(snapshot, places=3)])
    last = snapshot.state == "paused" and twin is not None  # the batch's stay: what else would a step show of the two
    while sum(cells_of(fact) + 2 for fact in facts) > cells - 8 and len(facts) > 1:
        facts.pop(-2 if last and len(facts) > 3 else -1)
    return facts


def _second(view: View, snapshot: Snapshot, cells: int) -> Line:
    """How far, in a share of the width that no figure changes while there is room for all, and the losses."""
    g = view.glyphs
    told: Line = [span for fact in _facts(view, snapshot, cells) for span in [("  ", ""), *fact]]
    room = max(0, min(cells // 7, cells - cells_of(told)))
    done, left = glyph.progress(snapshot.step / snapshot.steps if snapshot.steps else 0.0, room, g)
    return fit([(done, "progress"), (left, "faint"), *told], cells, g)


def _seen_at(view: View, snapshot: Snapshot) -> str:
    """At what step the layers were looked at, where that is some seconds ago."""
    at = snapshot.layers_step
    behind = snapshot.state == "running" and at is not None and snapshot.step - at > 3 * max(1.0, view.history.rate)
    return f" at {glyph.short(at or 0)}" if behind else ""


def keys_line(view: View, cells: int) -> Line:
    """The keys, as many as fit whole."""
    if view.prompt in ("filter", "twin"):
        asked, typed, keys = (
            ("filter: ", view.filter, "enter keeps it, esc clears it")
            if view.prompt == "filter"
            else ("twin with ", view.typed, "enter: both from the seed, esc: no; key=value or preset")
        )
        text = glyph.escape(typed, ascii=view.glyphs.ascii)
        return fit([(asked, "title"), (text, ""), ("_", "cursor"), (f"   {keys}", "dim")], cells, view.glyphs)
    line: Line = []
    used = 0
    state = view.history.snapshot.state if view.history.snapshot else ""
    table = footer(not view.obeyed, state)
    if view.readonly:
        line.append(("read only  ", "note"))
        used = 11
    must = [(key, short) for key, short in table if short in ("help", "quit")]
    reserve = sum(len(key) + len(short) + 3 for key, short in must)
    for key, short in [*(pair for pair in table if pair not in must), *must]:
        text = "go on" if short == "pause" and state in ("paused", "finished") else short
        text = "back" if short == view.screen and short in TEXTS else text
        size = len(key) + 1 + len(text)
        if (key, short) in must:
            reserve = 0
        if used + size + reserve > cells or (short == "enlarge" and view.screen not in ENLARGES):
            continue
        line += [(key, "key"), (f" {text}  ", "dim")]
        used += size + 2
    if line and line[-1][0].endswith("  "):
        line[-1] = (line[-1][0].rstrip(), line[-1][1])
    return fit(line, cells, view.glyphs)


def message_line(view: View, cells: int) -> Line:
    """What the last key did, or what the trainer has to say."""
    text = view.message
    style = view.message_style
    snapshot = view.history.snapshot
    if not text and snapshot is not None and (snapshot.answered, gist(snapshot.message)) != view.told:
        text = snapshot.message
        style = "note"
    return fit([(glyph.escape(view.glyphs.text(text), ascii=view.glyphs.ascii), style)], cells, view.glyphs)


def ask(view: View, lines: Sequence[Line], cells: int, rows: int) -> list[Line]:
    """The screen with the question in a box over its middle."""
    g = view.glyphs
    words: list[Line] = [[(view.question, "title")], []]
    words += [[(f" {key:<6}", "key"), (what, "")] for key, what in view.choices]
    inner = min(max(cells_of(word) for word in words) + 2, cells - 2)
    corners = g.box
    box: list[Line] = [[(corners[0] + corners[1] * inner + corners[2], "title")]]
    box += [[(corners[3], "title"), (" ", ""), *fit(word, inner - 1, g), (corners[3], "title")] for word in words]
    box.append([(corners[4] + corners[1] * inner + corners[5], "title")])
    if len(box) > rows or inner < 4:
        box = [fit(word, cells, g) for word in words if word][:rows]
        return [*box, *lines[len(box) :]]
    top, left = (rows - len(box)) // 2, (cells - inner - 2) // 2
    out = list(lines)
    for at, part in enumerate(box, top):
        before, behind = cut(lines[at], 0, left), cut(lines[at], left + inner + 2, cells)
        out[at] = [*before, *part, *behind]
    return out
