"""The one table of keys: it makes the bindings, the footer and the help.

A feature adds a line here and a method `action_<name>` to the studio; a key whose feature is missing is not here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from textual.binding import Binding


class Key(NamedTuple):
    """What a key does. `shown` is how the key is written, `short` the footer's word (none: not in the footer).

    `rank` orders the footer, lowest first.
    """

    keys: tuple[str, ...]
    action: str
    shown: str
    help: str
    group: str
    short: str = ""
    rank: int = 50


KEYS: tuple[Key, ...] = (
    Key(("space",), "pause", "space", "pause, and go on, past the last step too", "train", "pause", 0),
    Key((".",), "step", ".", "one step, then pause", "train", "step", 40),
    Key(("<",), "pace(-1)", "<", "slow motion: 1,000, 100, 10, 1 steps a second", "train"),
    Key((">",), "pace(1)", ">", "faster again; beyond 1,000 as fast as it goes", "train", "pace", 44),
    Key(("n",), "sample", "n", "sample names from the model", "train", "names", 10),
    Key(("N",), "temperature", "N", "names at the next temperature: 0.5, 0.75, 1, 1.5, 2", "train"),
    Key(("r",), "restart", "r", "restart from the same seed", "train", "restart", 11),
    Key(("u",), "go_back(False)", "u", "undo a restart or a live change: back to the net before", "train"),
    Key(("U",), "go_back(True)", "U", "forth again to the net that u left", "train", "undo", 13),
    Key(("b",), "norm", "b", "BatchNorm on / off", "change", "BatchNorm", 1),
    Key(("g",), "gain(-1)", "g", "smaller gain of all weights but the last", "change"),
    Key(("G",), "gain(1)", "G", "larger gain: 0.1 0.2 0.5 1 1.5 5/3 2 3 5", "change", "gain", 2),
    Key(("-",), "lr(-1)", "-", "smaller lr (restarts only a diverged run)", "change"),
    Key(("+", "="), "lr(1)", "+", "larger lr (restarts only a diverged run)", "change", "lr", 3),
    Key(("f",), "fan_in", "f", "division by the root of fan-in on / off", "change", "fan-in", 12),
    Key(("a",), "nonlinearity", "a", "next nonlinearity", "change", "nonlinearity", 41),
    Key(("t",), "twin", "t", "a twin, both from the seed; again: ends it", "train", "twin", 25),
    Key(("L",), "live", "L", "changes restart the run, or are applied live", "change", "live", 42),
    Key(("p",), "freeze", "p", "freeze the view; training goes on", "look", "freeze", 20),
    Key(("/",), "filter", "/", "show only layers with some text in their name", "look", "filter", 30),
    Key(("y",), "log", "y", "logarithmic scale of the loss", "look", "log", 31),
    Key(("0",), "rescale", "0", "new scales, without the earlier curves", "look"),
    Key(("tab", "down", "j"), "move('down')", "tab down j", "next layer", "move"),
    Key(("shift+tab", "up", "k"), "move('up')", "up k", "previous layer", "move"),
    Key(("pagedown",), "move('pagedown')", "pgdn", "ten layers on", "move"),
    Key(("pageup",), "move('pageup')", "pgup", "ten layers back", "move"),
    Key(("home",), "move('home')", "home", "first layer", "move"),
    Key(("end",), "move('end')", "end", "last layer", "move"),
    Key(("l",), "turn(1)", "l right", "next screen; right, unless this one uses it", "move"),
    Key(("h",), "turn(-1)", "h left", "previous screen; left, likewise", "move"),
    Key(("right",), "arrow(1)", "right", "", "told with l"),
    Key(("left",), "arrow(-1)", "left", "", "told with h"),
    Key(("enter",), "enlarge", "enter", "enlarge the layer under the cursor", "move", "enlarge", 21),
    Key(("escape",), "back", "esc", "back: to the dashboard, or to what is explained", "move"),
    Key(("s",), "picture", "s", "save a picture of the screen (SVG)", "look", "picture", 43),
    Key(("d",), "detach", "d", "leave; the run stays, in the background", "look", "detach", 26),
    Key(("q", "ctrl+c", "ctrl+q"), "ask_quit", "q", "quit; asks what becomes of the run", "look", "quit", 5),
    Key(("ctrl+z",), "suspend_process", "ctrl-z", "to the shell, fg returns; a run trained here stops", "look"),
    Key(("1",), "screen('dashboard')", "1", "every layer in a row, loss, names, findings", "screens", "screens", 9),
    Key(("2",), "screen('layer')", "2", "the layer under the cursor, enlarged", "screens"),
    Key(("3",), "screen('gradients')", "3", "gradients through depth and time", "screens"),
    Key(("4",), "screen('weights')", "4", "every weight; update:data over time", "screens"),
    Key(("5",), "screen('dead-map')", "5", "dead units: units × examples", "screens"),
    Key(("6",), "screen('backward')", "6", "every gradient by hand against autograd", "screens"),
    Key(("7",), "screen('twin')", "7", "the twin beside this run, layer by layer", "screens"),
    Key(("8",), "screen('find-lr')", "8", "learning-rate finder; enter takes its suggestion", "screens"),
    Key(("B",), "screen('batchnorm')", "B", "BatchNorm looked into, with a slider", "screens"),
    Key(("i",), "screen('gain')", "i", "gain looked into: the spread through any depth", "screens"),
    Key(("P",), "screen('presets')", "P", "the lectures' experiments; enter starts one", "screens", "experiments", 24),
    Key(("D",), "screen('doctor')", "D", "the doctor's advice; enter applies it", "screens", "doctor", 22),
    Key(("e",), "explain", "e", "explain what is on the screen", "screens", "explain", 8),
    Key(("?", "9"), "screen('help')", "?", "this help", "screens", "help", 4),
)

GROUPS = (("train", "Training"), ("change", "The net"), ("move", "Moving"), ("look", "Looking"), ("screens", "Screens"))
CHANGING = ("train", "change")  # groups whose keys act on training: off in a read-only view

# Several keys of one thing, written as one in the footer.
PAIRS = {"screen('dashboard')": "1-8", "gain(1)": "g/G", "go_back(True)": "u/U", "lr(1)": "-/+", "pace(1)": "</>"}

# By the footer's words, in some states of a run: what is refused there, and what helps.
IDLE = {"diverged": ("pause", "step", "pace", "names", "freeze"), "finished": ("pace", "freeze")}
FIRST = {"diverged": ("undo", "restart", "doctor")}


def bindings() -> Iterator[Binding]:
    """One binding for every key of the table; they come before anything that has the focus."""
    for key in KEYS:
        for name in key.keys:
            yield Binding(name, key.action, key.help, show=False, priority=True)


def footer(readonly: bool, state: str = "") -> list[tuple[str, str]]:
    """(key, word) in the order in which they are given up on a narrow screen, the last first; none that does nothing
    in this state of the run.
    """
    idle, first = IDLE.get(state, ()), FIRST.get(state, ())
    chosen = sorted(
        (key for key in KEYS if key.short and key.short not in idle and not (readonly and key.group in CHANGING)),
        key=lambda key: (key.short not in first, key.rank),
    )
    return [(PAIRS.get(key.action, key.shown), key.short) for key in chosen]
