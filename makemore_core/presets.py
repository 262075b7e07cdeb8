"""The experiments of the lectures as configurations, each with what it shows and what to look at."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from makemore_core.config import Config, Value, check_twin, pair, shown


class Preset(NamedTuple):
    """An experiment: what differs from the default configuration, what it shows, what to look at."""

    changes: Mapping[str, Value]
    shows: str
    look_at: str

    @property
    def paused(self) -> bool:
        """Whether what there is to see is there after the first update, and soon trained away."""
        # by what people are told, so that it is what is done
        return self.look_at.startswith("paused at the start")

    def config(self) -> Config:
        """The whole configuration."""
        return Config().replace(self.changes)


DEFAULT = "deep-batchnorm"

_MLP: dict[str, Value] = {
    "n_layer": 1, "n_hidden": 200, "norm": "none", "norm_output": False, "bias": "on", "bias_drawn": True,
    "gain": 1.0, "fan_in": "off", "last_shrink": 1.0, "bias_init": 1.0, "last_bias_init": 1.0, "lr_decay_at": 100_000,
}  # fmt: skip
_MLP_SOFTMAX = _MLP | {"last_shrink": 0.01, "last_bias_init": 0.0}
_MLP_TANH = _MLP_SOFTMAX | {"gain": 0.2, "bias_init": 0.01}
_MLP_KAIMING = _MLP_TANH | {"fan_in": "hidden", "gain": 5 / 3}
_MLP_BATCHNORM = _MLP_KAIMING | {"norm": "batch", "norm_momentum": 0.001, "bias": "auto"}
_DEEP: dict[str, Value] = {"norm": "none", "norm_output": False, "gain": 5 / 3}
_FIFTY = _DEEP | {"n_layer": 50}

PRESETS: dict[str, Preset] = {
    "mlp-original": Preset(
        _MLP,
        "one hidden layer as first written, every parameter straight from randn: confidently wrong",
        "the first loss, far above ln V, and the saturation of the one tanh layer",
    ),
    "mlp-softmax": Preset(
        _MLP_SOFTMAX,
        "the last layer made small: the first guess is nearly uniform",
        "the first loss at ln V; the tanh layer is as saturated as before",
    ),
    "mlp-tanh": Preset(
        _MLP_TANH,
        "the first weights made small by hand: the tanh units let gradients through",
        "the saturation meter, and the gradient that reaches the first weights",
    ),
    "mlp-kaiming": Preset(
        _MLP_KAIMING,
        "the scale taken from theory: 5/3 over the square root of fan-in",
        "saturation higher than by hand, the loss as good",
    ),
    "mlp-batchnorm": Preset(
        _MLP_BATCHNORM,
        "BatchNorm before the tanh: the scale of the weights no longer matters",
        "b takes BatchNorm out; g and G change the gain with and without it",
    ),
    "deep-tanh": Preset(
        _DEEP,
        "six layers, tanh between them, gain 5/3: activations keep their spread through the depth",
        "paused at the start: std near 0.65 and saturation near 5 % in every layer but the first",
    ),
    "deep-tanh-gain1": Preset(
        _DEEP | {"gain": 1.0},
        "gain 1 is too small for tanh: each layer squeezes the spread",
        "paused at the start: activation std and saturation shrinking from layer to layer",
    ),
    "deep-tanh-gain3": Preset(
        _DEEP | {"gain": 3.0},
        "gain 3 is too large: every layer saturates",
        "paused at the start: histograms piled up at -1 and 1, gradients uneven through the depth",
    ),
    "deep-tanh-gain05": Preset(
        _DEEP | {"gain": 0.5},
        "gain 0.5: activations die out with depth",
        "paused at the start: activations shrink and gradients grow downwards, the first layer hears least",
    ),
    "deep-linear": Preset(
        _DEEP | {"nonlinearity": "identity"},
        "no nonlinearity at gain 5/3: nothing squeezes, so everything grows",
        "paused at the start, as it soon diverges: activation std growing with depth, gradient std shrinking",
    ),
    "deep-linear-gain1": Preset(
        _DEEP | {"nonlinearity": "identity", "gain": 1.0},
        "no nonlinearity at gain 1: both directions keep their spread",
        "paused at the start: the same std in every row, forward and backward",
    ),
    "deep-no-fanin": Preset(
        _DEEP | {"fan_in": "off"},
        "weights straight from randn: no division by the square root of fan-in",
        "saturated everywhere, and update:data uneven from weight to weight",
    ),
    "deep-slow": Preset(
        _DEEP | {"lr": 0.001},
        "a learning rate a hundred times too small",
        "update:data far under its guide line, for every weight but the last, which was made small",
    ),
    "deep-batchnorm": Preset(
        {},
        "the six-layer net with BatchNorm: robust from the first step",
        "every row alike: std 0.65 and about 2 % saturated in the first thousand steps",
    ),
    "deep-batchnorm-gain02": Preset(
        {"gain": 0.2},
        "BatchNorm with a gain of 0.2: the activations do not notice",
        "activations as before; only update:data moves up",
    ),
    "deep-batchnorm-no-fanin": Preset(
        {"fan_in": "off"},
        "BatchNorm without fan-in division: well behaved all the same",
        "activations as before; update:data well under -3",
    ),
    "deep-batchnorm-no-fanin-lr1": Preset(
        {"fan_in": "off", "lr": 1.0},
        "the same with ten times the learning rate, which brings the updates back",
        "update:data near -3 again",
    ),
    "deep-batchnorm-after": Preset(
        {"norm_place": "after"},
        "BatchNorm behind the tanh, where it does not hold what goes into it: the loss is nearly the same",
        "saturation, which grows as the net learns, against the default",
    ),
    "fifty-layers-gain1": Preset(
        _FIFTY | {"gain": 1.0},
        "fifty tanh layers at gain 1: the signal fades",
        "paused at the start: std about 0.1 in the last layers (end: there), no saturation below the first",
    ),
    "fifty-layers": Preset(
        _FIFTY,
        "fifty tanh layers at gain 5/3: the spread settles and stays",
        "paused at the start: std near 0.65 all the way down, about 5 % saturated",
    ),
    "fifty-layers-batchnorm": Preset(
        {"n_layer": 50},
        "fifty layers with BatchNorm: the activations are held, the gradients are not quite",
        "paused at the start: gradient std through the depth, also on screen 3",
    ),
    "fifty-layers-residual": Preset(
        {"n_layer": 50, "residual": True},
        "fifty layers with BatchNorm and residual connections: the gradient has a way around",
        "paused at the start: gradient std through the depth against fifty-layers-batchnorm",
    ),
}


OF_THE_RUN = ("steps", "seed", "device", "engine")  # and not of an experiment


@functools.cache
def settings_of(name: str) -> dict[str, Value]:
    """What a preset says of the net and its training. Raises ValueError where there is none of that name."""
    return {key: value for key, value in preset(name).config().as_dict().items() if key not in OF_THE_RUN}


def preset_of(settings: Mapping[str, Value]) -> str | None:
    """The preset that these are the settings of, if there is one."""
    return next(
        (name for name in PRESETS if all(settings.get(key) == value for key, value in settings_of(name).items())), None
    )


def preset(name: str) -> Preset:
    """The preset of that name. Raises ValueError, with the nearest spelling, where there is none."""
    if name not in PRESETS:
        import difflib

        near = difflib.get_close_matches(name.lower(), PRESETS, n=1)
        raise ValueError(f"{name}: no such preset; " + (f"did you mean {near[0]}?" if near else "see makemore presets"))
    return PRESETS[name]


def goes_by(preset: str | None, settings: Mapping[str, Value]) -> tuple[str, list[str]]:
    """The preset that the settings of a run are by now, or that they are nearest to, and what differs from it.

    The one that it began with is kept unless another is nearer by two settings.
    """
    return _goes_by(preset, tuple(settings.items()))


@functools.lru_cache(8)
def _goes_by(preset: str | None, settings: tuple[tuple[str, Value], ...]) -> tuple[str, list[str]]:
    if preset not in PRESETS:
        return preset or "own settings", []
    now = dict(settings)
    different = {
        name: [one for one, value in settings_of(name).items() if now.get(one) != value] for name in (preset, *PRESETS)
    }
    nearest = min(different, key=lambda name: len(different[name]))
    far = len(different[preset]) > len(different[nearest]) + 1 or not different[nearest]
    name = nearest if far else preset
    return name, [f"{one} {shown(now[one])}" for one in different[name] if one in now]


def twin_changes(config: Config, words: Sequence[str]) -> dict[str, Value]:
    """In what a twin differs: `KEY=VALUE` settings, or presets, whose every difference counts. Raises ValueError."""
    twin = config
    for word in words:
        twin = twin.replace(dict([pair(word)]) if "=" in word else settings_of(word))
    changes = config.changes_to(twin)
    if words and not changes:
        raise ValueError(f"{' '.join(words)}: differs in nothing from the run itself")
    check_twin(config, twin)
    return changes
