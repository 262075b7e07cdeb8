"""`e` explains: what the panel in focus shows, with the numbers that it shows now, in the lectures' words."""

from __future__ import annotations

from app import glyphs as glyph
from app.views.lines import Line, heading
from app.views.state import View, hint, selected
from makemore_core.doctor import LIMITS

COLUMNS: dict[str, str] = {
    "activation": "A histogram of the layer's outputs for one minibatch, one scale for all rows.",
    "std": "The spread of those numbers. It should be about the same in every row; each row smaller than the one "
    "above means that the gain is too small.",
    "saturated": "The share in the flat region, where the slope is near 0 and the gradient stops.",
    "gradient": "The derivative of the loss by those outputs, and its std. The same in every row: every "
    "layer hears about the loss alike. Growing or shrinking: some learn too fast, others not at all.",
    "grad:data": "The gradient's std over the weights' own: how large a step along it would be for the weights.",
    "update:data": "The same for the step that was really taken, as log10. The guide is -3: a thousandth of the "
    f"weights. Above {LIMITS['updates_large']:g} the weights are thrown about (the last layer's may be faster), "
    f"below {LIMITS['updates_small']:g} training crawls: - and + change lr.",
    "loss": "Of minibatches, smoothed. ln V is what the uniform guess costs; a first loss far above it is a net "
    "that is confidently wrong.",
}

# By the kind of the layer: of a healthy histogram, and of what saturated means; those above hold for any kind.
KINDS: dict[str, tuple[str, str]] = {
    "tanh": (
        "A tanh layer at ease fills -1..1; piled up at the ends it is saturated, a narrow peak in the middle is faded.",
        (
            "The share beyond |tanh| 0.97, where the slope 1 - t*t is near 0 and the gradient stops. 5 % is healthy "
            "at the start, up to 20 % in the first layer; learning raises it."
        ),
    ),
    "sigmoid": (
        "A sigmoid layer at ease fills 0..1; piled up at the ends it is saturated, a narrow peak at 0.5 is faded.",
        "The share within 0.015 of 0 or 1, where the slope is near 0 and the gradient stops.",
    ),
    "relu": (
        "A relu layer at ease has half of it at 0, and the rest falls off from there.",
        "The share that is off, where the slope is 0 and no gradient passes: half of all by symmetry.",
    ),
    "elu": (
        "An elu layer ends at -1; piled up there it is saturated.",
        "The share below -0.97, where the slope is near 0 and the gradient stops.",
    ),
    "leakyrelu": ("", "A leaky relu has no flat region, so there is nothing to saturate."),
    "identity": ("", "A linear layer has no flat region, so there is nothing to saturate."),
}

# What stands above the screens that are called something else.
TITLES = {
    "dead-map": "dead units", "backward": "backward by hand", "find-lr": "learning rate", "batchnorm": "BatchNorm",
    "presets": "experiments",
}  # fmt: skip

SCREENS: dict[str, str] = {
    "dead-map": "Each column is a unit, each row of dots an example; ink where the unit is flat, so that no gradient "
    "passes. A column that is all ink is a unit that no example of this minibatch reaches; it is dead only if no "
    "example of the whole training split does, and then nothing brings it back while what comes in stays as it is.",
    "backward": "The gradient of the loss by every intermediate result, worked out by hand, against autograd's: "
    "largest is its largest entry, off by the largest difference. Exact means equal bit for bit, close equal but for "
    "rounding. Backward goes from the bottom up: each formula makes a gradient out of dout, the one by what comes "
    "next. Part 4 takes a net with one hidden layer and BatchNorm apart into 26 pieces, 25 without b1, the bias that "
    "BatchNorm makes useless; any other net goes brick by brick.",
    "batchnorm": "In training BatchNorm uses the mean and std of the minibatch, so that what the net says of an "
    "example depends on its company: a regulariser by accident. In evaluation it uses running statistics, which have "
    "to be near those of all the data, or the losses differ.",
    "gain": "Weights divided by the root of fan-in keep a spread of 1 through a linear layer. A nonlinearity squeezes "
    "it, and the gain makes up for that: 5/3 for tanh. Too small a gain fades with depth, too large a one saturates, "
    "or explodes where nothing bounds it. One curve for each gain: the std behind each layer of a fresh net without a "
    "norm, fed with normal numbers; settles is the last layer's, PyTorch's is torch.nn.init.calculate_gain.",
    "find-lr": "A copy of the net is trained for a thousand steps, each at a slightly larger rate. At the bottom of "
    'the valley, before it rises, the rate is good: "try" marks it, "now" the rate of this run. Where it rises, the '
    "rate is too large. Where there is no valley the net has learnt too much to tell.",
    "layer": "One layer enlarged. Above, what it gives and the gradient there, as densities: in colour now, grey at "
    "the first update, so that a drift shows. Piled up at the ends it is saturated, a narrow peak in the middle is "
    "faded. Below, the same over the run: level is healthy.",
    "gradients": "The gradient that reaches each layer, through the depth and over time. Lines that stay together: "
    "every layer hears about the loss alike. Lines that part: the early layers learn at another pace than the late "
    "ones. The last columns are times the median layer's std, and times the layer's own in the first snapshot seen.",
    "weights": "Every weight with the size of its gradient and of its updates against its own. The guide for "
    "update:data is -3; one weight far above the others is a layer that takes too large steps.",
    "twin": "Two nets that differ in what stands above the right one and in nothing else: same seed, same minibatches. "
    "What differs on the screen comes from that.",
    "presets": "The experiments of the lectures, in their order. Starting one restarts the run with its settings; the "
    "curve so far stays as a ghost.",
    "help": "Every key and what it does, then what the columns and numbers of the dashboard mean. The keys that a "
    "screen has of its own are on its last line.",
    "doctor": "Findings are read off the same numbers that the screen shows. Their limits are the lectures', "
    "or, where these give none, measured on nets that learn; ? names those that mark a number with !.",
}


