"""Every knob of a training run, once: frozen, validated and documented, and cheap to import (no torch)."""

from __future__ import annotations

import contextlib
import functools
import math
import re
from collections.abc import Collection, Mapping
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

Value: TypeAlias = int | float | bool | str

Nonlinearity: TypeAlias = Literal["tanh", "relu", "leaky_relu", "elu", "sigmoid", "identity"]
Norm: TypeAlias = Literal["none", "batch", "layer", "group"]
Optimizer: TypeAlias = Literal["sgd", "momentum", "rmsprop", "adam", "adamw"]

THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+")
SWITCH = {"on": True, "true": True, "yes": True, "1": True, "off": False, "false": False, "no": False, "0": False}


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What is trained and how; the defaults are the six-layer BatchNorm net of lecture part 3.

    Raises ValueError, naming the field, the value and what is allowed.
    """

    n_layer: Annotated[
        int,
        Meta(
            description="hidden layers; the output layer comes on top (the lecture's six-layer net has 5)", ge=1, le=100
        ),
    ] = 5
    n_hidden: Annotated[int, Meta(description="units in each hidden layer", ge=1, le=16384)] = 100
    n_embd: Annotated[int, Meta(description="dimensions of a character's embedding", ge=1, le=4096)] = 10
    block_size: Annotated[int, Meta(description="characters of context", ge=1, le=256)] = 3
    nonlinearity: Annotated[Nonlinearity, Meta(description="after each hidden layer")] = "tanh"
    residual: Annotated[bool, Meta(description="add each hidden layer's input to its output (from the second on)")] = (
        False
    )

    norm: Annotated[Norm, Meta(description="normalisation of each hidden layer")] = "batch"
    norm_place: Annotated[Literal["before", "after"], Meta(description="before or after the nonlinearity")] = "before"
    norm_output: Annotated[bool, Meta(description="normalise the logits too")] = True
    norm_variance: Annotated[
        Literal["lecture", "pytorch"],
        Meta(description="BatchNorm normalises by the unbiased variance (lecture) or the biased one (pytorch)"),
    ] = "lecture"
    norm_momentum: Annotated[float, Meta(description="of BatchNorm's running statistics", ge=0.0, le=1.0)] = 0.1
    norm_eps: Annotated[float, Meta(description="added to the variance", ge=0.0, le=1.0)] = 1e-5
    norm_groups: Annotated[int, Meta(description="groups of GroupNorm; has to divide n_hidden", ge=1, le=16384)] = 10

    gain: Annotated[
        float | Literal["auto"],
        Meta(description="multiplies all weights but the last layer's; auto: PyTorch's gain for the nonlinearity"),
    ] = 1.0
    fan_in: Annotated[
        Literal["on", "hidden", "off"],
        Meta(description="divide initial weights by sqrt(fan_in): every layer, the hidden ones only, or none"),
    ] = "on"
    last_shrink: Annotated[
        float, Meta(description="multiplies the last layer's weight at the start, or its gamma where it is normalised")
    ] = 0.1
    bias: Annotated[
        Literal["auto", "on", "off"], Meta(description="biases of Linear; auto: none where a norm follows directly")
    ] = "auto"
    bias_init: Annotated[float, Meta(description="standard deviation of the hidden biases at the start", ge=0.0)] = 0.0
    last_bias_init: Annotated[float, Meta(description="standard deviation of the output bias at the start", ge=0.0)] = (
        0.0
    )
    bias_drawn: Annotated[
        bool,
        Meta(
            description="biases are drawn from the generator even where their scale is 0, as the one-layer lecture does"
        ),
    ] = False

    optimizer: Annotated[Optimizer, Meta(description="how gradients become updates")] = "sgd"
    lr: Annotated[float, Meta(description="learning rate", gt=0.0, le=1e6)] = 0.1
    lr_decay: Annotated[float, Meta(description="the learning rate is multiplied by this", gt=0.0, le=1.0)] = 0.1
    lr_decay_at: Annotated[int, Meta(description="from this step on; 0: never", ge=0, le=10**12)] = 150_000
    momentum: Annotated[float, Meta(description="of momentum", ge=0.0, lt=1.0)] = 0.9
    beta1: Annotated[float, Meta(description="of adam and adamw", ge=0.0, lt=1.0)] = 0.9
    beta2: Annotated[float, Meta(description="of adam, adamw; rmsprop's alpha (torch: 0.99)", ge=0.0, lt=1.0)] = 0.999
    optimizer_eps: Annotated[float, Meta(description="of rmsprop, adam and adamw", gt=0.0, le=1.0)] = 1e-8
    weight_decay: Annotated[float, Meta(description="of adamw", ge=0.0, le=1.0)] = 0.01

    batch_size: Annotated[int, Meta(description="examples in a minibatch", ge=1, le=1_000_000)] = 32
    steps: Annotated[int, Meta(description="updates of the whole run", ge=0, le=10**12)] = 200_000
    seed: Annotated[int, Meta(description="of the weights and the minibatches", ge=0, le=2**63 - 1)] = 2_147_483_647
    device: Annotated[Literal["auto", "cpu", "cuda"], Meta(description="where the net is trained")] = "auto"
    engine: Annotated[
        Literal["auto", "plain", "fast", "manual"],
        Meta(
            description="plain: the lecture's order of operations; fast: compiled; manual: by hand; auto: fast if able"
        ),
    ] = "auto"

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            _checked(name, getattr(self, name))
        if self.norm == "group" and self.n_hidden % self.norm_groups:
            raise ValueError(
                f"norm_groups={self.norm_groups}: has to divide n_hidden={self.n_hidden} without a remainder"
            )

    def lr_at(self, step: int) -> float:
        """The learning rate of the update number `step`, counted from 0."""
        return self.lr * self.lr_decay if self.lr_decay_at and step >= self.lr_decay_at else self.lr

    def replace(self, changes: Mapping[str, Value]) -> Config:
        """A copy with some fields changed; values may be text, as they come from a command line or a socket.

        Raises ValueError for an unknown field or a value that is not allowed.
        """
        return msgspec.structs.replace(self, **{field(name): parse(name, value) for name, value in changes.items()})

    def as_dict(self) -> dict[str, Value]:
        """Plain values by field name, in the order of the fields."""
        return {name: getattr(self, name) for name in self.__struct_fields__}

    def changes_to(self, after: Config) -> dict[str, Value]:
        """The fields in which `after` differs, with its values."""
        before = self.as_dict()
        return {name: value for name, value in after.as_dict().items() if value != before[name]}


def check_twin(config: Config, twin: Config) -> None:
    """Raises ValueError, in one line, where two nets could not be trained in lock-step."""
    if twin.batch_size != config.batch_size:
        raise ValueError(f"batch_size={twin.batch_size}: a twin sees the same minibatches, {config.batch_size} each")
    if twin.steps != config.steps:
        raise ValueError(f"steps={twin.steps}: a twin takes the same steps, {config.steps:,}")


# Fields that only the coming updates read: a change never needs a restart.
LIVE_FIELDS = frozenset(
    {"lr", "lr_decay", "lr_decay_at", "momentum", "beta1", "beta2", "optimizer_eps", "weight_decay", "batch_size"}
    | {"steps", "norm_momentum"}
)
# Fields that can also be applied to weights that have been trained already; all others need a new net.
LIVE_IF_ASKED_FIELDS = frozenset({"norm", "gain", "fan_in", "nonlinearity", "optimizer"})


def keeps_weights(fields: Collection[str], live: bool) -> bool:
    """Whether a net goes on with its weights where these fields change; `live`: that is asked for."""
    return set(fields) <= (LIVE_FIELDS | LIVE_IF_ASKED_FIELDS if live else LIVE_FIELDS)


@functools.cache
def _types() -> dict[str, tuple[object, object, tuple[Value, ...], Meta]]:
    """For each field its type with its limits, the plain one, the words it allows, and the limits by themselves."""
    import typing

    table: dict[str, tuple[object, object, tuple[Value, ...], Meta]] = {}
    for name, hint in typing.get_type_hints(Config, include_extras=True).items():
        inner, meta = typing.get_args(hint)
        parts = typing.get_args(inner) if typing.get_origin(inner) is not Literal else (inner,)
        words = tuple(w for p in (parts or (inner,)) if typing.get_origin(p) is Literal for w in typing.get_args(p))
        plain = next((p for p in (parts or (inner,)) if p in (int, float, bool)), str)
        table[name] = (hint, plain, words, meta)
    return table


def field(name: str) -> str:
    """The field that `name` means. Raises ValueError, with the nearest spelling, where there is none."""
    if name not in _types():
        import difflib

        near = difflib.get_close_matches(name.lower(), _types(), n=1)
        hint = f"; did you mean {near[0]}?" if near else "; `makemore settings` lists them"
        raise ValueError(f"{_clipped(name)}: no such setting{hint}")
    return name


def describe(name: str) -> str:
    """What the field is for, in one line."""
    return _types()[name][3].description or ""


def allowed(name: str) -> str:
    """What the field takes, in words for people."""
    _, plain, words, meta = _types()[name]
    if plain is bool:
        return "on or off"
    kind = {int: "a whole number", float: "a number"}.get(plain, "")  # type: ignore[call-overload]
    limits = [
        f"{word} {limit:g}" if isinstance(limit, float) else f"{word} {limit:,}"
        for word, limit in (
            ("at least", meta.ge),
            ("above", meta.gt),
            ("at most", meta.le),
            ("below", meta.lt),
        )
        if limit is not None
    ]
    kind = " ".join(filter(None, [kind, " and ".join(limits)]))
    return " or ".join(filter(None, [kind, ", ".join(map(str, words))]))


def pair(text: str) -> tuple[str, str]:
    """Name and value of `KEY=VALUE`. Raises ValueError where it is none."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (name and equals):
        raise ValueError(f"{text}: has to be KEY=VALUE")
    return name, value


