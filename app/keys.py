"""The one table of keys: it makes the bindings, the footer and the help.

A feature adds a line here and a method `action_<name>` to the studio; a key whose feature is missing is not here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from textual.binding import Binding


class Key(NamedTuple):
    """What a key does. `shown` is how the key is written, `short` the footer's word (none: not in the footer).

    `changes`: it acts on training, so that it is off in a read-only view. `rank` orders the footer, lowest first.
    """

    keys: tuple[str, ...]
    action: str
    shown: str
    help: str
    short: str = ""
    group: str = "look"
    changes: bool = False
    rank: int = 50


KEYS: tuple[Key, ...] = (
    Key(("space",), "pause", "space", "pause, and go on, past the last step too", "pause", "train", True, 0),
    Key((".",), "step", ".", "one step, then pause", "step", "train", True, 40),
    Key(("<",), "pace(-1)", "<", "slow motion: 1,000, 100, 10, 1 steps a second", "", "train", True),
    Key((">",), "pace(1)", ">", "faster again; beyond 1,000 as fast as it goes", "pace", "train", True, 44),
    Key(("n",), "sample", "n", "sample names from the model", "names", "train", True, 10),
    Key(("N",), "temperature", "N", "names at the next temperature: 0.5, 0.75, 1, 1.5, 2", "", "train", True),
    Key(("r",), "restart", "r", "restart from the same seed", "restart", "train", True, 11),
    Key(("b",), "norm", "b", "BatchNorm on / off", "BatchNorm", "change", True, 1),
    Key(("g",), "gain(-1)", "g", "smaller gain of the hidden weights", "", "change", True),
    Key(("G",), "gain(1)", "G", "larger gain: 0.1 0.2 0.5 1 1.5 5/3 2 3 5", "gain", "change", True, 2),
    Key(("-",), "lr(-1)", "-", "smaller lr (restarts only a diverged run)", "", "change", True),
    Key(("+", "="), "lr(1)", "+", "larger lr (restarts only a diverged run)", "lr", "change", True, 3),
    Key(("f",), "fan_in", "f", "division by the root of fan-in on / off", "fan-in", "change", True, 12),
    Key(("a",), "nonlinearity", "a", "next nonlinearity", "nonlinearity", "change", True, 41),
    Key(("t",), "twin", "t", "a twin with another setting; again: ends it", "twin", "train", True, 25),
    Key(("L",), "live", "L", "changes restart the run, or are applied live", "live", "change", True, 42),
    Key(("p",), "freeze", "p", "freeze the view; training goes on", "freeze", "look", False, 20),
    Key(("/",), "filter", "/", "show only layers with some text in their name", "filter", "look", False, 30),
    Key(("y",), "log", "y", "logarithmic scale of the loss", "log", "look", False, 31),
    Key(("0",), "rescale", "0", "new scales, without the earlier curves", "", "look"),
    Key(("tab", "down", "j"), "move(1)", "tab down j", "next layer", "", "move"),
    Key(("shift+tab", "up", "k"), "move(-1)", "up k", "previous layer", "", "move"),
    Key(("pagedown",), "move(10)", "pgdn", "ten layers on", "", "move"),
    Key(("pageup",), "move(-10)", "pgup", "ten layers back", "", "move"),
    Key(("home",), "move(-100000)", "home", "first layer", "", "move"),
    Key(("end",), "move(100000)", "end", "last layer", "", "move"),
    Key(("right", "l"), "turn(1)", "right l", "next screen", "", "move"),
    Key(("left", "h"), "turn(-1)", "left h", "previous screen", "", "move"),
    Key(("enter",), "enlarge", "enter", "enlarge the layer under the cursor", "enlarge", "move", False, 21),
    Key(("escape",), "back", "esc", "back to the dashboard; close what is open", "", "move"),
    Key(("D",), "screen('doctor')", "D", "the doctor's advice; enter applies it", "doctor", "look", False, 22),
    Key(("e",), "explain", "e", "explain what is on the screen", "explain", "look", False, 23),
    Key(
        ("P",),
        "screen('presets')",
        "P",
        "the lectures' experiments; enter starts one",
        "experiments",
        "look",
        False,
        24,
    ),
    Key(("1",), "screen('dashboard')", "1", "the dashboard", "", "look"),
    Key(("2",), "screen('layer')", "2", "one layer enlarged", "", "look"),
    Key(("3",), "screen('gradients')", "3", "gradients through depth and time", "", "look"),
    Key(("4",), "screen('weights')", "4", "every weight; update:data over time", "", "look"),
    Key(("5",), "screen('dead-map')", "5", "dead units: units × examples", "", "look"),
    Key(("6",), "screen('backward')", "6", "every gradient by hand against autograd", "", "look"),
    Key(("7",), "screen('twin')", "7", "the twin beside this run, layer by layer", "", "look"),
    Key(("8",), "screen('find-lr')", "8", "learning-rate finder; enter takes its suggestion", "", "look"),
    Key(("B",), "screen('batchnorm')", "B", "BatchNorm looked into, with a slider", "", "look"),
    Key(("i",), "screen('gain')", "i", "gain looked into: the spread through any depth", "", "look"),
    Key(("s",), "picture", "s", "save a picture of the screen (SVG)", "picture", "look", False, 43),
    Key(("?", "9"), "screen('help')", "?", "this help", "help", "look", False, 4),
    Key(("d",), "detach", "d", "leave; training goes on in the background", "detach", "look", False, 26),
    Key(("q", "ctrl+c"), "ask_quit", "q", "quit; asks what becomes of the run", "quit", "look", False, 5),
    Key(("ctrl+z",), "suspend_process", "ctrl-z", "back to the shell, training stops too; fg returns", "", "look"),
)

GROUPS = (("train", "Training"), ("change", "The net"), ("move", "Moving"), ("look", "Looking"))

# Two keys of one thing, written as one in the footer.
PAIRS = {"gain(1)": "g/G", "lr(1)": "-/+", "pace(1)": "</>"}


def bindings() -> Iterator[Binding]:
    """One binding for every key of the table; they come before anything that has the focus."""
    for key in KEYS:
        for name in key.keys:
            yield Binding(name, key.action, key.help, show=False, priority=True)


def footer(readonly: bool) -> list[tuple[str, str]]:
    """(key, word) in the order in which they are given up on a narrow screen, the last first."""
    chosen = sorted((key for key in KEYS if key.short and not (readonly and key.changes)), key=lambda key: key.rank)
    return [(PAIRS.get(key.action, key.shown), key.short) for key in chosen]
