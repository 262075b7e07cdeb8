"""The help: every key from the one table, the screens, and what each column and number means."""

from __future__ import annotations

from collections.abc import Sequence

from app import glyphs as glyph
from app.history import SMOOTHING, STDS
from app.keys import CHANGING, GROUPS, KEYS
from app.views.lines import Line, beside, heading
from app.views.state import GRADIENT_WITHIN, View
from makemore_core.doctor import LIMITS
from makemore_core.snapshot import FLAT, SATURATED, SMOOTHED

NOTES = {"train": "told here, not done", "change": "told here, not done", "screens": "the same key again leads back"}
KEYS_WIDE = 12 + max(len(key.help) for key in KEYS)  # cells

LEGEND: dict[str, str] = {
    "activation": "histogram of a module's outputs for one minibatch; -1..1 for tanh and the like, else the "
    "scale in the head, the same in every row",
    "mean, std": "of those outputs",
    "sat.": f"share of outputs with |a| > {SATURATED:g}, where tanh lets hardly any gradient through; "
    "for relu-like units the share that is off",
    "dead": f"units flat (|a| > {FLAT:g}, or off) for all of the training split, at the last check",
    "gradient": f"histogram of the loss's derivative by those outputs; the scale is up to {STDS} stds "
    "of the median layer, what lies outside is in the edge bars, grey",
    "std": "behind the gradient: its standard deviation",
    "g:d": "grad:data, std of a weight's gradient / std of the weight, after the update",
    "update:data": "log10(std of the last change of a weight / std of the weight), over the run, on the "
    "scale -5..-1; near -3 is a good pace",
    "! and colour": f"more saturated than {LIMITS['saturated_at_start']:.0%} from the start, "
    f"{LIMITS['saturated']:.0%} later, {LIMITS['off']:.0%} if relu-like; std not {LIMITS['shrink_at_start']:g} to "
    f"{LIMITS['grow_at_start']:g} times the first layer's from the start, {LIMITS['shrink']:g} to {LIMITS['grow']:g} "
    f"later; gradient std not within {GRADIENT_WITHIN:g} times the median layer's; update:data, from step "
    f"{LIMITS['updates_after']:g} on, not from {LIMITS['updates_small']:g} to {LIMITS['updates_large']:g} (the last "
    f"layer's {LIMITS['last_layer']:g} more); no finite number",
    "loss": f"of minibatches: the mean of some {SMOOTHED} steps; in the curve minimum and maximum too, and validation "
    "as points; batch: of one, before its update",
    "ln V": "loss of the uniform guess over V symbols: what the first loss should be",
    "probes": "share of the time for looking, held to --budget (3 %) after the first look",
    "smoothing": f"bars and numbers are means of {SMOOTHING:g} seconds; paused, of the last update; "
    "lines are dotted where looks are far apart",
    "*": "behind the name above: another experiment by now, or other settings (P)",
    "BN ×5/3": "there: BatchNorm, gain 5/3, where the words have no room",
    "grey curves": "earlier attempts; each restart, live change, u and U begins one",
    "L": "a change of the net restarts from the seed, or with L goes to the live weights where "
    "that can be; lr restarts only a diverged run",
}


def text(view: View, width: int) -> list[Line]:
    """Keys beside the legend where there is room, the screens below the shorter of them, below each other where not."""
    if width >= 126:
        left, right = keys(view, KEYS_WIDE, GROUPS[:-1]), legend(view, width - KEYS_WIDE - 2)
        below = left if len(left) < len(right) else right
        below += keys(view, KEYS_WIDE if below is left else width - KEYS_WIDE - 2, GROUPS[-1:])
        return beside(left, right, KEYS_WIDE, width, view.glyphs)
    return [*keys(view, width), [], *legend(view, width)]


def keys(view: View, width: int, groups: Sequence[tuple[str, str]] = GROUPS) -> list[Line]:
    """The table of keys by group."""
    g = view.glyphs
    lines: list[Line] = []
    for group, title in groups:
        off = view.readonly and group in CHANGING
        note = "off: read only" if off else NOTES.get(group, "")
        lines.append(heading(title, note, width, g))
        for key in KEYS:
            if key.group == group:
                lines.append([(f" {key.shown:<11}", "dim" if off else "key"), (g.text(key.help), "dim" if off else "")])
    return lines


def legend(view: View, width: int) -> list[Line]:
    """What is what."""
    g = view.glyphs
    lines: list[Line] = [heading("What is shown", "", width, g)]
    for name, text in LEGEND.items():
        first, *rest = glyph.wrap(text, width - 15)
        lines.append([(f" {name:<13}", "title"), (g.text(first), "")])
        lines += [[(" " * 14, ""), (g.text(line), "")] for line in rest]
    return lines