def parse(name: str, value: Value) -> Value:
    """The value of a field from text or from a plain value; checked. Raises ValueError."""
    name = field(name)
    _, plain, words, _ = _types()[name]
    parsed: Value = value
    if isinstance(value, str):
        text = value.strip().lower()
        if text in words:
            parsed = text
        else:
            with contextlib.suppress(ValueError, KeyError, ZeroDivisionError):  # what it is not, the check below says
                if plain is bool:
                    parsed = SWITCH[text]
                elif plain is int:
                    parsed = int(text.replace(",", "") if THOUSANDS.fullmatch(text) else text)
                elif plain is float:
                    over, slash, under = text.partition("/")  # 5/3, as the lecture writes its gain
                    parsed = float(over) / float(under) if slash else float(text)
    elif isinstance(value, bool) and "on" in words:  # a switch that has more than two positions
        parsed = "on" if value else "off"
    return _checked(name, parsed)


def _checked(name: str, value: Value) -> Value:
    """The value, a whole number as a float where the field is one. Raises ValueError."""
    with contextlib.suppress(ValueError, OverflowError):  # one error for all of them, below
        checked: Value = msgspec.convert(value, _types()[name][0])
        if not isinstance(checked, float) or math.isfinite(checked):
            return checked
    raise ValueError(f"{name}={_clipped(value)}: has to be {allowed(name)}")


def shown(value: Value) -> str:
    """A setting as people write it: on, off, 0.1, tanh; a gain of 5/3 as the lecture does."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return "5/3" if abs(value - 5 / 3) < 1e-9 else f"{value:.4g}"
    return str(value)


def decayed(config: Mapping[str, Value], step: int) -> str:
    """That the learning rate in force at a step is not the one set, to be said after it; nothing where it is."""
    if not config.keys() >= {"lr", "lr_decay", "lr_decay_at"}:
        return ""
    now = Config().replace({name: config[name] for name in ("lr", "lr_decay", "lr_decay_at")})
    return "" if now.lr_at(step) == now.lr else f"; decayed by now to {shown(now.lr_at(step))}"


def _clipped(value: object) -> str:
    """A value from anywhere, on one short line."""
    text = printable(str(value)) if not isinstance(value, int) or abs(value) < 10**20 else "a huge number"
    return text if len(text) <= 60 else f"{text[:59]}…"


def is_utf8(text: str) -> bool:
    """Whether text that may come from the names of files can be written down."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def printable(text: str, most: int | None = None) -> str:
    """Text from anywhere, on one line that no terminal obeys: what is not to be seen is spelt out. Cut at `most`."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:most])[:most]