def about(view: View) -> str:
    """The screen that was left for this one."""
    return str(view.options.get("explained", "dashboard"))


def text(view: View, width: int) -> list[Line]:
    """What the screen that was left for this one shows."""
    g, what = view.glyphs, about(view)
    lines: list[Line] = [heading("explained", TITLES.get(what, what), width, g)]
    if what in SCREENS:
        for words in (SCREENS[what], _as_it_is(view, what)):
            lines += [[(" " + g.text(line), "")] for line in glyph.wrap(words, width - 2) if words]
    else:
        now = _now(view)
        for name, words in _columns(view).items():
            value = now.get(name, "")
            for at, line in enumerate(glyph.wrap(words, max(10, width - 22))):
                label = f" {name if at == 0 else '':12s}{value if at == 0 else '':>7s}"
                lines.append([(label, "title" if at == 0 else ""), ("  " + g.text(line), "")])
    return [*lines, [], hint("D doctor  esc back", view)]


def _as_it_is(view: View, what: str) -> str:
    """What there is to add about a screen that does not apply to this net."""
    snapshot = view.history.snapshot
    config = snapshot.config if snapshot else {}
    if what == "twin" and view.history.twin is None:
        return "There is no twin yet: t asks in what it is to differ."
    if what == "batchnorm" and config.get("norm", "batch") != "batch":
        return "This net has no BatchNorm, so that only the slider and the spread have something to show: b puts it in."
    if what == "gain" and config.get("fan_in", "on") == "off":
        return "This net does not divide its weights by the root of fan-in, so its gain means another thing: f."
    return ""


def _columns(view: View) -> dict[str, str]:
    """What the columns show of a layer of the kind under the cursor, or else of the net's."""
    row, snapshot = selected(view), view.history.snapshot
    kind = row.layer.layer.kind if row and row.layer else str(snapshot.config.get("nonlinearity")) if snapshot else ""
    healthy, saturated = KINDS.get(kind.lower().replace("_", ""), ("", ""))
    own = {"activation": f"{COLUMNS['activation']} {healthy}", "saturated": saturated or COLUMNS["saturated"]}
    return COLUMNS | own


def _now(view: View) -> dict[str, str]:
    """The numbers of the row under the cursor."""
    row, snapshot, now = selected(view), view.history.snapshot, dict[str, str]()
    if snapshot is not None and snapshot.smoothed_loss is not None:
        now["loss"] = glyph.fixed(snapshot.smoothed_loss, 6, 3).strip()
    if row is not None and row.layer is not None:
        layer = row.layer.layer
        now |= {
            "activation": f"row {layer.index}", "std": glyph.fixed(layer.activation.std, 6, 2).strip(),
            "saturated": glyph.percent(layer.activation.saturated).strip(),
            "gradient": glyph.scientific(layer.gradient.std),
        }  # fmt: skip
    if row is not None and row.weight is not None:
        weight = row.weight.weight
        now |= {
            "grad:data": glyph.scientific(weight.grad_data_ratio),
            "update:data": glyph.fixed(weight.update_data_log10, 4, 1, glyphs=view.glyphs).strip(),
        }  # fmt: skip
    return now
